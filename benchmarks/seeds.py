"""A study over seeds: what a second core gains, what SIGKILL loses, and the published walls of the VAE's head."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.report import Row
from ppl_models.datasets import TOY_DENSITIES
from ppl_models.study import Study, build_pair, results
from ppl_models.training import fit

KILLS = 20

#: Seconds after its start when a study is killed: from its first processes to its third or fourth run.
MOMENTS = (3.0, 9.0)

PROGRAM = """
import sys
from benchmarks.seeds import example
example().run(sys.argv[1], jobs=2, resume=True, progress=False)
"""


def example() -> Study:
    """4 models x 2 datasets x 5 seeds."""
    return Study(
        ["vae", "lvae", "flow", "spline_flow"],
        ["8gaussians", "checkerboard"],
        seeds=range(5),
        epochs=6,
        num_train=10_000,
        num_validation=1_000,
        num_test=1_000,
        num_importance=20,
    )


def seeds() -> Iterator[Row]:
    with TemporaryDirectory() as folder:
        took = {}
        for jobs in (1, 2):
            start = time.perf_counter()
            example().run(Path(folder, str(jobs)), jobs=jobs, progress=False)
            took[jobs] = time.perf_counter() - start
        cells = len(example().cells)
        yield Row(f"study of {cells} runs: seconds on one core", took[1])
        yield Row(f"study of {cells} runs: time on two cores over one", took[2] / took[1], most=0.6)
        one, two = (results(Path(folder, str(jobs))).drop_vars("seconds") for jobs in (1, 2))
        yield Row("the same study on one and two cores: tables that differ", float(not one.identical(two)), most=0)
        yield from _killed(one, Path(folder, "killed"))
    yield from _published()


def _killed(whole: object, folder: Path) -> Iterator[Row]:
    moments, lost, kills, rounds = random.Random(0), 0, 0, 0
    different = 0
    while kills < KILLS:
        rounds += 1
        place = folder / str(rounds)
        while True:
            before = {path: path.read_bytes() for path in place.glob("runs/*.json")}
            # What tidies up after a killed program warns of it.
            quiet = os.environ | {"PYTHONWARNINGS": "ignore:resource_tracker"}
            program = subprocess.Popen([sys.executable, "-c", PROGRAM, str(place)], env=quiet)
            try:
                # Once there were enough kills, the study may end.
                code = program.wait(moments.uniform(*MOMENTS) if kills < KILLS else None)
            except subprocess.TimeoutExpired:
                program.send_signal(signal.SIGKILL)
                program.wait()
                kills += 1
                code = None
            lost += sum(not path.exists() or path.read_bytes() != content for path, content in before.items())
            if code is not None:
                different += code != 0 or not results(place).drop_vars("seconds").identical(whole)
                break
    yield Row("studies killed and resumed: SIGKILLs", float(kills), least=KILLS)
    yield Row("studies killed and resumed: finished runs lost or changed", float(lost), most=0)
    yield Row("studies killed and resumed: tables that differ from the whole one", float(different), most=0)


def _published() -> Iterator[Row]:
    """The first number is reached with published=True only; the second is the same training put right."""
    for name, published in {"8gaussians": 5.82, "checkerboard": 6.91}.items():
        x = TOY_DENSITIES[name].sample(200_000).to(torch.get_default_dtype())
        for mistakes in (True, False):
            torch.manual_seed(0)
            parts = build_pair("vae", (2,), published=mistakes)
            model, guide = (part.to(x.dtype) for part in parts)  # type: ignore[attr-defined]
            result = fit(model, guide, x, steps=2000, batch_size=1024, lr=1e-3, seed=0, progress=False)
            loss = result.history["loss"][-200:].mean() / len(x)
            if mistakes:
                row = f"{name}: VAE with the published head after 2000 steps, published {published}"
                yield Row(row, loss, least=published - 0.02, most=published + 0.02)
            else:
                yield Row(f"{name}: the same without the mistakes", loss, most=published - 1)
    yield _published_ladder()


def _published_ladder() -> Row:
    """Between the published 5.82, which took 250,000 steps, and the wall of the same head if no latent is used."""
    wall = math.log(2 * math.pi) + TOY_DENSITIES["8gaussians"].sample(200_000).var(0).mean().item()
    x = TOY_DENSITIES["8gaussians"].sample(200_000).to(torch.get_default_dtype())
    torch.manual_seed(0)
    model, guide = (part.to(x.dtype) for part in build_pair("lvae", (2,), published=True))  # type: ignore[attr-defined]
    result = fit(model, guide, x, steps=1000, batch_size=1024, lr=1e-3, seed=0, progress=False)
    loss = result.history["loss"][-200:].mean() / len(x)
    row = f"8gaussians: ladder with the published mistakes after 1000 steps, published 5.82, without latents {wall:.2f}"
    return Row(row, loss, least=5.80, most=wall + 0.05)
