"""Ratios of times, each pair measured in turns in the same run."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoGuide, AutoIAFNormal, AutoMultivariateNormal, AutoNormal
from torch import Tensor

from benchmarks.report import Row
from guides import FullRankGuide, Guide, HamiltonianGuide, IAFGuide, MeanFieldGuide
from ppl_models import OffsetGaussian
from ppl_models.objectives import ELBO


def ratio(
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    rounds: int = 15,
    repeats: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Median over rounds of time(first) / time(second), taken in turns so that both see the same machine."""

    def seconds(call: Callable[[], object]) -> float:
        start = clock()
        for _ in range(repeats):
            call()
        return clock() - start

    first(), second()
    ratios = []
    for turn in range(rounds):
        if turn % 2:
            b, a = seconds(second), seconds(first)
        else:
            a, b = seconds(first), seconds(second)
        ratios.append(a / b)
    return statistics.median(ratios)


def step_of(num_data: int) -> Callable[[], object]:
    model = OffsetGaussian(300)
    data = model.summarise(torch.randn(num_data, 300, dtype=torch.float32).double())
    guide = HamiltonianGuide(model, num_steps=10, init_step_size=1e-4).setup(data)
    objective = ELBO(num_particles=10)

    def step() -> None:
        with pyro.validation_enabled(False):
            objective.loss_and_grads(model, guide, data)

    return step


def cost_does_not_grow_with_the_data() -> Iterator[Row]:
    value = ratio(step_of(1_000_000), step_of(10_000), repeats=10)
    yield Row("hamiltonian K=10, 10 particles, d=300: loss and gradient, N=1,000,000 over N=10,000", value, most=1.1)


def eight_schools(y: Tensor, error: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    spread = pyro.sample("spread", dist.HalfCauchy(5.0))
    with pyro.plate("schools", 8):
        effect = pyro.sample("effect", dist.Normal(mean, spread))
        pyro.sample("y", dist.Normal(effect, error), obs=y)


def regression(x: Tensor, y: Tensor) -> None:
    weights = pyro.sample("weights", dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        mean = (weights.unsqueeze(-2) * x).sum(-1) if weights.dim() > 1 else x @ weights
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def against_pyro() -> Iterator[Row]:
    """Loss and gradient of one particle, ours with our ELBO, Pyro's autoguide with its Trace_ELBO."""
    gaussian, x = OffsetGaussian(20), torch.randn(100, 20)
    predictors = torch.randn(500, 100)
    problems: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...], int]] = {
        "offset Gaussian, d=20": (gaussian, (x,), 20),
        "eight schools": (
            eight_schools,
            (torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12]), torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])),
            10,
        ),
        "regression, d=100": (regression, (predictors, predictors.sum(-1)), 100),
    }
    for name, (model, args, dim) in problems.items():
        width = 2 * dim
        pairs: dict[str, tuple[Guide, AutoGuide]] = {
            "mean-field / AutoNormal": (MeanFieldGuide(model), AutoNormal(model)),
            "full-rank / AutoMultivariateNormal": (FullRankGuide(model), AutoMultivariateNormal(model)),
            "IAF / AutoIAFNormal": (
                IAFGuide(model, num_layers=1, hidden=(width,)),
                AutoIAFNormal(model, hidden_dim=[width], num_transforms=1),
            ),
        }
        for pair, (ours, theirs) in pairs.items():
            ours.setup(*args)
            theirs(*args)
            value = ratio(
                step_with(ELBO(), model, ours, args), step_with(Trace_ELBO(), model, theirs, args), repeats=40
            )
            yield Row(f"{pair}, loss and gradient, {name}", value, most=None if "full" in pair else 1.0)


def step_with(loss: Any, model: Callable[..., Any], guide: Any, args: tuple[Tensor, ...]) -> Callable[[], object]:
    module = loss(model, guide)

    def step() -> None:
        with pyro.validation_enabled(False):
            module(*args).backward()

    return step


def start_up() -> Iterator[Row]:
    def importing(names: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", f"import {names}"], check=True)

    value = ratio(importing("torch, pyro, ppl_models, guides"), importing("torch, pyro"), rounds=11)
    yield Row("start-up: import ppl_models, guides over import torch, pyro", value, most=1.15)
