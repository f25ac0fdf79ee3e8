"""The state of the generators that noise comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["random_state", "restored"]


def random_state() -> dict[str, Tensor]:
    """The state of torch's global generators, the CPU's and that of each GPU in use, by device."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        states |= {f"cuda:{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


@contextmanager
def restored(states: Mapping[str, Tensor]) -> Iterator[None]:
    """Draw the noise that was drawn from these states on; afterwards the generators go on where they were.

    Example:
        >>> states = random_state()
        >>> first = torch.randn(3)
        >>> with restored(states):
        ...     bool((torch.randn(3) == first).all())
        True
    """
    before = random_state()
    try:
        _set(states)
        yield
    finally:
        _set(before)


def _set(states: Mapping[str, Tensor]) -> None:
    for device, state in states.items():
        if device == "cpu":
            torch.set_rng_state(state.cpu())
        elif torch.cuda.is_available() and torch.device(device).index < torch.cuda.device_count():
            torch.cuda.set_rng_state(state.cpu(), device)
