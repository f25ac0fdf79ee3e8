"""The dark squares of a board of four by four."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from ppl_models.datasets.toy.density import ToyDensity

__all__ = ["Checkerboard"]

_SIDE, _CELLS = 2.0, 4
_LAST = 1 - 2**-22  # more would be rounded into the next square, which may be light, when the corner is added
_LOG_AREA = math.log(_CELLS**2 / 2 * _SIDE**2)


@final
class Checkerboard(ToyDensity):
    """Draw points uniformly from the eight dark squares of the board [−4, 4]², each of side 2.

        p(x) = 1/32 where ⌊x₁/2⌋ + ⌊x₂/2⌋ is even, 0 elsewhere

    Args:
        name: What the law is called.
        entropy: log 32, the logarithm of the dark area.
    """

    def _draw(self, num: int, generator: torch.Generator) -> Tensor:
        column = torch.randint(_CELLS, (num,), generator=generator)
        row = torch.randint(_CELLS // 2, (num,), generator=generator).mul_(2).add_(column % 2)
        corner = torch.stack([column, row], -1).sub_(_CELLS // 2)
        inside = torch.rand(num, 2, generator=generator, dtype=torch.float32).clamp_(max=_LAST)
        return inside.add_(corner).mul_(_SIDE)

    def _log_density(self, points: Tensor) -> Tensor:
        cells = (points.detach() / _SIDE).floor()
        half = _CELLS // 2
        dark = (cells.sum(-1) % 2 == 0) & ((cells >= -half) & (cells < half)).all(-1)
        # Times zero, so that the gradient is 0 and not an error.
        return torch.where(dark, -_LOG_AREA, -math.inf) + 0 * points.sum(-1)
