"""Evaluations that keep nothing for the backward pass, and are made again in it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any

from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.checkpoint import checkpoint

__all__ = ["recomputed"]


def recomputed(function: Callable[[Tensor], Tensor], argument: Tensor) -> Tensor:
    """Evaluate a function now, and again when its gradient is asked for, so that memory is held only then.

    The function may itself differentiate. Whatever it depends on is reached by the gradient, whether it is handed in or
    not. The second evaluation draws the same noise, sees the Pyro handlers that were there at the first, and leaves
    batch normalisations' running statistics as they are; beyond that the function must be one that can be repeated.

    Example:
        >>> import torch
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> def slope(x):
        ...     (slope,) = torch.autograd.grad(x**3, x, create_graph=True)
        ...     return slope
        >>> recomputed(slope, x).backward()
        >>> x.grad
        tensor(18.)
    """
    again = _Again()
    result: Tensor = checkpoint(function, argument, use_reentrant=False, context_fn=lambda: (nullcontext(), again))
    return result


class _Again:
    """The world of the first evaluation around each later one, which leaves no trace."""

    def __init__(self) -> None:
        self.handlers = list(_PYRO_STACK)

    def __enter__(self) -> None:
        with ExitStack() as stack:
            present = list(_PYRO_STACK)
            stack.callback(_PYRO_STACK.__setitem__, slice(None), present)
            _PYRO_STACK[:] = self.handlers
            statistics: list[tuple[nn.Module, dict[str, Tensor | None]]] = []
            stack.callback(_put_back, statistics)

            def keep(module: nn.Module, inputs: Any) -> None:
                if isinstance(module, _NormBase) and module.training:
                    statistics.append((module, dict(module._buffers)))
                    for name, buffer in module._buffers.items():
                        module._buffers[name] = None if buffer is None else buffer.clone()

            # For modules of any function: a model need not be a module itself.
            stack.callback(register_module_forward_pre_hook(keep).remove)
            self.leave = stack.pop_all()

    def __exit__(self, *error: Any) -> None:
        self.leave.close()


def _put_back(statistics: list[tuple[nn.Module, dict[str, Tensor | None]]]) -> None:
    for module, buffers in reversed(statistics):
        module._buffers.update(buffers)
