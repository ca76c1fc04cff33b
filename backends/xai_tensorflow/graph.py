"""TensorFlow programs operation by operation: as graphs for rules, and run so that every operation is a layer.

A model is traced by `tf.function`, calls of functions inside it are inlined, and each operation is made anew where it
runs, eagerly or inside another function. Variables stay variables: the operation that reads one is run like all others.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
import tensorflow as tf

from xai_core.backend import Around
from xai_core.errors import CapabilityError
from xai_core.graph import Graph, GraphBuilder, along_axes
from xai_core.structure import flatten

__all__ = ["follow", "in_order_of_use", "reading", "traced", "traced_by_operation"]

_KINDS = {
    "structure": "Identity IdentityN Snapshot EnsureShape CheckNumerics CheckNumericsV2 ReadVariableOp Cast Reshape "
    "Transpose Squeeze ExpandDims Pad PadV2 MirrorPad ConcatV2 Concat Pack Unpack Split SplitV Slice StridedSlice Gather "
    "GatherV2 GatherNd ResourceGather ResourceGatherNd Tile BroadcastTo ReverseV2 ReverseSequence Roll "
    "SpaceToBatch SpaceToBatchND BatchToSpace BatchToSpaceND SpaceToDepth DepthToSpace ResizeNearestNeighbor "
    "ExtractImagePatches MatrixDiag MatrixDiagV3 MatrixDiagPart MatrixDiagPartV3 MatrixSetDiag MatrixSetDiagV3 "
    "MatrixBandPart Diag DiagPart TensorScatterUpdate TensorStridedSliceUpdate DynamicPartition DynamicStitch "
    "ParallelDynamicStitch",
    "sum": "Sum Mean AvgPool AvgPool3D Cumsum ResizeBilinear ResizeBicubic ResizeArea ScatterNd SegmentSum SegmentMean "
    "UnsortedSegmentSum",
    "add": "Add AddV2",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "RealDiv Div",
    "negate": "Neg",
    "contraction": "Conv2D Conv3D DepthwiseConv2dNative Conv2DBackpropInput Conv3DBackpropInputV2 MatMul BatchMatMul "
    "BatchMatMulV2 BatchMatMulV3 Einsum",
    "elementwise": "Relu Relu6 Elu Selu LeakyRelu Softplus Softsign Sigmoid Tanh Exp Expm1 Log Log1p Erf Erfc Erfinv Ndtri "
    "Rsqrt Sqrt Square Pow Reciprocal Inv Abs Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Lgamma Digamma "
    "ClipByValue",
    "select": "Select SelectV2",
    "maximum": "Maximum",
    "minimum": "Minimum",
    "max_pool": "MaxPool MaxPoolV2 MaxPool3D Max",
    "min_pool": "Min",
    "softmax": "Softmax",
    "log_softmax": "LogSoftmax",
    "stop": "StopGradient PreventGradient",
    "cut": "Floor Ceil Rint Round Sign Shape ShapeN Size Rank Range Fill ZerosLike OnesLike",
    "spelled": "BiasAdd FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 AddN SquaredDifference",
    "control": "If StatelessIf While StatelessWhile Case StatelessCase",
}
"""What operations are; `spelled`: several."""
_KIND = {name: kind for kind, names in _KINDS.items() for name in names.split()}
_SHAPES_ONLY = ("Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike")
"""Operations whose results depend on the shape of their inputs alone."""
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_TRANSPOSED = ("Conv2DBackpropInput", "Conv3DBackpropInputV2")
_RENAMED = {
    "reduction_indices": "axis",
    "dim": "axis",
    "split_dim": "axis",
    "squeeze_dims": "axis",
    "t": "x",
    "e": "y",
    "input": "condition",
}
_SPARE = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LIBRARIES = ("tensorflow", "keras", "xai_tensorflow", "xai_keras", "xai_core")

Run = Callable[..., Sequence[Any]]


@dataclass(eq=False)
class _Step:
    """One operation of a program."""

    name: str
    op: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    make: Callable[[], Run]
    given_gradient: bool = False
    """Whether somebody gave this operation a derivative of its own."""
    moving: tuple[bool, ...] = ()
    """For each input, whether its elements depend on those of the program's inputs."""
    moves: bool = False
    """Whether its results do."""


@dataclass(eq=False)
class _Event:
    """A layer's call that begins or ends, with what it is given or makes; the values have other numbers behind it."""

    path: str
    begins: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(eq=False)
class _Program:
    """Operations in order, calls of functions inlined; values are numbers.

    Constants are tensors of outside, or NumPy arrays where they are written in the program.
    """

    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    items: list[_Step | _Event] = field(default_factory=list)
    constants: dict[int, Any] = field(default_factory=dict)
    specs: list[tf.TensorSpec] = field(default_factory=list)
    """Shape and dtype of each value."""
    written: set[int] = field(default_factory=set)
    """Variables that the program has assigned to, so far."""
    handles: dict[int, int] = field(default_factory=dict)
    """Variables that are not read, by the identity of their handles."""
    instead: dict[int, int] = field(default_factory=dict)
    """For each of those the value that takes the place of what it holds."""

    def value(self, tensor: Any) -> int:
        self.specs.append(tf.TensorSpec(tensor.shape, tensor.dtype))
        return len(self.specs) - 1

    def constant(self, array: Any, tensor: Any) -> int:
        known = self.handles.get(id(array))
        if known is not None:
            return known
        number = self.value(tensor)
        self.constants[number] = array
        return number

    def replace(self, handle: Any, value: Any) -> None:
        """Have a variable read as another value."""
        number = self.constant(handle, handle)
        self.handles[id(handle)] = number
        self.instead[number] = self.constant(value, value)

    @property
    def steps(self) -> list[_Step]:
        return [item for item in self.items if isinstance(item, _Step)]


