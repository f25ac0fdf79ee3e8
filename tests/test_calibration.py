"""calibration: exact guides pass, wrong ones are found out and said to be wrong how, and failures are counted."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import binom, kstest
from torch import nn

from guides import HamiltonianGuide, MeanFieldGuide
from guides.errors import DataError, ModelError, OptionError
from ppl_models import OffsetGaussian
from ppl_models.diagnostics import Refit, calibration
from ppl_models.diagnostics.calibration import _by_chance, ranks_of
from ppl_models.diagnostics.refits import refitted
from ppl_models.diagnostics.uniformity import UniformRanks, asymmetry
from ppl_models.objectives import ELBO


def regression(x, w=None):
    """Independent data with covariates: z ~ N(0, 1), x | z ~ N(w z, 1)."""
    w = torch.ones(len(x)) if w is None else w
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(w * z, 1.0), obs=x)


class Exact(nn.Module):
    """The posterior of ``regression``, its means shifted and its sds stretched."""

    def __init__(self, shift=0.0, stretch=1.0):
        super().__init__()
        self.shift, self.stretch = shift, stretch

    def forward(self, x, w=None):
        w = torch.ones(len(x)) if w is None else w
        sd = (1 + w.square()) ** -0.5
        return torch.stack([w * x * sd.square() + self.shift * sd, (self.stretch * sd).log()], -1)


def counts(x):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Poisson(rate), obs=x)


def counts_guide(x):
    pyro.sample("rate", dist.Gamma(2.0 + x.sum(), 1.0 + len(x)))


def offset(dim=2):
    return OffsetGaussian(dim, scale=1.5).requires_grad_(False)


# ------------------------------------------------------------------------------------------------------------ ranks


def test_ranks_are_those_of_the_values_and_ties_are_broken_by_chance():
    values = torch.tensor([[3.0], [1.0], [2.0]])[:, :, None]
    assert ranks_of(values)[:, 0, 0].tolist() == [2, 0, 1]
    tied = ranks_of(torch.zeros(5, 4000, 1))
    assert (tied.sort(0).values == torch.arange(5)[:, None, None]).all()
    assert kstest(tied[0, :, 0].numpy() + np.random.default_rng(0).random(4000), lambda u: u / 5).pvalue > 1e-4
    half = ranks_of(torch.tensor([1.0, 0.0, 1.0, 2.0])[:, None, None].expand(-1, 4000, 1))[0]
    assert set(half.flatten().tolist()) == {1, 2}


def test_the_least_tail_is_that_of_the_binomial_law_and_its_p_values_are_uniform():
    law, generator = UniformRanks(30, 19), np.random.default_rng(0)
    ranks = generator.integers(0, 20, (30, 1))
    expected = min(
        2 * min(binom.cdf(c, 30, k / 20), binom.sf(c - 1, 30, k / 20))
        for k, c in ((k, (ranks < k).sum()) for k in range(1, 20))
    )
    assert law.least_tail(law.counts(ranks))[0] == pytest.approx(min(1.0, expected), rel=1e-12)
    many = law.least_tail(law.counts(generator.integers(0, 20, (30, 1000))))
    assert kstest(law.p_value(many), "uniform").pvalue > 1e-3
    # Two ranks of 0 or 1 are equal half of the time: what is as unlikely counts.
    assert UniformRanks(2, 1).p_value(np.array([0.5]))[0] == pytest.approx(0.5, abs=0.02)


def test_counts_are_inside_the_band_where_their_tails_are_larger():
    law = UniformRanks(40, 9)
    low, high = law.band(0.05)
    counts = law.counts(np.random.default_rng(0).integers(0, 10, (40, 300)))
    below = counts.cumsum(-1)[:, :-1]
    inside = ((below >= low) & (below <= high)).all(-1)
    assert 0.5 < inside.mean() < 1
    assert (inside == (law.least_tail(counts) > 0.05)).all()


@pytest.mark.parametrize("num_draws", [19, 20])
def test_symmetric_ranks_are_told_from_shifted_ones(num_draws):
    generator = np.random.default_rng(0)
    law = UniformRanks(200, num_draws)
    wide = law.counts(np.where(generator.random((200, 300)) < 0.5, 3, num_draws - 3))
    assert kstest(asymmetry(wide, generator), "uniform").statistic < 0.15  # a discrete law
    shifted = law.counts(generator.integers(0, num_draws - 4, (200, 1)))
    assert asymmetry(shifted, generator)[0] <= 0.001


def test_the_p_value_of_many_quantities_is_uniform_however_they_depend():
    """Five quantities, of which four are the same: a correction by their number would give p-values too large."""
    found = []
    for _ in range(200):
        values = torch.randn(20, 50, 2)
        ranks = ranks_of(torch.cat([values, values[..., :1].expand(-1, -1, 3).exp()], -1))
        law = UniformRanks(50, 19)
        by_chance = _by_chance([ranks], torch.randint(20, (199, 50)))
        smallest = law.least_tail(law.counts(ranks[0].numpy())).min()
        found.append((1 + (by_chance <= smallest).sum()) / 200)
    assert kstest(found, "uniform").pvalue > 1e-3


# -------------------------------------------------------------------------------------- guides that read the data


def test_an_exact_guide_is_calibrated():
    x, w = torch.zeros(7), torch.linspace(0.2, 3, 7)
    found = calibration(regression, MeanFieldGuide(regression, encoder=Exact()), x, w, seed=0)
    assert (found.method, found.num_simulations, found.num_failed) == ("SBC", 1000, 0)
    assert found.quantities == ["z", "log p(x | z)"]
    assert found.p_value > 0.01
    assert found.table.asymmetry.min() > 0.01
    z = found.table.loc["z"]
    assert abs(z["shift"]) < 4 * z.shift_error
    assert abs(z.spread - 1) < 4 * z.spread_error
    exact = found.coverage.loc["z"]
    assert exact.nominal.tolist() == pytest.approx([0.5, 0.8, 0.9, 0.95])
    assert ((exact.low < exact.nominal) & (exact.nominal < exact.high)).all()


@pytest.mark.parametrize(
    ("shift", "stretch", "says"),
    [(0, 0.8, "too narrow"), (0, 1.25, "too wide"), (0.3, 1, "too high"), (-0.3, 1, "too low")],
)
def test_a_wrong_guide_is_rejected_and_said_to_be_wrong_in_what_way(shift, stretch, says):
    guide = MeanFieldGuide(regression, encoder=Exact(shift, stretch))
    found = calibration(regression, guide, torch.zeros(50), num_simulations=1000, seed=0)
    assert found.p_value < 0.01
    (row,) = (line for line in str(found).splitlines() if line.startswith("z "))
    assert row.rstrip().endswith(f"  {says}")
    assert (found.table.loc["z"].asymmetry < 0.01) == bool(shift)
    # How often a normal interval of sds of its own holds a standard normal number.
    for wanted, row in found.coverage.loc["z"].iterrows():
        reach = stretch * dist.Normal(0, 1).icdf(torch.tensor(0.5 + wanted / 2)).item()
        truth = dist.Normal(shift, 1.0).cdf(torch.tensor([-reach, reach])).diff().item()
        assert abs(row.observed - truth) < 4.5 * math.sqrt(truth * (1 - truth) / 1000) + 0.005


def test_a_guide_that_does_not_look_at_the_data_is_found_out_by_the_likelihood():
    def prior(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    found = calibration(regression, prior, torch.zeros(10), refit=False, seed=0)
    assert found.table.loc["z"].p_value > 0.01
    assert found.table.loc["log p(x | z)"].adjusted < 0.01


def test_latents_that_all_data_share_are_simulated_with_all_their_data():
    x = torch.tensor([3.0, 0.0, 2.0])
    found = calibration(counts, counts_guide, x, num_simulations=200, refit=False, seed=0)
    assert found.num_simulations == 200
    assert found.p_value > 0.01
    one = calibration(counts, counts_guide, x, num_simulations=19, num_draws=19, refit=False, vectorize_particles=False)
    assert one.num_failed == 0


def test_discrete_latents_are_ranked_with_ties_broken_by_chance():
    def coins(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(2 * k, 1.0), obs=x)

    def guide(x, wrong=0.0):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(logits=math.log(0.3 / 0.7) + 2 * x - 2 + wrong))

    x = torch.zeros(10)
    assert calibration(coins, guide, x, refit=False, seed=0).p_value > 0.01
    assert calibration(coins, lambda x: guide(x, 1.0), x, refit=False, seed=0).p_value < 0.01


def test_the_same_seed_gives_the_same_ranks_and_nothing_is_changed():
    guide = MeanFieldGuide(regression, encoder=Exact())
    state = torch.get_rng_state()
    one, two, other = (calibration(regression, guide, torch.zeros(5), num_simulations=50, seed=s) for s in (0, 0, 1))
    assert (torch.get_rng_state() == state).all()
    assert one.to_dataframe().equals(two.to_dataframe())
    assert not one.to_dataframe().equals(other.to_dataframe())


# -------------------------------------------------------------------------------- guides fitted to each data set


def posteriors_of(sets):
    """The exact posteriors of an offset Gaussian's data sets."""
    exact = [offset().exact_posterior(x) for (x,) in sets]
    return torch.stack([law.mean for law in exact]), torch.stack([law.stddev for law in exact])


