"""Robustness: how much an explanation changes with what it explains, and with its own options.

Changed inputs are explained with the random numbers with which the sample was explained: of an explainer that draws, what is
measured is what the change of the input does, not that it draws again. Memory holds one block of model rows, however many
changed inputs there are; of each, a few numbers are kept.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from xai_core.attribution.base import Attribution, Explainer, positive_int
from xai_core.baselines import resolve_baseline, spatial_axes
from xai_core.blocks import Block, spans
from xai_core.errors import CapabilityError, IntegerInputError, NonFiniteError, OptionError, describe
from xai_core.explanation import Explanation
from xai_core.layers import Layer, LayerInfo, Visitor
from xai_core.metrics.base import Measured, Metric
from xai_core.metrics.ground import Ground
from xai_core.metrics.maps import flat, maps_of, side_by_side
from xai_core.metrics.statistics import spearman
from xai_core.model import LayerNet, Net
from xai_core.problem import Problem, gather, is_floating
from xai_core.randomise import Randomiser
from xai_core.streams import Streams, check_seed
from xai_core.structure import flatten

__all__ = [
    "AvgSensitivity",
    "Consistency",
    "Continuity",
    "HyperparameterSensitivity",
    "LocalLipschitzEstimate",
    "MaxSensitivity",
    "RelativeInputStability",
    "RelativeOutputStability",
    "RelativeRepresentationStability",
]

_Host = np.ndarray[Any, Any]

NEIGHBOUR_PART = 3_600_000
"""Stream parts of the neighbours of a sample, one for each input."""
FLOOR = 1e-2
"""Relative changes divide by no less than this share of the largest magnitude: of smaller elements single precision has too
few digits for a quotient."""
EPSILON = 1e-6
"""Least denominator of relative stability: the paper's epsilon_min."""


def explained_again(
    ground: Ground, explanation: Explanation, problem: Problem, explain: Callable[[Problem], Attribution]
) -> _Host:
    """Values of a problem in double precision on the host, (rows, elements), rounded as `maps_of` has them.

    Raises
    ------
    NonFiniteError
        If a value is NaN or infinite.
    OptionError
        If there are other numbers of values than those of the explanation.
    """
    explainer = explanation.explainer
    if explainer is not None and explainer.uses_gradients():
        problem.bound.require_gradient(type(explainer).__name__)
    found = explain(problem).values
    parts = []
    leaves = problem.leaves if len(found) == len(problem.leaves) else problem.leaves[:1] * len(found)
    for value, leaf in zip(found, leaves, strict=True):
        # Halves are explained in single precision; the explanation has the dtype of its input.
        narrow = is_floating(leaf) and value.dtype != leaf.dtype
        parts.append(ground.on_host(problem.xp.astype(value, leaf.dtype) if narrow else value))
    maps = side_by_side(parts)
    if not np.all(np.isfinite(maps)):
        raise NonFiniteError(
            f"{type(explainer).__name__} gave NaN or infinity when it explained anew.",
            fix="look for a division, logarithm or square root of zero in the model.",
        )
    wanted = sum(int(np.prod(np.shape(value)[1:])) for value in flatten(explanation.values)[0])
    if maps.shape[1] != wanted:
        raise OptionError(
            "An explanation made anew has another size than the one that is judged.",
            received=f"{wanted} values of each sample, and {maps.shape[1]} anew",
            fix="judge the explanation as its explainer gave it.",
        )
    return maps


def randomiser(ground: Ground) -> Randomiser:
    """What makes the model's weights random; its draws are kept for other metrics."""
    problem = ground.problem
    return ground.known("randomiser", lambda: Randomiser(problem.bound, problem.leaves, ground.seed))


def explainer_of(explanation: Explanation) -> Explainer:
    """The explainer, which `needs` has asked for."""
    if explanation.explainer is None:
        raise OptionError("The explanation does not say how it was made.", received="explainer=None")
    return explanation.explainer


def same_numbers(ground: Ground, explanation: Explanation, rows: Sequence[int]) -> Streams:
    """The random numbers with which samples were explained."""
    return Streams(check_seed(explanation.seed), ground.problem.streams.keys).take(rows)


@dataclass(frozen=True, eq=False)
class _Stage:
    """Where inputs are changed: at the inputs, or for token ids at the layer that was explained."""

    problem: Problem
    explain: Callable[[Problem], Attribution]
    key: Hashable


