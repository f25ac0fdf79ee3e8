"""Models of MNIST: -ELBO of validation images after half an hour on two cores, beside what was published.

``python -m benchmarks mnist-models`` trains for the whole time, ``python -m benchmarks.mnist_models MINUTES [NAME]...``
for another, and some of the models.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyro
import torch
from joblib import Parallel, delayed
from torch import nn

from benchmarks.recipes import RECIPES
from benchmarks.report import Row
from guides import MeanFieldGuide
from ppl_models import VAE
from ppl_models.datasets import binarise, mnist
from ppl_models.networks import MLPDecoder, MLPEncoder
from ppl_models.objectives import log_weights
from ppl_models.study import build_pair
from ppl_models.training import fit
from ppl_models.training.modes import evaluating

MINUTES = 30.0
SHAPE, DRAWS = (1, 28, 28), 10
#: Where the four files may lie, beside the project; else they are in the cache.
FOLDER = Path(__file__).parents[2] / "shared" / "data" / "mnist"

Pair = tuple[nn.Module, Callable[..., Any]]


def default_vae() -> Pair:
    """What the library's networks are if nothing is said, with 50 latents."""
    model = VAE(MLPDecoder(50, event_shape=SHAPE), latent_dim=50)
    return model, MeanFieldGuide(model, encoder=MLPEncoder(SHAPE, output_dim=100))


def changed_vae(*, activation: str = "tanh", init: str = "xavier_normal") -> Pair:
    """The study's VAE with free variances, and one thing more that is changed."""
    hidden = (512, 256, 128, 64)
    decoder = MLPDecoder(64, event_shape=SHAPE, hidden=hidden[::-1], activation=activation, init=init)
    model = VAE(decoder, latent_dim=64)
    return model, MeanFieldGuide(model, encoder=MLPEncoder(SHAPE, output_dim=128, hidden=hidden, init=init))


def vae_as_large() -> Pair:
    """A VAE of as many parameters as the ladder, 1,462,838."""
    model = VAE(MLPDecoder(64, event_shape=SHAPE, hidden=(521, 521)), latent_dim=64)
    return model, MeanFieldGuide(model, encoder=MLPEncoder(SHAPE, output_dim=128, hidden=(521, 521)))


@dataclass(frozen=True)
class Contender:
    """A model, the name of its recipe, and what it is to stay below, in nats."""

    make: Callable[[], Pair]
    recipe: str
    most: float | None = None


VAE_AS_LARGE, LADDER = "a VAE as large as the ladder", "ladder VAE"

MODELS: dict[str, Contender] = {
    "default VAE": Contender(default_vae, "vae", most=96.0),
    "study's VAE, variances >= 1 (published 124.65)": Contender(
        lambda: build_pair("vae", SHAPE, published=True), "vae"
    ),
    "study's VAE, free variances": Contender(lambda: build_pair("vae", SHAPE), "vae"),
    "study's VAE, free variances, ReLU for tanh": Contender(lambda: changed_vae(activation="relu"), "vae"),
    "study's VAE, free variances, torch's initial weights": Contender(lambda: changed_vae(init="default"), "vae"),
    VAE_AS_LARGE: Contender(vae_as_large, "vae"),
    LADDER: Contender(lambda: build_pair("lvae", SHAPE), "lvae"),
    "DRAW, T = 10 (published 101.1 at epoch 50)": Contender(lambda: build_pair("draw", SHAPE), "draw", most=105.0),
}


@dataclass(frozen=True)
class Outcome:
    """-ELBO of validation images in nats, the standard error over them, and what the training took."""

    bound: float
    error: float
    minutes: float
    epochs: float
    skipped: int


def mnist_models(minutes: float = MINUTES, names: Sequence[str] = tuple(MODELS)) -> Iterator[Row]:
    """Steps are those that fit into half an hour, or the same share of them; two trainings at a time, one core each."""
    outcomes: dict[str, Outcome] = {}
    for name, found in zip(names, Parallel(n_jobs=2, return_as="generator")(jobs(minutes, names)), strict=True):
        outcomes[name] = found
        whole = minutes >= MINUTES
        label = f"MNIST, {minutes:g} minutes: {name}"
        yield Row(f"{label}: validation -ELBO", found.bound, found.error, most=MODELS[name].most if whole else None)
        yield Row(f"{label}: minutes on one core, for {found.epochs:.0f} epochs", found.minutes, most=minutes)
    if {VAE_AS_LARGE, LADDER} <= set(outcomes):
        one, other = outcomes[LADDER], outcomes[VAE_AS_LARGE]
        yield Row(f"MNIST, {minutes:g} minutes: the ladder less {VAE_AS_LARGE}", one.bound - other.bound, most=0.0)
    yield Row("MNIST: steps that were not finite", sum(found.skipped for found in outcomes.values()), most=0)


def jobs(minutes: float, names: Sequence[str]) -> Iterator[Any]:
    return (delayed(outcome)(name, minutes) for name in names)


def outcome(name: str, minutes: float) -> Outcome:
    """Train one model on images that are binarised anew in each batch, and judge it on those held out."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    images = mnist(FOLDER if FOLDER.is_dir() else None)
    (model, guide), whole = MODELS[name].make(), RECIPES[MODELS[name].recipe, "images"]
    share = minutes / MINUTES
    recipe = replace(whole, steps=math.ceil(whole.steps * share), warmup=math.ceil(whole.warmup * share))
    options = recipe.options(len(images.train)) | {
        "transform": binarise,
        "compile": "auto",
        "seed": 0,
        "progress": False,
    }
    result = fit(model, guide, images.train, objective=recipe.objective(), **options)
    torch.manual_seed(0)
    with torch.no_grad(), pyro.validation_enabled(False), evaluating(model, guide):
        parts = [-log_weights(model, guide, x, num_particles=DRAWS).values for x in images.validation.split(500)]
    values = torch.cat(parts, 1).mean(0)
    return Outcome(
        bound=values.mean().item(),
        error=values.std().item() / math.sqrt(len(values)),
        minutes=result.seconds / 60,
        epochs=result.steps * recipe.batch_size / len(images.train),
        skipped=result.skipped,
    )


if __name__ == "__main__":
    for row in mnist_models(float(sys.argv[1]), sys.argv[2:] or tuple(MODELS)):
        print(f"{row.name}: {row.measured} (goal {row.goal})", flush=True)
