"""TensorFlow's namespace against the strict reference of the standard: values, dtypes and shapes, eager and traced."""

from __future__ import annotations

import array_api_strict as strict
import numpy as np
import pytest
from frameworks import need
from hypothesis import given
from hypothesis import strategies as st

need("tensorflow")

import tensorflow as tf
import xai_tensorflow.namespace as xp

FLOATS = ["float32", "float64"]
COMPLEX = ["complex64", "complex128"]
SIGNED = ["int8", "int16", "int32", "int64"]
INTEGERS = [*SIGNED, "uint8", "uint16", "uint32", "uint64"]
REAL = INTEGERS + FLOATS
NUMERIC = REAL + COMPLEX
EVERY = ["bool", *NUMERIC]

rng = np.random.default_rng(0)


def sample(dtype: str, shape=(2, 3), low=-3, high=4) -> np.ndarray:
    if dtype == "bool":
        return rng.integers(0, 2, size=shape).astype(bool)
    if dtype in INTEGERS:
        return rng.integers(max(low, 0) if dtype.startswith("u") else low, high, size=shape).astype(dtype)
    out = rng.uniform(low, high, size=shape)
    if dtype in COMPLEX:
        out = out + 1j * rng.uniform(low, high, size=shape)
    return out.astype(dtype)


def same(found, expected, where: str) -> None:
    """Same dtype, shape and values."""
    if isinstance(expected, (tuple, list)):
        assert len(found) == len(expected), where
        for a, b in zip(found, expected, strict=True):
            same(a, b, where)
        return
    assert isinstance(found, tf.Tensor), f"{where}: {type(found)}"
    wanted = np.asarray(expected)
    assert found.dtype.name == wanted.dtype.name, f"{where}: {found.dtype.name}, expected {wanted.dtype.name}"
    assert tuple(found.shape) == wanted.shape, f"{where}: {tuple(found.shape)}, expected {wanted.shape}"
    exact = wanted.dtype.kind in "biu"
    tolerance = 0 if exact else 5e-5 if wanted.dtype.name in ("float32", "complex64") else 1e-10
    np.testing.assert_allclose(found.numpy(), wanted, rtol=tolerance, atol=tolerance, err_msg=where)


def check(name: str, arrays: list[np.ndarray], *rest, **options) -> None:
    """A function of arrays, eager and inside tf.function, against the reference."""
    module, _, function = name.rpartition(".")
    ours = getattr(getattr(xp, module) if module else xp, function)
    theirs = getattr(getattr(strict, module) if module else strict, function)
    tensors = [tf.constant(a) for a in arrays]
    reference = [strict.asarray(a) for a in arrays]
    mapped = {k: getattr(strict, v.name) if isinstance(v, tf.DType) else v for k, v in options.items()}
    with np.errstate(all="ignore"):
        expected = theirs(*reference, *rest, **mapped)
    where = f"{name}({', '.join(str(a.dtype) + str(a.shape) for a in arrays)}, {rest}, {options})"
    same(ours(*tensors, *rest, **options), expected, where)
    traced = tf.function(lambda *inner: ours(*inner, *rest, **options), autograph=False)
    same(traced(*tensors), expected, f"traced {where}")


