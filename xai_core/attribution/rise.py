"""RISE: scores of randomly masked inputs, averaged over the masks that showed an element."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xai_core.attribution.base import Attribution, Explainer
from xai_core.attribution.game import Game, Removal, ignores_input, removed_scores, resolve_removal
from xai_core.attribution.sampling import check_sampling, sample
from xai_core.baselines import spatial_axes
from xai_core.blocks import blocks
from xai_core.errors import OptionError, describe
from xai_core.features import resolve_features
from xai_core.model import Net
from xai_core.problem import Problem, gather, independent
from xai_core.targets import Pick

__all__ = ["RISE"]

MASK_PART = 3_100_000
"""Stream part of masks."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class RISE(Explainer):
    """Mean score of randomly masked inputs, over the masks that show an element.

    `values = 1 / (E[M] N) sum_i f(x * M_i + baseline * (1 - M_i)) M_i`: `f` explained score, `M_i` random masks in [0, 1],
    `E[M] = probability`. A mask is a grid of zeros and ones, enlarged bilinearly to a little more than the input and
    shifted at random; all channels have the same mask, each input of a tuple or dict has its own. Elements of tables and
    tokens, and features where `features` is given, are shown or not by themselves. `samples` model rows per input and one
    for the score. A score that does not change gives the same value everywhere, so compare elements with one another.

    Source: Petsiuk, Das and Saenko 2018, arXiv:1806.07421, equation 6 and section 3.2.

    Parameters
    ----------
    samples
        Perturbed model rows per input; with `tolerance`, the number to begin with.
    grid
        Cells of a mask along each spatial axis: an int, or one per spatial axis.
    probability
        How likely a cell or feature is shown.
    baseline
        What masked elements are filled with, as for `IntegratedGradients`.
    features
        What is shown together, without a grid: labels as an integer array or a rule, `xai.Patches`, `xai.Superpixels`,
        `xai.Spans`, `xai.Groups`, `xai.Elements`.
    tolerance
        Double the rows until no standard error exceeds this, in units of the score, or `max_rows` would be exceeded;
        `details["converged"]` says of each input which it was.
    max_rows
        Most perturbed model rows per input; `None`: 16 times `samples`.
    """

    differentiates: ClassVar[bool] = False
    stochastic: ClassVar[bool] = True
    keeps_missing: ClassVar[bool] = True

    samples: int = 4000
    grid: Any = 7
    probability: float = 0.5
    baseline: Any = 0.0
    features: Any = None
    tolerance: float | None = None
    max_rows: int | None = None

    def __post_init__(self) -> None:
        check_sampling(self.samples, self.tolerance, self.max_rows)
        sides = self.grid if isinstance(self.grid, (tuple, list)) else (self.grid,)
        if not sides or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
            raise OptionError("`grid` must be positive integers.", received=describe(self.grid), fix="grid=7")
        if not (isinstance(self.probability, (int, float)) and 0 < self.probability < 1):
            raise OptionError(
                "`probability` must lie between 0 and 1.", received=describe(self.probability), fix="probability=0.5"
            )

    def planned_rows(self, batch: int) -> int:
        return batch * (self.samples + 1)

    def attribute(self, problem: Problem) -> Attribution:
        removal = resolve_removal(problem, self.baseline, None)
        places = range(len(problem.varied))
        gridded = [bool(spatial_axes(problem, problem.leaves[place])) and self.features is None for place in places]
        if not any(gridded):
            game = Game(problem, resolve_features(problem, self.features), removal)
            hosts = [np.where(host < 0, game.count, host) for host in game.features.labels]
            masked = _Masked(problem, removal, (_Flags(game.count, tuple(places)),), hosts, float(self.probability))
            found = sample(problem, masked, self.samples, self.tolerance, self.max_rows)
            result = game.spread(found.values, found.error, share=False, details=found.details)
        else:
            parts = tuple(self._grid(problem, p) if gridded[p] else _elements(problem, p) for p in places)
            hosts = [_numbers(problem, p) for p in places if not gridded[p]]
            masked = _Masked(problem, removal, parts, hosts, float(self.probability))
            found = sample(problem, masked, self.samples, self.tolerance, self.max_rows)
            values, error = masked.at_leaves(found.values), masked.at_leaves(found.error)
            result = Attribution(values, error=error, details=found.details)
        if not masked.changed() and ignores_input(problem, removal):
            raise independent(problem, type(self).__name__)
        return result

    def _grid(self, problem: Problem, position: int) -> _Grid:
        leaf = problem.leaves[position]
        axes, shape = spatial_axes(problem, leaf), tuple(leaf.shape)
        sides = (self.grid,) * len(axes) if isinstance(self.grid, int) else tuple(self.grid)
        if len(sides) != len(axes):
            raise OptionError(
                f"`grid` needs one number for each of {len(axes)} spatial axes.",
                received=describe(self.grid),
                fix="grid=7",
            )
        lengths = tuple(int(shape[axis]) for axis in axes)
        sides = tuple(min(side, length) for side, length in zip(sides, lengths, strict=True))
        wide = tuple(int(size) if axis in axes else 1 for axis, size in enumerate(shape) if axis)
        return _Grid(position, sides, lengths, wide)


