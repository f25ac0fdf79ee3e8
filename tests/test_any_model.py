"""Any model: supports, plates, masks, factors, modules; and clear words where the model changes under the guide."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn

import guides
from guides import MeanFieldGuide, ModelError
from ppl_models.objectives import ELBO, log_weights
from tests.contract.registry import FOR_ANY_MODEL
from tests.contract.registry import GUIDES as WIDE

STANDARD_ERRORS = 5.0

pytestmark = pytest.mark.filterwarnings(
    "ignore:Singular sample detected"
)  # torch says so of all it draws from a Wishart


@dataclass(frozen=True)
class Case:
    """A model and its arguments; the exact log evidence where there is one."""

    model: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    log_evidence: float | None = None
    vectorize: bool = True


# The models.

EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=torch.float64)
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], dtype=torch.float64)


def centred(effects, errors):
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    spread = pyro.sample("spread", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(effects)):
        effect = pyro.sample("effect", dist.Normal(mean, spread))
        pyro.sample("y", dist.Normal(effect, errors), obs=effects)


def non_centred(effects, errors):
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    spread = pyro.sample("spread", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(effects)):
        unit = pyro.sample("unit", dist.Normal(0.0, 1.0))
        effect = pyro.deterministic("effect", mean + spread * unit)
        pyro.sample("y", dist.Normal(effect, errors), obs=effects)


def correlations(x):
    scales = pyro.sample("scales", dist.LogNormal(torch.zeros(3), 0.5).to_event(1))
    cholesky = pyro.sample("cholesky", dist.LKJCholesky(3, 2.0))
    with pyro.plate("data", len(x)):
        factor = scales[..., None] * cholesky
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(3), scale_tril=factor), obs=x)


def precision(x):
    matrix = pyro.sample("matrix", dist.Wishart(torch.tensor(6.0), precision_matrix=4 * torch.eye(2)))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), precision_matrix=matrix), obs=x)


def wishart_case() -> Case:
    x = torch.tensor([[0.5, 0.3], [-0.7, 0.4], [1.0, -0.2]])
    n, d, df, inverse_scale = 3, 2, 6.0, 4 * torch.eye(2)

    def log_norm(df, inverse_scale):
        half = torch.tensor(df / 2)
        return df * d / 2 * math.log(2) - df / 2 * torch.logdet(inverse_scale) + torch.special.multigammaln(half, d)

    exact = log_norm(df + n, inverse_scale + x.T @ x) - log_norm(df, inverse_scale) - n * d / 2 * math.log(2 * math.pi)
    return Case(precision, (x,), log_evidence=exact.item())


def cut_points(y):
    """Ordered vectors inside a plate; nothing else is observed, so that the evidence is 1."""
    with pyro.plate("plate", 2):
        normal = dist.Normal(torch.zeros(3), 0.7).to_event(1)
        pyro.sample("cuts", dist.TransformedDistribution(normal, [dist.transforms.OrderedTransform()]))


def ballots(votes):
    with pyro.plate("wards", len(votes)):
        shares = pyro.sample("shares", dist.Dirichlet(torch.full((3,), 4.0)))
        pyro.sample("votes", dist.Multinomial(5, shares), obs=votes)


def ballots_case() -> Case:
    votes, prior = torch.tensor([[2.0, 2.0, 1.0], [1.0, 1.0, 3.0]]), torch.full((3,), 4.0)
    return Case(ballots, (votes,), log_evidence=dist.DirichletMultinomial(prior, 5).log_prob(votes).sum().item())


def blocks(x):
    z = pyro.sample("z", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))
    pyro.sample("x", dist.Normal(z, 1.0).to_event(2), obs=x)


def nested(x):
    with pyro.plate("rows", 2, dim=-2):
        row = pyro.sample("row", dist.Normal(0.0, 0.7))
        with pyro.plate("columns", 3, dim=-1):
            cell = pyro.sample("cell", dist.Normal(row, 0.8))
            pyro.sample("x", dist.Normal(cell, 1.0), obs=x)


def crossed(x):
    rows, columns = pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 3, dim=-1)
    with columns:
        right = pyro.sample("right", dist.Normal(0.0, 0.7))
    with rows:
        left = pyro.sample("left", dist.Normal(0.0, 0.8))
    with rows, columns:
        pyro.sample("x", dist.Normal(left + right, 1.0), obs=x)


def table_case(model, own: float) -> Case:
    x = torch.tensor([[0.5, -0.3, 1.0], [0.1, 0.2, -0.9]])
    same_row, same_column = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3)), torch.eye(3).repeat(2, 2)
    if model is nested:
        covariance = 0.49 * same_row + (0.64 + 1) * torch.eye(6)
    else:
        covariance = 0.64 * same_row + 0.49 * same_column + torch.eye(6)
    return Case(
        model, (x,), log_evidence=dist.MultivariateNormal(torch.zeros(6), covariance).log_prob(x.view(-1)).item()
    )


def weighted(x):
    """A factor, a mask, a scale and a deterministic site."""
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.deterministic("twice", 2 * z)
    pyro.factor("penalty", -0.3 * z.square() + 0.2)
    with poutine.mask(mask=torch.tensor([True, False, True])), poutine.scale(scale=0.5), pyro.plate("data", 3):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def weighted_case() -> Case:
    x, z = torch.tensor([0.4, 100.0, -0.6]), torch.linspace(-12, 12, 20_001)
    log_p = dist.Normal(0.0, 1.0).log_prob(z) - 0.3 * z.square() + 0.2
    log_p = log_p + 0.5 * (dist.Normal(z, 1.0).log_prob(x[0]) + dist.Normal(z, 1.0).log_prob(x[2]))
    return Case(weighted, (x,), log_evidence=math.log(torch.trapezoid(log_p.exp(), z).item()))


def with_keywords(x, *, noise, offset=0.0, **_):
    z = pyro.sample("z", dist.Normal(offset, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, noise), obs=x)


def keywords_case() -> Case:
    x = torch.tensor([0.5, 0.9])
    exact = dist.MultivariateNormal(torch.full((2,), 0.3), 1 + 0.64 * torch.eye(2)).log_prob(x)
    return Case(with_keywords, (x,), {"noise": 0.8, "offset": 0.3, "other": "text"}, exact.item())


class Regression(PyroModule):
    """A layer with random weights, which takes one set of them at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = PyroModule[nn.Linear](2, 1)
        self.layer.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
        self.layer.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

    def forward(self, x: Tensor, y: Tensor) -> None:
        mean = self.layer(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def regression_case() -> Case:
    x, y = torch.tensor([[0.5, -1.0], [0.2, 0.3], [-0.8, 0.6]]), torch.tensor([0.4, -0.2, 0.7])
    design = torch.cat([x, torch.ones(3, 1)], -1)
    exact = dist.MultivariateNormal(torch.zeros(3), design @ design.T + torch.eye(3)).log_prob(y)
    return Case(Regression(), (x, y), log_evidence=exact.item(), vectorize=False)


def modes(x):
    components = dist.Normal(torch.tensor([-1.0, 1.0]), 0.6)
    z = pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.3, 0.7])), components))
    pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def modes_case() -> Case:
    x = torch.tensor(0.5)
    parts = dist.Normal(torch.tensor([-1.0, 1.0]), math.sqrt(1.36)).log_prob(x).exp()
    return Case(modes, (x,), log_evidence=math.log((parts @ torch.tensor([0.3, 0.7])).item()))


