"""plot_marginals: the marginal of each latent, of a guide and of what it is held against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from guides.errors import whole_number
from ppl_models.diagnostics.moments import QUANTILES
from ppl_models.diagnostics.plots.sites import Element, elements
from ppl_models.diagnostics.plots.style import GUIDE, REFERENCE, many_axes, short, styled

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

__all__ = ["draw_density", "plot_marginals"]

#: Panels in one row, and the share of the draws that a panel leaves out on each side.
ACROSS, BEYOND = 4, 0.002


def plot_marginals(
    posterior: Any,
    reference: Any = None,
    *,
    var_names: Sequence[str] | None = None,
    max_panels: int = 24,
    ax: Any = None,
) -> np.ndarray:
    r"""Draw the marginal density of each latent: of a guide and, if there is one, of a reference.

    Below each density stand its 5 %, 50 % and 95 % quantiles, as a bar and a dot. The title says how far the guide is
    off: the difference of means in standard deviations of the reference, the ratio of standard deviations, and the
    Kolmogorov-Smirnov distance, the largest difference of a probability.

    Args:
        posterior: InferenceData or a DataTree, as :func:`~ppl_models.diagnostics.to_arviz` returns them, or draws by
            site, ``(S, *shape)``.
        reference: Likewise: of :func:`ppl_models.reference.nuts`, or exact draws.
        var_names: What is drawn, sites (``"theta"``) or elements (``"theta[3]"``); all by default.
        max_panels: The most numbers that are drawn.
        ax: As many Axes as there are numbers; a new figure by default.

    Returns:
        One Axes for each number, ``(panels,)``.

    Raises:
        OptionError: If a name is unknown, or there are too many numbers.
        DataError: If draws are too few, not finite, or of other shapes than the reference's.

    Example:
        >>> import torch
        >>> draws = {"mu": torch.randn(500), "theta": torch.randn(500, 3)}
        >>> axes = plot_marginals(draws, {"mu": torch.randn(800), "theta": torch.randn(800, 3)}, var_names=["theta"])
        >>> [each.get_title().split()[0] for each in axes]
        ['theta[0]', 'theta[1]', 'theta[2]']
    """
    most = whole_number("max_panels", max_panels, least=1)
    found = elements(posterior, reference, var_names, most=most, option="max_panels", caller="plot_marginals")
    num = len(found)
    columns = num if num <= ACROSS else min(ACROSS, math.ceil(num / math.ceil(num / ACROSS)))
    rows = math.ceil(num / columns)
    with styled():
        size = (4.6, 3.2) if num == 1 else (2.5 * columns + 0.2, 2.05 * rows + 0.4)
        if ax is None:
            figure, grid = many_axes(None, rows, columns, figsize=size)
        else:
            figure, grid = many_axes(ax, 1, num, figsize=size)
        panels = grid.reshape(-1)
        for panel, element in zip(panels, found, strict=False):
            _draw(panel, element)
        for empty in panels[num:]:
            empty.remove()
        if reference is not None:
            handles, labels = panels[0].get_legend_handles_labels()
            if figure is None:
                panels[0].legend(handles, labels)
            else:
                figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return panels[:num]


def _draw(panel: Axes, element: Element) -> None:
    if element.reference is None:
        draw_density(panel, [element.guide], [GUIDE], ["guide"])
        panel.set_title(short(element.label))
        return
    draw_density(panel, [element.guide, element.reference], [GUIDE, REFERENCE], ["guide", "reference"])
    panel.set_title(f"{short(element.label)}\n{_difference(element.guide, element.reference)}", fontsize=9)


def _difference(own: np.ndarray, other: np.ndarray) -> str:
    from scipy.stats import ks_2samp

    distance = f"KS {ks_2samp(own, other, method='asymp').statistic:.2f}"
    sd = other.std(ddof=1)
    if _is_constant(other):
        return distance
    moments = f"Δ {(own.mean() - other.mean()) / sd:+.2f} sd, sd × {own.std(ddof=1) / sd:.2f}"
    return f"{moments}, {distance}".replace("-", "−")


def _is_constant(draws: np.ndarray) -> bool:
    """Whether draws differ by no more than rounding."""
    return bool(draws.max() - draws.min() <= 1e-12 * abs(draws).max())


def draw_density(panel: Axes, draws: Sequence[np.ndarray], colours: Sequence[str], labels: Sequence[str]) -> None:
    """Draw densities, the first filled, and under them quantiles as bars and dots."""
    import arviz as az
    import numpy as np

    curves = []
    for each in draws:
        values = np.ascontiguousarray(each, dtype=float)
        curves.append(None if _is_constant(values) else az.kde(values, bound_correction=True))
    top = max((curve[1].max() for curve in curves if curve is not None), default=1.0)
    for i, (each, curve, colour, label) in enumerate(zip(draws, curves, colours, labels, strict=True)):
        if curve is None:
            panel.plot([each[0]] * 2, [0, top], color=colour, linewidth=1.5, label=label)
        else:
            panel.plot(curve[0], curve[1], color=colour, linewidth=1.5, linestyle="-" if i == 0 else "--", label=label)
            if i == 0:
                panel.fill_between(curve[0], curve[1], color=colour, alpha=0.12, linewidth=0)
        low, middle, high = np.quantile(each, QUANTILES)
        height = -(0.07 + 0.08 * i) * top
        panel.plot([low, high], [height] * 2, color=colour, linewidth=2.5)
        panel.plot([middle], [height], marker="o", markersize=4.5, color=colour, markeredgecolor="white")
    panel.set_ylim(-(0.06 + 0.09 * len(draws)) * top, 1.06 * top)
    ends = [np.quantile(each, (BEYOND, 1 - BEYOND)) for each in draws]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    margin = 0.04 * (high - low) or max(1.0, abs(low)) * 0.1
    panel.set_xlim(low - margin, high + margin)
    panel.set_yticks([])
    panel.spines["left"].set_visible(False)
    panel.locator_params(axis="x", nbins=4)
    panel.ticklabel_format(axis="x", scilimits=(-3, 4), useMathText=True)