UNARY = {
    "abs": NUMERIC, "negative": SIGNED + FLOATS + COMPLEX, "positive": NUMERIC, "sign": NUMERIC, "square": NUMERIC,
    "ceil": REAL, "floor": REAL, "trunc": REAL, "round": NUMERIC, "exp": FLOATS + COMPLEX, "expm1": FLOATS,
    "sin": FLOATS + COMPLEX, "cos": FLOATS + COMPLEX, "tan": FLOATS + COMPLEX, "sinh": FLOATS + COMPLEX,
    "cosh": FLOATS + COMPLEX, "tanh": FLOATS + COMPLEX, "asinh": FLOATS + COMPLEX, "atan": FLOATS, "signbit": FLOATS,
    "logical_not": ["bool"], "bitwise_invert": ["bool", *INTEGERS], "isfinite": NUMERIC, "isinf": NUMERIC,
    "isnan": NUMERIC, "real": COMPLEX, "imag": COMPLEX, "conj": NUMERIC, "reciprocal": FLOATS,
    "zeros_like": EVERY, "ones_like": EVERY,
}  # fmt: skip
POSITIVE = dict.fromkeys(("sqrt", "log", "log2", "log10", "log1p"), FLOATS)
UNIT = dict.fromkeys(("asin", "acos", "atanh"), FLOATS)
BINARY = {
    "add": NUMERIC, "subtract": NUMERIC, "multiply": NUMERIC, "divide": FLOATS + COMPLEX, "maximum": REAL,
    "minimum": REAL, "equal": EVERY, "not_equal": EVERY, "less": REAL, "less_equal": REAL, "greater": REAL,
    "greater_equal": REAL, "logical_and": ["bool"], "logical_or": ["bool"], "logical_xor": ["bool"],
    "bitwise_and": ["bool", *INTEGERS], "bitwise_or": ["bool", *INTEGERS], "bitwise_xor": ["bool", *INTEGERS],
    "atan2": FLOATS, "hypot": FLOATS, "copysign": FLOATS, "logaddexp": FLOATS, "nextafter": FLOATS,
}  # fmt: skip


def rows(table):
    return [(name, dtype) for name, dtypes in table.items() for dtype in dtypes]


@pytest.mark.parametrize(("name", "dtype"), rows(UNARY))
def test_unary(name, dtype):
    check(name, [sample(dtype)])
    check(name, [sample(dtype, ())])
    check(name, [sample(dtype, (0, 2))])


@pytest.mark.parametrize(("name", "dtype"), rows(POSITIVE))
def test_unary_of_positive_numbers(name, dtype):
    check(name, [sample(dtype, low=0.1)])


@pytest.mark.parametrize(("name", "dtype"), rows(UNIT))
def test_unary_inside_the_unit_interval(name, dtype):
    check(name, [sample(dtype, low=-0.9, high=0.9)])


@pytest.mark.parametrize("dtype", FLOATS)
def test_acosh(dtype):
    check("acosh", [sample(dtype, low=1.1, high=5)])


@pytest.mark.parametrize("name", ["isnan", "isinf", "isfinite", "sign", "abs", "floor", "exp", "signbit", "max", "sum"])
def test_special_values(name):
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-30, 3e38], dtype="float32")
    check(name, [special])


@pytest.mark.parametrize(("name", "dtype"), rows(BINARY))
def test_binary_and_broadcasting(name, dtype):
    check(name, [sample(dtype), sample(dtype)])
    check(name, [sample(dtype, (4, 1, 3)), sample(dtype, (2, 1))])


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("name", ["floor_divide", "remainder"])
def test_division_with_signs(name, dtype):
    a = sample(dtype, (40,), low=-9, high=9)
    b = sample(dtype, (40,), low=1, high=5)
    if dtype in SIGNED + FLOATS:
        b = (b * np.where(rng.integers(0, 2, size=40), 1, -1)).astype(dtype)
    check(name, [a, b])


@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
def test_pow(dtype):
    check("pow", [sample(dtype, low=1), sample(dtype, low=0, high=3)])


@pytest.mark.parametrize("dtype", INTEGERS)
def test_shifts(dtype):
    check("bitwise_left_shift", [sample(dtype), sample(dtype, low=0, high=3)])
    check("bitwise_right_shift", [sample(dtype, low=-100, high=100), sample(dtype, low=0, high=3)])


