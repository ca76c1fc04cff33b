"""Gradient of the explained score, and its product with the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xai_core.attribution.base import Attribution, Explainer
from xai_core.blocks import spans
from xai_core.model import Net
from xai_core.problem import Problem, gather, join, trim
from xai_core.targets import Pick

__all__ = ["Gradient", "InputXGradient"]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Gradient(Explainer):
    """Gradient of the explained score with respect to the input.

    `values = d score / d x`, one model row forward and backward per sample.

    Source: Simonyan et al. 2014, arXiv:1312.6034, section 3.

    Parameters
    ----------
    absolute
        Return the magnitude, the saliency map of the paper (without its maximum over channels).
    """

    absolute: bool = False

    def gives_slopes(self) -> bool:
        return True

    def attribute(self, problem: Problem) -> Attribution:
        form = "absolute" if self.absolute else "plain"
        return Attribution(_blockwise(problem, _Gradient(problem.pick, form, len(problem.varied))))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class InputXGradient(Explainer):
    """Input times gradient.

    `values = x * d score / d x`, one model row forward and backward per sample. For a model that is linear and has no
    bias it is complete; in general it promises nothing about the sum.

    Source: Shrikumar et al. 2016, arXiv:1605.01713.
    """

    def attribute(self, problem: Problem) -> Attribution:
        return Attribution(_blockwise(problem, _Gradient(problem.pick, "input", len(problem.varied))))


@dataclass(frozen=True)
class _Gradient:
    """Kernel: gradient of some rows, as it is, its magnitude, or times the input."""

    pick: Pick
    form: str
    varied: int

    def __call__(self, net: Net, leaves: list[Any], rows: Any, index: Any) -> list[Any]:
        xp = net.xp
        points = [gather(xp, leaf, rows) for leaf in leaves]
        chosen = gather(xp, index, rows)
        score, pull = net.pullback(points, lambda outputs: self.pick(xp, outputs, chosen))
        pairs = list(zip(points, pull(xp.ones_like(score)), strict=True))[: self.varied]
        gradients = [xp.zeros_like(point) if gradient is None else gradient for point, gradient in pairs]
        if self.form == "plain":
            return gradients
        if self.form == "absolute":
            return [xp.abs(gradient) for gradient in gradients]
        return [gradient * point for gradient, (point, _) in zip(gradients, pairs, strict=True)]


def _blockwise(problem: Problem, kernel: _Gradient) -> list[Any]:
    """Run a per-sample kernel over the batch."""
    parts: list[list[Any]] = []
    for block in spans(problem.batch, problem.rows, constant=problem.constant_shapes):
        found = problem.run(kernel, problem.leaves, problem.indices(block.indices), problem.index)
        problem.work.add(block.width, block.width)
        parts.append(trim(found, block))
    return join(problem, parts)
