"""ROAD: removal of pixels whose neighbours say nothing about which pixels were removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xai_core.baselines import spatial_axes
from xai_core.errors import ConvergenceError, OptionError, describe
from xai_core.explanation import Explanation
from xai_core.metrics.base import Measured, Scored
from xai_core.metrics.ground import PIXELS, Ground, Order
from xai_core.model import Net
from xai_core.problem import Problem, is_floating

__all__ = ["ROAD", "imputed"]

_Host = np.ndarray[Any, Any]
NOISE_PART = 3_540_000
_SIDE, _CORNER = 1 / 6, 1 / 12
"""Weights of the neighbours of a pixel at its sides and at its corners."""
_TURNS, _ROUNDS = 8, 400
"""Steps between two looks at what is left, and looks at most."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ROAD(Scored):
    """Remove and debias: what the score loses when pixels are filled in from their neighbours.

    At each of the `percentages` of pixels, the most and the least relevant ones are filled by noisy linear imputation: each
    filled pixel is the weighted mean of its eight neighbours, filled ones among them, sides weighing 1/6 and corners 1/12,
    which is a sparse linear system, plus Gaussian noise. With `order="combined"` the value is `(f(least first) - f(most
    first)) / 2`, averaged over the percentages, higher is better; with `"most"` or `"least"` the mean score, of which lower
    or higher is better. `curve` are the values at each percentage, `at` the shares. One model row for each percentage and
    order, one for the score.

    Source: Rong et al. 2022, arXiv:2202.00449, section 4.2 and appendix C; combined as in pytorch-grad-cam.

    Parameters
    ----------
    percentages
        Shares of the pixels that are filled, in percent.
    order
        `"combined"`, `"most"` or `"least"`: which pixels are filled.
    noise
        Standard deviation of the noise in filled pixels, in units of the input.
    score
        As for `Deletion`.
    """

    category: ClassVar[str] = "faithfulness"
    higher_is_better: ClassVar[bool | None] = True

    percentages: tuple[float, ...] = (10, 20, 30, 40, 50, 60, 70, 80, 90)
    order: str = "combined"
    noise: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = self.percentages if isinstance(self.percentages, (tuple, list)) else ()
        if not shares or not all(isinstance(share, (int, float)) and 0 < share < 100 for share in shares):
            raise OptionError(
                "`percentages` are numbers between 0 and 100.",
                received=describe(self.percentages),
                fix="(20, 40, 60, 80)",
            )
        if self.order not in ("combined", "most", "least"):
            raise OptionError("`order` must be 'combined', 'most' or 'least'.", received=describe(self.order))
        if not (isinstance(self.noise, (int, float)) and 0 <= self.noise < np.inf):
            raise OptionError("`noise` must be at least 0.", received=describe(self.noise), fix="noise=0.01")

    @property
    def direction(self) -> str | None:
        return {"combined": "higher", "most": "lower", "least": "higher"}[self.order]

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        problem = ground.problem
        for leaf in problem.varied:
            if len(problem.varied) > 1 or len(spatial_axes(problem, leaf)) != 2 or not is_floating(leaf):
                raise OptionError(
                    "ROAD fills in pixels of images.",
                    received=", ".join(map(describe, problem.varied)),
                    fix="Deletion with a baseline for other inputs.",
                )
        order = ground.order(explanation, PIXELS)
        ends = [
            _scores(ground, order, share, which, self.noise) for which in self._orders() for share in self.percentages
        ]
        curves = np.stack(ends, axis=1).reshape(ground.batch, -1, len(self.percentages))
        curve = (curves[:, 1] - curves[:, 0]) / 2 if self.order == "combined" else curves[:, 0]
        return Measured(curve.mean(axis=1), curve, np.asarray(self.percentages) / 100)

    def _orders(self) -> tuple[str, ...]:
        return ("most", "least") if self.order == "combined" else (self.order,)


def _scores(ground: Ground, order: Order, percentage: float, which: str, noise: float) -> _Host:
    """Scores (batch,) with a share of the pixels filled in."""

    def make() -> _Host:
        problem, count = ground.problem, order.features.count
        number = round(percentage / 100 * count)
        gone = order.ranks < number if which == "most" else order.ranks >= count - number
        leaf = problem.varied[0]
        shape = tuple(leaf.shape)
        channel = problem.bound.channel_axis_of(shape) or 1
        sides = tuple(side for axis, side in enumerate(shape[1:], 1) if axis != channel)
        holes = np.expand_dims(gone.reshape(shape[0], *sides), channel)
        filled = imputed(problem, leaf, holes)
        if noise:
            part = NOISE_PART + 2 * round(percentage * 100) + (which == "least")
            normal = problem.normal(range(shape[0]), [0], 0, part)[:, 0]
            filled = filled + problem.to_device(normal * holes * noise, like=leaf)
        return ground.scores_of([problem.xp.astype(filled, leaf.dtype), *problem.leaves[1:]])[:, 0]

    return np.asarray(ground.known(("road", order.key, percentage, which, noise), make))


def imputed(problem: Problem, leaf: Any, holes: _Host) -> Any:
    """Images (batch, ...) with pixels filled in from their neighbours; `holes` are truths that broadcast to them.

    The system is symmetric and positive definite, and solved for all images and channels at once by conjugate gradients, on
    the model's device, until what is left is below 1e-5 of where it began (1e-10 in double precision).

    Raises
    ------
    OptionError
        If no pixel is left.
    ConvergenceError
        If it is not solved after very many steps.
    """
    xp = problem.xp
    if np.any(np.all(holes, axis=tuple(range(1, holes.ndim)))):
        raise OptionError("There must be a pixel left to fill others from.", received="all pixels filled")
    axes = spatial_axes(problem, leaf)
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
