"""Keras backend: translates a Keras 3 model to the backend that Keras computes with."""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any

import keras
import numpy as np

from xai_core.backend import Adapted, Around, Backend, Pull, load_backend, settings
from xai_core.errors import BackendError, ModelError, describe
from xai_keras.weights import with_weights

__all__ = ["KerasBackend", "backend"]


class KerasBackend(Backend):
    """Any `keras.Model` or layer; arrays, derivatives and compilation are those of the Keras backend."""

    name = "keras"
    priority = 10

    @property
    def xp(self) -> Any:
        return delegate().xp

    def claims(self, model: Any) -> bool:
        return isinstance(model, keras.Layer)

    def owns(self, array: Any) -> bool:
        return False

    def adapt(self, model: Any, params: Any) -> Adapted:
        if not isinstance(model, keras.Layer):
            raise ModelError(
                "The Keras backend takes Keras models and layers.",
                received=describe(model),
                fix=f"for a function say backend={keras.backend.backend()!r}.",
            )
        if not model.built:
            raise ModelError(
                f"The Keras model {model.name!r} has never been called, so it has no weights yet.",
                fix="load or train its weights, or call it once: model(x).",
            )
        inner = delegate()
        axis = channel_axis(model)
        names = layer_paths(model)

        def locate(layer: Any) -> str | None:
            return next((path for path, part in names if part is layer), None)

        if inner.name == "jax":
            # Unlike `__call__`, `stateless_call` hands the argument on to layers that do not take it.
            evaluation = {"training": False} if "training" in inspect.signature(model.call).parameters else {}

            def apply(state: Any, x: Any) -> Any:
                return model.stateless_call(*state, x, **evaluation)[0]

            adapted = Adapted(
                backend=inner,
                apply=apply,
                anchor=model,
                read=lambda _: (
                    (
                        [variable.value for variable in model.trainable_variables],
                        [variable.value for variable in model.non_trainable_variables],
                    ),
                    _facts(model),
                ),
                channel_axis=axis,
                tapped=inner.tapped(partial(_watched_run, names, apply)),
                traced=inner.traced(partial(_watched_run, names, apply)),
                locate=locate,
            )
            return with_weights(adapted, model, names, partial(_watched_run, names))

        def run(_: Any, x: Any) -> Any:
            return model(x, training=False)

        tapped = inner.tapped(partial(_watched_run, names, run))
        traced = inner.traced(partial(_watched_run, names, run), [model], model, lambda: "keras")
        if inner.name == "torch":
            # As a torch module it knows its device, its buffers and how to restore them.
            module = inner.adapt(model, None)
            adapted = Adapted(
                backend=inner,
                apply=run,
                anchor=model,
                read=lambda _: ((), _facts(model)),
                preserve=module.preserve,
                device=module.device,
                channel_axis=axis,
                tapped=tapped,
                traced=traced,
                locate=locate,
            )
            return with_weights(adapted, model, names, partial(_watched_run, names))
        adapted = Adapted(
            backend=inner,
            apply=run,
            anchor=model,
            read=lambda _: ((), _facts(model)),
            channel_axis=axis,
            tapped=tapped,
            traced=traced,
            locate=locate,
        )
        return with_weights(adapted, model, names, partial(_watched_run, names))

    def asarray(self, array: np.ndarray[Any, Any], device: Any) -> Any:
        return delegate().asarray(array, device)

    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        return delegate().to_numpy(array)

    def vjp(self, function: Callable[[list[Any]], Any], leaves: list[Any]) -> tuple[Any, Pull]:
        return delegate().vjp(function, leaves)


def delegate() -> Backend:
    """The backend of the framework that Keras computes with.

    Raises
    ------
    BackendError
        If Keras runs on a backend without derivatives (NumPy, OpenVINO).
    """
    name = keras.backend.backend()
    if name not in ("jax", "tensorflow", "torch"):
        raise BackendError(
            f"Keras computes with {name!r}, for which there is no backend.",
            fix="set KERAS_BACKEND to jax, tensorflow or torch before Keras is imported.",
        )
    return load_backend(name)


def _facts(model: Any) -> Hashable:
    """How every layer computes: a changed activation must not meet code that was compiled before."""
    return tuple(settings(layer) for layer in _layers(model))


def channel_axis(model: Any) -> int:
    """1 if the model's first layer that says so is channels first, else -1."""
    for layer in _layers(model):
        data_format = getattr(layer, "data_format", None)
        if data_format in ("channels_first", "channels_last"):
            return 1 if data_format == "channels_first" else -1
    return 1 if keras.config.image_data_format() == "channels_first" else -1


def layer_paths(model: Any) -> list[tuple[str, Any]]:
    """Paths (`block/conv`) and layers of a model, operations of functional models included, the model itself not."""
    found: list[tuple[str, Any]] = []
    _collect(model, (), found, {id(model)})
    return found


def _collect(owner: Any, path: tuple[str, ...], found: list[tuple[str, Any]], seen: set[int]) -> None:
    parts = list(getattr(owner, "operations", None) or getattr(owner, "layers", None) or ())
    parts += [layer for layer in getattr(owner, "_layers", ()) if all(layer is not part for part in parts)]
    taken = {name for name, _ in found}
    for part in parts:
        if id(part) in seen or type(part).__name__ == "InputLayer":
            continue
        seen.add(id(part))
        inner = (*path, part.name)
        if isinstance(owner, keras.Sequential) and part is getattr(owner, "_functional", None):
            inner = path  # how a Sequential computes, nothing that a user named
        else:
            name, number = "/".join(inner), 1
            while name in taken:
                number += 1
                name = f"{'/'.join(inner)}({number})"
            taken.add(name)
            found.append((name, part))
        _collect(part, inner, found, seen)


@contextlib.contextmanager
def watched(parts: list[tuple[str, Any]], around: Callable[..., Any]) -> Iterator[None]:
    """While in force, every layer's `call` goes through `around`; the layers are left as they were."""
    owner = threading.get_ident()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_ONE_AT_A_TIME)
        for path, part in parts:
            held = vars(part)
            name = "quantized_call" if getattr(part, "quantization_mode", None) is not None else "call"
            original = getattr(part, name)
            if name in held:
                stack.callback(held.__setitem__, name, held[name])
            else:
                stack.callback(held.pop, name, None)
            held[name] = _watch(path, type(part).__name__, original, around, owner)
        yield


def _watch(path: str, operation: str, original: Any, around: Callable[..., Any], owner: int) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*positional: Any, **keywords: Any) -> Any:
        if threading.get_ident() != owner:
            return original(*positional, **keywords)
        return around(path, operation, lambda given: original(*given[0], **given[1]), (positional, keywords))

    return call


_ONE_AT_A_TIME = threading.RLock()


def _watched_run(
    parts: list[tuple[str, Any]], apply: Callable[[Any, Any], Any], params: Any, x: Any, around: Around
) -> Any:
    with watched(parts, around):
        return apply(params, x)


def _layers(model: Any) -> Iterator[Any]:
    yield model
    yield from model._flatten_layers(include_self=False, recursive=True)


backend = KerasBackend()
