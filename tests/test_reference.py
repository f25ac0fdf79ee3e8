"""The reference sampler: the same density in JAX, exact posteriors, and plain words where it cannot go."""

from __future__ import annotations

import functools
import math
import subprocess
import sys
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.nn import functional as F

from guides.errors import DataError, ModelError, OptionError
from ppl_models import OffsetGaussian
from ppl_models.reference import nuts
from ppl_models.reference.parameters import WithParameters
from ppl_models.reference.replay import compare, replay
from ppl_models.reference.target import Target
from tests.contract.problems import gamma_poisson, groups, offset_gaussian

SMALL = {"num_warmup": 300, "num_samples": 500, "num_chains": 4, "progress": False}


@pytest.fixture(scope="module", autouse=True)
def _import_jax():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the import alone
        import numpyro  # noqa: F401


@pytest.fixture
def quick_to_compile():
    """XLA without most of its optimisations, where compiling takes longer than running."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def check_moments(draws, mean, sd):
    """Hold means and sds against exact ones, in Monte Carlo standard errors; R-hat below 1.01."""
    import arviz as az

    mean, sd = torch.as_tensor(mean).detach().numpy(), torch.as_tensor(sd).detach().numpy()
    data = draws.to_dataset(name="x")
    mcse, mcse_sd = az.mcse(data)["x"].values, az.mcse(data, method="sd")["x"].values
    assert (abs(draws.mean(("chain", "draw")).values - mean) < 4 * mcse).all()
    assert (abs(draws.std(("chain", "draw")).values - sd) < 4 * mcse_sd).all()
    assert (az.rhat(data)["x"].values < 1.01).all()


# ---------------------------------------------------------------------------------------------- the table of operations

MATRIX = torch.eye(3, dtype=torch.float64) * 2 + 0.1
STACKED = torch.stack([MATRIX, MATRIX + 0.5 * torch.eye(3, dtype=torch.float64)])
INDEX = torch.tensor([[0, 2], [1, 0]])
IMAGE = torch.linspace(-1, 1, 2 * 3 * 5 * 5, dtype=torch.float64).reshape(2, 3, 5, 5)


def spd(u):
    """A positive definite matrix, ``(2, 3, 3)``, that depends on ``u``, ``(12,)``."""
    a = u.reshape(2, 2, 3)
    return a.mT @ a + STACKED


def square(u):
    """A matrix without structure, (3, 3)."""
    return u[:9].reshape(3, 3) + MATRIX


def weighed(u):
    """Images, (2, 3, 5, 5), whose channels depend on ``u``, (12,)."""
    return IMAGE * u[:3].reshape(3, 1, 1) + u[3:6].reshape(3, 1, 1)


def made(layer, *sizes, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return layer(*sizes, **options).double().eval().requires_grad_(False)


LSTM, GRU = made(nn.LSTM, 3, 2), made(nn.GRU, 3, 2)
ATTENTION = made(nn.MultiheadAttention, 2, 1, batch_first=True)


def filled(u):
    out = torch.zeros(3, 4)
    out[1:, :2] = u[:4].reshape(2, 2)
    out[0] += u[4:8]
    out.diagonal().mul_(2.0)
    return out


POSITIVE = {name: getattr(torch, name) for name in ("log", "log2", "log10", "log1p", "sqrt", "rsqrt", "lgamma")} | {
    "digamma": torch.digamma,
    "mvlgamma": lambda u: torch.mvlgamma(u + 2, 3),
    "pow": lambda u: u**2.5 + 2.0**u + u**u,
    "xlogy": lambda u: torch.xlogy(u, u + 1),
    "polygamma": lambda u: torch.polygamma(1, u),
    "gammainc": lambda u: torch.special.gammainc(torch.tensor(2.0), u),
    "floor_divide": lambda u: u * torch.floor_divide(u.detach(), 0.3) + u % 0.3,
}
UNIT = {name: getattr(torch, name) for name in ("asin", "acos", "atanh", "erfinv", "logit")}
REAL = {
    name: getattr(torch, name)
    for name in [
        "exp",
        "expm1",
        "sigmoid",
        "tanh",
        "sinh",
        "cosh",
        "sin",
        "cos",
        "atan",
        "erf",
        "erfc",
        "abs",
        "neg",
        "square",
        "asinh",
        "sign",
        "floor",
    ]
} | {
    "arithmetic": lambda u: torch.add(u, u, alpha=2) - torch.sub(u, 1, alpha=3) + (1 - u) / (2 + u.abs()),
    "comparisons": lambda u: ((u > 0) & (u <= 1) | ~(u != u)) * u + (u.eq(0) ^ u.ge(-1)) * u,
    "where": lambda u: torch.where(u > 0, u, u.exp()),
    "masked_fill": lambda u: u.masked_fill(u > 0, 3.0),
    "clamp": lambda u: u.clamp(-0.5, 0.5) + u.clamp(min=0.1) + u.clamp_max(0.2),
    "max_min": lambda u: torch.maximum(u, u.flip(0)) + torch.minimum(u, u.square()),
    "softplus": lambda u: F.softplus(20 * u),
    "logsigmoid": F.logsigmoid,
    "activations": lambda u: F.relu(u) + F.silu(u) + F.gelu(u) + F.elu(u) + F.leaky_relu(u) + F.hardtanh(u),
    "logaddexp": lambda u: torch.logaddexp(u, 2 * u),
    "log_ndtr": torch.special.log_ndtr,
    "ndtr": torch.special.ndtr,
    "bessel": lambda u: torch.special.i0e(u) + torch.special.i1e(u),
    "addcmul": lambda u: torch.addcmul(u, u, u, value=2.0) + torch.lerp(u, u.exp(), 0.3),
    "logsumexp": lambda u: u.reshape(3, 4).logsumexp(-1, keepdim=True),
    "softmax": lambda u: u.reshape(3, 4).softmax(-1) + u.reshape(3, 4).log_softmax(0),
    "sums": lambda u: u.reshape(3, 4).sum([0, 1]) + u.reshape(3, 4).mean(-1) + u.sum() + u.prod(),
    "prod": lambda u: u.reshape(3, 4).prod(1),
    "extremes": lambda u: u.reshape(3, 4).amax(-1) * u.reshape(3, 4).max(-1).values + u.min() * u.amin(),
    "var": lambda u: u.reshape(3, 4).var(-1) + u.std(),
    "norm": lambda u: torch.linalg.vector_norm(u.reshape(3, 4), dim=-1) + u.norm(),
    "cumulative": lambda u: u.cumsum(0) + u.reshape(3, 4).cumprod(-1).reshape(-1) + u.logcumsumexp(0),
    "sort": lambda u: u.sort(descending=True).values * u[u.argsort()],
    "views": lambda u: u.reshape(3, 4).T.unsqueeze(0).expand(2, -1, -1).transpose(0, 1).permute(2, 0, 1).squeeze(),
    "flip_roll": lambda u: u.reshape(3, 4).flip(0, 1).roll(1, -1).roll((1, 2), (0, 1)),
    "cat_stack": lambda u: torch.cat([u, torch.stack([u[0], u[1]])]),
    "split": lambda u: u.split(5)[1].sum() * u.split([2, 10])[0] + u.unbind()[3] + u.chunk(2)[1].sum(),
    "slice_select": lambda u: u[1:9:3] * u[-1] + u.reshape(3, 4)[..., 1:2].sum(),
    "gather": lambda u: u.reshape(3, 4).gather(1, INDEX) + u.reshape(3, 4)[:, :2].gather(0, INDEX),
    "index": lambda u: u[INDEX] + u.reshape(3, 4)[:, INDEX].sum(0) + u.index_select(0, INDEX[0]).sum(),
    "mask": lambda u: u[torch.arange(12) % 2 == 0],
    "in_place": filled,
    "scatter": lambda u: torch.zeros(12).scatter_add(0, INDEX[0], u[:2]) + u.scatter(0, INDEX[0], 2.0),
    "index_add": lambda u: torch.zeros(12).index_add(0, INDEX[0], u[:2]) + u.index_copy(0, INDEX[1], u[5:7]),
    "embedding": lambda u: F.embedding(INDEX, u.reshape(3, 4)),
    "triangles": lambda u: u.reshape(3, 4).tril(-1) + u.reshape(3, 4).triu(1),
    "diagonals": lambda u: u.reshape(3, 4).diagonal().diag_embed(1)[:3, :3] + u[:3].diag() + u[:9].reshape(3, 3),
    "pad": lambda u: F.pad(u.reshape(3, 4), (1, 2), value=3.0),
    "creation": lambda u: u + torch.full((12,), 2.0) + torch.zeros(12) + torch.ones(12) * torch.arange(12),
    "creation_like": lambda u: torch.ones_like(u) * u + u.new_zeros(12) + torch.full_like(u, 2.0) + u.new_ones(1),
    "casts": lambda u: (u > 0).double() + u.clone() + u.float().double() + torch.tensor(2.0),
    "outer": lambda u: torch.outer(u[:3], u[3:]) + torch.einsum("i,j->ij", u[:3], u[3:]),
    "matmul": lambda u: u.reshape(3, 4) @ u.reshape(4, 3) + u[:3] @ MATRIX + MATRIX @ u[:3] + u @ u,
    "bmm": lambda u: u.reshape(2, 3, 2) @ u.reshape(2, 2, 3),
    "addmm": lambda u: torch.addmm(u[:3], u.reshape(4, 3), MATRIX, beta=2.0, alpha=0.5),
    "linear": lambda u: F.linear(u.reshape(2, 2, 3), MATRIX, u[:3]),
    "cholesky": lambda u: torch.linalg.cholesky(spd(u)),
    "cholesky_solve": lambda u: torch.cholesky_solve(u.reshape(2, 3, 2), torch.linalg.cholesky(spd(u))),
    "cholesky_inverse": lambda u: torch.cholesky_inverse(torch.linalg.cholesky(spd(u))),
    "triangular": lambda u: torch.linalg.solve_triangular(spd(u).tril(), u[:6].reshape(3, 2), upper=False),
    "triangular_right": lambda u: torch.linalg.solve_triangular(spd(u).triu(), MATRIX, upper=True, left=False),
    "solve": lambda u: torch.linalg.solve(spd(u), u[:6].reshape(2, 3)) + torch.linalg.inv(spd(u)).sum(-1),
    "determinant": lambda u: torch.linalg.slogdet(spd(u)).logabsdet + torch.linalg.det(spd(u)) + spd(u).logdet(),
    "eigh": lambda u: torch.linalg.eigvalsh(spd(u)),
    "conv1d": lambda u: F.conv1d(IMAGE.reshape(2, 3, 25), u.reshape(2, 3, 2), u[:2], stride=2),
    "conv2d": lambda u: F.conv2d(IMAGE, u.reshape(1, 3, 2, 2), padding=1, dilation=2),
    "conv2d_groups": lambda u: F.conv2d(IMAGE, u.reshape(3, 1, 2, 2), u[:3], groups=3),
    "conv_transpose": lambda u: F.conv_transpose2d(IMAGE, u.reshape(3, 1, 2, 2), stride=2, padding=1, output_padding=1),
    "layer_norm": lambda u: F.layer_norm(u.reshape(3, 4), (4,)),
    "svd": lambda u: torch.linalg.svdvals(square(u)) + torch.linalg.svd(spd(u))[1],
    "singular_vectors": lambda u: (lambda x, s, y: x[:, :1] * s[:1] @ y[:1])(*torch.linalg.svd(u.reshape(3, 4), False)),
    "eigenvectors": lambda u: (lambda e, v: (v * e.exp()[:, None]) @ v.mT)(*torch.linalg.eigh(spd(u))),
    "qr": lambda u: (lambda q, r: q.abs() + r[..., 0, 0, None, None].abs())(*torch.linalg.qr(spd(u))),
    "slogdet": lambda u: torch.linalg.slogdet(-spd(u)).logabsdet + torch.slogdet(spd(u)).sign,
    "matrix_exp": lambda u: torch.linalg.matrix_exp(0.3 * square(u)),
    "matrix_power": lambda u: torch.linalg.matrix_power(square(u), 3) + torch.linalg.pinv(spd(u)),
    "multiplied_chain": lambda u: (
        torch.linalg.multi_dot([square(u), MATRIX, square(u)]) + torch.cross(square(u), MATRIX, dim=-1)
    ),
    "kron_trace": lambda u: (
        torch.kron(u[:4].reshape(2, 2), MATRIX)
        + square(u).trace()
        + torch.block_diag(u[:9].reshape(3, 3), MATRIX).sum()
    ),
    "distances": lambda u: (
        torch.cdist(u.reshape(4, 3), MATRIX) + F.pairwise_distance(u.reshape(4, 3), MATRIX[:1])[:, None]
    ),
    "cosine_similarity": lambda u: F.cosine_similarity(u.reshape(4, 3), MATRIX[:1]),
    "bilinear": lambda u: F.bilinear(u[:3], MATRIX[0], u[:9].reshape(1, 3, 3)),
    "max_pool1d": lambda u: F.max_pool1d(u.reshape(1, 2, 6), 2) * u[0],
    "max_pool2d": lambda u: F.max_pool2d(weighed(u), 3, stride=2, padding=1),
    "avg_pool1d": lambda u: F.avg_pool1d(u.reshape(1, 2, 6), 3, stride=2, padding=1),
    "avg_pool2d": lambda u: (
        F.avg_pool2d(weighed(u), 2, ceil_mode=False)
        + F.avg_pool2d(weighed(u), 2, stride=2, padding=0, count_include_pad=False)
    ),
    "avg_pool_padded": lambda u: F.avg_pool2d(weighed(u), 3, stride=2, padding=1, count_include_pad=False),
    "avg_pool_divided": lambda u: F.avg_pool2d(weighed(u), 3, stride=2, padding=1, divisor_override=2),
    "adaptive_pool": lambda u: F.adaptive_avg_pool2d(weighed(u), 1) + F.adaptive_avg_pool2d(weighed(u), (2, 3)).sum(),
    "adaptive_max_pool": lambda u: (
        F.adaptive_max_pool2d(weighed(u), 5) + F.adaptive_max_pool1d(u.reshape(1, 2, 6), 2).sum()
    ),
    "batch_norm": lambda u: F.batch_norm(weighed(u), torch.ones(3), torch.ones(3), u[:3], u[3:6]),
    "group_norm": lambda u: F.group_norm(weighed(u), 3, u[:3], u[3:6]) + F.instance_norm(weighed(u)),
    "rms_norm": lambda u: F.rms_norm(u.reshape(3, 4), (4,)) + F.normalize(u.reshape(3, 4)),
    "more_activations": lambda u: F.selu(u) + F.celu(u) + F.mish(u) + F.hardswish(u) + F.hardsigmoid(u) + F.relu6(u),
    "still_more": lambda u: (
        F.softsign(u) + F.tanhshrink(u) + F.softshrink(u) + F.hardshrink(u) + F.threshold(u, 0.1, 2.0)
    ),
    "gates": lambda u: F.glu(u) + F.prelu(u, MATRIX[0, :1])[:6] + F.softmin(u, 0)[:6],
    "recurrent": lambda u: LSTM(u.reshape(4, 1, 3))[0] + GRU(u.reshape(4, 1, 3))[0],
    "attention": lambda u: (
        F.scaled_dot_product_attention(*u.reshape(3, 1, 2, 2)) + ATTENTION(*3 * [u.reshape(1, 6, 2)])[0][:, :2]
    ),
    "upsampling": lambda u: (
        F.interpolate(u.reshape(1, 1, 3, 4), scale_factor=2)
        + F.interpolate(u.reshape(1, 1, 3, 4), scale_factor=2, mode="bilinear")
    ),
    "shuffles": lambda u: F.pixel_shuffle(u.reshape(1, 4, 1, 3), 2) + F.channel_shuffle(u.reshape(1, 4, 3, 1), 2).sum(),
    "more_pads": lambda u: (
        F.pad(u.reshape(1, 3, 4), (1, 2), mode="reflect") + F.pad(u.reshape(1, 3, 4), (1, 2), mode="replicate")
    ),
    "unfold": lambda u: F.unfold(weighed(u), 2) + u.unfold(0, 3, 1).sum(),
    "conv3d": lambda u: F.conv3d(IMAGE.reshape(1, 1, 6, 5, 5), u.reshape(1, 1, 3, 2, 2)),
    "losses": lambda u: (
        F.smooth_l1_loss(u, 0 * u)
        + F.huber_loss(u, 0 * u)
        + F.binary_cross_entropy_with_logits(u, 0 * u + 0.3)
        + F.cross_entropy(u.reshape(3, 4), INDEX.reshape(-1)[:3])
        + F.mse_loss(u, u.exp())
        + F.kl_div(u, u.exp(), reduction="sum")
    ),
    "binary_cross_entropy": lambda u: F.binary_cross_entropy(u.sigmoid(), 0 * u + 0.3),
    "topk": lambda u: u.topk(3).values + u.kthvalue(2).values + u.median() + u.quantile(0.3),
    "cumulative_extremes": lambda u: u.cummax(0).values + u.cummin(0).values,
    "searching": lambda u: (
        u * torch.bucketize(u, MATRIX[0].sort().values) + torch.searchsorted(MATRIX[0].sort().values, u)
    ),
    "repeat_interleave": lambda u: u.repeat_interleave(2) + u.repeat(2) + u.tile(2),
    "meshgrid": lambda u: torch.meshgrid(u[:3], u[3:6], indexing="ij")[0] * torch.cartesian_prod(u[:3], u[:3]).sum(),
    "take": lambda u: u.take(INDEX) + u.reshape(3, 4)[:2].take_along_dim(INDEX, 1),
    "masked_select": lambda u: (
        torch.masked_fill(u, u < 0, 0.0) + u.masked_select(INDEX.reshape(-1, 1).expand(4, 3).reshape(-1) > 0).sum()
    ),
    "index_fill": lambda u: u.index_fill(0, INDEX[0], 1.0) + torch.where(u > 0, 1.0, u),
    "nan_to_num": lambda u: u.nan_to_num(0.0) + torch.nan_to_num(u.sqrt().detach(), 1.0) + u.sinc() + u.frac(),
    "linspace": lambda u: u * torch.linspace(0, 1, 12) + torch.eye(12).sum(0) + torch.logspace(0, 1, 12),
    "hermitian": lambda u: (
        torch.tensordot(square(u), MATRIX, 1) + torch.trapezoid(u) + u.diff().sum() + u.logit(1e-3).sum()
    ),
    "special": lambda u: torch.special.i1(u) + torch.special.entr(u.abs()) + torch.special.xlog1py(u, u.abs()),
    "zeta": lambda u: torch.special.zeta(2.0 + u.detach().abs(), 1.5) * u + torch.special.multigammaln(u.abs() + 3, 2),
    "atan2": lambda u: torch.atan2(u, u.flip(0)) + torch.hypot(u, u.flip(0)) + u.tan(),
}
TABLE = REAL | POSITIVE | UNIT


class Function:
    """Stands where a target does, with any function of a vector."""

    def __init__(self, function, weights):
        from ppl_models.reference.target import CurrentSite

        self.current, self.function, self.weights = CurrentSite(), function, weights

    def log_joint(self, vector):
        return self.function(vector)


@pytest.mark.usefixtures("quick_to_compile")
@pytest.mark.parametrize("name", TABLE)
def test_operation(name):
    import jax
    import numpy as np

    generator = torch.Generator().manual_seed(1)
    u = torch.rand(12, generator=generator) * 0.8 + 0.1 if name not in REAL else torch.randn(12, generator=generator)
    expected = TABLE[name](u)
    weights = torch.cos(torch.arange(expected.numel())).reshape(expected.shape)
    u.requires_grad_()
    gradient = torch.autograd.grad((weights * TABLE[name](u)).sum() + 0 * u.sum(), u)[0]
    u = u.detach()
    with jax.enable_x64(True):
        function = replay(Function(TABLE[name], weights), u)
        slopes_at = jax.vmap(jax.grad(lambda v: (weights.numpy() * function(v)).sum()))
        together = jax.jit(lambda pair: (function(pair[0]), jax.vmap(function)(pair), slopes_at(pair)))
        ours, batched, (slope, _) = together(np.stack([u.numpy(), u.numpy()]))
    # The trigamma functions differ so much, and torch's hardsigmoid has a sixth in single precision for its slope.
    precise = 1e-8 if name in ("digamma", "polygamma", "more_activations") else 1e-10
    if name != "casts":  # the one that rounds on purpose
        torch.testing.assert_close(torch.tensor(np.asarray(slope)), gradient, rtol=precise, atol=precise)
    torch.testing.assert_close(torch.tensor(np.asarray(ours)), expected, rtol=precise, atol=precise)
    torch.testing.assert_close(torch.tensor(np.asarray(batched[1])), expected, rtol=precise, atol=precise)


# ----------------------------------------------------------------------------------------------------- whole log joints


def lkj():
    pyro.sample("L", dist.LKJCholesky(4, 2.0))
    pyro.sample("R", dist.LKJ(3, 1.5))


def wishart():
    scale = pyro.sample("scale", dist.Wishart(torch.tensor(5.0), torch.eye(3)))
    with pyro.plate("data", 4):
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(3), scale), obs=torch.ones(4, 3))


def dirichlet():
    with pyro.plate("rows", 2):
        p = pyro.sample("p", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
        pyro.sample("k", dist.Categorical(p), obs=torch.tensor([0, 2]))


def ordered():
    base = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    cuts = pyro.sample("cuts", dist.TransformedDistribution(base, dist.transforms.OrderedTransform()))
    slope = pyro.sample("slope", dist.HalfCauchy(1.0))
    with pyro.plate("data", 3):
        pyro.sample("y", dist.OrderedLogistic(slope * torch.arange(3.0), cuts), obs=torch.tensor([0, 1, 3]))


def mixture():
    loc = pyro.sample("loc", dist.StudentT(4.0, 0.0, 2.0).expand([2]).to_event(1))
    share = pyro.sample("share", dist.Beta(2.0, 3.0))
    law = dist.MixtureSameFamily(dist.Categorical(torch.stack([share, 1 - share], -1)), dist.Normal(loc, 1.0))
    with pyro.plate("data", 3):
        pyro.sample("x", law, obs=torch.tensor([-1.0, 0.5, 2.0]))


def gaussian_process():
    length = pyro.sample("length", dist.InverseGamma(3.0, 1.0))
    times = torch.linspace(0, 1, 6)
    covariance = torch.exp(-0.5 * ((times[:, None] - times) / length).square()) + 0.1 * torch.eye(6)
    law = dist.MultivariateNormal(torch.zeros(6), scale_tril=torch.linalg.cholesky(covariance))
    pyro.sample("y", law, obs=times.sin())


def counts():
    rate = pyro.sample("rate", dist.Weibull(2.0, 1.0))
    size = pyro.sample("size", dist.Gumbel(0.0, 1.0))
    angle = pyro.sample("angle", dist.Uniform(-2.0, 3.0))
    pyro.sample("n", dist.NegativeBinomial(rate, logits=size), obs=torch.tensor(3.0))
    pyro.sample("a", dist.VonMises(angle, rate), obs=torch.tensor(0.5))
    pyro.sample("z", dist.ZeroInflatedPoisson(rate, gate=torch.tensor(0.3)), obs=torch.tensor(0.0))


def agrees(model, *args):
    import jax

    target = Target(model, None, 0, args, {})
    generator = torch.Generator().manual_seed(2)
    points = torch.stack([target.draw(generator) for _ in range(5)])
    assert all(target.value_and_gradient(point)[0].isfinite() for point in points)
    with jax.enable_x64(True):
        compare(target, jax.jit(jax.value_and_grad(replay(target, target.starts(1, generator)[0]))), points)


@pytest.mark.usefixtures("quick_to_compile")
@pytest.mark.filterwarnings("ignore:Singular sample")  # torch says so of its Wishart draws
@pytest.mark.parametrize("model", [lkj, wishart, dirichlet, ordered, mixture, gaussian_process, counts])
def test_log_joint_is_replayed(model):
    agrees(model)


def test_float32_parameters_and_data_are_taken_in_float64():
    gaussian, x = OffsetGaussian(2).float(), torch.randn(3, 2, dtype=torch.float32)
    agrees(gaussian, x)
    assert gaussian.offset.dtype == torch.float32
    assert torch.get_default_dtype() == torch.float64


def test_code_that_looks_at_data_is_followed():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z if x.sum() > 0 else -2 * z, 1.0).expand([2]).to_event(1), obs=x)

    agrees(model, torch.tensor([-1.0, -1.0]))


# ----------------------------------------------------------------------------------------------------------- posteriors


def test_offset_gaussian_is_exact_and_leaves_no_trace():
    import jax
    import numpyro
    import numpyro.distributions as numpyro_dist

    problem = offset_gaussian()
    exact = problem.model.exact_posterior(*problem.args)
    wide, state = jax.config.jax_enable_x64, torch.get_rng_state()
    draws = nuts(problem.model, *problem.args, **SMALL)
    check_moments(draws.posterior["z"], exact.mean, exact.stddev)
    assert jax.config.jax_enable_x64 == wide
    assert torch.equal(torch.get_rng_state(), state)
    assert draws.posterior["z"].dtype == "float64"
    assert draws.observed_data["x"].dims == ("data", "x_dim_1")
    assert draws.attrs["seed"] == 0
    assert {"diverging", "tree_depth", "n_steps", "energy", "acceptance_rate", "lp"} <= set(draws.sample_stats)
    point = torch.tensor(draws.posterior["z"].values[0, 0])
    target = Target(problem.model, None, 0, problem.args, {})
    assert float(draws.sample_stats["lp"][0, 0]) == pytest.approx(float(target.value_and_gradient(point)[0]), rel=1e-12)

    # An independent witness: the model written anew, in NumPyro.
    def witness(x):
        z = numpyro.sample("z", numpyro_dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with numpyro.plate("data", len(x)):
            law = numpyro_dist.Normal(z + jax.numpy.array([0.3, -0.2]), jax.numpy.array([1.2, 1.6]))
            numpyro.sample("x", law.to_event(1), obs=x)

    with jax.enable_x64(True):
        density = numpyro.infer.util.log_density(witness, (problem.args[0].numpy(),), {}, {"z": point.numpy()})[0]
    assert float(density) == pytest.approx(float(draws.sample_stats["lp"][0, 0]), rel=1e-12)


@pytest.mark.usefixtures("quick_to_compile")
def test_gamma_poisson_is_exact_and_seeded():
    problem = gamma_poisson()
    draws = nuts(problem.model, *problem.args, **SMALL, init="laplace", seed=3)
    check_moments(draws.posterior["rate"], 9 / 5, 3 / 5)
    again = nuts(problem.model, *problem.args, **SMALL, init="laplace", seed=3)
    assert again.posterior["rate"].equals(draws.posterior["rate"])


@pytest.mark.usefixtures("quick_to_compile")
def test_groups_are_exact_and_named_after_their_plate():
    problem = groups()
    y, votes = problem.args
    draws = nuts(problem.model, *problem.args, **SMALL, init="prior").posterior
    assert draws["level"].dims == ("chain", "draw", "groups")
    check_moments(draws["level"], y / 1.64, torch.full((3,), 0.8 / math.sqrt(1.64)))
    exact = dist.Dirichlet(votes + 4)
    check_moments(draws["shares"], exact.mean, exact.variance.sqrt())


def test_eight_schools_without_divergences():
    y = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12])
    sigma = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])

    def schools(y):
        mu, tau = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("school", 8):
            raw = pyro.sample("raw", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(mu + tau * raw, sigma), obs=y)

    draws = nuts(schools, y, **SMALL, target_accept=0.95)
    assert int(draws.sample_stats["diverging"].sum()) == 0
    assert float(draws.posterior["mu"].mean()) == pytest.approx(4.4, abs=0.6)
    assert float(draws.posterior["tau"].mean()) == pytest.approx(3.6, abs=0.6)


def test_pyro_backend_agrees():
    problem = gamma_poisson()
    settings = SMALL | {"num_chains": 2, "num_warmup": 100, "num_samples": 150}
    state = torch.get_rng_state()
    draws = nuts(problem.model, *problem.args, **settings, init="laplace", backend="pyro")
    assert torch.equal(torch.get_rng_state(), state)
    rate = draws.posterior["rate"]
    assert abs(float(rate.mean()) - 9 / 5) < 4 * 0.6 / math.sqrt(60)  # at least 60 effective draws of 300
    assert {"diverging", "tree_depth", "n_steps", "energy", "acceptance_rate", "lp"} <= set(draws.sample_stats)
    assert ((draws.sample_stats["acceptance_rate"] >= -1e-9) & (draws.sample_stats["acceptance_rate"] <= 1.0)).all()
    assert (draws.sample_stats["energy"] >= -draws.sample_stats["lp"] - 50).all()


# ----------------------------------------------------------------------------------------------- parameters as latents

OFFSET_SD, LOG_SCALE_SD = 1.5, 0.4


def joint_given_scale(x, scale):
    """Of one dimension, the law of (z, offset) given the scales ``(K,)``, and the log evidence of each scale.

    Both have precision N / scale^2 from the data, in the same direction; z has 1 of its own, the offset OFFSET_SD^-2.
    """
    n, mean = len(x), x.mean()
    data = n / scale.square()
    own = torch.tensor([1.0, OFFSET_SD**-2]).diag_embed()
    covariance = torch.linalg.inv(own + data[:, None, None])
    loc = covariance.sum(-1) * (data * mean)[:, None]
    law = dist.MultivariateNormal(
        torch.zeros(n), (1 + OFFSET_SD**2) * torch.ones(n, n) + scale.square()[:, None, None] * torch.eye(n)
    )
    return loc, covariance, law.log_prob(x)


def test_parameters_are_sampled_under_their_prior():
    """Given the scale, offset and latent are jointly normal; over the scale, an integral in one dimension."""
    x = torch.tensor([[0.5, 0.1], [1.1, -0.4], [-0.2, 0.9], [0.8, 1.4]])
    gaussian = OffsetGaussian(2, offset=torch.tensor([0.3, -0.2]), scale=torch.tensor([1.2, 1.6]))
    before = {name: value.clone() for name, value in gaussian.state_dict().items()}
    held = list(gaussian.parameters())
    prior = {"offset": dist.Normal(0.0, OFFSET_SD), "log_scale": dist.Normal(torch.zeros(2), LOG_SCALE_SD)}
    draws = nuts(gaussian, x, **SMALL | {"num_samples": 1000}, learn="parameters", prior=prior).posterior
    assert draws["offset"].dims == ("chain", "draw", "offset_dim_0")
    assert all(ours is theirs for ours, theirs in zip(gaussian.parameters(), held, strict=True))
    assert all(torch.equal(gaussian.state_dict()[name], value) for name, value in before.items())
    grid = torch.linspace(-6 * LOG_SCALE_SD, 6 * LOG_SCALE_SD, 400)
    for j in range(2):
        loc, covariance, evidence = joint_given_scale(x[:, j], grid.exp())
        weights = (evidence + dist.Normal(0.0, LOG_SCALE_SD).log_prob(grid)).softmax(0)
        mean = weights @ loc
        spread = torch.einsum("k,kij->ij", weights, covariance + loc[:, :, None] * loc[:, None]) - mean.outer(mean)
        centre = weights @ grid
        check_moments(draws["z"][..., j], mean[0], spread[0, 0].sqrt())
        check_moments(draws["offset"][..., j], mean[1], spread[1, 1].sqrt())
        check_moments(draws["log_scale"][..., j], centre, (weights @ grid.square() - centre.square()).sqrt())
        both = draws["z"][..., j] * draws["offset"][..., j]
        check_moments(both, spread[0, 1] + mean.prod(), float(both.std()))


def test_parameters_of_pyro_s_backend_and_those_that_are_held():
    gaussian, x = OffsetGaussian(1), torch.tensor([[0.9], [1.1]])
    gaussian.log_scale.requires_grad_(False)
    settings = SMALL | {"num_chains": 2, "num_warmup": 100, "num_samples": 200}
    prior = dist.Normal(0.0, OFFSET_SD)
    draws = nuts(gaussian, x, **settings, learn="parameters", prior=prior, backend="pyro").posterior
    assert set(draws) == {"offset", "z"}
    loc, covariance, _ = joint_given_scale(x[:, 0], torch.ones(1))
    error = covariance[0, 1, 1].sqrt() / math.sqrt(40)  # at least 40 effective draws of 400
    assert abs(float(draws["offset"].mean()) - loc[0, 1]) < 4 * error


class Positive(PyroModule):
    """A constrained parameter, a layer's, one that is tied, and those of a recurrent layer."""

    def __init__(self):
        super().__init__()
        self.scale = PyroParam(torch.tensor(2.0), dist.constraints.positive)
        self.layer = nn.Linear(1, 1)
        self.again = nn.Linear(1, 1)
        self.again.weight = self.layer.weight
        self.recurrent = nn.RNN(1, 1)

    def forward(self, x):
        z = pyro.sample("z", dist.Normal(0.0, self.scale).expand([1]).to_event(1))
        mean = self.again(self.layer(z)) + self.recurrent(z[None])[0][0]
        pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


