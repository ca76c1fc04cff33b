"""Element-wise functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from xai_tensorflow.namespace._dtypes import ALLOWED, COMPLEX, HALVES, both, require, tensor

_SMALL = (tf.int8, tf.int16, tf.uint8, tf.uint16, tf.uint32, tf.uint64)


def _unary(name: str, kind: str, function: Callable[[Any], Any], doc: str) -> Any:
    def op(x: Any, /) -> Any:
        return function(require(x, kind, name))

    op.__name__ = op.__qualname__ = name
    op.__doc__ = doc
    return op


def _binary(name: str, kind: str, function: Callable[[Any, Any], Any], doc: str) -> Any:
    def op(x1: Any, x2: Any, /) -> Any:
        a, b = both(x1, x2, name=name)
        if a.dtype not in ALLOWED[kind]:
            raise TypeError(f"{name} is defined for {kind} arrays, not {a.dtype.name}")
        return function(a, b)

    op.__name__ = op.__qualname__ = name
    op.__doc__ = doc
    return op


def _exact(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Leave integers as they are."""
    return lambda x: x if x.dtype.is_integer else function(x)


def _widened(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compute small integers, for which TensorFlow has no kernel, in int64 and go back; exact for these functions."""

    def run(*arrays: Any) -> Any:
        dtype = arrays[0].dtype
        if dtype in _SMALL and dtype != tf.uint64:
            out = function(*(tf.cast(a, tf.int64) for a in arrays))
            return tf.cast(out, dtype)
        return function(*arrays)

    return run


def _compared(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compare small integers in int64; the result is boolean."""

    def run(a: Any, b: Any) -> Any:
        if a.dtype in _SMALL and a.dtype != tf.uint64:
            a, b = tf.cast(a, tf.int64), tf.cast(b, tf.int64)
        return function(a, b)

    return run


def _sign(x: Any) -> Any:
    if x.dtype in COMPLEX:
        size = tf.cast(tf.abs(x), x.dtype)
        return tf.where(size == 0, tf.zeros_like(x), x / tf.where(size == 0, tf.ones_like(x), size))
    if x.dtype in ALLOWED["unsigned integer"]:
        return tf.cast(x > 0, x.dtype)
    return tf.sign(x)


def _signbit(x: Any) -> Any:
    width = {2: tf.int16, 4: tf.int32, 8: tf.int64}[x.dtype.size]
    return tf.bitcast(x, width) < 0


def _copysign(a: Any, b: Any) -> Any:
    size = tf.abs(a)
    return tf.where(_signbit(b), -size, size)


def _logaddexp(a: Any, b: Any) -> Any:
    high, low = tf.maximum(a, b), tf.minimum(a, b)
    same = tf.equal(high, low)  # two equal infinities have no difference
    gap = tf.where(same, tf.zeros_like(high), low - tf.where(same, low, high))
    return high + tf.math.log1p(tf.exp(gap))


def _hypot(a: Any, b: Any) -> Any:
    a, b = tf.abs(a), tf.abs(b)
    high, low = tf.maximum(a, b), tf.minimum(a, b)
    inside = (high > 0) & tf.math.is_finite(high)
    ratio = low / tf.where(inside, high, tf.ones_like(high))
    out = tf.where(inside, high * tf.sqrt(1 + tf.where(inside, ratio, tf.zeros_like(ratio)) ** 2), high)
    return tf.where(tf.math.is_inf(a) | tf.math.is_inf(b), tf.constant(np.inf, out.dtype), out)


def _divide(a: Any, b: Any) -> Any:
    return tf.math.divide(a, b)


def _remainder(a: Any, b: Any) -> Any:
    if a.dtype.is_integer:
        return _widened(tf.math.floormod)(a, b)
    out = tf.math.floormod(a, b)
    return tf.where(out == 0, _copysign(tf.zeros_like(out), b + tf.zeros_like(out)), out)


def _power(a: Any, b: Any) -> Any:
    if a.dtype in (tf.int8, tf.int16, tf.uint8, tf.uint16, tf.uint32):
        return tf.cast(tf.pow(tf.cast(a, tf.int64), tf.cast(b, tf.int64)), a.dtype)
    if a.dtype == tf.uint64:
        # TensorFlow has no kernel; square and multiply, one bit of the exponent at a time.
        one = tf.constant(1, tf.uint64)
        out = tf.ones_like(a * b)
        for bit in range(64):
            used = tf.bitwise.bitwise_and(tf.bitwise.right_shift(b, tf.constant(bit, tf.uint64)), one) == one
            out, a = tf.where(used, out * a, out), a * a
        return out
    return tf.pow(a, b)


def _nextafter(a: Any, b: Any) -> Any:
    if a.dtype in HALVES:
        raise TypeError(f"TensorFlow has no nextafter for {a.dtype.name}")
    return tf.math.nextafter(a, b)


def _extreme(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """TensorFlow does not say which operand wins against NaN: NaN does here."""

    def run(a: Any, b: Any) -> Any:
        if not a.dtype.is_floating:
            return _widened(function)(a, b)
        return tf.where(tf.math.is_nan(a), a, tf.where(tf.math.is_nan(b), b, function(a, b)))

    return run


def _by_parts(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A rounding or test function, applied to real and imaginary parts."""

    def run(x: Any) -> Any:
        if x.dtype in COMPLEX:
            return tf.complex(function(tf.math.real(x)), function(tf.math.imag(x)))
        return function(x)

    return run


def _either(function: Callable[[Any], Any], join: Callable[[Any, Any], Any], constant: bool) -> Callable[[Any], Any]:
    """A test on floats, joined over the parts of complex numbers; integers give a constant."""

    def run(x: Any) -> Any:
        if x.dtype in COMPLEX:
            return join(function(tf.math.real(x)), function(tf.math.imag(x)))
        if not x.dtype.is_floating:
            return tf.fill(tf.shape(x), constant)
        return function(x)

    return run


def _on_bool(logical: Callable[..., Any], bitwise: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arrays: (logical if arrays[0].dtype == tf.bool else bitwise)(*arrays)


def _shift(function: Callable[[Any, Any], Any], *, left: bool) -> Callable[[Any, Any], Any]:
    """TensorFlow leaves shifts by the width or more undefined: they give 0, or -1 for negative numbers to the right."""

    def run(a: Any, b: Any) -> Any:
        width = tf.constant(8 * a.dtype.size, a.dtype)
        wide = b >= width
        inside = function(a, tf.where(wide, tf.zeros_like(b), b))
        beyond = (
            tf.zeros_like(inside)
            if left or a.dtype in ALLOWED["unsigned integer"]
            else tf.where(a < 0, -tf.ones_like(inside), tf.zeros_like(inside))
        )
        return tf.where(wide, beyond, inside)

    return run


def _complex_expm1(x: Any) -> Any:
    if x.dtype in COMPLEX:
        real, imag = tf.math.real(x), tf.math.imag(x)
        less = tf.math.expm1(real) * tf.cos(imag) - 2 * tf.sin(imag / 2) ** 2
        return tf.complex(less, tf.exp(real) * tf.sin(imag))
    return tf.math.expm1(x)


def _log2(x: Any) -> Any:
    return tf.math.log(x) / tf.constant(np.log(2.0), x.dtype)


def _log10(x: Any) -> Any:
    return tf.math.log(x) / tf.constant(np.log(10.0), x.dtype)


def _log1p(x: Any) -> Any:
    return tf.math.log(1 + x) if x.dtype in COMPLEX else tf.math.log1p(x)


def _real(x: Any) -> Any:
    return tf.math.real(x) if x.dtype in COMPLEX else x


def _imag(x: Any) -> Any:
    return tf.math.imag(x) if x.dtype in COMPLEX else tf.zeros_like(x)


abs = _unary("abs", "numeric", lambda x: x if x.dtype in ALLOWED["unsigned integer"] else tf.abs(x), "Magnitude.")
acos = _unary("acos", "floating", tf.acos, "Inverse cosine.")
acosh = _unary("acosh", "floating", tf.acosh, "Inverse hyperbolic cosine.")
asin = _unary("asin", "floating", tf.asin, "Inverse sine.")
asinh = _unary("asinh", "floating", tf.asinh, "Inverse hyperbolic sine.")
atan = _unary("atan", "floating", tf.atan, "Inverse tangent.")
atanh = _unary("atanh", "floating", tf.atanh, "Inverse hyperbolic tangent.")
bitwise_invert = _unary(
    "bitwise_invert", "integer or boolean", _on_bool(tf.logical_not, tf.bitwise.invert), "Each bit inverted."
)
ceil = _unary("ceil", "numeric", _exact(tf.math.ceil), "Next integer upwards.")
conj = _unary("conj", "numeric", lambda x: tf.math.conj(x) if x.dtype in COMPLEX else x, "Complex conjugate.")
cos = _unary("cos", "floating", tf.cos, "Cosine.")
cosh = _unary("cosh", "floating", tf.cosh, "Hyperbolic cosine.")
exp = _unary("exp", "floating", tf.exp, "Exponential.")
expm1 = _unary("expm1", "floating", _complex_expm1, "Exponential minus one.")
floor = _unary("floor", "numeric", _exact(tf.math.floor), "Next integer downwards.")
imag = _unary("imag", "numeric", _imag, "Imaginary part.")
isfinite = _unary("isfinite", "any", _either(tf.math.is_finite, tf.logical_and, True), "Whether finite.")
isinf = _unary("isinf", "any", _either(tf.math.is_inf, tf.logical_or, False), "Whether infinite.")
isnan = _unary("isnan", "any", _either(tf.math.is_nan, tf.logical_or, False), "Whether not a number.")
log = _unary("log", "floating", tf.math.log, "Natural logarithm.")
log10 = _unary("log10", "floating", _log10, "Logarithm to base 10.")
log1p = _unary("log1p", "floating", _log1p, "Logarithm of one plus the argument.")
log2 = _unary("log2", "floating", _log2, "Logarithm to base 2.")
logical_not = _unary("logical_not", "bool", tf.logical_not, "Logical negation.")
negative = _unary("negative", "numeric", _widened(tf.negative), "Negation.")
positive = _unary("positive", "numeric", lambda x: x, "The argument.")
real = _unary("real", "numeric", _real, "Real part.")
reciprocal = _unary("reciprocal", "floating", tf.math.reciprocal, "One over the argument.")
round = _unary("round", "numeric", _exact(_by_parts(tf.round)), "Nearest integer, halves to even.")
sign = _unary("sign", "numeric", _sign, "Sign: -1, 0 or 1; for complex numbers x / |x|.")
signbit = _unary("signbit", "real floating", _signbit, "Whether the sign bit is set, also of -0 and NaN.")
sin = _unary("sin", "floating", tf.sin, "Sine.")
sinh = _unary("sinh", "floating", tf.sinh, "Hyperbolic sine.")
sqrt = _unary("sqrt", "floating", tf.sqrt, "Square root.")
square = _unary("square", "numeric", _widened(tf.square), "Square.")
tan = _unary("tan", "floating", tf.tan, "Tangent.")
tanh = _unary("tanh", "floating", tf.tanh, "Hyperbolic tangent.")
trunc = _unary(
    "trunc", "numeric", _exact(lambda x: tf.where(x < 0, tf.math.ceil(x), tf.math.floor(x))), "Integer towards zero."
)

add = _binary("add", "numeric", tf.add, "Sum.")
atan2 = _binary("atan2", "real floating", tf.atan2, "Angle of the point (x2, x1).")
bitwise_and = _binary("bitwise_and", "integer or boolean", _on_bool(tf.logical_and, tf.bitwise.bitwise_and), "And.")
bitwise_left_shift = _binary(
    "bitwise_left_shift", "integral", _shift(tf.bitwise.left_shift, left=True), "Bits shifted to the left."
)
bitwise_or = _binary("bitwise_or", "integer or boolean", _on_bool(tf.logical_or, tf.bitwise.bitwise_or), "Or.")
bitwise_right_shift = _binary(
    "bitwise_right_shift", "integral", _shift(tf.bitwise.right_shift, left=False), "Bits shifted to the right."
)
bitwise_xor = _binary(
    "bitwise_xor", "integer or boolean", _on_bool(tf.math.logical_xor, tf.bitwise.bitwise_xor), "Exclusive or."
)
copysign = _binary("copysign", "real floating", _copysign, "Magnitude of the first with the sign of the second.")
divide = _binary("divide", "floating", _divide, "Quotient.")
equal = _binary("equal", "any", _compared(tf.equal), "Whether equal.")
floor_divide = _binary("floor_divide", "real", _widened(tf.math.floordiv), "Quotient rounded downwards.")
greater = _binary("greater", "real", _compared(tf.greater), "Whether greater.")
greater_equal = _binary("greater_equal", "real", _compared(tf.greater_equal), "Whether greater or equal.")
hypot = _binary("hypot", "real floating", _hypot, "Length of the vector (x1, x2), without overflow.")
less = _binary("less", "real", _compared(tf.less), "Whether less.")
less_equal = _binary("less_equal", "real", _compared(tf.less_equal), "Whether less or equal.")
logaddexp = _binary("logaddexp", "real floating", _logaddexp, "Logarithm of the sum of exponentials.")
logical_and = _binary("logical_and", "bool", tf.logical_and, "Logical and.")
logical_or = _binary("logical_or", "bool", tf.logical_or, "Logical or.")
logical_xor = _binary("logical_xor", "bool", tf.math.logical_xor, "Logical exclusive or.")
maximum = _binary("maximum", "real", _extreme(tf.maximum), "Greater of the two; NaN if either is.")
minimum = _binary("minimum", "real", _extreme(tf.minimum), "Lesser of the two; NaN if either is.")
multiply = _binary("multiply", "numeric", _widened(tf.multiply), "Product.")
nextafter = _binary("nextafter", "real floating", _nextafter, "Next representable number towards the second.")
not_equal = _binary("not_equal", "any", _compared(tf.not_equal), "Whether not equal.")
pow = _binary("pow", "numeric", _power, "Power.")
remainder = _binary("remainder", "real", _remainder, "Remainder with the sign of the divisor.")
subtract = _binary("subtract", "numeric", _widened(tf.subtract), "Difference.")


def clip(x: Any, /, min: Any = None, max: Any = None) -> Any:
    """Values limited to [min, max]; NaN stays."""
    array = require(x, "real", "clip")
    out = array
    for bound, limit in ((min, maximum), (max, minimum)):
        if bound is not None:
            value = tf.cast(bound, array.dtype) if isinstance(bound, tf.Tensor) else _bound(bound, array.dtype)
            out = limit(out, value)
    return out


def _bound(value: Any, dtype: Any) -> Any:
    """A Python bound in the array's dtype; one outside an integer's range limits nothing beyond that range."""
    if dtype.is_integer:
        value = (
            int(np.clip(value, dtype.min, dtype.max)) if np.isfinite(value) else (dtype.max if value > 0 else dtype.min)
        )
    return tf.constant(value, dtype)


def where(condition: Any, x1: Any, x2: Any, /) -> Any:
    """`x1` where the condition holds, else `x2`."""
    a, b = both(x1, x2, name="where")
    return tf.where(tensor(condition), a, b)
