"""Data types of the TensorFlow namespace: TensorFlow's own, with the promotion rules of the standard."""

from __future__ import annotations

import builtins
import functools
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

bool = tf.bool
int8, int16, int32, int64 = tf.int8, tf.int16, tf.int32, tf.int64
uint8, uint16, uint32, uint64 = tf.uint8, tf.uint16, tf.uint32, tf.uint64
float16, bfloat16, float32, float64 = tf.float16, tf.bfloat16, tf.float32, tf.float64
complex64, complex128 = tf.complex64, tf.complex128

SIGNED = (int8, int16, int32, int64)
UNSIGNED = (uint8, uint16, uint32, uint64)
HALVES = (float16, bfloat16)
REAL = (float32, float64)
COMPLEX = (complex64, complex128)
KINDS: dict[str, tuple[Any, ...]] = {
    "bool": (bool,),
    "signed integer": SIGNED,
    "unsigned integer": UNSIGNED,
    "integral": SIGNED + UNSIGNED,
    "real floating": HALVES + REAL,
    "complex floating": COMPLEX,
    "numeric": SIGNED + UNSIGNED + HALVES + REAL + COMPLEX,
}
BY_NAME = {dtype.name: dtype for dtype in (bool, *SIGNED, *UNSIGNED, *HALVES, *REAL, *COMPLEX)}
DEFAULT_FLOAT, DEFAULT_INT, DEFAULT_COMPLEX = float32, int64, complex64


def as_dtype(dtype: Any) -> Any:
    """A TensorFlow dtype of a name, NumPy or TensorFlow dtype."""
    try:
        return tf.as_dtype(dtype)
    except TypeError as error:
        raise TypeError(f"not a dtype of the TensorFlow namespace: {dtype!r}") from error


def isdtype(dtype: Any, kind: Any) -> Any:
    """Whether a dtype is of a kind: a dtype, a name of the standard, or a tuple of those."""
    if isinstance(kind, tuple):
        return any(isdtype(dtype, one) for one in kind)
    if isinstance(kind, str):
        if kind not in KINDS:
            raise ValueError(f"unknown kind of dtype: {kind!r}; known are {', '.join(KINDS)}")
        return as_dtype(dtype) in KINDS[kind]
    return as_dtype(dtype) == as_dtype(kind)


@functools.cache
def promote(a: Any, b: Any) -> Any:
    """Smallest dtype of the same kind that holds both (array API standard, type promotion)."""
    if a == b:
        return a
    pair = {a, b}
    if pair <= set(SIGNED) or pair <= set(UNSIGNED) or pair <= set(COMPLEX):
        return max(a, b, key=lambda dtype: dtype.size)
    if pair <= set(HALVES + REAL):
        return float32 if pair == set(HALVES) else max(a, b, key=lambda dtype: dtype.size)
    if pair <= set(SIGNED + UNSIGNED):
        unsigned = a if a in UNSIGNED else b
        signed = b if a in UNSIGNED else a
        need = max(2 * unsigned.size, signed.size)
        for wide in SIGNED:
            if wide.size >= need:
                return wide
    if pair <= set(HALVES + REAL + COMPLEX):
        size = max(_real_size(dtype) for dtype in pair)
        return complex128 if size > 4 else complex64
    raise TypeError(f"the array API defines no promotion of {a.name} and {b.name}; convert one with astype")


