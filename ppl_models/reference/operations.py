"""What each ATen operation is in JAX. Importing this module imports JAX."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch
from jax import lax
from jax.scipy import linalg, special

from ppl_models.reference.array_operations import CONVERSIONS as ARRAYS
from ppl_models.reference.array_operations import axes
from ppl_models.reference.layer_operations import LAYERS
from ppl_models.reference.tape import is_in_place

__all__ = ["OPERATIONS", "operation"]

A: Any = torch.ops.aten

Function = Callable[..., Any]


def operation(target: Any) -> Function | None:
    """Find the JAX function of an ATen operation, given as an overload or (for all its overloads) as a packet.

    That of an operation in place is that of the one which makes a new array.

    Example:
        >>> import torch
        >>> operation(torch.ops.aten.exp.default) is jnp.exp
        True
    """
    packet: Any = getattr(target, "overloadpacket", None)
    found = OPERATIONS.get(target) or OPERATIONS.get(packet)
    if found is None and is_in_place(target):
        found = OPERATIONS.get(getattr(A, packet.__name__.removesuffix("_"), None))
    return found


# --------------------------------------------------------------------------------------------------- element by element


def _plus(sign: int) -> Function:
    return lambda x, y, alpha=1: jnp.add(x, sign * alpha * y)


def _power(x: Any, exponent: Any) -> Any:
    whole = isinstance(exponent, float) and exponent.is_integer()  # x ** 2.0 of a negative x has a derivative
    return x ** (int(exponent) if whole else exponent)


def _divide(x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode is None:
        return jnp.true_divide(x, y)
    return jnp.floor_divide(x, y) if rounding_mode == "floor" else jnp.trunc(jnp.true_divide(x, y))


def _clamp(x: Any, low: Any = None, high: Any = None) -> Any:
    return jnp.clip(x, low, high)


def _softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    return jnp.where(x * beta > threshold, x, jax.nn.softplus(beta * x) / beta)


def _logit(x: Any, eps: float | None = None) -> Any:
    return special.logit(x if eps is None else jnp.clip(x, eps, 1 - eps))


def _gelu(x: Any, approximate: str = "none") -> Any:
    return jax.nn.gelu(x, approximate=approximate == "tanh")


ELEMENTWISE: dict[Any, Function] = {
    A.add: _plus(1),
    A.sub: _plus(-1),
    A.rsub: lambda x, y, alpha=1: y - alpha * x,
    A.mul: jnp.multiply,
    A.div: _divide,
    A.floor_divide: jnp.floor_divide,
    A.remainder: jnp.remainder,
    A.fmod: jnp.fmod,
    A.pow: _power,
    A.addcmul: lambda x, a, b, value=1: x + value * a * b,
    A.addcdiv: lambda x, a, b, value=1: x + value * a / b,
    A.lerp: lambda x, y, weight: x + weight * (y - x),
    A.neg: jnp.negative,
    A.abs: jnp.abs,
    A.sign: jnp.sign,
    A.sgn: jnp.sign,
    A.reciprocal: jnp.reciprocal,
    A.square: jnp.square,
    A.sqrt: jnp.sqrt,
    A.rsqrt: lax.rsqrt,
    A.exp: jnp.exp,
    A.exp2: jnp.exp2,
    A.expm1: jnp.expm1,
    A.log: jnp.log,
    A.log2: jnp.log2,
    A.log10: jnp.log10,
    A.log1p: jnp.log1p,
    A.logaddexp: jnp.logaddexp,
    A.logaddexp2: jnp.logaddexp2,
    A.sin: jnp.sin,
    A.cos: jnp.cos,
    A.tan: jnp.tan,
    A.asin: jnp.arcsin,
    A.acos: jnp.arccos,
    A.atan: jnp.arctan,
    A.atan2: jnp.arctan2,
    A.sinh: jnp.sinh,
    A.cosh: jnp.cosh,
    A.tanh: jnp.tanh,
    A.asinh: jnp.arcsinh,
    A.acosh: jnp.arccosh,
    A.atanh: jnp.arctanh,
    A.hypot: jnp.hypot,
    A.floor: jnp.floor,
    A.ceil: jnp.ceil,
    A.round: jnp.round,
    A.trunc: jnp.trunc,
    A.maximum: jnp.maximum,
    A.minimum: jnp.minimum,
    A.fmax: jnp.fmax,
    A.fmin: jnp.fmin,
    A.clamp: _clamp,
    A.clamp_min: _clamp,
    A.clamp_max: lambda x, high: _clamp(x, None, high),
    A.sigmoid: jax.nn.sigmoid,
    A.log_sigmoid_forward: lambda x: (jax.nn.log_sigmoid(x), x),
    A.softplus: _softplus,
    A.relu: jax.nn.relu,
    A.silu: jax.nn.silu,
    A.gelu: _gelu,
    A.elu: lambda x, alpha=1.0, scale=1.0, input_scale=1.0: (
        scale * jnp.where(x > 0, x, alpha * jnp.expm1(input_scale * jnp.minimum(x, 0)))
    ),
    A.leaky_relu: lambda x, slope=0.01: jnp.where(x > 0, x, slope * x),
    A.hardtanh: lambda x, low=-1.0, high=1.0: _clamp(x, low, high),
    A.erf: special.erf,
    A.erfc: special.erfc,
    A.erfinv: special.erfinv,
    A.lgamma: special.gammaln,
    A.digamma: special.digamma,
    A.polygamma: special.polygamma,
    A.mvlgamma: special.multigammaln,
    A.igamma: special.gammainc,
    A.igammac: special.gammaincc,
    A.i0: special.i0,
    A.special_i0e: special.i0e,
    A.special_i1: special.i1,
    A.special_i1e: special.i1e,
    A.special_ndtri: special.ndtri,
    A.special_log_ndtr: special.log_ndtr,
    A.xlogy: special.xlogy,
    A.special_xlog1py: special.xlog1py,
    A.special_entr: special.entr,
    A.special_zeta: special.zeta,
    A.logit: _logit,
    A.isnan: jnp.isnan,
    A.isinf: jnp.isinf,
    A.isfinite: jnp.isfinite,
    A.eq: jnp.equal,
    A.ne: jnp.not_equal,
    A.lt: jnp.less,
    A.le: jnp.less_equal,
    A.gt: jnp.greater,
    A.ge: jnp.greater_equal,
    A.logical_and: jnp.logical_and,
    A.logical_or: jnp.logical_or,
    A.logical_xor: jnp.logical_xor,
    A.logical_not: jnp.logical_not,
    A.bitwise_and: jnp.bitwise_and,
    A.bitwise_or: jnp.bitwise_or,
    A.bitwise_xor: jnp.bitwise_xor,
    A.bitwise_not: jnp.bitwise_not,
    A.where: jnp.where,
    A.masked_fill: lambda x, mask, value: jnp.where(mask, value, x),
}


# ----------------------------------------------------------------------------------------------------------- reductions


def _extreme(find: Function) -> Function:
    def extreme(x: Any, dim: int, keepdim: bool = False) -> tuple[Any, Any]:
        index = find(x, axis=dim, keepdims=True)
        value = jnp.take_along_axis(x, index, dim)
        return (value, index) if keepdim else (value.squeeze(dim), index.squeeze(dim))

    return extreme


def _reduce(function: Function) -> Function:
    return lambda x, dim=None, keepdim=False, dtype=None: function(x, axis=axes(dim), keepdims=keepdim)


def _variance(x: Any, dim: Any = None, correction: int | None = 1, keepdim: bool = False) -> Any:
    return jnp.var(x, axis=axes(dim), ddof=1 if correction is None else correction, keepdims=keepdim)


def _vector_norm(x: Any, ord: float = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    axis = tuple(range(x.ndim)) if dim is None else axes(dim)
    if math.isinf(ord):
        return (jnp.max if ord > 0 else jnp.min)(jnp.abs(x), axis=axis, keepdims=keepdim)
    return jnp.sum(jnp.abs(x) ** _whole(ord), axis=axis, keepdims=keepdim) ** (1 / ord)


def _whole(number: float) -> float:
    return int(number) if float(number).is_integer() else number


def _sort(x: Any, dim: int = -1, descending: bool = False, stable: bool | None = None) -> tuple[Any, Any]:
    index = jnp.argsort(x, axis=dim, descending=descending)
    return jnp.take_along_axis(x, index, dim), index


def _topk(x: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Any, Any]:
    values, index = _sort(x, dim, descending=largest)
    return lax.slice_in_dim(values, 0, k, axis=dim), lax.slice_in_dim(index, 0, k, axis=dim)


def _kth(x: Any, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Any, Any]:
    values, index = _sort(x, dim)
    at = jnp.asarray([k - 1] if keepdim else k - 1)
    return jnp.take(values, at, dim), jnp.take(index, at, dim)


def _median(x: Any, dim: int = -1, keepdim: bool = False) -> tuple[Any, Any]:
    return _kth(x, (x.shape[dim] + 1) // 2, dim, keepdim)


def _place(places: Any, x: Any, right: bool = False, side: str | None = None) -> Any:
    return jnp.searchsorted(places, x, side=side or ("right" if right else "left"))


REDUCTIONS: dict[Any, Function] = {
    A.sum: _reduce(jnp.sum),
    A.mean: _reduce(jnp.mean),
    A.prod: _reduce(jnp.prod),
    A.amax: _reduce(jnp.max),
    A.amin: _reduce(jnp.min),
    A.max.default: jnp.max,
    A.min.default: jnp.min,
    A.max.dim: _extreme(jnp.argmax),
    A.min.dim: _extreme(jnp.argmin),
    A.argmax: _reduce(jnp.argmax),
    A.argmin: _reduce(jnp.argmin),
    A.any: _reduce(jnp.any),
    A.all: _reduce(jnp.all),
    A.var.correction: _variance,
    A.std.correction: lambda *args, **options: jnp.sqrt(_variance(*args, **options)),
    A.logsumexp: lambda x, dim, keepdim=False: special.logsumexp(x, axis=axes(dim), keepdims=keepdim),
    A.linalg_vector_norm: _vector_norm,
    A._softmax: lambda x, dim, _: jax.nn.softmax(x, axis=dim),
    A._log_softmax: lambda x, dim, _: jax.nn.log_softmax(x, axis=dim),
    A.cumsum: lambda x, dim, dtype=None: jnp.cumsum(x, axis=dim),
    A.cumprod: lambda x, dim, dtype=None: jnp.cumprod(x, axis=dim),
    A.logcumsumexp: lambda x, dim: lax.cumlogsumexp(x, axis=dim % x.ndim),
    A.cummax: lambda x, dim: (lax.cummax(x, axis=dim % x.ndim), None),
    A.cummin: lambda x, dim: (lax.cummin(x, axis=dim % x.ndim), None),
    A.sort: _sort,
    A.topk: _topk,
    A.kthvalue: _kth,
    A.median.default: lambda x: _median(x.reshape(-1))[0],
    A.median.dim: _median,
    A.bucketize.Tensor: lambda x, places, out_int32=False, right=False: _place(places, x, right),
    A.searchsorted.Tensor: lambda places, x, out_int32=False, right=False, side=None, sorter=None: _place(
        places, x, right, side
    ),
}


# ------------------------------------------------------------------------------------------------------- linear algebra


def _same_batch(*matrices: Any) -> list[Any]:
    batch = jnp.broadcast_shapes(*(matrix.shape[:-2] for matrix in matrices))
    return [jnp.broadcast_to(matrix, batch + matrix.shape[-2:]) for matrix in matrices]


def _solve_triangular(matrix: Any, right: Any, upper: bool, left: bool = True, unitriangular: bool = False) -> Any:
    matrix, right = _same_batch(matrix, right)
    return lax.linalg.triangular_solve(matrix, right, left_side=left, lower=not upper, unit_diagonal=unitriangular)


def _cholesky(matrix: Any, upper: bool = False) -> Any:
    lower = lax.linalg.cholesky(matrix)
    return lower.mT if upper else lower


def _cholesky_solve(right: Any, factor: Any, upper: bool = False) -> Any:
    lower, right = _same_batch(factor.mT if upper else factor, right)
    half = lax.linalg.triangular_solve(lower, right, left_side=True, lower=True)
    return lax.linalg.triangular_solve(lower, half, left_side=True, lower=True, transpose_a=True)


def _solve(matrix: Any, right: Any, left: bool = True, check_errors: bool = False) -> Any:
    vectors = right.ndim == 1 or right.shape == matrix.shape[:-1]
    right = right[..., None] if vectors else right
    matrix, right = _same_batch(matrix, right)
    solved = jnp.linalg.solve(matrix, right) if left else jnp.linalg.solve(matrix.mT, right.mT).mT
    return (solved[..., 0] if vectors else solved), None, None, None


def _eigh(matrix: Any, uplo: str = "L", compute_v: bool = True) -> Any:
    return jnp.linalg.eigh(matrix, UPLO=uplo)


def _svd(matrix: Any, full_matrices: bool = False, compute_uv: bool = True, driver: str | None = None) -> Any:
    if compute_uv:
        return tuple(jnp.linalg.svd(matrix, full_matrices))
    return None, jnp.linalg.svd(matrix, compute_uv=False), None


LINEAR_ALGEBRA: dict[Any, Function] = {
    A.mm: jnp.matmul,
    A.bmm: jnp.matmul,
    A.mv: jnp.matmul,
    A.dot: jnp.dot,
    A.vdot: jnp.dot,
    A.matmul: jnp.matmul,
    A.addmm: lambda x, a, b, beta=1, alpha=1: beta * x + alpha * (a @ b),
    A.addmv: lambda x, a, b, beta=1, alpha=1: beta * x + alpha * (a @ b),
    A.baddbmm: lambda x, a, b, beta=1, alpha=1: beta * x + alpha * (a @ b),
    A.linalg_cholesky_ex: lambda matrix, upper=False, check_errors=False: (_cholesky(matrix, upper), None),
    A.cholesky: _cholesky,
    A.cholesky_solve: _cholesky_solve,
    A._cholesky_solve_helper: _cholesky_solve,
    A.cholesky_inverse: lambda factor, upper=False: _cholesky_solve(jnp.eye(factor.shape[-1]), factor, upper),
    A.linalg_solve_triangular: _solve_triangular,
    A.triangular_solve: lambda right, matrix, upper=True, transpose=False, unitriangular=False: (
        _solve_triangular(matrix.mT if transpose else matrix, right, upper != transpose, True, unitriangular),
        matrix,
    ),
    A.linalg_inv_ex: lambda matrix, check_errors=False: (jnp.linalg.inv(matrix), None),
    A._linalg_solve_ex: _solve,
    A._linalg_det: lambda matrix: (jnp.linalg.det(matrix), None, None),
    A._linalg_slogdet: lambda matrix: (*jnp.linalg.slogdet(matrix), None, None),
    A._linalg_eigh: _eigh,
    A._linalg_check_errors: lambda *_, **__: None,  # a failed factorisation is NaN in JAX, and rejected
    A.linalg_matrix_exp: linalg.expm,
    A._linalg_svd: _svd,
    A.linalg_qr: lambda matrix, mode="reduced": tuple(jnp.linalg.qr(matrix, mode)),
    A.linalg_pinv.atol_rtol_tensor: lambda matrix, **_: jnp.linalg.pinv(matrix),
}

#: By operation (all its overloads) or single overload.
OPERATIONS: dict[Any, Function] = {
    operator.getitem: operator.getitem,
    **ELEMENTWISE,
    **REDUCTIONS,
    **LINEAR_ALGEBRA,
    **ARRAYS,
    **LAYERS,
}
