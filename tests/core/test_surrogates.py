"""RISE, LIME, Sobol and HSIC attribution, prediction difference: planted answers and literal restatements."""

from __future__ import annotations

import array_api_strict
import literal_masks as literal
import numpy as np
import pandas
import pytest
from strict import second_device, strict_model

import xai_core as xai
from xai_core.attribution import lime, rise, sensitivity
from xai_core.streams import Streams
from xai_core.testing import assert_close

RNG = np.random.default_rng(0)
DATA = RNG.normal(size=(20, 6)) * np.array([1.0, 2.0, 0.5, 1.0, 3.0, 1.0])
FIRST, SECOND = RNG.normal(size=(6, 9)) / 2, RNG.normal(size=(9, 3))
X = RNG.normal(size=(3, 6))
WEIGHTS = np.array([1.0, -2.0, 0.5, 0.0, 3.0, -0.2])


def net(x):
    return np.tanh(x @ FIRST) @ SECOND


def probabilities(x):
    raised = np.exp(net(x))
    return raised / raised.sum(axis=1, keepdims=True)


def linear(x):
    return (x @ WEIGHTS)[:, None]


def image(seed=0, shape=(3, 9, 7)):
    """A model of images that is not linear, and two images."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(*shape, 2)) / 4
    return (lambda x: np.tanh(np.tensordot(x, weights, axes=len(shape)))), rng.normal(size=(2, *shape))


# RISE


@pytest.mark.parametrize(
    ("shape", "sides"), [((3, 9, 7), (4, 3)), ((2, 11), (3,)), ((1, 4, 5, 6), (2, 3, 2)), ((3, 9, 7), (20, 1))]
)
def test_rise_equals_its_paper(shape, sides):
    """Signals, images and volumes; sides that do not divide, exceed the image or are one."""
    model, x = image(1, shape)
    wrapped = xai.wrap(model, channel_axis=1)
    found = xai.RISE(samples=70, grid=sides, probability=0.3, baseline=0.2)(wrapped, x, target=1, seed=5)
    kept = tuple(min(side, length) for side, length in zip(sides, shape[1:], strict=True))
    streams = Streams.of(5, [0, 1])
    for i in range(2):
        uniform = streams.uniform([i], range(70), int(np.prod(kept)) + len(kept), rise.MASK_PART)[0]
        masks = literal.rise_masks(uniform, kept, shape[1:], 0.3)
        values, error = literal.rise(model, x[i], 1, masks, 0.3, 0.2)
        np.testing.assert_allclose(found.values[i], values, atol=1e-6)
        np.testing.assert_allclose(found.error[i], error, atol=1e-6)
    assert found.rows == (2 * 71, 0)


def test_rise_of_a_linear_model():
    """Its expectation: half the score of all other elements, and the whole of an element's own, where bits are apart."""
    found = xai.RISE(samples=3000)(linear, X, target=0)
    own = X * WEIGHTS
    wanted = own.sum(axis=1, keepdims=True) / 2 + own / 2
    off = (found.values - wanted) / found.error
    assert 0.5 < np.sqrt(np.mean(off**2)) < 1.5
    grouped = xai.RISE(samples=3000, features=np.array([0, 0, 1, 1, 2, -1]))(linear, X, target=0)
    parts = np.stack([own[:, :2].sum(1), own[:, 2:4].sum(1), own[:, 4]], axis=1)
    wanted = parts.sum(axis=1, keepdims=True) / 2 + parts / 2 + own[:, 5:]
    assert np.all(np.abs(grouped.features.values - wanted) < 4 * grouped.features.error)
    np.testing.assert_array_equal(grouped.values[:, 5], 0)


def test_rise_masks_show_each_element_with_the_probability():
    """A model that sees nothing but a constant gives it everywhere, within the standard error."""
    rng = np.random.default_rng(0)
    weights = 1e-6 * rng.normal(size=(1, 12, 10))
    wrapped = xai.wrap(lambda x: 1 + np.tensordot(x, weights, axes=3)[:, None], channel_axis=1)
    found = xai.RISE(samples=2000, grid=5, probability=0.3)(wrapped, rng.normal(size=(1, 1, 12, 10)), target=0)
    off = (found.values - 1) / found.error
    assert np.abs(off).max() < 4.5
    assert 0.3 < np.sqrt(np.mean(off**2)) < 2


