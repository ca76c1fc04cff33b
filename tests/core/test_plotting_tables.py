"""Waterfall, bar and beeswarm plots: what they say is what the explanation holds."""

from __future__ import annotations

import numpy as np
import pytest

import xai_core as xai

pytest.importorskip("matplotlib")

WEIGHTS = np.array([[3.0, 0.0], [-2.0, 1.0], [0.5, -4.0], [0.25, 0.0], [0.125, 0.0]])


def model(x):
    return x @ WEIGHTS


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(12, 5))


@pytest.fixture
def e(x):
    return xai.ExactSHAP()(model, x, target=0)


def bars(axis):
    """Left and right end of each bar, from the bottom."""
    found = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axis.patches]
    return [(min(ends), max(ends)) for ends in found]


def labels(axis):
    return [text.get_text() for text in axis.get_yticklabels()]


def numbers(axis):
    return [float(text.get_text()) for text in axis.texts]


def whiskers(axis):
    """Half widths of the error bars, by height."""
    found = {}
    for container in axis.containers:
        if container.__class__.__name__ == "ErrorbarContainer":
            (segment,) = container.lines[2][0].get_segments()
            found[round(float(segment[0, 1]))] = float(np.ptp(segment[:, 0]) / 2)
    return found


def test_waterfall_leads_from_the_score_without_features_to_the_score(e, x):
    axis = e.waterfall(sample=3).axes[0]
    values = WEIGHTS[:, 0] * x[3]
    order = np.argsort(np.abs(values))
    level = 0.0
    assert len(bars(axis)) == 5
    for (low, high), value in zip(bars(axis), values[order], strict=True):
        np.testing.assert_allclose([low, high], sorted([level, level + value]), atol=1e-12)
        level += value
    np.testing.assert_allclose(level, (x[3] @ WEIGHTS)[0])
    assert labels(axis) == [f"feature {i} = {x[3, i]:.4g}" for i in order]
    np.testing.assert_allclose(numbers(axis), values[order], rtol=5e-3)
    assert f"score of output 0: 0 without the features, {level:.4g} with them" == axis.get_xlabel()


def test_waterfall_sums_up_the_rest(e, x):
    axis = e.waterfall(sample=-1, most=3).axes[0]
    values = WEIGHTS[:, 0] * x[-1]
    order = np.argsort(-np.abs(values))
    assert labels(axis)[0] == "3 other features"
    assert len(labels(axis)) == 3
    np.testing.assert_allclose(numbers(axis), [values[order[2:]].sum(), *values[order[1::-1]]], rtol=5e-3)
    assert len(e.waterfall(most=5).axes[0].patches) == 5


def test_bar_of_one_sample_and_of_all(e, x):
    axis = e.bar(sample=2).axes[0]
    values = WEIGHTS[:, 0] * x[2]
    np.testing.assert_allclose(numbers(axis), values[np.argsort(np.abs(values))], rtol=5e-3)
    assert axis.get_xlabel() == "change of the score of output 0"
    axis = e.bar(most=2).axes[0]
    mean = np.abs(WEIGHTS[:, 0] * x).mean(axis=0)
    order = np.argsort(-mean)[:2][::-1]
    assert labels(axis) == [f"feature {i}" for i in order]
    np.testing.assert_allclose(numbers(axis), mean[order], rtol=5e-3)
    np.testing.assert_allclose([high for _, high in bars(axis)], mean[order])
    assert axis.get_xlabel() == "mean magnitude of the change of the score of output 0"
    single = xai.ExactSHAP()(model, x[:1], target=0).bar().axes[0]
    assert any(low < 0 for low, _ in bars(single))


