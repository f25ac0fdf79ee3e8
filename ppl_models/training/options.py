"""Options that fit and train share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor

from guides.errors import OptionError, positive

__all__ = ["Optimizer", "check_options", "make_optimizer"]

#: An optimizer class, or a function like one.
Optimizer = Callable[..., torch.optim.Optimizer]


def check_options(*, optim: Any, lr: float, max_grad_norm: float | None, compile: Any) -> None:
    """See that options are what they should be.

    Raises:
        OptionError: If a number is out of range, or ``compile`` unknown.
        TypeError: If ``optim`` is no torch optimizer.
    """
    for name, value in (("lr", lr), ("max_grad_norm", max_grad_norm)):
        if value is not None:
            positive(name, value)
    if compile not in (True, False, "auto"):
        raise OptionError(f"compile must be True, False or 'auto'; got {compile!r}.")
    if not callable(optim) or isinstance(optim, PyroOptim):
        raise TypeError(
            f"optim must be a torch optimizer class or a function of parameters and lr; got {type(optim).__name__}. "
            "Write optim=torch.optim.Adam, or functools.partial of one."
        )


def make_optimizer(
    optim: Optimizer, parameters: Iterable[Tensor], *, lr: float, fused: bool = True
) -> torch.optim.Optimizer:
    """Call an optimizer class; for Adam and AdamW take torch's fused kind, which goes over the memory once.

    The numbers are the same up to rounding.

    Args:
        optim: The class, or a function like one.
        parameters: What it is to update.
        lr: Learning rate.
        fused: Whether a fused kind will do.

    Example:
        >>> make_optimizer(torch.optim.Adam, [torch.zeros(2, requires_grad=True)], lr=0.1).defaults["fused"]
        True
    """
    parameters = list(parameters)
    can_be = optim in (torch.optim.Adam, torch.optim.AdamW) and all(
        p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters
    )
    return optim(parameters, lr=lr, fused=True) if fused and can_be else optim(parameters, lr=lr)
