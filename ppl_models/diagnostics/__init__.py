"""Judging a fit."""

from ppl_models.diagnostics.importance import ImportanceNLL, importance_nll
from ppl_models.diagnostics.psis import k_hat

__all__ = ["ImportanceNLL", "importance_nll", "k_hat"]
