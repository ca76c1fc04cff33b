"""What "absent" looks like.

A baseline is a number, an array that broadcasts to a sample or to the batch, a structure of those like the inputs, a
callable `x -> baseline`, or one of the classes here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xai_core.errors import BaselineError, InputError, describe
from xai_core.frames import is_frame
from xai_core.problem import Problem
from xai_core.structure import Structure, flatten

__all__ = ["Baseline", "Blur", "Mean", "Noise", "Sample", "Zero", "resolve_background", "resolve_baseline"]


class Baseline(ABC):
    """A rule that makes a baseline from the inputs."""

    @abstractmethod
    def make(self, problem: Problem, position: int) -> Any:
        """Baseline of input leaf `position`: an array that broadcasts to it."""


@dataclass(frozen=True)
class Zero(Baseline):
    """Zero everywhere."""

    def make(self, problem: Problem, position: int) -> Any:
        return problem.xp.zeros_like(problem.leaves[position])


@dataclass(frozen=True)
class Mean(Baseline):
    """Each sample's own mean: per channel over the other axes of an image, over all features of a table row."""

    def make(self, problem: Problem, position: int) -> Any:
        xp, leaf = problem.xp, problem.leaves[position]
        axes = spatial_axes(problem, leaf) or tuple(range(1, leaf.ndim))
        wide = xp.astype(leaf, problem.accumulator_dtype(leaf))
        return xp.astype(xp.mean(wide, axis=axes, keepdims=True), leaf.dtype)


@dataclass(frozen=True)
class Blur(Baseline):
    """Gaussian blur over the spatial axes.

    Parameters
    ----------
    sigma
        Standard deviation in pixels. The kernel is cut at four standard deviations and borders are reflected.
    """

    sigma: float = 10.0

    def make(self, problem: Problem, position: int) -> Any:
        xp, leaf = problem.xp, problem.leaves[position]
        axes = spatial_axes(problem, leaf)
        if not axes:
            raise BaselineError(
                "Blur needs spatial axes, an input of shape (batch, channels, ...) or (batch, ..., channels).",
                received=describe(leaf),
                fix="baseline=xai.Mean() or a background sample for tables.",
            )
        blurred = xp.astype(leaf, problem.accumulator_dtype(leaf))
        for axis in axes:
            matrix = problem.to_device(blur_matrix(int(leaf.shape[axis]), self.sigma), like=leaf)
            blurred = xp.moveaxis(xp.tensordot(blurred, matrix, axes=([axis], [1])), -1, axis)
        return xp.astype(blurred, leaf.dtype)


@dataclass(frozen=True)
class Noise(Baseline):
    """The input with Gaussian noise added, one draw per sample.

    Parameters
    ----------
    scale
        Standard deviation as a fraction of each sample's range (maximum minus minimum).

    Source: Sturmfels et al. 2020, "Visualizing the impact of feature attribution baselines", Distill.
    """

    scale: float = 1.0

    def make(self, problem: Problem, position: int) -> Any:
        xp, leaf = problem.xp, problem.leaves[position]
        shape = tuple(leaf.shape)
        noise = problem.normal(range(shape[0]), [0], position, part=BASELINE_PART + position)[:, 0]
        wide = xp.astype(leaf, problem.accumulator_dtype(leaf))
        return xp.astype(wide + problem.to_device(noise, like=leaf) * (self.scale * sample_range(xp, wide)), leaf.dtype)


@dataclass(frozen=True, eq=False)
class Sample(Baseline):
    """One row of a data set per sample, drawn at random.

    Parameters
    ----------
    background
        Inputs of the same structure as those explained, any number of rows.
    """

    background: Any

    def make(self, problem: Problem, position: int) -> Any:
        rows = resolve_background(problem, self.background)
        size = int(rows[0].shape[0])
        draws = [int(problem.streams.generator(row, 0, BASELINE_PART).integers(size)) for row in range(problem.batch)]
        return problem.xp.take(rows[position], problem.to_device(np.asarray(draws, dtype=np.int64)), axis=0)


