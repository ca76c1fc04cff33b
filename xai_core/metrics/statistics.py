"""Correlations and areas, row by row on the host, with a defined result where there is nothing to correlate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from xai_core.cores import CORES, on_all_cores

__all__ = ["area", "average_ranks", "largest", "pearson", "spearman", "spearman_with", "total"]

_Host = np.ndarray[Any, Any]
_SLACK = 1e-12
"""Spread, relative to the largest number, below which numbers count as equal: they differ by rounding."""

_FEW = 7
"""Numbers up to which NumPy adds one after the other; of more it makes several partial sums."""
_DIGITS = 2**9
"""Numbers in a row from which on sorting by digits is the faster way."""
_MANY = 2**15
"""Numbers from which on they are sorted on several cores."""


def pearson(a: _Host, b: _Host) -> _Host:
    """Correlation along the last axis; 0 where one side does not vary."""
    sides, vary = [], []
    for side in (a, b):
        off = side - side.mean(axis=-1, keepdims=True)
        size = np.sqrt(np.vecdot(off, off))[..., None]
        varies = size > _SLACK * np.sqrt(side.shape[-1]) * largest(side)
        np.divide(off, size, out=off, where=varies)
        sides.append(off)
        vary.append(varies[..., 0])
    return np.asarray(np.where(vary[0] & vary[1], np.clip(np.vecdot(*sides), -1.0, 1.0), 0.0))


def largest(values: _Host) -> _Host:
    """The largest magnitude along the last axis, which is kept; 0 of none."""
    high = np.max(values, axis=-1, keepdims=True, initial=0.0)
    return np.asarray(np.maximum(high, -np.min(values, axis=-1, keepdims=True, initial=0.0)))


def total(values: _Host, axis: int) -> _Host:
    """Sums along an axis, which is kept."""
    size = values.shape[axis]
    if axis % values.ndim < values.ndim - 1 or not 0 < size <= _FEW:
        return np.asarray(values.sum(axis=axis, keepdims=True))
    # The same sums in the same order; NumPy takes ten times as long for a few numbers side by side.
    found = values[..., 0].copy()
    for place in range(1, size):
        found += values[..., place]
    return found[..., None]


def average_ranks(values: _Host) -> _Host:
    """Ranks along the last axis; equal values share the mean of theirs."""
    return _in_parts(_ranked, _rows(values)).reshape(values.shape)


def spearman(a: _Host, b: _Host) -> _Host:
    """Rank correlation along the last axis; 0 where one side does not vary."""
    return spearman_with(a)(b)


def spearman_with(a: _Host) -> Callable[[_Host], _Host]:
    """Rank correlation with `a` along the last axis, as a function of the other side; 0 where one side does not vary."""
    off = _rows(average_ranks(a)) - (a.shape[-1] + 1) / 2
    size = np.sqrt(np.vecdot(off, off))[:, None]
    np.divide(off, size, out=off, where=size > 0)
    return lambda b: np.clip(_in_parts(_along, off, _rows(b)), -1.0, 1.0).reshape(b.shape[:-1])


def _rows(values: _Host) -> _Host:
    return values.reshape(math.prod(values.shape[:-1]), values.shape[-1])


def _in_parts(function: Callable[..., _Host], *arrays: _Host) -> _Host:
    """A function of arrays (rows, numbers), some of the rows on each core."""
    shares = min(CORES, len(arrays[0])) if arrays[0].size >= _MANY else 1
    parts = list(zip(*(np.array_split(array, shares) for array in arrays), strict=True))
    return np.concatenate(on_all_cores(lambda part: function(*part), parts))


def _ranked(values: _Host) -> _Host:
    """`average_ranks` of rows (rows, numbers)."""
    order, ranks = _in_order(values)
    out = np.empty(values.size)
    out[order] = ranks
    return out.reshape(values.shape)


def _along(units: _Host, values: _Host) -> _Host:
    """Correlations (rows,) of the ranks of values with others, which are centred and of length 1 (rows, numbers)."""
    order, ranks = _in_order(values)
    off = ranks - (values.shape[1] + 1) / 2
    size = np.sqrt(np.vecdot(off, off))
    # Neither side is put back into the order of the elements.
    found = np.vecdot(units.reshape(-1)[order], off)
    return np.asarray(np.divide(found, size, out=np.zeros_like(found), where=size > 0))


def _in_order(values: _Host) -> tuple[_Host, _Host]:
    """Places, in all rows (rows, numbers), of the numbers from the smallest on, and the ranks of these.

    Without equal numbers the ranks are the same for all rows, (numbers,).
    """
    rows, numbers = values.shape
    order = _rising(values)
    rising = values.reshape(-1)[order]
    # Whether a number is equal to the one before it; one more at the end, which is not.
    tied = np.zeros(values.size + 1, dtype=bool)
    np.equal(rising[:, 1:], rising[:, :-1], out=tied[:-1].reshape(rows, numbers)[:, 1:])
    ranks = np.arange(1.0, numbers + 1)
    if not tied.any():
        return order, ranks
    ranks = np.tile(ranks, rows)
    first = np.flatnonzero(tied[1:] > tied[:-1])
    last = np.flatnonzero(tied[1:] < tied[:-1])
    length = last - first + 1
    inside = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    ranks[np.repeat(first, length) + inside] = np.repeat((ranks[first] + ranks[last]) / 2, length)
    return order, ranks.reshape(rows, numbers)


def _rising(values: _Host) -> _Host:
    """Places, in all rows (rows, numbers), of the numbers from the smallest on."""
    rows, numbers = values.shape
    before = numbers * np.arange(rows)[:, None]
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32) if numbers >= _DIGITS else values[:0]
    if not np.array_equal(narrow, values):
        return np.argsort(values, axis=1) + before
    # Values in single precision, as most maps are, have the order of their bits as whole numbers once those of negative ones
    # are turned over. NumPy sorts 16 bits by their digits, in a time that grows with the numbers alone: the lower half
    # first, then the upper one.
    bits = narrow.view(np.int32)
    bits ^= (bits >> 31) | np.int32(-(2**31))
    lower = np.argsort(bits.astype(np.uint16), axis=1, kind="stable")
    lower += before
    upper = (bits.view(np.uint32) >> 16).astype(np.uint16)
    order = np.argsort(upper.reshape(-1)[lower], axis=1, kind="stable")
    order += before
    return lower.reshape(-1)[order]


def area(curve: _Host, at: _Host) -> _Host:
    """Area under curves (..., points) by the trapezoid rule, with the points at (points,) or (..., points)."""
    return np.asarray(np.trapezoid(curve, at, axis=-1))
