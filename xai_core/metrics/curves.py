"""Faithfulness by what becomes of the score when features are removed in the order of their values."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xai_core.attribution.base import positive_int
from xai_core.baselines import Mean
from xai_core.errors import OptionError, describe
from xai_core.explanation import Explanation
from xai_core.features import Superpixels
from xai_core.metrics.base import Measured, Scored
from xai_core.metrics.ground import PIXELS, Ground, Order
from xai_core.metrics.statistics import area

__all__ = ["IROF", "Deletion", "Insertion", "Monotonicity", "PixelFlipping", "RegionPerturbation", "Selectivity"]

_Host = np.ndarray[Any, Any]
_ORDERS = ("most", "least", "random")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Curve(Scored, abstract=True):
    """Base: the score by the share of features that are removed."""

    category: ClassVar[str] = "faithfulness"

    baseline: Any = 0.0
    features: Any = PIXELS
    steps: int | None = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None:
            positive_int("steps", self.steps)

    def counts(self, features: int) -> _Host:
        """How many features are removed at each point of the curve: none, all, and some between."""
        steps = features if self.steps is None else min(self.steps, features)
        return np.round(np.linspace(0, features, steps + 1)).astype(np.int64)

    def removing(self, ground: Ground, order: Order, counts: _Host) -> _Host:
        """Scores (batch, points) without the first features."""
        return ground.removed(order, self.baseline, np.zeros_like(counts), counts)

    def shares(self, order: Order, counts: _Host) -> _Host:
        """Shares of the features, (points,), or (batch, points) where samples have different numbers of them.

        Of a sample that has fewer than others the curve ends with points at the same place, which have no area.
        """
        own = np.maximum(order.length, 1)
        if np.all(own == order.features.count):
            return np.asarray(counts / order.features.count)
        return np.minimum(counts, own[:, None]) / own[:, None]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Deletion(_Curve):
    """Area under the score while features are removed, the most relevant first. Lower is better.

    `integral of f(x without the first share of features) over that share, from 0 to 1`, by the trapezoid rule. `curve` are
    the scores, `at` the shares. `steps` model rows and one for the score.

    Source: Petsiuk, Das and Saenko 2018, arXiv:1806.07421, section 4.1.

    Parameters
    ----------
    baseline
        What removed features are filled with, as for `FeatureAblation`.
    features
        What is removed together: by default each position of an image, signal or text with all its channels, each column
        of a table; labels as an integer array; or a rule, `xai.Patches`, `xai.Superpixels`, `xai.Spans`, `xai.Groups`,
        `xai.Elements`. Features with equal values come in random order.
    steps
        Model rows of a curve, or fewer if there are fewer features; `None`: one for each feature.
    score
        Which score: see `xai_core.metrics.base.Scored`.
    """

    higher_is_better: ClassVar[bool | None] = False

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        order = ground.order(explanation, self.features)
        counts = self.counts(order.features.count)
        curve, at = self.removing(ground, order, counts), self.shares(order, counts)
        return Measured(area(curve, at), curve, at)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Insertion(_Curve):
    """Area under the score while features are put into the baseline, the most relevant first. Higher is better.

    `curve` are the scores, `at` the share of features that are there. `steps` model rows and one for the score. The paper
    inserts into a blurred image: `baseline=xai.Blur()`.

    Source: Petsiuk, Das and Saenko 2018, arXiv:1806.07421, section 4.1.

    Parameters
    ----------
    baseline, features, steps, score
        As for `Deletion`.
    """

    higher_is_better: ClassVar[bool | None] = True

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        order = ground.order(explanation, self.features)
        counts = self.counts(order.features.count)
        curve = ground.removed(order, self.baseline, counts, np.full_like(counts, order.features.count))
        at = self.shares(order, counts)
        return Measured(area(curve, at), curve, at)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PixelFlipping(_Curve):
    """Area under the score while features are replaced one after the other, in finer steps than `Deletion`.

    With `order="most"`, the most relevant first, lower is better, with `"least"` higher. `curve` are the scores, `at` the
    share of features that are replaced. `steps` model rows and one for the score.

    Source: Bach et al. 2015, "On pixel-wise explanations for non-linear classifier decisions by layer-wise relevance
    propagation", section "Pixel-flipping".

    Parameters
    ----------
    order
        `"most"`, `"least"` or `"random"`: which features come first.
    baseline, features, steps, score
        As for `Deletion`; `steps=None` replaces one at a time.
    """

    higher_is_better: ClassVar[bool | None] = False

    steps: int | None = 128
    order: str = "most"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_order(self.order)

    @property
    def direction(self) -> str | None:
        return turned(super().direction, self.order)

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        curve, at = _ordered(self, self.order, ground, explanation)
        return Measured(area(curve, at), curve, at)


def turned(direction: str | None, order: str) -> str | None:
    """What is better if it is `direction` with the most relevant features first."""
    opposite = {"lower": "higher", "higher": "lower", None: None}
    return direction if order == "most" else opposite[direction] if order == "least" else None


def _check_order(order: Any) -> None:
    if order not in _ORDERS:
        raise OptionError(
            f"`order` must be one of {', '.join(map(repr, _ORDERS))}.", received=describe(order), fix='order="most"'
        )


def _ordered(metric: _Curve, which: str, ground: Ground, explanation: Explanation) -> tuple[_Host, _Host]:
    """Scores (batch, points) while features go in some order, and the share that is gone."""
    chance = which == "random"
    order = ground.chance(metric.features) if chance else ground.order(explanation, metric.features)
    count = order.features.count
    gone = metric.counts(count)
    if which == "least" and np.all(order.length == count):
        # The rows that `Insertion` asks for.
        curve = ground.removed(order, metric.baseline, count - gone, np.full_like(gone, count))
    else:
        curve = metric.removing(ground, order.backwards() if which == "least" else order, gone)
    return curve, metric.shares(order, gone)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class RegionPerturbation(_Curve):
    """Area over the perturbation curve: how much score is lost on average while regions are replaced in turn.

    `AOPC = 1 / (L + 1) sum_k (f(x) - f(x_k))`, `k` from 0 to `L`, `x_k` without the first `k` regions. With
    `order="most"` higher is better, with `"least"` lower. `curve` are the scores, `at` the share of regions that are
    replaced. `L` model rows and one for the score. The paper fills regions of 9 x 9 pixels with uniform noise; here that is
    `features=xai.Patches(9)` and a callable `baseline`.

    Source: Samek et al. 2015, arXiv:1509.06321, equation 12.

    Parameters
    ----------
    regions
        `L`: how many regions are replaced, or all if there are fewer; `None`: all.
    order
        `"most"`, `"least"` or `"random"`: which regions come first.
    features
        The regions: `None` for at most 64 tiles of an image, single columns or tokens; else as for `Deletion`.
    baseline, score
        As for `Deletion`.
    """

    higher_is_better: ClassVar[bool | None] = True

    features: Any = None
    steps: int | None = None
    regions: int | None = None
    order: str = "most"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_order(self.order)
        if self.regions is not None:
            positive_int("regions", self.regions)

    def counts(self, features: int) -> _Host:
        last = features if self.regions is None else min(self.regions, features)
        return np.arange(last + 1)

    @property
    def direction(self) -> str | None:
        return turned(super().direction, self.order)

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        curve, at = _ordered(self, self.order, ground, explanation)
        # A sample with fewer regions than others has been through before them.
        there = np.diff(np.broadcast_to(at, curve.shape), axis=1, prepend=-1.0) > 0
        return Measured(np.mean(curve[:, :1] - curve, axis=1, where=there), curve, at)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Selectivity(_Curve):
    """Area under the score while regions are removed, the region with the largest sum of values first. Lower is better.

    `curve` are the scores, `at` the share of regions that are removed. A model row for each region and one for the score.

    Source: Montavon, Samek and Mueller 2018, arXiv:1706.07979, section 6.2.

    Parameters
    ----------
    features
        The regions: `None` for at most 64 tiles of an image, single columns or tokens; else as for `Deletion`.
    steps
        Model rows of a curve; `None`: one for each region.
    baseline, score
        As for `Deletion`.
    """

    higher_is_better: ClassVar[bool | None] = False

    features: Any = None
    steps: int | None = None

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        curve, at = _ordered(self, "most", ground, explanation)
        return Measured(area(curve, at), curve, at)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class IROF(_Curve):
    """Iterative removal of features: area over the score, as a share of that of the input, while segments are removed.

    `1 - integral of f(x without the first segments) / f(x)`, the segment with the largest mean value first. Higher is
    better. `curve` are the shares of the score, `at` the share of segments that are removed. A model row for each segment
    and one for the score. The quotient asks for a positive score, such as a probability: `score="probability"` makes one
    of logits.

    Source: Rieger and Hansen 2020, arXiv:2003.08747, section 3.

    Parameters
    ----------
    features
        The segments: `None` for superpixels of images where scikit-image is installed, else for at most 64 tiles of an
        image, single columns or tokens; else as for `Deletion`.
    baseline
        What segments are filled with; by default the mean of each channel.
    steps, score
        As for `Selectivity`.
    """

    higher_is_better: ClassVar[bool | None] = True

    baseline: Any = None
    features: Any = None
    steps: int | None = None

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        problem, features, baseline = ground.problem, self.features, self.baseline
        images = all(len(tuple(leaf.shape)) == 4 for leaf in problem.varied)
        if features is None and images and importlib.util.find_spec("skimage"):
            features = Superpixels()
        order = ground.order(explanation, features, by="mean")
        counts = self.counts(order.features.count)
        zeros = np.zeros_like(counts)
        curve = ground.removed(order, Mean() if baseline is None else baseline, zeros, counts)
        whole = curve[:, :1]
        if np.any(whole <= 0):
            raise OptionError(
                "IROF divides by the score of the input, which must be positive.",
                received=f"a score of {float(whole.min()):.4g}",
                fix='IROF(score="probability")',
            )
        at = self.shares(order, counts)
        return Measured(1.0 - area(curve / whole, at), curve / whole, at)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Monotonicity(_Curve):
    """Whether the score never falls while features are put into the baseline, the least relevant first: 1 or 0.

    `curve` are the scores, `at` the share of features that are there; `details["share"]` is the share of steps at which the
    score does not fall. A model row for each feature and one for the score. Steps within rounding of the score's dtype do
    not count as falling.

    Source: Arya et al. 2019, arXiv:1909.03012, section 5, after Luss et al. 2019, arXiv:1905.12698.

    Parameters
    ----------
    features
        `None` for at most 64 tiles of an image, single columns or tokens; else as for `Deletion`.
    baseline, steps, score
        As for `Selectivity`.
    """

    higher_is_better: ClassVar[bool | None] = True

    features: Any = None
    steps: int | None = None

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        order = ground.order(explanation, self.features)
        gone = self.counts(order.features.count)[::-1]
        curve = self.removing(ground, order, gone)
        slack = ground.rounding() * np.max(np.abs(curve), axis=1, keepdims=True)
        holds = np.diff(curve, axis=1) >= -slack
        at = 1.0 - self.shares(order, gone)
        share = np.mean(holds, axis=1, where=np.diff(np.broadcast_to(at, curve.shape), axis=1) > 0)
        return Measured(np.all(holds, axis=1).astype(np.float64), curve, at, details={"share": share})
