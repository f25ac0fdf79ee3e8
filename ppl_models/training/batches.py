"""Rows of data in shuffled minibatches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from guides.errors import DataError, OptionError

__all__ = ["Transform", "check_finite", "minibatches", "num_rows", "take_rows"]

#: From a batch of the first argument and a generator to what the model sees, for example a binarisation.
Transform = Callable[[Tensor, torch.Generator], Tensor]


def num_rows(args: tuple[Any, ...]) -> int:
    """Length of the first dimension that all tensor arguments share.

    Raises:
        DataError: If there is no tensor argument, or their lengths differ or are zero.
    """
    lengths = {len(a) if a.dim() else 0 for a in args if isinstance(a, Tensor)}
    if len(lengths) != 1 or 0 in lengths:
        raise DataError(
            "to be cut into batches, the tensor arguments must share a first dimension of at least 1; got lengths "
            f"{sorted(lengths) or 'of no tensor'}."
        )
    return lengths.pop()


def check_finite(args: tuple[Any, ...], *, name: str = "argument") -> None:
    """Raise if a tensor among the arguments has NaN or infinite values.

    Raises:
        DataError: With the argument's position and the first such value's.
    """
    for position, value in enumerate(args):
        if isinstance(value, Tensor) and not torch.isfinite(value).all():
            bad = (~torch.isfinite(value)).nonzero()
            raise DataError(
                f"{name} {position} must be finite; got {len(bad)} NaN or infinite values, the first at index "
                f"{tuple(bad[0].tolist())}. Remove or impute them."
            )


def take_rows(args: tuple[Any, ...], rows: Tensor | slice) -> tuple[Any, ...]:
    """Take the same rows of every tensor argument; other arguments pass."""
    return tuple(a[rows] if isinstance(a, Tensor) else a for a in args)


def minibatches(
    args: tuple[Any, ...], batch_size: int | None, transform: Transform | None, generator: torch.Generator
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield ``(epoch, args)`` for ever: every row once per epoch, in an order and a noise that ``generator`` fixes.

    The last batch of an epoch may be smaller than ``batch_size``. Without a batch size, every batch is all data.

    Raises:
        OptionError: If ``batch_size`` is not between 1 and the number of rows.
    """
    size = None if batch_size is None else num_rows(args)
    if size is not None and batch_size is not None and not 1 <= batch_size <= size:
        raise OptionError(f"batch_size must be between 1 and the number of data, {size}; got {batch_size}.")
    epoch = 0
    while True:
        if size is None or batch_size is None:
            batches = [args]
        else:
            order = torch.randperm(size, generator=generator).split(batch_size)
            batches = (take_rows(args, rows) for rows in order)  # type: ignore[assignment]
        for batch in batches:
            yield epoch, batch if transform is None else (transform(batch[0], generator), *batch[1:])
        epoch += 1
