"""Random numbers that belong to a sample and a draw, not to a batch.

Every number is a pure function of `(seed, sample, draw, input)`: Philox generators (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3"). Uniform and normal numbers are keyed by what they are for, and the counter says the sample
and how far it has come, so that any draw is reached without those before it; other uses have a generator each. Batch size,
chunking, framework, device and worker do not enter, and no global random state is read or written. Numbers are drawn on the
host in float32 for all models, so that a float32 and a float64 model see the same noise. Normal numbers come in pairs from
uniform ones (Box and Muller 1958), for which NumPy has vector instructions; other processors may round the last bit
otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from xai_core.cores import CORES, on_all_cores
from xai_core.errors import OptionError, describe

__all__ = ["Streams", "check_seed"]

_STRIPE = 2**15
"""Numbers that are drawn at once: they stay in the cache until they are done."""
_MANY_AT_ONCE, _MANY_IN_A_ROW = 2**17, 2**12
"""Numbers of all rows, and of one, from which on several threads draw them; else they wait for each other."""
_FLOATS_PER_STEP = 8
"""Single-precision numbers that one step of a Philox generator gives: four words of 64 bits, two numbers each."""
_UNIFORM, _NORMAL = 1, 2
"""Uses of a counter that have no number in common."""

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
    _known: dict[tuple[int, ...], _Host] = field(default_factory=dict, compare=False, repr=False)
    """Keys of Philox generators by the path to a row, without its last step, and the part."""

    @classmethod
    def of(cls, seed: int, index: Sequence[int]) -> Streams:
        return cls(seed, tuple((int(i),) for i in index))

    def generator(self, row: int, draw: int, part: int = 0) -> np.random.Generator:
        """A fresh generator for one draw (or group of draws) of one row; `part` tells several inputs or uses apart."""
        key = (*self.keys[row], draw, part)
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(self.seed, spawn_key=key)))

    def _key(self, row: int, part: int) -> _Host:
        path = (*self.keys[row][:-1], part)
        key = self._known.get(path)
        if key is None:
            key = np.random.SeedSequence(self.seed, spawn_key=path).generate_state(2, np.uint64)
            self._known[path] = key
        return key

    def normal(self, rows: Sequence[int], draws: Sequence[int], shape: tuple[int, ...], part: int = 0) -> _Host:
        """Standard normal numbers: (rows, draws, *shape), in single precision."""
        return self._numbers(rows, draws, shape, part, _NORMAL)

    def uniform(self, rows: Sequence[int], draws: Sequence[int], count: int, part: int = 0) -> _Host:
        """Uniform numbers from 0 to 1, (rows, draws, count), in single precision."""
        return self._numbers(rows, draws, (count,), part, _UNIFORM)

    def _numbers(self, rows: Sequence[int], draws: Sequence[int], shape: tuple[int, ...], part: int, use: int) -> _Host:
        wanted, place = np.unique(np.asarray(draws, dtype=np.int64), return_inverse=True)
        if len(wanted) < len(draws):  # repeated draws only fill a block up
            return self._numbers(rows, wanted.tolist(), shape, part, use)[:, place]
        count = math.prod(shape)
        out = np.empty((len(rows) * len(draws), count), dtype=np.float32)
        stripes = list(_stripes(rows, draws, count))

        def draw(some: Sequence[list[_Piece]]) -> None:
            generator = np.random.Generator(np.random.Philox(key=0))
            for pieces in some:
                stripe = out[pieces[0].place : pieces[-1].place + pieces[-1].draws]
                pairs = -(-count // 2)
                uniform = stripe if use == _UNIFORM else np.empty((len(stripe), 2 * pairs), dtype=np.float32)
                done = 0
                for piece in pieces:
                    self._uniform(generator, piece, uniform[done : done + piece.draws], part, use)
                    done += piece.draws
                if use == _NORMAL:
                    _box_muller(uniform, stripe)

        # NumPy draws and computes without holding the lock.
        many = out.size >= _MANY_AT_ONCE and count * len(draws) >= _MANY_IN_A_ROW
        shares = CORES if many else 1
        on_all_cores(draw, [stripes[share::shares] for share in range(min(shares, len(stripes)))])
        return out.reshape(len(rows), len(draws), *shape)

    def _uniform(self, generator: np.random.Generator, piece: _Piece, out: _Host, part: int, use: int) -> None:
        """Fill (draws, numbers) from where the stream of this row and part has its first draw."""
        steps, rest = divmod(piece.first * out.shape[1], _FLOATS_PER_STEP)
        counter = np.array([steps, self.keys[piece.row][-1], 0, use], dtype=np.uint64)
        generator.bit_generator.state = {
            "bit_generator": "Philox",
            "state": {"counter": counter, "key": self._key(piece.row, part)},
            "buffer": _EMPTY,
            "buffer_pos": len(_EMPTY),
            "has_uint32": 0,
            "uinteger": 0,
        }
        if rest:
            generator.random(rest, dtype=np.float32)
        generator.random(dtype=np.float32, out=out)

    def children(self, rows: Sequence[int], draws: Sequence[int]) -> Streams:
        """Streams of the row-major pairs (row, draw), for a method inside a method."""
        return Streams(self.seed, _Pairs(self.keys, tuple(rows), tuple(draws)), self._known)

    def take(self, rows: Sequence[int]) -> Streams:
        """The streams of some rows."""
        return Streams(self.seed, tuple(self.keys[row] for row in rows), self._known)


@dataclass(frozen=True)
class _Pairs(Sequence[tuple[int, ...]]):
    """Keys of (row, draw), each made when it is asked for: there may be hundreds of thousands of which none is."""

    keys: Sequence[tuple[int, ...]]
    rows: tuple[int, ...]
    draws: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows) * len(self.draws)

    def __getitem__(self, place: Any) -> Any:
        row, draw = divmod(range(len(self))[place], len(self.draws))
        return (*self.keys[self.rows[row]], self.draws[draw])


_EMPTY = np.zeros(4, dtype=np.uint64)
"""The buffer of a Philox generator, of which nothing is left."""


class _Piece(NamedTuple):
    """Consecutive draws of one row: the first of them, how many, and where they go, counted in draws of all rows."""

    row: int
    first: int
    draws: int
    place: int


def _stripes(rows: Sequence[int], draws: Sequence[int], count: int) -> Iterator[list[_Piece]]:
    """All draws of all rows in their order, some pieces at a time."""
    most = max(1, _STRIPE // max(1, count))
    ends = [*(np.flatnonzero(np.diff(draws) != 1) + 1).tolist(), len(draws)]
    runs = list(zip([0, *ends], ends, strict=False))
    pieces: list[_Piece] = []
    held = 0
    for number, row in enumerate(rows):
        for begin, end in runs:
            for start in range(begin, end, most):
                size = min(most, end - start)
                pieces.append(_Piece(row, draws[start], size, number * len(draws) + start))
                held += size
                if held >= most:
                    yield pieces
                    pieces, held = [], 0
    if pieces:
        yield pieces


def _box_muller(uniform: _Host, out: _Host) -> None:
    """Normal numbers (draws, count) from uniform ones, (draws, count) or one more where count is odd."""
    half = uniform.shape[1] // 2
    # New arrays without gaps: what is computed of a number must not depend on where it lies.
    radius, angle = 1.0 - uniform[:, :half], uniform[:, half:] * np.float32(2.0 * math.pi)
    np.log(radius, out=radius)
    np.multiply(radius, np.float32(-2.0), out=radius)
    np.sqrt(radius, out=radius)
    np.multiply(radius, np.cos(angle), out=out[:, :half])
    rest = out.shape[1] - half
    np.multiply(radius[:, :rest], np.sin(angle)[:, :rest], out=out[:, half:])
