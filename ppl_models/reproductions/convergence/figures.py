"""The figures of the seeds study, done again: the study's own, with what was published drawn in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ppl_models.reproductions.convergence.published import published_row
from ppl_models.reproductions.panels import panels
from ppl_models.study import plot_losses, plot_metric
from ppl_models.study.figures import legend_below

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["losses_figure", "metric_figure"]

_GREY = "#666666"


def losses_figure(results: xr.Dataset, baselines: Mapping[str, float]) -> Figure:
    """Draw the validation losses of all models, a panel for each dataset: bands over the seeds, and the floor.

    Triangles at the right edge are the published means of the last losses.

    Args:
        results: Of one of the studies.
        baselines: By dataset, the loss of one normal law, a dotted line.
    """
    figure, (row,) = panels(1, results.sizes["dataset"], width=6.0 * results.sizes["dataset"], height=5.4)
    for axes, dataset in zip(row, results["dataset"].values.tolist(), strict=True):
        plot_losses(results, dataset, ax=axes)
        if dataset in baselines:
            name = f"one Gaussian {baselines[dataset]:.3f}"
            axes.axhline(baselines[dataset], color=_GREY, linestyle=":", linewidth=1.4, label=name)
        heights = [baselines[dataset]] if dataset in baselines else []
        shown = {model: published_row(dataset, model) for model in results["model"].values.tolist()}
        for place, (model, published) in enumerate(shown.items()):
            if published is not None:
                heights.append(published.metrics["last"][0])
                _triangle(axes, heights[-1], _colour(axes, model), 1.012 + 0.02 * (place % 2))
        if any(shown.values()):
            axes.plot([], [], "<", color=_GREY, markersize=7, label="published, last")
        low, high = axes.get_ylim()
        room = 0.04 * (max([high, *heights]) - min([low, *heights]))
        axes.set_ylim(min([low, *(each - room for each in heights)]), max([high, *(each + room for each in heights)]))
        legend_below(axes)
    return figure


def metric_figure(results: xr.Dataset, metric: str) -> Figure:
    """Draw bars of a metric, a panel for each dataset, with their intervals and every run.

    Args:
        results: Of one of the studies.
        metric: Of :func:`~ppl_models.study.metrics_table`.
    """
    models = results["model"].values.tolist()
    width = max(5.0, 1.6 + 1.15 * len(models))
    figure, (row,) = panels(1, results.sizes["dataset"], width=width * results.sizes["dataset"], height=4.4)
    for axes, dataset in zip(row, results["dataset"].values.tolist(), strict=True):
        plot_metric(results, dataset, metric, ax=axes)
    return figure


def _colour(axes: Axes, model: str) -> str:
    """The colour in which a model's curve is drawn; what was lost of its runs stands behind its name."""
    return next(str(line.get_color()) for line in axes.lines if str(line.get_label()).partition(",")[0] == model)


def _triangle(axes: Axes, height: float, colour: str, x: float) -> None:
    """Mark a height at the right edge, outside of which it may lie."""
    axes.plot(
        [x], [height], "<", color=colour, markersize=7, clip_on=False, transform=axes.get_yaxis_transform(), zorder=5
    )
