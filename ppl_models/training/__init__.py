"""Training a model together with a guide."""

from ppl_models.training.fit import FitResult, fit

__all__ = ["FitResult", "fit"]