def test_rise_of_images_and_tables_together():
    """Each input has a mask of its own: an image a grid, a table bits."""
    rng = np.random.default_rng(3)
    pixels, columns = 1 + rng.random(size=(2, 1, 6, 6)), 2 + rng.random(size=(2, 4))
    weights = np.zeros((1, 6, 6))
    weights[0, :2, :2] = 3.0
    both = lambda x: (np.tensordot(x[0], weights, axes=3) + 4 * x[1][:, 1])[:, None]  # noqa: E731
    found = xai.RISE(samples=600, grid=3)(xai.wrap(both, channel_axis=1), (pixels, columns), target=0)
    for i in range(2):
        assert np.argmax(found.values[1][i]) == 1
        assert found.values[0][i, 0, 0, 0] > found.values[0][i, 0, 5, 5] + 3 * found.error[0][i, 0, 5, 5]


def test_rise_stops_at_its_tolerance():
    x = X * np.array([[1.0], [0.3], [1.0]])
    method = xai.RISE(samples=100, tolerance=0.04, max_rows=6400)
    found = method(net, x, target=0)
    assert found.details["converged"].all()
    assert found.error.max() <= 0.04
    assert len({100, 200, 400, 800, 1600, 3200, 6400} & {found.rows[0]}) == 0
    for i in range(3):
        alone = method(net, x[i : i + 1], target=0, index=i)
        np.testing.assert_allclose(found.values[i], alone.values[0], atol=1e-12)
        np.testing.assert_allclose(found.error[i], alone.error[0], atol=1e-12)
    tight = xai.RISE(samples=10, tolerance=1e-6, max_rows=45)(net, x, target=0)
    assert not tight.details["converged"].any()
    assert tight.rows[0] == 3 * (40 + 1)
    # Going on equals starting with that many.
    np.testing.assert_allclose(tight.values, xai.RISE(samples=40)(net, x, target=0).values, atol=1e-12)


def test_rise_memory_does_not_grow_with_samples_or_pixels_squared():
    """50,000 columns; a square matrix of them would have 20 GB."""
    import tracemalloc

    wide = np.ones((1, 50_000), dtype="float32")
    peaks = []
    for samples in (8, 64):
        tracemalloc.start()
        xai.RISE(samples=samples)(xai.wrap(lambda x: x[:, :1] + x.mean(1, keepdims=True), batch_size=8), wide)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    assert peaks[1] < 50_000 * 8 * 100


# LIME


def presence(found_for, mode, samples, seed):
    """Neighbours of a table without background as LIME draws them, in the order of the columns, the row first."""
    drawn = lime._coalitions(6, samples, mode, seed)
    out = []
    for i in range(found_for):
        order = Streams.of(seed, list(range(found_for))).generator(i, 0, lime.ORDER_PART).permutation(6)
        out.append(np.concatenate([np.ones((1, 6)), drawn[:, order]]))
    return out


@pytest.mark.parametrize("mode", ["image", "text"])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_lime_of_features_equals_its_paper(mode, penalty):
    found = xai.LIME(samples=50, mode=mode, penalty=penalty)(net, X, target=1, seed=2)
    chosen = xai.LIME(samples=50, mode=mode, penalty=penalty, regularization="lasso")(net, X, target=1, seed=2)
    for i, z in enumerate(presence(3, mode, 50, 2)):
        scores = net(X[i] * z)[:, 1]
        # The cosine of a row of zeros and ones and a row of ones.
        cosine = np.array([row.sum() / np.sqrt(row.sum() * 6) if row.any() else 0.0 for row in z])
        weights = np.sqrt(np.exp(-((1 - cosine) ** 2) / 0.25**2))
        values, intercept, r2 = literal.ridge(z, scores, weights, penalty)
        np.testing.assert_allclose(found.values[i], values, atol=1e-9)
        np.testing.assert_allclose(found.details["intercept"][i], intercept, atol=1e-9)
        np.testing.assert_allclose(found.details["r2"][i], r2, atol=1e-9)
        np.testing.assert_allclose(chosen.values[i], literal.lasso(z, scores, weights, penalty), atol=1e-7)
    assert found.rows == (3 * 51, 0)


