"""Generative models as Pyro functions, and what it takes to fit and judge a guide of them."""

import guides as _guides  # noqa: F401  (makes parameters belong to their modules)
from ppl_models.draw import DRAW
from ppl_models.flow_density import FlowDensity
from ppl_models.gaussian import GaussianSummary, OffsetGaussian
from ppl_models.ladder_vae import LadderVAE
from ppl_models.vae import VAE

__all__ = ["DRAW", "VAE", "FlowDensity", "GaussianSummary", "LadderVAE", "OffsetGaussian"]
