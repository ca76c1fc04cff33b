"""Explain photographs with EfficientNet-Lite0 in every framework present, and compare what they say."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from xai_core.attribution.base import Explainer
from xai_core.attribution.cam import (
    CAM,
    EigenCAM,
    EigenGradCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    NormGrad,
    SmoothGradCAMPlusPlus,
    XGradCAM,
)
from xai_core.attribution.gradient import Gradient, InputXGradient
from xai_core.attribution.noise import SmoothGrad, SquareGrad, VarGrad
from xai_core.attribution.occlusion import Occlusion
from xai_core.attribution.path import ExpectedGradients, IntegratedGradients
from xai_core.backend import Adapted, available
from xai_core.demo import lite0
from xai_core.errors import BackendError
from xai_core.explanation import Explanation
from xai_core.model import Model, wrap
from xai_core.targets import Pick

__all__ = ["Comparison", "Framework", "Result", "explainers", "load_frameworks", "run"]

_Host = np.ndarray[Any, Any]

FRAMEWORKS = {"torch": "PyTorch", "jax": "JAX", "keras": "Keras"}
LOGITS_AGREE = 1e-4
"""Largest difference of logits that is called agreement."""
_DRAWS = 16
_LOOP_ROWS = 8


@dataclass(frozen=True, eq=False)
class Framework:
    """The network in one framework; `channel_axis` is where its images have their channels."""

    name: str
    label: str
    model: Model
    channel_axis: int

    def inputs(self, images: _Host) -> _Host:
        """Images (batch, height, width, 3) as this network takes them."""
        return np.ascontiguousarray(np.moveaxis(images, -1, self.channel_axis))

    def outputs(self, values: _Host) -> _Host:
        """Attributions of this network as (batch, height, width, 3), maps as (batch, height, width, 1)."""
        return np.moveaxis(values, self.channel_axis, -1)


@dataclass(frozen=True, eq=False)
class Result:
    """One method in one framework; `values` is (batch, height, width, 3), `ratio` is to the plain loop."""

    framework: Framework
    explanation: Explanation
    values: _Host
    seconds: float
    ratio: float


@dataclass(frozen=True)
class Comparison:
    """How far two frameworks are apart on one method; `relative` is in the L2 norm, `correlation` of ranks."""

    pair: tuple[str, str]
    method: str
    largest: float
    relative: float
    correlation: float
    seconds: tuple[float, float]
    ratios: tuple[float, float]


@dataclass
class Report:
    """All that the report shows."""

    photographs: list[lite0.Photograph]
    images: _Host
    frameworks: list[Framework]
    missing: dict[str, str]
    logits: dict[str, _Host]
    results: dict[str, list[Result]] = field(default_factory=dict)

    @property
    def targets(self) -> _Host:
        """Predicted class of each photograph, from the first framework."""
        return np.argmax(next(iter(self.logits.values())), axis=1)

    def predictions(self, sample: int, count: int = 4) -> list[tuple[str, float]]:
        """Most probable classes of a photograph."""
        logits = next(iter(self.logits.values()))[sample].astype(np.float64)
        odds = np.exp(logits - logits.max())
        order = np.argsort(-odds)[:count]
        return [(lite0.class_name(int(i)), float(odds[i] / odds.sum())) for i in order]

    def logit_differences(self) -> list[tuple[str, str, float]]:
        """Largest difference of logits for each pair of frameworks."""
        return [(a, b, float(np.max(np.abs(self.logits[a] - self.logits[b])))) for a, b in combinations(self.logits, 2)]

    def comparisons(self) -> list[Comparison]:
        """Every pair of frameworks on every method."""
        return [_compare(method, a, b) for method, results in self.results.items() for a, b in combinations(results, 2)]


def run(images: Sequence[Path], out: Path, draws: int = _DRAWS) -> Report:
    """The main job: explain, compare, print the table, write the report.

    Parameters
    ----------
    images
        Files to explain; none for the two photographs that come along.
    out
        HTML file to write.
    draws
        Random draws per photograph of the sampling methods; Integrated Gradients takes twice as many steps.

    Raises
    ------
    XaiError
        If no framework is installed, or a photograph or the weights cannot be read.
    """
    from xai_core.demo.report import print_summary, status, write

    pictures = [lite0.read_photograph(path) for path in images] or lite0.photographs()
    weights = lite0.load_weights()
    frameworks, missing = load_frameworks(weights)
    if not frameworks:
        raise BackendError(
            "The demo needs at least one of PyTorch, JAX and Keras.", fix="pip install 'xai-core[all,demo]'"
        )
    inputs = np.stack([lite0.preprocess(picture.pixels) for picture in pictures])
    logits = {f.label: np.asarray(f.model(f.inputs(inputs))) for f in frameworks}
    report = Report(pictures, inputs, frameworks, missing, logits)
    loops = {f.name: _Loop(f, inputs) for f in frameworks}
    with status() as say:
        for explainer, warm_up in explainers(draws):
            method = type(explainer).__name__
            for framework in frameworks:
                say(f"{method} in {framework.label}")
                x = framework.inputs(inputs)
                _moved(warm_up, framework)(framework.model, x, target=report.targets)
                made = _moved(explainer, framework)
                explanation, seconds = _timed(partial(made, framework.model, x, target=report.targets))
                ratio = seconds / loops[framework.name].seconds(explanation.rows)
                values = framework.outputs(np.asarray(explanation.values))
                report.results.setdefault(method, []).append(Result(framework, explanation, values, seconds, ratio))
    print_summary(report)
    write(report, out)
    print(f"Report written to {out}")
    return report


def _timed(explain: Callable[[], Explanation]) -> tuple[Explanation, float]:
    """An explanation and its seconds; the best of three where they are few, and chance would decide."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        explanation = explain()
        best = min(best, time.perf_counter() - start)
        if best > 0.5:
            break
    return explanation, best


