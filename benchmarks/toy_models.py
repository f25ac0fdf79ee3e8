"""Densities in the plane: four models of two toy sets, by the options that the study has for them, over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pyro
import torch
from joblib import Parallel, delayed
from scipy import stats
from torch import Tensor

from benchmarks.report import Row
from benchmarks.trainings import fitted, processor_minutes
from ppl_models import FlowDensity
from ppl_models.datasets import toy_data
from ppl_models.diagnostics import importance_nll
from ppl_models.objectives import log_weights
from ppl_models.reproductions.convergence.published import published_row
from ppl_models.study import PAIRS, build_pair
from ppl_models.training.modes import evaluating

RUNS = 3
#: As many points as the published study learned from; they make whole batches, so that one graph does for all.
NUM_TRAIN = 2_048_000
#: Points that are judged, as many as starts are compared by; those judged by importance sampling, and draws for each.
NUM_TEST, NUM_WEIGHED, DRAWS = 200_000, 20_000, 200

#: Models, and the number of steps of their training.
MODELS = {"vae": 32_000, "lvae": 32_000, "spline_flow": 12_000, "flow": 48_000}

#: From how many starts a model is trained; that which explains the training data best is kept. Affine couplings end in
#: another place from every start.
STARTS = {"flow": 2}

#: Those with latents, and what they maximise: the gradient is the noisier the more latents there are, and sticking the
#: landing takes out of the noise what a good guide does not need.
WITH_LATENTS, OBJECTIVE = ("vae", "lvae"), "elbo_stl"

#: Minus the bound, and the negative log-likelihood, to stay below: by data and model, in nats.
BOUNDS = {("8gaussians", "vae"): 2.92, ("checkerboard", "vae"): 3.68}
LIKELIHOODS = {
    ("8gaussians", "vae"): 2.86,
    ("checkerboard", "vae"): 3.60,
    ("8gaussians", "spline_flow"): 2.845,
    ("checkerboard", "spline_flow"): 3.50,
    ("8gaussians", "flow"): 2.91,
    ("checkerboard", "flow"): 3.58,
}


@dataclass(frozen=True)
class Outcome:
    """What one training came to.

    Args:
        bound: Minus the bound of test data, in nats.
        likelihood: Their negative log-likelihood, in nats.
        learned: Minus the bound of training data, in nats.
        minutes: Its time on one core.
        skipped: How many of its steps were not finite.
    """

    bound: float
    likelihood: float
    learned: float
    minutes: float
    skipped: int


def densities() -> Iterator[Row]:
    """Means over the runs and 95 % intervals, by Student's law; two trainings at a time, each on one core."""
    cells = [(data, model) for data in ("8gaussians", "checkerboard") for model in MODELS]
    jobs = [(*cell, seed) for cell in cells for seed in range(RUNS * STARTS.get(cell[1], 1))]
    found = Parallel(n_jobs=2)(delayed(outcome)(*job) for job in jobs)
    kept: dict[tuple[str, str], list[Outcome]] = {}
    minutes = []
    for data, model in cells:
        each = [one for job, one in zip(jobs, found, strict=True) if job[:2] == (data, model)]
        starts = len(each) // RUNS
        runs = [each[first : first + starts] for first in range(0, len(each), starts)]
        kept[data, model] = best = [min(run, key=lambda one: one.learned) for run in runs]
        minutes += [sum(one.minutes for one in run) / min(starts, 2) for run in runs]
        name = f"{data} (entropy {entropy(data):.3f}), {model}"
        if starts > 1:
            values = [one.likelihood for one in each]
            yield over_runs(f"{name}: NLL", values)
            yield less_the_published(f"{name}: NLL less the best epochs of the published runs", values, data)
            name += f", the best of {starts} starts"
        if model in WITH_LATENTS:
            yield over_runs(f"{name}: -ELBO", [one.bound for one in best], most=BOUNDS.get((data, model)))
        yield over_runs(f"{name}: NLL", [one.likelihood for one in best], most=LIKELIHOODS.get((data, model)))
        if model == "lvae":
            change = [one.bound - other.bound for one, other in zip(best, kept[data, "vae"], strict=True)]
            yield not_above_zero(f"{name}: -ELBO less the vae's", change)
    yield Row("densities: minutes of the longest training, its starts two at a time", max(minutes), most=10)
    bad = sum(run.skipped > 0 or not math.isfinite(run.likelihood) for run in found)
    yield Row(f"densities: trainings of {len(found)} with a step or a result that is not finite", bad, most=0)


def over_runs(name: str, values: list[float], *, most: float | None = None) -> Row:
    sample = torch.tensor(values, dtype=torch.float64)
    spread = sample.std().item() / math.sqrt(len(values)) * float(stats.t.ppf(0.975, len(values) - 1))
    return Row(name, sample.mean().item(), spread, most=most)


def not_above_zero(name: str, values: list[float]) -> Row:
    """The interval reaches down to zero."""
    row = over_runs(name, values)
    return Row(name, row.value, row.error, most=row.error)


def less_the_published(name: str, values: list[float], data: str) -> Row:
    """Our runs less the published ones, as two independent samples: Welch's interval reaches down to zero."""
    row, runs = published_row(data, "flow"), len(values)
    assert row is not None, "the study has it"
    mean, spread = row.metrics["min"]
    sample = torch.tensor(values, dtype=torch.float64)
    own, theirs = sample.var().item() / runs, spread**2 / (row.used - 1)  # theirs is printed with ddof 0
    freedom = (own + theirs) ** 2 / (own**2 / (runs - 1) + theirs**2 / (row.used - 1))
    error = math.sqrt(own + theirs) * float(stats.t.ppf(0.975, freedom))
    return Row(name, sample.mean().item() - mean, error, most=error)


def entropy(data: str) -> float:
    return float(toy_data(data, num_train=1).density.entropy)


def outcome(data: str, name: str, seed: int) -> Outcome:
    """Train one model and judge it on points that it has not seen, the same for all."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(seed)
    points = toy_data(data, num_train=NUM_TRAIN, num_test=NUM_TEST)
    model, guide = build_pair(name, (2,))
    begun = processor_minutes()
    training = PAIRS[name].training["points"]
    objective = OBJECTIVE if name in WITH_LATENTS else "elbo"
    result = fitted(model, guide, points.train, training, steps=MODELS[name], objective=objective, seed=seed)
    minutes = processor_minutes() - begun

    def mean(scores: Tensor, x: Tensor) -> float:
        """The mean of a score, the chance of which points are looked at taken out by their exact density."""
        assert points.density.entropy is not None, "neither set is degenerate"
        return float((scores + points.density.log_prob(x)).double().mean()) + points.density.entropy

    torch.manual_seed(0)
    with torch.no_grad(), pyro.validation_enabled(False), evaluating(model, guide):
        learned, bound = (
            mean(-log_weights(model, guide, x).values[0], x) for x in (points.train[:NUM_TEST], points.test)
        )
        if isinstance(model, FlowDensity):
            return Outcome(bound, bound, learned, minutes, result.skipped)
        x = points.test[:NUM_WEIGHED]
        weighed = importance_nll(model, guide, x, num_samples=DRAWS, seed=0)
        return Outcome(bound, mean(-weighed.log_evidence, x), learned, minutes, result.skipped)
