"""Ordinary posteriors: guides against NUTS, and against the exact answer where the model is conjugate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import arviz as az
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoIAFNormal, AutoMultivariateNormal
from pyro.optim import CosineAnnealingLR
from torch import Tensor

from benchmarks.report import Row
from guides import FullRankGuide, Guide, HamiltonianGuide
from ppl_models.diagnostics import importance_nll
from ppl_models.objectives import ELBO
from ppl_models.training import fit

Draws = dict[str, Tensor]

#: The inverse gamma prior of the regressions' variance.
PRIOR_SHAPE, PRIOR_RATE = 2.0, 1.0

LEARNING_RATE, PARTICLES = 0.01, 10


@dataclass(frozen=True)
class Moments:
    """Means and standard deviations of D scalars, with the standard errors of mean / sd and of log sd."""

    mean: Tensor
    sd: Tensor
    mean_error: Tensor
    log_sd_error: Tensor

    @classmethod
    def of(cls, draws: Tensor) -> Moments:
        """From independent draws ``(S, D)``; the error of a sample variance follows from the fourth moment."""
        mean, sd = draws.mean(0), draws.std(0)
        kurtosis = ((draws - mean) / sd).pow(4).mean(0)
        return cls(mean, sd, torch.full_like(sd, len(draws) ** -0.5), ((kurtosis - 1) / (4 * len(draws))).sqrt())

    @classmethod
    def of_chain(cls, draws: Tensor) -> Moments:
        """From the draws ``(S, D)`` of a Markov chain, with ArviZ's standard errors."""
        sd = draws.std(0)
        of_mean, of_sd = (torch.tensor([float(az.mcse(x.numpy(), method=m)) for x in draws.T]) for m in ("mean", "sd"))
        return cls(draws.mean(0), sd, of_mean / sd, of_sd / sd)


@dataclass(frozen=True)
class Problem:
    """A model with its data, the moments of its posterior, and how many trajectories of NUTS diverged.

    Sites that are positive are compared by their logs. A posterior that is far from normal is not one for a normal
    guide: there it is k-hat that has a goal.
    """

    name: str
    model: Callable[..., None]
    args: tuple[Tensor, ...]
    moments: Moments
    positive: tuple[str, ...] = ()
    normal: bool = True
    divergences: int = 0


def scalars(draws: Draws, positive: tuple[str, ...]) -> Tensor:
    """All latents side by side, sites by name: ``(S, D)``."""
    values = {name: value.log() if name in positive else value for name, value in draws.items()}
    return torch.cat([values[name].reshape(len(values[name]), -1) for name in sorted(values)], 1)


@torch.no_grad()
def compare(
    name: str, guide: Any, problem: Problem, *, goals: tuple[float | None, float | None], draws: int = 50_000
) -> Iterator[Row]:
    """The worst of all means, in the reference's sds, and the worst of all log sds, with their errors; and k-hat.

    ``goals`` is for these two. 0.5 is the k-hat from which the weights have no finite variance.
    """
    title = f"{problem.name}, {name}"
    with pyro.plate("draws", draws, dim=-2):
        found, exact = Moments.of(scalars(guide(*problem.args), problem.positive)), problem.moments
    mean_error = torch.hypot(found.mean_error * found.sd / exact.sd, exact.mean_error)
    log_sd_error = torch.hypot(found.log_sd_error, exact.log_sd_error)
    for kind, difference, error, goal in (
        ("mean", (found.mean - exact.mean) / exact.sd, mean_error, goals[0]),
        ("log sd", (found.sd / exact.sd).log(), log_sd_error, goals[1]),
    ):
        worst = difference.abs().argmax()
        value = difference[worst].abs().item()
        yield Row(f"{title}: worst {kind}", value, error[worst].item(), most=goal if problem.normal else None)
    weights = importance_nll(problem.model, guide, *problem.args, num_samples=draws, seed=0)
    yield Row(f"{title}: k-hat", weights.k_hat.item(), least=None if problem.normal else 0.5)


# Models.


