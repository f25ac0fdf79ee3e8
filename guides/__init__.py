"""Variational families for Pyro models, each the possible base of another."""

import pyro
from torch import nn

from guides.base import Guide, Proposal, Target
from guides.errors import DataError, DivergedError, ModelError, OptionError, PplError
from guides.hamiltonian import HamiltonianGuide
from guides.latent_space import LatentSpace
from guides.mean_field import MeanFieldGuide
from guides.plates import Minibatch

__all__ = [
    "DataError",
    "DivergedError",
    "Guide",
    "HamiltonianGuide",
    "LatentSpace",
    "MeanFieldGuide",
    "Minibatch",
    "ModelError",
    "OptionError",
    "PplError",
    "Proposal",
    "Target",
]

# Parameters belong to their module: two models in one process never share them through a global store.
pyro.settings.set(module_local_params=True)
if not hasattr(nn.Parameter, "unconstrained"):
    # With that setting Pyro 1.9 hands plain parameters to SVI, which then asks each for its unconstrained self.
    nn.Parameter.unconstrained = lambda self: self  # type: ignore[attr-defined]
