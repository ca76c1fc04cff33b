"""A user's model as every method sees it, and `wrap`, which makes one."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from xai_core.backend import Adapted, Backend, Pull, backend_of_array, backend_of_model, load_backend
from xai_core.errors import (
    BackendError,
    CapabilityError,
    InputError,
    LayerError,
    ModelError,
    OptionError,
    OutputError,
    XaiError,
    describe,
)
from xai_core.frames import Frame, is_frame, is_series, on_host
from xai_core.graph import Graph
from xai_core.layers import Layer, LayerTable, Reached, Tape, Visitor, find, parse, rows_first
from xai_core.structure import Structure, flatten

__all__ = ["Bound", "Model", "Net", "bind", "layers", "wrap"]

_COMPILED_PER_MODEL = 256
_DESCRIPTIONS_PER_MODEL = 64


@dataclass(frozen=True, eq=False)
class Model:
    """A model, how it is called, and what the user said about it. Made by `wrap`; never changes the user's model.

    Attributes
    ----------
    raw
        The user's model.
    adapted
        The same as a pure function; `None` for a plain function whose framework only its inputs will tell.
    output
        Picks the scores out of what the model returns: a key, position or attribute, or a callable.
    channel_axis
        Channel axis of image inputs, or `None` for what the backend says.
    batch_size
        Rows per model call, or `None` for a size chosen by input size.
    """

    raw: Any
    adapted: Adapted | None
    output: Any = None
    channel_axis: int | None = None
    batch_size: int | None = None
    params: Any = None

    @property
    def name(self) -> str:
        """How error messages call it."""
        kind = type(self.raw)
        return getattr(self.raw, "__name__", None) or kind.__qualname__

    @property
    def backend(self) -> str | None:
        """Name of the backend that runs it."""
        return None if self.adapted is None else self.adapted.backend.name

    def __repr__(self) -> str:
        said = [
            f"{key}={getattr(self, key)!r}"
            for key in ("output", "channel_axis", "batch_size")
            if getattr(self, key) is not None
        ]
        return f"Model({', '.join([self.name, f'backend={self.backend!r}', *said])})"

    def __call__(self, x: Any) -> Any:
        """Scores for `x`: the model's output with `output=` applied, one call for the whole batch."""
        with self._bound(x) as (bound, leaves, out):
            return out(bound.run(_CALL, leaves))

    def read(self, x: Any, layers: Sequence[Any]) -> dict[str, Any]:
        """Values at several layers in one pass, by the names they were asked for.

        Parameters
        ----------
        x
            Inputs, batch first.
        layers
            Layers as for `layer=` of an explainer.

        Returns
        -------
        dict
            One array for each layer, of the framework, or of NumPy if `x` is.

        Raises
        ------
        LayerError
            If a layer is not one of this model's.
        """
        with self._bound(x) as (bound, leaves, out):
            found = [bound.find(layer, leaves) for layer in layers]
            values = bound.run(_Read(tuple(found)), leaves)
            names = [spec if isinstance(spec, str) else str(layer) for spec, layer in zip(layers, found, strict=True)]
            return {name: out(value) for name, value in zip(names, values, strict=True)}

    def edit(self, x: Any, edits: Mapping[Any, Callable[[Any], Any]]) -> Any:
        """Scores for `x` with the values of layers replaced by functions of them.

        Parameters
        ----------
        x
            Inputs, batch first.
        edits
            For each layer a function of arrays of the framework, `value -> value` of the same shape.

        Raises
        ------
        LayerError
            If a layer is not one of this model's.
        OptionError
            If a function changes the shape.
        """
        with self._bound(x) as (bound, leaves, out):
            found = tuple((bound.find(layer, leaves), function) for layer, function in edits.items())
            return out(bound.run(_Edit(found), leaves))

    def pullback(self, x: Any, layer: Any, cotangent: Any) -> Any:
        """Gradient of `sum(cotangent * scores)` with respect to the value of a layer.

        Parameters
        ----------
        x
            Inputs, batch first.
        layer
            A layer as for `layer=` of an explainer.
        cotangent
            An array of the shape of the scores.

        Raises
        ------
        LayerError
            If the layer is not one of this model's.
        CapabilityError
            If the model has no gradients.
        """
        with self._bound(x) as (bound, leaves, out):
            bound.require_gradient("A pullback")
            chosen = bound.find(layer, leaves)
            return out(bound.run(_PullAt(chosen), leaves, bound.to_native(cotangent)))

    @contextmanager
    def _bound(self, x: Any) -> Iterator[tuple[Bound, list[Any], Callable[[Any], Any]]]:
        """The model bound for one call, its inputs there, and what makes results of the kind of the inputs."""
        leaves, structure = flatten(x)
        bound, native = bind(self, leaves, structure)
        with bound.running(native):
            host = all(map(on_host, leaves))
            yield bound.at_neuron(None, native), native, bound.to_numpy if host else _same


