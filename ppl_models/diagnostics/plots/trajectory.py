"""plot_trajectory: moving particles, as images or in the plane."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from guides.errors import DataError, OptionError, whole_number
from ppl_models.diagnostics.plots.style import INK, LEVEL_COLOURS, PALETTE, one_axes, short, styled
from ppl_models.diagnostics.plots.tiles import show_tiles
from ppl_models.reference.float64 import in_float64

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ppl_models.diagnostics.trajectory import Trajectory

__all__ = ["plot_trajectory"]

#: Images in a row and in a column, at most; points on a side of the grid under the paths; and how far its contours lie
#: below the highest point, in nats: where a normal law in the plane holds a tenth, half, nine tenths and 0.999.
MOST_COLUMNS, MOST_ROWS, GRID = 16, 20, 60
DEPTHS = (6.9, 2.3, 0.69, 0.105)


def plot_trajectory(
    found: Trajectory,
    *,
    decode: Callable[[dict[str, Tensor]], Tensor] | None = None,
    data: Tensor | None = None,
    datum: int = 0,
    every: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw where particles move, in one of two ways.

    - With ``decode``, as images: a row for each datum (its first particle), or for each particle where the data share
      their latents. First comes the datum, then what the latents decode to, step by step.
    - Without, for two unconstrained latents: the paths in the plane over contours of the posterior. Circles are the
      starts, dots the steps, and larger dots the ends; refused transitions are crosses, where the particle stayed.

    Args:
        found: What :func:`ppl_models.diagnostics.trajectory` found.
        decode: From latents by site, ``(S, N, *event)`` each or ``(S, *event)``, to images with values in [0, 1],
            ``(S, N, *channels, H, W)`` or ``(S, *channels, H, W)`` with one channel.
        data: The images ``(N, *channels, H, W)`` that the latents are those of.
        datum: Whose path is drawn in the plane, where the data are independent.
        every: Which steps are shown as images: all, every second, ...; as many as fit by default.
        ax: Where; a new figure by default.

    Raises:
        OptionError: If there is no ``decode``, and more than two latents.
        DataError: If images have other shapes, or are too many.

    Example:
        >>> import torch
        >>> from guides import HamiltonianGuide
        >>> from ppl_models import OffsetGaussian
        >>> from ppl_models.diagnostics import trajectory
        >>> gaussian = OffsetGaussian(2)
        >>> x = torch.randn(10, 2)
        >>> found = trajectory(gaussian, HamiltonianGuide(gaussian), x, num_particles=3, seed=0)
        >>> plot_trajectory(found).get_xlabel()
        'z[0] (unconstrained)'
    """
    if decode is None:
        if found.space.dim != 2:
            raise OptionError(
                f"plot_trajectory draws two latents in the plane; got {found.space.dim}. Give decode=, a function from "
                "latents by site to images."
            )
        with styled(), torch.no_grad():
            return _in_the_plane(found, datum, ax)
    every = whole_number("every", -(-found.num_steps // MOST_COLUMNS) if every is None else every, least=1)
    with torch.no_grad(), in_float64():  # as the latents are, whatever the decoder is
        images = _decoded(found, decode, list(range(0, found.num_steps + 1, every)), data)
    with styled():
        return _as_images(found, images, data, every, ax)


def _decoded(
    found: Trajectory, decode: Callable[[dict[str, Tensor]], Tensor], steps: list[int], data: Tensor | None
) -> Tensor:
    """Images ``(rows, columns, H, W)``."""
    columns = []
    own = found.latent.dim() == 4  # each datum has its own latents: one particle of each
    for step in steps:
        latents = {name: value[step] for name, value in found.latents.items()}
        image = decode({name: value[:1] for name, value in latents.items()} if own else latents)
        if not isinstance(image, Tensor) or image.dim() < 3:
            got = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise DataError(f"decode must return images (S, N, *channels, H, W); got {got}.")
        columns.append((image[0] if own else image).detach().double())
    images = torch.stack(columns, 1)  # (rows, columns, *channels, H, W)
    if images.dim() == 5 and images.shape[2] == 1:
        images = images[:, :, 0]
    rows = found.latent.shape[2] if own else found.latent.shape[1]
    if images.dim() != 4 or len(images) != rows:
        raise DataError(
            f"decode must return one image of one channel for each of {rows} rows; got {tuple(columns[0].shape)}."
        )
    if rows > MOST_ROWS:
        raise DataError(
            f"plot_trajectory draws at most {MOST_ROWS} rows; got {rows}. Give trajectory() fewer data or particles."
        )
    if data is None:
        return images
    size = (rows, *images.shape[-2:])
    given = data.detach().to(images)
    if given.numel() != torch.Size(size).numel() or given.shape[-2:] != images.shape[-2:]:
        raise DataError(f"data must be images of shape {size}, one for each row; got {tuple(data.shape)}.")
    return torch.cat([given.reshape(rows, 1, *images.shape[-2:]), images], 1)


def _as_images(found: Trajectory, images: Tensor, data: Tensor | None, every: int, ax: Axes | None) -> Axes:
    rows, columns, height, width = images.shape
    side = min(0.62, 10.0 / columns)
    ax = one_axes(ax, figsize=(max(2.4, side * columns + 0.4), side * rows * height / width + 0.75))
    across, _ = show_tiles(ax, images.flatten(0, 1), columns=columns)
    heads = ["datum"] * (data is not None) + [str(i) for i in range(0, found.num_steps + 1, every)]
    for place, head in zip(across, heads, strict=True):
        ax.annotate(head, (place, 0), xytext=(0, 3), textcoords="offset points", ha="center", va="bottom", fontsize=8.5)
    kind = "leapfrog step of the guide" if found.accepted is None else "transition of HMC"
    rate = (
        "" if found.accepted is None else f", {float(found.accepted.double().mean()):.0%} accepted".replace("%", " %")
    )
    ax.set_title(f"{kind}{rate}", pad=18)
    return ax


def _in_the_plane(found: Trajectory, datum: int, ax: Axes | None) -> Axes:
    latent = found.latent
    if latent.dim() == 4:
        if not 0 <= datum < latent.shape[2]:
            raise OptionError(f"datum must be one of the {latent.shape[2]} data, from 0; got {datum}.")
        latent = latent[:, :, datum]
    paths = latent.cpu()
    low, high = paths.flatten(0, 1).amin(0), paths.flatten(0, 1).amax(0)
    margin = 0.25 * (high - low) + 1e-9
    low, high = low - margin, high + margin
    sides = [torch.linspace(float(low[i]), float(high[i]), GRID, dtype=torch.float64) for i in range(2)]
    ax = one_axes(ax, figsize=(5.2, 4.4))
    height = _heights(found, torch.cartesian_prod(*sides), datum).reshape(GRID, GRID).T
    top = float(height[height.isfinite()].max())
    levels = [top - depth for depth in DEPTHS]
    ax.contourf(
        *(side.numpy() for side in sides), height.numpy(), levels=[*levels, top + 1e-9], cmap="Greys", alpha=0.45
    )
    for i in range(paths.shape[1]):
        path, colour = paths[:, i].numpy(), PALETTE[i % len(PALETTE)]
        ax.plot(path[:, 0], path[:, 1], color=colour, linewidth=1.0, alpha=0.8, marker="o", markersize=2.5, zorder=3)
        ax.plot(*path[0], marker="o", markersize=7, markerfacecolor="white", markeredgecolor=colour, zorder=4)
        ax.plot(*path[-1], marker="o", markersize=7, color=colour, markeredgecolor="white", zorder=4)
    if found.accepted is not None:
        accepted = found.accepted if found.accepted.dim() == 2 else found.accepted[..., datum]
        refused = paths[1:][~accepted.cpu()].numpy()
        ax.plot(refused[:, 0], refused[:, 1], "x", color=LEVEL_COLOURS["fail"], markersize=6, zorder=5)
    ax.set_xlim(float(low[0]), float(high[0]))
    ax.set_ylim(float(low[1]), float(high[1]))
    names = _names(found)
    ax.set_xlabel(f"{names[0]} (unconstrained)")
    ax.set_ylabel(f"{names[1]} (unconstrained)")
    kind = "leapfrog steps of the guide" if found.accepted is None else "transitions of HMC"
    ax.set_title(f"{found.num_steps} {kind}", color=INK)
    return ax


def _heights(found: Trajectory, points: Tensor, datum: int) -> Tensor:
    """The log joint at points ``(M, 2)``, of one datum where they are independent."""
    if found.latent.dim() == 3:
        return found.log_joint(points.to(found.latent)).cpu()
    others = found.latent.shape[2]
    return found.log_joint(points.to(found.latent)[:, None].expand(-1, others, -1))[:, datum].cpu()


def _names(found: Trajectory) -> list[str]:
    names = []
    for i in range(found.space.dim):
        site = found.space.site_at(i)
        size = site.coordinates.stop - site.coordinates.start
        names.append(short(site.name if size == 1 else f"{site.name}[{i - site.coordinates.start}]"))
    return names
