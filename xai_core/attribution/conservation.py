"""How much of the score each layer holds, for methods that promise to keep its sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xai_core.attribution.deep_lift import DeepLIFT, LiftPlan, multipliers
from xai_core.attribution.lrp import LRP, DeepTaylor
from xai_core.attribution.ruled import Plan, blockwise, seed
from xai_core.baselines import resolve_baseline
from xai_core.errors import CapabilityError
from xai_core.explanation import Explanation
from xai_core.frames import on_host
from xai_core.model import Net
from xai_core.operations import Program
from xai_core.problem import gather, open_problem
from xai_core.propagation import Message
from xai_core.structure import flatten
from xai_core.targets import Pick

__all__ = ["conservation"]


def conservation(model: Any, explanation: Explanation) -> dict[str, Any]:
    """Sum over each layer's value of the relevance that an explanation gave it.

    Where all paths from the inputs to the score lead through a layer, its sum is that of the score (`LRP`) or of its
    change (`DeepLIFT`), but for what biases took; beside a skip connection it is the layer's share.

    Parameters
    ----------
    model
        The model that was explained.
    explanation
        An explanation by `LRP`, `DeepTaylor` or `DeepLIFT`.

    Returns
    -------
    dict
        `(batch,)` sums by layer, in the order of the model, last `"score"`: what there was to share.

    Raises
    ------
    CapabilityError
        If the explanation is by another method.
    """
    explainer = explanation.explainer
    if not isinstance(explainer, (LRP, DeepTaylor, DeepLIFT)):
        raise CapabilityError(
            "Only LRP, DeepTaylor and DeepLIFT hand a sum from layer to layer.",
            received=repr(explainer),
            fix="explain with xai.LRP() or xai.DeepLIFT().",
        )
    given = flatten(explanation.inputs)[0]
    with open_problem(
        model,
        explanation.inputs,
        target=explanation.target,
        seed=explanation.seed,
        index=None,
        method="conservation",
        differentiates=True,
        floating=explainer.varies_inputs(),
        neuron=explainer.neuron,
        progress=lambda batch: None,
    ) as problem:
        if explainer.layer is not None:
            problem = problem.at_layer(explainer.layer)
        plan: Plan = explainer.plan(problem)
        lifts = isinstance(explainer, DeepLIFT)
        starts = resolve_baseline(problem, explainer.baseline) if isinstance(explainer, DeepLIFT) else []
        varied = len(problem.varied)
        width = min(problem.rows, problem.batch)
        names = problem.bound.learn(_Names(plan, varied), [leaf[:width, ...] for leaf in problem.leaves])
        found = blockwise(problem, _Sums(plan, problem.pick, varied), starts, rows=(2 if lifts else 1, 1))
    host = all(map(on_host, given))
    return {
        name: problem.to_host(value) if host else value for name, value in zip((*names, "score"), found, strict=True)
    }


def _layers(program: Program) -> dict[str, int]:
    """Values that layers return, as far as rules see them and data goes through."""
    made = {out for step in program.active for out in step.outputs}
    calls: dict[str, int] = {}
    for layer in program.graph.layers:
        if layer.io == "output":
            calls[layer.path] = max(calls.get(layer.path, 0), layer.call or 1)
    return {
        (layer.path if calls[layer.path] == 1 else f"{layer.path}#{layer.call}"): value
        for layer, value in program.graph.layers.items()
        if layer.io == "output" and layer.part == 0 and value in made and "float" in program.graph.dtypes[value]
    }


@dataclass(frozen=True)
class _Names:
    """Kernel: names of the layers that `_Sums` gives."""

    plan: Plan
    varied: int

    def __call__(self, net: Net, leaves: list[Any]) -> tuple[str, ...]:
        return tuple(_layers(self.plan.program(net, leaves, self.varied)))


@dataclass(frozen=True)
class _Sums:
    """Kernel: for each layer the sum of what it holds, last what there was to share; (rows,) each."""

    plan: Plan
    pick: Pick
    varied: int

    def __call__(self, net: Net, leaves: list[Any], references: list[Any], rows: Any, index: Any) -> list[Any]:
        xp = net.xp
        points = [gather(xp, leaf, rows) for leaf in leaves]
        chosen = gather(xp, index, rows)
        program = self.plan.program(net, points, self.varied)
        watch = list(_layers(program).values())
        count = tuple(points[0].shape)[0]
        if isinstance(self.plan, LiftPlan):
            starts = [gather(xp, start, rows) for start in references]
            lifted = multipliers(net, self.plan, self.pick, program, points, starts, chosen, watch)
            here, there, shared = lifted.tape.values, lifted.reference.values, lifted.change
            held = [lifted.found[value].relevance(here[value] - there[value]) for value in watch]
        else:
            tape = self.plan.run(program, net, points)
            shared, cotangent = seed(net, self.pick, tape.output(program), chosen)
            found = self.plan.back(program, net, tape, Message(cotangent), watch=watch)
            held = [found[value].relevance(tape.values[value]) for value in watch]
        return [*(xp.sum(xp.reshape(part, (count, -1)), axis=1) for part in held), shared]
