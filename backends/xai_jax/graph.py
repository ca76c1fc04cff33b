"""JAX programs as graphs of operations: what a model does, equation by equation, calls of `jit` and the like inlined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import PurePath
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from xai_core.backend import Around
from xai_core.graph import Graph, GraphBuilder, along_axes
from xai_core.structure import flatten
from xai_jax.taps import FOLLOWING, INLINED, MARK, around, programs

__all__ = ["traced"]

_KINDS = {
    "structure": "reshape transpose squeeze expand_dims broadcast_in_dim slice pad concatenate rev gather dynamic_slice "
    "dynamic_update_slice scatter copy copy_p convert_element_type reduce_precision split stack unstack tile "
    "optimization_barrier",
    "sum": "reduce_sum cumsum reduce_window_sum scatter-add scatter_add",
    "add": "add add_any",
    "subtract": "sub",
    "multiply": "mul",
    "divide": "div",
    "negate": "neg",
    "contraction": "dot_general conv_general_dilated",
    "elementwise": "exp exp2 log log1p expm1 tanh logistic sin cos tan asin acos atan sinh cosh asinh acosh atanh sqrt "
    "rsqrt cbrt abs integer_pow square pow erf erfc erf_inv lgamma digamma clamp atan2",
    "select": "select_n",
    "maximum": "max",
    "minimum": "min",
    "max_pool": "reduce_max reduce_window_max",
    "min_pool": "reduce_min reduce_window_min",
    "stop": "stop_gradient",
    "control": "scan while cond",
    "cut": "sign floor ceil round nextafter iota",
}
_KIND = {name: kind for kind, names in _KINDS.items() for name in names.split()}
_POINTWISE = {"elementwise", "add", "subtract", "multiply", "divide", "negate", "select", "maximum", "minimum", "cut"}
_LIBRARIES = ("jax", "jaxlib", "flax", "equinox", "haiku", "xai_jax", "xai_core", "keras")


def traced(marked: Callable[[Any, Any, Around], Any]) -> Callable[[Any, Any, Callable[[Any], Any]], Graph]:
    """`Adapted.traced` for `marked(params, x, around)`, which runs each layer through `around`."""

    def trace(params: Any, x: Any, pick: Callable[[Any], Any]) -> Graph:
        held, held_tree = jax.tree.flatten(params)
        given, structure = flatten(x)  # in the order of the core, which for dicts is not that of JAX

        def flat(*arrays: Any) -> Any:
            inner = jax.tree.unflatten(held_tree, arrays[: len(held)])
            return pick(marked(inner, structure.rebuild(arrays[len(held) :]), around))

        with FOLLOWING(True):
            closed = jax.make_jaxpr(flat)(*held, *given)
        builder = GraphBuilder()
        numbers = [builder.value(leaf.shape, leaf.dtype.name) for leaf in given]
        arguments = [_constant(builder, array) for array in held] + numbers
        constants = [_constant(builder, array) for array in closed.consts]
        out = _inline(builder, closed.jaxpr, constants, arguments)
        return builder.build(numbers, out[0])

    return trace


def _constant(builder: GraphBuilder, array: Any) -> int:
    shape = tuple(jnp.shape(array))
    return builder.constant(array, shape, str(getattr(array, "dtype", "float32")))


def _literal(builder: GraphBuilder, atom: Any) -> int:
    value = atom.val
    number = (
        float(value) if atom.aval.shape == () and not jnp.issubdtype(atom.aval.dtype, jnp.complexfloating) else None
    )
    return builder.constant(jnp.asarray(value, dtype=atom.aval.dtype), atom.aval.shape, atom.aval.dtype.name, number)


def _inline(builder: GraphBuilder, program: Any, constants: Sequence[int], arguments: Sequence[int]) -> list[int]:
    """Add the equations of a program; returns the numbers of its results."""
    values: dict[Any, int] = dict(zip(program.constvars, constants, strict=True))
    values.update(zip(program.invars, arguments, strict=True))

    def read(atom: Any) -> int:
        return _literal(builder, atom) if isinstance(atom, jex.Literal) else values[atom]

    for equation in program.eqns:
        given = [read(atom) for atom in equation.invars]
        found = _equation(builder, equation, given)
        values.update(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in program.outvars]


def _equation(builder: GraphBuilder, equation: Any, given: list[int]) -> list[int]:
    name = equation.primitive.name
    if equation.primitive is MARK:
        path, io = equation.params["path"], equation.params["io"]
        return builder.enter(path, given) if io == "input" else builder.leave(path, given)
    inner = next(iter(programs(equation.params)), None)
    custom = name in ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
    whole = custom and inner is not None and len(equation.outvars) == 1 and _pointwise(inner[0])
    if inner is not None and not whole and (custom or name in INLINED):
        return _inline(builder, inner[0], [_constant(builder, array) for array in inner[1]], given)
    kind = "elementwise" if whole else _kind(equation)
    named = equation.params.get("name", name) if custom else name
    run = partial(_run, equation)
    if kind == "select":  # select_n(c, on false, on true)
        given, run = [given[0], given[2], given[1]], partial(_run_select, equation)
    outputs = [(variable.aval.shape, variable.aval.dtype.name) for variable in equation.outvars]
    if all(dtype == "bool" or "int" in dtype for _, dtype in outputs):
        kind = "cut"
    elif any("complex" in str(variable.aval.dtype) for variable in (*equation.invars, *equation.outvars)):
        kind = "unknown"
    return builder.node(kind, named, given, outputs, run, facts=_facts(equation), source=_source(equation))


def _run(equation: Any, *arrays: Any) -> Sequence[Any]:
    with equation.ctx.manager:
        found = equation.primitive.bind(*arrays, **equation.primitive.get_bind_params(equation.params))
    return found if equation.primitive.multiple_results else (found,)


def _run_select(equation: Any, condition: Any, a: Any, b: Any) -> Sequence[Any]:
    return _run(equation, condition, b, a)


def _kind(equation: Any) -> str:
    name = equation.primitive.name
    kind = _KIND.get(name, "unknown")
    dtypes = [str(variable.aval.dtype) for variable in equation.invars]
    if name == "select_n" and (len(dtypes) != 3 or dtypes[0] != "bool"):
        return "unknown"
    if name == "convert_element_type" and (dtypes[0] == "bool" or "int" in dtypes[0]):
        return "cut"
    if name in ("gather", "scatter") and equation.params.get("update_jaxpr") is not None:
        return "unknown"
    return kind


def _pointwise(program: Any) -> bool:
    """Whether a program computes each element of its one result from that element of its inputs, or from numbers."""
    shape = program.outvars[0].aval.shape
    for equation in program.eqns:
        inner = next(iter(programs(equation.params)), None)
        if inner is not None:
            if equation.primitive.name not in (*INLINED, "custom_jvp_call") or not _pointwise(inner[0]):
                return False
            continue
        numbers = all(variable.aval.shape in ((), shape) for variable in equation.invars)
        moves = equation.primitive.name in ("broadcast_in_dim", "convert_element_type", "copy", "stop_gradient")
        if not numbers or not (moves or _KIND.get(equation.primitive.name, "cut") in _POINTWISE):
            return False
    return all(variable.aval.shape in ((), shape) for variable in program.invars)


def _facts(equation: Any) -> dict[str, Any]:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (lhs, rhs), (lhs_batch, rhs_batch) = params["dimension_numbers"]
        ranks = [len(variable.aval.shape) for variable in equation.invars]
        free = [
            [axis for axis in range(rank) if axis not in (*over, *batch)]
            for rank, over, batch in zip(ranks, (lhs, rhs), (lhs_batch, rhs_batch), strict=True)
        ]
        shared = len(lhs_batch)
        places = [shared, shared + len(free[0])]
        axes = [
            dict(enumerate(batch)) | {place + i: axis for i, axis in enumerate(own)}
            for place, own, batch in zip(places, free, (lhs_batch, rhs_batch), strict=True)
        ]
        return {
            "scaled": {position: along_axes(axes[position]) for position in (0, 1)},
            "varies": dict(enumerate(axes)),
        }
    if name == "conv_general_dilated" and params["batch_group_count"] == 1:
        numbers = params["dimension_numbers"]
        axes_of = {numbers.out_spec[1]: numbers.rhs_spec[0]}
        return {"scaled": {1: along_axes(axes_of)}, "varies": {1: axes_of}}
    if name == "convert_element_type":
        return {"cast": True}
    if name == "broadcast_in_dim":
        return {"axes": dict(enumerate(params["broadcast_dimensions"]))}
    if name == "transpose":
        return {"permutation": tuple(params["permutation"])}
    return {"reshape": True} if name in ("reshape", "squeeze", "expand_dims") else {}


def _source(equation: Any) -> str:
    """File and line of the frame that is nearest to the operation and belongs to no library."""
    trace = equation.source_info.traceback
    for frame in trace.frames if trace is not None else ():
        parts = PurePath(frame.file_name).parts
        if not any(library in parts for library in _LIBRARIES):
            return f"{parts[-1]}:{frame.line_num}"
    return ""
