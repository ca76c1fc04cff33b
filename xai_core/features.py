"""Features: which elements of the inputs are removed and kept together.

A feature is named by an integer label at each of its elements. The same label in several inputs is one feature; elements
with a negative label are never removed and have values of zero.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from xai_core.baselines import spatial_axes
from xai_core.errors import BackendError, OptionError, describe
from xai_core.problem import Problem
from xai_core.structure import flatten

__all__ = ["Elements", "Features", "Grouping", "Groups", "Patches", "Spans", "Superpixels", "resolve_features"]

AUTOMATIC = 64
"""Features of an image or a signal, at most, where none are given."""


class Grouping(ABC):
    """A rule that makes features of the elements of an input."""

    @abstractmethod
    def labels(self, problem: Problem, position: int) -> np.ndarray[Any, Any]:
        """Labels of input leaf `position`: (1, ...) or (batch, ...), broadcasting to it."""


@dataclass(frozen=True)
class Elements(Grouping):
    """Every element is a feature of its own."""

    def labels(self, problem: Problem, position: int) -> np.ndarray[Any, Any]:
        shape = tuple(problem.leaves[position].shape)[1:]
        return np.arange(math.prod(shape)).reshape((1, *shape))


@dataclass(frozen=True)
class Patches(Grouping):
    """Tiles of an image, a volume, or a signal or text (runs of positions), with all channels together.

    Parameters
    ----------
    size
        Side of a tile: an int, or one per spatial axis. Tiles at the end are smaller where it does not divide.
    """

    size: int | tuple[int, ...] = 16

    def labels(self, problem: Problem, position: int) -> np.ndarray[Any, Any]:
        leaf = problem.leaves[position]
        shape = tuple(leaf.shape)
        axes = spatial_axes(problem, leaf) or tuple(range(1, len(shape)))
        sizes = (self.size,) * len(axes) if isinstance(self.size, int) else tuple(self.size)
        if len(sizes) != len(axes) or any(size < 1 for size in sizes):
            raise OptionError(
                f"`Patches` needs positive sizes, one for each of {len(axes)} axes.",
                received=describe(self.size),
                fix=f"Patches({(8,) * len(axes)}) for an input of shape {shape}.",
            )
        return _tiles(shape, axes, sizes)


@dataclass(frozen=True)
class Spans(Grouping):
    """Runs of tokens, columns or moments: the last axis of a table, or the one spatial axis.

    Parameters
    ----------
    spans
        `(start, stop)` of each feature, stop not included. Positions in none of them are never removed.
    """

    spans: tuple[tuple[int, int], ...]

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        object.__setattr__(self, "spans", tuple((int(start), int(stop)) for start, stop in spans))

    def labels(self, problem: Problem, position: int) -> np.ndarray[Any, Any]:
        leaf = problem.leaves[position]
        shape = tuple(leaf.shape)
        axes = spatial_axes(problem, leaf) or (len(shape) - 1,)
        if len(axes) != 1 or len(shape) < 2:
            raise OptionError(
                "`Spans` needs one axis of positions.", received=describe(leaf), fix="Patches(...) for images."
            )
        size = shape[axes[0]]
        found = np.full(size, -1)
        for number, (start, stop) in enumerate(self.spans):
            if not 0 <= start < stop <= size or np.any(found[start:stop] >= 0):
                raise OptionError(
                    f"Spans must lie in 0 to {size}, hold a position each, and not overlap.",
                    received=f"{(start, stop)} among {self.spans}",
                )
            found[start:stop] = number
        wide = [1] * len(shape)
        wide[axes[0]] = size
        return found.reshape(wide)


@dataclass(frozen=True)
class Groups(Grouping):
    """Named groups of the columns of a table.

    Parameters
    ----------
    groups
        Name of each group and its columns: numbers, or names where the input has them (a DataFrame).
    rest
        What becomes of columns in no group: `"single"`, a feature each; `"keep"`, never removed; `"error"`.
    """

    groups: Mapping[str, Sequence[Any]]
    rest: str = "error"

    def __hash__(self) -> int:
        return hash((tuple(self.groups), self.rest))

    def labels(self, problem: Problem, position: int) -> np.ndarray[Any, Any]:
        leaf = problem.leaves[position]
        if len(tuple(leaf.shape)) != 2 or self.rest not in ("single", "keep", "error"):
            raise OptionError(
                "`Groups` groups the columns of a table; `rest` is 'single', 'keep' or 'error'.",
                received=f"{describe(leaf)}, rest={self.rest!r}",
                fix="give an array of labels of the shape of one sample for other inputs.",
            )
        width = int(leaf.shape[1])
        columns = problem.bound.structure.columns_of(position) or ()
        found = np.full(width, -1)
        for number, (name, members) in enumerate(self.groups.items()):
            for member in members:
                place = columns.index(member) if member in columns else member
                if isinstance(place, bool) or not isinstance(place, (int, np.integer)) or not -width <= place < width:
                    raise OptionError(
                        f"Group {name!r} has a column that the input lacks.",
                        received=repr(member),
                        fix=f"columns are {', '.join(map(repr, columns)) or f'0 to {width - 1}'}.",
                    )
                if found[place] >= 0:
                    raise OptionError("A column is in two groups.", received=f"{member!r}, the second time in {name!r}")
                found[place] = number
        left = np.flatnonzero(found < 0)
        if self.rest == "single":
            found[left] = len(self.groups) + np.arange(len(left))
        elif self.rest == "error" and len(left):
            raise OptionError(
                "Features do not cover the input.",
                received=f"columns {', '.join(str(columns[i] if columns else i) for i in left[:8])} are in no group",
                fix='rest="single" makes each a feature of its own, rest="keep" never removes them.',
            )
        return found[None]


@dataclass(frozen=True)
class Superpixels(Grouping):
    """Segments of each image by SLIC, of scikit-image: the extra `images`.

    Parameters
    ----------
    count
        About how many segments.
    compactness
        Weight of nearness against colour.
    sigma
        Width of the Gaussian that smooths the image first, in pixels.

    Source: Achanta et al. 2012, "SLIC superpixels compared to state-of-the-art superpixel methods".
    """

    count: int = 50
    compactness: float = 10.0
    sigma: float = 1.0

    def labels(self, problem: Problem, position: int) -> np.ndarray[Any, Any]:
        try:
            from skimage.segmentation import slic
        except ImportError as error:
            raise BackendError(
                "Superpixels need scikit-image, which is not installed.",
                fix="pip install 'xai-core[images]', or features=xai.Patches(16).",
            ) from error
        leaf = problem.leaves[position]
        axes = spatial_axes(problem, leaf)
        if len(axes) not in (2, 3):
            raise OptionError("Superpixels are made of images and volumes.", received=describe(leaf))
        channel = problem.bound.channel_axis_of(tuple(leaf.shape))
        host = np.moveaxis(problem.to_host(leaf).astype(np.float64), channel or 1, -1)
        found = []
        for image in host:
            low, high = image.min(), image.max()
            # In the range of colours, for which SLIC weighs distances.
            scaled = (image - low) / (high - low) if high > low else np.zeros_like(image)
            segments = slic(
                scaled,
                n_segments=self.count,
                compactness=self.compactness,
                sigma=self.sigma,
                start_label=0,
                channel_axis=-1,
                convert2lab=image.shape[-1] == 3,
            )
            found.append(np.expand_dims(np.unique(segments, return_inverse=True)[1].reshape(segments.shape), -1))
        return np.moveaxis(np.stack(found), -1, channel or 1)


@dataclass(frozen=True, eq=False)
class Features:
    """Features of a problem.

    Attributes
    ----------
    labels
        For each input that is explained, labels on the host, (1, ...) or (batch, ...), broadcasting to it; -1 is never
        removed.
    count
        Number of features of the sample that has most.
    sizes
        Elements of each feature, (1, count) or (batch, count).
    called
        Makes the names, which many uses never ask for.
    """

    labels: list[np.ndarray[Any, Any]]
    count: int
    sizes: np.ndarray[Any, Any]
    called: Callable[[], tuple[str, ...]]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names, one per feature."""
        return self.called()