@pytest.mark.parametrize("batched", [True, False])
def test_each_fit_is_that_of_its_own_data(batched):
    model = offset()
    guide = MeanFieldGuide(model).setup(torch.zeros(5, 2))
    before = [p.detach().clone() for p in guide.parameters()]
    sets = [(3 * torch.randn(5, 2),) for _ in range(10 if batched else 2)]
    how = Refit(steps=200, lr=0.1, batched=batched)
    found = refitted(model, guide, sets, how, most=4)
    assert found.how == ("3 batched fits" if batched else "one by one (as asked for)")
    mean, sd = posteriors_of(sets)
    assert torch.allclose(found.parameters["loc"], mean, atol=0.01)
    assert torch.allclose(found.parameters["log_scale"].exp(), sd, rtol=0.02)
    assert all(torch.equal(p, old) and p.requires_grad for p, old in zip(guide.parameters(), before, strict=True))


def test_a_batched_fit_draws_its_own_noise_for_each():
    """Of the same data, after one step: the gradient differs from fit to fit."""
    model = offset()
    guide = MeanFieldGuide(model).setup(torch.zeros(5, 2))
    how = Refit(steps=2, lr=0.1, objective=ELBO())
    found = refitted(model, guide, [(torch.ones(5, 2),)] * 4, how, most=10)
    assert len(found.parameters["log_scale"].unique(dim=0)) == 4


