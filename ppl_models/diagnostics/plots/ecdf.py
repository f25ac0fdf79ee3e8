"""plot_ecdf: how far ranks or probability integral transforms are from uniform."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from guides.errors import DataError, positive, whole_number
from ppl_models.diagnostics.plots.ecdf_band import ecdf_band
from ppl_models.diagnostics.plots.style import FAINT, INK, PALETTE, one_axes, short, styled

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

__all__ = ["draw_ecdf", "plot_ecdf"]

#: Points at which the functions are compared, at most, and the fewest numbers that say anything of a distribution.
MOST_POINTS, FEWEST = 100, 10

RANK = "rank / (number of draws + 1)"


def plot_ecdf(
    ranks: Any,
    *,
    num_draws: int | None = None,
    labels: Sequence[str] | None = None,
    level: float = 0.95,
    ax: Axes | None = None,
) -> Axes:
    r"""Draw the empirical distribution function of ranks, less that of uniform ones, with a simultaneous band.

    A curve of uniform and independent ranks stays inside the band, everywhere, with the probability ``level``: each
    quantity by itself. A curve that is first above and then below says that the draws are too narrow, the other way
    round too wide; one that stays on one side says that they lie too high (above) or too low (below).

    Curves that leave the band are coloured, the worst first; the others are grey if there are more than six.

    Args:
        ranks: Ranks among ``num_draws`` draws, whole numbers from 0 to ``num_draws``, ``(simulations,)`` or
            ``(simulations, quantities)``. Without ``num_draws``, probability integral transforms in [0, 1].
        num_draws: L, the number of draws that a rank is among.
        labels: What the quantities are called.
        level: Of the band.
        ax: Where; a new figure by default.

    Raises:
        DataError: If there are fewer than 10 simulations, or numbers out of range.
        OptionError: If an option breaks its rule.

    Example:
        >>> import torch
        >>> ax = plot_ecdf(torch.arange(200) % 20, num_draws=19, labels=["mu"])
        >>> ax.get_title()
        'inside the 95 % band'

    References:
        Teemu Säilynoja, Paul-Christian Bürkner, Aki Vehtari, Graphical test for discrete uniformity and its
        applications in goodness-of-fit evaluation and multiple sample comparison, 2022,
        https://arxiv.org/abs/2103.10522.
    """
    import numpy as np

    positive("level", level, below=1, instead="Write level=0.95.")
    values = _checked(ranks, num_draws)
    names = _names(labels, values.shape[1])
    cells = MOST_POINTS if num_draws is None else num_draws + 1
    places = np.unique(np.linspace(0, cells, min(cells, MOST_POINTS) + 1).round().astype(int))[1:-1]
    points = places / cells
    # The share of ranks below i, which is i / (L + 1) for uniform ones.
    below = (values[..., None] < places if num_draws is not None else values[..., None] <= points).mean(0)
    low, high = ecdf_band(len(values), points, level)
    xlabel = "PIT value" if num_draws is None else RANK
    return draw_ecdf(below, points, (low, high), level=level, names=names, xlabel=xlabel, ax=ax)


def draw_ecdf(
    below: np.ndarray,
    points: np.ndarray,
    band: tuple[np.ndarray, np.ndarray],
    *,
    level: float,
    names: Sequence[str] | None,
    xlabel: str = RANK,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw distribution functions ``(quantities, P)`` less their places ``(P,)``, and a band around them.

    Args:
        below: The share of values below each place.
        points: The places, in (0, 1).
        band: The smallest and the largest share that is inside, ``(P,)`` both.
        level: Of the band.
        names: Of the quantities.
        xlabel: What the places are.
        title: By default, how many quantities leave the band.
        ax: Where; a new figure by default.
    """
    import numpy as np

    low, high = band
    outside = (np.maximum(low - below, below - high)).max(1)
    out = outside > 1e-9
    worst = [int(i) for i in np.argsort(-outside)]
    coloured = worst if len(worst) <= len(PALETTE) else [i for i in worst if out[i]][: len(PALETTE)]
    edges = np.array([0.0, *points, 1.0])

    with styled():
        ax = one_axes(ax, figsize=(6.4, 3.6))
        ends = [np.array([0.0, *each - points, 0.0]) for each in band]
        ax.fill_between(
            edges, ends[0], ends[1], color="#dddddd", alpha=0.7, linewidth=0, label=f"{100 * level:.3g} % band"
        )
        ax.axhline(0, color=INK, linewidth=0.8)
        for i in sorted(set(worst) - set(coloured)):
            ax.plot(edges, [0.0, *below[i] - points, 0.0], color="#8c8c8c", linewidth=0.7, alpha=0.7)
        for i, colour in zip(sorted(coloured), PALETTE, strict=False):
            label = None if names is None else short(names[i])
            ax.plot(edges, [0.0, *below[i] - points, 0.0], color=colour, linewidth=1.5, label=label)
        others = len(worst) - len(coloured)
        if others:
            ax.plot([], [], color=FAINT, label=f"{others} others")
        ax.set_xlim(0, 1)
        ax.set_xlabel(xlabel)
        ax.set_ylabel("ECDF − uniform")
        ax.set_title(_title(int(out.sum()), len(out), level) if title is None else title)
        if names is not None or others:
            ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax


def _checked(ranks: Any, num_draws: int | None) -> np.ndarray:
    """Ranks or transforms as ``(simulations, quantities)``."""
    import numpy as np

    values = np.asarray(ranks.detach().cpu().numpy() if isinstance(ranks, Tensor) else ranks)
    name = "PIT values" if num_draws is None else "ranks"
    if values.ndim not in (1, 2) or values.size == 0:
        raise DataError(f"{name} must have shape (simulations,) or (simulations, quantities); got {values.shape}.")
    if len(values) < FEWEST:
        raise DataError(f"{name} must be those of at least {FEWEST} simulations; got {len(values)}. Run more.")
    if not np.isfinite(values.astype(float)).all():
        raise DataError(f"{name} must be finite; got NaN or infinite ones.")
    if num_draws is None:
        if values.min() < 0 or values.max() > 1:
            raise DataError(
                f"PIT values must lie in [0, 1]; got some from {values.min():.3g} to {values.max():.3g}. Of ranks, "
                "give num_draws=."
            )
        return values.reshape(len(values), -1).astype(float)
    most = whole_number("num_draws", num_draws, least=1)
    if (values != values.round()).any() or values.min() < 0 or values.max() > most:
        raise DataError(
            f"ranks must be whole numbers from 0 to num_draws = {most}; got some from {values.min():.3g} to "
            f"{values.max():.3g}. Of PIT values, leave num_draws out."
        )
    return values.reshape(len(values), -1).astype(int)


def _names(labels: Sequence[str] | None, num: int) -> list[str] | None:
    if labels is None:
        return None if num == 1 else [f"quantity {i}" for i in range(num)]
    if isinstance(labels, str) or len(labels) != num:
        raise DataError(f"labels must be {num} names, one for each quantity; got {labels!r}.")
    return [str(label) for label in labels]


def _title(out: int, num: int, level: float) -> str:
    band = f"the {100 * level:.3g} % band"
    if num == 1:
        return f"{'leaves' if out else 'inside'} {band}"
    return f"{out} of {num} quantities leave {band}" if out else f"all {num} quantities inside {band}"
