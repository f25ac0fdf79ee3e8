"""evidence: unbiased in both directions, and the exact value between its ends, for every guide."""

from __future__ import annotations

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import autoguide

from guides import DataError, MeanFieldGuide, ModelError, OptionError
from guides.noise import NoiseTape
from ppl_models import VAE, OffsetGaussian
from ppl_models.diagnostics import Bound, evidence
from ppl_models.diagnostics.annealing import Moves, Points, Schedule, adapt, anneal, reverse, sigmoid_schedule
from ppl_models.diagnostics.noise_space import NoiseSpace
from ppl_models.diagnostics.normal_space import NormalSpace
from ppl_models.networks import MLPDecoder
from ppl_models.reference import nuts
from tests.contract.problems import AMORTISED, GLOBAL, PROBLEMS
from tests.contract.registry import GUIDES, wide

SMALL = {"num_temperatures": 8, "num_leapfrog": 3, "num_particles": 4, "num_batches": 12}


def gives_the_evidence(log_weights, log_evidence):
    """The mean weight is the evidence, within five standard errors."""
    ratios = (log_weights - log_evidence).exp()
    return ((ratios.mean(0) - 1).abs() < 5 * ratios.std(0) / len(ratios) ** 0.5).all()


# ------------------------------------------------------------------------------------------------------------ the noise


@pytest.mark.parametrize("problem", ["groups", "linear_vae"])
@pytest.mark.parametrize("name", GUIDES)
def test_every_guide_is_a_function_of_its_noise(name, problem):
    problem = PROBLEMS[problem]()
    space = NoiseSpace(
        problem.model, GUIDES[name](problem.model, problem.encoder), problem.args, vectorize_particles=True
    )
    noise = space.draw(3000)
    assert gives_the_evidence(space.log_weight(noise).detach(), problem.log_evidence)
    # Each datum's gradient is its own, and that of the value.
    point, direction = noise[:2].requires_grad_(), torch.randn_like(noise[:2])
    (slope,) = torch.autograd.grad(space.log_weight(point).sum(), point)
    ahead, behind = (space.log_weight(point.detach() + h * direction).detach() for h in (1e-5, -1e-5))
    torch.testing.assert_close((slope * direction).sum(-1), (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-5)


def test_batched_and_looped_are_the_same_function():
    problem = PROBLEMS["groups"]()
    guide = GUIDES["planar"](problem.model, None).setup(*problem.args)
    batched, looped = (NoiseSpace(problem.model, guide, problem.args, vectorize_particles=v) for v in (True, False))
    noise = batched.draw(3)
    torch.testing.assert_close(batched.log_weight(noise), looped.log_weight(noise))


def log_normal_guide(counts):
    pyro.sample("rate", dist.LogNormal(torch.tensor(0.5), 0.6))


AUTOGUIDES = {
    "normal": lambda model: autoguide.AutoNormal(model, init_scale=0.5),
    "multivariate": lambda model: autoguide.AutoMultivariateNormal(model, init_scale=0.5),
    "low-rank": lambda model: autoguide.AutoLowRankMultivariateNormal(model, rank=1, init_scale=0.5),
    "by hand": lambda model: log_normal_guide,
}


@pytest.mark.parametrize("name", AUTOGUIDES)
def test_guides_of_others_are_functions_of_their_noise(name):
    problem = GLOBAL["gamma_poisson"]()
    with pyro.get_param_store().scope(), torch.no_grad():
        guide = AUTOGUIDES[name](problem.model)
        guide(*problem.args)
        space = NoiseSpace(problem.model, guide, problem.args, vectorize_particles=True)
        assert gives_the_evidence(space.log_weight(space.draw(20_000)), problem.log_evidence)


def test_correlated_laws_keep_their_covariance():
    factor, diagonal = torch.tensor([[1.0], [-0.5]]), torch.tensor([0.3, 0.7])
    low_rank = dist.LowRankMultivariateNormal(torch.zeros(2), factor, diagonal)
    full = dist.MultivariateNormal(torch.zeros(2), scale_tril=torch.tensor([[1.0, 0.0], [0.8, 0.2]]))
    for law in (low_rank, full):
        with NoiseTape(), pyro.plate("draws", 40_000):
            values = pyro.sample("z", law)
        # A covariance's entries have variances of at most twice the product of two variances over the draws.
        error = (2 * torch.outer(law.variance, law.variance) / 40_000).sqrt()
        assert ((values.T.cov() - law.covariance_matrix).abs() < 5 * error).all()


def test_plates_inside_a_datum_belong_to_it():
    x = torch.tensor([0.5, -1.0, 2.0, 0.1])

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            with pyro.plate("parts", 3, dim=-2):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.sum(-2, keepdim=z.dim() > 2), 1.0), obs=x)

    guide = MeanFieldGuide(model, init_scale=0.8).setup(x)
    guide.loc.data = torch.linspace(-0.5, 0.5, 12)  # no two coordinates are alike
    space = NoiseSpace(model, guide, (x,), vectorize_particles=True)
    assert (space.plates_shape, space.dim) == ((4,), 3)
    assert gives_the_evidence(space.log_weight(space.draw(40_000)).detach(), dist.Normal(0.0, 2.0).log_prob(x))


