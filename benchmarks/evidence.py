"""The contract of every guide: the mean of p(x, z) / q over its draws is the evidence."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from benchmarks.report import Row
from ppl_models import OffsetGaussian
from ppl_models.objectives import log_weights
from tests.contract.registry import GUIDES


def contract(draws: int = 200_000) -> Iterator[Row]:
    """On an offset Gaussian of 5 observations, by standard errors from the exact evidence."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, generator=generator)
    model = OffsetGaussian(3, scale=1.5)
    for name, make in GUIDES.items():
        values = log_weights(model, make(model, None), x, num_particles=draws).values.detach()
        weights = (values - model.log_evidence(x).detach()).exp()
        error = weights.std().item() / math.sqrt(draws)
        mean = weights.mean().item()
        yield Row(f"{name}: mean exp(log p - log q) / p(x)", mean, error, least=1 - 5 * error, most=1 + 5 * error)
