"""Faithfulness by what is left of the score when the input is weighted by the map, or gets noise where the map says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xai_core.attribution.base import positive_int
from xai_core.errors import OptionError, describe
from xai_core.explanation import Explanation
from xai_core.metrics.base import Measured, Metric, Scored
from xai_core.metrics.ground import PIXELS, Ground
from xai_core.problem import is_floating

__all__ = ["PGI", "PGU", "AverageDrop", "AverageGain", "AverageIncrease", "Sufficiency"]

_Host = np.ndarray[Any, Any]
NOISE_PART = 3_530_000
"""Stream parts of noise in features, of each input."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Weighted(Scored, abstract=True):
    """Base: the score of the input weighted by the map."""

    category: ClassVar[str] = "faithfulness"

    baseline: Any = 0.0
    features: Any = PIXELS

    def left(self, ground: Ground, explanation: Explanation) -> tuple[_Host, _Host]:
        """Scores (batch,) of the input and of what the map leaves of it."""
        key = ("weighted", ground.key(explanation), ground.key(self.features), ground.key(self.baseline))
        left = ground.known(key, lambda: self._weigh(ground, explanation))
        return ground.score(), left

    def _weigh(self, ground: Ground, explanation: Explanation) -> _Host:
        problem = ground.opened
        relevance = ground.relevance(explanation, self.features)
        low = np.where(relevance.own, relevance.values, np.inf).min(axis=1, keepdims=True)
        high = np.where(relevance.own, relevance.values, -np.inf).max(axis=1, keepdims=True)
        weights = np.where(high > low, (relevance.values - low) / np.where(high > low, high - low, 1.0), 0.0)
        others, shares = list(problem.leaves), [None] * len(problem.leaves)
        for position, labels in enumerate(relevance.features.labels):
            leaf = problem.leaves[position]
            if not is_floating(leaf):
                raise OptionError(
                    f"{type(self).__name__} weights inputs, which whole numbers cannot be.",
                    received=describe(leaf),
                    fix="use a metric that removes features, such as Deletion.",
                )
            others[position] = ground.removal(self.baseline).arrays[position]
            shares[position] = problem.to_device(on_elements(weights, labels, 1.0), like=leaf)
        return ground.scores_beside(others, shares)


def on_elements(values: _Host, labels: _Host, rest: float) -> _Host:
    """Values of features (batch, features) at their elements, (batch, ...); `rest` where elements are in none."""
    padded = np.concatenate([values, np.full((len(values), 1), rest, dtype=values.dtype)], axis=1)
    place = np.where(labels < 0, values.shape[1], labels)
    wide = np.broadcast_to(place, (len(values), *labels.shape[1:])).reshape(len(values), -1)
    return np.take_along_axis(padded, wide, axis=1).reshape(len(values), *labels.shape[1:])


