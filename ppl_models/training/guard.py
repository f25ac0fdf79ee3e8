"""Finding where a loss stopped being finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

__all__ = ["describe_divergence"]


def describe_divergence(
    model: Callable[..., Any], guide: Callable[..., Any], args: Any, parameters: Mapping[str, Tensor]
) -> str:
    """Name the first site and the parameters that are not finite, by one more run of the pair."""
    site = "every site was finite on a second look: the noise of that step alone was extreme"
    with pyro.validation_enabled(False), torch.no_grad():
        guide_trace = poutine.trace(guide).get_trace(*args)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args)
        for trace, where in ((model_trace, "model"), (guide_trace, "guide")):
            trace.compute_log_prob()
            for name, node in trace.nodes.items():
                if node["type"] == "sample" and not (_finite(node["value"]) and _finite(node["log_prob"])):
                    what = "log density" if _finite(node["value"]) else "value"
                    site = f"first non-finite {what} at site {name!r} of the {where}"
    values = [name for name, p in parameters.items() if not _finite(p)]
    gradients = [name for name, p in parameters.items() if p.grad is not None and not _finite(p.grad)]
    found = [
        f"non-finite {what} of {', '.join(names)}"
        for what, names in (("values", values), ("gradients", gradients))
        if names
    ]
    return "; ".join([site, *found])


def _finite(value: Any) -> bool:
    return not isinstance(value, Tensor) or bool(torch.isfinite(value).all())
