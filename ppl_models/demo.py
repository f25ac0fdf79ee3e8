"""The demo: one VAE on handwritten digits, trained in three ways and judged by one yardstick."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from guides import Guide, HamiltonianGuide, MeanFieldGuide
from guides.errors import DataError, OptionError, choose
from ppl_models.datasets import ImageData, binarise, load
from ppl_models.diagnostics import importance_nll
from ppl_models.figures import reconstructions, samples, training_curves
from ppl_models.files import atomic_path
from ppl_models.networks import MLPDecoder, MLPEncoder
from ppl_models.objectives import ELBO, IWAE, Objective, log_weights
from ppl_models.training import FitResult, fit
from ppl_models.training.fit import evaluating
from ppl_models.vae import VAE

if TYPE_CHECKING:
    import arviz as az

__all__ = ["CONTENDERS", "SETTINGS", "Contender", "DemoResult", "Fitted", "Row", "Settings", "package_version", "run_demo"]

log = logging.getLogger(__name__)

_TRAIN_DRAWS, _TEST_DRAWS = 100, 1000
_CHAINS, _DRAWS, _POSTERIOR_IMAGES = 4, 100, 32
_SAMPLES, _RECONSTRUCTIONS = 64, 16


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the three have in common, for one set of images.

    Args:
        hidden: Widths of the hidden layers, of encoder and decoder alike.
        latent_dim: L.
        steps: Number of optimizer steps.
        batch_size: Images per step.
        lr: Initial learning rate; it falls to zero along a cosine.
        eval_images: How many of the training and of the test images are judged; all if ``None``.
    """

    hidden: tuple[int, ...]
    latent_dim: int
    steps: int
    batch_size: int = 100
    lr: float = 3e-3
    eval_images: int | None = None


#: By the name of the images. Chosen by the validation images of digits; the test images had no say.
SETTINGS: dict[str, Settings] = {
    "digits": Settings(hidden=(200,), latent_dim=10, steps=2000),
    "mnist": Settings(hidden=(200, 200), latent_dim=50, steps=5000, lr=1e-3, eval_images=1000),
}


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to train the VAE.

    Args:
        name: What it is called in the table and the figures.
        guide: Function from the model and its encoder to the guide.
        objective: What is maximised.
        bound: What the objective is called on axes.
    """

    name: str
    guide: Callable[[VAE, nn.Module], Guide]
    objective: Objective
    bound: str


def _mean_field(vae: VAE, encoder: nn.Module) -> Guide:
    return MeanFieldGuide(vae, encoder=encoder)


def _hamiltonian(vae: VAE, encoder: nn.Module) -> Guide:
    # A mild start: the trajectory should first be a small correction of what the encoder says.
    return HamiltonianGuide(vae, encoder=encoder, num_steps=5, init_step_size=0.1, init_temperature=1.1)


CONTENDERS: tuple[Contender, ...] = (
    Contender(name="VAE", guide=_mean_field, objective=ELBO(), bound="ELBO"),
    Contender(name="HVAE", guide=_hamiltonian, objective=ELBO(), bound="ELBO"),
    Contender(name="IWAE", guide=_mean_field, objective=IWAE(num_particles=16), bound="IWAE, K = 16,"),
)