def eight_schools(y: Tensor, sigma: Tensor) -> None:
    """Effects of coaching in eight schools, centred.

    Donald Rubin, Estimation in Parallel Randomized Experiments, 1981, https://doi.org/10.3102/10769986006004377.
    Priors: Andrew Gelman, Prior Distributions for Variance Parameters in Hierarchical Models, 2006,
    https://doi.org/10.1214/06-BA117A, in the form that is usual today.
    """
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools_non_centred(y: Tensor, sigma: Tensor) -> None:
    """The same model, with standardised effects: theta = mu + tau * effect."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * effect, sigma), obs=y)


def logistic(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[1]), 2.5).to_event(1))
    pyro.sample("y", dist.Bernoulli(logits=w @ x.T).to_event(1), obs=y)


def poisson(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[1]), 2.5).to_event(1))
    pyro.sample("y", dist.Poisson((w @ x.T).exp()).to_event(1), obs=y)


def autoregression(y: Tensor) -> None:
    """AR(1) given its first value, all times at once."""
    alpha = pyro.sample("alpha", dist.Normal(0.0, 5.0))
    beta = pyro.sample("beta", dist.Uniform(-1.0, 1.0))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    with pyro.plate("time", len(y) - 1):
        pyro.sample("y", dist.Normal(alpha + beta * y[:-1], sigma), obs=y[1:])


def regression(x: Tensor, y: Tensor, prior_scale: Tensor) -> None:
    """Linear regression with the conjugate prior: w_j ~ N(0, variance * prior_scale_j^2)."""
    variance = pyro.sample("variance", dist.InverseGamma(PRIOR_SHAPE, PRIOR_RATE))
    sd = variance.sqrt().unsqueeze(-1)
    w = pyro.sample("w", dist.Normal(0.0, sd * prior_scale).to_event(1))
    pyro.sample("y", dist.Normal(w @ x.T, sd).to_event(1), obs=y)


# Posteriors without a closed form, against NUTS.


def nuts(model: Callable[..., None], *args: Tensor, draws: int = 4000) -> tuple[Draws, int]:
    """Draws of Pyro's NUTS, and how many of its trajectories diverged."""
    pyro.set_rng_seed(0)
    kernel = NUTS(model, full_mass=True, jit_compile=True, ignore_jit_warnings=True)
    chain = MCMC(kernel, num_samples=draws, warmup_steps=500, disable_progbar=True)
    chain.run(*args)
    return chain.get_samples(), len(chain.diagnostics()["divergences"]["chain 0"])


def design(num: int, dim: int, seed: int) -> tuple[Tensor, torch.Generator]:
    """A column of ones, then standard normal predictors; and the generator, for the rest of the data."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.ones(num, 1), torch.randn(num, dim, generator=generator)], 1), generator


def schools_data() -> tuple[Tensor, Tensor]:
    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    return y, torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def logistic_data() -> tuple[Tensor, Tensor]:
    x, generator = design(400, 20, seed=1)
    w = 0.5 * torch.randn(x.shape[1], generator=generator)
    return x, torch.bernoulli((x @ w).sigmoid(), generator=generator)


def poisson_data() -> tuple[Tensor, Tensor]:
    x, generator = design(200, 5, seed=2)
    w = 0.3 * torch.randn(x.shape[1], generator=generator)
    return x, torch.poisson((x @ w).exp(), generator=generator)


def autoregression_data() -> tuple[Tensor]:
    time = torch.arange(150)
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(3))
    past = torch.tril(0.7 ** (time[:, None] - time).clamp(min=0))
    return (past @ (1.0 + 0.5 * noise),)


def sampled_problems() -> Iterator[Problem]:
    schools, tau = schools_data(), ("tau",)
    draws, lost = nuts(eight_schools_non_centred, *schools)
    moments = Moments.of_chain(scalars(draws, tau))
    yield Problem("eight schools, non-centred", eight_schools_non_centred, schools, moments, tau, False, lost)
    draws["theta"] = draws["mu"].unsqueeze(-1) + draws["tau"].unsqueeze(-1) * draws.pop("effect")
    moments = Moments.of_chain(scalars(draws, tau))
    yield Problem("eight schools, centred", eight_schools, schools, moments, tau, False, lost)
    for name, model, data, positive in (
        ("logistic regression", logistic, logistic_data(), ()),
        ("Poisson regression", poisson, poisson_data(), ()),
        ("AR(1)", autoregression, autoregression_data(), ("sigma",)),
    ):
        draws, lost = nuts(model, *data)
        yield Problem(name, model, data, Moments.of_chain(scalars(draws, positive)), positive, divergences=lost)


# Regressions with an exact answer.


def normal_inverse_gamma(x: Tensor, y: Tensor, prior_scale: Tensor) -> Moments:
    """The posterior of :func:`regression`, of ``log(variance)`` and ``w``: Student's t for each coefficient.

    In units of the prior scales, in which the normal equations are well conditioned.
    """
    scaled = x * prior_scale
    precision = scaled.T @ scaled + torch.eye(x.shape[1])
    mean = torch.linalg.solve(precision, scaled.T @ y)
    shape = torch.tensor(PRIOR_SHAPE + len(y) / 2)
    rate = PRIOR_RATE + ((y - scaled @ mean).square().sum() + mean.square().sum()) / 2
    sd = (rate / (shape - 1) * torch.linalg.inv(precision).diagonal()).sqrt()
    means = torch.cat([(rate.log() - shape.digamma())[None], mean * prior_scale])
    sds = torch.cat([torch.polygamma(1, shape).sqrt()[None], sd * prior_scale])
    return Moments(means, sds, torch.zeros_like(sds), torch.zeros_like(sds))


def raw_units() -> tuple[Tensor, Tensor, Tensor]:
    """Incomes near 50,000, rates near 0.02, and their product: the design's condition number is above 1e6."""
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(3, 200, generator=generator)
    income, rate = 5e4 + 2e4 * noise[0], 0.02 + 0.01 * noise[1]
    x = torch.stack([torch.ones(200), income, rate, income * rate], 1)
    y = x @ torch.tensor([1.0, 4e-5, -60.0, 5e-4]) + 0.5 * noise[2]
    return x, y, 10 / torch.tensor([1.0, 2e4, 0.01, 1e3])


