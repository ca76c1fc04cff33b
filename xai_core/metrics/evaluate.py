"""Several explanations judged by several metrics, which share what they ask of the model."""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from xai_core.backend import backend_of_array
from xai_core.errors import BackendError, OptionError, describe
from xai_core.explanation import Explanation
from xai_core.metrics.base import Metric, Scores, check_explanation, check_model, judge, metric_class
from xai_core.metrics.ground import Ground, open_ground
from xai_core.structure import flatten

__all__ = ["Evaluation", "evaluate"]

_Host = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Scores of explanations by metrics.

    Attributes
    ----------
    scores
        By name of the explanation and of the metric.
    rows
        Model rows evaluated forward and backward, for all of them.
    seed
        Seed of the bootstrap.
    """

    scores: Mapping[str, Mapping[str, Scores]]
    rows: tuple[int, int]
    seed: int = 0

    @property
    def explanations(self) -> tuple[str, ...]:
        """Names of the explanations."""
        return tuple(self.scores)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics."""
        return tuple(next(iter(self.scores.values())))

    @property
    def values(self) -> _Host:
        """Score of each sample, (explanations, metrics, batch)."""
        return np.stack([np.stack([cell.values for cell in row.values()]) for row in self.scores.values()])

    def mean(self) -> _Host:
        """Mean over the samples, (explanations, metrics), without those for which a metric is not defined (NaN)."""
        return _mean(self.values)

    def interval(self, level: float = 0.95, resamples: int = 1000) -> _Host:
        """Bootstrap interval of the mean over the samples, (explanations, metrics, 2).

        Percentiles of the means of samples drawn with replacement, the same draws for all explanations and metrics.

        Source: Efron 1979, "Bootstrap methods: another look at the jackknife".
        """
        if not 0 < level < 1:
            raise OptionError("`level` must lie between 0 and 1.", received=describe(level), fix="level=0.95")
        values = self.values
        batch = values.shape[2]
        drawn = np.random.default_rng(self.seed).integers(batch, size=(resamples, batch))
        # How often each sample comes up, so that one product serves all means.
        counts = np.stack([np.bincount(row, minlength=batch) for row in drawn]).astype(np.float64)
        known = np.isfinite(values)
        total = np.where(known, values, 0.0) @ counts.T
        weight = known.astype(np.float64) @ counts.T
        means = np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), np.nan)
        out = np.full((*values.shape[:2], 2), np.nan)
        ends = (1 - level) / 2, 1 - (1 - level) / 2
        for place in np.ndindex(*values.shape[:2]):
            own = means[place][np.isfinite(means[place])]
            if own.size:
                out[place] = np.quantile(own, ends)
        return out

    def to_pandas(self, *, samples: bool = False, level: float | None = None) -> Any:
        """A DataFrame, rows explanations, columns metrics.

        Parameters
        ----------
        samples
            A row for each explanation and sample instead of means.
        level
            Columns mean, low and high for each metric, of the bootstrap interval at this level.

        Raises
        ------
        BackendError
            If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise BackendError("A DataFrame needs pandas, which is not installed.", fix="pip install pandas") from error
        names, columns = list(self.explanations), list(self.metrics)
        if samples:
            values = self.values
            index = pandas.MultiIndex.from_product([names, range(values.shape[2])], names=["explanation", "sample"])
            return pandas.DataFrame(np.moveaxis(values, 1, 2).reshape(-1, len(columns)), index=index, columns=columns)
        index = pandas.Index(names, name="explanation")
        if level is None:
            return pandas.DataFrame(self.mean(), index=index, columns=columns)
        both = np.concatenate([self.mean()[:, :, None], self.interval(level)], axis=2)
        wide = pandas.MultiIndex.from_product([columns, ["mean", "low", "high"]], names=["metric", None])
        return pandas.DataFrame(both.reshape(len(names), -1), index=index, columns=wide)

    def _cells(self) -> list[list[str]]:
        """The table as text: means with half the width of their intervals, and which way is better."""
        mean, ends = self.mean(), self.interval()
        arrows = {"higher": " ↑", "lower": " ↓", None: ""}
        first = next(iter(self.scores.values()))
        head = ["", *(name + arrows[cell.metric.direction] for name, cell in first.items())]
        several = self.values.shape[2] > 1
        body = []
        for row, name in enumerate(self.explanations):
            cells = [
                f"{mean[row, column]:.3g}"
                + (f" ± {(ends[row, column, 1] - ends[row, column, 0]) / 2:.2g}" if several else "")
                for column in range(len(self.metrics))
            ]
            body.append([name, *cells])
        return [head, *body]

    def __repr__(self) -> str:
        cells = self._cells()
        widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
        lines = []
        for row in cells:
            first, *others = (text.rjust(width) for text, width in zip(row, widths, strict=True))
            lines.append("  ".join([row[0].ljust(len(first)), *others]))
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        head, *body = self._cells()
        rows = ["<tr>" + "".join(f"<th>{html.escape(text)}</th>" for text in head) + "</tr>"]
        for name, *cells in body:
            rows.append(
                f"<tr><th>{html.escape(name)}</th>" + "".join(f"<td>{html.escape(c)}</td>" for c in cells) + "</tr>"
            )
        return f"<table>{''.join(rows)}</table>"


def _mean(values: _Host) -> _Host:
    known = np.isfinite(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0.0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def evaluate(
    model: Any,
    explanations: Any,
    metrics: Any,
    *,
    masks: Any = None,
    seed: int | None = None,
    index: Any = None,
    progress: bool = True,
) -> Evaluation:
    """Judge explanations of one model by metrics.

    Metrics that ask for the same changed inputs share them: of one explanation those in the same order of features, and of
    several explanations of the same inputs and target whatever does not depend on the values, such as inputs without random
    features. The results are those that each metric gives by itself.

    Parameters
    ----------
    model
        The model that was explained, raw or wrapped; `None` if no metric runs it.
    explanations
        `{name: explanation}`, a list, or one.
    metrics
        A list of metrics, their names, or `{name: metric}`.
    masks
        For metrics of localisation, what should be found, `(batch, *spatial)`.
    seed
        Seed of the metrics' random numbers; `None`: that of each explanation.
    index
        What sample `i` is called in the random streams, as for explainers.
    progress
        Show a progress bar on standard error.

    Returns
    -------
    Evaluation
        A table; `.to_pandas()`, `.mean()`, `.interval()`, and `.scores` with all there is.

    Raises
    ------
    XaiError
        The errors of the metrics; no work is done before all of them are checked against all explanations.
    """
    named, chosen = _explanations(explanations), _metrics(metrics)
    for explanation in named.values():
        for metric in chosen.values():
            check_explanation(metric, explanation, masks)
            check_model(metric, model)
    sizes = {name: len(explanation) for name, explanation in named.items()}
    if len(set(sizes.values())) != 1:
        raise OptionError(
            "Explanations in one table must have the same number of samples.",
            received=", ".join(f"{name}: {size}" for name, size in sizes.items()),
        )
    found: dict[str, dict[str, Scores]] = {}
    with ExitStack() as stack:
        grounds = _Grounds(model, stack, seed, index)
        for name, metric_name in _shown(named, chosen, progress):
            explanation, metric = named[name], chosen[metric_name]
            ground = grounds.of(explanation, metric)
            found.setdefault(name, {})[metric_name] = judge(metric, ground, explanation, masks)
        return Evaluation(found, grounds.rows)


class _Grounds:
    """Grounds that are open, each for all explanations of the same inputs and target."""

    def __init__(self, model: Any, stack: ExitStack, seed: int | None, index: Any) -> None:
        self._model, self._stack, self._seed, self._index = model, stack, seed, index
        self._open: list[tuple[Explanation, Any, Ground]] = []

    def of(self, explanation: Explanation, metric: Metric) -> Ground:
        kind = metric.scale if "model" in metric.needs else "none"
        for other, known, ground in self._open:
            if known == kind and _same_question(explanation, other, self._seed):
                return ground
        ground = self._stack.enter_context(
            open_ground(self._model, explanation, metric, metric.scale, self._seed, self._index, quiet=True)
        )
        self._open.append((explanation, kind, ground))
        return ground

    @property
    def rows(self) -> tuple[int, int]:
        work = [ground.work for _, _, ground in self._open]
        return sum(forward for forward, _ in work), sum(backward for _, backward in work)


def _same_question(a: Explanation, b: Explanation, seed: int | None) -> bool:
    """Whether two explanations explain the same scores of the same inputs."""
    neurons = [None if e.explainer is None else e.explainer.neuron for e in (a, b)]
    return (
        (seed is not None or a.seed == b.seed)
        and neurons[0] == neurons[1]
        and _equal(a.target, b.target)
        and _equal(a.inputs, b.inputs)
    )


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if callable(a) or callable(b) or a is None or b is None:
        return False
    (some, first), (others, second) = flatten(a), flatten(b)
    return first.names == second.names and all(
        x is y or np.array_equal(_host(x), _host(y)) for x, y in zip(some, others, strict=True)
    )


def _host(array: Any) -> Any:
    backend = backend_of_array(array)
    return np.asarray(array) if backend is None else backend.to_numpy(array)


def _explanations(given: Any) -> dict[str, Explanation]:
    if isinstance(given, Explanation):
        given = [given]
    if isinstance(given, Mapping):
        named = {str(name): explanation for name, explanation in given.items()}
    elif isinstance(given, Sequence) and not isinstance(given, str):
        named = _numbered([(_name_of(explanation), explanation) for explanation in given])
    else:
        named = {}
    if not named:
        raise OptionError(
            "`explanations` are {name: explanation}, a list, or one.",
            received=describe(given),
            fix='{"ig": explanation}',
        )
    return named


def _name_of(explanation: Any) -> str:
    explainer = getattr(explanation, "explainer", None)
    return "explanation" if explainer is None else str(explainer.method_name())


def _metrics(given: Any) -> dict[str, Metric]:
    if isinstance(given, (Metric, str, type)):
        given = [given]
    pairs: list[tuple[str | None, Any]]
    if isinstance(given, Mapping):
        pairs = [(str(name), metric) for name, metric in given.items()]
    elif isinstance(given, Iterable):
        pairs = [(None, metric) for metric in given]
    else:
        pairs = [(None, given)]
    made = []
    for name, metric in pairs:
        if isinstance(metric, str):
            metric = metric_class(metric)()
        elif isinstance(metric, type) and issubclass(metric, Metric):
            metric = metric()
        if not isinstance(metric, Metric):
            raise OptionError(
                "`metrics` are metrics or their names.", received=describe(metric), fix='[xai.Deletion(), "sparseness"]'
            )
        made.append((type(metric).__name__ if name is None else name, metric))
    if not made:
        raise OptionError("`metrics` is empty.", received=describe(given), fix="[xai.Deletion()]")
    return _numbered(made)


def _numbered(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """By name; equal names get numbers."""
    names = [name for name, _ in pairs]
    found: dict[str, Any] = {}
    for place, (name, value) in enumerate(pairs):
        found[name if names.count(name) == 1 else f"{name} {names[:place].count(name) + 1}"] = value
    return found


def _shown(explanations: Mapping[str, Any], metrics: Mapping[str, Any], progress: bool) -> Iterator[tuple[str, str]]:
    """Pairs of names, with a progress bar, or without tqdm a line for each explanation."""
    cells = [(name, metric) for name in explanations for metric in metrics]
    try:
        from tqdm import tqdm
    except ImportError:
        tqdm = None
    if not progress or tqdm is None:
        for place, (name, metric) in enumerate(cells):
            if progress and place % len(metrics) == 0:
                print(f"evaluate: {name} ({place // len(metrics) + 1} of {len(explanations)})", file=sys.stderr)
            yield name, metric
        return
    with tqdm(total=len(cells), desc="evaluate", unit="score") as bar:
        for name, metric in cells:
            bar.set_postfix_str(f"{metric} of {name}", refresh=False)
            yield name, metric
            bar.update()
