"""Correlations and areas, row by row on the host, with a defined result where there is nothing to correlate."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["area", "average_ranks", "pearson", "spearman"]

_Host = np.ndarray[Any, Any]
_SLACK = 1e-12
"""Spread, relative to the largest number, below which numbers count as equal: they differ by rounding."""


def pearson(a: _Host, b: _Host) -> _Host:
    """Correlation along the last axis; 0 where one side does not vary."""
    sides = []
    for side in (a, b):
        off = side - side.mean(axis=-1, keepdims=True)
        size = np.sqrt(np.sum(off**2, axis=-1, keepdims=True))
        least = _SLACK * np.sqrt(side.shape[-1]) * np.max(np.abs(side), axis=-1, keepdims=True, initial=0.0)
        varies = size > least
        sides.append(np.where(varies, off / np.where(varies, size, 1.0), 0.0))
    return np.asarray(np.clip(np.sum(sides[0] * sides[1], axis=-1), -1.0, 1.0))


def average_ranks(values: _Host) -> _Host:
    """Ranks along the last axis; equal values share the mean of theirs."""
    flat = values.reshape(-1, values.shape[-1])
    out = np.empty(flat.shape)
    for row, own in enumerate(flat):
        _, place, count = np.unique(own, return_inverse=True, return_counts=True)
        last = np.cumsum(count)
        out[row] = (last - (count - 1) / 2)[place.reshape(-1)]
    return out.reshape(values.shape)


def spearman(a: _Host, b: _Host) -> _Host:
    """Rank correlation along the last axis; 0 where one side does not vary."""
    return pearson(average_ranks(a), average_ranks(b))


def area(curve: _Host, at: _Host) -> _Host:
    """Area under curves (..., points) by the trapezoid rule, with the points at (points,) or (..., points)."""
    return np.asarray(np.trapezoid(curve, at, axis=-1))
