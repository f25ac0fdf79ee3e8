"""Annealed importance sampling: from noise to a posterior and back, by Hamiltonian moves of adapted size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from guides.errors import DataError, ModelError
from guides.leapfrog import leapfrog

__all__ = ["Annealed", "Move", "Moves", "Points", "Schedule", "Space", "adapt", "anneal", "reverse", "sigmoid_schedule"]

#: The acceptance rate that step sizes are adapted to: between 0.6 and 0.9 the cost is flat (Betancourt, Byrne,
#: Girolami, Optimizing the integrator step size for Hamiltonian Monte Carlo, 2014, https://arxiv.org/abs/1411.6669).
TARGET_ACCEPTANCE = 0.8

#: How far the log step size follows the acceptance rate in one move, and how many moves there are at each temperature.
GAIN, ADAPTING_MOVES, FIRST_MOVES = 1.0, 1, 10

#: The steepness of the schedule: Roger Grosse, Zoubin Ghahramani, Ryan Adams, Sandwiching the marginal likelihood using
#: bidirectional Monte Carlo, 2015, https://arxiv.org/abs/1511.02543, section 5.1.
STEEPNESS = 4.0

#: Adaptive temperatures keep this share of the draws effective from one to the next, and are so many at most.
KEPT, MOST_TEMPERATURES = 0.9, 1000


class Space(Protocol):
    r"""A log-weight over standard normal noise: of :math:`N(e; 0, I) w(e)^\beta`, what a path is made of."""

    plates_shape: torch.Size
    device: torch.device

    @property
    def dim(self) -> int:
        """M."""

    def draw(self, num: int) -> Tensor:
        """Draw noise, ``(num, *plates, M)``."""

    def log_weight(self, noise: Tensor) -> Tensor:
        """Compute the log-weights ``(S, *plates)``."""


@dataclass(frozen=True)
class Points:
    """Noise ``(S, *plates, M)``, its log-weights ``(S, *plates)`` and their gradients."""

    noise: Tensor
    log_weight: Tensor
    slope: Tensor

    @classmethod
    def at(cls, space: Space, noise: Tensor) -> Points:
        """Evaluate a space at noise."""
        with torch.inference_mode(False), torch.enable_grad():
            noise = noise.detach().requires_grad_()
            value = space.log_weight(noise)
            (slope,) = torch.autograd.grad(value.sum(), noise)
        # Where the model has no value it has no weight.
        value = value.detach().double().nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        return cls(noise.detach(), value, slope.double())

    def log_density(self, beta: Tensor) -> Tensor:
        """That on the path, ``(S, *plates)``, up to a constant."""
        return -0.5 * self.noise.square().sum(-1) + beta * self.log_weight

    def where(self, chosen: Tensor, others: Points) -> Points:
        """These where ``chosen``, and the others elsewhere."""
        return Points(
            torch.where(chosen[..., None], self.noise, others.noise),
            torch.where(chosen, self.log_weight, others.log_weight),
            torch.where(chosen[..., None], self.slope, others.slope),
        )

    def take(self, rows: Tensor) -> Points:
        """Rows ``(S, *plates)`` of each datum's own."""
        wide = rows[..., None].expand_as(self.noise)
        return Points(self.noise.gather(0, wide), self.log_weight.gather(0, rows), self.slope.gather(0, wide))


@dataclass(frozen=True)
class Schedule:
    r"""A path and the moves along it.

    Args:
        betas: :math:`0 = \beta_0 < \dots < \beta_T = 1`, ``(T + 1, *plates)``: each datum may have its own.
        step_sizes: Of the moves at :math:`\beta_1, \dots, \beta_T`, in each direction: ``(T, *plates, M)``.
    """

    betas: Tensor
    step_sizes: Tensor


@dataclass(frozen=True)
class Annealed:
    """What annealing gives, of G independent batches of K chains.

    Args:
        start: The log-weights where the chains start, ``(G, K, *plates)``.
        log_evidence: An unbiased estimate of the evidence from each batch, its log: ``(G, *plates)``.
        acceptance: The mean acceptance rate of the moves, ``(*plates,)``.
    """

    start: Tensor
    log_evidence: Tensor
    acceptance: Tensor


@dataclass(frozen=True)
class Move:
    """One move of S chains.

    Args:
        points: Where they are after it.
        acceptance: Its probability of being accepted, ``(S, *plates)``.
        accepted: Whether it was.
        energy: At the start and after each leapfrog step, ``(num_leapfrog + 1, S, *plates)``.
    """

    points: Points
    acceptance: Tensor
    accepted: Tensor
    energy: Tensor


