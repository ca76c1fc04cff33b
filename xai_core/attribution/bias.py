"""What the biases of a network contribute: full gradients, and bias attribution.

A piecewise linear network is `f(x) = x . g + sum of b_j g_j` over all its biases, `g` the gradient at the input and `g_j`
that at the unit. The gradient alone leaves the second part out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from xai_core.attribution.base import Attribution
from xai_core.attribution.cam import Canvas, canvas, lay_maps
from xai_core.attribution.ruled import Plan, Ruled, blockwise, covered, seed
from xai_core.errors import OptionError
from xai_core.folding import fold
from xai_core.model import Net
from xai_core.operations import Program, Step, analyse
from xai_core.problem import Problem, gather
from xai_core.propagation import Message, Operation, Rule, stabilised
from xai_core.targets import Pick

__all__ = ["BiasAttribution", "FullGrad"]


def _own_bias(op: Operation) -> Any:
    """What a step adds to its linear part at the present point, broadcastable to its output; `None` for nothing."""
    step = op.step
    if step.kind == "linear":
        return op.bias
    if step.kind == "shift":
        turned = step.facts.get("of") == "subtract" and step.live == (1,)
        return op.output + op.live[0] if turned else op.output - op.live[0]
    if step.kind == "activation" and step.name != "relu":
        return op.output - op.live[0] * op.pull_at(op.live, op.xp.ones_like(op.output))[0]
    return None


def _magnitude_share(op: Operation, amount: Any) -> list[Any]:
    """An amount at the output of a linear step, shared among its inputs by the magnitude of what each contributes."""
    xp = op.xp
    sizes = [xp.abs(x) for x in op.live]
    if op.step.kind == "linear":
        weights = xp.abs(op.weight)
        slope = op.pull_function(
            lambda x: op.weighted(x, weights), sizes[0], lambda total: amount / stabilised(xp, total, 1e-12)
        )
        return [sizes[0] * slope]
    if op.step.kind in ("add", "subtract"):
        parts = op.pull_functions(
            lambda points: points[0] + points[1], sizes, lambda total: amount / stabilised(xp, total, 1e-12)
        )
    else:
        parts = op.pull_at(op.live, amount / stabilised(xp, op.run(*sizes), 1e-12))
    return [size * part for size, part in zip(sizes, parts, strict=True)]


@dataclass(frozen=True)
class _Bias(Rule):
    """The slope is the gradient; the amount is what biases behind contribute, on its way to the inputs."""

    name: ClassVar[str] = "bias"

    def __call__(self, op: Operation) -> list[Any]:
        slope, amount, kind = op.message.slope, op.message.amount, op.step.kind
        if slope is None:
            slope = op.xp.zeros_like(op.output)
        bias = _own_bias(op)
        if bias is not None:
            added = bias * slope
            amount = added if amount is None else amount + added
        active = op.step.name == "relu"
        slopes = [op.xp.where(op.live[0] > 0, slope, op.xp.zeros_like(slope))] if active else op.pull(slope)
        if amount is None:
            return [Message(part) for part in slopes]
        if kind in ("activation", "shift", "scale", "negate"):
            amounts = [amount]
        elif kind in ("max_pool", "min_pool", "maximum", "minimum", "select", "pick"):
            amounts = op.pull_at(op.live, amount)
        else:
            amounts = _magnitude_share(op, amount)
        return [Message(*pair) for pair in zip(slopes, amounts, strict=True)]


_KINDS = {
    *("linear", "shift", "scale", "negate", "add", "subtract", "sum", "activation"),
    *("max_pool", "min_pool", "maximum", "minimum", "select", "pick"),
}


@dataclass(frozen=True)
class _BiasPlan(Plan):
    """One rule for what is linear, or linear piece by piece."""

    def rule(self, step: Step, program: Program) -> Rule | None:
        return _Bias() if step.kind in _KINDS else None

    def program(self, net: Any, leaves: list[Any], varied: int) -> Program:
        return fold(analyse(net.graph(leaves), varied, net.backend), net.xp)

    def wants_pullback(self, step: Step) -> bool:
        return step.name != "relu"


@dataclass(frozen=True)
class _Amounts:
    """Kernel: what biases contribute, by input; and the gap to the score with the gradient's part."""

    plan: _BiasPlan
    pick: Pick
    varied: int

    def __call__(self, net: Net, leaves: list[Any], rows: Any, index: Any) -> list[Any]:
        xp = net.xp
        points = [gather(xp, leaf, rows) for leaf in leaves]
        program = self.plan.program(net, points, self.varied)
        tape = self.plan.run(program, net, points)
        score, start = seed(net, self.pick, tape.output(program), gather(xp, index, rows))
        found = self.plan.back(program, net, tape, Message(start))
        values = []
        total: Any = -score
        for point, value in zip(points[: self.varied], program.graph.inputs, strict=False):
            message = found[value]
            values.append(xp.zeros_like(point) if message.amount is None else message.amount)
            whole = message.relevance(point)
            total = total + xp.sum(xp.reshape(whole, (tuple(whole.shape)[0], -1)), axis=1)
        return [*values, total]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class BiasAttribution(Ruled):
    """What the biases contribute to the score, handed back to the inputs: the part that gradient times input leaves out.

    `values = beta`, such that `sum(beta) + x . grad f = f(x)` up to `residual`: the bias of every layer, times the gradient
    there, is shared among the layer's inputs by the magnitude of what each contributes, `|w_ij x_j| / sum_j |w_ij x_j|`, and
    so on to the inputs of the model. One row forward and backward per sample, and another of magnitudes.

    Source: Wang et al. 2019, ICML, "Bias Also Matters", algorithm 1, with shares by contribution.

    Parameters
    ----------
    unsupported
        What becomes of operations that are not linear, nor linear piece by piece: `"error"` or `"gradient"`.

    Raises
    ------
    UnsupportedOperation
        If there is one.
    """

    def plan(self, problem: Problem) -> _BiasPlan:
        return _BiasPlan(type(self).__name__, self.unsupported)

    def attribute(self, problem: Problem) -> Attribution:
        plan = self.plan(problem)
        hit = covered(problem, plan)
        *values, gap = blockwise(problem, _Amounts(plan, problem.pick, len(problem.varied)), rows=(1, 1))
        return Attribution(values, gap, coverage=hit)


