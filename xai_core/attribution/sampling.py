"""What the sampling methods share: how many rows, and when they are enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from xai_core.attribution.base import positive_int
from xai_core.errors import OptionError, describe
from xai_core.problem import Problem

__all__ = ["Estimate", "Step", "check_sampling", "sample"]

_ROUNDS = 16
"""How many times `samples` a tolerance may lead to, where `max_rows` is not given."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """Values and their standard errors, (batch, features, outputs), and which samples met the tolerance."""

    values: Any
    error: Any
    converged: Any = None

    @property
    def details(self) -> dict[str, Any]:
        return {} if self.converged is None else {"converged": self.converged}


Step = Callable[[int, list[int], Any], tuple[Any, Any]]
"""`step(budget, samples, kept)`: values and errors of some samples with that many model rows each, used before or not;
`kept` says which of the samples of the step before are still there, `None` for all."""


def check_sampling(samples: Any, tolerance: Any, max_rows: Any) -> None:
    """Check the options of a sampling method."""
    positive_int("samples", samples)
    if max_rows is not None:
        positive_int("max_rows", max_rows)
    if tolerance is not None and not (isinstance(tolerance, (int, float)) and tolerance > 0):
        raise OptionError("`tolerance` must be positive.", received=describe(tolerance), fix="tolerance=0.01")


def sample(problem: Problem, step: Step, samples: int, tolerance: float | None, max_rows: int | None) -> Estimate:
    """One step with `samples` rows, or as many steps of twice the rows as it takes until no error exceeds the tolerance."""
    most = samples if tolerance is None else samples * _ROUNDS if max_rows is None else max_rows
    budget, active, kept = (
        min(samples, most) if max_rows is None else min(samples, max_rows),
        list(range(problem.batch)),
        None,
    )
    done: list[tuple[list[int], Any, Any]] = []
    converged = np.zeros(problem.batch, dtype=bool)
    while True:
        values, error = step(budget, active, kept)
        if tolerance is None:
            return Estimate(values, error)
        largest = problem.to_host(problem.xp.max(error, axis=(1, 2)))
        # NaN, where nothing is known of the error, is not enough.
        enough = largest <= tolerance
        converged[np.asarray(active)[enough]] = True
        if enough.all() or 2 * budget > most:
            done.append((active, values, error))
            return _assembled(problem, done, converged)
        stay, leave = np.flatnonzero(~enough), np.flatnonzero(enough)
        if len(leave):
            done.append(([active[i] for i in leave], *_rows(problem, (values, error), leave)))
        kept = stay if len(leave) else None
        active = [active[i] for i in stay]
        budget *= 2


def _rows(problem: Problem, arrays: tuple[Any, ...], rows: np.ndarray[Any, Any]) -> list[Any]:
    place = problem.to_device(rows.astype(np.int64))
    return [problem.xp.take(array, place, axis=0) for array in arrays]


def _assembled(problem: Problem, done: list[tuple[list[int], Any, Any]], converged: np.ndarray[Any, Any]) -> Estimate:
    met = problem.to_device(converged)
    if len(done) == 1:
        return Estimate(done[0][1], done[0][2], met)
    xp = problem.xp
    order = np.argsort(np.concatenate([rows for rows, _, _ in done]))
    joined = tuple(xp.concat([part[place] for part in done], axis=0) for place in (1, 2))
    values, error = _rows(problem, joined, order)
    return Estimate(values, error, met)
