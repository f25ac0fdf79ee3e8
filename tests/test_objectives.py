"""Objectives: estimators of the gradient, weights of the KL terms, chunks, and what a loss is made of."""

from __future__ import annotations

import itertools
import math
import pickle
from contextlib import nullcontext
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn
from torch.distributions import kl_divergence

from guides import FullRankGuide, GuideList, HamiltonianGuide, IAFGuide, MeanFieldGuide, ModelError, OptionError
from guides.noise import Share, standard_normal
from guides.plates import Minibatch
from ppl_models import OffsetGaussian
from ppl_models.objectives import ELBO, IWAE, VRIWAE, KLWeights, gradient_report, log_weights
from ppl_models.objectives.log_weights import Score
from ppl_models.objectives.rows import plate_of_rows
from ppl_models.training.modes import evaluating
from tests.contract.problems import AMORTISED, GLOBAL, PROBLEMS
from tests.contract.registry import full_rank, halves, one_gradient, wide

STANDARD_ERRORS = 4.5


def gradients(objective, model, guide, *args, repeats=1):
    """Gradients of the loss by each parameter of guide and model, ``(repeats, numbers)``."""
    named = {f"guide.{name}": p for name, p in guide.named_parameters()}
    named |= {f"model.{name}": p for name, p in model.named_parameters()} if isinstance(model, nn.Module) else {}
    rows = []
    for _ in range(repeats):
        with pyro.validation_enabled(False):
            found = one_gradient(named, lambda: objective.differentiable_loss(model, guide, *args))
        rows.append(torch.cat([found.get(name, torch.zeros_like(p)).flatten() for name, p in named.items()]))
    return torch.stack(rows)


def assert_same_mean(first, second):
    difference = first.mean(0) - second.mean(0)
    error = (first.var(0) / len(first) + second.var(0) / len(second)).sqrt()
    assert (difference.abs() <= STANDARD_ERRORS * error + 1e-10).all(), (difference / error).abs().max()


# ------------------------------------------------------------------------------------------ sticking the landing, DReG


def exact_pairs():
    gaussian = GLOBAL["offset_gaussian"]()
    posterior = gaussian.model.exact_posterior(*gaussian.args)
    for family in (MeanFieldGuide, FullRankGuide):
        guide = family(gaussian.model).setup(*gaussian.args)
        guide.loc.data, guide.log_scale.data = posterior.loc.detach(), posterior.scale.log().detach()
        yield gaussian.model, guide, gaussian.args


def test_stl_has_no_variance_at_the_exact_posterior():
    for model, guide, args in exact_pairs():
        stl = gradients(ELBO(num_particles=1, gradient="stl"), model, guide, *args, repeats=20)
        reparam = gradients(ELBO(num_particles=1), model, guide, *args, repeats=20)
        own = sum(p.numel() for p in guide.parameters())
        assert stl[:, :own].abs().max() <= 1e-12
        assert reparam[:, :own].var(0).max() > 0.01


def test_dreg_has_no_variance_at_the_exact_posterior():
    for model, guide, args in exact_pairs():
        found = gradients(VRIWAE(0.3, num_particles=4, gradient="dreg"), model, guide, *args, repeats=5)
        assert found[:, : sum(p.numel() for p in guide.parameters())].abs().max() <= 1e-12


RESCORED = {"mean_field": wide, "full_rank": full_rank, "low_rank": lambda m, e: full_rank(m, e, rank=1)}
ESTIMATORS = {
    "stl": (ELBO(num_particles=2, gradient="stl"), ELBO(num_particles=2)),
    "dreg": (IWAE(num_particles=3, gradient="dreg"), IWAE(num_particles=3)),
    "dreg-0.6": (VRIWAE(0.6, num_particles=3, gradient="dreg"), VRIWAE(0.6, num_particles=3)),
    "dreg-elbo": (VRIWAE(1, num_particles=2, gradient="dreg"), ELBO(num_particles=2)),
    "dreg-looped": (IWAE(num_particles=2, gradient="dreg", vectorize_particles=False), IWAE(num_particles=2)),
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("make", RESCORED)
def test_estimators_agree_in_the_mean_where_every_datum_has_its_latent(estimator, make):
    problem = AMORTISED["linear_vae"]()
    # Independent copies of the data: a gradient is the sum of as many draws of it.
    (x,) = (each.repeat(12, 1) for each in problem.args)
    guide = RESCORED[make](problem.model, problem.encoder).setup(x)
    first, second = (gradients(each, problem.model, guide, x, repeats=25) for each in ESTIMATORS[estimator])
    assert_same_mean(first, second)


@pytest.mark.parametrize(
    ("make", "estimator"),
    [("mean_field", estimator) for estimator in ESTIMATORS] + [("low_rank", "stl"), ("low_rank", "dreg")],
)  # the full-rank guide stands below, on two sites
def test_estimators_agree_in_the_mean_where_all_data_share_one(make, estimator):
    problem = GLOBAL["offset_gaussian"]()
    guide = RESCORED[make](problem.model, problem.encoder).setup(*problem.args)
    first, second = (
        gradients(each, problem.model, guide, *problem.args, repeats=150) for each in ESTIMATORS[estimator]
    )
    assert_same_mean(first, second)


def two_sites(x):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mean, scale), obs=x)


TWO_X = torch.tensor([0.3, -0.5, 1.2], dtype=torch.float64)


def assert_estimators_agree_on_two_sites(guide):
    # The noise of an ELBO's gradient falls with its particles, the signal of IWAE's as well.
    many = ELBO(num_particles=25, gradient="stl"), ELBO(num_particles=25)
    for repeats, (better, plain) in ((20, many), (150, ESTIMATORS["dreg"])):
        first = gradients(better, two_sites, guide, TWO_X, repeats=repeats)
        assert_same_mean(first, gradients(plain, two_sites, guide, TWO_X, repeats=repeats))


