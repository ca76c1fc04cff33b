"""Methods with backward rules on PyTorch, JAX and TensorFlow models, against literal restatements of the papers."""

from __future__ import annotations

import dataclasses
import functools
from concurrent import futures

import literal_rules as literal
import numpy as np
import pytest
import rulenets
import ruletable
from frameworks import need
from ruletable import TARGET

import xai_core as xai
from xai_core.testing import assert_close

need("torch", "jax", "flax", "haiku", "equinox", "tensorflow")

import jax
import jax.numpy as jnp
import tensorflow as tf
import torch
import torch.nn.functional as F  # noqa: N812

FRAMEWORKS = ("modules", "nnx", "tensorflow")
KINDS = {kind: kind in FRAMEWORKS for kind in (*rulenets.TORCH_KINDS, *rulenets.JAX_KINDS, "tensorflow")}


def array(kind, host):
    """An array of the framework of a kind of model."""
    if kind in rulenets.TORCH_KINDS:
        return torch.from_numpy(host.copy())
    return jnp.asarray(host) if kind in rulenets.JAX_KINDS else tf.constant(host)


@functools.cache
def made(net, kind):
    if kind in rulenets.TORCH_KINDS:
        return rulenets.torch_net(net, kind)
    return rulenets.jax_net(net, kind) if kind in rulenets.JAX_KINDS else rulenets.tensorflow_net(net)


def channels_first(kind, host):
    return kind in (*rulenets.TORCH_KINDS, "equinox") and host.ndim == 4


def moved(kind, host):
    """Input with the channels where this kind of model has them, in NumPy."""
    return np.moveaxis(host, -1, 1) if channels_first(kind, host) else host


def back(kind, values):
    """Values with channels last, in NumPy."""
    host = np.asarray(values)
    return np.moveaxis(host, 1, -1) if channels_first(kind, host) else host


@pytest.mark.parametrize(("kind", "net", "row"), ruletable.cases(KINDS), ids=str)
def test_method_equals_its_paper(kind, net, row):
    x = ruletable.given(row, net)
    start = moved(kind, ruletable.baseline(net))
    given = array(kind, moved(kind, x))
    found = row.explainer(start)(made(net, kind), given, target=TARGET)
    assert type(found.values) is type(given)
    assert_close(back(kind, found.values), row.oracle(net, x), relative=1e-5)


# Spellings of ReLU


def made_inside(x):
    return torch.nn.ReLU()(x)


SPELLINGS = {
    "modules": [
        F.relu,
        torch.relu,
        torch.relu_,
        made_inside,
        torch.nn.ReLU(inplace=True),
        lambda x: x.relu_(),
        lambda x: x.clamp(min=0),
        lambda x: F.relu(x, inplace=True),
        lambda x: torch.where(x > 0, x, 0.0),
        lambda x: torch.maximum(x, torch.zeros(())),
        lambda x: x * (x > 0),
    ],
    "nnx": [
        jax.nn.relu,
        jax.jit(lambda x: jnp.maximum(x, 0)),
        lambda x: jnp.maximum(0.0, x),
        lambda x: jnp.where(x > 0, x, 0),
        lambda x: jnp.where(x <= 0, jnp.zeros_like(x), x),
        lambda x: jnp.clip(x, 0),
        lambda x: x * (x > 0),
    ],
    "tensorflow": [
        tf.nn.relu,
        lambda x: tf.maximum(x, 0.0),
        lambda x: tf.maximum(0.0, x),
        lambda x: tf.where(x > 0, x, tf.zeros_like(x)),
        lambda x: x * tf.cast(x > 0, x.dtype),
        tf.function(lambda x: tf.nn.relu(x)),
    ],
}


@pytest.mark.parametrize(
    ("kind", "place"), [(kind, place) for kind, spelled in SPELLINGS.items() for place in range(len(spelled))]
)
def test_every_spelling_of_relu_is_one(kind, place):
    make = {"modules": rulenets.torch_net, "nnx": rulenets.jax_net}.get(kind)
    relu = SPELLINGS[kind][place]
    model = rulenets.tensorflow_net("dense", relu) if make is None else make("dense", kind, relu)
    x = rulenets.inputs("dense")
    guided = xai.GuidedBackprop()(model, array(kind, x), target=TARGET)
    assert_close(guided.values, literal.backpropagated("dense", x, TARGET, True))
    assert len(guided.coverage["guided"]) == 2
    relevance = xai.LRP(rules=xai.rules.Gamma(0.3))(model, array(kind, x), target=TARGET)
    assert_close(relevance.values, literal.lrp("dense", x, TARGET, [literal.gamma(0.3)] * 3))
    lifted = xai.DeepLIFT(baseline=ruletable.baseline("dense"))(model, array(kind, x), target=TARGET)
    assert_close(lifted.values, literal.deep_lift("dense", x, ruletable.baseline("dense")[0], TARGET))


