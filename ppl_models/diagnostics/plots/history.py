"""plot_history: the loss of a fit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from guides.errors import DataError, whole_number
from ppl_models.diagnostics.plots.style import GUIDE, LEVEL_COLOURS, REFERENCE, one_axes, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from ppl_models.training import FitResult, TrainResult

__all__ = ["plot_history"]

#: How many windows a history is smoothed over, if not said otherwise; the share of the steps that the scale may leave
#: out at the start; and the quantiles of the band.
WINDOWS, START, BAND = 50, 0.05, (0.05, 0.95)


def plot_history(result: FitResult | TrainResult, *, window: int | None = None, ax: Axes | None = None) -> Axes:
    """Draw the loss at each step: its running median, with a band from the 5 % to the 95 % quantile.

    The scale is that of all but the first twentieth, which may leave the picture at the top. Validation losses, which
    are those of other data and scale, stand on a second axis at the right. Skipped steps are marked at the bottom.

    Args:
        result: What :func:`ppl_models.training.fit` or :func:`ppl_models.training.train` returned.
        window: Over how many steps to smooth; a fiftieth of them by default, and 1 below 100 steps.
        ax: Where; a new figure by default.

    Raises:
        DataError: If there is no step, or none with a finite loss.
        OptionError: If ``window`` is less than 1.

    Example:
        >>> from ppl_models.training import FitResult
        >>> result = FitResult(steps=3, records=[{"step": i, "loss": 3.0 - i} for i in range(3)])
        >>> plot_history(result).lines[0].get_ydata()
        array([3., 2., 1.])
    """
    if not result.records:
        raise DataError("plot_history needs at least one step; got a result without any.")
    history = result.history
    loss = history["loss"].where(history["loss"].abs() < math.inf)
    if loss.notna().sum() == 0:
        raise DataError("plot_history needs a finite loss; got none.")
    usual = len(loss) // WINDOWS if len(loss) >= 100 else 1
    window = whole_number("window", usual if window is None else window, least=1)
    steps = history["step"]
    rolling = loss.rolling(window, min_periods=1, center=True)
    middle, low, high = rolling.median(), rolling.quantile(BAND[0]), rolling.quantile(BAND[1])
    with styled():
        ax = one_axes(ax, figsize=(6.4, 3.5))
        marker = "o" if len(loss) < 10 else ""
        label = "training" if window == 1 else f"training, median of {window}"
        lines = ax.plot(steps, middle, color=GUIDE, linewidth=1.6, marker=marker, markersize=4, label=label, zorder=3)
        if window > 1:
            ax.fill_between(steps, low, high, color=GUIDE, alpha=0.2, linewidth=0, label="5 % to 95 %")
        _limit(ax, low, high)
        ax.set_xlabel("step")
        ax.set_ylabel("loss (nats)")
        if "skipped" in history and history["skipped"].any():
            skipped = steps[history["skipped"].astype(bool)]
            colour = LEVEL_COLOURS["fail"]
            lines += ax.plot(
                skipped, [0.02] * len(skipped), "|", transform=ax.get_xaxis_transform(), color=colour, label="skipped"
            )
        if "validation_loss" in history and history["validation_loss"].notna().any():
            lines += _validation(ax, steps, history["validation_loss"])
        if len(lines) > 1 or window > 1:
            ax.legend(handles=[lines[0], *ax.collections[:1], *lines[1:]], loc="upper right")
        ax.set_title(_summary(result, len(loss)))
    return ax


def _validation(ax: Axes, steps: pd.Series, values: pd.Series) -> list[Any]:
    known = values.notna() & (values.abs() < math.inf)
    other = ax.twinx()
    other.spines["right"].set_visible(True)
    marker = "o" if known.sum() <= 40 else ""
    lines = other.plot(
        steps[known],
        values[known],
        "--",
        color=REFERENCE,
        linewidth=1.4,
        marker=marker,
        markersize=3.5,
        label="validation",
    )
    _limit(other, values[known], values[known])
    other.set_ylabel("validation loss (nats)")
    return lines


def _limit(ax: Axes, low: pd.Series, high: pd.Series) -> None:
    """A scale on which the first steps do not flatten the rest."""
    late = high.iloc[int(START * len(high)) :]
    bottom, top = float(low.min()), float(late.max() if late.notna().any() else high.max())
    margin = 0.06 * (top - bottom) or 0.05 * abs(top) or 1.0
    ax.set_ylim(bottom - margin, top + margin)


def _summary(result: FitResult | TrainResult, rows: int) -> str:
    parts = [f"{result.steps:,} steps"]
    parts += ["converged"] if getattr(result, "converged", False) else []
    parts += ["stopped early"] if getattr(result, "stopped_early", False) else []
    parts += [f"{result.skipped} skipped"] if result.skipped else []
    parts += [f"{result.seconds:.3g} s"] if result.seconds else []
    return ", ".join(parts)
