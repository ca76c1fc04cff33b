"""What all metrics share: a metric is a frozen value; calling it on a model and an explanation judges the explanation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from xai_core.errors import CapabilityError, OptionError, UnknownNameError, describe
from xai_core.explanation import Explanation
from xai_core.metrics.ground import Ground, open_ground
from xai_core.options import Options, same_options, shown, snake_case
from xai_core.targets import SCALES

__all__ = ["Measured", "Metric", "Scores", "all_metrics", "judge", "metric_class"]

_Host = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Measured:
    """What a metric computes, on the host: one score per sample, a curve, and what else it has to say."""

    values: _Host
    curve: _Host | None = None
    at: _Host | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, repr=False)
class Scores(NDArrayOperatorsMixin):
    """What a metric found: `(batch,)` scores, which NumPy functions, arithmetic and comparisons take as an array.

    Attributes
    ----------
    values
        (batch,), NumPy, double precision.
    metric
        The metric.
    curve
        Of metrics that average a curve, its points (batch, points).
    at
        Where the points of the curve lie, (points,) or (batch, points): the metric says what, the share of features that
        are removed for example.
    rows
        Model rows evaluated forward and backward.
    seed
        Seed of its random numbers.
    details
        What else the metric has to say, by name; arrays (batch, ...).
    """

    values: _Host
    metric: Metric
    curve: _Host | None = None
    at: _Host | None = None
    rows: tuple[int, int] = (0, 0)
    seed: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def ndim(self) -> int:
        return self.values.ndim

    @property
    def dtype(self) -> Any:
        return self.values.dtype

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def __getitem__(self, key: Any) -> Any:
        return self.values[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> _Host:
        return np.array(self.values, dtype=dtype, copy=copy)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        plain = [part.values if isinstance(part, Scores) else part for part in inputs]
        return getattr(ufunc, method)(*plain, **keywords)

    def numpy(self) -> _Host:
        """The scores as a NumPy array."""
        return self.values

    def mean(self, *arguments: Any, **keywords: Any) -> Any:
        """Mean over the batch; arguments as those of `numpy.mean`, which calls this method."""
        return np.mean(self.values, *arguments, **keywords)

    def tolist(self) -> list[float]:
        """The scores as Python numbers."""
        return [float(value) for value in self.values]

    def __repr__(self) -> str:
        shown = np.array2string(self.values, precision=4, threshold=8)
        direction = self.metric.direction
        better = "no direction" if direction is None else f"{direction} is better"
        curve = "" if self.curve is None else f", curve {self.curve.shape}"
        return f"Scores({self.metric!r}, {shown}, {better}{curve}, rows {self.rows})"


_METRICS: dict[str, type[Metric]] = {}


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Metric(Options, ABC):
    """Base of all metrics: options are keyword arguments, fixed at construction and compared by value.

    Subclasses are frozen dataclasses with `eq=False, repr=False` and implement `measure`.
    """

    category: ClassVar[str]
    """`"faithfulness"`, `"robustness"`, `"localisation"`, `"complexity"`, `"randomisation"` or `"axioms"`."""
    higher_is_better: ClassVar[bool | None]
    """`None` where neither end is good by itself."""
    needs: ClassVar[tuple[str, ...]] = ("model",)
    """What beside the values: `"model"`, `"explainer"` (explanations are made anew), `"masks"`, `"gradient"`, `"batch"`
    (several samples are compared)."""

    def __init_subclass__(cls, *, abstract: bool = False, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if not abstract and not cls.__name__.startswith("_"):
            _METRICS[snake_case(cls.__name__)] = cls

    @classmethod
    def metric_name(cls) -> str:
        """Name for the command line, files and tables."""
        return snake_case(cls.__name__)

    def __repr__(self) -> str:
        said = ", ".join(
            f"{entry.name}={shown(getattr(self, entry.name))}"
            for entry in fields(self)
            if not same_options(getattr(self, entry.name), _default(entry))
        )
        return f"{type(self).__name__}({said})"

    @property
    def scale(self) -> Any:
        """What the model's outputs are turned into before scores are taken; see `Scored`."""
        return None

    @property
    def direction(self) -> str | None:
        """`"higher"` or `"lower"`, whichever is better with these options."""
        return {True: "higher", False: "lower", None: None}[self.higher_is_better]

    @abstractmethod
    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        """The metric's mathematics. `ground` holds the model with the inputs, and what is known of them already."""

    def __call__(
        self, model: Any, explanation: Explanation, *, masks: Any = None, seed: int | None = None, index: Any = None
    ) -> Scores:
        """Judge `explanation` of `model`.

        Parameters
        ----------
        model
            The model that was explained, raw or wrapped. Metrics that only look at the values take `None`.
        explanation
            It carries inputs, target, seed, and the explainer, with which some metrics explain anew.
        masks
            For metrics of localisation, what should be found: truths `(batch, *spatial)`, also with a channel axis; for
            tables (batch, columns).
        seed
            Seed of the metric's random numbers; `None`: that of the explanation.
        index
            What sample `i` is called in the random streams, as for explainers.

        Returns
        -------
        Scores
            (batch,) scores.

        Raises
        ------
        XaiError
            See `xai_core.errors`; each message says what was received and how to mend it.
        """
        check_explanation(self, explanation, masks)
        check_model(self, model)
        with open_ground(model, explanation, self, self.scale, seed, index) as ground:
            return judge(self, ground, explanation, masks, (0, 0))


