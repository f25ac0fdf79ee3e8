"""plot_k_hat: which data's importance weights can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from guides.errors import DataError, whole_number
from ppl_models.diagnostics.plots.style import INK, LEVEL_COLOURS, LEVEL_MARKERS, one_axes, styled
from ppl_models.diagnostics.weighed import FINITE_VARIANCE, LARGEST_K_HAT

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

__all__ = ["plot_k_hat"]


def plot_k_hat(source: Any, *, sort: bool = False, worst: int = 5, ax: Axes | None = None) -> Axes:
    r"""Draw :math:`\hat k` of each datum, with the thresholds 0.5 and 0.7, and name the worst data.

    Below 0.5 the weights have a finite variance; above 0.7 no number of draws makes them right. Data that are off the
    scale stand on its edge, as triangles: all weights equal below, and NaN or infinite ones above.

    Args:
        source: What has a :math:`\hat k` for each datum: a :class:`~ppl_models.diagnostics.Verdict`, an
            :class:`~ppl_models.diagnostics.ImportanceNLL`, a :class:`~ppl_models.diagnostics.CorrectedPosterior`, or
            the numbers themselves, ``(*plates,)``.
        sort: Whether the data stand in the order of their :math:`\hat k`, and not in their own.
        worst: How many of those above 0.5 are labelled by their index.
        ax: Where; a new figure by default.

    Raises:
        DataError: If there is no :math:`\hat k`.

    Example:
        >>> import torch
        >>> ax = plot_k_hat(torch.tensor([0.1, 0.9, 0.4]))
        >>> [each.get_text() for each in ax.texts]
        ['1']

    References:
        Aki Vehtari et al., Pareto Smoothed Importance Sampling, 2024, https://arxiv.org/abs/1507.02646, section 3.2.4.
    """
    import numpy as np

    worst = whole_number("worst", worst, least=0)
    values, shape = _values(source)
    order = np.argsort(values, kind="stable") if sort else np.arange(len(values))
    finite = values[np.isfinite(values)]
    low = min(-0.1, float(finite.min(initial=0.0)) - 0.1)
    high = max(1.0, float(finite.max(initial=0.0)) + 0.1)
    margin = 0.03 * (high - low)
    drawn = np.clip(values, low + margin, high - margin)[order]
    level = np.where(values > LARGEST_K_HAT, "fail", np.where(values > FINITE_VARIANCE, "doubtful", "pass"))[order]
    edge = ~np.isfinite(values)[order]
    places = np.arange(len(values))
    with styled():
        ax = one_axes(ax, figsize=(6.8, 3.4))
        size = 30 if len(values) <= 100 else 14 if len(values) <= 1000 else 5
        for name, rule in (("pass", "≤ 0.5"), ("doubtful", "0.5 to 0.7"), ("fail", "> 0.7")):
            own = level == name
            if not own.any():
                continue
            label = f"{rule}: {own.sum()}"
            look: Any = {"color": LEVEL_COLOURS[name], "s": size, "linewidths": 0, "zorder": 3}
            ax.scatter(places[own & ~edge], drawn[own & ~edge], marker=LEVEL_MARKERS[name], label=label, **look)
            marker = "^" if name == "fail" else "v"
            if (own & edge).any():
                ax.scatter(places[own & edge], drawn[own & edge], marker=marker, **look)
        for threshold, style in ((FINITE_VARIANCE, "--"), (LARGEST_K_HAT, "-")):
            ax.axhline(threshold, color=INK, linewidth=0.9, linestyle=style, zorder=1)
        _name_worst(ax, places, drawn, order, shape, worst)
        ax.set_ylim(low, high)
        ax.set_yticks(sorted({*(t for t in ax.get_yticks() if low <= t <= high and abs(t - 0.6) > 0.15), 0.5, 0.7}))
        if len(values) == 1:
            ax.set_xlim(-1, 1)
            ax.set_xticks([0], ["all latents"])
        else:
            ax.set_xlim(-0.02 * len(values) - 0.5, 1.02 * len(values) - 0.5)
            ax.locator_params(axis="x", integer=True)
            ax.set_xlabel("data, by k-hat" if sort else "datum")
        ax.set_ylabel(r"$\hat k$")
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.2)
    return ax


def _name_worst(
    ax: Axes, places: np.ndarray, drawn: np.ndarray, order: np.ndarray, shape: tuple[int, ...], worst: int
) -> None:
    """Write the indices of the worst data beside them, from the worst down, where there is room."""
    import numpy as np

    if len(drawn) == 1:
        return
    taken: list[tuple[float, float]] = []
    across, up = len(places), float(ax.get_ylim()[1] - ax.get_ylim()[0])
    for i in np.argsort(-drawn, kind="stable")[:worst]:
        if drawn[i] <= FINITE_VARIANCE:
            return
        index = np.unravel_index(order[i], shape)
        near = sum(abs(places[i] - x) < 0.06 * across and abs(drawn[i] - y) < 0.07 * up for x, y in taken)
        taken.append((float(places[i]), float(drawn[i])))
        left = places[i] > 0.94 * across
        ax.annotate(
            ", ".join(map(str, map(int, index))),
            (places[i], drawn[i]),
            xytext=(-6 if left else 6, -11 * near),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=8.5,
            bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.8},
            zorder=4,
        )


def _values(source: Any) -> tuple[np.ndarray, tuple[int, ...]]:
    import numpy as np

    held = source if isinstance(source, Tensor | np.ndarray) else getattr(source, "k_hat", None)
    if held is None:
        raise DataError(
            f"plot_k_hat needs k-hat; got {type(source).__name__} without. Give a Verdict, importance_nll(...), or "
            "k_hat(log_weights)."
        )
    array = held.detach().cpu().double().numpy() if isinstance(held, Tensor) else np.asarray(held, dtype=float)
    if array.size == 0:
        raise DataError("plot_k_hat needs at least one k-hat; got none.")
    return np.where(np.isnan(array), np.inf, array).reshape(-1), array.shape