def _same(array: Any) -> Any:
    return array


def wrap(
    model: Any,
    *,
    backend: str | None = None,
    params: Any = None,
    output: Any = None,
    channel_axis: int | None = None,
    batch_size: int | None = None,
) -> Model:
    """Say something about a model that its explanations need to know.

    Every entry point takes a raw model as well; wrapping is needed only for these options.

    Parameters
    ----------
    model
        A `torch.nn.Module`, `keras.Model` or layer, `tf.Module`, `tf.function` or loaded SavedModel, a Flax NNX,
        Flax Linen, Equinox or Haiku module, a plain function of JAX, torch or TensorFlow arrays, or any callable over
        NumPy arrays. A `Model` is returned with the given options replaced.
    backend
        Framework name, where a plain function is given NumPy inputs but computes in a framework.
    params
        Parameters of a Flax Linen or Haiku model, or first argument of a plain JAX function.
    output
        Key, position, attribute name or callable that picks the scores out of a dict, tuple or dataclass.
    channel_axis
        Channel axis of image inputs, if not the framework's usual one.
    batch_size
        Rows per model call.

    Raises
    ------
    BackendError
        If the framework is unknown or not installed.
    ModelError
        If the model cannot be called as it is (a Linen module without `params`, for example).
    OptionError
        If `batch_size` is not a positive integer or `channel_axis` not an integer.
    """
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
        raise OptionError(
            "`batch_size` is the number of rows per model call, a positive integer.",
            received=describe(batch_size),
            fix="batch_size=64, or leave it out.",
        )
    if channel_axis is not None and (isinstance(channel_axis, bool) or not isinstance(channel_axis, int)):
        raise OptionError(
            "`channel_axis` is an axis of the input, an integer.",
            received=describe(channel_axis),
            fix="channel_axis=1 for (batch, channels, ...), channel_axis=-1 for (batch, ..., channels).",
        )
    if isinstance(model, Model):
        return Model(
            model.raw,
            model.adapted if backend is None and params is None else _adapt(model.raw, backend, params),
            model.output if output is None else output,
            model.channel_axis if channel_axis is None else channel_axis,
            model.batch_size if batch_size is None else batch_size,
            model.params if params is None else params,
        )
    return Model(model, _adapt(model, backend, params), output, channel_axis, batch_size, params)


def layers(model: Any, x: Any) -> LayerTable:
    """The layers of a model that can be named, in the order in which their calls end.

    Parameters
    ----------
    model
        A model as in `wrap`, raw or wrapped.
    x
        Inputs, batch first; the model runs on the first sample.

    Returns
    -------
    LayerTable
        Rows with `name` (what to write for `layer=`), `operation`, `shapes` and `spatial`; prints as a table.

    Raises
    ------
    CapabilityError
        If the layers of this kind of model cannot be followed.
    """
    leaves, structure = flatten(x)
    bound, native = bind(model, leaves, structure)
    with bound.running(native):
        return bound.layers(native)


def _adapt(model: Any, backend: str | None, params: Any) -> Adapted | None:
    if backend is not None:
        return load_backend(backend).adapt(model, params)
    found = backend_of_model(model)
    if found is not None:
        return found.adapt(model, params)
    if callable(model):
        return None
    raise ModelError(
        "`model` must be a model of an installed framework or a callable over arrays.",
        received=describe(model),
        fix="pass the model itself, a function of arrays, or a bound method such as `classifier.predict_proba`.",
    )


