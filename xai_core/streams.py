"""Random numbers that belong to a sample and a draw, not to a batch.

Every number is a pure function of `(seed, sample, draw, input)`: Philox generators keyed by `numpy.random.SeedSequence`
(Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). Draws come in groups of `GROUP` from one generator,
because making a generator costs more than the noise of a small input; a draw in the middle of a group is reached by
drawing the ones before it. Batch size, chunking, framework, device and worker do not enter, and no global random state is
read or written. Numbers are drawn on the host in float64, so that a float32 and a float64 model see the same noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xai_core.errors import OptionError, describe

__all__ = ["Streams", "check_seed"]

GROUP = 64

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
    keys: tuple[tuple[int, ...], ...]
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
        """Standard normal numbers: (rows, draws, *shape)."""
        out = np.empty((len(rows), len(draws), *shape))
        for i, row in enumerate(rows):
            for j, draw in enumerate(draws):
                group, place = divmod(draw, GROUP)
                key = (self.keys[row], group, part, shape)
                position, generator = self._open.get(key, (0, None))
                if generator is None or position > place:
                    position, generator = 0, self.generator(row, group, part)
                while position < place:
                    generator.standard_normal(shape)
                    position += 1
                generator.standard_normal(shape, out=out[i, j])
                self._open[key] = (position + 1, generator)
                if position + 1 == GROUP:
                    del self._open[key]
        return out

    def children(self, rows: Sequence[int], draws: Sequence[int]) -> Streams:
        """Streams of the row-major pairs (row, draw), for a method inside a method."""
        return Streams(self.seed, tuple((*self.keys[row], draw) for row in rows for draw in draws))

    def take(self, rows: Sequence[int]) -> Streams:
        """The streams of some rows."""
        return Streams(self.seed, tuple(self.keys[row] for row in rows))
