"""How a layer's value is read: which axis holds its channels, whether samples come first, which layer is the default.

Models here are like those that people have: attention over windows, transformers behind convolutions, text convolutions.
"""

from __future__ import annotations

import numpy as np
import pytest
from frameworks import need

import xai_core as xai
from xai_core.testing import assert_close

need("torch")

import torch
from torch import nn


def images(rows=2):
    return torch.randn(rows, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def signals(rows=3):
    return torch.randn(rows, 1, 40, generator=torch.Generator().manual_seed(0))


def token_ids(rows=3, tokens=9):
    return torch.randint(1, 20, (rows, tokens), generator=torch.Generator().manual_seed(0))


def by_hand(model, layer, x, target, channel):
    """Grad-CAM with a hook, the channel axis said by hand."""
    kept = []
    handle = layer.register_forward_hook(lambda module, given, out: kept.append(out))
    score = model(x)[:, target].sum()
    handle.remove()
    g = torch.autograd.grad(score, kept[0])[0].movedim(channel, 1)
    a = kept[0].detach().movedim(channel, 1)
    small = torch.relu((a * g.mean(tuple(range(2, a.ndim)), keepdim=True)).sum(1, keepdim=True))
    size = x.shape[1:] if not x.is_floating_point() else x.shape[2:]
    large = nn.functional.interpolate(small, size, mode={3: "linear", 4: "bilinear"}[a.ndim])
    return large if x.is_floating_point() else large[:, 0]


class Turned(nn.Module):
    """Maps (batch, channels, height, width) that layer norms and a dense layer see with their channels last."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 4, stride=2)
        self.mix = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 8), nn.GELU())
        self.conv, self.out = nn.Conv2d(8, 5, 3), nn.Linear(5, 3)

    def forward(self, x):
        h = self.mix(self.patch(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.out(torch.relu(self.conv(h)).mean((2, 3)))


class TextCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 9)  # as many as tokens: the shape alone would not tell
        self.conv, self.act, self.out = nn.Conv1d(9, 8, 3, padding=1), nn.ReLU(), nn.Linear(8, 3)

    def forward(self, ids):
        return self.out(self.act(self.conv(self.embedding(ids).transpose(1, 2))).mean(2))


class Heard(nn.Module):
    """A transformer behind a convolution of a signal."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 8, 5, stride=2)
        self.encoder, self.out = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.encoder(torch.relu(self.conv(x)).transpose(1, 2)).mean(1))


@pytest.mark.parametrize(
    ("kind", "layer", "channel"),
    [
        (Turned, "patch", 1),
        (Turned, "mix.0", -1),
        (Turned, "mix.2", -1),
        (Turned, "mix", -1),
        (Turned, "conv", 1),
        (TextCNN, "embedding", -1),
        (TextCNN, "conv", 1),
        (TextCNN, "act", 1),
        (Heard, "conv", 1),
        (Heard, "encoder.norm1", -1),
        (Heard, "encoder", -1),
    ],
)
def test_channel_axis_of_a_layer(kind, layer, channel):
    torch.manual_seed(0)
    model = kind().eval()
    x = {Turned: images, TextCNN: token_ids, Heard: signals}[kind]()
    found = xai.GradCAM(layer=layer)(model, x, target=1)
    assert_close(found.values, by_hand(model, model.get_submodule(layer), x, 1, channel).detach())


def test_grid_says_which_axis_holds_channels():
    torch.manual_seed(0)
    model = Turned().eval()
    found = xai.GradCAM(layer="mix", grid=(7, 7))(model, images(), target=1)
    assert_close(found.values, by_hand(model, model.mix, images(), 1, -1).detach())
    with pytest.raises(xai.OptionError, match="not the size"):
        xai.GradCAM(layer="mix", grid=(3, 7))(model, images(), target=1)


