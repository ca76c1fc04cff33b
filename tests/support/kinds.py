"""Every kind of model of every framework, built from the same weights, as subjects of the conformance suite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import xai_core as xai
from xai_core.testing import Subject, Weights, mlp, weights

ROWS = 9


def host(dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(1).normal(size=(ROWS, 6)).astype(dtype)


class Counter:
    """Counts how often a model's Python code runs."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        return self.count


# --- PyTorch


def torch_subject(kind: str, dtype: str = "float32") -> Subject:
    import torch
    from torch import nn

    held = weights(dtype=dtype)
    first, shift, second, bias = (torch.from_numpy(array.copy()) for array in held)

    class Net(nn.Module):
        def __init__(self, fail: bool = False) -> None:
            super().__init__()
            self.hidden, self.out = nn.Linear(6, 5), nn.Linear(5, 3)
            # Does nothing in evaluation, but has batch statistics that a careless toolkit would update.
            self.norm = nn.BatchNorm1d(5, affine=False, eps=1e-12)
            self.drop = nn.Dropout(0.5)
            self.fail = fail
            self.to(first.dtype).eval()
            with torch.no_grad():
                self.hidden.weight.copy_(first.T)
                self.hidden.bias.copy_(shift)
                self.out.weight.copy_(second.T)
                self.out.bias.copy_(bias)
            self.hidden.weight.requires_grad_(False)
            self.hidden.register_forward_hook(lambda module, inputs, output: None)

        def forward(self, x: Any) -> Any:
            if self.fail:
                raise RuntimeError("out of order")
            return self.out(self.drop(self.norm(torch.tanh(self.hidden(x)))))

    class Output(Net):
        def __init__(self, form: str) -> None:
            super().__init__()
            self.form = form

        def forward(self, x: Any) -> Any:
            scores = super().forward(x)
            return {"dict": {"logits": scores, "aux": x}, "tuple": (scores, x)}[self.form]

    module: Any = Net()
    model: Any = module
    if kind == "compiled":
        model = torch.compile(module, backend="eager")
    elif kind == "data parallel":
        model = nn.DataParallel(module)
    elif kind == "function":
        model = lambda x: torch.tanh(x @ first + shift) @ second + bias  # noqa: E731
    elif kind == "bound method":
        model = module.forward
    elif kind == "dict output":
        module = Output("dict")
        model = xai.wrap(module, output="logits")
    elif kind == "tuple output":
        module = Output("tuple")
        model = xai.wrap(module, output=0)
    elif kind == "sequential":
        module = model = nn.Sequential(module.hidden, nn.Tanh(), module.out).eval()

    def state() -> Any:
        return [
            *(p.detach().clone() for p in module.state_dict().values()),
            *(np.asarray(p.requires_grad) for p in module.parameters()),
            *(np.asarray(p.grad is None) for p in module.parameters()),
            *(np.asarray(m.training) for m in module.modules()),
            *(np.asarray(len(m._forward_hooks) + len(m._backward_hooks)) for m in module.modules()),
            torch.get_rng_state(),
            np.asarray(torch.is_grad_enabled()),
            np.asarray(str(torch.get_default_dtype()) == "torch.float32"),
        ]

    failing = Net(fail=True) if kind == "module" else None
    return Subject(model, torch.from_numpy(host(dtype)), _reference(held), state, None, failing, _accuracy(dtype))


TORCH_KINDS = [
    "module",
    "sequential",
    "compiled",
    "data parallel",
    "function",
    "bound method",
    "dict output",
    "tuple output",
]


# --- JAX


