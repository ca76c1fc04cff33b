"""Parameters of JAX models in the common layout, and models with others: another tree of parameters, the same program."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from xai_core.backend import Adapted, Held
from xai_core.weights import Values, Weight, kind_of, natives
from xai_jax.modules import dotted
from xai_jax.taps import INLINED, programs

__all__ = ["Place", "equinox_place", "function_place", "haiku_place", "linen_place", "nnx_places", "with_weights"]


@dataclass(frozen=True)
class Place:
    """Where a leaf of a tree of parameters belongs."""

    path: str
    name: str
    learned: bool = True
    holder: Any = None


_Places = Callable[[Any], Callable[[tuple[Any, ...]], Place | None]]


def with_weights(adapted: Adapted, places: _Places, ordered: bool = False) -> Adapted:
    """`adapted` with its `weights` and `replaced`.

    Parameters
    ----------
    places
        For some parameters, a function of keys: where the leaf with these belongs, `None` for one that is none of a layer.
    ordered
        Whether to look up in the program in which order weights are used, as no layers tell.
    """

    def weights(held: Held, x: Any) -> list[Weight]:
        uses = _first_uses(adapted.apply, held[0], x) if ordered else {}
        return [weight for _, weight in _held(held[0], places(held[0]), uses)]

    def replaced(held: Held, values: Values) -> Adapted:
        params, static = held
        leaves, tree = jax.tree.flatten(params)
        found = _held(params, places(params), {})
        for (number, _), value in zip(found, natives([weight for _, weight in found], values), strict=True):
            if value is not None:
                leaves[number] = _like(value, leaves[number])
        changed = jax.tree.unflatten(tree, leaves)

        def read(x: Any) -> tuple[Any, Any]:
            # What a function has closed over depends on the inputs; a large module takes a while to read.
            return changed, adapted.read(x)[1] if ordered else static

        return with_weights(replace(adapted, read=read), places, ordered)

    return replace(adapted, weights=weights, replaced=replaced)


def _held(
    params: Any, place: Callable[[tuple[Any, ...]], Place | None], uses: Mapping[int, int]
) -> list[tuple[int, Weight]]:
    """Floating point leaves that belong to a layer, with their numbers."""
    found = []
    for number, (path, leaf) in enumerate(jax.tree_util.tree_flatten_with_path(params)[0]):
        at = place(tuple(map(_key, path))) if _is_floating(leaf) else None
        if at is None:
            continue
        shape = tuple(leaf.shape)
        kind = kind_of(at.name, shape, type(at.holder).__name__) if at.learned else "statistic"
        axes = _axes(at.holder, at.name, len(shape))
        found.append((number, Weight(at.path, at.name, kind, shape, _reader(leaf), axes, uses.get(number))))
    return found


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray)) and jnp.issubdtype(leaf.dtype, jnp.floating)


def _reader(leaf: Any) -> Callable[[], np.ndarray[Any, Any]]:
    def read() -> np.ndarray[Any, Any]:
        array = np.asarray(leaf)
        return array if array.dtype == np.float64 else array.astype(np.float32)

    return read


def _like(value: np.ndarray[Any, Any], leaf: Any) -> Any:
    """An array in the place of another, so that nothing compiles anew."""
    array = jnp.asarray(value, dtype=leaf.dtype)
    return jax.device_put(array, leaf.sharding) if getattr(leaf, "committed", False) else array


def _key(entry: Any) -> Any:
    return next(getattr(entry, name) for name in ("idx", "key", "name") if hasattr(entry, name))


# Where the libraries hold what.


def nnx_places(state: Any) -> Callable[[tuple[Any, ...]], Place | None]:
    """Leaves of the state of an NNX module, by its variables; parameters are learned."""
    from flax import nnx

    variables = {path: isinstance(variable, nnx.Param) for path, variable in nnx.to_flat_state(state)}

    def place(keys: tuple[Any, ...]) -> Place | None:
        own = next((keys[:end] for end in range(len(keys), 0, -1) if keys[:end] in variables), None)
        return None if own is None else Place(dotted(own[:-1]), str(own[-1]), variables[own])

    return place


def linen_place(keys: tuple[Any, ...]) -> Place | None:
    names = [str(key) for key in keys]
    return Place("/".join(names[1:-1]), names[-1], names[0] == "params") if len(names) > 1 else None


def haiku_place(keys: tuple[Any, ...], stateful: bool) -> Place | None:
    module, *names = keys[1:] if stateful else keys
    return Place(str(module), _name(names), not stateful or keys[0] == 0)


def equinox_place(keys: tuple[Any, ...], model: Any) -> Place | None:
    holder = model
    for key in keys[:-1]:
        holder = getattr(holder, key) if isinstance(key, str) and hasattr(holder, key) else holder[key]
    return Place(dotted(keys[:-1]), str(keys[-1]), True, holder)


def function_place(keys: tuple[Any, ...]) -> Place:
    """Leaves that are held together are a layer; one that stands alone is one. Haiku's moving averages are not learned."""
    averaged = any(str(key).endswith("_ema") for key in keys)
    return Place(dotted(keys[:-1] or keys), str(keys[-1]) if keys else "", not averaged)


