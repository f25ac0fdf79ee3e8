"""What train costs beside the bare loop, and what a second process brings."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pyro
import torch
from torch import Tensor

from benchmarks.report import Row
from guides import Guide, MeanFieldGuide, Minibatch
from ppl_models import VAE
from ppl_models.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from ppl_models.objectives import ELBO
from ppl_models.training import train
from ppl_models.training.denormals import flushing_denormals
from ppl_models.training.options import make_optimizer

BATCH, ROUNDS = 128, 7


def training() -> Iterator[Row]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield Row(
            "conv VAE on MNIST's shape, batch 128: a step of train over the bare loop's", over("conv", 8), most=1.03
        )
        yield Row(
            "MLP VAE on MNIST's shape, batch 128: a step of train over the bare loop's", over("mlp", 60), most=1.3
        )
        yield from processes()
    finally:
        torch.set_default_dtype(before)


def pair(kind: str) -> tuple[VAE, Guide]:
    torch.manual_seed(0)
    if kind == "conv":
        model = VAE(ConvDecoder(64), latent_dim=64)
        return model, MeanFieldGuide(model, encoder=ConvEncoder(64))
    model = VAE(MLPDecoder(20, event_shape=(1, 28, 28), hidden=(400,)), latent_dim=20)
    return model, MeanFieldGuide(model, encoder=MLPEncoder((1, 28, 28), output_dim=40, hidden=(400,)))


def images(steps: int) -> Tensor:
    return (torch.rand(BATCH * steps, 1, 28, 28) < 0.2).float()


def bare(kind: str, x: Tensor) -> float:
    """Seconds of an epoch of the loop that anybody would write."""
    model, guide = pair(kind)
    guide.setup(x[:BATCH])
    module = ELBO()(model, guide)
    optimizer = make_optimizer(torch.optim.Adam, module.parameters(), lr=1e-3)  # as train does
    with Minibatch(len(x)), pyro.validation_enabled(False), flushing_denormals():
        start = time.perf_counter()
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            module(x[rows]).backward()
            optimizer.step()
        return time.perf_counter() - start


def over(kind: str, steps: int) -> float:
    """Median of the ratio, both in turns."""
    x = images(steps)

    def trained() -> float:
        return train(*pair(kind), x, epochs=1, seed=0, progress=False).seconds

    trained(), bare(kind, x)
    ratios = []
    for turn in range(ROUNDS):
        if turn % 2:
            below = bare(kind, x)
            above = trained()
        else:
            above = trained()
            below = bare(kind, x)
        ratios.append(above / below)
    return statistics.median(ratios)


def processes() -> Iterator[Row]:
    """Two processes of one thread each, batch 64 each, against one with batch 128: the same losses, and how fast."""
    with tempfile.TemporaryDirectory() as folder:
        alone, together = (launch(devices, folder) for devices in (1, 2))
    same = max(abs(a - b) / abs(a) for a, b in zip(alone["losses"], together["losses"], strict=True))
    yield Row(
        "conv VAE, 2 processes against 1 with the batch of both: largest relative difference of a loss", same, most=1e-5
    )
    yield Row("conv VAE, 2 processes against 1: images per second", alone["seconds"] / together["seconds"])


def launch(devices: int, folder: str) -> dict[str, Any]:
    """The losses and the seconds of a training that is a program of its own, as Lightning starts its processes."""
    command = [sys.executable, "-m", "benchmarks.training", str(devices), os.path.join(folder, str(devices))]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    with open(os.path.join(folder, str(devices)), encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    return found


if __name__ == "__main__":
    count, path = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = images(12)
    result = train(
        *pair("conv"),
        data,
        epochs=2,
        batch_size=BATCH // count,
        devices=count,
        accelerator="cpu",
        strategy="ddp" if count > 1 else "auto",
        seed=0,
        progress=False,
    )
    if os.environ.get("LOCAL_RANK", "0") == "0":
        # The first epoch holds what is done once.
        seconds = result.records[1]["seconds"] - result.records[0]["seconds"]
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"losses": result.history["loss"].tolist(), "seconds": seconds}, file)
