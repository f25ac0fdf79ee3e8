"""The images that the image studies learn from and are judged by."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ppl_models.datasets import binarise, mnist
from ppl_models.datasets.mnist import mnist_files
from ppl_models.training.batches import Transform

__all__ = ["NUM_TEST", "NUM_TRAIN", "StudyImages", "grey_scores", "load_images", "mean_image_score"]

#: The study's: the first of each part.
NUM_TRAIN, NUM_TEST = 10_000, 1_000


@dataclass(frozen=True)
class StudyImages:
    """Images in single precision, ``(N, 1, 28, 28)`` each.

    Args:
        train: What is learned from.
        transform: What is done to each batch of them.
        validation: What curves are drawn of: binary.
        test: What is judged by: binary.
    """

    train: Tensor
    transform: Transform | None
    validation: Tensor
    test: Tensor


@lru_cache(maxsize=1)
def load_images(data_dir: str | None = None, *, full: bool = False) -> StudyImages:
    """Load MNIST as the study had it, or all of it.

    The study had the first 10,000 training images and, for validation, the first 1,000 test images, each pixel rounded
    at 0.5. Nothing is chosen here by the validation images, so that the same ones may judge. All of it: 50,000 training
    images, binarised anew in each batch; 10,000 for validation and the 10,000 test images, binarised once.

    Args:
        data_dir: A folder of MNIST's four files; see :func:`ppl_models.datasets.mnist`.
        full: Whether to load all of it.

    Raises:
        DataError: If a file is missing or damaged, or the download fails.
    """
    if full:
        data = mnist(data_dir)
        return StudyImages(data.train, binarise, data.validation, data.test)
    raw = mnist_files(data_dir)
    train, test = _rounded(raw.images[:NUM_TRAIN]), _rounded(raw.test_images[:NUM_TEST])
    return StudyImages(train, None, test, test)


def _rounded(images: Tensor) -> Tensor:
    return (images.unsqueeze(1).to(torch.float32) / 255).round()


def mean_image_score(train: Tensor, test: Tensor) -> float:
    """Score images by what knows nothing of them: pixels drawn with their means, in nats per image.

    Args:
        train: Images that the means are those of, ``(N, *)``.
        test: Images to score.
    """
    # Half an image of each colour is added, so that no pixel is impossible.
    return _cross_entropy((train.double().sum(0) + 0.5) / (len(train) + 1), test)


def grey_scores(data_dir: str | os.PathLike[str] | None = None) -> dict[str, float]:
    """Score MNIST's grey test images, which the study of HVAE and IAF trained on.

    Args:
        data_dir: A folder of MNIST's four files; see :func:`ppl_models.datasets.mnist`.

    Returns:
        In nats per image, ``"mean image"``, by their own mean, and ``"floor"``: the cross entropy of the pixels with
        themselves, which no model can be below.
    """
    grey = mnist_files(data_dir).test_images.unsqueeze(1).double() / 255
    return {"mean image": _cross_entropy(grey.mean(0), grey), "floor": _cross_entropy(grey, grey)}


def _cross_entropy(mean: Tensor, images: Tensor) -> float:
    total = F.binary_cross_entropy(mean.expand_as(images), images.double(), reduction="sum")
    return float(total / len(images))
