"""Metrics of faithfulness against captum, pytorch-grad-cam, PAIR's saliency, Quantus and xplique; and where they differ.

Quantus is called with `abs=False, normalise=False, softmax=False`: it changes explanations and scores, we do not.
"""

from __future__ import annotations

import warnings

import literal_metrics as literal
import numpy as np
import pytest
from frameworks import need
from torchvision_models import declare

need("torch", "captum", "quantus", "saliency", "pytorch_grad_cam")

import torch
from captum.metrics import infidelity
from scipy.spatial.distance import pdist, squareform

import xai_core as xai
from xai_core import metrics
from xai_core.metrics import correlations
from xai_core.metrics.ground import PIXELS, Ground, open_ground
from xai_core.metrics.statistics import spearman

declare()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import quantus

    cam = pytest.importorskip("pytorch_grad_cam.metrics.road")
    pic = pytest.importorskip("saliency.metrics.pic")

RNG = np.random.default_rng(0)
WEIGHTS = torch.from_numpy(RNG.normal(size=(2, 1, 8, 8)).astype("float32"))
X = RNG.normal(size=(3, 1, 8, 8)).astype("float32")
TARGET = np.array([0, 1, 0])
SLOPES = np.stack([WEIGHTS[k].numpy() for k in TARGET])
PRODUCTS = X * SLOPES
MAP = RNG.normal(size=X.shape).astype("float32")


class Recording(torch.nn.Module):
    """Keeps what it was shown."""

    def __init__(self, weights=WEIGHTS):
        super().__init__()
        self.weights, self.seen = weights, []

    def logits(self, x):
        self.seen.append(x.numpy().copy())
        return (x[:, None] * self.weights[None]).sum((2, 3, 4))


class Linear(Recording):
    def forward(self, x):
        return self.logits(x.detach())


class Bent(Recording):
    def forward(self, x):
        return torch.tanh(self.logits(x.detach()) / 3) + 0.1 * (x**2).sum((1, 2, 3))[:, None]


class Chance(Recording):
    def forward(self, x):
        return torch.softmax(self.logits(x.detach()), -1)


