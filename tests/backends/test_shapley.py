"""Methods that sample coalitions: the same numbers on every framework, whatever the batch size."""

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
FIRST, SECOND = (RNG.normal(size=shape).astype("float32") for shape in ((9, 12), (12, 3)))
X, DATA = (RNG.normal(size=(rows, 9)).astype("float32") for rows in (3, 4))


class Net(torch.nn.Module):
    def forward(self, x):
        return torch.tanh(x @ torch.from_numpy(FIRST)) @ torch.from_numpy(SECOND)


MODELS = {
    "torch": Net().eval(),
    "jax": xai.wrap(lambda x: jnp.tanh(x @ FIRST) @ SECOND, backend="jax"),
    "tensorflow": tf.function(lambda x: tf.tanh(x @ FIRST) @ SECOND),
}
METHODS = [
    xai.KernelSHAP(samples=80),
    xai.KernelSHAP(samples=200, background=DATA),
    xai.KernelSHAP(samples=20, tolerance=0.05, max_rows=160),
    xai.PermutationSHAP(samples=100),
    xai.ShapleySampling(samples=100, tolerance=0.2, max_rows=400),
    xai.PartitionSHAP(samples=50),
    xai.PartitionSHAP(background=DATA),
    xai.FeaturePermutation(samples=3),
    xai.Occlusion(background=DATA),
]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: repr(m)[:40])
def test_same_as_over_numpy(method, kind):
    wanted = method(lambda x: np.tanh(x @ FIRST) @ SECOND, X, target=1, seed=3)
    for size in (None, 1, 50):
        found = method(xai.wrap(MODELS[kind], batch_size=size), X, target=1, seed=3)
        assert_close(found.values, wanted.values, relative=1e-5)
        assert found.values.dtype == np.float32
        if wanted.error is not None and np.isfinite(wanted.error).all():
            assert_close(found.error, wanted.error, relative=1e-4)
        for name, value in wanted.details.items():
            np.testing.assert_array_equal(found.details[name], value)


def test_native_arrays_stay_native():
    x = torch.from_numpy(X)
    found = xai.KernelSHAP(samples=60, tolerance=1.0)(MODELS["torch"], x, target="all")
    assert isinstance(found.values, torch.Tensor)
    assert isinstance(found.error, torch.Tensor)
    assert isinstance(found.features.values, torch.Tensor)
    assert found.values.shape == (3, 9, 3)
    host = found.numpy()
    assert isinstance(host.features.error, np.ndarray)


def test_token_ids_and_layers():
    """Integers are replaced by a token; behind a layer its value is what has features."""
    torch.manual_seed(0)

    class Words(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = torch.nn.Embedding(20, 6), torch.nn.Linear(6, 2)

        def forward(self, ids):
            return self.head(torch.tanh(self.embedding(ids)).mean(1))

    model, ids = Words().eval(), torch.randint(1, 20, (2, 7))
    found = xai.KernelSHAP(baseline=0)(model, ids, target=1)
    with torch.no_grad():
        change = model(ids)[:, 1] - model(0 * ids)[:, 1]
    assert_close(found.values.sum(1), change, relative=1e-5)
    behind = xai.KernelSHAP(layer="embedding", baseline=0)(model, ids, target=1)
    assert behind.values.shape == (2, 7, 6)
    assert_close(behind.values.sum((1, 2)), change, relative=1e-5)
    assert behind.features.values.shape == (2, 7)
    assert_close(behind.features.values, found.values, relative=1e-4)
