"""Variables of Keras models in the common layout, and models with other values, given to one call at a time.

Under JAX the values are among the model's parameters; elsewhere each call runs in a `keras.StatelessScope`, where variables
have them. The model and its variables are neither copied nor changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np

from xai_core.backend import Adapted, Around, Held
from xai_core.weights import Values, Weight, kind_of, natives

__all__ = ["with_weights"]

Watch = Callable[[Callable[[Any, Any], Any], Any, Any, Around], Any]


def with_weights(adapted: Adapted, model: Any, names: Sequence[tuple[str, Any]], watch: Watch) -> Adapted:
    """`adapted` with its `weights` and `replaced`.

    Parameters
    ----------
    names
        Paths and layers.
    watch
        `watch(run, params, x, around)`: `run(params, x)` with each layer through `around`.
    """
    return _given(adapted, adapted, _Layers(model, names, watch), {})


@dataclass(frozen=True, eq=False)
class _Layers:
    """A model and how its layers are followed."""

    model: Any
    names: Sequence[tuple[str, Any]]
    watch: Watch


def _given(original: Adapted, adapted: Adapted, layers: _Layers, given: dict[int, Any]) -> Adapted:
    """`adapted`, which has values for some variables, given by their identity."""

    def weights(present: Held, x: Any) -> list[Weight]:
        held = _held(layers.model, layers.names)
        return [replace(w, read=partial(_host, given[id(v)])) if id(v) in given else w for w, v in held]

    def replaced(present: Held, values: Values) -> Adapted:
        held = _held(layers.model, layers.names)
        changed = dict(given)
        for (_, variable), value in zip(held, natives([weight for weight, _ in held], values), strict=True):
            if value is not None:
                changed[id(variable)] = _tensor(original, value, variable)
        makers = {"jax": _among_parameters, "torch": _in_scope_of_module, "tensorflow": _in_scope}
        made = makers[original.backend.name](original, layers, changed, [variable for _, variable in held])
        return _given(original, made, layers, changed)

    return replace(adapted, weights=weights, replaced=replaced)


def _held(model: Any, names: Sequence[tuple[str, Any]]) -> list[tuple[Weight, Any]]:
    """Floating point variables by the layer that holds them, each once."""
    paths = {id(layer): path for path, layer in names}
    found: list[tuple[Weight, Any]] = []
    seen: set[int] = set()
    taken: set[tuple[str, str]] = set()
    for layer in (model, *model._flatten_layers(include_self=False, recursive=True)):
        path = paths.get(id(layer), "")
        # Whether a layer is frozen does not matter: what it was made to learn.
        for learned, variables in ((True, layer._trainable_variables), (False, layer._non_trainable_variables)):
            for variable in variables:
                if id(variable) in seen or "float" not in str(variable.dtype):
                    continue
                seen.add(id(variable))
                shape, kind = tuple(variable.shape), type(layer).__name__
                kind = kind_of(variable.name, shape, kind) if learned else "statistic"
                name, number = variable.name, 1
                while (path, name) in taken:
                    number += 1
                    name = f"{variable.name}({number})"
                taken.add((path, name))
                read = partial(_host, variable)
                found.append((Weight(path, name, kind, shape, read, _axes(layer, variable.name, len(shape))), variable))
    return found


_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)


def _axes(layer: Any, name: str, rank: int) -> tuple[int, ...]:
    """Transposed convolutions have (positions..., out, in)."""
    return (*range(rank - 2), rank - 1, rank - 2) if isinstance(layer, _TRANSPOSED) and name == "kernel" else ()


def _host(held: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(keras.ops.convert_to_numpy(held))
    return array if array.dtype == np.float64 else array.astype(np.float32)


def _tensor(adapted: Adapted, value: np.ndarray[Any, Any], variable: Any) -> Any:
    held, name = variable.value, adapted.backend.name
    device = held.device if name == "torch" else held.sharding if getattr(held, "committed", False) else None
    return keras.ops.cast(adapted.backend.asarray(value, device), variable.dtype)


def _among_parameters(original: Adapted, layers: _Layers, given: dict[int, Any], variables: list[Any]) -> Adapted:
    """For JAX: other arrays in the lists of parameters, so that nothing compiles anew."""

    def read(x: Any) -> Any:
        (learned, kept), static = original.read(x)
        held = (layers.model.trainable_variables, layers.model.non_trainable_variables)
        lists = [
            [given.get(id(variable), value) for variable, value in zip(own, values, strict=True)]
            for own, values in zip(held, (learned, kept), strict=True)
        ]
        return tuple(lists), static

    return replace(original, read=read)


def _in_scope(original: Adapted, layers: _Layers, given: dict[int, Any], variables: list[Any]) -> Adapted:
    """For TensorFlow: the values of all variables are arguments of the compiled code."""

    def run(params: Any, x: Any) -> Any:
        with keras.StatelessScope(list(zip(variables, params, strict=True))):
            return layers.model(x, training=False)

    def read(x: Any) -> Any:
        # Tensors, not variables, for which another one would be traced anew.
        values = [
            given[id(variable)] if id(variable) in given else original.backend.asarray(variable.value, None)
            for variable in variables
        ]
        return values, original.read(x)[1]

    marked = partial(layers.watch, run)
    backend = original.backend
    return replace(original, apply=run, read=read, tapped=backend.tapped(marked), traced=backend.traced(marked))


def _in_scope_of_module(original: Adapted, layers: _Layers, given: dict[int, Any], variables: list[Any]) -> Adapted:
    """For PyTorch: a module holds the values, so that its tracer, which puts other tensors into modules, finds them."""
    holder = keras.layers.Layer(name="values")  # with this backend a PyTorch module
    chosen = [variable for variable in variables if id(variable) in given]
    for number, variable in enumerate(chosen):
        holder.register_buffer(str(number), given[id(variable)])

    def run(_: Any, x: Any) -> Any:
        with keras.StatelessScope([(variable, getattr(holder, str(n))) for n, variable in enumerate(chosen)]):
            return layers.model(x, training=False)

    marked = partial(layers.watch, run)
    backend = original.backend
    return replace(
        original,
        apply=run,
        tapped=backend.tapped(marked),
        traced=backend.traced(marked, [holder, layers.model], holder, lambda: "keras"),
    )
