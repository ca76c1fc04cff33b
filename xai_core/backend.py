"""What a backend supplies, and how the installed backends are found.

A backend package exposes one `Backend` under the entry-point group `xai_core.backends`. The entry point's name is the
import name of the framework; the backend is loaded when that module is already imported, never before, so that
`import xai_core` imports no framework.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
import types
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar

import numpy as np

from xai_core.errors import BackendError, describe, dtype_name
from xai_core.graph import Graph
from xai_core.layers import Tree, Visitor
from xai_core.structure import flatten
from xai_core.weights import Values, Weight

__all__ = [
    "Adapted",
    "Around",
    "Backend",
    "Held",
    "Identity",
    "Tapped",
    "Traced",
    "available",
    "backend_of_array",
    "backend_of_model",
    "captured",
    "lifetime",
    "load_backend",
    "settings",
]

Pull = Callable[[Any], list[Any]]
Around = Callable[[str, str, Callable[[Any], Any], Any], Any]
"""`around(path, operation, compute, given)`: `compute(given)`, one layer of a model, with what goes in and out shown."""
Tapped = Callable[[Any, Any, Visitor, Callable[[Any], Any]], Any]
"""`tapped(params, x, visitor, pick)`: see `Adapted.tapped`."""
Traced = Callable[[Any, Any, Callable[[Any], Any]], Graph]
"""`traced(params, x, pick)`: see `Adapted.traced`."""


class Backend(ABC):
    """One framework: its arrays, its derivative, its compiler, and the kinds of model it knows.

    All methods but `adapt` are independent of any model.
    """

    name: ClassVar[str]
    priority: ClassVar[int] = 0
    """Backends of higher priority are asked first whether a model is theirs."""
    compiles: ClassVar[bool] = False
    """Whether `compile` specialises on shapes; if so, callers keep the shapes of repeated calls constant."""
    differentiable: ClassVar[bool] = True
    takes_frames: ClassVar[bool] = False
    """Whether models are called with DataFrames where they are given DataFrames, instead of arrays."""
    channel_axis: ClassVar[int] = -1
    """Channel axis of image inputs where the model does not say otherwise."""
    elements_per_call: ClassVar[int] = 3 * 2**16
    """Input elements per model call on a CPU where no batch_size is given. Measured on convolution nets: calls must be large
    enough to hide what each costs beside, and small enough for activations to stay in the caches."""
    elements_per_gradient: ClassVar[int] = elements_per_call
    """The same of calls that differentiate, which hold all activations at once."""

    @property
    @abstractmethod
    def xp(self) -> Any:
        """The array-API namespace of this framework."""

    @abstractmethod
    def claims(self, model: Any) -> bool:
        """Whether `model` is of a kind that this backend adapts without being told to."""

    @abstractmethod
    def owns(self, array: Any) -> bool:
        """Whether `array` is this framework's array type."""

    @abstractmethod
    def adapt(self, model: Any, params: Any) -> Adapted:
        """Make `model` callable as a pure function of its parameters and inputs, without changing it.

        Raises
        ------
        ModelError
            If the model cannot be called, with the fix.
        """

    @abstractmethod
    def asarray(self, array: np.ndarray[Any, Any], device: Any) -> Any:
        """Copy a NumPy array to `device` (`None`: the default device), keeping its dtype where the framework can."""

    @abstractmethod
    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        """Copy an array of this framework to the host."""

    @abstractmethod
    def vjp(self, function: Callable[[list[Any]], Any], leaves: list[Any]) -> tuple[Any, Pull]:
        """Value of `function(leaves)` and the map from its cotangent to one gradient per leaf.

        A leaf that the value does not depend on has gradient `None` where the framework can tell.
        """

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, compiled if the framework compiles. Arguments are nested lists and tuples of arrays, or None."""
        return function

    def eager(self) -> AbstractContextManager[Any]:
        """Context in which operations on arrays made there run at once, also while something is being traced."""
        return contextlib.nullcontext()

    def abstract(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Run `function(*arguments)` for what it does on the host, computing as little as the framework can."""
        function(*arguments)

    @property
    def tree(self) -> Tree:
        """How layers of this framework hold arrays in what they take and return."""
        return Tree(partial(_arrays, self.owns), partial(_replace, self.owns))

    def tapped(self, marked: Callable[[Any, Any, Around], Any]) -> Tapped:
        """`Adapted.tapped` of a model from `marked(params, x, around)`, which runs it and each layer through `around`."""
        tree = self.tree

        def run(params: Any, x: Any, visitor: Visitor, pick: Callable[[Any], Any]) -> Any:
            def around(path: str, operation: str, compute: Callable[[Any], Any], given: Any) -> Any:
                return visitor.around(path, operation, compute, given, tree)

            return pick(marked(params, x, around))

        return run

    def traced(
        self,
        marked: Callable[[Any, Any, Around], Any],
        roots: Sequence[Any] = (),
        anchor: Any = None,
        static: Callable[[], Hashable] = tuple,
    ) -> Traced | None:
        """`Adapted.traced` of a model from `marked(params, x, around)`, or `None` where operations cannot be seen.

        Backends that compile trace where a kernel is compiled. Others keep what they traced as long as `anchor` lives,
        `static()` is the same, and nothing but the numbers changes in `roots`, the modules that the model consists of.
        """
        return None

    def depends(self, function: Callable[..., Any], params: Any, leaves: list[Any]) -> bool:
        """Whether `function(params, leaves)` depends on any leaf; asked only when a whole explanation came out as zero.

        This default asks `vjp` which gradients the framework knows to be none. Of integers it cannot tell.
        """
        if not self.differentiable or not all("float" in dtype_name(leaf.dtype) for leaf in leaves):
            return True
        value, pull = self.vjp(lambda inner: function(params, inner), leaves)
        return any(gradient is not None for gradient in pull(self.xp.ones_like(value)))


