"""Layers of TensorFlow modules, functions and SavedModels: every operation, by the name that TensorFlow gives it."""

from __future__ import annotations

import cams
import literal
import mapnets
import numpy as np
import pytest
from frameworks import need

import xai_core as xai
from xai_core.testing import assert_close

need("tensorflow")

import tensorflow as tf

KINDS = ["module", "function", "nested", "saved"]


class Net(tf.Module):
    """The net of `mapnets`."""

    def __init__(self):
        super().__init__()
        self.held = {name: tf.Variable(array) for name, array in vars(mapnets.held()).items()}

    def __call__(self, x):
        with tf.name_scope("conv"):
            x = tf.nn.bias_add(tf.nn.conv2d(x, self.held["conv"], 1, "SAME"), self.held["shift"], name="out")
        x = tf.nn.conv2d(tf.nn.relu(x), self.held["second"], 1, "VALID", name="second")
        return tf.reduce_mean(tf.tanh(x), (1, 2)) @ self.held["out"] + self.held["bias"]


class Exported(tf.Module):
    """The same for any batch size, as it is saved."""

    def __init__(self):
        super().__init__()
        self.net = Net()

    @tf.function(input_signature=[tf.TensorSpec((None, *mapnets.SHAPE))])
    def __call__(self, x):
        return self.net(x)


def saved(folder):
    tf.saved_model.save(Exported(), str(folder))
    return tf.saved_model.load(str(folder))


def nested():
    """A function that calls a function that calls the module."""
    net = Net()

    @tf.function
    def whole(x):
        return tf.function(net.__call__)(x)

    return xai.wrap(lambda x: whole(x), backend="tensorflow")


def model_of(kind, folder):
    made = {
        "module": Net,
        "function": lambda: tf.function(Net().__call__),
        "nested": nested,
        "saved": lambda: saved(folder),
    }
    return made[kind]()


CONV = "conv/out"


