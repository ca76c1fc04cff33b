"""Kinds of PyTorch models in which layers are easily missed, and class activation maps of other than two axes."""

from __future__ import annotations

import numpy as np
import pytest
from frameworks import need
from torchvision_models import resnet18

import xai_core as xai
from xai_core.testing import assert_close

need("torch", "torchvision")

import torch
from torch import nn


@pytest.fixture(name="x")
def _x():
    return torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(0))


def head(channels=4):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))


def state_of(model):
    return [
        *(
            (name, value)
            for module in model.modules()
            for name, value in module.__dict__.items()
            if "call_impl" in name
        ),
        *(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()),
        torch.backends.mha.get_fastpath_enabled(),
    ]


def by_hand(front, behind, x, target):
    """Grad-CAM by autograd."""
    a = front(x).detach().requires_grad_(True)
    g = torch.autograd.grad(behind(a)[:, target].sum(), a)[0]
    small = torch.relu((a * g.mean(tuple(range(2, a.ndim)), keepdim=True)).sum(1, keepdim=True)).detach()
    mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[a.ndim]
    return nn.functional.interpolate(small, x.shape[2:], mode=mode)


def test_a_called_sequential_and_its_parts(x):
    torch.manual_seed(0)
    front, behind = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(inplace=True)), head()
    model = nn.Sequential(front, behind).eval()
    expected = by_hand(front, behind, x, 1)
    for layer in ("0", "0.1", front, front[1], xai.Layer("0"), None):
        assert_close(xai.GradCAM(layer=layer)(model, x, target=1).values, expected)
    # Before the ReLU, as the convolution returned it, though the ReLU works in place.
    before = by_hand(front[0], nn.Sequential(nn.ReLU(), behind), x, 1)
    assert_close(xai.GradCAM(layer="0.0")(model, x, target=1).values, before)
    assert_close(xai.GradCAM(layer="0.1:input")(model, x, target=1).values, before)
    assert_close(xai.wrap(model).read(x, ["0.0"])["0.0"], front[0](x).detach())


def test_operations_in_place_behind_a_layer(x):
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), head()

        def forward(self, x):
            h = self.first(x)
            h += self.second(x)
            h.relu_()
            return self.head(h * 2)

    model = Net().eval()

    def behind(a):
        return model.head(torch.relu(a + model.second(x)) * 2)

    found = xai.GradCAM(layer="first")(model, x, target=2)
    assert_close(found.values, by_hand(model.first, behind, x, 2))
    for size in (1, 2):
        again = xai.AblationCAM(layer="first", relu=False)(xai.wrap(model, batch_size=size), x, target=2)
        assert_close(again.values, xai.AblationCAM(layer="first", relu=False)(model, x, target=2).values)
    scores = model(x)[:, 2]
    without = [behind(model.first(x) * (torch.arange(4) != k)[:, None, None])[:, 2] for k in range(4)]
    weights = torch.stack([(scores - w) / scores for w in without], 1)
    small = (model.first(x) * weights[:, :, None, None]).sum(1, keepdim=True).detach()
    assert_close(again.values, nn.functional.interpolate(small, (8, 10), mode="bilinear"))


def test_a_layer_that_is_used_twice(x):
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.again, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1), head(3)
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.head(self.relu(self.again(self.relu(self.conv(x)))))

    model = Net().eval()
    table = xai.layers(model, x)
    assert [row.name for row in table][:4] == ["conv", "relu#1", "again", "relu#2"]
    assert "relu#2" in repr(table)
    assert "relu#2" in table._repr_html_()
    with pytest.raises(xai.LayerError, match="'relu#1', 'relu#2'"):
        xai.GradCAM(layer="relu")(model, x)
    one = by_hand(lambda v: torch.relu(model.conv(v)), lambda a: model.head(torch.relu(model.again(a))), x, 0)
    two = by_hand(lambda v: torch.relu(model.again(torch.relu(model.conv(v)))), model.head, x, 0)
    assert_close(xai.GradCAM(layer="relu#1")(model, x, target=0).values, one)
    assert_close(xai.GradCAM(layer="relu#2")(model, x, target=0).values, two)
    assert xai.GradCAM()(model, x, target=0).layer == "relu#2"
    assert_close(xai.GradCAM()(model, x, target=0).values, two)


