"""Metrics over seeds: how often their intervals cover the truth, and what the published study's numbers leave out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from scipy.stats import bootstrap

from benchmarks.report import Row
from ppl_models.study import convergence_metrics, paired_comparison
from ppl_models.study.intervals import mean_and_interval, median_time
from tests.published_losses import PUBLISHED_LOSSES, published_losses

LAWS: dict[str, tuple[Callable[[np.random.Generator, int], np.ndarray], float]] = {
    "normal": (lambda rng, n: rng.normal(size=n), 0.0),
    "exponential": (lambda rng, n: rng.exponential(size=n), 1.0),
}
TRIALS = 1000
ERROR = 3 * math.sqrt(0.95 * 0.05 / TRIALS)


def intervals() -> Iterator[Row]:
    """95 % intervals of the mean of n runs, beside those of the plain bootstrap; of a median time; of a difference."""
    for name, (draw, truth) in LAWS.items():
        for n in (3, 5, 10, 20):
            rng = np.random.default_rng(n)
            samples = [draw(rng, n) for _ in range(TRIALS)]
            found = [mean_and_interval(each) for each in samples]
            covered = np.mean([each["low"] <= truth <= each["high"] for each in found])
            # Of skewed numbers no interval of few covers as often as it says; it must beat the plain ones.
            plain = bootstrap((np.array(samples),), np.mean, axis=1, n_resamples=1999, rng=rng, batch=50)
            low, high = plain.confidence_interval
            beaten = float(np.mean((low <= truth) & (truth <= high)))
            goal = {"least": 0.95 - ERROR, "most": 0.95 + ERROR} if name == "normal" else {"least": beaten}
            yield Row(f"{name}, {n} runs: 95 % intervals that hold the mean (BCa: {beaten:.3f})", covered, **goal)
    rng = np.random.default_rng(0)
    times = [(rng.exponential(size=10), rng.exponential(3, size=10)) for _ in range(TRIALS)]
    medians = [median_time(np.minimum(event, end), event <= end) for event, end in times]
    covered = np.mean([each["low"] <= math.log(2) <= each["high"] for each in medians])
    yield Row("10 runs, some censored: 95 % intervals that hold the median time", covered, least=0.95 - ERROR)
    pairs = [paired_comparison(*rng.normal(size=(2, 8))) for _ in range(TRIALS)]
    covered = np.mean([each["low"] <= 0 <= each["high"] for each in pairs])
    claimed = pairs[0]["confidence"]
    yield Row("8 pairs: intervals that hold the difference", covered, least=claimed - ERROR, most=claimed + ERROR)
    rejected = np.mean([each["p"] < 0.05 for each in pairs])
    yield Row("8 pairs of one law: p-values below 0.05", rejected, most=0.05 + ERROR)


def published() -> Iterator[Row]:
    """What the published numbers leave out, from the losses that were published with them."""
    if not PUBLISHED_LOSSES.is_dir():
        yield Row("published losses: not beside this checkout", 0.0, least=1.0)
        return
    for name in ("lvae_8gaussians", "flow_8gaussians", "flow_mnist"):
        shown, right = _both(name)
        yield Row(f"{name}: runs of 10 that diverged, of which the published table says nothing", right["n_diverged"])
        yield Row(f"{name}: mean of last as published", shown["last"])
        yield Row(f"{name}: the same over the {right['n_used']} runs that did not diverge", right["last"])
    shown, right = _both("flow_mnist")
    yield Row("flow_mnist: mean of max as published", shown["max"])
    yield Row("flow_mnist: the same over the 3 runs, with epochs without a finite loss", right["max"])
    for name in ("vae_mnist", "draw_mnist", "lvae_8gaussians"):
        yield Row(f"{name}: mean of min as published", _both(name)[0]["min"])
        losses = -np.array(published_losses(name))
        yield Row(f"{name}: epochs above the first five, as published", _both(name)[0]["exceeds"])
        after = convergence_metrics(losses, skip=99)["exceeds"]["mean"]
        yield Row(f"{name}: the same from epoch 100, when the KL weight has reached 1", after)
        settled = losses[np.isfinite(losses[:, -1]), -100:]
        yield Row(f"{name}: mean of the curve's end less the least of the last 100 epochs (nats)", _bias(settled))
    falling = [[3.0, 1.0, -1.0, -3.0], [3.0, 2.0, -2.0, -4.0]]
    yield Row("losses 3, 1, -1, -3 and 3, 2, -2, -4: max of the last three as published", _tail(falling, "published"))
    yield Row("the same with their signs", _tail(falling, "signed"))


def _both(name: str) -> tuple[dict[str, float], ...]:
    losses = np.array(published_losses(name))
    shown = convergence_metrics(losses, mode="published")
    right = convergence_metrics(losses if name.startswith("flow") else -losses)
    counts = {each: right["last"][each] for each in ("n_used", "n_diverged")}
    return tuple({each: value["mean"] for each, value in found.items()} | counts for found in (shown, right))


def _bias(losses: np.ndarray) -> float:
    """The end of a parabola through each run's losses, less the least of them."""
    epochs = np.arange(losses.shape[1])
    return float(np.mean([np.polyval(np.polyfit(epochs, run, 2), epochs[-1]) - run.min() for run in losses]))


def _tail(losses: list[list[float]], mode: str) -> float:
    return convergence_metrics([run[1:] for run in losses], mode=mode)["max"]["mean"]
