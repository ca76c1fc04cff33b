"""Work on the host that NumPy and Pillow do without holding the interpreter's lock, on all cores."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["CORES", "on_all_cores"]

CORES = os.cpu_count() or 1
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def on_all_cores(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """What a function gives for each item, in order, computed by the caller and a thread for each other core.

    Threads are kept, since starting one takes as long as a small piece of work.
    """
    helpers = min(len(items), CORES) - 1
    if helpers < 1:
        return [function(item) for item in items]
    left = deque(enumerate(items))
    found: dict[int, _Result] = {}

    def work() -> None:
        while True:
            try:
                place, item = left.popleft()
            except IndexError:
                return
            found[place] = function(item)

    others = [_pool().submit(work) for _ in range(helpers)]
    try:
        work()
    finally:
        left.clear()
        # Those that have not begun have nothing to do any more; threads that wait for threads must not wait for these.
        begun = [other for other in others if not other.cancel()]
    for other in begun:
        other.result()
    return [found[place] for place in range(len(items))]


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CORES - 1, "xai")


if hasattr(os, "register_at_fork"):
    # A forked process has none of the threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)
