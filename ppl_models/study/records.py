"""What a study writes: its configuration, and a record of each run, as JSON files that are whole or not there."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from guides.errors import DataError, choose
from ppl_models.files import atomic_path
from ppl_models.study.cells import Cell
from ppl_models.study.run_metrics import STATUSES

__all__ = [
    "CONFIGURATION",
    "PER_EPOCH",
    "PER_RUN",
    "Record",
    "read_json",
    "read_record",
    "record_path",
    "write_json",
    "write_record",
]

#: The file of the configuration.
CONFIGURATION = "study.json"

#: What a record has one of for each epoch, and what it has one of.
PER_EPOCH = ("train_loss", "validation_loss", "kl_weight")
PER_RUN = ("test_loss", "test_loss_se", "nll", "nll_se", "seconds", "skipped")


@dataclass(kw_only=True)
class Record:
    """What became of one run. Losses are means per datum, in nats.

    Args:
        status: ``"done"``, ``"diverged"`` or ``"crashed"``.
        message: Why, if not done.
        details: The traceback of a crash.
        seconds: Wall-clock time of the run.
        skipped: How many training steps were skipped in the epochs done, because the loss or a gradient was not finite;
            NaN where that is not known.
        train_loss: One per epoch done.
        validation_loss: Likewise.
        kl_weight: Likewise.
        test_loss: Minus the ELBO of the final model on the test set.
        test_loss_se: Its standard error over the data.
        nll: The negative log-likelihood of the test set by importance sampling.
        nll_se: Its standard error over the data.
    """

    status: str
    message: str = ""
    details: str = ""
    seconds: float = math.nan
    skipped: float = math.nan
    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    kl_weight: list[float] = field(default_factory=list)
    test_loss: float = math.nan
    test_loss_se: float = math.nan
    nll: float = math.nan
    nll_se: float = math.nan


def record_path(folder: Path, cell: Cell) -> Path:
    """Where the record of a cell is kept."""
    return folder / "runs" / f"{cell.name}.json"


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, all or nothing; numbers that JSON has not are written as words."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_words(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike[str], *, instead: str = "") -> dict[str, Any]:
    """Read a JSON file of ours.

    Args:
        path: The file.
        instead: What to do if it is damaged, for the message.

    Raises:
        FileNotFoundError: If there is none.
        DataError: If it is damaged.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError
    except ValueError as error:  # JSON's and Unicode's are
        raise DataError(f"{path} must be a whole JSON file of a study; it is damaged.{instead}") from error
    return content


def write_record(folder: Path, cell: Cell, record: Record) -> None:
    """Keep what became of a cell."""
    write_json(record_path(folder, cell), {"cell": str(cell), **asdict(record)})


def read_record(folder: Path, cell: Cell) -> Record | None:
    """What became of a cell; ``None`` as long as that is not known.

    Raises:
        DataError: If the file is damaged.
    """
    path = record_path(folder, cell)
    if not path.exists():
        return None
    content = read_json(path, instead=" Remove it to redo it.")
    try:
        values: dict[str, Any] = {name: content[name] for name in ("status", "message", "details")}
        values |= {name: [float(each) for each in content[name]] for name in PER_EPOCH}
        content.setdefault("skipped", math.nan)  # ppl-models 0.1.0 did not count them at first
        values |= {name: float(content[name]) for name in PER_RUN}
        choose("status", values["status"], STATUSES)
        return Record(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} must be the record of a run; it is damaged. Remove it to redo it.") from error


def _words(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _words(each) for name, each in content.items()}
    if isinstance(content, list | tuple):
        return [_words(each) for each in content]
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content
