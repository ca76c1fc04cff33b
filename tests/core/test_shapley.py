"""Shapley methods on games with known answers, and the axioms, with no framework installed."""

from __future__ import annotations

import itertools

import array_api_strict
import literal_shapley as literal
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strict import second_device, strict_model

import xai_core as xai
from xai_core.coalitions import orders, regression
from xai_core.hierarchy import owen_contexts, owen_rows
from xai_core.testing import assert_close

SAMPLED = (xai.KernelSHAP, xai.PermutationSHAP, xai.ShapleySampling)
ALL = (xai.ExactSHAP, *SAMPLED, xai.PartitionSHAP)


def additive(weights):
    return lambda x: (x @ np.asarray(weights, dtype=x.dtype))[:, None]


def product(x):
    """All players or nothing, and a player alone."""
    return (np.prod(x[:, :3], axis=1) + 2 * x[:, 3])[:, None]


def majority(x):
    return (np.sum(x, axis=1) > x.shape[1] / 2).astype(x.dtype)[:, None]


def interactions(players, seed=0):
    """A random game with interactions of two and three, and one dummy, the last player."""
    rng = np.random.default_rng(seed)
    pairs = [(a, b, rng.normal()) for a, b in itertools.combinations(range(players - 1), 2)]
    triples = [(*rng.choice(players - 1, 3, replace=False), rng.normal()) for _ in range(players)]
    single = rng.normal(size=players) * (np.arange(players) < players - 1)

    def net(x):
        out = x @ single
        for a, b, weight in pairs:
            out = out + weight * x[:, a] * x[:, b]
        for a, b, c, weight in triples:
            out = out + weight * x[:, a] * x[:, b] * x[:, c]
        return out[:, None]

    return net


PLANTED = {
    "additive": (additive([1.0, -2.0, 0.5, 0.0, 3.0]), [1.0, -2.0, 0.5, 0.0, 3.0]),
    "product": (product, [1 / 3, 1 / 3, 1 / 3, 2.0, 0.0]),
    "majority": (majority, [0.2] * 5),
}


@pytest.mark.parametrize("planted", PLANTED)
@pytest.mark.parametrize("method", ALL, ids=lambda m: m.__name__)
def test_planted_games(method, planted):
    """Additive, product, majority; dummies and symmetric players among them. All coalitions fit into the default."""
    net, wanted = PLANTED[planted]
    options = {"hierarchy": tuple(range(5))} if method is xai.PartitionSHAP else {}
    found = method(**options)(net, np.ones((2, 5)), target=0)
    np.testing.assert_allclose(found.values, [wanted] * 2, atol=1e-12)
    np.testing.assert_allclose(found.residual, 0, atol=1e-12)
    assert found.rows[0] <= 2 * (2**5 + 1)


@pytest.mark.parametrize("players", [4, 7, 10])
@pytest.mark.parametrize("method", [xai.ExactSHAP, xai.KernelSHAP], ids=lambda m: m.__name__)
def test_exact_where_all_coalitions_are_evaluated(method, players):
    net, x = interactions(players), np.random.default_rng(players).normal(size=(2, players))
    found = method()(net, x, target=0)
    wanted = literal.explained(literal.shapley, net, x, 0)
    np.testing.assert_allclose(found.values, wanted, atol=1e-10)


@pytest.mark.parametrize("samples", [40, 120, 300])
@pytest.mark.parametrize("method", SAMPLED, ids=lambda m: m.__name__)
def test_estimates_are_within_their_own_standard_error(method, samples):
    """Over many seeds errors have the size that is said, and the mean is unbiased."""
    players, seeds = 9, range(40)
    net, x = interactions(players), np.random.default_rng(1).normal(size=(1, players))
    wanted = literal.explained(literal.shapley, net, x, 0)[0]
    runs = [method(samples=samples)(net, x, target=0, seed=seed) for seed in seeds]
    values = np.stack([run.values[0] for run in runs])
    for run in runs:
        np.testing.assert_allclose(run.residual, 0, atol=1e-10)
        assert run.rows[0] <= samples + 2
    said = np.stack([run.error[0] for run in runs])
    if np.isnan(said).any():
        assert method is not xai.KernelSHAP
        assert samples // (players - 1) < 8
        return
    off = (values - wanted) / np.maximum(said, 1e-9)
    assert 0.6 < np.sqrt(np.mean(off**2)) < 1.4
    assert np.mean(np.abs(off) > 3) < 0.03
    bias = (values.mean(0) - wanted) / (values.std(0) / np.sqrt(len(seeds)) + 1e-12)
    assert np.sqrt(np.mean(bias**2)) < 1.8


