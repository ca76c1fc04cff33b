"""Noisy linear imputation: pixels as weighted means of their neighbours, filled ones among them, a linear system."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xai_core.baselines import spatial_axes
from xai_core.cores import on_all_cores
from xai_core.errors import ConvergenceError, OptionError, describe
from xai_core.model import Net
from xai_core.problem import Problem

__all__ = ["imputed"]

_Host = np.ndarray[Any, Any]
_SIDE, _CORNER = 1 / 6, 1 / 12
"""Weights of the neighbours of a pixel at its sides and at its corners."""
_NARROW = 96
"""Pixels along the shorter side up to which elimination takes less time than conjugate gradients."""
_TOGETHER = 8
"""Images that are eliminated together: fewer spend their time in the interpreter, more are too few parts for many cores."""
_KEPT = 2**23
"""Numbers that elimination keeps of the images that are together, where they are more than one."""
_TURNS, _ROUNDS = 8, 400
"""Steps of conjugate gradients between two looks at what is left, and looks at most."""


def imputed(problem: Problem, leaf: Any, holes: _Host) -> Any:
    """Images (batch, ...) with pixels filled in from their neighbours; `holes` are truths that broadcast to them.

    The system is symmetric and positive definite. That of small images is eliminated on the host in double precision; that
    of large ones is solved for all images and channels at once by conjugate gradients, on the model's device, until what is
    left is below 1e-5 of where it began (1e-10 in double precision).

    Raises
    ------
    OptionError
        If no pixel is left.
    ConvergenceError
        If it is not solved after very many steps.
    """
    if np.any(np.all(holes, axis=tuple(range(1, holes.ndim)))):
        raise OptionError("There must be a pixel left to fill others from.", received="all pixels filled")
    axes = spatial_axes(problem, leaf)
    if min(leaf.shape[axis] for axis in axes) > _NARROW:
        return _by_gradients(problem, leaf, holes, axes)
    # Rows are eliminated one by one, so that they are laid along the shorter side.
    down, along = sorted(axes, key=lambda axis: -leaf.shape[axis])
    images = np.moveaxis(problem.to_host(leaf), (down, along), (-2, -1))
    gone = np.moveaxis(holes, (down, along), (-2, -1))[:, 0]
    together = min(_TOGETHER, max(1, _KEPT // (leaf.shape[down] * leaf.shape[along] ** 2)))
    parts = [slice(start, start + together) for start in range(0, len(images), together)]
    filled = np.concatenate(on_all_cores(lambda part: _eliminated(images[part], gone[part]), parts))
    return problem.to_device(np.moveaxis(filled, (-2, -1), (down, along)), like=leaf)


def _eliminated(images: _Host, holes: _Host) -> _Host:
    """Images (batch, channels, height, width), filled where `holes` (batch, height, width) are, in double precision.

    The unknown pixels of a row depend on those of the row below alone once those above are eliminated, which makes the
    system block tridiagonal. All images have as many unknown pixels in a row as the one with the most; those that fill up
    are 0 and stand alone.
    """
    batch, channels, height, width = images.shape
    filled = images.astype(np.float64)
    weights = np.broadcast_to(_neighbours(np, np.ones((1, height, width)), (1, 2)), holes.shape)
    known = _neighbours(np, np.where(holes[:, None], 0.0, filled), (2, 3))
    counts = np.sum(holes, axis=2)
    most = [*(int(count) for count in np.max(counts, axis=0)), 0]
    columns = np.argsort(~holes, axis=2, kind="stable")
    unknown = np.arange(width) < counts[..., None]
    # No two that fill up, nor one and a pixel, look like neighbours: they are far to the left, each row further.
    apart = -2 * (1 + np.arange(width) + width * (1 + np.arange(height)[:, None]))
    places = np.where(unknown, columns, apart).astype(np.int32)
    own = np.where(unknown, np.take_along_axis(weights, columns, axis=2), 1.0)
    right = np.where(unknown[:, None], np.take_along_axis(known, columns[:, None], axis=3), 0.0)
    right = np.ascontiguousarray(np.moveaxis(right, 1, -1))
    kept: list[_Host] = []
    moved = np.zeros((batch, most[0], most[0] + channels))
    for row in range(height):
        here, below = most[row], most[row + 1]
        place = places[:, row, :here]
        system = np.where(np.abs(place[:, :, None] - place[:, None, :]) == 1, -_SIDE, 0.0)
        system.reshape(batch, here * here)[:, :: here + 1] = own[:, row, :here]
        system -= moved[..., :here]
        away = np.abs(place[:, :, None] - places[:, min(row + 1, height - 1), None, :below])
        link = np.where(away == 0, -_SIDE, np.where(away == 1, -_CORNER, 0.0))
        kept.append(np.linalg.solve(system, np.concatenate([link, right[:, row, :here] - moved[..., here:]], axis=2)))
        moved = np.swapaxes(link, 1, 2) @ kept[-1]
    found = np.zeros((batch, height, width, channels))
    for row in reversed(range(height)):
        here, below = most[row], most[row + 1]
        solved = kept[row][..., below:]
        if below:
            solved = solved - kept[row][..., :below] @ found[:, row + 1, :below]
        found[:, row, :here] = solved
    image, line, number = np.nonzero(unknown)
    filled[image, :, line, columns[image, line, number]] = found[image, line, number]
    return filled


def _by_gradients(problem: Problem, leaf: Any, holes: _Host, axes: tuple[int, ...]) -> Any:
    """The same by conjugate gradients on the device."""
    xp = problem.xp
    wide = xp.astype(leaf, problem.accumulator_dtype(leaf))
    hole = problem.to_device(holes.astype(np.float64), like=leaf)
    small = 1e-10 if "64" in str(wide.dtype) else 1e-5
    weights, state, first = problem.run(_Begin(axes), wide, hole)
    whole = problem.to_host(first)
    for _ in range(_ROUNDS):
        state, left = problem.run(_Turn(axes), state, hole, weights)
        if bool(np.all(problem.to_host(left) <= small**2 * np.maximum(whole, 1e-300))):
            return problem.run(_End(), wide, state[0], hole)
    raise ConvergenceError(
        f"The pixels of ROAD were not filled in within {_TURNS * _ROUNDS} steps.", received=describe(leaf)
    )


def _neighbours(xp: Any, array: Any, axes: tuple[int, ...]) -> Any:
    """Weighted sums of the neighbours of each pixel; what lies outside counts as zero."""
    # Sides and corners are 1 2 1 along one axis times 1 2 1 along the other, without the middle.
    found = array
    for axis in axes:
        edge = [slice(None)] * found.ndim
        edge[axis] = slice(0, 1)
        none = xp.zeros_like(found[tuple(edge)])
        wide = xp.concat([none, found, none], axis=axis)
        before, after = list(edge), list(edge)
        before[axis], after[axis] = slice(0, -2), slice(2, None)
        found = 2 * found + wide[tuple(before)] + wide[tuple(after)]
    return _CORNER * found - 2 * _SIDE * array


def _rest(xp: Any, guess: Any, hole: Any, weights: Any, axes: tuple[int, ...]) -> Any:
    """Weight of the neighbours times a pixel minus their weighted sum, in holes."""
    return hole * (weights * guess - _neighbours(xp, guess, axes))


def _inner(xp: Any, a: Any, b: Any, axes: tuple[int, ...]) -> Any:
    return xp.sum(a * b, axis=axes, keepdims=True)


@dataclass(frozen=True)
class _Begin:
    """Kernel: weights of neighbours, where conjugate gradients start, the mean of what is known, and what is left."""

    axes: tuple[int, ...]

    def __call__(self, net: Net, image: Any, hole: Any) -> tuple[Any, list[Any], Any]:
        xp, seen = net.xp, 1.0 - hole
        weights = _neighbours(xp, xp.ones_like(hole[:1, ...]), self.axes)
        mean = xp.sum(image * seen, axis=self.axes, keepdims=True) / xp.sum(seen, axis=self.axes, keepdims=True)
        start = image * seen + mean * hole
        left = -_rest(xp, start, hole, weights, self.axes)
        inner = _inner(xp, left, left, self.axes)
        return weights, [start, left, left, inner], inner


@dataclass(frozen=True)
class _Turn:
    """Kernel: some steps of conjugate gradients."""

    axes: tuple[int, ...]

    def __call__(self, net: Net, state: list[Any], hole: Any, weights: Any) -> tuple[list[Any], Any]:
        xp = net.xp
        guess, left, along, inner = state
        for _ in range(_TURNS):
            moved = _rest(xp, along, hole, weights, self.axes)
            size = _inner(xp, along, moved, self.axes)
            going = size > 0
            step = xp.where(going, inner / xp.where(going, size, xp.ones_like(size)), xp.zeros_like(size))
            guess, left = guess + step * along, left - step * moved
            new = _inner(xp, left, left, self.axes)
            share = xp.where(inner > 0, new / xp.where(inner > 0, inner, xp.ones_like(inner)), xp.zeros_like(inner))
            along, inner = left + share * along, new
        return [guess, left, along, inner], inner


class _End:
    """Kernel: the solution in holes, the image elsewhere."""

    def __call__(self, net: Net, image: Any, found: Any, hole: Any) -> Any:
        return net.xp.where(hole > 0, found, image)
