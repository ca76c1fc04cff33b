"""Prediction difference analysis: what a probability loses when a feature is not known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xai_core.attribution.ablation import lost_one_by_one
from xai_core.attribution.base import Attribution, Explainer, positive_int
from xai_core.attribution.game import Game, Removal
from xai_core.baselines import resolve_background, spatial_axes
from xai_core.coalitions import generator
from xai_core.errors import OptionError, describe
from xai_core.features import Features, resolve_features
from xai_core.problem import Problem, independent, is_floating
from xai_core.targets import Resolve

__all__ = ["PredictionDifference"]

_Host = np.ndarray[Any, Any]

ROW_PART, NOISE_PART = 3_400_000, 3_400_001
"""Stream parts of rows of the background, and of what is drawn given the surroundings."""
_DESIGN = 5_000_000
_LARGEST = 1024
"""Most pixels of a feature and its surroundings together."""
_PATCHES = 2000
"""Patches from which a normal distribution is fitted, at least."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PredictionDifference(Explainer):
    """How much evidence for the explained class each feature gives: the log-odds with it, minus those without.

    `values_i = log2(p(c | x) / (1 - p(c | x))) - log2(p(c | x without i) / (1 - p(c | x without i)))`, where
    `p(c | x without i)` is the mean probability over values of feature `i` that are drawn: those of other rows of
    `background`, or with `conditional` from a normal distribution given the pixels around, fitted to patches of the
    background. Probabilities are `(p N + 1) / (N + K)` with `N` rows and `K` classes, so that none is 0 or 1. Positive
    values speak for the class. `samples` model rows for each feature and two more. Standard errors by the delta method.

    Source: Zintgraf, Cohen, Adel and Welling 2017, arXiv:1702.04595, equations 2 to 5 and section 3.1, with features that
    do not overlap; Robnik-Sikonja and Kononenko 2008, "Explaining classifications for individual instances".

    Parameters
    ----------
    background
        Data like the inputs, from which values are drawn.
    samples
        Draws for each feature; all features take their values from the same rows.
    features
        What is unknown together: `None` for single columns or tokens, and at most 64 tiles of an image; labels as an
        integer array; or a rule, `xai.Patches`, `xai.Superpixels`, `xai.Spans`, `xai.Groups`, `xai.Elements`.
    measure
        `"evidence"` as above, or `"difference"`: the explained score minus its mean without the feature, for any score.
    conditional
        Draw pixels given those around, channel by channel, instead of from other rows.
    margin
        How many pixels around a feature are its surroundings.
    instances
        `N` above; `None`: the rows of the background.
    classes
        `K` above; `None`: as many as the model has outputs, at least 2.
    """

    differentiates: ClassVar[bool] = False
    stochastic: ClassVar[bool] = True
    keeps_missing: ClassVar[bool] = True

    background: Any = None
    samples: int = 10
    features: Any = None
    measure: str = "evidence"
    conditional: bool = False
    margin: int = 2
    instances: int | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        for name in ("samples", "margin", "instances", "classes"):
            if getattr(self, name) is not None:
                positive_int(name, getattr(self, name))
        if self.measure not in ("evidence", "difference"):
            raise OptionError("`measure` must be 'evidence' or 'difference'.", received=repr(self.measure))

    def attribute(self, problem: Problem) -> Attribution:
        xp, count = problem.xp, self.samples
        data = resolve_background(problem, self.background)[: len(problem.varied)]
        features = resolve_features(problem, self.features)
        draw = (
            _conditional(problem, features, data, self.margin) if self.conditional else _marginal(problem, data, count)
        )
        lost, game = [], Game(problem, features, Removal(data, 1, True))
        for place in range(count):
            game = Game(problem, features, Removal(draw(place), 1, False))
            lost.append(lost_one_by_one(game))
        every = xp.stack(lost)
        if not bool(np.any(problem.to_host(every) != 0)) and game.inert():
            raise independent(problem, type(self).__name__)
        values, free = xp.mean(every, axis=0), count * (count - 1)
        error = xp.sqrt(xp.sum((every - values[None, ...]) ** 2, axis=0) * (1.0 / free if free else float("nan")))
        if self.measure == "evidence":
            values, error = self._evidence(problem, int(data[0].shape[0]), game.full(), values, error)
        return game.spread(values, error, share=False)

    def _evidence(self, problem: Problem, rows: int, full: Any, lost: Any, error: Any) -> tuple[Any, Any]:
        """Differences of log-odds, and their errors, from those of probabilities."""
        xp, without = problem.xp, full - lost
        ends = [problem.to_host(end(part)) for part in (full, without) for end in (xp.min, xp.max)]
        if min(ends) < -_SLACK or max(ends) > 1 + _SLACK:
            raise OptionError(
                "Evidence is a difference of log-odds, so the explained score must be a probability.",
                received=f"scores from {float(min(ends)):.4g} to {float(max(ends)):.4g}",
                fix="xai.wrap(model, output=softmax), with the softmax of the framework; or measure='difference'.",
            )
        instances, classes = self.instances or rows, self.classes or _classes(problem)
        odds, slopes = [], []
        for part in (full, without):
            smooth = (part * instances + 1.0) / (instances + classes)
            odds.append((xp.log(smooth) - xp.log(1.0 - smooth)) / math.log(2.0))
            slopes.append(instances / (instances + classes) / math.log(2.0) / (smooth * (1.0 - smooth)))
        return odds[0] - odds[1], error * slopes[1]


