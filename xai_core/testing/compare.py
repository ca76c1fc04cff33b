"""Comparisons that check the kind of array, its dtype, shape and device before its values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xai_core.backend import backend_of_array
from xai_core.errors import dtype_name
from xai_core.explanation import to_host

__all__ = ["assert_close", "kind_of"]


def kind_of(array: Any) -> tuple[str, str, tuple[int, ...], str]:
    """Framework (or type, where no backend knows it), dtype, shape and device of an array."""
    backend = backend_of_array(array)
    name = type(array).__module__ if backend is None else backend.name
    return name, dtype_name(array.dtype), tuple(array.shape), str(getattr(array, "device", "cpu"))


def assert_close(
    actual: Any, expected: Any, *, relative: float = 1e-5, like: Any = None, host: Callable[[Any], Any] = to_host
) -> None:
    """Fail unless `actual` is within `relative` of `expected` in the L2 norm.

    Parameters
    ----------
    actual
        Array of any framework.
    expected
        Array of any framework; only its values and shape count.
    relative
        Bound on the norm of the difference over the norm of `expected`; absolute where `expected` is zero.
    like
        Array that `actual` must resemble: same framework, dtype, shape and device.
    host
        Copies arrays to NumPy, where no installed backend does.

    Raises
    ------
    AssertionError
    """
    if like is not None:
        assert kind_of(actual) == kind_of(like), f"got {kind_of(actual)}, expected {kind_of(like)}"
    found, wanted = host(actual).astype(np.float64), host(expected).astype(np.float64)
    assert found.shape == wanted.shape, f"shape {found.shape}, expected {wanted.shape}"
    assert np.all(np.isfinite(found)), "values are not finite"
    scale = float(np.linalg.norm(wanted)) or 1.0
    gap = float(np.linalg.norm(found - wanted)) / scale
    assert gap <= relative, f"relative L2 difference {gap:.2e}, allowed {relative:.0e}"
