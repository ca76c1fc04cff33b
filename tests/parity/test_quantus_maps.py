"""Localisation, complexity and axioms against Quantus where it is right, and the cases on which it is not.

Where it differs, both numbers are planted answers: `docs/peers.md` says how each was decided.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from frameworks import need
from torchvision_models import declare

need("torch", "quantus")

import torch

import xai_core as xai
from xai_core import metrics

declare()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import quantus

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(4, 1, 8, 8))
MASKS = np.zeros((4, 1, 8, 8), dtype=bool)
MASKS[:, :, 2:5, 3:7] = True
MASKS[3, :, 0] = True


def theirs(name, values, masks=None, model=None, x=None, **options):
    """Scores by Quantus, with values as they are."""
    call: dict[str, Any] = {
        key: options.pop(key) for key in ("custom_batch", "explain_func", "softmax") if key in options
    }
    x = np.zeros(values.shape, dtype="float32") if x is None else x
    labels = np.zeros(len(values), dtype=int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = getattr(quantus, name)(**{"normalise": False, "disable_warnings": True, **options})
        found = metric(model=model, x_batch=x, y_batch=labels, a_batch=values.copy(), s_batch=masks, **call)
    return np.asarray(found, dtype=float)


def told(values, x=None):
    return xai.Explanation(values, values if x is None else x, 0, None, np.zeros(len(values)), channel_axis=1)


# Where both are right


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(
    ("name", "own", "options"),
    [
        ("PointingGame", metrics.PointingGame(), {}),
        ("TopKIntersection", metrics.TopKIntersection(k=7), {"k": 7}),
        ("TopKIntersection", metrics.TopKIntersection(k=40), {"k": 40}),
        (
            "TopKIntersection",
            metrics.TopKIntersection(k=7, concept_influence=True),
            {"k": 7, "concept_influence": True},
        ),
        ("RelevanceRankAccuracy", metrics.RelevanceRankAccuracy(), {}),
        ("RelevanceMassAccuracy", metrics.RelevanceMassAccuracy(sign="absolute"), {"abs": True}),
        (
            "AttributionLocalisation",
            metrics.AttributionLocalisation(),
            {"abs": False, "positive_attributions": True},
        ),
        ("AUC", metrics.AUC(), {}),
    ],
)
def test_localisation_equals_quantus(name, own, options, sign):
    values = sign * VALUES
    np.testing.assert_allclose(own(None, told(values), masks=MASKS), theirs(name, values, MASKS, **options), atol=1e-12)


def test_mass_of_maps_without_negative_values_equals_quantus():
    values = np.abs(VALUES)
    wanted = theirs("RelevanceMassAccuracy", values, MASKS)
    np.testing.assert_allclose(metrics.RelevanceMassAccuracy()(None, told(values), masks=MASKS), wanted, atol=1e-12)


def test_focus_equals_quantus():
    """Cells in the order of reading, 1 for images of the explained class."""
    cells = [(1, 1, 0, 0), (0, 1, 0, 1), (1, 0, 0, 1), (0, 0, 1, 1)]
    masks = np.kron(np.array(cells).reshape(4, 2, 2), np.ones((4, 4)))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)).eval()
    wanted = theirs("Focus", VALUES, model=model, custom_batch=cells)
    np.testing.assert_allclose(metrics.Focus()(None, told(VALUES), masks=masks), wanted, atol=1e-12)


def test_complexity_equals_quantus():
    for name, own in (
        ("Complexity", metrics.Complexity()),
        ("Sparseness", metrics.Sparseness()),
        ("EffectiveComplexity", metrics.EffectiveComplexity(epsilon=0.5)),
    ):
        options = {"eps": 0.5} if name == "EffectiveComplexity" else {}
        np.testing.assert_allclose(own(None, told(VALUES)), theirs(name, VALUES, **options), atol=1e-6)
    # With channels, its features are elements.
    values = RNG.normal(size=(2, 3, 6, 6))
    for name, own in (("Complexity", metrics.Complexity), ("Sparseness", metrics.Sparseness)):
        found = own(features=xai.Elements())(None, told(values))
        np.testing.assert_allclose(found, theirs(name, values), atol=1e-6)


# Where it is not


def test_weighted_localisation_depends_on_the_batch_there():
    """The same map and mask, once more and more often: 1 is chance in the paper, and 64 of 12 positions the most."""
    options = {"abs": False, "positive_attributions": True, "weighted": True}
    found = {}
    for size in (2, 3, 4, 8):
        masks = np.repeat(MASKS[:1], size, axis=0)
        with np.errstate(divide="ignore"):
            found[size] = float(theirs("AttributionLocalisation", masks * 2.0, masks, **options)[0])
        own = metrics.AttributionLocalisation(weighted=True)(None, told(masks * 2.0), masks=masks)
        np.testing.assert_allclose(own, 64 / 12)
    assert found[2] == np.inf
    np.testing.assert_allclose([found[3], found[4], found[8]], [12 / 64, 6 / 64, 2 / 64], atol=1e-9)


def test_mass_of_both_signs_is_no_share():
    """By hand: 1 in the mask, 2 and -2.5 outside: of 0.5 in all, 1 is twice."""
    values, masks = np.array([[[[1.0, 2.0], [-2.5, 0.0]]]]), np.array([[[[1, 0], [0, 0]]]], dtype=bool)
    np.testing.assert_allclose(theirs("RelevanceMassAccuracy", values, masks), 2.0)
    np.testing.assert_allclose(metrics.RelevanceMassAccuracy()(None, told(values), masks=masks), 1 / 3)


def test_ties_are_broken_by_place():
    """Four equal values, one of them in the mask: which one decides there, chance is a quarter."""
    values = np.zeros((1, 1, 4, 4))
    values[0, 0, :, 0] = 1.0
    found = {}
    for place in (0, 3):
        masks = np.zeros((1, 1, 4, 4), dtype=bool)
        masks[0, 0, place, 0] = masks[0, 0, 1, 1] = True
        for name, own, options in (
            ("TopKIntersection", metrics.TopKIntersection(k=2), {"k": 2}),
            ("RelevanceRankAccuracy", metrics.RelevanceRankAccuracy(), {}),
            ("PointingGame", metrics.PointingGame(), {}),
        ):
            found[name, place] = float(theirs(name, values, masks, **options)[0])
            assert own(None, told(values), masks=masks).tolist() == [0.25]
    assert found["TopKIntersection", 0] != found["TopKIntersection", 3]
    assert found["RelevanceRankAccuracy", 0] != found["RelevanceRankAccuracy", 3]
    assert found["PointingGame", 0] == found["PointingGame", 3] == 1.0  # any of them counts as a hit


def test_sparseness_depends_on_the_scale_of_small_values():
    small = metrics.Sparseness()(None, told(VALUES * 1e-6))
    np.testing.assert_allclose(small, metrics.Sparseness()(None, told(VALUES)), atol=1e-12)
    assert np.all(theirs("Sparseness", VALUES) - theirs("Sparseness", VALUES * 1e-6) > 0.02)


@pytest.mark.parametrize("name", ["PointingGame", "AUC", "Complexity", "Sparseness", "RelevanceRankAccuracy"])
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_maps_that_say_nothing_are_refused_by_an_assertion(name, value):
    with pytest.raises(AssertionError):
        theirs(name, np.full_like(VALUES, value), MASKS)


def test_masks_without_an_inside_or_outside_give_nan():
    for masks in (np.zeros_like(MASKS), np.ones_like(MASKS)):
        assert np.isnan(theirs("AUC", VALUES, masks)).all()
        with pytest.raises(xai.InputError):
            metrics.AUC()(None, told(VALUES), masks=masks)


WEIGHTS = np.where(np.arange(16) < 8, np.array([2.5, -2.0, 0.5, -1.0, 3.0, -0.5, 2.0, -3.0] * 2), 0.0)
IMAGES = np.random.default_rng(1).normal(size=(3, 1, 4, 4)).astype("float32")
PRODUCTS = (IMAGES * WEIGHTS.reshape(1, 1, 4, 4)).astype("float32")


class Linear(torch.nn.Module):
    def __init__(self, bias=0.0):
        super().__init__()
        self.dense = torch.nn.Linear(16, 2)
        with torch.no_grad():
            self.dense.weight.zero_()
            self.dense.weight[0] = torch.from_numpy(WEIGHTS)
            self.dense.bias.fill_(bias)

    def forward(self, x):
        return self.dense(torch.flatten(x, 1))


def test_non_sensitivity_of_a_linear_model():
    """Right there for logits and a replacement that no pixel has; ours is so for any number of features a step."""
    model = Linear().eval()
    one = np.where(np.arange(16).reshape(1, 1, 4, 4) == 1, IMAGES, 0.0).astype("float32")
    for values, wanted in ((PRODUCTS, 0), (one, 7), (1.0 + 0.1 * IMAGES, 8)):
        found = theirs("NonSensitivity", values, model=model, x=IMAGES, softmax=False, perturb_baseline=5.0)
        assert found.tolist() == [wanted] * 3
        for step in (1, 2, 5, 16):
            own = metrics.NonSensitivity(features_in_step=step)(model, told(values, IMAGES))
            assert own.tolist() == [wanted] * 3


def test_non_sensitivity_looks_at_probabilities_and_at_the_smallest_pixel():
    """By default there: a single output has the probability 1 always, and a pixel that is the darkest is not replaced."""
    single = torch.nn.Sequential(Linear(), torch.nn.Linear(2, 1, bias=False)).eval()
    with torch.no_grad():
        single[1].weight.copy_(torch.tensor([[1.0, 0.0]]))
    assert theirs("NonSensitivity", PRODUCTS, model=single, x=IMAGES).tolist() == [8, 8, 8]
    assert metrics.NonSensitivity()(single, told(PRODUCTS, IMAGES)).tolist() == [0, 0, 0]
    darkest = np.argmin(IMAGES.reshape(3, -1), axis=1)
    found = theirs("NonSensitivity", PRODUCTS, model=Linear().eval(), x=IMAGES, softmax=False)
    assert found.tolist() == [float(WEIGHTS[place] != 0) for place in darkest]
    assert found.max() == 1
    with pytest.raises(ValueError, match="broadcast"):
        theirs("NonSensitivity", PRODUCTS, model=single, x=IMAGES, features_in_step=2)


def test_completeness_of_a_linear_model():
    """There the two sides must be equal to the last bit; a bias, which cancels in the difference, rounds them apart."""
    exact = (np.round(IMAGES * 4) / 4).astype("float32")
    products = (exact * WEIGHTS.reshape(1, 1, 4, 4)).astype("float32")
    for bias, x, values in ((0.0, exact, products), (100.0, IMAGES, PRODUCTS)):
        model = Linear(bias).eval()
        found = theirs("Completeness", values, model=model, x=x, perturb_baseline=0.0)
        own = metrics.Completeness()(model, told(values, x))
        assert own.tolist() == [1, 1, 1]
        assert found.tolist() == ([0, 0, 0] if bias else [1, 1, 1])
        off = values.copy()
        off[:, 0, 0, 0] += 1.0
        assert metrics.Completeness()(model, told(off, x)).tolist() == [0, 0, 0]
        assert theirs("Completeness", off, model=model, x=x, perturb_baseline=0.0).tolist() == [0, 0, 0]


def test_black_is_the_smallest_pixel_in_completeness():
    """`black`, the default there: w (x - min x) is complete by it, w x is not."""
    x = (np.round(IMAGES * 4) / 4).astype("float32")
    model, weights = Linear().eval(), WEIGHTS.reshape(1, 1, 4, 4)
    darkest = x.min(axis=(1, 2, 3), keepdims=True)
    for values, wanted in ((x * weights, 0), ((x - darkest) * weights, 1)):
        values = values.astype("float32")
        assert theirs("Completeness", values, model=model, x=x).tolist() == [wanted] * 3
        assert metrics.Completeness()(model, told(values, x)).tolist() == [1 - wanted] * 3
        assert metrics.Completeness(baseline=darkest)(model, told(values, x)).tolist() == [wanted] * 3


def test_input_invariance_is_a_distance_not_equality_of_bits():
    """Gradients of a convolution net differ by rounding alone when a shift is undone; there that is a failure."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(12, 2)
    ).eval()

    def gradient(model, inputs, targets, **_):
        x = torch.from_numpy(np.asarray(inputs, dtype="float32")).requires_grad_(True)
        return torch.autograd.grad(model(x)[:, 0].sum(), x)[0].numpy()

    e = xai.Gradient()(net, IMAGES, target=0)
    np.testing.assert_allclose(gradient(net, IMAGES, None), e.values, atol=1e-6)
    found = theirs("InputInvariance", e.values, model=net, x=IMAGES, explain_func=gradient)
    assert found.tolist() == [0, 0, 0]
    np.testing.assert_allclose(metrics.InputInvariance(shift=-1.0)(net, e), 0, atol=1e-5)
