"""The handwritten digits that come with scikit-learn."""

from __future__ import annotations

import torch

from ppl_models.datasets.binarise import binarise
from ppl_models.datasets.image_data import ImageData
from ppl_models.seeds import seeded_generator

__all__ = ["digits"]

_WHITE = 16  # each pixel counts the inked dots in a 4 x 4 block
_SIZES = [1257, 180, 360]  # about 70, 10 and 20 per cent of 1,797


def digits(*, seed: int = 0, binary: bool = True) -> ImageData:
    """Load 1,797 real handwritten digits, 8 x 8 pixels, without a download.

    Shapes: ``train`` (1257, 1, 8, 8) grey, ``validation`` (180, 1, 8, 8) and ``test`` (360, 1, 8, 8) binary; float32.

    Args:
        seed: Decides who goes into which part, and how validation and test images are binarised.
        binary: Whether validation and test images are binarised. With ``False`` all images stay grey, with the values
            0, 1/16, ..., 1, as likelihoods of grey levels and ``FlowDensity.images(levels=17)`` need them.

    Raises:
        OptionError: If ``seed`` is not a whole number of at least 0.

    Example:
        >>> digits().train.shape
        torch.Size([1257, 1, 8, 8])

    References:
        Alpaydin and Kaynak, "Optical recognition of handwritten digits", 1998, https://doi.org/10.24432/C50P49. Its
        test set, as scikit-learn bundles it; the split into three is ours.
    """
    generator = seeded_generator(seed)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.float32).div(_WHITE).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    train, validation, test = torch.split(torch.randperm(len(images), generator=generator), _SIZES)
    return ImageData(
        name="digits",
        train=images[train],
        validation=binarise(images[validation], generator) if binary else images[validation],
        test=binarise(images[test], generator) if binary else images[test],
        train_labels=labels[train],
        validation_labels=labels[validation],
        test_labels=labels[test],
        grey_levels=_WHITE + 1,
        binary=binary,
    )
