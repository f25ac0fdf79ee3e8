r"""Tempering schedules: how the momentum of a Hamiltonian trajectory is cooled.

A schedule gives the momentum's scale :math:`T_k = 1 / \sqrt{\beta_k}` after each step, from :math:`T_0 \ge 1` down to
:math:`T_K = 1`. The momentum starts at :math:`\rho_0 = T_0 \gamma`, :math:`\gamma \sim N(0, I)`, and is multiplied by
:math:`\alpha_k = T_k / T_{k-1}` after step k. Since :math:`T_0 \prod_k \alpha_k = 1`, the map from
:math:`(z_0, \gamma)` to :math:`(z_K, \rho_K)` keeps volume under every schedule.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

__all__ = ["SCHEDULES", "FreeTempering", "InverseBeta", "InverseSqrtBeta", "NoTempering", "Tempering"]


class Tempering(nn.Module, ABC):
    """A ladder of momentum scales.

    Args:
        num_steps: K, the number of leapfrog steps.
        init_temperature: The initial :math:`T_0`, greater than 1.
        shape: Shape of :math:`T_0`: ``()``, or ``(D,)`` for one per dimension.
    """

    def __init__(self, num_steps: int, init_temperature: float, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.num_steps = num_steps

    @abstractmethod
    def scales(self) -> Tensor:
        """:math:`T_0, ..., T_K`, shape ``(K + 1, *shape)``."""


class NoTempering(Tempering):
    """Momentum at unit scale throughout."""

    def scales(self) -> Tensor:
        return torch.ones(self.num_steps + 1)


class _Quadratic(Tempering):
    r"""A fixed shape in k with a learned start: :math:`T_0^p = 1 + e^t` for a power p."""

    power: float

    def __init__(self, num_steps: int, init_temperature: float, shape: tuple[int, ...]) -> None:
        super().__init__(num_steps, init_temperature, shape)
        self.log_excess = nn.Parameter(torch.full(shape, math.log(init_temperature**self.power - 1)))
        steps = torch.arange(num_steps + 1) / num_steps
        self.register_buffer("remaining", (1 - steps**2).reshape(-1, *[1] * len(shape)), persistent=False)

    remaining: Tensor

    def scales(self) -> Tensor:
        return (1 + self.log_excess.exp() * self.remaining) ** (1 / self.power)


class InverseSqrtBeta(_Quadratic):
    r"""Quadratic in :math:`1/\sqrt\beta`: :math:`T_k = 1 + (T_0 - 1)(1 - k^2/K^2)`."""

    power = 1.0


class InverseBeta(_Quadratic):
    r"""Quadratic in :math:`1/\beta`: :math:`T_k^2 = 1 + (T_0^2 - 1)(1 - k^2/K^2)`."""

    power = 2.0


class FreeTempering(Tempering):
    r"""Every :math:`\alpha_k \in (0, 1)` learned, and :math:`T_0 = \prod_k \alpha_k^{-1}`."""

    def __init__(self, num_steps: int, init_temperature: float, shape: tuple[int, ...]) -> None:
        super().__init__(num_steps, init_temperature, shape)
        cooling = init_temperature ** (-1 / num_steps)
        self.logits = nn.Parameter(torch.full((num_steps, *shape), math.log(cooling / (1 - cooling))))

    def scales(self) -> Tensor:
        log_cooling = nn.functional.logsigmoid(self.logits)
        log_scales = -log_cooling.flip(0).cumsum(0).flip(0)
        return torch.cat([log_scales, torch.zeros_like(log_scales[:1])]).exp()


#: Schedules by the names that ``HamiltonianGuide(tempering=...)`` takes.
SCHEDULES: dict[str, type[Tempering]] = {
    "inverse_sqrt_beta": InverseSqrtBeta,
    "inverse_beta": InverseBeta,
    "free": FreeTempering,
    "none": NoTempering,
}
