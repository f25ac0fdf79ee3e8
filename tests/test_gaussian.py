"""OffsetGaussian against direct multivariate normal densities and the published data."""

from __future__ import annotations

import math

import arviz as az
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, Predictive

from guides import DataError, LatentSpace, MeanFieldGuide, OptionError
from ppl_models import GaussianSummary, OffsetGaussian
from ppl_models.reproductions.gaussian.data import study_data, truth


@pytest.fixture
def gaussian() -> OffsetGaussian:
    return OffsetGaussian(2, offset=torch.tensor([0.5, -1.0]), scale=torch.tensor([0.7, 1.3]))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.tensor([[0.1, 0.4], [1.2, -0.3], [0.7, -2.0], [-0.5, 0.2], [2.0, 1.0]])


def test_log_evidence_is_the_multivariate_normal_density(gaussian, x):
    n, direct = len(x), 0.0
    for j in range(2):
        covariance = torch.ones(n, n) + gaussian.scale[j] ** 2 * torch.eye(n)
        direct += dist.MultivariateNormal(gaussian.offset[j].expand(n), covariance).log_prob(x[:, j])
    torch.testing.assert_close(gaussian.log_evidence(x), direct, rtol=1e-12, atol=1e-12)


def test_exact_posterior_makes_joint_over_posterior_constant(gaussian, x):
    posterior = gaussian.exact_posterior(x)
    for z in torch.randn(3, 2):
        joint = poutine.trace(poutine.condition(gaussian, {"z": z})).get_trace(x).log_prob_sum()
        torch.testing.assert_close(joint - posterior.log_prob(z).sum(), gaussian.log_evidence(x))


def test_summary_has_the_density_of_the_data(gaussian, x):
    z = torch.randn(2)
    densities = [
        poutine.trace(poutine.condition(gaussian, {"z": z})).get_trace(data).log_prob_sum()
        for data in (x, gaussian.summarise(x))
    ]
    torch.testing.assert_close(*densities, rtol=1e-12, atol=1e-12)


def test_maximum_likelihood_is_a_stationary_maximum(x):
    offset, scale = OffsetGaussian(2).maximum_likelihood(x)
    best = OffsetGaussian(2, offset=offset, scale=scale)
    value = best.log_evidence(x)
    for gradient in torch.autograd.grad(value, list(best.parameters())):
        assert gradient.abs().max() < 1e-10
    for shift in (0.01, -0.01):
        assert OffsetGaussian(2, offset=offset + shift, scale=scale).log_evidence(x) < value
        assert OffsetGaussian(2, offset=offset, scale=scale + shift).log_evidence(x) < value


def test_maximum_likelihood_does_not_cancel_for_wide_data():
    x = 1e5 * torch.randn(100, 1)
    scales = [OffsetGaussian(1).maximum_likelihood(data)[1].item() for data in (x, x.float())]
    assert scales[0] == pytest.approx(scales[1], rel=1e-5)
    assert scales[0] == pytest.approx(x.std().item(), rel=0.02)


@pytest.mark.parametrize("summarise", [False, True])
def test_centred_it_has_the_same_law(gaussian, x, summarise):
    centred = OffsetGaussian(2, offset=gaussian.offset, scale=gaussian.scale, centred=True)
    data = gaussian.summarise(x) if summarise else x
    z = torch.randn(2)
    plain = poutine.trace(poutine.condition(gaussian, {"z": z})).get_trace(data)
    trace = poutine.trace(poutine.condition(centred, {"location": z + gaussian.offset})).get_trace(data)
    torch.testing.assert_close(trace.log_prob_sum(), plain.log_prob_sum())
    torch.testing.assert_close(trace.nodes["z"]["value"], z)
    space = LatentSpace(centred, data)
    assert [site.name for site in space.sites] == ["location"]


def test_maximum_likelihood_errors_on_the_study_s_data():
    # FACTS: ||xbar - Delta||^2 = 27.87 21.30 17.54, sigma error 2.4e-4, log p(D) at the maximum -75176 -75209 -74227.
    shifts, sigmas, evidences = [], [], []
    offset, scale = truth(25)
    for x in study_data(25):
        ml = OffsetGaussian(25).maximum_likelihood(x)
        shifts.append((ml[0] - offset).square().sum().item())
        sigmas.append((ml[1] - scale).square().sum().item())
        evidences.append(OffsetGaussian(25, offset=ml[0], scale=ml[1]).log_evidence(x).item())
    assert shifts == pytest.approx([27.87, 21.30, 17.54], abs=0.006)
    assert sum(sigmas) / 3 == pytest.approx(2.4e-4, rel=0.03)
    assert evidences == pytest.approx([-75176, -75209, -74227], abs=0.6)


def test_predictive_and_pointwise_log_likelihood_keep_the_plate(gaussian, x):
    guide = MeanFieldGuide(gaussian).setup(x)
    draws = Predictive(gaussian, guide=guide, num_samples=4, return_sites=("z", "x"))(x)
    assert draws["x"].shape == (4, 5, 2)
    generated = Predictive(gaussian, posterior_samples={"z": draws["z"]})(None, num=7)["x"]
    assert generated.shape == (4, 7, 2)
    trace = poutine.trace(poutine.condition(gaussian, {"z": draws["z"][0]})).get_trace(x)
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].shape == (5,)


