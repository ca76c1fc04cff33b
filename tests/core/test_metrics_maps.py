"""Localisation and complexity: planted answers, what ties count, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as some

import xai_core as xai
from xai_core import metrics
from xai_core.metrics import localisation

RNG = np.random.default_rng(0)
MASK = np.zeros((2, 6, 5), dtype=bool)
MASK[0, 1:4, 2:4] = True
MASK[1, 5, 0] = True
LOCALISATION = (
    metrics.PointingGame(),
    metrics.TopKIntersection(k=1),
    metrics.RelevanceMassAccuracy(),
    metrics.RelevanceRankAccuracy(),
    metrics.AttributionLocalisation(),
    metrics.AUC(),
    metrics.Focus(),
    metrics.GridPointingGame(),
)


def told(values, inputs=None, channel_axis=1, **more):
    """An explanation with these values."""
    first = next(iter(values.values())) if isinstance(values, dict) else values
    first = first[0] if isinstance(values, tuple) else first
    score = np.zeros(len(first))
    given = values if inputs is None else inputs
    return xai.Explanation(values, given, 0, None, score, channel_axis=channel_axis, **more)


def spread(map_, channels=3):
    """A map over channels that sum to it."""
    rest = RNG.normal(size=(len(map_), channels - 1, *map_.shape[1:]))
    return np.concatenate([rest, (map_ - rest.sum(axis=1))[:, None]], axis=1)


# Localisation: planted


@pytest.mark.parametrize("metric", LOCALISATION, ids=repr)
def test_a_perfect_map_has_1_and_its_opposite_0(metric):
    found = metric(None, told(spread(MASK * 2.0)), masks=MASK)
    np.testing.assert_allclose(found, 1.0, atol=1e-12)
    assert found.rows == (0, 0)
    found = metric(None, told(spread(~MASK * 2.0)), masks=MASK)
    np.testing.assert_allclose(found, 0.0, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 3.0])
@pytest.mark.parametrize("metric", LOCALISATION, ids=repr)
def test_a_map_that_says_nothing_has_the_score_of_chance(metric, value):
    found = metric(None, told(np.full((2, 1, 6, 5), value)), masks=MASK)
    chance = [0.5, 0.5] if isinstance(metric, metrics.AUC) else [6 / 30, 1 / 30]
    np.testing.assert_allclose(found, chance, atol=1e-12)


def test_negative_values_alone_are_no_relevance():
    """Of shares of positive relevance; ranks still tell them apart."""
    lower = told(-spread(1.0 + ~MASK))
    for metric in (metrics.RelevanceMassAccuracy(), metrics.AttributionLocalisation(), metrics.Focus()):
        np.testing.assert_allclose(metric(None, lower, masks=MASK), [6 / 30, 1 / 30], atol=1e-12)
    for metric in (metrics.AUC(), metrics.RelevanceRankAccuracy(), metrics.PointingGame()):
        np.testing.assert_allclose(metric(None, lower, masks=MASK), 1.0, atol=1e-12)


ROW = np.array([[4.0, -1.0, 3.0, 0.0, 3.0, 1.0]])
FOUR = np.array([[False, True, True, False, False, True]])


@pytest.mark.parametrize(
    ("metric", "wanted"),
    [
        (metrics.PointingGame(), 0.0),
        (metrics.PointingGame(tolerance=1), 1.0),  # position 0 is next to 1
        (metrics.TopKIntersection(k=2), 0.25),  # 4 is outside; of two threes one is inside: half of one in two
        (metrics.TopKIntersection(k=3), 1 / 3),
        (metrics.TopKIntersection(k=0.5), 1 / 3),
        (metrics.TopKIntersection(k=3, concept_influence=True), 2 / 3),
        (metrics.RelevanceRankAccuracy(), 1 / 3),
        (metrics.RelevanceMassAccuracy(), 4 / 11),
        (metrics.RelevanceMassAccuracy(sign="absolute"), 5 / 12),
        (metrics.AttributionLocalisation(), 4 / 11),
        (metrics.AttributionLocalisation(weighted=True), 8 / 11),
        # Inside -1, 3, 1 against outside 4, 0, 3: 0, then 1 and a half, then 1 of nine.
        (metrics.AUC(), 2.5 / 9),
        (metrics.Focus(), 4 / 11),
        (metrics.GridPointingGame(), 4 / 11),
    ],
    ids=repr,
)
def test_by_hand(metric, wanted):
    np.testing.assert_allclose(metric(None, told(ROW), masks=FOUR), wanted, atol=1e-12)


def test_tolerance_is_a_distance_on_the_grid():
    """Against distances of all pairs of positions, in two and three dimensions."""
    for shape in ((9, 7), (4, 5, 6)):
        truth = RNG.random((3, *shape)) < 0.04
        truth[:, 0, 0] = True
        places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, len(shape))
        for radius in (0.5, 1.0, 1.5, 2.0, 3.3, 20.0):
            found = localisation._widened(truth, radius)
            for own, wide in zip(truth, found, strict=True):
                marked = places[own.reshape(-1)]
                apart = np.sqrt(((places[:, None] - marked[None]) ** 2).sum(axis=-1)).min(axis=1)
                np.testing.assert_array_equal(wide.reshape(-1), apart <= radius)


def test_pointing_game_with_tolerance_counts_near_hits():
    values = np.zeros((1, 1, 9, 9))
    values[0, 0, 8, 8] = 1.0
    truth = np.zeros((1, 9, 9))
    truth[0, 5, 4] = 1
    scores = [float(metrics.PointingGame(tolerance=t)(None, told(values), masks=truth)[0]) for t in (4.9, 5, 5.1)]
    assert scores == [0.0, 1.0, 1.0]


def test_chance_of_focus_and_grid_is_told():
    found = metrics.Focus()(None, told(spread(MASK * 1.0)), masks=MASK)
    np.testing.assert_allclose(found.details["chance"], [6 / 30, 1 / 30])


@given(some.arrays(np.float64, (1, 12), elements=st.integers(-5, 5)), st.integers(1, 11), st.randoms())
def test_order_of_positions_and_scale_do_not_matter(values, inside, random):
    """Permuted positions, and values times a number; integers make many ties."""
    truth = np.arange(12)[None] < inside
    order = list(range(12))
    random.shuffle(order)
    for metric in (*LOCALISATION, metrics.TopKIntersection(k=5)):
        found = metric(None, told(values), masks=truth)
        np.testing.assert_allclose(metric(None, told(values[:, order]), masks=truth[:, order]), found, atol=1e-12)
        np.testing.assert_allclose(metric(None, told(values * 1e-200), masks=truth), found, atol=1e-12)


@given(some.arrays(np.float64, (1, 10), elements=st.floats(-5, 5)), st.integers(1, 9))
def test_auc_is_a_probability_over_pairs(values, inside):
    truth = np.arange(10)[None] < inside
    pairs = values[0, :inside, None] - values[0, None, inside:]
    wanted = np.mean((pairs > 0) + 0.5 * (pairs == 0))
    np.testing.assert_allclose(metrics.AUC()(None, told(values), masks=truth), wanted, atol=1e-12)


# What maps and masks may look like


@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 3, 6, 5), 1), ((2, 6, 5, 3), -1), ((2, 1, 6, 5), 1), ((2, 6, 5, 1), -1)]
)
def test_channels_may_be_first_or_last_and_so_may_those_of_masks(shape, axis):
    values = RNG.normal(size=shape)
    metric = metrics.RelevanceMassAccuracy()
    positive = np.maximum(values.sum(axis=axis), 0)
    wanted = (positive * MASK).sum(axis=(1, 2)) / positive.sum(axis=(1, 2))
    for masks in (MASK, MASK.astype(int), MASK[:, None], MASK[..., None].astype("float32")):
        np.testing.assert_allclose(metric(None, told(values, channel_axis=axis), masks=masks), wanted, atol=1e-12)


def test_signals_volumes_and_tables():
    metric = metrics.AttributionLocalisation()
    for shape in ((2, 3, 8), (2, 2, 4, 3, 5)):
        values = RNG.normal(size=shape)
        truth = RNG.random((2, *shape[2:])) < 0.5
        positive = np.maximum(values.sum(axis=1), 0)
        axes = tuple(range(1, positive.ndim))
        wanted = (positive * truth).sum(axis=axes) / positive.sum(axis=axes)
        np.testing.assert_allclose(metric(None, told(values), masks=truth), wanted, atol=1e-12)
    table = np.array([[1.0, 3.0, -2.0]])
    np.testing.assert_allclose(metric(None, told(table), masks=np.array([[0, 1, 1]])), 0.75)
    frame = pandas.DataFrame(table, columns=["a", "b", "c"])
    masks = pandas.DataFrame([[False, True, True]], columns=["a", "b", "c"])
    np.testing.assert_allclose(metric(None, told(frame), masks=masks), 0.75)


def test_sequences_take_the_axis_that_fits_the_mask():
    """Of vectors in a row, PyTorch has them last and signals' channels first; the mask tells."""
    values = 0.2 + RNG.normal(size=(2, 4, 3)) * np.array([[[0.1]], [[1.0]]])
    metric = metrics.AttributionLocalisation()
    for axis, shape in ((2, (2, 4)), (1, (2, 3))):
        positive = np.maximum(values.sum(axis=axis), 0)
        truth = np.arange(shape[1])[None] < np.array([[1], [2]])
        wanted = (positive * truth).sum(axis=1) / positive.sum(axis=1)
        np.testing.assert_allclose(metric(None, told(values, channel_axis=1), masks=truth), wanted, atol=1e-12)


