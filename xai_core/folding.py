"""Linear operations with all that only scales or shifts their result: bias, batch norm, constants.

Rules for weights want the weights that a layer really has. What frameworks spell as convolution, bias, and the four to six
operations of a batch norm at inference is one linear operation with other weights and one bias.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from xai_core.graph import Graph
from xai_core.operations import Program, Step

__all__ = ["fold", "folded_bias", "folded_weight", "join_units"]

Affine = Callable[[Any, Sequence[Any]], Any]
"""`(xp, inputs) -> array`."""


def fold(program: Program, xp: Any, keep: Collection[int] = ()) -> Program:
    """The same program with every linear step taking in what scales and shifts its result.

    Linear steps get the facts that `Operation.weight`, `.bias` and `.weighted` need. Values in `keep` stay.
    """
    graph = program.graph
    key = ("folded", graph.inputs, graph.output, program.varied, tuple(sorted(keep)))
    if key not in graph.memory:
        graph.memory[key] = _fold(program, xp, keep)
    return replace(program, steps=graph.memory[key])


def _fold(program: Program, xp: Any, keep: Collection[int]) -> tuple[Step, ...]:
    graph = program.graph
    makers = {out: step for step in program.steps for out in step.outputs}
    uses = Counter(value for step in program.steps for value in step.inputs)
    uses.update([graph.output, *keep])
    users = {value: step for step in program.steps for value in step.inputs}
    places = {step.outputs: place for place, step in enumerate(program.steps)}
    steps: dict[int, Step] = dict(enumerate(program.steps))
    for step in program.steps:
        if step.kind != "linear":
            continue
        chain = _Chain(step, graph, makers, xp)
        value = step.outputs[0]
        while uses[value] == 1 and value in users and chain.take(users[value]):
            value = users[value].outputs[0]
        folded = chain.folded()
        for part in (step, *chain.parts):
            del steps[places[part.outputs]]
        steps[places[(chain.parts or [step])[-1].outputs]] = folded
    return tuple(_rectified([steps[place] for place in sorted(steps)], graph))


def join_units(program: Program) -> Program:
    """A folded program in which a linear step and the activation right behind it are one step of kind `"unit"`.

    Its facts are those of the linear step, and `activation`: a function of the linear step's output and the unit's
    inputs.
    """
    graph = program.graph
    key = ("units", graph.inputs, graph.output, program.varied)
    if key not in graph.memory:
        graph.memory[key] = _join(program)
    return replace(program, steps=graph.memory[key])


def _join(program: Program) -> tuple[Step, ...]:
    uses = Counter(value for step in program.steps for value in step.inputs)
    uses.update([program.graph.output])
    users = {value: step for step in program.steps for value in step.inputs}
    gone: set[tuple[int, ...]] = set()
    units: dict[tuple[int, ...], Step] = {}
    for step in program.steps:
        if step.kind != "linear":
            continue
        between, value = [], step.outputs[0]
        while uses[value] == 1 and value in users and (users[value].kind == "mark" or users[value].facts.get("cast")):
            between.append(users[value])
            value = users[value].outputs[0]
        if uses[value] != 1 or value not in users or users[value].kind != "activation":
            continue
        last = users[value]
        inputs = tuple(dict.fromkeys((*step.inputs, *(v for v in last.inputs if v != value))))
        places = tuple(None if v == value else inputs.index(v) for v in last.inputs)
        facts = {**step.facts, "activation": partial(_activated, tuple(between), last, places)}
        run = partial(_run_chain, (step, *between, last), inputs)
        gone |= {part.outputs for part in (step, *between)}
        units[last.outputs] = replace(
            step,
            kind="unit",
            name=f"{step.name}+{last.name}",
            inputs=inputs,
            outputs=last.outputs,
            run=run,
            facts=facts,
        )
    return tuple(units.get(step.outputs, step) for step in program.steps if step.outputs not in gone)


def _activated(between: Sequence[Step], step: Step, places: Sequence[int | None], inputs: Sequence[Any], z: Any) -> Any:
    for moved in between:
        (z,) = moved.run(z)
    return step.run(*(z if place is None else inputs[place] for place in places))[0]


@dataclass(eq=False)
class _Chain:
    """A linear step, and steps behind it as far as they can be folded into it."""

    step: Step
    graph: Graph
    makers: Mapping[int, Step]
    xp: Any
    parts: list[Step] = field(default_factory=list)
    waiting: list[Step] = field(default_factory=list)
    factors: list[Affine] = field(default_factory=list)
    offsets: list[Callable[[Any, Sequence[Any], Any], Any]] = field(default_factory=list)
    moves: list[Step] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.inputs = list(self.step.inputs)
        self.data = self.step.live[0]
        self.weight = 1 - self.data
        self.axes: dict[int, int] = {axis: axis for axis in self.step.facts.get("varies", {}).get(self.weight, {})}
        # Axes of the value behind the chain, by those of the linear step's own result, where its weights vary.
        self.scalable = self.weight in self.step.facts.get("scaled", {})
        self.rank = len(self.graph.shapes[self.step.outputs[0]])
        if self.step.facts.get("bias"):
            self.offsets.append(self._own_bias)

    def take(self, step: Step) -> bool:
        """Whether the next step can be folded as well."""
        shape = self.graph.shapes[step.outputs[0]]
        if step.kind == "mark" or (step.kind == "structure" and step.facts.get("cast")):
            self.waiting.append(step)
            return True
        if step.kind == "structure" and len(step.outputs) == 1:
            axes = _through(step, self.graph, self.axes)
            if axes is None or self.offsets:
                return False
            self.axes = axes
            self.waiting.append(step)
            return True
        if step.kind == "negate":
            self._accept(step, lambda xp, inputs: -1.0, _negated)
            return True
        if step.kind not in ("scale", "shift") or self.graph.shapes[step.inputs[step.live[0]]] != shape:
            return False
        position = 1 - step.live[0]
        constant, operation = step.inputs[position], step.facts.get("of")
        if step.facts.get("swayed") or operation not in ("add", "subtract", "multiply", "divide"):
            return False
        behind = len(shape) - len(self.graph.shapes[constant])
        varied = {axis + behind for axis in _varying(constant, self.graph, self.makers)}
        back = {now: own for own, now in self.axes.items()}
        # What differs from place to place, a mask before a softmax for example, is no bias.
        if varied - back.keys() or (step.kind == "scale" and varied and not self.scalable):
            return False
        place = self._place(constant)
        if step.kind == "shift":
            turned = operation == "subtract" and position == 0  # constant - value
            sign = -1.0 if operation == "subtract" and not turned else 1.0

            def shift(xp: Any, inputs: Sequence[Any], before: Any) -> Any:
                moved = sign * inputs[place]
                before = _as(xp, before, moved)
                return moved if before is None else moved - before if turned else before + moved

            self._accept(step, (lambda xp, inputs: -1.0) if turned else None, shift)
            return True
        invert = operation == "divide"
        factor = partial(_factor, place, len(shape), {axis: back[axis] for axis in sorted(varied)}, self.rank, invert)

        def scale(xp: Any, inputs: Sequence[Any], before: Any) -> Any:
            if before is None:
                return None
            before = _as(xp, before, inputs[place])
            return before / inputs[place] if invert else before * inputs[place]

        self._accept(step, factor, scale)
        return True

    def _accept(self, step: Step, factor: Affine | None, offset: Callable[[Any, Sequence[Any], Any], Any]) -> None:
        for moved in self.waiting:
            for value in moved.inputs[1:]:
                self._place(value)
        self.moves += [moved for moved in self.waiting if moved.kind == "structure"]
        self.parts += [*self.waiting, step]
        self.waiting = []
        if factor is not None:
            self.factors.append(factor)
        self.offsets.append(offset)

    def _place(self, value: int) -> int:
        if value not in self.inputs:
            self.inputs.append(value)
        return self.inputs.index(value)

    def _own_bias(self, xp: Any, inputs: Sequence[Any], before: Any) -> Any:
        bias = inputs[2]
        axes = list(self.step.facts.get("varies", {}).get(self.weight, {}))
        if len(axes) == 1 and len(tuple(bias.shape)) == 1:
            shape = [1] * self.rank
            shape[axes[0]] = -1
            return xp.reshape(bias, tuple(shape))
        given = list(inputs[: len(self.step.inputs)])
        given[self.weight] = xp.zeros_like(given[self.weight])
        return self.step.run(*given)[0]

    def folded(self) -> Step:
        last = (self.parts or [self.step])[-1]
        inputs, factors, offsets = tuple(self.inputs), tuple(self.factors), tuple(self.offsets)
        facts = {
            **self.step.facts,
            "data": self.data,
            "weight": self.weight,
            "scaled": self.step.facts.get("scaled", {}).get(self.weight, _times),
            "factor": partial(_product, factors) if factors else None,
            "offset": partial(_offset, offsets) if offsets else None,
            "weighted": partial(_weighted, self.step, tuple(self.moves), inputs, self.data, self.weight),
        }
        # With the weights scaled instead of the result: elementwise operations on large results take time.
        run = partial(_run_folded, self.xp, facts) if self.parts else self.step.run
        return replace(self.step, inputs=inputs, outputs=last.outputs, run=run, facts=facts)


def _run_folded(xp: Any, facts: Mapping[str, Any], *inputs: Any) -> Sequence[Any]:
    found = facts["weighted"](inputs, inputs[facts["data"]], folded_weight(xp, facts, inputs))
    bias = folded_bias(xp, facts, inputs, found)
    return (found if bias is None else found + bias,)


def folded_bias(xp: Any, facts: Mapping[str, Any], inputs: Sequence[Any], like: Any) -> Any:
    """What is added to the weighted sum, in the dtype of `like`; `None` for nothing."""
    offset = None if facts["offset"] is None else facts["offset"](xp, inputs)
    if offset is None or hasattr(offset, "shape"):
        return _as(xp, offset, like)
    return xp.asarray(offset, dtype=like.dtype, device=getattr(like, "device", None))


def folded_weight(xp: Any, facts: Mapping[str, Any], inputs: Sequence[Any]) -> Any:
    """Weights of a folded linear step, constant factors behind it included."""
    weight = inputs[facts["weight"]]
    if facts["factor"] is None:
        return weight
    factor = _as(xp, facts["factor"](xp, inputs), weight)
    return facts["scaled"](xp, weight, factor) if len(getattr(factor, "shape", ())) else weight * factor


def _as(xp: Any, array: Any, like: Any) -> Any:
    """The array in the dtype of another one: batch norm of halves often computes in single precision."""
    dtypes = getattr(array, "dtype", None), getattr(like, "dtype", None)
    return array if None in dtypes or dtypes[0] == dtypes[1] else xp.astype(array, dtypes[1])


def _negated(xp: Any, inputs: Sequence[Any], before: Any) -> Any:
    return None if before is None else -before


def _times(xp: Any, weight: Any, factor: Any) -> Any:
    """Weights times one number."""
    return weight * xp.reshape(factor, (1,) * len(tuple(weight.shape)))


def _product(factors: Sequence[Affine], xp: Any, inputs: Sequence[Any]) -> Any:
    found: Any = 1.0
    for factor in factors:
        own = factor(xp, inputs)
        found = _as(xp, found, own) * own
    return found


def _offset(offsets: Sequence[Callable[[Any, Sequence[Any], Any], Any]], xp: Any, inputs: Sequence[Any]) -> Any:
    found: Any = None
    for offset in offsets:
        found = offset(xp, inputs, found)
    return found


def _factor(
    place: int, rank: int, axes: Mapping[int, int], own_rank: int, invert: bool, xp: Any, inputs: Sequence[Any]
) -> Any:
    """A constant factor of rank `rank` that varies along `axes`, as one of the linear step's own result."""
    constant = inputs[place]
    if not hasattr(constant, "shape"):
        return 1.0 / constant if invert else constant
    shape = tuple(constant.shape)
    wide = xp.reshape(constant, (*(1 for _ in range(rank - len(shape))), *shape))
    kept = wide[tuple(slice(None) if axis in axes else slice(0, 1) for axis in range(rank))]
    order = sorted(axes, key=lambda axis: axes[axis])
    turned = xp.permute_dims(kept, (*(axis for axis in range(rank) if axis not in axes), *order))
    sizes = [1] * own_rank
    for axis in order:
        sizes[axes[axis]] = int(tuple(kept.shape)[axis])
    found = xp.reshape(turned, tuple(sizes))
    return 1.0 / found if invert else found


