"""The stopping rule on synthetic losses: how often it stops too soon, and how late it stops."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.report import Row
from ppl_models.training import Converged

__all__ = [
    "autoregressive",
    "convergence",
    "decay",
    "false_stops",
    "flat_from",
    "logarithm",
    "slope",
    "step_down",
    "watch",
]

#: From the numbers of the steps to the losses without their noise, in standard deviations of that noise.
Trend = Callable[[Tensor], Tensor]


def decay(height: float, time: float) -> Trend:
    """An exponential fall to a plateau."""
    return lambda step: height * (-step / time).exp()


def slope(per_step: float) -> Trend:
    """A fall without end."""
    return lambda step: -per_step * step


def logarithm(fall: float) -> Trend:
    """A fall that slows down without end: in a window of any length, by the same from half to half."""
    of_log = 6 * math.log(4 / 3) - 2 * math.log(2)  # by how much the means of log t differ over the two halves
    return lambda step: -fall / of_log * (step + 1).log()


def step_down(at: int) -> Trend:
    """A fall to a plateau within some hundred steps, and from step ``at`` on another, by five standard deviations."""
    return lambda step: 50 * (-step / 100).exp() - 5 * (1 - (-(step - at).clamp(min=0) / 200).exp())


def autoregressive(num: int, correlation: float, generator: torch.Generator) -> Tensor:
    """Stationary noise of unit variance, each number correlated with the one before."""
    from scipy.signal import lfilter

    noise = torch.randn(num, generator=generator, dtype=torch.float64)
    noise[1:] *= (1 - correlation**2) ** 0.5
    return torch.from_numpy(lfilter([1.0], [1.0, -correlation], noise.numpy()))


@dataclass(frozen=True)
class Outcome:
    """Where a rule stopped, and what the loss without its noise still fell by there.

    Args:
        stopped: The number of steps done; ``None`` if it never stopped.
        fall: Of the trend, from one half of the rule's window to the other.
    """

    stopped: int | None
    fall: float


def watch(rule: Converged, trend: Trend, correlation: float, steps: int, traces: int) -> list[Outcome]:
    """Run a rule on several noisy traces of one trend."""
    generator = torch.Generator().manual_seed(0)
    means = trend(torch.arange(steps, dtype=torch.float64))
    outcomes = []
    for _ in range(traces):
        monitor = rule.monitor()
        losses = (means + autoregressive(steps, correlation, generator)).tolist()
        stopped = next((step for step, loss in enumerate(losses, start=1) if monitor.update(loss)), None)
        outcomes.append(Outcome(stopped, 0.0 if stopped is None else fall_at(means, stopped)))
    return outcomes


def fall_at(means: Tensor, step: int) -> float:
    """What a trend falls by between the halves of the window after some steps."""
    half = step // 4
    return abs(means[step - 2 * half : step - half].mean() - means[step - half : step].mean()).item()


def flat_from(rule: Converged, trend: Trend, steps: int) -> int:
    """From which step on a falling trend falls by no more than a rule tolerates, to one part in a hundred."""
    means, step = trend(torch.arange(steps, dtype=torch.float64)), rule.min_steps
    while step < steps and fall_at(means, step) >= rule.tolerance:
        step += step // 100
    return step


def false_stops(rule: Converged, outcomes: list[Outcome]) -> float:
    """The share of runs that stopped while the loss fell by more than the rule tolerates."""
    return statistics.mean(outcome.fall > rule.tolerance for outcome in outcomes)


def convergence(traces: int = 100, steps: int = 20_000) -> Iterator[Row]:
    """Losses in standard deviations of one step's noise; the rule's own defaults."""
    rule = Converged()
    for correlation in (0.0, 0.5, 0.9):
        noise = f"noise AR(1) {correlation:g}"
        for height, time in ((100, 100), (100, 500)):
            outcomes = watch(rule, decay(height, time), correlation, steps, traces)
            name = f"{noise}, fall by {height} sd over {time} steps"
            yield Row(f"{name}: stops too soon", false_stops(rule, outcomes), most=0.1)
            stops = [outcome.stopped or steps for outcome in outcomes]
            yield Row(f"{name}: flat from step", flat_from(rule, decay(height, time), steps))
            yield Row(f"{name}: median step of the stop", statistics.median(stops))
            never = statistics.mean(outcome.stopped is None for outcome in outcomes)
            yield Row(f"{name}: does not stop in {steps} steps", never, most=0.1)
        # A loss that falls by s per step falls by s t / 4 between the halves at step t.
        for times in (1, 2, 4):
            per_step = times * rule.tolerance * 4 / 1000
            outcomes = watch(rule, slope(per_step), correlation, steps, traces)
            name = f"{noise}, endless fall of {per_step:.2g} sd per step ({times} tolerances at step 1000)"
            yield Row(f"{name}: stops too soon", false_stops(rule, outcomes), most=0.1)
        for times, most in ((1.25, None), (2, 0.1)):
            outcomes = watch(rule, logarithm(times * rule.tolerance), correlation, steps, traces)
            name = f"{noise}, endless fall by {times} tolerances in every window"
            yield Row(f"{name}: stops too soon", false_stops(rule, outcomes), most=most)
        for at in (1000, 2000, 4000, 8000):
            outcomes = watch(rule, step_down(at), correlation, steps, traces)
            early = statistics.mean(outcome.stopped is not None and outcome.stopped <= at for outcome in outcomes)
            name = f"{noise}, plateau from step 600, fall by 5 sd at step {at}"
            yield Row(f"{name}: stops before that", early)
            yield Row(f"{name}: stops in the fall", false_stops(rule, outcomes), most=0.1)
