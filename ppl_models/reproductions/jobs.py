"""run_jobs: do what a report still lacks, in several processes, and lose nothing to an interrupt."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from guides.errors import whole_number
from ppl_models.reproductions.folder import ReportFolder

__all__ = ["Job", "available_cores", "run_jobs"]


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
            this process. More need a program whose own work stands under ``if __name__ == "__main__":``.
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
            with _workers(min(processes, len(left))) as pool:
                futures = [pool.submit(job.run, folder) for job in left]
                for future in as_completed(futures):
                    advance(future.result())
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


@contextmanager
def _workers(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Lend processes that end with the block, however it ends."""
    before = set(multiprocessing.active_children())
    # A forked child of a process with threads may hang; a new one cannot.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
            process.join()
        raise
    pool.shutdown()


def _begin() -> None:
    """An interrupt is for the process that waits: it ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
