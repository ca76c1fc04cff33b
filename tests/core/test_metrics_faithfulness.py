"""Metrics of faithfulness: planted answers, literal restatements of the papers, and what metrics and scores are."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import replace

import array_api_strict
import literal_metrics as literal
import numpy as np
import pandas
import pytest
import scipy.stats
from strict import second_device, strict_model

import xai_core as xai
from xai_core import metrics
from xai_core.metrics import correlations, imputation, information, statistics
from xai_core.metrics.base import metric_class
from xai_core.metrics.ground import PIXELS, open_ground
from xai_core.testing import assert_close

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.normal(size=(6, 9)) / 2, RNG.normal(size=(9, 3))
X, MAP = RNG.normal(size=(3, 6)), RNG.normal(size=(3, 6))
WEIGHTS = np.array([1.0, -2.0, 0.5, 0.25, 3.0, -0.2])
DATA = RNG.normal(size=(12, 6))
TARGET = 1


def net(x):
    return np.tanh(x @ FIRST) @ SECOND


def probabilities(x):
    raised = np.exp(net(x))
    return raised / raised.sum(axis=1, keepdims=True)


def linear(x):
    return (x @ WEIGHTS)[:, None]


def explained(x, values, target=TARGET, **more):
    """An explanation that says what it is told to."""
    return xai.Explanation(values, x, target, None, None, **more)


def pictures(shape=(3, 9, 7), seed=1, scale=1.0):
    """A model of images, signals or volumes, two of them, and their maps."""
    rng = np.random.default_rng(seed)
    weights = scale * rng.normal(size=(*shape, 2)) / 4
    model = xai.wrap(lambda x: np.tanh(np.tensordot(x, weights, axes=len(shape))), channel_axis=1)
    return model, rng.normal(size=(2, *shape)), rng.normal(size=(2, *shape))


def case(name):
    """Model, inputs and map, and the labels of single positions and of the automatic features, of one sample."""
    if name == "table":
        return xai.wrap(net), X, MAP, np.arange(6), np.arange(6)
    shape = {"image": (3, 9, 7), "signal": (2, 11)}[name]
    model, x, values = pictures(shape)
    places = np.arange(int(np.prod(shape[1:]))).reshape(shape[1:])
    if name == "signal":
        return model, x, values, np.broadcast_to(places, shape), np.broadcast_to(places, shape)
    tiles = (np.arange(9)[:, None] // 2) * 7 + np.arange(7)[None, :]
    return model, x, values, np.broadcast_to(places, shape), np.broadcast_to(tiles, shape)


def score_of(model, target=TARGET, turn=lambda outputs: outputs):
    call = model.anchor if hasattr(model, "anchor") else model
    return lambda row: float(turn(np.asarray(call(row[None])))[0, target])


def softmax(outputs):
    raised = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def ordered(values, by="sum", labels=None):
    """Features from the most relevant one; the values that are used here are all different."""
    if by == "mean":
        values = values / np.array([np.sum(labels == feature) for feature in range(len(values))])
    assert len(set(values.tolist())) == len(values)
    return np.argsort(-values).tolist()


@contextmanager
def opened(model, explanation, metric, seed=None):
    with open_ground(model, explanation, metric, metric.scale, seed) as ground:
        yield ground


CASES = ["table", "image", "signal"]


# Curves


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("steps", [None, 4, 5, 1000])
def test_curves_equal_their_papers(name, steps):
    model, x, values, places, _ = case(name)
    explanation, score = explained(x, values), score_of(model)
    deletion = metrics.Deletion(steps=steps, baseline=0.3)(model, explanation)
    insertion = metrics.Insertion(steps=steps, baseline=0.3)(model, explanation)
    count = int(places.max()) + 1
    numbers = literal.counts(count, steps)
    np.testing.assert_allclose(deletion.at, np.array(numbers) / count)
    for i in range(len(x)):
        order = ordered(literal.feature_values(values[i], places, count))
        out = literal.deletion(score, x[i], places, order, 0.3, numbers)
        back = literal.insertion(score, x[i], places, order, 0.3, numbers)
        np.testing.assert_allclose(deletion.curve[i], out, atol=1e-12)
        np.testing.assert_allclose(insertion.curve[i], back, atol=1e-12)
        np.testing.assert_allclose(deletion[i], literal.trapezoid(out, deletion.at), atol=1e-12)
        np.testing.assert_allclose(insertion[i], literal.trapezoid(back, deletion.at), atol=1e-12)
    assert deletion.rows == (len(x) * len(numbers), 0)
    assert insertion.rows == (len(x) * len(numbers), 0)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("order", ["most", "least"])
def test_orders_of_curves(name, order):
    """Pixel flipping and regions, the most or the least relevant first."""
    model, x, values, places, tiles = case(name)
    explanation, score = explained(x, values), score_of(model)
    flipping = metrics.PixelFlipping(order=order, steps=None)(model, explanation)
    regions = metrics.RegionPerturbation(order=order, regions=5)(model, explanation)
    every = metrics.RegionPerturbation(order=order)(model, explanation)
    for i in range(len(x)):
        chosen = ordered(literal.feature_values(values[i], places, int(places.max()) + 1))
        chosen = chosen if order == "most" else chosen[::-1]
        curve = literal.deletion(score, x[i], places, chosen, 0.0, list(range(len(chosen) + 1)))
        np.testing.assert_allclose(flipping.curve[i], curve, atol=1e-12)
        np.testing.assert_allclose(flipping[i], literal.trapezoid(curve, flipping.at), atol=1e-12)
        chosen = ordered(literal.feature_values(values[i], tiles, int(tiles.max()) + 1))
        chosen = chosen if order == "most" else chosen[::-1]
        curve = literal.deletion(score, x[i], tiles, chosen, 0.0, list(range(len(chosen) + 1)))
        np.testing.assert_allclose(every[i], literal.area_over_perturbation(curve), atol=1e-12)
        np.testing.assert_allclose(regions[i], literal.area_over_perturbation(curve[:6]), atol=1e-12)
        np.testing.assert_allclose(regions.at, np.arange(6) / len(chosen))
    better = {"most": ("lower", "higher"), "least": ("higher", "lower")}[order]
    assert (flipping.metric.direction, regions.metric.direction) == better


@pytest.mark.parametrize("name", CASES)
def test_curves_over_regions_equal_their_papers(name, monkeypatch):
    """Selectivity, IROF and monotonicity, without scikit-image."""
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    model, x, values, _, tiles = case(name)
    explanation, score = explained(x, values), score_of(model)
    chance = score_of(model, turn=softmax)
    selectivity = metrics.Selectivity(baseline=0.1)(model, explanation)
    irof = metrics.IROF(score="probability")(model, explanation)
    monotonicity = metrics.Monotonicity()(model, explanation)
    count = int(tiles.max()) + 1
    numbers, at = list(range(count + 1)), np.arange(count + 1) / count
    for i in range(len(x)):
        sums = literal.feature_values(values[i], tiles, count)
        curve = literal.deletion(score, x[i], tiles, ordered(sums), 0.1, numbers)
        np.testing.assert_allclose(selectivity[i], literal.trapezoid(curve, at), atol=1e-12)
        axes = tuple(range(1, x.ndim - 1)) if x.ndim > 2 else (0,)
        mean = x[i].mean(axis=axes, keepdims=True)
        curve = literal.deletion(chance, x[i], tiles, ordered(sums, "mean", tiles), mean, numbers)
        np.testing.assert_allclose(irof[i], literal.irof(curve, at), atol=1e-12)
        curve = literal.insertion(score, x[i], tiles, ordered(sums)[::-1], 0.0, numbers)
        every, share = literal.monotonic(curve)
        assert (monotonicity[i], monotonicity.details["share"][i]) == (float(every), share)
        np.testing.assert_allclose(monotonicity.curve[i], curve, atol=1e-12)


def test_means_of_segments_of_different_size_order_irof():
    """Tiles at the border are smaller: what counts is the mean of their values, not the sum."""
    labels = np.array([0, 0, 0, 0, 1, 2])
    values = np.array([[1.0, 1.0, 1.0, 1.0, 3.0, 2.0]])
    x = np.array([[1.0, 1.0, 1.0, 1.0, 10.0, 5.0]])
    total = lambda x: x.sum(axis=1, keepdims=True)  # noqa: E731
    found = metrics.IROF(features=labels, baseline=0.0)(total, explained(x, values, 0))
    np.testing.assert_allclose(found.curve, [[1.0, 9 / 19, 4 / 19, 0.0]])
    by_sum = metrics.Selectivity(features=labels)(total, explained(x, values, 0))
    np.testing.assert_allclose(by_sum.curve, [[19.0, 15.0, 5.0, 0.0]])


def test_irof_segments_images_where_it_can():
    pytest.importorskip("skimage")
    model, x, values = pictures((3, 12, 12))
    found = metrics.IROF(score="probability")(model, explained(x, values))
    again = metrics.IROF(score="probability", features=xai.Superpixels())(model, explained(x, values))
    np.testing.assert_array_equal(found.values, again.values)
    tiles = metrics.IROF(score="probability", features=xai.Patches(2))(model, explained(x, values))
    assert np.abs(found.values - tiles.values).max() > 1e-4


STAIRS = np.array([4.0, 2.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("metric", "wanted"),
    [
        # Scores of 7, 3, 1, 0 and 0 while four features go.
        (metrics.Deletion(), (5 + 2 + 0.5) / 4),
        (metrics.PixelFlipping(), (5 + 2 + 0.5) / 4),
        (metrics.Selectivity(), (5 + 2 + 0.5) / 4),
        (metrics.IROF(baseline=0.0), 1 - (5 + 2 + 0.5) / 28),
        # The least relevant first: 7, 7, 6, 4, 0.
        (metrics.PixelFlipping(order="least"), (7 + 6.5 + 5 + 2) / 4),
        (metrics.RegionPerturbation(), (4 + 6 + 7 + 7) / 5),
        (metrics.RegionPerturbation(regions=2), (4 + 6) / 3),
        (metrics.RegionPerturbation(order="least"), (0 + 1 + 3 + 7) / 5),
        # Put in: 0, 4, 6, 7, 7.
        (metrics.Insertion(), (2 + 5 + 6.5 + 7) / 4),
        (metrics.Deletion(steps=2), ((7 + 1) / 2 + (1 + 0) / 2) / 2),
        (metrics.Monotonicity(), 1.0),
    ],
    ids=repr,
)
def test_a_staircase_by_hand(metric, wanted):
    stairs = lambda x: (x @ STAIRS)[:, None]  # noqa: E731
    np.testing.assert_allclose(metric(stairs, explained(np.ones((1, 4)), STAIRS[None], 0)), wanted)


def test_a_step_by_hand():
    """One as long as two of four features are there."""
    step = lambda x: (x.sum(axis=1, keepdims=True) >= 2) * 1.0  # noqa: E731
    explanation = explained(np.ones((1, 4)), np.array([[3.0, 2.0, 1.0, 0.0]]), 0)
    np.testing.assert_allclose(metrics.Deletion()(step, explanation), (1 + 1 + 0.5) / 4)
    np.testing.assert_allclose(metrics.Insertion()(step, explanation), (0.5 + 1 + 1) / 4)
    np.testing.assert_allclose(metrics.RegionPerturbation()(step, explanation), 2 / 5)


def test_monotonicity_is_zero_once_the_score_falls():
    x = np.ones((2, 4))
    fall = lambda x: (x @ np.array([4.0, 2.0, -1.0, 1.0]))[:, None]  # noqa: E731
    # Least relevant first: the third feature, which lowers the score, comes first, or second.
    found = metrics.Monotonicity()(fall, explained(x, np.array([[4.0, 2, -1, 1], [4.0, 2, 1, -1]]), 0))
    np.testing.assert_array_equal(found, [0.0, 0.0])
    np.testing.assert_allclose(found.details["share"], 0.75)
    flat = lambda x: 1 + (x @ np.array([4.0, 2.0, 0.0, 0.0]))[:, None]  # noqa: E731
    found = metrics.Monotonicity()(flat, explained(x, np.array([[4.0, 2, -1, 1], [1.0, 2, 0, 0]]), 0))
    np.testing.assert_array_equal(found, [1.0, 1.0])


def test_steps_within_rounding_do_not_count_as_falling():
    """A third is added and taken away again in another order: what is left is rounding."""
    x = np.ones((1, 4), dtype="float32")

    def model(x):
        return (np.float32(100) + x[:, :1] / 3) + np.float32(2e-5) * (x[:, 1:2] == 0)

    explanation = explained(x, np.array([[1.0, -1.0, -2.0, 0.0]], dtype="float32"), 0)
    np.testing.assert_array_equal(metrics.Monotonicity()(model, explanation), 1.0)
    far = lambda x: model(x) + np.float32(0.1) * (x[:, 1:2] == 0)  # noqa: E731
    np.testing.assert_array_equal(metrics.Monotonicity()(far, explanation), 0.0)


# Correlations


@pytest.mark.parametrize("name", CASES)
def test_correlations_over_subsets_equal_their_papers(name):
    model, x, values, places, _ = case(name)
    explanation, score, count = explained(x, values), score_of(model), int(places.max()) + 1
    sizes = (1, 2, count - 1)
    several = metrics.SensitivityN(sizes=sizes, samples=12, baseline=0.2)
    one = metrics.FaithfulnessCorrelation(samples=12, subset_size=3, baseline=0.2)
    found, single = several(model, explanation, seed=4), one(model, explanation, seed=4)
    seen = []
    with opened(model, explanation, several, 4) as ground:
        for size in (*sizes, 3):
            gone = correlations._subsets(ground, count, size, 12)[1]()
            columns = ground.chance_columns(PIXELS)
            seen.append([[np.flatnonzero(row[columns[i]]).tolist() for row in gone] for i in range(len(x))])
    for i in range(len(x)):
        sums = literal.feature_values(values[i], places, count)
        for number, subsets in enumerate(seen):
            assert all(len(subset) == (*sizes, 3)[number] for subset in subsets[i])
            wanted = literal.subset_correlation(score, x[i], places, sums, 0.2, subsets[i])
            got = single[i] if number == 3 else found.curve[i, number]
            np.testing.assert_allclose(got, wanted, atol=1e-10)
        np.testing.assert_allclose(found[i], found.curve[i].mean(), atol=1e-12)
    np.testing.assert_allclose(found.at, np.array(sizes) / count)
    # Samples have subsets of their own, and each feature its turn.
    assert seen[1][0] != seen[1][1]
    assert found.rows == (len(x) * 37, 0)
    assert single.rows == (len(x) * 13, 0)


def test_each_feature_is_in_a_random_subset_as_often():
    explanation, metric = explained(np.ones((1, 40)), np.ones((1, 40)), 0), metrics.FaithfulnessCorrelation()
    with opened(lambda x: x[:, :1], explanation, metric) as ground:
        gone = correlations._subsets(ground, 40, 10, 4000)[1]()
    np.testing.assert_array_equal(gone.sum(axis=1), 10)
    assert np.abs(gone.mean(axis=0) - 0.25).max() < 4.5 * np.sqrt(0.25 * 0.75 / 4000)
    together = (gone[:, :1] & gone[:, 1:]).mean(axis=0)
    assert np.abs(together - 10 * 9 / (40 * 39)).max() < 4.5 * np.sqrt(0.06 * 0.94 / 4000)


@pytest.mark.parametrize("name", CASES)
def test_correlations_over_features_equal_their_papers(name):
    model, x, values, places, tiles = case(name)
    explanation, score, count = explained(x, values), score_of(model), int(tiles.max()) + 1
    metric = metrics.MonotonicityCorrelation(samples=3)
    estimate = metrics.FaithfulnessEstimate(baseline=0.2)(model, explanation)
    found = metric(model, explanation, seed=2)
    with opened(model, explanation, metric, 2) as ground:
        fillings = [correlations._drawn(ground.problem, None, draw)[0] for draw in range(3)]
    for i in range(len(x)):
        sums = literal.feature_values(values[i], tiles, count)
        np.testing.assert_allclose(estimate[i], literal.estimate(score, x[i], tiles, sums, 0.2), atol=1e-10)
        own = [filling[i] for filling in fillings]
        wanted = literal.monotonicity_correlation(score, x[i], tiles, sums, own)
        np.testing.assert_allclose(found[i], wanted, atol=1e-10)
        assert x[i].min() <= np.min(own) < np.max(own) <= x[i].max()
    assert estimate.rows == (len(x) * (count + 1), 0)
    assert found.rows[0] == len(x) * (3 * count + 1)
    pixels = metrics.FaithfulnessEstimate(features=PIXELS)(model, explanation)
    sums = literal.feature_values(values[0], places, int(places.max()) + 1)
    np.testing.assert_allclose(pixels[0], literal.estimate(score, x[0], places, sums, 0.0), atol=1e-10)


def test_uncertainty_by_values_of_data():
    metric = metrics.MonotonicityCorrelation(samples=5, background=DATA)
    found = metric(net, explained(X, MAP), seed=3)
    with opened(net, explained(X, MAP), metric, 3) as ground:
        fillings = [correlations._drawn(ground.problem, DATA, draw)[0] for draw in range(5)]
    for i in range(3):
        own = [filling[i] for filling in fillings]
        rows = [int(np.flatnonzero((filling == DATA).all(axis=1))[0]) for filling in own]
        assert len(set(rows)) > 1
        wanted = literal.monotonicity_correlation(score_of(net), X[i], np.arange(6), MAP[i], own)
        np.testing.assert_allclose(found[i], wanted, atol=1e-10)


def test_sums_over_an_axis_are_those_of_numpy():
    rng = np.random.default_rng(0)
    for size in (1, 3, 7, 8, 40):
        for values, axis in ((rng.normal(size=(4, 5, size)), 2), (rng.normal(size=(4, size, 5)), 1)):
            np.testing.assert_array_equal(statistics.total(values, axis), values.sum(axis=axis, keepdims=True))


def test_ranks_of_equal_values_are_the_mean_of_theirs():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, size=(2, 50, 9)).astype(float)
    wanted = [scipy.stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(statistics.spearman(a, b), wanted, atol=1e-12)
    flat = np.ones_like(a)
    assert not statistics.spearman(a, flat).any()
    assert not statistics.spearman(flat, b).any()
    many = rng.normal(size=(2, 40, 1000))  # correlated on several cores, without and with a pair of equal numbers
    for _ in range(2):
        wanted = [scipy.stats.spearmanr(x, y).statistic for x, y in zip(*many, strict=True)]
        np.testing.assert_allclose(statistics.spearman(*many), wanted, atol=1e-12)
        many[1, 7, 3] = many[1, 7, 4]
    np.testing.assert_array_equal(statistics.average_ranks(np.array([3.0, 1.0, 3.0, 3.0])), [3, 1, 3, 3])
    # Few and many ties, ties across the ends of rows, and as many numbers as are ranked on several cores.
    for top, shape in ((3, (4, 5)), (2**40, (40, 1000)), (900, (3, 17, 1000)), (1, (40, 1000)), (5, (2**16,))):
        values = rng.integers(0, top, size=shape).astype(float)
        np.testing.assert_array_equal(statistics.average_ranks(values), scipy.stats.rankdata(values, axis=-1))
    # Sorted by digits: single precision of either sign and any size, both zeros; not so what has more digits or is large.
    wide = rng.normal(size=(4, 2000)) * 10.0 ** rng.integers(-40, 38, size=(4, 2000))
    single, tiny = wide.astype(np.float32).astype(float), 2.0**-149
    single[:, :200], single[:, 100:150], single[0, -5:] = 0.0, -0.0, [np.inf, -np.inf, tiny, -tiny, tiny]
    for values in (single, wide, np.where(wide > 1e30, 1e200 * wide, single)):
        np.testing.assert_array_equal(statistics.average_ranks(values), scipy.stats.rankdata(values, axis=-1))
    values = np.round(MAP)
    assert all(len(set(np.abs(row))) < 6 for row in values)
    metric = metrics.MonotonicityCorrelation(samples=3)
    with opened(net, explained(X, values), metric, 2) as ground:
        fillings = [correlations._drawn(ground.problem, None, draw)[0] for draw in range(3)]
    found = metric(net, explained(X, values), seed=2)
    for i in range(3):
        own = [filling[i] for filling in fillings]
        wanted = literal.monotonicity_correlation(score_of(net), X[i], np.arange(6), values[i], own)
        np.testing.assert_allclose(found[i], wanted, atol=1e-10)


def test_the_size_of_values_follows_how_uncertain_the_score_is_without():
    """Of a linear model `|w|`, as all columns are drawn from one range."""
    x = np.array([[1.0, -1.0, 0.5, 0.2, -0.3, 0.8]])
    metric = metrics.MonotonicityCorrelation(samples=2000)
    middle = x.mean()
    far = np.sqrt((x - middle) ** 2 + 1 / 3)
    assert metric(linear, explained(x, WEIGHTS * far, 0))[0] == pytest.approx(1.0)
    assert metric(linear, explained(x, -WEIGHTS * far, 0))[0] == pytest.approx(1.0)
    assert metric(linear, explained(x, 1 / (WEIGHTS * far), 0))[0] == pytest.approx(-1.0)


def moved(ground, noise, samples, part):
    """What draws of noise add to the first input, (batch, draws, ...)."""
    spread = ground.on_host(ground.spreads(noise)[0])[:, None]
    return np.concatenate([spread * drawn[0] for drawn, _ in ground.noisy(noise, samples, part)], axis=1)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("slopes", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_infidelity_equals_its_paper(name, slopes, scaled):
    model, x, values, places, _ = case(name)
    explanation, score, count = explained(x, values), score_of(model), int(places.max()) + 1
    filling = np.full(x.shape[1:], 0.2)
    options = {"samples": 9, "slopes": slopes, "scaled": scaled, "baseline": 0.2}
    removal, noise = metrics.Infidelity(**options), metrics.Infidelity(noise=0.3, **options)
    found, noisy = removal(model, explanation, seed=5), noise(model, explanation, seed=5)
    with opened(model, explanation, removal, 5) as ground:
        half = correlations.generator(5, count, correlations._DESIGN).random((9, count)) < 0.5
        columns = ground.chance_columns(PIXELS)
        moves = moved(ground, 0.3, 9, correlations.NOISE_PART)
    for i in range(len(x)):
        subsets = [np.flatnonzero(row[columns[i]]).tolist() for row in half]
        wanted = literal.infidelity_of_removal(score, x[i], places, values[i], slopes, filling, subsets, scaled)
        np.testing.assert_allclose(found[i], wanted, rtol=1e-9)
        wanted = literal.infidelity_of_noise(score, x[i], values[i], slopes, filling, moves[i], scaled)
        np.testing.assert_allclose(noisy[i], wanted, rtol=1e-6)
        assert np.std(moves[i]) == pytest.approx(0.3 * np.ptp(x[i]), rel=0.4)
    assert found.rows == noisy.rows == (len(x) * 10, 0)


def test_infidelity_tells_its_error():
    explanation = explained(X, MAP)
    runs = [metrics.Infidelity(samples=50)(net, explanation, seed=seed) for seed in range(60)]
    spread = np.std([run.values for run in runs], axis=0, ddof=1)
    said = np.sqrt(np.mean([run.details["error"] ** 2 for run in runs], axis=0))
    np.testing.assert_allclose(said / spread, 1.0, atol=0.35)


# A linear model, and what its contributions get


PLANTED = [
    metrics.SensitivityN(sizes=(1, 2, 3, 4, 5)),
    metrics.SensitivityN(),
    metrics.FaithfulnessCorrelation(),
    metrics.FaithfulnessEstimate(),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("place", ["numpy", "strict", "second device"])
def test_contributions_of_a_linear_model(place, dtype):
    near = {"float32": 1e-5, "float64": 1e-10}[dtype]
    x, weights = X.astype(dtype), WEIGHTS.astype(dtype)
    values = x * weights
    if place == "numpy":
        model, given = (lambda x: (x @ weights)[:, None]), x
    else:
        xp, device = array_api_strict, second_device() if place == "second device" else None
        kernel = xp.asarray(weights[:, None], device=device)
        model, given = strict_model(lambda x: xp.matmul(x, kernel), xp, device), xp.asarray(x, device=device)
    said = explained(given, values, 0)
    for metric in PLANTED:
        found = metric(model, said)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, 1.0, atol=near)
        if found.curve is not None:
            np.testing.assert_allclose(found.curve, 1.0, atol=near)
        np.testing.assert_allclose(metric(model, replace(said, values=-values)), -1.0, atol=near)
    size = np.abs(values).sum()
    slopes = replace(said, values=np.broadcast_to(weights, x.shape))
    for options in ({}, {"noise": 0.2}, {"scaled": True}, {"noise": 0.2, "scaled": True}):
        assert np.max(metrics.Infidelity(**options)(model, said)) < near * size**2
        assert np.max(metrics.Infidelity(slopes=True, **options)(model, slopes)) < near * size**2
        # What it is not: twice as much.
        twice = metrics.Infidelity(**options)(model, replace(said, values=2 * values))
        assert np.all(np.asarray(twice) < near * size**2) == options.get("scaled", False)


def test_infidelity_asks_the_explainer_whether_values_are_slopes():
    model = strict_model(lambda x: np.matmul(x, WEIGHTS[:, None]), np)
    for explainer in (xai.Gradient(), xai.SmoothGrad(samples=3), xai.InputXGradient(), xai.FeatureAblation()):
        found = explainer(model, X, target=0)
        for noise in (None, 0.1):
            np.testing.assert_allclose(metrics.Infidelity(noise=noise)(model, found), 0.0, atol=1e-12)
    gradient = xai.Gradient()(model, X, target=0)
    assert np.min(metrics.Infidelity(slopes=False)(model, gradient)) > 1e-3


def test_baselines_of_contributions():
    """From any other baseline, contributions are `w (x - baseline)`."""
    explanation = explained(X, (X - 0.7) * WEIGHTS, 0)
    for noise in (None, 0.1):
        np.testing.assert_allclose(metrics.Infidelity(baseline=0.7, noise=noise)(linear, explanation), 0, atol=1e-12)
    np.testing.assert_allclose(metrics.SensitivityN(baseline=0.7)(linear, explanation), 1.0, atol=1e-12)
    np.testing.assert_allclose(metrics.FaithfulnessEstimate(baseline=0.7)(linear, explanation), 1.0, atol=1e-12)
    assert np.max(metrics.FaithfulnessEstimate()(linear, explanation)) < 1 - 1e-3


def test_elements_that_are_the_baseline_already_have_no_share_to_move():
    """Whatever their values say: nothing can be divided by how far they are from it."""
    x = X.copy()
    x[:, 2] = 0.5
    values = (x - 0.5) * WEIGHTS
    odd = values.copy()
    odd[:, 2] = 7.0
    metric = metrics.Infidelity(noise=0.1, baseline=0.5)
    found = metric(linear, explained(x, odd, 0))
    np.testing.assert_array_equal(found, metric(linear, explained(x, values, 0)))
    # What is missed is what that element does to the score.
    moved = 0.1 * np.ptp(x, axis=1) * WEIGHTS[2]
    assert np.all(np.abs(found - moved**2) < 4 * found.details["error"])


# Maps that say nothing


def test_uniform_maps_have_no_correlation():
    correlate = [*PLANTED, metrics.MonotonicityCorrelation()]
    for constant in (0.0, 1.0, 0.1, -3.7e5):
        said = explained(X, np.full(X.shape, constant))
        for metric in correlate:
            np.testing.assert_array_equal(metric(net, said), 0.0)
    # As little where it is the score that does not change.
    for metric in correlate:
        np.testing.assert_array_equal(metric(lambda x: x[:, :2] * 0 + 0.1, explained(X, MAP)), 0.0)


def test_a_zero_map_gets_the_score_of_a_random_order():
    """Of an additive model the expected curve falls in a straight line, whatever the order of its columns."""
    x = np.array([[1.0, 1.0, 1.0, 1.0]])
    stairs = lambda x: (x @ STAIRS)[:, None]  # noqa: E731
    for values in (np.zeros((1, 4)), np.full((1, 4), 0.3)):
        said = explained(x, values, 0)
        curves, chance = [], []
        for seed in range(300):
            curves.append(metrics.Deletion()(stairs, said, seed=seed).curve[0])
            chance.append(metrics.PixelFlipping(order="random")(stairs, said, seed=seed).curve[0])
        for runs in (np.stack(curves), np.stack(chance)):
            error = runs.std(axis=0, ddof=1) / np.sqrt(len(runs))
            off = np.abs(runs.mean(axis=0) - 7 * np.array([1, 0.75, 0.5, 0.25, 0]))
            assert np.all(off[1:-1] < 4 * error[1:-1])
            # Each of the four comes first.
            np.testing.assert_array_equal(np.unique(runs[:, 1]), [3.0, 5.0, 6.0, 7.0])
    assert metrics.PixelFlipping(order="random").direction is None


def test_equal_values_come_in_random_order_of_sample_and_seed():
    x = np.ones((6, 30))
    values = np.repeat(np.array([[2.0, 1.0]]), 15, axis=1)
    values = np.broadcast_to(values, x.shape)
    metric, found = metrics.Deletion(), {}
    for seed in (0, 1):
        with opened(lambda x: x[:, :1], explained(x, values, 0), metric, seed) as ground:
            found[seed] = ground.order(explained(x, values, 0), PIXELS).ranks
    for ranks in found.values():
        # Larger values come first all the same.
        np.testing.assert_array_equal(np.sort(ranks[:, :15], axis=1), np.broadcast_to(np.arange(15), (6, 15)))
        assert len({tuple(row) for row in ranks.tolist()}) == 6
        assert np.any(np.diff(ranks[:, :15], axis=1) < 0, axis=1).all()
    assert np.any(found[0] != found[1], axis=1).all()


def test_maps_that_say_nothing_leave_nothing():
    for constant in (0.0, 2.0):
        said = explained(X, np.full(X.shape, constant))
        found = metrics.AverageDrop(score="probability", baseline=0.4)(net, said)
        left = softmax(net(np.full(X.shape, 0.4)))[:, TARGET]
        whole = softmax(net(X))[:, TARGET]
        np.testing.assert_allclose(found, np.maximum(whole - left, 0) / whole, atol=1e-12)
    road = metrics.ROAD(noise=0.0)
    model, x, values = pictures()
    several = [road(model, explained(x, 0 * values), seed=seed).values for seed in range(30)]
    assert np.all(np.abs(np.mean(several, axis=0)) < 4 * np.std(several, axis=0) / np.sqrt(30))
    assert np.std(several, axis=0).min() > 0


# Weighted inputs and noise


@pytest.mark.parametrize("name", CASES)
def test_weighted_inputs_equal_their_papers(name):
    model, x, values, places, _ = case(name)
    score, count = score_of(model, turn=softmax), int(places.max()) + 1
    got = {
        kind: kind(score="probability", baseline=0.2)(model, explained(x, values))
        for kind in (metrics.AverageDrop, metrics.AverageIncrease, metrics.AverageGain)
    }
    parts = []
    for i in range(len(x)):
        left = score(literal.weighted(x[i], places, literal.feature_values(values[i], places, count), 0.2))
        parts.append((score(x[i]), left))
        wanted = (literal.average_drop, literal.average_increase, literal.average_gain)
        for found, formula in zip(got.values(), wanted, strict=True):
            np.testing.assert_allclose(found[i], formula(*parts[-1]), atol=1e-12)
            assert found.rows == (2 * len(x), 0)
    assert got[metrics.AverageDrop].metric.direction == "lower"


def test_weighted_inputs_by_hand():
    """Weights of 1, 1/2 and 0 leave 3 of a score of 9, or 9 of 3."""
    x, values = np.array([[1.0, 4.0, 4.0]]), np.array([[5.0, 4.0, 3.0]])
    total = lambda x: x.sum(axis=1, keepdims=True)  # noqa: E731
    np.testing.assert_allclose(metrics.AverageDrop()(total, explained(x, values, 0)), 6 / 9)
    np.testing.assert_array_equal(metrics.AverageIncrease()(total, explained(x, values, 0)), 0)
    percent = lambda x: np.abs(x.sum(axis=1, keepdims=True)) / 20  # noqa: E731
    other = explained(np.array([[8.0, 2.0, -7.0]]), values, 0)
    np.testing.assert_allclose(metrics.AverageGain()(percent, other), (9 - 3) / (20 - 3))
    np.testing.assert_array_equal(metrics.AverageDrop()(percent, other), 0)
    np.testing.assert_array_equal(metrics.AverageIncrease()(percent, other), 1)
    # Nothing can be gained on a probability of one, nor on one of a rounding more.
    for most in (1.0, np.float32(1) + np.finfo("float32").eps):
        sure = lambda x, most=most: np.where(x[:, :1] == 1, most, 0.5).astype("float32")  # noqa: E731
        np.testing.assert_array_equal(metrics.AverageGain()(sure, explained(x.astype("float32"), values, 0)), 0)


def test_prediction_gap_of_a_linear_model():
    """`sqrt(2 / pi) sigma |w_S|`: the mean distance of a normal number from zero."""
    said = explained(X, X * WEIGHTS, 0)
    sigma = 0.1 * np.ptp(X, axis=1)
    for kind, important in ((metrics.PGI, True), (metrics.PGU, False)):
        found = kind(samples=4000, share=0.34)(linear, said)
        for i in range(3):
            top = np.argsort(-np.abs(X[i] * WEIGHTS))[:2]
            chosen = np.isin(np.arange(6), top) == important
            wanted = np.sqrt(2 / np.pi) * sigma[i] * np.linalg.norm(WEIGHTS[chosen])
            assert abs(found[i] - wanted) < 4 * found.details["error"][i]
            assert found.details["error"][i] < 0.02 * wanted
        assert found.rows == (12003, 0)
        assert kind().direction == {True: "higher", False: "lower"}[important]


@pytest.mark.parametrize("name", CASES)
def test_prediction_gaps_equal_their_papers(name):
    model, x, values, places, _ = case(name)
    score, count = score_of(model), int(places.max()) + 1
    said = explained(x, values)
    important = metrics.PGI(samples=5, share=0.3, noise=0.2)(model, said, seed=1)
    rest = metrics.PGU(samples=5, share=0.3, noise=0.2)(model, said, seed=1)
    with opened(model, said, metrics.PGI(), 1) as ground:
        moves = moved(ground, 0.2, 5, metrics.masked.NOISE_PART)
    for i in range(len(x)):
        sums = np.abs(literal.feature_values(values[i], places, count))
        top = np.isin(places, np.argsort(-sums)[: round(0.3 * count)])
        np.testing.assert_allclose(important[i], literal.prediction_gap(score, x[i], top, moves[i]), rtol=1e-6)
        np.testing.assert_allclose(rest[i], literal.prediction_gap(score, x[i], ~top, moves[i]), rtol=1e-6)


def test_the_model_sees_inputs_and_one_changed_version_at_once():
    """And each once, with a callable target in two calls: it may hold an array of as many rows as there are samples."""
    sizes = []

    def model(x):
        sizes.append(len(x))
        return net(x)

    x = np.random.default_rng(4).normal(size=(5, 6))
    for metric in (metrics.AverageIncrease(), metrics.Completeness()):
        for target, calls in ((1, [10]), (lambda scores: scores[:, 1] * np.ones(5), [5, 5])):
            sizes.clear()
            found = metric(model, explained(x, x**2, target))
            assert sizes == calls
            assert found.rows == (10, 0)
            one_by_one = metric(xai.wrap(model, batch_size=1), explained(x, x**2, 1))
            np.testing.assert_array_equal(found, one_by_one)


def test_sufficiency_equals_its_paper():
    rng = np.random.default_rng(3)
    x, values = rng.normal(size=(40, 6)), rng.normal(size=(40, 6))
    values[7] = 0
    seen = set()
    for threshold in (0.1, 0.5, 1.0, 2.0):
        found = metrics.Sufficiency(threshold=threshold)(net, explained(x, values, 0))
        wanted = literal.sufficiency(values, net(x).argmax(axis=1), threshold)
        np.testing.assert_allclose(found, wanted)
        seen |= set(np.round(wanted, 3).tolist())
        assert found.rows == (40, 0)
    assert len(seen) > 10
    by_hand = np.array([[1.0, 0.0], [2.0, 0.1], [3.0, -0.1], [0.0, 1.0], [-1.0, 0.0]])
    classes = np.array([0, 0, 1, 1, 0])
    of_class = lambda x: np.eye(2)[x[:, 0].astype(int)]  # noqa: E731
    rows = np.stack([classes, classes], axis=1) * 1.0
    found = metrics.Sufficiency()(of_class, explained(rows, by_hand, 0))
    np.testing.assert_allclose(found, [0.5, 0.5, 0.0, 1.0, 1.0])
    np.testing.assert_array_equal(found.details["alike"], [2, 2, 2, 0, 0])


# ROAD


def masks(kind, shape, rng):
    if kind == "block":
        holes = np.zeros(shape, dtype=bool)
        holes[:, : round(0.8 * shape[1])] = True
        return holes
    if kind == "border":
        holes = np.zeros(shape, dtype=bool)
        holes[:, :2], holes[:, -2:], holes[:, :, :1], holes[:, :, -3:] = True, True, True, True
        return holes
    if kind == "none":
        return np.zeros(shape, dtype=bool)
    if kind == "all but one":
        holes = np.ones(shape, dtype=bool)
        holes[:, 3, 2] = False
        return holes
    return rng.random(size=shape) < float(kind)


@pytest.mark.parametrize("kind", ["0.1", "0.5", "0.9", "block", "border", "none", "all but one"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("channel", "sides"), [(1, (14, 11)), (-1, (14, 11)), (1, (6, 11))])
@pytest.mark.parametrize("narrow", [None, 0])
def test_pixels_are_filled_in_as_their_sparse_system_says(kind, dtype, channel, sides, narrow, monkeypatch):
    if narrow is not None:
        monkeypatch.setattr(imputation, "_NARROW", narrow)
    rng = np.random.default_rng(5)
    images, holes = rng.normal(size=(3, *sides, 2)), masks(kind, (3, *sides), rng)
    x = np.moveaxis(images, -1, channel).astype(dtype)
    model = xai.wrap(lambda x: x.reshape(len(x), -1)[:, :1], channel_axis=channel)
    with opened(model, explained(x, x, 0), metrics.ROAD()) as ground:
        found = imputation.imputed(ground.problem, x, np.expand_dims(holes, channel))
    assert found.dtype == x.dtype
    back = np.moveaxis(found, channel, -1)
    near = {"float32": 1e-4, "float64": 1e-8}[dtype]
    for i in range(3):
        np.testing.assert_allclose(back[i], literal.imputed(images[i], holes[i]), atol=near)
        np.testing.assert_array_equal(back[i][~holes[i]], images[i][~holes[i]].astype(dtype))


def test_many_images_and_large_ones_are_filled_in_alike(monkeypatch):
    rng = np.random.default_rng(6)
    images, holes = rng.normal(size=(19, 1, 12, 97)), rng.random(size=(19, 1, 12, 97)) < 0.6
    wide = np.concatenate([images, rng.normal(size=(19, 1, 86, 97))], axis=2)
    gone = np.concatenate([holes, rng.random(size=(19, 1, 86, 97)) < 0.6], axis=2)
    model = xai.wrap(lambda x: x.reshape(len(x), -1)[:, :1], channel_axis=1)
    taken = []
    kept = imputation._by_gradients
    monkeypatch.setattr(imputation, "_by_gradients", lambda *given: taken.append(given) or kept(*given))
    for x, where in ((images, holes), (images[:, :, :1], holes[:, :, :1]), (wide, gone)):
        with opened(model, explained(x, x, 0), metrics.ROAD()) as ground:
            found = imputation.imputed(ground.problem, x, where)
        for i in (0, 8, 18):
            np.testing.assert_allclose(found[i, 0], literal.imputed(x[i, 0, ..., None], where[i, 0])[..., 0], atol=1e-8)
    assert len(taken) == 1


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_small_images_are_filled_in_in_double_precision(dtype):
    rng = np.random.default_rng(8)
    images, holes = rng.normal(size=(2, 3, 9, 8)).astype(dtype), rng.random(size=(2, 9, 8)) < 0.7
    found = imputation._eliminated(images, holes)
    for i in range(2):
        wanted = literal.imputed(np.moveaxis(images[i], 0, -1).astype("float64"), holes[i])
        np.testing.assert_allclose(np.moveaxis(found[i], 0, -1), wanted, atol=1e-12)


def test_long_images_are_filled_in_fewer_together(monkeypatch):
    rng = np.random.default_rng(9)
    x, holes = rng.normal(size=(7, 1, 5, 40)), rng.random(size=(7, 1, 5, 40)) < 0.6
    together = []
    kept = imputation._eliminated
    monkeypatch.setattr(
        imputation, "_eliminated", lambda images, gone: together.append(len(images)) or kept(images, gone)
    )
    with opened(
        xai.wrap(lambda x: x.reshape(len(x), -1)[:, :1], channel_axis=1), explained(x, x, 0), metrics.ROAD()
    ) as ground:
        whole = imputation.imputed(ground.problem, x, holes)
        assert together == [7]
        for room, sizes in ((3 * 40 * 25, [3, 3, 1]), (0, [1] * 7)):
            together.clear()
            monkeypatch.setattr(imputation, "_KEPT", room)
            np.testing.assert_allclose(imputation.imputed(ground.problem, x, holes), whole, rtol=1e-12)
            assert sorted(together, reverse=True) == sizes


@pytest.mark.parametrize("order", ["most", "least", "combined"])
def test_road_equals_its_paper(order):
    model, x, values = pictures()
    score = score_of(model)
    found = metrics.ROAD(percentages=(20, 50, 80), order=order, noise=0.0)(model, explained(x, values))
    for i in range(2):
        rank = np.argsort(np.argsort(-values[i].sum(axis=0).reshape(-1))).reshape(9, 7)
        ends = []
        for share in (20, 50, 80):
            number = round(share / 100 * 63)
            image = np.moveaxis(x[i], 0, -1)
            both = [np.moveaxis(literal.imputed(image, holes), -1, 0) for holes in (rank < number, rank >= 63 - number)]
            most, least = map(score, both)
            ends.append({"most": most, "least": least, "combined": (least - most) / 2}[order])
        np.testing.assert_allclose(found.curve[i], ends, atol=1e-8)
        np.testing.assert_allclose(found[i], np.mean(ends), atol=1e-8)
    np.testing.assert_allclose(found.at, [0.2, 0.5, 0.8])
    assert found.rows == (2 * (1 + 3 * (2 if order == "combined" else 1)), 0)
    assert found.metric.direction == {"most": "lower", "least": "higher", "combined": "higher"}[order]


def test_road_adds_noise_to_filled_pixels_alone():
    _, x, values = pictures((2, 40, 30))
    rows = []

    def record(images):
        rows.append(images.copy())
        return images.reshape(len(images), -1)[:, :1]

    metrics.ROAD(percentages=(50,), order="most", noise=0.3)(xai.wrap(record, channel_axis=1), explained(x, values, 0))
    noisy = rows[-1]
    rows.clear()
    metrics.ROAD(percentages=(50,), order="most", noise=0.0)(xai.wrap(record, channel_axis=1), explained(x, values, 0))
    off = noisy - rows[-1]
    holes = np.broadcast_to(
        np.argsort(np.argsort(-values.sum(axis=1).reshape(2, -1))).reshape(2, 1, 40, 30) < 600, x.shape
    )
    np.testing.assert_array_equal(off[~holes], 0)
    assert off[holes].std() == pytest.approx(0.3, rel=0.05)
    assert len(np.unique(off[holes])) == holes.sum()


# Information


@pytest.mark.parametrize("channels", [1, 3])
def test_information_curves_equal_their_paper(channels):
    pytest.importorskip("PIL")
    rng = np.random.default_rng(2)
    x, values = rng.normal(size=(3, channels, 16, 20)), rng.normal(size=(3, channels, 16, 20))
    kernel = np.stack([x[0] / 40, -x[1] / 40, x[2] / 40], axis=-1)
    call = lambda images: np.tensordot(images, kernel, axes=3)  # noqa: E731
    model, shares = xai.wrap(call, channel_axis=1), (0.01, 0.1, 0.3, 0.6)
    blur = lambda images: 0.1 * images + 0.02  # noqa: E731
    dull = blur(x)
    target = np.array([0, 1, 2])
    soft = metrics.SoftmaxInformationCurve(shares=shares, baseline=blur)(model, explained(x, values, target))
    exact = metrics.AccuracyInformationCurve(shares=shares, baseline=blur)(model, explained(x, values, target))
    for i in range(3):
        rank = np.argsort(np.argsort(-values[i].sum(axis=0).reshape(-1))).reshape(16, 20)
        shown = [np.where(rank < round(share * 320), x[i], dull[i]) for share in (0, *shares, 1)]
        sizes = [literal.information(np.moveaxis(each, 0, -1), x[i].min(), x[i].max()) for each in shown]
        outputs = call(np.stack(shown))
        area, curve = literal.information_curve(softmax(outputs)[:, target[i]].tolist(), sizes)
        np.testing.assert_allclose(soft.curve[i], curve, atol=1e-9)
        np.testing.assert_allclose(soft[i], area, atol=1e-9)
        hits = (outputs.argmax(axis=1) == target[i]).astype(float)
        area, curve = literal.information_curve(hits.tolist(), sizes)
        np.testing.assert_allclose(exact.curve[i], curve, atol=1e-9)
        np.testing.assert_allclose(exact[i], area, atol=1e-9)
    # The image that its own class is against cannot be judged.
    assert np.isnan(soft.values).tolist() == [False, True, False]
    assert soft.rows == (3 * 6, 0)


def test_information_curves_of_scores_and_sizes_that_rise_and_fall(monkeypatch):
    """Also with several shares of as much information, at either end too."""
    rng = np.random.default_rng(4)
    shares, differ = (0.1, 0.2, 0.3, 0.5, 0.6, 0.8, 0.9), 0
    for _ in range(20):
        scores, sizes = rng.normal(size=101), rng.integers(0, 12, size=9)
        scores[0], scores[100], sizes[0], sizes[-1] = -0.5, 0.5, 2, 8
        model = xai.wrap(lambda x, s=scores: s[x.sum(axis=(1, 2, 3)).astype(int)][:, None], channel_axis=1)
        monkeypatch.setattr(information._InformationCurve, "_sizes", lambda *_, z=sizes: z[None].astype(float))
        said = explained(np.ones((1, 1, 10, 10)), rng.normal(size=(1, 1, 10, 10)), 0)
        found = metrics.SoftmaxInformationCurve(shares=shares, baseline=0.0, score=None)(model, said)
        reached = [scores[round(100 * share)] for share in (0, *shares, 1)]
        area, curve = literal.information_curve(reached, sizes.tolist())
        np.testing.assert_allclose(found.curve[0], curve, atol=1e-12)
        np.testing.assert_allclose(found[0], area, atol=1e-12)
        differ += np.any(np.diff(reached) < 0) and np.any(np.diff(sizes) < 0)
    assert differ == 20


# Which score


@pytest.mark.parametrize(
    ("score", "turn"),
    [
        (None, lambda z: z),
        ("probability", softmax),
        ("log_probability", lambda z: np.log(softmax(z))),
        ("accuracy", lambda z: (z == z.max(axis=1, keepdims=True)) * 1.0),
        (np.square, np.square),
    ],
)
@pytest.mark.parametrize("target", [None, 2, [0, 2, 1]])
def test_scores_are_what_they_are_called(score, turn, target):
    explanation = xai.FeatureAblation()(net, X, target=target)
    found = metrics.Deletion(score=score, baseline=0.1)(net, explanation)
    classes = net(X).argmax(axis=1) if target is None else np.broadcast_to(target, (3,))
    for i in range(3):
        # The class stays that of the input, whatever is predicted later.
        own = score_of(net, classes[i], turn)
        curve = literal.deletion(own, X[i], np.arange(6), ordered(explanation.values[i]), 0.1, list(range(7)))
        np.testing.assert_allclose(found.curve[i], curve, atol=1e-12)


def test_a_single_output_is_a_logit():
    found = metrics.Deletion(score="probability")(linear, explained(X, X * WEIGHTS, 0))
    np.testing.assert_allclose(found.curve[:, 0], 1 / (1 + np.exp(-linear(X)[:, 0])))
    found = metrics.Deletion(score="accuracy")(linear, explained(X, X * WEIGHTS, 0))
    np.testing.assert_array_equal(found.curve[:, 0], linear(X)[:, 0] > 0)


def test_targets_of_any_kind():
    contrast = lambda scores: scores[:, 0] - scores[:, 1]  # noqa: E731
    found = metrics.Deletion()(net, explained(X, MAP, contrast))
    both = [metrics.Deletion()(net, explained(X, MAP, target)).values for target in (0, 1)]
    np.testing.assert_allclose(found, both[0] - both[1], atol=1e-12)
    deep = lambda x: net(x)[:, None, :]  # noqa: E731
    np.testing.assert_allclose(metrics.Deletion()(deep, explained(X, MAP, (0, 1))), both[1], atol=1e-12)


# Inputs of any kind


@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_several_inputs(form):
    """A picture and a table: features of both are ordered together."""
    _, pictures_, map_ = pictures((1, 3, 3))
    kernel = np.random.default_rng(9).normal(size=(1, 3, 3, 3))
    put = (lambda a, b: {"image": a, "row": b}) if form == "dict" else (lambda a, b: (a, b))

    def both(x):
        image, row = (x["image"], x["row"]) if form == "dict" else x
        return np.tanh(np.tensordot(image, kernel, axes=3) + net(row))

    x, values = put(pictures_, X[:2]), put(map_, MAP[:2])
    found = metrics.Deletion(steps=None)(xai.wrap(both, channel_axis=1), explained(x, values))
    flat = lambda row: float(both(put(row[None, :9].reshape(1, 1, 3, 3), row[None, 9:]))[0, TARGET])  # noqa: E731
    for i in range(2):
        row = np.concatenate([pictures_[i].reshape(-1), X[i]])
        order = ordered(np.concatenate([map_[i].reshape(-1), MAP[i]]))
        curve = literal.deletion(flat, row, np.arange(15), order, 0.0, list(range(16)))
        np.testing.assert_allclose(found.curve[i], curve, atol=1e-12)
    for metric in (metrics.Infidelity(), metrics.Infidelity(noise=0.1), metrics.PGI(), metrics.AverageIncrease()):
        assert np.isfinite(metric(xai.wrap(both, channel_axis=1), explained(x, values))).all()


def test_tokens():
    """Values of an embedding are summed for each token; noise and weights are refused."""
    ids = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    table = np.random.default_rng(0).normal(size=(10, 2))
    model = lambda x: table[x].sum(axis=1)  # noqa: E731
    values = np.random.default_rng(1).normal(size=(2, 5, 7))
    found = metrics.Deletion()(model, explained(ids, values, layer="embedding"))
    summed = metrics.Deletion()(model, explained(ids, values.sum(axis=-1)))
    np.testing.assert_array_equal(found.curve, summed.curve)
    for i in range(2):
        score = lambda row: float(model(row.astype(int)[None])[0, TARGET])  # noqa: E731
        curve = literal.deletion(score, ids[i], np.arange(5), ordered(values[i].sum(-1)), 0, list(range(6)))
        np.testing.assert_allclose(found.curve[i], curve, atol=1e-12)
    contributions = explained(ids, (table[ids] - table[0])[..., TARGET])
    np.testing.assert_allclose(metrics.Infidelity()(model, contributions), 0, atol=1e-12)
    for metric in (metrics.PGI(), metrics.Infidelity(noise=0.1), metrics.MonotonicityCorrelation()):
        with pytest.raises(xai.IntegerInputError):
            metric(model, contributions)
    with pytest.raises(xai.OptionError, match="whole numbers"):
        metrics.AverageDrop()(model, contributions)


def test_a_map_of_one_channel_counts_once():
    model, x, _ = pictures()
    one = np.random.default_rng(7).normal(size=(2, 1, 9, 7))
    spread = explained(x, np.broadcast_to(one / 3, x.shape))
    for metric in (
        metrics.Deletion(),
        metrics.Infidelity(samples=20),
        metrics.Infidelity(samples=20, noise=0.1),
        metrics.FaithfulnessEstimate(),
        metrics.ROAD(),
        metrics.AverageDrop(score="probability"),
        metrics.PGI(samples=4),
    ):
        np.testing.assert_allclose(metric(model, explained(x, one)), metric(model, spread), rtol=1e-9)


def test_frames():
    frame = pandas.DataFrame(X, columns=list("abcdef"))
    model = lambda x: net(x.to_numpy())  # noqa: E731
    explanation = xai.FeatureAblation()(model, frame, target=TARGET)
    plain = explained(X, explanation.values.to_numpy())
    for metric in (metrics.Deletion(), metrics.Infidelity(noise=0.1), metrics.PGI(), metrics.FaithfulnessCorrelation()):
        np.testing.assert_allclose(metric(model, explanation), metric(net, plain), rtol=1e-9)
    kinds = pandas.DataFrame({"kind": ["a", "b", "c"], "size": [1.0, -2.0, 3.0]})
    price = lambda x: ((x["kind"] == "a") * 2.0 + 3 * x["size"]).to_numpy()[:, None]  # noqa: E731
    absent = {"kind": "b", "size": 0.0}
    worth = pandas.DataFrame({"kind": [2.0, 0.0, 0.0], "size": [3.0, -6.0, 9.0]})
    found = metrics.Deletion(baseline=absent)(price, explained(kinds, worth, 0))
    np.testing.assert_allclose(found.curve, [[5.0, 2.0, 0.0], [-6.0, -6.0, 0.0], [9.0, 0.0, 0.0]])
    np.testing.assert_allclose(metrics.Infidelity(baseline=absent)(price, explained(kinds, worth, 0)), 0, atol=1e-12)
    with pytest.raises(xai.BaselineError, match="kind"):
        metrics.Deletion()(price, explained(kinds, worth, 0))
    with pytest.raises(xai.CapabilityError, match="kind"):
        metrics.PGI(share=0.9)(price, explained(kinds, worth, 0))


def test_features_that_cover_some_elements():
    labels = np.array([0, 0, 1, 2, -1, -1])
    found = metrics.Deletion(features=labels)(net, explained(X, MAP))
    for i in range(3):
        sums = literal.feature_values(MAP[i], labels, 3)
        curve = literal.deletion(score_of(net), X[i], labels, ordered(sums), 0.0, [0, 1, 2, 3])
        np.testing.assert_allclose(found.curve[i], curve, atol=1e-12)


OWN = np.array([[0, 0, 1, 1, 2, 2], [0, 1, 2, 3, 4, 5], [1, 1, 1, 1, 0, 0]])
"""Features of which samples have three, six and two."""
OVER_OWN = [
    metrics.Deletion(features=OWN, steps=None),
    metrics.Insertion(features=OWN, steps=None),
    metrics.PixelFlipping(features=OWN, steps=None, order="least"),
    metrics.RegionPerturbation(features=OWN),
    metrics.RegionPerturbation(features=OWN, order="least"),
    metrics.Selectivity(features=OWN),
    metrics.IROF(features=OWN, score="probability"),
    metrics.Monotonicity(features=OWN),
    metrics.FaithfulnessEstimate(features=OWN),
    metrics.MonotonicityCorrelation(features=OWN),
    metrics.PGI(features=OWN, share=0.5),
    metrics.PGU(features=OWN, share=0.5),
]


@pytest.mark.parametrize(
    "metric", OVER_OWN, ids=lambda metric: f"{type(metric).__name__} {metric.options().get('order')}"
)
def test_samples_with_different_numbers_of_features(metric):
    """What a sample gets does not depend on how many features others have."""
    together = metric(net, explained(X, MAP))
    for i in range(3):
        alone = replace(metric, features=OWN[i : i + 1])(net, explained(X[i : i + 1], MAP[i : i + 1]), index=i)
        np.testing.assert_allclose(together[i], alone[0], atol=1e-12)
        for name, value in alone.details.items():
            np.testing.assert_allclose(together.details[name][i], value[0], atol=1e-12)


# All of them


METRICS = {
    "Deletion": metrics.Deletion(),
    "Deletion accuracy": metrics.Deletion(score="accuracy"),
    "Insertion": metrics.Insertion(baseline=xai.Mean()),
    "PixelFlipping": metrics.PixelFlipping(order="least", baseline=xai.Noise(0.5)),
    "PixelFlipping random": metrics.PixelFlipping(order="random"),
    "RegionPerturbation": metrics.RegionPerturbation(),
    "Selectivity": metrics.Selectivity(score="log_probability"),
    "IROF": metrics.IROF(score="probability", features=xai.Elements()),
    "Monotonicity": metrics.Monotonicity(),
    "SensitivityN": metrics.SensitivityN(samples=20),
    "FaithfulnessCorrelation": metrics.FaithfulnessCorrelation(samples=20),
    "FaithfulnessEstimate": metrics.FaithfulnessEstimate(),
    "MonotonicityCorrelation": metrics.MonotonicityCorrelation(samples=3),
    "MonotonicityCorrelation background": metrics.MonotonicityCorrelation(samples=3, background=DATA),
    "Infidelity": metrics.Infidelity(samples=20),
    "Infidelity slopes": metrics.Infidelity(samples=20, slopes=True, scaled=True),
    "Infidelity noise": metrics.Infidelity(samples=20, noise=0.2),
    "Infidelity noise slopes": metrics.Infidelity(samples=20, noise=0.2, slopes=True),
    "AverageDrop": metrics.AverageDrop(score="probability"),
    "AverageIncrease": metrics.AverageIncrease(),
    "AverageGain": metrics.AverageGain(score="probability"),
    "PGI": metrics.PGI(samples=9),
    "PGU": metrics.PGU(samples=9),
    "Sufficiency": metrics.Sufficiency(threshold=1.0),
}
IMAGE_METRICS = {
    "ROAD": metrics.ROAD(percentages=(20, 60)),
    "SoftmaxInformationCurve": metrics.SoftmaxInformationCurve(),
    "AccuracyInformationCurve": metrics.AccuracyInformationCurve(),
    "Infidelity": metrics.Infidelity(samples=20, noise=0.2),
    "Deletion": metrics.Deletion(baseline=xai.Blur(2.0)),
    "IROF": metrics.IROF(score="probability", features=xai.Patches(3)),
}


def test_every_metric_of_faithfulness_is_here():
    known = {type(metric) for metric in (*METRICS.values(), *IMAGE_METRICS.values())}
    assert {kind for kind in metrics.all_metrics().values() if kind.category == "faithfulness"} == known


BLURRED = np.array([1.0, 0.0])
"""Makes the first class the one of an image that shows nothing."""


def check_batches(metric, model, x, explanation):
    whole = metric(xai.wrap(model, channel_axis=1), explanation, seed=4)
    assert np.isfinite(whole).all()
    for size in (1, 7, 64):
        cut = metric(xai.wrap(model, batch_size=size, channel_axis=1), explanation, seed=4)
        np.testing.assert_allclose(cut, whole, atol=1e-10)
        if whole.curve is not None:
            np.testing.assert_allclose(cut.curve, whole.curve, atol=1e-10)
    if "batch" in metric.needs:
        return
    part = replace(explanation, inputs=x[1:], values=explanation.values[1:])
    late = metric(xai.wrap(model, channel_axis=1), part, seed=4, index=1)
    np.testing.assert_allclose(late, whole[1:], atol=1e-10)


@pytest.mark.parametrize("name", METRICS)
def test_batches_and_parts(name):
    check_batches(METRICS[name], net, X, explained(X, MAP))


@pytest.mark.parametrize("name", IMAGE_METRICS)
def test_batches_and_parts_of_images(name):
    _, x, values = pictures()
    kernel = np.stack([-x[0] - x[1], x[0] + x[1]], axis=-1) / 40
    check_batches(IMAGE_METRICS[name], lambda x: np.tensordot(x, kernel, axes=3) + BLURRED, x, explained(x, values))


RANDOM = [
    "PixelFlipping random",
    "SensitivityN",
    "FaithfulnessCorrelation",
    "MonotonicityCorrelation",
    "Infidelity",
    "Infidelity noise",
    "PGI",
    "PGU",
]


@pytest.mark.parametrize("name", RANDOM)
def test_seeds(name):
    metric = METRICS[name]
    runs = [metric(net, explained(X, MAP, seed=seed)).values for seed in (3, 3, 4)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.abs(runs[0] - runs[2]).max() > 1e-9
    np.testing.assert_array_equal(metric(net, explained(X, MAP), seed=3).values, runs[0])
    assert metric(net, explained(X, MAP), seed=3).seed == 3
    # Samples draw numbers of their own.
    twice = metric(net, explained(X[[0, 0]], MAP[[0, 0]]))
    assert twice[0] != twice[1]


@pytest.mark.parametrize("place", [None, "second"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", METRICS)
def test_strict_namespaces(name, place, dtype):
    """No more than the standard is used, and nothing is left on another device."""
    xp, device = array_api_strict, second_device() if place else None
    first, second = (xp.asarray(array.astype(dtype), device=device) for array in (FIRST, SECOND))
    metric = METRICS[name]
    if "background" in name:
        metric = replace(metric, background=DATA.astype(dtype))
    with array_api_strict.ArrayAPIStrictFlags(
        api_version="2024.12", boolean_indexing=False, data_dependent_shapes=False, enabled_extensions=()
    ):
        model = strict_model(lambda x: xp.matmul(xp.tanh(xp.matmul(x, first)), second), xp, device)
        found = metric(model, explained(xp.asarray(X.astype(dtype), device=device), MAP), seed=4)
    wanted = METRICS[name](net, explained(X, MAP), seed=4)
    assert_close(found.values, wanted.values, relative={"float32": 1e-5, "float64": 1e-10}[dtype])


@pytest.mark.parametrize("place", [None, "second"])
@pytest.mark.parametrize("name", IMAGE_METRICS)
def test_strict_images(name, place):
    xp, device = array_api_strict, second_device() if place else None
    _, x, values = pictures((3, 10, 8))
    weights = np.stack([-x[0] - x[1], x[0] + x[1]], axis=-1) / 40
    kernel, shift = xp.asarray(weights, device=device), xp.asarray(BLURRED, device=device)
    with array_api_strict.ArrayAPIStrictFlags(
        api_version="2024.12", boolean_indexing=False, data_dependent_shapes=False, enabled_extensions=()
    ):
        model = strict_model(lambda x: xp.tanh(xp.tensordot(x, kernel, axes=3)) + shift, xp, device, channel_axis=1)
        found = IMAGE_METRICS[name](model, explained(xp.asarray(x, device=device), values), seed=1)
    plain = xai.wrap(lambda x: np.tanh(np.tensordot(x, weights, axes=3)) + BLURRED, channel_axis=1)
    assert np.isfinite(found.values).all()
    assert_close(found.values, IMAGE_METRICS[name](plain, explained(x, values), seed=1).values, relative=1e-8)


@pytest.mark.parametrize("name", METRICS)
def test_explanations_are_left_as_they_are(name):
    x, values = X.copy(), MAP.copy()
    x.flags.writeable = values.flags.writeable = False
    explanation = explained(x, values)
    METRICS[name](net, explanation)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(values, MAP)
    assert explanation.inputs is x
    assert explanation.values is values


@pytest.mark.parametrize("name", METRICS)
def test_one_feature_and_one_sample(name):
    metric = METRICS[name]
    if "background" in name:
        metric = replace(metric, background=DATA[:, :1])
    found = metric(lambda x: np.concatenate([1 - x, np.exp(-x)], axis=1), explained(X[:1, :1], MAP[:1, :1]))
    assert found.shape == (1,)
    assert np.isfinite(found).all()


# What cannot be judged


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: metrics.Deletion(steps=0), "steps"),
        (lambda: metrics.Deletion(score="softmax"), "score"),
        (lambda: metrics.PixelFlipping(order="best"), "order"),
        (lambda: metrics.RegionPerturbation(order=None), "order"),
        (lambda: metrics.RegionPerturbation(regions=0), "regions"),
        (lambda: metrics.SensitivityN(sizes=(0, 2)), "sizes"),
        (lambda: metrics.SensitivityN(samples=1), "samples"),
        (lambda: metrics.FaithfulnessCorrelation(subset_size=0), "subset_size"),
        (lambda: metrics.MonotonicityCorrelation(samples=0), "samples"),
        (lambda: metrics.Infidelity(noise=0.0), "noise"),
        (lambda: metrics.Infidelity(samples=1), "samples"),
        (lambda: metrics.PGI(share=1.0), "share"),
        (lambda: metrics.PGU(noise=-1), "noise"),
        (lambda: metrics.PGU(samples=0), "samples"),
        (lambda: metrics.Sufficiency(threshold=3), "threshold"),
        (lambda: metrics.ROAD(percentages=(0, 10)), "percentages"),
        (lambda: metrics.ROAD(percentages=()), "percentages"),
        (lambda: metrics.ROAD(order="random"), "order"),
        (lambda: metrics.ROAD(noise=-0.1), "noise"),
        (lambda: metrics.SoftmaxInformationCurve(shares=(0.5, 1.0)), "shares"),
        (lambda: metrics.SensitivityN(sizes=(7,))(net, explained(X, MAP)), "7 of 6"),
        (lambda: metrics.FaithfulnessCorrelation(subset_size=7)(net, explained(X, MAP)), "7 of 6"),
        (lambda: metrics.IROF()(net, explained(X, MAP)), 'IROF\\(score="probability"\\)'),
        (lambda: metrics.AverageDrop()(net, explained(X, MAP)), 'AverageDrop\\(score="probability"\\)'),
        (lambda: metrics.AverageGain()(lambda x: x * 0 + 1.1, explained(X, MAP)), "a probability"),
        (lambda: metrics.ROAD()(net, explained(X, MAP)), "pixels of images"),
        (lambda: metrics.SoftmaxInformationCurve(baseline=0.0)(net, explained(X, MAP)), "three channels"),
        (lambda: metrics.Deletion(features=np.zeros(5, dtype=int))(net, explained(X, MAP)), "features"),
        (lambda: metrics.Deletion()(net, MAP), "judges an explanation"),
        (lambda: metrics.Deletion()(net, explained(X, MAP, "all")), "target='all'"),
        (lambda: metrics.Deletion()(net, explained(X, MAP[:, :5])), "no place in the inputs"),
        (lambda: metrics.PGI()(net, explained(X, np.ones((3, 9)), layer="hidden")), "at layer 'hidden'"),
        (lambda: metrics.Deletion()(net, explained(X, MAP[:2])), "no place in the inputs"),
        (lambda: metrics.Deletion()(net, explained(X, MAP), seed=-1), "seed"),
    ],
)
def test_options_are_checked(make, message):
    with pytest.raises(xai.OptionError, match=message):
        make()


def test_other_errors():
    with pytest.raises(xai.CapabilityError, match=re.escape("xai.Deletion()(model, explanation)")):
        metrics.Deletion()(None, explained(X, MAP))
    with pytest.raises(xai.TargetError, match="outside"):
        metrics.Deletion()(net, explained(X, MAP, 3))
    with pytest.raises(xai.TargetError, match="Probabilities"):
        metrics.Deletion(score="probability")(lambda x: net(x)[:, None, :], explained(X, MAP, (0, 1)))
    with pytest.raises(xai.BaselineError):
        metrics.Deletion(baseline=np.ones(5))(net, explained(X, MAP))
    with pytest.raises(xai.BaselineError, match="Blur"):
        metrics.SoftmaxInformationCurve()(net, explained(X, MAP))
    with pytest.raises(xai.NonFiniteError):
        metrics.Deletion()(lambda x: net(x) * np.nan, explained(X, MAP))
    model, x, values = pictures()
    with pytest.raises(xai.OptionError, match="pixel left"):
        metrics.ROAD(percentages=(99.9,))(model, explained(x, values))
    with pytest.raises(TypeError):
        metrics.Deletion(0.5)


@pytest.mark.parametrize(
    ("written", "near"), [("deletions", "deletion"), ("pixel flip", "pixel_flipping"), ("infidelty", "infidelity")]
)
def test_names_of_metrics(written, near):
    with pytest.raises(xai.UnknownNameError, match=f"did you mean.*{near}"):
        metric_class(written)


def test_metrics_by_name():
    for spelled in ("pixel_flipping", "PixelFlipping", "pixel-flipping", "pixelflipping", "Pixel Flipping"):
        assert metric_class(spelled) is metrics.PixelFlipping
    for name, kind in metrics.all_metrics().items():
        assert metric_class(name) is metric_class(kind.__name__) is kind
        assert kind.metric_name() == name
        assert kind.category in {
            "faithfulness",
            "robustness",
            "localisation",
            "complexity",
            "randomisation",
            "axioms",
        }
        assert set(kind.needs) <= {"model", "explainer", "masks", "gradient", "batch"}
        assert kind.higher_is_better in (True, False, None)
    assert metric_class("irof") is metrics.IROF
    assert not {name for name in metrics.all_metrics() if name.startswith("_")} | {"scored"} & set(
        metrics.all_metrics()
    )


def test_metrics_are_values():
    one = metrics.Deletion(steps=4, baseline=np.zeros(3))
    assert one == metrics.Deletion(steps=4, baseline=np.zeros(3))
    assert hash(one) == hash(metrics.Deletion(steps=4, baseline=np.zeros(3)))
    assert one != metrics.Deletion(steps=4, baseline=np.ones(3))
    assert one != metrics.Deletion(steps=5, baseline=np.zeros(3))
    assert metrics.Deletion() != metrics.Insertion()
    assert metrics.Deletion() != "Deletion()"
    assert len({metrics.Deletion(), metrics.Deletion(), metrics.Deletion(steps=3)}) == 2
    with pytest.raises(AttributeError):
        one.steps = 5
    assert replace(one, steps=7).steps == 7


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (metrics.Deletion(), "Deletion()"),
        (metrics.Deletion(baseline=float("0"), steps=32), "Deletion()"),
        (metrics.Deletion(steps=4), "Deletion(steps=4)"),
        (metrics.Deletion(features=xai.Patches(1)), "Deletion()"),
        (metrics.Deletion(features=xai.Patches(2)), "Deletion(features=Patches(size=2))"),
        (metrics.PGI(noise=float("0.1")), "PGI()"),
        (metrics.ROAD(percentages=tuple(range(10, 100, 10))), "ROAD()"),
        (metrics.ROAD(percentages=(5,)), "ROAD(percentages=(5))"),
        (metrics.AccuracyInformationCurve(), "AccuracyInformationCurve()"),
        (metrics.AccuracyInformationCurve(score=None), "AccuracyInformationCurve(score=None)"),
        (metrics.Infidelity(noise=0.1, slopes=True), "Infidelity(noise=0.1, slopes=True)"),
    ],
)
def test_metrics_say_what_is_not_the_default(metric, said):
    assert repr(metric) == said


def test_scores_are_an_array():
    found = metrics.Deletion()(net, explained(X, MAP))
    plain = found.values.copy()
    assert found.shape == plain.shape == (3,)
    assert (found.ndim, len(found), found.dtype) == (1, 3, np.float64)
    np.testing.assert_array_equal(np.asarray(found), plain)
    assert np.asarray(found, dtype="float32").dtype == np.float32
    copy = np.array(found)
    copy[0] = 99
    np.testing.assert_array_equal(found.values, plain)
    assert np.mean(found) == found.mean() == plain.mean()
    assert np.mean(found, axis=0, keepdims=True).shape == (1,)
    assert (np.sum(found), np.std(found), np.max(found)) == (plain.sum(), plain.std(), plain.max())
    np.testing.assert_array_equal(found + 1, plain + 1)
    np.testing.assert_array_equal(1 - found, 1 - plain)
    np.testing.assert_array_equal(found * found, plain**2)
    np.testing.assert_array_equal(np.abs(found), np.abs(plain))
    np.testing.assert_array_equal(-found, -plain)
    np.testing.assert_array_equal(found > 0, plain > 0)
    np.testing.assert_array_equal(found == plain, [True] * 3)
    np.testing.assert_array_equal(found[1:], plain[1:])
    np.testing.assert_array_equal(found[plain > 0], plain[plain > 0])
    assert list(found) == found.tolist() == plain.tolist()
    assert type(found.tolist()[0]) is float
    assert found.numpy() is found.values
    np.testing.assert_array_equal(np.stack([found, found]), np.stack([plain, plain]))
    assert repr(found).startswith("Scores(Deletion(), [")
    assert "lower is better, curve (3, 7), rows (21, 0)" in repr(found)
    assert "no direction" in repr(metrics.PixelFlipping(order="random")(net, explained(X, MAP)))
    assert "higher is better" in repr(metrics.PixelFlipping(order="least")(net, explained(X, MAP)))


def test_a_metric_shows_its_progress(monkeypatch):
    """One bar for all of its rows; within a table the bar is that of the table."""
    said = []

    class Bar:
        def __init__(self, name, total):
            said.append([name, 0, "open"])

        def update(self, rows):
            said[-1][1] += rows

        def close(self):
            said[-1][2] = "closed"

    monkeypatch.setattr("xai_core.metrics.ground.Progress", Bar)
    found = metrics.Deletion()(net, explained(X, MAP))
    assert said == [["Deletion", found.rows[0], "closed"]]
    with pytest.raises(xai.OptionError):
        metrics.IROF()(net, explained(X, MAP))
    assert said[1][2] == "closed"
    metrics.evaluate(net, explained(X, MAP), "deletion", progress=False)
    assert len(said) == 2


@pytest.mark.parametrize("size", [1, 2, 3, 4, 64])
@pytest.mark.parametrize("metric", [metrics.AverageDrop(score="probability"), metrics.Completeness()])
def test_inputs_and_changed_inputs_in_one_call_are_no_more_rows_than_asked_for(metric, size):
    rng = np.random.default_rng(7)
    weights, x = rng.normal(size=(6, 3)), rng.normal(size=(7, 6))
    rows = []

    def model(x):
        rows.append(len(x))
        return x @ weights

    said = explained(x, x * weights[:, 1], 1)
    whole = metric(xai.wrap(lambda x: x @ weights), said)
    found = metric(xai.wrap(model, batch_size=size), said)
    np.testing.assert_allclose(found.values, whole.values, rtol=1e-12)
    assert max(rows) == min(size - size % 2 or 1, 14)
    assert found.rows == whole.rows == (14, 0)


def test_who_knows_two_classes_is_not_asked_for_the_first():
    with opened(net, explained(X, MAP), metrics.Sufficiency(), 0) as ground:
        two, shape = ground.predicted(2)
        before = ground.work
        one, same = ground.predicted()
        assert ground.work == before
    np.testing.assert_array_equal(one, two[:, :1])
    assert shape == same
