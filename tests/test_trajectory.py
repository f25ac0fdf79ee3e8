"""Trajectories of Hamiltonian guides and of Hamiltonian Monte Carlo."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from guides import DataError, HamiltonianGuide, MeanFieldGuide, ModelError, OptionError
from ppl_models import VAE, OffsetGaussian
from ppl_models.diagnostics import trajectory
from ppl_models.networks import MLPDecoder
from ppl_models.objectives import log_weights

SCALES = torch.tensor([1.0, 0.2], dtype=torch.float64)


def correlated(x):
    """A posterior with one wide and one narrow latent, of which one is positive."""
    pyro.sample("a", dist.Normal(0.0, SCALES[0]))
    pyro.sample("b", dist.LogNormal(0.0, SCALES[1]))
    pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def hamiltonian(**options):
    return HamiltonianGuide(correlated, num_steps=4, init_step_size=0.1, **options)


@pytest.mark.parametrize("init", [None, "laplace"])
@pytest.mark.parametrize("tempering", ["inverse_sqrt_beta", "none"])
def test_the_end_of_the_path_is_what_the_guide_draws_with_its_weight(init, tempering):
    x = torch.tensor(0.5)
    guide = hamiltonian(tempering=tempering).setup(x, init=init)
    torch.manual_seed(3)
    path = guide.path(x, num_particles=6)
    torch.manual_seed(3)
    with torch.no_grad():
        weights = log_weights(correlated, guide, x, num_particles=6).values
    torch.manual_seed(3)
    with torch.no_grad(), pyro.plate("particles", 6, dim=-2):
        drawn = guide(x)
    ends = guide.space.constrain(path.latent[-1])
    for name, value in drawn.items():
        torch.testing.assert_close(ends[name], value.reshape(ends[name].shape), rtol=1e-12, atol=1e-12)
    # log w = log p(x, z_K) - |rho_K|^2 / 2 - log q_0(z_0) + |gamma|^2 / 2, and |rho_0| = T_0 |gamma|.
    temperature = guide.temperatures[0].detach()
    start = path.latent[0]
    kinetic = path.energy[0] + guide.space.log_joint(start, x)
    if init is None:
        base = guide.base.law(guide._target(_call(x), {})).to_event(1)
        log_q = base.log_prob(start) - kinetic / temperature**2
        torch.testing.assert_close(-path.energy[-1] - log_q, weights, rtol=0, atol=1e-10)


def _call(x):
    from guides.call import Call

    return Call((x,), {})


def test_a_normal_posterior_conserves_energy_as_leapfrog_does():
    """For H = (u^2 + rho^2) / 2 the step conserves (1 - eps^2 / 4) u^2 + rho^2, exactly (Neal 2011, section 2.3)."""
    x = torch.tensor(0.0)
    found = trajectory(correlated, hamiltonian(tempering="none"), x, num_particles=50, seed=0)
    assert found.latent.shape == (5, 50, 2)
    assert found.energy.shape == found.heat.shape == (5, 1, 50)
    scaled = found.latent / SCALES
    # H_k - H_0 = sum over the latents of eps^2 / (8 s^2) (u_k^2 - u_0^2) / s^2, with a mean of zero for each.
    expected = (0.1**2 / (8 * SCALES**2) * (scaled.square() - scaled[0].square())).sum(-1)
    torch.testing.assert_close(found.energy_error[:, 0], expected, rtol=0, atol=1e-10)
    assert not found.heat.any()


def test_cooling_takes_its_heat_from_the_energy_and_leaves_the_error_of_the_steps():
    x = torch.tensor(0.0)
    warm = trajectory(correlated, hamiltonian(init_temperature=3.0), x, num_particles=200, seed=0)
    assert (warm.heat[-1] < 0).all()
    assert (warm.heat.diff(dim=0) <= 0).all()
    assert float((warm.energy[-1] - warm.energy[0]).mean()) < -1
    assert float(warm.energy_error.abs().max()) < 2


def test_a_path_at_rest_starts_without_momentum_and_climbs():
    x = torch.tensor(0.0)
    found = trajectory(correlated, hamiltonian(), x, num_particles=20, at_rest=True, seed=0)
    torch.testing.assert_close(found.energy[0, 0], -found.log_joint(found.latent[0]))
    higher = found.log_joint(found.latent[-1]) - found.log_joint(found.latent[0])
    assert (higher >= 0).all()


def test_hmc_leaves_the_posterior_as_it_is():
    """From a guide that is too narrow: means and variances of many chains are the posterior's."""
    x = torch.randn(20, 2)
    gaussian = OffsetGaussian(2).requires_grad_(False)
    guide = MeanFieldGuide(gaussian, init_scale=0.02)
    found = trajectory(gaussian, guide, x, method="hmc", num_particles=4000, num_transitions=8, seed=0)
    exact = gaussian.exact_posterior(x)
    ends = found.latents["z"][-1]
    se = exact.stddev / 4000**0.5
    assert ((ends.mean(0) - exact.mean).abs() < 5 * se).all()
    assert ((ends.var(0) / exact.variance - 1).abs() < 5 * (2 / 4000) ** 0.5).all()
    # Every transition that is refused leaves its chain where it is, and only those.
    still = (found.latent[1:] == found.latent[:-1]).all(-1)
    assert (still == ~found.accepted).all()
    assert 0.6 < float(found.accepted.double().mean()) < 1