BASELINE_PART = 1_000_000
"""Stream parts of baselines start here, apart from those of the methods that use them."""


def spatial_axes(problem: Problem, leaf: Any) -> tuple[int, ...]:
    """All axes but batch and channels; none for tables."""
    channel = problem.bound.channel_axis_of(tuple(leaf.shape))
    return () if channel is None else tuple(axis for axis in range(1, leaf.ndim) if axis != channel)


def sample_range(xp: Any, leaf: Any) -> Any:
    """Maximum minus minimum of each sample, shaped to broadcast: (batch, 1, ...)."""
    axes = tuple(range(1, leaf.ndim))
    return xp.max(leaf, axis=axes, keepdims=True) - xp.min(leaf, axis=axes, keepdims=True) if axes else xp.abs(leaf)


def blur_matrix(size: int, sigma: float) -> np.ndarray[Any, Any]:
    """Gaussian blur of one axis as a (size, size) matrix; rows sum to one, borders reflect (d c b a | a b c d)."""
    radius = max(1, math.ceil(4.0 * sigma))
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    matrix = np.zeros((size, size))
    period = (np.arange(size)[:, None] + offsets[None, :]) % (2 * size)
    columns = np.where(period < size, period, 2 * size - 1 - period)
    np.add.at(matrix, (np.arange(size)[:, None], columns), np.broadcast_to(kernel / kernel.sum(), columns.shape))
    return matrix


def resolve_baseline(problem: Problem, baseline: Any) -> list[Any]:
    """Baseline of every leaf, in the leaf's dtype and full shape.

    Raises
    ------
    BaselineError
        If it does not broadcast to the inputs, has another structure, or is not finite.
    """
    if problem.origin is not None and problem.bound.layer is not None:
        # Given as for the inputs: what the layer makes of it is the baseline there.
        found = problem.origin.read([problem.bound.layer], resolve_baseline(problem.origin, baseline))
        return [*found, *problem.leaves[1:]]
    structure = problem.bound.structure
    if callable(baseline) and not isinstance(baseline, Baseline):
        baseline = baseline(problem.bound.given(problem.leaves))
    if any(problem.bound.frames):
        parts: Sequence[Any] = _placed(baseline, structure)
    elif isinstance(baseline, (tuple, list, dict)):
        parts, given = flatten(baseline)
        if given.names != structure.names:
            raise _other_structure(baseline)
    else:
        parts = [baseline] * len(problem.leaves)
    return [_broadcast(problem, part, position) for position, part in enumerate(parts)]


def _placed(baseline: Any, structure: Structure) -> list[Any]:
    """The part of a baseline for each input where some are DataFrames, for which a dict may be one row."""
    found = []
    for path in structure.names:
        part = baseline
        for depth, key in enumerate(path):
            if isinstance(part, (tuple, list, dict)):
                beside = {other[depth] for other in structure.names if other[:depth] == path[:depth]}
                keys = set(part) if isinstance(part, dict) else set(range(len(part)))
                if keys != beside:
                    raise _other_structure(baseline)
                part = part[key]
        found.append(part)
    return found


def _other_structure(baseline: Any) -> BaselineError:
    return BaselineError(
        "`baseline` must have the structure of the inputs.",
        received=describe(baseline),
        fix="baseline=0.0 applies to all inputs.",
    )


