"""Gradients averaged along straight paths: Integrated Gradients and Expected Gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xai_core.attribution.base import Attribution, Explainer, positive_int
from xai_core.attribution.quadrature import check_quadrature, nested, quadrature
from xai_core.baselines import resolve_background, resolve_baseline
from xai_core.blocks import blocks, spans
from xai_core.errors import ConvergenceError, OptionError, describe
from xai_core.model import Net
from xai_core.problem import Problem, gather, join, trim
from xai_core.structure import flatten
from xai_core.targets import Pick

__all__ = ["ExpectedGradients", "IntegratedGradients"]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class IntegratedGradients(Explainer):
    """Gradient averaged along the straight path from a baseline, times the distance.

    `values = (x - x') * integral_0^1 grad f(x' + a (x - x')) da`. Complete: the values sum to `f(x) - f(x')` up to the
    error of the quadrature, which is reported per sample as `residual`. `steps` model rows forward and backward per
    sample, and two forward.

    Source: Sundararajan et al. 2017, arXiv:1703.01365, equation 1.

    Parameters
    ----------
    steps
        Quadrature nodes; with `tolerance`, the number to begin with.
    baseline
        `x'`: a number, an array, a structure like the inputs, a callable `x -> baseline` or an `xai.Baseline`.
    quadrature
        `"gauss_legendre"`, `"trapezoid"`, `"riemann_left"`, `"riemann_middle"` or `"riemann_right"`.
    tolerance
        Raise the number of steps until every sample's absolute residual is at most this, in units of the score. The
        rules are nested and no evaluation is repeated: trapezoid and left and right sums double, the middle sum
        triples, and the place of Gauss-Legendre, whose nodes never nest, is taken by Clenshaw-Curtis.
    max_rows
        Most steps per sample that `tolerance` may lead to; `ConvergenceError` if they do not suffice.
    """

    steps: int = 32
    baseline: Any = 0.0
    quadrature: str = "gauss_legendre"
    tolerance: float | None = None
    max_rows: int = 1025

    def __post_init__(self) -> None:
        positive_int("steps", self.steps)
        positive_int("max_rows", self.max_rows)
        check_quadrature(self.quadrature)
        if self.tolerance is not None and not self.tolerance > 0:
            raise OptionError("`tolerance` must be positive.", received=describe(self.tolerance), fix="tolerance=1e-3")

    def planned_rows(self, batch: int) -> int:
        return batch * (self.steps + 2)

    def attribute(self, problem: Problem) -> Attribution:
        baseline = resolve_baseline(problem, self.baseline)
        change = problem.scores_or_known() - problem.scores(baseline)
        if self.tolerance is None:
            nodes, weights = quadrature(self.quadrature, self.steps)
            everyone = list(range(problem.batch))
            means = _path_sums(problem, baseline, nodes, weights[None, :], everyone)
            values, gap = _finish(problem, baseline, means, change, 0)
            return Attribution(values, gap)
        return self._adaptive(problem, baseline, change, self.tolerance)

    def _adaptive(self, problem: Problem, baseline: list[Any], change: Any, tolerance: float) -> Attribution:
        """Go through the levels of a nested rule; each sample leaves at the first that is good enough for it."""
        xp = problem.xp
        levels = nested(self.quadrature, self.steps, max(self.max_rows, self.steps))
        active = list(range(problem.batch))
        sums: list[Any] = []
        values: list[Any] = []
        gap: Any = None
        done = np.zeros(problem.batch, dtype=bool)
        for number, level in enumerate(levels):
            added = _path_sums(problem, baseline, level.nodes, level.weights, active)
            if number == 0:
                sums = added
            else:
                place = np.full(problem.batch, len(active), dtype=np.int64)
                place[active] = np.arange(len(active))
                sums = problem.run(_Scatter(), sums, added, problem.to_device(place))
            fresh, fresh_gap = _finish(problem, baseline, sums, change, number)
            if number == 0:
                values, gap = fresh, fresh_gap
            else:
                keep = problem.to_device(done)
                values, gap = problem.run(_Keep(), keep, [*values, gap], [*fresh, fresh_gap])
            # NaN counts as reached: it is refused later with its own error.
            done = done | ~(np.abs(problem.to_host(fresh_gap).astype(np.float64)) > tolerance)
            active = [row for row in range(problem.batch) if not done[row]]
            if not active:
                return Attribution(values, gap)
        worst = float(np.max(np.abs(problem.to_host(xp.abs(gap)).astype(np.float64)[active])))
        raise ConvergenceError(
            f"{len(active)} of {problem.batch} samples have a completeness gap above tolerance={tolerance:g} after "
            f"{levels[-1].total} steps; the largest is {worst:.3g}.",
            received=f"samples {active[:5]}{' ...' if len(active) > 5 else ''}",
            fix=f"raise max_rows (now {self.max_rows}) or tolerance; float32 scores seldom allow less than about "
            "1e-5 of their size.",
        )


@dataclass(frozen=True)
class _PathGradients:
    """Kernel: weighted sums of gradients at points on straight paths, added to the sums so far.

    `nodes` (draws,) is shared by all samples; `weights` is (sums, draws). Leaves for which there are no nodes are
    constants.
    """

    pick: Pick

    def __call__(
        self,
        net: Net,
        sums: Any,
        leaves: list[Any],
        baseline: list[Any],
        nodes: Any,
        weights: Any,
        rows: Any,
        index: Any,
    ) -> list[Any]:
        xp = net.xp
        draws = tuple(nodes[0].shape)[0]
        points = straight_points(xp, leaves, baseline, nodes, rows)
        chosen = gather(xp, index, rows)
        return add_weighted(xp, net, self.pick, sums, points, weights, chosen, draws)


def straight_points(xp: Any, leaves: list[Any], baseline: list[Any], nodes: list[Any], rows: Any) -> list[Any]:
    """Points (samples * draws, ...) on straight paths from baseline to leaves; leaves without nodes are constants."""
    draws = tuple(nodes[0].shape)[0]
    starts = [gather(xp, leaf, rows) for leaf in baseline]
    ends = [gather(xp, leaf, rows) for leaf in leaves]
    points = []
    for start, end, node in zip(starts, ends, nodes, strict=False):
        shape = tuple(end.shape)
        along = xp.reshape(node, (1, draws, *(1 for _ in shape[1:])))
        wide_start, wide_end = (xp.astype(part, node.dtype)[:, None, ...] for part in (start, end))
        # In the form of the paper: elements equal to their baseline stay exactly so all the way.
        point = wide_start + along * (wide_end - wide_start)
        points.append(xp.reshape(xp.astype(point, end.dtype), (shape[0] * draws, *shape[1:])))
    return points + [xp.repeat(end, draws, axis=0) for end in ends[len(nodes) :]]


def add_weighted(
    xp: Any, net: Net, pick: Pick, sums: Any, points: list[Any], weights: Any, index: Any, draws: int
) -> list[Any]:
    """Sums (samples, sums, ...) over draws of weight times gradient; `points` is (samples * draws, ...)."""
    samples = tuple(points[0].shape)[0] // draws
    repeated = None if index is None else xp.repeat(index, draws, axis=0)
    score, pull = net.pullback(points, lambda outputs: pick(xp, outputs, repeated))
    out = []
    for before, gradient, weight in zip(sums, pull(xp.ones_like(score)), weights, strict=False):
        if gradient is None:
            out.append(before)
            continue
        flat = xp.reshape(xp.astype(gradient, weight.dtype), (samples, draws, -1))
        out.append(before + xp.reshape(xp.matmul(weight, flat), tuple(before.shape)))
    return out


def zero_sums(problem: Problem, samples: int, sums: int) -> list[Any]:
    """Running sums (samples, sums, ...) to begin with, one per leaf."""
    xp = problem.xp
    return [
        xp.broadcast_to(
            xp.zeros_like(leaf[:1, None, ...], dtype=problem.accumulator_dtype(leaf)),
            (samples, sums, *tuple(leaf.shape)[1:]),
        )
        for leaf in problem.varied
    ]


def _path_sums(
    problem: Problem,
    baseline: list[Any],
    nodes: np.ndarray[Any, Any],
    weights: np.ndarray[Any, Any],
    samples: list[int],
) -> list[Any]:
    """Weighted gradient sums of some samples, one array (samples, sums, ...) per leaf."""
    kernel = _PathGradients(problem.pick)
    parts: list[list[Any]] = []
    constant = problem.constant_shapes
    for block, steps in blocks(len(samples), len(nodes), problem.rows, constant=constant):
        rows = problem.indices([samples[i] for i in block.indices])
        sums = zero_sums(problem, block.width, len(weights))
        for step in steps:
            taken = nodes[step.indices]
            factor = weights[:, step.indices].copy()
            factor[:, step.size :] = 0.0
            along = [problem.to_device(taken, like=leaf) for leaf in problem.varied]
            scale = [problem.to_device(factor, like=leaf) for leaf in problem.varied]
            sums = problem.run(kernel, sums, problem.leaves, baseline, along, scale, rows, problem.index)
            work = block.width * step.width
            problem.work.add(work, work)
        parts.append(trim(sums, block))
    return join(problem, parts)


@dataclass(frozen=True)
class _Finish:
    """Kernel: values `(x - x') * mean gradient` of one level, and their completeness gap."""

    level: int

    def __call__(self, net: Net, leaves: list[Any], baseline: list[Any], sums: list[Any], change: Any) -> Any:
        xp = net.xp
        values: list[Any] = []
        total: Any = None
        for leaf, start, mean in zip(leaves, baseline, sums, strict=False):
            distance = xp.astype(leaf, mean.dtype) - xp.astype(start, mean.dtype)
            value = distance * mean[:, self.level, ...]
            values.append(value)
            part = xp.sum(xp.reshape(value, (tuple(value.shape)[0], -1)), axis=1)
            total = part if total is None else total + part
        return values, total - xp.astype(change, total.dtype)


def _finish(problem: Problem, baseline: list[Any], sums: list[Any], change: Any, level: int) -> tuple[list[Any], Any]:
    values, gap = problem.run(_Finish(level), problem.leaves, baseline, sums, change)
    return list(values), gap


@dataclass(frozen=True)
class _Scatter:
    """Kernel: add sums of some samples to those of all; `place` says where each sample's addend is, last means none."""

    def __call__(self, net: Net, sums: list[Any], added: list[Any], place: Any) -> list[Any]:
        xp = net.xp
        return [
            total + xp.take(xp.concat([extra, xp.zeros_like(extra[:1, ...])], axis=0), place, axis=0)
            for total, extra in zip(sums, added, strict=True)
        ]


