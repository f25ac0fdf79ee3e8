"""Tracing the loss of one batch, its gradients and what is made of them into one graph, and compiling it."""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.func import functional_call

import guides
from guides.errors import ModelError
from ppl_models.objectives import Estimate, ObjectiveModule
from ppl_models.objectives.chunks import leaves_of
from ppl_models.training.arguments import put_together

__all__ = ["Graph", "Tail", "explain", "trace"]

#: What a graph ends with: from the loss, the values of the parameters that it reaches, their gradients and further
#: inputs, to outputs. It may change values and inputs in place.
Tail = Callable[[Tensor, Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]]


@dataclass(frozen=True)
class Graph:
    """A compiled graph.

    Args:
        run: From all parameters, buffers, tensor arguments and the tail's inputs to the loss, the parts and the tail's
            outputs.
        parameters: All of the modules'.
        buffers: The modules that own buffers, and their names; a graph may change them.
        trained: The parameters that the loss depends on.
        parts: The names of the loss's parts.
    """

    run: Callable[..., Sequence[Tensor]]
    parameters: list[nn.Parameter]
    buffers: list[tuple[nn.Module, str]]
    trained: list[nn.Parameter]
    parts: list[str]

    def __call__(
        self, tensors: Sequence[Tensor], inputs: Sequence[Tensor] = ()
    ) -> tuple[Tensor, dict[str, Tensor], Sequence[Tensor]]:
        """The loss, its parts, and what the tail made of the gradients."""
        own = [module._buffers[name] for module, name in self.buffers]
        with torch.no_grad():
            loss, *rest = self.run(*[p.detach() for p in self.parameters], *own, *tensors, *inputs)
        split = len(self.parts)
        return loss, dict(zip(self.parts, rest[:split], strict=True)), rest[split:]


class _Evaluation(nn.Module):
    """An objective whose forward gives the parts too, as :func:`torch.func.functional_call` needs it."""

    def __init__(self, objective: ObjectiveModule) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, *args: Any, **kwargs: Any) -> Estimate:
        estimate: Estimate = self.objective.estimate(*args, **kwargs)
        return estimate


def trace(
    objective: ObjectiveModule,
    args: Any,
    kwargs: Any,
    tensors: Sequence[Tensor],
    tail: Tail,
    inputs_of: Callable[[Sequence[nn.Parameter]], Sequence[Tensor]],
) -> Graph:
    """Trace and compile one evaluation; the modules' buffers stay as they are, the generator's state does not.

    Args:
        objective: Of one model and guide.
        args: Arguments of both.
        kwargs: Keyword arguments of both.
        tensors: The tensors in them, in order.
        tail: What the graph ends with.
        inputs_of: From the parameters that the loss depends on to the tail's inputs.

    Raises:
        ModelError: If a parameter belongs to no module.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    program = _Evaluation(objective)
    named = dict(program.named_parameters())
    parameters, owned = list(named.values()), dict(program.named_buffers())
    trained = _trained(program, owned, args, kwargs)

    def evaluate(*flat: Tensor) -> list[Tensor]:
        remaining = iter(flat)
        values = {name: next(remaining) for name in named}
        buffers = {name: next(remaining) for name in owned}
        new_args, new_kwargs = put_together((args, kwargs), remaining)
        leaves = {name: value.detach().requires_grad_(named[name] in trained) for name, value in values.items()}
        with torch.enable_grad():
            estimate = functional_call(program, leaves | buffers, new_args, new_kwargs)
            reached = [name for name, parameter in named.items() if parameter in trained]
            gradients = torch.autograd.grad(estimate.loss, [leaves[name] for name in reached])
        parts.extend(estimate.parts)
        outputs = tail(estimate.loss.detach(), [values[name] for name in reached], gradients, list(remaining))
        return [estimate.loss.detach(), *estimate.parts.values(), *outputs]

    def inputs() -> list[Tensor]:
        copies = [value.detach().clone() for value in (*parameters, *owned.values())]
        return [*copies, *tensors, *(value.clone() for value in inputs_of(order))]

    order = [parameter for parameter in parameters if parameter in trained]
    parts: list[str] = []
    without_values = FakeTensorMode(allow_non_fake_inputs=True)  # so that nothing can depend on them
    symbols = [without_values.from_tensor(value) for value in inputs()]
    with without_values:
        traced = make_fx(evaluate)(*symbols)
    places = [(module, name) for module in program.modules() for name in module._buffers]
    owner_of = {id(module._buffers[name]): (module, name) for module, name in reversed(places)}
    owners = [owner_of[id(value)] for value in owned.values()]
    return Graph(_compiled(traced, inputs()), parameters, owners, order, parts)


def _compiled(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Sequence[Tensor]]:
    """Compile a graph, with the noise of the eager run; Inductor's cache on disk spares the next process the work."""
    from torch import _inductor
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    fake = FakeTensorMode(shape_env=ShapeEnv())  # without such an environment, Inductor caches nothing
    shapes: list[Any] = [fake.from_tensor(value, static_shapes=True) for value in inputs]
    compiled: Callable[..., Sequence[Tensor]] = _inductor.compile(graph, shapes, options={"fallback_random": True})
    compiled(*inputs)  # what is done on the first call is part of compiling
    return compiled


def _trained(program: _Evaluation, buffers: dict[str, Tensor], args: Any, kwargs: Any) -> set[Tensor]:
    """The parameters that the loss depends on, by one eager run: those of no module would be constants of the graph."""

    def leaves() -> set[Tensor]:
        copies = {name: value.clone() for name, value in buffers.items()}
        return set(leaves_of(functional_call(program, copies, args, kwargs).loss))

    found, own = leaves(), set(program.parameters())
    hidden = found - own
    if hidden:
        # A force at a place that no parameter moved makes a leaf of that place: another run makes another.
        hidden &= leaves()
    if hidden:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in hidden)
        raise ModelError(
            f"a compiled step needs every parameter in a module, the model's or the guide's; got others, of shape "
            f"{shapes}. Write a PyroModule with nn.Parameters in place of pyro.param, or compile=False."
        )
    return found & own


def explain(model: Any, error: Exception) -> str:
    """Say which model could not be traced, and where: the innermost line that is neither torch's, Pyro's nor ours."""
    name = getattr(model, "__name__", type(model).__name__)
    libraries = {Path(file).parent for file in (torch.__file__, pyro.__file__, guides.__file__)}
    libraries.add(Path(__file__).parents[1])  # ppl_models itself, whose top would bring its models along
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not libraries.intersection(Path(frame.filename).parents) and Path(frame.filename).exists()
    ]
    where = ""
    if frames:
        line = linecache.getline(frames[-1].filename, frames[-1].lineno or 0).strip()
        where = f" at {frames[-1].filename}:{frames[-1].lineno} ({line})"
    first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    if "InvalidCxxCompiler" in first:
        return f"{name} cannot be compiled without a C++ compiler. Install one, such as g++, or write compile=False."
    return f"{name} cannot be compiled{where}: the course of a graph does not depend on values. {first}."
