"""GuideList: globals and locals in one model, each member given what was drawn before it."""

from __future__ import annotations

import copy
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import nn

from guides import (
    AnnealedGuide,
    FullRankGuide,
    GuideList,
    HamiltonianGuide,
    IAFGuide,
    MeanFieldGuide,
    Minibatch,
    ModelError,
    OptionError,
    PlanarGuide,
)
from guides.errors import DataError
from guides.target import Target
from ppl_models.objectives import ELBO, log_weights
from ppl_models.training import fit

#: Failure rate of one Monte Carlo check at 5 standard errors: below 1e-6.
STANDARD_ERRORS = 5.0

X = torch.tensor([0.4, -1.1, 0.9, 0.2], dtype=torch.float64)


def mixed(x):
    """One latent for all, one for each datum: all Gaussian."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def subsampling(x, subsample_size=2):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x), subsample_size=subsample_size) as rows:
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])


def log_evidence(x):
    """Marginally x ~ N(0, 2 I + 1 1')."""
    return dist.MultivariateNormal(torch.zeros(len(x)), 2 * torch.eye(len(x)) + torch.ones(len(x), len(x))).log_prob(x)


class Encoder(nn.Module):
    """Locations and log-scales of z given x alone, and numbers for a correlation or the layers of a flow."""

    def __init__(self, width=2):
        super().__init__()
        self.width = width
        self.shift = nn.Parameter(torch.tensor(0.0))
        self.slope = nn.Parameter(torch.tensor(0.5))
        self.log_scale = nn.Parameter(torch.tensor(0.0))

    def forward(self, x, **_):
        columns = [self.shift + self.slope * x, self.log_scale.expand_as(x), torch.sin(x)]
        return torch.stack(columns[: self.width], -1)


def shared(model, family=MeanFieldGuide, **options):
    return family(model, expose=["mu"], init_scale=0.6, **options)


GLOBALS = {
    "mean_field": shared,
    "full_rank": lambda model: shared(model, FullRankGuide),
    "iaf": lambda model: IAFGuide(model, base=shared(model), num_layers=1, hidden=(4,)),
}
LOCALS = {
    "mean_field": lambda model: MeanFieldGuide(model, hide=["mu"], encoder=Encoder()),
    "full_rank": lambda model: FullRankGuide(model, hide=["mu"], encoder=Encoder()),
    "planar": lambda model: PlanarGuide(model, hide=["mu"], encoder=Encoder(3), num_layers=2),
    "iaf": lambda model: IAFGuide(model, hide=["mu"], encoder=Encoder(3), num_layers=1, hidden=(4,)),
    "hamiltonian": lambda model: HamiltonianGuide(
        model, hide=["mu"], encoder=Encoder(), num_steps=2, init_step_size=0.3
    ),
    "annealed": lambda model: AnnealedGuide(model, hide=["mu"], encoder=Encoder(), num_steps=2, init_step_size=0.2),
    "hamiltonian-over-iaf": lambda model: HamiltonianGuide(
        model,
        base=IAFGuide(model, hide=["mu"], encoder=Encoder(3), num_layers=1, hidden=(4,)),
        num_steps=2,
        init_step_size=0.2,
    ),
}
PAIRS = [("mean_field", name) for name in LOCALS] + [(name, "hamiltonian") for name in GLOBALS if name != "mean_field"]


def make(model=mixed, first="mean_field", second="hamiltonian"):
    return GuideList(model, [GLOBALS[first](model), LOCALS[second](model)])


def mean_and_error(values):
    return values.mean(0), values.std(0) / math.sqrt(len(values))


# Meaning: the evidence, the force, minibatches.


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_the_evidence_of_globals_and_locals(first, second):
    guide = make(mixed, first, second).setup(X)
    with torch.no_grad():
        values = log_weights(mixed, guide, X, num_particles=20_000).values
    assert values.shape == (20_000,)
    ratio, error = mean_and_error((values - log_evidence(X)).exp())
    assert error < 0.05, "the check would be too weak to see a fault"
    assert abs(ratio - 1) < STANDARD_ERRORS * error


@pytest.mark.parametrize("second", ["mean_field", "hamiltonian", "annealed"])
def test_particles_may_stand_further_left(second):
    guide, values = make(mixed, second=second).setup(X), []
    for nesting in (1, 3):
        pyro.set_rng_seed(0)
        values.append(log_weights(mixed, guide, X, num_particles=4, max_plate_nesting=nesting).values.squeeze())
    torch.testing.assert_close(values[0], values[1])


@pytest.mark.parametrize("particles", [(), (3,), (3, 2)])
def test_the_force_on_a_local_is_that_of_its_datum_given_the_globals(particles):
    guide = make().setup(X)
    local = guide.members[1]
    mu = torch.randn(particles)
    given = {"mu": mu[..., None] if particles else mu}
    left = {2 + len(particles) - 1 - i: size for i, size in enumerate(particles)}
    z = torch.randn(*particles, len(X), 1, requires_grad=True)
    with Minibatch(40):  # each datum's own density, however many there are in all
        value = local.space.log_joint(z, X, given=given, left=left)
    (force,) = torch.autograd.grad(value.sum(), z)
    # d/dz [-(z - mu)^2 / 2 - (x - z)^2 / 2], by hand
    torch.testing.assert_close(force[..., 0], mu[..., None] - 2 * z[..., 0] + X)
    log_p = dist.Normal(mu[..., None], 1.0).log_prob(z[..., 0]) + dist.Normal(z[..., 0], 1.0).log_prob(X)
    torch.testing.assert_close(value, log_p)


def test_a_trajectory_of_locals_is_driven_by_its_own_particle_s_globals(monkeypatch):
    guide = make().setup(X)
    seen = []
    plain = HamiltonianGuide.propose

    def spy(self, target, noise):
        z = torch.randn(*target.batch_shape, 1, requires_grad=True)
        seen.append((z, torch.autograd.grad(target.log_joint(z).sum(), z)[0]))
        return plain(self, target, noise)

    monkeypatch.setattr(HamiltonianGuide, "propose", spy)
    with pyro.plate("outer", 5, dim=-2):
        mu = guide(X)["mu"]
    ((z, force),) = seen
    assert mu.shape == (5, 1)
    assert z.shape == (5, len(X), 1)
    torch.testing.assert_close(force[..., 0], mu - 2 * z[..., 0] + X)


def full_elbo(guide, num=20_000):
    with torch.no_grad():
        return mean_and_error(log_weights(mixed, guide, X, num_particles=num).values)


@pytest.mark.parametrize("second", ["mean_field", "iaf", "hamiltonian"])
@pytest.mark.parametrize("size", [1, 3])
def test_plates_that_subsample_give_the_elbo_of_all_data(second, size):
    guide = make(subsampling, second=second).setup(X)
    full = make(mixed, second=second).setup(X)
    full.load_state_dict(guide.state_dict())
    with torch.no_grad():
        values = torch.stack(
            [
                log_weights(subsampling, guide, X, subsample_size=size, num_particles=40).values.mean()
                for _ in range(120)
            ]
        )
    mean, error = mean_and_error(values)
    exact, other = full_elbo(full)
    assert error < 0.7
    assert abs(mean - exact) < STANDARD_ERRORS * math.hypot(error, other)


@pytest.mark.parametrize("second", ["mean_field", "iaf", "hamiltonian"])
def test_minibatches_from_outside_give_the_elbo_of_all_data(second):
    guide = make(second=second).setup(X)
    by_subset = []
    for start in range(0, len(X), 2):  # the mean over a partition is the mean over all draws of it
        with torch.no_grad(), Minibatch(len(X)):
            by_subset.append(
                mean_and_error(log_weights(mixed, guide, X[start : start + 2], num_particles=20_000).values)
            )
    mean = torch.stack([m for m, _ in by_subset]).mean()
    error = torch.stack([e for _, e in by_subset]).norm() / len(by_subset)
    exact, other = full_elbo(guide)
    assert abs(mean - exact) < STANDARD_ERRORS * math.hypot(error, other)


def test_fit_in_minibatches_finds_the_best_of_its_family():
    # Mean-field on a normal posterior: its means are exact, and a variance is 1 / the precision given all others.
    pyro.set_rng_seed(1)
    x = 1.5 + torch.randn(50) * math.sqrt(2)
    guide = make(second="mean_field").setup(x)
    fit(mixed, guide, x, steps=400, batch_size=10, lr=0.05, schedule="cosine", seed=0, progress=False,
        objective=ELBO(num_particles=4))  # fmt: skip
    mean, sd = x.sum().item() / 52, 1 / math.sqrt(51)
    first, second = guide.members
    assert guide.posterior_mean(x)["mu"].item() == pytest.approx(mean, abs=0.2 * sd)
    assert first.log_scale.exp().item() == pytest.approx(sd, rel=0.1)
    assert second.encoder.slope.item() == pytest.approx(0.5, abs=0.05)
    assert second.encoder.shift.item() == pytest.approx(mean / 2, abs=0.05)
    assert second.encoder.log_scale.exp().item() == pytest.approx(math.sqrt(0.5), rel=0.1)


# Order.


def two_latents(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, scale), obs=x)


