"""A law of points in the plane."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from guides.errors import DataError, OptionError, whole_number
from ppl_models.seeds import seeded_generator

__all__ = ["ToyDensity"]

_CHUNK = 1024  # points scored at once: with the 768 nodes of the finest quadrature, 12 MB a tensor


class ToyDensity(ABC):
    r"""Draw independent points of the plane, and score points where their law p has a density.

    The entropy is the floor under every model q of the points:

        −E log q(x) = H(p) + KL(p || q) ≥ H(p) = −E log p(x).

    A subclass draws points in ``_draw`` and scores them in ``_log_density``; the checks are made here.

    Args:
        name: What the law is called in tables and titles.
        entropy: The differential entropy H(p) in nats; minus infinity where the points lie on a curve.
    """

    def __init__(self, name: str, entropy: float) -> None:
        self.name = name
        self.entropy = entropy

    @property
    def has_density(self) -> bool:
        """Whether the law has a density in the plane; where it has none, the entropy is minus infinity."""
        return self.entropy > -math.inf

    @final
    def sample(self, num: int, *, seed: int = 0) -> Tensor:
        """Draw ``num`` independent points from a generator of their own.

        Shapes: ``(num, 2)``, float32.

        Args:
            num: How many points.
            seed: Where the generator starts.

        Raises:
            OptionError: If ``num`` or ``seed`` is not a whole number of at least 0.
        """
        return self._draw(whole_number("num", num, least=0), seeded_generator(seed))

    @final
    def log_prob(self, points: Tensor) -> Tensor:
        """Score points by log p. It is computed in float64, and can be differentiated.

        Shapes: ``points`` ``(*, 2)``; the result is ``(*)``, of the same dtype and on the same device.

        Args:
            points: Finite floating-point numbers.

        Raises:
            OptionError: If the law has no density.
            DataError: If ``points`` break their rules.
        """
        if not self.has_density:
            raise OptionError(
                f"{self.name!r} has no density in the plane, for its points lie on a curve; nothing limits the "
                "likelihood that a model can reach on them. Choose another set, or add noise to the points."
            )
        if points.dim() == 0 or points.shape[-1] != 2 or not points.is_floating_point():
            raise DataError(
                f"points must be floating point of shape (*, 2); got {points.dtype} of shape {tuple(points.shape)}."
            )
        if not bool(points.isfinite().all()):
            raise DataError("points must be finite; got NaN or infinity.")
        chunks = points.reshape(-1, 2).to(torch.float64).split(_CHUNK)
        values = torch.cat([self._log_density(chunk) for chunk in chunks])
        return values.reshape(points.shape[:-1]).to(points.dtype)

    @abstractmethod
    def _draw(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw points ``(num, 2)``, float32."""

    @abstractmethod
    def _log_density(self, points: Tensor) -> Tensor:
        """Score points ``(N, 2)``, float64, by log p; the result is ``(N,)``."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, entropy={self.entropy:.6g})"
