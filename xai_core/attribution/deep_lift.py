"""DeepLIFT: the difference of the score from that at a reference, handed back operation by operation; and DeepSHAP.

With `D` for the difference of a value between the input and the reference, every operation gets multipliers `m` such that
`D output * m_out` is the sum of `D input * m_in` over its inputs. The multipliers of the inputs therefore add up to the
difference of the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xai_core.attribution.base import Attribution
from xai_core.attribution.ruled import Plan, Ruled, blockwise, covered, fitted, seed, settled
from xai_core.baselines import resolve_background, resolve_baseline
from xai_core.blocks import blocks
from xai_core.errors import OptionError
from xai_core.folding import fold, join_units
from xai_core.model import Net
from xai_core.operations import LINEAR, Program, Step, Tape, forward
from xai_core.problem import Problem, gather, join, trim
from xai_core.propagation import Message, Operation, OwnPullback, Rule, kept
from xai_core.targets import Pick

__all__ = ["DeepLIFT", "DeepSHAP", "LiftPlan", "contributions", "multipliers"]


def _near(xp: Any, array: Any) -> float:
    """Differences below this, relative to the magnitude of the values, are too small for a quotient of differences."""
    return 1e-14 if array.dtype == xp.float64 else 1e-6


def _compared(op: Operation) -> tuple[Operation, Operation]:
    if op.reference is None:
        raise OptionError("A rule of DeepLIFT needs a reference run.", fix="use it in DeepLIFT.")
    return op, op.reference


def _quotient(xp: Any, above: Any, below: Any, otherwise: Any, scale: Any) -> Any:
    """Quotient of differences; `otherwise` where the divisor is within rounding of zero."""
    near = _near(xp, below)
    some = xp.abs(below) > near * (scale + near)
    return xp.where(some, above / xp.where(some, below, xp.ones_like(below)), otherwise)


@dataclass(frozen=True)
class Rescale(Rule):
    """Activations: `m = D y / D x`, Shrikumar et al. 2017, section 3.5.1; the derivative half way where `D x` vanishes."""

    name: ClassVar[str] = "rescale"

    def __call__(self, op: Operation) -> list[Any]:
        xp = op.xp
        here, there = _compared(op)
        x, start = here.live[0], there.live[0]
        if op.step.name == "relu":
            # Of either side of the kink a quotient is exact, however small; at no difference there is no contribution.
            difference = x - start
            found = op.slope * ((here.output - there.output) / difference)
            return [xp.where(difference == 0, difference, found)]
        slope = op.pull_at([(x + start) / 2], xp.ones_like(op.output))[0]
        ratio = _quotient(xp, here.output - there.output, x - start, slope, xp.abs(x) + xp.abs(start))
        return [op.slope * ratio]


@dataclass(frozen=True)
class Midpoint(Rule):
    """Products: the derivative half way between both runs, which for a product of two is exact.

    Each factor gets the mean of both orders in which the two can change, as Shapley values do.
    """

    name: ClassVar[str] = "midpoint"

    def __call__(self, op: Operation) -> list[Any]:
        here, there = _compared(op)
        return op.pull_at([(a + b) / 2 for a, b in zip(here.live, there.live, strict=True)], op.slope)


@dataclass(frozen=True)
class Steady(Rule):
    """Normalisation: the data changes first, where the deviation is that of the run in which it is larger.

    Exact like any order of the two changes. Half way between both runs would be as well, but a reference without deviation
    would give multipliers in the thousands that cancel: those of a constant image, for example.
    """

    name: ClassVar[str] = "normalisation"

    def __call__(self, op: Operation) -> list[Any]:
        xp = op.xp
        here, there = _compared(op)
        place = op.step.live.index(op.step.facts["normaliser"])
        other = 1 - place
        factor, before = here.live[place], there.live[place]
        first = xp.abs(factor) <= xp.abs(before)
        parts = {
            other: op.slope * xp.where(first, factor, before),
            place: op.slope * xp.where(first, there.live[other], here.live[other]),
        }
        return [_unbroadcast(op, position, parts[position]) for position in (0, 1)]


@dataclass(frozen=True)
class Quotient(Rule):
    """Quotients: the numerator changes first, over the larger one of the two denominators; then the reciprocal."""

    name: ClassVar[str] = "quotient"

    def __call__(self, op: Operation) -> list[Any]:
        xp = op.xp
        here, there = _compared(op)
        (a, b), (a0, b0) = here.live, there.live
        first = xp.abs(b) >= xp.abs(b0)
        numerator = _unbroadcast(op, 0, op.slope / xp.where(first, b, b0))
        # 1/b - 1/b0 = (b - b0) * -1/(b b0)
        denominator = _unbroadcast(op, 1, op.slope * xp.where(first, a0, a) * (-1 / (b * b0)))
        return [numerator, denominator]


def _unbroadcast(op: Operation, place: int, slope: Any) -> Any:
    """Sum over the axes along which an operand was broadcast."""
    xp, shape = op.xp, tuple(op.live[place].shape)
    wide = tuple(slope.shape)
    behind = len(wide) - len(shape)
    axes = tuple(axis for axis in range(len(wide)) if axis < behind or (shape[axis - behind] == 1 and wide[axis] != 1))
    return xp.reshape(xp.sum(slope, axis=axes, keepdims=True), shape) if axes else slope


@dataclass(frozen=True)
class SoftmaxParts(Rule):
    """Softmax and its logarithm, by what they are made of: exponentials, their sum, and a quotient or logarithm.

    Both runs are shifted by the same number, which a softmax does not notice.
    """

    name: ClassVar[str] = "softmax"

    def __call__(self, op: Operation) -> list[Any]:
        xp = op.xp
        here, there = _compared(op)
        x, start, axis = here.live[0], there.live[0], op.step.facts["axis"]
        top = xp.where(x > start, x, start)
        shift = xp.max(top, axis=axis, keepdims=True)
        grown, before = xp.exp(x - shift), xp.exp(start - shift)
        total, total_before = (xp.sum(part, axis=axis, keepdims=True) for part in (grown, before))
        rise = _quotient(xp, grown - before, x - start, xp.exp((x + start) / 2 - shift), xp.abs(x) + xp.abs(start))
        if op.step.kind == "log_softmax":
            change = _quotient(
                xp, xp.log(total) - xp.log(total_before), total - total_before, 2 / (total + total_before), total
            )
            return [op.slope - xp.sum(op.slope, axis=axis, keepdims=True) * change * rise]
        own = op.slope * (1 / total + 1 / total_before) / 2
        shared = xp.sum(op.slope * (grown + before) / 2, axis=axis, keepdims=True) / (total * total_before)
        return [(own - shared) * rise]


@dataclass(frozen=True)
class Winner(Rule):
    """Largest of several: the change goes to the winner of the run in which the result is larger.

    That element changes by at least as much as the result, so that multipliers are between 0 and 1.
    """

    name: ClassVar[str] = "winner"

    def __call__(self, op: Operation) -> list[Any]:
        xp = op.xp
        here, there = _compared(op)
        smallest = op.step.kind in ("min_pool", "minimum")
        change = here.output - there.output
        larger = change <= 0 if smallest else change >= 0
        flow = op.slope * change
        first = kept(xp, flow, larger)
        from_here, from_there = op.pull(first), there.pull(flow - first)
        found = []
        for a, b, x, start in zip(from_here, from_there, here.live, there.live, strict=True):
            # The winner's own change is no smaller than the result's, rounded or not: the quotient stays below one.
            # Compared, not subtracted: two infinite values that are masked are the same.
            found.append(xp.where(x == start, xp.zeros_like(x), (a + b) / (x - start)))
        return found


@dataclass(frozen=True)
class Selected(Rule):
    """A choice between two values: each run's own choice, half of it from either."""

    name: ClassVar[str] = "selection"

    def __call__(self, op: Operation) -> list[Any]:
        _, there = _compared(op)
        chosen = zip(op.pull(op.slope), there.pull(op.slope), strict=True)
        return [(a + b) / 2 for a, b in chosen]