def of_globals(last=HamiltonianGuide, first="loc", **options):
    rest = {"num_steps": 2, **options} if last in (HamiltonianGuide, AnnealedGuide) else options
    return GuideList(
        two_latents, [MeanFieldGuide(two_latents, expose=[first]), last(two_latents, hide=[first], **rest)]
    )


def test_a_member_that_looks_at_the_density_stands_last():
    guide = of_globals(init_step_size=0.1).setup(X)
    assert all(torch.isfinite(value) for value in guide(X).values())
    wrong = GuideList(
        two_latents, [HamiltonianGuide(two_latents, expose=["loc"]), MeanFieldGuide(two_latents, hide=["loc"])]
    )
    with pytest.raises(ModelError, match="needs a value of the hidden latent 'scale': in a GuideList, put it after"):
        wrong(X)
    with pytest.raises(ModelError, match="HamiltonianGuide looks at .* must be the last guide of its GuideList"):
        IAFGuide(two_latents, base=wrong)(X)
    swapped = GuideList(mixed, list(reversed(make().members)))
    with pytest.raises(ModelError, match="hidden latent 'mu': in a GuideList, put it after the guide that draws 'mu'"):
        swapped(X)


def test_the_last_of_the_globals_knows_the_others_wherever_particles_stand(monkeypatch):
    # In a plate at -1, where the model's own data plate stands.
    guide = of_globals().setup(X)
    seen = []
    monkeypatch.setattr(HamiltonianGuide, "propose", spying(seen))
    with pyro.plate("outer", 5, dim=-1):
        loc = guide(X)["loc"]
    ((vectors, density),) = seen
    assert loc.shape == (5,)
    scale = vectors[:, 0].exp()
    log_p = dist.Normal(0.0, 1.0).log_prob(loc) + dist.LogNormal(0.0, 0.5).log_prob(scale) + vectors[:, 0]
    log_p = log_p + dist.Normal(loc[:, None], scale[:, None]).log_prob(X).sum(-1)
    torch.testing.assert_close(density, log_p)


