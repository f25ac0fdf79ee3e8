"""A wheel of bent arms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from ppl_models.datasets.toy.density import ToyDensity
from ppl_models.datasets.toy.rows import logsumexp_by_row

__all__ = ["Pinwheel"]

_ARMS, _RATE, _SCALE = 5, 0.25, 2.0
_MEAN, _RADIAL, _TANGENTIAL = 1.0, 0.3, 0.1
_TURN = 2 * math.pi / _ARMS
_RIM = 16.0
_HALVINGS = 60  # of an interval no longer than π, to the last bit of a double


@final
class Pinwheel(ToyDensity):
    r"""Draw points from Gaussian arms, each turned the more the farther out it is.

    With ε ~ N(0, I) and an arm k of five, a point is 2 R(−θ) f, where R(−θ) turns by the angle −θ,

        f = (1 + 0.3 ε₁, 0.1 ε₂),    θ = 2πk/5 + exp(f₁)/4.

    A turn keeps the length, so f stands at a point's own ρ = |x|/2, at an angle a with

        g(a) = a − exp(ρ cos a)/4 = arg x  (mod 2π/5),    g'(a) = 1 + f₂ exp(f₁)/4,

    and the density is the sum over all such angles,

        p(x) = Σ_a N(f; (1, 0), diag(0.3², 0.1²)) / (5 · 4 |g'(a)|).

    Where f₂ < −4 exp(−f₁), which has a probability below 1e-8, g falls; p is infinite where it turns, and its integral
    is 1 all the same. Beyond |x| = 16, where log p < −260, p is taken as 0, for the number of angles grows as exp(ρ).

    Args:
        name: What the law is called.
        entropy: H(p) in nats.
    """

    def _draw(self, num: int, generator: torch.Generator) -> Tensor:
        arm = torch.randint(_ARMS, (num,), generator=generator)
        noise = torch.randn(num, 2, generator=generator, dtype=torch.float32)
        along, across = noise[:, 0].mul_(_RADIAL).add_(_MEAN), noise[:, 1].mul_(_TANGENTIAL)
        angle = arm.to(torch.float32).mul_(_TURN).add_(along.exp(), alpha=_RATE)
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([along * cos + across * sin, across * cos - along * sin], -1).mul_(_SCALE)

    def _log_density(self, points: Tensor) -> Tensor:
        with torch.no_grad():
            row, angle = _preimages(points)
        # The roots as functions of the point: f changes with x by the inverse of the map's derivative.
        still = points.detach()[row]
        along, across = _polar(torch.linalg.vector_norm(still, dim=-1) / _SCALE, angle)
        turn = angle - torch.atan2(still[:, 1], still[:, 0])
        cos, sin = turn.cos(), turn.sin()
        moved = (points[row] - still) / _SCALE
        rate = _RATE * along.exp()
        change = (cos * moved[:, 0] - sin * moved[:, 1]) / (1 + rate * across)
        across = across + sin * moved[:, 0] + cos * moved[:, 1] + rate * along * change
        along = along + change
        squares = ((along - _MEAN) / _RADIAL).square() + (across / _TANGENTIAL).square()
        log_slope = (1 + _RATE * along.exp() * across).abs().log()
        terms = -0.5 * squares - log_slope - math.log(2 * math.pi * _RADIAL * _TANGENTIAL * _ARMS * _SCALE**2)
        return logsumexp_by_row(terms, row, len(points))


def _polar(radius: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    return radius * angle.cos(), radius * angle.sin()


def _turned(angle: Tensor, radius: Tensor) -> Tensor:
    """Compute g: where the point stands whose f stands at ``angle``, up to whole arms."""
    return angle - _RATE * (radius * angle.cos()).exp()


def _slope(angle: Tensor, radius: Tensor) -> Tensor:
    along, across = _polar(radius, angle)
    return 1 + _RATE * along.exp() * across


def _preimages(points: Tensor) -> tuple[Tensor, Tensor]:
    """Find every angle in (−π, π] at which f can stand, and the number of the point that it belongs to.

    On [0, π] g rises. On (−π, 0) its slope is least where cos a = ρ sin² a; if it is negative there, g falls between
    two zeros of the slope, one on either side, and rises outside them.
    """
    rows = (torch.linalg.vector_norm(points, dim=-1) <= _RIM).nonzero().squeeze(-1)
    radius = torch.linalg.vector_norm(points[rows], dim=-1) / _SCALE
    direction = torch.atan2(points[rows, 1], points[rows, 0])
    left, right = torch.full_like(radius, -math.pi), torch.full_like(radius, math.pi)
    steepest = -(2 * radius / (1 + (1 + 4 * radius.square()).sqrt())).acos()
    folded = _slope(steepest, radius) < 0
    zero = torch.zeros_like(radius)
    first = torch.where(folded, _bisect(_slope, left, steepest, radius, zero, -torch.ones_like(radius)), zero)
    second = torch.where(folded, _bisect(_slope, steepest, zero, radius, zero, torch.ones_like(radius)), zero)
    found = []
    for low, high in ((left, first), (first, second), (second, right)):
        start, end = _turned(low, radius) - direction, _turned(high, radius) - direction
        # Whole arms above the lower end and up to the upper one: an angle that two parts share counts once.
        arm = (torch.minimum(start, end) / _TURN).floor() + 1
        count = ((torch.maximum(start, end) / _TURN).floor() - arm + 1).clamp(min=0).long()
        each = torch.arange(len(rows), device=rows.device).repeat_interleave(count)
        step = torch.arange(len(each), device=rows.device) - (count.cumsum(0) - count)[each]
        aim = direction[each] + (arm[each] + step) * _TURN
        rising = (end - start).sign()[each]
        found.append((rows[each], _bisect(_turned, low[each], high[each], radius[each], aim, rising)))
    row, angle = (torch.cat(column) for column in zip(*found, strict=True))
    return row, angle


def _bisect(
    function: Callable[[Tensor, Tensor], Tensor],
    low: Tensor,
    high: Tensor,
    radius: Tensor,
    aim: Tensor,
    rising: Tensor,
) -> Tensor:
    """Find where a function that rises (1) or falls (−1) from ``low`` to ``high`` meets ``aim``, each by itself."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = rising * (function(middle, radius) - aim) < 0
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2