# Completeness


def complete(explanation, change, relative):
    total = sum(np.asarray(leaf, dtype=float).reshape(len(change), -1).sum(1) for leaf in leaves(explanation.values))
    # The residual says what is missing, and hardly anything is.
    assert_close(explanation.residual, np.zeros(len(change)), relative=relative * np.abs(change).max())
    assert_close(total, change, relative=2 * relative)


def leaves(values):
    return values if isinstance(values, tuple) else (values,)


def score(model, x):
    return np.asarray(model(*leaves(x)), dtype=float)[:, TARGET]


@pytest.mark.parametrize("kind", [*KINDS])
@pytest.mark.parametrize("net", ["pooled", "gated", "conv", "block", "vit"])
def test_deep_lift_is_complete(net, kind):
    start = moved(kind, ruletable.baseline(net))
    x = moved(kind, rulenets.inputs(net))
    model = made(net, kind)
    found = xai.DeepLIFT(baseline=start)(model, array(kind, x), target=TARGET)
    before = xai.DeepLIFT()(model, array(kind, start), target=TARGET).score
    complete(found, np.asarray(found.score, dtype=float) - np.asarray(before, dtype=float), 1e-5)


@pytest.mark.parametrize("net", ["pooled", "gated", "conv", "block", "vit"])
def test_deep_lift_is_complete_in_double_precision(net):
    start, x = (
        torch.from_numpy(moved("modules", a).copy()).double() for a in (ruletable.baseline(net), rulenets.inputs(net))
    )
    model = rulenets.torch_net(net, "functional").double()
    found = xai.DeepLIFT(baseline=start)(model, x, target=TARGET)
    assert found.values.dtype == torch.float64
    complete(found, score(model, x) - score(model, start), 1e-10)


