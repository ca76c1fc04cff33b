"""Metrics of faithfulness: the same numbers in every framework, channels first or last, whatever the batch size."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import faithful
import mapnets
import numpy as np
import pytest
from frameworks import need

import xai_core as xai
from xai_core import metrics
from xai_core.testing import assert_close

need("torch", "jax", "flax", "equinox", "tensorflow")

import jax.numpy as jnp
import tensorflow as tf
import torch


def tensorflow_net():
    held = mapnets.held()

    class Net(tf.Module):
        @tf.function
        def __call__(self, x):
            x = tf.nn.relu(tf.nn.conv2d(x, held.conv, 1, "SAME") + held.shift)
            return tf.reduce_mean(tf.tanh(tf.nn.conv2d(x, held.second, 1, "VALID")), (1, 2)) @ held.out + held.bias

    return Net()


FIRST = np.ascontiguousarray(np.moveaxis(mapnets.images(), -1, 1))


@cache
def case(kind):
    """A model, its inputs, and where they have their channels."""
    if kind == "torch":
        return mapnets.torch_net(), torch.from_numpy(FIRST), 1
    if kind == "torch of numpy":
        return mapnets.torch_net(), FIRST, 1
    if kind == "equinox":
        return xai.wrap(mapnets.jax_net("equinox"), channel_axis=1), jnp.asarray(FIRST), 1
    if kind == "tensorflow":
        return tensorflow_net(), tf.constant(mapnets.images()), -1
    return mapnets.jax_net(kind), jnp.asarray(mapnets.images()), -1


KINDS = ["torch", "nnx", "tensorflow"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", faithful.METRICS)
def test_same_as_over_numpy(metric, kind):
    model, x, channel = case(kind)
    faithful.check(model, x, "products", metric, np.asarray, channel)


@pytest.mark.parametrize("kind", ["torch of numpy", "equinox", "function", "tensorflow"])
@pytest.mark.parametrize("name", ["slopes", "path"])
@pytest.mark.parametrize("metric", ["Deletion", "Infidelity", "Infidelity noise", "ROAD"])
def test_other_explanations(metric, name, kind):
    model, x, channel = case(kind)
    faithful.check(model, x, name, metric, np.asarray, channel)


@pytest.mark.parametrize("kind", ["torch", "nnx", "equinox"])
@pytest.mark.parametrize("metric", ["Deletion", "Infidelity noise", "ROAD", "AverageDrop"])
def test_class_activation_maps(metric, kind):
    model, x, channel = case(kind)
    faithful.check_map(model, x, metric, np.asarray, channel)


@pytest.mark.parametrize("kind", ["torch", "nnx", "tensorflow"])
def test_a_table_of_all(kind):
    """What metrics share does not change what they say."""
    model, x, _ = case(kind)
    explanation = xai.InputXGradient()(model, x, target=faithful.TARGET)
    table = metrics.evaluate(model, {"a": explanation}, faithful.METRICS, seed=faithful.SEED, progress=False)
    for name, scores in faithful.expected("products")[1].items():
        faithful.close(table.scores["a"][name], scores)


class Words(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = torch.nn.Embedding(20, 6), torch.nn.Linear(6, 2)

    def forward(self, ids):
        return self.head(torch.tanh(self.embedding(ids)).sum(1))


def test_tokens_explained_at_their_embedding():
    """Against the same ids and the sums of the values, over NumPy."""
    net = Words().eval()
    ids = torch.randint(1, 20, (3, 7), generator=torch.Generator().manual_seed(1))
    explanation = xai.InputXGradient(layer="embedding")(net, ids, target=1)
    assert explanation.values.shape == (3, 7, 6)
    held = [p.detach().numpy().astype("float64") for p in (net.embedding.weight, net.head.weight, net.head.bias)]
    model = lambda x: np.tanh(held[0][x]).sum(axis=1) @ held[1].T + held[2]  # noqa: E731
    plain = xai.Explanation(explanation.values.numpy().sum(-1), ids.numpy(), 1, None, None)
    chosen = [
        metrics.Deletion(baseline=3),
        metrics.PixelFlipping(order="random"),
        metrics.SensitivityN(samples=10),
        metrics.FaithfulnessEstimate(),
        metrics.Infidelity(),
        metrics.Monotonicity(),
        metrics.Sufficiency(threshold=1.0),
    ]
    for metric in chosen:
        assert_close(metric(net, explanation).values, metric(model, plain).values, relative=1e-5)
    with pytest.raises(xai.IntegerInputError):
        metrics.PGI()(net, explanation)


def test_units_inside_have_scores_of_their_own():
    net, x = mapnets.torch_net(), torch.from_numpy(FIRST)
    ablation = xai.FeatureAblation(features=xai.Patches(3))
    some = {unit: replace(ablation, neuron=unit)(net, x, target=(2, 1, 3)) for unit in ("conv", "second")}
    table = metrics.evaluate(net, some, {"deletion": metrics.Deletion(), "pgi": metrics.PGI()}, progress=False)
    for unit, explanation in some.items():
        found = metrics.Deletion()(net, explanation)
        values = net.conv(x) if unit == "conv" else net.second(torch.relu(net.conv(x)))
        np.testing.assert_allclose(found.curve[:, 0], values[:, 2, 1, 3].detach(), atol=1e-6)
        np.testing.assert_allclose(table.scores[unit]["deletion"].curve, found.curve, atol=1e-6)


def test_values_at_a_layer_have_no_place_in_the_inputs():
    net = mapnets.torch_net()
    explanation = xai.InputXGradient(layer="second")(net, torch.from_numpy(FIRST), target=1)
    with pytest.raises(xai.OptionError, match=r"at layer 'second', inputs of shape \(5, 3, 6, 8\)"):
        metrics.Deletion()(net, explanation)


def test_models_and_explanations_are_left_as_they_are():
    net, x = mapnets.torch_net(), torch.from_numpy(FIRST.copy())
    net.train()
    net.eval()
    explanation = xai.InputXGradient()(net, x, target=1)
    before = [p.clone() for p in net.parameters()], x.clone(), explanation.values.clone(), torch.get_rng_state()
    for metric in (metrics.Deletion(), metrics.Infidelity(noise=0.1), metrics.ROAD(), metrics.AverageIncrease()):
        metric(net, explanation)
    assert all(torch.equal(a, b) for a, b in zip(before[0], net.parameters(), strict=True))
    assert torch.equal(before[1], x)
    assert torch.equal(before[2], explanation.values)
    assert torch.equal(before[3], torch.get_rng_state())
    assert not net.training
    assert explanation.inputs is x


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves(dtype):
    """Scores within the precision of the model; filled pixels within that of the input."""
    half = getattr(torch, dtype)
    net, x = mapnets.torch_net().to(half), torch.from_numpy(FIRST).to(half)
    single, wide = mapnets.torch_net(), torch.from_numpy(FIRST)
    explanation = xai.InputXGradient()(single, wide, target=1)
    low = xai.Explanation(explanation.values.to(half), x, 1, explanation.explainer, None)
    for metric in (metrics.Deletion(), metrics.ROAD(noise=0.0), metrics.FaithfulnessEstimate(), metrics.PGI()):
        found, wanted = metric(net, low), metric(single, explanation)
        near = {"float16": 0.01, "bfloat16": 0.08}[dtype]
        np.testing.assert_allclose(found, wanted, atol=near * max(1.0, np.abs(wanted).max()))


@pytest.mark.gpu
@pytest.mark.parametrize("metric", faithful.METRICS)
def test_same_on_a_gpu(metric):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model, x = mapnets.torch_net().cuda(), torch.from_numpy(FIRST).cuda()
    faithful.check(model, x, "products", metric, lambda array: array.cpu().numpy(), 1)