@pytest.mark.parametrize("init", [None, "prior", "laplace"])
@pytest.mark.parametrize("family", [MeanFieldGuide, FullRankGuide, "list"])
def test_estimators_agree_for_sites_of_any_support_and_whitened_guides(family, init):
    if family == "list":
        parts = [MeanFieldGuide(two_sites, expose=["mean"]), FullRankGuide(two_sites, hide=["mean"])]
        guide = GuideList(two_sites, parts)
    else:
        guide = family(two_sites)
    assert_estimators_agree_on_two_sites(guide.setup(TWO_X, init=init))


def test_estimators_agree_for_guides_of_pyro():
    guide = AutoNormal(two_sites)
    guide(TWO_X)
    assert_estimators_agree_on_two_sites(guide)


@pytest.mark.parametrize("estimator", ["stl", "dreg", "dreg-0.6"])
def test_the_value_and_the_model_s_own_gradient_stay(estimator):
    problem = AMORTISED["linear_vae"]()
    guide = wide(problem.model, problem.encoder).setup(*problem.args)
    found = []
    for objective in ESTIMATORS[estimator]:
        pyro.set_rng_seed(3)
        loss = objective.differentiable_loss(problem.model, guide, *problem.args)
        found.append([loss.detach(), *torch.autograd.grad(loss, list(problem.model.parameters()))])
    for have, want in zip(*found, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-10, atol=1e-10)


def test_dreg_is_the_published_formula():
    # x | z ~ N(z, 1), z ~ N(0, 1), q = N(m, s): squared normalised weights times the path derivative.
    def model(x):
        pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    guide = MeanFieldGuide(model, init_scale=0.8).setup(torch.tensor(1.5))
    pyro.set_rng_seed(0)
    found = gradients(IWAE(num_particles=4, gradient="dreg"), model, guide, torch.tensor(1.5))[0]
    pyro.set_rng_seed(0)
    z = torch.stack([log_weights_and_z(model, guide, 4)]).flatten()
    m, s = guide.loc.detach(), guide.log_scale.exp().detach()
    log_w = -0.5 * z**2 - 0.5 * (1.5 - z) ** 2 + 0.5 * ((z - m) / s) ** 2
    slope = -z + (1.5 - z) + (z - m) / s**2
    squared = log_w.softmax(0).square()
    expected = torch.stack([-(squared * slope).sum(), -(squared * slope * (z - m)).sum()])
    torch.testing.assert_close(found, expected)


def log_weights_and_z(model, guide, size):
    with pyro.plate("num_particles_vectorized", size, dim=-1):
        return guide(torch.tensor(1.5))["z"].detach()


@pytest.mark.parametrize("family", [HamiltonianGuide, IAFGuide])
def test_guides_that_cannot_score_again_say_which_can(family):
    problem = GLOBAL["offset_gaussian"]()
    with pytest.raises(ModelError, match=f"{family.__name__} cannot. MeanFieldGuide, FullRankGuide, LadderGuide"):
        ELBO(gradient="stl").differentiable_loss(problem.model, family(problem.model), *problem.args)


def test_sites_that_depend_on_each_other_are_refused():
    loc = torch.tensor(0.1, requires_grad=True)

    def guide(x):
        scale = pyro.sample("scale", dist.LogNormal(loc, 0.5))
        pyro.sample("mean", dist.Normal(scale * loc, 1.0))

    for objective in (ELBO(gradient="stl"), IWAE(gradient="dreg")):
        with pytest.raises(ModelError, match="do not depend on each other's values; got 'mean'"):
            objective.differentiable_loss(two_sites, guide, TWO_X)


def test_estimators_belong_to_their_objectives():
    with pytest.raises(OptionError, match="gradient"):
        ELBO(gradient="dreg")
    with pytest.raises(OptionError, match="gradient"):
        IWAE(gradient="stl")


# ------------------------------------------------------------------------------------------------------ score functions


class CoinGuide(nn.Module):
    """Two coins, the second of which knows the first, inside a plate or not."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.tensor([0.4, -0.6]))
        self.second = nn.Parameter(torch.tensor([[-0.3, 0.8], [0.5, 0.1]]))
        self.loc = nn.Parameter(torch.tensor(0.2))

    def forward(self, x):
        a = pyro.sample("level", dist.Normal(self.loc, 0.7))
        with pyro.plate("data", len(x)):
            i = torch.arange(len(x))
            b = pyro.sample("first", dist.Bernoulli(logits=self.first[i]))
            pyro.sample("second", dist.Bernoulli(logits=self.second[i, b.long()]))
        return a


def coins(x):
    level = pyro.sample("level", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        b = pyro.sample("first", dist.Bernoulli(0.3))
        c = pyro.sample("second", dist.Bernoulli(0.2 + 0.5 * b))
        pyro.sample("x", dist.Normal(level + b - 2 * c, 0.8), obs=x)


def local_coins(x):
    with pyro.plate("data", len(x)):
        b = pyro.sample("first", dist.Bernoulli(0.3))
        c = pyro.sample("second", dist.Bernoulli(0.2 + 0.5 * b))
        pyro.sample("x", dist.Normal(b - 2 * c, 0.8), obs=x)


class LocalCoinGuide(CoinGuide):
    """Of two data, or of independent copies of them."""

    def forward(self, x):
        with pyro.plate("data", len(x)):
            i = torch.arange(len(x)) % 2
            b = pyro.sample("first", dist.Bernoulli(logits=self.first[i]))
            pyro.sample("second", dist.Bernoulli(logits=self.second[i, b.long()]))


COINS_X = torch.tensor([0.7, -1.1], dtype=torch.float64)


def exact_coin_elbo(guide, x):
    """The ELBO of the coins, every outcome summed over; the normal's part in closed form."""
    total = dist.Normal(guide.loc, 0.7).entropy() - 0.5 * (guide.loc**2 + 0.49) - 0.5 * math.log(2 * math.pi)
    for i in range(2):
        for b in (0.0, 1.0):
            for c in (0.0, 1.0):
                log_q = dist.Bernoulli(logits=guide.first[i]).log_prob(torch.tensor(b))
                log_q = log_q + dist.Bernoulli(logits=guide.second[i, int(b)]).log_prob(torch.tensor(c))
                log_p = dist.Bernoulli(torch.tensor(0.3)).log_prob(torch.tensor(b))
                log_p = log_p + dist.Bernoulli(torch.tensor(0.2 + 0.5 * b)).log_prob(torch.tensor(c))
                log_p = log_p + dist.Normal(guide.loc + b - 2 * c, 0.8).log_prob(x[i]) - 0.49 / (2 * 0.64)
                total = total + log_q.exp() * (log_p - log_q)
    return total


