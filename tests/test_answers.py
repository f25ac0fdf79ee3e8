"""What a guide says of each site: draws, means and quantiles; exact where they can be."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from torch import nn

from guides import FullRankGuide, Guide, GuideList, IAFGuide, MeanFieldGuide, OptionError
from tests.contract.registry import FOR_ANY_MODEL

STANDARD_ERRORS = 5.0

LEVELS = [0.1, 0.5, 0.8]


def everything():
    """Every layout of a site: numbers, vectors, matrices, a simplex, plates on either side."""
    pyro.sample("number", dist.Normal(0.0, 1.0))
    pyro.sample("matrix", dist.Normal(torch.zeros(2, 4), 1.0).to_event(2))
    pyro.sample("cholesky", dist.LKJCholesky(3, 1.0))
    with pyro.plate("columns", 2, dim=-1):
        pyro.sample("shares", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("rows", 3, dim=-2):
            pyro.sample("cell", dist.LogNormal(torch.zeros(3, 2), 1.0))


SHAPES = {"number": (), "matrix": (2, 4), "cholesky": (3, 3), "shares": (2, 3), "cell": (3, 2)}


def halves(model: object) -> GuideList:
    return GuideList(
        model, [MeanFieldGuide(model, expose=["matrix", "cell"]), IAFGuide(model, hide=["matrix", "cell"])]
    )


FAMILIES = FOR_ANY_MODEL | {"list": halves, "low_rank": lambda model: FullRankGuide(model, rank=2)}


@pytest.fixture(params=FAMILIES)
def guide(request) -> Guide:
    return FAMILIES[request.param](everything).setup()


# Shapes.


def test_draws_come_first(guide):
    draws = guide.sample_posterior(7)
    assert {name: tuple(values.shape) for name, values in draws.items()} == {n: (7, *s) for n, s in SHAPES.items()}
    assert not any(values.requires_grad for values in draws.values())
    sites = poutine.trace(everything).get_trace().nodes
    for name, values in draws.items():
        assert sites[name]["fn"].support.check(values).all()
        assert values.std(0).max() > 0


def test_means_and_quantiles_have_the_site_s_shape(guide):
    means, single = guide.posterior_mean(num_samples=20), guide.quantiles(0.3, num_samples=20)
    several = guide.quantiles(LEVELS, num_samples=20)
    for name, shape in SHAPES.items():
        assert means[name].shape == single[name].shape == shape
        assert several[name].shape == (3, *shape)
        assert (several[name].diff(dim=0) >= 0).all()
    assert guide.sample_posterior(1)["matrix"].shape == (1, 2, 4)


def test_answers_are_numbers_to_read(guide):
    # Without a graph, so that .numpy() works.
    for answer in (guide.sample_posterior(2), guide.posterior_mean(num_samples=2), guide.quantiles(0.5, num_samples=2)):
        assert not any(values.requires_grad for values in answer.values())


def test_answers_depend_on_the_seed_alone(guide):
    def answers():
        pyro.set_rng_seed(5)
        draws = guide.sample_posterior(4)
        return [*draws.values(), *guide.posterior_mean(num_samples=4).values(), *guide.quantiles(0.2).values()]

    assert all(torch.equal(a, b) for a, b in zip(answers(), answers(), strict=True))
    assert not torch.equal(guide.sample_posterior(4)["cell"], guide.sample_posterior(4)["cell"])


def test_answers_leave_no_trace(guide):
    with poutine.trace() as outer:
        guide.sample_posterior(3)
        guide.posterior_mean(num_samples=3)
        guide.quantiles(0.5, num_samples=3)
    assert not outer.trace.nodes
    assert not pyro.get_param_store().keys()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_answers_without_gradients(guide, mode):
    with mode():
        values = [
            guide.sample_posterior(3),
            guide.posterior_mean(num_samples=3),
            guide.quantiles(LEVELS, num_samples=3),
        ]
    assert all(torch.isfinite(value).all() for answer in values for value in answer.values())
    assert all(torch.isfinite(value).all() for value in guide().values())  # and it can still be trained
    sum(value.sum() for value in guide().values()).backward()


# Numbers.


class Below(dist.Normal):
    """Any law on the numbers below 2: its bijection is decreasing."""

    support = constraints.less_than(2.0)


def supports():
    pyro.sample("real", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("positive", dist.LogNormal(0.0, 1.0))
    pyro.sample("interval", dist.Uniform(-1.0, 3.0))
    pyro.sample("below", Below(0.0, 1.0))
    pyro.sample("share", dist.Dirichlet(torch.ones(3)))


def spread_out(guide):
    """Parameters of no special value: locations, scales and correlations all count."""
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return guide


NORMAL = {
    "mean_field": MeanFieldGuide,
    "full_rank": FullRankGuide,
    "low_rank": lambda model: FullRankGuide(model, rank=2),
    "list": lambda model: GuideList(
        model, [FullRankGuide(model, expose=["real", "below"]), MeanFieldGuide(model, hide=["real", "below"])]
    ),
}


def moments(guide):
    """Mean and sd of the unconstrained vector, from the parameters by hand, by site."""
    found = {}
    for part in guide.members if isinstance(guide, GuideList) else [guide]:
        scale = part.log_scale.exp()
        if isinstance(part, MeanFieldGuide):
            sd = scale
        elif part.rank is not None:
            sd = scale * (1 + part.factor.square().sum(-1)).sqrt()
        else:
            rows = torch.eye(len(scale))
            rows[*torch.tril_indices(len(scale), len(scale), -1)] = part.lower.detach()
            sd = scale * rows.norm(dim=-1)
        for site in part.space.sites:
            found[site.name] = part.loc[site.coordinates].detach(), sd[site.coordinates].detach()
    return found


@pytest.mark.parametrize("family", NORMAL)
def test_quantiles_of_normal_guides_are_exact(family):
    guide = spread_out(NORMAL[family](supports).setup())
    found, by_hand = guide.quantiles(LEVELS, num_samples=2), moments(guide)
    # The normal quantiles, Phi^-1(0.1), 0 and Phi^-1(0.8), from a table.
    units = torch.tensor([-1.2815515655446004, 0.0, 0.8416212335729143])[:, None]
    unconstrained = {name: loc + units * sd for name, (loc, sd) in by_hand.items()}
    expected = {
        "real": unconstrained["real"],
        "positive": unconstrained["positive"].exp()[:, 0],
        "interval": -1 + 4 * unconstrained["interval"].sigmoid()[:, 0],
        # u -> 2 - exp(u) falls: its 10 % quantile is the image of the 90 % one.
        "below": 2 - (by_hand["below"][0] - units * by_hand["below"][1]).exp()[:, 0],
    }
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values)


@pytest.mark.parametrize("family", NORMAL)
def test_quantiles_are_those_of_the_draws(family):
    guide = spread_out(NORMAL[family](supports).setup())
    found, draws = guide.quantiles(LEVELS, num_samples=20_000), guide.sample_posterior(20_000)
    for name, values in draws.items():
        for level, quantile in zip(LEVELS, found[name], strict=True):
            share = (values <= quantile).double().mean(0)
            # Where quantiles are themselves of draws, both are noisy.
            assert (share - level).abs().max() < STANDARD_ERRORS * math.sqrt(2 * level * (1 - level) / 20_000), name


@pytest.mark.parametrize("family", NORMAL)
def test_means_of_real_sites_are_exact(family):
    guide = spread_out(NORMAL[family](supports).setup())
    torch.testing.assert_close(guide.posterior_mean(num_samples=1)["real"].detach(), moments(guide)["real"][0])


@pytest.mark.parametrize("family", ["mean_field", "hamiltonian", "iaf"])
def test_other_means_are_within_their_errors(family):
    guide = FAMILIES[family](supports).setup()
    with torch.no_grad():
        for name, parameter in guide.named_parameters():
            if name.endswith("log_scale"):
                parameter += 1.5
    mean, draws = guide.posterior_mean(num_samples=5000), guide.sample_posterior(20_000)
    for name, values in draws.items():
        error = values.std(0) * math.sqrt(1 / 5000 + 1 / 20_000)
        assert ((mean[name].detach() - values.mean(0)).abs() < STANDARD_ERRORS * error).all(), name
    # E exp(u) = exp(m + s^2 / 2), not exp(m).
    if family == "mean_field":
        loc, sd = moments(guide)["positive"]
        exact = (loc + sd.square() / 2).exp()
        spread = exact * (sd.square().exp() - 1).sqrt()
        assert abs(mean["positive"] - exact) < STANDARD_ERRORS * spread / math.sqrt(5000)


@pytest.mark.parametrize("family", ["mean_field", "full_rank", "low_rank"])
def test_answers_of_a_whitened_guide_are_in_the_model_s_units(family):
    covariance = torch.tensor([[4.0, 1.9], [1.9, 1.0]])

    def model():
        pyro.sample("z", dist.MultivariateNormal(torch.tensor([50.0, -3.0]), covariance))
        pyro.sample("rate", dist.LogNormal(4.0, 0.01))

    guide = NORMAL[family](model).setup(init="laplace")
    if family == "low_rank":
        guide.factor.data.zero_()  # its slight correlations at the start
    mean, quantiles = guide.posterior_mean(num_samples=1), guide.quantiles([0.5, 0.8413447460685429], num_samples=1)
    torch.testing.assert_close(mean["z"].detach(), torch.tensor([50.0, -3.0]))
    torch.testing.assert_close(quantiles["z"][1].detach(), torch.tensor([52.0, -2.0]))
    assert quantiles["rate"].detach().log().tolist() == pytest.approx([4.0, 4.01])
    draws = guide.sample_posterior(20_000)["z"]
    assert (draws.T.cov() - covariance).abs().max() < STANDARD_ERRORS * 4 * math.sqrt(2 / 20_000)


# Amortised guides.


class Halving(nn.Module):
    """The posterior N(x / 2, 1 / 2) of z ~ N(0, 1), x ~ N(z, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, **_):
        return torch.stack([self.slope * x, torch.full_like(x, 0.5 * math.log(0.5))], -1)


