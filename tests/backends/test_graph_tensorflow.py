"""TensorFlow models as graphs of operations: they compute what the model computes, and say what each operation is."""

from __future__ import annotations

import os
from functools import partial

import numpy as np
import pytest
from frameworks import need

from xai_core.graph import KINDS
from xai_core.layers import Layer
from xai_core.structure import flatten
from xai_core.testing import assert_close

need("tensorflow", "keras")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import tensorflow as tf
import xai_tensorflow.namespace as namespace
from xai_keras import _watched_run, layer_paths
from xai_tensorflow.graph import follow, traced, traced_by_operation

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras computes with another framework")


def numbers(*shape, dtype="float32", seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape).astype(dtype))


def same(raw):
    return raw


def plain(function):
    """`marked` of a function without layers."""
    return lambda params, x, around: function(x)


def layered(model):
    return partial(_watched_run, layer_paths(model), lambda params, x: model(x, training=False))


def execute(graph, leaves, values=None):
    values = {} if values is None else values
    values.update(graph.constants)
    values.update(zip(graph.inputs, leaves, strict=True))
    for node in graph.nodes:
        made = node.run(*(values[number] for number in node.inputs))
        values.update(zip(node.outputs, made, strict=True))
    return values[graph.output]


def slopes(function, leaves):
    """Value, and the gradient of a sum with unequal weights."""
    moving = [leaf for leaf in leaves if leaf.dtype.is_floating]
    with tf.GradientTape() as tape:
        tape.watch(moving)
        value = function(leaves)
        weights = tf.reshape(tf.cast(tf.range(tf.size(value)) + 1, value.dtype), value.shape)
        total = tf.reduce_sum(value * weights)
    return value, tape.gradient(total, moving)


def check(marked, x, relative=1e-6, slope=1e-5):
    """The graph of a model, which computes what the model does, at once and inside `tf.function`."""
    graph = traced(marked)((), x, same)
    leaves, structure = flatten(x)

    def around(path, operation, compute, given):
        return compute(given)

    own = lambda arrays: marked((), structure.rebuild(arrays), around)  # noqa: E731
    wanted, gradients = slopes(own, leaves)
    for run in (slopes, tf.function(slopes, autograph=False)):
        found, others = run(partial(execute, graph), leaves)
        assert_close(found, wanted, relative=relative)
        for a, b in zip(others, gradients, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                assert_close(tf.convert_to_tensor(a), tf.convert_to_tensor(b), relative=slope)
    values = {}
    execute(graph, leaves, values)
    for number, value in values.items():
        if graph.dtypes[number] not in ("resource", "variant"):
            assert graph.dtypes[number] == value.dtype.name
            known = zip(graph.shapes[number], tuple(value.shape), strict=True)
            assert all(size in (-1, actual) for size, actual in known)
        if number in graph.numbers:
            assert np.allclose(value, graph.numbers[number])
    assert all(node.kind in KINDS for node in graph.nodes)
    return graph


def kinds(graph, *names):
    return {node.kind for node in graph.nodes if not names or node.name in names}


def image_net():
    layers = keras.layers
    x = keras.Input((12, 12, 3))
    h = layers.Conv2D(8, 3, strides=2, padding="same", name="conv")(x)
    h = layers.BatchNormalization()(h)
    h = layers.Activation("gelu", name="gelu")(h)
    h = layers.LayerNormalization()(h)
    h = layers.DepthwiseConv2D(3, depth_multiplier=2)(h)
    h = layers.ReLU(6.0)(layers.Conv2DTranspose(4, 3)(h))
    h = layers.AveragePooling2D(2, padding="same")(layers.MaxPooling2D(2)(h))
    h = layers.UpSampling2D(interpolation="bilinear")(h)
    h = layers.Dense(6, activation="silu")(layers.Flatten()(h))
    return keras.Model(x, layers.Dense(5, activation="softmax", name="out")(h))


def test_keras_net_with_its_layers():
    keras.utils.set_random_seed(0)
    model, x = image_net(), numbers(2, 12, 12, 3)
    graph = check(layered(model), x)
    assert not kinds(graph) & {"unknown", "control"}
    assert {node.kind for node in graph.nodes if node.path == "conv"} == {"mark", "structure", "contraction", "add"}
    values = {}
    execute(graph, [x], values)
    part = keras.Model(model.inputs, [model.get_layer("conv").output, model.get_layer("gelu").output])
    conv, gelu = part(x)
    assert_close(values[graph.layers[Layer("conv", 1, "input")]], x)
    assert_close(values[graph.layers[Layer("conv", 1)]], conv)
    assert_close(values[graph.layers[Layer("gelu", 1)]], gelu)
    assert all("test_graph_tensorflow.py" in node.source for node in graph.nodes if node.kind == "contraction")


@pytest.mark.parametrize("name", ["MobileNetV3Small", "EfficientNetV2B0", "ResNet50V2"])
def test_keras_applications(name):
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, input_shape=(32, 32, 3), classes=10)
    graph = check(layered(model), numbers(2, 32, 32, 3), relative=1e-5, slope=1e-4)
    assert not kinds(graph) & {"unknown", "control"}


