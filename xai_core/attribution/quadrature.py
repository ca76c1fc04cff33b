"""Quadrature rules on [0, 1], and nested families of them."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from xai_core.errors import OptionError, describe

__all__ = ["QUADRATURES", "Level", "nested", "quadrature"]

_Host = np.ndarray[Any, Any]

QUADRATURES = ("gauss_legendre", "trapezoid", "riemann_left", "riemann_middle", "riemann_right")


def check_quadrature(name: Any) -> None:
    """Raise OptionError for an unknown rule."""
    if name not in QUADRATURES:
        raise OptionError(
            f"`quadrature` must be one of {', '.join(QUADRATURES)}.",
            received=describe(name),
            fix='quadrature="gauss_legendre"',
        )


@functools.lru_cache(maxsize=128)
def _rule(name: str, steps: int) -> tuple[_Host, _Host]:
    if name == "gauss_legendre":
        nodes, weights = _gauss_legendre(steps)
    elif name == "clenshaw_curtis":
        nodes, weights = _clenshaw_curtis(steps)
    elif name == "trapezoid":
        nodes = np.linspace(0.0, 1.0, steps) if steps > 1 else np.array([0.5])
        weights = np.ones(steps)
        if steps > 1:
            weights[[0, -1]] = 0.5
    else:
        offset = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[name]
        nodes, weights = (np.arange(steps) + offset) / steps, np.ones(steps)
    weights = weights / math.fsum(weights)
    weights[steps // 2] += 1.0 - math.fsum(weights)
    nodes.setflags(write=False)
    weights.setflags(write=False)
    return nodes, weights


def quadrature(name: str, steps: int) -> tuple[_Host, _Host]:
    """Nodes and weights of a rule with `steps` nodes on [0, 1], in ascending order; the weights sum to one.

    The trapezoid with one node is the midpoint.
    """
    check_quadrature(name)
    return _rule(name, steps)


def _gauss_legendre(steps: int) -> tuple[_Host, _Host]:
    """Newton's method on the Legendre polynomial, O(steps^2) work and O(steps) memory.

    `numpy.polynomial.legendre.leggauss` solves an eigenproblem, which at thousands of nodes takes minutes.
    """
    roots = np.cos(math.pi * (np.arange(1, steps + 1) - 0.25) / (steps + 0.5))
    for _ in range(100):
        value, slope = _legendre(steps, roots)
        change = value / slope
        roots = roots - change
        if np.max(np.abs(change)) < 1e-15:
            break
    _, slope = _legendre(steps, roots)
    weights = 2.0 / ((1.0 - roots**2) * slope**2)
    return (1.0 - roots) / 2.0, weights / 2.0


def _legendre(degree: int, x: _Host) -> tuple[_Host, _Host]:
    """Legendre polynomial and its derivative by the three-term recurrence."""
    before, value = np.ones_like(x), x.copy()
    for n in range(2, degree + 1):
        before, value = value, ((2 * n - 1) * x * value - (n - 1) * before) / n
    if degree == 0:
        return np.ones_like(x), np.zeros_like(x)
    return value, degree * (x * value - before) / (x**2 - 1.0)


def _clenshaw_curtis(steps: int) -> tuple[_Host, _Host]:
    """Nodes are the extrema of a Chebyshev polynomial; doubling the intervals keeps them (Trefethen 2008, SIAM Rev.)."""
    n = steps - 1
    theta = math.pi * np.arange(steps) / n
    half = np.arange(1, n // 2 + 1)
    factor = np.where(2 * half == n, 1.0, 2.0) / (4.0 * half**2 - 1.0)
    inner = 1.0 - np.cos(2.0 * np.outer(theta, half)) @ factor
    weights = np.where((np.arange(steps) == 0) | (np.arange(steps) == n), 1.0, 2.0) * inner / n
    return (1.0 - np.cos(theta)) / 2.0, weights / 2.0


@dataclass(frozen=True)
class Level:
    """Nodes that a level of a nested family adds, and their weights in this and all later levels.

    Attributes
    ----------
    total
        Nodes of the whole rule at this level.
    nodes
        The new nodes, (new,).
    weights
        (levels, new): row `l` holds the new nodes' weights in the rule of level `l`; zero for earlier levels.
    """

    total: int
    nodes: _Host
    weights: _Host


@functools.lru_cache(maxsize=32)
def nested(name: str, steps: int, max_steps: int) -> tuple[Level, ...]:
    """A family of rules of which each holds the nodes of the one before, from at least `steps` to `max_steps` nodes.

    Trapezoid and left and right sums double, the midpoint rule triples. Gauss-Legendre nodes never nest, so its place
    is taken by Clenshaw-Curtis, which converges as fast on functions met here and doubles.

    Because each new node's weights in all later rules are known in advance, one running sum per level suffices and no
    gradient is kept.
    """
    check_quadrature(name)
    name = "clenshaw_curtis" if name == "gauss_legendre" else name
    sizes = [_first_size(name, steps)]
    while (following := _next_size(name, sizes[-1])) <= max_steps:
        sizes.append(following)
    rules = [_rule(name, size) for size in sizes]
    levels: list[Level] = []
    for number, (nodes, _) in enumerate(rules):
        fresh = _new_positions(name, sizes[number], first=number == 0)
        weights = np.zeros((len(sizes), len(fresh)))
        for later in range(number, len(sizes)):
            # Position of these nodes in the later rule: the index scales with the spacing.
            positions = _positions_in(name, fresh, sizes[number], sizes[later])
            weights[later] = rules[later][1][positions]
        levels.append(Level(sizes[number], nodes[fresh], weights))
    return tuple(levels)


def _first_size(name: str, steps: int) -> int:
    if name in ("clenshaw_curtis", "trapezoid"):
        return 2 ** max(1, math.ceil(math.log2(max(1, steps - 1)))) + 1
    return steps


def _next_size(name: str, size: int) -> int:
    if name in ("clenshaw_curtis", "trapezoid"):
        return 2 * size - 1
    return 3 * size if name == "riemann_middle" else 2 * size


def _new_positions(name: str, size: int, *, first: bool) -> _Host:
    every = np.arange(size)
    if first:
        return every
    if name == "riemann_middle":
        return every[every % 3 != 1]
    if name == "riemann_right":
        return every[every % 2 == 0]
    return every[every % 2 == 1]


def _positions_in(name: str, positions: _Host, size: int, later: int) -> _Host:
    if name in ("clenshaw_curtis", "trapezoid"):
        return positions * ((later - 1) // (size - 1))
    factor = later // size
    if name == "riemann_middle":
        return positions * factor + factor // 2
    return positions * factor + (factor - 1 if name == "riemann_right" else 0)
