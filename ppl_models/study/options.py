"""What a study is asked for: names and seeds, checked, and what tells data from others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from guides.errors import OptionError, choose, whole_number
from ppl_models.datasets import ImageData, ToyData
from ppl_models.seeds import seeded_generator

__all__ = ["fingerprint", "names_of", "seeds_of"]


def names_of(option: str, given: Iterable[str], what: str, allowed: Iterable[str]) -> list[str]:
    """Return a list of names if they are known, and differ.

    Args:
        option: What the caller wrote them for.
        given: The names.
        what: What one of them is the name of.
        allowed: The known ones.

    Raises:
        OptionError: If there is none, one is unknown, or one occurs twice.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        instead = f" Write [{given!r}]." if isinstance(given, str) else ""
        raise OptionError(f"{option} must be a list of names; got {given!r}.{instead}")
    names = [choose(what, name, allowed) for name in given]
    return _distinct(option, names)


def seeds_of(given: Iterable[int]) -> list[int]:
    """Return a list of seeds if they are some, and differ.

    Raises:
        OptionError: If there is none, one is no seed, or one occurs twice.
    """
    if not isinstance(given, Iterable):
        raise OptionError(f"seeds must be a list of whole numbers; got {given!r}. Write range({given!r}).")
    seeds = [whole_number("seeds", seed, least=0) for seed in given]
    for seed in seeds:
        seeded_generator(seed)
    return _distinct("seeds", seeds)


def _distinct(option: str, values: list[Any]) -> list[Any]:
    if not values:
        raise OptionError(f"{option} must name at least one; got none.")
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise OptionError(f"{option} must differ from each other; got {', '.join(map(repr, twice))} more than once.")
    return values


def fingerprint(data: ToyData | ImageData) -> str:
    """What tells data from others, for the study to go on with the same."""
    digest = hashlib.sha256()
    for part in ("train", "validation", "test"):
        values = getattr(data, part).contiguous()
        digest.update(f"{part} {values.dtype} {tuple(values.shape)}".encode() + values.numpy().tobytes())
    return digest.hexdigest()
