"""Layers of PyTorch modules: each module's call, for the time of one run, goes through a visitor."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

from xai_core.backend import Around
from xai_core.errors import CapabilityError
from xai_core.layers import Tree

__all__ = ["ONE_AT_A_TIME", "TREE", "follow", "layers"]

ONE_AT_A_TIME = threading.RLock()


def _arrays(value: Any) -> list[Any]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _replace(value: Any, arrays: list[Any]) -> Any:
    remaining = iter(arrays)
    return pytree.tree_map(lambda leaf: next(remaining) if isinstance(leaf, torch.Tensor) else leaf, value)


def _copy(value: Any) -> Any:
    return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, value)


TREE = Tree(_arrays, _replace, _copy)


def layers(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Paths and modules, without the wrappers of `torch.compile` and without the module itself."""
    for path, part in module.named_modules():
        if "_orig_mod" not in part._modules and path:
            yield ".".join(step for step in path.split(".") if step != "_orig_mod"), part


def follow(module: torch.nn.Module, around: Around, run: Callable[[], Any]) -> Any:
    """`run()`, which calls `module`, with the call of every module inside going through `around`.

    A module's call is replaced on the object for that time, and put back also after an exception. What is seen is what
    the module returns after the user's own hooks. Fused attention, which does not call its parts, and compiled code are
    off meanwhile.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise CapabilityError(
            "The layers of a TorchScript program cannot be followed.",
            received=type(module).__qualname__,
            fix="pass the module that it was made of.",
        )
    parts = list(layers(module))
    owner = threading.get_ident()
    with contextlib.ExitStack() as stack:
        stack.enter_context(ONE_AT_A_TIME)
        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fused)
        if any(part is not module and "_orig_mod" in part._modules for part in module.modules()):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for path, part in parts:
            _watch(stack, path, part, around, owner)
        return run()


def _watch(stack: contextlib.ExitStack, path: str, part: torch.nn.Module, around: Around, owner: int) -> None:
    original = part._call_impl

    def call(*positional: Any, **keywords: Any) -> Any:
        if threading.get_ident() != owner:  # somebody else's call of the same module
            return original(*positional, **keywords)

        def compute(given: Any) -> Any:
            return original(*given[0], **given[1])

        return around(path, type(part).__name__, compute, (positional, keywords))

    held = part.__dict__
    for name, value in (("_call_impl", call), ("_compiled_call_impl", None)):
        if name in held:
            stack.callback(held.__setitem__, name, held[name])
        else:
            stack.callback(held.pop, name, None)
        held[name] = value