@dataclass(frozen=True)
class _Spatial:
    """Kernel: shapes of the values at which biases with a map are added, as rules see them."""

    plan: _BiasPlan
    varied: int
    over: Canvas

    def __call__(self, net: Net, leaves: list[Any]) -> tuple[tuple[int, ...], ...]:
        program = self.plan.program(net, leaves, self.varied)
        return tuple(program.graph.shapes[step.outputs[0]] for step in _biased(program, self.over))


def _biased(program: Program, over: Canvas) -> list[Step]:
    """Steps with biases on maps of the input."""
    found = []
    for step in program.active:
        shape = program.graph.shapes[step.outputs[0]]
        has = (step.kind == "linear" and step.facts["offset"] is not None) or step.kind == "shift"
        if has and len(shape) == len(over.sizes) + 2 and math.prod(shape[1:]) > max(shape[1:]):
            found.append(step)
    return found


@dataclass(frozen=True)
class _FullGradient:
    """Kernel: maps (rows, positions) of the input's part and of each layer's biases, and the gap to the score."""

    plan: _BiasPlan
    pick: Pick
    varied: int
    over: Canvas
    channels: tuple[int, ...]

    def __call__(self, net: Net, leaves: list[Any], rows: Any, index: Any) -> list[Any]:
        xp = net.xp
        points = [gather(xp, leaf, rows) for leaf in leaves]
        program = self.plan.program(net, points, self.varied)
        tape = self.plan.run(program, net, points)
        score, start = seed(net, self.pick, tape.output(program), gather(xp, index, rows))
        steps = [step for step in program.active if step.outputs[0] in tape.values]
        watch = [step.outputs[0] for step in steps]
        found = self.plan.back(program, net, tape, Message(start), watch=watch)
        places = {step.outputs: place for place, step in enumerate(program.steps)}
        total: Any = -score
        parts: dict[int, Any] = {}
        for step in steps:
            slope = found[step.outputs[0]].slope
            if slope is None or step.kind not in _KINDS:
                continue
            bias = _own_bias(Operation(step, places[step.outputs], net.backend, tape, Message(slope)))
            if bias is not None:
                parts[step.outputs[0]] = bias * slope
                total = total + xp.sum(xp.reshape(parts[step.outputs[0]], (tuple(slope.shape)[0], -1)), axis=1)
        out = []
        for position, (point, value) in enumerate(zip(points[: self.varied], program.graph.inputs, strict=False)):
            slope = found[value].slope
            own = xp.zeros_like(point) if slope is None else point * slope
            total = total + xp.sum(xp.reshape(own, (tuple(own.shape)[0], -1)), axis=1)
            if position == self.over.position:
                out.append(_scaled(xp, own, self.channels[0]))
        for step, channel in zip(_biased(program, self.over), self.channels[1:], strict=True):
            part = parts.get(step.outputs[0])
            value = tape.values[step.outputs[0]]
            out.append(_scaled(xp, xp.zeros_like(value) if part is None else part, channel))
        return [*out, total]


