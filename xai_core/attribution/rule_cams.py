"""Class activation maps that rest on backward rules: Guided Grad-CAM, Relevance-CAM and LIFT-CAM."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from xai_core.attribution.backprop import GuidedBackprop
from xai_core.attribution.base import Attribution
from xai_core.attribution.cam import CAMBase, Canvas, GradCAM, Maps, canvas, weigh
from xai_core.attribution.deep_lift import LiftPlan, contributions
from xai_core.attribution.lrp import Composite, LRPPlan, ZPlus
from xai_core.attribution.ruled import Plan, Ruled, blockwise, covered
from xai_core.errors import TargetError
from xai_core.model import Net
from xai_core.problem import Problem, gather
from xai_core.propagation import Message
from xai_core.targets import Pick

__all__ = ["LIFTCAM", "GuidedGradCAM", "RelevanceCAM"]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class GuidedGradCAM(Ruled):
    """Guided backpropagation where Grad-CAM points: the details of the one, for the class of the other.

    `values = guided * map`, the map of `GradCAM` enlarged to the input, the same for all channels. Two rows forward and
    backward per sample.

    Source: Selvaraju et al. 2017, arXiv:1610.02391, section 3.2.

    Parameters
    ----------
    layer
        Layer of the map, or a tuple of several, as for `GradCAM`.
    grid
        As for `GradCAM`.
    unsupported
        As for `GuidedBackprop`.

    Raises
    ------
    CapabilityError
        If the model has no ReLU.
    """

    grid: Any = None

    def plan(self, problem: Problem) -> Any:
        return GuidedBackprop(unsupported=self.unsupported).plan(problem)

    def varies_inputs(self) -> bool:
        return True

    def planned_rows(self, batch: int) -> int:
        return 3 * batch

    def attribute_at_layer(self, problem: Problem) -> Attribution:
        return self.attribute(problem)

    def attribute(self, problem: Problem) -> Attribution:
        guided = GuidedBackprop(unsupported=self.unsupported).attribute(problem)
        cam = GradCAM(layer=self.layer, grid=self.grid).attribute(problem)
        place = canvas(problem).position
        values = [value * cam.values[0] if at == place else value for at, value in enumerate(guided.values)]
        return Attribution(values, coverage=guided.coverage)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _RuledCAM(CAMBase):
    """Shared part: a kernel on what is behind the layer, by a plan of rules."""

    @abstractmethod
    def plan(self) -> Plan:
        """The rules."""

    @abstractmethod
    def kernel(self, plan: Any, problem: Problem, maps: Maps) -> Any:
        """`kernel(net, leaves, rows, index) -> [map (rows, positions)]`; the first leaf is the layer's value."""

    _rows: ClassVar[tuple[int, int]]

    def flat_map(self, problem: Problem, over: Canvas, maps: Maps) -> tuple[Any, dict[str, tuple[str, ...]]]:
        behind = problem.at_layer(maps.layer)
        plan = self.plan()
        hit = covered(behind, plan)
        return blockwise(behind, self.kernel(plan, problem, maps), rows=self._rows)[0], hit

    def maps(self, problem: Problem, over: Canvas, maps: Maps) -> Any:
        return self.flat_map(problem, over, maps)[0]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class RelevanceCAM(_RuledCAM):
    """Maps weighted by the relevance that LRP gives them, for the class against all others; fit for early layers too.

    `values = ReLU(sum_k w_k A_k)`, `w_k = mean over positions of R_k`, from `R = score` at the explained class and
    `-score / (classes - 1)` at the others, by the z+ rule. One row forward for the layer, and one forward and backward
    behind it with other weights.

    Source: Lee et al. 2021, CVPR, "Relevance-CAM: Your Model Already Knows Where to Look", equations 4 to 7. Parameters
    as for `GradCAM`.

    Raises
    ------
    TargetError
        If the model's output is not `(batch, classes)`, the target a callable, or the score made of several outputs, as
        `Linearity` does.
    UnsupportedOperation
        If an operation behind the layer has no rule.
    """

    _rows: ClassVar[tuple[int, int]] = (1, 1)

    def plan(self) -> LRPPlan:
        return LRPPlan(type(self).__name__, "error", Composite((("linear", ZPlus()),)))

    def kernel(self, plan: LRPPlan, problem: Problem, maps: Maps) -> _Contrasted:
        if problem.index is None or int(tuple(problem.index.shape)[1]) != 1:
            raise TargetError(
                "RelevanceCAM sets one class against all others: outputs (batch, classes), and a class as target.",
                received="a callable target, or an output with more axes",
                fix="target=None or target=class; GradCAM takes any target.",
            )
        if problem.pick.scale is not None:
            raise TargetError(
                "RelevanceCAM sets one class against all others, as the model gives them.",
                received="a score made of several outputs",
                fix="use another explainer, such as GradCAM.",
            )
        return _Contrasted(plan, maps)


