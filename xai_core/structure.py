"""Inputs are one array, or a tuple, list or dict of arrays (nested at will); explanations come back alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Structure", "flatten"]

_LEAF = object()


@dataclass(frozen=True)
class Structure:
    """The shape of a nested input without its arrays.

    Attributes
    ----------
    names
        One path per array, in order: `()` for a bare array, `("image",)` for an item of a dict, `(0,)` of a tuple.
    """

    skeleton: Any
    names: tuple[tuple[Any, ...], ...]

    def __hash__(self) -> int:
        return hash(self.names)

    def rebuild(self, leaves: list[Any] | tuple[Any, ...]) -> Any:
        """Put `leaves` (one per name, in the same order) back into the structure."""
        remaining = iter(leaves)

        def build(node: Any) -> Any:
            if node is _LEAF:
                return next(remaining)
            if isinstance(node, dict):
                return {key: build(item) for key, item in node.items()}
            items = [build(item) for item in node]
            if isinstance(node, list):
                return items
            return type(node)(*items) if hasattr(node, "_fields") else tuple(items)

        return build(self.skeleton)

    def label(self, position: int) -> str:
        """How a user would write the leaf at `position`: `x`, `x['image']`, `x[0]`."""
        return "x" + "".join(f"[{key!r}]" for key in self.names[position])


def flatten(x: Any, *, leaf: Callable[[Any], bool] | None = None) -> tuple[list[Any], Structure]:
    """Arrays of a nested structure in order, and the structure that puts them back.

    `leaf` says what else counts as one array though it is a tuple, list or dict.
    """
    leaves: list[Any] = []
    names: list[tuple[Any, ...]] = []

    def walk(node: Any, path: tuple[Any, ...]) -> Any:
        if leaf is None or not leaf(node):
            if isinstance(node, dict):
                return {key: walk(item, (*path, key)) for key, item in node.items()}
            if isinstance(node, (tuple, list)):
                items = [walk(item, (*path, index)) for index, item in enumerate(node)]
                if isinstance(node, list):
                    return items
                return type(node)(*items) if hasattr(node, "_fields") else tuple(items)
        leaves.append(node)
        names.append(path)
        return _LEAF

    skeleton = walk(x, ())
    return leaves, Structure(skeleton, tuple(names))
