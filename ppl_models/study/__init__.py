"""Convergence over seeds: what many runs of many models say together."""

from ppl_models.study.metrics import convergence_metrics

__all__ = ["convergence_metrics"]
