"""The ten toy sets of the FFJORD study, by name, with their exact entropies."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from guides.errors import choose
from ppl_models.datasets.toy.checkerboard import Checkerboard
from ppl_models.datasets.toy.circles import NoisyCircles
from ppl_models.datasets.toy.curves import NoisyCurve
from ppl_models.datasets.toy.density import ToyDensity
from ppl_models.datasets.toy.gaussians import GaussianRing
from ppl_models.datasets.toy.graph import FunctionGraph
from ppl_models.datasets.toy.pinwheel import Pinwheel

__all__ = ["ENTROPIES", "TOY_DENSITIES", "toy"]

#: Differential entropies in nats, to all digits shown. Of the seven smooth ones, -p log p was summed over a square grid
#: (for pinwheel, -log p over the normal numbers of one arm) and the grid refined until eight digits stood still.
ENTROPIES: dict[str, float] = {
    "8gaussians": 2.831880,
    "swissroll": 2.669646,
    "circles": 3.268136,
    "rings": 2.623183,
    "moons": 2.393879,
    "pinwheel": 2.317788,
    "2spirals": 2.645450,
    "checkerboard": math.log(32),
    "line": -math.inf,
    "cos": -math.inf,
}


def _swissroll(s: Tensor) -> Tensor:
    t = 1.5 * math.pi * (1 + 2 * s)
    return torch.stack([t * t.cos(), t * t.sin()], -1) / 5


def _upper_moon(s: Tensor) -> Tensor:
    angle = math.pi * s
    return torch.stack([2 * angle.cos() - 1, 2 * angle.sin() - 0.2], -1)


def _spiral(s: Tensor) -> Tensor:
    n = 3 * math.pi * s
    return torch.stack([0.25 - n * n.cos(), 0.25 + n * n.sin()], -1) / 3


# 1.414 in place of the root of 2 is the original's.
_ALL: tuple[ToyDensity, ...] = (
    GaussianRing("8gaussians", ENTROPIES["8gaussians"], components=8, radius=4 / 1.414, noise=0.5 / 1.414),
    NoisyCurve("swissroll", ENTROPIES["swissroll"], curve=_swissroll, noise=0.2, nodes=192),
    NoisyCircles("circles", ENTROPIES["circles"], radii=(3.0, 1.5), noise=0.24),
    NoisyCircles("rings", ENTROPIES["rings"], radii=(3.0, 2.25, 1.5, 0.75), noise=0.08),
    NoisyCurve("moons", ENTROPIES["moons"], curve=_upper_moon, noise=0.2, nodes=64, mirror=(0.0, 0.3)),
    Pinwheel("pinwheel", ENTROPIES["pinwheel"]),
    NoisyCurve(
        "2spirals",
        ENTROPIES["2spirals"],
        curve=_spiral,
        noise=0.1,
        nodes=384,
        exponent=2,
        square=1 / 6,
        mirror=(0.0, 0.0),
    ),
    Checkerboard("checkerboard", ENTROPIES["checkerboard"]),
    FunctionGraph("line", ENTROPIES["line"], function=torch.clone),
    FunctionGraph("cos", ENTROPIES["cos"], function=lambda x: 2.5 * x.sin()),
)

#: Every toy set's law by its name.
TOY_DENSITIES: dict[str, ToyDensity] = {density.name: density for density in _ALL}


def toy(name: str, num: int, *, seed: int = 0) -> Tensor:
    """Draw ``num`` points of the toy set called ``name``.

    They are independent, and so a likelihood of them is a product and its standard errors hold. (In the original some
    sets have equal numbers of points in each class and equal angles between them: exchangeable points, not independent
    ones.) ``TOY_DENSITIES[name]`` has their entropy and, but for ``line`` and ``cos``, their log density. The points of
    those two lie on a curve, their entropy is minus infinity, and so no likelihood of them ranks models.

    Shapes: ``(num, 2)``, float32.

    Args:
        name: One of the names in ``TOY_DENSITIES``.
        num: How many points.
        seed: Where the generator starts, which is the points' own.

    Raises:
        OptionError: If there is no such set, or ``num`` or ``seed`` is not a whole number of at least 0.

    Example:
        >>> points = toy("8gaussians", 1000)
        >>> points.shape
        torch.Size([1000, 2])
        >>> density = TOY_DENSITIES["8gaussians"]
        >>> density
        GaussianRing('8gaussians', entropy=2.83188)
        >>> bool((-density.log_prob(points).mean() - density.entropy).abs() < 0.1)
        True

    References:
        Grathwohl, Chen, Bettencourt, Sutskever and Duvenaud, "FFJORD: Free-form continuous dynamics for scalable
        reversible generative models", 2019, https://arxiv.org/abs/1810.01367, section 4.1.
    """
    return TOY_DENSITIES[choose("toy set", name, TOY_DENSITIES)].sample(num, seed=seed)
