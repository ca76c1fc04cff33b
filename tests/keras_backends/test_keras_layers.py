"""Layers and class activation maps of Keras models on the Keras backend of this process."""

from __future__ import annotations

import os

import cams
import mapnets
import numpy as np
import pytest
import texts
from frameworks import need

import xai_core as xai
from xai_core.testing import assert_close

need("keras", os.environ.get("KERAS_BACKEND", "tensorflow"))

import keras
from keras import ops


def untouched(model):
    return all("call" not in vars(layer) for layer in model._flatten_layers())


@pytest.mark.parametrize("kind", mapnets.KERAS_KINDS)
@pytest.mark.parametrize("cam", cams.CAMS, ids=lambda c: c.__name__)
def test_cam_equals_its_paper(cam, kind, tmp_path):
    model = mapnets.keras_net(kind, tmp_path)
    found = cam(layer="conv")(model, ops.convert_to_tensor(mapnets.images()), target=1)
    assert untouched(model)
    assert_close(cams.as_maps(found.values, -1), cams.expected(cam, mapnets.images(), 1), relative=1e-5)


@pytest.mark.parametrize("kind", mapnets.KERAS_KINDS)
def test_layers_by_path_and_object(kind, tmp_path):
    model = mapnets.keras_net(kind, tmp_path)
    x = mapnets.images(2)
    table = xai.layers(model, x)
    names = [row.name for row in table]
    assert [name for name in names if name.split("/")[-1] in ("conv", "second", "out")] == (
        ["conv", "second", "head/out"] if kind == "nested" else ["conv", "second", "out"]
    )
    assert table[0].spatial
    assert not table[-1].spatial
    by_object = xai.GradCAM(layer=model.get_layer("conv"))(model, x, target=0)
    assert_close(by_object.values, xai.GradCAM(layer="conv")(model, x, target=0).values)
    assert isinstance(by_object.values, np.ndarray)
    a = mapnets.at_conv(x)
    found = xai.wrap(model).read(x, ["conv", "conv:input", "second:input"])
    assert_close(found["conv"], a)
    assert_close(found["conv:input"], x)
    assert_close(found["second:input"], np.maximum(a, 0))
    assert_close(xai.wrap(model).edit(x, {"conv": lambda h: 2 * h}), mapnets.behind_conv(2 * a))
    with pytest.raises(xai.LayerError, match="'conv'"):
        xai.GradCAM(layer="cnov")(model, x)


def test_a_layer_that_is_used_twice():
    shared = keras.layers.Conv2D(3, 3, padding="same", name="shared")
    inputs = keras.Input(mapnets.SHAPE)
    model = keras.Model(inputs, keras.layers.GlobalMaxPooling2D()(shared(ops.tanh(shared(inputs)))))
    x = mapnets.images(2)
    with pytest.raises(xai.LayerError, match="'shared#1', 'shared#2'"):
        xai.GradCAM(layer="shared")(model, x)
    first = xai.wrap(model).read(x, ["shared#1"])["shared#1"]
    assert_close(first, ops.convert_to_numpy(shared(x)))
    assert not np.allclose(first, xai.wrap(model).read(x, ["shared#2"])["shared#2"])
    assert xai.GradCAM()(model, x).layer == "shared#2"


def test_layers_are_put_back_after_an_exception():
    class Failing(keras.layers.Layer):
        def call(self, x):
            if x.shape[0] == 3:
                raise RuntimeError("out of order")
            return x

    inputs = keras.Input(mapnets.SHAPE)
    hidden = keras.layers.Conv2D(2, 3, name="conv")(inputs)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(Failing()(hidden)))
    with pytest.raises(xai.ModelError, match="out of order"):
        xai.GradCAM(layer="conv")(xai.wrap(model, batch_size=3), mapnets.images(3))
    assert untouched(model)
    xai.GradCAM(layer="conv")(xai.wrap(model, batch_size=2), mapnets.images(2))


def test_padded_texts():
    texts.check(texts.keras_model())
