"""Work on the host that NumPy and Pillow do without holding the interpreter's lock, on all cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["CORES", "on_all_cores"]

CORES = os.cpu_count() or 1
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def on_all_cores(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """What a function gives for each item, in order, computed by a thread for each core; a single item without one."""
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(len(items), CORES)) as pool:
        return list(pool.map(function, items))