def collinear() -> tuple[Tensor, Tensor, Tensor]:
    """25 predictors: ones, and 12 pairs correlated by more than 0.99."""
    generator = torch.Generator().manual_seed(5)
    first = torch.randn(200, 12, generator=generator)
    second = first + 0.1 * torch.randn(200, 12, generator=generator)
    x = torch.cat([torch.ones(200, 1), first, second], 1)
    w = torch.randn(25, generator=generator)
    return x, x @ w + torch.randn(200, generator=generator), torch.full((25,), 10.0)


def conjugate_problems() -> Iterator[Problem]:
    for name, data in (("raw units", raw_units()), ("25 collinear predictors", collinear())):
        yield Problem(name, regression, data, normal_inverse_gamma(*data), ("variance",))


# Guides beside the references.


def hamiltonian(model: Callable[..., None]) -> Guide:
    return HamiltonianGuide(model, base=FullRankGuide(model), num_steps=3, init_step_size=0.05)


#: name -> constructor, and the share of Adam steps: with K = 3 a Hamiltonian step costs four times as much
OURS: dict[str, tuple[Callable[[Callable[..., None]], Guide], float]] = {
    "full-rank": (FullRankGuide, 1.0),
    "hamiltonian over full-rank": (hamiltonian, 0.3),
}
PYRO = {"Pyro's AutoMultivariateNormal": AutoMultivariateNormal, "Pyro's AutoIAFNormal": AutoIAFNormal}


def posteriors(steps: int = 3000) -> Iterator[Row]:
    """Full-rank guides against NUTS."""
    for problem in sampled_problems():
        error = problem.moments.mean_error.max().item()
        yield Row(f"{problem.name}, NUTS: worst standard error of a mean, in sds", error, most=0.03)
        yield Row(f"{problem.name}, NUTS: divergent trajectories of 4000", problem.divergences)
        for name, (make, share) in OURS.items():
            # Far from normal, a mode says little: the centred schools have none.
            guide = make(problem.model).setup(*problem.args, init="laplace" if problem.normal else "prior")
            train(problem, guide, int(steps * share), name)
            yield from compare(name, guide, problem, goals=(0.1, 0.15))


def regressions(steps: int = 5000) -> Iterator[Row]:
    """Full-rank guides against exact answers, and Pyro's guides beside them: the same Adam and number of particles."""
    for problem in conjugate_problems():
        for name, (make, share) in OURS.items():
            guide = make(problem.model).setup(*problem.args, init="laplace")
            train(problem, guide, int(steps * share), name)
            yield from compare(name, guide, problem, goals=(0.1, 0.1))
        for name, auto in PYRO.items():
            yield from compare(name, svi(problem, auto(problem.model), steps), problem, goals=(None, None))


def train(problem: Problem, guide: Guide, steps: int, name: str) -> None:
    """Adam, its rate going to zero by a cosine."""
    options = {"lr": LEARNING_RATE, "schedule": "cosine", "seed": 0, "description": f"{problem.name}, {name}"}
    fit(problem.model, guide, *problem.args, objective=ELBO(num_particles=PARTICLES), steps=steps, **options)


def svi(problem: Problem, guide: Any, steps: int) -> Any:
    """Do by Pyro's means what :func:`train` does by ours."""
    pyro.set_rng_seed(0)
    optim = CosineAnnealingLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": LEARNING_RATE}, "T_max": steps})
    loss = Trace_ELBO(num_particles=PARTICLES, vectorize_particles=True, max_plate_nesting=1)
    inference = SVI(problem.model, guide, optim, loss)
    with pyro.validation_enabled(False):
        for _ in range(steps):
            inference.step(*problem.args)
            optim.step()
    return guide