def test_attention_and_masks():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    ids = keras.Input((6,), dtype="int32")
    h = layers.Embedding(9, 8, mask_zero=True, name="words")(ids)
    h = layers.LayerNormalization()(h + layers.MultiHeadAttention(2, 4)(h, h))
    inner_in = keras.Input((6, 8))
    inner = keras.Model(inner_in, layers.GlobalAveragePooling1D()(layers.Dense(4)(inner_in)))
    model = keras.Model(ids, layers.Dense(3)(inner(h)))
    x = tf.constant([[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 0]])
    graph = check(layered(model), x)
    words = graph.layers[Layer("words", 1)]
    behind = [node for node in graph.nodes if node.outputs[0] > words]
    assert not {node.kind for node in behind} & {"unknown", "control"}


@pytest.mark.parametrize("unroll", [False, True])
def test_recurrent_net(unroll):
    keras.utils.set_random_seed(0)
    x = keras.Input((5, 4))
    h = keras.layers.Bidirectional(keras.layers.LSTM(3, return_sequences=True, unroll=unroll))(x)
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.GRU(3, unroll=unroll)(h)))
    graph = check(layered(model), numbers(2, 5, 4))
    assert ("control" in kinds(graph)) is not unroll


class Dense(tf.Module):
    def __init__(self, dtype="float32"):
        super().__init__()
        self.weight = tf.Variable(numbers(4, 3, dtype=dtype, seed=1))
        self.bias = tf.Variable(numbers(3, dtype=dtype, seed=2))

    @tf.function
    def head(self, x):
        return tf.nn.softmax(x)

    def __call__(self, x):
        return self.head(tf.nn.relu(x @ self.weight) + self.bias)


@pytest.mark.parametrize(("dtype", "relative", "slope"), [("float32", 1e-6, 1e-5), ("float64", 1e-12, 1e-10)])
def test_module_and_nested_functions(dtype, relative, slope):
    model, x = Dense(dtype), numbers(2, 4, dtype=dtype)
    graph = check(plain(tf.function(lambda x: tf.function(model)(x))), x, relative, slope)
    assert kinds(graph) == {"structure", "contraction", "elementwise", "add", "softmax"}
    # Variables are read when the graph runs.
    model.bias.assign([5.0, 0.0, -5.0])
    assert_close(execute(graph, [x]), model(x), relative=1e-6)


