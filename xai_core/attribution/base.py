"""What all explanation methods share: an explainer is a frozen value; calling it on a model and inputs explains."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from xai_core.errors import OptionError, UnknownNameError, describe
from xai_core.explanation import Explanation, FeatureValues
from xai_core.frames import on_host
from xai_core.options import Options, shown, snake_case
from xai_core.problem import Problem, inspect_values, is_floating, open_problem
from xai_core.progress import Progress
from xai_core.structure import flatten

__all__ = ["Attribution", "Explainer", "explainer_class", "methods"]


@dataclass(frozen=True, eq=False)
class Attribution:
    """What a method computes: one array per leaf that varies, and the completeness gap (batch,) if it promises one.

    `layer` names the layer whose value was explained in place of the inputs, one array then; `error` is the standard
    error of each value; `coverage`, `features` and `details` are those of `Explanation`. `problem` is the problem with
    score and index, from methods that find these out on their own way.
    """

    values: list[Any]
    residual: Any = None
    error: list[Any] | None = None
    features: FeatureValues | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    layer: str | None = None
    coverage: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    problem: Problem | None = None


_METHODS: dict[str, type[Explainer]] = {}


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Explainer(Options, ABC):
    """Base of all methods: options are keyword arguments, fixed at construction and compared by value.

    Subclasses are frozen dataclasses with `eq=False, repr=False` (options may be arrays) and implement `attribute`.

    Parameters
    ----------
    layer
        Explain the value of this layer instead of the inputs: text as `xai.layers` shows it (`"block.conv"`,
        `"conv#2"`, `"conv:input"`), an `xai.Layer` or the layer object itself. `values` has the shape of that value.
        For token ids, which have no gradient, name the embedding. Baselines are given as for the inputs; what the layer
        makes of them is the baseline there. CAM methods read this layer's maps.
    neuron
        Explain a value inside the model instead of its scores: this layer's output takes their place, and `target` is
        an index into it.
    """

    layer: Any = None
    neuron: Any = None

    differentiates: ClassVar[bool] = True
    """Whether the method needs gradients."""
    stochastic: ClassVar[bool] = False
    """Whether the method draws random numbers."""
    keeps_missing: ClassVar[bool] = False
    """Whether the model meets missing values of DataFrames as they are: values are kept or replaced, never computed with."""
    explains_all: ClassVar[bool] = False
    """Whether `target="all"` explains all outputs at once."""
    settles: ClassVar[bool] = False
    """Whether `attribute` finds out the score and the predicted class itself, without a run of the model for them alone."""
    aliases: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, *, abstract: bool = False, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if not abstract and not cls.__name__.startswith("_"):
            for name in (snake_case(cls.__name__), *cls.aliases):
                _METHODS[name] = cls

    @classmethod
    def method_name(cls) -> str:
        """Name for `explain(method=...)`, the command line and files."""
        return snake_case(cls.__name__)

    def __repr__(self) -> str:
        said = ", ".join(
            f"{name}={shown(value)}"
            for name, value in self.options().items()
            if name not in ("layer", "neuron") or value is not None
        )
        return f"{type(self).__name__}({said})"

    def planned_rows(self, batch: int) -> int:
        """Forward rows that explaining `batch` samples is expected to take; for the progress bar."""
        return batch

    def uses_gradients(self) -> bool:
        """Whether this explainer, with all that it is composed of, needs gradients."""
        return self.differentiates

    def varies_inputs(self) -> bool:
        """Whether the method needs inputs that can take any value near them, not integers."""
        return self.uses_gradients() and self.layer is None

    def gives_slopes(self) -> bool:
        """Whether values are changes of the score per unit of the input, instead of shares of the score."""
        return False

    @abstractmethod
    def attribute(self, problem: Problem) -> Attribution:
        """The mathematics of the method, on the device."""

    def attribute_at_layer(self, problem: Problem) -> Attribution:
        """`attribute`, for the part of the model behind `layer` if one is given."""
        if problem.differentiated != self.uses_gradients():
            # Metrics open a problem that they only call, and explain anew in it.
            problem = replace(problem, differentiated=self.uses_gradients())
        if self.layer is None:
            return self.attribute(problem)
        behind = problem.at_layer(self.layer)
        found = self.attribute(behind)
        value = found.values[0]
        leaf = behind.leaves[0]
        cast = value if value.dtype == leaf.dtype else problem.xp.astype(value, leaf.dtype)
        error = None if found.error is None else found.error[:1]
        return replace(found, values=[cast], error=error, layer=problem.name_of(behind.bound.layer), problem=None)

    def __call__(self, model: Any, x: Any, *, target: Any = None, seed: int = 0, index: Any = None) -> Explanation:
        """Explain `model` at `x`.

        Parameters
        ----------
        model
            A model as in `xai_core.wrap`, raw or wrapped.
        x
            Inputs, batch first: one array or DataFrame, or a tuple or dict of these.
        target
            The explained score: `None` for the predicted class of each sample, an int, `(batch,)` ints, an index
            tuple for outputs with more axes, or a callable `scores -> (batch,)`. Shapley methods take `"all"`: values
            then have one more axis at the end, of the model's outputs.
        seed
            Seed of the method's random numbers, if it draws any.
        index
            What sample `i` is called in the random streams: an int (the first sample's number) or `(batch,)` ints. A
            data set explained in parts gives the same result as in one piece if each part says where it starts.

        Returns
        -------
        Explanation
            `values` has the structure, array type, dtype and device of `x`; for a DataFrame the same rows and columns.

        Raises
        ------
        XaiError
            See `xai_core.errors`; each message says what was received and how to mend it.
        """
        name = type(self).__name__
        bars: list[Progress] = []

        def progress(batch: int) -> Progress:
            bars.append(Progress(name, self.planned_rows(batch)))
            return bars[0]

        try:
            with open_problem(
                model,
                x,
                target=target,
                seed=seed,
                index=index,
                method=name,
                differentiates=self.uses_gradients(),
                floating=self.varies_inputs(),
                neuron=self.neuron,
                progress=progress,
                defer=self.settles and self.layer is None,
                every=self.explains_all,
                missing=self.keeps_missing,
            ) as problem:
                found = self.attribute_at_layer(problem)
                problem = found.problem or problem
                inspect_values(problem, found.values, name)
                return _explanation(self, problem, found, x, target, seed)
        finally:
            for bar in bars:
                bar.close()


def _explanation(
    explainer: Explainer, problem: Problem, found: Attribution, x: Any, target: Any, seed: int
) -> Explanation:
    """Results in the array types that the inputs came in."""
    given, structure = flatten(x)
    xp = problem.xp
    host = all(map(on_host, given))

    def out(array: Any) -> Any:
        return problem.to_host(array) if host and array is not None else array

    def alike(arrays: list[Any]) -> Any:
        """Arrays as the inputs are, in structure, type and dtype."""
        if found.layer is not None:
            return out(arrays[0])
        leaves: list[Any] = []
        frames = problem.bound.frames or (None,) * len(given)
        for leaf, original, value, frame in zip(problem.leaves, given, arrays, frames, strict=True):
            native = xp.astype(value, leaf.dtype) if is_floating(leaf) and value.dtype != leaf.dtype else value
            if frame is not None:
                converted = problem.to_host(native)
                leaves.append(frame.alike(converted, original) if converted.ndim == 2 else converted)
            elif isinstance(original, np.ndarray):
                floating = original.dtype.kind == "f" or original.dtype.name == "bfloat16"
                converted = problem.to_host(native)
                leaves.append(converted.astype(original.dtype, copy=False) if floating else converted)
            else:
                leaves.append(native)
        return structure.rebuild(leaves)

    resolved = target
    if problem.index is not None and not isinstance(target, tuple):
        resolved = out(problem.index[:, 0])
    features = found.features
    if features is not None:
        features = replace(features, values=out(features.values), error=out(features.error))
    return Explanation(
        values=alike(found.values),
        inputs=x,
        target=resolved,
        explainer=explainer,
        score=out(problem.score),
        residual=out(found.residual),
        seed=seed,
        rows=(problem.work.forward, problem.work.backward),
        channel_axis=problem.bound.channel_axis,
        coverage=found.coverage,
        layer=found.layer,
        error=None if found.error is None else alike(found.error),
        features=features,
        details={name: out(value) for name, value in found.details.items()},
        outputs=problem.outputs,
    )


def explainer_class(name: str) -> type[Explainer]:
    """The method of that name, in snake case or as the class is called; case and separators do not matter.

    Raises
    ------
    UnknownNameError
        With the nearest names.
    """
    import difflib

    key = snake_case(name) if isinstance(name, str) else name
    if key not in _METHODS:
        plain = {_plain(known): known for known in _METHODS}
        key = plain.get(_plain(str(name)), key)
    if key not in _METHODS:
        near = difflib.get_close_matches(str(key), _METHODS, n=3, cutoff=0.4)
        raise UnknownNameError(
            f"No explanation method is called {name!r}.",
            fix=f"did you mean {', '.join(map(repr, near))}? " * bool(near) + f"All: {', '.join(sorted(_METHODS))}.",
        )
    return _METHODS[key]


def _plain(name: str) -> str:
    """A name without what people write in different ways: `GradCAM++`, `grad-cam++`, `gradcam_plus_plus`."""
    return re.sub("[^a-z0-9]", "", name.lower().replace("+", "plus"))


def methods() -> dict[str, type[Explainer]]:
    """All methods by snake-case name, aliases included."""
    return dict(sorted(_METHODS.items()))


def positive_int(name: str, value: Any, least: int = 1) -> None:
    """Check an option that counts something."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise OptionError(
            f"`{name}` must be an integer of at least {least}.",
            received=describe(value),
            fix=f"{name}={max(least, 32)}",
        )


def base_explainer(name: str, value: Any) -> None:
    """Check an option that is an explainer."""
    if not isinstance(value, Explainer):
        raise OptionError(
            f"`{name}` must be an explainer.", received=describe(value), fix=f"{name}=xai.IntegratedGradients(steps=32)"
        )
    if value.neuron is not None:
        raise OptionError(
            "`neuron` says what is explained, so it belongs to the outer explainer.",
            received=f"{name}={value!r}",
            fix=f"give neuron={value.neuron!r} to the outer one.",
        )
