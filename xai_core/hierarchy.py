"""Hierarchies of features: which of them form a coalition before they join with others. On the host."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from xai_core.coalitions import generator
from xai_core.errors import OptionError, describe

__all__ = ["Tree", "halved", "leaves_of", "nested_orders", "owen_contexts", "owen_rows", "tree_of"]

Tree = int | tuple[Any, ...]
"""A feature, or the hierarchies that join."""

_Host = np.ndarray[Any, Any]


def halved(start: int, stop: int) -> Tree:
    """Features in a row, halved again and again."""
    if stop - start == 1:
        return start
    middle = (start + stop + 1) // 2
    return (halved(start, middle), halved(middle, stop))


def leaves_of(tree: Tree) -> Iterator[int]:
    """The features of a hierarchy, from left to right."""
    if isinstance(tree, tuple):
        for part in tree:
            yield from leaves_of(part)
    else:
        yield tree


def tree_of(given: Any, names: Sequence[str]) -> Tree:
    """A hierarchy as a user gives it: nested sequences of features by number or name, or a linkage matrix of SciPy.

    Raises
    ------
    OptionError
        If it does not hold every feature once.
    """
    count = len(names)
    if isinstance(given, np.ndarray) and given.ndim == 2 and given.shape[1] == 4:
        parts: list[Tree] = list(range(count))
        for a, b in given[:, :2].astype(int):
            if max(a, b) >= len(parts):
                break
            parts.append((parts[a], parts[b]))
        tree: Tree = parts[-1]
    else:
        tree = _walk(given, list(names))
    found = sorted(leaves_of(tree))
    if found != list(range(count)):
        raise OptionError(
            f"`hierarchy` must hold each of the {count} features once.",
            received=f"features {found[:12]}{' ...' if len(found) > 12 else ''}",
            fix="nest numbers or names, ((0, 1), (2, (3, 4))), or give a linkage matrix (features - 1, 4) of SciPy.",
        )
    return tree


def _walk(given: Any, names: list[str]) -> Tree:
    if isinstance(given, str) and given in names:
        return names.index(given)
    if isinstance(given, (int, np.integer)) and not isinstance(given, bool):
        return int(given)
    if isinstance(given, (tuple, list)) and given:
        parts = tuple(_walk(item, names) for item in given)
        return parts[0] if len(parts) == 1 else parts
    raise OptionError(
        "`hierarchy` is made of nested sequences of features.", received=describe(given), fix="((0, 1), (2, (3, 4)))"
    )


def owen_rows(tree: Tree, contexts: int = 1) -> int:
    """Coalitions that exact Owen values need, but those of none and of all."""
    if not isinstance(tree, tuple):
        return 0
    children = len(tree)
    inside = contexts << (children - 1)
    return ((1 << children) - 2) * contexts + sum(owen_rows(part, inside) for part in tree)


def owen_contexts(tree: Tree, count: int) -> tuple[_Host, _Host]:
    """Exact Owen values as sums over coalitions: members (coalitions, features), and weights (features, coalitions)."""
    members: list[_Host] = []
    owners: list[_Host] = []
    weights: list[_Host] = []

    def visit(node: Tree, context: _Host, weight: _Host) -> None:
        if not isinstance(node, tuple):
            joined = context.copy()
            joined[:, node] = True
            members.extend((context, joined))
            owners.append(np.full(2 * len(weight), node))
            weights.append(np.concatenate([-weight, weight]))
            return
        inside = [list(leaves_of(part)) for part in node]
        children = len(node)
        for place, part in enumerate(node):
            others = [inside[i] for i in range(children) if i != place]
            contexts, shares = [], []
            for size in range(children):
                share = 1.0 / (children * math.comb(children - 1, size))
                for chosen in itertools.combinations(others, size):
                    wider = context.copy()
                    wider[:, [leaf for leaves in chosen for leaf in leaves]] = True
                    contexts.append(wider)
                    shares.append(weight * share)
            visit(part, np.concatenate(contexts), np.concatenate(shares))

    visit(tree, np.zeros((1, count), dtype=bool), np.ones(1))
    rows, where = np.unique(np.packbits(np.concatenate(members), axis=1), axis=0, return_inverse=True)
    table = np.zeros((count, len(rows)))
    np.add.at(table, (np.concatenate(owners), where.reshape(-1)), np.concatenate(weights))
    return np.unpackbits(rows, axis=1, count=count).astype(bool), table


def nested_orders(tree: Tree, count: int, seed: int) -> _Host:
    """Random orders in which the features of every part of a hierarchy stand together, (count, features)."""
    nodes = _size(tree)
    keys = generator(seed, nodes, 2_000_000).random((count, nodes))
    return np.array([_ordered(tree, iter(row)) for row in keys], dtype=np.int64)


def _size(tree: Tree) -> int:
    return 1 + sum(map(_size, tree)) if isinstance(tree, tuple) else 1


def _ordered(tree: Tree, keys: Iterator[float]) -> list[int]:
    if not isinstance(tree, tuple):
        return [tree]
    parts = [(next(keys), _ordered(part, keys)) for part in tree]
    return [leaf for _, leaves in sorted(parts, key=lambda part: part[0]) for leaf in leaves]


def by_place(centres: _Host) -> _Host:
    """Order of features (features, axes) in which halving keeps neighbours together: a k-d tree, from left to right."""

    def visit(chosen: _Host) -> list[int]:
        if len(chosen) == 1:
            return [int(chosen[0])]
        spots = centres[chosen]
        axis = int(np.argmax(np.ptp(spots, axis=0)))
        order = chosen[np.argsort(spots[:, axis], kind="stable")]
        middle = (len(chosen) + 1) // 2
        return visit(order[:middle]) + visit(order[middle:])

    return np.array(visit(np.arange(len(centres))), dtype=np.int64)
