"""LIME: coefficients of a sparse linear model that is fitted to the scores of neighbours of an input."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from xai_core.attribution.base import Attribution, Explainer, positive_int
from xai_core.attribution.game import Game, Removal, resolve_removal
from xai_core.baselines import spatial_axes
from xai_core.blocks import spans
from xai_core.coalitions import generator
from xai_core.errors import ConvergenceError, OptionError, describe
from xai_core.features import Superpixels, resolve_features
from xai_core.problem import Problem, independent, is_floating

__all__ = ["LIME"]

_Host = np.ndarray[Any, Any]

ORDER_PART, NEIGHBOUR_PART = 3_200_000, 3_200_001
"""Stream parts of the order of features, and of neighbours in tables."""
_DESIGN = 3_000_000
_MODES = ("image", "text", "table")
_TOGETHER = 2**20
"""Elements of neighbours that are made at once."""
_FORWARD = 6
"""Most features that are selected one by one."""
_SELECTING = 0.01
"""Ridge penalty of the fit by which more features are selected."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LIME(Explainer):
    """Coefficients of a linear model of the scores of neighbours, near ones weighing more.

    `values = argmin_a min_b sum_k w_k (f(x_k) - b - sum_i a_i z_ki)^2 + penalty * sum_i a_i^2` (`"lasso"`: `|a_i|`), where
    `w_k = exp(-d_k^2 / (2 kernel_width^2))`. Images and text: `z_ki` says whether feature `i` is left in neighbour `k`,
    and `d_k` is the cosine distance to all. Tables: neighbours are drawn around the row with the standard deviations of
    `background`, `z_k` is the standardised row, `d_k` the Euclidean distance; columns that hold categories, and all with
    `discretize`, are drawn from the background, and `z_ki` says whether the category or quartile is that of the row.
    `details["r2"]` is the weighted R^2 of the fit, `details["intercept"]` is `b`. The input itself is one of the
    neighbours. `samples` model rows per input and one for the score.

    Source: Ribeiro, Singh and Guestrin 2016, arXiv:1602.04938, algorithm 1; what it leaves open as in the authors' package
    lime. Standard errors: the sandwich with residuals divided by one minus their leverage (HC3), MacKinnon and White 1985.

    Parameters
    ----------
    samples
        Neighbours per input, times the rows of the background for images and text with one.
    features
        What is removed together in images and text: `None` for single tokens, superpixels of images where scikit-image is
        installed, else at most 64 tiles; labels as an integer array; or a rule, `xai.Patches`, `xai.Superpixels`,
        `xai.Spans`, `xai.Groups`, `xai.Elements`.
    baseline
        What removed features are filled with, as for `IntegratedGradients`.
    background
        Tables: data from which neighbours are made. Else data instead of a baseline, all rows of which are averaged over.
    kernel_width
        `None`: 0.25 for images and text, `0.75 sqrt(columns)` for tables.
    regularization
        `"ridge"` or `"lasso"`.
    penalty
        Weight of the regularisation; 0: least squares.
    top
        Fit this number of features alone; the others have values of zero. Up to six are selected one by one, more by
        the size of their weights.
    mode
        `"image"`: each feature is removed with probability 1/2, in pairs of which one has what the other lacks, which makes
        errors smaller. `"text"`: how many are removed is drawn first. `"table"`:
        as above. `None`: by the input.
    discretize
        Tables: cut columns of numbers into quartiles of the background.
    """

    differentiates: ClassVar[bool] = False
    stochastic: ClassVar[bool] = True

    samples: int = 1000
    features: Any = None
    baseline: Any = 0.0
    background: Any = None
    kernel_width: float | None = None
    regularization: str = "ridge"
    penalty: float = 1.0
    top: int | None = None
    mode: str | None = None
    discretize: bool = False

    def __post_init__(self) -> None:
        positive_int("samples", self.samples)
        if self.top is not None:
            positive_int("top", self.top)
        for name, allowed in (("regularization", ("ridge", "lasso")), ("mode", (None, *_MODES))):
            if getattr(self, name) not in allowed:
                raise OptionError(
                    f"`{name}` must be one of {', '.join(map(repr, allowed))}.", received=repr(getattr(self, name))
                )
        if not (isinstance(self.penalty, (int, float)) and self.penalty >= 0):
            raise OptionError("`penalty` must not be negative.", received=describe(self.penalty), fix="penalty=1.0")
        width = self.kernel_width
        if width is not None and not (isinstance(width, (int, float)) and width > 0):
            raise OptionError("`kernel_width` must be positive.", received=describe(width), fix="kernel_width=0.25")

    def planned_rows(self, batch: int) -> int:
        return batch * (self.samples + 1)

    def attribute(self, problem: Problem) -> Attribution:
        mode = self._mode(problem)
        game, fits = self._rows(problem) if mode == "table" else self._parts(problem, mode)
        xp, order = problem.xp, np.argsort(np.concatenate([rows for rows, _ in fits]))
        place = problem.to_device(order)
        values, error, r2, intercept = (
            xp.take(xp.concat([fit[entry] for _, fit in fits], axis=0), place, axis=0) for entry in range(4)
        )
        if not bool(np.any(problem.to_host(values != 0))) and game.inert():
            raise independent(problem, type(self).__name__)
        return game.spread(values, error, share=False, details={"r2": r2, "intercept": intercept})

    def _mode(self, problem: Problem) -> str:
        flat = all(len(tuple(leaf.shape)) == 2 and not spatial_axes(problem, leaf) for leaf in problem.varied)
        numbers = all(is_floating(leaf) for leaf in problem.varied)
        mode = self.mode
        if mode is None and flat and numbers and self.features is None:
            mode = "table"
        elif mode is None:
            mode = "text" if flat and not numbers else "image"
        if mode != "table":
            if self.discretize:
                raise OptionError("`discretize` is for tables.", received=f"mode={mode!r}", fix="discretize=False")
            return mode
        if not flat or self.features is not None:
            raise OptionError(
                "LIME of a table has a coefficient for each column.",
                received=", ".join(map(describe, problem.varied)) + f", features={describe(self.features)}",
                fix="mode='image' removes features instead.",
            )
        if self.background is None:
            raise OptionError(
                "LIME draws the neighbours of a table's row from data.",
                received="background=None",
                fix="background=x_train[:1000]; or mode='image', which replaces columns with `baseline`.",
            )
        return mode

    def _parts(self, problem: Problem, mode: str) -> tuple[Game, list[tuple[_Host, tuple[Any, ...]]]]:
        """Fits to coalitions of the features that samples have; for each, which samples."""
        features = self.features
        segmented = features is None and problem.origin is None and len(problem.varied) == 1
        if segmented and len(spatial_axes(problem, problem.leaves[0])) == 2 and importlib.util.find_spec("skimage"):
            features = Superpixels()
        game = Game.of(problem, features, self.baseline, self.background)
        game.shuffle(ORDER_PART)
        xp, counts, fits = problem.xp, game.own.sum(axis=1), []
        draws = max(1, self.samples // game.removal.size)
        for own in np.unique(counts):
            rows = np.flatnonzero(counts == own)
            left = _coalitions(int(own), draws, mode, problem.streams.seed)
            padded = np.pad(left, ((0, 0), (0, game.count - int(own))), constant_values=True)
            worth = game.worth(partial(np.take, padded, axis=0), draws, [int(row) for row in rows])
            scores = xp.concat([game.rows_of(game.full(), list(rows)), worth], axis=1)
            every = np.concatenate([np.ones((1, own)), left])
            distance = 1.0 - np.sqrt(every.mean(axis=1))
            design = _Design(every, distance, self.kernel_width or 0.25, draws // 2 if mode == "image" else 0)
            fits.append((rows, self._fit(game, design, scores)))
        return game, fits

    def _rows(self, problem: Problem) -> tuple[Game, list[tuple[_Host, tuple[Any, ...]]]]:
        """Fits to rows around each row."""
        removal = resolve_removal(problem, self.baseline, self.background)
        game = Game(problem, resolve_features(problem, None), removal)
        table = _Table(problem, removal, self.discretize)
        if self.top is None and not table.discrete.any():
            return game, [self._alike(game, table)]
        xp, fits = problem.xp, []
        for row in range(problem.batch):
            points, every = table.around(row, self.samples)
            worth = self._worth(game, points, [row])
            scores = xp.concat([game.rows_of(game.full(), [row]), worth], axis=1)
            distance = np.sqrt(np.sum((every - every[0]) ** 2, axis=1))
            fits.append((np.array([row]), self._fit(game, self._design(every, distance), scores)))
        return game, fits

    def _alike(self, game: Game, table: _Table) -> tuple[_Host, tuple[Any, ...]]:
        """The fit to rows around each row if all columns move: one for all, since only the order of columns differs."""
        problem, moves = game.problem, table.moves(self.samples)
        xp, parts, orders = problem.xp, [], table.orders()
        game.arrange(orders)
        together = max(1, _TOGETHER // (self.samples * game.count))
        for block in spans(problem.batch, together, constant=problem.constant_shapes):
            worth = self._worth(game, table.moved(block.indices, moves, orders), block.indices)
            parts.append(worth[: block.size, ...])
        scores = xp.concat([game.full(), xp.concat(parts, axis=0)], axis=1)
        every = np.concatenate([np.zeros((1, game.count)), moves])
        distance = np.sqrt(np.sum(every**2, axis=1))
        values, error, r2, intercept = self._fit(game, self._design(every, distance), scores)
        # The linear model is one of standardised columns, the fit one of how far they moved.
        place = problem.to_device(np.take_along_axis(table.start, np.argsort(orders, axis=1), axis=1), like=values)
        return np.arange(problem.batch), (values, error, r2, intercept - xp.sum(place * values[:, :, 0], axis=1))

    def _design(self, every: _Host, distance: _Host) -> _Design:
        return _Design(every, distance, self.kernel_width or 0.75 * np.sqrt(every.shape[1]))

    def _worth(self, game: Game, points: list[Any], rows: list[int]) -> Any:
        """Scores (rows, samples, 1) of the neighbours of some rows."""
        problem, each = game.problem, range(self.samples)
        owners = [row for row in rows for _ in each]
        inside = problem.inside(points, owners, problem.streams.children(rows, each))
        return problem.xp.astype(
            problem.xp.reshape(inside.scores(inside.leaves), (len(rows), self.samples, 1)), game.dtype
        )

    def _fit(self, game: Game, design: _Design, scores: Any) -> tuple[Any, ...]:
        """Values and errors (samples, features, 1), R^2 and intercepts (samples,), of scores (samples, neighbours, 1)."""
        problem = game.problem
        xp = problem.xp
        share = design.weights[None, :] / design.weights.sum()
        # From the score of the input, which comes first: what does not change is zero without rounding.
        first = scores[:, :1, :]
        centre = game.weighted(share, scores - first)
        centred = scores - first - centre
        columns = np.arange(design.z.shape[1])
        if self.regularization == "ridge" and (self.top is None or self.top >= len(columns)):
            found = [self._solved(game, design, centred, columns, self.penalty, 0.0)]
        else:
            found = []
            host = problem.to_host(centred).astype(np.float64)[:, :, 0]
            for place, own in enumerate(host):
                chosen = columns if self.top is None else design.selected(own, self.top)
                shift: Any = 0.0
                if self.regularization == "lasso":
                    chosen, shift = design.active(own, chosen, self.penalty)
                penalty = self.penalty if self.regularization == "ridge" else 0.0
                one = centred[place : place + 1, ...]
                found.append(self._solved(game, design, one, chosen, penalty, shift))
        values, error, r2, slope = (xp.concat(list(parts), axis=0) for parts in zip(*found, strict=True))
        return values, error, r2[:, 0, 0], (first + centre - slope)[:, 0, 0]

    def _solved(
        self, game: Game, design: _Design, centred: Any, chosen: _Host, penalty: float, shift: Any
    ) -> tuple[Any, ...]:
        """The fit of some features; what it says of the mean row comes last."""
        problem = game.problem
        xp = problem.xp
        estimate = design.estimate(chosen, penalty)
        own = design.centred[:, chosen]
        values = game.weighted(estimate, centred)
        if np.any(shift):
            values = values - problem.to_device(shift[None, :, None], like=values)
        left = centred - game.weighted(own, values)
        total, rest = (game.weighted(design.weights[None, :], array**2) for array in (centred, left))
        varies = total > 0
        r2 = xp.where(varies, 1.0 - rest / xp.where(varies, total, xp.ones_like(total)), xp.ones_like(total))
        leverage = np.einsum("kp,pk->k", own, estimate) + design.weights / design.weights.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.where(leverage < 1.0 - 1e-6, 1.0 / (1.0 - leverage), np.nan)
        scaled, pairs = estimate * factor, design.pairs
        squares = game.weighted(scaled**2, left**2)
        if pairs:
            # What one of a pair errs by and what the other does are not independent.
            one, other = slice(1, 2 * pairs, 2), slice(2, 2 * pairs + 1, 2)
            squares = squares + game.weighted(
                2 * scaled[:, one] * scaled[:, other], left[:, one, :] * left[:, other, :]
            )
        error = xp.sqrt(xp.abs(squares))
        slope = game.weighted(design.mean[None, chosen], values)
        # Places of all features among those of the fit; features out of it are where the zero is.
        place = np.full(game.count, len(chosen))
        place[chosen] = np.arange(len(chosen))
        taken = problem.to_device(place)
        nothing = xp.zeros_like(centred[:, :1, :])
        values, error = (xp.take(xp.concat([array, nothing], axis=1), taken, axis=1) for array in (values, error))
        return values, error, r2, slope


def _coalitions(features: int, count: int, mode: str, seed: int) -> _Host:
    """Which features are left in each neighbour, (count, features); in images each second one has what the other lacks."""
    source = generator(seed, features, _DESIGN + _MODES.index(mode))
    if mode == "image":
        some = source.random((-(-count // 2), features)) < 0.5
        return np.stack([some, ~some], axis=1).reshape(-1, features)[:count]
    numbers = source.random((count, features))
    removed = source.integers(1, features + 1, size=count)
    return np.argsort(np.argsort(numbers, axis=1), axis=1) >= removed[:, None]


class _Design:
    """Neighbours as the linear model sees them, and their weights: on the host, in double precision.

    Attributes
    ----------
    z
        (neighbours, features), the input itself first.
    weights
        (neighbours,).
    mean
        Weighted mean of `z`, (features,).
    centred
        `z` minus its mean.
    pairs
        How many pairs follow the input; neighbours in none are independent.
    """

    def __init__(self, z: _Host, distance: _Host, width: float, pairs: int = 0) -> None:
        self.z, self.pairs = z.astype(np.float64), pairs
        self.weights = np.exp(-(distance**2) / (2 * width**2))
        self.mean = self.weights @ self.z / self.weights.sum()
        self.centred = self.z - self.mean
        self._root = np.sqrt(self.weights)
        self._scaled = self.centred * self._root[:, None]

    def estimate(self, chosen: _Host, penalty: float) -> _Host:
        """From centred scores to the coefficients of some features, (chosen, neighbours)."""
        scaled = self._scaled[:, chosen]
        if scaled.shape[1] <= scaled.shape[0]:
            found = _inverse(scaled.T @ scaled, penalty) @ scaled.T
        else:
            found = scaled.T @ _inverse(scaled @ scaled.T, penalty)
        return np.asarray(found * self._root)

    def selected(self, centred: _Host, top: int) -> _Host:
        """The features to fit, in order of their numbers."""
        count = self.z.shape[1]
        if top >= count:
            return np.arange(count)
        if top > _FORWARD:
            weight = np.abs(self.estimate(np.arange(count), _SELECTING) @ centred * self.z[0])
            return np.sort(np.argsort(-weight, kind="stable")[:top])
        rest, target = self._scaled.copy(), self._root * centred
        least = 1e-10 * np.sum(rest**2, axis=0)
        found: list[int] = []
        for _ in range(top):
            # What the sum of squares loses by each feature, beside those that are chosen.
            size = np.sum(rest**2, axis=0)
            gain = np.where(size > least, (rest.T @ target) ** 2 / np.maximum(size, 1e-300), -1.0)
            gain[found] = -2.0
            best = int(np.argmax(gain))
            found.append(best)
            if gain[best] >= 0:
                along = rest[:, best] / np.sqrt(size[best])
                target = target - along * (along @ target)
                rest -= np.outer(along, along @ rest)
        return np.sort(np.array(found))

    def active(self, centred: _Host, chosen: _Host, penalty: float) -> tuple[_Host, _Host]:
        """Which of some features have a lasso coefficient, and what their penalty takes from the least-squares ones.

        Accelerated proximal gradient steps (Beck and Teboulle 2009) find them; then the solution is exact.

        Raises
        ------
        ConvergenceError
            If the conditions of an optimum are not met after very many steps.
        """
        scaled, half = self._scaled[:, chosen], 0.5 * penalty
        few = scaled.shape[1] <= scaled.shape[0]
        gram = scaled.T @ scaled if few else scaled
        toward = scaled.T @ (self._root * centred)
        size = float(np.linalg.norm(gram, 2)) if few else float(np.linalg.norm(gram, 2)) ** 2
        step = 1.0 / max(size, 1e-300)
        now = ahead = np.zeros(scaled.shape[1])
        pace = 1.0
        for turn in range(_STEPS):
            moved = ahead + step * (toward - (gram @ ahead if few else gram.T @ (gram @ ahead)))
            new = np.sign(moved) * np.maximum(np.abs(moved) - half * step, 0.0)
            if (ahead - new) @ (new - now) > 0:
                pace = 1.0
            faster = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * pace**2))
            ahead, now, pace = new + (pace - 1.0) / faster * (new - now), new, faster
            if turn % _CHECKED:
                continue
            inside = np.flatnonzero(now)
            part, sign = scaled[:, inside], np.sign(now[inside])
            inverse = _inverse(part.T @ part, 0.0)
            shift = inverse @ (half * sign)
            exact = inverse @ toward[inside] - shift
            slack = 1e-9 * float(np.max(np.abs(toward), initial=0.0))
            outside = np.abs(toward - scaled.T @ (part @ exact)) - half
            outside[inside] = 0.0
            if np.all(exact * sign > 0) and np.all(outside <= slack):
                return chosen[inside], shift
        raise ConvergenceError(
            f"The lasso fit of LIME was not found within {_STEPS} steps.",
            received=f"{len(centred)} neighbours, {len(chosen)} features",
            fix="regularization='ridge', or more samples.",
        )


_STEPS, _CHECKED = 20_000, 20


def _inverse(gram: _Host, penalty: float) -> _Host:
    """Inverse of a matrix with a penalty on its diagonal, without the directions of which nothing is known."""
    if penalty > 0:
        return np.linalg.inv(gram + penalty * np.eye(len(gram)))
    return np.linalg.pinv(gram, rcond=1e-12, hermitian=True) if len(gram) else gram


class _Table:
    """Neighbours of rows of tables."""

    def __init__(self, problem: Problem, removal: Removal, discretize: bool) -> None:
        self._problem = problem
        self._x = _columns(problem, problem.varied)
        self._data = _columns(problem, removal.arrays)
        self._mean, self._scale = self._data.mean(axis=0), self._data.std(axis=0)
        self._widths = [int(leaf.shape[1]) for leaf in problem.varied]
        self._category = np.concatenate([_categories(problem, p) for p in range(len(problem.varied))])
        self._cuts = np.percentile(self._data, [25, 50, 75], axis=0) if discretize else None
        self.discrete = self._category if self._cuts is None else np.ones_like(self._category)
        self.start = (self._x - self._mean) / np.where(self._scale > 0, self._scale, 1.0)

    def moves(self, count: int) -> _Host:
        """Standard normal moves (count, columns), of columns that vary, these first."""
        source = generator(self._problem.streams.seed, len(self._scale), _DESIGN + _MODES.index("table"))
        return source.standard_normal((count, len(self._scale))) * (np.sort(self._scale)[::-1] > 0)

    def orders(self) -> _Host:
        """Which column of the moves each column has, (rows, columns): in random order, those that do not vary last."""
        varies = self._scale > 0
        found = np.empty(self._x.shape, dtype=np.int64)
        for row in range(len(found)):
            order = self._problem.streams.generator(row, 0, ORDER_PART).permutation(int(varies.sum()))
            found[row, varies] = order
            found[row, ~varies] = np.arange(len(order), len(varies))
        return found

    def moved(self, rows: list[int], moves: _Host, orders: _Host) -> list[Any]:
        """Neighbours of some rows, row by row, as leaves of the problem."""
        own = np.moveaxis(moves[:, orders[rows]], 0, 1)
        values = self._x[rows][:, None, :] + self._scale * own
        return self._leaves(rows, values.reshape(-1, values.shape[2]))

    def around(self, row: int, count: int) -> tuple[list[Any], _Host]:
        """Neighbours as leaves of the problem, and as the linear model sees them, the row itself first."""
        source = self._problem.streams.generator(row, 0, NEIGHBOUR_PART)
        x, shape = self._x[row], (count, len(self._x[row]))
        moves = source.standard_normal(shape) * (self._scale > 0)
        drawn = np.take_along_axis(self._data, source.integers(len(self._data), size=shape), axis=0)
        same = drawn == x
        if self._cuts is not None:
            quartiles = np.sum(drawn > self._cuts[:, None, :], axis=0) == np.sum(x > self._cuts, axis=0)
            same = np.where(self._category, same, quartiles)
        start, discrete = self.start[row], self.discrete
        values = np.where(discrete, drawn, x + self._scale * moves)
        seen = np.where(discrete, same, start + moves)
        return self._leaves([row], values), np.concatenate([np.where(discrete, 1.0, start)[None], seen])

    def _leaves(self, rows: list[int], values: _Host) -> list[Any]:
        problem, found, start = self._problem, [], 0
        for leaf, width in zip(problem.varied, self._widths, strict=True):
            own, start = values[:, start : start + width], start + width
            found.append(problem.xp.astype(problem.to_device(own, like=leaf), leaf.dtype))
        place = problem.to_device(np.repeat(np.asarray(rows, dtype=np.int64), len(values) // len(rows)))
        return found + [problem.xp.take(leaf, place, axis=0) for leaf in problem.leaves[len(found) :]]


def _columns(problem: Problem, arrays: list[Any]) -> _Host:
    """Columns of all inputs side by side, on the host."""
    hosts = [problem.to_host(array).astype(np.float64) for array in arrays]
    return np.concatenate(hosts[: len(problem.varied)], axis=1)


def _categories(problem: Problem, position: int) -> _Host:
    """Which columns of an input hold no numbers, or whole ones alone."""
    leaf = problem.varied[position]
    width, frame = int(leaf.shape[1]), problem.bound.frame_of(position)
    if not is_floating(leaf):
        return np.ones(width, dtype=bool)
    coded = () if frame is None or problem.origin is not None else frame.coded
    return np.array([column in coded for column in (frame.columns if coded and frame else range(width))], dtype=bool)
