"""One run of a study: build, train, judge."""

from __future__ import annotations

import errno
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from guides.errors import DivergedError, OptionError
from ppl_models.datasets import DATASETS, ImageData, ToyData, binarise, load
from ppl_models.diagnostics import importance_nll
from ppl_models.files import OF_THE_DISK
from ppl_models.objectives import ELBO, KLWeights
from ppl_models.seeds import derived_seed
from ppl_models.study.cells import Cell
from ppl_models.study.pairs import OBJECTIVES, PAIRS, Pair, Training, build_pair, kind_of
from ppl_models.study.records import Record
from ppl_models.training import train
from ppl_models.training.saving import read_file

__all__ = ["DISK_ERRORS", "Job", "ended_run", "kl_weight", "kl_weights", "load_data", "own_settings", "run_job"]

#: What no later run of a study can do anything about.
DISK_ERRORS = OF_THE_DISK | {errno.EROFS}

#: Points to judge by, if nothing else is said: enough to tell a mean to 0.01 nats.
TEST_POINTS = 10_000

#: Upper limit of draws times numbers per datum in one batched run of the judgement.
_NUMBERS = 1_000_000

#: Seeds of trainings are smaller.
_SEEDS = 2**31


@dataclass(frozen=True)
class Job:
    """All that a run needs to know, in another process or on another machine.

    Args:
        cell: Which run it is.
        study: The study's configuration.
        data: The data, where they are not known by their name.
        pair: The model, likewise.
    """

    cell: Cell
    study: dict[str, Any]
    data: ToyData | ImageData | None = None
    pair: Pair | None = None

    @property
    def pairs(self) -> Mapping[str, Pair]:
        """The models by name."""
        return PAIRS if self.pair is None else {self.cell.contender.model: self.pair}

    def read_data(self) -> ToyData | ImageData:
        """The data."""
        return load_data(self.cell.dataset, self.study) if self.data is None else self.data

    def training(self, event_shape: tuple[int, ...]) -> tuple[Training, int]:
        """How the model is trained, and over how many epochs its KL terms are warmed up."""
        default = self.pairs[self.cell.contender.model].training[kind_of(event_shape)]
        if self.study["published"]:
            default = default.published
        names = ("lr", "schedule", "batch_size", "free_bits", "max_grad_norm")
        given = {name: self.study[name] for name in names if self.study[name] is not None}
        epochs, warmup = self.study["epochs"], self.study["warmup"]
        if default.warmup is None:
            warmup = 0
        elif warmup is None:
            warmup = math.ceil(default.warmup * epochs)
        return replace(default, **given), warmup


def kl_weight(warmup: int, epoch: int) -> float:
    """The weight of the KL terms in an epoch, counted from 1: as in the published study, 1 / warmup in the first."""
    return min(1.0, epoch / warmup) if warmup else 1.0


def kl_weights(warmup: int, free_bits: float = 0.0) -> KLWeights | None:
    """The same for an objective, with free bits."""
    if warmup <= 1 and not free_bits:
        return None
    return KLWeights(warmup=max(warmup - 1, 0), per="epoch", start=1 / max(warmup, 1), free_bits=free_bits)


def load_data(name: str, study: dict[str, Any]) -> ToyData | ImageData:
    """Load, or draw, the data that all runs of a study share.

    Raises:
        OptionError: If there are not as many images.
        DataError: If the files cannot be had.
    """
    sizes = tuple(study[option] for option in ("num_train", "num_validation", "num_test"))
    return _load(name, study["data_seed"], *sizes)


@lru_cache(maxsize=2)
def _load(name: str, seed: int, *sizes: int | None) -> ToyData | ImageData:
    parts = ("train", "validation", "test")
    if kind_of(DATASETS[name].event_shape) == "points":
        given = {"num_test": TEST_POINTS}
        given |= {f"num_{part}": size for part, size in zip(parts, sizes, strict=True) if size is not None}
        return load(name, seed=seed, **given)
    data: Any = load(name, seed=seed)
    for part, size in zip(parts, sizes, strict=True):
        if size is not None:
            if size > (most := len(getattr(data, part))):
                raise OptionError(
                    f"num_{part} must be at most {most}, the images that {name!r} has for it; got {size}."
                )
            data = replace(data, **{each: getattr(data, each)[:size] for each in (part, f"{part}_labels")})
    return data


def run_job(job: Job, work: Path, tell: Callable[[int, float], None] | None = None) -> Record:
    """Do one run, and say what became of it.

    Args:
        job: What to do.
        work: A folder for checkpoints, from which the run goes on if it was interrupted.
        tell: Called after each epoch with its number, from 1, and its validation loss.

    Raises:
        OSError: If the disk is full or cannot be written to: that is no fault of the run.
    """
    start = time.perf_counter()
    with own_settings():
        try:
            record = _run(job, work, tell)
        except DivergedError as error:
            record = Record(status="diverged", message=_short(str(error)))
        except OSError as error:
            if error.errno in DISK_ERRORS:
                raise
            record = _crash(error)
        except (Exception, SystemExit) as error:
            record = _crash(error)
        if record.status != "done" and not record.train_loss:
            _add_history(record, job, work)
    record.seconds = time.perf_counter() - start
    return record


