"""Figures of a study: loss curves with bands over the seeds, and bars with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from guides.errors import choose
from ppl_models.study.run_metrics import Runs
from ppl_models.study.run_values import check_results, run_values, runs_of, warmup_epochs
from ppl_models.study.table_formats import COUNTS, number
from ppl_models.study.tables import METRIC_NAMES, floors_of, metrics_table

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["LABELS", "legend_below", "plot_losses", "plot_metric"]

#: What the axes say.
LABELS = {
    "test_loss": "−ELBO on the test set (nats)",
    "nll": "NLL of the test set (nats)",
    "min": "least validation −ELBO (nats)",
    "max": "largest validation −ELBO (nats)",
    "last": "last validation −ELBO (nats)",
    "first": "validation −ELBO, epochs 1 to 5 (nats)",
    "exceeds": "epochs above the first five",
    "time_to_threshold": "epochs to get below {:g}",
}

#: Told apart by the colour-blind too (Masataka Okabe, Kei Ito, 2008, https://jfly.uni-koeln.de/color/).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
_STYLES = ("-", "--", "-.", ":")

#: Up to so many models have room side by side.
_FEW = 4


def plot_losses(
    results: xr.Dataset, dataset: str, *, floors: Mapping[str, float] | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the validation loss against the epoch: each model's median over the runs that are done, in their range.

    A run that diverged is a thin line that ends in a cross. The floor is a line, and the epochs in which the KL terms
    had a weight below 1 are shaded.

    Args:
        results: Of a study.
        dataset: Which one.
        floors: As for :func:`metrics_table`.
        ax: Where; a new figure by default.

    Raises:
        DataError: If these are no results of a study.
        OptionError: If there is no such dataset.
    """
    results, ax = _prepared(results, dataset, ax, width=6.4, height=4.2)
    epochs = results["epoch"].values
    warmup, late = 0, []
    for place, model in enumerate(results["model"].values.tolist()):
        runs = runs_of(results, model, dataset)
        warmup = max(warmup, warmup_epochs(results, model, dataset))
        colour, style = _COLOURS[place % len(_COLOURS)], _STYLES[place // len(_COLOURS) % len(_STYLES)]
        losses = np.where(np.isfinite(runs.losses), runs.losses, math.nan)
        kept = losses[~runs.diverged & np.isfinite(losses).any(1)]
        low, middle, high = _band(kept, len(epochs))
        marker = "o" if np.isfinite(middle).sum() == 1 else ""
        ax.plot(epochs, middle, color=colour, linestyle=style, linewidth=1.8, marker=marker, label=_label(runs, model))
        ax.fill_between(epochs, low, high, color=colour, alpha=0.22, linewidth=0)
        for run in losses[runs.diverged]:
            ended = np.flatnonzero(np.isfinite(run))
            ax.plot(epochs, run, color=colour, linestyle=style, linewidth=0.7, alpha=0.8)
            if len(ended):
                ax.plot(epochs[ended[-1]], run[ended[-1]], "x", color=colour, markersize=8, markeredgewidth=2)
        # The first epochs are not to flatten the rest.
        start = min(len(epochs) // 5, max(int(np.isfinite(middle).sum()) - 1, 0))
        late.append(np.concatenate([low[start:], high[start:]]))
    floor = floors_of(results, floors)[dataset]
    late.append(np.array([floor]))
    _draw_floor(ax, results, dataset, floor)
    if 0 < warmup < len(epochs):
        end = epochs[warmup - 1] + 0.5
        ax.axvspan(epochs[0] - 0.5, end, color="#888888", alpha=0.13, linewidth=0, label="KL warm-up")
    values = np.concatenate(late)
    values = values[np.isfinite(values)]
    if len(values):
        margin = 0.06 * (values.max() - values.min()) or 1.0
        ax.set_ylim(values.min() - margin, values.max() + margin)
    ax.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    ax.locator_params(axis="x", integer=True)
    ax.set_title(dataset)
    ax.set_xlabel("epoch")
    ax.set_ylabel("validation −ELBO (nats)")
    legend_below(ax)
    return ax


def plot_metric(
    results: xr.Dataset,
    dataset: str,
    metric: str = "test_loss",
    *,
    after_warmup: bool = False,
    threshold: float | None = None,
    floors: Mapping[str, float] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Draw each model's mean of a metric as a bar, with its interval, and each run as a point.

    Bars of losses stand on the floor, so that their height is the gap; where it is not known, a line takes the place of
    the bar, for there is no zero from which a loss could be seen. Under a model's name stands how many of its runs are
    not in the mean. A time is drawn as its median.

    Args:
        results: Of a study.
        dataset: Which one.
        metric: One of those of :func:`metrics_table`.
        after_warmup: As there, and so are the next four.
        threshold: The validation loss to get below.
        floors: By dataset, where the entropy is not known.
        confidence: Of the intervals.
        seed: Fixes the bootstrap.
        ax: Where; a new figure by default.

    Raises:
        DataError: If these are no results of a study.
        OptionError: If there is no such dataset or metric.
    """
    choose("metric", metric, METRIC_NAMES)
    models = check_results(results)["model"].values.tolist()
    results, ax = _prepared(results, dataset, ax, width=max(4.2, 1.6 + 1.15 * len(models)), height=4.2)
    table = metrics_table(
        results.sel(dataset=[dataset]),
        metrics=[metric],
        floors={name: value for name, value in (floors or {}).items() if name == dataset},
        confidence=confidence,
        seed=seed,
        after_warmup=after_warmup,
        threshold=threshold,
    ).set_index("model")
    each = run_values(results, after_warmup=after_warmup, threshold=threshold)[metric].sel(dataset=dataset)
    floor = float(table["floor"].iloc[0])
    base = floor if math.isfinite(floor) else 0.0 if metric in COUNTS else None
    shown = [] if base is None else [base]
    for place, model in enumerate(models):
        points = each.sel(model=model).values
        shown += _draw_model(ax, place, table.loc[model], points[np.isfinite(points)], metric, base)
    if shown:
        room = 0.12 * (max(shown) - min(shown)) or 1.0
        above = 2 * room if math.isfinite(floor) else room  # for the legend
        ax.set_ylim(min(shown) - (0.0 if min(shown) == base else room), max(shown) + above)
    if math.isfinite(floor):
        _draw_floor(ax, results, dataset, floor)
        ax.legend(frameon=False, fontsize="small", loc="upper right")
    counts = table[["n_diverged", "n_missing", "n"]].to_numpy().tolist()
    ticks = ["\n".join([model, *_lost(*each)]) for model, each in zip(models, counts, strict=True)]
    ax.set_xlim(-0.6, len(models) - 0.4)
    ax.set_xticks(range(len(models)), ticks)
    if len(models) > _FEW:
        ax.tick_params(axis="x", labelrotation=35, labelsize="small")
        for tick in ax.get_xticklabels():
            tick.set(horizontalalignment="right", rotation_mode="anchor")
    ax.set_title(dataset)
    ax.set_ylabel(LABELS[metric].format(threshold) + (", warm-up left out" if after_warmup else ""))
    return ax


def legend_below(ax: Axes) -> None:
    """Put the legend under the axes, where it hides no curve."""
    ax.legend(frameon=False, fontsize="small", ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))


def _prepared(
    results: xr.Dataset, dataset: str, ax: Axes | None, *, width: float, height: float
) -> tuple[xr.Dataset, Axes]:
    choose("dataset", dataset, check_results(results)["dataset"].values.tolist())
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", alpha=0.25, linewidth=0.7)
    ax.set_axisbelow(True)
    return results, ax


def _draw_floor(ax: Axes, results: xr.Dataset, dataset: str, floor: float) -> None:
    if math.isfinite(floor):
        name = "entropy" if math.isfinite(float(results["floor"].sel(dataset=dataset))) else "best known"
        ax.axhline(floor, linestyle=(0, (5, 3)), linewidth=1.2, color=_ink(), label=f"{name} {number(floor)}")


def _draw_model(
    ax: Axes, place: int, row: pd.Series, points: NDArray[np.float64], metric: str, base: float | None
) -> list[float]:
    """Draw one model's bar from the base, or a line where there is none; return the heights that are to be seen."""
    colour = _COLOURS[place % len(_COLOURS)]
    small: dict[str, Any] = {"ha": "center", "fontsize": "small"}
    value = float(row["median" if metric == "time_to_threshold" else "mean"])
    low, high = float(row["low"]), float(row["high"])
    aside = place + np.linspace(-0.18, 0.18, len(points)) if len(points) > 1 else [place] * len(points)
    ax.plot(aside, points, "o", color=colour, markersize=4, markeredgecolor=_ink())
    if not math.isfinite(value):
        told = f"{row['n_used']} of {row['n']} runs" if metric in COUNTS else "no run"
        ax.annotate(told, (place, 0.02), xycoords=("data", "axes fraction"), **small)
        return points.tolist()
    if base is None:
        ax.hlines(value, place - 0.31, place + 0.31, color=colour, linewidth=3)
    else:
        ax.bar(place, value - base, bottom=base, width=0.62, color=colour, alpha=0.55)
    ends = [low, high] if math.isfinite(low) and math.isfinite(high) else []
    if ends:
        ax.errorbar(place, value, yerr=[[value - low], [high - value]], color=_ink(), capsize=5, linewidth=1.4)
    top = max([value, *points, *ends])
    text = number(value, COUNTS.get(metric, 3))
    ax.annotate(text, (place, top), xytext=(0, 4), textcoords="offset points", **small)
    return [value, top, *ends]


def _band(losses: NDArray[np.float64], epochs: int) -> NDArray[np.float64]:
    """The least, the median and the largest loss of each epoch, over the runs that have seen it."""
    band = np.full((3, epochs), math.nan)
    for epoch in range(epochs):
        known = losses[:, epoch][np.isfinite(losses[:, epoch])]
        if len(known):
            band[:, epoch] = known.min(), np.median(known), known.max()
    return band


def _label(runs: Runs, model: str) -> str:
    missing = sum(each in ("crashed", "missing") for each in runs.status)
    return ", ".join([model, *_lost(int(runs.diverged.sum()), missing, len(runs))])


def _lost(n_diverged: int, n_missing: int, n: int) -> list[str]:
    lost = [(n_diverged, "diverged"), (n_missing, "without result")]
    return [f"{count} of {n} {what}" for count, what in lost if count]


def _ink() -> str:
    from matplotlib import rcParams

    return str(rcParams["text.color"])
