"""Three small nets with known weights, written once, in the layers of every framework; for methods with backward rules.

`dense`: dense - relu - dense - relu - dense.
`conv`: convolution, batch norm, relu, convolution, relu, 2 x 2 max pooling, residual sum with convolution and batch norm,
relu, 2 x 2 average pooling, dense; `plain` is the same without biases.
`block`: a transformer block of layer norm, attention with two heads, layer norm, gated GELU; mean over positions, dense.
`even`, for random weights: convolution, batch norm, relu, convolution, mean over positions, dense; nothing in it depends
on where a framework has channels.
For completeness alone: `pooled`, max pooling before relu, softmax of the scores; `gated`, a product with an exponential;
`vit`, patches of an image before `block`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

import xai_core as xai

EPSILON = 1e-3
"""Of batch norm and layer norm."""
_IMAGE = (8, 8, 2)
SHAPES = {
    **{"dense": (5,), "conv": _IMAGE, "plain": _IMAGE, "block": (4, 6)},
    **{"pooled": _IMAGE, "gated": (5,), "vit": _IMAGE, "even": _IMAGE},
}
HEADS = 2


class Dense(NamedTuple):
    """Input by output."""

    weight: Any
    bias: Any = None


class Conv(NamedTuple):
    """Height, width, input, output; padded to the same size."""

    weight: Any
    bias: Any = None


class BatchNorm(NamedTuple):
    scale: Any
    shift: Any
    mean: Any
    variance: Any


class LayerNorm(NamedTuple):
    scale: Any
    shift: Any


@functools.cache
def held(net: str) -> dict[str, Any]:
    """Layers of a net by name, with weights in single precision."""
    rng = np.random.default_rng(14)

    def normal(*shape: int, size: float = 1.0) -> np.ndarray:
        return (rng.normal(size=shape) * size).astype("float32")

    def dense(into: int, out: int) -> Dense:
        return Dense(normal(into, out, size=into**-0.5), normal(out, size=0.3))

    def conv(into: int, out: int) -> Conv:
        weight = normal(3, 3, into, out, size=(4 * into) ** -0.5)
        return Conv(weight, None if net == "plain" else normal(out, size=0.3))

    def batch_norm(size: int) -> BatchNorm:
        scale, variance = (rng.uniform(0.5, 1.5, size=size).astype("float32") for _ in range(2))
        shift, mean = normal(size, size=0.3), normal(size, size=0.3)
        return (
            BatchNorm(scale, shift, mean, variance)
            if net in ("conv", "even")
            else BatchNorm(scale, 0 * shift, 0 * mean, variance)
        )

    def layer_norm(size: int) -> LayerNorm:
        return LayerNorm(rng.uniform(0.5, 1.5, size=size).astype("float32"), normal(size, size=0.3))

    if net == "dense":
        return {"one": dense(5, 7), "two": dense(7, 6), "out": dense(6, 3)}
    if net == "gated":
        return {"one": dense(5, 6), "two": dense(5, 6), "out": dense(6, 3)}
    if net == "pooled":
        return {"conv1": conv(2, 4), "out": dense(16, 3)}
    if net == "even":
        return {"conv1": conv(2, 3), "bn1": batch_norm(3), "conv2": conv(3, 4), "out": dense(4, 3)}
    if net in ("block", "vit"):
        patches = {"conv1": conv(2, 6)} if net == "vit" else {}
        inner = {name: dense(6, 6) for name in ("query", "key", "value", "projection")}
        outer = {"up": dense(6, 8), "gate": dense(6, 8), "down": dense(8, 6), "out": dense(6, 3)}
        return {**patches, "norm1": layer_norm(6), **inner, "norm2": layer_norm(6), **outer}
    layers = {"conv1": conv(2, 3), "bn1": batch_norm(3), "conv2": conv(3, 4), "conv3": conv(4, 4), "bn3": batch_norm(4)}
    out = dense(16, 3)
    return {**layers, "out": out if net == "conv" else Dense(out.weight)}


def inputs(net: str, rows: int = 3) -> np.ndarray:
    """Samples, channels last."""
    return np.random.default_rng(9).normal(size=(rows, *SHAPES[net])).astype("float32")


class Kit:
    """What a framework has: its layers by name, and functions."""

    batched = True
    """Whether arrays have a batch axis."""
    first = False
    """Whether images have channels first."""

    def __init__(self, **functions: Any) -> None:
        vars(self).update(functions)

    layer: Callable[[str, Any], Any]
    relu: Callable[[Any], Any]
    gelu: Callable[[Any], Any]
    exp: Callable[[Any], Any]
    softmax: Callable[[Any], Any]
    """Over the last axis."""
    reshape: Callable[[Any, tuple[int, ...]], Any]
    swap: Callable[[Any, int, int], Any]
    """Exchange two axes, counted from the end."""
    pool: Callable[[str, Any], Any]
    """2 x 2, "max" or "average"."""
    mean: Callable[[Any], Any]
    """Over the last axis but one."""

    def shaped(self, x: Any, *sizes: int) -> Any:
        return self.reshape(x, ((-1, *sizes) if self.batched else sizes))


def forward(net: str, kit: Any, x: Any) -> Any:
    """Scores of a net."""
    layer, relu = kit.layer, kit.relu
    if net == "dense":
        return layer("out", relu(layer("two", relu(layer("one", x)))))
    if net == "gated":
        return layer("out", kit.exp(layer("one", x)) * layer("two", x))
    if net == "pooled":
        x = kit.pool("average", relu(kit.pool("max", layer("conv1", x))))
        return kit.softmax(layer("out", kit.shaped(x, 16)))
    if net == "vit":
        x = kit.pool("max", kit.pool("average", layer("conv1", x)))
        x = kit.swap(kit.shaped(x, 6, 4), -1, -2) if kit.first else kit.shaped(x, 4, 6)
    if net in ("block", "vit"):
        n = layer("norm1", x)
        query, key, value = (
            kit.swap(kit.shaped(layer(name, n), 4, HEADS, 3), -2, -3) for name in ("query", "key", "value")
        )
        weights = kit.softmax(query @ kit.swap(key, -1, -2) / 3**0.5)
        y = x + layer("projection", kit.shaped(kit.swap(weights @ value, -2, -3), 4, 6))
        n = layer("norm2", y)
        y = y + layer("down", kit.gelu(layer("up", n)) * layer("gate", n))
        return layer("out", kit.mean(y))
    x = relu(layer("bn1", layer("conv1", x)))
    if net == "even":
        x = layer("conv2", x)
        return layer("out", kit.mean(kit.swap(kit.shaped(x, 4, 64), -1, -2) if kit.first else kit.shaped(x, 64, 4)))
    x = kit.pool("max", relu(layer("conv2", x)))
    x = relu(x + layer("bn3", layer("conv3", x)))
    return layer("out", kit.shaped(kit.pool("average", x), 16))


# PyTorch


def torch_layer(weights: Any) -> Any:
    import torch

    def filled(layer: Any, **arrays: Any) -> Any:
        for name, array in arrays.items():
            if array is not None:
                getattr(layer, name).data = torch.from_numpy(array.copy())
        return layer

    if isinstance(weights, Dense):
        into, out = weights.weight.shape
        return filled(
            torch.nn.Linear(into, out, bias=weights.bias is not None), weight=weights.weight.T, bias=weights.bias
        )
    if isinstance(weights, Conv):
        into, out = weights.weight.shape[2:]
        layer = torch.nn.Conv2d(into, out, 3, padding=1, bias=weights.bias is not None)
        return filled(layer, weight=weights.weight.transpose(3, 2, 0, 1), bias=weights.bias)
    size = len(weights.scale)
    if isinstance(weights, LayerNorm):
        return filled(torch.nn.LayerNorm(size, eps=EPSILON), weight=weights.scale, bias=weights.shift)
    return filled(
        torch.nn.BatchNorm2d(size, eps=EPSILON),
        weight=weights.scale,
        bias=weights.shift,
        running_mean=weights.mean,
        running_var=weights.variance,
    )


TORCH_KINDS = ["modules", "functional"]


def torch_net(net: str, kind: str, relu: Any = None) -> Any:
    """Of modules, with one in-place ReLU object throughout, or of functions; `relu` is another spelling of it."""
    import torch
    from torch.nn import functional as F  # noqa: N812

    def called(part: Any, x: Any) -> Any:
        if kind == "modules":
            return part(x)
        if isinstance(part, torch.nn.Linear):
            return F.linear(x, part.weight) if part.bias is None else x @ part.weight.T + part.bias
        if isinstance(part, torch.nn.Conv2d):
            return F.conv2d(x, part.weight, part.bias, padding=1)
        if isinstance(part, torch.nn.LayerNorm):
            return F.layer_norm(x, part.normalized_shape, part.weight, part.bias, part.eps)
        return F.batch_norm(x, part.running_mean, part.running_var, part.weight, part.bias, eps=part.eps)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, weights in channels_first(held(net)).items():
                self.add_module(name, torch_layer(weights))
            if kind == "modules":
                self.relu, self.gelu, self.softmax = torch.nn.ReLU(inplace=True), torch.nn.GELU(), torch.nn.Softmax(-1)
            else:
                self.relu, self.gelu, self.softmax = F.relu, F.gelu, functools.partial(F.softmax, dim=-1)
            self.eval().requires_grad_(False)

        def forward(self, x: Any) -> Any:
            kit = Kit(
                layer=lambda name, x: called(getattr(self, name), x),
                relu=relu or self.relu,
                first=True,
                gelu=self.gelu,
                exp=torch.exp,
                softmax=self.softmax,
                reshape=torch.reshape,
                swap=torch.transpose,
                mean=lambda x: x.mean(-2),
                pool=lambda kind, x: F.max_pool2d(x, 2) if kind == "max" else F.avg_pool2d(x, 2),
            )
            return forward(net, kit, x)

    return Net()


def channels_first(layers: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same where images have channels first and are flattened so."""
    if "conv1" not in layers or len(layers["out"].weight) != 16:
        return layers
    out = layers["out"]
    weight = out.weight.reshape(2, 2, 4, 3).transpose(2, 0, 1, 3).reshape(16, 3)
    return {**layers, "out": out._replace(weight=weight)}


