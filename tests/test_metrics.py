"""convergence_metrics: the published numbers to their last digit, and right ones with the runs that failed in them."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from guides.errors import DataError, OptionError
from ppl_models.study import convergence_metrics
from ppl_models.study.intervals import BOOTSTRAP_FROM, mean_and_interval, median_time
from tests.published_losses import PUBLISHED_LOSSES, published_losses

NAN, INF = math.nan, math.inf

#: As printed in the published study: mean and standard deviation of min, max, last, first and exceeds.
PUBLISHED = {
    "flow_8gaussians": "2.911 .021 3.356 .341 2.948 .063 3.065 .095 9.9 12.1",
    "lvae_8gaussians": "5.822 .000 11.035 .440 5.824 .001 9.295 .120 0 0",
    "flow_mnist": "162.189 44.703 4.647e18 1.394e19 176.544 43.211 267.039 158.939 2.2 2.6",
    "vae_mnist": "124.654 .302 283.036 17.251 125.067 .347 243.925 3.588 .1 .3",
    "draw_mnist": "86.335 .054 373.108 9.029 86.518 .094 221.093 2.938 0 0",
}


def in_digits_of(printed: str, value: float) -> float:
    """Round a value to the digits that a printed number shows."""
    mantissa, _, exponent = printed.partition("e")
    scale = 10.0 ** int(exponent or 0)
    return round(value / scale, len(mantissa.partition(".")[2])) * scale


# ------------------------------------------------------------------------------------------------------- as published


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_tables_are_reproduced_to_the_last_digit(name):
    if not PUBLISHED_LOSSES.is_dir():
        pytest.skip("the published losses are not beside this checkout")
    metrics = convergence_metrics(published_losses(name), mode="published")
    assert list(metrics) == ["min", "max", "last", "first", "exceeds"]
    values = [value for metric in metrics.values() for value in metric.values()]
    printed = PUBLISHED[name].split()
    assert [in_digits_of(*each) for each in zip(printed, values, strict=True)] == pytest.approx(
        [float(each) for each in printed], rel=1e-12
    )


def test_published_mode_drops_nan_epochs_and_empty_runs_and_signs():
    losses = [[NAN, -4.0, 6.0, NAN], [NAN] * 4, [-1.0, -2.0, -3.0, -4.0]]
    metrics = convergence_metrics(losses, mode="published")
    assert metrics["min"] == {"mean": 2.5, "std": 1.5}
    assert metrics["last"] == {"mean": 5.0, "std": 1.0}
    assert metrics["first"]["mean"] == (5.0 + 2.5) / 2
    nothing = convergence_metrics([[NAN]], mode="published")
    assert all(math.isnan(value) for metric in nothing.values() for value in metric.values())


def test_published_mode_takes_an_infinite_loss_for_a_number():
    # Its arithmetic as it stands, and no warning of numpy's.
    found = convergence_metrics([[5.0, 3.0], [5.0, math.inf]], mode="published")["last"]
    assert found["mean"] == math.inf
    assert math.isnan(found["std"])


@pytest.mark.parametrize("option", [{"skip": 1}, {"status": ["done"]}, {"threshold": 1.0}])
def test_published_mode_knows_no_other_options(option):
    with pytest.raises(OptionError, match=f"{next(iter(option))} must be left out in mode='published'"):
        convergence_metrics([[1.0, 2.0]], mode="published", **option)


# ----------------------------------------------------------------------------------------------------------- put right


def test_each_metric_by_hand():
    losses = [[9.0, 7.0, 5.0, 6.0, 3.0, 6.5, 5.0], [-1.0, -2.0, -3.0, -4.0, -5.0, -2.0, -6.0]]
    metrics = convergence_metrics(losses)
    by_hand = {"min": (3, -6), "max": (9, -1), "last": (5, -6), "first": (6, -3), "exceeds": (1, 1)}
    assert {name: metric["mean"] for name, metric in metrics.items()} == {k: sum(v) / 2 for k, v in by_hand.items()}
    assert metrics["min"]["std"] == pytest.approx(9 / math.sqrt(2))  # ddof 1
    assert all(metric["ddof"] == 1 for metric in metrics.values())


def test_diverged_runs_are_counted_and_never_dropped():
    losses = [[4.0, 3.0, 2.0], [4.0, 2.0, 1.0], [5.0, 4.0, 3.0], [4.0, 1.0, NAN], [NAN, NAN, NAN], [4.0, 3.0, INF]]
    for metric in convergence_metrics(losses).values():
        assert (metric["n"], metric["n_used"], metric["n_diverged"], metric["n_missing"]) == (6, 3, 3, 0)
        assert metric["mean_all"] == INF
    last = convergence_metrics(losses)["last"]
    assert (last["mean"], last["median"]) == (2.0, INF)
    assert convergence_metrics(losses[:5])["last"]["median"] == 3.0


def test_an_epoch_without_a_finite_loss_is_infinitely_bad():
    for bad in (NAN, INF, -INF):
        metrics = convergence_metrics([[4.0, bad, 2.0], [4.0, 3.0, 2.0]])
        assert metrics["max"]["mean"] == metrics["first"]["mean"] == INF
        assert math.isnan(metrics["max"]["low"])
        assert metrics["min"]["mean"] == metrics["last"]["mean"] == 2.0
        assert metrics["max"]["n_diverged"] == 0


def test_status_tells_stopped_runs_from_diverged_and_missing_ones():
    losses = [[4.0, 3.0, NAN], [4.0, 3.0, NAN], [4.0, 3.0, NAN], [NAN, NAN, NAN]]
    last = convergence_metrics(losses, status=["done", "diverged", "crashed", "missing"])["last"]
    assert (last["n"], last["n_used"], last["n_diverged"], last["n_missing"]) == (4, 1, 1, 2)
    assert (last["mean"], last["mean_all"]) == (3.0, INF)


def test_epochs_of_the_warm_up_can_be_left_out():
    losses = [[90.0, 80.0, 9.0, 8.0, 7.0, 6.0, 5.0, 9.5, 4.0]]
    whole, after = convergence_metrics(losses), convergence_metrics(losses, skip=2)
    assert (whole["max"]["mean"], whole["exceeds"]["mean"]) == (90.0, 0.0)
    assert (after["max"]["mean"], after["first"]["mean"], after["exceeds"]["mean"]) == (9.5, 7.0, 1.0)


def test_time_to_threshold_counts_epochs_from_one_and_censors():
    losses = [[5.0, 4.0, 3.0, 2.0], [5.0, 2.0, 2.0, 2.0], [5.0, 4.0, NAN, NAN], [5.0, NAN, NAN, NAN]]
    status = ["done", "done", "done", "diverged"]
    found = convergence_metrics(losses, status=status, threshold=3.5)["time_to_threshold"]
    # One of four is there at 2, when one is then seen no more; a diverged run stays at risk: 3/4, then 3/4 of 1/2.
    assert found["median"] == 3.0
    assert (found["n"], found["n_reached"], found["n_diverged"]) == (4, 2, 1)
    assert convergence_metrics(losses, threshold=1.0)["time_to_threshold"]["median"] == INF
    # Were the runs that diverged left out, half would be there at 2.
    lost = [[5.0, 2.0, 2.0], [5.0, 4.0, 2.0], [5.0, NAN, NAN], [NAN, NAN, NAN]]
    assert convergence_metrics(lost, threshold=3.5)["time_to_threshold"]["median"] == 3.0
    assert "time_to_threshold" not in convergence_metrics(losses)


def test_arrays_lists_and_tensors_say_the_same():
    losses = np.random.default_rng(0).normal(size=(3, 8))
    tensor = torch.tensor(losses, requires_grad=True)
    assert convergence_metrics(losses) == convergence_metrics(losses.tolist()) == convergence_metrics(tensor)


@pytest.mark.parametrize(
    ("losses", "options", "error", "message"),
    [
        ([1.0, 2.0], {}, DataError, r"losses must have shape \(runs, epochs\).*got \(2,\)"),
        (np.zeros((0, 3)), {}, DataError, r"got \(0, 3\)"),
        ([[1.0], [1.0, 2.0]], {}, DataError, "all rows as long.*Fill the epochs.*with nan"),
        ([["a"]], {}, DataError, "or no numbers"),
        ([[1.0, 2.0]], {"mode": "publshed"}, OptionError, "Did you mean 'published'"),
        ([[1.0, 2.0]], {"skip": 2}, OptionError, "skip must leave at least one of 2 epochs; got 2"),
        ([[1.0, 2.0]], {"skip": -1}, OptionError, "skip must be a whole number of at least 0"),
        ([[1.0, 2.0]], {"status": ["done", "done"]}, OptionError, "one word for each of the 1 runs"),
        ([[1.0, 2.0]], {"status": ["dne"]}, OptionError, "Did you mean 'done'"),
        ([[NAN, NAN]], {"status": ["done"]}, DataError, "run 0 has none. Call it 'diverged'"),
        ([[1.0, 2.0]], {"confidence": 95}, OptionError, "confidence must be between 0 and 1"),
        ([[1.0, 2.0]], {"threshold": NAN}, OptionError, "threshold must be a finite number; got nan"),
    ],
)
def test_what_is_wrong_is_said(losses, options, error, message):
    with pytest.raises(error, match=message):
        convergence_metrics(losses, **options)


# ----------------------------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize("n", [3, 6, 20])
def test_intervals_cover_the_mean_as_often_as_they_say(n):
    values = np.random.default_rng(n).normal(size=(300, n))
    found = [mean_and_interval(row, confidence=0.9, seed=1) for row in values]
    covered = np.mean([each["low"] <= 0 <= each["high"] for each in found])
    # Four standard errors; below 20 values the bootstrap would be some per cent short, and for 3 a quarter.
    assert covered == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / 300))
    assert n >= BOOTSTRAP_FROM or found[0]["low"] == pytest.approx(2 * found[0]["mean"] - found[0]["high"])


def test_intervals_at_the_edges():
    assert mean_and_interval([2.0, 2.0, 2.0])["low"] == mean_and_interval([2.0] * 12)["high"] == 2.0
    assert math.isnan(mean_and_interval([2.0])["low"])
    assert math.isnan(mean_and_interval([NAN, INF])["mean"])
    assert mean_and_interval([0.0, 0.0, 9.0], least=0.0)["low"] == 0.0
    skewed = np.random.default_rng(0).exponential(size=15)
    first, second = (mean_and_interval(skewed, seed=seed) for seed in (0, 1))
    assert first == mean_and_interval(skewed, seed=0)
    assert first["low"] != second["low"]


def test_the_median_time_is_kaplan_meier_s():
    # The first example of Kaplan and Meier (1958): deaths at .8, 3.1, 5.4, 9.2, losses at 1.0, 2.7, 7.0, 12.1.
    times = [0.8, 1.0, 2.7, 3.1, 5.4, 7.0, 9.2, 12.1]
    died = [True, False, False, True, True, False, True, False]
    found = median_time(times, died)  # S: 7/8, then 7/10, 21/40, 21/80
    assert found["median"] == 9.2
    assert found["low"] <= 9.2 <= found["high"]
    assert median_time([5, 6, 7], [True] * 3)["median"] == 6.0
    never = median_time([9, 9, 9], [False] * 3)
    assert (never["median"], never["high"], never["n_reached"]) == (INF, INF, 0)
    assert median_time([2, 5, 6, 7], [False, True, True, True])["low"] == 5.0  # nobody is there at 2


def test_the_interval_of_a_median_time_covers_it():
    rng = np.random.default_rng(0)
    low, high = np.transpose(
        [list(_interval(rng.exponential(size=15), rng.exponential(3, size=15))) for _ in range(300)]
    )
    covered = np.mean((low <= math.log(2)) & (math.log(2) <= high))
    assert covered >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / 300)


def _interval(event, censoring):
    found = median_time(np.minimum(event, censoring), event <= censoring)
    return found["low"], found["high"]


def test_the_least_of_many_noisy_losses_is_biased_and_the_last_is_not():
    noise = np.random.default_rng(0).normal(size=(200, 400))
    lengths = (25, 100, 400)
    means = [convergence_metrics(noise[:, :length])["min"]["mean"] for length in lengths]
    assert all(longer < shorter - 0.3 for shorter, longer in pairwise(means))
    last = convergence_metrics(noise)["last"]
    assert abs(last["mean"]) < 4 / math.sqrt(200)
