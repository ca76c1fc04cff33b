"""A user's model as every method sees it, and `wrap`, which makes one."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np

from xai_core.backend import Adapted, Backend, Pull, backend_of_array, backend_of_model, load_backend
from xai_core.errors import (
    BackendError,
    CapabilityError,
    InputError,
    ModelError,
    OptionError,
    OutputError,
    XaiError,
    describe,
)
from xai_core.structure import Structure, flatten

__all__ = ["Bound", "Model", "Net", "bind", "wrap"]

_COMPILED_PER_MODEL = 256


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
        leaves, structure = flatten(x)
        bound, native = bind(self, leaves, structure)
        with bound.running(native):
            outputs = bound.run(_CALL, native)
        return bound.to_numpy(outputs) if all(isinstance(leaf, np.ndarray) for leaf in leaves) else outputs


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


def bind(model: Any, leaves: list[Any], structure: Structure) -> tuple[Bound, list[Any]]:
    """Read a model's present parameters for one explanation, and put its inputs on the model's device.

    Raises
    ------
    BackendError
        If a plain function's inputs are arrays of no installed framework.
    InputError
        If an input is no array, or an array of another framework than the model's.
    """
    wrapped = model if isinstance(model, Model) else wrap(model)
    adapted = wrapped.adapted
    if adapted is None:
        backend = next((found for leaf in leaves if (found := backend_of_array(leaf)) is not None), None)
        if backend is None:
            raise BackendError(
                "No backend knows the arrays that this function was given.",
                received=describe(leaves[0]) if leaves else "no array",
                fix="pass arrays of NumPy, JAX, PyTorch or TensorFlow, or say xai.wrap(function, backend=...).",
            )
        adapted = backend.adapt(wrapped.raw, wrapped.params)
    native = [_to_native(adapted, leaf, structure.label(position)) for position, leaf in enumerate(leaves)]
    x = structure.rebuild(native)
    return Bound(wrapped, adapted, structure, *adapted.read(x)), native


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

    def __call__(self, leaves: list[Any]) -> Any:
        """Scores for a batch of rows: (rows, ...)."""
        try:
            raw = self.call(self.structure.rebuild(leaves))
        except XaiError:
            raise
        except Exception as error:
            received = describe(self.structure.rebuild(leaves))
            raise ModelError(
                f"The model failed when it was called: {type(error).__name__}: {error}",
                received=f"inputs: {received}",
                fix="call the model itself with these inputs and see that it works; "
                "a JAX or TensorFlow function must also work under jax.jit or tf.function.",
            ) from error
        scores = select(raw, self.output, self.backend)
        rows = int(tuple(leaves[0].shape)[0])
        shape = tuple(scores.shape)
        if not shape or shape[0] != rows:
            raise OutputError(
                f"The model must return one row of scores per input row: first axis {rows}.",
                received=describe(scores),
                fix="give the model a batch axis in its output, or pick the scores with xai.wrap(model, output=...).",
            )
        return scores

    def pullback(self, leaves: list[Any], head: Callable[[Any], Any]) -> tuple[Any, Pull]:
        """`head(scores)` and the map from its cotangent to one gradient per leaf."""
        return self.backend.vjp(lambda inner: head(self(inner)), leaves)


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


@dataclass(frozen=True, eq=False)
class Bound:
    """A model with the parameters it has now, for inputs of one structure."""

    model: Model
    adapted: Adapted
    structure: Structure
    params: Any
    static: Hashable
    _cache: _Compiled = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_cache", _compiled_for(self.adapted.anchor))
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

    def to_native(self, array: Any) -> Any:
        """An array on the model's device: native arrays as they are, NumPy arrays copied."""
        return _to_native(self.adapted, array, "array")

    def to_numpy(self, array: Any) -> Any:
        return self.backend.to_numpy(array)

    @contextmanager
    def running(self, leaves: list[Any]) -> Iterator[None]:
        """Check the model, and leave it afterwards as it was."""
        self.adapted.check(leaves)
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
        key = (kernel, self.structure, self.model.output, id(self.static), self.adapted.backend.name)
        compiled = self._cache.get(key)
        if compiled is None:
            compiled = self.backend.compile(_entry(kernel, self.structure, self.model.output, self.backend))
            self._cache.put(key, compiled)
        with _applying(self.adapted.apply):
            return compiled(self.params, *arguments)

    def depends_on_input(self, leaves: list[Any], head: Callable[[Any], Any]) -> bool:
        """Whether the score can change with the input at all."""
        apply, structure, output, backend = self.adapted.apply, self.structure, self.model.output, self.backend

        def score(params: Any, inner: list[Any]) -> Any:
            return head(Net(backend.xp, backend, lambda x: apply(params, x), structure, output)(inner))

        return backend.depends(score, self.params, leaves)


def _entry(kernel: Callable[..., Any], structure: Structure, output: Any, backend: Backend) -> Callable[..., Any]:
    def run(params: Any, *arguments: Any) -> Any:
        apply = _APPLY.function
        return kernel(Net(backend.xp, backend, lambda x: apply(params, x), structure, output), *arguments)

    return run


class _Apply(threading.local):
    """The model's function while a kernel is traced; compiled functions themselves must not hold it."""

    function: Callable[[Any, Any], Any]


_APPLY = _Apply()


@contextmanager
def _applying(function: Callable[[Any, Any], Any]) -> Iterator[None]:
    before = getattr(_APPLY, "function", None)
    _APPLY.function = function
    try:
        yield
    finally:
        if before is None:
            del _APPLY.function
        else:
            _APPLY.function = before


class _Compiled:
    """Least recently used cache of compiled kernels."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Hashable, Callable[..., Any]] = OrderedDict()
        self._statics: dict[Hashable, Hashable] = {}

    def intern(self, static: Hashable) -> Hashable:
        """The first of all equal descriptions; kept, so that its identity stays its own."""
        return self._statics.setdefault(static, static)

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