# JAX


JAX_KINDS = ["nnx", "linen", "haiku", "equinox", "function"]


def jax_net(net: str, kind: str, relu: Any = None) -> Any:
    makers = {"nnx": nnx_net, "linen": linen_net, "haiku": haiku_net, "equinox": equinox_net, "function": function_net}
    return makers[kind](net, relu)


def jax_kit(layer: Callable[[str, Any], Any], relu: Any, equinox: bool = False) -> Kit:
    import jax
    import jax.numpy as jnp

    def pool(kind: str, x: Any) -> Any:
        axes = (x.ndim - 2, x.ndim - 1) if equinox else (x.ndim - 3, x.ndim - 2)
        window = tuple(2 if axis in axes else 1 for axis in range(x.ndim))
        if kind == "max":
            return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
        return jax.lax.reduce_window(x, 0.0, jax.lax.add, window, window, "VALID") / 4

    return Kit(
        batched=not equinox,
        first=equinox,
        layer=layer,
        relu=relu or jax.nn.relu,
        gelu=functools.partial(jax.nn.gelu, approximate=False),
        exp=jnp.exp,
        softmax=jax.nn.softmax,
        reshape=jnp.reshape,
        swap=jnp.swapaxes,
        mean=lambda x: x.mean(-2),
        pool=pool,
    )