def test_guides_that_are_made_from_something_else_are_named():
    problem = GLOBAL["gamma_poisson"]()

    def guide(counts):
        pyro.sample("rate", dist.Gamma(3.0, 2.0))

    with pytest.raises(ModelError, match=r"made from standard normal noise; got site 'rate' \(Gamma\)"):
        evidence(problem.model, guide, *problem.args)

    def point(counts):
        pyro.sample("rate", dist.Delta(torch.tensor(1.0)))

    with pytest.raises(ModelError, match="made from standard normal noise; function draws without any"):
        evidence(problem.model, point, *problem.args)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_normal_law_knows_where_its_draws_come_from(problem):
    problem = PROBLEMS[problem]()
    guide = wide(problem.model, problem.encoder).setup(*problem.args)
    draws = guide.sample_posterior(400, *problem.args)
    space = NormalSpace(
        problem.model, problem.args, draws, amortised=problem.encoder is not None, vectorize_particles=True
    )
    noise = space.noise_of(draws)
    # Standardised by their own mean and covariance.
    torch.testing.assert_close(noise.mean(0), torch.zeros_like(noise[0]), atol=1e-9, rtol=0)
    covariance = torch.einsum("s...i,s...j->...ij", noise, noise) / 400
    torch.testing.assert_close(covariance, torch.eye(space.dim).expand_as(covariance), atol=1e-6, rtol=0)
    assert gives_the_evidence(space.log_weight(space.draw(20_000)).detach(), problem.log_evidence)


# ------------------------------------------------------------------------------------------------------------- the path


class Toy:
    """N(e; 0, I) w(e) is a normal density of known mass, its scales 1, 0.2 and 0.02, one for each of two data."""

    plates_shape, dim, device = torch.Size([2]), 3, torch.device("cpu")
    precisions = torch.tensor([0.0, 24.0, 2499.0], dtype=torch.float64)
    modes = torch.tensor([[0.3, 0.5, 0.8], [-0.2, -0.9, 0.1]], dtype=torch.float64)

    def draw(self, num):
        return torch.randn(num, 2, 3)

    def log_weight(self, noise):
        return -0.5 * (self.precisions * (noise - self.modes).square()).sum(-1)

    def law(self, beta):
        total = 1 + beta * self.precisions
        return dist.Normal(beta * self.precisions * self.modes / total, total.rsqrt())

    @property
    def log_evidence(self):
        total = 1 + self.precisions
        return -0.5 * (total.log() + self.precisions / total * self.modes.square()).sum(-1)