def test_a_converged_fit_is_calibrated_and_one_stopped_early_is_not():
    model, x = offset(), torch.zeros(10, 2)
    how = Refit(steps=200, lr=0.1)
    found = calibration(model, MeanFieldGuide(model), x, num_simulations=150, refit=how, seed=0)
    assert (found.method, found.how, found.num_failed) == ("VSBC", "one batched fit", 0)
    assert found.p_value > 0.01
    early = calibration(
        model, MeanFieldGuide(model), x, num_simulations=150, refit=Refit(steps=5, lr=0.1), seed=0, num_draws=99
    )
    assert early.p_value < 0.01


def test_guides_that_cannot_be_mapped_are_fitted_one_by_one_and_the_result_says_so(caplog):
    model = offset(1)
    guide = HamiltonianGuide(model, num_steps=1)
    found = calibration(model, guide, torch.zeros(3, 1), num_simulations=19, num_draws=19, refit=Refit(steps=2), seed=0)
    assert found.how.startswith("one by one (RuntimeError")
    assert "one after the other" in caplog.text
    assert "one by one" in str(found)


def test_a_recipe_starts_anew_each_time_or_returns_a_guide_of_its_own():
    model, x = OffsetGaussian(1, scale=1.5), torch.zeros(4, 1)
    guide = MeanFieldGuide(model).setup(x)
    starts = []

    def in_place(model, guide, x):
        starts.append(guide.loc.item())
        assert not any(p.requires_grad for p in model.parameters())
        exact = model.exact_posterior(x)
        guide.loc.data, guide.log_scale.data = exact.mean, exact.stddev.log()

    def another(model, guide, x):
        exact = model.exact_posterior(x)
        return lambda x: pyro.sample("z", exact.to_event(1))

    for recipe in (in_place, another):
        found = calibration(model, guide, x, num_simulations=100, num_draws=99, refit=recipe, seed=0)
        assert (found.method, found.how) == ("VSBC", "a recipe for each")
        assert found.p_value > 0.01
    assert all(p.requires_grad for p in model.parameters())
    assert len(starts) == 100
    assert set(starts) == {0.0}
    assert guide.loc.item() == 0.0


def test_parameters_in_the_store_are_put_back():
    def guide(x):
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(1)), 1.0).to_event(1))

    starts = []

    def recipe(model, guide, x):
        guide(x)
        starts.append(pyro.param("loc").item())
        pyro.param("loc").data += 1.0

    calibration(offset(1), guide, torch.zeros(4, 1), num_simulations=19, num_draws=19, refit=recipe, seed=0)
    assert set(starts) == {0.0}
    assert pyro.get_param_store()["loc"].item() == 0.0
    pyro.clear_param_store()


# -------------------------------------------------------------------------------------------------- what fails