def nnx_net(net: str, relu: Any) -> Any:
    import jax.numpy as jnp
    from flax import nnx

    def made(weights: Any) -> Any:
        rngs, shape = nnx.Rngs(0), weights[0].shape
        if isinstance(weights, Dense):
            layer: Any = nnx.Linear(*shape, use_bias=weights.bias is not None, rngs=rngs)
        elif isinstance(weights, Conv):
            layer = nnx.Conv(*shape[2:], (3, 3), use_bias=weights.bias is not None, rngs=rngs)
        elif isinstance(weights, BatchNorm):
            layer = nnx.BatchNorm(*shape, use_running_average=True, epsilon=EPSILON, rngs=rngs)
        else:
            layer = nnx.LayerNorm(*shape, epsilon=EPSILON, rngs=rngs)
        names = ("scale", "bias", "mean", "var") if len(shape) == 1 else ("kernel", "bias")
        for name, array in zip(names, weights, strict=False):
            if array is not None:
                getattr(layer, name)[...] = jnp.asarray(array)
        return layer

    class Nnx(nnx.Module):
        def __init__(self) -> None:
            for name, weights in held(net).items():
                setattr(self, name, made(weights))

        def __call__(self, x: Any) -> Any:
            return forward(net, jax_kit(lambda name, x: getattr(self, name)(x), relu), x)

    return Nnx()


