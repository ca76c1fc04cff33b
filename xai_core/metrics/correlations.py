"""Faithfulness by how values go with what the score loses without features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xai_core.attribution.ablation import lost_one_by_one
from xai_core.attribution.base import positive_int
from xai_core.attribution.game import Game, Removal
from xai_core.baselines import resolve_background
from xai_core.coalitions import generator
from xai_core.errors import IntegerInputError, OptionError, describe
from xai_core.explanation import Explanation
from xai_core.metrics.base import Measured, Scored
from xai_core.metrics.ground import PIXELS, Ground, values_on_host
from xai_core.metrics.statistics import pearson, spearman
from xai_core.problem import Problem, is_floating

__all__ = [
    "FaithfulnessCorrelation",
    "FaithfulnessEstimate",
    "Infidelity",
    "MonotonicityCorrelation",
    "SensitivityN",
]

_Host = np.ndarray[Any, Any]
_DESIGN = 6_000_000
FILLING_PART, NOISE_PART = 3_510_000, 3_520_000
"""Stream parts of random fillings, and of noise, of each input."""


def _subsets(ground: Ground, features: int, size: int, count: int) -> tuple[Any, Any]:
    """Name and maker of random subsets of a size, (count, features)."""
    seed = ground.seed

    def make() -> _Host:
        source = generator(seed, features, _DESIGN + size)
        found = np.zeros((count, features), dtype=bool)
        for row in range(count):
            found[row, source.choice(features, size, replace=False, shuffle=False)] = True
        return found

    return ("size", size, count), make


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Sampled(Scored, abstract=True):
    """Base: random subsets of features are removed, the same for all explanations."""

    category: ClassVar[str] = "faithfulness"
    higher_is_better: ClassVar[bool | None] = True

    baseline: Any = 0.0
    features: Any = PIXELS
    samples: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_int("samples", self.samples, 2)

    def correlation(self, ground: Ground, explanation: Explanation, size: int) -> _Host:
        """Correlation (batch,) of what subsets of a size are worth by the values, and what the score loses without them."""
        relevance = ground.relevance(explanation, self.features)
        name, make = _subsets(ground, relevance.features.count, size, self.samples)
        scores, gone = ground.subsets(self.features, self.baseline, name, make)
        return pearson(ground.sums(relevance, self.features, gone), ground.score()[:, None] - scores)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SensitivityN(_Sampled):
    """Correlation of the sum of the values of `n` random features with what the score loses without them, over several `n`.

    `corr_S(sum_S values, f(x) - f(x without S))` over random subsets `S` of `n` features, averaged over `sizes`. From -1 to
    1, higher is better; 0 where the sums or the losses do not vary, as for a uniform map. `curve` are the correlations, `at`
    the sizes as shares of the features. `samples` model rows for each size, and one for the score.

    Source: Ancona, Ceolini, Oztireli and Gross 2018, arXiv:1711.06104, section 4.

    Parameters
    ----------
    sizes
        How many features are removed: ints; `None`: eight sizes from 1 to 80 % of the features, evenly on a log scale.
    samples
        Subsets of each size.
    baseline, features, score
        As for `Deletion`.
    """

    sizes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for size in self.sizes or ():
            positive_int("sizes", size)

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        count = ground.features(self.features).count
        sizes = self.sizes
        if sizes is None:
            sizes = tuple(np.unique(np.round(np.geomspace(1, max(1, int(0.8 * count)), 8)).astype(int)).tolist())
        _check_sizes(max(sizes), count)
        curve = np.stack([self.correlation(ground, explanation, size) for size in sizes], axis=1)
        return Measured(curve.mean(axis=1), curve, np.asarray(sizes) / count)


def _check_sizes(largest: int, count: int) -> None:
    if largest > count:
        raise OptionError(
            "Subsets cannot have more features than there are.",
            received=f"{largest} of {count}",
            fix=f"a size of at most {count}.",
        )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FaithfulnessCorrelation(_Sampled):
    """Correlation of the sum of the values of random features with what the score loses without them.

    `corr_S(sum_S values, f(x) - f(x without S))` over random subsets `S` of `subset_size` features. From -1 to 1, higher is
    better; 0 where the sums or the losses do not vary, as for a uniform map. `samples` model rows and one for the score.

    Source: Bhatt, Weller and Moura 2020, arXiv:2005.00631, definition 3.

    Parameters
    ----------
    subset_size
        Features in a subset; `None`: a quarter of them.
    samples
        Subsets.
    baseline, features, score
        As for `Deletion`.
    """

    subset_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.subset_size is not None:
            positive_int("subset_size", self.subset_size)

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        count = ground.features(self.features).count
        size = max(1, count // 4) if self.subset_size is None else self.subset_size
        _check_sizes(size, count)
        return Measured(self.correlation(ground, explanation, size))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FaithfulnessEstimate(Scored):
    """Correlation of the value of each feature with what the score loses without it alone.

    `corr_i(values_i, f(x) - f(x without i))`. From -1 to 1, higher is better; 0 where the values or the losses do not vary,
    as for a uniform map. A model row for each feature and one for the score.

    Source: Alvarez-Melis and Jaakkola 2018, arXiv:1806.07538, section 4.2.

    Parameters
    ----------
    features
        `None` for at most 64 tiles of an image, single columns or tokens; else as for `Deletion`.
    baseline, score
        As for `Deletion`.
    """

    category: ClassVar[str] = "faithfulness"
    higher_is_better: ClassVar[bool | None] = True

    baseline: Any = 0.0
    features: Any = None

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        relevance = ground.relevance(explanation, self.features)
        lost = ground.lost(self.features, self.baseline)
        return Measured(_over_own(pearson, relevance.values, lost, relevance.own))


def _over_own(correlate: Any, a: _Host, b: _Host, own: _Host) -> _Host:
    """Correlations (batch,) over the features that each sample has."""
    if own.all():
        return np.asarray(correlate(a, b))
    return np.array([float(correlate(x[k], y[k])) for x, y, k in zip(a, b, own, strict=True)])


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class MonotonicityCorrelation(Scored):
    """Rank correlation of the size of the value of each feature with how uncertain the score is without it.

    `spearman_i(|values_i|, E[(f(x) - f(x with feature i drawn anew))^2])`. From -1 to 1, higher is better; 0 where one side
    does not vary, as for a uniform map. Features are drawn from rows of `background`, or without one uniformly from the
    range of the sample's values. `samples` model rows for each feature and one for the score.

    Source: Nguyen and Martinez 2020, arXiv:2007.07584, section 3.3.

    Parameters
    ----------
    samples
        Draws of each feature.
    background
        Data from whose rows values are drawn.
    features
        `None` for at most 64 tiles of an image, single columns or tokens; else as for `Deletion`.
    score
        As for `Deletion`.
    """

    category: ClassVar[str] = "faithfulness"
    higher_is_better: ClassVar[bool | None] = True

    samples: int = 10
    background: Any = None
    features: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_int("samples", self.samples)

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        relevance = ground.relevance(explanation, self.features)

        def make() -> _Host:
            total = np.zeros(relevance.values.shape)
            for draw in range(self.samples):
                filling = Removal(_drawn(ground.problem, self.background, draw), 1, False)
                lost = lost_one_by_one(Game(ground.problem, relevance.features, filling))
                total += ground.on_host(lost)[:, :, 0] ** 2
            return total / self.samples

        key = ("uncertain", ground.key(self.features), ground.key(self.background), self.samples)
        uncertain = ground.known(key, make)
        return Measured(_over_own(spearman, np.abs(relevance.values), uncertain, relevance.own))


def _drawn(problem: Problem, background: Any, draw: int) -> list[Any]:
    """What features are filled with at one draw, (batch, ...) for each input."""
    xp = problem.xp
    if background is not None:
        rows = resolve_background(problem, background)
        size, batch = int(rows[0].shape[0]), range(problem.batch)
        chosen = [int(problem.streams.generator(row, draw, FILLING_PART).integers(size)) for row in batch]
        place = problem.to_device(np.asarray(chosen, dtype=np.int64))
        return [xp.take(array, place, axis=0) for array in rows[: len(problem.varied)]]
    found = []
    for position, leaf in enumerate(problem.varied):
        if not is_floating(leaf):
            raise IntegerInputError(
                "Whole numbers are drawn from data.",
                received=describe(leaf),
                fix="background=x_train[:100]",
            )
        shape = tuple(leaf.shape)
        uniform = problem.uniform(range(shape[0]), [draw], position, FILLING_PART + 1 + position)[:, 0]
        axes = tuple(range(1, len(shape)))
        low, high = (end(leaf, axis=axes, keepdims=True) for end in (xp.min, xp.max))
        share = problem.to_device(uniform, like=leaf)
        found.append(xp.astype(low + share * (high - low), leaf.dtype))
    return found


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Infidelity(Scored):
    """Mean squared difference of what values say a perturbation does to the score, and what it does.

    `E[(I . values - (f(x) - f(x - I)))^2]` over perturbations `I`. Lower is better, 0 best; in squared units of the score.
    Without `noise`, `I` sets a random set of features to the baseline, each with probability 1/2; with it, `I` is Gaussian,
    with that standard deviation as a fraction of each sample's range. Where values are shares of the score rather than
    slopes, as those of most methods but gradients, `I . values` is the sum of the values of what is removed, with noise
    `sum_j values_j I_j / (x_j - baseline_j)`. `details["error"]` is the standard error of the mean. `samples` model rows
    and one for the score.

    Source: Yeh et al. 2019, arXiv:1901.09392, definition 2.1; the scaling: section 3.

    Parameters
    ----------
    noise
        `None`, or a standard deviation as a fraction of each sample's range.
    slopes
        Whether values are slopes; `None`: as the explainer says.
    scaled
        Multiply the values by the number that fits the changes of the score best, so that explanations of different
        size can be compared.
    samples
        Perturbations.
    baseline, features, score
        As for `Deletion`.
    """

    category: ClassVar[str] = "faithfulness"
    higher_is_better: ClassVar[bool | None] = False

    samples: int = 100
    noise: float | None = None
    slopes: bool | None = None
    scaled: bool = False
    baseline: Any = 0.0
    features: Any = PIXELS

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_int("samples", self.samples, 2)
        if self.noise is not None and not (isinstance(self.noise, (int, float)) and 0 < self.noise < np.inf):
            raise OptionError(
                "`noise` is a standard deviation as a fraction of each sample's range, more than 0.",
                received=describe(self.noise),
                fix="noise=0.1, or noise=None to remove features.",
            )

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        explainer = explanation.explainer
        slopes = self.slopes
        if slopes is None:
            slopes = explainer is not None and explainer.gives_slopes()
        said, lost = (self._removed if self.noise is None else self._noisy)(ground, explanation, slopes)
        if self.scaled:
            size = np.sum(said**2, axis=1, keepdims=True)
            fit = np.sum(said * lost, axis=1, keepdims=True) / np.where(size > 0, size, 1.0)
            said = said * np.where(size > 0, fit, 1.0)
        squares = (said - lost) ** 2
        error = squares.std(axis=1, ddof=1) / np.sqrt(self.samples)
        return Measured(squares.mean(axis=1), details={"error": error})

    def _removed(self, ground: Ground, explanation: Explanation, slopes: bool) -> tuple[_Host, _Host]:
        relevance = ground.relevance(explanation, self.features, self.baseline if slopes else None)
        count, seed = relevance.features.count, ground.seed

        def make() -> _Host:
            return generator(seed, count, _DESIGN).random((self.samples, count)) < 0.5

        scores, gone = ground.subsets(self.features, self.baseline, ("half", self.samples), make)
        return ground.sums(relevance, self.features, gone), ground.score()[:, None] - scores

    def _noisy(self, ground: Ground, explanation: Explanation, slopes: bool) -> tuple[_Host, _Host]:
        problem = ground.problem
        values = values_on_host(explanation, [tuple(leaf.shape) for leaf in problem.varied])
        if not slopes:
            values = ground.per_unit(values, self.baseline)
        noise = self.noise or 0.0
        # From the inputs: so much is taken away.
        slopes_by_spread = [
            np.zeros(1) if spread is None else -value * ground.on_host(spread)
            for value, spread in zip(values, ground.spreads(noise), strict=True)
        ]
        said = []
        for drawn, scores in ground.noisy(noise, self.samples, NOISE_PART):
            dots = [
                np.sum(normal * value[:, None], axis=tuple(range(2, normal.ndim)))
                for normal, value in zip(drawn, slopes_by_spread, strict=True)
            ]
            said.append((sum(dots), ground.score()[:, None] - scores))
        return np.concatenate([a for a, _ in said], axis=1), np.concatenate([b for _, b in said], axis=1)
