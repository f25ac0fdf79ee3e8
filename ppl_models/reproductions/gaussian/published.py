"""The numbers that the Gaussian study published, as data."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DIMS", "METHODS", "Published", "published"]

#: The study's dimensions.
DIMS = (25, 50, 100, 200, 300, 400)

#: Its methods, in the order of its tables.
METHODS = (
    "HVAE K=1",
    "HVAE K=10",
    "IAF",
    "planar K=1",
    "planar K=30",
    "mean-field VB",
    "HVAE K=1, no tempering",
    "HVAE K=10, no tempering",
)

#: By quantity and dimension, a number for each method: squared errors, means over three data sets. At d = 400 nothing
#: was published of the untempered runs.
_TABLES: dict[str, dict[int, tuple[float, ...]]] = {
    "theta": {
        25: (22.3, 22.2, 23.2, 37.2, 37.3, 17.3, 26.1, 34.8),
        50: (51.3, 51.2, 52.0, 81.8, 81.9, 43.8, 59.1, 76.4),
        100: (101.3, 101.4, 108.3, 163.5, 163.2, 112.3, 117.5, 152.5),
        200: (196.8, 196.7, 219.0, 322.5, 322.3, 270.1, 228.6, 298.8),
        300: (331.3, 331.7, 283.3, 558.2, 520.3, 679.9, 379.5, 485.5),
        400: (390.2, 390.5, 394.3, 641.7, 641.8, 926.5),
    },
    "Delta": {
        25: (22.25, 22.17, 22.04, 22.26, 22.33, 17.34, 22.22, 22.20),
        50: (51.26, 51.11, 49.88, 51.20, 51.18, 43.77, 51.13, 51.00),
        100: (101.17, 101.26, 104.14, 101.13, 101.18, 112.27, 101.36, 101.33),
        200: (196.49, 196.37, 210.80, 196.64, 196.85, 270.12, 196.33, 196.18),
        300: (330.77, 331.28, 271.07, 335.35, 331.42, 679.85, 330.98, 331.48),
        400: (389.56, 389.85, 378.02, 389.61, 389.32, 926.50),
    },
    "Sigma": {
        25: (0.0403, 0.0383, 1.142, 14.97, 14.97, 3.2e-4, 3.913, 12.58),
        50: (0.0830, 0.0773, 2.160, 30.64, 30.74, 7.5e-4, 7.995, 25.35),
        100: (0.1667, 0.1540, 4.182, 62.38, 62.07, 1.5e-3, 16.11, 51.15),
        200: (0.3349, 0.3078, 8.182, 125.86, 125.42, 2.9e-3, 32.28, 102.62),
        300: (0.5005, 0.4502, 12.21, 222.84, 188.87, 3.9e-3, 48.56, 154.00),
        400: (0.6071, 0.6056, 16.33, 252.11, 252.44, 5.3e-3),
    },
}


@dataclass(frozen=True)
class Published:
    """A cell of the study's tables.

    Args:
        dim: d.
        method: One of :data:`METHODS`.
        quantity: ``"theta"``, ``"Delta"`` or ``"Sigma"``: the squared error of both, of the offsets and of the scales.
        value: The mean over three data sets.
    """

    dim: int
    method: str
    quantity: str
    value: float


def published() -> list[Published]:
    """List all cells.

    Example:
        >>> [cell.value for cell in published() if (cell.dim, cell.method) == (25, "IAF")]
        [23.2, 22.04, 1.142]
    """
    return [
        Published(dim, method, quantity, value)
        for dim in DIMS
        for i, method in enumerate(METHODS)
        for quantity, rows in _TABLES.items()
        for value in rows[dim][i : i + 1]
    ]
