"""What methods with backward rules on operations share: trace, analyse, run forward, and let rules say what flows back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xai_core.attribution.base import Explainer
from xai_core.blocks import spans
from xai_core.errors import CapabilityError, InputDependenceError, OptionError
from xai_core.model import Net, bind
from xai_core.operations import OperationTable, Program, Step, Tape, analyse, forward
from xai_core.problem import Problem, Read, gather, join, settle, trim
from xai_core.propagation import Message, Rule, backward, coverage
from xai_core.structure import flatten
from xai_core.targets import Pick, fit_index

__all__ = ["Coverage", "Flow", "Plan", "Ruled", "blockwise", "covered", "fitted", "graph", "seed", "settled"]


@dataclass(frozen=True)
class Plan(ABC):
    """Which rule applies where, for one method with its options; hashable, part of compiled kernels."""

    method: str
    unsupported: str

    @abstractmethod
    def rule(self, step: Step, program: Program) -> Rule | None:
        """Rule of a step; `None` if the method has none for it."""

    def check(self, program: Program) -> None:
        """Refuse options that fit nothing in the model; most have none such."""
        return

    def program(self, net: Any, leaves: list[Any], varied: int) -> Program:
        """The operations that rules see."""
        return analyse(net.graph(leaves), varied, net.backend)

    def run(self, program: Program, net: Any, leaves: Sequence[Any]) -> Tape:
        """One forward run, with the pullbacks that the rules want."""
        return forward(program, net.backend, leaves, self.wants_pullback)

    def wants_pullback(self, step: Step) -> bool:
        """Whether the step's own pullback, at the point of the run, will be used."""
        return True

    def back(
        self,
        program: Program,
        net: Any,
        tape: Tape,
        start: Message,
        *,
        reference: Tape | None = None,
        watch: Sequence[int] = (),
    ) -> dict[int, Message]:
        """Messages at the inputs and at the values to watch."""
        return backward(
            program,
            net.backend,
            tape,
            start,
            lambda step: self.rule(step, program),
            unsupported=self.unsupported,
            method=self.method,
            reference=reference,
            watch=watch,
        )


def seed(net: Any, pick: Pick, outputs: Any, index: Any) -> tuple[Any, Any]:
    """Explained scores (rows,) of a model's outputs, and their gradient there."""
    xp = net.xp
    score, pull = net.backend.vjp(lambda inner: pick(xp, inner[0], index), [outputs])
    return score, pull(xp.ones_like(score))[0]


def fitted(net: Any, pick: Pick, outputs: Any, index: Any) -> Any:
    """The index, or that of the predicted class where none was given; `None` for a callable target."""
    return None if pick.function is not None else fit_index(net.xp, outputs, index)


def settled(problem: Problem, found: list[Any]) -> tuple[list[Any], Problem]:
    """What a kernel gave beside score, outputs without rows, and index, and the problem with these.

    Inside another method the problem has its index already, and no score is asked for.
    """
    given = 2 if problem.pick.function is not None else 3
    values, (score, empty, *index) = found[:-given], found[-given:]
    if problem.score is not None or problem.origin is not None:
        return values, problem
    return values, settle(problem, score, index[0] if index else None, empty)


@dataclass(frozen=True)
class Coverage:
    """Kernel: which operations each rule hits; raises where one has none."""

    plan: Plan
    varied: int

    def __call__(self, net: Net, leaves: list[Any]) -> dict[str, tuple[str, ...]]:
        program = self.plan.program(net, leaves, self.varied)
        reached = {*program.graph.inputs[: self.varied], *(out for step in program.active for out in step.outputs)}
        if program.graph.output not in reached:
            raise InputDependenceError(
                f"Nothing flows from the explained score back to the inputs, so {self.plan.method} has nothing to explain.",
                received="an output that depends on the inputs through rounding, comparisons or integers, or not at all",
                fix="xai.graph(model, x) shows the operations that data goes through.",
            )
        self.plan.check(program)
        return coverage(program, lambda step: self.plan.rule(step, program), self.plan.unsupported, self.plan.method)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Ruled(Explainer, abstract=True):
    """Base of methods with backward rules.

    Parameters
    ----------
    unsupported
        What becomes of an operation that no rule knows: `"error"` refuses it by name, `"gradient"` uses its own
        derivative and says so in the coverage.
    """

    unsupported: str = "error"

    def __post_init__(self) -> None:
        if self.unsupported not in ("error", "gradient"):
            raise OptionError(
                "`unsupported` says what becomes of an operation that no rule knows.",
                received=repr(self.unsupported),
                fix="unsupported='error' or unsupported='gradient'",
            )

    @abstractmethod
    def plan(self, problem: Problem) -> Plan:
        """The rules of this method."""