def test_numbers_of_an_embedding_are_summed_for_each_token():
    ids, values = np.array([[3, 1, 4, 1]]), RNG.normal(size=(1, 4, 8))
    positive = np.maximum(values.sum(axis=2), 0)
    truth = np.array([[True, False, True, False]])
    told_ = told(values, inputs=ids, layer="embedding")
    np.testing.assert_allclose(
        metrics.AttributionLocalisation()(None, told_, masks=truth), (positive * truth).sum() / positive.sum()
    )
    assert metrics.EffectiveComplexity()(None, told_).tolist() == [4.0]


def test_one_input_in_a_dict_is_one_map():
    found = metrics.PointingGame()(None, told({"image": spread(MASK * 1.0)}), masks={"image": MASK})
    assert found.tolist() == [1.0, 1.0]


# What is refused


def refused(kind, metric, values, masks, *words):
    with pytest.raises(kind) as caught:
        metric(None, told(values), masks=masks)
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize("metric", LOCALISATION, ids=repr)
def test_masks_that_do_not_fit_are_refused(metric):
    values, name = spread(MASK * 1.0), type(metric).__name__
    refused(xai.InputError, metric, values, MASK[:, :5], name, "(2, 5, 5)", "(2, 6, 5)")
    refused(xai.InputError, metric, values, MASK[:1], "(1, 6, 5)", "(2, 6, 5)")
    refused(xai.InputError, metric, values, np.repeat(MASK[:, None], 3, axis=1), "(2, 3, 6, 5)", "(2, 6, 5)")
    refused(xai.InputError, metric, values, MASK * 2, "zeros and ones")
    refused(xai.InputError, metric, values, np.where(MASK, np.nan, 0.0), "zeros and ones")
    refused(xai.InputError, metric, values, MASK.astype(str), "zeros and ones")
    refused(xai.InputError, metric, values, {"a": MASK, "b": MASK}, "one array")
    refused(xai.OptionError, metric, values, None, "masks=None", name)
    empty = MASK.copy()
    empty[1] = False
    refused(xai.InputError, metric, values, empty, "empty", "sample 1")