def test_lime_of_text_removes_a_number_of_tokens_drawn_first():
    drawn = lime._coalitions(10, 20_000, "text", 0)
    removed = (~drawn).sum(axis=1)
    np.testing.assert_allclose(np.bincount(removed, minlength=11)[1:] / len(drawn), 0.1, atol=0.01)
    assert (removed > 0).all()
    half = lime._coalitions(10, 20_000, "image", 0)
    np.testing.assert_allclose(half.mean(axis=0), 0.5, atol=0.02)
    assert (half[:, 0] & half[:, 1]).mean() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("options", [{"mode": "image"}, {"mode": "text"}, {"background": DATA}], ids=str)
def test_lime_is_exact_on_a_linear_model(options):
    found = xai.LIME(samples=60, penalty=0.0, **options)(linear, X, target=0)
    wanted = X * WEIGHTS if "mode" in options else np.broadcast_to(WEIGHTS * DATA.std(axis=0), X.shape)
    np.testing.assert_allclose(found.values, wanted, atol=1e-10)
    np.testing.assert_allclose(found.details["r2"], 1.0, atol=1e-12)
    np.testing.assert_allclose(found.error, 0, atol=1e-10)
    at = 0.0 if "mode" in options else DATA.mean(axis=0) @ WEIGHTS
    np.testing.assert_allclose(found.details["intercept"], at, atol=1e-9)


def test_lime_of_a_table_equals_its_paper():
    found = xai.LIME(samples=80, background=DATA)(net, X, target=1, seed=3)
    mean, scale = DATA.mean(axis=0), DATA.std(axis=0)
    every = lime.generator(3, 6, lime._DESIGN + 2).standard_normal((80, 6))
    for i in range(3):
        moves = every[:, Streams.of(3, [0, 1, 2]).generator(i, 0, lime.ORDER_PART).permutation(6)]
        rows = np.concatenate([X[i : i + 1], X[i] + moves * scale])
        z = (rows - mean) / scale
        weights = np.sqrt(np.exp(-np.sum((z - z[0]) ** 2, axis=1) / (0.75**2 * 6)))
        values, intercept, r2 = literal.ridge(z, net(rows)[:, 1], weights, 1.0)
        np.testing.assert_allclose(found.values[i], values, atol=1e-9)
        np.testing.assert_allclose(found.details["intercept"][i], intercept, atol=1e-9)
        np.testing.assert_allclose(found.details["r2"][i], r2, atol=1e-9)


def test_lime_of_quartiles():
    """A score that says whether a column is in the quartile of the row is a coefficient of one, and nothing else."""
    cuts = np.percentile(DATA[:, 1], [25, 50, 75])
    own = np.searchsorted(cuts, X[0, 1])
    inside = lambda x: (np.searchsorted(cuts, x[:, 1]) == own)[:, None].astype(float) + 0 * x[:, :1]  # noqa: E731
    found = xai.LIME(samples=100, background=DATA, discretize=True, penalty=0.0)(inside, X[:1], target=0)
    np.testing.assert_allclose(found.values, [[0, 1, 0, 0, 0, 0]], atol=1e-10)
    np.testing.assert_allclose(found.details["intercept"], 0, atol=1e-10)


def test_lime_of_quartiles_counts_a_value_at_a_cut_to_those_below():
    data = np.arange(9.0)[:, None]
    below = lambda x: (x <= 2) * 1.0  # noqa: E731
    method = xai.LIME(samples=60, background=data, discretize=True, penalty=0.0)
    np.testing.assert_allclose(method(below, np.array([[2.0], [1.0]]), target=0).details["r2"], 1, atol=1e-12)
    assert method(lambda x: (x < 2) * 1.0, np.array([[1.0]]), target=0).details["r2"] < 0.99


def test_lime_of_categories():
    """Columns without numbers take values of the data, and say whether they have that of the row."""
    frame = pandas.DataFrame({"kind": ["a", "b", "c", "a", "b"] * 4, "size": np.linspace(-1, 1, 20)})

    def price(x):
        assert set(x["kind"]) <= {"a", "b", "c"}
        return ((x["kind"] == "a") * 2.0 + 3 * x["size"]).to_numpy()[:, None]

    found = xai.LIME(samples=200, background=frame, penalty=0.0)(price, frame.iloc[:1], target=0)
    np.testing.assert_allclose(found.values.to_numpy(), [[2.0, 3 * frame["size"].std(ddof=0)]], atol=1e-9)


