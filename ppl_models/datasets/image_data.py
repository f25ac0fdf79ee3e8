"""A set of images, split once and for all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from guides.errors import DataError
from ppl_models.grey_levels import Levels

__all__ = ["ImageData"]

_PARTS = ("train", "validation", "test")


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ImageData:
    """Hold one split of a set of images with their labels.

    The training images stay grey, to be binarised anew for every batch (see ``binarise``); validation and test images
    are binary already, so that every model is judged on the same pixels. With ``binary=False`` these stay grey as well,
    and nothing is to be binarised: for likelihoods of grey levels.

    Shapes: images (N, 1, H, W), N differing between the three parts; labels (N,).

    Args:
        name: What the data are called in tables and titles.
        train: Grey images with values in [0, 1].
        validation: Binary images, every value 0 or 1; with ``binary=False`` grey ones.
        test: The same.
        train_labels: The class of each training image, int64 and at least 0.
        validation_labels: The same for ``validation``.
        test_labels: The same for ``test``.
        grey_levels: K, how many different values a grey pixel can take, black and white included. With
            ``binary=False`` they are 0, 1 / (K - 1), ..., 1, as the likelihoods ``"categorical"`` and
            ``"discretised_logistic"`` with ``levels=K`` and ``FlowDensity.images(levels=K)`` have them.
        binary: Whether models learn from binary images.

    Raises:
        DataError: If a shape, a dtype or a value breaks the rules above.

    Example:
        >>> images, labels = torch.zeros(2, 1, 4, 4), torch.tensor([3, 1])
        >>> ImageData(
        ...     name="blank",
        ...     train=images,
        ...     validation=images,
        ...     test=images,
        ...     train_labels=labels,
        ...     validation_labels=labels,
        ...     test_labels=labels,
        ...     grey_levels=2,
        ... )
        ImageData(name='blank', grey_levels=2, train=(2, 1, 4, 4), validation=(2, 1, 4, 4), test=(2, 1, 4, 4))
    """

    name: str
    train: Tensor
    validation: Tensor
    test: Tensor
    train_labels: Tensor
    validation_labels: Tensor
    test_labels: Tensor
    grey_levels: int
    binary: bool = True

    def __post_init__(self) -> None:
        """Check every part against the rules of the class."""
        if self.grey_levels < 2:
            raise DataError(f"grey_levels must be at least 2; got {self.grey_levels}.")
        for part in _PARTS:
            images, labels = getattr(self, part), getattr(self, f"{part}_labels")
            _check_images(part, images, binary=self.binary and part != "train")
            if not self.binary:
                _check_levels(part, images, self.grey_levels)
            _check_labels(f"{part}_labels", labels, len(images))
            if images.shape[1:] != self.train.shape[1:]:
                raise DataError(
                    f"{part} must have images of the same size as train, {tuple(self.train.shape[1:])}; "
                    f"got {tuple(images.shape[1:])}."
                )

    def __repr__(self) -> str:
        shapes = ", ".join(f"{part}={tuple(getattr(self, part).shape)}" for part in _PARTS)
        grey = "" if self.binary else "binary=False, "
        return f"{type(self).__name__}(name={self.name!r}, grey_levels={self.grey_levels}, {grey}{shapes})"


def _check_images(name: str, images: Tensor, *, binary: bool) -> None:
    if images.dim() != 4 or images.shape[1] != 1:
        raise DataError(f"{name} must have shape (N, 1, H, W); got {tuple(images.shape)}.")
    if not images.numel():
        raise DataError(f"{name} must hold at least one image of at least one pixel; got shape {tuple(images.shape)}.")
    if not images.is_floating_point():
        raise DataError(f"{name} must be floating point; got {images.dtype}. Write {name}.float().")
    low, high = torch.stack(torch.aminmax(images)).tolist()
    if not (low >= 0 and high <= 1):  # written so that NaN, which aminmax passes on, fails as well
        raise DataError(f"{name} must be finite and in [0, 1]; got values from {low:g} to {high:g}.")
    if binary and not bool(((images == 0) | (images == 1)).all()):
        raise DataError(f"{name} must be binary, every value 0 or 1; got values between them. Use binarise({name}).")


def _check_levels(name: str, images: Tensor, levels: int) -> None:
    if not bool(Levels(levels).check(images).all()):
        raise DataError(
            f"{name} must have the {levels} grey levels k / {levels - 1} with binary=False; got values between them. "
            f"Write ({name} * {levels - 1}).round() / {levels - 1}."
        )


def _check_labels(name: str, labels: Tensor, count: int) -> None:
    if tuple(labels.shape) != (count,):
        raise DataError(f"{name} must have shape ({count},), one label per image; got {tuple(labels.shape)}.")
    if labels.dtype != torch.int64:
        raise DataError(f"{name} must be int64; got {labels.dtype}. Write {name}.long().")
    if bool((labels < 0).any()):
        raise DataError(f"{name} must be at least 0; got {int(labels.min())}.")