@pytest.mark.parametrize(("num_particles", "vectorize", "repeats"), [(1, False, 600), (3, False, 200), (3, True, 600)])
def test_score_gradients_are_the_exact_ones(num_particles, vectorize, repeats):
    guide = CoinGuide()
    objective = ELBO(num_particles=num_particles, vectorize_particles=vectorize)
    found = gradients(objective, coins, guide, COINS_X, repeats=repeats)
    exact = torch.autograd.grad(-exact_coin_elbo(guide, COINS_X), list(guide.parameters()))
    exact = torch.cat([g.flatten() for g in exact])
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - exact).abs() <= STANDARD_ERRORS * error).all()


@pytest.mark.parametrize(("vectorize", "repeats"), [(True, 60), (False, 100)])
def test_a_score_outside_a_plate_is_rewarded_for_all_data(vectorize, repeats):
    def model(x):
        b = pyro.sample("first", dist.Bernoulli(0.3))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(2 * b, 0.8), obs=x)

    class Coin(nn.Module):
        def __init__(self):
            super().__init__()
            self.logit = nn.Parameter(torch.tensor(0.4))

        def forward(self, x):
            pyro.sample("first", dist.Bernoulli(logits=self.logit))

    guide, both = Coin(), torch.tensor([0.0, 1.0])
    log_q = dist.Bernoulli(logits=guide.logit).log_prob(both)
    log_p = dist.Bernoulli(0.3).log_prob(both) + dist.Normal(2 * both[:, None], 0.8).log_prob(COINS_X).sum(-1)
    exact = torch.autograd.grad(-(log_q.exp() * (log_p - log_q)).sum(), guide.logit)[0]
    objective = ELBO(num_particles=20 if vectorize else 4, vectorize_particles=vectorize)
    found = gradients(objective, model, guide, COINS_X, repeats=repeats)
    error = found.std() / math.sqrt(len(found))
    assert error < 0.2 * exact.abs()
    assert abs(found.mean() - exact) <= STANDARD_ERRORS * error


def outcomes(guide, x):
    """Log-weights and log q of the local coins' four outcomes, ``(data, 4)`` each."""
    rows = []
    for i in range(2):
        row = []
        for b in (0.0, 1.0):
            for c in (0.0, 1.0):
                log_q = dist.Bernoulli(logits=guide.first[i]).log_prob(torch.tensor(b))
                log_q = log_q + dist.Bernoulli(logits=guide.second[i, int(b)]).log_prob(torch.tensor(c))
                log_p = dist.Bernoulli(torch.tensor(0.3)).log_prob(torch.tensor(b))
                log_p = log_p + dist.Bernoulli(torch.tensor(0.2 + 0.5 * b)).log_prob(torch.tensor(c))
                log_p = log_p + dist.Normal(b - 2 * c, 0.8).log_prob(x[i])
                row.append(torch.stack([log_p - log_q, log_q]))
        rows.append(torch.stack(row, 1))
    log_w, log_q = torch.stack(rows, 1)
    return log_w, log_q


@pytest.mark.parametrize(("num_particles", "alpha"), [(1, 0.5), (2, 0.0), (2, 0.5)])
def test_score_gradients_of_importance_weighted_bounds_are_the_exact_ones(alpha, num_particles):
    guide = LocalCoinGuide()
    objective = VRIWAE(alpha, num_particles=num_particles)
    log_w, log_q = outcomes(guide, COINS_X)
    pairs = [(j, k) for j in range(4) for k in range(4)] if num_particles == 2 else [(j,) for j in range(4)]
    exact = sum((log_q[:, list(pair)].sum(1).exp() * objective.bound(log_w[:, list(pair)].T)).sum() for pair in pairs)
    wanted = torch.autograd.grad(-exact, [guide.first, guide.second])
    wanted = torch.cat([g.flatten() for g in wanted])
    copies, repeats = 20, 100
    found = gradients(objective, local_coins, guide, COINS_X.repeat(copies), repeats=repeats)[:, : len(wanted)]
    error = found.std(0) / math.sqrt(repeats)
    assert ((found.mean(0) - copies * wanted).abs() <= STANDARD_ERRORS * error).all()
    loss = torch.tensor([objective.loss(local_coins, guide, COINS_X.repeat(copies)) for _ in range(repeats)])
    assert abs(loss.mean() + copies * exact.detach()) <= STANDARD_ERRORS * loss.std() / math.sqrt(repeats)


def test_the_other_particles_are_the_baseline():
    guide = LocalCoinGuide()
    pyro.set_rng_seed(0)
    single = gradients(ELBO(), local_coins, guide, COINS_X, repeats=300).var(0).sum()
    four = gradients(ELBO(num_particles=4), local_coins, guide, COINS_X, repeats=300).var(0).sum()
    assert four < 0.8 * single / 4


def test_a_score_is_not_multiplied_by_what_it_has_no_influence_on():
    def many(x):
        with pyro.plate("data", len(x)):
            b = pyro.sample("first", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(3 * b, 1.0), obs=x)
        pyro.sample("level", dist.Normal(0.0, 1.0))

    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(50))

        def forward(self, x):
            pyro.sample("level", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x)):
                pyro.sample("first", dist.Bernoulli(logits=self.logits[: len(x)]))

    x = torch.linspace(-1, 3, 50)
    pyro.set_rng_seed(0)
    few = gradients(ELBO(), many, Many(), x[:2], repeats=150)[:, :2].var(0)
    pyro.set_rng_seed(0)
    all_of_them = gradients(ELBO(), many, Many(), x, repeats=150)[:, :2].var(0)
    assert (all_of_them < 3 * few + 0.1).all()


