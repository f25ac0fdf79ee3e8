"""UniformRanks: how ranks of a calibrated guide fall, and what p-values those of another have."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["UniformRanks", "asymmetry"]

#: Draws of a law that is simulated once for each number of ranks; they leave p-values of 0.01 an error of 0.001.
NULL_DRAWS = 9999

#: Flips of coins, for each quantity anew.
FLIPS = 1999


@dataclass(frozen=True)
class UniformRanks:
    r"""The law of S independent ranks, uniform on 0, ..., L.

    Let :math:`c_k` be how many ranks are below k. A set of ranks is judged by its least likely count:

    .. math::
        \gamma = \min_{k = 1, \dots, L} \; 2 \min\{ P(C_k \le c_k), P(C_k \ge c_k) \},
        \qquad C_k \sim \mathrm{Binomial}\big(S, k / (L + 1)\big)

    The counts are held against their own discrete law, so that no rank is rounded to a number in (0, 1).

    Args:
        size: S.
        num_draws: L.

    Example:
        >>> import numpy as np
        >>> law = UniformRanks(100, 9)
        >>> even, low = np.repeat(np.arange(10), 10), np.repeat(np.arange(5), 20)
        >>> (
        ...     law.p_value(law.least_tail(law.counts(even[:, None]))),
        ...     law.p_value(law.least_tail(law.counts(low[:, None]))),
        ... )
        (array([1.]), array([0.0001]))

    References:
        Teemu Säilynoja, Paul-Christian Bürkner, Aki Vehtari, Graphical test for discrete uniformity and its
        applications in goodness-of-fit evaluation and multiple sample comparison, 2022,
        https://arxiv.org/abs/2103.10522, section 2.
    """

    size: int
    num_draws: int

    def counts(self, ranks: NDArray[np.integer]) -> NDArray[np.int64]:
        """How many of the ranks ``(S, Q)`` have each value, ``(Q, L + 1)``."""
        import numpy as np

        values, width = self.num_draws + 1, ranks.shape[1]
        flat = ranks.astype(np.int64) + values * np.arange(width)
        return np.bincount(flat.reshape(-1), minlength=values * width).reshape(width, values)

    def least_tail(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        r""":math:`\gamma` of counts ``(Q, L + 1)``, ``(Q,)``."""
        import numpy as np

        below = counts.cumsum(-1)[..., :-1]
        return _tails(self.size, self.num_draws)[np.arange(self.num_draws), below].min(-1)

    def p_value(self, least_tail: NDArray[np.float64]) -> NDArray[np.float64]:
        r"""How often :math:`\gamma` is as small by chance, for each of some values."""
        import numpy as np

        null = _null(self.size, self.num_draws)
        return (1 + np.searchsorted(null, least_tail, side="right")) / (1 + len(null))

    def band(self, least_tail: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        r"""The smallest and largest counts :math:`c_1, \dots, c_L` whose tails are all above a value."""
        import numpy as np

        inside = _tails(self.size, self.num_draws) > least_tail
        return inside.argmax(-1), self.size - np.flip(inside, -1).argmax(-1)

    @cached_property
    def places(self) -> NDArray[np.float64]:
        """The share of ranks below k = 1, ..., L: where their distribution function should be."""
        import numpy as np

        return np.arange(1, self.num_draws + 1) / (self.num_draws + 1)


def asymmetry(counts: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.float64]:
    r"""The p-values of ranks r being distributed as L − r, by counts of each value, ``(Q, L + 1)``.

    By the largest difference between both distribution functions. Given how many ranks are r or L − r, both are as
    likely for each, so that flips of a coin give what chance alone would, exactly.

    References:
        Yuling Yao, Aki Vehtari, Daniel Simpson, Andrew Gelman, Yes, but Did It Work?: Evaluating Variational Inference,
        2018, https://arxiv.org/abs/1802.02538, section 3.2, for the test. Departure: its law, for the two samples are
        mirrors of each other and not independent.
    """
    import numpy as np

    p_values = []
    for own in counts:
        differences = own - own[::-1]
        both = (own + own[::-1])[: len(own) // 2]
        flipped = 2 * generator.binomial(both, 0.5, (FLIPS, len(both))) - both
        largest = np.abs(differences[: len(both)].cumsum()).max()
        p_values.append((1 + (np.abs(flipped.cumsum(-1)).max(-1) >= largest).sum()) / (1 + FLIPS))
    return np.array(p_values)


@lru_cache(maxsize=8)
def _tails(size: int, num_draws: int) -> NDArray[np.float64]:
    """Twice the smaller tail of each count, ``(L, S + 1)``."""
    import numpy as np
    from scipy.stats import binom

    counts = np.arange(size + 1)
    places = (np.arange(1, num_draws + 1) / (num_draws + 1))[:, None]
    return np.minimum(1.0, 2 * np.minimum(binom.cdf(counts, size, places), binom.sf(counts - 1, size, places)))


@lru_cache(maxsize=8)
def _null(size: int, num_draws: int) -> NDArray[np.float64]:
    r"""Draws of :math:`\gamma`, in order: the same for all p-values, as a printed table would be."""
    import numpy as np

    law = UniformRanks(size, num_draws)
    counts = np.random.default_rng(0).multinomial(size, np.full(num_draws + 1, 1 / (num_draws + 1)), NULL_DRAWS)
    return np.sort(law.least_tail(counts))
