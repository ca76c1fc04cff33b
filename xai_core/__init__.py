"""Explanation methods written once over the array API, for models of JAX, PyTorch, TensorFlow and Keras 3.

>>> import xai_core as xai
>>> e = xai.explain(model, x)  # doctest: +SKIP
>>> e = xai.IntegratedGradients(steps=64)(model, x, target=281)  # doctest: +SKIP
"""

from importlib.metadata import version as _version

from xai_core.attribution.base import Explainer, methods
from xai_core.attribution.gradient import Gradient, InputXGradient
from xai_core.attribution.noise import SmoothGrad, SquareGrad, VarGrad
from xai_core.attribution.occlusion import Occlusion
from xai_core.attribution.path import ExpectedGradients, IntegratedGradients
from xai_core.baselines import Baseline, Blur, Mean, Noise, Sample, Zero
from xai_core.errors import (
    BackendError,
    BaselineError,
    CapabilityError,
    ConvergenceError,
    InputDependenceError,
    InputError,
    IntegerInputError,
    ModelError,
    NonFiniteError,
    OptionError,
    OutputError,
    TargetError,
    TrainingModeError,
    UnknownNameError,
    XaiError,
)
from xai_core.explain import explain
from xai_core.explanation import Explanation, load
from xai_core.model import Model, wrap

GradientSHAP = ExpectedGradients
SlidingPatch = Occlusion

__version__ = _version("xai-core")

__all__ = [
    "BackendError",
    "Baseline",
    "BaselineError",
    "Blur",
    "CapabilityError",
    "ConvergenceError",
    "ExpectedGradients",
    "Explainer",
    "Explanation",
    "Gradient",
    "GradientSHAP",
    "InputDependenceError",
    "InputError",
    "InputXGradient",
    "IntegerInputError",
    "IntegratedGradients",
    "Mean",
    "Model",
    "ModelError",
    "Noise",
    "NonFiniteError",
    "Occlusion",
    "OptionError",
    "OutputError",
    "Sample",
    "SlidingPatch",
    "SmoothGrad",
    "SquareGrad",
    "TargetError",
    "TrainingModeError",
    "UnknownNameError",
    "VarGrad",
    "XaiError",
    "Zero",
    "explain",
    "load",
    "methods",
    "wrap",
]
