"""Noise that is a part of the noise of a whole, and noise that is recorded and given."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Self

import pyro.distributions as dist
import torch
import torch.distributions as law  # Pyro's are subclasses of these
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from guides.errors import ModelError
from guides.plates import depth

__all__ = ["NoiseTape", "Share", "draw_share", "is_point", "standard_normal"]


class Share(Messenger):
    """Draw the noise for some of a plate's members as the part that it is of the noise for all.

    Particles or data that are drawn in chunks, and data that several processes share, then come out as they would all
    at once, under the same seed; and so do parts of a part, one share inside the other. This holds for guides of this
    library and for others whose sites are all normal; what else is drawn inside has the right law and is independent
    from part to part, but has other values. Stands outside the plate.

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
            starts = [share.start for share in _shares(frames.values())]
            seed = int(torch.randint(2**62, ()))
            with torch.random.fork_rng():
                torch.manual_seed((seed + hash(tuple(starts))) % 2**63)
                msg["value"], msg["done"] = msg["fn"](), True


def draw_share(msg: Any) -> None:
    """Let the shares around draw a site's value now, before the handlers between them and it are asked."""
    for share in reversed(_PYRO_STACK):
        if isinstance(share, Share):
            share._pyro_sample(msg)


def _shares(plates: Collection[str | None]) -> list[Share]:
    """The shares of some plates, innermost first: each draws a part of the next one's part."""
    return [handler for handler in reversed(_PYRO_STACK) if isinstance(handler, Share) and handler.plate in plates]


def is_point(fn: Any) -> bool:
    """Whether a law has one value, so that nothing is drawn."""
    while isinstance(fn, law.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)


class NoiseTape(Messenger):
    """Record the standard normal noise that a guide's draws are made from, or give it.

    For guides of this library, and for those of others whose sites are functions of normal noise: normal laws of any
    covariance, and transformed ones. Stands outside the plates; of a model that is run on what the guide drew, it sees
    nothing new.

    Args:
        noise: What to give, in the order in which it is asked for; recorded noise is drawn if not given.

    Raises:
        ModelError: In a run, if a site is made from no such noise.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def guide():
        ...     return pyro.sample("z", dist.LogNormal(1.0, 0.5))
        >>> tape = NoiseTape()
        >>> with tape:
        ...     z = guide()
        >>> bool(torch.isclose(z, (1 + 0.5 * tape.noise[0]).exp()))
        True
        >>> with NoiseTape([torch.zeros(())]):
        ...     guide()
        tensor(2.7183)
    """

    def __init__(self, noise: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        self._given = noise
        #: The noise of the last run.
        self.noise: list[Tensor] = []
        #: Whose members each of its dimensions counts, by name; ``None`` for dimensions of no plate.
        self.plates: list[list[str | None]] = []
        #: The names of the plates by the position of their dimension, counted from the right, from 1.
        self.names: dict[int, str] = {}

    def __enter__(self) -> Self:
        self.noise, self.plates, self.names = [], [], {}
        super().__enter__()
        return self

    def take(self, draw: Callable[[], Tensor], plates: Sequence[str | None]) -> Tensor:
        """The next noise: what is given, or else what is drawn."""
        noise = draw() if self._given is None else self._given[len(self.noise)]
        self.noise.append(noise)
        self.plates.append(list(plates))
        return noise

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        frames = {depth(frame): frame.name for frame in msg["cond_indep_stack"] if frame.vectorized}
        self.names |= frames
        if msg["done"] or msg["is_observed"]:
            return

        def noise(shape: torch.Size, event_dim: int, like: Tensor) -> Tensor:
            plates = [frames.get(dim - event_dim) for dim in range(len(shape), 0, -1)]
            return self.take(lambda: torch.randn(shape, dtype=like.dtype, device=like.device), plates)

        value = _made_from(msg["fn"], noise, 0)
        if value is None and not is_point(msg["fn"]):
            raise ModelError(
                f"the guide's draws must be made from standard normal noise; got site {msg['name']!r} "
                f"({type(msg['fn']).__name__}). Guides of this library are, and sites with normal, log-normal and "
                "transformed normal laws."
            )
        if value is not None:
            msg["value"], msg["done"] = value, True


def _made_from(fn: Any, noise: Callable[[torch.Size, int, Tensor], Tensor], event_dim: int) -> Tensor | None:
    """The value of a law as a function of standard normal noise; ``None`` if it is none.

    Args:
        fn: The law.
        noise: Gives noise of a shape, of whose dimensions some are the event's.
        event_dim: How many of the law's batch dimensions belong to an event around it.
    """
    if isinstance(fn, law.Normal):
        return fn.loc + fn.scale * noise(fn.batch_shape, event_dim, fn.loc)
    if isinstance(fn, law.MultivariateNormal):
        own = noise(fn.batch_shape + fn.event_shape, event_dim + 1, fn.loc)
        return fn.loc + (fn.scale_tril @ own[..., None])[..., 0]
    if isinstance(fn, law.LowRankMultivariateNormal):
        shared = noise(fn.batch_shape + fn.cov_factor.shape[-1:], event_dim + 1, fn.loc)
        own = noise(fn.batch_shape + fn.event_shape, event_dim + 1, fn.loc)
        return fn.loc + (fn.cov_factor @ shared[..., None])[..., 0] + fn.cov_diag.sqrt() * own
    if isinstance(fn, law.Independent | dist.MaskedDistribution):
        return _made_from(fn.base_dist, noise, event_dim + len(fn.base_dist.batch_shape) - len(fn.batch_shape))
    if isinstance(fn, law.TransformedDistribution):
        inner = event_dim + len(fn.base_dist.batch_shape) - len(fn.batch_shape)
        value = _made_from(fn.base_dist, noise, inner)
        for transform in fn.transforms if value is not None else ():
            value = transform(value)
        return value
    return None


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
    whole, starts = list(shape), [0] * len(shape)
    for share in _shares(plates):
        dim = list(plates).index(share.plate)
        whole[dim], starts[dim] = share.size, starts[dim] + share.start
    part = tuple(slice(start, start + size) for start, size in zip(starts, shape, strict=True))

    def draw() -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)  # half precision has single precision's noise, rounded
        return torch.randn(whole, dtype=wide, device=device)[part].to(dtype)

    tapes = [handler for handler in _PYRO_STACK if isinstance(handler, NoiseTape)]
    return tapes[-1].take(draw, plates) if tapes else draw()
