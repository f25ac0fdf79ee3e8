"""correct: a wrong guide's answers become the exact ones, with honest errors, or are refused."""

from __future__ import annotations

import math

import pytest
import torch

from guides import DataError, MeanFieldGuide, ModelError, OptionError
from ppl_models import OffsetGaussian
from ppl_models.diagnostics import correct
from tests.contract.problems import PROBLEMS
from tests.contract.registry import GUIDES, wide

SEEDS = 100


def off_guide(*, shift=0.6, spread=1.4):
    """A model of two latents, data, and a guide whose mean and scale are off in units of the posterior's."""
    gaussian = OffsetGaussian(2, scale=torch.tensor([1.0, 2.0]))
    x = torch.tensor([[0.5, -1.0], [1.5, 0.4], [0.8, 2.0]])
    posterior = gaussian.exact_posterior(x)
    guide = MeanFieldGuide(gaussian).setup(x)
    guide.loc.data = (posterior.loc + shift * posterior.scale).detach()
    guide.log_scale.data = (posterior.scale * spread).log().detach()
    return gaussian, guide, x, posterior


@pytest.fixture(scope="module")
def repeats():
    gaussian, guide, x, posterior = off_guide()
    return posterior, [correct(gaussian, guide, x, num_samples=500, seed=seed) for seed in range(SEEDS)]


def z_scores(estimates, exact):
    return torch.stack([(each.mean - exact) / each.standard_error for each in estimates])


def test_expectations_are_exact_and_their_errors_are_the_spread_of_repeats(repeats):
    posterior, runs = repeats
    for function, exact in [
        (lambda draws: draws["z"], posterior.mean),
        (lambda draws: draws["z"].square(), posterior.mean.square() + posterior.variance),
        (lambda draws: (draws["z"][:, 0] > posterior.mean[0]).float(), torch.tensor(0.5)),
    ]:
        scores = z_scores([run.expectation(function) for run in runs], exact)
        # Means and spreads of 100 standard normal numbers, at four and five of their own standard errors.
        assert scores.mean(0).abs().max() < 4 / SEEDS**0.5
        assert (scores.std(0) - 1).abs().max() < 5 / (2 * SEEDS) ** 0.5


@pytest.mark.parametrize("num", [60, 4000], ids=["choice decides", "weights decide"])
def test_resampled_draws_are_exact_and_their_errors_are_the_spread_of_repeats(repeats, num):
    posterior, runs = repeats
    drawn = [run.resample(num, seed=seed) for seed, run in enumerate(runs)]
    assert drawn[0].latents["z"].shape == (num, 2)
    scores = z_scores([each.expectation(lambda draws: draws["z"]) for each in drawn], posterior.mean)
    assert scores.mean(0).abs().max() < 4 / SEEDS**0.5
    assert (scores.std(0) - 1).abs().max() < 5 / (2 * SEEDS) ** 0.5


def test_posterior_mean_is_the_expectation_of_each_site(repeats):
    _, (run, *_) = repeats
    mean, same = run.posterior_mean()["z"], run.expectation(lambda draws: draws["z"])
    torch.testing.assert_close(mean.mean, same.mean)
    torch.testing.assert_close(mean.standard_error, same.standard_error)
    assert run.weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert 100 < run.effective_sample_size < 500


@pytest.mark.parametrize("name", ["mean_field", "hamiltonian"])
def test_data_that_are_independent_have_weights_of_their_own(name):
    problem = PROBLEMS["linear_vae"]()
    guide, (x,) = GUIDES[name](problem.model, problem.encoder), problem.args
    answers = correct(problem.model, guide, x, num_samples=4000, threshold=math.inf, seed=0)
    decoder = problem.model.decoder
    weight, noise = decoder.linear.weight, (2 * decoder.log_scale).exp()
    covariance = torch.linalg.inv(torch.eye(2) + weight.T @ (weight / noise[:, None]))
    exact = ((x - decoder.linear.bias) / noise) @ weight @ covariance
    found = answers.posterior_mean()["z"]
    assert answers.k_hat.shape == (4,)
    assert found.mean.shape == (4, 2)
    assert ((found.mean - exact).abs() < 5 * found.standard_error).all()
    square = answers.expectation(lambda draws: draws["z"].square())
    assert ((square.mean - exact.square() - covariance.diagonal()).abs() < 5 * square.standard_error).all()
    again = answers.resample(4000, seed=0).expectation(lambda draws: draws["z"])
    assert ((again.mean - exact).abs() < 5 * again.standard_error).all()