def judged(name, model, values, x=X, target=TARGET, softmax=False, **options):
    """What Quantus says of values."""
    plain = {"abs": False, "normalise": False, "disable_warnings": True, "return_aggregate": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(quantus, name)(**plain, **options)(
            model=model.eval(),
            x_batch=x.copy(),
            y_batch=target.copy(),
            a_batch=values.copy(),
            channel_first=True,
            softmax=softmax,
            device="cpu",
        )


def told(values, x=X, target=TARGET):
    return xai.Explanation(torch.from_numpy(values), torch.from_numpy(x), target, None, None)


# captum


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("noise", [None, 0.2])
def test_infidelity_equals_that_of_captum(noise, scaled):
    """The same perturbations; values are slopes there, and there is no other way."""
    model, x = Bent(WEIGHTS.double()), torch.from_numpy(X).double()
    explanation = xai.Explanation(torch.from_numpy(SLOPES).double(), x, TARGET, None, None)
    metric = metrics.Infidelity(samples=12, noise=noise, slopes=True, scaled=scaled)
    found = metric(model, explanation, seed=2)
    with open_ground(model, explanation, metric, None, 2) as ground:
        if noise is None:
            gone = correlations.generator(2, 64, correlations._DESIGN).random((12, 64)) < 0.5
            place = np.take_along_axis(gone[None].repeat(3, 0), ground.chance_columns(PIXELS)[:, None].repeat(12, 1), 2)
            taken = torch.from_numpy(place.reshape(3, 12, 1, 8, 8)) * x[:, None]
        else:
            drawn = [part[0] for part, _ in ground.noisy(noise, 12, correlations.NOISE_PART)]
            spread = ground.on_host(ground.spreads(noise)[0])[:, None]
            taken = -torch.from_numpy(spread * np.concatenate(drawn, axis=1))
    flat = taken.reshape(36, 1, 8, 8)
    theirs = infidelity(
        model,
        lambda rows: (flat, rows - flat),
        x,
        explanation.values,
        target=torch.from_numpy(TARGET),
        n_perturb_samples=12,
        normalize=scaled,
    )
    np.testing.assert_allclose(found, theirs.numpy(), rtol=1e-6)


# pytorch-grad-cam


ARRAY_WRAP = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
"""Theirs, of PyTorch tensors that are handed to NumPy functions."""


def images(channels=3, side=8, seed=4):
    rng = np.random.default_rng(seed)
    weights = torch.from_numpy(rng.normal(size=(3, channels, side, side)).astype("float32") / 4)
    x = rng.normal(size=(2, channels, side, side)).astype("float32")
    return Bent(weights), x, rng.random(size=(2, side, side)).astype("float32")


@ARRAY_WRAP
def test_road_equals_that_of_pytorch_grad_cam(monkeypatch):
    """Without noise; percentiles are those of what is kept there, and its scores are changes of the score."""
    monkeypatch.setattr(cam.torch, "randn_like", torch.zeros_like)
    model, x, values = images()
    given, wanted = torch.from_numpy(x), [lambda out: out[1], lambda out: out[1]]
    said = told(values[:, None], x, 1)
    whole = model(given)[:, 1].numpy()
    for percentile in (25, 50, 75):
        for order, kind in (("most", cam.ROADMostRelevantFirst), ("least", cam.ROADLeastRelevantFirst)):
            theirs = kind(percentile)(given, values, wanted, model)
            found = metrics.ROAD(percentages=(100 - percentile,), order=order, noise=0.0)(model, said)
            np.testing.assert_allclose(found - whole, theirs, atol=2e-5)
    theirs = cam.ROADCombined([25, 50, 75])(given, values, wanted, model)
    found = metrics.ROAD(percentages=(25, 50, 75), noise=0.0)(model, said)
    np.testing.assert_allclose(found, theirs, atol=2e-5)
    assert np.abs(theirs).min() > 0.01


@ARRAY_WRAP
@pytest.mark.parametrize("share", [0.2, 0.8])
def test_imputed_pixels_equal_those_of_pytorch_grad_cam(share):
    holes = np.random.default_rng(3).random((9, 12)) < share
    image = RNG.normal(size=(2, 9, 12)).astype("float32")
    theirs = cam.NoisyLinearImputer(noise=0.0)(torch.from_numpy(image), torch.from_numpy(~holes * np.float32(1)))
    wanted = literal.imputed(np.moveaxis(image, 0, -1), holes)
    np.testing.assert_allclose(np.moveaxis(theirs.numpy(), 0, -1), wanted, atol=1e-5)


# PAIR


def test_information_curves_equal_those_of_pair(monkeypatch):
    """The same blurred image: PAIR blurs anew at each share, from the pixels that are sharp so far."""
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # which NumPy 2.4 has dropped
    rng = np.random.default_rng(6)
    picture = rng.integers(0, 256, size=(16, 20, 3)).astype(np.uint8)
    picture[0, 0], picture[0, 1] = 0, 255  # both ends of the range, to which we scale
    dull, values = (picture // 8 + 100).astype(np.uint8), rng.normal(size=(16, 20))
    pattern = (picture.astype(float) - picture.mean()) / 3e5

    def chance(rows):
        return 1 / (1 + np.exp(-4 * np.tensordot(np.asarray(rows, dtype=float), pattern, axes=3)))

    def blurred(full_img, pixel_mask):
        return np.where(pixel_mask[..., None], full_img, dull)

    monkeypatch.setattr(pic, "create_blurred_image", blurred)
    shares = (0.1, 0.3, 0.6)
    theirs = pic.compute_pic_metric(
        picture, values, np.zeros((16, 20), dtype=bool), chance, shares, min_pred_value=0.0, num_data_points=100
    )
    model = xai.wrap(lambda x: chance(x)[:, None], channel_axis=-1)
    said = xai.Explanation(values[None, :, :, None], picture[None].astype("float64"), 0, None, None)
    metric = metrics.SoftmaxInformationCurve(shares=shares, baseline=dull[None].astype("float64"), score=None)
    found = metric(model, said)
    np.testing.assert_allclose(found.curve[0], theirs.curve_y, atol=1e-12)
    np.testing.assert_allclose(found[0], theirs.auc, atol=1e-12)
    assert 0.01 < found.curve[0, 30] < 0.99


# Quantus, where it is right


@pytest.mark.parametrize("softmax", [False, True])
def test_pixel_flipping_equals_that_of_quantus(softmax):
    """Its curve has no point for the input as it is."""
    model = Bent()
    theirs = np.array(judged("PixelFlipping", model, MAP, softmax=softmax, perturb_baseline=0.3))
    metric = metrics.PixelFlipping(steps=None, baseline=0.3, score="probability" if softmax else None)
    np.testing.assert_allclose(metric(model, told(MAP)).curve[:, 1:], theirs, atol=1e-6)


@pytest.mark.parametrize("order", ["most", "least"])
def test_region_perturbation_equals_that_of_quantus(order):
    """What is lost at each step. The mean over steps counts no step of zero regions there: by L instead of L + 1."""
    model = Bent()
    named = {"most": "morf", "least": "lerf"}[order]
    theirs = np.array(
        judged("RegionPerturbation", model, MAP, perturb_baseline=0.0, patch_size=2, regions_evaluation=7, order=named)
    )
    found = metrics.RegionPerturbation(features=xai.Patches(2), regions=7, order=order)(model, told(MAP))
    np.testing.assert_allclose((found.curve[:, :1] - found.curve)[:, 1:], theirs, atol=2e-6)
    np.testing.assert_allclose(found, theirs.mean(axis=1) * 7 / 8, atol=2e-6)


def test_selectivity_equals_that_of_quantus():
    model = Bent()
    theirs = np.array(judged("Selectivity", model, MAP, perturb_baseline=0.0, patch_size=2))
    found = metrics.Selectivity(features=xai.Patches(2))(model, told(MAP))
    np.testing.assert_allclose(found.curve[:, 1:], theirs, atol=1e-6)


def test_faithfulness_estimate_equals_that_of_quantus():
    model = Bent()
    theirs = judged("FaithfulnessEstimate", model, MAP, perturb_baseline=0.1)
    np.testing.assert_allclose(
        metrics.FaithfulnessEstimate(features=PIXELS, baseline=0.1)(model, told(MAP)), theirs, atol=1e-4
    )


def test_faithfulness_correlation_has_the_mean_of_that_of_quantus():
    """Over ten runs of each, which draw subsets of their own."""
    model, values = Bent(), PRODUCTS + MAP
    options = {"perturb_baseline": 0.0, "subset_size": 16, "nr_runs": 100}
    theirs = np.array([judged("FaithfulnessCorrelation", model, values, **options) for _ in range(10)])
    metric = metrics.FaithfulnessCorrelation(subset_size=16, samples=100)
    ours = np.array([metric(model, told(values), seed=seed).values for seed in range(10)])
    error = np.sqrt((theirs.var(axis=0, ddof=1) + ours.var(axis=0, ddof=1)) / 10)
    assert np.all(np.abs(theirs.mean(axis=0) - ours.mean(axis=0)) < 4 * error)
    assert error.max() < 0.05
    assert np.abs(ours.mean(axis=0)).min() > 0.1


def test_monotonicity_correlation_is_as_high_as_that_of_quantus():
    """Where it is known: values in the order of how uncertain the score of a linear model is without a pixel."""
    x = np.random.default_rng(8).uniform(size=X.shape).astype("float32")
    values = np.abs(SLOPES) * np.sqrt((x - 0.5) ** 2 + 1 / 12)
    theirs = judged("MonotonicityCorrelation", Linear(), values, x=x, nr_samples=100, perturb_baseline="uniform")
    found = metrics.MonotonicityCorrelation(samples=100, features=PIXELS)(Linear(), told(values, x))
    assert np.min(theirs) > 0.98
    assert np.min(found) > 0.98


def test_irof_equals_that_of_quantus(monkeypatch):
    """On the segments that it made, which its model is shown; it sums over segments, we average."""
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    rng = np.random.default_rng(1)
    model = Chance(torch.from_numpy(rng.normal(size=(3, 1, 24, 24)).astype("float32") / 20))
    x = rng.random(size=(1, 1, 24, 24)).astype("float32") + 0.1
    x[:, :, :12] += 1
    target = np.array([1])
    values = x * model.weights[1].numpy()[None]
    theirs = judged("IROF", model, values, x, target, perturb_baseline=0.0)
    shown = [rows[0, 0] != x[0, 0] for rows in model.seen[1:]]
    labels = np.full((1, 24, 24), -1)
    for number, gone in enumerate(shown):
        labels[0][gone & (labels[0] < 0)] = number
    assert labels.min() == 0
    found = metrics.IROF(features=labels, baseline=0.0)(model, told(values, x, target))
    assert found.curve.shape[1] == len(shown) + 1
    np.testing.assert_allclose(theirs, len(shown) - np.trapezoid(found.curve[:, 1:], axis=1), rtol=1e-6)


def test_road_equals_that_of_quantus():
    """Images of one channel, without noise: the share of the batch that is predicted as before."""
    rng = np.random.default_rng(1)
    model = Chance(torch.from_numpy(rng.normal(size=(2, 1, 16, 16)).astype("float32") / 4))
    x = rng.random(size=(8, 1, 16, 16)).astype("float32")
    target = model(torch.from_numpy(x)).argmax(-1).numpy()
    values = np.stack([x[i] * model.weights[target[i]].numpy() for i in range(8)])
    shares = [10, 20, 30, 50, 80]
    theirs = judged("ROAD", model, values, x, target, noise=0.0, percentages=shares)
    metric = metrics.ROAD(percentages=tuple(shares), order="most", noise=0.0, score="accuracy")
    found = metric(model, told(values, x, target))
    np.testing.assert_allclose(found.curve.mean(axis=0), [theirs[share] for share in shares])
    assert len(set(found.curve.mean(axis=0).tolist())) > 2


def test_infidelity_equals_that_of_quantus():
    """On the rows that it asks for."""
    model = Bent()
    theirs = judged("Infidelity", model, SLOPES, perturb_baseline=0.0, n_perturb_samples=2, perturb_patch_sizes=[4])
    score = lambda row: float(model(torch.from_numpy(row.astype("float32"))[None])[0, TARGET[i]])  # noqa: E731
    rows = model.seen[1:]
    for i in range(3):
        said = np.array([np.sum((X[i] - row[i]) * SLOPES[i]) for row in rows])
        lost = np.array([score(X[i]) - score(row[i]) for row in rows])
        np.testing.assert_allclose(np.ravel(theirs)[i], literal.infidelity(said, lost), rtol=1e-4)


def test_sufficiency_equals_that_of_quantus():
    """Its distance is divided by the standard deviation of each element, then by the largest of the batch.

    Here the elements have one standard deviation and maps one length, so that both distances have one order. A sample
    with no other near it is 0 there, 1 here.
    """
    rng = np.random.default_rng(2)
    rows = []
    for _ in range(5):
        row = rng.normal(size=4)
        rows += [sign * np.roll(row / np.linalg.norm(row), shift) for shift in range(4) for sign in (1, -1)]
    values = np.array(rows, dtype="float32").reshape(40, 1, 2, 2)
    x = rng.normal(size=values.shape).astype("float32")
    model = Chance(torch.from_numpy(rng.normal(size=(3, 1, 2, 2)).astype("float32")))
    target = np.zeros(40, dtype=int)
    far = squareform(pdist(values.reshape(40, 4), "cosine"))
    compared = 0
    for threshold in (0.2, 0.33, 0.6):
        theirs = np.ravel(judged("Sufficiency", model, values, x, target, threshold=threshold))
        found = metrics.Sufficiency(threshold=float(threshold**2 * far.max()))(model, told(values, x, target))
        some = found.details["alike"] > 0
        np.testing.assert_allclose(found[some], theirs[some], atol=1e-6)
        np.testing.assert_array_equal(theirs[~some], 0)
        np.testing.assert_array_equal(found[~some], 1)
        compared += some.sum()
    assert compared > 60


# Quantus, where it is not


def test_sensitivity_n_of_quantus_removes_the_largest_and_compares_samples():
    """Ancona et al. 2018 correlate over random subsets of one sample. For `w x` of a linear model that is 1 at each n.

    Quantus removes the n largest values, and correlates over the samples of the batch the sum of the last step's values
    alone with what all that are gone have cost.
    """
    model, step = Linear(), 4
    theirs = judged("SensitivityN", model, PRODUCTS, perturb_baseline=0.0, features_in_step=step)
    order = np.argsort(-PRODUCTS.reshape(3, -1), axis=1)
    flat = np.take_along_axis(PRODUCTS.reshape(3, -1), order, axis=1)
    for k in range(len(theirs)):
        gone = np.zeros((3, 64), dtype=bool)
        np.put_along_axis(gone, order[:, : (k + 1) * step], True, axis=1)
        np.testing.assert_array_equal(model.seen[k + 1].reshape(3, -1) == 0, gone)
        last, every = flat[:, k * step : (k + 1) * step].sum(axis=1), flat[:, : (k + 1) * step].sum(axis=1)
        np.testing.assert_allclose(theirs[k], np.corrcoef(last, every)[0, 1], atol=1e-3)
    assert np.min(theirs) < -0.5
    found = metrics.SensitivityN(sizes=tuple(range(4, 52, 4)))(Linear(), told(PRODUCTS))
    np.testing.assert_allclose(found.curve, 1.0, atol=1e-5)


def test_monotonicity_of_quantus_shows_the_baseline_alone():
    """Whatever the explanation is, the model sees one image, so that its score never falls."""
    for values in (PRODUCTS, -PRODUCTS, MAP):
        model = Linear()
        assert all(judged("Monotonicity", model, values, perturb_baseline=0.0, features_in_step=8))
        assert len(model.seen) == 8
        assert not np.any(model.seen)
    x = np.abs(X)
    rising = Linear(WEIGHTS.abs())
    products = x * np.stack([rising.weights[k].numpy() for k in TARGET])
    np.testing.assert_array_equal(metrics.Monotonicity(features=PIXELS)(rising, told(products, x)), 1.0)
    falling = Linear(-WEIGHTS.abs())
    np.testing.assert_array_equal(metrics.Monotonicity(features=PIXELS)(falling, told(-products, x)), 0.0)


def test_infidelity_of_quantus_draws_nothing():
    """Tiles go in the order of rows, one more each time, and every sample of perturbations is the same."""
    model = Bent()
    judged("Infidelity", model, SLOPES, perturb_baseline=0.0, n_perturb_samples=3, perturb_patch_sizes=[4])
    rows = model.seen[1:]
    assert len(rows) == 12
    for k in range(4):
        gone = np.zeros((8, 8), dtype=bool)
        for tile in range(k + 1):
            gone[4 * (tile // 2) : 4 * (tile // 2) + 4, 4 * (tile % 2) : 4 * (tile % 2) + 4] = True
        for again in range(3):
            np.testing.assert_array_equal(rows[4 * again + k][0, 0] == 0, gone)


def test_infidelity_of_quantus_takes_contributions_for_slopes():
    """Of a linear model `w x` is as right as `w`; theirs is 0 for one of them."""
    options = {"perturb_baseline": 0.0, "n_perturb_samples": 1, "perturb_patch_sizes": [2]}
    np.testing.assert_allclose(judged("Infidelity", Linear(), SLOPES, **options), 0, atol=1e-8)
    assert np.min(judged("Infidelity", Linear(), PRODUCTS, **options)) > 1
    np.testing.assert_allclose(metrics.Infidelity()(Linear(), told(PRODUCTS)), 0, atol=1e-8)
    np.testing.assert_allclose(metrics.Infidelity(slopes=True)(Linear(), told(SLOPES)), 0, atol=1e-8)


def test_black_of_quantus_is_the_smallest_value_of_a_sample():
    model, x = Linear(), X + 2
    judged("PixelFlipping", model, MAP, x=x, perturb_baseline="black", features_in_step=8)
    changed = model.seen[1] != x
    for i in range(3):
        assert np.unique(model.seen[1][i][changed[i]]).tolist() == [x[i].min()]
    assert x.min() > -2
    assert np.all(x.min(axis=(1, 2, 3)) != 0)


def test_irof_of_quantus_fills_with_the_mean_of_what_is_left(monkeypatch):
    """The mean of the image without the segments before: what a segment is filled with depends on its place."""
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    rng = np.random.default_rng(1)
    model = Chance(torch.from_numpy(rng.normal(size=(3, 1, 24, 24)).astype("float32") / 20))
    x = rng.random(size=(1, 1, 24, 24)).astype("float32")
    x[:, :, :12] += 1
    judged("IROF", model, x * model.weights[1].numpy()[None], x, np.array([1]), perturb_baseline="mean")
    rows = [row[0, 0] for row in model.seen]
    for k in range(1, 6):
        new = (rows[k] != x[0, 0]) & (rows[k - 1] == x[0, 0])
        np.testing.assert_allclose(np.unique(rows[k][new]), rows[k - 1].mean(), rtol=1e-6)
    assert abs(rows[5].mean() - x.mean()) > 1e-3


def test_road_of_quantus_fails_on_colours():
    """Ours takes an image of three channels position by position."""
    model, x, values = images()
    with pytest.raises(IndexError):
        judged("ROAD", model, np.repeat(values[:, None], 3, axis=1), x, np.array([1, 1]), noise=0.0, percentages=[50])
    assert np.isfinite(metrics.ROAD()(model, told(values[:, None], x, 1))).all()


# xplique


def test_deletion_insertion_and_fidelity_equal_those_of_xplique(monkeypatch):
    """Where it is installed. It averages over samples, and its fidelity is a rank correlation."""
    pytest.importorskip("xplique")
    import keras
    from xplique.metrics import Deletion, Insertion, MuFidelity

    rng = np.random.default_rng(0)
    entry = keras.Input((16, 16, 3))
    hidden = keras.layers.Conv2D(4, 3, activation="tanh", use_bias=False)(entry)
    net = keras.Model(entry, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(hidden)))
    x, values = (rng.normal(size=(4, 16, 16, size)).astype("float32") for size in (3, 1))
    one = np.eye(3, dtype="float32")[[1, 1, 1, 1]]
    said = xai.Explanation(values, x, 1, None, None)
    for steps in (16, 32):
        for baseline in (0.0, 0.5):
            theirs = Deletion(net, x, one, baseline_mode=baseline, steps=steps)(values[..., 0])
            found = metrics.Deletion(steps=steps, baseline=baseline)(net, said)
            np.testing.assert_allclose(found.mean(), theirs, atol=1e-6)
            theirs = Insertion(net, x, one, baseline_mode=baseline, steps=steps)(values[..., 0])
            found = metrics.Insertion(steps=steps, baseline=baseline)(net, said)
            np.testing.assert_allclose(found.mean(), theirs, atol=1e-6)
    peer, masks = MuFidelity(net, x, one, grid_size=8, nb_samples=200, batch_size=None), []
    perturb = peer._perturb_samples
    monkeypatch.setattr(peer, "_perturb_samples", lambda *a: masks.append(perturb(*a)) or masks[-1])
    theirs = peer(values[..., 0])
    gone = np.asarray(masks[0][1])[0, :, ::2, ::2, 0].reshape(200, 64) == 0
    np.testing.assert_allclose(ranked(monkeypatch, net, said, gone), theirs, atol=1e-5)


def ranked(monkeypatch, net, said, gone):
    """FaithfulnessCorrelation over given subsets, the same for all samples, of ranks."""
    monkeypatch.setattr(correlations, "pearson", spearman)
    monkeypatch.setattr(correlations, "_subsets", lambda *_: ("theirs", lambda: gone))
    monkeypatch.setattr(Ground, "chance_columns", lambda self, _: np.arange(64)[None].repeat(self.batch, 0))
    return metrics.FaithfulnessCorrelation(features=xai.Patches(2), subset_size=1)(net, said).mean()
