"""The same maps as pytorch-grad-cam and layer attributions as captum, on a torchvision ResNet-18 with random weights.

Where a peer differs, the test says why and compares what is left.
"""

from __future__ import annotations

import numpy as np
import pytest
from frameworks import need
from torchvision_models import resnet18

import xai_core as xai
from xai_core.testing import assert_close

need("torch", "torchvision", "captum", "cv2", "ttach")

import torch
from captum import attr

resnet18()  # declares the operators without which torchvision, and with it the peer, cannot be imported
import pytorch_grad_cam as peer
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

TARGET = 7


@pytest.fixture(scope="module", name="net")
def _net():
    return resnet18()


@pytest.fixture(scope="module", name="x")
def _x():
    return torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))


def scaled(maps):
    """As the peer shows maps: minimum 0, maximum 1."""
    low = maps.min((1, 2), keepdims=True)
    return (maps - low) / (maps.max((1, 2), keepdims=True) - low)


def theirs(kind, net, layer, x):
    with kind(model=net, target_layers=[layer]) as cam:
        return cam(input_tensor=x.clone(), targets=[ClassifierOutputTarget(TARGET)] * len(x))


PAIRS = [
    (xai.GradCAM(layer="layer3"), peer.GradCAM),
    (xai.HiResCAM(layer="layer3"), peer.HiResCAM),
    (xai.LayerCAM(layer="layer3"), peer.LayerCAM),
    (xai.AblationCAM(layer="layer3"), peer.AblationCAM),
    (xai.XGradCAM(layer="layer3"), peer.XGradCAM),
]


@pytest.mark.parametrize(("ours", "kind"), PAIRS, ids=lambda p: getattr(p, "__name__", ""))
def test_map(net, x, ours, kind):
    expected = theirs(kind, net, net.layer3, x)
    found = ours(net, x, target=TARGET).values.numpy()[:, 0]
    assert found.shape == expected.shape
    assert_close(scaled(found), expected, relative=1e-4)


def test_grad_cam_plus_plus(net, x):
    """The peer adds 1e-6 to the divisor, as large as squared gradients are here; without it the maps are the same."""
    with peer.GradCAMPlusPlus(model=net, target_layers=[net.layer3]) as cam:
        inner = cam.get_cam_weights

        def exact(input_tensor, target_layers, target_category, activations, grads):
            # Gradients a million times as large and activations as much smaller give the same weights but for a factor,
            # and hide the constant.
            grads, activations = grads.astype("float64") * 1e6, activations.astype("float64") / 1e6
            return inner(input_tensor, target_layers, target_category, activations, grads)

        cam.get_cam_weights = exact
        expected = cam(input_tensor=x.clone(), targets=[ClassifierOutputTarget(TARGET)] * 2)
    found = xai.GradCAMPlusPlus(layer="layer3")(net, x, target=TARGET).values.numpy()[:, 0]
    assert_close(scaled(found), expected, relative=1e-4)


def test_eigen_cam(net, x):
    """The peer subtracts each channel's mean before it looks for the direction, which the paper does not, and leaves the
    sign to chance; the direction is compared on maps whose means are zero."""
    found = xai.EigenCAM(layer="layer3", relu=False)(net, x, target=TARGET).values
    a = xai.wrap(net).read(x, ["layer3"])["layer3"].numpy()
    flat = a.reshape(2, a.shape[1], -1).transpose(0, 2, 1)
    for sample, image in zip(flat, found.numpy()[:, 0], strict=True):
        direction = np.linalg.svd(sample, full_matrices=False)[2][0]
        small = (sample @ direction).reshape(a.shape[2:])
        wanted = torch.nn.functional.interpolate(torch.from_numpy(small)[None, None], x.shape[2:], mode="bilinear")
        wanted = wanted.numpy()[0, 0]
        assert_close(image, wanted if wanted.sum() > 0 else -wanted, relative=1e-4)
    centred = flat - flat.mean(1, keepdims=True)
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

    theirs = get_2d_projection(centred.transpose(0, 2, 1).reshape(a.shape))
    for sample, image in zip(centred, theirs, strict=True):
        ours = (sample @ np.linalg.svd(sample, full_matrices=False)[2][0]).reshape(image.shape)
        assert min(np.abs(ours - image).max(), np.abs(ours + image).max()) < 1e-3


def test_score_cam(net, x):
    """The peer enlarges the maps with align_corners=True, where all else aligns pixel centres; with ours the maps agree."""
    small = x[:1, :, :64, :64]
    original = torch.nn.UpsamplingBilinear2d

    class Centred(torch.nn.Upsample):
        def __init__(self, size):
            super().__init__(size=size, mode="bilinear", align_corners=False)

    torch.nn.UpsamplingBilinear2d = Centred
    try:
        with peer.ScoreCAM(model=net, target_layers=[net.layer2]) as cam:
            expected = cam(input_tensor=small.clone(), targets=[ClassifierOutputTarget(TARGET)])
    finally:
        torch.nn.UpsamplingBilinear2d = original
    found = xai.ScoreCAM(layer="layer2")(net, small, target=TARGET).values.numpy()[:, 0]
    assert_close(scaled(found), expected, relative=1e-4)


def test_layer_integrated_gradients(net, x):
    expected = attr.LayerIntegratedGradients(net, net.layer3).attribute(x, target=TARGET, n_steps=8)
    found = xai.IntegratedGradients(layer=net.layer3, steps=8)(net, x, target=TARGET)
    assert_close(found.values, expected.detach(), relative=1e-4)


def test_conductance(net, x):
    """captum adds up with the gradient at the left end of each interval."""
    expected = attr.LayerConductance(net, net.layer3).attribute(x, target=TARGET, n_steps=8, method="riemann_trapezoid")
    found = xai.Conductance(layer="layer3", steps=8, quadrature="riemann_left")(net, x, target=TARGET)
    assert_close(found.values, expected.detach(), relative=1e-4)


def test_internal_influence(net, x):
    expected = attr.InternalInfluence(net, net.layer3).attribute(x, target=TARGET, n_steps=8)
    found = xai.InternalInfluence(layer="layer3", steps=8)(net, x, target=TARGET)
    assert_close(found.values, expected.detach(), relative=1e-4)


def test_layer_gradient_x_activation(net, x):
    expected = attr.LayerGradientXActivation(net, net.layer3).attribute(x, target=TARGET)
    assert_close(
        xai.GradientXActivation(layer="layer3")(net, x, target=TARGET).values, expected.detach(), relative=1e-4
    )