def jax_subject(kind: str, dtype: str = "float32") -> Subject:
    import jax
    import jax.numpy as jnp

    held = weights(dtype=dtype)
    first, shift, second, bias = (jnp.asarray(array) for array in held)
    traces: Any = Counter()
    build: dict[str, Callable[..., Any]] = {
        "nnx": _nnx,
        "nnx dataclass output": _nnx,
        "linen": _linen,
        "equinox": _equinox,
        "haiku": _haiku,
        "haiku with state": _haiku,
    }
    if kind in build:
        model, state, failing = build[kind](held, traces, kind, dtype)
    elif kind == "function":

        def model(x: Any) -> Any:
            return jnp.tanh(x @ first + shift) @ second + bias

        # Plain functions are looked through once an explanation, to see whether what they close over has changed.
        state, failing, traces = list, None, None
    elif kind == "jitted function":
        model = jax.jit(lambda x: jnp.tanh(x @ first + shift) @ second + bias)
        state, failing, traces = list, None, None
    elif kind == "function with params":

        def with_params(params: Any, x: Any) -> Any:
            return jnp.tanh(x @ params["first"] + params["shift"]) @ params["second"] + params["bias"]

        params = {"first": first, "shift": shift, "second": second, "bias": bias}
        model = xai.wrap(with_params, params=params, backend="jax")
        state, failing, traces = (lambda: params), None, None
    else:
        raise ValueError(kind)
    return Subject(model, jnp.asarray(host(dtype)), _reference(held), state, traces, failing, _accuracy(dtype))


JAX_KINDS = [
    "nnx",
    "nnx dataclass output",
    "linen",
    "equinox",
    "haiku",
    "haiku with state",
    "function",
    "jitted function",
    "function with params",
]


def _nnx(held: Weights, traces: Counter, kind: str, dtype: str) -> Any:
    import dataclasses

    import jax
    import jax.numpy as jnp
    from flax import nnx

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Output:
        logits: Any
        aux: Any

    class Net(nnx.Module):
        def __init__(self, fail: bool = False) -> None:
            rngs = nnx.Rngs(0)
            self.hidden = nnx.Linear(6, 5, rngs=rngs, param_dtype=jnp.dtype(dtype))
            self.out = nnx.Linear(5, 3, rngs=rngs, param_dtype=jnp.dtype(dtype))
            self.norm = nnx.BatchNorm(
                5, epsilon=0.0, use_scale=False, use_bias=False, param_dtype=jnp.dtype(dtype), rngs=rngs
            )
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.fail = fail
            first, shift, second, bias = (jnp.asarray(array) for array in held)
            self.hidden.kernel[...], self.hidden.bias[...] = first, shift
            self.out.kernel[...], self.out.bias[...] = second, bias

        def __call__(self, x: Any) -> Any:
            if self.fail:
                raise RuntimeError("out of order")
            traces.count += 1
            scores = self.out(self.drop(self.norm(jnp.tanh(self.hidden(x)))))
            return Output(scores, x) if "dataclass" in kind else scores

    net, broken = Net(), Net(fail=True)
    net.eval()
    broken.eval()
    model = xai.wrap(net, output="logits") if "dataclass" in kind else net
    return model, lambda: [np.asarray(leaf) for leaf in jax.tree.leaves(_plain_state(nnx.state(net)))], broken


def _plain_state(state: Any) -> Any:
    import jax

    return jax.tree.map(
        lambda leaf: jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf,
        state,
    )


def _linen(held: Weights, traces: Counter, kind: str, dtype: str) -> Any:
    import jax
    import jax.numpy as jnp
    from flax import linen

    class Net(linen.Module):
        fail: bool = False

        @linen.compact
        def __call__(self, x: Any, train: bool = True) -> Any:
            if self.fail:
                raise RuntimeError("out of order")
            traces.count += 1
            x = jnp.tanh(linen.Dense(5, param_dtype=jnp.dtype(dtype), name="hidden")(x))
            x = linen.BatchNorm(
                use_running_average=not train, epsilon=0.0, use_scale=False, use_bias=False, name="norm"
            )(x)
            x = linen.Dropout(0.5, deterministic=not train)(x)
            return linen.Dense(3, param_dtype=jnp.dtype(dtype), name="out")(x)

    first, shift, second, bias = (jnp.asarray(array) for array in held)
    variables = {
        "params": {"hidden": {"kernel": first, "bias": shift}, "out": {"kernel": second, "bias": bias}},
        "batch_stats": {"norm": {"mean": jnp.zeros(5, dtype), "var": jnp.ones(5, dtype)}},
    }
    state = lambda: [np.asarray(leaf) for leaf in jax.tree.leaves(variables)]  # noqa: E731
    return xai.wrap(Net(), params=variables), state, xai.wrap(Net(fail=True), params=variables)


