"""Shapley values: exact, by regression, and by walks along orders of the features."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from xai_core.attribution.base import Attribution, Explainer, positive_int
from xai_core.attribution.game import Game
from xai_core.attribution.sampling import Estimate, check_sampling, sample
from xai_core.baselines import spatial_axes
from xai_core.coalitions import MORE_ORDERS, Walks, orders, regression, subsets, walks, weights_of_sizes
from xai_core.errors import OptionError
from xai_core.hierarchy import by_place, halved, nested_orders, owen_contexts, owen_rows, tree_of
from xai_core.problem import Problem, independent

__all__ = ["ExactSHAP", "KernelSHAP", "PartitionSHAP", "PermutationSHAP", "ShapleySampling"]

_ENUMERABLE = 24
SHUFFLE_PART = 3_000_000
"""Stream part of the order in which a sample has its features."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Shapley(Explainer, abstract=True):
    """Base of the Shapley methods: features, what fills them when they are removed, and efficiency."""

    differentiates: ClassVar[bool] = False
    keeps_missing: ClassVar[bool] = True
    explains_all: ClassVar[bool] = True
    enumerates: ClassVar[bool] = False
    """Whether all coalitions are evaluated where the budget is enough."""

    features: Any = None
    baseline: Any = 0.0
    background: Any = None

    def attribute(self, problem: Problem) -> Attribution:
        game = Game.of(problem, self.features, self.baseline, self.background)
        xp, full, empty = problem.xp, game.full(), game.empty()
        change = full - empty
        sampled, rows = type(self).stochastic, game.removal.size << min(game.count, 62)
        if game.count == 1:
            found = Estimate(change, xp.zeros_like(change))
        elif self.enumerates and rows - 2 * game.removal.size <= self.budget():
            values = enumerated(game, empty, change)
            found = Estimate(values, xp.zeros_like(values))
        else:
            found = self.estimate(game, empty, change)
        total = xp.sum(found.values, axis=1)
        gap = total - change[:, 0, :]
        result = game.spread(
            found.values,
            found.error if sampled else None,
            share=True,
            residual=gap if problem.pick.every else gap[:, 0],
            details=found.details,
        )
        if not bool(np.any(problem.to_host(found.values != 0))) and game.inert():
            raise independent(problem, type(self).__name__)
        return result

    def budget(self) -> int:
        """Perturbed rows that are enough to evaluate all coalitions if these are no more."""
        return 0

    @abstractmethod
    def estimate(self, game: Game, empty: Any, change: Any) -> Estimate:
        """Values (batch, features, outputs) of two features or more; they sum to `change` (batch, 1, outputs)."""


def enumerated(game: Game, empty: Any, change: Any) -> Any:
    """Exact Shapley values (batch, features, outputs) from the worth of all coalitions."""
    problem, players = game.problem, game.count
    xp, total = problem.xp, 1 << players
    by_size = weights_of_sizes(players)
    # The worth of all, for which each player is the last one that comes.
    values = xp.broadcast_to(change * float(by_size[players - 1]), (problem.batch, players, int(change.shape[2])))
    width = min(total - 2, _CHUNK)
    for start in range(1, total - 1, width):
        numbers = np.arange(start, start + width)
        used = numbers < total - 1
        numbers = np.minimum(numbers, total - 2)
        members = subsets(players, numbers)
        worth = game.worth(partial(np.take, members, axis=0), width)
        size = members.sum(axis=1, keepdims=True)
        weight = np.where(members, by_size[size - 1], -by_size[np.minimum(size, players - 1)]) * used[:, None]
        values = values + game.weighted(weight.T, worth - empty)
    return values


