"""Seeds: a generator of one's own, apart from the global one, and a seed for each purpose."""

from __future__ import annotations

from hashlib import sha256
from operator import index

import torch

from guides.errors import OptionError

__all__ = ["derived_seed", "seeded_generator"]

_SEEDS = 2**63


def seeded_generator(seed: int) -> torch.Generator:
    """Make a CPU generator that starts from ``seed``.

    Args:
        seed: A whole number, at least 0 and below 2^63.

    Raises:
        OptionError: If it is not.

    Example:
        >>> first, second = (torch.randperm(100, generator=seeded_generator(7)) for _ in range(2))
        >>> torch.equal(first, second)
        True
    """
    return torch.Generator().manual_seed(_checked(seed))


def derived_seed(seed: int, *purpose: str | int) -> int:
    """Derive from ``seed`` the seed of one purpose, unrelated to those of all others.

    It is a pure function: an epoch's order, or a part's points, can be drawn again without what was drawn before.

    Args:
        seed: A whole number, at least 0 and below 2^63.
        purpose: What the derived seed is for, such as ``"order", 3``.

    Raises:
        OptionError: If ``seed`` is not such a number.

    Example:
        >>> derived_seed(0, "order", 3) == derived_seed(0, "order", 3)
        True
        >>> len({derived_seed(seed, part) for seed in (0, 1) for part in ("train", "test")})
        4
    """
    digest = sha256(repr((_checked(seed), *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % _SEEDS


def _checked(seed: int) -> int:
    number = index(seed) if hasattr(seed, "__index__") else -1
    if not 0 <= number < _SEEDS:
        raise OptionError(f"seed must be a whole number, at least 0 and below 2**63; got {seed!r}.")
    return number