def test_arviz_reads_it_after_pyro_s_nuts(gaussian, x):
    gaussian.requires_grad_(False)
    mcmc = MCMC(NUTS(gaussian), num_samples=50, warmup_steps=50, disable_progbar=True)
    mcmc.run(x)
    pointwise = az.from_pyro(mcmc, log_likelihood=True).log_likelihood["x"]
    assert pointwise.shape == (1, 50, 5)
    z = mcmc.get_samples()["z"]
    expected = dist.Normal(z[:, None] + gaussian.offset, gaussian.scale).log_prob(x).sum(-1)
    torch.testing.assert_close(torch.as_tensor(pointwise.values[0]), expected)
    parallel = Predictive(gaussian, posterior_samples={"z": z}, parallel=True)(None, num=7)["x"]
    assert parallel.shape == (50, 7, 2)
    assert (parallel.mean((0, 1)) - (z.mean(0) + gaussian.offset)).abs().max() < 0.5


def test_pyro_s_nuts_samples_the_exact_posterior_from_a_summary(gaussian, x):
    gaussian.requires_grad_(False)
    mcmc = MCMC(NUTS(gaussian), num_samples=400, warmup_steps=100, disable_progbar=True)
    mcmc.run(gaussian.summarise(x))
    posterior = gaussian.exact_posterior(x)
    error = (mcmc.get_samples()["z"].mean(0) - posterior.mean).abs()
    assert (error < 5 * posterior.stddev / math.sqrt(100)).all()  # 100: an effective sample size well within reach


def test_a_latent_space_of_the_summary_takes_all_data(gaussian, x):
    # As many vectors as data: taken for one another, they would give wrong numbers and no error.
    u, summary = torch.randn(len(x), 2), gaussian.summarise(x)
    spaces = [LatentSpace(gaussian, data) for data in (x, summary)]
    expected = spaces[0].log_joint(u, x)
    for space in spaces:
        for data in (x, summary):
            torch.testing.assert_close(space.log_joint(u, data), expected)


def test_summaries_are_drawn_from_their_own_law(gaussian, x):
    summary = gaussian.summarise(x)
    z = torch.tensor([0.3, 0.2])
    law = poutine.trace(poutine.condition(gaussian, {"z": z})).get_trace(summary).nodes["x"]["fn"]
    mean, scatter = law.sample((20_000,)).unbind(-2)
    data = dist.Normal(z + gaussian.offset, gaussian.scale).sample((20_000, len(x)))
    direct = data.mean(1), (data - data.mean(1, keepdim=True)).square().sum(1)
    for have, want in zip((mean, scatter), direct, strict=True):
        error = 5 * math.sqrt(2 / 20_000)
        assert ((have.mean(0) - want.mean(0)).abs() < error * want.std(0)).all()
        assert ((have.std(0) / want.std(0) - 1).abs() < 2 * error).all()


def test_summary_sums_are_centred():
    # Far from zero uncentred sums would lose the digits of the scatter: 1e7 squared leaves 2 of float64's 16.
    noise = torch.randn(1000, 1)
    expected = (noise - noise.mean(0)).square().sum(0)
    assert GaussianSummary.of(noise + 1e7).scatter.item() == pytest.approx(expected.item(), rel=1e-6)
    # And float32 data are summed in float64.
    far = (noise + 1e4).float()
    expected = (far.double() - far.double().mean(0)).square().sum(0)
    assert GaussianSummary.of(far).scatter.item() == pytest.approx(expected.item(), rel=1e-6)


def test_moves_between_types():
    gaussian = OffsetGaussian(2).float()
    assert gaussian(None, num=3).dtype == torch.float32
    assert gaussian.log_evidence(torch.zeros(3, 2, dtype=torch.float32)).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(torch.zeros(4, 3)), r"dimension 2, as the model; got x of width 3"),
        (lambda m: m(torch.zeros(4)), r"x must have shape \(N, 2\) with N >= 1; got \(4,\)"),
        (lambda m: m.log_evidence(torch.zeros(0, 2)), r"N, d >= 1; got \(0, 2\)"),
        (lambda m: m.log_evidence(torch.tensor([[0.0, math.nan]])), "must be finite"),
        (lambda m: m(torch.zeros(0, 2)), r"with N >= 1; got \(0, 2\)"),
        (
            lambda m: m.log_evidence(torch.ones(3, 2, dtype=torch.int64)),
            "tensor; got torch.int64. Write",
        ),
        (lambda m: m([[1.0, 2.0]]), "floating-point tensor; got list"),
        (lambda m: m.maximum_likelihood(torch.zeros(1, 2)), "at least 2 observations; got 1"),
        (
            lambda m: GaussianSummary(0, torch.zeros(2), torch.zeros(2)),
            "count must be a whole number .* 1; got 0",
        ),
        (lambda m: GaussianSummary(3, torch.zeros(2), -torch.ones(2)), "scatter must not be negative; got -1"),
        (lambda m: GaussianSummary(3, torch.zeros(2), torch.ones(3)), r"got \(2,\) and \(3,\)"),
    ],
)
def test_bad_data_are_refused(gaussian, call, message):
    with pytest.raises(DataError, match=message):
        call(gaussian)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "dim must be a whole number of at least 1; got 0"),
        ({"dim": 2.0}, "got 2.0"),
        ({"dim": 2, "scale": -1.0}, "scale must be positive; got -1.0"),
        ({"dim": 2, "offset": torch.zeros(3)}, r"shape \(2,\); got \(3,\)"),
        ({"dim": 2, "offset": math.inf}, "offset must be finite; got inf"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        OffsetGaussian(**options)
