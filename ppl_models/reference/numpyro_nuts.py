"""numpyro_nuts: chains of NumPyro's NUTS, side by side, on a replayed log joint."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Event
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_models.reference.chains import Chains, Settings, progress_bar
from ppl_models.reference.replay import compare, replay
from ppl_models.reference.target import Target

if TYPE_CHECKING:
    import jax

__all__ = ["numpyro_nuts"]

#: How often the progress bar moves per chain; each part runs as one compiled loop.
PARTS = 20

#: Points besides the starts where torch and JAX are compared.
EXTRA_POINTS = 4

#: What is kept of each state.
KEPT = ("z", "potential_energy", "energy", "accept_prob", "num_steps", "diverging")


def numpyro_nuts(target: Target, starts: Tensor, generator: torch.Generator, settings: Settings) -> Chains:
    """Run one chain from each of ``starts``, ``(num_chains, D)``, on as many threads as torch has.

    JAX computes in 64 bits here; what is set outside stays as it is.

    Raises:
        ModelError: If the log joint cannot be replayed in JAX.
    """
    import jax
    import numpy as np

    with jax.enable_x64(True):
        log_joint = replay(target, starts[0])
        extra = torch.stack([target.draw(generator) for _ in range(EXTRA_POINTS)])
        value_and_gradient = jax.jit(jax.value_and_grad(log_joint), compiler_options=_quick_to_compile())
        compare(target, value_and_gradient, torch.cat([starts, extra]))
        draws = _run(log_joint, value_and_gradient, starts.cpu().numpy(), settings)
    stats = {
        "diverging": draws["diverging"],
        "acceptance_rate": draws["accept_prob"],
        "energy": draws["energy"],
        "n_steps": draws["num_steps"],
        "lp": -draws["potential_energy"],
    }
    return Chains(torch.tensor(np.asarray(draws["z"])), stats, "numpyro")


@lru_cache
def _quick_to_compile() -> dict[str, Any]:
    """Options of XLA, where it knows them, with which the many small steps of a tree compile in half the time."""
    import jax

    options = {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def _run(log_joint: Any, value_and_gradient: Any, starts: Any, settings: Settings) -> dict[str, Any]:
    """Step NumPyro's kernel through warm-up and sampling; of the latter, ``(num_chains, num_samples, ...)`` each.

    MCMC.run would compile the kernel twice, and the chains' initial states operation by operation. All chains run the
    same compiled part: chains in one array would wait, in every step, for the one with the deepest tree.
    """
    import jax
    import numpy as np
    from numpyro.infer import NUTS
    from numpyro.infer.util import ParamInfo

    kernel = NUTS(
        potential_fn=lambda vector: -log_joint(vector),
        target_accept_prob=settings.target_accept,
        max_tree_depth=settings.max_tree_depth,
        dense_mass=settings.dense_mass,
    )
    total = settings.num_warmup + settings.num_samples
    part = math.ceil(total / PARTS)

    def begin(key: jax.Array, start: jax.Array, value: jax.Array, gradient: jax.Array) -> Any:
        return kernel.init(key, settings.num_warmup, ParamInfo(start, -value, -gradient), (), {})

    def step(state: Any, _: None) -> tuple[Any, dict[str, Any]]:
        state = kernel.sample(state, (), {})
        return state, {name: getattr(state, name) for name in KEPT}

    begin = jax.jit(begin, compiler_options=_quick_to_compile())
    keys = jax.random.split(jax.random.key(settings.seed), len(starts))
    states = [begin(key, start, *value_and_gradient(start)) for key, start in zip(keys, starts, strict=True)]
    advance = jax.jit(lambda state: jax.lax.scan(step, state, None, length=part), compiler_options=_quick_to_compile())
    compiled = advance.lower(states[0]).compile()
    done = [0] * len(starts)
    stopped = Event()

    def chain(number: int) -> dict[str, Any]:
        state, parts = states[number], []
        for first in range(0, total, part):  # the last part may overshoot; what is too much is dropped below
            if stopped.is_set():
                break
            state, draws = compiled(state)
            parts.append(jax.device_get(draws))
            done[number] = min(first + part, total)
            show(sum(done))
        return {name: np.concatenate([each[name] for each in parts])[settings.num_warmup : total] for name in KEPT}

    with progress_bar("nuts (numpyro)", total * len(starts), settings.progress) as show:
        threads = min(torch.get_num_threads(), len(starts))
        with ThreadPoolExecutor(threads) as pool:
            try:
                chains = list(pool.map(chain, range(len(starts))))
            finally:
                stopped.set()  # after an interrupt, the others end with their part
    return {name: np.stack([each[name] for each in chains]) for name in KEPT}