def bind(model: Any, leaves: list[Any], structure: Structure, *, missing: bool = True) -> tuple[Bound, list[Any]]:
    """Read a model's present parameters for one explanation, and put its inputs on the model's device.

    Without `missing`, missing values in DataFrames are refused also where the model takes DataFrames.

    Raises
    ------
    BackendError
        If a plain function's inputs are arrays of no installed framework.
    InputError
        If an input is no array, or an array of another framework than the model's.
    """
    wrapped = model if isinstance(model, Model) else wrap(model)
    adapted = wrapped.adapted
    for position, leaf in enumerate(leaves):
        if is_series(leaf):
            raise InputError(
                f"`{structure.label(position)}` must be a table, with a row for each sample.",
                received=describe(leaf),
                fix="one row of a DataFrame is df.iloc[[0]].",
            )
    frames = tuple(
        Frame(leaf, structure.label(position), missing) if is_frame(leaf) else None
        for position, leaf in enumerate(leaves)
    )
    leaves = [
        leaf if frame is None else frame.encode(leaf, structure.label(position))
        for position, (leaf, frame) in enumerate(zip(leaves, frames, strict=True))
    ]
    if adapted is None:
        backend = next((found for leaf in leaves if (found := backend_of_array(leaf)) is not None), None)
        if backend is None:
            raise BackendError(
                "No backend knows the arrays that this function was given.",
                received=describe(leaves[0]) if leaves else "no array",
                fix="pass arrays of NumPy, JAX, PyTorch or TensorFlow, or say xai.wrap(function, backend=...).",
            )
        adapted = backend.adapt(wrapped.raw, wrapped.params)
    if any(frames):
        if adapted.backend.takes_frames:
            adapted = replace(adapted, apply=partial(_apply_to_frames, adapted.apply, frames))
        else:
            for frame in filter(None, frames):
                frame.missing = False
            leaves = [
                leaf if frame is None else frame.numbers(leaf) for leaf, frame in zip(leaves, frames, strict=True)
            ]
    native = [_to_native(adapted, leaf, structure.label(position)) for position, leaf in enumerate(leaves)]
    x = structure.rebuild(native)
    return Bound(wrapped, adapted, structure, *adapted.read(x), frames=frames), native


def _apply_to_frames(apply: Callable[[Any, Any], Any], frames: Sequence[Frame | None], params: Any, x: Any) -> Any:
    """Call a model with DataFrames where its inputs came as such."""
    return apply(params, _decoded(x, frames))


def _decoded(x: Any, frames: Sequence[Frame | None]) -> Any:
    leaves, structure = flatten(x)
    return structure.rebuild(
        [leaf if frame is None else frame.decode(leaf) for leaf, frame in zip(leaves, frames, strict=True)]
    )


def _to_native(adapted: Adapted, leaf: Any, label: str) -> Any:
    backend = adapted.backend
    if backend.owns(leaf):
        return leaf
    if isinstance(leaf, np.ndarray):
        return backend.asarray(leaf, adapted.device)
    raise InputError(
        f"`{label}` must be an array of {backend.name} or NumPy, for this model runs on {backend.name}.",
        received=describe(leaf),
        fix=f"convert it: numpy.asarray({label}).",
    )


class _Latest:
    """The last eager run up to some layers, for calls that go on from there with the same arrays."""

    def __init__(self) -> None:
        self._leaves: list[Any] = []
        self._layers: tuple[Layer, ...] = ()
        self.tape: Tape | None = None
        self.visitor: Any = None

    def holds(self, leaves: list[Any], layers: Sequence[Layer]) -> bool:
        same = len(leaves) == len(self._leaves) and all(a is b for a, b in zip(leaves, self._leaves, strict=True))
        return self.visitor is not None and same and tuple(layers) == self._layers

    def keep(self, leaves: list[Any], layers: Sequence[Layer], tape: Tape | None, visitor: Visitor) -> None:
        # The arrays are held too: an array that has gone may give its identity to another.
        self._leaves, self._layers, self.tape, self.visitor = list(leaves), tuple(layers), tape, visitor


