"""VAE beyond the model contract: its likelihoods, and convolutional training among particles."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from guides import HamiltonianGuide, OptionError
from ppl_models import VAE
from ppl_models.networks import ConvDecoder, ConvEncoder, MLPDecoder
from ppl_models.objectives import IWAE


def test_bernoulli_density_is_the_cross_entropy_of_the_logits():
    vae = VAE(MLPDecoder(2, event_shape=(1, 4, 4), hidden=(8,)), latent_dim=2)
    x, z = (torch.rand(5, 1, 4, 4) > 0.5).double(), torch.randn(5, 2)
    trace = poutine.trace(poutine.condition(vae, {"z": z})).get_trace(x)
    trace.compute_log_prob()
    logits = vae.decoder(z)
    expected = -torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum((1, 2, 3))
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], expected)
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], dist.Normal(0.0, 1.0).log_prob(z).sum(-1))


def test_normal_density_has_the_decoder_s_mean_and_log_scale():
    vae = VAE(MLPDecoder(2, event_shape=(6,), hidden=(8,)), latent_dim=2, likelihood="normal")
    z = torch.randn(5, 2)
    law, (mean, log_scale) = vae.decode(z), vae.decoder(z).chunk(2, -1)
    assert law.event_shape == (3,)
    torch.testing.assert_close(law.mean, mean)
    torch.testing.assert_close(law.stddev, log_scale.exp())


def test_convolutional_vae_under_a_hamiltonian_guide_and_particles():
    vae = VAE(ConvDecoder(4), latent_dim=4)
    guide = HamiltonianGuide(vae, encoder=ConvEncoder(4), num_steps=2)
    x = (torch.rand(3, 1, 28, 28) > 0.5).double()
    loss = IWAE(num_particles=2)(vae, guide)(x)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in [*vae.parameters(), *guide.parameters()])


def test_bad_options_are_refused():
    decoder = MLPDecoder(2, event_shape=(4,), hidden=(3,))
    with pytest.raises(TypeError, match="decoder must be a torch.nn.Module; got function"):
        VAE(lambda z: z, latent_dim=2)
    with pytest.raises(OptionError, match="latent_dim must be a whole number of at least 1; got 0"):
        VAE(decoder, latent_dim=0)
    with pytest.raises(OptionError, match="likelihood must be one of 'bernoulli', 'normal', .*; got 'gaussian'"):
        VAE(decoder, latent_dim=2, likelihood="gaussian")