CASES: dict[str, Callable[[], Case]] = {
    "eight_schools-centred": lambda: Case(centred, (EFFECTS, ERRORS)),
    "eight_schools-non_centred": lambda: Case(non_centred, (EFFECTS, ERRORS)),
    "lkj": lambda: Case(correlations, (torch.tensor([[0.5, -0.3, 1.0], [0.1, 0.2, -0.9]]),)),
    "wishart": wishart_case,
    "ordered": lambda: Case(cut_points, (None,), log_evidence=0.0),
    "simplex": ballots_case,
    "to_event": lambda: Case(
        blocks, (torch.full((2, 3), 0.3),), log_evidence=6 * dist.Normal(0, 2**0.5).log_prob(torch.tensor(0.3)).item()
    ),
    "nested": lambda: table_case(nested, 0.64),
    "crossed": lambda: table_case(crossed, 0.64),
    "weighted": weighted_case,
    "keywords": keywords_case,
    "module": regression_case,
    "mixture": modes_case,
}
KNOWN = [name for name, make in CASES.items() if not name.startswith("eight") and name != "lkj"]


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return CASES[request.param]()


@pytest.mark.parametrize("name", FOR_ANY_MODEL)
def test_every_guide_takes_every_model(case, name):
    guide = guides.build(name, case.model).setup(*case.args, **case.kwargs)
    sites = poutine.trace(case.model).get_trace(*case.args, **case.kwargs).nodes
    values = guide(*case.args, **case.kwargs)
    latents = {
        key
        for key, site in sites.items()
        if site["type"] == "sample" and not site["is_observed"] and "_Subsample" not in type(site["fn"]).__name__
    }
    assert values.keys() == latents
    for key, value in values.items():
        assert value.shape == sites[key]["value"].shape
        assert sites[key]["fn"].support.check(value).all()

    # One look at the model, ours and Pyro's: the same draws have the same weights.
    nesting = guide.space.max_plate_nesting
    options = {"num_particles": 3, "vectorize_particles": case.vectorize}
    pyro.set_rng_seed(2)
    ours = log_weights(case.model, guide, *case.args, max_plate_nesting=nesting, **options, **case.kwargs).values
    pyro.set_rng_seed(2)
    theirs = Trace_ELBO(max_plate_nesting=nesting, **options).loss(case.model, guide, *case.args, **case.kwargs)
    assert ours.shape[0] == 3
    assert ours.detach().reshape(3, -1).sum(1).mean().item() == pytest.approx(-theirs, rel=1e-9)

    ELBO(**options).loss_and_grads(case.model, guide, *case.args, **case.kwargs)
    for key, parameter in guide.named_parameters():
        assert torch.isfinite(parameter.grad).all(), key
    if case.vectorize:
        draws = guide.sample_posterior(4, *case.args, **case.kwargs)
        assert all(draws[key].shape == (4, *value.shape) for key, value in values.items())


