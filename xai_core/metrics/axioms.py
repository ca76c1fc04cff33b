"""Axioms: does the explanation have a property that one may ask of all of them?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from xai_core.attribution.base import Explainer, positive_int
from xai_core.attribution.game import Game, Removal, resolve_removal
from xai_core.backend import Adapted
from xai_core.baselines import resolve_background, sample_range
from xai_core.blocks import spans
from xai_core.errors import (
    CapabilityError,
    IntegerInputError,
    OptionError,
    TargetError,
    describe,
    dtype_name,
)
from xai_core.explanation import Explanation, to_host
from xai_core.features import Elements, Features, resolve_features
from xai_core.graph import Graph, Node
from xai_core.metrics.base import Measured, Metric, Scored
from xai_core.metrics.ground import Ground, values_on_host
from xai_core.metrics.maps import maps_of, side_by_side
from xai_core.model import Bound
from xai_core.problem import Problem, gather, is_floating
from xai_core.streams import Streams
from xai_core.structure import flatten
from xai_core.targets import Pick

__all__ = ["Completeness", "InputInvariance", "Linearity", "NonSensitivity", "Symmetry"]

_Host = np.ndarray[Any, Any]
_EPSILONS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
REPLACEMENT_PART, PROBE_PART = 3_610_000, 3_620_000
"""Stream parts of values that take the place of a feature's own, and of inputs by which symmetric features are found."""


def _epsilon(*arrays: Any) -> float:
    """Relative spacing of the coarsest dtype among some arrays."""
    return max(_EPSILONS.get(dtype_name(getattr(array, "dtype", None)), 2.0**-52) for array in arrays)


def _as_explained(ground: Ground, explanation: Explanation) -> Problem:
    """The problem with the random numbers that the explanation was made with, whatever the seed of the metric."""
    return _seeded(ground.problem, explanation)


def _seeded(problem: Problem, explanation: Explanation) -> Problem:
    return replace(problem, streams=Streams(explanation.seed, problem.streams.keys))


def _explained(problem: Problem, explainer: Explainer) -> _Host:
    """Values of another question, in double precision and one row for each sample."""
    if explainer.uses_gradients():
        problem.bound.require_gradient(type(explainer).__name__)
    return side_by_side([problem.to_host(value) for value in explainer.attribute_at_layer(problem).values])


def _norm(rows: _Host) -> _Host:
    return np.asarray(np.sqrt(np.sum(rows**2, axis=1)))


def _quotient(a: _Host, b: _Host) -> _Host:
    """`a / b`, and 0 where both are."""
    return np.asarray(np.where(b > 0, a / np.where(b > 0, b, 1.0), 0.0))


def _explainer(explanation: Explanation) -> Explainer:
    if explanation.explainer is None:
        raise OptionError("This explanation does not say how it was made.", fix="explain again in this process.")
    return explanation.explainer


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Completeness(Metric):
    """Whether the values add up to the change of the score from the baseline: 1 or 0. Higher is better.

    1 where `|sum_i a_i - (f(x) - f(x'))| <= tolerance * max(|f(x)|, |f(x')|)`, with a slack for the rounding of the
    values themselves, `64 eps sum_i |a_i|`. `details["gap"]` (batch,) is the difference with its sign,
    `details["change"]` is `f(x) - f(x')`. Explanations by features count each feature once. A zero map is complete where
    the score does not change. One model row for the baseline, or one for each row of the background, and one for the
    score.

    Source: Sundararajan, Taly and Yan 2017, arXiv:1703.01365, section 3 and proposition 1.

    Parameters
    ----------
    baseline
        `x'`, as for `IntegratedGradients`; `None`: that of the explainer if it has one, else 0. Values of
        `BlurIntegratedGradients` start from `baseline=xai.Blur(sigma)`.
    background
        Data instead of a baseline, over which `f(x')` is averaged; `None`: that of the explainer, if `baseline` is
        `None` too.
    tolerance
        Share of the score by which the sum may differ; `None`: the root of the spacing of numbers of the dtype, 3.5e-4
        in float32, 1.5e-8 in float64. Methods that integrate or sample come near to the change by as much as their steps
        allow.
    """

    category: ClassVar[str] = "axioms"
    higher_is_better: ClassVar[bool | None] = True

    baseline: Any = None
    background: Any = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.tolerance is not None:
            _check_share("tolerance", self.tolerance)

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        baseline, background = self.baseline, self.background
        if baseline is None and background is None:
            baseline = getattr(explanation.explainer, "baseline", 0.0)
            background = getattr(explanation.explainer, "background", None)
        opened = _seeded(ground.opened, explanation)
        removal = resolve_removal(opened, 0.0 if baseline is None else baseline, background)
        if removal.shared:
            problem = _as_explained(ground, explanation)
            absent = ground.on_host(Game(problem, resolve_features(problem, Elements()), removal).empty())[:, 0, 0]
        else:
            absent = ground.scores_beside([*removal.arrays, *opened.leaves[len(removal.arrays) :]])
        score, values = ground.score(), _totals(explanation)
        total, change = values.sum(axis=1), score - absent
        eps = _epsilon(ground.problem.scores_or_known(), *flatten(explanation.values)[0])
        share = math.sqrt(eps) if self.tolerance is None else self.tolerance
        slack = share * np.maximum(np.abs(score), np.abs(absent)) + 64.0 * eps * np.abs(values).sum(axis=1)
        gap = total - change
        holds = (np.abs(gap) <= slack).astype(np.float64)
        return Measured(holds, details={"gap": gap, "change": change})