def test_moves_leave_each_density_on_the_path_as_it_is():
    space, beta = Toy(), torch.tensor([0.1, 0.7])
    moves = Moves(space, 4)
    law = dist.Normal(
        torch.stack([space.law(b).loc[i] for i, b in enumerate(beta)]),
        torch.stack([space.law(b).scale[i] for i, b in enumerate(beta)]),
    )
    points = Points.at(space, law.sample((20_000,)))
    for _ in range(5):  # steps so long that a quarter of the moves is refused
        points, accepted = moves(points, beta, 1.3 * law.scale)
    assert 0.4 < accepted.mean() < 0.9
    scores = (points.noise - law.loc) / law.scale
    assert scores.mean(0).abs().max() < 5 / 20_000**0.5
    assert (scores.var(0) - 1).abs().max() < 5 * (2 / 20_000) ** 0.5


def test_steps_are_adapted_to_each_direction():
    space = Toy()
    moves = Moves(space, 4)
    schedule = adapt(moves, sigmoid_schedule(30, space), 32)
    ratio = schedule.step_sizes[-1] / space.law(1.0).scale / moves.largest_step
    assert ((ratio > 0.4) & (ratio < 2.5)).all()
    annealed = anneal(moves, schedule, 16, 8, resample=False)
    assert ((annealed.acceptance > 0.6) & (annealed.acceptance < 0.99)).all()
    assert ((space.log_evidence - annealed.log_evidence.mean(0)).abs() < 1).all()  # of a thousand for the ELBO


@pytest.mark.parametrize("resample", [False, True], ids=["ais", "smc"])
def test_annealing_is_unbiased_whatever_the_schedule(resample):
    space = Toy()
    betas = torch.tensor([0.0, 0.003, 0.02, 0.1, 0.35, 1.0])[:, None].expand(-1, 2).clone()
    betas[2, 1] = 0.05  # each datum has its own
    sizes = torch.stack([Moves(space, 3).largest_step * space.law(b[0]).scale for b in betas[1:]])
    annealed = anneal(Moves(space, 3), Schedule(betas, sizes), 3000, 4, resample=resample)
    assert gives_the_evidence(annealed.log_evidence, space.log_evidence)
    assert (annealed.log_evidence.mean(0) < space.log_evidence - 0.05).all()  # in logs, a bound


def test_twice_the_temperatures_halve_the_gap():
    space, gaps = Toy(), []
    for count in (60, 120):
        betas = torch.linspace(0, 1, count + 1)[:, None].expand(-1, 2) ** 6
        sizes = torch.stack([Moves(space, 3).largest_step * space.law(b[0]).scale for b in betas[1:]])
        annealed = anneal(Moves(space, 3), Schedule(betas, sizes), 20_000, 1, resample=False)
        gaps.append(space.log_evidence - annealed.log_evidence.mean(0))
    assert 1.7 < (gaps[0] / gaps[1]).min() < (gaps[0] / gaps[1]).max() < 2.3


def test_the_way_back_is_unbiased_for_one_over_the_evidence():
    space = Toy()  # each temperature less than twice the one before: 1 / W has a variance
    betas = torch.cat([torch.zeros(1), 1.6 ** torch.arange(-19.0, 1.0)])[:, None].expand(-1, 2)
    sizes = torch.stack([Moves(space, 3).largest_step * space.law(b[0]).scale for b in betas[1:]])
    draws = space.law(1.0).sample((8000,))
    upper = reverse(Moves(space, 3), Schedule(betas, sizes), draws, 2000, 4, num_moves=1)
    assert gives_the_evidence(-upper, -space.log_evidence)
    assert (upper.mean(0) > space.log_evidence + 0.05).all()


def test_adaptive_temperatures_keep_the_draws_effective():
    space = Toy()
    moves = Moves(space, 4)
    schedule = adapt(moves, None, 64)
    assert (schedule.betas.diff(dim=0) >= 0).all()
    assert (schedule.betas[-1] == 1).all()
    assert 10 < len(schedule.betas) < 100
    annealed = anneal(moves, schedule, 16, 8, resample=True)
    error = annealed.log_evidence.std(0) / 4
    assert ((annealed.log_evidence.mean(0) - space.log_evidence).abs() < 5 * error + 0.3).all()


