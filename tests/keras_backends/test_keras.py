"""Keras models on the Keras backend of this process; the test session runs this folder once for each backend."""

from __future__ import annotations

import os

import numpy as np
import pytest
from bad import MISTAKES, Kit, check
from frameworks import need
from kinds import KERAS_KINDS, keras_subject
from table import SEED, methods

import xai_core as xai
from xai_core.testing import BackendConformance, assert_close

need("keras", os.environ.get("KERAS_BACKEND", "tensorflow"))

import keras
from keras import ops

BACKEND = keras.backend.backend()


class TestConformance(BackendConformance):
    @pytest.fixture(params=KERAS_KINDS)
    def subject(self, request, tmp_path):
        return keras_subject(request.param, folder=tmp_path)


@pytest.mark.parametrize("method", methods(), ids=str)
def test_method_equals_its_paper(method):
    subject = keras_subject("functional")
    x = ops.convert_to_numpy(subject.x).astype("float64")
    target = np.arange(len(x)) % 3
    found = method.explainer(subject.model, subject.x, target=target, seed=SEED)
    assert_close(found.values, method.oracle(subject.reference, x, target), relative=1e-5, like=subject.x)


@pytest.mark.skipif(BACKEND == "jax", reason="JAX has float64 only where the whole process has")
@pytest.mark.skipif(BACKEND == "torch", reason="Keras' own float64 layers on PyTorch are off by 1e-7")
@pytest.mark.parametrize("method", methods(), ids=str)
def test_method_equals_its_paper_in_double_precision(method):
    subject = keras_subject("sequential", "float64")
    x = ops.convert_to_numpy(subject.x)
    found = method.explainer(subject.model, subject.x, target=2, seed=SEED)
    assert_close(found.values, method.oracle(subject.reference, x, np.full(len(x), 2)), relative=1e-10, like=subject.x)


@pytest.mark.parametrize("row", MISTAKES, ids=lambda row: row[0])
def test_mistake_and_state_afterwards(row):
    _, error, words, call = row
    subject = keras_subject("functional")
    before = subject.state()
    constant = keras_model(lambda x: ops.zeros_like(x)[:, :3])
    kit = Kit(subject.model, ops.convert_to_tensor, keras_model, constant, ops)
    check(kit, error, words, call)
    assert all(np.array_equal(a, b) for a, b in zip(before, subject.state(), strict=True))


def keras_model(function):
    class Layer(keras.layers.Layer):
        def build(self, shape):
            self.built = True

        def call(self, x):
            return function(x)

    layer = Layer()
    layer.build((None, 6))
    return layer


def test_an_unbuilt_model_is_refused():
    with pytest.raises(xai.ModelError, match="call it once"):
        xai.Gradient()(keras.Sequential([keras.layers.Dense(3)]), np.ones((2, 6), dtype="float32"))


def test_a_changed_activation_is_seen():
    """Taking the softmax off a trained model is a common step before explaining it."""
    subject = keras_subject("sequential")
    net = subject.model
    net.layers[-1].activation = keras.activations.softmax
    before = ops.convert_to_numpy(xai.Gradient()(net, subject.x, target=0).values)
    net.layers[-1].activation = keras.activations.linear
    after = xai.Gradient()(net, subject.x, target=0).values
    fresh = keras_subject("sequential")
    assert_close(after, xai.Gradient()(fresh.model, fresh.x, target=0).values)
    assert not np.allclose(before, ops.convert_to_numpy(after))


def test_trained_weights_are_read_again():
    subject = keras_subject("functional")
    before = ops.convert_to_numpy(xai.Gradient()(subject.model, subject.x, target=0).values)
    subject.model.get_layer("out").set_weights([2 * w for w in subject.model.get_layer("out").get_weights()])
    assert_close(xai.Gradient()(subject.model, subject.x, target=0).values, 2 * before)


def test_training_changes_nothing_but_the_weights():
    """After `fit`, batch norm and dropout still run as in evaluation."""
    subject = keras_subject("sequential")
    net = subject.model
    net.compile(loss="mse", optimizer="sgd")
    rng = np.random.default_rng(0)
    net.fit(rng.normal(size=(8, 6)), rng.normal(size=(8, 3)), epochs=1, verbose=0)
    first = xai.Gradient()(net, subject.x, target=0).values
    assert_close(xai.Gradient()(net, subject.x, target=0).values, first, relative=0.0)
    assert_close(xai.wrap(net)(subject.x), net(subject.x, training=False))


def test_images_have_their_channels_where_the_model_has():
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(2, 9, 9, 3)).astype("float32")
    last = keras.Sequential(
        [
            keras.Input((9, 9, 3)),
            keras.layers.Conv2D(4, 3, activation="tanh"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    found = xai.SmoothGrad(samples=4)(last, x, target=0)
    assert found.channel_axis == -1
    window = xai.Occlusion(window=3, stride=3)(last, x, target=0).values
    assert np.ptp(window, axis=-1).max() == 0
    if BACKEND == "tensorflow":
        return  # its convolutions on a CPU are channels last only
    first = keras.Sequential(
        [
            keras.Input((3, 9, 9)),
            keras.layers.Conv2D(4, 3, activation="tanh", data_format="channels_first"),
            keras.layers.GlobalAveragePooling2D(data_format="channels_first"),
            keras.layers.Dense(2),
        ]
    )
    first.set_weights(last.get_weights())
    other = xai.SmoothGrad(samples=4)(first, np.moveaxis(x, -1, 1), target=0)
    assert other.channel_axis == 1
    assert_close(np.moveaxis(other.values, 1, -1), found.values)


def test_several_inputs_as_tuple_and_dict():
    left, right = keras.Input((4,), name="left"), keras.Input((2,), name="right")
    scores = keras.layers.Dense(3, activation="tanh")(keras.layers.Concatenate()([left, right]))
    by_position = keras.Model([left, right], scores)
    by_name = keras.Model({"left": left, "right": right}, scores)
    x = np.random.default_rng(0).normal(size=(3, 6)).astype("float32")
    a = xai.IntegratedGradients()(by_position, (x[:, :4], x[:, 4:]), target=0).values
    b = xai.IntegratedGradients()(by_name, {"left": x[:, :4], "right": x[:, 4:]}, target=0).values
    assert_close(a[0], b["left"])
    assert_close(a[1], b["right"])
    assert np.any(a[0])
    assert np.any(a[1])
