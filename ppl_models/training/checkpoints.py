"""Checkpoints of a training: files of ours, written whole or not at all, of the last epoch and of the best."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import CheckpointIO

from ppl_models.training.interrupts import Interrupted, Signals
from ppl_models.training.saving import read_file, write_file

if TYPE_CHECKING:
    from ppl_models.training.training_module import TrainingModule

__all__ = ["CheckpointFiles", "Checkpoints"]


class CheckpointFiles(CheckpointIO):
    """Lets Lightning's checkpoints be files of ours.

    Args:
        near: A model on whose device they are read.
    """

    def __init__(self, near: Any) -> None:
        self.near = near

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_file(path, "checkpoint", checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_file(path, "checkpoint", near=self.near)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class Checkpoints(Checkpoint):
    """Writes ``best.ckpt`` and ``last.ckpt``, and stops a training that got a signal.

    Not Lightning's ``ModelCheckpoint``: from what that writes at the last step of an epoch, Lightning 2.6 goes on one
    epoch too late, and its state is bound to the folder's path.

    Args:
        folder: Where they are written; nothing is without one.
        every: After how many steps, beside the end of each epoch.
        signals: What has come meanwhile.
    """

    def __init__(self, folder: Path | None, *, every: int | None, signals: Signals) -> None:
        self.folder, self.every, self.signals = folder, every, signals

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch:  # the end of the epoch comes at once
            return
        stopped = self._module(pl_module).stopped
        if stopped or (self.every is not None and trainer.global_step % self.every == 0):
            self._save(trainer, "last")
        if stopped:
            raise Interrupted

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = self._module(pl_module)
        if module.is_best:
            self._save(trainer, "best")
        self._save(trainer, "last")
        if module.stopped:
            raise Interrupted

    def _save(self, trainer: Trainer, name: str) -> None:
        if self.folder is not None:
            trainer.save_checkpoint(self.folder / f"{name}.ckpt")

    @staticmethod
    def _module(module: LightningModule) -> TrainingModule:
        return module  # type: ignore[return-value]