def test_sites_in_plates_that_share_their_weights():
    problem = PROBLEMS["groups"]()
    y, votes = problem.args
    answers = correct(problem.model, wide(problem.model, None), y, votes, num_samples=4000, seed=0)
    exact = {"level": y / 1.64, "shares": (votes + 4) / (votes + 4).sum()}
    for name, each in answers.posterior_mean().items():
        assert ((each.mean - exact[name]).abs() < 5 * each.standard_error).all()


def test_an_exact_guide_is_left_as_it_is():
    gaussian, guide, x, _ = off_guide(shift=0.0, spread=1.0)
    answers = correct(gaussian, guide, x, num_samples=100, seed=0)
    torch.testing.assert_close(answers.weights, torch.full((100,), 0.01))
    torch.testing.assert_close(answers.posterior_mean()["z"].mean, answers.latents["z"].mean(0))


def test_answers_are_refused_above_the_threshold_unless_told_otherwise():
    gaussian, guide, x, _ = off_guide(shift=0.0, spread=0.3)
    answers = correct(gaussian, guide, x, num_samples=1000, seed=0)
    assert answers.k_hat.item() > 0.7
    assert "k_hat=0." in repr(answers)
    for ask in (
        lambda: answers.expectation(lambda draws: draws["z"]),
        lambda: answers.posterior_mean(),
        lambda: answers.resample(10),
    ):
        with pytest.raises(ModelError, match=r"k-hat must be at most 0.67 .*; got [01]\.\d\d\. Below 0.7 more draws"):
            ask()
    told = correct(gaussian, guide, x, num_samples=1000, threshold=math.inf, seed=0)
    assert told.expectation(lambda draws: draws["z"]).mean.isfinite().all()


def test_the_worst_datum_is_named():
    problem = PROBLEMS["linear_vae"]()
    problem.encoder.linear.bias.data[2:] = -2.0
    problem.encoder.linear.weight.data[0] = torch.tensor([-3.0, 0.0, 0.0])  # the second datum is at x1 = -1
    answers = correct(problem.model, wide(problem.model, problem.encoder), *problem.args, num_samples=500, seed=0)
    worst = int(answers.k_hat.argmax())
    with pytest.raises(ModelError, match=rf"at datum {worst}, the worst of \d among 4"):
        answers.posterior_mean()


@pytest.mark.parametrize(("num_samples", "threshold"), [(100, 0.5), (1000, 2 / 3), (2200, 0.7), (10_000, 0.7)])
def test_the_threshold_grows_with_the_number_of_draws(num_samples, threshold):
    gaussian, guide, x, _ = off_guide()
    assert correct(gaussian, guide, x, num_samples=num_samples).threshold == pytest.approx(threshold, abs=1e-9)


def test_a_seed_fixes_the_draws_and_nothing_outside_changes():
    gaussian, guide, x, _ = off_guide()
    state = torch.get_rng_state()
    first, again = (correct(gaussian, guide, x, num_samples=50, seed=3).resample(20, seed=1) for _ in range(2))
    assert torch.equal(first.latents["z"], again.latents["z"])
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_input_is_refused():
    gaussian, guide, x, _ = off_guide()
    for options, message in [
        ({"num_samples": 24}, "num_samples must be a whole number of at least 25; got 24"),
        ({"threshold": -1.0}, "threshold must be positive and finite; got -1.0. Write threshold=0.7, or math.inf"),
        ({"max_batch": 0}, "max_batch must be a whole number of at least 1; got 0"),
    ]:
        with pytest.raises(OptionError, match=message):
            correct(gaussian, guide, x, **options)
    with pytest.raises(DataError, match="argument 0 must be finite"):
        correct(gaussian, guide, torch.full((2, 2), math.nan))
    answers = correct(gaussian, guide, x, num_samples=50)
    with pytest.raises(DataError, match=r"function must return a tensor of shape \(50, ...\); got \(2,\)"):
        answers.expectation(lambda draws: draws["z"].mean(0))
    with pytest.raises(OptionError, match="num_samples must be a whole number of at least 1; got 0"):
        answers.resample(0)
