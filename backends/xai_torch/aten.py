"""What PyTorch's own operations are in the vocabulary of `xai_core.graph`.

A translation is a function `(steps, op, *arguments, **options)`, called with a `Value` for every tensor, which adds nodes
and returns the values that they make. An operation without one is "unknown".
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from xai_core.errors import dtype_name
from xai_core.graph import GraphBuilder, along_axes

__all__ = ["Steps", "Value", "translation"]


@dataclass(frozen=True)
class Value:
    """A value of the graph; `literal` is the number itself where the program has a Python number."""

    number: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    literal: float | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)


Made = Value | list[Value | None]
Translation = Callable[..., Made]


class Steps:
    """Adds the nodes that one operation of the program becomes."""

    def __init__(self, builder: GraphBuilder, name: str, source: str, outputs: Sequence[torch.Tensor]) -> None:
        self.builder = builder
        self.name = name
        self.source = source
        self.outputs = outputs

    def whole(self, kind: str, op: Any, *arguments: Any, **options: Any) -> list[Value | None]:
        """The operation as one node, its tensors as inputs in the order in which they are written."""
        inputs: list[Value] = []
        template = _template((arguments, options), inputs)
        run = partial(_run, op, template)
        return [*self._add(kind, inputs, run, [(tuple(out.shape), out.dtype) for out in self.outputs], {})]

    def one(self, kind: str, function: Callable[..., Any], *inputs: Value, **facts: Any) -> Value:
        """A node of one output; its shape is found out with arrays that hold nothing."""
        out = function(*(_sample(value) for value in inputs))
        return self._add(kind, inputs, partial(_single, function), [(tuple(out.shape), out.dtype)], facts)[0]

    def number(self, value: float, like: Value) -> Value:
        """A Python number."""
        made = self.builder.constant(value, (), dtype_name(like.dtype), number=value)
        return Value(made, (), like.dtype, value)

    def both(self, a: Any, b: Any) -> tuple[Value, Value]:
        """Two operands, of which one may be a Python number."""
        if not isinstance(a, Value):
            return self.number(a, b), b
        return a, b if isinstance(b, Value) else self.number(b, a)

    def add(self, a: Any, b: Any) -> Value:
        return self.one("add", operator.add, *self.both(a, b))

    def subtract(self, a: Any, b: Any) -> Value:
        return self.one("subtract", operator.sub, *self.both(a, b))

    def multiply(self, a: Any, b: Any) -> Value:
        return self.one("multiply", operator.mul, *self.both(a, b))

    def divide(self, a: Any, b: Any) -> Value:
        return self.one("divide", operator.truediv, *self.both(a, b))

    def reshape(self, a: Value, shape: Sequence[int]) -> Value:
        if a.shape == tuple(shape):
            return a
        return self.one("structure", partial(torch.reshape, shape=tuple(shape)), a, reshape=True)

    def permute(self, a: Value, order: Sequence[int]) -> Value:
        return self.one("structure", partial(torch.permute, dims=tuple(order)), a, permutation=tuple(order))

    def expand(self, a: Value, shape: Sequence[int]) -> Value:
        if a.shape == tuple(shape):
            return a
        axes = {axis: axis + len(shape) - a.rank for axis in range(a.rank)}
        return self.one("structure", partial(torch.broadcast_to, size=tuple(shape)), a, axes=axes)

    def cast(self, a: Value, dtype: torch.dtype) -> Value:
        if a.dtype == dtype:
            return a
        floats = a.dtype.is_floating_point and dtype.is_floating_point
        return self.one("structure" if floats else "cut", partial(_to, dtype=dtype), a, cast=True)

    def wide(self, a: Value) -> Value:
        """Halves as float32, as PyTorch computes its statistics."""
        return self.cast(a, torch.float32) if a.dtype in (torch.float16, torch.bfloat16) else a

    def mean(self, a: Value, axes: Sequence[int]) -> Value:
        return self.one("sum", partial(torch.mean, dim=tuple(axes), keepdim=True), a)

    def contract(self, function: Callable[..., Any], a: Value, b: Value, labels: Labels, bias: Value | None) -> Value:
        """A contraction whose axes have these labels: of `a`, of `b`, of the result."""
        axes = {
            place: {o: own.index(label) for o, label in enumerate(labels[2]) if label in own}
            for place, own in enumerate(labels[:2])
        }
        facts = {"scaled": {place: along_axes(found) for place, found in axes.items()}, "varies": axes}
        if bias is None:
            return self.one("contraction", function, a, b, **facts)
        return self.one("contraction", function, a, b, bias, **facts, bias=True)

    def _add(self, kind: str, inputs: Sequence[Value], run: Any, outputs: Sequence[Any], facts: Any) -> list[Value]:
        described = [(shape, dtype_name(dtype)) for shape, dtype in outputs]
        made = self.builder.node(
            kind, self.name, [value.number for value in inputs], described, run, facts=facts, source=self.source
        )
        return [Value(number, shape, dtype) for number, (shape, dtype) in zip(made, outputs, strict=True)]


Labels = tuple[Sequence[Hashable], Sequence[Hashable], Sequence[Hashable]]


@dataclass(frozen=True)
class _Place:
    index: int


def _template(tree: Any, inputs: list[Value]) -> Any:
    """`tree` with a place instead of each tensor, and the tensors collected."""
    if isinstance(tree, Value):
        inputs.append(tree)
        return _Place(len(inputs) - 1)
    if isinstance(tree, (tuple, list)):
        return type(tree)(_template(item, inputs) for item in tree)
    if isinstance(tree, dict):
        return {key: _template(item, inputs) for key, item in tree.items()}
    return tree


def _filled(tree: Any, arrays: Sequence[Any]) -> Any:
    if isinstance(tree, _Place):
        return arrays[tree.index]
    if isinstance(tree, (tuple, list)):
        return [_filled(item, arrays) for item in tree]
    if isinstance(tree, dict):
        return {key: _filled(item, arrays) for key, item in tree.items()}
    return tree


def _run(op: Any, template: Any, *arrays: Any) -> list[Any]:
    arguments, options = _filled(template, arrays)
    made = op(*arguments, **options)
    return list(made) if isinstance(made, (tuple, list)) else [made]


def _single(function: Callable[..., Any], *arrays: Any) -> list[Any]:
    return [function(*arrays)]


def _sample(value: Value) -> Any:
    return torch.empty(value.shape, dtype=value.dtype, device="meta") if value.literal is None else value.literal


# Functions that nodes run. They are given tensors, and Python numbers where the program has those.


def _to(a: Any, *, dtype: torch.dtype) -> Any:
    return a.to(dtype)


def _moved(a: Any, *, device: torch.device) -> Any:
    return a if a.is_meta else a.to(device)


def _part(op: Any, options: Any, index: int, a: Any) -> Any:
    return op(a, *options[0], **options[1])[index]


def _larger(a: Any, b: Any) -> Any:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.maximum(a, b)
    return torch.clamp(a, min=b) if isinstance(a, torch.Tensor) else torch.clamp(b, min=a)


def _smaller(a: Any, b: Any) -> Any:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.minimum(a, b)
    return torch.clamp(a, max=b) if isinstance(a, torch.Tensor) else torch.clamp(b, max=a)


def _prelu(x: Any, slope: Any) -> Any:
    return torch.where(x > 0, x, slope * x)


def _root(a: Any) -> Any:
    """Square root whose derivative at zero is zero, as in PyTorch's norms."""
    positive = a > 0
    return torch.where(positive, torch.sqrt(torch.where(positive, a, 1.0)), 0.0)