def siamese(kind, first, second, out):
    """One trunk for two inputs; the features' product and difference, dense."""
    if kind == "modules":

        class Twins(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.trunk = torch.nn.Sequential(
                    torch.nn.Linear(5, 6), torch.nn.ReLU(inplace=True), torch.nn.Linear(6, 4)
                )
                self.trunk[0].weight.data = torch.from_numpy(first.T.copy())
                self.trunk[2].weight.data = torch.from_numpy(second.T.copy())

            def forward(self, a, b):
                a, b = self.trunk(a), self.trunk(b)
                return (a * b + torch.abs(a - b)) @ torch.from_numpy(out)

        return Twins().eval().requires_grad_(False)
    if kind == "nnx":
        from flax import nnx

        class Pair(nnx.Module):
            def __call__(self, a, b):
                a, b = (jax.nn.relu(x @ first + 0.1) @ second for x in (a, b))
                return (a * b + jnp.abs(a - b)) @ out

        return Pair()

    def both(a, b):
        a, b = (tf.nn.relu(x @ first + 0.1) @ second for x in (a, b))
        return (a * b + tf.abs(a - b)) @ out

    return tf.function(both)


@pytest.mark.parametrize("kind", FRAMEWORKS)
def test_a_siamese_net(kind):
    rng = np.random.default_rng(2)
    weights = [rng.normal(size=shape).astype("float32") for shape in ((5, 6), (6, 4), (4, 3))]
    model = siamese(kind, *weights)
    pair, start = (tuple(rng.normal(size=(3, 5)).astype("float32") for _ in range(2)) for _ in range(2))
    x, before = (tuple(array(kind, part) for part in each) for each in (pair, start))
    found = xai.DeepLIFT(baseline=before)(model, x, target=TARGET)
    assert isinstance(found.values, tuple)
    complete(found, score(model, x) - score(model, before), 1e-5)
    relevance = xai.LRP(rules="zero")(model, x, target=TARGET)
    assert all(part.shape == (3, 5) for part in relevance.values)


# Recurrence


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_recurrence_in_torch(cell):
    torch.manual_seed(0)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.out = getattr(torch.nn, cell)(4, 5, batch_first=True), torch.nn.Linear(5, 3)

        def forward(self, x):
            return self.out(self.cell(x)[0][:, -1])

    right_or_refused(Net().eval().double().requires_grad_(False), torch.randn(2, 6, 4).double(), cell.lower(), 1e-10)


@pytest.mark.parametrize("scanned", [True, False])
@pytest.mark.parametrize("cell", ["LSTMCell", "GRUCell"])
def test_recurrence_in_jax(cell, scanned):
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.cell, self.out = getattr(nnx, cell)(4, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)
            self.rnn = nnx.RNN(self.cell)

        def __call__(self, x):
            if scanned:
                return self.out(self.rnn(x)[:, -1])
            carry = self.cell.initialize_carry((x.shape[0], 4), nnx.Rngs(0))
            for step in range(x.shape[1]):
                carry, hidden = self.cell(carry, x[:, step])
            return self.out(hidden)

    x = jnp.asarray(np.random.default_rng(3).normal(size=(2, 6, 4)).astype("float32"))
    right_or_refused(Net(), x, "scan" if scanned else None, 1e-5)


def test_recurrence_in_tensorflow():
    kernel, inner = (tf.constant(np.random.default_rng(6).normal(size=(4, 4)).astype("float32")) for _ in range(2))

    @tf.function
    def looped(x):
        hidden = tf.zeros_like(x[:, 0])
        for step in tf.range(6):
            hidden = tf.tanh(x[:, step] @ kernel + hidden @ inner)
        return hidden

    x = tf.constant(np.random.default_rng(3).normal(size=(2, 6, 4)).astype("float32"))
    right_or_refused(looped, x, "While", 1e-5)


def right_or_refused(model, x, name, relative):
    """Complete, or refused by a name."""
    try:
        found = xai.DeepLIFT()(model, x, target=TARGET)
    except xai.UnsupportedOperation as error:
        assert name is not None, error
        assert name.lower() in str(error).lower()
    else:
        complete(found, score(model, x) - score(model, 0 * x), relative)


# Conservation, and what is finite


@pytest.mark.parametrize("kind", [*KINDS])
def test_relevance_is_conserved_without_biases(kind):
    x = array(kind, moved(kind, rulenets.inputs("plain")))
    found = xai.LRP()(made("plain", kind), x, target=TARGET)
    held = np.asarray(found.values, dtype=float).reshape(3, -1).sum(1)
    assert_close(held, np.asarray(found.score), relative=1e-4)
    assert_close(found.residual, np.zeros(3), relative=1e-4)


@pytest.mark.parametrize("kind", FRAMEWORKS)
def test_layers_hold_the_score(kind):
    model, x = made("plain", kind), array(kind, moved(kind, rulenets.inputs("plain")))
    lifted = xai.DeepLIFT()(model, x, target=TARGET)
    for explanation in (xai.LRP(rules="zero")(model, x, target=TARGET), lifted):
        held = xai.conservation(model, explanation)
        name = [path for path in held if path.startswith(("conv2", "Conv2D_1"))]
        assert name, list(held)
        for path in (*name, "score"):
            assert_close(held[path], np.asarray(lifted.score), relative=1e-4)


@pytest.mark.parametrize("kind", FRAMEWORKS)
@pytest.mark.parametrize("net", ["plain", "block"])
def test_finite_at_zero(net, kind):
    """Zero inputs; in the net without biases all values on the way are zero too."""
    model = made(net, kind)
    x = array(kind, moved(kind, 0 * rulenets.inputs(net)))
    methods = [xai.LRP(), xai.LRP(rules="zero"), xai.LRP(rules="epsilon_alpha2_beta1_flat"), xai.LRP(rules="gamma")]
    for explainer in (*methods, xai.DeepTaylor(), xai.DeepLIFT(), xai.ExcitationBackprop()):
        try:
            found = explainer(model, x, target=TARGET)
        except xai.InputDependenceError:
            continue
        assert np.isfinite(np.asarray(found.values)).all(), explainer


def halved(kind, net):
    if kind == "modules":
        return rulenets.torch_net(net, kind).half()
    if kind == "equinox":
        import equinox as eqx

        half = lambda leaf: leaf.astype(jnp.float16) if eqx.is_array(leaf) else leaf  # noqa: E731
        return jax.tree.map(half, rulenets.jax_net(net, kind))
    model = rulenets.tensorflow_net(net)
    for layer in model.layers.values():
        for name, array in layer.weights.items():
            layer.weights[name] = None if array is None else tf.Variable(tf.cast(array, tf.float16))
    return model


@pytest.mark.parametrize("kind", ["modules", "equinox", "tensorflow"])
@pytest.mark.parametrize("net", ["dense", "conv", "block"])
def test_half_precision(net, kind):
    model, x = halved(kind, net), moved(kind, rulenets.inputs(net))
    kinds = ["epsilon", "gamma"]
    if net != "block":  # where positive and negative products nearly cancel
        kinds += [xai.rules.AlphaBeta(2, 1), xai.rules.ZPlus(bias=False)]
    methods = [xai.LRP(rules=rules) for rules in kinds]
    for explainer in (*methods, xai.DeepLIFT()):
        found = explainer(model, array(kind, x.astype("float16")), target=TARGET)
        assert np.asarray(found.values).dtype == np.float16
        whole = explainer(made(net, kind), array(kind, x), target=TARGET)
        assert_close(found.values, whole.values, relative=2e-2)


# What is reported, and what is refused


@pytest.mark.parametrize("kind", FRAMEWORKS)
def test_coverage_and_graph_name_operations(kind, tmp_path):
    model, x = made("conv", kind), array(kind, moved(kind, rulenets.inputs("conv")))
    table = xai.graph(model, x)
    kinds = [step.kind for step in table]
    assert kinds.count("linear") == 4
    assert [step.name for step in table if step.kind == "activation"] == ["relu"] * 3
    assert {"max_pool", "add", "sum"} <= set(kinds)
    assert "relu" in repr(table)
    found = xai.LRP(rules=xai.rules.EpsilonPlusFlat())(model, x, target=TARGET)
    assert {rule: len(hit) for rule, hit in found.coverage.items() if rule in ("Flat", "ZPlus", "Epsilon")} == {
        "Flat": 1,
        "ZPlus": 2,
        "Epsilon": 1,
    }
    assert "relu" in found.coverage["pass"][0]
    found.save(tmp_path / "explanation.npz")
    assert xai.load(tmp_path / "explanation.npz").coverage == found.coverage


@pytest.mark.parametrize("kind", FRAMEWORKS)
def test_a_net_without_relu_is_refused(kind):
    x = array(kind, rulenets.inputs("block"))
    for explainer in (xai.GuidedBackprop(), xai.Deconvnet()):
        with pytest.raises(xai.CapabilityError, match="ReLU"):
            explainer(made("block", kind), x, target=TARGET)


class TorchSorter(torch.nn.Module):
    def forward(self, x):
        return torch.sort(x, dim=-1)[0]


def with_sort(kind):
    if kind == "modules":
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Linear(5, 6), TorchSorter(), torch.nn.ReLU(), torch.nn.Linear(6, 3)
        ).eval(), "1"
    if kind == "nnx":
        from flax import nnx

        class Sorter(nnx.Module):
            def __call__(self, x):
                return jnp.sort(x, axis=-1)

        rngs = nnx.Rngs(0)
        inner = nnx.Linear(5, 6, rngs=rngs), Sorter(), jax.nn.relu, nnx.Linear(6, 3, rngs=rngs)
        return nnx.Sequential(*inner), r"layers\[1\]"
    weight = tf.Variable(np.random.default_rng(0).normal(size=(5, 3)).astype("float32"))
    return lambda x: tf.sort(tf.nn.relu(x @ weight), axis=-1) ** 2.0, "sort"


