"""FullRankGuide: its law against torch's own normals, its size, and where it is exact."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from guides import DataError, FullRankGuide, MeanFieldGuide, OptionError
from guides.target import Target
from ppl_models.objectives import ELBO, log_weights
from ppl_models.training import fit

DIM = 4
#: A posterior with correlations up to 0.74 and standard deviations from 0.6 to 1.4: a diagonal and one factor.
STDDEV = torch.tensor([0.6, 0.4, 1.0, 0.8], dtype=torch.float64)
FACTOR = torch.tensor([2.0, -1.5, 1.0, 0.5], dtype=torch.float64)
COVARIANCE = STDDEV[:, None] * (torch.eye(DIM, dtype=torch.float64) + FACTOR[:, None] * FACTOR) * STDDEV
LOC = torch.tensor([1.0, -0.5, 0.5, 0.0], dtype=torch.float64)
#: A factor of the posterior precision less that of the prior: the data of `correlated` are worth that much.
LOADINGS = torch.linalg.cholesky(torch.linalg.inv(COVARIANCE) - 0.1 * torch.eye(DIM, dtype=torch.float64)).mT


def correlated(y):
    """The conjugate model whose posterior given ``DATA`` is N(LOC, COVARIANCE)."""
    z = pyro.sample("z", dist.Normal(torch.zeros(DIM), math.sqrt(10)).to_event(1))
    pyro.sample("y", dist.Normal(z @ LOADINGS.mT, 1.0).to_event(1), obs=y)


#: From (LOADINGS' LOADINGS + I / 10) LOC = LOADINGS' y.
DATA = torch.linalg.solve(LOADINGS.mT, torch.linalg.solve(COVARIANCE, LOC))
LOG_EVIDENCE = (
    dist.MultivariateNormal(torch.zeros(DIM).double(), torch.eye(DIM).double() + 10 * LOADINGS @ LOADINGS.mT)
    .log_prob(DATA)
    .item()
)


def independent(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def random_law(guide):
    """Give a guide's parameters values of size 1/2: a normal law like any other."""
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return guide


def global_guide(rank):
    return random_law(FullRankGuide(correlated, rank=rank).setup(DATA)), Target(torch.Size([]), lambda z: z, None)


def amortised_guide(rank, batch=5, encoder=None):
    width = 6 + 3 * (rank or 1)
    encoder = nn.Linear(3, width) if encoder is None else encoder
    guide = FullRankGuide(independent, rank=rank, encoder=encoder).setup(torch.zeros(2, 3))
    return guide, Target(torch.Size([batch]), lambda z: z, encoder(torch.randn(batch, 3)))


def by_hand(guide, target):
    """Location and covariance from the parameters (or context), element by element as the docstring says."""
    dim = guide.space.dim
    if target.context is None:
        entries = guide.factor if guide.rank else guide.lower
        rows = [torch.cat([guide.loc, guide.log_scale, entries.flatten()])]
    else:
        rows = list(target.context)
    laws = []
    for row in rows:
        loc, scale, entries = row[:dim], row[dim : 2 * dim].exp(), row[2 * dim :].tolist()
        if guide.rank:
            factor = torch.tensor([[entries[i * guide.rank + j] for j in range(guide.rank)] for i in range(dim)])
            mixed = torch.eye(dim) + factor @ factor.T
        else:
            triangle = torch.eye(dim)
            for i in range(dim):
                for j in range(i):
                    triangle[i, j] = entries.pop(0)
            mixed = triangle @ triangle.T
        laws.append((loc, scale[:, None] * mixed * scale))
    locs, covariances = (torch.stack(part) for part in zip(*laws, strict=True))
    return (locs[0], covariances[0]) if target.context is None else (locs, covariances)


MAKERS = {"global": global_guide, "amortised": amortised_guide}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


