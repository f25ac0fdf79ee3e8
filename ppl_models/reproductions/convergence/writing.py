"""The report of the seeds study, done again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ppl_models.reproductions.convergence.contenders import Part
from ppl_models.reproductions.convergence.figures import losses_figure, metric_figure
from ppl_models.reproductions.convergence.tables import compared, goals, headline
from ppl_models.reproductions.folder import ReportFolder
from ppl_models.reproductions.report import Report
from ppl_models.study import (
    compare_models,
    metrics_table,
    parameters_table,
    results_to_arviz,
    runs_table,
    study_summary,
    write_report,
)
from ppl_models.study.run_values import TEST_METRICS
from ppl_models.study.summary import LEVELS, judged_by

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["Finding", "write"]


@dataclass(frozen=True)
class Finding:
    """What one of the studies has found.

    Args:
        part: Which one.
        results: Of the study.
        baselines: By dataset of points, the loss of one normal law.
    """

    part: Part
    results: xr.Dataset
    baselines: dict[str, float]


def write(folder: ReportFolder, found: Sequence[Finding]) -> Report:
    """Write all tables and figures, the results as ArviZ reads them, and a page of each study.

    Args:
        folder: Of the report.
        found: What each study has found, the points first.
    """
    import pandas as pd

    lines = pd.concat([headline(each.results, each.baselines) for each in found], ignore_index=True)
    reached = goals(lines.to_dict("records"), [each.results for each in found])
    several = [each for each in found if each.results.sizes["model"] > 1]
    tables = {
        "headline": lines,
        "statements": pd.concat([_statements(folder, each) for each in found], ignore_index=True),
        "published": _joined(found, compared),
        "final": _joined(found, lambda results: metrics_table(results, metrics=TEST_METRICS)),
        "runs": _joined(found, runs_table),
        "parameters": _joined(found, parameters_table),
    }
    if reached:
        tables["goals"] = pd.DataFrame(reached)
    if several:
        tables["comparisons"] = _joined(several, lambda each: compare_models(each, metric=judged_by(each, None)))

    folder.text(INTRODUCTION)
    if reached:
        folder.text("## What was to come out")
        folder.table("goals", tables["goals"], caption=GOALS)
    folder.text("## Beside the published numbers")
    folder.table("headline", lines, caption=HEADLINE)
    for each in found:
        folder.figure(f"losses-{each.part.name}", losses_figure(each.results, each.baselines), caption=LOSSES)
        bars = metric_figure(each.results, judged_by(each.results, None))
        folder.figure(f"test-{each.part.name}", bars, caption=BARS)
    folder.text("## What it says")
    folder.table("statements", tables["statements"], caption=STATEMENTS)
    if several:
        folder.table("comparisons", tables["comparisons"], caption=COMPARISONS)
    folder.table("final", tables["final"], caption=FINAL)
    folder.text("## Every published number, and why it differs")
    folder.table("published", tables["published"], caption=PUBLISHED)
    folder.text("## All runs")
    folder.table("runs", tables["runs"], caption="One row each.", listed=False)
    folder.table("parameters", tables["parameters"], caption="Trainable parameters.", listed=False)
    pages = [_page(folder, each) for each in found]
    folder.index("The seeds study, done again and put right")
    goal = all(each["reached"] for each in reached) if reached else None
    return Report(folder.name, folder.path, tables, (*folder.files, *pages), reached=goal)


def _page(folder: ReportFolder, found: Finding) -> Path:
    """Write the study's own report and its results, and say where they are."""
    name = found.part.name
    folder.posterior(name, results_to_arviz(found.results))
    path = write_report(found.results, folder.path / f"{name}.html")
    folder.text(f"The study of {name} by itself, with all its tables: [{path.name}]({path.name}).")
    return path


def _statements(folder: ReportFolder, found: Finding) -> pd.DataFrame:
    """Put what a study says into rows, and write it as the verdict on it, which is that of the worst."""
    import pandas as pd

    said = study_summary(found.results)
    level = max((each.level for each in said), key=LEVELS.index)
    folder.verdict(found.part.name, {"level": level, "findings": [asdict(each) for each in said]})
    return pd.DataFrame(
        [{"study": found.part.name, "dataset": each.dataset, "level": each.level, "text": each.text} for each in said]
    )


def _joined(found: Sequence[Finding], table: Callable[[xr.Dataset], pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat([table(each.results) for each in found], ignore_index=True)


INTRODUCTION = """\
The published study trained each model with ten seeds and told, of its validation losses, the least, the largest, the
last, the mean of the first five epochs, and how many later ones are above that. Here the same models are trained with
several seeds on shared data. They are mended: means of points are linear, log-variances any numbers, what flows down a
ladder is the guide's own draw, and log-scales of couplings have a bound. *vae_published* has the published mistakes
back, and their numbers. Runs have fewer epochs than the published ones, 500 (40 of the flow of images): see
config.json. Losses are −ELBO, or exact NLL of flows of points, in nats per datum; less is better."""

GOALS = """\
On data whose entropy is known: the published wall comes out where the mistakes are put back; no mended model is worse
than one normal law fitted to the data; and no loss is below the entropy."""

HEADLINE = """\
The last validation loss: published means, over the runs that had a finite loss, with how many of the ten ended without
one; ours with a 95 % interval over the runs that did not diverge. *floor*: the exact entropy of the data, below which
no mean loss can be; *gap*: what a loss is above it. *one Gaussian*: the loss of one normal law fitted to the data."""

LOSSES = (
    "Validation losses: medians over the runs that are done, in their range; crosses where runs diverged; the floor; "
    "and triangles at the right edge, the published means of the last losses."
)

BARS = "Final models on the test set: means with 95 % intervals over the runs, and each run; bars stand on the floor."

STATEMENTS = "In words made from the numbers, each with a level as of a verdict."

COMPARISONS = """\
Pairs of models by the loss on the test set, first less second, over the seeds that both have run with: Wilcoxon's
signed-rank test, corrected over the datasets of one study (Holm). With n pairs no p-value is below *smallest_p*."""

FINAL = "Final models on the test set; *nll* is importance-sampled where a model has latents."

PUBLISHED = """\
Means and standard deviations (ddof 0) as published; ours by the published arithmetic: NaN dropped, absolute values,
runs without a number left out; and ours: signed, over the runs that did not diverge, with a 95 % interval, and without
the epochs in which the KL terms had a weight below 1."""
