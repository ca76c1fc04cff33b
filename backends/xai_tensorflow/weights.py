"""Variables of TensorFlow modules in the common layout, and models that read other values instead of them.

Neither a module nor its variables are copied: the model's program is traced, and where it reads a variable it gets a value
that compiled code takes as an argument. So a function that holds parts of the model cannot read the old ones unseen, and
nothing compiles anew for other values.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import tensorflow as tf

from xai_core.backend import Adapted, Held
from xai_core.structure import flatten
from xai_core.weights import Values, Weight, kind_of, natives
from xai_tensorflow.graph import follow, in_order_of_use, reading, traced_by_operation

__all__ = ["with_weights"]


def with_weights(adapted: Adapted, module: tf.Module) -> Adapted:
    """`adapted` with its `weights` and `replaced`, as far as the module has variables of its own."""
    if next(iter(module._flatten(predicate=_is_weight)), None) is None:
        return adapted

    @cache
    def held() -> list[tuple[Weight, Any]]:
        # Looked for when asked: that takes long for a large module, and most explanations do not ask.
        return _held(module)

    def variables() -> list[Any]:
        return [variable for _, variable in held()]

    def weights(present: Callable[[], list[Any]], read: Held, x: Any) -> list[Weight]:
        # What the program does not read is not there: a value in its place would change nothing.
        uses = _uses(module, adapted, read[1], x, variables())
        values = present()
        return [
            replace(weight, place=uses[number], read=partial(_host, values[number]))
            for number, (weight, _) in enumerate(held())
            if number in uses
        ]

    def replaced(present: Callable[[], list[Any]], read: Held, values: Values) -> Adapted:
        new = [
            None if value is None else tf.convert_to_tensor(value.astype(variable.dtype.as_numpy_dtype))
            for value, variable in zip(natives([weight for weight, _ in held()], values), variables(), strict=True)
        ]

        def now() -> list[Any]:
            pairs = zip(new, present(), strict=True)
            return [tf.convert_to_tensor(old) if value is None else value for value, old in pairs]

        return replace(
            adapted,
            apply=reading(adapted.apply, variables()),
            read=lambda x: (now(), adapted.read(x)[1]),
            tapped=adapted.backend.tapped(follow(adapted.apply, variables())),
            traced=traced_by_operation(adapted.apply, variables()),
            weights=partial(weights, now),
            replaced=partial(replaced, now),
        )

    return replace(adapted, weights=partial(weights, variables), replaced=partial(replaced, variables))


_USES: weakref.WeakKeyDictionary[tf.Module, tuple[Hashable, dict[int, int]]] = weakref.WeakKeyDictionary()
"""Of each module which variables it reads and in which order, as it was when asked last."""


def _uses(module: tf.Module, adapted: Adapted, facts: Hashable, x: Any, variables: Sequence[Any]) -> dict[int, int]:
    """`in_order_of_use`, which traces the program, found out anew when the module or the kind of inputs is another."""
    leaves, structure = flatten(x)
    kinds = tuple((tuple(leaf.shape), leaf.dtype) for leaf in leaves)
    key = structure, kinds, facts, tuple(map(id, variables))
    known = _USES.get(module)
    if known is None or known[0] != key:
        known = _USES[module] = key, in_order_of_use(adapted.apply, x, variables)
    return known[1]


def _held(module: tf.Module) -> list[tuple[Weight, Any]]:
    """Floating point variables by where they are in the module, each once; those not trained are no weights to learn."""
    found: list[tuple[Weight, Any]] = []
    seen: set[int] = set()
    # The path is not to be had in another way.
    for keys, variable in module._flatten(predicate=_is_weight, with_path=True):
        if id(variable) in seen:
            continue
        seen.add(id(variable))
        shape, name = tuple(variable.shape), str(keys[-1])
        kind = kind_of(name, shape) if variable.trainable else "statistic"
        path = "/".join(map(str, keys[:-1] or keys))
        found.append((Weight(path, name, kind, shape, partial(_host, variable)), variable))
    return found


def _is_weight(value: Any) -> bool:
    return isinstance(value, tf.Variable) and value.dtype.is_floating and value.shape.is_fully_defined()


def _host(value: Any) -> np.ndarray[Any, Any]:
    array = value.numpy()
    return array if array.dtype == np.float64 else array.astype(np.float32)