# ----------------------------------------------------------------------------------------------------------- the answer


@pytest.mark.parametrize("name", ["mean_field", "hamiltonian"])
def test_the_exact_evidence_lies_between_both_sides_of_data_with_latents_of_their_own(name):
    problem = AMORTISED["linear_vae"]()
    guide = GUIDES[name](problem.model, problem.encoder)
    truth = torch.randn(4, 2)
    noise = problem.model.decoder.log_scale.exp() * torch.randn(4, 3)
    x = (problem.model.decoder.linear(truth) + noise).detach()
    exact = problem.model.decoder.linear
    scale = (2 * problem.model.decoder.log_scale).exp()
    law = dist.MultivariateNormal(exact.bias, exact.weight @ exact.weight.T + torch.diag(scale))
    found = evidence(problem.model, guide, x, posterior={"z": truth}, seed=0, **SMALL)
    low, high = found.interval
    assert low.shape == high.shape == (4,)
    assert ((low < law.log_prob(x)) & (law.log_prob(x) < high)).all()
    assert (high - low).max() < 1.0
    assert found.exact
    means = [bound.per_datum.mean for bound in (found.elbo, found.iwae, found.annealed, found.upper)]
    assert means[0] < means[1] < means[2] < means[3]
    low, high = found.interval_per_datum
    assert low < law.log_prob(x).mean() < high


def test_every_seeded_interval_of_a_shared_latent_holds_the_exact_evidence():
    for seed in range(4):
        gaussian = OffsetGaussian(5, scale=0.8).requires_grad_(False)
        torch.manual_seed(seed)
        truth = torch.randn(5)
        x = truth + 0.8 * torch.randn(3, 5)
        guide = MeanFieldGuide(gaussian, init_scale=1.0)
        found = evidence(gaussian, guide, x, posterior={"z": truth}, seed=seed, **SMALL)
        exact, (low, high) = gaussian.log_evidence(x), found.interval
        assert low < exact < high
        assert high - low < 0.5 * (exact - found.elbo.mean)


def test_sequential_monte_carlo_and_an_upper_side_from_chains():
    problem = GLOBAL["gamma_poisson"]()
    guide = wide(problem.model, None).setup(*problem.args)
    options = {"num_warmup": 100, "num_samples": 200, "num_chains": 1, "backend": "pyro", "progress": False}
    chains = nuts(problem.model, *problem.args, **options)
    found = evidence(problem.model, guide, *problem.args, posterior=chains, method="smc", seed=0, **SMALL)
    assert not found.exact
    assert "(upper side approximate)" in repr(found)
    low, high = found.interval
    assert low < problem.log_evidence < high
    error = found.annealed.standard_error.item()
    assert found.annealed.mean == pytest.approx(problem.log_evidence.item(), abs=5 * error)
    assert list(found.table.index) == ["elbo", "iwae", "annealed", "upper"]
    assert found.table.loc["elbo", "mean"] == pytest.approx(found.elbo.mean.item())


def test_an_exact_guide_has_no_gap_but_its_rounding():
    gaussian = OffsetGaussian(3).requires_grad_(False)
    x = torch.randn(1000, 3)
    posterior = gaussian.exact_posterior(x)
    guide = MeanFieldGuide(gaussian).setup(x)
    guide.loc.data, guide.log_scale.data = posterior.loc, posterior.scale.log()
    found = evidence(gaussian, guide, x, posterior={"z": posterior.sample((200,))}, seed=0, **SMALL)
    low, high = found.interval
    assert low <= gaussian.log_evidence(x) <= high
    assert found.annealed.ends(0.99)[1] - low < 1e-6
    low, high = Bound(torch.full((4,), 1e6)).ends(0.99)  # no spread at all
    assert (high - low).item() == pytest.approx(2e-6, rel=1e-3)


