"""How samples and draws are cut into model calls.

Work is a rectangle, samples by draws (steps, noise draws, windows). It is cut into blocks of at most `rows` model rows:
all draws of several samples where they fit, else some draws of one sample. Where the framework compiles for each shape
all blocks have the same shape and the last is filled up with repeated rows of weight zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Block", "blocks", "spans", "stride"]


_EACH = 1 / 32


@dataclass(frozen=True)
class Block:
    """A part of one axis: `indices` repeats the last of its `size` own items to fill the block up."""

    start: int
    size: int
    width: int

    @property
    def indices(self) -> list[int]:
        last = self.start + self.size - 1
        return [*range(self.start, last + 1), *[last] * (self.width - self.size)]


def stride(total: int, limit: int, *, constant: bool) -> int:
    """Items per block, at most `limit`: evenly many, or where blocks must have one shape, those with least to fill up.

    There, a block more counts as much as a part `_EACH` of the limit to fill up.
    """
    limit = max(1, limit)
    if total <= limit:
        return max(1, total)
    if not constant:
        return -(-total // -(-total // limit))
    sizes = range(limit, (limit + 1) // 2 - 1, -1)
    return min((size for size in sizes if size > 0), key=lambda size: -(-total // size) * (size + limit * _EACH))


def spans(total: int, limit: int, *, constant: bool) -> Iterator[Block]:
    """Cut one axis into blocks."""
    width = stride(total, limit, constant=constant)
    for start in range(0, total, width):
        size = min(width, total - start)
        yield Block(start, size, width if constant else size)


def blocks(samples: int, draws: int, rows: int, *, constant: bool) -> Iterator[tuple[Block, list[Block]]]:
    """Cut a rectangle: for each block of samples, its blocks of draws."""
    for block in spans(samples, max(1, rows // max(1, draws)), constant=constant):
        yield block, list(spans(draws, max(1, rows // block.width), constant=constant))