_CHUNK = 4096


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ExactSHAP(_Shapley):
    """Shapley values from the worth of every coalition of features.

    `values_i = sum over S without i of |S|! (p - |S| - 1)! / p! * (v(S + i) - v(S))`, where `v(S)` is the explained score
    with the features outside `S` removed. They sum to `f(x)` minus the score with all removed; `residual` is what
    rounding leaves of it. `2^p` model rows per input, times the rows of the background.

    Source: Shapley 1953; Lundberg and Lee 2017, arXiv:1705.07874, equation 4.

    Parameters
    ----------
    features
        What is removed together: `None` for single columns or tokens, and at most 64 tiles of an image; labels as an
        integer array; or a rule, `xai.Patches`, `xai.Superpixels`, `xai.Spans`, `xai.Groups`, `xai.Elements`.
    baseline
        What removed features are filled with, as for `IntegratedGradients`.
    background
        Data instead of a baseline: a coalition's worth is the mean over its rows, each of which is a model row.
    max_rows
        Most model rows per input; more features than they can enumerate are refused.
    """

    max_rows: int = 2**17

    def __post_init__(self) -> None:
        positive_int("max_rows", self.max_rows)

    def estimate(self, game: Game, empty: Any, change: Any) -> Estimate:
        rows = (1 << game.count) * game.removal.size if game.count <= _ENUMERABLE else None
        if rows is None or rows > self.max_rows:
            raise OptionError(
                f"ExactSHAP needs 2^{game.count} coalitions of {game.count} features, more than max_rows={self.max_rows} "
                f"model rows{f' of a background of {game.removal.size}' if game.removal.shared else ''}.",
                received=f"{game.count} features",
                fix="use KernelSHAP or PermutationSHAP, or features= that groups them.",
            )
        values = enumerated(game, empty, change)
        return Estimate(values, None)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Sampled(_Shapley, abstract=True):
    """Base of the Shapley methods that evaluate a part of all coalitions, or all where `samples` are enough."""

    stochastic: ClassVar[bool] = True
    enumerates: ClassVar[bool] = True

    samples: int = 2048
    tolerance: float | None = None
    max_rows: int | None = None

    def __post_init__(self) -> None:
        check_sampling(self.samples, self.tolerance, self.max_rows)

    def planned_rows(self, batch: int) -> int:
        return batch * (self.samples + 2)

    def budget(self) -> int:
        return self.samples if self.max_rows is None else min(self.samples, self.max_rows)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class KernelSHAP(_Sampled):
    """Shapley values by weighted least squares over coalitions.

    `values = argmin over a of sum_S w(S) (v(S) - v(none) - sum_{i in S} a_i)^2` with `w(S) = (p - 1) / (C(p, |S|) |S| (p -
    |S|))`, constrained to sum to `f(x)` minus the score with all features removed; over all `S` these are the Shapley
    values, and where all fit into `samples` all are evaluated. Otherwise coalitions are drawn in pairs with their
    complements, none twice, evenly over sizes and features. With fewer pairs than features the fit of least norm is
    taken, which has a bias towards equal shares, and no standard error is known.

    The design of coalitions is made, and its normal equations solved, once for all inputs: each input has its features
    in a random order of its own in it. Worths are summed on the device.

    Source: Lundberg and Lee 2017, arXiv:1705.07874, theorem 2; sampling: Covert and Lee 2021, arXiv:2012.01536; Musco and
    Witter 2024, arXiv:2410.01917.

    Parameters
    ----------
    samples
        Perturbed model rows per input; with `tolerance`, the number to begin with.
    features
        What is removed together: `None` for single columns or tokens, and at most 64 tiles of an image; labels as an
        integer array; or a rule, `xai.Patches`, `xai.Superpixels`, `xai.Spans`, `xai.Groups`, `xai.Elements`.
    baseline
        What removed features are filled with, as for `IntegratedGradients`.
    background
        Data instead of a baseline: a coalition's worth is the mean over its rows, each of which is a model row.
    tolerance
        Double the rows until no standard error exceeds this, in units of the score, or `max_rows` would be exceeded;
        `details["converged"]` says of each input which it was.
    max_rows
        Most perturbed model rows per input; `None`: 16 times `samples`.
    """

    def estimate(self, game: Game, empty: Any, change: Any) -> Estimate:
        game.shuffle(SHUFFLE_PART)
        solver = _Regressions(game, change)
        return sample(game.problem, solver, self.samples, self.tolerance, self.max_rows)


