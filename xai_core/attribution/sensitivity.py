"""Global sensitivity of the score to random masks: total Sobol indices, and dependence by a kernel criterion."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xai_core.attribution.base import Attribution, Explainer, positive_int
from xai_core.attribution.game import Game
from xai_core.attribution.sampling import check_sampling, sample
from xai_core.coalitions import generator
from xai_core.errors import IntegerInputError, describe
from xai_core.problem import Problem, independent, is_floating

__all__ = ["HSICAttribution", "SobolAttribution"]

_Host = np.ndarray[Any, Any]

ORDER_PART = 3_300_000
"""Stream part of the order in which a sample has its features."""
_DESIGN = 4_000_000
_FEW = 10
"""Draws of Sobol indices below which nothing is said of the error."""
_PAIRS = 128
"""Draws among which distances of scores are compared."""
_CELLS = 2**20
"""Elements of waves that are held at once."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Sensitivity(Explainer, abstract=True):
    """Base: features, what fills them when they are masked, and masks of which there are more and more."""

    differentiates: ClassVar[bool] = False
    stochastic: ClassVar[bool] = True

    samples: int = 4096
    features: Any = None
    baseline: Any = 0.0
    tolerance: float | None = None
    max_rows: int | None = None

    def __post_init__(self) -> None:
        check_sampling(self.samples, self.tolerance, self.max_rows)

    def planned_rows(self, batch: int) -> int:
        return batch * (self.samples + 1)

    def attribute(self, problem: Problem) -> Attribution:
        game = Game.of(problem, self.features, self.baseline, None)
        self.check(problem)
        game.shuffle(ORDER_PART)
        found = sample(problem, self.steps(game), self.samples, self.tolerance, self.max_rows)
        if not bool(np.any(problem.to_host(found.values != 0))) and game.inert():
            raise independent(problem, type(self).__name__)
        return game.spread(found.values, found.error, share=False, details=found.details)

    def check(self, problem: Problem) -> None:
        """Refuse inputs that the masks do not fit."""

    @abstractmethod
    def steps(self, game: Game) -> _Drawn:
        """The estimate from more and more masks."""