def _heads(a: Any, *, times: int) -> Any:
    return a.repeat_interleave(times, -3)


def _causal(rows: int, columns: int, device: torch.device) -> Any:
    return torch.ones(rows, columns, dtype=torch.bool, device=device).tril()


def _linear(function: Callable[..., Any], first: Any, second: Any, bias: Any = None, **options: Any) -> Any:
    return function(first, second, bias, **options)


def _added(function: Callable[..., Any], first: Any, second: Any, bias: Any) -> Any:
    return function(bias, first, second)


def _einsum(equation: str, first: Any, second: Any) -> Any:
    return torch.einsum(equation, first, second)


# Translations.


def _as(kind: str) -> Translation:
    def translate(steps: Steps, op: Any, *arguments: Any, **options: Any) -> Made:
        return steps.whole(kind, op, *arguments, **options)

    return translate


def _identity(steps: Steps, op: Any, x: Value, *arguments: Any, **options: Any) -> Made:
    return x


def _dropout(place: int, otherwise: bool) -> Translation:
    """Dropout, whose argument at `place` says whether it is in training."""

    def translate(steps: Steps, op: Any, x: Value, *rest: Any, **options: Any) -> Made:
        training = options.get("train", options.get("training", (x, *rest)[place] if len(rest) >= place else otherwise))
        if training:
            return steps.whole("unknown", op, x, *rest, **options)
        return x if len(steps.outputs) == 1 else [x, None]

    return translate


