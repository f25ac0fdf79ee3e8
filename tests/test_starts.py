"""guide.setup(init=...): where guides start, and that their laws stay what they were."""

from __future__ import annotations

import copy
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from guides import (
    AnnealedGuide,
    DataError,
    FullRankGuide,
    HamiltonianGuide,
    IAFGuide,
    MeanFieldGuide,
    ModelError,
    OptionError,
    PlanarGuide,
)
from ppl_models.objectives import ELBO, log_weights
from tests.contract.problems import AMORTISED, GLOBAL

STANDARD_ERRORS = 5.0

#: Constructors that leave the scale to the start.
FAMILIES = {
    "mean_field": MeanFieldGuide,
    "full_rank": FullRankGuide,
    "low_rank": lambda model: FullRankGuide(model, rank=1),
    "planar": lambda model: PlanarGuide(model, num_layers=2),
    "iaf": lambda model: IAFGuide(model, num_layers=2, hidden=(8,)),
    "hamiltonian": lambda model: HamiltonianGuide(model, num_steps=3, init_step_size=0.1),
    "annealed": lambda model: AnnealedGuide(model, num_steps=3, init_step_size=0.1),
}

#: What takes the place of "values" in each problem: anywhere, within reach of the posterior.
VALUES = {
    "offset_gaussian": {"z": torch.tensor([0.4, 0.2], dtype=torch.float64)},
    "gamma_poisson": {"rate": torch.tensor(1.7, dtype=torch.float64)},
    "groups": {
        "shares": torch.tensor([0.3, 0.4, 0.3], dtype=torch.float64),
        "level": torch.tensor([0.2, -0.3, 0.1], dtype=torch.float64),
    },
}

INITS = [None, "prior", "values", "laplace", "pathfinder"]


def tensors(guide):
    return [value for value in guide.state_dict().values() if isinstance(value, torch.Tensor)]


def start(family, name, init):
    problem = GLOBAL[name]()
    init = VALUES[name] if init == "values" else init
    return problem, FAMILIES[family](problem.model).setup(*problem.args, init=init)


def widen(guide):
    """Base scales that cover the posterior, as importance weights need."""
    with torch.no_grad():
        for name, parameter in guide.named_parameters():
            if name.endswith("log_scale"):
                parameter += math.log(1.2 / guide.whitening.unit)
    return guide


# What stays true wherever a guide starts.


@pytest.mark.parametrize(
    ("family", "name", "init"),
    [(family, "groups", init) for family in FAMILIES for init in INITS]
    + [
        (family, name, init)
        for family in ("mean_field", "full_rank", "iaf", "hamiltonian", "annealed")
        for name in ("offset_gaussian", "gamma_poisson")
        for init in ("prior", "laplace")
    ],
)
def test_the_evidence(family, name, init):
    problem, guide = start(family, name, init)
    if init == "laplace":
        with torch.no_grad():
            for key, parameter in guide.named_parameters():
                parameter += 0.05 + (0.1 if key.endswith("log_scale") else 0.0)  # the mode has lighter tails
    elif init != "pathfinder":
        widen(guide)
    with torch.no_grad():
        values = log_weights(problem.model, guide, *problem.args, num_particles=4000).values
    ratio = (values - problem.log_evidence).exp()
    error = ratio.std() / math.sqrt(len(ratio))
    assert error < 0.2, "the check would be too weak to see a fault"
    assert abs(ratio.mean() - 1) < STANDARD_ERRORS * error + 1e-9


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("family", ["mean_field", "hamiltonian"])
def test_pyro_s_elbos_agree_with_ours(family, init):
    problem, guide = start(family, "groups", init)
    with torch.no_grad():
        ours = log_weights(problem.model, guide, *problem.args, num_particles=4000).values
        for objective in (Trace_ELBO, TraceMeanField_ELBO):
            theirs = objective(num_particles=2000, vectorize_particles=True)
            theirs = theirs.loss(problem.model, guide, *problem.args)
            error = ours.std() * math.sqrt(1 / 4000 + 1 / 2000)
            assert abs(ours.mean() + theirs) < STANDARD_ERRORS * error + 1e-9


