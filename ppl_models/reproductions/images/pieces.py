"""The jobs of the image reproductions: train a method, weigh test images by it, judge it, and follow its particles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guides import Guide, HamiltonianGuide
from ppl_models.diagnostics import check, importance_nll, to_arviz, trajectory
from ppl_models.diagnostics.collapse import collapse
from ppl_models.reproductions.folder import ReportFolder, file_name
from ppl_models.reproductions.images.data import StudyImages, grey_scores, load_images, mean_image_score
from ppl_models.reproductions.images.figures import trajectories_figure
from ppl_models.reproductions.images.methods import Method
from ppl_models.reproductions.images.sizes import Sizes
from ppl_models.reproductions.images.study import STUDIES
from ppl_models.reproductions.images.training import ROWS, bound_of, train_method
from ppl_models.study.job import own_settings
from ppl_models.training import load, save
from ppl_models.vae import VAE

__all__ = ["Task", "follow_job", "joined", "judge_job", "scores_job", "train_job", "trained", "weigh_job"]

#: Draws per image that the active units are counted by, and of the study's own number.
UNIT_DRAWS, STUDY_DRAWS = 20, 4


@dataclass(frozen=True)
class Task:
    """What all jobs of a method have to know.

    Args:
        study: The study's name.
        method: The method's.
        data_dir: Where the images are; the cache if not given.
        full: Whether all of them are taken.
        seed: Fixes all chance.
        batch_norm: Whether networks normalise batches.
        sizes: How much is done.
    """

    study: str
    method: str
    data_dir: str | None
    full: bool
    seed: int
    batch_norm: bool
    sizes: Sizes

    @property
    def key(self) -> str:
        """Names the method's files."""
        return file_name(self.method)

    @property
    def contender(self) -> Method:
        """The method."""
        return STUDIES[self.study].methods[self.method]

    @property
    def from_rest(self) -> bool:
        """Whether the study's momentum started at zero."""
        return bool(STUDIES[self.study].number)

    @property
    def images(self) -> StudyImages:
        """The images."""
        return load_images(self.data_dir, full=self.full)


def trained(folder: ReportFolder, task: Task) -> tuple[VAE, Guide]:
    """Make model and guide as they were trained."""
    model, guide = task.contender.build(seed=task.seed, batch_norm=task.batch_norm)
    load(folder.path / "models" / f"{task.key}.pt", model, guide)
    return model, guide


def train_job(folder: ReportFolder, *, task: Task, budget: float, in_steps: bool) -> dict[str, Any]:
    """Train a method, and write it down.

    Args:
        folder: The report's.
        task: Which.
        budget: Seconds, or steps.
        in_steps: Whether it is steps.
    """
    with own_settings():
        found = train_method(
            task.contender,
            task.images,
            folder=folder.path / "runs" / task.key,
            budget=budget,
            in_steps=in_steps,
            watched=task.sizes.watched,
            seed=task.seed,
            batch_norm=task.batch_norm,
        )
        save(folder.path / "models" / f"{task.key}.pt", found.model, found.guide)
    return {
        "points": found.points,
        "bound": task.contender.bound,
        "skipped": found.skipped,
        "parameters": found.num_parameters,
    }


def weigh_job(folder: ReportFolder, *, task: Task, start: int, stop: int) -> dict[str, Any]:
    """Weigh draws of the guide for each of some test images.

    Args:
        folder: The report's.
        task: Which method.
        start: The first image.
        stop: The one behind the last.

    Returns:
        Image by image: ``log evidence``, its estimate by all draws; the means over them of ``elbo`` and of the
        ``bound`` that was maximised; ``k-hat``, whose infinities are words. :func:`joined` reads it.
    """
    with own_settings():
        model, guide = trained(folder, task)
        x = task.images.test[start:stop]
        found = importance_nll(model, guide, x, num_samples=task.sizes.samples, max_batch=ROWS, seed=task.seed + start)
        return {
            "log evidence": found.log_evidence.tolist(),
            "elbo": found.log_weights.mean(0).tolist(),
            "bound": bound_of(task.contender.objective, found.log_weights).tolist(),
            "k-hat": [value if math.isfinite(value) else str(value) for value in found.k_hat.tolist()],
        }


