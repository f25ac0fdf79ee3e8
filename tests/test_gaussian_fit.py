"""Gaussian approximations of a density: exact where they can be, finite where they cannot, and in how many calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from guides.errors import ModelError
from guides.gaussian_fit import FLAT, Density, NormalApproximation, Path, climb, inverse_factor
from guides.laplace import laplace
from guides.pathfinder import _candidates, _elbos, _inverse_hessian, _updated, pathfinder

LogDensity = Callable[[Tensor], Tensor]
FITS = [pytest.param(laplace, id="laplace"), pytest.param(pathfinder, id="pathfinder")]
FIT = pytest.mark.parametrize("fit", FITS)


@dataclass
class Counted:
    """A log density that counts how often it is asked, and about how many points."""

    log_density: LogDensity
    calls: int = 0
    points: int = 0
    largest: int = field(default=0)

    def __call__(self, u: Tensor) -> Tensor:
        self.calls += 1
        self.points += u.shape[:-1].numel()
        self.largest = max(self.largest, u.shape[:-1].numel())
        return self.log_density(u)


def gaussian(loc: Tensor, scale_tril: Tensor) -> LogDensity:
    def log_density(u: Tensor) -> Tensor:
        whitened = torch.linalg.solve_triangular(scale_tril, (u - loc).reshape(-1, len(loc)).T, upper=False)
        return -0.5 * whitened.square().sum(0).reshape(u.shape[:-1])

    return log_density


def correlated(dim: int, correlation: float = 0.99) -> tuple[Tensor, Tensor]:
    """Location and factor of a Gaussian with standard deviations from 1e-4 to 1e4."""
    scales = 10.0 ** torch.linspace(-4, 4, dim)
    matrix = torch.full((dim, dim), correlation).fill_diagonal_(1.0)
    return 3 * torch.randn(dim) * scales, scales[:, None] * torch.linalg.cholesky(matrix)


def ring(u: Tensor) -> Tensor:
    return -0.5 * ((u.norm(dim=-1) - 1) / 0.1) ** 2


def double_well(u: Tensor) -> Tensor:
    return -((u[..., 0].square() - 4) ** 2) - 0.5 * u[..., 1].square()


def funnel(u: Tensor) -> Tensor:
    v, x = u[..., 0], u[..., 1:]
    return -v.square() / 18 - 0.5 * x.square().sum(-1) * torch.exp(-v) - 0.5 * x.shape[-1] * v


def centred_schools(u: Tensor) -> Tensor:
    """The centred eight schools with log tau: unbounded where tau goes to 0 and all effects are equal."""
    y = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12]).to(u)
    sigma = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18]).to(u)
    log_tau, mu, theta = u[..., 0], u[..., 1], u[..., 2:]
    prior = -0.5 * (theta - mu[..., None]).square().sum(-1) * torch.exp(-2 * log_tau) - 7 * log_tau
    hyper = -mu.square() / 50 - torch.log1p(torch.exp(2 * log_tau) / 25)
    return prior + hyper - 0.5 * ((y - theta) / sigma).square().sum(-1)


def banana(u: Tensor) -> Tensor:
    return -0.5 * u[..., 0].square() - 0.5 * ((u[..., 1] - u[..., 0].square()) / 0.3) ** 2


def raw_regression(dtype: torch.dtype) -> tuple[LogDensity, Tensor, Tensor]:
    """Predictors of 1e4 and 1e-2, their interaction, an intercept, log sigma; mode and covariance in closed form."""
    n = 200
    first, second = 2e4 + 1e4 * torch.randn(n), 0.03 + 0.01 * torch.randn(n)
    X = torch.stack([torch.ones(n), first, second, first * second], -1)
    y = X @ torch.tensor([5.0, 2e-3, -300.0, 1e-2]) + 3 * torch.randn(n)
    coefficients = torch.linalg.lstsq(X, y[:, None], driver="gelsd").solution[:, 0]
    variance = (y - X @ coefficients).square().mean()
    mode = torch.cat([coefficients, 0.5 * variance.log()[None]])
    covariance = torch.block_diag(torch.linalg.inv(X.T @ X) * variance, torch.tensor([[0.5 / n]]))
    X, y = X.to(dtype), y.to(dtype)

    def log_density(u: Tensor) -> Tensor:
        residuals = y - u[..., :4] @ X.T
        return -n * u[..., 4] - 0.5 * residuals.square().sum(-1) * torch.exp(-2 * u[..., 4])

    return log_density, mode, covariance


def errors(fit: NormalApproximation, loc: Tensor, covariance: Tensor) -> tuple[float, float]:
    """The error of the mean in standard deviations, and of the covariance in their products."""
    scales = covariance.diagonal().sqrt()
    factor = fit.scale_tril.double() / scales[:, None]
    off = factor @ factor.T - covariance / scales[:, None] / scales
    return float(((fit.loc - loc) / scales).abs().max()), float(off.abs().max())


def assert_proper(fit: NormalApproximation, dim: int, dtype: torch.dtype = torch.float64) -> None:
    assert fit.loc.shape == (dim,)
    assert fit.scale_tril.shape == (dim, dim)
    assert fit.loc.dtype == fit.scale_tril.dtype == dtype
    assert fit.loc.isfinite().all()
    assert fit.scale_tril.isfinite().all()
    assert torch.equal(fit.scale_tril, fit.scale_tril.tril())
    assert (fit.scale_tril.diagonal() > 0).all()
    assert not fit.loc.requires_grad
    assert not fit.scale_tril.requires_grad


def elbo(log_density: LogDensity, fit: NormalApproximation, num_draws: int = 20_000) -> float:
    q = torch.distributions.MultivariateNormal(fit.loc, scale_tril=fit.scale_tril)
    u = q.sample((num_draws,))
    return float((log_density(u) - q.log_prob(u)).mean())


# ------------------------------------------------------------------------------------------------------------ Gaussians


@pytest.mark.parametrize("dim", [1, 2, 20, 100])
def test_laplace_is_exact_on_a_gaussian_of_any_units(dim: int) -> None:
    loc, scale_tril = correlated(dim)
    density = Counted(gaussian(loc, scale_tril))
    fit = laplace(density, torch.randn(3, dim))
    assert_proper(fit, dim)
    off_loc, off_covariance = errors(fit, loc, scale_tril @ scale_tril.T)
    assert off_loc < 1e-6
    assert off_covariance < 1e-6
    assert density.calls < 100


@FIT
def test_four_hundred_dimensions_take_few_calls_of_bounded_size(fit: Callable[..., NormalApproximation]) -> None:
    scales = 10.0 ** torch.linspace(-4, 4, 400)
    loc = scales * torch.randn(400)
    density = Counted(lambda u: -0.5 * ((u - loc) / scales).square().sum(-1))
    found = fit(density, torch.randn(2, 400))
    assert_proper(found, 400)
    off_loc, off_covariance = errors(found, loc, scales.square().diag())
    assert off_loc < 1e-6
    assert off_covariance < 1e-6
    assert density.calls < 100
    assert density.points < 10 * 400
    assert density.largest <= 128


@pytest.mark.parametrize("dim", [1, 2, 20, 100])
def test_pathfinder_finds_a_gaussian_of_any_units(dim: int) -> None:
    loc, scale_tril = correlated(dim)
    density = Counted(gaussian(loc, scale_tril))
    fit = pathfinder(density, torch.randn(3, dim))
    assert_proper(fit, dim)
    off_loc, off_covariance = errors(fit, loc, scale_tril @ scale_tril.T)
    assert off_loc < 0.01
    assert off_covariance < 0.01
    assert density.calls < 100


def test_one_remembered_step_of_bfgs_satisfies_its_secant_equation() -> None:
    s, y = torch.randn(4), torch.randn(4)
    y = y if s @ y > 0 else -y
    diagonal = _updated(torch.rand(4) + 0.5, s, y)
    inverse = _inverse_hessian(diagonal, [(s, y)])
    torch.testing.assert_close(inverse @ y, s)
    assert (torch.linalg.eigvalsh(inverse) > 0).all()
    assert (diagonal > 0).all()


def test_a_candidate_satisfies_the_last_secant_equation_and_stands_one_newton_step_on() -> None:
    precision = torch.tensor([[2.0, 0.9], [0.9, 1.0]])
    points = torch.randn(4, 2)
    path = Path(torch.zeros(2), torch.eye(2), points, -points @ precision, torch.zeros(4))
    for l, (loc, factor) in enumerate(_candidates(path, history=2)):  # noqa: E741
        covariance = factor @ factor.T
        torch.testing.assert_close(loc, points[l] + covariance @ path.gradients[l])
        if l > 0:
            change = path.gradients[l - 1] - path.gradients[l]
            torch.testing.assert_close(covariance @ change, points[l] - points[l - 1])
    assert l == 3


def test_elbos_are_log_ratios_in_the_coordinates_of_the_density() -> None:
    _, directions = correlated(3)
    start, scales = torch.randn(3), torch.tensor([2.0, 0.2, 7.0])
    normal = torch.distributions.MultivariateNormal(start, scale_tril=directions * scales)
    path = Path(start, directions, torch.zeros(1, 3), torch.zeros(1, 3), torch.zeros(1))
    candidates = [(torch.zeros(3), scales.diag()), (torch.ones(3), torch.eye(3))]
    noise = torch.randn(7, 3)
    exact, other = _elbos(Density(normal.log_prob, torch.float64), path, candidates, noise)
    assert exact == pytest.approx(0.0, abs=1e-9)
    wrong = torch.distributions.MultivariateNormal(path.points(torch.ones(3)), scale_tril=directions)
    draws = path.points(1 + noise)
    torch.testing.assert_close(other, (normal.log_prob(draws) - wrong.log_prob(draws)).mean())


def test_pathfinder_learns_the_curvature_that_its_start_does_not_show() -> None:
    """Far out in a softened bowl the curvature is a tenth of that at the mode: only the climb can tell."""
    density = Counted(lambda u: -20 * (torch.sqrt(1 + u.square()) - 1).sum(-1))
    fit = pathfinder(density, torch.full((1, 3), 2.0), num_draws=100)
    assert elbo(density, fit) > elbo(density, laplace(density, torch.full((1, 3), 2.0))) - 0.1


# ---------------------------------------------------------------------------------------------------------- regressions


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-2)])
def test_laplace_reaches_the_least_squares_of_raw_units_from_zero(dtype: torch.dtype, tolerance: float) -> None:
    log_density, mode, covariance = raw_regression(dtype)
    assert torch.linalg.cond(covariance) > 1e12
    density = Counted(log_density)
    fit = laplace(density, torch.zeros(1, 5, dtype=dtype))
    assert_proper(fit, 5, dtype)
    off_loc, off_covariance = errors(fit, mode, covariance)
    assert off_loc < tolerance
    assert off_covariance < tolerance
    assert density.calls < 300


def test_laplace_reaches_them_from_random_starts() -> None:
    log_density, mode, covariance = raw_regression(torch.float64)
    off_loc, off_covariance = errors(laplace(log_density, 4 * torch.rand(4, 5) - 2), mode, covariance)
    assert off_loc < 1e-6
    assert off_covariance < 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_pathfinder_comes_near_them_from_zero(dtype: torch.dtype) -> None:
    log_density, mode, covariance = raw_regression(dtype)
    fit = pathfinder(log_density, torch.zeros(1, 5, dtype=dtype))
    assert_proper(fit, 5, dtype)
    off_loc, off_covariance = errors(fit, mode, covariance)
    assert off_loc < 1.0
    assert off_covariance < 1.0


def test_laplace_on_a_logistic_regression_is_newtons_method_by_hand() -> None:
    X = torch.randn(100, 3) @ torch.diag(torch.tensor([1.0, 1e3, 1e-3]))
    y = (torch.rand(100) < torch.sigmoid(X @ torch.tensor([0.5, 1e-3, -500.0]))).double()
    prior = torch.tensor([1.0, 1e-6, 1e6])

    def log_density(u: Tensor) -> Tensor:
        logits = u @ X.T
        return (y * logits - torch.nn.functional.softplus(logits)).sum(-1) - 0.05 * (u.square() / prior.flip(0)).sum(-1)

    u = torch.zeros(3)
    for _ in range(50):
        p = torch.sigmoid(X @ u)
        precision = (X.T * (p * (1 - p))) @ X + 0.1 * (1 / prior.flip(0)).diag()
        u = u + torch.linalg.solve(precision, X.T @ (y - p) - 0.1 * u / prior.flip(0))
    off_loc, off_covariance = errors(laplace(log_density, torch.zeros(1, 3)), u, torch.linalg.inv(precision))
    assert off_loc < 1e-6
    assert off_covariance < 1e-6


@FIT
def test_float32_is_enough_for_a_density_of_moderate_scale(fit: Callable[..., NormalApproximation]) -> None:
    loc, scales = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.5, 2.0, 1.0])
    density = gaussian(loc.float(), scales.diag().float())
    found = fit(density, torch.zeros(2, 3, dtype=torch.float32))
    assert_proper(found, 3, torch.float32)
    off_loc, off_covariance = errors(found, loc, scales.square().diag())
    assert off_loc < 1e-3
    assert off_covariance < 1e-3


# -------------------------------------------------------------------------------------------- not so Gaussian densities


@pytest.mark.parametrize("start", [[0.9, 0.0], [0.6, -1.2]])
def test_a_ring_is_narrow_across_and_as_wide_along_as_the_density_is(start: list[float]) -> None:
    fit = laplace(ring, torch.tensor([start]))
    assert_proper(fit, 2)
    assert fit.loc.norm() == pytest.approx(1.0, abs=1e-6)
    outwards = fit.loc / fit.loc.norm()
    across = torch.linalg.solve(fit.scale_tril, outwards[:, None]).norm().reciprocal()
    assert across == pytest.approx(0.1, rel=0.1)
    assert 0.3 < torch.linalg.matrix_norm(fit.scale_tril, 2) < 2.0


def test_a_mode_without_curvature_is_as_wide_as_the_density_is() -> None:
    fit = laplace(lambda u: -(u**4).sum(-1), torch.ones(1, 2))
    assert_proper(fit, 2)
    assert ((fit.scale_tril.diagonal() > 0.3) & (fit.scale_tril.diagonal() < 2.0)).all()


@FIT
def test_a_flat_direction_is_wide_and_leaves_the_others_alone(fit: Callable[..., NormalApproximation]) -> None:
    found = fit(lambda u: -0.5 * (u[..., 0] / 3).square(), torch.ones(1, 2))
    assert_proper(found, 2)
    torch.testing.assert_close(found.scale_tril, torch.tensor([3.0, FLAT**-0.5]).diag())


def test_laplace_leaves_a_saddle() -> None:
    fit = laplace(double_well, torch.zeros(1, 2))
    torch.testing.assert_close(fit.loc.abs(), torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(fit.scale_tril, torch.tensor([32.0**-0.5, 1.0]).diag())


def test_a_corner_is_a_mode() -> None:
    fit = laplace(lambda u: -u.abs().sum(-1), torch.ones(1, 2))
    assert_proper(fit, 2)
    assert fit.loc.abs().max() < 1e-6


@FIT
def test_the_best_of_two_modes_is_found_from_either_side(fit: Callable[..., NormalApproximation]) -> None:
    def log_density(u: Tensor) -> Tensor:
        halves = torch.stack([-0.5 * (u + 5).square().sum(-1), 3 - 0.5 * (u - 5).square().sum(-1)])
        return halves.logsumexp(0)

    for order in ([0, 1], [1, 0]):
        starts = torch.tensor([[-6.0, -4.0], [4.0, 6.0]])[order]
        torch.testing.assert_close(fit(log_density, starts).loc, torch.full((2,), 5.0), atol=0.01, rtol=0.0)


def test_pathfinder_beats_laplace_on_a_funnel_and_is_no_worse_on_a_banana() -> None:
    for log_density, dim in ((funnel, 10), (banana, 2)):
        starts = torch.randn(4, dim)
        ours = elbo(log_density, pathfinder(log_density, starts, num_draws=200))
        assert ours > elbo(log_density, laplace(log_density, starts))


@FIT
def test_a_funnel_ends_soon_and_finite(fit: Callable[..., NormalApproximation]) -> None:
    density = Counted(funnel)
    assert_proper(fit(density, torch.randn(4, 10)), 10)
    assert density.calls < 2000


# -------------------------------------------------------------------------------------------------- what cannot be used


def half_known(u: Tensor) -> Tensor:
    return torch.where(u[..., 0] > -20, -0.5 * (u - 1).square().sum(-1), torch.nan)


@FIT
@pytest.mark.parametrize("bad", [[-21.0, 0.0], [torch.nan, 0.0], [torch.inf, 0.0]])
def test_a_start_that_is_not_finite_is_left_out(fit: Callable[..., NormalApproximation], bad: list[float]) -> None:
    def log_density(u: Tensor) -> Tensor:
        assert u.isfinite().all(), "a model may raise at such points, for all rows at once"
        return half_known(u)

    found = fit(log_density, torch.tensor([bad, [1.5, 3.0]]))
    torch.testing.assert_close(found.loc, torch.ones(2))
    torch.testing.assert_close(found.scale_tril, torch.eye(2))


def test_laplace_climbs_beside_a_wall_of_nan() -> None:
    """The curvature at the start sends the first steps beyond it."""
    log_density = lambda u: torch.where(u > 0, u.log() - u, torch.nan).sum(-1)  # noqa: E731
    fit = laplace(log_density, torch.tensor([[1e-6, 30.0]]))
    torch.testing.assert_close(fit.loc, torch.ones(2))
    torch.testing.assert_close(fit.scale_tril, torch.eye(2))


@FIT
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_no_usable_start_raises(fit: Callable[..., NormalApproximation], value: float) -> None:
    with pytest.raises(ModelError, match=r"not finite at any of the 3 starts\. Check that"):
        fit(lambda u: u.sum(-1) + value, torch.randn(3, 2))


def test_pathfinder_without_a_finite_elbo_raises() -> None:
    """Inside a narrow slit every Gaussian has draws outside, as the curvature within is nil."""
    slit = lambda u: torch.where(u.abs().amax(-1) < 1e-3, 0.0 * u.sum(-1), -torch.inf)  # noqa: E731
    with pytest.raises(ModelError, match="pathfinder found no Gaussian at whose 25 draws"):
        pathfinder(slit, torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("log_density", "dim"),
    [
        pytest.param(lambda u: u.sum(-1), 2, id="linear"),
        pytest.param(lambda u: u[..., 0].square() - u[..., 1].square(), 2, id="saddle"),
        pytest.param(lambda u: u[..., 0] * u[..., 1], 2, id="product"),
        pytest.param(lambda u: -u.square().sum(-1).log(), 2, id="pole"),
        pytest.param(lambda u: u.exp().sum(-1), 2, id="exponential"),
        pytest.param(centred_schools, 10, id="centred-schools"),
    ],
)
def test_an_unbounded_density_ends(log_density: LogDensity, dim: int) -> None:
    density = Counted(log_density)
    with pytest.raises(ModelError, match=r"laplace found no mode: .* Write the model non-centred"):
        laplace(density, torch.randn(2, dim))
    assert density.calls < 3000
    density = Counted(log_density)
    assert_proper(pathfinder(density, torch.randn(2, dim)), dim)
    assert density.calls < 3000


# ------------------------------------------------------------------------------------------------------------ the parts


def test_laplace_draws_nothing_and_pathfinder_follows_the_seed() -> None:
    starts = torch.randn(2, 2)
    before = torch.get_rng_state()
    laplace(banana, starts)
    assert torch.equal(before, torch.get_rng_state())
    first = pathfinder(banana, starts)
    torch.set_rng_state(before)
    second = pathfinder(banana, starts)
    assert torch.equal(first.scale_tril, second.scale_tril)
    assert not torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dim", [1, 3, 200])
def test_the_precision_is_that_of_autograd(dim: int) -> None:
    weights = torch.randn(dim, dim)

    def log_density(u: Tensor) -> Tensor:
        return -(u @ weights).cosh().log().sum(-1)

    point = torch.randn(dim)
    expected = -torch.autograd.functional.hessian(log_density, point)
    torch.testing.assert_close(Density(log_density, torch.float64).precision(point), expected)


def test_the_factor_inverts_what_is_positive_definite_and_mends_the_rest() -> None:
    _, scale_tril = correlated(6)
    W, eigenvalues = inverse_factor(torch.cholesky_inverse(scale_tril), torch.float64)
    scales = scale_tril.norm(dim=-1)
    torch.testing.assert_close(W @ W.T / scales / scales[:, None], scale_tril @ scale_tril.T / scales / scales[:, None])
    assert (eigenvalues > 0).all()
    W, eigenvalues = inverse_factor(torch.tensor([[0.0, 1e6], [1e6, 0.0]]), torch.float64)
    torch.testing.assert_close(W @ W.T, 1e-6 * torch.eye(2))
    torch.testing.assert_close(eigenvalues, torch.tensor([-1.0, 1.0]))
    W, _ = inverse_factor(torch.full((2, 2), torch.nan), torch.float64)
    assert torch.equal(W, torch.eye(2))


def test_a_climb_does_not_depend_on_the_units() -> None:
    units = torch.tensor([1e-4, 1e3])
    (ours,) = climb(Density(banana, torch.float64), torch.ones(1, 2), history=6)
    (theirs,) = climb(Density(lambda u: banana(u / units), torch.float64), units[None], history=6)
    torch.testing.assert_close(theirs.values[:8], ours.values[:8])


def test_an_approximation_beyond_its_dtype_raises() -> None:
    with pytest.raises(ModelError, match=r"cannot be written in torch\.float32"):
        NormalApproximation.along(torch.zeros(2), torch.tensor([1e-60, 1.0]).diag(), torch.float32)
