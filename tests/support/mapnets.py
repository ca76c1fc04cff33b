"""One small convolution net with known weights in NumPy and in every framework; its layer `conv` has the maps.

`conv` (3 x 3, same) -> ReLU -> 3 x 3 convolution -> tanh -> mean over positions -> dense.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import xai_core as xai

SHAPE = (6, 8, 3)


@dataclass(frozen=True)
class Held:
    conv: Any
    shift: Any
    second: Any
    out: Any
    bias: Any


def held() -> Held:
    rng = np.random.default_rng(3)
    return Held(
        (rng.normal(size=(3, 3, 3, 4)) / 4).astype("float32"),
        (rng.normal(size=4) / 4).astype("float32"),
        (rng.normal(size=(3, 3, 4, 5)) / 3).astype("float32"),
        rng.normal(size=(5, 3)).astype("float32"),
        rng.normal(size=3).astype("float32"),
    )


def images(rows: int = 5) -> np.ndarray:
    return np.random.default_rng(4).normal(size=(rows, *SHAPE)).astype("float32")


def convolve(x: np.ndarray, kernel: np.ndarray, same: bool) -> np.ndarray:
    if same:
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1] - 2, x.shape[2] - 2
    total = 0
    for i in range(3):
        for j in range(3):
            total = total + x[:, i : i + height, j : j + width] @ kernel[i, j]
    return total


def at_conv(x: np.ndarray) -> np.ndarray:
    """Value of `conv`, channels last, in double precision."""
    w = held()
    return convolve(np.asarray(x, dtype=np.result_type(x, np.float64)), w.conv, True) + w.shift


def behind_conv(value: np.ndarray) -> np.ndarray:
    """Scores from the value of `conv`; complex values are fine."""
    w = held()
    hidden = np.tanh(convolve(value * (value.real > 0), w.second, False))
    return hidden.mean((1, 2)) @ w.out + w.bias


def scores(x: np.ndarray) -> np.ndarray:
    return behind_conv(at_conv(x))


def lifted(a: np.ndarray, target: int) -> np.ndarray:
    """Contributions of one sample's maps to a score, by DeepLIFT against maps of zero."""
    w, active = held(), np.maximum(a, 0)
    total = convolve(active[None], w.second, False)[0]
    multipliers = np.tanh(total) / total * w.out[:, target] / (total.shape[0] * total.shape[1])
    found = np.zeros(a.shape)
    for i, j, o in np.ndindex(*total.shape):
        for di, dj, k in np.ndindex(3, 3, a.shape[2]):
            # ReLU hands the contribution of its result to its input.
            found[i + di, j + dj, k] += active[i + di, j + dj, k] * w.second[di, dj, k, o] * multipliers[i, j, o]
    return found


def torch_net() -> Any:
    import torch

    w = held()

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(inplace=True)
            self.second, self.out = torch.nn.Conv2d(4, 5, 3, bias=False), torch.nn.Linear(5, 3)
            for parameter, array in (
                (self.conv.weight, w.conv.transpose(3, 2, 0, 1)),
                (self.conv.bias, w.shift),
                (self.second.weight, w.second.transpose(3, 2, 0, 1)),
                (self.out.weight, w.out.T),
                (self.out.bias, w.bias),
            ):
                parameter.data = torch.from_numpy(array.copy())
                parameter.requires_grad_(False)
            self.eval()

        def forward(self, x: Any) -> Any:
            return self.out(torch.tanh(self.second(self.relu(self.conv(x)))).mean((2, 3)))

    return Net()


