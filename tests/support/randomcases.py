"""What random weights of `rulenets.even` are, written out once, and what holds for every model that has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import rulenets

import xai_core as xai
from xai_core.explanation import to_host
from xai_core.randomise import randomised, weighted_layers
from xai_core.testing import assert_close

NAMES = ("conv1", "bn1", "conv2", "out")
CHOICES = (NAMES, ("out",), ("bn1",), ("conv1",), ("conv2", "out"))
SEED = 5


def weights_of(adapted, x):
    return adapted.weights(adapted.read(x), x)


def expected(chosen: tuple[str, ...], x: np.ndarray) -> np.ndarray:
    """Scores with random weights in layers, from the definition."""
    held = dict(rulenets.held("even"))
    for place, name in enumerate(NAMES):
        if name not in chosen:
            continue
        if name == "bn1":
            held[name] = held[name]._replace(scale=np.ones(3), shift=np.zeros(3))
        else:
            kernel = held[name].weight
            key = (3_000_000, place, 0, kernel.ndim, 0)
            generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(SEED, spawn_key=key)))
            drawn = generator.standard_normal(kernel.shape, dtype=np.float32)
            held[name] = type(held[name])(drawn * kernel.std(), 0 * held[name].bias)
    x = x.astype(np.float64)
    bn = held["bn1"]
    x = (convolved(x, held["conv1"]) - bn.mean) / np.sqrt(bn.variance + rulenets.EPSILON) * bn.scale + bn.shift
    x = convolved(np.maximum(x, 0), held["conv2"]).mean((1, 2))
    return x @ held["out"].weight + held["out"].bias


def convolved(x: np.ndarray, layer: Any) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    total: Any = layer.bias
    for i in range(3):
        for j in range(3):
            total = total + padded[:, i : i + x.shape[1], j : j + x.shape[2]] @ layer.weight[i, j]
    return total


def check(model: Any, x: Any, named: Any = str, state: Any = None, cam: str | None = None) -> None:
    """Scores, explanations, and that the model stays as it is.

    Parameters
    ----------
    named
        What a layer is called in this framework, from its name in `rulenets`.
    state
        Arrays of the user's model now.
    cam
        Layer for class activation maps.
    """
    host = rulenets.inputs("even")
    before, scores = state(), to_host(xai.wrap(model)(x))
    assert_close(scores, expected((), host))
    layers = weighted_layers(model, x)
    assert layers == tuple(map(named, NAMES))
    for chosen in CHOICES:
        found = randomised(model, x, [named(name) for name in chosen], SEED)
        assert_close(to_host(found(x)), expected(chosen, host))
        assert weighted_layers(found, x) == layers
    assert not np.allclose(to_host(randomised(model, x, layers, 6)(x)), to_host(randomised(model, x, layers, 7)(x)))
    # One after the other is all at once: what a layer gets does not depend on the others.
    cascade = randomised(randomised(model, x, layers[:2], SEED), x, layers[2:], SEED)
    assert_close(to_host(cascade(x)), expected(NAMES, host))
    batched = xai.wrap(model, batch_size=2)
    found = randomised(batched, x, layers, SEED)
    assert found.batch_size == 2
    explainers = [xai.Gradient(), xai.LRP(rules="epsilon"), xai.IntegratedGradients(steps=3)]
    explainers += [xai.GradCAM(layer=cam)] if cam else []
    for explainer in explainers:
        old, new = (to_host(explainer(given, x, target=1).values) for given in (batched, found))
        assert old.shape == new.shape
        assert np.abs(old - new).max() > 1e-2 * np.abs(old).max(), explainer
        assert_close(to_host(explainer(batched, x, target=1).values), old, relative=0.0)
    # Completeness of LRP and the finite difference of the score say that those were of the random model.
    gradient, step = to_host(xai.Gradient()(found, x, target=1).values), 1e-3 * host
    flat = np.moveaxis(gradient, 1, -1) if gradient.shape[1:] != host.shape[1:] else gradient
    change = (expected(NAMES, host + step) - expected(NAMES, host - step))[:, 1] / 2
    assert_close((flat * step).sum((1, 2, 3)), change, relative=1e-3)
    after = state()
    assert len(after) == len(before)
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(before, after, strict=True))
    assert np.array_equal(to_host(xai.wrap(model)(x)), scores)