@pytest.mark.parametrize("batched", [True, False])
def test_fits_that_diverge_are_counted_and_shown(batched):
    def sometimes(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, torch.where(x > 1, math.nan, 1.0)), obs=x)

    model, x = sometimes, torch.zeros(3)
    guide = MeanFieldGuide(model).setup(x)
    how = Refit(steps=4, max_skipped=2, batched=batched)
    sets = [(torch.full((3,), v),) for v in (0.0, 2.0, 0.5)]
    found = refitted(model, guide, sets, how, most=10)
    assert list(found.failed) == [1]
    assert found.failed[1].startswith("more than 2 non-finite steps" if batched else "ValueError: Expected parameter")
    assert torch.equal(found.parameters["loc"][1], guide.loc)
    assert all(value.isfinite().all() for value in found.parameters.values())


def test_a_step_that_is_skipped_moves_nothing_though_there_is_momentum():
    def steep(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, torch.where(z > 0.25, math.nan, 1.0)), obs=x)

    guide = MeanFieldGuide(steep, init_scale=1e-3).setup(torch.zeros(3))
    how = Refit(steps=10, lr=0.1, schedule="constant", objective=ELBO())
    found = refitted(steep, guide, [(torch.full((3,), 5.0),), (torch.zeros(3),)], how, most=2)
    assert 0.2 < found.parameters["loc"][0].item() < 0.35


def test_failed_simulations_have_no_rank_and_are_shown():
    def recipe(model, guide, x):
        if x[0, 0] > 1:
            raise ModelError("no mode was found")
        exact = model.exact_posterior(x)
        guide.loc.data, guide.log_scale.data = exact.mean, exact.stddev.log()

    model = offset(1)
    found = calibration(
        model, MeanFieldGuide(model), torch.zeros(3, 1), num_simulations=60, num_draws=19, refit=recipe, seed=0
    )
    number = found.num_failed
    assert 0 < number < 40
    assert found.failures == {"ModelError: no mode was found": number}
    assert f"{number} of 60 simulations failed: ModelError" in str(found)
    assert (found.ranks["z"] == -1).all(-1).sum() == number
    assert found.to_dataframe().isna().all(axis=1).sum() == number
    assert found.to_arviz()["prior_sbc"].sizes["draw"] == 60 - number

    def never(model, guide, x):
        raise ModelError("no")

    with pytest.raises(ModelError, match="at least 19 simulations must come to an end; of 20 0 did. .* ModelError: no"):
        calibration(model, MeanFieldGuide(model), torch.zeros(3, 1), num_simulations=20, refit=never)


def test_draws_that_are_not_finite_are_failures():
    class Broken(Exact):
        def forward(self, x, w=None):
            return super().forward(x).masked_fill((x > 1)[:, None], math.nan)

    found = calibration(regression, MeanFieldGuide(regression, encoder=Broken()), torch.zeros(5), seed=0)
    assert found.failures == {"draws or densities that are not finite": found.num_failed}
    assert abs(found.num_failed / 1000 - (1 - dist.Normal(0, 2**0.5).cdf(torch.tensor(1.0)))) < 0.06


# ------------------------------------------------------------------------------------------------ data as arguments


def test_simulated_data_go_where_the_observed_ones_were():
    """Covariates stay, whatever their place; data that are made from an argument need to be told."""
    x, w = torch.zeros(6), torch.linspace(0.2, 3, 6)

    def swapped(w, x):
        regression(x, w)

    def guide(w, x):
        with pyro.plate("data", len(x)):
            sd = (1 + w.square()) ** -0.5
            pyro.sample("z", dist.Normal(w * x * sd.square(), sd))

    assert calibration(swapped, guide, w, x, refit=False, num_simulations=300, seed=0).p_value > 0.01

    def scaled(w, x):
        regression(x / 2, w)

    def of_scaled(w, x):
        guide(w, x / 2)

    with pytest.raises(DataError, match="'x' must be one of the arguments.*got 0 that hold them. Write replace="):
        calibration(scaled, of_scaled, w, x + 1, refit=False)
    options = {"refit": False, "num_simulations": 300, "seed": 0}
    found = calibration(scaled, of_scaled, w, x + 1, replace=lambda args, data: (args[0], 2 * data["x"]), **options)
    assert found.p_value > 0.01
    with pytest.raises(DataError, match="the model must observe them; site 'x' does not"):
        calibration(scaled, of_scaled, w, x + 1, replace=lambda args, data: (args[0], data["x"]), **options)
    with pytest.raises(DataError, match="got 2 that hold them"):
        calibration(lambda y, x: regression(x + 0.0), lambda y, x: guide(y, x), w, w.clone(), refit=False)