def test_models_of_any_precision_are_computed_in_float64():
    torch.manual_seed(1)
    vae = VAE(MLPDecoder(2, event_shape=(1, 2, 2), hidden=(4,)), latent_dim=2)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 4))
    guide = MeanFieldGuide(vae, encoder=encoder)
    x = torch.randint(2, (3, 1, 2, 2)).double()
    guide.setup(x)
    vae, guide = copy.deepcopy((vae, guide))
    single, narrow = copy.deepcopy((vae, guide))
    single.float(), narrow.float()
    single_again, wide_again = copy.deepcopy((single, narrow))
    single_again.double(), wide_again.double()
    found = evidence(single, narrow, x.float(), posterior={"z": torch.zeros(3, 2)}, seed=0, **SMALL)
    same = evidence(single_again, wide_again, x, posterior={"z": torch.zeros(3, 2)}, seed=0, **SMALL)
    torch.testing.assert_close(found.annealed.estimates, same.annealed.estimates, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.upper.estimates, same.upper.estimates, atol=1e-5, rtol=0)


def test_data_come_in_parts_and_a_seed_fixes_all():
    problem = AMORTISED["linear_vae"]()
    guide = wide(problem.model, problem.encoder).setup(*problem.args)
    truth = {"z": torch.randn(4, 2)}
    state = torch.get_rng_state()
    first, again = (
        evidence(problem.model, guide, *problem.args, posterior=truth, seed=2, max_batch=100, **SMALL) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.upper.estimates, again.upper.estimates)
    assert first.annealed.estimates.shape == (12, 4)
    low, high = first.interval
    assert ((low < problem.log_evidence) & (first.acceptance > 0.5)).all()
    assert high.shape == (4,)
    truth["z"][3] = math.inf  # each part is given its own rows
    with pytest.raises(DataError, match="draws that the model holds possible"):
        evidence(problem.model, guide, *problem.args, posterior=truth, max_batch=100, **SMALL)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_particles": 1}, OptionError, "num_particles must be a whole number of at least 2; got 1"),
        ({"num_batches": 1}, OptionError, "num_batches must be a whole number of at least 2; got 1"),
        ({"num_temperatures": 0}, OptionError, "num_temperatures must be a whole number of at least 1; got 0"),
        ({"level": 1.0}, OptionError, "level must be positive and below 1; got 1.0"),
        ({"method": "sms"}, OptionError, "method must be one of 'ais', 'smc'; got 'sms'. Did you mean 'smc'?"),
        ({"posterior": "nut"}, OptionError, "posterior must be values by site, InferenceData or 'nuts'; got 'nut'"),
        ({"posterior": {"y": torch.zeros(2)}}, DataError, r"posterior must hold values of \['z'\]; got \['y'\]"),
        (
            {"posterior": {"z": torch.zeros(3)}},
            DataError,
            r"posterior\['z'\] must hold draws of shape \(2,\); got \(3,\)",
        ),
        ({"posterior": {"z": torch.full((2,), math.inf)}}, DataError, "draws that the model holds possible"),
    ],
    ids=str,
)
def test_bad_options_are_named(options, error, message):
    problem = GLOBAL["offset_gaussian"]()
    with pytest.raises(error, match=message):
        evidence(problem.model, wide(problem.model, None), *problem.args, **SMALL | options)


def test_bad_data_and_weights_are_named():
    gaussian = OffsetGaussian(1)
    guide = MeanFieldGuide(gaussian).setup(torch.zeros(2, 1))
    with pytest.raises(DataError, match="argument 0 must be finite"):
        evidence(gaussian, guide, torch.full((2, 1), math.nan))
    guide.loc.data.fill_(math.inf)
    with pytest.raises(DataError, match="log-weights of the guide's draws must be finite"):
        evidence(gaussian, guide, torch.zeros(2, 1))
