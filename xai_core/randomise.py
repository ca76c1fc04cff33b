"""A model with random weights in chosen layers, the same numbers in every framework.

The randomisation of Adebayo et al. 2018, "Sanity checks for saliency maps" (arXiv:1810.03292): kernels become normal
numbers of mean zero with their own standard deviation, so that scores stay in their range, biases zero, scales one;
statistics of data stay. A vector whose name does not say which of these it is keeps its numbers, in random order: it may be
a variance, or scale all that goes through the model. The numbers of an array depend on the seed, on the place of its layer
among those that hold weights, and on its place there, not on which other layers are random too.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from xai_core.errors import CapabilityError, LayerError, OptionError, describe
from xai_core.model import Bound, Model, bind
from xai_core.streams import check_seed
from xai_core.structure import flatten
from xai_core.weights import KINDS, Values, Weight

__all__ = ["Randomiser", "randomised", "weighted_layers"]

_STREAM = 3_000_000
"""First of the spawn keys, apart from those of samples and of designs."""


def weighted_layers(model: Any, x: Any) -> tuple[str, ...]:
    """Paths of the layers that hold weights, in the order in which they run first.

    What no layer that is called holds comes first: "" stands for the model itself, such as a class token of its own.

    Parameters
    ----------
    model
        A model as in `wrap`, raw or wrapped.
    x
        Inputs, batch first; the model runs on the first sample.

    Raises
    ------
    CapabilityError
        If the weights of this kind of model cannot be told.
    """
    bound, leaves = _bound(model, x)
    return Randomiser(bound, leaves, 0).layers


def randomised(model: Any, x: Any, layers: Sequence[str], seed: int = 0) -> Model:
    """The model with random weights in some layers; the user's model stays as it is.

    Parameters
    ----------
    model
        A model as in `wrap`, raw or wrapped.
    x
        Inputs, batch first; the model runs on the first sample.
    layers
        Some of `weighted_layers(model, x)`.
    seed
        Seed of the random numbers.

    Returns
    -------
    Model
        As `wrap` gives it, with all that was said about the model.

    Raises
    ------
    CapabilityError
        If the weights of this kind of model cannot be told or replaced.
    LayerError
        If a layer holds no weights of this model.
    OptionError
        If `layers` is no sequence of paths, or `seed` no non-negative integer.
    """
    if isinstance(layers, str) or not all(isinstance(path, str) for path in layers):
        raise OptionError(
            "`layers` are paths of layers that hold weights.",
            received=describe(layers),
            fix="layers=weighted_layers(model, x)[-1:]",
        )
    bound, leaves = _bound(model, x)
    return Randomiser(bound, leaves, seed).model(layers)


def _bound(model: Any, x: Any) -> tuple[Bound, list[Any]]:
    leaves, structure = flatten(x)
    return bind(model, leaves, structure)


class Randomiser:
    """Versions of one model with random weights in some layers, whose numbers are drawn once for all of them.

    Attributes
    ----------
    layers
        Paths of the layers that hold weights, in the order in which they run first.
    """

    def __init__(self, bound: Bound, leaves: list[Any], seed: int) -> None:
        self._seed = check_seed(seed)
        adapted = bound.adapted
        if adapted.weights is None or adapted.replaced is None:
            raise CapabilityError(
                f"The weights of {bound.model.name!r} cannot be replaced: what its parameters are cannot be told.",
                received=f"a model of backend {adapted.backend.name}",
                fix="pass the framework's own model object instead of a function that calls it; for a JAX function say "
                "xai.wrap(function, params=...), which calls function(params, x).",
            )
        self._bound, self._leaves, self._replaced = bound, leaves, adapted.replaced
        self._read = bound.params, bound.static
        with bound.running(leaves):
            listed = adapted.weights(self._read, bound.given([leaf[:1, ...] for leaf in leaves]))
            self._held = _by_layer(bound, listed, leaves)
        self.layers = tuple(self._held)
        self._drawn: dict[str, Values] = {}

    def model(self, layers: Sequence[str]) -> Model:
        """The model with random weights in these layers."""
        for path in layers:
            if path not in self._held:
                raise _unknown(path, list(self.layers), self._bound.model.name)
        with self._bound.running(self._leaves):
            values: dict[tuple[str, str], Any] = {}
            for path in layers:
                values.update(self._values(path))
            return replace(self._bound.model, adapted=self._replaced(self._read, values))

    def _values(self, path: str) -> Values:
        if path not in self._drawn:
            self._drawn[path] = {
                (weight.path, weight.name): _drawn(weight, self._seed, key)
                for key, weight in _keyed(self.layers.index(path), self._held[path])
            }
        return self._drawn[path]


def _by_layer(bound: Bound, weights: Sequence[Weight], leaves: list[Any]) -> dict[str, list[Weight]]:
    learned = [weight for weight in weights if weight.kind != "statistic"]
    held: dict[str, list[Weight]] = {}
    if all(weight.place is not None for weight in learned):
        for weight in sorted(learned, key=lambda weight: weight.place or 0):
            held.setdefault(weight.path, []).append(weight)
        return held
    order = {path: place for place, path in enumerate(dict.fromkeys(row.path for row in bound.layers(leaves)))}
    for weight in learned:
        held.setdefault(_called(weight.path, order), []).append(weight)
    return dict(sorted(held.items(), key=lambda item: order.get(item[0], -1)))


def _called(path: str, order: dict[str, int]) -> str:
    """The innermost layer around `path` that is called; `path` itself if there is none."""
    around = path
    while around and around not in order:
        around = re.sub(r"[./\[]?[^./\[]*$", "", around)
    return around or path


def _unknown(path: str, paths: list[str], model: str) -> LayerError:
    near = difflib.get_close_matches(path, paths, n=3, cutoff=0.3)
    return LayerError(
        f"{model!r} has no layer {path!r} that holds weights.",
        received=repr(path),
        fix=(f"did you mean {', '.join(map(repr, near))}? " if near else "")
        + f"weighted_layers(model, x) lists all {len(paths)} of them.",
    )


def _keyed(place: int, weights: Sequence[Weight]) -> Iterator[tuple[tuple[int, ...], Weight]]:
    """Weights of a layer with the keys of their streams: place of the layer, kind, axes, and which of several such."""
    seen: Counter[tuple[int, int]] = Counter()
    for weight in weights:
        slot = KINDS.index(weight.kind), len(weight.shape)
        yield (place, *slot, seen[slot]), weight
        seen[slot] += 1


def _drawn(weight: Weight, seed: int, key: tuple[int, ...]) -> np.ndarray[Any, Any]:
    if weight.kind not in ("kernel", "vector"):
        return np.full(weight.shape, float(weight.kind == "scale"), dtype=np.float32)
    held = weight.value
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(_STREAM, *key))))
    if weight.kind == "vector":
        return generator.permutation(held).astype(np.float32)
    # Equal numbers have no spread; their size stands in, or the random model would be one of zeros.
    varies = held.size > 1 and np.ptp(held) > 0
    spread = np.std(held, dtype=np.float64) if varies else np.abs(held).max(initial=0.0)
    return np.asarray(generator.standard_normal(held.shape, dtype=np.float32) * np.float32(spread))
