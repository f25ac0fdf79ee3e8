"""Run a program of ``examples`` with a report that is there already."""

from __future__ import annotations

import inspect
import runpy
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ppl_models import reproductions
from ppl_models.reproductions import Report

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name: str, report: Report) -> None:
    """Run ``examples/NAME.py``: what it calls must take the call, and gives it the report."""
    function = f"reproduce_{name}"
    signature = inspect.signature(getattr(reproductions, function))

    def made(*args: Any, **kwargs: Any) -> Report:
        signature.bind(*args, **kwargs)
        return report

    with patch.object(reproductions, function, made):
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