def test_compiled_parts_and_data_parallel(x):
    torch.manual_seed(0)
    front, behind = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), head()
    expected = by_hand(front, behind, x, 1)
    for model in (
        torch.compile(nn.Sequential(front, behind), backend="eager"),
        nn.Sequential(torch.compile(front, backend="eager"), behind),
        nn.DataParallel(nn.Sequential(front, behind)),
    ):
        model.eval()
        assert_close(xai.GradCAM(layer="0.1")(model, x, target=1).values, expected)
        assert_close(xai.GradCAM(layer="0")(model, x, target=1).values, expected)
    front.compile(backend="eager")
    before = front._compiled_call_impl
    assert_close(xai.GradCAM(layer="0")(nn.Sequential(front, behind).eval(), x, target=1).values, expected)
    assert front._compiled_call_impl is before


def test_negative_maps_are_zero(x):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), head()).eval()
    with torch.no_grad():
        model[2][2].weight.fill_(-1.0)
    for cam in (xai.GradCAM, xai.GradCAMPlusPlus, xai.XGradCAM, xai.HiResCAM, xai.LayerCAM):
        found = cam(layer="1")(model, x, target=0).values
        assert not torch.any(found), cam
    assert torch.all(torch.isfinite(xai.GradCAM(layer=("0", "1"))(model, x, target=0).values))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1.0)  # every map is zero behind the ReLU
    for cam in (xai.GradCAM, xai.XGradCAM, xai.ScoreCAM, xai.EigenCAM, xai.EigenGradCAM, xai.NormGrad, xai.AblationCAM):
        found = cam(layer="1")(model, x + 0, target=0)
        assert not torch.any(found.values), cam


def test_several_layers_are_averaged(x):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3), nn.Tanh(), head()).eval()
    parts = [xai.GradCAM(layer=name)(model, x, target=1).values for name in ("1", "3")]
    wanted = sum(part / part.amax((1, 2, 3), keepdim=True).clamp(min=1e-30) for part in parts) / 2
    found = xai.GradCAM(layer=("1", "3"))(model, x, target=1)
    assert found.layer == "1, 3"
    assert_close(found.values, wanted)


@pytest.mark.parametrize("axes", [1, 3])
def test_other_numbers_of_axes(axes):
    torch.manual_seed(0)
    conv = {1: nn.Conv1d, 3: nn.Conv3d}[axes](2, 4, 3, stride=2)
    pool = {1: nn.AdaptiveAvgPool1d, 3: nn.AdaptiveAvgPool3d}[axes](1)
    front, behind = nn.Sequential(conv, nn.ReLU()), nn.Sequential(pool, nn.Flatten(), nn.Linear(4, 3))
    x = torch.randn(2, 2, *(9, 8, 7)[:axes])
    found = xai.GradCAM(layer="0")(nn.Sequential(front, behind).eval(), x, target=1)
    assert_close(found.values, by_hand(front, behind, x, 1))
    assert tuple(found.values.shape) == (2, 1, *x.shape[2:])


def test_the_original_cam(x):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), head()).eval()
    found = xai.CAM()(model, x, target=1)
    assert found.layer == "1"
    a = model[1](model[0](x)).detach()
    # The head takes the mean of each map times its weight.
    small = (a * model[2][2].weight[1][:, None, None]).sum(1, keepdim=True).detach()
    assert_close(found.values, nn.functional.interpolate(small, (8, 10), mode="bilinear"))
    crooked = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 6 * 8, 3)).eval()
    with pytest.raises(xai.CapabilityError, match="GradCAM"):
        xai.CAM(layer="1")(crooked, x, target=1)


