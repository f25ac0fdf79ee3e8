"""Denormal numbers as zeros, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["denormals_are_zero", "flushing_denormals"]

#: torch cuts elementwise work into parts of this size at least, one per thread.
_GRAIN = 32768


def denormals_are_zero() -> bool:
    """Whether the calling thread takes denormal numbers for zeros; torch can set that, but not tell."""
    return bool((torch.tensor(1e-310, dtype=torch.float64) * 1.0 == 0.0).item())


@contextmanager
def flushing_denormals() -> Iterator[None]:
    """Take denormal numbers for zeros in the calling thread, and then again as before.

    On some processors arithmetic with them is many times slower, and they come up in every long training: in an
    optimizer's averages of gradients that have become zero.

    The flag belongs to a thread, which passes it on to those it starts. The backward pass of CPU tensors runs in the
    thread that asks for it, and is covered. torch's pool of threads for large tensors keeps what it was started with,
    and nothing can change that: it is started here beforehand, so that it does not keep this flag for ever. Where
    the processor has no such flag, nothing is done.
    """
    if denormals_are_zero():
        yield
        return
    if torch.get_num_threads() > 1:
        torch.zeros(_GRAIN * torch.get_num_threads()).exp_()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
