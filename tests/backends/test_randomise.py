"""Random weights in chosen layers: the same numbers in every framework, and the user's model as it was."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import randomcases
import rulenets
from frameworks import need

import xai_core as xai
from xai_core.randomise import randomised, weighted_layers
from xai_core.testing import assert_close
from xai_core.weights import Weight, kind_of, natives

need("torch", "jax", "flax", "haiku", "equinox", "tensorflow")

import jax
import jax.numpy as jnp
import tensorflow as tf
import torch

HOST = rulenets.inputs("even")
FIRST = HOST.transpose(0, 3, 1, 2).copy()


def model_and_input(kind):
    if kind.startswith("torch"):
        return rulenets.torch_net("even", "modules"), torch.from_numpy(FIRST)
    if kind == "tensorflow":
        return rulenets.tensorflow_net("even"), tf.constant(HOST)
    if kind == "function":
        function, params = rulenets.function_of_layers("even")
        return xai.wrap(jax.jit(function), params=params), jnp.asarray(HOST)
    return rulenets.jax_net("even", kind), jnp.asarray(FIRST if kind == "equinox" else HOST)


def state_of(kind, model):
    if kind == "torch":
        return lambda: [
            *(value.clone() for value in model.state_dict().values()),
            *(np.asarray(p.requires_grad) for p in model.parameters()),
            torch.get_rng_state(),
        ]
    if kind == "tensorflow":
        return lambda: [variable.numpy() for variable in model.variables]
    if kind == "nnx":
        from flax import nnx

        return lambda: [np.array(leaf) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param, nnx.BatchStat))]
    held = model.params if isinstance(model, xai.Model) else model
    return lambda: [np.array(leaf) for leaf in jax.tree.leaves(held)]


KINDS = ["torch", "nnx", "linen", "haiku", "equinox", "function", "tensorflow"]
NAMED = {"equinox": "layers.{}", "tensorflow": "layers/{}/weights"}
CAM = {"torch": "conv2", "nnx": "conv2", "linen": "conv2", "haiku": "conv2", "equinox": "layers.conv2"}


@pytest.mark.parametrize("kind", KINDS)
def test_random_weights(kind):
    model, x = model_and_input(kind)
    named = NAMED.get(kind, "{}").format
    cam = next(row.name for row in xai.layers(model, x) if row.spatial) if kind == "tensorflow" else CAM.get(kind)
    randomcases.check(model, x, named, state_of(kind, model), cam)


def names_of(model, x):
    return [(weight.path, weight.name, weight.kind) for weight in randomcases.weights_of(xai.wrap(model).adapted, x)]


# PyTorch


def test_shared_parameters_stay_shared():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.head = torch.nn.Embedding(7, 4), torch.nn.Linear(4, 7, bias=False)
            self.head.weight = self.tokens.weight
            self.start = torch.nn.Parameter(torch.ones(1, 4))

        def forward(self, x):
            return self.head(self.tokens(x).mean(1) + self.start)

    model, x = Net(), torch.arange(6).reshape(2, 3)
    assert weighted_layers(model, x) == ("", "tokens")
    assert names_of(model, x) == [("", "start", "kernel"), ("tokens", "weight", "kernel")]
    found = randomised(model, x, ["tokens"])
    copied = found.adapted.anchor
    assert copied.head.weight is copied.tokens.weight
    assert torch.equal(copied.start, model.start)
    assert copied.start is not model.start
    assert not torch.allclose(copied.head.weight, model.head.weight)


def test_weights_that_no_layer_holds_belong_to_what_is_around():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.out = torch.nn.Linear(4, 2)  # called last
            self.attention = torch.nn.MultiheadAttention(4, 2, batch_first=True)
            self.unused = torch.nn.ParameterDict({"first": torch.nn.Parameter(torch.ones(4, 4))})
            self.norm = torch.nn.BatchNorm1d(4, affine=False)
            self.eval()

        def forward(self, x):
            return self.out(self.norm(self.attention(x, x, x)[0].mean(1) @ self.unused["first"]))

    model, x = Net(), torch.randn(2, 3, 4)
    # A norm without weights holds nothing, and fused attention does not call its last layer.
    assert weighted_layers(model, x) == ("unused", "attention", "out")
    found = randomised(model, x, ["attention"]).adapted.anchor.attention
    assert not torch.allclose(found.in_proj_weight, model.attention.in_proj_weight)
    assert not torch.allclose(found.out_proj.weight, model.attention.out_proj.weight)
    assert torch.all(found.out_proj.bias == 0)


class Scaled(torch.nn.Module):
    def __init__(self, **parts):
        super().__init__()
        self.inner = torch.nn.Linear(3, 3)
        self.out = torch.nn.Linear(3, 2)
        for name, part in parts.items():
            setattr(self, name, part(self))

    def forward(self, x):
        return self.out(getattr(self, "function", self.inner)(x))


def test_modules_of_which_a_copy_would_be_wrong_are_refused():
    x = torch.randn(2, 3)
    with pytest.raises(xai.CapabilityError, match="refers to a part of the module"):
        randomised(Scaled(function=lambda net: lambda x, inner=net.inner: inner(x)), x, ["inner"])
    with pytest.raises(xai.CapabilityError, match="refers to a part of the module"):
        randomised(Scaled(function=lambda net: lambda x, weight=net.inner.weight: x @ weight), x, ["inner"])
    hooked = Scaled()
    hooked.out.register_forward_hook(lambda module, given, out: out + hooked.inner(x).sum())
    with pytest.raises(xai.CapabilityError, match="'out' holds refers to a part"):
        randomised(hooked, x, ["inner"])
    computed = Scaled(factor=lambda net: net.inner.weight * 2)
    with pytest.raises(xai.CapabilityError, match="cannot be copied"):
        randomised(computed, x, ["inner"])
    free = Scaled(function=lambda net: lambda x: torch.relu(x))
    assert not torch.allclose(randomised(free, x, ["out"])(x), free(x))


def test_layers_of_the_users_model_are_known_in_the_random_one():
    model, x = model_and_input("torch")
    found = randomised(model, x, ["out"])
    by_object = xai.GradCAM(layer=model.conv2)(found, x, target=0)
    assert_close(by_object.values, xai.GradCAM(layer="conv2")(found, x, target=0).values, relative=0.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_get_the_same_numbers(dtype):
    model, x = model_and_input("torch")
    half = rulenets.torch_net("even", "modules").to(dtype)
    wanted = randomised(model, x, ["conv1"]).adapted.anchor.conv1.weight
    found = randomised(half, x.to(dtype), ["conv1"]).adapted.anchor.conv1.weight
    assert found.dtype is dtype
    assert_close(found.detach().float(), wanted.detach(), relative=1e-2 if dtype is torch.bfloat16 else 1e-6)


def test_a_copy_goes_when_nobody_has_it():
    model, x = model_and_input("torch")
    found = randomised(model, x, ["out"])
    xai.LRP(rules="epsilon")(found, x, target=0)
    copied = weakref.ref(found.adapted.anchor)
    del found
    gc.collect()
    assert copied() is None


# JAX


def test_no_other_random_weights_compile_anew():
    traces = []
    function, params = rulenets.function_of_layers("even")

    def counted(params, x):
        traces.append(None)
        return function(params, x)

    model, x = xai.wrap(counted, params=params), jnp.asarray(HOST)
    xai.Gradient()(model, x, target=0)
    for layers in (["out"], ["conv1", "bn1"]):
        found = randomised(model, x, layers)
        traces.clear()
        xai.Gradient()(found, x, target=0)
        assert traces == []


def test_order_of_use_in_a_function():
    def function(params, x):
        cast = jax.jit(lambda held: jax.tree.map(lambda leaf: leaf * 1.0, held))(params)  # all before the first is used
        first = jax.jit(lambda p, x: jnp.tanh(x @ p["w"] + p["b"]))
        x = first(cast["z"], x)
        return jax.jit(lambda x, w: x @ w)(x, cast["head"]) * cast["a"][0]["gamma"]

    params = {
        "a": [{"gamma": jnp.ones(2)}],
        "head": jnp.arange(6.0).reshape(3, 2),
        "unused": {"w": jnp.ones((2, 2))},
        "z": {"w": jnp.arange(12.0).reshape(4, 3), "b": jnp.ones(3)},
    }
    model, x = xai.wrap(function, params=params), np.ones((2, 4), dtype="float32")
    model = xai.wrap(model, backend="jax", params=params)
    assert weighted_layers(model, x) == ("z", "head", "a[0]", "unused")
    kinds = {(path, name): kind for path, name, kind in names_of(model, jnp.asarray(x))}
    assert kinds["z", "b"] == "bias"
    assert kinds["a[0]", "gamma"] == "scale"
    assert kinds["head", "head"] == "kernel"


def test_nested_modules_of_nnx():
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.lin, self.norm = nnx.Linear(3, 3, rngs=rngs), nnx.BatchNorm(3, use_running_average=True, rngs=rngs)
            self.drop = nnx.Dropout(0.5, deterministic=True, rngs=rngs)

        def __call__(self, x):
            return self.drop(self.norm(self.lin(x)))

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.start, self.level = nnx.Param(jnp.ones((1, 3))), nnx.BatchStat(jnp.ones(3))
            self.blocks = nnx.List([Block(rngs), Block(rngs)])
            self.out = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x):
            for block in self.blocks:
                x = block(x + self.start[...])
            return self.out(x * self.level[...])

    model, x = Net(nnx.Rngs(0)), jnp.ones((2, 3))
    blocks = [f"blocks[{i}].{name}" for i in (0, 1) for name in ("lin", "norm")]
    assert weighted_layers(model, x) == ("", *blocks, "out")
    assert ("blocks[1].norm", "mean", "statistic") in names_of(model, x)
    assert ("", "level", "statistic") in names_of(model, x)
    assert {kind for path, name, kind in names_of(model, x) if "drop" in path} == set()
    changed = randomised(model, x, ["blocks[0].lin"]).adapted.read(x)[0]
    assert not np.allclose(changed.blocks[0].lin.kernel[...], model.blocks[0].lin.kernel[...])
    assert np.array_equal(changed.blocks[1].lin.kernel[...], model.blocks[1].lin.kernel[...])


def test_collections_of_linen():
    from flax import linen

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            level = self.variable("levels", "level", lambda: jnp.ones(3))
            return linen.Dense(2, name="out")(x * level.value)

    x = jnp.ones((2, 3))
    model = xai.wrap(Net(), params=Net().init(jax.random.key(0), x))
    assert weighted_layers(model, x) == ("out",)
    assert ("", "level", "statistic") in names_of(model, x)


def test_one_number_has_no_spread():
    def function(params, x):
        return params["temperature"]["w"] * x

    model = xai.wrap(jax.jit(function), params={"temperature": {"w": jnp.full((1,), 3.0)}})
    x = jnp.ones((1, 2))
    found = [float(randomised(model, x, ["temperature"], seed)(x)[0, 0]) for seed in range(64)]
    assert 2 < np.sqrt(np.mean(np.square(found))) < 4


def test_equinox_has_its_own_layout():
    import equinox as eqx

    class Net(eqx.Module):
        lin: eqx.nn.Linear
        norm: eqx.nn.LayerNorm

        def __call__(self, x):
            return self.norm(self.lin(x))

    net = Net(eqx.nn.Linear(4, 2, key=jax.random.key(0)), eqx.nn.LayerNorm((2,)))
    weight = next(w for w in randomcases.weights_of(xai.wrap(net).adapted, jnp.ones((1, 4))) if w.kind == "kernel")
    assert weight.shape == (4, 2)
    assert np.array_equal(weight.value, np.asarray(net.lin.weight).T)
    assert ("norm", "weight", "scale") in names_of(net, jnp.ones((1, 4)))


# TensorFlow


class Texts(tf.Module):
    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        self.table = tf.Variable(rng.normal(size=(7, 4)).astype("float32"))
        self.kernel = tf.Variable(rng.normal(size=(4, 4)).astype("float32"))
        self.out = tf.Variable(rng.normal(size=(4, 3)).astype("float32"))
        self.unused = tf.Variable(tf.ones((2, 2)))
        self.fixed = tf.Variable(tf.ones(3), trainable=False)
        self.inside = lambda x: x @ self.kernel  # of the module itself: a copy of it would read the old one

    def hidden(self, x):
        return tf.tanh(self.inside(tf.reduce_mean(tf.gather(self.table, x), 1)))

    @tf.function
    def __call__(self, x):
        return self.hidden(x) @ self.out * self.fixed


def test_variables_of_tensorflow_are_read_elsewhere():
    model, x = Texts(), tf.constant([[1, 2], [3, 5]])
    assert weighted_layers(model, x) == ("table", "kernel", "out")
    adapted = xai.wrap(model).adapted
    weights = {weight.path: weight for weight in randomcases.weights_of(adapted, x)}
    assert "unused" not in weights
    assert weights["fixed"].kind == "statistic"
    values = {(name, name): 2 * weights[name].value for name in ("table", "kernel", "out")}
    found = adapted.replaced(adapted.read(x), values)
    hidden = np.tanh(2 * model.table.numpy()[x.numpy()].mean(1) @ (2 * model.kernel.numpy()))
    scores = found.apply(found.read(x)[0], x)
    assert_close(scores.numpy(), hidden @ (2 * model.out.numpy()))
    random = randomised(model, x, ["out"])
    table = xai.Gradient(layer=next(row.name for row in xai.layers(model, x)))
    assert np.abs((table(random, x, target=0).values - table(model, x, target=0).values).numpy()).max() > 1e-2
    # What the model learns later in other layers is seen.
    before = random(x).numpy()
    model.table.assign(2 * model.table)
    assert not np.allclose(random(x).numpy(), before)


def test_a_variable_that_is_read_inside_a_branch_is_refused():
    class Net(tf.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = tf.Variable(tf.eye(3)), tf.Variable(tf.eye(3) + 1)

        def __call__(self, x):
            return tf.cond(tf.reduce_sum(x) > 0, lambda: x @ self.a, lambda: x) @ self.b

    model, x = Net(), tf.ones((2, 3))
    assert weighted_layers(model, x) == ("a", "b")
    with pytest.raises(xai.CapabilityError, match="where that cannot be given"):
        randomised(model, x, ["a"])(x)


def test_no_other_random_weights_trace_anew():
    traces = []

    class Net(tf.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = tf.Variable(tf.eye(3) + 1), tf.Variable(tf.eye(3))

        def __call__(self, x):
            traces.append(None)
            return tf.tanh(x @ self.a) @ self.b

    model, x = Net(), tf.ones((2, 3))
    first = randomised(model, x, ["a"])
    scores = first(x)
    second = randomised(model, x, ["b"])
    traces.clear()
    assert not np.allclose(second(x), scores)
    assert traces == []
    assert_close(first(x), scores.numpy(), relative=0.0)


# What is refused


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_models_without_known_weights_are_refused():
    module, x = model_and_input("torch")
    for model, given in (
        (lambda x: module(x), x),
        (lambda x: x.sum((1, 2, 3), keepdims=True), HOST),
        (lambda x: jnp.sum(x, (1, 2)), jnp.asarray(HOST)),
        (tf.function(lambda x: x * 2.0), tf.constant(HOST)),
        (torch.jit.trace(module, x), x),
    ):
        with pytest.raises(xai.CapabilityError, match=r"params=\.\.\."):
            weighted_layers(model, given)
        with pytest.raises(xai.CapabilityError, match="weights of"):
            randomised(model, given, [])


def test_mistakes():
    model, x = model_and_input("torch")
    with pytest.raises(xai.LayerError, match="did you mean 'conv"):
        randomised(model, x, ["cnov1"])
    with pytest.raises(xai.OptionError, match="paths of layers"):
        randomised(model, x, "out")
    with pytest.raises(xai.OptionError, match="paths of layers"):
        randomised(model, x, [model.out])
    with pytest.raises(xai.OptionError, match="seed"):
        randomised(model, x, ["out"], seed=-1)
    with pytest.raises(xai.TrainingModeError):
        weighted_layers(rulenets.torch_net("even", "modules").train(), x)
    adapted = xai.wrap(model).adapted
    with pytest.raises(xai.OptionError, match=r"\(4, 3\)"):
        adapted.replaced(adapted.read(x), {("out", "weight"): np.ones((3, 4))})
    with pytest.raises(xai.OptionError, match="no weights 'kernel'"):
        adapted.replaced(adapted.read(x), {("out", "kernel"): np.ones((4, 3))})


def test_layout_goes_there_and_back():
    held = np.arange(24.0).reshape(2, 3, 4)
    weight = Weight("", "w", "kernel", held.shape, lambda: held, (2, 0, 1))
    assert weight.shape == weight.value.shape == (4, 2, 3)
    assert np.array_equal(natives([weight], {("", "w"): weight.value})[0], held)


@pytest.mark.parametrize(
    ("name", "shape", "holder", "kind"),
    [
        ("weight", (3, 4), "Linear", "kernel"),
        ("weight", (4,), "", "scale"),
        ("weight", (3, 4), "LayerNorm", "scale"),
        ("bias_hh_l0", (4,), "LSTM", "bias"),
        ("in_proj_bias", (4,), "MultiheadAttention", "bias"),
        ("relative_position_bias_table", (3, 4), "", "kernel"),
        ("running_var", (4,), "", "statistic"),
        ("moving_mean", (4,), "", "statistic"),
        ("b", (4,), "", "bias"),
        ("b", (4, 1, 1), "", "bias"),
        ("B", (3, 4), "", "kernel"),
        ("g", (), "", "scale"),
        ("g", (3, 4), "", "kernel"),
        ("w", (2, 2, 3, 4), "", "kernel"),
        ("hidden", (3, 4), "", "kernel"),
        ("average", (4,), "", "vector"),
        ("0", (4,), "", "vector"),
        ("0", (3, 4), "", "kernel"),
        ("0", (1,), "", "kernel"),
        ("w", (4,), "", "kernel"),
        ("attention_weights", (4,), "", "kernel"),
        ("gamma", (2, 3, 4), "", "scale"),
        ("cls_token", (1, 1, 4), "", "kernel"),
    ],
)
def test_what_arrays_are_for(name, shape, holder, kind):
    assert kind_of(name, shape, holder) == kind


class Listed(tf.Module):
    """Scale, shift, mean and variance in a list, which does not say which is which."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        norm = np.ones(6), rng.normal(size=6), np.zeros(6), np.arange(1, 7)
        self.norm = [tf.Variable(value, dtype="float32") for value in norm]
        self.kernels = [
            tf.Variable(value, dtype="float32") for value in (rng.normal(size=(4, 6)), np.full((6, 3), 0.1))
        ]

    def __call__(self, x):
        scale, shift, mean, variance = self.norm
        hidden = tf.nn.relu((x @ self.kernels[0] - mean) / tf.sqrt(variance) * scale + shift)
        return hidden @ self.kernels[1]