def _name(keys: Sequence[Any]) -> str:
    return ".".join(map(str, keys))


def _axes(holder: Any, name: str, rank: int) -> tuple[int, ...]:
    """Equinox holds what makes outputs of inputs as (out, in, positions...)."""
    eqx = sys.modules.get("equinox")
    if eqx is None or not isinstance(holder, eqx.Module) or not name.startswith("weight"):
        return ()
    if isinstance(holder, (eqx.nn.Conv, eqx.nn.ConvTranspose)):
        return (*range(2, rank), 1, 0)
    matrices = (eqx.nn.Linear, eqx.nn.GRUCell, eqx.nn.LSTMCell)
    return (1, 0) if isinstance(holder, matrices) and rank == 2 else ()


# In which order a program uses its parameters.


def _first_uses(apply: Callable[[Any, Any], Any], params: Any, x: Any) -> dict[int, int]:
    """For each leaf of `params` which it is that meets the inputs first, second and so on; those that never do come last."""
    leaves, tree = jax.tree.flatten(params)
    given, structure = jax.tree.flatten(x)

    def flat(*arrays: Any) -> Any:
        held = jax.tree.unflatten(tree, arrays[: len(leaves)])
        return apply(held, jax.tree.unflatten(structure, arrays[len(leaves) :]))

    program = jax.make_jaxpr(flat)(*leaves, *given).jaxpr
    origins = {var: {number} for number, var in enumerate(program.invars[: len(leaves)])}
    order: dict[int, None] = {}
    _meet(program, origins, set(program.invars[len(leaves) :]), order)
    order.update(dict.fromkeys(range(len(leaves))))
    return {number: place for place, number in enumerate(order)}


def _meet(program: Any, origins: dict[Any, set[int]], moving: set[Any], order: dict[int, None]) -> None:
    """Note parameters where an operation has both them, or what was made of them alone, and data."""
    for equation in program.eqns:
        given = [var for var in equation.invars if not isinstance(var, jex.Literal)]
        inner = next((body for body, _ in programs(equation.params)), None)
        if equation.primitive.name in INLINED and inner is not None and len(inner.invars) == len(equation.invars):
            pairs = [
                (own, var)
                for own, var in zip(inner.invars, equation.invars, strict=True)
                if not isinstance(var, jex.Literal)
            ]
            inside = {own: origins[var] for own, var in pairs if var in origins}
            within = {own for own, var in pairs if var in moving}
            _meet(inner, inside, within, order)
            for var, made in zip(equation.outvars, inner.outvars, strict=True):
                if not isinstance(made, jex.Literal) and made in within:
                    moving.add(var)
                elif not isinstance(made, jex.Literal) and made in inside:
                    origins[var] = inside[made]
            continue
        found = [number for var in given for number in sorted(origins.get(var, ()))]
        if any(var in moving for var in given):
            order.update(dict.fromkeys(number for number in found if number not in order))
            moving.update(equation.outvars)
        elif found:
            origins.update((var, set(found)) for var in equation.outvars)
