"""One row per number: what was measured, what it must be, and whether it is."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ppl_models.files import atomic_path

__all__ = ["COLUMNS", "NUMBERS", "Row", "keep"]

COLUMNS = ("number", "measured", "goal", "reached")

#: Where the rows of each part are kept, for the page that shows them.
NUMBERS = Path(__file__).parents[1] / "results" / "numbers"


@dataclass(frozen=True)
class Row:
    """A measured number and its goal: at most ``most``, and at least ``least``."""

    name: str
    value: float
    error: float | None = None
    most: float | None = None
    least: float | None = None

    @property
    def goal(self) -> str:
        parts = [f">= {self.least:g}"] if self.least is not None else []
        return " and ".join(parts + ([f"<= {self.most:g}"] if self.most is not None else [])) or "-"

    @property
    def reached(self) -> bool:
        below = self.most is None or self.value <= self.most
        return below and (self.least is None or self.value >= self.least)

    @property
    def measured(self) -> str:
        return f"{self.value:.4g}" + ("" if self.error is None else f" +- {self.error:.2g}")

    @property
    def cells(self) -> tuple[str, ...]:
        return self.name, self.measured, self.goal, "yes" if self.reached else "NO"


def keep(part: str, rows: Sequence[Row], folder: Path = NUMBERS) -> None:
    """Write the rows of a part, in place of those of an earlier run."""
    content = {
        "day": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores of {platform.machine()}",
        "columns": COLUMNS,
        "rows": [row.cells for row in rows],
    }
    with atomic_path(folder / f"{part}.json") as path:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
