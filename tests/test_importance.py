"""importance_nll and k_hat against exact evidence."""

from __future__ import annotations

import math

import arviz as az
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from guides import DataError, MeanFieldGuide, OptionError
from ppl_models import OffsetGaussian
from ppl_models.diagnostics import importance_nll, k_hat
from ppl_models.objectives import log_weights
from tests.contract.problems import AMORTISED, GLOBAL
from tests.contract.registry import GUIDES, wide


@pytest.mark.parametrize("name", GUIDES)
def test_it_is_the_exact_nll_per_datum(name):
    problem = AMORTISED["linear_vae"]()
    guide = GUIDES[name](problem.model, problem.encoder)
    estimate = importance_nll(problem.model, guide, *problem.args, num_samples=5000, seed=0)
    assert estimate.log_evidence.shape == (4,)
    assert ((estimate.log_evidence - problem.log_evidence).abs() < 5 * estimate.monte_carlo_error).all()
    assert estimate.nll == pytest.approx(-problem.log_evidence.mean().item(), abs=5 * estimate.draw_error)
    assert estimate.standard_error == pytest.approx(problem.log_evidence.std().item() / 2, rel=0.1)


def test_global_latents_give_one_number_with_the_error_of_its_draws():
    problem = GLOBAL["gamma_poisson"]()
    estimate = importance_nll(problem.model, wide(problem.model, None), *problem.args, num_samples=5000, seed=0)
    assert estimate.log_evidence.shape == ()
    assert estimate.standard_error == estimate.monte_carlo_error.item()
    assert abs(estimate.nll + problem.log_evidence.item()) < 5 * estimate.standard_error


def test_monte_carlo_error_is_the_spread_of_repeats():
    problem = GLOBAL["offset_gaussian"]()
    guide = wide(problem.model, None)
    repeats = [importance_nll(problem.model, guide, *problem.args, num_samples=2000, seed=s) for s in range(200)]
    spread = torch.stack([r.log_evidence for r in repeats]).std().item()
    assert repeats[0].standard_error == pytest.approx(spread, rel=0.25)  # 5 standard errors of a spread of 200


