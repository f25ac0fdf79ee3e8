"""What one training run is judged by: its best, worst, last and first losses, and when it got below a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from guides.errors import DataError, OptionError, choose, whole_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FIRST_EPOCHS", "LEAST", "METRICS", "STATUSES", "Runs", "loss_array", "published_metrics"]

#: The metrics of a run, in the order of the published tables.
METRICS = ("min", "max", "last", "first", "exceeds")

#: What no mean of a metric can be less than, where there is such a limit.
LEAST = {"exceeds": 0.0}

#: How many epochs "first" is the mean of, as published.
FIRST_EPOCHS = 5

#: How a run may have ended. Only "done" gives a finite number; "crashed" and "missing" give none.
STATUSES = ("done", "diverged", "crashed", "missing")


def loss_array(losses: Any) -> NDArray[np.float64]:
    """Return losses as an array ``(runs, epochs)``; ``None`` in a list becomes NaN.

    Args:
        losses: Array, nested lists, or tensor.

    Raises:
        DataError: If it has another shape, or no run or epoch.
    """
    values = losses.detach().cpu().double().numpy() if isinstance(losses, Tensor) else losses
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            "losses must be numbers, one row per run, all rows as long; got rows of several lengths, or no numbers. "
            "Fill the epochs that a run has not seen with nan."
        ) from error
    if array.ndim != 2 or 0 in array.shape:
        raise DataError(f"losses must have shape (runs, epochs), with at least one of each; got {array.shape}.")
    return array


class Runs:
    """Losses of several runs, and how each run ended.

    An epoch without a finite loss counts as one with an infinite loss, whether NaN, inf or -inf was recorded. NaN after
    the last number of a run that is done means that it was stopped there.

    Args:
        losses: Signed losses ``(runs, epochs)``, less is better.
        status: How each run ended, of :data:`STATUSES`. Without it, a run that ends without a finite loss has diverged,
            and the others are done.

    Raises:
        DataError: If ``losses`` is not ``(runs, epochs)``, or a run is said to be done that has no finite loss.
        OptionError: If ``status`` is not one known word per run.
    """

    def __init__(self, losses: Any, status: Sequence[str] | None = None) -> None:
        values = loss_array(losses)
        finite = np.isfinite(values)
        if status is None:
            status = ["done" if each else "diverged" for each in finite[:, -1]]
        if isinstance(status, str) or len(status) != len(values):
            raise OptionError(f"status must be one word for each of the {len(values)} runs; got {status!r}.")
        self.status = [choose("status", str(each), STATUSES) for each in status]
        #: How many epochs each run has seen.
        self.ended = np.where(np.isnan(values), 0, np.arange(1, values.shape[1] + 1)).max(1)
        for run, each in enumerate(self.status):
            if each == "done" and not finite[run].any():
                raise DataError(f"a run that is done must have a finite loss; run {run} has none. Call it 'diverged'.")
        self.losses: NDArray[np.float64] = np.where(finite, values, np.inf)

    def __len__(self) -> int:
        return len(self.losses)

    @property
    def diverged(self) -> NDArray[np.bool_]:
        """Which runs have diverged."""
        return np.array([each == "diverged" for each in self.status])

    def metrics(self, *, skip: int = 0) -> dict[str, NDArray[np.float64]]:
        """Each metric of each run ``(runs,)``: inf if it has diverged, NaN if it has no result.

        Args:
            skip: Leave out so many epochs at the start, such as those of a warm-up.

        Raises:
            OptionError: If no epoch is left.
        """
        epochs = self.losses.shape[1]
        skip = whole_number("skip", skip, least=0)
        if skip >= epochs:
            raise OptionError(f"skip must leave at least one of {epochs} epochs; got {skip}.")
        found = {name: np.full(len(self), np.nan) for name in METRICS}
        for run, (status, ended) in enumerate(zip(self.status, self.ended, strict=True)):
            seen = self.losses[run, skip:ended]
            if status == "diverged":
                values = dict.fromkeys(METRICS, np.inf)
            elif status == "done" and len(seen):
                values = _metrics(seen)
            else:
                continue
            for name, value in values.items():
                found[name][run] = value
        return found

    def first_below(self, threshold: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """When each run was first below a threshold, in epochs from 1, and whether that was seen.

        A run that was stopped, or has crashed, before it got there, is censored after its last epoch. One that has
        diverged will never get there: it counts as watched to the end.

        Args:
            threshold: The loss to get below.

        Raises:
            OptionError: If that is not finite.
        """
        if not np.isfinite(threshold):
            raise OptionError(f"threshold must be a finite number; got {threshold!r}.")
        below = self.losses < threshold
        reached: NDArray[np.bool_] = np.any(below, axis=1)
        watched = np.where(self.diverged, self.losses.shape[1], self.ended)
        return np.where(reached, below.argmax(1) + 1, watched).astype(np.float64), reached


def published_metrics(losses: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The metrics as they were published: of the absolute losses, without NaN, of the runs that have any.

    Args:
        losses: Shape ``(runs, epochs)``.
    """
    runs = [np.abs(run[~np.isnan(run)]) for run in losses]
    each = [_metrics(run) for run in runs if len(run)]
    return {name: np.array([values[name] for values in each]) for name in METRICS}


def _metrics(losses: NDArray[np.float64]) -> dict[str, float]:
    first = losses[:FIRST_EPOCHS].mean()
    later = losses[FIRST_EPOCHS:]
    return {
        "min": float(losses.min()),
        "max": float(losses.max()),
        "last": float(losses[-1]),
        "first": float(first),
        "exceeds": float((later > first).sum()),
    }
