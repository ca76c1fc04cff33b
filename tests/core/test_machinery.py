"""Streams, blocks, structures, baselines, targets, results."""

from __future__ import annotations

import collections
import gc
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strict import ComplexStepBackend, strict_model

import xai_core as xai
from xai_core import cores, targets
from xai_core.baselines import blur_matrix
from xai_core.blocks import blocks, spans
from xai_core.model import Model
from xai_core.streams import Streams
from xai_core.structure import flatten
from xai_core.testing import assert_close, mlp, weights

HELD = weights(dtype="float64")


def model(**options):
    return strict_model(lambda x: mlp(HELD, x), np, **options)


def inputs(rows=4):
    return np.random.default_rng(0).normal(size=(rows, 6))


# --- streams


@given(
    seed=st.integers(0, 2**40),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    rows=st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True),
)
def test_a_draw_does_not_depend_on_how_draws_are_cut(seed, cuts, rows):
    whole = Streams.of(seed, range(10)).normal(range(10), range(sum(cuts)), (3,))
    streams, start = Streams.of(seed, range(10)), 0
    for size in cuts:
        part = streams.normal(rows, range(start, start + size), (3,))
        assert np.array_equal(part, whole[rows, start : start + size])
        start += size


@given(
    seed=st.integers(0, 2**40),
    count=st.sampled_from([1, 3, 8, 13, 500]),
    draws=st.lists(st.integers(0, 1100), min_size=1, max_size=12),
)
def test_uniform_draws_do_not_depend_on_which_are_asked_for(seed, count, draws):
    whole = Streams.of(seed, range(3)).uniform(range(3), range(1101), count)
    assert 0.4 < whole.mean() < 0.6
    assert whole.min() >= 0
    assert whole.max() < 1
    for asked in (draws, sorted(draws), [draws[0], *draws]):
        part = Streams.of(seed, range(3)).uniform([2, 0], asked, count)
        assert np.array_equal(part, whole[[2, 0]][:, asked])


def test_normal_draws_of_many_numbers_on_all_cores_are_those_of_each_row_alone():
    streams = Streams.of(0, range(33))
    many = [streams.normal(range(33), draws, (2000,)) for draws in ([0, 1, 2], [3, 4, 4])]
    for row in range(33):
        alone = Streams.of(0, range(33)).normal([row], range(5), (2000,))[0]
        np.testing.assert_array_equal(np.concatenate([part[row] for part in many]), alone[[0, 1, 2, 3, 4, 4]])


@pytest.fixture
def three_cores(monkeypatch):
    monkeypatch.setattr(cores, "CORES", 3)
    cores._pool.cache_clear()
    yield
    cores._pool().shutdown()
    cores._pool.cache_clear()


def test_work_on_all_cores(three_cores):
    """In order, on several threads, also inside of itself, where no thread may be left to wait for."""
    meet = threading.Barrier(3, timeout=30)

    def thread(item):
        meet.wait()
        return item, threading.get_ident()

    found = cores.on_all_cores(thread, [0, 1, 2])
    assert [item for item, _ in found] == [0, 1, 2]
    assert len({number for _, number in found}) == 3
    inner = cores.on_all_cores(lambda i: cores.on_all_cores(lambda j: 10 * i + j, range(5)), range(7))
    assert inner == [[10 * i + j for j in range(5)] for i in range(7)]
    assert cores.on_all_cores(abs, []) == []


def test_an_error_on_one_core_is_raised_and_ends_the_others(three_cores):
    done = []

    def work(item):
        if item == 1:
            raise ValueError("one")
        done.append(item)

    for items in (range(3), range(1, 4)):
        with pytest.raises(ValueError, match="one"):
            cores.on_all_cores(work, items)
    assert 0 in done


def test_streams_inside_a_method_have_keys_of_sample_and_draw():
    inside = Streams.of(0, [7, 9]).children([1, 0], [3, 4, 5])
    assert list(inside.keys) == [(9, 3), (9, 4), (9, 5), (7, 3), (7, 4), (7, 5)]
    assert inside.keys[-1] == (7, 5)
    assert inside.children([5], [2]).keys[0] == (7, 5, 2)


def test_draws_differ_between_samples_draws_seeds_and_inputs():
    first = Streams.of(0, range(3)).normal(range(3), range(200), (2,))
    assert len(np.unique(first)) == first.size
    assert not np.array_equal(first, Streams.of(1, range(3)).normal(range(3), range(200), (2,)))
    assert not np.array_equal(first, Streams.of(0, range(3)).normal(range(3), range(200), (2,), part=1))
    assert abs(first.mean()) < 0.1
    assert abs(first.std() - 1) < 0.1


