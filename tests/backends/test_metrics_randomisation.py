"""Metrics of randomisation: planted answers, their definitions, and the same numbers on every framework."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import rulenets
import scipy.stats
from frameworks import need

import xai_core as xai
from xai_core import metrics
from xai_core.attribution.base import Attribution, Explainer
from xai_core.explanation import to_host
from xai_core.metrics import randomisation
from xai_core.randomise import randomised, weighted_layers
from xai_core.streams import Streams

need("torch", "jax", "flax", "tensorflow", "skimage")

import jax.numpy as jnp
import tensorflow as tf
import torch

HOST = rulenets.inputs("even")
FIRST = HOST.transpose(0, 3, 1, 2).copy()
MODELS = {
    "torch": (rulenets.torch_net("even", "modules"), torch.from_numpy(FIRST)),
    "jax": (rulenets.jax_net("even", "nnx"), jnp.asarray(HOST)),
    "tensorflow": (rulenets.tensorflow_net("even"), tf.constant(HOST)),
}
NET, X = MODELS["torch"]
LAYERS = ("conv1", "bn1", "conv2", "out")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Ignorant(Explainer):
    """Knows nothing of the model: the input, or a map of one value."""

    differentiates: ClassVar[bool] = False
    flat: float | None = None

    def attribute(self, problem):
        xp = problem.xp
        made = [leaf if self.flat is None else xp.full_like(leaf, self.flat) for leaf in problem.varied]
        return Attribution([value[...] for value in made])


METRICS = [
    metrics.RandomLogit(),
    metrics.RandomLogit(samples=2, similarity="cosine"),
    metrics.RandomLogit(similarity="ssim"),
    metrics.MPRT(),
    metrics.MPRT(order="bottom_up", similarity="pearson", absolute=True),
    metrics.MPRT(order="independent", similarity="ssim"),
    metrics.SmoothMPRT(samples=3, noise=0.2),
    metrics.EfficientMPRT(bins=20),
]


@pytest.mark.parametrize("explainer", [xai.Gradient(), xai.SmoothGrad(samples=3)], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_the_same_on_every_framework(metric, explainer):
    wanted = None
    for model, x in MODELS.values():
        found = metric(model, explainer(model, x, seed=4))
        wanted = found if wanted is None else wanted
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
        if wanted.curve is not None:
            np.testing.assert_allclose(found.curve, wanted.curve, rtol=1e-5, atol=1e-5)
            np.testing.assert_array_equal(found.at, wanted.at)
    assert np.unique(np.round(wanted.values, 6)).size == 3


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_batch_size_does_not_matter(metric, kind):
    model, x = MODELS[kind]
    wanted = metric(model, xai.Gradient()(model, x))
    for size in (2, 7):
        sized = xai.wrap(model, batch_size=size)
        np.testing.assert_allclose(metric(sized, xai.Gradient()(sized, x)), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("flat", [None, 0.0, 2.0])
@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_an_explainer_that_ignores_the_model(metric, flat):
    """The same map is the same map, also if nothing can be correlated."""
    for model, x in MODELS.values():
        found = metric(model, _Ignorant(flat=flat)(model, x))
        np.testing.assert_array_equal(found, 0.0 if isinstance(metric, metrics.EfficientMPRT) else 1.0)


def spearman(a, b):
    return np.array([scipy.stats.spearmanr(one.ravel(), two.ravel()).statistic for one, two in zip(a, b, strict=True)])


@pytest.mark.parametrize("order", ["top_down", "bottom_up", "independent"])
def test_mprt_equals_its_definition(order):
    explainer = xai.InputXGradient()
    found = explainer(NET, X)
    got = metrics.MPRT(order=order)(NET, found, seed=5)
    names = LAYERS[::-1] if order == "top_down" else LAYERS
    assert got.details["layers"] == names
    assert got.curve.shape == (3, 4)
    for place, name in enumerate(names):
        chosen = [name] if order == "independent" else names[: place + 1]
        other = explainer(randomised(NET, X, chosen, 5), X, target=found.target)
        np.testing.assert_allclose(
            got.curve[:, place], spearman(to_host(found.values), to_host(other.values)), rtol=1e-9
        )
    np.testing.assert_allclose(got.values, got.curve.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(got.at, [1, 2, 3, 4] if order == "independent" else [0.25, 0.5, 0.75, 1.0])
    assert got.rows == (3 + 3 * 4, 3 * 4)


def test_the_explained_class_stays():
    """With random weights another class may be predicted; target 2 stays target 2."""
    for target in (0, 2):
        found = xai.Gradient()(NET, X, target=target)
        got = metrics.MPRT(order="independent")(NET, found)
        other = xai.Gradient()(randomised(NET, X, ["conv1"], 0), X, target=target)
        np.testing.assert_allclose(got.curve[:, 0], spearman(to_host(found.values), to_host(other.values)), rtol=1e-9)


def test_smooth_mprt_is_the_test_of_smoothgrad():
    found = xai.Gradient()(NET, X, seed=3)
    got = metrics.SmoothMPRT(samples=4, noise=0.2)(NET, found)
    smooth = xai.SmoothGrad(xai.Gradient(), samples=4, noise=0.2)(NET, X, seed=3)
    wanted = metrics.MPRT()(NET, smooth)
    np.testing.assert_allclose(got.curve, wanted.curve, rtol=1e-12)
    assert got.rows == (3 + 4 * 3 * (4 + 1), 4 * 3 * (4 + 1))
    assert np.abs(got.curve - metrics.MPRT()(NET, found).curve).max() > 0.01


def entropy(values, bins):
    low, high = values.min(), values.max()
    counts = {}
    for value in values.ravel():
        place = min(int((value - low) / (high - low) * bins), bins - 1)
        counts[place] = counts.get(place, 0) + 1
    shares = np.array(list(counts.values())) / values.size
    return -(shares * np.log(shares)).sum()


def test_efficient_mprt_equals_its_definition():
    found = xai.Gradient()(NET, X)
    got = metrics.EfficientMPRT(bins=30)(NET, found, seed=5)
    other = xai.Gradient()(randomised(NET, X, LAYERS, 5), X, target=found.target)
    for i in range(3):
        before, after = (entropy(to_host(each.values)[i].astype(float), 30) for each in (found, other))
        np.testing.assert_allclose(got.values[i], (after - before) / before, rtol=1e-9)
        np.testing.assert_allclose([got.details["complexity"][i], got.details["randomised"][i]], [before, after])
    # A map of two values, half of each: the entropy of a coin. A map of one value has none, which is not divided by.
    halves = np.where(np.arange(8) < 4, 1.0, 5.0)[None]
    np.testing.assert_allclose(randomisation._entropies(halves, 10), np.log(2))
    np.testing.assert_array_equal(randomisation._entropies(np.array([[0.1 + 0.2, 0.3, 0.3]]), 10), 0.0)
    flat = replace(found, values=torch.ones_like(found.values))
    got = metrics.EfficientMPRT(bins=30)(NET, flat, seed=5)
    np.testing.assert_allclose(got, got.details["randomised"])


def test_random_logit_equals_its_definition():
    explainer = xai.InputXGradient()
    found = explainer(NET, X, seed=6)
    target = to_host(found.target)
    got = metrics.RandomLogit()(NET, found)
    for i in range(3):
        other = [name for name in range(3) if name != target[i]]
        chosen = other[np.argmin(Streams.of(6, [i]).uniform([0], [0], 2, randomisation.CLASS_PART))]
        assert got.details["classes"][i, 0] == chosen
        two = to_host(explainer(NET, X[i : i + 1], target=chosen).values)
        np.testing.assert_allclose(got.values[i], spearman(to_host(found.values)[i : i + 1], two)[0], rtol=1e-9)
    both = metrics.RandomLogit(samples=9)(NET, found)
    np.testing.assert_array_equal(
        np.sort(both.details["classes"], axis=1), [[c for c in range(3) if c != t] for t in target]
    )
    wanted = [
        np.mean(
            [
                spearman(to_host(found.values)[i : i + 1], to_host(explainer(NET, X[i : i + 1], target=c).values))[0]
                for c in range(3)
                if c != target[i]
            ]
        )
        for i in range(3)
    ]
    np.testing.assert_allclose(both, wanted, rtol=1e-9)
    assert both.rows == (3 + 6, 6)


def test_similarities_by_hand():
    found = xai.Gradient()(NET, X[:1])
    a, b = np.array([[1.0, 2, 3, -4]]), np.array([[2.0, 3, 9, 1]])
    for name, wanted in (
        ("spearman", 1.0),
        ("pearson", np.corrcoef(a[0], b[0])[0, 1]),
        ("cosine", (a @ b.T).item() / np.sqrt(30 * 95)),
    ):
        alike = metrics.MPRT(similarity=name).alike
        np.testing.assert_allclose(alike(found, a)(b), wanted)
        # One map without differences has nothing in common with another; two of them agree in all they say.
        np.testing.assert_allclose(alike(found, a)(np.zeros((1, 4))), 0.0)
        np.testing.assert_allclose(alike(found, np.zeros((1, 4)))(np.zeros((1, 4))), 1.0)
    for name in ("spearman", "pearson"):
        np.testing.assert_allclose(
            metrics.MPRT(similarity=name).alike(found, np.ones((1, 4)))(np.full((1, 4), 3.0)), 1.0
        )
    np.testing.assert_allclose(metrics.MPRT(absolute=True).alike(found, a)(-a), 1.0)
    np.testing.assert_allclose(metrics.MPRT().alike(found, a)(-a), -1.0)
    own = metrics.MPRT(similarity=lambda one, two: -np.abs(one - two).sum(axis=1))
    np.testing.assert_allclose(own.alike(found, a)(b), -13.0)


def test_ssim_is_that_of_scikit_image():
    from skimage.metrics import structural_similarity

    found, other = xai.Gradient()(NET, X, target=0), xai.Gradient()(NET, X, target=1)
    a, b = to_host(found.values).astype(float), to_host(other.values).astype(float)
    got = metrics.RandomLogit(similarity="ssim").alike(found, a.reshape(3, -1))(b.reshape(3, -1))
    for i in range(3):
        span = max(a[i].max(), b[i].max()) - min(a[i].min(), b[i].min())
        wanted = structural_similarity(a[i], b[i], channel_axis=0, data_range=span, win_size=7)
        np.testing.assert_allclose(got[i], wanted, rtol=1e-12)


def test_metrics_share_randomised_models():
    """Cascades of one explainer from both ends meet where all is random, and the efficient test asks for that alone."""
    found = xai.Gradient()(NET, X)
    chosen = [
        metrics.MPRT(),
        metrics.MPRT(similarity="cosine"),
        metrics.MPRT(order="bottom_up"),
        metrics.EfficientMPRT(),
    ]
    together = metrics.evaluate(NET, found, chosen, progress=False)
    assert together.rows == (3 + 3 * (4 + 3), 3 * (4 + 3))
    for metric, cell in zip(chosen, together.scores["gradient"].values(), strict=True):
        np.testing.assert_array_equal(cell.values, metric(NET, found))


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(randomisation, "KEPT", 2 * 3 * 128 * 8)
    found = xai.Gradient()(NET, X)
    chosen = {"a": metrics.MPRT(), "b": metrics.MPRT()}
    rows = metrics.evaluate(NET, found, chosen, progress=False).rows
    assert rows == (3 + 3 * (4 + 2), 3 * (4 + 2))


def test_the_model_stays_as_it_was():
    before = {name: value.clone() for name, value in NET.state_dict().items()}
    for metric in METRICS:
        metric(NET, xai.Gradient()(NET, X))
    for name, value in NET.state_dict().items():
        assert torch.equal(value, before[name])


def test_layers_and_units():
    """Maps of a layer, and of a unit inside the model, of the randomised model at the same places."""
    for explainer in (xai.GradCAM(layer="conv2"), xai.Gradient(layer="conv1"), xai.Gradient(neuron="conv2")):
        target = (1, 2, 3) if explainer.neuron else 1
        found = explainer(NET, X, target=target)
        got = metrics.MPRT(order="independent")(NET, found)
        other = explainer(randomised(NET, X, ["conv2"], 0), X, target=target)
        np.testing.assert_allclose(got.curve[:, 2], spearman(to_host(found.values), to_host(other.values)), rtol=1e-6)


def test_what_cannot_be_judged_is_refused():
    for make in (
        lambda: metrics.MPRT(order="sideways"),
        lambda: metrics.MPRT(similarity="distance"),
        lambda: metrics.RandomLogit(samples=0),
        lambda: metrics.SmoothMPRT(samples=0),
        lambda: metrics.SmoothMPRT(noise=-1.0),
        lambda: metrics.EfficientMPRT(bins=1),
    ):
        with pytest.raises(xai.OptionError):
            make()
    function = xai.wrap(lambda x: x.reshape(len(x), -1)[:, :3] ** 2)
    with pytest.raises(xai.CapabilityError, match="weights"):
        metrics.MPRT()(function, xai.Occlusion()(function, HOST))
    with pytest.raises(xai.OptionError, match="another class"):
        metrics.RandomLogit()(NET, xai.Gradient()(NET, X, target=lambda scores: scores[:, 0] - scores[:, 1]))
    single = xai.wrap(lambda x: x.reshape(len(x), -1)[:, :1] ** 2)
    with pytest.raises(xai.OptionError, match="another class"):
        metrics.RandomLogit()(single, xai.Occlusion()(single, HOST))
    table = torch.nn.Sequential(torch.nn.Linear(5, 3)).eval()
    with pytest.raises(xai.OptionError, match="SSIM"):
        metrics.RandomLogit(similarity="ssim")(table, xai.Gradient()(table, torch.ones(2, 5)))
    with pytest.raises(xai.OptionError, match="number for each sample"):
        metrics.RandomLogit(similarity=lambda a, b: 0.0)(NET, xai.Gradient()(NET, X))
    assert weighted_layers(NET, X) == LAYERS


def test_directions():
    for metric in METRICS:
        assert metric.category == "randomisation"
        assert metric.higher_is_better is isinstance(metric, metrics.EfficientMPRT)
