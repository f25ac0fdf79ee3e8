"""Models whose evidence is known exactly, with data: what every guide and objective is held against."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_models import DRAW, VAE, FlowDensity, LadderVAE, OffsetGaussian

__all__ = ["AMORTISED", "GLOBAL", "PROBLEMS", "SEQUENTIAL", "Problem"]


@dataclass(frozen=True)
class Problem:
    """A model, its arguments, and the exact log evidence: one number, or one per independent datum.

    The unconstrained posterior is narrower than N(0, 1) in every direction and within reach of it, so that importance
    weights from a standard normal base have a finite variance.
    """

    model: Callable[..., Any]
    args: tuple[Any, ...]
    log_evidence: Tensor
    encoder: nn.Module | None = None


def offset_gaussian() -> Problem:
    """A latent vector, one plate of data below it."""
    model = OffsetGaussian(2, offset=torch.tensor([0.3, -0.2]), scale=torch.tensor([1.2, 1.6]))
    x = torch.tensor([[0.5, 0.1], [1.1, -0.4], [-0.2, 0.9]])
    return Problem(model, (x,), model.log_evidence(x).detach())


class GammaPoisson(PyroModule):
    """A positive scalar latent: counts with a conjugate rate."""

    def __init__(self) -> None:
        super().__init__()
        self.log_shape = nn.Parameter(torch.tensor(3.0).log())

    def forward(self, counts: Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(self.log_shape.exp(), 2.0))
        with pyro.plate("data", len(counts)):
            pyro.sample("counts", dist.Poisson(rate), obs=counts)


def gamma_poisson() -> Problem:
    counts = torch.tensor([1.0, 3.0, 2.0])
    shape, total = 3.0, counts.sum().item()
    exact = shape * math.log(2) - math.lgamma(shape) + math.lgamma(shape + total)
    exact -= (shape + total) * math.log(2 + len(counts)) + torch.lgamma(counts + 1).sum().item()
    return Problem(GammaPoisson(), (counts,), torch.tensor(exact))


class Groups(PyroModule):
    """Three groups in a static plate, two latents: one inside the plate, one simplex outside it."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = nn.Parameter(torch.tensor(0.8).log())

    def forward(self, y: Tensor, votes: Tensor) -> None:
        shares = pyro.sample("shares", dist.Dirichlet(torch.tensor([4.0, 4.0, 4.0])))
        pyro.sample("votes", dist.Multinomial(int(votes.sum()), shares), obs=votes)
        with pyro.plate("groups", 3):
            level = pyro.sample("level", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(level, self.noise.exp()), obs=y)


def groups() -> Problem:
    y, votes, prior = torch.tensor([0.4, -0.6, 0.2]), torch.tensor([2.0, 3.0, 1.0]), torch.full((3,), 4.0)
    dirichlet = torch.lgamma(prior.sum()) - torch.lgamma(prior).sum() - torch.lgamma((prior + votes).sum())
    dirichlet = dirichlet + torch.lgamma(prior + votes).sum()
    coefficient = torch.lgamma(votes.sum() + 1) - torch.lgamma(votes + 1).sum()
    normal = dist.Normal(0.0, math.sqrt(1 + 0.8**2)).log_prob(y).sum()
    return Problem(Groups(), (y, votes), normal + dirichlet + coefficient)


