"""Integrated gradients along other paths: a blur, the features of least influence first; and gradients around an input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xai_core.attribution.base import Attribution, Explainer, positive_int
from xai_core.attribution.path import zero_sums
from xai_core.attribution.quadrature import check_quadrature, quadrature
from xai_core.baselines import resolve_baseline, sample_range, spatial_axes
from xai_core.blocks import blocks, spans
from xai_core.errors import InputError, OptionError, describe
from xai_core.model import Net
from xai_core.problem import Problem, gather, is_floating, join, trim
from xai_core.targets import Pick

__all__ = ["BlurIntegratedGradients", "GuidedIntegratedGradients", "SmoothTaylor"]


def blur_pair(size: int, sigma: float, radius: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Gaussian blur of one axis as a (size, size) matrix, and its derivative with respect to sigma; borders reflect.

    Normalised to rows of sum one, and so the derivative to rows of sum zero.
    """
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    slope = kernel * offsets**2 / sigma**3
    total = kernel.sum()
    weights = kernel / total
    change = slope / total - weights * slope.sum() / total
    period = (np.arange(size)[:, None] + offsets[None, :]) % (2 * size)
    columns = np.where(period < size, period, 2 * size - 1 - period)
    found = []
    for values in (weights, change):
        matrix = np.zeros((size, size))
        np.add.at(matrix, (np.arange(size)[:, None], columns), np.broadcast_to(values, columns.shape))
        found.append(matrix)
    return found[0], found[1]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class BlurIntegratedGradients(Explainer):
    """Integrated gradients along a path on which the input gets sharper; no baseline to choose.

    `values = integral over sigma from sigma_max to 0 of grad f(L(x, sigma)) dL/dsigma dsigma`, `L(x, sigma)` the input
    under a Gaussian blur. Complete: the values sum to `f(x) - f(L(x, sigma_max))` up to `residual`. `steps` rows
    forward and backward per sample, and one forward.

    Source: Xu et al. 2020, arXiv:2004.03383, equation 5. The derivative of the blur is exact here, not a difference.

    Parameters
    ----------
    sigma
        `sigma_max`, in pixels.
    steps
        Quadrature nodes.
    quadrature
        As for `IntegratedGradients`. Most of a sharp picture comes back below one pixel; nodes are spaced evenly in the
        square root of sigma.
    """

    sigma: float = 20.0
    steps: int = 64
    quadrature: str = "gauss_legendre"

    def __post_init__(self) -> None:
        positive_int("steps", self.steps)
        check_quadrature(self.quadrature)
        if isinstance(self.sigma, bool) or not isinstance(self.sigma, (int, float)) or not 0 < self.sigma < 1e6:
            raise OptionError(
                "`sigma` must be a positive number of pixels.", received=describe(self.sigma), fix="sigma=20"
            )

    def planned_rows(self, batch: int) -> int:
        return batch * (self.steps + 2)

    def attribute(self, problem: Problem) -> Attribution:
        axes = [spatial_axes(problem, leaf) if is_floating(leaf) else () for leaf in problem.varied]
        if not any(axes):
            raise InputError(
                "Blur needs an input with spatial axes.",
                received=", ".join(describe(leaf) for leaf in problem.varied),
                fix="use IntegratedGradients for tables.",
            )
        nodes, weights = quadrature(self.quadrature, self.steps)
        # sigma = sigma_max u^2: even nodes in u are dense where a little blur changes much.
        sigmas, factors = self.sigma * nodes**2, weights * self.sigma * 2 * nodes
        kernel = _Blurred(problem.pick, tuple(axes))
        parts: list[list[Any]] = []
        for block, steps in blocks(problem.batch, self.steps, problem.rows, constant=problem.constant_shapes):
            rows = problem.indices(block.indices)
            sums = zero_sums(problem, block.width, 1)
            for step in steps:
                factor = -factors[None, step.indices]
                factor[:, step.size :] = 0.0
                chosen = sigmas[step.indices]
                matrices = [self._matrices(problem, leaf, over, chosen) for leaf, over in self._leaves(problem, axes)]
                scale = [problem.to_device(factor, like=leaf) for leaf in problem.varied]
                sums = problem.run(kernel, sums, problem.leaves, matrices, scale, rows, problem.index)
                work = block.width * step.width
                problem.work.add(work, work)
            parts.append(trim(sums, block))
        values = [value[:, 0, ...] for value in join(problem, parts)]
        ends = [
            self._matrices(problem, leaf, over, np.array([self.sigma])) for leaf, over in self._leaves(problem, axes)
        ]
        blurred = problem.run(_BlurOnce(tuple(axes)), problem.varied, ends)
        change = problem.scores_or_known() - problem.scores([*blurred, *problem.leaves[len(blurred) :]])
        xp = problem.xp
        total: Any = sum(xp.sum(xp.reshape(value, (problem.batch, -1)), axis=1) for value in values)
        return Attribution(values, total - xp.astype(change, total.dtype))

    @staticmethod
    def _leaves(problem: Problem, axes: list[tuple[int, ...]]) -> list[tuple[Any, tuple[int, ...]]]:
        return list(zip(problem.varied, axes, strict=True))

    def _matrices(
        self, problem: Problem, leaf: Any, axes: tuple[int, ...], sigmas: np.ndarray[Any, Any]
    ) -> list[list[Any]]:
        """For each axis, blur matrices (draws, size, size) and their derivatives."""
        radius = max(1, math.ceil(4.0 * self.sigma))
        found = []
        for axis in axes:
            pairs = [blur_pair(int(leaf.shape[axis]), max(float(sigma), 1e-3), radius) for sigma in sigmas]
            found.append([problem.to_device(np.stack([pair[part] for pair in pairs]), like=leaf) for part in (0, 1)])
        return found