class _Drawn(ABC):
    """Worths of masks that are drawn in rounds, each as large as all before together; those of old rounds are kept."""

    least: ClassVar[int] = 2
    """Draws without which there is no estimate."""

    def __init__(self, game: Game, each: int) -> None:
        self._game, self._each = game, each
        self._masks: list[_Host] = []
        self._worth: Any = None

    def __call__(self, budget: int, samples: list[int], kept: Any) -> tuple[Any, Any]:
        game, xp = self._game, self._game.problem.xp
        known, count = sum(map(len, self._masks)), max(self.least, budget // self._each)
        if kept is not None:
            self._worth = xp.take(self._worth, game.problem.to_device(kept.astype(np.int64)), axis=0)
        if count > known:
            source = generator(game.problem.streams.seed, game.count, _DESIGN + self._each, len(self._masks))
            drawn = self.draw(source, count - known)
            worth = game.worth(
                lambda numbers: self.coalitions(drawn, np.asarray(numbers)), self._each * len(drawn), samples
            )
            worth = xp.reshape(worth[:, :, :1], (len(samples), len(drawn), self._each))
            self._masks.append(drawn)
            self._worth = worth if self._worth is None else xp.concat([self._worth, worth], axis=1)
        return self.estimate(np.concatenate(self._masks), self._worth)

    @abstractmethod
    def draw(self, source: np.random.Generator, count: int) -> _Host:
        """Random numbers of some draws, (count, ...)."""

    @abstractmethod
    def coalitions(self, drawn: _Host, numbers: _Host) -> _Host:
        """Coalitions (numbers, features) of draws, of which each has some in a row."""

    @abstractmethod
    def estimate(self, drawn: _Host, worth: Any) -> tuple[Any, Any]:
        """Values and errors (samples, features, 1) from worths (samples, draws, coalitions)."""


def hypercube(source: np.random.Generator, count: int, dimensions: int) -> _Host:
    """Points (count, dimensions) in the unit cube, one in each of `count` slices of every axis.

    Source: McKay, Beckman and Conover 1979, "A comparison of three methods for selecting values of input variables".
    """
    slices = np.argsort(source.random((count, dimensions)), axis=0)
    return np.asarray((slices + source.random((count, dimensions))) / count)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SobolAttribution(_Sensitivity):
    """Total Sobol indices: the share of the variance of the score under random masks in which a feature has a part.

    `values_i = (sum_j (f(A_j) - f(C_ij))^2 / (2 N)) / V[f(A)]`: `A_j` are `N` random masks in [0, 1], one number for each
    feature, that mix the input and the baseline; `C_ij` is `A_j` with another number for feature `i`. Values lie between 0
    and 1, up to sampling, and say nothing of the direction; interactions count for all that have a part. Masks are Latin
    hypercubes. `N (p + 1)` model rows for `p` features, as many draws as fit into `samples`, at least two, and
    one row for the score. Standard errors by the delta method for a ratio of means; NaN for fewer than ten draws.

    Source: Fel, Cadene, Chalvidal, Cord, Vigouroux and Serre 2021, arXiv:2111.04138, section 3; the estimator: Jansen
    1999, "Analysis of variance designs for model output".

    Parameters
    ----------
    samples
        Perturbed model rows per input; with `tolerance`, the number to begin with.
    features
        What is masked together: `None` for single columns, and at most 64 tiles of an image; labels as an integer array;
        or a rule, `xai.Patches`, `xai.Superpixels`, `xai.Spans`, `xai.Groups`, `xai.Elements`.
    baseline
        What masked features are mixed with, as for `IntegratedGradients`.
    tolerance
        Double the rows until no standard error exceeds this, or `max_rows` would be exceeded; `details["converged"]` says
        of each input which it was.
    max_rows
        Most perturbed model rows per input; `None`: 16 times `samples`.
    """

    def check(self, problem: Problem) -> None:
        for position, leaf in enumerate(problem.varied):
            frame = problem.bound.frame_of(position)
            if not is_floating(leaf) or (frame is not None and frame.coded):
                raise IntegerInputError(
                    "SobolAttribution mixes inputs and baseline, which takes numbers that can be mixed.",
                    received=describe(leaf) if frame is None else f"columns {', '.join(map(repr, frame.coded[:8]))}",
                    fix="use HSICAttribution or a Shapley method, which keep or replace; or layer= of an embedding.",
                )

    def steps(self, game: Game) -> _Drawn:
        return _Sobol(game, game.count + 1)


class _Sobol(_Drawn):
    def draw(self, source: np.random.Generator, count: int) -> _Host:
        features = self._game.count
        return hypercube(source, count, 2 * features).reshape(count, 2, features)

    def coalitions(self, drawn: _Host, numbers: _Host) -> _Host:
        draw, place = np.divmod(numbers, self._each)
        other = np.arange(self._game.count)[None, :] == place[:, None] - 1
        return np.where(other, drawn[draw, 1], drawn[draw, 0])

    def estimate(self, drawn: _Host, worth: Any) -> tuple[Any, Any]:
        xp, count = self._game.problem.xp, len(drawn)
        whole, changed = worth[:, :, :1], worth[:, :, 1:]
        squares = (whole - changed) ** 2 / 2
        off = (whole - xp.mean(whole, axis=1, keepdims=True)) ** 2 * (count / (count - 1))
        variance = xp.mean(off, axis=1, keepdims=True)
        varies = variance > 0
        safe = xp.where(varies, variance, xp.ones_like(variance))
        values = xp.mean(squares, axis=1, keepdims=True) / safe
        # If the score never changes from draw to draw but does within one, there is no scale for an index.
        unknown = xp.where(varies, values, xp.zeros_like(values))
        spread = (squares - unknown * off) / safe
        # The variance is an estimate too, and of few draws too small by chance: as for Student's distribution.
        wider = (count - 1) / (count - 3) if count >= _FEW else float("nan")
        error = xp.sqrt(xp.sum(spread**2, axis=1) * (wider / (count * (count - 1))))
        return unknown[:, 0, :, None], error[:, :, None]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class HSICAttribution(_Sensitivity):
    """Dependence of the score on whether a feature is there, by the Hilbert-Schmidt independence criterion.

    `values_i = HSIC(M_i, f(x * M + baseline * (1 - M)))` under random masks `M` of zeros and ones, each with
    probability 1/2: the squared distance between the joint distribution of bit and score and the product of the two, in
    the kernels `k(m, m') = [m = m']` and `l(y, y') = exp(-(y - y')^2 / (2 s^2))`, `s` the median of the distances of
    the first 128 scores. It is zero where the score does not depend on the feature, of any order, and has no sign:
    estimates are without bias, so that those of features without a part lie around zero. `samples` model rows per input,
    whatever the number of features, and one for the score. Standard errors by the jackknife.

    Source: Novello, Fel and Vigouroux 2022, arXiv:2206.06219; the unbiased estimator: Song, Smola, Gretton, Bedo and
    Borgwardt 2012, "Feature selection via dependence maximization", equation 5.

    Parameters
    ----------
    samples
        Perturbed model rows per input, at least 5; with `tolerance`, the number to begin with.
    features
        What is masked together: `None` for single columns or tokens, and at most 64 tiles of an image; labels as an
        integer array; or a rule, `xai.Patches`, `xai.Superpixels`, `xai.Spans`, `xai.Groups`, `xai.Elements`.
    baseline
        What masked features are filled with, as for `IntegratedGradients`.
    tolerance
        Double the rows until no standard error exceeds this, or `max_rows` would be exceeded; `details["converged"]` says
        of each input which it was.
    max_rows
        Most perturbed model rows per input; `None`: 16 times `samples`.
    """

    keeps_missing: ClassVar[bool] = True

    samples: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_int("samples", self.samples, _HSIC.least)

    def steps(self, game: Game) -> _Drawn:
        return _HSIC(game, 1)


class _HSIC(_Drawn):
    least: ClassVar[int] = 5

    def draw(self, source: np.random.Generator, count: int) -> _Host:
        return hypercube(source, count, self._game.count) < 0.5

    def coalitions(self, drawn: _Host, numbers: _Host) -> _Host:
        return np.asarray(drawn[numbers])

    def estimate(self, drawn: _Host, worth: Any) -> tuple[Any, Any]:
        problem, features = self._game.problem, self._game.count
        xp, count = problem.xp, len(drawn)
        signs = np.where(drawn, 1.0, -1.0)
        middle = signs.mean(axis=0, keepdims=True)
        # [m = m'] is half of one plus the product of signs; neither the one nor the means of the signs change anything.
        z = problem.to_device(signs - middle, like=worth)
        means = problem.to_device(middle, like=worth)
        scores = problem.to_host(worth[:, :, 0]).astype(np.float64)
        centres, scales, frequencies, weights = _spectra(scores)
        found = []
        together = max(1, _CELLS // (count * max(features, 2 * frequencies.shape[1])))
        for start in range(0, len(scales), together):
            some = slice(start, min(start + together, len(scales)))
            centre, scale, steps, amplitudes = (
                problem.to_device(host[some], like=worth) for host in (centres, scales, frequencies, weights)
            )
            angles = (worth[some, :, :] - centre[:, None, None]) / scale[:, None, None] * steps[:, None, :]
            waves = xp.concat([xp.cos(angles), xp.sin(angles)], axis=2)
            spectrum = xp.concat([amplitudes, amplitudes], axis=1)[:, :, None]
            into = xp.matrix_transpose(waves)
            lz = xp.matmul(waves, spectrum * xp.matmul(into, z))
            l1 = xp.matmul(waves, spectrum * xp.sum(into, axis=2, keepdims=True))
            found.append(_unbiased(xp, z, means, lz, l1))
        values, errors = (xp.concat(list(parts), axis=0) for parts in zip(*found, strict=True))
        # Where all scores are the same, they depend on nothing.
        varies = problem.to_device(np.ptp(scores, axis=1) > 0)[:, None]
        return tuple(xp.where(varies, part, xp.zeros_like(part))[:, :, None] for part in (values, errors))


_REACH = 8.0
"""Where a normal density is zero to rounding in double precision."""


def _spectra(scores: _Host) -> tuple[_Host, ...]:
    """The Gaussian kernel among scores (samples, draws) of each sample as a sum of waves.

    `exp(-d^2 / 2) = integral cos(w d) normal(w) dw`, by equal steps `h`, which is exact to rounding if the period
    `2 pi / h` exceeds the largest `d` by so much that a normal density is nothing there. What takes squares of the draws
    then takes draws times waves, of which there are a few dozen. Returns for each sample the middle of its scores, the width
    of its kernel, and frequencies and weights (samples, waves).
    """
    low, high = scores.min(axis=1), scores.max(axis=1)
    scales = _scales(scores)
    scales = np.where(scales > 0, scales, 1.0)
    period = (high - low) / scales + _REACH
    steps = 2 * np.pi / period[:, None]
    frequencies = steps * np.arange(math.ceil(_REACH / float(steps.min())))
    weights = steps * np.sqrt(2 / np.pi) * np.exp(-0.5 * frequencies**2)
    weights[:, 0] /= 2
    return (low + high) / 2, scales, frequencies, weights


def _unbiased(xp: Any, z: Any, middle: Any, lz: Any, l1: Any) -> tuple[Any, Any]:
    """The unbiased estimate (samples, features) for the kernel `z z' / 2`, and its error by leaving out one draw at a time.

    `z` is (draws, features), what is left of signs without their means `middle` (1, features); `lz` (samples, draws,
    features) and `l1` (samples, draws, 1) are the other kernel times `z` and times ones. Source: Song et al. 2012,
    equation 5.
    """
    count = tuple(z.shape)[0]
    square = z**2
    total, squares = (xp.sum(array, axis=0, keepdims=True) for array in (z, square))
    into = xp.matrix_transpose(z)
    mixed = xp.matrix_transpose(xp.matmul(into, l1))
    own = xp.matrix_transpose(xp.matmul(xp.matrix_transpose(square), l1 - 1))
    quadratic, everything = xp.sum(z * lz, axis=1, keepdims=True), xp.sum(l1, axis=1, keepdims=True)
    # Off the diagonal: half the trace of the product, the sums of both, and the sum of the product.
    ends = (total**2 - squares) * (everything - count) / ((count - 1) * (count - 2))
    cross = (total * (mixed - total) - own) * (2 / (count - 2))
    value = (quadratic - squares + ends - cross) / (2 * count * (count - 3))
    # The same without one draw, as what multiplies each of the sums, `lz` and `l1`; what all draws share is left out.
    # Squares are linear in z, since signs have squares of one.
    rest, share, twice = total - z, 1 / ((count - 2) * (count - 3)), 2 / (count - 3)
    pairs = (rest**2 - squares + square) * share
    of_lz = twice * (rest + 2 * middle) - 2 * z
    of_l1 = twice * (rest * z - square - 1 + middle**2) - 2 * pairs
    alone = 2 * square - rest * (z - rest) * twice + 2 * square * twice + pairs * (2 - count)
    without = lz * of_lz + l1 * of_l1 + pairs * everything - (twice * rest) * mixed + alone
    spread = xp.sum((without - xp.mean(without, axis=1, keepdims=True)) ** 2, axis=1)
    return value[:, 0, :], xp.sqrt(spread * ((count - 1) / count)) / (2 * (count - 1) * (count - 4))


def _scales(scores: _Host) -> _Host:
    """Median distance of two of a sample's scores (samples, draws); mean distance from their mean where most are alike."""
    some = scores[:, :_PAIRS]
    one, other = np.triu_indices(some.shape[1], 1)
    median = np.array([np.median(np.abs(own[one] - own[other])) for own in some])
    spread = np.mean(np.abs(scores - scores.mean(axis=1, keepdims=True)), axis=1)
    return np.where(median > 1e-3 * np.ptp(scores, axis=1), median, spread)
