"""Metrics of faithfulness on Keras models, on the Keras backend of this process: the same numbers as over NumPy."""

from __future__ import annotations

import os
from functools import cache

import faithful
import mapnets
import pytest
from frameworks import need

import xai_core as xai
from xai_core import metrics

need("keras", os.environ.get("KERAS_BACKEND", "tensorflow"))

from keras import ops


@cache
def net(kind):
    return mapnets.keras_net(kind)


def given():
    return ops.convert_to_tensor(mapnets.images())


@pytest.mark.parametrize("metric", faithful.METRICS)
def test_same_as_over_numpy(metric):
    faithful.check(net("functional"), given(), "products", metric, ops.convert_to_numpy)


@pytest.mark.parametrize("kind", ["sequential", "subclassed", "nested"])
@pytest.mark.parametrize("metric", ["Deletion", "Infidelity noise", "ROAD"])
def test_kinds_of_models(metric, kind):
    faithful.check(net(kind), given(), "slopes", metric, ops.convert_to_numpy)


@pytest.mark.parametrize("metric", ["Deletion", "Infidelity", "ROAD", "AverageDrop"])
def test_class_activation_maps(metric):
    faithful.check_map(net("functional"), given(), metric, ops.convert_to_numpy)


def test_a_table_of_all():
    explanation = xai.InputXGradient()(net("functional"), mapnets.images(), target=faithful.TARGET)
    table = metrics.evaluate(
        net("functional"), {"a": explanation}, faithful.METRICS, seed=faithful.SEED, progress=False
    )
    for name, scores in faithful.expected("products")[1].items():
        faithful.close(table.scores["a"][name], scores)
