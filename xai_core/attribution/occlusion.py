"""Score lost when a window of the input is replaced by the baseline."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xai_core.attribution.base import Attribution, Explainer
from xai_core.attribution.gradient import join, trim
from xai_core.attribution.path import zero_sums
from xai_core.baselines import resolve_baseline, spatial_axes
from xai_core.blocks import blocks
from xai_core.errors import OptionError, describe
from xai_core.model import Net
from xai_core.problem import Problem, gather, independent
from xai_core.targets import Pick

__all__ = ["Occlusion"]

_PROBES = 8


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
    """

    differentiates: ClassVar[bool] = False
    aliases: ClassVar[tuple[str, ...]] = ("sliding_patch",)

    window: Any = None
    stride: Any = None
    baseline: Any = 0.0

    def __post_init__(self) -> None:
        for name in ("window", "stride"):
            _check_sizes(name, getattr(self, name))

    def attribute(self, problem: Problem) -> Attribution:
        baseline = resolve_baseline(problem, self.baseline)
        score = problem.scores_or_known()
        values, changed = [], False
        for position in range(len(problem.varied)):
            value, seen = self._one_leaf(problem, baseline, score, position)
            values.append(value)
            changed = changed or seen
        if not changed and self._ignores_input(problem, baseline, score):
            raise independent(problem, type(self).__name__)
        return Attribution(values)

    def _one_leaf(self, problem: Problem, baseline: list[Any], score: Any, position: int) -> tuple[Any, bool]:
        xp, leaf = problem.xp, problem.leaves[position]
        shape = tuple(leaf.shape)[1:]
        windows, strides = self._sizes(problem, position)
        counts = [math.ceil(max(0, size - w) / s) + 1 for size, w, s in zip(shape, windows, strides, strict=True)]
        starts = np.array(list(itertools.product(*(range(0, n * s, s) for n, s in zip(counts, strides, strict=True)))))
        starts = starts.reshape(-1, len(shape)).astype(np.int64)
        kernel = _Occlusion(problem.pick, position, tuple(windows))
        places = [problem.to_device(np.arange(size)) for size in shape]
        parts, some = [], []
        for block, draws in blocks(problem.batch, len(starts), problem.rows, constant=problem.constant_shapes):
            rows = problem.indices(block.indices)
            sums: Any = zero_sums(problem, block.width, 1)[position]
            for draw in draws:
                used = np.zeros(draw.width)
                used[: draw.size] = 1.0
                sums, largest = problem.run(
                    kernel,
                    sums,
                    problem.leaves,
                    baseline[position],
                    places,
                    problem.to_device(starts[draw.indices]),
                    problem.to_device(used, like=score),
                    gather(xp, score, rows),
                    rows,
                    problem.index,
                )
                some.append(largest)
                problem.work.add(block.width * draw.width)
            parts.append(trim([sums], block))
        total = join(problem, parts)[0][:, 0, ...]
        cover = np.ones(())
        for size, window, step, count in zip(shape, windows, strides, counts, strict=True):
            axis = np.zeros(size)
            for start in range(0, count * step, step):
                axis[start : start + window] += 1.0
            cover = cover[..., None] * axis
        covered = problem.to_device(np.maximum(cover, 1.0)[None], like=leaf)
        return total / xp.astype(covered, total.dtype), bool(np.any(problem.to_host(xp.stack(some)) > 0))

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

    def _ignores_input(self, problem: Problem, baseline: list[Any], score: Any) -> bool:
        """Whether neither the baseline nor random inputs change any score, though they differ from the inputs."""
        probes = []
        for position, leaf in enumerate(problem.varied):
            shape = tuple(leaf.shape)
            normal = problem.streams.normal(range(shape[0]), range(_PROBES), shape[1:], part=position)
            probes.append([problem.to_device(normal[:, d], like=leaf) for d in range(_PROBES)])
        xp = problem.xp
        attempts = [baseline]
        for draw in range(_PROBES):
            changed = [xp.astype(probe[draw], leaf.dtype) for probe, leaf in zip(probes, problem.varied, strict=True)]
            attempts.append([*changed, *problem.leaves[len(changed) :]])
        return all(bool(np.all(problem.to_host(problem.scores(leaves) == score))) for leaves in attempts)


@dataclass(frozen=True)
class _Occlusion:
    """Kernel: sum over windows of the score lost times the window.

    `starts` is (windows, axes); `places` holds the coordinates of each axis.
    """

    pick: Pick
    position: int
    window: tuple[int, ...]

    def __call__(
        self,
        net: Net,
        sums: Any,
        leaves: list[Any],
        baseline: Any,
        places: list[Any],
        starts: Any,
        used: Any,
        score: Any,
        rows: Any,
        index: Any,
    ) -> tuple[Any, Any]:
        xp = net.xp
        chosen = [gather(xp, leaf, rows) for leaf in leaves]
        own = chosen[self.position]
        shape = tuple(own.shape)
        draws = tuple(starts.shape)[0]
        mask: Any = None
        for axis, width in enumerate(self.window):
            place = places[axis][None, :]
            first = starts[:, axis][:, None]
            inside = xp.logical_and(place >= first, place < first + width)
            others = [1] * (len(shape) - 1)
            others[axis] = shape[axis + 1]
            inside = xp.reshape(inside, (draws, *others))
            mask = inside if mask is None else xp.logical_and(mask, inside)
        absent = gather(xp, baseline, rows)
        changed = xp.where(mask[None, ...], absent[:, None, ...], own[:, None, ...])
        repeated = [xp.repeat(leaf, draws, axis=0) if i != self.position else None for i, leaf in enumerate(chosen)]
        repeated[self.position] = xp.reshape(changed, (shape[0] * draws, *shape[1:]))
        wanted = gather(xp, index, rows)
        after = self.pick(xp, net(repeated), None if wanted is None else xp.repeat(wanted, draws, axis=0))
        lost = xp.astype(score[:, None] - xp.reshape(after, (shape[0], draws)), sums.dtype)
        lost = lost * xp.astype(used, sums.dtype)[None, :]
        flat = xp.astype(xp.reshape(mask, (draws, -1)), sums.dtype)
        return sums + xp.reshape(xp.matmul(lost, flat), tuple(sums.shape)), xp.max(xp.abs(lost))


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