def _broadcast(problem: Problem, part: Any, position: int) -> Any:
    xp, leaf = problem.xp, problem.leaves[position]
    label, frame = problem.bound.structure.label(position), problem.bound.frame_of(position)
    if frame is not None and not isinstance(part, Sample):
        part = frame.fill(part, "baseline")
    missing = frame is not None and frame.missing
    if isinstance(part, Baseline):
        rule, part = part, part.make(problem, position)
        if missing and not isinstance(rule, Sample) and bool(np.any(np.isnan(problem.to_host(part)))):
            raise BaselineError(
                f"`{type(rule).__name__}` computes a baseline from `{label}`, in which values are missing.",
                fix="background=rows of the training data; or a dict, Series or DataFrame of one row.",
            )
    original, shape = part, tuple(leaf.shape)
    if part is None:
        raise _misfit(label, leaf, part)
    if not problem.bound.backend.owns(part):
        try:
            host = np.asarray(part, dtype=None if hasattr(part, "dtype") else np.float64)
        except (TypeError, ValueError) as error:
            raise _misfit(label, leaf, part) from error
        if host.dtype.kind not in "fiub":
            raise _misfit(label, leaf, part)
        if not np.all(np.isfinite(host) | (missing & np.isnan(host))):
            raise BaselineError("`baseline` must be finite.", received=describe(part), fix="baseline=0.0")
        part = problem.to_device(host, like=leaf)
    given = tuple(part.shape)
    # A per-sample shape is read as such before a per-batch one: (H, W) for inputs (batch, H, W).
    if len(given) == len(shape) - 1 and given:
        part, given = xp.reshape(part, (1, *given)), (1, *given)
    if len(given) > len(shape) or any(g not in (1, s) for g, s in zip(given[::-1], shape[::-1], strict=False)):
        raise _misfit(label, leaf, original)
    return xp.broadcast_to(part if part.dtype == leaf.dtype else xp.astype(part, leaf.dtype), shape)


def _misfit(label: str, leaf: Any, part: Any) -> BaselineError:
    shape = tuple(leaf.shape)
    return BaselineError(
        f"`baseline` does not broadcast to `{label}` of shape {shape}.",
        received=describe(part),
        fix=f"give a number, one sample of shape {shape[1:]}, or one per sample of shape {shape}.",
    )


def resolve_background(problem: Problem, background: Any) -> list[Any]:
    """Leaves of a data set of the same structure and sample shape as the inputs; behind a layer, its value there.

    Raises
    ------
    BaselineError
        If it is missing, empty or of another structure or shape.
    """
    if problem.origin is not None and problem.bound.layer is not None:
        return problem.origin.read([problem.bound.layer], resolve_background(problem.origin, background))
    structure = problem.bound.structure
    if background is None:
        raise BaselineError(
            "This method averages over a data set.",
            received="background=None",
            fix="pass some training inputs: background=x_train[:100].",
        )
    rows, given = flatten(background)
    if given.names != structure.names:
        raise BaselineError(
            "`background` must have the structure of the inputs.",
            received=describe(background),
            fix="pass rows of the training data, in the form in which the model takes them.",
        )
    out = []
    for position, (row, leaf) in enumerate(zip(rows, problem.leaves, strict=True)):
        frame = problem.bound.frame_of(position)
        if frame is not None and (frame.coded or is_frame(row)):
            row = frame.encode(row, "background")
        shape, expected = tuple(getattr(row, "shape", ())), tuple(leaf.shape)
        if len(shape) != len(expected) or shape[1:] != expected[1:] or shape[0] == 0:
            raise BaselineError(
                f"`background` must hold samples like `{structure.label(position)}`: shape (rows, "
                f"{', '.join(map(str, expected[1:]))}).",
                received=describe(row),
                fix="background=x_train[:100]",
            )
        try:
            native = problem.bound.to_native(row)
        except InputError as error:
            raise BaselineError(
                "`background` must be arrays of NumPy or the model's framework.", received=describe(row)
            ) from error
        out.append(native if native.dtype == leaf.dtype else problem.xp.astype(native, leaf.dtype))
    sizes = {int(row.shape[0]) for row in out}
    if len(sizes) != 1:
        raise BaselineError(
            "All parts of `background` must have the same number of rows.", received=describe(background)
        )
    return out
