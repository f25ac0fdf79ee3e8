"""How far a training is: what a checkpoint keeps beside parameters and optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["Progress", "noise_state", "set_noise_state"]


@dataclass
class Progress:
    """How far a training is, as it is kept in a checkpoint.

    Args:
        records: One dictionary per epoch done.
        sums: Of this epoch so far, by column, each value as often as its batch has rows.
        rows: How many rows that was.
        norms: The sum of the gradients' norms.
        skipped: How many steps of this epoch were skipped.
        done: How many were not.
        total_skipped: How many steps were skipped in all.
        rate: The last step's learning rate.
        best_loss: The smallest validation loss.
        best_epoch: Its epoch.
        seconds: Wall-clock time.
        compile_seconds: Of which compiling.
        finished: Whether the training stopped before its last epoch for good.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    rows: float = 0.0
    norms: float = 0.0
    skipped: int = 0
    done: int = 0
    total_skipped: int = 0
    rate: float = math.nan
    best_loss: float = math.inf
    best_epoch: int | None = None
    seconds: float = 0.0
    compile_seconds: float = 0.0
    finished: bool = False


def noise_state(device: torch.device) -> dict[str, Tensor]:
    """The state of the generators that a module on a device draws from, whatever the device's number."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_noise_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Go back to a state of the generators that a module on a device draws from."""
    torch.set_rng_state(states["cpu"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
