"""Noisy curves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor
from torch.special import erfcx

from ppl_models.datasets.toy.density import ToyDensity
from ppl_models.datasets.toy.rows import logsumexp_by_row

__all__ = ["NoisyCurve"]

_NEGLIGIBLE = 45.0  # exp(-45) is 3e-20


@final
class NoisyCurve(ToyDensity):
    r"""Draw points around a curve c(s), 0 ≤ s ≤ 1, with Gaussian and uniform noise.

    A point is c(s) + v + σ ε, where s has the density m s^{m−1}, v is uniform on a square of side b about 0, and
    ε ~ N(0, I); or, with the same probability, that point reflected through ``mirror``. The density is

        p(x) = ∫₀¹ k(x − c(s)) m s^{m−1} ds,    k(d) = Π_i [Φ((d_i + b/2) / σ) − Φ((d_i − b/2) / σ)] / b

    (without the square, k is the Gaussian density), or the mean of that and its mirror image. The integral is taken by
    the rule of Gauss and Legendre. Nodes at most 0.8 σ apart give p to 1e-12, and log p to 1e-5 where it is above −100.

    Args:
        name: What the law is called.
        entropy: H(p) in nats.
        curve: Function from s, of any shape, to c, with one dimension of size 2 more.
        noise: σ.
        nodes: How many nodes the quadrature has.
        exponent: m; 1 draws s uniformly, 2 makes s² uniform.
        square: b.
        mirror: The centre of reflection; no reflection if None.
    """

    def __init__(
        self,
        name: str,
        entropy: float,
        *,
        curve: Callable[[Tensor], Tensor],
        noise: float,
        nodes: int,
        exponent: int = 1,
        square: float = 0.0,
        mirror: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(name, entropy)
        self._curve = curve
        self._noise = noise
        self._nodes = nodes
        self._exponent = exponent
        self._square = square
        self._mirror = mirror

    def _draw(self, num: int, generator: torch.Generator) -> Tensor:
        s = torch.rand(num, generator=generator, dtype=torch.float32) ** (1 / self._exponent)
        points = torch.randn(num, 2, generator=generator, dtype=torch.float32).mul_(self._noise).add_(self._curve(s))
        if self._square:
            uniform = torch.rand(num, 2, generator=generator, dtype=torch.float32)
            points += uniform.sub_(0.5).mul_(self._square)
        if self._mirror is not None:
            sign = torch.randint(2, (num, 1), generator=generator).mul_(2).sub_(1)
            centre = torch.tensor(self._mirror, dtype=torch.float32)
            points = points.sub_(centre).mul_(sign).add_(centre)
        return points

    def _log_density(self, points: Tensor) -> Tensor:
        nodes, log_weights = (part.to(points.device) for part in self._quadrature())
        with torch.no_grad():
            distances = (points.unsqueeze(1) - nodes).abs().sub_(self._square / 2).clamp_(min=0)
            exponents = distances.square_().sum(-1).div_(2 * self._noise**2) - log_weights
            row, node = (exponents < exponents.amin(-1, keepdim=True) + _NEGLIGIBLE).nonzero(as_tuple=True)
        return logsumexp_by_row(self._log_kernel(points[row] - nodes[node]) + log_weights[node], row, len(points))

    def _quadrature(self) -> tuple[Tensor, Tensor]:
        """Return places on the curve and on its mirror image, ``(M, 2)``, and the logs of their weights, ``(M,)``."""
        import numpy as np

        places, shares = map(torch.from_numpy, np.polynomial.legendre.leggauss(self._nodes))
        s = (places + 1) / 2
        log_weights = (shares / 2 * self._exponent * s ** (self._exponent - 1)).log()
        nodes = self._curve(s)
        if self._mirror is None:
            return nodes, log_weights
        image = 2 * torch.tensor(self._mirror, dtype=torch.float64) - nodes
        return torch.cat([nodes, image]), torch.cat([log_weights, log_weights]) - math.log(2)

    def _log_kernel(self, differences: Tensor) -> Tensor:
        if not self._square:
            return -differences.square().sum(-1) / (2 * self._noise**2) - math.log(2 * math.pi * self._noise**2)
        # Φ(-x) = exp(-x²/2) erfcx(x/√2) / 2. The two tails differ by a factor that is never near 1: nothing cancels.
        near = (differences.abs() - self._square / 2) / self._noise
        far = near + self._square / self._noise
        tails = erfcx(near / math.sqrt(2)) - ((near.square() - far.square()) / 2).exp() * erfcx(far / math.sqrt(2))
        return (tails.log() - near.square() / 2).sum(-1) - 2 * math.log(2 * self._square)
