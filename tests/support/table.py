"""The one table of methods: an explainer, and what it must give. Every framework runs through all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import literal
import literal_shapley
import numpy as np

import xai_core as xai
from xai_core.streams import Streams

SEED = 11


@dataclass(frozen=True)
class Method:
    name: str
    explainer: xai.Explainer
    oracle: Callable[[Any, np.ndarray, np.ndarray], np.ndarray]
    """`oracle(net, x, target)` in float64."""

    def __str__(self) -> str:
        return self.name


def background(features: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(3, features)).astype("float32")


def _normal(x, draws):
    return Streams.of(SEED, range(len(x))).normal(range(len(x)), range(draws), x.shape[1:], part=0)


def _paths(x, draws, size):
    """The documented draws of ExpectedGradients, one sample at a time."""
    chosen, places = [], []
    for row in range(len(x)):
        generator = Streams.of(SEED, range(len(x))).generator(row, 0, 500_000)
        start = generator.random()
        laps = [np.argsort(generator.random(size)) for _ in range(-(-draws // size))]
        chosen.append(np.concatenate(laps)[:draws])
        places.append([(start + d * (5**0.5 - 1) / 2) % 1 for d in range(draws)])
    return np.array(chosen), np.array(places)


def _ig(rule, steps):
    return lambda net, x, target: literal.integrated_gradients(net, x, target, 0.25, rule, steps)


def methods(features: int = 6) -> list[Method]:
    """All methods on a table of `features` columns."""
    rows = [
        Method("Gradient", xai.Gradient(), literal.gradient),
        Method("Gradient absolute", xai.Gradient(absolute=True), lambda *a: np.abs(literal.gradient(*a))),
        Method("InputXGradient", xai.InputXGradient(), lambda net, x, t: x * literal.gradient(net, x, t)),
    ]
    for rule in ("gauss_legendre", "trapezoid", "riemann_left", "riemann_middle", "riemann_right"):
        explainer = xai.IntegratedGradients(steps=7, quadrature=rule, baseline=0.25)
        rows.append(Method(f"IntegratedGradients {rule}", explainer, _ig(rule, 7)))
    data = background(features)
    rows.append(
        Method(
            "ExpectedGradients",
            xai.ExpectedGradients(background=data, samples=8),
            lambda net, x, t: literal.expected_gradients(net, x, t, data.astype(float), *_paths(x, 8, len(data))),
        )
    )
    inner = xai.IntegratedGradients(steps=7, baseline=0.25)
    for name, restated in (
        ("SmoothGrad", literal.smooth_grad),
        ("SquareGrad", literal.square_grad),
        ("VarGrad", literal.var_grad),
    ):
        outer = getattr(xai, name)
        rows.append(
            Method(
                f"{name} of Gradient",
                outer(samples=6, noise=0.2),
                lambda net, x, t, restated=restated: restated(
                    lambda copy: literal.gradient(net, copy, t), x, _normal(x, 6), 0.2
                ),
            )
        )
        rows.append(
            Method(
                f"{name} of IntegratedGradients",
                outer(inner, samples=3, noise=0.1),
                lambda net, x, t, restated=restated: restated(
                    lambda copy: _ig("gauss_legendre", 7)(net, copy, t), x, _normal(x, 3), 0.1
                ),
            )
        )
    rows.append(
        Method(
            "Occlusion",
            xai.Occlusion(window=2, stride=1, baseline=0.5),
            lambda net, x, t: literal.occlusion(net, x, t, (2,), (1,), 0.5),
        )
    )
    rows.append(
        Method("Occlusion default", xai.Occlusion(), lambda net, x, t: literal.occlusion(net, x, t, (1,), (1,), 0.0))
    )
    rows.append(
        Method(
            "GuidedIntegratedGradients",
            xai.GuidedIntegratedGradients(steps=6, baseline=0.25, fraction=0.4, distance=0.2),
            lambda net, x, t: literal.guided_integrated_gradients(net, x, t, 0.25, 6, 0.4, 0.2),
        )
    )
    rows.append(
        Method(
            "SmoothTaylor",
            xai.SmoothTaylor(samples=6, noise=0.4),
            lambda net, x, t: literal.smooth_taylor(net, x, t, _normal(x, 6), 0.4),
        )
    )
    rows += _shapley(features)
    return rows


def _shapley(features: int) -> list[Method]:
    data, pairs = background(features), np.arange(features) // 2
    tree = ((0, 1), tuple(range(2, features)))

    def oracle(solve: Any, fillings: Any = 0.25, labels: Any = None) -> Callable[..., np.ndarray]:
        return lambda net, x, t: literal_shapley.explained(solve, net, x, t, fillings, labels)

    owen = lambda worth, players: literal_shapley.owen(worth, tree, players)  # noqa: E731
    exact, each = literal_shapley.shapley, {"baseline": 0.25}
    return [
        Method("ExactSHAP", xai.ExactSHAP(**each), oracle(exact)),
        Method("ExactSHAP background", xai.ExactSHAP(background=data), oracle(exact, data)),
        Method("ExactSHAP features", xai.ExactSHAP(features=pairs, **each), oracle(exact, labels=pairs)),
        Method("KernelSHAP enumerated", xai.KernelSHAP(samples=2**features, **each), oracle(exact)),
        Method("PartitionSHAP", xai.PartitionSHAP(hierarchy=tree, **each), oracle(owen)),
        Method(
            "FeatureAblation",
            xai.FeatureAblation(features=np.maximum(np.arange(features) - 1, -1), baseline=0.5),
            lambda net, x, t: literal.feature_ablation(net, x, t, np.maximum(np.arange(features) - 1, -1), 0.5),
        ),
    ]