@dataclass(frozen=True, eq=False)
class Net:
    """The model inside a kernel: traceable, in terms of input leaves.

    A kernel is a hashable callable `kernel(net, *arguments)` of pure array code; `Bound.run` compiles and caches it.
    """

    xp: Any
    backend: Backend
    call: Callable[[Any], Any]
    structure: Structure
    output: Any
    tapped: Callable[[Any, Visitor, Callable[[Any], Any]], Any] | None = None
    latest: _Latest | None = None
    traced: Callable[[Any, Callable[[Any], Any]], Graph] | None = None

    def __call__(self, leaves: list[Any], visitor: Visitor | None = None) -> Any:
        """Scores for a batch of rows, (rows, ...); `visitor` follows the run through the model's layers."""
        neuron = self.output if isinstance(self.output, Layer) else None
        if neuron is not None:
            visitor = Visitor() if visitor is None else visitor
            visitor.read(neuron)
        scores = self._run(leaves, visitor)
        if neuron is not None and visitor is not None:
            scores = visitor.value_of(neuron)
        rows = int(tuple(leaves[0].shape)[0])
        shape = tuple(scores.shape)
        if not shape or shape[0] != rows:
            raise OutputError(
                f"The model must return one row of scores per input row: first axis {rows}.",
                received=describe(scores),
                fix="give the model a batch axis in its output, or pick the scores with xai.wrap(model, output=...).",
            )
        return scores

    def follow(self, leaves: list[Any], visitor: Visitor) -> None:
        """Run the model for what the visitor sees, whatever it returns."""
        self._run(leaves, visitor, lambda raw: None)

    def graph(self, leaves: list[Any]) -> Graph:
        """The operations of the model at the shapes of some rows.

        Raises
        ------
        CapabilityError
            If models of this kind cannot be traced.
        """
        if self.traced is None:
            raise CapabilityError(
                "The operations of this model cannot be seen.",
                received=f"a model of backend {self.backend.name}",
                fix="pass the framework's own model object, or use a method that only calls the model, such as Occlusion.",
            )
        x = self.structure.rebuild(leaves)
        with _explained(x):
            graph = self.traced(x, _Scores(self.output, self.backend))
        if isinstance(self.output, Layer):
            graph = replace(graph, output=_value_at(graph, self.output))
        return graph

    def _run(self, leaves: list[Any], visitor: Visitor | None, pick: Callable[[Any], Any] | None = None) -> Any:
        x = self.structure.rebuild(leaves)
        with _explained(x):
            if visitor is None:
                return self._pick(self.call(x))
            if self.tapped is None:
                raise CapabilityError(
                    "The layers of this model cannot be followed.",
                    received=f"a model of backend {self.backend.name}",
                    fix="pass the framework's own model object instead of a function that calls it; in a plain JAX function "
                    'name values with xai_jax.tap(value, "name").',
                )
            return self.tapped(x, visitor, pick or self._pick)

    def _pick(self, raw: Any) -> Any:
        return None if isinstance(self.output, Layer) else select(raw, self.output, self.backend)

    def read(self, leaves: list[Any], layers: Sequence[Layer]) -> list[Any]:
        """Values at layers."""
        visitor = Visitor(reads=layers, stop=not self.backend.compiles)
        with suppress(Reached):
            self.follow(leaves, visitor)
        return [visitor.value_of(layer) for layer in layers]

    def tap(self, leaves: list[Any], layers: Sequence[Layer]) -> tuple[list[Any], Callable[[list[Any]], Any]]:
        """Values at layers, and the scores as a function of other values there.

        Where the framework compiles, running twice costs nothing: what one run has in common with the other is merged,
        and what is not used falls away. Elsewhere the second run goes on where the first one stopped.
        """
        eager = not self.backend.compiles
        if eager and self.latest is not None and self.latest.holds(leaves, layers):
            tape, visitor = self.latest.tape, self.latest.visitor
        else:
            tape = Tape() if eager else None
            visitor = Visitor(reads=layers, stop=eager, tape=tape)
            with suppress(Reached):
                self.follow(leaves, visitor)
            if eager and self.latest is not None:
                self.latest.keep(leaves, layers, tape, visitor)

        def resume(values: list[Any]) -> Any:
            edits = {layer: partial(_instead, value) for layer, value in zip(layers, values, strict=True)}
            return self(leaves, Visitor(edits=edits, tape=tape, resume=eager))

        return [visitor.value_of(layer) for layer in layers], resume

    def pullback(self, leaves: list[Any], head: Callable[[Any], Any]) -> tuple[Any, Pull]:
        """`head(scores)` and the map from its cotangent to one gradient per leaf."""
        return self.backend.vjp(lambda inner: head(self(inner)), leaves)


