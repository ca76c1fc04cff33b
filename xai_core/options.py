"""Frozen values that are told apart by their options, which may hold arrays of any framework."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from xai_core.errors import describe
from xai_core.frames import is_frame

__all__ = ["Options", "same_options", "shown", "snake_case"]


@dataclass(frozen=True, eq=False, repr=False)
class Options:
    """Base of explainers and metrics: equal if they are of one kind and their options are equal."""

    def options(self) -> dict[str, Any]:
        """The options and their values."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or not isinstance(other, Options):
            return NotImplemented
        return same_options(self.options(), other.options())

    def __hash__(self) -> int:
        return hash((type(self), tuple(self.options())))


def same_options(a: Any, b: Any) -> bool:
    """Equality of options that may hold arrays of any framework."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if is_frame(a):
        return bool(a.equals(b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_options(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same_options, a, b))
    if hasattr(a, "shape") and hasattr(a, "dtype"):
        same_kind = tuple(a.shape) == tuple(b.shape) and str(a.dtype) == str(b.dtype)
        return same_kind and bool(np.array_equal(np.asarray(a), np.asarray(b)))
    return bool(a == b)


def shown(value: Any) -> str:
    """An option in few words: arrays, modules and layers by what they are."""
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(shown, value))})"
    text = repr(value)
    plain = isinstance(value, (str, bytes, Options)) or ("\n" not in text and len(text) < 200)
    return text if plain and not hasattr(value, "dtype") else f"<{describe(value)}>"


def snake_case(name: str) -> str:
    """`IntegratedGradients` -> `integrated_gradients`, `InputXGradient` -> `input_x_gradient`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