@pytest.mark.parametrize("name", FOR_ANY_MODEL)
@pytest.mark.parametrize("known", KNOWN)
def test_the_evidence(known, name):
    case = CASES[known]()
    init = "laplace" if known == "wishart" else None  # trajectories from N(0, 1) would be thrown out of its reach
    guide = WIDE[name](case.model, None).setup(*case.args, init=init, **case.kwargs)
    num = 6000 if case.vectorize else 150
    with torch.no_grad():
        values = log_weights(
            case.model, guide, *case.args, num_particles=num, vectorize_particles=case.vectorize, **case.kwargs
        ).values
    ratio = (values.reshape(num, -1).sum(1) - case.log_evidence).exp()
    error = ratio.std() / math.sqrt(num)
    assert error < 0.25, "the check would be too weak to see a fault"
    assert abs(ratio.mean() - 1) < STANDARD_ERRORS * error


# Every support.

DISTRIBUTIONS: dict[str, Callable[[], Any]] = {
    "Normal": lambda: dist.Normal(0.2, 1.1),
    "Beta": lambda: dist.Beta(2.0, 3.0),
    "Uniform": lambda: dist.Uniform(-1.0, 3.0),
    "Uniform-bounds": lambda: dist.Uniform(torch.tensor([-1.0, 5.0]), torch.tensor([0.0, 9.0])).to_event(1),
    "Gamma": lambda: dist.Gamma(3.0, 2.0),
    "InverseGamma": lambda: dist.InverseGamma(3.0, 2.0),
    "HalfNormal": lambda: dist.HalfNormal(2.0),
    "Pareto": lambda: dist.Pareto(1.5, 3.0),
    "Weibull": lambda: dist.Weibull(2.0, 1.5),
    "Kumaraswamy": lambda: dist.Kumaraswamy(2.0, 3.0),
    "LogNormal-matrix": lambda: dist.LogNormal(torch.zeros(2, 3), 0.8).to_event(2),
    "Dirichlet": lambda: dist.Dirichlet(torch.tensor([2.0, 3.0, 4.0])),
    "MultivariateNormal": lambda: dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 1.0]])),
    "LKJ": lambda: dist.LKJ(3, torch.tensor(2.0)),
    "LKJCholesky": lambda: dist.LKJCholesky(3, 2.0),
    "Wishart": lambda: dist.Wishart(torch.tensor(6.0), torch.eye(2) / 4),
    "Ordered": lambda: dist.TransformedDistribution(
        dist.Normal(torch.zeros(3), 0.7).to_event(1), [dist.transforms.OrderedTransform()]
    ),
    "RelaxedOneHotCategorical": lambda: dist.RelaxedOneHotCategorical(torch.tensor(0.8), torch.tensor([0.3, 0.7])),
    "Mixture-positive": lambda: dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.3, 0.7])), dist.Gamma(torch.tensor([2.0, 5.0]), 2.0)
    ),
}


@pytest.mark.parametrize("law", DISTRIBUTIONS)
@pytest.mark.parametrize("name", ["mean_field", "full_rank", "hamiltonian"])
def test_any_prior_integrates_to_one(name, law):
    # A model without data has evidence 1, whatever the support: the log-determinants are right together.
    def model():
        with pyro.plate("plate", 2):
            pyro.sample("z", DISTRIBUTIONS[law]().expand_by([2]) if law != "Wishart" else DISTRIBUTIONS[law]())

    # Trajectories from N(0, 1) would be thrown out of a Wishart law's reach.
    guide = WIDE[name](model, None).setup(init="laplace" if law == "Wishart" else None)
    with torch.no_grad():
        for key, parameter in guide.named_parameters():
            if key.endswith("log_scale"):
                parameter += 0.3
        values = log_weights(model, guide, num_particles=6000).values
    ratio = values.reshape(6000, -1).sum(1).exp()
    error = ratio.std() / math.sqrt(6000)
    assert error < 0.3, "the check would be too weak to see a fault"
    assert abs(ratio.mean() - 1) < STANDARD_ERRORS * error
    assert DISTRIBUTIONS[law]().support.check(guide()["z"]).all()


