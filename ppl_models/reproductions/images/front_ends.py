"""reproduce_mnist and reproduce_hvae_iaf: the studies of image models by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Required, TypedDict, Unpack

from ppl_models.reproductions.images.reproduce import reproduce_images
from ppl_models.reproductions.images.study import STUDIES
from ppl_models.reproductions.report import Report

__all__ = ["ImageOptions", "reproduce_hvae_iaf", "reproduce_mnist"]


class ImageOptions(TypedDict, total=False):
    """What the studies of image models are asked for; :func:`reproduce_images` says what each means."""

    out: Required[str | os.PathLike[str]]
    full: bool
    methods: Sequence[str] | None
    minutes: float | None
    steps: int | None
    images: int | None
    data_dir: str | os.PathLike[str] | None
    batch_norm: bool
    seed: int
    processes: int | None
    progress: bool


def reproduce_mnist(**options: Unpack[ImageOptions]) -> Report:
    """Do the study of HVAE (K = 15) and IWAE (40 samples) again, with equal time for each, and a plain VAE beside them.

    Args:
        **options: ``out``, and any other of :func:`~ppl_models.reproductions.images.reproduce_images`, which says what
            is raised too.

    References:
        Anthony L. Caterini, Arnaud Doucet, Dino Sejdinovic, Hamiltonian Variational Auto-Encoder, 2018,
        https://arxiv.org/abs/1805.11328, section 4.2, of which the study is a replication.
        Yuri Burda, Roger Grosse, Ruslan Salakhutdinov, Importance Weighted Autoencoders, 2016,
        https://arxiv.org/abs/1509.00519, section 5.
    """
    return reproduce_images(STUDIES["mnist"], **options)


def reproduce_hvae_iaf(**options: Unpack[ImageOptions]) -> Report:
    """Do the study of HVAE (K = 20), IAF and one over the other again, with equal time for each, and a plain VAE.

    Args:
        **options: ``out``, and any other of :func:`~ppl_models.reproductions.images.reproduce_images`, which says what
            is raised too.

    References:
        Anthony L. Caterini, Arnaud Doucet, Dino Sejdinovic, Hamiltonian Variational Auto-Encoder, 2018,
        https://arxiv.org/abs/1805.11328.
        Diederik P. Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, 2016,
        https://arxiv.org/abs/1606.04934.
    """
    return reproduce_images(STUDIES["hvae_iaf"], **options)
