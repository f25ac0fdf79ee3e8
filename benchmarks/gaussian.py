"""Evidence gaps on the offset Gaussian: learned bases, and the volume law of a fixed one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.report import Row
from guides import Guide, HamiltonianGuide, MeanFieldGuide
from ppl_models import GaussianSummary, OffsetGaussian
from ppl_models.objectives import ELBO
from ppl_models.reproductions.gaussian.closed_forms import volume_gap
from ppl_models.reproductions.gaussian.data import own_data
from ppl_models.reproductions.gaussian.fitting import elbo_of
from ppl_models.training import fit


def learned_bases() -> Iterator[Row]:
    """d = 50: both guides against the exact evidence, posterior and maximum likelihood."""
    dim, x = 50, own_data(50)
    makes: dict[str, tuple[Callable[[OffsetGaussian], Guide], int, float]] = {
        "mean-field": (MeanFieldGuide, 3000, 0.05),
        "hamiltonian K=10": (
            # The narrowest posterior scale is 0.001: a leapfrog of twice that step is unstable.
            lambda m: HamiltonianGuide(m, num_steps=10, tempering="none", init_step_size=1e-4, max_step_size=1e-3),
            1500,
            0.1,
        ),
    }
    for name, (make, steps, gap_goal) in makes.items():
        model = OffsetGaussian(dim)
        guide, started = make(model), time.process_time()
        fit(
            model,
            guide,
            x,
            objective=ELBO(num_particles=100),
            steps=steps,
            lr=0.1,
            schedule="cosine",
            seed=0,
            description=name,
        )
        seconds = time.process_time() - started
        data = model.summarise(x)
        offset, scale = model.maximum_likelihood(data)
        value, error = elbo_of(model, guide, data, draws=20_000)
        draws = posterior_mean(guide, data)
        yield Row(f"{name}, d=50: evidence gap (nats)", model.log_evidence(data).item() - value, error, most=gap_goal)
        yield Row(f"{name}: max |offset + E z - mean(x)|", worst(model.offset + draws - offset), most=1e-3)
        yield Row(f"{name}: max |scale - maximum likelihood|", worst(model.scale - scale), most=1e-4)
        yield Row(f"{name}: seconds of one core's time", seconds, most=60)


@torch.no_grad()
def posterior_mean(guide: Guide, data: GaussianSummary, draws: int = 4000) -> Tensor:
    import pyro

    with pyro.plate("draws", draws, dim=-1):
        return guide(data)["z"].mean(0)


def worst(difference: Tensor) -> float:
    return difference.abs().max().item()


def volume_law() -> Iterator[Row]:
    """d = 25, base fixed to N(0, I): no trajectory passes the volume bound, and K = 1 nearly reaches it."""
    x = own_data(25)
    for name, options, attains in (
        (
            "K=1, temperature per dimension",
            {"num_steps": 1, "temperature_per_dimension": True, "init_temperature": 5.0},
            True,
        ),
        ("K=1, one temperature", {"num_steps": 1, "init_temperature": 5.0}, False),
        ("K=10, one temperature", {"num_steps": 10, "init_temperature": 5.0}, False),
        ("K=10, no tempering", {"num_steps": 10, "tempering": "none"}, False),
    ):
        model = OffsetGaussian(25)
        data = model.summarise(x)
        offset, scale = model.maximum_likelihood(data)
        model = OffsetGaussian(25, offset=offset, scale=scale)
        base = MeanFieldGuide(model, init_scale=1.0).setup(data).requires_grad_(False)
        guide = HamiltonianGuide(model, base=base, init_step_size=1e-3, **options)
        fit(
            model,
            guide,
            data,
            objective=ELBO(num_particles=100),
            steps=3000 if attains else 500,
            lr=0.05,
            schedule="cosine",
            seed=0,
            description=name,
        )
        volume = volume_gap(model.scale.detach(), data.count)
        value, error = elbo_of(model, guide, data, draws=20_000)
        gap = model.log_evidence(data).item() - value
        # A gap below the volume term, by more than five standard errors, would break the law.
        yield Row(
            f"base N(0, I), {name}: gap / volume term",
            gap / volume,
            error / volume,
            least=1 - 5 * error / volume,
            most=1.01 if attains else None,
        )