def test_saved_model(tmp_path):
    class Exported(tf.Module):
        def __init__(self):
            super().__init__()
            self.kernel = tf.Variable(numbers(3, 3, 3, 4))

        @tf.function(input_signature=[tf.TensorSpec((None, 6, 6, 3))])
        def __call__(self, x):
            x = tf.nn.silu(tf.nn.conv2d(x, self.kernel, 2, "SAME"))
            x = tf.reshape(x, (tf.shape(x)[0], -1))
            return tf.reshape(x, (-1, 6, 6)) @ tf.ones((6, 2)) + tf.zeros((tf.shape(x)[0], 1, 1))

    tf.saved_model.save(Exported(), str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    graph = check(plain(loaded), numbers(2, 6, 6, 3))
    # Shapes are those of the inputs at hand, though it was saved for any batch size.
    assert not any(-1 in shape for shape in graph.shapes.values())
    assert not kinds(graph) & {"unknown", "control"}


@pytest.mark.parametrize(
    "x", [(numbers(2, 4), numbers(2, 4, seed=3)), {"b": numbers(2, 4), "a": numbers(2, 4, seed=3)}]
)
def test_several_inputs_and_picked_scores(x):
    def model(x):
        first, second = x.values() if isinstance(x, dict) else x
        return {"scores": first * tf.exp(second), "rest": first}

    graph = traced(plain(model))((), x, lambda raw: raw["scores"])
    leaves = flatten(x)[0]
    assert_close(execute(graph, leaves), leaves[0] * tf.exp(leaves[1]))
    assert len(graph.inputs) == 2


def test_loops_and_branches():
    weight = tf.Variable(numbers(3, 3))

    def model(x):
        kept = tf.TensorArray(tf.float32, 3)
        for i in range(3):
            kept = kept.write(i, x * float(i))
        h = tf.transpose(kept.stack(), (1, 0, 2))
        i = tf.constant(0)
        h = tf.while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, tf.tanh(h @ weight)), (i, h))[1]
        h = tf.cond(tf.reduce_sum(x) > 0, lambda: h * 2, lambda: h @ weight)
        return tf.switch_case(tf.cast(x[0, 0] > 0, tf.int32), [lambda: h, lambda: tf.square(h)])

    for sign in (1.0, -1.0):
        graph = check(plain(model), sign * tf.abs(numbers(2, 3)))
        assert {node.kind for node in graph.nodes if node.name in ("While", "StatelessWhile", "If", "StatelessIf")} == {
            "control"
        }


def test_derivatives_of_the_user_are_kept(tmp_path):
    @tf.custom_gradient
    def strange(x):
        held = tf.sin(x)
        return held * 2.0, lambda g: g * held * 5.0

    class Strange(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 3))])
        def __call__(self, x):
            return tf.nn.silu(strange(x * 2.0))

    model, x = Strange(), numbers(2, 3)
    tf.saved_model.save(model, str(tmp_path))
    for kept in (model, tf.saved_model.load(str(tmp_path))):
        graph = check(plain(kept), x)
        assert [node.kind for node in graph.nodes if node.name == "IdentityN"] == ["unknown", "structure"]


