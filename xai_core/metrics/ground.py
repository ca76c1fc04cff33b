"""What metrics stand on: one model with the inputs and the target that were explained, and what is known of them already.

Scores of changed inputs are kept, so that metrics that ask for the same rows, of one explanation or of several, share them:
inputs without their most relevant features by how many these are, inputs without random features, the baseline itself. The
model runs on its device; of each row one number comes to the host, where correlations and areas are computed in double
precision, and where it is looked up which feature comes when.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from xai_core.attribution.ablation import lost_one_by_one
from xai_core.attribution.base import Explainer
from xai_core.attribution.game import Game, Removal, resolve_removal
from xai_core.attribution.noise import noise_spreads, noisy_copies
from xai_core.blocks import spans
from xai_core.errors import CapabilityError, OptionError
from xai_core.explanation import Explanation, to_host
from xai_core.features import Features, Patches, resolve_features
from xai_core.metrics.statistics import total
from xai_core.model import Net
from xai_core.problem import Problem, gather, mix, open_problem, resolve, resolve_beside, resolve_predicted
from xai_core.progress import Progress
from xai_core.streams import check_seed
from xai_core.structure import flatten
from xai_core.targets import Pick

__all__ = ["PIXELS", "Ground", "Order", "Relevance", "open_ground", "values_on_host"]

_Host = np.ndarray[Any, Any]

PIXELS = Patches(1)
"""Every position of an image, signal or text, with all its channels; every column of a table."""
TIE_PART, SUBSET_PART = 3_500_000, 3_500_001
"""Stream parts of the order of equal values, and of which features are in random subsets."""


@dataclass(frozen=True, eq=False)
class Relevance:
    """Values of features.

    Attributes
    ----------
    key
        Tells it from other explanations and features.
    features
        The features.
    values
        Sums of the values at the elements of each feature, (batch, features).
    """

    key: Hashable
    features: Features
    values: _Host

    @property
    def own(self) -> _Host:
        """Which features each sample has, (batch, features)."""
        return np.broadcast_to(self.features.sizes > 0, self.values.shape)


@dataclass(frozen=True, eq=False)
class Order:
    """Which feature comes when: rank 0 is the most relevant.

    Attributes
    ----------
    key
        Tells it from other orders.
    features
        The features.
    ranks
        Rank of each feature, (batch, features).
    """

    key: Hashable
    features: Features
    ranks: _Host

    @property
    def length(self) -> _Host:
        """How many features each sample has, (batch,)."""
        return np.broadcast_to(np.sum(self.features.sizes > 0, axis=1), len(self.ranks))

    def backwards(self) -> Order:
        """The same from the least relevant feature; those that a sample lacks come last here too."""
        own = self.length[:, None]
        return Order(
            (self.key, "backwards"), self.features, np.where(self.ranks < own, own - 1 - self.ranks, self.ranks)
        )


class Ground:
    """A model with inputs and target, and scores of changed inputs that are known.

    Attributes
    ----------
    seed
        Seed of random numbers.
    """

    def __init__(self, problem: Problem | None, seed: int) -> None:
        self._opened, self.seed = problem, seed
        self._settled: Problem | None = None
        self._known: dict[Hashable, Any] = {}
        self._held: list[Any] = []

    @property
    def opened(self) -> Problem:
        """The model, inputs and target, on the model's device; their score may not be known yet."""
        if self._opened is None:
            raise CapabilityError("This metric runs the model, and none was given.", received="model=None")
        return self._opened if self._settled is None else self._settled

    @property
    def problem(self) -> Problem:
        """The same with the score of the inputs, which is found out and checked when it is first asked for."""
        if self._settled is None:
            self._settled = resolve(self.opened)
        return self._settled

    @property
    def work(self) -> tuple[int, int]:
        """Model rows so far, forward and backward."""
        return (0, 0) if self._opened is None else (self._opened.work.forward, self._opened.work.backward)

    @property
    def batch(self) -> int:
        return self.opened.batch

    def known(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make()` gives, made once for each key."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def score(self) -> _Host:
        """Score of the inputs, (batch,)."""
        return self.known("score", lambda: self.on_host(self.problem.scores_or_known()))

    def rounding(self) -> float:
        """What scores of the model's dtype may differ by, relative to their size, without a reason."""
        eps = float(np.finfo(self.problem.host_dtype(self.problem.scores_or_known())).eps)
        return 64.0 * eps

    def on_host(self, array: Any) -> _Host:
        """An array of the model's framework in double precision on the host."""
        return np.asarray(self.opened.to_host(array)).astype(np.float64)

    def key(self, option: Any) -> Hashable:
        """What an option is compared by: its value, or for arrays and explanations the object itself."""
        try:
            hash(option)
        except TypeError:
            # Held, since an object that has gone may leave its identity to another.
            self._held.append(option)
            return "object", id(option)
        return type(option).__name__, option

    def features(self, spec: Any) -> Features:
        """What `features=` of a metric says about the inputs."""
        return self.known(("features", self.key(spec)), lambda: resolve_features(self.opened, spec))

    def removal(self, baseline: Any, background: Any = None) -> Removal:
        """What `baseline=` and `background=` say."""
        key = ("removal", self.key(baseline), self.key(background))
        return self.known(key, lambda: resolve_removal(self.opened, baseline, background))

    def relevance(self, explanation: Explanation, spec: Any, off: Any = None) -> Relevance:
        """Values of features, from those of elements; with a baseline `off`, times how far the inputs are from it.

        Raises
        ------
        OptionError
            If the values have no place in the inputs.
        """
        key = ("relevance", self.key(explanation), self.key(spec), self.key(off))

        def make() -> Relevance:
            features = self.features(spec)
            parts = values_on_host(explanation, [tuple(leaf.shape) for leaf in self.opened.varied])
            if off is not None:
                parts = [part * self._away(off, place) for place, part in enumerate(parts)]
            sums = np.zeros((self.batch, features.count))
            for labels, part in zip(features.labels, parts, strict=True):
                sums += _sums_by_label(labels, part, features.count)
            return Relevance(key, features, sums)

        return self.known(key, make)

    def order(self, explanation: Explanation, spec: Any, by: str = "sum") -> Order:
        """Features from the most relevant one: `by` the `"sum"`, the `"mean"` of a feature's values, or their `"size"`.

        Equal values come in random order, so that a map that says nothing gets the score of chance. Features that a
        sample lacks come last.
        """
        key = ("order", self.key(explanation), self.key(spec), by)

        def make() -> Order:
            found = self.relevance(explanation, spec)
            values, features = found.values, found.features
            if by == "mean":
                values = values / np.maximum(features.sizes, 1)
            elif by == "size":
                values = np.abs(values)
            return Order(key, features, self._ranks(values, found.own))

        return self.known(key, make)

    def chance(self, spec: Any) -> Order:
        """A random order."""
        features = self.features(spec)
        none = np.zeros((self.batch, features.count))
        own = np.broadcast_to(features.sizes > 0, none.shape)
        key = ("chance", self.key(spec))
        return self.known(key, lambda: Order(key, features, self._ranks(none, own)))

    def _ranks(self, values: _Host, own: _Host) -> _Host:
        ranks = np.empty(values.shape, dtype=np.int64)
        falling = np.where(own, -values, np.inf)
        for row in range(len(values)):
            # Shuffled first: a stable sort then leaves equal values in random order.
            chance = self.opened.streams.generator(row, 0, TIE_PART).permutation(values.shape[1])
            ranks[row, chance[np.argsort(falling[row, chance], kind="stable")]] = np.arange(values.shape[1])
        return ranks

    def removed(self, order: Order, baseline: Any, low: _Host, high: _Host) -> _Host:
        """Scores (batch, intervals) of inputs without the features of rank `low` to `high`, the latter not included."""
        count = order.features.count
        wanted = [(int(a), int(b)) if a < b else (0, 0) for a, b in zip(low, high, strict=True)]
        key = ("removed", order.key, self.key(baseline))
        table, numbers = self.known(key, lambda: ([], {}))
        # Without any feature an input is the baseline, whatever the features are, if these cover it.
        everything = ("nothing", self.key(baseline), self._covered(order.features) or self.key(order.features))
        for span in ((0, 0), (0, count)):
            shared = self.score() if span == (0, 0) else self._known.get(everything)
            if span in wanted and span not in numbers and shared is not None:
                numbers[span] = len(table)
                table.append(shared)
        missing = sorted(set(wanted) - set(numbers))
        if missing:
            ends = np.asarray(missing)

            def masks(chosen: Sequence[int]) -> _Host:
                some, ranks = ends[np.asarray(chosen)], np.arange(count)[None, :]
                return (ranks < some[:, :1]) | (ranks >= some[:, 1:])

            game = self.known((key, "game"), lambda: self._game(order, baseline))
            found = self.on_host(game.worth(masks, len(missing)))[:, :, 0]
            for number, span in enumerate(missing):
                numbers[span] = len(table)
                table.append(found[:, number])
                if span == (0, count):
                    self._known[everything] = found[:, number]
        return np.stack([table[numbers[span]] for span in wanted], axis=1)

    def _covered(self, features: Features) -> bool:
        """Whether no element is left when all features are removed."""
        return all(bool(np.all(labels >= 0)) for labels in features.labels)

    def _game(self, order: Order, baseline: Any) -> Game:
        game = Game(self.problem, order.features, self.removal(baseline))
        game.arrange(order.ranks)
        return game

    def subsets(self, spec: Any, baseline: Any, name: Hashable, masks: Callable[[], _Host]) -> tuple[_Host, _Host]:
        """Scores (batch, subsets) of inputs without random subsets, and what is in these: see `chance_columns`.

        `masks()` are (subsets, features): which columns are removed, where each sample has its features in columns of an
        order of its own. `name` tells these masks from others. They do not depend on any explanation.
        """
        gone = self.known(("masks", self.key(spec), name), masks)

        def make() -> _Host:
            game = Game(self.problem, self.features(spec), self.removal(baseline))
            game.arrange(self.chance_columns(spec))
            return self.on_host(game.worth(lambda numbers: ~gone[np.asarray(numbers)], len(gone)))[:, :, 0]

        return self.known(("subsets", self.key(spec), self.key(baseline), name), make), gone

    def sums(self, relevance: Relevance, spec: Any, gone: _Host) -> _Host:
        """Sums of the values of the features in subsets, (batch, subsets)."""
        columns = np.zeros_like(relevance.values)
        np.put_along_axis(columns, self.chance_columns(spec), relevance.values, axis=1)
        return np.asarray(columns @ gone.T.astype(np.float64))

    def lost(self, spec: Any, baseline: Any) -> _Host:
        """What the score loses without each feature alone, (batch, features)."""

        def make() -> _Host:
            game = Game(self.problem, self.features(spec), self.removal(baseline))
            return self.on_host(lost_one_by_one(game))[:, :, 0]

        return self.known(("lost", self.key(spec), self.key(baseline)), make)

    def predicted(self, count: int = 1) -> tuple[_Host, tuple[int, ...]]:
        """Classes of the highest score of each sample, (batch, count), one or two, and the shape of the outputs of one.

        Outputs with more axes are taken as one list of classes; a single output comes twice.
        """

        def make() -> tuple[_Host, tuple[int, ...]]:
            if count == 1 and ("predicted", 2) in self._known:
                both, shape = self.predicted(2)
                return both[:, :1], shape
            self._settled, largest, shape = resolve_predicted(self.opened, count)
            return self._settled.to_host(largest), shape

        return self.known(("predicted", count), make)

    def chance_columns(self, spec: Any) -> _Host:
        """Features of each sample in a random order of its own, those that it lacks last, (batch, features)."""
        key = ("columns", self.key(spec))

        def make() -> _Host:
            features = self.features(spec)
            own = np.broadcast_to(features.sizes > 0, (self.batch, features.count))
            found = np.empty(own.shape, dtype=np.int64)
            for row in range(self.batch):
                order = self.problem.streams.generator(row, 0, SUBSET_PART).permutation(int(own[row].sum()))
                found[row, own[row]] = order
                found[row, ~own[row]] = np.arange(len(order), features.count)
            return found

        return self.known(key, make)

    def _away(self, baseline: Any, position: int) -> _Host:
        """How far an input is from the baseline, (batch, ...)."""
        leaf, filling = self.opened.leaves[position], self.removal(baseline).arrays[position]
        return self.on_host(leaf) - self.on_host(filling)

    def per_unit(self, values: list[_Host], baseline: Any) -> list[_Host]:
        """Values by how far the inputs are from the baseline; zero where they are not.

        A map with one channel is divided among the channels.
        """
        found = []
        for position, part in enumerate(values):
            away = self._away(baseline, position)
            share = part * (part.size / away.size)
            found.append(np.where(away != 0, share / np.where(away != 0, away, 1.0), 0.0))
        return found

    def noisy(
        self, noise: float, samples: int, use: int, where: list[_Host] | None = None
    ) -> Iterator[tuple[list[_Host], _Host]]:
        """Blocks of draws of Gaussian noise, and the scores (batch, draws) of the inputs with it.

        Yields the noise of each input, (batch, draws, ...), in units of its standard deviation, which is `noise` times
        each sample's range (see `spreads`), and that times what `where` says for each input, (batch, ...), broadcasting
        to it.

        Raises
        ------
        IntegerInputError
            If no input can take noise.
        """
        problem = self.problem
        spreads = [*self.spreads(noise), *[None] * (len(problem.leaves) - len(problem.varied))]
        if where is not None:
            spreads[: len(where)] = [
                None if spread is None else spread * problem.to_device(share, like=spread)
                for spread, share in zip(spreads, where, strict=False)
            ]
        every = range(self.batch)
        together = min(problem.rows, max(1, problem.held // self.batch))
        for block in spans(samples, together, constant=problem.constant_shapes):
            drawn = [
                None if spread is None else problem.normal(every, block.indices, position, part=use + position)
                for position, spread in enumerate(spreads)
            ]
            parts = []
            for some in spans(self.batch, max(1, problem.rows // block.width), constant=problem.constant_shapes):
                rows = problem.indices(some.indices)
                # Blocks that no rows fill up are parts of the draws as they are.
                place = some.indices if some.size < some.width else slice(some.start, some.start + some.size)
                normals = [
                    None if normal is None else problem.to_device(normal[place], leaf)
                    for normal, leaf in zip(drawn, problem.leaves, strict=True)
                ]
                found = problem.run(_Noisy(problem.pick), problem.leaves, normals, spreads, rows, problem.index)
                problem.work.add(some.width * block.width)
                parts.append((found, some.size))
            # Asked for when all calls have begun: some frameworks run them while the host makes the next one's inputs.
            scores = np.concatenate([self.on_host(found)[:size] for found, size in parts])
            used = [
                np.zeros((self.batch, block.size, *(1 for _ in leaf.shape[1:])), np.float32)
                if normal is None
                else normal[:, : block.size]
                for normal, leaf in zip(drawn, problem.varied, strict=False)
            ]
            yield used, scores[:, : block.size]

    def spreads(self, noise: float) -> list[Any]:
        """`noise` times the range of each sample, on the device, broadcasting to each input; `None` for integers.

        Raises
        ------
        IntegerInputError
            If no input can take noise.
        """
        fix = "use a metric that removes features, such as Deletion."
        return self.known(("spreads", noise), lambda: noise_spreads(self.problem, noise, fix))

    def explained(self, explainer: Explainer, leaves: list[Any], draws: Sequence[int]) -> list[_Host]:
        """Values of changed inputs, of which each sample has one for each draw in a row: (batch, draws, ...) per input.

        The explained output is that of the sample; random numbers of the explainer belong to sample and draw.
        """
        problem, each = self.problem, len(draws)
        if explainer.uses_gradients():
            problem.bound.require_gradient(type(explainer).__name__)
        rows = [row for row in range(problem.batch) for _ in range(each)]
        inside = problem.inside(leaves, rows, problem.streams.children(range(problem.batch), draws))
        found = explainer.attribute_at_layer(inside).values
        hosts = [self.on_host(value) for value in found]
        return [host.reshape(problem.batch, each, *host.shape[1:]) for host in hosts]

    def scores_beside(self, others: list[Any], shares: list[Any] | None = None) -> _Host:
        """Scores (batch,) of changed inputs, which the model sees together with the inputs if their score is not known.

        An input is changed into the other one, or kept by the share of each element from 0 to 1.
        """
        shares = [None] * len(others) if shares is None else shares
        if self._settled is not None:
            return self.scores_of(mix(self.problem, others, shares))[:, 0]
        self._settled, found = resolve_beside(self.opened, others, shares)
        return self.on_host(found)

    def scores_of(self, leaves: list[Any], each: int = 1) -> _Host:
        """Scores (batch, each) of changed inputs, of which each sample has some in a row."""
        problem = self.problem
        rows = [row for row in range(problem.batch) for _ in range(each)]
        inside = problem.inside(leaves, rows, problem.streams.children(range(problem.batch), range(each)))
        return self.on_host(inside.scores(inside.leaves)).reshape(problem.batch, each)


def values_on_host(explanation: Explanation, shapes: Sequence[tuple[int, ...]]) -> list[_Host]:
    """Values in double precision, one array for each input, of its rank, each side that of the input or 1.

    Values of the embedding of a token are summed, so that each token has one.

    Raises
    ------
    OptionError
        If the values have no place in inputs of these shapes.
    """
    parts = [to_host(value).astype(np.float64) for value in flatten(explanation.values)[0]]
    if len(parts) == len(shapes):
        found = [_placed(part, shape) for part, shape in zip(parts, shapes, strict=True)]
        if all(part is not None for part in found):
            return [part for part in found if part is not None]
    raise OptionError(
        "The values of this explanation have no place in the inputs, by which a metric could change these.",
        received=f"values of shape {', '.join(str(part.shape) for part in parts)}"
        + (f" at layer {explanation.layer!r}" if explanation.layer else "")
        + f", inputs of shape {', '.join(map(str, shapes))}",
        fix="explain the inputs themselves, the embedding of tokens, or use a class activation map.",
    )


def _placed(part: _Host, shape: tuple[int, ...]) -> _Host | None:
    if part.ndim > len(shape) and part.shape[: len(shape)] == shape:
        part = part.reshape(*shape, -1).sum(axis=-1)
    fits = part.ndim == len(shape) and part.shape[0] == shape[0]
    return part if fits and all(a in (1, b) for a, b in zip(part.shape, shape, strict=True)) else None


def _sums_by_label(labels: _Host, part: _Host, count: int) -> _Host:
    """Sums (batch, count) of the values of each sample at the elements that have a label."""
    batch = len(part)
    # Elements that no label tells apart come together first; a map with one channel counts once.
    for axis in range(1, part.ndim):
        if labels.shape[axis] == 1:
            part = total(part, axis)
    # Where channels are features of their own, each gets the value of such a map.
    wide = np.broadcast_to(part, (batch, *labels.shape[1:])).reshape(batch, -1)
    if len(labels) == 1 and np.array_equal(labels.reshape(-1), np.arange(count)):
        return wide
    # One more for what has no label.
    shifted = np.where(labels >= 0, labels, count).reshape(len(labels), -1)
    places = shifted + (count + 1) * np.arange(batch)[:, None]
    sums = np.bincount(places.reshape(-1), weights=wide.reshape(-1), minlength=batch * (count + 1))
    return sums.reshape(batch, count + 1)[:, :count]


@dataclass(frozen=True)
class _Noisy:
    """Kernel: scores (rows, draws) of inputs with noise; `normals` are (rows, draws, ...), or `None` where there is none."""

    pick: Pick

    def __call__(
        self, net: Net, leaves: list[Any], normals: list[Any], spreads: list[Any], rows: Any, index: Any
    ) -> Any:
        xp = net.xp
        draws = next(tuple(normal.shape)[1] for normal in normals if normal is not None)
        noisy = []
        for leaf, normal, spread in zip(leaves, normals, spreads, strict=True):
            own = gather(xp, leaf, rows)
            if normal is None:
                noisy.append(xp.repeat(own, draws, axis=0))
            else:
                noisy.append(noisy_copies(xp, own, normal, gather(xp, spread, rows)))
        own = None if index is None else xp.repeat(gather(xp, index, rows), draws, axis=0)
        return xp.reshape(self.pick(xp, net(noisy), own), (-1, draws))


@contextmanager
def open_ground(
    model: Any,
    explanation: Explanation,
    metric: Any,
    scale: Any,
    seed: int | None,
    index: Any = None,
    quiet: bool = False,
) -> Iterator[Ground]:
    """The ground of a metric on an explanation, with the model left as it was."""
    number = check_seed(explanation.seed if seed is None else seed)
    name = type(metric).__name__
    if "model" not in metric.needs:
        yield Ground(None, number)
        return
    explainer = explanation.explainer
    bars: list[Progress] = []

    def progress(batch: int) -> Progress | None:
        if not quiet:
            bars.append(Progress(name, None))
        return bars[0] if bars else None

    try:
        with open_problem(
            model,
            explanation.inputs,
            target=explanation.target,
            seed=number,
            index=index,
            method=name,
            differentiates=False,
            floating=False,
            neuron=None if explainer is None else explainer.neuron,
            progress=progress,
            scale=scale,
            defer=True,
        ) as problem:
            yield Ground(problem, number)
    finally:
        for bar in bars:
            bar.close()