def test_global_random_state_is_neither_read_nor_written():
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    a = xai.SmoothGrad(samples=4)(model(), inputs(), seed=1).values
    assert np.array_equal(np.random.get_state()[1], before)
    np.random.seed(4)
    assert np.array_equal(xai.SmoothGrad(samples=4)(model(), inputs(), seed=1).values, a)
    assert not np.array_equal(xai.SmoothGrad(samples=4)(model(), inputs(), seed=2).values, a)


# --- blocks


@pytest.mark.parametrize(("dtype", "most"), [("float32", 4096), ("int64", 1024)])
def test_calls_without_batch_size_hold_few_rows_of_integers(dtype, most):
    sizes = []

    def net(x):
        sizes.append(len(x))
        return x.sum(axis=1, keepdims=True) * 1.0

    xai.FeatureAblation()(xai.wrap(net), np.ones((6000, 3), dtype=dtype), target=0)
    assert most / 2 < max(sizes) <= most


@given(samples=st.integers(1, 50), draws=st.integers(1, 200), rows=st.integers(1, 64), constant=st.booleans())
def test_blocks_cover_every_pair_once(samples, draws, rows, constant):
    seen, widths = collections.Counter(), set()
    for block, parts in blocks(samples, draws, rows, constant=constant):
        for part in parts:
            assert block.width * part.width <= max(rows, 1)
            widths.add((block.width, part.width))
            for i in block.indices[: block.size]:
                seen.update((i, j) for j in part.indices[: part.size])
    assert set(seen) == {(i, j) for i in range(samples) for j in range(draws)}
    assert set(seen.values()) == {1}
    if constant:
        assert len(widths) == 1


@given(total=st.integers(1, 500), limit=st.integers(1, 64))
def test_constant_spans_fill_up_little(total, limit):
    padded = sum(block.width for block in spans(total, limit, constant=True))
    assert padded - total < max(limit, 1)


# --- structures

Pair = collections.namedtuple("Pair", ["left", "right"])


@pytest.mark.parametrize("x", [1, (1, 2), [1, 2], {"a": 1, "b": (2, {"c": 3})}, Pair(1, 2)])
def test_structures_come_back(x):
    leaves, structure = flatten(x)
    assert structure.rebuild(leaves) == x
    assert type(structure.rebuild(leaves)) is type(x)


# --- targets


def test_target_kinds_agree():
    x = inputs()
    one = xai.Gradient()(model(), x, target=2).values
    for target in (np.full(4, 2), [2, 2, 2, 2], (2,), lambda scores: scores[:, 2]):
        assert_close(xai.Gradient()(model(), x, target=target).values, one, relative=1e-14)


def test_targets_of_outputs_with_more_axes():
    """A segmentation: scores (batch, 2, 3), an index tuple with ints and one entry per sample."""
    x = inputs()
    dense = strict_model(lambda x: np.reshape(np.concatenate([mlp(HELD, x), 2 * mlp(HELD, x)], axis=1), (-1, 2, 3)), np)
    found = xai.Gradient()(dense, x, target=(1, np.array([0, 1, 2, 0])))
    expected = xai.Gradient()(model(), x, target=np.array([0, 1, 2, 0]))
    assert_close(found.values, 2 * expected.values, relative=1e-12)
    with pytest.raises(xai.TargetError, match="callable"):
        xai.Gradient()(dense, x)


def test_regression_needs_no_target():
    x = inputs()
    for shape in ((-1,), (-1, 1)):
        single = strict_model(lambda x, shape=shape: np.reshape(mlp(HELD, x)[:, :1], shape), np)
        found = xai.Gradient()(single, x)
        assert_close(found.values, xai.Gradient()(model(), x, target=0).values, relative=1e-14)
        assert found.score.shape == (4,)


# --- baselines


def values(baseline, x=None, **options):
    x = inputs() if x is None else x
    return xai.IntegratedGradients(steps=12, baseline=baseline)(model(**options), x, target=0, seed=3).values


def test_baselines_of_every_kind():
    x = inputs()
    zero = values(0.0)
    for same in (0, xai.Zero(), np.zeros(6), np.zeros((1, 6)), np.zeros((4, 6)), lambda x: 0 * x, np.float32(0)):
        assert_close(values(same), zero, relative=1e-14)
    mean = values(np.repeat(x.mean(axis=1, keepdims=True), 6, axis=1))
    assert_close(values(xai.Mean()), mean, relative=1e-12)
    data = np.random.default_rng(9).normal(size=(5, 6))
    sampled = values(xai.Sample(data))
    assert np.array_equal(sampled, values(xai.Sample(data)))
    row = values(data[0])
    assert not np.allclose(sampled, row)
    assert not np.allclose(values(xai.Noise(0.5)), zero)


