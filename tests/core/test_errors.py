"""Mistakes made with a model over strict arrays, and those that need no model."""

from __future__ import annotations

import sys

import array_api_strict as strict
import numpy as np
import pytest
from bad import MISTAKES, Kit, check
from strict import strict_model

import xai_core as xai
from xai_core.testing import weights


@pytest.fixture(scope="module")
def kit():
    held = [strict.asarray(array) for array in weights()]

    def net(x):
        first, shift, second, bias = (strict.astype(array, x.dtype) for array in held)
        return strict.matmul(strict.tanh(strict.matmul(x, first) + shift), second) + bias

    def function(inner):
        return strict_model(inner, _Loose(strict))

    constant = strict_model(lambda x: strict.zeros((x.shape[0], 3), dtype=strict.float32), strict)
    return Kit(strict_model(net, strict), strict.asarray, function, constant, _Loose(strict))


class _Loose:
    """The strict namespace, with positional axes."""

    def __init__(self, xp):
        self._xp = xp

    def __getattr__(self, name):
        return getattr(self._xp, name)

    def argmax(self, x, axis):
        return self._xp.argmax(x, axis=axis)


# Derivatives by complex steps need analytic functions and see no constant models.
HERE = [row for row in MISTAKES if row[0] not in ("gradient not finite", "model ignores its input")]


@pytest.mark.parametrize("row", HERE, ids=lambda row: row[0])
def test_mistake(kit, row):
    _, error, words, call = row
    check(kit, error, words, call)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: xai.IntegratedGradients(steps=0), "steps"),
        (lambda: xai.IntegratedGradients(steps=2.5), "steps"),
        (lambda: xai.IntegratedGradients(steps=True), "steps"),
        (lambda: xai.IntegratedGradients(quadrature="simpson"), "gauss_legendre"),
        (lambda: xai.IntegratedGradients(tolerance=0.0), "tolerance"),
        (lambda: xai.IntegratedGradients(max_rows=0), "max_rows"),
        (lambda: xai.ExpectedGradients(samples=0), "samples"),
        (lambda: xai.SmoothGrad(samples=0), "samples"),
        (lambda: xai.VarGrad(samples=1), "samples"),
        (lambda: xai.SmoothGrad(noise=-0.1), "noise"),
        (lambda: xai.SmoothGrad(xai.Gradient), "explainer"),
        (lambda: xai.Occlusion(window=0), "window"),
        (lambda: xai.Occlusion(stride=1.5), "stride"),
        (lambda: xai.wrap(np.tanh, channel_axis="last"), "channel_axis"),
    ],
)
def test_options_are_checked_when_they_are_given(make, word):
    with pytest.raises(xai.OptionError, match=word):
        make()


def test_finite_inputs_whose_sum_overflows_are_explained_and_others_refused():
    def model(x):
        return np.tanh(x * np.float32(1e-38))[:, :3]

    huge = np.full((2, 4), 3e38, dtype=np.float32)
    assert np.all(np.isfinite(xai.Occlusion()(model, huge, target=0).values))
    for places, values in (((0, 1), np.nan), ((1, 3), -np.inf), (([0, 1], [2, 2]), [np.inf, -np.inf])):
        broken = huge * np.float32(1e-30)
        broken[places] = values
        with pytest.raises(xai.NonFiniteError, match="inputs"):
            xai.Occlusion()(model, broken, target=0)


def test_a_numpy_callable_has_no_gradient():
    with pytest.raises(xai.CapabilityError, match="Occlusion"):
        xai.IntegratedGradients()(lambda x: x, np.ones((2, 3)))
    with pytest.raises(xai.CapabilityError, match="SmoothGrad"):
        xai.SmoothGrad()(lambda x: x, np.ones((2, 3)))
    assert xai.SmoothGrad(xai.Occlusion(), samples=2)(lambda x: x * 2, np.ones((2, 3)), target=0).rows[1] == 0


def test_what_is_no_model_is_refused():
    with pytest.raises(xai.ModelError, match="callable"):
        xai.Gradient()(3, np.ones((2, 3)))
    with pytest.raises(xai.BackendError, match="No backend named 'caffe'"):
        xai.wrap(np.tanh, backend="caffe")


def test_superpixels_without_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    images = np.random.default_rng(0).random((1, 3, 8, 8))
    model = xai.wrap(lambda x: x.mean(axis=(1, 2, 3)), channel_axis=1)
    with pytest.raises(xai.BackendError, match=r"pip install 'xai-core\[images\]'"):
        xai.KernelSHAP(features=xai.Superpixels(4))(model, images)


def test_every_error_is_also_the_builtin_one():
    assert issubclass(xai.TargetError, ValueError)
    assert issubclass(xai.ModelError, TypeError)
    assert issubclass(xai.BackendError, ImportError)
    assert issubclass(xai.UnknownNameError, LookupError)


def test_a_sklearn_classifier_is_a_model():
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 4)), rng.integers(0, 3, size=80)
    fitted = linear_model.LogisticRegression().fit(x, y)
    found = xai.Occlusion()(fitted, x[:5], target=1)
    same = xai.Occlusion()(fitted.predict_proba, x[:5], target=1)
    assert np.array_equal(found.values, same.values)
    hidden = x[:5].copy()
    hidden[:, 2] = 0.0
    expected = fitted.predict_proba(x[:5])[:, 1] - fitted.predict_proba(hidden)[:, 1]
    np.testing.assert_allclose(found.values[:, 2], expected)
