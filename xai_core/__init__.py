"""Explanation methods written once over the array API, for models of JAX, PyTorch, TensorFlow and Keras 3.

>>> import xai_core as xai
>>> e = xai.explain(model, x)  # doctest: +SKIP
>>> e = xai.IntegratedGradients(steps=64)(model, x, target=281)  # doctest: +SKIP
"""

from importlib.metadata import version as _version

from xai_core import rules
from xai_core.attribution.ablation import FeatureAblation, FeaturePermutation
from xai_core.attribution.backprop import Deconvnet, GuidedBackprop
from xai_core.attribution.base import Explainer, methods
from xai_core.attribution.bias import BiasAttribution, FullGrad
from xai_core.attribution.cam import (
    CAM,
    AblationCAM,
    EigenCAM,
    EigenGradCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    NormGrad,
    ScoreCAM,
    SmoothGradCAMPlusPlus,
    XGradCAM,
)
from xai_core.attribution.conservation import conservation
from xai_core.attribution.deep_lift import DeepLIFT, DeepSHAP
from xai_core.attribution.difference import PredictionDifference
from xai_core.attribution.gradient import Gradient, InputXGradient
from xai_core.attribution.guided_path import BlurIntegratedGradients, GuidedIntegratedGradients, SmoothTaylor
from xai_core.attribution.layerwise import Conductance, GradientXActivation, InternalInfluence, LayerActivation
from xai_core.attribution.lime import LIME
from xai_core.attribution.lrp import LRP, DeepTaylor, ExcitationBackprop
from xai_core.attribution.noise import SmoothGrad, SquareGrad, VarGrad
from xai_core.attribution.occlusion import Occlusion
from xai_core.attribution.path import ExpectedGradients, IntegratedGradients
from xai_core.attribution.rise import RISE
from xai_core.attribution.rule_cams import LIFTCAM, GuidedGradCAM, RelevanceCAM
from xai_core.attribution.ruled import graph
from xai_core.attribution.sensitivity import HSICAttribution, SobolAttribution
from xai_core.attribution.shapley import ExactSHAP, KernelSHAP, PartitionSHAP, PermutationSHAP, ShapleySampling
from xai_core.baselines import Baseline, Blur, Mean, Noise, Sample, Zero
from xai_core.errors import (
    BackendError,
    BaselineError,
    CapabilityError,
    ConvergenceError,
    InputDependenceError,
    InputError,
    IntegerInputError,
    LayerError,
    ModelError,
    NonFiniteError,
    OptionError,
    OutputError,
    TargetError,
    TrainingModeError,
    UnknownNameError,
    UnsupportedOperation,
    XaiError,
)
from xai_core.explain import explain
from xai_core.explanation import Explanation, FeatureValues, load
from xai_core.features import Elements, Grouping, Groups, Patches, Spans, Superpixels
from xai_core.layers import Layer, LayerTable
from xai_core.model import Model, layers, wrap

GradientSHAP = ExpectedGradients
SlidingPatch = Occlusion

__version__ = _version("xai-core")

__all__ = [
    "CAM",
    "LIFTCAM",
    "LIME",
    "LRP",
    "RISE",
    "AblationCAM",
    "BackendError",
    "Baseline",
    "BaselineError",
    "BiasAttribution",
    "Blur",
    "BlurIntegratedGradients",
    "CapabilityError",
    "Conductance",
    "ConvergenceError",
    "Deconvnet",
    "DeepLIFT",
    "DeepSHAP",
    "DeepTaylor",
    "EigenCAM",
    "EigenGradCAM",
    "Elements",
    "ExactSHAP",
    "ExcitationBackprop",
    "ExpectedGradients",
    "Explainer",
    "Explanation",
    "FeatureAblation",
    "FeaturePermutation",
    "FeatureValues",
    "FullGrad",
    "GradCAM",
    "GradCAMPlusPlus",
    "Gradient",
    "GradientSHAP",
    "GradientXActivation",
    "Grouping",
    "Groups",
    "GuidedBackprop",
    "GuidedGradCAM",
    "GuidedIntegratedGradients",
    "HSICAttribution",
    "HiResCAM",
    "InputDependenceError",
    "InputError",
    "InputXGradient",
    "IntegerInputError",
    "IntegratedGradients",
    "InternalInfluence",
    "KernelSHAP",
    "Layer",
    "LayerActivation",
    "LayerCAM",
    "LayerError",
    "LayerTable",
    "Mean",
    "Model",
    "ModelError",
    "Noise",
    "NonFiniteError",
    "NormGrad",
    "Occlusion",
    "OptionError",
    "OutputError",
    "PartitionSHAP",
    "Patches",
    "PermutationSHAP",
    "PredictionDifference",
    "RelevanceCAM",
    "Sample",
    "ScoreCAM",
    "ShapleySampling",
    "SlidingPatch",
    "SmoothGrad",
    "SmoothGradCAMPlusPlus",
    "SmoothTaylor",
    "SobolAttribution",
    "Spans",
    "SquareGrad",
    "Superpixels",
    "TargetError",
    "TrainingModeError",
    "UnknownNameError",
    "UnsupportedOperation",
    "VarGrad",
    "XGradCAM",
    "XaiError",
    "Zero",
    "conservation",
    "explain",
    "graph",
    "layers",
    "load",
    "methods",
    "rules",
    "wrap",
]
