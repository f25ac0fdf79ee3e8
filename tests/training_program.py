"""A small training, for tests in this process and as a program: ``python -m tests.training_program FOLDER OPTIONS``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from guides import HamiltonianGuide
from ppl_models import VAE
from ppl_models.datasets import binarise
from ppl_models.networks import MLPDecoder, MLPEncoder
from ppl_models.objectives import IWAE, KLWeights
from ppl_models.training import TrainResult, train

GREY = torch.rand(20, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Noisy(Dataset):
    """Data that are drawn anew each time, by whoever loads them."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        return torch.rand(4, dtype=torch.float64).round()


def make_pair() -> tuple[VAE, HamiltonianGuide]:
    torch.manual_seed(0)
    model = VAE(MLPDecoder(1, event_shape=(4,), hidden=(3,)), latent_dim=1)
    return model, HamiltonianGuide(model, num_steps=1, encoder=MLPEncoder((4,), output_dim=2, hidden=(3,)))


def run(folder: Any = None, *, model: Any = None, guide: Any = None, **options: Any) -> TrainResult:
    """Train with all that a checkpoint must keep: noise, order, warm-up, a schedule with a state."""
    if model is None:
        model, guide = make_pair()
    data = options.pop("data", GREY)
    in_memory = {"batch_size": 6, "transform": binarise} if data is GREY else {}
    defaults = {
        "epochs": 2,
        "validation": GREY.round(),
        "objective": IWAE(num_particles=2, kl=KLWeights(warmup=7)),
        "lr": 0.01,
        "schedule": decaying,
        "seed": 0,
        "progress": False,
    }
    return train(model, guide, data, folder=folder, **(defaults | in_memory | options))


def decaying(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)


def losses(result: TrainResult) -> list[dict[str, float]]:
    """The history, less the time."""
    return [{name: value for name, value in record.items() if name != "seconds"} for record in result.records]


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    try:
        made = run(Path(sys.argv[1]), **json.loads(sys.argv[2]))
    except KeyboardInterrupt:
        # Python makes the signal itself of one that nobody catches, or 1, if other packages run code at its end.
        sys.exit(130)
    print(json.dumps(losses(made)), flush=True)
