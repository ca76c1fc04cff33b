"""Architectures that people use, with random weights, and what the rule methods make of them.

`python tests/support/zoo.py` writes the table in `docs/zoo.md`, which `tests/backends/test_zoo.py` holds against the models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torchvision_models

import xai_core as xai
from xai_core.demo import lite0
from xai_core.demo.run import load_frameworks

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"
COMPLETE = 1e-4
"""Largest residual of DeepLIFT, relative to the change of the score."""
CONSERVES = 1e-3
"""Largest residual of LRP on a model without biases, relative to the score."""


@dataclass(frozen=True, eq=False)
class Case:
    """A model and what to explain. `unbias` takes all biases away, in place."""

    model: xai.Model
    x: Any
    layer: str | None = None
    unbias: Callable[[], None] | None = None


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    `relus` counts the ReLUs of the architecture. `conserves` says that LRP keeps the score where there is no bias; softmax
    does not, whose results are other than zero at zero, nor do models that shift their inputs.
    """

    model: str
    package: str
    build: Callable[[], Case]
    relus: int
    conserves: bool = False

    def __str__(self) -> str:
        return f"{self.package}: {self.model}"


@dataclass(frozen=True, eq=False)
class Found:
    """What was found out about an entry; an error where a method refuses."""

    entry: Entry
    lrp: xai.Explanation | xai.XaiError
    deep_lift: xai.Explanation | xai.XaiError
    guided: xai.Explanation | xai.XaiError
    change: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0))
    kept: float | None = None
    """Residual of LRP without biases, relative to the score."""

    @property
    def complete(self) -> float:
        """Residual of DeepLIFT, relative to the change of the score."""
        return float(np.max(np.abs(np.asarray(self.deep_lift.residual)) / np.abs(self.change)))

    def row(self) -> str:
        """A row of the table."""
        lrp, lift, guided = (_counts(found) for found in (self.lrp, self.deep_lift, self.guided))
        if self.kept is not None:
            lrp += f"; without biases to {self.kept:.0e}"
        if isinstance(self.deep_lift, xai.Explanation):
            lift += f"; to {self.complete:.0e}"
        return " | ".join(["", self.entry.model, self.entry.package, lrp, lift, guided, ""]).strip()


def _counts(found: xai.Explanation | xai.XaiError) -> str:
    if isinstance(found, xai.XaiError):
        reason = re.split(r"[,.] ", found.problem)[0]
        return f"`{type(found).__name__}`: {reason}"
    return ", ".join(f"{rule} {len(hit)}" for rule, hit in sorted(found.coverage.items()))


def examine(entry: Entry) -> Found:
    """Run the three methods on one model."""
    case = entry.build()

    def tried(explainer: xai.Explainer) -> Any:
        try:
            return explainer(case.model, case.x)
        except xai.XaiError as error:
            return error

    lrp, deep_lift, guided = (tried(method(layer=case.layer)) for method in (xai.LRP, xai.DeepLIFT, xai.GuidedBackprop))
    change = np.zeros(0)
    if isinstance(deep_lift, xai.Explanation):
        change = np.sum(host(deep_lift), axis=1) - np.asarray(deep_lift.residual)
    kept = None
    if entry.conserves and case.unbias is not None:
        case.unbias()
        plain = xai.LRP(layer=case.layer)(case.model, case.x)
        kept = float(np.max(np.abs(np.asarray(plain.residual)) / np.abs(np.asarray(plain.score))))
    return Found(entry, lrp, deep_lift, guided, change, kept)


def host(explanation: xai.Explanation) -> np.ndarray[Any, Any]:
    """Values in double precision, one line per sample; of several inputs those that are not `None`."""
    return np.asarray(explanation.values, dtype=float).reshape(len(explanation), -1)


# Models


def _noise(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).normal(size=shape).astype("float32")


def _torch_case(module: Any, x: Any, **options: Any) -> Case:
    """A module whose batch norms have the statistics of its own values, so that the scores depend on the input."""
    import torch

    norms = [part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    if norms:
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            module.train()(torch.from_numpy(_noise(8, *x.shape[1:])))

    def unbias() -> None:
        with torch.no_grad():
            for name, held in (*module.named_parameters(), *module.named_buffers()):
                if name.endswith(("bias", "running_mean")):
                    held.zero_()

    return Case(xai.wrap(module.eval(), **options), x, unbias=unbias)


def _torchvision(name: str, **options: Any) -> Callable[[], Case]:
    def build() -> Case:
        import torch

        module = torchvision_models.build(name, **options)
        with torch.no_grad():
            for path, held in module.named_parameters():
                if path.endswith("layer_scale"):  # 1e-6 at the start of training, when blocks do nothing
                    held.fill_(0.5)
                elif path.endswith("head.weight"):  # zero at the start of training
                    torch.nn.init.xavier_normal_(held)
        return _torch_case(module, _noise(2, 3, 64, 64))

    return build


_SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.3,
    "num_labels": 3,
}