@dataclass(eq=False)
class _Frame:
    """A function while it is inlined: where its tensors are."""

    graph: Any
    prefix: str
    outer: _Frame | None
    values: dict[str, int] = field(default_factory=dict)

    def find(self, tensor: Any) -> int | None:
        frame: _Frame | None = self
        while frame is not None:
            if frame.graph is tensor.graph:
                return frame.values.get(tensor.name)
            frame = frame.outer
        return None


@dataclass(eq=False)
class _Mark:
    """What `around` saw in a trace: copies of the tensors that a layer was given, or made."""

    path: str
    begins: bool
    tensors: list[Any]


class _Marks:
    """Marks of a trace, by an operation of no effect that was put where a layer begins or ends."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, str], _Mark] = {}
        self._copies: set[tuple[int, str]] = set()
        self._graphs: list[Any] = []

    def clear(self) -> None:
        """Another trace begins; the one before is not used."""
        self._found.clear()
        self._copies.clear()

    def around(self, path: str, operation: str, compute: Callable[[Any], Any], given: Any) -> Any:
        return self._note(path, False, compute(self._note(path, True, given)))

    def _note(self, path: str, begins: bool, value: Any) -> Any:
        if not tf.inside_function():
            return value
        leaves, structure = flatten(value)
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, tf.Tensor)]
        for place in places:
            copy = tf.identity(leaves[place])
            if hasattr(leaves[place], "_keras_mask"):  # Keras hands masks on beside the values
                copy._keras_mask = leaves[place]._keras_mask
            leaves[place] = copy
            self._copies.add((id(copy.graph), copy.op.name))
        op = tf.no_op()
        self._graphs.append(op.graph)  # kept, so that its identity stays its own
        self._found[id(op.graph), op.name] = _Mark(path, begins, [leaves[place] for place in places])
        return structure.rebuild(leaves) if places else value

    def at(self, op: Any) -> _Mark | None:
        return self._found.get((id(op.graph), op.name))

    def copies(self, op: Any) -> bool:
        """Whether this is the copy of a tensor that was made for a mark."""
        return (id(op.graph), op.name) in self._copies

    def count(self, path: str) -> int:
        return sum(mark.path == path and not mark.begins for mark in self._found.values())


def traced(marked: Callable[[Any, Any, Around], Any]) -> Callable[[Any, Any, Callable[[Any], Any]], Graph]:
    """The graph of `pick(marked(params, x, around))`, where `marked` runs each layer through `around`."""

    def trace(params: Any, x: Any, pick: Callable[[Any], Any]) -> Graph:
        marks = _Marks()
        program, _ = _trace(lambda inner: pick(marked(params, inner, marks.around)), x, marks)
        return _graph(program, marks, False)

    return trace


def traced_by_operation(
    apply: Callable[[Any, Any], Any], variables: Sequence[Any] = ()
) -> Callable[[Any, Any, Callable[[Any], Any]], Graph]:
    """The graph of `pick(apply(params, x))`, with the layers of `follow`.

    Where there are variables, `params` are what is read instead of them.
    """

    def trace(params: Any, x: Any, pick: Callable[[Any], Any]) -> Graph:
        marks = _Marks()
        program, _ = _trace(lambda inner: pick(apply(params, inner)), x, marks, _instead(variables, params))
        return _graph(program, marks, True)

    return trace


def follow(apply: Callable[[Any, Any], Any], variables: Sequence[Any] = ()) -> Callable[[Any, Any, Around], Any]:
    """`marked(params, x, around)` of a function: its operations are the layers, by the names that TensorFlow gives them.

    Layers are all operations with a floating point result that depends on the inputs. Where there are variables,
    `params` are what is read instead of them.
    """

    def marked(params: Any, x: Any, around: Around) -> Any:
        program, rebuild = _trace(partial(apply, params), x, _Marks(), _instead(variables, params))
        return rebuild(_evaluate(program, flatten(x)[0], partial(_layer, around)))

    return marked


def reading(apply: Callable[[Any, Any], Any], variables: Sequence[Any]) -> Callable[[Any, Any], Any]:
    """`apply`, with `params` read instead of variables."""

    def run(params: Any, x: Any) -> Any:
        program, rebuild = _trace(partial(apply, params), x, _Marks(), _instead(variables, params))
        return rebuild(_evaluate(program, flatten(x)[0], lambda step, run, given: run(*given)))

    return run


def _instead(variables: Sequence[Any], params: Sequence[Any]) -> list[tuple[Any, Any]]:
    return [(variable.handle, value) for variable, value in zip(variables, params, strict=True)] if variables else []


def in_order_of_use(apply: Callable[[Any, Any], Any], x: Any, variables: Sequence[Any]) -> dict[int, int]:
    """For each of the variables that a function reads, by its number, whether it does so first, second and so on."""
    leaves, structure = flatten(x)
    specs = [tf.TensorSpec(leaf.shape, leaf.dtype) for leaf in leaves]
    function = tf.function(lambda *arrays: tf.nest.flatten(apply((), structure.rebuild(arrays))), autograph=False)
    captured = function.get_concrete_function(*specs).captured_inputs
    places = {id(handle): place for place, handle in enumerate(captured)}
    return {n: places[id(v.handle)] for n, v in enumerate(variables) if id(v.handle) in places}


def _trace(
    compute: Callable[[Any], Any], x: Any, marks: _Marks, instead: Sequence[tuple[Any, Any]] = ()
) -> tuple[_Program, Callable[[Sequence[Any]], Any]]:
    """The program of `compute(x)`, and what makes of its outputs what `compute` returns.

    `instead` has handles of variables, and what is read in their place.
    """
    leaves, structure = flatten(x)
    raw: list[Any] = []

    def flat(*arrays: Any) -> list[Any]:
        marks.clear()
        raw[:] = [compute(structure.rebuild(arrays))]
        return [leaf for leaf in tf.nest.flatten(raw[0]) if isinstance(leaf, tf.Tensor)]

    specs = [tf.TensorSpec(leaf.shape, leaf.dtype) for leaf in leaves]
    concrete = tf.function(flat, autograph=False).get_concrete_function(*specs)
    graph, captured = concrete.graph, concrete.captured_inputs
    program = _Program()
    arguments = graph.inputs[: len(graph.inputs) - len(captured)]
    program.inputs = [program.value(tensor) for tensor in arguments]
    for handle, value in instead:
        program.replace(handle, value)
    held = [program.constant(tensor, tensor) for tensor in captured]
    frame = _inline(program, graph, [*program.inputs, *held], "", None, marks)
    parts = tf.nest.flatten(raw[0])
    places = [place for place, leaf in enumerate(parts) if isinstance(leaf, tf.Tensor)]
    program.outputs = [_number(program, frame, parts[place]) for place in places]
    _prune(program)
    if not all(program.specs[number].shape.is_fully_defined() for step in program.steps for number in step.outputs):
        _specialise(program, specs)
    _follow_elements(program)

    def rebuild(arrays: Sequence[Any]) -> Any:
        full = list(parts)
        for place, array in zip(places, arrays, strict=True):
            full[place] = array
        return tf.nest.pack_sequence_as(raw[0], full)

    return program, rebuild


def _number(program: _Program, frame: _Frame, tensor: Any) -> int:
    """Number of a tensor that Python code held, which may be one of outside."""
    found = frame.find(tensor) if tf.is_symbolic_tensor(tensor) else None
    return program.constant(tensor, tensor) if found is None else found


def _inline(
    program: _Program,
    graph: Any,
    arguments: Sequence[int],
    prefix: str,
    outer: _Frame | None,
    marks: _Marks | None = None,
) -> _Frame:
    """Add the operations of a function."""
    frame = _Frame(graph, prefix, outer)
    frame.values = {tensor.name: number for tensor, number in zip(graph.inputs, arguments, strict=True)}
    operations = graph.get_operations()
    # A function that does nothing but call another, as those of tf.function and SavedModels do, adds no names.
    others = [op.type for op in operations if op.type not in ("Placeholder", "Const", "NoOp", "Identity")]
    forwards = len(others) == 1 and others[0] in _CALLS
    for op in operations:
        mark = marks.at(op) if marks is not None else None
        if mark is not None:
            values = tuple(frame.values[tensor.op.inputs[0].name] for tensor in mark.tensors)
            copies = tuple(program.value(tensor) for tensor in mark.tensors)
            frame.values.update(zip((tensor.name for tensor in mark.tensors), copies, strict=True))
            program.items.append(_Event(mark.path, mark.begins, values, copies))
        elif marks is not None and marks.copies(op):
            continue
        elif op.type == "Const":
            value = tf.make_ndarray(op.get_attr("value"))
            frame.values[op.outputs[0].name] = program.constant(value, op.outputs[0])
        elif op.type in _CALLS:
            called = _function(op, op.get_attr("f"))
            inside = prefix if forwards else f"{prefix}{op.name}/"
            inner = _inline(program, called, _inputs(frame, op), inside, frame, marks)
            # A function that was differentiated before may have further outputs behind its own.
            pairs = zip(op.outputs, called.outputs, strict=False)
            frame.values.update({tensor.name: inner.values[made.name] for tensor, made in pairs})
        elif forwards and op.type == "Identity":
            frame.values[op.outputs[0].name] = frame.values[op.inputs[0].name]
        elif not op.outputs:
            program.written.update(n for n in _inputs(frame, op) if program.specs[n].dtype == tf.resource)
        elif op.outputs[0].name not in frame.values:
            _add(program, frame, op)
    return frame


def _function(op: Any, called: Any) -> Any:
    """The graph of a function that an operation calls."""
    return op.graph._get_function(called.name).graph  # TensorFlow has no public way


def _inputs(frame: _Frame, op: Any) -> tuple[int, ...]:
    return tuple(frame.values[tensor.name] for tensor in op.inputs)


def _add(program: _Program, frame: _Frame, op: Any) -> None:
    name = frame.prefix + op.name
    inputs = _inputs(frame, op)
    make: Callable[[], Run] = partial(_make, op)
    if op.type == "ReadVariableOp" and inputs[0] in program.instead:
        frame.values[op.outputs[0].name] = program.instead[inputs[0]]
        return
    if op.type == "ResourceGather" and inputs[0] in program.instead:
        inputs = (program.instead[inputs[0]], inputs[1])
        make = partial(_gather, op)
    own = _has_own_gradient(op)
    if own:
        extras, make = _with_gradient(program, frame, op, name)
        inputs += extras
    if program.written.intersection(inputs):
        make = partial(_refuse_changed, name)
    if not program.instead.keys().isdisjoint(inputs):
        make = partial(_refuse_replaced, name)
    if op.type in _CONTROL and any(_writes(graph) for graph in _branches(op)):
        program.written.update(number for number in inputs if program.specs[number].dtype == tf.resource)
    outputs = tuple(program.value(tensor) for tensor in op.outputs)
    frame.values.update(zip((tensor.name for tensor in op.outputs), outputs, strict=True))
    program.items.append(_Step(name, op, inputs, outputs, make, own))


def _refuse_changed(name: str) -> Run:
    raise CapabilityError(
        "The model reads a variable that it has changed before.",
        received=f"operation {name}",
        fix="explain a function that changes no variable: its operations are run one by one.",
    )


def _refuse_replaced(name: str) -> Run:
    raise CapabilityError(
        "The model reads a variable, in place of which another value is wanted, where that cannot be given.",
        received=f"operation {name}",
        fix="leave the layer of this variable as it is, or read it outside of loops and branches.",
    )


def _gather(op: Any) -> Run:
    """`ResourceGather` of an array instead of a variable."""
    axes = int(op.get_attr("batch_dims"))
    return lambda array, places: [tf.gather(array, places, batch_dims=axes)]


def _prune(program: _Program) -> None:
    """Leave out operations on which nothing depends."""
    needed = set(program.outputs)
    kept: list[_Step | _Event] = []
    for item in reversed(program.items):
        if isinstance(item, _Event) or not needed.isdisjoint(item.outputs):
            needed.update(item.inputs)
            kept.append(item)
    program.items = kept[::-1]


def _specialise(program: _Program, specs: Sequence[Any]) -> None:
    """Find the shapes that values have for these inputs: a function that was traced for any batch size does not know."""

    def note(step: _Step, run: Run, given: Sequence[Any]) -> Sequence[Any]:
        made = run(*given)
        for number, tensor in zip(step.outputs, made, strict=True):
            program.specs[number] = tf.TensorSpec(tensor.shape, tensor.dtype)
        return made

    tf.function(lambda *arrays: _evaluate(program, arrays, note), autograph=False).get_concrete_function(*specs)


def _follow_elements(program: _Program) -> None:
    """Note which operations depend on the elements of the inputs, and not only on their shapes."""
    moving = set(program.inputs)
    for step in program.items:
        if isinstance(step, _Event):
            moving.update(out for number, out in zip(step.inputs, step.outputs, strict=True) if number in moving)
            continue
        step.moving = tuple(number in moving for number in step.inputs)
        shapes = step.op.type in _SHAPES_ONLY and all(program.specs[n].shape.is_fully_defined() for n in step.inputs)
        step.moves = any(step.moving) and not shapes
        if step.moves:
            moving.update(step.outputs)


Through = Callable[[_Step, Run, Sequence[Any]], Sequence[Any]]


def _evaluate(program: _Program, arrays: Sequence[Any], through: Through) -> list[Any]:
    """Run a program, `through(step, run, inputs)` in place of each `run(*inputs)`."""
    values = dict(zip(program.inputs, arrays, strict=True))
    for number, array in program.constants.items():
        values[number] = _tensor(array, program.specs[number].dtype)
    for item in program.items:
        given = [values[number] for number in item.inputs]
        made = given if isinstance(item, _Event) else through(item, item.make(), given)
        values.update(zip(item.outputs, made, strict=True))
    return [values[number] for number in program.outputs]


def _tensor(constant: Any, dtype: Any) -> Any:
    return tf.constant(constant, dtype, constant.shape) if isinstance(constant, np.ndarray) else constant


def _shown(step: _Step) -> tuple[list[int], list[int]]:
    """Which inputs and outputs of an operation are those of a layer; none where it is none."""
    # Not what operations hand to their derivatives alone, whose shape is not known.
    known = [place for place, out in enumerate(step.op.outputs) if out.dtype.is_floating and out.shape.rank is not None]
    moving = [place for place, moves in enumerate(step.moving) if moves]
    return (moving, known) if step.moves and known else ([], [])


def _layer(around: Around, step: _Step, run: Run, given: Sequence[Any]) -> Sequence[Any]:
    """Run an operation, through `around` if it is a layer."""
    moving, outputs = _shown(step)
    if not outputs:
        return run(*given)
    made: list[Any] = []

    def compute(shown: Sequence[Any]) -> list[Any]:
        full = list(given)
        for place, array in zip(moving, shown, strict=True):
            full[place] = array
        made[:] = run(*full)
        return [made[place] for place in outputs]

    found = around(step.name, step.op.type, compute, [given[place] for place in moving])
    for place, array in zip(outputs, found, strict=True):
        made[place] = array
    return made


# How operations are made anew. What runs holds nothing of the trace, which it outlives.


def _make(op: Any) -> Run:
    if op.type in _CONTROL:
        return _CONTROL[op.type](op)
    operation, definition = getattr(tf.raw_ops, op.type, None), op.op_def
    known = {} if operation is None else inspect.signature(operation).parameters
    arguments = [_python_name(argument.name, known) for argument in definition.input_arg]
    # What kind and how many arrays there are is seen from the arrays.
    seen = {name for held in definition.input_arg for name in (held.type_attr, held.number_attr, held.type_list_attr)}
    attributes = {held.name: _python_name(held.name, known) for held in definition.attr if held.name not in seen}
    functions = any("func" in held.type for held in definition.attr)
    if operation is None or functions or not known.keys() >= {*arguments, *attributes.values()}:
        raise CapabilityError(
            f"The operation {op.type!r} can not be run by itself, as layers and rules need it.",
            received=op.name,
            fix="use a method without layers and rules, or write the model with other operations.",
        )
    counts = [_count(op, argument) for argument in definition.input_arg]
    return partial(_again, operation, arguments, counts, {new: op.get_attr(old) for old, new in attributes.items()})


def _python_name(name: str, known: Collection[str]) -> str:
    """What `tf.raw_ops` calls an argument; only these have other names there."""
    return name if name in known else _RENAMED.get(name, name)


def _count(op: Any, argument: Any) -> int | None:
    """How many tensors an argument takes as a list; `None` for one that is no list."""
    if argument.number_attr:
        return int(op.get_attr(argument.number_attr))
    return len(op.get_attr(argument.type_list_attr)) if argument.type_list_attr else None


def _again(
    operation: Callable[..., Any],
    arguments: Sequence[str],
    counts: Sequence[int | None],
    attributes: Mapping[str, Any],
    *arrays: Any,
) -> list[Any]:
    remaining = iter(arrays)
    given = {
        name: next(remaining) if count is None else [next(remaining) for _ in range(count)]
        for name, count in zip(arguments, counts, strict=True)
    }
    return _listed(operation(**given, **attributes))


def _listed(found: Any) -> list[Any]:
    return [array for part in found for array in _listed(part)] if isinstance(found, (tuple, list)) else [found]


@dataclass(frozen=True, eq=False)
class _Ready:
    """A program that holds nothing of the trace."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    runs: tuple[tuple[Run, tuple[int, ...], tuple[int, ...]], ...]
    constants: Mapping[int, tuple[Any, Any]]

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        values = dict(zip(self.inputs, arrays, strict=True))
        values.update({number: _tensor(array, dtype) for number, (array, dtype) in self.constants.items()})
        for run, inputs, outputs in self.runs:
            values.update(zip(outputs, run(*(values[number] for number in inputs)), strict=True))
        return [values[number] for number in self.outputs]