class CoinsThenLevel(nn.Module):
    """Two coins in a plate, and one outside it that looks at both."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.4, -0.6]))
        self.slope = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            coin = pyro.sample("coin", dist.Bernoulli(logits=self.logits))
        pyro.sample("level", dist.Bernoulli(logits=self.slope * (coin.sum(-1, keepdim=True) - 1)))


def test_scores_reach_the_others_of_a_plate_through_what_is_drawn_later():
    def model(x):
        level = pyro.sample("level", dist.Bernoulli(torch.tensor([0.4])))
        with pyro.plate("data", len(x)):
            coin = pyro.sample("coin", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(3 * level + coin, 0.8), obs=x)

    guide, exact = CoinsThenLevel(), torch.tensor(0.0)
    for outcome in itertools.product((0.0, 1.0), repeat=3):
        coin, level = torch.tensor(outcome[:2]), torch.tensor(outcome[2])
        log_q = dist.Bernoulli(logits=guide.logits).log_prob(coin).sum()
        log_q = log_q + dist.Bernoulli(logits=guide.slope * (coin.sum() - 1)).log_prob(level)
        log_p = dist.Bernoulli(torch.tensor(0.4)).log_prob(level)
        log_p = log_p + dist.Bernoulli(torch.tensor(0.3)).log_prob(coin).sum()
        log_p = log_p + dist.Normal(3 * level + coin, 0.8).log_prob(COINS_X).sum()
        exact = exact + log_q.exp() * (log_p - log_q)
    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(-exact, list(guide.parameters()))])
    found = gradients(ELBO(num_particles=4), model, guide, COINS_X, repeats=150)
    assert ((found.mean(0) - wanted).abs() <= STANDARD_ERRORS * found.std(0) / math.sqrt(len(found))).all()


def test_scores_stand_particles_that_are_impossible():
    def model(x):
        with pyro.plate("data", len(x)):
            coin = pyro.sample("first", dist.Bernoulli(0.3))
            pyro.sample("second", dist.Bernoulli(0.5))
            pyro.factor("rule", torch.where(coin > 0, 0.0, -math.inf))

    assert gradients(IWAE(num_particles=12), model, LocalCoinGuide(), COINS_X, repeats=3).isfinite().all()

    def signal(*values):
        drawn = torch.tensor(values)
        return IWAE(num_particles=len(values)).signal(Score(drawn, {}), drawn, (1,), None).tolist()

    # The bound, less that of the others and their mean; where this is of impossible ones alone, less nothing.
    bound, e = math.log((1 + math.e) / 3), math.e
    without = [math.log(e / 3), math.log((1 + e**0.5 + e) / 3), math.log(1 / 3)]
    assert signal(0.0, -math.inf, 1.0) == pytest.approx([bound - each for each in without])
    assert signal(0.0, -math.inf) == pytest.approx([math.log(0.5), math.log(0.5)])


def test_scores_have_no_stl():
    with pytest.raises(ModelError, match="can be reparametrised; got 'first'"):
        ELBO(gradient="stl").differentiable_loss(local_coins, LocalCoinGuide(), COINS_X)


# --------------------------------------------------------------------------------------------------------------- bounds


def test_vr_iwae_joins_the_two_bounds():
    problem = AMORTISED["linear_vae"]()
    guide = wide(problem.model, problem.encoder).setup(*problem.args)
    values = []
    for objective in (
        IWAE(num_particles=8),
        *(VRIWAE(a, num_particles=8) for a in (0, 0.3, 0.9, 1)),
        ELBO(num_particles=8),
    ):
        pyro.set_rng_seed(0)
        values.append(-objective.loss(problem.model, guide, *problem.args))
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    assert values[4] == pytest.approx(values[5], rel=1e-12)
    assert values[1] > values[2] > values[3] > values[4]


@pytest.mark.parametrize("options", [{"kl": KLWeights()}, {"gradient": "dreg"}, {"chunk_size": 2}])
def test_a_particle_that_is_impossible_does_not_spoil_the_others(options):
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("positive", torch.where(z > 0, 0.0, -math.inf))

    guide, found = MeanFieldGuide(model, init_scale=1.0).setup(), []
    for more in ({}, options):
        pyro.set_rng_seed(0)
        loss = IWAE(num_particles=6, **more).differentiable_loss(model, guide)
        found.append(loss.item())
        assert torch.autograd.grad(loss, guide.loc)[0].isfinite().all()
    assert math.isfinite(found[0])
    assert found[1] == pytest.approx(found[0])


def nested(x, *, deep):
    level = pyro.sample("level", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        if not deep:
            pyro.sample("x", dist.Normal(level, 1.0), obs=x)
            return
        with pyro.plate("again", 3):
            pyro.sample("x", dist.Normal(level, 1.0), obs=x.expand(3, -1))


def nested_guide(x, *, deep):
    pyro.sample("level", dist.Normal(0.0, 1.0))


def test_plates_that_are_too_many_for_the_nesting_given_are_refused():
    with pytest.raises(ModelError, match="max_plate_nesting must be .*; got 1, and plate 'again' stands left"):
        IWAE(num_particles=4, max_plate_nesting=1).loss(nested, nested_guide, TWO_X, deep=True)


def test_flags_may_change_the_plates():
    objective = IWAE(num_particles=4)
    for deep in (False, True):
        assert objective.log_weights(nested, nested_guide, TWO_X, deep=deep).values.shape == (4,)
    assert pickle.loads(pickle.dumps(objective))._found is None


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan, "half", True])
def test_alpha_is_between_0_and_1(alpha):
    with pytest.raises(OptionError, match="alpha must be between 0 and 1"):
        VRIWAE(alpha)


@pytest.mark.parametrize("options", [{"num_particles": 0}, {"chunk_size": 0}, {"gradient": "best"}])
def test_wrong_options_are_refused(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        IWAE(**options)
    with pytest.raises(TypeError, match="kl must be KLWeights"):
        ELBO(kl=0.5)


# -------------------------------------------------------------------------------------------------------- parts, and kl


class TwoLayers(pyro.nn.PyroModule):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Normal(0.0, 1.0))
            bottom = pyro.sample("bottom", dist.Normal(self.weight * top, 0.5))
            pyro.sample("x", dist.Normal(bottom, 0.3), obs=x)


class TwoLayersEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 4)

    def forward(self, x):
        return self.linear(x[:, None])


def two_layers(family=MeanFieldGuide):
    model, x = TwoLayers(), torch.tensor([0.4, -0.9, 1.4])
    return model, family(model, encoder=TwoLayersEncoder()).setup(x), x


def test_a_loss_is_reconstruction_and_kl_by_site():
    model, guide, x = two_layers()
    estimate = ELBO(num_particles=5).estimate(model, guide, x)
    assert set(estimate.parts) == {"reconstruction", "kl[top]", "kl[bottom]"}
    parts = dict(estimate.parts)
    assert -parts.pop("reconstruction") + sum(parts.values()) == pytest.approx(estimate.loss.item())
    assert not any(part.requires_grad for part in parts.values())
    loc, log_scale = guide.encoder(x).detach()[:, [0, 2]].T
    exact = kl_divergence(dist.Normal(loc, log_scale.exp()), dist.Normal(torch.zeros(3), 1.0)).sum()
    many = ELBO(num_particles=20_000).estimate(model, guide, x).parts["kl[top]"]
    assert many.item() == pytest.approx(exact.item(), abs=0.05)


def test_latents_drawn_as_one_vector_share_their_kl():
    model, x = TwoLayers(), torch.tensor([0.4, -0.9, 1.4])
    guide = HamiltonianGuide(model, encoder=TwoLayersEncoder(), num_steps=2).setup(x)
    assert set(ELBO().estimate(model, guide, x).parts) == {"reconstruction", "kl[top, bottom]"}
    guide = AutoNormal(two_sites)
    assert set(ELBO().estimate(two_sites, guide, TWO_X).parts) <= {
        "reconstruction", "kl[scale]", "kl[mean]", "kl[scale, mean]"
    }  # fmt: skip
    guide = MeanFieldGuide(two_sites)
    assert set(ELBO().estimate(two_sites, guide, TWO_X).parts) == {"reconstruction", "kl[scale]", "kl[mean]"}
    with pytest.raises(ModelError, match="same weight to scale, mean, which the guide draws as one vector"):
        ELBO(kl=KLWeights(sites={"scale": 0.5})).estimate(two_sites, FullRankGuide(two_sites), TWO_X)


def test_weights_change_the_gradient_and_not_the_record():
    model, guide, x = two_layers()
    weights = {"top": 0.25, "bottom": 0.0}
    pyro.set_rng_seed(0)
    weighted = ELBO(num_particles=3, kl=KLWeights(end=0.5, sites=weights)).estimate(model, guide, x)
    pyro.set_rng_seed(0)
    plain = ELBO(num_particles=3).estimate(model, guide, x)
    assert weighted.loss.item() == pytest.approx(plain.loss.item())
    assert weighted.parts == plain.parts
    pyro.set_rng_seed(0)
    drawn = log_weights(model, guide, x, num_particles=3)
    by_hand = -(drawn.terms["reconstruction"] + 0.5 * 0.25 * drawn.terms["top"]).mean(0).sum()
    parameters = [*model.parameters(), *guide.parameters()]
    have = torch.autograd.grad(weighted.loss, parameters, allow_unused=True, materialize_grads=True)
    want = torch.autograd.grad(by_hand, parameters, allow_unused=True, materialize_grads=True)
    for one, other in zip(have, want, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("shape", "halfway"), [("linear", 0.5), ("cosine", 0.5 * (1 - math.cos(math.pi / 2)))])
@pytest.mark.parametrize("per", ["step", "epoch"])
def test_warm_up_rises_from_start_to_end(shape, halfway, per):
    weights = KLWeights(warmup=8, shape=shape, per=per, start=0.2, end=1.2)
    seen = []
    for done in (0, 2, 4, 8, 100):
        weights.set_progress(**{"step": 0, "epoch": 0, per: done})
        seen.append(weights.beta.item())
    quarter = 0.25 if shape == "linear" else 0.5 * (1 - math.cos(math.pi / 4))
    assert seen == pytest.approx([0.2, 0.2 + quarter, 0.2 + halfway, 1.2, 1.2])


def test_svi_warms_up_by_its_steps():
    model, guide, x = two_layers()
    objective = ELBO(kl=KLWeights(warmup=4))
    svi, seen = SVI(model, guide, pyro.optim.SGD({"lr": 0.0}), objective), []
    for _ in range(6):
        svi.step(x)
        seen.append(objective.kl.beta.item())
        if len(seen) == 3:  # as after a restart
            state, objective = objective.kl.state_dict(), ELBO(kl=KLWeights(warmup=4))
            objective.kl.load_state_dict(state)
            svi = SVI(model, guide, pyro.optim.SGD({"lr": 0.0}), objective)
    assert seen == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0, 1.0])
    with pytest.raises(OptionError, match="told the epoch"):
        SVI(model, guide, pyro.optim.SGD({"lr": 0.0}), ELBO(kl=KLWeights(warmup=4, per="epoch"))).step(x)


def test_free_bits_leave_a_small_kl_alone():
    model, guide, x = two_layers()
    pyro.set_rng_seed(0)
    parts = ELBO(num_particles=50).estimate(model, guide, x).parts
    per_datum = {name: value.item() / len(x) for name, value in parts.items()}
    assert per_datum["kl[top]"] < per_datum["kl[bottom]"]
    between = 0.5 * (per_datum["kl[top]"] + per_datum["kl[bottom]"])
    found = []
    for kl in (KLWeights(free_bits=between), KLWeights(sites={"top": 0.0})):
        pyro.set_rng_seed(0)
        found.append(gradients(ELBO(num_particles=50, kl=kl), model, guide, x)[0])
    torch.testing.assert_close(*found)


def test_free_bits_are_of_one_datum_where_data_share_latents():
    def model(x):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 8, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(shift + z, 1.0), obs=x)

    def guide(x):
        pyro.sample("shift", dist.Normal(0.0, 0.5))
        with pyro.plate("data", 8, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(0.0, 0.1))

    drawn = log_weights(model, guide, TWO_X, num_particles=1000)
    kl = math.log(10) - 0.5 + 0.5 * 0.01  # of one z
    assert -drawn.terms["z"].mean().item() == pytest.approx(8 * kl, rel=0.1)
    for free_bits, weight in ((0.8 * kl, 1.0), (1.2 * kl, 0.0)):
        assert KLWeights(free_bits=free_bits)(drawn)["z"] == weight


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"warmup": -1}, "warmup must be a whole number"),
        ({"end": -0.5}, "end must be finite and not negative"),
        ({"free_bits": math.inf}, "free_bits must be finite"),
        ({"sites": {"z": math.nan}}, r"sites\['z'\] must be finite"),
        ({"shape": "square"}, "shape"),
        ({"per": "minute"}, "per"),
    ],
)
def test_wrong_weights_are_refused(options, match):
    with pytest.raises(OptionError, match=match):
        KLWeights(**options)


def test_weights_of_unknown_sites_are_refused():
    model, guide, x = two_layers()
    with pytest.raises(ModelError, match="sites must name latents of the model .*; got 'middle'"):
        ELBO(kl=KLWeights(sites={"middle": 0.5})).estimate(model, guide, x)


# --------------------------------------------------------------------------------------------------------------- chunks

CHUNKED = {
    "elbo": lambda **o: ELBO(num_particles=5, **o),
    "stl": lambda **o: ELBO(num_particles=5, gradient="stl", **o),
    "iwae": lambda **o: IWAE(num_particles=5, **o),
    "dreg": lambda **o: VRIWAE(0.3, num_particles=5, gradient="dreg", **o),
    "weighted": lambda **o: IWAE(num_particles=5, kl=KLWeights(end=0.3, free_bits=0.2), **o),
    "looped": lambda **o: IWAE(num_particles=5, vectorize_particles=False, **o),
}


@pytest.mark.parametrize("size", [2])
@pytest.mark.parametrize("make", CHUNKED)
@pytest.mark.parametrize("name", PROBLEMS)
def test_chunks_give_the_same_result(name, make, size):
    problem = PROBLEMS[name]()
    guides = [wide(problem.model, problem.encoder), full_rank(problem.model, problem.encoder)]
    if make in ("iwae", "weighted"):
        guides.append(HamiltonianGuide(problem.model, base=wide(problem.model, problem.encoder), num_steps=2))
        guides.append(halves(problem.model, problem.encoder))
    for guide in guides:
        guide.setup(*problem.args)
        found, states = [], []
        for options in ({}, {"chunk_size": size}):
            pyro.set_rng_seed(0)
            objective = CHUNKED[make](**options)
            found.append(gradients(objective, problem.model, guide, *problem.args)[0])
            states.append(torch.random.get_rng_state())
            pyro.set_rng_seed(0)
            found[-1] = torch.cat([found[-1], torch.tensor([objective.loss(problem.model, guide, *problem.args)])])
        torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)
        assert torch.equal(*states)


def test_chunks_of_scores_give_the_same_result_particle_by_particle():
    found = []
    for options in ({}, {"chunk_size": 2}):
        for make in (ELBO, IWAE):
            pyro.set_rng_seed(0)
            objective = make(num_particles=5, vectorize_particles=False, **options)
            found.append(gradients(objective, local_coins, LocalCoinGuide(), COINS_X)[0])
    torch.testing.assert_close(found[0], found[2])
    torch.testing.assert_close(found[1], found[3])


@pytest.mark.parametrize("law", [dist.Gamma(3.0, 1.2), dist.Poisson(50.0)])
def test_chunks_of_any_law_draw_particles_of_their_own(law):
    def model():
        pyro.sample("z", law)

    def guide():
        drawn.append(pyro.sample("z", law))

    drawn = []
    IWAE(num_particles=6, chunk_size=2, max_plate_nesting=0).differentiable_loss(model, guide)
    first, second = torch.cat(drawn[:3]), torch.cat(drawn[3:])
    assert torch.equal(first, second)
    assert len(first.unique()) > 3


@pytest.mark.parametrize("vectorize", [True, False])
def test_chunks_share_the_minibatch(vectorize):
    x = torch.linspace(-2, 2, 8)

    def model(x):
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            seen.append(rows)
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.tensor(0.1))

        def forward(self, x):
            return torch.stack([x / 2 + self.shift, torch.zeros_like(x)], -1)

    seen = []
    guide = MeanFieldGuide(model, encoder=Encoder()).setup(x)
    found = []
    for options in ({}, {"chunk_size": 1}):
        objective = IWAE(num_particles=4, max_plate_nesting=1, vectorize_particles=vectorize, **options)
        pyro.set_rng_seed(0)
        seen.clear()
        found.append(gradients(objective, model, guide, x)[0])
        assert all(torch.equal(rows, seen[0]) for rows in seen)
    torch.testing.assert_close(*found)


def test_chunks_reach_parameters_that_no_module_shows():
    hidden = torch.tensor(0.3, requires_grad=True)

    def model(x):
        z = pyro.sample("z", dist.Normal(hidden, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide, found = MeanFieldGuide(model), []
    for options in ({}, {"chunk_size": 2}):
        pyro.set_rng_seed(0)
        loss = IWAE(num_particles=4, **options).differentiable_loss(model, guide, torch.tensor(1.0))
        found.append(torch.autograd.grad(2 * loss, hidden)[0])
    torch.testing.assert_close(*found)


class Rows(nn.Module):
    """An encoder that counts the rows it sees, and may look at all of them together."""

    def __init__(self, mix=lambda x: x, num_features=3):
        super().__init__()
        self.linear, self.mix, self.seen = nn.Linear(num_features, 4), mix, 0

    def forward(self, x, scale=1.0):
        self.seen += len(x)
        return self.linear(self.mix(x)) * 0.3


def centre(x):
    return x - x.mean(0)


def centre_threes(x):
    return torch.cat([centre(rows) for rows in x.split(3)])


class Gated(nn.Module):
    """Mixes rows by a weight that is zero at the start."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.0))

    def forward(self, x):
        return x + self.weight * centre(x)


