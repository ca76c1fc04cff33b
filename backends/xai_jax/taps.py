"""Layers of JAX models: marks in the traced program, and an interpreter that shows them to a visitor.

A mark is an operation of its own that passes arrays on. Models are traced with a mark at the entrance and exit of every
layer; the traced program is then run operation by operation, through `jit` and `remat`, so that values of layers inside
those can be read and replaced as well. `vmap` moves its axis to the front of a mark. Marks exist only while layers are
followed: at other times nothing is added to a model, and JAX keeps what it compiled for the two apart.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir

from xai_core.backend import Around, Tapped
from xai_core.layers import Visitor

__all__ = ["FOLLOWING", "INLINED", "MARK", "around", "follow", "programs", "tap"]

FOLLOWING = jax.make_user_context(default_value=False)

MARK = jex.Primitive("xai_mark")
MARK.multiple_results = True


def _pass(*arrays: Any, **facts: Any) -> list[Any]:
    return list(arrays)


def _abstract(*shapes: Any, **facts: Any) -> list[Any]:
    return list(shapes)


def _batch(arrays: Any, axes: Any, **facts: Any) -> Any:
    size = next(array.shape[axis] for array, axis in zip(arrays, axes, strict=True) if axis is not None)
    fronted = [
        jnp.broadcast_to(array, (size, *array.shape)) if axis is None else jnp.moveaxis(array, axis, 0)
        for array, axis in zip(arrays, axes, strict=True)
    ]
    return MARK.bind(*fronted, **facts), [0] * len(fronted)


def _tangent(primals: Any, tangents: Any, **facts: Any) -> Any:
    return MARK.bind(*primals, **facts), list(tangents)


MARK.def_impl(_pass)
MARK.def_abstract_eval(_abstract)
mlir.register_lowering(MARK, lambda ctx, *arrays, **facts: arrays)
batching.primitive_batchers[MARK] = _batch
ad.primitive_jvps[MARK] = _tangent


def mark(value: Any, path: str, io: str, operation: str) -> Any:
    """`value` (a tree of arrays), with a mark on its arrays while layers are followed."""
    if not FOLLOWING.value:
        return value
    leaves, tree = jax.tree.flatten(value)
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]
    if not places:
        return value
    marked = MARK.bind(*(leaves[place] for place in places), path=path, io=io, operation=operation)
    for place, array in zip(places, marked, strict=True):
        leaves[place] = array
    return jax.tree.unflatten(tree, leaves)


def tap(value: Any, name: str) -> Any:
    """Name a value inside a plain JAX function, so that explanations can look at it: `layer=name`.

    Returns `value` as it is: in ordinary use nothing is added to the program.

    Parameters
    ----------
    value
        An array or a tree of arrays.
    name
        What `xai.layers` calls it.
    """
    return mark(value, name, "output", "tap")


def around(path: str, operation: str, compute: Callable[[Any], Any], given: Any) -> Any:
    """`compute(given)`, one layer, with marks on what goes in and comes out."""
    return mark(compute(mark(given, path, "input", operation)), path, "output", operation)


def follow(marked: Callable[[Any, Any, Around], Any]) -> Tapped:
    """`Adapted.tapped` for `marked(params, x, around)`, which runs each layer through `around`."""

    def tapped(params: Any, x: Any, visitor: Visitor, pick: Callable[[Any], Any]) -> Any:
        leaves, tree = jax.tree.flatten((params, x))

        def flat(*arrays: Any) -> Any:
            held, given = jax.tree.unflatten(tree, arrays)
            return pick(marked(held, given, around))

        with FOLLOWING(True):
            traced, shapes = jax.make_jaxpr(flat, return_shape=True)(*leaves)
        out = _interpret(traced.jaxpr, traced.consts, leaves, visitor)
        return jax.tree.unflatten(jax.tree.structure(shapes), out)

    return tapped


INLINED = ("jit", "pjit", "checkpoint", "remat", "remat2", "closed_call", "core_call")


def _interpret(program: Any, constants: Any, arguments: Any, visitor: Visitor) -> list[Any]:
    """Run a traced program operation by operation, showing its marks to the visitor."""
    values: dict[Any, Any] = dict(zip(program.constvars, constants, strict=True))
    values.update(zip(program.invars, arguments, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex.Literal) else values[atom]

    for equation in program.eqns:
        given = [read(atom) for atom in equation.invars]
        inner = next(iter(programs(equation.params)), None)
        if equation.primitive is MARK:
            found = _visit(visitor, given, **equation.params)
        elif equation.primitive.name in INLINED and inner is not None and _has_marks(inner[0]):
            found = _interpret(*inner, given, visitor)
        else:
            for path in dict.fromkeys(_marks(equation)):
                visitor.hide(path)
            with equation.ctx.manager:
                found = equation.primitive.bind(*given, **equation.primitive.get_bind_params(equation.params))
        if not equation.primitive.multiple_results:
            found = [found]
        values.update(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in program.outvars]


def _visit(visitor: Visitor, arrays: list[Any], *, path: str, io: str, operation: str) -> list[Any]:
    if io == "input":
        call = visitor.begin(path, arrays)
    else:
        call = visitor.end(path)
        visitor.note(path, call, operation, arrays)
    return visitor.values(path, call, io, arrays)


def _marks(equation: Any) -> Iterator[str]:
    """Paths of the layers whose outputs are marked inside an operation."""
    for inner, _ in programs(equation.params):
        for part in inner.eqns if _has_marks(inner) else ():
            if part.primitive is not MARK:
                yield from _marks(part)
            elif part.params["io"] == "output":
                yield part.params["path"]


def programs(params: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Programs inside an operation, with their constants."""
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, jex.ClosedJaxpr):
                yield item.jaxpr, item.consts
            elif isinstance(item, jex.Jaxpr):
                yield item, ()


@functools.lru_cache(maxsize=4096)
def _has_marks(program: Any) -> bool:
    return any(
        equation.primitive is MARK or any(_has_marks(inner) for inner, _ in programs(equation.params))
        for equation in program.eqns
    )