def _along(xp: Any, value: Any, matrices: Any, axis: int) -> Any:
    """`value` (rows, draws, ...) with `matrices` (draws, size, size) applied along an axis of a sample."""
    moved = xp.moveaxis(value, axis + 1, -1)
    shape = tuple(moved.shape)
    flat = xp.reshape(moved, (shape[0], shape[1], -1, shape[-1]))
    done = xp.matmul(flat, xp.matrix_transpose(matrices)[None, ...])
    return xp.moveaxis(xp.reshape(done, shape), -1, axis + 1)


def _blur(xp: Any, value: Any, matrices: list[list[Any]], axes: tuple[int, ...]) -> tuple[Any, Any]:
    """Blurred copies (rows, draws, ...) of a wide value, and their derivative with respect to sigma."""
    draws = tuple(matrices[0][0].shape)[0]
    shape = tuple(value.shape)
    blurred = xp.broadcast_to(value[:, None, ...], (shape[0], draws, *shape[1:]))
    change: Any = None
    for axis, (matrix, slope) in zip(axes, matrices, strict=True):
        # Product rule over the axes, which are blurred one after the other.
        moved = _along(xp, blurred, slope, axis)
        change = moved if change is None else _along(xp, change, matrix, axis) + moved
        blurred = _along(xp, blurred, matrix, axis)
    return blurred, change


@dataclass(frozen=True)
class _Blurred:
    """Kernel: weighted sums of gradient times derivative at blurred inputs."""

    pick: Pick
    axes: tuple[tuple[int, ...], ...]

    def __call__(
        self, net: Net, sums: Any, leaves: list[Any], matrices: list[Any], weights: list[Any], rows: Any, index: Any
    ) -> list[Any]:
        xp = net.xp
        draws = tuple(weights[0].shape)[1]
        points: list[Any] = []
        changes: list[Any] = []
        for leaf, over, given, before in zip(leaves, self.axes, matrices, sums, strict=False):
            own = gather(xp, leaf, rows)
            shape = tuple(own.shape)
            if not over:
                points.append(xp.repeat(own, draws, axis=0))
                changes.append(None)
                continue
            blurred, change = _blur(xp, xp.astype(own, before.dtype), given, over)
            points.append(xp.reshape(xp.astype(blurred, own.dtype), (shape[0] * draws, *shape[1:])))
            changes.append(change)
        points += [xp.repeat(gather(xp, leaf, rows), draws, axis=0) for leaf in leaves[len(sums) :]]
        chosen = gather(xp, index, rows)
        repeated = None if chosen is None else xp.repeat(chosen, draws, axis=0)
        score, pull = net.pullback(points, lambda outputs: self.pick(xp, outputs, repeated))
        out = []
        for before, gradient, change, weight in zip(sums, pull(xp.ones_like(score)), changes, weights, strict=False):
            if gradient is None or change is None:
                out.append(before)
                continue
            shape = tuple(change.shape)
            value = xp.reshape(xp.reshape(xp.astype(gradient, change.dtype), shape) * change, (shape[0], draws, -1))
            out.append(before + xp.reshape(xp.matmul(weight, value), tuple(before.shape)))
        return out


