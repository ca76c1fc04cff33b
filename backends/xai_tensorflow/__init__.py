"""TensorFlow backend: `tf.Module`, `tf.function`, loaded SavedModels and plain functions of tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from functools import cache, partial
from typing import Any

import numpy as np
import tensorflow as tf

import xai_tensorflow.namespace as namespace
from xai_core.backend import Adapted, Around, Backend, Pull, Traced, captured, lifetime, settings
from xai_core.errors import ModelError, describe
from xai_tensorflow.graph import follow, traced, traced_by_operation
from xai_tensorflow.weights import with_weights

__all__ = ["TensorFlowBackend", "backend"]


class TensorFlowBackend(Backend):
    """TensorFlow models, compiled with `tf.function`; variables are read when the model runs."""

    name = "tensorflow"
    compiles = True
    # Each call of a traced function takes about a millisecond beside its operations, which like large batches.
    elements_per_call = 3 * 2**18
    elements_per_gradient = 3 * 2**17

    @property
    def xp(self) -> Any:
        return namespace

    def claims(self, model: Any) -> bool:
        # A loaded SavedModel is a trackable object with signatures, of no public class.
        return isinstance(model, tf.Module) or hasattr(model, "get_concrete_function") or _signature(model) is not None

    def owns(self, array: Any) -> bool:
        return isinstance(array, tf.Tensor)

    def adapt(self, model: Any, params: Any) -> Adapted:
        anchor, part = lifetime(model)
        if not callable(model) and _signature(model) is None:
            raise ModelError(
                "This TensorFlow object can not be called and has no serving signature.",
                received=describe(model),
                fix="pass a function of it: lambda x: module.predict(x).",
            )

        @cache
        def function() -> Any:
            if not callable(model):
                return _signature(model)
            # Plain Python functions may branch on tensors, which needs TensorFlow's own conversion.
            return model if hasattr(model, "get_concrete_function") else tf.function(model)

        def apply(_: Any, x: Any) -> Any:
            return call(function(), x) if params is None else function()(params, x)

        adapted = Adapted(
            backend=self,
            apply=apply,
            anchor=anchor,
            read=lambda _: ((), (part, _facts(model))),
            tapped=self.tapped(follow(apply)),
            traced=traced_by_operation(apply),
        )
        return with_weights(adapted, model) if isinstance(model, tf.Module) and params is None else adapted

    def asarray(self, array: np.ndarray[Any, Any], device: Any) -> Any:
        return tf.convert_to_tensor(array)

    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        return np.asarray(array.numpy())

    def vjp(self, function: Callable[[list[Any]], Any], leaves: list[Any]) -> tuple[Any, Pull]:
        inputs = [tf.stop_gradient(leaf) for leaf in leaves]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([leaf for leaf in inputs if leaf.dtype.is_floating or leaf.dtype.is_complex])
            value = function(inputs)

        def pull(cotangent: Any) -> list[Any]:
            found = tape.gradient(value, inputs, output_gradients=cotangent)
            return [None if gradient is None else tf.convert_to_tensor(gradient) for gradient in found]

        return value, pull

    def traced(
        self,
        marked: Callable[[Any, Any, Around], Any],
        roots: Sequence[Any] = (),
        anchor: Any = None,
        static: Callable[[], Hashable] = tuple,
    ) -> Traced:
        return traced(marked)

    def eager(self) -> AbstractContextManager[Any]:
        return tf.init_scope()

    def abstract(self, function: Callable[..., Any], *arguments: Any) -> None:
        tf.function(function, autograph=False).get_concrete_function(*arguments)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        # For each signature a tf.function of an object of its own, one without code: TensorFlow counts traces by code
        # objects, and warns of many. What was traced is called itself; a tf.function would look at the arguments again.
        functions: dict[Any, Any] = {}

        def call_traced(*arguments: Any) -> Any:
            key = _specs(arguments)
            found = functions.get(key)
            if found is None:
                found = tf.function(partial(function), autograph=False).get_concrete_function(*arguments)
                functions[key] = found
            return found(*arguments)

        return call_traced


def _specs(value: Any) -> Hashable:
    """Structure, shapes and dtypes of arguments."""
    if isinstance(value, list | tuple):
        return tuple(map(_specs, value))
    if isinstance(value, dict):
        return tuple((name, _specs(part)) for name, part in value.items())
    return None if value is None else (tuple(value.shape), value.dtype)


def _facts(model: Any) -> Hashable:
    """What compiled code took from the model as constants, and which variables it reads."""
    parts = _parts(model)
    return tuple(map(settings, parts)) if parts else captured(getattr(model, "__func__", model), _parts)


def _parts(value: Any) -> tuple[Any, ...]:
    """Modules or Keras layers that a model consists of, itself included."""
    if isinstance(value, tf.Module):
        return _modules(value)
    layers = getattr(value, "_flatten_layers", None)
    return tuple(layers()) if callable(layers) else ()


def _modules(root: tf.Module) -> tuple[tf.Module, ...]:
    """A module and its `submodules`, for which TensorFlow itself takes four times as long: it notes the path to each."""
    found, seen = [root], {id(root)}
    for module in found:
        for name, value in vars(module).items():
            if name in module._TF_MODULE_IGNORED_PROPERTIES:
                continue
            for part in tf.nest.flatten(value):
                if isinstance(part, tf.Module) and id(part) not in seen:
                    seen.add(id(part))
                    found.append(part)
    return tuple(found)


def _signature(model: Any) -> Any:
    """The serving function of a loaded SavedModel, if `model` is one that has it."""
    signatures: Any = getattr(model, "signatures", None)
    return signatures.get("serving_default") if hasattr(signatures, "get") else None


def call(function: Any, x: Any) -> Any:
    """Inputs as the function takes them: keywords for signatures and dicts, positions for tuples."""
    keywords = getattr(function, "structured_input_signature", None)
    if keywords is not None and keywords[1]:
        names = list(keywords[1])
        if isinstance(x, dict):
            return function(**x)
        values = x if isinstance(x, tuple | list) else (x,)
        return function(**dict(zip(names, values, strict=True)))
    if isinstance(x, dict | tuple | list):
        taken = inspect.signature(getattr(function, "python_function", function)).parameters.values()
        if isinstance(x, dict):
            return function(**x) if {p.name for p in taken} >= set(x) else function(x)
        required = [p for p in taken if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if any(p.kind is p.VAR_POSITIONAL for p in taken) or len(required) >= len(x) > 1:
            return function(*x)
    return function(x)


backend = TensorFlowBackend()
