"""The study's methods: how each makes its guide, from the study's fixed base and from a learned one, and is fitted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from guides import Guide, HamiltonianGuide, IAFGuide, MeanFieldGuide, PlanarGuide
from ppl_models.gaussian import GaussianSummary, OffsetGaussian
from ppl_models.reproductions.gaussian.closed_forms import planar_gap, volume_gap

__all__ = ["LEARNED", "METHODS", "ROUNDS", "SETTINGS", "STANDARD", "Method", "Round"]

#: With the study's base and latent: N(0, I), not learned, for z. And with a learned base, whitened, for z + Delta.
STANDARD, LEARNED = SETTINGS = ("as published", "put right")


@dataclass(frozen=True)
class Round:
    """A fit of model and guide with Adam, whose rate falls to zero along a cosine.

    Args:
        steps: How many.
        lr: The initial learning rate. Offsets, whose range grows with d, have max(1, d / 100) times as much.
    """

    steps: int
    lr: float


#: How all methods are fitted, by setting. Before each round the guide is made anew, and with a learned base the latent
#: is whitened where the model is then: in the units of a start far off, trajectories blow up and flows learn what does
#: not last.
ROUNDS = {
    STANDARD: (Round(1000, 0.05),),
    LEARNED: (Round(200, 0.1), Round(200, 0.03), Round(200, 0.01), Round(300, 1e-3)),
}


@dataclass(frozen=True)
class Method:
    """One row of the study's tables.

    Args:
        name: As the study's tables call it.
        guide: The class of the guide.
        options: Of the guide.
        standard: Further ones, with the study's base.
        hidden: Whether the guide has a hidden layer, of d + 100 units as the study's.
    """

    name: str
    guide: Callable[..., Guide]
    options: dict[str, Any] = field(default_factory=dict)
    standard: dict[str, Any] = field(default_factory=dict)
    hidden: bool = False

    def start(self, setting: str, dim: int) -> OffsetGaussian:
        """Make the model where the study started it: offsets 0, log scales 3; in float64."""
        return OffsetGaussian(dim, scale=math.exp(3.0), centred=setting == LEARNED).double()

    def make(self, setting: str, model: OffsetGaussian, data: GaussianSummary) -> Guide:
        """Make the guide, and set it up."""
        options = self.options | ({"hidden": (model.dim + 100,)} if self.hidden else {})
        if setting == LEARNED:
            return self.guide(model, **options).setup(data, init="laplace")
        options |= self.standard
        if self.guide is MeanFieldGuide:
            return self.guide(model, **options).setup(data)
        base = MeanFieldGuide(model, init_scale=1.0).setup(data).requires_grad_(False)
        return self.guide(model, base=base, **options).setup(data)

    def least_gap(self, setting: str, model: OffsetGaussian, count: int) -> float:
        """The gap, in nats, that no fit can be below."""
        if setting == LEARNED or self.guide in (IAFGuide, MeanFieldGuide):
            return 0.0
        scale = model.scale.detach()
        if self.guide is HamiltonianGuide:
            return volume_gap(scale, count)
        return planar_gap(scale, count, layers=self.options["num_layers"])


# The study's first steps, 0.005, are unstable for ten of them by the time the scales are small: the narrowest posterior
# scale is 0.001. In whitened units the first round ends with scales of 0.005.
_TEMPERED = {"init_step_size": 1e-3, "init_temperature": 5.0}
_UNTEMPERED = {"tempering": "none", "init_step_size": 2e-4}

#: By name, in the study's order.
METHODS: dict[str, Method] = {
    each.name: each
    for each in (
        Method("HVAE K=1", HamiltonianGuide, {"num_steps": 1, **_TEMPERED}),
        Method("HVAE K=10", HamiltonianGuide, {"num_steps": 10, **_TEMPERED}),
        Method("IAF", IAFGuide, {"num_layers": 1}, hidden=True),
        Method("planar K=1", PlanarGuide, {"num_layers": 1}),
        Method("planar K=30", PlanarGuide, {"num_layers": 30}),
        Method("mean-field VB", MeanFieldGuide, standard={"init_scale": math.e}),
        Method("HVAE K=1, no tempering", HamiltonianGuide, {"num_steps": 1, **_UNTEMPERED}),
        Method("HVAE K=10, no tempering", HamiltonianGuide, {"num_steps": 10, **_UNTEMPERED}),
    )
}