def normalise():
    return nn.BatchNorm1d(3)


def in_chunks_and_at_once(model, guide, x, **options):
    """Gradient and loss of IWAE, at once and in chunks of two of six particles, and how many rows chunks encode."""
    found = []
    guide.setup(x)
    for chunks in ({}, {"chunk_size": 2}):
        objective = IWAE(num_particles=6, **chunks, **options)
        objective.loss(model, guide, x)  # what is found by trying is known from now on
        guide.encoder.seen = 0
        pyro.set_rng_seed(0)
        rows = gradients(objective, model, guide, x)[0], guide.encoder.seen
        pyro.set_rng_seed(0)
        found.append((torch.cat([rows[0], torch.tensor([objective.loss(model, guide, x)])]), rows[1]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-10, atol=1e-10)
    return found[1][1]


MIXED = {
    "alone": (nn.Identity, 7),
    "together": (lambda: centre, 2 * 3 * 7),
    "in groups": (lambda: centre_threes, 2 * 3 * 7),
    "by a weight of zero": (Gated, 2 * 3 * 7),
    "normalised": (normalise, 2 * 3 * 7),
}


@pytest.mark.parametrize(("make", "seen"), MIXED.values(), ids=MIXED)
@pytest.mark.parametrize("scaled", [False, True])
def test_chunks_are_of_rows_that_do_not_need_each_other(make, seen, scaled):
    vae, x = PROBLEMS["linear_vae"]().model, torch.randn(7, 3)
    with Minibatch(20) if scaled else nullcontext():
        assert in_chunks_and_at_once(vae, MeanFieldGuide(vae, encoder=Rows(make())), x) == seen


def test_rows_are_tried_again_where_they_are_others():
    """In another mode; after too few rows to tell; where something else has as many entries as the data."""

    def scaled(x, scale):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True) * scale, 1.0).to_event(1), obs=x)

    x, scale = torch.randn(7, 3), torch.tensor([1.0, 2.0, 3.0])
    cases = [
        (normalise(), (x, scale), (x, scale)),
        (centre, (x[:1], scale), (x, scale)),
        (lambda x: x, (x, scale), (x[:3], scale)),
        (lambda x: x, (x[:2, :2], torch.ones(2)), (x[:2, :2], scale[:2])),
    ]
    for mix, first, then in cases:
        guide, found = MeanFieldGuide(scaled, encoder=Rows(mix, then[0].shape[1])).setup(*then), []
        for chunks in ({}, {"chunk_size": 4}):
            objective = IWAE(num_particles=8, **chunks)
            with evaluating(mix):
                objective.loss(scaled, guide, *first)
            pyro.set_rng_seed(0)
            found.append(objective.loss(scaled, guide, *then))
        assert found[0] == pytest.approx(found[1], abs=1e-10)