def test_lime_selects():
    """Of a linear model the largest: one by one up to six, by weight beyond."""
    wide = np.array([5.0, -4.0, 3.0, -2.0, 1.0, 0.9, 0.8, 0.7, 0.1, 0.05])
    x = np.ones((2, 10))
    for top in (1, 3, 6, 7, 9):
        for regularization in ("ridge", "lasso"):
            method = xai.LIME(samples=400, mode="image", top=top, penalty=1e-3, regularization=regularization)
            found = method(lambda x: (x @ wide)[:, None], x, target=0).values
            np.testing.assert_array_equal(found != 0, np.broadcast_to(np.arange(10) < top, (2, 10)))
    every = xai.LIME(samples=400, mode="image", top=10)(net_of(wide), x, target=0)
    np.testing.assert_array_equal(every.values, xai.LIME(samples=400, mode="image")(net_of(wide), x, target=0).values)


def net_of(weights):
    return lambda x: (x @ weights)[:, None]


def test_lime_selects_what_the_fit_gains_most_by():
    """Forward selection equals trying each feature, as the package does."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        z = rng.random((60, 7)) < 0.5
        z[:, 3:6] ^= (rng.random((60, 3)) < 0.2) ^ z[:, :3] ^ z[:, 3:6]
        scores, distance = rng.normal(size=60) + z @ rng.normal(size=7), rng.random(60) / 3
        design = lime._Design(z, distance, 0.25)
        centred = scores - np.average(scores, weights=design.weights)
        chosen: list[int] = []
        for _ in range(5):
            gains = [
                -np.inf if i in chosen else literal.ridge(z[:, [*chosen, i]] * 1.0, scores, design.weights, 0.0)[2]
                for i in range(7)
            ]
            chosen.append(int(np.argmax(gains)))
            np.testing.assert_array_equal(design.selected(centred, len(chosen)), sorted(chosen))


def test_lime_lasso_with_more_features_than_neighbours():
    weights = np.zeros(300)
    weights[[7, 100]] = 3.0, -2.0
    found = xai.LIME(samples=120, mode="image", regularization="lasso", penalty=8.0)(net_of(weights), np.ones((1, 300)))
    assert set(np.argsort(-np.abs(found.values[0]))[:2]) == {7, 100}
    assert np.count_nonzero(found.values) < 100


def test_lime_of_samples_with_different_numbers_of_features():
    """What a sample gets does not depend on how many features others have."""
    labels = np.array([[0, 0, 1, 1, 2, 2], [0, 1, 2, 3, 4, 5], [1, 1, 1, 1, 2, 2]])
    method = xai.LIME(samples=40, features=labels)
    together = method(net, X, target=0)
    alone = xai.LIME(samples=40, features=labels[:1])(net, X[:1], target=0)
    np.testing.assert_allclose(together.values[0], alone.values[0], atol=1e-12)
    np.testing.assert_array_equal(together.features.values[0, 3:], 0)
    np.testing.assert_allclose(together.details["r2"][0], alone.details["r2"][0], atol=1e-12)


def test_lime_of_images_and_tokens():
    pytest.importorskip("skimage")
    model, x = image(2, (3, 12, 12))
    found = xai.LIME(samples=60)(xai.wrap(model, channel_axis=1), x, target=0)
    assert found.features.labels[0].shape == (2, 1, 12, 12)
    ids = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    table = np.random.default_rng(0).normal(size=10)
    table[0] = 0
    words = xai.LIME(samples=60, penalty=0.0)(lambda x: table[x].sum(1)[:, None], ids, target=0)
    np.testing.assert_allclose(words.features.values, table[ids], atol=1e-12)


@pytest.mark.parametrize("mode", ["image", "table"])
def test_lime_errors_are_those_that_estimates_have(mode):
    options = {"background": DATA} if mode == "table" else {"mode": mode}
    runs = [xai.LIME(samples=120, penalty=0.0, **options)(net, X[:1], target=0, seed=seed) for seed in range(40)]
    values, said = np.stack([run.values[0] for run in runs]), np.stack([run.error[0] for run in runs])
    ratio = np.sqrt(np.mean(said**2, axis=0)) / values.std(axis=0, ddof=1)
    assert 0.7 < ratio.mean() < 1.4


# Sobol indices and HSIC


def ishigami(x):
    t = np.pi * (2 * x - 1)
    wave = np.sin(t[:, 0])
    return (wave + 7 * np.sin(t[:, 1]) ** 2 + 0.1 * t[:, 2] ** 4 * wave)[:, None]


def test_sobol_indices_of_a_known_function():
    """Ishigami's: masks in the unit cube are its arguments where the input is ones and the baseline zeros."""
    variance = 49 / 8 + 0.1 * np.pi**4 / 5 + 0.01 * np.pi**8 / 18 + 0.5
    both = 8 * 0.01 * np.pi**8 / 225
    wanted = np.array([(0.5 * (1 + 0.1 * np.pi**4 / 5) ** 2 + both), 49 / 8, both, 0.0]) / variance
    runs = [xai.SobolAttribution(samples=2500)(ishigami, np.ones((1, 4)), target=0, seed=seed) for seed in range(30)]
    values, said = np.stack([run.values[0] for run in runs]), np.stack([run.error[0] for run in runs])
    np.testing.assert_array_equal(values[:, 3], 0)
    off = (values[:, :3] - wanted[:3]) / said[:, :3]
    assert 0.5 < np.sqrt(np.mean(off**2)) < 1.5
    np.testing.assert_allclose(values.mean(axis=0), wanted, atol=0.03)
    assert runs[0].rows == (2501, 0)


