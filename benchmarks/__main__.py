"""Time explanations against the plain loop of the same model rows, and against peers that do the same, in one run.

Each measurement interleaves A B A B on the same inputs and quotes the median of the pairwise ratios. The plain loop runs
the same number of rows forward and backward in the same framework at the best of several batch sizes, and does nothing
else: no interpolation, no sums, no checks. Methods with backward rules are compared with the passes that their rules say.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import xai_core as xai
from benchmarks import models

BATCHES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Row:
    """One line of the result."""

    case: str
    method: str
    rows_per_second: float
    ratio_to_loop: float
    limit: float | None
    ratio_to_peer: float | None

    @property
    def within(self) -> bool:
        return self.limit is None or self.ratio_to_loop <= self.limit


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def interleaved(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each function per round, after one warm-up of all."""
    for function in functions.values():
        function()
    found: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            found[name].append(seconds(function))
    return found


def median_ratio(a: list[float], b: list[float]) -> float:
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def best_batch(case: models.Case, rows: int, backward: bool = True) -> int:
    """Batch size at which the plain loop does most rows per second, forward and backward or forward alone."""
    speeds = {}
    for batch in BATCHES:
        if batch > max(rows, 8) or batch > case.largest_batch:
            break
        count = max(batch, min(rows, 4 * batch))
        back = count if backward else 0
        case.loop(count, back, batch)
        speeds[batch] = min(seconds(lambda c=count, k=back, b=batch: case.loop(c, k, b)) for _ in range(2)) / count
    return min(speeds, key=lambda batch: speeds[batch])


def measure(case: models.Case, explainers: dict[str, xai.Explainer], repeats: int) -> list[Row]:
    rows = []
    for name, explainer in explainers.items():
        limit, timed = case.limit, case
        if name in models.REMOVING and not (limit is None and name in models.ONCE):
            limit = 2.0 if limit is None else max(limit, 1.1)
        if name in models.PASSES:
            # A run of the model on all inputs at once, on both sides.
            timed, limit = case.several(), case.rule_limit
            batch = int(timed.x.shape[0])
            forward, backward = (passes * batch for passes in models.PASSES[name])
        else:
            forward, backward = explainer(case.model, case.x, target=case.target).rows
            batch = best_batch(case, forward, backward > 0)
        functions = {
            "ours": lambda e=explainer, c=timed: c.wait(e(c.model, c.x, target=c.target).values),
            "loop": lambda f=forward, b=backward, n=batch: case.loop(f, b, n),
        }
        peer = models.peer(timed, name, explainer)
        if peer is not None:
            functions["peer"] = peer
        times = interleaved(functions, repeats)
        rows.append(
            Row(
                case.name,
                name,
                forward / statistics.median(times["ours"]),
                median_ratio(times["ours"], times["loop"]),
                limit,
                median_ratio(times["peer"], times["ours"]) if "peer" in times else None,
            )
        )
        print(line(rows[-1]), flush=True)
    return rows


def line(row: Row) -> str:
    peer = "" if row.ratio_to_peer is None else f"{row.ratio_to_peer:8.2f}"
    limit = "" if row.limit is None else f"{row.limit:7.2f}"
    verdict = "" if row.within else "   above the limit"
    return (
        f"{row.case:<22} {row.method:<22} {row.rows_per_second:12.1f} {row.ratio_to_loop:8.2f} "
        f"{limit:>7} {peer:>8}{verdict}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--case", action="append", choices=list(models.CASES), help="only this case, repeatable")
    parser.add_argument("--method", action="append", help="only this method, repeatable")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="where PyTorch runs: cpu or cuda")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    chosen = parser.parse_args()
    models.DEVICE = chosen.device
    print(f"{'case':<22} {'method':<22} {'rows/s':>12} {'x loop':>8} {'limit':>7} {'peer x':>8}")
    rows: list[Row] = []
    for name in chosen.case or list(models.CASES):
        case = models.CASES[name]()
        found = models.explainers(case)
        rows += measure(case, {m: e for m, e in found.items() if m in (chosen.method or found)}, chosen.repeats)
    if chosen.out is not None:
        chosen.out.write_text(json.dumps([vars(row) for row in rows], indent=1))
    above = [row for row in rows if not row.within]
    print(
        f"{len(rows) - len(above)} of {len(rows)} within the limit; numpy {np.__version__}, Python {sys.version.split()[0]}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
