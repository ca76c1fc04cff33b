"""Tokens by spans, several inputs with features across them, and in-painters: the same on every framework."""

from __future__ import annotations

from dataclasses import replace

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
TABLE, HEAD = RNG.normal(size=(30, 6)).astype("float32"), RNG.normal(size=(6, 3)).astype("float32")
IDS, MORE = RNG.integers(1, 30, (3, 9)), RNG.integers(1, 30, (5, 9))
LEFT, RIGHT, LAST = (RNG.normal(size=shape).astype("float32") for shape in ((4, 5), (3, 5), (5, 3)))
PAIR, PAIRS = (
    {"a": RNG.normal(size=(n, 4)).astype("float32"), "b": RNG.normal(size=(n, 3)).astype("float32")} for n in (3, 4)
)
FAR = {"a": np.array([0, 1, 1, 2]), "b": np.array([2, 3, -1])}
SPANS = xai.Spans([(0, 2), (2, 5), (6, 9)])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Words(torch.nn.Module):
    def forward(self, ids):
        held = torch.from_numpy(TABLE)[ids].sum(1)
        return torch.sigmoid(torch.tanh(held / 2) @ torch.from_numpy(HEAD))


class Both(torch.nn.Module):
    def forward(self, x):
        held = x["a"] @ torch.from_numpy(LEFT) + x["b"] @ torch.from_numpy(RIGHT)
        return torch.sigmoid(torch.tanh(held) @ torch.from_numpy(LAST))


def words(ids):
    return sigmoid(np.tanh(TABLE[ids].sum(1) / 2) @ HEAD)


def jax_words(ids):
    return 1 / (1 + jnp.exp(-jnp.tanh(jnp.asarray(TABLE)[ids].sum(1) / 2) @ HEAD))


@tf.function
def tf_words(ids):
    return tf.sigmoid(tf.tanh(tf.reduce_sum(tf.gather(TABLE, ids), 1) / 2) @ HEAD)


def both(x):
    return sigmoid(np.tanh(x["a"] @ LEFT + x["b"] @ RIGHT) @ LAST)


def jax_both(x):
    return 1 / (1 + jnp.exp(-jnp.tanh(x["a"] @ LEFT + x["b"] @ RIGHT) @ LAST))


@tf.function
def tf_both(x):
    return tf.sigmoid(tf.tanh(x["a"] @ LEFT + x["b"] @ RIGHT) @ LAST)


OF_WORDS = {"torch": Words().eval(), "jax": jax_words, "tensorflow": tf_words}
OF_BOTH = {"torch": Both().eval(), "jax": jax_both, "tensorflow": tf_both}
SAMPLED = [
    xai.KernelSHAP(samples=10),
    xai.PermutationSHAP(samples=10),
    xai.ShapleySampling(samples=8),
    xai.PartitionSHAP(samples=6),
    xai.RISE(samples=40),
    xai.LIME(samples=40),
    xai.HSICAttribution(samples=40),
    xai.ExactSHAP(),
    xai.FeatureAblation(),
    xai.FeaturePermutation(samples=2),
    xai.PredictionDifference(samples=3),
]


def wrapped(model, kind, size):
    return xai.wrap(model, batch_size=size, backend="jax" if kind == "jax" else None)


@pytest.mark.parametrize("kind", OF_WORDS)
@pytest.mark.parametrize("method", [*SAMPLED, xai.Occlusion(window=3, stride=2)], ids=lambda m: type(m).__name__)
def test_spans_of_tokens(method, kind):
    if "features" in method.options():
        method = replace(method, features=SPANS)
    if isinstance(method, xai.PredictionDifference):
        method = replace(method, background=MORE)
    wanted = method(words, IDS, target=1, seed=3)
    assert np.abs(wanted.values).min(axis=0)[0] > 0
    if wanted.features is not None:
        assert wanted.features.values.shape == (3, 3)
        assert not wanted.values[:, 5].any()
    for size in (None, 7):
        found = method(wrapped(OF_WORDS[kind], kind, size), IDS, target=1, seed=3)
        assert_close(found.values, wanted.values.astype("float32"), relative=1e-5)


@pytest.mark.parametrize("kind", OF_BOTH)
@pytest.mark.parametrize("method", [*SAMPLED, xai.SobolAttribution(samples=50)], ids=lambda m: type(m).__name__)
def test_features_across_inputs(method, kind):
    method = replace(method, features=FAR)
    if isinstance(method, xai.PredictionDifference):
        method = replace(method, background=PAIRS)
    wanted = method(both, PAIR, target=1, seed=3)
    assert wanted.features.values.shape == (3, 4)
    assert not wanted.values["b"][:, 2].any()
    for size in (None, 7):
        found = method(wrapped(OF_BOTH[kind], kind, size), PAIR, target=1, seed=3)
        for name in PAIR:
            assert_close(found.values[name], wanted.values[name].astype("float32"), relative=1e-5)


@pytest.mark.parametrize("kind", OF_BOTH)
def test_in_painters_get_the_inputs_as_the_model_does(kind):
    """What they return is the baseline, as if it had been given as arrays."""
    kinds = set()

    def paint(x):
        kinds.update(type(value).__module__.partition(".")[0] for value in x.values())
        return {"a": x["a"] * 0.5 + 0.1, "b": -x["b"]}

    arrays = {"a": PAIR["a"] * 0.5 + 0.1, "b": -PAIR["b"]}
    model = wrapped(OF_BOTH[kind], kind, None)
    for method in (
        xai.KernelSHAP(samples=30),
        xai.RISE(samples=20),
        xai.LIME(samples=20, mode="image"),
        xai.Occlusion(),
    ):
        found = replace(method, baseline=paint)(model, PAIR, target=1)
        wanted = replace(method, baseline=arrays)(model, PAIR, target=1)
        for name in PAIR:
            assert_close(found.values[name], wanted.values[name], relative=1e-5)
    assert kinds == {"jaxlib" if kind == "jax" else kind}


def test_painters_that_change_the_shape_are_refused():
    for baseline in (
        lambda x: {"a": x["a"][:, :2], "b": x["b"]},
        lambda x: {"a": x["a"][:2], "b": x["b"]},
        lambda x: x["a"],
    ):
        for method in (xai.KernelSHAP(samples=30), xai.RISE(samples=20), xai.Occlusion()):
            with pytest.raises(xai.BaselineError, match=r"broadcast|structure"):
                replace(method, baseline=baseline)(Both().eval(), PAIR, target=1)
