"""Class activation maps that rest on backward rules: Guided Grad-CAM and Relevance-CAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xai_core.attribution.backprop import GuidedBackprop
from xai_core.attribution.base import Attribution
from xai_core.attribution.cam import CAMBase, Canvas, GradCAM, Maps, canvas
from xai_core.attribution.lrp import Composite, LRPPlan, ZPlus
from xai_core.attribution.ruled import Ruled, blockwise, covered
from xai_core.errors import TargetError
from xai_core.model import Net
from xai_core.problem import Problem, gather
from xai_core.propagation import Message

__all__ = ["GuidedGradCAM", "RelevanceCAM"]


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
class RelevanceCAM(CAMBase):
    """Maps weighted by the relevance that LRP gives them, for the class against all others; fit for early layers too.

    `values = ReLU(sum_k w_k A_k)`, `w_k = mean over positions of R_k`, from `R = score` at the explained class and
    `-score / (classes - 1)` at the others, by the z+ rule. One row forward for the layer, and one forward and backward
    behind it with other weights.

    Source: Lee et al. 2021, CVPR, "Relevance-CAM: Your Model Already Knows Where to Look", equations 4 to 7. Parameters
    as for `GradCAM`.

    Raises
    ------
    TargetError
        If the model's output is not `(batch, classes)`, or the target a callable.
    UnsupportedOperation
        If an operation behind the layer has no rule.
    """

    def maps(self, problem: Problem, over: Canvas, maps: Maps) -> Any:
        if problem.index is None or int(tuple(problem.index.shape)[1]) != 1:
            raise TargetError(
                "RelevanceCAM sets one class against all others: outputs (batch, classes), and a class as target.",
                received="a callable target, or an output with more axes",
                fix="target=None or target=class; GradCAM takes any target.",
            )
        behind = problem.at_layer(maps.layer)
        plan = LRPPlan(type(self).__name__, "error", Composite((("linear", ZPlus()),)))
        covered(behind, plan)
        return blockwise(behind, _Contrasted(plan, maps), rows=(1, 1))[0]


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
        return [xp.matmul(value, weights[:, :, None])[:, :, 0]]