@pytest.mark.parametrize("first", ["int8", "uint8", "int32", "int64", "float32", "complex64", "bool"])
@pytest.mark.parametrize("second", ["int16", "uint8", "int64", "float64", "complex64", "bool"])
def test_promotion_is_the_standard_one(first, second):
    """Kinds are mixed only as the standard says; everything else is a TypeError and no silent float64."""
    try:
        expected = strict.result_type(getattr(strict, first), getattr(strict, second))
    except TypeError:
        with pytest.raises(TypeError):
            xp.result_type(getattr(xp, first), getattr(xp, second))
        with pytest.raises(TypeError):
            xp.add(tf.constant(sample(first)), tf.constant(sample(second)))
        return
    assert xp.result_type(getattr(xp, first), getattr(xp, second)).name == str(expected).split(".")[-1]
    if "bool" not in (first, second):
        check("add", [sample(first), sample(second)])
        check("multiply", [sample(first), sample(second)])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", *FLOATS])
def test_python_scalars_keep_the_dtype(dtype):
    x = tf.cast(tf.constant([1.0, 2.0]), dtype)
    for found in (xp.add(x, 1), xp.multiply(2.0, x), xp.maximum(x, 0.5), xp.where(x > 1, x, 0.0), xp.clip(x, 0, 1.5)):
        assert found.dtype == x.dtype
    with pytest.raises(TypeError):
        xp.add(tf.constant([1, 2]), 0.5)


@pytest.mark.parametrize("dtype", EVERY)
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions(dtype, axis, keepdims):
    x = sample(dtype, (2, 3, 4), low=-2, high=3)
    names = ["any", "all"]
    names += ["sum", "prod"] if dtype != "bool" else []
    names += ["max", "min"] if dtype in REAL else []
    names += ["mean", "var", "std"] if dtype in FLOATS else []
    for name in names:
        check(name, [x], axis=axis, keepdims=keepdims)
    if dtype in FLOATS:
        check("var", [x], axis=axis, correction=1, keepdims=keepdims)


@pytest.mark.parametrize("dtype", REAL)
def test_sorting_and_searching(dtype):
    x = rng.permutation(24).reshape(2, 3, 4).astype(dtype)
    for axis in (0, 1, -1):
        check("argmax", [x], axis=axis)
        check("argmin", [x], axis=axis, keepdims=True)
        for descending in (False, True):
            check("sort", [x], axis=axis, descending=descending)
            check("argsort", [x], axis=axis, descending=descending)
    check("argmax", [x])
    check("count_nonzero", [x], axis=1)
    line = np.sort(rng.permutation(20)[:8]).astype(dtype)
    for side in ("left", "right"):
        check("searchsorted", [line, x.reshape(-1)], side=side)


def test_sorting_is_stable():
    x = np.array([2, 1, 2, 1, 1, 2, 0], dtype="int32")
    for descending in (False, True):
        check("argsort", [x], descending=descending, stable=True)


def test_nonzero_and_unique():
    x = np.array([[0, 2, 1], [2, 0, 5]], dtype="int32")
    same(xp.nonzero(tf.constant(x)), strict.nonzero(strict.asarray(x)), "nonzero")
    found = xp.unique_counts(tf.constant(x))
    order = np.argsort(found.values.numpy())
    assert np.array_equal(found.values.numpy()[order], [0, 1, 2, 5])
    assert np.array_equal(found.counts.numpy()[order], [2, 1, 2, 1])
    inverse = xp.unique_inverse(tf.constant(x))
    assert np.array_equal(inverse.values.numpy()[inverse.inverse_indices.numpy()], x)
    assert tuple(inverse.inverse_indices.shape) == x.shape
    every = xp.unique_all(tf.constant(x))
    assert np.array_equal(x.reshape(-1)[every.indices.numpy()], every.values.numpy())


@pytest.mark.parametrize("dtype", ["int32", *FLOATS, "complex64"])
def test_cumulative(dtype):
    x = sample(dtype, (2, 3, 4))
    for axis in (0, -1):
        for initial in (False, True):
            check("cumulative_sum", [x], axis=axis, include_initial=initial)
            check("cumulative_prod", [x], axis=axis, include_initial=initial)
        check("diff", [x], axis=axis, n=2)


