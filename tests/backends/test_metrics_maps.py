"""Metrics of maps and axioms: the same numbers for arrays and models of every framework."""

from __future__ import annotations

import numpy as np
import pytest
from frameworks import need

import xai_core as xai
from xai_core import metrics

need("torch", "jax", "flax", "tensorflow")

import jax
import jax.numpy as jnp
import tensorflow as tf
import torch
from xai_jax import tap

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(3, 3, 3, 4)).astype("float32") / 3
BIAS = RNG.normal(size=4).astype("float32")
DENSE = RNG.normal(size=(4 * 36, 5)).astype("float32") / 8
IMAGES = RNG.normal(size=(4, 8, 8, 3)).astype("float32")
MASKS = np.zeros((4, 8, 8), dtype=bool)
MASKS[:, 2:5, 1:6] = True


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.relu = torch.nn.ReLU()
        self.dense = torch.nn.Linear(144, 5, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.from_numpy(KERNEL.transpose(3, 2, 0, 1)))
            self.conv.bias.copy_(torch.from_numpy(BIAS))
            self.dense.weight.copy_(torch.from_numpy(DENSE.T.copy()))

    def forward(self, x):
        return self.dense(torch.flatten(self.relu(self.conv(x)).permute(0, 2, 3, 1), 1))


