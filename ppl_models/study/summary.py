"""What a study says, in words made from its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from guides.errors import choose
from ppl_models.datasets import DATASETS
from ppl_models.study.comparisons import compare_models
from ppl_models.study.intervals import mean_and_interval
from ppl_models.study.run_metrics import METRICS
from ppl_models.study.run_values import TEST_METRICS, check_results, runs_of
from ppl_models.study.table_formats import COUNTS, number
from ppl_models.study.tables import metrics_table

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["LEVELS", "SIGNIFICANT", "Statement", "judged_by", "on_a_curve", "study_summary"]

#: As of a verdict: nothing to object, to be read with care, and wrong.
LEVELS = ("pass", "doubtful", "fail")

#: p-values below, corrected for their number, show a difference.
SIGNIFICANT = 0.05

#: How many standard errors of the test set a loss must be below the entropy, to be impossible.
_IMPOSSIBLE = 5


@dataclass(frozen=True)
class Statement:
    """One sentence about a study.

    Args:
        dataset: What it is about; empty for the whole.
        level: ``"pass"``, ``"doubtful"`` or ``"fail"``.
        text: In words.
    """

    dataset: str
    level: str
    text: str


def study_summary(
    results: xr.Dataset,
    *,
    metric: str | None = None,
    floors: Mapping[str, float] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Statement]:
    """Say which model is best on each dataset, whether that is sure, how far it is off the floor, and what went wrong.

    Args:
        results: Of a study.
        metric: What models are judged by; ``"test_loss"`` if not given, or ``"last"`` where no run was tested.
        floors: As for :func:`metrics_table`, and so are the next two.
        confidence: Of the intervals.
        seed: Fixes what is drawn at random.

    Raises:
        DataError: If these are no results of a study.
        OptionError: If an option is wrong.
    """
    results = check_results(results)
    metric = judged_by(results, metric)
    options: dict[str, Any] = {"confidence": confidence, "seed": seed}
    table = metrics_table(results, metrics=[metric], floors=floors, **options).set_index(["dataset", "model"])
    models = results["model"].values.tolist()
    pairs = compare_models(results, metric=metric, confidence=confidence) if len(models) > 1 else None
    found = [_counts(results), *_skipping(results)]
    for dataset in results["dataset"].values.tolist():
        rows = table.loc[dataset]
        # A mean over the few that survived is no ground to call a model the best.
        sound = rows[rows["n_used"] > rows["n_diverged"]]
        if sound.empty:
            found.append(Statement(dataset, "fail", "No model has a result in more runs than diverged."))
        else:
            best = str(sound["mean"].idxmin())
            found.append(_best(results, dataset, best, sound.loc[best], metric, confidence))
            if pairs is not None:
                found.append(_told_apart(pairs, dataset, best))
        if on_a_curve(dataset):
            text = "The points lie on a curve, where nothing limits a likelihood: these losses rank no models."
            found.append(Statement(dataset, "doubtful", text))
        found += [*_lost(dataset, rows), *_impossible(results, dataset), *_unsettled(results, dataset)]
    return found


def judged_by(results: xr.Dataset, metric: str | None) -> str:
    """What models are judged by, if it is not said: the test loss, or the last loss where no run was tested."""
    if metric is not None:
        return choose("metric", metric, (*TEST_METRICS, *METRICS))
    return TEST_METRICS[0] if np.isfinite(results[TEST_METRICS[0]].values).any() else "last"


def on_a_curve(dataset: str) -> bool:
    """Whether the dataset of that name has no density."""
    return dataset in DATASETS and DATASETS[dataset].entropy == -math.inf


def _counts(results: xr.Dataset) -> Statement:
    words, counts = np.unique(results["status"].values, return_counts=True)
    number_of = dict(zip(words.tolist(), counts.tolist(), strict=True))
    total = int(counts.sum())
    bad = [f"{number_of[each]} {each}" for each in ("diverged", "crashed", "missing") if number_of.get(each)]
    if not bad:
        return Statement("", "pass", f"All {total} runs are done." if total > 1 else "The one run is done.")
    return Statement("", "doubtful", f"Of {total} runs, {number_of.get('done', 0)} are done, {_listed(bad)}.")


def _skipping(results: xr.Dataset) -> Iterator[Statement]:
    skipped = results["skipped"].values
    runs = int((skipped > 0).sum())
    if runs:
        text = (
            f"{runs} of {skipped.size} runs skipped steps that were not finite, up to {np.nanmax(skipped):.0f} in one"
        )
        yield Statement("", "doubtful", f"{text}: the table of runs says which.")


def _best(results: xr.Dataset, dataset: str, best: str, row: Any, metric: str, confidence: float) -> Statement:
    digits, unit = (COUNTS[metric], "epochs") if metric in COUNTS else (3, "nats")
    text = f"{best} has the least mean {_named(metric)}: {number(row['mean'], digits)} {unit}"
    if math.isfinite(row["low"]):
        low, high = number(row["low"], digits), number(row["high"], digits)
        text += f" ({100 * confidence:g} % interval {low} to {high})"
    text += f", over {row['n_used']} of {row['n']} runs"
    if math.isfinite(row["gap"]):
        exact = math.isfinite(float(results["floor"].sel(dataset=dataset)))
        side = "above" if row["gap"] >= 0 else "below"
        text += f", {number(abs(row['gap']))} nats {side} the {'entropy' if exact else 'best known value'}"
    return Statement(dataset, "pass", text + ".")


def _told_apart(pairs: Any, dataset: str, best: str) -> Statement:
    here = pairs[pairs["dataset"] == dataset]
    worse: list[str] = []
    unsure: list[str] = []
    for row in here.itertuples():
        if best not in (row.model, row.other):
            continue
        other = row.other if row.model == best else row.model
        better_in = row.n_better if row.model == best else row.n - row.n_better
        shown = row.p_holm < SIGNIFICANT and 2 * better_in > row.n
        (worse if shown else unsure).append(f"{other} (p = {row.p_holm:.2g})")
    parts = [f"better than {_listed(worse)}"] if worse else []
    parts += [f"not told apart from {_listed(unsure)}"] if unsure else []
    text = f"By paired tests it is {', and '.join(parts)}, corrected for {len(pairs)} comparisons."
    smallest = float(here["smallest_p"].max()) * len(pairs)
    if unsure and smallest >= SIGNIFICANT:
        needed = 1 + math.ceil(math.log2(len(pairs) / SIGNIFICANT))
        text += f" With so few pairs no p-value below {min(smallest, 1.0):.2g} can come out; {needed} seeds would do."
    return Statement(dataset, "doubtful" if unsure else "pass", text)


def _lost(dataset: str, rows: Any) -> Iterator[Statement]:
    for model, row in rows.iterrows():
        rest = f"its mean is over the other {row['n_used']}" if row["n_used"] else "it has no mean"
        if row["n_diverged"]:
            text = f"{row['n_diverged']} of {row['n']} runs of {model} diverged; {rest}."
            yield Statement(dataset, "fail", text)
        if row["n_missing"]:
            yield Statement(dataset, "doubtful", f"{row['n_missing']} of {row['n']} runs of {model} have no result.")


def _impossible(results: xr.Dataset, dataset: str) -> Iterator[Statement]:
    floor = float(results["floor"].sel(dataset=dataset))
    if not math.isfinite(floor):
        return
    for metric in TEST_METRICS:
        losses = results[metric].sel(dataset=dataset)
        errors = results[f"{metric}_se"].sel(dataset=dataset)
        below = (losses + _IMPOSSIBLE * errors < floor).any("seed")
        for model in results["model"].values[below.values].tolist():
            least = float(losses.sel(model=model).min())
            text = f"The {_named(metric)} of {model} comes down to {number(least)}, below the entropy"
            yield Statement(dataset, "fail", f"{text} {number(floor)}: no model can do that, so its loss is no bound.")


def _unsettled(results: xr.Dataset, dataset: str) -> Iterator[Statement]:
    """Models whose last fifth of epochs differs from the fifth before by more than the seeds leave open."""
    for model in results["model"].values.tolist():
        runs = runs_of(results, model, dataset)
        drops, ends = [], []
        for losses, ended, status in zip(runs.losses, runs.ended, runs.status, strict=True):
            window = int(ended) // 5
            late = losses[ended - 2 * window : ended]
            if status == "done" and window and np.isfinite(late).all():
                drops.append(late[:window].mean() - late[window:].mean())
                ends.append(late[-1])
        drop, end = mean_and_interval(drops), mean_and_interval(ends)
        size, open_by = number(abs(drop["mean"])), (end["high"] - end["low"]) / 2
        if drop["low"] > 0 and drop["mean"] > open_by:
            text = f"{model} was still falling when it ended: by {size} nats in the last fifth."
            yield Statement(dataset, "doubtful", text)
        elif drop["high"] < 0 and -drop["mean"] > open_by:
            text = f"{model} was rising when it ended, by {size} nats in the last fifth: it overfits."
            yield Statement(dataset, "doubtful", text)


def _named(metric: str) -> str:
    return "NLL" if metric == "nll" else metric.replace("_", " ")


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
