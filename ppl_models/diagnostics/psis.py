"""k_hat: how far importance weights can be trusted, by ArviZ's Pareto smoothing."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from guides.errors import DataError

__all__ = ["k_hat", "smooth"]

#: The fewest draws whose tail, min(S / 5, 3 sqrt(S)), has the five weights that a Pareto fit needs.
MIN_DRAWS = 25


def k_hat(log_weights: Tensor) -> Tensor:
    r"""Estimate the shape :math:`\hat k` of the generalised Pareto tail of importance weights.

    Below 0.5 the weights have a finite variance; above 0.7 estimates made with them are unreliable. Weights that are
    all equal have no tail: their :math:`\hat k` is minus infinity. Those that are all zero say nothing: plus infinity.

    Args:
        log_weights: Shape ``(S, *plates)``, S at least 25.

    Returns:
        Shape ``(*plates,)``.

    Raises:
        DataError: If there are too few draws, or NaN or plus-infinite weights.

    Example:
        >>> import torch
        >>> normal = torch.distributions.Normal(0.0, 1.0)
        >>> wide = torch.distributions.Normal(0.0, 2.0)
        >>> z = wide.sample((1000,))
        >>> bool(k_hat(normal.log_prob(z) - wide.log_prob(z)) < 0.5)
        True

    References:
        Aki Vehtari et al., Pareto Smoothed Importance Sampling, 2024, https://arxiv.org/abs/1507.02646, section 2.4.
    """
    _, shapes = smooth(log_weights)
    return shapes


def smooth(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Replace the largest weights by the quantiles of a Pareto tail fitted to them, and normalise.

    Args:
        log_weights: Shape ``(S, *plates)``, S at least 25.

    Returns:
        The logs of weights ``(S, *plates)`` that sum to 1 over S, and the tails' shapes, ``(*plates,)``.

    Raises:
        DataError: As :func:`k_hat`.
    """
    if len(log_weights) < MIN_DRAWS:
        raise DataError(f"k_hat needs at least {MIN_DRAWS} draws; got {len(log_weights)}. Raise num_samples.")
    if torch.isnan(log_weights).any() or (log_weights == torch.inf).any():
        raise DataError("log_weights must be finite; got NaN or plus infinity. Has training diverged?")
    draws_last = log_weights.detach().double().cpu().reshape(len(log_weights), -1).T
    span = draws_last.amax(1) - draws_last.amin(1)
    shapes = torch.full((len(draws_last),), -torch.inf, dtype=torch.float64)
    shapes[draws_last.amax(1) == -torch.inf] = torch.inf
    spread = span > 1e-9  # beyond rounding in float64 sums of a few thousand terms
    smoothed = draws_last - draws_last.logsumexp(1, keepdim=True)
    if spread.any():
        weights, fitted = _arviz_psislw()(draws_last[spread].numpy())
        smoothed[spread] = torch.as_tensor(weights, dtype=torch.float64)
        shapes[spread] = torch.as_tensor(fitted, dtype=torch.float64)
    return (
        smoothed.T.reshape(log_weights.shape).to(log_weights),
        shapes.reshape(log_weights.shape[1:]).to(log_weights),
    )


def _arviz_psislw() -> Callable[[Any], tuple[Any, Any]]:
    """ArviZ's smoothing: in 1.x it is in another package."""
    import arviz as az

    if hasattr(az, "psislw"):
        return az.psislw
    return importlib.import_module("arviz_stats.base").array_stats.psislw