@pytest.mark.parametrize("kind", FRAMEWORKS)
def test_an_unknown_operation_is_refused_by_name(kind):
    model, path = with_sort(kind)
    x = array(kind, rulenets.inputs("dense"))
    for method in (xai.LRP, xai.DeepLIFT, xai.GuidedBackprop):
        with pytest.raises(xai.UnsupportedOperation, match=f"(?i)(sort|topk).*{path}"):
            method()(model, x, target=TARGET)
        found = method(unsupported="gradient")(model, x, target=TARGET)
        assert any("sort" in label.lower() or "topk" in label.lower() for label in found.coverage["own derivative"])


# Composition


@pytest.mark.parametrize("kind", FRAMEWORKS)
def test_parts_of_a_model(kind):
    x = rulenets.inputs("dense")
    model, given = made("dense", kind), array(kind, x)
    names = {"modules": ("one", "two"), "nnx": ("one", "two")}.get(kind)
    if names is None:
        found = [row.name for row in xai.layers(model, given)]
        names = [name for name in found if "BiasAdd" in name or "bias" in name.lower()][:2]
        assert len(names) == 2, found
    layers = literal.layers_of("dense")
    wanted = []
    for sample in x:
        held = literal.values(layers, sample)
        start = literal.one_hot(3, TARGET, held[-1][TARGET])
        wanted.append(literal.relevance(layers[3:], held[3], start, [literal.epsilon(1e-6)]))
    found = xai.LRP(layer=names[1])(model, given, target=TARGET)
    assert_close(found.values, np.stack(wanted))
    neuron = xai.LRP(rules="zero", neuron=names[0])(model, given, target=3)
    weights, bias = layers[0].w, layers[0].b
    assert_close(neuron.values, x * weights[:, 3])
    assert_close(neuron.score, x @ weights[:, 3] + bias[3])


