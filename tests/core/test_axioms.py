"""The axioms that the methods here satisfy, on random networks and inputs.

Completeness, sensitivity, implementation invariance, linearity and dummy: Sundararajan et al. 2017, section 2 and 3.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strict import strict_model
from table import SEED, methods

import xai_core as xai
from xai_core.testing import Weights, assert_close, mlp, weights

seeds = st.integers(0, 10_000)
LINEAR_IN_MODEL = [m for m in methods() if not any(word in m.name for word in ("Square", "Var", "absolute", "Guided"))]
COMPLETE = {
    "IntegratedGradients": xai.IntegratedGradients(steps=40, baseline=0.25),
    "trapezoid": xai.IntegratedGradients(steps=2000, quadrature="trapezoid", baseline=xai.Mean()),
    "tolerance": xai.IntegratedGradients(steps=4, tolerance=1e-8, baseline=xai.Blur(1.0)),
}


def inputs(seed, rows=3):
    return np.random.default_rng(seed).normal(size=(rows, 6))


def net(seed):
    held = weights(dtype="float64", seed=seed)
    return lambda x: mlp(held, x)


@pytest.mark.parametrize("name", ["IntegratedGradients", "trapezoid"])
@given(seed=seeds)
def test_completeness(name, seed):
    """Values sum to the change of the score from the baseline, and `residual` is the gap that is left."""
    function, x = net(seed), inputs(seed + 1)
    explainer = COMPLETE[name]
    found = explainer(strict_model(function, np), x, target=1)
    start = np.broadcast_to(0.25 if name == "IntegratedGradients" else x.mean(axis=1, keepdims=True), x.shape)
    change = function(x)[:, 1] - function(start)[:, 1]
    np.testing.assert_allclose(found.values.sum(axis=1), change, atol=2e-6)
    np.testing.assert_allclose(found.residual, found.values.sum(axis=1) - change, atol=1e-12)


@given(seed=seeds)
def test_completeness_in_expectation(seed):
    """Expected Gradients over many draws: the gap falls, and `residual` states it against the mean background score."""
    function, x = net(seed), inputs(seed + 1)
    data = inputs(seed + 2, rows=4)
    found = xai.ExpectedGradients(background=data, samples=400)(strict_model(function, np), x, target=0)
    expected = function(x)[:, 0] - function(data)[:, 0].mean()
    np.testing.assert_allclose(found.residual, found.values.sum(axis=1) - expected, atol=1e-12)
    assert np.max(np.abs(found.residual)) < 0.05 * (1 + np.max(np.abs(expected)))


@given(seed=seeds, feature=st.integers(0, 5))
def test_sensitivity(seed, feature):
    """Where input and baseline differ in one feature and the scores differ, that feature gets all the difference."""
    function, x = net(seed), inputs(seed + 1)
    baseline = x.copy()
    baseline[:, feature] += 1.5
    model = strict_model(function, np)
    found = xai.IntegratedGradients(steps=40, baseline=baseline)(model, x, target=2).values
    change = function(x)[:, 2] - function(baseline)[:, 2]
    np.testing.assert_allclose(found[:, feature], change, atol=1e-7)
    assert np.all(np.delete(found, feature, axis=1) == 0)
    hidden = xai.Occlusion(window=1, baseline=baseline)(model, x, target=2).values
    np.testing.assert_allclose(hidden[:, feature], change, atol=1e-12)


@pytest.mark.parametrize("method", [m for m in methods() if m.name != "ExactSHAP features"], ids=str)
@given(seed=seeds, feature=st.integers(0, 5))
def test_dummy(method, seed, feature):
    """A feature that the model does not use gets nothing."""
    held = weights(dtype="float64", seed=seed)
    first = held.first.copy()
    first[feature] = 0.0
    unused = Weights(first, held.shift, held.second, held.bias)
    explainer = method.explainer
    if isinstance(explainer, xai.Occlusion):
        explainer = xai.Occlusion(window=1)
    found = explainer(strict_model(lambda x: mlp(unused, x), np), inputs(seed + 1), target=0, seed=SEED)
    # Sums over coalitions cancel to rounding, all else is zero as it is.
    rounding = 1e-14 * np.max(np.abs(found.values)) if "SHAP" in method.name else 0.0
    assert np.max(np.abs(found.values[:, feature])) <= rounding
    assert np.any(found.values != 0)


@pytest.mark.parametrize("method", methods(), ids=str)
@given(seed=seeds)
def test_implementation_invariance(method, seed):
    """Two networks that compute the same function: hidden units permuted, and signs moved from one layer to the next."""
    held = weights(dtype="float64", seed=seed)
    order = np.random.default_rng(seed).permutation(5)
    sign = np.where(np.arange(5) % 2, -1.0, 1.0)
    other = Weights(
        held.first[:, order] * sign, held.shift[order] * sign, sign[:, None] * held.second[order], held.bias
    )
    x = inputs(seed + 1)
    found = method.explainer(strict_model(lambda x: mlp(held, x), np), x, target=0, seed=SEED)
    same = method.explainer(strict_model(lambda x: mlp(other, x), np), x, target=0, seed=SEED)
    assert_close(same.values, found.values, relative=1e-11)


@pytest.mark.parametrize("method", LINEAR_IN_MODEL, ids=str)
@given(seed=seeds, a=st.floats(-2, 2), b=st.floats(-2, 2))
def test_linearity(method, seed, a, b):
    """The explanation of `a f + b g` is `a` times that of `f` plus `b` times that of `g`."""
    f, g, x = net(seed), net(seed + 1), inputs(seed + 2)
    if abs(a) + abs(b) < 1e-3:
        return

    def explained(function):
        return method.explainer(strict_model(function, np), x, target=0, seed=SEED).values

    expected = a * explained(f) + b * explained(g)
    assert_close(explained(lambda x: a * f(x) + b * g(x)), expected, relative=1e-8)


@pytest.mark.parametrize("method", methods(), ids=str)
@given(seed=seeds)
def test_a_linear_model_is_explained_exactly(method, seed):
    """`w . x`: every method has a known answer."""
    rng = np.random.default_rng(seed)
    w, x = rng.normal(size=6), rng.normal(size=(3, 6))
    found = method.explainer(strict_model(lambda x: (x @ w)[:, None], np), x, seed=SEED).values
    name = method.name
    if name.startswith(("SquareGrad", "VarGrad")) and name.endswith("IntegratedGradients"):
        return  # depends on the noise; its restatement is the oracle
    gradient = np.broadcast_to(w, x.shape)
    if name.startswith("SmoothGrad of I"):
        return
    expected = {
        "Gradient absolute": np.abs(gradient),
        "InputXGradient": w * x,
        "SquareGrad of Gradient": gradient**2,
        "VarGrad of Gradient": np.zeros_like(x),
        "Occlusion default": w * x,
    }.get(name)
    if name.startswith("IntegratedGradients"):
        expected = w * (x - 0.25)
    elif name in ("Gradient", "SmoothGrad of Gradient"):
        expected = gradient
    if expected is not None:
        np.testing.assert_allclose(found, expected, atol=1e-12)