def test_errors_are_drawn(x):
    curved = lambda x: (x.sum(axis=1, keepdims=True)) ** 3  # noqa: E731
    e = xai.ShapleySampling(samples=28)(curved, x)
    errors = e.features.error
    assert (errors > 0).all()
    order = np.argsort(np.abs(e.features.values[1]))
    for axis in (e.waterfall(sample=1).axes[0], e.bar(sample=1).axes[0]):
        found = whiskers(axis)
        np.testing.assert_allclose([found[height] for height in range(5)], errors[1][order])
    axis = e.bar().axes[0]
    order = np.argsort(np.abs(e.features.values).mean(axis=0))
    found = whiskers(axis)
    np.testing.assert_allclose([found[i] for i in range(5)], np.sqrt((errors**2).sum(axis=0))[order] / 12)
    assert axis.get_xlabel().endswith("with standard errors")


def test_beeswarm_shows_every_sample(e, x):
    axis = e.beeswarm(most=3).axes[0]
    values = WEIGHTS[:, 0] * x
    order = np.argsort(-np.abs(values).mean(axis=0))[:3][::-1]
    assert labels(axis) == [f"feature {i}" for i in order]
    assert len(axis.collections) == 3
    for height, (dots, place) in enumerate(zip(axis.collections, order, strict=True)):
        points = np.asarray(dots.get_offsets())
        np.testing.assert_allclose(points[:, 0], values[:, place])
        assert np.abs(points[:, 1] - height).max() < 0.5
        # Colours follow what the feature was: the brightest belongs to the largest.
        brightness = dots.get_facecolors()[:, :3].sum(axis=1)
        assert brightness[np.argmax(x[:, place])] == brightness.max()
        assert brightness[np.argmin(x[:, place])] == brightness.min()


def test_equal_values_lie_side_by_side():
    x = np.ones((30, 2))
    e = xai.ExactSHAP()(lambda x: x @ np.array([[1.0], [2.0]]), x)
    for dots in e.beeswarm().axes[0].collections:
        heights = np.asarray(dots.get_offsets())[:, 1]
        assert len(np.unique(heights)) == 30
        assert np.ptp(heights) < 0.9


def test_outputs_are_chosen(x):
    e = xai.ExactSHAP()(model, x, target="all")
    for output in (0, 1):
        axis = e.waterfall(output=output).axes[0]
        values = WEIGHTS[:, output] * x[0]
        np.testing.assert_allclose(sorted(numbers(axis)), sorted(values), rtol=5e-3, atol=1e-12)
        assert f"score of output {output}" in axis.get_xlabel()
        assert f"score of output {output}" in e.bar(output=output).axes[0].get_xlabel()
        assert f"score of output {output}" in e.beeswarm(output=output).axes[0].get_xlabel()
        widths = [patch.get_width() for patch in e.plot(samples=1, output=output).axes[0].patches]
        np.testing.assert_allclose(sorted(widths), sorted(values), atol=1e-12)
    for draw in (e.waterfall, e.bar, e.beeswarm, e.plot):
        for output in (None, 2, True):
            with pytest.raises(xai.OptionError, match=r"output=0"):
                draw(output=output)
    with pytest.raises(xai.OptionError, match="of one"):
        xai.ExactSHAP()(model, x).bar(output=1)


def test_what_is_explained_is_said(x):
    e = xai.ExactSHAP()(model, x)
    assert len(np.unique(e.target)) == 2
    assert e.bar().axes[0].get_xlabel().endswith("score of each sample's own output")
    assert e.bar(sample=4).axes[0].get_xlabel().endswith(f"score of output {e.target[4]}")
    contrast = xai.ExactSHAP()(model, x, target=lambda scores: scores[:, 0] - scores[:, 1])
    assert contrast.bar().axes[0].get_xlabel() == "mean magnitude of the change of the score"


@pytest.mark.parametrize("flat", [False, True])
def test_one_output_has_no_number(x, tmp_path, flat):
    """As regressors have: there is nothing to tell it from."""
    single = (lambda x: x @ WEIGHTS[:, 0]) if flat else (lambda x: x @ WEIGHTS[:, :1])
    for target in (None, 0, "all"):
        e = xai.ExactSHAP()(single, x, target=target)
        e.save(tmp_path / "e.npz")
        for held in (e, xai.load(tmp_path / "e.npz")):
            score = f"{single(x[:1]).reshape(()):.3g}"
            said = [held.bar().axes[0].get_xlabel(), held.beeswarm().axes[0].get_xlabel()]
            said += [held.waterfall().axes[0].get_xlabel().split(":")[0], held.plot(samples=1).axes[0].get_title()]
            assert said == [
                "mean magnitude of the change of the score",
                "change of the score",
                "score",
                f"score {score}",
            ]
    assert xai.ExactSHAP()(model, x[:1], target=0).plot().axes[0].get_title().startswith("class 0, score")


