"""Pictures of a fit and of what was found about it, as Matplotlib Axes."""

from ppl_models.diagnostics.plots.ecdf import plot_ecdf
from ppl_models.diagnostics.plots.energy_error import plot_energy_error
from ppl_models.diagnostics.plots.evidence import plot_evidence
from ppl_models.diagnostics.plots.history import plot_history
from ppl_models.diagnostics.plots.k_hat import plot_k_hat
from ppl_models.diagnostics.plots.marginals import plot_marginals
from ppl_models.diagnostics.plots.pairs import plot_pairs
from ppl_models.diagnostics.plots.trajectory import plot_trajectory

__all__ = [
    "plot_ecdf",
    "plot_energy_error",
    "plot_evidence",
    "plot_history",
    "plot_k_hat",
    "plot_marginals",
    "plot_pairs",
    "plot_trajectory",
]
