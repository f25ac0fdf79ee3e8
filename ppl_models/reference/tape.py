"""Tape: what a log joint does, as a graph of ATen operations, and which site of the model asked for each."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from guides.errors import ModelError
from ppl_models.reference.float64 import in_float64
from ppl_models.reference.target import CurrentSite, Target

__all__ = ["Tape", "is_in_place"]

#: Code that stands between the model and an operation.
LIBRARIES = ("torch", "functorch", "pyro", "guides", "contextlib", "functools", "ppl_models.reference")


class Tape:
    """Record the operations that a target's log joint consists of, at one point.

    What does not depend on the point is computed by torch, once.

    Args:
        target: The log joint.
        point: Where to record it, ``(D,)``.
        decompositions: How to take apart operations that the reader of the tape does not know.

    Raises:
        ModelError: If the model decides something in Python by the value of a latent.
    """

    def __init__(self, target: Target, point: Tensor, decompositions: dict[Any, Any]) -> None:
        where: dict[str, str] = {}

        def recorded(vector: Tensor) -> Tensor:
            with in_float64(), _Whereabouts(where, target.current):
                return target.log_joint(vector)

        functional: Any = torch.func.functionalize(recorded)
        with torch.no_grad():
            try:
                module = make_fx(functional, decompositions, _error_on_data_dependent_ops=False)(point)
            except RuntimeError as error:
                raise ModelError(
                    f"torch cannot record what the model does {target.current.place}; it says: {error} Write the model "
                    "without it, or use backend='pyro', which does not record it."
                ) from error
        self._where = where
        #: The nodes that depend on the point, in order; of the others, the values in :attr:`constants`.
        self.nodes: list[fx.Node] = []
        self.constants: dict[fx.Node, Any] = {}
        with torch.no_grad(), in_float64():  # factories name no dtype where it is the default one
            for node in module.graph.nodes:
                self._read(module, node)
        self._drop_unused()

    def _read(self, module: fx.GraphModule, node: fx.Node) -> None:
        if node.op == "get_attr":
            self.constants[node] = getattr(module, str(node.target)).detach()
        elif node.op == "call_function" and all(each in self.constants for each in node.all_input_nodes):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda each: self.constants[each])
            self.constants[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        else:
            if torch.Tag.data_dependent_output in getattr(node.target, "tags", ()):
                raise ModelError(
                    "nuts cannot follow Python code that looks at the value of a latent, as 'if z > 0' or float(z) do;"
                    f" got one {self.where(node)}. Write torch.where(z > 0, a, b), or use backend='pyro'."
                )
            if _writes_into_part(node):
                raise ModelError(
                    f"nuts cannot follow the operation {node.target}, which writes into a part of another array; got "
                    f"it {self.where(node)}. Write the model without it, or use backend='pyro', which runs Pyro's own "
                    "NUTS."
                )
            self.nodes.append(node)

    def _drop_unused(self) -> None:
        used: set[fx.Node] = set()
        for node in reversed(self.nodes):
            changes = is_in_place(node.target) and node.args[0] in used
            if node in used or changes or node.op in ("output", "placeholder"):
                used.update(node.all_input_nodes)
                used.add(node)
        self.nodes = [node for node in self.nodes if node in used]
        self.constants = {node: value for node, value in self.constants.items() if node in used}

    def where(self, node: fx.Node) -> str:
        """Say where in the model an operation comes from."""
        return self._where.get(node.name, "in the model")


def is_in_place(operation: Any) -> bool:
    """Whether an ATen operation writes its result into its first argument, as torch does with its own intermediates."""
    name = getattr(getattr(operation, "overloadpacket", None), "__name__", "")
    return name.endswith("_") and not name.startswith("__")


def _writes_into_part(node: fx.Node) -> bool:
    """Whether a node writes into a view of another array, which would have to change with it."""
    written = node.args[0] if is_in_place(node.target) else None
    if not isinstance(written, fx.Node) or torch.Tag.inplace_view in getattr(node.target, "tags", ()):
        return False
    schema = getattr(written.target, "_schema", None)
    return schema is not None and any(each.alias_info and not each.alias_info.is_write for each in schema.returns)


class _Whereabouts(TorchDispatchMode):
    """Notes, of every node that is added to the graph, the model's site and line."""

    def __init__(self, where: dict[str, str], current: CurrentSite) -> None:
        super().__init__()
        self.where, self.current = where, current

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        mode = get_proxy_mode()
        assert mode is not None, "operations are recorded inside make_fx"
        line = _line(sys._getframe(1))
        for node in reversed(mode.tracer.graph.nodes):
            if node.name in self.where:
                break
            self.where[node.name] = self.current.place + line
        return result


def _line(frame: FrameType | None) -> str:
    """The innermost line of the model's own code on the stack."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module == "guides.latent_space":  # above it is the caller, not the model
            break
        if not module.startswith(LIBRARIES):
            return f" ({Path(frame.f_code.co_filename).name}, line {frame.f_lineno})"
        frame = frame.f_back
    return ""
