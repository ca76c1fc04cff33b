"""The model as a cooperative game: features are the players, and what is not in a coalition is removed.

All methods that only call the model rest on `Game`: masks are made, applied and evaluated on the model's device, in
blocks, and each block is one model call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xai_core.attribution.base import Attribution
from xai_core.baselines import resolve_background, resolve_baseline
from xai_core.blocks import spans
from xai_core.errors import OptionError, describe
from xai_core.explanation import FeatureValues
from xai_core.features import Features, resolve_features
from xai_core.model import Net
from xai_core.problem import Problem, gather
from xai_core.targets import Pick

__all__ = ["Game", "Removal", "Worth", "resolve_removal"]

Masks = Callable[[Sequence[int]], np.ndarray[Any, Any]]
"""From numbers of coalitions to their members, (coalitions, features): truths, or shares from 0 to 1 of what is mixed."""


@dataclass(frozen=True, eq=False)
class Removal:
    """What takes the place of what is removed.

    Attributes
    ----------
    arrays
        For each input that is explained, one filling per sample (batch, ...), or rows of a data set (size, ...) over
        all of which the score is averaged.
    size
        Model rows that one coalition takes.
    shared
        Whether the fillings are rows of a data set.
    """

    arrays: list[Any]
    size: int
    shared: bool


def resolve_removal(problem: Problem, baseline: Any, background: Any) -> Removal:
    """What `baseline=` and `background=` say.

    Raises
    ------
    BaselineError
        If they do not fit the inputs.
    OptionError
        If both are given.
    """
    count = len(problem.varied)
    if background is None:
        return Removal(resolve_baseline(problem, baseline)[:count], 1, False)
    if not (isinstance(baseline, (int, float)) and baseline == 0):
        raise OptionError(
            "Features are filled from `baseline` or from `background`, not from both.",
            received=f"baseline={describe(baseline)}, background={describe(background)}",
            fix="leave out one of them.",
        )
    rows = resolve_background(problem, background)[:count]
    return Removal(rows, int(rows[0].shape[0]), True)


class Game:
    """Worth of coalitions: `v(S)` is the explained score with all features outside `S` removed.

    With a background data set it is the mean over its rows (the marginal expectation).

    Attributes
    ----------
    features
        The players.
    removal
        What fills features that are not in a coalition.
    """

    def __init__(self, problem: Problem, features: Features, removal: Removal) -> None:
        self.problem = problem
        self.features = features
        self.removal = removal
        self._labels: list[Any] = []
        self._orders: np.ndarray[Any, Any] | None = None

    @classmethod
    def of(cls, problem: Problem, features: Any, baseline: Any, background: Any) -> Game:
        """The game that the options of a method say."""
        return cls(problem, resolve_features(problem, features), resolve_removal(problem, baseline, background))

    @property
    def count(self) -> int:
        """Number of players."""
        return self.features.count

    @property
    def own(self) -> np.ndarray[Any, Any]:
        """Which features each sample has, (batch, features)."""
        return np.broadcast_to(self.features.sizes > 0, (self.problem.batch, self.count))

    @property
    def dtype(self) -> Any:
        """dtype of worths."""
        return self.problem.accumulator_dtype(self.problem.scores_or_known())

    def shuffle(self, part: int) -> None:
        """Let each sample have its features in a random order of its own, those that it lacks last.

        A design of coalitions, and what is computed from it alone, can then serve all samples and yet be drawn anew for
        each.
        """
        columns = np.empty((self.problem.batch, self.count), dtype=np.int64)
        for row, own in enumerate(self.own):
            order = self.problem.streams.generator(row, 0, part).permutation(int(own.sum()))
            columns[row, own] = order
            columns[row, ~own] = np.arange(len(order), self.count)
        self.arrange(columns)

    def arrange(self, columns: np.ndarray[Any, Any]) -> None:
        """Say which column of a coalition each feature has, (batch, features)."""
        self._orders = columns
        self._labels = []

    def _placed(self) -> list[Any]:
        """Labels on the device: for each element its column of a coalition, the last for what is never removed."""
        if not self._labels:
            found = []
            for host in self.features.labels:
                if self._orders is not None:
                    wide = np.broadcast_to(host, (self.problem.batch, *host.shape[1:]))
                    flat = wide.reshape(self.problem.batch, -1)
                    moved = np.take_along_axis(self._orders, np.maximum(flat, 0), axis=1)
                    host = np.where(flat < 0, -1, moved).reshape(wide.shape)
                found.append(self.problem.to_device(np.where(host < 0, self.count, host).astype(np.int64)))
            self._labels = found
        return self._labels

    def full(self) -> Any:
        """Worth of the coalition of all: the score itself, (batch, 1, outputs)."""
        xp, score = self.problem.xp, self.problem.scores_or_known()
        return xp.reshape(xp.astype(score, self.dtype), (self.problem.batch, 1, -1))

    def empty(self) -> Any:
        """Worth of the coalition of none, (batch, 1, outputs)."""
        return self.worth(lambda numbers: np.zeros((len(numbers), self.count), dtype=bool), 1)

    def worth(self, masks: Masks, count: int, samples: Sequence[int] | None = None) -> Any:
        """Worth of coalitions, (samples, coalitions, outputs), for all samples or some."""
        problem, size = self.problem, self.removal.size
        chosen = list(range(problem.batch)) if samples is None else list(samples)
        limit, constant = problem.rows, problem.constant_shapes
        fillings = list(spans(size, limit, constant=constant))
        parts = []
        keep = count * (self.count + 1) <= _KEPT
        held: dict[int, Any] = {}
        room = max(1, limit // fillings[0].width)
        for block in spans(len(chosen), max(1, room // count), constant=constant):
            rows = problem.indices([chosen[i] for i in block.indices])
            found = []
            for span in spans(count, max(1, room // block.width), constant=constant):
                present = held.get(span.start)
                if present is None:
                    members = _with_fixed(masks(span.indices))
                    like = None if members.dtype == bool else problem.scores_or_known()
                    present = problem.to_device(members, like=like)
                if keep:
                    held[span.start] = present
                worth: Any = None
                for filling in fillings:
                    part = self._call(present, filling.indices, filling.size, rows)
                    worth = part if worth is None else worth + part
                    problem.work.add(block.width * span.width * filling.width)
                found.append(worth[: block.size, : span.size, ...])
            parts.append(found[0] if len(found) == 1 else problem.xp.concat(found, axis=1))
        return parts[0] if len(parts) == 1 else problem.xp.concat(parts, axis=0)

    def weighted(self, weights: np.ndarray[Any, Any], worth: Any) -> Any:
        """Sums (samples, sums, outputs) over coalitions of weights (sums, coalitions) times worth."""
        xp = self.problem.xp
        factor = self.problem.to_device(weights, like=worth)
        return xp.moveaxis(xp.tensordot(factor, worth, axes=([1], [1])), 0, 1)

    def rows_of(self, array: Any, samples: Sequence[int]) -> Any:
        """The part of an array (batch, ...) of some samples."""
        return gather(self.problem.xp, array, self.problem.indices(samples))

    def inert(self) -> bool:
        """Whether neither what fills removed features nor random inputs change any score."""
        return ignores_input(self.problem, self.removal)

    def _call(self, present: Any, fillings: list[int], used: int, rows: Any) -> Any:
        problem, removal = self.problem, self.removal
        weights = np.zeros(len(fillings))
        weights[:used] = 1.0 / removal.size
        taken = problem.to_device(np.asarray(fillings, dtype=np.int64)) if removal.shared else None
        return problem.run(
            Worth(problem.pick),
            problem.leaves,
            self._placed(),
            removal.arrays,
            present,
            taken,
            problem.to_device(weights, like=problem.scores_or_known()),
            rows,
            problem.index,
        )

    def spread(self, values: Any, error: Any = None, *, share: bool, **more: Any) -> Attribution:
        """The result, of values (batch, features, outputs) that are in the order of a coalition's columns.

        `share` divides a feature's value among its elements, so that the values of all elements sum to those of all
        features; else each element has the whole.
        """
        problem, outputs = self.problem, int(values.shape[-1])
        xp = problem.xp
        if self._orders is not None:
            back = problem.to_device(self._orders.astype(np.int64))
            back = xp.broadcast_to(back[:, :, None], tuple(values.shape))
            values = xp.take_along_axis(values, back, axis=1)
            error = None if error is None else xp.take_along_axis(error, back, axis=1)
        scaled, scaled_error = values, error
        if share:
            parts = problem.to_device(1.0 / np.maximum(self.features.sizes, 1)[:, :, None], like=values)
            scaled = values * parts
            scaled_error = None if error is None else error * parts
        single = not problem.pick.every
        own = values[..., 0] if single else values
        own_error = error[..., 0] if single and error is not None else error
        per_feature = FeatureValues(own, own_error, self.features.names, self.features.labels)
        return Attribution(
            self._elements(scaled, outputs, single),
            error=None if scaled_error is None else self._elements(scaled_error, outputs, single),
            features=per_feature,
            **more,
        )

    def _elements(self, values: Any, outputs: int, single: bool) -> list[Any]:
        """Values of features at their elements, one array for each input."""
        problem = self.problem
        xp = problem.xp
        padded = xp.concat([values, xp.zeros_like(values[:, :1, :])], axis=1)
        found = []
        for host, leaf in zip(self.features.labels, problem.varied, strict=True):
            shape = tuple(leaf.shape)
            flat = np.where(host < 0, self.count, host).reshape(host.shape[0], -1)
            if flat.shape[0] == 1:
                taken = xp.take(padded, problem.to_device(flat[0].astype(np.int64)), axis=1)
            else:
                place = problem.to_device(flat.astype(np.int64))[:, :, None]
                taken = xp.take_along_axis(padded, xp.broadcast_to(place, (*flat.shape, outputs)), axis=1)
            tail = () if single else (outputs,)
            taken = xp.reshape(taken, (shape[0], *host.shape[1:], *tail))
            found.append(xp.broadcast_to(taken, (*shape, *tail)))
        return found


_PROBES = 8
_KEPT = 2**24
"""Elements of coalitions that are kept on the device from one block of samples to the next."""


def ignores_input(problem: Problem, removal: Removal) -> bool:
    """Whether neither what fills removed features nor random inputs change any score, though they differ from the inputs."""
    xp, score = problem.xp, problem.scores_or_known()
    attempts = [] if removal.shared else [removal.arrays]
    probes = []
    for position, leaf in enumerate(problem.varied):
        shape, frame = tuple(leaf.shape), problem.bound.frame_of(position)
        normal = problem.streams.normal(range(shape[0]), range(_PROBES), shape[1:], part=position)
        if frame is not None:
            if frame.constant:
                return False
            normal = frame.valid(normal)
        probes.append([xp.astype(problem.to_device(normal[:, d], like=leaf), leaf.dtype) for d in range(_PROBES)])
    attempts += [[probe[draw] for probe in probes] for draw in range(_PROBES)]
    constant = problem.leaves[len(probes) :]
    return all(bool(np.all(problem.to_host(problem.scores([*leaves, *constant]) == score))) for leaves in attempts)


def _with_fixed(present: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Coalitions with one more column, for what is never removed."""
    return np.pad(present, ((0, 0), (0, 1)), constant_values=present.dtype.type(1))


