"""One number per run: what tables, comparisons and bars are made of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from guides.errors import DataError
from ppl_models.study.run_metrics import METRICS, Runs

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["RUN_DIMS", "TEST_METRICS", "check_results", "run_values", "runs_of", "warmup_epochs"]

#: Results of the final model on the test set, which stand in a study's results as they are.
TEST_METRICS = ("test_loss", "nll")

RUN_DIMS = ("model", "dataset", "seed")
_NEEDED = {
    **dict.fromkeys(("train_loss", "validation_loss", "kl_weight"), (*RUN_DIMS, "epoch")),
    **dict.fromkeys((*TEST_METRICS, "test_loss_se", "nll_se", "status", "message", "seconds"), RUN_DIMS),
    "num_parameters": RUN_DIMS[:2],
    "floor": ("dataset",),
}


def check_results(results: xr.Dataset) -> xr.Dataset:
    """Return ``results`` if they are a study's; with ``skipped``, not known, if they were written without.

    Raises:
        DataError: If a variable is missing or has other dimensions, or there is no run.
    """
    for name, dims in _NEEDED.items():
        if name not in results:
            raise DataError(f"results must be those of a study; they have no {name!r}.")
        if set(results[name].dims) != set(dims):
            raise DataError(f"{name!r} must have the dimensions {dims}; got {results[name].dims}.")
    if 0 in results["validation_loss"].shape:
        raise DataError(f"results must hold a run; got the sizes {dict(results.sizes)}.")
    if "skipped" not in results:  # as files were at first
        results = results.assign(skipped=results["seconds"] * math.nan)
    return results


def runs_of(results: xr.Dataset, model: str, dataset: str) -> Runs:
    """The validation losses of one model on one dataset.

    A run that is said to be done, but has no finite loss, counts as one that has diverged.
    """
    cell = results.sel(model=model, dataset=dataset).transpose("seed", "epoch", ...)
    losses = cell["validation_loss"].values
    empty = ~np.isfinite(losses).any(1)
    status = [
        "diverged" if nothing and each == "done" else each
        for nothing, each in zip(empty, cell["status"].values.tolist(), strict=True)
    ]
    return Runs(losses, status)


def warmup_epochs(results: xr.Dataset, model: str, dataset: str) -> int:
    """In how many epochs, from the first, the KL terms had a weight below 1."""
    weights = results["kl_weight"].sel(model=model, dataset=dataset).transpose("seed", "epoch").values
    below = np.where(weights < 1, np.arange(1, weights.shape[1] + 1), 0)
    return int(below.max())


def run_values(results: xr.Dataset, *, after_warmup: bool = False, threshold: float | None = None) -> xr.Dataset:
    """Each metric of each run, by model, dataset and seed: inf where it has diverged, NaN where there is no result.

    Args:
        results: Of a study.
        after_warmup: Whether to leave out the epochs in which the KL terms had a weight below 1, in which another
            objective was trained than is judged.
        threshold: With it, ``time_to_threshold`` is the first epoch with a validation loss below: inf if there is none.
            Those of runs that stopped before are unknown, and NaN.

    Returns:
        ``min``, ``max``, ``last``, ``first`` and ``exceeds`` of the validation losses, ``test_loss`` and ``nll``; and
        ``diverged``.

    Raises:
        DataError: If these are no results of a study.
    """
    import xarray as xr

    results = check_results(results)
    shape = tuple(results.sizes[dim] for dim in RUN_DIMS)
    names = (*METRICS, *TEST_METRICS, *(["time_to_threshold"] if threshold is not None else []))
    values: dict[str, Any] = {name: np.full(shape, math.nan) for name in names}
    diverged = np.zeros(shape, dtype=bool)
    for i, model in enumerate(results["model"].values.tolist()):
        for j, dataset in enumerate(results["dataset"].values.tolist()):
            runs = runs_of(results, model, dataset)
            diverged[i, j] = runs.diverged
            skip = warmup_epochs(results, model, dataset) if after_warmup else 0
            if skip < results.sizes["epoch"]:
                for name, each in runs.metrics(skip=skip).items():
                    values[name][i, j] = each
            for name in TEST_METRICS:
                tested = results[name].sel(model=model, dataset=dataset).values
                values[name][i, j] = np.where(runs.diverged, math.inf, tested)
            if threshold is not None:
                times, reached = runs.first_below(threshold)
                never = runs.diverged | (runs.ended == results.sizes["epoch"])
                values["time_to_threshold"][i, j] = np.where(reached, times, np.where(never, math.inf, math.nan))
    variables = {name: (RUN_DIMS, each) for name, each in values.items()} | {"diverged": (RUN_DIMS, diverged)}
    return xr.Dataset(variables, coords={name: results[name] for name in results.coords if name != "epoch"})