def test_noise_and_sample_baselines_belong_to_the_sample():
    x = inputs()
    data = np.random.default_rng(9).normal(size=(5, 6))
    for baseline in (xai.Noise(), xai.Sample(data)):
        explainer = xai.IntegratedGradients(steps=5, baseline=baseline)
        whole = explainer(model(), x, target=0, seed=3).values
        for row in range(4):
            part = explainer(model(), x[row : row + 1], target=0, seed=3, index=row).values
            assert_close(part, whole[row : row + 1], relative=1e-13)


def test_baselines_of_structures():
    held = weights(dtype="float64")
    joined = strict_model(lambda p: mlp(held, np.concatenate([p["a"], p["b"]], axis=1)), np)
    x = inputs()
    split = {"a": x[:, :4], "b": x[:, 4:]}
    found = xai.IntegratedGradients(steps=12, baseline={"a": np.ones(4), "b": xai.Mean()})(joined, split, target=0)
    start = np.concatenate([np.ones((4, 4)), np.repeat(x[:, 4:].mean(axis=1, keepdims=True), 2, axis=1)], axis=1)
    expected = values(start)
    assert_close(np.concatenate([found.values["a"], found.values["b"]], axis=1), expected, relative=1e-12)


def test_mean_and_blur_keep_channels_apart():
    x = np.random.default_rng(0).normal(size=(2, 12, 10, 3))
    seen = {}

    def remember(x):
        return np.sum(np.reshape(x, (len(x), -1)), axis=1)

    for name, baseline in {"mean": xai.Mean(), "blur": xai.Blur(2.0)}.items():
        found = xai.IntegratedGradients(steps=2, baseline=baseline)(strict_model(remember, np), x)
        seen[name] = x - found.values  # the gradient is one
    np.testing.assert_allclose(seen["mean"], np.broadcast_to(x.mean(axis=(1, 2), keepdims=True), x.shape))
    ndimage = pytest.importorskip("scipy.ndimage")
    expected = ndimage.gaussian_filter(x, (0, 2.0, 2.0, 0), mode="reflect")
    np.testing.assert_allclose(seen["blur"], expected, atol=1e-10)


@given(size=st.integers(1, 30), sigma=st.floats(0.1, 20))
def test_blur_matrix_keeps_constants(size, sigma):
    np.testing.assert_allclose(blur_matrix(size, sigma).sum(axis=1), 1.0)


# --- results


@pytest.mark.parametrize(
    "explainer", [xai.IntegratedGradients(steps=6), xai.SmoothGrad(xai.InputXGradient(), samples=3)]
)
def test_explanations_survive_the_disk(explainer, tmp_path):
    found = explainer(model(), inputs(), seed=4)
    found.save(tmp_path / "e.npz")
    loaded = xai.load(tmp_path / "e.npz")
    assert loaded.explainer == explainer
    assert loaded.seed == 4
    assert loaded.rows == found.rows
    for name in ("values", "inputs", "score", "target", "residual"):
        assert np.array_equal(getattr(loaded, name), getattr(found, name)), name


def test_structured_explanations_and_arrays_in_options_survive_the_disk(tmp_path):
    joined = strict_model(lambda p: mlp(HELD, np.concatenate([p["a"], p["b"][0]], axis=1)), np)
    x = inputs()
    explainer = xai.IntegratedGradients(steps=3, baseline={"a": np.ones(4), "b": [0.5]})
    found = explainer(joined, {"a": x[:, :4], "b": [x[:, 4:]]}, target=lambda s: s[:, 0])
    found.save(tmp_path / "e.npz")
    loaded = xai.load(tmp_path / "e.npz")
    assert np.array_equal(loaded.values["b"][0], found.values["b"][0])
    assert loaded.explainer == explainer


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"nothing")
    with pytest.raises(xai.InputError):
        xai.load(tmp_path / "x.npz")


