"""A model as a graph of operations, which a backend traces and rules see.

A backend traces the user's model, at given input shapes, into `Node`s of a small shared vocabulary (`KINDS`) and hands
over a `Graph`. It only says what its own operations are; which operand is data and which is weight, what several
operations are together (a softmax, a layer norm, an activation spelled out), and what flows back is found out here, once
for all frameworks, in `xai_core.operations` and `xai_core.propagation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from xai_core.layers import Layer

__all__ = ["KINDS", "Graph", "GraphBuilder", "Node", "along_axes"]

KINDS = {
    "structure": "every element of the output is an element of an input, or a constant: reshape, transpose, slice, pad, "
    "concatenate, gather and scatter with given places, broadcast, copy, cast between floating dtypes",
    "sum": "other linear functions without weights: sums and means over axes, average pooling, cumulative sums, resizing",
    "add": "a + b",
    "subtract": "a - b",
    "multiply": "a * b",
    "divide": "a / b",
    "negate": "-a",
    "contraction": "bilinear in its inputs 0 and 1: convolution, dense, matrix product; a third input is added to the "
    'result if `facts["bias"]`',
    "elementwise": "any other function of each element: exp, tanh, power, clip, relu, gelu, comparison with a float result",
    "select": "where(c, a, b); the inputs are in that order",
    "maximum": "larger one of two, element by element",
    "minimum": "smaller one of two, element by element",
    "max_pool": "largest element of windows or over axes, one output",
    "min_pool": "smallest element of windows or over axes, one output",
    "softmax": 'exp(a) / sum(exp(a)) over `facts["axis"]`, not negative',
    "log_softmax": 'its logarithm, over `facts["axis"]`',
    "stop": "its input, through which no derivative is to flow: stop_gradient, detach",
    "cut": "a result that has no derivative: comparison, argmax, rounding, sign, integers made of floats, shapes, random "
    "numbers",
    "mark": "its input as it is: where a layer begins or ends",
    "control": "loops and branches with operations inside",
    "unknown": "anything else",
}
"""What a backend calls its operations, and what it promises by that."""


@dataclass(frozen=True, eq=False)
class Node:
    """One operation.

    Attributes
    ----------
    kind
        A key of `KINDS`.
    name
        The framework's own name: `conv_general_dilated`, `aten.relu`, `Conv2D`.
    inputs
        Numbers of the values that it takes, those that are constants included. The same number may occur twice.
    outputs
        Numbers of the values that it makes.
    run
        `run(*arrays) -> sequence of arrays`, pure, of all inputs and outputs. It holds no array, and works on other
        batch sizes where the operation does; it can be differentiated by the backend's `vjp`.
    facts
        What the kind asks for, and:

        `scaled` of a contraction: for the position of an operand, a function `(xp, operand, factor) -> operand` that
        multiplies the operand so that the result is multiplied by `factor`, an array of the rank of the result whose
        size is 1 along all axes but those that come from this operand alone. `along_axes` makes one.

        `varies` of a contraction: for the position of an operand, the axes of the result that come from it alone; a
        mapping from them to the operand's axes where there is one.

        Of a structure, where it is one of these: `reshape` (True: only the shape changes), `permutation` (axis `i` of the
        result is this axis of the input), `axes` (axis of the result for each axis of the input; all others are new
        or repeat), and `cast` of a change of dtype.

        `shape` (True) of a result that depends on no element of the inputs, but on their shapes alone.
    path
        Path of the innermost layer that it belongs to, as `xai.layers` writes it; empty outside of all.
    source
        File and line of the user's code, where known.
    """

    kind: str
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    run: Callable[..., Sequence[Any]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""
    source: str = ""


@dataclass(frozen=True, eq=False)
class Graph:
    """A traced model: operations in an order in which they can be run.

    Attributes
    ----------
    nodes
        The operations.
    inputs
        Numbers of the input leaves, in order.
    output
        Number of the scores.
    constants
        Arrays by number: parameters, buffers, literals (also Python numbers where an operation takes them so).
    numbers
        Constants that are one known number everywhere, by number of the value: 0.0 of `maximum(x, 0.0)`.
    shapes, dtypes
        Of every value, with the batch size of the trace; dtypes by NumPy's names.
    layers
        Number of the value at each layer's inputs and outputs, calls filled in.
    memory
        What was found out about these operations; shared by graphs that differ in parameters, inputs or output only.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    output: int
    constants: Mapping[int, Any]
    numbers: Mapping[int, float]
    shapes: Mapping[int, tuple[int, ...]]
    dtypes: Mapping[int, str]
    layers: Mapping[Layer, int] = field(default_factory=dict)
    memory: dict[Any, Any] = field(default_factory=dict)

    def with_constants(self, constants: Mapping[int, Any]) -> Graph:
        """The same operations with other parameters."""
        return replace(self, constants=constants)