def _elements(problem: Problem, position: int) -> _Flags:
    return _Flags(math.prod(tuple(problem.leaves[position].shape)[1:]), (position,))


def _numbers(problem: Problem, position: int) -> np.ndarray[Any, Any]:
    """Each element of a leaf by number, (1, ...)."""
    shape = tuple(problem.leaves[position].shape)[1:]
    return np.arange(math.prod(shape)).reshape((1, *shape))


@dataclass(frozen=True)
class _Flags:
    """A part of the masks: features of some leaves that are shown or not by themselves."""

    count: int
    leaves: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """Random numbers for one mask."""
        return self.count

    @property
    def size(self) -> int:
        """Elements of one mask that are told apart."""
        return self.count

    def drawn(self, uniform: np.ndarray[Any, Any], probability: float) -> list[np.ndarray[Any, Any]]:
        """What a device needs to make masks of (draws, samples, numbers) uniform numbers."""
        return [uniform < probability]

    def masks(self, xp: Any, given: list[Any], labels: list[Any], rows: Any, dtype: Any) -> tuple[Any, dict[int, Any]]:
        """Masks, (draws, samples, size), and over the leaves, (draws, 1, samples, ...)."""
        present = given[0]
        draws, samples = tuple(present.shape)[:2]
        padded = xp.concat([present, xp.ones_like(present[:, :, :1])], axis=2)
        found = {}
        for position in self.leaves:
            label = labels.pop(0)
            shape = tuple(label.shape)[1:]
            if tuple(label.shape)[0] == 1:
                taken = xp.take(padded, xp.reshape(label, (-1,)), axis=2)
            else:
                own = xp.reshape(gather(xp, label, rows), (1, samples, -1))
                taken = xp.take_along_axis(padded, xp.broadcast_to(own, (draws, samples, math.prod(shape))), axis=2)
            found[position] = xp.reshape(taken, (draws, 1, samples, *shape))
        return xp.astype(present, dtype), found