@pytest.mark.parametrize("dtype", EVERY)
def test_manipulation(dtype):
    x, y = sample(dtype, (2, 3, 4)), sample(dtype, (2, 1, 4))
    check("reshape", [x], (4, -1))
    check("reshape", [x], (24,))
    check("permute_dims", [x], (2, 0, 1))
    check("moveaxis", [x], 0, -1)
    check("moveaxis", [x], (0, 1), (-1, 0))
    check("flip", [x], axis=(0, 2))
    check("flip", [x])
    check("roll", [x], 2, axis=1)
    check("roll", [x], 5)
    check("roll", [x], (1, -1), axis=(0, 2))
    check("expand_dims", [x], axis=-2)
    check("squeeze", [y], axis=1)
    check("broadcast_to", [y], (2, 3, 4))
    check("repeat", [x], 3, axis=1)
    check("repeat", [x], 2)
    check("tile", [x], (2, 1, 3))
    check("tile", [x], (2, 2, 1, 1))
    check("matrix_transpose", [x])
    check("tril", [x], k=1)
    check("triu", [x], k=-1)
    check("unstack", [x], axis=1)
    for name, arrays in (("concat", [x, y]), ("stack", [x, x])):
        expected = getattr(strict, name)([strict.asarray(a) for a in arrays], axis=1)
        same(getattr(xp, name)([tf.constant(a) for a in arrays], axis=1), expected, name)
    same(xp.concat([tf.constant(x), tf.constant(y)], axis=None), np.concatenate([x.reshape(-1), y.reshape(-1)]), "flat")
    same(
        xp.broadcast_arrays(tf.constant(x), tf.constant(y)),
        strict.broadcast_arrays(strict.asarray(x), strict.asarray(y)),
        "broadcast_arrays",
    )


@pytest.mark.parametrize("dtype", EVERY)
def test_indexing(dtype):
    x = sample(dtype, (3, 4))
    index = np.array([2, 0, 2], dtype="int64")
    check("take", [x, index], axis=1)
    check("take", [x, index], axis=0)
    check("take_along_axis", [x, np.array([[0, 3], [1, 1], [2, 0]])], axis=1)
    condition = sample("bool", (3, 4))
    check("where", [condition, x, sample(dtype, (4,))])


@pytest.mark.parametrize("dtype", REAL)
def test_clip(dtype):
    x = sample(dtype, (3, 4), low=-9, high=9)
    check("clip", [x], 1, 3)
    check("clip", [x], None, 3)
    check("clip", [x], 1)
    check("clip", [x, sample(dtype, (4,), low=0, high=2)])


@pytest.mark.parametrize("dtype", [None, "int32", *FLOATS])
def test_creation(dtype):
    kind = {} if dtype is None else {"dtype": getattr(xp, dtype)}
    reference = {} if dtype is None else {"dtype": getattr(strict, dtype)}
    integers = {"dtype": strict.int64} if dtype is None else reference
    default = {"dtype": strict.float32} if dtype is None else reference
    same(xp.zeros((2, 3), **kind), strict.zeros((2, 3), **default), "zeros")
    same(xp.ones(4, **kind), strict.ones(4, **default), "ones")
    same(xp.full((2,), 3, **kind), strict.full((2,), 3, **integers), "full")
    same(xp.eye(3, 4, k=1, **kind), strict.eye(3, 4, k=1, **default), "eye")
    same(xp.arange(7, **kind), strict.arange(7, **integers), "arange")
    same(xp.arange(7, 1, -2, **kind), strict.arange(7, 1, -2, **integers), "arange")
    assert tuple(xp.empty((2, 0), **kind).shape) == (2, 0)
    if dtype != "int32":
        same(xp.linspace(0, 1, 5, **kind), strict.linspace(0, 1, 5, **default), "linspace")
        same(xp.linspace(0, 1, 5, endpoint=False, **kind), strict.linspace(0, 1, 5, endpoint=False, **default), "open")
    same(xp.asarray([[1, 2], [3, 4]], **kind), strict.asarray([[1, 2], [3, 4]], **integers), "asarray")
    for ours, theirs in zip(
        xp.meshgrid(tf.constant([1, 2]), tf.constant([3, 4, 5])),
        strict.meshgrid(strict.asarray([1, 2], dtype=strict.int32), strict.asarray([3, 4, 5], dtype=strict.int32)),
        strict=True,
    ):
        same(ours, theirs, "meshgrid")