@contextmanager
def _explained(x: Any) -> Iterator[None]:
    """Errors of the user's own model, said as such."""
    try:
        yield
    except (XaiError, Reached):
        raise
    except Exception as error:
        raise ModelError(
            f"The model failed when it was called: {type(error).__name__}: {error}",
            received=f"inputs: {describe(x)}",
            fix="call the model itself with these inputs and see that it works; "
            "a JAX or TensorFlow function must also work under jax.jit or tf.function.",
        ) from error


def _value_at(graph: Graph, layer: Layer) -> int:
    if layer not in graph.layers:
        raise LayerError(
            f"The run did not come to layer {str(layer)!r}.",
            fix="a layer that is called inside a loop or a branch of its framework cannot be looked at.",
        )
    return graph.layers[layer]


@dataclass(frozen=True)
class _Scores:
    """Takes the scores out of what the model returns; any array where a layer's value takes their place."""

    output: Any
    backend: Backend

    def __call__(self, raw: Any) -> Any:
        if isinstance(self.output, Layer):
            return next(leaf for leaf in flatten(raw)[0] if self.backend.owns(leaf))
        return select(raw, self.output, self.backend)


def _instead(value: Any, old: Any) -> Any:
    return value


@dataclass(frozen=True, eq=False)
class LayerNet:
    """The part of a model behind a layer, as a kernel sees it: the first leaf is the layer's value, the inputs follow.

    Inputs are constants here: derivatives are with respect to the layer's value alone.
    """

    net: Net
    layer: Layer

    @property
    def xp(self) -> Any:
        return self.net.xp

    @property
    def backend(self) -> Backend:
        return self.net.backend

    def __call__(self, leaves: list[Any]) -> Any:
        _, resume = self.net.tap(leaves[1:], [self.layer])
        return resume(leaves[:1])

    def graph(self, leaves: list[Any]) -> Graph:
        """The operations behind the layer: its value is the first input."""
        graph = self.net.graph(leaves[1:])
        return replace(graph, inputs=(_value_at(graph, self.layer), *graph.inputs))

    def pullback(self, leaves: list[Any], head: Callable[[Any], Any]) -> tuple[Any, Pull]:
        _, resume = self.net.tap(leaves[1:], [self.layer])
        value, pull = self.net.backend.vjp(lambda inner: head(resume(inner)), leaves[:1])
        return value, lambda cotangent: [*pull(cotangent), *(None for _ in leaves[1:])]


def select(raw: Any, output: Any, backend: Backend) -> Any:
    """Pick the array of scores out of what a model returned."""
    if callable(output):
        chosen = output(raw)
    elif output is None:
        chosen = raw
        if not backend.owns(raw):
            arrays = [(key, value) for key, value in _items(raw) if backend.owns(value)]
            if len(arrays) != 1:
                keys = ", ".join(repr(key) for key, _ in arrays) or "no array"
                raise OutputError(
                    "The model returns more or less than one array of scores.",
                    received=f"{type(raw).__qualname__} with {keys}",
                    fix=f"xai.wrap(model, output={arrays[0][0]!r})" if arrays else "return an array from the model.",
                )
            chosen = arrays[0][1]
    else:
        items = dict(_items(raw))
        if output not in items:
            raise OutputError(
                f"`output={output!r}` is not in what the model returns.",
                received=f"{type(raw).__qualname__} with {', '.join(map(repr, items)) or 'no parts'}",
                fix=f"xai.wrap(model, output={next(iter(items))!r})" if items else "leave `output` out.",
            )
        chosen = items[output]
    if not backend.owns(chosen):
        raise OutputError(
            f"The model's scores must be one array of {backend.name}.",
            received=describe(chosen),
            fix="pick the scores with xai.wrap(model, output=...), a key, position, attribute or callable.",
        )
    return chosen