def _function_program(graph: Any, count: int) -> _Program:
    """A function, up to that many outputs, as a program of its own: a branch, the body of a loop, a derivative."""
    program = _Program()
    program.inputs = [program.value(tensor) for tensor in graph.inputs]
    frame = _inline(program, graph, program.inputs, "", None)
    program.outputs = [frame.values[tensor.name] for tensor in graph.outputs[:count]]
    _prune(program)
    return program


def _ready(program: _Program) -> _Ready:
    runs = tuple((step.make(), step.inputs, step.outputs) for step in program.steps)
    constants = {number: (array, program.specs[number].dtype) for number, array in program.constants.items()}
    return _Ready(tuple(program.inputs), tuple(program.outputs), runs, constants)


def _has_own_gradient(op: Any) -> bool:
    """Whether somebody gave an operation a derivative: `tf.custom_gradient`, `gradient_override_map`.

    That of TensorFlow's own `swish` is the derivative of the operations that it is made of, written to save memory.
    """
    try:
        op.get_attr("_gradient_op_type")
    except ValueError:
        return False
    return not _is_swish(op)


def _is_swish(op: Any) -> bool:
    """Whether this is the end of `swish`, `[f * sigmoid(b * f), f, b]`."""
    if op.type != "IdentityN" or len(op.inputs) != 3:
        return False
    whole, features, beta = op.inputs
    gates = [tensor.op for tensor in whole.op.inputs if tensor.op.type == "Sigmoid"]
    if whole.op.type != "Mul" or len(gates) != 1:
        return False
    inner = gates[0].inputs[0].op
    factors = {tensor.name for tensor in whole.op.inputs}
    return (
        inner.type == "Mul"
        and factors == {features.name, gates[0].outputs[0].name}
        and {tensor.name for tensor in inner.inputs} == {features.name, beta.name}
    )