def spying(seen):
    """HamiltonianGuide.propose that also looks at its target, at random vectors."""
    plain = HamiltonianGuide.propose

    def propose(self, target, noise):
        vectors = torch.randn(*target.batch_shape, self.space.dim)
        seen.append((vectors, target.log_joint(vectors)))
        return plain(self, target, noise)

    return propose


# Pyro's own programs.

OBJECTIVES = {
    "Trace_ELBO": lambda n: Trace_ELBO(num_particles=n, vectorize_particles=True),
    "Trace_ELBO-looped": lambda n: Trace_ELBO(num_particles=min(n, 2)),
    "TraceGraph_ELBO": lambda n: TraceGraph_ELBO(num_particles=n, vectorize_particles=True),
    "TraceMeanField_ELBO": lambda n: TraceMeanField_ELBO(num_particles=n, vectorize_particles=True),
    "RenyiELBO": lambda n: RenyiELBO(alpha=0.5, num_particles=n, vectorize_particles=True),
}


@pytest.mark.parametrize("loss", OBJECTIVES)
@pytest.mark.parametrize("second", ["mean_field", "hamiltonian"])
def test_pyro_trains_lists(loss, second):
    guide = make(second=second).setup(X)
    before = [p.detach().clone() for p in guide.parameters()]
    svi = SVI(mixed, guide, pyro.optim.Adam({"lr": 0.01}), OBJECTIVES[loss](3))
    assert math.isfinite(svi.step(X))
    assert len(before) >= 4
    assert all(not torch.equal(a, b) for a, b in zip(before, guide.parameters(), strict=True))


@pytest.mark.parametrize("second", ["mean_field", "full_rank"])
def test_analytic_divergences_agree_with_sampled_ones(second):
    guide = make(second=second).setup(X)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += 0.1
        values = [-OBJECTIVES["TraceMeanField_ELBO"](20).loss(mixed, guide, X) for _ in range(200)]
    mean, error = mean_and_error(torch.tensor(values))
    exact, other = full_elbo(guide)
    assert abs(mean - exact) < STANDARD_ERRORS * math.hypot(error, other)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("second", ["mean_field", "hamiltonian"])
