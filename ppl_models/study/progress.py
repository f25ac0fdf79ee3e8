"""Progress bars of a study: one for all runs, and one for each that is under way."""

from __future__ import annotations

import json
import math
import os
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ppl_models.study.cells import Cell
from ppl_models.study.records import Record

if TYPE_CHECKING:
    from rich.progress import TaskID

__all__ = ["StudyProgress", "read_progress", "write_progress"]

#: The file in a run's folder that says how far it is.
FILE = "progress.json"


def write_progress(work: Path, epoch: int, loss: float) -> None:
    """Say, from the process of a run, how many epochs are done, and its validation loss; and which process it is."""
    with suppress(OSError):  # what is shown is not worth a failure
        work.mkdir(parents=True, exist_ok=True)
        temporary = work / f".{os.getpid()}.{FILE}"
        temporary.write_text(json.dumps([epoch, loss, os.getpid()]), encoding="utf-8")
        temporary.replace(work / FILE)


def read_progress(work: Path) -> tuple[int, float]:
    """How many epochs a run has done, and its validation loss."""
    try:
        epoch, loss, _ = json.loads((work / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0, math.nan
    return epoch, loss


class StudyProgress(AbstractContextManager["StudyProgress"]):
    """Show how far a study is, on the error stream.

    Args:
        total: The number of runs.
        done: How many of them are done.
        epochs: The number of epochs of each.
    """

    def __init__(self, total: int, done: int, epochs: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = [
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[told]}", markup=False),
        ]
        self.epochs, self.failed = epochs, 0
        self.bars = Progress(*columns, console=Console(stderr=True))
        self.all = self.bars.add_task("runs", total=total, completed=done, told="")
        self.each: dict[Cell, TaskID] = {}

    def __enter__(self) -> StudyProgress:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bars.stop()

    def begin(self, cell: Cell) -> None:
        """Show a bar of epochs for a run."""
        self.each[cell] = self.bars.add_task(f"  {cell}", total=self.epochs, told="")

    def update(self, cell: Cell, epoch: int, loss: float) -> None:
        """Move it."""
        told = "" if math.isnan(loss) else f"validation loss {loss:.4g}"
        self.bars.update(self.each[cell], completed=epoch, told=told)

    def end(self, cell: Cell, record: Record) -> None:
        """Take it away, and say so if the run failed."""
        self.bars.remove_task(self.each.pop(cell))
        if record.status != "done":
            self.failed += 1
            self.bars.console.print(f"{cell}: {record.status}: {record.message}", markup=False, highlight=False)
        self.bars.update(self.all, advance=1, told=f"{self.failed} failed" if self.failed else "")