def test_parameters_take_the_values_that_are_drawn():
    """The laws of the sites are those of the model when it holds the values."""
    model, x = Positive(), torch.tensor([0.7])
    laws = WithParameters(model, dist.Gamma(2.0, 2.0), (x,), {})
    assert list(laws.laws)[:2] == ["scale", "layer.weight"]
    assert len(laws.laws) == 8
    trace = pyro.poutine.trace(laws).get_trace(x)
    drawn = {name: trace.nodes[name]["value"] for name in laws.laws}
    model.scale = drawn.pop("scale")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in drawn:
                parameter.copy_(drawn[name])
    again = pyro.poutine.trace(pyro.condition(model, {"z": trace.nodes["z"]["value"]})).get_trace(x)
    assert torch.allclose(again.nodes["z"]["fn"].base_dist.scale, trace.nodes["z"]["fn"].base_dist.scale)
    assert torch.allclose(again.nodes["x"]["fn"].base_dist.loc, trace.nodes["x"]["fn"].base_dist.loc)


def test_parameters_from_the_store_take_the_values_that_are_drawn():
    def model():
        loc = pyro.param("loc", torch.tensor(0.5), constraint=dist.constraints.unit_interval)
        pyro.sample("z", dist.Normal(loc, 1.0))

    laws = WithParameters(model, dist.Beta(2.0, 2.0), (), {})
    nodes = pyro.poutine.trace(laws).get_trace().nodes
    assert torch.equal(nodes["z"]["fn"].loc, nodes["loc"]["value"])
    assert not pyro.get_param_store().keys()
    with pytest.raises(OptionError, match="'loc' must be continuous"):
        WithParameters(model, dist.Gamma(2.0, 2.0), (), {})