@dataclass(frozen=True)
class Passed(Rule):
    """What passes values on though no derivative is to flow: the difference passes all the same."""

    name: ClassVar[str] = "identity"

    def __call__(self, op: Operation) -> list[Any]:
        return [op.slope]


@dataclass(frozen=True)
class LinearOwn(OwnPullback):
    """Linear operations: their own derivative, which is exact for differences."""

    name: ClassVar[str] = "linear"


@dataclass(frozen=True)
class RevealCancel(Rule):
    """Linear operation and activation together: what raises and what lowers the sum each get their own multiplier.

    Shrikumar et al. 2017, section 3.5.3: with `p` and `n` the positive and negative contributions to the change of the sum,
    `D y+` is the mean of the changes of the activation by `p` with and without `n`, `D y-` the other way round.
    """

    name: ClassVar[str] = "reveal-cancel"

    def __call__(self, op: Operation) -> list[Any]:
        xp = op.xp
        here, there = _compared(op)
        w, change = op.weight, here.live[0] - there.live[0]
        zero = xp.zeros_like(w)
        up, down = xp.where(w > 0, w, zero), xp.where(w < 0, w, zero)

        def parts(delta: Any) -> tuple[Any, Any]:
            nothing = xp.zeros_like(delta)
            above, below = xp.where(delta > 0, delta, nothing), xp.where(delta < 0, delta, nothing)
            raised = op.weighted(above, up) + op.weighted(below, down)
            return raised, op.weighted(above, down) + op.weighted(below, up)

        raised, lowered = parts(change)
        start = there.weighted(there.live[0], w)
        dtype = start.dtype  # batch norm of halves computes in single precision
        start = start if op.bias is None else start + xp.astype(op.bias, dtype)
        function = op.step.facts["activation"]
        shifts = (xp.zeros_like(start), raised, lowered, raised + lowered)
        y0, y_up, y_down, y = (xp.astype(function(op.inputs, start + shift), dtype) for shift in shifts)
        none = xp.zeros_like(start)
        size, slope = xp.abs(start), xp.astype(op.slope, dtype)
        up_slope = slope * _quotient(xp, (y_up - y0 + y - y_down) / 2, raised, none, size)
        down_slope = slope * _quotient(xp, (y_down - y0 + y - y_up) / 2, lowered, none, size)

        def shared(delta: Any) -> Any:
            more, less = parts(delta)
            return up_slope * more + down_slope * less

        return [op.pull_function(shared, change, xp.ones_like)]


