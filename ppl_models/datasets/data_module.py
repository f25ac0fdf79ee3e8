"""A dataset as Lightning wants it. Only who asks for it pays for Lightning's import."""

from __future__ import annotations

from typing import final

from pytorch_lightning import LightningDataModule

from guides.errors import OptionError
from ppl_models.datasets.batches import Batches
from ppl_models.datasets.binarise import binarise
from ppl_models.datasets.image_data import ImageData
from ppl_models.datasets.registry import load
from ppl_models.datasets.toy_data import ToyData
from ppl_models.seeds import derived_seed, seeded_generator

__all__ = ["DataModule"]


@final
class DataModule(LightningDataModule):
    """Give Lightning's trainer the three parts of a dataset in batches, each one tensor.

    Grey training images are binarised anew in every epoch. Their order and their binarisation are functions of the
    seed and the epoch, whatever ran before, so a run that is resumed, in the middle of an epoch too, sees what it would
    have seen. Validation and test images are binary, the same in every epoch, in the same order. Images that are loaded
    with ``binary=False`` stay grey in all parts: ``DataModule(load("mnist", binary=False))``.

    Shapes: batches (batch_size, 1, H, W) of images, (batch_size, 2) of points; float32.

    Args:
        data: A loaded dataset, or the name of one, which is then loaded with its own seed 0 and no other option. Runs
            that differ in ``seed`` alone learn from the same split.
        batch_size: How many images or points are in a batch.
        seed: Decides the order and the binarisation of the training images.
        static_seed: Binarise the training images once, by this seed, in place of anew in every epoch. Only for images
            that are to be binary.
        drop_last: Leave out the last training batch of an epoch if it is shorter than the others.

    Raises:
        OptionError: If there is no dataset of that name, or another option breaks its rule.
        DataError: If the dataset cannot be loaded.

    Example:
        >>> data = DataModule("digits", batch_size=100, seed=1)
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch.shape, batch.unique().tolist()
        (torch.Size([100, 1, 8, 8]), [0.0, 1.0])
        >>> len(data.train_dataloader()), len(data.val_dataloader()), len(data.test_dataloader())
        (13, 2, 4)
    """

    def __init__(
        self,
        data: str | ImageData | ToyData,
        *,
        batch_size: int = 128,
        seed: int = 0,
        static_seed: int | None = None,
        drop_last: bool = False,
    ) -> None:
        super().__init__()
        self.data = load(data) if isinstance(data, str) else data
        binary = isinstance(self.data, ImageData) and self.data.binary
        if static_seed is not None and not binary:
            raise OptionError(
                f"static_seed is only for images that are to be binary; got {static_seed!r} with {self.data!r}."
            )
        train = self.data.train
        if static_seed is not None:
            train = binarise(train, seeded_generator(derived_seed(static_seed, "train")))
        self._train = Batches(
            train, batch_size=batch_size, seed=seed, dynamic=binary and static_seed is None, drop_last=drop_last
        )
        self._validation = Batches(self.data.validation, batch_size=batch_size)
        self._test = Batches(self.data.test, batch_size=batch_size)

    def train_dataloader(self) -> Batches:
        return self._train

    def val_dataloader(self) -> Batches:
        return self._validation

    def test_dataloader(self) -> Batches:
        return self._test

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.data!r})"
