"""CompiledObjective: the loss of one batch and its gradients as one compiled graph."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import pyro
import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn

from guides.base import Guide
from guides.errors import ModelError, OptionError, PplError
from guides.noise import Share
from guides.plates import Minibatch
from ppl_models.objectives import Estimate, ObjectiveModule
from ppl_models.objectives.chunks import RandomState, with_gradient
from ppl_models.training.arguments import take_apart
from ppl_models.training.graph import Graph, Tail, explain, trace

__all__ = ["Compile", "CompiledObjective"]

log = logging.getLogger(__name__)

#: Whether to compile; ``"auto"``: where it can be done.
Compile = bool | Literal["auto"]

#: How many graphs are kept, one for each kind of arguments.
_MOST = 16


class CompiledObjective(nn.Module):
    r"""Compile an objective of a model and guide: its loss and all gradients, traced once, become one graph.

    Forces of Hamiltonian guides, and their derivatives in turn, are part of the graph. It is traced anew for other
    parameters, shapes, dtypes, devices, training modes, arguments that are not tensors, and minibatch sizes. The
    output is an ordinary one of autograd, so that optimizers, Lightning and DDP need not know. Noise is that of the
    eager run, and results are equal up to rounding. Where no gradient is recorded the objective runs eagerly.

    What model and guide take from elsewhere than their arguments, parameters and buffers is a constant of the graph:
    tensors in a closure, and Python's or NumPy's random numbers.

    Args:
        objective: An objective of one model and guide, ``ELBO()(model, guide)``; the guide must be set up.
        fallback: Whether to run eagerly, with a warning, what cannot be traced.

    Raises:
        OptionError: If the objective evaluates particles in chunks, or the guide its forces with ``checkpoint=True``.
        ModelError: On a call, if model or guide cannot be traced (their course depends on values), have parameters
            outside their modules, or stand inside a Pyro handler, which would not see their sites.

    Example:
        >>> import torch
        >>> from guides import MeanFieldGuide
        >>> from ppl_models import OffsetGaussian
        >>> from ppl_models.objectives import ELBO
        >>> gaussian, x = OffsetGaussian(2), torch.tensor([[1.0, 0.0], [2.0, 1.0]])
        >>> compiled = CompiledObjective(ELBO()(gaussian, MeanFieldGuide(gaussian).setup(x)))
        >>> compiled(x).backward()  # doctest: +SKIP
    """

    def __init__(self, objective: ObjectiveModule, *, fallback: bool = False) -> None:
        super().__init__()
        chunk_size = objective.elbo.chunk_size
        if chunk_size is not None and chunk_size < objective.elbo.num_particles:
            raise OptionError(
                f"compile and chunk_size must not be given together; got chunk_size={chunk_size}: chunks are for "
                "models whose memory is short, and run eagerly. Write compile=False."
            )
        for part in objective.modules():
            if isinstance(part, Guide) and getattr(part, "checkpoint", False):
                raise OptionError(
                    f"compile and checkpoint must not be given together; got a {type(part).__name__} with "
                    "checkpoint=True: a graph computes nothing twice. Write compile=False, or checkpoint=False."
                )
        self.objective = objective
        self.fallback = fallback
        #: Time spent on tracing and compiling so far.
        self.seconds = 0.0
        self._graphs: OrderedDict[Hashable, Graph | None] = OrderedDict()
        self._parts = (list(objective.modules()),)  # a tuple, so that it is not registered again

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The loss at a model's arguments, with its gradient."""
        return self.estimate(*args, **kwargs).loss

    def estimate(self, *args: Any, **kwargs: Any) -> Estimate:
        """The loss and its parts, at a model's arguments."""
        graph, tensors = self.graph(args, kwargs) if torch.is_grad_enabled() else (None, [])
        if graph is None:
            estimate: Estimate = self.objective.estimate(*args, **kwargs)
            return estimate
        loss, parts, gradients = graph(tensors)
        return Estimate(with_gradient(loss, graph.trained, gradients), parts)

    def graph(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        tail: Tail = lambda loss, values, gradients, inputs: gradients,
        inputs_of: Callable[[Sequence[nn.Parameter]], Sequence[Tensor]] = lambda trained: [],
        kind: Hashable = None,
    ) -> tuple[Graph | None, list[Tensor]]:
        """The graph for arguments of this kind, made if there is none yet, and the tensors among them.

        Args:
            args: Arguments of model and guide.
            kwargs: Keyword arguments of both.
            tail: What the graph ends with; it gives the gradients by default.
            inputs_of: From the parameters that the loss depends on to the tail's inputs.
            kind: What tells this tail from others.

        Returns:
            No graph for what cannot be traced, where that is allowed.
        """
        tensors: list[Tensor] = []
        (modules,) = self._parts
        key = (
            kind,
            take_apart((args, kwargs), tensors),
            _handlers(),
            tuple([part.training for part in modules]),
            tuple(
                [
                    None if p is None else (id(p), p.shape, p.dtype, p.device, p.requires_grad)
                    for part in modules
                    for p in part._parameters.values()
                ]
            ),
            tuple(
                [
                    None if buffer is None else (buffer.shape, buffer.dtype, buffer.device)
                    for part in modules
                    for buffer in part._buffers.values()
                ]
            ),
            torch.get_default_dtype(),
            _autocast(),
        )
        tensors = [value.contiguous() for value in tensors]  # the one layout that a graph is compiled for
        if key not in self._graphs:
            self._graphs[key] = self._make(args, kwargs, tensors, tail, inputs_of)
            if len(self._graphs) > _MOST:
                self._graphs.popitem(last=False)
        return self._graphs[key], tensors

    def _make(self, args: Any, kwargs: Any, tensors: list[Tensor], tail: Tail, inputs_of: Any) -> Graph | None:
        start = time.perf_counter()
        state = RandomState.capture()
        try:
            with pyro.validation_enabled(False):
                return trace(self.objective, args, kwargs, tensors, tail, inputs_of)
        except PplError:
            raise
        except Exception as error:
            message = explain(self.objective.model, error)
            if not self.fallback:
                raise ModelError(f"{message} Write compile='auto' or compile=False.") from error
            log.warning("%s It runs eagerly.", message)
            return None
        finally:
            state.restore()
            seconds = time.perf_counter() - start
            self.seconds += seconds
            log.info("compiled a step in %.1f s", seconds)

    def extra_repr(self) -> str:
        return f"graphs={len(self._graphs)}"


def _autocast() -> Hashable:
    """What is computed in lower precision, by device."""
    return tuple([(d, torch.get_autocast_dtype(d)) for d in ("cpu", "cuda") if torch.is_autocast_enabled(d)])


def _handlers() -> Hashable:
    """The Pyro handlers around, as far as a graph can know them."""
    found: list[Hashable] = []
    for handler in _PYRO_STACK:
        if isinstance(handler, Minibatch):
            found.append((Minibatch, handler.plate, handler.size))
        elif isinstance(handler, Share):
            found.append((Share, handler.plate, handler.size, handler.start))
        else:
            raise ModelError(
                "a compiled step must not stand inside a Pyro handler, which would not see its sites; got "
                f"{type(handler).__name__}. Write compile=False."
            )
    return tuple(found)
