"""Every method against its literal restatement, in namespaces that forgive nothing, with no framework installed."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
from strict import second_device, strict_model
from table import SEED, methods

import xai_core as xai
from xai_core.testing import assert_close, mlp, weights


@pytest.fixture(autouse=True, scope="module")
def _strictest():
    """The strictest flags while this module's tests run: they are global, and other tests need the extensions."""
    with array_api_strict.ArrayAPIStrictFlags(
        api_version="2024.12", boolean_indexing=False, data_dependent_shapes=False, enabled_extensions=()
    ):
        yield


PLACES = {
    "numpy": (np, None),
    "strict": (array_api_strict, None),
    "second device": (array_api_strict, second_device()),
}


@pytest.fixture(params=PLACES, name="place")
def _place(request):
    return PLACES[request.param]


@pytest.fixture(params=["float32", "float64"], name="dtype")
def _dtype(request):
    return request.param


def host_of(model):
    """Copies this backend's arrays to NumPy and leaves NumPy's alone."""
    return lambda array: array if isinstance(array, np.ndarray) else model.adapted.backend.to_numpy(array)


def build(place, dtype, **options):
    """The small network in a namespace, its inputs there, and the same in NumPy."""
    xp, device = place
    held = weights(dtype=dtype)
    host = np.random.default_rng(1).normal(size=(5, 6)).astype(dtype)
    host.setflags(write=False)
    if xp is np:
        native = list(held)
        x = host
    else:
        native = [xp.asarray(array, device=device) for array in held]
        x = xp.asarray(host, device=device)

    def net(x):
        first, shift, second, bias = (xp.astype(array, x.dtype) for array in native)
        return xp.matmul(xp.tanh(xp.matmul(x, first) + shift), second) + bias

    return strict_model(net, xp, device, **options), x, lambda x: mlp(weights(dtype="float64"), x), host


@pytest.mark.parametrize("method", methods(), ids=str)
def test_method_equals_its_paper(method, place, dtype):
    model, x, _, host = build(place, dtype)
    held = weights(dtype=dtype)
    target = np.array([0, 1, 2, 0, 1])
    expected = method.oracle(lambda x: mlp(held, x), host.astype(np.float64), target)
    found = method.explainer(model, x, target=target, seed=SEED)
    assert_close(found.values, expected, relative=1e-5 if dtype == "float32" else 1e-12, like=x, host=host_of(model))


@pytest.mark.parametrize("method", methods(), ids=str)
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_does_not_matter(method, batch_size):
    model, x, _, _ = build(PLACES["strict"], "float32")
    whole = method.explainer(model, x, seed=SEED).values
    found = method.explainer(xai.wrap(model, batch_size=batch_size), x, seed=SEED).values
    assert_close(found, whole, relative=1e-6, like=whole)


@pytest.mark.parametrize("method", methods(), ids=str)
def test_one_at_a_time_is_the_same(method):
    model, x, _, host = build(PLACES["numpy"], "float64")
    whole = method.explainer(model, x, seed=SEED).values
    for row in range(len(host)):
        part = method.explainer(model, host[row : row + 1], seed=SEED, index=row).values
        assert_close(part, whole[row : row + 1], relative=1e-12)


@pytest.mark.parametrize("method", methods(), ids=str)
def test_rows_are_counted(method):
    """The rows that an explanation states are the rows that the model saw."""
    seen = [0]
    held = weights(dtype="float64")

    def net(x):
        if x.dtype.kind != "c":
            seen[0] += len(x)
        return mlp(held, x)

    x = np.random.default_rng(1).normal(size=(5, 6))
    found = method.explainer(strict_model(net, np), x, target=0, seed=SEED)
    assert found.rows[0] == seen[0]
    assert found.rows[1] <= found.rows[0]
    assert (found.rows[1] > 0) == method.explainer.uses_gradients()


STRUCTURED = ("ExpectedGradients", "ExactSHAP background", "ExactSHAP features", "FeatureAblation")
"""Options that have the structure of the inputs; given so in tests of their own."""


