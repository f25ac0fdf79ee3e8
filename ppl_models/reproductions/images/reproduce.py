"""reproduce_images: a study of image models, done again, from its definition to its report."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from guides.errors import OptionError, choose, positive, whole_number
from ppl_models.figures import reconstructions, samples
from ppl_models.reproductions.folder import ReportFolder
from ppl_models.reproductions.images.data import load_images
from ppl_models.reproductions.images.figures import ROW, bounds_figure, common_figure, generated, rebuilt
from ppl_models.reproductions.images.pieces import (
    Task,
    follow_job,
    joined,
    judge_job,
    scores_job,
    train_job,
    trained,
    weigh_job,
)
from ppl_models.reproductions.images.sizes import FULL, LOOK, QUICK
from ppl_models.reproductions.images.study import ImageStudy
from ppl_models.reproductions.images.tables import all_reached, goals, results, trainings
from ppl_models.reproductions.jobs import Job, run_jobs
from ppl_models.reproductions.report import Report
from ppl_models.study.job import own_settings

__all__ = ["FULL_MINUTES", "MINUTES", "reproduce_images"]

#: Of training, for each method: without and with ``full``.
MINUTES, FULL_MINUTES = 2.0, 240.0

#: How many test images one job weighs: HVAE takes minutes for them.
CHUNK = 25


def reproduce_images(
    study: ImageStudy,
    *,
    out: str | os.PathLike[str],
    full: bool = False,
    methods: Sequence[str] | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    images: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    batch_norm: bool = False,
    seed: int = 0,
    processes: int | None = None,
    progress: bool = True,
) -> Report:
    """Train and judge the methods of a study, and write its report.

    Every method trains a VAE with the study's networks for as long, with checkpoints from which an interrupted report
    goes on. Each is judged by the same 1,000-sample negative log-likelihood with its standard error, by k-hat, active
    units and a verdict; learning curves show its own bound, and a measure that all share.

    Args:
        study: The study.
        out: The folder of the report; one that holds results of the same settings is gone on with.
        full: Whether to take all images, binarised anew in each batch, and 240 minutes; otherwise the study's first
            10,000 training and 1,000 test images, rounded, and two minutes.
        methods: Names of methods; all by default.
        minutes: Budget of each method: processor time of its training steps.
        steps: Number of training steps in place of minutes, for a look at the report: all else is done with as few
            draws and images.
        images: How many test images are judged; 50, or with ``full`` 1,000. HVAE takes seconds for each.
        data_dir: A folder of MNIST's four files; without it, see :func:`ppl_models.datasets.mnist`.
        batch_norm: Whether the networks normalise batches, as the study's did. The likelihood of an image then depends
            on the others while training, and what is maximised is no bound.
        seed: Fixes first weights, order and noise.
        processes: How many jobs run at once, with one thread each; as many as there are cores by default.
        progress: Whether to show a progress bar.

    Raises:
        OptionError: If an option breaks its rule, or the folder holds a report of other settings.
        DataError: If the images cannot be had.
        DivergedError: If a training meets too many steps that are not finite.
    """
    chosen = list(study.methods) if methods is None else methods
    names = list(dict.fromkeys(choose("methods", name, study.methods) for name in chosen))
    if not names:
        raise OptionError(f"methods must name at least one of {', '.join(map(repr, study.methods))}; got none.")
    if minutes is not None and steps is not None:
        raise OptionError("minutes and steps must not be given together: each says when a training ends.")
    minutes = (FULL_MINUTES if full else MINUTES) if minutes is None else positive("minutes", minutes)
    budget = 60 * minutes if steps is None else whole_number("steps", steps, least=1)
    sizes = LOOK if steps is not None else FULL if full else QUICK
    judged = sizes.images if images is None else whole_number("images", images, least=2)
    seed = whole_number("seed", seed, least=0)
    place = None if data_dir is None else str(data_dir)
    available = load_images(place, full=full)
    judged = min(judged, len(available.test))
    settings = {
        "full": full,
        "budget": budget,
        "budget is of": "seconds" if steps is None else "steps",
        "data": [len(available.train), len(available.test)],
        "seed": seed,
        "batch_norm": batch_norm,
    }
    folder = ReportFolder(out, name=study.name, settings=settings, scope={"methods": names, "images": judged})

    tasks = [Task(study.name, name, place, full, seed, batch_norm, sizes) for name in names]
    ends = {"budget": budget, "in_steps": steps is not None}
    training = [Job(f"train-{task.key}", train_job, {"task": task, **ends}) for task in tasks]
    shared: dict[str, Any] = {"processes": processes, "progress": progress}
    run_jobs(folder, training, **shared)
    shutil.rmtree(folder.path / "runs", ignore_errors=True)

    ways = {"judge": judge_job, "follow": follow_job}
    judging = [Job(f"{way}-{task.key}", ways[way], {"task": task}) for task in tasks for way in ways]
    for task in tasks:
        for start in range(0, judged, CHUNK):
            stop = min(start + CHUNK, judged)
            judging.append(Job(_weighing(task, start, stop), weigh_job, {"task": task, "start": start, "stop": stop}))
    scores = {"data_dir": place, "full": full, "judged": judged}
    judging.append(Job(f"scores-{judged}", scores_job, scores))
    found = run_jobs(folder, [*judging, *training], **shared)
    return _write(folder, study, tasks, found, judged, more=judged < len(available.test))


def _weighing(task: Task, start: int, stop: int) -> str:
    return f"weigh-{task.key}-{start}-{stop}"


def _write(
    folder: ReportFolder,
    study: ImageStudy,
    tasks: Sequence[Task],
    jobs: Mapping[str, Any],
    judged: int,
    *,
    more: bool,
) -> Report:
    import pandas as pd

    found: dict[str, dict[str, Any]] = {}
    for task in tasks:
        parts = [jobs[_weighing(task, start, min(start + CHUNK, judged))] for start in range(0, judged, CHUNK)]
        training = jobs[f"train-{task.key}"]
        points = [{k: math.nan if v is None else v for k, v in point.items()} for point in training["points"]]
        found[task.method] = {
            "training": training | {"points": points},
            "judgement": jobs[f"judge-{task.key}"],
            "weights": joined(parts),
        }
    scores, sizes = jobs[f"scores-{judged}"], tasks[0].sizes
    reached = goals(found, aims=[name for name, method in study.methods.items() if method.aim], more=more)
    number = f" *study's number*: {study.number}" if study.number else ""
    tables = {
        "results": pd.DataFrame(results(found, scores["own"], number=bool(number))),
        "goals": pd.DataFrame(reached),
        "published": pd.DataFrame(study.compare(found, scores["grey"])),
    }
    curves = {name: each["training"]["points"] for name, each in found.items()}

    folder.text(study.introduction)
    if reached:
        folder.text("## What was to be reached")
        folder.table("goals", tables["goals"], caption=GOALS)
    folder.text("## By one measure")
    verdict = VERDICT.format(judged=sizes.judged) if sizes.judged else "none after so few steps"
    caption = RESULTS.format(images=judged, samples=sizes.samples, number=number, verdict=verdict)
    folder.table("results", tables["results"], caption=caption)
    folder.figure("common", common_figure(curves), caption=COMMON)
    folder.text("## By the bounds that were maximised")
    bounds = {name: each["training"]["bound"] for name, each in found.items()}
    folder.figure("bounds", bounds_figure(curves, bounds), caption=BOUNDS)
    folder.table("training", pd.DataFrame(trainings(found)), caption="How they were trained.")
    rows = [{"method": name, **point} for name, points in curves.items() for point in points]
    folder.table("curves", pd.DataFrame(rows), caption="All points of the curves.", listed=False)
    folder.text("## The published numbers")
    folder.table("published", tables["published"], caption=study.published)
    folder.text("## Images")
    for name, figure, caption in _pictures(folder, tasks):
        folder.figure(name, figure, caption=caption)
    folder.text("## Trajectories")
    for task in tasks:
        folder.figure(f"trajectories-{task.key}", caption=f"{task.method}: {TRAJECTORIES}")
    folder.index(study.title, of=[task.key for task in tasks])
    return Report(folder.name, folder.path, tables, folder.files, reached=all_reached(reached))


def _pictures(folder: ReportFolder, tasks: Sequence[Task]) -> list[tuple[str, Any, str]]:
    blocks, rows = {}, {}
    with own_settings():
        x = tasks[0].images.test[:ROW]
        for task in tasks:
            model, guide = trained(folder, task)
            blocks[task.method] = generated(model, seed=task.seed)
            rows[task.method] = rebuilt(model, guide, x)
        return [
            (
                "samples",
                samples(blocks),
                "Probability of ink at latent vectors drawn from the prior, the same for each model.",
            ),
            (
                "reconstructions",
                reconstructions(x.squeeze(1), rows),
                "Test images, and the probability of ink at one draw of each model's guide.",
            ),
        ]


GOALS = """\
Differences of negative log-likelihoods, image by image, with their standard errors. HVAE whose base is trained first is
to be no worse than the VAE trained as long. Up to zero it is no worse, and above two standard errors it is worse;
between the two these images do not decide. With leapfrog steps from the beginning there are far fewer steps in the
time; such methods are reported."""

RESULTS = """\
{images} test images, nats per image. *NLL*: negative log-likelihood by {samples:,} importance samples, and its standard
error over the images; *mean image* knows nothing of an image but the mean of each pixel. *−bound*: of what was
maximised. *k-hat*: the tail of an image's weights; above 0.7 its NLL is not to be trusted. *active units*: latents
whose posterior means vary over the images.{number} *verdict*: {verdict}. *minutes*: of one core, in training steps."""

VERDICT = "of `check` on {judged} images, by weights alone, which is never better than *doubtful*"

COMMON = """\
Validation images: minus the bound of 40 samples, whatever was maximised, against time and against epochs. It compares
methods, though a guide that is far from the posterior loses more by having 40 samples in place of 1,000."""

BOUNDS = """\
Minus the bound that each method maximised: training (the mean since the last point) and validation. The axes are not
the same: an ELBO and a bound of 40 samples do not compare."""

TRAJECTORIES = """\
the datum, and what a particle's latents decode to, step by step. Hamiltonian Monte Carlo starts from a draw of the
guide, and of a Hamiltonian guide from one of its base, as the guide's own steps do. It draws its momentum anew in each
transition, and accepts or rejects; the guide's own steps do neither."""