def _totals(explanation: Explanation) -> _Host:
    """Values that are to add up: those of features where there are such, for elements may repeat them."""
    if explanation.features is None:
        return maps_of(explanation)
    found = to_host(explanation.features.values).astype(np.float64)
    return np.where(np.isfinite(found), found, 0.0)


def _check_share(name: str, value: Any) -> None:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf:
        raise OptionError(
            f"`{name}` must be a number that is not negative.",
            received=describe(value),
            fix=f"{name}=1e-4, or leave it out.",
        )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class NonSensitivity(Scored):
    """How many features have a value though the score does not depend on them, or none though it does. Lower is better.

    `#{i: a_i = 0} xor {i: f does not change with x_i}`, from 0 to the number of features. A feature has no value where
    all its elements are zero, up to rounding relative to the sample's largest; channels that cancel are none the less
    values. The score depends on a feature if it changes, by more than rounding, when the feature is replaced by random
    values, of which `samples` are tried. A zero map has the number of features that the score depends on.
    `details["dead"]` counts the features on which it does not, `details["spurious"]` those of them with values,
    `details["missed"]` those without that matter.

    With several features a step, all of a group are replaced together, and one by one where that changes the score: each
    feature is judged by itself, in fewer rows where there are many dead ones. A model row for each feature, and up to
    `samples` where the score does not change; one for the score.

    Source: Nguyen and Martinez 2020, arXiv:2007.07584, "non-sensitivity".

    Parameters
    ----------
    samples
        Random replacements of each feature.
    background
        Data from whose rows replacements are taken. `None`: normal numbers are added, as wide as the sample's range, or
        as its largest magnitude where all of it is the same; the model must take any numbers then.
    features_in_step
        Features that are replaced together at first.
    features
        `None` for at most 64 tiles of an image, single columns or tokens; else as for `Deletion`.
    score
        Which score: see `xai_core.metrics.base.Scored`.
    """

    category: ClassVar[str] = "axioms"
    higher_is_better: ClassVar[bool | None] = False

    samples: int = 4
    background: Any = None
    features_in_step: int = 1
    features: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_int("samples", self.samples)
        positive_int("features_in_step", self.features_in_step)

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        features = ground.features(self.features)
        own = np.broadcast_to(features.sizes > 0, (ground.batch, features.count))
        key = ("depends", ground.key(self.features), ground.key(self.background), self.samples, self.features_in_step)
        depends = ground.known(key, lambda: self._depends(ground, features))
        sizes = _largest(explanation, ground.problem, features)
        limit = 64.0 * _epsilon(*flatten(explanation.values)[0]) * sizes.max(axis=1, keepdims=True)
        valued = sizes > limit
        spurious = np.sum(valued & ~depends & own, axis=1).astype(np.float64)
        missed = np.sum(~valued & depends & own, axis=1).astype(np.float64)
        dead = np.sum(~depends & own, axis=1).astype(np.float64)
        return Measured(spurious + missed, details={"dead": dead, "spurious": spurious, "missed": missed})

    def _depends(self, ground: Ground, features: Features) -> _Host:
        """Which features the score of each sample depends on, (batch, features)."""
        fillings = [Game(ground.problem, features, self._filling(ground.problem, draw)) for draw in range(self.samples)]
        count, step = features.count, min(self.features_in_step, features.count)
        groups = [np.arange(start, min(start + step, count)) for start in range(0, count, step)]
        moved, scale = self._moved(ground, fillings, groups)
        group_of = np.arange(count) // step
        possible = moved[:, group_of]
        if step == 1:
            return possible
        again = np.flatnonzero(possible.any(axis=0))
        found = np.zeros_like(possible)
        if len(again):
            found[:, again], _ = self._moved(ground, fillings, [np.array([one]) for one in again], scale)
        # A sample's own groups decide, so that it does not matter which others are in the batch.
        return found & possible

    def _moved(
        self, ground: Ground, fillings: Sequence[Game], groups: Sequence[_Host], scale: _Host | None = None
    ) -> tuple[_Host, _Host]:
        """Whether the score changes when groups of features are replaced, (batch, groups), and how large scores are."""
        count, score = fillings[0].count, ground.score()[:, None]
        moved = np.zeros((ground.batch, len(groups)), dtype=bool)
        for game in fillings:
            left = np.flatnonzero(~moved.all(axis=0))
            if not len(left):
                break
            table = np.ones((len(left), count), dtype=bool)
            for row, group in enumerate(left.tolist()):
                table[row, groups[group]] = False
            worth = ground.on_host(game.worth(partial(_taken, table), len(left)))[:, :, 0]
            if scale is None:
                # The largest of the first draw: a score near zero may be the difference of large numbers.
                scale = np.abs(np.concatenate([score, worth], axis=1)).max(axis=1, keepdims=True)
            moved[:, left] |= np.abs(worth - score) > ground.rounding() * scale
        return moved, np.abs(score) if scale is None else scale

    def _filling(self, problem: Problem, draw: int) -> Removal:
        xp = problem.xp
        if self.background is not None:
            rows = resolve_background(problem, self.background)
            size = int(rows[0].shape[0])
            chosen = [
                int(problem.streams.generator(row, draw, REPLACEMENT_PART).integers(size))
                for row in range(problem.batch)
            ]
            place = problem.to_device(np.asarray(chosen, dtype=np.int64))
            return Removal([xp.take(array, place, axis=0) for array in rows], 1, False)
        found = []
        for position, leaf in enumerate(problem.varied):
            frame = problem.bound.frame_of(position)
            if not is_floating(leaf) or (frame is not None and frame.coded):
                raise IntegerInputError(
                    f"NonSensitivity adds random numbers to `{problem.bound.structure.label(position)}`, which holds no "
                    "numbers of any size.",
                    received=describe(leaf),
                    fix="NonSensitivity(background=x_train[:100]) replaces features by those of other samples.",
                )
            wide = xp.astype(leaf, problem.accumulator_dtype(leaf))
            axes = tuple(range(1, len(tuple(leaf.shape))))
            spread = sample_range(xp, wide)
            largest = xp.max(xp.abs(wide), axis=axes, keepdims=True) if axes else xp.abs(wide)
            spread = xp.where(spread > 0, spread, xp.where(largest > 0, largest, xp.ones_like(largest)))
            noise = problem.normal(range(problem.batch), [draw], position, REPLACEMENT_PART + 1 + position)[:, 0]
            found.append(xp.astype(wide + problem.to_device(noise, like=leaf) * spread, leaf.dtype))
        return Removal(found, 1, False)


