"""Training and evaluation modes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["evaluating"]


@contextmanager
def evaluating(*modules: Any) -> Iterator[None]:
    """Put modules into evaluation mode, and each back into the mode it had."""
    modes = {part: part.training for m in modules if isinstance(m, nn.Module) for part in m.modules()}
    try:
        for part in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
