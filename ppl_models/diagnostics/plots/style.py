"""The look that all plots share: ArviZ's white style in small, and colours that the colour-blind can tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from guides.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "FAINT",
    "GUIDE",
    "INK",
    "LEVEL_COLOURS",
    "LEVEL_MARKERS",
    "PALETTE",
    "REFERENCE",
    "many_axes",
    "one_axes",
    "short",
    "styled",
]

#: Those of ArviZ's palette that are dark enough for thin lines on white.
PALETTE = ("#2a2eec", "#fa7c17", "#328c06", "#c10c90", "#933708", "#1b9bb0")

#: What a guide says is always drawn in the one, what it is held against in the other.
GUIDE, REFERENCE = PALETTE[:2]
INK, FAINT = "#262626", "#b8b8b8"

#: Levels of findings, in colours of Masataka Okabe and Kei Ito, Color Universal Design, 2008,
#: https://jfly.uni-koeln.de/color/; each has its marker too.
LEVEL_COLOURS = {"pass": "#009E73", "doubtful": "#E69F00", "fail": "#D55E00"}
LEVEL_MARKERS = {"pass": "o", "doubtful": "s", "fail": "X"}

_SIZES: Any = {
    "figure.dpi": 100,
    "axes.labelsize": 10,
    "axes.titlesize": 10.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "figure.titlesize": 11,
    "axes.linewidth": 0.8,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the plots' style inside, and leave the global one as it was."""
    import matplotlib.pyplot as plt
    from arviz import style  # type: ignore[attr-defined]

    with style.context("arviz-white"), plt.rc_context(_SIZES):
        yield
        interactive = plt.isinteractive()
    # The first figure loads the backend; that of notebooks then switches this on, which is not ours to undo.
    plt.ion() if interactive else plt.ioff()


def one_axes(ax: Axes | None, *, figsize: tuple[float, float]) -> Axes:
    """The Axes given, or those of a new figure.

    Raises:
        TypeError: If something else is given.
    """
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes

    if ax is None:
        _, made = plt.subplots(figsize=figsize, layout="constrained")
        return made
    if not isinstance(ax, Axes):
        raise TypeError(f"ax must be Matplotlib Axes; got {type(ax).__name__}. Write ax=figure.subplots().")
    return ax


def many_axes(
    ax: Any, rows: int, columns: int, *, figsize: tuple[float, float], **options: Any
) -> tuple[Figure | None, np.ndarray]:
    """A grid of Axes: those given, or those of a new figure, which is also returned.

    Raises:
        DataError: If others than ``rows * columns`` are given.
        TypeError: If something else is given.
    """
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.axes import Axes

    if ax is None:
        figure, made = plt.subplots(rows, columns, figsize=figsize, squeeze=False, layout="constrained", **options)
        return figure, made
    given = np.asarray(ax, dtype=object)
    wrong = [each for each in given.flat if not isinstance(each, Axes)]
    if wrong:
        raise TypeError(f"ax must be Matplotlib Axes; got {type(wrong[0]).__name__}. Write ax=figure.subplots().")
    if given.size != rows * columns:
        raise DataError(
            f"ax must hold {rows * columns} Axes; got {given.size}. Write ax=figure.subplots({rows}, {columns})."
        )
    return None, given.reshape(rows, columns)


def short(text: str, most: int = 28) -> str:
    """Cut the middle out of a name that is too long for its place.

    Example:
        >>> short("the_rate_at_which_patients_recover", 16)
        'the_rate…recover'
    """
    if len(text) <= most:
        return text
    tail = (most - 1) // 2
    return f"{text[: most - 1 - tail]}…{text[-tail:]}"
