"""The toy sets: points against densities, densities against their integrals, entropies to the last digit."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from guides.errors import DataError, OptionError
from ppl_models.datasets import TOY_DENSITIES, ToyData, ToyDensity, toy, toy_data
from ppl_models.datasets.toy import ENTROPIES
from ppl_models.datasets.toy.curves import NoisyCurve
from ppl_models.datasets.toy.rows import logsumexp_by_row

#: How fine the square grid must be for six digits of the entropy: about half the noise.
GRIDS = {"8gaussians": 0.2, "swissroll": 0.07, "circles": 0.1, "rings": 0.06, "moons": 0.07, "2spirals": 0.07}
REACH = 5.0  # no density has 1e-9 of its mass outside [-5, 5]²; the grids' sums would show it
SCORED = [name for name, density in TOY_DENSITIES.items() if density.has_density]

#: Means of x and y, variances of x and y, covariance. In closed form where the fractions and roots say so; the
#: published study's table has the same to its sampling error.
SWISSROLL = (0.4, 0.042441, 1.794573, 1.972772, 0.171519)
MOMENTS = {
    "8gaussians": (0.0, 0.0, 8.25 / 1.414**2, 8.25 / 1.414**2, 0.0),
    "swissroll": SWISSROLL,
    "circles": (0.0, 0.0, (9 + 2.25) / 4 + 0.24**2, (9 + 2.25) / 4 + 0.24**2, 0.0),
    "rings": (0.0, 0.0, 0.75**2 * 30 / 8 + 0.08**2, 0.75**2 * 30 / 8 + 0.08**2, 0.0),
    "moons": (0.0, 0.3, 3.04, 1.016760, 0.5 - 4 / math.pi),
    "pinwheel": (0.0, 0.0, 2.2, 2.2, 0.0),
    "2spirals": (0.0, 0.0, 2.593572, 2.509435, 0.586544),
    "checkerboard": (0.0, 0.0, 16 / 3, 16 / 3, 1.0),
    "line": (0.0, 0.0, 25 / 12, 25 / 12, 25 / 12),
    "cos": (0.0, 0.0, 25 / 12, 6.25 * (0.5 - math.sin(5) / 10), math.sin(2.5) - 2.5 * math.cos(2.5)),
}


def square_grid(step: float, reach: float = REACH) -> tuple[Tensor, float]:
    """Return the centres of square cells that fill [-reach, reach]², and the area of one."""
    num = math.ceil(2 * reach / step)
    side = 2 * reach / num
    centres = -reach + side * (torch.arange(num) + 0.5)
    return torch.cartesian_prod(centres, centres), side**2


def moments(points: Tensor, weights: Tensor) -> list[float]:
    mean = weights @ points
    (var_x, covariance), (_, var_y) = ((weights[:, None] * points).T @ points - mean.outer(mean)).tolist()
    return [*mean.tolist(), var_x, var_y, covariance]


# ---------------------------------------------------------------------------------------------- densities and entropies


@pytest.mark.parametrize("name", GRIDS)
def test_a_density_has_mass_one_the_stated_entropy_and_the_stated_moments(name):
    density = TOY_DENSITIES[name]
    points, area = square_grid(GRIDS[name])
    log_p = density.log_prob(points)
    weights = log_p.exp() * area
    # Sums over a grid of cells no wider than the noise are as good as integrals.
    assert weights.sum().item() == pytest.approx(1, abs=1e-9)
    assert -(weights @ log_p).item() == pytest.approx(ENTROPIES[name], abs=6e-7)
    assert moments(points, weights) == pytest.approx(MOMENTS[name], abs=1e-6)


def test_the_entropy_of_the_pinwheel():
    # Over the normal numbers of one arm the integrand is smooth; over the plane it has edges.
    side = torch.arange(-7.0, 7.0, 0.15)
    noise = torch.cartesian_prod(side, side)
    weights = (-0.5 * noise.square().sum(-1)).exp()
    along, across = 1 + 0.3 * noise[:, 0], 0.1 * noise[:, 1]
    angle = 2 * math.pi * 3 / 5 + 0.25 * along.exp()
    x = 2 * (along * angle.cos() + across * angle.sin())
    y = 2 * (-along * angle.sin() + across * angle.cos())
    log_p = TOY_DENSITIES["pinwheel"].log_prob(torch.stack([x, y], -1))
    assert -(weights @ log_p / weights.sum()).item() == pytest.approx(ENTROPIES["pinwheel"], abs=6e-7)


def test_the_pinwheel_has_mass_one():
    points, area = square_grid(0.1)
    weights = TOY_DENSITIES["pinwheel"].log_prob(points).exp() * area
    # The cells are as wide as half the noise across an arm, and an arm is bent.
    assert weights.sum().item() == pytest.approx(1, abs=2e-5)
    assert moments(points, weights) == pytest.approx(MOMENTS["pinwheel"], abs=1e-4)


def test_the_pinwheel_counts_every_way_to_a_point():
    """Where g falls between two folds, more angles lead to a point; an independent search finds the same ones."""
    density = TOY_DENSITIES["pinwheel"]
    radius = 3.0
    g = torch.linspace(-math.pi, math.pi, 200_001)
    turned = g - 0.25 * (radius * g.cos()).exp()
    slope = 1 + 0.25 * radius * g.sin() * (radius * g.cos()).exp()
    folds = turned[1:][slope[1:].sign() != slope[:-1].sign()]
    assert len(folds) == 2
    lowest = folds[1].item()  # just above it two angles more lead to a point than below it, and their terms are large
    for direction in (lowest + 0.002, lowest - 0.002, 0.5, 3.0):
        crossed = torch.tensor([direction]) + 2 * math.pi / 5 * torch.arange(-8, 9)[:, None]
        at = ((turned[1:] - crossed).sign() != (turned[:-1] - crossed).sign()).nonzero()[:, 1]
        along, across = radius * g[at].cos(), radius * g[at].sin()
        log_normal = -0.5 * (((along - 1) / 0.3).square() + (across / 0.1).square()) - math.log(2 * math.pi * 0.03)
        expected = (log_normal - slope[at].abs().log()).logsumexp(0) - math.log(20)
        point = 2 * radius * torch.tensor([math.cos(direction), math.sin(direction)])
        # The search is as fine as its grid, 3e-5; beside a fold the slope, 0.24, changes by 45 per unit of the angle.
        assert density.log_prob(point).item() == pytest.approx(expected.item(), abs=2e-2)


def test_the_checkerboard_is_flat_on_its_dark_squares():
    density = TOY_DENSITIES["checkerboard"]
    points, area = square_grid(0.5)
    log_p = density.log_prob(points)
    assert set(log_p.tolist()) == {-math.log(32), -math.inf}
    assert density.entropy == math.log(32)
    assert log_p.exp().sum().item() * area == pytest.approx(1, abs=1e-12)
    assert density.log_prob(torch.tensor([0.5, 0.5])) > density.log_prob(torch.tensor([-0.5, 0.5]))


@pytest.mark.parametrize("name", ["line", "cos"])
def test_points_on_a_curve_have_no_density(name):
    density = TOY_DENSITIES[name]
    assert density.entropy == -math.inf
    assert not density.has_density
    with pytest.raises(
        OptionError, match=rf"'{name}' has no density in the plane, .* Choose another set, or add noise"
    ):
        density.log_prob(torch.zeros(2))
    x, y = density.sample(1000).T
    assert torch.equal(y, x if name == "line" else 2.5 * x.sin())
    assert ((x > -2.5) & (x < 2.5)).all()


@pytest.mark.parametrize("name", SCORED)
def test_the_gradient_of_a_log_density_is_that_of_central_differences(name):
    density, step = TOY_DENSITIES[name], 1e-5
    points = torch.cat([density.sample(20, seed=3).double(), torch.tensor([[0.1, -0.2], [0.0, 0.0], [4.0, -4.1]])])
    points.requires_grad_()
    log_p = density.log_prob(points)
    (gradient,) = torch.autograd.grad(log_p[log_p.isfinite()].sum(), points)
    for axis in (0, 1):
        shift = step * torch.eye(2)[axis]
        with torch.no_grad():
            difference = (density.log_prob(points + shift) - density.log_prob(points - shift)) / (2 * step)
        inside = difference.isfinite()
        # Third derivatives are of the order of 1 / noise³ = 2e3; times step²/6, and the rounding of log p over step.
        assert torch.allclose(gradient[inside, axis], difference[inside], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", ["swissroll", "moons", "2spirals"])
def test_a_quadrature_along_a_curve_is_fine_enough(name):
    density = TOY_DENSITIES[name]
    assert isinstance(density, NoisyCurve)
    finer = NoisyCurve(
        name,
        density.entropy,
        curve=density._curve,
        noise=density._noise,
        nodes=2 * density._nodes,
        exponent=density._exponent,
        square=density._square,
        mirror=density._mirror,
    )
    points, _ = square_grid(0.37)
    log_p, finer_log_p = density.log_prob(points), finer.log_prob(points)
    assert torch.allclose(log_p.exp(), finer_log_p.exp(), rtol=0, atol=1e-12)
    errors = (log_p - finer_log_p).abs()
    assert errors[log_p > -100].max() < 1e-5
    assert errors.max() < 1e-3


# --------------------------------------------------------------------------------------------------------------- points


@pytest.mark.parametrize("name", TOY_DENSITIES)
def test_points_have_the_moments_of_their_law(name):
    num = 20_000
    x, y = toy(name, num, seed=1).double().T
    mean_x, mean_y, var_x, var_y, covariance = MOMENTS[name]
    x, y = x - mean_x, y - mean_y
    for values, expected in ((x, 0), (y, 0), (x * x, var_x), (y * y, var_y), (x * y, covariance)):
        assert abs(values.mean().item() - expected) < 5 * values.std().item() / math.sqrt(num)


@pytest.mark.parametrize("name", SCORED)
def test_points_fall_where_the_density_says(name):
    """Pearson's test of the numbers of points in cells, against the density summed over finer cells."""
    num, per_side, finer = 20_000, 20, 8
    centres, area = square_grid(2 * REACH / (per_side * finer))
    shares = TOY_DENSITIES[name].log_prob(centres).exp() * area
    expected = num * shares.reshape(per_side, finer, per_side, finer).sum((1, 3)).flatten()
    cells = ((toy(name, num, seed=2).double() + REACH) / (2 * REACH) * per_side).floor().long()
    counts = torch.bincount(cells[:, 0] * per_side + cells[:, 1], minlength=per_side**2)
    common = expected >= 5
    statistic = ((counts - expected).square() / expected)[common].sum().item()
    rest = expected[~common].sum().item()
    statistic += (counts[~common].sum().item() - rest) ** 2 / max(rest, 1.0)
    assert chi2.sf(statistic, common.sum().item()) > 1e-4