def test_layers_inside_and_outside_of_loops_are_not_confused():
    dense = keras.layers.Dense(3, name="dense")

    class Looping(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.last = dense, keras.layers.Dense(3, name="last")

        def call(self, x):
            return self.last(
                self.dense(tf.while_loop(lambda h: tf.reduce_sum(h) < 9, lambda h: (self.dense(h) + 4,), (x,))[0])
            )

    model, x = Looping(), numbers(2, 3)
    model(x)
    graph = traced(layered(model))((), x, same)
    assert_close(execute(graph, [x]), model(x))
    assert {layer.path for layer in graph.layers} == {"last"}


def test_nothing_belongs_to_the_trace():
    held = {}

    @tf.function
    def outer(x):
        held["graph"] = traced(plain(lambda x: tf.maximum(x, 0.0) * tf.reshape(numbers(300), (100, 3))[:1]))(
            (), x, same
        )
        return execute(held["graph"], [x])

    x = numbers(2, 3)
    assert_close(execute(held["graph"], [x]) if held else outer(x), outer(x))
    assert_close(execute(held["graph"], [x]), outer(x))


CONTRACTIONS = {
    "conv": lambda x, w: tf.nn.conv2d(x, w, 2, "SAME"),
    "transposed": lambda x, w: tf.nn.conv2d_transpose(x, tf.transpose(w, (0, 1, 3, 2)), (2, 10, 10, 6), 2),
    "depthwise": lambda x, w: tf.nn.depthwise_conv2d(x, w[..., :2], (1, 1, 1, 1), "SAME"),
    "one": lambda x, w: tf.nn.conv1d(x[:, 0], w[0], 1, "SAME"),
    "three": lambda x, w: tf.nn.conv3d(x[..., None, :], w[:, :, None], (1, 1, 1, 1, 1), "SAME"),
    "dense": lambda x, w: tf.reshape(x, (-1, 4)) @ w[0, 0],
    "turned": lambda x, w: tf.matmul(w[0, 0], tf.reshape(x, (-1, 4)), transpose_a=True, transpose_b=True),
    "batched": lambda x, w: tf.matmul(x, tf.transpose(w, (0, 1, 3, 2))[:1, :1], transpose_b=True),
    "einsum": lambda x, w: tf.einsum("bhwc,ijco->bohi", x, w),
    "ellipsis": lambda x, w: tf.einsum("...c,co->o...", x, w[0, 0]),
    "uneven": lambda x, w: tf.einsum("...c,...co->...o", x[0], tf.tile(w[0, :1], (5, 1, 1))),
    "both": lambda x, w: tf.einsum("b...c,...co->b...o", x, w[:1, :1]),
}


@pytest.mark.parametrize("name", CONTRACTIONS)
def test_contractions_can_be_scaled(name):
    x, w = numbers(2, 5, 5, 4, dtype="float64"), numbers(3, 3, 4, 6, dtype="float64", seed=1)
    graph = check(plain(lambda x: CONTRACTIONS[name](x["x"], x["w"])), {"x": x, "w": w}, 1e-12, 1e-10)
    (node,) = [node for node in graph.nodes if node.kind == "contraction"]
    values = {}
    execute(graph, [x, w], values)
    given = [values[number] for number in node.inputs]
    (plain_result,) = node.run(*given)
    rank = len(plain_result.shape)
    assert node.facts["varies"][1]
    for place, axes in node.facts["varies"].items():
        sizes = [int(plain_result.shape[o]) if o in axes else 1 for o in range(rank)]
        factor = numbers(*sizes, dtype="float64", seed=5)
        changed = list(given)
        changed[place] = node.facts["scaled"][place](namespace, given[place], factor)
        assert changed[place].shape == given[place].shape
        assert_close(node.run(*changed)[0], plain_result * factor, relative=1e-12)
    # Bilinear in these two.
    doubled = node.run(2 * given[0], 3 * given[1], *given[2:])[0]
    assert_close(doubled, 6 * plain_result, relative=1e-12)


def test_batch_norm_is_spelled_out():
    ones = tf.ones(3)

    def norm(x, training=False):
        return tf.compat.v1.nn.fused_batch_norm(
            x, 2 * ones, numbers(3), numbers(3, seed=1), 4 * ones, epsilon=0.1, is_training=training
        )[0]

    x = numbers(2, 4, 4, 3)
    graph = check(plain(norm), x, relative=1e-6)
    moving = [node.kind for node in graph.nodes if node.name.startswith("FusedBatchNorm")][2:]
    assert moving == ["multiply", "add"]
    half = check(plain(norm), tf.cast(x, tf.float16), relative=1e-2, slope=1e-2)
    assert [node.kind for node in half.nodes][-4:] == ["structure", "multiply", "add", "structure"]
    trained = traced(plain(lambda x: norm(x, True)))((), x, same)
    assert "unknown" in kinds(trained, "FusedBatchNormV3")


KINDS_OF = {
    "AddN": (lambda x: tf.add_n([x, x, 2 * x]), {"add"}),
    "SquaredDifference": (lambda x: tf.math.squared_difference(x, 1.0), {"subtract", "multiply"}),
    "BiasAdd": (lambda x: tf.nn.bias_add(x, tf.ones(3)), {"add"}),
    "Cast": (lambda x: tf.cast(tf.cast(x, tf.float64), tf.float32), {"structure"}),
    "Round": (lambda x: tf.round(x) * x, {"cut"}),
    "Greater": (lambda x: tf.where(x > 0, x, 2 * x), {"cut"}),
    "SelectV2": (lambda x: tf.where(x > 0, x, 2 * x), {"select"}),
    "Sum": (lambda x: tf.reduce_sum(x, -1, keepdims=True) * x, {"sum"}),
    "Max": (lambda x: tf.reduce_max(x, 1), {"max_pool"}),
    "Min": (lambda x: tf.reduce_min(x, 1), {"min_pool"}),
    "Prod": (lambda x: tf.reduce_prod(x, 1), {"unknown"}),
    "StopGradient": (lambda x: tf.stop_gradient(x) * x, {"stop"}),
    "LogSoftmax": (lambda x: tf.nn.log_softmax(x), {"log_softmax"}),
    "Pow": (lambda x: tf.pow(tf.abs(x), 1.5), {"elementwise"}),
    "GatherNd": (lambda x: tf.gather_nd(x, [[1], [0]]), {"structure"}),
    "GatherV2": (lambda x: tf.gather(x, tf.argmax(x[:, 0, 0]), axis=2) * x[..., 0], {"unknown"}),
    "ArgMax": (lambda x: tf.gather(x, tf.argmax(x[:, 0, 0]), axis=2) * x[..., 0], {"cut"}),
    "TopKV2": (lambda x: tf.math.top_k(x, 2)[0], {"unknown"}),
    "RFFT": (lambda x: tf.abs(tf.signal.rfft(x)), {"unknown"}),
    "ComplexAbs": (lambda x: tf.abs(tf.signal.rfft(x)), {"unknown"}),
    "Einsum": (lambda x: tf.einsum("bii->b", x[:, :3] @ tf.ones((3, 3))), {"unknown"}),
    "MaxPoolWithArgmax": (lambda x: tf.nn.max_pool_with_argmax(x[:, None], 1, 1, "SAME")[0], {"unknown"}),
    "OneHot": (lambda x: tf.one_hot(tf.argmax(x, -1), 3) * x, {"cut"}),
    "ResizeBilinear": (lambda x: tf.image.resize(x[..., None], (5, 5)), {"sum"}),
    "ResizeNearestNeighbor": (lambda x: tf.image.resize(x[..., None], (5, 5), "nearest"), {"structure"}),
    "Shape": (lambda x: tf.reshape(x, tf.reverse(tf.raw_ops.Shape(input=x), [0])), {"cut"}),
}


@pytest.mark.parametrize("name", KINDS_OF)
def test_what_operations_are(name):
    function, wanted = KINDS_OF[name]
    graph = check(plain(function), numbers(2, 3, 3))
    assert kinds(graph, name) == wanted


def test_powers_of_both_operands_are_unknown():
    graph = traced(plain(lambda x: tf.pow(tf.abs(x), x)))((), numbers(2, 3), same)
    assert kinds(graph, "Pow") == {"unknown"}
    graph = traced(plain(lambda x: tf.pow(tf.abs(x)[:, :1], tf.ones((1, 3)))))((), numbers(2, 3), same)
    assert kinds(graph, "Pow") == {"unknown"}  # makes more elements than it is given


def test_facts_of_structure():
    def model(x):
        x = tf.transpose(tf.cast(x, tf.float64), (0, 2, 1))
        return tf.broadcast_to(tf.reshape(x, (2, 1, 6)), (3, 2, 4, 6))

    facts = {node.name: node.facts for node in check(plain(model), numbers(2, 2, 3)).nodes}
    assert facts["Cast"] == {"cast": True}
    assert facts["Transpose"] == {"permutation": (0, 2, 1)}
    assert facts["Reshape"] == {"reshape": True}
    assert facts["BroadcastTo"] == {"axes": {0: 1, 1: 2, 2: 3}}


def test_known_numbers():
    def model(x):
        return tf.maximum(x, 0.0) + tf.fill((2, 3), 2.5) * tf.ones_like(x) + tf.constant([[1.0, 2.0, 3.0]])

    graph = check(plain(model), numbers(2, 3))
    (largest,) = [node for node in graph.nodes if node.kind == "maximum"]
    assert graph.numbers[largest.inputs[1]] == 0.0
    assert {graph.numbers.get(number) for node in graph.nodes if node.kind == "multiply" for number in node.inputs} == {
        2.5,
        1.0,
    }
    last = graph.nodes[-2] if graph.nodes[-1].name == "Identity" else graph.nodes[-1]
    assert not set(last.inputs) & set(graph.numbers)


@pytest.mark.parametrize("again", [False, True])
def test_operations_as_layers_of_the_graph(again):
    """Also of a function that runs them one by one as layers."""
    model, x = Dense(), numbers(2, 4)
    apply = lambda params, x: model(x)  # noqa: E731
    graph = traced(follow(apply))((), x, same) if again else traced_by_operation(apply)((), x, same)
    values = {}
    assert_close(execute(graph, [x]), model(x))
    execute(graph, [x], values)
    assert_close(values[graph.layers[Layer("Relu", 1)]], tf.nn.relu(x @ model.weight))
    assert {node.path for node in graph.nodes if node.kind == "softmax"} == {"PartitionedCall/Softmax"}
