"""Axioms: planted models with known answers, literal restatements, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import array_api_strict
import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strict import second_device, strict_model

import xai_core as xai
from xai_core import metrics
from xai_core.attribution.base import Attribution, Explainer
from xai_core.metrics import axioms

RNG = np.random.default_rng(0)
WEIGHTS = np.where(np.arange(12) < 6, np.array([1.0, -2.0, 0.5, -1.0, 3.0, -0.5] * 2), 0.0)
X = RNG.normal(size=(3, 12))
FIRST, SECOND = RNG.normal(size=(6, 9)) / 2, RNG.normal(size=(9, 4))
TABLE = RNG.normal(size=(5, 6))


def linear(x):
    return (x @ WEIGHTS)[:, None]


def net(x):
    return np.tanh(x @ FIRST) @ SECOND


def told(values, inputs, **more):
    return xai.Explanation(values, inputs, 0, None, np.zeros(len(values)), channel_axis=1, **more)


def differentiable(function):
    """A model of NumPy arrays with gradients, by complex steps."""
    return strict_model(function, np, channel_axis=1)


# Completeness


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [0.0, 1e4])
def test_w_times_x_is_complete_and_what_is_a_thousandth_off_is_not(dtype, bias):
    x, weights = X.astype(dtype), WEIGHTS.astype(dtype)
    model = lambda x: (x @ weights)[:, None] + x.dtype.type(bias)  # noqa: E731
    values = x * weights
    found = metrics.Completeness()(model, told(values, x))
    assert found.tolist() == [1, 1, 1]
    np.testing.assert_allclose(found.details["change"], values.astype(float).sum(axis=1), atol=1e-2 if bias else 1e-5)
    if not bias:
        off = values.copy()
        off[1] += 0.002 * np.abs(values[1].sum()) / 12
        found = metrics.Completeness()(model, told(off, x))
        assert found.tolist() == [1, 0, 1]
        np.testing.assert_allclose(found.details["gap"][1], 0.002 * np.abs(values[1].sum()), rtol=1e-3)
        assert metrics.Completeness(tolerance=0.003)(model, told(off, x)).tolist() == [1, 1, 1]
        assert metrics.Completeness(tolerance=0.001)(model, told(off, x)).tolist() == [1, 0, 1]


def test_default_tolerance_is_that_of_the_coarser_dtype():
    """A gap of 1e-5 of the score is rounding in float32, and none in float64."""
    off = X * WEIGHTS
    off[:, 0] += 1e-5 * np.abs(linear(X)[:, 0])
    assert metrics.Completeness()(linear, told(off, X)).tolist() == [0, 0, 0]
    assert metrics.Completeness()(linear, told(off.astype("float32"), X)).tolist() == [1, 1, 1]


def test_completeness_takes_the_baseline_of_the_explainer():
    baseline = RNG.normal(size=6)
    complete = metrics.Completeness(tolerance=1e-9)
    e = xai.KernelSHAP(baseline=baseline)(net, TABLE, target=1)
    found = complete(net, e)
    assert found.tolist() == [1] * 5
    assert found.rows == (5 + 5, 0)
    np.testing.assert_allclose(found.details["change"], net(TABLE)[:, 1] - net(baseline[None])[0, 1], atol=1e-12)
    assert replace(complete, baseline=0.0)(net, e).tolist() == [0] * 5
    assert complete(net, replace(e, explainer=None)).tolist() == [0] * 5
    assert replace(complete, baseline=baseline)(net, replace(e, explainer=None)).tolist() == [1] * 5


def test_completeness_averages_over_the_background():
    data = RNG.normal(size=(7, 6))
    e = xai.ExactSHAP(background=data)(net, TABLE, target=2)
    found = metrics.Completeness(tolerance=1e-9)(net, e)
    assert found.tolist() == [1] * 5
    assert found.rows == (5 + 35, 0)
    np.testing.assert_allclose(found.details["change"], net(TABLE)[:, 2] - net(data)[:, 2].mean(), atol=1e-12)
    alone = metrics.Completeness(background=data, tolerance=1e-9)(net, replace(e, explainer=None))
    np.testing.assert_allclose(alone.details["gap"], found.details["gap"], atol=1e-12)


def test_completeness_counts_features_once():
    """FeatureAblation repeats the value of a feature at each of its elements."""
    labels = np.array([0, 0, 1, 1, 1, 2] * 2)
    e = xai.FeatureAblation(features=labels)(linear, X, target=0)
    assert not np.allclose(e.values.sum(axis=1), linear(X)[:, 0])
    assert metrics.Completeness()(linear, e).tolist() == [1, 1, 1]


def test_a_zero_map_is_complete_where_the_score_does_not_change():
    model = lambda x: 0 * x[:, :1] + np.where(np.abs(x[:, :1]) > 0, 2.0, 2.0)  # noqa: E731
    assert metrics.Completeness()(model, told(np.zeros_like(X), X)).tolist() == [1, 1, 1]
    assert metrics.Completeness()(linear, told(np.zeros_like(X), X)).tolist() == [0, 0, 0]


def test_rounding_of_large_values_that_cancel_is_no_gap():
    x = np.ones((1, 12), dtype="float32")
    values = np.array([[1e7, -1e7] * 6], dtype="float32")
    values[0, 0] += 2.0  # two steps of these numbers
    model = lambda x: x[:, :1] * 0 + x[:, 1:2] * 0  # noqa: E731
    assert metrics.Completeness()(model, told(values, x)).tolist() == [1]


# NonSensitivity


@pytest.mark.parametrize("step", [1, 2, 3, 5, 12, 40])
def test_half_of_the_features_dead(step):
    """With negative weights, and whatever the number of features that are replaced together."""
    metric = metrics.NonSensitivity(features_in_step=step)
    found = metric(linear, told(X * WEIGHTS, X))
    assert found.tolist() == [0, 0, 0]
    assert found.details["dead"].tolist() == [6, 6, 6]
    # All have values though six are dead; one of the six that matter has.
    found = metric(linear, told(np.ones_like(X), X))
    assert found.tolist() == found.details["spurious"].tolist() == [6, 6, 6]
    one = np.where(np.arange(12) == 1, X, 0.0)
    found = metric(linear, told(one, X))
    assert found.tolist() == found.details["missed"].tolist() == [5, 5, 5]
    both = np.where((np.arange(12) == 1) | (np.arange(12) == 8), X, 0.0)
    assert metric(linear, told(both, X)).tolist() == [6, 6, 6]
    assert metric(linear, told(np.zeros_like(X), X)).tolist() == [6, 6, 6]


def test_dead_features_take_few_rows_together():
    """Live ones one draw, dead ones four; in steps of six all live ones are in one group and all dead in the other."""
    e = told(X * WEIGHTS, X)
    assert metrics.NonSensitivity(samples=4)(linear, e).rows == (3 * (1 + 12 + 3 * 6), 0)
    assert metrics.NonSensitivity(samples=4, features_in_step=6)(linear, e).rows == (3 * (1 + 2 + 3 + 6), 0)


def test_features_that_matter_only_sometimes_are_found_by_more_samples():
    """A feature that acts where another is negative, which it is not at x: swaps of one feature alone cannot find it."""
    x = np.abs(X)
    model = lambda x: (x[:, 0] + np.maximum(x[:, 1] - 2 * x[:, 1].max() - 1, 0) + np.maximum(-x[:, 2], 0))[:, None]  # noqa: E731
    values = np.zeros_like(x)
    values[:, [0, 2]] = 1
    few, many = (metrics.NonSensitivity(samples=n)(model, told(values, x), seed=1) for n in (1, 32))
    assert many.details["spurious"].tolist() == [0, 0, 0]
    assert few.details["spurious"].sum() > 0


def test_results_do_not_depend_on_others_in_the_batch():
    def gated(x):
        return (np.where(x[:, 0] > 0.3, x[:, 1], 0.0) * 2 + x[:, 2])[:, None]

    metric = metrics.NonSensitivity(features_in_step=4, samples=2)
    whole = metric(gated, told(np.ones_like(X), X))
    alone = [float(metric(gated, told(np.ones((1, 12)), X[i : i + 1]), index=i)[0]) for i in range(3)]
    assert whole.tolist() == alone
    for size in (1, 5):
        assert metric(xai.wrap(gated, batch_size=size), told(np.ones_like(X), X)).tolist() == alone


def test_channels_that_cancel_are_values():
    """Of a pixel with weights 1 and -1 and equal channels the values sum to zero, and yet the score depends on it."""
    x = np.ones((2, 2, 3, 3))
    signs = np.array([1.0, -1.0])[None, :, None, None] * (np.arange(9).reshape(3, 3) < 4)
    model = xai.wrap(lambda x: (x * signs).sum(axis=(1, 2, 3))[:, None], channel_axis=1)
    found = metrics.NonSensitivity()(model, told(x * signs, x))
    assert found.tolist() == [0, 0]
    assert found.details["dead"].tolist() == [5, 5]


def test_replacements_from_data_for_token_ids_and_frames():
    ids = RNG.integers(0, 9, size=(2, 5))
    table = RNG.normal(size=9)
    model = lambda ids: table[ids[:, :3]].sum(axis=1)[:, None]  # noqa: E731
    values = np.where(np.arange(5) < 3, 1.0, 0.0) * np.ones((2, 1))
    metric = metrics.NonSensitivity(background=RNG.integers(0, 9, size=(40, 5)))
    assert metric(model, told(values, ids)).tolist() == [0, 0]
    with pytest.raises(xai.IntegerInputError, match="background"):
        metrics.NonSensitivity()(model, told(values, ids))
    frame = pandas.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]})
    data = pandas.DataFrame({"a": [3.0, 4.0, 5.0], "b": ["x", "y", "z"]})
    of_frame = lambda f: f["a"].to_numpy()[:, None]  # noqa: E731
    values = frame.assign(b=[0.0, 1.0])
    assert metrics.NonSensitivity(background=data)(of_frame, told(values, frame)).tolist() == [0, 1]
    with pytest.raises(xai.IntegerInputError, match="background"):
        metrics.NonSensitivity()(of_frame, told(values, frame))


def test_a_constant_sample_is_replaced_by_something_else():
    for value in (0.0, 5.0):
        x = np.full((1, 12), value)
        assert metrics.NonSensitivity()(linear, told(WEIGHTS[None], x)).tolist() == [0]


# InputInvariance


@pytest.mark.parametrize("shift", [1.0, -0.25])
def test_gradients_are_invariant_and_their_products_with_the_input_are_not(shift):
    metric = metrics.InputInvariance(shift=shift)
    model = differentiable(net)
    found = metric(model, xai.Gradient()(model, TABLE, target=1))
    np.testing.assert_allclose(found, 0, atol=1e-12)
    e = xai.InputXGradient()(model, TABLE, target=1)
    slopes = e.values / TABLE
    after = slopes * (TABLE + shift)
    norms = [np.linalg.norm(part, axis=1) for part in (after - e.values, e.values, after)]
    np.testing.assert_allclose(metric(model, e), norms[0] / np.maximum(norms[1], norms[2]), atol=1e-9)
    assert metric(model, e).rows == (5 + 5, 5)


def test_a_reference_that_is_shifted_too_is_invariant():
    """Ablation to zero is not, to the mean of the sample it is."""
    for method, limit in ((xai.FeatureAblation(), None), (xai.FeatureAblation(baseline=xai.Mean()), 1e-12)):
        found = metrics.InputInvariance()(net, method(net, TABLE, target=1))
        assert np.all(found < limit) if limit else np.all(found > 0.1)


def test_the_model_stays_and_compiled_code_is_not_mixed_up():
    e = xai.FeatureAblation()(net, TABLE, target=1)
    before = net(TABLE)
    found = metrics.InputInvariance(shift=2.0)(net, e)
    np.testing.assert_array_equal(net(TABLE), before)
    again = xai.FeatureAblation()(net, TABLE, target=1)
    np.testing.assert_array_equal(again.values, e.values)
    np.testing.assert_array_equal(metrics.InputInvariance(shift=2.0)(net, e), found)
    assert np.all(metrics.InputInvariance(shift=0.5)(net, e).values != found.values)


def test_random_numbers_are_those_of_the_explanation():
    """A method that samples is invariant though it never draws the same twice."""
    method = xai.FeaturePermutation(samples=3)
    e = method(net, TABLE, target=1, seed=5)
    for seed in (None, 9):
        np.testing.assert_allclose(metrics.InputInvariance()(net, e, seed=seed), 0, atol=1e-12)


def test_frames_of_numbers_are_shifted_and_others_refused():
    frame = pandas.DataFrame(TABLE, columns=list("abcdef"))
    model = lambda f: net(f[list("abcdef")].to_numpy())  # noqa: E731
    metric = metrics.InputInvariance()
    e = xai.FeatureAblation()(model, frame, target=1)
    of_arrays = metric(net, xai.FeatureAblation()(net, TABLE, target=1))
    np.testing.assert_allclose(metric(model, e), of_arrays, atol=1e-12)
    mixed = frame.assign(a=["x", "y", "x", "z", "x"])
    removed = xai.FeatureAblation(background=mixed)
    of_mixed = lambda f: f[["b"]].to_numpy()  # noqa: E731
    with pytest.raises(xai.IntegerInputError, match="floating"):
        metric(of_mixed, removed(of_mixed, mixed, target=0))
    with pytest.raises(xai.IntegerInputError, match="floating"):
        metric(lambda x: x * 1.0, xai.FeatureAblation()(lambda x: x * 1.0, np.array([[1, 2]]), target=0))


def test_integers_beside_are_left_alone():
    both = lambda x: net(x["numbers"]) + x["kind"][:, :1]  # noqa: E731
    given_ = {"numbers": TABLE, "kind": np.ones((5, 1), dtype=int)}
    e = xai.FeaturePermutation()(both, given_, target=1)
    np.testing.assert_allclose(metrics.InputInvariance()(both, e), 0, atol=1e-12)


# Linearity


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Squared(Explainer, abstract=True):
    """Not linear: what a removed feature costs, squared."""

    differentiates = False

    def attribute(self, problem: Any) -> Attribution:
        found = xai.FeatureAblation().attribute(problem)
        return Attribution([value**2 for value in found.values])


@pytest.mark.parametrize("factors", [{}, {"a": -0.5, "b": 2.0}, {"a": 1.0, "b": -1.0}])
def test_methods_that_are_linear_and_one_that_is_not(factors):
    metric = metrics.Linearity(**factors)
    a, b = factors.get("a", 1.0), factors.get("b", 1.0)
    e = xai.FeatureAblation()(net, TABLE)
    found = metric(net, e)
    np.testing.assert_allclose(found, 0, atol=1e-12)
    order = np.argsort(-net(TABLE), axis=1)
    np.testing.assert_array_equal(found.details["other"], order[:, 1])
    assert len({tuple(pair) for pair in order[:, :2]}) > 1  # several pairs of classes in one batch
    e = Squared()(net, TABLE)
    ablated = [
        np.stack([net(TABLE) - net(np.where(np.arange(6) == k, 0.0, TABLE)) for k in range(6)], axis=1)[i]
        for i in range(5)
    ]
    wanted = []
    for i in range(5):
        first, second = ablated[i][:, order[i, 0]], ablated[i][:, order[i, 1]]
        mixed, sides = (a * first + b * second) ** 2, (first**2, second**2)
        parts = abs(a) * np.linalg.norm(sides[0]) + abs(b) * np.linalg.norm(sides[1])
        wanted.append(np.linalg.norm(mixed - a * sides[0] - b * sides[1]) / max(np.linalg.norm(mixed), parts))
    np.testing.assert_allclose(metric(net, e), wanted, atol=1e-9)


def test_another_class_may_be_named():
    e = xai.FeatureAblation()(net, TABLE, target=1)
    found = metrics.Linearity(other=3)(net, e)
    np.testing.assert_allclose(found, 0, atol=1e-12)
    sampled = xai.FeaturePermutation(samples=2)(net, TABLE, target=1, seed=4)
    np.testing.assert_allclose(metrics.Linearity(other=3)(net, sampled, seed=8), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("metric", "target", "kind"),
    [
        (metrics.Linearity(other=1), 1, xai.OptionError),
        (metrics.Linearity(other=4), 1, xai.TargetError),
        (metrics.Linearity(), lambda s: s[:, 0], xai.TargetError),
    ],
)
def test_classes_that_cannot_be_mixed_are_refused(metric, target, kind):
    with pytest.raises(kind):
        metric(net, xai.FeatureAblation()(net, TABLE, target=target))


def test_one_output_or_many_axes_are_refused():
    with pytest.raises(xai.TargetError, match="classes"):
        metrics.Linearity()(linear, xai.FeatureAblation()(linear, X, target=0))
    deep = lambda x: net(x)[:, :, None] * np.ones(2)  # noqa: E731
    with pytest.raises(xai.TargetError, match="classes"):
        metrics.Linearity()(deep, xai.FeatureAblation()(deep, TABLE, target=(1, 0)))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=9))
def test_samples_are_mixed_in_few_rounds(pairs):
    own, partner = np.array(pairs).T
    rounds = list(axioms._rounds(own, partner, 5))
    assert sorted(row for _, rows, _ in rounds for row in rows) == list(range(len(pairs)))
    for some, rows, numbers in rounds:
        assert 1 <= len(some) <= 5
        assert [some[number] for number in numbers] == [pairs[row] for row in rows]
    assert len(rounds) == -(-len(set(pairs)) // 5)


# Symmetry


def symmetric(x):
    """0 and 3 are alike, and so are 1, 4 and 5; 2 is like none, 6 and 7 do nothing."""
    first, second = x[:, 0] + x[:, 3], x[:, 1] * x[:, 4] * x[:, 5]
    return np.stack([np.sin(first) + second + x[:, 2] ** 2, first * 2 + x[:, 2]], axis=1)


POINTS = RNG.normal(size=(3, 8))


def test_symmetric_features_are_found():
    e = xai.ExactSHAP()(symmetric, POINTS, target=0)
    found = metrics.Symmetry()(symmetric, e)
    # As neighbours: one pair, two of three, one of the dead.
    assert found.details["pairs"].tolist() == [4, 4, 4]
    np.testing.assert_allclose(found, 0, atol=1e-9)
    # By the other score 1, 4 and 5 do nothing either.
    found = metrics.Symmetry()(symmetric, xai.ExactSHAP()(symmetric, POINTS, target=1))
    assert found.details["pairs"].tolist() == [5, 5, 5]
    none = metrics.Symmetry()(net, xai.FeatureAblation()(net, TABLE, target=0))
    assert none.tolist() == none.details["pairs"].tolist() == [0] * 5
    # Scores one by one rule all pairs out; none is tried.
    assert none.rows[0] <= 5 * (1 + 2 * 6 + 9)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class InTurn(Explainer, abstract=True):
    """Not symmetric: what each feature adds to those before it."""

    differentiates = False

    def attribute(self, problem: Any) -> Attribution:
        x = problem.leaves[0]
        size = int(x.shape[1])
        steps = [problem.scores([x * (np.arange(size) < k)]) for k in range(size + 1)]
        return Attribution([problem.xp.stack([after - before for before, after in pairwise(steps)], axis=1)])


def test_a_method_that_takes_features_in_turn_is_not_symmetric():
    e = InTurn()(symmetric, POINTS, target=0)
    found = metrics.Symmetry(pairs=((0, 3), (1, 5)))(symmetric, e)
    wanted = []
    for x in POINTS:
        even = x.copy()
        even[[0, 3]] = even[[0, 3]].mean()
        even[[1, 5]] = even[[1, 5]].mean()
        steps = [symmetric(np.where(np.arange(8) < k, even, 0.0)[None])[0, 0] for k in range(9)]
        parts = np.diff(steps)
        wanted.append(max(abs(parts[0] - parts[3]), abs(parts[1] - parts[5])) / np.abs(parts).max())
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert found.details["pairs"].tolist() == [2, 2, 2]
    assert np.all(metrics.Symmetry()(symmetric, e) > 0.01)
    assert metrics.Symmetry(pairs=((0, 3),))(symmetric, e).rows == (3 * (1 + 9), 0)


def test_groups_of_pairs_that_overlap_have_one_mean():
    assert axioms._groups([(0, 1), (2, 3), (1, 2), (5, 6)]) == [[0, 1, 2, 3], [5, 6]]
    e = xai.ExactSHAP()(symmetric, POINTS, target=0)
    np.testing.assert_allclose(metrics.Symmetry(pairs=((1, 4), (4, 5)))(symmetric, e), 0, atol=1e-9)
    # All members of a group are compared, whichever pairs hold it together.
    e = InTurn()(symmetric, POINTS, target=0)
    found = [metrics.Symmetry(pairs=pairs)(symmetric, e).values for pairs in (((0, 3), (3, 2)), ((0, 2), (2, 3)))]
    np.testing.assert_allclose(found[0], found[1], atol=1e-12)


def test_features_that_look_alike_one_by_one_are_swapped():
    """In x0 x2 + x1 x3 each alone does the same, and yet only 0 and 2 can be swapped, and 1 and 3."""
    model = lambda x: (x[:, 0] * x[:, 2] + x[:, 1] * x[:, 3])[:, None]  # noqa: E731
    e = xai.ExactSHAP()(model, POINTS[:, :4], target=0)
    found = metrics.Symmetry()(model, e)
    assert found.details["pairs"].tolist() == [2, 2, 2]
    np.testing.assert_allclose(found, 0, atol=1e-12)


def test_features_that_are_not_symmetric_have_other_values():
    e = xai.ExactSHAP()(symmetric, POINTS, target=0)
    # These two are not symmetric: values differ where inputs are made equal.
    assert np.all(metrics.Symmetry(pairs=((0, 2),))(symmetric, e) > 0.01)


def test_symmetry_of_pixels_with_their_channels():
    """A model that sums over pixels treats all alike, and one with weights treats those of equal weight alike."""
    x = RNG.normal(size=(2, 2, 2, 3))
    weights = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 2.0]])
    model = xai.wrap(lambda x: np.tanh((x[:, 0] - x[:, 1] ** 2) * weights).sum(axis=(1, 2))[:, None], channel_axis=1)
    found = metrics.Symmetry()(model, xai.FeatureAblation(features=xai.Patches(1))(model, x))
    assert found.details["pairs"].tolist() == [3, 3]
    np.testing.assert_allclose(found, 0, atol=1e-12)
    with pytest.raises(xai.OptionError, match="as many elements"):
        metrics.Symmetry(pairs=((0, 1),), features=np.array([[0, 0, 1], [2, 2, 2]]))(
            model, xai.FeatureAblation()(model, x)
        )
    with pytest.raises(xai.OptionError, match="0 to 5"):
        metrics.Symmetry(pairs=((0, 6),))(model, xai.FeatureAblation()(model, x))


def test_symmetry_does_not_depend_on_batch_size():
    e = InTurn()(symmetric, POINTS, target=0)
    whole = metrics.Symmetry()(symmetric, e)
    for size in (1, 7):
        again = metrics.Symmetry()(xai.wrap(symmetric, batch_size=size), e)
        np.testing.assert_allclose(again, whole, atol=1e-12)
        np.testing.assert_array_equal(again.details["pairs"], whole.details["pairs"])


# All


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: metrics.Completeness(tolerance=-1.0), "tolerance"),
        (lambda: metrics.NonSensitivity(samples=0), "samples"),
        (lambda: metrics.NonSensitivity(features_in_step=0), "features_in_step"),
        (lambda: metrics.NonSensitivity(score="odds"), "score"),
        (lambda: metrics.InputInvariance(shift=0.0), "shift"),
        (lambda: metrics.InputInvariance(shift=float("nan")), "shift"),
        (lambda: metrics.Linearity(a=0.0), "a"),
        (lambda: metrics.Linearity(other=-1), "other"),
        (lambda: metrics.Symmetry(pairs=((1, 1),)), "pairs"),
        (lambda: metrics.Symmetry(pairs=3), "pairs"),
        (lambda: metrics.Symmetry(samples=0), "samples"),
    ],
)
def test_options_out_of_range_are_refused(build, word):
    with pytest.raises(xai.OptionError, match=word):
        build()


def test_what_needs_the_explainer_or_the_model_says_so():
    e = xai.FeatureAblation()(net, TABLE, target=1)
    for metric in (metrics.InputInvariance(), metrics.Linearity(), metrics.Symmetry()):
        with pytest.raises(xai.OptionError, match="explain again"):
            metric(net, replace(e, explainer=None))
    for metric in (metrics.Completeness(), metrics.NonSensitivity(), metrics.Linearity()):
        with pytest.raises(xai.CapabilityError, match="model=None"):
            metric(None, e)
    wanted = {
        "Completeness": True,
        "NonSensitivity": False,
        "InputInvariance": False,
        "Linearity": False,
        "Symmetry": False,
    }
    found = [metric for metric in metrics.all_metrics().values() if metric.category == "axioms"]
    assert {metric.__name__: metric.higher_is_better for metric in found} == wanted


@pytest.mark.parametrize("device", [None, second_device()])
def test_in_strict_array_code(device):
    """No array method, no mixed dtypes, no array on another device than the model's."""
    xp = array_api_strict
    first, second = (xp.asarray(part, device=device) for part in (FIRST, SECOND))
    model = strict_model(lambda x: xp.tanh(x @ first) @ second, xp, device)
    e = xai.FeatureAblation()(net, TABLE, target=1)
    strict = replace(e, inputs=xp.asarray(TABLE, device=device))
    for metric in (
        metrics.Completeness(),
        metrics.NonSensitivity(features_in_step=2),
        metrics.InputInvariance(),
        metrics.Linearity(),
        metrics.Symmetry(),
    ):
        found = metric(model, strict)
        np.testing.assert_allclose(found, metric(net, e), atol=1e-9)
