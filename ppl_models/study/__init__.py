"""Convergence over seeds: many runs of models, side by side, and what they tell."""

from ppl_models.study.results import results

__all__ = ["results"]