def _positive(metric: Metric, score: _Host, most: float = np.inf) -> None:
    if np.any(score <= 0) or np.any(score > most):
        raise OptionError(
            f"{type(metric).__name__} takes shares of the score, which must be "
            + ("positive." if most == np.inf else "a probability."),
            received=f"scores from {float(score.min()):.4g} to {float(score.max()):.4g}",
            fix=f'{type(metric).__name__}(score="probability")',
        )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class AverageDrop(_Weighted):
    """Share of the score that is lost when the input is weighted by the map. From 0 to 1, lower is better.

    `max(0, f(x) - f(x * m + baseline * (1 - m))) / f(x)`, `m` the map from 0 at its smallest to 1 at its largest value; a
    uniform map is 0 everywhere. Two model rows. The score must be positive, as a probability is: `score="probability"` makes
    one of logits.

    Source: Chattopadhyay et al. 2018, arXiv:1710.11063, section 4.1.

    Parameters
    ----------
    baseline, features, score
        As for `Deletion`.
    """

    higher_is_better: ClassVar[bool | None] = False

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        whole, left = self.left(ground, explanation)
        _positive(self, whole)
        return Measured(np.maximum(whole - left, 0.0) / whole)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class AverageIncrease(_Weighted):
    """Whether the score rises when the input is weighted by the map: 1 or 0. Higher is better.

    The map as for `AverageDrop`. Two model rows. The paper's "increase in confidence" is the mean over samples.

    Source: Chattopadhyay et al. 2018, arXiv:1710.11063, section 4.1.

    Parameters
    ----------
    baseline, features, score
        As for `Deletion`.
    """

    higher_is_better: ClassVar[bool | None] = True

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        whole, left = self.left(ground, explanation)
        return Measured((left > whole).astype(np.float64))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class AverageGain(_Weighted):
    """Share of what is missing to a probability of one that is gained when the input is weighted by the map.

    `max(0, f(x * m + baseline * (1 - m)) - f(x)) / (1 - f(x))`, the map as for `AverageDrop`; 0 where the score is 1
    already. From 0 to 1, higher is better. Two model rows. The score must be a probability: `score="probability"` makes one
    of logits.

    Source: Zhang et al. 2024, "Opti-CAM: Optimizing saliency maps for interpretability", arXiv:2301.07002, section 4.

    Parameters
    ----------
    baseline, features, score
        As for `Deletion`.
    """

    higher_is_better: ClassVar[bool | None] = True

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        whole, left = self.left(ground, explanation)
        # A softmax in single precision may be one and a rounding.
        _positive(self, whole, 1.0 + ground.rounding())
        room = 1.0 - whole
        return Measured(np.where(room > 0, np.maximum(left - whole, 0.0) / np.where(room > 0, room, 1.0), 0.0))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Gap(Scored, abstract=True):
    """Base: how much the score moves when some features get noise."""

    category: ClassVar[str] = "faithfulness"

    share: float = 0.25
    noise: float = 0.1
    samples: int = 50
    features: Any = PIXELS

    _important: ClassVar[bool]

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_int("samples", self.samples)
        if not (isinstance(self.share, (int, float)) and 0 < self.share < 1):
            raise OptionError(
                "`share` is the share of features that count as important, between 0 and 1.",
                received=describe(self.share),
                fix="share=0.25",
            )
        if not (isinstance(self.noise, (int, float)) and 0 < self.noise < np.inf):
            raise OptionError(
                "`noise` is a standard deviation as a fraction of each sample's range, more than 0.",
                received=describe(self.noise),
                fix="noise=0.1",
            )

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        order = ground.order(explanation, self.features, by="size")
        top = np.maximum(1, np.round(self.share * order.length))
        moved = (order.ranks < top[:, None]) == self._important
        where = [on_elements(moved.astype(np.float32), labels, 0.0) for labels in order.features.labels]
        parts = [scores for _, scores in ground.noisy(self.noise, self.samples, NOISE_PART, where)]
        gaps = np.abs(np.concatenate(parts, axis=1) - ground.score()[:, None])
        error = gaps.std(axis=1, ddof=1) / np.sqrt(self.samples) if self.samples > 1 else np.full(len(gaps), np.nan)
        return Measured(gaps.mean(axis=1), details={"error": error})


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PGI(_Gap):
    """Prediction gap on important features: how much the score moves when those with the largest values get noise.

    `E |f(x) - f(x + noise in the important features)|`, the important ones those with the largest `|values|`. In units of
    the score, higher is better. `details["error"]` is the standard error of the mean. `samples` model rows and one for the
    score.

    Source: Dai et al. 2022, arXiv:2205.07277, section 4; Agarwal et al. 2022, "OpenXAI", arXiv:2206.11104.

    Parameters
    ----------
    share
        Share of the features that count as important.
    noise
        Standard deviation of Gaussian noise, as a fraction of each sample's range.
    samples
        Draws of noise.
    features, score
        As for `Deletion`.
    """

    higher_is_better: ClassVar[bool | None] = True
    _important: ClassVar[bool] = True


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PGU(_Gap):
    """Prediction gap on unimportant features: how much the score moves when all but the important ones get noise.

    As `PGI`, with noise in the features that do not count as important. Lower is better.

    Source: Dai et al. 2022, arXiv:2205.07277, section 4; Agarwal et al. 2022, "OpenXAI", arXiv:2206.11104.

    Parameters
    ----------
    share, noise, samples, features, score
        As for `PGI`.
    """

    higher_is_better: ClassVar[bool | None] = False
    _important: ClassVar[bool] = False


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Sufficiency(Metric):
    """Share of the samples with a similar explanation that the model predicts the same class for. Higher is better.

    For each sample, of the other samples whose values lie within `threshold` in cosine distance, the share with its
    predicted class; 1 where there is none. `details["alike"]` is how many there are. From 0 to 1. It compares the samples of
    a batch, so it asks for many. One model row.

    Source: Dasgupta, Frost and Moshkovitz 2022, arXiv:2202.00734, section 3.2.

    Parameters
    ----------
    threshold
        Largest cosine distance of similar explanations, from 0 to 2. A zero map is at distance 1 of every other.
    features
        As for `Deletion`.
    """

    category: ClassVar[str] = "faithfulness"
    higher_is_better: ClassVar[bool | None] = True
    needs: ClassVar[tuple[str, ...]] = ("model", "batch")

    threshold: float = 0.3
    features: Any = PIXELS

    def __post_init__(self) -> None:
        if not (isinstance(self.threshold, (int, float)) and 0 <= self.threshold <= 2):
            raise OptionError(
                "`threshold` is a cosine distance, from 0 to 2.", received=describe(self.threshold), fix="threshold=0.3"
            )

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        values = ground.relevance(explanation, self.features).values
        size = np.linalg.norm(values, axis=1, keepdims=True)
        unit = np.where(size > 0, values / np.where(size > 0, size, 1.0), 0.0)
        near = 1.0 - unit @ unit.T <= self.threshold + 1e-12
        np.fill_diagonal(near, False)
        classes = ground.predicted()[0][:, 0]
        same = classes[:, None] == classes[None, :]
        alike = near.sum(axis=1)
        share = np.where(alike > 0, (near & same).sum(axis=1) / np.maximum(alike, 1), 1.0)
        return Measured(share, details={"alike": alike})
