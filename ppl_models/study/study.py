"""Study: many runs of models on data, the same data for all, each with a seed of its own."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch

from guides.errors import OptionError, PplError, choose, positive, whole_number
from ppl_models.datasets import DATASETS, ImageData, ToyData
from ppl_models.files import make_folder, remove_leftovers
from ppl_models.labels import package_version
from ppl_models.objectives import KLWeights
from ppl_models.seeds import seeded_generator
from ppl_models.study.cells import Cell, Contender, cells_of, contenders_of
from ppl_models.study.engines import BACKENDS, CrashedError, Engine, start_engine
from ppl_models.study.job import Job, ended_run, load_data, run_job
from ppl_models.study.lock import locked, see_whose
from ppl_models.study.options import fingerprint, names_of, seeds_of
from ppl_models.study.pairs import (
    DEFAULT,
    OBJECTIVES,
    PAIRS,
    STUDY_GUIDES,
    Pair,
    build_pair,
    count_parameters,
    kind_of,
)
from ppl_models.study.progress import StudyProgress, read_progress, write_progress
from ppl_models.study.records import CONFIGURATION, Record, read_record, record_path, write_json, write_record
from ppl_models.study.results import FORMAT, read_configuration, results
from ppl_models.training.schedules import SCHEDULES

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Study"]

#: How often the progress of running jobs is looked at, in seconds.
LOOK = 0.5


@final
class Study:
    """Train models on data, with several seeds each, and keep what became of every run.

    Every model with every guide, objective, dataset and seed is one run. Data and their splits come from a seed that
    all runs share, so that differences between models are differences on the same data; the seed of a run decides its
    initial weights, the order of its data and its noise, and nothing else.

    Args:
        models: Names in ``PAIRS``, or models by a name of your own. The name stands for such a model when a study goes
            on: that it is still the same is for you to see.
        datasets: Names in :data:`ppl_models.datasets.DATASETS`, or data by a name of your own.
        seeds: The runs' seeds.
        epochs: How many times each run goes through its data.
        guides: Names in ``STUDY_GUIDES``; each model's own by default.
        objectives: Names in ``OBJECTIVES``. Whatever is trained, validation and test losses are minus the ELBO.
        data_seed: Decides the data and their splits.
        num_train: How many points to draw for training, or how many images to take, the first ones; 100,000 points or
            all images by default.
        num_validation: The same for validation; 10,000 points by default.
        num_test: The same for the judgement; 10,000 points by default.
        num_importance: Draws per datum for the negative log-likelihood; 0 leaves it out.
        lr: Learning rate; the model's own by default, as for the next five.
        schedule: ``"constant"``, ``"cosine"`` or ``"study"``; see :func:`ppl_models.training.train`.
        batch_size: Data in a batch.
        warmup: Over how many epochs the weight of the KL terms rises to 1, from 1 / warmup in the first; flows have
            none.
        free_bits: In nats: a KL below it has no gradient.
        max_grad_norm: Upper limit of the gradient's norm, for the loss per datum.
        published: Whether to put back the mistakes that published numbers rest on; see :func:`build_pair`.

    Raises:
        OptionError: If a name is unknown or occurs twice, a number is out of range, or a model is none of such data.
        DataError: If data are neither points nor images, or a model cannot take their shape.
        TypeError: If data of your own are not ``ToyData`` or ``ImageData``.

    Example:
        >>> study = Study(["vae", "flow"], ["moons", "8gaussians"], seeds=range(3), epochs=10)
        >>> study
        Study(models=['vae', 'flow'], datasets=['moons', '8gaussians'], seeds=[0, 1, 2], epochs=10)
        >>> len(study.cells), study.num_parameters["vae"]["moons"]
        (12, 68620)
    """

    def __init__(
        self,
        models: Sequence[str] | Mapping[str, Pair],
        datasets: Sequence[str] | Mapping[str, ToyData | ImageData],
        *,
        seeds: Iterable[int],
        epochs: int,
        guides: Sequence[str] = (DEFAULT,),
        objectives: Sequence[str] = ("elbo",),
        data_seed: int = 0,
        num_train: int | None = None,
        num_validation: int | None = None,
        num_test: int | None = None,
        num_importance: int = 200,
        lr: float | None = None,
        schedule: str | None = None,
        batch_size: int | None = None,
        warmup: int | None = None,
        free_bits: float | None = None,
        max_grad_norm: float | None = None,
        published: bool = False,
    ) -> None:
        self._data = dict(datasets) if isinstance(datasets, Mapping) else {}
        self._pairs = dict(models) if isinstance(models, Mapping) else {}
        for name, pair in self._pairs.items():
            if not isinstance(pair, Pair):
                raise TypeError(f"models[{name!r}] must be a Pair; got {type(pair).__name__}.")
        for name, data in self._data.items():
            if not isinstance(data, ToyData | ImageData):
                raise TypeError(
                    f"datasets[{name!r}] must be ToyData or ImageData, which hold the three parts of a split; got "
                    f"{type(data).__name__}."
                )
        for name in (*self._pairs, *self._data):
            if not re.fullmatch(r"[\w-]+", str(name)):
                raise OptionError(f"a name must be of letters, digits, '_' and '-', for files have it; got {name!r}.")
        sizes = {"num_train": num_train, "num_validation": num_validation, "num_test": num_test}
        for option, size in sizes.items():
            if size is not None and self._data:
                raise OptionError(f"{option} must not be given with data of your own; got {size}. Cut the data.")
            sizes[option] = None if size is None else whole_number(option, size, least=1)
        data_seed = whole_number("data_seed", data_seed, least=0)
        seeded_generator(data_seed)  # which has an upper limit, too
        names = {
            name: self._data.get(name) for name in names_of("datasets", datasets, "dataset", self._data or DATASETS)
        }
        #: All that decides the results, as plain data.
        self.configuration: dict[str, Any] = {
            "models": names_of("models", models, "model", self._pairs or PAIRS),
            "guides": names_of("guides", guides, "guide", STUDY_GUIDES),
            "objectives": names_of("objectives", objectives, "objective", OBJECTIVES),
            "datasets": {name: None if data is None else fingerprint(data) for name, data in names.items()},
            "seeds": seeds_of(seeds),
            "epochs": whole_number("epochs", epochs, least=1),
            "data_seed": data_seed,
            **sizes,
            "num_importance": whole_number("num_importance", num_importance, least=0),
            "lr": None if lr is None else positive("lr", lr),
            "schedule": None if schedule is None else choose("schedule", schedule, SCHEDULES),
            "batch_size": None if batch_size is None else whole_number("batch_size", batch_size, least=1),
            "warmup": None if warmup is None else whole_number("warmup", warmup, least=0),
            "free_bits": None if free_bits is None else float(KLWeights(free_bits=free_bits).free_bits),
            "max_grad_norm": None if max_grad_norm is None else positive("max_grad_norm", max_grad_norm),
            "published": bool(published),
        }
        #: Trainable numbers by the model's label and the dataset.
        self.num_parameters: dict[str, dict[str, int]] = {
            each.label: {name: self._count(each, name) for name in names} for each in contenders_of(self.configuration)
        }

    @property
    def cells(self) -> list[Cell]:
        """The runs, in the order in which they are begun."""
        return cells_of(self.configuration)

    def run(
        self,
        folder: str | os.PathLike[str],
        *,
        jobs: int = 1,
        backend: str = "loky",
        resume: bool = False,
        retry: str | None = None,
        progress: bool = True,
    ) -> xr.Dataset:
        """Do all runs, and return what :func:`results` reads from the folder.

        Each run's record is on disk as soon as the run ends, whole or not at all. With ``resume=True`` a study goes on,
        whatever ended it: runs whose record is there are not done again, and those that were under way go on from
        their last epoch, with the same result. A run that fails is recorded, and the others go on.

        Args:
            folder: Where the records are written: empty, or not there, when the study begins.
            jobs: How many runs at a time, on one thread each.
            backend: ``"loky"``: processes of this machine. ``"ray"``: Ray, on one machine or many. ``"threading"``:
                this process, where they take turns. The numbers are the same.
            resume: Whether to go on with the study in the folder, if there is one.
            retry: ``"crashed"``: do those runs again that crashed.
            progress: Whether to show progress bars.

        Raises:
            OptionError: If an option is wrong, or the folder holds another study or other files, is of another version,
                holds this study while ``resume`` is not given, or is being written to.
            DataError: If the files of a dataset cannot be had.
            OSError: If a file cannot be written; those written before stay whole.
        """
        jobs = whole_number("jobs", jobs, least=1)
        choose("backend", backend, BACKENDS)
        if retry is not None:
            choose("retry", retry, ["crashed"])
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise OptionError(f"folder must be the name of a folder; {folder} is a file.")
        make_folder(folder)
        see_whose(folder)
        with locked(folder):
            remove_leftovers(folder, CONFIGURATION)
            remove_leftovers(folder / "runs", "*.json")
            if begun := (folder / CONFIGURATION).exists():
                self._see_that_it_is_ours(folder, resume=resume)
            left = [cell for cell in self.cells if _is_left(folder, cell, retry)]
            done = len(self.cells) - len(left)
            self._fetch({cell.dataset for cell in left})
            if left:
                engine = start_engine(backend, min(jobs, len(left)))
                try:
                    # Past what may fail before any run begins: until here the folder is as it was.
                    if not begun:
                        self._claim(folder)
                    for cell in left:  # those to be done again
                        record_path(folder, cell).unlink(missing_ok=True)
                    epochs = self.configuration["epochs"]
                    with StudyProgress(len(self.cells), done, epochs) if progress else nullcontext() as bars:
                        self._work(engine, folder, left, bars)
                finally:
                    engine.close()
            found = results(folder)
            if not (found["status"] == "crashed").any():
                shutil.rmtree(folder / "work", ignore_errors=True)
            return found

    def _work(self, engine: Engine, folder: Path, left: list[Cell], bars: StudyProgress | None) -> None:
        waiting = left[::-1]
        running: dict[Any, Job] = {}
        while waiting or running:
            while waiting and len(running) < engine.jobs:
                cell = waiting.pop()
                job = Job(cell, self.configuration, self._data.get(cell.dataset), self._pairs.get(cell.contender.model))
                running[engine.submit((_do, (job, _work_folder(folder, cell))))] = job
                if bars is not None:
                    bars.begin(cell)
            for handle in engine.wait(list(running), LOOK):
                job = running.pop(handle)
                cell, work = job.cell, _work_folder(folder, job.cell)
                try:
                    record = engine.result(handle)
                except CrashedError as error:
                    record = ended_run(job, work, error)
                write_record(folder, cell, record)
                if record.status != "crashed":  # a crashed run may be tried again from where it was
                    shutil.rmtree(work, ignore_errors=True)
                if bars is not None:
                    bars.end(cell, record)
            if bars is not None:
                for job in running.values():
                    bars.update(job.cell, *read_progress(_work_folder(folder, job.cell)))

    def _fetch(self, names: set[str]) -> None:
        """See that images are there, and as many as are asked for, once, and not in every run."""
        for name in names:
            if not self._data and kind_of(DATASETS[name].event_shape) == "images":
                load_data(name, self.configuration)

    def _claim(self, folder: Path) -> None:
        """Write the configuration: from here on the folder is this study's."""
        floors = {name: self._floor(name) for name in self.configuration["datasets"]}
        content = {"ppl_models": "study", "format": FORMAT, "version": package_version()}
        content |= {"study": self.configuration, "num_parameters": self.num_parameters, "floors": floors}
        write_json(folder / CONFIGURATION, content)

    def _see_that_it_is_ours(self, folder: Path, *, resume: bool) -> None:
        """See that the study in the folder is this one, and is to go on."""
        if not resume:
            raise OptionError(
                f"folder {folder} holds a study already. Write resume=True (--resume on the command line) to go on, or "
                "another folder."
            )
        before = read_configuration(folder)
        if before["version"] != package_version():
            raise OptionError(
                f"folder {folder} holds a study of ppl-models {before['version']}; this is {package_version()}, whose "
                "numbers may differ. Write another folder."
            )
        for name, value in self.configuration.items():
            if before["study"].get(name) != value:
                raise OptionError(
                    f"folder {folder} holds another study: {name} is {before['study'].get(name)!r} there; got "
                    f"{value!r}. Write another folder."
                )

    def _event_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._data[name].train.shape[1:]) if self._data else DATASETS[name].event_shape

    def _count(self, contender: Contender, dataset: str) -> int:
        """Count what is trained, and see that the model takes such data."""
        event_shape = self._event_shape(dataset)
        options = {"guide": contender.guide, "published": self.configuration["published"]}
        try:
            with torch.random.fork_rng():
                pair = build_pair(contender.model, event_shape, pairs=self._pairs or PAIRS, **options)
        except PplError as error:
            raise type(error)(f"{error} The dataset is {dataset!r}, of shape {event_shape}.") from error
        return count_parameters(*pair)

    def _floor(self, name: str) -> float:
        """The entropy, where there is one that means anything: not of points on a curve."""
        if self._data:
            data = self._data[name]
            entropy: float | None = data.density.entropy if isinstance(data, ToyData) else None
        else:
            entropy = DATASETS[name].entropy
        return math.nan if entropy is None or not math.isfinite(entropy) else entropy

    def __repr__(self) -> str:
        shown = {"models": None, "guides": [DEFAULT], "objectives": ["elbo"], "datasets": None, "seeds": None}
        study = self.configuration | {"datasets": list(self.configuration["datasets"])}
        parts = [f"{name}={study[name]}" for name, default in shown.items() if study[name] != default]
        return f"Study({', '.join(parts)}, epochs={study['epochs']})"


def _do(job: Job, work: Path) -> Record:
    """A run, in whatever process."""
    write_progress(work, 0, math.nan)
    return run_job(job, work, lambda epoch, loss: write_progress(work, epoch, loss))


def _is_left(folder: Path, cell: Cell, retry: str | None) -> bool:
    record = read_record(folder, cell)
    return record is None or record.status == retry


def _work_folder(folder: Path, cell: Cell) -> Path:
    """Where a run keeps its checkpoints while it is under way."""
    return folder.absolute() / "work" / cell.name
