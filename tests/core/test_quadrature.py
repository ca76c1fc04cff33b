"""Quadrature rules and the adaptive Integrated Gradients."""

from __future__ import annotations

import math

import literal
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strict import strict_model

import xai_core as xai
from xai_core.attribution.quadrature import QUADRATURES, nested, quadrature
from xai_core.testing import assert_close, mlp, weights


@pytest.mark.parametrize("rule", QUADRATURES)
@given(steps=st.integers(1, 3000))
def test_weights_sum_to_one(rule, steps):
    nodes, factors = quadrature(rule, steps)
    assert abs(math.fsum(factors) - 1.0) <= 1e-15
    assert len(nodes) == len(factors) == steps
    assert np.all(np.diff(nodes) > 0)
    assert nodes[0] >= 0.0
    assert nodes[-1] <= 1.0


@pytest.mark.parametrize("rule", QUADRATURES)
@pytest.mark.parametrize("steps", [2, 3, 7, 32, 129])
def test_rules_are_those_of_the_textbook(rule, steps):
    nodes, factors = quadrature(rule, steps)
    expected_nodes, expected_factors = literal.nodes(rule, steps)
    np.testing.assert_allclose(nodes, expected_nodes, atol=2e-15)
    np.testing.assert_allclose(factors, expected_factors, atol=2e-15)


@given(degree=st.integers(0, 39), steps=st.integers(20, 60))
def test_gauss_legendre_is_exact_for_polynomials(degree, steps):
    nodes, factors = quadrature("gauss_legendre", steps)
    assert abs(float(factors @ nodes**degree) - 1.0 / (degree + 1)) < 1e-14


def _error(rule, steps):
    nodes, factors = quadrature(rule, steps)
    return abs(float(factors @ np.exp(nodes)) - (math.e - 1))


@pytest.mark.parametrize(("rule", "order"), [("trapezoid", 2), ("riemann_middle", 2), ("riemann_left", 1)])
def test_order_of_convergence(rule, order):
    # The trapezoid with n nodes has n - 1 intervals.
    first, second = (_error(rule, n + (rule == "trapezoid")) for n in (64, 128))
    assert 2**order * 0.98 < first / second < 2**order * 1.02


@pytest.mark.parametrize("rule", QUADRATURES)
@pytest.mark.parametrize("steps", [1, 2, 5, 8])
def test_nested_rules_hold_all_earlier_nodes(rule, steps):
    levels = nested(rule, steps, 300)
    assert len(levels) > 2
    seen = np.array([])
    for number, level in enumerate(levels):
        assert not set(np.round(level.nodes, 14)) & set(np.round(seen, 14)), "a node is evaluated twice"
        seen = np.concatenate([seen, level.nodes])
        assert len(seen) == level.total
        parts = [before.weights[number] for before in levels[: number + 1]]
        assert abs(math.fsum(np.concatenate(parts)) - 1.0) < 2e-15
        value = sum(float(w @ np.exp(before.nodes)) for w, before in zip(parts, levels[: number + 1], strict=True))
        allowed = {"riemann_left": 2.0, "riemann_right": 2.0}.get(rule, 1.0) / level.total
        assert abs(value - (math.e - 1)) < allowed


def _smooth():
    held = weights(dtype="float64", hidden=8)
    x = np.random.default_rng(2).normal(size=(6, 6))
    return strict_model(lambda x: mlp(held, x), np), x


def test_gauss_legendre_reaches_1e_10_in_20_steps():
    model, x = _smooth()
    assert np.max(np.abs(xai.IntegratedGradients(steps=20)(model, x).residual)) < 1e-10


def test_trapezoid_error_falls_with_the_square():
    model, x = _smooth()
    first, second = (
        np.abs(xai.IntegratedGradients(steps=n, quadrature="trapezoid")(model, x).residual) for n in (33, 65)
    )
    assert np.all((first / second > 3.6) & (first / second < 4.4))


@pytest.mark.parametrize("rule", QUADRATURES)
def test_tolerance_is_met_and_no_step_is_repeated(rule):
    model, x = _smooth()
    tolerance = 1e-2 if rule in ("riemann_left", "riemann_right") else 1e-5
    found = xai.IntegratedGradients(steps=4, quadrature=rule, tolerance=tolerance, max_rows=4097)(model, x, target=0)
    assert np.all(np.abs(found.residual) <= tolerance)
    exact = xai.IntegratedGradients(steps=60)(model, x, target=0)
    assert_close(found.values, exact.values, relative=30 * tolerance)


def test_tolerance_reuses_evaluations():
    """All samples at level L cost the nodes of level L, not the sum of all levels."""
    model, x = _smooth()
    found = xai.IntegratedGradients(steps=3, tolerance=1e-9)(model, x[:1], target=0)
    totals = [level.total for level in nested("gauss_legendre", 3, 1025)]
    assert found.rows[1] in totals
    assert found.rows[1] > totals[0]


def test_tolerance_raises_where_max_rows_do_not_suffice():
    model, x = _smooth()
    with pytest.raises(xai.ConvergenceError, match="max_rows"):
        xai.IntegratedGradients(steps=2, quadrature="riemann_left", tolerance=1e-9, max_rows=64)(model, x)


def test_each_sample_stops_by_itself():
    model, x = _smooth()
    easy = x.copy()
    easy[1:] *= 1e-3
    hard_alone = xai.IntegratedGradients(steps=3, tolerance=1e-8)(model, easy[:1], target=0)
    together = xai.IntegratedGradients(steps=3, tolerance=1e-8)(model, easy, target=0)
    assert together.rows[1] < hard_alone.rows[1] * len(x)
    assert_close(together.values[:1], hard_alone.values, relative=1e-12)