def test_sobol_equals_its_paper():
    found = xai.SobolAttribution(samples=70)(net, X, target=1, seed=2)
    drawn = sensitivity.hypercube(sensitivity.generator(2, 6, sensitivity._DESIGN + 7, 0), 10, 12).reshape(10, 2, 6)
    streams = Streams.of(2, [0, 1, 2])
    for i in range(3):
        order = streams.generator(i, 0, sensitivity.ORDER_PART).permutation(6)
        a, b = drawn[:, 0][:, order], drawn[:, 1][:, order]
        changed = []
        for feature in range(6):
            c = a.copy()
            c[:, feature] = b[:, feature]
            changed.append(net(X[i] * c)[:, 1])
        wanted = literal.total_sobol(net(X[i] * a)[:, 1], np.stack(changed, axis=1))
        np.testing.assert_allclose(found.values[i], wanted, atol=1e-10)


def test_latin_hypercubes_have_a_point_in_each_slice():
    points = sensitivity.hypercube(np.random.default_rng(0), 17, 5)
    np.testing.assert_array_equal(np.sort(np.floor(points * 17), axis=0), np.tile(np.arange(17)[:, None], (1, 5)))


@pytest.mark.parametrize("samples", [31, 64])
def test_hsic_equals_its_definition(samples, monkeypatch):
    monkeypatch.setattr(sensitivity, "_CELLS", 500)  # so that samples come in parts
    found = xai.HSICAttribution(samples=samples)(net, X, target=1, seed=2)
    drawn = sensitivity.hypercube(sensitivity.generator(2, 6, sensitivity._DESIGN + 1, 0), samples, 6) < 0.5
    streams = Streams.of(2, [0, 1, 2])
    for i in range(3):
        bits = drawn[:, streams.generator(i, 0, sensitivity.ORDER_PART).permutation(6)]
        scores = net(X[i] * bits)[:, 1]
        width = np.median(np.abs(scores[:, None] - scores[None, :])[np.triu_indices(samples, 1)])
        wanted = [literal.hsic(column, scores, width) for column in bits.T]
        np.testing.assert_allclose(found.values[i], wanted, atol=1e-12)
        kept = [np.arange(samples) != left for left in range(samples)]
        without = np.array([[literal.hsic(column[k], scores[k], width) for column in bits.T] for k in kept])
        spread = np.sqrt((samples - 1) / samples * np.sum((without - without.mean(axis=0)) ** 2, axis=0))
        np.testing.assert_allclose(found.error[i], spread, atol=1e-12)


