"""What a fit did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FitResult"]


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