Held = tuple[Any, Hashable]
"""Parameters of a model, and what compiled code takes from it as constant."""


def _read_nothing(x: Any) -> Held:
    return (), None


def _arrays(owns: Callable[[Any], bool], value: Any) -> list[Any]:
    return [leaf for leaf in flatten(value)[0] if owns(leaf)]


def _replace(owns: Callable[[Any], bool], value: Any, arrays: list[Any]) -> Any:
    leaves, structure = flatten(value)
    remaining = iter(arrays)
    return structure.rebuild([next(remaining) if owns(leaf) else leaf for leaf in leaves])


def _locate_nothing(layer: Any) -> str | None:
    return None


def _no_check(leaves: list[Any]) -> None:
    return None


@dataclass(frozen=True, eq=False)
class Adapted:
    """A user's model as a pure function, made by `Backend.adapt`.

    Attributes
    ----------
    backend
        The backend that runs it (for Keras models the one of the Keras backend in use).
    apply
        `apply(params, x)`: raw outputs for structured inputs `x`.
    anchor
        The object whose lifetime compiled functions share; must allow weak references.
    read
        `read(x)`: the present parameters, arrays that enter compiled functions as arguments, and what those functions
        depend on beside, hashable; a change of the latter compiles anew.
    check
        Raises if the model must not be explained as it is (training mode) or with these leaves (dtype, device).
    checks_static
        Whether `check` looks at nothing but what `read` says that compiled functions depend on, so that it need not look
        again while that is the same.
    preserve
        Context in which the model runs during one explanation; restores whatever a forward pass could change.
    device
        Where NumPy inputs are put.
    channel_axis
        Channel axis of its image inputs.
    sequence_axis
        Channel axis of inputs (batch, a, b), if it is another: last for sequences of vectors, 1 for signals that are
        convolved in PyTorch.
    tapped
        `tapped(params, x, visitor, pick)`: `pick(apply(params, x))` with a `Visitor` told of every layer on the way;
        `None` if the layers of this kind of model cannot be followed.
    locate
        Path of a layer that is given as the object itself; `None` if it is none of this model's.
    traced
        `traced(params, x, pick)`: the operations of `pick(apply(params, x))` at the shapes of `x`, with layers marked;
        `pick` is hashable, and equal for equal work. `None` if this kind of model cannot be traced.
    weights
        `weights(held, x)`: the arrays that the model has learned, for inputs `x` and what `read` gave for them; `None` if
        they cannot be told.
    replaced
        `replaced(held, values)`: the same model with other arrays for some of its weights, cast to dtype and device of
        those. The user's model stays as it is, and all fields work alike. Goes with `weights`.
    """

    backend: Backend
    apply: Callable[[Any, Any], Any]
    anchor: Any
    read: Callable[[Any], Held] = _read_nothing
    check: Callable[[list[Any]], None] = _no_check
    checks_static: bool = False
    preserve: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    device: Any = None
    channel_axis: int = -1
    sequence_axis: int | None = None
    tapped: Tapped | None = None
    locate: Callable[[Any], str | None] = _locate_nothing
    traced: Traced | None = None
    weights: Callable[[Held, Any], Sequence[Weight]] | None = None
    replaced: Callable[[Held, Values], Adapted] | None = None


