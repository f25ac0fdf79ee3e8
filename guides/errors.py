"""The errors of both packages: one small tree, every member also a built-in error."""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches
from operator import index
from typing import SupportsFloat, SupportsIndex

__all__ = ["DataError", "DivergedError", "ModelError", "OptionError", "PplError", "choose", "positive", "whole_number"]


class PplError(Exception):
    """Root of every error that the two packages raise on purpose."""


class OptionError(PplError, ValueError):
    """An option breaks its rule, or is not one of the names it may take."""


class ModelError(PplError, ValueError):
    """The model, or how it fits the guide, is outside what the guide can do."""


class DataError(PplError, ValueError):
    """Data have the wrong shape, are not finite, or come from a file that cannot be read as what it claims to be."""


class DivergedError(PplError, RuntimeError):
    """Training met more non-finite steps than it was allowed to skip."""


def choose(name: str, value: str, allowed: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``allowed``.

    Args:
        name: The option's name, as the caller wrote it.
        value: What the caller gave.
        allowed: The names the option may take.

    Raises:
        OptionError: If it is not; the message lists the names and the nearest one.

    Example:
        >>> choose("tempering", "free", ["free", "none"])
        'free'
        >>> choose("tempering", "fre", ["free", "none"])
        Traceback (most recent call last):
            ...
        guides.errors.OptionError: tempering must be one of 'free', 'none'; got 'fre'. Did you mean 'free'?
    """
    names = list(allowed)
    if value in names:
        return value
    near = get_close_matches(str(value), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise OptionError(f"{name} must be one of {', '.join(map(repr, names))}; got {value!r}.{hint}")


def positive(name: str, value: object, *, below: float = math.inf, instead: str = "") -> float:
    """Return ``value`` as a float if it is positive, finite, and less than ``below``.

    Args:
        name: The option's name, as the caller wrote it.
        value: What the caller gave.
        below: What it must be less than.
        instead: What to write instead, as a sentence, where people commonly err.

    Raises:
        OptionError: If it is not.

    Example:
        >>> positive("init_scale", 0.0)
        Traceback (most recent call last):
            ...
        guides.errors.OptionError: init_scale must be positive and finite; got 0.0.
    """
    if isinstance(value, SupportsFloat) and 0 < float(value) < below:
        return float(value)
    rule = "finite" if below == math.inf else f"below {below:g}"
    raise OptionError(f"{name} must be positive and {rule}; got {value!r}.{' ' * bool(instead)}{instead}")


def whole_number(name: str, value: object, *, least: int, instead: str = "") -> int:
    """Return ``value`` as an int if it is a whole number of at least ``least``.

    Args:
        name: The option's name, as the caller wrote it.
        value: What the caller gave.
        least: The smallest allowed.
        instead: What to write instead, as a sentence, where people commonly err.

    Raises:
        OptionError: If it is not.

    Example:
        >>> whole_number("num_steps", 0, least=1)
        Traceback (most recent call last):
            ...
        guides.errors.OptionError: num_steps must be a whole number of at least 1; got 0.
    """
    if isinstance(value, SupportsIndex) and value is not True and value is not False and index(value) >= least:
        return index(value)
    raise OptionError(
        f"{name} must be a whole number of at least {least}; got {value!r}.{' ' * bool(instead)}{instead}"
    )
