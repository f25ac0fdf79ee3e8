"""The figures of the Gaussian reproduction: errors and gaps against d, learning curves, and posteriors beside NUTS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ppl_models.reproductions.gaussian.methods import METHODS, SETTINGS, STANDARD
from ppl_models.reproductions.gaussian.published import published
from ppl_models.reproductions.panels import FAINT, legend_below, panels

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["errors_figure", "gaps_figure", "learning_figure", "posteriors_figure"]

#: Okabe and Ito's colours, which differ for colour-blind eyes; K > 1 darker or dashed.
_STYLES: dict[str, dict[str, Any]] = {
    "HVAE K=1": {"color": "#56b4e9"},
    "HVAE K=10": {"color": "#0072b2"},
    "IAF": {"color": "#e69f00"},
    "planar K=1": {"color": "#8fd3b6"},
    "planar K=30": {"color": "#007a5a"},
    "mean-field VB": {"color": "#222222"},
    "HVAE K=1, no tempering": {"color": "#e3a7c5", "linestyle": "--"},
    "HVAE K=10, no tempering": {"color": "#a8437d", "linestyle": "--"},
}
_TITLES = {
    "as published": "As published: base N(0, I), not learned",
    "put right": "Put right: learned base, centred latent",
}
#: Where the axis of gaps ends: below it a gap is noise, which may be negative. Means are taken before it is cut off.
_LEAST_GAP = 1e-3


def errors_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw errors of offsets and scales against truth by d: means over data sets, bands from the least to the largest.

    Args:
        rows: Of all fits.
    """
    import pandas as pd

    table = pd.DataFrame(list(rows))
    figure, grid = panels(2, 2, width=10.5, height=8.6)
    for i, (quantity, name) in enumerate((("Delta", "offsets Δ"), ("Sigma", "scales σ"))):
        for j, setting in enumerate(SETTINGS):
            axes, part = grid[i][j], table[table["setting"] == setting]
            for method, style in _STYLES.items():
                _band(axes, part[part["method"] == method], quantity, label=method, **style)
                if setting == STANDARD:
                    cells = [c for c in published() if (c.method, c.quantity) == (method, quantity)]
                    cells = [c for c in cells if c.dim in set(table["d"])]
                    x, y = [c.dim for c in cells], [c.value for c in cells]
                    axes.plot(x, y, "o", mfc="none", mec=style["color"], ms=7, mew=1.3, zorder=4)
            best = table.groupby("d")[f"ML {quantity}"].mean()
            axes.plot(best.index, best, ":_", ms=12, color="#c1272d", linewidth=2, label="maximum likelihood", zorder=5)
            _log(axes, sorted(set(table["d"])))
            axes.set_title(_TITLES[setting] if i == 0 else "", fontsize=10.5)
            axes.set_ylabel(f"squared error of the {name}")
    for pair in grid:
        _same_limits(pair)
    if {cell.dim for cell in published()} & set(table["d"]):
        grid[0][0].plot([], [], "o", mfc="none", mec="#777777", ms=7, label="published")
    legend_below(figure, grid[0][0])
    return figure


