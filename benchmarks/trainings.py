"""Train a model of the study for a number of steps, as the study would for a number of epochs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ppl_models.objectives import KLWeights
from ppl_models.study import OBJECTIVES, Training
from ppl_models.training import FitResult, fit


def processor_minutes() -> float:
    """What this process and those that it started have computed for: a clock on the wall would tell of others too."""
    return sum(os.times()[:4]) / 60


def fitted(
    model: nn.Module,
    guide: Callable[..., Any],
    x: Tensor,
    training: Training,
    *,
    steps: int,
    objective: str = "elbo",
    **options: Any,
) -> FitResult:
    """Fit by the options of a training; those given otherwise are :func:`~ppl_models.training.fit`'s."""
    kl = None
    if training.warmup or training.free_bits:
        kl = KLWeights(warmup=math.ceil((training.warmup or 0) * steps), free_bits=training.free_bits)
    return fit(
        model,
        guide,
        x,
        objective=OBJECTIVES[objective](kl),
        steps=steps,
        batch_size=training.batch_size,
        lr=training.lr,
        schedule=training.schedule,
        max_grad_norm=None if training.max_grad_norm is None else training.max_grad_norm * len(x),
        compile="auto",
        progress=False,
        **options,
    )