@pytest.mark.parametrize("kind", FRAMEWORKS)
def test_composition(kind):
    x = rulenets.inputs("dense")
    model, given = made("dense", kind), array(kind, x)
    for explainer in (xai.LRP(), xai.DeepLIFT(), xai.GuidedBackprop()):
        plain = explainer(model, given, target=TARGET)
        alone = explainer(xai.wrap(model, batch_size=1), given, target=TARGET)
        assert_close(alone.values, np.asarray(plain.values), relative=1e-6)
        assert_close(alone.score, np.asarray(plain.score), relative=1e-6)
        still = xai.SmoothGrad(explainer, samples=3, noise=0.0)(model, given, target=TARGET)
        assert_close(still.values, np.asarray(plain.values))
        if isinstance(explainer, xai.GuidedBackprop):
            continue  # locally constant
        noisy = xai.SmoothGrad(explainer, samples=3, noise=0.2)(model, given, target=TARGET, seed=1)
        assert not np.allclose(np.asarray(noisy.values), np.asarray(plain.values))


@pytest.mark.parametrize("kind", FRAMEWORKS)
def test_inputs_by_name(kind):
    model = made("dense", kind)
    parts = {
        "left": array(kind, rulenets.inputs("dense")[:, :2]),
        "right": array(kind, rulenets.inputs("dense")[:, 2:]),
    }

    class Joined(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model if kind == "modules" else None

        def forward(self, left, right):
            return self.inner(torch.cat([left, right], -1))

    joined = {
        "modules": Joined().eval() if kind == "modules" else None,
        "nnx": lambda x: model(jnp.concatenate([x["left"], x["right"]], -1)),
        "tensorflow": tf.function(lambda left, right: model(tf.concat([left, right], -1))),
    }[kind]
    for explainer in (xai.LRP(), xai.DeepLIFT(), xai.GuidedBackprop()):
        whole = explainer(model, array(kind, rulenets.inputs("dense")), target=TARGET)
        found = explainer(joined, parts, target=TARGET)
        assert set(found.values) == {"left", "right"}
        both = np.concatenate([np.asarray(found.values[name]) for name in ("left", "right")], 1)
        assert_close(both, np.asarray(whole.values))


@dataclasses.dataclass(frozen=True)
class Halves(xai.rules.Rule):
    """A user's rule: as `w_square`, half of it."""

    def __call__(self, op):
        weight = op.weight**2
        share = lambda total: op.relevance / total / 2  # noqa: E731
        ones = op.xp.ones_like(op.live[0])
        return [xai.rules.Message(amount=op.pull_function(lambda x: op.weighted(x, weight), ones, share))]


@pytest.mark.parametrize("kind", FRAMEWORKS)
def test_a_rule_of_ones_own(kind):
    x = rulenets.inputs("dense")
    found = xai.LRP(rules={"linear": Halves()})(made("dense", kind), array(kind, x), target=TARGET)
    wanted = literal.lrp("dense", x, TARGET, [lambda *a: literal.w_square(*a) / 2] * 3)
    assert_close(found.values, wanted, relative=1e-5)
    assert len(found.coverage["Halves"]) == 3


# What belongs to a linear operation


def two_layers(kind, first, bias, second, around):
    """Dense, `around` what comes of it, relu, dense."""
    if kind == "modules":

        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.bias, self.second = (
                    torch.nn.Parameter(torch.from_numpy(each.copy())) for each in (first, bias, second)
                )

            def forward(self, x):
                return torch.relu(around(x @ self.first + self.bias)) @ self.second

        return Net().eval().requires_grad_(False)
    if kind == "nnx":
        return lambda x: jax.nn.relu(around(x @ first + bias)) @ second
    weights = [tf.Variable(each) for each in (first, bias, second)]
    return lambda x: tf.nn.relu(around(x @ weights[0] + weights[1])) @ weights[2]


AROUND = {
    "product": (lambda z: z * 2.0, 2.0, 0.0),
    "quotient": (lambda z: z / 4.0, 0.25, 0.0),
    "sign": (lambda z: -z, -1.0, 0.0),
    "summand": (lambda z: z + 2.0, 1.0, 2.0),
    "all": (lambda z: 1.0 - (z - 2.0) * 3.0, -3.0, 7.0),
}


@pytest.mark.parametrize("kind", FRAMEWORKS)
@pytest.mark.parametrize("spelled", AROUND)
def test_numbers_belong_to_the_linear_operation_before_them(spelled, kind):
    around, factor, summand = AROUND[spelled]
    rng = np.random.default_rng(8)
    first, bias, second = (rng.normal(size=shape).astype("float32") for shape in ((5, 6), (6,), (6, 3)))
    x = array(kind, rulenets.inputs("dense"))
    model = two_layers(kind, first, bias, second, around)
    factor, summand = np.float32(factor), np.float32(summand)
    plain = two_layers(kind, first * factor, bias * factor + summand, second, lambda z: z)
    for explainer in (xai.LRP(rules="gamma"), xai.LRP(rules="alpha2_beta1"), xai.DeepLIFT(rule="reveal_cancel")):
        found, wanted = (explainer(each, x, target=TARGET) for each in (model, plain))
        assert_close(found.values, np.asarray(wanted.values), relative=2e-4)


# Choices that depend on the data


def chooser(kind, weights, choose):
    """Dense, dense, and what `choose(where, a, b)` makes of both; dense."""
    one, two, out = (array(kind, each) for each in weights)
    where = {"modules": torch.where, "nnx": jnp.where, "tensorflow": tf.where}[kind]

    def compute(x):
        return choose(where, x @ one, x @ two) @ out

    if kind == "modules":

        class Net(torch.nn.Module):
            def forward(self, x):
                return compute(x)

        return Net().eval()
    return compute


@pytest.mark.parametrize("kind", FRAMEWORKS)
def test_choices_of_the_data_are_complete_or_refused(kind):
    rng = np.random.default_rng(4)
    weights = [rng.normal(size=shape).astype("float32") for shape in ((5, 6), (5, 6), (6, 3))]
    x, start = (array(kind, rng.normal(size=(3, 5)).astype("float32")) for _ in range(2))
    larger = chooser(kind, weights, lambda where, a, b: where(a > b, a, b))
    found = xai.DeepLIFT(baseline=start)(larger, x, target=TARGET)
    complete(found, score(larger, x) - score(larger, start), 1e-5)
    assert found.coverage["winner"]
    for choose in (
        lambda where, a, b: where(a[:, :1] > 0, a, b),
        lambda where, a, b: a * where(b[:, :1] > 0, 1.0, 2.0) + b,
    ):
        model = chooser(kind, weights, choose)
        with pytest.raises(xai.UnsupportedOperation, match="the data decides"):
            xai.DeepLIFT(baseline=start)(model, x, target=TARGET)
        found = xai.DeepLIFT(baseline=start, unsupported="gradient")(model, x, target=TARGET)
        assert found.coverage["own derivative"]
        assert_close(xai.LRP(rules="zero")(model, x, target=TARGET).residual, np.zeros(3), relative=1e-4)


@pytest.mark.parametrize("kind", FRAMEWORKS)
def test_reveal_cancel_of_an_activation_with_weights(kind):
    rng = np.random.default_rng(6)
    first, bias, second = (rng.normal(size=shape).astype("float32") for shape in ((5, 6), (6,), (6, 3)))
    slope = array(kind, rng.uniform(0.1, 0.5, size=6).astype("float32"))
    where = {"modules": torch.where, "nnx": jnp.where, "tensorflow": tf.where}[kind]
    model = two_layers(kind, first, bias, second, lambda z: where(z > 0, z, slope * z) - 0.2)
    x, start = (array(kind, rng.normal(size=(3, 5)).astype("float32")) for _ in range(2))
    found = xai.DeepLIFT(baseline=start, rule="reveal_cancel")(model, x, target=TARGET)
    assert len(found.coverage["reveal-cancel"]) == 1
    complete(found, score(model, x) - score(model, start), 1e-5)


# Values that are not finite, or hardly


@pytest.mark.parametrize("kind", FRAMEWORKS)
def test_a_mask_of_infinities_before_softmax(kind):
    """Queries that are weights: the scores are linear in the data, but what masks them is no bias."""
    rng = np.random.default_rng(5)
    query, out = (rng.normal(size=shape).astype("float32") for shape in ((2, 6), (6, 3)))
    mask = np.asarray([0, -np.inf, 0, 0], dtype="float32")
    host = rng.normal(size=(3, 4, 6)).astype("float32")
    kept = mask == 0

    def attending(mask):
        query_, out_, mask_ = (array(kind, each) for each in (query, out, mask))
        softmax = {"modules": lambda a: a.softmax(-1), "nnx": jax.nn.softmax, "tensorflow": tf.nn.softmax}[kind]
        swap = {"modules": lambda a: a.mT, "nnx": lambda a: a.mT, "tensorflow": tf.linalg.matrix_transpose}[kind]
        total = {"modules": torch.sum, "nnx": jnp.sum, "tensorflow": tf.reduce_sum}[kind]
        return lambda x: total(softmax(query_ @ swap(x) + mask_) @ x, 1) @ out_

    for rules in ("epsilon", "gamma", "alpha2_beta1"):
        found = xai.LRP(rules=rules)(attending(mask), array(kind, host), target=TARGET)
        short = xai.LRP(rules=rules)(attending(mask[kept]), array(kind, host[:, kept]), target=TARGET)
        assert_close(np.asarray(found.values)[:, kept], np.asarray(short.values), relative=1e-4)
        assert not np.asarray(found.values)[:, ~kept].any()


@pytest.mark.parametrize("kind", FRAMEWORKS)
def test_halves_where_an_activation_of_zero_is_not_zero(kind):
    rng = np.random.default_rng(11)
    first, bias, second = (rng.normal(size=shape) for shape in ((5, 6), (6,), (6, 3)))
    sigmoid = {"modules": torch.sigmoid, "nnx": jax.nn.sigmoid, "tensorflow": tf.sigmoid}[kind]
    relu = {"modules": torch.relu, "nnx": jax.nn.relu, "tensorflow": tf.nn.relu}[kind]
    x = rng.normal(size=(3, 5))
    found = []
    for dtype in ("float16", "float32"):
        weights = [each.astype("float16").astype(dtype) for each in (first, bias, second)]
        model = two_layers(kind, *weights, lambda z: sigmoid(relu(z)))
        given = array(kind, x.astype("float16").astype(dtype))
        found.append(np.asarray(xai.LRP()(model, given, target=TARGET).values, dtype=float))
    assert_close(found[0], found[1], relative=2e-2)


@pytest.mark.parametrize("kind", FRAMEWORKS)
def test_reveal_cancel_of_halves(kind):
    """Batch norm of halves computes in single precision: casts lie between the linear operation and its activation."""
    rng = np.random.default_rng(12)
    first, bias, second = (rng.normal(size=shape).astype("float16") for shape in ((5, 6), (6,), (6, 3)))
    scale = array(kind, rng.uniform(0.5, 2, size=6).astype("float32"))

    def cast(z, dtype):
        if kind == "modules":
            return z.to(getattr(torch, dtype))
        return z.astype(dtype) if kind == "nnx" else tf.cast(z, dtype)

    x, found = rng.normal(size=(3, 5)).astype("float16"), []
    for dtype in ("float16", "float32"):
        weights = [each.astype(dtype) for each in (first, bias, second)]
        model = two_layers(kind, *weights, lambda z, dtype=dtype: cast(cast(z, "float32") * scale, dtype))
        explanation = xai.DeepLIFT(rule="reveal_cancel")(model, array(kind, x.astype(dtype)), target=TARGET)
        assert len(explanation.coverage["reveal-cancel"]) == 1
        found.append(np.asarray(explanation.values, dtype=float))
    assert_close(found[0], found[1], relative=2e-2)


# Names, and what users mistake


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("EpsilonPlusFlat", xai.rules.EpsilonPlusFlat()),
        ("epsilon-plus", xai.rules.EpsilonPlus()),
        ("z+", xai.rules.ZPlus()),
        ("flat", xai.rules.Flat()),
        ({"first": "w_square", "linear": "gamma"}, {"first": xai.rules.WSquare(), "linear": xai.rules.Gamma()}),
        ([("first", "flat")], {"first": xai.rules.Flat()}),
    ],
    ids=str,
)
def test_names_of_rules(given, meant):
    model, x = made("conv", "modules"), array("modules", moved("modules", rulenets.inputs("conv")))
    found, wanted = (xai.LRP(rules=rules)(model, x, target=TARGET) for rules in (given, meant))
    assert found.coverage == wanted.coverage
    assert_close(found.values, wanted.values)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: xai.LRP(rules="epslon"), "did you mean 'epsilon'"),
        (lambda: xai.LRP(rules=xai.rules.Gamma), "is a rule"),
        (lambda: xai.LRP(rules=["gamma"]), "pairs"),
        (lambda: xai.LRP(rules={"first": "flatt"}), "pairs"),
        (lambda: xai.rules.Gamma(-1.0), "`gamma` of Gamma"),
        (lambda: xai.rules.Epsilon(float("nan")), "`epsilon` of Epsilon"),
        (lambda: xai.rules.AlphaBeta("2", 1), "`alpha` of AlphaBeta"),
        (lambda: xai.rules.AlphaBeta(2, 0), "must be 1"),
        (lambda: xai.rules.ZBox(1, -1), "below"),
        (lambda: xai.rules.ZBox(np.zeros(3), np.ones(2)), "fit"),
        (lambda: xai.DeepTaylor(low="a", high=1), "numbers"),
        (lambda: xai.LRP(rules={"first": xai.rules.ZBox((0, 0, 0), 1)}), "must broadcast to a sample"),
        (lambda: xai.LRP(rules={"max_pool": xai.rules.Gamma()}), "which has none"),
        (lambda: xai.LRP(rules={"convolutions": xai.rules.Gamma()}), "'convolution'"),
    ],
)
def test_rules_that_do_not_fit_are_refused(make, problem):
    x = array("modules", moved("modules", rulenets.inputs("conv")))
    with pytest.raises((xai.OptionError, xai.UnknownNameError), match=problem):
        make()(made("conv", "modules"), x, target=TARGET)


