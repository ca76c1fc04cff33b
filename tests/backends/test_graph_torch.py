"""PyTorch models as graphs of operations: the same values and derivatives, layers, settings and parameters of now."""

from __future__ import annotations

import functools
import gc
import os
import subprocess
import sys
import textwrap
import types
import weakref

import pytest
from frameworks import need
from torchvision_models import resnet18

import xai_core as xai
from xai_core.graph import KINDS
from xai_core.layers import Layer

need("torch", "torchvision")

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils import _pytree as pytree
from xai_torch import backend


def scores(raw):
    """The first array of what a model returns."""
    return pytree.tree_leaves(raw)[0]


def graph_of(model, x, pick=scores):
    return backend.adapt(model, None).traced((), x, pick)


def evaluate(graph, leaves):
    """Every value of a graph, and whether it has the shape and dtype that the graph says."""
    values = {**graph.constants, **dict(zip(graph.inputs, leaves, strict=True))}
    for node in graph.nodes:
        made = node.run(*(values[number] for number in node.inputs))
        for number, array in zip(node.outputs, made, strict=True):
            assert tuple(array.shape) == graph.shapes[number], node.name
            assert str(array.dtype) == f"torch.{graph.dtypes[number]}", node.name
            values[number] = array
    return values


def agree(model, x, unknown=()):
    """Trace in double precision and compare values and derivatives with the model's own."""
    if isinstance(model, nn.Module):
        model = model.double().eval()
    x = pytree.tree_map(lambda a: a.double() if a.is_floating_point() else a, x)
    graph = graph_of(model, x)
    leaves, spec = pytree.tree_flatten(x)
    given = [leaf.clone().requires_grad_(leaf.is_floating_point()) for leaf in leaves]
    copies = pytree.tree_unflatten([leaf.clone() for leaf in given], spec)
    expected = scores(backend.adapt(model, None).apply((), copies))
    found = evaluate(graph, given)[graph.output]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    wanted = [leaf for leaf in given if leaf.requires_grad]
    if wanted:
        cotangent = torch.randn(expected.shape, dtype=expected.dtype, generator=torch.Generator().manual_seed(1))
        ours = torch.autograd.grad(found, wanted, cotangent, allow_unused=True)
        theirs = torch.autograd.grad(expected, wanted, cotangent, allow_unused=True)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    assert {node.kind for node in graph.nodes} <= set(KINDS)
    assert {node.name for node in graph.nodes if node.kind == "unknown"} == set(unknown)
    for node in graph.nodes:
        assert not any(isinstance(held, torch.Tensor) for held in _held(node.run))
    return graph


def _held(run):
    """What a closure or partial holds."""
    found = []
    if isinstance(run, functools.partial):
        found = [run.func, *run.args, *run.keywords.values()]
    elif isinstance(run, types.FunctionType):
        found = [cell.cell_contents for cell in run.__closure__ or ()]
    return [leaf for each in found for leaf in (*pytree.tree_leaves(each), *_held(each))]


def kinds(graph):
    return [node.kind for node in graph.nodes if node.kind != "mark"]


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def vision(name, **options):
    resnet18()  # declares what torchvision asks of its own library
    import torchvision

    return getattr(torchvision.models, name)(**options)


def test_resnet():
    graph = agree(vision("resnet18"), randn(2, 3, 64, 64))
    assert kinds(graph).count("contraction") == 21


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("resnet50", 64, {}),
        ("mobilenet_v3_small", 64, {}),
        ("convnext_tiny", 64, {}),
        ("swin_t", 64, {}),
        ("vgg11_bn", 32, {}),
        ("densenet121", 64, {}),
        ("efficientnet_b0", 64, {}),
        ("shufflenet_v2_x1_0", 64, {}),
        ("googlenet", 64, {"init_weights": False}),
        ("inception_v3", 96, {"init_weights": False}),
        ("squeezenet1_1", 64, {}),
        ("regnet_y_400mf", 64, {}),
    ],
)
def test_torchvision(name, size, options):
    agree(vision(name, **options), randn(2, 3, size, size))


