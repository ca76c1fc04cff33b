"""Score lost when a window of the input is replaced by the baseline."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xai_core.attribution.base import Attribution, Explainer
from xai_core.attribution.game import Removal, ignores_input, removed_scores, resolve_removal
from xai_core.baselines import spatial_axes
from xai_core.blocks import blocks, spans
from xai_core.errors import OptionError, describe
from xai_core.model import Net
from xai_core.problem import Problem, gather, independent, is_floating, join, trim
from xai_core.targets import Pick

__all__ = ["Occlusion"]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Occlusion(Explainer):
    """Score lost when a window is replaced by the baseline, spread over the window.

    `values = mean over windows covering the element of f(x) - f(x with the window replaced)`. One forward row per
    window and one for the score; no gradient, so any callable will do. Windows that reach over the border are cut off.
    Each input of a tuple or dict is occluded by itself.

    Source: Zeiler and Fergus 2014, arXiv:1311.2901, section 4.2.

    Parameters
    ----------
    window
        Window size: an int for every spatial axis of an image (all channels together) or every feature axis of a table;
        a tuple for all axes but the batch, channels included; a tuple, list or dict of those for several inputs.
        `None`: an eighth of each spatial axis, single features for tables.
    stride
        Distance between windows, given like `window`; `None`: half a window for images, at least 1.
    baseline
        What replaces the window: a number, array, structure, callable or `xai.Baseline`.
    background
        Data instead of a baseline: the score is averaged over its rows, each of which is a model row for every window.
    """

    differentiates: ClassVar[bool] = False
    keeps_missing: ClassVar[bool] = True
    aliases: ClassVar[tuple[str, ...]] = ("sliding_patch",)

    window: Any = None
    stride: Any = None
    baseline: Any = 0.0
    background: Any = None

    def __post_init__(self) -> None:
        for name in ("window", "stride"):
            _check_sizes(name, getattr(self, name))

    def attribute(self, problem: Problem) -> Attribution:
        removal = resolve_removal(problem, self.baseline, self.background)
        score = problem.scores_or_known()
        values, changed = [], False
        for position in range(len(problem.varied)):
            value, seen = self._one_leaf(problem, removal, score, position)
            values.append(value)
            changed = changed or seen
        if not changed and ignores_input(problem, removal):
            raise independent(problem, type(self).__name__)
        return Attribution(values)

    def _one_leaf(self, problem: Problem, removal: Removal, score: Any, position: int) -> tuple[Any, bool]:
        xp, leaf = problem.xp, problem.leaves[position]
        shape = tuple(leaf.shape)[1:]
        windows, strides = self._sizes(problem, position)
        counts = [math.ceil(max(0, size - w) / s) + 1 for size, w, s in zip(shape, windows, strides, strict=True)]
        starts = np.array(list(itertools.product(*(range(0, n * s, s) for n, s in zip(counts, strides, strict=True)))))
        starts = starts.reshape(-1, len(shape)).astype(np.int64)
        kernel = _Occlusion(problem.pick, position, tuple(windows))
        places = [problem.to_device(np.arange(size)) for size in shape]
        fillings = list(spans(removal.size, problem.rows, constant=problem.constant_shapes))
        room = max(1, problem.rows // fillings[0].width)
        # Token ids are whole numbers, and what is lost is none.
        like = leaf if is_floating(leaf) else score
        nothing = xp.zeros_like(leaf[:1, None, ...], dtype=problem.accumulator_dtype(like))
        parts: list[list[Any]] = []
        most: Any = None
        for block, draws in blocks(problem.batch, len(starts), room, constant=problem.constant_shapes):
            rows = problem.indices(block.indices)
            sums = xp.broadcast_to(nothing, (block.width, 1, *shape))
            for draw, filling in itertools.product(draws, fillings):
                used = np.zeros(draw.width)
                used[: draw.size] = 1.0
                share = np.zeros(filling.width)
                share[: filling.size] = 1.0 / removal.size
                sums, largest = problem.run(
                    kernel,
                    sums,
                    problem.leaves,
                    removal.arrays[position],
                    problem.to_device(np.asarray(filling.indices, dtype=np.int64)) if removal.shared else None,
                    places,
                    problem.to_device(starts[draw.indices]),
                    problem.to_device(used, like=score),
                    problem.to_device(share, like=score),
                    gather(xp, score, rows),
                    rows,
                    problem.index,
                )
                # Not a list of them: small arrays that stay keep the memory of large ones between them from its next use.
                most = largest if most is None else xp.maximum(most, largest)
                problem.work.add(block.width * draw.width * filling.width)
            parts.append(trim([sums], block))
        total = join(problem, parts)[0][:, 0, ...]
        cover = np.ones(())
        for size, window, step, count in zip(shape, windows, strides, counts, strict=True):
            axis = np.zeros(size)
            for start in range(0, count * step, step):
                axis[start : start + window] += 1.0
            cover = cover[..., None] * axis
        covered = problem.to_device(np.maximum(cover, 1.0)[None], like=like)
        return total / xp.astype(covered, total.dtype), bool(np.any(problem.to_host(most) > 0))

    def _sizes(self, problem: Problem, position: int) -> tuple[list[int], list[int]]:
        leaf = problem.leaves[position]
        shape = tuple(leaf.shape)
        axes = spatial_axes(problem, leaf)
        label = problem.bound.structure.label(position)
        windows = _per_axis("window", _for_leaf(problem, self.window, position), shape, axes, label)
        if windows is None:
            windows = [max(1, round(n / 8)) if axis in axes else n for axis, n in enumerate(shape) if axis]
            windows = windows if axes else [1] * (len(shape) - 1)
        strides = _per_axis("stride", _for_leaf(problem, self.stride, position), shape, axes, label)
        if strides is None:
            strides = [max(1, w // 2) if axis + 1 in axes else w for axis, w in enumerate(windows)]
        for w, s, size in zip(windows, strides, shape[1:], strict=True):
            if s > w and size > w:
                raise OptionError(
                    f"`stride` must not exceed `window`, or parts of `{label}` are never covered.",
                    received=f"window {tuple(windows)}, stride {tuple(strides)}",
                    fix="stride=None for half a window.",
                )
        return [min(w, size) for w, size in zip(windows, shape[1:], strict=True)], strides


@dataclass(frozen=True)
class _Occlusion:
    """Kernel: sum over windows of the score lost times the window.

    `starts` is (windows, axes); `places` holds the coordinates of each axis; `used` is (windows,), `share` (fillings,).
    """

    pick: Pick
    position: int
    window: tuple[int, ...]

    def __call__(
        self,
        net: Net,
        sums: Any,
        leaves: list[Any],
        filling: Any,
        taken: Any,
        places: list[Any],
        starts: Any,
        used: Any,
        share: Any,
        score: Any,
        rows: Any,
        index: Any,
    ) -> tuple[Any, Any]:
        xp = net.xp
        shape = tuple(leaves[self.position].shape)[1:]
        count = tuple(starts.shape)[0]
        inside: Any = None
        for axis, width in enumerate(self.window):
            place = places[axis][None, :]
            first = starts[:, axis][:, None]
            along = xp.logical_and(place >= first, place < first + width)
            wide = [1] * len(shape)
            wide[axis] = shape[axis]
            along = xp.reshape(along, (count, *wide))
            inside = along if inside is None else xp.logical_and(inside, along)
        present = xp.logical_not(inside)[:, None, None, ...]
        after = removed_scores(
            net, self.pick, leaves, {self.position: present}, {self.position: filling}, taken, count, rows, index
        )
        lost = xp.astype(score[None, None, :] - after[..., 0], sums.dtype) * xp.astype(used, sums.dtype)[:, None, None]
        flat = xp.astype(xp.reshape(inside, (count, -1)), sums.dtype)
        mean = xp.tensordot(xp.astype(share, sums.dtype), lost, axes=([0], [1]))
        spread = xp.matmul(xp.matrix_transpose(mean), flat)
        return sums + xp.reshape(spread, tuple(sums.shape)), xp.max(xp.abs(lost))


def _check_sizes(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, dict):
        for item in value.values():
            _check_sizes(name, item)
        return
    for item in value if isinstance(value, (tuple, list)) else (value,):
        if isinstance(item, (tuple, list)) or item is None:
            _check_sizes(name, item)
        elif isinstance(item, bool) or not isinstance(item, (int, np.integer)) or item < 1:
            raise OptionError(
                f"`{name}` must be positive: an int, or a tuple with one int per axis.",
                received=describe(item),
                fix=f"{name}=16 or {name}=(3, 16, 16)",
            )


def _for_leaf(problem: Problem, value: Any, position: int) -> Any:
    """The part of a per-input option that belongs to one leaf."""
    path = problem.bound.structure.names[position]
    if len(path) == 1 and (
        isinstance(value, dict) or (isinstance(value, (tuple, list)) and any(not _is_int(item) for item in value))
    ):
        try:
            return value[path[0]]
        except (KeyError, IndexError) as error:
            raise OptionError(
                f"No size is given for {problem.bound.structure.label(position)}.", received=describe(value)
            ) from error
    return value


def _is_int(value: Any) -> bool:
    return isinstance(value, (int, np.integer))


def _per_axis(name: str, value: Any, shape: tuple[int, ...], axes: tuple[int, ...], label: str) -> list[int] | None:
    if value is None:
        return None
    if _is_int(value):
        return [int(value) if axis in axes or not axes else n for axis, n in enumerate(shape) if axis]
    if not isinstance(value, (tuple, list)) or len(value) != len(shape) - 1:
        raise OptionError(
            f"`{name}` needs one int per axis of `{label}` but the first: {len(shape) - 1}.",
            received=describe(tuple(value) if isinstance(value, list) else value),
            fix=f"{name}=16 for all spatial axes, or {name}={shape[1:]}-like.",
        )
    return [int(item) for item in value]
