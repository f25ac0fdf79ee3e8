"""BatchedData: whatever is trained on, as Lightning takes it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor

from guides.errors import OptionError
from ppl_models.training.batches import Transform
from ppl_models.training.loaders import InMemory, Loaded, Resumable, Source, Unpack

__all__ = ["BatchedData"]

#: Rows of tensors in a batch, unless told otherwise.
BATCH_SIZE = 128


class BatchedData(LightningDataModule):
    """Make resumable batches of tensors, loaders, or another data module; see :func:`ppl_models.training.train`.

    Args:
        data: What to train on.
        validation: What to validate on.
        batch_size: For tensors.
        transform: For tensors.
        unpack: For loaders.
        num_data: For loaders.
        num_batches: For loaders without a length.
        num_validation_data: For loaders.
        seed: Fixes the order, with the epoch.
        must_validate: Whether training cannot do without a validation.

    Raises:
        OptionError: If options do not fit the kind of data.
    """

    train_source: Source
    validation_source: Source | None

    def __init__(
        self,
        data: Any,
        validation: Any,
        *,
        batch_size: int | None,
        transform: Transform | None,
        unpack: Unpack | None,
        num_data: int | None,
        num_batches: int | None,
        num_validation_data: int | None,
        seed: int,
        must_validate: bool,
    ) -> None:
        super().__init__()
        self.module = data if isinstance(data, LightningDataModule) else None
        self.data, self.validation = data, validation
        self.batch_size, self.transform, self.unpack = batch_size or BATCH_SIZE, transform, unpack
        self.num_data, self.num_batches, self.num_validation_data = num_data, num_batches, num_validation_data
        self.seed, self.must_validate = seed, must_validate
        kind = type(data).__name__
        if _in_memory(data):
            given: dict[str, object] = {"unpack": unpack, "num_data": num_data, "num_batches": num_batches}
            instead = "Cut it from the tensors."
        else:
            given = {"transform": transform} | ({} if _in_memory(validation) else {"batch_size": batch_size})
            instead = "Say it to the loader, or to its dataset."
        for name, value in given.items():
            if value is not None:
                raise OptionError(f"{name} must not be given with data of this kind; got it with {kind}. {instead}")
        if self.module is None:
            return
        if validation is not None:
            raise OptionError("validation must not be given with a data module, which brings its own.")
        for hook in ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"):
            if is_overridden(hook, self.module, LightningDataModule):
                raise OptionError(
                    f"data must be a data module without {hook}, which would not be called; got "
                    f"{type(self.module).__name__}. Do the same in its dataset, or in unpack=."
                )

    def prepare_data(self) -> None:
        if self.module is not None:
            self.module.prepare_data()

    def setup(self, stage: str) -> None:
        data, validation = self.data, self.validation
        if self.module is not None:
            self.module.trainer = self.trainer
            self.module.setup(stage)
            data = self.module.train_dataloader()
            validation = self.module.val_dataloader() if is_overridden("val_dataloader", self.module) else None
            if isinstance(validation, list | tuple) and len(validation) == 1:
                validation = validation[0]
        self.train_source = self._source(data, self.num_data, training=True)
        nothing = validation is None or (isinstance(validation, list | tuple) and not validation)
        self.validation_source = None if nothing else self._source(validation, self.num_validation_data, training=False)
        if nothing:
            if self.must_validate:
                raise OptionError("patience needs validation data; got none. Write validation=x.")
            self._running.limit_val_batches = 0

    def train_dataloader(self) -> Resumable:
        self.batches = Resumable(self.train_source, seed=self.seed, epoch=self._epoch, place=self._place)
        return self.batches

    def val_dataloader(self) -> Any:
        source = self.validation_source
        return [] if source is None else Resumable(source, seed=self.seed, epoch=lambda: -1, place=self._place)

    def teardown(self, stage: str) -> None:
        if self.module is not None:
            self.module.teardown(stage)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.module is None else self.module.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.module is not None:
            self.module.load_state_dict(state_dict)

    def first_batch(self) -> tuple[Any, ...]:
        """A batch to find the model's latents and parameters by."""
        return next(self.train_source.epoch(0, self.seed, 0, 1))

    def _source(self, data: Any, num_data: int | None, *, training: bool) -> Source:
        if _in_memory(data):
            args = data if isinstance(data, tuple) else (data,)
            size = min(self.batch_size, max(len(a) if a.dim() else 1 for a in args if isinstance(a, Tensor)))
            return InMemory(args, batch_size=size, transform=self.transform if training else None, shuffle=training)
        if not isinstance(data, Iterable):
            raise TypeError(f"data must be tensors, a loader or a data module; got {type(data).__name__}.")
        num_batches = self.num_batches if training else None
        return Loaded(data, num_data=num_data, num_batches=num_batches, unpack=self.unpack)

    def _epoch(self) -> int:
        return self._running.current_epoch

    def _place(self) -> tuple[int, int]:
        return self._running.global_rank, self._running.world_size

    @property
    def _running(self) -> Any:
        return self.trainer


def _in_memory(data: Any) -> bool:
    return isinstance(data, Tensor) or (isinstance(data, tuple) and any(isinstance(part, Tensor) for part in data))
