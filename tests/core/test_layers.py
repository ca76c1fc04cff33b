"""Names of layers, token grids and interpolation: what needs no framework."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xai_core as xai
from xai_core.attribution.cam import resize_matrix, token_grid
from xai_core.attribution.guided_path import blur_pair
from xai_core.layers import LayerInfo, find, parse


@pytest.mark.parametrize(
    ("text", "layer"),
    [
        ("conv", xai.Layer("conv")),
        ("layer4.1.conv2", xai.Layer("layer4.1.conv2")),
        ("blocks[2].conv", xai.Layer("blocks[2].conv")),
        ("block/conv#2", xai.Layer("block/conv", 2)),
        ("conv:input", xai.Layer("conv", io="input")),
        ("net/~/conv#3:output[1]", xai.Layer("net/~/conv", 3, "output", 1)),
        ("layers[0]#2:input[1]", xai.Layer("layers[0]", 2, "input", 1)),
    ],
)
def test_layers_are_written_as_text_and_read_again(text, layer):
    assert parse(text) == layer
    assert str(layer) == text


@given(
    st.sampled_from(["a", "a.b", "a[0].b", "a/b"]),
    st.none() | st.integers(1, 9),
    st.sampled_from(["input", "output"]),
    st.integers(0, 3),
)
def test_every_layer_survives_its_text(path, call, io, part):
    layer = xai.Layer(path, call, io, part)
    assert parse(str(layer)) == layer


def test_a_wrong_side_is_refused():
    with pytest.raises(xai.OptionError, match="output"):
        xai.Layer("conv", io="weights")


def test_names_nearby_are_given():
    rows = [
        LayerInfo(path, 1, 1, "Conv", ((1, 4, 8, 8),), ("float32",), ((1, 3, 8, 8),))
        for path in ("features.0", "features.3", "classifier")
    ]
    table = xai.LayerTable(rows)
    with pytest.raises(xai.LayerError, match=r"'features\.3'"):
        find(table, parse("feature.3"), "Net")
    assert find(table, parse("classifier"), "Net") == xai.Layer("classifier", 1)
    assert table[0].spatial


@pytest.mark.parametrize(
    ("tokens", "sizes", "grid"),
    [
        (196, (224, 224), (14, 14)),
        (197, (224, 224), (14, 14)),
        (201, (224, 224), (14, 14)),
        (50, (224, 224), (7, 7)),
        (257, (224, 224), (16, 16)),
        (7 * 9 + 1, (112, 144), (7, 9)),
        (230, (224, 224), None),
    ],
)
def test_token_grids(tokens, sizes, grid):
    assert token_grid(tokens, sizes) == grid


@given(st.integers(1, 12), st.integers(1, 40))
def test_interpolation_keeps_constants_and_lines(size, wanted):
    matrix = resize_matrix(size, wanted)
    assert np.allclose(matrix.sum(1), 1, atol=1e-12)
    assert np.all(matrix >= 0)
    place = np.clip((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0, size - 1)
    assert np.allclose(matrix @ np.arange(size), place, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.2, 0.9, 3.0])
def test_the_derivative_of_a_blur(sigma):
    below, above = blur_pair(9, sigma - 1e-6, 12)[0], blur_pair(9, sigma + 1e-6, 12)[0]
    matrix, slope = blur_pair(9, sigma, 12)
    assert np.allclose(matrix.sum(1), 1, atol=1e-12)
    assert np.allclose(slope, (above - below) / 2e-6, atol=1e-6)