def jax_net(kind: str) -> Any:
    import jax
    import jax.numpy as jnp

    w = held()
    if kind == "nnx":
        from flax import nnx

        class Nnx(nnx.Module):
            def __init__(self) -> None:
                rngs = nnx.Rngs(0)
                self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
                self.second = nnx.Conv(4, 5, (3, 3), padding="VALID", use_bias=False, rngs=rngs)
                self.out = nnx.Linear(5, 3, rngs=rngs)
                self.conv.kernel[...], self.conv.bias[...] = jnp.asarray(w.conv), jnp.asarray(w.shift)
                self.second.kernel[...] = jnp.asarray(w.second)
                self.out.kernel[...], self.out.bias[...] = jnp.asarray(w.out), jnp.asarray(w.bias)

            @nnx.jit
            def __call__(self, x: Any) -> Any:
                return self.out(jnp.tanh(self.second(jax.nn.relu(self.conv(x)))).mean((1, 2)))

        return Nnx()
    if kind == "linen":
        from flax import linen

        class Linen(linen.Module):
            @linen.compact
            def __call__(self, x: Any) -> Any:
                x = jax.nn.relu(linen.Conv(4, (3, 3), name="conv")(x))
                x = jnp.tanh(linen.Conv(5, (3, 3), padding="VALID", use_bias=False, name="second")(x))
                return linen.Dense(3, name="out")(x.mean((1, 2)))

        params = {
            "conv": {"kernel": jnp.asarray(w.conv), "bias": jnp.asarray(w.shift)},
            "second": {"kernel": jnp.asarray(w.second)},
            "out": {"kernel": jnp.asarray(w.out), "bias": jnp.asarray(w.bias)},
        }
        return xai.wrap(Linen(), params=params)
    if kind == "haiku":
        import haiku as hk

        def net(x: Any) -> Any:
            x = jax.nn.relu(hk.Conv2D(4, 3, name="conv")(x))
            x = jnp.tanh(hk.Conv2D(5, 3, padding="VALID", with_bias=False, name="second")(x))
            return hk.Linear(3, name="out")(x.mean((1, 2)))

        params = {
            "conv": {"w": jnp.asarray(w.conv), "b": jnp.asarray(w.shift)},
            "second": {"w": jnp.asarray(w.second)},
            "out": {"w": jnp.asarray(w.out), "b": jnp.asarray(w.bias)},
        }
        return xai.wrap(hk.without_apply_rng(hk.transform(net)), params=params)
    if kind == "equinox":
        import equinox as eqx

        class Equinox(eqx.Module):
            conv: Any
            second: Any
            out: Any

            def __call__(self, x: Any) -> Any:
                return self.out(jnp.tanh(self.second(jax.nn.relu(self.conv(x)))).mean((1, 2)))

        key = jax.random.key(0)
        net = Equinox(
            eqx.nn.Conv2d(3, 4, 3, padding=1, key=key),
            eqx.nn.Conv2d(4, 5, 3, use_bias=False, key=key),
            eqx.nn.Linear(5, 3, key=key),
        )
        return eqx.tree_at(
            lambda n: (n.conv.weight, n.conv.bias, n.second.weight, n.out.weight, n.out.bias),
            net,
            (
                jnp.asarray(w.conv.transpose(3, 2, 0, 1)),
                jnp.asarray(w.shift[:, None, None]),
                jnp.asarray(w.second.transpose(3, 2, 0, 1)),
                jnp.asarray(w.out.T),
                jnp.asarray(w.bias),
            ),
        )
    import xai_jax

    arrays = {name: jnp.asarray(array) for name, array in vars(w).items()}

    def convolution(x: Any, kernel: Any, padding: str) -> Any:
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    @jax.jit
    def first(x: Any) -> Any:
        return xai_jax.tap(convolution(x, arrays["conv"], "SAME") + arrays["shift"], "conv")

    def function(x: Any) -> Any:
        x = jnp.tanh(convolution(jax.nn.relu(first(x)), arrays["second"], "VALID"))
        return x.mean((1, 2)) @ arrays["out"] + arrays["bias"]

    return function


JAX_KINDS = ["nnx", "linen", "haiku", "equinox", "function"]


def keras_net(kind: str, folder: Any = None) -> Any:
    import keras

    w = held()
    conv = keras.layers.Conv2D(4, 3, padding="same", name="conv")
    second = keras.layers.Conv2D(5, 3, use_bias=False, name="second")
    out = keras.layers.Dense(3, name="out")
    pool = keras.layers.GlobalAveragePooling2D()
    if kind == "subclassed":

        class Net(keras.Model):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.second, self.out, self.pool = conv, second, out, pool

            def call(self, x: Any) -> Any:
                return self.out(self.pool(keras.ops.tanh(self.second(keras.ops.relu(self.conv(x))))))

        model: Any = Net()
    elif kind == "sequential":
        layers = [conv, keras.layers.ReLU(), second, keras.layers.Activation("tanh"), pool, out]
        model = keras.Sequential([keras.Input(SHAPE), *layers])
    else:
        inputs = keras.Input(SHAPE)
        hidden = second(keras.ops.relu(conv(inputs)))
        if kind == "nested":
            head_in = keras.Input((4, 6, 5))
            head = keras.Model(head_in, out(pool(keras.ops.tanh(head_in))), name="head")
            model = keras.Model(inputs, head(hidden))
        else:
            model = keras.Model(inputs, out(pool(keras.ops.tanh(hidden))))
    model(keras.ops.zeros((1, *SHAPE)))
    conv.set_weights([w.conv, w.shift])
    second.set_weights([w.second])
    out.set_weights([w.out, w.bias])
    if kind == "reloaded":
        path = folder / "net.keras"
        model.save(path)
        return keras.models.load_model(path)
    return model


KERAS_KINDS = ["functional", "sequential", "subclassed", "nested", "reloaded"]