def test_vision_transformer():
    model = vision(
        "VisionTransformer",
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
        num_classes=5,
    )
    nn.init.normal_(model.heads.head.weight)
    graph = agree(model, randn(2, 3, 32, 32))
    assert kinds(graph).count("softmax") == 2


class Function(nn.Module):
    """A module around a function of other modules and inputs."""

    def __init__(self, function, *parts):
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(parts)

    def forward(self, *x):
        return self.function(*self.parts, *x)


def attention(**options):
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options)


def with_mask(q, k, v):
    keep = torch.arange(k.shape[-2])[None] < 4
    bias = torch.arange(30, dtype=q.dtype).reshape(5, 6) / 10
    return F.scaled_dot_product_attention(q, k, v, keep) + F.scaled_dot_product_attention(q, k, v, bias, scale=0.3)


def in_place(first, rectify, same, x):
    h = first(x)
    skip = h
    y = rectify(h)  # changes `h`, and so `skip`
    y = y + skip + same(h)
    y += x
    y[:, 0] = 1.0
    y[:, 1:3] *= 2
    y.view(-1).add_(1)
    z = F.relu(y) * 1.5
    z.sigmoid_()
    return z + y


def arithmetic(x, y):
    x, y = x.abs() + 0.1, y.abs() + 0.2
    made = torch.add(x, y, alpha=2) - torch.sub(x, 3, alpha=0.5) + (1 - x) + 2 / x + x / y + x**2 + 2**x + x**y
    made = made + torch.rsub(x, y, alpha=3) + torch.addcmul(x, x, y, value=0.5) + torch.addcdiv(x, x, y, value=0.3)
    made = made + torch.lerp(x, y, 0.3) + torch.minimum(x, y) + torch.maximum(x, torch.tensor(0.3)) + x.floor()
    made = (
        made + x.to("cpu", torch.int32).to(x.dtype) + x.float().double() - torch.zeros_like(x) + torch.full_like(x, 3.0)
    )
    return made + x.sqrt() * y.rsqrt() + torch.atan2(x, y) + torch.div(x, y, rounding_mode="floor")


def selections(x):
    made = torch.where(x > 0, x, 0.0) + torch.where(x > 0.5, 1.0, 0.0) + x.masked_fill(x < -1, -2.0)
    return made + x.clamp(min=0) + x.clamp(-1, 1) + x.clamp(max=x.mean()) + x.detach() + x.clamp_max(0.5)


def moves(x, y):
    a, b = torch.cat([x, y], 1).roll(1, 1).flip(2), torch.stack([x, y]).unbind(0)[1]
    c, d = x.chunk(2, -1)
    e, order = x[:, [0, 2, 1], 2:5], y.argsort(-1)
    made = b + (c * d).repeat(1, 1, 2) + torch.gather(x, 2, order) + torch.scatter(x, 2, order, y) + x.tril()
    put = x.clone()
    put[:, [0, 1]] = y[:, :2]
    made = made + put + x.scatter_add(2, (y > 0).long(), y) + torch.cumsum(x, -1) + x.mT.contiguous().mT
    made = made + torch.index_select(x, 1, torch.tensor([2, 0])).sum() + F.pad(x, (1, 2), mode="replicate").mean()
    return made + a.sum() + e.sum() + x.unfold(2, 3, 2).sum() + x.expand(2, 2, 3, 8).mean(0) + y.movedim(1, 2).mean()


def products(x, y):
    made = torch.outer(x[0, 0], y[0, 0]).sum() + torch.tensordot(x, y, ([2], [2])).sum() + (x[0] @ y[0, 0]).sum()
    made = made + x[0, 0] @ y[0, 0] + torch.matmul(x[:, None], y[None].mT).sum()
    made = (
        made + torch.baddbmm(x.mT @ y, x.mT, y, beta=0.5, alpha=2).sum() + torch.addmv(x[0, :, 0], x[0], y[0, 0]).sum()
    )
    made = made + torch.einsum("b...d,bed->b...e", x, y).sum() + torch.einsum("bid,bjd->bij", x, x).sum()
    return made + torch.einsum("bii->bi", x[:, :, :3]).sum() + torch.einsum("bid,bjd,bjd->bi", x, y, y).sum() + x


