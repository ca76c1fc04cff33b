"""Linear algebra of the array API standard on TensorFlow tensors; the last two axes are matrices."""

from __future__ import annotations

import builtins
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from xai_tensorflow.namespace._dtypes import COMPLEX, both, finfo, require
from xai_tensorflow.namespace._manipulation import matmul, matrix_transpose, tensordot, vecdot
from xai_tensorflow.namespace._reductions import sum as total

__all__ = [
    "cholesky", "cross", "det", "diagonal", "eigh", "eigvalsh", "inv", "matmul", "matrix_norm", "matrix_power",
    "matrix_rank", "matrix_transpose", "outer", "pinv", "qr", "slogdet", "solve", "svd", "svdvals", "tensordot",
    "trace", "vecdot", "vector_norm",
]  # fmt: skip


class Eigh(NamedTuple):
    eigenvalues: Any
    eigenvectors: Any


class QR(NamedTuple):
    Q: Any
    R: Any


class Slogdet(NamedTuple):
    sign: Any
    logabsdet: Any


class SVD(NamedTuple):
    U: Any
    S: Any
    Vh: Any


def _matrix(x: Any, name: str) -> Any:
    array = require(x, "floating", name)
    if array.shape.rank < 2:
        raise ValueError(f"{name} needs an array of at least two axes")
    return array


def cholesky(x: Any, /, *, upper: Any = False) -> Any:
    """Triangular factor of a positive definite matrix."""
    factor = tf.linalg.cholesky(_matrix(x, "cholesky"))
    return tf.linalg.adjoint(factor) if upper else factor