@pytest.mark.parametrize("method", [xai.KernelSHAP, xai.PermutationSHAP], ids=lambda m: m.__name__)
def test_tolerance_is_met_or_said_not_to_be(method):
    net, x = interactions(9), np.random.default_rng(1).normal(size=(4, 9))
    x[3] = 0.0  # nothing to find out: it is done with the first rows
    x[3, 0] = 1.0
    found = method(samples=80, tolerance=0.1)(net, x, target=0)
    assert found.details["converged"].all()
    assert found.error.max() <= 0.1
    tight = method(samples=80, tolerance=1e-3, max_rows=200)(net, x, target=0)
    assert not tight.details["converged"][:3].any()
    assert tight.rows[0] <= 4 * (200 + 2)
    few = method(samples=80, tolerance=50.0)(net, x, target=0)
    plain = method(samples=80)(net, x, target=0)
    np.testing.assert_allclose(few.values, plain.values, atol=1e-12)
    assert few.rows == plain.rows


def test_each_sample_stops_by_itself():
    net, x = interactions(9), np.random.default_rng(1).normal(size=(3, 9)) * np.array([[1.0], [0.2], [1.0]])
    method = xai.KernelSHAP(samples=60, tolerance=0.08)
    together = method(net, x, target=0)
    for i in range(3):
        alone = method(net, x[i : i + 1], target=0, index=i)
        np.testing.assert_allclose(together.values[i], alone.values[0], atol=1e-12)
        np.testing.assert_allclose(together.error[i], alone.error[0], atol=1e-12)


# Axioms


@given(seed=st.integers(0, 10_000))
@pytest.mark.parametrize("method", ALL, ids=lambda m: m.__name__)
def test_efficiency_and_dummy(method, seed):
    """Efficiency to rounding whatever the rows; a player that changes nothing gets nothing where all are evaluated."""
    net, x = interactions(7, seed), np.random.default_rng(seed).normal(size=(2, 7))
    budgets = [{}] if method is xai.ExactSHAP else [{"samples": 30}, {}]
    for options in budgets:
        found = method(**options)(net, x, target=0)
        np.testing.assert_allclose(found.values.sum(1), net(x)[:, 0] - net(0 * x)[:, 0], atol=1e-9)
    np.testing.assert_allclose(found.values[:, -1], 0, atol=1e-9)


@given(seed=st.integers(0, 10_000), a=st.floats(-2, 2), b=st.floats(-2, 2))
@pytest.mark.parametrize("method", ALL, ids=lambda m: m.__name__)
def test_linearity(method, seed, a, b):
    one, two = interactions(6, seed), interactions(6, seed + 1)
    x = np.random.default_rng(seed).normal(size=(1, 6))
    options = {} if method is xai.ExactSHAP else {"samples": 30}
    explain = lambda net: method(**options)(net, x, target=0).values  # noqa: E731
    both = explain(lambda x: a * one(x) + b * two(x) + 1e-3 * x[:, :1])
    alone = explain(lambda x: x[:, :1])
    np.testing.assert_allclose(both, a * explain(one) + b * explain(two) + 1e-3 * alone, atol=1e-8)


