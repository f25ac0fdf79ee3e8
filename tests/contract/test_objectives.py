"""What every objective must satisfy."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, RenyiELBO
from torch import nn

from guides import MeanFieldGuide, Minibatch, ModelError, OptionError
from ppl_models import OffsetGaussian
from ppl_models import objectives as family
from ppl_models.objectives import ELBO, IWAE, Objective
from tests.contract.problems import AMORTISED, GLOBAL, PROBLEMS, SEQUENTIAL
from tests.contract.registry import OBJECTIVES, OWN, wide

STANDARD_ERRORS = 5.0


@pytest.fixture(params=OBJECTIVES)
def make(request):
    return OBJECTIVES[request.param]


@pytest.fixture(params=PROBLEMS)
def problem(request):
    return PROBLEMS[request.param]()


#: Those that draw all particles in one run, and those that change when and how they are drawn and nothing else.
AT_ONCE = [name for name, make in OBJECTIVES.items() if make(2).vectorize_particles and make(2).chunk_size is None]
PIECEWISE = [name for name in OBJECTIVES if name not in AT_ONCE]


def losses(objective, model, guide, *args, repeats):
    with pyro.validation_enabled(False):
        values = torch.tensor([objective.loss(model, guide, *args) for _ in range(repeats)])
    return values.mean().item(), values.std().item() / math.sqrt(repeats)


def test_registry_is_the_public_family():
    public = {c for c in map(vars(family).get, family.__all__) if isinstance(c, type) and issubclass(c, Objective)}
    assert {type(make(2)) for make in OBJECTIVES.values()} == public - {Objective}


def test_it_is_a_module_a_number_and_a_pyro_loss(make, problem):
    objective, guide = make(3), wide(problem.model, problem.encoder).setup(*problem.args)
    module = objective(problem.model, guide)
    assert isinstance(module, nn.Module)
    loss = module(*problem.args)
    assert loss.shape == ()
    assert loss.requires_grad
    pyro.set_rng_seed(0)
    expected = module(*problem.args).item()
    pyro.set_rng_seed(0)
    assert objective.loss(problem.model, guide, *problem.args) == pytest.approx(expected)
    pyro.set_rng_seed(0)
    assert SVI(problem.model, guide, pyro.optim.Adam({"lr": 0.01}), objective).step(*problem.args) == pytest.approx(
        expected
    )


def test_loss_and_grads_adds_the_gradient_of_the_loss(make, problem):
    objective, guide = make(3), wide(problem.model, problem.encoder).setup(*problem.args)
    pyro.set_rng_seed(0)
    objective.loss_and_grads(problem.model, guide, *problem.args)
    added = [p.grad.clone() for p in guide.parameters()]
    pyro.set_rng_seed(0)
    loss = objective.differentiable_loss(problem.model, guide, *problem.args)
    for have, want in zip(added, torch.autograd.grad(loss, list(guide.parameters())), strict=True):
        torch.testing.assert_close(have, want)


@pytest.mark.parametrize("name", AT_ONCE)
def test_it_is_never_above_the_evidence(name, problem):
    # Many particles and few repeats: the bounds are then close to the evidence, and an excess of less is seen.
    guide = wide(problem.model, problem.encoder)
    mean, error = losses(OBJECTIVES[name](32), problem.model, guide, *problem.args, repeats=60)
    assert -mean <= problem.log_evidence.sum().item() + STANDARD_ERRORS * error


@pytest.mark.parametrize(("name", "guide"), [(name, guide) for name in OWN for guide in OWN[name]])
def test_elbo_and_iwae_hold_with_guides_that_belong_to_one_model(name, guide):
    problem = SEQUENTIAL[name]()
    made, exact = OWN[name][guide](problem.model), problem.log_evidence.sum().item()
    elbo, error = losses(ELBO(num_particles=64), problem.model, made, *problem.args, repeats=8)
    iwae, its_error = losses(IWAE(num_particles=64), problem.model, made, *problem.args, repeats=8)
    assert -elbo <= -iwae + STANDARD_ERRORS * math.hypot(error, its_error)
    assert -iwae <= exact + STANDARD_ERRORS * its_error
    assert exact + elbo > 0.02, "the gap would be too small to see which bound is which"
    assert exact + iwae < 0.5 * (exact + elbo)


@pytest.mark.parametrize("name", PIECEWISE)
def test_drawn_piece_by_piece_it_is_the_bound_of_the_same_log_weights(name, problem):
    objective, guide = OBJECTIVES[name](5), wide(problem.model, problem.encoder).setup(*problem.args)
    looped = not objective.vectorize_particles
    pyro.set_rng_seed(0)
    runs = [family.log_weights(problem.model, guide, *problem.args, num_particles=1 if looped else 5).values
            for _ in range(5 if looped else 1)]  # fmt: skip
    pyro.set_rng_seed(0)
    loss = objective.loss(problem.model, guide, *problem.args)
    assert loss == pytest.approx(-objective.bound(torch.cat(runs)).sum().item(), rel=1e-10)


def test_it_is_the_evidence_at_the_exact_posterior(make):
    problem = GLOBAL["offset_gaussian"]()
    posterior = problem.model.exact_posterior(*problem.args)
    guide = MeanFieldGuide(problem.model).setup(*problem.args)
    guide.loc.data, guide.log_scale.data = posterior.loc.detach(), posterior.scale.log().detach()
    loss = make(5).loss(problem.model, guide, *problem.args)
    assert loss == pytest.approx(-problem.log_evidence.item(), abs=1e-10)


def test_a_minibatch_of_independent_data_is_scaled_as_a_whole(make):
    problem = AMORTISED["linear_vae"]()
    guide, (x,) = wide(problem.model, problem.encoder), problem.args
    pyro.set_rng_seed(0)
    plain = make(4).loss(problem.model, guide, x[:1])
    pyro.set_rng_seed(0)
    with Minibatch(len(x)):
        scaled = make(4).loss(problem.model, guide, x[:1])
    assert scaled == pytest.approx(len(x) * plain)


def test_a_minibatch_under_shared_latents_scales_the_likelihood_alone():
    problem = GLOBAL["offset_gaussian"]()
    guide, (x,) = wide(problem.model, None), problem.args
    pyro.set_rng_seed(0)
    with Minibatch(3):
        scaled = family.log_weights(problem.model, guide, x[:1]).values
    pyro.set_rng_seed(0)
    repeated = family.log_weights(problem.model, guide, x[:1].expand(3, -1)).values
    torch.testing.assert_close(scaled, repeated)
    with Minibatch(3), pytest.raises(ModelError, match="IWAE needs all data .* plate 'data'"):
        family.IWAE(num_particles=2).loss(problem.model, guide, x[:1])


def subsampling_model(x):
    with pyro.plate("data", len(x), subsample_size=2) as rows:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])


class AffineEncoder(nn.Module):
    """Not quite the exact posterior N(x / 2, 1 / 2) of the subsampling model."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        return torch.stack([x / 2 + self.shift, torch.full_like(x, -0.2)], -1)


