"""Metrics of robustness, one sample and one changed input at a time, in float64, from changes that are given."""

from __future__ import annotations

import itertools
import math

import numpy as np

FLOOR, EPSILON = 1e-2, 1e-6


def norm(values: np.ndarray) -> float:
    """The Euclidean norm."""
    return math.sqrt(sum(float(value) ** 2 for value in np.ravel(values)))


def changes(explain, sample: np.ndarray, moves: list[np.ndarray], relative: bool) -> list[float]:
    """Norms of the changes of an explanation, relative to its own."""
    base = explain(sample)
    size = norm(base) if relative and norm(base) > 0 else 1.0
    return [norm(explain(sample + move) - base) / size for move in moves]


def lipschitz(explain, sample: np.ndarray, moves: list[np.ndarray]) -> float:
    """Largest change per change of the input."""
    base = explain(sample)
    return max(norm(explain(sample + move) - base) / norm(move) for move in moves)


def relative(change: np.ndarray, of: np.ndarray) -> float:
    """Norm of element by element relative changes, none divided by less than a hundredth of the largest size."""
    largest = max(abs(float(value)) for value in np.ravel(of))
    out = []
    for delta, value in zip(np.ravel(change), np.ravel(of), strict=True):
        out.append(delta if largest == 0 else delta / max(abs(value), FLOOR * largest))
    return norm(np.array(out))


def stability(explain, sample: np.ndarray, moves: list[np.ndarray], outputs, value, divided: bool) -> tuple[float, int]:
    """Largest relative change of the explanation per change of `value`, and how many inputs keep the class."""
    base, ratios = explain(sample), []
    for move in moves:
        near = sample + move
        if np.argmax(outputs(near)) != np.argmax(outputs(sample)):
            continue
        off = value(near) - value(sample)
        below = relative(off, value(sample)) if divided else norm(off)
        ratios.append(relative(explain(near) - base, base) / max(below, EPSILON))
    return (max(ratios) if ratios else math.nan), len(ratios)


def translated(sample: np.ndarray, axis: int, by: int, fill: float) -> np.ndarray:
    """A sample moved along an axis, position by position."""
    out = np.full_like(sample, fill)
    for place in np.ndindex(*sample.shape):
        source = list(place)
        source[axis] -= by
        if 0 <= source[axis] < sample.shape[axis]:
            out[place] = sample[tuple(source)]
    return out


def continuity(explain, sample: np.ndarray, axes: tuple[int, ...], shifts: int, fill: float) -> list[float]:
    """Change of the explanation per change of the input for each translation."""
    base, out = explain(sample), []
    for axis in axes:
        for by in range(1, shifts + 1):
            for way in (1, -1):
                moved = translated(sample, axis, way * by, fill)
                apart = norm(moved - sample)
                out.append(float(np.abs(explain(moved) - base).sum()) / apart if apart > 0 else 0.0)
    return out


def top(values: np.ndarray, count: int, signed: bool) -> tuple:
    """Elements with the largest magnitude, with their signs."""
    order = sorted(range(len(values)), key=lambda place: (-abs(values[place]), place))[:count]
    return tuple(sorted((place, np.sign(values[place]) if signed else 1.0) for place in order if values[place] != 0))


def consistency(labels: list, classes: list[int]) -> list[float]:
    """Share of the others with the same label that have the same class."""
    out = []
    for i, label in enumerate(labels):
        others = [classes[j] == classes[i] for j in range(len(labels)) if j != i and labels[j] == label]
        out.append(sum(others) / len(others) if others else 1.0)
    return out


def spread(maps: list[np.ndarray]) -> float:
    """Mean standard deviation over choices, relative to the mean size."""
    count = maps[0].size
    deviations, sizes = 0.0, 0.0
    for place in range(count):
        numbers = [float(np.ravel(each)[place]) for each in maps]
        mean = sum(numbers) / len(numbers)
        deviations += math.sqrt(sum((number - mean) ** 2 for number in numbers) / len(numbers))
        sizes += sum(abs(number) for number in numbers) / len(numbers)
    return deviations / sizes if sizes > 0 else 0.0


def pairs(count: int) -> list[tuple[int, int]]:
    """Pairs of choices in order."""
    return list(itertools.combinations(range(count), 2))