def named(weights: Any, *names: str) -> dict[str, Any]:
    import jax.numpy as jnp

    return {name: jnp.asarray(array) for name, array in zip(names, weights, strict=False) if array is not None}


def linen_net(net: str, relu: Any) -> Any:
    from flax import linen

    layers = held(net)

    def layer(name: str, x: Any) -> Any:
        weights = layers[name]
        if isinstance(weights, Dense):
            return linen.Dense(weights.weight.shape[1], use_bias=weights.bias is not None, name=name)(x)
        if isinstance(weights, Conv):
            return linen.Conv(weights.weight.shape[3], (3, 3), use_bias=weights.bias is not None, name=name)(x)
        if isinstance(weights, LayerNorm):
            return linen.LayerNorm(epsilon=EPSILON, name=name)(x)
        return linen.BatchNorm(use_running_average=True, epsilon=EPSILON, name=name)(x)

    class Linen(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            return forward(net, jax_kit(layer, relu), x)

    params = {
        name: named(weights, "kernel" if isinstance(weights, (Dense, Conv)) else "scale", "bias")
        for name, weights in layers.items()
    }
    statistics = {name: named(w[2:], "mean", "var") for name, w in layers.items() if isinstance(w, BatchNorm)}
    return xai.wrap(Linen(), params={"params": params, "batch_stats": statistics})


def haiku_net(net: str, relu: Any) -> Any:
    import haiku as hk
    import jax.numpy as jnp

    layers = held(net)

    def layer(name: str, x: Any) -> Any:
        weights = layers[name]
        if isinstance(weights, Dense):
            return hk.Linear(weights.weight.shape[1], with_bias=weights.bias is not None, name=name)(x)
        if isinstance(weights, Conv):
            return hk.Conv2D(weights.weight.shape[3], 3, with_bias=weights.bias is not None, name=name)(x)
        if isinstance(weights, LayerNorm):
            return hk.LayerNorm(-1, True, True, eps=EPSILON, name=name)(x)
        return hk.BatchNorm(True, True, 0.9, eps=EPSILON, name=name)(x, is_training=False)

    params, state = {}, {}
    for name, weights in layers.items():
        params[name] = named(weights, *(("w", "b") if isinstance(weights, (Dense, Conv)) else ("scale", "offset")))
        if isinstance(weights, BatchNorm):
            shaped = [array.reshape(1, 1, 1, -1) for array in weights]
            params[name] = named(shaped, "scale", "offset")
            for place, part in ((2, "mean"), (3, "var")):
                average = jnp.asarray(shaped[place])
                state[f"{name}/~/{part}_ema"] = {"average": average, "hidden": average, "counter": jnp.asarray(1)}
    transformed = hk.transform_with_state(lambda x: forward(net, jax_kit(layer, relu), x))
    return xai.wrap(hk.without_apply_rng(transformed), params=(params, state))


def equinox_net(net: str, relu: Any) -> Any:
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    class Normed(eqx.Module):
        """Equinox has batch norm only with a state."""

        scale: Any
        shift: Any
        mean: Any
        variance: Any

        def __call__(self, x: Any) -> Any:
            return (x - self.mean) / jnp.sqrt(self.variance + EPSILON) * self.scale + self.shift

    def made(weights: Any) -> Any:
        key, shape = jax.random.key(0), weights[0].shape
        if isinstance(weights, BatchNorm):
            return Normed(*(jnp.asarray(array)[:, None, None] for array in weights))
        first, second = weights
        if isinstance(weights, Dense):
            layer: Any = eqx.nn.Linear(*shape, use_bias=second is not None, key=key)
            first = first.T
        elif isinstance(weights, Conv):
            layer = eqx.nn.Conv2d(*shape[2:], 3, padding=1, use_bias=second is not None, key=key)
            first, second = first.transpose(3, 2, 0, 1), None if second is None else second[:, None, None]
        else:
            layer = eqx.nn.LayerNorm(shape, eps=EPSILON)
        layer = eqx.tree_at(lambda layer: layer.weight, layer, jnp.asarray(first))
        return layer if second is None else eqx.tree_at(lambda layer: layer.bias, layer, jnp.asarray(second))

    class Equinox(eqx.Module):
        layers: dict[str, Any]

        def __call__(self, x: Any) -> Any:
            def layer(name: str, x: Any) -> Any:
                part = self.layers[name]
                each = isinstance(part, (eqx.nn.Linear, eqx.nn.LayerNorm)) and x.ndim > 1
                return jax.vmap(part)(x) if each else part(x)

            return forward(net, jax_kit(layer, relu, equinox=True), x)

    return Equinox({name: made(weights) for name, weights in channels_first(held(net)).items()})


def function_net(net: str, relu: Any) -> Any:
    function, layers = function_of_layers(net, relu)
    return lambda x: function(layers, x)


def function_of_layers(net: str, relu: Any = None) -> Any:
    """A function `function(layers, x)`, and the layers."""
    import jax
    import jax.numpy as jnp

    held_layers = {
        name: type(weights)(*(None if array is None else jnp.asarray(array) for array in weights))
        for name, weights in held(net).items()
    }

    def layer(weights: Any, x: Any) -> Any:
        if isinstance(weights, Dense):
            found = x @ weights.weight
        elif isinstance(weights, Conv):
            axes = ("NHWC", "HWIO", "NHWC")
            found = jax.lax.conv_general_dilated(x, weights.weight, (1, 1), "SAME", dimension_numbers=axes)
        elif isinstance(weights, BatchNorm):
            scale = weights.scale * jax.lax.rsqrt(weights.variance + EPSILON)
            return x * scale + (weights.shift - weights.mean * scale)
        else:
            centred = x - x.mean(-1, keepdims=True)
            deviation = jnp.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON)
            return weights.scale * (centred / deviation) + weights.shift
        return found if weights.bias is None else found + weights.bias

    def function(layers: Any, x: Any) -> Any:
        return forward(net, jax_kit(lambda name, x: layer(layers[name], x), relu), x)

    return function, held_layers