@pytest.mark.parametrize("max_batch", [1, 7, 40, 100_000])
def test_batches_are_bounded_and_change_nothing_but_the_noise(max_batch):
    problem = AMORTISED["linear_vae"]()
    guide = wide(problem.model, problem.encoder)
    sizes = []
    hook = problem.model.decoder.register_forward_hook(lambda module, args, output: sizes.append(args[0].numel() // 2))
    estimate = importance_nll(problem.model, guide, *problem.args, num_samples=50, max_batch=max_batch, seed=0)
    hook.remove()
    assert estimate.log_weights.shape == (50, 4)
    assert max(sizes) <= max_batch
    assert ((estimate.log_evidence - problem.log_evidence).abs() < 6 * estimate.monte_carlo_error).all()


def test_what_batches_have_in_common_is_found_once():
    problem = AMORTISED["linear_vae"]()
    guide, runs = wide(problem.model, problem.encoder).setup(*problem.args), []
    hook = problem.model.decoder.register_forward_hook(lambda module, args, output: runs.append(output))
    estimate = importance_nll(problem.model, guide, *problem.args, num_samples=50, max_batch=20, seed=0)
    hook.remove()
    assert len(runs) == 10 + 2  # one for independence, and one for plates
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        log_weights(problem.model, guide, *problem.args)
        batches = [log_weights(problem.model, guide, *problem.args, num_particles=5).values for _ in range(10)]
    assert torch.equal(estimate.log_weights, torch.cat(batches))


def test_networks_are_in_evaluation_mode():
    problem = AMORTISED["linear_vae"]()
    modes = []
    problem.encoder.register_forward_hook(lambda module, args, output: modes.append(module.training))
    guide = wide(problem.model, problem.encoder).setup(*problem.args)
    modes.clear()
    importance_nll(problem.model, guide, *problem.args, num_samples=30)
    assert modes
    assert not any(modes)


def test_memory_is_bounded_for_shared_latents_and_a_summary_is_used():
    gaussian = OffsetGaussian(1)
    x = torch.randn(40, 1)
    seen = []

    class Plain(nn.Module):
        """The same model, without a way to summarise."""

        def forward(self, x):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            seen.append(z.numel() * len(x))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    plain = Plain()
    for model in (plain, gaussian):
        guide = MeanFieldGuide(model).setup(x)
        posterior = gaussian.exact_posterior(x)
        guide.loc.data, guide.log_scale.data = posterior.loc.detach(), posterior.scale.log().detach() + 0.2
        estimate = importance_nll(model, guide, x, num_samples=200, max_batch=400, seed=0)
        assert estimate.log_weights.shape == (200,)
        assert abs(estimate.nll + gaussian.log_evidence(x).item()) < 5 * estimate.standard_error
    assert max(seen) <= 400


def test_guides_that_are_not_reparametrised_can_be_judged():
    def model(x):
        z = pyro.sample("z", dist.Exponential(1.0))
        pyro.sample("x", dist.Poisson(z), obs=x)

    def guide(x):
        law = dist.Gamma(2.5, 2.0)
        law.has_rsample = False
        pyro.sample("z", law)

    x = torch.tensor(1.0)  # E Poisson(1; z) under Exponential(1) is 1 / 4
    estimate = importance_nll(model, guide, x, num_samples=4000, seed=0)
    assert estimate.nll == pytest.approx(math.log(4), abs=5 * estimate.standard_error)


def test_draw_error_is_the_spread_of_the_mean_over_repeats():
    problem = AMORTISED["linear_vae"]()
    guide = wide(problem.model, problem.encoder)
    repeats = [importance_nll(problem.model, guide, *problem.args, num_samples=500, seed=s) for s in range(200)]
    spread = torch.tensor([r.nll for r in repeats]).std().item()
    assert repeats[0].draw_error == pytest.approx(spread, rel=0.3)


def test_weights_that_are_all_zero_are_no_good_sign():
    assert k_hat(torch.full((50,), -math.inf)).item() == math.inf


def test_modes_state_and_gradients_are_left_alone():
    problem = AMORTISED["linear_vae"]()
    guide = GUIDES["hamiltonian"](problem.model, problem.encoder).setup(*problem.args)
    problem.model.train()
    state = torch.random.get_rng_state()
    estimate = importance_nll(problem.model, guide, *problem.args, num_samples=30, seed=0)
    assert problem.model.training
    assert torch.equal(state, torch.random.get_rng_state())
    assert not estimate.log_weights.requires_grad
    assert all(p.grad is None for p in guide.parameters())


def test_k_hat_is_arviz_s():
    log_weights = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.5, 2.0, 4.0])
    expected = [az.psislw(log_weights[:, i].double().numpy())[1].item() for i in range(3)]
    assert k_hat(log_weights).tolist() == pytest.approx(expected)
    assert k_hat(log_weights[:, 0]).shape == ()


def test_k_hat_tells_a_good_guide_from_a_bad_one():
    target = dist.Normal(0.0, 1.0)

    def shape(scale):
        proposal = dist.Normal(0.0, scale)
        z = proposal.sample((4000,))
        return k_hat(target.log_prob(z) - proposal.log_prob(z)).item()

    assert shape(1.5) < 0.5
    assert shape(0.3) > 0.7


def test_equal_weights_have_no_tail():
    problem = GLOBAL["offset_gaussian"]()
    posterior = problem.model.exact_posterior(*problem.args)
    guide = MeanFieldGuide(problem.model).setup(*problem.args)
    guide.loc.data, guide.log_scale.data = posterior.loc.detach(), posterior.scale.log().detach()
    estimate = importance_nll(problem.model, guide, *problem.args, num_samples=200, seed=0)
    assert estimate.k_hat.item() == -math.inf
    assert estimate.nll == pytest.approx(-problem.log_evidence.item(), abs=1e-10)


def test_bad_input_is_refused():
    problem = AMORTISED["linear_vae"]()
    guide = wide(problem.model, problem.encoder)
    for name in ("num_samples", "max_batch"):
        with pytest.raises(OptionError, match=f"{name} must be a whole number of at least 1; got 0"):
            importance_nll(problem.model, guide, *problem.args, **{name: 0})
    with pytest.raises(DataError, match="argument 0 must be finite"):
        importance_nll(problem.model, guide, torch.full((2, 3), torch.nan))
    with pytest.raises(DataError, match="k_hat needs at least 25 draws; got 24"):
        k_hat(torch.randn(24))
    with pytest.raises(DataError, match="log_weights must be finite; got NaN or plus infinity"):
        k_hat(torch.tensor([0.0] * 30 + [math.inf]))