def test_a_mean_field_guide_is_no_product_of_sites_once_whitened():
    def sites(init):
        problem, guide = start("mean_field", "groups", init)
        return {*poutine.trace(guide).get_trace(*problem.args).stochastic_nodes} - {"groups"}  # its plate

    factors = {"shares", "shares_unconstrained", "level"}
    assert sites(None) == sites("prior") == sites("values") == factors
    for init in ("laplace", "pathfinder"):
        assert sites(init) == {"shares", "level", "_MeanFieldGuide_latent"}


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("family", ["mean_field", "annealed"])
def test_copies_and_files_keep_the_law(family, init):
    problem, guide = start(family, "groups", init)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += 0.1
    others = [copy.deepcopy(guide), pickle.loads(pickle.dumps(guide))]
    for other in (None, "prior", "laplace"):  # a guide that was itself set up in any other way
        others.append(start(family, "groups", other)[1])
        others[-1].load_state_dict(guide.state_dict())
    draws = []
    for each in (guide, *others):
        pyro.set_rng_seed(3)
        trace = poutine.trace(each).get_trace(*problem.args)
        draws.append((trace.log_prob_sum().item(), sorted(trace.stochastic_nodes)))
    assert all(draw == draws[0] for draw in draws)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("family", ["mean_field", "full_rank", "hamiltonian"])
def test_guides_change_their_dtype(family, init):
    def model(x):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), x.new_ones(2)).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, x.new_ones(2)).to_event(1), obs=x)

    x = torch.randn(5, 2)
    init = {"z": torch.zeros(2)} if init == "values" else init
    guide, twin = (FAMILIES[family](model).setup(x, init=init) for _ in range(2))
    twin.load_state_dict(guide.state_dict())
    expected = guide.posterior_mean(x)["z"].float()
    guide.to(torch.float32)
    assert {value.dtype for value in guide(x.float()).values()} == {torch.float32}
    assert {value.dtype for value in tensors(guide)} == {torch.float32}
    assert math.isfinite(ELBO(num_particles=2).loss(model, guide, x.float()))
    if family != "hamiltonian":
        torch.testing.assert_close(guide.posterior_mean(x.float())["z"], expected)


def test_a_file_of_another_dtype_is_taken_over_in_one_s_own():
    _, saved = start("full_rank", "groups", "laplace")
    _, guide = start("full_rank", "groups", None)
    guide.to(torch.float32).load_state_dict(saved.state_dict())
    assert {value.dtype for value in tensors(guide)} == {torch.float32}