def _view(steps: Steps, op: Any, x: Value, *arguments: Any) -> Made:
    if x.dtype != steps.outputs[0].dtype:  # other numbers of the same bits
        return steps.whole("unknown", op, x, *arguments)
    # Not as a view: arrays may come in another memory order than in the trace.
    return steps.reshape(x, steps.outputs[0].shape)


def _permuted(steps: Steps, op: Any, x: Value, *arguments: Any) -> Made:
    sizes = op(torch.empty([axis + 1 for axis in range(x.rank)], device="meta"), *arguments).shape
    return steps.permute(x, [size - 1 for size in sizes])


def _expanded(steps: Steps, op: Any, x: Value, *arguments: Any, **options: Any) -> Made:
    return steps.expand(x, steps.outputs[0].shape)


def _to_copy(steps: Steps, op: Any, x: Value, **options: Any) -> Made:
    made = steps.cast(x, steps.outputs[0].dtype)
    device = options.get("device")
    return made if device is None else steps.one("structure", partial(_moved, device=device), made)


def _copy(steps: Steps, op: Any, x: Value, source: Value, *arguments: Any) -> Made:
    return steps.expand(steps.cast(source, x.dtype), x.shape)


def _fill(steps: Steps, op: Any, x: Value, value: Any) -> Made:
    if not isinstance(value, Value):
        return _constant(value)(steps, op, x, value)
    return _copy(steps, op, x, value)


def _constant(value: Any = None, place: int | None = None) -> Translation:
    """An array that holds one number, `value` or the argument at `place`."""

    def translate(steps: Steps, op: Any, *arguments: Any, **options: Any) -> Made:
        made = steps.whole("cut", op, *arguments, **options)
        number = value if place is None else (*arguments, *options.values())[place]
        if made[0] is not None and isinstance(number, (int, float)):
            steps.builder.numbers[made[0].number] = float(number)
        return made

    return translate


def _sum_of(sign: str) -> Translation:
    def translate(steps: Steps, op: Any, a: Any, b: Any, *, alpha: float = 1) -> Made:
        if alpha != 1:
            b = steps.multiply(b, alpha) if isinstance(b, Value) else b * alpha
        return steps.add(a, b) if sign == "add" else steps.subtract(a, b)

    return translate


def _rsub(steps: Steps, op: Any, a: Value, b: Any, alpha: float = 1) -> Made:
    return steps.subtract(b, a if alpha == 1 else steps.multiply(a, alpha))


def _mul(steps: Steps, op: Any, a: Any, b: Any) -> Made:
    return steps.multiply(a, b)


def _div(steps: Steps, op: Any, a: Any, b: Any, **options: Any) -> Made:
    return steps.whole("cut", op, a, b, **options) if options.get("rounding_mode") else steps.divide(a, b)


def _addcmul(steps: Steps, op: Any, x: Value, a: Value, b: Value, *, value: float = 1) -> Made:
    product = steps.multiply(a, b)
    return steps.add(x, product if value == 1 else steps.multiply(product, value))


def _addcdiv(steps: Steps, op: Any, x: Value, a: Value, b: Value, *, value: float = 1) -> Made:
    quotient = steps.divide(a, b)
    return steps.add(x, quotient if value == 1 else steps.multiply(quotient, value))


def _lerp(steps: Steps, op: Any, a: Value, b: Value, weight: Any) -> Made:
    return steps.add(a, steps.multiply(steps.subtract(b, a), weight))


def _clamp(steps: Steps, op: Any, x: Value, low: Any = None, high: Any = None, **options: Any) -> Made:
    low, high = options.get("min", low), options.get("max", high)
    if isinstance(low, (int, float)) and isinstance(high, (int, float)):
        return steps.whole("elementwise", op, x, low, high)
    if low is not None:
        x = steps.one("maximum", _larger, *steps.both(x, low))
    return x if high is None else steps.one("minimum", _smaller, *steps.both(x, high))


def _clamp_max(steps: Steps, op: Any, x: Value, high: Any) -> Made:
    return _clamp(steps, op, x, None, high)


def _extremum(pool: str, pair: str, function: Callable[..., Any]) -> Translation:
    """`max` and `min`: of two arrays, over an axis with the places as a second output, or of all elements."""

    def translate(steps: Steps, op: Any, x: Value, *rest: Any, **options: Any) -> Made:
        if rest and isinstance(rest[0], Value):
            return steps.one(pair, function, x, rest[0])
        return _first(pool)(steps, op, x, *rest, **options)

    return translate


