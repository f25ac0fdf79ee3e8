"""How many data a call of a model is about."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from guides.errors import DataError, whole_number

__all__ = ["num_rows"]


def num_rows(x: object, num: int | None, event_shape: Sequence[int]) -> int:
    """Count the data given, or take the number asked for.

    Args:
        x: Data ``(B, *event_shape)``, or ``None`` to generate.
        num: How many to generate.
        event_shape: The shape of one datum.

    Raises:
        DataError: If the data have another shape, or there are none.
        OptionError: If there are no data, and ``num`` is no whole number of at least 1.
    """
    if x is None:
        return whole_number("num", num, least=1, instead="To generate without data, write model(None, num=16).")
    if not isinstance(x, Tensor) or x.shape[1:] != tuple(event_shape) or x.dim() == 0 or len(x) == 0:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise DataError(f"x must have shape (B, {', '.join(map(str, event_shape))}) with B >= 1; got {got}.")
    return len(x)
