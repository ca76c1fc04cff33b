"""Metrics of faithfulness, one sample, one subset and one pixel at a time, in float64, from orders and draws that are given.

A sample's features are an integer array `labels` of its shape; `score` maps one sample to a number.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable

import numpy as np
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve

Score = Callable[[np.ndarray], float]


def without(x: np.ndarray, labels: np.ndarray, gone: Iterable[int], filling: np.ndarray) -> np.ndarray:
    """A sample with some features replaced."""
    found = np.array(x, dtype=float)
    for feature in gone:
        found[labels == feature] = np.broadcast_to(filling, x.shape)[labels == feature]
    return found


def feature_values(values: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Sum of the values at each feature."""
    return np.array([float(np.sum(values[labels == feature])) for feature in range(count)])


def trapezoid(curve: np.ndarray, at: np.ndarray) -> float:
    total = 0.0
    for k in range(1, len(curve)):
        total += (at[k] - at[k - 1]) * (curve[k] + curve[k - 1]) / 2
    return total


def counts(features: int, steps: int | None) -> list[int]:
    """Points of a curve from none to all features."""
    steps = features if steps is None else min(steps, features)
    return [round(k * features / steps) for k in range(steps + 1)]


def deletion(
    score: Score, x: np.ndarray, labels: np.ndarray, order: list[int], filling, numbers: list[int]
) -> np.ndarray:
    """Petsiuk et al. 2018, section 4.1: the first features of the order are replaced."""
    return np.array([score(without(x, labels, order[:number], filling)) for number in numbers])


def insertion(
    score: Score, x: np.ndarray, labels: np.ndarray, order: list[int], filling, numbers: list[int]
) -> np.ndarray:
    """Petsiuk et al. 2018, section 4.1: all but the first features are replaced."""
    return np.array([score(without(x, labels, order[number:], filling)) for number in numbers])


def area_over_perturbation(curve: np.ndarray) -> float:
    """Samek et al. 2015, equation 12, without the mean over samples."""
    total = 0.0
    for k in range(len(curve)):
        total += curve[0] - curve[k]
    return total / len(curve)


def irof(curve: np.ndarray, at: np.ndarray) -> float:
    """Rieger and Hansen 2020: area over the curve of shares of the score."""
    return 1.0 - trapezoid(curve / curve[0], at)


def monotonic(curve: np.ndarray) -> tuple[bool, float]:
    """Arya et al. 2019: whether each feature that is added raises the score, and how often."""
    holds = [curve[k] >= curve[k - 1] - 1e-12 for k in range(1, len(curve))]
    return all(holds), sum(holds) / len(holds)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; 0 where one side does not vary."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    da, db = a - a.sum() / len(a), b - b.sum() / len(b)
    size = math.sqrt(float(np.sum(da**2)) * float(np.sum(db**2)))
    return float(np.sum(da * db)) / size if size > 1e-13 * max(1.0, np.abs(a).max() * np.abs(b).max()) else 0.0


def ranks(values: np.ndarray) -> np.ndarray:
    """From 1; equal values share the mean of theirs."""
    return np.array([np.sum(values < own) + (np.sum(values == own) + 1) / 2 for own in values])


def subset_correlation(
    score: Score, x: np.ndarray, labels: np.ndarray, values: np.ndarray, filling, subsets: list[list[int]]
) -> float:
    """Ancona et al. 2018 and Bhatt et al. 2020: sums over subsets against what the score loses without them."""
    said = [sum(values[feature] for feature in subset) for subset in subsets]
    lost = [score(x) - score(without(x, labels, subset, filling)) for subset in subsets]
    return correlation(np.array(said), np.array(lost))


def estimate(score: Score, x: np.ndarray, labels: np.ndarray, values: np.ndarray, filling) -> float:
    """Alvarez-Melis and Jaakkola 2018, section 4.2: one feature at a time."""
    return subset_correlation(score, x, labels, values, filling, [[feature] for feature in range(len(values))])


def monotonicity_correlation(score: Score, x: np.ndarray, labels: np.ndarray, values: np.ndarray, fillings) -> float:
    """Nguyen and Martinez 2020, section 3.3; `fillings` are drawn samples."""
    uncertain = []
    for feature in range(len(values)):
        squares = [(score(x) - score(without(x, labels, [feature], filling))) ** 2 for filling in fillings]
        uncertain.append(sum(squares) / len(squares))
    return correlation(ranks(np.abs(values)), ranks(np.array(uncertain)))


def infidelity(said: np.ndarray, lost: np.ndarray, scaled: bool = False) -> float:
    """Yeh et al. 2019, definition 2.1; `said` is `I . values`, with `scaled` times the number of section 3."""
    factor = 1.0
    if scaled and np.sum(said**2) > 0:
        factor = float(np.sum(said * lost) / np.sum(said**2))
    return sum((factor * a - b) ** 2 for a, b in zip(said, lost, strict=True)) / len(said)


def infidelity_of_removal(score, x, labels, values, slopes, filling, subsets, scaled=False) -> float:
    """`I = x - filling` in subsets; values of elements."""
    said, lost = [], []
    for subset in subsets:
        changed = without(x, labels, subset, filling)
        away = x - changed
        inside = np.isin(labels, subset)
        said.append(float(np.sum(away * values if slopes else values * inside)))
        lost.append(score(x) - score(changed))
    return infidelity(np.array(said), np.array(lost), scaled)