def local(x, subsample_size=None):
    with pyro.plate("data", len(x), subsample_size=subsample_size) as rows:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])


@pytest.mark.parametrize("family", ["mean_field", "hamiltonian", "annealed"])
def test_amortised_answers_are_per_datum(family):
    x = torch.tensor([-3.0, 0.0, 1.0, 5.0])
    guide = FOR_ANY_MODEL[family](local, encoder=Halving()).setup(x)
    assert guide.sample_posterior(6, x)["z"].shape == (6, 4)
    assert guide.sample_posterior(6, x[:3])["z"].shape == (6, 3)
    sd, num = math.sqrt(0.5), 4000
    mean = guide.posterior_mean(x, num_samples=num)["z"].detach()
    low, high = guide.quantiles([0.1, 0.9], x, num_samples=num)["z"].detach()
    if family == "mean_field":
        torch.testing.assert_close(mean, x / 2)
        torch.testing.assert_close(low, x / 2 - 1.2815515655446004 * sd)
        torch.testing.assert_close(high, x / 2 + 1.2815515655446004 * sd)
    else:  # trajectories from the posterior stay near it
        assert (mean - x / 2).abs().max() < 0.1
        assert ((low < mean) & (mean < high)).all()


def test_subsampled_answers_are_of_the_rows_drawn():
    x = torch.arange(10.0)
    guide = MeanFieldGuide(local, encoder=Halving()).setup(x)
    assert guide.sample_posterior(5, x, subsample_size=3)["z"].shape == (5, 3)
    means = guide.posterior_mean(x, subsample_size=3)["z"].detach()
    assert set((2 * means).round(decimals=6).tolist()) <= set(x.tolist())
    assert len(set(means.tolist())) == 3


