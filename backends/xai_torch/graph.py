"""PyTorch models as graphs of operations, by `torch.export`.

The exported program is functional: operations in place, and modules that are called more than once, are plain operations
in it. Marks, operations of our own around every layer, survive the export and tell which layer an operation belongs to.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import operator
import re
import threading
import types
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import torch
from torch._decomp import decomposition_table
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.node import map_aggregate

from xai_core.backend import Around, Identity, Traced, captured, settings
from xai_core.errors import CapabilityError, XaiError, dtype_name
from xai_core.graph import Graph, GraphBuilder
from xai_core.structure import Structure, flatten
from xai_torch.aten import Steps, Value, translation
from xai_torch.taps import TREE

__all__ = ["TRACING", "traced"]

_KEPT = 16
_ROUNDS = 4
TRACING = threading.RLock()
"""Held while a model is traced: PyTorch puts other tensors into its modules for that time."""
_GRAPHS: dict[int, OrderedDict[Hashable, _Graph]] = {}

_LIBRARY = torch.library.Library("xai", "FRAGMENT")
_LIBRARY.define("mark(Tensor[] x, str path, str io) -> Tensor[]")


def _pass(x: list[Any], path: str, io: str) -> list[Any]:
    return [array.clone() for array in x]


_LIBRARY.impl("mark", _pass, "CompositeExplicitAutograd")
torch.library.register_fake("xai::mark", _pass, lib=_LIBRARY)
_MARK = torch.ops.xai.mark.default
# A mark whose arrays nobody uses still says where a layer begins or ends.
torch.fx.node.has_side_effect(_MARK)


def traced(
    marked: Callable[[Any, Any, Around], Any],
    roots: Sequence[torch.nn.Module],
    anchor: Any,
    static: Callable[[], Hashable] = tuple,
) -> Traced:
    """`Adapted.traced` for `marked(params, x, around)`, which runs the model and each layer through `around`.

    Parameters
    ----------
    roots
        Modules whose parameters, buffers and settings the model uses. Graphs are kept as long as nothing but the
        numbers in those changes; `constants` are the present ones at each call.
    anchor
        The object with which the graphs are dropped.
    static
        What graphs depend on beside the roots.
    """
    modules = torch.nn.ModuleList(roots)

    def trace(params: Any, x: Any, pick: Callable[[Any], Any]) -> Graph:
        leaves, structure = flatten(x)
        if any(isinstance(part, torch.jit.ScriptModule) for part in modules.modules()):
            raise CapabilityError(
                "The operations of TorchScript cannot be traced.",
                received="torch.jit.ScriptModule",
                fix="use the module that it was made from, or a method that needs no operations.",
            )
        described = tuple((tuple(leaf.shape), leaf.dtype, str(leaf.device)) for leaf in leaves)
        with TRACING:
            kept = _kept_with(anchor)
            key = (structure, described, pick, _fingerprint(modules), static())
            found = kept.get(key)
            if found is None or found.outdated():
                run = _Run(modules, marked, params, structure, pick)
                with _untouched(modules, leaves):
                    found = _translate(_export(run, leaves), modules)
                with _untouched(modules, leaves):
                    _check(found.at(modules), leaves, run)
                kept[key] = found
                while len(kept) > _KEPT:
                    kept.popitem(last=False)
            kept.move_to_end(key)
            return found.at(modules)

    return trace


def _kept_with(anchor: Any) -> OrderedDict[Hashable, _Graph]:
    """The graphs of a model, by the identity of its object."""
    found = _GRAPHS.get(id(anchor))
    if found is None:
        found = OrderedDict()
        try:
            weakref.finalize(anchor, _GRAPHS.pop, id(anchor), None)
        except TypeError:  # no weak references: trace again rather than leak
            return found
        _GRAPHS[id(anchor)] = found
    return found


class _Run(torch.nn.Module):
    """What is exported: the model as a function of its leaves, with its parameters in reach."""

    def __init__(
        self,
        modules: torch.nn.ModuleList,
        marked: Callable[[Any, Any, Around], Any],
        params: Any,
        structure: Structure,
        pick: Callable[[Any], Any],
    ) -> None:
        super().__init__()
        self.roots = modules
        self._compute = functools.partial(_compute, marked, params, structure, pick)

    def forward(self, *leaves: Any) -> Any:
        return self._compute(_around, leaves)

    def plain(self, leaves: Sequence[Any]) -> Any:
        """The scores, without marks."""
        return self._compute(_unmarked, leaves)


def _compute(
    marked: Callable[[Any, Any, Around], Any],
    params: Any,
    structure: Structure,
    pick: Callable[[Any], Any],
    around: Around,
    leaves: Sequence[Any],
) -> Any:
    return pick(marked(params, structure.rebuild(list(leaves)), around))


def _unmarked(path: str, operation: str, compute: Callable[[Any], Any], given: Any) -> Any:
    return compute(given)


def _around(path: str, operation: str, compute: Callable[[Any], Any], given: Any) -> Any:
    """`compute(given)`, one layer, with marks on what goes in and comes out.

    The layer gets its arrays under new names, so that what it does with them can be told from what others do. What it
    changes in place is written back.
    """
    before = TREE.arrays(given)
    inside = torch.ops.xai.mark(before, path, "input") if before else []
    versions = [array._version for array in inside]
    made = compute(TREE.replace(given, inside))
    changed = [a._version != version for a, version in zip(inside, versions, strict=True)]
    behind = TREE.arrays(made)
    if behind:
        marked = torch.ops.xai.mark(behind, path, "output")
        for place, array in enumerate(behind):
            for old, own, other in zip(before, inside, changed, strict=True):
                if own is array and other:
                    marked[place] = old.copy_(marked[place])
        made = TREE.replace(made, marked)
    for old, own, other in zip(before, inside, changed, strict=True):
        if other and all(own is not array for array in behind):
            old.copy_(own)
    if not behind and inside:
        torch.ops.xai.mark(inside, path, "end")
    return made


# Exporting.


def _export(run: _Run, leaves: Sequence[Any]) -> torch.export.ExportedProgram:
    """The program, with those operations spelled out that are not known but have a definition by others.

    Raises
    ------
    CapabilityError
        If the model cannot be traced.
    """
    # Distinct arrays, which are no inference tensors.
    given = tuple(torch.empty_like(leaf, requires_grad=False) for leaf in leaves)
    try:
        with _quiet(), torch.inference_mode(False), torch.no_grad():
            program = torch.export.export(run, given, strict=False).run_decompositions({})
            for _ in range(_ROUNDS):
                table = _definitions(program)
                if not table:
                    break
                program = program.run_decompositions(table)
            return program
    except XaiError:
        raise
    except Exception as error:
        raise _refused(error) from error


def _refused(error: Exception, problem: str = "The operations of this model cannot be traced.") -> CapabilityError:
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return CapabilityError(
        problem,
        received=f"{type(error).__name__}: {said.rstrip('.')}",
        fix="write branches and sizes that depend on values as torch.where and fixed sizes, or use a method that needs "
        "no operations.",
    )


_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


def _definitions(program: torch.export.ExportedProgram) -> dict[Any, Callable[..., Any]]:
    """Definitions by other operations, of those that have no translation."""
    common: Any = torch.export.default_decompositions()
    found: dict[Any, Callable[..., Any]] = {}
    for node in program.graph.nodes:
        op = node.target
        if node.op != "call_function" or not isinstance(op, torch._ops.OpOverload) or not _differentiable(node):
            continue
        if translation(op, map_aggregate(node.args, _meta)) is not None:
            continue
        if op._schema.name.removeprefix("aten::") in _RECURRENT:
            found[op] = decomposition_table[op]
        elif op in common:
            found[op] = common[op]
    return found


def _meta(item: Any) -> Any:
    return item.meta.get("val") if isinstance(item, torch.fx.Node) else item


def _differentiable(node: torch.fx.Node) -> bool:
    return any(array.is_floating_point() for array in TREE.arrays(node.meta.get("val")))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what PyTorch prints while it traces: what went wrong is told by the error."""
    logger = logging.getLogger("torch")
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "torch"]
    silenced = [each for each in (logger, *map(logging.getLogger, names)) if not each.disabled]
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for each in silenced:
            each.disabled = True
        try:
            yield
        finally:
            for each in silenced:
                each.disabled = False


