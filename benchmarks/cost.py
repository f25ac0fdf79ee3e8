"""Ratios of times, each pair measured in turns in the same run."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pyro
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal

from benchmarks.report import Row
from guides import HamiltonianGuide, MeanFieldGuide
from ppl_models import OffsetGaussian
from ppl_models.objectives import ELBO


def ratio(first: Callable[[], object], second: Callable[[], object], *, rounds: int = 15, repeats: int = 1) -> float:
    """Median over rounds of time(first) / time(second), taken in turns so that both see the same machine."""

    def seconds(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return time.perf_counter() - start

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


def mean_field_against_pyro() -> Iterator[Row]:
    x = torch.randn(100, 20)
    model = OffsetGaussian(20)
    ours, theirs = MeanFieldGuide(model).setup(x), AutoNormal(model)
    theirs(x)
    objective, peer = ELBO(), Trace_ELBO()

    def run(loss: object, guide: object) -> Callable[[], object]:
        module = loss(model, guide)  # type: ignore[operator]

        def step() -> None:
            with pyro.validation_enabled(False):
                module(x).backward()

        return step

    value = ratio(run(objective, ours), run(peer, theirs), repeats=40)
    yield Row("mean-field loss and gradient over Pyro's AutoNormal with Trace_ELBO", value, most=1.0)


def start_up() -> Iterator[Row]:
    def importing(names: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", f"import {names}"], check=True)

    value = ratio(importing("torch, pyro, ppl_models, guides"), importing("torch, pyro"), rounds=11)
    yield Row("start-up: import ppl_models, guides over import torch, pyro", value, most=1.15)
