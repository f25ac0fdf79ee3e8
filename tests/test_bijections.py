"""bijection: onto the support, one to one, with the log-determinant that autograd finds, for all that torch knows."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import NamedTuple

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.functional import jacobian
from torch.distributions import biject_to, transform_to
from torch.distributions.constraints import Constraint

from guides.bijections import bijection


def double(numbers: object) -> Tensor:
    """A tensor in float64, also while the module is being imported."""
    return torch.tensor(numbers, dtype=torch.float64)


def flat(value: Tensor) -> Tensor:
    return value.reshape(-1)


def all_but_last(value: Tensor) -> Tensor:
    return value[..., :-1]


def triangle(value: Tensor) -> Tensor:
    return value[..., *torch.tril_indices(*value.shape[-2:])]


def strict_triangle(value: Tensor) -> Tensor:
    return value[..., *torch.tril_indices(*value.shape[-2:], offset=-1)]


class Case(NamedTuple):
    """A support, a shape of its events, how many numbers are free, and which entries they are."""

    support: Constraint
    shape: tuple[int, ...]
    dim: int
    free: Callable[[Tensor], Tensor] = flat


CASES = {
    "real": Case(constraints.real, (), 1),
    "real_vector": Case(constraints.real_vector, (3,), 3),
    "positive": Case(constraints.positive, (), 1),
    "positive matrix": Case(constraints.independent(constraints.positive, 2), (2, 3), 6),
    "nonnegative": Case(constraints.nonnegative, (), 1),
    "greater_than": Case(constraints.greater_than(1.0), (), 1),
    "greater_than_eq": Case(constraints.greater_than_eq(-2.0), (), 1),
    "less_than": Case(constraints.less_than(-1.0), (), 1),
    "half_open_interval": Case(constraints.half_open_interval(-1.0, 2.0), (), 1),
    "interval": Case(constraints.interval(2.0, 5.0), (), 1),
    "unit_interval": Case(constraints.unit_interval, (), 1),
    "interval per entry": Case(
        constraints.independent(constraints.interval(double([0.0, -1.0]), double([1.0, 4.0])), 1), (2,), 2
    ),
    "softplus_positive": Case(constraints.softplus_positive, (), 1),
    "simplex": Case(constraints.simplex, (4,), 3, all_but_last),
    "simplexes": Case(constraints.independent(constraints.simplex, 1), (2, 3), 4, all_but_last),
    "ordered_vector": Case(constraints.ordered_vector, (4,), 4),
    "positive_ordered_vector": Case(constraints.positive_ordered_vector, (4,), 4),
    "lower_cholesky": Case(constraints.lower_cholesky, (3, 3), 6, triangle),
    "softplus_lower_cholesky": Case(constraints.softplus_lower_cholesky, (3, 3), 6, triangle),
    "unit_lower_cholesky": Case(constraints.unit_lower_cholesky, (4, 4), 6, strict_triangle),
    "corr_cholesky": Case(constraints.corr_cholesky, (4, 4), 6, strict_triangle),
    "corr_matrix": Case(constraints.corr_matrix, (4, 4), 6, strict_triangle),
    "corr_matrix of one": Case(constraints.corr_matrix, (1, 1), 0, strict_triangle),
    "positive_definite": Case(constraints.positive_definite, (3, 3), 6, triangle),
    "positive_definite of one": Case(constraints.positive_definite, (1, 1), 1, triangle),
    "positive_semidefinite": Case(constraints.positive_semidefinite, (3, 3), 6, triangle),
    "positive_definites": Case(constraints.independent(constraints.positive_definite, 1), (2, 2, 2), 6, triangle),
    "cat": Case(
        constraints.independent(constraints.cat([constraints.positive, constraints.real], -1, [2, 1]), 1), (3,), 3
    ),
    "stack": Case(constraints.stack([constraints.unit_interval, constraints.less_than(0.0)], -1), (2,), 2),
}
MIXTURE = dist.MixtureSameFamily(dist.Categorical(double([1.0, 2.0])), dist.Beta(double([2.0, 3.0]), double(2.0)))
CASES["mixture"] = Case(MIXTURE.support, (), 1)

#: What torch and Pyro register, and why there is no bijection to it.
WITHOUT = {type(constraints.sphere): "compact: nothing maps a flat space onto it one to one and continuously"}

free_cases = pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.dim > 0])
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def log_det(case: Case, u: Tensor) -> Tensor:
    """The log-determinant at u of shape (*, *unconstrained), (*)."""
    t = bijection(case.support)
    y = t(u)
    batch = y.shape[: y.dim() - len(case.shape)]
    return t.log_abs_det_jacobian(u, y).reshape(*batch, -1).sum(-1)


def unconstrained(case: Case, *batch: int) -> Tensor:
    shape = bijection(case.support).inverse_shape(torch.Size([*batch, *case.shape]))
    return 1.5 * torch.randn(shape)


def test_every_registered_support_is_a_case():
    def bare(support: Constraint) -> type[Constraint]:
        return bare(support.base_constraint) if isinstance(support, constraints.independent) else type(support)

    covered = {bare(case.support) for case in CASES.values()} | {type(case.support) for case in CASES.values()}
    registered = {
        support
        for registry in (biject_to, transform_to)
        for support in registry._registry
        if support.__module__.startswith(("torch.", "pyro."))
    }
    assert registered - covered == WITHOUT.keys()


@every_case
def test_values_are_in_the_support_and_come_back(case):
    t = bijection(case.support)
    u = unconstrained(case, 20)
    value = t(u)
    assert value.shape == t.forward_shape(u.shape) == (20, *case.shape)
    assert u[0].numel() == case.dim
    assert case.support.check(value).all()
    torch.testing.assert_close(t.inv(value), u, rtol=1e-8, atol=1e-8)


@free_cases
def test_the_log_det_is_that_of_the_jacobian(name):
    case = CASES[name]
    t = bijection(case.support)
    for u in unconstrained(case, 5):
        jac = jacobian(lambda u: case.free(t(u)).reshape(-1), u).reshape(case.dim, case.dim)
        torch.testing.assert_close(log_det(case, u), torch.linalg.slogdet(jac).logabsdet, rtol=1e-8, atol=1e-8)


@every_case
def test_batches_agree_with_single_events(case):
    t = bijection(case.support)
    u = unconstrained(case, 2, 3)
    log_dets = log_det(case, u)
    assert log_dets.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(t(u)[i, j], t(u[i, j]), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(log_dets[i, j], log_det(case, u[i, j]), rtol=1e-12, atol=1e-12)


@free_cases
def test_gradients_are_finite_and_right_twice_also_at_zero(name):
    case = CASES[name]
    t = bijection(case.support)
    for u in (torch.zeros_like(unconstrained(case)), unconstrained(case)):
        u.requires_grad_()
        for curved in (lambda u: case.free(t(u)).square().sum(), lambda u: log_det(case, u) + u.square().sum()):
            assert gradcheck(curved, u)
            assert gradgradcheck(curved, u)
    far = (4 * unconstrained(case, 50)).requires_grad_()
    total = log_det(case, far).sum() + far.sum()
    (slope,) = torch.autograd.grad(total, far)
    assert slope.isfinite().all()


@pytest.mark.parametrize("name", [name for name in CASES if name != "interval per entry"])  # whose bounds are double
def test_single_precision_agrees_with_double(name):
    case = CASES[name]
    u = unconstrained(case, 50)
    single = bijection(case.support)(u.float())
    assert single.dtype == log_det(case, u.float()).dtype == torch.float32
    torch.testing.assert_close(single.double(), bijection(case.support)(u), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(log_det(case, u.float()).double(), log_det(case, u), rtol=1e-3, atol=1e-3)


@every_case
def test_copies_and_pickles_are_the_same_map(case):
    u = unconstrained(case, 3)
    t = bijection(case.support)
    for twin in (copy.deepcopy(t), pickle.loads(pickle.dumps(t))):
        torch.testing.assert_close(twin(u), t(u), rtol=0, atol=0)
        torch.testing.assert_close(twin.inv(t(u)), t.inv(t(u)), rtol=0, atol=0)


LAWS = {
    "Wishart": dist.Wishart(double(5.0), double([[0.2, 0.1], [0.1, 0.2]])),
    "Wisharts": dist.Wishart(double(5.0), double([[0.2, 0.0], [0.0, 0.2]])).expand([2]).to_event(1),
    "LKJCholesky": dist.LKJCholesky(4, double(1.5)),
    "LKJ": dist.LKJ(3, double(2.0)),
    "Dirichlet": dist.Dirichlet(double([1.0, 2.0, 3.0])),
    "InverseGamma": dist.InverseGamma(double(3.0), double(2.0)),
    "Beta": dist.Beta(double(2.0), double(3.0)),
    "Uniform": dist.Uniform(double(-1.0), double(3.0)),
    "Pareto": dist.Pareto(double(0.5), double(2.0)),
    "MixtureSameFamily": MIXTURE,
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_densities_integrate_to_one(law):
    t = bijection(law.support)
    # Densities over u fall off like exp(-a |u|) with a >= 1, so that with these tails the weights have a variance.
    proposal = dist.Laplace(0.0, 1.0).expand(t.inverse_shape(law.batch_shape + law.event_shape)).to_event()
    u = proposal.sample((100_000,))
    value = t(u)
    log_det = t.log_abs_det_jacobian(u, value).reshape(100_000, -1).sum(-1)
    weights = (law.log_prob(value) + log_det - proposal.log_prob(u)).exp()
    error = weights.std().item() / math.sqrt(len(weights))
    assert error < 0.03
    assert weights.mean().item() == pytest.approx(1.0, abs=5 * error)


def test_correlations_close_to_one_lose_no_digits():
    # tanh 15 is 1 - 2e-13. At u = (15, 15, 15), log |det| = (2 + 3 + 2) log sech 15.
    t, u = bijection(constraints.corr_cholesky), torch.full((3,), 15.0)
    expected = 7 * (math.log(2) - 15 - math.log1p(math.exp(-30)))
    assert t.log_abs_det_jacobian(u, t(u)).item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(t.inv(t(u)), u, rtol=1e-12, atol=0)
    for end in (-1000.0, 1000.0):  # where cosh overflows
        u = torch.full((3,), end)
        assert t.log_abs_det_jacobian(u, t(u)).item() == pytest.approx(7 * (math.log(2) - 1000), rel=1e-12)
    u = (1.5 * torch.randn(1000, 45)).float()  # 10 x 10, where torch's own gives NaN
    torch.testing.assert_close(
        t.log_abs_det_jacobian(u, t(u)).double(), t.log_abs_det_jacobian(u.double(), t(u.double())), rtol=1e-5, atol=0
    )


def test_the_softplus_support_has_a_softplus_diagonal():
    value = bijection(constraints.softplus_lower_cholesky)(torch.zeros(3))
    torch.testing.assert_close(value, math.log(2) * torch.eye(2), rtol=1e-12, atol=1e-12)


def test_elementwise_supports_keep_torchs_own_with_its_sign():
    assert bijection(constraints.positive) == biject_to(constraints.positive)
    assert bijection(constraints.less_than(2.0)).sign == -1


per_component = dist.MixtureSameFamily(
    dist.Categorical(torch.ones(2)), dist.Uniform(torch.zeros(2), torch.tensor([1.0, 2.0]))
)


@pytest.mark.parametrize(
    ("support", "message"),
    [
        (constraints.sphere, "none is known to Sphere. If it is the sphere, use ProjectedNormalReparam"),
        (constraints.independent(constraints.sphere, 1), "none is known to Sphere"),
        (constraints.nonnegative_integer, "must have a bijection from the reals; none is known to IntegerGreaterThan"),
        (constraints.boolean, "none is known to Boolean"),
        (constraints.multinomial(3), "none is known to Multinomial"),
        (constraints.dependent, "none is known to"),
        (per_component.support, "components of a mixture must share one support.*write for instance Uniform"),
        (constraints.cat([constraints.real], 0), "must join supports of numbers, along a negative dim; got .* dim 0"),
        (constraints.cat([constraints.simplex], -1), "must join supports of numbers.*Make one sample site of each"),
        (constraints.stack([constraints.positive_ordered_vector] * 2, -2), "must join supports of numbers"),
        (constraints.stack([constraints.boolean], -1), "none is known to Boolean"),
    ],
    ids=str,
)
def test_supports_without_a_bijection_are_refused(support, message):
    with pytest.raises(NotImplementedError, match=message):
        bijection(support)


def test_shapes_that_are_no_triangle_or_square_are_refused():
    t = bijection(constraints.positive_definite)
    with pytest.raises(ValueError, match="as many entries as a triangle; got 4"):
        t.forward_shape(torch.Size([2, 4]))
    with pytest.raises(ValueError, match=r"must be square; got shape \(2, 3\)"):
        t.inverse_shape(torch.Size([2, 3]))


def test_a_mixture_of_uniforms_on_one_interval_is_supported():
    law = dist.MixtureSameFamily(dist.Categorical(torch.ones(3)), dist.Uniform(0.0, 2.0).expand([3]))
    assert bijection(law.support)(torch.zeros(5)).tolist() == [1.0] * 5
