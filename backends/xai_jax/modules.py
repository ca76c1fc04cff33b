"""Paths of the modules of JAX libraries, and copies of modules that mark what they take and return."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax

from xai_core.backend import Around
from xai_core.errors import LayerError, describe

__all__ = [
    "PATH",
    "dotted",
    "first_arrays",
    "locate_equinox",
    "locate_linen",
    "mark_equinox",
    "marked_function",
    "marked_kind",
]

PATH = "_xai_path"


def dotted(path: tuple[Any, ...]) -> str:
    """`("blocks", 2, "conv")` -> `blocks[2].conv`."""
    return "".join(f"[{key!r}]" if not isinstance(key, str) else f".{key}" for key in path).removeprefix(".")


def marked_kind(kind: type, around: Around) -> type:
    """A subclass that marks what an object with a path takes and returns."""

    def __call__(self: Any, *positional: Any, **keywords: Any) -> Any:
        def compute(given: Any) -> Any:
            return kind.__call__(self, *given[0], **given[1])

        path = vars(self).get(PATH)
        given = (positional, keywords)
        return compute(given) if path is None else around(path, kind.__name__, compute, given)

    __call__.__signature__ = inspect.signature(kind.__call__)  # type: ignore[attr-defined]
    return type(kind)(kind.__name__, (kind,), {"__call__": __call__, "__module__": kind.__module__})


def marked_function(function: Callable[..., Any], path: str, around: Around) -> Callable[..., Any]:
    name = getattr(function, "__name__", type(function).__name__)

    def call(*positional: Any, **keywords: Any) -> Any:
        return around(path, name, lambda given: function(*given[0], **given[1]), (positional, keywords))

    with contextlib.suppress(TypeError, ValueError):
        call.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return call


def mark_equinox(node: Any, path: tuple[Any, ...], around: Around) -> Any:
    """A copy of an Equinox module whose parts mark what they take and return."""
    import equinox

    if isinstance(node, (list, tuple)):
        items = [mark_equinox(item, (*path, place), around) for place, item in enumerate(node)]
        return items if isinstance(node, list) else type(node)(*items) if hasattr(node, "_fields") else tuple(items)
    if isinstance(node, dict):
        return {key: mark_equinox(item, (*path, key), around) for key, item in node.items()}
    if not isinstance(node, equinox.Module):
        return node
    copy = object.__new__(type(node))
    for name, value in vars(node).items():
        object.__setattr__(copy, name, mark_equinox(value, (*path, name), around))
    if path and callable(node):
        object.__setattr__(copy, PATH, dotted(path))
        object.__setattr__(copy, "__class__", marked_kind(type(node), around))
    return copy


def locate_equinox(model: Any, layer: Any) -> str | None:
    """Path of a module inside an Equinox module.

    Raises
    ------
    LayerError
        If it is held in several places.
    """
    parts = jax.tree_util.tree_flatten_with_path(model, is_leaf=lambda node: node is layer)[0]
    found = [
        # By position, by key or by attribute.
        dotted(tuple(next(getattr(key, kind) for kind in ("idx", "key", "name") if hasattr(key, kind)) for key in path))
        for path, part in parts
        if part is layer
    ]
    if len(found) > 1:
        raise LayerError(
            "This object is several layers of the model, each with calls of its own.",
            received=describe(layer),
            fix=f"say which: {', '.join(map(repr, found[:4]))}.",
        )
    return found[0] if found else None


def locate_linen(model: Any, layer: Any) -> str | None:
    """Path of a bound submodule, or of a module that is a field of the model, or of one of its fields."""
    if getattr(layer, "scope", None) is None:
        return next((path for path, part in _linen_fields(model, "") if part is layer), None)
    root = layer
    while hasattr(root.parent, "scope"):
        root = root.parent
    return "/".join(layer.path) if type(root) is type(model) else None


def _linen_fields(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Modules that are given to modules as fields, with the paths that Flax makes of them."""
    if isinstance(node, (list, tuple, dict)):
        for key, item in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _linen_fields(item, f"{path}_{key}")
    elif hasattr(node, "parent") and hasattr(node, "scope"):
        yield path, node
        for field in dataclasses.fields(node):
            if field.name not in ("parent", "name"):
                yield from _linen_fields(getattr(node, field.name), f"{path}/{field.name}".removeprefix("/"))


def first_arrays(model: Any) -> Any:
    """The arrays of a parameter of an NNX module, found without flattening it, which takes long for a large one.

    Where there is no parameter, those of all variables.
    """
    from flax import nnx

    seen: set[int] = set()
    left = [model]
    while left:
        part = left.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, nnx.Param):
            arrays = jax.tree.leaves(part)
            if arrays:
                return arrays
        elif isinstance(part, dict):
            left += part.values()
        elif isinstance(part, list | tuple):
            left += part
        elif isinstance(part, nnx.Module):
            left += vars(part).values()
    return nnx.state(model)