# TensorFlow


def tensorflow_net(net: str, relu: Any = None) -> Any:
    import tensorflow as tf

    class Layer(tf.Module):
        def __init__(self, weights: Any, name: str) -> None:
            super().__init__(name=name)
            self.kind = type(weights).__name__
            self.weights = {
                key: None if array is None else tf.Variable(array) for key, array in weights._asdict().items()
            }

        @tf.Module.with_name_scope
        def __call__(self, x: Any) -> Any:
            first, second, *statistics = self.weights.values()
            if self.kind == "Dense":
                found = tf.matmul(x, first)
            elif self.kind == "Conv":
                found = tf.nn.conv2d(x, first, 1, "SAME")
            elif self.kind == "BatchNorm":
                return tf.nn.batch_normalization(x, *statistics, second, first, EPSILON)
            else:
                mean, variance = tf.nn.moments(x, -1, keepdims=True)
                return tf.nn.batch_normalization(x, mean, variance, second, first, EPSILON)
            return found if second is None else tf.nn.bias_add(found, second)

    class Net(tf.Module):
        def __init__(self) -> None:
            super().__init__(name="net")
            self.layers = {name: Layer(weights, name) for name, weights in held(net).items()}

        def __call__(self, x: Any) -> Any:
            def swap(x: Any, a: int, b: int) -> Any:
                axes = list(range(x.shape.rank))
                axes[a], axes[b] = axes[b], axes[a]
                return tf.transpose(x, axes)

            kit = Kit(
                layer=lambda name, x: self.layers[name](x),
                relu=relu or tf.nn.relu,
                gelu=tf.nn.gelu,
                exp=tf.exp,
                softmax=tf.nn.softmax,
                reshape=tf.reshape,
                swap=swap,
                mean=lambda x: tf.reduce_mean(x, -2),
                pool=lambda kind, x: (tf.nn.max_pool2d if kind == "max" else tf.nn.avg_pool2d)(x, 2, 2, "VALID"),
            )
            return forward(net, kit, x)

    return Net()


