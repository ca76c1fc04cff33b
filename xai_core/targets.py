"""Which score is explained.

`None`: the class of the highest score, per sample (for a single output, that output). An int or `(batch,)` ints: a
class. A tuple: an index into an output with more axes, each entry an int or `(batch,)` ints. A callable: `scores ->
(batch,)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from xai_core.errors import OutputError, TargetError, describe
from xai_core.frames import is_series
from xai_core.model import Net

__all__ = ["SCALES", "Beside", "Pick", "Resolve", "check_range", "fit_index", "gather", "host_index", "mixed", "scaled"]


@dataclass(frozen=True)
class Pick:
    """The explained score of a batch of outputs; the static part of a target.

    With `every` that is all of them, (batch, outputs). `scale` is what outputs are turned into first: see `scaled`.
    """

    function: Callable[[Any], Any] | None = None
    every: bool = False
    scale: Any = None

    def __call__(self, xp: Any, outputs: Any, index: Any) -> Any:
        """Scores (batch,) of `outputs` (batch, ...) at `index` (batch, axes), which a callable ignores."""
        outputs = scaled(xp, outputs, self.scale)
        if self.every:
            return _columns(xp, outputs)
        if self.function is not None:
            scores = self.function(outputs)
            if tuple(getattr(scores, "shape", ())) != (tuple(outputs.shape)[0],):
                raise TargetError(
                    f"A callable `target` must return one score per sample: shape ({tuple(outputs.shape)[0]},).",
                    received=describe(scores),
                    fix="sum or select over all other axes: target=lambda scores: scores[:, 3] - scores[:, 5].",
                )
            return scores
        shape = tuple(outputs.shape)
        flat = xp.reshape(outputs, (shape[0], math.prod(shape[1:])))
        sizes = shape[1:] or (1,)
        position = index[:, 0]
        for axis in range(1, len(sizes)):
            position = position * sizes[axis] + index[:, axis]
        return xp.take_along_axis(flat, position[:, None], axis=1)[:, 0]


SCALES = (None, "probability", "log_probability", "accuracy")


def scaled(xp: Any, outputs: Any, scale: Any) -> Any:
    """Outputs as they are, as probabilities of classes or their logarithms, or as a callable `outputs -> outputs` says.

    Probabilities are the softmax over the last axis of (batch, classes), the sigmoid of a single output. `"accuracy"` is 1
    for the predicted class and 0 for others; a single output is a logit.

    Raises
    ------
    TargetError
        If there are more axes than one of classes.
    """
    if scale is None:
        return outputs
    if callable(scale):
        return scale(outputs)
    shape = tuple(outputs.shape)
    if len(shape) > 2:
        raise TargetError(
            "Probabilities are made of outputs of shape (batch, classes).",
            received=f"outputs of shape {shape}, score={scale!r}",
            fix="score=callable, with outputs in and outputs out.",
        )
    single = math.prod(shape[1:]) == 1
    flat = xp.reshape(outputs, (shape[0], math.prod(shape[1:])))
    logits = xp.concat([flat, xp.zeros_like(flat)], axis=1) if single else flat
    if scale == "accuracy":
        chosen = xp.argmax(logits, axis=1)
        classes = xp.arange(tuple(logits.shape)[1], dtype=chosen.dtype, device=getattr(chosen, "device", None))
        first = xp.astype(classes[None, :] == chosen[:, None], outputs.dtype)
        return xp.reshape(first[:, : tuple(flat.shape)[1]], shape)
    shifted = logits - xp.max(logits, axis=1, keepdims=True)
    logs = shifted - xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True))
    found = logs if scale == "log_probability" else xp.exp(logs)
    return xp.reshape(found[:, :1] if single else found, shape)


def gather(xp: Any, array: Any, rows: Any) -> Any:
    """Rows of an array; `rows=None` means all of them, `array=None` stays None."""
    return array if rows is None or array is None else xp.take(array, rows, axis=0)


@dataclass(frozen=True)
class Resolve:
    """Kernel: explained score, index and output shape of a batch; the shape travels as that of an empty array.

    Also which outputs are the largest, `predicts` of them: 1, 2 or, which gives `None`, 0. `chosen` is `None` for the
    predicted class. Indices outside the output are moved into it here and refused on the host, because frameworks differ in
    what they do with them.
    """

    pick: Pick
    predicts: int = 0

    def __call__(self, net: Net, leaves: list[Any], rows: Any, chosen: Any) -> tuple[Any, Any, Any, Any]:
        xp = net.xp
        outputs = net([gather(xp, leaf, rows) for leaf in leaves])
        empty = outputs[:0, ...]
        largest = _largest(xp, outputs, self.predicts) if self.predicts else None
        if self.pick.function is not None or self.pick.every:
            return self.pick(xp, outputs, None), None, empty, largest
        index = fit_index(xp, outputs, gather(xp, chosen, rows))
        return self.pick(xp, outputs, index), index, empty, largest


def _largest(xp: Any, outputs: Any, count: int) -> Any:
    """Which outputs of each row are the largest and, for a `count` of 2, the one after it, (rows, count)."""
    flat = xp.reshape(outputs, (tuple(outputs.shape)[0], -1))
    first = xp.argmax(flat, axis=1)[:, None]
    if count == 1:
        return first
    if tuple(flat.shape)[1] == 1:
        return xp.concat([first, first], axis=1)
    # The outputs' numbers, by sums of ones: `arange` needs a device.
    numbers = xp.cumulative_sum(xp.astype(xp.ones_like(flat), first.dtype), axis=1) - 1
    lowest = xp.min(flat, axis=1, keepdims=True) - 1
    second = xp.argmax(xp.where(numbers == first, lowest, flat), axis=1)[:, None]
    # Of huge or infinite numbers one less may be no less: then all others are equal, and the first of them comes after it.
    second = xp.where(second == first, xp.astype(first == 0, second.dtype), second)
    return xp.concat([first, second], axis=1)


@dataclass(frozen=True)
class Beside:
    """Kernel: as `Resolve`, and the scores of changed inputs, which the model sees together with the inputs.

    `others` and `shares` are what `mixed` makes the changed inputs of.
    """

    pick: Pick

    def __call__(
        self, net: Net, leaves: list[Any], others: list[Any], shares: list[Any], rows: Any, chosen: Any
    ) -> tuple[Any, Any, Any, Any]:
        xp = net.xp
        both, index = [], gather(xp, chosen, rows)
        for parts in zip(leaves, others, shares, strict=True):
            own, other, share = (gather(xp, part, rows) for part in parts)
            both.append(xp.concat([own, mixed(xp, own, other, share)], axis=0))
        score, index, empty, _ = Resolve(self.pick)(net, both, None, xp.concat([index, index], axis=0))
        half = tuple(score.shape)[0] // 2
        return score[:half, ...], index[:half, ...], empty, score[half:, ...]


def mixed(xp: Any, own: Any, other: Any, share: Any) -> Any:
    """An input where its share is 1, another one where it is 0; without a share the other one."""
    if share is None:
        return other
    wide = xp.astype(other, share.dtype)
    return xp.astype(wide + share * (xp.astype(own, share.dtype) - wide), own.dtype)


def _columns(xp: Any, outputs: Any) -> Any:
    shape = tuple(outputs.shape)
    if len(shape) > 2:
        raise TargetError(
            "All outputs at once are explained for outputs of shape (batch, outputs) only.",
            received=f"outputs of shape {shape}",
            fix="target=(...) for one of them, or xai.wrap(model, output=...) to pick some.",
        )
    return outputs if len(shape) == 2 else xp.reshape(outputs, (shape[0], 1))


def fit_index(xp: Any, outputs: Any, chosen: Any) -> Any:
    """Index (batch, axes) into outputs: the class of the highest score for `None`, else the given one, moved inside.

    Raises
    ------
    TargetError
        If there is no predicted class, or the index has another number of axes than the outputs.
    """
    shape = tuple(outputs.shape)
    sizes = shape[1:] or (1,)
    if chosen is None:
        if len(sizes) != 1:
            raise TargetError(
                "The predicted class is defined for outputs of shape (batch, classes) only.",
                received=f"outputs of shape {shape}",
                fix=f"target=({', '.join('0' * len(sizes))}) for one output, or a callable scores -> (batch,).",
            )
        return xp.argmax(xp.reshape(outputs, (shape[0], sizes[0])), axis=1)[:, None]
    if tuple(chosen.shape)[1] != len(sizes):
        raise TargetError(
            f"`target` needs {len(sizes)} entries for outputs of shape {shape}.",
            received=f"{tuple(chosen.shape)[1]} entries",
            fix=f"target=({', '.join('0' * len(sizes))},) or a callable scores -> (batch,).",
        )
    columns = [xp.clip(chosen[:, axis : axis + 1], 0, size - 1) for axis, size in enumerate(sizes)]
    return xp.concat(columns, axis=1)


def host_index(target: Any, batch: int, to_numpy: Callable[[Any], Any]) -> np.ndarray[Any, Any] | None:
    """An explicit target as integers (batch, axes) on the host; None for the predicted class and callables.

    Raises
    ------
    TargetError
        If the target is neither of the kinds above, or has another batch size than the inputs.
    """
    if target is None or callable(target) or (isinstance(target, str) and target == "all"):
        return None
    entries = target if isinstance(target, tuple) else (target,)
    columns = []
    for entry in entries:
        try:
            on_host = isinstance(entry, (int, list, np.ndarray, np.integer)) or is_series(entry)
            column = np.asarray(entry if on_host else to_numpy(entry))
        except Exception as error:
            raise _bad_target(target, batch) from error
        if column.dtype.kind not in "iu" or column.shape not in ((), (batch,)):
            raise _bad_target(target, batch)
        columns.append(np.broadcast_to(column.astype(np.int64), (batch,)))
    if not columns:
        raise _bad_target(target, batch)
    return np.stack(columns, axis=1)


def _bad_target(target: Any, batch: int) -> TargetError:
    return TargetError(
        f"`target` must be None, an int, {batch} ints (one per sample), a tuple of those, or a callable.",
        received=describe(target),
        fix="target=281 for one class, target=labels with one integer per sample.",
    )


def check_range(index: np.ndarray[Any, Any], shape: tuple[int, ...]) -> None:
    """Refuse indices outside outputs of `shape` (without the batch axis).

    Raises
    ------
    TargetError
        With the allowed range.
    OutputError
        If the outputs have no score at all.
    """
    sizes = shape or (1,)
    if 0 in sizes:
        raise OutputError("The model returns no scores.", received=f"outputs of shape (batch, {shape})")
    for axis, size in enumerate(sizes):
        outside = index[(index[:, axis] < 0) | (index[:, axis] >= size), axis]
        if outside.size:
            where = "" if len(sizes) == 1 else f" on output axis {axis + 1}"
            raise TargetError(
                f"`target` is outside the model's outputs{where}: there are {size}, 0 to {size - 1}.",
                received=f"target {int(outside[0])}",
                fix=f"target=None for the predicted class, or an integer from 0 to {size - 1}.",
            )
