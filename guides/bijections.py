"""The bijection from unconstrained values to each support, without unused coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import constraints
from pyro.distributions.transforms import CholeskyTransform, CorrMatrixCholeskyTransform, SoftplusTransform
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import ComposeTransform, ExpTransform, IndependentTransform, Transform
from torch.distributions.utils import tril_matrix_to_vec, vec_to_tril_matrix
from torch.nn.functional import logsigmoid

__all__ = ["bijection"]

_MIXTURE: Any = getattr(constraints, "MixtureSameFamilyConstraint", ())  # older versions of torch have none


def bijection(support: Constraint) -> Transform:
    r"""Return the bijection from unconstrained values to a support.

    It is :func:`torch.distributions.biject_to`'s own, save for matrices and mixtures. With :math:`y = t(u)`, its
    ``log_abs_det_jacobian`` is

    .. math:: \log \left| \det \frac{\partial y_\text{free}}{\partial u} \right|,

    where the free entries :math:`y_\text{free}` are those that densities are taken over: the lower triangle of a
    Cholesky factor or symmetric matrix, without its diagonal where that is ones or follows from the rest; and all but
    the last entry of a point of the simplex.

    Shapes: ``inverse_shape`` of ``(*, *event)`` is that of :math:`u`. For n × n matrices it is
    ``(*, n (n + 1) / 2)``, row by row, or ``(*, n (n - 1) / 2)`` where the diagonal is not free. The log-determinant is
    ``(*,)`` for vectors and matrices, and ``(*, *event)``, entry by entry, for numbers.

    Args:
        support: The constraint on :math:`y`. A semidefinite matrix is taken to be definite, as almost all are.

    Raises:
        NotImplementedError: If there is none for the support: it is discrete, or the sphere, or a mixture's whose
            components differ in theirs, or joins vectors by ``cat`` or ``stack`` (which torch cannot check either).

    Example:
        >>> import torch
        >>> from torch.distributions import constraints
        >>> t = bijection(constraints.positive_definite)
        >>> t.inverse_shape(torch.Size([5, 2, 2]))
        torch.Size([5, 3])
        >>> t(torch.tensor([0.0, 2.0, 0.0]))
        tensor([[1., 2.],
                [2., 5.]])

    References:
        Stan Development Team, Stan Reference Manual, 2024, chapter "Constraint Transforms",
        https://mc-stan.org/docs/reference-manual/transforms.html, sections "Covariance matrices" and "Cholesky factors
        of correlation matrices". The latter we write in :math:`\log \cosh u`, so that nothing cancels.
    """
    if isinstance(support, constraints.independent):
        return IndependentTransform(bijection(support.base_constraint), support.reinterpreted_batch_ndims)
    if isinstance(support, _MIXTURE):
        _check_shared(support.base_constraint)
        return bijection(support.base_constraint)
    if isinstance(support, constraints.cat | constraints.stack):
        _check_joined(support)
    if type(support) in _OWN:
        return _OWN[type(support)]()
    try:
        return biject_to(support)
    except NotImplementedError as error:
        raise NotImplementedError(
            f"a support must have a bijection from the reals; none is known to {support}. "
            "If it is the sphere, use ProjectedNormalReparam, or normalise a normal vector in the model."
        ) from error


class _Triangular(Transform):
    """Abstract: from the free entries of a lower triangle, row by row; :attr:`offset` is -1 without the diagonal."""

    bijective = True
    domain = constraints.real_vector
    offset = -1

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        n = (math.isqrt(8 * shape[-1] + 1) - 1) // 2 - self.offset
        if self.inverse_shape(torch.Size([n, n])) != shape[-1:]:
            raise ValueError(f"a vector must have as many entries as a triangle; got {shape[-1]}.")
        return torch.Size([*shape[:-1], n, n])

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        if len(shape) < 2 or shape[-1] != shape[-2]:
            raise ValueError(f"a matrix must be square; got shape {tuple(shape)}.")
        return torch.Size([*shape[:-2], shape[-1] * (shape[-1] + 1 + 2 * self.offset) // 2])


class _Cholesky(_Triangular):
    """To lower-triangular matrices whose diagonal is positive, by way of ``to_positive``."""

    codomain = constraints.lower_cholesky
    offset = 0

    def __init__(self, to_positive: Transform) -> None:
        super().__init__()
        self.to_positive = to_positive

    def _call(self, x: Tensor) -> Tensor:
        matrix = vec_to_tril_matrix(x)
        return matrix.tril(-1) + self.to_positive(_diagonal(matrix)).diag_embed()

    def _inverse(self, y: Tensor) -> Tensor:
        return tril_matrix_to_vec(y.tril(-1) + self.to_positive.inv(_diagonal(y)).diag_embed())

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.to_positive.log_abs_det_jacobian(_diagonal(vec_to_tril_matrix(x)), _diagonal(y)).sum(-1)


class _UnitCholesky(_Triangular):
    """To lower-triangular matrices with ones on the diagonal."""

    codomain = constraints.unit_lower_cholesky

    def _call(self, x: Tensor) -> Tensor:
        matrix = vec_to_tril_matrix(x, -1)
        return matrix + torch.ones_like(_diagonal(matrix)).diag_embed()

    def _inverse(self, y: Tensor) -> Tensor:
        return tril_matrix_to_vec(y, -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:-1])


class _CorrCholesky(_Triangular):
    r"""To Cholesky factors of correlation matrices: :math:`y_{ij} = \tanh u_{ij} \prod_{k<j} 1 / \cosh u_{ik}`.

    On the diagonal 1 takes the place of tanh. torch's own takes the logs of differences, which cancel: in float32 with
    n = 10 and :math:`u \sim N(0, 1.5^2)`, one log-determinant in seven is NaN or infinite.
    """

    codomain = constraints.corr_cholesky

    def _call(self, x: Tensor) -> Tensor:
        u = vec_to_tril_matrix(x, -1)
        log_sech = _log_sech(u)
        tanh = u.tanh() + torch.ones_like(_diagonal(u)).diag_embed()
        return tanh * (log_sech.cumsum(-1) - log_sech).exp()

    def _inverse(self, y: Tensor) -> Tensor:
        # Rows have unit length: what an entry and those before it leave over is what stands after it.
        after = y.square().flip(-1).cumsum(-1).flip(-1).roll(-1, -1).sqrt()
        return (tril_matrix_to_vec(y, -1) / tril_matrix_to_vec(after, -1)).asinh()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        index = torch.arange(y.shape[-1], device=y.device)
        # u_ik is in its own tanh, whose derivative is sech^2, and in each y_ij with k < j < i: i - k + 1 in all.
        times = tril_matrix_to_vec(index[:, None] - index + 1, -1)
        return (times * _log_sech(x)).sum(-1)


_OWN: dict[type[Constraint], Callable[[], Transform]] = {
    type(constraints.lower_cholesky): lambda: _Cholesky(ExpTransform()),
    type(constraints.softplus_lower_cholesky): lambda: _Cholesky(SoftplusTransform()),
    type(constraints.unit_lower_cholesky): _UnitCholesky,
    type(constraints.corr_cholesky): _CorrCholesky,
    type(constraints.positive_definite): lambda: ComposeTransform([_Cholesky(ExpTransform()), CholeskyTransform().inv]),
    type(constraints.corr_matrix): lambda: ComposeTransform([_CorrCholesky(), CorrMatrixCholeskyTransform().inv]),
}
_OWN[type(constraints.positive_semidefinite)] = _OWN[type(constraints.positive_definite)]


def _check_shared(support: Any) -> None:
    base = support
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    if any(isinstance(bound, Tensor) and bound.dim() > 0 for bound in vars(base).values()):
        raise NotImplementedError(
            f"the components of a mixture must share one support, with numbers for bounds; got {support}. "
            "If they do, write for instance Uniform(0.0, 2.0).expand([3])."
        )


def _check_joined(support: Any) -> None:
    if support.dim >= 0 or any(bijection(part).codomain.event_dim > 0 for part in support.cseq):
        raise NotImplementedError(
            f"cat and stack must join supports of numbers, along a negative dim; got {support.cseq} along dim "
            f"{support.dim}. Make one sample site of each."
        )


def _diagonal(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1)


def _log_sech(x: Tensor) -> Tensor:
    return math.log(2) - x + logsigmoid(2 * x)
