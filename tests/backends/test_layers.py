"""Layers and class activation maps of PyTorch and JAX models, against literal restatements of the papers."""

from __future__ import annotations

import functools

import cams
import literal
import literal_cam
import mapnets
import numpy as np
import pytest
from frameworks import need

import xai_core as xai
from xai_core.testing import assert_close

need("torch", "jax", "flax", "haiku", "equinox")

import jax.numpy as jnp
import torch

KINDS = ["torch", *mapnets.JAX_KINDS]


def net_and_input(kind, rows=5):
    """A model, its input, and the channel axis."""
    x = mapnets.images(rows)
    if kind == "torch":
        return mapnets.torch_net(), torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), 1
    if kind == "equinox":
        return mapnets.jax_net(kind), jnp.asarray(x.transpose(0, 3, 1, 2)), 1
    return mapnets.jax_net(kind), jnp.asarray(x), -1


def last(array, channel):
    """Channels last, in NumPy."""
    return np.moveaxis(np.asarray(array), channel, -1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cam", cams.CAMS, ids=lambda c: c.__name__)
def test_cam_equals_its_paper(cam, kind):
    model, x, channel = net_and_input(kind)
    found = cam(layer="conv")(model, x, target=1)
    assert found.layer == "conv"
    assert type(found.values) is type(x)
    assert_close(cams.as_maps(found.values, channel), cams.expected(cam, mapnets.images(), 1), relative=1e-5)


@pytest.mark.parametrize("kind", ["torch", "nnx"])
@pytest.mark.parametrize("cam", [xai.GradCAM, xai.ScoreCAM, xai.AblationCAM, xai.SmoothGradCAMPlusPlus])
def test_batch_size_does_not_matter(cam, kind):
    model, x, _ = net_and_input(kind)
    whole = cam(layer="conv")(model, x, target=1).values
    for size in (1, 3, 64):
        assert_close(cam(layer="conv")(xai.wrap(model, batch_size=size), x, target=1).values, whole, relative=1e-6)
    alone = [cam(layer="conv")(model, x[i : i + 1], target=1, index=i).values for i in range(len(x))]
    assert_close(np.concatenate([np.asarray(a) for a in alone]), whole, relative=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_attribution_at_a_layer(kind):
    model, x, channel = net_and_input(kind)
    a = mapnets.at_conv(mapnets.images())
    behind = lambda flat: mapnets.behind_conv(flat.reshape(-1, *a.shape[1:]))  # noqa: E731
    flat, target = a.reshape(len(a), -1), np.full(len(a), 2)
    gradient = literal.gradient(behind, flat, target).reshape(a.shape)
    found = xai.Gradient(layer="conv")(model, x, target=2)
    assert_close(last(found.values, channel), gradient)
    assert_close(last(xai.GradientXActivation(layer="conv")(model, x, target=2).values, channel), gradient * a)
    assert_close(last(xai.LayerActivation(layer="conv")(model, x).values, channel), a)
    path = xai.IntegratedGradients(layer="conv", steps=200, baseline=0.3)(model, x, target=2)
    change = mapnets.scores(mapnets.images())[:, 2] - mapnets.scores(np.full_like(mapnets.images(), 0.3))[:, 2]
    # Everything passes this layer, so the values add up to the change of the score.
    assert_close(last(path.values, channel).sum((1, 2, 3)), change, relative=5e-3)
    assert np.max(np.abs(np.asarray(path.residual))) < 5e-3
    conductance = xai.Conductance(layer="conv", steps=200, baseline=0.3)(model, x, target=2)
    assert_close(last(conductance.values, channel).sum((1, 2, 3)), change, relative=5e-3)
    occluded = xai.Occlusion(layer="conv", window=(1, 1, 1))(model, x[:1], target=2)
    without = a[:1].copy()
    without[0, 2, 3, 1] = mapnets.at_conv(0 * mapnets.images(1))[0, 2, 3, 1]
    lost = (mapnets.behind_conv(a[:1]) - mapnets.behind_conv(without))[0, 2]
    assert abs(last(occluded.values, channel)[0, 2, 3, 1] - lost) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_conductance_equals_its_paper(kind):
    model, x, channel = net_and_input(kind, 2)
    host, steps = mapnets.images(2).astype("float64"), 3
    target = np.full(2, 1)
    values, slopes = [], []
    for k in range(steps + 1):
        value = mapnets.at_conv(host * k / steps)
        behind = lambda flat, shape=value.shape: mapnets.behind_conv(flat.reshape(-1, *shape[1:]))  # noqa: E731
        values.append(value)
        slopes.append(literal.gradient(behind, value.reshape(2, -1), target).reshape(value.shape))
    parts = {"riemann_left": 0, "riemann_right": 0, "trapezoid": 0}
    for k in range(1, steps + 1):
        step = values[k] - values[k - 1]
        parts["riemann_left"] = parts["riemann_left"] + slopes[k - 1] * step
        parts["riemann_right"] = parts["riemann_right"] + slopes[k] * step
        parts["trapezoid"] = parts["trapezoid"] + (slopes[k - 1] + slopes[k]) / 2 * step
    for quadrature, wanted in parts.items():
        explainer = xai.Conductance(layer="conv", steps=steps, quadrature=quadrature)
        for size in (1, 5, 64):
            found = explainer(xai.wrap(model, batch_size=size), x, target=1)
            assert_close(last(found.values, channel), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_neuron_and_composition(kind):
    model, x, channel = net_and_input(kind, 2)
    place = (2, 3, 1) if channel == -1 else (1, 2, 3)
    found = xai.Gradient(neuron="conv")(model, x, target=place)
    wanted = np.zeros((2, *mapnets.SHAPE))
    wanted[:, 1:4, 2:5] = mapnets.held().conv[..., 1]
    assert_close(last(found.values, channel), wanted)
    assert_close(found.score, mapnets.at_conv(mapnets.images(2))[:, 2, 3, 1])
    inner = xai.SmoothGrad(xai.Gradient(layer="conv"), samples=3)(model, x, target=1, seed=4)
    outer = xai.SmoothGrad(layer="conv", samples=3, noise=0.0)(model, x, target=1)
    assert inner.values.shape == outer.values.shape
    assert_close(outer.values, np.asarray(xai.Gradient(layer="conv")(model, x, target=1).values))
    assert not np.allclose(np.asarray(inner.values), np.asarray(outer.values))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "function"])
def test_several_layers_are_read_in_one_pass(kind):
    model, x, channel = net_and_input(kind, 2)
    a = mapnets.at_conv(mapnets.images(2))
    found = xai.wrap(model).read(x, ["conv", "conv:input", "second:input"])
    # As the layer returned it, though the operation behind works in place.
    assert_close(last(found["conv"], channel), a)
    assert_close(last(found["conv:input"], channel), mapnets.images(2))
    assert_close(last(found["second:input"], channel), np.maximum(a, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_edit_and_pull_back(kind):
    model, x, channel = net_and_input(kind, 2)
    a = mapnets.at_conv(mapnets.images(2))
    assert_close(xai.wrap(model).edit(x, {"conv": lambda h: 2 * h}), mapnets.behind_conv(2 * a))
    with pytest.raises(xai.OptionError, match="shape"):
        xai.wrap(model).edit(x, {"conv": lambda h: h[:, :1]})
    cotangent = np.array([[0, 1, 0], [0, 0, 2]], dtype="float32")
    ones = xai.Gradient(layer="conv")(model, x, target=np.array([1, 2])).values
    pulled = xai.wrap(model).pullback(x, "conv", cotangent)
    assert_close(last(pulled, channel), last(ones, channel) * np.array([1, 2])[:, None, None, None])


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_layers_are_refused_by_name(kind):
    model, x, _ = net_and_input(kind, 1)
    with pytest.raises(xai.LayerError, match="'conv'"):
        xai.GradCAM(layer="cnov")(model, x)
    with pytest.raises(xai.LayerError, match="called 1 times"):
        xai.GradCAM(layer="conv#2")(model, x)
    with pytest.raises(xai.LayerError, match="arrays"):
        xai.GradCAM(layer="conv:output[1]")(model, x)
    with pytest.raises(xai.LayerError, match="no layer of"):
        xai.GradCAM(layer=object())(model, x)


@functools.cache
def blur_integral():
    """The paper's integral by brute force: changes of the blurred input, many nodes."""
    host = mapnets.images(1).astype("float64")
    total, previous = np.zeros_like(host), None
    for sigma in 1.5 * np.linspace(1.0, 0.0, 200) ** 2:
        blurred = literal_cam.blurred(host, max(sigma, 1e-3), 6)
        behind = lambda flat: mapnets.scores(flat.reshape(-1, *mapnets.SHAPE))  # noqa: E731
        slope = literal.gradient(behind, blurred.reshape(1, -1), np.full(1, 1)).reshape(host.shape)
        if previous is not None:
            total += (slope + previous[1]) / 2 * (blurred - previous[0])
        previous = (blurred, slope)
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_blur_integrated_gradients(kind):
    model, x, channel = net_and_input(kind, 1)
    found = xai.BlurIntegratedGradients(sigma=1.5, steps=48)(model, x, target=1)
    assert_close(last(found.values, channel), blur_integral(), relative=2e-2)
    assert np.max(np.abs(np.asarray(found.residual))) < 2e-2