def pools(x):
    made = (
        F.interpolate(x, scale_factor=2, mode="nearest").mean((2, 3)) + x.max(3)[0].min(2)[0] + x.square().sum((2, 3))
    )
    made = made + F.max_pool2d(x, 2, return_indices=True)[0].amax((2, 3)) + F.adaptive_max_pool2d(x, 2).sum((2, 3))
    made = (
        made + F.fold(F.unfold(x, 3), (8, 8), 3).mean((-1, -2)) + F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2).mean((2, 3))
    )
    made = (
        made + F.avg_pool2d(x, 3, 2, ceil_mode=True, count_include_pad=False).sum((2, 3)) + torch.var_mean(x, (2, 3))[0]
    )
    made = (
        made
        + F.interpolate(x, size=5, mode="bilinear").sum((2, 3))
        + F.interpolate(x, size=5, mode="bicubic").amin((2, 3))
    )
    return made + F.instance_norm(x).square().sum((2, 3)) + x.std((2, 3)) + F.normalize(x, dim=1).sum((2, 3))


def norms():
    parts = nn.Sequential(
        nn.ConvTranspose2d(3, 4, 3),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
        nn.InstanceNorm2d(4, track_running_stats=True),
        nn.LocalResponseNorm(3),
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, affine=False),
        nn.LayerNorm([4, 10, 10]),
        nn.RMSNorm([10]),
    )
    for part in parts:
        for name in ("weight", "bias", "running_mean", "running_var"):
            if "Norm" in type(part).__name__ and getattr(part, name, None) is not None:
                nn.init.uniform_(getattr(part, name), 0.5, 1.5)
    return parts


def encoder_in_a_function():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double().eval()
    return lambda x: layer(x)


ACTIVATIONS = (
    "ELU CELU SELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid Mish PReLU ReLU6 SiLU Sigmoid"
)
ACTIVATIONS += " Softplus Softsign Softshrink Tanh Tanhshrink ReLU"

