"""The published study of how models converge over seeds."""

from ppl_models.reproductions.convergence.study import reproduce_convergence

__all__ = ["reproduce_convergence"]
