"""What a model has learned, array by array, in one layout for all frameworks.

Kernels are (..., in, out), as JAX, TensorFlow and Keras have them: dense (in, out), convolutions (positions..., in, out).
Adapters say by which permutation of axes they come to that, so that the same numbers are the same weights everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xai_core.errors import OptionError, describe

__all__ = ["KINDS", "Values", "Weight", "kind_of", "natives"]

_Host = np.ndarray[Any, Any]

KINDS = ("kernel", "bias", "scale", "statistic", "vector")
"""What an array is for; `statistic`: taken from data, not learned; `vector`: any of these, of one axis."""

Values = Mapping[tuple[str, str], _Host]
"""Arrays in the common layout by path and name of a `Weight`."""


@dataclass(frozen=True, eq=False)
class Weight:
    """One array of a model.

    Attributes
    ----------
    path
        Path of the layer that holds it, as `xai.layers` names layers; "" for the model itself.
    name
        What the layer calls it; no two of a path have the same.
    kind
        One of `KINDS`.
    held
        Its shape as the framework has it.
    read
        Copies it to the host as the framework has it, in single precision where NumPy does not have its dtype.
    axes
        Order in which the framework's axes are those of the common layout; empty: they are as they are.
    place
        Which is used first, second and so on, if the adapter knows; `None`: as the layers are called.
    """

    path: str
    name: str
    kind: str
    held: tuple[int, ...]
    read: Callable[[], _Host]
    axes: tuple[int, ...] = ()
    place: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape in the common layout."""
        return tuple(self.held[axis] for axis in self.axes) if self.axes else self.held

    @property
    def value(self) -> _Host:
        """The array in the common layout."""
        array = np.asarray(self.read())
        return array.transpose(self.axes) if self.axes else array

    def native(self, value: _Host) -> _Host:
        """An array of the common layout as the framework has it."""
        return np.ascontiguousarray(value.transpose(np.argsort(self.axes)) if self.axes else value)


def natives(weights: Sequence[Weight], values: Values) -> list[_Host | None]:
    """For each weight what takes its place, as the framework has it, or `None`.

    Raises
    ------
    OptionError
        If a value belongs to no weight, or has another shape.
    """
    found: list[_Host | None] = []
    remaining = dict(values)
    for weight in weights:
        value = remaining.pop((weight.path, weight.name), None)
        if value is not None and value.shape != weight.shape:
            raise OptionError(
                f"Weights {weight.name!r} of layer {weight.path!r} must keep their shape.",
                received=describe(value),
                fix=f"an array of shape {weight.shape}, kernels as (..., in, out).",
            )
        found.append(None if value is None else weight.native(value))
    if remaining:
        path, name = next(iter(remaining))
        raise OptionError(
            f"The model has no weights {name!r} in a layer {path!r}.",
            received=", ".join(f"{path!r}: {name!r}" for path, name in remaining),
            fix="use the paths and names of `Adapted.weights`.",
        )
    return found


_SHIFTS = re.compile(r"beta|offset|shift|.*bias|bias_.*")
_SCALES = re.compile(r"gamma|scale|.*layer_?scale")
_TAKEN = re.compile(r"(running_|moving_)?(mean|var|variance)")
_LETTERS = {"b": "bias", "g": "scale"}
_MATRICES = re.compile(r"w|.*(weight|kernel|coef|embedding|table|token).*|theta|query|key|value|out|head|hidden")
"""What is called so makes outputs of inputs also where it is a vector."""


def kind_of(name: str, shape: Sequence[int], holder: str = "") -> str:
    """What an array is for, by what it is called in the layer classes of all frameworks.

    Parameters
    ----------
    name
        What the layer calls it.
    shape
        Its shape: a vector named `weight` scales, as in PyTorch's norms; a matrix named `b` is the one after `a`.
    holder
        Class name of the layer, where it is known.
    """
    name = name.lower()
    if name in _LETTERS and sum(side > 1 for side in shape) <= 1:
        return _LETTERS[name]
    if _SHIFTS.fullmatch(name):
        return "bias"
    if _SCALES.fullmatch(name) or (name == "weight" and (len(shape) <= 1 or "norm" in holder.lower())):
        return "scale"
    if _TAKEN.fullmatch(name):
        return "statistic"
    return "vector" if len(shape) == 1 and shape[0] > 1 and not _MATRICES.fullmatch(name) else "kernel"