def _with_gradient(program: _Program, frame: _Frame, op: Any, name: str) -> tuple[tuple[int, ...], Callable[[], Run]]:
    """An operation with the derivative that was given to it: which further values that needs, and the operation.

    The derivative is Python code that holds tensors of the function that it was traced in; it becomes a program here.
    """
    from tensorflow.python.framework.ops import get_gradient_function  # TensorFlow has no public way

    there: list[bool] = []

    def differentiate(*cotangents: Any) -> list[Any]:
        found = get_gradient_function(op)(op, *cotangents)
        found = list(found) if isinstance(found, (tuple, list)) else [found]
        there[:] = [gradient is not None for gradient in found]
        return [tf.convert_to_tensor(gradient) for gradient in found if gradient is not None]

    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in op.outputs]
    try:
        with op.graph.as_default():
            concrete = tf.function(differentiate, autograph=False).get_concrete_function(*specs)
    except LookupError:  # not saved with the model
        return (), partial(_made_without, op, name)
    held = concrete.captured_inputs
    if any(tf.is_symbolic_tensor(tensor) and frame.find(tensor) is None for tensor in held):
        return (), partial(_made_without, op, name)
    extras = tuple(_number(program, frame, tensor) for tensor in held)
    return extras, partial(_made_with, op, _function_program(concrete.graph, len(concrete.graph.outputs)), tuple(there))


