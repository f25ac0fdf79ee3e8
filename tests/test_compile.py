"""Compiled steps: equal to eager ones, traced anew where they must be, and refused where a graph would be wrong."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from guides import HamiltonianGuide, MeanFieldGuide, Minibatch, ModelError, OptionError, UniformDequantisation
from guides.noise import Share
from ppl_models import VAE, FlowDensity, OffsetGaussian
from ppl_models.networks import MLPDecoder, MLPEncoder
from ppl_models.objectives import ELBO, IWAE, VRIWAE, KLWeights
from ppl_models.training import CompiledObjective, fit, graph
from tests.contract.problems import PROBLEMS, SEQUENTIAL
from tests.contract.registry import BASES, GUIDES, LAYERS, OWN, on, wide

ROOT = Path(__file__).parents[1]


@pytest.fixture
def uncompiled(monkeypatch):
    """The traced graph as it is: what tracing may get wrong shows without Inductor's minutes."""
    monkeypatch.setattr(graph, "_compiled", lambda traced, inputs: traced)


def evaluated(module, *args):
    pyro.set_rng_seed(0)
    for parameter in module.parameters():
        parameter.grad = None
    with pyro.validation_enabled(False):
        estimate = module.estimate(*args)
        estimate.loss.backward()
    return [estimate.loss.detach(), *estimate.parts.values(), *[p.grad for p in module.parameters()]]


def assert_equal(compiled, *args, rtol=1e-10):
    have, state = evaluated(compiled, *args), torch.random.get_rng_state()
    want = evaluated(compiled.objective, *args)
    assert torch.equal(state, torch.random.get_rng_state())
    for one, other in zip(have, want, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol * 10)


#: Those that belong to one model; and one whose first force is taken where no parameter moved the latents to.
FOR_ONE = OWN | {"one_pixel": OWN["one_pixel"] | {"hamiltonian-over-uniform": on("hamiltonian", UniformDequantisation)}}

#: Every guide on real latents, one per datum; every family on a positive one, for all data; the bases on both at once;
#: and those that belong to one model.
TRACED = (
    [("linear_vae", name) for name in GUIDES]
    + [("gamma_poisson", name) for name in ["list", *BASES, *LAYERS]]
    + [("offset_gaussian", name) for name in BASES]
    + [(problem, name) for problem, made in FOR_ONE.items() for name in made]
)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(("name", "make"), TRACED)
def test_every_guide_is_traced_whole(name, make):
    problem = (PROBLEMS | SEQUENTIAL)[name]()
    guide = FOR_ONE[name][make](problem.model) if name in FOR_ONE else GUIDES[make](problem.model, problem.encoder)
    guide.setup(*problem.args)
    compiled = CompiledObjective(ELBO(num_particles=2)(problem.model, guide))
    assert_equal(compiled, *problem.args)
    for parameter in compiled.parameters():
        parameter.data.mul_(1.1)
    assert_equal(compiled, *problem.args)  # parameters are inputs, and no constants
    assert len(compiled._graphs) == 1


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    "objective",
    [
        ELBO(num_particles=3, gradient="stl"),
        IWAE(num_particles=3, gradient="dreg"),
        VRIWAE(0.4, num_particles=3),
        IWAE(num_particles=2, vectorize_particles=False),
        ELBO(kl=KLWeights(warmup=4, free_bits=0.1)),
    ],
    ids=repr,
)
def test_every_objective_is_traced_whole(objective):
    problem = PROBLEMS["linear_vae"]()
    guide = wide(problem.model, problem.encoder).setup(*problem.args)
    compiled = CompiledObjective(objective(problem.model, guide))
    for step in (0, 2, 8):  # the warm-up is an input
        objective.set_progress(step=step, epoch=0)
        assert_equal(compiled, *problem.args)
    assert len(compiled._graphs) == 1


@pytest.mark.slow
def test_inductor_gives_the_same_in_both_precisions():
    for dtype, rtol in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        gaussian = OffsetGaussian(3).to(dtype)
        data = gaussian.summarise(torch.randn(50, 3, dtype=dtype))
        guide = HamiltonianGuide(gaussian, num_steps=1).setup(data)
        compiled = CompiledObjective(ELBO(num_particles=4)(gaussian, guide))
        assert_equal(compiled, data, rtol=rtol)
        other = gaussian.summarise(torch.randn(50, 3, dtype=dtype) + 1)
        assert_equal(compiled, other, rtol=rtol)  # data are inputs
        every_second = torch.stack([other.mean, other.mean], -1)[:, 0]  # in another layout
        assert_equal(compiled, dataclasses.replace(other, mean=every_second), rtol=rtol)
        assert len(compiled._graphs) == 1
        assert compiled.seconds > 0


