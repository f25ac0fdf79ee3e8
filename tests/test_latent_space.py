"""LatentSpace: any supports and plates as one vector, and clear words where there is none."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pyro.infer
import pyro.nn
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from torch import nn

from guides import (
    AnnealedGuide,
    DataError,
    FullRankGuide,
    HamiltonianGuide,
    LatentSpace,
    MeanFieldGuide,
    Minibatch,
    ModelError,
    OptionError,
)
from ppl_models import OffsetGaussian
from ppl_models.objectives import log_weights

SUPPORTS = {
    "real": dist.Normal(0.0, 1.0),
    "positive": dist.LogNormal(0.0, 1.0),
    "interval": dist.Uniform(-1.0, 3.0),
    "unit": dist.Beta(2.0, 3.0),
    "vector": dist.Normal(torch.zeros(3), 1.0).to_event(1),
    "positive matrix": dist.Gamma(torch.ones(2, 3), 1.0).to_event(2),
    "simplex": dist.Dirichlet(torch.ones(4)),
    "cholesky": dist.LKJCholesky(3, 1.0),
    "multivariate": dist.MultivariateNormal(torch.zeros(2), torch.eye(2)),
}


@pytest.mark.parametrize("law", SUPPORTS.values(), ids=SUPPORTS)
def test_log_joint_is_the_log_prob_plus_log_det(law):
    def model():
        pyro.sample("z", law)

    space = LatentSpace(model)
    u = torch.randn(5, space.dim)
    values = space.constrain(u)["z"]
    assert law.support.check(values).all()
    for row, value in zip(u, values, strict=True):
        transform = space.sites[0].transform
        log_det = transform.log_abs_det_jacobian(row.reshape(space.sites[0].unconstrained_shape), value).sum()
        expected = law.log_prob(value) + log_det
        torch.testing.assert_close(space.log_joint(row), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(space.log_joint(u), torch.stack([space.log_joint(row) for row in u]))


def test_batches_of_any_shape_agree_with_single_vectors():
    def model(x):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("rows", 4, dim=-2):
            row = pyro.sample("row", dist.Normal(0.0, scale))
            with pyro.plate("columns", 3, dim=-1):
                cell = pyro.sample("cell", dist.Normal(row, 1.0))
                pyro.sample("x", dist.Normal(cell, 1.0), obs=x)

    x = torch.randn(4, 3)
    space = LatentSpace(model, x)
    assert space.dim == 1 + 4 + 12
    u = torch.randn(2, 5, space.dim)
    batched = space.log_joint(u, x)
    single = torch.stack([torch.stack([space.log_joint(v, x) for v in row]) for row in u])
    torch.testing.assert_close(batched, single)


def test_it_is_the_trace_s_log_prob():
    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro.deterministic("twice", 2 * loc)
        with poutine.scale(scale=0.5), poutine.mask(mask=torch.tensor([True, False, True])), pyro.plate("data", 3):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        pyro.factor("penalty", -loc.square())

    x, u = torch.randn(3), torch.randn(1)
    trace = poutine.trace(poutine.condition(model, {"loc": u[0]})).get_trace(x)
    torch.testing.assert_close(LatentSpace(model, x).log_joint(u, x), trace.log_prob_sum())


@pytest.mark.parametrize("dim", [-1, -2])
def test_amortised_layout_puts_the_data_where_the_plate_stands(dim):
    def model(x):
        with pyro.plate("data", len(x), dim=dim), pyro.plate("parts", 2, dim=-3 - dim):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x.transpose(0, 1) if dim == -1 else x)

    x = torch.randn(5, 2, 3)
    space = LatentSpace(model, x, amortised=True)
    assert space.dim == 6
    u = torch.randn(4, 5, 6)
    z = u.reshape(4, 5, 2, 3)
    expected = (dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(x)).sum((-1, -2))
    torch.testing.assert_close(space.log_joint(u, x), expected)
    guide = HamiltonianGuide(model, encoder=nn.Sequential(nn.Flatten(), nn.Linear(6, 12)), num_steps=2)
    assert guide(x)["z"].shape == ((2, 5, 3) if dim == -1 else (5, 2, 3))


@pytest.mark.parametrize("family", [HamiltonianGuide, AnnealedGuide])
def test_the_force_on_globals_looks_at_a_minibatch_of_its_own(family):
    seen = []

    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            seen.append(rows.tolist())
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x[rows])

    guide = family(model, num_steps=3).setup(torch.randn(5000))
    seen.clear()
    trace = poutine.trace(guide).get_trace(torch.randn(5000))
    poutine.trace(poutine.replay(model, trace=trace)).get_trace(torch.randn(5000))
    *forces, judged = seen
    assert len(forces) in (3, 4)
    assert all(rows == forces[0] for rows in forces)
    assert judged != forces[0]


@pytest.mark.parametrize("family", [HamiltonianGuide, AnnealedGuide])
def test_bounds_of_minibatches_stay_below_the_evidence(family):
    # With the rows that it is judged by, the force would raise the bound above it by hundreds of nats.
    x = torch.randn(40, 20)

    def model(x, size):
        loc = pyro.sample("loc", dist.Normal(torch.zeros(20), 1.0).to_event(1))
        with pyro.plate("data", len(x), subsample_size=size) as rows:
            batch = loc if loc.dim() == 1 else loc.unsqueeze(-2).squeeze(-3)
            pyro.sample("x", dist.Normal(batch, 1.0).to_event(1), obs=x[rows])

    exact = OffsetGaussian(20).log_evidence(x).item()
    base = FullRankGuide(model).setup(x, None, init="laplace")
    guide = family(model, base=base, num_steps=2, init_step_size=0.3).setup(x, None)
    with torch.no_grad(), pyro.validation_enabled(False):
        values = torch.stack([log_weights(model, guide, x, 4).values[0] for _ in range(150)])
    error = values.std() / math.sqrt(len(values))
    assert error < 10
    assert values.mean() < exact + 5 * error


@pytest.mark.parametrize("family", [HamiltonianGuide, AnnealedGuide])
def test_forces_on_globals_refuse_the_minibatch_they_are_judged_by(family):
    def given(x, rows):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), subsample=rows):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x[rows])

    def whole(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    x = torch.randn(10)
    with pytest.raises(ModelError, match="must not be moved by the density of the minibatch"):
        family(given)(x, torch.tensor([1, 2]))
    with Minibatch(30), pytest.raises(ModelError, match="must not be moved by the density of the minibatch"):
        family(whole)(x)
    family(given)(x, torch.arange(10))
    with Minibatch(10):
        family(whole)(x)


@pytest.mark.parametrize("family", [MeanFieldGuide, FullRankGuide])
def test_indices_given_to_a_plate_are_the_model_s(family):
    seen = []

    def model(x, rows):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), subsample=rows):
            seen.append(rows)
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x[rows])

    guide = family(model).setup(torch.randn(10), torch.tensor([0, 1]))
    x, rows = torch.randn(50), torch.tensor([18, 7, 40])
    trace = poutine.trace(guide).get_trace(x, rows)
    replayed = poutine.trace(poutine.replay(model, trace=trace)).get_trace(x, rows)
    assert replayed.nodes["data"]["value"].tolist() == [18, 7, 40]
    assert replayed.nodes["x"]["scale"] == pytest.approx(50 / 3)


def test_amortised_guides_see_the_rows_that_the_model_draws():
    rows_seen = []

    def model(x):
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            rows_seen.append(rows.tolist())
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[rows])

    class Copy(nn.Module):
        def forward(self, x):
            return torch.cat([x, torch.full_like(x, -20.0)], -1)

    guide = MeanFieldGuide(model, encoder=Copy()).setup(torch.randn(10, 2))
    x = torch.randn(30, 2)
    trace = poutine.trace(guide).get_trace(x)
    poutine.trace(poutine.replay(model, trace=trace)).get_trace(x)
    torch.testing.assert_close(trace.nodes["z"]["value"], x[rows_seen[-1]], atol=1e-6, rtol=0)
    assert max(rows_seen[-1]) < 30


def test_two_guides_in_one_program_are_both_trained():
    def model():
        pyro.sample("a", dist.Normal(5.0, 1.0))
        pyro.sample("b", dist.Normal(5.0, 1.0))

    parts = [MeanFieldGuide(poutine.block(model, hide=[hidden])).setup() for hidden in ("b", "a")]

    def guide():
        for part in parts:
            part()

    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
    for _ in range(10):
        svi.step()
    assert all(part.loc.item() > 0.5 for part in parts)


def test_set_up_leaves_the_random_state_as_it_was():
    state = torch.random.get_rng_state()
    LatentSpace(lambda: pyro.sample("z", dist.Normal(0.0, 1.0)))
    assert torch.equal(state, torch.random.get_rng_state())


def discrete():
    pyro.sample("k", dist.Categorical(torch.ones(3)))


def observed_only(x):
    pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def without_bijection():
    pyro.sample("z", Circle())


class Circle(dist.Normal):
    support = constraints.independent(constraints.dependent(is_discrete=False, event_dim=0), 0)

    def __init__(self):
        super().__init__(torch.tensor(0.0), torch.tensor(1.0))


def half_outside(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(loc, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def observed_outside(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def subsampled_latents(x):
    with pyro.plate("data", len(x), subsample_size=2) as rows:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])


def bounded_by_another():
    low = pyro.sample("low", dist.Normal(0.0, 1.0))
    pyro.sample("z", dist.Uniform(low, 10.0))


class BoundedByAParameter(pyro.nn.PyroModule):
    def __init__(self):
        super().__init__()
        self.high = nn.Parameter(torch.tensor(1.0))

    def forward(self):
        pyro.sample("z", dist.Uniform(0.0, self.high))


def bounded_by_its_datum(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Uniform(torch.zeros(2), 1 + x[:, None]).to_event(1))


def bounded_by_a_minibatch(x):
    with pyro.plate("data", len(x), subsample_size=1) as rows:
        low = x[rows].mean()
    pyro.sample("z", dist.Uniform(low, 1000.0))


def test_bounds_may_differ_among_the_elements_of_a_site():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(x, x + 1.0))

    x = torch.tensor([0.0, 5.0])
    space = LatentSpace(model, x)
    torch.testing.assert_close(space.constrain(torch.zeros(2))["z"], x + 0.5)


@pytest.mark.parametrize(
    ("model", "args", "encoder", "message"),
    [
        (bounded_by_another, (), None, "support of latent 'z' must be the same in every run; got .* another latent"),
        (
            bounded_by_a_minibatch,
            (torch.arange(900.0),),
            None,
            "which data a subsampled plate looks at. Draw from a fi",
        ),
        (BoundedByAParameter(), (), None, "on a learned parameter"),
        (bounded_by_its_datum, (torch.arange(3.0),), nn.Linear(1, 4), "'z' must not depend on the datum of a guide"),
        (discrete, (), None, "latents must be continuous; got the discrete site 'k' .Categorical."),
        (observed_only, (torch.zeros(()),), None, "at least one latent sample site; got none"),
        (without_bijection, (), None, "latent 'z' must have a support with a bijection"),
        (half_outside, (torch.zeros(3),), nn.Linear(1, 2), "all latents must stand in one common plate"),
        (observed_outside, (torch.zeros(3),), nn.Linear(1, 2), "inside the plate 'data'; got 'x' outside"),
        (subsampled_latents, (torch.zeros(5),), None, "latent 'z' must not stand inside the subsampled plate 'data'"),
    ],
)
@pytest.mark.parametrize("family", [MeanFieldGuide, HamiltonianGuide])
def test_models_that_do_not_fit_are_refused(family, model, args, encoder, message):
    with pytest.raises(ModelError, match=message):
        family(model, encoder=encoder).setup(*args)


def local_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("encoder", "x", "message"),
    [
        (
            nn.Linear(2, 3),
            torch.zeros(5, 2),
            "encoder must return 4 numbers per datum.*2 latent dimensions of z; got 3",
        ),
        (
            nn.Unflatten(1, (1, 2)),
            torch.zeros(5, 2),
            r"encoder must return shape \(number of data, width\); got \(5, 1",
        ),
        (nn.Linear(2, 4), torch.tensor([[0.0, math.nan]]), r"site 'x' must be finite; got 1 NaN.*index \(0, 1\)"),
        (nn.Linear(2, 4), torch.tensor([[math.inf, 0.0]]), "site 'x' must be finite"),
    ],
)
def test_data_and_encoders_that_do_not_fit_are_refused(encoder, x, message):
    encoder, x = encoder.double(), x.double()
    with pytest.raises(DataError, match=message):
        MeanFieldGuide(local_model, encoder=encoder).setup(x)


def test_an_amortised_guide_asks_for_its_data():
    guide = MeanFieldGuide(local_model, encoder=nn.Linear(2, 4)).setup(torch.zeros(3, 2))
    with pytest.raises(DataError, match="needs the data as the model's first argument; got NoneType"):
        guide(None)
    with pytest.raises(DataError, match="got no argument"):
        guide()


def test_parts_that_do_not_belong_together_are_refused():
    base = MeanFieldGuide(local_model)
    with pytest.raises(OptionError, match="encoder and base must not be given together"):
        HamiltonianGuide(local_model, base=base, encoder=nn.Linear(2, 4))
    with pytest.raises(OptionError, match="base must be a guide of the same model"):
        HamiltonianGuide(discrete, base=base)
    with pytest.raises(TypeError, match="base must be a Guide; got Linear"):
        HamiltonianGuide(local_model, base=nn.Linear(2, 2))
    with pytest.raises(TypeError, match="encoder must be a torch.nn.Module; got function"):
        MeanFieldGuide(local_model, encoder=lambda x: x)
    with pytest.raises(TypeError, match="model must be callable; got int"):
        MeanFieldGuide(3)
    with pytest.raises(TypeError, match="num_step"):
        HamiltonianGuide(local_model, num_step=3)
    with pytest.raises(OptionError, match="init_scale must be positive and finite; got -1"):
        MeanFieldGuide(local_model, init_scale=-1)
    with pytest.raises(OptionError, match="init_scale and encoder"):
        MeanFieldGuide(local_model, encoder=nn.Linear(2, 4), init_scale=0.1)


def test_before_set_up_a_guide_says_so():
    guide = MeanFieldGuide(observed_only)
    with pytest.raises(ModelError, match=r"MeanFieldGuide must be set up before use: call guide.setup\(\*args\)"):
        _ = guide.space
    with pytest.raises(ModelError, match="must be set up"):
        guide.requires_grad_(False)
    assert repr(guide) == "MeanFieldGuide(not set up)"


def test_a_latent_that_appears_later_is_named():
    grown = []

    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        if grown:
            pyro.sample("late", dist.Normal(z, 1.0))

    guide = HamiltonianGuide(model).setup()
    grown.append(True)
    with pytest.raises(ModelError, match="same latents in every run; got a new one, 'late'"):
        guide()


def test_the_evidence_of_a_latent_in_the_unit_interval():
    # Under Beta(2, 2) a success has probability 1 / 2.
    def model(x):
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        pyro.sample("x", dist.Bernoulli(p), obs=x)

    guide = MeanFieldGuide(model, init_scale=1.5)
    values = log_weights(model, guide, torch.tensor(1.0), num_particles=50_000).values.exp().detach()
    assert values.mean().item() == pytest.approx(0.5, abs=5 * values.std().item() / math.sqrt(50_000))


def test_the_force_of_a_minibatch_is_scaled_to_all_data():
    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    x, u = torch.randn(2), torch.randn(4, 1)
    space = LatentSpace(model, x)
    with Minibatch(10):
        scaled = space.log_joint(u, x)
    torch.testing.assert_close(scaled, space.log_joint(u, x.repeat(5)))


def test_the_log_joint_of_a_datum_does_not_depend_on_the_size_of_its_minibatch():
    x, u = torch.randn(3, 2), torch.randn(4, 3, 2)
    space = LatentSpace(local_model, x, amortised=True)
    with Minibatch(30):
        scaled = space.log_joint(u, x)
    torch.testing.assert_close(scaled, space.log_joint(u, x))


@pytest.mark.parametrize("family", [MeanFieldGuide, HamiltonianGuide])
def test_masked_latents_are_refused(family):
    def missing(y, seen):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y, obs_mask=seen)

    y = torch.randn(3)
    with pytest.raises(ModelError, match="latent 'y_unobserved' must not be masked: where the mask is False"):
        family(missing)(y, torch.tensor([True, False, True]))


def test_methods_of_one_object_are_one_model():
    class Model:
        def model(self):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    made = Model()
    assert HamiltonianGuide(made.model, base=MeanFieldGuide(made.model), num_steps=1)()["z"].shape == ()
    with pytest.raises(OptionError, match="of another model"):
        HamiltonianGuide(made.model, base=MeanFieldGuide(Model().model))
