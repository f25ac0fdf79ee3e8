"""The published study's Gaussian model: evidence gaps of every guide at every d, beside the limits that hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor

from benchmarks.report import Row
from guides import AnnealedGuide, FullRankGuide, Guide, HamiltonianGuide, IAFGuide, MeanFieldGuide, PlanarGuide
from ppl_models import GaussianSummary, OffsetGaussian
from ppl_models.objectives import ELBO
from ppl_models.reproductions.gaussian.closed_forms import planar_gap, volume_gap
from ppl_models.reproductions.gaussian.data import model_at, own_data, truth
from ppl_models.reproductions.gaussian.fitting import elbo_of
from ppl_models.reproductions.gaussian.published import DIMS
from ppl_models.training import fit

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
        model, data = at_truth(dim)
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
            least = limit(model.scale, data.count)
            yield Row(
                f"d={dim}, {name} from N(0, I): gap (nats); no less than {least:.4g} is possible",
                value,
                error,
                least=least - 5 * error,
            )


def at_truth(dim: int) -> tuple[OffsetGaussian, GaussianSummary]:
    """The model at the parameters that made the data, held fixed, and the data's summary."""
    model = model_at(*truth(dim))
    return model, model.summarise(own_data(dim))


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


def gap(model: OffsetGaussian, guide: Guide, data: GaussianSummary) -> tuple[float, float]:
    """Log evidence less the ELBO, and its standard error."""
    elbo, error = elbo_of(model, guide, data)
    return model.log_evidence(data).item() - elbo, error


def from_standard_normal(dim: int) -> Iterator[tuple[str, Any, Callable[[Tensor, int], float], int, float]]:
    r"""Guides whose base is N(0, I), and the least gap they can have, steps and learning rate.

    The limits, functions of the scales and of N, stand in ppl_models.reproductions.gaussian.closed_forms.
    """
    per_dimension = {"temperature_per_dimension": True, "init_temperature": 5.0, "init_step_size": 1e-3}
    for steps in (1, 10):
        yield (
            f"hamiltonian K={steps}",
            partial(HamiltonianGuide, num_steps=steps, **per_dimension),
            volume_gap,
            600,
            5e-2,
        )
    # Longer first steps are unstable: the narrowest posterior scale is 0.001.
    annealed = {"num_steps": 8, "init_step_size": 5e-4, "max_step_size": 0.1, "step_size_per_step": True}
    yield "annealed K=8", partial(AnnealedGuide, **annealed), partial(volume_gap, blocks=9), 600, 5e-2
    for layers in (1, 30):
        yield (
            f"planar K={layers}",
            partial(PlanarGuide, num_layers=layers),
            partial(planar_gap, layers=layers),
            600,
            5e-2,
        )
    yield "IAF, 1 layer", partial(IAFGuide, num_layers=1, hidden=(max(DIMS),)), lambda scale, count: 0.0, 1500, 2e-2
