"""Inputs are one array, or a tuple, list or dict of arrays (nested at will); explanations come back alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from xai_core.frames import is_frame

__all__ = ["Structure", "flatten"]

_LEAF = object()


@dataclass(frozen=True)
class Structure:
    """The shape of a nested input without its arrays.

    Attributes
    ----------
    names
        One path per array, in order: `()` for a bare array, `("image",)` for an item of a dict, `(0,)` of a tuple.
    columns
        For each array the names of its columns, `None` where it has none; empty if no array has any.
    """

    skeleton: Any
    names: tuple[tuple[Any, ...], ...]
    columns: tuple[tuple[Any, ...] | None, ...] = ()

    def __hash__(self) -> int:
        return hash(self.names)

    def rebuild(self, leaves: list[Any] | tuple[Any, ...]) -> Any:
        """Put `leaves` (one per name, in the same order) back into the structure."""
        return _build(self.skeleton, iter(leaves))

    def label(self, position: int) -> str:
        """How a user would write the leaf at `position`: `x`, `x['image']`, `x[0]`."""
        return "x" + "".join(f"[{key!r}]" for key in self.names[position])

    def columns_of(self, position: int) -> tuple[Any, ...] | None:
        """Names of the columns of the leaf at `position`, where it has them."""
        return self.columns[position] if self.columns else None


def flatten(x: Any, *, leaf: Callable[[Any], bool] | None = None) -> tuple[list[Any], Structure]:
    """Arrays of a nested structure in order, and the structure that puts them back.

    `leaf` says what else counts as one array though it is a tuple, list or dict. A DataFrame is one array, with the names
    of its columns.
    """
    leaves: list[Any] = []
    names: list[tuple[Any, ...]] = []
    skeleton = _walk(x, (), leaf, leaves, names)
    columns: tuple[tuple[Any, ...] | None, ...] = ()
    if any(map(is_frame, leaves)):
        columns = tuple(tuple(found.columns) if is_frame(found) else None for found in leaves)
    return leaves, Structure(skeleton, tuple(names), columns)


# Functions of the module: one that calls itself through a closure is a reference cycle, and would keep the arrays of
# every model call alive until the next garbage collection.


def _build(node: Any, remaining: Iterator[Any]) -> Any:
    if node is _LEAF:
        return next(remaining)
    if isinstance(node, dict):
        return {key: _build(item, remaining) for key, item in node.items()}
    return _like(node, [_build(item, remaining) for item in node])


def _walk(
    node: Any,
    path: tuple[Any, ...],
    leaf: Callable[[Any], bool] | None,
    leaves: list[Any],
    names: list[tuple[Any, ...]],
) -> Any:
    if leaf is None or not leaf(node):
        if isinstance(node, dict):
            return {key: _walk(item, (*path, key), leaf, leaves, names) for key, item in node.items()}
        if isinstance(node, (tuple, list)):
            return _like(node, [_walk(item, (*path, i), leaf, leaves, names) for i, item in enumerate(node)])
    leaves.append(node)
    names.append(path)
    return _LEAF


def _like(node: Any, items: list[Any]) -> Any:
    """`items` in the kind of sequence that `node` is."""
    if isinstance(node, list):
        return items
    return type(node)(*items) if hasattr(node, "_fields") else tuple(items)
