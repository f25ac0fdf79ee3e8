"""The truth table of ``check``: fits that are known to be right or wrong, by closed form or by construction."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.report import Row
from benchmarks.targets import banana, funnel, model_of
from guides import FullRankGuide, IAFGuide, MeanFieldGuide
from ppl_models import VAE, OffsetGaussian
from ppl_models.diagnostics import Verdict, check
from ppl_models.objectives import ELBO
from ppl_models.training import fit

__all__ = ["FITS", "Fitted", "judge", "verdict"]


@dataclass(frozen=True)
class Fitted:
    """A model, a guide, its data, and what ``check`` is told beside them."""

    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


Make = Callable[[], Fitted]


def train(model: Any, guide: Any, *args: Any, steps: int = 2000, **options: Any) -> None:
    """Sticking the landing, where a guide can: at the exact posterior the gradient has no noise, and the fit ends."""
    objective = ELBO(num_particles=10) if isinstance(guide, IAFGuide) else ELBO(gradient="stl")
    fit(
        model,
        guide,
        *args,
        objective=objective,
        steps=steps,
        lr=0.03,
        schedule="cosine",
        seed=0,
        progress=False,
        **options,
    )


def normal(model: Any, args: tuple[Any, ...], mean: Tensor, sd: Tensor) -> MeanFieldGuide:
    """A mean-field guide that is what it is said to be, without training."""
    guide = MeanFieldGuide(model).setup(*args)
    guide.loc.data, guide.log_scale.data = mean.detach().clone(), sd.detach().log()
    return guide


# Offset Gaussian: the posterior is known, and its latents are independent.


def offset(
    dim: int, num: int = 40, scale: float = 1.5, data_scale: float = 1.5
) -> tuple[OffsetGaussian, Tensor, Tensor]:
    """The model, data, and data that it has not seen; these may have another scale than the model."""
    model = OffsetGaussian(dim, scale=scale).requires_grad_(False)
    z = torch.randn(dim)
    x, other = (z + data_scale * torch.randn(n, dim) for n in (num, 30))
    return model, x, other


def offset_exact(dim: int, *, shift: float = 0.0, stretch: float = 1.0, held_out: bool = False, **options: Any) -> Make:
    """The exact posterior, its first mean moved and all sds stretched."""

    def make() -> Fitted:
        model, x, other = offset(dim, **options)
        exact = model.exact_posterior(x)
        mean = exact.mean.clone()
        mean[0] += shift * exact.stddev[0]
        more = {"held_out": other} if held_out else {}
        return Fitted(model, normal(model, (x,), mean, stretch * exact.stddev), (x,), more)

    return make


def offset_trained(guide: Callable[..., Any], dim: int, steps: int, *, exact_draws: bool = False) -> Make:
    def make() -> Fitted:
        model, x, _ = offset(dim)
        trained = guide(model)
        train(model, trained, x, steps=steps)
        more = {"reference": {"z": model.exact_posterior(x).sample((4000,))}} if exact_draws else {}
        return Fitted(model, trained, (x,), more)

    return make


def offset_shifted_later() -> Fitted:
    """A right fit to a right model, and later data from another law."""
    fitted = offset_exact(3)()
    return Fitted(fitted.model, fitted.guide, fitted.args, {"held_out": fitted.args[0] + 2.0})


def offset_heavy_tails() -> Fitted:
    """Data with the model's variance, from Student's t with three degrees of freedom."""
    model = OffsetGaussian(1, scale=1.0).requires_grad_(False)
    x = torch.randn(1) + dist.StudentT(3.0).sample((1000, 1)) / math.sqrt(3.0)
    exact = model.exact_posterior(x)
    return Fitted(model, normal(model, (x,), exact.mean, exact.stddev), (x,))


# Linear regression with known noise: the posterior is normal and correlated.


def regression(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[1]), 2.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal((w * x).sum(-1), 1.0), obs=y)


def regression_data(correlation: float, dim: int = 4, num: int = 50, bend: float = 0.0) -> tuple[Tensor, Tensor]:
    common, own = torch.randn(num, 1), torch.randn(num, dim)
    x = math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own
    return x, x.sum(-1) + bend * x[:, 0].square() + torch.randn(num)


def regression_fit(
    guide: Callable[..., Any],
    correlation: float,
    steps: int,
    *,
    init: Any = None,
    reference: bool = False,
    **options: Any,
) -> Make:
    def make() -> Fitted:
        x, y = regression_data(correlation, **options)
        made = guide(regression).setup(x, y, init=init)
        if steps:
            train(regression, made, x, y, steps=steps)
        return Fitted(regression, made, (x, y), {"reference": "nuts"} if reference else {})

    return make


# Conjugate pairs whose exact posterior is no normal law: guides written in Pyro, held against exact draws.


def counts(x: Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Poisson(rate), obs=x)


def counts_fit(*, shape: float = 0.0, rate: float = 1.0, overdispersed: bool = False) -> Make:
    def make() -> Fitted:
        rates = dist.Gamma(0.5, 0.1).sample((60,)) if overdispersed else torch.full((60,), 4.0)
        x = torch.poisson(rates)
        exact = dist.Gamma(2.0 + x.sum(), 1.0 + len(x))

        def guide(x: Tensor) -> None:
            pyro.sample("rate", dist.Gamma(exact.concentration + shape, rate * exact.rate))

        return Fitted(counts, guide, (x,), {"reference": {"rate": exact.sample((4000,))}})

    return make


def counts_log_normal() -> Fitted:
    """One count of zero: the posterior is Gamma(2, 2), and the logarithm of that is no normal law."""
    x = torch.zeros(1)
    guide = MeanFieldGuide(counts)
    train(counts, guide, x)
    return Fitted(counts, guide, (x,), {"reference": {"rate": dist.Gamma(2.0, 2.0).sample((4000,))}})


def coin(x: Tensor) -> None:
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Bernoulli(p), obs=x)


def coin_fit(*, prior: bool = False) -> Make:
    def make() -> Fitted:
        x = torch.bernoulli(torch.full((40,), 0.3))
        exact = dist.Beta(1 + x.sum(), 1 + len(x) - x.sum())
        law = dist.Beta(1.0, 1.0) if prior else exact

        def guide(x: Tensor) -> None:
            pyro.sample("p", law)

        return Fitted(coin, guide, (x,), {"reference": {"p": exact.sample((4000,))}})

    return make


def positive(x: Tensor) -> None:
    z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.LogNormal(z.log(), 0.5), obs=x)


def positive_fit(stretch: float) -> Make:
    """A positive latent whose logarithm is normal: a mean-field guide can be exact."""

    def make() -> Fitted:
        x = (0.5 + 0.5 * torch.randn(10)).exp()
        precision = 1 + len(x) / 0.25
        mean = x.log().sum() / 0.25 / precision
        guide = normal(positive, (x,), mean[None], torch.full((1,), stretch * precision**-0.5))
        return Fitted(positive, guide, (x,), {"reference": "nuts"})

    return make


# Targets with known normalisers.


def modes(apart: float, weight: float) -> Callable[[], None]:
    """Two normal laws in the plane, with sds of 0.5."""

    def log_density(z: Tensor) -> Tensor:
        left, right = (-0.5 * ((z - at) / 0.5).square().sum(-1) for at in (-apart / 2, apart / 2))
        return torch.logaddexp(math.log(1 - weight) + left, math.log(weight) + right)

    return model_of(log_density)


def one_mode(apart: float, weight: float, **options: Any) -> Make:
    """The exact law of one mode, of a share of the mass."""

    def make() -> Fitted:
        model = modes(apart, weight)
        guide = normal(model, (), torch.full((2,), apart / 2), torch.full((2,), 0.5))
        return Fitted(model, guide, (), options)

    return make


def both_modes() -> Fitted:
    model = modes(6.0, 0.3)
    at = torch.tensor([[-3.0, -3.0], [3.0, 3.0]])
    law = dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.7, 0.3])), dist.Normal(at, 0.5).to_event(1))

    def guide() -> None:
        pyro.sample("z", law)

    return Fitted(model, guide, (), {"reference": {"z": law.sample((4000,))}})


def written(log_density: Callable[[Tensor], Tensor], draw: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Make:
    """A guide that is the target itself: a map from normal noise, ``(*, 2)``, and the log of its volume."""

    def make() -> Fitted:
        def guide() -> None:
            noise = pyro.sample("noise", dist.Normal(torch.zeros(2), 1.0).to_event(1), infer={"is_auxiliary": True})
            value, log_volume = draw(noise)
            pyro.sample("z", dist.Delta(value, log_density=-log_volume, event_dim=1))

        return Fitted(model_of(log_density), guide)

    return make


def funnel_map(noise: Tensor) -> tuple[Tensor, Tensor]:
    v = 1.5 * noise[..., 0]
    return torch.stack([v, (v / 2).exp() * noise[..., 1]], -1), math.log(1.5) + v / 2


def banana_map(noise: Tensor) -> tuple[Tensor, Tensor]:
    x = 2 * noise[..., 0]
    return torch.stack([x, x.square() / 4 + noise[..., 1]], -1), torch.full_like(x, math.log(2))


def student(z: Tensor) -> Tensor:
    return dist.StudentT(2.0).log_prob(z).sum(-1)


def target_fit(log_density: Callable[[Tensor], Tensor], guide: Callable[..., Any]) -> Make:
    def make() -> Fitted:
        model = model_of(log_density)
        made = guide(model)
        train(model, made, steps=1000, max_grad_norm=1.0)
        return Fitted(model, made)

    return make


# Probabilistic PCA, whose encoder can be exact: latents of their own for all data.


class Affine(nn.Module):
    """Means affine in z, and one known scale."""

    def __init__(self, weight: Tensor, scale: float) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.log_scale = math.log(scale)

    def forward(self, z: Tensor) -> Tensor:
        mean = z @ self.weight.T
        return torch.cat([mean, torch.full_like(mean, self.log_scale)], -1)


class Linear(nn.Module):
    """An encoder with the exact posterior means, and sds that are stretched."""

    def __init__(self, weight: Tensor, scale: float, stretch: float) -> None:
        super().__init__()
        precision = torch.eye(weight.shape[1]) + weight.T @ weight / scale**2
        self.map = torch.linalg.solve(precision, weight.T / scale**2)
        # Of a mean-field law that is optimal: the conditional sds.
        self.log_sd = (stretch * precision.diagonal() ** -0.5).log()

    def forward(self, x: Tensor) -> Tensor:
        mean = x @ self.map.T
        return torch.cat([mean, self.log_sd.expand_as(mean)], -1)


def pca(
    *, stretch: float = 1.0, correlated: bool = False, scale: float = 0.7, data_scale: float = 0.7, idle: bool = False
) -> Make:
    def make() -> Fitted:
        weight, _ = torch.linalg.qr(torch.randn(6, 2))
        weight = 2 * weight
        if correlated:
            weight = torch.stack([weight[:, 0], 0.8 * weight[:, 0] + 0.6 * weight[:, 1]], -1)
        model = VAE(Affine(weight, scale), latent_dim=2, likelihood="normal")
        encoder: nn.Module = Linear(weight, scale, stretch)
        if idle:
            encoder = nn.Linear(6, 4)
        x, other = (torch.randn(n, 2) @ weight.T + data_scale * torch.randn(n, 6) for n in (40, 40))
        return Fitted(model, MeanFieldGuide(model, encoder=encoder), (x,), {"held_out": other})

    return make


RIGHT: dict[str, Make] = {
    "offset Gaussian d = 1, exact": offset_exact(1),
    "offset Gaussian d = 5, exact, with held-out data": offset_exact(5, held_out=True),
    "offset Gaussian d = 25, exact": offset_exact(25),
    "offset Gaussian d = 5, mean-field, trained": offset_trained(MeanFieldGuide, 5, 2000),
    "offset Gaussian d = 25, mean-field, trained, exact draws": offset_trained(
        MeanFieldGuide, 25, 2000, exact_draws=True
    ),
    "offset Gaussian d = 3, full-rank, trained": offset_trained(FullRankGuide, 3, 2000),
    "regression, correlation 0, full-rank, trained": regression_fit(FullRankGuide, 0.0, 2000),
    "regression, correlation 0.9, full-rank, Laplace": regression_fit(FullRankGuide, 0.9, 0, init="laplace"),
    "regression, correlation 0.9, full-rank, Laplace, NUTS": regression_fit(
        FullRankGuide, 0.9, 0, init="laplace", reference=True
    ),
    "regression, correlation 0.9, IAF from Laplace, trained": regression_fit(
        lambda model: IAFGuide(model, num_layers=1), 0.9, 1000, init="laplace"
    ),
    "counts, Gamma guide, exact draws": counts_fit(),
    "coin, Beta guide, exact draws": coin_fit(),
    "positive latent, log-normal, NUTS": positive_fit(1.0),
    "two modes, exact mixture, exact draws": both_modes,
    "funnel, exact by its map": written(funnel, funnel_map),
    "banana, exact by its map": written(banana, banana_map),
    "probabilistic PCA, exact encoder, with held-out data": pca(),
}

WRONG: dict[str, Make] = {
    "offset Gaussian d = 5, one mean off by half an sd": offset_exact(5, shift=0.5),
    "offset Gaussian d = 5, sds 20 % too small": offset_exact(5, stretch=0.8),
    "offset Gaussian d = 5, sds 25 % too large": offset_exact(5, stretch=1.25),
    "offset Gaussian d = 5, sds twice too large": offset_exact(5, stretch=2.0),
    "offset Gaussian d = 25, sds 15 % too small": offset_exact(25, stretch=0.85),
    "offset Gaussian d = 5, stopped after 20 steps": offset_trained(MeanFieldGuide, 5, 20),
    "offset Gaussian d = 25, stopped after 50 steps": offset_trained(MeanFieldGuide, 25, 50, exact_draws=True),
    "offset Gaussian d = 3, full-rank, stopped after 30 steps": offset_trained(FullRankGuide, 3, 30),
    "regression, correlation 0.9, mean-field": regression_fit(MeanFieldGuide, 0.9, 2000),
    "regression, correlation 0.6, mean-field": regression_fit(MeanFieldGuide, 0.6, 2000),
    "regression, correlation 0.9, mean-field, NUTS": regression_fit(MeanFieldGuide, 0.9, 2000, reference=True),
    "regression, correlation 0.9, full-rank, stopped after 50 steps": regression_fit(FullRankGuide, 0.9, 50),
    "counts, Gamma guide with a rate 10 % too large": counts_fit(rate=1.1),
    "counts, log-normal guide of Gamma(2, 2)": counts_log_normal,
    "coin, the prior as guide": coin_fit(prior=True),
    "positive latent, log-normal with sds 30 % too small, NUTS": positive_fit(0.7),
    "two modes 6 apart, guide on the lighter": one_mode(6.0, 0.3),
    "two modes 12 apart, guide on one": one_mode(12.0, 0.5),
    "two modes 12 apart, guide on the heavier": one_mode(12.0, 0.8),
    "two modes 12 apart, guide on one, NUTS": one_mode(12.0, 0.5, reference="nuts"),
    "funnel, mean-field": target_fit(funnel, MeanFieldGuide),
    "funnel, full-rank": target_fit(funnel, FullRankGuide),
    "banana, full-rank": target_fit(banana, FullRankGuide),
    "Student's t with 2 degrees of freedom, mean-field": target_fit(student, MeanFieldGuide),
    "probabilistic PCA, untrained encoder": pca(idle=True),
    "probabilistic PCA, sds 30 % too small": pca(stretch=0.7),
    "probabilistic PCA, correlated, mean-field": pca(correlated=True),
    "wrong model: noise of sd 1 where it is 2": offset_exact(3, scale=1.0, data_scale=2.0),
    "wrong model: noise of sd 3 where it is 1.5": offset_exact(3, scale=3.0, data_scale=1.5),
    "wrong model: normal noise where it is Student's t": offset_heavy_tails,
    "wrong model: Poisson where counts are overdispersed": counts_fit(overdispersed=True),
    "wrong model: a line where there is a parabola": regression_fit(FullRankGuide, 0.0, 0, init="laplace", bend=1.5),
    "wrong model: PCA with too little noise": pca(scale=0.4),
    "right model, held-out data from another law": offset_shifted_later,
}

FITS: dict[str, tuple[bool, Make]] = {name: (True, make) for name, make in RIGHT.items()} | {
    name: (False, make) for name, make in WRONG.items()
}


def judge(name: str) -> Verdict:
    """Make a fit, from its own seed, and check it."""
    pyro.set_rng_seed(0)
    fitted = FITS[name][1]()
    return check(fitted.model, fitted.guide, *fitted.args, seed=0, **fitted.options)


def verdict() -> Iterator[Row]:
    """Print the table, and count."""
    table = Table("fit", "truth", "verdict", "because of", "s", title="check: the truth table")
    right, wrong = [], []
    started = time.perf_counter()
    for name, (truth, _) in FITS.items():
        before = time.perf_counter()
        found = judge(name)
        (right if truth else wrong).append(found.level)
        because = [each.name for each in found.findings if each.level == found.level] if found.level != "pass" else []
        listed = ", ".join(because[:3]) + (f" and {len(because) - 3} more" if len(because) > 3 else "")
        seconds = time.perf_counter() - before
        table.add_row(name, "right" if truth else "wrong", found.level, listed, f"{seconds:.1f}")
    Console(width=160).print(table)
    yield Row("truth table: fits", len(right) + len(wrong), least=30)
    yield Row("truth table: wrong fits that pass", wrong.count("pass"), most=0)
    yield Row("truth table: share of right fits that pass", right.count("pass") / len(right), least=0.9)
    yield Row("truth table: minutes", (time.perf_counter() - started) / 60, most=10)