def test_full_masks_are_refused_where_there_must_be_something_beside():
    full = np.ones_like(MASK)
    for metric in LOCALISATION:
        if isinstance(metric, (metrics.AUC, metrics.Focus, metrics.GridPointingGame)):
            refused(xai.InputError, metric, spread(MASK * 1.0), full, "everything")
        else:
            np.testing.assert_allclose(metric(None, told(spread(MASK * 1.0)), masks=full), 1.0, atol=1e-12)


def test_several_inputs_are_refused_by_name_and_so_are_values_that_are_no_numbers():
    both = {"left": spread(MASK * 1.0), "right": spread(MASK * 1.0)}
    refused(xai.InputError, metrics.AUC(), both, MASK, "x['left'] of shape (2, 3, 6, 5)", "x['right']")
    broken = spread(MASK * 1.0)
    broken[0, 0, 0, 0] = np.nan
    refused(xai.NonFiniteError, metrics.AUC(), broken, MASK, "AUC")
    with pytest.raises(xai.NonFiniteError, match="Sparseness"):
        metrics.Sparseness()(None, told(broken))


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: metrics.PointingGame(tolerance=-1), "tolerance"),
        (lambda: metrics.PointingGame(tolerance=True), "tolerance"),
        (lambda: metrics.TopKIntersection(k=0), "k"),
        (lambda: metrics.TopKIntersection(k=1.5), "share"),
        (lambda: metrics.RelevanceMassAccuracy(sign="both"), "sign"),
        (lambda: metrics.EffectiveComplexity(epsilon=-1e-3), "epsilon"),
        (lambda: metrics.EffectiveComplexity(epsilon=1.0, relative=True), "epsilon"),
        (lambda: metrics.TopKIntersection(k=31)(None, told(spread(MASK * 1.0)), masks=MASK), "at most"),
    ],
)
def test_options_out_of_range_are_refused(build, word):
    with pytest.raises(xai.OptionError, match=word):
        build()


