"""ATen operations that the layers of torch.nn emit, in JAX. Importing this module imports JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

__all__ = ["LAYERS"]

A: Any = torch.ops.aten

Function = Callable[..., Any]


def _convolution(
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Any:
    pads = [(p, p) for p in padding]
    dilated = None
    if transposed:  # the adjoint: spread the input, turn the kernel round, and swap its channels within each group
        into, out, *kernel = weight.shape
        weight = weight.reshape(groups, into // groups, out, *kernel).swapaxes(1, 2)
        weight = jnp.flip(weight.reshape(groups * out, into // groups, *kernel), tuple(range(2, x.ndim)))
        reach = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
        pads = [(r, r + extra) for r, extra in zip(reach, output_padding, strict=True)]
        stride, dilated = [1] * len(kernel), stride
    out = lax.conv_general_dilated(
        x, weight, stride, pads, lhs_dilation=dilated, rhs_dilation=dilation, feature_group_count=groups
    )
    return out if bias is None else out + bias.reshape(-1, *[1] * (x.ndim - 2))


# ---------------------------------------------------------------------------------------------------------------- pools


def _of_each(number: Sequence[int], dims: int) -> list[int]:
    return list(number) * dims if len(number) == 1 else list(number)


def _overshoot(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    """How far the last window reaches beyond the padding: 0 unless it is rounded up."""
    reach = dilation * (kernel - 1) + 1
    count = (size + 2 * padding - reach + (stride - 1 if ceil else 0)) // stride + 1
    count -= ceil and (count - 1) * stride >= size + padding  # a window starts inside the input or its left padding
    return max(0, (count - 1) * stride + reach - size - 2 * padding)


def _max_pool(dims: int) -> Function:
    def pool(
        x: Any, kernel: Any, stride: Any = (), padding: Any = (0,), dilation: Any = (1,), ceil: bool = False
    ) -> Any:
        kernel = _of_each(kernel, dims)
        stride, padding, dilation = (_of_each(n, dims) for n in (stride or kernel, padding, dilation))
        lead, sizes = (1,) * (x.ndim - dims), x.shape[-dims:]
        beyond = [_overshoot(*each, ceil) for each in zip(sizes, kernel, stride, padding, dilation, strict=True)]
        pads = [(0, 0)] * len(lead) + [(p, p + extra) for p, extra in zip(padding, beyond, strict=True)]
        found = lax.reduce_window(
            x, -jnp.inf, lax.max, (*lead, *kernel), (*lead, *stride), pads, window_dilation=(*lead, *dilation)
        )
        return found, None

    return pool


def _avg_pool(dims: int) -> Function:
    def pool(
        x: Any,
        kernel: Any,
        stride: Any = (),
        padding: Any = (0,),
        ceil: bool = False,
        count_padding: bool = True,
        divisor: int | None = None,
    ) -> Any:
        kernel = _of_each(kernel, dims)
        stride, padding = (_of_each(n, dims) for n in (stride or kernel, padding))
        sizes = x.shape[-dims:]
        beyond = [_overshoot(*each, 1, ceil) for each in zip(sizes, kernel, stride, padding, strict=True)]
        pads = [(p, p + extra) for p, extra in zip(padding, beyond, strict=True)]

        def total(array: Any, pads: Any) -> Any:
            ones = (1,) * (array.ndim - dims)
            edge = [(0, 0)] * len(ones)
            return lax.reduce_window(array, 0.0, lax.add, (*ones, *kernel), (*ones, *stride), edge + pads)

        if divisor is not None:
            return total(x, pads) / divisor
        if count_padding:
            inside = jnp.ones([size + 2 * p for size, p in zip(sizes, padding, strict=True)], x.dtype)
            return total(x, pads) / total(inside, [(0, extra) for extra in beyond])
        return total(x, pads) / total(jnp.ones(sizes, x.dtype), pads)

    return pool


def _windows(size: int, out: int) -> list[slice]:
    """The windows by which torch shrinks (or spreads) a dimension to a given size."""
    return [slice(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]


def _adaptive_avg_pool(x: Any, shape: Sequence[int]) -> Any:
    for axis, out in zip(range(-len(shape), 0), shape, strict=True):
        weights = np.zeros((out, x.shape[axis]))
        for i, window in enumerate(_windows(x.shape[axis], out)):
            weights[i, window] = 1 / (window.stop - window.start)
        x = jnp.moveaxis(jnp.tensordot(x, weights, ([axis], [1])), -1, axis)
    return x


def _adaptive_max_pool(x: Any, shape: Sequence[int]) -> Any:
    dims = tuple(range(-len(shape), 0))
    windows = [_windows(x.shape[dim], out) for dim, out in zip(dims, shape, strict=True)]
    found = jnp.stack([x[(..., *window)].max(dims) for window in product(*windows)], -1)
    return found.reshape(*x.shape[: -len(shape)], *shape), None


def _upsample_bilinear(x: Any, shape: Sequence[int], align_corners: bool, *scales: float | None) -> Any:
    for axis, out, scale in zip((-2, -1), shape, scales or (None, None), strict=True):
        size = x.shape[axis]
        if align_corners:
            at = np.linspace(0, size - 1, out)
        else:
            at = np.maximum((np.arange(out) + 0.5) * (size / out if scale is None else 1 / scale) - 0.5, 0)
        weights = np.maximum(1 - np.abs(np.minimum(at, size - 1)[:, None] - np.arange(size)), 0)
        x = jnp.moveaxis(jnp.tensordot(x, weights, ([axis], [1])), -1, axis)
    return x


# ------------------------------------------------------------------------------------------------------- normalisations


def _scaled(x: Any, weight: Any, bias: Any, shape: Any) -> Any:
    x = x if weight is None else x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


def _standardised(x: Any, dims: tuple[int, ...], eps: float) -> Any:
    centred = x - x.mean(dims, keepdims=True)
    return centred * lax.rsqrt(jnp.square(centred).mean(dims, keepdims=True) + eps)


def _layer_norm(x: Any, shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    return _scaled(_standardised(x, tuple(range(-len(shape), 0)), eps), weight, bias, tuple(shape)), None, None


def _group_norm(x: Any, weight: Any, bias: Any, batch: int, channels: int, _: int, groups: int, eps: float) -> Any:
    grouped = _standardised(x.reshape(batch, groups, -1), (-1,), eps).reshape(x.shape)
    return _scaled(grouped, weight, bias, (channels, *[1] * (x.ndim - 2))), None, None


def _batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, momentum: float, eps: float
) -> Any:
    shape = (-1, *[1] * (x.ndim - 2))
    if training:
        x = _standardised(x, (0, *range(2, x.ndim)), eps)
    else:
        x = (x - mean.reshape(shape)) * lax.rsqrt(variance.reshape(shape) + eps)
    return _scaled(x, weight, bias, shape), None, None


# ----------------------------------------------------------------------------------------------------------- two inputs


def _distances(x: Any, y: Any, p: float = 2.0, mode: int | None = None) -> Any:
    gaps = jnp.abs(x[..., :, None, :] - y[..., None, :, :])
    if p != 2.0:
        return gaps.max(-1) if np.isinf(p) else (gaps**p).sum(-1) ** (1 / p)
    square = jnp.square(gaps).sum(-1)
    away = square > 0  # torch's slope where two points meet is 0
    return jnp.where(away, jnp.sqrt(jnp.where(away, square, 1.0)), 0.0)


def _trilinear(
    x: Any, y: Any, z: Any, expand_x: Any, expand_y: Any, expand_z: Any, summed: Any, unrolled: int = 1
) -> Any:
    parts = [jnp.expand_dims(each, tuple(dims)) for each, dims in ((x, expand_x), (y, expand_y), (z, expand_z))]
    return (parts[0] * parts[1] * parts[2]).sum(tuple(summed))


LAYERS: dict[Any, Function] = {
    A.convolution: _convolution,
    A.max_pool2d_with_indices: _max_pool(2),
    A.max_pool3d_with_indices: _max_pool(3),
    A.avg_pool2d: _avg_pool(2),
    A.avg_pool3d: _avg_pool(3),
    A._adaptive_avg_pool2d: _adaptive_avg_pool,
    A._adaptive_avg_pool3d: _adaptive_avg_pool,
    A.adaptive_max_pool2d: _adaptive_max_pool,
    A.adaptive_max_pool3d: _adaptive_max_pool,
    A.upsample_bilinear2d: _upsample_bilinear,
    A.native_layer_norm: _layer_norm,
    A.native_group_norm: _group_norm,
    A.native_batch_norm: _batch_norm,
    A._native_batch_norm_legit.no_stats: lambda x, weight, bias, training, momentum, eps: _batch_norm(
        x, weight, bias, None, None, training, momentum, eps
    ),
    A._native_batch_norm_legit_no_training: lambda x, weight, bias, mean, variance, momentum, eps: _batch_norm(
        x, weight, bias, mean, variance, False, momentum, eps
    ),
    A._cdist_forward: _distances,
    A._euclidean_dist: _distances,
    A._trilinear: _trilinear,
}
