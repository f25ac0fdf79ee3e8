"""The stopping rule on synthetic losses: how often it stops too soon, and how late it stops."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.report import Row
from ppl_models.training import Converged

__all__ = ["Outcome", "autoregressive", "convergence", "decay", "false_stops", "slope", "step_down", "watch"]

#: From the numbers of the steps to the losses without their noise, in standard deviations of that noise.
Trend = Callable[[Tensor], Tensor]


def decay(height: float, time: float) -> Trend:
    """An exponential fall to a plateau."""
    return lambda step: height * (-step / time).exp()


def slope(per_step: float) -> Trend:
    """A fall without end."""
    return lambda step: -per_step * step


def step_down(at: int) -> Trend:
    """A fall to a plateau within some hundred steps, and from step ``at`` on another, by five standard deviations."""
    return lambda step: 50 * (-step / 100).exp() - 5 * (1 - (-(step - at).clamp(min=0) / 200).exp())


def autoregressive(num: int, correlation: float, generator: torch.Generator) -> Tensor:
    """Stationary noise of unit variance, each number correlated with the one before."""
    noise = torch.randn(num, generator=generator).tolist()
    values, scale = [noise[0]], (1 - correlation**2) ** 0.5
    for each in noise[1:]:
        values.append(correlation * values[-1] + scale * each)
    return torch.tensor(values)


@dataclass(frozen=True)
class Outcome:
    """Where a rule stopped, and the first step from which on its window holds no more fall than it tolerates.

    Args:
        stopped: The number of steps done; ``None`` if it never stopped.
        flat_from: The same for the rule that sees the trend without noise; ``None`` if that is never.
    """

    stopped: int | None
    flat_from: int | None


def watch(rule: Converged, trend: Trend, correlation: float, steps: int, traces: int) -> list[Outcome]:
    """Run a rule on several noisy traces of one trend."""
    generator = torch.Generator().manual_seed(0)
    means = trend(torch.arange(steps, dtype=torch.float64)).double()
    flat_from = _flat_from(means, rule.tolerance, rule.min_steps)
    outcomes = []
    for _ in range(traces):
        monitor = rule.monitor()
        losses = (means + autoregressive(steps, correlation, generator)).tolist()
        stopped = next((step for step, loss in enumerate(losses, start=1) if monitor.update(loss)), None)
        outcomes.append(Outcome(stopped, flat_from))
    return outcomes


def _flat_from(means: Tensor, tolerance: float, first: int) -> int | None:
    total = torch.cat([means.new_zeros(1), means.cumsum(0)])
    last = None
    for step in range(len(means), first - 1, -1):
        half = step // 4
        fall = (total[step - half] - total[step - 2 * half]) / half - (total[step] - total[step - half]) / half
        if fall.abs() >= tolerance:
            break
        last = step
    return last


def false_stops(outcomes: list[Outcome]) -> float:
    """The share of runs that stopped while their window held more fall than the rule tolerates."""
    return statistics.mean(o.stopped is not None and (o.flat_from is None or o.stopped < o.flat_from) for o in outcomes)


def convergence(traces: int = 400, steps: int = 20_000) -> Iterator[Row]:
    """Losses in standard deviations of one step's noise; the rule's own defaults."""
    rule = Converged()
    for correlation in (0.0, 0.5, 0.9):
        noise = f"noise AR(1) {correlation:g}"
        for height, time in ((100, 100), (100, 500)):
            outcomes = watch(rule, decay(height, time), correlation, steps, traces)
            name = f"{noise}, fall by {height} sd over {time} steps"
            yield Row(f"{name}: stops too soon", false_stops(outcomes), most=0.1)
            stops = [outcome.stopped or steps for outcome in outcomes]
            yield Row(f"{name}: flat from step", outcomes[0].flat_from or steps)
            yield Row(f"{name}: median step of the stop", statistics.median(stops))
            never = statistics.mean(outcome.stopped is None for outcome in outcomes)
            yield Row(f"{name}: does not stop in {steps} steps", never, most=0.05 if correlation < 0.9 else None)
        # A loss that falls by s per step falls by s t / 4 between the halves at step t.
        for times in (1, 2, 4):
            per_step = times * rule.tolerance * 4 / 2500
            outcomes = watch(rule, slope(per_step), correlation, steps, traces)
            stops = statistics.mean(outcome.stopped is not None for outcome in outcomes)
            name = f"{noise}, endless fall of {per_step:.2g} sd per step ({times} tolerances at step 2500)"
            yield Row(f"{name}: stops", stops, most=0.1 if times > 1 else None)
        for at in (1000, 2000, 4000, 8000):
            outcomes = watch(rule, step_down(at), correlation, steps, traces)
            early = statistics.mean(outcome.stopped is not None and outcome.stopped <= at for outcome in outcomes)
            yield Row(f"{noise}, plateau from step 600, fall by 5 sd at step {at}: stops before that", early)
            wrong = [o for o in outcomes if o.stopped is None or o.stopped > at]
            if wrong:
                yield Row(f"{noise}, the same: of the others, stop in the fall", false_stops(wrong), most=0.1)
