"""The errors of xai_core.

Every error that a user can foresee derives from `XaiError` and is also the built-in exception that Python programmers
would expect (`ValueError`, `TypeError`, ...). A message names the argument, says what was expected and what was
received, and ends with the fix.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "BackendError",
    "BaselineError",
    "CapabilityError",
    "ConvergenceError",
    "InputDependenceError",
    "InputError",
    "IntegerInputError",
    "ModelError",
    "NonFiniteError",
    "OptionError",
    "OutputError",
    "TargetError",
    "TrainingModeError",
    "UnknownNameError",
    "UnsupportedOperation",
    "XaiError",
    "describe",
]


class XaiError(Exception):
    """Base class of all errors raised on purpose by xai_core and its backends."""

    def __init__(self, problem: str, *, received: str | None = None, fix: str | None = None) -> None:
        self.problem = problem
        self.received = received
        self.fix = fix
        parts = [problem]
        if received is not None:
            parts.append(f"Received: {received}.")
        if fix is not None:
            parts.append(f"Fix: {fix}")
        super().__init__("\n".join(parts))


class BackendError(XaiError, ImportError):
    """A framework or its backend is missing, or no backend knows the model."""


class ModelError(XaiError, TypeError):
    """The model cannot be called as it was given."""


class TrainingModeError(XaiError, RuntimeError):
    """The model, or a part of it, is in training mode, so that its output is random or depends on the batch."""


class CapabilityError(XaiError, TypeError):
    """The method needs something that this model's backend cannot do."""


class OutputError(XaiError, ValueError):
    """The scores could not be picked out of what the model returned."""


class InputError(XaiError, ValueError):
    """The inputs have the wrong kind, structure, shape or dtype."""


class IntegerInputError(InputError, TypeError):
    """A method that differentiates was given integer inputs."""


class NonFiniteError(XaiError, ArithmeticError):
    """Inputs, outputs or results hold NaN or infinity."""


class InputDependenceError(XaiError, ValueError):
    """The explained score does not depend on the input."""


class TargetError(XaiError, ValueError):
    """The target does not name a score of this model."""


class BaselineError(XaiError, ValueError):
    """The baseline or background does not fit the inputs."""


class OptionError(XaiError, ValueError):
    """An option of a method has a value outside its range."""


class UnknownNameError(XaiError, LookupError):
    """No method, metric, layer or backend of that name exists."""


class LayerError(UnknownNameError):
    """No such layer, or none that can be told from others or followed."""


class UnsupportedOperation(CapabilityError):  # noqa: N818, the name of the contract
    """An operation of the model has no rule in this method."""


class ConvergenceError(XaiError, ArithmeticError):
    """The stated tolerance was not reached within the allowed model rows."""


def describe(value: Any) -> str:
    """Type, dtype and shape of a value in a few words, for error messages; never its contents."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    if "Tracer" in kind or "SymbolicTensor" in kind:  # an array while a framework traces the model
        kind = "array"
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"{kind} of shape {tuple(shape)} and dtype {dtype_name(dtype)}"
    if isinstance(value, dict):
        return "dict of " + ", ".join(f"{key!r}: {describe(item)}" for key, item in value.items())
    if isinstance(value, tuple):
        return "tuple of " + ", ".join(describe(item) for item in value)
    if isinstance(value, (int, float, str)) or value is None:
        return repr(value)
    return kind


def dtype_name(dtype: Any) -> str:
    """`float32` for every framework's float32."""
    name = getattr(dtype, "name", None)
    return name if isinstance(name, str) else str(dtype).removeprefix("torch.").removeprefix("array_api_strict.")
