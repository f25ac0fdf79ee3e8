"""One latent site of a Pyro model, and its place in the unconstrained vector."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pyro.distributions.util import sum_rightmost
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import IndependentTransform, Transform

from guides.bijections import bijection
from guides.supports import from_plain, to_plain

__all__ = ["LatentSite"]


@dataclass(frozen=True)
class LatentSite:
    """One latent site of a model, and its place in the vector.

    Args:
        name: The site's name in the model.
        plates: The plates around it, innermost first.
        batch_shape: Its batch shape, with 1 in the dimension of the data plate.
        event_dim: The number of event dimensions of its (constrained) value.
        unconstrained_shape: The event shape of its unconstrained value.
        support: The constraint on its value.
        coordinates: The slice of the vector that holds it.
    """

    name: str
    plates: tuple[CondIndepStackFrame, ...]
    batch_shape: torch.Size
    event_dim: int
    unconstrained_shape: torch.Size
    support: Constraint
    coordinates: slice

    @cached_property
    def transform(self) -> Transform:
        """The bijection from unconstrained values to the support."""
        return bijection(self.support)

    @property
    def is_real(self) -> bool:
        """Whether the support is all reals, so that the bijection is the identity."""
        return isinstance(self._innermost_support, type(constraints.real))

    @cached_property
    def sign(self) -> int | None:
        """Whether the bijection is increasing (1) or decreasing (-1) in each element; None if it mixes elements."""
        transform = self.transform
        while isinstance(transform, IndependentTransform):
            transform = transform.base_transform
        if transform.domain.event_dim > 0:
            return None
        with suppress(NotImplementedError):
            return int(torch.as_tensor(transform.sign).min())
        return None

    @property
    def _innermost_support(self) -> Constraint:
        support = self.support
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        return support

    def __str__(self) -> str:
        support = str(self._innermost_support).removesuffix("()").lower()
        return f"{self.name}: {tuple(self.batch_shape + self.unconstrained_shape)} {support}"

    def description(self) -> dict[str, Any]:
        """The site as plain data, for files."""
        return {
            "name": self.name,
            "plates": [list(frame) for frame in self.plates],
            "batch_shape": list(self.batch_shape),
            "event_dim": self.event_dim,
            "unconstrained_shape": list(self.unconstrained_shape),
            "support": to_plain(self.support),
            "coordinates": [self.coordinates.start, self.coordinates.stop],
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> LatentSite:
        """Make the site again that was described."""
        return cls(
            name=description["name"],
            plates=tuple(CondIndepStackFrame(*frame) for frame in description["plates"]),
            batch_shape=torch.Size(description["batch_shape"]),
            event_dim=description["event_dim"],
            unconstrained_shape=torch.Size(description["unconstrained_shape"]),
            support=from_plain(description["support"]),
            coordinates=slice(*description["coordinates"]),
        )

    def constrain(self, unconstrained: Tensor) -> tuple[Tensor, Tensor]:
        """Map unconstrained values to the support; also return log |det| of the map, per batch element."""
        value = self.transform(unconstrained)
        log_det = self.transform.log_abs_det_jacobian(unconstrained, value)
        return value, sum_rightmost(log_det, log_det.dim() - (value.dim() - self.event_dim))
