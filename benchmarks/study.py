"""The published study's Gaussian model: evidence gaps of every guide at every d, beside the limits that hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gaussian import N, study_data
from benchmarks.report import Row
from guides import AnnealedGuide, FullRankGuide, Guide, HamiltonianGuide, IAFGuide, MeanFieldGuide, PlanarGuide
from ppl_models import GaussianSummary, OffsetGaussian
from ppl_models.objectives import ELBO, log_weights
from ppl_models.training import fit

DIMS = (25, 50, 100, 200, 300, 400)

Make = Callable[[OffsetGaussian], Guide]

#: Guides with a learned base, whitened by Laplace: constructor, learning rate, and the gap to stay below, in nats.
LEARNED: dict[str, tuple[Make, float, float | None]] = {
    "mean-field": (MeanFieldGuide, 1e-2, 0.5),
    "full-rank": (FullRankGuide, 3e-4, 2.0),
    "hamiltonian K=10": (partial(HamiltonianGuide, num_steps=10, tempering="none"), 1e-2, 0.5),
    "annealed K=4": (partial(AnnealedGuide, num_steps=4), 1e-2, 0.5),
    "IAF, 1 layer": (partial(IAFGuide, num_layers=1, hidden=(DIMS[-1],)), 1e-2, 2.0),
    "planar, 8 layers": (partial(PlanarGuide, num_layers=8), 1e-3, None),
}


def study() -> Iterator[Row]:
    """N = 10,000, the true offset and scales, the whole data: gaps with learned bases and with the study's N(0, I)."""
    for dim in DIMS:
        model, data = truth(dim)
        for name, (make, lr, most) in LEARNED.items():
            guide = make(model).setup(data, init="laplace")
            train(model, guide, data, steps=300, lr=lr)
            value, error = gap(model, guide, data)
            yield Row(f"d={dim}, {name}: evidence gap (nats)", value, error, least=-5 * error, most=most)
        for name, make, limit, steps, lr in from_standard_normal(dim):
            base = MeanFieldGuide(model, init_scale=1.0).setup(data).requires_grad_(False)
            guide = make(model, base=base).setup(data)
            train(model, guide, data, steps=steps, lr=lr)
            value, error = gap(model, guide, data)
            least = limit(1 + N / model.scale.square())
            yield Row(
                f"d={dim}, {name} from N(0, I): gap (nats); no less than {least:.4g} is possible",
                value,
                error,
                least=least - 5 * error,
            )


def truth(dim: int) -> tuple[OffsetGaussian, GaussianSummary]:
    """The model at the parameters that made the data, held fixed, and the data's summary."""
    rank = torch.arange(dim) - (dim - 1) / 2
    model = OffsetGaussian(dim, offset=rank / 5, scale=3.6 * rank**2 / (dim - 1) ** 2 + 0.1).requires_grad_(False)
    return model, model.summarise(study_data(dim))


def train(model: OffsetGaussian, guide: Guide, data: GaussianSummary, *, steps: int, lr: float) -> None:
    fit(
        model,
        guide,
        data,
        objective=ELBO(num_particles=10),
        steps=steps,
        lr=lr,
        schedule="cosine",
        seed=0,
        progress=False,
    )


@torch.no_grad()
def gap(model: OffsetGaussian, guide: Guide, data: GaussianSummary, draws: int = 10_000) -> tuple[float, float]:
    """Log evidence less the ELBO, and its standard error."""
    parts = [log_weights(model, guide, data, num_particles=1000).values for _ in range(draws // 1000)]
    values = model.log_evidence(data) - torch.cat(parts)
    return values.mean().item(), values.std().item() / math.sqrt(draws)


def from_standard_normal(dim: int) -> Iterator[tuple[str, Any, Callable[[Tensor], float], int, float]]:
    r"""Guides whose base is N(0, I), and the least gap they can have by a = 1 + N / sigma^2; steps and learning rate.

    The posterior is independent normals with precisions a_j, and every map below treats the coordinates one by one or
    K directions at a time. A volume-preserving map on n standard normal blocks per coordinate, of which one becomes
    the latent, has at the end a covariance S with det S >= 1, so that KL >= min 1/2 (tr(A S) - n - log det A) with
    A = diag(a, 1, ..., 1), which is 1/2 (n a^{1/n} - n - log a): n = 2 for Hamiltonian guides (position and momentum),
    n = K + 1 for annealed ones, with their K - 1 refreshments. K planar layers leave N(0, 1) in d - K directions,
    whose posterior variances are no larger than the d - K largest (interlacing).
    """

    def volume(a: Tensor, blocks: int) -> float:
        return 0.5 * (blocks * (a ** (1 / blocks) - 1) - a.log()).sum().item()

    def rank(a: Tensor, layers: int) -> float:
        return 0.5 * (a - 1 - a.log()).sort().values[: max(dim - layers, 0)].sum().item()

    per_dimension = {"temperature_per_dimension": True, "init_temperature": 5.0, "init_step_size": 1e-3}
    for steps in (1, 10):
        yield (
            f"hamiltonian K={steps}",
            partial(HamiltonianGuide, num_steps=steps, **per_dimension),
            partial(volume, blocks=2),
            600,
            5e-2,
        )
    # Longer first steps are unstable: the narrowest posterior scale is 0.001.
    annealed = {"num_steps": 8, "init_step_size": 5e-4, "max_step_size": 0.1, "step_size_per_step": True}
    yield "annealed K=8", partial(AnnealedGuide, **annealed), partial(volume, blocks=9), 600, 5e-2
    for layers in (1, 30):
        yield f"planar K={layers}", partial(PlanarGuide, num_layers=layers), partial(rank, layers=layers), 600, 5e-2
    yield "IAF, 1 layer", partial(IAFGuide, num_layers=1, hidden=(max(DIMS),)), lambda a: 0.0, 1500, 2e-2