def resolve_features(problem: Problem, features: Any) -> Features:
    """What `features=` of a method says about its inputs.

    Parameters
    ----------
    features
        `None`: each element of a table or list of tokens, and tiles of images and signals, 64 at most. A `Grouping`; an
        integer array of labels that broadcasts to a sample or to the batch; a structure of these like the inputs.

    Raises
    ------
    OptionError
        If labels do not broadcast to the inputs, are no integers, leave numbers out, or there is no feature.
    """
    count = len(problem.varied)
    structure = problem.bound.structure
    if problem.origin is None and isinstance(features, (tuple, list, dict)) and not _is_nested_list(features):
        parts, given = flatten(features)
        if given.names != structure.names:
            raise OptionError(
                "`features` must have the structure of the inputs.",
                received=describe(features),
                fix="give one array of labels or one rule for each input.",
            )
    else:
        parts = [features] * count
    labels, start, shared = [], 0, False
    for position in range(count):
        part = parts[position]
        own = part is None or isinstance(part, Grouping)
        found = _automatic(problem, position) if part is None else part
        host = found.labels(problem, position) if isinstance(found, Grouping) else _given(problem, found, position)
        # Rules number from zero for each input; arrays say themselves what belongs together.
        host = np.where(host >= 0, host + (start if own else 0), -1)
        start = max(start, int(host.max(initial=-1)) + 1)
        shared = shared or not own
        labels.append(host)
    return _numbered(problem, labels, parts, shared)


def _is_nested_list(value: Any) -> bool:
    """Whether it is labels written as lists of numbers."""
    return isinstance(value, list) and all(isinstance(item, (int, np.integer)) for item in flatten(value)[0])


