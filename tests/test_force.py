"""The force along a trajectory: clear words where it is lost, in a call and in training."""

from __future__ import annotations

import logging

import pyro
import pyro.distributions as dist
import pytest
import torch

from guides import AnnealedGuide, DivergedError, GuideList, HamiltonianGuide, MeanFieldGuide
from ppl_models.objectives import ELBO, log_weights
from ppl_models.training import fit

FAMILIES = {"hamiltonian": HamiltonianGuide, "annealed": AnnealedGuide}


def pole(x, centre=0.0):
    """Two latents; the second is drawn to the edge of a ball of radius 3, beyond which its density is not a number."""
    pyro.sample("calm", dist.Normal(centre, 4.0))
    wild = pyro.sample("wild", dist.Normal(centre, 1.0))
    with pyro.plate("data", len(x)):
        mean = (9 - (wild - centre).square()).log()
        pyro.sample("x", dist.Normal(mean, 1.0, validate_args=False), obs=x)


def vanishing(x):
    """A scale that is 0 in floating point where its latent is large: torch refuses the distribution itself."""
    width = pyro.sample("width", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(0.0, (-width.square()).exp()), obs=x)


def guide_of(family, model, num_steps=4, **options):
    options = {"init_step_size": 0.45, **options}
    base = MeanFieldGuide(model, init_scale=0.3)
    return FAMILIES[family](model, base=base, num_steps=num_steps, **options)


X = torch.full((1000,), -4.0, dtype=torch.float64)


def words(error):
    """What an error says, and those it comes from."""
    while error is not None:
        yield str(error)
        error = error.__cause__


@pytest.mark.parametrize("particles", [1, 50])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_force_that_is_no_number_is_named(family, particles):
    guide = guide_of(family, pole).setup(X)
    with torch.no_grad():
        guide.base.loc[0] = 1e4  # the other latent is farther out, with a force that is a number
    with pytest.raises(DivergedError) as error:
        log_weights(pole, guide, X, num_particles=particles)
    message = str(error.value)
    assert f"the force of {type(guide).__name__} must be finite; it is not in step" in message
    assert "of 4, with step size 0.45" in message
    assert "'wild'" in message
    assert "Lower init_step_size and max_step_size" in message
    assert "guide.setup(..., init='laplace')" in message
    assert isinstance(error.value, RuntimeError)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_validation_it_is_not_looked_at(family):
    guide = guide_of(family, pole).setup(X)
    with pyro.validation_enabled(False):
        values = log_weights(pole, guide, X, num_particles=50).values
    assert not torch.isfinite(values).all()


@pytest.mark.parametrize(("family", "lost"), [("hamiltonian", 3), ("annealed", 4)])
def test_the_step_is_the_first_one_lost(family, lost):
    # Steps of their own sizes: the first two hardly move, the third is too long. Where a step ends with a drift, it is
    # the next one that finds the force lost.
    guide = guide_of(family, pole, step_size_per_step=True, init_step_size=0.4, max_step_size=0.9).setup(X)
    with torch.no_grad():
        guide.steps.logit[:2] = -12.0
        guide.steps.logit[2:] = 8.0
        guide.base.loc[1] = 2.0
        guide.base.log_scale.fill_(-3.0)
    with pytest.raises(DivergedError, match=f"not in step {lost} of 4, with step size 0.9"):
        log_weights(pole, guide, X, num_particles=200)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_distribution_that_cannot_be_made_on_the_way_is_a_divergence(family):
    x = torch.zeros(1000)  # which draw the scale to 0
    guide = guide_of(family, vanishing).setup(x)
    with pytest.raises(DivergedError, match="in step [1-4] of 4, .* 'width', at .* .unconstrained.") as error:
        log_weights(vanishing, guide, x, num_particles=20)
    assert any("Expected parameter scale" in text for text in words(error.value))
    with pyro.validation_enabled(False):
        log_weights(vanishing, guide, x, num_particles=20)


@pytest.mark.parametrize("family", FAMILIES)
def test_errors_of_the_model_stay_what_they_are(family):
    broken = []

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        if broken:
            raise ValueError("an error of the model's own")
        pyro.sample("x", dist.Normal(z, 1.0).expand([len(x)]).to_event(1), obs=x)

    guide = guide_of(family, model).setup(X)
    broken.append(True)
    with pytest.raises(ValueError, match="an error of the model's own"):
        guide(X)


@pytest.mark.parametrize("family", FAMILIES)
def test_wrong_parameters_at_the_very_start_are_the_model_s_error(family):
    broken = []

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, -1.0 if broken else 1.0).expand([len(x)]).to_event(1), obs=x)

    guide = guide_of(family, model).setup(X)
    broken.append(True)
    with pytest.raises((ValueError, DivergedError)) as error:
        guide(X)
    assert any("Expected parameter scale" in text for text in words(error.value))


@pytest.mark.parametrize("family", FAMILIES)
def test_training_counts_lost_trajectories_and_says_where(family, caplog):
    guide = guide_of(family, pole, init_step_size=0.001).setup(X)
    result = fit(pole, guide, X, steps=3, progress=False, seed=0)
    assert result.skipped == 0
    with torch.no_grad():
        guide.steps.logit.fill_(8.0)
        before = [p.clone() for p in guide.parameters()]
    with caplog.at_level(logging.WARNING), pytest.raises(DivergedError) as error, pyro.validation_enabled(False):
        fit_without_first_look(guide)
    message = str(error.value)
    assert message.startswith("training stopped at step 2: loss")
    assert f"the force of {type(guide).__name__} must be finite; it is not in step" in message
    assert "'wild'" in message
    assert "3 steps were skipped, max_skipped=2" in message
    assert sum("skipped step" in record.message for record in caplog.records) == 3
    assert all(torch.equal(a, b) for a, b in zip(before, guide.parameters(), strict=True))


def fit_without_first_look(guide):
    """Data that are calm in the first, validated look at the parameters, and wild from then on."""
    looks = []

    class Calm(ELBO):
        def loss(self, model, guide, *args, **kwargs):
            looks.append(True)
            return 0.0

    return fit(pole, guide, X, steps=5, objective=Calm(num_particles=20), max_skipped=2, progress=False, seed=0)


def test_a_member_of_a_list_says_which_it_is():
    shared = MeanFieldGuide(pole, expose=["calm"])
    guide = GuideList(pole, [shared, HamiltonianGuide(pole, hide=["calm"], num_steps=3, init_step_size=0.45)]).setup(X)
    with torch.no_grad():
        guide.members[1].base.loc.fill_(2.9)
    with pytest.raises(DivergedError, match="the force of HamiltonianGuide .* in step . of 3.* 'wild'"):
        log_weights(pole, guide, X, num_particles=50)


@pytest.mark.parametrize("family", FAMILIES)
def test_units_of_the_words_are_the_model_s(family):
    # Whitened: the value named is that of the unconstrained latent.
    def model(x):
        pole(x, centre=1000.0)

    guide = guide_of(family, model)
    guide.setup(X, init={"calm": torch.tensor(1000.0), "wild": torch.tensor(1000.5)})
    with pytest.raises(DivergedError, match=r"'wild', at (9\d\d|1\.?\d*e\+03) .unconstrained"):
        log_weights(model, guide, X, num_particles=20)
