"""The benchmark's two-dimensional targets: normalisers found in two ways, and models that are their densities."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from benchmarks import targets
from benchmarks.targets import TARGETS, LogDensity, log_integral
from guides import LatentSpace

DENSITIES: dict[str, LogDensity] = {name: getattr(targets, name.replace(" ", "_")) for name in TARGETS}


def polar(log_density: LogDensity) -> LogDensity:
    def transformed(u: Tensor) -> Tensor:
        radius, angle = u.unbind(-1)
        return log_density(radius[:, None] * torch.stack([angle.cos(), angle.sin()], -1)) + radius.log()

    return transformed


def sheared(log_density: LogDensity) -> LogDensity:
    """In units of z2 that grow with z1 as the funnel's do, though not as fast."""

    def transformed(u: Tensor) -> Tensor:
        first, second = u.unbind(-1)
        return log_density(torch.stack([first, second * (first / 3).exp()], -1)) + first / 3

    return transformed


@pytest.mark.parametrize(
    ("name", "log_density", "limits", "num"),
    [
        ("banana", targets.banana, ((-18, 18), (-8, 90)), 1000),
        ("ring", targets.ring, ((-6, 6), (-6, 6)), 1000),
        ("ring", polar(targets.ring), ((0, 6), (-math.pi, math.pi)), 1000),
        ("two moons", targets.two_moons, ((-7, 7), (-7, 7)), 900),
        ("two moons", polar(targets.two_moons), ((0, 6), (-math.pi, math.pi)), 1000),
        ("funnel", sheared(targets.funnel), ((-10, 10), (-32, 32)), 1000),
    ],
)
def test_normaliser_equals_a_quadrature_in_other_coordinates(name, log_density, limits, num):
    assert log_integral(log_density, *limits, num=num) == pytest.approx(TARGETS[name].log_evidence, abs=1e-8)


@pytest.mark.parametrize("name", TARGETS)
def test_model_is_the_density(name):
    z = 3 * torch.randn(7, 2)
    torch.testing.assert_close(LatentSpace(TARGETS[name].model).log_joint(z), DENSITIES[name](z))


def test_quadrature_of_a_normal():
    log_density = torch.distributions.Normal(0.3, torch.tensor([0.5, 2.0])).log_prob
    assert log_integral(lambda z: log_density(z).sum(-1), (-5, 6), (-16, 16)) == pytest.approx(0.0, abs=1e-12)
