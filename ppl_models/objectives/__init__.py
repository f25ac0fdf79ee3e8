"""Log-weights, and the objectives that are made of them."""

from ppl_models.objectives.base import Estimate, Objective, ObjectiveModule
from ppl_models.objectives.elbo import ELBO
from ppl_models.objectives.gradient_report import gradient_report
from ppl_models.objectives.iwae import IWAE
from ppl_models.objectives.kl_weights import KLWeights
from ppl_models.objectives.log_weights import LogWeights, log_weights
from ppl_models.objectives.vr_iwae import VRIWAE

__all__ = [
    "ELBO",
    "IWAE",
    "VRIWAE",
    "Estimate",
    "KLWeights",
    "LogWeights",
    "Objective",
    "ObjectiveModule",
    "gradient_report",
    "log_weights",
]
