"""Batches whose order and noise are functions of a seed and an epoch, so that training can go on anywhere."""

from __future__ import annotations

import copy
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from guides.errors import DataError, OptionError
from ppl_models.training.batches import Transform, check_batch_size, check_finite, one_epoch, take_rows

__all__ = ["InMemory", "Loaded", "Resumable", "Source", "Unpack", "arguments", "batch_length"]

_END = object()

#: From what a loader yields to the model's arguments.
Unpack = Callable[[Any], Sequence[Any]]


class Source(ABC):
    """Batches of one epoch after another: arguments of a model, each a share of all data.

    Args:
        num_data: N, the number of all data.
    """

    num_data: int

    @property
    @abstractmethod
    def num_batches(self) -> int:
        """The number of batches in an epoch."""

    @abstractmethod
    def epoch(self, number: int, seed: int, rank: int, processes: int) -> Iterator[tuple[Any, ...]]:
        """Every ``processes``-th batch of an epoch, from that of this rank on; all that is random is the seed's."""


class InMemory(Source):
    """Rows of tensors.

    Args:
        args: Arguments of a model.
        batch_size: B; all data if ``None``.
        transform: What is done to the first argument of each batch.
        shuffle: Whether each epoch has an order of its own.

    Raises:
        DataError: If data are not finite, or cannot be cut into batches.
        OptionError: If ``batch_size`` is not between 1 and the number of rows.
    """

    def __init__(
        self, args: tuple[Any, ...], *, batch_size: int | None, transform: Transform | None = None, shuffle: bool = True
    ) -> None:
        check_finite(args)
        self.args, self.transform, self.shuffle = args, transform, shuffle
        self.num_data, self.batch_size = check_batch_size(args, batch_size)

    @property
    def num_batches(self) -> int:
        return -(-self.num_data // self.batch_size)

    def epoch(self, number: int, seed: int, rank: int, processes: int) -> Iterator[tuple[Any, ...]]:
        if not self.shuffle:
            rows = [slice(at, at + self.batch_size) for at in range(0, self.num_data, self.batch_size)]
            return (take_rows(self.args, part) for part in islice(rows, rank, None, processes))
        generator = torch.Generator().manual_seed(seed)
        batches = one_epoch(self.args, self.batch_size, self.transform, generator)
        return islice(batches, rank, None, processes)


class Loaded(Source):
    """Batches of a loader.

    Whatever it draws from the generators of torch, NumPy and Python, in this process or in its workers, comes from the
    epoch's seed; its own generators are given that seed too.

    Args:
        loader: A ``DataLoader``, or any iterable of batches.
        num_data: N; found if the loader can tell.
        num_batches: How many batches make an epoch; the loader's length if not given.
        unpack: From a batch to the model's arguments.

    Raises:
        OptionError: If a number is not given and cannot be found.
        DataError: If the loader is empty; or, on iteration, if a batch is, or if there are fewer than there should be.
    """

    def __init__(
        self, loader: Iterable[Any], *, num_data: int | None, num_batches: int | None, unpack: Unpack | None
    ) -> None:
        self.loader, self.unpack = copy.copy(loader) if hasattr(loader, "share_out") else loader, unpack
        if self.loader is not loader:
            vars(self.loader)["share_out"] = False  # it is done here
        kind = type(loader).__name__
        found = _num_data(loader) if num_data is None else num_data
        if found is None:
            raise OptionError(
                f"num_data must be given for a loader that does not tell how many data it has; got {kind}. Write "
                "num_data=len(dataset)."
            )
        self.num_data, length = found, _length(loader) if num_batches is None else num_batches
        if length is None:
            raise OptionError(
                f"num_batches must be given for a loader without a length; got {kind}. Write how many make an epoch: "
                "num_batches=1000."
            )
        if length == 0:
            raise DataError(f"data must have at least one batch; got an empty {kind}.")
        self._num_batches = length

    @property
    def num_batches(self) -> int:
        return self._num_batches

    def epoch(self, number: int, seed: int, rank: int, processes: int) -> Iterator[tuple[Any, ...]]:
        loader, own = _share_of(self.loader, rank, processes)
        for part in _parts_of(self.loader):
            if hasattr(part, "set_epoch"):
                part.set_epoch(number)
            if isinstance(getattr(part, "generator", None), torch.Generator):
                part.generator.manual_seed(seed)
        inside = _Generators.seeded(seed)
        with inside:
            batches = iter(loader)
            if not own:
                batches = islice(batches, rank, None, processes)
        for index in range(rank, self.num_batches, processes):
            with inside:
                batch = next(batches, _END)
                if batch is _END:
                    raise DataError(f"the loader must have {self.num_batches} batches in each epoch; got {index}.")
                args = arguments(batch, self.unpack)
            if batch_length(args) == 0:
                raise DataError(f"every batch must have at least one row; batch {index} of the epoch has none.")
            yield args


class Resumable:
    """One process's batches, as Lightning takes them: they go on in the middle of an epoch.

    Each is ``{"args": arguments, "index": number in the epoch, "counts": whether it is part of the data}``: where
    batches cannot be shared out evenly, a process that has none left is given one row again, to keep step.

    Args:
        source: Where batches come from.
        seed: Fixes order and noise, with the epoch.
        epoch: Gives the number of the epoch.
        place: Gives the number of this process, and of all.
    """

    def __init__(
        self, source: Source, *, seed: int, epoch: Callable[[], int], place: Callable[[], tuple[int, int]]
    ) -> None:
        self.source, self.seed, self.epoch, self.place = source, seed, epoch, place
        #: How many batches of this epoch are done; whoever trains on them says so.
        self.taken = 0
        self._start = 0

    def __len__(self) -> int:
        return -(-self.source.num_batches // self.place()[1])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rank, processes = self.place()
        start, self._start = self._start, 0
        self.taken = start
        epoch = self.epoch()
        seed = random.Random(f"{self.seed}, {epoch}").getrandbits(63)
        index, batch = start, None
        # All before the start are made and dropped: the noise of later ones may depend on it.
        for batch in islice(self.source.epoch(epoch, seed, rank, processes), start, None):
            yield {"args": batch, "index": index, "counts": True}
            index += 1
        if index < len(self):
            if batch is None:
                batch = next(self.source.epoch(epoch, seed, 0, 1))
            size = batch_length(batch)
            one = tuple(a[:1] if isinstance(a, Tensor) and a.dim() and len(a) == size else a for a in batch)
            yield {"args": one, "index": index, "counts": False}

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._start = state["taken"]


def arguments(batch: Any, unpack: Unpack | None = None) -> tuple[Any, ...]:
    """What a loader yields, as arguments of a model.

    Raises:
        DataError: If it is neither a tensor nor a tuple or list.

    Example:
        >>> arguments(torch.zeros(2))
        (tensor([0., 0.]),)
    """
    if unpack is not None:
        batch = unpack(batch)
    if isinstance(batch, Tensor):
        return (batch,)
    if isinstance(batch, tuple | list):
        return tuple(batch)
    raise DataError(
        f"a batch must be a tensor, or a tuple of the model's arguments; got {type(batch).__name__}. Write "
        "unpack=lambda batch: (batch['image'],)."
    )


def batch_length(args: tuple[Any, ...]) -> int | None:
    """The number of rows of the first tensor among arguments, if there is one."""
    return next((len(a) for a in args if isinstance(a, Tensor) and a.dim()), None)


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


def _num_data(loader: Any) -> int | None:
    """How many data a loader goes through in an epoch."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        told: int | None = getattr(loader, "num_data", None)
        return told
    return len(loader.dataset if loader.batch_sampler is None else loader.sampler)  # type: ignore[arg-type]


def _parts_of(loader: Any) -> list[Any]:
    """A loader and its samplers, as far as it has them."""
    sampler, batches = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    return [loader, sampler, batches, getattr(batches, "sampler", None)]


class _EveryNth:
    """Every n-th batch of indices."""

    def __init__(self, batches: Any, rank: int, processes: int) -> None:
        self.batches, self.rank, self.processes = batches, rank, processes

    def __iter__(self) -> Iterator[list[int]]:
        return islice(iter(self.batches), self.rank, None, self.processes)

    def __len__(self) -> int:
        return len(range(self.rank, len(self.batches), self.processes))


def _share_of(loader: Any, rank: int, processes: int) -> tuple[Any, bool]:
    """A loader of this process's batches alone, and whether that could be made; other loaders load all of them."""
    plain = type(loader) is DataLoader and type(loader.batch_sampler) is BatchSampler
    if processes == 1 or not plain:
        return loader, processes == 1
    keep = ["num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context"]
    keep += ["generator", "prefetch_factor", "persistent_workers"]
    sampler: Any = _EveryNth(loader.batch_sampler, rank, processes)
    options = {name: getattr(loader, name) for name in keep}
    return DataLoader(loader.dataset, batch_sampler=sampler, **options), True


@dataclass
class _Generators:
    """States of torch's, NumPy's and Python's generators on the CPU, in force inside the block."""

    states: tuple[Any, Any, Any]
    outside: tuple[Any, Any, Any] | None = None

    @classmethod
    def seeded(cls, seed: int) -> _Generators:
        before = cls._now()
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        inside = cls(cls._now())
        cls._set(before)
        return inside

    @staticmethod
    def _now() -> tuple[Any, Any, Any]:
        return torch.get_rng_state(), np.random.get_state(), random.getstate()

    @staticmethod
    def _set(states: tuple[Any, Any, Any]) -> None:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])

    def __enter__(self) -> None:
        self.outside = self._now()
        self._set(self.states)

    def __exit__(self, *exception: object) -> None:
        self.states = self._now()
        assert self.outside is not None
        self._set(self.outside)