@dataclass(frozen=True)
class _Contrasted:
    """Kernel: the map of some rows with contrastive relevance as weights; the first leaf is the layer's value."""

    plan: LRPPlan
    maps: Maps

    def __call__(self, net: Net, leaves: list[Any], rows: Any, index: Any) -> list[Any]:
        xp = net.xp
        points = [gather(xp, leaf, rows) for leaf in leaves]
        program = self.plan.program(net, points, 1)
        tape = self.plan.run(program, net, points)
        scores = tape.output(program)
        classes = tuple(scores.shape)[1]
        chosen = gather(xp, index, rows)[:, 0]
        own = xp.arange(classes, dtype=chosen.dtype, device=getattr(chosen, "device", None))[None, :] == chosen[:, None]
        score = xp.sum(xp.where(own, scores, xp.zeros_like(scores)), axis=1, keepdims=True)
        start = xp.where(own, score, -score / max(classes - 1, 1))
        found = self.plan.back(program, net, tape, Message(amount=start))[program.graph.inputs[0]]
        value, relevance = (self.maps.flat(xp, part) for part in (points[0], found.relevance(points[0])))
        weights = xp.mean(relevance, axis=1)
        return [weigh(xp, value, weights)]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LIFTCAM(_RuledCAM):
    """Maps weighted by what they contribute to the score, by DeepLIFT against maps of zero.

    `values = ReLU(sum_k w_k A_k)`, `w_k = sum over positions of the contribution of A_k`, an approximation of the Shapley
    values of the maps. One row forward for the layer, and two forward and one backward behind it.

    Source: Jung and Oh 2021, arXiv:2102.05228, equations 6 and 9; the contributions as in `DeepLIFT`. Parameters as for
    `GradCAM`.

    Raises
    ------
    UnsupportedOperation
        If an operation behind the layer has no rule.
    """

    aliases: ClassVar[tuple[str, ...]] = ("lift_cam",)

    _rows: ClassVar[tuple[int, int]] = (2, 1)

    def plan(self) -> LiftPlan:
        return LiftPlan(type(self).__name__, "error")

    def kernel(self, plan: LiftPlan, problem: Problem, maps: Maps) -> _Lifted:
        return _Lifted(plan, problem.pick, maps)


@dataclass(frozen=True)
class _Lifted:
    """Kernel: the map of some rows with the maps' contributions as weights; the first leaf is the layer's value."""

    plan: LiftPlan
    pick: Pick
    maps: Maps

    def __call__(self, net: Net, leaves: list[Any], rows: Any, index: Any) -> list[Any]:
        xp = net.xp
        points = [gather(xp, leaf, rows) for leaf in leaves]
        nothing = [xp.zeros_like(points[0]), *points[1:]]
        (found,), _, _ = contributions(net, self.plan, self.pick, points, nothing, gather(xp, index, rows), 1)
        weights = xp.sum(self.maps.flat(xp, found), axis=1)
        return [weigh(xp, self.maps.flat(xp, points[0]), weights)]