def _automatic(problem: Problem, position: int) -> Grouping:
    leaf = problem.leaves[position]
    axes = spatial_axes(problem, leaf)
    if not axes:
        return Elements()
    side = max(1, round(AUTOMATIC ** (1 / len(axes))))
    return Patches(tuple(-(-int(leaf.shape[axis]) // side) for axis in axes))


def _given(problem: Problem, part: Any, position: int) -> np.ndarray[Any, Any]:
    """Labels that a user gave, as (1, ...) or (batch, ...)."""
    leaf, label = problem.leaves[position], problem.bound.structure.label(position)
    shape = tuple(leaf.shape)
    try:
        host = np.asarray(part) if not hasattr(part, "dtype") else problem.to_host(problem.bound.to_native(part))
    except Exception as error:
        raise _no_labels(label, shape, part) from error
    if host.dtype.kind not in "iu":
        raise _no_labels(label, shape, part)
    if host.ndim == len(shape) - 1 and host.ndim:
        host = host[None]
    if host.ndim > len(shape):
        raise _no_labels(label, shape, part)
    sides: tuple[int, ...] = (1,) * (len(shape) - host.ndim) + host.shape
    host = host.reshape(sides)
    if any(side not in (1, size) for side, size in zip(sides, shape, strict=True)):
        raise _no_labels(label, shape, part)
    return host.astype(np.int64)


def _no_labels(label: str, shape: tuple[int, ...], part: Any) -> OptionError:
    return OptionError(
        f"`features` of `{label}` must be integers that broadcast to one sample, of shape {shape[1:]}, or to the batch.",
        received=describe(part),
        fix="equal numbers make one feature; or a rule such as xai.Patches(16).",
    )


def _numbered(problem: Problem, labels: list[np.ndarray[Any, Any]], parts: Sequence[Any], shared: bool) -> Features:
    """Labels as numbers from zero without gaps, with names and sizes."""
    present = _distinct(labels)
    if not len(present):
        received = "only negative labels" if any(host.size for host in labels) else "inputs without elements"
        raise OptionError("There are no features.", received=received, fix="number features from 0.")
    count = len(present)
    gaps = int(present[-1]) >= count
    compact = [np.where(host >= 0, np.searchsorted(present, host), -1) if gaps else host for host in labels]
    rows = max(host.shape[0] for host in compact)
    sizes = np.zeros((rows, count), dtype=np.int64)
    for host, leaf in zip(compact, problem.varied, strict=True):
        # Axes on which labels have one element hold as many elements as the input has there.
        times = math.prod(
            int(size) for size, own in zip(tuple(leaf.shape)[1:], host.shape[1:], strict=True) if own == 1
        )
        for row in range(rows):
            flat = host[min(row, host.shape[0] - 1)].reshape(-1)
            sizes[row] += times * np.bincount(flat[flat >= 0], minlength=count)
    return Features(compact, count, sizes, lambda: _names(problem, parts, present, shared))


def _distinct(labels: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """The labels that occur, in order, without negative ones."""
    most = max((int(host.max(initial=-1)) for host in labels), default=-1)
    if most < sum(host.size for host in labels):
        occurs = np.zeros(most + 1, dtype=bool)
        for host in labels:
            occurs[host[host >= 0]] = True
        return np.flatnonzero(occurs)
    return np.unique(np.concatenate([host[host >= 0] for host in labels]))


def _names(problem: Problem, parts: Sequence[Any], present: np.ndarray[Any, Any], shared: bool) -> tuple[str, ...]:
    """Names of features: those of columns and groups, else numbers."""
    plain = tuple(f"feature {int(number)}" for number in present)
    if shared or problem.origin is not None:
        return plain
    names: list[str] = []
    structure, several = problem.bound.structure, len(problem.varied) > 1
    for position, (part, leaf) in enumerate(zip(parts, problem.varied, strict=False)):
        columns = structure.columns_of(position)
        prefix = f"{structure.label(position)} " if several else ""
        if isinstance(part, Groups):
            rest = [i for i in range(int(leaf.shape[1])) if not _in_groups(part, columns, i)]
            extra = [str(columns[i]) if columns else f"feature {i}" for i in rest] if part.rest == "single" else []
            names += [prefix + name for name in (*part.groups, *extra)]
        elif (part is None or isinstance(part, Elements)) and any(structure.columns) and len(leaf.shape) == 2:
            own = [f"feature {i}" for i in range(int(leaf.shape[1]))] if columns is None else columns
            names += [prefix + str(name) for name in own]
        else:
            return plain
    return tuple(names) if len(names) == len(present) else plain


def _in_groups(part: Groups, columns: tuple[Any, ...] | None, place: int) -> bool:
    name = columns[place] if columns else place
    return any(place in members or name in members for members in part.groups.values())


def _tiles(shape: tuple[int, ...], axes: tuple[int, ...], sizes: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Labels (1, ...) of tiles along some axes, one element wide on the others."""
    found = np.zeros((1,) * len(shape), dtype=np.int64)
    for axis, size in zip(axes, sizes, strict=True):
        wide = [1] * len(shape)
        wide[axis] = shape[axis]
        tile = (np.arange(shape[axis]) // size).reshape(wide)
        found = found * (-(-shape[axis] // size)) + tile
    return found