def test_the_whitening_is_not_trained():
    problem, guide = start("mean_field", "groups", "laplace")
    before = guide.whitening.loc.clone(), guide.whitening.scale.clone()
    assert sorted(name for name, _ in guide.named_parameters()) == ["loc", "log_scale"]
    assert {"_whitening.loc", "_whitening.scale"} <= guide.state_dict().keys()
    svi = SVI(problem.model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    svi.step(*problem.args)
    assert torch.equal(before[0], guide.whitening.loc)
    assert torch.equal(before[1], guide.whitening.scale)
    assert guide.loc.abs().min() > 0


# Where they start.


def supports():
    pyro.sample("vector", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("positive", dist.LogNormal(0.0, 1.0))
    pyro.sample("interval", dist.Uniform(-1.0, 3.0))
    with pyro.plate("plate", 2):
        pyro.sample("cell", dist.Beta(2.0, 3.0))
    pyro.sample("simplex", dist.Dirichlet(torch.ones(3)))
    pyro.sample("cholesky", dist.LKJCholesky(3, 1.0))


def values():
    return {
        "vector": torch.tensor([0.5, -2.0]),
        "positive": torch.tensor(3.5),
        "interval": torch.tensor(-0.5),
        "cell": torch.tensor([0.2, 0.9]),
        "simplex": torch.tensor([0.2, 0.5, 0.3]),
        "cholesky": torch.linalg.cholesky(
            torch.tensor([[1.0, 0.4, -0.1], [0.4, 1.0, 0.2], [-0.1, 0.2, 1.0]], dtype=torch.float64)
        ),
    }


@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
def test_values_are_where_it_starts(family):
    guide = FAMILIES[family](supports).setup(init=values())
    medians = guide.quantiles(0.5, num_samples=4001)
    for name in ("vector", "positive", "interval", "cell"):
        torch.testing.assert_close(medians[name].detach(), values()[name])
    torch.testing.assert_close(guide.posterior_mean(num_samples=1)["vector"].detach(), values()["vector"])
    # Those whose elements mix: medians of draws, at a scale of 0.1.
    for name in ("simplex", "cholesky"):
        assert (medians[name] - values()[name]).abs().max() < 0.02
    assert guide.sample_posterior(2000)["vector"].std(0).tolist() == pytest.approx([0.1, 0.1], rel=0.1)


def test_values_may_be_given_as_plain_numbers():
    plain = {name: value.tolist() for name, value in values().items()}
    means = FullRankGuide(supports).setup(init=plain).quantiles(0.5, num_samples=2)
    assert means["positive"].item() == pytest.approx(3.5)


def test_prior_starts_amid_the_prior():
    def model():
        pyro.sample("far", dist.Normal(1000.0, 50.0))
        pyro.sample("tiny", dist.LogNormal(-20.0, 0.01))

    guide = MeanFieldGuide(model).setup(init="prior")
    median = guide.quantiles(0.5)
    # Medians of 200 draws have a standard error of 1.25 sd / sqrt(200).
    assert abs(median["far"].item() - 1000) < STANDARD_ERRORS * 50 * 1.25 / math.sqrt(200)
    assert abs(median["tiny"].log().item() + 20) < STANDARD_ERRORS * 0.01 * 1.25 / math.sqrt(200)
    draws = guide.sample_posterior(2000)
    assert draws["far"].std().item() == pytest.approx(0.1 * 50, rel=0.3)
    assert draws["tiny"].log().std().item() == pytest.approx(0.1 * 0.01, rel=0.3)


@pytest.mark.parametrize("init", ["prior", "laplace", "pathfinder"])
@pytest.mark.parametrize("scale", [20.0, 1000.0])
def test_far_priors(init, scale):
    # At 1000, exp() of most draws is 0 or infinite in floating point.
    def model(x):
        rate = pyro.sample("rate", dist.LogNormal(0.0, scale))
        pyro.sample("x", dist.Poisson(rate), obs=x)

    guide = MeanFieldGuide(model).setup(torch.tensor(40.0), init=init)
    assert all(torch.isfinite(value).all() for value in tensors(guide))
    if init != "prior":
        assert guide.quantiles(0.5)["rate"].item() == pytest.approx(40.0, rel=0.1)


@pytest.mark.parametrize("init", ["prior", "laplace", "pathfinder"])
def test_prior_draws_at_which_the_likelihood_is_invalid(init):
    def model(x):
        log_scale = pyro.sample("log_scale", dist.Normal(0.0, 1000.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, log_scale.exp()), obs=x)

    x = torch.randn(100)
    guide = MeanFieldGuide(model).setup(x, init=init)
    assert all(torch.isfinite(value).all() for value in tensors(guide))
    if init != "prior":
        expected = x.square().mean().log().item() / 2
        assert guide.posterior_mean(x)["log_scale"].item() == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("shape", [(), torch.Size([])])
@pytest.mark.parametrize("init", INITS)
def test_improper_priors(init, shape):
    def model(x, y):
        slope = pyro.sample("slope", dist.ImproperUniform(constraints.real, shape, shape))
        scale = pyro.sample("scale", dist.ImproperUniform(constraints.positive, shape, shape))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(slope * x, scale), obs=y)

    x = torch.randn(50)
    y = 2 * x + 0.3 * torch.randn(50)
    start = {"slope": torch.tensor(1.0), "scale": torch.tensor(2.0)} if init == "values" else init
    guide = FullRankGuide(model).setup(x, y, init=start)
    assert math.isfinite(ELBO(num_particles=2).loss(model, guide, x, y))
    if init in ("laplace", "pathfinder"):
        least_squares = (x @ y / (x @ x)).item()
        sd = 0.3 / x.norm().item()
        assert guide.posterior_mean(x, y)["slope"].item() == pytest.approx(least_squares, abs=0.1 * sd)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_regression_in_raw_units_is_solved_by_its_start(family):
    # Year, income and their product: condition number above 1e6; the posterior given sigma is normal, by hand.
    year = 1950 + 70 * torch.rand(60)
    income = 2e4 + 5e4 * torch.rand(60)
    design = torch.stack([torch.ones(60), year, income, year * income], -1)
    y = 3.0 + 0.01 * year - 1e-5 * income + 2.0 * torch.randn(60)
    scales = torch.tensor([1e3, 1.0, 1.0, 1e-2])
    assert torch.linalg.cond(design) > 1e6

    def model(design, y):
        weights = pyro.sample("weights", dist.Normal(torch.zeros(4), scales).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal((weights * design).sum(-1), 2.0), obs=y)

    precision = (scales**-2).diag() + design.T @ design / 4.0
    mean = torch.linalg.solve(precision, design.T @ y / 4.0)
    sd = precision.inverse().diagonal().sqrt()
    guide = FAMILIES[family](model).setup(design, y, init="laplace")
    draws = guide.sample_posterior(4000, design, y)["weights"]
    assert ((draws.mean(0) - mean) / sd).abs().max() < 0.1
    if family not in ("planar", "iaf", "hamiltonian", "annealed"):  # which start near, not at, the identity
        assert (draws.std(0) / sd).log().abs().max() < 0.1


# Encoders.


@pytest.mark.parametrize("init", ["laplace", "pathfinder", {"z": torch.zeros(4, 2)}])
@pytest.mark.parametrize("family", [MeanFieldGuide, HamiltonianGuide])
def test_with_an_encoder_there_is_no_one_posterior(family, init):
    problem = AMORTISED["linear_vae"]()
    with pytest.raises(OptionError, match="with an encoder init must be 'prior' or None: every datum has a posterior"):
        family(problem.model, encoder=problem.encoder).setup(*problem.args, init=init)


@pytest.mark.parametrize("family", [MeanFieldGuide, HamiltonianGuide, AnnealedGuide])
def test_an_encoder_s_numbers_are_in_units_of_the_prior(family):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.tensor(0.0))

        def forward(self, x):
            return torch.stack([self.shift.expand_as(x), torch.zeros_like(x)], -1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(100.0, 7.0))
            pyro.sample("x", dist.Normal(z, 20.0), obs=x)

    x = torch.tensor([90.0, 105.0, 120.0])
    guide = family(model, encoder=Fixed()).setup(x, init="prior")
    assert abs(guide.whitening.loc.item() - 100) < STANDARD_ERRORS * 7 * 1.25 / math.sqrt(200)
    assert guide.whitening.scale.item() == pytest.approx(7.0, rel=0.3)
    with torch.no_grad():
        values = log_weights(model, guide, x, num_particles=10_000).values
    ratio = (values - dist.Normal(100.0, math.hypot(7.0, 20.0)).log_prob(x)).exp()
    assert ((ratio.mean(0) - 1).abs() < STANDARD_ERRORS * ratio.std(0) / 100).all()