SUBSAMPLED_X = torch.tensor([-3.0, -1.0, 0.5, 2.0, 3.5, -2.0, 1.0, 4.0], dtype=torch.float64)


def test_subsampled_plates_stay_below_the_evidence(make):
    # Data of nearly one size in x: it is their signs that tell whether model and guide look at the same ones.
    x = torch.tensor([-2.1, 1.9, 2.1, -1.9, 1.9, -2.1, 2.1, -1.9])
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(x).sum().item()
    guide = MeanFieldGuide(subsampling_model, encoder=AffineEncoder())
    mean, error = losses(make(8), subsampling_model, guide, x, repeats=50)
    assert error < 0.25
    assert exact - 2.5 <= -mean <= exact + STANDARD_ERRORS * error, "below: the scale is wrong the other way"


def test_pyro_s_renyi_bound_exceeds_the_evidence_there():
    # The reason for taking the mean per datum before scaling: Pyro scales inside the exponential.
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(SUBSAMPLED_X).sum().item()
    guide = MeanFieldGuide(subsampling_model, encoder=AffineEncoder()).setup(SUBSAMPLED_X)
    found = []
    for objective in (RenyiELBO(alpha=0.0, num_particles=8, vectorize_particles=True), family.IWAE(num_particles=8)):
        mean, error = losses(objective, subsampling_model, guide, SUBSAMPLED_X, repeats=800)
        found.append((-mean, error))
    (pyro_s, pyro_error), (ours, our_error) = found
    assert exact == pytest.approx(-22.00, abs=0.005)
    # Over 12,000 draws each: Pyro's -20.88 +- 0.07, ours -22.08 +- 0.07.
    assert pyro_s == pytest.approx(-20.88, abs=4 * pyro_error)
    assert ours == pytest.approx(-22.08, abs=4 * our_error)
    assert ours <= exact + STANDARD_ERRORS * our_error
    assert pyro_s > exact + 3 * pyro_error