_HELD = ("_parameters", "_buffers", "_modules")


@contextlib.contextmanager
def _untouched(modules: torch.nn.Module, leaves: Sequence[Any]) -> Iterator[None]:
    """Leave attributes of all modules, values of buffers and random state as they were."""
    parts = list(modules.modules())
    saved = [(vars(part), dict(vars(part))) for part in parts]
    saved += [(vars(part)[name], dict(vars(part)[name])) for part in parts for name in _HELD]
    buffers = [(buffer, buffer._version, buffer.detach().clone()) for buffer in modules.buffers()]
    devices = sorted(
        {b.device.index or 0 for b in [*modules.buffers(), *modules.parameters(), *leaves] if b.device.type == "cuda"}
    )
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            for held, before in saved:
                for name in [name for name in held if name not in before]:
                    del held[name]
                for name, value in before.items():
                    if held.get(name) is not value or name not in held:
                        held[name] = value
            with torch.no_grad():
                for buffer, version, copy in buffers:
                    if buffer._version != version:
                        buffer.copy_(copy)


def _fingerprint(modules: torch.nn.Module) -> Hashable:
    """What a graph depends on beside the numbers in parameters and buffers."""
    parts: list[Hashable] = []
    names: dict[int, int] = {}
    for path, part in modules.named_modules(remove_duplicate=False):
        held = vars(part)
        arrays = [(name, value) for name, value in _named(part) if value is not None]
        public = {name: value for name, value in held.items() if not isinstance(value, torch.Tensor)}
        parts.append(
            (
                path,
                type(part),
                None if type(part).__module__.startswith("torch.") else captured(type(part).forward, lambda value: ()),
                settings(types.SimpleNamespace(**public)),
                tuple(
                    (name, tuple(value.shape), value.dtype, str(value.device), names.setdefault(id(value), len(names)))
                    for name, value in arrays
                ),
                tuple(Identity(hook) for kind in _HOOKS for hook in held.get(kind, {}).values()),
            )
        )
    return tuple(parts)


