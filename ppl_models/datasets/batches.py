"""Batches whose content depends on the seed and the epoch, and on nothing that ran before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from guides.errors import OptionError, whole_number
from ppl_models.datasets.binarise import binarise
from ppl_models.seeds import derived_seed, seeded_generator

__all__ = ["Batches"]


@final
class Batches:
    """Go through data in batches, in an order of its own in each epoch.

    The order is a function of (seed, epoch), and the binarisation of (seed, epoch, batch): a run that was interrupted
    and goes on sees what it would have seen. Where ``torch.distributed`` is at work, each process gets every so-manyth
    batch of a shuffled pass, all the same number, and so leaves out what does not divide evenly.

    Lightning tells it the epoch through ``sampler.set_epoch`` and keeps its place in checkpoints through
    ``state_dict``; on its own, each pass is the next epoch.

    Shapes: ``data`` ``(N, *)``; each batch ``(batch_size, *)``, the last one of an epoch shorter unless it is dropped.

    Args:
        data: Images, points, or whatever else stands along the first dimension.
        batch_size: B.
        seed: Decides order and binarisation. Without one the data stand in their own order, and every process gets all.
        dynamic: Draw each pixel of each batch as 0 or 1, with its grey value as the probability of 1; needs a seed.
        drop_last: Leave out the last batch of an epoch if it is shorter.

    Raises:
        OptionError: If ``batch_size`` is not a whole number of at least 1, ``drop_last`` leaves no batch, ``seed`` is
            not a whole number of at least 0, or ``dynamic`` has no seed.

    Example:
        >>> batches = Batches(torch.arange(5.0), batch_size=2, seed=0)
        >>> [len(batch) for batch in batches]
        [2, 2, 1]
        >>> batches.set_epoch(3)
        >>> third = torch.cat(list(batches))
        >>> batches.set_epoch(3)
        >>> torch.equal(torch.cat(list(batches)), third)
        True
    """

    #: Lightning takes it for granted in whatever has a sampler.
    batch_sampler: None = None

    def __init__(
        self,
        data: Tensor,
        *,
        batch_size: int,
        seed: int | None = None,
        dynamic: bool = False,
        drop_last: bool = False,
    ) -> None:
        size = whole_number("batch_size", batch_size, least=1)
        if drop_last and size > len(data):
            raise OptionError(f"batch_size must be at most {len(data)} with drop_last=True; got {size}.")
        if dynamic and seed is None:
            raise OptionError("seed must be given with dynamic=True; got None.")
        self._data = data
        self._batch_size = size
        self._seed = None if seed is None else derived_seed(seed, "batches")
        self._dynamic = dynamic
        self._drop_last = drop_last
        self._epoch = self._start = self._next = 0
        #: Whether each process is given its part. Whoever shares batches out among processes by himself says no.
        self.share_out = True

    def __len__(self) -> int:
        whole = len(self._data) // self._batch_size
        batches = whole if self._drop_last else -(-len(self._data) // self._batch_size)
        return batches // self._place()[1]

    def __iter__(self) -> Iterator[Tensor]:
        # As a generator, it asks for the epoch when the first batch is wanted: Lightning says it after ``iter``.
        epoch, start, self._start = self._epoch, self._start, 0
        order = self._order(epoch)
        process, processes = self._place()
        for turn in range(start, len(self)):
            number = turn * processes + process
            self._next = turn + 1
            yield self._batch(order, epoch, number)
        self._epoch, self._next = epoch + 1, 0

    def _order(self, epoch: int) -> Tensor:
        if self._seed is None:
            return torch.arange(len(self._data))
        return torch.randperm(len(self._data), generator=seeded_generator(derived_seed(self._seed, "order", epoch)))

    def _batch(self, order: Tensor, epoch: int, number: int) -> Tensor:
        batch = self._data[order[number * self._batch_size : (number + 1) * self._batch_size]]
        if self._seed is None or not self._dynamic:
            return batch
        return binarise(batch, seeded_generator(derived_seed(self._seed, "pixels", epoch, number)))

    def _place(self) -> tuple[int, int]:
        return (0, 1) if self._seed is None or not self.share_out else _processes()

    @property
    def num_data(self) -> int:
        """How many data a pass goes through."""
        return min(len(self._data), self._batch_size * len(self)) if self._drop_last else len(self._data)

    @property
    def sampler(self) -> Batches:
        """Itself: where Lightning looks for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of ``epoch``: from a place in it that was restored, or else from its start."""
        if epoch != self._epoch or self._start >= len(self):
            self._start = self._next = 0
        self._epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, and the number of the batch that comes next."""
        return {"epoch": self._epoch, "next": self._next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go back to the place of ``state``, for one pass."""
        self._epoch, self._start = state["epoch"], state["next"]
        self._next = self._start


def _processes() -> tuple[int, int]:
    """Return this process's number, and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
