"""Noisy concentric circles."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from ppl_models.datasets.toy.density import ToyDensity

__all__ = ["NoisyCircles"]


@final
class NoisyCircles(ToyDensity):
    r"""Draw points around equally likely circles about the origin, with Gaussian noise.

    With a uniform angle, the density of a circle of radius r and noise σ is, at distance ρ from the origin,

        exp(−(ρ² + r²) / 2σ²) I₀(ρ r / σ²) / 2πσ²,

    where I₀ is the modified Bessel function; p is the mean over the circles.

    Args:
        name: What the law is called.
        entropy: H(p) in nats.
        radii: r of each circle.
        noise: σ.
    """

    def __init__(self, name: str, entropy: float, *, radii: tuple[float, ...], noise: float) -> None:
        super().__init__(name, entropy)
        self._radii = torch.tensor(radii, dtype=torch.float64)
        self._noise = noise

    def _draw(self, num: int, generator: torch.Generator) -> Tensor:
        which = torch.randint(len(self._radii), (num,), generator=generator)
        angle = torch.rand(num, generator=generator, dtype=torch.float32).mul_(2 * math.pi)
        noise = torch.randn(num, 2, generator=generator, dtype=torch.float32)
        radius = self._radii.to(torch.float32)[which].unsqueeze(-1)
        return noise.mul_(self._noise).add_(radius * torch.stack([angle.cos(), angle.sin()], -1))

    def _log_density(self, points: Tensor) -> Tensor:
        radii, variance = self._radii.to(points.device), self._noise**2
        squares = points.square().sum(-1, keepdim=True)
        # Without the tiny number, the gradient at the origin would be NaN.
        distance = (squares + torch.finfo(squares.dtype).tiny).sqrt()
        # i0e(x) = exp(-x) I0(x): the exponents together are the square below.
        log_bessel = torch.special.i0e(distance * radii / variance).log()
        log_circle = log_bessel - (distance - radii).square() / (2 * variance)
        return log_circle.logsumexp(-1) - math.log(len(radii) * 2 * math.pi * variance)