def joined(parts: Sequence[Mapping[str, Sequence[Any]]]) -> dict[str, list[float]]:
    """Join what :func:`weigh_job` kept of some images each, and put the infinities back that JSON does not have.

    Example:
        >>> part = {"log evidence": [-90.0, None], "elbo": [-95.0, None], "bound": [-95.0, None], "k-hat": [0.4, "inf"]}
        >>> joined([part])["log evidence"], joined([part])["k-hat"]
        ([-90.0, -inf], [0.4, inf])
    """
    weights = {name: [value for part in parts for value in part[name]] for name in parts[0]}
    for name in ("log evidence", "elbo", "bound"):  # of an image that no draw explains
        weights[name] = [-math.inf if value is None else value for value in weights[name]]
    # Earlier jobs kept neither infinity: minus if all draws do equally well, plus if none explains the image, or hardly
    # more than one.
    gaps = [one - other for one, other in zip(weights["log evidence"], weights["elbo"], strict=True)]
    lost = [-math.inf if gap < 1e-3 else math.inf for gap in gaps]
    weights["k-hat"] = [
        other if value is None else float(value) for value, other in zip(weights["k-hat"], lost, strict=True)
    ]
    return weights


def judge_job(folder: ReportFolder, *, task: Task) -> dict[str, Any]:
    """Judge a method by draws of its guide, and keep some.

    Args:
        folder: The report's.
        task: Which method.

    Returns:
        ``verdict`` (``None`` without one), ``active units``, and of a Hamiltonian guide ``study's number``, if the
        study has one.
    """
    with own_settings():
        model, guide = trained(folder, task)
        test, seed, sizes = task.images.test, task.seed, task.sizes
        units = test[: sizes.units]
        result: dict[str, Any] = {"verdict": None, "active units": _active_units(model, guide, units)}
        if task.from_rest and isinstance(guide, HamiltonianGuide):
            result["study's number"] = _study_s_number(model, guide, units, seed=seed)
        if sizes.judged:
            x = test[: sizes.judged]
            verdict = check(model, guide, x, num_samples=sizes.draws, anneal=False, max_batch=ROWS, seed=seed)
            folder.verdict(task.key, verdict)
            result["verdict"] = verdict.level
        shown = to_arviz(
            model,
            guide,
            test[: sizes.kept],
            num_samples=sizes.draws // 4,
            prior=False,
            predictive=False,
            dims={"z": ["latent"], "x": ["channel", "row", "column"]},
            max_batch=ROWS,
            seed=seed,
        )
        folder.posterior(task.key, shown)
    return result


def follow_job(folder: ReportFolder, *, task: Task) -> dict[str, Any]:
    """Draw how particles move from a method's draws.

    Args:
        folder: The report's.
        task: Which method.
    """
    sizes = task.sizes
    with own_settings():
        model, guide = trained(folder, task)
        moving: dict[str, Any] = {"num_transitions": sizes.transitions, "step_size": sizes.step_size}
        x = task.images.test[: sizes.followed]
        figure = trajectories_figure(model, guide, x, from_rest=task.from_rest, seed=task.seed, **moving)
        return {"drawn": folder.draw(f"trajectories-{task.key}", figure).name}


@torch.no_grad()
def _active_units(model: VAE, guide: Guide, x: Tensor) -> int:
    parts = x.split(max(1, ROWS // UNIT_DRAWS))
    model.eval()
    guide.eval()
    vectors = torch.cat([guide.sample_posterior(UNIT_DRAWS, part)["z"] for part in parts], 1)
    (units,) = collapse(vectors.double(), ["z"] * vectors.shape[-1], {})
    return int(units.value)


def _study_s_number(model: VAE, guide: HamiltonianGuide, x: Tensor, *, seed: int) -> float:
    r"""What the study printed as HVAE's loss, without its constant.

    .. math::
        E[-\log p(x, z_K) + \tfrac12 |\rho_K|^2 + \log q_0(z_0)], \qquad \rho_0 = 0,

    which is minus the ELBO of the base, and the energy that the path gains. The constant :math:`-l/2`, which a momentum
    that is drawn has for each image, the study counted once for each batch: 1/8 of a nat per image at l = 64 and 256.
    """
    path = trajectory(model, guide, x, num_particles=STUDY_DRAWS, at_rest=True, seed=seed)
    gained = float((path.energy[-1] - path.energy[0]).mean())
    base = importance_nll(model, guide.base, x, num_samples=25 * STUDY_DRAWS, max_batch=ROWS, seed=seed)
    return gained - float(base.log_weights.mean())


def scores_job(folder: ReportFolder, *, data_dir: str | None, full: bool, judged: int) -> dict[str, Any]:
    """Score images by what knows nothing of them.

    Args:
        folder: The report's.
        data_dir: Where the images are.
        full: Whether all of them are taken.
        judged: How many test images are scored.
    """
    images = load_images(data_dir, full=full)
    return {"own": mean_image_score(images.train, images.test[:judged]), "grey": grey_scores(data_dir)}