def _made_with(op: Any, derivative: _Program, there: Sequence[bool]) -> Run:
    forward, backward, count = _make(op), _ready(derivative), len(op.inputs)

    def run(*arrays: Any) -> list[Any]:
        def gradient(*cotangents: Any) -> list[Any]:
            found = iter(backward([*cotangents, *arrays[count:]]))
            return [next(found) if known else None for known in there]

        return list(tf.custom_gradient(lambda *own: (tuple(forward(*own)), gradient))(*arrays[:count]))

    return run


def _made_without(op: Any, name: str) -> Run:
    forward = _make(op)

    def refuse(*cotangents: Any) -> Any:
        raise CapabilityError(
            "The derivative that was written for an operation is not there.",
            received=f"operation {name}",
            fix="save the model with tf.saved_model.SaveOptions(experimental_custom_gradients=True).",
        )

    def run(*arrays: Any) -> list[Any]:
        return list(tf.custom_gradient(lambda *own: (tuple(forward(*own)), refuse))(*arrays))

    return run


def _branches(op: Any) -> list[Any]:
    """Graphs of an operation of control flow."""
    if op.type.endswith("Case"):
        return [_function(op, called) for called in op.get_attr("branches")]
    names = ("cond", "body") if op.type.endswith("While") else ("then_branch", "else_branch")
    return [_function(op, op.get_attr(name)) for name in names]


