"""Published studies, done again and put right: each writes a report that stands by itself."""

from __future__ import annotations

from collections.abc import Callable

from ppl_models.reproductions.convergence import reproduce_convergence
from ppl_models.reproductions.folder import ReportFolder
from ppl_models.reproductions.gaussian import reproduce_gaussian
from ppl_models.reproductions.images import reproduce_hvae_iaf, reproduce_mnist
from ppl_models.reproductions.jobs import Job, run_jobs
from ppl_models.reproductions.report import Report

__all__ = [
    "REPRODUCTIONS",
    "Job",
    "Report",
    "ReportFolder",
    "reproduce_convergence",
    "reproduce_gaussian",
    "reproduce_hvae_iaf",
    "reproduce_mnist",
    "run_jobs",
]

#: By name: functions with the options ``out``, ``full``, ``seed``, ``processes`` and ``progress``, and others of their
#: own.
REPRODUCTIONS: dict[str, Callable[..., Report]] = {
    "gaussian": reproduce_gaussian,
    "convergence": reproduce_convergence,
    "mnist": reproduce_mnist,
    "hvae_iaf": reproduce_hvae_iaf,
}
