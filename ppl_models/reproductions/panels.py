"""The panels that the figures of reproductions are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FAINT", "legend_below", "panels"]

#: The colour of grids.
FAINT = "#dddddd"


def panels(rows: int, columns: int, *, width: float, height: float) -> tuple[Figure, list[list[Axes]]]:
    """Make a figure with plain axes in rows and columns."""
    from matplotlib.figure import Figure  # no pyplot: no windows, and no figures kept alive
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06)
    figure = Figure(figsize=(width, height), dpi=100, layout=layout, facecolor="white")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    return figure, [list(row) for row in grid]


def legend_below(figure: Figure, axes: Axes, *, columns: int = 4) -> None:
    """Say below all panels what the lines of one of them are."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
