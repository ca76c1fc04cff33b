"""Explanations as maps on the host, for metrics that look at the values alone and need no model.

A map has one number for each position: channels are summed, and so are the numbers of a token's embedding. Where metrics
ask for other features, the rules of `xai_core.features` make them from the inputs that the explanation carries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from xai_core.errors import InputError, NonFiniteError, OptionError, describe
from xai_core.explanation import Explanation, to_host
from xai_core.frames import is_frame
from xai_core.metrics.ground import Ground, Relevance, values_on_host
from xai_core.metrics.statistics import total
from xai_core.model import bind, wrap
from xai_core.problem import Problem, Work
from xai_core.streams import Streams
from xai_core.structure import flatten
from xai_core.targets import Pick

__all__ = ["features_alone", "flat", "maps_of", "masked_map", "read_masks", "side_by_side"]

_Host = np.ndarray[Any, Any]


def features_alone(explanation: Explanation, features: Any, metric: str) -> Relevance:
    """Values of features, (batch, features), of all inputs together and without a model.

    Values of a layer that have no place in the inputs are taken as they are, as if they had been the inputs.

    Raises
    ------
    NonFiniteError
        If a value is NaN or infinite.
    OptionError
        If `features` do not fit.
    """
    _finite(explanation, metric)
    given, structure = flatten(explanation.inputs)
    try:
        values_on_host(explanation, [tuple(leaf.shape) for leaf in given])
    except OptionError:  # a layer of another shape than the inputs: its value is what was explained
        explanation = replace(explanation, inputs=explanation.values)
        given, structure = flatten(explanation.inputs)
    hosts = [leaf if is_frame(leaf) else to_host(leaf) for leaf in given]
    # The rules for features ask a problem for shapes and axes; this one has a model that is never called.
    model = wrap(_never, backend="numpy", channel_axis=explanation.channel_axis)
    bound, leaves = bind(model, hosts, structure)
    streams = Streams.of(0, range(len(leaves[0])))
    problem = Problem(bound, leaves, Pick(), None, None, streams, Work())
    return Ground(problem, 0).relevance(explanation, features)


def _never(x: Any) -> Any:
    raise InputError("A metric that only looks at values has called a model.")


def _finite(explanation: Explanation, metric: str) -> None:
    for value in flatten(explanation.values)[0]:
        host = _double(value)
        if not np.all(np.isfinite(host)):
            raise NonFiniteError(
                f"{metric} judges numbers, and values of this explanation are NaN or infinite.",
                received=describe(value),
                fix="look at explanation.values before judging them.",
            )


def _double(value: Any) -> _Host:
    return np.asarray(value if is_frame(value) else to_host(value)).astype(np.float64)


def masked_map(explanation: Explanation, masks: Any, metric: str) -> tuple[_Host, _Host]:
    """The map of an explanation and what should be found in it, both (batch, positions...).

    Raises
    ------
    InputError
        If there are several inputs, or the masks fit no map of this explanation, or are no truths.
    NonFiniteError
        If a value is NaN or infinite.
    """
    _finite(explanation, metric)
    leaves, structure = flatten(explanation.values)
    if len(leaves) != 1:
        raise InputError(
            f"{metric} compares one map with masks, and this explanation is of several inputs.",
            received=", ".join(f"{structure.label(i)} of shape {tuple(v.shape)}" for i, v in enumerate(leaves)),
            fix="judge one of them: dataclasses.replace(explanation, values=..., inputs=...) with the parts of one input.",
        )
    given = flatten(explanation.inputs)[0]
    maps = _maps(_double(leaves[0]), tuple(given[0].shape) if len(given) == 1 else (), explanation.channel_axis)
    truth = read_masks(masks, metric)
    for found in maps:
        fitting = _fitting(truth, found.shape)
        if fitting is not None:
            return found, fitting
    raise InputError(
        f"`masks` of {metric} must have a truth for each position of the map, of shape {maps[0].shape}.",
        received=f"masks of shape {truth.shape}, values of shape {tuple(leaves[0].shape)}",
        fix="masks of shape (batch, *spatial), a channel axis of size 1 is allowed; (batch, columns) for tables. "
        "Rescale or crop the masks as the inputs were.",
    )


def _maps(values: _Host, given: tuple[int, ...], channel_axis: int) -> list[_Host]:
    """What the map can be: one, but for sequences, of which the axis of channels is not always known."""
    if values.ndim == 1:
        return [values[:, None]]
    if given and values.ndim > len(given) and values.shape[: len(given)] == given:
        # Of an embedding: each token has the sum of its numbers.
        return [values.reshape(*given, -1).sum(axis=-1)]
    if values.ndim == 2:
        return [values]
    channel = channel_axis % values.ndim
    axes = [channel] if values.ndim > 3 else [channel, 3 - channel]
    return [total(values, axis).squeeze(axis) for axis in axes]


def read_masks(masks: Any, metric: str) -> _Host:
    """Masks of NumPy or any framework as truths on the host.

    Raises
    ------
    InputError
        If they hold anything but truths, zeros and ones.
    """
    parts = flatten(masks)[0] if isinstance(masks, dict) else [masks]
    if len(parts) != 1:
        raise InputError(f"`masks` of {metric} must be one array.", received=describe(masks))
    try:
        host = np.asarray(parts[0] if is_frame(parts[0]) else to_host(parts[0]))
        truth = host.astype(bool)
    except (TypeError, ValueError) as error:
        raise _no_truths(metric, parts[0]) from error
    if host.dtype.kind not in "buif" and host.dtype.name != "bfloat16":
        raise _no_truths(metric, parts[0])
    if host.dtype != bool and not np.array_equal(truth, host):
        raise _no_truths(metric, parts[0])
    return truth


def _no_truths(metric: str, masks: Any) -> InputError:
    return InputError(
        f"`masks` of {metric} hold truths: booleans, or zeros and ones.",
        received=describe(masks),
        fix="masks=labels == 7 for a map of classes, masks=saliency > 0.5 for shares.",
    )


def _fitting(truth: _Host, shape: tuple[int, ...]) -> _Host | None:
    """The masks in the shape of a map, if they have it but for a channel axis of size 1."""
    if truth.shape == shape:
        return truth
    if truth.ndim == len(shape) + 1:
        for axis in (1, truth.ndim - 1):
            if truth.shape[axis] == 1 and (*truth.shape[:axis], *truth.shape[axis + 1 :]) == shape:
                return truth.reshape(shape)
    return None


def maps_of(explanation: Explanation) -> _Host:
    """Values in double precision on the host, (batch, elements)."""
    return side_by_side([to_host(value) for value in flatten(explanation.values)[0]])


def side_by_side(parts: Sequence[_Host]) -> _Host:
    """Arrays (rows, ...) on the host as one in double precision, (rows, elements)."""
    wide = [flat(part).astype(np.float64, copy=False) for part in parts]
    return wide[0] if len(wide) == 1 else np.concatenate(wide, axis=1)


def flat(array: _Host) -> _Host:
    """(batch, positions)."""
    return array.reshape(len(array), math.prod(array.shape[1:]))
