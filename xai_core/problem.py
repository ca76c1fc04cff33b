"""One explanation under way: the model, its inputs on the device, what is explained, and the work done so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from xai_core.blocks import Block, spans
from xai_core.errors import (
    InputDependenceError,
    InputError,
    IntegerInputError,
    LayerError,
    NonFiniteError,
    OptionError,
    TargetError,
    describe,
    dtype_name,
)
from xai_core.layers import Layer
from xai_core.model import Bound, Model, Net, bind
from xai_core.progress import Progress
from xai_core.streams import Streams, check_seed
from xai_core.structure import flatten
from xai_core.targets import Beside, Pick, Resolve, check_range, gather, host_index, mixed

__all__ = [
    "Problem",
    "Score",
    "Work",
    "gather",
    "independent",
    "inspect_values",
    "is_floating",
    "join",
    "mix",
    "open_problem",
    "resolve",
    "resolve_beside",
    "resolve_predicted",
    "settle",
    "trim",
]

ACCELERATOR_ELEMENTS = 2**24
"""Input elements per model call on an accelerator where no batch_size is given: it wants to be filled. With a quarter of
these a ResNet-18 took 4.6 times as long as its plain loop on an H200, with these 1.3 times."""
HELD_CALLS = 4
LEAST_ROWS = 8
MOST_ROWS = 4096
MOST_TOKENS = 1024
"""Rows per call of integer inputs: each may become a vector of hundreds of numbers."""

_FEW = 2**12
"""Numbers that are looked at on the host wherever they are."""

_HALVES = ("float16", "bfloat16")


class Work:
    """Counts model rows, forward and backward, and shows them in a progress bar."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.forward = 0
        self.backward = 0
        self._progress = progress

    def add(self, forward: int, backward: int = 0) -> None:
        self.forward += forward
        self.backward += backward
        if self._progress is not None:
            self._progress.update(forward)


