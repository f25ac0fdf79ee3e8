"""How much an image reproduction does: for a look at the report, in a small budget, and in full."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FULL", "LOOK", "QUICK", "Sizes"]


@dataclass(frozen=True)
class Sizes:
    """How many of everything.

    Args:
        images: Test images that are weighed.
        samples: Importance samples for each.
        watched: Validation images that learning curves are drawn of.
        judged: Test images that the verdict is on; with none there is no verdict. From 20 on it is cheaper: a
            predictive check of fewer data draws many times as many.
        kept: Test images whose draws are kept.
        draws: Of the guide for each of these, a multiple of four.
        units: Test images on which active units are counted.
        followed: Test images whose particles are followed.
        transitions: Of Hamiltonian Monte Carlo.
        step_size: Of its leapfrog steps, in standard deviations of the guide's draws; adapted if not given.
    """

    images: int
    samples: int = 1000
    watched: int = 25
    judged: int = 20
    kept: int = 8
    draws: int = 100
    units: int = 50
    followed: int = 3
    transitions: int = 15
    step_size: float | None = None


QUICK = Sizes(images=50)
FULL = Sizes(images=1000, watched=200, kept=20, draws=2000, units=500, followed=6)

#: For trainings of a few steps.
LOOK = Sizes(
    images=4, samples=80, watched=2, judged=0, kept=2, draws=40, units=4, followed=1, transitions=2, step_size=0.1
)
