"""Where the runs of a study are done: processes of this machine, Ray, or this process."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, final

from guides.errors import OptionError, choose

__all__ = ["BACKENDS", "CrashedError", "Engine", "start_engine"]

#: A task is a function and its arguments.
Task = tuple[Callable[..., Any], tuple[Any, ...]]


class CrashedError(Exception):
    """The process of a task ended before the task did. Its cause has the details."""


class Engine(ABC):
    """Does tasks side by side, each in a state of the process that no other disturbs.

    Args:
        jobs: How many at a time.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs

    @abstractmethod
    def submit(self, task: Task) -> Any:
        """Begin a task; return a handle of it."""

    @abstractmethod
    def wait(self, handles: Collection[Any], seconds: float) -> list[Any]:
        """Wait until one is done, but not longer than some seconds; return those that are."""

    @abstractmethod
    def result(self, handle: Any) -> Any:
        """What a task returned, or raise what it raised.

        Raises:
            CrashedError: If its process ended.
        """

    @abstractmethod
    def close(self) -> None:
        """End what is still running."""


@final
class LokyEngine(Engine):
    """Processes of joblib's engine, loky.

    Each stands in a pool of its own, so that one that is killed, by the system for its memory for example, takes no
    other with it, and it is known whose task it had.
    """

    def __init__(self, jobs: int) -> None:
        super().__init__(jobs)
        # loky replaces a process whose memory has grown, between two tasks; that costs a start, and loses nothing.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given", category=UserWarning)
        self._idle: list[Any] = []
        self._busy: dict[Future[Any], tuple[Any, list[Any]]] = {}

    def submit(self, task: Task) -> Future[Any]:
        pool = self._idle.pop() if self._idle else self._pool()
        function, args = task
        future: Future[Any] = pool.submit(function, *args)
        self._busy[future] = (pool, list(pool._processes.values()))
        return future

    @staticmethod
    def _pool() -> Any:
        from joblib.externals.loky import ProcessPoolExecutor

        # One thread each, from the import of torch on.
        environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        return ProcessPoolExecutor(max_workers=1, initializer=_end_with, initargs=(os.getpid(),), env=environment)

    def wait(self, handles: Collection[Any], seconds: float) -> list[Any]:
        return list(wait(handles, timeout=seconds, return_when=FIRST_COMPLETED).done)

    def result(self, handle: Future[Any]) -> Any:
        pool, processes = self._busy.pop(handle)
        try:
            found = handle.result()
        except BrokenProcessPool as error:
            pool.shutdown(kill_workers=True)
            raise CrashedError(_ending(error, [each.exitcode for each in processes])) from error
        except BaseException:
            self._idle.append(pool)
            raise
        self._idle.append(pool)
        return found

    def close(self) -> None:
        for pool in [*(pool for pool, _ in self._busy.values()), *self._idle]:
            pool.shutdown(kill_workers=True)


def _end_with(parent: int) -> None:
    """End this process when the one that started it has ended, whatever ended that: nobody waits for results."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _ending(error: BrokenProcessPool, codes: list[int | None]) -> str:
    """Say how a process ended."""
    if error.__cause__ is not None:  # loky could not read what was sent, and killed the process itself
        reason = str(error.__cause__).strip('\n"').splitlines()[-1]
        return f"{str(error).partition('.')[0]}: {reason}"
    for code in codes:
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            memory = ", as the system does when memory runs out" if name == "SIGKILL" else ""
            return f"its process was killed by {name}{memory}"
        if code:
            return f"its process ended with exit code {code}"
    return "its process ended"


@final
class ThreadEngine(Engine):
    """A thread of this process, in which tasks take turns.

    Pyro's handlers and torch's generator belong to the whole process: two trainings at a time would draw each other's
    noise.
    """

    def __init__(self, jobs: int) -> None:
        super().__init__(1)
        self._pool = ThreadPoolExecutor(max_workers=1)

    def submit(self, task: Task) -> Future[Any]:
        function, args = task
        return self._pool.submit(function, *args)

    def wait(self, handles: Collection[Any], seconds: float) -> list[Any]:
        return list(wait(handles, timeout=seconds, return_when=FIRST_COMPLETED).done)

    def result(self, handle: Future[Any]) -> Any:
        return handle.result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@final
class RayEngine(Engine):
    """Tasks of Ray, on one machine or many: one CPU each, and none is tried again.

    The Ray that runs is used; one of this machine is started, and stopped, if there is none and none is named by
    ``RAY_ADDRESS``.
    """

    def __init__(self, jobs: int) -> None:
        super().__init__(jobs)
        try:
            import ray
        except ImportError as error:
            raise OptionError(
                "backend='ray' needs Ray, which is not installed. Write pip install 'ppl-models[ray]'."
            ) from error
        self._ray: Any = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            here: dict[str, Any] = {}
            if "RAY_ADDRESS" not in os.environ:
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told of the runs
                here = {"num_cpus": jobs, "include_dashboard": False}
            ray.init(log_to_driver=False, **here)
        self._call = ray.remote(num_cpus=1, max_retries=0)(_call)
        self._running: list[Any] = []

    def submit(self, task: Task) -> Any:
        handle = self._call.remote(*task)
        self._running.append(handle)
        return handle

    def wait(self, handles: Collection[Any], seconds: float) -> list[Any]:
        done: list[Any] = self._ray.wait(list(handles), num_returns=1, timeout=seconds)[0]
        return done

    def result(self, handle: Any) -> Any:
        self._running.remove(handle)
        try:
            return self._ray.get(handle)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self._ray.exceptions.OutOfMemoryError as error:
            raise CrashedError("Ray ended its process because memory ran out") from error
        except self._ray.exceptions.RayError as error:
            raise CrashedError(f"its process ended: {type(error).__name__}") from error

    def close(self) -> None:
        for handle in self._running:
            self._ray.cancel(handle, force=True)
        if self._ours:
            self._ray.shutdown()


def _call(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return function(*args)


#: Engines by name.
BACKENDS: dict[str, type[Engine]] = {"loky": LokyEngine, "ray": RayEngine, "threading": ThreadEngine}


def start_engine(backend: str, jobs: int) -> Engine:
    """Start an engine by its name.

    Raises:
        OptionError: If the name is unknown, or Ray is not installed.
    """
    return BACKENDS[choose("backend", backend, BACKENDS)](jobs)
