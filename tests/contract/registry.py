"""The families under contract. A new member joins by one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from guides import Guide, HamiltonianGuide, MeanFieldGuide
from ppl_models import VAE, OffsetGaussian
from ppl_models.networks import MLPDecoder
from ppl_models.objectives import ELBO, IWAE, Objective


def wide(model: Callable[..., Any], encoder: nn.Module | None) -> MeanFieldGuide:
    """The base under all contract tests: a standard normal, or an encoder that starts near one."""
    return MeanFieldGuide(model, encoder=encoder) if encoder else MeanFieldGuide(model, init_scale=1.0)


def hamiltonian(model: Callable[..., Any], encoder: nn.Module | None, **options: Any) -> HamiltonianGuide:
    return HamiltonianGuide(model, base=wide(model, encoder), num_steps=3, init_step_size=0.2, **options)


#: name -> constructor from a model and an encoder (None for global latents)
GUIDES: dict[str, Callable[[Callable[..., Any], nn.Module | None], Guide]] = {
    "mean_field": wide,
    "hamiltonian": hamiltonian,
    "hamiltonian-inverse_beta": lambda m, e: hamiltonian(m, e, tempering="inverse_beta", step_size_per_step=True),
    "hamiltonian-free": lambda m, e: hamiltonian(m, e, tempering="free", temperature_per_dimension=True),
    "hamiltonian-none": lambda m, e: hamiltonian(m, e, tempering="none"),
    "hamiltonian-over-hamiltonian": lambda m, e: HamiltonianGuide(
        m, base=hamiltonian(m, e), num_steps=2, init_step_size=0.1
    ),
}

#: name -> constructor, with the number of independent data it generates at num=5 and a batch of data
MODELS: dict[str, Callable[[], nn.Module]] = {
    "offset_gaussian": lambda: OffsetGaussian(3),
    "vae-bernoulli": lambda: VAE(MLPDecoder(2, event_shape=(1, 4, 4), hidden=(8,)), latent_dim=2),
    "vae-normal": lambda: VAE(MLPDecoder(2, event_shape=(6,), hidden=(8,)), latent_dim=2, likelihood="normal"),
}

#: name -> constructor from a number of particles
OBJECTIVES: dict[str, Callable[[int], Objective]] = {
    "elbo": lambda k: ELBO(num_particles=k),
    "iwae": lambda k: IWAE(num_particles=k),
    "elbo-looped": lambda k: ELBO(num_particles=k, vectorize_particles=False),
}


def one_gradient(parameters: dict[str, torch.Tensor], loss: Callable[[], torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients by name, of parameters that the loss depends on."""
    for parameter in parameters.values():
        parameter.grad = None
    loss().backward()
    return {name: p.grad for name, p in parameters.items() if p.grad is not None}
