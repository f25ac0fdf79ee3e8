"""Arithmetic of Pyro's plates: where they stand, what they sum to, and what a minibatch stands for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from guides.errors import ModelError, OptionError

__all__ = [
    "Minibatch",
    "SameRows",
    "active_minibatches",
    "active_rows",
    "check_same_size",
    "check_shape",
    "depth",
    "full_size",
    "left_shape",
    "outside_plates",
    "sum_to",
]


class Minibatch(Messenger):
    """Say that the data given to a model are a minibatch: what stands in its plate is scaled by N / B.

    For models that take the minibatch as an argument. (Models that draw it themselves, by
    ``plate(subsample_size=...)``, need no such word.) Log densities seen by guides are scaled too.

    Args:
        size: N, the number of all data.
        plate: The name of the data plate.

    Raises:
        OptionError: If the plate is larger than ``size`` or subsamples by itself.
    """

    def __init__(self, size: int, *, plate: str = "data") -> None:
        super().__init__()
        self.size, self.plate = size, plate
        self.seen = False

    def _pyro_sample(self, msg: Any) -> None:
        for position, frame in enumerate(msg["cond_indep_stack"]):
            if frame.name != self.plate:
                continue
            self.seen = True
            if full_size(frame) != frame.size or frame.size > self.size:
                raise OptionError(
                    f"plate {self.plate!r} must hold a whole minibatch of at most {self.size} data; got size="
                    f"{full_size(frame)} of which {frame.size} are used. Let either the model or fit take minibatches."
                )
            msg["scale"] = msg["scale"] * (self.size / frame.size)
            stack = list(msg["cond_indep_stack"])
            stack[position] = frame._replace(full_size=self.size)
            msg["cond_indep_stack"] = tuple(stack)


def active_minibatches() -> list[Minibatch]:
    """The minibatches that are being computed, for runs of a model that outer handlers do not see."""
    return [handler for handler in _PYRO_STACK if isinstance(handler, Minibatch)]


class SameRows(Messenger):
    """Let all runs inside look at the same rows of plates that subsample: those of the first run."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, Any] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) and not msg["done"] and msg["name"] in self.rows:
            msg["value"], msg["done"] = self.rows[msg["name"]], True

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            self.rows[msg["name"]] = msg["value"]


def active_rows(plate: str) -> Any:
    """The rows of a plate that all runs must look at, if they are fixed."""
    found = [handler.rows[plate] for handler in _PYRO_STACK if isinstance(handler, SameRows) and plate in handler.rows]
    return found[-1] if found else None


def check_same_size(site: str, frames: Iterable[CondIndepStackFrame], expected: Iterable[CondIndepStackFrame]) -> None:
    """See that a latent stands in plates of the same sizes for the model and for its guide.

    Raises:
        ModelError: If not: there would be values too many or too few, or one would stand for all.
    """
    sizes = {frame.name: frame.size for frame in expected}
    for frame in frames:
        if frame.vectorized and sizes.get(frame.name, frame.size) != frame.size:
            raise ModelError(
                f"plate {frame.name!r} around the latent {site!r} must have the size that the guide was set up with, "
                f"{sizes[frame.name]}; got {frame.size}. Set up a new guide for the new data."
            )


def check_shape(
    site: str, shape: torch.Size, frames: Iterable[CondIndepStackFrame], particles: Collection[int]
) -> None:
    """See that every batch dimension of a log density is a plate's or the particles'.

    Raises:
        ModelError: If not: the densities of different particles would be mixed.
    """
    allowed = set(particles) | {depth(frame) for frame in frames if frame.vectorized}
    if any(size > 1 and dim not in allowed for dim, size in enumerate(reversed(shape), start=1)):
        raise ModelError(
            f"the log density of site {site!r} must have batch dimensions for its plates and the particles only; got "
            f"shape {tuple(shape)}. Write the model so that its latents may have more dimensions on the left (index "
            "them from the right: z[..., 0]), declare dimensions by to_event or plates, or use "
            "vectorize_particles=False."
        )


def depth(frame: CondIndepStackFrame) -> int:
    """Position of a vectorised plate's dimension among the batch dimensions, counted from the right, from 1."""
    assert frame.dim is not None, "a sequential plate has no dimension"
    return -frame.dim


@contextmanager
def outside_plates() -> Iterator[None]:
    """Run a model as if no plate were open around it, so that its own take the dimensions they have alone."""
    taken, _DIM_ALLOCATOR._stack = _DIM_ALLOCATOR._stack, []
    try:
        yield
    finally:
        _DIM_ALLOCATOR._stack = taken


def full_size(frame: CondIndepStackFrame) -> int:
    """Number of data a plate stands for, of which ``frame.size`` are looked at."""
    return frame.size if frame.full_size is None else frame.full_size


def sum_to(log_prob: Tensor, kept: Collection[int]) -> Tensor:
    """Sum a log density over all batch dimensions but those kept, counted from the right, from 1.

    Example:
        >>> import torch
        >>> sum_to(torch.ones(2, 3, 4), {3}).shape, sum_to(torch.ones(4), {1, 3}).shape
        (torch.Size([2]), torch.Size([1, 4]))
    """
    if not kept:
        return log_prob.sum() if log_prob.dim() else log_prob
    ndim = max([log_prob.dim(), *kept])
    log_prob = log_prob.reshape((1,) * (ndim - log_prob.dim()) + log_prob.shape)
    summed = [-dim for dim in range(1, ndim + 1) if dim not in kept]
    return log_prob.sum(summed) if summed else log_prob


def left_shape(left: Mapping[int, int], num_dims: int) -> list[int]:
    """Shape of the batch dimensions left of the ``num_dims`` rightmost, given the sizes of some by distance.

    Raises:
        ModelError: If one of the sizes belongs to the ``num_dims`` rightmost dimensions.
    """
    if left and min(left) <= num_dims:
        raise ModelError(
            f"plates around a guide must stand left of the {num_dims} batch dimensions of its sites; got dim="
            f"{-min(left)}. Raise max_plate_nesting."
        )
    return [left.get(dim, 1) for dim in range(max(left, default=num_dims), num_dims, -1)]