def infidelity_of_noise(score, x, values, slopes, filling, moves, scaled=False) -> float:
    """`I = -move` for each move that is added; shares of the score are divided by how far the input is from the filling."""
    away = x - np.broadcast_to(filling, x.shape)
    unit = values if slopes else np.divide(values, away, out=np.zeros(x.shape), where=away != 0)
    said = [float(np.sum(-move * unit)) for move in moves]
    lost = [score(x) - score(x + move) for move in moves]
    return infidelity(np.array(said), np.array(lost), scaled)


def weighted(x: np.ndarray, labels: np.ndarray, values: np.ndarray, filling) -> np.ndarray:
    """A sample weighted by its map, from 0 at the smallest to 1 at the largest value of a feature."""
    found = np.array(x, dtype=float)
    low, high = values.min(), values.max()
    for feature, value in enumerate(values):
        share = (value - low) / (high - low) if high > low else 0.0
        inside = labels == feature
        found[inside] = share * x[inside] + (1 - share) * np.broadcast_to(filling, x.shape)[inside]
    return found


def average_drop(whole: float, left: float) -> float:
    """Chattopadhyay et al. 2018, section 4.1, of one sample."""
    return max(0.0, whole - left) / whole


def average_increase(whole: float, left: float) -> float:
    return float(left > whole)


def average_gain(whole: float, left: float) -> float:
    """Zhang et al. 2024, section 4, of one sample."""
    return max(0.0, left - whole) / (1 - whole)


def prediction_gap(score: Score, x: np.ndarray, moved: np.ndarray, moves) -> float:
    """Dai et al. 2022: the mean distance of the score when elements that are `moved` get noise."""
    gaps = [abs(score(x) - score(x + move * moved)) for move in moves]
    return sum(gaps) / len(gaps)


def sufficiency(values: np.ndarray, classes: np.ndarray, threshold: float) -> np.ndarray:
    """Dasgupta et al. 2022: of the other samples with similar values, the share with the same class; 1 without any."""
    found = []
    for i in range(len(values)):
        same = []
        for j in range(len(values)):
            size = np.linalg.norm(values[i]) * np.linalg.norm(values[j])
            distance = 1 - float(values[i] @ values[j]) / size if size > 0 else 1.0
            if j != i and distance <= threshold:
                same.append(classes[i] == classes[j])
        found.append(sum(same) / len(same) if same else 1.0)
    return np.array(found)


def imputed(image: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """Rong et al. 2022: pixels (height, width, channels) in holes by their neighbours, from the sparse system."""
    height, width = holes.shape
    number = {place: i for i, place in enumerate(zip(*np.nonzero(holes), strict=True))}
    left, right = lil_matrix((len(number), len(number))), np.zeros((len(number), image.shape[2]))
    for (row, column), i in number.items():
        for down in (-1, 0, 1):
            for along in (-1, 0, 1):
                place = row + down, column + along
                inside = 0 <= place[0] < height and 0 <= place[1] < width
                if (down, along) == (0, 0) or not inside:
                    continue
                weight = 1 / 12 if down and along else 1 / 6
                left[i, i] += weight
                if holes[place]:
                    left[i, number[place]] -= weight
                else:
                    right[i] += weight * image[place]
    found = np.array(image, dtype=float)
    if number:
        solved = spsolve(left.tocsc(), right).reshape(len(number), image.shape[2])
        for place, i in number.items():
            found[place] = solved[i]
    return found


def information(image: np.ndarray, low: float, high: float) -> int:
    """Bytes of an image (height, width, channels) in lossless WebP, from 0 at `low` to 255 at `high`."""
    from PIL import Image

    pixels = np.round(255 * np.clip((image - low) / (high - low), 0, 1)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(
        file, format="webp", lossless=True, quality=100
    )
    return len(file.getvalue())


def information_curve(scores: list[float], sizes: list[int], points: int = 101) -> tuple[float, np.ndarray]:
    """Kapishnikov et al. 2019, section 4.2: both from 0 at the blurred to 1 at the sharp image, the score never falling."""
    if scores[-1] <= scores[0] or sizes[-1] <= sizes[0]:
        return math.nan, np.full(points, np.nan)
    performance, best = [], 0.0
    for score in scores:
        best = max(best, min(max((score - scores[0]) / (scores[-1] - scores[0]), 0.0), 1.0))
        performance.append(best)
    share = [min(max((size - sizes[0]) / (sizes[-1] - sizes[0]), 0.0), 1.0) for size in sizes]
    knots = [*sorted(zip(share, performance, strict=True)), (1.0, 1.0)]
    high, best = [], 0.0
    for _, value in knots:
        best = max(best, value)
        high.append(best)
    at = np.linspace(0, 1, points)
    curve = []
    for place in at:
        # The last knot at or before the place, and the first one behind it.
        before = max(i for i, (where, _) in enumerate(knots) if where <= place)
        if before == len(knots) - 1:
            curve.append(high[before])
            continue
        low, up = knots[before][0], knots[before + 1][0]
        curve.append(high[before] + (high[before + 1] - high[before]) * (place - low) / (up - low))
    curve[0] = 0.0
    return trapezoid(np.array(curve), at), np.array(curve)
