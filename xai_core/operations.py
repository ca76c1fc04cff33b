"""What the operations of a traced model are: data or weight, activation, softmax, normalisation; and how they are run.

`analyse` turns a backend's `Graph` into a `Program` of `Step`s. Which operands are data follows from reachability from
the inputs that vary. Activations are recognised by what they do, not by how they are spelled: any group of operations
that computes each element of its result from the same element of one value is one activation, and it is named after
the known function whose values it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from xai_core.backend import Backend, Pull
from xai_core.graph import Graph, Node
from xai_core.layers import html_table, text_table

__all__ = ["LINEAR", "STEP_KINDS", "OperationTable", "Program", "Step", "Tape", "analyse", "forward", "pull_step"]

STEP_KINDS = {
    "structure": "moves elements",
    "sum": "linear without weights: sums, means, average pooling, resizing",
    "mark": "where a layer begins or ends",
    "pick": "moves elements that the data chooses: those at an argmax",
    "add": "sum of two data values",
    "subtract": "difference of two data values",
    "negate": "sign change",
    "shift": "sum with a constant",
    "scale": "product with a constant",
    "linear": "convolution, dense or matrix product with weights",
    "activation": "function of each element of one value",
    "product": "product of two data values, element by element",
    "normalise": "product of data with the reciprocal of its own deviation",
    "bilinear": "matrix product of two data values, as in attention",
    "division": "quotient of two data values",
    "softmax": "exp(a) / sum(exp(a))",
    "log_softmax": "its logarithm",
    "max_pool": "largest of windows or over axes",
    "min_pool": "smallest of windows or over axes",
    "maximum": "larger one of two data values",
    "minimum": "smaller one of two data values",
    "select": "where(condition, a, b)",
    "stop": "no derivative flows by the model's own wish",
    "control": "loops and branches",
    "unknown": "anything else",
    "unit": "linear operation and activation together, where a rule asks for both",
}
"""Kinds of operations that data goes through."""

LINEAR = frozenset({"structure", "sum", "mark", "add", "subtract", "negate", "shift", "scale", "linear"})
"""Kinds that are linear, but for a constant, in all data that they are given."""


@dataclass(frozen=True, eq=False)
class Step:
    """One operation as rules see it; several operations of the framework may be one step.

    Attributes
    ----------
    kind
        A key of `STEP_KINDS`; `"constant"` where no data that varies goes in.
    name
        The framework's names, or for an activation the function: `"relu"`, `"gelu"`.
    inputs, outputs
        Numbers of values.
    live
        Positions among the inputs of data that varies.
    run
        `run(*arrays) -> sequence of arrays`.
    facts
        As of `Node`; `of`, the kind of the node where it is a single one; of a `normalise` step `normaliser`, the
        position of the reciprocal; `statistic` where all that comes of it is a normaliser; `swayed` where the data
        decides on what counts as a constant here: a condition, a mask, an index.
    path, source
        As of `Node`.
    """

    kind: str
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    live: tuple[int, ...]
    run: Callable[..., Sequence[Any]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""
    source: str = ""

    @property
    def label(self) -> str:
        """How messages and tables call it."""
        return f"{self.path or '(model)'}: {self.name}"


@dataclass(frozen=True, eq=False)
class Program:
    """The steps of a model, for some inputs that vary.

    Attributes
    ----------
    steps
        In an order in which they can be run, steps on constants first where they are needed.
    graph
        What it was made from.
    varied
        How many of the inputs vary.
    """

    steps: tuple[Step, ...]
    graph: Graph
    varied: int

    @property
    def active(self) -> Iterator[Step]:
        """Steps that data which varies goes through."""
        return (step for step in self.steps if step.kind != "constant")


class OperationTable(Sequence[Step]):
    """The operations of a model that data goes through, in order; prints as a table.

    What only the deviation of a normalisation is made of is part of that.
    """

    def __init__(self, program: Program) -> None:
        hidden = [step for step in program.active if step.kind == "mark" or step.facts.get("statistic")]
        self._steps = tuple(step for step in program.active if step not in hidden)
        self._shapes = program.graph.shapes

    def __getitem__(self, index: Any) -> Any:
        return self._steps[index]

    def __len__(self) -> int:
        return len(self._steps)

    def _cells(self) -> list[tuple[str, ...]]:
        head = ("layer", "kind", "operation", "shape", "source")
        return [
            head,
            *(
                (
                    step.path,
                    step.kind,
                    step.name,
                    ", ".join(str(self._shapes[out]) for out in step.outputs),
                    step.source,
                )
                for step in self._steps
            ),
        ]

    def __repr__(self) -> str:
        return text_table(self._cells())

    def _repr_html_(self) -> str:
        return html_table(self._cells())


_ELEMENTWISE = {
    *("add", "subtract", "multiply", "divide", "negate", "elementwise", "select", "maximum", "minimum", "cut"),
    *("stop", "mark"),
}


def analyse(graph: Graph, varied: int, backend: Backend) -> Program:
    """Find out what each operation is, for the first `varied` inputs; once for graphs of the same operations."""
    key = ("program", graph.inputs, graph.output, varied)
    if key not in graph.memory:
        graph.memory[key] = _analyse(graph, varied, backend)
    return Program(graph.memory[key], graph, varied)


def _analyse(graph: Graph, varied: int, backend: Backend) -> tuple[Step, ...]:
    nodes = _needed(graph)
    numbers = _numbers(graph, nodes, backend)
    varying = graph.inputs[:varied]
    # Integers are constants to all rules, but a model of nothing else is still to be seen.
    live = {value for value in varying if "float" in graph.dtypes[value]} or set(varying)
    depends = set(graph.inputs)
    for node in nodes:
        if depends & set(node.inputs):
            depends |= set(node.outputs)
        if node.kind != "cut" and live & set(node.inputs):
            live |= {out for out in node.outputs if not graph.dtypes[out].startswith(("int", "uint", "bool"))}
    swayed = {value for value in varying if value in live}
    for node in nodes:
        if swayed & set(node.inputs) and not node.facts.get("shape"):
            swayed |= {out for out in node.outputs if out not in numbers}
    known = _Known(graph, numbers, live, depends, swayed, backend)
    steps = [_step(node, known) for node in nodes]
    steps = _fuse_activations(steps, known)
    steps = [_larger_or_smaller(step, steps, known) for step in steps]
    steps = _fuse_softmax(steps, known)
    steps = [_named(step, known) for step in steps]
    steps = _alive(_gates(_normalisers(steps, known), known), graph)
    return tuple(_statistics(steps, graph))


@dataclass(frozen=True, eq=False)
class _Known:
    graph: Graph
    numbers: Mapping[int, float]
    live: set[int]
    depends: set[int]
    swayed: set[int]
    backend: Backend

    def shape(self, value: int) -> tuple[int, ...]:
        return self.graph.shapes[value]


def _needed(graph: Graph) -> list[Node]:
    """Nodes that the output needs, where the inputs are given."""
    wanted, found = {graph.output} - set(graph.inputs), []
    for node in reversed(graph.nodes):
        made = set(node.outputs) - set(graph.inputs)
        if made & wanted:
            found.append(node)
            wanted |= set(node.inputs) - set(graph.inputs)
    return found[::-1]


def _alive(steps: list[Step], graph: Graph) -> list[Step]:
    wanted, found = {graph.output}, []
    for step in reversed(steps):
        if set(step.outputs) & wanted:
            found.append(step)
            wanted |= set(step.inputs)
    return found[::-1]


def _numbers(graph: Graph, nodes: list[Node], backend: Backend) -> dict[int, float]:
    """Values that are one known number everywhere: literals, what is computed of them, and where they are broadcast."""
    numbers = dict(graph.numbers)
    for node in nodes:
        given = len(node.inputs) > 0 and all(i in numbers for i in node.inputs)
        one = len(node.outputs) == 1 and math.prod(graph.shapes[node.outputs[0]]) == 1
        if given and one and node.kind in _ELEMENTWISE:
            with backend.eager():
                arrays = [_filled(i, numbers[i], graph, backend) for i in node.inputs]
                numbers[node.outputs[0]] = float(np.asarray(backend.to_numpy(node.run(*arrays)[0])).item())
            continue
        passes = node.kind in ("structure", "mark") or node.facts.get("cast")
        if passes and len(node.outputs) == 1 and node.inputs[0] in numbers:
            rest = [numbers[i] for i in node.inputs[1:] if "float" in graph.dtypes[i] and i in numbers]
            plain = all(value == numbers[node.inputs[0]] for value in rest)
            if plain and all(i in numbers or "float" not in graph.dtypes[i] for i in node.inputs):
                numbers[node.outputs[0]] = numbers[node.inputs[0]]
    return numbers


def _filled(value: int, number: Any, graph: Graph, backend: Backend) -> Any:
    """An array as one of the graph that holds a number everywhere, or other numbers."""
    host = np.broadcast_to(np.asarray(number), graph.shapes[value])
    double = graph.dtypes[value] == "float64"
    array = backend.asarray(np.array(host, dtype="float64" if double else "float32"), None)
    return backend.xp.astype(array, getattr(backend.xp, graph.dtypes[value]))


def _step(node: Node, known: _Known) -> Step:
    live = tuple(place for place, value in enumerate(node.inputs) if value in known.live)
    kind = "constant" if not live or not set(node.outputs) & known.live else _kind(node, live)
    facts = {**node.facts, "of": node.kind}
    if any(value in known.swayed for place, value in enumerate(node.inputs) if place not in live):
        facts["swayed"] = True
        kind = "pick" if kind == "structure" and len(node.outputs) == 1 else kind
    return Step(kind, node.name, node.inputs, node.outputs, live, node.run, facts, node.path, node.source)


def _kind(node: Node, live: tuple[int, ...]) -> str:
    kind, several = node.kind, len({node.inputs[place] for place in live}) > 1
    if kind == "multiply":
        return "product" if several else "activation" if len(live) > 1 else "scale"
    if kind == "divide":
        return "division" if several else "activation" if live != (0,) else "scale"
    if kind in ("add", "subtract"):
        return kind if len(live) > 1 else "shift"
    if kind == "contraction":
        if live in ((0,), (1,)):
            return "linear"
        return "bilinear" if live == (0, 1) else "unknown"
    if kind == "elementwise":
        return "unknown" if several else "activation"
    if kind in ("maximum", "minimum"):
        return kind if several else "activation"
    return kind


# Activations


def _fuse_activations(steps: list[Step], known: _Known) -> list[Step]:
    """Make one step of operations between a value and a place where several functions of its elements come together.

    Sigmoid times its input, a comparison that chooses between two functions, a polynomial inside a tanh: each is one
    activation. What only multiplies by or adds a constant stays by itself.
    """
    maker = {out: place for place, step in enumerate(steps) for out in step.outputs}
    # For each value the values that it is a function of, element by element and alone; nearest first.
    origins: dict[int, list[int]] = {}
    fused: dict[int, Step] = {}
    for place, step in enumerate(steps):
        for out in step.outputs:
            origins[out] = [out]
        data = list(dict.fromkeys(value for value in step.inputs if value in known.depends))
        elementwise = step.facts["of"] in _ELEMENTWISE or _is_cast(step)
        if not elementwise or len(step.outputs) != 1 or not data:
            continue
        out = step.outputs[0]
        if any(known.shape(value) != known.shape(out) for value in data):
            continue
        chains = [origins.get(value, [value]) for value in data]
        if len(data) == 1:
            origins[out] = [out, *chains[0]]
            if step.kind == "activation" and len(step.live) > 1:  # x * x: one function of one input
                fused[place] = _composed(steps, maker, data[0], place, known)
            continue
        common = next((value for value in chains[0] if all(value in chain for chain in chains[1:])), None)
        if common is None or common not in known.live:
            continue
        origins[out] = [out, *origins.get(common, [common])]
        fused[place] = _composed(steps, maker, common, place, known)
    return [fused.get(place, step) for place, step in enumerate(steps)]


def _composed(steps: list[Step], maker: Mapping[int, int], origin: int, place: int, known: _Known) -> Step:
    """All steps between a value and one of its functions as one activation."""
    inner: set[int] = set()
    waiting = [place]
    while waiting:
        current = waiting.pop()
        if current in inner:
            continue
        inner.add(current)
        for value in steps[current].inputs:
            if value != origin and value in known.depends and value in maker:
                waiting.append(maker[value])
    parts = [steps[i] for i in sorted(inner)]
    made = {out for part in parts for out in part.outputs}
    constants = list(dict.fromkeys(v for part in parts for v in part.inputs if v not in made and v != origin))
    out = steps[place].outputs[0]
    run = partial(_run_parts, tuple(parts), (origin, *constants), out)
    name = "+".join(dict.fromkeys(part.name for part in parts))
    return Step(
        "activation" if out in known.live else "constant",
        name,
        (origin, *constants),
        (out,),
        (0,),
        run,
        {},
        steps[place].path,
        steps[place].source,
    )


def _run_parts(parts: tuple[Step, ...], inputs: tuple[int, ...], out: int, *arrays: Any) -> Sequence[Any]:
    values = dict(zip(inputs, arrays, strict=True))
    for part in parts:
        values.update(zip(part.outputs, part.run(*(values[i] for i in part.inputs)), strict=True))
    return (values[out],)


_PROBES = np.array([-30.0, -7.5, -3.25, -2.0, -1.0, -0.375, 0.0, 0.25, 1.0, 1.75, 3.5, 6.5, 8.0, 30.0])


def _erf(x: Any) -> Any:
    return np.vectorize(math.erf, otypes=[float])(x)


def _sigmoid(x: Any) -> Any:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


_SELU = (1.0507009873554805, 1.6732632423543772)

FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "gelu": lambda x: 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))),
    "gelu_tanh": lambda x: 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * _sigmoid(x),
    "hard_swish": lambda x: x * np.clip(x + 3.0, 0.0, 6.0) / 6.0,
    "hard_sigmoid": lambda x: np.clip(x + 3.0, 0.0, 6.0) / 6.0,
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "softplus": lambda x: np.logaddexp(x, 0.0),
    "softsign": lambda x: x / (1.0 + np.abs(x)),
    "mish": lambda x: x * np.tanh(np.logaddexp(x, 0.0)),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))),
    "selu": lambda x: _SELU[0] * np.where(x > 0, x, _SELU[1] * np.expm1(np.minimum(x, 0.0))),
    "exp": np.exp,
    "log": np.log,
    "abs": np.abs,
    "square": np.square,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "reciprocal": lambda x: 1.0 / x,
    "erf": _erf,
    "identity": lambda x: x,
}
"""Activations that are recognised by their values."""


_KINKS = np.array([-3e4, -90.0, -0.15, -0.02, -1e-3, 1e-3, 0.02, 0.11, 0.19, 0.51, 5.9, 6.1, 21.0, 101.0, 3e4])
"""Where functions differ from ReLU that are the same at `_PROBES`: with another threshold, or a limit."""


def _named(step: Step, known: _Known) -> Step:
    if step.kind != "activation":
        return step
    values = _probe(step, known, _PROBES)
    if values is None:
        return step
    with np.errstate(all="ignore"):
        for name, function in FUNCTIONS.items():
            if np.allclose(values, function(_PROBES), rtol=2e-3, atol=2e-5, equal_nan=True):
                if name in ("relu", "relu6"):
                    more = _probe(step, known, _KINKS)
                    if more is None or not np.allclose(more, function(_KINKS), rtol=2e-3, atol=2e-5):
                        return step
                return replace(step, name=name)
        slope = values[4] / _PROBES[4]
        if 0.0 < slope < 1.0 and np.allclose(values, np.where(_PROBES > 0, _PROBES, slope * _PROBES), rtol=2e-3):
            return replace(step, name="leaky_relu")
    return step


def _probe(step: Step, known: _Known, points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """Values of an activation at some numbers; `None` if it depends on anything but known numbers."""
    others = [value for place, value in enumerate(step.inputs) if place not in step.live]
    if any(value not in known.numbers for value in others):
        return None
    backend = known.backend
    dtype = known.graph.dtypes[step.inputs[step.live[0]]]

    shape = known.shape(step.outputs[0])
    size = max(math.prod(shape), 1)
    host_dtype = "float64" if dtype == "float64" else "float32"
    found: list[np.ndarray[Any, Any]] = []
    with backend.eager():
        numbers = {value: _filled(value, known.numbers[value], known.graph, backend) for value in set(others)}
        # In the shape of the trace, for which alone a backend promises that operations run.
        for start in range(0, points.size, size):
            host = np.resize(points[start : start + size], shape)
            moving = _filled(step.inputs[step.live[0]], host, known.graph, backend)
            arrays = [moving if place in step.live else numbers[value] for place, value in enumerate(step.inputs)]
            out = backend.xp.astype(step.run(*arrays)[0], getattr(backend.xp, host_dtype))
            found.append(np.asarray(backend.to_numpy(out), dtype=float).reshape(-1)[: points.size - start])
    return np.concatenate([part[:size] for part in found])


# Choices

_PAIRS = ((-3.0, 2.0), (2.0, -3.0), (-1.0, -2.0), (-2.0, -1.0), (1.0, 3.0), (3.0, 1.0), (0.5, 0.5), (-90.0, 0.01))


def _larger_or_smaller(step: Step, steps: list[Step], known: _Known) -> Step:
    """Recognise `where(a > b, a, b)`, of two data values, as the larger one of them; tried with numbers."""
    if step.kind != "select" or step.live != (1, 2):
        return step
    maker = {out: other for other in steps for out in other.outputs}

    def bare(value: int) -> int:
        while value in maker and maker[value].facts.get("of") == "mark":
            value = maker[value].inputs[0]
        return value

    condition, *pair = map(bare, step.inputs)
    compare = maker.get(condition)
    shapes = {known.shape(value) for value in (*pair, *step.outputs)}
    if compare is None or sorted(map(bare, compare.inputs)) != sorted(pair) or len({*pair}) < 2 or len(shapes) > 1:
        return step
    places = tuple(pair.index(bare(value)) for value in compare.inputs)
    run = partial(_run_choice, compare, step, places)
    found = []
    with known.backend.eager():
        for numbers in _PAIRS:
            given = [_filled(*each, known.graph, known.backend) for each in zip(pair, numbers, strict=True)]
            made = known.backend.xp.astype(run(*given)[0], known.backend.xp.float32)
            found.append(np.asarray(known.backend.to_numpy(made)).reshape(-1)[:1])
    for kind, function in (("maximum", np.maximum), ("minimum", np.minimum)):
        if np.allclose(np.concatenate(found), [function(*numbers) for numbers in _PAIRS], rtol=1e-2):
            return replace(step, kind=kind, name=kind, inputs=step.inputs[1:], live=(0, 1), run=run, facts={"of": kind})
    return step


def _run_choice(compare: Step, step: Step, places: tuple[int, ...], *pair: Any) -> Sequence[Any]:
    return step.run(compare.run(*(pair[place] for place in places))[0], *pair)


# Softmax and normalisation


def _fuse_softmax(steps: list[Step], known: _Known) -> list[Step]:
    """Recognise `exp(z) / sum(exp(z))` and `z - log(sum(exp(z)))`, with or without a shift of z along the axis."""
    maker = {out: step for step in steps for out in step.outputs}
    exponentials = {
        step.outputs[0]: step for step in steps if step.kind == "activation" and _named(step, known).name == "exp"
    }

    def bare(value: int, casts: bool = False) -> int:
        """What a value was before layers began or ended there, or before it was cast."""
        while (step := maker.get(value)) is not None and (step.kind == "mark" or (casts and _is_cast(step))):
            value = step.inputs[0]
        return value

    def exponent(value: int) -> int | None:
        """What a value is the exponential of; halves are often summed in single precision."""
        step = exponentials.get(bare(value, casts=True))
        return None if step is None else bare(step.inputs[step.live[0]])

    def total(value: int) -> tuple[int, int] | None:
        """What a value is the sum of the exponentials of, and the axis."""
        for summed in _up(value, maker):
            step = maker.get(summed)
            z = exponent(step.inputs[0]) if step is not None and step.kind == "sum" else None
            if step is not None and z is not None:
                axis = _one_axis(known.shape(z), known.shape(value))
                if axis is not None and _adds_up(summed, value, axis, maker, known):
                    return z, axis
        return None

    def logits(z: int, axis: int) -> int:
        """What was shifted along the axis."""
        step = maker.get(z)
        if step is None or step.kind not in ("subtract", "shift") or len(step.inputs) != 2:
            return z
        first, second = step.inputs
        shifted = known.shape(first) == known.shape(z) and first in known.live
        same = _constant_along(second, axis, len(known.shape(z)), maker, known)
        return first if shifted and same and step.facts.get("of") == "subtract" else z

    found = []
    for step in steps:
        made = step
        if step.kind == "division":
            over = total(step.inputs[1])
            if over is not None and over[0] == exponent(step.inputs[0]):
                made = _softmax("softmax", step, logits(*over), over[1], known)
        elif step.kind == "subtract":
            for value in _up(step.inputs[1], maker):
                log = maker.get(value)
                if log is None or log.kind != "activation" or _named(log, known).name != "log":
                    continue
                over = total(log.inputs[log.live[0]])
                if over is not None and over[0] == bare(step.inputs[0]):
                    made = _softmax("log_softmax", step, logits(*over), over[1], known)
        found.append(made)
    return found


# Gates


def _gates(steps: list[Step], known: _Known) -> list[Step]:
    """Say of products which factor only opens and closes for the other: `facts["gate"]`, its place among the live ones.

    That is the one that is an activation with a value at zero, sigmoid for example, where the other is none.
    """
    maker = {out: step for step in steps for out in step.outputs}
    found = []
    for step in steps:
        if step.kind == "product" and len(step.live) == 2:
            gates = [place for place, live in enumerate(step.live) if _opens(step.inputs[live], maker, known)]
            if len(gates) == 1:
                step = replace(step, facts={**step.facts, "gate": gates[0]})
        found.append(step)
    return found


def _opens(value: int, maker: Mapping[int, Step], known: _Known) -> bool:
    """Whether a value is an activation that is not zero at zero; constants that scale it, or its data, count as its own."""
    while True:
        *_, value = _up(value, maker)
        step = maker.get(value)
        if step is None:
            return False
        if step.kind != "scale":
            break
        value = step.inputs[step.live[0]]
    if step.kind != "activation":
        return False
    *_, data = _up(step.inputs[step.live[0]], maker)
    start, before = 0.0, maker.get(data)
    if before is not None and before.kind == "shift":
        number = known.numbers.get(before.inputs[1 - before.live[0]], 0.0)
        start = -number if before.facts["of"] == "subtract" and before.live[0] == 0 else number
    values = _probe(step, known, np.array([start]))
    return values is not None and bool(abs(values[0]) > 1e-3)


def _up(value: int, maker: Mapping[int, Step]) -> Iterator[int]:
    """A value and what it was before it was moved, broadcast or passed on."""
    while True:
        yield value
        step = maker.get(value)
        if step is None or step.kind not in ("structure", "mark", "stop") or len(step.inputs) != 1:
            return
        value = step.inputs[0]


def _constant_along(value: int, axis: int, rank: int, maker: Mapping[int, Step], known: _Known) -> bool:
    """Whether a value is the same along an axis, because it has one element there or was broadcast from one."""
    while True:
        shape = known.shape(value)
        if len(shape) == rank and shape[axis] == 1:
            return True
        step = maker.get(value)
        if step is None or len(step.inputs) != 1:
            return False
        axes = step.facts.get("axes")
        if axes is not None and axis not in axes.values():
            return True
        kept = axes is not None and axes == {place: place for place in axes}
        if not (kept or step.kind in ("mark", "stop") or _is_cast(step)):
            return False
        value = step.inputs[0]


def _one_axis(whole: tuple[int, ...], summed: tuple[int, ...]) -> int | None:
    if len(whole) != len(summed):
        return None
    axes = [axis for axis, (a, b) in enumerate(zip(whole, summed, strict=True)) if a != b]
    return axes[0] if len(axes) == 1 and summed[axes[0]] == 1 else None


def _adds_up(summed: int, value: int, axis: int, maker: Mapping[int, Step], known: _Known) -> bool:
    """Whether a value is the plain sum over an axis, which is kept, of what a linear step is given: tried with numbers."""
    chain = [maker[summed]]
    moved = list(_up(value, maker))
    chain += [maker[current] for current in reversed(moved[: moved.index(summed)])]
    first, backend = chain[0].inputs[0], known.backend
    if any(len(step.inputs) != 1 or len(step.outputs) != 1 for step in chain):
        return False
    shape = known.shape(first)
    host = np.resize(np.arange(1.0, 30.0), shape)
    with backend.eager():
        array = backend.asarray(host.astype("float32"), None)
        array = backend.xp.astype(array, getattr(backend.xp, known.graph.dtypes[first]))
        for step in chain:
            array = step.run(array)[0]
        found = np.asarray(backend.to_numpy(backend.xp.astype(array, backend.xp.float32)), dtype=float)
    wanted = np.sum(host, axis=axis, keepdims=True)
    return found.shape == wanted.shape and np.allclose(found, wanted, rtol=1e-2)


def _is_cast(step: Step) -> bool:
    return step.kind == "structure" and bool(step.facts.get("cast"))


def _softmax(kind: str, step: Step, z: int, axis: int, known: _Known) -> Step:
    run = partial(_run_softmax, known.backend.xp, kind, axis, known.graph.dtypes[step.outputs[0]])
    return Step(kind, kind, (z,), step.outputs, (0,), run, {"axis": axis}, step.path, step.source)


def _run_softmax(xp: Any, kind: str, axis: int, dtype: str, z: Any) -> Sequence[Any]:
    z = xp.astype(z, getattr(xp, dtype))
    shifted = z - xp.max(z, axis=axis, keepdims=True)
    grown = xp.exp(shifted)
    total = xp.sum(grown, axis=axis, keepdims=True)
    return (grown / total,) if kind == "softmax" else (shifted - xp.log(total),)


def _normalisers(steps: list[Step], known: _Known) -> list[Step]:
    """Recognise products with the reciprocal of a root of data: layer, group, instance and RMS normalisation."""
    normaliser: set[int] = set()
    roots: set[int] = set()
    found = []
    for step in steps:
        made = step
        if step.kind == "activation" and step.name in ("rsqrt", "sqrt", "reciprocal"):
            if step.name == "sqrt":
                roots |= set(step.outputs)
            elif step.name == "rsqrt" or step.inputs[step.live[0]] in roots:
                normaliser |= set(step.outputs)
        elif step.kind in ("structure", "mark", "scale", "shift") and len(step.live) == 1:
            value = step.inputs[step.live[0]]
            if value in roots:
                roots |= set(step.outputs)
            elif value in normaliser and step.kind != "shift":
                normaliser |= set(step.outputs)
        elif step.kind == "product":
            places = [place for place in step.live if step.inputs[place] in normaliser]
            if len(places) == 1:
                made = replace(step, kind="normalise", facts={**step.facts, "normaliser": places[0]})
        found.append(made)
    return found


def _statistics(steps: list[Step], graph: Graph) -> list[Step]:
    """Say of what only a normaliser is made of that it is a statistic: `facts["statistic"]`."""
    used: dict[int, bool] = {graph.output: False}  # whether all uses of a value are statistics
    found = []
    for step in reversed(steps):
        statistic = step.kind != "constant" and all(used.get(out, True) for out in step.outputs)
        for place, value in enumerate(step.inputs):
            alone = statistic or (step.kind == "normalise" and place == step.facts["normaliser"])
            used[value] = used.get(value, True) and alone
        found.append(replace(step, facts={**step.facts, "statistic": True}) if statistic else step)
    return found[::-1]


# Running


@dataclass(frozen=True, eq=False)
class Tape:
    """What a run of a program left behind.

    Attributes
    ----------
    values
        Arrays by number.
    pulls
        For steps by place, the pullback from the cotangent of the first output to its live inputs.
    """

    values: dict[int, Any]
    pulls: dict[int, Pull]

    def output(self, program: Program) -> Any:
        """The scores."""
        return self.values[program.graph.output]


def forward(
    program: Program,
    backend: Backend,
    leaves: Sequence[Any],
    differentiate: Callable[[Step], bool],
) -> Tape:
    """Run a program on input leaves, with the pullbacks of the steps that `differentiate` asks for."""
    values: dict[int, Any] = dict(program.graph.constants)
    values.update(zip(program.graph.inputs, leaves, strict=True))
    pulls: dict[int, Pull] = {}
    for place, step in enumerate(program.steps):
        arrays = [values[value] for value in step.inputs]
        if step.kind == "constant" or len(step.outputs) > 1 or not differentiate(step):
            values.update(zip(step.outputs, step.run(*arrays), strict=True))
            continue
        values[step.outputs[0]], pulls[place] = pull_step(step, backend, arrays)
    return Tape(values, pulls)


def pull_step(step: Step, backend: Backend, arrays: Sequence[Any], output: int = 0) -> tuple[Any, Pull]:
    """One output of a step, and its pullback to the live inputs."""

    def of_live(inner: Sequence[Any]) -> Any:
        given = list(arrays)
        for place, array in zip(step.live, inner, strict=True):
            given[place] = array
        return step.run(*given)[output]

    return backend.vjp(of_live, [arrays[place] for place in step.live])