class GraphBuilder:
    """Collects values and operations while a backend walks through its own program."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[int, Any] = {}
        self.numbers: dict[int, float] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.dtypes: dict[int, str] = {}
        self.layers: dict[Layer, int] = {}
        self._counts: dict[str, int] = {}
        self._open: list[tuple[str, int]] = []

    def value(self, shape: Sequence[int], dtype: str) -> int:
        """A new value, of that shape and dtype (NumPy's name)."""
        number = len(self.shapes)
        self.shapes[number], self.dtypes[number] = tuple(int(size) for size in shape), dtype
        return number

    def constant(self, array: Any, shape: Sequence[int], dtype: str, number: float | None = None) -> int:
        """A value that does not depend on the inputs; `number` if it is that number everywhere."""
        made = self.value(shape, dtype)
        self.constants[made] = array
        if number is not None:
            self.numbers[made] = float(number)
        return made

    def node(
        self,
        kind: str,
        name: str,
        inputs: Sequence[int],
        outputs: Sequence[tuple[Sequence[int], str]],
        run: Callable[..., Sequence[Any]],
        *,
        facts: Mapping[str, Any] | None = None,
        path: str | None = None,
        source: str = "",
    ) -> list[int]:
        """Add an operation whose outputs have these shapes and dtypes; returns the numbers of its outputs."""
        made = [self.value(shape, dtype) for shape, dtype in outputs]
        where = self.path if path is None else path
        self.nodes.append(Node(kind, name, tuple(inputs), tuple(made), run, facts or {}, where, source))
        return made

    @property
    def path(self) -> str:
        """Path of the innermost layer that is open."""
        return self._open[-1][0] if self._open else ""

    def enter(self, path: str, given: Sequence[int]) -> list[int]:
        """A layer is called with these values; returns what they are called inside of it.

        They get numbers of their own, because a value may be used beside the layer as well.
        """
        call = self._counts[path] = self._counts.get(path, 0) + 1
        self._open.append((path, call))
        return self._mark(path, call, "input", given)

    def leave(self, path: str, made: Sequence[int]) -> list[int]:
        """A layer returns these values; one that was given none begins here. Returns what they are called from now on."""
        for place in range(len(self._open) - 1, -1, -1):
            if self._open[place][0] == path:
                call = self._open.pop(place)[1]
                break
        else:
            call = self._counts[path] = self._counts.get(path, 0) + 1
        return self._mark(path, call, "output", made)

    def _mark(self, path: str, call: int, io: str, values: Sequence[int]) -> list[int]:
        found = []
        for part, number in enumerate(values):
            shape, dtype = self.shapes[number], self.dtypes[number]
            (inner,) = self.node("mark", io, [number], [(shape, dtype)], _same, path=path)
            self.layers[Layer(path, call, io, part)] = inner
            found.append(inner)
        return found

    def build(self, inputs: Sequence[int], output: int) -> Graph:
        """The graph."""
        return Graph(
            tuple(self.nodes),
            tuple(inputs),
            output,
            self.constants,
            self.numbers,
            self.shapes,
            self.dtypes,
            self.layers,
        )


def _same(array: Any) -> Sequence[Any]:
    return (array,)


def along_axes(axes: Mapping[int, int]) -> Callable[[Any, Any, Any], Any]:
    """`scaled` of an operand whose axis `axes[o]` becomes axis `o` of the result."""

    def scale(xp: Any, operand: Any, factor: Any) -> Any:
        rank = len(tuple(operand.shape))
        sizes = tuple(factor.shape)
        order = sorted(axes, key=lambda o: axes[o])
        kept = xp.permute_dims(factor, (*(o for o in range(len(sizes)) if o not in axes), *order))
        shape = [1] * rank
        for o in order:
            shape[axes[o]] = sizes[o]
        return operand * xp.reshape(kept, tuple(shape))

    return scale
