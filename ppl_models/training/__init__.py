"""Training a model together with a guide, and keeping the two."""

from ppl_models.training.fit import FitResult, fit
from ppl_models.training.saving import load, save

__all__ = ["FitResult", "fit", "load", "save"]