# Errors.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positive": None}, r"init must give a value for each latent \(vector, positive, .*\); got vector, interval"),
        ({"unknown": torch.tensor(1.0)}, r"init must give a value for each latent .*; got .*unknown"),
        ({"vector": torch.zeros(3)}, r"init must give 'vector' a value of shape \(2,\) .*; got shape \(3,\) with"),
        ({"vector": torch.zeros(5, 2)}, r"'vector' a value of shape \(2,\) .*; got shape \(5, 2\)\.$"),
        ({"cell": torch.tensor(0.5)}, r"'cell' a value of shape \(2,\) .*; got shape \(\)"),
        ({"positive": torch.tensor(-1.0)}, r"init must give 'positive' .* in its support, .*; got .* with value -1.0"),
        ({"interval": torch.tensor(4.0)}, "init must give 'interval' .* with value 4.0"),
        ({"simplex": torch.tensor([0.5, 0.5, 0.5])}, "init must give 'simplex'"),
        ({"vector": torch.tensor([math.nan, 0.0])}, "init must give 'vector'"),
        ({"cholesky": torch.eye(3) * 2}, "init must give 'cholesky'"),
    ],
)
def test_wrong_values_are_refused(change, message):
    given = {name: value for name, value in (values() | change).items() if value is not None}
    with pytest.raises(DataError, match=message):
        FullRankGuide(supports).setup(init=given)


