"""Log-weights, and the objectives that are made of them."""

from ppl_models.objectives.base import Estimate, Objective, ObjectiveModule
from ppl_models.objectives.elbo import ELBO
from ppl_models.objectives.iwae import IWAE
from ppl_models.objectives.log_weights import LogWeights, log_weights

__all__ = ["ELBO", "IWAE", "Estimate", "LogWeights", "Objective", "ObjectiveModule", "log_weights"]
