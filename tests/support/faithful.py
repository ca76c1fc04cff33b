"""Metrics of faithfulness on one small convolution net: in any framework what they are over NumPy in double precision."""

from __future__ import annotations

from functools import cache
from typing import Any

import mapnets
import numpy as np
from strict import strict_model

import xai_core as xai
from xai_core import metrics
from xai_core.testing import assert_close

SEED, TARGET = 3, 0


def stairs(outputs: Any) -> Any:
    """Steps of scores, as accuracies of a net that always predicts one class would not be."""
    return outputs // 0.2


METRICS: dict[str, Any] = {
    "Deletion": metrics.Deletion(),
    "Deletion blur": metrics.Deletion(baseline=xai.Blur(1.5), score="probability", steps=None),
    "Insertion": metrics.Insertion(baseline=xai.Mean()),
    "PixelFlipping least": metrics.PixelFlipping(order="least", score="log_probability"),
    "PixelFlipping random": metrics.PixelFlipping(order="random", baseline=xai.Noise(0.5)),
    "RegionPerturbation": metrics.RegionPerturbation(features=xai.Patches(2)),
    "Selectivity": metrics.Selectivity(score=stairs),
    "IROF": metrics.IROF(score="probability", features=xai.Patches(2)),
    "Monotonicity": metrics.Monotonicity(features=xai.Patches(3)),
    "SensitivityN": metrics.SensitivityN(samples=20),
    "FaithfulnessCorrelation": metrics.FaithfulnessCorrelation(samples=20),
    "FaithfulnessEstimate": metrics.FaithfulnessEstimate(),
    "MonotonicityCorrelation": metrics.MonotonicityCorrelation(samples=3),
    "Infidelity": metrics.Infidelity(samples=20),
    "Infidelity scaled": metrics.Infidelity(samples=20, scaled=True, slopes=False),
    "Infidelity noise": metrics.Infidelity(samples=20, noise=0.1),
    "Infidelity slopes": metrics.Infidelity(samples=20, noise=0.1, slopes=True),
    "AverageDrop": metrics.AverageDrop(score="probability", baseline=-2.0),
    "AverageIncrease": metrics.AverageIncrease(),
    "AverageGain": metrics.AverageGain(score="probability"),
    "PGI": metrics.PGI(samples=9),
    "PGU": metrics.PGU(samples=9),
    "Sufficiency": metrics.Sufficiency(threshold=0.9),
    "ROAD": metrics.ROAD(percentages=(20, 50, 80)),
    "ROAD most": metrics.ROAD(percentages=(30,), order="most", noise=0.0, score="probability"),
    "SoftmaxInformationCurve": metrics.SoftmaxInformationCurve(baseline=xai.Blur(1.0)),
    "AccuracyInformationCurve": metrics.AccuracyInformationCurve(baseline=xai.Blur(1.0), score=stairs),
}
EXPLAINERS = {"products": xai.InputXGradient(), "slopes": xai.Gradient(), "path": xai.IntegratedGradients(steps=4)}


@cache
def expected(name: str) -> tuple[xai.Explanation, dict[str, Any]]:
    """An explanation and its scores over NumPy, by gradients from complex steps."""
    model = strict_model(mapnets.scores, np)
    found = EXPLAINERS[name](model, mapnets.images().astype("float64"), target=TARGET)
    sums = np.sort(found.values.sum(axis=-1).reshape(len(found.values), -1), axis=1)
    # Positions that are told apart by rounding alone would come in another order elsewhere.
    assert np.diff(sums, axis=1).min() > 1e-6
    return found, {key: metric(model, found, seed=SEED) for key, metric in METRICS.items()}


def close(found: Any, wanted: Any) -> None:
    """To 1e-5 of the largest; shares of a score of which little is left, to the rounding of that score."""
    wanted = np.asarray(wanted)
    largest = np.nanmax(np.abs(wanted))
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=0, atol=1e-5 * max(largest, 0.1))


def last(array: Any, channel_axis: int) -> np.ndarray:
    return np.moveaxis(np.asarray(array), channel_axis, -1)


def check(model: Any, x: Any, name: str, metric: str, to_numpy: Any, channel_axis: int = -1) -> None:
    """An explanation made here, and its score here, against those over NumPy."""
    wanted, scores = expected(name)
    explanation = EXPLAINERS[name](model, x, target=TARGET)
    assert_close(last(to_numpy(explanation.values), channel_axis).astype("float64"), wanted.values, relative=1e-5)
    assert np.isfinite(scores[metric].values).any()
    for size in (None, 7):
        found = METRICS[metric](xai.wrap(model, batch_size=size), explanation, seed=SEED)
        close(found, scores[metric])
        if found.curve is not None:
            close(found.curve, scores[metric].curve)
        for key, value in scores[metric].details.items():
            close(found.details[key], value)


def check_map(model: Any, x: Any, metric: str, to_numpy: Any, channel_axis: int = -1) -> None:
    """A class activation map, which has one channel."""
    explanation = xai.GradCAM(layer="conv")(model, x, target=TARGET)
    values = last(to_numpy(explanation.values), channel_axis)
    assert values.shape[-1] == 1
    images = mapnets.images().astype("float64")
    plain = xai.Explanation(values, images, TARGET, explanation.explainer, None)
    wanted = METRICS[metric](xai.wrap(mapnets.scores), plain, seed=SEED)
    found = METRICS[metric](model, explanation, seed=SEED)
    close(found, wanted)
