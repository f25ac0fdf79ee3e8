"""Round Gaussians on a circle."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from ppl_models.datasets.toy.density import ToyDensity

__all__ = ["GaussianRing"]


@final
class GaussianRing(ToyDensity):
    """Draw points from equally likely round Gaussians, whose centres divide a circle into equal arcs.

        p(x) = 1/K Σ_k N(x; c_k, σ² I),    c_k = r (cos 2πk/K, sin 2πk/K)

    Args:
        name: What the law is called.
        entropy: H(p) in nats.
        components: K.
        radius: r.
        noise: σ.
    """

    def __init__(self, name: str, entropy: float, *, components: int, radius: float, noise: float) -> None:
        super().__init__(name, entropy)
        angles = torch.arange(components, dtype=torch.float64) * (2 * math.pi / components)
        self._centres = radius * torch.stack([angles.cos(), angles.sin()], -1)
        self._noise = noise

    def _draw(self, num: int, generator: torch.Generator) -> Tensor:
        which = torch.randint(len(self._centres), (num,), generator=generator)
        noise = torch.randn(num, 2, generator=generator, dtype=torch.float32)
        return noise.mul_(self._noise).add_(self._centres.to(torch.float32)[which])

    def _log_density(self, points: Tensor) -> Tensor:
        squares = (points.unsqueeze(1) - self._centres.to(points.device)).square().sum(-1)
        log_kernel = -squares / (2 * self._noise**2) - math.log(2 * math.pi * self._noise**2)
        return log_kernel.logsumexp(-1) - math.log(len(self._centres))
