"""A progress bar for anything that takes longer than two seconds, when tqdm is installed and a person is watching."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["Progress"]

DELAY_S = 2.0


class Progress:
    """Counts model rows towards an expected total.

    Without tqdm, or where standard error is no terminal and no notebook runs, nothing is shown.
    """

    def __init__(self, label: str, total: int | None) -> None:
        self._bar: Any = None
        try:
            from tqdm import tqdm
        except ImportError:
            return
        disable = None if "ipykernel" not in sys.modules else False
        self._bar = tqdm(total=total, desc=label, unit="row", delay=DELAY_S, disable=disable, leave=False)

    def update(self, rows: int) -> None:
        if self._bar is not None:
            self._bar.update(rows)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