def test_predictive_draws_from_lists(parallel, second):
    guide = make(second=second).setup(X)
    draws = Predictive(guide, num_samples=6, parallel=parallel, return_sites=("mu", "z"))(X)
    assert draws["mu"].reshape(6).std() > 0
    assert draws["z"].shape == (6, len(X))

    def unobserved(x):
        return poutine.uncondition(mixed)(x)

    replicated = Predictive(unobserved, guide=guide, num_samples=6, parallel=parallel, return_sites=("x",))(X)
    assert replicated["x"].shape == (6, len(X))


def test_a_list_knows_where_its_draws_come_from():
    # The joint log density of what it drew, by hand: q(mu) q(z | x).
    guide = make(second="mean_field").setup(X)
    trace = poutine.trace(guide).get_trace(X)
    mu, z = trace.nodes["mu"]["value"], trace.nodes["z"]["value"]
    expected = dist.Normal(0.0, 0.6).log_prob(mu) + dist.Normal(X / 2, 1.0).log_prob(z).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)


# A list of guides with a joint vector.


def correlated(x):
    """Three latents in two sites; posterior normal, with correlations within and between the sites."""
    a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(a[..., 0] + 0.7 * a[..., 1] + b, 0.5), obs=x)


def posterior():
    design = torch.tensor([1.0, 0.7, 1.0])
    precision = torch.diag(torch.tensor([1.0, 1.0, 0.25])) + len(X) * design[:, None] * design / 0.25
    return precision.inverse(), precision.inverse() @ design * X.sum() / 0.25


def log_evidence_of_blocks():
    variance = 1 + 0.7**2 + 2**2  # of a_0 + 0.7 a_1 + b under the prior
    covariance = variance * torch.ones(len(X), len(X)) + 0.25 * torch.eye(len(X))
    return dist.MultivariateNormal(torch.zeros(len(X)), covariance).log_prob(X)


def blocks(model=correlated, second=FullRankGuide, **options):
    # Against the model's order, so that places must be looked up.
    last = second(model, hide=["b"], **options)
    return GuideList(model, [FullRankGuide(model, expose=["b"], **options), last])


def test_laplace_gives_members_the_marginal_blocks():
    covariance, mean = posterior()
    guide = blocks().setup(X, init="laplace")
    b, a = guide.members
    torch.testing.assert_close(a.whitening.loc, mean[:2])
    torch.testing.assert_close(b.whitening.loc, mean[2:])
    torch.testing.assert_close(a.whitening.scale @ a.whitening.scale.mT, covariance[:2, :2])
    torch.testing.assert_close(b.whitening.scale @ b.whitening.scale.mT, covariance[2:, 2:])
    draws = guide.sample_posterior(20_000, X)
    drawn = torch.cat([draws["a"], draws["b"][:, None]], -1)
    assert (drawn.mean(0) - mean).abs().max() < STANDARD_ERRORS * (covariance.diagonal() / 20_000).sqrt().max()
    # ELBO: the evidence less KL(product of the blocks, posterior), which is exact for normals.
    product = torch.block_diag(covariance[:2, :2], covariance[2:, 2:])
    gap = 0.5 * (torch.trace(torch.linalg.solve(covariance, product)) - 3 + torch.logdet(covariance) - product.logdet())
    with torch.no_grad():
        elbo, error = mean_and_error(log_weights(correlated, guide, X, num_particles=20_000).values)
    assert abs(elbo - (log_evidence_of_blocks() - gap)) < STANDARD_ERRORS * error


def independent(x):
    """A posterior without correlations between the sites: there the blocks are exact."""
    a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    pyro.sample("sum", dist.Normal(a.sum(-1), 0.1), obs=x[0])
    pyro.sample("x", dist.Normal(b, 0.5), obs=x[1])


@pytest.mark.parametrize("init", ["laplace", "pathfinder"])
def test_blocks_of_a_block_posterior_are_exact(init):
    guide = blocks(independent).setup(X, init=init)
    evidence = dist.Normal(0.0, math.sqrt(2.01)).log_prob(X[0]) + dist.Normal(0.0, math.sqrt(4.25)).log_prob(X[1])
    with torch.no_grad():
        values = log_weights(independent, guide, X, num_particles=100).values
    if init == "laplace":
        torch.testing.assert_close(values, evidence.expand(100), atol=1e-8, rtol=0)
    else:
        assert (values - evidence).abs().max() < 3


