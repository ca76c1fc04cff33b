"""Several explanations by several metrics: the same scores as one by one, from fewer model rows, in one table."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pandas
import pytest

import xai_core as xai
from xai_core import metrics
from xai_core.metrics import Evaluation, Scores, evaluate

RNG = np.random.default_rng(0)
KERNEL, HEAD = RNG.normal(size=(1, 8, 8, 12)) / 4, RNG.normal(size=(12, 3))
IMAGES = RNG.normal(size=(64, 1, 8, 8))
MASKS = np.zeros((64, 8, 8), dtype=bool)
MASKS[:, 2:5, 3:7] = True


class Counting:
    """A small net that counts the rows that it is given."""

    def __init__(self):
        self.rows = 0

    def __call__(self, x):
        self.rows += len(x)
        return np.tanh(np.tensordot(x, KERNEL, axes=3)) @ HEAD


def fresh():
    net = Counting()
    return net, xai.wrap(net, channel_axis=1)


def explanations(rows=6, **options):
    x, model = IMAGES[:rows], fresh()[1]
    explainers = {
        "ablation": xai.FeatureAblation(features=xai.Patches(2)),
        "occlusion": xai.Occlusion(window=3, stride=2),
        "rise": xai.RISE(samples=40, grid=4),
        "lime": xai.LIME(samples=40, mode="image", features=xai.Patches(2)),
        "shap": xai.KernelSHAP(samples=40, features=xai.Patches(2)),
        "sobol": xai.SobolAttribution(samples=60, features=xai.Patches(2)),
    }
    return {name: explainer(model, x, **options) for name, explainer in explainers.items()}


TWELVE = [
    metrics.Deletion(),
    metrics.Insertion(),
    metrics.PixelFlipping(),
    metrics.RegionPerturbation(),
    metrics.Selectivity(),
    metrics.SensitivityN(samples=20),
    metrics.FaithfulnessCorrelation(samples=20),
    metrics.FaithfulnessEstimate(),
    metrics.Infidelity(samples=20),
    metrics.ROAD(percentages=(30, 60)),
    metrics.Monotonicity(),
    metrics.PGI(samples=5),
]


def test_the_same_scores_as_one_by_one():
    """Also where scores are of another kind, and in any order of the metrics."""
    some = explanations()
    chosen = [
        *TWELVE,
        metrics.Deletion(score="probability"),
        metrics.IROF(score="probability", features=xai.Patches(2)),
        metrics.AverageDrop(score="probability"),
        metrics.Sufficiency(),
        metrics.PixelFlipping(order="least"),
        metrics.PixelFlipping(order="random"),
        metrics.Deletion(baseline=0.5, features=xai.Patches(2)),
        metrics.Deletion(baseline=0.5),
        metrics.FaithfulnessCorrelation(samples=20, baseline=0.5),
        metrics.FaithfulnessEstimate(baseline=0.5),
        metrics.AverageIncrease(baseline=0.5),
        metrics.MonotonicityCorrelation(samples=2, features=xai.Patches(4)),
        metrics.MonotonicityCorrelation(samples=2, features=xai.Patches(4), background=IMAGES[:9]),
        metrics.Infidelity(samples=20, noise=0.1),
        metrics.Infidelity(samples=20, slopes=True),
        metrics.Sparseness(),
        metrics.PointingGame(),
    ]
    for given in (chosen, chosen[::-1]):
        found = evaluate(fresh()[1], some, given, masks=MASKS[:6], progress=False)
        assert found.explanations == tuple(some)
        for name, explanation in some.items():
            for place, metric in enumerate(given):
                alone = metric(fresh()[1], explanation, masks=MASKS[:6])
                cell = found.scores[name][found.metrics[place]]
                assert cell.metric is metric
                np.testing.assert_allclose(cell, alone, atol=1e-12)
                np.testing.assert_array_equal(found.values[list(some).index(name), place], cell)
                if alone.curve is not None:
                    np.testing.assert_allclose(cell.curve, alone.curve, atol=1e-12)


def test_features_that_leave_something_share_no_baseline():
    """Without all features half of the input is left here, and nothing there."""
    x, values = IMAGES[:3], RNG.normal(size=(3, 1, 8, 8))
    labels = np.full((1, 8, 8), -1)
    labels[:, ::2] = np.arange(4)[:, None]
    said = xai.Explanation(values, x, 1, None, None)
    half, other = metrics.Deletion(features=labels), metrics.Deletion(features=np.where(labels >= 0, -1, 0))
    for chosen in ([metrics.Deletion(), half, other], [half, other, metrics.Deletion()]):
        found = evaluate(fresh()[1], said, chosen, progress=False)
        for name, metric in zip(found.metrics, chosen, strict=True):
            alone = metric(fresh()[1], said)
            np.testing.assert_allclose(found.scores["explanation"][name].curve, alone.curve, atol=1e-12)


def test_six_explainers_by_twelve_metrics_take_fewer_rows():
    some = explanations(64)
    net, model = fresh()
    alone = sum(metric(model, explanation).rows[0] for explanation in some.values() for metric in TWELVE)
    assert alone == net.rows
    net, model = fresh()
    found = evaluate(model, some, TWELVE, progress=False)
    assert found.rows == (net.rows, 0)
    assert found.rows[0] <= 0.7 * alone
    # Each row is that of the metric which asked first, also the score of the inputs.
    assert found.rows[0] == sum(cell.rows[0] for row in found.scores.values() for cell in row.values())


def rows_of(found):
    return {name: {metric: cell.rows[0] // 6 for metric, cell in row.items()} for name, row in found.scores.items()}


def test_what_is_shared():
    some = explanations()
    two = {name: some[name] for name in ("rise", "shap")}
    chosen = {
        "deletion": metrics.Deletion(),
        "flipping": metrics.PixelFlipping(steps=32),
        "finer": metrics.PixelFlipping(steps=None),
        "insertion": metrics.Insertion(),
        "least": metrics.PixelFlipping(order="least", steps=32),
        "chance": metrics.PixelFlipping(order="random", steps=32),
        "random": metrics.RegionPerturbation(order="random", features=xai.Patches(1), regions=32),
        "correlation": metrics.FaithfulnessCorrelation(samples=20, subset_size=5),
        "sensitivity": metrics.SensitivityN(samples=20, sizes=(5, 9)),
        "estimate": metrics.FaithfulnessEstimate(),
        "infidelity": metrics.Infidelity(samples=20),
        "scaled": metrics.Infidelity(samples=20, scaled=True),
        "increase": metrics.AverageIncrease(),
        "increase again": metrics.AverageIncrease(),
        "selectivity": metrics.Selectivity(),
        "regions": metrics.RegionPerturbation(),
        "road": metrics.ROAD(percentages=(30, 60), order="most"),
        "combined": metrics.ROAD(percentages=(30, 60)),
        "pgi": metrics.PGI(samples=5),
        "same pgi": metrics.PGI(samples=5),
        "sufficiency": metrics.Sufficiency(),
    }
    first, second = rows_of(evaluate(fresh()[1], two, chosen, progress=False)).values()
    assert first == {
        "deletion": 33,  # with the score of the inputs, which all others know then
        "flipping": 0,
        "finer": 32,
        "insertion": 31,  # the baseline is known
        "least": 0,  # what insertion puts in is what is left
        "chance": 31,
        "random": 16,  # the even ones up to 32 are known
        "correlation": 20,
        "sensitivity": 20,
        "estimate": 64,
        "infidelity": 20,
        "scaled": 0,
        "increase": 1,
        "increase again": 0,
        "selectivity": 63,
        "regions": 0,
        "road": 2,
        "combined": 2,
        "pgi": 5,
        "same pgi": 5,
        "sufficiency": 1,
    }
    # Of another explanation what does not depend on its values.
    free = ("chance", "random", "correlation", "sensitivity", "estimate", "infidelity", "sufficiency")
    assert second == {name: 0 if name in free else rows for name, rows in first.items()} | {"deletion": 31}


def test_explanations_of_different_questions():
    """Targets, inputs and neurons differ: each has its own score, and they share nothing."""
    model = fresh()[1]
    ablation = xai.FeatureAblation(features=xai.Patches(2))
    some = {
        "first": ablation(model, IMAGES[:6], target=0),
        "second": ablation(model, IMAGES[:6], target=1),
        "predicted": ablation(model, IMAGES[:6]),
        "other": ablation(model, IMAGES[6:12], target=0),
        "callable": ablation(model, IMAGES[:6], target=lambda scores: scores[:, 0] - scores[:, 1]),
        "seed": ablation(model, IMAGES[:6], target=0, seed=1),
        "equal": ablation(model, IMAGES[:6].copy(), target=np.zeros(6, dtype=int)),
    }
    chosen = [metrics.Deletion(), metrics.FaithfulnessCorrelation(samples=10)]
    found = evaluate(model, some, chosen, progress=False)
    for name, explanation in some.items():
        for metric in chosen:
            cell = found.scores[name][type(metric).__name__]
            np.testing.assert_allclose(cell, metric(model, explanation), atol=1e-12)
            assert cell.seed == explanation.seed
    shared = {name for name, row in found.scores.items() if row["FaithfulnessCorrelation"].rows == (0, 0)}
    assert shared == {"equal"}
    # One seed for all is one question more that is shared.
    found = evaluate(model, some, chosen, seed=5, progress=False)
    shared = {name for name, row in found.scores.items() if row["FaithfulnessCorrelation"].rows == (0, 0)}
    assert shared == {"equal", "seed"}
    np.testing.assert_allclose(found.values[0, 1], chosen[1](model, some["first"], seed=5), atol=1e-12)


def test_parts_of_a_data_set():
    some = explanations()
    late = {name: replace(e, inputs=e.inputs[3:], values=e.values[3:], target=e.target[3:]) for name, e in some.items()}
    chosen = [metrics.FaithfulnessCorrelation(samples=10), metrics.PixelFlipping(order="random")]
    whole = evaluate(fresh()[1], some, chosen, progress=False).values
    part = evaluate(fresh()[1], late, chosen, index=3, progress=False).values
    np.testing.assert_allclose(part, whole[:, :, 3:], atol=1e-12)
    assert np.abs(evaluate(fresh()[1], late, chosen, progress=False).values - part).max() > 1e-3


def table(values):
    """An evaluation of given scores (explanations, metrics, batch)."""
    named = {
        f"e{i}": {f"m{j}": Scores(own, metrics.Deletion()) for j, own in enumerate(row)} for i, row in enumerate(values)
    }
    return Evaluation(named, (0, 0))


def test_to_pandas():
    values = np.random.default_rng(1).normal(size=(3, 2, 5))
    found = table(values)
    means = found.to_pandas()
    assert isinstance(means, pandas.DataFrame)
    assert list(means.index) == ["e0", "e1", "e2"]
    assert list(means.columns) == ["m0", "m1"]
    np.testing.assert_allclose(means.to_numpy(), values.mean(axis=2))
    each = found.to_pandas(samples=True)
    assert each.shape == (15, 2)
    assert each.loc[("e2", 3), "m1"] == values[2, 1, 3]
    assert each.index.names == ["explanation", "sample"]
    wide = found.to_pandas(level=0.9)
    assert wide.loc["e1", ("m0", "mean")] == pytest.approx(values[1, 0].mean())
    ends = found.interval(0.9)
    assert wide.loc["e1", ("m0", "low")] == ends[1, 0, 0]
    assert wide.loc["e2", ("m1", "high")] == ends[2, 1, 1]
    assert np.all(ends[..., 0] < values.mean(axis=2))
    assert np.all(values.mean(axis=2) < ends[..., 1])
    narrow = found.interval(0.5)
    assert np.all(ends[..., 0] < narrow[..., 0])
    assert np.all(narrow[..., 1] < ends[..., 1])


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_hold_the_mean_as_often_as_they_say(level):
    """Over 2000 data sets of 60 samples that are not normal."""
    values = np.random.default_rng(2).gamma(2.0, size=(2000, 1, 60))
    ends = table(values).interval(level)[:, 0]
    held = np.mean((ends[:, 0] <= 2.0) & (ends[:, 1] >= 2.0))
    # Percentiles of so few samples are a little too narrow.
    assert level - 0.035 < held < level + 0.015


def test_intervals_are_those_of_means_of_samples_drawn_again():
    values = np.random.default_rng(3).normal(size=(2, 2, 9))
    rng, means = np.random.default_rng(0), []
    for _ in range(4000):
        chosen = rng.integers(9, size=9)
        means.append(values[:, :, chosen].mean(axis=2))
    wanted = np.moveaxis(np.quantile(means, [0.05, 0.95], axis=0), 0, -1)
    np.testing.assert_allclose(table(values).interval(0.9, resamples=4000), wanted, atol=0.04)
    again = table(values).interval(0.9)
    np.testing.assert_array_equal(again, table(values).interval(0.9))


def test_samples_without_a_score_are_left_out():
    values = np.random.default_rng(4).normal(size=(2, 1, 8))
    some = values.copy()
    some[0, 0, [1, 5]] = np.nan
    some[1, 0] = np.nan
    found = table(some)
    known = np.delete(values[0, 0], [1, 5])
    np.testing.assert_allclose(found.mean()[:, 0], [known.mean(), np.nan])
    ends = found.interval()
    assert known.min() < ends[0, 0, 0] < known.mean() < ends[0, 0, 1] < known.max()
    assert np.isnan(ends[1]).all()
    assert np.isnan(found.to_pandas().loc["e1", "m0"])
    assert "nan" in repr(found)


def test_names():
    model, some = fresh()[1], explanations()
    pair = [some["rise"], some["ablation"], some["rise"]]
    chosen = [metrics.Deletion(), "pixel_flipping", metrics.Deletion(steps=4), metrics.Sparseness]
    found = evaluate(model, pair, chosen, progress=False)
    assert found.explanations == ("rise 1", "feature_ablation", "rise 2")
    assert found.metrics == ("Deletion 1", "PixelFlipping", "Deletion 2", "Sparseness")
    np.testing.assert_array_equal(found.values[0], found.values[2])
    assert np.abs(found.values[:, 0] - found.values[:, 2]).max() > 1e-6
    one = evaluate(model, some["lime"], "deletion", progress=False)
    assert (one.explanations, one.metrics) == (("lime",), ("Deletion",))
    named = evaluate(model, some["lime"], {"mine": metrics.Deletion(), "other": "deletion"}, progress=False)
    assert named.metrics == ("mine", "other")
    loaded = replace(some["lime"], explainer=None)
    assert evaluate(model, [loaded], metrics.Deletion, progress=False).explanations == ("explanation",)


def test_the_table_as_text():
    found = evaluate(fresh()[1], explanations(), [metrics.Deletion(), metrics.Insertion()], progress=False)
    lines = repr(found).splitlines()
    assert len(lines) == 7
    assert lines[0].split() == ["Deletion", "↓", "Insertion", "↑"]
    assert lines[1].startswith("ablation")
    mean, low, high = found.mean()[0, 0], *found.interval()[0, 0]
    assert f"{mean:.3g} ± {(high - low) / 2:.2g}" in lines[1]
    page = found._repr_html_()
    assert page.count("<tr>") == 7
    assert "<th>Insertion ↑</th>" in page
    odd = evaluate(fresh()[1], {"<b>": explanations()["rise"]}, "deletion", progress=False)
    assert "&lt;b&gt;" in odd._repr_html_()
    single = evaluate(fresh()[1], replace(explanations(1)["rise"]), "deletion", progress=False)
    assert "±" not in repr(single)
    chance = evaluate(fresh()[1], explanations()["rise"], metrics.PixelFlipping(order="random"), progress=False)
    assert repr(chance).splitlines()[0].split() == ["PixelFlipping"]


def test_progress(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    two = dict(list(explanations().items())[:2])
    capsys.readouterr()
    evaluate(fresh()[1], two, ["deletion", "insertion"], progress=False)
    said = capsys.readouterr()
    assert said.out == said.err == ""
    evaluate(fresh()[1], two, ["deletion", "insertion"])
    said = capsys.readouterr()
    assert said.out == ""
    assert "evaluate" in said.err
    assert "4/4" in said.err
    assert "Insertion of occlusion" in said.err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    evaluate(fresh()[1], two, ["deletion", "insertion"])
    said = capsys.readouterr()
    assert said.err.splitlines() == ["evaluate: ablation (1 of 2)", "evaluate: occlusion (2 of 2)"]
    evaluate(fresh()[1], two, ["deletion", "insertion"], progress=False)
    assert capsys.readouterr().err == ""


def test_masks_are_passed_on():
    some = explanations()
    found = evaluate(fresh()[1], some, ["relevance_mass_accuracy", "deletion"], masks=MASKS[:6], progress=False)
    for name, explanation in some.items():
        alone = metrics.RelevanceMassAccuracy()(None, explanation, masks=MASKS[:6])
        np.testing.assert_array_equal(found.scores[name]["RelevanceMassAccuracy"].values, alone.values)
    assert found.values[:, 0].std() > 0


def test_values_alone_need_no_model():
    some = explanations()
    found = evaluate(None, some, ["sparseness", "complexity"], progress=False)
    assert found.rows == (0, 0)
    assert found.values.shape == (6, 2, 6)


@pytest.mark.parametrize(
    ("given", "chosen", "error", "message"),
    [
        (None, ["deletion", "pointing_game"], xai.OptionError, "masks=None"),
        (None, ["deletion", "deltion"], xai.UnknownNameError, "did you mean 'deletion'"),
        (None, [metrics.Deletion(), 3], xai.OptionError, "metrics or their names"),
        (None, [], xai.OptionError, "empty"),
        (None, 3, xai.OptionError, "metrics or their names"),
        (None, None, xai.OptionError, "metrics or their names"),
        ({}, ["deletion"], xai.OptionError, "explanations"),
        (3, ["deletion"], xai.OptionError, "explanations"),
        ({"a": IMAGES[:6]}, ["deletion"], xai.OptionError, "judges an explanation"),
        ([3], ["deletion"], xai.OptionError, "judges an explanation"),
        ("all", ["deletion"], xai.OptionError, "one score of each sample"),
        ("sizes", ["deletion"], xai.OptionError, "same number of samples"),
        ("loaded", ["deletion", "max_sensitivity"], xai.OptionError, "explain again"),
    ],
)
def test_errors_come_before_any_work(given, chosen, error, message):
    some = explanations()
    if given == "all":
        given = {**some, "all": replace(some["rise"], target="all")}
    elif given == "sizes":
        given = {**some, "less": explanations(5)["rise"]}
    elif given == "loaded":
        given = {**some, "loaded": replace(some["rise"], explainer=None)}
    net, model = fresh()
    with pytest.raises(error, match=message):
        evaluate(model, some if given is None else given, chosen, progress=False)
    assert net.rows == 0


def test_a_model_is_missed_before_any_work(monkeypatch):
    done = []
    monkeypatch.setattr(metrics.Sparseness, "measure", lambda *_: done.append(1))
    with pytest.raises(xai.CapabilityError, match="Deletion runs the model"):
        evaluate(None, explanations(), ["sparseness", "deletion"], progress=False)
    assert not done


def test_levels():
    with pytest.raises(xai.OptionError, match="level"):
        table(np.zeros((1, 1, 3))).interval(1.0)