def _taken(table: _Host, numbers: Sequence[int]) -> _Host:
    return np.asarray(table[np.asarray(numbers)])


def _largest(explanation: Explanation, problem: Problem, features: Features) -> _Host:
    """Largest magnitude among the elements of each feature, (batch, features)."""
    parts = values_on_host(explanation, [tuple(leaf.shape) for leaf in problem.varied])
    found = np.zeros((problem.batch, features.count))
    for labels, part in zip(features.labels, parts, strict=True):
        shape = tuple(max(a, b) for a, b in zip(part.shape[1:], labels.shape[1:], strict=True))
        wide = np.abs(np.broadcast_to(part, (problem.batch, *shape))).reshape(problem.batch, -1)
        place = np.broadcast_to(labels, (problem.batch, *shape)).reshape(problem.batch, -1)
        for row in range(problem.batch):
            kept = place[row] >= 0
            np.maximum.at(found[row], place[row][kept], wide[row][kept])
    return found


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class InputInvariance(Metric):
    """How much an explanation changes when a shift of the inputs is undone inside the model. Lower is better.

    `|e' - e| / max(|e|, |e'|)` in the L2 norm, where `e'` explains `m'(x) = m(x - c)` at `x + c`: the scores are the
    same for all inputs, the gradients too. From 0 to 2; 0 where both maps are zero. The user's model is not touched: the
    shift is put before it. A method with a fixed reference, a zero baseline for example, or that multiplies by the
    input, changes. Random numbers of the explainer are those of the explanation. Rows of one explanation.

    Source: Kindermans et al. 2019, arXiv:1711.00867 ("The (un)reliability of saliency methods").

    Parameters
    ----------
    shift
        `c`: a number, added to each element of all inputs that hold floating-point numbers.
    """

    category: ClassVar[str] = "axioms"
    higher_is_better: ClassVar[bool | None] = False
    needs: ClassVar[tuple[str, ...]] = ("model", "explainer")

    shift: float = 1.0

    def __post_init__(self) -> None:
        number = isinstance(self.shift, (int, float, np.number)) and not isinstance(self.shift, bool)
        if not number or not math.isfinite(self.shift) or self.shift == 0:
            raise OptionError(
                "`shift` must be a finite number, not zero.", received=describe(self.shift), fix="shift=1.0"
            )

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        problem, shift = _as_explained(ground, explanation), float(self.shift)
        frames = [frame for frame in problem.bound.frames if frame is not None]
        if not any(map(is_floating, problem.leaves)) or any(frame.coded for frame in frames):
            raise IntegerInputError(
                "InputInvariance shifts inputs, which must hold floating-point numbers.",
                received=", ".join(map(describe, problem.leaves)),
                fix="use it for images, signals and tables of numbers.",
            )
        leaves = [leaf + shift if is_floating(leaf) else leaf for leaf in problem.leaves]
        moved = problem.inside(leaves, None, problem.streams)
        moved = replace(moved, bound=shifted(problem.bound, [is_floating(leaf) for leaf in problem.leaves], shift))
        before, after = maps_of(explanation), _explained(moved, _explainer(explanation))
        apart = _norm(after - before)
        return Measured(_quotient(apart, np.maximum(_norm(before), _norm(after))))


