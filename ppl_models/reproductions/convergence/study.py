"""reproduce_convergence: the published study of convergence over seeds, done again and put right."""

from __future__ import annotations

import os
from collections.abc import Sequence

from guides.errors import OptionError, choose, whole_number
from ppl_models.datasets import ToyData
from ppl_models.reproductions.convergence.contenders import CONTENDERS, FULL, QUICK, parts_of
from ppl_models.reproductions.convergence.published import PUBLISHED, PUBLISHED_RUNS
from ppl_models.reproductions.convergence.tables import one_gaussian
from ppl_models.reproductions.convergence.writing import Finding, write
from ppl_models.reproductions.folder import ReportFolder
from ppl_models.reproductions.jobs import available_cores
from ppl_models.reproductions.report import Report
from ppl_models.study import Study
from ppl_models.study.job import load_data

__all__ = ["QUICK_DATASETS", "QUICK_RUNS", "reproduce_convergence"]

#: What is done without ``full``.
QUICK_DATASETS, QUICK_RUNS = ("8gaussians", "checkerboard"), 3

#: All of the study's datasets.
_DATASETS = tuple(dict.fromkeys(row.dataset for row in PUBLISHED))


def reproduce_convergence(
    *,
    out: str | os.PathLike[str],
    full: bool = False,
    datasets: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    runs: int | None = None,
    epochs: int | None = None,
    num_train: int | None = None,
    seed: int = 0,
    processes: int | None = None,
    progress: bool = True,
) -> Report:
    """Do the seeds study again at a size for CPUs: its models on its data, several runs each, beside its tables.

    The models are the mended ones of :data:`ppl_models.study.PAIRS`, and ``"vae_published"``: the VAE with the
    published study's mistakes, whose numbers it has. Runs are those of a :class:`~ppl_models.study.Study` for points,
    and of one for each dataset of images; each has its own report as HTML beside ``index.md``.

    Args:
        out: The folder of the report; one that was begun with the same options is gone on with.
        full: Whether to do all four of the study's datasets, ten runs of each model, on all images, over more epochs:
            days of work. Without it, three runs on two sets of points.
        datasets: ``"8gaussians"``, ``"checkerboard"``, ``"mnist"`` or ``"omniglot"`` instead. Images are read from the
            cache, or downloaded; see :func:`ppl_models.datasets.fetch`.
        models: ``"vae_published"``, ``"vae"``, ``"lvae"``, ``"flow"``, ``"draw"``, ``"draw2"``, ``"draw3"`` or
            ``"draw4"``. By default those that were published on a dataset, but for the flow of images, which costs far
            more than all others together.
        runs: How many runs of each model on each dataset; 3 by default, or 10.
        epochs: How many each run has; 30 of points and 5 of images by default, or 100 and 20.
        num_train: How many points to draw, or images to take; 50,000 and 5,000 by default, or 100,000 and all.
        seed: Of the data, and of the first run.
        processes: How many runs at once, with one thread each; as many as there are cores by default. With 1 they
            are in this process.
        progress: Whether to show progress bars.

    Raises:
        OptionError: If an option breaks its rule, or the folder holds a report of other settings.
        DataError: If the files of a dataset cannot be had.

    References:
        https://github.com/simonamtoft/generative-convergence, whose tables and losses are held against ours.
    """
    wanted = (_DATASETS if full else QUICK_DATASETS) if datasets is None else datasets
    names = [choose("datasets", name, _DATASETS) for name in wanted]
    if not names:
        raise OptionError(f"datasets must name at least one of {', '.join(map(repr, _DATASETS))}; got none.")
    chosen = None if models is None else [choose("models", name, CONTENDERS) for name in models]
    runs = (PUBLISHED_RUNS if full else QUICK_RUNS) if runs is None else whole_number("runs", runs, least=1)
    seed = whole_number("seed", seed, least=0)
    given = {name: value for name, value in (("epochs", epochs), ("num_train", num_train)) if value is not None}
    processes = available_cores() if processes is None else whole_number("processes", processes, least=1)
    parts = parts_of(list(dict.fromkeys(names)), chosen)
    sizes = {part.name: (FULL if full else QUICK)[part.kind] | given for part in parts}
    seeds = range(seed, seed + runs)
    studies = {
        part.name: Study(
            {name: CONTENDERS[name] for name in part.models},
            part.datasets,
            seeds=seeds,
            data_seed=seed,
            **sizes[part.name],
        )
        for part in parts
    }
    settings = {"seed": seed, "runs": runs, "sizes": sizes}
    settings |= {name: {part.name: getattr(part, name) for part in parts} for name in ("datasets", "models")}
    folder = ReportFolder(out, name="convergence", settings=settings)
    for study in studies.values():  # before the first run: files that cannot be had are no surprise at the end
        for name in study.configuration["datasets"]:
            load_data(name, study.configuration)
    found = []
    for part in parts:
        study = studies[part.name]
        backend = "threading" if processes == 1 else "loky"
        where = folder.path / "studies" / part.name
        results = study.run(where, jobs=processes, backend=backend, resume=True, progress=progress)
        found.append(Finding(part, results, _baselines(study)))
    return write(folder, found)


def _baselines(study: Study) -> dict[str, float]:
    data = {name: load_data(name, study.configuration) for name in study.configuration["datasets"]}
    return {name: one_gaussian(each.train, each.test) for name, each in data.items() if isinstance(each, ToyData)}