def covered(problem: Problem, plan: Plan, hits: str = "") -> dict[str, tuple[str, ...]]:
    """Which operations each rule hits; `hits` is the rule that must hit something.

    Raises
    ------
    CapabilityError
        If the rule that the method is named after hits none.
    UnsupportedOperation
        If an operation has no rule.
    """
    block = next(spans(problem.batch, problem.rows, constant=problem.constant_shapes))
    leaves = [leaf[: block.width, ...] for leaf in problem.leaves]
    found: dict[str, tuple[str, ...]] = problem.bound.learn(Coverage(plan, len(problem.varied)), leaves)
    if hits and not found.get(hits):
        raise CapabilityError(
            f"The rule {hits!r} of {plan.method} hits no operation of {problem.bound.model.name!r}, so the result would be "
            "the plain gradient.",
            received=f"operations of {', '.join(sorted(found)) or 'no kind'}",
            fix="use Gradient, IntegratedGradients or LRP for models without ReLU; xai.graph(model, x) shows what it has.",
        )
    return found


def blockwise(problem: Problem, kernel: Any, *arguments: Any, rows: tuple[int, int]) -> list[Any]:
    """Run `kernel(net, leaves, *arguments, rows, index)` over the batch; `rows` of model work per sample."""
    parts: list[list[Any]] = []
    for block in spans(problem.batch, problem.rows, constant=problem.constant_shapes):
        chosen = problem.indices(block.indices)
        found = problem.run(kernel, problem.leaves, *arguments, chosen, problem.index)
        problem.work.add(rows[0] * block.width, rows[1] * block.width)
        parts.append(trim(list(found), block))
    return join(problem, parts)


@dataclass(frozen=True)
class _Look:
    """Kernel: the operations of the model."""

    varied: int

    def __call__(self, net: Net, leaves: list[Any]) -> OperationTable:
        return OperationTable(analyse(net.graph(leaves), self.varied, net.backend))


def graph(model: Any, x: Any, *, layer: Any = None) -> OperationTable:
    """The operations that data goes through in a model, as rules see them.

    Parameters
    ----------
    model
        A model as in `xai_core.wrap`, raw or wrapped.
    x
        Inputs, batch first.
    layer
        Only what is behind this layer.

    Returns
    -------
    OperationTable
        Steps with `kind`, `name`, `path` and `source`; prints as a table.

    Raises
    ------
    CapabilityError
        If the operations of this kind of model cannot be seen.
    """
    leaves, structure = flatten(x)
    bound, native = bind(model, leaves, structure)
    with bound.running(native):
        if layer is None:
            return bound.learn(_Look(len(native)), native)
        chosen = bound.find(layer, native)
        (value,) = bound.run(Read((chosen,)), native, None)
        return bound.at_layer(chosen).learn(_Look(1), [value, *native])


@dataclass(frozen=True)
class Flow:
    """Kernel: what flows back to the varied leaves of some rows, slopes or these times values, and what `settled` takes."""

    plan: Plan
    pick: Pick
    varied: int
    times_input: bool
    unit: bool = False

    def __call__(self, net: Net, leaves: list[Any], rows: Any, index: Any) -> list[Any]:
        xp = net.xp
        points = [gather(xp, leaf, rows) for leaf in leaves]
        program = self.plan.program(net, points, self.varied)
        tape = self.plan.run(program, net, points)
        outputs = tape.output(program)
        chosen = fitted(net, self.pick, outputs, gather(xp, index, rows))
        score, start = seed(net, self.pick, outputs, chosen)
        message = Message(amount=start) if self.unit else Message(start)
        found = self.plan.back(program, net, tape, message)
        out = []
        for point, value in zip(points[: self.varied], program.graph.inputs, strict=False):
            arrived = found[value]
            if self.times_input:
                out.append(arrived.relevance(point))
            else:
                out.append(xp.zeros_like(point) if arrived.slope is None else arrived.slope)
        return [*out, score, outputs[:0, ...], *([] if chosen is None else [chosen])]