def _stage(ground: Ground, explanation: Explanation, name: str) -> _Stage:
    explainer, problem = explainer_of(explanation), ground.problem
    if any(is_floating(leaf) for leaf in problem.leaves):
        return _Stage(problem, explainer.attribute_at_layer, None)
    # Methods that read a layer instead of explaining its value, such as the CAMs, have a way of their own.
    if explainer.layer is None or type(explainer).attribute_at_layer is not Explainer.attribute_at_layer:
        raise IntegerInputError(
            f"{name} changes inputs a little, which integers do not allow.",
            received=", ".join(describe(leaf) for leaf in problem.leaves),
            fix=f'explain at the embedding: {type(explainer).__name__}(layer="embedding").',
        )
    key = "layer", ground.key(explainer.layer)
    behind = ground.known(("behind", key), lambda: problem.at_layer(explainer.layer))
    return _Stage(behind, explainer.attribute, key)


def _copies(
    ground: Ground, explanation: Explanation, stage: _Stage, draws: int, change: Callable[[Block], list[Any]]
) -> Iterator[tuple[Block, _Host]]:
    """Values (batch, draws of a block, elements) of changed inputs; `change` makes the inputs of a block."""
    for block in _blocks(stage.problem, draws):
        rows = [row for row in range(ground.batch) for _ in range(block.width)]
        inside = stage.problem.inside(change(block), rows, same_numbers(ground, explanation, rows))
        maps = explained_again(ground, explanation, inside, stage.explain)
        yield block, maps.reshape(ground.batch, block.width, -1)[:, : block.size]