@dataclass(frozen=True, eq=False)
class Problem:
    """What a method explains; everything in it lives on the model's device.

    Attributes
    ----------
    bound
        The model with its present parameters.
    leaves
        Input arrays, batch first, in the order of the input structure.
    pick
        Static part of the target.
    index
        Explained output per sample, (batch, axes); `None` for a callable target.
    score
        Explained score of `leaves`, (batch,), or None inside another method, where inputs are changed.
    streams
        One random stream per sample.
    asked
        The index that the user gave, (batch, axes) on the host.
    outputs
        How many outputs the model has for one sample.
    differentiated
        Whether the method differentiates, which takes fewer rows per call.
    """

    bound: Bound
    leaves: list[Any]
    pick: Pick
    index: Any
    score: Any
    streams: Streams
    work: Work
    origin: Problem | None = None
    asked: np.ndarray[Any, Any] | None = None
    outputs: int | None = None
    differentiated: bool = False
    _found: list[Any] = field(init=False, default_factory=list, repr=False)

    @property
    def varied(self) -> list[Any]:
        """The leaves that are explained: all of them, or behind a layer its value alone."""
        return self.leaves if self.origin is None else self.leaves[:1]

    def at_layer(self, spec: Any) -> Problem:
        """The same question about the part of the model behind a layer: its value, then the inputs as constants.

        Raises
        ------
        LayerError
            If there is no such layer, or its value is no floating-point array with one row per sample.
        OptionError
            If this is the part of a model behind a layer already.
        """
        if self.origin is not None:
            raise OptionError(
                "A layer behind a layer cannot be explained.",
                received=f"layer={self.origin.name_of(self.bound.layer)!r} and layer={spec!r}",
                fix="give `layer` to one of the explainers.",
            )
        layer = self.find(spec)
        value = self.read([layer])[0]
        if not is_floating(value):
            raise LayerError(
                f"The value at layer {self.name_of(layer)!r} holds no floating-point numbers.",
                received=describe(value),
                fix="name a layer behind it.",
            )
        return replace(self, bound=self.bound.at_layer(layer), leaves=[value, *self.leaves], origin=self)

    def find(self, spec: Any) -> Layer:
        """The layer that a user names, of which the explained score can be a function.

        Raises
        ------
        LayerError
            If there is no such layer, or the unit that is explained comes before it.
        """
        layer, unit = self.bound.find(spec, self.leaves), self.bound.model.output
        if isinstance(unit, Layer):
            calls = [(row.path, row.call) for row in self.bound.layers(self.leaves)]
            ended = calls.index((layer.path, layer.call or 1)), calls.index((unit.path, unit.call or 1))
            if layer.io == unit.io == "output" and ended[0] > ended[1]:
                raise LayerError(
                    f"The unit that is explained, of {self.name_of(unit)!r}, comes before layer {self.name_of(layer)!r}.",
                    fix="choose a layer before the unit.",
                )
        return layer

    def name_of(self, layer: Layer | None) -> str | None:
        """A layer as a user would write it."""
        return None if layer is None else self.bound.name_of(layer, self.leaves)

    def read(self, layers: Sequence[Layer], leaves: list[Any] | None = None) -> list[Any]:
        """Values at layers for the inputs, or for other ones: one array (rows, ...) each.

        Raises
        ------
        LayerError
            If a value does not have one row per input row.
        """
        for layer in layers:
            self.bound.require_rows(layer, self.leaves)
        leaves = self.leaves if leaves is None else leaves
        total = int(leaves[0].shape[0])
        parts = []
        for block in spans(total, self.rows, constant=self.constant_shapes):
            every = block.indices == list(range(total))
            rows = None if every else self.to_device(np.asarray(block.indices, dtype=np.int64))
            found = self.run(Read(tuple(layers)), leaves, rows)
            for layer, value in zip(layers, found, strict=True):
                shape = tuple(value.shape)
                if not shape or shape[0] != block.width:
                    raise LayerError(
                        f"The value at layer {self.name_of(layer)!r} must have one row per sample, on its first axis.",
                        received=f"{describe(value)} for {block.width} samples",
                        fix="name a layer that keeps samples first.",
                    )
            parts.append(trim(found, block))
            self.work.add(block.width)
        return join(self, parts)

    @property
    def xp(self) -> Any:
        return self.bound.xp

    @property
    def batch(self) -> int:
        return int(self.leaves[0].shape[0])

    @property
    def constant_shapes(self) -> bool:
        return self.bound.backend.compiles

    @property
    def rows(self) -> int:
        """Model rows per call."""
        if self.bound.model.batch_size is not None:
            return self.bound.model.batch_size
        elements = sum(math.prod(tuple(leaf.shape)[1:]) for leaf in self.leaves)
        backend, most = self.bound.backend, MOST_ROWS
        limit = backend.elements_per_gradient if self.differentiated else backend.elements_per_call
        if not _on_cpu(self.leaves[0]):
            limit = ACCELERATOR_ELEMENTS
        elif not all(is_floating(leaf) for leaf in self.leaves):
            most = MOST_TOKENS
        return min(max(limit // max(1, elements), LEAST_ROWS), most)

    @property
    def held(self) -> int:
        """Rows of changed inputs that are made at a time, where who runs the model on them cuts them into calls of `rows`.

        More than one call takes, so that the last of these has little to fill up, but no more than a `batch_size` allows.
        """
        return self.rows * (HELD_CALLS if self.bound.model.batch_size is None else 1)

    def accumulator_dtype(self, leaf: Any) -> Any:
        """dtype of sums over `leaf`: float32 for halves, else its own."""
        return self.xp.float32 if dtype_name(leaf.dtype) in _HALVES else leaf.dtype

    def host_dtype(self, leaf: Any) -> str:
        """NumPy name of the dtype in which host numbers are handed to the device for `leaf`."""
        name = dtype_name(leaf.dtype)
        return "float32" if name in _HALVES else name

    def to_device(self, array: Any, like: Any = None) -> Any:
        """Host numbers on the device, in the accumulating dtype of `like` if given."""
        host = np.asarray(array)
        return self.bound.to_native(host if like is None else host.astype(self.host_dtype(like), copy=False))

    def to_host(self, array: Any) -> np.ndarray[Any, Any]:
        return np.asarray(self.bound.to_numpy(array))

    def indices(self, rows: Sequence[int]) -> Any:
        """Row numbers on the device; `None` stands for all rows in order, which need not be gathered."""
        host = np.asarray(rows, dtype=np.int64)
        return None if np.array_equal(host, np.arange(self.batch)) else self.to_device(host)

    def normal(self, rows: Sequence[int], draws: Sequence[int], position: int, part: int) -> np.ndarray[Any, Any]:
        """Standard normal numbers (rows, draws, *sample shape) for input leaf `position`, on the host.

        A pixel's noise is the same whether the model has its channels first or last.
        """
        return self._numbers(lambda shape: self.streams.normal(rows, draws, shape, part), position)

    def uniform(self, rows: Sequence[int], draws: Sequence[int], position: int, part: int) -> np.ndarray[Any, Any]:
        """Uniform numbers from 0 to 1, as `normal`."""

        def numbers(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
            flat = self.streams.uniform(rows, draws, math.prod(shape), part)
            return flat.reshape(*flat.shape[:2], *shape)

        return self._numbers(numbers, position)

    def _numbers(self, draw: Callable[[tuple[int, ...]], np.ndarray[Any, Any]], position: int) -> np.ndarray[Any, Any]:
        shape = tuple(self.leaves[position].shape)
        channel = self.bound.channel_axis_of(shape)
        if channel is None:
            return draw(shape[1:])
        channels_last = (*shape[1:channel], *shape[channel + 1 :], shape[channel])
        return np.moveaxis(draw(channels_last), -1, channel + 1)

    def run(self, kernel: Callable[..., Any], *arguments: Any) -> Any:
        return self.bound.run(kernel, *arguments)

    def inside(self, leaves: list[Any], rows: Sequence[int] | None, streams: Streams) -> Problem:
        """The same question about other inputs: row `i` of `leaves` is a changed version of sample `rows[i]`."""
        index = self.index
        if index is not None and rows is not None:
            index = gather(self.xp, index, self.indices(rows))
        origin = None if self.origin is None else self.origin.inside(leaves[1:], rows, streams)
        return replace(self, leaves=leaves, index=index, score=None, streams=streams, origin=origin)

    def scores(self, leaves: list[Any]) -> Any:
        """Explained score (batch,) of other inputs for the same samples."""
        parts = []
        for block in spans(self.batch, self.rows, constant=self.constant_shapes):
            rows = self.indices(block.indices)
            part = self.run(Score(self.pick), leaves, rows, self.index)
            parts.append(trim([part], block))
            self.work.add(block.width)
        return join(self, parts)[0]

    def scores_or_known(self) -> Any:
        """Explained score of the inputs themselves; found out once."""
        if self.score is not None:
            return self.score
        if not self._found:
            self._found.append(self.scores(self.leaves))
        return self._found[0]


@dataclass(frozen=True)
class Score:
    """Kernel: explained score of some rows."""

    pick: Pick

    def __call__(self, net: Net, leaves: list[Any], rows: Any, index: Any) -> Any:
        xp = net.xp
        return self.pick(xp, net([gather(xp, leaf, rows) for leaf in leaves]), gather(xp, index, rows))


@dataclass(frozen=True)
class Read:
    """Kernel: values at layers for some rows."""

    layers: tuple[Layer, ...]

    def __call__(self, net: Net, leaves: list[Any], rows: Any) -> list[Any]:
        return net.read([gather(net.xp, leaf, rows) for leaf in leaves], self.layers)


@dataclass(frozen=True)
class _Finite:
    """Kernel: whether every element of every floating array is finite."""

    def __call__(self, net: Net, arrays: list[Any]) -> Any:
        xp = net.xp
        flags = [xp.all(xp.isfinite(array)) for array in arrays]
        return xp.all(xp.stack(flags))


_FINITE = _Finite()


def require_finite(bound: Bound, arrays: list[Any], what: str, fix: str) -> None:
    """Raise NonFiniteError if any array holds NaN or infinity; of large arrays elsewhere one number visits the host."""
    near = [_on_cpu(array) or math.prod(tuple(array.shape)) <= _FEW for array in arrays]
    finite = all(_finite(np.asarray(bound.to_numpy(a))) for a, here in zip(arrays, near, strict=True) if here)
    far = [array for array, here in zip(arrays, near, strict=True) if not here]
    if not finite or (far and not bool(np.all(bound.to_numpy(bound.run(_FINITE, far))))):
        raise NonFiniteError(
            f"{what} not finite: NaN or infinity among {', '.join(describe(array) for array in arrays)}.", fix=fix
        )


def _finite(host: np.ndarray[Any, Any]) -> bool:
    """Whether all elements are finite. If their sum is, they are, and that takes one pass; but it may overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.sum(host))) or bool(np.all(np.isfinite(host)))


def _on_cpu(array: Any) -> bool:
    return "cpu" in str(getattr(array, "device", "cpu")).lower()


@contextmanager
def open_problem(
    model: Model | Any,
    x: Any,
    *,
    target: Any,
    seed: int,
    index: Any,
    method: str,
    differentiates: bool,
    floating: bool,
    neuron: Any,
    progress: Callable[[int], Progress | None],
    defer: bool = False,
    every: bool = False,
    missing: bool = False,
    scale: Any = None,
) -> Iterator[Problem]:
    """Check a request, resolve its target, and run it with the model left as it was.

    With `defer` the method finds out score and predicted class on its own way, and has `settle` check them; `every` says
    that it takes `target="all"`, `missing` that it computes nothing from values that DataFrames lack; `scale` is that of
    `Pick`.

    Raises
    ------
    XaiError
        The errors of `xai_core.errors`, each before any expensive work where possible.
    """
    if isinstance(target, str) and target == "all" and not every:
        raise TargetError(
            f"{method} explains one score of each sample.",
            received='target="all"',
            fix="call it once for each output, or use a Shapley method such as KernelSHAP.",
        )
    given, structure = flatten(x)
    if not given:
        raise InputError("`x` holds no array.", received=describe(x), fix="x=images of shape (batch, ...)")
    bound, leaves = bind(model, given, structure, missing=missing)
    batch = _check_inputs(leaves, structure.label)
    if differentiates:
        bound.require_gradient(method)
    if floating:
        for position, leaf in enumerate(leaves):
            if not is_floating(leaf):
                raise IntegerInputError(
                    f"{method} differentiates with respect to `{structure.label(position)}`, which holds integers.",
                    received=describe(given[position]),
                    fix='images: x.astype("float32"); token ids: attribute at the embedding, with '
                    'IntegratedGradients(layer="embedding") for example.',
                )
    seed = check_seed(seed)
    names = list(range(batch)) if index is None else _sample_index(index, batch)
    with bound.running(leaves):
        frames = bound.frames or (None,) * len(leaves)
        # Of DataFrames it was checked column by column.
        numbers = [leaf for leaf, frame in zip(leaves, frames, strict=True) if frame is None and is_floating(leaf)]
        require_finite(bound, numbers, "The inputs are", "remove or fill missing values before explaining.")
        bound = bound.at_neuron(neuron, leaves)
        work = Work(progress(batch))
        streams = Streams.of(seed, names)
        problem = Problem(bound, leaves, Pick(scale=scale), None, None, streams, work, differentiated=differentiates)
        chosen = _chosen(problem, target)
        yield chosen if defer else resolve(chosen)


def is_floating(leaf: Any) -> bool:
    """Whether an array holds floating-point numbers."""
    return "float" in dtype_name(leaf.dtype)


def _check_inputs(leaves: list[Any], label: Callable[[int], str]) -> int:
    sizes = []
    for position, leaf in enumerate(leaves):
        if len(tuple(leaf.shape)) == 0:
            raise InputError(
                f"`{label(position)}` needs a batch axis.", received=describe(leaf), fix=f"{label(position)}[None]"
            )
        if dtype_name(leaf.dtype).startswith("complex"):
            raise InputError(
                f"`{label(position)}` must be real.", received=describe(leaf), fix="pass real and imaginary parts."
            )
        sizes.append(int(leaf.shape[0]))
    if len(set(sizes)) != 1 or sizes[0] == 0:
        raise InputError(
            "All inputs must have the same, non-zero number of samples on their first axis.",
            received=", ".join(f"{label(i)} of shape {tuple(leaf.shape)}" for i, leaf in enumerate(leaves)),
            fix="one sample is a batch of one: x[None].",
        )
    return sizes[0]


def _sample_index(index: Any, batch: int) -> list[int]:
    names = np.arange(batch) + int(index) if np.ndim(index) == 0 else np.asarray(index)
    if names.shape != (batch,) or names.dtype.kind not in "iu" or names.min() < 0:
        raise OptionError(
            f"`index` numbers the samples in the random streams: an int (the first sample's) or {batch} ints.",
            received=describe(index),
            fix="leave it out, or index=start when a batch is explained in parts.",
        )
    return [int(name) for name in names]


def resolve(problem: Problem) -> Problem:
    """Fill in index and score of a problem whose target is chosen."""
    score, index, empty, _ = _resolved(problem)
    return settle(problem, score, index, empty)


def resolve_predicted(problem: Problem, count: int) -> tuple[Problem, Any, tuple[int, ...]]:
    """As `resolve`, which one or two outputs are the largest, (batch, count), and the shape of the outputs of one sample."""
    score, index, empty, largest = _resolved(problem, count)
    return settle(problem, score, index, empty), largest, tuple(empty.shape)[1:]


def resolve_beside(problem: Problem, others: list[Any], shares: list[Any]) -> tuple[Problem, Any]:
    """As `resolve`, and the scores (batch,) of changed inputs, found out in the same calls of the model where possible.

    `others` and `shares` are what `mixed` makes the changed inputs of.
    """
    if problem.index is None or problem.rows < 2:
        # The predicted class is that of the inputs, a callable may count on as many rows as there are samples, and a call
        # of one row has no room for two.
        found = resolve(problem)
        return found, found.scores(mix(problem, others, shares))
    parts, empty = [], None
    for block in spans(problem.batch, problem.rows // 2, constant=problem.constant_shapes):
        rows = problem.indices(block.indices)
        kernel = Beside(problem.pick)
        score, index, empty, other = problem.run(kernel, problem.leaves, others, shares, rows, problem.index)
        problem.work.add(2 * block.width)
        parts.append(trim((score, index, other), block))
    score, index, other = join(problem, parts)
    return settle(problem, score, index, empty), other


def mix(problem: Problem, others: list[Any], shares: list[Any]) -> list[Any]:
    """Inputs changed as `mixed` says."""
    if all(share is None for share in shares):
        return others
    return list(problem.run(_MIX, problem.leaves, others, shares))


@dataclass(frozen=True)
class _Mix:
    """Kernel: `mixed` for each input."""

    def __call__(self, net: Net, leaves: list[Any], others: list[Any], shares: list[Any]) -> list[Any]:
        return [mixed(net.xp, *parts) for parts in zip(leaves, others, shares, strict=True)]


_MIX = _Mix()


def _resolved(problem: Problem, predicts: int = 0) -> tuple[Any, Any, Any, Any]:
    """What `Resolve` gives, of all rows."""
    parts, empty = [], None
    for block in spans(problem.batch, problem.rows, constant=problem.constant_shapes):
        rows = problem.indices(block.indices)
        score, index, empty, largest = problem.run(Resolve(problem.pick, predicts), problem.leaves, rows, problem.index)
        problem.work.add(block.width)
        parts.append(trim((score, index, largest), block))
    score, index, largest = join(problem, parts)
    return score, index, empty, largest


def trim(arrays: Sequence[Any], block: Block) -> list[Any]:
    """Drop the rows that only fill the block up; `None` stays None."""
    if block.size == block.width:
        return list(arrays)
    return [None if array is None else array[: block.size, ...] for array in arrays]


def join(problem: Problem, parts: Sequence[Sequence[Any]]) -> list[Any]:
    """Concatenate blocks of samples, array by array; `None` stays None."""
    if len(parts) == 1:
        return list(parts[0])
    pieces = zip(*parts, strict=True)
    return [None if piece[0] is None else problem.xp.concat(list(piece), axis=0) for piece in pieces]


def _chosen(problem: Problem, target: Any) -> Problem:
    """The problem with the target as far as it is known before the model runs: `index=None` is the predicted class."""
    host = host_index(target, problem.batch, problem.to_host)
    index = None if host is None else problem.to_device(host)
    every = isinstance(target, str) and host is None
    pick = replace(problem.pick, function=target if callable(target) else None, every=every)
    return replace(problem, pick=pick, index=index, asked=host)


def settle(problem: Problem, score: Any, index: Any, empty: Any) -> Problem:
    """The problem with score (batch,) and index; `empty` has the shape of the model's outputs, without rows.

    Raises
    ------
    TargetError, NonFiniteError
    """
    if problem.asked is not None:
        check_range(problem.asked, tuple(empty.shape)[1:])
    if not is_floating(score):
        raise TargetError(
            "The explained score must be a floating-point number.",
            received=describe(score),
            fix="return scores or probabilities from the model, not predicted labels.",
        )
    require_finite(problem.bound, [score], "The model's scores are", "check the model on these inputs.")
    return replace(problem, index=index, score=score, outputs=math.prod(tuple(empty.shape)[1:]))


@dataclass(frozen=True)
class _Inspect:
    """Kernel: whether all values are finite, and whether any is not zero."""

    def __call__(self, net: Net, arrays: list[Any]) -> tuple[Any, Any]:
        xp = net.xp
        finite = [xp.all(xp.isfinite(array)) for array in arrays]
        some = [xp.any(array != 0) for array in arrays]
        return xp.all(xp.stack(finite)), xp.any(xp.stack(some))


_INSPECT = _Inspect()


def inspect_values(problem: Problem, values: list[Any], method: str) -> None:
    """Refuse results that are not finite, and zero results of a model that ignores its input.

    Raises
    ------
    NonFiniteError, InputDependenceError
    """
    finite, some = problem.run(_INSPECT, values)
    if not bool(np.all(problem.to_host(finite))):
        raise NonFiniteError(
            f"{method} gave NaN or infinity.",
            received=", ".join(describe(value) for value in values),
            fix="look for a division, logarithm or square root of zero in the model, or use float32 instead of halves.",
        )
    if not bool(np.any(problem.to_host(some))):
        xp = problem.xp
        if not problem.bound.depends_on_input(problem.leaves, lambda outputs: problem.pick(xp, outputs, problem.index)):
            raise independent(problem, method)


def independent(problem: Problem, method: str) -> InputDependenceError:
    """The error for a model whose explained score does not change with its input."""
    return InputDependenceError(
        f"The explained score of {problem.bound.model.name!r} does not depend on its input, so {method} has nothing "
        "to explain.",
        fix="check that the model uses its input and does not detach it (detach, stop_gradient, no_grad, .numpy()).",
    )