CASES = {
    "encoder layer": lambda: (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), randn(2, 3, 8)),
    "encoder, norm first": lambda: (
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", norm_first=True), 2, enable_nested_tensor=False
        ),
        randn(5, 2, 8),
    ),
    "transformer": lambda: (nn.Transformer(8, 2, 1, 1, 16, batch_first=True), (randn(2, 3, 8), randn(2, 4, 8))),
    "self-attention": lambda: (
        Function(lambda m, x: m(x, x, x)[0], nn.MultiheadAttention(8, 2, batch_first=True)),
        randn(2, 3, 8),
    ),
    "attention with bias": lambda: (
        Function(
            lambda m, x, k: m(x, k, k, need_weights=False, key_padding_mask=k.sum(-1) > 1e9)[0],
            nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True),
        ),
        (randn(2, 3, 8), randn(2, 4, 8)),
    ),
    "causal": lambda: (Function(attention(is_causal=True)), (randn(2, 4, 5, 3), randn(2, 4, 6, 3), randn(2, 4, 6, 2))),
    "masks": lambda: (Function(with_mask), (randn(2, 4, 5, 3), randn(2, 4, 6, 3), randn(2, 4, 6, 2))),
    "grouped": lambda: (
        Function(attention(enable_gqa=True)),
        (randn(2, 4, 5, 3), randn(2, 2, 6, 3), randn(2, 2, 6, 3)),
    ),
    "in a function": lambda: (encoder_in_a_function(), randn(2, 3, 8)),
    "lstm": lambda: (nn.LSTM(8, 4, batch_first=True, num_layers=2, bidirectional=True), randn(2, 3, 8)),
    "lstm, projected": lambda: (nn.LSTM(8, 4, proj_size=3), randn(5, 2, 8)),
    "lstm cell": lambda: (nn.LSTMCell(8, 4), randn(2, 8)),
    "gru": lambda: (nn.GRU(8, 4, batch_first=True), randn(2, 3, 8)),
    "rnn": lambda: (nn.RNN(8, 4, batch_first=True, nonlinearity="relu"), randn(2, 3, 8)),
    "norms": lambda: (norms(), randn(2, 3, 8, 8)),
    "conv1d": lambda: (
        nn.Sequential(
            nn.Conv1d(3, 4, 3, padding="same", padding_mode="reflect"),
            nn.MaxPool1d(2),
            nn.ConvTranspose1d(4, 6, 3, groups=2),
            nn.AdaptiveMaxPool1d(3),
            nn.Flatten(),
            nn.Linear(18, 2),
        ),
        randn(2, 3, 16),
    ),
    "conv3d": lambda: (
        nn.Sequential(
            nn.Conv3d(4, 4, 3, groups=2), nn.MaxPool3d(2), nn.ConvTranspose3d(4, 6, 2), nn.AdaptiveAvgPool3d(1)
        ),
        randn(2, 4, 6, 6, 6),
    ),
    "without batch": lambda: (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 4, 3)),
        randn(3, 6, 6),
    ),
    "activations": lambda: (
        Function(
            lambda *given: sum(part(given[-1]) for part in given[:-1]), *(getattr(nn, n)() for n in ACTIVATIONS.split())
        ),
        randn(2, 3, 8),
    ),
    "softmaxes": lambda: (nn.Sequential(nn.GLU(), nn.Softmax(-1), nn.LogSoftmax(1), nn.Softmin(-1)), randn(2, 3, 8)),
    "in place": lambda: (Function(in_place, nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Identity()), randn(2, 8)),
    "arithmetic": lambda: (Function(arithmetic), (randn(2, 3, 8), randn(2, 3, 8))),
    "selections": lambda: (Function(selections), randn(2, 8)),
    "moves": lambda: (Function(moves), (randn(2, 3, 8), randn(2, 3, 8) + 1)),
    "products": lambda: (Function(products), (randn(2, 3, 8), randn(2, 3, 8) + 1)),
    "pools": lambda: (Function(pools), randn(2, 3, 8, 8)),
    "embedding": lambda: (
        nn.Sequential(nn.Embedding(10, 8), nn.Flatten(), nn.Linear(24, 2)),
        torch.tensor([[1, 2, 3]]),
    ),
    "weight norm": lambda: (nn.utils.parametrizations.weight_norm(nn.Linear(8, 3)), randn(2, 8)),
    "dropout": lambda: (
        nn.Sequential(nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), nn.Identity()),
        randn(2, 3, 4, 4),
    ),
    "upsampling": lambda: (
        nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear"), nn.ZeroPad2d(1), nn.AvgPool2d(2), nn.LPPool2d(2, 3)
        ),
        randn(2, 3, 8, 8),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_operations(case):
    graph = agree(*CASES[case]())
    assert "control" not in kinds(graph)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # PyTorch's own, when it compiles a branch
def test_what_is_unknown():
    agree(Function(lambda x: torch.fft.rfft(x).abs() + x.sort(-1)[0][:, :5] + x.prod(1, keepdim=True)), randn(2, 8), {
        "aten.fft_rfft",
        "aten.abs",
        "aten.sort",
        "aten.prod",
    })  # fmt: skip
    both = nn.BatchNorm1d(3, track_running_stats=False)  # in evaluation, too, by the statistics of the batch
    agree(both, randn(4, 3), {"aten._native_batch_norm_legit"})
    branch = Function(lambda x: torch.cond(x.sum() > 0, lambda a: a.sin(), lambda a: a.cos(), (x,)))
    assert "control" in kinds(agree(branch, randn(2, 8)))