def test_trying_rows_leaves_everything_as_it_was():
    vae, x = PROBLEMS["linear_vae"]().model, torch.randn(7, 3)
    linear, norm = nn.Linear(3, 3), nn.BatchNorm1d(3, momentum=1.0)  # it keeps the mean of the last batch
    guide = MeanFieldGuide(vae, encoder=Rows(nn.Sequential(linear, norm))).setup(x)
    before, noise = [p.clone() for p in guide.parameters()], torch.random.get_rng_state()
    draw = partial(IWAE(num_particles=6, chunk_size=2)._draw, vae, guide)
    assert plate_of_rows(draw, (vae, guide), (x,), {}) is None
    assert all(torch.equal(p, was) for p, was in zip(guide.parameters(), before, strict=True))
    assert torch.equal(torch.random.get_rng_state(), noise)
    torch.testing.assert_close(norm.running_mean, linear(x).mean(0))


def test_chunks_of_rows_stay_out_where_all_rows_are_needed():
    vae, x = PROBLEMS["linear_vae"]().model, torch.randn(7, 3)
    free = KLWeights(free_bits=0.5)
    assert in_chunks_and_at_once(vae, MeanFieldGuide(vae, encoder=Rows()), x, kl=free) == 2 * 3 * 7

    def seven(x):
        with pyro.plate("data", 7):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0])

    assert in_chunks_and_at_once(seven, MeanFieldGuide(seven, encoder=Rows()), x) == 2 * 3 * 7

    def rates(x):
        with pyro.plate("data", 7):
            return pyro.sample("z", dist.Gamma(2.0, 1.0))

    class Rates(PyroModule):
        def __init__(self):
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(1.5))

        def forward(self, x):
            with pyro.plate("data", 7):
                pyro.sample("z", dist.Gamma(2.0, self.rate))

    IWAE(num_particles=6, chunk_size=2).loss(rates, Rates(), x)  # seven of them, whatever the rows

    # A bound needs no second score.
    IWAE(num_particles=6, chunk_size=2, gradient="dreg").loss(vae, HamiltonianGuide(vae, encoder=Rows()), x)

    def sums(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0].cumsum(0))

    assert in_chunks_and_at_once(sums, MeanFieldGuide(sums, encoder=Rows()), x) == 2 * 3 * 7


