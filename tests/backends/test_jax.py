"""JAX: every kind of model, every method, every mistake, inside its compiler."""

from __future__ import annotations

import numpy as np
import pytest
from bad import MISTAKES, Kit, check
from frameworks import need
from kinds import JAX_KINDS, jax_subject
from table import SEED, methods

import xai_core as xai
from xai_core.testing import BackendConformance, assert_close, weights

need("jax", "flax", "equinox", "haiku")

import jax
import jax.numpy as jnp
from flax import nnx


@pytest.fixture(name="double")
def _double():
    with jax.enable_x64(True):
        yield


class TestConformance(BackendConformance):
    @pytest.fixture(params=JAX_KINDS)
    def subject(self, request):
        return jax_subject(request.param)


@pytest.mark.usefixtures("double")
class TestConformanceInDoublePrecision(BackendConformance):
    @pytest.fixture(params=["nnx", "equinox"])
    def subject(self, request):
        return jax_subject(request.param, "float64")


@pytest.mark.parametrize("kind", ["nnx", "linen", "equinox", "haiku", "function"])
@pytest.mark.parametrize("method", methods(), ids=str)
def test_method_equals_its_paper(method, kind):
    subject = jax_subject(kind)
    x = np.asarray(subject.x, dtype="float64")
    target = np.arange(len(x)) % 3
    found = method.explainer(subject.model, subject.x, target=target, seed=SEED)
    assert_close(found.values, method.oracle(subject.reference, x, target), relative=1e-5, like=subject.x)


@pytest.mark.parametrize("method", methods(), ids=str)
def test_method_equals_its_paper_in_double_precision(method, double):
    subject = jax_subject("nnx", "float64")
    x = np.asarray(subject.x)
    found = method.explainer(subject.model, subject.x, target=1, seed=SEED)
    assert_close(found.values, method.oracle(subject.reference, x, np.full(len(x), 1)), relative=1e-10, like=subject.x)


@pytest.mark.parametrize("row", MISTAKES, ids=lambda row: row[0])
def test_mistake_and_state_afterwards(row):
    _, error, words, call = row
    subject = jax_subject("nnx")
    before = subject.state()
    kit = Kit(subject.model, jnp.asarray, lambda f: f, lambda x: jnp.zeros((len(x), 3)), jnp)
    check(kit, error, words, call)
    assert all(np.array_equal(a, b) for a, b in zip(before, subject.state(), strict=True))


def test_models_without_parameters_say_how_to_give_them():
    import haiku
    from flax import linen

    with pytest.raises(xai.ModelError, match="params=variables"):
        xai.Gradient()(linen.Dense(3), jnp.ones((2, 6)))
    with pytest.raises(xai.ModelError, match=r"params=params"):
        xai.Gradient()(haiku.transform(lambda x: haiku.Linear(3)(x)), jnp.ones((2, 6)))


def test_training_mode_is_refused():
    import equinox

    net = nnx.Sequential(nnx.Linear(6, 3, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(0)))
    net.train()
    with pytest.raises(xai.TrainingModeError, match=r"model\.eval\(\)"):
        xai.Gradient()(net, jnp.ones((2, 6)))
    net.eval()
    xai.Gradient()(net, jnp.ones((2, 6)))
    net.train()  # after it was found fine
    with pytest.raises(xai.TrainingModeError, match=r"model\.eval\(\)"):
        xai.Gradient()(net, jnp.ones((2, 6)))
    net.eval()
    xai.Gradient()(net, jnp.ones((2, 6)))
    batch_norm = nnx.Sequential(nnx.Linear(6, 3, rngs=nnx.Rngs(0)), nnx.BatchNorm(3, rngs=nnx.Rngs(0)))
    with pytest.raises(xai.TrainingModeError, match=r"model\.eval\(\)"):
        xai.Gradient()(batch_norm, jnp.ones((2, 6)))
    dropout = equinox.nn.Sequential([equinox.nn.Linear(6, 3, key=jax.random.key(0)), equinox.nn.Dropout(0.5)])
    with pytest.raises(xai.TrainingModeError, match="inference_mode"):
        xai.Gradient()(dropout, jnp.ones((2, 6)))
    xai.Gradient()(equinox.nn.inference_mode(dropout), jnp.ones((2, 6)))


