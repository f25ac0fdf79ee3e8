"""Convergence over seeds: many runs of models, side by side, and what they tell."""

from ppl_models.study.comparisons import compare_models, holm, paired_comparison
from ppl_models.study.figures import plot_losses, plot_metric
from ppl_models.study.metrics import convergence_metrics
from ppl_models.study.opening import open_results, results_to_arviz, save_results
from ppl_models.study.pairs import OBJECTIVES, PAIRS, STUDY_GUIDES, Pair, Training, build_pair, count_parameters
from ppl_models.study.report import write_report
from ppl_models.study.results import results
from ppl_models.study.run_values import run_values
from ppl_models.study.study import Study
from ppl_models.study.summary import Statement, study_summary
from ppl_models.study.table_formats import format_table
from ppl_models.study.tables import metrics_table, parameters_table, results_to_dataframe, runs_table

__all__ = [
    "OBJECTIVES",
    "PAIRS",
    "STUDY_GUIDES",
    "Pair",
    "Statement",
    "Study",
    "Training",
    "build_pair",
    "compare_models",
    "convergence_metrics",
    "count_parameters",
    "format_table",
    "holm",
    "metrics_table",
    "open_results",
    "paired_comparison",
    "parameters_table",
    "plot_losses",
    "plot_metric",
    "results",
    "results_to_arviz",
    "results_to_dataframe",
    "run_values",
    "runs_table",
    "save_results",
    "study_summary",
    "write_report",
]
