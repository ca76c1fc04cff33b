"""The same numbers as captum on a torchvision ResNet-18 with random weights.

In single precision the points on the path must be rounded alike and meet the model in calls of as many rows (its
convolutions round differently for other batches), or ReLUs within rounding of zero fall on different sides, which changes
the map by 1e-4: so one sample at a time. In double precision no such unit is met.
"""

from __future__ import annotations

import pytest
from frameworks import need
from torchvision_models import resnet18

import xai_core as xai
from xai_core.testing import assert_close

need("torch", "torchvision", "captum")

import torch
from captum import attr

TARGET = [3, 7]


@pytest.fixture(scope="module")
def net():
    return resnet18()


@pytest.fixture(scope="module")
def x():
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def test_gradient(net, x):
    expected = attr.Saliency(net).attribute(x.clone().requires_grad_(True), target=TARGET, abs=False)
    assert_close(xai.Gradient()(net, x, target=TARGET).values, expected, like=x)
    magnitude = attr.Saliency(net).attribute(x.clone().requires_grad_(True), target=TARGET)
    assert_close(xai.Gradient(absolute=True)(net, x, target=TARGET).values, magnitude)


def test_input_x_gradient(net, x):
    expected = attr.InputXGradient(net).attribute(x.clone().requires_grad_(True), target=TARGET)
    assert_close(xai.InputXGradient()(net, x, target=TARGET).values, expected.detach())


QUADRATURES = [("riemann_middle", "riemann_middle"), ("gauss_legendre", "gausslegendre")]


def integrated_gradients(net, x, target, ours, theirs, baseline):
    """Values and completeness gap, ours and captum's."""
    expected = attr.IntegratedGradients(net).attribute(
        x, target=target, n_steps=6, method=theirs, baselines=baseline, return_convergence_delta=True
    )
    found = xai.IntegratedGradients(steps=6, quadrature=ours, baseline=baseline)(net, x, target=target)
    return (found.values, found.residual), expected


@pytest.mark.parametrize(("ours", "theirs"), QUADRATURES)
@pytest.mark.parametrize("sample", [0, 1])
def test_integrated_gradients(net, x, ours, theirs, sample):
    one, target = x[sample : sample + 1], TARGET[sample]
    (values, residual), (expected, delta) = integrated_gradients(net, one, target, ours, theirs, 0.0)
    # captum rounds two of its six middle nodes to the neighbour of the nearest number in single precision.
    assert_close(values, expected, relative=1e-5 if ours == "gauss_legendre" else 1e-3)
    assert torch.allclose(residual, delta.to(residual.dtype), atol=1e-3)


@pytest.mark.parametrize(("ours", "theirs"), QUADRATURES)
def test_integrated_gradients_in_double_precision(x, ours, theirs):
    net, x = resnet18().to(torch.float64), x.to(torch.float64)
    (values, residual), (expected, delta) = integrated_gradients(net, x, TARGET, ours, theirs, 0.1)
    assert_close(values, expected, relative=1e-7)  # captum's weights are float32
    assert torch.allclose(residual, delta.to(residual.dtype), atol=1e-5)


def test_occlusion(net, x):
    expected = attr.Occlusion(net).attribute(x, (3, 60, 60), strides=(3, 50, 50), target=TARGET, baselines=0.2)
    found = xai.Occlusion(window=60, stride=50, baseline=0.2)(net, x, target=TARGET)
    assert_close(found.values, expected)


def test_occlusion_of_a_table():
    net, x = torch.nn.Linear(6, 3), torch.randn(4, 6)
    expected = attr.Occlusion(net).attribute(x, (2,), target=1)
    assert_close(xai.Occlusion(window=2, stride=1)(net, x, target=1).values, expected.detach())
