"""Methods that mask at random and fit: the same numbers on every framework, whatever the batch size."""

from __future__ import annotations

import numpy as np
import pytest
from frameworks import need

import xai_core as xai
from xai_core.testing import assert_close

need("torch", "jax", "flax", "tensorflow")

import jax.numpy as jnp
import tensorflow as tf
import torch

RNG = np.random.default_rng(0)
FIRST, SECOND = (RNG.normal(size=shape).astype("float32") / 2 for shape in ((9, 12), (12, 3)))
X, DATA = (RNG.normal(size=(rows, 9)).astype("float32") for rows in (3, 12))
KERNEL = RNG.normal(size=(2 * 8 * 7, 3)).astype("float32") / 8
IMAGES, MORE = (RNG.normal(size=(rows, 2, 8, 7)).astype("float32") for rows in (3, 30))


class Net(torch.nn.Module):
    def forward(self, x):
        return torch.softmax(torch.tanh(x @ torch.from_numpy(FIRST)) @ torch.from_numpy(SECOND), -1)


class Images(torch.nn.Module):
    def forward(self, x):
        return torch.softmax(torch.tanh(torch.flatten(x, 1) @ torch.from_numpy(KERNEL)), -1)


def softmax(x):
    raised = np.exp(x)
    return raised / raised.sum(axis=-1, keepdims=True)


def jax_softmax(x):
    return jnp.exp(x) / jnp.sum(jnp.exp(x), axis=-1, keepdims=True)


MODELS = {
    "torch": Net().eval(),
    "jax": xai.wrap(lambda x: jax_softmax(jnp.tanh(x @ FIRST) @ SECOND), backend="jax"),
    "tensorflow": tf.function(lambda x: tf.nn.softmax(tf.tanh(x @ FIRST) @ SECOND)),
}
OF_IMAGES = {
    "torch": Images().eval(),
    "jax": xai.wrap(lambda x: jax_softmax(jnp.tanh(jnp.reshape(x, (-1, 112)) @ KERNEL)), backend="jax"),
    "tensorflow": tf.function(lambda x: tf.nn.softmax(tf.tanh(tf.reshape(x, (-1, 112)) @ KERNEL))),
}
METHODS = [
    xai.RISE(samples=60),
    xai.RISE(samples=20, tolerance=0.1, max_rows=160),
    xai.LIME(samples=80, mode="image"),
    xai.LIME(samples=80, mode="text", regularization="lasso", penalty=0.05),
    xai.LIME(samples=80, mode="image", top=3),
    xai.LIME(samples=80, mode="text", top=7),
    xai.LIME(samples=80, background=DATA),
    xai.LIME(samples=80, background=DATA, discretize=True),
    xai.SobolAttribution(samples=200),
    xai.HSICAttribution(samples=101),
    xai.HSICAttribution(samples=50, tolerance=0.01, max_rows=400),
    xai.PredictionDifference(background=DATA, samples=5),
]
METHODS_OF_IMAGES = [
    xai.RISE(samples=60, grid=3),
    xai.RISE(samples=60, features=xai.Patches(3), probability=0.3),
    xai.LIME(samples=80),
    xai.SobolAttribution(samples=300, features=xai.Patches(4), baseline=xai.Blur(1.0)),
    xai.HSICAttribution(samples=60, features=xai.Patches(2)),
    xai.PredictionDifference(background=MORE, samples=3, features=xai.Patches(3), conditional=True),
]


def compare(method, model, numpy_model, x):
    wanted = method(numpy_model, x, target=1, seed=3)
    for size in (None, 1, 50):
        found = method(xai.wrap(model, batch_size=size, channel_axis=numpy_model.channel_axis), x, target=1, seed=3)
        assert_close(found.values, wanted.values, relative=1e-5)
        assert found.values.dtype == np.float32
        assert_close(found.error, wanted.error, relative=1e-4)
        for name, value in wanted.details.items():
            np.testing.assert_allclose(found.details[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: repr(m)[:50])
def test_same_as_over_numpy(method, kind):
    compare(method, MODELS[kind], xai.wrap(lambda x: softmax(np.tanh(x @ FIRST) @ SECOND)), X)


@pytest.mark.parametrize("kind", OF_IMAGES)
@pytest.mark.parametrize("method", METHODS_OF_IMAGES, ids=lambda m: repr(m)[:50])
def test_images_are_the_same_as_over_numpy(method, kind):
    model = xai.wrap(lambda x: softmax(np.tanh(x.reshape(-1, 112) @ KERNEL)), channel_axis=1)
    compare(method, OF_IMAGES[kind], model, IMAGES)


def test_token_ids_and_layers():
    torch.manual_seed(0)

    class Words(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = torch.nn.Embedding(20, 6), torch.nn.Linear(6, 2)

        def forward(self, ids):
            return torch.softmax(self.head(torch.tanh(self.embedding(ids)).sum(1)), -1)

    net, ids = Words().eval(), torch.randint(1, 20, (3, 5))
    for method in (
        xai.RISE(samples=40),
        xai.LIME(samples=40),
        xai.HSICAttribution(samples=40),
        xai.PredictionDifference(background=ids, samples=3),
    ):
        found = method(net, ids, target=1)
        assert isinstance(found.values, torch.Tensor)
        assert tuple(found.values.shape) == tuple(found.error.shape) == (3, 5)
        assert bool(torch.isfinite(found.values).all())
    behind = xai.SobolAttribution(layer="embedding", samples=100, features=np.arange(5)[:, None])(net, ids, target=1)
    assert behind.values.shape == (3, 5, 6)
    table = xai.LIME(layer="head:input", samples=60, background=torch.randint(1, 20, (9, 5)))(net, ids, target=1)
    assert table.values.shape == (3, 6)


def test_native_results_stay_native():
    found = xai.LIME(samples=40, mode="image", top=2)(MODELS["torch"], torch.from_numpy(X), target=0)
    assert isinstance(found.details["r2"], torch.Tensor)
    assert isinstance(found.features.error, torch.Tensor)