def _scaled(xp: Any, value: Any, channel: int) -> Any:
    """Magnitudes between 0 and 1 for each sample, summed over channels: (rows, positions)."""
    shape = tuple(value.shape)
    size = xp.abs(value)
    axes = tuple(range(1, len(shape)))
    low = xp.min(size, axis=axes, keepdims=True)
    width = xp.max(size, axis=axes, keepdims=True) - low
    scaled = (size - low) / xp.where(width > 0, width, xp.ones_like(width))
    return xp.reshape(xp.sum(scaled, axis=channel), (shape[0], -1))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FullGrad(Ruled):
    """Gradient times input and the gradients of all biases, as one map.

    `values = psi(x * g) + sum over layers and channels of psi(b * g_b)`, `psi` the magnitude, scaled to 0..1 for each layer
    and enlarged to the input. The full gradients themselves are complete, `x . g + sum b . g_b = f(x)`, which `residual`
    reports; biases of layers without a map count there alone. One row forward and backward per sample.

    Source: Srinivas and Fleuret 2019, arXiv:1905.00780, equations 3 and 5; enlarged with pixel centres at halves.

    Parameters
    ----------
    unsupported
        What becomes of operations that are not linear, nor linear piece by piece: `"error"` or `"gradient"`.

    Raises
    ------
    UnsupportedOperation
        If there is one.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer is not None:
            raise OptionError(
                "FullGrad adds up all layers.",
                received=f"layer={self.layer!r}",
                fix="leave `layer` out, or use GradCAM.",
            )

    def attribute(self, problem: Problem) -> Attribution:
        plan = _BiasPlan(type(self).__name__, self.unsupported)
        hit = covered(problem, plan)
        over = canvas(problem)
        varied = len(problem.varied)
        first = [leaf[: min(problem.rows, problem.batch), ...] for leaf in problem.leaves]
        shapes = problem.bound.learn(_Spatial(plan, varied, over), first)
        own = tuple(problem.leaves[over.position].shape)
        channels = tuple(_channel(problem, shape) for shape in (own, *shapes))
        kernel = _FullGradient(plan, problem.pick, varied, over, channels)
        *maps, gap = blockwise(problem, kernel, rows=(1, 1))
        grids = [
            tuple(size for axis, size in enumerate(shape) if axis not in (0, channel))
            for shape, channel in zip((own, *shapes), channels, strict=True)
        ]
        laid = [lay_maps(problem, over, grid, flat, relu=False) for grid, flat in zip(grids, maps, strict=True)]
        total: Any = laid[0]
        for part in laid[1:]:
            total = total + part
        return Attribution([total], gap, coverage=hit, layer="all biases")

    def plan(self, problem: Problem) -> _BiasPlan:
        return _BiasPlan(type(self).__name__, self.unsupported)


def _channel(problem: Problem, shape: tuple[int, ...]) -> int:
    channel = problem.bound.channel_axis_of(shape)
    return len(shape) - 1 if channel is None else channel