# Where the model changes between calls.


def of_means(x, subsample_size=None):
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x), subsample_size=subsample_size) as rows:
        pyro.sample("x", dist.Normal(loc[..., 0] + loc[..., 1], 1.0), obs=x[rows])


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("name", FOR_ANY_MODEL)
def test_each_call_is_scaled_by_its_own_subsample_size(name, num_particles):
    # All data alike: every minibatch stands for all data exactly.
    x = torch.full((12,), 0.7)
    guide = guides.build(name, of_means).setup(x, subsample_size=4)
    found = []
    for size in (None, 4, 12, 1, 5):
        pyro.set_rng_seed(4)
        found.append(log_weights(of_means, guide, x, subsample_size=size, num_particles=num_particles).values)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


class Halving(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, **_):
        return torch.stack([self.slope * x, torch.zeros_like(x)], -1)


@pytest.mark.parametrize("name", ["mean_field", "hamiltonian", "annealed"])
def test_local_latents_are_scaled_by_the_present_subsample_size(name):
    def model(x, subsample_size=None):
        with pyro.plate("data", len(x), subsample_size=subsample_size) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    # Of nearly one size, so that it hardly matters to the loss which of them are looked at.
    x = torch.tensor([1.4, -1.5, 1.6, -1.4, 1.5, -1.6]).repeat(2)
    guide = guides.build(name, model, encoder=Halving()).setup(x, subsample_size=4)
    full = ELBO(num_particles=1000).loss(model, guide, x)
    for size in (2, 5):
        losses = torch.tensor([ELBO(num_particles=20).loss(model, guide, x, subsample_size=size) for _ in range(20)])
        error = losses.std().item() / math.sqrt(20)
        assert error < 0.5  # all twelve data are worth some 20 nats
        assert abs(losses.mean() - full) < STANDARD_ERRORS * error + 0.2


@pytest.mark.parametrize("num_schools", [1, 5, 9])
@pytest.mark.parametrize("model", [centred, non_centred])
@pytest.mark.parametrize("name", FOR_ANY_MODEL)
def test_a_plate_of_latents_keeps_its_size(name, model, num_schools):
    guide = guides.build(name, model).setup(EFFECTS, ERRORS)
    args = (EFFECTS.repeat(2)[:num_schools], ERRORS.repeat(2)[:num_schools])
    for validate in (True, False):
        with pyro.validation_enabled(validate):
            for particles in (1, 3):
                with pytest.raises(ModelError, match=f"plate 'schools' .* set up with, 8; got {num_schools}"):
                    log_weights(model, guide, *args, num_particles=particles)
    with pytest.raises((ValueError, RuntimeError)):  # Pyro's own program: its words, or torch's
        Trace_ELBO().loss(model, guide, *args)


@pytest.mark.parametrize("name", FOR_ANY_MODEL)
def test_a_plate_without_latents_may_change_its_size(name):
    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    guide = guides.build(name, model).setup(torch.zeros(8))
    for num in (1, 5, 9):
        assert math.isfinite(ELBO(num_particles=3).loss(model, guide, torch.zeros(num)))


@pytest.mark.parametrize("name", FOR_ANY_MODEL)
def test_models_that_mix_particles_are_refused(name):
    def model(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z[..., :1] + z[..., 1:], 1.0), obs=x)  # right: z[..., 0] + z[..., 1]

    x = torch.randn(3)
    guide = guides.build(name, model).setup(x)
    with pytest.raises(ModelError, match="the log density of site 'x' must have batch dimensions for its plates"):
        log_weights(model, guide, x, num_particles=4)
    values = log_weights(model, guide, x, num_particles=4, vectorize_particles=False).values
    assert values.shape[0] == 4
    # One vector at a time it is right, and so is a search that goes row by row.
    loc = guides.build(name, model).setup(x, init="laplace").whitening.loc
    torch.testing.assert_close(loc, x.sum() * torch.ones(2) / 7)


def test_supports_outside_the_reals_are_named():
    def model():
        pyro.sample("direction", dist.ProjectedNormal(torch.tensor([1.0, 0.0])))

    with pytest.raises(ModelError, match="latent 'direction' must have a support with a bijection .* [sS]phere"):
        MeanFieldGuide(model).setup()
    assert isinstance(dist.ProjectedNormal.support, type(constraints.sphere))