class _Regressions:
    """Steps of KernelSHAP: worths of pairs that were seen before are kept."""

    def __init__(self, game: Game, change: Any) -> None:
        self._game = game
        self._change = change
        self._seen: dict[bytes, int] = {}
        self._halves: Any = None

    def __call__(self, budget: int, samples: list[int], kept: Any) -> tuple[Any, Any]:
        game = self._game
        problem, players = game.problem, game.count
        xp = problem.xp
        pairs = max(1, budget // game.removal.size // 2)
        design = regression(players, pairs, problem.streams.seed)
        if kept is not None:
            self._halves = xp.take(self._halves, problem.to_device(kept.astype(np.int64)), axis=0)
        change = game.rows_of(self._change, samples)
        halves = self._of(design.masks, samples)
        share = problem.to_device(design.masks.mean(axis=1)[None, :, None] - 0.5, like=change)
        half = halves - share * change
        beyond = game.weighted(design.estimate, half)
        left = half - game.weighted(design.centred, beyond)
        error = xp.sqrt(game.weighted(design.spread, left * left))
        return change / players + beyond, error

    def _of(self, masks: np.ndarray[Any, Any], samples: list[int]) -> Any:
        """Half the difference of the worths of each pair, (samples, pairs, outputs)."""
        game, xp = self._game, self._game.problem.xp
        keys = [row.tobytes() for row in np.packbits(masks, axis=1)]
        fresh = [place for place, key in enumerate(keys) if key not in self._seen]
        if fresh:
            new, count = masks[fresh], len(fresh)
            both = np.concatenate([new, ~new])
            worth = game.worth(partial(np.take, both, axis=0), 2 * count, samples)
            halves = (worth[:, :count, ...] - worth[:, count:, ...]) * 0.5
            for place in fresh:
                self._seen[keys[place]] = len(self._seen)
            self._halves = halves if self._halves is None else xp.concat([self._halves, halves], axis=1)
        places = np.array([self._seen[key] for key in keys], dtype=np.int64)
        if len(places) == int(self._halves.shape[1]) and np.array_equal(places, np.arange(len(places))):
            return self._halves
        return xp.take(self._halves, game.problem.to_device(places), axis=1)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Walks(_Sampled, abstract=True):
    """Base of methods that add features one by one, in random orders."""

    _both_ways: ClassVar[bool] = False

    def _designs(self, game: Game, drawn: Callable[[int, int], np.ndarray[Any, Any]]) -> Callable[[int], Walks]:
        """From a number of coalitions to walks that need no more, along the orders `drawn(count, seed)`."""
        seed, ways = game.problem.streams.seed, 2 if self._both_ways else 1

        def design(limit: int) -> Walks:
            each = ways * (game.count - 1)
            return walks(drawn(MORE_ORDERS * max(1, limit // each), seed), ways, limit)

        return design

    def estimate(self, game: Game, empty: Any, change: Any) -> Estimate:
        game.shuffle(SHUFFLE_PART)
        walker = _Walker(game, empty, change, self._designs(game, partial(orders, game.count)))
        return sample(game.problem, walker, self.samples, self.tolerance, self.max_rows)


class _Walker:
    """Steps of walks along more and more orders; coalitions that came up before are kept."""

    def __init__(self, game: Game, empty: Any, change: Any, design: Callable[[int], Walks]) -> None:
        self._game, self._empty, self._change = game, empty, change
        self._design = design
        self._worth: Any = None

    def __call__(self, budget: int, samples: list[int], kept: Any) -> tuple[Any, Any]:
        game = self._game
        problem, players = game.problem, game.count
        xp = problem.xp
        found = self._design(budget // game.removal.size)
        worth = self._of(found, samples, kept)
        walks, ways, steps = found.places.shape
        batch, outputs = len(samples), int(worth.shape[2])
        empty = game.rows_of(self._empty, samples)
        full = empty + game.rows_of(self._change, samples)
        # None, the coalitions, all: a player's gain is the worth at its step minus the one before.
        known = xp.concat([empty, worth, full], axis=1)
        edge = np.zeros((walks, ways, 1), dtype=np.int64)
        path = np.concatenate([edge, found.places + 1, edge + int(worth.shape[1]) + 1], axis=2)
        step = np.stack([found.ranks, steps - found.ranks], axis=1)[:, :ways]
        after, before = (np.take_along_axis(path, step + shift, axis=2).reshape(-1) for shift in (1, 0))
        gains = xp.take(known, problem.to_device(after), axis=1) - xp.take(known, problem.to_device(before), axis=1)
        each = xp.mean(xp.reshape(gains, (batch, walks, ways, players, outputs)), axis=2)
        mean = xp.mean(each, axis=1)
        scatter = xp.sum((each - mean[:, None, ...]) ** 2, axis=1)
        # Few walks know little of their own variance: scaled so that errors over it have variance one, as of Student's t.
        free = walks - 1
        factor = free / (free - 2) if free > 2 else float("nan")
        return mean, xp.sqrt(scatter * (factor / (walks * max(1, free))))

    def _of(self, found: Walks, samples: list[int], kept: Any) -> Any:
        """Worth (samples, coalitions, outputs) of the coalitions of a design, of which the first are known."""
        game, xp = self._game, self._game.problem.xp
        if kept is not None and self._worth is not None:
            self._worth = xp.take(self._worth, game.problem.to_device(kept.astype(np.int64)), axis=0)
        known = 0 if self._worth is None else int(self._worth.shape[1])
        if found.count > known:
            fresh = game.worth(lambda numbers: found.masks(known + np.asarray(numbers)), found.count - known, samples)
            self._worth = fresh if self._worth is None else xp.concat([self._worth, fresh], axis=1)
        return self._worth


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PermutationSHAP(_Walks):
    """Shapley values by walks along random orders, each there and back.

    `values_i = mean over orders of v(before i, and i) - v(before i)`: features are added one by one in a random order, and
    in the reverse of it. Each walk sums to `f(x)` minus the score with all features removed. Orders come from orthogonal
    directions, which differ more than independent ones. `2 (p - 1)` model rows for each order, as many orders as fit
    into `samples`, at least one; with less than four the standard error is not known. Exact where all coalitions fit into
    `samples`.

    Source: Mitchell et al. 2022, arXiv:2104.12199; antithetic orders: Maleki 2015; Strumbelj and Kononenko 2014.

    Parameters
    ----------
    samples
        Perturbed model rows per input; with `tolerance`, the number to begin with.
    features
        What is removed together: `None` for single columns or tokens, and at most 64 tiles of an image; labels as an
        integer array; or a rule, `xai.Patches`, `xai.Superpixels`, `xai.Spans`, `xai.Groups`, `xai.Elements`.
    baseline
        What removed features are filled with, as for `IntegratedGradients`.
    background
        Data instead of a baseline: a coalition's worth is the mean over its rows, each of which is a model row.
    tolerance
        Double the rows until no standard error exceeds this, in units of the score, or `max_rows` would be exceeded;
        `details["converged"]` says of each input which it was.
    max_rows
        Most perturbed model rows per input; `None`: 16 times `samples`.
    """

    _both_ways: ClassVar[bool] = True


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ShapleySampling(_Walks):
    """Shapley values by walks along random orders.

    `values_i = mean over orders of v(before i, and i) - v(before i)`, where features are added one by one. Each walk sums
    to `f(x)` minus the score with all features removed. `p - 1` model rows for each order, as many as fit into
    `samples`, at least one; with less than four the standard error is not known. Exact where all coalitions fit into
    `samples`.
    `PermutationSHAP` needs fewer rows for the same accuracy on most models.

    Source: Castro, Gomez and Tejada 2009, "Polynomial calculation of the Shapley value based on sampling".

    Parameters
    ----------
    samples
        Perturbed model rows per input; with `tolerance`, the number to begin with.
    features
        What is removed together: `None` for single columns or tokens, and at most 64 tiles of an image; labels as an
        integer array; or a rule, `xai.Patches`, `xai.Superpixels`, `xai.Spans`, `xai.Groups`, `xai.Elements`.
    baseline
        What removed features are filled with, as for `IntegratedGradients`.
    background
        Data instead of a baseline: a coalition's worth is the mean over its rows, each of which is a model row.
    tolerance
        Double the rows until no standard error exceeds this, in units of the score, or `max_rows` would be exceeded;
        `details["converged"]` says of each input which it was.
    max_rows
        Most perturbed model rows per input; `None`: 16 times `samples`.
    """


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PartitionSHAP(_Walks):
    """Owen values: Shapley values of features that form coalitions along a hierarchy before they join with others.

    `values_i = E[v(C, and i) - v(C)]` where `C` is random: at each step of the hierarchy above `i`, its siblings come before
    it or not, as in a random order of them. Of the features of a part either all or none are there when another part is
    explained, so that a sentence or a region is taken apart only inside itself. The values of a part sum to its own
    value, and all to `f(x)` minus the score with all features removed.

    Exact where the coalitions that a hierarchy needs fit into `samples`: about `4/3 p^2` for `p` features in halves of
    halves. Otherwise walks along random orders that keep parts together, each there and back, `2 (p - 1)` rows each.

    Source: Owen 1977, "Values of games with a priori unions"; the hierarchy of an image: Lundberg's shap,
    `PartitionExplainer`.

    Parameters
    ----------
    samples
        Perturbed model rows per input; with `tolerance`, the number to begin with.
    hierarchy
        Nested sequences of features by number or name, `((0, 1), (2, (3, 4)))`, or a linkage matrix of SciPy. `None`:
        features that lie near one another, halved again and again; columns of a table in their order.
    features
        What is removed together: `None` for single columns or tokens, and at most 64 tiles of an image; labels as an
        integer array; or a rule, `xai.Patches`, `xai.Superpixels`, `xai.Spans`, `xai.Groups`, `xai.Elements`.
    baseline
        What removed features are filled with, as for `IntegratedGradients`.
    background
        Data instead of a baseline: a coalition's worth is the mean over its rows, each of which is a model row.
    tolerance
        Double the rows until no standard error exceeds this, in units of the score, or `max_rows` would be exceeded;
        `details["converged"]` says of each input which it was.
    max_rows
        Most perturbed model rows per input; `None`: 16 times `samples`.
    """

    enumerates: ClassVar[bool] = False
    _both_ways: ClassVar[bool] = True

    hierarchy: Any = None

    def estimate(self, game: Game, empty: Any, change: Any) -> Estimate:
        tree = halved(0, game.count) if self.hierarchy is None else tree_of(self.hierarchy, game.features.names)
        if self.hierarchy is None:
            game.arrange(_neighbours(game))
        if owen_rows(tree) * game.removal.size <= self.budget():
            members, weights = owen_contexts(tree, game.count)
            # All and none are known.
            inner = np.flatnonzero(members.any(axis=1) & ~members.all(axis=1))
            whole = weights[:, members.all(axis=1)]
            worth = game.worth(partial(np.take, members[inner], axis=0), len(inner)) - empty
            values = game.weighted(weights[:, inner], worth) + game.weighted(whole, change)
            return Estimate(values, game.problem.xp.zeros_like(values))
        walker = _Walker(game, empty, change, self._designs(game, partial(nested_orders, tree)))
        return sample(game.problem, walker, self.samples, self.tolerance, self.max_rows)


def _neighbours(game: Game) -> np.ndarray[Any, Any]:
    """Column of each feature (batch, features) such that features near one another have columns near one another."""
    problem, players = game.problem, game.count
    found = np.empty((problem.batch, players), dtype=np.int64)
    for row in range(problem.batch):
        centres = np.zeros((players, 0))
        for host, leaf in zip(game.features.labels, problem.varied, strict=True):
            axes = spatial_axes(problem, leaf)
            own = host[min(row, host.shape[0] - 1)]
            flat = own.reshape(-1)
            inside = flat >= 0
            size = np.maximum(np.bincount(flat[inside], minlength=players), 1)
            for axis in axes:
                wide = [1] * own.ndim
                wide[axis - 1] = own.shape[axis - 1]
                place = np.broadcast_to(np.arange(own.shape[axis - 1]).reshape(wide), own.shape).reshape(-1)
                centre = np.bincount(flat[inside], weights=place[inside], minlength=players) / size
                centres = np.concatenate([centres, centre[:, None]], axis=1)
        order = by_place(centres) if centres.shape[1] else np.arange(players)
        found[row, order] = np.arange(players)
    return found