def shifted(bound: Bound, places: Sequence[bool], shift: float) -> Bound:
    """The model `x -> m(x - shift)` in place of `m`, for inputs at some places; the user's model stays as it is.

    Also its layers and its operations can be seen: a subtraction comes before them.
    """
    adapted = bound.adapted
    tapped, traced = adapted.tapped, adapted.traced

    def back(x: Any) -> Any:
        leaves, structure = flatten(x)
        return structure.rebuild([leaf - shift if moves else leaf for leaf, moves in zip(leaves, places, strict=True)])

    def trace(params: Any, x: Any, pick: Callable[[Any], Any]) -> Graph:
        if traced is None:
            raise CapabilityError("The operations of this model cannot be seen.")
        return _shifted_graph(traced(params, x, pick), adapted, places, shift)

    moved = replace(
        adapted,
        apply=lambda params, x: adapted.apply(params, back(x)),
        tapped=None if tapped is None else lambda params, x, *more: tapped(params, back(x), *more),
        traced=None if traced is None else trace,
        weights=None,
        replaced=None,
    )
    # Compiled code is kept by this description: without the shift that of the model itself would be used.
    static: Hashable = ("shifted", shift, bound.static)
    return Bound(bound.model, moved, bound.structure, bound.params, static, bound.layer, bound.frames)