def test_a_stopped_gradient_is_refused():
    with pytest.raises(xai.InputDependenceError, match="stop_gradient"):
        xai.Gradient()(lambda x: jax.lax.stop_gradient(x) * 2, jnp.ones((2, 6)))
    # Zero where it depends on the input is a result.
    assert not np.any(xai.Gradient()(lambda x: jax.nn.relu(x - 10), jnp.ones((2, 6)), target=0).values)


def test_what_a_function_closes_over_is_read_again():
    scale = 2.0
    held = {"w": jnp.ones((6, 3))}

    def net(x):
        return jnp.tanh(x @ held["w"] * scale)

    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6)).astype("float32")) / 9
    before = xai.Gradient()(net, x, target=0).values
    held["w"] = 2 * held["w"]
    after = xai.Gradient()(net, x, target=0).values
    assert_close(after, jax.grad(lambda x: net(x)[:, 0].sum())(x))
    assert not np.allclose(before, after)
    scale = 3.0
    assert_close(xai.Gradient()(net, x, target=0).values, jax.grad(lambda x: net(x)[:, 0].sum())(x))


def test_trained_models_are_read_again_and_not_compiled_again():
    subject = jax_subject("nnx")
    explainer = xai.IntegratedGradients(steps=4)
    before = explainer(subject.model, subject.x, target=0).values
    count = subject.traces()
    subject.model.out.kernel[...] = subject.model.out.kernel[...] * 2
    after = explainer(subject.model, subject.x, target=0).values
    assert subject.traces() == count
    assert_close(after, 2 * np.asarray(before))
    # Batch sizes that fill whole blocks reuse the code as well.
    small = xai.wrap(subject.model, batch_size=4)
    explainer(small, subject.x, target=0)
    count = subject.traces()
    explainer(xai.wrap(subject.model, batch_size=4), subject.x, target=1)
    assert subject.traces() == count


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_come_back_as_halves_and_sum_in_single_precision(dtype):
    first, shift, second, _ = weights()
    net = lambda x: jnp.tanh(x @ first.astype(x.dtype) + shift.astype(x.dtype)) @ second.astype(x.dtype)  # noqa: E731
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)).astype("float32"))
    explainer = xai.IntegratedGradients(steps=300, quadrature="riemann_middle")
    exact = explainer(net, x, target=0).values
    found = explainer(net, x.astype(dtype), target=0)
    assert found.values.dtype == jnp.dtype(dtype)
    assert_close(found.values.astype("float32"), exact, relative=3e-2)
    host = np.asarray(x.astype(dtype))
    back = explainer(xai.wrap(net, backend="jax"), host, target=0).values
    assert isinstance(back, np.ndarray)
    assert back.dtype == host.dtype


def test_float64_never_appears_unasked(double):
    seen = []

    def net(x):
        seen.append(x.dtype)
        return jnp.tanh(x @ jnp.ones((6, 3), dtype=x.dtype))

    x = jnp.ones((4, 6), dtype="float32")
    for method in methods():
        found = method.explainer(net, x, target=0, seed=1)
        assert found.values.dtype == jnp.float32, method.name
        assert found.score.dtype == jnp.float32
    assert set(map(str, seen)) == {"float32"}


def test_equinox_is_called_sample_by_sample():
    import equinox

    conv = equinox.nn.Sequential(
        [equinox.nn.Conv2d(3, 2, 3, key=jax.random.key(0)), equinox.nn.Lambda(lambda x: jnp.tanh(x).sum((1, 2)))]
    )
    x = jax.random.normal(jax.random.key(1), (4, 3, 8, 8))
    found = xai.Gradient()(conv, x, target=1)
    assert_close(found.values, jax.grad(lambda x: jax.vmap(conv)(x)[:, 1].sum())(x), like=x)
    assert found.channel_axis == 1


def test_rules_pass_stacking_and_products_of_a_value_with_itself():
    def net(x):
        first, second, third = jnp.unstack(jnp.tile(x * x, 2), axis=1)[:3]
        return jnp.stack([first * second, third], 1)

    x = jax.random.normal(jax.random.key(0), (2, 3))
    found = xai.DeepLIFT(baseline=0.5)(net, x, target=0)
    # The rule for x * x is exact, and that for the product half way between both runs.
    squares, before = np.asarray(x * x), 0.25
    expected = [(s - before) * (t + before) / 2 for s, t in zip(squares[:, :2].T, squares[:, 1::-1].T, strict=True)]
    assert_close(found.values, jnp.asarray(np.stack([*expected, 0 * expected[0]], 1)), relative=1e-5)
