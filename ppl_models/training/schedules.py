"""Learning rates as functions of how far training is."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from guides.errors import OptionError, choose

__all__ = ["SCHEDULES", "LearningRate", "Schedule"]

#: A name, or a function from an optimizer to a torch scheduler.
Schedule = str | Callable[[torch.optim.Optimizer], LRScheduler]

#: Schedules by name: the factor on the initial rate, from the fraction of the steps done and the epoch, from 0.
SCHEDULES: dict[str, Callable[[float, int], float]] = {
    "constant": lambda done, epoch: 1.0,
    "cosine": lambda done, epoch: 0.5 * (1 + math.cos(math.pi * min(done, 1.0))),
    # The published study's: constant for 150 epochs, then linearly to zero at the 1000th.
    "study": lambda done, epoch: max(0.0, 1 - max(0, epoch - 150) / 850),
}


class LearningRate:
    """Sets the learning rate of each step.

    Args:
        schedule: A name in :data:`SCHEDULES`, or a function from the optimizer to a torch scheduler, which is stepped
            after every step that is not skipped.
        optimizer: Whose rate it is.
        steps: Number of steps in all.

    Raises:
        OptionError: If the name is unknown, or the scheduler wants to be told a loss.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> rate = LearningRate("cosine", optimizer, steps=100)
        >>> rate.begin(step=0, epoch=0), rate.begin(step=50, epoch=0)
        (0.1, 0.05)
    """

    def __init__(self, schedule: Schedule, optimizer: torch.optim.Optimizer, steps: int) -> None:
        self.optimizer, self.steps = optimizer, steps
        self.initial = [group["lr"] for group in optimizer.param_groups]
        self.scheduler = schedule(optimizer) if callable(schedule) else None
        if isinstance(self.scheduler, ReduceLROnPlateau):
            raise OptionError(
                "schedule must be a torch scheduler that is stepped without a number; got ReduceLROnPlateau, which "
                "waits for a loss. Write 'cosine', or stop by convergence and go on with a lower lr."
            )
        self.factor = None if callable(schedule) else SCHEDULES[choose("schedule", schedule, SCHEDULES)]

    def begin(self, *, step: int, epoch: int) -> float:
        """Set the rate of a step, and return it (the first parameter group's)."""
        if self.factor is not None:
            factor = self.factor(step / self.steps, epoch)
            for group, initial in zip(self.optimizer.param_groups, self.initial, strict=True):
                group["lr"] = initial * factor
        rate: float = self.optimizer.param_groups[0]["lr"]
        return rate

    def end(self) -> None:
        """Say that a step was taken."""
        if self.scheduler is not None:
            self.scheduler.step()
