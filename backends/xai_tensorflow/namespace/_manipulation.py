"""Manipulation and indexing functions, and products."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import tensorflow as tf

from xai_tensorflow.namespace._dtypes import ALLOWED, both, promote, require, tensor

_SMALL = (tf.int8, tf.int16, tf.uint8, tf.uint16, tf.uint32, tf.uint64)


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} is outside an array of {rank} axes")
    return axis % rank


def reshape(x: Any, /, shape: Any, *, copy: Any = None) -> Any:
    """The elements in another shape; one entry may be -1."""
    array = tensor(x)
    size = (shape,) if isinstance(shape, int) else tuple(shape)
    if -1 in size and array.shape.num_elements() is not None:
        known = math.prod(n for n in size if n != -1)
        size = tuple(array.shape.num_elements() // known if n == -1 and known else n for n in size)
    out = tf.reshape(array, size)
    return tf.identity(out) if copy else out


def _common(arrays: Any, name: str) -> list[Any]:
    found = [tensor(array) for array in arrays]
    if not found:
        raise ValueError(f"{name} needs at least one array")
    dtype = functools.reduce(promote, (array.dtype for array in found))
    return [array if array.dtype == dtype else tf.cast(array, dtype) for array in found]


def concat(arrays: Any, /, *, axis: Any = 0) -> Any:
    """Arrays joined along an axis; None flattens them first."""
    found = _common(arrays, "concat")
    if axis is None:
        return tf.concat([tf.reshape(array, (-1,)) for array in found], 0)
    return tf.concat(found, _axis(axis, found[0].shape.rank))


def stack(arrays: Any, /, *, axis: int = 0) -> Any:
    """Arrays joined along a new axis."""
    return tf.stack(_common(arrays, "stack"), axis=axis)


def unstack(x: Any, /, *, axis: int = 0) -> Any:
    """Slices along an axis, as a tuple."""
    return tuple(tf.unstack(tensor(x), axis=axis))


def expand_dims(x: Any, /, axis: Any = 0) -> Any:
    """New axes of length one, positions counted in the result."""
    array = tensor(x)
    axes = axis if isinstance(axis, tuple) else (axis,)
    rank = array.shape.rank + len(axes)
    for one in axes:
        if not -rank <= one < rank:
            raise IndexError(f"axis {one} is outside a result of {rank} axes")
    for one in sorted(a % rank for a in axes):
        array = tf.expand_dims(array, one)
    return array


def squeeze(x: Any, /, axis: Any) -> Any:
    """Without some axes of length one."""
    array = tensor(x)
    axes = [_axis(a, array.shape.rank) for a in (axis if isinstance(axis, tuple) else (axis,))]
    if any(array.shape[a] not in (1, None) for a in axes):
        raise ValueError(f"squeeze of axes {axes} of shape {tuple(array.shape)}: not all have length 1")
    return tf.squeeze(array, axes) if axes else array


def permute_dims(x: Any, /, axes: Any) -> Any:
    """Axes in another order."""
    array = tensor(x)
    if sorted(_axis(a, array.shape.rank) for a in axes) != list(range(array.shape.rank)):
        raise ValueError(f"axes {tuple(axes)} are no order of {array.shape.rank} axes")
    return tf.transpose(array, [a % array.shape.rank for a in axes]) if array.shape.rank else array


def moveaxis(x: Any, source: Any, destination: Any, /) -> Any:
    """Some axes moved, the others in their order."""
    array = tensor(x)
    rank = array.shape.rank
    from_ = [_axis(a, rank) for a in (source if isinstance(source, tuple) else (source,))]
    to = [_axis(a, rank) for a in (destination if isinstance(destination, tuple) else (destination,))]
    order = [a for a in range(rank) if a not in from_]
    for place, one in sorted(zip(to, from_, strict=True)):
        order.insert(place, one)
    return tf.transpose(array, order) if rank else array


def flip(x: Any, /, *, axis: Any = None) -> Any:
    """Order reversed along axes."""
    array = tensor(x)
    axes = range(array.shape.rank) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return tf.reverse(array, [_axis(a, array.shape.rank) for a in axes])


def roll(x: Any, /, shift: Any, *, axis: Any = None) -> Any:
    """Elements moved round along axes."""
    array = tensor(x)
    if axis is None:
        return tf.reshape(tf.roll(tf.reshape(array, (-1,)), shift, 0), tf.shape(array))
    axes = axis if isinstance(axis, tuple) else (axis,)
    shifts = shift if isinstance(shift, tuple) else (shift,) * len(axes)
    for one, by in zip(axes, shifts, strict=True):
        array = tf.roll(array, by, _axis(one, array.shape.rank))
    return array


_NOT_TILED = (tf.uint16,)
"""dtypes that TensorFlow has no kernel for."""


def tile(x: Any, repetitions: Any, /) -> Any:
    """The array repeated as a whole."""
    array = tensor(x)
    times = tuple(repetitions)
    missing = len(times) - array.shape.rank
    if missing > 0:
        array = tf.reshape(array, tf.concat([tf.ones(missing, tf.int32), tf.shape(array)], 0))
    times = (1,) * (array.shape.rank - len(times)) + times
    if array.dtype in _NOT_TILED:
        return tf.cast(tf.tile(tf.cast(array, tf.int64), times), array.dtype)
    return tf.tile(array, times)


def repeat(x: Any, repeats: Any, /, *, axis: Any = None) -> Any:
    """Each element repeated in place."""
    array = tensor(x)
    if axis is None:
        array, axis = tf.reshape(array, (-1,)), 0
    axis = _axis(axis, array.shape.rank)
    if not isinstance(repeats, int):
        return tf.repeat(array, repeats, axis=axis)
    # The static shape survives, which tf.repeat loses inside tf.function.
    shape = tuple(array.shape)
    if None in shape:
        return tf.repeat(array, repeats, axis=axis)
    wide = tf.broadcast_to(tf.expand_dims(array, axis + 1), (*shape[: axis + 1], repeats, *shape[axis + 1 :]))
    return tf.reshape(wide, (*shape[:axis], shape[axis] * repeats, *shape[axis + 1 :]))


def broadcast_to(x: Any, /, shape: Any) -> Any:
    """The array in a larger shape."""
    return tf.broadcast_to(tensor(x), tuple(shape))


def broadcast_arrays(*arrays: Any) -> Any:
    """Arrays in their common shape."""
    found = [tensor(array) for array in arrays]
    shape = functools.reduce(tf.broadcast_static_shape, (array.shape for array in found))
    return tuple(tf.broadcast_to(array, shape) for array in found)


def take(x: Any, indices: Any, /, *, axis: Any = None) -> Any:
    """Slices at positions along an axis; negative ones count from the end."""
    array, places = tensor(x), require(indices, "integral", "take")
    if axis is None:
        if array.shape.rank != 1:
            raise ValueError(f"take needs `axis` for arrays of {array.shape.rank} axes")
        axis = 0
    return tf.gather(array, _wrapped(places, array, axis), axis=_axis(axis, array.shape.rank))


def take_along_axis(x: Any, indices: Any, /, *, axis: int = -1) -> Any:
    """Elements at positions along an axis, which differ from slice to slice."""
    array, places = tensor(x), require(indices, "integral", "take_along_axis")
    rank = array.shape.rank
    axis = _axis(axis, rank)
    places = _wrapped(places, array, axis)
    if (
        tuple(array.shape)[:axis] + tuple(array.shape)[axis + 1 :]
        != tuple(places.shape)[:axis] + tuple(places.shape)[axis + 1 :]
    ):
        sizes = [
            1 if a == axis else n
            for a, n in enumerate(tf.broadcast_static_shape(_without(array.shape, axis), _without(places.shape, axis)))
        ]
        places = tf.broadcast_to(places, [places.shape[a] if a == axis else n for a, n in enumerate(sizes)])
        array = tf.broadcast_to(array, [array.shape[a] if a == axis else n for a, n in enumerate(sizes)])
    last = [a for a in range(rank) if a != axis] + [axis]
    back = [int(a) for a in np.argsort(last)]
    if axis == rank - 1:
        return tf.gather(array, places, axis=rank - 1, batch_dims=rank - 1)
    moved = tf.gather(tf.transpose(array, last), tf.transpose(places, last), axis=rank - 1, batch_dims=rank - 1)
    return tf.transpose(moved, back)


def _without(shape: Any, axis: int) -> Any:
    return tf.TensorShape([1 if a == axis else n for a, n in enumerate(shape)])


def _wrapped(places: Any, array: Any, axis: int) -> Any:
    if places.dtype not in (tf.int32, tf.int64):
        places = tf.cast(places, tf.int64)
    size = tf.cast(tf.shape(array)[axis], places.dtype)
    return tf.where(places < 0, places + size, places)


def _product_operands(x1: Any, x2: Any, name: str) -> tuple[Any, Any, Any]:
    a, b = both(tensor(x1), tensor(x2), name=name)
    if a.dtype not in ALLOWED["numeric"]:
        raise TypeError(f"{name} is defined for numeric arrays, not {a.dtype.name}")
    dtype = a.dtype
    if dtype in _SMALL:
        a, b = tf.cast(a, tf.int64), tf.cast(b, tf.int64)
    return a, b, dtype


def matmul(x1: Any, x2: Any, /) -> Any:
    """Matrix product; one-dimensional operands are rows or columns."""
    a, b, dtype = _product_operands(x1, x2, "matmul")
    if a.shape.rank == 0 or b.shape.rank == 0:
        raise ValueError("matmul needs arrays of at least one axis")
    row, column = a.shape.rank == 1, b.shape.rank == 1
    out = tf.matmul(a[None, :] if row else a, b[:, None] if column else b)
    if row:
        out = tf.squeeze(out, -2)
    if column:
        out = tf.squeeze(out, -1)
    return out if out.dtype == dtype else tf.cast(out, dtype)


def tensordot(x1: Any, x2: Any, /, *, axes: Any = 2) -> Any:
    """Sum of products over axes of both arrays."""
    a, b, dtype = _product_operands(x1, x2, "tensordot")
    pairs = axes if isinstance(axes, int) else [list(one) for one in axes]
    out = tf.tensordot(a, b, pairs)
    return out if out.dtype == dtype else tf.cast(out, dtype)


def vecdot(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    """Sum of products along an axis, the first operand conjugated."""
    a, b, dtype = _product_operands(x1, x2, "vecdot")
    if a.dtype in ALLOWED["complex floating"]:
        a = tf.math.conj(a)
    out = tf.reduce_sum(a * b, axis=axis)
    return out if out.dtype == dtype else tf.cast(out, dtype)


def matrix_transpose(x: Any, /) -> Any:
    """The last two axes exchanged."""
    array = tensor(x)
    if array.shape.rank < 2:
        raise ValueError("matrix_transpose needs an array of at least two axes")
    return tf.linalg.matrix_transpose(array)