def explainers(draws: int) -> Iterator[tuple[Explainer, Explainer]]:
    """Each method, and a shorter run of it that compiles the same code, so that compiling is not timed."""
    few = min(draws, 4)
    # Real pictures: an image of one colour puts whole planes of units on one side of a kink, or within rounding of it.
    others = np.stack([lite0.preprocess(picture.pixels) for picture in lite0.photographs()])
    background = np.concatenate([others, others[:, :, ::-1]])
    yield Gradient(), Gradient()
    yield InputXGradient(), InputXGradient()
    yield IntegratedGradients(steps=2 * draws), IntegratedGradients(steps=min(2 * draws, _LOOP_ROWS))
    yield (
        ExpectedGradients(background=background, samples=draws),
        ExpectedGradients(background=background, samples=min(draws, _LOOP_ROWS)),
    )
    for noisy in (SmoothGrad, SquareGrad, VarGrad):
        yield noisy(samples=draws), noisy(samples=few)
    window = lite0.SIZE // 7
    yield Occlusion(window=window, stride=window), Occlusion(window=window, stride=window)
    # All but those that run the network once per channel: 1,280 times here.
    yield CAM(relu=True), CAM(relu=True)
    for cam in (GradCAM, GradCAMPlusPlus, XGradCAM, HiResCAM, LayerCAM, EigenCAM, EigenGradCAM, NormGrad):
        yield cam(), cam()
    yield SmoothGradCAMPlusPlus(samples=draws), SmoothGradCAMPlusPlus(samples=few)


def _moved(explainer: Explainer, framework: Framework) -> Explainer:
    """The same with images among its options in the framework's layout."""
    if isinstance(explainer, ExpectedGradients):
        return replace(explainer, background=framework.inputs(explainer.background))
    return explainer


def load_frameworks(weights: dict[str, _Host]) -> tuple[list[Framework], dict[str, str]]:
    """The network in every installed framework, and what is missing, with the command that installs it."""
    found: list[Framework] = []
    missing: dict[str, str] = {}
    installed = available()
    if installed["keras"] and "KERAS_BACKEND" not in os.environ:
        # Keras' own choice fails where TensorFlow is not installed.
        os.environ["KERAS_BACKEND"] = next((n for n in ("tensorflow", "jax", "torch") if installed[n]), "tensorflow")
    for name, label in FRAMEWORKS.items():
        try:
            module = importlib.import_module(f"xai_{name}.lite0")
        except ModuleNotFoundError as error:
            missing[label] = f"{error.name} is not installed: pip install 'xai-core[{name}]'"
            continue
        model = wrap(module.lite0(weights), batch_size=_LOOP_ROWS)
        if name == "keras":
            label = f"Keras on {model.backend}"
        found.append(Framework(name, label, model, 1 if name == "torch" else -1))
    return found, missing


class _Loop:
    """The plain loop: the same network, the same framework, rows forward or forward and backward, nothing else."""

    def __init__(self, framework: Framework, images: _Host) -> None:
        self._adapted: Adapted = framework.model.adapted  # type: ignore[assignment] # a module is always adapted
        backend = self._adapted.backend
        batch = np.resize(images, (_LOOP_ROWS, *images.shape[1:]))
        self._rows = backend.asarray(framework.inputs(batch), self._adapted.device)
        self._index = backend.asarray(np.zeros((_LOOP_ROWS, 1), dtype=np.int64), self._adapted.device)
        apply, xp, pick = self._adapted.apply, backend.xp, Pick()

        def score(params: Any, rows: Any, index: Any) -> Any:
            return pick(xp, apply(params, rows), index)

        def gradient(params: Any, rows: Any, index: Any) -> Any:
            value, pull = backend.vjp(lambda leaves: score(params, leaves[0], index), [rows])
            return pull(xp.ones_like(value))[0]

        self._forward, self._backward = backend.compile(score), backend.compile(gradient)
        with self._adapted.preserve():
            self._time(self._forward)
            self._time(self._backward)

    def _time(self, step: Callable[..., Any]) -> float:
        params, _ = self._adapted.read(self._rows)
        start = time.perf_counter()
        self._adapted.backend.to_numpy(step(params, self._rows, self._index))
        return time.perf_counter() - start

    def seconds(self, rows: tuple[int, int]) -> float:
        """Seconds for rows (forward, of which backward too), measured now on a few calls."""
        forward, backward = rows
        with self._adapted.preserve():
            return sum(
                count * min(self._time(step) for _ in range(2)) / _LOOP_ROWS
                for count, step in ((backward, self._backward), (forward - backward, self._forward))
                if count
            )


def _compare(method: str, a: Result, b: Result) -> Comparison:
    from scipy.stats import spearmanr

    difference = a.values.astype(np.float64) - b.values
    norm = float(np.linalg.norm(a.values.astype(np.float64)))
    return Comparison(
        pair=(a.framework.label, b.framework.label),
        method=method,
        largest=float(np.max(np.abs(difference))),
        relative=float(np.linalg.norm(difference)) / norm,
        correlation=float(spearmanr(a.values.sum(-1).ravel(), b.values.sum(-1).ravel()).statistic),
        seconds=(a.seconds, b.seconds),
        ratios=(a.ratio, b.ratio),
    )