def test_rows_are_members_of_the_plate_of_their_size():
    def grid(x, loc=0.0):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("features", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            return z if loc is x else pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    draw = partial(IWAE(num_particles=6, chunk_size=2)._draw, grid, lambda x: grid(x, x))
    assert plate_of_rows(draw, (), (torch.randn(7, 3),), {}) == "data"


def test_chunks_of_rows_are_a_part_of_a_part():
    problem = PROBLEMS["linear_vae"]()
    guide, (x,) = wide(problem.model, problem.encoder).setup(*problem.args), problem.args
    found = []
    for rows, options in ((slice(0, 4), {}), (slice(1, 3), {}), (slice(1, 3), {"chunk_size": 2, "gradient": "dreg"})):
        pyro.set_rng_seed(0)
        with Share("data", size=4, start=rows.start):
            found.append(IWAE(num_particles=4, **options).loss(problem.model, guide, x[rows]))
    assert found[1] != found[0]
    assert found[1] == pytest.approx(found[2], abs=1e-12)
    pyro.set_rng_seed(0)
    whole = standard_normal([5], ["data"], dtype=x.dtype, device=x.device)
    pyro.set_rng_seed(0)
    with Share("data", size=5, start=1), Share("data", size=3, start=2):
        assert standard_normal([1], ["data"], dtype=x.dtype, device=x.device) == whole[3]


def test_shares_of_any_law_differ_in_each_part_of_a_part():
    drawn = []
    for outer, inner in itertools.product((0, 2), (0, 1)):
        pyro.set_rng_seed(0)
        with Share("data", size=4, start=outer), Share("data", size=2, start=inner), pyro.plate("data", 1):
            drawn.append(float(pyro.sample("z", dist.Gamma(3.0, 1.0))))
    assert len(set(drawn)) == 4


def test_chunks_fit_in_svi():
    gaussian = OffsetGaussian(2)
    x = torch.tensor([[0.5, 0.1], [1.1, -0.4]])
    guide = MeanFieldGuide(gaussian).setup(x)
    svi = SVI(gaussian, guide, pyro.optim.Adam({"lr": 0.05}), IWAE(num_particles=4, chunk_size=2))
    before = Trace_ELBO(num_particles=200).loss(gaussian, guide, x)
    for _ in range(100):
        svi.step(x)
    assert Trace_ELBO(num_particles=200).loss(gaussian, guide, x) < before


# --------------------------------------------------------------------------------------------------------------- report


def test_report_knows_signal_and_noise_of_a_known_gradient():
    def model():
        pyro.sample("z", dist.Normal(torch.full((2,), 3.0), 1.0).to_event(1))

    guide = MeanFieldGuide(model, init_scale=0.5).setup()
    report = gradient_report(model, guide, objectives=[ELBO(gradient="stl"), ELBO()], num_draws=1500, seed=0)
    stl, reparam = report.to_dict("records")
    # By loc: z - 3 - (z - 0) / 0.25, with z = 0.5 e; by log scale the same times 0.5 e.
    slope, noise = 3.0, 0.5 - 0.5 / 0.25
    loc_variance, log_scale_variance = noise**2, (0.5 * slope) ** 2 + 2 * (0.5 * noise) ** 2
    assert stl["variance"] == pytest.approx(2 * (loc_variance + log_scale_variance), abs=4 * stl["variance_error"])
    norm = math.sqrt(2 * (slope**2 + (0.5 * noise) ** 2))
    # The norm varies as the gradient does along its mean, (slope, noise / 2): by 1.25 slope noise e + 0.25 noise^2 e^2.
    along = ((1.25 * slope * noise) ** 2 + 2 * (0.25 * noise**2) ** 2) / (norm**2 / 2)
    # 20 groups: the standard deviation of an error is its part of 1 / sqrt(2 * 19).
    assert stl["norm_error"] == pytest.approx(math.sqrt(along / 1500), rel=3 / math.sqrt(38))
    for row in (stl, reparam):
        assert row["norm"] == pytest.approx(norm, abs=4 * row["norm_error"])
        assert row["snr"] == pytest.approx(row["norm"] / math.sqrt(row["variance"]), rel=1e-6)
        assert 0 < row["snr_error"] < 0.1 * row["snr"]
        assert row["seconds"] > 0
    kl = dist.Normal(0.0, 0.5).entropy() - 0.5 * (9 + 0.25) - 0.5 * math.log(2 * math.pi)
    assert stl["bound"] == pytest.approx(2 * kl.item(), abs=4 * stl["bound_error"])
    assert guide.loc.grad is None


def test_report_shows_that_signal_drowns_in_iwae_and_not_in_dreg():
    problem = AMORTISED["linear_vae"]()
    guide = wide(problem.model, problem.encoder).setup(*problem.args)
    objectives = [make(num_particles=k, gradient=g) for make, k, g in ((IWAE, 64, "reparam"), (IWAE, 64, "dreg"))]
    state = torch.random.get_rng_state()
    report = gradient_report(problem.model, guide, *problem.args, objectives=objectives, num_draws=100, seed=0)
    snr = report[report["parameters"] == "guide"]["snr"].tolist()
    assert snr[1] > 3 * snr[0]
    assert torch.equal(state, torch.random.get_rng_state())


def test_report_takes_no_noise_for_signal():
    def model():
        pyro.sample("z", dist.Normal(torch.full((2,), 3.0), 1.0).to_event(1))

    guide = MeanFieldGuide(model, init_scale=1.0).setup()
    guide.loc.data += 3.0  # the best there is: the mean gradient is 0
    reports = [gradient_report(model, guide, objectives=[ELBO()], num_draws=20, seed=seed) for seed in range(8)]
    assert min(report["norm"].item() for report in reports) == 0


def test_report_needs_objectives_and_draws():
    with pytest.raises(OptionError, match="objectives must be a list"):
        gradient_report(two_sites, MeanFieldGuide(two_sites), TWO_X, objectives=[])
    with pytest.raises(OptionError, match="num_draws must be a whole number of at least 20"):
        gradient_report(two_sites, MeanFieldGuide(two_sites), TWO_X, objectives=[ELBO()], num_draws=5)
