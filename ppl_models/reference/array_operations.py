"""ATen operations that make, cut, join and reorder arrays, in JAX. Importing this module imports JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

__all__ = ["CONVERSIONS", "axes"]

A: Any = torch.ops.aten

Function = Callable[..., Any]

DTYPES = {
    torch.bool: jnp.bool_,
    torch.uint8: jnp.uint8,
    torch.int8: jnp.int8,
    torch.int16: jnp.int16,
    torch.int32: jnp.int32,
    torch.int64: jnp.int64,
    torch.float16: jnp.float16,
    torch.bfloat16: jnp.bfloat16,
    torch.float32: jnp.float32,
    torch.float64: jnp.float64,
}


def axes(dim: int | Sequence[int] | None) -> Any:
    """Write dimensions as JAX does; none given are all.

    Example:
        >>> axes([0, -1]), axes(1), axes([])
        ((0, -1), 1, None)
    """
    return dim if dim is None or isinstance(dim, int) else tuple(dim) or None


def _cast(x: Any, dtype: torch.dtype | None = None, **_: Any) -> Any:
    return x if dtype is None else jnp.asarray(x).astype(DTYPES[dtype])


def _like(x: Any, value: Any, dtype: torch.dtype | None = None, **_: Any) -> Any:
    return jnp.full(x.shape, value, x.dtype if dtype is None else DTYPES[dtype])


def _new(x: Any, shape: Any, value: Any, dtype: torch.dtype | None = None, **_: Any) -> Any:
    return jnp.full(shape, value, x.dtype if dtype is None else DTYPES[dtype])


def _full(shape: Any, value: Any, dtype: torch.dtype | None = None, **_: Any) -> Any:
    return jnp.full(shape, value, None if dtype is None else DTYPES[dtype])


def _expand(x: Any, shape: Any, implicit: bool = False) -> Any:
    new = len(shape) - x.ndim
    return jnp.broadcast_to(x, [x.shape[i - new] if size == -1 else size for i, size in enumerate(shape)])


def _squeeze(x: Any, dim: Any = None) -> Any:
    dims = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    return jnp.squeeze(x, tuple(d for d in dims if x.ndim and x.shape[d] == 1))


def _at(dim: int, what: Any, ndim: int) -> tuple[Any, ...]:
    return (slice(None),) * (dim % ndim) + (what,)


def _range(start: int | None, end: int | None, step: int, size: int) -> slice:
    return slice(*slice(start, end, step).indices(size))


def _select(x: Any, dim: int, index: int) -> Any:
    return x[_at(dim, index, x.ndim)]


def _slice(x: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
    return x[_at(dim, _range(start, end, step, x.shape[dim]), x.ndim)]


def _slice_scatter(
    x: Any, part: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:
    return x.at[_at(dim, _range(start, end, step, x.shape[dim]), x.ndim)].set(part)


def _split(x: Any, size: int | Sequence[int], dim: int = 0) -> list[Any]:
    whole = x.shape[dim]
    ends = np.arange(size, whole, size) if isinstance(size, int) else np.cumsum(size)[:-1]
    return list(jnp.split(x, ends, axis=dim))


def _cat(parts: Any, dim: int = 0) -> Any:
    ndim = max(part.ndim for part in parts)
    return jnp.concatenate([part for part in parts if part.ndim == ndim], dim)  # torch skips empty vectors


def _index(x: Any, indices: Any) -> Any:
    return x[tuple(slice(None) if index is None else index for index in indices)]


def _index_put(x: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
    mask = indices[0]
    if len(indices) == 1 and mask.dtype == bool and jnp.size(values) == 1:  # the mask may depend on latents
        mask = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
        return jnp.where(mask, x + values if accumulate else values, x)
    at = x.at[tuple(slice(None) if index is None else index for index in indices)]
    return at.add(values) if accumulate else at.set(values)


def _index_along(x: Any, dim: int, index: Any) -> tuple[Any, ...]:
    """The indices of entries that ``index`` names along ``dim``, as torch.gather and scatter read it."""
    grid = list(jnp.indices(index.shape, sparse=True))
    grid[dim % x.ndim] = index
    return tuple(grid)


def _scatter(x: Any, dim: int, index: Any, source: Any, **_: Any) -> Any:
    part = source if jnp.ndim(source) == 0 else source[tuple(map(slice, index.shape))]
    return x.at[_index_along(x, dim, index)].set(part)


def _scatter_add(x: Any, dim: int, index: Any, source: Any) -> Any:
    return x.at[_index_along(x, dim, index)].add(source[tuple(map(slice, index.shape))])


def _diag_embed(x: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    rows = np.arange(x.shape[-1]) + max(-offset, 0)
    columns = np.arange(x.shape[-1]) + max(offset, 0)
    size = x.shape[-1] + abs(offset)
    square = jnp.zeros((*x.shape[:-1], size, size), x.dtype).at[..., rows, columns].set(x)
    return jnp.moveaxis(square, (-2, -1), (dim1, dim2))


def _diagonal_scatter(x: Any, part: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    last = jnp.moveaxis(x, (dim1, dim2), (-2, -1))
    rows = np.arange(part.shape[-1]) + max(-offset, 0)
    columns = np.arange(part.shape[-1]) + max(offset, 0)
    return jnp.moveaxis(last.at[..., rows, columns].set(part), (-2, -1), (dim1, dim2))


def _as_strided(x: Any, shape: Any, stride: Any, offset: int | None = 0) -> Any:
    grids = np.indices(shape)
    where = (offset or 0) + sum(step * grid for step, grid in zip(stride, grids, strict=True))
    return x.reshape(-1)[where]


def _pad(x: Any, pad: Sequence[int], value: float = 0.0) -> Any:
    pairs = list(zip(pad[::2], pad[1::2], strict=True))[::-1]
    widths = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    return lax.pad(x, jnp.asarray(value, x.dtype), [(low, high, 0) for low, high in widths])


def _roll(x: Any, shifts: Any, dims: Any = ()) -> Any:
    return jnp.roll(x, shifts if isinstance(shifts, int) else tuple(shifts), axes(dims))


def _unfold(x: Any, dim: int, size: int, step: int) -> Any:
    first = np.arange(0, x.shape[dim] - size + 1, step)
    return jnp.moveaxis(jnp.take(x, first[:, None] + np.arange(size), dim), dim % x.ndim + 1, -1)


def _same(x: Any, **_: Any) -> Any:
    return x


CONVERSIONS: dict[Any, Function] = {
    # The same numbers.
    A.clone: _same,
    A.alias: _same,
    A.lift_fresh: _same,
    A.lift_fresh_copy: _same,
    A.contiguous: _same,
    A.detach: lax.stop_gradient,
    A._to_copy: _cast,
    A.copy: lambda x, source, non_blocking=False: jnp.broadcast_to(source, x.shape).astype(x.dtype),
    # New ones.
    A.full: _full,
    A.zeros: lambda shape, **options: _full(shape, 0, **options),
    A.ones: lambda shape, **options: _full(shape, 1, **options),
    A.scalar_tensor: lambda value, **options: _full((), value, **options),
    A.arange.default: lambda end, dtype=None, **_: _cast(jnp.arange(end), dtype),
    A.arange.start: lambda start, end, dtype=None, **_: _cast(jnp.arange(start, end), dtype),
    A.arange.start_step: lambda start, end, step=1, dtype=None, **_: _cast(jnp.arange(start, end, step), dtype),
    A.fill: lambda x, value: jnp.full(x.shape, value, x.dtype),
    A.zero: lambda x: _like(x, 0),
    A.full_like: _like,
    A.zeros_like: lambda x, **options: _like(x, 0, **options),
    A.empty_like: lambda x, **options: _like(x, 0, **options),
    A.ones_like: lambda x, **options: _like(x, 1, **options),
    A.new_full: _new,
    A.new_zeros: lambda x, shape, **options: _new(x, shape, 0, **options),
    A.new_empty: lambda x, shape, **options: _new(x, shape, 0, **options),
    A.new_ones: lambda x, shape, **options: _new(x, shape, 1, **options),
    # Shapes.
    A.view: jnp.reshape,
    A.reshape: jnp.reshape,
    A._unsafe_view: jnp.reshape,
    A._reshape_alias: lambda x, shape, stride: jnp.reshape(x, shape),
    A.expand: _expand,
    A.permute: jnp.transpose,
    A.transpose: jnp.swapaxes,
    A.t: jnp.transpose,
    A.squeeze: _squeeze,
    A.unsqueeze: jnp.expand_dims,
    A.repeat: lambda x, times: jnp.tile(x, times),
    A.flip: lambda x, dims: jnp.flip(x, axes(dims)),
    A.roll: _roll,
    A.constant_pad_nd: _pad,
    A.as_strided: _as_strided,
    # Parts.
    A.select: _select,
    A.slice: _slice,
    A.split: _split,
    A.split_with_sizes: _split,
    A.unfold: _unfold,
    A.unbind: lambda x, dim=0: [_select(x, dim, i) for i in range(x.shape[dim])],
    A.index: _index,
    A.masked_select: lambda x, mask: x[np.broadcast_to(mask, x.shape)],
    A.index_select: lambda x, dim, index: jnp.take(x, index, axis=dim),
    A.gather: lambda x, dim, index, sparse_grad=False: x[_index_along(x, dim, index)],
    A.embedding: lambda weight, index, *_, **__: weight[index],
    A.tril: jnp.tril,
    A.triu: jnp.triu,
    A.diagonal: lambda x, offset=0, dim1=0, dim2=1: jnp.diagonal(x, offset, dim1, dim2),
    # Whole from parts.
    A.cat: _cat,
    A.stack: jnp.stack,
    A.diag_embed: _diag_embed,
    A.index_put: _index_put,
    A.scatter: _scatter,
    A.scatter_add: _scatter_add,
    A.index_add: lambda x, dim, index, source, alpha=1: x.at[_at(dim, index, x.ndim)].add(alpha * source),
    A.index_copy: lambda x, dim, index, source: x.at[_at(dim, index, x.ndim)].set(source),
    A.select_scatter: lambda x, part, dim, index: x.at[_at(dim, index, x.ndim)].set(part),
    A.slice_scatter: _slice_scatter,
    A.diagonal_scatter: _diagonal_scatter,
}