def test_hmc_accepts_by_the_error_of_the_energy():
    x = torch.tensor(0.0)
    found = trajectory(
        correlated, hamiltonian(), x, method="hmc", num_particles=500, num_transitions=20, step_size=1.2, seed=0
    )
    probability = (-found.energy_error[-1]).exp().clamp(max=1)
    chance = (probability * (1 - probability)).sum().sqrt()
    assert abs(float(found.accepted.double().sum() - probability.sum())) < 4 * float(chance)
    assert 0.3 < float(probability.mean()) < 0.97
    long = trajectory(correlated, hamiltonian(), x, method="hmc", num_particles=50, step_size=4.0, seed=0)
    assert float(long.accepted.double().mean()) < 0.2


def test_data_with_latents_of_their_own_have_a_path_each():
    x = torch.rand(3, 1, 4, 4)
    vae = VAE(MLPDecoder(2, event_shape=(1, 4, 4), hidden=(8,)), latent_dim=2)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    guide = HamiltonianGuide(vae, encoder=encoder, num_steps=3)
    found = trajectory(vae, guide, x.round(), num_particles=2, seed=0)
    assert found.latent.shape == (4, 2, 3, 2)
    assert found.latents["z"].shape == (4, 2, 3, 2)
    chains = trajectory(vae, guide, x.round(), method="hmc", num_particles=2, num_transitions=5, num_leapfrog=4, seed=0)
    assert chains.latent.shape == (6, 2, 3, 2)
    assert chains.energy.shape == (5, 5, 2, 3)
    assert chains.log_joint(chains.latent[0]).shape == (2, 3)


def test_float32_models_are_followed_in_float64_and_stay_float32():
    with torch.no_grad():
        gaussian = OffsetGaussian(2).float()
        x = torch.randn(10, 2).float()
        guide = HamiltonianGuide(gaussian, num_steps=3)
        found = trajectory(gaussian, guide, x, seed=0)
    assert found.latent.dtype == torch.float64
    assert found.log_joint(found.latent[0]).dtype == torch.float64
    assert all(p.dtype == torch.float32 for p in gaussian.parameters())


def test_a_seed_fixes_all_and_leaves_the_generator():
    x = torch.tensor(0.0)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    runs = [trajectory(correlated, hamiltonian(), x, method=m, seed=5).latent for m in ("guide", "hmc") for _ in "ab"]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[2], runs[3])


def test_what_cannot_be_followed_is_refused():
    x = torch.tensor(0.0)
    mean_field = MeanFieldGuide(correlated)
    with pytest.raises(ModelError, match=r"needs a HamiltonianGuide; got MeanFieldGuide. Write method='hmc'"):
        trajectory(correlated, mean_field, x)
    with pytest.raises(OptionError, match=r"Did you mean 'hmc'"):
        trajectory(correlated, mean_field, x, method="hcm")
    with pytest.raises(OptionError, match=r"step_size is for method='hmc'; got 0.1"):
        trajectory(correlated, hamiltonian(), x, step_size=0.1)
    with pytest.raises(OptionError, match=r"at_rest is for method='guide'"):
        trajectory(correlated, hamiltonian(), x, method="hmc", at_rest=True)
    with pytest.raises(OptionError, match=r"step_size must be positive"):
        trajectory(correlated, hamiltonian(), x, method="hmc", step_size=-1.0)
    with pytest.raises(OptionError, match=r"num_particles must be a whole number of at least 1; got 0"):
        trajectory(correlated, hamiltonian(), x, num_particles=0)
    with pytest.raises(DataError, match=r"finite"):
        trajectory(correlated, hamiltonian(), torch.tensor(float("nan")))
    partial = HamiltonianGuide(correlated, hide=["a"], num_steps=2)
    with pytest.raises(ModelError, match=r"a path needs a guide of all latents; other guides draw 'a'"):
        trajectory(correlated, partial, x)