@dataclass(frozen=True)
class _BlurOnce:
    """Kernel: blurred leaves."""

    axes: tuple[tuple[int, ...], ...]

    def __call__(self, net: Net, leaves: list[Any], matrices: list[Any]) -> list[Any]:
        xp = net.xp
        out = []
        for leaf, over, given in zip(leaves, self.axes, matrices, strict=True):
            if not over:
                out.append(leaf)
                continue
            wide = xp.astype(leaf, given[0][0].dtype)
            out.append(xp.astype(_blur(xp, wide, given, over)[0][:, 0, ...], leaf.dtype))
        return out


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class GuidedIntegratedGradients(Explainer):
    """Integrated gradients along a path that moves the features of least influence first, near the straight one.

    At each of `steps` points the `fraction` of features with the smallest gradients goes towards the input, until the
    L1 distance left is that of the straight path; no feature may be ahead of or behind the straight path by more than
    `distance`. `values` add up gradient times move. One row forward and backward per step and sample.

    Source: Kapishnikov et al. 2021, arXiv:2106.09788, algorithm 1.

    Parameters
    ----------
    steps
        Points at which the gradient is taken.
    baseline
        Where the path begins, as for `IntegratedGradients`.
    fraction
        Share of the features that move at once.
    distance
        How far, as a share of the way, a feature may be from the straight path.
    """

    steps: int = 64
    baseline: Any = 0.0
    fraction: float = 0.25
    distance: float = 0.02

    def __post_init__(self) -> None:
        positive_int("steps", self.steps)
        for name in ("fraction", "distance"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
                raise OptionError(
                    f"`{name}` must be above 0 and at most 1.", received=describe(value), fix=f"{name}=0.25"
                )

    def planned_rows(self, batch: int) -> int:
        return batch * (self.steps + 2)

    def attribute(self, problem: Problem) -> Attribution:
        xp = problem.xp
        baseline = resolve_baseline(problem, self.baseline)
        change = problem.scores_or_known() - problem.scores(baseline)
        parts: list[list[Any]] = []
        for block in spans(problem.batch, problem.rows, constant=problem.constant_shapes):
            rows = problem.indices(block.indices)
            state = problem.run(_START, problem.leaves[: len(problem.varied)], baseline, rows)
            for step in range(self.steps):
                parameters = problem.to_device(
                    np.asarray([(step + 1) / self.steps, 1.0 - (step + 1) / self.steps]), like=problem.varied[0]
                )
                slope = problem.run(
                    _GuidedGradient(problem.pick, len(problem.varied)), state[0], problem.leaves, rows, problem.index
                )
                problem.work.add(block.width, block.width)
                # A move that uses up all features that may move is followed by another with the same gradient.
                waiting = list(slope)
                pending = xp.ones_like(state[2], dtype=xp.bool)
                while True:
                    state, waiting, pending, some = problem.run(
                        _GuidedMove(self.fraction, self.distance), state, slope, waiting, pending, parameters
                    )
                    if not bool(np.any(problem.to_host(some))):
                        break
            parts.append(trim(list(state[1]), block))
        values = join(problem, parts)
        total: Any = sum(xp.sum(xp.reshape(value, (problem.batch, -1)), axis=1) for value in values)
        return Attribution(values, total - xp.astype(change, total.dtype))


class _Start:
    """Kernel: where the walk begins: points, values, total distance, ends and starts, flat in at least float32."""

    def __call__(self, net: Net, leaves: list[Any], baseline: list[Any], rows: Any) -> list[Any]:
        xp = net.xp
        wide = xp.float64 if any(leaf.dtype == xp.float64 for leaf in leaves) else xp.float32
        ends = [xp.astype(gather(xp, leaf, rows), wide) for leaf in leaves]
        starts = [xp.astype(gather(xp, leaf, rows), wide) for leaf in baseline[: len(leaves)]]
        total = _distance(xp, ends, starts)
        return [starts, [xp.zeros_like(end) for end in ends], total, ends, starts]


_START = _Start()


def _distance(xp: Any, ends: list[Any], starts: list[Any]) -> Any:
    """L1 distance per sample, over all leaves."""
    parts = [
        xp.sum(xp.reshape(xp.abs(end - start), (tuple(end.shape)[0], -1)), axis=1)
        for end, start in zip(ends, starts, strict=True)
    ]
    return sum(parts[1:], parts[0])


@dataclass(frozen=True)
class _GuidedGradient:
    """Kernel: gradients at the present points."""

    pick: Pick
    varied: int

    def __call__(self, net: Net, points: list[Any], leaves: list[Any], rows: Any, index: Any) -> list[Any]:
        xp = net.xp
        own = [xp.astype(point, leaf.dtype) for point, leaf in zip(points, leaves, strict=False)]
        own += [gather(xp, leaf, rows) for leaf in leaves[self.varied :]]
        chosen = gather(xp, index, rows)
        score, pull = net.pullback(own, lambda outputs: self.pick(xp, outputs, chosen))
        found = pull(xp.ones_like(score))
        return [
            xp.zeros_like(point) if gradient is None else xp.astype(gradient, point.dtype)
            for gradient, point in zip(found, points, strict=False)
        ]


@dataclass(frozen=True)
class _GuidedMove:
    """Kernel: move the features of least gradient of every sample that is not yet where it should be at this step.

    `slope` is the gradient, `waiting` the same with infinity for features that have gone as far as they may.
    """

    fraction: float
    distance: float

    def __call__(
        self, net: Net, state: list[Any], slope: list[Any], waiting: list[Any], pending: Any, parameters: Any
    ) -> Any:
        xp = net.xp
        points, values, total, ends, starts = state
        alpha, left = parameters[0], parameters[1]
        low = xp.clip(alpha - self.distance, 0.0, 1.0)
        high = xp.clip(alpha + self.distance, 0.0, 1.0)
        batch = tuple(total.shape)[0]
        shapes = [tuple(point.shape) for point in points]
        x, value, end, start, g, wait = (
            xp.concat([xp.reshape(part, (batch, -1)) for part in parts], axis=1)
            for parts in (points, values, ends, starts, slope, waiting)
        )
        active = pending[:, None]
        span = end - start
        nearest, farthest = start + low * span, start + high * span
        still = span == 0
        place = xp.where(still, high, (x - start) / xp.where(still, xp.ones_like(span), span))
        moved = xp.where(place < low, nearest, x)
        target = total * left
        current = xp.sum(xp.abs(moved - end), axis=1)
        reached = xp.abs(target - current) <= 1e-5 * xp.abs(current) + 1e-8 * total
        infinity = xp.full_like(wait, float("inf"))
        wait = xp.where(xp.abs(moved - farthest) <= 1e-7 * xp.abs(span), infinity, wait)
        size = tuple(wait.shape)[1]
        # Quantile of the magnitudes, infinite ones included, rounded down.
        threshold = xp.sort(xp.abs(wait), axis=1)[:, int(self.fraction * (size - 1))][:, None]
        chosen = xp.logical_and(xp.abs(wait) <= threshold, wait != infinity)
        reach = xp.sum(xp.where(chosen, xp.abs(moved - farthest), xp.zeros_like(moved)), axis=1)
        some = reach > 0
        share = (current - target) / xp.where(some, reach, xp.ones_like(reach))
        share = xp.where(some, share, xp.full_like(reach, 2.0))
        more = share > 1.0
        step = xp.where(more, xp.ones_like(share), xp.clip(share, 0.0, 1.0))[:, None]
        going = xp.logical_and(chosen, xp.logical_not(reached)[:, None])
        new = xp.where(active, xp.where(going, moved + step * (farthest - moved), moved), x)
        value = value + (new - x) * g
        # Nothing is left to move where no feature was chosen.
        stuck = xp.logical_not(xp.any(chosen, axis=1))
        again = xp.logical_and(
            pending, xp.logical_and(more, xp.logical_and(xp.logical_not(reached), xp.logical_not(stuck)))
        )
        out = [_split(xp, flat, shapes) for flat in (new, value, wait)]
        return [out[0], out[1], total, ends, starts], out[2], again, xp.any(again)


def _split(xp: Any, flat: Any, shapes: list[tuple[int, ...]]) -> list[Any]:
    """Rows (batch, all features) back as leaves."""
    out, place = [], 0
    for shape in shapes:
        size = math.prod(shape[1:])
        out.append(xp.reshape(flat[:, place : place + size], shape))
        place += size
    return out


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SmoothTaylor(Explainer):
    """Mean over noisy points of gradient times distance to the input: first-order Taylor terms around the input.

    `values = mean_r (x - z_r) * grad f(z_r)`, `z_r = x + noise * range(x) * n_r` with `n_r` standard normal. `samples`
    rows forward and backward per sample.

    Source: Goh et al. 2020, arXiv:2004.10484, equation 8.

    Parameters
    ----------
    samples
        Noisy points per input.
    noise
        Standard deviation as a fraction of each sample's range, as for `SmoothGrad`.
    """

    stochastic: ClassVar[bool] = True

    samples: int = 64
    noise: float = 0.3

    def __post_init__(self) -> None:
        positive_int("samples", self.samples)
        if isinstance(self.noise, bool) or not isinstance(self.noise, (int, float)) or not 0 < self.noise < math.inf:
            raise OptionError("`noise` must be positive.", received=describe(self.noise), fix="noise=0.3")

    def planned_rows(self, batch: int) -> int:
        return batch * (self.samples + 1)

    def attribute(self, problem: Problem) -> Attribution:
        xp = problem.xp
        spread = [
            self.noise * sample_range(xp, xp.astype(leaf, problem.accumulator_dtype(leaf))) for leaf in problem.varied
        ]
        parts: list[list[Any]] = []
        for block, draws in blocks(problem.batch, self.samples, problem.rows, constant=problem.constant_shapes):
            rows = problem.indices(block.indices)
            sums = zero_sums(problem, block.width, 1)
            for draw in draws:
                used = np.full((1, draw.width), 1.0 / self.samples)
                used[:, draw.size :] = 0.0
                normals = [
                    problem.to_device(problem.normal(block.indices, draw.indices, position, part=position), like=leaf)
                    for position, leaf in enumerate(problem.varied)
                ]
                weights = [problem.to_device(used, like=leaf) for leaf in problem.varied]
                sums = problem.run(
                    _SmoothTaylor(problem.pick), sums, problem.leaves, normals, spread, weights, rows, problem.index
                )
                work = block.width * draw.width
                problem.work.add(work, work)
            parts.append(trim(sums, block))
        return Attribution([value[:, 0, ...] for value in join(problem, parts)])


@dataclass(frozen=True)
class _SmoothTaylor:
    """Kernel: weighted sums of distance times gradient at noisy points."""

    pick: Pick

    def __call__(
        self,
        net: Net,
        sums: list[Any],
        leaves: list[Any],
        normals: list[Any],
        spread: list[Any],
        weights: list[Any],
        rows: Any,
        index: Any,
    ) -> list[Any]:
        xp = net.xp
        draws = tuple(normals[0].shape)[1]
        points, distances = [], []
        for leaf, normal, width in zip(leaves, normals, spread, strict=False):
            own = gather(xp, leaf, rows)
            shape = tuple(own.shape)
            away = normal * gather(xp, width, rows)[:, None, ...]
            noisy = xp.astype(own, away.dtype)[:, None, ...] + away
            points.append(xp.reshape(xp.astype(noisy, leaf.dtype), (shape[0] * draws, *shape[1:])))
            distances.append(-away)
        points += [xp.repeat(gather(xp, leaf, rows), draws, axis=0) for leaf in leaves[len(normals) :]]
        chosen = gather(xp, index, rows)
        repeated = None if chosen is None else xp.repeat(chosen, draws, axis=0)
        score, pull = net.pullback(points, lambda outputs: self.pick(xp, outputs, repeated))
        out = []
        for before, gradient, distance, weight in zip(
            sums, pull(xp.ones_like(score)), distances, weights, strict=False
        ):
            if gradient is None:
                out.append(before)
                continue
            shape = tuple(distance.shape)
            value = xp.reshape(xp.reshape(xp.astype(gradient, distance.dtype), shape) * distance, (shape[0], draws, -1))
            out.append(before + xp.reshape(xp.matmul(weight, value), tuple(before.shape)))
        return out
