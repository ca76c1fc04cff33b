"""What operations are taken for: graphs written by hand, over NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from xai_numpy import NumpyBackend

from xai_core.folding import fold, folded_bias, folded_weight
from xai_core.graph import KINDS, GraphBuilder, along_axes
from xai_core.operations import STEP_KINDS, OperationTable, analyse, forward

BACKEND = NumpyBackend()
ROWS, WIDTH = 2, 4


class Value:
    """A value of a graph that is being written; arithmetic adds operations."""

    def __init__(self, text, number):
        self.text, self.number = text, number

    @property
    def shape(self):
        return self.text.builder.shapes[self.number]

    def __add__(self, other):
        return self.text.call("add", np.add, self, other)

    def __sub__(self, other):
        return self.text.call("subtract", np.subtract, self, other)

    def __mul__(self, other):
        return self.text.call("multiply", np.multiply, self, other)

    def __truediv__(self, other):
        return self.text.call("divide", np.divide, self, other)

    def over(self, reduction, kind="sum"):
        return self.text.call(kind, lambda a: reduction(a, axis=-1, keepdims=True), self, name=reduction.__name__)


class Text:
    """A graph that is being written."""

    def __init__(self, dtype="float32"):
        self.builder, self.dtype, self.inputs = GraphBuilder(), dtype, []

    def input(self, *shape):
        number = self.builder.value(shape or (ROWS, WIDTH), self.dtype)
        self.inputs.append(number)
        return Value(self, number)

    def constant(self, array):
        host = np.asarray(array, dtype=self.dtype)
        number = float(host) if host.shape == () else None
        return Value(self, self.builder.constant(host, host.shape, self.dtype, number))

    def call(self, kind, function, *given, name=None, shape=None, dtype=None, **facts):
        given = [value if isinstance(value, Value) else self.constant(value) for value in given]
        shape = shape or function(*(np.ones(value.shape, dtype=self.dtype) for value in given)).shape
        numbers = [value.number for value in given]
        name = name or getattr(function, "__name__", kind)

        def compute(*arrays):
            with np.errstate(all="ignore"):  # numbers at which activations are tried may be none of their domain
                return (function(*arrays),)

        made = self.builder.node(kind, name, numbers, [(shape, dtype or self.dtype)], compute, facts=facts)
        return Value(self, made[0])

    def each(self, function, *given):
        return self.call("elementwise", function, *given)

    def greater(self, a, b):
        return self.call("cut", np.greater, a, b, dtype="bool")

    def where(self, condition, a, b):
        return self.call("select", np.where, condition, a, b)

    def mark(self, value, path="layer"):
        return Value(self, self.builder.leave(path, [value.number])[0])

    def cast(self, value, dtype):
        return self.call("structure", lambda a: a.astype(dtype), value, dtype=dtype, cast=True)

    def dense(self, x, weight, bias=None):
        """With a bias as third operand."""
        given = [x, weight] if bias is None else [x, weight, bias]
        function = (lambda a, w: a @ w) if bias is None else (lambda a, w, b: a @ w + b)
        axes = [{0: 0}, {1: 1}]
        facts = {"scaled": {i: along_axes(axes[i]) for i in (0, 1)}, "varies": dict(enumerate(axes))}
        return self.call("contraction", function, *given, name="dense", bias=bias is not None, **facts)

    def program(self, output, varied=None):
        graph = self.builder.build(self.inputs, output.number)
        return analyse(graph, len(self.inputs) if varied is None else varied, BACKEND)


def kinds(program):
    return [(step.kind, step.name) for step in program.active if step.kind != "mark"]


def run(program, *arrays):
    return forward(program, BACKEND, arrays, lambda step: False).output(program)


def activations():
    """Spellings of activations, and what they are."""
    sigmoid = lambda t, x: t.each(np.exp, x * -1.0) + 1.0  # noqa: E731
    cubic = lambda t, x: (x + t.each(np.power, x, 3.0) * 0.044715) * math.sqrt(2 / math.pi)  # noqa: E731
    return {
        "maximum": ("relu", lambda t, x: t.call("maximum", np.maximum, x, 0.0)),
        "maximum turned": ("relu", lambda t, x: t.call("maximum", np.maximum, 0.0, x)),
        "where": ("relu", lambda t, x: t.where(t.greater(x, 0.0), x, 0.0)),
        "where turned": ("relu", lambda t, x: t.where(t.greater(0.0, x), 0.0, x)),
        "mask": ("relu", lambda t, x: x * t.call("cut", np.sign, t.call("maximum", np.maximum, x, 0.0))),
        "computed zero": (
            "relu",
            lambda t, x: t.call("maximum", np.maximum, x, t.call("subtract", np.subtract, 1.0, 1.0)),
        ),
        "across layers": ("relu", lambda t, x: t.where(t.greater(t.mark(x), 0.0), t.mark(x, "other"), 0.0)),
        "clip": ("relu6", lambda t, x: t.each(lambda a: np.clip(a, 0, 6), x)),
        "leaky": ("leaky_relu", lambda t, x: t.where(t.greater(x, 0.0), x, x * 0.1)),
        "elu": ("elu", lambda t, x: t.where(t.greater(x, 0.0), x, t.each(np.expm1, x))),
        "quotient": ("silu", lambda t, x: x / sigmoid(t, x)),
        "product": ("silu", lambda t, x: x * t.mark(t.call("divide", np.divide, 1.0, sigmoid(t, x)))),
        "gelu": ("gelu_tanh", lambda t, x: (x * 0.5) * (t.each(np.tanh, cubic(t, x)) + 1.0)),
        "square": ("square", lambda t, x: x * x),
        "hard swish": ("hard_swish", lambda t, x: x * (t.each(lambda a: np.clip(a, 0, 6), x + 3.0) / 6.0)),
    }


@pytest.mark.parametrize("spelled", activations())
def test_activations_are_recognised_by_what_they_do(spelled):
    name, write = activations()[spelled]
    text = Text()
    program = text.program(write(text, text.input()))
    assert kinds(program) == [("activation", name)]
    x = np.linspace(-3, 3, ROWS * WIDTH).reshape(ROWS, WIDTH).astype("float32")
    other = Text()
    plain = other.builder.build(other.inputs, write(other, other.input()).number)
    values = {**plain.constants, other.inputs[0]: x}
    for node in plain.nodes:
        values.update(zip(node.outputs, node.run(*(values[i] for i in node.inputs)), strict=True))
    assert np.allclose(run(program, x), values[plain.output], atol=1e-6)


def test_near_misses_are_no_activation():
    text = Text()
    x, y = text.input(), text.input()
    # The mask comes from other data.
    assert kinds(text.program(text.where(text.greater(y, 0.0), x, 0.0)))[-1][0] == "select"
    # A product of two values.
    assert kinds(text.program(x * text.each(np.tanh, y)))[-1][0] == "product"
    # Not of each element alone.
    text = Text()
    x = text.input()
    assert kinds(text.program(x * text.each(np.tanh, x.over(np.sum))))[-1][0] == "product"
    text = Text()
    x = text.input()
    # The threshold is not zero, the weights differ by element: functions without a name.
    shifted = text.where(text.greater(x, 0.5), x, 0.0)
    assert kinds(text.program(shifted))[-1] not in [("activation", "relu"), ("activation", "leaky_relu")]
    text = Text()
    x = text.input()
    parametric = text.where(text.greater(x, 0.0), x, x * np.linspace(0, 1, WIDTH))
    assert kinds(text.program(parametric))[-1][1] not in ("relu", "leaky_relu")


def exponentials(text, x, shifted=True):
    top = x.over(np.max, "max_pool")
    return text.each(np.exp, x - (text.call("stop", np.copy, top) if shifted else 0.0))


def test_softmax_is_recognised():
    x = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype("float32")
    exact = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    for border in (lambda t, v: v, lambda t, v: t.mark(v)):
        text = Text()
        given = text.input()
        grown = border(text, exponentials(text, given))
        program = text.program(border(text, grown) / border(text, grown.over(np.sum)))
        assert [kind for kind, _ in kinds(program)] == ["softmax"]
        assert np.allclose(run(program, x), exact)
    text = Text()
    given = text.input()
    twice = text.each(np.exp, given) / text.each(np.exp, given).over(np.sum)
    assert [kind for kind, _ in kinds(text.program(twice))] == ["softmax"]
    text = Text()
    given = text.input()
    z = given - text.call("stop", np.copy, given.over(np.max, "max_pool"))
    program = text.program(z - text.each(np.log, text.each(np.exp, z).over(np.sum)))
    assert [kind for kind, _ in kinds(program)] == ["log_softmax"]
    assert np.allclose(run(program, x), np.log(exact), atol=1e-6)


def test_softmax_of_halves():
    text = Text("float16")
    given = text.input()
    grown = exponentials(text, given)
    total = text.call("sum", lambda a: a.sum(-1, keepdims=True), text.cast(grown, "float32"), dtype="float32")
    program = text.program(grown / text.cast(total, "float16"))
    assert [kind for kind, _ in kinds(program)] == ["softmax"]
    assert run(program, np.ones((ROWS, WIDTH), dtype="float16")).dtype == np.float16


@pytest.mark.parametrize("miss", ["mean", "other", "added", "axes", "weighted"])
def test_near_misses_are_no_softmax(miss):
    text = Text()
    x = text.input()
    grown = text.each(np.exp, x)
    if miss == "mean":
        program = text.program(grown / grown.over(np.mean))
    elif miss == "other":
        program = text.program(grown / text.each(np.exp, x * 2.0).over(np.sum))
    elif miss == "added":
        program = text.program(grown / (grown.over(np.sum) + 1.0))
    elif miss == "axes":
        program = text.program(grown / text.call("sum", lambda a: a.sum(keepdims=True), grown))
    else:
        program = text.program(grown / text.call("sum", lambda a: 2 * a.sum(-1, keepdims=True), grown))
    assert "softmax" not in [kind for kind, _ in kinds(program)]
    assert kinds(program)[-1][0] == "division"


def normalised(text, x, root):
    centred = x - x.over(np.mean)
    variance = (centred * centred).over(np.mean) + 1e-5
    if root == "rsqrt":
        return centred * text.each(lambda a: 1 / np.sqrt(a), variance)
    deviation = text.each(np.sqrt, variance)
    if root == "sqrt":
        return centred / deviation
    return centred * text.call("divide", np.divide, 1.0, deviation)


@pytest.mark.parametrize("root", ["rsqrt", "reciprocal"])
def test_normalisation_is_recognised_and_its_statistics(root):
    text = Text()
    program = text.program(normalised(text, text.input(), root) * np.linspace(1, 2, WIDTH) + np.ones(WIDTH))
    found = {step.kind: step for step in program.active}
    assert found["normalise"].inputs[found["normalise"].facts["normaliser"]] != found["subtract"].outputs[0]
    statistics = [step.name for step in program.active if step.facts.get("statistic")]
    assert "square" in statistics
    assert not any(step.facts.get("statistic") for step in program.active if step.kind in ("subtract", "scale"))


def test_a_product_with_other_data_is_no_normalisation():
    text = Text()
    x = text.input()
    gate = text.each(np.tanh, x.over(np.mean))
    program = text.program(x * gate)
    assert kinds(program)[-1][0] == "product"
    assert not any(step.facts.get("statistic") for step in program.active)
    # A square root that is not divided by.
    text = Text()
    x = text.input()
    assert kinds(text.program(x * text.each(np.sqrt, (x * x).over(np.sum))))[-1][0] == "product"


def test_a_statistic_that_is_used_otherwise_is_none():
    text = Text()
    x = text.input()
    square = x * x
    root = text.each(lambda a: 1 / np.sqrt(a), square.over(np.mean))
    program = text.program(x * root + square)
    assert not any(step.facts.get("statistic") for step in program.active if step.name == "square")


def test_what_varies_is_data():
    text = Text()
    x, weight = text.input(), text.input(WIDTH, 3)
    out = text.dense(x, weight)
    graph = text.builder.build(text.inputs, out.number)
    assert [step.kind for step in analyse(graph, 1, BACKEND).active] == ["linear"]
    assert [step.kind for step in analyse(graph, 2, BACKEND).active] == ["bilinear"]


def test_kinds_of_operations():
    text = Text()
    x, y = text.input(), text.input()
    wanted = {
        "add": x + y,
        "shift": x + 1.0,
        "scale": x / 2.0,
        "product": x * y,
        "division": x / y,
        "maximum": text.call("maximum", np.maximum, x, y),
        "unknown": text.each(np.arctan2, x, y),
    }
    for kind, value in wanted.items():
        program = text.program(value)
        assert kinds(program)[-1][0] == kind
    assert set(wanted) <= set(STEP_KINDS)
    assert text.builder.nodes[0].kind in KINDS
    printed = repr(OperationTable(text.program(x + y)))
    assert "add" in printed
    assert str((ROWS, WIDTH)) in printed


def test_the_larger_of_two_however_it_is_chosen():
    spelled = {
        "maximum": lambda t, x, y: t.where(t.greater(x, y), x, y),
        "minimum": lambda t, x, y: t.where(t.greater(x, y), y, x),
        "select": lambda t, x, y: t.where(t.call("cut", lambda a, b: abs(a) > abs(b), x, y, dtype="bool"), x, y),
    }
    for kind, write in spelled.items():
        text = Text()
        program = text.program(write(text, text.input(), text.input()))
        assert kinds(program)[-1][0] == kind
        x, y = np.random.default_rng(0).normal(size=(2, ROWS, WIDTH)).astype("float32")
        function = {"maximum": np.maximum, "minimum": np.minimum}.get(
            kind, lambda a, b: np.where(abs(a) > abs(b), a, b)
        )
        assert np.array_equal(run(program, x, y), function(x, y))


def test_what_the_data_decides_on_is_said():
    text = Text()
    x, weight = text.input(), np.ones((WIDTH, 3))
    total = x.over(np.sum)
    mask = text.call("cut", np.sign, total)
    place = text.call("cut", lambda a: a.argmax(-1), x, dtype="int64")
    sizes = text.builder.node("cut", "sizes", [x.number], [((), "float32")], lambda a: (a.size,), facts={"shape": True})
    written = {
        "scale": (x * mask, True),
        "select": (text.where(text.greater(total, 0.0), x, x * 2.0), True),
        "pick": (text.call("structure", lambda a, i: np.take_along_axis(a, i.astype(int)[:, None], 1), x, place), True),
        "shift": (x + Value(text, sizes[0]), False),
        "product": (x * total, False),
    }
    for kind, (value, swayed) in written.items():
        *_, last = text.program(value).active
        assert (last.kind, last.facts.get("swayed", False)) == (kind, swayed)
    folded = fold(text.program(text.dense(x, weight) * mask), np)
    assert [step.kind for step in folded.active][-2:] == ["linear", "scale"]


def test_what_is_not_needed_is_not_run():
    text = Text()
    x = text.input()

    def fail(a):
        raise AssertionError

    text.call("elementwise", fail, x, shape=(ROWS, WIDTH))
    assert [kind for kind, _ in kinds(text.program(x * 2.0))] == ["scale"]


# Folding


def batch_norm(text, x, spelled):
    rng = np.random.default_rng(1)
    scale, shift, mean = rng.normal(size=(3, 3))
    variance = rng.uniform(0.5, 2, size=3)
    root = np.sqrt(variance + 1e-3)
    if spelled == "subtract":
        return (x - mean) / root * scale + shift, scale / root, shift - mean * scale / root
    if spelled == "once":
        return x * (scale / root) + (shift - mean * scale / root), scale / root, shift - mean * scale / root
    made = text.call("subtract", np.subtract, mean, x)  # turned
    return made * (-scale / root) + shift, scale / root, shift - mean * scale / root


@pytest.mark.parametrize("spelled", ["subtract", "once", "turned"])
@pytest.mark.parametrize("bias", ["operand", "added", None])
@pytest.mark.parametrize("border", [False, True])
def test_batch_norm_is_folded(spelled, bias, border):
    rng = np.random.default_rng(2)
    weight, held = rng.normal(size=(WIDTH, 3)), rng.normal(size=3)
    text = Text("float64")
    x = text.input()
    made = text.dense(x, weight, held if bias == "operand" else None)
    if bias == "added":
        made = made + held
    if border:
        made = text.mark(made)
    made, factor, offset = batch_norm(text, made, spelled)
    relu = text.call("maximum", np.maximum, made, 0.0)
    program = text.program(relu)
    folded = fold(program, BACKEND.xp)
    linear, activation = folded.active
    assert (linear.kind, activation.name) == ("linear", "relu")
    assert linear.facts["only_positive"]
    assert not linear.facts["never_negative"]
    inputs = [program.graph.constants.get(value, np.ones((ROWS, WIDTH))) for value in linear.inputs]
    assert np.allclose(folded_weight(np, linear.facts, inputs), weight * factor)
    wanted = (0 if bias is None else held) * factor + offset
    assert np.allclose(np.broadcast_to(folded_bias(np, linear.facts, inputs, inputs[0]), (1, 3)), wanted)
    host = rng.normal(size=(ROWS, WIDTH))
    assert np.allclose(run(folded, host), run(program, host))
    assert np.allclose(run(folded, host), np.maximum(host @ (weight * factor) + wanted, 0))


def test_batch_norm_of_halves_is_folded():
    rng = np.random.default_rng(3)
    text = Text("float16")
    x = text.input()
    wide = text.cast(text.dense(x, rng.normal(size=(WIDTH, 3)), rng.normal(size=3)), "float32")
    scale = Value(text, text.builder.constant(np.array([1, 2, 3], dtype="float32"), (3,), "float32"))
    scaled = text.call("multiply", np.multiply, wide, scale, dtype="float32")
    program = text.program(text.cast(text.call("add", np.add, scaled, scale, dtype="float32"), "float16"))
    folded = fold(program, BACKEND.xp)
    assert [step.kind for step in folded.active] == ["linear", "structure"]
    host = rng.normal(size=(ROWS, WIDTH)).astype("float16")
    assert run(folded, host).dtype == np.float16
    assert np.allclose(run(folded, host).astype(float), run(program, host).astype(float), atol=2e-2)
    linear = next(iter(folded.active))
    inputs = [program.graph.constants.get(value, host) for value in linear.inputs]
    assert folded_weight(np, linear.facts, inputs).dtype == np.float16


def test_what_cannot_be_folded_is_not():
    rng = np.random.default_rng(4)
    weight = rng.normal(size=(WIDTH, 3))

    def left(write):
        text = Text()
        x = text.input()
        return [step.kind for step in fold(text.program(write(text, x, text.dense(x, weight))), BACKEND.xp).active]

    # A factor that varies with the sample is none of the weights.
    assert left(lambda t, x, z: z * rng.normal(size=(ROWS, 3))) == ["linear", "scale"]
    # Nor is a summand that does, or that varies with the place: a mask before a softmax.
    assert left(lambda t, x, z: z + rng.normal(size=(ROWS, 3))) == ["linear", "shift"]
    masked = lambda t, x, z: t.call("contraction", np.matmul, np.ones((3, ROWS)), x) + rng.normal(size=WIDTH)  # noqa: E731
    assert left(masked)[-1] == "shift"
    # A result that is used twice stays.
    twice = lambda t, x, z: z * 2.0 + t.call("sum", lambda a: a[:, ::-1] / 2, z)  # noqa: E731
    assert left(twice) == ["linear", "scale", "sum", "add"]
    assert left(lambda t, x, z: t.each(np.tanh, z) + 1.0) == ["linear", "activation", "shift"]
    # What is behind a bias and a change of shape is left alone.
    reshaped = lambda t, x, z: t.call("structure", lambda a: a.reshape(-1), z + 1.0, reshape=True) * 2.0  # noqa: E731
    assert left(reshaped)[0] == "linear"


def test_a_value_to_keep_ends_the_chain():
    text = Text()
    z = text.dense(text.input(), np.ones((WIDTH, 3)))
    shifted = z + 1.0
    program = text.program(shifted * 2.0)
    assert [step.kind for step in fold(program, BACKEND.xp).active] == ["linear"]
    assert [step.kind for step in fold(program, BACKEND.xp, keep=[shifted.number]).active] == ["linear", "scale"]


def test_data_that_is_never_negative():
    text = Text()
    relu = text.call("maximum", np.maximum, text.input(), 0.0)
    pooled = relu.over(np.max, "max_pool")
    linear = list(fold(text.program(text.dense(pooled, np.ones((1, 3)))), BACKEND.xp).active)[-1]
    assert linear.facts["never_negative"]
    assert not linear.facts["only_positive"]
    text = Text()
    shifted = text.call("maximum", np.maximum, text.input(), 0.0) - 1.0
    linear = list(fold(text.program(text.dense(shifted, np.ones((WIDTH, 3)))), BACKEND.xp).active)[-1]
    assert not linear.facts["never_negative"]