def _run_chain(parts: Sequence[Step], inputs: Sequence[int], *arrays: Any) -> Sequence[Any]:
    values = dict(zip(inputs, arrays, strict=True))
    for part in parts:
        values.update(zip(part.outputs, part.run(*(values[value] for value in part.inputs)), strict=True))
    return (values[parts[-1].outputs[0]],)


def _weighted(
    step: Step,
    moves: Sequence[Step],
    numbers: Sequence[int],
    data: int,
    weight: int,
    inputs: Sequence[Any],
    x: Any,
    weights: Any,
) -> Any:
    """The linear step alone on other data and weights, without bias, in the layout of the folded result."""
    given = list(inputs[: len(step.inputs)])
    given[data], given[weight] = x, weights
    if step.facts.get("bias"):
        given[2] = given[2] * 0
    found = step.run(*given)[0]
    values = dict(zip(numbers, inputs, strict=False))  # a unit has those of its activation as well
    for move in moves:
        found = move.run(found, *(values[value] for value in move.inputs[1:]))[0]
    return found


def _varying(value: int, graph: Graph, makers: Mapping[int, Step]) -> set[int]:
    """Axes along which a constant can vary: not those that it was broadcast to."""
    axes = {axis for axis, size in enumerate(graph.shapes[value]) if size > 1}
    if value in graph.numbers:
        return set()
    maker = makers.get(value)
    if maker is not None and maker.facts.get("axes") is not None and len(maker.outputs) == 1:
        inner = _varying(maker.inputs[0], graph, makers)
        axes &= {out for own, out in maker.facts["axes"].items() if own in inner}
    return axes


