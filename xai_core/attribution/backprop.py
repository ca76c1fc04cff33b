"""Gradients with another rule at ReLU: guided backpropagation and the deconvolution net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from xai_core.attribution.base import Attribution
from xai_core.attribution.ruled import Flow, Plan, Ruled, blockwise, covered, settled
from xai_core.folding import fold
from xai_core.operations import Program, Step
from xai_core.problem import Problem
from xai_core.propagation import Operation, OwnPullback, Rule, kept

__all__ = ["Deconvnet", "GuidedBackprop"]

_RELUS = ("relu", "relu6")


@dataclass(frozen=True)
class _Guided(Rule):
    """Positive gradients where the unit is active."""

    name: ClassVar[str] = "guided"

    def __call__(self, op: Operation) -> list[Any]:
        xp = op.xp
        positive = kept(xp, op.slope, op.slope > 0)
        x = op.live[0]
        # Not by its own derivative, which frameworks define differently at the kinks.
        active = x > 0 if op.step.name == "relu" else xp.logical_and(x > 0, x < 6)
        return [kept(xp, positive, active)]


@dataclass(frozen=True)
class _Deconvolved(Rule):
    """Positive gradients, whether or not the unit is active."""

    name: ClassVar[str] = "deconvolution"

    def __call__(self, op: Operation) -> list[Any]:
        return [kept(op.xp, op.slope, op.slope > 0)]


@dataclass(frozen=True)
class _AtRelu(Plan):
    """One rule at every ReLU, the own derivative elsewhere."""

    at: Rule

    def rule(self, step: Step, program: Program) -> Rule | None:
        if step.kind == "control" or (step.kind == "unknown" and self.unsupported == "error"):
            return None
        relu = step.kind == "activation" and step.name in _RELUS and not step.facts.get("statistic")
        return self.at if relu else OwnPullback()

    def program(self, net: Any, leaves: list[Any], varied: int) -> Program:
        return fold(super().program(net, leaves, varied), net.xp)

    def wants_pullback(self, step: Step) -> bool:
        return not (step.kind == "activation" and step.name in _RELUS)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Backprop(Ruled):
    """Shared part: the rule at ReLU."""

    settles: ClassVar[bool] = True

    _at: ClassVar[Rule]

    def gives_slopes(self) -> bool:
        return True

    def plan(self, problem: Problem) -> Plan:
        return _AtRelu(type(self).__name__, self.unsupported, self._at)

    def attribute(self, problem: Problem) -> Attribution:
        plan = self.plan(problem)
        hit = covered(problem, plan, self._at.name)
        flow = Flow(plan, problem.pick, len(problem.varied), times_input=False)
        values, problem = settled(problem, blockwise(problem, flow, rows=(1, 1)))
        return Attribution(values, coverage=hit, problem=problem)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class GuidedBackprop(_Backprop):
    """Gradient that passes a ReLU only where the unit is active and the gradient positive.

    `values = d score / d x`, with `R_in = R_out [x > 0] [R_out > 0]` at every ReLU, however it is spelled. One row
    forward and backward per sample.

    Source: Springenberg et al. 2015, arXiv:1412.6806, section 3.4. For what it can and cannot show: Nie et al. 2018,
    arXiv:1805.07039; Sixt et al. 2020, arXiv:1912.09818.

    Parameters
    ----------
    unsupported
        What becomes of operations that are not known: `"error"` or `"gradient"`.

    Raises
    ------
    CapabilityError
        If the model has no ReLU.
    """

    _at: ClassVar[Rule] = _Guided()


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Deconvnet(_Backprop):
    """Gradient that passes a ReLU where the gradient is positive, whether or not the unit is active.

    `values = d score / d x`, with `R_in = R_out [R_out > 0]` at every ReLU. One row forward and backward per sample.

    Source: Zeiler and Fergus 2014, arXiv:1311.2901, section 2.1. Parameters and errors as for `GuidedBackprop`.
    """

    _at: ClassVar[Rule] = _Deconvolved()