@pytest.mark.parametrize("source", EVERY)
@pytest.mark.parametrize("wanted", ["bool", "int8", "int64", "uint8", "float32", "float64"])
def test_astype(source, wanted):
    if source in COMPLEX:
        with pytest.raises(TypeError):
            xp.astype(tf.constant(sample(source)), getattr(xp, wanted))
        return
    low = 0 if wanted.startswith("u") else -3
    x = sample(source, low=low)
    same(xp.astype(tf.constant(x), getattr(xp, wanted)), x.astype(wanted), f"{source} to {wanted}")


@pytest.mark.parametrize("dtype", [*FLOATS, "complex128"])
def test_linear_algebra(dtype):
    square = sample(dtype, (2, 3, 3)) + 4 * np.eye(3, dtype=dtype)
    symmetric = square + np.conj(np.swapaxes(square, -1, -2))
    tall = sample(dtype, (2, 4, 3))
    check("matmul", [tall, square])
    check("matmul", [tall, sample(dtype, (3,))])
    check("tensordot", [tall, sample(dtype, (3, 5))], axes=1)
    check("tensordot", [tall, sample(dtype, (4, 2, 2))], axes=((0, 1), (1, 0)))
    check("vecdot", [tall, tall], axis=-2)
    check("linalg.solve", [square, sample(dtype, (2, 3, 2))])
    check("linalg.solve", [square, sample(dtype, (3,))])
    check("linalg.inv", [square])
    check("linalg.det", [square])
    check("linalg.slogdet", [square])
    check("linalg.pinv", [tall])
    check("linalg.svdvals", [tall])
    check("linalg.eigvalsh", [symmetric])
    check("linalg.matrix_power", [square], 3)
    check("linalg.matrix_power", [square], -2)
    check("linalg.matrix_rank", [tall])
    check("linalg.trace", [square], offset=1)
    check("linalg.diagonal", [tall], offset=-1)
    check("linalg.outer", [sample(dtype, (3,)), sample(dtype, (2,))])
    check("linalg.cross", [tall, tall[:, ::-1].copy()])
    for order in (1, 2, np.inf, -np.inf, 0, 3):
        check("linalg.vector_norm", [tall], axis=(0, 2), ord=order)
    for order in ("fro", "nuc", 1, 2, np.inf, -1, -2):
        check("linalg.matrix_norm", [tall], ord=order)
    positive = square @ np.conj(np.swapaxes(square, -1, -2))
    check("linalg.cholesky", [positive])
    for full in (False, True):
        u, s, vh = xp.linalg.svd(tf.constant(tall), full_matrices=full)
        k = s.shape[-1]
        rebuilt = u.numpy()[..., :k] * s.numpy()[..., None, :] @ vh.numpy()[..., :k, :]
        np.testing.assert_allclose(rebuilt, tall, atol=1e-4 if dtype == "float32" else 1e-10)
    for mode in ("reduced", "complete"):
        q, r = xp.linalg.qr(tf.constant(tall), mode=mode)
        np.testing.assert_allclose(q.numpy() @ r.numpy(), tall, atol=1e-4 if dtype == "float32" else 1e-10)
        assert q.shape[-1] == (3 if mode == "reduced" else 4)
    values, vectors = xp.linalg.eigh(tf.constant(symmetric))
    np.testing.assert_allclose(
        symmetric @ vectors.numpy(),
        vectors.numpy() * values.numpy()[..., None, :],
        atol=2e-4 if dtype == "float32" else 1e-9,
    )


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("norm", ["backward", "ortho", "forward"])
@pytest.mark.parametrize("n", [None, 3, 8])
def test_fourier(dtype, norm, n):
    x = sample(dtype, (2, 6))
    real = sample({"complex64": "float32", "complex128": "float64"}[dtype], (2, 6))
    for name in ("fft", "ifft"):
        check(f"fft.{name}", [x], n=n, norm=norm)
        check(f"fft.{name}", [x], n=n, axis=0, norm=norm)
    check("fft.rfft", [real], n=n, norm=norm)
    check("fft.irfft", [x], n=n, norm=norm)
    check("fft.hfft", [x], n=n, norm=norm)
    check("fft.ihfft", [real], n=n, norm=norm)
    check("fft.fftn", [x], norm=norm)
    check("fft.ifftn", [x], s=(2, 4), axes=(0, 1), norm=norm)
    check("fft.rfftn", [real], norm=norm)
    check("fft.irfftn", [x], norm=norm)
    check("fft.fftshift", [x])
    check("fft.ifftshift", [x], axes=1)