def test_kinds_and_facts():
    def model(x):
        y = x.permute(0, 2, 1).reshape(2, -1).relu()
        return torch.maximum(y, torch.zeros_like(y)) * 2.0 + y.detach() - (y > 0).float()

    graph = graph_of(model, randn(2, 3, 4))
    assert kinds(graph) == [
        *(
            "structure",
            "structure",
            "elementwise",
            "cut",
            "maximum",
            "multiply",
            "stop",
            "add",
            "cut",
            "cut",
            "subtract",
        )
    ]
    turned, shaped = graph.nodes[:2]
    assert turned.facts == {"permutation": (0, 2, 1)}
    assert shaped.facts == {"reshape": True}
    assert graph.nodes[9].facts == {"cast": True}
    assert graph.numbers[graph.nodes[3].outputs[0]] == 0.0
    assert graph.numbers[graph.nodes[5].inputs[1]] == 2.0
    assert graph.nodes[2].name == "aten.relu"
    wide = graph_of(lambda x: x[:, None].expand(2, 3, 4).softmax(-1), randn(2, 4))
    assert next(node for node in wide.nodes if "axes" in node.facts).facts["axes"] == {0: 0, 1: 1, 2: 2}
    assert wide.nodes[-1].facts["axis"] == 2


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: nn.Linear(4, 6), randn(2, 3, 4)),
        (lambda: nn.Conv2d(4, 6, 3, groups=2), randn(2, 4, 5, 5)),
        (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2), randn(2, 4, 5, 5)),
        (lambda: nn.ConvTranspose1d(4, 6, 3, groups=1), randn(4, 5)),
        (lambda: Function(torch.matmul), (randn(1, 2, 3, 4), randn(5, 1, 4, 2))),
        (lambda: Function(torch.matmul), (randn(3, 4), randn(5, 4, 2))),
        (lambda: Function(torch.matmul), (randn(4), randn(5, 4, 2))),
        (lambda: Function(lambda a, b: torch.einsum("bijc,dc->bdi", a, b)), (randn(2, 3, 4, 5), randn(6, 5))),
    ],
)
def test_contractions_can_be_scaled(make, x):
    graph = graph_of(make().eval(), x)
    node = next(node for node in graph.nodes if node.kind == "contraction")
    values = evaluate(graph, pytree.tree_leaves(x))
    inputs = [values[number] for number in node.inputs]
    if node.facts.get("bias"):
        inputs[2] = torch.zeros_like(inputs[2])
    before = node.run(*inputs)[0]
    for place in (0, 1):
        axes = node.facts["varies"][place]
        factor = randn(*(size if axis in axes else 1 for axis, size in enumerate(before.shape)))
        changed = list(inputs)
        changed[place] = node.facts["scaled"][place](backend.xp, inputs[place], factor)
        assert changed[place].shape == inputs[place].shape
        torch.testing.assert_close(node.run(*changed)[0], before * factor)
    assert node.facts["varies"][1] or len(before.shape) < 2


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
        self.relu = nn.ReLU(inplace=True)
        self.pair = Function(lambda a, b: (a + b, a - b))
        self.same = nn.Identity()

    def forward(self, x):
        h = self.relu(self.body(x) - 1)
        a, b = self.pair(h, h)
        return self.relu(a + b) + self.same(h)


def test_layers():
    model, x = Twice().eval(), randn(2, 4)
    graph = graph_of(model, x)
    table = xai.layers(model, x)
    given = {Layer(row.path, row.call, "input", part) for row in table for part in range(len(row.given))}
    made = {Layer(row.path, row.call, "output", part) for row in table for part in range(len(row.shapes))}
    assert set(graph.layers) == given | made
    values = evaluate(graph, [x])
    wrapped = xai.wrap(model)
    for layer, number in graph.layers.items():
        (expected,) = wrapped.read(x, [layer]).values()
        torch.testing.assert_close(values[number], expected, msg=str(layer))
    # Each name stands for one value on its way: twice the same array, and an identity, are told apart.
    values = dict(graph.layers)
    assert len(set(values.values())) == len(values)
    paths = {node.path: node.name for node in graph.nodes if node.kind == "elementwise"}
    assert paths == {"body.1": "aten.relu", "relu": "aten.relu"}
    assert [node.path for node in graph.nodes if node.kind in ("add", "subtract")] == ["", "pair", "pair", "", ""]


@pytest.mark.parametrize("layer", ["pair:input", "pair:input[1]", "same", "body.1", "relu#2", "body:input"])
def test_a_value_at_a_layer_flows_where_the_layer_says(layer):
    model, x = Twice().eval(), randn(2, 4)
    (wanted,) = xai.wrap(model).read(x, [layer]).values()
    graph = graph_of(model, x)
    number = next(n for at, n in graph.layers.items() if str(at).replace("#1", "") == layer)

    values = {**graph.constants, graph.inputs[0]: x}
    for node in graph.nodes:
        made = node.run(*(values[n] for n in node.inputs))
        values.update(zip(node.outputs, made, strict=True))
        if number in node.outputs:
            values[number] = wanted * 3
    edited = xai.wrap(model).edit(x, {layer: lambda h: h * 3})
    torch.testing.assert_close(values[graph.output], edited)


