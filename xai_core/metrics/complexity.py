"""Complexity: on how few features does the explanation rest?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xai_core.errors import OptionError, describe
from xai_core.explanation import Explanation
from xai_core.metrics.base import Measured, Metric
from xai_core.metrics.ground import PIXELS, Ground
from xai_core.metrics.maps import features_alone

__all__ = ["Complexity", "EffectiveComplexity", "Sparseness"]

_Host = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _OfSizes(Metric, abstract=True):
    """Base: a number of the magnitudes of features; the features of all inputs count together."""

    category: ClassVar[str] = "complexity"
    needs: ClassVar[tuple[str, ...]] = ()

    features: Any = PIXELS

    def sizes(self, explanation: Explanation) -> list[_Host]:
        """For each sample the magnitudes of the features that it has."""
        found = features_alone(explanation, self.features, type(self).__name__)
        return [np.abs(row[own]) for row, own in zip(found.values, found.own, strict=True)]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Sparseness(_OfSizes):
    """Gini index of the magnitudes of features. Higher is better.

    `G = 1 - 2 sum_k |a|_(k) / sum |a| (p - k + 0.5) / p`, with the magnitudes of `p` features in ascending order, `k`
    from 1 to `p`. From 0, where all are equal, to `1 - 1 / p`, where one alone is not zero; a zero map has 0. The values
    are not scaled, and any scale gives the same. No model rows: `model=None`.

    Source: Chalasani et al. 2020, arXiv:1810.06583, after Hurley and Rickard 2009, arXiv:0811.4706.

    Parameters
    ----------
    features
        What has one magnitude, that of the sum of its values: by default each position of an image, signal or text with
        all its channels, each column of a table; `xai.Elements()` for every number by itself; labels as an integer
        array; or any rule that methods take, of which `None` is the default there, at most 64 tiles of an image.
    """

    higher_is_better: ClassVar[bool | None] = True

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        return Measured(np.array([_gini(row) for row in self.sizes(explanation)]))


def _gini(sizes: _Host) -> float:
    share, count = np.sort(_shares(sizes)), len(sizes)
    return float(1.0 - 2.0 * np.sum(share * (count - np.arange(1, count + 1) + 0.5)) / count)


def _shares(sizes: _Host) -> _Host:
    """Shares of the sum; equal ones where all are zero."""
    largest = sizes.max(initial=0.0)
    # Divided by the largest first, so that neither huge nor tiny values leave the range of numbers.
    scaled = sizes / largest if largest > 0 else np.ones_like(sizes)
    return np.asarray(scaled / scaled.sum())


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Complexity(_OfSizes):
    """Entropy of the shares that features have of the explanation, in nats. Lower is better.

    `H = - sum_i P_i ln P_i`, with `P_i = |a_i| / sum |a|`. From 0, where one feature alone is not zero, to `ln p`, where
    all `p` are equal; a zero map has `ln p`. Any scale of the values gives the same. No model rows: `model=None`.
    `details["most"]` is `ln p`, by which explanations of other numbers of features can be compared.

    Source: Bhatt, Weller and Moura 2020, arXiv:2005.00631, "complexity".

    Parameters
    ----------
    features
        As for `Sparseness`.
    """

    higher_is_better: ClassVar[bool | None] = False

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        rows = self.sizes(explanation)
        most = np.log([float(len(row)) for row in rows])
        return Measured(np.array([_entropy(row) for row in rows]), details={"most": most})


def _entropy(sizes: _Host) -> float:
    share = _shares(sizes)
    some = share[share > 0]
    return float(max(0.0, -np.sum(some * np.log(some))))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class EffectiveComplexity(_OfSizes):
    """How many features have a magnitude above a threshold. Lower is better.

    `#{i: |a_i| > epsilon}`, from 0, which a zero map has, to the number of features. The threshold is one of values as
    they are, so that it depends on their scale: `relative=True` takes it as a share of the largest magnitude of each
    sample. The paper counts the features of largest magnitude without which the prediction loses more than a threshold,
    for which a model is needed; the curves of faithfulness show that, and this count is what is used of it since. No
    model rows: `model=None`.

    Source: Nguyen and Martinez 2020, arXiv:2007.07584, "effective complexity".

    Parameters
    ----------
    epsilon
        The threshold, not negative.
    relative
        Whether it is a share of the largest magnitude.
    features
        As for `Sparseness`.
    """

    higher_is_better: ClassVar[bool | None] = False

    epsilon: float = 1e-5
    relative: bool = False

    def __post_init__(self) -> None:
        number = isinstance(self.epsilon, (int, float, np.number)) and not isinstance(self.epsilon, bool)
        if not number or not 0 <= self.epsilon < np.inf or (self.relative and self.epsilon >= 1):
            raise OptionError(
                "`epsilon` must be a number that is not negative, and below 1 if it is a share.",
                received=describe(self.epsilon),
                fix="epsilon=1e-5, or epsilon=0.01, relative=True.",
            )

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        rows = self.sizes(explanation)
        limits = [self.epsilon * (row.max(initial=0.0) if self.relative else 1.0) for row in rows]
        counts = [float(np.sum(row > limit)) for row, limit in zip(rows, limits, strict=True)]
        return Measured(np.array(counts))
