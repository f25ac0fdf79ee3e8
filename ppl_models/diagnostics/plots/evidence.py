"""plot_evidence: the log evidence between its bounds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guides.errors import DataError
from ppl_models.diagnostics.plots.style import FAINT, INK, PALETTE, one_axes, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ppl_models.diagnostics.evidence import Bound, Evidence

__all__ = ["plot_evidence"]

_NAMES = {
    "elbo": "ELBO",
    "iwae": "IWAE",
    "annealed": "annealed",
    "upper": "reverse annealed",
}
_COLOURS = dict(zip(_NAMES, (PALETTE[3], PALETTE[2], PALETTE[0], PALETTE[1]), strict=True))
#: The most data whose standard errors are drawn too.
MOST_BARS = 60

_MARKERS = {"elbo": "v", "iwae": "s", "annealed": "o", "upper": "^"}


def plot_evidence(
    found: Evidence, *, exact: Tensor | float | None = None, per_datum: bool = False, ax: Axes | None = None
) -> Axes:
    r"""Draw ELBO ≤ IWAE ≤ annealed ≤ :math:`\log p(x)` ≤ reverse annealed, each with its interval.

    The grey area is where :math:`\log p(x)` lies, from the lower end of the annealed bound's interval to the upper end
    of the reverse one's.

    Args:
        found: What :func:`ppl_models.diagnostics.evidence` found.
        exact: :math:`\log p(x)`, if it is known: drawn as a line. Of independent data one number for each,
            ``(*plates,)``, or their mean.
        per_datum: Whether to draw each datum's bounds, less its annealed one, in the order of the gap of its ELBO,
            instead of their mean; with a standard error on each side for up to 60 data.
        ax: Where; a new figure by default.

    Raises:
        DataError: If ``per_datum`` is asked for where the data have no evidence each, or ``exact`` has another shape.

    Example:
        >>> import torch
        >>> from guides import MeanFieldGuide
        >>> from ppl_models import OffsetGaussian
        >>> from ppl_models.diagnostics import evidence
        >>> gaussian, x = OffsetGaussian(1), torch.tensor([[0.3], [0.5]])
        >>> found = evidence(gaussian, MeanFieldGuide(gaussian), x, num_temperatures=5, seed=0)
        >>> ax = plot_evidence(found, exact=gaussian.log_evidence(x))
        >>> [each.get_text() for each in ax.get_yticklabels()]
        ['ELBO', 'IWAE', 'annealed']
    """
    shape = found.elbo.mean.shape
    if per_datum and not shape.numel() > 1:
        raise DataError("per_datum needs evidence of several data; got that of all together. Leave per_datum out.")
    truth = None if exact is None else torch.as_tensor(exact).detach().double().cpu()
    if truth is not None and truth.shape not in ({shape} if per_datum else {shape, torch.Size()}):
        raise DataError(f"exact must have shape {tuple(shape)}, one number for each datum; got {tuple(truth.shape)}.")
    bounds = {name: getattr(found, name) for name in _NAMES}
    held: dict[str, Bound] = {name: bound for name, bound in bounds.items() if bound is not None}
    with styled():
        if per_datum:
            return _per_datum(found, held, truth, ax)
        return _together(found, held, truth, ax)


def _together(found: Evidence, held: dict[str, Bound], truth: Tensor | None, ax: Axes | None) -> Axes:
    ax = one_axes(ax, figsize=(6.4, 0.42 * len(held) + 1.5))
    low, high = found.interval_per_datum
    reach, tails = [], []
    for row, (name, bound) in enumerate(held.items()):
        mean = float(bound.per_datum.mean)
        ends = [float(end) for end in bound.per_datum.ends(found.level)]
        # An interval of many million nats, of a guide far off, would be all that there is to see.
        ends = [end if math.isfinite(end) else mean for end in ends]
        reach.append(mean)
        tails += ends
        ax.plot(ends, [row, row], color=_COLOURS[name], linewidth=2.2, solid_capstyle="butt")
        ax.plot([mean], [row], _MARKERS[name], color=_COLOURS[name], markersize=7, markeredgecolor="white")
        ax.annotate(
            f"{mean:,.2f}".replace("-", "−"),
            (mean, row),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
            bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.5},
        )
    if truth is not None:
        value = float(truth.mean())
        reach.append(value)
        ax.axvline(value, color=INK, linewidth=1.2, linestyle="--", label="exact log p(x)", zorder=0)
    left, right = min([*reach, low]), max([*reach, *([high] if math.isfinite(high) else [])])
    # Whole intervals, but for those of a guide so far off that nothing else would be seen.
    span = right - left or 1.0
    left, right = max(left - span, min([left, *tails])), min(right + span, max([right, *tails]))
    margin = 0.08 * (right - left) or 1.0
    ax.set_xlim(left - margin, right + margin)
    side = "log p(x), approximate" if found.upper is not None and not found.exact else "log p(x)"
    ax.axvspan(low, min(high, right + margin), color=FAINT, alpha=0.35, linewidth=0, zorder=-1)
    ax.set_yticks(range(len(held)), [_NAMES[name] for name in held])
    ax.set_ylim(len(held) - 0.4, -0.75)
    several = found.elbo.mean.numel() > 1
    ax.set_xlabel("nats per datum" if several else "nats")
    where = f"{side} ≥ {low:,.2f}" if math.isinf(high) else f"{side} in [{low:,.2f}, {high:,.2f}]"
    ax.set_title(f"{where}, {100 * found.level:g} %".replace("-", "−"))
    ax.locator_params(axis="x", nbins=6)
    if truth is not None:
        ax.legend(loc="lower left")
    return ax


def _per_datum(found: Evidence, held: dict[str, Bound], truth: Tensor | None, ax: Axes | None) -> Axes:
    ax = one_axes(ax, figsize=(7.0, 3.8))
    base = found.annealed.mean.flatten()
    order = (found.elbo.mean.flatten() - base).argsort(descending=True)
    places = torch.arange(len(order)).numpy()

    def less(values: Tensor) -> Any:
        return (values.flatten() - base)[order].cpu().numpy()

    low, high = found.interval
    high = high.where(high.isfinite(), low)
    if found.upper is not None:
        ax.fill_between(
            places, less(low), less(high), color=FAINT, alpha=0.45, linewidth=0, step="mid", label="log p(x)"
        )
    size = 5.0 if len(order) <= MOST_BARS else 3.0
    for name, bound in held.items():
        look: Any = {"color": _COLOURS[name], "zorder": 2}
        if len(order) <= MOST_BARS:
            low, high = bound.mean - bound.standard_error, bound.mean + bound.standard_error
            ax.vlines(places, less(low), less(high), linewidth=0.9, alpha=0.6, **look)
        ax.plot(
            places, less(bound.mean), _MARKERS[name], markersize=size, markeredgewidth=0, label=_NAMES[name], **look
        )
    if truth is not None:
        ax.plot(places, less(truth), "_", color=INK, markersize=size + 4, label="exact log p(x)", zorder=4)
    means = [less(bound.mean) for bound in held.values()]
    bottom, top = min(each.min() for each in means), max(each.max() for each in means)
    margin = 0.15 * (top - bottom) or 1.0
    ax.set_ylim(bottom - margin, top + margin)
    if len(order) <= 25:
        ax.set_xticks(places, [str(int(i)) for i in order])
        ax.set_xlabel("datum")
    else:
        ax.set_xlabel("data, by the gap of the ELBO")
    ax.set_xlim(-0.7, len(order) - 0.3)
    ax.set_ylabel("less annealed (nats)")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax
