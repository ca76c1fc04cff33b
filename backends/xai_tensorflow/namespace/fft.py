"""Fourier transforms of the array API standard on TensorFlow tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from xai_tensorflow.namespace._creation import asarray
from xai_tensorflow.namespace._dtypes import COMPLEX, DEFAULT_FLOAT, as_dtype, require

__all__ = [
    "fft", "fftfreq", "fftn", "fftshift", "hfft", "ifft", "ifftn", "ifftshift", "ihfft", "irfft", "irfftn", "rfft",
    "rfftfreq", "rfftn",
]  # fmt: skip


def _complex(x: Any, name: str) -> Any:
    array = require(x, "floating", name)
    if array.dtype in COMPLEX:
        return array
    return tf.cast(array, tf.complex128 if array.dtype == tf.float64 else tf.complex64)


def _sized(x: Any, n: int | None, axis: int) -> Any:
    """Cut or padded with zeros to length `n` along an axis."""
    if n is None or n == x.shape[axis]:
        return x
    if n < 1:
        raise ValueError(f"a transform needs at least one point, not {n}")
    if n < x.shape[axis]:
        index = [slice(None)] * x.shape.rank
        index[axis] = slice(0, n)
        return x[tuple(index)]
    pads = [(0, n - x.shape[axis]) if a == axis % x.shape.rank else (0, 0) for a in range(x.shape.rank)]
    return tf.pad(x, pads)


def _along(function: Callable[[Any], Any], x: Any, axis: int) -> Any:
    """A function of the last axis along another."""
    rank = x.shape.rank
    axis %= rank
    if axis == rank - 1:
        return function(x)
    order = [a for a in range(rank) if a != axis] + [axis]
    return tf.transpose(function(tf.transpose(x, order)), [int(a) for a in np.argsort(order)])


def _scale(x: Any, n: int, norm: str, *, inverse: bool) -> Any:
    """TensorFlow divides by n in the inverse alone, which is norm="backward"."""
    if norm not in ("backward", "ortho", "forward"):
        raise ValueError(f"norm must be 'backward', 'ortho' or 'forward', not {norm!r}")
    if norm == "backward":
        return x
    factor = {
        ("ortho", False): n**-0.5,
        ("ortho", True): n**0.5,
        ("forward", False): 1 / n,
        ("forward", True): float(n),
    }
    return x * tf.constant(factor[norm, inverse], x.dtype)  # a cast would go through float32


def fft(x: Any, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Any:
    """Discrete Fourier transform along an axis."""
    array = _sized(_complex(x, "fft"), n, axis)
    return _scale(_along(tf.signal.fft, array, axis), array.shape[axis], norm, inverse=False)


def ifft(x: Any, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Any:
    """Inverse of `fft`."""
    array = _sized(_complex(x, "ifft"), n, axis)
    return _scale(_along(tf.signal.ifft, array, axis), array.shape[axis], norm, inverse=True)


def rfft(x: Any, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Any:
    """Transform of a real signal: the half that is not redundant."""
    array = require(x, "real floating", "rfft")
    if array.dtype not in (tf.float32, tf.float64):
        array = tf.cast(array, tf.float32)
    array = _sized(array, n, axis)
    return _scale(_along(tf.signal.rfft, array, axis), array.shape[axis], norm, inverse=False)


def irfft(x: Any, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Any:
    """Inverse of `rfft`; `n` is the length of the real signal, 2 (m - 1) by default."""
    array = _complex(x, "irfft")
    size = 2 * (array.shape[axis] - 1) if n is None else n
    array = _sized(array, size // 2 + 1, axis)
    out = _along(lambda half: tf.signal.irfft(half, [size]), array, axis)
    return _scale(out, size, norm, inverse=True)


def hfft(x: Any, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Any:
    """Transform of a signal with Hermitian symmetry, which is real."""
    array = _complex(x, "hfft")
    size = 2 * (array.shape[axis] - 1) if n is None else n
    turned = {"backward": "forward", "forward": "backward", "ortho": "ortho"}
    if norm not in turned:
        raise ValueError(f"norm must be 'backward', 'ortho' or 'forward', not {norm!r}")
    return irfft(tf.math.conj(array), n=size, axis=axis, norm=turned[norm])


def ihfft(x: Any, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Any:
    """Inverse of `hfft`."""
    turned = {"backward": "forward", "forward": "backward", "ortho": "ortho"}
    if norm not in turned:
        raise ValueError(f"norm must be 'backward', 'ortho' or 'forward', not {norm!r}")
    return tf.math.conj(rfft(x, n=n, axis=axis, norm=turned[norm]))


def _plan(x: Any, s: Sequence[int] | None, axes: Sequence[int] | None) -> list[tuple[int | None, int]]:
    rank = x.shape.rank
    if axes is None:
        axes = range(rank) if s is None else range(rank - len(s), rank)
    sizes: Sequence[int | None] = [None] * len(axes) if s is None else list(s)
    return list(zip(sizes, [a % rank for a in axes], strict=True))


def fftn(x: Any, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Any:
    """Transform along several axes."""
    array = _complex(x, "fftn")
    for n, axis in _plan(array, s, axes):
        array = fft(array, n=n, axis=axis, norm=norm)
    return array


def ifftn(x: Any, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Any:
    """Inverse of `fftn`."""
    array = _complex(x, "ifftn")
    for n, axis in _plan(array, s, axes):
        array = ifft(array, n=n, axis=axis, norm=norm)
    return array


def rfftn(x: Any, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Any:
    """Transform of a real signal along several axes, halved along the last of them."""
    array = require(x, "real floating", "rfftn")
    plan = _plan(array, s, axes)
    out = rfft(array, n=plan[-1][0], axis=plan[-1][1], norm=norm)
    for n, axis in plan[:-1]:
        out = fft(out, n=n, axis=axis, norm=norm)
    return out


def irfftn(x: Any, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Any:
    """Inverse of `rfftn`."""
    array = _complex(x, "irfftn")
    plan = _plan(array, s, axes)
    for n, axis in plan[:-1]:
        array = ifft(array, n=n, axis=axis, norm=norm)
    return irfft(array, n=plan[-1][0], axis=plan[-1][1], norm=norm)


def fftfreq(n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Any:
    """Frequencies of the points of `fft`."""
    return _frequencies(np.fft.fftfreq(n, d), dtype, device)


def rfftfreq(n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Any:
    """Frequencies of the points of `rfft`."""
    return _frequencies(np.fft.rfftfreq(n, d), dtype, device)


def _frequencies(values: Any, dtype: Any, device: Any) -> Any:
    wanted = DEFAULT_FLOAT if dtype is None else as_dtype(dtype)
    if not wanted.is_floating:
        raise ValueError(f"frequencies need a real floating dtype, not {wanted.name}")
    return asarray(values, dtype=wanted, device=device)


def fftshift(x: Any, /, *, axes: Any = None) -> Any:
    """Frequency zero moved to the middle."""
    return _shift(x, axes, 1)


def ifftshift(x: Any, /, *, axes: Any = None) -> Any:
    """Inverse of `fftshift`."""
    return _shift(x, axes, -1)


def _shift(x: Any, axes: Any, sign: int) -> Any:
    array = require(x, "any", "fftshift")
    chosen = range(array.shape.rank) if axes is None else axes if isinstance(axes, tuple | list) else (axes,)
    for axis in chosen:
        half = array.shape[axis] // 2
        array = tf.roll(array, half if sign > 0 else -half, axis)
    return array