def _writes(graph: Any) -> bool:
    return any(
        not op.outputs and any(tensor.dtype == tf.resource for tensor in op.inputs) for op in graph.get_operations()
    )


def _if(op: Any) -> Run:
    then, other = (_ready(_function_program(graph, len(op.outputs))) for graph in _branches(op))

    def run(condition: Any, *arrays: Any) -> list[Any]:
        return _listed(tf.cond(tf.cast(condition, tf.bool), lambda: then(arrays), lambda: other(arrays)))

    return run


def _case(op: Any) -> Run:
    branches = [_ready(_function_program(graph, len(op.outputs))) for graph in _branches(op)]

    def run(index: Any, *arrays: Any) -> list[Any]:
        return _listed(tf.switch_case(index, [partial(branch, arrays) for branch in branches]))

    return run


def _while(op: Any) -> Run:
    graphs = zip(_branches(op), (1, len(op.outputs)), strict=True)
    condition, body = (_ready(_function_program(graph, count)) for graph, count in graphs)
    shapes = [tensor.shape for tensor in op.outputs]

    def run(*arrays: Any) -> list[Any]:
        invariants = [
            array.shape if shape.is_fully_defined() else shape for array, shape in zip(arrays, shapes, strict=True)
        ]
        start = list(arrays)
        loop = tf.while_loop(lambda *x: condition(x)[0], lambda *x: body(x), start, shape_invariants=invariants)
        return _listed(loop)

    return run


_CONTROL: dict[str, Callable[[Any], Run]] = {
    "If": _if,
    "StatelessIf": _if,
    "While": _while,
    "StatelessWhile": _while,
    "Case": _case,
    "StatelessCase": _case,
}


# What operations are, for rules.


def _graph(program: _Program, marks: _Marks, by_operation: bool) -> Graph:
    writer = _Writer(program)
    builder = writer.builder
    for item in program.items:
        if isinstance(item, _Event):
            writer.mark(item)
        elif by_operation:
            writer.layer(item)
        else:
            writer.step(item, writer.inputs(item))
    ends = Counter(item.path for item in program.items if isinstance(item, _Event) and not item.begins)
    # The calls of a layer can not be told apart by number where some are inside a loop or a branch.
    confused = {path for path, count in ends.items() if count != marks.count(path)}
    builder.layers = {layer: number for layer, number in builder.layers.items() if layer.path not in confused}
    return builder.build([writer.number(n) for n in program.inputs], writer.number(program.outputs[0]))


class _Writer:
    """Writes the steps of a program as nodes."""

    _path: str | None = None

    def __init__(self, program: _Program) -> None:
        self.program = program
        self.builder = GraphBuilder()
        self._numbers = {n: self.builder.value(*_spec(program.specs[n])) for n in program.inputs}
        self.used = {number for item in program.items for number in item.inputs}.union(program.outputs)

    def number(self, held: int) -> int:
        """Number in the graph of a value of the program."""
        if held not in self._numbers:
            array, spec, number = self.program.constants[held], self.program.specs[held], None
            if isinstance(array, np.ndarray):
                if array.size and _is_real(spec.dtype) and np.all(array == array.flat[0]):
                    number = float(array.flat[0])
                with tf.init_scope():  # a tensor of no trace
                    array = _tensor(array, spec.dtype)
            self._numbers[held] = self.builder.constant(array, *_spec(spec), number)
        return self._numbers[held]

    def inputs(self, item: _Step | _Event) -> list[int]:
        return [self.number(number) for number in item.inputs]

    def mark(self, event: _Event) -> None:
        note = self.builder.enter if event.begins else self.builder.leave
        made = note(event.path, self.inputs(event))
        self._numbers.update(zip(event.outputs, made, strict=True))

    def layer(self, step: _Step) -> None:
        """An operation, as a layer of its own if it is one."""
        self._path, given = step.name, self.inputs(step)
        moving, outputs = _shown(step)
        if not outputs:
            return self.step(step, given)
        for place, number in zip(moving, self.builder.enter(step.name, [given[p] for p in moving]), strict=True):
            given[place] = number
        self.step(step, given)
        held = [step.outputs[place] for place in outputs if step.outputs[place] in self._numbers]
        made = self.builder.leave(step.name, [self._numbers[number] for number in held])
        self._numbers.update(zip(held, made, strict=True))

    def step(self, step: _Step, given: list[int]) -> None:
        """An operation with these inputs."""
        op, specs = step.op, self.program.specs
        kind = _kind(step, specs, self.used)
        made = None
        if kind == "spelled":
            made = _SPELLED[op.type](self, step, given)
            kind = "unknown"
        if made is None:
            run, facts = step.make(), _facts(step, specs) or ({} if step.moves else {"shape": True})
            if op.type in _TRANSPOSED:
                given, run = given[::-1], partial(_backwards, run)
            outputs = [_spec(specs[number]) for number in step.outputs]
            made = self._node(step, kind, given, outputs, run, facts)
            self._note_number(op, given, made)
        self._numbers.update(zip(step.outputs, made, strict=False))

    def _note_number(self, op: Any, given: Sequence[int], made: Sequence[int]) -> None:
        numbers = self.builder.numbers
        if op.type in ("ZerosLike", "OnesLike"):
            numbers[made[0]] = float(op.type == "OnesLike")
        elif op.type == "Fill" and given[1] in numbers:
            numbers[made[0]] = numbers[given[1]]

    def node(self, step: _Step, kind: str, inputs: Sequence[int], spec: tf.TensorSpec, run: Callable[..., Any]) -> int:
        """A part of an operation that is spelled out."""
        return self._node(step, kind, inputs, [_spec(spec)], partial(_run_listed, run), {})[0]

    def _node(
        self,
        step: _Step,
        kind: str,
        inputs: Sequence[int],
        outputs: Sequence[tuple[Sequence[int], str]],
        run: Run,
        facts: Mapping[str, Any],
    ) -> list[int]:
        source = _source(step.op)
        return self.builder.node(kind, step.op.type, inputs, outputs, run, facts=facts, path=self._path, source=source)