_RULES: dict[str, Rule] = {
    "activation": Rescale(),
    "product": Midpoint(),
    "normalise": Steady(),
    "bilinear": Midpoint(),
    "division": Quotient(),
    "softmax": SoftmaxParts(),
    "log_softmax": SoftmaxParts(),
    "max_pool": Winner(),
    "min_pool": Winner(),
    "maximum": Winner(),
    "minimum": Winner(),
    "select": Selected(),
    "stop": Passed(),
    "unit": RevealCancel(),
    **{kind: LinearOwn() for kind in LINEAR},
}


_CHOOSING = ("max_pool", "min_pool", "maximum", "minimum", "select")


@dataclass(frozen=True)
class LiftPlan(Plan):
    """The rules of DeepLIFT."""

    cancel: bool = False

    def program(self, net: Any, leaves: list[Any], varied: int) -> Program:
        program = fold(super().program(net, leaves, varied), net.xp)
        return join_units(program) if self.cancel else program

    def rule(self, step: Step, program: Program) -> Rule | None:
        # Where the two runs choose differently, no multiplier of what they choose from gives the difference.
        return None if step.facts.get("swayed") else _RULES.get(step.kind)

    def wants_pullback(self, step: Step) -> bool:
        return step.kind in LINEAR or step.kind in _CHOOSING

    def start(self, program: Program, net: Any, leaves: Sequence[Any]) -> Tape:
        """The reference run, of which values are wanted, and what was chosen."""
        return forward(program, net.backend, leaves, lambda step: step.kind in _CHOOSING)