@dataclass(frozen=True)
class Moves:
    """Hamiltonian Monte Carlo on a path: one trajectory each, with step sizes jittered by a quarter.

    Args:
        space: Where.
        num_leapfrog: Steps of a trajectory.
    """

    space: Space
    num_leapfrog: int

    @property
    def largest_step(self) -> float:
        """In standard deviations: a trajectory of a quarter of a normal law's period; a longer one would come back."""
        return math.pi / (2 * self.num_leapfrog)

    def __call__(self, points: Points, beta: Tensor, step_size: Tensor) -> tuple[Points, Tensor]:
        """Move once, by steps ``(*plates, M)``; also gives each move's probability of acceptance, ``(S, *plates)``."""
        move = self.follow(points, beta, step_size)
        return move.points, move.acceptance

    def follow(self, points: Points, beta: Tensor, step_size: Tensor) -> Move:
        """Move once, and tell of the way there."""
        momentum = torch.randn_like(points.noise)
        jitter = 0.75 + 0.5 * torch.rand_like(points.log_weight)
        size, weight = step_size * jitter[..., None], beta[..., None]
        before = points.log_density(beta) - 0.5 * momentum.square().sum(-1)
        energies = [-before]
        new = points

        def force_at(noise: Tensor) -> Tensor:
            nonlocal new
            new = Points.at(self.space, noise)
            return weight * new.slope - noise

        position, force = points.noise, weight * points.slope - points.noise
        for _ in range(self.num_leapfrog):
            position, momentum, force = leapfrog(position, momentum, force, size, force_at)
            after = new.log_density(beta) - 0.5 * momentum.square().sum(-1)
            energies.append(-after)
        accepted = (after - before).nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf).exp().clamp(max=1)
        taken = torch.rand_like(accepted) < accepted
        return Move(new.where(taken, points), accepted, taken, torch.stack(energies))


def sigmoid_schedule(num: int, space: Space) -> Tensor:
    r"""Temperatures that lie close at both ends of the path, ``(num + 1, *plates)``.

    .. math:: \beta_t \propto \mathrm{sigmoid}\big(\delta (2 t / T - 1)\big) - \mathrm{sigmoid}(-\delta)
    """
    values = torch.sigmoid(STEEPNESS * torch.linspace(-1, 1, num + 1, dtype=torch.float64, device=space.device))
    betas = (values - values[0]) / (values[-1] - values[0])
    betas[-1] = 1.0
    return betas.reshape(-1, *[1] * len(space.plates_shape)).expand(-1, *space.plates_shape)


def adapt(moves: Moves, betas: Tensor | None, num_chains: int) -> Schedule:
    """Find step sizes, and temperatures if there are none, by chains that are used for nothing else.

    Estimates made along the schedule are then as unbiased as if it had been fixed beforehand. Steps are as long in each
    direction as the chains are spread in it, times a number that follows the acceptance rate.

    Args:
        moves: On the path.
        betas: The temperatures; chosen so that the draws stay effective from one to the next, if not given.
        num_chains: How many chains.

    Raises:
        ModelError: If there would be too many temperatures.
    """
    points = _start(moves.space, num_chains)
    shape = moves.space.plates_shape
    log_size = points.noise.new_full(shape, math.log(moves.largest_step))
    spread = torch.ones_like(points.noise[0])
    found: list[Tensor] = [torch.zeros_like(log_size)]
    sizes: list[Tensor] = []
    while bool((found[-1] < 1).any()):
        beta = _next_beta(points.log_weight, found[-1]) if betas is None else betas[len(found)]
        if betas is None and len(found) > MOST_TEMPERATURES:
            raise ModelError(
                f"the path from the guide to the posterior needs more than {MOST_TEMPERATURES} temperatures: the guide "
                "is too far away. Train it, or give method='ais' with num_temperatures=."
            )
        points = points.take(_systematic(((beta - found[-1]) * points.log_weight)[None])[0])
        for _ in range(ADAPTING_MOVES if sizes else FIRST_MOVES):
            points, accepted = moves(points, beta, log_size.exp()[..., None] * spread)
            log_size = log_size + GAIN * (accepted.mean(0) - TARGET_ACCEPTANCE)
            log_size = log_size.clamp(max=math.log(moves.largest_step))
            # Half the way, and no more at once: few chains, some of them copies, may stand closer than they should.
            spread = (spread * points.noise.std(0).clamp(0.25 * spread, 4 * spread)).sqrt()
        found.append(beta)
        sizes.append(log_size.exp()[..., None] * spread)
    return Schedule(torch.stack(found), torch.stack(sizes))


