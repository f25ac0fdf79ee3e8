"""The jobs of the Gaussian reproduction: one fit each, judged by NUTS where asked; and what is known in closed form."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from ppl_models.diagnostics import check, to_arviz
from ppl_models.gaussian import GaussianSummary
from ppl_models.reference import nuts
from ppl_models.reproductions.folder import ReportFolder, file_name
from ppl_models.reproductions.gaussian.closed_forms import (
    doubled_iaf_error,
    mean_field_scale,
    planar_error,
    volume_error,
    volume_limit,
)
from ppl_models.reproductions.gaussian.data import data_sets, study_data, truth
from ppl_models.reproductions.gaussian.fitting import Fitted, fit_method, measure
from ppl_models.reproductions.gaussian.methods import METHODS
from ppl_models.reproductions.gaussian.minibatch_optimum import BATCH_SIZE, minibatch_optimum

__all__ = ["closed_forms_job", "fit_job", "fit_key", "limit_job"]

#: Draws of the guide and of each of NUTS's four chains, for the moments that are compared.
DRAWS = 1000


def fit_key(dim: int, data_set: int, method: str, setting: str) -> str:
    """Name a fit as its files are named.

    Example:
        >>> fit_key(25, 1, "HVAE K=1, no tempering", "put right")
        'd25-set1-hvae-k-1-no-tempering-put-right'
    """
    return file_name(f"d{dim} set{data_set} {method} {setting}")


@lru_cache(maxsize=1)
def _data(dim: int, source: str, sets: int, seed: int, num_data: int) -> list[GaussianSummary]:
    """Data sets up to one; the jobs of one follow each other."""
    return data_sets(dim, source=source, sets=sets, seed=seed, num_data=num_data)


def fit_job(
    folder: ReportFolder,
    *,
    dim: int,
    data_set: int,
    method: str,
    setting: str,
    source: str,
    seed: int,
    num_data: int,
    steps: float,
    draws: int,
    judge: bool,
) -> dict[str, Any]:
    """Fit a method to a data set, measure it, and judge it by NUTS where asked.

    Args:
        folder: The report's.
        dim: d.
        data_set: Which of the data sets, from 1.
        method: Its name.
        setting: ``"as published"`` or ``"put right"``.
        source: Where the data come from.
        seed: Of the data and of the fit.
        num_data: N.
        steps: Share of the steps.
        draws: For the ELBO.
        judge: Whether NUTS runs.
    """
    data = _data(dim, source, data_set, seed, num_data)[-1]
    fitted = fit_method(METHODS[method], setting, data, seed=seed, steps=steps)
    row: dict[str, Any] = {"d": dim, "data set": data_set, "method": method, "setting": setting}
    row |= measure(fitted, data, truth(dim), draws=draws)
    row["least gap"] = METHODS[method].least_gap(setting, fitted.model, data.count)
    result: dict[str, Any] = {"row": row, "curve": fitted.curve.as_dict()}
    if judge:
        key = fit_key(dim, data_set, method, setting)
        result["moments"], row["verdict"] = _judge(folder, key, fitted, data, seed=seed)
    return result


def _judge(
    folder: ReportFolder, key: str, fitted: Fitted, data: GaussianSummary, *, seed: int
) -> tuple[dict[str, list[float]], str]:
    model, guide = fitted.model, fitted.guide
    reference = nuts(model, data, init="laplace", num_warmup=500, num_samples=DRAWS, seed=seed, progress=False)
    verdict = check(model, guide, data, reference=reference, seed=seed)
    site = "location" if model.centred else "z"
    own = to_arviz(model, guide, data, num_samples=DRAWS, prior=False, predictive=False, seed=seed)
    folder.posterior(key, own)
    folder.posterior(f"{key}-nuts", reference)
    folder.verdict(key, verdict)
    moments: dict[str, list[float]] = {}
    for name, source in (("guide", own), ("nuts", reference)):
        values = torch.as_tensor(source["posterior"][site].values).flatten(0, 1).double()
        moments |= {f"{name} mean": values.mean(0).tolist(), f"{name} sd": values.std(0).tolist()}
    return moments, verdict.level


def limit_job(
    folder: ReportFolder, *, dim: int, data_set: int, source: str, seed: int, num_data: int
) -> dict[str, Any]:
    """Compute what every Hamiltonian guide over N(0, I) lacks of the log evidence at the ML estimate of a data set.

    Args:
        folder: The report's.
        dim: d.
        data_set: Which of the data sets, from 1.
        source: Where the data come from.
        seed: Of the data.
        num_data: N.
    """
    data = _data(dim, source, data_set, seed, num_data)[-1]
    return {"d": dim, "data set": data_set, "least gap to ML": volume_limit(data)}


def closed_forms_job(folder: ReportFolder, *, dim: int) -> dict[str, Any]:
    """Compute what the study's objectives have their optimum at, on the study's own data.

    Args:
        folder: The report's.
        dim: One of the study's.

    Returns:
        Squared errors against truth by method, ``Delta`` and ``Sigma``, where they have a closed form; and by data set
        those of the offsets' ML estimate, on the data as they were drawn for all methods and for the IAF.
    """
    offset, scale = truth(dim)
    sets, others = study_data(dim), study_data(dim, after_network=True)
    shift, other_shift = ([(x.mean(0) - offset).square().sum().item() for x in drawn] for drawn in (sets, others))
    summaries = [GaussianSummary.of(x) for x in sets]
    shared = [
        mean_field_scale((each.scatter / each.count).sqrt(), each.count, batch_size=BATCH_SIZE) for each in summaries
    ]
    tempered, untempered = (
        [(minibatch_optimum(x, tempering=each).scale - scale).square().sum().item() for x in sets]
        for each in (True, False)
    )
    delta: dict[str, float | None] = dict.fromkeys(METHODS, _mean(shift))
    delta |= {"IAF": _mean(other_shift), "mean-field VB": None}
    sigma: dict[str, float | None] = {
        "HVAE K=1": _mean(tempered),
        "HVAE K=10": None,
        "IAF": doubled_iaf_error(scale),
        "planar K=1": planar_error(scale, factor=2.0),
        "planar K=30": planar_error(scale, factor=2.0),
        "mean-field VB": _mean([(each - scale).square().sum().item() for each in shared]),
        "HVAE K=1, no tempering": _mean(untempered),
        "HVAE K=10, no tempering": planar_error(scale, layers=0),
    }
    return {
        "d": dim,
        "Delta": delta,
        "Sigma": sigma,
        "shift": shift,
        "shift after the network": other_shift,
        "volume error": {"minibatch": volume_error(scale, 256), "all data": volume_error(scale, 10_000)},
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
