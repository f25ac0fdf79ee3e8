"""Run a program of ``examples`` with a report that is there already."""

from __future__ import annotations

import runpy
from pathlib import Path
from unittest.mock import patch

from ppl_models import reproductions
from ppl_models.reproductions import Report

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name: str, report: Report) -> None:
    """Run ``examples/NAME.py``: what it calls, whose arguments mypy has looked at, gives it the report."""
    with patch.object(reproductions, f"reproduce_{name}", return_value=report):
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
