"""Monotone rational quadratic splines."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["rational_quadratic"]

#: The least width and height of a piece, as a share of the whole, and the least slope: as in the paper's code.
LEAST = 1e-3


def rational_quadratic(
    x: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, *, bound: float, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Map numbers by splines of K rational quadratic pieces between ``-bound`` and ``bound``, and not at all outside.

    In a piece of width w and height h from :math:`(x_k, y_k)`, with slopes d and e at its ends, s = h / w and
    :math:`\theta = (x - x_k) / w`,

    .. math::
        y = y_k + h \frac{s \theta^2 + d \theta (1 - \theta)}{s + (d + e - 2 s) \theta (1 - \theta)}

    The slopes at both ends are 1. (Pyro's function of the same kind picks its pieces by the values it is given, which a
    traced graph cannot; the two agree.)

    Args:
        x: Numbers ``(*)``.
        widths: The pieces' widths, ``(*, K)``, before they are made shares of the whole.
        heights: Their heights, likewise.
        slopes: The slopes between them, ``(*, K - 1)``, before they are made positive.
        bound: Where the spline ends.
        inverse: Whether to map back.

    Returns:
        The numbers' images and the logarithms of the slopes there, each ``(*)``.

    Example:
        >>> flat = torch.zeros(3, 4)
        >>> rational_quadratic(torch.tensor([-5.0, 0.0, 2.0]), flat, flat, flat[:, 1:], bound=2.0)[0]
        tensor([-5.,  0.,  2.])

    References:
        Conor Durkan et al., Neural Spline Flows, 2019, https://arxiv.org/abs/1906.04032, eqs. 4-8.
    """
    widths, left = _knots(widths, bound)
    heights, low = _knots(heights, bound)
    slopes = F.pad(LEAST + F.softplus(slopes), (1, 1), value=1.0)
    inside = x.abs() < bound
    at = x.clamp(-bound, bound)
    piece = (at[..., None] >= (low if inverse else left)[..., 1:]).sum(-1, keepdim=True)

    def of_piece(values: Tensor) -> Tensor:
        return values.gather(-1, piece)[..., 0]

    w, h, x0, y0 = (of_piece(values) for values in (widths, heights, left, low))
    d, e, s = of_piece(slopes[..., :-1]), of_piece(slopes[..., 1:]), h / w
    bend = d + e - 2 * s
    if inverse:
        rise = at - y0
        a, b, c = h * (s - d) + rise * bend, h * d - rise * bend, -s * rise
        theta = 2 * c / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())
        mapped = x0 + w * theta
    else:
        theta = (at - x0) / w
        mapped = y0 + h * (s * theta.square() + d * theta * (1 - theta)) / (s + bend * theta * (1 - theta))
    numerator = e * theta.square() + 2 * s * theta * (1 - theta) + d * (1 - theta).square()
    log_slope = 2 * s.log() + numerator.log() - 2 * (s + bend * theta * (1 - theta)).log()
    log_slope = -log_slope if inverse else log_slope
    return torch.where(inside, mapped, x), torch.where(inside, log_slope, 0.0)


def _knots(sizes: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """The sizes of pieces that fill the whole, ``(*, K)``, and where each begins."""
    shares = LEAST + (1 - LEAST * sizes.shape[-1]) * sizes.softmax(-1)
    return 2 * bound * shares, F.pad(2 * bound * shares.cumsum(-1)[..., :-1], (1, 0)) - bound
