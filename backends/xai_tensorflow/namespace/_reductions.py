"""Statistical, searching, sorting, set and utility functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from xai_tensorflow.namespace._dtypes import (
    ALLOWED,
    HALVES,
    SIGNED,
    UNSIGNED,
    as_dtype,
    both,
    require,
    tensor,
)

_NO_KERNEL = (tf.uint16, tf.uint32, tf.int8, tf.int16, tf.uint8)


def _sum_dtype(dtype: Any, wanted: Any) -> Any:
    if wanted is not None:
        return as_dtype(wanted)
    if dtype in SIGNED:
        return tf.int64
    if dtype in UNSIGNED:
        return tf.uint64
    return dtype


def _reduce(function: Callable[..., Any], x: Any, axis: Any, keepdims: Any) -> Any:
    """Reduce, small unsigned integers in int64, where TensorFlow lacks a kernel."""
    dtype = x.dtype
    if dtype in _NO_KERNEL:
        return tf.cast(function(tf.cast(x, tf.int64), axis=axis, keepdims=keepdims), dtype)
    return function(x, axis=axis, keepdims=keepdims)


def sum(x: Any, /, *, axis: Any = None, dtype: Any = None, keepdims: Any = False) -> Any:
    """Sum over axes; small integers are summed in 64 bits."""
    array = require(x, "numeric", "sum")
    return tf.reduce_sum(tf.cast(array, _sum_dtype(array.dtype, dtype)), axis=axis, keepdims=keepdims)


def prod(x: Any, /, *, axis: Any = None, dtype: Any = None, keepdims: Any = False) -> Any:
    """Product over axes; small integers are multiplied in 64 bits."""
    array = require(x, "numeric", "prod")
    wanted = _sum_dtype(array.dtype, dtype)
    if wanted == tf.uint64:  # two's complement: the same bits
        out = tf.reduce_prod(tf.cast(array, tf.int64), axis=axis, keepdims=keepdims)
        return tf.cast(out, wanted)
    return tf.reduce_prod(tf.cast(array, wanted), axis=axis, keepdims=keepdims)


def mean(x: Any, /, *, axis: Any = None, keepdims: Any = False) -> Any:
    """Mean over axes."""
    return tf.reduce_mean(require(x, "floating", "mean"), axis=axis, keepdims=keepdims)


def _count(x: Any, axis: Any) -> Any:
    if axis is None:
        return tf.size(x)
    axes = axis if isinstance(axis, tuple | list) else (axis,)
    return tf.reduce_prod(tf.gather(tf.shape(x), [a % x.shape.rank for a in axes]))


def var(x: Any, /, *, axis: Any = None, correction: float = 0.0, keepdims: Any = False) -> Any:
    """Variance over axes, with divisor count minus `correction`."""
    array = require(x, "real floating", "var")
    centred = array - tf.reduce_mean(array, axis=axis, keepdims=True)
    count = tf.cast(_count(array, axis), array.dtype) - tf.constant(correction, array.dtype)
    return tf.reduce_sum(tf.square(centred), axis=axis, keepdims=keepdims) / count


def std(x: Any, /, *, axis: Any = None, correction: float = 0.0, keepdims: Any = False) -> Any:
    """Standard deviation over axes, with divisor count minus `correction`."""
    return tf.sqrt(var(require(x, "real floating", "std"), axis=axis, correction=correction, keepdims=keepdims))


def max(x: Any, /, *, axis: Any = None, keepdims: Any = False) -> Any:
    """Greatest value over axes."""
    return _extreme(tf.reduce_max, x, axis, keepdims, "max")


def min(x: Any, /, *, axis: Any = None, keepdims: Any = False) -> Any:
    """Least value over axes."""
    return _extreme(tf.reduce_min, x, axis, keepdims, "min")


def _extreme(function: Callable[..., Any], x: Any, axis: Any, keepdims: Any, name: str) -> Any:
    array = require(x, "real", name)
    if array.shape.num_elements() == 0 and axis is None:
        raise ValueError(f"{name} of an empty array")
    out = _reduce(function, array, axis, keepdims)
    if array.dtype.is_floating:
        missing = tf.reduce_any(tf.math.is_nan(array), axis=axis, keepdims=keepdims)
        out = tf.where(missing, tf.constant(np.nan, out.dtype), out)
    return out


def _cumulative(
    function: Callable[..., Any], x: Any, axis: Any, dtype: Any, initial: Any, start: int, name: str
) -> Any:
    array = require(x, "numeric", name)
    if axis is None:
        if array.shape.rank != 1:
            raise ValueError(f"{name} needs `axis` for arrays of {array.shape.rank} axes")
        axis = 0
    wanted = _sum_dtype(array.dtype, dtype)
    unsigned = wanted in UNSIGNED
    array = tf.cast(tf.cast(array, tf.int64) if unsigned else array, tf.int64 if unsigned else wanted)
    out = function(array, axis=axis)
    if initial:
        out = tf.concat(
            [tf.fill(tf.shape(_slice(out, axis, 0, 1, pad=True)), tf.constant(start, out.dtype)), out], axis
        )
    return tf.cast(out, wanted)


def _slice(x: Any, axis: int, start: int, stop: int, *, pad: bool = False) -> Any:
    """A slice of one axis; with `pad`, of an axis that may be empty."""
    if pad:
        shape = tf.tensor_scatter_nd_update(tf.shape(x), [[axis % x.shape.rank]], [stop - start])
        return tf.zeros(shape, x.dtype)
    index = [slice(None)] * x.shape.rank
    index[axis % x.shape.rank] = slice(start, stop)
    return x[tuple(index)]


def cumulative_sum(x: Any, /, *, axis: Any = None, dtype: Any = None, include_initial: Any = False) -> Any:
    """Running sum along an axis."""
    return _cumulative(tf.cumsum, x, axis, dtype, include_initial, 0, "cumulative_sum")


def cumulative_prod(x: Any, /, *, axis: Any = None, dtype: Any = None, include_initial: Any = False) -> Any:
    """Running product along an axis."""
    return _cumulative(tf.math.cumprod, x, axis, dtype, include_initial, 1, "cumulative_prod")


def all(x: Any, /, *, axis: Any = None, keepdims: Any = False) -> Any:
    """Whether all elements over axes are true."""
    return tf.reduce_all(tf.cast(tensor(x), tf.bool), axis=axis, keepdims=keepdims)


def any(x: Any, /, *, axis: Any = None, keepdims: Any = False) -> Any:
    """Whether any element over axes is true."""
    return tf.reduce_any(tf.cast(tensor(x), tf.bool), axis=axis, keepdims=keepdims)


def diff(x: Any, /, *, axis: int = -1, n: int = 1, prepend: Any = None, append: Any = None) -> Any:
    """Differences of neighbours along an axis, `n` times."""
    array = require(x, "numeric", "diff")
    parts = [part for part in (prepend, array, append) if part is not None]
    array = tf.concat(parts, axis) if len(parts) > 1 else array
    for _ in range(n):
        size = array.shape[axis]
        array = _slice(array, axis, 1, size) - _slice(array, axis, 0, size - 1)
    return array


def count_nonzero(x: Any, /, *, axis: Any = None, keepdims: Any = False) -> Any:
    """Number of elements that are not zero, over axes, as int64."""
    array = tensor(x)
    some = array if array.dtype == tf.bool else tf.not_equal(_comparable(array), 0)
    return tf.reduce_sum(tf.cast(some, tf.int64), axis=axis, keepdims=keepdims)


def _comparable(x: Any) -> Any:
    """Integers without kernels of their own as int64, in order."""
    return tf.cast(x, tf.int64) if x.dtype in _NO_KERNEL or x.dtype == tf.bool else x


def _arg(function: Callable[..., Any], x: Any, axis: Any, keepdims: Any, name: str) -> Any:
    array = _comparable(require(x, "real", name))
    if array.dtype.is_floating:  # the first NaN is the extreme
        worst = np.inf if name == "argmax" else -np.inf
        missing = tf.math.is_nan(array)
        flat = tf.where(missing, tf.constant(worst, array.dtype), array)
        some = tf.reduce_any(missing, axis=axis, keepdims=True)
        array = tf.where(some, tf.cast(missing, array.dtype) * (1 if name == "argmax" else -1), flat)
    if axis is None:
        out = function(tf.reshape(array, (-1,)), axis=0, output_type=tf.int64)
        return tf.reshape(out, (1,) * array.shape.rank) if keepdims else out
    out = function(array, axis=axis, output_type=tf.int64)
    return tf.expand_dims(out, axis) if keepdims else out


def argmax(x: Any, /, *, axis: Any = None, keepdims: Any = False) -> Any:
    """Position of the first greatest value, int64."""
    return _arg(tf.argmax, x, axis, keepdims, "argmax")


def argmin(x: Any, /, *, axis: Any = None, keepdims: Any = False) -> Any:
    """Position of the first least value, int64."""
    return _arg(tf.argmin, x, axis, keepdims, "argmin")


def nonzero(x: Any, /) -> Any:
    """Positions of elements that are not zero, one int64 array per axis; their number depends on the data."""
    array = tensor(x)
    if array.shape.rank == 0:
        raise ValueError("nonzero needs an array of at least one axis")
    found = tf.where(array if array.dtype == tf.bool else tf.not_equal(_comparable(array), 0))
    return tuple(found[:, axis] for axis in range(array.shape.rank))


def searchsorted(x1: Any, x2: Any, /, *, side: str = "left", sorter: Any = None) -> Any:
    """Where to insert `x2` into the sorted `x1` to keep its order, int64."""
    if side not in ("left", "right"):
        raise ValueError(f"side must be 'left' or 'right', not {side!r}")
    a, b = both(x1, x2, name="searchsorted")
    a, b = _comparable(a), _comparable(b)
    if a.dtype in HALVES:
        a, b = tf.cast(a, tf.float32), tf.cast(b, tf.float32)
    if sorter is not None:
        a = tf.gather(a, sorter)
    found = tf.searchsorted(a, tf.reshape(b, (-1,)), side=side, out_type=tf.int64)
    return tf.reshape(found, tf.shape(b))


def argsort(x: Any, /, *, axis: int = -1, descending: Any = False, stable: Any = True) -> Any:
    """Order that sorts along an axis, int64; NaN last."""
    array = _comparable(require(x, "real", "argsort"))
    if array.dtype == tf.uint64:  # flip the top bit: same order as signed
        array = tf.bitcast(tf.bitwise.bitwise_xor(array, tf.constant(2**63, tf.uint64)), tf.int64)
    if not descending:
        order = _stable_order(array, axis)
        return tf.cast(order, tf.int64)
    # Equal elements keep their order: sort the reversed axis upwards and turn the result round.
    size = array.shape[axis]
    turned = tf.reverse(array, [axis % array.shape.rank])
    order = tf.reverse(_stable_order(turned, axis), [axis % array.shape.rank])
    return tf.cast(size - 1 - order, tf.int64)


def _stable_order(x: Any, axis: int) -> Any:
    if not x.dtype.is_floating:
        return tf.argsort(x, axis=axis, stable=True)
    # NaN compares with nothing: rank first, NaN above infinity, then sort the ranks.
    missing = tf.math.is_nan(x)
    first = tf.argsort(tf.where(missing, tf.constant(np.inf, x.dtype), x), axis=axis, stable=True)
    late = tf.gather(missing, first, axis=axis, batch_dims=0) if x.shape.rank == 1 else _along(missing, first, axis)
    second = tf.argsort(tf.cast(late, tf.int32), axis=axis, stable=True)
    return _along(first, second, axis)


def _along(x: Any, order: Any, axis: int) -> Any:
    rank = x.shape.rank
    last = [a for a in range(rank) if a != axis % rank] + [axis % rank]
    back = list(np.argsort(last))
    moved, where = tf.transpose(x, last), tf.transpose(order, last)
    return tf.transpose(tf.gather(moved, where, axis=rank - 1, batch_dims=rank - 1), back)


def sort(x: Any, /, *, axis: int = -1, descending: Any = False, stable: Any = True) -> Any:
    """The array sorted along an axis; NaN last, or first if descending."""
    array = require(x, "real", "sort")
    return _along(array, argsort(array, axis=axis, descending=descending, stable=stable), axis)


class UniqueAll(NamedTuple):
    values: Any
    indices: Any
    inverse_indices: Any
    counts: Any


class UniqueCounts(NamedTuple):
    values: Any
    counts: Any


class UniqueInverse(NamedTuple):
    values: Any
    inverse_indices: Any


def unique_all(x: Any, /) -> UniqueAll:
    """Distinct values, first positions, positions of each element among them, and counts; every NaN is distinct."""
    array = tensor(x)
    flat = tf.reshape(array, (-1,))
    if flat.dtype == tf.bool:
        found = unique_all(tf.cast(array, tf.int32))
        return UniqueAll(tf.cast(found.values, tf.bool), *found[1:])
    if flat.dtype not in ALLOWED["real"]:
        raise TypeError(f"unique functions are defined for real arrays here, not {flat.dtype.name}")
    order = argsort(flat)
    ordered = tf.gather(flat, order)
    key = _comparable(ordered)
    fresh = tf.concat([tf.ones_like(key[:1], tf.bool), tf.not_equal(key[1:], key[:-1])], 0)
    rank = tf.cumsum(tf.cast(fresh, tf.int64)) - 1
    starts = tf.reshape(tf.where(fresh), (-1,))
    inverse = tf.scatter_nd(order[:, None], rank, tf.shape(flat, out_type=tf.int64))
    ends = tf.concat([starts[1:], tf.shape(flat, out_type=tf.int64)], 0)
    return UniqueAll(
        tf.gather(ordered, starts),
        tf.gather(order, starts),
        tf.reshape(inverse, tf.shape(array)),
        ends[: tf.size(starts)] - starts,
    )


def unique_counts(x: Any, /) -> UniqueCounts:
    """Distinct values and their counts."""
    found = unique_all(x)
    return UniqueCounts(found.values, found.counts)


def unique_inverse(x: Any, /) -> UniqueInverse:
    """Distinct values and the position of each element among them."""
    found = unique_all(x)
    return UniqueInverse(found.values, found.inverse_indices)


def unique_values(x: Any, /) -> Any:
    """Distinct values, sorted."""
    return unique_all(x).values
