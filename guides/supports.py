"""Supports as plain data, for files: a constraint by the name of its class and its state."""

from __future__ import annotations

from typing import Any

import pyro.distributions.constraints as pyro_constraints
import torch.distributions.constraints as torch_constraints
from torch import Tensor
from torch.distributions.constraints import Constraint

from guides.errors import ModelError

__all__ = ["bounds_of", "from_plain", "to_plain"]

#: The modules whose constraints a file may name.
_MODULES = {module.__name__: module for module in (torch_constraints, pyro_constraints)}


def bounds_of(support: Any) -> list[Tensor]:
    """The tensors that a support is made of: bounds that may differ among elements, or from run to run.

    Example:
        >>> bounds_of(torch_constraints.positive)
        []
    """
    if isinstance(support, Constraint):
        return [bound for part in vars(support).values() for bound in bounds_of(part)]
    if isinstance(support, list | tuple):
        return [bound for part in support for bound in bounds_of(part)]
    return [support] if isinstance(support, Tensor) else []


def to_plain(value: Any) -> Any:
    """Write a support, or part of one's state, as dictionaries, lists, tensors and numbers.

    Example:
        >>> to_plain(torch_constraints.greater_than(1.0))
        {'constraint': 'torch.distributions.constraints._GreaterThan', 'state': {'lower_bound': 1.0}}
    """
    if isinstance(value, Constraint):
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        known = isinstance(getattr(_MODULES.get(type(value).__module__), type(value).__name__, None), type)
        # Of others only the name is kept, for the words of the error that reading them ends with.
        return {"constraint": name, "state": {k: to_plain(v) for k, v in vars(value).items()} if known else {}}
    if isinstance(value, Tensor):
        return value.detach().clone()
    return [to_plain(part) for part in value] if isinstance(value, list | tuple) else value


def from_plain(plain: Any) -> Any:
    """Make the support again that :func:`to_plain` wrote.

    Raises:
        ModelError: If its class is none of torch's or Pyro's constraints.

    Example:
        >>> from_plain(to_plain(torch_constraints.interval(0.0, 2.0)))
        Interval(lower_bound=0.0, upper_bound=2.0)
    """
    if isinstance(plain, list):
        return [from_plain(part) for part in plain]
    if not isinstance(plain, dict):
        return plain
    module, _, name = plain["constraint"].rpartition(".")
    kind = getattr(_MODULES.get(module), name, None)
    if not (isinstance(kind, type) and issubclass(kind, Constraint)):
        raise ModelError(
            f"the support of a latent in a file must be one of {' or '.join(_MODULES)}; got {plain['constraint']}. "
            "Call guide.setup(*args) before its state is loaded."
        )
    support = kind.__new__(kind)
    vars(support).update({key: from_plain(value) for key, value in plain["state"].items()})
    return support