@pytest.mark.usefixtures("quick_to_compile")
def test_parameters_in_all_places_are_replayed():
    x = torch.tensor([0.7])
    agrees(WithParameters(Positive(), dist.Gamma(2.0, 2.0), (x,), {}), x)


def test_priors_that_do_not_fit_are_refused():
    x = torch.tensor([0.7])

    def refused(prior):
        return lambda: nuts(Positive(), x, learn="parameters", prior=prior)

    one = dist.Gamma(2.0, 2.0)
    with pytest.raises(OptionError, match=r"each parameter; got none for layer.weight, .*requires_grad_\(False\)"):
        refused({"scale": one})()
    with pytest.raises(OptionError, match=r"\(scale, layer.weight, .*; got 'size'"):
        refused({"size": one})()
    with pytest.raises(OptionError, match=r"'scale' must be continuous.*GreaterThan.*got Normal"):
        refused(dist.Normal(0.0, 1.0))()
    with pytest.raises(OptionError, match="'scale' must be continuous.*Poisson"):
        refused(dist.Poisson(1.0))()
    with pytest.raises(OptionError, match=r"'scale' must have the parameter's shape \(\).*\(2,\)"):
        refused(dist.Gamma(2.0, torch.ones(2)))()
    with pytest.raises(OptionError, match="one of pyro.distributions; got 1.0"):
        refused(lambda name, value: 1.0)()
    with pytest.raises(OptionError, match="together; got prior alone"):
        nuts(Positive(), x, prior=one)
    with pytest.raises(OptionError, match="together; got learn alone"):
        nuts(Positive(), x, learn="parameters")
    with pytest.raises(OptionError, match="learn must be one of"):
        nuts(Positive(), x, learn="all", prior=one)


