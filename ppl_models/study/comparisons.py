"""Paired comparisons: whether one model is better than another, over the seeds that both have run with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from guides.errors import DataError, OptionError, choose
from ppl_models.study.intervals import check_confidence
from ppl_models.study.run_metrics import METRICS
from ppl_models.study.run_values import TEST_METRICS, run_values

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["compare_models", "holm", "paired_comparison"]


def paired_comparison(first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95) -> dict[str, float]:
    r"""Compare two models by numbers of runs that are pairs: the same seed, data and split.

    With the differences :math:`d_s`, first less second, the p-value is that of Wilcoxon's signed-rank test, two-sided:
    under the hypothesis that the two models may be exchanged within each pair. It is exact, with ties too (zeros by
    Pratt's rule). A run that has diverged is worse than any that has not, and two that have are equal; pairs with a run
    that has no result are left out. With n pairs no p-value is below :math:`2^{1 - n}`, the ``smallest_p``: five seeds
    can never show a difference at 0.05.

    The difference is that of the pairs in which no run has diverged: the median of the averages
    :math:`(d_s + d_t) / 2`, :math:`s \le t` (Hodges and Lehmann). Its interval is made of those averages which the test
    does not reject; of few pairs it cannot have the confidence that was asked for: ``confidence`` is what it has.

    Args:
        first: One number for each run, less is better: inf if it has diverged, NaN if there is no result.
        second: Those of the other model, in the same order.
        confidence: Wanted of the interval.

    Returns:
        ``difference``, ``low``, ``high`` and ``confidence``; ``n`` pairs, ``n_diverged`` of them with a run that has
        diverged, ``n_better`` in which the first is better; ``p`` and ``smallest_p``.

    Raises:
        DataError: If the two are not lists of one length.
        OptionError: If ``confidence`` is not between 0 and 1.

    Example:
        >>> found = paired_comparison([2.1, 2.3, 2.2, 2.4], [2.5, 2.6, 2.7, float("inf")])
        >>> round(found["difference"], 3), found["n_diverged"], found["n_better"], found["p"], found["smallest_p"]
        (-0.4, 1, 4, 0.125, 0.125)

    References:
        Frank Wilcoxon, Individual comparisons by ranking methods, 1945, https://doi.org/10.2307/3001968.
        John W. Pratt, Remarks on zeros and ties in the Wilcoxon signed rank procedures, 1959,
        https://doi.org/10.1080/01621459.1959.10501526.
        Joseph L. Hodges, Erich L. Lehmann, Estimates of location based on rank tests, 1963,
        https://doi.org/10.1214/aoms/1177704172.
    """
    confidence = check_confidence(confidence)
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != other.shape or one.ndim != 1:
        raise DataError(f"first and second must be lists of one length; got shapes {one.shape} and {other.shape}.")
    known = ~(np.isnan(one) | np.isnan(other))
    one, other = one[known], other[known]
    equal = one == other  # both infinite, too
    differences = np.where(equal, 0.0, one - np.where(equal, 0.0, other))
    both = differences[np.isfinite(one) & np.isfinite(other)]
    return _estimate(both, confidence) | {
        "n": len(differences),
        "n_diverged": len(differences) - len(both),
        "n_better": int((differences < 0).sum()),
        "p": _p_value(differences),
        "smallest_p": min(1.0, 2.0 ** (1 - len(differences))),
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number, so that the chance of a single false rejection is what they say.

    Args:
        p_values: Of all tests that were made; NaN for those that could not be.

    References:
        Sture Holm, A simple sequentially rejective multiple test procedure, 1979,
        https://www.jstor.org/stable/4615733.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected = [math.nan] * len(p_values)
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def compare_models(
    results: xr.Dataset,
    *,
    metric: str = "test_loss",
    after_warmup: bool = False,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Compare all pairs of models on each dataset, by :func:`paired_comparison` over the seeds.

    Args:
        results: Of a study.
        metric: What is compared: ``"test_loss"``, ``"nll"``, or a metric of :func:`convergence_metrics`.
        after_warmup: Whether that is to leave out the epochs in which the KL terms had a weight below 1.
        confidence: Wanted of the intervals, each by itself.

    Returns:
        One row for each dataset and pair, with ``p_holm``, corrected for the number of all rows.

    Raises:
        DataError: If these are no results of a study.
        OptionError: If ``metric`` is unknown, or there is one model only.
    """
    import pandas as pd

    choose("metric", metric, (*TEST_METRICS, *METRICS))
    values = run_values(results, after_warmup=after_warmup)[metric]
    models = values["model"].values.tolist()
    if len(models) < 2:
        raise OptionError(f"a comparison needs two models at least; the study has {', '.join(models)} only.")
    rows = []
    for dataset in values["dataset"].values.tolist():
        for pair in combinations(models, 2):
            first, second = (values.sel(model=name, dataset=dataset).values for name in pair)
            found = paired_comparison(first, second, confidence=confidence)
            rows.append({"dataset": dataset, "model": pair[0], "other": pair[1], "metric": metric, **found})
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p"].tolist())
    return table


def _p_value(differences: NDArray[np.float64]) -> float:
    from scipy.stats import rankdata

    if not len(differences):
        return math.nan
    # Doubled, the ranks of ties are whole numbers too.
    ranks = np.rint(2 * rankdata(np.abs(differences))).astype(int)
    law = _signed_rank_law(ranks[differences != 0])
    positive = int(ranks[differences > 0].sum())
    return float(min(1.0, 2 * min(law[: positive + 1].sum(), law[positive:].sum())))


def _estimate(differences: NDArray[np.float64], confidence: float) -> dict[str, float]:
    """The median of the Walsh averages, and the largest interval of them whose ends the test rejects."""
    if not len(differences):
        return dict.fromkeys(("difference", "low", "high", "confidence"), math.nan)
    averages = np.sort((differences[:, None] + differences[None, :])[np.triu_indices(len(differences))] / 2)
    cumulative = np.cumsum(_signed_rank_law(range(1, len(differences) + 1)))
    cut = max(int(np.searchsorted(cumulative, (1 - confidence) / 2, side="right")) - 1, 0)
    return {
        "difference": float(np.median(averages)),
        "low": float(averages[cut]),
        "high": float(averages[-1 - cut]),
        "confidence": float(1 - 2 * cumulative[cut]),
    }


def _signed_rank_law(ranks: Iterable[int]) -> NDArray[np.float64]:
    """The probabilities of 0, 1, ... as the sum of the ranks that get a plus, each by the toss of a coin."""
    law = np.ones(1)
    for rank in ranks:
        longer = np.zeros(len(law) + rank)
        longer[: len(law)] += law / 2
        longer[rank:] += law / 2
        law = longer
    return law
