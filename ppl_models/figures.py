"""Figures of image models: training curves, samples and reconstructions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from guides.errors import DataError
from ppl_models.diagnostics.plots.tiles import show_tiles

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["reconstructions", "samples", "training_curves"]

_CURVES = (
    ("train", "#1f6fb2", "training, mean over the epoch"),
    ("validation", "#d9601a", "validation, after the epoch"),
)
_INK, _FAINT = "#222222", "#dddddd"


def training_curves(
    histories: Mapping[str, pd.DataFrame], *, num_train: int, num_validation: int, bounds: Mapping[str, str]
) -> Figure:
    r"""Draw each model's loss per image against the epoch, training and validation.

    The training curve shows the mean over each epoch; every panel names the bound it shows, for different bounds are
    not comparable.

    Args:
        histories: By model name, the table :attr:`ppl_models.training.FitResult.history`.
        num_train: Number of training images, for which the losses stand.
        num_validation: Number of validation images, likewise.
        bounds: By model name, what its loss is minus of, for example ``"ELBO"``.

    Raises:
        DataError: If there is no model, or a model without a bound.

    Example:
        >>> import pandas as pd
        >>> history = pd.DataFrame({"epoch": [0, 0, 1], "loss": [9.0, 7.0, 6.0], "validation_loss": [None, 4.0, 3.0]})
        >>> figure = training_curves({"VAE": history}, num_train=2, num_validation=1, bounds={"VAE": "ELBO"})
        >>> figure.axes[0].get_ylabel()
        '−ELBO (nats per image)'
    """
    _check_names(histories, bounds)
    curves = {name: _per_epoch(history, num_train, num_validation) for name, history in histories.items()}
    low, high = _limits(list(curves.values()))
    figure = _new_figure(width=0.7 + 3.5 * len(curves), height=3.7)
    for panel, (name, epochs) in zip(_panels(figure, len(curves)), curves.items(), strict=True):
        marker = "o" if len(epochs) < 5 else ""
        for column, colour, label in _CURVES:
            panel.plot(epochs.index, epochs[column], color=colour, linewidth=1.6, marker=marker, label=label)
        panel.set_title(name, fontsize=10.5, color=_INK)
        panel.set_xlabel("epoch")
        panel.locator_params(axis="x", integer=True)
        panel.set_ylabel(f"−{bounds[name]} (nats per image)")
        panel.set_ylim(low, high)
        panel.grid(color=_FAINT, linewidth=0.7)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def samples(images: Mapping[str, Tensor], *, caption: str = "") -> Figure:
    """Draw one square block of images per model, its name above.

    Args:
        images: By model name, images ``(N, H, W)`` with values in [0, 1], as many for each.
        caption: What is said below.

    Raises:
        DataError: If there is no model, or the shapes are wrong or differ.

    Example:
        >>> import torch
        >>> [axes.get_title() for axes in samples({"VAE": torch.rand(9, 8, 8), "HVAE": torch.rand(9, 8, 8)}).axes]
        ['VAE', 'HVAE']
    """
    count, height, width = _check_images(images)
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    side = 3.5
    figure = _new_figure(width=(side + 0.25) * len(images), height=0.4 + side * rows * height / (columns * width))
    for panel, (name, block) in zip(_panels(figure, len(images)), images.items(), strict=True):
        show_tiles(panel, block, columns=columns)
        panel.set_title(name, fontsize=10.5, color=_INK)
    if caption:
        figure.supxlabel(caption, fontsize=9.5, color=_INK)
    return figure


def reconstructions(originals: Tensor, images: Mapping[str, Tensor], *, caption: str = "") -> Figure:
    """Draw originals in the top row, and under them each model's reconstructions.

    Args:
        originals: Images ``(N, H, W)`` with values in [0, 1].
        images: By model name, reconstructions of the same shape.
        caption: What is said below.

    Raises:
        DataError: If there is no model, or the shapes are wrong or differ.

    Example:
        >>> import torch
        >>> figure = reconstructions(torch.rand(10, 8, 8), {"VAE": torch.rand(10, 8, 8)})
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['Originals', 'VAE']
    """
    rows = {"Originals": originals, **images}
    count, height, width = _check_images(rows)
    if len(rows) < 2:
        raise DataError("reconstructions needs at least one model beside the originals; got none.")
    across = 10.0
    row_height = across / count * height / width
    figure = _new_figure(width=across, height=0.1 + (row_height + 0.35) * len(rows))
    for panel, (name, row) in zip(_panels(figure, len(rows), stacked=True), rows.items(), strict=True):
        show_tiles(panel, row, columns=count)
        panel.set_title(name, loc="left", pad=4, fontsize=10.5, color=_INK)
    if caption:
        figure.supxlabel(caption, fontsize=9.5, color=_INK)
    return figure


def _new_figure(*, width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # no pyplot: no windows, and no figures kept alive
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06, hspace=0.0)
    return Figure(figsize=(width, height), dpi=150, layout=layout, facecolor="white")


def _panels(figure: Figure, count: int, *, stacked: bool = False) -> list[Axes]:
    grid: Any = figure.subplots(count, 1, squeeze=False) if stacked else figure.subplots(1, count, squeeze=False)
    return list(grid.flat)


def _per_epoch(history: pd.DataFrame, num_train: int, num_validation: int) -> pd.DataFrame:
    """Losses per image by epochs done: the mean while training, the last of validation."""
    import pandas as pd

    epochs = history.assign(loss=history["loss"].where(history["loss"].abs() < math.inf)).groupby("epoch")
    table = pd.DataFrame({"train": epochs["loss"].mean() / num_train})
    table["validation"] = epochs["validation_loss"].last() / num_validation
    if len(table) > 1 and epochs.size().iloc[-1] < epochs.size().iloc[0]:
        table.loc[table.index[-1], "train"] = math.nan  # the mean over a few batches would look like a jump
    table.index = table.index + 1
    table["validation"] = table["validation"].interpolate(limit_area="inside")  # a line through the epochs it skips
    return table


def _limits(curves: list[pd.DataFrame]) -> tuple[float, float]:
    """One scale for all panels, on which the first epochs do not flatten the rest."""
    values = [value for table in curves for column in table for value in table[column].dropna()]
    late = [value for table in curves for column in table for value in table[column].dropna().iloc[len(table) // 20 :]]
    low, high = min(values), max(late)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _check_names(histories: Mapping[str, object], bounds: Mapping[str, str]) -> None:
    if not histories:
        raise DataError("histories must hold at least one model; got none.")
    missing = [name for name in histories if name not in bounds]
    if missing:
        raise DataError(f"bounds must name the bound of every model; got none for {', '.join(missing)}.")


def _check_images(images: Mapping[str, Tensor]) -> tuple[int, int, int]:
    if not images:
        raise DataError("images must hold at least one model; got none.")
    shapes = {name: tuple(block.shape) for name, block in images.items()}
    first = next(iter(shapes.values()))
    if len(first) != 3 or 0 in first or set(shapes.values()) != {first}:
        raise DataError(f"images must have one shape (N, H, W) for all; got {shapes}.")
    count, height, width = first
    return count, height, width
