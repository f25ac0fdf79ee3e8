"""plot_energy_error: what finite leapfrog steps add to the energy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guides import HamiltonianGuide
from guides.errors import whole_number
from ppl_models.diagnostics.plots.style import GUIDE, INK, REFERENCE, many_axes, styled
from ppl_models.diagnostics.trajectory import Trajectory, trajectory

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

__all__ = ["plot_energy_error"]

#: Of the bands.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def plot_energy_error(
    model: Callable[..., Any],
    guide: HamiltonianGuide,
    *args: Any,
    num_particles: int = 200,
    hmc: bool = True,
    seed: int | None = None,
    ax: Any = None,
) -> np.ndarray:
    r"""Draw the energy error :math:`H_k - H_0` along the leapfrog steps of a Hamiltonian guide, and of HMC.

    Left, the guide's own K steps. What cooling takes from the energy is no error and is left out; the dotted line is
    the median of :math:`H_k - H_0` with it. Errors of many nats say that the steps are too long for the posterior, and
    that log-weights are as rough. Right, Hamiltonian Monte Carlo with as many steps in a transition, whose length is
    adapted: accepted four times in five, or more often where it goes a quarter of the way round the posterior.

    The line is the median; the areas hold half, and nine in ten, of the trajectories: all particles, and all data with
    latents of their own.

    Args:
        model: Any Pyro model with continuous latents.
        guide: A Hamiltonian guide of it.
        *args: Arguments of both.
        num_particles: How many trajectories, of each datum where these are independent.
        hmc: Whether to draw the panel at the right.
        seed: Fixes all chance; the global generator is left as it was.
        ax: Two Axes, or one without ``hmc``; a new figure by default.

    Returns:
        The Axes, ``(2,)`` or ``(1,)``.

    Raises:
        ModelError: If the guide is no Hamiltonian guide.
        OptionError: If an option breaks its rule.
        DataError: If data are not finite.

    Example:
        >>> import torch
        >>> from guides import HamiltonianGuide
        >>> from ppl_models import OffsetGaussian
        >>> gaussian = OffsetGaussian(2)
        >>> axes = plot_energy_error(gaussian, HamiltonianGuide(gaussian), torch.randn(5, 2), hmc=False, seed=0)
        >>> len(axes)
        1

    References:
        Michael Betancourt, A Conceptual Introduction to Hamiltonian Monte Carlo, 2017,
        https://arxiv.org/abs/1701.02434, section 5.
    """
    num_particles = whole_number("num_particles", num_particles, least=5)
    found = [trajectory(model, guide, *args, num_particles=num_particles, seed=seed)]
    if hmc:
        options: dict[str, Any] = {"method": "hmc", "num_leapfrog": guide.num_steps, "num_transitions": 5}
        found.append(trajectory(model, guide, *args, num_particles=num_particles, seed=seed, **options))
    with styled():
        _, grid = many_axes(ax, 1, len(found), figsize=(3.6 * len(found) + 0.6 * (2 - len(found)), 3.3))
        panels = grid.reshape(-1)
        _draw(panels[0], found[0], GUIDE, f"{type(guide).__name__}")
        if hmc:
            rate = (-found[1].energy_error[-1]).exp().clamp(max=1).mean()
            _draw(panels[1], found[1], REFERENCE, f"HMC, acceptance {float(rate):.2f}")
            panels[1].set_ylabel("")
    return panels


def _draw(panel: Axes, found: Trajectory, colour: str, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    errors = found.energy_error.flatten(1)
    levels = torch.tensor(QUANTILES, dtype=errors.dtype)
    low, below, middle, above, high = torch.quantile(errors, levels, dim=1, interpolation="nearest").cpu().numpy()
    steps = range(len(errors))
    panel.axhline(0, color=INK, linewidth=0.8, zorder=1)
    panel.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0, label="90 %")
    panel.fill_between(steps, below, above, color=colour, alpha=0.3, linewidth=0, label="50 %")
    panel.plot(steps, middle, color=colour, linewidth=1.8, marker="o", markersize=3.5, label="median")
    if bool(found.heat.any()):
        panel.plot(steps, _median(found), ":", color=INK, linewidth=1.4, label="with cooling")
    panel.set_xlabel("leapfrog step")
    panel.set_ylabel("energy error (nats)")
    panel.set_title(title)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    panel.legend(loc="best", fontsize=8.5)


def _median(found: Trajectory) -> Any:
    change: Tensor = (found.energy - found.energy[0]).flatten(1)
    return change.median(1).values.cpu().numpy()
