"""Which coalitions the sampling Shapley methods evaluate, and what is known of the estimate before any is: on the host.

Everything here depends on the number of players, the budget and the seed alone.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["MORE_ORDERS", "Regression", "Walks", "orders", "regression", "subsets", "walks", "weights_of_sizes"]

_Host = np.ndarray[Any, Any]

DESIGN = 2_000_000
"""Spawn keys of designs start here, apart from those of samples."""
_LEVERAGE = 0.25
_ORTHOGONAL = 2048
_REPEATING = 512
"""Players among more of which two random coalitions are hardly ever the same."""
MORE_ORDERS = 8
"""How many times as many orders are tried as would fit if no coalition came up twice."""
_ROUND = 2**20
"""Elements that are drawn at once, and of designs that are kept."""


def generator(seed: int, *key: int) -> np.random.Generator:
    """A stream that belongs to no sample."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(DESIGN, *key))))


def subsets(players: int, numbers: Any) -> _Host:
    """Members (numbers, players) of coalitions by number: bit `i` says whether player `i` is in."""
    return ((np.asarray(numbers, dtype=np.int64)[:, None] >> np.arange(players)) & 1).astype(bool)


def weights_of_sizes(players: int) -> _Host:
    """Shapley weight of a coalition of each size without a player, (players,): `s! (p - 1 - s)! / p!`."""
    return np.array([1.0 / (players * math.comb(players - 1, size)) for size in range(players)])


@dataclass(frozen=True, eq=False)
class Regression:
    """A design of paired coalitions, and the least-squares estimate as a matrix.

    Attributes
    ----------
    masks
        One of each pair, (pairs, players); the other holds all other players.
    estimate
        (players, pairs): values beyond an equal share, from half the difference of a pair's worths beyond its share.
    spread
        (players, pairs): squared standard errors from squared residuals, NaN where pairs are too few to tell.
    """

    masks: _Host
    estimate: _Host
    spread: _Host

    @property
    def centred(self) -> _Host:
        """Masks minus their own mean, (pairs, players)."""
        return self.masks - self.masks.mean(axis=1, keepdims=True)


def regression(players: int, pairs: int, seed: int) -> Regression:
    """Pairs of coalitions for KernelSHAP, `pairs` or a few less, and the constrained weighted least-squares estimate.

    Coalitions are drawn size by size, without any twice, from random orders that are cut into disjoint coalitions. How
    many of a size lies between their leverage, which is the same for all sizes, and their weight; a size that gets all
    its coalitions is complete. The first pairs of a size are the same whatever the budget.

    Source: Lundberg and Lee 2017, arXiv:1705.07874, theorem 2; pairs: Covert and Lee 2021, arXiv:2012.01536, section 4;
    leverage, without replacement: Musco and Witter 2024, arXiv:2410.01917. Standard errors: the sandwich of survey
    sampling with residuals divided by one minus their leverage (HC3), MacKinnon and White 1985.
    """
    return (_kept if players * pairs <= _ROUND else _regression)(players, pairs, seed)


def _regression(players: int, pairs: int, seed: int) -> Regression:
    taken, expected, available = _allocate(players, pairs, seed)
    masks, weights, left = [], [], []
    for size, count in taken.items():
        if not count:
            continue
        drawn = _of_size(players, size, count, seed, count >= available[size])
        masks.append(drawn)
        half = 2 * size == players
        # (p - 1) / (C s (p - s)) for each coalition, times how many of them one stands for; halves come in pairs once.
        share = (0.5 if half else 1.0) * (players - 1) / (size * (players - size)) / expected[size]
        weights.append(np.full(len(drawn), share))
        left.append(np.full(len(drawn), 1.0 - min(1.0, expected[size] / available[size])))
    chosen, weight, unseen = np.concatenate(masks), np.concatenate(weights), np.concatenate(left)
    centred = chosen - chosen.mean(axis=1, keepdims=True)
    root = np.sqrt(weight)[:, None]
    scaled = centred * root
    if len(chosen) >= players:
        gram = scaled.T @ scaled
        scale = np.trace(gram) / players
        # Columns sum to zero: the direction of all ones is free, and closed by a multiple of itself.
        estimate = np.linalg.pinv(gram + scale / players, hermitian=True) @ (centred * weight[:, None]).T
    else:
        estimate = (scaled.T @ np.linalg.pinv(scaled @ scaled.T, hermitian=True)) * root[:, 0]
    estimate = estimate - estimate.mean(axis=0, keepdims=True)
    leverage = np.einsum("kp,pk->k", centred, estimate)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(leverage < 1.0 - 1e-6, 1.0 / (1.0 - leverage), np.nan)
        spread = (estimate * factor) ** 2 * unseen
    spread = np.where(unseen > 0, spread, 0.0)
    return Regression(chosen, estimate, spread)


_kept = functools.lru_cache(maxsize=16)(_regression)