def test_fourier_frequencies():
    for n in (5, 6):
        np.testing.assert_allclose(xp.fft.fftfreq(n, d=0.5).numpy(), np.fft.fftfreq(n, 0.5), rtol=1e-6)
        np.testing.assert_allclose(xp.fft.rfftfreq(n).numpy(), np.fft.rfftfreq(n), rtol=1e-6)


DIFFERENTIABLE = {
    "sum": lambda x: xp.sum(x * x, axis=0),
    "mean": lambda x: xp.mean(x**2),
    "max": lambda x: xp.max(x, axis=1),
    "var": lambda x: xp.var(x, axis=0),
    "std": lambda x: xp.std(x),
    "prod": lambda x: xp.prod(x, axis=1),
    "sort": lambda x: xp.sort(x, axis=1, descending=True) * xp.arange(3, dtype=x.dtype),
    "take": lambda x: xp.take(x, tf.constant([1, 1, 0]), axis=0) ** 2,
    "where": lambda x: xp.where(x > 0, x * x, -x),
    "clip": lambda x: xp.clip(x, -1.0, 1.0) * x,
    "matmul": lambda x: xp.matmul(x, xp.matrix_transpose(x)),
    "solve": lambda x: xp.linalg.solve(xp.eye(2, dtype=x.dtype) * 5 + x[:, :2], x),
    "cumsum": lambda x: xp.cumulative_sum(x, axis=1) ** 2,
    "roll": lambda x: xp.roll(x, 1, axis=0) * x,
    "tensordot": lambda x: xp.tensordot(x, x, axes=((1,), (1,))),
    "fft": lambda x: xp.abs(xp.fft.rfft(x)) ** 2,
    "norm": lambda x: xp.linalg.vector_norm(x, axis=1),
    "svdvals": lambda x: xp.linalg.svdvals(x),
    "det": lambda x: xp.linalg.det(x[:, :2]),
    "repeat": lambda x: xp.repeat(x, 2, axis=0) ** 2,
    "logaddexp": lambda x: xp.logaddexp(x, 2 * x),
    "hypot": lambda x: xp.hypot(x, x + 1),
    "pinv": lambda x: xp.linalg.pinv(x),
    "take_along_axis": lambda x: xp.take_along_axis(x, tf.constant([[0], [2]]), axis=1) ** 2,
    "diff": lambda x: xp.diff(x, axis=1) ** 2,
    "qr": lambda x: xp.abs(xp.linalg.qr(x).R),
    "eigvalsh": lambda x: xp.linalg.eigvalsh(xp.matmul(x, xp.matrix_transpose(x))),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_derivatives(name):
    """Against central differences, in float64."""
    function = DIFFERENTIABLE[name]
    x = np.random.default_rng(4).normal(size=(2, 3))
    weight = np.random.default_rng(5).normal(size=tuple(function(tf.constant(x)).shape))
    score = lambda x: tf.reduce_sum(function(x) * weight)  # noqa: E731
    tensor = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        value = score(tensor)
    found = tf.convert_to_tensor(tape.gradient(value, tensor)).numpy()
    expected = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        step = np.zeros_like(x)
        step[place] = 1e-6
        expected[place] = (score(tf.constant(x + step)) - score(tf.constant(x - step))).numpy() / 2e-6
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@given(
    shape=st.lists(st.integers(0, 4), min_size=0, max_size=3).map(tuple),
    other=st.lists(st.integers(1, 4), min_size=0, max_size=3).map(tuple),
)
def test_broadcasting_is_that_of_the_standard(shape, other):
    a, b = np.ones(shape, dtype="float32"), np.ones(other, dtype="float32")
    try:
        expected = np.broadcast_shapes(shape, other)
    except ValueError:
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
            xp.add(tf.constant(a), tf.constant(b))
        return
    assert tuple(xp.add(tf.constant(a), tf.constant(b)).shape) == expected


def test_what_is_missing_says_so():
    with pytest.raises((AttributeError, NotImplementedError), match="set_array_api"):
        xp.set_array_api_strict_flags  # noqa: B018
    with pytest.raises(TypeError, match="bool"):
        xp.sin(tf.constant([True]))
    with pytest.raises(TypeError):
        xp.sqrt(tf.constant([1, 2]))


def test_nothing_is_patched():
    import subprocess
    import sys

    code = (
        "import tensorflow as tf; before = set(dir(tf.Tensor)), tf.constant([1]) + 1\n"
        "import xai_tensorflow.namespace as xp\n"
        "assert set(dir(tf.Tensor)) == before[0]\n"
        "assert not hasattr(tf.constant(1), 'T')\n"
        "try: tf.constant([1]) + tf.constant([1.0])\n"
        "except Exception: print('strict')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "strict"


def test_information():
    info = xp.__array_namespace_info__()
    assert info.default_dtypes()["real floating"] == tf.float32
    assert set(info.dtypes(kind="complex floating")) == {"complex64", "complex128"}
    assert info.capabilities()["boolean indexing"] in (True, False)
    assert xp.finfo(xp.float32).eps == np.finfo("float32").eps
    assert xp.iinfo(xp.int16).max == 32767
    assert xp.isdtype(xp.float32, "real floating")
    assert not xp.isdtype(xp.int8, ("bool", "real floating"))
    assert xp.can_cast(xp.int8, xp.int16)
    assert not xp.can_cast(xp.float64, xp.float32)


def test_signatures_are_those_of_the_standard():
    import inspect

    import array_api_strict._fft as strict_fft
    import array_api_strict._linalg as strict_linalg

    later = {"broadcast_shapes", "isin"}  # of the 2025 edition
    for ours, theirs, names in (
        (xp, strict, strict.__all__),
        (xp.linalg, strict_linalg, strict_linalg.__all__),
        (xp.fft, strict_fft, strict_fft.__all__),
    ):
        for name in names:
            reference = getattr(theirs, name, None)
            if not inspect.isfunction(reference) or "flags" in name or name in later:
                continue
            wanted = [(p.name, p.kind) for p in inspect.signature(reference).parameters.values()]
            found = [(p.name, p.kind) for p in inspect.signature(getattr(ours, name)).parameters.values()]
            positional = inspect.Parameter.POSITIONAL_ONLY
            wanted = [("", kind) if kind is positional else (label, kind) for label, kind in wanted]
            found = [("", kind) if kind is positional else (label, kind) for label, kind in found]
            assert found == wanted, name