# Errors.


@pytest.mark.parametrize("level", [0, 1, 0.0, 1.0, -0.1, 2, math.nan, [0.5, math.nan], [0.1, 1.0], [[0.5]]])
def test_levels_outside_zero_and_one_are_refused(level):
    with pytest.raises(OptionError, match="q must be a number or a list of numbers between 0 and 1; got"):
        MeanFieldGuide(supports).quantiles(level)


@pytest.mark.parametrize("number", [0, -1, 2.5, True, "3", None])
def test_wrong_numbers_of_draws_are_refused(number):
    guide = MeanFieldGuide(supports).setup()
    for ask in (
        lambda: guide.sample_posterior(number),
        lambda: guide.posterior_mean(num_samples=number),
        lambda: guide.quantiles(0.5, num_samples=number),
    ):
        with pytest.raises(OptionError, match="num_samples must be a whole number of at least 1; got"):
            ask()


# By name.


@pytest.mark.parametrize("name", FOR_ANY_MODEL)
def test_guides_are_made_by_name(name):
    import guides

    made = guides.build(name, supports)
    assert type(made) is FOR_ANY_MODEL[name]
    assert made.model is supports
    with pytest.raises(TypeError, match="unexpected keyword argument 'num_stepps'"):
        guides.build(name, supports, num_stepps=3)


def test_names_and_options_of_build():
    import guides

    assert guides.build("hamiltonian", supports, num_steps=3).num_steps == 3
    assert guides.build("full_rank", supports, rank=2, hide=["real"]).setup().space.dim == 5
    with pytest.raises(
        OptionError, match="must be one of 'annealed', .*; got 'hamiltonean'. Did you mean 'hamiltonian'"
    ):
        guides.build("hamiltonean", supports)
    with pytest.raises(OptionError, match="got 'xyz'.$"):
        guides.build("xyz", supports)
