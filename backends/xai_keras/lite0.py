"""EfficientNet-Lite0 as a functional Keras model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from xai_core.demo.lite0 import CLASSES, EPSILON, PLAN, SIZE, Convolution, convolution_weights

__all__ = ["lite0"]


def _apply(plan: Convolution, x: Any, dtype: str) -> Any:
    name = plan.name.replace(".", "_")
    shared: dict[str, Any] = {"padding": "same", "use_bias": False, "strides": plan.stride, "dtype": dtype}
    shared["data_format"] = "channels_last"
    if plan.groups > 1:
        x = keras.layers.DepthwiseConv2D(plan.size, name=name, **shared)(x)
    else:
        x = keras.layers.Conv2D(plan.outputs, plan.size, name=name, **shared)(x)
    x = keras.layers.BatchNormalization(axis=-1, epsilon=EPSILON, name=f"{name}_norm", dtype=dtype)(x)
    return keras.layers.Activation("relu6", name=f"{name}_relu6", dtype=dtype)(x) if plan.relu6 else x


def lite0(weights: Mapping[str, np.ndarray[Any, Any]], dtype: str = "float32") -> Any:
    """Logits (batch, 1000) of images (batch, 224, 224, 3), layers such as `stages_5_3_project`.

    With the weights of `xai_core.demo.lite0.load_weights()`.
    """
    inputs = keras.Input((SIZE, SIZE, 3), dtype=dtype)
    x = inputs
    for block in PLAN:
        before = x
        for convolution in block.convolutions:
            x = _apply(convolution, x, dtype)
        if block.residual:
            x = keras.layers.Add(name=f"{block.name}_add".replace(".", "_"), dtype=dtype)([before, x])
    x = keras.layers.GlobalAveragePooling2D(data_format="channels_last", name="pool", dtype=dtype)(x)
    model = keras.Model(inputs, keras.layers.Dense(CLASSES, name="classifier", dtype=dtype)(x), name="lite0")
    for plan in (convolution for block in PLAN for convolution in block.convolutions):
        name = plan.name.replace(".", "_")
        kernel, norm = convolution_weights(weights, plan)
        # (out, in / groups, height, width) to (height, width, in, out), depthwise to (height, width, in, 1)
        axes = (2, 3, 0, 1) if plan.groups > 1 else (2, 3, 1, 0)
        model.get_layer(name).set_weights([np.transpose(kernel, axes)])
        model.get_layer(f"{name}_norm").set_weights(list(norm))
    model.get_layer("classifier").set_weights([weights["_fc.weight"].T, weights["_fc.bias"]])
    return model