def _through(step: Step, graph: Graph, axes: Mapping[int, int]) -> dict[int, int] | None:
    """Where the axes of interest are behind a structure step; `None` if not all of them are still axes."""
    before, after = (graph.shapes[value] for value in (step.inputs[0], step.outputs[0]))
    if step.facts.get("permutation") is not None:
        places = {old: new for new, old in enumerate(step.facts["permutation"])}
        return {own: places[now] for own, now in axes.items()}
    if not step.facts.get("reshape"):
        return None
    found = {}
    for own, now in axes.items():
        behind = math.prod(before[now + 1 :])
        place = next(
            (
                axis
                for axis, size in enumerate(after)
                if size == before[now] and math.prod(after[axis + 1 :]) == behind and (size > 1 or before[now] == 1)
            ),
            None,
        )
        if place is None:
            return None
        found[own] = place
    return found


_NEVER_NEGATIVE = ("relu", "relu6", "sigmoid", "softplus", "exp", "square", "abs", "sqrt", "hard_sigmoid")
_KEEPS_SIGN = ("structure", "mark", "sum", "max_pool", "min_pool")


def _rectified(steps: Sequence[Step], graph: Graph) -> list[Step]:
    """Say of linear steps whether their data is never negative, and whether only positive results have a say."""
    positive: set[int] = set()
    for step in steps:
        if (step.kind == "activation" and step.name in _NEVER_NEGATIVE) or step.kind == "softmax":
            positive |= set(step.outputs)
        elif step.kind in _KEEPS_SIGN or step.kind in ("add", "product", "maximum", "minimum"):
            moving = [step.inputs[place] for place in step.live]
            constants = [value for place, value in enumerate(step.inputs) if place not in step.live]
            floats = [value for value in constants if "float" in graph.dtypes[value]]
            # What is padded with may be part of the operation, and cubic interpolation overshoots.
            hidden = "cubic" in step.name or ("pad" in step.name.lower() and not floats)
            known = all(graph.numbers.get(value, -1.0) >= 0 for value in floats)
            if all(value in positive for value in moving) and known and not hidden:
                positive |= set(step.outputs)
    users: dict[int, list[Step]] = {}
    for step in steps:
        for value in step.inputs:
            users.setdefault(value, []).append(step)

    def ends_in_relu(value: int) -> bool:
        found = users.get(value, [])
        return (
            bool(found)
            and value != graph.output
            and all(
                (step.kind == "activation" and step.name in ("relu", "relu6"))
                or ((step.kind == "mark" or step.facts.get("cast")) and ends_in_relu(step.outputs[0]))
                for step in found
            )
        )

    return [
        replace(
            step,
            facts={
                **step.facts,
                "never_negative": step.inputs[step.live[0]] in positive,
                "only_positive": ends_in_relu(step.outputs[0]),
            },
        )
        if step.kind == "linear"
        else step
        for step in steps
    ]