def _items(raw: Any) -> list[tuple[Any, Any]]:
    """Parts of a model output by key, attribute or position."""
    if isinstance(raw, dict) or (hasattr(raw, "keys") and hasattr(raw, "__getitem__")):
        return [(key, raw[key]) for key in raw.keys()]  # noqa: SIM118
    if hasattr(raw, "_fields"):
        return [(key, getattr(raw, key)) for key in raw._fields]
    if is_dataclass(raw):
        return [(entry.name, getattr(raw, entry.name)) for entry in fields(raw)]
    if isinstance(raw, (tuple, list)):
        return list(enumerate(raw))
    return []


class _Call:
    """Kernel: the scores themselves."""

    def __call__(self, net: Net, leaves: list[Any]) -> Any:
        return net(leaves)


_CALL = _Call()


@dataclass(frozen=True)
class _Read:
    """Kernel: values at layers."""

    layers: tuple[Layer, ...]

    def __call__(self, net: Net, leaves: list[Any]) -> list[Any]:
        return net.read(leaves, self.layers)


@dataclass(frozen=True)
class _Edit:
    """Kernel: scores with edited layers."""

    edits: tuple[tuple[Layer, Callable[[Any], Any]], ...]

    def __call__(self, net: Net, leaves: list[Any]) -> Any:
        return net(leaves, Visitor(edits=dict(self.edits)))


@dataclass(frozen=True)
class _PullAt:
    """Kernel: the gradient at a layer that a cotangent of the scores has."""

    layer: Layer

    def __call__(self, net: Net, leaves: list[Any], cotangent: Any) -> Any:
        values, resume = net.tap(leaves, [self.layer])
        _, pull = net.backend.vjp(resume, values)
        gradient = pull(cotangent)[0]
        return net.xp.zeros_like(values[0]) if gradient is None else gradient