@dataclass(frozen=True)
class _Keep:
    """Kernel: old arrays where a sample is done, new ones elsewhere."""

    def __call__(self, net: Net, done: Any, old: list[Any], new: list[Any]) -> Any:
        xp = net.xp
        out = []
        for before, after in zip(old, new, strict=True):
            mask = xp.reshape(done, (tuple(done.shape)[0], *(1 for _ in tuple(after.shape)[1:])))
            out.append(xp.where(mask, before, after))
        return out[:-1], out[-1]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ExpectedGradients(Explainer):
    """Integrated Gradients averaged over a background data set, by sampling.

    `values = E[(x - x') * grad f(x' + a (x - x'))]` over background rows `x'` and `a` uniform on [0, 1]. Complete in
    expectation: the values sum to `f(x)` minus the mean score of the background; the gap that sampling leaves is
    reported per sample as `residual`. `samples` model rows forward and backward per sample, and the background forward.

    The draws are unbiased and spread out: each sample walks through random orders of the background, and `a` follows a
    golden-ratio sequence from a random start, so that fewer draws give the same accuracy as independent ones.

    Source: Erion et al. 2019, arXiv:1906.10670, equation 2. As `GradientSHAP`: Lundberg and Lee 2017, arXiv:1705.07874.

    Parameters
    ----------
    background
        Data to average over, of the same structure as the inputs.
    samples
        Random draws per input.
    """

    stochastic: ClassVar[bool] = True
    aliases: ClassVar[tuple[str, ...]] = ("gradient_shap",)

    background: Any = None
    samples: int = 64

    def __post_init__(self) -> None:
        positive_int("samples", self.samples)

    def planned_rows(self, batch: int) -> int:
        arrays = flatten(self.background)[0]
        shape = tuple(getattr(arrays[0], "shape", ())) if arrays else ()
        return batch * (self.samples + 1) + (int(shape[0]) if shape else 0)

    def attribute(self, problem: Problem) -> Attribution:
        background = resolve_background(problem, self.background)
        size = int(background[0].shape[0])
        kernel = _ExpectedGradients(problem.pick)
        parts: list[list[Any]] = []
        for block, draws in blocks(problem.batch, self.samples, problem.rows, constant=problem.constant_shapes):
            rows = problem.indices(block.indices)
            sums = zero_sums(problem, block.width, 1)
            all_chosen, all_nodes = _paths(problem, block.indices, self.samples, size)
            for draw in draws:
                chosen, nodes = all_chosen[:, draw.indices], all_nodes[:, draw.indices]
                weights = np.full((1, draw.width), 1.0 / self.samples)
                weights[:, draw.size :] = 0.0
                along = [problem.to_device(nodes, like=leaf) for leaf in problem.varied]
                scale = [problem.to_device(weights, like=leaf) for leaf in problem.varied]
                sums = problem.run(
                    kernel,
                    sums,
                    problem.leaves,
                    background,
                    problem.to_device(chosen),
                    along,
                    scale,
                    rows,
                    problem.index,
                )
                work = block.width * draw.width
                problem.work.add(work, work)
            parts.append(trim(sums, block))
        values = [value[:, 0, ...] for value in join(problem, parts)]
        return Attribution(values, self._residual(problem, background, values))

    def _residual(self, problem: Problem, background: list[Any], values: list[Any]) -> Any:
        """Sum of the values minus (score minus mean score of the background for the same target)."""
        xp, size = problem.xp, int(background[0].shape[0])
        total: Any = sum(xp.sum(xp.reshape(value, (problem.batch, -1)), axis=1) for value in values)
        if problem.origin is not None:
            expected = self._mean_behind_layer(problem, background[0], total)
            return total - (xp.astype(problem.scores_or_known(), total.dtype) - expected)
        mean: Any = None
        for block in spans(size, problem.rows, constant=problem.constant_shapes):
            weights = np.zeros(block.width)
            weights[: block.size] = 1.0 / size
            rows = problem.to_device(np.asarray(block.indices, dtype=np.int64))
            weight = problem.to_device(weights, like=problem.leaves[0])
            part = problem.run(_MeanOutput(problem.pick), background, rows, weight)
            mean = part if mean is None else mean + part
            problem.work.add(block.width)
        expected = problem.run(_PickMean(problem.pick), mean, problem.index)
        return total - (xp.astype(problem.scores_or_known(), total.dtype) - xp.astype(expected, total.dtype))

    def _mean_behind_layer(self, problem: Problem, background: Any, like: Any) -> Any:
        """Mean score (batch,) with the layer's value replaced by each of the background, all else as it is."""
        xp, size = problem.xp, int(background.shape[0])
        mean: Any = xp.zeros_like(like)
        for row in range(size):
            value = xp.broadcast_to(background[row : row + 1, ...], tuple(problem.leaves[0].shape))
            mean = mean + xp.astype(problem.scores([value, *problem.leaves[1:]]), mean.dtype) / size
        return mean