def jax_net(x):
    hidden = jax.lax.conv_general_dilated(x, KERNEL, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    hidden = tap(jax.nn.relu(hidden + BIAS), "relu")
    return jnp.reshape(hidden, (-1, 144)) @ DENSE


class Module(tf.Module):
    def __init__(self):
        super().__init__()
        self.kernel, self.bias, self.dense = map(tf.Variable, (KERNEL, BIAS, DENSE))

    def __call__(self, x):
        hidden = tf.nn.relu(tf.nn.conv2d(x, self.kernel, 1, "VALID") + self.bias)
        return tf.reshape(hidden, (-1, 144)) @ self.dense


MODELS = {"torch": Net().eval(), "jax": xai.wrap(jax_net, backend="jax"), "tensorflow": Module()}
ARRAYS = {
    "numpy": np.asarray,
    "torch": lambda x: torch.from_numpy(np.array(x)),
    "jax": jnp.asarray,
    "tensorflow": tf.convert_to_tensor,
}
FIRST = {"numpy": False, "torch": True, "jax": False, "tensorflow": False}


def images(name, host):
    """Images as a framework has them, channels first in PyTorch."""
    return ARRAYS[name](np.moveaxis(host, -1, 1) if FIRST[name] else host)


def told(name, values):
    array = images(name, values)
    return xai.Explanation(array, array, 0, None, ARRAYS[name](np.zeros(4)), channel_axis=1 if FIRST[name] else -1)


@pytest.mark.parametrize(
    "metric",
    [
        metrics.PointingGame(tolerance=1),
        metrics.TopKIntersection(k=7),
        metrics.RelevanceMassAccuracy(),
        metrics.RelevanceRankAccuracy(),
        metrics.AttributionLocalisation(weighted=True),
        metrics.AUC(),
        metrics.Focus(),
        metrics.GridPointingGame(),
        metrics.Sparseness(),
        metrics.Complexity(),
        metrics.Complexity(features=xai.Patches(3)),
        metrics.EffectiveComplexity(epsilon=0.5),
        metrics.Sparseness(features=xai.Elements()),
    ],
    ids=repr,
)
def test_metrics_of_maps_on_arrays_of_every_framework(metric):
    values = IMAGES[..., :1] * np.array([1.0, -0.5, 0.2], dtype="float32")
    wanted = metric(None, told("numpy", values), masks=MASKS)
    assert len(set(wanted.tolist())) > 1
    for name in MODELS:
        for masks in (MASKS, ARRAYS[name](MASKS), ARRAYS[name](MASKS[:, None].astype("float32"))):
            found = metric(None, told(name, values), masks=masks)
            np.testing.assert_allclose(found, wanted, atol=1e-12)
            assert found.values.dtype == np.float64


@pytest.mark.parametrize("name", MODELS)
def test_half_precision_values(name):
    kind = {"torch": torch.bfloat16, "jax": jnp.bfloat16, "tensorflow": tf.bfloat16}[name]
    e = told(name, np.round(IMAGES * 4) / 4)
    cast = (
        e.values.to(kind)
        if name == "torch"
        else jnp.asarray(e.values, kind)
        if name == "jax"
        else tf.cast(e.values, kind)
    )
    half = xai.Explanation(cast, e.inputs, 0, None, e.score, channel_axis=e.channel_axis)
    for metric in (metrics.AUC(), metrics.Complexity(), metrics.RelevanceMassAccuracy()):
        np.testing.assert_allclose(metric(None, half, masks=MASKS), metric(None, e, masks=MASKS), atol=1e-12)


def test_mosaics_of_every_framework():
    labels = np.array([0, 1, 0, 1])
    wanted = metrics.mosaics(IMAGES, labels, count=6, seed=2)
    for name, array in ARRAYS.items():
        made = metrics.mosaics(
            images(name, IMAGES), array(labels), count=6, seed=2, channel_axis=1 if FIRST[name] else -1
        )
        assert type(made.x) is type(array(IMAGES))
        host = np.asarray(made.x)
        np.testing.assert_array_equal(np.moveaxis(host, 1, -1) if FIRST[name] else host, wanted.x)
        np.testing.assert_array_equal(made.masks, wanted.masks)


EXPLAINERS = [
    xai.Gradient(),
    xai.InputXGradient(),
    xai.IntegratedGradients(steps=8),
    xai.SmoothGrad(xai.InputXGradient(), samples=3),
    xai.LRP(),
    xai.GuidedBackprop(),
    xai.DeepLIFT(),
    xai.FeatureAblation(features=xai.Patches(3)),
]
AXIOMS = [
    metrics.Completeness(),
    metrics.InputInvariance(shift=0.5),
    metrics.Linearity(),
    metrics.Linearity(a=2.0, b=-0.5),
]


@pytest.mark.parametrize("explainer", EXPLAINERS, ids=lambda e: type(e).__name__)
def test_axioms_are_the_same_in_every_framework(explainer):
    """Details too; of rule methods the operations of the shifted model are seen, its shift included."""
    wanted = {}
    for name, model in MODELS.items():
        e = explainer(model, images(name, IMAGES), seed=1)
        before = np.asarray(xai.wrap(model)(images(name, IMAGES)))
        for number, metric in enumerate(AXIOMS):
            found = metric(model, e)
            first = wanted.setdefault(number, found)
            np.testing.assert_allclose(found, first, atol=1e-5)
            for key, value in first.details.items():
                np.testing.assert_allclose(found.details[key], value, atol=1e-4)
            small = metric(xai.wrap(model, batch_size=3), e)
            np.testing.assert_allclose(small, found, atol=1e-5)
        np.testing.assert_array_equal(np.asarray(xai.wrap(model)(images(name, IMAGES))), before)
        np.testing.assert_array_equal(
            np.asarray(explainer(model, images(name, IMAGES), seed=1).values), np.asarray(e.values)
        )
    invariant = isinstance(explainer, (xai.Gradient, xai.GuidedBackprop))
    assert np.all(wanted[1].values < 1e-5 if invariant else wanted[1].values > 0.05)
    linear = not isinstance(explainer, xai.GuidedBackprop)
    assert np.all(wanted[2].values < 1e-5 if linear else wanted[2].values > 0.05)
    complete = isinstance(explainer, xai.DeepLIFT)
    assert complete <= bool(np.all(wanted[0].values == 1))


LAYERS = {"torch": "relu", "jax": "relu", "tensorflow": "Relu"}


def test_maps_of_layers_are_invariant():
    """The value at a layer is the same at the shifted input, and so are its gradients."""
    for name, model in MODELS.items():
        e = xai.GradCAM(layer=LAYERS[name])(model, images(name, IMAGES))
        np.testing.assert_allclose(metrics.InputInvariance()(model, e), 0, atol=1e-5)
        np.testing.assert_allclose(metrics.Symmetry(pairs=((0, 1),))(model, e).details["pairs"], 1)


@pytest.mark.parametrize("metric", [metrics.NonSensitivity(features_in_step=8), metrics.Symmetry()], ids=repr)
def test_axioms_of_features_are_the_same_in_every_framework(metric):
    """A model that looks at two columns of pixels, whose last rows it treats alike."""
    weights = np.zeros((8, 8), dtype="float32")
    weights[:, 2:4] = RNG.normal(size=(8, 2))
    weights[5:, 2] = 0.7
    flat = weights.reshape(64, 1)
    models = {
        "torch": xai.wrap(lambda x: torch.tanh(x).sum(1).flatten(1) @ torch.from_numpy(flat), backend="torch"),
        "jax": xai.wrap(lambda x: jnp.reshape(jnp.tanh(x).sum(-1), (-1, 64)) @ flat, backend="jax"),
        "tensorflow": xai.wrap(
            lambda x: tf.reshape(tf.reduce_sum(tf.tanh(x), -1), (-1, 64)) @ flat, backend="tensorflow"
        ),
    }
    for method, wrong in ((xai.InputXGradient(), 0), (xai.SmoothGrad(samples=2), None)):
        wanted = None
        for name, model in models.items():
            e = method(model, images(name, IMAGES), target=0)
            found = metric(model, e)
            wanted = found if wanted is None else wanted
            np.testing.assert_allclose(found, wanted, atol=1e-5)
            for key, value in found.details.items():
                np.testing.assert_array_equal(value, wanted.details[key])
            if wrong is not None:
                np.testing.assert_allclose(found, wrong, atol=1e-5)
        if isinstance(metric, metrics.NonSensitivity):
            assert wanted.details["dead"].tolist() == [48] * 4
        else:
            assert wanted.details["pairs"].tolist() == [2 + 47] * 4


def test_linearity_is_refused_to_a_method_that_does_not_see_the_sum():
    model, x = MODELS["torch"], torch.from_numpy(np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2)))
    found = xai.RelevanceCAM(layer="relu")(model, x, target=0)
    with pytest.raises(xai.TargetError, match="several outputs"):
        metrics.Linearity()(model, found)
