"""A small transformer over token ids with an attention mask, from the same weights in three frameworks."""

from __future__ import annotations

from typing import Any

import numpy as np

WORDS, WIDTH = 12, 6


def held() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    shapes = {
        "embedding": (WORDS, WIDTH),
        "q": (WIDTH, WIDTH),
        "k": (WIDTH, WIDTH),
        "v": (WIDTH, WIDTH),
        "out": (WIDTH, 2),
    }
    return {name: (rng.normal(size=shape) / np.sqrt(shape[0]) * 2).astype("float32") for name, shape in shapes.items()}


def texts() -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask of three padded texts; 0 pads."""
    ids = np.array([[3, 5, 7, 2, 9], [4, 1, 6, 0, 0], [8, 11, 0, 0, 0]])
    return ids, (ids > 0).astype("int32")


def scores(xp: Any, softmax: Any, embed: Any, mask: Any, w: dict[str, Any]) -> Any:
    """Attention over the words, tanh, mean over the words, dense."""
    hidden = xp.tanh(embed)
    weights = softmax(hidden @ w["q"] @ xp.swapaxes(hidden @ w["k"], -1, -2) + (mask[:, None, :] - 1.0) * 1e9)
    mixed = xp.tanh(weights @ (hidden @ w["v"])) * mask[:, :, None]
    return (mixed.sum(1) / mask.sum(1)[:, None]) @ w["out"]


def torch_model() -> Any:
    import torch

    w = {name: torch.from_numpy(array) for name, array in held().items()}

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding.from_pretrained(w["embedding"])
            self.eval()

        def forward(self, ids: Any, mask: Any) -> Any:
            softmax = lambda z: torch.softmax(z, -1)  # noqa: E731
            return scores(torch, softmax, self.embedding(ids), mask.to(torch.float32), w)

    return Net()


def jax_model() -> Any:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    w = {name: jnp.asarray(array) for name, array in held().items()}

    class Net(nnx.Module):
        def __init__(self) -> None:
            self.embedding = nnx.Embed(WORDS, WIDTH, rngs=nnx.Rngs(0))
            self.embedding.embedding[...] = w["embedding"]

        def __call__(self, ids: Any, mask: Any) -> Any:
            return scores(jnp, jax.nn.softmax, self.embedding(ids), mask.astype("float32"), w)

    return Net()


def keras_model() -> Any:
    import keras
    from keras import ops

    w = {name: ops.convert_to_tensor(array) for name, array in held().items()}

    class Mix(keras.layers.Layer):
        def call(self, embed: Any, mask: Any) -> Any:
            mask = ops.cast(mask, "float32")
            hidden = ops.tanh(embed)
            logits = ops.matmul(ops.matmul(hidden, w["q"]), ops.swapaxes(ops.matmul(hidden, w["k"]), -1, -2))
            weights = ops.softmax(logits + (mask[:, None, :] - 1.0) * 1e9)
            mixed = ops.tanh(ops.matmul(weights, ops.matmul(hidden, w["v"]))) * mask[:, :, None]
            return ops.matmul(ops.sum(mixed, 1) / ops.sum(mask, 1)[:, None], w["out"])

    ids, mask = keras.Input((None,), dtype="int32", name="ids"), keras.Input((None,), dtype="int32", name="mask")
    embedding = keras.layers.Embedding(WORDS, WIDTH, name="embedding")
    model = keras.Model({"ids": ids, "mask": mask}, Mix()(embedding(ids), mask))
    embedding.set_weights([held()["embedding"]])
    return model


def check(model: Any) -> None:
    """Explain padded texts at the embedding: complete, nothing on padding, the same alone and in a batch."""
    import pytest

    import xai_core as xai
    from xai_core.testing import assert_close

    ids, mask = texts()
    x = {"ids": ids, "mask": mask}
    with pytest.raises(xai.IntegerInputError, match="embedding"):
        xai.IntegratedGradients()(model, x, target=1)
    baseline = {"ids": np.zeros_like(ids), "mask": mask}
    ig = xai.IntegratedGradients(layer="embedding", steps=64, baseline=baseline)
    found = ig(model, x, target=1)
    assert found.values.shape == (3, 5, WIDTH)
    assert np.max(np.abs(found.residual)) < 1e-4
    assert np.max(np.abs(found.residual)) < 1e-3 * np.max(np.abs(found.values))
    assert not np.any(found.values[mask == 0])
    words = mask.sum(1)
    for row, count in enumerate(words):
        alone = {"ids": ids[row : row + 1, :count], "mask": mask[row : row + 1, :count]}
        ig_alone = xai.IntegratedGradients(
            layer="embedding", steps=64, baseline={"ids": 0 * alone["ids"], "mask": alone["mask"]}
        )
        assert_close(ig_alone(model, alone, target=1).values[0], found.values[row, :count], relative=1e-5)
    for explainer in (
        xai.Gradient(layer="embedding"),
        xai.SmoothGrad(xai.Gradient(), layer="embedding", samples=4),
        xai.ExpectedGradients(layer="embedding", background={"ids": ids[:2], "mask": mask[:2]}, samples=8),
        xai.Occlusion(layer="embedding", window=(1, WIDTH), baseline=baseline),
    ):
        values = explainer(model, x, target=1).values
        assert values.shape == (3, 5, WIDTH)
        if not isinstance(explainer, xai.ExpectedGradients):
            assert np.max(np.abs(values[mask == 0])) < 1e-6, explainer
    with pytest.raises(xai.IntegerInputError, match="embedding"):
        xai.SmoothGrad(xai.Gradient(layer="embedding"))(model, x, target=1)
    found.plot(names=[["a", "cat", "sat", "on", "mats"], ["not", "a", "dog"], ["yes", "!"]])
    found.plot(names=lambda i: f"word{i}")
    return found
