"""show_tiles: images in rows and columns, as one picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["show_tiles"]

_LINES = "#c9d3dc"
_SIDE, _LINE = 64, 3  # about the width of an image, and the line between images, in pixels of the picture


def show_tiles(panel: Axes, images: Tensor, *, columns: int) -> tuple[list[float], list[float]]:
    """Tile images ``(N, H, W)`` into one picture, row by row, black on white, with thin lines between them.

    Returns:
        The middle of each column, and of each row, in the picture's coordinates.
    """
    from matplotlib import colormaps

    # Pixels are enlarged first, so that a line between images can be thinner than a pixel.
    times = max(1, round(_SIDE / images.shape[2]))
    enlarged = images.detach().cpu().repeat_interleave(times, dim=1).repeat_interleave(times, dim=2)
    height, width = (side + _LINE for side in enlarged.shape[1:])
    rows = math.ceil(len(enlarged) / columns)
    picture = torch.full((rows * height + _LINE, columns * width + _LINE), math.nan)
    for i, image in enumerate(enlarged):
        top, left = (i // columns) * height + _LINE, (i % columns) * width + _LINE
        picture[top : top + image.shape[0], left : left + image.shape[1]] = image
    colours = colormaps["gray_r"].with_extremes(bad=_LINES)
    panel.imshow(picture.numpy(), cmap=colours, vmin=0.0, vmax=1.0, interpolation="auto")
    panel.set_axis_off()
    return [(i + 0.5) * width for i in range(columns)], [(i + 0.5) * height for i in range(rows)]
