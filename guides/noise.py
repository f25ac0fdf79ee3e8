"""Noise that is a part of the noise of a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from guides.plates import depth

__all__ = ["Share", "is_point", "standard_normal"]


class Share(Messenger):
    """Draw the noise for some of a plate's members as the part that it is of the noise for all.

    Particles that are drawn in chunks, and data that several processes share, then come out as they would all at
    once, under the same seed. This holds for guides of this library and for others whose sites are all normal; what
    else is drawn inside has the right law and is independent from part to part, but has other values. Stands outside
    the plate.

    Args:
        plate: The plate's name.
        size: How many members there are in all.
        start: Which of them is the first that is drawn here.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def draw(n):
        ...     with pyro.plate("data", n):
        ...         return pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> pyro.set_rng_seed(0)
        >>> whole = draw(5)
        >>> pyro.set_rng_seed(0)
        >>> with Share("data", size=5, start=3):
        ...     part = draw(2)
        >>> bool((part == whole[3:]).all())
        True
    """

    def __init__(self, plate: str, *, size: int, start: int) -> None:
        super().__init__()
        self.plate, self.size, self.start = plate, size, start

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"] or site_is_subsample(msg):
            return
        normal, event_dim = msg["fn"], msg["fn"].event_dim
        while isinstance(normal, dist.Independent):
            normal = normal.base_dist
        frames = {event_dim + depth(f) - 1: f.name for f in msg["cond_indep_stack"] if f.vectorized}
        if self.plate not in frames.values():
            return
        if isinstance(normal, dist.Normal):
            shape = msg["fn"].shape()
            names = [frames.get(dim) for dim in range(len(shape) - 1, -1, -1)]
            noise = standard_normal(shape, names, dtype=normal.loc.dtype, device=normal.loc.device)
            msg["value"], msg["done"] = normal.loc + normal.scale * noise, True
        elif not is_point(normal):
            # Every part begins with the same state of the generator: without a seed of its own it would draw the same.
            seed = int(torch.randint(2**62, ()))
            with torch.random.fork_rng():
                torch.manual_seed(seed + self.start)
                msg["value"], msg["done"] = msg["fn"](), True


def is_point(fn: Any) -> bool:
    """Whether a law has one value, so that nothing is drawn."""
    while isinstance(fn, dist.Independent):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)


def standard_normal(
    shape: Sequence[int], plates: Sequence[str | None], *, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Draw standard normal numbers: those of the part that the :class:`Share` around says, if there is one.

    Args:
        shape: Shape of what is drawn.
        plates: Whose members each of its dimensions counts, by name; ``None`` for dimensions of no plate.
        dtype: As in torch.
        device: As in torch.
    """
    whole, part = list(shape), [slice(None)] * len(shape)
    for share in _PYRO_STACK:
        if isinstance(share, Share) and share.plate in plates:
            dim = plates.index(share.plate)
            whole[dim], part[dim] = share.size, slice(share.start, share.start + shape[dim])
    return torch.randn(whole, dtype=dtype, device=device)[tuple(part)]