class Second(nn.Module):
    """A transformer of PyTorch's default kind, with samples on the second axis."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.encoder, self.out = nn.TransformerEncoderLayer(8, 2, 16), nn.Linear(8, 3)

    def forward(self, ids):
        return self.out(self.encoder(self.embedding(ids).transpose(0, 1)).mean(0))


@pytest.mark.parametrize("rows", [3, 7])  # as many samples as tokens look as if they came first
def test_samples_on_the_second_axis_are_refused(rows):
    torch.manual_seed(0)
    model, ids = Second().eval(), token_ids(rows, 7)
    for explainer in (
        xai.GradCAM(layer="encoder"),
        xai.AblationCAM(layer="encoder"),
        xai.Gradient(layer="encoder"),
        xai.LayerActivation(layer="encoder"),
        xai.IntegratedGradients(layer="encoder", baseline=0),
    ):
        with pytest.raises(xai.LayerError, match=r"'encoder' must have one row per sample"):
            explainer(model, ids, target=1)
    with pytest.raises(xai.LayerError, match="second axis"):
        xai.GradCAM()(model, ids, target=1)
    with pytest.raises(xai.LayerError, match="one row per sample"):
        xai.Gradient(layer="embedding", neuron="encoder")(model, ids, target=(0, 0))
    assert xai.GradCAM(layer="embedding")(model, ids, target=1).values.shape == ids.shape


class Attending(nn.Module):
    """A small vision transformer; attention is part of the block, `weights` shows what it weighs."""

    def __init__(self, class_token):
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 8, 4, stride=4), nn.Parameter(torch.randn(1, int(class_token), 8))
        self.norm1, self.qkv, self.weights = nn.LayerNorm(8), nn.Linear(8, 24), nn.Identity()
        self.norm2, self.dense, self.norm, self.out = nn.LayerNorm(8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        h = self.patch(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(len(h), -1, -1), h], 1)
        q, k, v = self.qkv(self.norm1(h)).chunk(3, -1)
        h = h + self.weights(torch.softmax(q @ k.transpose(1, 2), -1)[:, None])[:, 0] @ v
        h = self.norm(h + torch.relu(self.dense(self.norm2(h))))
        return self.out(h[:, 0] if self.token.numel() else h.mean(1))


@pytest.mark.parametrize(("class_token", "layer"), [(True, "norm1"), (False, "norm")])
def test_default_layer_of_attention_that_is_no_layer(class_token, layer):
    """Behind the attention a class token alone has a say: the map would be zero."""
    torch.manual_seed(0)
    model = Attending(class_token).eval()
    found = xai.GradCAM(relu=False)(model, images(), target=1)
    assert found.layer == layer
    assert np.abs(found.values.numpy()).max() > 0
    with pytest.raises(xai.LayerError, match="no map"):
        xai.GradCAM(layer="weights")(model, images(), target=1)


def test_default_layer_lies_before_pooling():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout(0.0))
            self.avgpool, self.out = nn.AdaptiveAvgPool2d(3), nn.Linear(36, 3)

        def forward(self, x):
            return self.out(self.avgpool(self.features(x)).flatten(1))

    assert xai.GradCAM()(Net().eval(), images(), target=1).layer == "features.1"
    assert xai.GradCAM()(nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(192, 3)).eval(), images()).layer == "0"


def test_a_model_that_is_changed_is_listed_anew():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.deep = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), False

        def forward(self, x):
            h = self.first(x)
            return (self.second(h) if self.deep else h).mean((2, 3))

    model = Net().eval()
    assert xai.GradCAM()(model, images()).layer == "first"
    model.deep = True
    assert xai.GradCAM()(model, images()).layer == "second"
    model.second = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()).eval()
    assert [row.name for row in xai.layers(model, images())] == ["first", "second.0", "second.1", "second"]


def test_integers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x / 255)

    x = (images() * 60 + 128).clamp(0, 255).to(torch.uint8)
    found = xai.GradCAM(layer="net.1")(Scaled().eval(), x, target=1).values
    assert_close(found, xai.GradCAM(layer="1")(net, x / 255, target=1).values)
    for model, given in ((Scaled().eval(), x), (TextCNN().eval(), token_ids())):
        with pytest.raises(xai.IntegerInputError, match="ScoreCAM mixes"):
            xai.ScoreCAM()(model, given, target=1)

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.lstm, self.out = nn.Embedding(20, 4), nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, ids):
            return self.out(self.lstm(self.embedding(ids))[1][0][-1])

    # All states of the recurrence are returned, but only the last one is used, from another output.
    assert not np.any(xai.Gradient(layer="lstm")(Last().eval(), token_ids(), target=1).values.numpy())


def test_texts_of_tokens_in_a_plot():
    found = xai.GradientXActivation(layer="embedding")(TextCNN().eval(), token_ids(2), target=1)
    for names in (str, [list("abcdefghi")] * 2, None):
        found.plot(names=names)
    for names in (["a"], list("abcdefghi"), "abcdefghi", [["a"]], 5):
        with pytest.raises(xai.InputError, match="`names` of tokens"):
            found.plot(names=names)


script = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")


@script
def test_what_cannot_be_asked():
    torch.manual_seed(0)
    model, x = Turned().eval(), images()
    with pytest.raises(xai.LayerError, match="comes before layer 'conv'"):
        xai.Gradient(layer="conv", neuron="patch")(model, x, target=(0, 0, 0))
    with pytest.raises(xai.LayerError, match="comes before layer 'conv'"):
        xai.GradCAM(layer="conv", neuron="patch")(model, x, target=(0, 0, 0))
    with pytest.raises(xai.LayerError, match="One layer"):
        xai.IntegratedGradients(layer=("conv", "patch"))(model, x, target=1)
    with pytest.raises(xai.OptionError, match="names no layer"):
        xai.GradCAM(layer=())
    with pytest.raises(xai.OptionError, match="GradCAM alone"):
        xai.SmoothGrad(xai.GradCAM(), layer="conv", samples=2)(model, x, target=1)
    with pytest.raises(xai.CapabilityError, match="averages the maps of layer 'patch' "):
        xai.CAM(layer="patch")(model, x, target=1)
    with pytest.raises(xai.CapabilityError, match="TorchScript"):
        xai.layers(torch.jit.trace(model, x), x)


@script
def test_torch_script_inside_a_module_is_a_layer():
    torch.manual_seed(0)
    front = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    behind = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    scripted = nn.Sequential(torch.jit.trace(front, images()), behind)
    found = xai.GradCAM()(scripted, images(), target=1)
    assert found.layer == "0"
    assert_close(found.values, xai.GradCAM(layer="0")(nn.Sequential(front, behind), images(), target=1).values)
