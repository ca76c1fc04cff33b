"""Methods with backward rules on Keras models, on the Keras backend of this process."""

from __future__ import annotations

import os

import literal_rules as literal
import numpy as np
import pytest
import rulenets
import ruletable
from frameworks import need
from ruletable import TARGET

import xai_core as xai
from xai_core.testing import assert_close

need("keras", os.environ.get("KERAS_BACKEND", "tensorflow"))

import keras
from keras import ops

KINDS = dict.fromkeys(rulenets.KERAS_KINDS, False)


@pytest.mark.parametrize(
    ("kind", "net", "row"),
    [
        *ruletable.cases(KINDS),
        *(("sequential", "dense", row) for row in ruletable.TABLE if row.each and "dense" in row.nets),
    ],
    ids=str,
)
def test_method_equals_its_paper(kind, net, row):
    x = ruletable.given(row, net)
    model = rulenets.keras_net(net, kind)
    found = row.explainer(ruletable.baseline(net))(model, ops.convert_to_tensor(x), target=TARGET)
    assert_close(found.values, row.oracle(net, x), relative=1e-5)
    assert not any("call" in vars(layer) for layer in model._flatten_layers())


SPELLINGS = {
    "ops.relu": ops.relu,
    "nn.relu": lambda x: keras.activations.relu(x),
    "maximum": lambda x: ops.maximum(x, 0.0),
    "where": lambda x: ops.where(x > 0, x, ops.zeros_like(x)),
    "mask": lambda x: x * ops.cast(x > 0, x.dtype),
    "layer": lambda x: keras.layers.ReLU()(x),
    "activation": lambda x: keras.layers.Activation("relu")(x),
}


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_every_spelling_of_relu_is_one(spelled):
    model, x = rulenets.keras_net("dense", "functional", SPELLINGS[spelled]), rulenets.inputs("dense")
    guided = xai.GuidedBackprop()(model, x, target=TARGET)
    assert_close(guided.values, literal.backpropagated("dense", x, TARGET, True))
    assert len(guided.coverage["guided"]) == 2
    relevance = xai.LRP(rules=xai.rules.Gamma(0.3))(model, x, target=TARGET)
    assert_close(relevance.values, literal.lrp("dense", x, TARGET, [literal.gamma(0.3)] * 3))


def test_activation_of_a_dense_layer_and_nested_models():
    """`Dense(activation="relu")`, and a model inside a model."""
    held, x = rulenets.held("dense"), rulenets.inputs("dense")
    head = keras.Sequential([keras.Input((7,)), keras.layers.Dense(6, activation="relu"), keras.layers.Dense(3)])
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(7, activation="relu"), head])
    model.set_weights([array for weights in held.values() for array in weights])
    guided = xai.GuidedBackprop()(model, x, target=TARGET)
    assert_close(guided.values, literal.backpropagated("dense", x, TARGET, True))
    lifted = xai.DeepLIFT(baseline=ruletable.baseline("dense"))(model, x, target=TARGET)
    assert_close(lifted.values, literal.deep_lift("dense", x, ruletable.baseline("dense")[0], TARGET))


@pytest.mark.parametrize("kind", rulenets.KERAS_KINDS)
@pytest.mark.parametrize("net", ["pooled", "gated", "conv", "block", "vit"])
def test_deep_lift_is_complete(net, kind):
    model, x, start = rulenets.keras_net(net, kind), rulenets.inputs(net), ruletable.baseline(net)
    complete(model, xai.DeepLIFT(baseline=start)(model, x, target=TARGET), start)


def complete(model, found, start):
    before = ops.convert_to_numpy(model(start)).astype(float)[:, TARGET]
    change = np.asarray(found.score, dtype=float) - before
    assert_close(found.values.astype(float).reshape(len(change), -1).sum(1), change, relative=2e-5)
    assert_close(found.residual, np.zeros(len(change)), relative=1e-5 * np.abs(change).max())


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "SimpleRNN"])
def test_recurrence(cell, unroll):
    """Complete, or refused by name."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6, 4)), getattr(keras.layers, cell)(5, unroll=unroll), keras.layers.Dense(3)]
    )
    x = np.random.default_rng(3).normal(size=(2, 6, 4)).astype("float32")
    try:
        found = xai.DeepLIFT()(model, x, target=TARGET)
    except xai.UnsupportedOperation as error:
        assert not unroll, error
        assert cell.lower() in str(error).lower() or any(
            name in str(error).lower() for name in ("scan", "while", "loop", "tensorlist")
        )
    else:
        complete(model, found, 0 * x)


@pytest.mark.parametrize("kind", rulenets.KERAS_KINDS)
def test_conservation_coverage_and_parts(kind):
    model, x = rulenets.keras_net("plain", kind), rulenets.inputs("plain")
    found = xai.LRP(rules="epsilon_plus_flat")(model, x, target=TARGET)
    assert {rule: len(hit) for rule, hit in found.coverage.items() if rule in ("Flat", "ZPlus", "Epsilon")} == {
        "Flat": 1,
        "ZPlus": 2,
        "Epsilon": 1,
    }
    zero = xai.LRP(rules="zero")(model, x, target=TARGET)
    assert_close(zero.values.reshape(3, -1).sum(1), zero.score, relative=1e-4)
    held = xai.conservation(model, zero)
    assert_close(held["conv2"], zero.score, relative=1e-4)
    assert_close(held["out"], zero.score, relative=1e-4)
    layers, wanted = literal.layers_of("plain"), []
    for sample in x:
        values = literal.values(layers, sample)
        start = literal.one_hot(3, TARGET, values[-1][TARGET])
        R = literal.relevance(layers[3:], values[3], start, [literal.zero] * 2)
        wanted.append(R.reshape(8, 8, 4))
    assert_close(xai.LRP(rules="zero", layer="conv2")(model, x, target=TARGET).values, np.stack(wanted), relative=1e-5)


def test_halves():
    """A model that computes in half precision with weights in single precision."""
    keras.utils.set_random_seed(0)
    x = rulenets.inputs("conv")

    def made(policy):
        layers = [
            keras.layers.Conv2D(4, 3, dtype=policy),
            keras.layers.BatchNormalization(dtype=policy),
            keras.layers.ReLU(dtype=policy),
            keras.layers.GlobalAveragePooling2D(dtype=policy),
            keras.layers.Dense(3, dtype=policy),
        ]
        return keras.Sequential([keras.Input(rulenets.SHAPES["conv"]), *layers])

    whole, half = made("float32"), made("mixed_float16")
    rng = np.random.default_rng(1)
    whole.set_weights(
        [rng.uniform(0.5, 1.5, size=w.shape) * (1 if w.ndim == 1 else rng.normal()) for w in whole.get_weights()]
    )
    half.set_weights(whole.get_weights())
    for rules in ("epsilon", "gamma", "epsilon_alpha2_beta1_flat"):
        found = xai.LRP(rules=rules)(half, x, target=TARGET)
        assert_close(found.values, xai.LRP(rules=rules)(whole, x, target=TARGET).values, relative=2e-2)