def _real_size(dtype: Any) -> int:
    return int(dtype.size // 2 if dtype in COMPLEX else dtype.size)


def result_type(*arrays_and_dtypes: Any) -> Any:
    """dtype of combining arrays, dtypes and Python scalars."""
    strong = [
        value.dtype if isinstance(value, (tf.Tensor, tf.Variable)) else as_dtype(value)
        for value in arrays_and_dtypes
        if not _is_scalar(value)
    ]
    if not strong:
        raise ValueError("result_type needs at least one array or dtype")
    dtype = functools.reduce(promote, strong)
    for value in arrays_and_dtypes:
        if _is_scalar(value):
            dtype = scalar_dtype(value, dtype)
    return dtype


def _is_scalar(value: Any) -> Any:
    return isinstance(value, (int, float, complex)) and not isinstance(value, np.generic)


def scalar_dtype(value: Any, dtype: Any) -> Any:
    """dtype that an array of `dtype` has after meeting a Python scalar.

    Raises
    ------
    TypeError
        For scalars of a higher kind, which the standard leaves undefined.
    """
    if isinstance(value, builtins.bool):
        allowed = dtype == bool
    elif isinstance(value, int):
        allowed = dtype in KINDS["numeric"]
    elif isinstance(value, float):
        allowed = dtype in HALVES + REAL + COMPLEX
    else:
        if dtype in HALVES + REAL:
            return complex128 if dtype == float64 else complex64
        allowed = dtype in COMPLEX
    if not allowed:
        raise TypeError(f"a Python {type(value).__name__} cannot be combined with an array of {dtype.name}")
    return dtype


def can_cast(from_: Any, to: Any, /) -> Any:
    """Whether the promotion rules lead from one dtype (or array) to another."""
    source = from_.dtype if isinstance(from_, tf.Tensor) else as_dtype(from_)
    try:
        return promote(source, as_dtype(to)) == as_dtype(to)
    except TypeError:
        return False


class _FInfo(NamedTuple):
    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: Any


class _IInfo(NamedTuple):
    bits: int
    max: int
    min: int
    dtype: Any


def finfo(type: Any, /) -> _FInfo:
    """Limits of a floating dtype (or array)."""
    dtype = type.dtype if isinstance(type, tf.Tensor) else as_dtype(type)
    if dtype in COMPLEX:
        dtype = float64 if dtype == complex128 else float32
    if dtype not in HALVES + REAL:
        raise ValueError(f"finfo is for floating dtypes, not {dtype.name}")
    import ml_dtypes

    limits: Any = ml_dtypes.finfo(dtype.as_numpy_dtype)  # type: ignore[no-untyped-call]
    return _FInfo(
        int(limits.bits), float(limits.eps), float(limits.max), float(limits.min), float(limits.smallest_normal), dtype
    )


def iinfo(type: Any, /) -> _IInfo:
    """Limits of an integer dtype (or array)."""
    dtype = type.dtype if isinstance(type, tf.Tensor) else as_dtype(type)
    if dtype not in SIGNED + UNSIGNED:
        raise ValueError(f"iinfo is for integer dtypes, not {dtype.name}")
    return _IInfo(8 * dtype.size, int(dtype.max), int(dtype.min), dtype)


def tensor(x: Any) -> Any:
    """An array argument; anything else is refused.

    Raises
    ------
    TypeError
        If `x` is no tensor.
    """
    if isinstance(x, tf.Tensor):
        return x
    if isinstance(x, tf.Variable):
        return tf.convert_to_tensor(x)
    raise TypeError(f"expected a TensorFlow tensor, received {type(x).__name__}; use asarray")


def both(x1: Any, x2: Any, *, name: str = "this function") -> tuple[Any, Any]:
    """Two operands, one of which may be a Python scalar, in their common dtype."""
    first, second = not _is_scalar(x1), not _is_scalar(x2)
    if first and second:
        a, b = tensor(x1), tensor(x2)
        if a.dtype == b.dtype:
            return a, b
        dtype = promote(a.dtype, b.dtype)
        return tf.cast(a, dtype), tf.cast(b, dtype)
    if first:
        a = tensor(x1)
        dtype = scalar_dtype(x2, a.dtype)
        return tf.cast(a, dtype), tf.constant(x2, dtype)
    if second:
        b = tensor(x2)
        dtype = scalar_dtype(x1, b.dtype)
        return tf.constant(x1, dtype), tf.cast(b, dtype)
    raise TypeError(f"{name} needs at least one array")


def require(x: Any, kind: str, name: str) -> Any:
    """`x` as a tensor of a kind.

    Raises
    ------
    TypeError
        If its dtype is of another kind.
    """
    array = tensor(x)
    if array.dtype not in ALLOWED[kind]:
        raise TypeError(f"{name} is defined for {kind} arrays, not {array.dtype.name}")
    return array


ALLOWED: dict[str, tuple[Any, ...]] = {
    **KINDS,
    "floating": HALVES + REAL + COMPLEX,
    "real": SIGNED + UNSIGNED + HALVES + REAL,
    "integer or boolean": (bool, *SIGNED, *UNSIGNED),
    "any": (bool, *KINDS["numeric"]),
}
