"""ecdf_band: where the empirical distribution function of uniform numbers stays, at many points together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ecdf_band"]

#: Halvings of the interval that the pointwise level is sought in.
BISECTIONS = 30


def ecdf_band(num: int, points: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    r"""Find the narrowest band of binomial intervals that holds a whole empirical distribution function.

    At a point z the number of the N uniform numbers below it is binomial, and given that number at the point before,
    the new ones are binomial again. So the probability of staying inside all intervals is a sum over paths, computed
    point by point; the pointwise level is the smallest for which it reaches the level asked for.

    Args:
        num: N.
        points: Increasing points z in (0, 1), ``(P,)``. For ranks from 0 to L, multiples of :math:`1 / (L + 1)`.
        level: The probability of staying inside everywhere.

    Returns:
        The smallest and the largest share of the numbers below each point, ``(P,)`` both.

    Example:
        >>> import numpy as np
        >>> low, high = ecdf_band(100, np.array([0.5]), 0.95)
        >>> low, high
        (array([0.4]), array([0.6]))

    References:
        Teemu Säilynoja, Paul-Christian Bürkner, Aki Vehtari, Graphical test for discrete uniformity and its
        applications in goodness-of-fit evaluation and multiple sample comparison, 2022,
        https://arxiv.org/abs/2103.10522, section 2.2. Departure: the level is found by bisection of the coverage, which
        only grows with it.
    """
    from scipy.stats import binom

    low, high = level, 1.0
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        ends = binom.interval(middle, num, points)
        low, high = (low, middle) if _coverage(num, points, *ends) >= level else (middle, high)
    lower, upper = binom.interval(high, num, points)
    return lower / num, upper / num


def _coverage(num: int, points: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
    """The probability that the counts stay within ``[lower, upper]`` at all points."""
    import numpy as np
    from scipy.special import gammaln

    log_factorial = gammaln(np.arange(num + 1) + 1.0)
    counts, inside, before = np.zeros(1, dtype=int), np.ones(1), 0.0
    for point, least, most in zip(points, lower.astype(int), upper.astype(int), strict=True):
        new = np.arange(least, most + 1)
        chance = (point - before) / (1 - before)
        more, rest = new - counts[:, None], (num - counts)[:, None]
        possible = (more >= 0) & (more <= rest)
        more = np.where(possible, more, 0)
        log_pmf = log_factorial[rest] - log_factorial[more] - log_factorial[rest - more]
        log_pmf = log_pmf + more * np.log(chance) + (rest - more) * np.log1p(-chance)
        inside = inside @ np.where(possible, np.exp(log_pmf), 0.0)
        counts, before = new, point
    return float(inside.sum())