def _shifted_graph(graph: Graph, adapted: Adapted, places: Sequence[bool], shift: float) -> Graph:
    """A graph with a subtraction between inputs and what they go into."""
    xp = adapted.backend.xp
    shapes, dtypes = dict(graph.shapes), dict(graph.dtypes)
    constants, numbers = dict(graph.constants), dict(graph.numbers)
    inputs, added = [], []
    for value, moves in zip(graph.inputs, places, strict=True):
        if not moves:
            inputs.append(value)
            continue
        given, amount = max(shapes) + 1, max(shapes) + 2
        shapes |= {given: shapes[value], amount: (1,) * len(shapes[value])}
        dtypes |= {given: dtypes[value], amount: dtypes[value]}
        constants[amount] = xp.full(shapes[amount], shift, dtype=getattr(xp, dtypes[value]), device=adapted.device)
        numbers[amount] = shift
        added.append(Node("subtract", "shift", (given, amount), (value,), _subtract))
        inputs.append(given)
    # What was found out about the operations is not that of the graph without the shift.
    memory = graph.memory.setdefault(("shifted", shift), {})
    return replace(
        graph,
        nodes=(*added, *graph.nodes),
        inputs=tuple(inputs),
        constants=constants,
        numbers=numbers,
        shapes=shapes,
        dtypes=dtypes,
        memory=memory,
    )


def _subtract(a: Any, b: Any) -> Sequence[Any]:
    return (a - b,)


@dataclass(frozen=True)
class _Mixed:
    """Sums `a f_i + b f_j` of outputs of classes, one for each of some pairs (i, j)."""

    a: float
    b: float
    pairs: tuple[tuple[int, int], ...]
    xp: Any = field(compare=False, hash=False)

    def __call__(self, outputs: Any) -> Any:
        first, second = (
            self.xp.concat([outputs[:, one : one + 1] for one in side], axis=1)
            for side in zip(*self.pairs, strict=True)
        )
        return self.a * first + self.b * second