@functools.cache
def _entry_points() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group="xai_core.backends")}


@functools.cache
def load_backend(name: str) -> Backend:
    """The backend of framework `name`, importing the framework.

    Raises
    ------
    BackendError
        If there is no such backend or its framework is not installed.
    """
    found = _entry_points().get(name)
    if found is None:
        raise BackendError(
            f"No backend named {name!r} is installed.",
            fix=f"use one of {', '.join(sorted(_entry_points()))}, or install the package that provides {name!r}.",
        )
    try:
        backend = found.load()
    except ModuleNotFoundError as error:
        raise BackendError(
            f"Backend {name!r} needs the module {error.name!r}, which is not installed.",
            fix=f"pip install 'xai-core[{name}]'",
        ) from error
    if not isinstance(backend, Backend):
        raise BackendError(f"The entry point {name!r} gives no xai_core Backend.", received=describe(backend))
    return backend


def lifetime(model: Any) -> tuple[Any, Hashable]:
    """The object whose lifetime a callable shares, and what tells it from other callables of that object.

    A bound method is made anew at each access; its object is what stays.
    """
    owner = getattr(model, "__self__", None)
    if owner is not None and not isinstance(owner, types.ModuleType):
        return owner, getattr(model, "__name__", None)
    return model, None


class Identity:
    """Stands for an object in a hashable description; equal only for the same object.

    It keeps no object alive that allows weak references: a layer may refer to the model it is part of. What has gone
    equals nothing.
    """

    def __init__(self, held: Any) -> None:
        self._hash = id(held)
        try:
            self._held: Callable[[], Any] = weakref.ref(held)
        except TypeError:
            self._held = lambda: held

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Identity):
            return False
        held = self._held()
        return held is not None and held is other._held()


def settings(owner: Any) -> Hashable:
    """What an object's public attributes say about how it computes: numbers and texts by value, the rest by identity.

    Goes into `Adapted.read`, so that code compiled before somebody changed an activation, a constant or a variable of
    the model is not used afterwards.
    """
    return tuple((name, _setting(value)) for name, value in vars(owner).items() if not name.startswith("_"))


def captured(function: Any, parts: Callable[[Any], Iterable[Any]]) -> Hashable:
    """What a Python function takes from outside: its closure, its defaults and the global names it uses.

    `parts` gives the modules of a model; of those, `settings` are included.
    """
    code = getattr(function, "__code__", None)
    if code is None:
        return None
    held = [function.__defaults__]
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # not yet assigned
            held.append(cell.cell_contents)
    held += [function.__globals__[name] for name in code.co_names if name in function.__globals__]
    return tuple((_setting(value), tuple(settings(part) for part in parts(value))) for value in held)


def _setting(value: Any) -> Hashable:
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return type(value), value
    if isinstance(value, (list, tuple)):
        return tuple(_setting(item) for item in value)
    if isinstance(value, dict):
        return tuple((key, _setting(item)) for key, item in value.items())
    return Identity(value)


def available() -> dict[str, bool]:
    """Name of every registered backend, and whether its framework is installed; imports none of them."""
    return {name: importlib.util.find_spec(name) is not None for name in sorted(_entry_points())}


def _present() -> list[Backend]:
    """Backends whose framework this process has imported, first asked first."""
    names = [name for name in _entry_points() if name in sys.modules]
    return sorted((load_backend(name) for name in names), key=lambda backend: -backend.priority)


def backend_of_array(array: Any) -> Backend | None:
    """The backend whose arrays `array` is one of."""
    return next((backend for backend in _present() if backend.owns(array)), None)


def backend_of_model(model: Any) -> Backend | None:
    """The backend that recognises `model` by itself; None for plain functions."""
    return next((backend for backend in _present() if backend.claims(model)), None)
