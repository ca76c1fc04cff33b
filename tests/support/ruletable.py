"""The table of methods with backward rules, with what each must give on the nets of `rulenets`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import literal_rules as literal
import numpy as np
import rulenets

import xai_core as xai
from xai_core import rules

TARGET = 2
_LINEAR = {"dense": 3, "conv": 4, "plain": 4}


@dataclass(frozen=True)
class Row:
    name: str
    explainer: Callable[[Any], xai.Explainer]
    """From the baseline."""
    oracle: Callable[[str, np.ndarray], np.ndarray]
    nets: tuple[str, ...] = ("dense", "conv")
    positive: bool = False
    """Whether inputs are not negative."""
    each: bool = False
    """Whether it is one for every kind of model, or only for one in a framework."""

    def __str__(self) -> str:
        return self.name


def _same(rule: Any, restated: literal.Rule, damping: float = 0.0) -> Row:
    return Row(
        str(rule),
        lambda _: xai.LRP(rules=rule),
        lambda net, x: literal.lrp(net, x, TARGET, [restated] * _LINEAR[net], damping),
    )


def _placed(name: str, explainer: xai.Explainer, first: Any, middle: Mapping[str, Any], last: Any) -> Row:
    def oracle(net: str, x: np.ndarray) -> np.ndarray:
        between = [middle["dense" if net == "dense" else "convolution"]] * (_LINEAR[net] - 2)
        return literal.lrp(net, x, TARGET, [first, *between, last])

    return Row(name, lambda _: explainer, oracle, nets=(*_LINEAR,), each=name == "EpsilonGammaBox")


def _both(rule: literal.Rule) -> dict[str, Any]:
    return {"dense": rule, "convolution": rule}


_PLUS = literal.alpha_beta(1, 0, bias=False)
_SMALL = literal.epsilon(1e-6)

TABLE = [
    _same(rules.LRPZero(), literal.zero),
    _same(rules.Epsilon(0.1), literal.epsilon(0.1)),
    _same(rules.Gamma(0.3), literal.gamma(0.3)),
    _same(rules.AlphaBeta(2, 1), literal.alpha_beta(2, 1)),
    _same(rules.AlphaBeta(1.5, 0.5), literal.alpha_beta(1.5, 0.5)),
    _same(rules.ZPlus(), literal.alpha_beta(1, 0)),
    _same(rules.ZPlus(bias=False), _PLUS),
    _same(rules.ZBox(-3, 4), literal.box(-3, 4), 1e-6),
    _same(rules.WSquare(), literal.w_square, 1e-6),
    _same(rules.Flat(), literal.flat, 1e-6),
    _placed(
        "EpsilonGammaBox",
        xai.LRP(rules=rules.EpsilonGammaBox(-3, 4, gamma=0.3, epsilon=0.01)),
        literal.box(-3, 4),
        {"dense": literal.epsilon(0.01), "convolution": literal.gamma(0.3)},
        literal.epsilon(0.01),
    ),
    _placed(
        "EpsilonAlpha2Beta1Flat",
        xai.LRP(rules="epsilon_alpha2_beta1_flat"),
        literal.flat,
        {"dense": _SMALL, "convolution": literal.alpha_beta(2, 1)},
        _SMALL,
    ),
    _placed("DeepTaylor", xai.DeepTaylor(), literal.w_square, _both(_PLUS), _PLUS),
    _placed("DeepTaylor box", xai.DeepTaylor(low=-3, high=4), literal.box(-3, 4), _both(_PLUS), _PLUS),
    Row(
        "ExcitationBackprop",
        lambda _: xai.ExcitationBackprop(),
        lambda net, x: literal.excitation_backprop(net, x, TARGET, False),
        positive=True,
    ),
    Row(
        "ExcitationBackprop contrastive",
        lambda _: xai.ExcitationBackprop(contrastive=True),
        lambda net, x: literal.excitation_backprop(net, x, TARGET, True),
        positive=True,
    ),
    Row(
        "GuidedBackprop",
        lambda _: xai.GuidedBackprop(),
        lambda net, x: literal.backpropagated(net, x, TARGET, True),
        each=True,
    ),
    Row("Deconvnet", lambda _: xai.Deconvnet(), lambda net, x: literal.backpropagated(net, x, TARGET, False)),
    Row("LRP", lambda _: xai.LRP(), lambda net, x: literal.attention_lrp(x, TARGET), ("block",), each=True),
    Row(
        "DeepLIFT",
        lambda baseline: xai.DeepLIFT(baseline=baseline),
        lambda net, x: literal.deep_lift(net, x, baseline(net)[0], TARGET),
        ("dense", "conv", "block"),
        each=True,
    ),
]


def baseline(net: str) -> np.ndarray:
    """One sample."""
    return rulenets.inputs(net, 4)[3:] / 2


def cases(kinds: Mapping[str, bool]) -> list[tuple[str, str, Row]]:
    """Kind, net and row; all rows for kinds that say so, else those that tell kinds of models apart."""
    return [(kind, net, row) for kind, whole in kinds.items() for row in TABLE for net in row.nets if whole or row.each]


def given(row: Row, net: str) -> np.ndarray:
    """Inputs for a row."""
    x = rulenets.inputs(net)
    return np.abs(x) if row.positive else x
