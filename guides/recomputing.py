"""Evaluations that keep nothing for the backward pass, and are made again in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.checkpoint import get_device_states, set_device_states

from guides.errors import ModelError

__all__ = ["recomputed"]


def recomputed(function: Callable[[Tensor], Tensor], argument: Tensor) -> Tensor:
    """Evaluate a function now, and again when its gradient is asked for, so that memory is held only then.

    The function may itself differentiate; ``torch.utils.checkpoint`` would make another evaluation for that. Whatever
    it depends on is reached by the gradient, whether it is handed in or not. The second evaluation draws the same
    noise, sees the Pyro handlers that were there at the first, and leaves batch normalisations' running statistics as
    they are; beyond that the function must be one that can be repeated.

    Raises:
        ModelError: In the backward pass, if the second evaluation takes another course.

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
    evaluation = _Evaluation(function, argument)
    with saved_tensors_hooks(evaluation.keep, evaluation.find):
        result = function(argument)
    evaluation.found.clear()
    return result


class _Place:
    """Where the graph needs a tensor."""

    def __init__(self, shape: torch.Size) -> None:
        self.shape = shape


class _Evaluation:
    """One evaluation: the tensors that its graph needs, as long as they are there, and all it takes to find them again.

    A tensor is held for as long as the graph holds its place.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], argument: Tensor) -> None:
        self.function, self.argument = function, argument
        self.places: list[ref[_Place]] = []
        self.found: WeakKeyDictionary[_Place, Tensor] = WeakKeyDictionary()
        self.handlers = list(_PYRO_STACK)
        self.noise = torch.get_rng_state(), *get_device_states(argument)
        kind = argument.device.type
        self.precision: dict[str, Any] = {
            "device_type": kind,
            "dtype": torch.get_autocast_dtype(kind),
            "enabled": torch.is_autocast_enabled(kind),
        }

    def keep(self, tensor: Tensor) -> _Place:
        place = _Place(tensor.shape)
        self.places.append(ref(place))
        self.found[place] = tensor.detach()
        return place

    def find(self, place: _Place) -> Tensor:
        if place not in self.found:
            self.repeat()
        return self.found[place]

    def repeat(self) -> None:
        remaining = iter(self.places)

        def keep(tensor: Tensor) -> Tensor:
            tensor = tensor.detach()
            found = next(remaining, None)
            place = None if found is None else found()
            if found is None or (place is not None and place.shape != tensor.shape):
                raise ModelError(_DIFFERS)
            if place is not None:
                self.found[place] = tensor
            return tensor

        argument = self.argument.detach().requires_grad_(self.argument.requires_grad)
        with self.as_it_was(), torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
            self.function(argument)
        if next(remaining, None) is not None:
            raise ModelError(_DIFFERS)

    @contextmanager
    def as_it_was(self) -> Iterator[None]:
        """Go back to the handlers, noise and precision of the first evaluation, and leave no trace."""
        present, (cpu, devices, states) = list(_PYRO_STACK), self.noise
        with torch.random.fork_rng(devices), torch.autocast(**self.precision), _statistics_kept():
            torch.set_rng_state(cpu)
            set_device_states(devices, states)
            _PYRO_STACK[:] = self.handlers
            try:
                yield
            finally:
                _PYRO_STACK[:] = present


_DIFFERS = (
    "with checkpoint=True the model must run the same way when its density is computed again; it did not. Write "
    "checkpoint=False."
)


@contextmanager
def _statistics_kept() -> Iterator[None]:
    """Leave running statistics as they are, those of functions' modules too: a model need not be a module itself."""
    kept: list[tuple[nn.Module, dict[str, Tensor | None]]] = []

    def keep(module: nn.Module, inputs: Any) -> None:
        if isinstance(module, _NormBase) and module.training:
            kept.append((module, dict(module._buffers)))
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.clone()

    hook = register_module_forward_pre_hook(keep)
    try:
        yield
    finally:
        hook.remove()
        for module, buffers in reversed(kept):
            module._buffers.update(buffers)
