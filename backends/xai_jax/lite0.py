"""EfficientNet-Lite0 as a Flax NNX module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from xai_core.demo.lite0 import CLASSES, EPSILON, PLAN, Block, Convolution, convolution_weights, same_padding

__all__ = ["lite0"]


class _Convolution(nnx.Module):
    def __init__(self, plan: Convolution, dtype: Any, rngs: nnx.Rngs) -> None:
        self.relu6 = plan.relu6
        self.convolution = nnx.Conv(
            plan.inputs,
            plan.outputs,
            (plan.size, plan.size),
            strides=plan.stride,
            padding="SAME",
            feature_group_count=plan.groups,
            use_bias=False,
            param_dtype=dtype,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(plan.outputs, epsilon=EPSILON, use_running_average=True, param_dtype=dtype, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        depthwise = self.convolution.feature_group_count > 1
        # XLA's code for depthwise convolutions on CPUs takes 10 to 20 times as long as the same sum written out.
        out = _depthwise(x, self.convolution) if depthwise and jax.default_backend() == "cpu" else self.convolution(x)
        x = self.norm(out)
        # relu6 has slope zero at its ends, as in the other frameworks; jnp.clip has one half.
        return jax.nn.relu6(x) if self.relu6 else x


def _depthwise(x: Any, convolution: nnx.Conv) -> Any:
    """A depthwise convolution as a sum over kernel positions, each a weighted shifted image."""
    kernel, step = jnp.asarray(convolution.kernel), convolution.strides
    size, (height, width) = kernel.shape[0], x.shape[1:3]
    padding = [same_padding(side, size, step) for side in (height, width)]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = (-(-side // step) * step - step + 1 for side in (height, width))
    return sum(
        kernel[i, j, 0] * x[:, i : i + rows : step, j : j + columns : step, :] for i in range(size) for j in range(size)
    )


class _Block(nnx.Module):
    def __init__(self, plan: Block, dtype: Any, rngs: nnx.Rngs) -> None:
        self.names = tuple(convolution.name.rsplit(".", 1)[1] for convolution in plan.convolutions)
        self.residual = plan.residual
        for name, convolution in zip(self.names, plan.convolutions, strict=True):
            setattr(self, name, _Convolution(convolution, dtype, rngs))

    def __call__(self, x: Any) -> Any:
        out = x
        for name in self.names:
            out = getattr(self, name)(out)
        return x + out if self.residual else out


class Lite0(nnx.Module):
    """Logits (batch, 1000) of images (batch, height, width, 3), paths such as `stages.5.3.project`."""

    def __init__(self, dtype: Any) -> None:
        rngs = nnx.Rngs(0)
        first, *middle, last = PLAN
        stages: dict[str, list[_Block]] = {}
        for block in middle:
            stages.setdefault(block.name.split(".")[1], []).append(_Block(block, dtype, rngs))
        self.stem = _Convolution(first.convolutions[0], dtype, rngs)
        self.stages = nnx.List([nnx.List(blocks) for blocks in stages.values()])
        self.head = _Convolution(last.convolutions[0], dtype, rngs)
        self.classifier = nnx.Linear(last.convolutions[0].outputs, CLASSES, param_dtype=dtype, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = self.stem(x)
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return self.classifier(jnp.mean(self.head(x), axis=(1, 2)))


def lite0(weights: Mapping[str, np.ndarray[Any, Any]], dtype: str = "float32") -> Lite0:
    """The network with `xai_core.demo.lite0.load_weights()`; `dtype="float64"` needs `jax_enable_x64`."""
    model = nnx.eval_shape(lambda: Lite0(jnp.dtype(dtype)))  # no time for random weights, all are replaced

    def put(variable: Any, array: np.ndarray[Any, Any]) -> None:
        variable.set_value(jnp.asarray(array, dtype))

    for plan in (convolution for block in PLAN for convolution in block.convolutions):
        part: Any = model
        for key in plan.name.split("."):
            part = part[int(key)] if key.isdigit() else getattr(part, key)
        kernel, (scale, shift, mean, variance) = convolution_weights(weights, plan)
        put(part.convolution.kernel, np.transpose(kernel, (2, 3, 1, 0)))
        put(part.norm.scale, scale)
        put(part.norm.bias, shift)
        put(part.norm.mean, mean)
        put(part.norm.var, variance)
    put(model.classifier.kernel, weights["_fc.weight"].T)
    put(model.classifier.bias, weights["_fc.bias"])
    return model