def test_models_without_parameters_to_learn_are_refused():
    layer = nn.Linear(1, 1)

    def shown(x):
        pyro.module("layer", layer)
        pyro.sample("z", dist.Normal(0.0, 1.0))

    class Twice(PyroModule):
        def __init__(self):
            super().__init__()
            self.z = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            pyro.sample("z", dist.Normal(self.z, 1.0))

    prior = dist.Normal(0.0, 1.0)
    with pytest.raises(ModelError, match="needs parameters that require gradients"):
        nuts(OffsetGaussian(1).requires_grad_(False), torch.ones(2, 1), learn="parameters", prior=prior)
    with pytest.raises(ModelError, match=r"only shows to pyro.module.*'layer\$\$\$weight'"):
        nuts(shown, torch.ones(1), learn="parameters", prior=prior)
    with pytest.raises(ModelError, match="'z' twice"):
        nuts(Twice(), torch.ones(1), learn="parameters", prior=prior)


def test_a_method_of_a_module_is_a_model():
    class Held(PyroModule):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(()))

        def model(self, x):
            pyro.sample("z", dist.Normal(self.loc, 1.0))

    found = WithParameters(functools.partial(Held().model, torch.ones(1)), dist.Normal(0.0, 1.0), (), {})
    assert list(found.laws) == ["loc"]


