"""The Laplace approximation: a Gaussian at the mode of a density, with the curvature there."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from guides.errors import ModelError
from guides.gaussian_fit import FLAT, PRECISE, Density, NormalApproximation, climb, inverse_factor

__all__ = ["laplace"]

MAX_NEWTON = 100  # steps; from the end of the climb a handful is usual, and tens where a scale is far off
HISTORY = 20  # steps that the climb remembers
STEP_SIZES = 2.0 ** torch.arange(3, -41, -1, dtype=torch.float64)  # all are tried in one call
TOO_FAR = 8.0  # fall of the log density one standard deviation from the mode, in nats; that of a Gaussian is 1/2
RISE = 0.5  # by how much the log density may be higher one standard deviation from the mode, in nats
TOO_STEEP = 4 * TOO_FAR  # slope at the mode, in nats per standard deviation; a corner there has TOO_FAR at most


def laplace(log_density: Callable[[Tensor], Tensor], starts: Tensor) -> NormalApproximation:
    r"""Approximate a density by the Gaussian that has its mode and the curvature there.

    .. math::
        m = \arg\max_u \log p(u), \quad L L^\top = |P|^{-1}, \quad P = -\nabla^2 \log p(m)

    L-BFGS climbs from each start; the highest point is polished by Newton steps :math:`|P|^{-1} \nabla \log p` with the
    exact Hessian, the best of many step sizes each. A climb that does not end is polished at once: where that finds no
    mode, the density is taken to have none. Where :math:`P` is positive definite, :math:`|P| = P`; else
    see :func:`~guides.gaussian_fit.inverse_factor`. A direction along which the log density falls far faster than its
    curvature says (which may be nothing but rounding) is shortened until it does not.

    No random numbers are drawn. Everything but the log density is computed in float64.

    Args:
        log_density: :math:`\log p` up to a constant; maps ``(*S, D)`` to ``(*S,)``, each row by itself, twice
            differentiable.
        starts: Where to start, shape ``(num_starts, D)``. Starts at which the log density or its gradient is not finite
            are left out.

    Returns:
        ``loc`` :math:`m`, shape ``(D,)``, and ``scale_tril`` :math:`L`, shape ``(D, D)``, in the dtype of ``starts``.

    Raises:
        ModelError: If no start is usable, or no mode is found, as where the log density is unbounded.

    Example:
        >>> fit = laplace(lambda u: -0.5 * ((u - 3.0) / torch.tensor([0.5, 2.0])).square().sum(-1), torch.zeros(1, 2))
        >>> fit.loc.tolist(), fit.scale_tril.tolist()
        ([3.0, 3.0], [[0.5, 0.0], [0.0, 2.0]])

    References:
        Andrew Gelman et al., Bayesian Data Analysis, 3rd edition, 2013, section 13.3,
        http://www.stat.columbia.edu/~gelman/book/. Jorge Nocedal and Stephen J. Wright, Numerical Optimization,
        2nd edition, 2006, section 3.4 (Newton steps with a changed Hessian; the step size is by trial, not by Wolfe's
        conditions, since trials come in batches).
    """
    density = Density(log_density, starts.dtype)
    highest, end = -math.inf, starts[0]
    for path in climb(density, starts, history=HISTORY):
        point, value = path.points(path.whitened[-1]), float(path.values[-1])
        if not path.arrived:  # if it leads up without end, then no other start helps
            point, _ = _mode(density, point)
            value = float(density.value(point[None]))
        if value > highest:
            highest, end = value, point
    mode, directions = _mode(density, end)
    return NormalApproximation.along(mode, directions, starts.dtype)


def _mode(density: Density, point: Tensor) -> tuple[Tensor, Tensor]:
    """Find the mode above a point, ``(D,)``, and one standard deviation in each whitening direction, ``(D, D)``."""
    mode, directions = _polish(density, point)
    directions = _shortened(density, mode, directions)
    value, gradient = density.value_and_gradient(mode[None])
    around = torch.cat([mode + directions.T, mode - directions.T])
    if (gradient @ directions).abs().max() > TOO_STEEP or (density.value(around) > value + RISE).any():
        raise _no_mode(value, mode)
    return mode, directions


def _polish(density: Density, point: Tensor) -> tuple[Tensor, Tensor]:
    """Climb by damped Newton steps; return the mode, ``(D,)``, and the whitening directions there, ``(D, D)``."""
    point = point.to(density.dtype).double()
    value, slopes, directions, eigenvalues = _curved(density, point)
    for _ in range(MAX_NEWTON):
        enough = max(PRECISE, 10 * torch.finfo(density.dtype).eps * value.abs().item())
        step = directions @ slopes
        if slopes.square().sum() <= enough:
            if eigenvalues[0] >= -FLAT:
                return _settled(density, point, slopes, directions)
            step = directions[:, 0]  # a saddle: leave it along the direction that bends upwards most
        candidates = point + STEP_SIZES.to(point.device)[:, None] * step
        values = density.value(candidates)
        best = values.argmax()
        if values[best] - value <= enough:
            return point, directions
        point = candidates[best].to(density.dtype).double()
        value, slopes, directions, eigenvalues = _curved(density, point)
    raise _no_mode(value, point)


def _settled(density: Density, point: Tensor, slopes: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Take full steps for as long as they halve the slope, when the log density is too coarse to tell."""
    for _ in range(MAX_NEWTON):
        nearer = (point + directions @ slopes).to(density.dtype).double()
        _, slopes_there, directions_there, _ = _curved(density, nearer)
        if not slopes_there.norm() < slopes.norm() / 2:
            break
        point, slopes, directions = nearer, slopes_there, directions_there
    return point, directions


def _curved(density: Density, point: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Evaluate the log density, its slope along each whitening direction, these directions, and their curvatures."""
    value, gradient = density.value_and_gradient(point[None])
    directions, eigenvalues = inverse_factor(density.precision(point), density.dtype)
    return value[0], gradient[0] @ directions, directions, eigenvalues


def _shortened(density: Density, mode: Tensor, directions: Tensor) -> Tensor:
    """Halve each column until the log density one such step from the mode, either way, has not fallen by too much."""
    directions = directions.clone()
    floor = density.value(mode[None]) - TOO_FAR
    ahead = torch.arange(len(mode), device=mode.device)
    for _ in range(100):  # 30 decades
        steps = directions[:, ahead].T
        reached = torch.maximum(density.value(mode + steps), density.value(mode - steps))
        ahead = ahead[reached < floor]
        if not len(ahead):
            return directions
        directions[:, ahead] /= 2
    raise _no_mode(floor + TOO_FAR, mode)


def _no_mode(value: Tensor, point: Tensor) -> ModelError:
    furthest = int(point.abs().argmax())
    return ModelError(
        f"laplace found no mode: at the highest point reached the log density is {float(value):.6g}, still rising or "
        f"infinitely sharp; coordinate {furthest} is {float(point[furthest]):.4g} there. It may be unbounded, as where "
        "a scale goes to 0 in a centred hierarchical model. Write the model non-centred, give the scale a prior that "
        "keeps it off 0, or use pathfinder."
    )
