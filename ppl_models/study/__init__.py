"""Convergence over seeds: many runs of models, side by side, and what they tell."""

from ppl_models.study.pairs import OBJECTIVES, PAIRS, STUDY_GUIDES, Pair, Training, build_pair, count_parameters
from ppl_models.study.results import results
from ppl_models.study.study import Study

__all__ = [
    "OBJECTIVES",
    "PAIRS",
    "STUDY_GUIDES",
    "Pair",
    "Study",
    "Training",
    "build_pair",
    "count_parameters",
    "results",
]
