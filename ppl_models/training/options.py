"""Options that fit and train share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.optim import PyroOptim

from guides.errors import OptionError, positive

__all__ = ["Optimizer", "check_options"]

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