def test_hsic_of_a_dummy_is_zero_within_its_error():
    """Over many seeds without bias, and what is said of the error is no less than what it is."""
    dummy = lambda x: np.tanh(x[:, :1] * x[:, 1:2] + x[:, 2:3])  # noqa: E731
    x = np.ones((1, 5))
    runs = [xai.HSICAttribution(samples=100)(dummy, x, target=0, seed=seed) for seed in range(60)]
    values, said = np.stack([run.values[0] for run in runs]), np.stack([run.error[0] for run in runs])
    mean, spread = values.mean(axis=0), values.std(axis=0, ddof=1)
    assert np.all(np.abs(mean[3:]) < 3 * spread[3:] / np.sqrt(60))
    assert np.all(mean[:3] > 10 * spread[:3] / np.sqrt(60))
    ratio = np.sqrt(np.mean(said**2, axis=0)) / spread
    assert np.all((ratio > 0.75) & (ratio < 1.8))


@pytest.mark.parametrize("method", [xai.SobolAttribution, xai.HSICAttribution], ids=lambda m: m.__name__)
def test_sensitivity_goes_on_until_its_tolerance(method):
    one = method(samples=200)(net, X, target=0)
    limit = float(one.error.max()) / 2
    found = method(samples=200, tolerance=limit, max_rows=12_800)(net, X, target=0)
    assert found.details["converged"].all()
    assert found.error.max() <= limit
    for i in range(3):
        alone = method(samples=200, tolerance=limit, max_rows=12_800)(net, X[i : i + 1], target=0, index=i)
        np.testing.assert_allclose(found.values[i], alone.values[0], atol=1e-12)
    least = method(samples=5, tolerance=1e-9, max_rows=10)(net, X, target=0)  # doubled, it is still the least there is
    assert np.isfinite(least.values).all()
    few = method(samples=200, tolerance=1e-9, max_rows=500)(net, X, target=0)
    assert not few.details["converged"].any()
    assert few.rows[0] <= 3 * 401


# Prediction difference


def test_prediction_difference_equals_its_paper():
    found = xai.PredictionDifference(background=DATA, samples=20)(probabilities, X, target=1)
    for i in range(3):
        np.testing.assert_allclose(
            found.values[i], literal.prediction_difference(probabilities, X[i], 1, DATA, 3), atol=1e-10
        )
    assert found.rows[0] == 3 + 3 * 20 * 6 + 1
    given = xai.PredictionDifference(background=DATA, samples=20, instances=1000, classes=7)(probabilities, X, target=1)
    lost = xai.PredictionDifference(background=DATA, samples=20, measure="difference")(probabilities, X, target=1)
    p = probabilities(X)[:, 1]
    for i, j in np.ndindex(3, 6):
        wanted = literal.evidence(p[i], p[i] - lost.values[i, j], 1000, 7)
        np.testing.assert_allclose(given.values[i, j], wanted, atol=1e-10)
    binary = xai.PredictionDifference(background=DATA, samples=20)(lambda x: probabilities(x)[:, 1:2], X, target=0)
    np.testing.assert_allclose(
        binary.values[0], literal.prediction_difference(lambda x: probabilities(x)[:, 1:2], X[0], 0, DATA, 2)
    )


def test_prediction_difference_errors():
    data = np.random.default_rng(1).normal(size=(4000, 6))
    runs = [
        xai.PredictionDifference(background=data, samples=12)(probabilities, X[:1], target=1, seed=seed)
        for seed in range(40)
    ]
    values, said = np.stack([run.values[0] for run in runs]), np.stack([run.error[0] for run in runs])
    ratio = np.sqrt(np.mean(said**2, axis=0)) / values.std(axis=0, ddof=1)
    assert 0.7 < ratio.mean() < 1.3


def smooth(count, rng):
    """Images whose pixels are normal, and correlated as their distances say."""
    place = np.stack(np.meshgrid(np.arange(6), np.arange(6), indexing="ij"), axis=-1).reshape(36, 2)
    distance = np.sqrt(np.sum((place[:, None] - place[None, :]) ** 2, axis=-1))
    covariance = np.exp(-distance / 4)
    return 2 + (rng.normal(size=(count, 2, 36)) @ np.linalg.cholesky(covariance).T).reshape(count, 2, 6, 6), covariance


