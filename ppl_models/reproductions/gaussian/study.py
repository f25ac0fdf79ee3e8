"""reproduce_gaussian: the published Gaussian study, done again and put right."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from guides.errors import OptionError, choose, positive, whole_number
from ppl_models.reproductions.folder import ReportFolder
from ppl_models.reproductions.gaussian.data import SOURCES
from ppl_models.reproductions.gaussian.figures import errors_figure, gaps_figure, learning_figure, posteriors_figure
from ppl_models.reproductions.gaussian.methods import LEARNED, METHODS, ROUNDS, SETTINGS
from ppl_models.reproductions.gaussian.pieces import closed_forms_job, fit_job, fit_key, limit_job
from ppl_models.reproductions.gaussian.published import DIMS
from ppl_models.reproductions.gaussian.tables import compared, draws_of_z, goals, headline, summary, verdicts
from ppl_models.reproductions.jobs import Job, run_jobs
from ppl_models.reproductions.report import Report

__all__ = ["QUICK_DIMS", "reproduce_gaussian"]

#: What is done without ``full``.
QUICK_DIMS = (25, 50)

#: N, of the study.
NUM_DATA = 10_000


def reproduce_gaussian(
    *,
    out: str | os.PathLike[str],
    full: bool = False,
    dims: Sequence[int] | None = None,
    methods: Sequence[str] | None = None,
    data: str = "own",
    sets: int = 3,
    seed: int = 0,
    steps: float = 1.0,
    num_data: int = NUM_DATA,
    judge: bool = True,
    processes: int | None = None,
    progress: bool = True,
) -> Report:
    r"""Do the Gaussian study again: every method, dimension and data set, as published and put right.

    Every method is fitted to the same data sets twice, from the study's start: over the study's base, N(0, I) for z
    and not learned; and over a learned base, whitened by Laplace's approximation, with :math:`z + \Delta` as the
    latent. Both maximise the right ELBO of all data. Beside them stand the published errors, those of maximum
    likelihood, and what the study's own objectives have their optimum at.

    Args:
        out: The folder of the report; one that holds results of the same settings is gone on with.
        full: Whether to do all of the study's dimensions; 25 and 50 otherwise.
        dims: The dimensions d instead.
        methods: Names of methods; all eight by default.
        data: ``"own"`` for generators of their own, ``"study"`` for the study's data sets.
        sets: Number of data sets.
        seed: Of the first data set, and of the fits.
        steps: Share of the steps that fits make: less than 1 for a look at the report.
        num_data: N.
        judge: Whether the fits of the smallest dimension's first data set are held against NUTS.
        processes: How many fits run at once, with one thread each; as many as there are cores by default.
        progress: Whether to show a progress bar.

    Raises:
        OptionError: If an option breaks its rule, or the folder holds a report of other settings.
        DivergedError: If a fit meets too many steps that are not finite.

    References:
        Anthony L. Caterini, Arnaud Doucet, Dino Sejdinovic, Hamiltonian Variational Auto-Encoder, 2018,
        https://arxiv.org/abs/1805.11328, section 4.1, of which the study is a replication.
    """
    if dims is not None and full:
        raise OptionError("dims and full must not be given together: full means all of the study's dimensions.")
    chosen = list(DIMS if full else QUICK_DIMS) if dims is None else [whole_number("dims", d, least=2) for d in dims]
    chosen = sorted(set(chosen))
    if not chosen:
        raise OptionError("dims must name at least one dimension; got none. Write dims=[25, 50].")
    names = list(dict.fromkeys(choose("methods", each, METHODS) for each in (METHODS if methods is None else methods)))
    if not names:
        raise OptionError(f"methods must name at least one of {', '.join(map(repr, METHODS))}; got none.")
    choose("data", data, SOURCES)
    num_data, sets = whole_number("num_data", num_data, least=2), whole_number("sets", sets, least=1)
    seed, steps = whole_number("seed", seed, least=0), positive("steps", steps)
    if data == "study" and seed:
        raise OptionError(f"seed must be 0 for the study's data, which have their own; got {seed}.")
    settings: dict[str, Any] = {
        "data": data,
        "seed": seed,
        "steps": steps,
        "num_data": num_data,
        "draws": 10_000 if steps >= 1 else 1000,
    }
    folder = ReportFolder(
        out, name="gaussian", settings=settings, scope={"dims": chosen, "sets": sets, "methods": names}
    )
    drawn = {"source": data, "seed": seed, "num_data": num_data}
    shared = {**drawn, "steps": steps, "draws": settings["draws"]}
    jobs, judged_keys = [], []
    for dim in chosen:
        if dim in DIMS and num_data == NUM_DATA:
            jobs.append(Job(f"closed-forms-d{dim}", closed_forms_job, {"dim": dim}))
        for data_set in range(1, sets + 1):
            options = {"dim": dim, "data_set": data_set, **drawn}
            jobs.append(Job(f"limit-d{dim}-set{data_set}", limit_job, options))
            for setting in SETTINGS:
                for method in names:
                    options = {"dim": dim, "data_set": data_set, "method": method, "setting": setting, **shared}
                    judged = judge and dim == chosen[0] and data_set == 1
                    key = fit_key(dim, data_set, method, setting)
                    judged_keys += [key] * judged
                    jobs.append(Job(key + "-judged" * judged, fit_job, {**options, "judge": judged}))
    results = run_jobs(folder, jobs, processes=processes, progress=progress)
    return _write(folder, results, chosen, judged_keys)


def _write(
    folder: ReportFolder, results: Mapping[str, Mapping[str, Any]], dims: Sequence[int], judged_keys: Sequence[str]
) -> Report:
    import pandas as pd

    fits = [result for result in results.values() if "row" in result]
    forms = {result["d"]: result for result in results.values() if "shift" in result}
    limits = [result for result in results.values() if "least gap to ML" in result]
    rows = [result["row"] for result in fits]
    reached = goals(rows)
    table = compared(rows, forms)
    tables = {"headline": headline(rows), "summary": summary(rows), "goals": pd.DataFrame(reached)}

    folder.text(INTRODUCTION)
    folder.text("## What was to be reached")
    folder.table("goals", tables["goals"], caption="With a learned base, over all fits:")
    folder.text("## Against d")
    folder.table("headline", tables["headline"], caption=HEADLINE)
    folder.figure(
        "errors",
        errors_figure(rows),
        caption="Squared errors against truth: means over the data sets, and bands from the least to the largest. Of "
        "curves that lie on one another the last hides the others.",
    )
    folder.figure("gaps", gaps_figure(rows, limits), caption=GAPS)
    folder.table("summary", tables["summary"], caption=SUMMARY)
    if len(table):
        tables["published"] = table
        folder.text("## The published numbers")
        folder.table("published", table, caption=PUBLISHED)
    if forms:
        tables["draws of z"] = draws_of_z(forms)
        folder.table("draws-of-z", tables["draws of z"], caption=DRAWS_OF_Z)
    folder.text("## On the way")
    for dim in dims:
        figure = learning_figure(fits, dim)
        caption = (
            f"Learning curves, d = {dim}: means and bands over data sets. Put right, each fit has "
            f"{len(ROUNDS[LEARNED])} rounds: before each the latent is whitened where the model then is, and the guide "
            "starts anew. Gaps below 0.001 nats, which are noise, stand at 0.001."
        )
        folder.figure(f"learning-d{dim}", figure, caption=caption)
    judged = [result for result in fits if "moments" in result]
    if judged:
        folder.text("## Beside NUTS")
        caption = (
            f"d = {dims[0]}, first data set: each point is a coordinate of the latent, under the guide and under NUTS "
            "at the same fitted parameters; and the verdict on the guide."
        )
        folder.figure("posteriors", posteriors_figure(judged), caption=caption)
        tables["verdicts"] = verdicts([result["row"] for result in judged])
        folder.table("verdicts", tables["verdicts"], caption="The verdicts, whose reasons are in the files below:")
    folder.text("## All fits")
    folder.table("fits", pd.DataFrame(rows), caption="One row each.", listed=False)
    folder.index("The Gaussian study, done again and put right", of=[*judged_keys, *(f"{k}-nuts" for k in judged_keys)])
    return Report(
        folder.name,
        folder.path,
        tables,
        folder.files,
        reached=all(each["reached"] for each in reached),
    )


INTRODUCTION = """\
One latent z ~ N(0, I) stands behind a whole data set: x ~ N(z + Δ, diag(σ²)), N times; Δ and σ are fitted together with
a guide of z. Posterior, evidence and the maximum-likelihood estimate (ML) are known in closed form, so every number
here has its yardstick.

