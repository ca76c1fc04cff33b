"""What the namespace can do: `__array_namespace_info__`."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from xai_tensorflow.namespace._dtypes import (
    BY_NAME,
    DEFAULT_COMPLEX,
    DEFAULT_FLOAT,
    DEFAULT_INT,
    HALVES,
    isdtype,
)


class Info:
    """Capabilities, devices and dtypes of the TensorFlow namespace."""

    def capabilities(self) -> dict[str, Any]:
        """Boolean indexing lies with `tf.boolean_mask`; functions with shapes that depend on data exist."""
        return {"boolean indexing": False, "data-dependent shapes": True, "max dimensions": 8}

    def default_device(self) -> str:
        """Name of the device on which new arrays land."""
        return str(tf.zeros(()).device)

    def devices(self) -> list[str]:
        """Names of all devices."""
        return [device.name for device in tf.config.list_logical_devices()]

    def default_dtypes(self, *, device: Any = None) -> dict[str, Any]:
        """dtypes of arrays for which none was named."""
        return {
            "real floating": DEFAULT_FLOAT,
            "complex floating": DEFAULT_COMPLEX,
            "integral": DEFAULT_INT,
            "indexing": tf.int64,
        }

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, Any]:
        """dtypes of the standard, of a kind."""
        standard = {name: dtype for name, dtype in BY_NAME.items() if dtype not in HALVES}
        return {name: dtype for name, dtype in standard.items() if kind is None or isdtype(dtype, kind)}


def __array_namespace_info__() -> Info:
    """Capabilities, devices and dtypes."""
    return Info()
