"""Report: what a reproduction found and wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Report"]


@dataclass(frozen=True)
class Report:
    """What a reproduction found and wrote.

    Args:
        name: The reproduction's name.
        folder: Where the report is; ``index.md`` in it shows all.
        tables: By name.
        files: All files.
        reached: Whether all goals are; ``None`` if there are none, or if what was done does not decide.
    """

    name: str
    folder: Path
    tables: dict[str, pd.DataFrame]
    files: tuple[Path, ...]
    reached: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, texts and lists, fit for JSON: a number that is not finite becomes ``None``."""
        return {
            "reproduction": self.name,
            "folder": str(self.folder),
            "reached": self.reached,
            "tables": {name: json.loads(table.to_json(orient="records")) for name, table in self.tables.items()},
            "files": [str(path) for path in self.files],
        }
