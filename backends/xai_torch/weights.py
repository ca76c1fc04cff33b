"""Parameters of PyTorch modules in the common layout, and copies of modules with others."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from xai_core.backend import captured
from xai_core.errors import CapabilityError
from xai_core.structure import flatten
from xai_core.weights import Values, Weight, kind_of, natives
from xai_torch.graph import TRACING
from xai_torch.taps import ONE_AT_A_TIME, layers

__all__ = ["weights_of", "with_weights"]

_DICTS = (dict, OrderedDict)


def weights_of(module: torch.nn.Module) -> list[Weight]:
    """Floating point parameters, each once, where it is held first. Buffers are not learned."""
    return [weight for weight, _ in _held(module)]


def _held(module: torch.nn.Module) -> Iterator[tuple[Weight, torch.nn.Parameter]]:
    seen: set[int] = set()
    with TRACING:
        for path, part in [("", module), *layers(module)]:
            for name, parameter in part.named_parameters(recurse=False):
                if id(parameter) in seen or not parameter.is_floating_point():
                    continue
                seen.add(id(parameter))
                kind = kind_of(name, tuple(parameter.shape), type(part).__name__)
                read = partial(_host, parameter)
                yield (
                    Weight(path, name, kind, tuple(parameter.shape), read, _axes(part, name, parameter.ndim)),
                    parameter,
                )


def _host(parameter: torch.Tensor) -> np.ndarray[Any, Any]:
    wide = parameter.detach() if parameter.dtype == torch.float64 else parameter.detach().float()
    return wide.cpu().numpy().copy()


def _axes(part: torch.nn.Module, name: str, rank: int) -> tuple[int, ...]:
    if isinstance(part, _ConvNd) and name == "weight":
        first, second = (0, 1) if isinstance(part, _ConvTransposeNd) else (1, 0)
        return (*range(2, rank), first, second)
    matrices = (torch.nn.Linear, torch.nn.RNNBase, torch.nn.RNNCellBase, torch.nn.MultiheadAttention)
    return (1, 0) if isinstance(part, matrices) and rank == 2 else ()


def with_weights(module: torch.nn.Module, values: Values) -> torch.nn.Module:
    """A copy of a module with other values of some parameters; what is shared stays shared.

    Raises
    ------
    CapabilityError
        If it cannot be copied, or a copy would use parts of the original.
    """
    held = list(_held(module))
    memo: dict[int, Any] = {}
    for (_, parameter), value in zip(held, natives([weight for weight, _ in held], values), strict=True):
        if value is not None:
            made = torch.from_numpy(value).to(device=parameter.device, dtype=parameter.dtype, copy=True)
            memo[id(parameter)] = torch.nn.Parameter(made, parameter.requires_grad)
    for part in module.modules():
        # Of a large module it takes most of the time to copy dictionaries of hooks that are empty.
        memo.update((id(value), type(value)()) for value in vars(part).values() if type(value) in _DICTS and not value)
    with TRACING, ONE_AT_A_TIME, torch.no_grad():
        try:
            copied = copy.deepcopy(module, memo)
        except Exception as error:
            raise CapabilityError(
                f"The module cannot be copied: {type(error).__name__}: {error}",
                received=type(module).__qualname__,
                fix="make copy.deepcopy(model) work: take from the model what cannot be copied, and tensors that it has "
                "computed before.",
            ) from error
    _refuse_shared(module, copied)
    return copied


def _refuse_shared(module: torch.nn.Module, copied: torch.nn.Module) -> None:
    """Functions are not copied: one that holds a part of the original would compute with what that has learned."""
    own = {id(part) for part in [*module.modules(), *module.parameters()]}
    for path, part in copied.named_modules():
        for value in [*vars(part).values(), *part._forward_hooks.values(), *part._forward_pre_hooks.values()]:
            if not isinstance(value, types.FunctionType):
                continue
            found: list[Any] = []
            captured(value, _noting(found))
            if any(id(each) in own for each in flatten(found)[0]):
                raise CapabilityError(
                    f"A function that {path or 'the module'!r} holds refers to a part of the module, which a copy of it "
                    "would share.",
                    received=value.__qualname__,
                    fix="make it a method, or a module that is given what it needs.",
                )


def _noting(found: list[Any]) -> Callable[[Any], list[Any]]:
    def note(value: Any) -> list[Any]:
        found.append(value)
        return []

    return note