@dataclass(frozen=True)
class _Lift:
    """Kernel: contributions of some rows against references, and their gap to the change of the score.

    `references` are the baseline's leaves, taken at `rows`, and what `settled` takes comes last; or with `among` those of
    a data set, taken at `among`.
    """

    plan: LiftPlan
    pick: Pick
    varied: int

    def __call__(
        self, net: Net, leaves: list[Any], references: list[Any], rows: Any, index: Any, among: Any = None
    ) -> list[Any]:
        xp = net.xp
        draws = 1 if among is None else tuple(among.shape)[0]

        def each(array: Any) -> Any:
            own = gather(xp, array, rows)
            return own if own is None or among is None else xp.repeat(own, draws, axis=0)

        points = [each(leaf) for leaf in leaves]
        samples = tuple(points[0].shape)[0] // draws
        if among is None:
            starts = [gather(xp, start, rows) for start in references]
        else:
            places = xp.reshape(xp.broadcast_to(among[None, :], (samples, draws)), (-1,))
            starts = [xp.take(start, places, axis=0) for start in references]
        starts += points[len(starts) :]
        values, gap, lifted = contributions(net, self.plan, self.pick, points, starts, each(index), self.varied)
        if among is None:
            return [*values, gap, lifted.score, lifted.empty, *([] if lifted.index is None else [lifted.index])]
        return [xp.reshape(part, (samples, draws, *tuple(part.shape)[1:])) for part in (*values, gap)]


def contributions(
    net: Any, plan: LiftPlan, pick: Pick, points: list[Any], starts: list[Any], index: Any, varied: int
) -> tuple[list[Any], Any, Lifted]:
    """Differences times multipliers at the varied leaves, their sum minus the change of the score, and how they came."""
    program = plan.program(net, points, varied)
    lifted = multipliers(net, plan, pick, program, points, starts, index)
    values, gap = differences(net, program, lifted.found, points, starts, lifted.change)
    return values, gap, lifted


def differences(
    net: Any, program: Program, found: dict[int, Message], points: list[Any], starts: list[Any], change: Any
) -> tuple[list[Any], Any]:
    """Differences times multipliers, and their sum minus the change of the score."""
    xp, varied = net.xp, program.varied
    values = []
    total: Any = 0.0
    for value, point, start in zip(program.graph.inputs, points[:varied], starts, strict=False):
        slope = found[value].slope
        part = xp.zeros_like(point) if slope is None else (point - start) * slope
        values.append(part)
        wide = part if part.dtype in (xp.float32, xp.float64) else xp.astype(part, xp.float32)
        total = total + xp.sum(xp.reshape(wide, (tuple(wide.shape)[0], -1)), axis=1)
    return values, total - xp.astype(change, total.dtype)


@dataclass(frozen=True, eq=False)
class Lifted:
    """Multipliers as messages, both runs, the score, its change, outputs without rows, and the index of the target."""

    found: dict[int, Message]
    tape: Tape
    reference: Tape
    score: Any
    change: Any
    empty: Any
    index: Any


def multipliers(
    net: Any,
    plan: LiftPlan,
    pick: Pick,
    program: Program,
    points: list[Any],
    starts: list[Any],
    index: Any,
    watch: Sequence[int] = (),
) -> Lifted:
    """Run a program on points and on references, and hand the difference of the score back."""
    tape = plan.run(program, net, points)
    reference = plan.start(program, net, starts)
    outputs, before = tape.output(program), reference.output(program)
    chosen = fitted(net, pick, outputs, index)
    score, _ = seed(net, pick, outputs, chosen)
    score_before, _ = seed(net, pick, before, chosen)
    # A target that is a function of the scores: half way, which is exact for linear and quadratic ones.
    _, cotangent = seed(net, pick, (outputs + before) / 2, chosen)
    found = plan.back(program, net, tape, Message(cotangent), reference=reference, watch=watch)
    return Lifted(found, tape, reference, score, score - score_before, outputs[:0, ...], chosen)