def test_values_at_the_edge_of_a_support_are_refused():
    with pytest.raises(DataError, match="init must give 'rate'"):
        MeanFieldGuide(lambda: pyro.sample("rate", dist.Gamma(2.0, 1.0))).setup(init={"rate": torch.tensor(0.0)})


@pytest.mark.parametrize("init", ["laplce", "Laplace", "priors"])
def test_unknown_starts_are_refused(init):
    with pytest.raises(OptionError, match="init must be one of 'prior', 'laplace', 'pathfinder'; got .* Did you mean"):
        MeanFieldGuide(supports).setup(init=init)


@pytest.mark.parametrize("init", [3, ["laplace"], torch.zeros(2)])
def test_what_is_no_start_is_refused(init):
    with pytest.raises(OptionError, match="init must be a name or a dictionary of values by site; got"):
        MeanFieldGuide(supports).setup(init=init)


def test_a_start_is_given_once_and_to_the_innermost():
    guide = MeanFieldGuide(supports).setup()
    with pytest.raises(OptionError, match="init must be given with the first setup; got it for a guide that is set up"):
        guide.setup(init="prior")
    assert guide.setup() is guide
    with pytest.raises(OptionError, match="init must not be given above a base that is set up already"):
        IAFGuide(supports, base=guide).setup(init="laplace")
    base = MeanFieldGuide(supports).setup(init="prior")
    assert IAFGuide(supports, base=base).setup().whitening is base.whitening
    chain = HamiltonianGuide(supports, base=IAFGuide(supports)).setup(init="prior")
    assert chain.whitening is chain.base.base.whitening
    assert chain.whitening.is_diagonal
    assert chain.whitening.loc is not None


def test_a_posterior_without_a_mode_is_refused():
    def model():
        pyro.sample("z", dist.ImproperUniform(constraints.real, torch.Size([]), torch.Size([])))
        pyro.factor("up", pyro.sample("y", dist.Normal(0.0, 1.0)).exp())

    with pytest.raises(ModelError, match="laplace found no mode"):
        MeanFieldGuide(model).setup(init="laplace")


def test_the_scale_starts_at_the_posterior_s_where_it_is_known():
    for init, unit in ((None, 0.1), ("prior", 0.1), ("values", 0.1), ("laplace", 1.0), ("pathfinder", 1.0)):
        for family in ("mean_field", "full_rank"):
            _, guide = start(family, "gamma_poisson", init)
            assert guide.log_scale.exp().item() == pytest.approx(unit)
    problem = GLOBAL["gamma_poisson"]()
    told = MeanFieldGuide(problem.model, init_scale=0.3).setup(*problem.args, init="laplace")
    assert told.log_scale.exp().item() == pytest.approx(0.3)


