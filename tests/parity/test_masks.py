"""Methods that mask against lime, captum, xplique and PAIR's saliency.

The same fits on the same neighbours, else the same order; Occlusion value by value.
"""

from __future__ import annotations

import literal_masks as literal
import numpy as np
import pytest
import torch
from captum import attr
from captum._utils.models.linear_model import SkLearnLinearRegression
from scipy.stats import spearmanr

import xai_core as xai
from xai_core.attribution import lime as own

lime_base = pytest.importorskip("lime.lime_base")
lime_tabular = pytest.importorskip("lime.lime_tabular")
lime_image = pytest.importorskip("lime.lime_image")

torch.manual_seed(0)
NET = torch.nn.Sequential(torch.nn.Linear(12, 24), torch.nn.Tanh(), torch.nn.Linear(24, 3), torch.nn.Softmax(-1))
NET = NET.double().eval()
DATA = torch.randn(300, 12).double() * torch.linspace(0.5, 2, 12).double()
X = DATA[:4]
TARGET = 2


def outputs(x):
    return NET(torch.from_numpy(np.asarray(x, dtype=float))).detach().numpy()


@pytest.mark.parametrize("count", [3, 6, 9, 12])
def test_fits_on_the_same_neighbours_equal_those_of_lime(count):
    """Coefficients, intercept, R^2 and what is selected, given neighbours and distances."""
    rng = np.random.default_rng(count)
    base = lime_base.LimeBase(lambda d: np.sqrt(np.exp(-(d**2) / 0.25**2)))
    for _ in range(5):
        z = np.concatenate([np.ones((1, 12)), rng.random((80, 12)) < 0.5])
        scores = z @ rng.normal(size=12) + rng.normal(size=81)
        distance = 1 - np.sqrt(z.mean(axis=1))
        intercept, named, r2, _ = base.explain_instance_with_data(z, scores[:, None], distance, 0, count)
        wanted = np.zeros(12)
        for feature, value in named:
            wanted[feature] = value
        design = own._Design(z, distance, 0.25)
        centred = scores - np.average(scores, weights=design.weights)
        chosen = design.selected(centred, count)
        found = design.estimate(chosen, 1.0) @ centred
        np.testing.assert_array_equal(chosen, np.flatnonzero(wanted))
        np.testing.assert_allclose(found, wanted[chosen], atol=1e-10)
        values, at, explained = literal.ridge(z[:, chosen], scores, design.weights, 1.0)
        np.testing.assert_allclose([at, explained], [intercept, r2], atol=1e-10)
        np.testing.assert_allclose(values, found, atol=1e-10)


def correlations(runs, found):
    """Rank correlation with the mean of a peer's runs, and of its runs with that mean."""
    mean = np.mean(runs, axis=0)
    among = np.mean([spearmanr(run, np.mean(np.delete(runs, i, axis=0), axis=0))[0] for i, run in enumerate(runs)])
    return spearmanr(found, mean)[0], among


@pytest.mark.parametrize("discretize", [False, True])
def test_tables_have_the_order_of_lime(discretize):
    """At the same number of rows, as near to the mean of lime's runs as one of these is."""
    for i in range(len(X)):
        runs = []
        for seed in range(5):
            peer = lime_tabular.LimeTabularExplainer(
                DATA.numpy(), discretize_continuous=discretize, sample_around_instance=True, random_state=seed
            )
            said = peer.explain_instance(
                X[i].numpy(), outputs, labels=(TARGET,), num_features=12, num_samples=2001
            ).as_map()[TARGET]
            runs.append(np.array([value for _, value in sorted(said)]))
        method = xai.LIME(samples=2000, background=DATA, discretize=discretize)
        found = method(NET, X[i : i + 1], target=TARGET).values[0].numpy()
        near, among = correlations(np.stack(runs), found)
        assert near > min(0.9, among - 0.1), (near, among)
        if not discretize:
            np.testing.assert_allclose(found, np.mean(runs, axis=0), atol=0.1 * np.abs(found).max())


