"""What a fit, or a training on loaders, did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

__all__ = ["FitResult", "TrainResult"]


@dataclass
class FitResult:
    """What a fit did.

    Args:
        steps: Number of optimizer steps done, those that were skipped included.
        skipped: How many of them were skipped because the loss or gradient was not finite.
        seconds: Wall-clock time, compiling included.
        compile_seconds: Time spent on compiling.
        converged: Whether the rule given as ``stop`` found the loss flat; ``False`` without one.
        averaged: Over how many of the last steps the parameters are averaged; 0 without ``average``.
        num_parameters: Number of trained numbers, model and guide together.
        records: One dictionary per step; see :attr:`history`.
    """

    steps: int = 0
    skipped: int = 0
    converged: bool = False
    averaged: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    num_parameters: int = 0
    records: list[dict[str, Any]] = field(default_factory=list, repr=False)

    @property
    def history(self) -> pd.DataFrame:
        """A tidy table, one row per step.

        Columns: ``step``, ``epoch``, ``loss`` (minus the bound in nats, for all data), ``validation_loss`` (NaN where
        it was not evaluated), ``gradient_norm`` (before clipping), ``learning_rate``, ``skipped``, ``seconds`` (since
        the start), and then the parts of the loss that the objective tells of.
        """
        import pandas as pd

        return pd.DataFrame.from_records(self.records)


@dataclass
class TrainResult:
    """What a training on loaders did, from its first epoch on, whether it was interrupted or not.

    Args:
        epochs: Number of epochs done.
        steps: Number of optimizer steps done, those that were skipped included.
        skipped: How many of them were skipped because the loss or gradient was not finite.
        seconds: Wall-clock time, validation, compiling and checkpoints included.
        compile_seconds: Time spent on compiling.
        stopped_early: Whether the validation loss stopped falling.
        best_epoch: The epoch with the smallest validation loss; ``None`` without validation.
        num_data: N, the number of training data, by which losses may be divided.
        num_validation_data: The number of validation data; 0 without.
        num_parameters: Number of trained numbers, model and guide together.
        last: The checkpoint of the last epoch; ``None`` without a folder.
        best: The checkpoint of the best epoch; ``None`` without a folder or validation.
        records: One dictionary per epoch; see :attr:`history`.
    """

    epochs: int = 0
    steps: int = 0
    skipped: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    stopped_early: bool = False
    best_epoch: int | None = None
    num_data: int = 0
    num_validation_data: int = 0
    num_parameters: int = 0
    last: Path | None = None
    best: Path | None = None
    records: list[dict[str, Any]] = field(default_factory=list, repr=False)

    @property
    def history(self) -> pd.DataFrame:
        """A tidy table, one row per epoch.

        Columns: ``epoch``, ``step`` (optimizer steps done), ``loss`` (minus the bound in nats, for all data, averaged
        over the epoch's steps), ``validation_loss`` (for all validation data; NaN without), ``gradient_norm`` (mean,
        before clipping), ``learning_rate`` (of the epoch's last step), ``skipped`` (in this epoch), ``seconds`` (since
        the start), and then the parts of the loss that the objective tells of.
        """
        import pandas as pd

        return pd.DataFrame.from_records(self.records)