def _default(entry: Any) -> Any:
    """What an option is if it is not given."""
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Scored(Metric, abstract=True):
    """Base of metrics that look at the explained score of changed inputs.

    Parameters
    ----------
    score
        `None`: the explained score of the explanation, as the model gives it; `"probability"`: after a softmax over the
        classes (a sigmoid of a single output); `"log_probability"`: its logarithm; `"accuracy"`: 1 where the class is the
        predicted one, else 0; or a callable `outputs -> outputs`.
    """

    score: Any = None

    def __post_init__(self) -> None:
        if not callable(self.score) and self.score not in SCALES:
            raise OptionError(
                f"`score` must be one of {', '.join(map(repr, SCALES))}, or a callable outputs -> outputs.",
                received=describe(self.score),
                fix='score="probability"',
            )

    @property
    def scale(self) -> Any:
        return self.score


def judge(
    metric: Metric, ground: Ground, explanation: Explanation, masks: Any, before: tuple[int, int] | None = None
) -> Scores:
    """Scores of a metric on ground that is open; model rows count from `before`, by default from now."""
    before = ground.work if before is None else before
    found = metric.measure(ground, explanation, masks)
    after = ground.work
    return Scores(
        values=np.asarray(found.values, dtype=np.float64),
        metric=metric,
        curve=found.curve,
        at=found.at,
        rows=(after[0] - before[0], after[1] - before[1]),
        seed=ground.seed,
        details=found.details,
    )


def check_model(metric: Metric, model: Any) -> None:
    """Refuse a metric that runs the model where none is given."""
    if model is None and "model" in metric.needs:
        name = type(metric).__name__
        raise CapabilityError(f"{name} runs the model.", received="model=None", fix=f"xai.{name}()(model, explanation)")


def check_explanation(metric: Metric, explanation: Any, masks: Any) -> None:
    """Refuse what the metric cannot judge, before anything is computed."""
    name = type(metric).__name__
    if not isinstance(explanation, Explanation):
        raise OptionError(
            f"{name} judges an explanation.",
            received=describe(explanation),
            fix="explanation = xai.explain(model, x); its values alone do not say what they explain.",
        )
    if isinstance(explanation.target, str):
        raise OptionError(
            f"{name} judges the explanation of one score of each sample.",
            received=f"an explanation with target={explanation.target!r}",
            fix="explain with target=None or a class.",
        )
    if "explainer" in metric.needs and explanation.explainer is None:
        raise OptionError(
            f"{name} makes explanations anew, and this one does not say how it was made.",
            received="an explanation loaded from a file that could not hold its explainer",
            fix="explain again in this process, or dataclasses.replace(explanation, explainer=...).",
        )
    if "masks" in metric.needs and masks is None:
        raise OptionError(
            f"{name} compares the explanation with what should be found.",
            received="masks=None",
            fix=f"xai.{name}()(model, explanation, masks=masks), truths of shape (batch, height, width) for images.",
        )


def metric_class(name: str) -> type[Metric]:
    """The metric of that name, in snake case or as the class is called.

    Raises
    ------
    UnknownNameError
        With the nearest names.
    """
    import difflib

    plain = {known.replace("_", ""): known for known in _METRICS}
    key = plain.get(str(name).lower().replace("_", "").replace("-", "").replace(" ", ""))
    if key is None:
        near = difflib.get_close_matches(snake_case(str(name)), _METRICS, n=3, cutoff=0.4)
        raise UnknownNameError(
            f"No metric is called {name!r}.",
            fix=f"did you mean {', '.join(map(repr, near))}? " * bool(near) + f"All: {', '.join(sorted(_METRICS))}.",
        )
    return _METRICS[key]


def all_metrics() -> dict[str, type[Metric]]:
    """All metrics by snake-case name."""
    return dict(sorted(_METRICS.items()))