# Mosaics


@pytest.mark.parametrize(("axis", "shape"), [(1, (3, 4, 5)), (-1, (4, 5, 3))])
def test_mosaics_are_made_of_their_sources(axis, shape):
    x, labels = RNG.normal(size=(12, *shape)).astype("float32"), np.arange(12) % 3
    made = metrics.mosaics(x, labels, channel_axis=axis, seed=3)
    assert made.masks.shape == (12, 8, 10)
    assert made.masks.dtype == bool
    np.testing.assert_array_equal(made.labels, labels)
    images, tiles = np.moveaxis(x, axis, -1), np.moveaxis(made.x, axis, -1)
    for i in range(12):
        cells = made.sources[i]
        assert i in cells
        assert len(set(cells.reshape(-1).tolist())) == 4
        assert np.sum(labels[cells] == labels[i]) == 2
        for row, column in np.ndindex(2, 2):
            part = np.s_[row * 4 : row * 4 + 4, column * 5 : column * 5 + 5]
            np.testing.assert_array_equal(tiles[i][part], images[cells[row, column]])
            assert np.all(made.masks[i][part] == (labels[cells[row, column]] == labels[i]))
    assert made.x.dtype == np.float32


def test_grids_have_one_image_of_each_class():
    x, labels = RNG.normal(size=(30, 2, 4, 4)), np.arange(30) % 10
    made = metrics.mosaics(x, labels, count=40, grid=3, own=1, distinct=True, channel_axis=1)
    assert made.x.shape == (40, 2, 12, 12)
    for i in range(40):
        assert len(set(labels[made.sources[i]].reshape(-1).tolist())) == 9
    np.testing.assert_array_equal(made.masks.mean(axis=(1, 2)), 1 / 9)
    assert len({tuple(own.reshape(-1)) for own in made.sources}) == 40


def test_mosaics_depend_on_seed_and_number_alone():
    x, labels = RNG.normal(size=(12, 4, 5, 1)), np.arange(12) % 3
    first, more = (metrics.mosaics(x, labels, count=count, seed=1) for count in (3, 9))
    np.testing.assert_array_equal(first.sources, more.sources[:3])
    assert not np.array_equal(more.sources, metrics.mosaics(x, labels, count=9, seed=2).sources)
    # Each cell comes to have the first image.
    many = metrics.mosaics(x, labels, count=48).sources.reshape(48, 4)
    assert set(np.argmax(many == (np.arange(48) % 12)[:, None], axis=1).tolist()) == {0, 1, 2, 3}


def test_mosaics_of_signals():
    x = RNG.normal(size=(4, 2, 7))
    made = metrics.mosaics(x, np.array([0, 0, 1, 1]), grid=(3,), channel_axis=1)
    assert made.x.shape == (4, 2, 21)
    assert made.masks.sum(axis=1).tolist() == [14] * 4


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"own": 4}, "other classes"),
        ({"grid": 3}, "too few"),
        ({"own": 1, "distinct": True}, "too few"),
        ({"grid": (2, 2, 2)}, "grid"),
        ({"grid": 0}, "grid"),
        ({"count": 0}, "count"),
        ({"seed": -1}, "seed"),
    ],
)
def test_mosaics_that_cannot_be_made_are_refused(options, word):
    with pytest.raises(xai.OptionError, match=word):
        metrics.mosaics(np.zeros((6, 4, 4, 1)), np.array([0, 0, 1, 1, 2, 2]), **options)


