"""Localisation: does the explanation lie where, by somebody's judgement, the evidence is?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xai_core.attribution.base import positive_int
from xai_core.backend import backend_of_array
from xai_core.errors import InputError, OptionError, describe
from xai_core.explanation import Explanation, to_host
from xai_core.metrics.base import Measured, Metric
from xai_core.metrics.ground import Ground
from xai_core.metrics.maps import flat, masked_map
from xai_core.metrics.statistics import average_ranks
from xai_core.streams import Streams, check_seed

__all__ = [
    "AUC",
    "AttributionLocalisation",
    "Focus",
    "GridPointingGame",
    "Mosaics",
    "PointingGame",
    "RelevanceMassAccuracy",
    "RelevanceRankAccuracy",
    "TopKIntersection",
    "mosaics",
]

_Host = np.ndarray[Any, Any]
_SIGNS = ("positive", "absolute")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Located(Metric, abstract=True):
    """Base: a map beside a mask, both (batch, positions...)."""

    category: ClassVar[str] = "localisation"
    higher_is_better: ClassVar[bool | None] = True
    needs: ClassVar[tuple[str, ...]] = ("masks",)

    def placed(self, explanation: Explanation, masks: Any, *, full: bool = True) -> tuple[_Host, _Host]:
        """Map and mask, in which each sample has something to find, and unless `full` something else."""
        name = type(self).__name__
        values, truth = masked_map(explanation, masks, name)
        share = flat(truth).mean(axis=1)
        for wrong, said, fix in (
            (share == 0.0, "is empty: there is nothing to find", "leave out samples without the object."),
            ((share == 1.0) & (not full), "covers everything: there is nothing beside", "use smaller masks."),
        ):
            if np.any(wrong):
                raise InputError(
                    f"A mask of {name} {said}.",
                    received=f"masks of shape {truth.shape}; sample {int(np.argmax(wrong))}, {int(wrong.sum())} in all",
                    fix=fix,
                )
        return values, truth


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PointingGame(_Located):
    """Whether the largest value lies in the mask, or near it: 1 or 0. Higher is better; the mean is the paper's accuracy.

    A hit is a position whose distance to the mask is at most `tolerance`. Where several positions have the largest
    value, the score is the share of these that hit, so that a uniform or zero map has the share of the image that the
    mask and its surroundings take. No model rows: `model=None`.

    Source: Zhang et al. 2018, arXiv:1608.00507, "The Pointing Game" ("Top-down neural attention by excitation
    backprop"); there with a tolerance of 15 pixels.

    Parameters
    ----------
    tolerance
        Largest distance from the mask, Euclidean, in positions.
    """

    tolerance: float = 0.0

    def __post_init__(self) -> None:
        number = isinstance(self.tolerance, (int, float, np.number)) and not isinstance(self.tolerance, bool)
        if not number or not 0 <= self.tolerance < math.inf:
            raise OptionError(
                "`tolerance` is a distance in positions.", received=describe(self.tolerance), fix="tolerance=15"
            )

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        values, truth = self.placed(explanation, masks)
        near, rows = flat(_widened(truth, float(self.tolerance))), flat(values)
        best = rows == rows.max(axis=1, keepdims=True)
        return Measured((best & near).sum(axis=1) / best.sum(axis=1))


def _widened(truth: _Host, radius: float) -> _Host:
    """Positions at most so far from a mask: squared distances, found axis by axis."""
    if radius < 1:
        return truth
    far = np.where(truth, 0.0, np.inf)
    for axis in range(1, truth.ndim):
        lines = np.moveaxis(far, axis, -1)
        found, size = lines.copy(), lines.shape[-1]
        for step in range(1, min(math.floor(radius), size - 1) + 1):
            found[..., step:] = np.minimum(found[..., step:], lines[..., :-step] + step**2)
            found[..., :-step] = np.minimum(found[..., :-step], lines[..., step:] + step**2)
        far = np.moveaxis(found, -1, axis)
    return np.asarray(far <= radius**2)


def _found(values: _Host, truth: _Host, counts: _Host) -> _Host:
    """How many of the `counts` (batch,) largest values lie in the mask; of equal values, as many as chance would pick."""
    order = -np.sort(-values, axis=1)
    least = np.take_along_axis(order, counts[:, None] - 1, axis=1)
    above, equal = values > least, values == least
    open_places = counts - above.sum(axis=1)
    return np.asarray((above & truth).sum(axis=1) + open_places * (equal & truth).sum(axis=1) / equal.sum(axis=1))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TopKIntersection(_Located):
    """Share of the `k` largest values that lie in the mask. Higher is better.

    `|top_k(a) & mask| / k`, 1 where all lie in it. Of values that equal the last one, as many count as chance would
    pick: a uniform or zero map has the mask's share of the image. No model rows: `model=None`.

    Source: Theiner, Mueller-Budack and Ewerth 2022, arXiv:2104.14995, "concept influence" ("Interpretable
    semantic photo geolocation").

    Parameters
    ----------
    k
        How many positions: an int, at most all of them, or a share from 0 to 1, of which the paper's 1000 of 224 x 224
        are 0.02. With more positions than a mask has the score cannot be 1.
    concept_influence
        Divide by the mask's share of the image, as the paper does to compare concepts of different sizes: 1 is chance.
    """

    k: int | float = 0.02
    concept_influence: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.k, (float, np.floating)):
            if not 0 < self.k <= 1:
                raise OptionError("A share `k` lies above 0 and at most at 1.", received=describe(self.k), fix="k=0.02")
        else:
            positive_int("k", self.k)

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        values, truth = map(flat, self.placed(explanation, masks))
        size = values.shape[1]
        k = max(1, round(float(self.k) * size)) if isinstance(self.k, (float, np.floating)) else int(self.k)
        if k > size:
            raise OptionError(
                f"`k` is at most the number of positions, {size}.",
                received=f"k={k}",
                fix="k=0.02 takes a share of them.",
            )
        share = _found(values, truth, np.full(len(values), k)) / k
        return Measured(share / truth.mean(axis=1) if self.concept_influence else share)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class RelevanceRankAccuracy(_Located):
    """Share of the largest values, as many as the mask has positions, that lie in the mask. Higher is better.

    `|top_K(a) & mask| / K` with `K = |mask|`, from 0 to 1. Of values that equal the last one, as many count as chance
    would pick: a uniform or zero map has the mask's share of the image. No model rows: `model=None`.

    Source: Arras, Osman and Samek 2022, arXiv:2003.07258, "Relevance Rank Accuracy".
    """

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        values, truth = map(flat, self.placed(explanation, masks))
        counts = truth.sum(axis=1)
        return Measured(_found(values, truth, counts) / counts)


def _share(values: _Host, truth: _Host) -> _Host:
    """Share of what is not negative that lies in the mask; where all is zero, the mask's share of the image."""
    rows, inside = flat(values), flat(truth)
    largest = rows.max(axis=1, keepdims=True)
    # Divided by the largest first, so that neither huge nor tiny values leave the range of numbers.
    scaled = np.where(largest > 0, rows / np.where(largest > 0, largest, 1.0), 1.0)
    return np.asarray((scaled * inside).sum(axis=1) / scaled.sum(axis=1))


def _signed(values: _Host, sign: str) -> _Host:
    return np.abs(values) if sign == "absolute" else np.maximum(values, 0.0)


def _check_sign(sign: Any) -> None:
    if sign not in _SIGNS:
        raise OptionError(
            f"`sign` must be one of {', '.join(map(repr, _SIGNS))}.", received=describe(sign), fix='sign="positive"'
        )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class RelevanceMassAccuracy(_Located):
    """Share of the relevance that lies in the mask. Higher is better.

    `sum_{i in mask} R_i / sum_i R_i`, from 0 to 1, where `R` is what the sum of channels has of one sign, for with both
    the denominator could vanish: the paper pools channels to numbers that are not negative. A map without any has the
    mask's share of the image, as a uniform one. No model rows: `model=None`.

    Source: Arras, Osman and Samek 2022, arXiv:2003.07258, "Relevance Mass Accuracy".

    Parameters
    ----------
    sign
        `"positive"`: `R = max(0, sum of channels)`; `"absolute"`: `R = |sum of channels|`.
    """

    sign: str = "positive"

    def __post_init__(self) -> None:
        _check_sign(self.sign)

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        values, truth = self.placed(explanation, masks)
        return Measured(_share(_signed(values, self.sign), truth))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class AttributionLocalisation(_Located):
    """Share of the positive relevance that lies in the mask, also weighted by the size of the mask. Higher is better.

    `mu = sum_{i in mask} max(0, a_i) / sum_i max(0, a_i)`, from 0 to 1; weighted it is `mu * positions / |mask|`, in
    which 1 is chance and the most is `positions / |mask|`. A map without positive values has `mu = |mask| / positions`,
    as a uniform one. No model rows: `model=None`.

    Source: Kohlbrenner et al. 2020, arXiv:1910.09840, the inside-total relevance ratio. The paper leaves out
    objects that fill more than a share of the image.

    Parameters
    ----------
    weighted
        Whether to divide by the mask's share of the image.
    """

    weighted: bool = False

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        values, truth = self.placed(explanation, masks)
        share = _share(_signed(values, "positive"), truth)
        return Measured(share / flat(truth).mean(axis=1) if self.weighted else share)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class AUC(_Located):
    """Area under the ROC curve of the values as a detector of the mask. Higher is better.

    The probability that a position in the mask has a larger value than one outside, equal values counted half: 1 where
    the mask has the largest values, 0.5 for a uniform or zero map, 0 where it has the smallest. No model rows:
    `model=None`.

    Source: Fawcett 2006, "An introduction to ROC analysis", on the area under an ROC curve.
    """

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        values, truth = map(flat, self.placed(explanation, masks, full=False))
        inside = truth.sum(axis=1)
        outside = truth.shape[1] - inside
        ranks = (average_ranks(values) * truth).sum(axis=1)
        return Measured((ranks - inside * (inside + 1) / 2) / (inside * outside))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Focus(_Located):
    """Share of the positive relevance that lies on a mosaic's images of the explained class. Higher is better.

    `sum_{i in cells of the class} max(0, a_i) / sum_i max(0, a_i)`, from 0 to 1; a map without positive values has the
    share of the mosaic that these cells take, 0.5 for two of four, as a uniform one. Masks of the cells and mosaics come
    from `xai_core.metrics.mosaics`. `details["chance"]` is the share of a uniform map. No model rows: `model=None`.

    Source: Arias-Duart et al. 2022, arXiv:2109.15035 ("Focus! Rating XAI methods and finding biases").
    """

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        values, truth = self.placed(explanation, masks, full=False)
        return Measured(_share(_signed(values, "positive"), truth), details={"chance": flat(truth).mean(axis=1)})


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class GridPointingGame(_Located):
    """Share of the positive relevance that lies on the cell of the explained class in a grid of images. Higher is better.

    `sum_{i in cell} max(0, a_i) / sum_i max(0, a_i)`, from 0 to 1; a map without positive values has `1 / cells`, as a
    uniform one. Grids of images of different classes come from `xai_core.metrics.mosaics(x, labels, grid=3, own=1,
    distinct=True)`; the paper takes images that the model classifies with most confidence. `details["chance"]` is the
    share of a uniform map. No model rows: `model=None`.

    Source: Boehle, Fritz and Schiele 2021, arXiv:2104.00032, the localisation metric ("Convolutional dynamic
    alignment networks").
    """

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        values, truth = self.placed(explanation, masks, full=False)
        return Measured(_share(_signed(values, "positive"), truth), details={"chance": flat(truth).mean(axis=1)})


@dataclass(frozen=True, eq=False)
class Mosaics:
    """Mosaics of images, with what should be found in them.

    Attributes
    ----------
    x
        Mosaics (count, ...), array type, dtype and device of the images; each spatial axis is that of an image times the
        cells along it.
    labels
        The class to explain, (count,), NumPy.
    masks
        Where its images are, (count, *spatial), NumPy truths.
    sources
        Which image is in which cell, (count, *grid), NumPy.
    """

    x: Any
    labels: _Host
    masks: _Host
    sources: _Host


def mosaics(
    x: Any,
    labels: Any,
    *,
    count: int | None = None,
    grid: int | tuple[int, ...] = 2,
    own: int = 2,
    distinct: bool = False,
    channel_axis: int = -1,
    seed: int = 0,
) -> Mosaics:
    """Mosaics of single images, for `Focus` and `GridPointingGame`. No model is called.

    Mosaic `i` explains the class of image `i` (from the first again where there are fewer images than mosaics), which is
    in one of its cells. Other images and the places of all are drawn at random, with numbers that depend on `seed` and
    `i` alone.

    Parameters
    ----------
    x
        Images (images, ...) with channels, of one size, in an array of NumPy or any framework.
    labels
        Their classes, (images,) integers.
    count
        How many mosaics; `None`: one for each image.
    grid
        Cells along each spatial axis, or along all of them.
    own
        Cells with images of the explained class: 2 for `Focus`, 1 for `GridPointingGame`.
    distinct
        Whether the other images are of different classes, as in `GridPointingGame`.
    channel_axis
        Channel axis of the images: 1 for PyTorch, -1 for JAX and TensorFlow.
    seed
        Seed of the random numbers.

    Raises
    ------
    InputError
        If images or labels have another form.
    OptionError
        If there are not enough images of a class, or of others, or no cell is left for another class.
    """
    seed, backend = check_seed(seed), backend_of_array(x)
    shape = tuple(getattr(x, "shape", ()))
    classes = np.asarray(to_host(labels))
    if backend is None or len(shape) < 3 or shape[0] == 0:
        raise InputError(
            "Mosaics are made of an array of images with channels.",
            received=describe(x),
            fix="x of shape (images, 3, 32, 32)",
        )
    if classes.shape != shape[:1] or classes.dtype.kind not in "iu":
        raise InputError(
            f"`labels` are the classes of {shape[0]} images.",
            received=describe(classes),
            fix="labels of shape (images,)",
        )
    axes = [axis for axis in range(1, len(shape)) if axis != channel_axis % len(shape)]
    sides = (grid,) * len(axes) if isinstance(grid, int) else tuple(grid)
    if len(sides) != len(axes):
        raise OptionError(
            f"`grid` needs a number of cells for each of {len(axes)} axes.", received=describe(grid), fix="grid=2"
        )
    for side in sides:
        positive_int("grid", side)
    positive_int("own", own)
    cells = math.prod(sides)
    if own >= cells:
        raise OptionError(
            "A mosaic needs cells of other classes.", received=f"own={own} of {cells} cells", fix="own=1, grid=2"
        )
    number = shape[0] if count is None else count
    positive_int("count", number)
    streams = Streams.of(seed, range(number))
    sources = np.stack(
        [
            _cells(classes, i % shape[0], cells, own, distinct, streams.generator(i, 0, MOSAIC_PART))
            for i in range(number)
        ]
    )
    xp = backend.xp

    def row(place: tuple[int, ...]) -> Any:
        """The cells of all mosaics from this place on, put together along the axes that it does not say."""
        depth = len(place)
        if depth == len(axes):
            cell = int(np.ravel_multi_index(place, sides))
            return xp.take(x, backend.asarray(sources[:, cell], getattr(x, "device", None)), axis=0)
        return xp.concat([row((*place, i)) for i in range(sides[depth])], axis=axes[depth])

    wanted = classes[np.arange(number) % shape[0]]
    marks = (classes[sources] == wanted[:, None]).reshape(number, *sides)
    for place, axis in enumerate(axes):
        marks = np.repeat(marks, shape[axis], axis=place + 1)
    return Mosaics(row(()), wanted, marks, sources.reshape(number, *sides))


MOSAIC_PART = 4_000_000
"""Stream part of which images are in a mosaic, and where."""


def _cells(classes: _Host, first: int, cells: int, own: int, distinct: bool, source: np.random.Generator) -> _Host:
    """Which image is in each cell of one mosaic."""
    same = np.flatnonzero(classes == classes[first])
    same = source.permutation(same[same != first])[: own - 1]
    others = source.permutation(np.flatnonzero(classes != classes[first]))
    if distinct:
        others = others[np.sort(np.unique(classes[others], return_index=True)[1])]
    others = others[: cells - own]
    if len(same) < own - 1 or len(others) < cells - own:
        kind = "other classes" if distinct else "images of other classes"
        raise OptionError(
            f"There are too few images for mosaics of {own} of {cells} cells of one class.",
            received=f"{len(same) + 1} images of class {int(classes[first])}, {len(others)} {kind}",
            fix="give more images, or use a smaller grid.",
        )
    return source.permutation(np.concatenate([[first], same, others]).astype(np.int64))
