"""Randomisation: whether an explanation depends on the class that it explains, and on what the model has learned."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from xai_core.attribution.base import Explainer, positive_int
from xai_core.attribution.noise import SmoothGrad
from xai_core.blocks import spans
from xai_core.errors import BackendError, OptionError, describe
from xai_core.explanation import Explanation
from xai_core.metrics.base import Measured, Metric
from xai_core.metrics.ground import Ground
from xai_core.metrics.maps import maps_of
from xai_core.metrics.robustness import explained_again, explainer_of, randomiser, same_numbers
from xai_core.metrics.statistics import largest, pearson, spearman_with
from xai_core.model import bind
from xai_core.structure import flatten

__all__ = ["MPRT", "EfficientMPRT", "RandomLogit", "SmoothMPRT"]

_Host = np.ndarray[Any, Any]

CLASS_PART = 3_600_100
"""Stream part of which other classes are explained."""
KEPT = 2**28
"""Bytes of explanations of randomised models that are kept for other metrics."""
SIMILARITIES = ("spearman", "pearson", "cosine", "ssim")
_SLACK = 1e-12
_ORDERS = ("top_down", "bottom_up", "independent")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Similar(Metric, abstract=True):
    """Base: how alike two explanations are."""

    category: ClassVar[str] = "randomisation"
    higher_is_better: ClassVar[bool | None] = False
    needs: ClassVar[tuple[str, ...]] = ("model", "explainer")

    similarity: Any = "spearman"
    absolute: bool = False

    def __post_init__(self) -> None:
        if not callable(self.similarity) and self.similarity not in SIMILARITIES:
            raise OptionError(
                f"`similarity` must be one of {', '.join(map(repr, SIMILARITIES))}, or a callable maps, maps -> (batch,).",
                received=describe(self.similarity),
                fix='similarity="spearman"',
            )
        if self.similarity == "ssim" and importlib.util.find_spec("skimage") is None:
            raise BackendError(
                "SSIM is that of scikit-image.", fix="pip install scikit-image, or similarity='spearman'"
            )

    def alike(self, explanation: Explanation, base: _Host) -> Callable[[_Host], _Host]:
        """Similarity (batch,) of maps (batch, elements) to some, as a function: 1 where they are the same numbers."""
        a = np.abs(base) if self.absolute else base
        correlation = spearman_with(a) if self.similarity == "spearman" else partial(pearson, a)
        return lambda maps: self._alike(explanation, correlation, a, np.abs(maps) if self.absolute else maps)

    def _alike(self, explanation: Explanation, correlation: Callable[[_Host], _Host], a: _Host, b: _Host) -> _Host:
        if callable(self.similarity):
            found = np.asarray(self.similarity(a, b), dtype=np.float64)
            if found.shape != (len(a),):
                raise OptionError(
                    "`similarity` must return a number for each sample.",
                    received=describe(found),
                    fix="similarity=lambda a, b: -numpy.linalg.norm(a - b, axis=1)",
                )
        elif self.similarity == "ssim":
            found = _ssim(explanation, a, b)
        elif self.similarity == "cosine":
            sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            found = np.clip(np.sum(a * b, axis=1) / np.where(sizes > 0, sizes, 1.0), -1.0, 1.0)
        else:
            # Two maps without any differences put their elements in the same order; of one alone nothing is known.
            found = np.where(_flat(a) & _flat(b), 1.0, correlation(b))
        return np.asarray(np.where(np.all(a == b, axis=1), 1.0, found))


def _flat(maps: _Host) -> _Host:
    """Whether the elements of each map are equal, to rounding."""
    spread = np.max(maps, axis=1) - np.min(maps, axis=1)
    return np.asarray(spread <= _SLACK * largest(maps)[:, 0])


def _ssim(explanation: Explanation, a: _Host, b: _Host) -> _Host:
    """Structural similarity of maps, its dynamic range that of both maps of a sample."""
    from skimage.metrics import structural_similarity

    shapes = [tuple(value.shape) for value in flatten(explanation.values)[0]]
    channel = explanation.channel_axis % max(1, len(shapes[0]))
    sides = [size for axis, size in enumerate(shapes[0]) if axis not in (0, channel)]
    window = min([7, *sides]) if len(shapes) == 1 and len(shapes[0]) > 2 else 0
    if window < 3:
        raise OptionError(
            "SSIM compares maps of one image with at least 3 x 3 positions.",
            received=f"values of shape {', '.join(map(str, shapes))}",
            fix='similarity="spearman"',
        )
    window -= 1 - window % 2
    found = []
    for one, other in zip(a, b, strict=True):
        scale = max(one.max(), other.max()) - min(one.min(), other.min())
        pair = [side.reshape(shapes[0][1:]) for side in (one, other)]
        settings = {"win_size": window, "channel_axis": channel - 1, "data_range": scale or 1.0}
        found.append(structural_similarity(*pair, **settings))
    return np.asarray(found)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class RandomLogit(_Similar):
    """How alike the explanations of the target and of other classes are. Lower is better.

    `mean over other classes c of similarity(E(x, target), E(x, c))`, classes drawn without repetition, a draw for each
    sample. An explainer that ignores the class has 1, also with maps that are zero or uniform. `details["classes"]` (batch,
    samples) are the classes. `samples` times the rows of the explainer, whose random numbers are the same for all classes.

    Source: Sixt, Granz and Landgraf 2020, arXiv:1912.09818, section 4.2, with SSIM.

    Parameters
    ----------
    samples
        Other classes per sample, or all if there are fewer.
    similarity
        `"spearman"`, rank correlation; `"pearson"`, correlation; `"cosine"`; `"ssim"`, structural similarity of images, with
        scikit-image; or a callable, maps (batch, elements), maps -> (batch,). Maps with the same numbers have 1; a
        correlation with a map that is constant is 0, of two such maps 1.
    absolute
        Whether to compare magnitudes.

    Raises
    ------
    OptionError
        If the explained score is not that of a class, or there is no other.
    """

    samples: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_int("samples", self.samples)

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        problem, explainer = ground.problem, explainer_of(explanation)
        index = None if problem.index is None else problem.to_host(problem.index)
        outputs = problem.outputs or 0
        if index is None or index.shape[1] != 1 or outputs < 2:
            raise OptionError(
                "RandomLogit explains another class.",
                received=f"target={describe(explanation.target)}, {outputs} outputs",
                fix="explain a class, of a model with scores of shape (batch, classes).",
            )
        own, count = index[:, 0], min(self.samples, outputs - 1)
        # Places among the classes without the own one, by the order of random numbers.
        chance = problem.streams.uniform(range(len(own)), [0], outputs - 1, CLASS_PART)[:, 0]
        places = np.argsort(chance, axis=1, kind="stable")[:, :count]
        classes = places + (places >= own[:, None])
        alike, total = self.alike(explanation, maps_of(explanation)), np.zeros(ground.batch)
        for block in spans(count, max(1, problem.held // ground.batch), constant=problem.constant_shapes):
            rows = [row for row in range(ground.batch) for _ in range(block.width)]
            leaves = problem.leaves
            if block.width > 1:
                leaves = [problem.xp.repeat(leaf, block.width, axis=0) for leaf in leaves]
            inside = problem.inside(leaves, rows, same_numbers(ground, explanation, rows))
            chosen = classes[:, block.indices].reshape(-1, 1).astype(index.dtype)
            other = replace(inside, index=problem.to_device(chosen))
            maps = explained_again(ground, explanation, other, explainer.attribute_at_layer)
            maps = maps.reshape(ground.batch, block.width, -1)
            for draw in range(block.size):
                total += alike(maps[:, draw])
        return Measured(total / count, details={"classes": classes})


def _layers(ground: Ground) -> tuple[str, ...]:
    """Layers that hold weights, in the order in which they run."""
    found = randomiser(ground).layers
    if not found:
        raise OptionError(
            "The model has no weights that could be randomised.",
            received=f"a model of backend {ground.problem.bound.backend.name}",
            fix="pass the framework's own model object instead of a function that calls it.",
        )
    return found


def _of_randomised(ground: Ground, explanation: Explanation, explainer: Explainer, layers: Sequence[str]) -> _Host:
    """Values (batch, elements) by a model with random weights in some layers; kept for other metrics."""
    if not layers:
        return _explain(ground, explanation, explainer)
    kept: dict[Any, _Host] = ground.known("randomised", dict)
    key = ground.key(explainer), explanation.seed, frozenset(layers)
    if key in kept:
        return kept[key]
    leaves, structure = flatten(explanation.inputs)
    model = randomiser(ground).model(layers)
    # Of a model with a unit in place of its scores, that unit.
    bound, native = bind(model, leaves, structure)
    with bound.running(native):
        maps = _explain(ground, explanation, explainer, bound)
    if sum(each.nbytes for each in kept.values()) + maps.nbytes <= KEPT:
        kept[key] = maps
    return maps


def _explain(ground: Ground, explanation: Explanation, explainer: Explainer, bound: Any = None) -> _Host:
    """Values (batch, elements) of the inputs by an explainer, of the model or another one; rows count."""
    problem = ground.problem
    inside = problem.inside(problem.leaves, None, same_numbers(ground, explanation, range(ground.batch)))
    inside = inside if bound is None else replace(inside, bound=bound)
    return explained_again(ground, explanation, inside, explainer.attribute_at_layer)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class MPRT(_Similar):
    """Model parameter randomisation test: how alike explanations of the model and of randomised ones are. Lower is better.

    `mean over layers l of similarity(E(f, x), E(f_l, x))`, `f_l` the model with random weights in the layers up to `l`, in
    some order, or in `l` alone. Weights become normal numbers with the standard deviation that they have, biases zero,
    scales one (`xai_core.randomise`), the same in all frameworks. The explained output stays that of the sample, and
    explainers that draw have the same random numbers. An explainer that ignores the model has 1, also with maps that are
    zero or uniform. `curve` (batch, layers) are the similarities in the order of randomisation, `at` the share of layers
    that are random, for `"independent"` the number of the layer; `details["layers"]` names the layers. As many times the
    rows of the explainer as layers hold weights; metrics with the same explainer and layers share them.

    Source: Adebayo et al. 2018, arXiv:1810.03292, section 3.1, cascading (`"top_down"`) and independent randomisation.

    Parameters
    ----------
    order
        `"top_down"`, from the output on; `"bottom_up"`, from the input on; `"independent"`, one layer at a time.
    similarity, absolute
        As for `RandomLogit`.

    Raises
    ------
    CapabilityError
        If the weights of this kind of model cannot be told or replaced.
    """

    order: str = "top_down"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in _ORDERS:
            raise OptionError(
                f"`order` must be one of {', '.join(map(repr, _ORDERS))}.",
                received=describe(self.order),
                fix='order="top_down"',
            )

    def explainer(self, explanation: Explanation) -> Explainer:
        """The explainer that is tested."""
        return explainer_of(explanation)

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        layers, explainer = _layers(ground), self.explainer(explanation)
        ordered = layers[::-1] if self.order == "top_down" else layers
        own = explainer == explainer_of(explanation)
        base = maps_of(explanation) if own else _of_randomised(ground, explanation, explainer, ())
        alike = self.alike(explanation, base)
        curve = np.empty((ground.batch, len(layers)))
        for place, layer in enumerate(ordered):
            random = (layer,) if self.order == "independent" else ordered[: place + 1]
            curve[:, place] = alike(_of_randomised(ground, explanation, explainer, random))
        at = np.arange(1, len(layers) + 1, dtype=np.float64)
        at = at if self.order == "independent" else at / len(layers)
        return Measured(np.mean(curve, axis=1), curve, at, details={"layers": ordered})


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SmoothMPRT(MPRT):
    """`MPRT` of explanations that are averaged over noisy inputs, so that their noise does not decide. Lower is better.

    `mean over l of similarity(mean_d E(f, x + n_d), mean_d E(f_l, x + n_d))`, `n_d` normal noise, the same for all models:
    the test of `SmoothGrad(explainer, samples, noise)`. `samples` times the rows of `MPRT`, and once more for the model as
    it is. All else is as for `MPRT`.

    Source: Hedström et al. 2024, arXiv:2401.06465, section 3, sMPRT.

    Parameters
    ----------
    samples
        Noisy inputs per sample.
    noise
        Standard deviation as a fraction of each sample's range, as for `SmoothGrad`.
    order, similarity, absolute
        As for `MPRT`.

    Raises
    ------
    IntegerInputError
        If the inputs are integers.
    """

    samples: int = 10
    noise: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        SmoothGrad(samples=self.samples, noise=self.noise)

    def explainer(self, explanation: Explanation) -> Explainer:
        inner = explainer_of(explanation)
        return SmoothGrad(replace(inner, neuron=None), samples=self.samples, noise=self.noise, neuron=inner.neuron)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class EfficientMPRT(Metric):
    """Relative rise of the explanation's complexity when all of the model is randomised. Higher is better.

    `(H(E(f_r, x)) - H(E(f, x))) / H(E(f, x))`, `f_r` the model with random weights in all layers, `H` the entropy of a
    histogram of the values of a map, with `bins` bins of equal width from its least to its largest value. A map of equal
    values has entropy 0, which is not divided by; an explainer that ignores the model has 0. `details["complexity"]` and
    `details["randomised"]` (batch,) are the two entropies, in nats. The rows of the explainer, shared with `MPRT`.

    Source: Hedström et al. 2024, arXiv:2401.06465, section 3, eMPRT.

    Parameters
    ----------
    bins
        Bins of the histogram.

    Raises
    ------
    CapabilityError
        If the weights of this kind of model cannot be told or replaced.
    """

    category: ClassVar[str] = "randomisation"
    higher_is_better: ClassVar[bool | None] = True
    needs: ClassVar[tuple[str, ...]] = ("model", "explainer")

    bins: int = 100

    def __post_init__(self) -> None:
        positive_int("bins", self.bins, least=2)

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        layers = _layers(ground)
        before = _entropies(maps_of(explanation), self.bins)
        after = _entropies(_of_randomised(ground, explanation, explainer_of(explanation), layers), self.bins)
        values = (after - before) / np.where(before > 0, before, 1.0)
        return Measured(values, details={"complexity": before, "randomised": after})


def _entropies(maps: _Host, bins: int) -> _Host:
    """Entropy in nats of the histogram of each map (batch, elements)."""
    low = np.min(maps, axis=1, keepdims=True)
    width = np.max(maps, axis=1, keepdims=True) - low
    flat = _flat(maps)
    within = maps - low
    within *= bins / np.where(flat[:, None], 1.0, width)
    # The largest value belongs to the last bin.
    place = np.minimum(within, bins - 1, out=within).astype(np.int64)
    place += bins * np.arange(len(maps))[:, None]
    share = np.bincount(place.reshape(-1), minlength=bins * len(maps)).reshape(-1, bins) / maps.shape[1]
    return np.where(flat, 0.0, -np.sum(share * np.log(np.where(share > 0, share, 1.0)), axis=1))