TOKENS = np.array([[11, 45, 6, 87, 30, 12, 9, 12], [11, 7, 33, 61, 12, 0, 0, 0]])
MASK = (TOKENS != 0).astype("int64")


def bert() -> Case:
    import torch

    torchvision_models.declare()
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    module = BertForSequenceClassification(BertConfig(vocab_size=100, max_position_embeddings=16, **_SMALL)).eval()
    x = {"input_ids": TOKENS, "attention_mask": MASK}
    return Case(xai.wrap(module, output="logits"), x, layer="bert.embeddings.word_embeddings")


def vit() -> Case:
    import torch

    torchvision_models.declare()
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    module = ViTForImageClassification(ViTConfig(image_size=64, patch_size=16, **_SMALL))
    return _torch_case(module, _noise(2, 3, 64, 64), output="logits")


def _keras(name: str, **options: Any) -> Callable[[], Case]:
    def build() -> Case:
        import keras

        keras.utils.set_random_seed(0)
        make = getattr(keras.applications, name)
        model = make(weights=None, input_shape=(64, 64, 3), classes=5, classifier_activation=None, **options)
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = 0.0
        model(_noise(8, 64, 64, 3), training=True)

        def unbias() -> None:
            for variable in model.variables:
                if variable.name in ("bias", "beta", "moving_mean"):
                    variable.assign(np.zeros(variable.shape))

        return Case(xai.wrap(model), _noise(2, 64, 64, 3), unbias=unbias)

    return build


def _lite0(place: int) -> Callable[[], Case]:
    def build() -> Case:
        framework = load_frameworks(lite0.load_weights())[0][place]
        images = np.stack([lite0.preprocess(picture.pixels) for picture in lite0.photographs()])
        return Case(framework.model, framework.inputs(images))

    return build


LITE0 = [
    Entry("EfficientNet-Lite0, pretrained", "PyTorch", _lite0(0), 33),
    Entry("EfficientNet-Lite0, pretrained", "Flax", _lite0(1), 33),
    Entry("EfficientNet-Lite0, pretrained", "Keras", _lite0(2), 33),
]
"""The same weights, by `load_frameworks`."""

BERT = Entry("BERT, 2 layers, at the word embeddings", "transformers", bert, 0)

OTHERS = [
    Entry("ResNet-50", "torchvision", _torchvision("resnet50"), 49, conserves=True),
    Entry("ConvNeXt-Tiny", "torchvision", _torchvision("convnext_tiny"), 0, conserves=True),
    Entry(
        "ViT, 2 layers",
        "torchvision",
        _torchvision(
            "VisionTransformer",
            image_size=64,
            patch_size=16,
            num_layers=2,
            num_heads=4,
            hidden_dim=32,
            mlp_dim=64,
        ),
        0,
    ),
    Entry("ResNet50V2", "keras.applications", _keras("ResNet50V2"), 49, conserves=True),
    Entry("EfficientNetV2B0", "keras.applications", _keras("EfficientNetV2B0"), 0),
    # Its hard sigmoid is spelled with ReLU6.
    Entry("MobileNetV3Small", "keras.applications", _keras("MobileNetV3Small"), 23),
    Entry("ViT, 2 layers", "transformers", vit, 0),
]
ENTRIES = [*LITE0, *OTHERS, BERT]


# The page


def committed() -> list[str]:
    """Rows of the table as it is."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    return lines[2:]


def settled(row: str) -> str:
    """A row without the sizes of residuals, which rounding decides."""
    return re.sub(r"to \d+e[+-]\d+", "to rounding", row)


def write(found: Sequence[Found]) -> None:
    """Put the rows into the page."""
    lines = PAGE.read_text().splitlines()
    places = [place for place, line in enumerate(lines) if line.startswith("|")]
    start = places[0] + 2
    lines[start : places[-1] + 1] = [each.row() for each in found]
    PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write([examine(entry) for entry in ENTRIES])