def test_models_that_cannot_draw_their_data_are_refused():
    def factor(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        pyro.factor("f", -z.square())

    def improper(x):
        z = pyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def shared(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 3):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(0.0, 1.0))

    def unobserved(x):
        guide(x)

    for model, says in (
        (factor, "able to draw its data; got a factor of its density, 'f'"),
        (unobserved, "must observe data; got none"),
        (shared, r"of 'x' it observes shape \(1,\) and draws \(3,\). Give it one value for each"),
    ):
        with pytest.raises(ModelError, match=says):
            calibration(model, guide, torch.zeros(1), refit=False)
    with pytest.raises(ModelError, match="prior cannot be drawn from: one of its laws is improper"):
        calibration(improper, guide, torch.zeros(()), refit=False)
    with pytest.raises(ModelError, match="guide must draw every latent of the model; got none for 'z'"):
        calibration(shared, lambda x: None, torch.zeros(()), refit=False)


def test_options_are_checked():
    model, x = offset(1), torch.zeros(3, 1)
    guide = MeanFieldGuide(model)
    with pytest.raises(OptionError, match="num_simulations must be .* at least 19; got 10. Fewer can show nothing"):
        calibration(model, guide, x, num_simulations=10)
    with pytest.raises(OptionError, match="num_draws must be .* at least 19"):
        calibration(model, guide, x, num_draws=1)
    with pytest.raises(OptionError, match="refit must be given for guides of other kinds"):
        calibration(model, lambda x: None, x)
    with pytest.raises(OptionError, match="the guide must be a module; got function"):
        calibration(model, lambda x: pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1)), x, refit=True)
    with pytest.raises(TypeError, match="refit must be True, False, a Refit or a function; got 3"):
        calibration(model, guide, x, refit=3)
    with pytest.raises(OptionError, match="steps must be"):
        Refit(steps=0)
    with pytest.raises(TypeError, match="objective must be an Objective"):
        Refit(objective=3)


# ------------------------------------------------------------------------------------------------------ the result


def test_results_can_be_read_plotted_and_kept():
    model = offset()
    options = {"num_simulations": 40, "num_draws": 39, "refit": Refit(steps=30, lr=0.1), "seed": 0}
    found = calibration(model, MeanFieldGuide(model), torch.zeros(4, 2), **options)
    frame = found.to_dataframe()
    assert list(frame) == found.quantities == ["z[0]", "z[1]", "log p(x | z)"]
    assert frame.shape == (40, 3)
    assert found.ranks["z"].shape == (40, 2)
    assert (frame["z[1]"].to_numpy(int) == found.ranks["z"][:, 1].numpy()).all()
    assert found.p_value == found.table.adjusted.min()
    assert repr(found).startswith("Calibration(VSBC, p_value=")
    for container in ("inference_data", "datatree"):
        tree = found.to_arviz(container=container)
        values = tree["prior_sbc"]["z"].values
        assert values.shape == (1, 40, 2)
        assert np.allclose(values[0], (found.ranks["z"].numpy() + 0.5) / 40)
        assert tree["prior_sbc"].attrs["num_failed"] == 0
    ax = found.plot_ecdf()
    _, *curves = ax.get_lines()
    assert [line.get_label() for line in curves] == found.quantities
    assert np.allclose(curves[0].get_ydata(), [(frame["z[0]"] < k).mean() - k / 40 for k in range(41)])
    (one,) = found.plot_ecdf(["z[1]"], level=0.5).get_lines()[1:]
    assert np.array_equal(one.get_ydata(), curves[1].get_ydata())
    plt.close("all")
    with pytest.raises(OptionError, match="quantities must be among z\\[0\\], .*; got 'y'"):
        found.plot_ecdf(["y"])


def test_an_ecdf_leaves_the_band_where_the_p_value_is_small():
    for seed in range(6):
        guide = MeanFieldGuide(regression, encoder=Exact(0.15))
        found = calibration(regression, guide, torch.zeros(5), num_simulations=100, num_draws=19, seed=seed)
        for level in (0.5, 0.9, 0.95):
            ax = found.plot_ecdf(level=level)
            corners = ax.collections[0].get_paths()[0].vertices
            places = np.arange(1, 20) / 20
            low, high = (
                np.array([reach(corners[np.isclose(corners[:, 0], x), 1]) for x in places])
                for reach in (np.min, np.max)
            )
            below = [line.get_ydata()[1:-1] for line in ax.get_lines()[1:]]
            outside = any(((y < low - 1e-9) | (y > high + 1e-9)).any() for y in below)
            assert outside == (found.p_value <= 1 - level + 1e-9)
            plt.close("all")
