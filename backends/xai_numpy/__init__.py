"""NumPy backend: estimators and any callable over NumPy arrays or DataFrames, for methods that need no gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat.numpy as xp
import numpy as np

from xai_core.backend import Adapted, Backend, Pull, lifetime
from xai_core.errors import CapabilityError, ModelError, describe
from xai_core.frames import is_frame, is_series

__all__ = ["NumpyBackend", "backend"]


class NumpyBackend(Backend):
    """Estimators with the interface of scikit-learn, and callables over NumPy arrays and DataFrames."""

    name = "numpy"
    priority = -10
    differentiable = False
    takes_frames = True

    @property
    def xp(self) -> Any:
        return xp

    def claims(self, model: Any) -> bool:
        return hasattr(model, "predict_proba") or (hasattr(model, "predict") and hasattr(model, "get_params"))

    def owns(self, array: Any) -> bool:
        return isinstance(array, (np.ndarray, np.generic))

    def adapt(self, model: Any, params: Any) -> Adapted:
        function = _scores(model)
        anchor, part = lifetime(function)
        estimator = anchor if function is model else model

        def apply(_: Any, x: Any) -> Any:
            given = _as_fitted(estimator, x)
            raw = function(given) if params is None else function(params, given)
            return np.asarray(raw) if is_frame(raw) or is_series(raw) else raw

        return Adapted(backend=self, apply=apply, anchor=anchor, read=lambda _: ((), part))

    def asarray(self, array: np.ndarray[Any, Any], device: Any) -> Any:
        return array

    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        return np.asarray(array)

    def vjp(self, function: Callable[[list[Any]], Any], leaves: list[Any]) -> tuple[Any, Pull]:
        raise CapabilityError("NumPy has no gradients.", fix="use Occlusion, or a model of a framework.")


def _scores(model: Any) -> Callable[..., Any]:
    """The function of a model that says most: probabilities, decision values, or what a regressor predicts."""
    for name in ("predict_proba", "decision_function"):
        if hasattr(model, name):
            return getattr(model, name)
    if callable(model):
        return model
    if not hasattr(model, "predict"):
        raise ModelError(
            "A NumPy model must be a callable over arrays or a fitted estimator.",
            received=describe(model),
            fix="pass `classifier.predict_proba` or a function of a NumPy array.",
        )
    if hasattr(model, "classes_"):
        raise ModelError(
            f"{type(model).__name__!r} is a classifier without scores: it predicts labels alone.",
            received=describe(model),
            fix="fit it so that it has `predict_proba` (probability=True, voting='soft', CalibratedClassifierCV), or pass "
            "a function of the inputs that returns scores.",
        )
    return model.predict


def _as_fitted(estimator: Any, x: Any) -> Any:
    """Inputs with names of columns for estimators that were fitted with these, and without for those that were not.

    What is no estimator, or does not tell, gets inputs as they were given.
    """
    names = getattr(estimator, "feature_names_in_", None)
    if is_frame(x):
        plain = names is None and getattr(estimator, "n_features_in_", None) is not None
        return x.to_numpy() if plain else x
    if names is None or not isinstance(x, np.ndarray) or x.shape[1:] != (len(names),):
        return x
    try:
        import pandas
    except ImportError:  # fitted on frames of another library: it takes arrays too, and may warn
        return x
    return pandas.DataFrame(x, columns=list(names))


backend = NumpyBackend()
