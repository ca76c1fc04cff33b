"""Every method restated slowly and literally from its paper, in float64 NumPy, for scores that take complex inputs.

`net(x)` maps (batch, ...) to (batch, classes); `target` is one class per row. Random numbers are the documented streams
of `xai_core.streams`, handed in.
"""

from __future__ import annotations

import itertools

import numpy as np

from xai_core.testing import complex_step


def score(net, x, target):
    return np.asarray(net(x)).real[np.arange(len(x)), np.broadcast_to(target, (len(x),))]


def gradient(net, x, target):
    return complex_step(net, x, target)


def nodes(rule, steps):
    """Nodes and weights on [0, 1] from the textbook definitions."""
    if rule == "gauss_legendre":
        places, factors = np.polynomial.legendre.leggauss(steps)
        return (places + 1) / 2, factors / 2
    if rule == "trapezoid":
        factors = np.full(steps, 1.0 / (steps - 1))
        factors[0] = factors[-1] = 0.5 / (steps - 1)
        return np.array([k / (steps - 1) for k in range(steps)]), factors
    offset = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[rule]
    return np.array([(k + offset) / steps for k in range(steps)]), np.full(steps, 1.0 / steps)


def integrated_gradients(net, x, target, baseline, rule, steps):
    """Sundararajan et al. 2017, equation 1, with the integral as a sum."""
    total = np.zeros_like(x, dtype=np.float64)
    for place, factor in zip(*nodes(rule, steps), strict=True):
        total += factor * gradient(net, baseline + place * (x - baseline), target)
    return (x - baseline) * total


def expected_gradients(net, x, target, background, chosen, places):
    """Erion et al. 2019, equation 2; draw `d` of sample `i` uses background row `chosen[i, d]` and path `places[i, d]`."""
    total = np.zeros_like(x, dtype=np.float64)
    for row in range(len(x)):
        for pick, place in zip(chosen[row], places[row], strict=True):
            start = background[pick]
            point = (start + place * (x[row] - start))[None]
            total[row] += ((x[row] - start)[None] * gradient(net, point, target[row : row + 1]))[0]
    return total / chosen.shape[1]


def noisy(x, normal, noise):
    """Smilkov et al. 2017: noise is a fraction of each input's range. Yields one noisy batch per draw."""
    axes = tuple(range(1, x.ndim))
    spread = noise * (x.max(axis=axes, keepdims=True) - x.min(axis=axes, keepdims=True))
    for draw in range(normal.shape[1]):
        yield x + spread * normal[:, draw]


def smooth_grad(explain, x, normal, noise):
    return np.mean([explain(copy) for copy in noisy(x, normal, noise)], axis=0)


def square_grad(explain, x, normal, noise):
    return np.mean([explain(copy) ** 2 for copy in noisy(x, normal, noise)], axis=0)


def var_grad(explain, x, normal, noise):
    return np.var([explain(copy) for copy in noisy(x, normal, noise)], axis=0)


def occlusion(net, x, target, window, stride, baseline):
    """Zeiler and Fergus 2014; windows that reach over the border are cut off, overlaps are averaged."""
    total, count = np.zeros_like(x, dtype=np.float64), np.zeros_like(x, dtype=np.float64)
    whole = score(net, x, target)
    starts = []
    for size, width, step in zip(x.shape[1:], window, stride, strict=True):
        axis = [0]
        while axis[-1] + width < size:
            axis.append(axis[-1] + step)
        starts.append(axis)
    for corner in itertools.product(*starts):
        place = (slice(None), *(slice(c, c + w) for c, w in zip(corner, window, strict=True)))
        hidden = x.astype(np.float64).copy()
        hidden[place] = np.broadcast_to(baseline, x.shape)[place]
        lost = whole - score(net, hidden, target)
        total[place] += lost.reshape((-1,) + (1,) * (x.ndim - 1))
        count[place] += 1
    return total / count


def feature_ablation(net, x, target, labels, baseline):
    """Score lost when the elements of one feature are replaced; elements with a negative label are in none."""
    out, whole = np.zeros(x.shape), score(net, x, target)
    for label in range(int(labels.max()) + 1):
        inside = np.broadcast_to(labels == label, x.shape)
        lost = whole - score(net, np.where(inside, baseline, x.astype(np.float64)), target)
        out[inside] = np.broadcast_to(lost.reshape((-1,) + (1,) * (x.ndim - 1)), x.shape)[inside]
    return out


def guided_integrated_gradients(net, x, target, baseline, steps, fraction, distance):
    """Algorithm 1 of Kapishnikov et al. 2021, one sample at a time, with its loops."""
    out = []
    for row, label in zip(np.asarray(x, dtype=np.float64), target, strict=True):
        start = np.full_like(row, baseline)
        point, values = start.copy(), np.zeros_like(row)
        total = np.abs(row - start).sum()
        for step in range(steps):
            slope = complex_step(net, point[None], np.array([label]))[0]
            waiting = slope.copy()
            alpha = (step + 1) / steps
            low, high = max(alpha - distance, 0.0), min(alpha + distance, 1.0)
            nearest, farthest = start + low * (row - start), start + high * (row - start)
            goal, share = total * (1 - alpha), np.inf
            while share > 1.0:
                before = point.copy()
                place = np.where(row == start, high, (point - start) / np.where(row == start, 1.0, row - start))
                point[place < low] = nearest[place < low]
                current = np.abs(point - row).sum()
                if np.isclose(goal, current, rtol=1e-9, atol=1e-12):
                    values += (point - before) * slope
                    break
                waiting[np.isclose(point, farthest, rtol=0, atol=1e-12)] = np.inf
                threshold = np.quantile(np.abs(waiting), fraction, method="lower")
                chosen = (np.abs(waiting) <= threshold) & (waiting != np.inf)
                if not chosen.any():
                    values += (point - before) * slope
                    break
                reach = np.abs(point - farthest)[chosen].sum()
                share = (current - goal) / reach if reach > 0 else np.inf
                move = 1.0 if share > 1.0 else share
                point[chosen] = point[chosen] + move * (farthest - point)[chosen]
                values += (point - before) * slope
        out.append(values)
    return np.stack(out)


def smooth_taylor(net, x, target, normal, noise):
    """Equation 8 of Goh et al. 2020, `normal` (samples, draws, ...)."""
    total = np.zeros_like(x)
    spread = noise * (x.max(1, keepdims=True) - x.min(1, keepdims=True))
    for draw in range(normal.shape[1]):
        near = x + spread * normal[:, draw]
        total = total + (x - near) * complex_step(net, near, target)
    return total / normal.shape[1]