@pytest.mark.parametrize(
    "rules", [xai.rules.EpsilonGammaBox(((-3,),), 4), {"conv1": xai.rules.Flat()}, xai.rules.Pass()]
)
def test_rules_are_saved(rules, tmp_path):
    kind = {"activation": rules} if isinstance(rules, xai.rules.Pass) else rules
    model, x = made("plain", "modules"), array("modules", moved("modules", rulenets.inputs("plain")))
    found = xai.LRP(rules=kind)(model, x, target=TARGET)
    found.save(tmp_path / "explanation.npz")
    assert xai.load(tmp_path / "explanation.npz").explainer == found.explainer


def test_nothing_flows_through_rounding():
    model = torch.nn.Linear(5, 4)
    rounded = lambda x: torch.round(model(x))  # noqa: E731
    for explainer in (xai.LRP(), xai.DeepLIFT()):
        with pytest.raises(xai.InputDependenceError, match="rounding"):
            explainer(rounded, array("modules", rulenets.inputs("dense")), target=TARGET)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torch_script_is_refused_by_name():
    x = array("modules", rulenets.inputs("dense"))
    scripted = torch.jit.trace(rulenets.torch_net("dense", "functional"), x)
    with pytest.raises(xai.CapabilityError, match="TorchScript"):
        xai.LRP()(scripted, x, target=TARGET)


def test_threads_that_trace_one_model():
    model, x = rulenets.torch_net("dense", "modules"), array("modules", rulenets.inputs("dense", 8))
    wanted = xai.LRP()(rulenets.torch_net("dense", "modules"), x, target=TARGET).values
    with futures.ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda rows: xai.LRP()(model, x[:rows], target=TARGET).values, range(1, 9)))
    for rows, values in enumerate(found, 1):
        assert_close(values, wanted[:rows])