_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def _named(part: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """Tensors that a module holds itself."""
    held = vars(part)
    for each in (held["_parameters"], held["_buffers"], held):
        yield from ((name, value) for name, value in each.items() if isinstance(value, torch.Tensor))


# Translating.


class _Graph:
    """A graph, and where its constants are found."""

    def __init__(self, graph: Graph, places: Mapping[int, str], read: Sequence[Any]) -> None:
        self._graph = graph
        self._places = places
        self._read = [(tensor, tensor._version) for tensor in read]

    def outdated(self) -> bool:
        """Whether a tensor that was taken for a number was changed in place."""
        return any(tensor._version != version for tensor, version in self._read)

    def at(self, modules: torch.nn.Module) -> Graph:
        """The graph with the tensors that the modules hold now."""
        present = {number: _look_up(modules, name).detach() for number, name in self._places.items()}
        return self._graph.with_constants({**self._graph.constants, **present})


def _look_up(held: Any, name: Any) -> Any:
    """What is found under a name with points."""
    return functools.reduce(getattr, str(name).split("."), held)


def _is_held(modules: torch.nn.Module, name: str) -> bool:
    """Whether a constant of the program is an attribute of a module, and no literal of the code."""
    try:
        return isinstance(_look_up(modules, name), torch.Tensor)
    except AttributeError:
        return False


def _translate(program: torch.export.ExportedProgram, modules: torch.nn.Module) -> _Graph:
    walk = _Walk(program, modules)
    try:
        return walk.result()
    except XaiError:
        raise
    except Exception as error:
        raise _refused(error) from error


class _Walk:
    """Goes through an exported program once."""

    def __init__(self, program: torch.export.ExportedProgram, modules: torch.nn.Module) -> None:
        self._program = program
        self._modules = modules
        self._builder = GraphBuilder()
        self._values: dict[torch.fx.Node, Any] = {}
        self._places: dict[int, str] = {}
        self._inputs: list[int] = []
        self._read: list[Any] = []

    def result(self) -> _Graph:
        kinds = {spec.arg.name: spec for spec in self._program.graph_signature.input_specs}
        for node in self._program.graph.nodes:
            if node.op == "placeholder":
                self._values[node] = self._placeholder(node, kinds[node.name])
            elif node.op == "get_attr":
                self._values[node] = _look_up(self._program.graph_module, node.target)
            elif node.op == "call_function":
                self._call(node)
        specs = self._program.graph_signature.output_specs
        scores = next(spec.arg.name for spec in specs if spec.kind is OutputKind.USER_OUTPUT)
        made = next(value for node, value in self._values.items() if node.name == scores)
        return _Graph(self._builder.build(self._inputs, made.number), self._places, self._read)

    def _placeholder(self, node: torch.fx.Node, spec: Any) -> Value:
        array = node.meta["val"]
        shape, dtype = tuple(array.shape), array.dtype
        if spec.kind is InputKind.USER_INPUT:
            number = self._builder.value(shape, dtype_name(dtype))
            self._inputs.append(number)
            return Value(number, shape, dtype)
        name = spec.target.removeprefix("roots.")
        held = self._program.constants.get(spec.target)
        number = self._builder.constant(held, shape, dtype_name(dtype))
        if spec.kind is not InputKind.CONSTANT_TENSOR or _is_held(self._modules, name):
            self._places[number] = name
        elif held is not None and held.numel() == 1 and not held.is_inference():
            self._builder.numbers[number] = float(held)  # Keras makes a tensor of `maximum(x, 0.0)`
            self._read.append(held)
        return Value(number, shape, dtype)

    def _call(self, node: torch.fx.Node) -> None:
        if isinstance(node.meta.get("val"), (torch.SymInt, torch.SymFloat, torch.SymBool)):
            raise CapabilityError(
                "A size or number inside this model depends on the values of its inputs.",
                received=f"{_name(node.target)} at {_source(node)}",
                fix="compute with fixed sizes, for example torch.where instead of x[mask].",
            )
        if node.target is _MARK:
            self._mark(node)
        elif node.target is operator.getitem:
            self._values[node] = self._item(node)
        elif not _is_check(node):
            self._values[node] = self._operation(node)

    def _steps(self, node: torch.fx.Node, outputs: Sequence[Any] | None = None) -> Steps:
        outputs = TREE.arrays(node.meta.get("val")) if outputs is None else outputs
        return Steps(self._builder, _name(node.target), _source(node), outputs)

    def _arguments(self, node: torch.fx.Node) -> tuple[Any, Any]:
        def value(item: Any) -> Any:
            return self._values[item] if isinstance(item, torch.fx.Node) else item

        return map_aggregate(node.args, value), map_aggregate(node.kwargs, value)

    def _operation(self, node: torch.fx.Node) -> Any:
        """The value or values of one operation."""
        arguments, options = self._arguments(node)
        steps = self._steps(node)
        kind = _kind(node)
        translate = translation(node.target, map_aggregate(node.args, _meta)) if kind is None else None
        if translate is not None:
            made = translate(steps, node.target, *arguments, **options)
        else:
            made = steps.whole(kind or "unknown", node.target, *arguments, **options)
        return made[0] if isinstance(made, list) and isinstance(node.meta.get("val"), torch.Tensor) else made

    def _item(self, node: torch.fx.Node) -> Any:
        source, place = node.args
        value = self._values[source][place]
        if value is None:  # an output of which its translation knows nothing
            arguments, options = self._arguments(source)
            steps = self._steps(source, [node.meta["val"]])
            kind = "unknown" if _differentiable(node) else "cut"
            pick = _Item(source.target, place)
            value = steps.whole(kind, pick, *arguments, **options)[0]
        return value

    def _mark(self, node: torch.fx.Node) -> None:
        arrays, path, io = node.args
        values: list[Value] = [self._values[source] for source in arrays]
        numbers = [value.number for value in values]
        if io == "input":
            numbers = self._builder.enter(path, numbers)
        else:
            numbers = self._builder.leave(path, numbers if io == "output" else [])
        self._values[node] = [
            Value(number, each.shape, each.dtype) for number, each in zip(numbers, values, strict=False)
        ]


class _Item:
    """One output of an operation."""

    def __init__(self, op: Any, place: Any) -> None:
        self._op = op
        self._place = place

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._op(*arguments, **options)[self._place]


def _kind(node: torch.fx.Node) -> str | None:
    """What an operation is by its dtypes or its class, whatever it is called; `None` if its name decides."""
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return "control"
    outputs = TREE.arrays(node.meta.get("val"))
    inputs = [array for source in node.all_input_nodes for array in TREE.arrays(source.meta.get("val"))]
    if any(array.is_complex() or array.is_quantized for array in (*outputs, *inputs)):
        return "unknown"
    if not inputs or node.target is torch.ops.aten._to_copy.default:
        return None if translation(node.target, node.args) is not None else "cut"
    return None if all(any(a.is_floating_point() for a in arrays) for arrays in (outputs, inputs)) else "cut"


def _is_check(node: torch.fx.Node) -> bool:
    """Whether an operation only makes sure of something."""
    return node.meta.get("val") is None and "assert" in str(node.target)


def _name(target: Any) -> str:
    """`aten.relu` of `aten.relu.default`."""
    packet = getattr(target, "overloadpacket", None)
    return str(packet) if packet is not None else getattr(target, "__name__", str(target))


_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_LIBRARIES = {"torch", "keras", "xai_core", "xai_torch", "xai_keras"}


def _source(node: torch.fx.Node) -> str:
    """File and line of the innermost `forward` outside of libraries; PyTorch keeps no other frames."""
    for file, line in reversed(_FRAME.findall(node.meta.get("stack_trace") or "")):
        parts = PurePath(file).parts
        if _LIBRARIES.isdisjoint(parts):
            return f"{parts[-1]}:{line}"
    return ""


# Checking.

_TOLERANCE = {torch.float64: (1e-8, 1e-6), torch.float32: (1e-3, 5e-2)}
_COARSE = (0.1, 0.5)


def _check(graph: Graph, leaves: Sequence[Any], run: _Run) -> None:
    """Compare values and derivatives of graph and model at these inputs.

    Raises
    ------
    CapabilityError
        If the graph is not what the model computes, or has another derivative: a model may do in Python what no trace
        sees, compute under `no_grad` or define derivatives of its own.
    """
    with _quiet(), torch.inference_mode(False), torch.enable_grad():
        given = [leaf.clone().requires_grad_(leaf.is_floating_point()) for leaf in leaves]
        wanted = [leaf for leaf in given if leaf.requires_grad]
        torch.manual_seed(0)
        found = _evaluate(graph, given)
        torch.manual_seed(0)
        expected = run.plain([leaf.clone() for leaf in given])
        values, slopes = _TOLERANCE.get(expected.dtype, _COARSE)
        cotangent = torch.randn_like(expected) if expected.is_floating_point() else None
        _compare("values", [found], [expected], values)
        if cotangent is None or not wanted:
            return
        try:
            slope = _pull(expected, wanted, cotangent)
        except RuntimeError as error:
            raise _refused(error, "PyTorch cannot differentiate this model.") from error
        _compare("derivatives", _pull(found, wanted, cotangent), slope, slopes)


def _pull(scores: Any, wanted: list[Any], cotangent: Any) -> list[Any]:
    if not scores.requires_grad:
        return [torch.zeros_like(leaf) for leaf in wanted]
    found = torch.autograd.grad(scores, wanted, cotangent, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, wanted, strict=True)]


def _compare(what: str, found: list[Any], expected: list[Any], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        a, b = (torch.nan_to_num(each.detach().double()) for each in (one, other))
        if a.shape != b.shape or not bool(torch.linalg.vector_norm(a - b) <= tolerance * torch.linalg.vector_norm(b)):
            raise CapabilityError(
                f"The traced operations of this model have other {what} than the model itself.",
                fix="the model must be a function of its inputs alone, with no derivatives of its own "
                "(torch.autograd.Function, no_grad); for others use a method that needs no operations.",
            )


def _evaluate(graph: Graph, leaves: Sequence[Any]) -> Any:
    values = {**graph.constants, **dict(zip(graph.inputs, leaves, strict=True))}
    for node in graph.nodes:
        values.update(zip(node.outputs, node.run(*(values[number] for number in node.inputs)), strict=True))
    return values[graph.output]