def _allocate(players: int, pairs: int, seed: int) -> tuple[dict[int, int], dict[int, float], dict[int, float]]:
    """Pairs of each size: how many, how many in expectation, and how many there are."""
    sizes = range(1, players // 2 + 1)
    half = {size: 0.5 if 2 * size == players else 1.0 for size in sizes}
    logs = {size: math.lgamma(players + 1) - math.lgamma(size + 1) - math.lgamma(players - size + 1) for size in sizes}
    # Numbers that are too large to matter are left at infinity.
    available = {size: math.comb(players, size) * half[size] if logs[size] < 40 else math.inf for size in sizes}
    if sum(available.values()) <= pairs:
        return {size: int(available[size]) for size in sizes}, dict(available), available
    wanted = {size: half[size] * (size * (players - size)) ** -_LEVERAGE for size in sizes}
    expected: dict[int, float] = {}
    rest = float(pairs)
    while wanted:
        total = sum(wanted.values())
        full = [size for size in wanted if wanted[size] / total * rest >= available[size]]
        if not full:
            expected |= {size: wanted[size] / total * rest for size in wanted}
            break
        for size in full:
            expected[size] = available[size]
            rest -= available[size]
            del wanted[size]
    taken: dict[int, int] = {}
    place = generator(seed, players, 0).random()
    for size in sizes:
        if expected[size] >= available[size]:
            taken[size] = int(available[size])
            continue
        # Systematic: in expectation as many as wanted, and the sum is within one of it.
        taken[size] = math.floor(place + expected[size]) - math.floor(place)
        place += expected[size]
    return taken, expected, available


def _of_size(players: int, size: int, count: int, seed: int, every: bool) -> _Host:
    """That many different coalitions of a size, of which no two are a pair; the first are the same for every count."""
    half = 2 * size == players
    if every:
        members = np.array(list(itertools.combinations(range(players), size)), dtype=np.int64)
        members = members[members[:, 0] == 0] if half else members
        found = np.zeros((len(members), players), dtype=bool)
        np.put_along_axis(found, members, True, axis=1)
        return found
    source = generator(seed, players, size)
    # In rounds of a fixed size, so that what is drawn does not depend on the count.
    each = min(players // size, max(8, _ROUND // players))
    together = max(1, 2**13 // players)
    drawn = np.zeros((0, players), dtype=bool)
    while len(drawn) < count:
        ranks = np.argsort(source.random((together, players), dtype=np.float32), axis=1)
        members = ranks[:, : each * size].reshape(-1, size)
        fresh = np.zeros((len(members), players), dtype=bool)
        np.put_along_axis(fresh, members, True, axis=1)
        if half:
            fresh ^= ~fresh[:, :1]
        drawn = np.concatenate([drawn, fresh])
        packed = np.packbits(drawn, axis=1)
        _, first = np.unique(packed, axis=0, return_index=True)
        drawn = drawn[np.sort(first)]
    return drawn[:count].copy()


@functools.lru_cache(maxsize=4)
def orders(players: int, count: int, seed: int) -> _Host:
    """Random orders of the players, (count, players), each uniform among all orders.

    They are the orders of the coordinates of random directions, orthogonal in groups of `players - 1`, which differ more
    from one another than independent ones do.

    Source: Mitchell et al. 2022, arXiv:2104.12199, section 4.
    """
    source = generator(seed, players, 1_000_000)
    if players > _ORTHOGONAL:
        return np.stack([source.permutation(players) for _ in range(count)])
    found: list[_Host] = []
    while sum(map(len, found)) < count:
        group = source.normal(size=(players, players - 1))
        # Gaussian directions without their mean, made orthogonal.
        basis, triangle = np.linalg.qr(group - group.mean(axis=0))
        directions = (basis * np.sign(np.diag(triangle))).T
        found.append(np.argsort(directions, axis=1))
    return np.concatenate(found)[:count]


@dataclass(frozen=True, eq=False)
class Walks:
    """Coalitions that come up when players join in some orders, each once, in the order in which they come up.

    Attributes
    ----------
    masks
        From numbers of coalitions to their members (coalitions, players).
    count
        How many coalitions there are.
    places
        Number of the coalition at each step, (walks, ways, players - 1).
    ranks
        Step at which each player joins, (walks, players); the second way is the first in reverse.
    """

    masks: Callable[[Any], _Host]
    count: int
    places: _Host
    ranks: _Host


def walks(found: _Host, ways: int, limit: int) -> Walks:
    """As many of the orders as need no more than that many coalitions, at least one.

    Few players often meet in the same coalitions: these are evaluated once, and more orders fit.
    """
    total, players = found.shape
    steps = players - 1
    ranks = np.argsort(found, axis=1)

    def members(numbers: Any) -> _Host:
        walk, step = np.divmod(np.asarray(numbers), steps)
        order, way = np.divmod(walk, ways)
        place = ranks[order]
        return np.where((way == 0)[:, None], place <= step[:, None], place >= (steps - step)[:, None])

    if players > _REPEATING:
        used = max(1, min(total, limit // (ways * steps)))
        count = used * ways * steps
        return Walks(members, count, np.arange(count).reshape(used, ways, steps), ranks[:used])
    every = members(np.arange(total * ways * steps))
    _, first, inverse = np.unique(np.packbits(every, axis=1), axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty(len(first), dtype=np.int64)
    number[order] = np.arange(len(first))
    places = number[inverse.reshape(-1)].reshape(total, ways, steps)
    needed = 1 + np.maximum.accumulate(places.reshape(total, -1).max(axis=1))
    used = max(1, int(np.searchsorted(needed, limit, side="right")))
    kept = every[first[order][: needed[used - 1]]]
    return Walks(functools.partial(np.take, kept, axis=0), len(kept), places[:used], ranks[:used])