def _equinox(held: Weights, traces: Counter, kind: str, dtype: str) -> Any:
    import equinox
    import jax
    import jax.numpy as jnp

    class Net(equinox.Module):
        first: Any
        shift: Any
        second: Any
        bias: Any
        drop: Any
        fail: bool = False

        def __call__(self, x: Any) -> Any:
            if self.fail:
                raise RuntimeError("out of order")
            traces.count += 1
            return self.drop(jnp.tanh(x @ self.first + self.shift)) @ self.second + self.bias

    arrays = [jnp.asarray(array) for array in held]
    drop = equinox.nn.Dropout(0.5, inference=True)
    net = Net(*arrays, drop)
    return net, lambda: [np.asarray(leaf) for leaf in jax.tree.leaves(net)], Net(*arrays, drop, fail=True)


def _haiku(held: Weights, traces: Counter, kind: str, dtype: str) -> Any:
    import haiku
    import jax
    import jax.numpy as jnp

    def forward(x: Any) -> Any:
        traces.count += 1
        x = jnp.tanh(haiku.Linear(5, name="hidden")(x))
        return haiku.Linear(3, name="out")(x)

    first, shift, second, bias = (jnp.asarray(array) for array in held)
    params = {"hidden": {"w": first, "b": shift}, "out": {"w": second, "b": bias}}
    if "state" in kind:
        transformed: Any = haiku.without_apply_rng(haiku.transform_with_state(forward))
        model = xai.wrap(transformed, params=(params, {}))
    else:
        transformed = haiku.transform(forward)
        model = xai.wrap(transformed, params=params)
    return model, lambda: [np.asarray(leaf) for leaf in jax.tree.leaves(params)], None


# --- TensorFlow


def tensorflow_subject(kind: str, dtype: str = "float32", folder: Any = None) -> Subject:
    import tensorflow as tf

    held = weights(dtype=dtype)
    traces = Counter()

    class Net(tf.Module):
        def __init__(self, fail: bool = False) -> None:
            super().__init__()
            self.parts = [tf.Variable(array) for array in held]
            self.fail = fail

        def __call__(self, x: Any) -> Any:
            if self.fail:
                raise RuntimeError("out of order")
            traces.count += 1
            first, shift, second, bias = self.parts
            scores = tf.tanh(x @ first + shift) @ second + bias
            return {"logits": scores, "aux": x} if kind == "dict output" else scores

    net = Net()
    variables = net.parts
    model: Any = net
    failing: Any = Net(fail=True)
    if kind == "function":
        constants = [tf.constant(array) for array in held]

        def model(x: Any) -> Any:
            traces.count += 1
            return tf.tanh(x @ constants[0] + constants[1]) @ constants[2] + constants[3]

        failing = None
    elif kind == "tf.function":
        model = tf.function(net.__call__)
    elif kind == "dict output":
        model = xai.wrap(net, output="logits")
    elif kind == "saved model":
        signature = tf.function(net.__call__, input_signature=[tf.TensorSpec((None, 6), dtype, name="x")])
        tf.saved_model.save(net, str(folder), signatures=signature)
        model = tf.saved_model.load(str(folder))
        variables = [tf.constant(0.0)]

    def state() -> Any:
        return [
            *(variable.numpy() for variable in variables),
            np.asarray(tf.random.get_global_generator().state),
        ]

    return Subject(model, tf.constant(host(dtype)), _reference(held), state, traces, failing, _accuracy(dtype))


TENSORFLOW_KINDS = ["tf.Module", "function", "tf.function", "dict output", "saved model"]


# --- Keras, on the backend of this process