class Network(nn.Module):
    """A network with running statistics and dropout."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, 5), nn.BatchNorm1d(5), nn.Dropout(0.3), nn.Linear(5, outputs))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("inductor", [pytest.param(True, marks=pytest.mark.slow), False])
def test_buffers_and_modes(inductor, monkeypatch):
    if not inductor:
        monkeypatch.setattr(graph, "_compiled", lambda traced, inputs: traced)
    x = torch.randn(8, 4)
    found = []
    for compile in (False, True):
        torch.manual_seed(1)
        vae = VAE(Network(2, 4), latent_dim=2)
        guide = MeanFieldGuide(vae, encoder=Network(4, 4)).setup(x.sigmoid().round())
        module = ELBO()(vae, guide)
        module = CompiledObjective(module) if compile else module
        values = [evaluated(module, x.sigmoid().round())]
        module.train(inductor)  # to Inductor the other mode would be a graph like those above
        values.append(evaluated(module, x.sigmoid().round()))
        buffers = [b.clone() for b in module.buffers() if b.dtype.is_floating_point]
        found.append([*values[0], *values[1], *buffers])
    for have, want in zip(*found, strict=True):
        torch.testing.assert_close(have, want)


@pytest.mark.usefixtures("uncompiled")
def test_it_is_traced_anew_for_other_shapes_and_minibatches(monkeypatch):
    problem = PROBLEMS["linear_vae"]()
    (x,) = problem.args
    compiled = CompiledObjective(ELBO()(problem.model, wide(problem.model, problem.encoder).setup(x)))
    assert_equal(compiled, x)
    assert_equal(compiled, x[:1])
    with Minibatch(10):
        assert_equal(compiled, x[:1])
    with Minibatch(20):
        assert_equal(compiled, x[:1])
    with Share("data", size=2, start=1):
        assert_equal(compiled, x[:1])
    assert len(compiled._graphs) == 5
    monkeypatch.setattr(CompiledObjective.__module__ + "._MOST", 6)
    for size in (2, 3):
        compiled.estimate(x[:1].expand(size, -1))
    assert len(compiled._graphs) == 6


@pytest.mark.usefixtures("uncompiled")
def test_it_is_traced_anew_for_other_precision():
    vae = VAE(MLPDecoder(2, event_shape=(6,), hidden=(8,)).float(), latent_dim=2)
    guide = MeanFieldGuide(vae, encoder=MLPEncoder((6,), output_dim=4, hidden=(8,)).float())
    x = torch.rand(5, 6).round().float()
    compiled = CompiledObjective(ELBO()(vae, guide.setup(x)))
    assert_equal(compiled, x, rtol=1e-5)
    exact = evaluated(compiled.objective, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert_equal(compiled, x, rtol=1e-5)
        assert not torch.equal(evaluated(compiled, x)[0], exact[0])
    assert len(compiled._graphs) == 2


@pytest.mark.usefixtures("uncompiled")
def test_frozen_parameters_stay_out():
    problem = PROBLEMS["linear_vae"]()
    compiled = CompiledObjective(ELBO()(problem.model, wide(problem.model, problem.encoder).setup(*problem.args)))
    frozen = next(problem.model.parameters()).requires_grad_(False)
    evaluated(compiled, *problem.args)
    assert frozen.grad is None
    frozen.requires_grad_()
    assert_equal(compiled, *problem.args)


@pytest.mark.usefixtures("uncompiled")
def test_the_loss_is_an_ordinary_output():
    problem = PROBLEMS["linear_vae"]()
    compiled = CompiledObjective(ELBO()(problem.model, wide(problem.model, problem.encoder).setup(*problem.args)))
    plain = evaluated(compiled, *problem.args)
    pyro.set_rng_seed(0)
    loss = 3 * compiled(*problem.args)
    found = torch.autograd.grad(loss, list(compiled.parameters()))
    for one, other in zip(found, plain[-len(found) :], strict=True):
        torch.testing.assert_close(one, 3 * other)
    with torch.no_grad():
        assert not compiled(*problem.args).requires_grad


def branching(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    if z > 0:
        z = 2 * z
    pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_an_optimizer_s_hooks_are_called_in_a_compiled_fit_too():
    model, steps = OffsetGaussian(2), []

    def watched(parameters, *, lr):
        adam = torch.optim.Adam(parameters, lr=lr)
        adam.register_step_post_hook(lambda *_: steps.append(model.offset.detach().clone()))
        return adam

    options = {"steps": 3, "optim": watched, "seed": 0, "progress": False, "compile": True}
    fit(model, MeanFieldGuide(model), torch.ones(20, 2), **options)
    assert len({tuple(offset.tolist()) for offset in steps}) == 3


def test_a_missing_compiler_is_named():
    from torch._inductor import config  # here, since every worker of a test run imports every test module

    model = OffsetGaussian(3)
    module = ELBO()(model, MeanFieldGuide(model).setup(torch.zeros(2, 3)))
    with (
        config.patch("cpp.cxx", ("no-such-compiler",)),
        pytest.raises(ModelError, match=r"cannot be compiled without a C\+\+ compiler. Install one, such as g\+\+"),
    ):
        CompiledObjective(module)(torch.zeros(2, 3))


def test_a_course_that_depends_on_values_is_named(caplog):
    x = torch.tensor(0.3)
    module = ELBO()(branching, MeanFieldGuide(branching).setup(x))
    with pytest.raises(ModelError, match=r"branching cannot be compiled at .*test_compile\.py:\d+ \(if z > 0:\)"):
        CompiledObjective(module)(x)
    caplog.set_level(logging.WARNING)
    compiled = CompiledObjective(module, fallback=True)
    assert_equal(compiled, x)
    assert_equal(compiled, x)
    assert caplog.text.count("It runs eagerly") == 1


LOOKS = {
    "mask": lambda x: x[x > 0].sum(),
    "nonzero": lambda x: float(len(torch.nonzero(x))),
    "numpy": lambda x: float(x.numpy().max()),
    "list": lambda x: max(x.tolist()),
}


@pytest.mark.parametrize("look", LOOKS)
def test_values_do_not_become_constants(look):
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=LOOKS[look](x))

    x = torch.tensor([0.3, -1.0])
    with pytest.raises(ModelError, match=r"model cannot be compiled at .*test_compile\.py"):
        CompiledObjective(ELBO()(model, MeanFieldGuide(model).setup(x)))(x)


@pytest.mark.usefixtures("uncompiled")
def test_it_is_traced_anew_for_other_parameters():
    problem = PROBLEMS["offset_gaussian"]()
    (x,) = problem.args
    guide = wide(problem.model, None).setup(x)
    compiled = CompiledObjective(ELBO()(problem.model, guide))
    assert_equal(compiled, x)
    guide.loc = nn.Parameter(guide.loc.detach() + 1)
    assert_equal(compiled, x)
    assert len(compiled._graphs) == 2
    compiled.float()
    assert_equal(compiled, x.float(), rtol=1e-5)
    with pytest.raises(ModelError, match=r"got others, of shape \(3, 2\)"):
        compiled(x.float().requires_grad_())


def test_parameters_outside_modules_are_refused():
    hidden = torch.tensor(0.2, requires_grad=True)

    def model(x):
        z = pyro.sample("z", dist.Normal(hidden, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.tensor(0.3)
    with pytest.raises(ModelError, match="needs every parameter in a module"):
        CompiledObjective(ELBO()(model, MeanFieldGuide(model).setup(x)))(x)


def test_handlers_that_a_graph_would_not_see_are_refused():
    problem = PROBLEMS["offset_gaussian"]()
    compiled = CompiledObjective(ELBO()(problem.model, wide(problem.model, None).setup(*problem.args)))
    with poutine.scale(scale=2.0), pytest.raises(ModelError, match="got ScaleMessenger"):
        compiled(*problem.args)
    with pytest.raises(OptionError, match="chunk_size=2"):
        CompiledObjective(ELBO(num_particles=4, chunk_size=2)(problem.model, wide(problem.model, None)))


# ------------------------------------------------------------------------------------------------------------------ fit


def trained(*, compile, optim=torch.optim.Adam, **options):
    torch.manual_seed(0)
    vae = VAE(MLPDecoder(2, event_shape=(6,), hidden=(5,)), latent_dim=2)
    guide = MeanFieldGuide(vae, encoder=MLPEncoder((6,), output_dim=4, hidden=(5,)))
    x = (torch.rand(25, 6) < 0.5).double()
    result = fit(
        vae, guide, x, steps=9, seed=0, batch_size=10, lr=0.01, progress=False, compile=compile, optim=optim, **options
    )
    return result, [p.detach().clone() for p in (*vae.parameters(), *guide.parameters())]


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("optim", [torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 0.5, "schedule": "cosine"}])
def test_a_compiled_fit_is_the_eager_one(optim, options):
    (eager, expected), (compiled, found) = (trained(compile=c, optim=optim, **options) for c in (False, True))
    for column in ("loss", "gradient_norm", "learning_rate", "reconstruction", "kl[z]"):
        assert compiled.history[column].to_numpy() == pytest.approx(eager.history[column].to_numpy(), rel=1e-8)
    for have, want in zip(found, expected, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-8, atol=1e-10)
    assert compiled.compile_seconds > 0
    assert eager.compile_seconds == 0


@pytest.mark.usefixtures("uncompiled")
def test_flows_of_images_are_fitted_alike():
    found = []
    for compile in (False, True):
        torch.manual_seed(0)
        model = FlowDensity.images((1, 2, 2), num_scales=2, num_couplings=1, hidden=2, growth=1, depth=1)
        guide, x = UniformDequantisation(model), (torch.rand(6, 1, 2, 2) < 0.5).double()
        result = fit(model, guide, x, steps=4, seed=0, batch_size=3, lr=0.01, progress=False, compile=compile)
        found.append([torch.tensor(result.history["loss"].to_numpy()), *model.parameters()])
    for have, want in zip(*found, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-8, atol=1e-10)


def sometimes_infinite(x):
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.factor("bad", torch.where(z[..., 0] > 1.0, torch.inf, 0.0) * z[..., 1])
    pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


@pytest.mark.usefixtures("uncompiled")
def test_steps_that_are_not_finite_change_nothing():
    results = []
    for compile in (False, True):
        guide = MeanFieldGuide(sometimes_infinite, init_scale=1.0)
        results.append((fit(sometimes_infinite, guide, torch.zeros(2), steps=30, seed=0, lr=0.01, progress=False,
                            max_skipped=30, compile=compile), guide))  # fmt: skip
    (eager, eager_guide), (compiled, compiled_guide) = results
    assert 0 < eager.skipped < 30
    assert (eager.history["skipped"] == compiled.history["skipped"]).all()
    torch.testing.assert_close(compiled_guide.loc, eager_guide.loc)


@pytest.mark.usefixtures("uncompiled")
def test_fit_falls_back_only_if_it_may():
    x = torch.tensor(0.3)
    with pytest.raises(ModelError, match="Write compile='auto' or compile=False"):
        fit(branching, MeanFieldGuide(branching), x, steps=2, progress=False, compile=True)
    result = fit(branching, MeanFieldGuide(branching), x, steps=2, progress=False, compile="auto", seed=0)
    plain = fit(branching, MeanFieldGuide(branching), x, steps=2, progress=False, seed=0)
    assert result.history["loss"].tolist() == plain.history["loss"].tolist()
    with pytest.raises(OptionError, match="compile must be True, False or 'auto'"):
        fit(branching, MeanFieldGuide(branching), x, steps=2, progress=False, compile="always")


def served():
    """What a short compiled fit asked of Inductor's cache of graphs: hits, misses, and graphs that it does not take."""
    from torch._dynamo.utils import counters  # here, since every worker of a test run imports every test module

    counters.clear()
    gaussian = OffsetGaussian(2)
    fit(gaussian, MeanFieldGuide(gaussian), torch.ones(20, 2), steps=2, progress=False, compile=True, seed=0)
    return [counters["inductor"][f"fxgraph_cache_{name}"] for name in ("hit", "miss", "bypass")]


@pytest.mark.slow
def test_the_cache_serves_the_next_process():
    hits, misses, bypasses = served()
    assert hits + misses > 0
    assert bypasses == 0
    script = "import torch; torch.set_default_dtype(torch.float64); from tests.test_compile import *; print(*served())"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert [int(number) for number in run.stdout.split()] == [hits + misses, 0, 0]
