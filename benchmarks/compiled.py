"""Compiled steps against eager ones, and against NumPyro's jitted ones, each pair in turns in the same run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cost import ratio
from benchmarks.report import Row
from guides import HamiltonianGuide, MeanFieldGuide
from ppl_models import VAE, OffsetGaussian
from ppl_models.networks import MLPDecoder, MLPEncoder
from ppl_models.objectives import ELBO
from ppl_models.training import CompiledObjective
from ppl_models.training.compiled_adam import CompiledAdam
from ppl_models.training.options import make_optimizer

# One thread, as torch has here; read when JAX is first imported.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

N, DIM, STEPS, PARTICLES = 10_000, 300, 10, 10


def compiled() -> Iterator[Row]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with pyro.validation_enabled(False):
            yield from gaussian()
            yield from logistic()
            yield from vae()
    finally:
        torch.set_default_dtype(before)


def steps_of(
    module: Any, args: tuple[Any, ...]
) -> tuple[CompiledObjective, Callable[[], object], Callable[[], object]]:
    """The compiled objective; its loss and gradients; and these with Adam's update."""
    found = CompiledObjective(module)
    whole = CompiledAdam(found, torch.optim.Adam(list(module.parameters()), lr=1e-4))
    return found, lambda: found(*args).backward(), lambda: whole.step(*args)


def gaussian() -> Iterator[Row]:
    torch.manual_seed(0)
    x = torch.randn(N, DIM)
    model = OffsetGaussian(DIM)
    data = model.summarise(x)
    guide = HamiltonianGuide(model, num_steps=STEPS, init_step_size=1e-4).setup(data)
    module = ELBO(num_particles=PARTICLES)(model, guide)
    optimizer = torch.optim.Adam(list(module.parameters()), lr=1e-4)

    def eager() -> None:
        module(data).backward()

    def eager_update() -> None:
        optimizer.zero_grad()
        eager()
        optimizer.step()

    found, gradients, update = steps_of(module, (data,))
    name = f"offset Gaussian, hamiltonian K={STEPS}, {PARTICLES} particles, d={DIM}"
    yield Row(f"{name}: eager over compiled, loss and gradients", ratio(eager, gradients, repeats=5), least=15)
    yield Row(f"{name}: eager over compiled, with Adam's update", ratio(eager_update, update, repeats=5))
    yield Row(f"{name}: seconds to compile (two graphs)", found.seconds)
    for data_name, peer in (("all data", auto_dais(x)), ("the same statistics", auto_dais(x, summary=True))):
        least = 50.0 if data_name == "all data" else 1.0
        value = ratio(peer, update, rounds=5, repeats=3)
        yield Row(f"{name}: NumPyro's AutoDAIS on {data_name} over compiled, with update", value, least=least)


def auto_dais(x: Tensor, *, summary: bool = False) -> Callable[[], object]:
    import jax
    import jax.numpy as jnp
    import numpyro
    from numpyro import distributions as ndist
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoDAIS

    values = jnp.asarray(x.numpy())
    mean, scatter = values.mean(0), ((values - values.mean(0)) ** 2).sum(0)

    def model(values: Any) -> None:
        offset = numpyro.param("offset", jnp.zeros(DIM))
        scale = numpyro.param("scale", jnp.ones(DIM), constraint=ndist.constraints.positive)
        z = numpyro.sample("z", ndist.Normal(jnp.zeros(DIM), 1.0).to_event(1))
        if summary:
            squares = values[1] + N * (values[0] - z - offset) ** 2
            numpyro.factor("x", (-0.5 * squares / scale**2 - N * jnp.log(scale)).sum())
            return
        with numpyro.plate("data", N):
            numpyro.sample("x", ndist.Normal(z + offset, scale).to_event(1), obs=values)

    svi = SVI(model, AutoDAIS(model, K=STEPS), numpyro.optim.Adam(1e-4), Trace_ELBO(num_particles=PARTICLES))
    return jitted(svi, (mean, scatter) if summary else values, jax)


def jitted(svi: Any, args: Any, jax: Any, *more: Any) -> Callable[[], object]:
    state = [svi.init(jax.random.PRNGKey(0), args, *more)]
    update = jax.jit(svi.update)

    def step() -> None:
        state[0], loss = update(state[0], args, *more)
        jax.block_until_ready(loss)

    return step


def logistic() -> Iterator[Row]:
    import jax
    import jax.numpy as jnp
    import numpyro
    from numpyro import distributions as ndist
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    torch.manual_seed(0)
    x, y = torch.randn(1000, 100), (torch.rand(1000) < 0.5).float()

    def model(x: Tensor, y: Tensor) -> None:
        weights = pyro.sample("weights", dist.Normal(torch.zeros(100), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=x @ weights), obs=y)

    def peer_model(x: Any, y: Any) -> None:
        weights = numpyro.sample("weights", ndist.Normal(jnp.zeros(100), 1.0).to_event(1))
        with numpyro.plate("data", len(x)):
            numpyro.sample("y", ndist.Bernoulli(logits=x @ weights), obs=y)

    guide = MeanFieldGuide(model).setup(x, y)
    _, _, update = steps_of(ELBO()(model, guide), (x, y))
    svi = SVI(peer_model, AutoNormal(peer_model), numpyro.optim.Adam(1e-4), Trace_ELBO())
    peer = jitted(svi, jnp.asarray(x.numpy()), jax, jnp.asarray(y.numpy()))
    name = "logistic regression, d=100, N=1,000, mean-field, with update"
    yield Row(f"{name}: NumPyro's AutoNormal over compiled", ratio(peer, update, repeats=200), least=1.0)


class ByHand(nn.Module):
    """The same VAE and estimator in plain torch."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor) -> Tensor:
        loc, log_scale = self.encoder(x).chunk(2, -1)
        noise = torch.randn_like(loc)
        z = loc + log_scale.exp() * noise
        kl = (0.5 * (z.square() - noise.square()) - log_scale).sum()
        return kl + F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")


def vae() -> Iterator[Row]:
    torch.manual_seed(0)
    x = (torch.rand(128, 784) < 0.2).float()
    encoder = MLPEncoder((784,), output_dim=40, hidden=(400,))
    model = VAE(MLPDecoder(20, event_shape=(784,), hidden=(400,)), latent_dim=20)
    guide = MeanFieldGuide(model, encoder=encoder).setup(x)
    by_hand = ByHand(encoder, model.decoder)
    optimizer = torch.optim.Adam(list(by_hand.parameters()), lr=1e-4)

    def peer() -> None:
        optimizer.zero_grad()
        by_hand(x).backward()
        optimizer.step()

    module = ELBO()(model, guide)
    eager_optimizer = make_optimizer(torch.optim.Adam, module.parameters(), lr=1e-4)  # as fit does

    def eager() -> None:
        eager_optimizer.zero_grad()
        module(x).backward()
        eager_optimizer.step()

    _, _, update = steps_of(module, (x,))
    name = "VAE 784-400-20, batch 128, with update"
    for way, ours, most in (("eager", eager, 1.4), ("compiled", update, 1.0)):
        value = ratio(ours, peer, repeats=20, clock=time.process_time)  # all on this one thread
        yield Row(f"{name}: {way} over torch by hand", value, most=most)
