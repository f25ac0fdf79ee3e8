"""What a guide is asked for, and what it gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Proposal", "Target", "log_standard_normal"]


@dataclass(frozen=True)
class Target:
    """What a guide is asked for in one call.

    Args:
        batch_shape: Shape of the batch of latent vectors: ``(*S,)`` particles, then ``(B,)`` for amortised guides.
        log_joint: The model's log joint at latent vectors, ``(*batch, D)`` to ``(*batch,)``.
        context: The encoder's output for this call's data, ``(B, width)``; ``None`` for global guides.
    """

    batch_shape: torch.Size
    log_joint: Callable[[Tensor], Tensor]
    context: Tensor | None


@dataclass(frozen=True)
class Proposal:
    r"""Latent vectors and their log-weight denominators, with :math:`E[p(x, z) \exp(-\log q)] = p(x)`.

    Args:
        latent: Unconstrained vectors, whitened where the guide was set up so, ``(*batch, D)``.
        log_q: Shape ``(*batch,)``. A log density where there is one, and otherwise whatever keeps the equation above.
        by_site: What it is the sum of, ``(*batch, sites)``, unwhitened, for guides that draw each of a datum's latents
            by a law of its own, given those before it.
    """

    latent: Tensor
    log_q: Tensor
    by_site: Tensor | None = None


def log_standard_normal(noise: Tensor) -> Tensor:
    """Log density of standard normal vectors ``(*, M)``.

    Example:
        >>> import torch
        >>> log_standard_normal(torch.zeros(3, 2))
        tensor([-1.8379, -1.8379, -1.8379])
    """
    return -0.5 * (noise.square().sum(-1) + noise.shape[-1] * math.log(2 * math.pi))
