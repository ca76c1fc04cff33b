"""Rules for what flows back through operations: those of LRP, composites of them, and the base of your own.

>>> import xai_core as xai
>>> lrp = xai.LRP(rules={"first": xai.rules.Flat(), "convolution": xai.rules.Gamma(0.25), "dense": xai.rules.Epsilon()})
"""

from xai_core.attribution.lrp import (
    AlphaBeta,
    Composite,
    Epsilon,
    EpsilonAlpha2Beta1,
    EpsilonAlpha2Beta1Flat,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    Flat,
    Gamma,
    LRPZero,
    Pass,
    WSquare,
    ZBox,
    ZPlus,
)
from xai_core.propagation import Message, Operation, OwnPullback, Rule, stabilised

__all__ = [
    "AlphaBeta",
    "Composite",
    "Epsilon",
    "EpsilonAlpha2Beta1",
    "EpsilonAlpha2Beta1Flat",
    "EpsilonGammaBox",
    "EpsilonPlus",
    "EpsilonPlusFlat",
    "Flat",
    "Gamma",
    "LRPZero",
    "Message",
    "Operation",
    "OwnPullback",
    "Pass",
    "Rule",
    "WSquare",
    "ZBox",
    "ZPlus",
    "stabilised",
]