def cross(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    """Cross product of vectors of length three along an axis."""
    a, b = both(x1, x2, name="cross")
    shape = tf.broadcast_static_shape(a.shape, b.shape)
    first, second = tf.broadcast_to(a, shape), tf.broadcast_to(b, shape)
    if shape[axis] != 3:
        raise ValueError(f"cross needs axes of length 3, not {shape[axis]}")
    x, y, z = tf.unstack(first, axis=axis)
    u, v, w = tf.unstack(second, axis=axis)
    return tf.stack([y * w - z * v, z * u - x * w, x * v - y * u], axis=axis)


def det(x: Any, /) -> Any:
    """Determinant."""
    return tf.linalg.det(_matrix(x, "det"))


def diagonal(x: Any, /, *, offset: int = 0) -> Any:
    """A diagonal of each matrix."""
    array = require(x, "any", "diagonal")
    rows, columns = array.shape[-2], array.shape[-1]
    start = (builtins.max(0, -offset), builtins.max(0, offset))
    size = builtins.max(0, builtins.min(rows - start[0], columns - start[1]))
    flat = tf.reshape(array, (*array.shape[:-2], rows * columns))
    places = [(start[0] + i) * columns + start[1] + i for i in range(size)]
    return tf.gather(flat, tf.constant(places, tf.int64), axis=array.shape.rank - 2)


def eigh(x: Any, /) -> Eigh:
    """Eigenvalues, ascending, and eigenvectors of a Hermitian matrix."""
    values, vectors = tf.linalg.eigh(_matrix(x, "eigh"))
    return Eigh(tf.math.real(values) if values.dtype in COMPLEX else values, vectors)


def eigvalsh(x: Any, /) -> Any:
    """Eigenvalues, ascending, of a Hermitian matrix."""
    values = tf.linalg.eigvalsh(_matrix(x, "eigvalsh"))
    return tf.math.real(values) if values.dtype in COMPLEX else values


def inv(x: Any, /) -> Any:
    """Inverse."""
    return tf.linalg.inv(_matrix(x, "inv"))


def matrix_norm(x: Any, /, *, keepdims: Any = False, ord: Any = "fro") -> Any:
    """Norm of each matrix: "fro", "nuc", 1, -1, 2, -2, inf, -inf."""
    array = _matrix(x, "matrix_norm")
    if ord == "fro":
        out = tf.sqrt(tf.reduce_sum(tf.square(tf.abs(array)), axis=(-2, -1)))
    elif ord in (1, -1, np.inf, -np.inf):
        sums = tf.reduce_sum(tf.abs(array), axis=-2 if builtins.abs(ord) == 1 else -1)
        out = tf.reduce_max(sums, axis=-1) if ord > 0 else tf.reduce_min(sums, axis=-1)
    elif ord in ("nuc", 2, -2):
        values = svdvals(array)
        reduce = {"nuc": tf.reduce_sum, 2: tf.reduce_max, -2: tf.reduce_min}[ord]
        out = reduce(values, axis=-1)
    else:
        raise ValueError(f"no matrix norm of order {ord!r}")
    return out[..., None, None] if keepdims else out


def matrix_power(x: Any, n: int, /) -> Any:
    """A matrix times itself, `n` times; negative powers of the inverse."""
    array = _matrix(x, "matrix_power")
    base = inv(array) if n < 0 else array
    out = tf.broadcast_to(tf.eye(array.shape[-1], dtype=array.dtype), tf.shape(array))
    power = builtins.abs(n)
    while power:
        if power & 1:
            out = tf.matmul(out, base)
        base = tf.matmul(base, base)
        power >>= 1
    return out


def _tolerance(array: Any, values: Any, rtol: Any, scale: float) -> Any:
    if rtol is None:
        rtol = builtins.max(array.shape[-2], array.shape[-1]) * finfo(array.dtype).eps * scale
    return tf.reduce_max(values, axis=-1, keepdims=True) * tf.cast(rtol, values.dtype)[..., None]


def matrix_rank(x: Any, /, *, rtol: Any = None) -> Any:
    """Number of singular values above a tolerance relative to the largest, int64."""
    array = _matrix(x, "matrix_rank")
    values = svdvals(array)
    return tf.reduce_sum(tf.cast(values > _tolerance(array, values, rtol, 1.0), tf.int64), axis=-1)


def outer(x1: Any, x2: Any, /) -> Any:
    """Products of all pairs of elements of two vectors."""
    return tensordot(x1, x2, axes=0)


def pinv(x: Any, /, *, rtol: Any = None) -> Any:
    """Moore-Penrose pseudo-inverse by singular values."""
    array = _matrix(x, "pinv")
    u, s, vh = svd(array, full_matrices=False)
    small = s <= _tolerance(array, s, rtol, 1.0)
    inverse = tf.where(small, tf.zeros_like(s), 1 / tf.where(small, tf.ones_like(s), s))
    return tf.matmul(tf.linalg.adjoint(vh) * tf.cast(inverse, array.dtype)[..., None, :], tf.linalg.adjoint(u))


def qr(x: Any, /, *, mode: str = "reduced") -> QR:
    """Orthogonal and upper triangular factors."""
    if mode not in ("reduced", "complete"):
        raise ValueError(f"mode must be 'reduced' or 'complete', not {mode!r}")
    q, r = tf.linalg.qr(_matrix(x, "qr"), full_matrices=mode == "complete")
    return QR(q, r)


def slogdet(x: Any, /) -> Slogdet:
    """Sign and logarithm of the magnitude of the determinant."""
    sign, logabsdet = tf.linalg.slogdet(_matrix(x, "slogdet"))
    return Slogdet(sign, tf.math.real(logabsdet) if logabsdet.dtype in COMPLEX else logabsdet)


def solve(x1: Any, x2: Any, /) -> Any:
    """Solution of `x1 @ x = x2`; `x2` of one axis is one right side, else its last two axes hold columns."""
    a, b = both(x1, x2, name="solve")
    a = _matrix(a, "solve")
    vector = b.shape.rank == 1
    b = b[:, None] if vector else b
    batch = tf.broadcast_static_shape(a.shape[:-2], b.shape[:-2])
    a = tf.broadcast_to(a, (*batch, *a.shape[-2:]))
    b = tf.broadcast_to(b, (*batch, *b.shape[-2:]))
    out = tf.linalg.solve(a, b)
    return tf.squeeze(out, -1) if vector else out


def svd(x: Any, /, *, full_matrices: Any = True) -> SVD:
    """Singular value decomposition `U @ diag(S) @ Vh`, singular values descending."""
    s, u, v = tf.linalg.svd(_matrix(x, "svd"), full_matrices=bool(full_matrices))
    return SVD(u, s, tf.linalg.adjoint(v))


def svdvals(x: Any, /) -> Any:
    """Singular values, descending."""
    return tf.linalg.svd(_matrix(x, "svdvals"), compute_uv=False)


def trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Any:
    """Sum of a diagonal of each matrix."""
    return total(diagonal(require(x, "numeric", "trace"), offset=offset), axis=-1, dtype=dtype)


def vector_norm(x: Any, /, *, axis: Any = None, keepdims: Any = False, ord: Any = 2) -> Any:
    """Norm over axes, of any order; 0 counts elements that are not zero."""
    array = require(x, "floating", "vector_norm")
    size = tf.abs(array)
    if ord == np.inf:
        return tf.reduce_max(size, axis=axis, keepdims=keepdims)
    if ord == -np.inf:
        return tf.reduce_min(size, axis=axis, keepdims=keepdims)
    if ord == 0:
        return tf.reduce_sum(tf.cast(tf.not_equal(size, 0), size.dtype), axis=axis, keepdims=keepdims)
    if ord == 1:
        return tf.reduce_sum(size, axis=axis, keepdims=keepdims)
    if ord == 2:
        return tf.sqrt(tf.reduce_sum(tf.square(size), axis=axis, keepdims=keepdims))
    power = tf.constant(ord, size.dtype)
    return tf.pow(tf.reduce_sum(tf.pow(size, power), axis=axis, keepdims=keepdims), 1 / power)