@pytest.mark.parametrize("name", SCORED)
def test_no_likelihood_of_points_is_better_than_the_entropy(name):
    log_p = TOY_DENSITIES[name].log_prob(toy(name, 5000, seed=4).double())
    error = log_p.std().item() / math.sqrt(len(log_p))
    assert abs(-log_p.mean().item() - ENTROPIES[name]) <= 5 * error + 1e-12


def test_no_point_is_rounded_into_a_light_square():
    # The least seed with a coordinate that is rounded up to the next whole number when the corner is added to it.
    points = toy("checkerboard", 2_000_000, seed=10)
    cells = (points / 2).floor()
    assert (cells.sum(-1) % 2 == 0).all()


def test_points_depend_on_the_seed_alone():
    before = torch.get_rng_state()
    first, again, other = (toy("pinwheel", 100, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.dtype == torch.float32
    assert toy("pinwheel", 0).shape == (0, 2)


# ------------------------------------------------------------------------------------------------------- shapes, misuse


@pytest.mark.parametrize("name", SCORED)
def test_log_prob_takes_any_batch_and_keeps_the_dtype(name):
    density = TOY_DENSITIES[name]
    points = density.sample(6).reshape(2, 3, 2)
    values = density.log_prob(points)
    assert values.shape == (2, 3)
    assert values.dtype == torch.float32
    one_by_one = torch.stack([density.log_prob(point) for point in points.double().reshape(-1, 2)])
    assert torch.allclose(values.double().flatten(), one_by_one, rtol=1e-6, atol=1e-6)
    assert density.log_prob(torch.zeros(0, 2)).shape == (0,)


@pytest.mark.parametrize("name", SCORED)
def test_log_prob_is_finite_or_minus_infinity_far_away(name):
    values = TOY_DENSITIES[name].log_prob(torch.tensor([[30.0, 0.0], [-300.0, 200.0]]))
    assert (values < -200).all()
    assert not values.isnan().any()


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.zeros(3), r"points must be floating point of shape \(\*, 2\); got torch.float32 of shape \(3,\)"),
        (torch.tensor(1.0), r"points must be .*; got torch.float32 of shape \(\)"),
        (torch.zeros(4, 2).long(), r"points must be floating point .*; got torch.int64"),
        (torch.tensor([[0.0, math.nan]]), "points must be finite; got NaN or infinity"),
    ],
)
def test_log_prob_refuses_what_are_no_points(points, message):
    with pytest.raises(DataError, match=message):
        TOY_DENSITIES["rings"].log_prob(points)


