"""Correlations and areas, row by row on the host, with a defined result where there is nothing to correlate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from xai_core.cores import CORES, on_all_cores

__all__ = ["area", "average_ranks", "largest", "pearson", "spearman"]

_Host = np.ndarray[Any, Any]
_SLACK = 1e-12
"""Spread, relative to the largest number, below which numbers count as equal: they differ by rounding."""

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


def average_ranks(values: _Host) -> _Host:
    """Ranks along the last axis; equal values share the mean of theirs."""
    flat = values.reshape(math.prod(values.shape[:-1]), values.shape[-1])
    shares = min(CORES, len(flat)) if flat.size >= _MANY else 1
    return np.concatenate(on_all_cores(_ranked, np.array_split(flat, shares))).reshape(values.shape)


def _ranked(flat: _Host) -> _Host:
    """`average_ranks` of rows (rows, numbers)."""
    rows, numbers = flat.shape
    order = (np.argsort(flat, axis=1) + numbers * np.arange(rows)[:, None]).reshape(-1)
    rising = flat.reshape(-1)[order].reshape(rows, numbers)
    # Whether a number is equal to the one before it; one more at the end, which is not.
    tied = np.zeros(flat.size + 1, dtype=bool)
    np.equal(rising[:, 1:], rising[:, :-1], out=tied[:-1].reshape(rows, numbers)[:, 1:])
    ranks = np.tile(np.arange(1.0, numbers + 1), rows)
    if tied.any():
        first = np.flatnonzero(tied[1:] > tied[:-1])
        last = np.flatnonzero(tied[1:] < tied[:-1])
        length = last - first + 1
        inside = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        ranks[np.repeat(first, length) + inside] = np.repeat((ranks[first] + ranks[last]) / 2, length)
    out = np.empty(flat.size)
    out[order] = ranks
    return out.reshape(rows, numbers)


def spearman(a: _Host, b: _Host) -> _Host:
    """Rank correlation along the last axis; 0 where one side does not vary."""
    return pearson(average_ranks(a), average_ranks(b))


def area(curve: _Host, at: _Host) -> _Host:
    """Area under curves (..., points) by the trapezoid rule, with the points at (points,) or (..., points)."""
    return np.asarray(np.trapezoid(curve, at, axis=-1))
