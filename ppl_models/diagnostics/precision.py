"""widened: diagnostics in float64, whatever a model is in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ppl_models.reference.float64 import in_float64

__all__ = ["widened"]


def widened(model: Any, guide: Any, args: tuple[Any, ...]) -> AbstractContextManager[Any]:
    """Widen whatever is narrower; what is float64 already needs no help."""
    parameters = [p for m in (model, guide) if isinstance(m, nn.Module) for p in m.parameters()]
    narrow = [p for p in (*parameters, *args) if isinstance(p, Tensor) and p.is_floating_point()]
    return nullcontext() if all(p.dtype == torch.float64 for p in narrow) and narrow else in_float64()
