"""Kinds of JAX models in which layers are easily missed or mistaken."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from frameworks import need

import xai_core as xai
from xai_core.testing import assert_close

need("jax", "flax", "haiku", "equinox")

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import xai_jax
from flax import nnx

X = jax.random.normal(jax.random.key(0), (3, 8, 8, 3))
KEYS = jax.random.split(jax.random.key(1), 4)


class Inner(nn.Module):
    def setup(self):
        self.conv = nn.Conv(4, (3, 3))

    def __call__(self, x):
        return nn.relu(self.conv(x))


class Linen(nn.Module):
    stem: nn.Module
    rest: tuple

    def setup(self):
        self.conv, self.inner, self.out = nn.Conv(4, (3, 3)), Inner(), nn.Dense(3)

    def __call__(self, x):
        return self.out(self.inner(self.conv(self.rest[0](self.stem(x)))).mean((1, 2)))


def linen():
    model = Linen(nn.Conv(4, (3, 3), name="called"), (nn.Sequential([nn.Conv(4, (1, 1)), nn.relu]),))
    return model, model.init(jax.random.key(0), X)


def test_linen_modules_as_objects():
    model, variables = linen()
    wrapped, bound = xai.wrap(model, params=variables), model.bind(variables)
    for layer, path in (
        (bound.inner, "inner"),
        (bound.inner.conv, "inner/conv"),  # not the `conv` of the model itself
        (bound.conv, "conv"),
        (bound.rest[0], "rest_0"),
        (model.stem, "stem"),
        (model.rest[0].layers[0], "rest_0/layers_0"),
    ):
        found = xai.GradCAM(layer=layer)(wrapped, X, target=1)
        assert found.layer == path
        assert_close(found.values, xai.GradCAM(layer=path)(wrapped, X, target=1).values)
    other = Inner()
    strangers = [Inner(), other.bind(other.init(jax.random.key(0), X)).conv]
    for layer in strangers:
        with pytest.raises(xai.LayerError, match="no layer of"):
            xai.GradCAM(layer=layer)(wrapped, X)


class Equinox(eqx.Module):
    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    parts: dict
    out: eqx.nn.Linear

    def __init__(self):
        self.first = eqx.nn.Conv2d(3, 3, 3, padding=1, key=KEYS[0])
        self.second = self.first
        self.parts = {"norm": eqx.nn.GroupNorm(1, 3), "list": [eqx.nn.Conv2d(3, 4, 3, key=KEYS[1])]}
        self.out = eqx.nn.Linear(4, 3, key=KEYS[2])

    def __call__(self, x):
        x = self.parts["norm"](self.second(jax.nn.relu(self.first(x))))
        return self.out(jax.nn.relu(self.parts["list"][0](x)).mean((1, 2)))


def test_equinox_modules_as_objects():
    model, x = Equinox(), jnp.moveaxis(X, -1, 1)
    for layer, path in (
        (model.parts["norm"], "parts.norm"),
        (model.parts["list"][0], "parts.list[0]"),
        (model.out, "out"),
    ):
        assert xai.LayerActivation(layer=layer)(model, x).layer == path
    with pytest.raises(xai.LayerError, match=r"(?s)several layers.*'first', 'second'"):
        xai.GradCAM(layer=model.second)(model, x)


class Keyed(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)

    def __call__(self, *, image):
        return {"maps": self.conv(image)}


class Outer(nnx.Module):
    def __init__(self, rngs):
        self.keyed = Keyed(rngs)

    def __call__(self, x):
        return jnp.tanh(self.keyed(image=x)["maps"]).mean((1, 2))


def test_inputs_by_keyword():
    found = xai.wrap(Outer(nnx.Rngs(0))).read(X, ["keyed:input", "keyed", "keyed.conv"])
    assert_close(found["keyed:input"], X)
    assert_close(found["keyed"], found["keyed.conv"])


class Stacked(nnx.Module):
    """Its last convolutions run inside a scan."""

    def __init__(self, rngs):
        self.stem, self.out = nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

        @nnx.split_rngs(splits=2)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def make(rngs):
            return nnx.Conv(4, 4, (3, 3), rngs=rngs)

        self.stack = make(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x, conv):
            return nnx.relu(conv(x))

        return self.out(run(self.stem(x), self.stack).mean((1, 2)))


def with_own_derivative(function):
    ruled = jax.custom_jvp(function)
    ruled.defjvp(lambda x, tangent: (ruled(*x), 2 * tangent[0]))
    return ruled


def test_layers_inside_a_loop_are_said_to_be_there():
    model = Stacked(nnx.Rngs(0))
    assert [row.name for row in xai.layers(model, X)] == ["stem", "out"]
    with pytest.raises(xai.LayerError, match="'stack' is called inside a loop"):
        xai.GradCAM(layer="stack")(model, X)
    with pytest.raises(xai.LayerError, match=r"(?s)inside a loop.*'stack'.*earlier layer"):
        xai.GradCAM()(model, X)
    assert xai.GradCAM(layer="stem")(model, X).values.shape == (3, 8, 8, 1)
    for wrapping in (
        lambda f: lambda x: jax.lax.map(lambda row: f(row[None])[0], x),
        lambda f: lambda x: jax.lax.cond(x.sum() > 1e9, jnp.zeros_like, f, x),
        with_own_derivative,
    ):
        function = wrapping(lambda x: xai_jax.tap(jnp.tanh(x), "inside"))
        with pytest.raises(xai.LayerError, match="'inside' is called inside"):
            xai.GradCAM(layer="inside")(lambda x, f=function: f(x).mean((1, 2)), X)


def test_members_of_an_ensemble_are_no_samples():
    """As many members as samples, on the first axis, look as if they were samples."""

    class Ensemble(nnx.Module):
        def __init__(self, rngs):
            @nnx.split_rngs(splits=3)
            @nnx.vmap
            def make(rngs):
                return nnx.Conv(3, 4, (3, 3), rngs=rngs)

            self.members = make(rngs)

        def __call__(self, x):
            return jnp.tanh(nnx.vmap(lambda c, x: c(x), in_axes=(0, None))(self.members, x)).mean((0, 2, 3))

    model = Ensemble(nnx.Rngs(0))
    for explainer in (xai.Gradient(layer="members"), xai.GradCAM(layer="members"), xai.Gradient(neuron="members")):
        with pytest.raises(xai.LayerError, match="one row per sample"):
            explainer(model, X, target=(0, 0, 0, 0) if explainer.neuron else 1)


def test_a_unit_before_the_layer_is_refused():
    model = nnx.Sequential(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), jnp.tanh, nnx.Linear(4, 2, rngs=nnx.Rngs(1)))
    x = np.ones((2, 3), dtype="float32")
    with pytest.raises(xai.LayerError, match="comes before"):
        xai.Gradient(layer="layers[2]", neuron="layers[0]")(xai.wrap(model), x, target=1)
    assert np.any(xai.Gradient(layer="layers[0]", neuron="layers[2]")(model, x, target=1).values)


@pytest.mark.parametrize("library", ["haiku", "equinox"])
def test_libraries_without_the_modules_of_flax(library):
    """Haiku loads a part of Flax; a model must not be asked whether it is a module that was never loaded."""
    code = {
        "haiku": "import haiku as hk; net = hk.without_apply_rng(hk.transform(lambda x: hk.Linear(3)(x)));"
        "model = xai.wrap(net, params=net.init(jax.random.key(0), x))",
        "equinox": "import haiku, equinox as eqx; model = eqx.nn.Linear(4, 3, key=jax.random.key(0))",
    }[library]
    code = (
        f"import jax, xai_core as xai; x = jax.numpy.ones((2, 4)); {code}; print(xai.Gradient()(model, x).values.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "(2, 4)", done.stderr
