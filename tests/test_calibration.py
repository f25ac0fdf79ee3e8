"""calibration: exact guides pass, wrong ones are found out and said to be wrong how, and failures are counted."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import binom, kstest
from torch import nn

from guides import MeanFieldGuide
from ppl_models import OffsetGaussian
from ppl_models.diagnostics import calibration
from ppl_models.diagnostics.calibration import _by_chance, ranks_of
from ppl_models.diagnostics.uniformity import UniformRanks, asymmetry


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
    assert says in str(found).splitlines()[3] + str(found).splitlines()[4]
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
