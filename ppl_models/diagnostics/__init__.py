"""Judging a fit."""

from ppl_models.diagnostics.arviz_bridge import from_fit, to_arviz
from ppl_models.diagnostics.calibrated import Calibration
from ppl_models.diagnostics.calibration import calibration
from ppl_models.diagnostics.check import check
from ppl_models.diagnostics.correction import CorrectedPosterior, Expectation, Resampled, correct
from ppl_models.diagnostics.evidence import Bound, Evidence, evidence
from ppl_models.diagnostics.findings import Finding, Threshold
from ppl_models.diagnostics.importance import ImportanceNLL, importance_nll
from ppl_models.diagnostics.inference_gaps import InferenceGaps, inference_gaps
from ppl_models.diagnostics.psis import k_hat
from ppl_models.diagnostics.refits import Refit
from ppl_models.diagnostics.trajectory import Trajectory, trajectory
from ppl_models.diagnostics.verdict import Verdict

__all__ = [
    "Bound",
    "Calibration",
    "CorrectedPosterior",
    "Evidence",
    "Expectation",
    "Finding",
    "ImportanceNLL",
    "InferenceGaps",
    "Refit",
    "Resampled",
    "Threshold",
    "Trajectory",
    "Verdict",
    "calibration",
    "check",
    "correct",
    "evidence",
    "from_fit",
    "importance_nll",
    "inference_gaps",
    "k_hat",
    "to_arviz",
    "trajectory",
]
