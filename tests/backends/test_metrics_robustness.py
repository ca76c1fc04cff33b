"""Metrics of robustness: the same numbers on every framework, whatever the batch size; layers and token ids."""

from __future__ import annotations

import literal_metrics_robustness as literal
import numpy as np
import pytest
import rulenets
from frameworks import need

import xai_core as xai
from xai_core import metrics
from xai_core.explanation import to_host
from xai_core.metrics import robustness
from xai_core.streams import Streams

need("torch", "jax", "flax", "tensorflow")

import jax.numpy as jnp
import tensorflow as tf
import torch

HOST = rulenets.inputs("even")
FIRST = HOST.transpose(0, 3, 1, 2).copy()
MODELS = {
    "torch": (rulenets.torch_net("even", "modules"), torch.from_numpy(FIRST)),
    "jax": (rulenets.jax_net("even", "nnx"), jnp.asarray(HOST)),
    "tensorflow": (rulenets.tensorflow_net("even"), tf.constant(HOST)),
}
# Of a smaller radius the outputs change by so little that single precision has no five digits of it.
WIDE = {"radius": 2.0, "samples": 4}
METRICS = [
    metrics.MaxSensitivity(),
    metrics.AvgSensitivity(relative=False),
    metrics.LocalLipschitzEstimate(),
    metrics.Continuity(),
    metrics.RelativeInputStability(**WIDE),
    metrics.RelativeOutputStability(**WIDE),
    metrics.RelativeRepresentationStability(**WIDE),
    metrics.Consistency(top=1),
]
EXPLAINERS = [xai.Gradient(), xai.InputXGradient(), xai.SmoothGrad(samples=3), xai.IntegratedGradients(steps=3)]


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("explainer", EXPLAINERS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("metric", METRICS, ids=lambda m: type(m).__name__)
def test_the_same_on_every_framework(metric, explainer):
    wanted = None
    for model, x in MODELS.values():
        found = metric(model, explainer(model, x, seed=4))
        assert np.all(np.isfinite(found.values))
        wanted = found if wanted is None else wanted
        close(found, wanted)
        for name, value in wanted.details.items():
            np.testing.assert_allclose(found.details[name], value, rtol=1e-4, atol=1e-7)
    batch = wanted.values.size
    assert np.unique(wanted.values).size == batch or isinstance(metric, metrics.Consistency)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("metric", METRICS[:7], ids=lambda m: type(m).__name__)
def test_batch_size_does_not_matter(metric, kind):
    model, x = MODELS[kind]
    explainer = xai.SmoothGrad(samples=3)
    wanted = metric(model, explainer(model, x))
    for size in (2, 7):
        sized = xai.wrap(model, batch_size=size)
        close(metric(sized, explainer(sized, x)), wanted)


@pytest.mark.parametrize("kind", MODELS)
def test_maps_of_layers(kind):
    model, x = MODELS[kind]
    layer = next(row.name for row in xai.layers(model, x) if row.path.startswith("conv2"))
    for explainer in (xai.GradCAM(layer=layer), xai.GradientXActivation(layer=layer)):
        found = explainer(model, x, target=1)
        host = to_host(x)
        got = metrics.MaxSensitivity(samples=2)(model, found)
        for i in range(3):
            near = neighbours(i, kind)
            alone = [to_host(explainer(model, native(kind, host[i] + move), target=1).values)[0] for move in near]
            base = to_host(found.values)[i].astype(float)
            wanted = max(np.linalg.norm(each - base) for each in alone) / np.linalg.norm(base)
            np.testing.assert_allclose(got.values[i], wanted, rtol=1e-4)


def neighbours(i, kind):
    uniform = Streams.of(0, [i]).uniform([0], range(2), HOST[0].size, robustness.NEIGHBOUR_PART)[0]
    moves = np.float32(0.02) * (2 * uniform.reshape(2, *HOST.shape[1:]) - 1)
    return np.moveaxis(moves, -1, 1) if kind == "torch" else moves


def native(kind, sample):
    one = sample[None].astype("float32")
    return {"torch": torch.from_numpy, "jax": jnp.asarray, "tensorflow": tf.constant}[kind](one)


@pytest.mark.parametrize("kind", MODELS)
def test_representation_equals_its_definition(kind):
    """By default what the last layer is given: the mean over positions of the second convolution."""
    model, x = MODELS[kind]
    explainer, host = xai.Gradient(), to_host(x)
    found = explainer(model, x)
    got = metrics.RelativeRepresentationStability(radius=0.5, samples=2)(model, found)
    conv = next(row.name for row in xai.layers(model, x)[::-1] if row.path.startswith("conv2"))
    named = metrics.RelativeRepresentationStability(radius=0.5, samples=2, layer=conv)(model, found)
    assert np.abs(named.values / got.values - 1).max() > 0.01
    positions = (2, 3) if kind == "torch" else (1, 2)
    for i in range(3):
        target = int(to_host(found.target)[i])

        def explain(sample, target=target):
            return to_host(explainer(model, native(kind, sample), target=target).values)[0].astype(float)

        def value(sample):
            read = xai.wrap(model).read(native(kind, sample), [conv])
            return to_host(read[conv]).astype(float).mean(axis=positions)[0]

        def outputs(sample):
            return to_host(xai.wrap(model)(native(kind, sample)))[0]

        near = [move * 25 for move in neighbours(i, kind)]
        wanted, kept = literal.stability(explain, host[i], near, outputs, value, True)
        np.testing.assert_allclose(got.values[i], wanted, rtol=1e-4)
        assert got.details["kept"][i] == kept


class Words(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.inner, self.head = torch.nn.Embedding(20, 6), torch.nn.Linear(6, 5), torch.nn.Linear(5, 2)

    def forward(self, ids):
        return self.head(torch.tanh(self.inner(self.embedding(ids))).sum(1))


def test_token_ids_are_changed_at_the_embedding():
    torch.manual_seed(0)
    net, ids = Words().eval(), torch.randint(1, 20, (3, 4))
    found = xai.Gradient(layer="embedding")(net, ids)
    values = net.embedding(ids).detach()

    class Head(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = net.inner, net.head

        def forward(self, x):
            return self.head(torch.tanh(self.inner(x)).sum(1))

    same = Head().eval()
    direct = xai.Gradient()(same, values)
    for metric in (
        metrics.MaxSensitivity(),
        metrics.LocalLipschitzEstimate(),
        metrics.RelativeInputStability(),
        metrics.RelativeOutputStability(),
        metrics.RelativeRepresentationStability(layer="inner"),
    ):
        # A float model with the channel axis last draws in the same order.
        close(metric(net, found), metric(xai.wrap(same, channel_axis=-1), direct))
    with pytest.raises(xai.IntegerInputError, match="embedding"):
        metrics.MaxSensitivity()(net, xai.Occlusion()(net, ids))


def test_the_model_stays_as_it_was():
    model, x = MODELS["torch"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    asked = [(p.requires_grad, p.grad) for p in model.parameters()]
    for metric in METRICS:
        metric(model, xai.Gradient()(model, x))
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert [(p.requires_grad, p.grad) for p in model.parameters()] == asked