def test_an_unknown_toy_set_and_a_bad_number_are_named():
    with pytest.raises(OptionError, match=r"toy set must be one of .*; got 'pinwheels'\. Did you mean 'pinwheel'\?"):
        toy("pinwheels", 10)
    with pytest.raises(OptionError, match=r"num must be a whole number of at least 0; got -1"):
        toy("rings", -1)
    with pytest.raises(OptionError, match=r"num_test must be a whole number of at least 1; got 0"):
        toy_data("rings", num_test=0)


def test_the_parts_of_toy_data_are_independent_and_each_has_its_seed():
    first = toy_data("circles", num_train=50, num_validation=50, num_test=50, seed=1)
    longer = toy_data("circles", num_train=60, num_validation=50, num_test=50, seed=1)
    assert torch.equal(first.validation, longer.validation)
    assert torch.equal(first.test, longer.test)
    parts = [first.train, first.validation, first.test]
    assert len(torch.cat(parts).unique(dim=0)) == 150
    assert first.density is TOY_DENSITIES["circles"]


def test_toy_data_refuses_what_are_no_points():
    points = torch.zeros(3, 2)
    parts = {"density": TOY_DENSITIES["rings"], "train": points, "validation": points, "test": points}
    for changed, message in (
        ({"train": torch.zeros(3, 3)}, r"train must be .* shape \(N, 2\) with N at least 1; .* \(3, 3\)"),
        ({"test": torch.zeros(0, 2)}, r"test must be .* with N at least 1; got torch.float64 of shape \(0, 2\)"),
        ({"validation": points.long()}, r"validation must be floating point"),
        ({"test": points / 0}, r"test must be finite"),
    ):
        with pytest.raises(DataError, match=message):
            ToyData(**parts | changed)


def test_every_toy_density_is_in_the_registry():
    classes = {each for each in ToyDensity.__subclasses__() if each.__module__.startswith("ppl_models.")}
    assert {type(density) for density in TOY_DENSITIES.values()} == classes
    assert {name: density.entropy for name, density in TOY_DENSITIES.items()} == ENTROPIES


def test_a_row_without_terms_is_minus_infinity():
    terms, row = torch.tensor([1000.0, 1000.0, -1000.0]), torch.tensor([2, 2, 0])
    expected = torch.tensor([-1000.0, -math.inf, 1000 + math.log(2)])
    assert torch.equal(logsumexp_by_row(terms, row, 3), expected)