def test_vision_transformer():
    resnet18()  # declares torchvision's operators
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    model = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3).eval()
    nn.init.normal_(model.heads.head.weight)
    x = torch.randn(2, 3, 32, 32)
    found = xai.GradCAM(relu=False)(model, x, target=1)
    assert found.layer == "encoder.layers.encoder_layer_1.ln_1"
    value = xai.wrap(model).read(x, [found.layer])[found.layer]
    cotangent = torch.zeros(2, 3)
    cotangent[:, 1] = 1
    pulled = xai.wrap(model).pullback(x, found.layer, cotangent)
    a, g = value[:, 1:], pulled[:, 1:]
    assert a.shape == (2, 16, 16)
    small = (a * g.mean(1, keepdim=True)).sum(2).reshape(2, 1, 4, 4)
    assert_close(found.values, nn.functional.interpolate(small, (32, 32), mode="bilinear"))
    assert torch.any(found.values)
    same = xai.GradCAM(layer=found.layer, grid=(4, 4), relu=False)(model, x, target=1)
    assert_close(same.values, found.values)
    with pytest.raises(xai.OptionError, match="tokens"):
        xai.GradCAM(layer=found.layer, grid=(5, 4))(model, x, target=1)
    # With and without gradients recorded, the fused attention of PyTorch must not hide the layers inside.
    assert_close(xai.wrap(model).read(x, [found.layer])[found.layer], value)


def test_layers_that_return_tuples():
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            return self.out(self.lstm(x)[0][:, -1])

    model, x = Net().eval(), torch.randn(2, 5, 3)
    value = model.lstm(x)[0].detach()
    assert_close(xai.LayerActivation(layer="lstm")(model, x).values, value)
    assert_close(
        xai.Gradient(layer="lstm:output[0]")(model, x, target=1).values[:, -1],
        model.out.weight[1].detach().expand(2, 4),
    )
    with pytest.raises(xai.LayerError, match="one row per sample"):
        xai.LayerActivation(layer="lstm:output[1]")(xai.wrap(model), torch.randn(3, 5, 3))
    with pytest.raises(xai.LayerError, match="3 arrays"):
        xai.LayerActivation(layer="lstm:output[7]")(model, x)


def test_everything_is_put_back(x):
    class Failing(nn.Module):
        def forward(self, x):
            if len(x) == 2:
                raise RuntimeError("out of order")
            return x

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Failing(), head()).eval()
    model[0].register_forward_hook(lambda module, given, out: out * 2)
    before = state_of(model)
    with pytest.raises(xai.ModelError, match="out of order"):
        xai.GradCAM(layer="0")(model, x)
    assert state_of(model) == before
    found = xai.GradCAM(layer="0")(model, x[:1], target=1)
    assert state_of(model) == before
    # What a user's own hook returns is the layer's value.
    assert_close(xai.wrap(model).read(x[:1], ["0"])["0"], model[0](x[:1]).detach())
    assert_close(found.values, by_hand(model[0], model[2], x[:1], 1))


def test_layers_of_functions_cannot_be_followed(x):
    with pytest.raises(xai.CapabilityError, match="cannot be followed"):
        xai.GradCAM(layer="conv")(lambda v: v.sum((1, 2, 3))[:, None], x)
    with pytest.raises(xai.CapabilityError, match="cannot be followed"):
        xai.layers(lambda v: np.ones((len(v), 2)), np.ones((2, 3)))


def test_options():
    with pytest.raises(xai.OptionError, match="looks at a layer"):
        xai.Conductance()
    with pytest.raises(xai.OptionError, match="outer explainer"):
        xai.SmoothGrad(xai.Gradient(neuron="conv"))
    with pytest.raises(xai.OptionError, match="ends"):
        xai.Conductance(layer="conv", quadrature="gauss_legendre")
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval()
    x = torch.randn(2, 3)
    with pytest.raises(xai.InputError, match="positions"):
        xai.GradCAM(layer="1")(model, x)
    with pytest.raises(xai.OptionError, match="behind a layer"):
        xai.SmoothGrad(xai.Gradient(layer="1"), layer="0")(model, x)
    found = xai.Gradient(layer=xai.Layer("1"))(model, x, target=1)
    assert_close(found.values, model[2].weight[1].detach().expand(2, 4))


def test_saved_and_loaded(tmp_path, x):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), head()).eval()
    for layer in ("1", xai.Layer("1")):
        found = xai.GradCAM(layer=layer)(model, x, target=1)
        found.save(tmp_path / "e.npz")
        back = xai.load(tmp_path / "e.npz")
        assert back.layer == "1"
        assert back.explainer == found.explainer
        back.plot(tmp_path / "e.png")
    xai.Gradient(layer="0")(model, x, target=1).plot(tmp_path / "g.png")
