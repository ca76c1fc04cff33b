"""Every method and metric on a CUDA device gives what it gives on the CPU, in arrays of that device."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from frameworks import need

need("torch")

import torch
from torch import nn

import xai_core as xai
from xai_core.metrics import all_metrics

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DATA = np.random.default_rng(3).normal(size=(6, 3, 12, 12)).astype("float32")
TILES = xai.Patches(4)
OPTIONS = {
    "deep_shap": {"background": DATA},
    "exact_shap": {"features": xai.Patches(6)},
    "expected_gradients": {"background": DATA, "samples": 8},
    "feature_permutation": {"background": DATA, "samples": 4},
    "hsic_attribution": {"features": TILES, "samples": 64},
    "kernel_shap": {"features": TILES, "samples": 64},
    "lime": {"features": TILES, "samples": 64},
    "occlusion": {"window": 3, "stride": 3},
    "partition_shap": {"samples": 64},
    "permutation_shap": {"features": TILES, "samples": 64},
    "prediction_difference": {"background": DATA, "features": TILES, "samples": 4, "measure": "difference"},
    "rise": {"samples": 64},
    "shapley_sampling": {"features": TILES, "samples": 64},
    "sobol_attribution": {"features": TILES, "samples": 200},
}
for name in ("conductance", "gradient_x_activation", "internal_influence", "layer_activation"):
    OPTIONS[name] = {"layer": "0"}
for name in ("score_cam", "ablation_cam", "liftcam"):
    OPTIONS[name] = {"layer": "3"}
METHODS = sorted({kind.method_name() for kind in xai.methods().values()})


@pytest.fixture(scope="module")
def nets():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).double().eval()  # fmt: skip
    x = torch.from_numpy(np.random.default_rng(4).normal(size=(3, 3, 12, 12)))
    return net, copy.deepcopy(net).cuda(), x


def made(name):
    options = {
        key: value.astype("float64") if key == "background" else value for key, value in OPTIONS.get(name, {}).items()
    }
    return xai.methods()[name](**options)


@pytest.mark.parametrize("name", METHODS)
def test_method(name, nets):
    net, there, x = nets
    try:
        here = made(name)(net, x, target=1, seed=5)
    except xai.XaiError as error:
        pytest.fail(f"not even on the CPU: {error}")
    found = made(name)(there, x.cuda(), target=1, seed=5)
    assert found.values.is_cuda
    assert found.score.is_cuda
    assert found.values.dtype == x.dtype
    scale = float(here.values.abs().max())
    np.testing.assert_allclose(found.values.cpu().numpy(), here.values.numpy(), atol=1e-8 * scale)
    assert found.rows[1] == here.rows[1]


@pytest.mark.parametrize("name", sorted(all_metrics()))
def test_metric(name, nets):
    net, there, x = nets
    masks = np.zeros((3, 12, 12), dtype=bool)
    masks[:, 2:6, 3:9] = True
    options = {"layer": "5"} if name == "relative_representation_stability" else {}
    if name == "hyperparameter_sensitivity":
        options = {"option": "steps", "choices": (2, 4)}
    if name in ("average_drop", "average_gain", "irof"):
        options = {"score": "probability"}
    metric = all_metrics()[name](**options)
    results = []
    for model, given in ((net, x), (there, x.cuda())):
        explanation = xai.IntegratedGradients(steps=4)(model, given, target=1, seed=5)
        results.append(metric(model, explanation, masks=masks))
    np.testing.assert_allclose(np.asarray(results[1]), np.asarray(results[0]), rtol=1e-6, atol=1e-9)


def test_jax_on_the_same_device():
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "gpu":
        pytest.skip("JAX has no GPU here")
    weights = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    results = []
    for kind in ("cpu", "gpu"):
        device = jax.devices(kind)[0]
        with jax.default_matmul_precision("highest"):
            w = jax.device_put(weights, device)
            x = jax.device_put(DATA[:4, 0, 0, :6], device)
            net = xai.wrap(lambda w, x: jax.numpy.tanh(x @ w), params=w)
            for explainer in (xai.IntegratedGradients(steps=8), xai.KernelSHAP(samples=40), xai.SmoothGrad(samples=4)):
                found = explainer(net, x, target=1, seed=2)
                assert found.values.devices() == {device}
                results.append((kind, np.asarray(found.values)))
    half = len(results) // 2
    for (_, a), (_, b) in zip(results[:half], results[half:], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
