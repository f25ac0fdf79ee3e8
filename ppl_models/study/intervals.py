"""Means, medians and their intervals from a handful of runs."""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

from guides.errors import DataError, OptionError

__all__ = ["BOOTSTRAP_FROM", "check_confidence", "mean_and_interval", "median_time"]

#: With fewer values than this the interval is Student's. A percentile interval of n values lies between the least and
#: the largest, which leaves out the mean of a symmetric law once in 2^(n - 1) times: for n = 3, one time in four.
BOOTSTRAP_FROM = 10

_RESAMPLES = 9999


def check_confidence(confidence: float) -> float:
    """Return ``confidence`` if it is between 0 and 1.

    Raises:
        OptionError: If it is not.
    """
    if isinstance(confidence, int | float) and 0 < confidence < 1:
        return float(confidence)
    raise OptionError(f"confidence must be between 0 and 1, such as 0.95; got {confidence!r}.")


def mean_and_interval(
    values: ArrayLike,
    diverged: ArrayLike | None = None,
    *,
    least: float = -math.inf,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """Mean, standard deviation and an interval for the mean over the runs that are done; and how many there are.

    From ten runs on the interval is made of percentiles of a bootstrap, moved outwards by as much as they are too
    narrow for n normal numbers (Hesterberg, section 4.3); with fewer runs it is Student's. ``python -m benchmarks
    intervals`` shows how often each covers the mean.

    Args:
        values: One for each run: inf if it has diverged, NaN if it has no result.
        diverged: Which runs have diverged; those whose value is infinite, if not given.
        least: No mean can be less.
        confidence: Of the interval.
        seed: Fixes the bootstrap.

    Returns:
        What :func:`ppl_models.study.convergence_metrics` says of a metric.

    Raises:
        OptionError: If ``confidence`` is not between 0 and 1.

    Example:
        >>> found = mean_and_interval([2.0, 3.0, 4.0, float("inf")])
        >>> found["mean"], found["median"], round(found["low"], 2), round(found["high"], 2), found["n_diverged"]
        (3.0, 3.5, 0.52, 5.48, 1)

    References:
        Tim C. Hesterberg, What teachers should know about the bootstrap, 2015,
        https://doi.org/10.1080/00031305.2015.1089789.
    """
    confidence = check_confidence(confidence)
    every = np.asarray(values, dtype=np.float64).reshape(-1)
    lost = np.isinf(every) if diverged is None else np.asarray(diverged, dtype=bool).reshape(-1)
    known = ~np.isnan(every)
    used, with_lost = every[known & ~lost], every[known]
    low, high = _interval(used, confidence, seed)
    return {
        "mean": float(used.mean()) if len(used) else math.nan,
        "std": float(used.std(ddof=1)) if len(used) > 1 and np.isfinite(used).all() else math.nan,
        "low": max(low, least),
        "high": high,
        "median": float(np.median(with_lost)) if len(with_lost) else math.nan,
        "mean_all": float(with_lost.mean()) if len(with_lost) else math.nan,
        "n": len(every),
        "n_used": len(used),
        "n_diverged": int(lost.sum()),
        "n_missing": len(every) - len(with_lost),
        "ddof": 1,
    }


def median_time(times: ArrayLike, reached: ArrayLike, *, confidence: float = 0.95) -> dict[str, float]:
    r"""Median of the times by which runs got somewhere, some of which were stopped before.

    The median is the least time :math:`t` at which the estimate :math:`\hat S(t)` of Kaplan and Meier, the share of
    runs that are not there yet, is at most 1/2; it is infinite if there is none. The interval holds the times at which
    the interval of :math:`S(t)` contains 1/2 (Brookmeyer and Crowley).

    Args:
        times: When a run got there, or when it was last seen.
        reached: Whether it got there.
        confidence: Of the interval.

    Raises:
        DataError: If the two have different lengths.
        OptionError: If ``confidence`` is not between 0 and 1.

    Example:
        >>> median_time([3, 5, 6, 9, 9], [True, True, True, False, False])["median"]
        6.0

    References:
        Ron Brookmeyer, John Crowley, A confidence interval for the median survival time, 1982,
        https://doi.org/10.2307/2530286.
    """
    from scipy.stats import CensoredData, ecdf

    confidence = check_confidence(confidence)
    when, seen = np.asarray(times, dtype=np.float64), np.asarray(reached, dtype=bool)
    if when.shape != seen.shape or when.ndim != 1:
        raise DataError(f"times and reached must be two lists of one length; got {when.shape} and {seen.shape}.")
    found = {"median": math.inf, "low": math.nan, "high": math.inf, "n_reached": int(seen.sum())}
    if not seen.any():
        return found if len(seen) else found | {"median": math.nan, "high": math.nan}
    survival = ecdf(CensoredData(uncensored=when[seen], right=when[~seen])).sf
    share = survival.probabilities
    with warnings.catch_warnings():
        # Where all runs are there, or none is, the formula has no interval; the share itself is taken.
        warnings.filterwarnings("ignore", message="The confidence interval is undefined", category=RuntimeWarning)
        limits = survival.confidence_interval(confidence_level=confidence, method="log-log")
    for name, left in {
        "median": share,
        "low": limits.low.probabilities,
        "high": limits.high.probabilities,
    }.items():
        half = np.flatnonzero(np.where(np.isnan(left), share, left) <= 0.5)
        found[name] = float(survival.quantiles[half[0]]) if len(half) else math.inf
    return found


def _interval(values: NDArray[np.float64], confidence: float, seed: int) -> tuple[float, float]:
    from scipy.stats import bootstrap, norm, t

    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan, math.nan
    mean, spread = values.mean(), values.std(ddof=1)
    if spread == 0:
        return float(mean), float(mean)
    quantile = t.ppf((1 + confidence) / 2, len(values) - 1)
    if len(values) < BOOTSTRAP_FROM:
        reach = quantile * spread / math.sqrt(len(values))
        return float(mean - reach), float(mean + reach)
    tail = norm.cdf(-quantile * math.sqrt(len(values) / (len(values) - 1)))
    found = bootstrap(
        (values,),
        np.mean,
        method="percentile",
        confidence_level=1 - 2 * tail,
        n_resamples=_RESAMPLES,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
