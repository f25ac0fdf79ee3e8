"""``nuts`` beside Pyro's own NUTS on eight models: whether the means agree, and effective draws per second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

from benchmarks import posteriors
from benchmarks.report import Row
from ppl_models.reference import nuts as ours

#: Both samplers adapt to the same acceptance, with a diagonal mass matrix and trees of at most 2^10 steps.
SETTINGS = {"max_tree_depth": 10, "full_mass": False}
CHAINS, DRAWS = 4, 1000

#: Of Pyro's: one chain, for others would come after it at the same rate, and half the draws, for the time it takes.
PYRO_DRAWS = 500

RATIO, MODELS_WITH_IT = 20, 5


@dataclass(frozen=True)
class Problem:
    """A model with its data; positive sites are compared by their logs."""

    name: str
    model: Callable[..., None]
    args: tuple[Tensor, ...]
    positive: tuple[str, ...] = ()
    target_accept: float = 0.8
    pyro_draws: int = PYRO_DRAWS


def gaussian_process(x: Tensor, y: Tensor) -> None:
    length = pyro.sample("length", dist.LogNormal(0.0, 0.5))
    amplitude = pyro.sample("amplitude", dist.LogNormal(0.0, 0.5))
    noise = pyro.sample("noise", dist.HalfNormal(1.0))
    kernel = amplitude.square() * torch.exp(-0.5 * ((x[:, None] - x) / length).square())
    covariance = kernel + noise.square() * torch.eye(len(x)) + 1e-6 * torch.eye(len(x))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), scale_tril=torch.linalg.cholesky(covariance)), obs=y)


def dirichlet_multinomial_mixture(counts: Tensor, anchors: Tensor) -> None:
    """Documents of one of K kinds, their labels summed out; the prior of each kind prefers its own words."""
    shares = pyro.sample("shares", dist.Dirichlet(torch.full((len(anchors),), 2.0)))
    concentration = pyro.sample("concentration", dist.LogNormal(anchors.log(), 0.3).to_event(2))
    kinds = dist.DirichletMultinomial(concentration, total_count=counts[0].sum())
    with pyro.plate("documents", len(counts)):
        pyro.sample("counts", dist.MixtureSameFamily(dist.Categorical(shares), kinds), obs=counts)


def hierarchical_poisson(exposure: Tensor, y: Tensor) -> None:
    level = pyro.sample("level", dist.Normal(0.0, 2.0))
    spread = pyro.sample("spread", dist.HalfNormal(1.0))
    with pyro.plate("groups", len(y)):
        effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Poisson(exposure * (level + spread * effect).exp()), obs=y)


def horseshoe(x: Tensor, y: Tensor) -> None:
    """Carlos Carvalho, Nicholas Polson, James Scott, The Horseshoe Estimator, 2010, doi:10.1093/biomet/asq017."""
    overall = pyro.sample("overall", dist.HalfCauchy(1.0))
    local = pyro.sample("local", dist.HalfCauchy(torch.ones(x.shape[1])).to_event(1))
    unscaled = pyro.sample("unscaled", dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1))
    noise = pyro.sample("noise", dist.HalfNormal(2.0))
    mean = x @ (overall * local * unscaled)
    pyro.sample("y", dist.Normal(mean, noise).to_event(1), obs=y)


def process_data() -> tuple[Tensor, Tensor]:
    x = torch.linspace(-2.0, 2.0, 30)
    return x, (2 * x).sin() + 0.3 * torch.randn(30, generator=torch.Generator().manual_seed(6))


def documents() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    anchors = torch.full((3, 6), 0.3) + 5.0 * torch.eye(3).repeat_interleave(2, 1)
    kinds = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), 60, replacement=True, generator=generator)
    gamma = torch._standard_gamma(anchors[kinds], generator=generator)  # shares of words: Dirichlet
    words = torch.multinomial(gamma, 30, replacement=True, generator=generator)
    return torch.nn.functional.one_hot(words, 6).sum(1).to(anchors.dtype), anchors


def group_counts() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(8)
    exposure = 1 + 9 * torch.rand(20, generator=generator)
    return exposure, torch.poisson(exposure * (0.5 + 0.6 * torch.randn(20, generator=generator)).exp(), generator)


def sparse_data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(60, 5, generator=generator)
    return x, x[:, :2] @ torch.tensor([2.0, -1.5]) + torch.randn(60, generator=generator)


def problems() -> list[Problem]:
    schools = posteriors.schools_data()
    return [
        # At 0.8 both diverge in the neck of its funnel, and 500 draws of Pyro's are worth 20.
        Problem("eight schools, centred", posteriors.eight_schools, schools, ("tau",), 0.95, 1500),
        Problem("eight schools, non-centred", posteriors.eight_schools_non_centred, schools, ("tau",)),
        Problem("logistic regression", posteriors.logistic, posteriors.logistic_data()),
        Problem("Gaussian process", gaussian_process, process_data(), ("length", "amplitude", "noise")),
        Problem("Dirichlet-multinomial mixture", dirichlet_multinomial_mixture, documents(), ("concentration",)),
        Problem("AR(1)", posteriors.autoregression, posteriors.autoregression_data(), ("sigma",)),
        Problem("hierarchical Poisson", hierarchical_poisson, group_counts(), ("spread",)),
        Problem("horseshoe", horseshoe, sparse_data(), ("overall", "local", "noise")),
    ]


def run_ours(problem: Problem) -> dict[str, Tensor]:
    options = {"num_warmup": DRAWS, "num_samples": DRAWS, "num_chains": CHAINS, "progress": False}
    data = ours(problem.model, *problem.args, target_accept=problem.target_accept, **options)
    return {str(name): torch.tensor(value.values) for name, value in data.posterior.items()}


def run_pyro(problem: Problem) -> dict[str, Tensor]:
    pyro.set_rng_seed(0)
    kernel = NUTS(problem.model, target_accept_prob=problem.target_accept, **SETTINGS)
    num = problem.pyro_draws
    chain = MCMC(kernel, num_samples=num, warmup_steps=num, disable_progbar=True)
    chain.run(*problem.args)
    return {name: value.detach() for name, value in chain.get_samples(group_by_chain=True).items()}


def measured(problem: Problem, run: Callable[[Problem], dict[str, Tensor]]) -> tuple[Any, Any, float, float]:
    """Means of all scalars and their standard errors, the fewest effective draws of one, and the seconds it took."""
    import arviz as az

    started = time.perf_counter()
    draws = run(problem)
    seconds = time.perf_counter() - started
    draws = {name: value.log() if name in problem.positive else value for name, value in draws.items()}
    every = torch.cat([draws[name].reshape(*draws[name].shape[:2], -1) for name in sorted(draws)], -1)
    data = az.convert_to_dataset({"x": every.numpy()})
    return every.mean((0, 1)), torch.tensor(az.mcse(data)["x"].values), float(az.ess(data)["x"].min()), seconds


def nuts() -> Iterator[Row]:
    """Both on one thread in the same process, Pyro's as it is by default (``jit_compile=False``).

    Seconds are of the whole call: recording, comparing, compiling, as many steps of warm-up as draws, and the draws.
    Libraries are imported before.
    """
    import arviz  # noqa: F401
    import numpyro  # noqa: F401
    import torch._dynamo

    reached = 0
    for problem in problems():
        mean, error, effective, seconds = measured(problem, run_ours)
        theirs, their_error, their_effective, their_seconds = measured(problem, run_pyro)
        apart = ((mean - theirs) / torch.hypot(error, their_error)).abs().max().item()
        ratio = effective / seconds / (their_effective / their_seconds)
        reached += ratio >= RATIO
        yield Row(f"{problem.name}: largest difference of a mean from Pyro's NUTS (standard errors)", apart, most=4.0)
        yield Row(f"{problem.name}: seconds for {CHAINS} x {DRAWS} draws, compilation included", seconds)
        yield Row(f"{problem.name}: seconds of Pyro's NUTS for {problem.pyro_draws} draws", their_seconds)
        yield Row(f"{problem.name}: fewest effective draws per second", effective / seconds)
        yield Row(f"{problem.name}: the same of Pyro's NUTS", their_effective / their_seconds)
        yield Row(f"{problem.name}: ratio", ratio)
    yield Row(f"models of 8 with a ratio of at least {RATIO}", reached, least=MODELS_WITH_IT)
