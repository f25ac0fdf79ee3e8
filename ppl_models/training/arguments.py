"""Arguments of a model, taken apart into tensors and all else, and put together again."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Hashable, Iterator
from typing import Any

from torch import Tensor

__all__ = ["put_together", "take_apart"]


def take_apart(value: Any, tensors: list[Tensor]) -> Hashable:
    """Append the tensors in a value to a list, and return what identifies all else.

    Looks into tuples, lists, dictionaries and dataclasses; an object of another kind is identified by itself.

    Example:
        >>> import torch
        >>> tensors = []
        >>> take_apart([torch.zeros(2), 3], tensors) == take_apart([torch.ones(2), 3], tensors)
        True
        >>> len(tensors)
        2
    """
    if isinstance(value, Tensor):
        tensors.append(value)
        return Tensor, value.shape, value.dtype, value.device, value.requires_grad
    if isinstance(value, tuple | list):
        return type(value), *(take_apart(part, tensors) for part in value)
    if isinstance(value, dict):
        return dict, *((key, take_apart(part, tensors)) for key, part in value.items())
    if _is_record(value):
        return type(value), *(take_apart(getattr(value, f.name), tensors) for f in dataclasses.fields(value))
    return (type(value), value) if isinstance(value, Hashable) else (type(value), id(value))


def put_together(value: Any, tensors: Iterator[Tensor]) -> Any:
    """Give a value like another, with other tensors in the same places."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(put_together(part, tensors) for part in value))
    if isinstance(value, tuple | list):
        return type(value)(put_together(part, tensors) for part in value)
    if isinstance(value, dict):
        return {key: put_together(part, tensors) for key, part in value.items()}
    if _is_record(value):
        record = copy.copy(value)  # without its checks, which look at numbers
        for field in dataclasses.fields(value):
            object.__setattr__(record, field.name, put_together(getattr(value, field.name), tensors))
        return record
    return value


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)