@pytest.mark.parametrize("cam", cams.CAMS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("kind", ["module", "saved"])
def test_cam_equals_its_paper(cam, kind, tmp_path):
    x = tf.constant(mapnets.images())
    found = cam(layer=CONV)(model_of(kind, tmp_path), x, target=1)
    assert isinstance(found.values, tf.Tensor)
    assert_close(cams.as_maps(found.values, -1), cams.expected(cam, mapnets.images(), 1), relative=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_those_of_operations(kind, tmp_path):
    model, x = model_of(kind, tmp_path), tf.constant(mapnets.images(2))
    wanted = [
        ("conv/Conv2D", "Conv2D"),
        (CONV, "BiasAdd"),
        ("Relu", "Relu"),
        ("second", "Conv2D"),
        ("Tanh", "Tanh"),
        ("Mean", "Mean"),
        ("matmul", "MatMul"),
        ("add", "AddV2"),
        ("Identity", "Identity"),
    ]
    for _ in range(2):  # also when it was traced before
        table = xai.layers(model, x)
        assert [(row.name, row.operation) for row in table] == wanted
    assert [row.spatial for row in table] == [True] * 5 + [False] * 4
    assert table[1].given == ((1, *mapnets.SHAPE[:2], 4),)
    xai.Gradient()(model, x, target=0)
    assert [row.name for row in xai.layers(xai.wrap(model, batch_size=1), x)] == [name for name, _ in wanted]
    assert xai.GradCAM()(model, x, target=1).layer == "Tanh"


@pytest.mark.parametrize("kind", KINDS)
def test_read_edit_and_pull_back(kind, tmp_path):
    model, x = xai.wrap(model_of(kind, tmp_path)), mapnets.images(2)
    a = mapnets.at_conv(x)
    found = model.read(tf.constant(x), [CONV, "conv/Conv2D:input", "second:input"])
    assert_close(found[CONV], a)
    assert_close(found["conv/Conv2D:input"], x)
    assert_close(found["second:input"], np.maximum(a, 0))
    assert_close(model.edit(tf.constant(x), {CONV: lambda h: 2 * h}), mapnets.behind_conv(2 * a))
    assert_close(model.edit(tf.constant(x), {"conv/Conv2D:input": lambda h: 2 * h}), mapnets.scores(2 * x))
    with pytest.raises(xai.OptionError, match="shape"):
        model.edit(tf.constant(x), {CONV: lambda h: h[:, :1]})
    cotangent = np.array([[0, 1, 0], [0, 0, 2]], dtype="float32")
    behind = lambda flat: mapnets.behind_conv(flat.reshape(-1, *a.shape[1:]))  # noqa: E731
    slopes = literal.gradient(behind, a.reshape(2, -1), np.array([1, 2])).reshape(a.shape)
    assert_close(model.pullback(tf.constant(x), CONV, cotangent), slopes * np.array([1, 2])[:, None, None, None])


@pytest.mark.parametrize("kind", KINDS)
def test_attribution_at_a_layer_and_of_a_unit(kind, tmp_path):
    model, x = model_of(kind, tmp_path), mapnets.images(2)
    a = mapnets.at_conv(x)
    found = xai.IntegratedGradients(layer=CONV, steps=200)(model, x, target=2)
    assert isinstance(found.values, np.ndarray)
    change = mapnets.scores(x)[:, 2] - mapnets.scores(np.zeros_like(x))[:, 2]
    # Everything passes this layer, so the values add up to the change of the score.
    assert_close(found.values.sum((1, 2, 3)), change, relative=5e-3)
    unit = xai.Gradient(neuron=CONV)(model, x, target=(2, 3, 1))
    wanted = np.zeros((2, *mapnets.SHAPE))
    wanted[:, 1:4, 2:5] = mapnets.held().conv[..., 1]
    assert_close(unit.values, wanted)
    assert_close(unit.score, a[:, 2, 3, 1])


def test_unknown_layers_are_refused_by_name():
    x = tf.constant(mapnets.images(1))
    with pytest.raises(xai.LayerError, match="'conv/out'"):
        xai.GradCAM(layer="conv/uot")(Net(), x)
    with pytest.raises(xai.LayerError, match="called 1 times"):
        xai.GradCAM(layer="conv/out#2")(Net(), x)


def test_changed_variables_are_seen():
    net, x = Net(), tf.constant(mapnets.images(2))
    before = xai.wrap(net).read(x, [CONV])[CONV]
    net.held["shift"].assign_add(tf.ones(4))
    assert_close(xai.wrap(net).read(x, [CONV])[CONV], before + 1)
    net.held["conv"].assign(0 * net.held["conv"])
    assert not np.any(xai.Gradient(neuron=CONV)(net, x, target=(0, 0, 0)).values)


def test_a_function_that_is_called_twice_has_two_names():
    @tf.function
    def double(x):
        return tf.multiply(x, 2.0, name="twice")

    def model(x):
        return double(double(x) + 1.0)

    x = tf.constant(np.arange(6.0, dtype="float32").reshape(2, 3))
    names = [row.name for row in xai.layers(model, x)]
    assert [name for name in names if name.endswith("twice")] == ["PartitionedCall/twice", "PartitionedCall_1/twice"]
    found = xai.wrap(model).read(x, ["PartitionedCall/twice", "PartitionedCall_1/twice"])
    assert_close(found["PartitionedCall/twice"], 2 * x)
    assert_close(found["PartitionedCall_1/twice"], 4 * x + 2)


def test_operations_that_rules_take_apart_are_one_layer():
    def model(x):
        ones = tf.ones(3)
        x = tf.compat.v1.nn.fused_batch_norm(x, 2 * ones, ones, ones, 4 * ones, is_training=False, epsilon=0.0)[0]
        return tf.reduce_sum(tf.math.squared_difference(x, 1.0), (1, 2))

    x = mapnets.images(2)
    table = xai.layers(model, tf.constant(x))
    assert [row.operation for row in table] == ["FusedBatchNormV3", "SquaredDifference", "Sum", "Identity"]
    found = xai.wrap(model).read(tf.constant(x), [table[0].name, table[1].name])
    assert_close(found[table[0].name], x)
    assert_close(found[table[1].name], (x - 1) ** 2)


def test_token_ids_are_explained_at_their_embedding():
    table = tf.Variable(np.random.default_rng(0).normal(size=(7, 4)).astype("float32"))
    out = tf.constant(np.random.default_rng(1).normal(size=(4, 3)).astype("float32"))

    @tf.function
    def texts(ids, mask):
        words = tf.nn.embedding_lookup(table, ids, name="words")
        return tf.reduce_sum(tf.tanh(words) * tf.cast(mask, tf.float32)[:, :, None], 1) @ out

    ids = np.array([[4, 2, 6], [3, 5, 0]])
    mask = (ids > 0).astype("int64")
    explainer = xai.IntegratedGradients(layer="words", baseline={"ids": 0 * ids, "mask": mask}, steps=64)
    found = explainer(texts, {"ids": ids, "mask": mask}, target=1).values
    change = np.tanh(table.numpy()[ids]) - np.tanh(table.numpy()[0])
    assert_close(found, change * mask[:, :, None] * out.numpy()[:, 1], relative=1e-4)
    assert not np.any(found[1, 2])


def test_loops_and_branches_are_one_layer():
    def model(x):
        i, total = tf.constant(0), tf.zeros_like(x)
        for _ in tf.range(3):
            total = total + x * x
            i += 1
        return tf.cond(tf.reduce_sum(x) > 0, lambda: total, lambda: -total)

    x = tf.constant([[1.0, 2.0], [0.5, 1.0]])
    table = xai.layers(model, x)
    assert [row.operation for row in table if row.operation.startswith("Stateless")] == [
        "StatelessWhile",
        "StatelessIf",
    ]
    loop = next(row for row in table if row.operation == "StatelessWhile")
    place = next(part for part, shape in enumerate(loop.shapes) if shape == (1, 2))
    at_loop = xai.Gradient(layer=f"{loop.path}:output[{place}]")(model, x, target=1)
    assert_close(at_loop.values, np.array([[0.0, 1.0], [0.0, 1.0]]))


def test_operations_of_unknown_kind_are_refused_by_name():
    """Derivatives go through complex numbers and lists of tensors too, which have no floating dtype."""
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 3)).astype("float32"))

    def spectrum(x):
        return tf.abs(tf.signal.rfft(x)) @ tf.ones((2, 3))

    def listed(x):
        kept = tf.TensorArray(tf.float32, 2).write(0, x).write(1, 2.0 * x)
        return tf.reduce_sum(kept.stack(), 0)

    for model, name in ((spectrum, "RFFT"), (listed, "TensorListSetItem")):
        with pytest.raises(xai.UnsupportedOperation, match=name):
            xai.LRP()(model, x, target=0)
    own = xai.DeepLIFT(unsupported="gradient")(spectrum, x, target=0).values
    assert_close(own, xai.InputXGradient()(spectrum, x, target=0).values)


def test_a_variable_that_the_model_changes_is_refused():
    class Counting(tf.Module):
        def __init__(self, reads):
            super().__init__()
            self.count, self.reads = tf.Variable(0.0), reads

        def __call__(self, x):
            self.count.assign_add(1.0)
            return tf.tanh(x) * (self.count if self.reads else 2.0)

    x = tf.constant([[1.0, 2.0]])
    assert_close(xai.wrap(Counting(False)).read(x, ["Tanh"])["Tanh"], np.tanh(x))
    with pytest.raises(xai.CapabilityError, match="changed"):
        xai.wrap(Counting(True)).read(x, ["Tanh"])