def test_vectors_without_a_name_keep_their_numbers_and_kernels_of_equal_numbers_their_size():
    """Normal numbers in place of a constant scale would be zeros, of a variance not all positive: a dead model, or NaN."""
    model, x = Listed(), tf.random.stateless_normal((5, 4), (1, 2))
    random = randomised(model, x, weighted_layers(model, x))
    found = {(w.path, w.name): w.value for w in randomcases.weights_of(random.adapted, x)}
    for place, variable in enumerate(model.norm):
        np.testing.assert_array_equal(np.sort(found["norm", str(place)]), np.sort(variable.numpy()))
    assert not np.array_equal(found["norm", "3"], np.arange(1, 7))
    assert np.std(found["kernels", "1"]) == pytest.approx(0.1, rel=0.5)
    values = xai.Gradient()(random, x, target=0).values
    assert np.all(np.abs(values.numpy()).max(axis=1) > 1e-3)


def test_matrices_that_are_called_by_letters_are_kernels():
    """As in a @ b: zeros in place of `b` would make every explanation of the random model zero."""
    rng = np.random.default_rng(5)
    params = {
        "a": rng.normal(size=(6, 5)),
        "b": rng.normal(size=(5, 4)),
        "hidden": rng.normal(size=(4, 3)),
        "norm": {"mean_ema": {"average": np.full(3, 0.5), "hidden": np.full(3, 0.5)}, "scale": np.ones(3)},
    }

    def apply(p, x):
        out = jax.nn.tanh(jax.nn.tanh(x @ p["a"]) @ p["b"]) @ p["hidden"]
        return (out - p["norm"]["mean_ema"]["average"]) * p["norm"]["scale"]

    model = xai.wrap(apply, params=jax.tree.map(lambda leaf: jax.numpy.asarray(leaf, dtype="float32"), params))
    x = jax.numpy.asarray(rng.normal(size=(3, 6)), dtype="float32")
    assert weighted_layers(model, x) == ("a", "b", "hidden", "norm")
    for path in ("a", "b", "hidden"):
        held = randomised(model, x, [path]).adapted.read(())[0]
        assert np.std(held[path]) == pytest.approx(np.std(params[path]), rel=0.5)
    held = randomised(model, x, ["norm"]).adapted.read(())[0]
    np.testing.assert_array_equal(held["norm"]["mean_ema"]["average"], 0.5)


def test_the_order_of_use_is_found_anew_when_a_module_changes(monkeypatch):
    from xai_tensorflow import weights as held

    calls = []
    found = held.in_order_of_use
    monkeypatch.setattr(held, "in_order_of_use", lambda *arguments: calls.append(1) or found(*arguments))

    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = (tf.Variable(tf.ones((3, 3)), name=name) for name in ("one", "two"))
            self.swapped = False

        def __call__(self, x):
            first, second = (self.two, self.one) if self.swapped else (self.one, self.two)
            return tf.nn.tanh(x @ first) @ second

    module, x = Module(), tf.ones((2, 3))
    assert weighted_layers(module, x) == weighted_layers(module, x) == ("one", "two")
    assert len(calls) == 1
    module.swapped = True
    assert weighted_layers(module, x) == ("two", "one")
    there = weakref.ref(module)
    del module
    gc.collect()
    assert there() is None
