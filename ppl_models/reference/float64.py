"""in_float64: run a model of any precision in float64, without changing it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

__all__ = ["in_float64"]


@contextmanager
def in_float64() -> Iterator[None]:
    """Let every function of torch see its lower-precision real tensors in float64, and make new ones in it.

    Parameters and data keep what they are: they are widened on the way in. Distributions, those made before included,
    check neither arguments nor values, for a sampler looks at points where they overflow.

    Example:
        >>> import torch
        >>> weight = torch.ones(2)
        >>> with in_float64():
        ...     product = weight @ torch.zeros(2, dtype=torch.float64)
        >>> product.dtype, weight.dtype
        (torch.float64, torch.float32)
    """
    before = torch.get_default_dtype()
    check = Distribution._validate_sample
    torch.set_default_dtype(torch.float64)
    Distribution._validate_sample = _no_check  # type: ignore[assignment,method-assign]
    try:
        with _Widened(), pyro.validation_enabled(False):
            yield
    finally:
        torch.set_default_dtype(before)
        Distribution._validate_sample = check  # type: ignore[method-assign]


def _no_check(law: Any, value: Any) -> None:
    """In place of the check by distributions that were made with ``validate_args``."""


class _Widened(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _ABOUT_THE_OBJECT:
            return func(*args, **(kwargs or {}))
        kept = 1 if name in _IN_PLACE or (name.endswith("_") and not name.endswith("__")) else 0  # it is written to
        widened = [*args[:kept], *map(_widen, args[kept:])]
        return func(*widened, **{key: _widen(value) for key, value in kwargs.items()}) if kwargs else func(*widened)


_ABOUT_THE_OBJECT = {"__hash__", "__repr__", "__deepcopy__", "__format__", "backward", "data_ptr"}
_IN_PLACE = {"__setitem__", "__set__"} | {f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "pow")}
_NARROW = (torch.float16, torch.bfloat16, torch.float32)


def _widen(x: Any) -> Any:
    if isinstance(x, list | tuple) and not isinstance(x, torch.Size):
        return tree_map(_widen_one, x)
    return _widen_one(x)


def _widen_one(x: Any) -> Any:
    return x.to(torch.float64) if isinstance(x, Tensor) and x.dtype in _NARROW else x
