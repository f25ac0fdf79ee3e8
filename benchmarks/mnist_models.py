"""Models of MNIST: -ELBO of validation images after half an hour on two cores, beside what was published.

``python -m benchmarks mnist-models`` trains for the whole time, ``python -m benchmarks.mnist_models MINUTES [NAME]...``
for another, and some of the models. The budget of each, half an hour of two cores, is 60 processor minutes: a training
has one thread, two trainings run at a time, and one of them may take an hour by the clock.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from joblib import Parallel, delayed
from torch import nn

from benchmarks.report import Row
from benchmarks.trainings import fitted, processor_minutes
from guides import MeanFieldGuide
from ppl_models import VAE
from ppl_models.datasets import binarise, mnist
from ppl_models.networks import MLPDecoder, MLPEncoder
from ppl_models.objectives import log_weights
from ppl_models.study import PAIRS, build_pair
from ppl_models.training.modes import evaluating
from tests.published_losses import PUBLISHED_LOSSES, published_losses

MINUTES = 30.0
SHAPE, DRAWS = (1, 28, 28), 10
#: Validation images that are looked at after each epoch.
CURVE = 1_000
#: Where the four files may lie, beside the project; else they are in the cache.
FOLDER = Path(__file__).parents[2] / "shared" / "data" / "mnist"

Pair = tuple[nn.Module, Callable[..., Any]]


def default_vae() -> Pair:
    """What the library's networks are if nothing is said, with 50 latents."""
    model = VAE(MLPDecoder(50, event_shape=SHAPE), latent_dim=50)
    return model, MeanFieldGuide(model, encoder=MLPEncoder(SHAPE, output_dim=100))


def changed_vae(
    *,
    encoder: Sequence[int] = (512, 256, 128, 64),
    decoder: Sequence[int] = (64, 128, 256, 512),
    activation: str = "tanh",
) -> Pair:
    """The study's VAE with free variances, or with something more that is changed."""
    network = MLPDecoder(64, event_shape=SHAPE, hidden=decoder, activation=activation, init="xavier_normal")
    model = VAE(network, latent_dim=64)
    return model, MeanFieldGuide(model, encoder=MLPEncoder(SHAPE, output_dim=128, hidden=encoder, init="xavier_normal"))


def vae_as_large() -> Pair:
    """A VAE of as many parameters as the ladder, 1,462,838."""
    model = VAE(MLPDecoder(64, event_shape=SHAPE, hidden=(521, 521)), latent_dim=64)
    return model, MeanFieldGuide(model, encoder=MLPEncoder(SHAPE, output_dim=128, hidden=(521, 521)))


@dataclass(frozen=True)
class Contender:
    """A model, the name of the study's that it is trained like, for how many steps, and what to stay below, in nats."""

    make: Callable[[], Pair]
    like: str
    steps: int
    most: float | None = None


VAE_AS_LARGE, LADDER, DRAWN = "a VAE as large as the ladder", "ladder VAE", "DRAW, T = 10"
WIDE = (512, 512)

MODELS: dict[str, Contender] = {
    "default VAE": Contender(default_vae, "vae", 100_000, most=96.0),
    VAE_AS_LARGE: Contender(vae_as_large, "vae", 30_000),
    LADDER: Contender(lambda: build_pair("lvae", SHAPE), "lvae", 30_000),
    DRAWN: Contender(lambda: build_pair("draw", SHAPE), "draw", 10_000, most=105.0),
    "study's VAE, variances >= 1 (published 124.65 at its best epoch)": Contender(
        lambda: build_pair("vae", SHAPE, published=True), "vae", 12_000
    ),
    "study's VAE, free variances": Contender(changed_vae, "vae", 12_000),
    "the same, wide encoder": Contender(lambda: changed_vae(encoder=WIDE), "vae", 12_000),
    "the same, wide decoder": Contender(lambda: changed_vae(decoder=WIDE), "vae", 12_000),
    "the same, both wide": Contender(lambda: changed_vae(encoder=WIDE, decoder=WIDE), "vae", 12_000),
    "the same, ReLU for tanh": Contender(lambda: changed_vae(activation="relu"), "vae", 12_000),
}