def takes_one_vector(x, y):
    slope = pyro.sample("slope", dist.Normal(torch.zeros(2), 1000.0).to_event(1))
    noise = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ slope, noise), obs=y)


@pytest.fixture
def few_starts(monkeypatch):
    """The origin, the prior's median and one draw, where each climb is long."""
    monkeypatch.setattr("guides.starts.STARTS", 3)


@pytest.mark.usefixtures("few_starts")
@pytest.mark.parametrize("init", ["laplace", "pathfinder"])
def test_models_that_take_one_vector_at_a_time_are_searched_row_by_row(init):
    x = torch.randn(30, 2) * torch.tensor([1e3, 1e-2])
    y = x @ torch.tensor([2e-3, 150.0]) + 0.5 * torch.randn(30)
    guide = HamiltonianGuide(takes_one_vector, num_steps=2).setup(x, y, init=init)
    means = guide.posterior_mean(x, y, num_samples=200)
    precision = x.T @ x / 0.25 + torch.eye(2) / 1e6
    exact, sds = torch.linalg.solve(precision, x.T @ y / 0.25), precision.inverse().diagonal().sqrt()
    assert ((means["slope"] - exact).abs() < sds).all()


@pytest.mark.usefixtures("few_starts")
@pytest.mark.parametrize(
    "law", [dist.HalfCauchy(5.0), dist.HalfNormal(5.0), dist.Exponential(0.2)], ids=lambda law: type(law).__name__
)
def test_unbounded_densities_have_no_laplace_start(law):
    y, error = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12]), torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])

    def centred(y, error):
        mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
        spread = pyro.sample("spread", law)
        with pyro.plate("schools", 8):
            effect = pyro.sample("effect", dist.Normal(mean, spread))
            pyro.sample("y", dist.Normal(effect, error), obs=y)

    with pytest.raises(ModelError, match="laplace found no mode"):
        FullRankGuide(centred).setup(y, error, init="laplace")
    guide = FullRankGuide(centred).setup(y, error, init="pathfinder")
    assert math.isfinite(Trace_ELBO(num_particles=20, vectorize_particles=True).loss(centred, guide, y, error))


def test_a_whitening_in_a_module_is_loaded_in_the_dtype_of_its_guide():
    problem = GLOBAL["offset_gaussian"]()
    saved = nn.ModuleList([FullRankGuide(problem.model).setup(*problem.args, init="laplace")]).float().state_dict()
    holder = nn.ModuleList([FullRankGuide(problem.model).setup(*problem.args)])
    holder.load_state_dict(saved)
    assert holder[0].whitening.loc.dtype == torch.float64
    holder[0](*problem.args)


@pytest.mark.parametrize("init", ["laplace", "pathfinder"])
def test_a_posterior_is_not_looked_for_in_a_minibatch(init):
    def model(x, size):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), subsample_size=size) as rows:
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x[rows])

    x = torch.randn(30)
    with pytest.raises(ModelError, match=f"init='{init}' needs all data; the plate 'data' looks at 5 of 30"):
        FullRankGuide(model).setup(x, 5, init=init)
    guide = FullRankGuide(model).setup(x, None, init=init)
    assert (guide.posterior_mean(x, 5)["loc"] - x.sum() / 31).abs() < 0.2 / math.sqrt(31)


def test_latents_of_several_dtypes_share_the_widest():
    def model():
        pyro.sample("narrow", dist.Normal(torch.tensor(0.0, dtype=torch.float32), 1.0))
        pyro.sample("wide", dist.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0))

    guide = FullRankGuide(model).setup(init="laplace")
    assert guide.space.dtype == torch.float64
    guide()
