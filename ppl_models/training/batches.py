"""Rows of data in shuffled minibatches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import torch
from torch import Tensor

from guides.errors import DataError, OptionError

__all__ = [
    "Transform",
    "check_batch_size",
    "check_finite",
    "minibatches",
    "num_rows",
    "one_epoch",
    "take_rows",
]

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


def check_batch_size(args: tuple[Any, ...], batch_size: int | None) -> tuple[int, int]:
    """Give the number of rows, and how many make a batch: all if ``batch_size`` is ``None``.

    Raises:
        DataError: If the arguments cannot be cut into batches.
        OptionError: If ``batch_size`` is not between 1 and the number of rows.
    """
    size = num_rows(args)
    if batch_size is not None and not 1 <= batch_size <= size:
        raise OptionError(f"batch_size must be between 1 and the number of data, {size}; got {batch_size}.")
    return size, size if batch_size is None else batch_size


def one_epoch(
    args: tuple[Any, ...], batch_size: int, transform: Transform | None, generator: torch.Generator
) -> Iterator[tuple[Any, ...]]:
    """Yield every row once, in an order and a noise that ``generator`` fixes. The last batch may be smaller."""
    for rows in torch.randperm(num_rows(args), generator=generator).split(batch_size):
        batch = take_rows(args, rows)
        yield batch if transform is None else (transform(batch[0], generator), *batch[1:])


def minibatches(
    args: tuple[Any, ...], batch_size: int | None, transform: Transform | None, generator: torch.Generator
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield ``(epoch, args)`` for ever, epoch after epoch; without a batch size, every batch is all data."""
    for epoch in count():
        if batch_size is not None:
            for batch in one_epoch(args, batch_size, transform, generator):
                yield epoch, batch
        else:
            yield epoch, args if transform is None else (transform(args[0], generator), *args[1:])
