"""Pictures of a fit and of what was found about it, as Matplotlib Axes."""

from ppl_models.diagnostics.plots.ecdf import plot_ecdf

__all__ = ["plot_ecdf"]
