"""HamiltonianGuide: its schedules, its volume, its cost, and the closed-form limit it cannot pass."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from guides import HamiltonianGuide, MeanFieldGuide, OptionError
from guides.force import Force
from guides.leapfrog import leapfrog
from guides.target import Target
from guides.tempering import SCHEDULES
from ppl_models import OffsetGaussian
from ppl_models.objectives import ELBO, log_weights
from tests.contract.problems import GLOBAL


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("num_steps", [1, 4])
def test_cooling_undoes_the_initial_temperature(name, shape, num_steps):
    scales = SCHEDULES[name](num_steps, 2.5, shape).double().scales()
    assert len(scales) == num_steps + 1
    torch.testing.assert_close(scales[-1], torch.ones_like(scales[-1]))
    assert (scales.diff(dim=0) <= 0).all()
    if name != "none":
        torch.testing.assert_close(scales[0], torch.full_like(scales[0], 2.5), rtol=1e-6, atol=0)


def test_the_fixed_schedules_are_quadratic_in_what_they_say():
    steps = torch.arange(5) / 4
    inverse_sqrt_beta = SCHEDULES["inverse_sqrt_beta"](4, 3.0, ()).double().scales()
    torch.testing.assert_close(inverse_sqrt_beta, 1 + 2 * (1 - steps**2), rtol=1e-6, atol=0)
    inverse_beta = SCHEDULES["inverse_beta"](4, 3.0, ()).double().scales() ** 2
    torch.testing.assert_close(inverse_beta, 9 + (1 - 9) * steps**2, rtol=1e-6, atol=0)


@pytest.mark.parametrize("tempering", SCHEDULES)
def test_the_map_keeps_volume(tempering, monkeypatch):
    problem = GLOBAL["groups"]()
    guide = HamiltonianGuide(problem.model, num_steps=3, init_step_size=0.2, tempering=tempering).setup(*problem.args)
    dim = guide.space.dim

    def image(start):
        position, noise = start[:dim], start[dim:]
        step, scales = guide.step_size, guide.temperatures
        kept = {"detach": False, "checkpoint": False}
        force_at = Force(guide, lambda z: guide.space.log_joint(z, *problem.args), step[None], from_start=True, **kept)
        momentum, force = scales[0] * noise, force_at(position)
        for k in range(1, 4):
            position, momentum, force = leapfrog(position, momentum, force, step, force_at)
            momentum = momentum * scales[k] / scales[k - 1]
        return torch.cat([position, momentum])

    jacobian = torch.autograd.functional.jacobian(image, torch.randn(2 * dim))
    assert torch.linalg.slogdet(jacobian).logabsdet.item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("num_steps", [1, 5])
def test_a_trajectory_takes_one_force_evaluation_more_than_steps(num_steps):
    problem = GLOBAL["offset_gaussian"]()
    guide = HamiltonianGuide(problem.model, num_steps=num_steps).setup(*problem.args)
    evaluations = []

    def log_joint(latent):
        evaluations.append(latent.shape)
        return guide.space.log_joint(latent, *problem.args)

    guide.propose(Target(torch.Size([7]), log_joint, None), torch.randn(7, guide.noise_dim))
    assert evaluations == [(7, 2)] * (num_steps + 1)


def test_leapfrog_is_reversible_and_second_order():
    start = torch.tensor([1.0, -0.5]), torch.tensor([0.3, 0.8])

    def energy_error(size):
        z, rho, force = *start, -start[0]
        for _ in range(round(1 / size)):
            z, rho, force = leapfrog(z, rho, force, torch.tensor(size), lambda z: -z)
        return (z.square() + rho.square()).sum() - (start[0].square() + start[1].square()).sum(), z, rho

    coarse, fine = energy_error(0.1)[0], energy_error(0.05)[0]
    assert coarse / fine == pytest.approx(4, rel=0.1)
    _, z, rho = energy_error(0.1)
    rho = -rho
    force = -z
    for _ in range(10):
        z, rho, force = leapfrog(z, rho, force, torch.tensor(0.1), lambda z: -z)
    torch.testing.assert_close(z, start[0])
    torch.testing.assert_close(-rho, start[1])


def volume_bound(gaussian, x) -> float:
    """The most any trajectory from N(0, I) can reach: log p(x) - sum(sqrt a - 1 - log(a) / 2), a = 1 + N / sigma^2."""
    a = 1 + x.count / gaussian.scale.detach().square()
    return (gaussian.log_evidence(x) - (a.sqrt() - 1 - 0.5 * a.log()).sum()).item()


def from_standard_normal(gaussian, x, **options) -> HamiltonianGuide:
    base = MeanFieldGuide(gaussian, init_scale=1.0).setup(x).requires_grad_(False)
    return HamiltonianGuide(gaussian, base=base, **options).setup(x)


def test_one_step_attains_the_volume_bound_at_its_closed_form():
    gaussian = OffsetGaussian(2, scale=torch.tensor([0.5, 2.0]))
    x = gaussian.summarise(torch.randn(100, 2))
    gaussian.offset.data = x.mean
    a = 1 + x.count / gaussian.scale.detach().square()
    guide = from_standard_normal(
        gaussian, x, num_steps=1, max_step_size=2.0, temperature_per_dimension=True, init_temperature=1.1
    )
    step, temperature = (2 / a).sqrt(), (a.sqrt() / 2).sqrt()
    guide.steps.logit.data = torch.logit(step / 2.0)
    guide.tempering.log_excess.data = (temperature - 1).log()
    values = log_weights(gaussian, guide, x, num_particles=200_000).values.detach()
    error = values.std().item() / math.sqrt(len(values))
    assert values.mean().item() == pytest.approx(volume_bound(gaussian, x), abs=5 * error)
    assert error < 0.05


@pytest.mark.parametrize("tempering", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 3])
def test_no_trajectory_from_a_standard_normal_passes_the_volume_bound(tempering, num_steps):
    gaussian = OffsetGaussian(2, scale=torch.tensor([0.5, 2.0]))
    x = gaussian.summarise(torch.randn(100, 2))
    gaussian.offset.data = x.mean
    for step in (0.03, 0.1, 0.3):
        guide = from_standard_normal(
            gaussian,
            x,
            num_steps=num_steps,
            init_step_size=step,
            tempering=tempering,
            init_temperature=None if tempering == "none" else 2.0,
        )
        values = log_weights(gaussian, guide, x, num_particles=20_000).values.detach()
        assert values.mean() - 5 * values.std() / math.sqrt(len(values)) <= volume_bound(gaussian, x)


def test_draws_may_be_exact_and_the_bound_below_the_evidence():
    def model():
        return pyro.sample("z", dist.Normal(0.0, 1.0))

    # z_1 = 3/4 z_0 + rho_0 / sqrt(2) has variance 9/16 8/9 + 1/2 = 1, and rho_1 the variance 65/72.
    base = MeanFieldGuide(model, init_scale=math.sqrt(8 / 9)).setup()
    options = {"num_steps": 1, "init_step_size": math.sqrt(0.5), "max_step_size": 2.0, "tempering": "none"}
    guide = HamiltonianGuide(model, base=base, **options).setup()
    draws = guide.sample_posterior(100_000)["z"]
    assert draws.var().item() == pytest.approx(1, abs=5 * math.sqrt(2 / len(draws)))
    found = log_weights(model, guide, num_particles=100_000).values.detach()
    error = found.std().item() / math.sqrt(found.numel())
    assert found.mean().item() == pytest.approx(0.5 * (math.log(8 / 9) + 1 - 65 / 72), abs=5 * error)
    assert found.mean().item() + 10 * error < 0


def test_free_factors_are_the_ratios_of_the_scales():
    schedule = SCHEDULES["free"](3, 2.0, ()).double()
    schedule.logits.data = torch.tensor([0.3, -0.5, 1.1])
    scales = schedule.scales()
    torch.testing.assert_close(scales[1:] / scales[:-1], schedule.logits.sigmoid())


def test_a_frozen_base_is_not_trained():
    gaussian, x = OffsetGaussian(2), torch.zeros(3, 2)
    guide = from_standard_normal(gaussian, x, num_steps=2)
    ELBO(num_particles=2).loss_and_grads(gaussian, guide, x)
    assert guide.base.loc.grad is None
    assert guide.steps.logit.grad.abs().sum() > 0


def test_detaching_the_force_changes_the_gradient_and_not_the_loss():
    problem = GLOBAL["gamma_poisson"]()
    losses, gradients = [], []
    for detach in (False, True):
        pyro.set_rng_seed(0)
        guide = HamiltonianGuide(problem.model, num_steps=3, init_step_size=0.2, detach_force=detach)
        guide.setup(*problem.args)
        pyro.set_rng_seed(1)
        losses.append(ELBO(num_particles=5).loss_and_grads(problem.model, guide, *problem.args))
        gradients.append(guide.base.loc.grad)
    assert losses[0] == losses[1]
    assert not torch.allclose(*gradients)


def test_shapes_of_what_is_learned():
    problem = GLOBAL["offset_gaussian"]()
    guide = HamiltonianGuide(problem.model, num_steps=4, step_size_per_step=True, temperature_per_dimension=True).setup(
        *problem.args
    )
    assert guide.step_size.shape == (4, 2)
    assert guide.temperatures.shape == (5, 2)
    assert guide.step_size.detach().flatten().tolist() == pytest.approx([0.005] * 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1; got 0. Without steps the guide equals its"),
        ({"num_steps": 2.0}, "got 2.0"),
        ({"init_step_size": -0.1}, "init_step_size must be positive and below 0.5; got -0.1"),
        ({"init_step_size": 0.0}, "got 0.0"),
        ({"init_step_size": 0.7}, "got 0.7. Write init_step_size=0.005, or raise max_step_size"),
        ({"max_step_size": -1.0}, "max_step_size must be positive and finite; got -1.0"),
        ({"init_temperature": 1.0}, "init_temperature must be greater than 1 and finite; got 1.0"),
        ({"init_temperature": math.nan}, "got nan"),
        ({"tempering": "inverse_bta"}, "tempering must be one of .*'inverse_beta'.* got 'inverse_bta'. Did you mean"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        HamiltonianGuide(lambda: None, **options)
