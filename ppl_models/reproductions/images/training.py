"""Train one method for as long as its budget lasts, from where it was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from guides import Guide
from ppl_models.diagnostics import importance_nll
from ppl_models.objectives import Objective
from ppl_models.reproductions.images.data import StudyImages
from ppl_models.reproductions.images.methods import Method
from ppl_models.seeds import derived_seed
from ppl_models.training import train
from ppl_models.vae import VAE

__all__ = ["BATCH_SIZE", "ROWS", "Trained", "bound_of", "train_method"]

#: As in the paper.
BATCH_SIZE, LEARNING_RATE = 100, 1e-3

#: Draws per image of the points of a learning curve: for every method as many as the importance-weighted bound has.
LOOKS = 40

#: Draws times images in one batched run: larger ones are no faster.
ROWS = 1000

#: Nats per pixel: sound steps stay below it, and a trajectory that blows up is cut there.
_MOST_GRADIENT = 0.5

#: More than any budget lasts for.
_EPOCHS = 10**6


@dataclass(frozen=True)
class Trained:
    """A method after its training.

    Args:
        model: The model.
        guide: Its guide.
        points: Of the learning curve; see :func:`train_method`.
        skipped: How many steps of all phases were skipped because they were not finite.
        num_parameters: Of model and guide together.
    """

    model: VAE
    guide: Guide
    points: list[dict[str, float]]
    skipped: int
    num_parameters: int


def train_method(
    method: Method,
    images: StudyImages,
    *,
    folder: Path,
    budget: float,
    in_steps: bool = False,
    watched: int = 50,
    seed: int = 0,
    batch_norm: bool = False,
) -> Trained:
    """Train a method with Adam until its budget is used up.

    Points of the learning curve say how far the training is (``steps``, ``epochs``, ``minutes``), and in nats per image
    minus the bound that is maximised, ``training`` (its mean since the last point) and ``validation``, and the
    ``common`` measure: minus the bound of 40 samples, whatever is maximised.

    Args:
        method: The method.
        images: What it learns from.
        folder: Where checkpoints are: if there are some, it goes on from there.
        budget: Seconds of one core, or steps.
        in_steps: Whether it is steps.
        watched: How many validation images the curve is drawn of.
        seed: Fixes first weights, order and noise.
        batch_norm: Whether networks normalise batches.

    Raises:
        DivergedError: If too many steps are not finite.
    """
    from ppl_models.reproductions.images.watching import Watch

    model, whole = method.build(seed=seed, batch_norm=batch_norm)
    state: dict[str, Any] | None = None
    skipped = 0
    for number, phase in enumerate(method.phases(whole)):
        watch = Watch(
            budget=budget,
            in_steps=in_steps,
            share=phase.share,
            num_data=len(images.train),
            look=_look_at(model, phase.guide, phase.objective, images.validation[:watched]),
            before=state,
        )
        result = train(
            model,
            phase.guide,
            images.train,
            epochs=_EPOCHS,
            batch_size=min(BATCH_SIZE, len(images.train)),
            transform=images.transform,
            objective=phase.objective,
            lr=LEARNING_RATE,
            max_grad_norm=_MOST_GRADIENT * images.train.numel(),
            folder=folder / str(number),
            checkpoint_every=20,
            resume=True,
            callbacks=[watch],
            accelerator="cpu",
            seed=derived_seed(seed, "phase", number),
            progress=False,
        )
        state = watch.state_dict()
        skipped += result.skipped
    return Trained(model, whole, watch.points, skipped, result.num_parameters)


def bound_of(objective: Objective, log_weights: Tensor) -> Tensor:
    """Reduce log-weights ``(S, N)`` to an objective's bound for each of N images; S is a multiple of its particles."""
    return objective.bound(log_weights.unflatten(0, (objective.num_particles, -1))).mean(0)


def _look_at(model: VAE, guide: Guide, objective: Objective, x: Tensor) -> Callable[[], Mapping[str, float]]:
    def look() -> Mapping[str, float]:
        found = importance_nll(model, guide, x, num_samples=LOOKS, max_batch=ROWS, seed=0)
        return {"validation": -float(bound_of(objective, found.log_weights).mean()), "common": found.nll}

    return look
