"""run_jobs: do what a report still lacks, in several processes, and lose nothing to an interrupt."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from guides.errors import whole_number
from ppl_models.reproductions.folder import ReportFolder
from ppl_models.study.engines import start_engine

__all__ = ["Job", "available_cores", "run_jobs"]

#: How often running jobs are looked at, in seconds.
LOOK = 0.5


@dataclass(frozen=True)
class Job:
    """A piece of work of some seconds to minutes, which leaves its numbers in the folder of a report.

    Args:
        key: Names it, and the file of its numbers.
        function: A function of a module, called with the folder and ``options``; it returns numbers, texts and lists of
            them.
        options: What it is called with, all of which can be pickled.
    """

    key: str
    function: Callable[..., Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, folder: ReportFolder) -> str:
        """Do the work with one thread, and keep what it returns."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            folder.keep(self.key, self.function(folder, **self.options))
        finally:
            torch.set_num_threads(threads)
        return self.key


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(
    folder: ReportFolder, jobs: Sequence[Job], *, processes: int | None = None, progress: bool = True
) -> dict[str, dict[str, Any]]:
    """Run the jobs that are not done yet, and return what all of them found.

    Each job writes its own numbers when it is done. After an interrupt, or a failure, a second call does the others.

    Args:
        folder: Where the jobs leave their numbers.
        jobs: In the order in which they are begun.
        processes: How many run at once, each with one thread; as many as there are cores by default. With 1 they run in
            this process.
        progress: Whether to show a progress bar.

    Raises:
        OptionError: If ``processes`` is less than 1.

    Returns:
        By key, what :meth:`ReportFolder.result` reads.
    """
    processes = available_cores() if processes is None else whole_number("processes", processes, least=1)
    left = [job for job in jobs if folder.result(job.key) is None]
    with _bar(len(jobs), len(jobs) - len(left)) if progress else nullcontext(lambda key: None) as advance:
        if min(processes, len(left)) <= 1:
            for job in left:
                advance(job.run(folder))
        else:
            engine = start_engine("loky", min(processes, len(left)))
            waiting = left[::-1]
            running: list[Any] = []
            try:
                while waiting or running:
                    while waiting and len(running) < engine.jobs:
                        running.append(engine.submit((waiting.pop().run, (folder,))))
                    for handle in engine.wait(running, LOOK):
                        running.remove(handle)
                        advance(engine.result(handle))
            finally:
                engine.close()
    found = {job.key: folder.result(job.key) for job in jobs}
    return {key: result for key, result in found.items() if result is not None}


@contextmanager
def _bar(total: int, done: int) -> Iterator[Callable[[str], object]]:
    """Show a bar on the error stream, and lend the function that moves it by one job, named beside it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("jobs"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[key]}"),
    ]
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("jobs", total=total, completed=done, key="")
        yield lambda key: bar.update(task, advance=1, key=key)
