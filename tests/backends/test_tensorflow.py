"""TensorFlow: every kind of model, every method, every mistake."""

from __future__ import annotations

import numpy as np
import pytest
from bad import MISTAKES, Kit, check
from frameworks import need
from kinds import TENSORFLOW_KINDS, tensorflow_subject
from table import SEED, methods

import xai_core as xai
from xai_core.testing import BackendConformance, assert_close

need("tensorflow")

import tensorflow as tf
import xai_tensorflow.namespace as tnp


class TestConformance(BackendConformance):
    @pytest.fixture(params=TENSORFLOW_KINDS)
    def subject(self, request, tmp_path):
        return tensorflow_subject(request.param, folder=tmp_path)


class TestConformanceInDoublePrecision(BackendConformance):
    @pytest.fixture
    def subject(self):
        return tensorflow_subject("tf.Module", "float64")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", methods(), ids=str)
def test_method_equals_its_paper(method, dtype):
    subject = tensorflow_subject("tf.Module", dtype)
    x = subject.x.numpy().astype("float64")
    target = np.arange(len(x)) % 3
    found = method.explainer(subject.model, subject.x, target=target, seed=SEED)
    assert_close(found.values, method.oracle(subject.reference, x, target), relative=subject.relative, like=subject.x)


@pytest.mark.parametrize("row", MISTAKES, ids=lambda row: row[0])
def test_mistake_and_state_afterwards(row):
    _, error, words, call = row
    subject = tensorflow_subject("tf.Module")
    before = subject.state()
    kit = Kit(subject.model, tf.constant, lambda f: f, lambda x: tf.zeros((len(x), 3)), _Positional())
    check(kit, error, words, call)
    assert all(np.array_equal(a, b) for a, b in zip(before, subject.state(), strict=True))


class _Positional:
    """TensorFlow's namespace with an axis by position."""

    def __getattr__(self, name):
        return getattr(tnp, name)

    def argmax(self, x, axis):
        return tnp.argmax(x, axis=axis)


def test_changed_activations_constants_and_variables_are_read_again():
    class Net(tf.Module):
        def __init__(self):
            super().__init__()
            self.w = tf.Variable(np.eye(6, 3, dtype="float32"))
            self.scale, self.activation = 1.0, tf.tanh

        def __call__(self, x):
            return self.activation(x @ self.w) * self.scale

    net, x = Net(), tf.constant(np.random.default_rng(0).normal(size=(3, 6)).astype("float32"))

    def exact():
        with tf.GradientTape() as tape:
            tape.watch(x)
            score = tf.reduce_sum(net(x)[:, 0])
        return tape.gradient(score, x)

    def agree():
        assert_close(xai.Gradient()(net, x, target=0).values, exact())

    agree()
    net.w.assign(2 * net.w)
    agree()
    net.w = tf.Variable(3 * np.eye(6, 3, dtype="float32"))
    agree()
    net.scale = 4.0
    agree()
    net.activation = tf.sin
    agree()


def test_what_a_function_closes_over_is_read_again():
    scale = 2.0
    x = tf.constant(np.random.default_rng(0).normal(size=(3, 6)).astype("float32"))

    def net(x):
        return scale * x

    assert_close(xai.Gradient()(net, x, target=0).values, 2.0 * np.eye(6)[[0, 0, 0]])
    scale = 5.0
    assert_close(xai.Gradient()(net, x, target=0).values, 5.0 * np.eye(6)[[0, 0, 0]])


def test_models_inside_functions_are_read_again():
    class Net(tf.Module):
        def __init__(self):
            super().__init__()
            self.scale = 2.0

        def __call__(self, x):
            return self.scale * x

    net, x = Net(), tf.ones((3, 6))
    function = lambda x: net(x)[:, :2]  # noqa: E731
    assert_close(xai.Gradient()(function, x, target=0).values, 2.0 * np.eye(6)[[0, 0, 0]])
    net.scale = 5.0
    assert_close(xai.Gradient()(function, x, target=0).values, 5.0 * np.eye(6)[[0, 0, 0]])


def test_a_stopped_gradient_is_refused():
    with pytest.raises(xai.InputDependenceError):
        xai.Gradient()(lambda x: tf.stop_gradient(x) * 2, tf.ones((2, 6)))


def test_plain_functions_may_branch_on_tensors():
    def net(x):
        if tf.reduce_sum(x) > 0:
            return x * 2
        return x * 3

    assert_close(xai.Gradient()(net, tf.ones((2, 3)), target=0).values, 2 * np.eye(3)[[0, 0]])
    assert_close(xai.Gradient()(net, -tf.ones((2, 3)), target=0).values, 3 * np.eye(3)[[0, 0]])


def test_an_object_that_can_not_be_called_is_refused(tmp_path):
    net = tf.Module()
    net.v = tf.Variable(1.0)
    tf.saved_model.save(net, str(tmp_path))
    with pytest.raises(xai.ModelError):
        xai.Gradient()(tf.saved_model.load(str(tmp_path)), tf.ones((2, 6)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_come_back_as_halves_and_sum_in_single_precision(dtype):
    w = np.random.default_rng(1).normal(size=(6, 3)).astype("float32")
    net = lambda x: tf.tanh(x @ tf.cast(w, x.dtype))  # noqa: E731
    x = tf.constant(np.random.default_rng(0).normal(size=(4, 6)).astype("float32"))
    explainer = xai.IntegratedGradients(steps=300, quadrature="riemann_middle")
    exact = explainer(net, x, target=0).values
    found = explainer(net, tf.cast(x, dtype), target=0)
    assert found.values.dtype == tf.as_dtype(dtype)
    assert_close(tf.cast(found.values, "float32"), exact, relative=3e-2)


def test_many_shapes_cause_no_warning_of_retracing():
    import logging

    class Warnings(logging.Handler):
        def __init__(self):
            super().__init__(logging.WARNING)
            self.seen = []

        def emit(self, record):
            self.seen.append(record.getMessage())

    logger, handler = logging.getLogger("tensorflow"), Warnings()
    logger.addHandler(handler)
    try:
        for rows in range(1, 12):
            xai.Gradient()(lambda x: tf.tanh(x), tf.random.normal((rows, 3)), target=0)
            xai.Gradient()(tf.tanh, tf.random.normal((rows, 3)), target=0)
    finally:
        logger.removeHandler(handler)
    assert not handler.seen


def test_compiled_code_is_told_apart_by_the_structure_of_its_arguments():
    """What was traced is called itself, and would refuse other lists of the same arrays."""
    from xai_tensorflow import backend

    compiled = backend.compile(lambda some, others: {"count": len(some), "sum": tf.reduce_sum(others["x"][0])})
    x = tf.ones(3)
    for some, others in (([x], [x, x]), ([x, x], [x]), ([x], [x, 2 * x])):
        found = compiled(some, {"x": others})
        assert (int(found["count"]), float(found["sum"])) == (len(some), 3.0)
