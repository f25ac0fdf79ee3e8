"""The families under contract. A new member joins by one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from guides import (
    AnnealedGuide,
    DRAWGuide,
    FullRankGuide,
    Guide,
    GuideList,
    HamiltonianGuide,
    IAFGuide,
    LadderGuide,
    MeanFieldGuide,
    PlanarGuide,
    UniformDequantisation,
)
from guides.registry import GUIDES as NAMED
from ppl_models import DRAW, VAE, FlowDensity, LadderVAE, OffsetGaussian
from ppl_models.networks import MLPDecoder
from ppl_models.objectives import ELBO, IWAE, VRIWAE, KLWeights, Objective

Model = Callable[..., Any]
Make = Callable[[Model, nn.Module | None], Guide]


def wide(model: Model, encoder: nn.Module | None) -> MeanFieldGuide:
    """The base under all contract tests: a normal wider than the posterior, or an encoder that starts near one."""
    return MeanFieldGuide(model, encoder=encoder) if encoder else MeanFieldGuide(model, init_scale=1.2)


def full_rank(model: Model, encoder: nn.Module | None, rank: int | None = None) -> FullRankGuide:
    if encoder is None:
        return FullRankGuide(model, rank=rank, init_scale=1.2)
    return FullRankGuide(model, rank=rank, encoder=nn.Sequential(encoder, WithCorrelations(1 if rank is None else 2)))


class WithCorrelations(nn.Module):
    """Appends small numbers for the correlations to an encoder's output."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4, extra)
        self.linear.weight.data = 0.1 * torch.cos(torch.arange(4.0 * extra)).reshape(extra, 4)
        self.linear.bias.data = torch.full((extra,), 0.2)

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        return torch.cat([context, self.linear(context)], -1)


#: The latents that the first guide of a list draws, by model; the second draws the others.
FIRST_SITES = {"Groups": ["shares"]}


def halves(model: Model, encoder: nn.Module | None) -> GuideList:
    """A guide for the first latent, and another, which knows its value, for the rest; one for all if there is one."""
    first = FIRST_SITES.get(type(model).__name__)
    if first is None:
        return GuideList(model, [wide(model, encoder)])
    shared = MeanFieldGuide(model, expose=first, init_scale=1.2)
    rest = MeanFieldGuide(model, hide=first, init_scale=1.2)
    return GuideList(model, [shared, HamiltonianGuide(model, base=rest, num_steps=2, init_step_size=0.2)])


def over(family: type[Guide], **options: Any) -> Callable[[Model, Guide], Guide]:
    return lambda model, base: family(model, base=base, **options)


#: The innermost guides: name -> constructor from a model and an encoder (None for global latents).
BASES: dict[str, Make] = {"mean_field": wide, "full_rank": full_rank}

#: The guides that stand over a base: name -> constructor from a model and the base. Settings move the draws well, and
#: keep the weights' variance small enough for the tests.
LAYERS: dict[str, Callable[[Model, Guide], Guide]] = {
    "planar": over(PlanarGuide, num_layers=3),
    "iaf": over(IAFGuide, num_layers=1, hidden=(8,)),
    "hamiltonian": over(HamiltonianGuide, num_steps=3, init_step_size=0.2),
    "annealed": over(AnnealedGuide, num_steps=3, init_step_size=0.2),
}


def chain(outer: str, inner: Make) -> Make:
    return lambda model, encoder: LAYERS[outer](model, inner(model, encoder))


def hamiltonian(**options: Any) -> Make:
    return lambda model, encoder: HamiltonianGuide(
        model, base=wide(model, encoder), num_steps=3, init_step_size=0.2, **options
    )


#: Every guide alone, its options, and every pair of guide over base.
GUIDES: dict[str, Make] = (
    BASES
    | {
        "low_rank": lambda model, encoder: full_rank(model, encoder, rank=1),
        "list": halves,
        "iaf-two-layers": lambda model, encoder: IAFGuide(
            model, base=wide(model, encoder), num_layers=2, hidden=(8, 8)
        ),
        "hamiltonian-inverse_beta": hamiltonian(tempering="inverse_beta", step_size_per_step=True),
        "hamiltonian-free": hamiltonian(tempering="free", temperature_per_dimension=True),
        "hamiltonian-none": hamiltonian(tempering="none"),
        "annealed-per-step": lambda model, encoder: AnnealedGuide(
            model, base=wide(model, encoder), num_steps=2, init_step_size=0.2, step_size_per_step=True
        ),
        "annealed-one-step": lambda model, encoder: AnnealedGuide(model, base=wide(model, encoder), num_steps=1),
    }
    | {outer: chain(outer, wide) for outer in LAYERS}
)

PAIRS: dict[str, Make] = {
    f"{outer}-over-{inner}": chain(outer, make)
    for outer in LAYERS
    for inner, make in (BASES | {name: chain(name, wide) for name in LAYERS} | {"list": halves}).items()
    if inner != "mean_field"
}


def ladder(model: Model) -> LadderGuide:
    """A guide of a ladder, from laws wider than its posterior."""
    guide = LadderGuide(model)
    for rung in (part for part in guide.modules() if hasattr(part, "log_variance")):
        rung.log_variance.bias.data += 1.2
    return guide