OUTER = {
    "planar": lambda model, base: PlanarGuide(model, base=base, num_layers=2),
    "iaf": lambda model, base: IAFGuide(model, base=base, num_layers=1, hidden=(6,)),
    "hamiltonian": lambda model, base: HamiltonianGuide(model, base=base, num_steps=2, init_step_size=0.2),
    "annealed": lambda model, base: AnnealedGuide(model, base=base, num_steps=2, init_step_size=0.2),
}


def whitened_base(last):
    wide = MeanFieldGuide(correlated, hide=["b"], init_scale=1.0)
    member = wide if last == "mean_field" else HamiltonianGuide(correlated, base=wide, num_steps=2, init_step_size=0.2)
    return GuideList(correlated, [FullRankGuide(correlated, expose=["b"], init_scale=1.0), member])


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("last", ["mean_field", "hamiltonian"])
def test_a_list_under_another_guide_is_whitened_as_a_whole(outer, last):
    covariance, mean = posterior()
    guide = OUTER[outer](correlated, whitened_base(last)).setup(X, init="laplace")
    torch.testing.assert_close(guide.whitening.loc, mean)
    torch.testing.assert_close(guide.whitening.scale @ guide.whitening.scale.mT, covariance)
    assert all(member.whitening.loc is None for member in guide.base.members)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += 0.05
        values = log_weights(correlated, guide, X, num_particles=10_000).values
    ratio, error = mean_and_error((values - log_evidence_of_blocks()).exp())
    assert error < 0.05
    assert abs(ratio - 1) < STANDARD_ERRORS * error


def test_a_member_of_a_whitened_list_sees_the_whitened_density(monkeypatch):
    # Not from "laplace", which would make it a standard normal, where the order of the coordinates does not tell.
    guide = IAFGuide(correlated, base=whitened_base("hamiltonian"), num_layers=1, hidden=(6,)).setup(X, init="prior")
    seen, drawn = [], []
    first = guide.base.members[0]
    monkeypatch.setattr(HamiltonianGuide, "propose", spying(seen))
    plain = type(first).propose

    def remember(self, target, noise):
        drawn.append(plain(self, target, noise))
        return drawn[-1]

    monkeypatch.setattr(type(first), "propose", remember)
    guide(X)
    ((a, density),), (b,) = seen, drawn
    # log p(x, u) at u = m + s v, with log |det|; the model's order is a, b.
    loc, scale = guide.whitening.loc, guide.whitening.scale
    exact = guide.space.log_joint(loc + scale * torch.cat([a, b.latent], -1), X) + scale.log().sum()
    torch.testing.assert_close(density, exact)


def test_members_of_a_whitened_list_start_at_its_unit():
    guide = HamiltonianGuide(correlated, base=blocks(), num_steps=2).setup(X, init="laplace")
    for member in guide.base.members:
        torch.testing.assert_close(member.log_scale.exp(), torch.ones_like(member.log_scale))


# Errors.


def test_shares_must_cover_the_latents_once():
    with pytest.raises(ModelError, match="every latent must belong to a guide of the list; got none for mu"):
        GuideList(mixed, [LOCALS["mean_field"](mixed)]).setup(X)
    with pytest.raises(ModelError, match="a latent must belong to one guide of the list only; got several for a"):
        GuideList(correlated, [MeanFieldGuide(correlated), MeanFieldGuide(correlated, hide=["b"])]).setup(X)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"hide": ["nu"]}, OptionError, r"hide must name latents of the model \(mu, z\); got 'nu'"),
        ({"expose": ["x"]}, OptionError, r"expose must name latents of the model \(mu, z\); got 'x'"),
        ({"hide": ["mu"], "expose": ["z"]}, OptionError, "hide and expose must not be given together"),
        ({"hide": "mu"}, TypeError, r"hide must be a list of site names; got 'mu'. Write hide=\['mu'\]"),
        ({"expose": "mu"}, TypeError, r"Write expose=\['mu'\]"),
        ({"hide": ["mu", "z"]}, OptionError, "hide must leave at least one latent of mu, z"),
        ({"expose": []}, OptionError, "expose must leave at least one latent"),
    ],
)
def test_selections_that_select_nothing_sensible_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        MeanFieldGuide(mixed, **options).setup(X)