@dataclass(frozen=True)
class _Grid:
    """A part of the masks: a grid of cells over the spatial axes of one leaf, enlarged and shifted."""

    leaf: int
    sides: tuple[int, ...]
    lengths: tuple[int, ...]
    wide: tuple[int, ...]

    @property
    def numbers(self) -> int:
        return math.prod(self.sides) + len(self.sides)

    @property
    def size(self) -> int:
        return math.prod(self.lengths)

    def drawn(self, uniform: np.ndarray[Any, Any], probability: float) -> list[np.ndarray[Any, Any]]:
        """Cells, and for each axis where its positions lie among the cells, (draws, samples, length)."""
        cells = uniform[..., : -len(self.sides)] < probability
        found = [cells.reshape(*cells.shape[:2], *self.sides).astype(np.float32)]
        for axis, (side, length) in enumerate(zip(self.sides, self.lengths, strict=True)):
            # Enlarged to one cell more than covers the axis, of which a part that starts in the first cell is cut out.
            cell = -(-length // side)
            shift = np.floor(uniform[..., axis - len(self.sides)].astype(np.float64) * cell)
            place = (np.arange(length) + shift[..., None] + 0.5) * side / ((side + 1) * cell) - 0.5
            found.append(np.clip(place, 0, side - 1))
        return found + [np.arange(side, dtype=np.float32) for side in self.sides]

    def masks(self, xp: Any, given: list[Any], labels: list[Any], rows: Any, dtype: Any) -> tuple[Any, dict[int, Any]]:
        axes = len(self.sides)
        mask, places, nodes = given[0], given[1 : axes + 1], given[axes + 1 :]
        for axis, (place, node) in enumerate(zip(places, nodes, strict=True)):
            # Linear interpolation between cells: a hat over each.
            hats = 1.0 - xp.abs(node[:, None] - place[:, :, None, :])
            hats = xp.where(hats > 0.0, hats, xp.zeros_like(hats))
            last = xp.moveaxis(mask, axis + 2, -1)
            kept = tuple(last.shape)
            last = xp.matmul(xp.reshape(last, (*kept[:2], -1, kept[-1])), hats)
            mask = xp.moveaxis(xp.reshape(last, (*kept[:-1], tuple(place.shape)[2])), -1, axis + 2)
        draws, samples = tuple(mask.shape)[:2]
        flat = xp.reshape(mask, (draws, samples, self.size))
        return flat, {self.leaf: xp.reshape(flat, (draws, 1, samples, *self.wide))}


class _Masked:
    """Steps of RISE: running means and squared deviations of scores times masks."""

    def __init__(
        self,
        problem: Problem,
        removal: Removal,
        parts: tuple[_Flags | _Grid, ...],
        labels: list[np.ndarray[Any, Any]],
        probability: float,
    ) -> None:
        self._problem, self._removal, self._parts = problem, removal, parts
        self._labels = [problem.to_device(host.astype(np.int64)) for host in labels]
        self._probability = probability
        self._done = 0
        self._sums: list[Any] = []
        self._largest: Any = None

    def __call__(self, budget: int, samples: list[int], kept: Any) -> tuple[Any, Any]:
        problem, constant = self._problem, self._problem.constant_shapes
        xp, score = problem.xp, problem.scores_or_known()
        kernel = _Step(problem.pick, self._parts, self._probability)
        if not self._sums:
            size = sum(part.size for part in self._parts)
            zeros = xp.zeros_like(xp.astype(score, problem.accumulator_dtype(score)))[:, None]
            self._sums = [xp.broadcast_to(zeros, (problem.batch, size))] * 2
        elif kept is not None:
            place = problem.to_device(kept.astype(np.int64))
            self._sums = [xp.take(array, place, axis=0) for array in self._sums]
        found = []
        for block, draws in blocks(len(samples), budget - self._done, problem.rows, constant=constant):
            own = [samples[i] for i in block.indices]
            rows, done = problem.indices(own), self._done
            place = problem.to_device(np.asarray(block.indices, dtype=np.int64))
            mean, scatter = (xp.take(array, place, axis=0) for array in self._sums)
            for draw in draws:
                used = np.arange(draw.width) < draw.size
                uniform = problem.streams.uniform(
                    own, [self._done + i for i in draw.indices], sum(part.numbers for part in self._parts), MASK_PART
                )
                mean, scatter, largest = problem.run(
                    kernel,
                    mean,
                    scatter,
                    problem.leaves,
                    self._removal.arrays,
                    self._labels,
                    self._given(np.swapaxes(uniform, 0, 1), score),
                    problem.to_device(used, like=score),
                    problem.to_device(np.full(1, done), like=score),
                    score,
                    rows,
                    problem.index,
                )
                done += draw.size
                # One number, not a list: small arrays between large ones keep memory from being given back.
                self._largest = largest if self._largest is None else xp.maximum(self._largest, largest)
                problem.work.add(block.width * draw.width)
            found.append((mean[: block.size, ...], scatter[: block.size, ...]))
        self._done = budget
        self._sums = [xp.concat(list(arrays), axis=0) for arrays in zip(*found, strict=True)]
        mean, scatter = self._sums
        # One draw tells nothing of its error.
        share = 1.0 / (budget * (budget - 1)) if budget > 1 else float("nan")
        return mean[:, :, None], xp.sqrt(scatter * share)[:, :, None]

    def _given(self, uniform: np.ndarray[Any, Any], score: Any) -> list[list[Any]]:
        problem, start, found = self._problem, 0, []
        for part in self._parts:
            arrays = part.drawn(uniform[..., start : start + part.numbers], self._probability)
            found.append([problem.to_device(a, like=None if a.dtype == bool else score) for a in arrays])
            start += part.numbers
        return found

    def at_leaves(self, values: Any) -> list[Any]:
        """Values of masks (batch, size, 1) as one array for each leaf; all channels have that of their place."""
        problem, start, found = self._problem, 0, []
        for part, leaf in zip(self._parts, self._problem.varied, strict=True):
            shape = tuple(leaf.shape)
            wide = part.wide if isinstance(part, _Grid) else shape[1:]
            own = problem.xp.reshape(values[:, start : start + part.size, 0], (shape[0], *wide))
            found.append(problem.xp.broadcast_to(own, shape))
            start += part.size
        return found

    def changed(self) -> bool:
        """Whether any mask changed a score."""
        return bool(np.any(self._problem.to_host(self._largest) > 0))


@dataclass(frozen=True)
class _Step:
    """Kernel: means and squared deviations (samples, size) with some draws more, and the largest change of a score."""

    pick: Pick
    parts: tuple[_Flags | _Grid, ...]
    probability: float

    def __call__(
        self,
        net: Net,
        mean: Any,
        scatter: Any,
        leaves: list[Any],
        fillings: list[Any],
        labels: list[Any],
        given: list[list[Any]],
        used: Any,
        done: Any,
        score: Any,
        rows: Any,
        index: Any,
    ) -> tuple[Any, Any, Any]:
        xp, left = net.xp, list(labels)
        flat: list[Any] = []
        masks: dict[int, Any] = {}
        for part, arrays in zip(self.parts, given, strict=True):
            own, over = part.masks(xp, arrays, left, rows, mean.dtype)
            flat.append(own)
            masks |= over
        count = tuple(used.shape)[0]
        scores = removed_scores(net, self.pick, leaves, masks, dict(enumerate(fillings)), None, count, rows, index)[
            :, 0, :, 0
        ]
        largest = xp.max(xp.abs(scores - gather(xp, score, rows)[None, :]))
        every = flat[0] if len(flat) == 1 else xp.concat(flat, axis=2)
        # Products of scores and masks are summed as products of matrices: their squared deviations are of the size of
        # their squares, since masks are, so that nothing is lost in taking their mean off.
        each = xp.astype(scores, mean.dtype) / self.probability
        new, over = xp.sum(used), xp.moveaxis(every, 0, 1)

        def summed(factors: Any, arrays: Any) -> Any:
            return xp.matmul(xp.matrix_transpose(factors)[:, None, :], arrays)[:, 0, :]

        fresh = summed(each * used[:, None], over) / new
        # The deviations of two groups of draws join as in Chan, Golub and LeVeque 1983, equation 1.5.
        change, share = fresh - mean, new / (done + new)
        inner = summed(each**2 * used[:, None], over**2) - new * fresh**2
        inner = xp.where(inner > 0, inner, xp.zeros_like(inner))
        return mean + change * share, scatter + inner + change**2 * done * share, largest
