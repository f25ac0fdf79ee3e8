"""Watch: a training's budget, and what it looks like on its way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from pytorch_lightning import Callback

__all__ = ["POINTS", "Watch"]

#: How many times in all a training is looked at.
POINTS = 10


class Watch(Callback):
    """End a training when its budget is used up, and keep points of its learning curve at equal distances till then.

    What is counted is the processor time of the steps: not that of looking at them, or of writing checkpoints, and
    whatever else the machine does counts little. A checkpoint keeps the count and the points.

    Args:
        budget: Seconds, or steps.
        in_steps: Whether it is steps.
        share: Of the budget, after which this training ends.
        num_data: N, for which losses stand.
        look: Evaluates model and guide as they are: numbers by name.
        before: The :meth:`state_dict` of the training before this one, if the budget is shared with it.
    """

    def __init__(
        self,
        *,
        budget: float,
        in_steps: bool,
        share: float,
        num_data: int,
        look: Callable[[], Mapping[str, float]],
        before: Mapping[str, Any] | None = None,
    ) -> None:
        self.budget, self.in_steps, self.share = budget, in_steps, share
        self.num_data, self.look = num_data, look
        self.steps, self.seconds = 0, 0.0
        self.points: list[dict[str, float]] = []
        self._losses, self._count, self._rows, self._began = 0.0, 0, 0, 0.0
        if before is not None:
            self.load_state_dict(dict(before))

    @property
    def used(self) -> float:
        """The share of the budget that is used up."""
        return (self.steps if self.in_steps else self.seconds) / self.budget

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._began = time.process_time()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seconds += time.process_time() - self._began
        self.steps += 1
        self._rows += len(batch["args"][0])
        loss = float(outputs["loss"]) / self.num_data
        if math.isfinite(loss):
            self._losses, self._count = self._losses + loss, self._count + 1
        passed = math.floor(POINTS * (self.points[-1]["used"] if self.points else 0.0) + 1e-9)
        over = self.used >= self.share
        if over or POINTS * self.used + 1e-9 >= passed + 1:
            self._keep_point()
        if over:
            trainer.should_stop = True

    def _keep_point(self) -> None:
        point = {
            "used": self.used,
            "steps": self.steps,
            "epochs": self._rows / self.num_data,
            "minutes": self.seconds / 60,
            "training": self._losses / self._count if self._count else math.nan,
        }
        self.points.append(point | dict(self.look()))
        self._losses, self._count = 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        names = ("steps", "seconds", "points", "_losses", "_count", "_rows")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            setattr(self, name, list(value) if name == "points" else value)
