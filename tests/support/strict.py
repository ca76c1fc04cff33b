"""A backend for tests: any array-API namespace, differentiated by complex steps, optionally on another device."""

from __future__ import annotations

from typing import Any

import array_api_strict
import numpy as np

from xai_core.backend import Adapted, Backend
from xai_core.model import Model


class ComplexStepBackend(Backend):
    """Exact derivatives of analytic functions that act on each row by itself, in any namespace with complex numbers."""

    name = "strict"

    def __init__(self, xp: Any, device: Any = None) -> None:
        self._xp, self._device = xp, device
        self._array = type(xp.ones(1))

    @property
    def xp(self) -> Any:
        return self._xp

    def claims(self, model: Any) -> bool:
        return False

    def owns(self, array: Any) -> bool:
        return isinstance(array, self._array)

    def adapt(self, model: Any, params: Any) -> Adapted:
        return Adapted(backend=self, apply=lambda _, x: model(x), anchor=model, device=self._device)

    def asarray(self, array: np.ndarray, device: Any) -> Any:
        if self._xp is np:
            return array
        return self._xp.asarray(array, device=self._device)

    def to_numpy(self, array: Any) -> np.ndarray:
        if self._xp is np:
            return np.asarray(array)
        return np.asarray(array.to_device(self._xp.Device("CPU_DEVICE")))

    def vjp(self, function: Any, leaves: list[Any]) -> Any:
        xp = self._xp
        value = function(leaves)
        wide = [xp.astype(leaf, xp.complex128 if leaf.dtype == xp.float64 else xp.complex64) for leaf in leaves]
        step = 1e-25

        def pull(cotangent: Any) -> list[Any]:
            out = []
            for position, leaf in enumerate(leaves):
                columns = []
                shape = tuple(leaf.shape)
                for place in np.ndindex(*shape[1:]):
                    mark = np.zeros((1, *shape[1:]), dtype="complex64" if leaf.dtype == xp.float32 else "complex128")
                    mark[(0, *place)] = step * 1j
                    moved = list(wide)
                    moved[position] = wide[position] + self.asarray(mark, None)
                    columns.append(xp.imag(function(moved)) / step * cotangent)
                out.append(xp.reshape(xp.stack(columns, axis=1), shape))
            return out

        return value, pull


def strict_model(function: Any, xp: Any, device: Any = None, **options: Any) -> Model:
    backend = ComplexStepBackend(xp, device)
    return Model(function, backend.adapt(function, None), **options)


def second_device() -> Any:
    return array_api_strict.Device("device1")