def _check_rule(rule: str) -> None:
    if rule not in ("rescale", "reveal_cancel"):
        raise OptionError(
            "`rule` is how activations are treated.", received=repr(rule), fix="rule='rescale' or rule='reveal_cancel'"
        )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DeepLIFT(Ruled):
    """Difference of the score from that at a reference, handed back operation by operation.

    `values = (x - x') m`, the multipliers `m` by the rescale rule at activations, `m = D y / D x`. Complete: the values
    sum to `f(x) - f(x')` up to rounding, which is reported per sample as `residual`, for max pooling, products, attention,
    softmax and normalisation as well. Two rows forward and one backward per sample.

    Source: Shrikumar et al. 2017, arXiv:1704.02685, section 3; products half way between the two runs, the largest of
    several by the winner.

    Parameters
    ----------
    baseline
        The reference `x'`, as for `IntegratedGradients`.
    rule
        `"rescale"`, or `"reveal_cancel"`, which keeps apart what raises and what lowers the sum before an activation.
    unsupported
        What becomes of operations that have no rule: `"error"` or `"gradient"`.

    Raises
    ------
    UnsupportedOperation
        If an operation has no rule.
    """

    settles: ClassVar[bool] = True

    baseline: Any = 0.0
    rule: str = "rescale"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_rule(self.rule)

    def plan(self, problem: Problem) -> LiftPlan:
        return LiftPlan(type(self).__name__, self.unsupported, self.rule == "reveal_cancel")

    def planned_rows(self, batch: int) -> int:
        return 3 * batch

    def attribute(self, problem: Problem) -> Attribution:
        plan = self.plan(problem)
        hit = covered(problem, plan)
        baseline = resolve_baseline(problem, self.baseline)
        kernel = _Lift(plan, problem.pick, len(problem.varied))
        (*values, gap), problem = settled(problem, blockwise(problem, kernel, baseline, rows=(2, 1)))
        return Attribution(values, gap, coverage=hit, problem=problem)


@dataclass(frozen=True)
class _Mean:
    """Kernel: running sums of contributions over a part of the background."""

    inner: _Lift

    def __call__(
        self,
        net: Net,
        sums: list[Any],
        leaves: list[Any],
        references: list[Any],
        among: Any,
        weights: Any,
        rows: Any,
        index: Any,
    ) -> list[Any]:
        xp = net.xp
        out = []
        for before, found in zip(sums, self.inner(net, leaves, references, rows, index, among), strict=True):
            shape = tuple(found.shape)
            flat = xp.reshape(xp.astype(found, before.dtype), (shape[0], shape[1], -1))
            mean = xp.matmul(xp.astype(weights, before.dtype)[None, None, :], flat)
            out.append(before + xp.reshape(mean, tuple(before.shape)))
        return out


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DeepSHAP(Ruled):
    """DeepLIFT averaged over a background data set: approximate Shapley values against its mean score.

    `values = mean_r (x - x_r) m_r` over the rows `x_r` of the background. Complete: the values sum to `f(x)` minus the
    mean score of the background up to rounding, reported as `residual`. Two rows forward and one backward per sample and
    row of the background.

    Source: Lundberg and Lee 2017, arXiv:1705.07874, section 4.2, with the rules of `DeepLIFT`.

    Parameters
    ----------
    background
        Data to average over, of the same structure as the inputs; all rows are used.
    rule, unsupported
        As for `DeepLIFT`.
    """

    background: Any = None
    rule: str = "rescale"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_rule(self.rule)

    def plan(self, problem: Problem) -> LiftPlan:
        return LiftPlan(type(self).__name__, self.unsupported, self.rule == "reveal_cancel")

    def planned_rows(self, batch: int) -> int:
        shape = tuple(getattr(self.background, "shape", ()))
        return batch * (1 + 2 * (int(shape[0]) if shape else 1))

    def attribute(self, problem: Problem) -> Attribution:
        plan = self.plan(problem)
        hit = covered(problem, plan)
        background = resolve_background(problem, self.background)
        size = int(background[0].shape[0])
        kernel = _Mean(_Lift(plan, problem.pick, len(problem.varied)))
        xp = problem.xp
        parts: list[list[Any]] = []
        for block, draws in blocks(problem.batch, size, problem.rows, constant=problem.constant_shapes):
            rows = problem.indices(block.indices)
            sums = [
                xp.zeros_like(
                    xp.broadcast_to(leaf[:1, ...], (block.width, *tuple(leaf.shape)[1:])),
                    dtype=problem.accumulator_dtype(leaf),
                )
                for leaf in problem.varied
            ]
            sums.append(xp.sum(xp.reshape(sums[0], (block.width, -1)), axis=1))
            for draw in draws:
                weights = np.full(draw.width, 1.0 / size)
                weights[draw.size :] = 0.0
                among = problem.to_device(np.asarray(draw.indices, dtype=np.int64))
                scale = problem.to_device(weights, like=problem.varied[0])
                sums = list(problem.run(kernel, sums, problem.leaves, background, among, scale, rows, problem.index))
                problem.work.add(2 * block.width * draw.width, block.width * draw.width)
            parts.append(trim(sums, block))
        *values, gap = join(problem, parts)
        return Attribution(values, gap, coverage=hit)
