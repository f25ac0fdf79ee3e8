"""The figures of the image reproductions: learning curves by bound and by one measure, images, and moving particles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guides import Guide, HamiltonianGuide
from ppl_models.diagnostics import trajectory
from ppl_models.diagnostics.plots import plot_trajectory
from ppl_models.diagnostics.plots.style import PALETTE
from ppl_models.reproductions.panels import FAINT, legend_below, panels
from ppl_models.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bounds_figure", "common_figure", "generated", "rebuilt", "trajectories_figure"]

Points = Sequence[Mapping[str, float]]

#: Draws from the prior in a block, and images in a row.
SAMPLES, ROW = 49, 12


def bounds_figure(curves: Mapping[str, Points], bounds: Mapping[str, str]) -> Figure:
    """Draw each method's own bound against its time, one panel each, for different bounds do not compare.

    Args:
        curves: By method, points of its learning curve.
        bounds: By method, the name of its bound.
    """
    figure, (row,) = panels(1, len(curves), width=0.8 + 3.1 * len(curves), height=3.8)
    for axes, (name, points) in zip(row, curves.items(), strict=True):
        minutes = [point["minutes"] for point in points]
        for which, colour in (("training", PALETTE[0]), ("validation", PALETTE[1])):
            values = [point[which] for point in points]
            axes.plot(minutes, values, marker=".", linewidth=1.6, color=colour, label=which)
        axes.set_title(f"{name}, {points[-1]['epochs']:.3g} epochs", fontsize=10.5)
        axes.set_ylabel(f"−{bounds[name]} (nats per image)")
        _minutes(axes)
    legend_below(figure, row[0])
    return figure


def common_figure(curves: Mapping[str, Points]) -> Figure:
    """Draw the measure that all methods share, against time and against epochs."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure, (row,) = panels(1, 2, width=10.5, height=4.3)
    for (name, points), colour in zip(curves.items(), PALETTE, strict=False):
        for axes, across in zip(row, ("minutes", "epochs"), strict=True):
            x, y = ([point[which] for point in points] for which in (across, "common"))
            axes.plot(x, y, marker=".", linewidth=1.6, color=colour, label=name)
    for axes in row:
        axes.set_ylabel("−bound of 40 samples (nats per image)")
    _minutes(row[0])
    row[1].set_xscale("log")
    row[1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    row[1].xaxis.set_minor_formatter(NullFormatter())
    row[1].set_xlabel("epochs")
    row[1].grid(color=FAINT, linewidth=0.7)
    legend_below(figure, row[0])
    return figure


@torch.no_grad()
def generated(model: VAE, *, seed: int) -> Tensor:
    """Decode draws from the prior, the same for each model: ``(49, 28, 28)``."""
    model.eval()
    z = torch.randn(SAMPLES, model.latent_dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    return model.decode(z).mean.squeeze(1)


@torch.no_grad()
def rebuilt(model: VAE, guide: Guide, x: Tensor) -> Tensor:
    """Decode one draw of the guide for each image: ``(N, 28, 28)``."""
    model.eval()
    guide.eval()
    return model.decode(guide.sample_posterior(1, x)["z"][0]).mean.squeeze(1)


def trajectories_figure(
    model: VAE,
    guide: Guide,
    x: Tensor,
    *,
    num_transitions: int,
    step_size: float | None,
    from_rest: bool,
    seed: int,
) -> Figure:
    """Draw what the latents of particles on their way decode to.

    By Hamiltonian Monte Carlo from the guide's draws (or those of its base, if it is Hamiltonian itself), which accepts
    or rejects where it led; and, of a Hamiltonian guide, along its own steps from its base's draws, with a momentum
    that is drawn, and, if ``from_rest``, with one that starts at zero.
    """
    hmc: dict[str, Any] = {"method": "hmc", "num_transitions": num_transitions, "step_size": step_size}
    start = guide.base if isinstance(guide, HamiltonianGuide) else guide
    paths = {"": trajectory(model, start, x, seed=seed, **hmc)}
    if start is not guide:
        own = {", momentum drawn": trajectory(model, guide, x, seed=seed)}
        if from_rest:
            what = ", momentum zero at the start, as in the study: no draw of the guide"
            own[what] = trajectory(model, guide, x, at_rest=True, seed=seed)
        paths = own | paths
    figure, grid = panels(len(paths), 1, width=10.5, height=(0.62 * len(x) + 0.9) * len(paths))
    for (what, found), (axes,) in zip(paths.items(), grid, strict=True):
        plot_trajectory(found, decode=lambda latents: model.decode(latents["z"]).mean, data=x, ax=axes)
        axes.set_title(axes.get_title() + what, pad=18)
    return figure


def _minutes(axes: Axes) -> None:
    axes.set_xlabel("minutes of one core")
    axes.set_xlim(left=0)
    axes.grid(color=FAINT, linewidth=0.7)
