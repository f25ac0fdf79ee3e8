"""Variational families for Pyro models, each the possible base of another."""

import pyro
from torch import nn

from guides.annealed import AnnealedGuide
from guides.base import Guide
from guides.dequantisation import UniformDequantisation
from guides.draw import DRAWGuide
from guides.errors import DataError, DivergedError, ModelError, OptionError, PplError
from guides.full_rank import FullRankGuide
from guides.guide_list import GuideList
from guides.hamiltonian import HamiltonianGuide
from guides.iaf import IAFGuide
from guides.ladder import LadderGuide
from guides.latent_space import LatentSpace
from guides.mean_field import MeanFieldGuide
from guides.planar import PlanarGuide
from guides.plates import Minibatch
from guides.registry import build
from guides.target import Proposal, Target

__all__ = [
    "AnnealedGuide",
    "DRAWGuide",
    "DataError",
    "DivergedError",
    "FullRankGuide",
    "Guide",
    "GuideList",
    "HamiltonianGuide",
    "IAFGuide",
    "LadderGuide",
    "LatentSpace",
    "MeanFieldGuide",
    "Minibatch",
    "ModelError",
    "OptionError",
    "PlanarGuide",
    "PplError",
    "Proposal",
    "Target",
    "UniformDequantisation",
    "build",
]

# Parameters belong to their module: two models in one process never share them through a global store.
pyro.settings.set(module_local_params=True)
if not hasattr(nn.Parameter, "unconstrained"):
    # With that setting Pyro 1.9 hands plain parameters to SVI, which then asks each for its unconstrained self.
    nn.Parameter.unconstrained = lambda self: self  # type: ignore[attr-defined]
