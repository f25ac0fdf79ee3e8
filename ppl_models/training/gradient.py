"""The loss of one batch and its gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ppl_models.objectives import Estimate, ObjectiveModule
from ppl_models.training.compile import CompiledObjective

__all__ = ["Gradient", "loss_and_gradient", "read_gradient"]


@dataclass(frozen=True)
class Gradient:
    """What one batch said; the gradient itself is in the parameters.

    Args:
        loss: Minus the bound, in nats, for all data.
        parts: What the objective says it is made of, by name.
        norm: The gradient's norm.
        total_norm: The same as a tensor.
    """

    loss: float
    parts: dict[str, float]
    norm: float
    total_norm: Tensor

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradient are."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


def loss_and_gradient(
    objective: ObjectiveModule | CompiledObjective, batch: tuple[Any, ...], parameters: Mapping[str, Tensor]
) -> Gradient:
    """Evaluate an objective, and leave its gradient in the parameters in place of an older one."""
    for parameter in parameters.values():
        parameter.grad = None
    estimate = objective.estimate(*batch)
    estimate.loss.backward()
    return read_gradient(estimate, parameters.values())


def read_gradient(estimate: Estimate, parameters: Iterable[Tensor]) -> Gradient:
    """Read off what a batch said, once its gradient is in the parameters."""
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    numbers = [estimate.loss.detach(), norm, *estimate.parts.values()]
    # One transfer for all.
    loss, value, *parts = torch.stack([number.to(estimate.loss) for number in numbers]).tolist()
    return Gradient(loss, dict(zip(estimate.parts, parts, strict=True)), value, norm)