def test_pyro_s_renyi_bound_reports_12_where_the_evidence_is_16():
    # As it comes: its particles are drawn in a loop, and each looks at a minibatch of its own.
    def guide(x):
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            pyro.sample("z", dist.Normal(x[rows] / 2, 0.985))

    x = 1.5 * torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float32).double()
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(x).sum().item()
    found = []
    for objective in (RenyiELBO(alpha=0.0, num_particles=6), family.IWAE(num_particles=6)):
        values = torch.tensor([-objective.loss(subsampling_model, guide, x) for _ in range(200)])
        found.append((values.mean().item(), values.std().item() / math.sqrt(len(values))))
    (pyro_s, pyro_error), (ours, our_error) = found
    assert exact == pytest.approx(-16.61, abs=0.005)
    assert pyro_s == pytest.approx(-12.17, abs=4 * pyro_error)
    assert pyro_s > exact + 10 * pyro_error
    assert ours <= exact + STANDARD_ERRORS * our_error


def loops(x):
    for i in pyro.plate("data", len(x), subsample_size=2):
        z = pyro.sample(f"z_{i}", dist.Normal(0.0, 1.0))
        pyro.sample(f"x_{i}", dist.Normal(z, 1.0), obs=x[i])


def guide_of_loops(x):
    for i in pyro.plate("data", len(x), subsample_size=2):
        pyro.sample(f"z_{i}", dist.Normal(x[i] / 2, 0.9))


def test_minibatches_of_loops_give_no_number_above_the_evidence(make):
    objective = make(4)
    if isinstance(objective, family.ELBO):
        assert math.isfinite(objective.loss(loops, guide_of_loops, SUBSAMPLED_X))
        return
    with pytest.raises(ModelError, match="or plates are loops; got a minibatch of the plate 'data'"):
        objective.loss(loops, guide_of_loops, SUBSAMPLED_X)


def test_plates_may_be_deeper_for_the_next_arguments(make):
    problem = GLOBAL["offset_gaussian"]()
    (x,), used = problem.args, make(3)
    guide = wide(problem.model, None).setup(x)
    used.loss(problem.model, guide, problem.model.summarise(x))
    losses = []
    for objective in (used, make(3)):
        pyro.set_rng_seed(0)
        losses.append(objective.loss(problem.model, guide, x))
    assert losses[0] == pytest.approx(losses[1])


def test_plates_may_be_deeper_for_the_next_model(make):
    objective = make(3)
    shallow, deep = GLOBAL["offset_gaussian"](), AMORTISED["linear_vae"]()
    for problem in (shallow, deep, shallow):
        guide = wide(problem.model, problem.encoder)
        assert math.isfinite(objective.loss(problem.model, guide, *problem.args))


@pytest.mark.parametrize("number", [0, -1, 2.5, True])
def test_a_wrong_number_of_particles_is_refused(make, number):
    with pytest.raises(OptionError, match="num_particles must be a whole number of at least 1"):
        make(number)


def test_an_unknown_option_is_refused(make):
    with pytest.raises(TypeError, match="num_particle"):
        type(make(2))(*[0.5] * (type(make(2)) is family.VRIWAE), num_particle=3)


def test_float32_models_work(make):
    gaussian = OffsetGaussian(2).float()
    loss = make(3).loss(gaussian, MeanFieldGuide(gaussian), torch.zeros(3, 2, dtype=torch.float32))
    assert math.isfinite(loss)
