"""Pathfinder: the best Gaussian on the way to a mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from guides.errors import ModelError
from guides.gaussian_fit import Density, NormalApproximation, Path, climb

__all__ = ["pathfinder"]

LEAST_CURVATURE = 1e-12  # of a step worth remembering, relative to its change of gradient (algorithm 3)


def pathfinder(
    log_density: Callable[[Tensor], Tensor], starts: Tensor, *, num_draws: int = 25, history: int = 6
) -> NormalApproximation:
    r"""Approximate a density by the Gaussian of highest ELBO among those met while climbing it.

    .. math::
        q_l = \mathcal N(u_l + H_l \nabla \log p(u_l), \; H_l), \quad
        l^* = \arg\max_l \frac1K \sum_{k=1}^K \log \frac{p(\phi_{lk})}{q_l(\phi_{lk})}, \quad \phi_{lk} \sim q_l

    where :math:`u_0, u_1, \dots` are the points of an L-BFGS climb and :math:`H_l` is its estimate of the inverse of
    minus the Hessian: a diagonal, changed by the last ``history`` steps. Unlike the mode, the best Gaussian stays
    within the bulk of the density where that is unbounded or funnel-shaped.

    Args:
        log_density: :math:`\log p` up to a constant; maps ``(*S, D)`` to ``(*S,)``, each row by itself, twice
            differentiable.
        starts: Where to start, shape ``(num_starts, D)``. Starts at which the log density or its gradient is not finite
            are left out.
        num_draws: :math:`K`, the number of draws (from torch's global generator) for each ELBO.
        history: How many steps :math:`H_l` remembers.

    Returns:
        ``loc``, shape ``(D,)``, and ``scale_tril``, shape ``(D, D)``, of the best Gaussian, in the dtype of ``starts``.

    Raises:
        ModelError: If no start is usable, or every Gaussian has draws at which the log density is not finite.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> fit = pathfinder(lambda u: -0.5 * ((u - 3.0) / torch.tensor([0.5, 2.0])).square().sum(-1), zeros)
        >>> fit.loc.round(decimals=4).tolist(), fit.scale_tril.diagonal().round(decimals=4).tolist()
        ([3.0, 3.0], [0.5, 2.0])

    References:
        Lu Zhang, Bob Carpenter, Andrew Gelman and Aki Vehtari, Pathfinder: Parallel quasi-Newton variational inference,
        2022, https://arxiv.org/abs/2108.03782, algorithms 1-4. Departures: climbs are whitened by the exact curvature
        at their starts; the start itself is a candidate; all Gaussians of a climb share their noise, which makes their
        ELBOs easier to compare; :math:`H_l` is a dense matrix, since one is returned; and the best Gaussian is
        returned, not draws.
    """
    density = Density(log_density, starts.dtype)
    best, best_elbo = None, -math.inf
    for path in climb(density, starts, history=history):
        noise = torch.randn(num_draws, starts.shape[-1], dtype=torch.float64).to(starts.device)
        candidates = list(_candidates(path, history))
        elbos = _elbos(density, path, candidates, noise)
        l = int(elbos.argmax())  # noqa: E741  (the paper's letter)
        if elbos[l] > best_elbo:
            best_elbo = float(elbos[l])
            loc, factor = candidates[l]
            best = path.points(loc), path.directions @ factor
    if best is None:
        raise ModelError(
            f"pathfinder found no Gaussian at whose {num_draws} draws the log density is finite. Check that no scale, "
            "rate or probability overflows at moderate values of the latents; or start elsewhere."
        )
    return NormalApproximation.along(*best, starts.dtype)


def _candidates(path: Path, history: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield mean, ``(D,)``, and factor of the covariance, ``(D, D)``, of each Gaussian of a climb, whitened."""
    diagonal = torch.ones_like(path.start)
    steps: list[tuple[Tensor, Tensor]] = []
    for l in range(len(path.whitened)):  # noqa: E741
        if l > 0:
            s = path.whitened[l] - path.whitened[l - 1]
            y = path.gradients[l - 1] - path.gradients[l]
            if s @ y > LEAST_CURVATURE * (y @ y):
                diagonal = _updated(diagonal, s, y)
                steps = [*steps, (s, y)][-history:]
        covariance = _inverse_hessian(diagonal, steps)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if not failed and factor.isfinite().all():
            yield path.whitened[l] + covariance @ path.gradients[l], factor


def _updated(diagonal: Tensor, s: Tensor, y: Tensor) -> Tensor:
    """Update the diagonal by a step and its change of gradient, all ``(D,)`` (algorithm 3)."""
    a, b, c = diagonal @ y.square(), s @ y, s.square() @ diagonal.reciprocal()
    return (a / (b * diagonal) + y.square() / b - a * s.square() / (b * c * diagonal.square())).reciprocal()


def _inverse_hessian(diagonal: Tensor, steps: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Update a diagonal, ``(D,)``, by each remembered step as BFGS does; the paper's closed form is the same matrix."""
    inverse = diagonal.diag()
    for s, y in steps:
        rho = 1 / (s @ y)
        inverse = inverse - rho * torch.outer(s, y @ inverse)
        inverse = inverse - rho * torch.outer(inverse @ y, s) + rho * torch.outer(s, s)
    return (inverse + inverse.T) / 2


def _elbos(density: Density, path: Path, candidates: list[tuple[Tensor, Tensor]], noise: Tensor) -> Tensor:
    """Estimate the ELBO of each of L candidates from the same noise, ``(K, D)``; shape ``(L,)``."""
    log_volume = torch.linalg.slogdet(path.directions).logabsdet
    draws = torch.stack([path.points(loc + noise @ factor.T) for loc, factor in candidates])
    log_p = density.value(draws.flatten(0, 1)).view(draws.shape[:2])
    log_scales = torch.stack([factor.diagonal().log().sum() for _, factor in candidates])
    entropy_term = 0.5 * noise.square().sum(-1) + 0.5 * noise.shape[-1] * math.log(2 * math.pi)
    return (log_p + entropy_term).mean(-1) + log_scales + log_volume