def _first(kind: str) -> Translation:
    """The first of several outputs; what else is used of it is asked for on its own."""

    def translate(steps: Steps, op: Any, x: Value, *rest: Any, **options: Any) -> Made:
        if len(steps.outputs) == 1:
            return steps.whole(kind, op, x, *rest, **options)
        return [steps.one(kind, partial(_part, op, (rest, options), 0), x), *[None] * (len(steps.outputs) - 1)]

    return translate


def _softmax(kind: str) -> Translation:
    function = torch.softmax if kind == "softmax" else torch.log_softmax

    def translate(steps: Steps, op: Any, x: Value, axis: int, *rest: Any, **options: Any) -> Made:
        axis %= max(x.rank, 1)
        dtype = steps.outputs[0].dtype
        return steps.one(kind, partial(function, dim=axis, dtype=dtype), x, axis=axis)

    return translate


def _where(steps: Steps, op: Any, condition: Value, a: Any, b: Any) -> Made:
    dtype = Value(-1, (), steps.outputs[0].dtype)
    a, b = (side if isinstance(side, Value) else steps.number(side, dtype) for side in (a, b))
    return steps.one("select", torch.where, condition, a, b)


def _masked_fill(steps: Steps, op: Any, x: Value, mask: Value, value: Any) -> Made:
    value = steps.cast(value, x.dtype) if isinstance(value, Value) else steps.number(value, x)
    return steps.one("select", torch.where, mask, value, x)


def _prelu_of(steps: Steps, op: Any, x: Value, slope: Value) -> Made:
    shape = [1] * x.rank
    if x.rank > 1:
        shape[1] = math.prod(slope.shape)
    return steps.one("elementwise", _prelu, x, steps.reshape(slope, shape))


# Contractions.


def _matmul_labels(a: Value, b: Value) -> Labels:
    """Axes of a matrix product; a batch axis of size 1 that is broadcast is none of the result's."""
    first: list[Hashable] = ["k"] if a.rank == 1 else ["m", "k"]
    second: list[Hashable] = ["k"] if b.rank == 1 else ["k", "n"]
    out: list[Hashable] = [*(["m"] if a.rank > 1 else []), *(["n"] if b.rank > 1 else [])]
    sizes = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    for place, size in enumerate(reversed(sizes)):
        out.insert(0, ("batch", place))
        for names, shape in ((first, a.shape[:-2]), (second, b.shape[:-2])):
            if place < len(shape):
                names.insert(0, ("batch" if shape[-1 - place] == size else "repeated", place))
    return first, second, out


def _matmul(steps: Steps, op: Any, a: Value, b: Value) -> Made:
    return steps.contract(torch.matmul, a, b, _matmul_labels(a, b), None)


def _addmm(steps: Steps, op: Any, bias: Value, a: Value, b: Value, *, beta: float = 1, alpha: float = 1) -> Made:
    labels = _matmul_labels(a, b)
    if beta == 1 and alpha == 1:
        return steps.contract(partial(_added, op), a, b, labels, bias)
    product = steps.multiply(steps.contract(torch.matmul, a, b, labels, None), alpha)
    return steps.add(steps.multiply(bias, beta), product)


def _linear_of(steps: Steps, op: Any, x: Value, weight: Value, bias: Value | None = None) -> Made:
    rows: list[Hashable] = [("x", axis) for axis in range(x.rank - 1)]
    made: list[Hashable] = ["o"] if weight.rank == 2 else []
    labels = ([*rows, "k"], [*made, "k"], [*rows, *made])
    return steps.contract(partial(_linear, torch.nn.functional.linear), x, weight, labels, bias)


def _convolution(
    steps: Steps, op: Any, x: Value, weight: Value, bias: Value | None = None, *rest: Any, **options: Any
) -> Made:
    # An input without batch axis has one axis less than the kernels have.
    batch: list[Hashable] = ["n"] if x.rank == weight.rank else []
    space: list[Hashable] = [("x", axis) for axis in range(weight.rank - 2)]
    labels = (
        [*batch, "c", *space],
        ["o", "i", *(("w", axis) for axis in range(weight.rank - 2))],
        [*batch, "o", *(("y", axis) for axis in range(weight.rank - 2))],
    )
    return steps.contract(_bound(op, rest, options), x, weight, labels, bias)


