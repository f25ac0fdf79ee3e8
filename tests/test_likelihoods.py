"""Likelihoods: laws of grey levels against their sums, and what a network must return."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from guides import DataError, OptionError
from ppl_models import VAE
from ppl_models.grey_levels import CategoricalLevels, LogisticLevels
from ppl_models.likelihoods import Likelihood
from ppl_models.networks import MLPDecoder, MLPEncoder

LAWS = {
    "categorical": lambda shape, k: CategoricalLevels(torch.randn(*shape, k)),
    "logistic": lambda shape, k: LogisticLevels(torch.rand(shape), torch.randn(shape) - 1, levels=k),
}


@pytest.fixture(params=LAWS)
def law(request):
    return LAWS[request.param]((3, 2), 6)


def grid(k=6):
    return (torch.arange(k) / (k - 1)).to(torch.get_default_dtype())


def test_probabilities_of_all_levels_sum_to_one(law):
    probabilities = law.log_prob(grid()[:, None, None]).exp()
    assert probabilities.shape == (6, 3, 2)
    torch.testing.assert_close(probabilities.sum(0), torch.ones(3, 2), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((grid()[:, None, None] * probabilities).sum(0), law.mean, rtol=1e-10, atol=1e-10)


def test_draws_have_the_probabilities(law):
    num = 20_000
    drawn = law.sample([num])
    assert law.support.check(drawn).all()
    for value in grid():
        probability = law.log_prob(value).exp()
        frequency = ((drawn - value).abs() < 1e-9).double().mean(0)
        assert ((frequency - probability).abs() < 5 * (probability * (1 - probability) / num).sqrt() + 1e-12).all()


def test_expanded_laws_are_the_same(law):
    wide = law.expand([4, 3, 2])
    assert wide.batch_shape == (4, 3, 2)
    x = law.sample([4])
    torch.testing.assert_close(wide.log_prob(x), law.log_prob(x))
    assert wide.sample().shape == (4, 3, 2)


def test_values_between_levels_are_refused(law):
    with pytest.raises(ValueError, match="within the support"):
        law.log_prob(torch.full((3, 2), 0.5))
    float32 = grid(256).float().double()
    assert LogisticLevels(torch.zeros(256), torch.zeros(256), levels=256).support.check(float32).all()


def test_a_logistic_law_is_the_difference_of_sigmoids():
    loc, log_scale = torch.rand(7), torch.randn(7)
    law, half = LogisticLevels(loc, log_scale, levels=6), 0.1
    for value in (0.2, 0.4, 0.6, 0.8):
        upper, lower = ((value + sign * half - loc) / log_scale.exp() for sign in (1, -1))
        expected = (upper.sigmoid() - lower.sigmoid()).log()
        torch.testing.assert_close(law.log_prob(torch.tensor(value)), expected, rtol=1e-10, atol=1e-10)


def test_a_logistic_law_holds_far_from_its_mean():
    loc = torch.tensor([-40.0, 0.5, 40.0], requires_grad=True)
    log_scale = torch.tensor([-4.0, -9.0, -4.0], requires_grad=True)
    value = torch.tensor([1.0, 0.0, 0.4])
    log_prob = LogisticLevels(loc, log_scale, levels=6).log_prob(value)
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all()
    assert torch.isfinite(loc.grad).all()
    assert torch.isfinite(log_scale.grad).all()
    # Above the last limit, 0.9, by far: log sigmoid(-(0.9 + 40) e^4).
    assert log_prob[0].item() == pytest.approx(-(0.9 + 40) * math.exp(4), rel=1e-10)


def test_networks_return_what_the_law_needs():
    for name, options in (("normal", {}), ("categorical", {"levels": 5}), ("discretised_logistic", {"levels": 5})):
        likelihood = Likelihood(name, **options)
        law = likelihood(torch.randn(7, *likelihood.output_shape((1, 2, 3))), 1)
        assert law.batch_shape == (7,)
        assert law.event_shape == (1, 2, 3)
    with pytest.raises(DataError, match="a logit for each in its last dimension; got 4"):
        Likelihood("categorical", levels=5)(torch.zeros(2, 3, 4), 1)
    with pytest.raises(DataError, match="a decoder of discretised_logistic data must return means and log-scales"):
        Likelihood("discretised_logistic")(torch.zeros(2, 3), 1)
    with pytest.raises(OptionError, match="levels must be a whole number of at least 2; got 1"):
        Likelihood("categorical", levels=1)


def count(*parts: nn.Module) -> int:
    return sum(p.numel() for part in parts for p in part.parameters())


def test_the_study_s_parameter_counts():
    encoder = MLPEncoder((2,), output_dim=8, hidden=(128,) * 3)
    toy = VAE(MLPDecoder(4, event_shape=(4,), hidden=(128,) * 3), latent_dim=4, likelihood="normal")
    assert (count(encoder), count(toy), count(encoder, toy)) == (34_440, 34_180, 68_620)
    encoder = MLPEncoder((1, 28, 28), output_dim=128, hidden=(512, 256, 128, 64))
    decoder = MLPDecoder(64, event_shape=(1, 28, 28), hidden=(64, 128, 256, 512), activation="tanh")
    assert (count(encoder), count(decoder), count(encoder, decoder)) == (582_720, 579_280, 1_162_000)


def test_points_have_a_linear_mean_and_a_free_scale():
    # The study put both through a sigmoid, so that no mean left (0, 1) and no scale exceeded 1.
    toy = VAE(MLPDecoder(4, event_shape=(4,), hidden=(16,)), latent_dim=4, likelihood="normal")
    with torch.no_grad():
        toy.decoder.layers[-1].bias.copy_(torch.tensor([-3.0, 4.0, 2.0, -5.0]))
        toy.decoder.layers[-1].weight.zero_()
    law = toy.decode(torch.zeros(4))
    torch.testing.assert_close(law.mean, torch.tensor([-3.0, 4.0]))
    torch.testing.assert_close(law.stddev, torch.tensor([2.0, -5.0]).exp())