def test_conditional_pixels_have_the_distribution_that_their_surroundings_leave():
    """Mean and variance of a corner of two by two pixels given the ring around it, which are known here."""
    rng = np.random.default_rng(0)
    data, covariance = smooth(3000, rng)
    x, seen = smooth(1, rng)[0], []

    def record(images):
        seen.append(images.copy())
        return 1 / (1 + np.exp(-images.mean(axis=(1, 2, 3))))[:, None]

    labels = np.full((6, 6), -1)
    labels[:2, :2] = 0
    method = xai.PredictionDifference(
        background=data, samples=400, features=labels[None], conditional=True, margin=2, instances=100
    )
    method(xai.wrap(record, channel_axis=1), x, target=0)
    drawn = np.concatenate(seen).reshape(-1, 2, 36)
    drawn = drawn[np.any(drawn != x.reshape(1, 2, 36), axis=(1, 2))]
    assert len(drawn) == 400
    hidden = np.zeros((6, 6), dtype=bool)
    hidden[:2, :2] = True
    ring = np.zeros((6, 6), dtype=bool)
    ring[:4, :4] = True
    inside, around = np.flatnonzero(hidden), np.flatnonzero(ring & ~hidden)
    factor = covariance[np.ix_(inside, around)] @ np.linalg.inv(covariance[np.ix_(around, around)])
    left = covariance[np.ix_(inside, inside)] - factor @ covariance[np.ix_(around, inside)]
    for channel in range(2):
        flat = x[0, channel].reshape(36)
        wanted = 2 + factor @ (flat[around] - 2)
        np.testing.assert_allclose(drawn[:, channel][:, inside].mean(axis=0), wanted, atol=0.2)
        np.testing.assert_allclose(np.cov(drawn[:, channel][:, inside].T), left, atol=0.15)
    outside = np.setdiff1d(np.arange(36), inside)
    np.testing.assert_array_equal(
        drawn[:, :, outside], np.broadcast_to(x.reshape(1, 2, 36)[:, :, outside], (400, 2, 32))
    )


# All of them

METHODS = {
    "RISE": xai.RISE(samples=30),
    "RISE tolerance": xai.RISE(samples=20, tolerance=0.3, max_rows=80),
    "LIME image": xai.LIME(samples=40, mode="image"),
    "LIME lasso": xai.LIME(samples=40, mode="text", regularization="lasso", penalty=0.3),
    "LIME top": xai.LIME(samples=40, mode="image", top=2),
    "LIME table": xai.LIME(samples=40, background=DATA),
    "LIME background": xai.LIME(samples=80, background=DATA[:3], mode="image"),
    "Sobol": xai.SobolAttribution(samples=70),
    "HSIC": xai.HSICAttribution(samples=40),
    "prediction difference": xai.PredictionDifference(background=DATA, samples=4),
}


@pytest.mark.parametrize("name", METHODS)
def test_batches_and_parts(name):
    method = METHODS[name]
    whole = method(probabilities, X, target=1, seed=4)
    assert whole.error.shape == X.shape
    for size in (1, 7, 64):
        cut = method(xai.wrap(probabilities, batch_size=size), X, target=1, seed=4)
        np.testing.assert_allclose(cut.values, whole.values, atol=1e-10)
        np.testing.assert_allclose(cut.error, whole.error, atol=1e-10)
    late = method(probabilities, X[1:], target=1, seed=4, index=1)
    np.testing.assert_allclose(late.values, whole.values[1:], atol=1e-10)
    other = method(probabilities, X, target=1, seed=5)
    assert np.abs(other.values - whole.values).max() > 1e-6


@pytest.mark.parametrize("place", [None, "second"])
@pytest.mark.parametrize("name", METHODS)
def test_strict_namespaces(name, place):
    """No more than the standard is used, and nothing is left on another device."""
    xp, device = array_api_strict, second_device() if place else None
    first, second = (xp.asarray(array, device=device) for array in (FIRST, SECOND))

    def strict(x):
        raised = xp.exp(xp.matmul(xp.tanh(xp.matmul(x, first)), second))
        return raised / xp.sum(raised, axis=1, keepdims=True)

    with array_api_strict.ArrayAPIStrictFlags(
        api_version="2024.12", boolean_indexing=False, data_dependent_shapes=False, enabled_extensions=()
    ):
        model = strict_model(strict, xp, device)
        found = METHODS[name](model, xp.asarray(X, device=device), target=1, seed=4)
        wanted = METHODS[name](probabilities, X, target=1, seed=4)
        back = model.adapted.backend.to_numpy
        assert_close(back(found.values), wanted.values, relative=1e-10)
        assert_close(back(found.error), wanted.error, relative=1e-8)


