"""Where the study's minibatch objective of a Hamiltonian guide with one step has its optimum, without noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BATCH_SIZE", "MinibatchOptimum", "hamiltonian_gap", "minibatch_optimum"]

#: The study's minibatches, cut in the order of the data: of 10,000 the last one has 16.
BATCH_SIZE = 256

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class MinibatchOptimum:
    r"""The optimum, and its bound.

    Args:
        offset: :math:`\hat\Delta`, ``(d,)``.
        scale: :math:`\hat\sigma`, ``(d,)``.
        temperature: :math:`T_0`.
        elbo: The sum of the minibatches' bounds, each taken for a data set of its own.
    """

    offset: Tensor
    scale: Tensor
    temperature: float
    elbo: float


def hamiltonian_gap(precision: Tensor, mean: Tensor, step_size: Tensor, temperature: Tensor) -> Tensor:
    r"""Compute log evidence less ELBO, by coordinate, of one leapfrog step from N(0, I) to a normal posterior.

    With the posterior :math:`N(\mu, 1 / a)`, the step :math:`\epsilon` and :math:`c = 1 - \epsilon^2 a / 2`, position
    and momentum at the end are linear in the noise, and

    .. math::
        \frac a2 \big(c^2 (1 + \mu^2) + \epsilon^2 T_0^2\big)
        + \frac 12 \Big(c^2 + \frac{\epsilon^2 a^2 (1 + c)^2}{4 \, T_0^2} (1 + \mu^2)\Big) - 1 - \frac 12 \log a

    Args:
        precision: a, ``(*, d)``.
        mean: :math:`\mu`, likewise.
        step_size: :math:`\epsilon`, ``(d,)``.
        temperature: :math:`T_0`, a scalar; 1 without tempering.

    Example:
        >>> from ppl_models.reproductions.gaussian.closed_forms import volume_gap
        >>> a, scale = torch.tensor(10_001.0), torch.ones(1)
        >>> gap = hamiltonian_gap(a, torch.zeros(()), (2 / a).sqrt(), (a.sqrt() / 2).sqrt())
        >>> round(gap.item(), 3), round(volume_gap(scale, 10_000), 3)  # the limit is attained
        (94.4, 94.4)
    """
    squared, turn = step_size.square(), 1 - 0.5 * precision * step_size.square()
    start = 1 + mean.square()
    position = turn.square() * start + squared * temperature.square()
    momentum = turn.square() + 0.25 * squared * (precision * (1 + turn) / temperature).square() * start
    return 0.5 * (precision * position + momentum) - 1 - 0.5 * precision.log()


def minibatch_optimum(x: Tensor, *, tempering: bool = True, batch_size: int | None = BATCH_SIZE) -> MinibatchOptimum:
    r"""Maximise the study's objective over the model, the step sizes and one temperature, by its closed form.

    The study summed the ELBOs of minibatches, each with the prior, and the divergence, of a whole data set.

    Args:
        x: Data ``(N, d)`` in float64, in the order of the minibatches.
        tempering: Whether :math:`T_0` is learned.
        batch_size: B; all data at once if ``None``.
    """
    rows = [x] if batch_size is None else list(x.split(batch_size))
    count = torch.tensor([[len(each)] for each in rows], dtype=x.dtype)
    mean = torch.stack([each.mean(0) for each in rows])
    scatter = torch.stack([(each - each.mean(0)).square().sum(0) for each in rows])
    offset = x.mean(0).clone().requires_grad_()
    variance = x.var(0) + 0.05
    log_scale = (0.5 * variance.log()).requires_grad_()
    log_step = (0.5 * (2 / (1 + count.max() / variance)).log()).requires_grad_()
    log_temperature = torch.full((), 1.6 if tempering else 0.0, dtype=x.dtype, requires_grad=tempering)
    parameters = [offset, log_scale, log_step, *[log_temperature] * tempering]

    def loss() -> Tensor:
        variance = (2 * log_scale).exp()
        ratio = count / variance
        posterior_mean = ratio * (mean - offset) / (1 + ratio)
        evidence = -0.5 * (
            count * (2 * log_scale + LOG_2PI)
            + scatter / variance
            + ratio.log1p()
            + count * (mean - offset).square() / (variance + count)
        )
        gap = hamiltonian_gap(1 + ratio, posterior_mean, log_step.exp(), log_temperature.exp())
        return (gap - evidence).sum() / len(x)

    optimizer = torch.optim.LBFGS(
        parameters, max_iter=3000, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    with torch.no_grad():
        return MinibatchOptimum(offset.detach(), log_scale.exp(), log_temperature.exp().item(), -loss().item() * len(x))
