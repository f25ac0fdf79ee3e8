"""Tables of a study's results, as data frames of plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from guides.errors import OptionError, choose
from ppl_models.study.intervals import mean_and_interval, median_time
from ppl_models.study.run_metrics import LEAST, METRICS
from ppl_models.study.run_values import RUN_DIMS, TEST_METRICS, check_results, run_values, runs_of

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = [
    "ABOVE_FLOOR",
    "METRIC_NAMES",
    "floors_of",
    "metrics_table",
    "parameters_table",
    "results_to_dataframe",
    "runs_table",
]

#: What may be asked for by name.
METRIC_NAMES = (*TEST_METRICS, *METRICS, "time_to_threshold")

#: Losses, of which it makes sense to say how far they are above the floor. The largest one is no such number.
ABOVE_FLOOR = (*TEST_METRICS, "min", "last")


def metrics_table(
    results: xr.Dataset,
    *,
    metrics: Sequence[str] | None = None,
    after_warmup: bool = False,
    threshold: float | None = None,
    floors: Mapping[str, float] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Say of each model on each dataset how its runs did, and how far above the floor.

    Args:
        results: Of a study.
        metrics: Of :data:`METRIC_NAMES`: ``test_loss`` and ``nll``, of the final models on the test set; ``min``,
            ``max``, ``last``, ``first`` and ``exceeds``, of the validation losses; ``time_to_threshold``. All, if not
            given.
        after_warmup: Whether to leave out the epochs in which the KL terms had a weight below 1.
        threshold: The validation loss to get below; needed for ``time_to_threshold``.
        floors: By dataset, a number to hold losses against where the entropy is not known, such as the best that has
            been published.
        confidence: Of the intervals.
        seed: Fixes the bootstrap.

    Returns:
        One row for each dataset, model and metric: ``mean``, ``std``, ``low``, ``high``, ``median``, ``mean_all``,
        ``n``, ``n_used``, ``n_diverged``, ``n_missing``; and for losses ``floor`` and ``gap``, which is the mean less
        the floor. A time has a median only; its interval is that of the median, and ``n_used`` are the runs that got
        there.

    Raises:
        DataError: If these are no results of a study.
        OptionError: If a metric, or a dataset of ``floors``, is unknown, or the time is wanted of no threshold.
    """
    import pandas as pd

    wanted = [choose("metric", each, METRIC_NAMES) for each in metrics or METRIC_NAMES]
    if threshold is None:
        if metrics is not None and "time_to_threshold" in wanted:
            raise OptionError("time_to_threshold needs threshold, the validation loss to get below.")
        wanted = [each for each in wanted if each != "time_to_threshold"]
    values = run_values(results, after_warmup=after_warmup)
    known = floors_of(results, floors)
    rows = []
    for dataset in values["dataset"].values.tolist():
        for model in values["model"].values.tolist():
            runs = values.sel(model=model, dataset=dataset)
            for name in wanted:
                row = {"dataset": dataset, "model": model, "metric": name}
                if name == "time_to_threshold":
                    assert threshold is not None
                    row |= _time(results, model, dataset, threshold, confidence)
                else:
                    row |= mean_and_interval(
                        runs[name].values,
                        runs["diverged"].values,
                        least=LEAST.get(name, -math.inf),
                        confidence=confidence,
                        seed=seed,
                    )
                if name in ABOVE_FLOOR:
                    row |= {"floor": known[dataset], "gap": row["mean"] - known[dataset]}
                rows.append(row)
    columns = ["dataset", "model", "metric", "mean", "std", "low", "high", "median", "mean_all"]
    counts = ["n", "n_used", "n_diverged", "n_missing"]
    return pd.DataFrame(rows).reindex(columns=[*columns, *counts, "floor", "gap"])


def floors_of(results: xr.Dataset, floors: Mapping[str, float] | None = None) -> dict[str, float]:
    """By dataset, the exact entropy, or else what ``floors`` says; NaN where neither is known, or there is no bound.

    Raises:
        OptionError: If ``floors`` names a dataset that the study has not, or one whose entropy is known, or a number
            is not finite.
    """
    entropies = dict(zip(results["dataset"].values.tolist(), results["floor"].values.tolist(), strict=True))
    known = {name: value if math.isfinite(value) else math.nan for name, value in entropies.items()}
    for name, value in (floors or {}).items():
        choose("a dataset of floors", name, known)
        if not math.isfinite(value):
            raise OptionError(f"floors[{name!r}] must be a finite number; got {value!r}.")
        if math.isfinite(known[name]):
            raise OptionError(f"floors must not hold {name!r}, whose entropy is known: {known[name]:.6f}.")
        known[name] = float(value)
    return known


def parameters_table(results: xr.Dataset) -> pd.DataFrame:
    """Number of trainable parameters, one row per model and one column per dataset.

    Raises:
        DataError: If these are no results of a study.
    """
    counts = check_results(results)["num_parameters"].transpose("model", "dataset")
    return counts.to_pandas().rename_axis(index="model", columns=None).reset_index()


def runs_table(results: xr.Dataset) -> pd.DataFrame:
    """One row per run: how it ended and why, how long it took, steps that it skipped, its last and its test losses.

    Raises:
        DataError: If these are no results of a study.
    """
    values, results = run_values(results), check_results(results)
    names = ["status", "message", "seconds", "skipped", "test_loss", "test_loss_se", "nll", "nll_se"]
    table = results[names].assign(last=values["last"])
    columns = ["dataset", "model", "seed", "status", "seconds", "skipped", "last", *names[4:], "message"]
    return table.to_dataframe(dim_order=["dataset", "model", "seed"]).reset_index()[columns]


def results_to_dataframe(results: xr.Dataset) -> pd.DataFrame:
    """All losses of a study, one row per epoch that was run.

    Columns: ``model``, ``dataset``, ``seed``, ``epoch``, the losses and KL weights of the epoch, and what else is known
    of the run and the model, repeated.

    Raises:
        DataError: If these are no results of a study.
    """
    table = check_results(results).to_dataframe(dim_order=[*RUN_DIMS, "epoch"]).reset_index()
    # What a run says of itself is kept also where it has seen no epoch.
    seen = table[["train_loss", "validation_loss"]].notna().any(axis=1)
    first = [*RUN_DIMS, "epoch"]
    rest = [name for name in table.columns if name not in first]
    return table.loc[seen | (table["epoch"] == 1), first + rest].reset_index(drop=True)


def _time(results: xr.Dataset, model: str, dataset: str, threshold: float, confidence: float) -> dict[str, float]:
    runs = runs_of(results, model, dataset)
    found = median_time(*runs.first_below(threshold), confidence=confidence)
    n_diverged = int(runs.diverged.sum())
    missing = sum(each in ("crashed", "missing") for each in runs.status)
    return {name: found[name] for name in ("median", "low", "high")} | {
        "n": len(runs),
        "n_used": found["n_reached"],
        "n_diverged": n_diverged,
        "n_missing": missing,
    }
