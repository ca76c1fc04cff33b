"""A small smooth network in NumPy, exact derivatives of it, and the weights to build it again in any framework."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Weights", "complex_step", "mlp", "weights"]

_Host = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Weights:
    """Two dense layers: `tanh(x @ first + shift) @ second + bias`."""

    first: _Host
    shift: _Host
    second: _Host
    bias: _Host

    def __iter__(self) -> Any:
        return iter((self.first, self.shift, self.second, self.bias))


def weights(inputs: int = 6, hidden: int = 5, outputs: int = 3, dtype: str = "float32", seed: int = 0) -> Weights:
    """Random weights, (inputs, hidden), (hidden,), (hidden, outputs), (outputs,)."""
    rng = np.random.default_rng(seed)
    return Weights(
        (rng.normal(size=(inputs, hidden)) / np.sqrt(inputs)).astype(dtype),
        (0.3 * rng.normal(size=hidden)).astype(dtype),
        (rng.normal(size=(hidden, outputs)) / np.sqrt(hidden)).astype(dtype),
        (0.3 * rng.normal(size=outputs)).astype(dtype),
    )


def mlp(held: Weights, x: _Host) -> _Host:
    """Scores (batch, outputs) of `x` (batch, inputs); complex inputs are fine."""
    first, shift, second, bias = held
    return np.tanh(x @ first + shift) @ second + bias


def complex_step(function: Callable[[_Host], _Host], x: _Host, target: Any) -> _Host:
    """Gradient of `function(x)[i, target[i]]` with respect to `x[i]`, exact to rounding.

    `function` must act on each row by itself and be analytic. Source: Squire and Trapp 1998, SIAM Review 40(1).
    """
    x = np.asarray(x, dtype=np.float64)
    chosen = np.broadcast_to(np.asarray(target), (len(x),))
    gradient = np.zeros_like(x)
    for place in np.ndindex(*x.shape[1:]):
        moved = x.astype(np.complex128)
        moved[(slice(None), *place)] += 1e-30j
        gradient[(slice(None), *place)] = function(moved)[np.arange(len(x)), chosen].imag / 1e-30
    return gradient
