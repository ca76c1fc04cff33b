"""TensorFlow as a namespace of the Python array API standard, 2024.12.

Functions take and return `tf.Tensor`, eager or inside `tf.function`; nothing is patched on it, so operators and indexing
are TensorFlow's own. Default dtypes are float32, int64 and complex64. Kept to the standard's signatures, so that it can be
replaced by the namespace of array-api-compat when that is released.
"""

from __future__ import annotations

from math import e, inf, nan, pi
from typing import Any

from xai_tensorflow.namespace import fft, linalg
from xai_tensorflow.namespace._creation import (
    arange, asarray, astype, empty, empty_like, eye, from_dlpack, full, full_like, linspace, meshgrid, ones, ones_like,
    tril, triu, zeros, zeros_like,
)  # fmt: skip
from xai_tensorflow.namespace._dtypes import (
    bfloat16, bool, can_cast, complex64, complex128, finfo, float16, float32, float64, iinfo, int8, int16, int32, int64,
    isdtype, result_type, uint8, uint16, uint32, uint64,
)  # fmt: skip
from xai_tensorflow.namespace._elementwise import (
    abs, acos, acosh, add, asin, asinh, atan, atan2, atanh, bitwise_and, bitwise_invert, bitwise_left_shift, bitwise_or,
    bitwise_right_shift, bitwise_xor, ceil, clip, conj, copysign, cos, cosh, divide, equal, exp, expm1, floor,
    floor_divide, greater, greater_equal, hypot, imag, isfinite, isinf, isnan, less, less_equal, log, log1p, log2, log10,
    logaddexp, logical_and, logical_not, logical_or, logical_xor, maximum, minimum, multiply, negative, nextafter,
    not_equal, positive, pow, real, reciprocal, remainder, round, sign, signbit, sin, sinh, sqrt, square, subtract, tan,
    tanh, trunc, where,
)  # fmt: skip
from xai_tensorflow.namespace._info import __array_namespace_info__
from xai_tensorflow.namespace._manipulation import (
    broadcast_arrays, broadcast_to, concat, expand_dims, flip, matmul, matrix_transpose, moveaxis, permute_dims, repeat,
    reshape, roll, squeeze, stack, take, take_along_axis, tensordot, tile, unstack, vecdot,
)  # fmt: skip
from xai_tensorflow.namespace._reductions import (
    all, any, argmax, argmin, argsort, count_nonzero, cumulative_prod, cumulative_sum, diff, max, mean, min, nonzero,
    prod, searchsorted, sort, std, sum, unique_all, unique_counts, unique_inverse, unique_values, var,
)  # fmt: skip

__array_api_version__ = "2024.12"
newaxis = None

__all__ = [
    "__array_api_version__", "__array_namespace_info__", "abs", "acos", "acosh", "add", "all", "any", "arange", "argmax",
    "argmin", "argsort", "asarray", "asin", "asinh", "astype", "atan", "atan2", "atanh", "bfloat16", "bitwise_and",
    "bitwise_invert", "bitwise_left_shift", "bitwise_or", "bitwise_right_shift", "bitwise_xor", "bool",
    "broadcast_arrays", "broadcast_to", "can_cast", "ceil", "clip", "complex128", "complex64", "concat", "conj",
    "copysign", "cos", "cosh", "count_nonzero", "cumulative_prod", "cumulative_sum", "diff", "divide", "e", "empty",
    "empty_like", "equal", "exp", "expand_dims", "expm1", "eye", "fft", "finfo", "flip", "float16", "float32", "float64",
    "floor", "floor_divide", "from_dlpack", "full", "full_like", "greater", "greater_equal", "hypot", "iinfo", "imag",
    "inf", "int16", "int32", "int64", "int8", "isdtype", "isfinite", "isinf", "isnan", "less", "less_equal", "linalg",
    "linspace", "log", "log10", "log1p", "log2", "logaddexp", "logical_and", "logical_not", "logical_or", "logical_xor",
    "matmul", "matrix_transpose", "max", "maximum", "mean", "meshgrid", "min", "minimum", "moveaxis", "multiply", "nan",
    "negative", "newaxis", "nextafter", "nonzero", "not_equal", "ones", "ones_like", "permute_dims", "pi", "positive",
    "pow", "prod", "real", "reciprocal", "remainder", "repeat", "reshape", "result_type", "roll", "round",
    "searchsorted", "sign", "signbit", "sin", "sinh", "sort", "sqrt", "square", "squeeze", "stack", "std", "subtract",
    "sum", "take", "take_along_axis", "tan", "tanh", "tensordot", "tile", "tril", "triu", "trunc", "uint16", "uint32",
    "uint64", "uint8", "unique_all", "unique_counts", "unique_inverse", "unique_values", "unstack", "var", "vecdot",
    "where", "zeros", "zeros_like",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    raise AttributeError(
        f"the TensorFlow namespace has no {name!r}; it holds the functions of the array API standard "
        f"{__array_api_version__}, see xai_tensorflow.namespace.__all__"
    )
