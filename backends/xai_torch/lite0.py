"""EfficientNet-Lite0 as a torch module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from xai_core.demo.lite0 import (
    CLASSES,
    EPSILON,
    PLAN,
    Block,
    Convolution,
    convolution_weights,
    same_padding,
)

__all__ = ["lite0"]


class _Convolution(nn.Module):
    def __init__(self, plan: Convolution) -> None:
        super().__init__()
        self.kernel, self.stride, self.relu6 = plan.size, plan.stride, plan.relu6
        self.convolution = nn.Conv2d(plan.inputs, plan.outputs, plan.size, plan.stride, groups=plan.groups, bias=False)
        self.norm = nn.BatchNorm2d(plan.outputs, eps=EPSILON)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kernel > 1:
            rows, columns = (same_padding(int(size), self.kernel, self.stride) for size in x.shape[2:])
            x = nn.functional.pad(x, (*columns, *rows))
        x = self.norm(self.convolution(x))
        return nn.functional.relu6(x) if self.relu6 else x


class _Block(nn.Module):
    def __init__(self, plan: Block) -> None:
        super().__init__()
        self.names = [convolution.name.rsplit(".", 1)[1] for convolution in plan.convolutions]
        self.residual = plan.residual
        for name, convolution in zip(self.names, plan.convolutions, strict=True):
            setattr(self, name, _Convolution(convolution))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x
        for name in self.names:
            out = getattr(self, name)(out)
        return x + out if self.residual else out


class Lite0(nn.Module):
    """Logits (batch, 1000) of images (batch, 3, height, width), paths such as `stages.5.3.project`."""

    def __init__(self) -> None:
        super().__init__()
        first, *middle, last = PLAN
        self.stem = _Convolution(first.convolutions[0])
        stages: dict[str, list[_Block]] = {}
        for block in middle:
            stages.setdefault(block.name.split(".")[1], []).append(_Block(block))
        self.stages = nn.ModuleList(nn.Sequential(*blocks) for blocks in stages.values())
        self.head = _Convolution(last.convolutions[0])
        self.classifier = nn.Linear(last.convolutions[0].outputs, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.classifier(self.head(x).mean((2, 3)))


def lite0(weights: Mapping[str, np.ndarray[Any, Any]], dtype: str = "float32") -> Lite0:
    """The network with `xai_core.demo.lite0.load_weights()`, ready for evaluation."""
    model = Lite0()
    with torch.no_grad():
        for plan in (convolution for block in PLAN for convolution in block.convolutions):
            part: Any = model.get_submodule(plan.name)
            kernel, (scale, shift, mean, variance) = convolution_weights(weights, plan)
            pairs = [
                (part.convolution.weight, kernel),
                (part.norm.weight, scale),
                (part.norm.bias, shift),
                (part.norm.running_mean, mean),
                (part.norm.running_var, variance),
            ]
            for tensor, array in pairs:
                tensor.copy_(torch.from_numpy(array.copy()))
        model.classifier.weight.copy_(torch.from_numpy(weights["_fc.weight"].copy()))
        model.classifier.bias.copy_(torch.from_numpy(weights["_fc.bias"].copy()))
    return model.to(getattr(torch, dtype)).eval()