@dataclass(frozen=True, eq=False)
class Bound:
    """A model with the parameters it has now, for inputs of one structure."""

    model: Model
    adapted: Adapted
    structure: Structure
    params: Any
    static: Hashable
    layer: Layer | None = None
    frames: tuple[Frame | None, ...] = ()
    _cache: _Compiled = field(init=False)
    _latest: _Latest = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_cache", _compiled_for(self.adapted.anchor))
        object.__setattr__(self, "_latest", _Latest())
        # Compared once here, by identity from then on: the description of a large model is slow to compare.
        object.__setattr__(self, "static", self._cache.intern(self.static))

    @property
    def xp(self) -> Any:
        return self.adapted.backend.xp

    @property
    def backend(self) -> Backend:
        return self.adapted.backend

    @property
    def channel_axis(self) -> int:
        chosen = self.model.channel_axis
        return self.adapted.channel_axis if chosen is None else chosen

    def channel_axis_of(self, shape: tuple[int, ...]) -> int | None:
        """Channel axis, from 0, of an input of that shape; `None` for tables and lists of numbers."""
        if len(shape) < 3:
            return None
        axis = self.channel_axis
        if len(shape) == 3 and self.model.channel_axis is None and self.adapted.sequence_axis is not None:
            axis = self.adapted.sequence_axis
        return axis % len(shape)

    def frame_of(self, position: int) -> Frame | None:
        """How the input leaf at `position` is written as numbers, if it came as a DataFrame."""
        return self.frames[position] if self.layer is None and self.frames else None

    def given(self, leaves: list[Any]) -> Any:
        """Inputs as the model is called with them."""
        x = self.structure.rebuild(leaves)
        return _decoded(x, self.frames) if any(self.frames) and self.backend.takes_frames else x

    def to_native(self, array: Any) -> Any:
        """An array on the model's device: native arrays as they are, NumPy arrays copied."""
        return _to_native(self.adapted, array, "array")

    def to_numpy(self, array: Any) -> Any:
        return self.backend.to_numpy(array)

    @contextmanager
    def running(self, leaves: list[Any]) -> Iterator[None]:
        """Check the model, and leave it afterwards as it was."""
        if not self.adapted.checks_static or id(self.static) not in self._cache.checked:
            self.adapted.check(leaves)
            self._cache.checked.add(id(self.static))
        with self.adapted.preserve():
            yield

    def require_gradient(self, method: str) -> None:
        """Raise unless this model can be differentiated."""
        if not self.backend.differentiable:
            raise CapabilityError(
                f"{method} needs gradients, and {self.model.name!r} is a callable over {self.backend.name} arrays.",
                fix="pass the model with arrays of its framework or say xai.wrap(model, backend='jax'); "
                "for models without gradients use Occlusion.",
            )

    def run(self, kernel: Callable[..., Any], *arguments: Any) -> Any:
        """`kernel(net, *arguments)`, compiled once per kernel and shapes.

        Compiled functions live as long as the user's model and hold no reference to it, so that wrapping a model
        again does not compile again and a deleted model is freed.
        """
        key = (kernel, self.structure, self.model.output, self.layer, id(self.static), self.adapted.backend.name)
        compiled = self._cache.get(key)
        if compiled is None:
            compiled = self.backend.compile(_entry(kernel, self.structure, self.model.output, self.backend, self.layer))
            self._cache.put(key, compiled)
        with _applying(self.adapted, self._latest):
            return compiled(self.params, *arguments)

    def at_layer(self, layer: Layer) -> Bound:
        """The part of the model behind `layer`: its leaves are the layer's value and then the inputs."""
        return replace(self, layer=layer)

    def at_neuron(self, neuron: Any, leaves: list[Any]) -> Bound:
        """The same with a layer's output in place of the scores; `None` stands for `output=` of the model, as it is."""
        chosen = self.model.output if neuron is None else neuron
        if neuron is None and not isinstance(chosen, Layer):
            return self
        layer = self.find(chosen, leaves)
        self.require_rows(layer, leaves)
        return replace(self, model=replace(self.model, output=layer))

    def layers(self, leaves: list[Any]) -> LayerTable:
        """What can be named in this model; found out with one sample, once per input shapes."""
        shapes = tuple((tuple(leaf.shape)[1:], str(leaf.dtype)) for leaf in leaves)
        key = ("layers", self.structure, shapes, id(self.static), self.adapted.backend.name)
        known: Any = self._cache.get(key)
        if known is None:
            visitor = Visitor(listing=True)
            entry = _entry(_Follow(visitor), self.structure, None, self.backend, None)
            with _applying(self.adapted):
                self.backend.abstract(entry, self.params, [leaf[:1, ...] for leaf in leaves])
            known = visitor.table()
            self._cache.put(key, known)
        return known

    def learn(self, kernel: Callable[..., Any], leaves: list[Any]) -> Any:
        """What `kernel(net, leaves)` finds out about the model on the host, at the shapes of `leaves`.

        Compiled models change only with what is in the key; elsewhere the kernel is asked each time.
        """
        shapes = tuple((tuple(leaf.shape), str(leaf.dtype)) for leaf in leaves)
        named = (self.structure, self.model.output, self.layer, id(self.static), self.adapted.backend.name)
        key = ("learned", kernel, shapes, *named)
        known: Any = self._cache.get(key)
        if known is None:
            found: list[Any] = []

            def note(net: Net, given: list[Any]) -> None:
                found.append(kernel(net, given))

            entry = _entry(note, self.structure, self.model.output, self.backend, self.layer)
            with _applying(self.adapted):
                self.backend.abstract(entry, self.params, leaves)
            known = found[0]
            if self.backend.compiles:
                self._cache.put(key, known)
        return known

    def name_of(self, layer: Layer, leaves: list[Any]) -> str:
        """A layer as a user would write it: without its call if there is only one."""
        rows = [row for row in self.layers(leaves) if row.path == layer.path]
        return str(replace(layer, call=None) if len(rows) == 1 else layer)

    def require_rows(self, layer: Layer, leaves: list[Any]) -> None:
        """Raise LayerError unless the value at a layer has samples on its first axis."""
        rows_first(self.layers(leaves), layer, self.name_of(layer, leaves))

    def find(self, spec: Any, leaves: list[Any]) -> Layer:
        """The layer that a user names by text, `Layer` or the layer object itself.

        Raises
        ------
        LayerError
            If it is not one of this model's, or more than one.
        """
        if isinstance(spec, str):
            wanted = parse(spec)
        elif isinstance(spec, Layer):
            wanted = spec
        elif isinstance(spec, (tuple, list)):
            raise LayerError(
                "One layer is meant here; only class activation maps look at several.",
                received=describe(spec),
                fix="explain one after the other, or read several in one pass: xai.wrap(model).read(x, [...]).",
            )
        else:
            path = self.adapted.locate(spec)
            if path is None:
                raise LayerError(
                    f"This object is no layer of {self.model.name!r}.",
                    received=describe(spec),
                    fix="name the layer as xai.layers(model, x) does.",
                )
            wanted = Layer(path)
        return find(self.layers(leaves), wanted, self.model.name)

    def depends_on_input(self, leaves: list[Any], head: Callable[[Any], Any]) -> bool:
        """Whether the score can change with the input at all."""
        entry = _entry(_Head(head), self.structure, self.model.output, self.backend, self.layer)
        with _applying(self.adapted):
            return self.backend.depends(entry, self.params, leaves)