def test_images_and_labels_of_another_form_are_refused():
    with pytest.raises(xai.InputError, match="labels"):
        metrics.mosaics(np.zeros((6, 4, 4, 1)), np.zeros(5, dtype=int))
    with pytest.raises(xai.InputError, match="labels"):
        metrics.mosaics(np.zeros((6, 4, 4, 1)), np.zeros(6))
    with pytest.raises(xai.InputError, match="images"):
        metrics.mosaics(np.zeros((6, 4)), np.zeros(6, dtype=int))


# Complexity


def one_hot(places=(7, 0), value=-4.0):
    found = np.zeros((len(places), 30))
    found[np.arange(len(places)), places] = value
    return spread(found.reshape(-1, 6, 5))


def test_planted_answers_of_complexity():
    nothing, same = np.zeros((2, 1, 6, 5)), spread(np.full((2, 6, 5), -3.0))
    for metric, hot, uniform, zero in (
        (metrics.Sparseness(), 1 - 1 / 30, 0.0, 0.0),
        (metrics.Complexity(), 0.0, math.log(30), math.log(30)),
        (metrics.EffectiveComplexity(), 1.0, 30.0, 0.0),
    ):
        for values, wanted in ((one_hot(), hot), (same, uniform), (nothing, zero)):
            found = metric(None, told(values))
            np.testing.assert_allclose(found, wanted, atol=1e-12)
            assert found.rows == (0, 0)


def test_complexity_by_hand():
    """Shares 1/2, 1/4, 1/4 and 0; the mean difference of all pairs over twice the mean is the Gini index."""
    values = np.array([[2.0, -1.0, 0.0, 1.0]])
    np.testing.assert_allclose(metrics.Complexity()(None, told(values)), 1.5 * math.log(2))
    pairs = np.abs(np.abs(values[0])[:, None] - np.abs(values[0])[None]).mean()
    np.testing.assert_allclose(metrics.Sparseness()(None, told(values)), pairs / (2 * np.abs(values).mean()))
    assert metrics.Complexity()(None, told(values)).details["most"].tolist() == [math.log(4)]
    for options, wanted in (
        ({}, 3),
        ({"epsilon": 1.0}, 1),
        ({"epsilon": 0.4, "relative": True}, 3),
        ({"epsilon": 0}, 3),
    ):
        assert metrics.EffectiveComplexity(**options)(None, told(values)).tolist() == [wanted]
    small = told(values * 1e-6)
    assert metrics.EffectiveComplexity()(None, small).tolist() == [0]
    assert metrics.EffectiveComplexity(epsilon=1e-5, relative=True)(None, small).tolist() == [3]


@given(
    some.arrays(np.float64, (1, 9), elements=st.floats(-1e3, 1e3)), st.sampled_from([1e-200, 0.5, 1e200]), st.randoms()
)
def test_scale_sign_and_order_do_not_matter_to_complexity(values, scale, random):
    order = list(range(9))
    random.shuffle(order)
    values = np.where(np.abs(values) < 1e-100, 0.0, values)
    for metric in (metrics.Sparseness(), metrics.Complexity(), metrics.EffectiveComplexity(relative=True)):
        found = metric(None, told(values)).values
        for other in (values * scale, -values, values[:, order]):
            np.testing.assert_allclose(metric(None, told(other)), found, atol=1e-9)
        if not isinstance(metric, metrics.EffectiveComplexity):
            most = math.log(9) if isinstance(metric, metrics.Complexity) else 1 - 1 / 9
            assert -1e-12 <= found[0] <= most + 1e-12


def test_complexity_of_other_features():
    """Each channel by itself, labels, tiles, and the default of methods; equal to the metric of their sums."""
    values = RNG.normal(size=(2, 3, 16, 16))
    labels = RNG.integers(0, 5, size=(16, 16))
    sums = np.stack([(values * (labels == k)).sum(axis=(1, 2, 3)) for k in range(5)], axis=1)
    tiles = values.reshape(2, 3, 4, 4, 4, 4).sum(axis=(1, 3, 5)).reshape(2, 16)
    for metric in (metrics.Sparseness, metrics.Complexity, metrics.EffectiveComplexity):
        for features, wanted in (
            (xai.Elements(), values.reshape(2, -1)),
            (labels, sums),
            (xai.Patches(4), tiles),
            (xai.Patches(1), values.sum(axis=1).reshape(2, -1)),
            (None, values.reshape(2, 3, 8, 2, 8, 2).sum(axis=(1, 3, 5)).reshape(2, 64)),
        ):
            found = metric(features=features)(None, told(values))
            np.testing.assert_allclose(found, metric()(None, told(wanted)), atol=1e-12)
    with pytest.raises(xai.OptionError, match="features"):
        metrics.Sparseness(features=np.zeros((3, 3), dtype=int))(None, told(values))