def _blocks(problem: Problem, draws: int) -> Iterator[Block]:
    return spans(draws, max(1, problem.held // problem.batch), constant=problem.constant_shapes)


class _Add:
    """Kernel: changed copies (batch * draws, ...) of a leaf (batch, ...), changes (batch, draws, ...)."""

    def __call__(self, net: Net, leaf: Any, change: Any) -> Any:
        xp = net.xp
        shape = tuple(change.shape)
        copies = xp.astype(leaf, change.dtype)[:, None, ...] + change
        return xp.reshape(xp.astype(copies, leaf.dtype), (shape[0] * shape[1], *shape[2:]))


_ADD = _Add()


def _changes(problem: Problem, draws: Sequence[int], radius: float) -> list[_Host | None]:
    """Uniform numbers from -radius to radius (batch, draws, ...) for each input that varies, `None` for integers."""
    changes: list[_Host | None] = []
    for position, leaf in enumerate(problem.varied):
        if not is_floating(leaf):
            changes.append(None)
            continue
        shape = tuple(leaf.shape)[1:]
        channel = None if problem.origin is not None else problem.bound.channel_axis_of(tuple(leaf.shape))
        # A pixel's neighbours are the same whether the model has its channels first or last.
        last = shape if channel is None else (*shape[: channel - 1], *shape[channel:], shape[channel - 1])
        count = int(np.prod(last))
        uniform = problem.streams.uniform(range(problem.batch), draws, count, NEIGHBOUR_PART + position)
        placed = uniform.reshape(problem.batch, len(draws), *last)
        moved = placed if channel is None else np.moveaxis(placed, -1, channel + 1)
        moved *= 2
        moved -= 1
        moved *= np.float32(radius)
        changes.append(moved)
    return changes


def _changed(problem: Problem, changes: Sequence[_Host | None], width: int) -> list[Any]:
    """All inputs, `width` copies of each sample in a row, changed where there is a change."""
    leaves = []
    for position, leaf in enumerate(problem.leaves):
        change = changes[position] if position < len(changes) else None
        if change is None:
            leaves.append(problem.xp.repeat(leaf, width, axis=0))
        else:
            leaves.append(problem.run(_ADD, leaf, problem.to_device(change, like=leaf)))
    return leaves


def _length(rows: _Host) -> _Host:
    """Norms over the last axis."""
    return np.asarray(np.sqrt(np.vecdot(rows, rows)))


def _divisors(of: _Host) -> _Host:
    """What changes of elements (..., elements) are divided by to be relative ones."""
    size = np.abs(of)
    largest = np.max(size, axis=-1, keepdims=True, initial=0.0)
    return np.where(largest > 0, np.maximum(size, FLOOR * largest), 1.0)


@dataclass(frozen=True, eq=False)
class _Found:
    """What changed inputs do, (batch, draws) each.

    `explanation`, `inputs`: norms of the changes; `relative`, `relative_inputs`: of the relative ones.
    """

    explanation: _Host
    inputs: _Host
    relative: _Host
    relative_inputs: _Host


def _neighbours(ground: Ground, explanation: Explanation, stage: _Stage, radius: float, samples: int) -> _Found:
    """Neighbours of each sample, found once for all metrics that ask for the same ones."""

    def make() -> _Found:
        problem = stage.problem
        base = maps_of(explanation)
        points = side_by_side([ground.on_host(leaf) for leaf in problem.varied if is_floating(leaf)])
        divisors, below = _divisors(base), _divisors(points)
        numbers = np.zeros((4, ground.batch, samples))
        drawn: list[list[_Host | None]] = []

        def change(block: Block) -> list[Any]:
            drawn[:] = [_changes(problem, block.indices, radius)]
            return _changed(problem, drawn[0], block.width)

        for block, maps in _copies(ground, explanation, stage, samples, change):
            # Draw by draw, which stays in the processor's caches.
            for number in range(block.size):
                off = maps[:, number] - base
                move = side_by_side([part[:, number] for part in drawn[0] if part is not None])
                lengths = _length(off), _length(move), _length(off / divisors), _length(move / below)
                numbers[:, :, block.start + number] = lengths
        return _Found(*numbers)

    return ground.known(("neighbours", ground.key(explanation), stage.key, radius, samples), make)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Near(Metric, abstract=True):
    """Base: the neighbours of a sample, uniform in a ball of the max norm."""

    category: ClassVar[str] = "robustness"
    higher_is_better: ClassVar[bool | None] = False
    needs: ClassVar[tuple[str, ...]] = ("model", "explainer")

    radius: float = 0.02
    samples: int = 10

    def __post_init__(self) -> None:
        positive_int("samples", self.samples)
        number = isinstance(self.radius, (int, float, np.floating)) and not isinstance(self.radius, bool)
        if not number or not 0 < self.radius < float("inf"):
            raise OptionError(
                "`radius` is how far an element of the input moves at most, a positive number in its unit.",
                received=describe(self.radius),
                fix="radius=0.02",
            )

    def found(self, ground: Ground, explanation: Explanation) -> tuple[_Stage, _Found]:
        """Where inputs are changed, and what comes of it."""
        stage = _stage(ground, explanation, type(self).__name__)
        return stage, _neighbours(ground, explanation, stage, float(self.radius), self.samples)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Sensitivity(_Near, abstract=True):
    relative: bool = True

    def changes(self, ground: Ground, explanation: Explanation) -> _Host:
        """Norms of the changes (batch, samples), divided by that of the explanation if `relative`."""
        _, found = self.found(ground, explanation)
        if not self.relative:
            return found.explanation
        size = np.linalg.norm(maps_of(explanation), axis=1, keepdims=True)
        return found.explanation / np.where(size > 0, size, 1.0)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class MaxSensitivity(_Sensitivity):
    """Largest change of the explanation among near inputs, relative to its size. Lower is better.

    `max_d ||E(x + u_d) - E(x)||_2 / ||E(x)||_2`, `u_d` uniform in `[-radius, radius]` at each element. An explanation of
    zeros is not divided by; a constant explainer has 0. The explained output stays that of the sample, and explainers that
    draw have the sample's own random numbers at `x + u_d` too, so that they are 0 where nothing but chance would differ.
    `samples` times the rows of the explainer, shared by all metrics with the same `radius` and `samples`. Token ids are
    changed at the layer that was explained.

    Source: Yeh et al. 2019, arXiv:1901.09392, section 4, definition of SENS_MAX; the division is that of captum.

    Parameters
    ----------
    radius
        How far an element of the input moves at most, in its unit.
    samples
        Near inputs per sample.
    relative
        Whether to divide by the norm of the explanation; the paper does not.

    Raises
    ------
    IntegerInputError
        If all inputs are integers, and no layer behind them was explained.
    """

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        return Measured(np.max(self.changes(ground, explanation), axis=1))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class AvgSensitivity(_Sensitivity):
    """Mean change of the explanation among near inputs, relative to its size. Lower is better.

    `mean_d ||E(x + u_d) - E(x)||_2 / ||E(x)||_2`; all else is as for `MaxSensitivity`. `details["error"]` is the standard
    error of the mean.

    Source: Yeh et al. 2019, arXiv:1901.09392, section 4, with the mean in place of the maximum; Bhatt et al. 2020,
    arXiv:2005.00631, section 3.

    Parameters
    ----------
    radius, samples, relative
        As for `MaxSensitivity`.
    """

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        changes = self.changes(ground, explanation)
        error = (
            np.std(changes, axis=1, ddof=1) / np.sqrt(self.samples)
            if self.samples > 1
            else np.full(ground.batch, np.nan)
        )
        return Measured(np.mean(changes, axis=1), details={"error": error})


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LocalLipschitzEstimate(_Near):
    """Largest change of the explanation per change of the input, among near inputs. Lower is better.

    `max_d ||E(x + u_d) - E(x)||_2 / ||u_d||_2`, in units of the explanation per unit of the input; nothing is divided by the
    size of the explanation, so that only explanations on one scale compare. A constant explainer has 0. Random inputs in
    place of the paper's search for the worst one: a lower bound. Neighbours and rows are those of `MaxSensitivity`.

    Source: Alvarez-Melis and Jaakkola 2018, arXiv:1806.08049, section 3.

    Parameters
    ----------
    radius, samples
        As for `MaxSensitivity`.
    """

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        _, found = self.found(ground, explanation)
        return Measured(np.max(found.explanation / found.inputs, axis=1))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Continuity(Metric):
    """Largest change of the explanation per change of the input, while the input is moved sideways. Lower is better.

    `max_t ||E(x_t) - E(x)||_1 / ||x_t - x||_2`, `x_t` the input moved by 1 to `shifts` positions along each axis of
    positions, in both directions. In units of the explanation per unit of the input; nothing is divided by its size.
    `details["ratios"]` (batch, translations) has one for each, the first axis first, there the smallest move first, there
    towards the end first. Moves that change nothing count 0, and so does a constant explainer. Twice `shifts` times the
    number of axes, times the rows of the explainer; explainers that draw have the sample's own random numbers.

    Source: Montavon, Samek and Mueller 2018, arXiv:1706.07979, section 6.1.

    Parameters
    ----------
    shifts
        Positions by which inputs are moved at most.
    baseline
        What comes in at the border, as for `FeatureAblation`.

    Raises
    ------
    OptionError
        If the inputs have no axis of positions longer than `shifts`.
    """

    category: ClassVar[str] = "robustness"
    higher_is_better: ClassVar[bool | None] = False
    needs: ClassVar[tuple[str, ...]] = ("model", "explainer")

    shifts: int = 2
    baseline: Any = 0.0

    def __post_init__(self) -> None:
        positive_int("shifts", self.shifts)

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        problem, xp = ground.problem, ground.problem.xp
        places = [spatial_axes(problem, leaf) if is_floating(leaf) else () for leaf in problem.leaves]
        longest = [
            min(leaf.shape[axis] for axis in own) for leaf, own in zip(problem.leaves, places, strict=True) if own
        ]
        if not longest or min(longest) <= self.shifts:
            raise OptionError(
                f"Continuity moves inputs by up to {self.shifts} positions.",
                received=", ".join(describe(leaf) for leaf in problem.leaves),
                fix="Continuity(shifts=1) for small images and signals; LocalLipschitzEstimate for tables.",
            )
        count = max(map(len, places))
        moves = [(axis, way * by) for axis in range(count) for by in range(1, self.shifts + 1) for way in (1, -1)]
        filling = resolve_baseline(problem, self.baseline)
        squares = np.zeros((ground.batch, len(moves)))

        def change(block: Block) -> list[Any]:
            chosen, leaves = [moves[draw] for draw in block.indices], []
            for leaf, fill, own in zip(problem.leaves, filling, places, strict=True):
                copies = [_moved(xp, leaf, fill, own[axis], by) if axis < len(own) else leaf for axis, by in chosen]
                wide = xp.stack(copies, axis=1)
                leaves.append(xp.reshape(wide, (ground.batch * block.width, *tuple(leaf.shape)[1:])))
                if own:
                    still = ground.on_host(leaf)
                    for number, moved in enumerate(copies[: block.size]):
                        off = flat(ground.on_host(moved) - still)
                        squares[:, block.start + number] += np.vecdot(off, off)
            return leaves

        base, sizes = maps_of(explanation), np.zeros_like(squares)
        stage = _Stage(problem, explainer_of(explanation).attribute_at_layer, None)
        for block, maps in _copies(ground, explanation, stage, len(moves), change):
            for number in range(block.size):
                sizes[:, block.start + number] = np.sum(np.abs(maps[:, number] - base), axis=1)
        distances, apart = np.sqrt(squares), squares > 0
        ratios = np.where(apart, sizes / np.where(apart, distances, 1.0), 0.0)
        return Measured(np.max(ratios, axis=1), details={"ratios": ratios})


def _moved(xp: Any, leaf: Any, fill: Any, axis: int, by: int) -> Any:
    """An array moved along an axis: towards its end by a positive number of positions; `fill` comes in."""
    length = tuple(leaf.shape)[axis]
    before = (slice(None),) * axis

    def part(array: Any, start: int, stop: int) -> Any:
        return array[(*before, slice(start, stop), Ellipsis)]

    if by > 0:
        return xp.concat([part(fill, 0, by), part(leaf, 0, length - by)], axis=axis)
    return xp.concat([part(leaf, -by, length), part(fill, length + by, length)], axis=axis)


_KINDS = ("top_sign", "top", "sign")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Consistency(Metric):
    """How often samples with the same explanation have the same predicted class. Higher is better, at most 1.

    Of the other samples of the batch whose explanation is the same, once made discrete, the share whose predicted class is
    the same. A sample whose explanation no other has is consistent for want of evidence: 1. `details["matches"]` (batch,)
    counts the others with the same explanation; where it is mostly 0 the score says nothing, and where all explanations are
    the same, as zero maps are, it is the share of the class. One row per sample.

    Source: Dasgupta, Frost and Moshkovitz 2022, arXiv:2202.00734, section 3, consistency; estimated from pairs in a batch.

    Parameters
    ----------
    discretise
        When two explanations are the same: `"top_sign"`, the elements with the largest magnitude are the same ones with the
        same signs; `"top"`, they are the same ones; `"sign"`, all signs are the same; or a callable, values (batch,
        elements) -> labels (batch,) or (batch, labels).
    top
        How many elements with the largest magnitude. Of equal ones the first count.

    Raises
    ------
    OptionError
        If there is one sample alone, or the model gives no scores of classes.
    """

    category: ClassVar[str] = "robustness"
    higher_is_better: ClassVar[bool | None] = True
    needs: ClassVar[tuple[str, ...]] = ("model", "batch")

    discretise: Any = "top_sign"
    top: int = 5

    def __post_init__(self) -> None:
        positive_int("top", self.top)
        if not callable(self.discretise) and self.discretise not in _KINDS:
            raise OptionError(
                f"`discretise` must be one of {', '.join(map(repr, _KINDS))}, or a callable values -> labels.",
                received=describe(self.discretise),
                fix='discretise="top_sign"',
            )

    def labels(self, maps: _Host) -> _Host:
        """What explanations are compared by, (batch, ...)."""
        if callable(self.discretise):
            found = np.asarray(self.discretise(maps))
            if found.ndim == 0 or len(found) != len(maps):
                raise OptionError(
                    "`discretise` must return labels of each sample.",
                    received=describe(found),
                    fix="discretise=lambda values: values.argmax(axis=1)",
                )
            return found.reshape(len(found), -1)
        if self.discretise == "sign":
            return np.sign(maps)
        places = _largest(np.abs(maps), self.top)
        signs = np.sign(np.take_along_axis(maps, places, axis=1)).astype(np.int64)
        # An element of zero speaks for nothing, wherever it is: 0, sorted in with the numbers of the others.
        return np.sort((places + 1) * (signs if self.discretise == "top_sign" else np.abs(signs)), axis=1)

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        largest, shape = ground.predicted()
        classes = largest[:, 0]
        if ground.batch < 2 or not _has_classes(shape):
            raise OptionError(
                "Consistency compares the predicted classes of several samples.",
                received=f"{ground.batch} samples, outputs of shape {(ground.batch, *shape)}",
                fix="explain a batch, of a model with scores of shape (batch, classes).",
            )
        numbers: dict[Hashable, int] = {}
        # With zero added, so that zeros of both signs are the same.
        labels = self.labels(maps_of(explanation))
        keys = [(row + 0).tobytes() if labels.dtype.kind in "biuf" else tuple(row.tolist()) for row in labels]
        group = np.array([numbers.setdefault(key, len(numbers)) for key in keys])
        alike = group[:, None] == group[None, :]
        np.fill_diagonal(alike, False)
        matches = alike.sum(axis=1)
        agree = (alike & (classes[:, None] == classes[None, :])).sum(axis=1)
        values = np.where(matches > 0, agree / np.maximum(matches, 1), 1.0)
        return Measured(values, details={"matches": matches})


def _largest(sizes: _Host, count: int) -> _Host:
    """Where the largest elements of each row are, (rows, count) from left to right; of equal ones the first."""
    rows, numbers = sizes.shape
    count = min(count, numbers)
    # The largest element of each of some runs: as many elements as are asked for are no smaller than the last of these.
    width = max(1, min(64, numbers // (4 * count)))
    highest = sizes[:, : numbers - numbers % width].reshape(rows, -1, width).max(axis=2)
    least = np.partition(highest, -count, axis=1)[:, -count, None]
    row, place = np.nonzero(sizes >= least)
    # Few are left to be put in order.
    order = np.lexsort((place, -sizes[row, place], row))
    later = np.arange(len(row)) - np.searchsorted(row, row)
    return place[np.sort(order[later < count])].reshape(rows, count)


def _has_classes(shape: tuple[int, ...]) -> bool:
    """Whether outputs, of this shape for one sample, are scores of classes."""
    return len(shape) == 1 and shape[0] > 1


@dataclass(frozen=True)
class _See:
    """Kernel: the model's outputs of some rows, and the value at a layer, in one run."""

    layer: Layer | None

    def __call__(self, net: Any, leaves: list[Any], rows: Any) -> list[Any]:
        points = [gather(net.xp, leaf, rows) for leaf in leaves]
        if self.layer is None:
            return [net(points)]
        if isinstance(net, LayerNet):
            visitor = Visitor(edits={net.layer: partial(_instead, points[0])}, reads=[self.layer])
            return [net.net(points[1:], visitor), visitor.value_of(self.layer)]
        visitor = Visitor(reads=[self.layer])
        return [net(points, visitor), visitor.value_of(self.layer)]


def _instead(value: Any, old: Any) -> Any:
    return value


def _seen(ground: Ground, problem: Problem, leaves: list[Any], layer: Layer | None) -> list[_Host]:
    """Outputs (rows, ...), and the value at a layer (rows, elements) if one is named."""
    total, parts = int(leaves[0].shape[0]), []
    for block in spans(total, problem.rows, constant=problem.constant_shapes):
        every = block.indices == list(range(total))
        rows = None if every else problem.to_device(np.asarray(block.indices, dtype=np.int64))
        found = problem.run(_See(layer), leaves, rows)
        problem.work.add(block.width)
        parts.append([ground.on_host(array)[: block.size] for array in found])
    outputs, *values = (np.concatenate(pieces, axis=0) for pieces in zip(*parts, strict=True))
    return [outputs, *(value.reshape(total, -1) for value in values)]


def _base(ground: Ground, problem: Problem, stage: Hashable, layer: Layer | None) -> list[_Host]:
    """Outputs of the inputs themselves, and the value at a layer; `stage` is where these inputs are."""
    found = ground.known(("base", stage, layer), lambda: _seen(ground, problem, problem.leaves, layer))
    ground.known(("base", stage, None), lambda: found[:1])
    return found


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What the model makes of changed inputs, (batch, draws) each.

    `same`: whether the predicted class is that of the sample; `outputs`: norms of the changes of the outputs; `values`: of
    the relative changes at a layer.
    """

    same: _Host
    outputs: _Host
    values: _Host | None


def _outcome(ground: Ground, stage: _Stage, radius: float, samples: int, layer: Layer | None) -> _Outcome:
    """What the model makes of the neighbours that `_neighbours` explains; it does not depend on any explanation."""
    problem, key = stage.problem, ("outcome", stage.key, radius, samples)

    def make() -> _Outcome:
        base = _base(ground, problem, stage.key, layer)
        same = np.ones((ground.batch, samples), dtype=bool)
        outputs, values = np.zeros(same.shape), np.zeros(same.shape)
        for block in _blocks(problem, samples):
            leaves = _changed(problem, _changes(problem, block.indices, radius), block.width)
            found = _seen(ground, problem, leaves, layer)
            place = slice(block.start, block.start + block.size)
            scores, *read = (
                part.reshape(ground.batch, block.width, *part.shape[1:])[:, : block.size] for part in found
            )
            if _has_classes(base[0].shape[1:]):
                same[:, place] = np.argmax(scores, axis=2) == np.argmax(base[0], axis=1)[:, None]
            off = (scores - base[0][:, None]).reshape(ground.batch, block.size, -1)
            outputs[:, place] = _length(off)
            if read:
                divisors = _divisors(base[1])
                for number in range(block.size):
                    values[:, block.start + number] = _length((read[0][:, number] - base[1]) / divisors)
        return _Outcome(same, outputs, None if layer is None else values)

    found = ground.known((*key, layer), make)
    ground.known((*key, None), lambda: replace(found, values=None))
    return found


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Stability(_Near, abstract=True):
    """Base: relative change of the explanation per change of something else, among neighbours of the same class."""

    def over(self, found: _Found, outcome: _Outcome) -> Measured:
        """The largest ratio, of neighbours that keep the class."""
        ratios = found.relative / np.maximum(self.denominators(found, outcome), EPSILON)
        kept = outcome.same.sum(axis=1)
        largest = np.max(np.where(outcome.same, ratios, 0.0), axis=1)
        return Measured(np.where(kept > 0, largest, np.nan), details={"kept": kept})

    def denominators(self, found: _Found, outcome: _Outcome) -> _Host:
        """What the change of the explanation is divided by, (batch, samples)."""
        raise NotImplementedError

    def at(self, ground: Ground, stage: _Stage, explanation: Explanation) -> Layer | None:
        """The layer whose value is compared."""
        return None

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        stage = _stage(ground, explanation, type(self).__name__)
        layer = self.at(ground, stage, explanation)
        outcome = _outcome(ground, stage, float(self.radius), self.samples, layer)
        return self.over(self.found(ground, explanation)[1], outcome)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class RelativeInputStability(_Stability):
    """Largest relative change of the explanation per relative change of the input. Lower is better.

    `max_d ||(E(x) - E(x_d)) / E(x)||_2 / max(||(x - x_d) / x||_2, 1e-6)`, over near inputs `x_d` with the predicted class of
    `x`; divisions inside the norms are element by element, by no less than a hundredth of the sample's largest magnitude,
    and by nothing where all is zero. No unit. A constant explainer has 0. `details["kept"]` (batch,) counts the near inputs
    with the same class; where there is none the score is NaN. Models without classes, of a single output, keep all.
    `samples` times the rows of the explainer and one more, and one row; the neighbours are those of `MaxSensitivity`.

    Source: Agarwal et al. 2022, arXiv:2203.06877, section 3.3, relative input stability; the paper draws normal noise.

    Parameters
    ----------
    radius, samples
        As for `MaxSensitivity`.
    """

    def denominators(self, found: _Found, outcome: _Outcome) -> _Host:
        return found.relative_inputs


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class RelativeOutputStability(_Stability):
    """Largest relative change of the explanation per change of the model's outputs. Lower is better.

    `max_d ||(E(x) - E(x_d)) / E(x)||_2 / max(||h(x) - h(x_d)||_2, 1e-6)`, `h` all outputs of the model, which the
    paper takes to be logits: per unit of the output. All else is as for `RelativeInputStability`.

    Source: Agarwal et al. 2022, arXiv:2203.06877, section 3.3, relative output stability.

    Parameters
    ----------
    radius, samples
        As for `MaxSensitivity`.
    """

    def denominators(self, found: _Found, outcome: _Outcome) -> _Host:
        return outcome.outputs


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class RelativeRepresentationStability(_Stability):
    """Largest relative change of the explanation per relative change of the value at a layer. Lower is better.

    `max_d ||(E(x) - E(x_d)) / E(x)||_2 / max(||(L(x) - L(x_d)) / L(x)||_2, 1e-6)`, `L` the value at a layer. All
    else is as for `RelativeInputStability`.

    Source: Agarwal et al. 2022, arXiv:2203.06877, section 3.3, relative representation stability.

    Parameters
    ----------
    layer
        The layer, as for explainers; `None`: what the last layer that holds weights is given, the representation from which
        scores are made, or where that cannot be told the last value with another number of elements than the outputs.
    radius, samples
        As for `MaxSensitivity`.

    Raises
    ------
    OptionError
        If no layer is named, and the model does not tell its layers.
    """

    layer: Any = None

    def denominators(self, found: _Found, outcome: _Outcome) -> _Host:
        if outcome.values is None:
            raise OptionError("No layer was read.", received=describe(self.layer))
        return outcome.values

    def at(self, ground: Ground, stage: _Stage, explanation: Explanation) -> Layer | None:
        problem = ground.problem
        layer = problem.bound.find(self._spec(ground, explanation), problem.leaves)
        problem.bound.require_rows(layer, problem.leaves)
        return layer

    def _spec(self, ground: Ground, explanation: Explanation) -> Any:
        if self.layer is not None:
            return self.layer
        bound, leaves = ground.problem.bound, ground.problem.leaves
        try:
            table: Sequence[LayerInfo] = bound.layers(leaves)
        except CapabilityError:
            table = ()
        try:
            paths = randomiser(ground).layers
        except CapabilityError:
            paths = ()
        calls = [row for row in table if paths and row.path == paths[-1]]
        if calls:
            return Layer(calls[-1].path, calls[-1].call if calls[-1].calls > 1 else None, "input")
        # Operations of a graph do not say which of them hold weights.
        hidden = [row for row in table if row.shapes and _elements(row.shapes[0]) != ground.problem.outputs]
        if not hidden:
            raise OptionError(
                "Which layer makes scores of a representation cannot be told of this model.",
                received=f"a model of backend {bound.backend.name}, layer=None",
                fix='RelativeRepresentationStability(layer="..."), a layer as xai.layers(model, x) names it.',
            )
        return hidden[-1].layer


def _elements(shape: tuple[int, ...]) -> int:
    return math.prod(shape[1:])


_COUNTS = ("samples", "steps")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class HyperparameterSensitivity(Metric):
    """How much the explanation changes with an option of its explainer. Lower is better.

    `mean over elements of std_c E_c(x) / mean over elements and choices of |E_c(x)|`, `E_c` the explainer with choice `c`,
    the standard deviation that of the choices at hand; 0 where all maps are zero, and for an explainer that ignores the
    option. No unit. The random numbers are the same for all choices. `details["spearman"]` (batch, pairs) are rank
    correlations of the maps of each pair of choices, in the order of `itertools.combinations`, 0 where a map is constant.
    The rows of the explainer for each choice but the one that made the explanation.

    Source: Bansal, Agarwal and Nguyen 2020, arXiv:2003.08754, section 3 (SAM), where standard deviations of pixels are not
    divided by the size of the map.

    Parameters
    ----------
    option
        Name of the option; `None`: `samples` or `steps`, the first that the explainer has.
    choices
        At least two values of it; `None`: half of what it is, that, and twice as much.

    Raises
    ------
    OptionError
        If the explainer has no such option or refuses a choice, or maps of two choices differ in size.
    """

    category: ClassVar[str] = "robustness"
    higher_is_better: ClassVar[bool | None] = False
    needs: ClassVar[tuple[str, ...]] = ("model", "explainer")

    option: str | None = None
    choices: Any = None

    def __post_init__(self) -> None:
        if self.choices is not None and (not isinstance(self.choices, (tuple, list)) or len(self.choices) < 2):
            raise OptionError(
                "`choices` are at least two values of the option.",
                received=describe(self.choices),
                fix='HyperparameterSensitivity(option="steps", choices=(16, 32, 64))',
            )

    def explainers(self, explainer: Explainer) -> list[Explainer]:
        """The explainer with each choice."""
        names = [entry.name for entry in fields(explainer)]
        option = self.option or next((name for name in _COUNTS if name in names), None)
        present = None if option not in names or option is None else getattr(explainer, option)
        choices = self.choices
        if choices is None and isinstance(present, int) and present > 1:
            choices = (present // 2, present, 2 * present)
        if option not in names or option is None or choices is None:
            raise OptionError(
                f"{type(explainer).__name__} has no option {option!r} to vary."
                if option not in names
                else f"Say which values of `{option}` to try.",
                received=f"option={self.option!r}, choices={describe(self.choices)}, of {explainer!r}",
                fix=f"HyperparameterSensitivity(option=..., choices=(...)), one of {', '.join(names)}.",
            )
        return [replace(explainer, **{option: choice}) for choice in choices]

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        problem, own = ground.problem, explainer_of(explanation)
        rows = list(range(ground.batch))
        maps = []
        for explainer in self.explainers(own):
            if explainer == own:
                maps.append(maps_of(explanation))
                continue
            inside = problem.inside(problem.leaves, None, same_numbers(ground, explanation, rows))
            maps.append(explained_again(ground, explanation, inside, explainer.attribute_at_layer))
        every = np.stack(maps, axis=1)
        spread = np.mean(np.std(every, axis=1), axis=1)
        size = np.mean(np.abs(every), axis=(1, 2))
        values = np.where(size > 0, spread / np.where(size > 0, size, 1.0), 0.0)
        pairs = [spearman(a, b) for a, b in itertools.combinations(maps, 2)]
        return Measured(values, details={"spearman": np.stack(pairs, axis=1)})