def test_lists_that_are_no_lists_of_guides_are_refused():
    member = shared(mixed)
    with pytest.raises(OptionError, match="guides must hold at least one guide; got none"):
        GuideList(mixed, [])
    with pytest.raises(TypeError, match="guides must be guides, and no lists themselves; got GuideList"):
        GuideList(mixed, [GuideList(mixed, [member])])
    with pytest.raises(TypeError, match="no lists themselves; got str"):
        GuideList(mixed, ["mean_field"])
    with pytest.raises(OptionError, match="must all be of the list's model; got a MeanFieldGuide of another"):
        GuideList(mixed, [MeanFieldGuide(correlated)])
    with pytest.raises(OptionError, match="must be different objects; got the same one twice"):
        GuideList(mixed, [member, member])
    with pytest.raises(TypeError, match="encoder"):
        GuideList(mixed, [member], encoder=Encoder())


@pytest.mark.parametrize("outer", OUTER)
def test_a_list_with_an_encoder_is_no_base(outer):
    with pytest.raises(OptionError, match="base must have one latent vector; .* Put the .*Guide into the list instead"):
        OUTER[outer](mixed, make())


@pytest.mark.parametrize("init", ["laplace", "pathfinder"])
def test_a_list_with_an_encoder_has_no_one_posterior(init):
    with pytest.raises(OptionError, match=f"init='{init}' needs a list without encoders"):
        make().setup(X, init=init)
    with pytest.raises(ModelError, match="a GuideList with an encoder has no one vector"):
        _ = make().setup(X).space


def test_starts_of_lists():
    guide = make(second="mean_field").setup(X, init="prior")
    mu, z = (member.whitening for member in guide.members)
    # Medians and spreads of 200 draws of N(0, 1), and of 200 of z ~ N(0, 2), all data together.
    assert abs(mu.loc.item()) < 0.5
    assert 0.7 < mu.scale.item() < 1.4
    assert 1.0 < z.scale.item() < 2.0
    given = make(second="mean_field").setup(X, init={"mu": torch.tensor(0.7)})
    assert given.posterior_mean(X)["mu"].item() == pytest.approx(0.7)
    with pytest.raises(DataError, match=r"init must give values of latents without an encoder \(mu\); got 'nu'"):
        make().setup(X, init={"nu": torch.tensor(0.7)})
    values = {"a": torch.tensor([0.3, -0.2]), "b": torch.tensor(1.1)}
    means = blocks().setup(X, init=values).posterior_mean(X)
    torch.testing.assert_close(means, values)
    again = blocks()
    again.members[0].setup(X)
    with pytest.raises(OptionError, match="guides are set up already"):
        again.setup(X, init="laplace")


# Copies.


@pytest.mark.parametrize("second", ["mean_field", "hamiltonian", "iaf"])
def test_copies_keep_the_law(second):
    guide = make(second=second).setup(X, init="prior")
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += 0.1
    loaded = make(second=second).setup(X)
    loaded.load_state_dict(guide.state_dict())
    draws = []
    for each in (guide, copy.deepcopy(guide), pickle.loads(pickle.dumps(guide)), loaded):
        pyro.set_rng_seed(3)
        trace = poutine.trace(each).get_trace(X)
        draws.append((trace.log_prob_sum().item(), sorted(trace.stochastic_nodes), trace.nodes["mu"]["value"].item()))
    assert draws[0] == draws[1] == draws[2] == draws[3]


@pytest.mark.parametrize("second", ["mean_field", "hamiltonian", "iaf"])
def test_lists_change_their_dtype(second):
    guide = make(second=second).setup(X, init="prior").to(torch.float32)
    torch.set_default_dtype(torch.float32)  # the model's own constants
    values = guide(X.float())
    assert {value.dtype for value in values.values()} == {torch.float32}
    assert math.isfinite(ELBO(num_particles=3).loss(mixed, guide, X.float()))
    torch.set_default_dtype(torch.float64)


def test_the_repr_shows_the_members():
    assert repr(make()).startswith("GuideList(MeanFieldGuide(), HamiltonianGuide(num_steps=2, tempering=")
    assert "not set up" in repr(make())
    assert repr(blocks().setup(X)).endswith("LatentSpace(dim=3, sites=[a: (2,) real, b: () real]))")


def test_a_list_draws_vectors_in_the_model_s_order():
    guide = blocks().setup(X)
    b, a = guide.members
    with torch.no_grad():
        a.loc += torch.tensor([1.0, 2.0])
        b.loc += 3.0
    proposal = guide.propose(Target(torch.Size([]), lambda v: v.sum(-1), None), torch.zeros(guide.noise_dim))
    assert proposal.latent.tolist() == [1.0, 2.0, 3.0]
