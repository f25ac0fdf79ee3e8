"""The results of a study as one labelled dataset."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guides.errors import DataError
from ppl_models.study.cells import cells_of, contenders_of
from ppl_models.study.records import CONFIGURATION, PER_EPOCH, PER_RUN, read_json, read_record, record_path

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["read_configuration", "results"]

_WORDS = ("status", "message")

#: The format of a study's folder.
FORMAT = 1


def results(folder: str | os.PathLike[str]) -> xr.Dataset:
    """Read what a study has found so far, while it is running too.

    Dimensions: ``model`` (a label such as ``"vae"`` or ``"vae+iaf/iwae"``, with the coordinates ``guide`` and
    ``objective``), ``dataset``, ``seed`` and ``epoch`` (from 1). Variables, in nats per datum, NaN where a run has
    none:

    * ``train_loss``, ``validation_loss``, ``kl_weight`` (model, dataset, seed, epoch): minus the objective's bound
      while training, minus the ELBO afterwards (its KL terms at weight 1), and the KL terms' weight in training.
    * ``test_loss``, ``nll`` (model, dataset, seed): minus the ELBO and the negative log-likelihood of the test set
      under the final model, with ``test_loss_se`` and ``nll_se``, their standard errors over the data. The likelihood
      is importance-sampled with the attribute ``num_importance`` as the number of draws; without latents it is exact.
    * ``status`` (model, dataset, seed): ``"done"``, ``"diverged"``, ``"crashed"`` or ``"missing"``; ``message``, why.
    * ``seconds`` (model, dataset, seed); ``skipped``, likewise, the training steps that were left out because the loss
      or a gradient was not finite; ``num_parameters`` (model, dataset); ``floor`` (dataset), the entropy below which no
      loss can go, NaN where it is not known.

    The attribute ``study`` is the configuration as JSON, ``version`` that of the ppl-models that wrote it.

    Args:
        folder: The study's folder.

    Raises:
        DataError: If it holds no study, or a file in it is damaged.
    """
    import numpy as np
    import xarray as xr

    folder = Path(folder)
    whole = read_configuration(folder)
    study: dict[str, Any] = whole["study"]
    contenders, datasets, seeds = contenders_of(study), list(study["datasets"]), list(study["seeds"])
    labels = [each.label for each in contenders]
    shape = (len(labels), len(datasets), len(seeds))
    variables: dict[str, Any] = {name: np.full((*shape, study["epochs"]), math.nan) for name in PER_EPOCH}
    variables |= {name: np.full(shape, math.nan) for name in PER_RUN}
    variables |= {name: np.full(shape, "missing" if name == "status" else "", dtype=object) for name in _WORDS}
    for cell in cells_of(study):
        record = read_record(folder, cell)
        if record is None:
            continue
        at = (labels.index(cell.contender.label), datasets.index(cell.dataset), seeds.index(cell.seed))
        for name in PER_EPOCH:
            values = getattr(record, name)
            if len(values) > study["epochs"]:
                raise DataError(
                    f"{record_path(folder, cell)} must have {study['epochs']} epochs at most; {name} has {len(values)}."
                    " Remove it to redo it."
                )
            variables[name][at][: len(values)] = values
        for name in (*PER_RUN, *_WORDS):
            variables[name][at] = getattr(record, name)
    dims = ("model", "dataset", "seed")
    data: dict[str, Any] = {name: ((*dims, "epoch"), variables[name]) for name in PER_EPOCH}
    data |= {name: (dims, variables[name]) for name in PER_RUN}
    data |= {name: (dims, variables[name].astype(str)) for name in _WORDS}
    counts = [[whole["num_parameters"][label][dataset] for dataset in datasets] for label in labels]
    data["num_parameters"] = (dims[:2], np.array(counts))
    data["floor"] = ("dataset", np.array([float(whole["floors"][dataset]) for dataset in datasets]))
    return xr.Dataset(
        data,
        coords={
            "model": labels,
            "dataset": datasets,
            "seed": seeds,
            "epoch": np.arange(1, study["epochs"] + 1),
            "guide": ("model", [each.guide for each in contenders]),
            "objective": ("model", [each.objective for each in contenders]),
        },
        attrs={
            "study": json.dumps(study),
            "version": whole["version"],
            "num_importance": study["num_importance"],
        },
    )


def read_configuration(folder: Path) -> dict[str, Any]:
    """Read a study's configuration, with the version that wrote it, floors and numbers of parameters.

    Raises:
        DataError: If the folder holds no study, or one of another format.
    """
    try:
        whole = read_json(folder / CONFIGURATION)
    except FileNotFoundError as error:
        raise DataError(f"{folder} must be the folder of a study; it has no {CONFIGURATION}.") from error
    if whole.get("ppl_models") != "study":
        raise DataError(f"{folder / CONFIGURATION} must be written by ppl-models; it is something else.")
    if whole.get("format") != FORMAT:
        raise DataError(
            f"{folder / CONFIGURATION} must have format {FORMAT}; got {whole.get('format')}, written by ppl-models "
            f"{whole.get('version')}. Read it with that one."
        )
    missing = [name for name in ("version", "study", "num_parameters", "floors") if name not in whole]
    if missing:
        raise DataError(f"{folder / CONFIGURATION} must be a study's, whole; it lacks {', '.join(missing)}.")
    if not _is_whole(whole):
        raise DataError(f"{folder / CONFIGURATION} must be as it was written; it was changed, or is damaged.")
    return whole


def _is_whole(whole: dict[str, Any]) -> bool:
    """Whether all that results need is there."""
    study = whole["study"]
    try:
        for cell in cells_of(study):
            int(whole["num_parameters"][cell.contender.label][cell.dataset]), float(whole["floors"][cell.dataset])
        return min(len(cells_of(study)), study["epochs"], study["num_importance"] + 1) >= 1
    except (KeyError, TypeError, ValueError):
        return False
