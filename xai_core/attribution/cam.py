"""Class activation maps: where the maps of a layer speak for the explained score.

All of them weigh the channels of a layer's maps and add them up; they differ in the weights. Written with `A` for the
maps, (positions, channels) of one sample, and `G` for the gradient of the score with respect to them.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from xai_core.attribution.base import Attribution, Explainer, positive_int
from xai_core.baselines import resolve_baseline, sample_range
from xai_core.blocks import blocks, spans
from xai_core.errors import CapabilityError, InputError, IntegerInputError, LayerError, OptionError, describe
from xai_core.layers import Layer, LayerInfo, LayerTable, Visitor, rows_first
from xai_core.model import Net
from xai_core.problem import Problem, gather, is_floating, join, trim
from xai_core.targets import Pick

__all__ = [
    "CAM",
    "AblationCAM",
    "CAMBase",
    "Canvas",
    "EigenCAM",
    "EigenGradCAM",
    "GradCAM",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "Maps",
    "NormGrad",
    "ScoreCAM",
    "SmoothGradCAMPlusPlus",
    "XGradCAM",
    "canvas",
    "lay_maps",
    "resize_matrix",
    "weigh",
]

_SPECIAL_TOKENS = 8
"""Most leading tokens (class, registers) that a token grid is recognised with."""
_CONVOLVING = re.compile(
    r"(depthwise|separable)*conv(olution)?(al)?(transpose)?\d?d?(transpose)?|(batch|instance)norm(alization)?\d?d?"
    r"|(global|adaptive)*(max|avg|average)pool(ing)?\d?d?"
)
_ON_LAST_AXIS = re.compile(
    r"linear|dense|(layer|rms)norm(alization)?|embedding|lstm|gru|rnn|.*attention|transformer(en|de)coder(layer)?"
)
_POOLING = re.compile(r".*pool.*")
_PASSING = re.compile(r".*dropout.*|identity")


@dataclass(frozen=True)
class Maps:
    """How the value of a layer is read as maps.

    Attributes
    ----------
    layer
        The layer, its call filled in.
    channel
        Channel axis of its value.
    skip
        Leading positions that are no part of the grid (class and register tokens).
    grid
        Positions along each spatial axis.
    """

    layer: Layer
    channel: int
    skip: int
    grid: tuple[int, ...]

    def flat(self, xp: Any, value: Any) -> Any:
        """(rows, positions, channels) of a value, in at least float32."""
        rows = tuple(value.shape)[0]
        moved = xp.moveaxis(_wide(xp, value), self.channel, -1)
        flat = xp.reshape(moved, (rows, -1, tuple(moved.shape)[-1]))
        return flat[:, self.skip :, :]

    def scale(self, xp: Any, value: Any, factor: Any) -> Any:
        """A value with its channels multiplied by `factor` (rows, channels); skipped positions too."""
        shape = [1] * len(tuple(value.shape))
        shape[0], shape[self.channel] = tuple(factor.shape)
        return value * xp.reshape(factor, tuple(shape))


@dataclass(frozen=True)
class Canvas:
    """The input that maps are laid over: which leaf, its spatial sizes, and where a single channel goes."""

    position: int
    sizes: tuple[int, ...]
    channel: int | None

    def lay(self, xp: Any, flat: Any, grid: tuple[int, ...], matrices: list[Any]) -> Any:
        """(rows, positions) enlarged to the input's size, with one channel."""
        image = xp.reshape(flat, (tuple(flat.shape)[0], *grid))
        for axis, matrix in enumerate(matrices):
            image = xp.moveaxis(xp.tensordot(image, matrix, axes=([axis + 1], [1])), -1, axis + 1)
        return image if self.channel is None else xp.expand_dims(image, axis=self.channel)