@given(seed=st.integers(0, 10_000))
def test_symmetry(seed):
    """Two players that can stand for each other get the same, where all coalitions are evaluated."""
    inner = interactions(6, seed)
    net = lambda x: inner(x) + inner(x[:, [1, 0, 2, 3, 4, 5]])  # noqa: E731
    x = np.random.default_rng(seed).normal(size=(1, 6))
    x[:, 1] = x[:, 0]
    for method in (xai.ExactSHAP(), xai.KernelSHAP(), xai.PermutationSHAP()):
        found = method(net, x, target=0).values[0]
        np.testing.assert_allclose(found[0], found[1], atol=1e-9)


# Rows, outputs and what they do not depend on


@pytest.mark.parametrize(
    "method", [m(samples=40) for m in (*SAMPLED, xai.PartitionSHAP)], ids=lambda m: type(m).__name__
)
def test_batches_indices_and_outputs(method):
    rng = np.random.default_rng(0)
    first, second, data = rng.normal(size=(8, 5)), rng.normal(size=(5, 3)), rng.normal(size=(3, 8))
    net, x = (lambda x: np.tanh(x @ first) @ second), rng.normal(size=(5, 8))
    whole = method(net, x, target=1, seed=4)
    for size in (1, 7, 64):
        cut = method(xai.wrap(net, batch_size=size), x, target=1, seed=4)
        np.testing.assert_allclose(cut.values, whole.values, atol=1e-12)
        np.testing.assert_allclose(cut.error, whole.error, atol=1e-12)
    late = method(net, x[2:], target=1, seed=4, index=2)
    np.testing.assert_allclose(late.values, whole.values[2:], atol=1e-12)
    other = method(net, x, target=1, seed=5)
    assert np.abs(other.values - whole.values).max() > 1e-6
    every = method(net, x, target="all", seed=4)
    assert every.values.shape == (5, 8, 3)
    assert every.rows == whole.rows
    assert every.score.shape == every.residual.shape == (5, 3)
    np.testing.assert_allclose(every.values[..., 1], whole.values, atol=1e-12)
    np.testing.assert_allclose(every.error[..., 1], whole.error, atol=1e-12)
    averaged = type(method)(samples=150, background=data)(net, x, target=1)
    change = net(x)[:, 1] - net(data)[:, 1].mean()
    np.testing.assert_allclose(averaged.values.sum(1), change, atol=1e-12)
    assert averaged.rows[0] <= 5 * (1 + 3 + 150)


