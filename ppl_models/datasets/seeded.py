"""The one source of randomness of a dataset: a generator of its own, apart from the global one."""

from __future__ import annotations

from operator import index

import torch

from guides.errors import OptionError

__all__ = ["seeded_generator"]

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
    number = index(seed) if hasattr(seed, "__index__") else -1
    if not 0 <= number < _SEEDS:
        raise OptionError(f"seed must be a whole number, at least 0 and below 2**63; got {seed!r}.")
    return torch.Generator().manual_seed(number)
