"""Random weights in chosen layers of Keras models, on the Keras backend of this process."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import randomcases
import rulenets
from frameworks import need

import xai_core as xai
from xai_core.randomise import randomised, weighted_layers
from xai_core.testing import assert_close

need("keras", os.environ.get("KERAS_BACKEND", "tensorflow"))

import keras
from keras import ops

BACKEND = keras.backend.backend()


def state_of(model):
    def state():
        held = [*(np.array(v.numpy()) for v in model.variables), *(np.asarray(v.trainable) for v in model.variables)]
        held.append(np.asarray([len(vars(layer)) for layer in model._flatten_layers()]))
        if BACKEND == "torch":
            held += [p.detach().numpy().copy() for p in model.parameters()]
        return held

    return state


@pytest.mark.parametrize("kind", rulenets.KERAS_KINDS)
def test_random_weights(kind):
    model = rulenets.keras_net("even", kind)
    randomcases.check(model, ops.convert_to_tensor(rulenets.inputs("even")), state=state_of(model), cam="conv2")


def taken_over(theirs, model, given, x):
    """The Keras model with the weights of the PyTorch module, through the common layout."""
    groups = {}
    for weight in randomcases.weights_of(xai.wrap(theirs).adapted, given):
        groups.setdefault(weight.kind, []).append(weight.value)
    values = {}
    adapted = xai.wrap(model).adapted
    for weight in randomcases.weights_of(adapted, x):
        # PyTorch has two biases in a recurrence, which are added.
        held = sum(groups["bias"]) if weight.kind == "bias" else groups[weight.kind].pop(0)
        values[weight.path, weight.name] = held.reshape(weight.shape)
    return replace(xai.wrap(model), adapted=adapted.replaced(adapted.read(x), values))


LAYERS = {
    "dense": (lambda nn: nn.Linear(3, 5), lambda: keras.layers.Dense(5), (3,)),
    "conv1": (lambda nn: nn.Conv1d(3, 5, 3), lambda: keras.layers.Conv1D(5, 3), (7, 3)),
    "conv3": (lambda nn: nn.Conv3d(2, 5, 2), lambda: keras.layers.Conv3D(5, 2), (4, 3, 5, 2)),
    "depthwise": (
        lambda nn: nn.Conv2d(3, 6, 3, groups=3),
        lambda: keras.layers.DepthwiseConv2D(3, depth_multiplier=2),
        (6, 5, 3),
    ),
    "transposed": (
        lambda nn: nn.ConvTranspose2d(3, 5, 2, stride=2),
        lambda: keras.layers.Conv2DTranspose(5, 2, strides=2),
        (4, 3, 3),
    ),
    "lstm": (
        lambda nn: nn.LSTM(3, 5, batch_first=True),
        lambda: keras.layers.LSTM(5, return_sequences=True, activation="tanh"),
        (4, 3),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layouts_of_torch_and_keras_are_one(name):
    torch = pytest.importorskip("torch")
    made, layer, shape = LAYERS[name]
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(made(torch.nn)).eval()
    model = keras.Sequential([keras.Input(shape), layer()])
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    images = name not in ("dense", "lstm")
    given = torch.from_numpy(np.moveaxis(x, -1, 1).copy() if images else x)
    net = xai.wrap(theirs, output=0 if name == "lstm" else None)
    mine = taken_over(net, model, given, x)

    def theirs_at(net):
        found = net(given).detach().numpy()
        return np.moveaxis(found, 1, -1) if images else found

    assert_close(mine(x), theirs_at(net), relative=1e-5)
    random = randomised(mine, x, weighted_layers(mine, x), 4)
    assert not np.allclose(random(x), mine(x), atol=1e-2)
    assert_close(random(x), theirs_at(randomised(net, given, ["0"], 4)), relative=1e-5)


def test_frozen_layers_and_statistics():
    model = rulenets.keras_net("even", "functional")
    x = rulenets.inputs("even")
    wanted = randomised(model, x, ["conv1", "bn1"])(x)
    model.trainable = False
    assert_close(randomised(model, x, ["conv1", "bn1"])(x), wanted, relative=0.0)
    kinds = {(w.path, w.name): w.kind for w in randomcases.weights_of(xai.wrap(model).adapted, x)}
    assert {name for (path, name), kind in kinds.items() if kind == "statistic"} == {"moving_mean", "moving_variance"}


def test_values_that_are_trained_later():
    """Layers that are not random follow the user's model; those that are do not."""
    model = rulenets.keras_net("even", "functional")
    x = rulenets.inputs("even")
    found = randomised(model, x, ["conv1"])
    before = found(x)
    model.get_layer("conv1").set_weights([0 * w for w in model.get_layer("conv1").get_weights()])
    assert_close(found(x), before, relative=0.0)
    out = model.get_layer("out")
    out.set_weights([2 * w for w in out.get_weights()])
    assert_close(found(x), 2 * before)


def test_a_failing_call_leaves_the_model_alone():
    class Failing(keras.layers.Layer):
        def call(self, x):
            if x.shape[0] == 3:
                raise RuntimeError("out of order")
            return x

    inputs = keras.Input((4,))
    model = keras.Model(inputs, Failing()(keras.layers.Dense(3, name="out")(inputs)))
    x = np.ones((3, 4), dtype="float32")
    state = state_of(model)
    before = state()
    found = randomised(model, x, ["out"])
    with pytest.raises(xai.ModelError, match="out of order"):
        found(x)
    assert all(np.array_equal(a, b) for a, b in zip(before, state(), strict=True))
    assert_close(ops.convert_to_numpy(model(x[:2])), xai.wrap(model)(x[:2]))


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch compiles nothing")
def test_no_other_random_weights_compile_anew():
    calls = []

    class Counted(keras.layers.Layer):
        def call(self, x):
            calls.append(None)
            return x

    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(3, activation="tanh", name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="out")(Counted()(hidden)))
    x = np.ones((2, 4), dtype="float32")
    first = randomised(model, x, ["hidden"])
    before = first(x)
    second = randomised(model, x, ["out"])
    calls.clear()
    assert not np.allclose(second(x), before)
    assert calls == []
    assert_close(first(x), before, relative=0.0)


def test_mistakes():
    model, x = rulenets.keras_net("even", "functional"), rulenets.inputs("even")
    with pytest.raises(xai.LayerError, match="did you mean 'conv"):
        randomised(model, x, ["cnov1"])
    with pytest.raises(xai.CapabilityError, match="weights of"):
        weighted_layers(xai.wrap(lambda x: model(x), backend=BACKEND), x)