# Keras


KERAS_KINDS = ["functional", "subclassed"]


def keras_net(net: str, kind: str, relu: Any = None) -> Any:
    import keras
    from keras import ops

    layers: dict[str, Any] = {}
    for name, weights in held(net).items():
        size = weights[0].shape[-1]
        if isinstance(weights, Dense):
            layers[name] = keras.layers.Dense(size, use_bias=weights.bias is not None, name=name)
        elif isinstance(weights, Conv):
            use_bias = weights.bias is not None
            layers[name] = keras.layers.Conv2D(size, 3, padding="same", use_bias=use_bias, name=name)
        elif isinstance(weights, BatchNorm):
            layers[name] = keras.layers.BatchNormalization(epsilon=EPSILON, name=name)
        else:
            layers[name] = keras.layers.LayerNormalization(epsilon=EPSILON, name=name)
    pools = {"max": keras.layers.MaxPooling2D(2), "average": keras.layers.AveragePooling2D(2)}
    kit = Kit(
        layer=lambda name, x: layers[name](x),
        relu=relu or ops.relu,
        gelu=lambda x: ops.gelu(x, approximate=False),
        exp=ops.exp,
        softmax=ops.softmax,
        reshape=ops.reshape,
        swap=ops.swapaxes,
        mean=lambda x: ops.mean(x, axis=-2),
        pool=lambda kind, x: pools[kind](x),
    )
    if kind == "sequential":
        one, two, out = layers.values()
        model: Any = keras.Sequential([one, keras.layers.ReLU(), two, keras.layers.Activation("relu"), out])
    elif kind == "subclassed":

        class Net(keras.Model):
            def __init__(self) -> None:
                super().__init__()
                self.parts = list(layers.values())

            def call(self, x: Any) -> Any:
                return forward(net, kit, x)

        model = Net()
    else:
        inputs = keras.Input(SHAPES[net])
        model = keras.Model(inputs, forward(net, kit, inputs))
    model(ops.zeros((1, *SHAPES[net])))
    for name, weights in held(net).items():
        layers[name].set_weights([array for array in weights if array is not None])
    return model