def _run_listed(run: Callable[..., Any], *arrays: Any) -> list[Any]:
    return [run(*arrays)]


def _backwards(run: Run, *arrays: Any) -> Sequence[Any]:
    return run(*arrays[::-1])


def _spec(spec: tf.TensorSpec) -> tuple[tuple[int, ...], str]:
    """Shape, sizes that are not known -1, and dtype."""
    sizes = () if spec.shape.rank is None else spec.shape
    return tuple(-1 if size is None else int(size) for size in sizes), spec.dtype.name


def _is_real(dtype: Any) -> bool:
    return dtype.is_floating or dtype.is_integer or dtype.is_bool


def _carries(dtype: Any) -> bool:
    """Whether derivatives can go through a value."""
    return dtype.is_floating or dtype.is_complex or dtype == tf.variant


def _kind(step: _Step, specs: Sequence[tf.TensorSpec], used: Collection[int]) -> str:
    op = step.op
    kind = _KIND.get(op.type, "control" if op.type.startswith("TensorList") else "unknown")
    if not step.moves:
        return "unknown" if kind == "spelled" else kind
    inputs, outputs = [specs[n] for n in step.inputs], [specs[n] for n in step.outputs if n in used]
    moving = [spec for spec, moves in zip(inputs, step.moving, strict=True) if moves]
    if not any(_carries(spec.dtype) for spec in outputs) or not any(_carries(spec.dtype) for spec in moving):
        return "cut"
    if kind == "control":
        return kind
    known = all(spec.shape.is_fully_defined() for spec in (*inputs, *outputs))
    real = all(_is_real(spec.dtype) for spec in moving) and all(spec.dtype.is_floating for spec in outputs)
    if step.given_gradient or not known or not real:
        return "unknown"
    if kind != "select" and not all(spec.dtype.is_floating for spec in moving):
        return "unknown"
    if kind == "elementwise" and (len(moving) > 1 or moving[0].shape != outputs[0].shape):
        return "unknown"
    if op.type == "Select" and inputs[0].shape != inputs[1].shape:
        return "unknown"
    if kind == "contraction" and _facts(step, specs) is None:
        return "unknown"
    return kind


def _facts(step: _Step, specs: Sequence[tf.TensorSpec]) -> dict[str, Any] | None:
    """What is to be said of an operation of its kind; `None` for an `Einsum` that is no contraction."""
    op = step.op
    kind = _KIND.get(op.type)
    if kind in ("softmax", "log_softmax"):
        return {"axis": len(specs[step.inputs[0]].shape) - 1}
    if op.type in ("Reshape", "Squeeze", "ExpandDims"):
        return {"reshape": True}
    if op.type == "Cast":
        return {"cast": True}
    if op.type == "Transpose":
        axes = tf.get_static_value(op.inputs[1])
        return {} if axes is None else {"permutation": tuple(int(axis) for axis in axes)}
    if op.type == "BroadcastTo":
        new = len(specs[step.outputs[0]].shape) - len(specs[step.inputs[0]].shape)
        return {"axes": {axis: axis + new for axis, _ in enumerate(specs[step.inputs[0]].shape)}}
    return _contraction(step, specs) if kind == "contraction" else {}


def _contraction(step: _Step, specs: Sequence[tf.TensorSpec]) -> dict[str, Any] | None:
    """`scaled` and `varies`; `None` if it is none."""
    op = step.op
    shapes = [tuple(specs[number].shape) for number in (*step.inputs, step.outputs[0])]
    rank = len(shapes[-1])
    if op.type in ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"):
        first, second = ("transpose_a", "transpose_b") if op.type == "MatMul" else ("adj_x", "adj_y")
        batch = _SPARE[: rank - 2]
        left = batch[rank - len(shapes[0]) :] + ("km" if op.get_attr(first) else "mk")
        right = batch[rank - len(shapes[1]) :] + ("nk" if op.get_attr(second) else "kn")
        return _bilinear(shapes, (left, right), batch + "mn")
    if op.type == "Einsum":
        labels, out = _labels(op.get_attr("equation").decode(), shapes)
        if len(labels) != 2 or any(len(set(text)) != len(text) for text in (*labels, out)):
            return None
        return _bilinear(shapes, labels, out)
    channel = 1 if op.get_attr("data_format").startswith(b"NC") else rank - 1
    # Kernels are (..., in, out), of transposed convolutions (..., out, in).
    kernel = rank - 2 if op.type in _TRANSPOSED else rank - 1
    if op.type == "DepthwiseConv2dNative":
        return {"scaled": {0: along_axes({0: 0}), 1: _scale_depthwise}, "varies": {0: {0: 0}, 1: (channel,)}}
    return _along({0: 0}, {channel: kernel})