def test_laws_that_were_made_with_checks_are_replayed():
    law = dist.Normal(0.0, 1.0, validate_args=True)
    agrees(lambda: pyro.sample("z", law))


# ---------------------------------------------------------------------------------------------------------- plain words


def test_unknown_operation_is_named_with_its_site():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        pyro.sample("y", dist.Normal(torch.linalg.lu_factor(torch.eye(2) + z.diag())[0].sum(), 1.0), obs=torch.ones(()))

    with pytest.raises(ModelError, match=r"lu_factor.*site 'z' \(test_reference.py, line \d+\).*backend='pyro'"):
        nuts(model, progress=False)


def test_a_part_that_is_written_to_is_named():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1, 3]).to_event(2))
        pyro.sample("y", dist.Normal(F.pad(z, (1, 1), mode="circular").square().sum(), 1.0), obs=torch.ones(()))

    with pytest.raises(ModelError, match=r"aten.copy_.*after site 'z' \(test_reference.py, line \d+\)"):
        nuts(model, progress=False)


def test_an_operation_with_arguments_that_jax_does_not_take_is_named_with_its_site():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        pyro.sample("y", dist.Normal(z[z > 0].sum(), 1.0), obs=torch.ones(()))

    with pytest.raises(ModelError, match=r"aten.index.*after site 'z' \(test_reference.py, line \d+\).*backend='pyro'"):
        nuts(model, progress=False)


