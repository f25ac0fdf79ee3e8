"""pyro_nuts: chains of Pyro's own NUTS, one after another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppl_models.reference.chains import Chains, Settings, progress_bar
from ppl_models.reference.float64 import in_float64
from ppl_models.reference.target import Target

__all__ = ["pyro_nuts"]


def pyro_nuts(target: Target, starts: Tensor, generator: torch.Generator, settings: Settings) -> Chains:
    """Run one chain from each of ``starts``, ``(num_chains, D)``; torch's global generator is left as it was."""
    total = len(starts) * (settings.num_warmup + settings.num_samples)
    chains = []
    with torch.random.fork_rng(), progress_bar("nuts (pyro)", total, settings.progress) as show:
        for k, start in enumerate(starts):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            chains.append(_chain(target, start, settings, lambda done, k=k: show(k * total // len(starts) + done)))
    names = chains[0][1][0]
    stats = {name: torch.tensor([[stat[name] for stat in each] for _, each in chains]).numpy() for name in names}
    return Chains(torch.stack([vectors for vectors, _ in chains]), stats, "pyro-ppl")


def _chain(target: Target, start: Tensor, settings: Settings, show: Any) -> tuple[Tensor, list[dict[str, Any]]]:
    from pyro import poutine
    from pyro.infer import MCMC

    kernel = _recording_kernel(target, settings)
    stats: list[dict[str, Any]] = []

    def after_step(kernel: Any, samples: Any, stage: str, step: int) -> None:
        show(kernel._t)
        if kernel._t > settings.num_warmup:
            stats.append(kernel.stats)

    mcmc = MCMC(
        kernel,
        num_samples=settings.num_samples,
        warmup_steps=settings.num_warmup,
        initial_params={"vector": start},
        hook_fn=after_step,
        disable_progbar=True,
    )
    with poutine.block():
        mcmc.run()
    return mcmc.get_samples()["vector"].detach(), stats


def _recording_kernel(target: Target, settings: Settings) -> Any:
    from pyro.infer import NUTS

    calls = 0

    def potential(values: dict[str, Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        with in_float64():
            return -target.log_joint(values["vector"])

    class Recording(NUTS):
        """NUTS that says of its last transition what NumPyro's does."""

        stats: dict[str, Any]

        def _sample_r(self, name: str) -> Any:
            momentum = super()._sample_r(name)
            self.energy = float(self._kinetic_energy(momentum[1]) + self._fetch_from_cache()[1])
            return momentum

        def sample(self, params: Any) -> Any:
            calls_before, mean_before, diverged_before = calls, self._mean_accept_prob, len(self._divergences)
            params = super().sample(params)
            count = self._t - settings.num_warmup if self._t > settings.num_warmup else self._t
            self.stats = {
                "diverging": len(self._divergences) > diverged_before,
                # Pyro keeps the running mean of what each transition had.
                "acceptance_rate": min(1.0, max(0.0, mean_before + count * (self._mean_accept_prob - mean_before))),
                "energy": self.energy,
                "n_steps": calls - calls_before,
                "lp": -float(self._fetch_from_cache()[1]),
            }
            return params

    return Recording(
        potential_fn=potential,
        target_accept_prob=settings.target_accept,
        max_tree_depth=settings.max_tree_depth,
        full_mass=settings.dense_mass,
    )
