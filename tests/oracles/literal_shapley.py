"""Shapley and Owen values as their definitions say: over all coalitions and all orders, in float64, one at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np

Worth = Callable[[frozenset], float]


def shapley(worth: Worth, players: int) -> np.ndarray:
    """Sum over coalitions without the player of its weight times what the player adds."""
    out = np.zeros(players)
    for player in range(players):
        others = [other for other in range(players) if other != player]
        for size in range(players):
            weight = math.factorial(size) * math.factorial(players - 1 - size) / math.factorial(players)
            for chosen in itertools.combinations(others, size):
                without = frozenset(chosen)
                out[player] += weight * (worth(without | {player}) - worth(without))
    return out


def orders(tree) -> list[list[int]]:
    """All orders in which the parts of a hierarchy stand together."""
    if not isinstance(tree, tuple):
        return [[tree]]
    return [
        [leaf for part in chosen for leaf in part]
        for places in itertools.permutations(tree)
        for chosen in itertools.product(*map(orders, places))
    ]


def owen(worth: Worth, tree, players: int) -> np.ndarray:
    """Mean over all orders that a hierarchy allows of what a player adds to those before it."""
    out, allowed = np.zeros(players), orders(tree)
    for order in allowed:
        before: frozenset = frozenset()
        for player in order:
            out[player] += worth(before | {player}) - worth(before)
            before = before | {player}
    return out / len(allowed)


def game(net, sample: np.ndarray, target: int, fillings: np.ndarray, labels: np.ndarray) -> Worth:
    """Mean score with the elements of features outside a coalition taken from each of some rows."""

    def worth(coalition: frozenset) -> float:
        present = np.isin(labels, list(coalition)) | (labels < 0)
        rows = np.where(present[None], sample[None].astype(float), fillings.astype(float))
        return float(np.mean(np.asarray(net(rows), dtype=float)[:, target]))

    return worth


def explained(solve, net, x: np.ndarray, target, fillings=0.0, labels=None) -> np.ndarray:
    """A solution for each sample, each value divided among the elements of its feature."""
    labels = np.arange(x[0].size).reshape(x[0].shape) if labels is None else np.broadcast_to(labels, x[0].shape)
    rows = np.broadcast_to(np.asarray(fillings, dtype=float), x[:1].shape) if np.ndim(fillings) == 0 else fillings
    out = np.zeros(x.shape)
    players = int(labels.max()) + 1
    for i, sample in enumerate(x):
        values = solve(game(net, sample, int(np.broadcast_to(target, len(x))[i]), rows, labels), players)
        for player in range(players):
            inside = labels == player
            out[i][inside] = values[player] / inside.sum()
    return out
