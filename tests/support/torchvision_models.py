"""torchvision's models beside a PyTorch for the CPU: the operators that its own package would load are only declared."""

from __future__ import annotations

from typing import Any

_LIBRARIES: list[Any] = []


def declare() -> None:
    """Declare what torchvision looks for when it is imported, by transformers too."""
    import torch

    if not _LIBRARIES:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)


def build(name: str, seed: int = 0, **options: Any) -> Any:
    """A model of torchvision by name, with random weights, in evaluation."""
    import torch

    declare()
    from torchvision import models

    torch.manual_seed(seed)
    return getattr(models, name)(**options).eval()


def resnet18(seed: int = 0) -> Any:
    """ResNet-18 with random weights, in evaluation."""
    return build("resnet18", seed)