def test_complexity_counts_all_inputs_together():
    both = {"image": one_hot((3,)), "table": np.array([[0.0, 4.0]])}
    np.testing.assert_allclose(metrics.Complexity()(None, told(both)), math.log(2))
    np.testing.assert_allclose(metrics.Sparseness()(None, told(both)), 1 - 2 / 32)
    assert metrics.EffectiveComplexity()(None, told((both["image"], both["table"]))).tolist() == [2]


def test_complexity_of_class_maps_frames_and_layers():
    """A map of one channel; columns of a DataFrame with texts; the value of a layer that has no place in the inputs."""
    images = RNG.normal(size=(2, 3, 6, 5))
    assert metrics.EffectiveComplexity()(None, told(images[:, :1], inputs=images, layer="conv")).tolist() == [30, 30]
    frame = pandas.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"], "c": [0.5, np.nan]})
    values = pandas.DataFrame({"a": [1.0, 0.0], "b": [1.0, 2.0], "c": [-1.0, 0.0]})
    np.testing.assert_allclose(metrics.Complexity()(None, told(values, inputs=frame)), [math.log(3), 0], atol=1e-12)
    groups = xai.Groups({"left": ["a", "c"]}, rest="single")
    assert metrics.EffectiveComplexity(features=groups)(None, told(values, inputs=frame)).tolist() == [1, 1]
    hidden = RNG.normal(size=(2, 7, 4, 4))
    found = metrics.Sparseness()(None, told(hidden, inputs=images, layer="conv"))
    np.testing.assert_allclose(found, metrics.Sparseness()(None, told(hidden.sum(axis=1).reshape(2, -1))))


def test_features_that_a_sample_lacks_do_not_count():
    labels = np.array([[[0, 0, 1, 2]], [[0, 0, 1, 1]]])[:, 0]
    values = np.ones((2, 4)) * np.array([0.5, 0.5, 1.0, 1.0])
    values[1, 2:] = 0.5
    found = metrics.Complexity(features=labels)(None, told(values))
    np.testing.assert_allclose(found, [math.log(3), math.log(2)], atol=1e-12)
    np.testing.assert_allclose(found.details["most"], [math.log(3), math.log(2)])
    np.testing.assert_allclose(metrics.Sparseness(features=labels)(None, told(values)), 0, atol=1e-12)


def test_sums_of_huge_values_do_not_overflow():
    huge = told(np.array([[1e308, -1e308, 1e308, 0.0]]))
    np.testing.assert_allclose(metrics.Complexity()(None, huge), math.log(3))
    np.testing.assert_allclose(metrics.Sparseness()(None, huge), 0.25)
    masks = np.array([[1, 1, 0, 1]])
    np.testing.assert_allclose(metrics.RelevanceMassAccuracy(sign="absolute")(None, huge, masks=masks), 2 / 3)


def test_metrics_of_maps_are_values_and_take_real_explanations():
    assert metrics.TopKIntersection(k=3) == metrics.TopKIntersection(k=3) != metrics.TopKIntersection(k=4)
    weights = RNG.normal(size=(6, 3))
    x = RNG.normal(size=(2, 6))
    e = xai.FeatureAblation()(lambda x: x @ weights, x)
    found = metrics.EffectiveComplexity()(None, replace(e, values=np.where(np.arange(6) < 2, e.values, 0.0)))
    assert found.tolist() == [2, 2]
    assert {type(metric) for metric in LOCALISATION} <= set(xai_metrics("localisation"))
    for metric in xai_metrics("localisation"):
        assert metric.needs == ("masks",)
        assert metric.higher_is_better is True
    wanted = {metrics.Sparseness: True, metrics.Complexity: False, metrics.EffectiveComplexity: False}
    assert {metric: metric.higher_is_better for metric in xai_metrics("complexity")} == wanted


def xai_metrics(category):
    return [metric for metric in metrics.all_metrics().values() if metric.category == category]