@pytest.mark.parametrize("kind", ["tuple", "dict", "nested"])
@pytest.mark.parametrize(
    "method",
    [m for m in methods() if m.name not in STRUCTURED],
    ids=str,
)
def test_structured_inputs_equal_one_array(method, kind):
    """Split into two inputs, a table's explanation is split the same way; noise is drawn for each input."""
    held = weights(dtype="float64")
    x = np.random.default_rng(1).normal(size=(5, 6))
    parts = (x[:, :4], x[:, 4:])
    packed, unpack = {
        "tuple": (parts, lambda p: p),
        "dict": ({"a": parts[0], "b": parts[1]}, lambda p: (p["a"], p["b"])),
        "nested": ({"a": [parts[0]], "b": (parts[1],)}, lambda p: (p["a"][0], p["b"][0])),
    }[kind]
    joined = strict_model(lambda p: mlp(held, np.concatenate(unpack(p), axis=1)), np)
    found = method.explainer(joined, packed, target=1, seed=SEED)
    assert type(found.values) is type(packed)
    left, right = unpack(found.values)
    assert left.shape == (5, 4)
    assert right.shape == (5, 2)
    deterministic = not type(method.explainer).stochastic and "Occlusion" not in method.name
    if deterministic:
        whole = method.explainer(strict_model(lambda x: mlp(held, x), np), x, target=1)
        assert_close(np.concatenate([left, right], axis=1), whole.values, relative=1e-12)


def test_expected_gradients_of_structured_inputs():
    held = weights(dtype="float64")
    rng = np.random.default_rng(1)
    x, data = rng.normal(size=(5, 6)), rng.normal(size=(3, 6))
    split = lambda a: {"a": a[:, :4], "b": a[:, 4:]}  # noqa: E731
    joined = strict_model(lambda p: mlp(held, np.concatenate([p["a"], p["b"]], axis=1)), np)
    found = xai.ExpectedGradients(background=split(data), samples=6)(joined, split(x), target=1).values
    whole = xai.ExpectedGradients(background=data, samples=6)(strict_model(lambda x: mlp(held, x), np), x, target=1)
    assert_close(np.concatenate([found["a"], found["b"]], axis=1), whole.values, relative=1e-12)


def test_occlusion_of_images_cuts_windows_at_the_border():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 7, 5, 3))
    kernel = rng.normal(size=(7 * 5 * 3, 4))
    net = lambda x: np.tanh(np.reshape(x, (len(x), -1)) @ kernel)  # noqa: E731
    import literal

    expected = literal.occlusion(net, x, np.array([1, 1]), (3, 2, 3), (2, 2, 3), 0.1)
    found = xai.Occlusion(window=(3, 2, 3), stride=(2, 2, 3), baseline=0.1)(net, x, target=1)
    assert_close(found.values, expected, relative=1e-12)
    # An int is meant for the spatial axes, channels stay together.
    spatial = xai.Occlusion(window=2, stride=2)(net, x, target=1)
    assert_close(spatial.values, literal.occlusion(net, x, np.array([1, 1]), (2, 2, 3), (2, 2, 3), 0.0), relative=1e-12)
    assert np.ptp(spatial.values, axis=-1).max() == 0


def test_noise_belongs_to_the_pixel_wherever_the_channels_are():
    rng = np.random.default_rng(3)
    kernel = rng.normal(size=(4 * 5 * 3, 4)) / 8
    x = rng.normal(size=(2, 4, 5, 3))
    last = strict_model(lambda x: np.tanh(np.reshape(x, (len(x), -1)) @ kernel), np)
    first = strict_model(
        lambda x: np.tanh(np.reshape(np.moveaxis(x, 1, -1), (len(x), -1)) @ kernel), np, channel_axis=1
    )
    explainer = xai.SmoothGrad(samples=5)
    there = explainer(first, np.moveaxis(x, -1, 1), target=0, seed=2).values
    assert_close(np.moveaxis(there, 1, -1), explainer(last, x, target=0, seed=2).values, relative=1e-12)


def test_occlusion_of_whole_numbers():
    """Token ids and counts: what is lost has decimals."""
    table = np.array([0.0, 0.25, -0.5, 0.125])
    net = lambda ids: table[ids].sum(axis=1)  # noqa: E731
    for dtype in ("int64", "uint8"):
        ids = np.array([[1, 2, 3], [3, 3, 0]], dtype=dtype)
        found = xai.Occlusion()(net, ids)
        np.testing.assert_allclose(found.values, table[ids])
        wide = xai.Occlusion(window=2, stride=1)(net, ids)
        np.testing.assert_allclose(wide.values[0], [-0.25, -0.3125, -0.375])
