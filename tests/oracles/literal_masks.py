"""Methods that mask inputs at random, one mask and one element at a time, in float64, from masks that are given."""

from __future__ import annotations

import itertools
import math

import numpy as np


def enlarged(cells: np.ndarray, shift: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """A grid of cells enlarged linearly to one cell more than covers a shape, and cut out at a shift: RISE, section 3.2."""
    out = np.zeros(shape)
    for place in itertools.product(*map(range, shape)):
        corners = []
        for at, off, side, length in zip(place, shift, cells.shape, shape, strict=True):
            size = (side + 1) * math.ceil(length / side)
            position = min(max((at + off + 0.5) * side / size - 0.5, 0.0), side - 1.0)
            low = min(int(position), side - 1)
            high = min(low + 1, side - 1)
            corners.append(((low, 1 - (position - low)), (high, position - low)))
        for chosen in itertools.product(*corners):
            weight = math.prod(part for _, part in chosen)
            out[place] += weight * cells[tuple(node for node, _ in chosen)]
    return out


def rise_masks(
    uniform: np.ndarray, sides: tuple[int, ...], shape: tuple[int, ...], probability: float
) -> list[np.ndarray]:
    """Masks of (draws, numbers): the cells, then where each axis starts."""
    masks = []
    for numbers in uniform:
        cells = (numbers[: -len(sides)] < probability).astype(float).reshape(sides)
        shift = [
            math.floor(u * math.ceil(n / s))
            for u, s, n in zip(numbers[-len(sides) :].tolist(), sides, shape, strict=True)
        ]
        masks.append(enlarged(cells, tuple(shift), shape))
    return masks


def rise(net, sample: np.ndarray, target: int, masks: list[np.ndarray], probability: float, baseline: float):
    """Equation 6 of Petsiuk et al. 2018, and the standard error of each element; masks broadcast to the sample."""
    each = []
    for mask in masks:
        wide = np.broadcast_to(mask, sample.shape)
        score = float(np.asarray(net((sample * wide + baseline * (1 - wide))[None]))[0, target])
        each.append(score * wide / probability)
    every = np.stack(each)
    return every.mean(axis=0), every.std(axis=0, ddof=1) / math.sqrt(len(masks))


def ridge(z: np.ndarray, scores: np.ndarray, weights: np.ndarray, penalty: float) -> tuple[np.ndarray, float, float]:
    """Coefficients, intercept and weighted R^2 by the normal equations, the intercept not penalised."""
    wide = np.concatenate([z, np.ones((len(z), 1))], axis=1)
    left = wide.T @ (wide * weights[:, None]) + penalty * np.diag([1.0] * z.shape[1] + [0.0])
    found = np.linalg.solve(left, wide.T @ (weights * scores))
    rest = scores - wide @ found
    middle = np.average(scores, weights=weights)
    r2 = 1 - np.sum(weights * rest**2) / np.sum(weights * (scores - middle) ** 2)
    return found[:-1], float(found[-1]), float(r2)


def lasso(z: np.ndarray, scores: np.ndarray, weights: np.ndarray, penalty: float) -> np.ndarray:
    """Coefficients by coordinate descent, of `sum w r^2 + penalty sum |a|`."""
    centred = z - np.average(z, axis=0, weights=weights)
    target = scores - np.average(scores, weights=weights)
    found = np.zeros(z.shape[1])
    for _ in range(3000):
        for i in range(len(found)):
            rest = target - centred @ found + centred[:, i] * found[i]
            along, size = np.sum(weights * centred[:, i] * rest), np.sum(weights * centred[:, i] ** 2)
            found[i] = math.copysign(max(abs(along) - penalty / 2, 0.0), along) / size
    return found


def total_sobol(first: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Jansen's estimator from scores f(A) (draws,) and f(C) (draws, features)."""
    variance = np.var(first, ddof=1)
    return np.array([np.mean((first - column) ** 2) / 2 / variance for column in changed.T])


def hsic(bits: np.ndarray, scores: np.ndarray, width: float) -> float:
    """The unbiased estimate of Song et al. 2012, equation 5, of one bit (draws,) and scores."""
    n = len(bits)
    k = (bits[:, None] == bits[None, :]).astype(float)
    l = np.exp(-((scores[:, None] - scores[None, :]) ** 2) / (2 * width**2))  # noqa: E741
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    ends = k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * (k @ l).sum() / (n - 2)
    return float((np.trace(k @ l) + ends) / (n * (n - 3)))


def evidence(p: float, without: float, instances: int, classes: int) -> float:
    """Weight of evidence in bits, with the correction for few instances."""

    def odds(q):
        smooth = (q * instances + 1) / (instances + classes)
        return math.log2(smooth / (1 - smooth))

    return odds(p) - odds(without)


def prediction_difference(net, sample: np.ndarray, target: int, data: np.ndarray, classes: int) -> np.ndarray:
    """Evidence of each column, its values those of all rows of the data."""
    out = np.zeros(len(sample))
    whole = float(net(sample[None])[0, target])
    for i in range(len(sample)):
        rows = np.repeat(sample[None], len(data), axis=0)
        rows[:, i] = data[:, i]
        out[i] = evidence(whole, float(net(rows)[:, target].mean()), len(data), classes)
    return out