@dataclass(frozen=True)
class Worth:
    """Kernel: worth (samples, coalitions, outputs) of coalitions, its part of some fillings.

    `present` is (coalitions, features + 1); `labels` say which of its columns an element has; `taken` are rows of a data
    set, or `None` where each sample has one filling; `weights` is (fillings,).
    """

    pick: Pick

    def __call__(
        self,
        net: Net,
        leaves: list[Any],
        labels: list[Any],
        fillings: list[Any],
        present: Any,
        taken: Any,
        weights: Any,
        rows: Any,
        index: Any,
    ) -> Any:
        xp = net.xp
        masks = []
        for label in labels:
            own = label if tuple(label.shape)[0] == 1 else gather(xp, label, rows)
            found = xp.take(present, xp.reshape(own, (-1,)), axis=1)
            masks.append(xp.reshape(found, (tuple(present.shape)[0], 1, *tuple(own.shape))))
        count = tuple(present.shape)[0]
        every = dict(enumerate(masks)), dict(enumerate(fillings))
        scores = removed_scores(net, self.pick, leaves, *every, taken, count, rows, index)
        wide = xp.astype(scores, weights.dtype)
        return xp.moveaxis(xp.tensordot(weights, wide, axes=([0], [1])), 0, 1)


def removed_scores(
    net: Net,
    pick: Pick,
    leaves: list[Any],
    masks: Mapping[int, Any],
    fillings: Mapping[int, Any],
    taken: Any,
    count: int,
    rows: Any,
    index: Any,
) -> Any:
    """Scores (masks, fillings, samples, outputs) of inputs of which only what a mask shows is left.

    Masks are (masks, 1, samples or 1, ...), truths or shares between 0 and 1, by the number of the leaf; other leaves
    stay as they are.
    """
    xp = net.xp
    chosen = [gather(xp, leaf, rows) for leaf in leaves]
    samples = tuple(chosen[0].shape)[0]
    size = 1 if taken is None else tuple(taken.shape)[0]

    def repeated(array: Any) -> Any:
        shape = tuple(array.shape)
        wide = xp.broadcast_to(array[None, ...], (count * size, *shape))
        return xp.reshape(wide, (count * size * shape[0], *shape[1:]))

    points = []
    for position, leaf in enumerate(chosen):
        if position not in masks:
            points.append(repeated(leaf))
            continue
        mask, filling, shape = masks[position], fillings[position], tuple(leaf.shape)
        if taken is None:
            absent = gather(xp, filling, rows)[None, None, ...]
        else:
            absent = xp.take(filling, taken, axis=0)[None, :, None, ...]
        own = leaf[None, None, ...]
        if "bool" in str(mask.dtype):
            mixed = xp.where(mask, own, absent)
        else:
            wide = xp.astype(own, mask.dtype), xp.astype(absent, mask.dtype)
            mixed = xp.astype(wide[1] + mask * (wide[0] - wide[1]), leaf.dtype)
        mixed = xp.broadcast_to(mixed, (count, size, *shape))
        points.append(xp.reshape(mixed, (count * size * samples, *shape[1:])))
    wanted = gather(xp, index, rows)
    scores = pick(xp, net(points), None if wanted is None else repeated(wanted))
    return xp.reshape(scores, (count, size, samples, -1))