def anneal(moves: Moves, schedule: Schedule, num_batches: int, num_chains: int, *, resample: bool) -> Annealed:
    r"""Run chains from noise to the posterior, and weigh them.

    .. math::
        \log W = \sum_{t=1}^{T} (\beta_t - \beta_{t-1}) \log w(e_{t-1}), \qquad e_t \sim K_{\beta_t}(\cdot \mid e_{t-1})

    The mean of W over the K chains of a batch is an unbiased estimate of the evidence. With ``resample``, the chains of
    a batch are drawn anew, in proportion to their weights, when fewer than half of them are effective (sequential
    Monte Carlo); that keeps it unbiased.
    """
    points = _start(moves.space, num_batches * num_chains)
    start = points.log_weight.unflatten(0, (num_batches, num_chains))
    log_evidence = torch.zeros_like(start[:, 0])
    log_weight = torch.full_like(start, -math.log(num_chains))
    acceptance = torch.zeros_like(start[0, 0])
    num = len(schedule.step_sizes)
    for t in range(1, num + 1):
        step = schedule.betas[t] - schedule.betas[t - 1]
        moved = step > 0  # a datum that has arrived earlier than others stays
        gain = torch.where(moved, step * points.log_weight, 0.0).unflatten(0, (num_batches, num_chains))
        total = (log_weight + gain).logsumexp(1)
        log_evidence, log_weight = log_evidence + total, (log_weight + gain - total[:, None]).nan_to_num(nan=-math.inf)
        if t == num:
            break
        if resample:
            points, log_weight = _resampled(points, log_weight)
        points, accepted = moves(points, schedule.betas[t], schedule.step_sizes[t - 1])
        acceptance = acceptance + accepted.mean(0) / (num - 1)
    return Annealed(start, log_evidence, acceptance)


def reverse(
    moves: Moves, schedule: Schedule, noise: Tensor, num_batches: int, num_chains: int, *, num_moves: int
) -> Tensor:
    r"""Run chains from draws of the posterior back to noise, and weigh them.

    With W as in :func:`anneal`, along the reversed path: :math:`E[1 / W] = 1 / p(x)` for exact draws, so that
    :math:`-\log` of the mean of 1 / W over a batch is, in expectation, an upper bound.

    Args:
        moves: On the path.
        schedule: Its temperatures and step sizes.
        noise: Draws of the posterior, ``(R, *plates, M)``; chains start from each in turn.
        num_batches: G.
        num_chains: K, per batch.
        num_moves: Moves on the posterior itself before a chain leaves it, so that chains from one draw come apart.

    Returns:
        Log upper bounds from each batch, ``(G, *plates)``.
    """
    total = num_batches * num_chains
    points = Points.at(moves.space, noise[torch.arange(total) % len(noise)])
    if not points.log_weight.isfinite().all():
        raise DataError("posterior must hold draws that the model holds possible; got some of density zero.")
    for _ in range(num_moves):
        points, _ = moves(points, schedule.betas[-1], schedule.step_sizes[-1])
    log_weight = torch.zeros_like(points.log_weight)
    for t in range(len(schedule.step_sizes), 0, -1):
        log_weight = log_weight + (schedule.betas[t] - schedule.betas[t - 1]) * points.log_weight
        if t > 1:
            points, _ = moves(points, schedule.betas[t - 1], schedule.step_sizes[t - 2])
    inverse = -log_weight.unflatten(0, (num_batches, num_chains))
    return math.log(num_chains) - inverse.logsumexp(1)


def _start(space: Space, num: int) -> Points:
    points = Points.at(space, space.draw(num))
    if (points.log_weight == math.inf).any() or (points.log_weight == -math.inf).all(0).any():
        raise DataError(
            "log-weights of the guide's draws must be finite; got infinite ones or NaN. Train it, or its model."
        )
    return points


def _next_beta(log_weight: Tensor, beta: Tensor) -> Tensor:
    """By bisection, the largest next temperature that keeps the draws effective, for each datum."""
    low, high = beta, torch.ones_like(beta)
    for _ in range(40):
        middle = 0.5 * (low + high)
        good = _share(log_weight, middle - beta) >= KEPT
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return torch.where(_share(log_weight, 1 - beta) >= KEPT, torch.ones_like(beta), low)


def _share(log_weight: Tensor, step: Tensor) -> Tensor:
    """The effective share of draws whose weights are raised to a power."""
    powered = torch.where(step > 0, step * log_weight, 0.0)
    return (2 * powered.logsumexp(0) - (2 * powered).logsumexp(0)).exp() / len(powered)


def _systematic(log_weight: Tensor) -> Tensor:
    """Choose among K in proportion to weights ``(G, K, *plates)``: indices of the same shape."""
    weights = log_weight.movedim(1, -1).softmax(-1)
    edges = weights.cumsum(-1)
    num = weights.shape[-1]
    places = (torch.arange(num).to(weights) + torch.rand_like(weights[..., :1])) / num
    return torch.searchsorted(edges, places).clamp(max=num - 1).movedim(-1, 1)


def _resampled(points: Points, log_weight: Tensor) -> tuple[Points, Tensor]:
    """Draw the chains of each batch anew where fewer than half are effective."""
    batches, num = log_weight.shape[:2]
    poor = (2 * log_weight).logsumexp(1) > math.log(2 / num)
    stay = torch.arange(num, device=poor.device).reshape(1, num, *[1] * (log_weight.dim() - 2)).expand_as(log_weight)
    chosen = torch.where(poor[:, None], _systematic(log_weight), stay)
    first = (num * torch.arange(batches, device=poor.device)).reshape(batches, *[1] * (log_weight.dim() - 1))
    even = torch.full_like(log_weight, -math.log(num))
    return points.take((first + chosen).flatten(0, 1)), torch.where(poor[:, None], even, log_weight)