def test_control_flow_is_named_with_its_line():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z if z > 0 else 2 * z, 1.0), obs=torch.tensor(1.0))

    with pytest.raises(ModelError, match=r"after site 'z' \(test_reference.py, line \d+\).*torch.where"):
        nuts(model, progress=False)


def test_a_model_that_changes_is_refused():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z + torch.randn(()), 1.0), obs=torch.tensor(1.0))

    with pytest.raises(ModelError, match="same log joint in every run"):
        nuts(model, progress=False)


def test_subsampled_discrete_and_missing_data_are_refused():
    def subsampled(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    with pytest.raises(ModelError, match="'data', which looks at 2 of 5"):
        nuts(subsampled, torch.zeros(5))
    with pytest.raises(ModelError, match="continuous"):
        nuts(lambda: pyro.sample("k", dist.Bernoulli(0.5)))
    with pytest.raises(DataError, match="finite"):
        nuts(OffsetGaussian(1), torch.tensor([[math.nan]]))


def test_an_impossible_observation_is_refused():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Poisson(z.exp()), obs=torch.tensor(-1.0))

    with pytest.raises(ModelError, match="finite where a chain starts"):
        nuts(model)


def test_a_log_joint_that_is_not_a_number_is_refused():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("root", (-1 - z.square()).sqrt())

    for backend in ("numpyro", "pyro"):
        with pytest.raises(ModelError, match="finite where a chain starts; got nan at the last of 100"):
            nuts(model, backend=backend)