def _paths(
    problem: Problem, rows: list[int], samples: int, size: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Background row and position on the path of each (row, draw); functions of seed, sample and draw alone."""
    golden = (5.0**0.5 - 1.0) / 2.0
    laps = -(-samples // size)
    chosen = np.empty((len(rows), samples), dtype=np.int64)
    start = np.empty((len(rows), 1))
    for i, row in enumerate(rows):
        generator = problem.streams.generator(row, 0, PATH_PART)
        start[i] = generator.random()
        # Sorting random keys lap by lap: more laps never change the earlier ones.
        chosen[i] = np.argsort(generator.random((laps, size)), axis=1).reshape(-1)[:samples]
    return chosen, (start + np.arange(samples) * golden) % 1.0


PATH_PART = 500_000
"""Stream part of the paths, apart from those of noise."""


@dataclass(frozen=True)
class _ExpectedGradients:
    """Kernel: running mean of `(x - x') * gradient`; `chosen` and `nodes` are (samples, draws)."""

    pick: Pick

    def __call__(
        self,
        net: Net,
        sums: Any,
        leaves: list[Any],
        background: list[Any],
        chosen: Any,
        nodes: list[Any],
        weights: list[Any],
        rows: Any,
        index: Any,
    ) -> list[Any]:
        xp = net.xp
        samples, draws = tuple(chosen.shape)
        flat = xp.reshape(chosen, (samples * draws,))
        points, distances = [], []
        for leaf, data, node in zip(leaves, background, nodes, strict=False):
            end = gather(xp, leaf, rows)
            shape = tuple(end.shape)
            start = xp.reshape(xp.take(data, flat, axis=0), (samples, draws, *shape[1:]))
            wide_start, wide_end = xp.astype(start, node.dtype), xp.astype(end, node.dtype)[:, None, ...]
            along = xp.reshape(node, (samples, draws, *(1 for _ in shape[1:])))
            distance = wide_end - wide_start
            points.append(
                xp.reshape(xp.astype(wide_start + along * distance, end.dtype), (samples * draws, *shape[1:]))
            )
            distances.append(distance)
        points += [xp.repeat(gather(xp, leaf, rows), draws, axis=0) for leaf in leaves[len(nodes) :]]
        chosen_index = gather(xp, index, rows)
        repeated = None if chosen_index is None else xp.repeat(chosen_index, draws, axis=0)
        score, pull = net.pullback(points, lambda outputs: self.pick(xp, outputs, repeated))
        out = []
        for position, (before, gradient) in enumerate(zip(sums, pull(xp.ones_like(score)), strict=False)):
            if gradient is None:
                out.append(before)
                continue
            distance, weight = distances[position], weights[position]
            slope = xp.reshape(xp.astype(gradient, distance.dtype), tuple(distance.shape))
            value = xp.matmul(weight, xp.reshape(distance * slope, (samples, draws, -1)))
            out.append(before + xp.reshape(value, tuple(before.shape)))
        return out


@dataclass(frozen=True)
class _MeanOutput:
    """Kernel: weighted sum of the outputs of some rows (1, ...), or of a callable target's scores (1,)."""

    pick: Pick

    def __call__(self, net: Net, background: list[Any], rows: Any, weight: Any) -> Any:
        xp = net.xp
        outputs = net([xp.take(leaf, rows, axis=0) for leaf in background])
        if self.pick.function is not None:
            outputs = self.pick(xp, outputs, None)
        return xp.tensordot(weight, xp.astype(outputs, weight.dtype), axes=([0], [0]))[None, ...]


@dataclass(frozen=True)
class _PickMean:
    """Kernel: mean background score of each sample's target."""

    pick: Pick

    def __call__(self, net: Net, mean: Any, index: Any) -> Any:
        xp = net.xp
        if self.pick.function is not None:
            return mean
        shape = tuple(mean.shape)
        return self.pick(xp, xp.broadcast_to(mean, (tuple(index.shape)[0], *shape[1:])), index)
