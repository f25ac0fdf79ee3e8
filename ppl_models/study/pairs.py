"""The models of the study by name, each with the guide and the training that belong to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from guides import DRAWGuide, LadderGuide, LatentSpace, MeanFieldGuide, UniformDequantisation
from guides.errors import DataError, OptionError, choose
from guides.registry import GUIDES
from ppl_models.draw import DRAW
from ppl_models.flow_density import FlowDensity
from ppl_models.ladder_vae import LadderVAE
from ppl_models.networks import MLPDecoder, MLPEncoder
from ppl_models.objectives import ELBO, IWAE, VRIWAE, KLWeights, Objective
from ppl_models.study.published import PublishedEncoder, PublishedPointHead, published_ladder
from ppl_models.vae import VAE

__all__ = [
    "DEFAULT",
    "OBJECTIVES",
    "PAIRS",
    "STUDY_GUIDES",
    "Pair",
    "Training",
    "build_pair",
    "count_parameters",
    "kind_of",
]

#: A model and a guide of it.
Built = tuple[nn.Module, Callable[..., Any]]


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained, if nothing else is said.

    Args:
        lr: Learning rate of Adam.
        schedule: See :func:`ppl_models.training.train`.
        batch_size: Data in a batch.
        warmup: Over which share of the epochs the weight of the KL terms rises to 1; ``None``: it is 1 always.
        free_bits: In nats: a KL below it has no gradient; see :class:`~ppl_models.objectives.KLWeights`.
        max_grad_norm: Upper limit of the gradient's norm, for the loss per datum.
    """

    lr: float
    schedule: str = "cosine"
    batch_size: int = 128
    warmup: float | None = 0.0
    free_bits: float = 0.0
    max_grad_norm: float | None = None

    @property
    def published(self) -> Training:
        """The same for the published mistakes: a guide that is never narrower than the prior would keep free bits."""
        return replace(self, free_bits=0.0)


