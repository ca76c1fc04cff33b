"""Keras backend: translates a Keras 3 model to the backend that Keras computes with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import keras
import numpy as np

from xai_core.backend import Adapted, Backend, Pull, load_backend, settings
from xai_core.errors import BackendError, ModelError, describe

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
        if inner.name == "jax":
            # Unlike `__call__`, `stateless_call` hands the argument on to layers that do not take it.
            evaluation = {"training": False} if "training" in inspect.signature(model.call).parameters else {}
            return Adapted(
                backend=inner,
                apply=lambda state, x: model.stateless_call(*state, x, **evaluation)[0],
                anchor=model,
                read=lambda _: (
                    (
                        [variable.value for variable in model.trainable_variables],
                        [variable.value for variable in model.non_trainable_variables],
                    ),
                    _facts(model),
                ),
                channel_axis=axis,
            )
        if inner.name == "torch":
            # As a torch module it knows its device, its buffers and how to restore them.
            module = inner.adapt(model, None)
            return Adapted(
                backend=inner,
                apply=lambda _, x: model(x, training=False),
                anchor=model,
                preserve=module.preserve,
                device=module.device,
                channel_axis=axis,
            )
        return Adapted(
            backend=inner,
            apply=lambda _, x: model(x, training=False),
            anchor=model,
            read=lambda _: ((), _facts(model)),
            channel_axis=axis,
        )

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


def _layers(model: Any) -> Iterator[Any]:
    yield model
    yield from model._flatten_layers(include_self=False, recursive=True)


backend = KerasBackend()
