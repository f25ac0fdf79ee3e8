"""What holds while a fit is judged: a seed, evaluation mode, no checks by Pyro, and float64 where it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ppl_models.reference.float64 import in_float64
from ppl_models.training.modes import evaluating

__all__ = ["judging", "seeded", "widened"]


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Fix the chance inside by a seed, if there is one, and leave the global generator as it was."""
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield


@contextmanager
def judging(model: Any, guide: Any, seed: int | None) -> Iterator[None]:
    """Evaluate a model and guide as they are: in evaluation mode, by this seed, and without Pyro's checks."""
    with seeded(seed), evaluating(model, guide), pyro.validation_enabled(False):
        yield


def widened(model: Any, guide: Any, args: tuple[Any, ...]) -> AbstractContextManager[Any]:
    """Widen whatever is narrower; what is float64 already needs no help."""
    parameters = [p for m in (model, guide) if isinstance(m, nn.Module) for p in m.parameters()]
    narrow = [p for p in (*parameters, *args) if isinstance(p, Tensor) and p.is_floating_point()]
    return nullcontext() if all(p.dtype == torch.float64 for p in narrow) and narrow else in_float64()
