"""One call of a guide program: what its guides share, and the encoder's view of the data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.util import is_validation_enabled
from torch import Tensor, nn

from guides.errors import DataError
from guides.log_density import Indices

__all__ = ["Call", "check_data", "encode"]


@dataclass(frozen=True)
class Call:
    """One call of a guide program: the model's arguments, and what the guides in it share.

    Args:
        args: Arguments of the model.
        kwargs: Keyword arguments of the model.
        given: The latents drawn so far, by site.
        indices: The indices that subsampled plates look at, by plate.
        plates: The plates opened so far, by name.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    given: dict[str, Tensor] = field(default_factory=dict)
    indices: dict[str, Indices] = field(default_factory=dict)
    plates: dict[str, IndepMessenger] = field(default_factory=dict)


def check_data(call: Call) -> None:
    """See that there are data for an encoder to look at.

    Raises:
        DataError: If the first argument is no tensor.
    """
    if not call.args or not isinstance(call.args[0], Tensor):
        got = type(call.args[0]).__name__ if call.args else "no argument"
        raise DataError(
            f"a guide with an encoder needs the data as the model's first argument; got {got}. To generate from the "
            "model, call the model."
        )


def encode(encoder: nn.Module | None, call: Call, looked_at: Indices | None) -> Tensor:
    """Run an encoder on the data that the model looks at: one row of context for each, ``(B, width)``.

    Args:
        encoder: Module from the model's arguments to ``(B, width)``.
        call: Holds the arguments; of tensors with a row per datum, only the rows looked at are handed on.
        looked_at: Which data the data plate looks at; ``None`` before that is known.

    Raises:
        DataError: If there are no data, or the encoder returns another shape.
    """
    assert encoder is not None, "only an amortised guide has something to encode"
    check_data(call)
    args: list[Any] = list(call.args)
    num_data = None if looked_at is None else len(looked_at.rows)
    if looked_at is not None and len(looked_at.rows) < looked_at.size:
        for i, value in enumerate(args):
            if isinstance(value, Tensor) and value.dim() > 0 and len(value) == looked_at.size:
                args[i] = value[looked_at.rows]
    context: object = encoder(*args, **call.kwargs)
    rows = "number of data" if num_data is None else num_data
    if not isinstance(context, Tensor) or not context.is_floating_point():
        got = context.dtype if isinstance(context, Tensor) else type(context).__name__
        raise DataError(
            f"encoder must return one floating-point tensor of shape ({rows}, width); got {got}. Of several parts, "
            "write torch.cat([loc, log_scale], -1)."
        )
    if context.dim() != 2 or num_data not in (None, len(context)):
        raise DataError(f"encoder must return shape ({rows}, width); got {tuple(context.shape)}.")
    if is_validation_enabled() and not torch.isfinite(context).all():
        bad = int((~torch.isfinite(context)).any(-1).sum())
        raise DataError(
            f"encoder must return finite numbers; got NaN or infinite ones for {bad} of {len(context)} data."
        )
    if context.is_inference():  # forces are derived from it, which inference tensors do not allow
        with torch.inference_mode(False):
            context = context.clone()
    return context
