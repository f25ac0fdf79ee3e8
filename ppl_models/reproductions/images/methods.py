"""The methods of the image studies: one VAE each, with a guide, what is maximised, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from guides import Guide, HamiltonianGuide, IAFGuide, MeanFieldGuide
from ppl_models.networks import ConvDecoder, ConvEncoder
from ppl_models.objectives import ELBO, IWAE, Objective
from ppl_models.vae import VAE

__all__ = ["FLOW_METHODS", "LATENT", "SAMPLING_METHODS", "Method", "Phase"]

#: Latent dimensions of all models, the studies'.
LATENT = 64

#: From a model and an encoder of its images to a guide.
MakeGuide = Callable[[VAE, nn.Module], Guide]


@dataclass(frozen=True)
class Phase:
    """A stretch of a training.

    Args:
        guide: What is trained with the model.
        objective: What is maximised.
        share: Of the budget that is used up when the stretch ends.
    """

    guide: Guide
    objective: Objective
    share: float


@dataclass(frozen=True)
class Method:
    """One way to train the VAE.

    Args:
        name: What it is called.
        how: What it is, in a few words.
        guide: Makes its guide.
        particles: Draws per image in training: K of the importance-weighted bound, 1 for the ELBO.
        base_share: For which share of the budget the guide's base is trained without it.
        aim: Whether it is to be no worse than the VAE that is trained as long.
    """

    name: str
    how: str
    guide: MakeGuide
    particles: int = 1
    base_share: float = 0.0
    aim: bool = False

    @property
    def objective(self) -> Objective:
        """What is maximised."""
        return ELBO() if self.particles == 1 else IWAE(num_particles=self.particles)

    @property
    def bound(self) -> str:
        """The objective's name on an axis."""
        return "ELBO" if self.particles == 1 else f"bound of {self.particles} samples"

    def build(self, *, seed: int = 0, batch_norm: bool = False) -> tuple[VAE, Guide]:
        """Make model and guide, from the same first weights for all methods; the global generator stays as it was.

        Args:
            seed: Fixes the weights.
            batch_norm: Whether the networks normalise batches, as the studies' did.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = VAE(ConvDecoder(LATENT, batch_norm=batch_norm), latent_dim=LATENT)
            encoder = ConvEncoder(LATENT, batch_norm=batch_norm)
            if not batch_norm:
                _initialise(model.decoder)
                _initialise(encoder)
            return model, self.guide(model, encoder)

    def phases(self, guide: Guide) -> list[Phase]:
        """How the guide is trained, stretch by stretch."""
        whole = Phase(guide, self.objective, 1.0)
        return [Phase(guide.base, ELBO(), self.base_share), whole] if self.base_share else [whole]


def _initialise(network: nn.Module) -> None:
    """Draw the weights of all layers but the last so that a signal does not fade on its way (He et al. 2015, eq. 10).

    With torch's own it does, and without batch normalisation a training then begins with more than a thousand steps in
    which the decoder hardly knows of the latents.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in layers[:-1]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


def _hamiltonian(num_steps: int, base: MakeGuide) -> MakeGuide:
    def make(model: VAE, encoder: nn.Module) -> Guide:
        # The studies' first steps, 0.005 and less, hardly leave the base within a small budget.
        return HamiltonianGuide(
            model, base=base(model, encoder), num_steps=num_steps, init_step_size=0.05, init_temperature=1.1
        )

    return make


def _mean_field(model: VAE, encoder: nn.Module) -> Guide:
    return MeanFieldGuide(model, encoder=encoder)


def _flow(model: VAE, encoder: nn.Module) -> Guide:
    return IAFGuide(model, encoder=encoder, num_layers=5, hidden=(20 * LATENT,))


def _named(*methods: Method) -> dict[str, Method]:
    return {each.name: each for each in methods}


_VAE = Method("VAE", "mean-field guide", _mean_field)

#: Of the study of HVAE and IWAE, by name.
SAMPLING_METHODS = _named(
    _VAE,
    Method("IWAE", "mean-field guide, 40 samples", _mean_field, particles=40),
    Method("HVAE", "K = 15 leapfrog steps over the mean-field guide", _hamiltonian(15, _mean_field)),
    Method(
        "HVAE after VAE",
        "the same, its base trained alone for three quarters of the time",
        _hamiltonian(15, _mean_field),
        base_share=0.75,
        aim=True,
    ),
)

#: Of the study of HVAE and IAF, by name.
FLOW_METHODS = _named(
    _VAE,
    Method("HVAE", "K = 20 leapfrog steps over the mean-field guide", _hamiltonian(20, _mean_field)),
    Method("VAE + IAF", "five autoregressive layers over the mean-field guide", _flow),
    Method("HVAE + IAF", "K = 20 leapfrog steps over the five layers", _hamiltonian(20, _flow)),
)
