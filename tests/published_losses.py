"""Losses that the published convergence study left behind, where they lie beside the checkout."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["PUBLISHED_LOSSES", "published_losses"]

PUBLISHED_LOSSES = Path(__file__).parents[2] / "shared" / "data" / "published_losses"


def published_losses(name: str) -> list[list[float]]:
    """Validation losses of ten runs, as they were published: minus the bound of the flows, the bound of the others."""
    return json.loads((PUBLISHED_LOSSES / f"{name}_10.json").read_text(encoding="utf-8"))["val"]