def _entry(
    kernel: Callable[..., Any], structure: Structure, output: Any, backend: Backend, layer: Layer | None
) -> Callable[..., Any]:
    def run(params: Any, *arguments: Any) -> Any:
        adapted = _APPLY.adapted
        if adapted is None:
            raise BackendError("A compiled part of an explanation was called outside of it.")
        tapped, traced = adapted.tapped, adapted.traced
        net: Any = Net(
            backend.xp,
            backend,
            lambda x: adapted.apply(params, x),
            structure,
            output,
            None if tapped is None else lambda x, visitor, pick: tapped(params, x, visitor, pick),
            _APPLY.latest,
            None if traced is None else lambda x, pick: traced(params, x, pick),
        )
        return kernel(net if layer is None else LayerNet(net, layer), *arguments)

    return run


@dataclass(frozen=True, eq=False)
class _Head:
    """Kernel: a function of the scores."""

    head: Callable[[Any], Any]

    def __call__(self, net: Any, leaves: list[Any]) -> Any:
        return self.head(net(leaves))


@dataclass(frozen=True, eq=False)
class _Follow:
    """Kernel: nothing but what a visitor sees on the way."""

    visitor: Visitor

    def __call__(self, net: Net, leaves: list[Any]) -> None:
        net.follow(leaves, self.visitor)


class _Apply(threading.local):
    """The model while a kernel is traced; compiled functions themselves must not hold it."""

    adapted: Adapted | None = None
    latest: _Latest | None = None


_APPLY = _Apply()


@contextmanager
def _applying(adapted: Adapted, latest: _Latest | None = None) -> Iterator[None]:
    before = _APPLY.adapted, _APPLY.latest
    _APPLY.adapted, _APPLY.latest = adapted, latest
    try:
        yield
    finally:
        _APPLY.adapted, _APPLY.latest = before


_NONE = object()


class _Compiled:
    """Least recently used cache of compiled kernels."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Hashable, Callable[..., Any]] = OrderedDict()
        self._statics: dict[Hashable, Hashable] = {}
        self._kept: set[int] = set()
        """Their identities: describing a large model once more takes a while to compare."""
        self.checked: set[int] = set()
        """Identities of the descriptions of a model that may be explained."""

    def intern(self, static: Hashable) -> Hashable:
        """The first of all equal descriptions; kept, so that its identity stays its own."""
        if id(static) in self._kept:
            return static
        found = self._statics.get(static, _NONE)
        if found is not _NONE:
            return found
        if len(self._statics) >= _DESCRIPTIONS_PER_MODEL:
            # A model that is another at each call, because it keeps something of it: let go of what it was.
            self._statics.clear()
            self._kept.clear()
            self._entries.clear()
            self.checked.clear()
        self._statics[static] = static
        self._kept.add(id(static))
        return static

    def get(self, key: Hashable) -> Callable[..., Any] | None:
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: Hashable, compiled: Callable[..., Any]) -> None:
        self._entries[key] = compiled
        while len(self._entries) > _COMPILED_PER_MODEL:
            self._entries.popitem(last=False)


_CACHES: dict[int, _Compiled] = {}


def _compiled_for(anchor: Any) -> _Compiled:
    """The cache of the object `anchor`, by identity (models need be neither hashable nor comparable)."""
    found = _CACHES.get(id(anchor))
    if found is None:
        found = _Compiled()
        try:
            weakref.finalize(anchor, _CACHES.pop, id(anchor), None)
        except TypeError:  # no weak references: compile for this binding alone rather than leak
            return found
        _CACHES[id(anchor)] = found
    return found
