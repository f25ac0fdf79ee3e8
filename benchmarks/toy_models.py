"""Densities in the plane: four models of two toy sets, by the options that the study has for them, over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

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
from ppl_models.seeds import derived_seed
from ppl_models.study import PAIRS, build_pair
from ppl_models.training.modes import evaluating

DATA, RUNS = ("8gaussians", "checkerboard"), 3
#: As many points as the published study learned from; they make whole batches, so that one graph does for all.
NUM_TRAIN = 2_048_000
#: Points that are judged, as many as starts are compared by; those judged by importance sampling, and draws for each.
NUM_TEST, NUM_WEIGHED, DRAWS = 200_000, 20_000, 200


@dataclass(frozen=True)
class Stage:
    """A part of a training.

    Args:
        steps: Its number of steps.
        starts: How many take part, those that explained the training data best at the end of the stage before.
        lr: Learning rate; ``None``: that of a study.
    """

    steps: int
    starts: int = 1
    lr: float | None = None


#: How each model is trained. Affine couplings end in another place from every start, and it shows early in which.
STAGES = {
    "vae": (Stage(32_000),),
    "lvae": (Stage(32_000),),
    "spline_flow": (Stage(12_000),),
    "flow": (Stage(800, starts=20, lr=3e-3), Stage(3_000, starts=4, lr=2e-3), Stage(12_000, starts=2, lr=2e-3)),
}

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
        state: The model's parameters and buffers.
    """

    bound: float
    likelihood: float
    learned: float
    minutes: float
    skipped: int
    state: dict[str, Tensor]


#: Data, model and seed.
Job = tuple[str, str, int]


def densities() -> Iterator[Row]:
    """Means over the runs and 95 % intervals, by Student's law; two trainings at a time, each on one core."""
    cells = [(data, model) for data in DATA for model in STAGES]
    runs = {(*cell, run): starts(*cell, run) for cell in cells for run in range(RUNS)}
    minutes, every = dict.fromkeys(runs, 0.0), []
    last: dict[Job, Outcome] = {}
    for number in range(max(map(len, STAGES.values()))):
        going = {
            (data, model, run): ranked(jobs, last)[: STAGES[model][number].starts] if number else jobs
            for (data, model, run), jobs in runs.items()
            if number < len(STAGES[model])
        }
        found = trained(number, {job: last[job].state if number else None for jobs in going.values() for job in jobs})
        runs |= going
        last |= found
        every += found.values()
        for run, jobs in going.items():
            minutes[run] += sum(found[job].minutes for job in jobs) / min(len(jobs), 2)
    best = {run: last[ranked(jobs, last)[0]] for run, jobs in runs.items()}
    for data, model in cells:
        each = [best[data, model, run] for run in range(RUNS)]
        values = [one.likelihood for one in each]
        name = f"{data} (entropy {entropy(data):.3f}), {model}"
        if model in WITH_LATENTS:
            yield over_runs(f"{name}: -ELBO", [one.bound for one in each], most=BOUNDS.get((data, model)))
        yield over_runs(f"{name}: NLL", values, most=LIKELIHOODS.get((data, model)))
        if model == "flow":
            yield less_the_published(f"{name}: NLL less the best epochs of the published runs", values, data)
        if model == "lvae":
            change = [one.bound - best[data, "vae", run].bound for run, one in enumerate(each)]
            yield not_above_zero(f"{name}: -ELBO less the vae's", change)
    longest = max(minutes.values())
    yield Row("densities: minutes of the longest training, its starts two at a time", longest, most=10)
    bad = sum(one.skipped > 0 or not math.isfinite(one.likelihood) for one in every)
    yield Row(f"densities: trainings of {len(every)} with a step or a result that is not finite", bad, most=0)


def starts(data: str, model: str, run: int) -> list[Job]:
    """What a run begins with; each start of each run has a seed of its own."""
    num = STAGES[model][0].starts
    return [(data, model, seed) for seed in range(run * num, (run + 1) * num)]


def ranked(jobs: list[Job], outcomes: dict[Job, Outcome]) -> list[Job]:
    """Those that explain the training data best come first."""
    return sorted(jobs, key=lambda job: outcomes[job].learned)


def trained(number: int, states: dict[Job, dict[str, Tensor] | None]) -> dict[Job, Outcome]:
    """Make a stage of some trainings, each from its state on."""
    found = Parallel(n_jobs=2)(delayed(outcome)(*job, number, state) for job, state in states.items())
    return dict(zip(states, found, strict=True))


def soap(parameters: list[Tensor], *, lr: float) -> torch.optim.Optimizer:
    """Adam in the basis of each layer's own curvature; Nikhil Vyas et al., 2024, https://arxiv.org/abs/2409.11321."""
    from pytorch_optimizer import SOAP

    return SOAP(parameters, lr=lr, betas=(0.95, 0.99), weight_decay=0.0)


#: Affine couplings are functions of one number, with steep places that Adam is slow to make.
OPTIONS = {"flow": {"optim": soap}}


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


def outcome(data: str, name: str, seed: int, number: int, state: dict[str, Tensor] | None) -> Outcome:
    """Train one model for a stage, from a state or from the beginning, and judge it on points that it has not seen."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(seed)
    points = toy_data(data, num_train=NUM_TRAIN, num_test=NUM_TEST)
    model, guide = build_pair(name, (2,))
    if state is not None:
        model.load_state_dict(state)
    stage, training = STAGES[name][number], PAIRS[name].training["points"]
    training = replace(training, lr=training.lr if stage.lr is None else stage.lr)
    options = {"objective": OBJECTIVE if name in WITH_LATENTS else "elbo", **OPTIONS.get(name, {})}
    seed = derived_seed(seed, "stage", number) if number else seed
    begun = processor_minutes()
    result = fitted(model, guide, points.train, training, steps=stage.steps, seed=seed, **options)
    minutes, state = processor_minutes() - begun, dict(model.state_dict())

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
            return Outcome(bound, bound, learned, minutes, result.skipped, state)
        x = points.test[:NUM_WEIGHED]
        weighed = importance_nll(model, guide, x, num_samples=DRAWS, seed=0)
        return Outcome(bound, mean(-weighed.log_evidence, x), learned, minutes, result.skipped, state)
