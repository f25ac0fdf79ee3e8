"""StepSize: learned step sizes of a trajectory, between zero and a limit."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from guides.errors import positive
from guides.latent_space import LatentSpace

__all__ = ["StepSize"]


class StepSize(nn.Module):
    r"""Step sizes :math:`\epsilon = \epsilon_{max} \mathrm{sigmoid}(e)`, one per dimension.

    Args:
        initial: Where they start.
        limit: :math:`\epsilon_{max}`, greater than ``initial``.
        num_steps: The number of steps, if each has its own; all share theirs if not given.

    Raises:
        OptionError: If a number is outside its range.

    Example:
        >>> import torch
        >>> step_size = StepSize(0.1, 0.5)
        >>> step_size.build(2, torch.zeros(()))
        >>> step_size().detach()
        tensor([0.1000, 0.1000])
    """

    logit: Tensor

    def __init__(self, initial: float, limit: float, num_steps: int | None = None) -> None:
        super().__init__()
        self.limit = positive("max_step_size", limit, instead="Write 0.5.")
        self.initial = positive(
            "init_step_size",
            initial,
            below=self.limit,
            instead=f"Write init_step_size={self.limit / 100:g}, or raise max_step_size.",
        )
        self.num_steps = num_steps

    def build(self, dim: int, like: Tensor | LatentSpace) -> None:
        """Create the parameter ``logit``, ``(dim,)`` or ``(num_steps, dim)``."""
        shape = (dim,) if self.num_steps is None else (self.num_steps, dim)
        logit = -math.log(self.limit / self.initial - 1)
        self.logit = nn.Parameter(torch.full(shape, logit, dtype=like.dtype, device=like.device))

    def forward(self) -> Tensor:
        return self.limit * self.logit.sigmoid()