@pytest.mark.parametrize("rank", [None, 1, 2])
def test_log_q_is_the_normal_density_of_the_latent(make, rank):
    guide, target = make(rank)
    noise = torch.randn(6, *target.batch_shape, guide.noise_dim)
    proposal = guide.propose(target, noise)
    loc, covariance = by_hand(guide, target)
    expected = dist.MultivariateNormal(loc, covariance).log_prob(proposal.latent)
    torch.testing.assert_close(proposal.log_q, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(guide.law(target).log_prob(proposal.latent), expected, rtol=1e-10, atol=1e-10)
    kind = dist.MultivariateNormal if rank is None else dist.LowRankMultivariateNormal
    assert isinstance(guide.law(target), kind)


@pytest.mark.parametrize("rank", [None, 1, 2])
def test_the_law_is_that_of_the_draws(make, rank):
    # The map from noise is affine: its Jacobian A gives the draws' covariance A A', with no Monte Carlo error.
    guide, target = make(rank)
    origin = torch.zeros(*target.batch_shape, guide.noise_dim)
    columns = []
    for unit in torch.eye(guide.noise_dim):
        columns.append(guide.propose(target, origin + unit).latent - guide.propose(target, origin).latent)
    jacobian = torch.stack(columns, -1)
    law = guide.law(target)
    torch.testing.assert_close(jacobian @ jacobian.mT, law.covariance_matrix, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(guide.propose(target, origin).latent, law.mean, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rank", [None, 2])
def test_draws_have_the_law_s_mean_and_covariance(rank):
    guide, target = global_guide(rank)
    draws, law = guide.sample_posterior(50_000, DATA)["z"].detach(), guide.law(target)
    variance = law.covariance_matrix.diagonal()
    mean_error = (variance / len(draws)).sqrt()
    assert ((draws.mean(0) - law.mean).abs() < 5 * mean_error).all()
    # var(cov_ij) = (c_ii c_jj + c_ij^2) / n for normal draws.
    error = ((variance[:, None] * variance + law.covariance_matrix.square()) / len(draws)).sqrt()
    assert ((draws.T.cov() - law.covariance_matrix).abs() < 5 * error).all()


@pytest.mark.parametrize(
    ("rank", "count"), [(None, 2 * DIM + DIM * (DIM - 1) // 2), (1, 2 * DIM + DIM), (3, 2 * DIM + 3 * DIM)]
)
def test_number_of_parameters(rank, count):
    guide = FullRankGuide(correlated, rank=rank).setup(DATA)
    assert sum(p.numel() for p in guide.parameters()) == count


def test_one_dimension_is_a_normal():
    def scalar():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    guide = random_law(FullRankGuide(scalar).setup())
    assert sum(p.numel() for p in guide.parameters()) == 2
    noise = torch.randn(5, 1)
    proposal = guide.propose(Target(torch.Size([5]), lambda z: z, None), noise)
    expected = dist.Normal(guide.loc, guide.log_scale.exp()).log_prob(proposal.latent).sum(-1)
    torch.testing.assert_close(proposal.log_q, expected)


def train(model, guide, x):
    objective = ELBO(num_particles=64)
    fit(model, guide, x, objective=objective, steps=400, lr=0.1, schedule="cosine", seed=0, progress=False)


def gap(guide):
    """Log evidence less the ELBO, exactly: E log w is a quadratic form of the noise, known from 2 M + 1 points."""
    unit = torch.eye(guide.noise_dim)
    noise = torch.cat([torch.zeros(1, guide.noise_dim), unit, -unit])
    target = Target(noise.shape[:1], lambda v: guide.space.log_joint(guide.whitening(v), DATA), None)
    proposal = guide.propose(target, noise)
    values = target.log_joint(proposal.latent) + guide.whitening.log_det - proposal.log_q
    return (LOG_EVIDENCE - values[0] - 0.5 * (values[1:] - values[0]).sum()).item()


def test_it_becomes_exact_where_the_posterior_is_correlated():
    gaps = {}
    for name, guide in {
        "full": FullRankGuide(correlated, init_scale=1.0),
        "rank 1": FullRankGuide(correlated, rank=1, init_scale=1.0),
        "mean field": MeanFieldGuide(correlated, init_scale=1.0),
    }.items():
        train(correlated, guide, DATA)
        gaps[name] = gap(guide)
    assert 0 <= gaps["full"] < 0.01
    assert 0 <= gaps["rank 1"] < 0.01
    # The best independent normals have the conditional variances: they lose 0.5 (sum log P_jj - log det P), P = C^-1.
    precision = torch.linalg.inv(COVARIANCE)
    least = 0.5 * (precision.diagonal().log().sum() - precision.logdet()).item()
    assert gaps["mean field"] == pytest.approx(least, abs=0.01)
    assert least > 0.5


@pytest.mark.parametrize("make", [FullRankGuide, MeanFieldGuide])
def test_a_laplace_start_is_exact_from_the_first_step(make):
    guide = make(correlated).setup(DATA, init="laplace")
    values = log_weights(correlated, guide, DATA, num_particles=100).values
    # Each weight by itself is the evidence: the guide is the posterior.
    assert (values - LOG_EVIDENCE).abs().max() < 1e-6
    assert abs(gap(guide)) < 1e-6
    torch.testing.assert_close(guide.posterior_mean(DATA)["z"], LOC, rtol=1e-6, atol=1e-6)


def test_every_datum_has_a_covariance_of_its_own():
    guide, target = amortised_guide(None)
    covariances = guide.law(target).covariance_matrix
    assert covariances.shape == (5, 3, 3)
    correlations = covariances[:, 1, 0] / (covariances[:, 0, 0] * covariances[:, 1, 1]).sqrt()
    assert (correlations.diff().abs() > 1e-3).all()
    # Datum by datum, as a guide for that datum alone would have it.
    for i in range(5):
        alone = Target(torch.Size([1]), target.log_joint, target.context[i : i + 1])
        torch.testing.assert_close(guide.law(alone).covariance_matrix[0], covariances[i])


def test_an_amortised_guide_can_be_exact():
    # Posterior means are linear in x, and the covariance is the same for all: a linear encoder can say both.
    mixing, scale = torch.tensor([[1.0, 0.8, 0.0], [0.0, 1.0, -0.9], [0.0, 0.0, 1.0]]), 0.5

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ mixing.mT, scale).to_event(1), obs=x)

    covariance = torch.linalg.inv(torch.eye(3) + mixing.mT @ mixing / scale**2)
    triangle = torch.linalg.cholesky(covariance)
    scales = triangle.diagonal()
    encoder = nn.Linear(3, 9)
    encoder.weight.data = torch.cat([covariance @ mixing.mT / scale**2, torch.zeros(6, 3)])
    entries = [triangle[i, j] / scales[i] for i, j in ((1, 0), (2, 0), (2, 1))]
    encoder.bias.data = torch.cat([torch.zeros(3), scales.log(), torch.stack(entries)])
    x = torch.randn(8, 3)
    values = log_weights(model, FullRankGuide(model, encoder=encoder), x, num_particles=20).values
    exact = dist.MultivariateNormal(torch.zeros(3), mixing @ mixing.mT + scale**2 * torch.eye(3)).log_prob(x)
    torch.testing.assert_close(values, exact.expand(20, 8), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank must be a whole number of at least 1; got 0. Use MeanFieldGuide for 0."),
        ({"rank": 1.5}, "rank must be a whole number of at least 1; got 1.5"),
        ({"rank": True}, "got True"),
        ({"init_scale": 0.0}, "init_scale must be positive and finite; got 0.0"),
        ({"init_scale": 0.1, "encoder": nn.Linear(3, 9)}, "init_scale and encoder must not be given together: the enc"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        FullRankGuide(correlated, **options)


def test_a_rank_above_the_dimension_is_refused():
    with pytest.raises(OptionError, match="rank must be at most the number of latent dimensions, 4; got 5."):
        FullRankGuide(correlated, rank=5).setup(DATA)
    FullRankGuide(correlated, rank=4).setup(DATA)


@pytest.mark.parametrize(("rank", "needed"), [(None, 9), (1, 9), (2, 12)])
@pytest.mark.parametrize("surplus", [-1, 1])
def test_an_encoder_of_the_wrong_width_is_refused(rank, needed, surplus):
    guide = FullRankGuide(independent, rank=rank, encoder=nn.Linear(3, needed + surplus))
    message = (
        f"encoder must return {needed} numbers per datum, for FullRankGuide over the 3 latent dimensions of z; "
        f"got {needed + surplus}."
    )
    with pytest.raises(DataError, match=message):
        guide.setup(torch.zeros(2, 3))