def test_names_and_groups(e, x):
    named = ["age", "dose", "weight", "height", "shoe"]
    assert set(labels(e.bar(names=named).axes[0])) == set(named)
    with pytest.raises(xai.InputError, match="one name per feature: 5"):
        e.bar(names=named[:2])
    grouped = xai.ExactSHAP(features=xai.Groups({"body": [0, 2, 3], "rest": [1, 4]}))(model, x, target=0)
    shown = dict(label.split(" = ") for label in labels(grouped.waterfall(sample=1).axes[0]))
    assert shown == {"body": f"{x[1, [0, 2, 3]].mean():.4g}", "rest": f"{x[1, [1, 4]].mean():.4g}"}


def test_long_names_can_be_told_apart(e):
    stem = "a column with a very long name that goes on for more than two lines of text"
    named = [f"{stem} {i} {stem}" for i in range(5)]
    for figure in (e.bar(names=named), e.bar(sample=0, names=named), e.beeswarm(names=named), e.plot(names=named)):
        found = labels(figure.axes[0])
        assert len(set(found)) == 5
        assert all(len(line) < 60 for label in found for line in label.split("\n"))


def test_what_has_no_such_plot(x):
    ablated = xai.FeatureAblation()(model, x, target=0)
    with pytest.raises(xai.OptionError, match="add up"):
        ablated.waterfall()
    ablated.bar()
    images = np.random.default_rng(0).random((2, 4, 4, 3))
    occluded = xai.Occlusion(window=2, stride=2)(lambda x: x.mean(axis=(1, 2, 3)), images)
    for draw in (occluded.bar, occluded.beeswarm):
        with pytest.raises(xai.InputError, match="features"):
            draw()
    by_patch = xai.ExactSHAP(features=xai.Patches(2))(lambda x: x[:, :2].mean(axis=(1, 2, 3)), images)
    shown = labels(by_patch.waterfall().axes[0])
    assert f"feature 0 = {images[0, :2, :2].mean():.4g}" in shown


@pytest.mark.parametrize("wrong", [{"sample": 12}, {"sample": 1.0}, {"most": 0}, {"most": True}])
def test_options_are_checked(e, wrong):
    with pytest.raises(xai.OptionError):
        e.waterfall(**wrong)


def test_files_are_written(e, tmp_path):
    for draw in (e.waterfall, e.bar, e.beeswarm):
        path = tmp_path / f"{draw.__name__}.png"
        draw(path)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_frames_bring_names_and_texts(x):
    pd = pytest.importorskip("pandas")
    df = pd.DataFrame({"age": [30.0, 40.0, 50.0], "colour": ["red", "blue", "red"]})
    e = xai.ExactSHAP(background=df)(lambda df: df["age"] / 10 + (df["colour"] == "red"), df)
    assert set(labels(e.waterfall(sample=2).axes[0])) == {"age = 50", "colour = red"}
    assert set(labels(e.plot(samples=1).axes[0])) == {"age", "colour"}
    assert "age" in labels(e.beeswarm().axes[0])
    grey = next(dots for dots in e.beeswarm().axes[0].collections if len(np.unique(dots.get_facecolors(), axis=0)) == 1)
    assert len(np.asarray(grey.get_offsets())) == 3
    whole = df[["age"]].astype(int).assign(weight=[1, 2, 3])
    e = xai.ExactSHAP(background=whole)(lambda df: df["age"] / 10.0, whole)
    assert set(labels(e.plot(samples=1).axes[0])) == {"age", "weight"}