def drawing(model: Model) -> DRAWGuide:
    """A guide of a drawing, from laws wider than its posterior."""
    guide = DRAWGuide(model, hidden_dim=4)
    guide.posterior.bias.data[1] += 0.3
    return guide


class OfPixels(nn.Sequential):
    """An encoder of one pixel: the laws of its place in its level, and of the number beside it."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(1, 4))
        with torch.no_grad():
            self[1].weight.copy_(torch.tensor([[0.1], [-0.2], [0.1], [0.2]]))
            self[1].bias.copy_(torch.tensor([0.1, 0.0, 0.6, 0.3]))


def on(outer: str, inner: Callable[[Model], Guide]) -> Callable[[Model], Guide]:
    return lambda model: LAYERS[outer](model, inner(model))


def with_layers(name: str, make: Callable[[Model], Guide]) -> dict[str, Callable[[Model], Guide]]:
    """The guide alone, and under each that moves its draws."""
    return {name: make} | {f"{outer}-over-{name}": on(outer, make) for outer in LAYERS}


#: Guides that belong to one model, alone and as a base, by the problem that has it.
OWN: dict[str, dict[str, Callable[[Model], Guide]]] = {
    "ladder_vae": with_layers("ladder", ladder),
    "drawing": with_layers("draw", drawing),
    "one_pixel": {
        "uniform_dequantisation": UniformDequantisation,
        "learned_dequantisation": lambda model: MeanFieldGuide(model, encoder=OfPixels()),
    },
}


def moved(model: nn.Module) -> nn.Module:
    """Away from a start at which layers are the identity."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model


#: name -> constructor, with the number of independent data it generates at num=5 and a batch of data
MODELS: dict[str, Callable[[], nn.Module]] = {
    "offset_gaussian": lambda: OffsetGaussian(3),
    "vae-bernoulli": lambda: VAE(MLPDecoder(2, event_shape=(1, 4, 4), hidden=(8,)), latent_dim=2),
    "draw": lambda: DRAW((1, 3, 3), latent_dim=2, hidden_dim=4, num_steps=3),
    "draw-filterbank": lambda: DRAW(
        (2, 4, 3), latent_dim=2, hidden_dim=4, num_steps=2, attention="filterbank", patch_size=2, accumulate=False
    ),
    "flow_density-points": lambda: moved(FlowDensity.points(2, hidden=(5,), num_couplings=2)),
    "flow_density-splines": lambda: moved(FlowDensity.points(3, couplings="spline", hidden=(5,), num_couplings=2)),
    "flow_density-images": lambda: moved(
        FlowDensity.images((1, 4, 2), levels=3, num_scales=2, num_couplings=1, hidden=4, growth=2, depth=2)
    ),
    "ladder_vae": lambda: LadderVAE((1, 4, 4), latent_dims=(2, 3, 2), hidden=(8, 6, 5)),
    "ladder_vae-normal": lambda: LadderVAE((3,), latent_dims=(2, 2), hidden=(8, 8), likelihood="normal"),
    "vae-categorical": lambda: VAE(
        MLPDecoder(2, event_shape=(1, 2, 3, 5), hidden=(8,)), latent_dim=2, likelihood="categorical", levels=5
    ),
    "vae-discretised_logistic": lambda: VAE(
        MLPDecoder(2, event_shape=(1, 2, 6), hidden=(8,)), latent_dim=2, likelihood="discretised_logistic", levels=5
    ),
    "vae-normal": lambda: VAE(MLPDecoder(2, event_shape=(6,), hidden=(8,)), latent_dim=2, likelihood="normal"),
}

#: name -> constructor from a number of particles
OBJECTIVES: dict[str, Callable[[int], Objective]] = {
    "elbo": lambda k: ELBO(num_particles=k),
    "elbo-stl": lambda k: ELBO(num_particles=k, gradient="stl"),
    "elbo-looped": lambda k: ELBO(num_particles=k, vectorize_particles=False),
    "elbo-chunked": lambda k: ELBO(num_particles=k, chunk_size=1),
    "elbo-weighted": lambda k: ELBO(num_particles=k, kl=KLWeights(end=0.5, free_bits=0.01)),
    "iwae": lambda k: IWAE(num_particles=k),
    "iwae-dreg": lambda k: IWAE(num_particles=k, gradient="dreg"),
    "iwae-looped-dreg": lambda k: IWAE(num_particles=k, gradient="dreg", vectorize_particles=False),
    "iwae-chunked-dreg": lambda k: IWAE(num_particles=k, gradient="dreg", chunk_size=2),
    "vr_iwae": lambda k: VRIWAE(0.4, num_particles=k),
    "vr_iwae-dreg": lambda k: VRIWAE(0.4, num_particles=k, gradient="dreg"),
}


def one_gradient(parameters: dict[str, torch.Tensor], loss: Callable[[], torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients by name, of parameters that the loss depends on."""
    for parameter in parameters.values():
        parameter.grad = None
    loss().backward()
    return {name: p.grad for name, p in parameters.items() if p.grad is not None}


#: The public guides that take any model, by name; the others belong to one.
FOR_ANY_MODEL = {name: made for name, made in NAMED.items() if name not in ("draw", "ladder", "uniform_dequantisation")}