def test_features_across_inputs():
    """The same label in two inputs is one player; negative labels are always there."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=5)
    net = lambda p: ((p["a"] @ weights[:3] + p["b"] @ weights[3:]) ** 2)[:, None]  # noqa: E731
    x = {"a": rng.normal(size=(2, 3)), "b": rng.normal(size=(2, 2))}
    features = {"a": np.array([0, 1, 1]), "b": np.array([1, -1])}
    found = xai.ExactSHAP(features=features)(net, x, target=0)
    joined = np.concatenate([x["a"], x["b"]], axis=1)
    flat = lambda x: ((x @ weights) ** 2)[:, None]  # noqa: E731
    wanted = literal.explained(literal.shapley, flat, joined, 0, 0.0, np.array([0, 1, 1, 1, -1]))
    np.testing.assert_allclose(np.concatenate([found.values["a"], found.values["b"]], 1), wanted, atol=1e-12)
    np.testing.assert_allclose(found.features.values[:, 1], wanted[:, 1:4].sum(1), atol=1e-12)
    data = {"a": rng.normal(size=(4, 3)), "b": rng.normal(size=(4, 2))}
    averaged = xai.ExactSHAP(features=features, background=data)(net, x, target=0)
    both = np.concatenate([data["a"], data["b"]], axis=1)
    wanted = literal.explained(literal.shapley, flat, joined, 0, both, np.array([0, 1, 1, 1, -1]))
    np.testing.assert_allclose(np.concatenate([averaged.values["a"], averaged.values["b"]], 1), wanted, atol=1e-12)


def test_images_are_explained_by_tiles():
    x = np.random.default_rng(0).normal(size=(2, 3, 12, 20))
    shares = np.random.default_rng(1).normal(size=(12, 20))
    net = lambda x: (x.sum(1) * shares).sum((1, 2))[:, None]  # noqa: E731
    plain = xai.wrap(net, channel_axis=1)
    found = xai.KernelSHAP(features=xai.Patches((4, 5)))(plain, x, target=0)
    assert found.features.values.shape == (2, 12)
    tiles = (x.sum(1) * shares).reshape(2, 3, 4, 4, 5).sum((2, 4)).reshape(2, 12)
    np.testing.assert_allclose(found.features.values, tiles, atol=1e-9)
    np.testing.assert_allclose(found.values.sum((1, 2, 3)), tiles.sum(1), atol=1e-9)
    np.testing.assert_allclose(
        found.values[:, 0, :4, :5], (tiles[:, 0] / 60)[:, None, None] * np.ones((4, 5)), atol=1e-12
    )
    assert xai.KernelSHAP()(plain, x, target=0).features.values.shape[1] <= 64
    last = xai.wrap(lambda x: net(np.moveaxis(x, -1, 1)), channel_axis=-1)
    turned = xai.KernelSHAP(features=xai.Patches((4, 5)))(last, np.moveaxis(x, 1, -1), target=0)
    np.testing.assert_allclose(np.moveaxis(turned.values, -1, 1), found.values, atol=1e-12)


@pytest.mark.parametrize(
    "place", [(array_api_strict, None), (array_api_strict, second_device())], ids=["strict", "device"]
)
def test_sampled_estimates_in_strict_namespaces(place):
    """The same numbers as over NumPy, from a namespace that forgives nothing."""
    rng = np.random.default_rng(0)
    first, second, host = rng.normal(size=(8, 5)), rng.normal(size=(5, 3)), rng.normal(size=(3, 8))
    wanted = strict_model(lambda x: np.tanh(x @ first) @ second, np)
    xp, device = place

    def net(x):
        return xp.matmul(xp.tanh(xp.matmul(x, xp.asarray(first, device=device))), xp.asarray(second, device=device))

    model = strict_model(net, xp, device)
    to_host = model.adapted.backend.to_numpy
    x = model.adapted.backend.asarray(host, None)
    extra = {"tolerance": 0.05, "max_rows": 400}
    for method in (xai.KernelSHAP, xai.PermutationSHAP, xai.ShapleySampling, xai.PartitionSHAP):
        for options in ({}, extra):
            explainer = method(samples=60, **options)
            found, plain = explainer(model, x, target=2), explainer(wanted, host, target=2)
            assert_close(to_host(found.values), plain.values, relative=1e-12)
            assert_close(to_host(found.error), plain.error, relative=1e-9)


MANY = 6000
WIDE = [
    xai.KernelSHAP(samples=40),
    xai.PermutationSHAP(samples=2 * MANY),
    xai.ShapleySampling(samples=MANY),
    xai.FeatureAblation(),
    xai.Occlusion(window=1, stride=1),
    xai.LIME(samples=40, mode="image"),
    xai.HSICAttribution(samples=40),
    xai.PredictionDifference(background=np.zeros((2, MANY), dtype="float32"), samples=1, measure="difference"),
]


@pytest.mark.parametrize("method", WIDE, ids=lambda m: type(m).__name__)
def test_memory_does_not_grow_with_features_squared(method):
    """A square of them would have 36 MB as truths and 288 MB as numbers; also the pixels of an image, one by one."""
    import tracemalloc

    weights = np.random.default_rng(0).normal(size=(MANY, 1)).astype("float32")
    net = xai.wrap(lambda x: x.reshape(len(x), -1) @ weights, batch_size=16, channel_axis=1)
    shape = (1, 1, 75, 80) if isinstance(method, xai.Occlusion) else (1, MANY)
    tracemalloc.start()
    method(net, np.ones(shape, dtype="float32"), target=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24e6


# Designs


@pytest.mark.parametrize(("players", "pairs"), [(5, 6), (8, 30), (11, 200), (40, 100), (300, 50), (3000, 20)])
def test_designs_hold_each_pair_once(players, pairs):
    design = regression(players, pairs, 3)
    assert pairs - 1 <= len(design.masks) <= pairs + 1
    both = np.concatenate([design.masks, ~design.masks])
    assert len(np.unique(both, axis=0)) == len(both)
    sizes = both.sum(1)
    assert sizes.min() >= 1
    assert sizes.max() <= players - 1
    # Estimates leave the sum to the constraint.
    np.testing.assert_allclose(design.estimate.sum(0), 0, atol=1e-9)
    more = regression(players, 2 * pairs, 3)
    known = {row.tobytes() for row in np.packbits(np.concatenate([more.masks, ~more.masks]), axis=1)}
    shared = sum(row.tobytes() in known for row in np.packbits(design.masks, axis=1))
    assert pairs < players or shared >= 0.9 * len(design.masks)


def test_regression_is_weighted_least_squares():
    """Of the pairs that it has, with the weights of the kernel over how likely each pair was drawn."""
    design, rng = regression(6, 31, 0), np.random.default_rng(0)
    net = interactions(6)
    x = rng.normal(size=(1, 6))
    worth = {}
    for row in np.concatenate([design.masks, ~design.masks]):
        worth[row.tobytes()] = net(row[None] * x)[0, 0]
    halves = np.array([(worth[row.tobytes()] - worth[(~row).tobytes()]) / 2 for row in design.masks])
    change = (net(x) - net(0 * x))[0, 0]
    values = change / 6 + design.estimate @ (halves - (design.masks.mean(1) - 0.5) * change)
    np.testing.assert_allclose(values, literal.explained(literal.shapley, net, x, 0)[0], atol=1e-9)
    np.testing.assert_allclose(design.spread, 0)


def test_orders_are_uniform_and_nested():
    found = orders(4, 6000, 0)
    assert np.array_equal(np.sort(found, axis=1), np.tile(np.arange(4), (6000, 1)))
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == 24
    assert np.abs(counts - 250).max() < 5 * np.sqrt(250)
    np.testing.assert_array_equal(orders(9, 20, 1), orders(9, 50, 1)[:20])


@pytest.mark.parametrize("tree", [((0, 1), (2, 3, 4)), (((0, 1), 2), 3), (0, 1, 2, 3)])
def test_owen_rows_are_counted(tree):
    members, weights = owen_contexts(tree, len(list(literal.orders(tree)[0])))
    assert len(members) - 2 == owen_rows(tree)
    np.testing.assert_allclose(weights.sum(1), 0, atol=1e-12)


@pytest.mark.parametrize("samples", [20, 2000])
def test_owen_values_of_a_hierarchy(samples):
    tree = (((0, 1), 2), (3, (4, 5, 6)))
    net, x = interactions(7), np.random.default_rng(3).normal(size=(2, 7))
    wanted = literal.explained(lambda worth, players: literal.owen(worth, tree, players), net, x, 0)
    found = xai.PartitionSHAP(hierarchy=tree, samples=samples, tolerance=None if samples > 100 else 0.3, max_rows=4000)
    result = found(net, x, target=0)
    if samples > 100:
        np.testing.assert_allclose(result.values, wanted, atol=1e-10)
    else:
        assert result.details["converged"].all()
        assert np.abs(result.values - wanted).max() < 4 * 0.3
        assert np.abs(result.values - wanted).max() > 1e-6


# What is refused


def test_what_is_refused():
    net, x = additive(np.ones(20)), np.ones((2, 20))
    with pytest.raises(xai.OptionError, match=r"2\^20"):
        xai.ExactSHAP()(net, x)
    with pytest.raises(xai.OptionError, match="background"):
        xai.KernelSHAP(baseline=1.0, background=x)(net, x)
    with pytest.raises(xai.BaselineError, match="samples like"):
        xai.KernelSHAP(background=x[:, :3])(net, x)
    with pytest.raises(xai.BaselineError, match="broadcast"):
        xai.KernelSHAP(baseline=np.ones(3))(net, x)
    with pytest.raises(xai.OptionError, match="broadcast"):
        xai.KernelSHAP(features=np.zeros(3, dtype=int))(net, x)
    with pytest.raises(xai.OptionError, match="integers"):
        xai.KernelSHAP(features=np.zeros(20))(net, x)
    with pytest.raises(xai.OptionError, match="no features"):
        xai.KernelSHAP(features=np.full(20, -1))(net, x)
    with pytest.raises(xai.OptionError, match="without elements"):
        xai.KernelSHAP()(lambda x: x.sum(axis=1), x[:, :0])
    with pytest.raises(xai.BaselineError, match="broadcast"):
        xai.KernelSHAP(baseline=lambda x: None)(net, x)
    with pytest.raises(xai.OptionError, match="in no group"):
        xai.KernelSHAP(features=xai.Groups({"a": [0, 1]}))(net, x)
    with pytest.raises(xai.OptionError, match="lacks"):
        xai.KernelSHAP(features=xai.Groups({"a": ["age"]}))(net, x)
    with pytest.raises(xai.OptionError, match="overlap"):
        xai.KernelSHAP(features=xai.Spans([(0, 5), (4, 9)]))(net, x)
    with pytest.raises(xai.OptionError, match="each of the 20"):
        xai.PartitionSHAP(hierarchy=((0, 1), 2))(net, x)
    with pytest.raises(xai.OptionError, match="tolerance"):
        xai.KernelSHAP(tolerance=-1.0)
    with pytest.raises(xai.TargetError, match="one score"):
        xai.FeatureAblation()(net, x, target="all")
    with pytest.raises(xai.InputDependenceError):
        xai.KernelSHAP()(lambda x: np.ones((len(x), 1)), x, target=0)


def test_features_may_have_any_numbers():
    """As large as those of hashes."""
    net, x = additive([1.0, 2.0, 3.0]), np.ones((2, 3))
    found = xai.ExactSHAP(features=np.array([2**62, 7, 2**62]))(net, x, target=0)
    assert found.features.names == ("feature 7", f"feature {2**62}")
    np.testing.assert_allclose(found.features.values, [[2.0, 4.0]] * 2)


def test_one_feature_gets_the_whole_change():
    net, x = product, np.ones((3, 5))
    for method in ALL:
        found = method(features=np.zeros(5, dtype=int))(net, x, target=0)
        np.testing.assert_allclose(found.features.values, 3.0)
        np.testing.assert_allclose(found.values, 0.6)


def test_feature_permutation_takes_values_of_other_samples():
    """A linear model: the mean over all partners is the weight times the distance from the others' mean."""
    rng = np.random.default_rng(0)
    weights, x = rng.normal(size=4), rng.normal(size=(6, 4))
    found = xai.FeaturePermutation(samples=5)(additive(weights), x, target=0)
    others = (x.sum(0) - x) / 5
    np.testing.assert_allclose(found.values, weights * (x - others), atol=1e-12)
    data = rng.normal(size=(3, 4))
    found = xai.FeaturePermutation(samples=6, background=data)(additive(weights), x, target=0)
    np.testing.assert_allclose(found.values, weights * (x - data.mean(0)), atol=1e-12)
    with pytest.raises(xai.BaselineError, match="other samples"):
        xai.FeaturePermutation()(additive(weights), x[:1])


def test_explanations_with_errors_are_kept(tmp_path):
    net, x = interactions(9), np.random.default_rng(1).normal(size=(2, 9))
    found = xai.KernelSHAP(samples=100, tolerance=0.5)(net, x, target=0)
    found.save(tmp_path / "kept.npz")
    again = xai.load(tmp_path / "kept.npz")
    np.testing.assert_array_equal(again.error, found.error)
    np.testing.assert_array_equal(again.features.values, found.features.values)
    assert again.features.names == found.features.names
    np.testing.assert_array_equal(again.details["converged"], found.details["converged"])
    assert again.explainer == found.explainer
    assert "standard error" in found._repr_html_()