def test_images_have_the_order_of_lime():
    """On the same segments."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(16 * 16 * 3, 3)) / 12
    net = lambda x: torch.softmax(torch.tanh(x.reshape(len(x), -1) @ torch.from_numpy(weights)) * 2, -1)  # noqa: E731
    picture = rng.random(size=(16, 16, 3))
    segments = (np.arange(16)[:, None] // 4) * 4 + np.arange(16)[None, :] // 4
    runs = []
    for seed in range(4):
        peer = lime_image.LimeImageExplainer(random_state=seed)
        said = peer.explain_instance(
            picture,
            lambda x: net(torch.tensor(x)).numpy(),
            labels=(1,),
            hide_color=0,
            num_samples=1001,
            segmentation_fn=lambda _: segments,
        )
        runs.append(np.array([value for _, value in sorted(said.local_exp[1])]))
    wrapped = xai.wrap(lambda x: net(torch.tensor(x)).numpy(), channel_axis=-1)
    method = xai.LIME(samples=1000, features=segments[None, :, :, None])
    found = method(wrapped, picture[None], target=1).features.values[0]
    near, among = correlations(np.stack(runs), found)
    assert near > among - 0.05, (near, among)
    np.testing.assert_allclose(found, np.mean(runs, axis=0), atol=0.1 * np.abs(found).max())


def test_values_are_nearer_to_the_fit_of_all_coalitions_than_those_of_captum():
    """captum's Lime with the same distance and width, least squares, at the same rows, over ten seeds."""
    every = np.array([[n >> i & 1 for i in range(12)] for n in range(2**12)], dtype=float)
    distance = 1 - np.sqrt(every.mean(axis=1))
    weights = np.exp(-(distance**2) / (2 * 0.25**2))
    wanted = literal.ridge(every, outputs(every * X[0].numpy())[:, TARGET], weights, 0.0)[0]

    def similarity(_, __, z, **___):
        return float(np.exp(-((1 - np.sqrt(float(z.mean()))) ** 2) / (2 * 0.25**2)))

    peer = attr.LimeBase(
        NET,
        SkLearnLinearRegression(),
        similarity,
        lambda x, **_: torch.bernoulli(torch.full((1, 12), 0.5)).double(),
        True,
        lambda z, x, **_: x * z,
        lambda z, x, **_: z,
    )
    theirs, ours = [], []
    for seed in range(10):
        torch.manual_seed(seed)
        theirs.append(peer.attribute(X[:1], target=TARGET, n_samples=200)[0].numpy())
        ours.append(
            xai.LIME(samples=200, mode="image", penalty=0.0)(NET, X[:1], target=TARGET, seed=seed).values[0].numpy()
        )
    squares = [np.mean((np.stack(values) - wanted) ** 2) for values in (ours, theirs)]
    assert squares[0] < squares[1], squares


@pytest.mark.parametrize(("size", "value"), [(1, 0), (4, 0.2), (5, -1.0)])
def test_occlusion_equals_that_of_pair(size, value):
    """PAIR moves its window by one pixel and sums over the windows that cover a pixel, where we average."""
    pair = pytest.importorskip("saliency.core")
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(6 * 8 * 10, 3)
    )
    net = net.double().eval()
    picture = np.random.default_rng(0).random(size=(10, 12, 3))

    def call(images, call_model_args=None, expected_keys=None):
        with torch.no_grad():
            scores = net(torch.from_numpy(np.moveaxis(images, -1, 1).copy()))
        return {pair.base.OUTPUT_LAYER_VALUES: scores[:, TARGET].numpy()}

    theirs = np.moveaxis(pair.Occlusion().GetMask(picture, call, size=size, value=value), -1, 0)
    x = torch.from_numpy(np.moveaxis(picture, -1, 0)[None].copy())
    found = xai.Occlusion(window=size, stride=1, baseline=value)(net, x, target=TARGET).values[0].numpy()
    along = [np.convolve(np.ones(length - size + 1), np.ones(size)) for length in (10, 12)]
    np.testing.assert_allclose(found * np.multiply.outer(*along), theirs, rtol=1e-9, atol=1e-12)


def test_maps_have_the_order_of_xplique():
    """RISE, Sobol and HSIC indices of a region of an image, where xplique is installed."""
    pytest.importorskip("xplique")
    import keras
    import tensorflow as tf
    from xplique.attributions import HsicAttributionMethod, Rise, SobolAttributionMethod

    mark = np.zeros((24, 24, 3), dtype="float32")
    mark[6:12, 12:18] = 0.05
    mark[0:6, 0:6] = -0.03
    mark[12:18, 6:12] = 0.02
    x = np.abs(np.random.default_rng(0).normal(size=(1, 24, 24, 3))).astype("float32")
    entry = keras.Input((24, 24, 3))
    logit = keras.layers.Lambda(lambda v: tf.tensordot(v, tf.constant(mark), 3)[:, None])(entry)
    net = keras.Model(entry, keras.layers.Activation("sigmoid")(keras.layers.Concatenate()([logit, -logit])))
    one = np.array([[1.0, 0.0]], dtype="float32")
    tiles = xai.Patches(6)

    theirs = np.asarray(Rise(net, nb_samples=4000, grid_size=7).explain(x, one)).reshape(24, 24)
    ours = xai.RISE(samples=4000)(net, x, target=0).values[0, ..., 0]
    assert np.corrcoef(theirs.ravel(), ours.ravel())[0, 1] > 0.95
    theirs = np.asarray(SobolAttributionMethod(net, grid_size=4, nb_design=256).explain(x, one)).reshape(24, 24)[
        3::6, 3::6
    ]
    ours = xai.SobolAttribution(samples=256 * 17, features=tiles)(net, x, target=0).features.values.reshape(4, 4)
    assert np.corrcoef(theirs.ravel(), ours.ravel())[0, 1] > 0.98
    theirs = np.asarray(HsicAttributionMethod(net, grid_size=4, nb_design=1500).explain(x, one)).reshape(24, 24)[
        3::6, 3::6
    ]
    ours = xai.HSICAttribution(samples=1500, features=tiles)(net, x, target=0).features.values.reshape(4, 4)
    assert np.corrcoef(theirs.ravel(), ours.ravel())[0, 1] > 0.95