def resize_matrix(size: int, wanted: int) -> np.ndarray[Any, Any]:
    """Linear interpolation of one axis as a (wanted, size) matrix: pixel centres at halves, borders repeated.

    The convention of `torch.nn.functional.interpolate(align_corners=False)`, `tf.image.resize` and `jax.image.resize`
    for enlarging.
    """
    place = np.clip((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0, size - 1)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    matrix = np.zeros((wanted, size))
    rows = np.arange(wanted)
    np.add.at(matrix, (rows, low), 1.0 - (place - low))
    np.add.at(matrix, (rows, high), place - low)
    return matrix


def canvas(problem: Problem) -> Canvas:
    """The input leaf that has spatial axes: the first image or signal, else the first list of tokens."""
    shapes = [tuple(leaf.shape) for leaf in problem.leaves]
    for floating in (True, False):
        for position, (shape, leaf) in enumerate(zip(shapes, problem.leaves, strict=True)):
            channel = problem.bound.channel_axis_of(shape)
            if channel is not None and is_floating(leaf) == floating and (floating or len(shape) > 3):
                return Canvas(position, tuple(n for axis, n in enumerate(shape) if axis not in (0, channel)), channel)
    for position, (shape, leaf) in enumerate(zip(shapes, problem.leaves, strict=True)):
        if len(shape) == 2 and not is_floating(leaf):
            return Canvas(position, shape[1:], None)
    raise InputError(
        "A class activation map needs an input with positions: (batch, channels, ...), (batch, ..., channels) or token "
        "ids (batch, tokens).",
        received=", ".join(describe(leaf) for leaf in problem.leaves),
        fix="use Gradient, IntegratedGradients or Occlusion for tables.",
    )


def maps_of(problem: Problem, over: Canvas, layer: Layer, grid: Any) -> Maps:
    """How to read a layer's value.

    Raises
    ------
    LayerError
        If it has no channels and positions, or its tokens are no grid that can be recognised.
    """
    table = problem.bound.layers(problem.leaves)
    name = str(problem.name_of(layer))
    shape = rows_first(table, layer, name)
    axes = len(over.sizes)
    if len(shape) == axes + 2 and not _between_tokens(table, shape, over):
        channel = channel_axis(problem, over, table, layer, shape, grid)
        sizes = tuple(n for axis, n in enumerate(shape) if axis not in (0, channel))
        if grid is None:
            return Maps(layer, channel, 0, sizes)
        if axes == 1 or sizes == tuple(grid):
            return Maps(layer, channel, math.prod(sizes) - _checked(grid, math.prod(sizes), name)[0], tuple(grid))
        raise OptionError(
            f"`grid` is not the size of the maps at layer {name!r}.",
            received=f"grid={tuple(grid)} for a value of shape {shape}",
            fix="leave it out; it is for tokens that form a grid.",
        )
    if len(shape) == 3 and axes > 1:
        tokens = shape[1]
        found = _checked(grid, tokens, name)[1] if grid is not None else token_grid(tokens, over.sizes)
        if found is None:
            raise LayerError(
                f"The {tokens} tokens at layer {name!r} are no grid over an input of size {over.sizes} that can be "
                "recognised.",
                received=f"value of shape {shape}",
                fix="say how many tokens the grid has along each axis: grid=(14, 14).",
            )
        return Maps(layer, 2, tokens - math.prod(found), found)
    raise LayerError(
        f"The value at layer {name!r} is no map of an input with {axes} spatial axes.",
        received=f"value of shape {shape}",
        fix="choose a layer that xai.layers(model, x) calls spatial.",
    )


def channel_axis(
    problem: Problem, over: Canvas, table: LayerTable, layer: Layer, shape: tuple[int, ...], grid: Any = None
) -> int:
    """Channel axis of a layer's maps, 1 or the last.

    Models mix both: windows of attention and layer norms have their channels last in a model that convolves with
    channels first, signals are turned before a transformer. What the layer is decides, or another of the same shape
    before it; else the axes along which the maps are the input in small; else the convention of the model.
    """
    last = len(shape) - 1
    usual = problem.bound.channel_axis_of(shape)
    usual = last if usual is None else usual
    sizes = {axis: tuple(n for place, n in enumerate(shape) if place not in (0, axis)) for axis in {1, last}}
    if grid is not None and len(over.sizes) > 1:
        return next((axis for axis in (usual, *sizes) if sizes[axis] == tuple(grid)), usual)
    rows = list(table)
    place = next(place for place, row in enumerate(rows) if (row.path, row.call) == (layer.path, layer.call or 1))
    if layer.io == "output":
        for row in reversed(rows[: place + 1]):
            if row.shapes[:1] == (shape,):
                operation = row.operation.lower().replace("_", "")
                if _CONVOLVING.fullmatch(operation):
                    return usual
                if _ON_LAST_AXIS.fullmatch(operation):
                    return last
    other = next((axis for axis in sizes if axis != usual), usual)
    if len(over.sizes) == 1:
        return other if sizes[other] == over.sizes != sizes[usual] else usual
    return other if _distortion(over, sizes[other]) + 0.1 < _distortion(over, sizes[usual]) else usual


def _distortion(over: Canvas, sizes: tuple[int, ...]) -> float:
    """How much further maps are apart along one axis of the input than along another, as a logarithm."""
    steps = [math.log(wanted / size) for wanted, size in zip(over.sizes, sizes, strict=True)]
    return max(steps) - min(steps)


def _between_tokens(table: LayerTable, shape: tuple[int, ...], over: Canvas) -> bool:
    """Whether a value holds a number for each pair of tokens, as attention weights do."""
    if len(over.sizes) != 2 or len(shape) != 4 or shape[2] != shape[3]:
        return False
    return any(
        len(row.shapes[0]) == 3 and row.shapes[0][1] == shape[2] and token_grid(shape[2], over.sizes) is not None
        for row in table
        if row.shapes
    )


def _checked(grid: Any, tokens: int, name: str) -> tuple[int, tuple[int, ...]]:
    sizes = tuple(grid)
    if math.prod(sizes) > tokens:
        raise OptionError(
            f"`grid` has more positions than layer {name!r} has tokens, {tokens}.",
            received=f"grid={sizes}",
            fix="grid=(rows, columns) of patches.",
        )
    return math.prod(sizes), sizes


def token_grid(tokens: int, sizes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Patches along each axis, from the number of tokens and the size of the image; leading tokens may be special.

    Patches are squares that fill the image.
    """
    for side in range(1, min(sizes) + 1):
        if any(size % side for size in sizes):
            continue
        grid = tuple(size // side for size in sizes)
        most = min(_SPECIAL_TOKENS, math.prod(grid) // 2)
        if 0 <= tokens - math.prod(grid) <= most and math.prod(grid) > 1:
            return grid
    return None


def default_layer(problem: Problem, over: Canvas) -> Layer:
    """The last spatial activation before pooling; for token grids the last value whose tokens have a say.

    What follows the last attention of a vision transformer keeps the class token alone, and its other tokens have no
    say: there it is what the last attention is given.

    Raises
    ------
    LayerError
        If no layer has a map, or the last ones cannot be followed.
    """
    table: LayerTable = problem.bound.layers(problem.leaves)
    axes = len(over.sizes)
    rows = list(table)
    spatial = [place for place, row in enumerate(rows) if row.spatial and len(row.shapes[0]) == axes + 2]
    spatial = [
        place
        for place in spatial
        if _positions(problem, over, table, rows[place]) > 1 and not _between_tokens(table, rows[place].shapes[0], over)
    ]
    spatial = [place for place in spatial if not _pooled(rows, place)] or spatial
    tokens = [place for place, row in enumerate(rows) if row.spatial and _are_tokens(row.shapes[0], over)]
    attending = [
        place
        for place, row in enumerate(rows)
        if "attention" in row.operation.lower()
        and row.given
        and row.given[0][0] in (1, -1)
        and (len(row.given[0]) == 3 if axes == 1 else _are_tokens(row.given[0], over))
    ]
    found = max([*spatial, *attending, -1])
    if found < 0 and not tokens:
        raise LayerError(
            f"No layer of {problem.bound.model.name!r} has a map to look at.",
            fix="name one: layer=... (xai.layers(model, x) lists them); in a plain JAX function mark it with "
            "xai_jax.tap.",
        )
    seconds = [place for place, row in enumerate(rows) if row.shapes and _batch_second(row.shapes[0], over)]
    if max(seconds, default=-1) > max([found, *tokens]):
        raise LayerError(
            f"The last layers of {problem.bound.model.name!r} have samples on their second axis, where their maps are "
            "not read.",
            received=f"{rows[seconds[-1]].name} of shape {rows[seconds[-1]].shapes[0]} for one sample",
            fix="build the model with samples first (batch_first=True in PyTorch), or name an earlier layer: layer=...",
        )
    if table.hidden and table.hidden[-1][0] > max([found, *tokens]):
        raise LayerError(
            f"The last layers of {problem.bound.model.name!r} are called inside a loop or a branch, where they cannot be "
            "followed.",
            received=", ".join(repr(path) for _, path in table.hidden[-3:]),
            fix="name an earlier layer: layer=... (xai.layers(model, x) lists them).",
        )
    if found in attending:
        return _before(table, rows[found])
    if tokens and tokens[-1] > found:
        return _influential(problem, table, [rows[place] for place in tokens if place > found])
    return rows[found].layer


def _are_tokens(shape: tuple[int, ...], over: Canvas) -> bool:
    return len(over.sizes) > 1 and len(shape) == 3 and token_grid(shape[1], over.sizes) is not None


def _batch_second(shape: tuple[int, ...], over: Canvas) -> bool:
    """Whether a value for one sample is a sequence of all tokens with the batch second."""
    if len(shape) != 3 or shape[0] == 1 or shape[1] != 1:
        return False
    return shape[0] == over.sizes[0] if len(over.sizes) == 1 else token_grid(shape[0], over.sizes) is not None


def _pooled(rows: list[LayerInfo], place: int) -> bool:
    """Whether what a layer returns has been pooled last."""
    row = rows[place]
    operation = row.operation.lower()
    if _POOLING.fullmatch(operation):
        return True
    before = rows[place - 1] if place else None
    if before is None or before.shapes[:1] != row.shapes[:1]:
        return False
    inside = before.path.startswith(row.path) and before.path != row.path
    return (inside or _PASSING.fullmatch(operation) is not None) and _pooled(rows, place - 1)


def _influential(problem: Problem, table: LayerTable, rows: list[LayerInfo]) -> Layer:
    """The last of some layers whose tokens beside the special ones have a say in the score of the first sample.

    If some behind it have none, attention mixes tokens right after it, and what it was given itself is meant.
    """
    over = canvas(problem)
    maps = [maps_of(problem, over, row.layer, None) for row in rows]
    leaves = [leaf[:1, ...] for leaf in problem.leaves]
    index = None if problem.index is None else problem.index[:1, ...]
    problem.work.add(2, 1)
    felt = [bool(problem.to_host(flag)) for flag in problem.run(_Felt(problem.pick, tuple(maps)), leaves, index)]
    if not any(felt) or felt[-1]:
        return rows[-1].layer
    row = rows[len(felt) - 1 - felt[::-1].index(True)]
    return _before(table, row) if row.given and row.given[0][:2] == row.shapes[0][:2] else row.layer


@dataclass(frozen=True)
class _Felt:
    """Kernel: for each of several layers, whether the score changes with the maps there."""

    pick: Pick
    maps: tuple[Maps, ...]

    def __call__(self, net: Net, leaves: list[Any], index: Any) -> list[Any]:
        xp = net.xp
        layers = [maps.layer for maps in self.maps]

        def score(shifts: list[Any]) -> Any:
            edits = {layer: partial(_shifted, shift) for layer, shift in zip(layers, shifts, strict=True)}
            return self.pick(xp, net(leaves, Visitor(edits=edits)), index)

        shifts = [xp.zeros_like(value) for value in net.read(leaves, layers)]
        value, pull = net.backend.vjp(score, shifts)
        found = []
        for maps, shift, gradient in zip(self.maps, shifts, pull(xp.ones_like(value)), strict=True):
            given = xp.zeros_like(shift) if gradient is None else gradient
            found.append(xp.any(maps.flat(xp, given) != 0))
        return found


def _shifted(shift: Any, value: Any) -> Any:
    return value + shift


def _before(table: LayerTable, row: LayerInfo) -> Layer:
    """The layer whose output a call is given; its first input where none is.

    An attention is often given the same array three times, as query, key and value, which are inputs of their own.
    """
    place = list(table).index(row)
    for other in reversed(table[:place]):
        if not other.path.startswith(row.path) and other.shapes and other.shapes[0] == row.given[0]:
            return other.layer
    return Layer(row.path, row.call, "input")


def _positions(problem: Problem, over: Canvas, table: LayerTable, row: LayerInfo) -> int:
    shape = row.shapes[0]
    channel = channel_axis(problem, over, table, row.layer, shape)
    return math.prod(n for axis, n in enumerate(shape) if axis not in (0, channel))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class CAMBase(Explainer, abstract=True):
    """Shared part: finds the layers, lays their maps over the input, and combines several.

    The maps of several layers are each divided by their largest value, per sample, and averaged.
    """

    grid: Any = None
    relu: bool = True

    def varies_inputs(self) -> bool:
        return False

    def __post_init__(self) -> None:
        if self.grid is not None:
            for size in self.grid if isinstance(self.grid, (tuple, list)) else (None,):
                positive_int("grid", size)
        if isinstance(self.layer, (tuple, list)) and not self.layer:
            raise OptionError("`layer` names no layer.", received=repr(self.layer), fix="leave it out, or name some.")

    def attribute_at_layer(self, problem: Problem) -> Attribution:
        return self.attribute(problem)

    def attribute(self, problem: Problem) -> Attribution:
        xp = problem.xp
        if problem.origin is not None:
            raise OptionError(
                f"{type(self).__name__} looks at layers of a whole model, not of the part behind a layer.",
                received=f"layer={problem.origin.name_of(problem.bound.layer)!r}",
                fix=f"give `layer` to {type(self).__name__} alone.",
            )
        over = canvas(problem)
        given = self.layer if isinstance(self.layer, (tuple, list)) else [self.layer]
        layers = [default_layer(problem, over) if spec is None else problem.find(spec) for spec in given]
        coverage: dict[str, tuple[str, ...]] = {}
        found = []
        for layer in layers:
            maps = maps_of(problem, over, layer, self.grid)
            flat, hit = self.flat_map(problem, over, maps)
            coverage.update(hit)
            found.append(lay_maps(problem, over, maps.grid, flat, self.relu and self._rectified))
        value = found[0] if len(found) == 1 else problem.run(_COMBINE, found)
        leaf = problem.leaves[over.position]
        if is_floating(leaf) and value.dtype != leaf.dtype:
            value = xp.astype(value, leaf.dtype)
        name = ", ".join(str(problem.name_of(layer)) for layer in layers)
        return Attribution([value], layer=name, coverage=coverage)

    _rectified: ClassVar[bool] = True

    def flat_map(self, problem: Problem, over: Canvas, maps: Maps) -> tuple[Any, Mapping[str, tuple[str, ...]]]:
        """`maps`, and for methods with rules what each hit behind the layer."""
        return self.maps(problem, over, maps), {}

    @abstractmethod
    def maps(self, problem: Problem, over: Canvas, maps: Maps) -> Any:
        """The map of one layer, (batch, positions), before ReLU."""


def lay_maps(problem: Problem, over: Canvas, grid: tuple[int, ...], flat: Any, relu: bool) -> Any:
    """Maps (rows, positions) enlarged to the input's size, with one channel."""
    matrices = [
        problem.to_device(resize_matrix(size, wanted), like=flat) for size, wanted in zip(grid, over.sizes, strict=True)
    ]
    return problem.run(_Lay(over, grid, relu), flat, matrices)


@dataclass(frozen=True)
class _Lay:
    """Kernel: ReLU if wanted, and enlarge to the input's size."""

    over: Canvas
    grid: tuple[int, ...]
    relu: bool

    def __call__(self, net: Net, flat: Any, matrices: list[Any]) -> Any:
        xp = net.xp
        kept = xp.where(flat > 0, flat, xp.zeros_like(flat)) if self.relu else flat
        return self.over.lay(xp, kept, self.grid, matrices)


class _Combine:
    """Kernel: mean of maps, each divided by its largest magnitude; a map of zeros stays one."""

    def __call__(self, net: Net, found: list[Any]) -> Any:
        xp = net.xp
        total: Any = None
        for value in found:
            axes = tuple(range(1, len(tuple(value.shape))))
            largest = xp.max(xp.abs(value), axis=axes, keepdims=True)
            scaled = value / xp.where(largest > 0, largest, xp.ones_like(largest))
            total = scaled if total is None else total + scaled
        return total / len(found)


_COMBINE = _Combine()


@dataclass(frozen=True)
class _Weighted:
    """Kernel: the map of some rows from the layer's value and, where `gradient`, the gradient there."""

    pick: Pick
    maps: Maps
    rule: Callable[[Any, Any, Any], Any]
    gradient: bool

    def __call__(self, net: Net, leaves: list[Any], rows: Any, index: Any) -> Any:
        xp = net.xp
        value, gradient = at_layer(net, self.pick, self.maps, leaves, rows, index, self.gradient)
        return self.rule(xp, value, gradient)


def at_layer(
    net: Net, pick: Pick, maps: Maps, leaves: list[Any], rows: Any, index: Any, differentiate: bool
) -> tuple[Any, Any]:
    """Maps `A` and gradients `G` of some rows, each (rows, positions, channels), in at least float32."""
    xp = net.xp
    points = [gather(xp, leaf, rows) for leaf in leaves]
    chosen = gather(xp, index, rows)
    values, resume = net.tap(points, [maps.layer])
    wide = maps.flat(xp, values[0])
    if not differentiate:
        return wide, None
    score, pull = net.backend.vjp(lambda inner: pick(xp, resume(inner), chosen), values)
    gradient = pull(xp.ones_like(score))[0]
    if gradient is None:
        gradient = xp.zeros_like(values[0])
    return wide, maps.flat(xp, gradient)


def _wide(xp: Any, array: Any) -> Any:
    return array if array.dtype in (xp.float32, xp.float64) else xp.astype(array, xp.float32)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _OnePass(CAMBase):
    """CAMs that take one run of the model."""

    @staticmethod
    @abstractmethod
    def rule(xp: Any, a: Any, g: Any) -> Any:
        """(rows, positions) from `A` and `G`, each (rows, positions, channels)."""

    def maps(self, problem: Problem, over: Canvas, maps: Maps) -> Any:
        kernel = _Weighted(problem.pick, maps, type(self).rule, self.differentiates)
        parts = []
        for block in spans(problem.batch, problem.rows, constant=problem.constant_shapes):
            rows = problem.indices(block.indices)
            found = problem.run(kernel, problem.leaves, rows, problem.index)
            problem.work.add(block.width, block.width if self.differentiates else 0)
            parts.append(trim([found], block))
        return join(problem, parts)[0]


def _divide(xp: Any, above: Any, below: Any) -> Any:
    """Quotient, 0 where the divisor is 0."""
    some = below != 0
    return xp.where(some, above / xp.where(some, below, xp.ones_like(below)), xp.zeros_like(above))


def weigh(xp: Any, a: Any, weights: Any) -> Any:
    """Sum over channels of weights (rows, channels) times maps."""
    return xp.matmul(a, weights[:, :, None])[:, :, 0]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class GradCAM(_OnePass):
    """Maps weighted by their mean gradient.

    `values = ReLU(sum_k w_k A_k)`, `w_k = mean over positions of G_k`. One row forward and backward per sample.

    Source: Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2.

    Parameters
    ----------
    layer
        Layer whose maps are looked at, or a tuple of several, whose maps are each divided by their maximum and
        averaged; `None`: the last spatial activation before pooling, for vision transformers what the last attention is
        given.
    grid
        Tokens along each spatial axis, where a layer's tokens form a grid that is not recognised; special tokens come
        first.
    relu
        Keep positive values only, as in the paper.
    """

    @staticmethod
    def rule(xp: Any, a: Any, g: Any) -> Any:
        return weigh(xp, a, xp.mean(g, axis=1))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class GradCAMPlusPlus(_OnePass):
    """Maps weighted by their positive gradients, each with a weight of its own.

    `values = ReLU(sum_k w_k A_k)`, `w_k = sum over positions of alpha ReLU(G_k)`, `alpha = G^2 / (2 G^2 + S_k G^3)`,
    `S_k` the sum of `A_k` over positions. The exponential of the score, of which the paper takes derivatives, is a
    factor of the whole map and left out.

    Source: Chattopadhyay et al. 2018, arXiv:1710.11063, equations 10 and 19. Parameters as for `GradCAM`.
    """

    @staticmethod
    def rule(xp: Any, a: Any, g: Any) -> Any:
        return _plus_plus(xp, a, g, g * g, g * g * g)


def _plus_plus(xp: Any, a: Any, first: Any, second: Any, third: Any) -> Any:
    total = xp.sum(a, axis=1, keepdims=True)
    alpha = _divide(xp, second, 2 * second + total * third)
    positive = xp.where(first > 0, first, xp.zeros_like(first))
    return weigh(xp, a, xp.sum(alpha * positive, axis=1))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class XGradCAM(_OnePass):
    """Maps weighted by their gradients averaged in proportion to the activation.

    `values = ReLU(sum_k w_k A_k)`, `w_k = sum over positions of A_k G_k / sum over positions of A_k`.

    Source: Fu et al. 2020, arXiv:2008.02312, equation 7. Parameters as for `GradCAM`.
    """

    @staticmethod
    def rule(xp: Any, a: Any, g: Any) -> Any:
        return weigh(xp, a, _divide(xp, xp.sum(a * g, axis=1), xp.sum(a, axis=1)))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class HiResCAM(_OnePass):
    """Maps times gradients, position by position.

    `values = ReLU(sum_k A_k G_k)`: what the layer contributes where it contributes, exact for a linear end of the
    model.

    Source: Draelos and Carin 2020, arXiv:2011.08891, equation 4. Parameters as for `GradCAM`.
    """

    @staticmethod
    def rule(xp: Any, a: Any, g: Any) -> Any:
        return xp.sum(a * g, axis=2)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LayerCAM(_OnePass):
    """Maps times their positive gradients, position by position; fit for early layers too.

    `values = ReLU(sum_k ReLU(G_k) A_k)`.

    Source: Jiang et al. 2021, IEEE Transactions on Image Processing 30, equations 6 and 7. Parameters as for `GradCAM`.
    """

    @staticmethod
    def rule(xp: Any, a: Any, g: Any) -> Any:
        return xp.sum(xp.where(g > 0, g, xp.zeros_like(g)) * a, axis=2)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class NormGrad(_OnePass):
    """Norm of the maps times norm of the gradients at each position.

    `values = |A_p| |G_p|`, norms over channels: the norm of the gradient of a virtual 1 x 1 convolution at each
    position.

    Source: Rebuffi et al. 2020, arXiv:2004.02866, table 1. Parameters as for `GradCAM`; never negative.
    """

    @staticmethod
    def rule(xp: Any, a: Any, g: Any) -> Any:
        return xp.sqrt(xp.sum(a * a, axis=2)) * xp.sqrt(xp.sum(g * g, axis=2))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class EigenCAM(_OnePass):
    """Maps projected on their first principal direction; the explained score has no part in it.

    `values = A v`, `v` the first right singular vector of `A` (positions, channels), with the sign that makes the sum
    of the map positive. One row forward per sample.

    Source: Muhammad and Yeasin 2020, arXiv:2008.00299, equation 3. Parameters as for `GradCAM`.
    """

    differentiates: ClassVar[bool] = False

    @staticmethod
    def rule(xp: Any, a: Any, g: Any) -> Any:
        return _principal(xp, a)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class EigenGradCAM(_OnePass):
    """Maps times gradients, projected on their first principal direction: `EigenCAM` that sees the explained score.

    `values = (A G) v`, `v` the first right singular vector of `A G` (positions, channels), with the sign that makes the
    sum of the map positive.

    Source: Muhammad and Yeasin 2020, arXiv:2008.00299, applied to the product of HiResCAM, as in the library
    pytorch-grad-cam. Parameters as for `GradCAM`.
    """

    @staticmethod
    def rule(xp: Any, a: Any, g: Any) -> Any:
        return _principal(xp, a * g)


def _principal(xp: Any, a: Any) -> Any:
    # By the smaller of the two Gram matrices: a whole singular value decomposition takes far longer than the model.
    turned = xp.matrix_transpose(a)
    if tuple(a.shape)[1] < tuple(a.shape)[2]:
        values, vectors = xp.linalg.eigh(xp.matmul(a, turned))
        zero = xp.zeros_like(values[:, -1:])
        found = vectors[:, :, -1] * xp.sqrt(xp.where(values[:, -1:] > 0, values[:, -1:], zero))
    else:
        found = xp.matmul(a, xp.linalg.eigh(xp.matmul(turned, a))[1][:, :, -1:])[:, :, 0]
    total = xp.sum(found, axis=1, keepdims=True)
    return xp.where(total < 0, -found, found)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class CAM(_OnePass):
    """The original class activation map, for models that end in global average pooling and one linear layer.

    `values = sum_k w_k A_k`, `w_k` the weight of the mean of `A_k` in the score, which for such a model is the sum of
    `G_k`. Whether the model is one is checked: `G` must be the same at all positions.

    Source: Zhou et al. 2016, arXiv:1512.04150, equation 2. Parameters as for `GradCAM`, but the map keeps its sign
    unless `relu=True`.

    Raises
    ------
    CapabilityError
        If the score is no weighted sum of the means of the layer's maps.
    """

    relu: bool = False

    @staticmethod
    def rule(xp: Any, a: Any, g: Any) -> Any:
        return weigh(xp, a, xp.sum(g, axis=1))

    def maps(self, problem: Problem, over: Canvas, maps: Maps) -> Any:
        kernel = _Uniform(problem.pick, maps)
        for block in spans(problem.batch, problem.rows, constant=problem.constant_shapes):
            spread = problem.run(kernel, problem.leaves, problem.indices(block.indices), problem.index)
            problem.work.add(2 * block.width, 2 * block.width)
            if not bool(np.all(problem.to_host(spread) <= 1e-3)):
                raise CapabilityError(
                    f"CAM needs a model that averages the maps of layer {problem.name_of(maps.layer)!r} and is linear from "
                    "there on.",
                    received="gradients that differ between positions or inputs",
                    fix="use GradCAM, which is the same for such models and defined for others, or name the layer before "
                    "the global pooling.",
                )
        return super().maps(problem, over, maps)


@dataclass(frozen=True)
class _Uniform:
    """Kernel: how far gradients at the layer are from being the same at all positions and for a halved value."""

    pick: Pick
    maps: Maps

    def __call__(self, net: Net, leaves: list[Any], rows: Any, index: Any) -> Any:
        xp = net.xp
        points = [gather(xp, leaf, rows) for leaf in leaves]
        chosen = gather(xp, index, rows)
        values, resume = net.tap(points, [self.maps.layer])
        found = []
        for value in (values[0], values[0] * 0.5):
            score, pull = net.backend.vjp(lambda inner: self.pick(xp, resume(inner), chosen), [value])
            gradient = pull(xp.ones_like(score))[0]
            gradient = xp.zeros_like(value) if gradient is None else gradient
            found.append(self.maps.flat(xp, gradient))
        mean = xp.mean(found[0], axis=1, keepdims=True)
        scale = xp.max(xp.abs(mean), axis=(1, 2))
        gap = xp.max(xp.abs(xp.concat([part - mean for part in found], axis=1)), axis=(1, 2))
        return _divide(xp, gap, scale)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SmoothGradCAMPlusPlus(CAMBase):
    """`GradCAMPlusPlus` with the powers of the gradient averaged over noisy copies of the input.

    `values = ReLU(sum_k w_k A_k)`, `w_k = sum over positions of alpha ReLU(D1)`, `alpha = D2 / (2 D2 + S_k D3)`, `Dj`
    the mean of `G^j` over the copies, `A` that of the input itself. `samples` rows forward and backward per sample, and
    one forward.

    Source: Omeiza et al. 2019, arXiv:1908.01224, section 3. Parameters as for `GradCAM`, and `samples` and `noise` as
    for `SmoothGrad`.
    """

    stochastic: ClassVar[bool] = True

    samples: int = 16
    noise: float = 0.15

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_int("samples", self.samples)

    def varies_inputs(self) -> bool:
        return True

    def planned_rows(self, batch: int) -> int:
        return batch * (self.samples + 2)

    def maps(self, problem: Problem, over: Canvas, maps: Maps) -> Any:
        xp = problem.xp
        spread = [
            self.noise * sample_range(xp, xp.astype(leaf, problem.accumulator_dtype(leaf))) for leaf in problem.leaves
        ]
        parts: list[list[Any]] = []
        for block, draws in blocks(problem.batch, self.samples, problem.rows, constant=problem.constant_shapes):
            rows = problem.indices(block.indices)
            sums: Any = None
            for draw in draws:
                used = np.zeros((1, draw.width))
                used[:, : draw.size] = 1.0 / self.samples
                normals = [
                    problem.to_device(problem.normal(block.indices, draw.indices, position, part=position), like=leaf)
                    for position, leaf in enumerate(problem.leaves)
                ]
                weight = problem.to_device(used, like=normals[0])
                added = problem.run(
                    _Powers(problem.pick, maps), problem.leaves, normals, spread, weight, rows, problem.index
                )
                sums = added if sums is None else [before + more for before, more in zip(sums, added, strict=True)]
                work = block.width * draw.width
                problem.work.add(work, work)
            found = problem.run(_PlusPlus(problem.pick, maps), problem.leaves, list(sums), rows, problem.index)
            problem.work.add(block.width)
            parts.append(trim([found], block))
        return join(problem, parts)[0]


@dataclass(frozen=True)
class _Powers:
    """Kernel: weighted sums over noisy copies of the first three powers of the gradient, (rows, positions, channels)."""

    pick: Pick
    maps: Maps

    def __call__(
        self, net: Net, leaves: list[Any], normals: list[Any], spread: list[Any], weight: Any, rows: Any, index: Any
    ) -> list[Any]:
        xp = net.xp
        draws = tuple(weight.shape)[1]
        points = []
        for leaf, normal, width in zip(leaves, normals, spread, strict=True):
            own = gather(xp, leaf, rows)
            shape = tuple(own.shape)
            noisy = xp.astype(own, normal.dtype)[:, None, ...] + normal * gather(xp, width, rows)[:, None, ...]
            points.append(xp.reshape(xp.astype(noisy, leaf.dtype), (shape[0] * draws, *shape[1:])))
        chosen = gather(xp, index, rows)
        repeated = None if chosen is None else xp.repeat(chosen, draws, axis=0)
        _, g = at_layer(net, self.pick, self.maps, points, None, repeated, True)
        shape = tuple(g.shape)
        out = []
        for power in (g, g * g, g * g * g):
            flat = xp.reshape(power, (shape[0] // draws, draws, -1))
            out.append(xp.reshape(xp.matmul(xp.astype(weight, g.dtype), flat), (shape[0] // draws, *shape[1:])))
        return out


@dataclass(frozen=True)
class _PlusPlus:
    """Kernel: the map from averaged powers of the gradient."""

    pick: Pick
    maps: Maps

    def __call__(self, net: Net, leaves: list[Any], powers: list[Any], rows: Any, index: Any) -> Any:
        a, _ = at_layer(net, self.pick, self.maps, leaves, rows, index, False)
        return _plus_plus(net.xp, a, *powers)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ScoreCAM(CAMBase):
    """Maps weighted by the score that is left when the input is masked by them.

    `values = ReLU(sum_k w_k A_k)`, `w = softmax over k of f(x * H_k + x' * (1 - H_k))`, `H_k` the map enlarged to the
    input's size and scaled to 0..1. One row forward per channel and sample; no gradient.

    Source: Wang et al. 2020, arXiv:1910.01279, algorithm 1. Parameters as for `GradCAM`.

    Parameters
    ----------
    baseline
        `x'`, what masked parts look like, as for `IntegratedGradients`.
    """

    differentiates: ClassVar[bool] = False

    baseline: Any = 0.0

    def maps(self, problem: Problem, over: Canvas, maps: Maps) -> Any:
        given = problem.leaves[over.position]
        if not is_floating(given):
            raise IntegerInputError(
                "ScoreCAM mixes inputs with a baseline, which integers do not allow.",
                received=describe(given),
                fix='images: x.astype("float32"); token ids: use GradCAM or AblationCAM, which leave the input as it is.',
            )
        baseline = resolve_baseline(problem, self.baseline)
        flat = _read_flat(problem, maps)
        matrices = [
            problem.to_device(resize_matrix(size, wanted), like=flat)
            for size, wanted in zip(maps.grid, over.sizes, strict=True)
        ]
        kernel = _Masked(problem.pick, over, maps.grid)

        def run(rows: Any, channels: Any) -> Any:
            return problem.run(
                kernel, flat, matrices, problem.leaves, baseline[over.position], channels, rows, problem.index
            )

        scores = _per_channel(problem, int(flat.shape[2]), run)
        return problem.run(_SOFTMAX, flat, scores)


def _read_flat(problem: Problem, maps: Maps) -> Any:
    """Maps of all samples, (batch, positions, channels)."""
    value = problem.read([maps.layer])[0]
    return problem.run(_Flat(maps), value)


def _per_channel(problem: Problem, channels: int, run: Callable[[Any, Any], Any]) -> Any:
    """`run(rows, channels)` for every sample and channel: (batch, channels)."""
    xp = problem.xp
    parts: list[list[Any]] = []
    for block, draws in blocks(problem.batch, channels, problem.rows, constant=problem.constant_shapes):
        rows = problem.indices(block.indices)
        found = []
        for draw in draws:
            part = run(rows, problem.to_device(np.asarray(draw.indices, dtype=np.int64)))
            problem.work.add(block.width * draw.width)
            found.append(part if draw.size == draw.width else part[:, : draw.size])
        parts.append(trim([found[0] if len(found) == 1 else xp.concat(found, axis=1)], block))
    return join(problem, parts)[0]


@dataclass(frozen=True)
class _Flat:
    """Kernel: a layer's value as (rows, positions, channels)."""

    maps: Maps

    def __call__(self, net: Net, value: Any) -> Any:
        return self.maps.flat(net.xp, value)


@dataclass(frozen=True)
class _Masked:
    """Kernel: scores (rows, channels) of inputs masked by some of their maps."""

    pick: Pick
    over: Canvas
    grid: tuple[int, ...]

    def __call__(
        self,
        net: Net,
        flat: Any,
        matrices: list[Any],
        leaves: list[Any],
        baseline: Any,
        channels: Any,
        rows: Any,
        index: Any,
    ) -> Any:
        xp = net.xp
        draws = tuple(channels.shape)[0]
        chosen = xp.moveaxis(xp.take(gather(xp, flat, rows), channels, axis=2), 2, 1)
        count = tuple(chosen.shape)[0] * draws
        mask = self.over.lay(xp, xp.reshape(chosen, (count, -1)), self.grid, matrices)
        axes = tuple(range(1, len(tuple(mask.shape))))
        low = xp.min(mask, axis=axes, keepdims=True)
        width = xp.max(mask, axis=axes, keepdims=True) - low
        mask = (mask - low) * _divide(xp, xp.ones_like(width), width)
        own, absent = gather(xp, leaves[self.over.position], rows), gather(xp, baseline, rows)
        wide, start = xp.astype(own, mask.dtype), xp.astype(absent, mask.dtype)
        shape = tuple(own.shape)
        mask = xp.reshape(mask, (shape[0], draws, *tuple(mask.shape)[1:]))
        masked = start[:, None, ...] + mask * (wide - start)[:, None, ...]
        points = [
            xp.reshape(xp.astype(masked, own.dtype), (count, *shape[1:]))
            if position == self.over.position
            else xp.repeat(gather(xp, leaf, rows), draws, axis=0)
            for position, leaf in enumerate(leaves)
        ]
        wanted = gather(xp, index, rows)
        repeated = None if wanted is None else xp.repeat(wanted, draws, axis=0)
        return xp.reshape(xp.astype(self.pick(xp, net(points), repeated), mask.dtype), (-1, draws))


class _Softmax:
    """Kernel: the map with the softmax of scores as weights."""

    def __call__(self, net: Net, flat: Any, scores: Any) -> Any:
        xp = net.xp
        grown = xp.exp(scores - xp.max(scores, axis=1, keepdims=True))
        return weigh(xp, flat, grown / xp.sum(grown, axis=1, keepdims=True))


_SOFTMAX = _Softmax()


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class AblationCAM(CAMBase):
    """Maps weighted by the share of the score that is lost without them.

    `values = ReLU(sum_k w_k A_k)`, `w_k = (f(x) - f(x with A_k = 0)) / f(x)`. One row forward per channel and sample,
    of which only the part behind the layer is run where the framework does not compile; no gradient.

    Source: Desai and Ramaswamy 2020, WACV, equation 6. Parameters as for `GradCAM`.
    """

    differentiates: ClassVar[bool] = False

    def maps(self, problem: Problem, over: Canvas, maps: Maps) -> Any:
        flat = _read_flat(problem, maps)
        score = problem.scores_or_known()
        kernel = _Ablated(problem.pick, maps)
        total = int(flat.shape[2])
        every = problem.to_device(np.arange(total))
        last: list[Any] = [None, None, None]

        def run(rows: Any, channels: Any) -> Any:
            draws = int(channels.shape[0])
            if last[0] is not rows or last[1] != draws:
                # The same arrays for all channels of some samples, so that what comes before the layer is run once.
                last[:] = [rows, draws, problem.run(_Repeat(draws), problem.leaves, rows)]
            return problem.run(kernel, last[2], every, channels, rows, problem.index)

        scores = _per_channel(problem, total, run)
        return problem.run(_LOST, flat, scores, score)


@dataclass(frozen=True)
class _Repeat:
    """Kernel: some rows, each several times."""

    draws: int

    def __call__(self, net: Net, leaves: list[Any], rows: Any) -> list[Any]:
        return [net.xp.repeat(gather(net.xp, leaf, rows), self.draws, axis=0) for leaf in leaves]


@dataclass(frozen=True)
class _Ablated:
    """Kernel: scores (rows, channels) without one channel of the layer each; `leaves` holds each row once per channel."""

    pick: Pick
    maps: Maps

    def __call__(self, net: Net, leaves: list[Any], every: Any, channels: Any, rows: Any, index: Any) -> Any:
        xp = net.xp
        draws = tuple(channels.shape)[0]
        values, resume = net.tap(leaves, [self.maps.layer])
        value = values[0]
        samples = tuple(value.shape)[0] // draws
        kept = xp.astype(every[None, :] != channels[:, None], value.dtype)
        factor = xp.reshape(
            xp.broadcast_to(kept[None, ...], (samples, *tuple(kept.shape))), (samples * draws, tuple(kept.shape)[1])
        )
        wanted = gather(xp, index, rows)
        repeated = None if wanted is None else xp.repeat(wanted, draws, axis=0)
        after = self.pick(xp, resume([self.maps.scale(xp, value, factor)]), repeated)
        return xp.reshape(after, (samples, draws))


class _Lost:
    """Kernel: the map with the lost share of the score as weights."""

    def __call__(self, net: Net, flat: Any, scores: Any, score: Any) -> Any:
        xp = net.xp
        before = xp.astype(score, flat.dtype)[:, None]
        lost = before - xp.astype(scores, flat.dtype)
        return weigh(xp, flat, _divide(xp, lost, xp.broadcast_to(before, tuple(lost.shape))))


_LOST = _Lost()
