"""Slow, literal restatements of the CAM papers, a sample and a channel at a time; `A`, `G` are (height, width, channels)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

_Host = np.ndarray[Any, Any]


def gradient(behind: Callable[[_Host], _Host], a: _Host, target: int) -> _Host:
    """d score / d A by complex steps."""
    g = np.zeros(a.shape)
    for place in np.ndindex(*a.shape):
        moved = a.astype(complex)
        moved[place] += 1e-30j
        g[place] = behind(moved[None])[0, target].imag / 1e-30
    return g


def enlarge(image: _Host, sizes: tuple[int, int]) -> _Host:
    """Bilinear, pixel centres at halves, borders repeated."""
    out = np.zeros(sizes)
    for i in range(sizes[0]):
        for j in range(sizes[1]):
            y = min(max((i + 0.5) * image.shape[0] / sizes[0] - 0.5, 0), image.shape[0] - 1)
            x = min(max((j + 0.5) * image.shape[1] / sizes[1] - 0.5, 0), image.shape[1] - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, image.shape[0] - 1), min(x0 + 1, image.shape[1] - 1)
            upper = image[y0, x0] * (1 - (x - x0)) + image[y0, x1] * (x - x0)
            lower = image[y1, x0] * (1 - (x - x0)) + image[y1, x1] * (x - x0)
            out[i, j] = upper * (1 - (y - y0)) + lower * (y - y0)
    return out


def _sum(weights: list[float], a: _Host) -> _Host:
    total = np.zeros(a.shape[:2])
    for k, weight in enumerate(weights):
        total = total + weight * a[:, :, k]
    return total


def _each(a: _Host) -> range:
    return range(a.shape[2])


def grad_cam(a: _Host, g: _Host) -> _Host:
    return _sum([g[:, :, k].mean() for k in _each(a)], a)


def grad_cam_plus_plus(a: _Host, g: _Host) -> _Host:
    return _plus_plus(a, g, g**2, g**3)


def _plus_plus(a: _Host, first: _Host, second: _Host, third: _Host) -> _Host:
    weights = []
    for k in _each(a):
        weight = 0.0
        for i in range(a.shape[0]):
            for j in range(a.shape[1]):
                below = 2 * second[i, j, k] + a[:, :, k].sum() * third[i, j, k]
                alpha = second[i, j, k] / below if below else 0.0
                weight += alpha * max(first[i, j, k], 0.0)
        weights.append(weight)
    return _sum(weights, a)


def x_grad_cam(a: _Host, g: _Host) -> _Host:
    return _sum([(a[:, :, k] * g[:, :, k]).sum() / a[:, :, k].sum() for k in _each(a)], a)


def hi_res_cam(a: _Host, g: _Host) -> _Host:
    return (a * g).sum(2)


def layer_cam(a: _Host, g: _Host) -> _Host:
    return (np.maximum(g, 0) * a).sum(2)


def norm_grad(a: _Host, g: _Host) -> _Host:
    return np.linalg.norm(a, axis=2) * np.linalg.norm(g, axis=2)


def eigen_cam(a: _Host, g: _Host) -> _Host:
    flat = a.reshape(-1, a.shape[2])
    found = flat @ np.linalg.eigh(flat.T @ flat)[1][:, -1]
    return (found if found.sum() >= 0 else -found).reshape(a.shape[:2])


def eigen_grad_cam(a: _Host, g: _Host) -> _Host:
    return eigen_cam(a * g, g)


def score_cam(a: _Host, x: _Host, score: Callable[[_Host], float]) -> _Host:
    found = []
    for k in _each(a):
        mask = enlarge(a[:, :, k], x.shape[:2])
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        found.append(score(x * mask[:, :, None]))
    grown = np.exp(np.array(found))
    return _sum(list(grown / grown.sum()), a)


def ablation_cam(a: _Host, behind: Callable[[_Host], float]) -> _Host:
    weights = []
    for k in _each(a):
        without = a.copy()
        without[:, :, k] = 0
        weights.append((behind(a) - behind(without)) / behind(a))
    return _sum(weights, a)


def lift_cam(a: _Host, contributions: _Host) -> _Host:
    return _sum([contributions[:, :, k].sum() for k in _each(a)], a)


def blurred(x: _Host, sigma: float, radius: int) -> _Host:
    """Gaussian blur of (batch, height, width, channels), borders reflected with the edge repeated."""
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    for axis in (1, 2):
        width = [(radius, radius) if a == axis else (0, 0) for a in range(4)]
        padded = np.pad(x, width, mode="symmetric")
        size = x.shape[axis]
        x = sum(kernel[k] * padded.take(range(k, k + size), axis=axis) for k in range(2 * radius + 1))
    return x