def _labels(equation: str, shapes: Sequence[tuple[int, ...]]) -> tuple[list[str], str]:
    """Labels of the operands' and the result's axes, ellipses filled in."""
    given, _, out = equation.replace(" ", "").partition("->")
    spare = [letter for letter in _SPARE if letter not in equation]
    labels = given.split(",")
    counts = [len(shape) - len(text.replace("...", "")) for shape, text in zip(shapes, [*labels, out], strict=False)]
    # Ellipses are aligned at their ends, as broadcasting does.
    full = [
        text.replace("...", "".join(spare[:count][::-1])) for text, count in zip([*labels, out], counts, strict=False)
    ]
    return full[:-1], full[-1]


def _bilinear(shapes: Sequence[tuple[int, ...]], labels: Sequence[str], out: str) -> dict[str, Any]:
    """Facts of a product whose axes have these labels."""
    axes = [
        {
            o: text.index(label)
            for o, label in enumerate(out)
            if label in text and shape[text.index(label)] == shapes[-1][o]
        }
        for shape, text in zip(shapes, labels, strict=False)
    ]
    return _along(*axes)


def _along(*axes: dict[int, int]) -> dict[str, Any]:
    """Facts of a contraction from the axes of the result, and those of the operand, for each operand."""
    return {"scaled": {place: along_axes(own) for place, own in enumerate(axes)}, "varies": dict(enumerate(axes))}


def _scale_depthwise(xp: Any, kernel: Any, factor: Any) -> Any:
    """The kernel (height, width, channels, multiplier) makes the channels of the result in this order."""
    return kernel * xp.reshape(factor, (1, 1, *tuple(kernel.shape)[2:]))


# Operations that are several: each gives its result, or None where it is none of the kinds.


def _spell_bias_add(writer: _Writer, step: _Step, given: list[int]) -> list[int] | None:
    spec, (x, bias) = writer.program.specs[step.outputs[0]], given
    if step.op.get_attr("data_format").startswith(b"NC"):
        shape = (-1, *(1 for _ in spec.shape[2:]))
        sizes = tf.TensorSpec((spec.shape[1], *shape[1:]), spec.dtype)
        bias = writer.node(step, "structure", [bias], sizes, lambda array: tf.reshape(array, shape))
    return [writer.node(step, "add", [x, bias], spec, tf.add)]


def _spell_batch_norm(writer: _Writer, step: _Step, given: list[int]) -> list[int] | None:
    op, specs = step.op, writer.program.specs
    if op.get_attr("is_training") or step.moving != (True, False, False, False, False):
        return None
    if not writer.used.isdisjoint(step.outputs[1:]):
        return None
    x, scale, offset, mean, variance = given
    out, small, epsilon = specs[step.outputs[0]], specs[step.inputs[1]], op.get_attr("epsilon")
    rest = len(out.shape) - 2 if op.get_attr("data_format").startswith(b"NC") else 0
    along = tf.TensorSpec((*small.shape, *(1 for _ in range(rest))), small.dtype)
    wide = tf.TensorSpec(out.shape, small.dtype)

    def factor_of(scale: Any, variance: Any) -> Any:
        return tf.reshape(scale * tf.math.rsqrt(variance + tf.cast(epsilon, variance.dtype)), along.shape)

    def shift_of(offset: Any, mean: Any, factor: Any) -> Any:
        return tf.reshape(offset, along.shape) - tf.reshape(mean, along.shape) * factor

    factor = writer.node(step, "unknown", [scale, variance], along, factor_of)
    shift = writer.node(step, "unknown", [offset, mean, factor], along, shift_of)
    if out.dtype != small.dtype:
        x = writer.node(step, "structure", [x], wide, partial(tf.cast, dtype=small.dtype))
    product = writer.node(step, "multiply", [x, factor], wide, tf.multiply)
    made = writer.node(step, "add", [product, shift], wide, tf.add)
    if out.dtype != small.dtype:
        made = writer.node(step, "structure", [made], out, partial(tf.cast, dtype=out.dtype))
    return [made]


def _spell_add_n(writer: _Writer, step: _Step, given: list[int]) -> list[int] | None:
    spec = writer.program.specs[step.outputs[0]]
    total = given[0]
    for number in given[1:]:
        total = writer.node(step, "add", [total, number], spec, tf.add)
    return [total]


def _spell_squared_difference(writer: _Writer, step: _Step, given: list[int]) -> list[int] | None:
    spec = writer.program.specs[step.outputs[0]]
    difference = writer.node(step, "subtract", given, spec, tf.subtract)
    return [writer.node(step, "multiply", [difference, difference], spec, tf.multiply)]


_SPELLED: dict[str, Callable[[_Writer, _Step, list[int]], list[int] | None]] = {
    "BiasAdd": _spell_bias_add,
    "FusedBatchNorm": _spell_batch_norm,
    "FusedBatchNormV2": _spell_batch_norm,
    "FusedBatchNormV3": _spell_batch_norm,
    "AddN": _spell_add_n,
    "SquaredDifference": _spell_squared_difference,
}


def _source(op: Any) -> str:
    """File and line of the frame that is nearest to the operation and belongs to no library."""
    for frame in reversed(op.traceback or ()):
        parts = PurePath(frame.filename).parts
        if not any(library in parts for library in _LIBRARIES):
            return f"{parts[-1]}:{frame.lineno}"
    return ""
