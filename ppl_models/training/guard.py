"""Finding where a loss stopped being finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from guides.errors import DivergedError
from ppl_models.objectives import Objective
from ppl_models.training.random_state import restored

__all__ = ["describe_divergence"]


def describe_divergence(
    objective: Objective,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Any,
    parameters: Mapping[str, Tensor],
    random_state: Mapping[str, Tensor],
) -> str:
    """Name the first site and the parameters that are not finite, by the same step once more, its noise included."""

    def again(*, validated: bool) -> tuple[Any, Any]:
        with restored(random_state), torch.no_grad(), pyro.validation_enabled(validated):
            return objective.traces(model, guide, *args)

    try:
        model_trace, guide_trace = again(validated=True)
    except DivergedError as error:
        return str(error).rstrip(".")
    except ValueError:  # torch's validation says what, but not where
        model_trace, guide_trace = again(validated=False)
    sites = [
        f"first non-finite {what} at site {name!r} of the {where}"
        for trace, where in ((guide_trace, "guide"), (model_trace, "model"))
        for name, what in _not_finite(trace)
    ]
    found = sites[:1] or ["every site is finite: the fault lies in the gradient"]
    values = [name for name, p in parameters.items() if not _finite(p)]
    gradients = [name for name, p in parameters.items() if p.grad is not None and not _finite(p.grad)]
    for what, names in (("values", values), ("gradients", gradients)):
        if names:
            found.append(f"non-finite {what} of {', '.join(names)}")
    return "; ".join(found)


def _not_finite(trace: Any) -> list[tuple[str, str]]:
    bad = []
    for name, node in trace.nodes.items():
        if node["type"] == "sample":
            for what, value in (("value", node["value"]), ("log density", node["fn"].log_prob(node["value"]))):
                if not _finite(value):
                    bad.append((name, what))
    return bad


def _finite(value: Any) -> bool:
    return not isinstance(value, Tensor) or bool(torch.isfinite(value).all())