_SLACK = 1e-4


def _classes(problem: Problem) -> int:
    """Outputs of the model for one sample, at least two: one probability is of a class and its opposite."""
    first = problem.to_device(np.zeros(1, dtype=np.int64))
    _, _, empty, _ = problem.run(Resolve(problem.pick), problem.leaves, first, problem.index)
    problem.work.add(1)
    outputs = tuple(empty.shape)[1:]
    return max(2, int(outputs[-1]) if outputs else 1)


_Draw = Callable[[int], list[Any]]
"""From the number of a draw to what features are filled with, (batch, ...) for each input."""


def _marginal(problem: Problem, data: list[Any], count: int) -> _Draw:
    """Rows of the background; all are used before one comes again."""
    size = int(data[0].shape[0])
    rows = np.empty((problem.batch, count), dtype=np.int64)
    for row in range(problem.batch):
        source = problem.streams.generator(row, 0, ROW_PART)
        rows[row] = np.concatenate([source.permutation(size) for _ in range(-(-count // size))])[:count]
    return lambda draw: [problem.xp.take(array, problem.to_device(rows[:, draw]), axis=0) for array in data]


def _conditional(problem: Problem, features: Features, data: list[Any], margin: int) -> _Draw:
    """Pixels from normal distributions given the pixels around their feature."""
    surrounded = [
        _Surrounded(problem, position, labels, rows, margin)
        for position, (labels, rows) in enumerate(zip(features.labels, data, strict=True))
    ]
    return lambda draw: [part.filled(draw) for part in surrounded]


class _Surrounded:
    """What each feature of an image may look like, given the pixels around it: on the host."""

    def __init__(self, problem: Problem, position: int, labels: _Host, rows: Any, margin: int) -> None:
        leaf = problem.leaves[position]
        axes = spatial_axes(problem, leaf)
        if not axes or not is_floating(leaf) or any(n > 1 and a and a not in axes for a, n in enumerate(labels.shape)):
            raise OptionError(
                "`conditional` draws pixels of images, of which all channels belong to the same feature.",
                received=f"{describe(leaf)}, labels of shape {labels.shape}",
                fix="conditional=False",
            )
        self._problem, self._position = problem, position
        self._channel = problem.bound.channel_axis_of(tuple(leaf.shape)) or 1
        self._data, x = (self._flat(problem.to_host(array)) for array in (rows, leaf))
        self._low, self._high = self._data.min(), self._data.max()
        self._spatial = x.shape[1:-1]
        self._fits: dict[Any, tuple[_Host, ...]] = {}
        self._x, self._means = x, x.copy()
        self._scales: list[list[tuple[_Host, _Host]]] = []
        places = np.moveaxis(labels, self._channel, -1)[..., 0]
        for row in range(problem.batch if places.shape[0] > 1 else 1):
            own = np.broadcast_to(places[row], self._spatial)
            samples = range(problem.batch) if places.shape[0] == 1 else [row]
            scales = [self._one(own == label, samples, margin) for label in np.unique(own[own >= 0])]
            self._scales += [scales] * len(samples)

    def _flat(self, array: _Host) -> _Host:
        return np.moveaxis(array.astype(np.float64), self._channel, -1)

    def _one(self, inside: _Host, samples: Any, margin: int) -> tuple[_Host, _Host]:
        """Sets the conditional means of a feature; its pixels, and a factor of their covariance for each channel."""
        places = np.argwhere(inside)
        low = np.maximum(places.min(axis=0) - margin, 0)
        high = np.minimum(places.max(axis=0) + margin + 1, self._spatial)
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        hidden = inside[box].reshape(-1)
        key = (tuple(int(n) for n in high - low), hidden.tobytes())
        if key not in self._fits:
            self._fits[key] = self._fit(key[0], hidden)
        mean, factor, root = self._fits[key]
        for sample in samples:
            patch = self._means[sample][box].reshape(len(hidden), -1)
            around = self._x[sample][box].reshape(len(hidden), -1)[~hidden] - mean[~hidden]
            patch[hidden] = mean[hidden] + np.einsum("cij,jc->ic", factor, around)
            self._means[sample][box] = patch.reshape(*key[0], -1)
        return inside, root

    def _fit(self, shape: tuple[int, ...], hidden: _Host) -> tuple[_Host, ...]:
        """Mean (pixels, channels), regression on what is seen, and root of what is left, (channels, hidden, ...)."""
        size = len(hidden)
        if size > _LARGEST:
            raise OptionError(
                f"A feature and its surroundings must not have more than {_LARGEST} pixels.",
                received=f"{size}",
                fix="features=xai.Patches(8)",
            )
        source = generator(self._problem.streams.seed, size, _DESIGN)
        count, patches = max(_PATCHES, 4 * size), []
        for _ in range(count):
            row = int(source.integers(len(self._data)))
            start = [int(source.integers(n - m + 1)) for n, m in zip(self._spatial, shape, strict=True)]
            box = tuple(slice(a, a + m) for a, m in zip(start, shape, strict=True))
            patches.append(self._data[row][box].reshape(size, -1))
        every = np.stack(patches)
        mean = every.mean(axis=0)
        factors, roots = [], []
        for channel in range(every.shape[2]):
            off = every[:, :, channel] - mean[:, channel]
            covariance = off.T @ off / (count - 1)
            # A little more on the diagonal, for pixels that never differ.
            covariance += np.eye(size) * (1e-6 * max(np.trace(covariance) / size, 1e-12))
            seen, mixed = covariance[~hidden][:, ~hidden], covariance[hidden][:, ~hidden]
            factor = np.linalg.solve(seen, mixed.T).T
            factors.append(factor)
            roots.append(np.linalg.cholesky(covariance[hidden][:, hidden] - factor @ mixed.T))
        return mean, np.stack(factors), np.stack(roots)

    def filled(self, draw: int) -> Any:
        """One draw of all features, (batch, ...)."""
        problem, found = self._problem, self._means.copy()
        for sample, scales in enumerate(self._scales):
            noise = problem.streams.generator(sample, draw, NOISE_PART + self._position).standard_normal(
                found.shape[1:]
            )
            for inside, root in scales:
                found[sample][inside] += np.einsum("cij,jc->ic", root, noise[inside])
        # As in the authors' program, no value lies out of the range of the data.
        host = np.moveaxis(np.clip(found, self._low, self._high), -1, self._channel)
        leaf = problem.leaves[self._position]
        return problem.xp.astype(problem.to_device(host, like=leaf), leaf.dtype)
