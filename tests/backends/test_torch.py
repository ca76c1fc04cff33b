"""PyTorch: every kind of model, every method, every mistake."""

from __future__ import annotations

import numpy as np
import pytest
from bad import MISTAKES, Kit, check
from frameworks import need
from kinds import TORCH_KINDS, torch_subject
from table import SEED, methods

import xai_core as xai
from xai_core.testing import BackendConformance, assert_close

need("torch")

import torch
from torch import nn


class TestConformance(BackendConformance):
    @pytest.fixture(params=TORCH_KINDS)
    def subject(self, request):
        return torch_subject(request.param)


class TestConformanceInDoublePrecision(BackendConformance):
    @pytest.fixture
    def subject(self):
        return torch_subject("module", "float64")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", methods(), ids=str)
def test_method_equals_its_paper(method, dtype):
    subject = torch_subject("module", dtype)
    x = subject.x.numpy().astype("float64")
    target = np.arange(len(x)) % 3
    found = method.explainer(subject.model, subject.x, target=target, seed=SEED)
    assert_close(found.values, method.oracle(subject.reference, x, target), relative=subject.relative, like=subject.x)


@pytest.fixture(scope="module")
def kit():
    constant = lambda x: torch.zeros((len(x), 3))  # noqa: E731
    return Kit(torch_subject("module").model, torch.from_numpy, lambda f: f, constant, torch)


@pytest.mark.parametrize("row", MISTAKES, ids=lambda row: row[0])
def test_mistake_and_state_afterwards(row):
    _, error, words, call = row
    subject = torch_subject("module")
    before = subject.state()
    kit = Kit(subject.model, torch.from_numpy, lambda f: f, lambda x: torch.zeros((len(x), 3)), torch)
    check(kit, error, words, call)
    after = subject.state()
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(6), nn.Dropout(0.3), nn.RReLU(), nn.MultiheadAttention(6, 2, dropout=0.1)]
)
def test_training_mode_is_refused_where_it_matters(layer):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = layer

        def forward(self, x):
            return self.part(x, x, x)[0] if isinstance(self.part, nn.MultiheadAttention) else self.part(x)

    net = Net().train()
    with pytest.raises(xai.TrainingModeError, match=r"'part'") as caught:
        xai.Gradient()(net, torch.randn(4, 6), target=0)
    assert "model.eval()" in str(caught.value)
    xai.Gradient()(net.eval(), torch.randn(4, 6), target=0)


def test_training_mode_is_allowed_where_it_does_not_matter():
    net = nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.0), nn.ReLU()).train()
    xai.Gradient()(net, torch.randn(4, 6).abs())


def test_wrong_dtype_and_device_are_named():
    net = nn.Linear(6, 3)
    with pytest.raises(xai.InputError, match=r"x\.to\(torch\.float32\)"):
        xai.Gradient()(net, torch.randn(4, 6, dtype=torch.float64))


def test_inputs_that_require_grad_and_outer_graphs_are_left_alone():
    net = nn.Linear(6, 3)
    x = torch.randn(4, 6, requires_grad=True)
    found = xai.IntegratedGradients(steps=3)(net, x)
    assert x.grad is None
    assert not found.values.requires_grad
    assert not found.score.requires_grad
    with torch.no_grad():
        assert_close(xai.IntegratedGradients(steps=3)(net, x).values, found.values)
    with torch.inference_mode():
        assert_close(xai.IntegratedGradients(steps=3)(net, x.detach().clone()).values, found.values)
    hidden = xai.Occlusion()(net, x)
    assert not hidden.values.requires_grad


def test_a_detached_model_is_refused():
    with pytest.raises(xai.InputDependenceError, match="detach"):
        xai.Gradient()(lambda x: x.detach() * 2, torch.randn(4, 6))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_come_back_as_halves_and_sum_in_single_precision(dtype):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    x = torch.randn(4, 6)
    exact = xai.IntegratedGradients(steps=300, quadrature="riemann_middle")(net, x, target=0).values
    found = xai.IntegratedGradients(steps=300, quadrature="riemann_middle")(net.to(dtype), x.to(dtype), target=0)
    assert found.values.dtype == dtype
    assert_close(found.values.float(), exact, relative=3e-2)


def test_models_that_are_channels_last_stay_so():
    """PyTorch's convolutions take the memory format from the weights; the map is the same."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 2)).double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    expected = xai.SmoothGrad(samples=3)(net, x, target=0).values
    found = xai.SmoothGrad(samples=3)(net.to(memory_format=torch.channels_last), x, target=0).values
    assert_close(found, expected, relative=1e-12, like=x)


def test_sequences_and_signals_have_their_channels_where_the_model_has():
    """Noise of an input (batch, a, b) is the same for (batch, positions, features) in any framework."""
    w = torch.randn(4 * 5, 2)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(20, 2)).eval()
    x = np.random.default_rng(0).normal(size=(2, 4, 5)).astype("float32")
    with torch.no_grad():
        plain[1].weight.copy_(w.T)
    bias = plain[1].bias.detach().numpy()
    found = xai.SquareGrad(xai.InputXGradient(), samples=4)(plain, x, target=0)
    same = xai.SquareGrad(xai.InputXGradient(), samples=4)
    from strict import strict_model

    other = strict_model(lambda x: np.reshape(x, (len(x), 20)) @ w.numpy().astype(float) + bias, np)
    assert_close(found.values, same(other, x.astype("float64"), target=0).values, relative=1e-5)


def test_a_model_on_several_inputs():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(6, 3)

        def forward(self, left, right):
            return self.net(torch.cat([left, right], 1)).tanh()

    net, x = Net().eval(), torch.randn(5, 6)
    whole = xai.IntegratedGradients()(lambda x: net(x[:, :4], x[:, 4:]), x, target=0).values
    for packed in ((x[:, :4], x[:, 4:]), {"left": x[:, :4], "right": x[:, 4:]}):
        found = xai.IntegratedGradients()(net, packed, target=0).values
        parts = list(found.values()) if isinstance(found, dict) else found
        assert_close(torch.cat(list(parts), 1), whole)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", methods(), ids=str)
def test_method_equals_its_paper_on_a_gpu(method):
    subject = torch_subject("module")
    x = subject.x.numpy().astype("float64")
    found = method.explainer(subject.model.cuda(), subject.x.cuda(), target=1, seed=SEED)
    assert found.values.is_cuda
    assert_close(found.values, method.oracle(subject.reference, x, np.full(len(x), 1)))