# Points have a decoder with a free scale: small batches keep it from becoming sharp, and below weight 1 of the KL terms
# it gains by running to zero; without either free bits or a warm-up the latents are not used at all. A ladder has
# free bits on each level.
POINTS = Training(lr=2.5e-3, batch_size=1024, max_grad_norm=1.0)
IMAGES = Training(lr=1e-3, warmup=0.2)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A model with its guide, for the kinds of data that it is a model of.

    Args:
        make: By kind of data, ``"points"`` or ``"images"``: a function from the shape of one datum to a model and its
            guide, made anew.
        training: By kind of data.
        published: By kind of data: the same with the published study's mistakes, where its numbers rest on them.
        has_latents: By kind of data, whether other guides can take the place of its own; ``True`` where not named.
    """

    make: Mapping[str, Callable[[Sequence[int]], Built]]
    training: Mapping[str, Training]
    published: Mapping[str, Callable[[Sequence[int]], Built]] = field(default_factory=dict)
    has_latents: Mapping[str, bool] = field(default_factory=dict)


def _same(module: nn.Module) -> nn.Module:
    return module


def _vae_of_points(shape: Sequence[int], *, published: bool = False) -> Built:
    head, tail = (PublishedPointHead, PublishedEncoder) if published else (_same, _same)
    activation = "tanh" if published else "relu"  # with relu the published head ends at its wall without latents, 5.96
    options: dict[str, Any] = {"event_shape": (2 * shape[0],), "hidden": (128,) * 3, "init": "xavier_normal"}
    decoder = MLPDecoder(4, activation=activation, **options)
    vae = VAE(head(decoder), latent_dim=4, likelihood="normal")
    encoder = MLPEncoder(shape, output_dim=8, hidden=(128,) * 3, init="xavier_normal")
    return vae, MeanFieldGuide(vae, encoder=tail(encoder))


def _vae_of_images(shape: Sequence[int], *, published: bool = False) -> Built:
    hidden = (512, 256, 128, 64)
    decoder = MLPDecoder(64, event_shape=shape, hidden=hidden[::-1], activation="tanh", init="xavier_normal")
    vae = VAE(decoder, latent_dim=64)
    encoder = MLPEncoder(shape, output_dim=128, hidden=hidden, init="xavier_normal")
    return vae, MeanFieldGuide(vae, encoder=PublishedEncoder(encoder) if published else encoder)


def _ladder_of_points(shape: Sequence[int]) -> Built:
    ladder = LadderVAE(shape, latent_dims=(4,) * 3, hidden=(128,) * 3, likelihood="normal")
    return ladder, LadderGuide(ladder, features="last")  # one layer alone knows little of the lowest latents


def _published_ladder_of_points(shape: Sequence[int]) -> Built:
    decoder = MLPDecoder(4, event_shape=(2 * shape[0],), hidden=(128,) * 3)
    ladder = LadderVAE(
        shape, latent_dims=(4,) * 3, hidden=(128,) * 3, likelihood="normal", decoder=PublishedPointHead(decoder)
    )
    return published_ladder(ladder)


def _ladder_of_images(shape: Sequence[int]) -> Built:
    ladder = LadderVAE(shape)
    return ladder, LadderGuide(ladder)


def _flow_of_points(couplings: str) -> Callable[[Sequence[int]], Built]:
    return lambda shape: (FlowDensity.points(shape[0], couplings=couplings), _no_latents)


def _no_latents(x: Tensor) -> None:
    """The guide of a model without latents."""


def _flow_of_images(shape: Sequence[int]) -> Built:
    flow = FlowDensity.images(shape)
    return flow, UniformDequantisation(flow)


def _drawing(*, error_image: bool, accumulate: bool) -> Pair:
    def make(shape: Sequence[int]) -> Built:
        draw = DRAW(shape, error_image=error_image, accumulate=accumulate)
        return draw, DRAWGuide(draw)

    return Pair(make={"images": make}, training={"images": replace(IMAGES, batch_size=64, warmup=0.0)})


#: The study's models by name.
PAIRS: dict[str, Pair] = {
    "vae": Pair(
        make={"points": _vae_of_points, "images": _vae_of_images},
        training={"points": replace(POINTS, free_bits=2.5), "images": IMAGES},
        published={
            "points": lambda shape: _vae_of_points(shape, published=True),
            "images": lambda shape: _vae_of_images(shape, published=True),
        },
    ),
    "lvae": Pair(
        make={"points": _ladder_of_points, "images": _ladder_of_images},
        training={"points": replace(POINTS, lr=5e-3, warmup=0.1, free_bits=1.0), "images": IMAGES},
        published={
            "points": _published_ladder_of_points,
            "images": lambda shape: published_ladder(LadderVAE(shape)),
        },
    ),
    "flow": Pair(
        make={"points": _flow_of_points("affine"), "images": _flow_of_images},
        training={"points": replace(POINTS, warmup=None), "images": Training(lr=1e-4, warmup=None)},
        has_latents={"points": False},
    ),
    "spline_flow": Pair(
        make={"points": _flow_of_points("spline")},
        training={"points": replace(POINTS, warmup=None)},
        has_latents={"points": False},
    ),
    "draw": _drawing(error_image=True, accumulate=True),
    "draw2": _drawing(error_image=False, accumulate=True),
    "draw3": _drawing(error_image=True, accumulate=False),
    "draw4": _drawing(error_image=False, accumulate=False),
}

#: The name of each model's own guide.
DEFAULT = "default"

_AROUND = ("annealed", "hamiltonian", "iaf", "planar")
_INSTEAD: dict[str, Callable[[int], int]] = {
    "full_rank": lambda dim: 2 * dim + dim * (dim - 1) // 2,
    "mean_field": lambda dim: 2 * dim,
}

#: Guides by name: each model's own, four that move its draws, and two that take its place.
STUDY_GUIDES = (DEFAULT, *_AROUND, *_INSTEAD)

#: Objectives by name, as functions of the weights of the KL terms in training.
OBJECTIVES: dict[str, Callable[[KLWeights | None], Objective]] = {
    "elbo": lambda kl: ELBO(kl=kl),
    "elbo_stl": lambda kl: ELBO(gradient="stl", kl=kl),
    "iwae": lambda kl: IWAE(kl=kl),
    "iwae_dreg": lambda kl: IWAE(gradient="dreg", kl=kl),
    "vr_iwae": lambda kl: VRIWAE(0.5, kl=kl),
}


def kind_of(event_shape: Sequence[int]) -> str:
    """Say what kind of data have this shape: ``"points"`` or ``"images"``.

    Raises:
        DataError: If they are neither.
    """
    if len(event_shape) == 1:
        return "points"
    if len(event_shape) == 3:
        return "images"
    raise DataError(f"data must be points (D,) or images (C, H, W); got shape {tuple(event_shape)}.")


def build_pair(
    name: str,
    event_shape: Sequence[int],
    *,
    guide: str = DEFAULT,
    published: bool = False,
    pairs: Mapping[str, Pair] = PAIRS,
) -> Built:
    """Make a model of the study and a guide of it, the guide set up.

    Sizes are the published ones; what was wrong in the published networks is put right: log-variances may be any
    numbers, means of points are linear, and what flows down a ladder is the guide's draw. Our own departure: all levels
    of a ladder of points are read from the encoder's last features.

    Args:
        name: A name in ``PAIRS``.
        event_shape: The shape of one datum: ``(2,)``, ``(1, 28, 28)``.
        guide: A name in ``STUDY_GUIDES``. ``"annealed"``, ``"hamiltonian"``, ``"iaf"`` and ``"planar"`` move the draws
            of the model's own guide; ``"mean_field"`` and ``"full_rank"`` take its place, with an encoder of two layers
            of 256.
        published: Whether to put the mistakes back that the published numbers of ``"vae"`` and ``"lvae"`` rest on:
            variances of latents of at least 1, means and scales of points between 0 and 1 (with the published tanh, not
            relu, in the VAE), and down a ladder the draws of the prior, not those of the guide.
        pairs: The models by name; those of the study by default.

    Raises:
        OptionError: If a name is unknown, the model is none of such data, or one option is not for another.
        DataError: If data of the shape are neither points nor images.

    Example:
        >>> vae, guide = build_pair("vae", (2,))
        >>> sum(p.numel() for part in (vae, guide) for p in part.parameters())
        68620
    """
    pair, kind = pairs[choose("model", name, pairs)], kind_of(event_shape)
    choose("guide", guide, STUDY_GUIDES)
    if kind not in pair.make:
        raise OptionError(f"model {name!r} must be given {' or '.join(pair.make)}; got {kind}.")
    if guide != DEFAULT and not pair.has_latents.get(kind, True):
        raise OptionError(
            f"guide must be 'default' with model {name!r} of {kind}, which has no latents; got {guide!r}."
        )
    if published and (kind not in pair.published or guide != DEFAULT):
        names = " and ".join(repr(each) for each, other in pairs.items() if other.published)
        raise OptionError(
            f"published must be given with {names} and its own guide only, whose published numbers rest on mistakes; "
            f"got model {name!r} and guide {guide!r}."
        )
    model, own = (pair.published if published else pair.make)[kind](event_shape)
    x = torch.zeros(2, *event_shape)
    if guide in _AROUND:
        own = GUIDES[guide](model, base=own)  # type: ignore[arg-type]
    elif guide in _INSTEAD:
        width = _INSTEAD[guide](LatentSpace(model, x, amortised=True).dim)
        own = GUIDES[guide](model, encoder=MLPEncoder(event_shape, output_dim=width, hidden=(256, 256)))
    return model, own.setup(x) if hasattr(own, "setup") else own


def count_parameters(*parts: Callable[..., Any]) -> int:
    """Count the trainable numbers of a model and its guide, those that both hold once.

    Example:
        >>> count_parameters(*build_pair("lvae", (1, 28, 28)))
        1464464
    """
    parameters = {id(p): p for part in parts if isinstance(part, nn.Module) for p in part.parameters()}
    return sum(p.numel() for p in parameters.values() if p.requires_grad)
