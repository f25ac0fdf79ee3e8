"""convergence_metrics: what a handful of training runs says of a model, with the runs that failed."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, nan
from typing import Any

import numpy as np

from guides.errors import OptionError, choose
from ppl_models.study.intervals import mean_and_interval, median_time
from ppl_models.study.run_metrics import LEAST, Runs, loss_array, published_metrics

__all__ = ["MODES", "convergence_metrics"]

#: The right numbers, and those of the published study.
MODES = ("signed", "published")


def convergence_metrics(
    losses: Any,
    *,
    mode: str = "signed",
    status: Sequence[str] | None = None,
    skip: int = 0,
    threshold: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    r"""Say how several runs of one model converged, from a loss after each epoch.

    Of the losses :math:`v_1, \dots, v_n` of one run,

    .. math::

        \mathrm{min} &= \min_j v_j, \quad \mathrm{max} = \max_j v_j, \quad \mathrm{last} = v_n, \\
        \mathrm{first} &= \frac{1}{5} \sum_{j=1}^{5} v_j, \quad
        \mathrm{exceeds} = \#\{ j > 5 : v_j > \mathrm{first} \}.

    An epoch without a finite loss counts as :math:`+\infty`. A run that *diverged*, one that ends without a finite
    loss, counts as :math:`+\infty` in every metric. Each metric comes as a dict of

    - ``mean`` and ``std`` over the ``n_used`` runs that did not diverge, with ``ddof`` 1, and ``low`` and ``high``, an
      interval for that mean: a bootstrap's, or Student's for fewer than ten runs, of which a bootstrap's would be too
      narrow; NaN where there is none;
    - ``mean_all``, the mean with the diverged runs in it: infinite if there is one;
    - ``median``, over the same runs, which stays finite as long as fewer than half have diverged;
    - ``n``, the runs that were asked for: ``n_used`` done, ``n_diverged``, and ``n_missing`` without a result.

    With ``threshold``, ``time_to_threshold`` is the first epoch with a loss below it: the ``median`` by Kaplan and
    Meier, with an interval, and ``n_reached`` of ``n``. Runs that stopped before are censored there; those that
    diverged never get there.

    The ``min`` over epochs whose losses are noisy is biased down, the more so the more epochs there are. ``last`` is
    not.

    ``mode="published"`` is the arithmetic of the study these metrics come from: NaN epochs are dropped, the absolute
    value of each loss is taken, runs without a number are left out and not counted, and ``std`` has ``ddof`` 0.

    Args:
        losses: Shape ``(runs, epochs)``: array, nested lists or tensor; signed, less is better.
        mode: ``"signed"`` or ``"published"``.
        status: How each run ended, ``"done"``, ``"diverged"``, ``"crashed"`` or ``"missing"``; by default a run whose
            last loss is not finite has diverged, and the others are done. With it, NaN at the end of a run that is done
            are epochs that it was stopped before.
        skip: Leave out so many epochs at the start, such as those of a KL warm-up, in which the objective is another;
            the threshold heeds them nevertheless.
        threshold: The loss to get below.
        confidence: Of the intervals.
        seed: Fixes the bootstrap.

    Raises:
        DataError: If ``losses`` has another shape, or a run is said to be done that has no finite loss.
        OptionError: If an option is unknown or does not fit, or is given in mode ``"published"``.

    Example:
        >>> losses = [[9.0, 5.0, 4.0], [8.0, 5.0, 3.0], [9.0, float("nan"), float("nan")]]
        >>> metrics = convergence_metrics(losses, threshold=4.5)
        >>> metrics["last"]["mean"], metrics["last"]["median"], metrics["last"]["mean_all"]
        (3.5, 4.0, inf)
        >>> {name: metrics["last"][name] for name in ("n", "n_used", "n_diverged")}
        {'n': 3, 'n_used': 2, 'n_diverged': 1}
        >>> metrics["time_to_threshold"]["median"], metrics["time_to_threshold"]["n_reached"]
        (3.0, 2)
        >>> convergence_metrics(losses, mode="published")["last"]["mean"]
        5.333333333333333

    References:
        Edward L. Kaplan, Paul Meier, Nonparametric estimation from incomplete observations, 1958,
        https://doi.org/10.1080/01621459.1958.10501452, for the median time.
    """
    if choose("mode", mode, MODES) == "published":
        given = {"status": status is not None, "skip": skip != 0, "threshold": threshold is not None}
        for option, is_given in given.items():
            if is_given:
                raise OptionError(f"{option} must be left out in mode='published', which knows none.")
        metrics = published_metrics(loss_array(losses))
        return {name: _published(values) for name, values in metrics.items()}
    runs = Runs(losses, status)
    found = {
        name: mean_and_interval(values, runs.diverged, least=LEAST.get(name, -inf), confidence=confidence, seed=seed)
        for name, values in runs.metrics(skip=skip).items()
    }
    if threshold is not None:
        found["time_to_threshold"] = median_time(*runs.first_below(threshold), confidence=confidence) | {
            "n": len(runs),
            "n_diverged": int(runs.diverged.sum()),
        }
    return found


def _published(values: Any) -> dict[str, float]:
    if not len(values):
        return {"mean": nan, "std": nan}
    with np.errstate(invalid="ignore"):  # the published arithmetic takes an infinite loss for a number
        return {"mean": float(values.mean()), "std": float(values.std())}
