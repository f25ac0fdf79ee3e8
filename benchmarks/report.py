"""One row per number: what was measured, what it must be, and whether it is."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Row"]


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