def gaps_figure(rows: Sequence[Mapping[str, Any]], limits: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw log evidence at the maximum-likelihood estimate less ELBO, by d, with the limit of guides that keep volume.

    Args:
        rows: Of all fits.
        limits: Of all data sets, what :func:`~ppl_models.reproductions.gaussian.pieces.limit_job` found.
    """
    import pandas as pd

    table = pd.DataFrame(list(rows))
    figure, ((left, right),) = panels(1, 2, width=10.5, height=5.2)
    for axes, setting in zip((left, right), SETTINGS, strict=True):
        part = table[table["setting"] == setting]
        for method, style in _STYLES.items():
            _band(axes, part[part["method"] == method], "gap to ML", least=_LEAST_GAP, label=method, **style)
        if setting == STANDARD:
            least = pd.DataFrame(list(limits)).groupby("d")["least gap to ML"].mean()
            axes.plot(
                least.index, least, ":_", ms=12, color="#c1272d", linewidth=2, label="least possible for HVAE", zorder=5
            )
        _log(axes, sorted(set(table["d"])))
        axes.set_title(_TITLES[setting], fontsize=10.5)
        axes.set_ylabel("log evidence at ML − ELBO (nats)")
    right.axhline(1.0, color="#777777", linewidth=1, linestyle="-.")
    right.annotate(
        "the goal: 1 nat",
        (1, 1.0),
        (-4, 4),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        fontsize=8.5,
        color="#555555",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )
    legend_below(figure, left)
    return figure


def learning_figure(results: Sequence[Mapping[str, Any]], dim: int) -> Figure:
    """Draw learning curves of one d, against steps: the bound, and the errors against the maximum-likelihood estimate.

    Args:
        results: Of all fits.
        dim: d.
    """
    import numpy as np

    figure, grid = panels(3, 2, width=10.5, height=10.5)
    quantities = ("log evidence at ML − ELBO (nats)", "error of Δ against ML", "error of σ against ML")
    for j, setting in enumerate(SETTINGS):
        for method, style in _STYLES.items():
            those = [
                r for r in results if (r["row"]["d"], r["row"]["setting"], r["row"]["method"]) == (dim, setting, method)
            ]
            if not those:
                continue
            length = min(len(r["curve"]["step"]) for r in those)
            steps = those[0]["curve"]["step"][:length]
            gaps = [
                [r["row"]["ML log evidence"] - (np.nan if e is None else e) for e in r["curve"]["elbo"][:length]]
                for r in those
            ]
            series = [gaps, *([r["curve"][name][:length] for r in those] for name in ("offset", "scale"))]
            for i, values in enumerate(series):
                array = np.array(values, dtype=float)
                axes, low, high = grid[i][j], np.fmin.reduce(array), np.fmax.reduce(array)
                least = _LEAST_GAP if i == 0 else 0.0
                axes.plot(steps, _mean(array).clip(least), label=method, linewidth=1.5, **style)
                if len(array) > 1:
                    axes.fill_between(
                        steps, low.clip(least), high.clip(least), color=style["color"], alpha=0.18, linewidth=0
                    )
        for i, what in enumerate(quantities):
            axes = grid[i][j]
            axes.set_yscale("log")
            axes.grid(color=FAINT, linewidth=0.7)
            axes.set_ylabel(what)
            axes.set_title(_TITLES[setting] if i == 0 else "", fontsize=10.5)
        grid[-1][j].set_xlabel("steps")
    for pair in grid:
        _same_limits(pair)
    figure.suptitle(f"d = {dim}", fontsize=11.5)
    legend_below(figure, grid[0][0])
    return figure


def posteriors_figure(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw each guide's posterior beside NUTS's, coordinate by coordinate: means, and standard deviations.

    Args:
        results: Of the fits that were judged.
    """
    import numpy as np

    names = [name for name in METHODS if any(r["row"]["method"] == name for r in results)]
    figure, grid = panels(2, 2, width=10.5, height=0.9 + 0.36 * len(names) * 2 + 1.6)
    for j, setting in enumerate(SETTINGS):
        for result in results:
            row = result["row"]
            if row["setting"] != setting:
                continue
            y, values = names.index(row["method"]), (_off(result["moments"]), _ratios(result["moments"]))
            level = y + np.linspace(-0.28, 0.28, len(values[0]))
            for i, each in enumerate(values):
                grid[i][j].plot(each, level, ".", ms=5, alpha=0.75, color=_STYLES[row["method"]]["color"])
            grid[0][j].annotate(
                row["verdict"],
                (1, y),
                (-4, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize=8.5,
                color="#555555",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
            )
        for i, (label, centre) in enumerate((("mean: off by so many of NUTS's sds", 0.0), ("sd, over NUTS's", 1.0))):
            axes = grid[i][j]
            axes.set_yticks(range(len(names)), names if j == 0 else [])
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.axvline(centre, color="#777777", linewidth=1)
            axes.grid(color=FAINT, linewidth=0.7, axis="x")
            axes.set_xlabel(label)
        grid[0][j].set_xscale("symlog", linthresh=0.1)
        grid[1][j].set_xscale("log")
        # Wide enough for ticks that are powers of ten, and the same on both sides.
        widest = max([1.0, *(abs(x) for r in results for x in _off(r["moments"]))])
        grid[0][j].set_xlim(-3 * widest, 3 * widest)
        ratios = [x for r in results for x in _ratios(r["moments"])]
        grid[1][j].set_xlim(min(0.1, *ratios) / 1.2, 1.2 * max(10.0, *ratios))
        grid[0][j].set_title(_TITLES[setting], fontsize=10.5)
    return figure


def _off(moments: Mapping[str, Sequence[float]]) -> list[float]:
    """How far the guide's means are off, in NUTS's standard deviations."""
    names = ("guide mean", "nuts mean", "nuts sd")
    return [(own - theirs) / sd for own, theirs, sd in zip(*(moments[name] for name in names), strict=True)]


def _ratios(moments: Mapping[str, Sequence[float]]) -> list[float]:
    """The guide's standard deviations over NUTS's."""
    return [own / theirs for own, theirs in zip(moments["guide sd"], moments["nuts sd"], strict=True)]


def _band(axes: Axes, table: pd.DataFrame, column: str, *, label: str, least: float = 0.0, **style: Any) -> None:
    """A line through the means over the data sets, and a band from the least to the largest."""
    if not len(table):
        return
    by = table.groupby("d")[column]
    mean, low, high = (each.clip(least) for each in (by.mean(), by.min(), by.max()))
    axes.plot(mean.index, mean, marker=".", linewidth=1.6, label=label, **style)
    axes.fill_between(mean.index, low, high, color=style["color"], alpha=0.18, linewidth=0)


def _mean(array: Any) -> Any:
    """Over the first axis, of what is there."""
    import numpy as np

    count = np.isfinite(array).sum(0)
    return np.where(count > 0, np.nansum(array, 0) / np.maximum(count, 1), np.nan)


def _log(axes: Axes, dims: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(list(dims), [str(each) for each in dims])
    axes.minorticks_off()
    axes.set_xlabel("d")
    axes.grid(color=FAINT, linewidth=0.7)


def _same_limits(pair: Sequence[Axes]) -> None:
    limits = [axes.get_ylim() for axes in pair]
    for axes in pair:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