class Smooth(nn.Module):
    def forward(self, x):
        x = x * 2
        return F.softplus(x)


def test_source():
    graph = graph_of(nn.Sequential(nn.Linear(4, 3), Smooth()), randn(2, 4))
    line = Smooth.forward.__code__.co_firstlineno
    found = [node.source for node in graph.nodes if node.kind in ("multiply", "elementwise")]
    assert found == [f"test_graph_torch.py:{line + 1}", f"test_graph_torch.py:{line + 2}"]
    assert {node.source for node in graph.nodes if node.kind == "contraction"} == {""}


def test_inputs_in_tuples_and_dicts():
    agree(Function(lambda a, b: a * b), (randn(2, 4), randn(2, 4) + 1))

    class Named(nn.Module):
        def forward(self, image, words):
            return {"scores": image.sum((1, 2)) * words.float().mean(1), "rest": words}

    graph = agree(Named(), {"words": torch.tensor([[1, 2]]), "image": randn(1, 3, 4)})
    assert [graph.dtypes[number] for number in graph.inputs] == ["int64", "float64"]


def test_functions_of_tensors():
    head, factor = nn.Linear(4, 3), torch.tensor(2.0)

    def model(x):
        return head(x).relu() * factor

    x = randn(2, 4)
    graph = graph_of(model, x)
    with torch.no_grad():
        head.weight.mul_(2)
    again = graph_of(model, x)
    assert again.nodes is graph.nodes
    torch.testing.assert_close(evaluate(again, [x])[again.output], model(x))
    head.weight = nn.Parameter(torch.ones(3, 4))
    factor.fill_(5)
    again = graph_of(model, x)
    torch.testing.assert_close(evaluate(again, [x])[again.output], model(x))


def test_functions_of_parameters():
    def model(params, x):
        return x @ params["w"]

    x = randn(2, 4)
    for params in ({"w": randn(4, 3)}, {"w": randn(4, 3) + 1}):
        graph = backend.adapt(model, params).traced((), x, scores)
        torch.testing.assert_close(evaluate(graph, [x])[graph.output], model(params, x))


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.1)
        self.scale = torch.tensor([2.0])
        self.factor = 3.0
        self.seen = None

    def forward(self, x):
        self.seen = self.act(self.norm(self.conv(x)))
        return self.seen.mean((2, 3)) * self.scale * self.factor


def replaced_weight(model):
    model.conv.weight = nn.Parameter(torch.ones_like(model.conv.weight))


def loaded(model):
    model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})


def attribute(model):
    model.scale = torch.tensor([7.0])


def statistics(model):
    model.norm.running_mean.add_(1)


def slope(model):
    model.act.negative_slope = 0.7


def activation(model):
    model.act = nn.Tanh()


def number(model):
    model.factor = 4.0


def hook(model):
    model.conv.register_forward_hook(lambda module, given, made: made * 2)


@pytest.mark.parametrize("change", [replaced_weight, loaded, attribute, statistics, slope, activation, number, hook])
def test_changes_after_tracing(change):
    model, x = Small().eval(), randn(2, 3, 6, 6)
    first = graph_of(model, x)
    before = evaluate(first, [x])[first.output]
    assert graph_of(model, x).nodes is first.nodes
    with torch.no_grad():
        change(model)
    graph = graph_of(model, x)
    found = evaluate(graph, [x])[graph.output]
    torch.testing.assert_close(found, model(x).detach())
    assert not torch.allclose(found, before)
    numbers_only = change in (replaced_weight, loaded, attribute, statistics)
    assert (graph.nodes is first.nodes) == numbers_only


FACTOR = 2.0


class Outside(nn.Module):
    """Computes with a number and a tensor that it does not hold."""

    def __init__(self, least):
        super().__init__()
        self.inner = lambda x: torch.maximum(x, least)

    def forward(self, x):
        return self.inner(x) * FACTOR