def test_pictures_of_images_tables_and_signals(tmp_path):
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    cases = {
        "image": rng.normal(size=(2, 16, 16, 3)),
        "grey": rng.normal(size=(2, 16, 16)),
        "table": rng.normal(size=(2, 6)),
        "signal": rng.normal(size=(2, 100)),
        "channels": rng.normal(size=(2, 100, 2)),
    }
    for name, x in cases.items():
        size = int(np.prod(x.shape[1:]))
        w = rng.normal(size=size)
        found = xai.Occlusion()(lambda x, w=w, size=size: np.reshape(x, (len(x), size)) @ w, x)
        figure = found.plot(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 2000, name
        assert len(figure.axes) >= 2
        html = found._repr_html_()
        assert "data:image/png;base64," in html
        assert "Occlusion" in html


def test_plot_names_the_features():
    pytest.importorskip("matplotlib")
    found = xai.Occlusion()(lambda x: x @ np.arange(3.0), np.ones((1, 3)))
    labels = [text.get_text() for text in found.plot(names=["age", "dose", "weight"]).axes[0].get_yticklabels()]
    assert labels == ["age", "dose", "weight"]  # bars from below, the largest on top
    with pytest.raises(xai.InputError, match="one name per feature"):
        found.plot(names=["age"])


def test_memory_does_not_grow_with_steps(request):
    held = weights(inputs=6000, hidden=4, dtype="float32")
    x = np.random.default_rng(0).normal(size=(2, 6000)).astype("float32")

    class ByHand(ComplexStepBackend):
        """A gradient by hand, so that only the toolkit's memory is measured."""

        def vjp(self, function, leaves):
            value = function(leaves)
            return value, lambda cotangent: [np.broadcast_to(held.first[:, 0], leaves[0].shape) * cotangent[:, None]]

    net = lambda x: mlp(held, x)  # noqa: E731
    by_hand = Model(net, ByHand(np).adapt(net, None), batch_size=16)
    peaks = []
    gc.disable()  # what only the garbage collector would free, accelerators keep too long
    request.addfinalizer(gc.enable)
    for steps in (50, 5000):
        for explainer in (xai.IntegratedGradients(steps=steps), xai.SmoothGrad(samples=steps)):
            explainer(by_hand, x, target=0)
            tracemalloc.start()
            explainer(by_hand, x, target=0)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[2] < 1.3 * peaks[0]
    assert peaks[3] < 1.3 * peaks[1]


def test_explainers_are_values():
    a, b = xai.IntegratedGradients(steps=4, baseline=np.ones(3)), xai.IntegratedGradients(steps=4, baseline=np.ones(3))
    assert a == b
    assert hash(a) == hash(b)
    assert a != xai.IntegratedGradients(steps=5, baseline=np.ones(3))
    assert a != xai.IntegratedGradients(steps=4, baseline=np.zeros(3))
    assert "float64" in repr(a)
    with pytest.raises(AttributeError):
        a.steps = 5


def test_methods_by_name():
    x = inputs()
    found = xai.explain(model(), x, method="integrated_gradients", steps=5, target=1)
    assert found.explainer == xai.IntegratedGradients(steps=5)
    assert xai.explain(model(), x, method=xai.Gradient()).explainer == xai.Gradient()
    assert xai.methods()["gradient_shap"] is xai.ExpectedGradients is xai.GradientSHAP
    assert xai.methods()["sliding_patch"] is xai.Occlusion is xai.SlidingPatch


def test_halves_accumulate_in_single_precision():
    """Sums of 2,000 steps in float16 would lose most of them."""
    w = np.full(4, 1e-3, dtype="float16")
    seen = []

    def net(x):
        seen.append(x.dtype)
        return (x @ w)[:, None]

    x = np.ones((2, 4), dtype="float16")
    found = xai.Occlusion()(net, x)
    assert found.values.dtype == np.float16
    assert set(map(str, seen)) == {"float16"}
    np.testing.assert_allclose(found.values, 1e-3, rtol=5e-2)


@given(
    st.lists(
        st.lists(st.sampled_from([-np.inf, -3e38, -2.0, 0.0, 1.0, 3e38]), min_size=4, max_size=4),
        min_size=1,
        max_size=5,
    )
)
def test_the_two_largest_outputs(rows):
    """Of equal ones the first, also among numbers so large that one less is no less, and infinite ones."""
    outputs = np.asarray(rows, dtype=np.float32)
    found = targets._largest(np, outputs, 2)
    for row, (first, second) in zip(outputs, found, strict=True):
        order = np.argsort(-row, kind="stable")
        assert (first, second) == tuple(order[:2])


def test_the_two_largest_of_many_outputs_in_half_precision_and_of_one():
    outputs = np.zeros((2, 3000), dtype=np.float16)
    outputs[0, [2901, 2902]] = 2, 1
    outputs[1, [0, 2999]] = -1, 3
    np.testing.assert_array_equal(targets._largest(np, outputs, 2), [[2901, 2902], [2999, 1]])
    np.testing.assert_array_equal(targets._largest(np, np.ones((2, 1)), 2), [[0, 0], [0, 0]])
