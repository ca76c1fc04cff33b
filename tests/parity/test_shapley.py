"""Methods that remove features against shap's and captum's: equal where nothing is drawn, else no less accurate."""

from __future__ import annotations

import accuracy
import numpy as np
import pytest
import torch
from captum import attr

import xai_core as xai
from xai_core.testing import assert_close

shap = pytest.importorskip("shap")

torch.manual_seed(0)
NET = torch.nn.Sequential(torch.nn.Linear(9, 24), torch.nn.Tanh(), torch.nn.Linear(24, 3)).double().eval()
X, DATA = torch.randn(3, 9).double(), torch.randn(5, 9).double()
TARGET = 2


def outputs(x):
    return NET(torch.from_numpy(np.asarray(x, dtype=float))).detach().numpy()


def test_exact_values_equal_those_of_shap():
    masker = shap.maskers.Independent(DATA.numpy(), max_samples=len(DATA))
    wanted = shap.explainers.Exact(outputs, masker)(X.numpy()).values
    found = xai.ExactSHAP(background=DATA)(NET, X, target="all")
    assert_close(found.values.detach().numpy(), wanted, relative=1e-9)
    enumerated = xai.KernelSHAP(samples=len(DATA) * 2**9, background=DATA)(NET, X, target=TARGET)
    assert_close(enumerated.values.numpy(), wanted[..., TARGET], relative=1e-9)
    kernel = shap.KernelExplainer(outputs, DATA.numpy()).shap_values(X.numpy(), nsamples=2**10, l1_reg=0, silent=True)
    assert_close(enumerated.values.numpy(), kernel[..., TARGET], relative=1e-7)


def test_owen_values_equal_those_of_shap():
    import scipy.cluster.hierarchy

    tree = scipy.cluster.hierarchy.linkage(np.random.default_rng(0).normal(size=(9, 4)), "complete")
    masker = shap.maskers.Partition(np.zeros((1, 9)), clustering=tree)
    wanted = shap.explainers.Partition(outputs, masker)(X.numpy(), max_evals=2000, silent=True).values
    found = xai.PartitionSHAP(hierarchy=tree)(NET, X, target="all")
    assert_close(found.values.detach().numpy(), wanted, relative=1e-9)


@pytest.mark.parametrize("baseline", [0.0, 0.3])
def test_ablation_equals_that_of_captum(baseline):
    labels = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 5])
    wanted = attr.FeatureAblation(NET).attribute(X, baselines=baseline, target=TARGET, feature_mask=labels[None])
    found = xai.FeatureAblation(features=labels, baseline=baseline)(NET, X, target=TARGET)
    assert_close(found.values.numpy(), wanted.numpy(), relative=1e-12)


def test_values_of_features_equal_those_of_captum():
    """captum gives each element the whole value of its feature; here that is `features.values`."""
    labels = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 5])
    wanted = attr.ShapleyValues(NET).attribute(X, target=TARGET, feature_mask=labels[None])
    found = xai.ExactSHAP(features=labels)(NET, X, target=TARGET)
    # captum sums in single precision.
    assert_close(found.features.values.numpy()[:, labels], wanted.numpy(), relative=1e-5)


@pytest.mark.parametrize("peer", accuracy.PEERS)
def test_error_at_the_same_rows_is_no_larger_than_that_of(peer):
    """Mean squared error to the exact values, over four kinds of games and twenty seeds."""
    found = [accuracy.compare(peer, game, *size, 20) for size in ((8, 60), (10, 120)) for game in accuracy.GAMES]
    assert accuracy.ratio(found) <= 1.0, found
