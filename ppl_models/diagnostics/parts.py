"""Data cut into parts that are judged by themselves, where they are independent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from guides.errors import DataError
from ppl_models.objectives import log_weights
from ppl_models.training.batches import num_rows, take_rows

__all__ = ["Parts", "parts_of"]


@dataclass(frozen=True)
class Parts:
    """The arguments of a model, whole or cut.

    Args:
        args: Those of each part.
        sizes: How many data each part holds: what one draw of it costs.
        independent: Whether the parts' data have evidences of their own.
    """

    args: list[tuple[Any, ...]]
    sizes: list[int]
    independent: bool


def parts_of(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    most: int,
    caller: str,
    summarise: bool = False,
) -> Parts:
    """Cut data into parts of at most ``most``, if a model and guide hold them independent.

    Args:
        model: Any Pyro model.
        guide: Any Pyro guide of it.
        args: Arguments of both.
        most: The most data in one part.
        caller: Who asks, for the error.
        summarise: Whether the model's summary may stand for data that are not independent.

    Raises:
        DataError: If the model subsamples its data.
    """
    rows = _rows(args)
    # One draw of a part tells whether the data are independent; for models that are not, parts mean nothing.
    first = log_weights(model, guide, *(take_rows(args, slice(0, most)) if rows else args))
    if first.subsampled or first.scale != 1:
        raise DataError(f"{caller} needs all data; got a model that subsamples them. Give it all, in parts.")
    if rows and first.values.shape[1:] == (min(rows, most),):
        slices = [slice(start, start + most) for start in range(0, rows, most)]
        sizes = [min(most, rows - each.start) for each in slices]
        return Parts([take_rows(args, each) for each in slices], sizes, True)
    if summarise and hasattr(model, "summarise"):
        return Parts([(model.summarise(*args),)], [1], False)
    return Parts([args], [max([len(a) for a in args if isinstance(a, Tensor) and a.dim()], default=1)], False)


def _rows(args: tuple[Any, ...]) -> int:
    """How many rows the tensor arguments share; 0 if they do not."""
    try:
        return num_rows(args)
    except DataError:
        return 0