def test_strict_images():
    xp = array_api_strict
    weights = np.random.default_rng(0).normal(size=(2, 6, 5, 3)) / 4
    x = np.random.default_rng(1).normal(size=(2, 2, 6, 5))
    kernel = xp.asarray(weights)
    model = strict_model(lambda x: xp.tanh(xp.tensordot(x, kernel, axes=3)), xp, channel_axis=1)
    method = xai.RISE(samples=30, grid=3)
    found = method(model, xp.asarray(x), target=1)
    wanted = method(xai.wrap(lambda x: np.tanh(np.tensordot(x, weights, axes=3)), channel_axis=1), x, target=1)
    assert_close(model.adapted.backend.to_numpy(found.values), wanted.values, relative=1e-10)


@pytest.mark.parametrize("name", METHODS)
def test_one_feature_and_constant_models(name):
    method = METHODS[name]
    constant = lambda x: np.full((len(x), 2), 0.5)  # noqa: E731
    with pytest.raises(xai.InputDependenceError):
        method(constant, X, target=0)
    if "background" in method.options() and method.background is not None:
        from dataclasses import replace

        method = replace(method, background=DATA[:4, :1])
    found = method(lambda x: 1 / (1 + np.exp(-x)), X[:, :1], target=0)
    assert found.values.shape == (3, 1)
    assert np.isfinite(found.values).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: xai.RISE(grid=0), "grid"),
        (lambda: xai.RISE(probability=1.0), "probability"),
        (lambda: xai.RISE(samples=0), "samples"),
        (lambda: xai.RISE(grid=(2, 2))(xai.wrap(lambda x: x.sum(axis=1), channel_axis=1), X[:, None, :]), "grid"),
        (lambda: xai.LIME(regularization="l1"), "regularization"),
        (lambda: xai.LIME(penalty=-1), "penalty"),
        (lambda: xai.LIME(kernel_width=0), "kernel_width"),
        (lambda: xai.LIME(top=0), "top"),
        (lambda: xai.LIME(mode="tabular"), "mode"),
        (lambda: xai.LIME()(net, X), "background"),
        (lambda: xai.LIME(discretize=True, mode="image")(net, X), "discretize"),
        (lambda: xai.LIME(background=DATA, mode="table", features=[0, 0, 1, 1, 2, 2])(net, X), "column"),
        (lambda: xai.SobolAttribution(tolerance=-1), "tolerance"),
        (lambda: xai.HSICAttribution(samples=4), "samples"),
        (lambda: xai.PredictionDifference(background=DATA)(net, X), "probability"),
        (lambda: xai.PredictionDifference(measure="odds"), "measure"),
        (lambda: xai.PredictionDifference(background=DATA, conditional=True)(probabilities, X), "conditional"),
    ],
)
def test_options_are_checked(make, message):
    with pytest.raises(xai.OptionError, match=message):
        make()


def test_what_cannot_be_mixed_or_is_missing():
    ids = np.array([[1, 2, 3]])
    with pytest.raises(xai.IntegerInputError, match="HSICAttribution"):
        xai.SobolAttribution()(lambda x: x.sum(1)[:, None] * 1.0, ids)
    with pytest.raises(xai.BaselineError, match="background"):
        xai.PredictionDifference()(probabilities, X)


@pytest.mark.parametrize("labels", [[0, 2, 2, 5, 5, -1], [7, 10**12, 10**12, 3 * 10**12, 3 * 10**12, -4]])
def test_labels_may_leave_numbers_out(labels):
    labels = np.array(labels)
    found = xai.KernelSHAP(features=labels)(net, X[:, :6], target=0).features
    assert found.names == tuple(f"feature {number}" for number in sorted(set(labels[labels >= 0].tolist())))
    wanted = xai.KernelSHAP(features=np.array([0, 1, 1, 2, 2, -1]))(net, X[:, :6], target=0).features
    np.testing.assert_array_equal(found.values, wanted.values)
    np.testing.assert_array_equal(found.labels[0], wanted.labels[0])