class LinearDecoder(nn.Module):
    """Mean ``W z + b`` and a free scale: with it a VAE is probabilistic PCA."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.linear.weight.data = torch.tensor([[0.7, -0.2], [0.1, 0.5], [-0.4, 0.3]])
        self.linear.bias.data = torch.tensor([0.1, 0.0, -0.3])
        self.log_scale = nn.Parameter(torch.tensor([-0.2, 0.1, 0.0]))

    def forward(self, z: Tensor) -> Tensor:
        mean = self.linear(z)
        return torch.cat([mean, self.log_scale.expand_as(mean)], -1)


class WideEncoder(nn.Module):
    """Locations linear in x, scales near 1."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.linear.weight.data = 0.1 * torch.sin(torch.arange(12.0)).reshape(4, 3)
        self.linear.bias.data = torch.zeros(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def linear_vae() -> Problem:
    decoder = LinearDecoder()
    x = torch.tensor([[0.4, 0.2, -0.5], [-1.0, 0.3, 0.6], [0.9, -0.7, -0.2], [0.0, 0.1, 0.3]])
    weight = decoder.linear.weight
    covariance = weight @ weight.T + torch.diag((2 * decoder.log_scale).exp())
    exact = dist.MultivariateNormal(decoder.linear.bias, covariance).log_prob(x).detach()
    return Problem(VAE(decoder, latent_dim=2, likelihood="normal"), (x,), exact, WideEncoder())


def plane(limit: float = 8.0, size: int = 241) -> tuple[Tensor, float]:
    """Points of a square grid, ``(size**2, 1, 2)``, and the log of the area each stands for."""
    ticks = torch.linspace(-limit, limit, size)
    return torch.cartesian_prod(ticks, ticks)[:, None], 2 * math.log(2 * limit / (size - 1))


def ladder_vae() -> Problem:
    """Two rungs of one latent each, so that the evidence is an integral over the plane."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = LadderVAE((2,), latent_dims=(1, 1), hidden=(3, 4), likelihood="normal")
    x = torch.tensor([[0.4, 0.2], [-0.6, 0.3], [0.5, -0.7]])
    with torch.no_grad():
        z, log_area = plane()
        mean, log_variance = model.prior(0, z[..., 1:])
        log_joint = dist.Normal(0.0, 1.0).log_prob(z[..., 1]) + model.decode(z[..., :1]).log_prob(x)
        log_joint += dist.Normal(mean, (0.5 * log_variance).exp()).log_prob(z[..., :1]).sum(-1)
        return Problem(model, (x,), log_joint.logsumexp(0) + log_area)


def drawing(attention: str = "none") -> Problem:
    """Two steps of one latent each."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        options = {} if attention == "none" else {"patch_size": 2}
        model = DRAW((1, 2, 3), latent_dim=1, hidden_dim=3, num_steps=2, attention=attention, **options)
    x = torch.tensor([[[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]], [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])[:, None]
    with torch.no_grad():
        z, log_area = plane(size=121)
        canvas = model.step(z[..., 1:], model.step(z[..., :1], model.start([1]))).canvas
        log_joint = dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + model.decode(canvas).log_prob(x)
        return Problem(model, (x,), log_joint.logsumexp(0) + log_area)


def one_pixel() -> Problem:
    """A flow of one pixel, which may be black or white, and of one number beside it."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = FlowDensity.images((1, 1, 1), num_scales=1, num_couplings=1, hidden=3, growth=2, depth=1)
        for name, parameter in model.named_parameters():
            if "leave" in name or "log_scale" in name:
                parameter.data += 0.3 * torch.randn(parameter.shape)
    x = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    with torch.no_grad():
        places, size = torch.linspace(0, 1, 101)[:-1] + 1 / 200, 121
        around, log_area = torch.linspace(-9.0, 9.0, size), math.log(18 / (size - 1) / 100)
        points = torch.cartesian_prod(places, around)[:, None]
        v = (x.flatten() + points[..., 0]) / 2
        log_joint = model.log_density(torch.stack([v, points[..., 1].expand_as(v)], -1)[..., None, None])
        return Problem(model, (x,), log_joint.logsumexp(0) + log_area - math.log(2))


GLOBAL = {"offset_gaussian": offset_gaussian, "gamma_poisson": gamma_poisson, "groups": groups}
AMORTISED = {"linear_vae": linear_vae}
PROBLEMS = GLOBAL | AMORTISED
#: Of models that have a guide of their own.
SEQUENTIAL = {"ladder_vae": ladder_vae, "drawing": drawing, "one_pixel": one_pixel}
