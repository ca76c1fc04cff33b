"""NumPy backend: any callable over NumPy arrays, for methods that need no gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat.numpy as xp
import numpy as np

from xai_core.backend import Adapted, Backend, Pull, lifetime
from xai_core.errors import CapabilityError, ModelError, describe

__all__ = ["NumpyBackend", "backend"]


class NumpyBackend(Backend):
    """Callables over NumPy arrays, a scikit-learn `predict_proba` for example."""

    name = "numpy"
    priority = -10
    differentiable = False

    @property
    def xp(self) -> Any:
        return xp

    def claims(self, model: Any) -> bool:
        return hasattr(model, "predict_proba") or (hasattr(model, "predict") and hasattr(model, "get_params"))

    def owns(self, array: Any) -> bool:
        return isinstance(array, (np.ndarray, np.generic))

    def adapt(self, model: Any, params: Any) -> Adapted:
        function = getattr(model, "predict_proba", None) or (
            model if callable(model) else getattr(model, "predict", None)
        )
        if function is None:
            raise ModelError(
                "A NumPy model must be a callable over arrays or a fitted estimator.",
                received=describe(model),
                fix="pass `classifier.predict_proba` or a function of a NumPy array.",
            )
        anchor, part = lifetime(function)
        return Adapted(
            backend=self,
            apply=lambda _, x: function(x) if params is None else function(params, x),
            anchor=anchor,
            read=lambda _: ((), part),
        )

    def asarray(self, array: np.ndarray[Any, Any], device: Any) -> Any:
        return array

    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        return np.asarray(array)

    def vjp(self, function: Callable[[list[Any]], Any], leaves: list[Any]) -> tuple[Any, Pull]:
        raise CapabilityError("NumPy has no gradients.", fix="use Occlusion, or a model of a framework.")


backend = NumpyBackend()