def _require_classes(shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or shape[1] < 2:
        raise TargetError(
            "Linearity mixes the scores of two classes.",
            received=f"outputs of shape {shape}",
            fix="use it for models with outputs (batch, classes).",
        )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Linearity(Metric):
    """How far the explanation of a sum of two scores is from the sum of their explanations. Lower is better.

    `|e(a f_i + b f_j) - (a e(f_i) + b e(f_j))| / max(|e(a f_i + b f_j)|, |a| |e(f_i)| + |b| |e(f_j)|)` in the L2 norm,
    for two classes of the same model: that of the explanation and another. From 0 to 2; 0 where all these maps are zero.
    Random numbers are the same in all three explanations. Rows of two explanations, and one for the score.

    Source: Sundararajan, Taly and Yan 2017, arXiv:1703.01365, section 4, "Linearity".

    Parameters
    ----------
    other
        Class `j`, for all samples; `None`: of each sample, the class of the highest score that is not explained.
    a, b
        The factors.
    """

    category: ClassVar[str] = "axioms"
    higher_is_better: ClassVar[bool | None] = False
    needs: ClassVar[tuple[str, ...]] = ("model", "explainer")

    other: int | None = None
    a: float = 1.0
    b: float = 1.0

    def __post_init__(self) -> None:
        if self.other is not None:
            positive_int("other", self.other, least=0)
        for name in ("a", "b"):
            value = getattr(self, name)
            number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value == 0:
                raise OptionError(
                    f"`{name}` must be a finite number, not zero.", received=describe(value), fix=f"{name}=1.0"
                )

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        if self.other is None:
            ground.predicted(2)  # finds out the explained score on the way
        problem, explainer = _as_explained(ground, explanation), _explainer(explanation)
        if problem.index is None:
            raise TargetError(
                "Linearity adds the scores of two classes, and this explanation is of a function of the scores.",
                received="a callable target",
                fix="explain a class: target=0.",
            )
        axes, outputs = int(problem.index.shape[1]), int(problem.outputs or 0)
        _require_classes((problem.batch, outputs) if axes == 1 else (problem.batch,) * (axes + 1))
        own = problem.to_host(problem.index)[:, 0].astype(np.int64)
        partner = self._partner(ground, own, outputs)
        if np.any(own == partner):
            raise OptionError(
                "Linearity needs two different classes.",
                received=f"other={self.other}, which is explained for sample {int(np.argmax(own == partner))}",
                fix="other=None takes the highest of the others.",
            )
        first = maps_of(explanation)
        index = problem.to_device(partner[:, None])
        second = _explained(replace(problem.inside(problem.leaves, None, problem.streams), index=index), explainer)
        mixed = np.zeros_like(first)
        for pairs, rows, numbers in _rounds(own, partner, outputs):
            pick = Pick(scale=_Mixed(float(self.a), float(self.b), pairs, problem.xp))
            chosen = problem.indices(rows)
            leaves = [gather(problem.xp, leaf, chosen) for leaf in problem.leaves]
            inside = problem.inside(leaves, rows, problem.streams.take(rows))
            index = problem.to_device(np.asarray(numbers, dtype=np.int64)[:, None])
            mixed[rows] = _explained(replace(inside, pick=pick, index=index), explainer)
        apart = _norm(mixed - (self.a * first + self.b * second))
        parts = abs(self.a) * _norm(first) + abs(self.b) * _norm(second)
        return Measured(_quotient(apart, np.maximum(_norm(mixed), parts)), details={"other": partner})

    def _partner(self, ground: Ground, own: _Host, outputs: int) -> _Host:
        if self.other is None:
            first, second = ground.predicted(2)[0].T
            return np.where(own == first, second, first)
        if self.other >= outputs:
            raise TargetError(f"`other` is a class, 0 to {outputs - 1}.", received=f"other={self.other}")
        return np.full(len(own), self.other, dtype=np.int64)


_PAIRS = 64
"""Pairs of classes in one call: each is a few operations of the code that is compiled."""


def _rounds(
    own: _Host, partner: _Host, outputs: int
) -> Iterator[tuple[tuple[tuple[int, int], ...], list[int], list[int]]]:
    """Pairs of classes, no more than outputs, whose places they take; the samples that have one, and for each which."""
    pairs, which = np.unique(np.stack([own, partner], axis=1), axis=0, return_inverse=True)
    for block in spans(len(pairs), min(outputs, _PAIRS), constant=False):
        rows = np.flatnonzero((which >= block.start) & (which < block.start + block.size))
        some = tuple((int(i), int(j)) for i, j in pairs[block.indices])
        yield some, rows.tolist(), (which[rows] - block.start).tolist()


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Symmetry(Metric):
    """How much the values of features differ that the model treats alike. Lower is better.

    Two features are symmetric if the score stays the same for every input when they are swapped. Where they have the
    same input, they should have equal values: each group of symmetric features is set to its mean, the changed input is
    explained, and the score is `max |a_i - a_j| / max_k |a_k|` over groups and features, from 0 to 2; 0 for a zero map,
    and where there are no symmetric features. `details["pairs"]` counts the pairs that hold groups together. Baselines
    must be the same for both features of a pair, or the method has a reason to tell them apart. Random numbers are those
    of the explanation, so that a method that samples shows its sampling error. Rows of one explanation; to find pairs,
    `samples` for each feature and for each pair that is tried.

    Source: Sundararajan, Taly and Yan 2017, arXiv:1703.01365, section 4, "Symmetry-Preserving".

    Parameters
    ----------
    pairs
        Numbers of features that are symmetric, `((0, 1), (2, 5))`; features have as many elements. `None`: pairs are
        found, for each sample and its score: features that the score takes alike when each alone differs from the rest,
        and can be swapped in random inputs, as wide as the sample.
    samples
        Random inputs by which pairs are found.
    features
        `None` for at most 64 tiles of an image, single columns or tokens; else as for `Deletion`. Numbers in `pairs`
        count these.
    """

    category: ClassVar[str] = "axioms"
    higher_is_better: ClassVar[bool | None] = False
    needs: ClassVar[tuple[str, ...]] = ("model", "explainer")

    pairs: Any = None
    samples: int = 2
    features: Any = None

    def __post_init__(self) -> None:
        positive_int("samples", self.samples)
        if self.pairs is not None:
            object.__setattr__(self, "pairs", _checked_pairs(self.pairs))

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        problem, explainer = _as_explained(ground, explanation), _explainer(explanation)
        if not all(map(is_floating, problem.leaves)) or any(f is not None and f.coded for f in problem.bound.frames):
            raise IntegerInputError(
                "Symmetry changes inputs, which must hold floating-point numbers.",
                received=", ".join(map(describe, problem.leaves)),
                fix="use it for images, signals and tables of numbers.",
            )
        features = ground.features(self.features)
        places = _Places(problem, features)
        if self.pairs is None:
            key = ("symmetric", ground.key(self.features), self.samples)
            pairs = ground.known(key, lambda: _find_pairs(ground, places, self.samples))
        else:
            pairs = [places.checked(self.pairs, row) for row in range(problem.batch)]
        flat = places.flat(problem.leaves)
        for row, own in enumerate(pairs):
            for group in _groups(own):
                elements = np.stack([places.of(row)[one] for one in group])
                flat[row, elements] = flat[row, elements].mean(axis=0)
        changed = problem.inside(places.leaves(flat, problem.leaves), None, problem.streams)
        if explainer.uses_gradients():
            problem.bound.require_gradient(type(explainer).__name__)
        hosts = [ground.on_host(value) for value in explainer.attribute_at_layer(changed).values]
        found = replace(explanation, values=tuple(hosts))
        sums = ground.relevance(found, self.features).values
        largest = np.abs(sums).max(axis=1)
        apart = np.array(
            [max((np.ptp(sums[row, group]) for group in _groups(own)), default=0.0) for row, own in enumerate(pairs)]
        )
        return Measured(_quotient(apart, largest), details={"pairs": np.array([len(own) for own in pairs])})


def _checked_pairs(pairs: Any) -> tuple[tuple[int, int], ...]:
    try:
        found = tuple((int(i), int(j)) for i, j in pairs)
    except (TypeError, ValueError) as error:
        raise OptionError(
            "`pairs` are pairs of feature numbers.", received=describe(pairs), fix="pairs=((0, 1),)"
        ) from error
    if not found or any(i == j or min(i, j) < 0 for i, j in found):
        raise OptionError("`pairs` are pairs of different features.", received=repr(pairs), fix="pairs=((0, 1),)")
    return found


def _groups(pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Features that pairs hold together."""
    groups: list[set[int]] = []
    for pair in pairs:
        joined = set(pair).union(*(group for group in groups if group & set(pair)))
        groups = [group for group in groups if not group & joined] + [joined]
    return [sorted(group) for group in groups]


class _Places:
    """Where the elements of features are when all inputs of a sample are written in one row."""

    def __init__(self, problem: Problem, features: Features) -> None:
        self.features = features
        self._shapes = [tuple(leaf.shape)[1:] for leaf in problem.varied]
        self.size = sum(map(math.prod, self._shapes))
        self._known: dict[int, list[_Host]] = {}
        self.problem = problem

    def of(self, row: int) -> list[_Host]:
        """Elements of each feature of a sample."""
        shared = all(labels.shape[0] == 1 for labels in self.features.labels)
        name = 0 if shared else row
        if name not in self._known:
            parts = []
            for labels, shape in zip(self.features.labels, self._shapes, strict=True):
                own = labels[min(row, labels.shape[0] - 1)]
                parts.append(np.broadcast_to(own, shape).reshape(-1))
            flat = np.concatenate(parts)
            order = np.argsort(flat, kind="stable")
            ends = np.searchsorted(flat[order], np.arange(self.features.count + 1))
            self._known[name] = [order[a:b] for a, b in itertools.pairwise(ends)]
        return self._known[name]

    def checked(self, pairs: Sequence[tuple[int, int]], row: int) -> list[tuple[int, int]]:
        elements = self.of(row)
        for i, j in pairs:
            if max(i, j) >= len(elements):
                raise OptionError(
                    f"`pairs` name features, 0 to {len(elements) - 1}.",
                    received=f"pair {(i, j)}",
                    fix="pairs=((0, 1),)",
                )
            if len(elements[i]) != len(elements[j]) or not len(elements[i]):
                raise OptionError(
                    "Symmetric features have as many elements as each other.",
                    received=f"features {i} and {j} with {len(elements[i])} and {len(elements[j])}",
                )
        return list(pairs)

    def flat(self, leaves: Sequence[Any]) -> _Host:
        """Inputs on the host, (batch, elements)."""
        return side_by_side([self.problem.to_host(leaf) for leaf in leaves])

    def leaves(self, flat: _Host, like: Sequence[Any]) -> list[Any]:
        """Rows as inputs on the device."""
        found, start, xp = [], 0, self.problem.xp
        for shape, leaf in zip(self._shapes, like, strict=True):
            stop = start + math.prod(shape)
            host = flat[:, start:stop].reshape(len(flat), *shape)
            found.append(xp.astype(self.problem.to_device(host, like=leaf), leaf.dtype))
            start = stop
        return found


def _find_pairs(ground: Ground, places: _Places, samples: int) -> list[list[tuple[int, int]]]:
    """Pairs that hold the groups of symmetric features of each sample together: other swaps are made of theirs."""
    problem = ground.problem
    given = places.flat(problem.leaves)
    spread = np.maximum(np.ptp(given, axis=1), np.abs(given).max(axis=1))
    spread = np.where(spread > 0, spread, 1.0)[:, None]
    sources = [
        [problem.streams.generator(row, draw, PROBE_PART) for draw in range(samples)] for row in range(problem.batch)
    ]
    count = places.features.count
    elements = [places.of(row) for row in range(problem.batch)]
    # One feature unlike all others, which are the same: symmetric features give the same score.
    alike = np.zeros((problem.batch, count, samples))
    for draw in range(samples):
        numbers = np.stack([own[draw].normal(size=2) for own in sources]) * spread

        def alone(out: _Host, row: int, one: int, numbers: _Host = numbers) -> None:
            out[:] = numbers[row, 0]
            out[elements[row][one]] = numbers[row, 1]

        alike[:, :, draw] = _probe(ground, places, alone, count)
    slack = ground.rounding() * np.abs(alike).max(axis=(1, 2), initial=0.0)
    groups = [_alike(alike[row], elements[row], float(slack[row])) for row in range(problem.batch)]
    points = [np.stack([own[draw].normal(size=given.shape[1]) for own in sources]) * spread for draw in range(samples)]
    pairs: list[list[tuple[int, int]]] = [[] for _ in groups]
    while any(groups):
        # The first of each group against all others; those that it cannot be swapped with are a group for the next round.
        tried = [[(group[0], other) for group in own for other in group[1:]] for own in groups]
        holds = _swap(ground, places, points, tried, slack)
        left = []
        for row, own in enumerate(groups):
            good = {pair for pair, held in zip(tried[row], holds[row].tolist(), strict=False) if held}
            pairs[row] += sorted(good)
            rest = [[other for other in group[1:] if (group[0], other) not in good] for group in own]
            left.append([group for group in rest if len(group) > 1])
        groups = left
    return pairs


def _swap(
    ground: Ground,
    places: _Places,
    points: Sequence[_Host],
    pairs: Sequence[Sequence[tuple[int, int]]],
    slack: _Host,
) -> _Host:
    """Whether scores of random inputs stay when the features of each sample's pairs are swapped, (batch, most pairs)."""
    most = max(map(len, pairs))
    holds = np.ones((len(pairs), most), dtype=bool)
    for draw in points:

        def swapped(out: _Host, row: int, number: int, draw: _Host = draw) -> None:
            out[:] = draw[row]
            if number and number <= len(pairs[row]):
                i, j = (places.of(row)[one] for one in pairs[row][number - 1])
                out[i], out[j] = draw[row][j], draw[row][i]

        scores = _probe(ground, places, swapped, most + 1)
        # Relative to the largest score before: one near zero may be the difference of large numbers.
        limit = np.maximum(slack, ground.rounding() * np.abs(scores[:, 0]))[:, None]
        holds &= np.abs(scores[:, 1:] - scores[:, :1]) <= limit
    return holds


def _probe(ground: Ground, places: _Places, fill: Callable[[_Host, int, int], None], count: int) -> _Host:
    """Scores (batch, count) of inputs, of which `fill(out, row, number)` writes one."""
    problem = ground.problem
    found = []
    for block in spans(count, max(1, problem.held // problem.batch), constant=problem.constant_shapes):
        rows = np.empty((problem.batch, block.width, places.size))
        for row in range(problem.batch):
            for place, number in enumerate(block.indices):
                fill(rows[row, place], row, number)
        leaves = places.leaves(rows.reshape(-1, places.size), problem.leaves)
        found.append(ground.scores_of(leaves, block.width)[:, : block.size])
    return np.concatenate(found, axis=1)


def _alike(scores: _Host, elements: Sequence[_Host], slack: float) -> list[list[int]]:
    """Groups of features that may be symmetric: those of one size with equal scores."""
    sizes = np.array([len(own) for own in elements])
    groups = _cut(np.flatnonzero(sizes), sizes, 0.0)
    for column in scores.T:
        groups = [part for group in groups if len(group) > 1 for part in _cut(group, column, slack)]
    return [sorted(group.tolist()) for group in groups if len(group) > 1]


def _cut(group: _Host, numbers: _Host, slack: float) -> list[_Host]:
    """A group of features in parts, between which their numbers are further apart than rounding."""
    order = group[np.argsort(numbers[group], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(numbers[order]) > slack) + 1)
