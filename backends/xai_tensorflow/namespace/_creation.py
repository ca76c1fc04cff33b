"""Creation functions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from xai_tensorflow.namespace._dtypes import (
    COMPLEX,
    DEFAULT_COMPLEX,
    DEFAULT_FLOAT,
    DEFAULT_INT,
    as_dtype,
    require,
    result_type,
    tensor,
)


def placed(device: Any) -> Any:
    """Context in which new arrays land on `device`, a TensorFlow device name; None: where TensorFlow puts them.

    Raises
    ------
    ValueError
        If there is no such device.
    """
    if device is None or device == "":
        return tf.device(None)
    try:
        return tf.device(device)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"no TensorFlow device is called {device!r}") from error


def _on(device: Any, make: Any) -> Any:
    if device is None:
        return make()
    with placed(device):
        return tf.identity(make())


def _default(value: Any) -> Any:
    if isinstance(value, (bool, np.bool_)):
        return tf.bool
    if isinstance(value, int):
        return DEFAULT_INT
    return DEFAULT_COMPLEX if isinstance(value, complex) else DEFAULT_FLOAT


def _scalars(obj: Any) -> Any:
    if isinstance(obj, (list, tuple)):
        for item in obj:
            yield from _scalars(item)
    else:
        yield obj


def asarray(obj: Any, /, *, dtype: Any = None, device: Any = None, copy: Any = None) -> Any:
    """A tensor of a Python scalar, nested sequence, NumPy array or tensor."""
    wanted = None if dtype is None else as_dtype(dtype)
    if isinstance(obj, (tf.Tensor, tf.Variable)):
        array = tf.convert_to_tensor(obj)
        if wanted is not None and array.dtype != wanted:
            if copy is False:
                raise ValueError("asarray(copy=False) cannot change the dtype")
            array = tf.cast(array, wanted)
        return _on(device, lambda: tf.identity(array) if copy else array)
    if copy is False:
        raise ValueError("asarray(copy=False) cannot share memory with an object that is no tensor")
    if isinstance(obj, (np.ndarray, np.generic)):
        return _on(device, lambda: tf.constant(np.array(obj), dtype=wanted))
    leaves = list(_scalars(obj))
    tensors = [leaf for leaf in leaves if isinstance(leaf, tf.Tensor)]
    if wanted is None:
        if tensors:
            wanted = result_type(*leaves)
        else:
            order = [bool, int, float, complex]
            kinds = [order.index(type(leaf)) if type(leaf) in order else 2 for leaf in leaves]
            wanted = [tf.bool, DEFAULT_INT, DEFAULT_FLOAT, DEFAULT_COMPLEX][max(kinds)] if kinds else DEFAULT_FLOAT
            if wanted == DEFAULT_INT and any(isinstance(v, int) and v > tf.int64.max for v in leaves):
                wanted = tf.uint64
    if tensors:
        return _on(device, lambda: tf.convert_to_tensor(_cast_all(obj, wanted)))
    return _on(device, lambda: tf.constant(np.asarray(obj).astype(wanted.as_numpy_dtype), dtype=wanted))


def _cast_all(obj: Any, dtype: Any) -> Any:
    if isinstance(obj, (list, tuple)):
        return tf.stack([_cast_all(item, dtype) for item in obj])
    return tf.cast(obj, dtype)


def astype(x: Any, dtype: Any, /, *, copy: Any = True, device: Any = None) -> Any:
    """The array in another dtype.

    Raises
    ------
    TypeError
        For complex to real, which loses a part.
    """
    array, wanted = tensor(x), as_dtype(dtype)
    if array.dtype in COMPLEX and wanted not in COMPLEX:
        raise TypeError(f"astype from {array.dtype.name} to {wanted.name} would drop the imaginary part; use real")
    return _on(device, lambda: array if array.dtype == wanted else tf.cast(array, wanted))


def full(shape: Any, fill_value: Any, *, dtype: Any = None, device: Any = None) -> Any:
    """An array of one value."""
    wanted = _default(fill_value) if dtype is None else as_dtype(dtype)
    size = (shape,) if isinstance(shape, int) else tuple(shape)
    return _on(device, lambda: tf.fill(size, tf.constant(fill_value, dtype=wanted)))


def zeros(shape: Any, *, dtype: Any = None, device: Any = None) -> Any:
    """An array of zeros."""
    size = (shape,) if isinstance(shape, int) else tuple(shape)
    return _on(device, lambda: tf.zeros(size, DEFAULT_FLOAT if dtype is None else as_dtype(dtype)))


def ones(shape: Any, *, dtype: Any = None, device: Any = None) -> Any:
    """An array of ones."""
    size = (shape,) if isinstance(shape, int) else tuple(shape)
    return _on(device, lambda: tf.ones(size, DEFAULT_FLOAT if dtype is None else as_dtype(dtype)))


empty = zeros


def zeros_like(x: Any, /, *, dtype: Any = None, device: Any = None) -> Any:
    """Zeros of the shape of another array."""
    return _on(device, lambda: tf.zeros_like(tensor(x), dtype=None if dtype is None else as_dtype(dtype)))


def ones_like(x: Any, /, *, dtype: Any = None, device: Any = None) -> Any:
    """Ones of the shape of another array."""
    return _on(device, lambda: tf.ones_like(tensor(x), dtype=None if dtype is None else as_dtype(dtype)))


empty_like = zeros_like


def full_like(x: Any, /, fill_value: Any, *, dtype: Any = None, device: Any = None) -> Any:
    """One value in the shape of another array."""
    wanted = tensor(x).dtype if dtype is None else as_dtype(dtype)
    return _on(device, lambda: tf.fill(tf.shape(x), tf.constant(fill_value, dtype=wanted)))


def arange(start: Any, /, stop: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None) -> Any:
    """Evenly spaced values from `start`, or zero, up to but not including `stop`."""
    if stop is None:
        start, stop = 0, start
    if dtype is None:
        wanted = DEFAULT_INT if all(isinstance(v, int) for v in (start, stop, step)) else DEFAULT_FLOAT
    else:
        wanted = as_dtype(dtype)
    count = max(0, math.ceil((stop - start) / step))
    if wanted.is_integer:
        values = np.array([start + i * step for i in range(count)], dtype=wanted.as_numpy_dtype)
    else:
        values = start + np.arange(count) * step
    return _on(device, lambda: tf.cast(tf.constant(values), wanted))


def linspace(start: Any, stop: Any, /, num: int, *, dtype: Any = None, device: Any = None, endpoint: Any = True) -> Any:
    """`num` evenly spaced values from `start` to `stop`."""
    if dtype is None:
        wanted = DEFAULT_COMPLEX if isinstance(start, complex) or isinstance(stop, complex) else DEFAULT_FLOAT
    else:
        wanted = as_dtype(dtype)
    values = np.linspace(start, stop, num, endpoint=endpoint)
    return _on(device, lambda: tf.cast(tf.constant(values), wanted))


def eye(n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None, device: Any = None) -> Any:
    """Ones on diagonal `k`, zeros elsewhere."""
    wanted = DEFAULT_FLOAT if dtype is None else as_dtype(dtype)
    values = np.eye(n_rows, n_rows if n_cols is None else n_cols, k=k)
    return _on(device, lambda: tf.cast(tf.constant(values), wanted))


def _triangle(x: Any, k: int, lower: bool, name: str) -> Any:
    array = tensor(x)
    if array.shape.rank is None or array.shape.rank < 2:
        raise ValueError(f"{name} needs an array of at least two axes")
    rows = tf.range(tf.shape(array)[-2])[:, None]
    columns = tf.range(tf.shape(array)[-1])[None, :]
    keep = columns - rows <= k if lower else columns - rows >= k
    return tf.where(keep, array, tf.zeros((), array.dtype))


def tril(x: Any, /, *, k: int = 0) -> Any:
    """Lower triangles of matrices."""
    return _triangle(x, k, True, "tril")


def triu(x: Any, /, *, k: int = 0) -> Any:
    """Upper triangles of matrices."""
    return _triangle(x, k, False, "triu")


def meshgrid(*arrays: Any, indexing: str = "xy") -> Any:
    """Coordinate arrays of a grid."""
    if indexing not in ("xy", "ij"):
        raise ValueError(f"indexing must be 'xy' or 'ij', not {indexing!r}")
    return tuple(tf.meshgrid(*(require(a, "any", "meshgrid") for a in arrays), indexing=indexing)) if arrays else ()


def from_dlpack(x: Any, /, *, device: Any = None, copy: Any = None) -> Any:
    """A tensor that shares memory with an array of another framework."""
    array = tf.experimental.dlpack.from_dlpack(x.__dlpack__())
    return _on(device, lambda: tf.identity(array) if copy else array)