*As published* means the study's base: N(0, I), not learned, for z. *Put right* means a learned base in units of
Laplace's approximation, and the latent z + Δ, of which the data speak directly. Both maximise the right ELBO of all
data, which the study did not: what its objectives have their optimum at stands in a column of its own."""

HEADLINE = """\
Squared errors of σ against truth, and what the ELBO lacks of the log evidence at the ML estimate, in nats; means over
the data sets. ML's own error of σ stands beside them. *seconds*: processor time of a fit from its start, the making and
whitening of its guide included."""

GAPS = """\
What each ELBO lacks of the log evidence at the ML estimate. The limit is that of every guide over N(0, I) that keeps
volume, whatever the model's offsets and scales."""

SUMMARY = """\
Means over the data sets. *theta, Delta, Sigma*: squared errors against truth, of Δ and σ together, of Δ and of σ;
*... against ML*: the same against the ML estimate in place of truth; *location*: |Δ + E z − x̄|². *gap*: log evidence at
the fitted parameters less ELBO, in nats, and its standard error, which a mean does not make smaller: all sets share the
draws. *least gap*: what no such guide can be below at these parameters; *gap to ML*: as *gap*, with the log evidence at
the ML estimate. *skipped*: steps that were not finite."""

PUBLISHED = """\
Published means of three data sets, what the objective that was maximised has its optimum at on the study's data, in
closed form, and ours. The last column says why a published number is not the ML's."""

DRAWS_OF_Z = """\
|x̄ − Δ|² of the study's own data, drawn anew from its seed. All published errors of Δ but those of mean-field VB are
these: they compare draws of z, not methods. The IAF's data are others."""
