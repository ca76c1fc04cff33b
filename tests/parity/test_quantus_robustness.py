"""Metrics of robustness and randomisation against captum and Quantus, with the same changed inputs; and where they differ.

Quantus is called with `abs=False, normalise=False`: it changes explanations before it judges them, we do not.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from frameworks import need
from torchvision_models import declare

need("torch", "captum", "quantus")

import torch
from captum.metrics import sensitivity_max

import xai_core as xai
from xai_core import metrics
from xai_core.attribution.base import Attribution, Explainer
from xai_core.metrics import robustness
from xai_core.streams import Streams
from xai_core.testing import assert_close

declare()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import quantus

PLAIN = {"abs": False, "normalise": False, "disable_warnings": True}
SHAPE, RADIUS, SAMPLES = (3, 8, 8), 0.1, 5


class Net(torch.nn.Module):
    """Positive weights: gradients stay away from zero, by which relative changes are divided."""

    def __init__(self, classes=4):
        super().__init__()
        self.inner, self.out = torch.nn.Linear(192, 6), torch.nn.Linear(6, classes)
        with torch.no_grad():
            self.inner.weight.uniform_(0.01, 0.03)
            self.out.weight.uniform_(0.3, 1.0)

    def forward(self, x):
        return self.out(torch.tanh(self.inner(torch.flatten(x, 1).to(self.out.weight.dtype)) - 2.0))


class Two(torch.nn.Module):
    """Weights of both signs, two classes."""

    def __init__(self):
        super().__init__()
        self.inner, self.out = torch.nn.Linear(192, 5), torch.nn.Linear(5, 2)

    def forward(self, x):
        return self.out(torch.tanh(self.inner(torch.flatten(x, 1).to(self.out.weight.dtype))))


torch.manual_seed(0)
NET = Net().double().eval()
X = (1 + np.random.default_rng(0).random(size=(4, *SHAPE))) / 2
Y = NET(torch.from_numpy(X)).argmax(1).numpy()


def neighbours(radius=RADIUS):
    """The documented neighbours, (batch, samples, ...)."""
    out = []
    for i in range(len(X)):
        uniform = Streams.of(0, [i]).uniform([0], range(SAMPLES), 192, robustness.NEIGHBOUR_PART)[0]
        out.append(np.moveaxis(uniform.reshape(SAMPLES, 8, 8, 3), -1, 1))
    return (np.float32(radius) * (2 * np.stack(out) - 1)).astype(float)


def explain(model=None, inputs=None, targets=None, **options):
    inputs = torch.from_numpy(np.asarray(inputs, dtype=float).reshape(-1, *SHAPE))
    return xai.Gradient()(model, inputs, target=np.asarray(targets).astype(int)).values.numpy()


def forced(moves):
    """A perturbation for Quantus: one neighbour of all samples after the other."""
    calls = iter(range(10**6))

    def perturb(arr, **options):
        found = np.asarray(arr).reshape(-1, *SHAPE) + moves[:, next(calls) % moves.shape[1]]
        return found.reshape(np.shape(arr))

    return perturb


def judged(metric, model=NET, x=X, y=Y, a=None, function=explain):
    a = function(model, x, y) if a is None else a
    # Explanations keep their channels; that is the warning.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = metric(
            model=model, x_batch=x, y_batch=y, a_batch=a, explain_func=function, channel_first=True, device="cpu"
        )
    return found if isinstance(found, dict) else np.asarray(found, dtype=float)


FOUND = xai.Gradient()(NET, torch.from_numpy(X))


@pytest.mark.parametrize("norm", ["fro", 2])
def test_sensitivity_equals_that_of_captum(norm):
    moves = neighbours()

    calls = iter(range(SAMPLES))

    def one(inputs):
        return torch.from_numpy(inputs.numpy() + moves[:, next(calls)])

    def function(inputs, target):
        return xai.Gradient()(NET, inputs, target=target).values

    options = {"n_perturb_samples": SAMPLES, "max_examples_per_batch": 4, "target": torch.from_numpy(Y)}
    wanted = sensitivity_max(function, torch.from_numpy(X), perturb_func=one, norm_ord=norm, **options)
    found = metrics.MaxSensitivity(radius=RADIUS, samples=SAMPLES)(NET, FOUND)
    assert_close(found.values, wanted.numpy(), relative=1e-9)


METRICS = ["MaxSensitivity", "AvgSensitivity", "LocalLipschitzEstimate"]
METRICS += ["RelativeInputStability", "RelativeOutputStability", "RelativeRepresentationStability"]


@pytest.mark.parametrize("name", METRICS)
def test_near_inputs_equal_those_of_quantus(name):
    layer = {"layer_names": ["inner"]} if "Representation" in name else {}
    peer = getattr(quantus, name)(perturb_func=forced(neighbours()), nr_samples=SAMPLES, **PLAIN, **layer)
    own = {"layer": "inner"} if layer else {}
    found = getattr(metrics, name)(radius=RADIUS, samples=SAMPLES, **own)(NET, FOUND)
    assert np.all(found.details.get("kept", SAMPLES) == SAMPLES)
    assert_close(found.values, judged(peer), relative=1e-5)


@pytest.mark.parametrize("similarity", ["spearman", "pearson"])
def test_the_other_class_equals_that_of_quantus(similarity):
    """Of two classes there is one other."""
    torch.manual_seed(1)
    two = Two().double().eval()
    classes = two(torch.from_numpy(X)).argmax(1).numpy()
    function = getattr(quantus.similarity_func, f"correlation_{similarity}")
    wanted = judged(quantus.RandomLogit(similarity_func=function, num_classes=2, **PLAIN), two, y=classes)
    found = metrics.RandomLogit(similarity=similarity)(two, xai.Gradient()(two, torch.from_numpy(X)))
    assert_close(found.values, wanted, relative=1e-5)


# Where they differ


def test_quantus_loses_a_sample_for_one_neighbour():
    """Agarwal et al. compare with neighbours of the same class; Quantus returns NaN if any neighbour has another one."""
    torch.manual_seed(1)
    two = Two().double().eval()
    middle = two(torch.from_numpy(X)).mean(0)
    with torch.no_grad():
        two.out.bias -= middle
    classes = two(torch.from_numpy(X)).argmax(1).numpy()
    peer = quantus.RelativeInputStability(perturb_func=forced(neighbours(1.0)), nr_samples=SAMPLES, **PLAIN)
    wanted = judged(peer, two, y=classes)
    found = metrics.RelativeInputStability(radius=1.0, samples=SAMPLES)(two, xai.Gradient()(two, torch.from_numpy(X)))
    kept = found.details["kept"]
    np.testing.assert_array_equal(np.isnan(wanted), kept < SAMPLES)
    np.testing.assert_array_equal(np.isnan(found.values), kept == 0)
    assert np.any((kept > 0) & (kept < SAMPLES))


def test_quantus_refuses_constant_explanations():
    def ones(model=None, inputs=None, targets=None, **options):
        return np.ones((len(inputs), *SHAPE))

    peer = quantus.MaxSensitivity(perturb_func=forced(neighbours()), nr_samples=SAMPLES, **PLAIN)
    with pytest.raises(AssertionError):
        judged(peer, function=ones)

    class _Ones(Explainer):
        differentiates = False

        def attribute(self, problem):
            return Attribution([problem.xp.ones_like(leaf) for leaf in problem.varied])

    np.testing.assert_array_equal(metrics.MaxSensitivity()(NET, _Ones()(NET, torch.from_numpy(X))), 0.0)


def test_quantus_takes_the_scale_out_of_lipschitz_estimates_by_default():
    """Three times the explanation has three times the Lipschitz constant."""

    def thrice(model=None, inputs=None, targets=None, **options):
        return 3 * explain(model, inputs, targets)

    def peer(**options):
        options = {"perturb_func": forced(neighbours()), "nr_samples": SAMPLES, "disable_warnings": True} | options
        return quantus.LocalLipschitzEstimate(**options)

    assert_close(judged(peer(), function=thrice), judged(peer()), relative=1e-6)
    plain = judged(peer(normalise=False))
    assert_close(judged(peer(normalise=False), function=thrice), 3 * plain, relative=1e-6)


def test_quantus_counts_an_explanation_that_no_other_has_as_inconsistent():
    classes, maps = np.array([0, 0, 1, 1, 0]), np.array([[3.0, -2, 1, 0], [2, -3, 0, 1], [5, -4, 0, 0], [-3, 2, 0, 0]])
    maps = np.concatenate([maps, [[0, 0, 0, 9.0]]])

    class First(torch.nn.Module):
        def forward(self, x):
            return torch.flatten(x, 1)[:, :2]

    x = np.zeros((5, 1, 1, 4))
    x[np.arange(5), 0, 0, classes] = 1.0

    def labels(a, **options):
        order = np.argsort(-np.abs(np.ravel(a)), kind="stable")[:2]
        return hash(tuple(sorted((int(i), float(np.sign(np.ravel(a)[i]))) for i in order if np.ravel(a)[i])))

    peer = quantus.Consistency(discretise_func=labels, **PLAIN)
    wanted = judged(peer, First().eval(), x, classes, maps.reshape(x.shape))
    explanation = xai.Explanation(maps, x.reshape(5, 4), classes, None, None)
    found = metrics.Consistency(top=2)(xai.wrap(lambda values: values[:, :2]), explanation)
    known = found.details["matches"] > 0
    np.testing.assert_array_equal(known, [True, True, True, False, False])
    np.testing.assert_allclose(wanted[known], found.values[known], atol=1e-8)
    np.testing.assert_array_equal(wanted[~known], 0.0)
    np.testing.assert_array_equal(found.values[~known], 1.0)


def test_quantus_counts_the_model_itself_among_the_randomised_ones():
    peer = quantus.MPRT(similarity_func=quantus.similarity_func.correlation_spearman, **PLAIN)
    curve = judged(peer)
    assert list(curve) == ["original", "out", "inner"]
    np.testing.assert_allclose(curve["original"], 1.0)
    mean = quantus.MPRT(
        similarity_func=quantus.similarity_func.correlation_spearman, return_average_correlation=True, **PLAIN
    )
    np.testing.assert_allclose(judged(mean), np.mean(list(curve.values()), axis=0), rtol=1e-6)
    found = metrics.MPRT()(NET, FOUND)
    assert found.details["layers"] == ("out", "inner")
    np.testing.assert_allclose(found.values, found.curve.mean(axis=1))
    assert np.all(found.curve < 0.999)


def test_quantus_draws_classes_that_the_model_does_not_have():
    """By default it takes the model to have 1000."""
    seen = []

    def watched(model=None, inputs=None, targets=None, **options):
        seen.append(np.asarray(targets))
        return np.random.default_rng(0).normal(size=np.shape(inputs))

    judged(quantus.RandomLogit(**PLAIN), a=np.random.default_rng(1).normal(size=X.shape), function=watched)
    assert np.max(seen[-1]) >= 4
    found = metrics.RandomLogit(samples=10)(NET, FOUND)
    assert found.details["classes"].shape == (4, 3)
    for row, target in zip(found.details["classes"], Y, strict=True):
        assert sorted([*row, target]) == [0, 1, 2, 3]
