"""JAX backend: Flax NNX and Linen, Equinox and Haiku models, and plain functions of JAX arrays."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xai_core.backend import Adapted, Around, Backend, Identity, Pull, Tapped, Traced, lifetime
from xai_core.errors import ModelError, TrainingModeError, describe
from xai_jax.graph import traced
from xai_jax.modules import (
    PATH,
    dotted,
    first_arrays,
    locate_equinox,
    locate_linen,
    mark_equinox,
    marked_function,
    marked_kind,
)
from xai_jax.taps import follow, tap
from xai_jax.weights import equinox_place, function_place, haiku_place, linen_place, nnx_places, with_weights

__all__ = ["JaxBackend", "backend", "tap"]

_EVALUATION = {"train": False, "training": False, "is_training": False, "deterministic": True}
"""Arguments by which models are told whether they are trained, and what says that they are not."""


class JaxBackend(Backend):
    """Everything that computes on JAX arrays, compiled with `jax.jit`, parameters passed as arguments."""

    name = "jax"
    compiles = True
    # XLA's convolutions like large batches forward and small ones backward, on a CPU.
    elements_per_call = 3 * 2**17
    elements_per_gradient = 2**16

    @property
    def xp(self) -> Any:
        return jnp

    def claims(self, model: Any) -> bool:
        return _kind(model) is not None or type(model).__name__ == "PjitFunction"

    def owns(self, array: Any) -> bool:
        return isinstance(array, jax.Array)

    def adapt(self, model: Any, params: Any) -> Adapted:
        makers = {"nnx": _nnx, "linen": _linen, "equinox": _equinox, "haiku": _haiku}
        kind = _kind(model)
        if kind is not None:
            return makers[kind](self, model, params)
        return _function(self, model, params)

    def asarray(self, array: np.ndarray[Any, Any], device: Any) -> Any:
        return jax.device_put(jnp.asarray(array), device)

    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        return np.asarray(array)

    def vjp(self, function: Callable[[list[Any]], Any], leaves: list[Any]) -> tuple[Any, Pull]:
        floating = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

        def of_floating(inner: list[Any]) -> Any:
            remaining = iter(inner)
            return function([next(remaining) if f else leaf for f, leaf in zip(floating, leaves, strict=True)])

        value, pull = jax.vjp(of_floating, [leaf for f, leaf in zip(floating, leaves, strict=True) if f])

        def pull_all(cotangent: Any) -> list[Any]:
            found = iter(pull(cotangent)[0])
            return [next(found) if f else None for f in floating]

        return value, pull_all

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.jit(function)

    def tapped(self, marked: Callable[[Any, Any, Around], Any]) -> Tapped:
        return follow(marked)

    def traced(
        self,
        marked: Callable[[Any, Any, Around], Any],
        roots: Sequence[Any] = (),
        anchor: Any = None,
        static: Callable[[], Hashable] = tuple,
    ) -> Traced:
        return traced(marked)

    def eager(self) -> contextlib.AbstractContextManager[Any]:
        return jax.ensure_compile_time_eval()

    def abstract(self, function: Callable[..., Any], *arguments: Any) -> None:
        jax.eval_shape(function, *arguments)

    def depends(self, function: Callable[..., Any], params: Any, leaves: list[Any]) -> bool:
        floating = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
        if len(floating) < len(leaves):
            return True

        def tangent(primal: list[Any], direction: list[Any]) -> Any:
            return jax.jvp(lambda inner: function(params, inner), (primal,), (direction,))[1]

        traced = jax.make_jaxpr(tangent)(leaves, leaves).jaxpr
        # Follow the direction alone: what stop_gradient cuts off never reaches the output's tangent.
        reached = set(traced.invars[len(leaves) :])
        for equation in traced.eqns:
            if any(not hasattr(v, "val") and v in reached for v in equation.invars):
                reached.update(equation.outvars)
        return any(not hasattr(v, "val") and v in reached for v in traced.outvars)


def _kind(model: Any) -> str | None:
    """Which library a model comes from, found without importing any."""
    kinds = {"flax.nnx": "nnx", "flax.linen": "linen", "equinox": "equinox"}
    for library, kind in kinds.items():
        loaded = sys.modules.get(library)  # Haiku loads a part of Flax, without its modules
        if loaded is not None and isinstance(model, loaded.Module):
            return kind
    if type(model).__module__.startswith("haiku.") and hasattr(model, "init") and hasattr(model, "apply"):
        return "haiku"
    return None


def _call(function: Callable[..., Any], x: Any, **keywords: Any) -> Any:
    """A tuple of inputs as positional arguments, a dict as keywords where the function takes them so."""
    if isinstance(x, dict | tuple | list):
        try:
            taken = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            return function(x, **keywords)
        if isinstance(x, dict):
            names = {p.name for p in taken}
            wide = any(p.kind is p.VAR_KEYWORD for p in taken)
            return function(**x, **keywords) if wide or names >= set(x) else function(x, **keywords)
        required = [
            p for p in taken if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in _EVALUATION
        ]
        if any(p.kind is p.VAR_POSITIONAL for p in taken) or len(required) >= len(x) > 1:
            return function(*x, **keywords)
    return function(x, **keywords)


def _evaluation(function: Callable[..., Any]) -> dict[str, bool]:
    """Keywords that put a call in evaluation mode, as far as the function takes them."""
    try:
        names = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    return {name: value for name, value in _EVALUATION.items() if name in names}


def _nnx(backend: JaxBackend, model: Any, params: Any) -> Adapted:
    from flax import nnx

    def call(state: Any, x: Any) -> Any:
        merged = nnx.merge(nnx.graphdef(model), state)
        return _call(merged, x, **_evaluation(type(model).__call__))

    def apply(state: Any, x: Any) -> Any:
        # `nnx.jit` inside a model writes its variables back, which is refused under a derivative: first the program alone.
        try:
            traced, shapes = jax.make_jaxpr(call, return_shape=True)(state, x)
        except TypeError:  # returns an object that is no tree of arrays
            return call(state, x)
        out = jax.core.eval_jaxpr(traced.jaxpr, traced.consts, *jax.tree.leaves((state, x)))
        return jax.tree.unflatten(jax.tree.structure(shapes), out)

    def marked(state: Any, x: Any, around: Around) -> Any:
        kinds: dict[type, type] = {}
        merged = nnx.merge(nnx.graphdef(model), state)
        for path, part in list(nnx.iter_graph(merged)):
            if isinstance(part, nnx.Sequential):
                for place, layer in enumerate(part.layers):
                    if not isinstance(layer, nnx.Module):
                        part.layers[place] = marked_function(layer, dotted((*path, "layers", place)), around)
            if path and isinstance(part, nnx.Module) and callable(part):
                # The copy's own class, made for it: the user's class and object stay as they are.
                kind = type(part)
                part.__class__ = kinds.setdefault(kind, marked_kind(kind, around))
                vars(part)[PATH] = dotted(path)
        return _call(merged, x, **_evaluation(type(model).__call__))

    def locate(layer: Any) -> str | None:
        return next((dotted(path) for path, part in nnx.iter_graph(model) if part is layer), None)

    def check(leaves: list[Any]) -> None:
        for path, part in nnx.iter_graph(model):
            training = getattr(part, "deterministic", None) is False and getattr(part, "rate", 1) != 0
            if training or getattr(part, "use_running_average", None) is False:
                name = ".".join(map(str, path)) or "itself"
                if _evaluation(type(model).__call__):
                    continue
                raise TrainingModeError(
                    f"The model is in training mode, and its part {name!r} behaves differently then.",
                    received=type(part).__qualname__,
                    fix="model.eval()",
                )

    adapted = Adapted(
        backend=backend,
        apply=apply,
        anchor=model,
        read=lambda _: nnx.split(model)[::-1],
        check=check,
        checks_static=True,  # a graph definition holds all that is no array, modes among it
        device=_device(first_arrays(model)),
        tapped=backend.tapped(marked),
        traced=backend.traced(marked),
        locate=locate,
    )
    return with_weights(adapted, nnx_places)


def _linen(backend: JaxBackend, model: Any, params: Any) -> Adapted:
    if params is None:
        raise ModelError(
            "A Flax Linen module holds no parameters.",
            received=describe(model),
            fix='xai.wrap(module, params=variables), where variables is {"params": ..., "batch_stats": ...}.',
        )
    variables = dict(params) if "params" in params else {"params": params}
    keywords = _evaluation(type(model).__call__)

    def apply(state: Any, x: Any) -> Any:
        return _call_linen(model, state, x, keywords)

    def marked(state: Any, x: Any, around: Around) -> Any:
        import flax.linen as nn

        def intercept(following: Any, positional: Any, given: Any, context: Any) -> Any:
            path = "/".join(context.module.path)
            if context.method_name != "__call__" or not path:
                return following(*positional, **given)
            return around(path, type(context.module).__name__, lambda g: following(*g[0], **g[1]), (positional, given))

        with nn.intercept_methods(intercept):
            return apply(state, x)

    adapted = Adapted(
        backend=backend,
        apply=apply,
        anchor=model,
        read=lambda _: (variables, None),
        device=_device(variables),
        tapped=backend.tapped(marked),
        traced=backend.traced(marked),
        locate=partial(locate_linen, model),
    )
    return with_weights(adapted, lambda _: linen_place)


def _call_linen(model: Any, state: Any, x: Any, keywords: dict[str, bool]) -> Any:
    if isinstance(x, dict) and set(x) <= set(inspect.signature(type(model).__call__).parameters):
        return model.apply(state, **x, **keywords)
    if isinstance(x, tuple | list):
        return model.apply(state, *x, **keywords)
    return model.apply(state, x, **keywords)


def _equinox(backend: JaxBackend, model: Any, params: Any) -> Adapted:
    import equinox

    arrays, static = equinox.partition(model, equinox.is_array)

    def apply(state: Any, x: Any) -> Any:
        # Equinox modules are written for one sample.
        return jax.vmap(lambda sample: _call(equinox.combine(state, static), sample))(x)

    def marked(state: Any, x: Any, around: Around) -> Any:
        combined = mark_equinox(equinox.combine(state, static), (), around)
        return jax.vmap(lambda sample: _call(combined, sample))(x)

    def check(leaves: list[Any]) -> None:
        for part in jax.tree.leaves(model, is_leaf=lambda node: hasattr(node, "inference")):
            if getattr(part, "inference", True) is False and getattr(part, "p", 1) != 0:
                raise TrainingModeError(
                    "The model is in training mode, and a part of it behaves differently then.",
                    received=type(part).__qualname__,
                    fix="model = equinox.nn.inference_mode(model)",
                )

    adapted = Adapted(
        backend=backend,
        apply=apply,
        anchor=model,
        read=lambda _: (arrays, None),
        check=check,
        device=_device(arrays),
        channel_axis=1,
        sequence_axis=1 if _convolves_signals(model) else -1,
        tapped=backend.tapped(marked),
        traced=backend.traced(marked),
        locate=partial(locate_equinox, model),
    )
    return with_weights(adapted, lambda _: partial(equinox_place, model=model))


def _convolves_signals(model: Any) -> bool:
    nodes = jax.tree.leaves(model, is_leaf=lambda node: hasattr(node, "num_spatial_dims"))
    return any(getattr(node, "num_spatial_dims", None) == 1 for node in nodes)


def _haiku(backend: JaxBackend, model: Any, params: Any) -> Adapted:
    if params is None:
        raise ModelError(
            "A Haiku transformed function holds no parameters.",
            received=describe(model),
            fix="xai.wrap(transformed, params=params), with state params=(params, state).",
        )
    stateful = type(model).__name__ == "TransformedWithState"
    takes_rng = "rng" in inspect.signature(model.apply).parameters

    def apply(state: Any, x: Any) -> Any:
        head = (*state,) if stateful else (state,)
        inputs = (*x,) if isinstance(x, tuple | list) else (x,)
        out = model.apply(*head, *((None,) if takes_rng else ()), *inputs)
        return out[0] if stateful else out

    def marked(state: Any, x: Any, around: Around) -> Any:
        import haiku as hk

        def intercept(following: Any, positional: Any, given: Any, context: Any) -> Any:
            if context.method_name != "__call__":
                return following(*positional, **given)
            name = context.module.module_name
            return around(name, type(context.module).__name__, lambda g: following(*g[0], **g[1]), (positional, given))

        with hk.intercept_methods(intercept):
            return apply(state, x)

    adapted = Adapted(
        backend=backend,
        apply=apply,
        anchor=model.apply,
        read=lambda _: (params, None),
        device=_device(params),
        tapped=backend.tapped(marked),
        traced=backend.traced(marked),
    )
    return with_weights(adapted, lambda _: partial(haiku_place, stateful=stateful))


def _function(backend: JaxBackend, model: Any, params: Any) -> Adapted:
    anchor, part = lifetime(model)

    def apply(state: Any, x: Any) -> Any:
        return model(x) if params is None else model(state, x)

    def read(x: Any) -> tuple[Any, Hashable]:
        held = () if params is None else params
        # A function may close over arrays and numbers that its owner replaces later (a model trained further). They are
        # constants of the compiled code, so each explanation first looks whether they are still the same. JAX arrays
        # never change: the same objects mean the same values.
        try:
            traced = jax.make_jaxpr(apply)(held, x)
        except Exception:
            return held, part  # the call itself reports what is wrong
        return held, (part, str(traced.jaxpr), tuple(map(Identity, traced.consts)))

    adapted = Adapted(
        backend=backend,
        apply=apply,
        anchor=anchor,
        read=read,
        device=_device(params),
        tapped=backend.tapped(lambda held, x, _: apply(held, x)),
        traced=backend.traced(lambda held, x, _: apply(held, x)),
    )
    return adapted if params is None else with_weights(adapted, lambda _: function_place, ordered=True)


def _device(tree: Any) -> Any:
    """Device of the parameters if it is one, else the default."""
    devices = {device for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array) for device in leaf.devices()}
    return devices.pop() if len(devices) == 1 else None


backend = JaxBackend()
