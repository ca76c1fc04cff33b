"""Values and importance of the units of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xai_core.attribution.base import Attribution, Explainer, positive_int
from xai_core.attribution.gradient import InputXGradient
from xai_core.attribution.path import straight_points
from xai_core.attribution.quadrature import check_quadrature, quadrature
from xai_core.baselines import resolve_baseline
from xai_core.blocks import blocks
from xai_core.errors import OptionError
from xai_core.layers import Layer
from xai_core.model import Net
from xai_core.problem import Problem, gather, join, trim
from xai_core.targets import Pick

__all__ = ["Conductance", "GradientXActivation", "InternalInfluence", "LayerActivation"]


def _required(explainer: Explainer) -> None:
    if explainer.layer is None:
        raise OptionError(
            f"{type(explainer).__name__} looks at a layer.",
            received="layer=None",
            fix='layer="block.conv"; xai.layers(model, x) lists what there is.',
        )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LayerActivation(Explainer):
    """The value of a layer itself, one row forward per sample.

    `values = h(x)`, of the shape of the layer's output. `layer` is required.

    Source: the model itself; no formula is applied.
    """

    differentiates: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _required(self)

    def attribute_at_layer(self, problem: Problem) -> Attribution:
        layer = problem.find(self.layer)
        return Attribution(problem.read([layer]), layer=problem.name_of(layer))

    def attribute(self, problem: Problem) -> Attribution:
        return self.attribute_at_layer(problem)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class GradientXActivation(InputXGradient):
    """A layer's value times the gradient of the score there.

    `values = h * d score / d h`: `InputXGradient` with a layer, which is required here. One row forward per sample, and
    one forward and backward.

    Source: Shrikumar et al. 2016, arXiv:1605.01713, at a hidden layer.
    """

    def __post_init__(self) -> None:
        _required(self)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _AlongInputs(Explainer):
    """Shared part: gradients at a layer while the inputs go straight from a baseline to themselves."""

    steps: int = 32
    baseline: Any = 0.0
    quadrature: str = "gauss_legendre"

    def __post_init__(self) -> None:
        _required(self)
        positive_int("steps", self.steps)
        check_quadrature(self.quadrature)

    def varies_inputs(self) -> bool:
        return True

    def planned_rows(self, batch: int) -> int:
        return batch * (self.steps + 4)

    def attribute(self, problem: Problem) -> Attribution:
        return self.attribute_at_layer(problem)

    def _sums(
        self,
        problem: Problem,
        layer: Layer,
        baseline: list[Any],
        nodes: np.ndarray[Any, Any],
        weights: Any,
        kernel: Any,
    ) -> Any:
        """Run a kernel over all nodes, which carries (sum, previous value, previous gradient) along."""
        value = problem.read([layer])[0]
        parts: list[list[Any]] = []
        for block, steps in blocks(problem.batch, len(nodes), problem.rows, constant=problem.constant_shapes):
            rows = problem.indices(block.indices)
            dtype = problem.accumulator_dtype(value)
            zero = problem.xp.zeros_like(problem.xp.take(value, problem.to_device(block.indices), axis=0), dtype=dtype)
            carried = [zero, zero, zero]
            for step in steps:
                factor = weights[step.indices].copy()
                factor[step.size :] = 0.0
                along = [problem.to_device(nodes[step.indices], like=leaf) for leaf in problem.leaves]
                scale = problem.to_device(factor, like=value)
                carried = problem.run(kernel, carried, problem.leaves, baseline, along, scale, rows, problem.index)
                work = block.width * step.width
                problem.work.add(work, work)
            parts.append(trim([carried[0]], block))
        return join(problem, parts)[0]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Conductance(_AlongInputs):
    """How much of the change of the score flows through each unit of a layer.

    `values = sum_k g_k (h_k - h_{k-1})`: the value `h` of the layer along the straight path of the inputs, and the
    gradient of the score there between two nodes, their mean (trapezoid), or that at the left or right one. Complete
    for a layer that everything passes: the values sum to `f(x) - f(x')` up to `residual`. `steps + 1` rows forward and
    backward per sample.

    Source: Dhamdhere et al. 2018, arXiv:1805.12233, definition 2; computed as in Shrikumar et al. 2018,
    arXiv:1807.09946, equation 5.

    Parameters
    ----------
    layer
        The layer, required.
    steps
        Intervals of the path, of equal length.
    baseline
        Where the path of the inputs begins, as for `IntegratedGradients`.
    quadrature
        `"trapezoid"`, `"riemann_left"` or `"riemann_right"`.
    """

    quadrature: str = "trapezoid"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quadrature not in _SIDES:
            raise OptionError(
                "Conductance adds up over intervals, between nodes that include both ends.",
                received=f"quadrature={self.quadrature!r}",
                fix=f"one of {', '.join(map(repr, _SIDES))}.",
            )

    def attribute_at_layer(self, problem: Problem) -> Attribution:
        layer = problem.find(self.layer)
        baseline = resolve_baseline(problem, self.baseline)
        nodes = np.arange(self.steps + 1) / self.steps
        weights = np.ones(self.steps + 1)
        weights[0] = 0.0
        kernel = _Conductance(problem.pick, layer, _SIDES[self.quadrature])
        total = self._sums(problem, layer, baseline, nodes, weights, kernel)
        change = problem.scores_or_known() - problem.scores(baseline)
        xp = problem.xp
        gap = xp.sum(xp.reshape(total, (problem.batch, -1)), axis=1) - xp.astype(change, total.dtype)
        return Attribution([total], gap, layer=problem.name_of(layer))


_SIDES = {"trapezoid": (0.5, 0.5), "riemann_left": (1.0, 0.0), "riemann_right": (0.0, 1.0)}
"""Weights of the gradients at the left and the right end of an interval."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class InternalInfluence(_AlongInputs):
    """Mean gradient of the score at a layer while the inputs go straight from a baseline to themselves.

    `values = integral_0^1 dF/dh(x' + a (x - x')) da`. `steps` rows forward and backward per sample.

    Source: Leino et al. 2018, arXiv:1802.03788, definition 1, with the uniform distribution on the path. Parameters as
    for `IntegratedGradients`; `layer` is required.
    """

    def attribute_at_layer(self, problem: Problem) -> Attribution:
        layer = problem.find(self.layer)
        baseline = resolve_baseline(problem, self.baseline)
        nodes, weights = quadrature(self.quadrature, self.steps)
        total = self._sums(problem, layer, baseline, nodes, weights, _Influence(problem.pick, layer))
        return Attribution([total], layer=problem.name_of(layer))


