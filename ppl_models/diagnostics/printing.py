"""Plain text of what Rich prints."""

from __future__ import annotations

from io import StringIO
from typing import Any

__all__ = ["as_text"]


def as_text(renderable: Any) -> str:
    """Print for Rich into a text, 120 characters wide and without colours."""
    from rich.console import Console

    console = Console(file=StringIO(), width=120, no_color=True, markup=False, highlight=False, emoji=False)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get().rstrip()
