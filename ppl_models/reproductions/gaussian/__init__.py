"""The published study of guides on a Gaussian model with exact answers."""

from ppl_models.reproductions.gaussian.study import reproduce_gaussian

__all__ = ["reproduce_gaussian"]
