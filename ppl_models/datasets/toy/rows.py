"""Sums over the terms of each row, of which the rows have different numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["logsumexp_by_row"]


def logsumexp_by_row(terms: Tensor, row: Tensor, rows: int) -> Tensor:
    """Take log Σ exp over the terms of each row.

    Shapes: ``terms`` and ``row`` ``(T,)``; the result is ``(rows,)``.

    Args:
        terms: The terms of all rows, in any order.
        row: The number of the row that each term belongs to.
        rows: How many rows there are; one without a term gets minus infinity.

    Example:
        >>> logsumexp_by_row(torch.zeros(3), torch.tensor([0, 2, 2]), 3).exp()
        tensor([1., 0., 2.])
    """
    highest = torch.full((rows,), -math.inf, dtype=terms.dtype, device=terms.device)
    highest = highest.scatter_reduce(0, row, terms.detach(), "amax")
    total = torch.zeros_like(highest).index_add(0, row, (terms - highest[row]).exp())
    return torch.where(total > 0, total, 1.0).log() + highest