@dataclass(frozen=True)
class Outcome:
    """-ELBO of validation images in nats, after each epoch too, the standard error over them, what it took, and
    how many latents of a mean-field guide know of the image (Burda et al. 2016, section 5).
    """

    bound: float
    curve: list[float]
    error: float
    minutes: float
    epochs: float
    skipped: int
    active: int | None


def mnist_models(minutes: float = MINUTES, names: Sequence[str] = tuple(MODELS)) -> Iterator[Row]:
    """Steps are those that fit into 60 processor minutes, or the same share of them; two trainings at a time."""
    outcomes: dict[str, Outcome] = {}
    for name, found in zip(names, Parallel(n_jobs=2, return_as="generator")(jobs(minutes, names)), strict=True):
        outcomes[name] = found
        whole = minutes >= MINUTES
        label = f"MNIST, {minutes:g} minutes: {name}"
        yield Row(f"{label}: validation -ELBO", found.bound, found.error, most=MODELS[name].most if whole else None)
        took = f"processor minutes of one thread ({minutes:g} minutes of two cores are {2 * minutes:g})"
        took += f", for {found.epochs:.1f} epochs"
        yield Row(f"{label}: {took}", found.minutes, most=2 * minutes)
        if found.active is not None:
            yield Row(f"{label}: active latents", found.active)
    if {VAE_AS_LARGE, LADDER} <= set(outcomes):
        one, other = outcomes[LADDER], outcomes[VAE_AS_LARGE]
        yield Row(f"MNIST, {minutes:g} minutes: the ladder less {VAE_AS_LARGE}", one.bound - other.bound, most=0.0)
    if DRAWN in outcomes:
        yield from beside_the_published(outcomes[DRAWN].curve)
    yield Row("MNIST: steps that were not finite", sum(found.skipped for found in outcomes.values()), most=0)


def beside_the_published(curve: list[float]) -> Iterator[Row]:
    """DRAW's validation losses by epoch; the published ones are means of ten runs, with a KL warm-up of 100 epochs."""
    runs = published_losses("draw_mnist") if PUBLISHED_LOSSES.is_dir() else None
    for epoch in sorted({1, *range(5, len(curve), 5), len(curve)}):
        told = "" if runs is None else f" (published {-sum(run[epoch - 1] for run in runs) / len(runs):.1f})"
        yield Row(f"{DRAWN}: validation -ELBO after epoch {epoch}{told}", curve[epoch - 1])
    quarter = max(1, len(curve) // 4)
    if len(curve) > quarter:
        yield Row(f"{DRAWN}: fall over the last {quarter} epochs", curve[-1 - quarter] - curve[-1], least=0.0)


def jobs(minutes: float, names: Sequence[str]) -> Iterator[Any]:
    return (delayed(outcome)(name, minutes) for name in names)


def outcome(name: str, minutes: float) -> Outcome:
    """Train one model on images that are binarised anew in each batch, and judge it on those held out."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    images = mnist(FOLDER if FOLDER.is_dir() else None)
    contender = MODELS[name]
    (model, guide), training = contender.make(), PAIRS[contender.like].training["images"]
    steps = math.ceil(contender.steps * minutes / MINUTES)
    options = {"transform": binarise, "validation": images.validation[:CURVE], "seed": 0}
    start = processor_minutes()
    result = fitted(model, guide, images.train, training, steps=steps, **options)
    took = processor_minutes() - start
    torch.manual_seed(0)
    with torch.no_grad(), pyro.validation_enabled(False), evaluating(model, guide):
        parts = [-log_weights(model, guide, x, num_particles=DRAWS).values for x in images.validation.split(500)]
        active = None
        if isinstance(guide, MeanFieldGuide) and guide.encoder is not None:
            means = guide.encoder(images.validation).chunk(2, -1)[0]
            active = int((means.var(0) > 0.01).sum())
    values = torch.cat(parts, 1).mean(0)
    return Outcome(
        bound=values.mean().item(),
        curve=(result.history["validation_loss"].dropna() / CURVE).tolist(),
        error=values.std().item() / math.sqrt(len(values)),
        minutes=took,
        epochs=result.steps * training.batch_size / len(images.train),
        skipped=result.skipped,
        active=active,
    )


if __name__ == "__main__":
    for row in mnist_models(float(sys.argv[1]), sys.argv[2:] or tuple(MODELS)):
        print(f"{row.name}: {row.measured} (goal {row.goal})", flush=True)
