"""A model and its guide as one thing to train: whether they belong together, and their parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from guides import Guide
from guides.errors import ModelError, OptionError
from ppl_models.objectives import Objective

__all__ = ["check_pair", "find_parameters", "start"]


def check_pair(model: object, guide: object, objective: object) -> None:
    """See that a model, a guide and an objective are what they should be, and the guide is of that model.

    Raises:
        TypeError: If one is not what it should be.
        ModelError: If the guide is of another model.
    """
    for name, part in (("model", model), ("guide", guide)):
        if not callable(part) or isinstance(part, type):
            raise TypeError(f"{name} must be a function or an object that can be called; got {part!r}.")
    if isinstance(model, Guide):
        raise TypeError("model must not be a guide: were model and guide exchanged? Write fit(model, guide, x).")
    if objective is not None and not isinstance(objective, Objective):
        raise TypeError(f"objective must be an Objective; got {objective!r}. Write objective=ELBO().")
    modules = isinstance(guide, Guide) and isinstance(model, nn.Module) and isinstance(guide.model, nn.Module)
    if modules and guide.model is not model:  # type: ignore[attr-defined]
        raise ModelError("guide must be a guide of this model; got one of another, or of a copy of it.")


def start(model: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Let a model that begins from data do so: one whose attribute ``started`` is false has a method ``start``."""
    if not getattr(model, "started", True):
        model.start(*args)  # type: ignore[attr-defined]


def find_parameters(
    objective: Objective,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    validate: bool = True,
) -> dict[str, Tensor]:
    """Find all trainable parameters by name, by one run of the objective; it sets the guide up.

    Raises:
        OptionError: If there are none.
    """
    with pyro.validation_enabled(validate), torch.no_grad(), poutine.trace(param_only=True) as captured:
        objective.loss(model, guide, *args)
    parameters: dict[str, Tensor] = {}
    for prefix, part in (("model", model), ("guide", guide)):
        if isinstance(part, nn.Module):
            parameters |= {f"{prefix}.{name}": p for name, p in part.named_parameters()}
    known = {id(p) for p in parameters.values()}
    nodes: dict[str, Any] = captured.trace.nodes
    for name, node in nodes.items():
        leaf = node["value"].unconstrained()
        if id(leaf) not in known:
            parameters[name] = leaf
    parameters = {name: p for name, p in parameters.items() if p.requires_grad}
    if not parameters:
        raise OptionError("nothing to train: neither the model nor the guide has a parameter that requires a gradient.")
    return parameters