@pytest.mark.usefixtures("quick_to_compile")
def test_chains_that_only_diverge_are_told(caplog):
    """Steps of 1 on a valley that is 1e-6 wide, and no time to adapt."""
    options = {"num_warmup": 1, "num_samples": 20, "num_chains": 2, "progress": False}
    draws = nuts(lambda: pyro.sample("z", dist.Normal(0.0, 1e-6)), **options)
    assert draws.sample_stats["diverging"].values.all()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "all 40 transitions diverged" in record.getMessage()
    assert "(num_warmup, now 1)" in record.getMessage()


@pytest.mark.usefixtures("quick_to_compile")
def test_chains_that_diverge_at_times_are_told(caplog):
    def funnel():
        v = pyro.sample("v", dist.Normal(0.0, 3.0))
        pyro.sample("x", dist.Normal(torch.zeros(5), (v / 2).exp()).to_event(1))

    draws = nuts(funnel, **SMALL)
    count = int(draws.sample_stats["diverging"].sum())
    (record,) = caplog.records
    assert 0 < count < 2000
    assert f"{count} of 2000 transitions diverged" in record.getMessage()
    assert "target_accept (now 0.8)" in record.getMessage()


def test_chains_are_the_same_on_any_number_of_threads():
    problem = gamma_poisson()
    settings = SMALL | {"num_warmup": 50, "num_samples": 50}
    one = nuts(problem.model, *problem.args, **settings).posterior
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert nuts(problem.model, *problem.args, **settings).posterior.equals(one)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_warmup", 0),
        ("num_samples", 0),
        ("num_chains", 1.5),
        ("seed", -1),
        ("target_accept", 1.0),
        ("max_tree_depth", 0),
        ("backend", "stan"),
        ("init", "mode"),
    ],
)
def test_bad_options_are_named(option, value):
    with pytest.raises(OptionError, match=option):
        nuts(OffsetGaussian(1), torch.ones(2, 1), **{option: value})


def test_import_costs_nothing():
    code = "import ppl_models.reference, sys; print({'jax', 'numpyro', 'arviz'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
