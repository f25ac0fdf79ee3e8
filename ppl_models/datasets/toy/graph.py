"""Points on the graph of a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from ppl_models.datasets.toy.density import ToyDensity

__all__ = ["FunctionGraph"]

_REACH = 2.5


@final
class FunctionGraph(ToyDensity):
    """Draw x uniformly from (−2.5, 2.5), and y = f(x).

    The points lie on a curve: their law has no density in the plane, its entropy is minus infinity, and a model that
    narrows around the curve reaches any likelihood. A negative log likelihood on them ranks no models.

    Args:
        name: What the law is called.
        entropy: Minus infinity.
        function: f.
    """

    def __init__(self, name: str, entropy: float, *, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(name, entropy)
        self._function = function

    def _draw(self, num: int, generator: torch.Generator) -> Tensor:
        x = torch.rand(num, generator=generator, dtype=torch.float32).mul_(2).sub_(1).mul_(_REACH)
        return torch.stack([x, self._function(x)], -1)

    def _log_density(self, points: Tensor) -> Tensor:
        raise AssertionError("log_prob refuses before it comes here")
