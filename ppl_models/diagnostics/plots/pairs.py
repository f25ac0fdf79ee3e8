"""plot_pairs: latents two by two, of a guide and of what it is held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from guides.errors import OptionError, whole_number
from ppl_models.diagnostics.plots.marginals import draw_density
from ppl_models.diagnostics.plots.sites import Element, elements
from ppl_models.diagnostics.plots.style import GUIDE, REFERENCE, many_axes, short, styled

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

__all__ = ["plot_pairs"]

#: The posterior mass inside the two contours, the draws that a density is made of, those that are shown as points, and
#: the points of the grid on a side.
MASSES, KERNELS, DOTS, GRID = (0.5, 0.9), 600, 400, 48


def plot_pairs(
    posterior: Any,
    reference: Any = None,
    *,
    var_names: Sequence[str] | None = None,
    max_vars: int = 6,
    ax: Any = None,
) -> np.ndarray:
    """Draw latents two by two: the guide's draws and contours over the reference's density.

    The contours hold 50 % and 90 % of the mass. On the diagonal stand the marginals, as in :func:`plot_marginals`, and
    above it the correlations.

    Args:
        posterior: As for :func:`plot_marginals`.
        reference: Likewise.
        var_names: What is drawn, sites (``"theta"``) or elements (``"theta[3]"``); all by default.
        max_vars: The most numbers that are drawn.
        ax: As many Axes as there are pairs of numbers, row by row; a new figure by default.

    Returns:
        The Axes, ``(vars, vars)``.

    Raises:
        OptionError: If a name is unknown, or there are too many numbers, or one.
        DataError: As :func:`plot_marginals`.

    Example:
        >>> import torch
        >>> z = torch.randn(300, 2)
        >>> plot_pairs({"z": z}).shape
        (2, 2)
    """
    most = whole_number("max_vars", max_vars, least=2)
    found = elements(posterior, reference, var_names, most=most, option="max_vars", caller="plot_pairs")
    num = len(found)
    if num < 2:
        raise OptionError(f"plot_pairs needs at least two numbers; got {found[0].label!r} alone. Use plot_marginals.")
    with styled():
        side = 2.4 if num <= 3 else 1.85
        figure, axes = many_axes(ax, num, num, figsize=(side * num + 0.5, side * num + 0.5))
        for i, row in enumerate(found):
            _draw_marginal(axes[i, i], row)
        for i, row in enumerate(found):
            for j, column in enumerate(found):
                if j < i:
                    _draw_pair(axes[i, j], column, row)
                    axes[i, j].set_xlim(axes[j, j].get_xlim())
                    axes[i, j].set_ylim(axes[i, i].get_xlim())
                    axes[i, j].locator_params(nbins=4)
                    axes[i, j].ticklabel_format(scilimits=(-3, 4), useMathText=True)
                elif j > i:
                    _write_correlation(axes[i, j], row, column)
                if i < num - 1:
                    axes[i, j].tick_params(labelbottom=False)
                    axes[i, j].xaxis.get_offset_text().set_visible(False)
                if j > 0:
                    axes[i, j].tick_params(labelleft=False)
                    axes[i, j].yaxis.get_offset_text().set_visible(False)
            largest = max(map(abs, axes[i, i].get_xlim()))
            beside = largest >= 1e4 or largest < 1e-2  # a power of ten, which stands under the ticks
            axes[num - 1, i].set_xlabel(short(row.label, 22), labelpad=13 if beside else 4)
            if i > 0:
                axes[i, 0].set_ylabel(short(row.label, 22))
        if figure is not None:
            figure.align_ylabels(axes[:, 0])
        if reference is not None and figure is not None:
            handles, labels = axes[0, 0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return axes


def _draw_marginal(panel: Axes, element: Element) -> None:
    if element.reference is None:
        draw_density(panel, [element.guide], [GUIDE], ["guide"])
    else:
        draw_density(panel, [element.guide, element.reference], [GUIDE, REFERENCE], ["guide", "reference"])


def _draw_pair(panel: Axes, across: Element, up: Element) -> None:
    """The reference's density filled, the guide's as lines over some of its draws."""
    if across.reference is not None and up.reference is not None:
        _contours(panel, across.reference, up.reference, REFERENCE, filled=True)
    step = max(1, len(across.guide) // DOTS)
    panel.plot(across.guide[::step], up.guide[::step], ".", markersize=2, color=GUIDE, alpha=0.35, zorder=1)
    _contours(panel, across.guide, up.guide, GUIDE, filled=False)


def _contours(panel: Axes, x: np.ndarray, y: np.ndarray, colour: str, *, filled: bool) -> None:
    """Draw the contours that hold given masses; draws on a line have no density, and only points."""
    import numpy as np
    from matplotlib.colors import to_rgba
    from scipy.stats import gaussian_kde

    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0 or abs(np.corrcoef(x, y)[0, 1]) > 1 - 1e-9:
        return
    step = max(1, len(x) // KERNELS)
    density = gaussian_kde(np.stack([x[::step], y[::step]]).astype(float))
    sides = []
    for each in (x, y):
        margin = 0.15 * np.ptp(each)
        low, high = np.quantile(each, (0.001, 0.999))
        sides.append(np.linspace(low - margin, high + margin, GRID))
    grid = np.meshgrid(*sides)
    heights = density(np.stack([each.ravel() for each in grid]))
    ordered = np.sort(heights)[::-1]
    mass = ordered.cumsum() / ordered.sum()
    levels = [float(ordered[min(int(np.searchsorted(mass, each)), len(ordered) - 1)]) for each in reversed(MASSES)]
    if not levels[0] < levels[1] < ordered[0]:
        return
    shape = heights.reshape(GRID, GRID)
    if filled:
        colours = [to_rgba(colour, 0.3), to_rgba(colour, 0.6)]
        panel.contourf(*sides, shape, levels=[*levels, ordered[0]], colors=colours, zorder=0)
    else:
        panel.contour(*sides, shape, levels=levels, colors=[colour], linewidths=1.2, zorder=2)


def _write_correlation(panel: Axes, one: Element, other: Element) -> None:
    import numpy as np

    panel.set_axis_off()
    rows = [("guide", GUIDE, one.guide, other.guide)]
    if one.reference is not None and other.reference is not None:
        rows.append(("reference", REFERENCE, one.reference, other.reference))
    for i, (name, colour, x, y) in enumerate(rows):
        flat = np.ptp(x) == 0 or np.ptp(y) == 0
        text = "constant" if flat else f"r = {np.corrcoef(x, y)[0, 1]:+.2f}".replace("-", "−")
        place = 0.5 + 0.14 * (len(rows) - 1 - 2 * i)
        colour = "#b85507" if colour == REFERENCE else colour  # letters need more contrast than areas
        panel.text(0.5, place, text, transform=panel.transAxes, ha="center", va="center", color=colour, gid=name)
