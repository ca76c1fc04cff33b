"""PyTorch backend: modules and plain functions of tensors."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import array_api_compat.torch as xp
import numpy as np
import torch

from xai_core.backend import Adapted, Around, Backend, Identity, Pull, Traced, captured, lifetime, settings
from xai_core.errors import InputError, TrainingModeError, describe, dtype_name
from xai_core.layers import Tree
from xai_torch.graph import TRACING, traced
from xai_torch.taps import TREE, follow, layers
from xai_torch.weights import weights_of, with_weights

__all__ = ["TorchBackend", "backend"]


class TorchBackend(Backend):
    """`torch.nn.Module`, also compiled or `DataParallel` (unwrapped), and functions of tensors."""

    name = "torch"
    channel_axis = 1

    @property
    def xp(self) -> Any:
        return xp

    def claims(self, model: Any) -> bool:
        return isinstance(model, torch.nn.Module)

    def owns(self, array: Any) -> bool:
        return isinstance(array, torch.Tensor)

    def adapt(self, model: Any, params: Any) -> Adapted:
        anchor, part = lifetime(model)
        if not isinstance(model, torch.nn.Module):

            def apply(_: Any, x: Any) -> Any:
                return model(x) if params is None else model(params, x)

            return Adapted(
                backend=self,
                apply=apply,
                anchor=anchor,
                traced=self.traced(
                    lambda _, x, around: apply(_, x), modules_of(model), anchor, lambda: facts_of(model, params)
                ),
                read=lambda _: ((), part),
                preserve=lambda: _preserved([]),
                channel_axis=self.channel_axis,
            )
        module = unwrapped(model)
        first = next((p for p in [*_held(module), *_held(module, "buffers")] if p.is_floating_point()), None)

        def check(leaves: list[Any]) -> None:
            _check_training(module)
            _check_tensors(leaves, first)

        def locate(layer: Any) -> str | None:
            return next((path for path, part in layers(module) if part is layer), None)

        def marked(_: Any, x: Any, around: Around) -> Any:
            return follow(module, around, lambda: call(module, x))

        return Adapted(
            backend=self,
            apply=lambda _, x: call(module, x),
            anchor=anchor,
            # The list of layers, found out once, holds for a model as it is built and set now.
            read=lambda _: ((), tuple((path, settings(part)) for path, part in module.named_modules())),
            check=check,
            preserve=lambda: _preserved(_held(module, "buffers")),
            device=None if first is None else first.device,
            channel_axis=self.channel_axis,
            sequence_axis=1 if any(isinstance(part, _SIGNAL_LAYERS) for part in module.modules()) else -1,
            tapped=self.tapped(marked),
            traced=self.traced(marked, [module], anchor),
            locate=locate,
            weights=None if isinstance(module, torch.jit.ScriptModule) else lambda *_: weights_of(module),
            replaced=lambda _, values: replace(self.adapt(with_weights(module, values), None), locate=locate),
        )

    @property
    def tree(self) -> Tree:
        return TREE

    def traced(
        self,
        marked: Callable[[Any, Any, Around], Any],
        roots: Sequence[Any] = (),
        anchor: Any = None,
        static: Callable[[], Hashable] = tuple,
    ) -> Traced:
        return traced(marked, roots, anchor, static)

    def asarray(self, array: np.ndarray[Any, Any], device: Any) -> Any:
        if array.dtype.name == "bfloat16":
            return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16).to(device)
        # from_numpy shares memory, and warns about read-only arrays: copy.
        return torch.from_numpy(np.array(array, order="C")).to(device)

    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        host = array.detach().cpu()
        if host.dtype == torch.bfloat16:
            import ml_dtypes  # comes with JAX and TensorFlow; without it NumPy has no bfloat16

            return host.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
        return host.numpy()

    def vjp(self, function: Callable[[list[Any]], Any], leaves: list[Any]) -> tuple[Any, Pull]:
        # Only with respect to the inputs: parameters get no gradient and keep their flags.
        with torch.inference_mode(False), torch.enable_grad():
            inputs = [leaf.clone() if leaf.is_inference() else leaf for leaf in leaves]
            inputs = [leaf.detach().requires_grad_(leaf.is_floating_point()) for leaf in inputs]
            value = function(inputs)

        def pull(cotangent: Any) -> list[Any]:
            wanted = [leaf for leaf in inputs if leaf.requires_grad]
            if not wanted or not value.requires_grad:
                return [None] * len(inputs)
            found = iter(torch.autograd.grad(value, wanted, cotangent, allow_unused=True))
            return [next(found) if leaf.requires_grad else None for leaf in inputs]

        return value.detach(), pull


def _held(module: torch.nn.Module, what: str = "parameters") -> list[Any]:
    """Parameters or buffers, not those that another thread has put there while it traces."""
    with TRACING:
        return list(getattr(module, what)())


def modules_of(function: Any) -> list[torch.nn.Module]:
    """Modules that a function takes from outside."""
    found: list[Any] = []

    def note(value: Any) -> list[Any]:
        found.append(value)
        return []

    captured(function, note)
    owner = getattr(function, "__self__", None)
    found += [owner, *getattr(owner, "__dict__", {}).values()]
    return list({id(value): value for value in found if isinstance(value, torch.nn.Module)}.values())


def facts_of(function: Any, params: Any) -> Hashable:
    """What a function of these parameters depends on beside the numbers in its modules."""
    owner = getattr(function, "__self__", None)
    own = settings(owner) if hasattr(owner, "__dict__") else None
    arrays = tuple(Identity(array) for array in TREE.arrays(params))
    return lifetime(function)[1], captured(function, lambda value: ()), own, arrays


_SIGNAL_LAYERS = (torch.nn.Conv1d, torch.nn.ConvTranspose1d)


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The module inside `torch.compile` and (distributed) data parallel wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
            inner = model.module
        if inner is None:
            return model
        model = inner


def call(module: Any, x: Any) -> Any:
    """A tuple of inputs as positional arguments, a dict as keywords where the module takes them so."""
    if isinstance(x, dict):
        names = inspect.signature(module.forward).parameters
        wants = any(p.kind is p.VAR_KEYWORD for p in names.values()) or all(key in names for key in x)
        return module(**x) if wants else module(x)
    if isinstance(x, (tuple, list)):
        taken = inspect.signature(module.forward).parameters.values()
        positional = [p for p in taken if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if any(p.kind is p.VAR_POSITIONAL for p in taken) or len(positional) >= len(x):
            return module(*x)
    return module(x)


def _check_training(module: torch.nn.Module) -> None:
    """Refuse modules whose output now differs from that in evaluation.

    A module is such a one if it is in training mode and its `forward` asks for that, unless its dropout is zero.
    """
    for path, part in module.named_modules():
        if not part.training or not _reads_training(type(part)):
            continue
        if any(getattr(part, name, None) == 0 for name in ("p", "dropout", "dropout_p")):
            continue
        raise TrainingModeError(
            f"The model is in training mode, and its part {path or 'itself'!r} behaves differently then.",
            received=type(part).__qualname__,
            fix="model.eval()",
        )


def _reads_training(kind: type) -> bool:
    forward = getattr(kind, "forward", None)
    code = getattr(inspect.unwrap(forward), "__code__", None) if forward is not None else None
    return code is not None and "training" in code.co_names


def _check_tensors(leaves: list[Any], first: torch.Tensor | None) -> None:
    for leaf in leaves:
        if first is None or not leaf.is_floating_point():
            continue
        if leaf.device != first.device:
            raise InputError(
                f"The model is on {first.device}, the inputs are on {leaf.device}.",
                received=describe(leaf),
                fix=f"x.to({str(first.device)!r})",
            )
        if leaf.dtype != first.dtype:
            wanted = dtype_name(first.dtype)
            raise InputError(
                f"The model's parameters are {wanted}, the inputs are {dtype_name(leaf.dtype)}.",
                received=describe(leaf),
                fix=f"x.to(torch.{wanted}), for NumPy x.astype({wanted!r}), or convert the model.",
            )


@contextlib.contextmanager
def _preserved(buffers: list[torch.Tensor]) -> Iterator[None]:
    """Record no graph but inside `vjp`; restore buffers (batch statistics) and random state if the model changes them."""
    devices = sorted({b.device.index or 0 for b in buffers if b.device.type == "cuda"})
    saved = [(buffer, buffer._version, buffer.detach().clone()) for buffer in buffers]
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        try:
            yield
        finally:
            for buffer, version, copy in saved:
                if buffer._version != version:
                    buffer.copy_(copy)


backend = TorchBackend()
