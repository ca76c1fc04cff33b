"""Transformers over token ids, explained at their embedding."""

from __future__ import annotations

import pytest
import texts
from frameworks import need

need("torch", "jax", "flax")


@pytest.mark.parametrize("build", [texts.torch_model, texts.jax_model], ids=["torch", "nnx"])
def test_padded_texts(build):
    texts.check(build())