def test_numbers_outside_of_the_model_that_change(monkeypatch):
    least, x = torch.tensor(0.0), randn(2, 4)
    model = Outside(least).eval()
    assert len(xai.GuidedBackprop()(model, x, target=0).coverage["guided"]) == 1
    monkeypatch.setitem(globals(), "FACTOR", -3.0)
    graph = graph_of(model, x)
    torch.testing.assert_close(evaluate(graph, [x])[graph.output], model(x))
    least.fill_(0.5)  # no ReLU any more
    with pytest.raises(xai.CapabilityError, match="ReLU"):
        xai.GuidedBackprop()(model, x, target=0)


def test_graphs_go_with_the_model():
    model = Small().eval()
    graph_of(model, randn(2, 3, 6, 6))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_on_the_model(fails):
    model, x = Small().eval(), randn(2, 3, 6, 6)
    model.conv.weight.requires_grad_(False)
    if fails:
        model.register_forward_hook(lambda module, given, made: made if made.sum() > 0 else -made)
    before = {(path, name): value for path, m in model.named_modules() for name, value in vars(m).items()}
    state = {name: (value, value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    random = torch.get_rng_state()
    if fails:
        with pytest.raises(xai.CapabilityError, match="cannot be traced"):
            graph_of(model, x)
    else:
        graph_of(model, x)
    after = {(path, name): value for path, m in model.named_modules() for name, value in vars(m).items()}
    assert before.keys() == after.keys()
    assert all(before[key] is after[key] for key in before)
    for name, value in model.state_dict(keep_vars=True).items():
        assert value is state[name][0]
        assert torch.equal(value, state[name][1])
    assert torch.equal(random, torch.get_rng_state())
    assert model.seen is None
    assert not model.conv.weight.requires_grad


def test_a_running_count_is_put_back():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count += 1
            return x * self.count

    model = Counts().eval()
    graph = graph_of(model, randn(2, 4))
    assert float(model.count) == 0
    torch.testing.assert_close(evaluate(graph, [randn(2, 4)])[graph.output], randn(2, 4))


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def without_gradient(x):
    with torch.no_grad():
        factor = x.sum()
    return x * factor


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (lambda x: x if x.sum() > 0 else -x, "cannot be traced"),
        (lambda x: x[x > 0].sum() * x, "cannot be traced"),
        (lambda x: x * x.sum().item(), "depends on the values"),
        (lambda x: x * float(x.detach().numpy().sum()), "cannot be traced"),
        (lambda x: Straight.apply(x) * 2, "other derivatives"),
        (without_gradient, "other derivatives"),
    ],
)
def test_what_cannot_be_traced_is_refused(model, problem, capfd):
    with pytest.raises(xai.CapabilityError, match=problem):
        graph_of(model, randn(2, 8))
    assert capfd.readouterr() == ("", "")


def test_errors_of_the_scores_are_told_as_they_are():
    def pick(raw):
        raise xai.OutputError("No scores here.")

    with pytest.raises(xai.OutputError, match="No scores here"):
        graph_of(nn.Linear(4, 2), randn(2, 4), pick)


def test_keras_on_torch():
    need("keras")
    code = """
    import keras, torch
    import xai_keras
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    h = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    h = keras.layers.BatchNormalization(name="norm")(h)
    h = keras.layers.GlobalAveragePooling2D()(h)
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="head")(h))
    model.get_layer("norm").moving_variance.assign([0.5, 1.0, 2.0, 3.0])
    x = torch.randn(2, 8, 8, 3)
    graph = xai_keras.backend.adapt(model, None).traced((), x, abs)
    values = {**graph.constants, graph.inputs[0]: x}
    for node in graph.nodes:
        values.update(zip(node.outputs, node.run(*(values[n] for n in node.inputs)), strict=True))
    torch.testing.assert_close(values[graph.output], model(x, training=False))
    kinds = [node.kind for node in graph.nodes]
    assert "unknown" not in kinds, [node.name for node in graph.nodes if node.kind == "unknown"]
    assert kinds.count("contraction") == 2 and "softmax" in kinds
    assert {"conv", "norm", "head"} <= {layer.path for layer in graph.layers}
    assert {node.path for node in graph.nodes if node.kind == "contraction"} == {"conv", "head"}
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