def _at_points(
    net: Net, pick: Pick, layer: Layer, leaves: list[Any], baseline: list[Any], nodes: list[Any], rows: Any, index: Any
) -> tuple[Any, Any, int]:
    """Value of a layer and gradient there at points of the inputs' paths, (samples, nodes, ...), and the number of nodes."""
    xp = net.xp
    draws = tuple(nodes[0].shape)[0]
    points = straight_points(xp, leaves, baseline, nodes, rows)
    chosen = gather(xp, index, rows)
    repeated = None if chosen is None else xp.repeat(chosen, draws, axis=0)
    values, resume = net.tap(points, [layer])
    score, pull = net.backend.vjp(lambda inner: pick(xp, resume(inner), repeated), values)
    gradient = pull(xp.ones_like(score))[0]
    gradient = xp.zeros_like(values[0]) if gradient is None else gradient
    shape = tuple(values[0].shape)
    wide = (shape[0] // draws, draws, *shape[1:])
    return xp.reshape(values[0], wide), xp.reshape(gradient, wide), draws


@dataclass(frozen=True)
class _Conductance:
    """Kernel: add up gradient times change of the layer's value over some intervals."""

    pick: Pick
    layer: Layer
    sides: tuple[float, float]

    def __call__(
        self,
        net: Net,
        carried: list[Any],
        leaves: list[Any],
        baseline: list[Any],
        nodes: list[Any],
        weights: Any,
        rows: Any,
        index: Any,
    ) -> list[Any]:
        xp = net.xp
        total, before, slope_before = carried
        value, slope, draws = _at_points(net, self.pick, self.layer, leaves, baseline, nodes, rows, index)
        value, slope = xp.astype(value, total.dtype), xp.astype(slope, total.dtype)
        left = xp.concat([before[:, None, ...], value[:, :-1, ...]], axis=1)
        slope_left = xp.concat([slope_before[:, None, ...], slope[:, :-1, ...]], axis=1)
        weight = xp.reshape(xp.astype(weights, total.dtype), (1, draws, *(1 for _ in tuple(value.shape)[2:])))
        part = (self.sides[0] * slope_left + self.sides[1] * slope) * (value - left) * weight
        return [total + xp.sum(part, axis=1), value[:, -1, ...], slope[:, -1, ...]]


@dataclass(frozen=True)
class _Influence:
    """Kernel: add up weighted gradients at a layer."""

    pick: Pick
    layer: Layer

    def __call__(
        self,
        net: Net,
        carried: list[Any],
        leaves: list[Any],
        baseline: list[Any],
        nodes: list[Any],
        weights: Any,
        rows: Any,
        index: Any,
    ) -> list[Any]:
        xp = net.xp
        total = carried[0]
        _, slope, draws = _at_points(net, self.pick, self.layer, leaves, baseline, nodes, rows, index)
        weight = xp.reshape(xp.astype(weights, total.dtype), (1, draws, *(1 for _ in tuple(slope.shape)[2:])))
        return [total + xp.sum(xp.astype(slope, total.dtype) * weight, axis=1), *carried[1:]]
