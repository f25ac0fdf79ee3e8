"""When a fit stops, and what averages of its last steps are worth."""

from __future__ import annotations

import functools
import statistics

import pytest
import torch

from benchmarks.convergence import autoregressive, decay, false_stops, flat_from, logarithm, slope, step_down, watch
from guides import MeanFieldGuide, OptionError
from ppl_models import OffsetGaussian
from ppl_models.objectives import ELBO
from ppl_models.training import Converged, fit
from ppl_models.training.averaging import TailAverage

quiet = functools.partial(fit, progress=False)

TRACES = 40


@pytest.mark.parametrize(("correlation", "delay"), [(0.0, 2.0), (0.5, 3.0)])
def test_it_stops_on_a_plateau_soon_and_hardly_ever_before(correlation, delay):
    rule, trend = Converged(), decay(100, 100)
    outcomes = watch(rule, trend, correlation, 8000, TRACES)
    assert false_stops(rule, outcomes) <= 0.1
    stops = [outcome.stopped for outcome in outcomes if outcome.stopped is not None]
    assert len(stops) >= 0.95 * TRACES
    assert statistics.median(stops) < delay * flat_from(rule, trend, 8000)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_it_does_not_stop_while_the_loss_falls(correlation):
    rule = Converged()
    outcomes = watch(rule, slope(2 * rule.tolerance * 4 / 1000), correlation, 8000, TRACES)
    assert false_stops(rule, outcomes) <= 0.1
    outcomes = watch(rule, slope(8 * rule.tolerance * 4 / 1000), correlation, 8000, TRACES)
    assert all(outcome.stopped is None for outcome in outcomes)


def test_it_does_not_stop_in_a_fall_that_slows_down_without_end():
    outcomes = watch(Converged(), logarithm(2 * Converged().tolerance), 0.5, 8000, TRACES)
    assert false_stops(Converged(), outcomes) <= 0.1
    assert all(outcome.fall == pytest.approx(0.4, rel=0.01) for outcome in outcomes if outcome.stopped is not None)


def test_a_plateau_shorter_than_the_window_does_not_deceive_it():
    rule = Converged()
    outcomes = watch(rule, step_down(900), 0.5, 6000, TRACES)
    assert false_stops(rule, outcomes) <= 0.1
    assert statistics.mean(outcome.stopped is None or outcome.stopped > 1500 for outcome in outcomes) > 0.9


def test_a_rising_loss_has_not_converged():
    assert all(outcome.stopped is None for outcome in watch(Converged(), slope(-0.01), 0.0, 6000, 5))


def test_a_loss_without_noise_is_flat_in_nats():
    def stop(height):
        monitor = Converged().monitor()
        losses = height * 0.999 ** torch.arange(20_000.0)
        return next((step for step, loss in enumerate(losses.tolist()) if monitor.update(loss)), None)

    assert stop(0.001) < 600
    assert 2000 < stop(1.0) < 20_000


def test_the_noise_of_the_benchmark_has_unit_variance_and_its_correlation():
    noise = autoregressive(20_000, 0.9, torch.Generator().manual_seed(1))
    assert noise.std().item() == pytest.approx(1.0, abs=0.1)
    assert (noise[1:] * noise[:-1]).mean().item() == pytest.approx(0.9, abs=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0.0}, "tolerance must be positive and finite; got 0.0"),
        ({"nats": -1.0}, "nats must be positive"),
        ({"confidence": 1.0}, "confidence must be positive and below 1; got 1.0"),
        ({"confidence": 0.3}, "confidence must be above 0.5; got 0.3"),
        ({"patience": 0}, "patience must be a whole number of at least 1"),
        ({"min_steps": 10}, "min_steps must be a whole number of at least 80; got 10"),
    ],
)
def test_bad_rules_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        Converged(**options)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(100, 2) + 1


def test_a_fit_stops_when_its_loss_is_flat(x):
    gaussian = OffsetGaussian(2)
    rule = Converged(tolerance=0.5)
    result = quiet(gaussian, MeanFieldGuide(gaussian), x, steps=6000, lr=0.02, seed=0, stop=rule)
    assert result.converged
    assert 500 < result.steps < 6000
    assert result.steps == len(result.history)
    monitor = rule.monitor()
    assert [monitor.update(loss) for loss in result.history["loss"]] == [False] * (result.steps - 1) + [True]
    again = quiet(gaussian, MeanFieldGuide(gaussian), x, steps=100, seed=0, stop=rule)
    assert not again.converged
    assert (again.steps, again.averaged) == (100, 0)
    with pytest.raises(TypeError, match="stop must be a rule; got True"):
        quiet(gaussian, MeanFieldGuide(gaussian), x, stop=True)


def test_averages_are_means_of_the_last_steps():
    parameters = [torch.zeros(2, 3), torch.zeros(())]
    average, seen = TailAverage(parameters), []
    for _ in range(7):
        for parameter in parameters:
            parameter.normal_()
        average.update()
        seen.append([parameter.clone() for parameter in parameters])
    average.install()
    for parameter, values in zip(parameters, zip(*seen, strict=True), strict=True):
        torch.testing.assert_close(parameter, torch.stack(values).mean(0))
    TailAverage(parameters).install()  # of nothing: they stay


def errors(x, seed, **options):
    """Squared errors of the guide's means and log scales, in posterior standard deviations."""
    gaussian = OffsetGaussian(2).requires_grad_(False)
    guide = MeanFieldGuide(gaussian)
    result = quiet(gaussian, guide, x, steps=400, lr=0.1, seed=seed, **options)
    exact = gaussian.exact_posterior(x)
    location = ((guide.loc - exact.mean) / exact.stddev).square().sum()
    return (location + (guide.log_scale - exact.stddev.log()).square().sum()).item(), result


def test_the_average_is_nearer_to_the_posterior_than_the_last_step(x):
    last, averaged = ([errors(x, seed, average=average) for seed in range(3)] for average in (None, 0.5))
    assert sum(error for error, _ in averaged) < 0.25 * sum(error for error, _ in last)
    assert [result.averaged for _, result in averaged] == [200] * 3


def test_a_fit_that_stops_goes_on_for_its_average(x):
    gaussian = OffsetGaussian(2)
    options = {"steps": 6000, "lr": 0.02, "seed": 0, "stop": Converged(tolerance=0.5)}
    alone = quiet(gaussian, MeanFieldGuide(gaussian), x, **options)
    gaussian = OffsetGaussian(2)
    both = quiet(gaussian, MeanFieldGuide(gaussian), x, average=0.25, **options)
    assert both.converged
    assert both.averaged == both.steps - alone.steps
    assert both.steps == pytest.approx(alone.steps / 0.75, abs=1)


def test_the_last_validation_is_of_the_average(x):
    gaussian = OffsetGaussian(2)
    guide = MeanFieldGuide(gaussian)
    options = {"validation": x[:20], "objective": ELBO(num_particles=3), "seed": 0, "lr": 0.1}
    result = quiet(gaussian, guide, x, steps=30, average=0.5, **options)
    after = quiet(gaussian, guide, x, steps=1, **(options | {"lr": 1e-12}))
    assert result.history["validation_loss"].iloc[-1] == pytest.approx(
        after.history["validation_loss"].iloc[-1], rel=1e-9
    )


@pytest.mark.parametrize("average", [0.0, 1.0, -0.5])
def test_bad_shares_are_refused(x, average):
    gaussian = OffsetGaussian(2)
    with pytest.raises(OptionError, match=r"average must be positive and below 1; got .*\. Write average=0.2"):
        quiet(gaussian, MeanFieldGuide(gaussian), x, average=average)