def _bound(op: Any, rest: Sequence[Any], options: Any) -> Callable[..., Any]:
    def run(x: Any, weight: Any, bias: Any = None) -> Any:
        return op(x, weight, bias, *rest, **options)

    return run


def _conv_transpose(
    steps: Steps, op: Any, x: Value, weight: Value, bias: Value | None = None, *rest: Any, **options: Any
) -> Made:
    groups = int(options.get("groups", rest[3] if len(rest) > 3 else 1))
    return _transposed_convolution(steps, _bound(op, rest, options), x, weight, bias, groups)


def _transposed_convolution(
    steps: Steps, run: Callable[..., Any], x: Value, weight: Value, bias: Value | None, groups: int
) -> Made:
    channel = 1 if x.rank == weight.rank else 0
    facts: dict[str, Any] = {
        "scaled": {0: along_axes({0: 0} if channel else {}), 1: _grouped(groups, channel)},
        "varies": {0: (0,) if channel else (), 1: (channel,)},
    }
    if bias is None:
        return steps.one("contraction", run, x, weight, **facts)
    return steps.one("contraction", run, x, weight, bias, **facts, bias=True)


def _grouped(groups: int, channel: int) -> Callable[[Any, Any, Any], Any]:
    """`scaled` of kernels (in, out / groups, ...): the result has the outputs of all groups one after the other."""

    def scale(xp: Any, operand: Any, factor: Any) -> Any:
        shape = tuple(operand.shape)
        inside = xp.reshape(operand, (groups, shape[0] // groups, *shape[1:]))
        size = tuple(factor.shape)[channel]
        factor = xp.reshape(factor, (groups if size > 1 else 1, 1, -1, *(1 for _ in shape[2:])))
        return xp.reshape(inside * factor, shape)

    return scale


def _any_convolution(steps: Steps, op: Any, x: Value, weight: Value, bias: Value | None, *rest: Any) -> Made:
    transposed, groups = rest[3], rest[5]
    if transposed:
        return _transposed_convolution(steps, _bound(op, rest, {}), x, weight, bias, groups)
    return _convolution(steps, op, x, weight, bias, *rest)


def _einsum_labels(equation: str, shapes: Sequence[Sequence[int]]) -> Labels | None:
    """Labels of a product of two arrays without diagonals; `None` for other equations."""
    if "->" not in equation or len(shapes) != 2:
        return None
    given, result = equation.replace(" ", "").split("->")
    terms = given.split(",")
    if len(terms) != 2:
        return None
    rests = [
        len(shape) - len(term.replace("...", "")) if "..." in term else 0
        for term, shape in zip(terms, shapes, strict=True)
    ]
    labels: list[list[Hashable]] = []
    for term, rest in zip([*terms, result], [*rests, max(rests)], strict=True):
        before, dots, behind = term.partition("...")
        labels.append([*before, *((("...", place) for place in reversed(range(rest))) if dots else ()), *behind])
    sizes: dict[Hashable, int] = {}
    for names, shape in zip(labels, shapes, strict=False):
        if len(set(names)) < len(names):
            return None
        for label, size in zip(names, shape, strict=True):
            if sizes.setdefault(label, size) != size:
                return None  # one of them is broadcast
    return labels[0], labels[1], labels[2]


def _einsum_of(steps: Steps, op: Any, equation: str, operands: Sequence[Value], **options: Any) -> Made:
    labels = _einsum_labels(equation, [value.shape for value in operands])
    if labels is None:
        return steps.whole("unknown", op, equation, operands, **options)
    return steps.contract(partial(_einsum, equation), operands[0], operands[1], labels, None)


def _attention(
    steps: Steps,
    op: Any,
    q: Value,
    k: Value,
    v: Value,
    mask: Value | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    **options: Any,
) -> Made:
    mask, dropout, causal = (
        options.get("attn_mask", mask),
        options.get("dropout_p", dropout),
        options.get("is_causal", causal),
    )
    if dropout:
        return steps.whole("unknown", op, q, k, v, mask, dropout, causal, **options)
    if options.get("enable_gqa") and q.shape[-3] != k.shape[-3]:
        k, v = (steps.one("structure", partial(_heads, times=q.shape[-3] // each.shape[-3]), each) for each in (k, v))
    scale = options.get("scale")
    keys = steps.permute(k, (*range(k.rank - 2), k.rank - 1, k.rank - 2))
    scores = steps.contract(torch.matmul, q, keys, _matmul_labels(q, keys), None)
    scores = steps.multiply(scores, 1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if causal:
        mask = steps.one("cut", partial(_causal, q.shape[-2], k.shape[-2], steps.outputs[0].device))
    if mask is not None and mask.dtype == torch.bool:
        scores = steps.one("select", torch.where, mask, scores, steps.number(-math.inf, scores))
    elif mask is not None:
        scores = steps.add(scores, mask)
    axis = scores.rank - 1
    weights = steps.one("softmax", partial(torch.softmax, dim=axis), scores, axis=axis)
    return steps.contract(torch.matmul, weights, v, _matmul_labels(weights, v), None)


# Statistics, spelled out.


def _normalised(steps: Steps, x: Value, axes: Sequence[int], eps: float, *, centred: bool = True) -> Value:
    if centred:
        x = steps.subtract(x, steps.mean(x, axes))
    variance = steps.mean(steps.multiply(x, x), axes)
    return steps.multiply(x, steps.one("elementwise", torch.rsqrt, steps.add(variance, eps)))


def _affine(steps: Steps, x: Value, scale: Value | None, shift: Value | None, shape: Sequence[int]) -> Value:
    if scale is not None:
        x = steps.multiply(x, steps.reshape(steps.wide(scale), shape))
    return x if shift is None else steps.add(x, steps.reshape(steps.wide(shift), shape))


def _channels(x: Value) -> tuple[int, ...]:
    return (1, x.shape[1], *(1 for _ in x.shape[2:]))


def _outputs(steps: Steps, value: Value) -> Made:
    value = steps.cast(value, steps.outputs[0].dtype)
    return value if len(steps.outputs) == 1 else [value, *[None] * (len(steps.outputs) - 1)]


def _layer_norm(
    steps: Steps,
    op: Any,
    x: Value,
    shape: Sequence[int],
    scale: Value | None = None,
    shift: Value | None = None,
    eps: float = 1e-5,
    *rest: Any,
) -> Made:
    made = _normalised(steps, steps.wide(x), range(x.rank - len(shape), x.rank), eps)
    return _outputs(steps, _affine(steps, made, scale, shift, shape))


def _rms_norm(
    steps: Steps, op: Any, x: Value, shape: Sequence[int], scale: Value | None = None, eps: float | None = None
) -> Made:
    axes = range(x.rank - len(shape), x.rank)
    inside = steps.wide(x)
    made = _normalised(steps, inside, axes, torch.finfo(x.dtype).eps if eps is None else eps, centred=False)
    return _outputs(steps, _affine(steps, made, scale, None, shape))


def _grouped_norm(steps: Steps, x: Value, groups: int, scale: Value | None, shift: Value | None, eps: float) -> Made:
    inside = steps.reshape(steps.wide(x), (x.shape[0], groups, -1))
    made = steps.reshape(_normalised(steps, inside, (2,), eps), x.shape)
    return _outputs(steps, _affine(steps, made, scale, shift, _channels(x)))


def _group_norm(
    steps: Steps,
    op: Any,
    x: Value,
    groups: int,
    scale: Value | None = None,
    shift: Value | None = None,
    eps: float = 1e-5,
    *rest: Any,
) -> Made:
    return _grouped_norm(steps, x, groups, scale, shift, eps)


def _native_group_norm(
    steps: Steps,
    op: Any,
    x: Value,
    scale: Value | None,
    shift: Value | None,
    n: int,
    c: int,
    size: int,
    groups: int,
    eps: float,
) -> Made:
    return _grouped_norm(steps, x, groups, scale, shift, eps)


def _by_statistics(
    steps: Steps, x: Value, scale: Value | None, shift: Value | None, mean: Value, variance: Value, eps: float
) -> Made:
    """Batch normalisation with known statistics: one factor and one summand for each channel."""
    mean, variance = steps.wide(mean), steps.wide(variance)
    factor = steps.one("elementwise", torch.rsqrt, steps.add(variance, eps))
    if scale is not None:
        factor = steps.multiply(factor, steps.wide(scale))
    offset = steps.multiply(mean, factor)
    offset = steps.one("negate", torch.neg, offset) if shift is None else steps.subtract(steps.wide(shift), offset)
    return _outputs(steps, _affine(steps, steps.wide(x), factor, offset, _channels(x)))


def _batch_norm(
    steps: Steps,
    op: Any,
    x: Value,
    scale: Value | None,
    shift: Value | None,
    mean: Value,
    variance: Value,
    momentum: float,
    eps: float,
) -> Made:
    return _by_statistics(steps, x, scale, shift, mean, variance, eps)


def _maybe_batch_norm(
    steps: Steps,
    op: Any,
    x: Value,
    scale: Value | None,
    shift: Value | None,
    mean: Value | None,
    variance: Value | None,
    training: bool,
    momentum: float,
    eps: float,
    *rest: Any,
) -> Made:
    if training or mean is None or variance is None:
        return steps.whole("unknown", op, x, scale, shift, mean, variance, training, momentum, eps, *rest)
    return _by_statistics(steps, x, scale, shift, mean, variance, eps)


def _instance_norm(
    steps: Steps,
    op: Any,
    x: Value,
    scale: Value | None,
    shift: Value | None,
    mean: Value | None,
    variance: Value | None,
    own: bool,
    momentum: float,
    eps: float,
    *rest: Any,
) -> Made:
    if not own and mean is not None and variance is not None:
        return _by_statistics(steps, x, scale, shift, mean, variance, eps)
    made = _normalised(steps, steps.wide(x), range(2, x.rank), eps)
    return _outputs(steps, _affine(steps, made, scale, shift, _channels(x)))


def _axes(x: Value, dim: Any) -> tuple[int, ...]:
    if dim is None or (isinstance(dim, (list, tuple)) and not dim):
        return tuple(range(x.rank))
    return tuple(axis % max(x.rank, 1) for axis in ([dim] if isinstance(dim, int) else dim))


def _variance(steps: Steps, x: Value, dim: Any, correction: float | None, keepdim: bool) -> tuple[Value, Value]:
    """Variance and mean."""
    axes = _axes(x, dim)
    count = math.prod(x.shape[axis] for axis in axes)
    mean = steps.mean(x, axes)
    centred = steps.subtract(x, mean)
    total = steps.one("sum", partial(torch.sum, dim=axes, keepdim=True), steps.multiply(centred, centred))
    free = max(count - (1 if correction is None else correction), 0)
    variance = steps.multiply(total, 1 / free if free else math.nan)
    shape = [size for axis, size in enumerate(x.shape) if axis not in axes]
    return (variance, mean) if keepdim else (steps.reshape(variance, shape), steps.reshape(mean, shape))


def _moments(*names: str) -> Translation:
    def translate(
        steps: Steps, op: Any, x: Value, dim: Any = None, *, correction: float | None = None, keepdim: bool = False
    ) -> Made:
        variance, mean = _variance(steps, x, dim, correction, keepdim)
        spread = steps.one("elementwise", torch.sqrt, variance) if "std" in names else variance
        return [spread, mean] if "mean" in names else spread

    return translate


def _norm(
    steps: Steps, op: Any, x: Value, order: float = 2, dim: Any = None, keepdim: bool = False, **options: Any
) -> Made:
    if order not in (1, 2) or options.get("dtype") not in (None, x.dtype):
        return steps.whole("unknown", op, x, order, dim, keepdim, **options)
    inside = steps.multiply(x, x) if order == 2 else steps.one("elementwise", torch.abs, x)
    total = steps.one("sum", partial(torch.sum, dim=_axes(x, dim), keepdim=keepdim), inside)
    return steps.one("elementwise", _root, total) if order == 2 else total


def _scatter_add(steps: Steps, op: Any, x: Value, axis: int, index: Value, source: Value) -> Made:
    scattered = steps.one("sum", partial(_scattered, shape=x.shape, axis=axis), source, index)
    return steps.add(x, scattered)


def _scattered(source: Any, index: Any, *, shape: Sequence[int], axis: int) -> Any:
    return torch.scatter_add(source.new_zeros(shape), axis, index, source)


def _index_put(steps: Steps, op: Any, x: Value, indices: Any, values: Value, accumulate: bool = False) -> Made:
    return steps.whole("unknown" if accumulate else "structure", op, x, indices, values, accumulate)


_PLAIN = {
    "structure": """
        slice select split split_with_sizes unsafe_split chunk unbind
        narrow cat concat stack constant_pad_nd pad reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
        replication_pad2d replication_pad3d repeat repeat_interleave tile roll flip rot90 index_select gather index
        _unsafe_index embedding take_along_dim diagonal diag_embed tril triu
        pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle unfold im2col slice_scatter select_scatter
        diagonal_scatter scatter.src scatter.value index_copy index_fill.int_Scalar
        upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
        _upsample_nearest_exact3d""",
    "sum": """
        sum mean avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
        _adaptive_avg_pool2d _adaptive_avg_pool3d cumsum trace col2im upsample_linear1d upsample_bilinear2d
        upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa""",
    "elementwise": """
        relu relu6 hardtanh leaky_relu elu selu celu gelu silu mish hardswish hardsigmoid sigmoid log_sigmoid softplus
        tanh hardshrink softshrink threshold exp expm1 exp2 log log1p log2 log10 sqrt rsqrt reciprocal square pow abs
        sin cos tan asin acos atan sinh cosh asinh acosh atanh erf erfc erfinv lgamma digamma logit sinc nan_to_num
        special_expit xlogy atan2 hypot""",
    "negate": "neg",
    "cut": """
        round floor ceil trunc sign sgn heaviside floor_divide empty_like new_empty rand_like randn_like randint_like
        bernoulli""",
    "stop": "detach",
    "max_pool": "max_pool1d max_pool2d max_pool3d amax",
    "min_pool": "amin",
}

_TRANSLATIONS: dict[str, Translation] = {
    **{name: _as(kind) for kind, names in _PLAIN.items() for name in names.split()},
    **dict.fromkeys(("clone", "contiguous", "alias", "lift_fresh", "lift_fresh_copy"), _identity),
    **{name: _dropout(2, True) for name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")},
    "native_dropout": _dropout(2, True),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"), _view),
    **dict.fromkeys(("permute", "transpose", "t", "movedim", "moveaxis", "swapaxes", "swapdims"), _permuted),
    **dict.fromkeys(("expand", "broadcast_to"), _expanded),
    "_to_copy": _to_copy,
    "copy": _copy,
    "fill": _fill,
    **{name: _constant(0) for name in ("zeros", "zeros_like", "new_zeros")},
    **{name: _constant(1) for name in ("ones", "ones_like", "new_ones")},
    "full": _constant(place=1),
    "full_like": _constant(place=1),
    "new_full": _constant(place=2),
    "scalar_tensor": _constant(place=0),
    "add": _sum_of("add"),
    "sub": _sum_of("subtract"),
    "rsub": _rsub,
    "mul": _mul,
    "div": _div,
    "addcmul": _addcmul,
    "addcdiv": _addcdiv,
    "lerp": _lerp,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp_max,
    "maximum": _extremum("max_pool", "maximum", _larger),
    "minimum": _extremum("min_pool", "minimum", _smaller),
    "max": _extremum("max_pool", "maximum", _larger),
    "min": _extremum("min_pool", "minimum", _smaller),
    **{
        name: _first("max_pool")
        for name in (
            "max_pool2d_with_indices",
            "max_pool3d_with_indices",
            "max_pool1d_with_indices",
            "adaptive_max_pool1d",
            "adaptive_max_pool2d",
            "adaptive_max_pool3d",
        )
    },
    "softmax": _softmax("softmax"),
    "_softmax": _softmax("softmax"),
    "log_softmax": _softmax("log_softmax"),
    "_log_softmax": _softmax("log_softmax"),
    "where": _where,
    "masked_fill": _masked_fill,
    "prelu": _prelu_of,
    "_prelu_kernel": _as("elementwise"),
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot"), _matmul),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _addmm),
    "linear": _linear_of,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _conv_transpose),
    "convolution": _any_convolution,
    "einsum": _einsum_of,
    "scaled_dot_product_attention": _attention,
    "layer_norm": _layer_norm,
    "native_layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "native_group_norm": _native_group_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "native_batch_norm": _maybe_batch_norm,
    "batch_norm": _maybe_batch_norm,
    "cudnn_batch_norm": _maybe_batch_norm,
    "instance_norm": _instance_norm,
    "var.correction": _moments("var"),
    "std.correction": _moments("std"),
    "var_mean.correction": _moments("var", "mean"),
    "std_mean.correction": _moments("std", "mean"),
    "linalg_vector_norm": _norm,
    "scatter_add": _scatter_add,
    "index_put": _index_put,
    "_unsafe_index_put": _index_put,
}


def translation(op: Any, arguments: Sequence[Any]) -> Translation | None:
    """How an operation is translated; `None` if it is not known, or not with these arguments.

    `arguments` are those of the program; anything with a shape counts as a tensor.
    """
    if not isinstance(op, torch._ops.OpOverload) or op.namespace != "aten":
        return None
    name = op._schema.name.removeprefix("aten::")
    found = _TRANSLATIONS.get(f"{name}.{op._overloadname}", _TRANSLATIONS.get(name))
    if found is _einsum_of and _einsum_labels(arguments[0], [tuple(each.shape) for each in arguments[1]]) is None:
        return None
    return found
