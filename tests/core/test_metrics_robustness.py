"""Metrics of robustness: planted answers, literal restatements, and what every explainer must get."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import array_api_strict
import literal_metrics_robustness as literal
import numpy as np
import pytest
import scipy.stats
from strict import strict_model

import xai_core as xai
from xai_core import metrics
from xai_core.attribution.base import Attribution, Explainer
from xai_core.metrics import robustness
from xai_core.problem import LEAST_ROWS
from xai_core.streams import Streams

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.normal(size=(6, 9)) / 2, RNG.normal(size=(9, 3))
X = RNG.normal(size=(3, 6))
NEAR = (metrics.MaxSensitivity, metrics.AvgSensitivity, metrics.LocalLipschitzEstimate)
STABLE = (metrics.RelativeInputStability, metrics.RelativeOutputStability)


def tanh(xp, x):
    raised = xp.exp(2 * x)
    return (raised - 1) / (raised + 1)


def model_over(xp, **options):
    first, second = (xp.asarray(part) for part in (FIRST, SECOND))

    def wide(x):  # complex numbers arrive with complex steps
        return xp.matmul(tanh(xp, xp.matmul(x, xp.astype(first, x.dtype))), xp.astype(second, x.dtype))

    return strict_model(wide, xp, **options)


def net(x):
    return np.tanh(x @ FIRST) @ SECOND


def gradient(x, target):
    slope = (1 - np.tanh(x @ FIRST) ** 2) * SECOND[:, target]
    return FIRST @ slope


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Constant(Explainer):
    differentiates: ClassVar[bool] = False
    value: float = 1.0

    def attribute(self, problem):
        problem.work.add(problem.batch)
        return Attribution([problem.xp.full_like(leaf, self.value) for leaf in problem.varied])


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Input(Explainer):
    differentiates: ClassVar[bool] = False
    scale: float = 1.0
    power: int = 1

    def attribute(self, problem):
        problem.work.add(problem.batch)
        return Attribution([self.scale * leaf**self.power for leaf in problem.varied])


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Noise(Explainer):
    differentiates: ClassVar[bool] = False
    stochastic: ClassVar[bool] = True

    def attribute(self, problem):
        found = [
            problem.to_device(problem.normal(range(problem.batch), [0], place, part=place)[:, 0], like=leaf)
            for place, leaf in enumerate(problem.varied)
        ]
        return Attribution(found)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Bad(Explainer):
    """Not a number anywhere."""

    differentiates: ClassVar[bool] = False

    def attribute(self, problem):
        return Attribution([leaf * np.nan for leaf in problem.varied])


def moves(i, shape, samples=10, radius=0.02, seed=0, channel=None):
    """The documented neighbours of sample `i`."""
    last = shape if channel is None else (*shape[:channel], *shape[channel + 1 :], shape[channel])
    uniform = Streams.of(seed, [i]).uniform([0], range(samples), int(np.prod(last)), robustness.NEIGHBOUR_PART)[0]
    placed = np.float32(radius) * (2 * uniform.reshape(samples, *last) - 1)
    return list((placed if channel is None else np.moveaxis(placed, -1, channel + 1)).astype(float))


@pytest.mark.parametrize("batch_size", [None, 1, 4, 7])
@pytest.mark.parametrize("xp", [np, array_api_strict], ids=["numpy", "strict"])
def test_near_inputs_equal_the_definitions(xp, batch_size):
    model = model_over(xp, batch_size=batch_size)
    target = net(X).argmax(axis=1)
    found = xai.explain(model, xp.asarray(X), method="gradient")
    for i, sample in enumerate(X):
        explain = lambda x, i=i: gradient(x, target[i])  # noqa: E731
        outputs = lambda x: net(x[None])[0]  # noqa: E731
        near = moves(i, (6,), radius=0.3)
        options = {"radius": 0.3}
        for relative in (True, False):
            wanted = literal.changes(explain, sample, near, relative)
            got = metrics.MaxSensitivity(relative=relative, **options)(model, found)
            np.testing.assert_allclose(got.values[i], max(wanted), rtol=1e-9)
            got = metrics.AvgSensitivity(relative=relative, **options)(model, found)
            np.testing.assert_allclose(got.values[i], np.mean(wanted), rtol=1e-9)
            np.testing.assert_allclose(got.details["error"][i], np.std(wanted, ddof=1) / 10**0.5, rtol=1e-9)
        got = metrics.LocalLipschitzEstimate(**options)(model, found)
        np.testing.assert_allclose(got.values[i], literal.lipschitz(explain, sample, near), rtol=1e-9)
        for metric, value, divided in (
            (metrics.RelativeInputStability, lambda x: x, True),
            (metrics.RelativeOutputStability, outputs, False),
        ):
            got = metric(**options)(model, found)
            wanted, kept = literal.stability(explain, sample, near, outputs, value, divided)
            np.testing.assert_allclose(got.values[i], wanted, rtol=1e-9)
            assert got.details["kept"][i] == kept
    assert got.values.shape == (3,)
    assert got.values.dtype == np.float64


def test_neighbours_of_other_classes_do_not_count():
    """With this radius some change the class, and among them are those with the largest ratio."""
    model, target = model_over(np), net(X).argmax(axis=1)
    found = xai.explain(model, X, method="gradient")
    got = metrics.RelativeInputStability(radius=2.0, samples=40)(model, found)
    every, counts = [], []
    for i, sample in enumerate(X):
        explain = lambda x, i=i: gradient(x, target[i])  # noqa: E731
        near = moves(i, (6,), 40, 2.0)
        wanted, kept = literal.stability(explain, sample, near, lambda x: net(x[None])[0], lambda x: x, True)
        np.testing.assert_allclose(got.values[i], wanted, rtol=1e-9)
        assert got.details["kept"][i] == kept
        counts.append(kept)
        every.append(literal.stability(explain, sample, near, lambda x: np.zeros(3), lambda x: x, True)[0])
    assert 0 < min(counts) < 40
    assert np.any(np.array(every) > got.values)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_an_explanation_that_is_the_input(batch_size):
    """It changes as the input does: by as much, and relatively by as much."""
    model = xai.wrap(net, batch_size=batch_size)
    found = _Input()(model, X)
    for i in range(3):
        sizes = [np.linalg.norm(move) for move in moves(i, (6,))]
        got = metrics.MaxSensitivity(relative=False)(model, found)
        np.testing.assert_allclose(got.values[i], max(sizes), rtol=1e-9)
        got = metrics.AvgSensitivity()(model, found)
        np.testing.assert_allclose(got.values[i], np.mean(sizes) / np.linalg.norm(X[i]), rtol=1e-9)
    np.testing.assert_allclose(metrics.LocalLipschitzEstimate()(model, found), 1.0, rtol=1e-9)
    np.testing.assert_allclose(metrics.LocalLipschitzEstimate()(model, _Input(scale=-3.0)(model, X)), 3.0, rtol=1e-9)
    for scale in (1.0, 1e4):
        stable = metrics.RelativeInputStability()(model, _Input(scale=scale)(model, X))
        np.testing.assert_allclose(stable, 1.0, rtol=1e-9)
    # Outputs that are the input: the relative change of the explanation per change of the outputs.
    same = xai.wrap(lambda x: x, batch_size=batch_size)
    got = metrics.RelativeOutputStability(radius=1e-3)(same, _Input()(same, np.abs(X) + 1))
    for i in range(3):
        near = moves(i, (6,), radius=1e-3)
        wanted = max(np.linalg.norm(move / (np.abs(X[i]) + 1)) / np.linalg.norm(move) for move in near)
        np.testing.assert_allclose(got.values[i], wanted, rtol=1e-9)


IMAGES = np.random.default_rng(1).normal(size=(2, 3, 5, 4))


def of_images(x):
    return x.reshape(len(x), -1)[:, ::13]


ALL = [
    metrics.MaxSensitivity(),
    metrics.AvgSensitivity(),
    metrics.LocalLipschitzEstimate(),
    metrics.Continuity(),
    metrics.RelativeInputStability(),
    metrics.RelativeOutputStability(),
    metrics.HyperparameterSensitivity(option="layer", choices=(None, None)),
]


@pytest.mark.parametrize("value", [1.0, 0.0])
@pytest.mark.parametrize("metric", ALL, ids=repr)
def test_a_constant_explainer_is_perfectly_robust(metric, value):
    model = xai.wrap(of_images, channel_axis=1)
    for explainer in (_Constant(value=value), _Noise()):
        found = explainer(model, IMAGES, seed=3)
        np.testing.assert_array_equal(metric(model, found).values, 0.0)
        # Other neighbours; the explainer has the numbers that it had.
        np.testing.assert_array_equal(metric(model, found, seed=8).values, 0.0)


def test_explanations_of_zeros_are_not_divided_by():
    model = xai.wrap(net)
    zero = replace(_Input()(model, X), values=np.zeros_like(X))
    near = [moves(i, (6,)) for i in range(3)]
    wanted = [max(np.linalg.norm(X[i] + move) for move in near[i]) for i in range(3)]
    np.testing.assert_allclose(metrics.MaxSensitivity()(model, zero), wanted, rtol=1e-9)
    wanted = [max(np.linalg.norm(X[i] + move) / literal.relative(move, X[i]) for move in near[i]) for i in range(3)]
    np.testing.assert_allclose(metrics.RelativeInputStability()(model, zero), wanted, rtol=1e-9)


def test_no_neighbour_of_the_same_class():
    """The class is the larger of x and 0; at 0 exactly, ties go to the first, which any positive number takes over."""
    model = xai.wrap(lambda x: np.concatenate([0 * x[:, :1], x[:, :1]], axis=1))
    x = np.array([[0.0, 1.0], [5.0, 1.0]])
    found = _Input()(model, x, seed=4)
    got = metrics.RelativeInputStability(samples=1)(model, found, seed=_seed_that_goes_up(x))
    np.testing.assert_array_equal(got.details["kept"], [0, 1])
    assert np.isnan(got.values[0])
    np.testing.assert_allclose(got.values[1], 1.0, rtol=1e-9)


def _seed_that_goes_up(x):
    return next(seed for seed in range(20) if moves(0, (2,), 1, seed=seed)[0][0] > 0)


def test_one_output_has_no_classes():
    model = xai.wrap(lambda x: x.sum(axis=1, keepdims=True) - 1e-3)
    found = _Input()(model, np.array([[0.0, 1e-3]]) + 1e-4)
    np.testing.assert_array_equal(metrics.RelativeInputStability()(model, found).details["kept"], [10])


@pytest.mark.parametrize("metric", ALL[:6], ids=repr)
def test_samples_do_not_depend_on_each_other(metric):
    model, x = xai.wrap(of_images, channel_axis=1), IMAGES
    explainer = _Input(power=2)
    whole = metric(model, explainer(model, x))
    for i in range(2):
        alone = metric(model, explainer(model, x[i : i + 1], index=i), index=i)
        np.testing.assert_allclose(whole.values[i], alone.values[0], rtol=1e-12)
    assert whole.values[0] != whole.values[1]
    for size in (1, 3, 50):
        sized = xai.wrap(of_images, channel_axis=1, batch_size=size)
        np.testing.assert_allclose(metric(sized, explainer(sized, x)), whole, rtol=1e-12)


@pytest.mark.parametrize("metric", ALL[:6], ids=repr)
def test_channels_first_or_last(metric):
    first, last = xai.wrap(of_images, channel_axis=1), xai.wrap(lambda x: of_images(np.moveaxis(x, -1, 1)))
    explainer = _Input(power=2)
    a = metric(first, explainer(first, IMAGES))
    b = metric(last, explainer(last, np.moveaxis(IMAGES, 1, -1)))
    np.testing.assert_allclose(a, b, rtol=1e-12)


def test_several_inputs_move_together():
    """An integer input stays; norms are those of all values."""
    both = xai.wrap(lambda x: x["a"] * x["b"][:, :1] + x["c"][:, :1])
    x = {"a": X, "b": np.full((3, 2), 2, dtype="int64"), "c": X[:, :2]}

    @dataclass(frozen=True, eq=False, repr=False, kw_only=True)
    class _Floats(Explainer):
        differentiates: ClassVar[bool] = False

        def attribute(self, problem):
            a, b, c = problem.leaves
            assert np.all(b == 2)
            return Attribution([a, 0.0 * b, 2 * c])

    found = _Floats()(both, x)
    got = metrics.LocalLipschitzEstimate()(both, found)
    for i in range(3):
        one = moves(i, (6,))
        uniform = Streams.of(0, [i]).uniform([0], range(10), 2, robustness.NEIGHBOUR_PART + 2)[0]
        two = np.float32(0.02) * (2 * uniform - 1)
        ratios = [
            np.sqrt((a**2).sum() + 4 * (c.astype(float) ** 2).sum())
            / np.sqrt((a**2).sum() + (c.astype(float) ** 2).sum())
            for a, c in zip(one, two, strict=True)
        ]
        np.testing.assert_allclose(got.values[i], max(ratios), rtol=1e-9)


# Continuity


@pytest.mark.parametrize(("shape", "axes"), [((3, 5, 4), (1, 2)), ((2, 7), (1,)), ((1, 4, 3, 5), (1, 2, 3))])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_continuity_equals_its_definition(shape, axes, batch_size):
    x = np.random.default_rng(2).normal(size=(2, *shape))
    model = xai.wrap(of_images, channel_axis=1, batch_size=batch_size)
    found = _Input(power=2)(model, x)
    got = metrics.Continuity(shifts=2, baseline=0.25)(model, found)
    for i in range(2):
        wanted = literal.continuity(lambda sample: sample**2, x[i], axes, 2, 0.25)
        np.testing.assert_allclose(got.details["ratios"][i], wanted, rtol=1e-9)
        np.testing.assert_allclose(got.values[i], max(wanted), rtol=1e-9)
    assert got.rows[0] >= 2 * 4 * len(axes)


def test_continuity_of_one_bright_pixel():
    """It moves: the input changes by sqrt(2) times its value, the explanation, twice the input, by 4 times."""
    x = np.zeros((1, 1, 5, 5))
    x[0, 0, 2, 2] = 3.0
    model = xai.wrap(lambda x: x.reshape(len(x), -1), channel_axis=1)
    got = metrics.Continuity(shifts=2)(model, _Input(scale=2.0)(model, x))
    np.testing.assert_allclose(got.values, 4 / 2**0.5, rtol=1e-12)
    # Nothing moves in an image of one value that comes in at the border too.
    flat = _Input()(model, np.ones((1, 1, 5, 5)))
    np.testing.assert_array_equal(metrics.Continuity(baseline=1.0)(model, flat).details["ratios"], np.zeros((1, 8)))


def test_continuity_refuses_tables_and_small_images():
    for x in (X, IMAGES):
        model = xai.wrap(of_images, channel_axis=1)
        with pytest.raises(xai.OptionError, match="positions"):
            metrics.Continuity(shifts=4)(model, _Input()(model, x))


# Consistency


CLASSES = np.array([0, 0, 1, 1, 0])
MAPS = np.array([[3.0, -2, 1, 0], [2, -3, 0, 1], [5, -4, 0, 0], [-3, 2, 0, 0], [0, 0, 0, 9]])


def judged(**options):
    model = lambda x: x  # noqa: E731
    x = np.eye(2)[CLASSES]
    explanation = replace(_Constant()(model, x), values=MAPS)
    return metrics.Consistency(**options)(model, explanation)


def test_consistency_by_hand():
    """The first three share their two largest elements with signs; classes are 0, 0 and 1."""
    got = judged(top=2)
    np.testing.assert_allclose(got, [0.5, 0.5, 0.0, 1.0, 1.0])
    np.testing.assert_array_equal(got.details["matches"], [2, 2, 2, 0, 0])
    assert got.rows == (5, 0)
    # Without signs the fourth is one of them.
    np.testing.assert_allclose(judged(top=2, discretise="top"), [1 / 3, 1 / 3, 1 / 3, 1 / 3, 1.0])
    np.testing.assert_allclose(judged(discretise="sign"), np.ones(5))
    np.testing.assert_array_equal(judged(discretise="sign").details["matches"], np.zeros(5))
    everything = judged(discretise=lambda values: np.zeros(len(values)))
    np.testing.assert_allclose(everything, [0.5, 0.5, 0.25, 0.25, 0.5])
    # Labels of any dtype are compared by value: words of one content are one label, and zero has no sign.
    words = judged(discretise=lambda values: np.array(["".join(["a", "b"]) for _ in values], dtype=object))
    np.testing.assert_array_equal(words, everything)
    signless = judged(discretise=lambda values: np.where(np.arange(len(values)) % 2, 0.0, -0.0))
    np.testing.assert_array_equal(signless, everything)


def test_consistency_of_zero_maps_is_the_share_of_the_class():
    model = lambda x: x  # noqa: E731
    found = _Constant(value=0.0)(model, np.eye(2)[CLASSES])
    for kind in ("top_sign", "top", "sign"):
        np.testing.assert_allclose(metrics.Consistency(discretise=kind)(model, found), [0.5, 0.5, 0.25, 0.25, 0.5])


def test_consistency_equals_its_definition():
    rng = np.random.default_rng(0)
    x, maps = rng.normal(size=(40, 3)), rng.normal(size=(40, 3))
    model = lambda x: x  # noqa: E731
    found = replace(_Constant()(model, x), values=maps)
    for kind, signed in (("top_sign", True), ("top", False)):
        labels = [literal.top(row, 2, signed) for row in maps]
        wanted = literal.consistency(labels, list(x.argmax(axis=1)))
        np.testing.assert_allclose(metrics.Consistency(top=2, discretise=kind)(model, found), wanted, rtol=1e-12)


# Options of the explainer


def test_hyperparameters_by_hand():
    """`c * x` for c = 1 and 3: the deviation is |x|, the size 2 |x|."""
    model = xai.wrap(net)
    found = _Input(scale=1.0)(model, X)
    got = metrics.HyperparameterSensitivity(option="scale", choices=(1.0, 3.0))(model, found)
    np.testing.assert_allclose(got, 0.5, rtol=1e-12)
    np.testing.assert_allclose(got.details["spearman"], np.ones((3, 1)), rtol=1e-12)
    # The one that made the explanation is not asked again.
    assert got.rows == (3 + 3, 0)


def test_hyperparameters_equal_the_definition():
    model = model_over(np)
    found = xai.IntegratedGradients(steps=2)(model, X)
    got = metrics.HyperparameterSensitivity(option="quadrature", choices=("riemann_left", "trapezoid", "riemann_right"))
    scores = got(model, found)
    maps = [replace(found.explainer, quadrature=rule)(model, X).values for rule in got.choices]
    for i in range(3):
        np.testing.assert_allclose(scores.values[i], literal.spread([each[i] for each in maps]), rtol=1e-9)
        for place, (a, b) in enumerate(literal.pairs(3)):
            wanted = scipy.stats.spearmanr(maps[a][i], maps[b][i]).statistic
            np.testing.assert_allclose(scores.details["spearman"][i, place], wanted, rtol=1e-9)
    # Without options: half the steps, and twice as many.
    plain = metrics.HyperparameterSensitivity()(model, found)
    maps = [xai.IntegratedGradients(steps=steps)(model, X).values for steps in (1, 2, 4)]
    wanted = [literal.spread([each[i] for each in maps]) for i in range(3)]
    np.testing.assert_allclose(plain, wanted, rtol=1e-9)


def test_hyperparameters_of_explainers_that_draw_have_the_same_numbers():
    """Another noise of the same draws is another multiple of it; of other draws it would be another map."""
    model = model_over(np)
    found = xai.SmoothGrad(samples=4, noise=0.1)(model, X, seed=5)
    got = metrics.HyperparameterSensitivity(option="samples", choices=(4, 6))(model, found, seed=1)
    more = xai.SmoothGrad(samples=6, noise=0.1)(model, X, seed=5)
    wanted = [literal.spread([found.values[i], more.values[i]]) for i in range(3)]
    np.testing.assert_allclose(got, wanted, rtol=1e-9)


# Work


def test_metrics_share_neighbours_within_an_evaluation():
    model = xai.wrap(net, batch_size=6)
    found = _Input()(model, X)
    one = metrics.MaxSensitivity()(model, found)
    three = metrics.evaluate(model, found, [metric() for metric in NEAR], progress=False)
    assert three.rows == one.rows == (3 + 30, 0)
    # The model's outputs do not depend on the explanation.
    two = {"a": found, "b": _Input(power=2)(model, X)}
    stable = metrics.evaluate(model, two, [metric() for metric in STABLE], progress=False)
    assert stable.rows == (3 + 3 + 30 + 2 * 30, 0)
    for name, explanation in two.items():
        for metric in STABLE:
            np.testing.assert_array_equal(stable.scores[name][metric.__name__].values, metric()(model, explanation))


def test_memory_does_not_grow_with_samples():
    import tracemalloc

    x = np.ones((1, 50_000), dtype="float32")
    model = xai.wrap(lambda x: x[:, :2] + x.mean(1, keepdims=True), batch_size=8)
    found = _Input()(model, x)
    peaks = []
    for samples in (16, 128):
        tracemalloc.start()
        metrics.RelativeOutputStability(samples=samples)(model, found)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_no_call_of_the_model_has_more_rows_than_fit():
    """Changed inputs are made for several calls at once."""
    sizes = []

    def counted(x):
        sizes.append(len(x))
        return x[:, :2] + x.mean(1, keepdims=True)

    found = _Input()(counted, np.linspace(0.1, 1.0, 50_000, dtype="float32")[None])
    for metric in (metrics.RelativeOutputStability(samples=40), metrics.PGI(samples=40), metrics.PGU(samples=40)):
        sizes.clear()
        metric(counted, found)
        assert LEAST_ROWS / 2 < max(sizes) <= LEAST_ROWS


def test_half_precision_is_rounded_as_the_explanation_is():
    """A constant explainer of halves computes in single precision; 0.1 is another number there."""

    @dataclass(frozen=True, eq=False, repr=False, kw_only=True)
    class _Wide(Explainer):
        differentiates: ClassVar[bool] = False

        def attribute(self, problem):
            return Attribution([np.full(leaf.shape, 0.1, dtype="float32") for leaf in problem.varied])

    model = xai.wrap(lambda x: x[:, :2].astype("float32"))
    found = _Wide()(model, X.astype("float16"))
    assert found.values.dtype == np.float16
    np.testing.assert_array_equal(metrics.MaxSensitivity()(model, found), 0.0)


# Refusals


def test_options_are_checked():
    for make in (
        lambda: metrics.MaxSensitivity(radius=0.0),
        lambda: metrics.MaxSensitivity(radius=float("inf")),
        lambda: metrics.MaxSensitivity(radius=True),
        lambda: metrics.AvgSensitivity(samples=0),
        lambda: metrics.Continuity(shifts=0),
        lambda: metrics.Consistency(discretise="rank"),
        lambda: metrics.Consistency(top=0),
        lambda: metrics.HyperparameterSensitivity(option="steps", choices=(3,)),
        lambda: metrics.HyperparameterSensitivity(option="steps", choices=3),
    ):
        with pytest.raises(xai.OptionError):
            make()


def test_what_cannot_be_judged_is_refused():
    model = xai.wrap(net)
    found = _Input()(model, X)
    with pytest.raises(xai.OptionError, match="several samples"):
        metrics.Consistency()(model, _Input()(model, X[:1]))
    single = xai.wrap(lambda x: x.sum(axis=1))
    with pytest.raises(xai.OptionError, match="several samples"):
        metrics.Consistency()(single, _Input()(single, X))
    with pytest.raises(xai.OptionError, match="labels of each sample"):
        metrics.Consistency(discretise=lambda values: values[0])(model, replace(found, values=X[:, :1]))
    with pytest.raises(xai.OptionError, match="another size"):
        metrics.MaxSensitivity()(model, replace(found, values=X[:, :2]))
    with pytest.raises(xai.OptionError, match="no option 'steps'"):
        metrics.HyperparameterSensitivity(option="steps", choices=(1, 2))(model, found)
    with pytest.raises(xai.OptionError, match="no option None"):
        metrics.HyperparameterSensitivity()(model, found)
    with pytest.raises(xai.OptionError, match="Say which"):
        metrics.HyperparameterSensitivity(option="scale")(model, found)
    with pytest.raises(xai.OptionError, match="how it was made"):
        metrics.MaxSensitivity()(model, replace(found, explainer=None))
    whole = xai.wrap(lambda x: x.astype(float))
    integers = xai.Occlusion()(whole, np.arange(6).reshape(2, 3))
    with pytest.raises(xai.IntegerInputError, match="integers"):
        metrics.MaxSensitivity()(whole, integers)
    with pytest.raises(xai.OptionError, match="Which layer"):
        metrics.RelativeRepresentationStability()(model, found)
    with pytest.raises(xai.NonFiniteError, match="anew"), np.errstate(all="ignore"):
        metrics.MaxSensitivity()(model, replace(found, explainer=_Bad()))


def test_directions():
    for metric in ALL:
        assert metric.higher_is_better is False
        assert metric.category == "robustness"
    assert metrics.Consistency.higher_is_better is True


def test_the_largest_of_equal_values_are_the_first_ones():
    rng = np.random.default_rng(0)
    for sizes in (rng.random((5, 40)), rng.integers(0, 4, (5, 40)).astype(float), np.zeros((2, 7)), np.ones((2, 3))):
        wanted = np.sort(np.argsort(-sizes, axis=1, kind="stable")[:, :5], axis=1)
        np.testing.assert_array_equal(robustness._largest(sizes, 5), wanted)
    for width in (400, 401, 3000):  # runs of 20 and of 64, and some elements in none
        for top in (3, 200, 2**40):
            sizes = rng.integers(0, top, (5, width)).astype(float)
            wanted = np.sort(np.argsort(-sizes, axis=1, kind="stable")[:, :5], axis=1)
            np.testing.assert_array_equal(robustness._largest(sizes, 5), wanted)
