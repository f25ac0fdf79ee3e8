"""Rows of data that are evaluated without the others."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from guides.noise import Share
from guides.rescoring import Rescoring
from ppl_models.objectives.chunks import RandomState, leaves_of
from ppl_models.objectives.log_weights import LogWeights
from ppl_models.objectives.traces import PARTICLES

__all__ = ["draw_rows", "has_rows", "kind_of_rows", "plate_of_rows", "take_rows"]

#: From arguments, keyword arguments and which particles (all if ``None``) to their log-weights.
Draw = Callable[[Any, Any, slice | None], tuple[LogWeights, list[Rescoring]]]


def take_rows(value: Any, rows: slice, *, of: int) -> Any:
    """Take rows of every tensor among arguments that has ``of`` of them; all else passes.

    Example:
        >>> import torch
        >>> take_rows((torch.arange(4), {"scale": torch.ones(2)}, "x"), slice(1, 3), of=4)
        (tensor([1, 2]), {'scale': tensor([1., 1.])}, 'x')
    """
    if isinstance(value, Tensor):
        return value[rows] if value.dim() and len(value) == of else value
    if isinstance(value, dict):
        return {key: take_rows(part, rows, of=of) for key, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(take_rows(part, rows, of=of) for part in value)
    return value


def has_rows(args: Any, *, least: int) -> bool:
    """Whether the first argument is a tensor with so many rows."""
    return bool(args) and isinstance(args[0], Tensor) and args[0].dim() > 0 and len(args[0]) >= least


def kind_of_rows(parts: Iterable[Any], args: Any, kwargs: Any) -> Hashable:
    """What must be as it was for rows that stood alone to do so again: which tensors have rows, and training modes."""
    modes = [m.training for part in parts if isinstance(part, nn.Module) for m in part.modules()]
    return tuple(modes), _which_have_rows((args, kwargs), of=len(args[0]))


def _which_have_rows(value: Any, *, of: int) -> Hashable:
    if isinstance(value, Tensor):
        return value.dim() > 0 and len(value) == of
    parts = value.values() if isinstance(value, dict) else value if type(value) in (tuple, list) else ()
    return tuple([_which_have_rows(part, of=of) for part in parts])


def draw_rows(
    draw: Draw, args: Any, kwargs: Any, plate: str, rows: slice, particles: slice | None = None
) -> tuple[LogWeights, list[Rescoring]]:
    """Draw particles for some rows of the data, members of a plate, as they are when all are drawn."""
    num_data = len(args[0])
    with Share(plate, size=num_data, start=rows.start):
        weights, rescorings = draw(take_rows(args, rows, of=num_data), take_rows(kwargs, rows, of=num_data), particles)
    if weights.scale != 1:  # a minibatch, of which these rows are a part
        weights = dataclasses.replace(weights, scale=weights.scale * (rows.stop - rows.start) / num_data)
    return weights, rescorings


def plate_of_rows(draw: Draw, parts: Iterable[Any], args: Any, kwargs: Any) -> str | None:
    """Give the plate whose members are the rows of the arguments, if each row has the same terms without the others.

    That is seen by trying, with one particle: the first row alone, and all others without it, so that no group of rows
    stays together. An argument may be of another kind, and a network normalise its batch. Parameters are moved
    meanwhile, for a layer that mixes rows may begin with weights of zero; they and all buffers then are as before.

    Args:
        draw: Draws particles.
        parts: Model and guide.
        args: Their arguments; the first is a tensor of three rows at least.
        kwargs: Their keyword arguments.
    """
    state, num_data = RandomState.capture(), len(args[0])
    try:
        with torch.enable_grad():
            whole, _ = draw(args, kwargs, slice(0, 1))
            parameters = leaves_of(whole.values.sum())
        # Of runs of one particle each, the first dimension is theirs and no plate's.
        sizes = dict(zip(reversed(whole.plates), reversed(whole.values.shape), strict=False))
        plate = next((name for name, size in sizes.items() if size == num_data and name != PARTICLES), None)
        if plate is None:
            return None

        def terms(rows: slice) -> Tensor:
            state.restore()
            weights, _ = draw_rows(draw, args, kwargs, plate, rows, slice(0, 1))
            return torch.stack(list(weights.terms.values()))

        buffers = [buffer for part in parts if isinstance(part, nn.Module) for buffer in part.buffers()]
        with torch.no_grad(), _elsewhere(parameters, buffers):
            expected = terms(slice(0, num_data))
            found = torch.cat([terms(slice(0, 1)), terms(slice(1, num_data))], -1 - list(sizes).index(plate))
        precision = torch.finfo(expected.dtype).eps ** 0.5
        return plate if torch.allclose(found, expected, rtol=precision, atol=precision) else None
    except Exception:
        # The arguments are more than so many rows; what is wrong with all of them, the evaluation will say.
        return None
    finally:
        state.restore()


@contextmanager
def _elsewhere(parameters: list[Tensor], buffers: list[Tensor]) -> Iterator[None]:
    """Move parameters a little, each away from zero, and bring them and buffers back."""
    before = [(tensor, tensor.detach().clone()) for tensor in parameters + buffers]
    try:
        for parameter in parameters:
            # As far, for the output of a layer, whatever its width; and past autograd, for all is as before in the end.
            far = 0.1 / math.sqrt(max(math.prod(parameter.shape[1:]), 1))
            parameter.data.add_(far * torch.copysign(torch.randn_like(parameter), parameter))
        yield
    finally:
        for tensor, value in before:
            tensor.data.copy_(value)