def keras_subject(kind: str, dtype: str = "float32", folder: Any = None) -> Subject:
    import keras

    held = weights(dtype=dtype)
    traces = Counter()
    layers = keras.layers

    class Dense(layers.Dense):
        """Counts how often it runs."""

        def call(self, x: Any, training: Any = None) -> Any:
            traces.count += 1
            return super().call(x, training=training)

    def chain(last: bool = True) -> list[Any]:
        made = [
            Dense(5, activation="tanh", dtype=dtype, name="hidden"),
            layers.BatchNormalization(epsilon=0.0, center=False, scale=False, dtype=dtype, name="norm"),
            layers.Dropout(0.5, seed=1, dtype=dtype, name="drop"),
        ]
        return [*made, layers.Dense(3, dtype=dtype, name="out")] if last else made

    def functional(form: str) -> Any:
        inputs = keras.Input((6,), dtype=dtype)
        x = inputs
        for layer in chain():
            x = layer(x)
        outputs = {"dict": {"logits": x, "aux": inputs}, "tuple": (x, inputs)}.get(form, x)
        return keras.Model(inputs, outputs)

    class Subclassed(keras.Model):
        def __init__(self, fail: bool = False) -> None:
            super().__init__()
            self.parts = chain()
            self.fail = fail

        def call(self, x: Any, training: bool = False) -> Any:
            if self.fail:
                raise RuntimeError("out of order")
            hidden, norm, drop, out = self.parts
            return out(drop(norm(hidden(x), training=training), training=training))

    failing: Any = None
    if kind in ("functional", "reloaded", "layer"):
        net = functional("")
    elif kind == "dict output":
        net = functional("dict")
    elif kind == "tuple output":
        net = functional("tuple")
    elif kind == "sequential":
        net = keras.Sequential([keras.Input((6,), dtype=dtype), *chain()])
    elif kind == "nested":
        inner = keras.Sequential([keras.Input((6,), dtype=dtype), *chain(last=False)], name="inner")
        inputs = keras.Input((6,), dtype=dtype)
        net = keras.Model(inputs, layers.Dense(3, dtype=dtype, name="out")(inner(inputs)))
    else:
        net, failing = Subclassed(), Subclassed()
        net(host(dtype)[:1])
        failing(host(dtype)[:1])
        failing.fail = True
    _set_keras(net, held)
    if kind == "reloaded":
        net.save(folder / "model.keras")
        net = keras.saving.load_model(folder / "model.keras", custom_objects={"Dense": Dense})
    model: Any = net
    if kind == "dict output":
        model = xai.wrap(net, output="logits")
    elif kind == "tuple output":
        model = xai.wrap(net, output=lambda outputs: outputs[0])
    counted = None if keras.backend.backend() == "torch" else traces

    def state() -> Any:
        found = [keras.ops.convert_to_numpy(variable) for variable in net.variables]
        found += [np.asarray(layer.trainable) for layer in net._flatten_layers()]
        if keras.backend.backend() == "torch":
            import torch

            found += [np.asarray(p.requires_grad) for p in net.parameters()]
            found += [np.asarray(p.grad is None) for p in net.parameters()]
            found.append(torch.get_rng_state().numpy())
        return found

    x = keras.ops.convert_to_tensor(host(dtype))
    if keras.backend.backend() == "torch":
        x = x.detach()
    return Subject(model, x, _reference(held), state, counted, failing, _accuracy(dtype))


def _set_keras(net: Any, held: Weights) -> None:
    found = {layer.name: layer for layer in net._flatten_layers(include_self=False, recursive=True)}
    found["hidden"].set_weights([held.first, held.shift])
    found["out"].set_weights([held.second, held.bias])


KERAS_KINDS = ["functional", "sequential", "nested", "subclassed", "reloaded", "dict output", "tuple output"]


def _reference(held: Weights) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: mlp(held, x)


def _accuracy(dtype: str) -> float:
    return 1e-10 if dtype == "float64" else 1e-5