def ended_run(job: Job, work: Path, error: Exception) -> Record:
    """Say what is known of a run whose process ended before it could.

    Args:
        job: What was to be done.
        work: The run's folder for checkpoints; empty where another machine has it.
        error: What the engine says of the end.
    """
    record = Record(status="crashed", message=_short(str(error)), details="".join(traceback.format_exception(error)))
    with own_settings():
        _add_history(record, job, work)
    return record


def _crash(error: BaseException) -> Record:
    what = "ended by SIGTERM" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
    return Record(status="crashed", message=_short(what), details=traceback.format_exc())


def _short(message: str) -> str:
    """One line, for a table: of a step that was not finite, all parameters with such a gradient are named."""
    return " ".join(message.split())[:500]


@contextmanager
def own_settings() -> Iterator[None]:
    """One thread and single precision, whatever the process has, so that numbers are the same everywhere."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)


def _run(job: Job, work: Path, tell: Callable[[int, float], None] | None) -> Record:
    cell, study = job.cell, job.study
    contender = cell.contender
    data = job.read_data()
    x, held_out, test = (part.to(torch.get_default_dtype()) for part in (data.train, data.validation, data.test))
    event_shape = tuple(x.shape[1:])
    training, warmup = job.training(event_shape)
    transform = binarise if isinstance(data, ImageData) and data.binary else None
    torch.manual_seed(derived_seed(cell.seed, "initialisation"))
    options = {"guide": contender.guide, "published": study["published"], "pairs": job.pairs}
    model, guide = build_pair(contender.model, event_shape, **options)
    limit = training.max_grad_norm
    result = train(
        model,
        guide,
        x,
        epochs=study["epochs"],
        validation=held_out,
        batch_size=training.batch_size,
        transform=transform,
        objective=OBJECTIVES[contender.objective](kl_weights(warmup, training.free_bits)),
        validation_objective=ELBO(),
        lr=training.lr,
        schedule=training.schedule,
        max_grad_norm=None if limit is None else limit * len(x),
        folder=work,
        resume=True,
        callbacks=[] if tell is None else [_telling(tell, len(held_out))],
        accelerator="cpu",
        seed=derived_seed(cell.seed, "training") % _SEEDS,
        progress=False,
    )
    history = _history(result.records, data, warmup)
    record = Record(status="done", **history)
    most = max(1, _NUMBERS // math.prod(event_shape))
    judged: dict[str, Any] = {"max_batch": most, "seed": derived_seed(cell.seed, "test") % _SEEDS}
    one = importance_nll(model, guide, test, num_samples=1, **judged)
    record.test_loss, record.test_loss_se = one.nll, one.standard_error
    if not isinstance(guide, nn.Module):  # without latents the bound is the density
        record.nll, record.nll_se = one.nll, one.standard_error
    elif study["num_importance"]:
        many = importance_nll(model, guide, test, num_samples=study["num_importance"], **judged)
        record.nll, record.nll_se = many.nll, many.standard_error
    if not math.isfinite(record.test_loss):
        record.status, record.message = "diverged", f"the loss on the test set is {record.test_loss}"
    return record


def _history(records: list[dict[str, Any]], data: ToyData | ImageData, warmup: int) -> dict[str, Any]:
    """What a record tells of the epochs that were done."""
    return {
        "skipped": sum(each["skipped"] for each in records),
        "train_loss": [each["loss"] / len(data.train) for each in records],
        "validation_loss": [each["validation_loss"] / len(data.validation) for each in records],
        "kl_weight": [kl_weight(warmup, each["epoch"] + 1) for each in records],
    }


def _add_history(record: Record, job: Job, work: Path) -> None:
    """What the last checkpoint tells of the epochs before a run failed."""
    try:
        before = read_file(work / "last.ckpt", "checkpoint", near=nn.Identity())
        data = job.read_data()
        _, warmup = job.training(tuple(data.train.shape[1:]))
        history = _history(before["training"]["progress"]["records"], data, warmup)
    except Exception:  # the failure itself has been told
        return
    for name, values in history.items():
        setattr(record, name, values)


def _telling(tell: Callable[[int, float], None], num_validation: int) -> Any:
    from pytorch_lightning import Callback

    class Telling(Callback):
        """Tells of each epoch when the next begins: ours are called before the epoch's record is made."""

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            for done in pl_module.progress.records[-1:]:
                tell(done["epoch"] + 1, done["validation_loss"] / num_validation)

    return Telling()
