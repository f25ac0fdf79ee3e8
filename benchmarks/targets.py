"""Two-dimensional targets with known normalisers: how near to each a guide comes, in nats."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.report import Row
from guides import AnnealedGuide, FullRankGuide, Guide, HamiltonianGuide, IAFGuide, MeanFieldGuide, PlanarGuide
from ppl_models.objectives import ELBO, log_weights
from ppl_models.training import fit

LogDensity = Callable[[Tensor], Tensor]
Model = Callable[[], None]


@dataclass(frozen=True)
class Target:
    """A Pyro model with one latent site ``"z"`` of event shape ``(dim,)``, and the log of its joint's integral."""

    model: Model
    log_evidence: float
    dim: int = 2


def banana(z: Tensor) -> Tensor:
    """z1 ~ N(0, 2^2), z2 given z1 ~ N(z1^2 / 4, 1), without the factor 1 / (4 pi).

    George Papamakarios, Theo Pavlakou, Iain Murray, Masked Autoregressive Flow for Density Estimation, 2017,
    https://arxiv.org/abs/1705.07057, figure 1.
    """
    x, y = z.unbind(-1)
    return -0.5 * (x.square() / 4 + (y - x.square() / 4).square())


def ring(z: Tensor) -> Tensor:
    """A circle of radius 2 and width 0.4: the first term of :func:`two_moons`."""
    return -0.5 * ((torch.linalg.vector_norm(z, dim=-1) - 2) / 0.4).square()


def two_moons(z: Tensor) -> Tensor:
    """The two arcs of the ring near z1 = -2 and z1 = 2.

    Danilo Rezende, Shakir Mohamed, Variational Inference with Normalizing Flows, 2015,
    https://arxiv.org/abs/1505.05770, table 1, U1.
    """
    left, right = (-0.5 * ((z[..., 0] - at) / 0.6).square() for at in (-2.0, 2.0))
    return ring(z) + torch.logaddexp(left, right)


def funnel(z: Tensor) -> Tensor:
    """z1 ~ N(0, 1.5^2), z2 given z1 ~ N(0, exp(z1)), without the factor 1 / (3 pi).

    Radford Neal, Slice Sampling, 2003, https://doi.org/10.1214/aos/1056562461, section 8; there z1 ~ N(0, 3^2), with
    nine of z2. In that neck the energy of a leapfrog step of any fixed size has no useful mean.
    """
    v, x = z.unbind(-1)
    return -0.5 * (v.square() / 2.25 + x.square() * (-v).exp() + v)


def log_integral(log_density: LogDensity, *limits: tuple[float, float], num: int = 1000) -> float:
    """Integrate over a rectangle by the midpoint rule, at ``num`` points a side.

    The error falls faster than any power of ``num`` where a smooth density vanishes at the limits or is periodic.
    """
    sides = [(high - low) / num for low, high in limits]
    cells = torch.arange(num, dtype=torch.float64) + 0.5
    points = torch.cartesian_prod(*[low + side * cells for (low, _), side in zip(limits, sides, strict=True)])
    return log_density(points).logsumexp(0).item() + math.log(math.prod(sides))


def log_ring_area(radius: float = 2.0, width: float = 0.4) -> float:
    """The log of the integral of 2 pi r exp(-(r - radius)^2 / (2 width^2)) over positive r."""
    ratio = radius / width
    inside = width**2 * math.exp(-(ratio**2) / 2)
    around = radius * width * math.sqrt(2 * math.pi) * 0.5 * math.erfc(-ratio / math.sqrt(2))
    return math.log(2 * math.pi * (inside + around))


def model_of(log_density: LogDensity) -> Model:
    """Write a density as a Pyro model: a broad normal prior, and a factor that replaces it."""

    def model() -> None:
        prior = dist.Normal(torch.zeros(2), 10.0).to_event(1)
        z = pyro.sample("z", prior)
        pyro.factor("density", log_density(z) - prior.log_prob(z))

    return model


TARGETS = {
    "banana": Target(model_of(banana), math.log(4 * math.pi)),
    "ring": Target(model_of(ring), log_ring_area()),
    "two moons": Target(model_of(two_moons), log_integral(two_moons, (-6, 6), (-6, 6))),
    "funnel": Target(model_of(funnel), math.log(3 * math.pi)),
}

#: name -> constructor and number of Adam steps: a step that moves along forces costs twice one that does not
GUIDES: dict[str, tuple[Callable[[Model], Guide], int]] = {
    "mean-field": (MeanFieldGuide, 1000),
    "full-rank": (FullRankGuide, 1000),
    "planar": (lambda model: PlanarGuide(model, num_layers=8), 1000),
    "hamiltonian": (lambda model: HamiltonianGuide(model, num_steps=5, init_step_size=0.005), 500),
    "annealed": (lambda model: AnnealedGuide(model, num_steps=5), 500),
}


def targets() -> Iterator[Row]:
    """Gaps of all guides; and what a Hamiltonian guide adds to a trained IAF when both are trained on."""
    for name, target in TARGETS.items():
        for label, (make, steps) in GUIDES.items():
            guide = set_up(make(target.model))
            train(target, guide, steps, f"{name}, {label}")
            yield row(f"{name}, {label}", *gap(target, guide))
        iaf = set_up(IAFGuide(target.model, num_layers=4, hidden=(16,)))
        train(target, iaf, 1000, f"{name}, iaf")
        # Without tempering and with small steps it starts as good as its base.
        over = HamiltonianGuide(target.model, base=deepcopy(iaf), num_steps=3, init_step_size=0.005, tempering="none")
        gaps = []
        for label, guide in (("iaf", iaf), ("hamiltonian over iaf", over)):
            train(target, guide, 500, f"{name}, {label}", lr=0.005)
            gaps.append(gap(target, guide))
            yield row(f"{name}, {label}", *gaps[-1])
        (without, error), (of_both, error_of_both) = gaps
        error = math.hypot(error, error_of_both)
        yield Row(f"{name}: hamiltonian over iaf minus iaf (nats)", of_both - without, error, most=3 * error)


def set_up(guide: Guide) -> Guide:
    """Start from the prior; with the same random weights whatever ran before."""
    pyro.set_rng_seed(0)
    return guide.setup(init="prior")


def train(target: Target, guide: Guide, steps: int, description: str, lr: float = 0.02) -> None:
    """Adam with a cosine; gradients are cut, for those of the funnel's neck have no bound."""
    fit(
        target.model,
        guide,
        objective=ELBO(num_particles=64),
        steps=steps,
        lr=lr,
        schedule="cosine",
        max_grad_norm=1.0,
        seed=0,
        description=description,
    )


@torch.no_grad()
def gap(target: Target, guide: Guide, draws: int = 100_000) -> tuple[float, float]:
    """The exact log evidence minus the ELBO, with its standard error."""
    values = log_weights(target.model, guide, num_particles=draws).values
    return target.log_evidence - values.mean().item(), values.std().item() / math.sqrt(draws)


def row(name: str, value: float, error: float) -> Row:
    # The ELBO is a lower bound: a gap below 0 by more than its error would be a mistake.
    return Row(f"{name}: gap (nats)", value, error, least=-4 * error)
