"""Random numbers that belong to a sample and a draw, not to a batch.

Every number is a pure function of `(seed, sample, draw, input)`: Philox generators keyed by `numpy.random.SeedSequence`
(Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). Draws of small inputs come in groups from one
generator, because making a generator costs more than their noise; a draw in the middle of a group is reached by drawing
the ones before it if they are normal, and without if they are uniform. Batch size, chunking, framework, device and
worker do not enter, and no global random state is read or written. Numbers are drawn on the host in float32 for all
models, so that a float32 and a float64 model see the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xai_core.cores import CORES, on_all_cores
from xai_core.errors import OptionError, describe

__all__ = ["Streams", "check_seed"]

GROUP = 64
"""Most draws from one generator."""
_UNIFORM_GROUP = 1024
_NUMBERS_PER_GROUP = 2**16
_MANY, _MANY_AT_ONCE = 2**10, 2**17
"""Numbers of one draw and of one call from which on several threads draw."""
_FLOATS_PER_STEP = 8
"""Single-precision numbers that one step of a Philox generator gives: four words of 64 bits, two numbers each."""

_Host = np.ndarray[Any, Any]


def check_seed(seed: Any) -> int:
    """A seed as a Python integer.

    Raises
    ------
    OptionError
        If it is not a non-negative integer.
    """
    if isinstance(seed, (bool, np.bool_)) or not isinstance(seed, (int, np.integer)) or int(seed) < 0:
        raise OptionError("`seed` must be a non-negative integer.", received=describe(seed), fix="seed=0")
    return int(seed)


@dataclass(frozen=True)
class Streams:
    """One stream per sample.

    Attributes
    ----------
    seed
        The user's seed.
    keys
        One path of integers per row: the sample's index, then the draws of enclosing methods.
    """

    seed: int
    keys: Sequence[tuple[int, ...]]
    _open: dict[Any, tuple[int, Any]] = field(default_factory=dict, compare=False, repr=False)
    """Generators in the middle of a group, so that blocks of draws in order draw nothing twice."""

    @classmethod
    def of(cls, seed: int, index: Sequence[int]) -> Streams:
        return cls(seed, tuple((int(i),) for i in index))

    def generator(self, row: int, draw: int, part: int = 0) -> np.random.Generator:
        """A fresh generator for one draw (or group of draws) of one row; `part` tells several inputs or uses apart."""
        key = (*self.keys[row], draw, part)
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(self.seed, spawn_key=key)))

    def normal(self, rows: Sequence[int], draws: Sequence[int], shape: tuple[int, ...], part: int = 0) -> _Host:
        """Standard normal numbers: (rows, draws, *shape), in single precision, which takes half the time to draw."""
        out = np.empty((len(rows), len(draws), *shape), dtype=np.float32)
        numbers = max(1, math.prod(shape))
        size = max(1, min(GROUP, _NUMBERS_PER_GROUP // numbers))
        if size == 1:
            return self._large(out, rows, draws, part)
        runs = _runs(draws, size)

        def fill(places: Sequence[int]) -> None:
            for i in places:
                for first, last, j in runs:
                    if first > last:  # a repeated draw, which only fills a block up
                        out[i, j] = out[i, j - 1]
                        continue
                    group, place = divmod(first, size)
                    key = (self.keys[rows[i]], group, part, shape)
                    position, generator = self._open.pop(key, (0, None))
                    if generator is None or position > place:
                        position, generator = 0, self.generator(rows[i], group, part)
                    for _ in range(place - position):
                        generator.standard_normal(shape, dtype=np.float32)
                    generator.standard_normal(dtype=np.float32, out=out[i, j : j + last - first + 1])
                    if (last + 1) % size:
                        self._open[key] = (last % size + 1, generator)

        # NumPy draws without holding the lock; threads cost as much as some ten thousand numbers.
        shares = CORES if numbers >= _MANY and out.size >= _MANY_AT_ONCE else 1
        on_all_cores(fill, [range(share, len(rows), shares) for share in range(shares)])
        return out

    def _large(self, out: _Host, rows: Sequence[int], draws: Sequence[int], part: int) -> _Host:
        """Every draw from a generator of its own, side by side on all cores: NumPy draws without holding the lock."""

        def fill(place: tuple[int, int]) -> None:
            i, j = place
            self.generator(rows[i], draws[j], part).standard_normal(dtype=np.float32, out=out[i, j])

        repeated = [j for j in range(1, len(draws)) if draws[j] == draws[j - 1]]
        places = [(i, j) for i in range(len(rows)) for j in range(len(draws)) if j not in repeated]
        on_all_cores(fill, places)
        for j in repeated:
            out[:, j] = out[:, j - 1]
        return out

    def uniform(self, rows: Sequence[int], draws: Sequence[int], count: int, use: int = 0) -> _Host:
        """Uniform numbers from 0 to 1, (rows, draws, count), in single precision."""
        size = max(1, min(_UNIFORM_GROUP, _NUMBERS_PER_GROUP // max(1, count)))
        out = np.empty((len(rows), len(draws), count), dtype=np.float32)
        runs = _runs(draws, size)
        for i, row in enumerate(rows):
            for first, last, j in runs:
                if first > last:
                    out[i, j] = out[i, j - 1]
                    continue
                group, place = divmod(first, size)
                generator = self.generator(row, group, use)
                skipped, rest = divmod(place * count, _FLOATS_PER_STEP)
                generator.bit_generator.advance(skipped)  # type: ignore[attr-defined]
                generator.random(rest, dtype=np.float32)
                generator.random(dtype=np.float32, out=out[i, j : j + last - first + 1])
        return out

    def children(self, rows: Sequence[int], draws: Sequence[int]) -> Streams:
        """Streams of the row-major pairs (row, draw), for a method inside a method."""
        return Streams(self.seed, _Pairs(self.keys, tuple(rows), tuple(draws)))

    def take(self, rows: Sequence[int]) -> Streams:
        """The streams of some rows."""
        return Streams(self.seed, tuple(self.keys[row] for row in rows))


@dataclass(frozen=True)
class _Pairs(Sequence[tuple[int, ...]]):
    """Keys of (row, draw), each made when it is asked for: there may be hundreds of thousands of which none is."""

    keys: Sequence[tuple[int, ...]]
    rows: tuple[int, ...]
    draws: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows) * len(self.draws)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(len(self))[place]]
        row, draw = divmod(range(len(self))[place], len(self.draws))
        return (*self.keys[self.rows[row]], self.draws[draw])


def _runs(draws: Sequence[int], size: int) -> list[tuple[int, int, int]]:
    """Consecutive draws inside one group as (first, last, position); a repeated draw as an empty run."""
    wanted = np.asarray(draws, dtype=np.int64)
    step = np.diff(wanted, prepend=wanted[:1] - 2)
    starts = np.flatnonzero((step != 1) | (wanted % size == 0))
    ends = np.append(starts[1:], len(wanted))
    runs = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        first = int(wanted[start])
        length = 0 if step[start] == 0 and end == start + 1 else end - start
        runs.append((first, first + length - 1, start))
    return runs
