"""numpyro_nuts: chains of NumPyro's NUTS, all at once, on a replayed log joint."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_models.reference.chains import Chains, Settings, progress_bar
from ppl_models.reference.replay import compare, replay
from ppl_models.reference.target import Target

if TYPE_CHECKING:
    import jax

__all__ = ["numpyro_nuts"]

#: How often the progress bar moves; each part runs as one compiled loop.
PARTS = 20

#: Points besides the starts where torch and JAX are compared.
EXTRA_POINTS = 4


def numpyro_nuts(target: Target, starts: Tensor, generator: torch.Generator, settings: Settings) -> Chains:
    """Run one chain from each of ``starts``, ``(num_chains, D)``.

    JAX computes in 64 bits here; what is set outside stays as it is.

    Raises:
        ModelError: If the log joint cannot be replayed in JAX.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    with jax.enable_x64(True):
        log_joint = replay(target, starts[0])
        extra = torch.stack([target.draw(generator) for _ in range(EXTRA_POINTS)])
        compare(target, jax.jit(jax.value_and_grad(log_joint)), torch.cat([starts, extra]))
        keys = jax.random.split(jax.random.key(settings.seed), len(starts))
        collected = _run(log_joint, keys, jnp.asarray(starts.cpu().numpy()), settings)
        draws = {name: np.asarray(values) for name, values in collected.items()}
    stats = {
        "diverging": draws["diverging"],
        "acceptance_rate": draws["accept_prob"],
        "energy": draws["energy"],
        "n_steps": draws["num_steps"],
        "lp": -draws["potential_energy"],
    }
    return Chains(torch.tensor(draws["z"]), stats, "numpyro")


def _run(log_joint: Any, keys: jax.Array, starts: jax.Array, settings: Settings) -> dict[str, jax.Array]:
    """Step NumPyro's kernel through warm-up and sampling; of the latter, ``(num_chains, num_samples, ...)`` each.

    MCMC.run would compile the kernel twice, and the chains' initial states operation by operation.
    """
    import jax
    import jax.numpy as jnp
    from numpyro.infer import NUTS

    kernel = NUTS(
        potential_fn=lambda vector: -log_joint(vector),
        target_accept_prob=settings.target_accept,
        max_tree_depth=settings.max_tree_depth,
        dense_mass=settings.dense_mass,
    )
    total = settings.num_warmup + settings.num_samples
    part = math.ceil(total / PARTS)
    kept = ("z", "potential_energy", "energy", "accept_prob", "num_steps", "diverging")

    def begin(key: jax.Array, start: jax.Array) -> Any:
        return kernel.init(key, settings.num_warmup, start, (), {})

    def step(state: Any, _: None) -> tuple[Any, dict[str, Any]]:
        state = kernel.sample(state, (), {})
        return state, {name: getattr(state, name) for name in kept}

    def advance(state: Any) -> Any:
        return jax.lax.scan(step, state, None, length=part)

    state = jax.jit(jax.vmap(begin))(keys, starts)
    run = jax.jit(jax.vmap(advance))
    parts: list[dict[str, Any]] = []
    first = 0
    with progress_bar("nuts (numpyro)", total, settings.progress) as show:
        for done in range(0, total, part):  # the last part may overshoot; what is too much is dropped below
            state, draws = run(state)
            if done + part > settings.num_warmup:
                parts.append({name: jax.device_get(values) for name, values in draws.items()})
                first = done if len(parts) == 1 else first
            jax.block_until_ready(state)
            show(done + part)
    own = slice(settings.num_warmup - first, total - first)
    return {name: jnp.concatenate([each[name] for each in parts], 1)[:, own] for name in kept}
