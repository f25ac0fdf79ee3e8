"""Chains: what a sampler returns; Settings: what it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["Chains", "Settings", "progress_bar"]


@dataclass(frozen=True)
class Settings:
    """What both samplers are asked for; see :func:`ppl_models.reference.nuts`."""

    num_warmup: int
    num_samples: int
    seed: int
    target_accept: float
    max_tree_depth: int
    dense_mass: bool
    progress: bool


@dataclass(frozen=True)
class Chains:
    """Draws of a target and what the sampler says about each.

    Args:
        vectors: Shape ``(num_chains, num_samples, D)``.
        stats: ``diverging``, ``acceptance_rate``, ``energy``, ``n_steps`` and ``lp``; ``(num_chains, num_samples)``.
        library: The sampler's library, for its version.
    """

    vectors: Tensor
    stats: dict[str, Any]
    library: str


@contextmanager
def progress_bar(description: str, total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a progress bar; yields a function that takes the number of steps done."""
    if not shown:
        yield lambda done: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.update(task, completed=min(done, total))
