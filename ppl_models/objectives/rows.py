"""Rows of data that are evaluated without the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from guides.noise import Share
from guides.rescoring import Rescoring
from ppl_models.objectives.chunks import RandomState, slices
from ppl_models.objectives.log_weights import LogWeights
from ppl_models.objectives.traces import PARTICLES

__all__ = ["draw_rows", "plate_of_rows", "take_rows"]

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


def plate_of_rows(draw: Draw, args: Any, kwargs: Any) -> str | None:
    """Give the plate whose members are the rows of the arguments, if each row has the same terms without the others.

    That is seen by trying, with one particle: an argument may be of another kind, and a network normalise its batch.
    """
    if not (args and isinstance(args[0], Tensor) and args[0].dim()):
        return None
    state, num_data, one = RandomState.capture(), len(args[0]), slice(0, 1)
    try:
        with torch.no_grad():
            whole, _ = draw(args, kwargs, one)
            # Of runs of one particle each, the first dimension is theirs and no plate's.
            sizes = dict(zip(reversed(whole.plates), reversed(whole.values.shape), strict=False))
            plate = next((name for name, size in sizes.items() if size == num_data and name != PARTICLES), None)
            if plate is None:
                return None
            parts = []
            for rows in slices(num_data, max(num_data // 2, 1)):
                state.restore()
                try:
                    parts.append(draw_rows(draw, args, kwargs, plate, rows, one)[0])
                except Exception:  # all rows together have just been drawn: they are more than so many data
                    return None
            dim = -1 - list(sizes).index(plate)
    finally:
        state.restore()
    found = torch.stack([torch.cat([part.terms[name] for part in parts], dim) for name in whole.terms])
    expected = torch.stack(list(whole.terms.values()))
    precision = torch.finfo(expected.dtype).eps ** 0.5
    same = torch.allclose(found, expected, rtol=precision, atol=precision, equal_nan=True)
    return plate if same else None
