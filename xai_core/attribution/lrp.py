"""Layer-wise relevance propagation: rules for linear operations, composites that say which goes where, and `LRP`.

In the notation of `xai_core.propagation` the relevance of a value `z` is `z * c`, its slope `c` being what flows back. A
linear operation `z = W x + b` is seen with everything that scales and shifts its result folded in, batch norm included.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from numbers import Real
from typing import Any, ClassVar

import numpy as np

from xai_core.attribution.base import Attribution
from xai_core.attribution.ruled import Flow, Plan, Ruled, blockwise, covered, settled
from xai_core.errors import OptionError, UnknownNameError, describe
from xai_core.folding import fold
from xai_core.model import Net
from xai_core.operations import Program, Step, analyse
from xai_core.problem import Problem
from xai_core.propagation import Message, Operation, OwnPullback, Rule, kept, stabilised

__all__ = [
    "LRP",
    "AlphaBeta",
    "Composite",
    "DeepTaylor",
    "Epsilon",
    "EpsilonAlpha2Beta1",
    "EpsilonAlpha2Beta1Flat",
    "EpsilonGammaBox",
    "EpsilonPlus",
    "EpsilonPlusFlat",
    "ExcitationBackprop",
    "Flat",
    "Gamma",
    "LRPZero",
    "Pass",
    "WSquare",
    "ZBox",
    "ZPlus",
]


# Rules of linear operations


def _wide(xp: Any, array: Any) -> Any:
    return array if array.dtype in (xp.float32, xp.float64) else xp.astype(array, xp.float32)


def _share(xp: Any, relevance: Any, total: Any, epsilon: float, sign: int = 0) -> Any:
    """Relevance divided by what it is distributed over, in at least single precision, in the dtype of the relevance.

    `sign` of the total where it is known: 1 for at least zero, -1 for at most.
    """
    wide = _wide(xp, total)
    divisor = wide + sign * epsilon if sign else stabilised(xp, wide, epsilon)
    found = _wide(xp, relevance) / divisor
    if found.dtype == relevance.dtype:
        return found
    # Where nothing is to be distributed over, the stabiliser alone divides, and halves hold no such quotient.
    return xp.astype(xp.where(wide == 0, xp.zeros_like(found), found), relevance.dtype)


def _positive(xp: Any, array: Any) -> Any:
    return kept(xp, array, array > 0)


def _negative(xp: Any, array: Any) -> Any:
    return kept(xp, array, array < 0)


class _Numbers(Rule):
    """A rule whose options are numbers, none of them negative."""

    def __post_init__(self) -> None:
        for entry in fields(self):  # type: ignore[arg-type]
            value = getattr(self, entry.name)
            if entry.type != "float" or (isinstance(value, Real) and 0 <= float(value) < math.inf):
                continue
            raise OptionError(
                f"`{entry.name}` of {self.name} is a number from 0 on.",
                received=repr(value),
                fix=f"{self.name}({entry.name}={entry.default})",
            )


@dataclass(frozen=True)
class Epsilon(_Numbers):
    """`R_i = sum_j x_i w_ij R_j / (z_j + epsilon sign z_j)`.

    Source: Bach et al. 2015, doi:10.1371/journal.pone.0130140, equation 58. One pass back.
    """

    epsilon: float = 1e-6

    def __call__(self, op: Operation) -> list[Any]:
        if self.epsilon == 0:
            return op.pull(op.slope)
        # z / (z + epsilon sign z) is |z| / (|z| + epsilon).
        xp = op.xp
        size = xp.abs(_wide(xp, op.output))
        damped = _wide(xp, op.slope) * (size / (size + self.epsilon))
        return op.pull(damped if damped.dtype == op.slope.dtype else xp.astype(damped, op.slope.dtype))


@dataclass(frozen=True)
class LRPZero(Rule):
    """`R_i = sum_j x_i w_ij R_j / z_j`: `Epsilon` with nothing in the way.

    Source: Bach et al. 2015, equation 56. One pass back.
    """

    def __call__(self, op: Operation) -> list[Any]:
        return op.pull(op.slope)


def _sides(op: Operation, up: Callable[[], Any], down: Callable[[], Any]) -> Any:
    """The function `x -> x+ up + x- down` of the data of a linear operation; weights are made where they are needed."""
    xp = op.xp
    above = up()
    if op.step.facts["never_negative"]:
        return lambda x: op.weighted(x, above)
    below = down()
    return lambda x: op.weighted(_positive(xp, x), above) + op.weighted(_negative(xp, x), below)


@dataclass(frozen=True)
class Gamma(_Numbers):
    """`R_i = sum_j x_i (w_ij + gamma w_ij+) R_j / sum_i x_i (w_ij + gamma w_ij+)`, for data of either sign.

    What raises a positive result, and what lowers a negative one, counts `1 + gamma` times: for `z_j > 0` products
    `x_i w_ij > 0`, for `z_j < 0` those below 0; the bias alike.

    Source: Montavon et al. 2019, doi:10.1007/978-3-030-28954-6_10, section 10.2.3; for either sign as in Andeol et al. 2021,
    arXiv:2106.09518. One pass forward and one back with other weights; behind data that can be negative, or before
    other than ReLU, two to four.
    """

    gamma: float = 0.25
    epsilon: float = 1e-6

    def __call__(self, op: Operation) -> list[Any]:
        xp, w, x = op.xp, op.weight, op.live[0]
        bias = op.bias
        # An amount passes a ReLU on either side.
        only_positive = op.step.facts["only_positive"] and op.message.amount is None

        def more() -> Any:
            return w + self.gamma * _positive(xp, w)

        def less() -> Any:
            return w + self.gamma * _negative(xp, w)

        found: Any = None
        for sign, up, down in ((1, more, less), (-1, less, more)):
            if sign < 0 and only_positive:
                continue
            part = _positive if sign > 0 else _negative
            added = 0.0 if bias is None else bias + self.gamma * part(xp, bias)
            ours = op.relevance
            if not only_positive:
                ours = xp.where(op.output > 0 if sign > 0 else op.output <= 0, ours, xp.zeros_like(ours))

            def share(total: Any, added: Any = added, ours: Any = ours) -> Any:
                return _share(xp, ours, total + added, self.epsilon)

            slope = op.pull_function(_sides(op, up, down), x, share)
            found = slope if found is None else found + slope
        return [found]


@dataclass(frozen=True)
class AlphaBeta(_Numbers):
    """`R_i = sum_j (alpha (x_i w_ij)+ / z_j+ - beta (x_i w_ij)- / z_j-) R_j`, with `alpha - beta = 1`.

    `z+` and `z-` are the sums of the positive and of the negative products, the bias on its side.

    Source: Bach et al. 2015, equation 60. Two passes forward and two back with other weights, for data that can be negative
    four.
    """

    alpha: float = 2.0
    beta: float = 1.0
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isclose(self.alpha - self.beta, 1.0) or self.beta < 0:
            raise OptionError(
                "`alpha - beta` must be 1, and `beta` not negative, or relevance is not conserved.",
                received=f"alpha={self.alpha}, beta={self.beta}",
                fix="AlphaBeta(alpha=2, beta=1) or AlphaBeta(alpha=1, beta=0)",
            )

    def __call__(self, op: Operation) -> list[Any]:
        found = _one_sided(op, _positive, self.epsilon, self.alpha, bias=True)
        if self.beta:
            found = found - _one_sided(op, _negative, self.epsilon, self.beta, bias=True)
        return [found]


def _one_sided(op: Operation, side: Any, epsilon: float, factor: float, bias: bool) -> Any:
    """Slope by the positive, or negative, products alone."""
    xp, w, x = op.xp, op.weight, op.live[0]
    positive = side is _positive
    other = _negative if positive else _positive
    added = side(xp, op.bias) if bias and op.bias is not None else None
    relevance = op.relevance if factor == 1 else op.relevance * factor

    def share(total: Any) -> Any:
        whole = total if added is None else total + added
        return _share(xp, relevance, whole, epsilon, 1 if positive else -1)

    return op.pull_function(_sides(op, lambda: side(xp, w), lambda: other(xp, w)), x, share)


@dataclass(frozen=True)
class ZPlus(_Numbers):
    """`R_i = sum_j (x_i w_ij)+ R_j / sum_i (x_i w_ij)+`: positive products alone, `AlphaBeta` with beta 0.

    Source: Montavon et al. 2017, arXiv:1512.02479, equation 14, for data of either sign. One pass forward and one back with
    other weights; for data that can be negative two.

    Parameters
    ----------
    bias
        Whether a positive bias takes its part, which is then lost.
    """

    epsilon: float = 1e-6
    bias: bool = True

    def __call__(self, op: Operation) -> list[Any]:
        return [_one_sided(op, _positive, self.epsilon, 1.0, self.bias)]


@dataclass(frozen=True)
class ZBox(_Numbers):
    """`R_i = sum_j (x_i w_ij - low w_ij+ - high w_ij-) R_j / sum_i (...)`, for inputs between `low` and `high`.

    Source: Montavon et al. 2017, arXiv:1512.02479, equation 15 (the z-B rule). Three passes forward and back.

    Parameters
    ----------
    low, high
        Smallest and largest value that an input can have: numbers, or nested tuples that broadcast to a sample, for
        example one number per channel of a channels-last image.
    """

    low: Any
    high: Any
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds = []
        for name in ("low", "high"):
            given = getattr(self, name)
            try:
                bounds.append(np.asarray(given, dtype=float))
            except (TypeError, ValueError, RuntimeError) as error:
                raise OptionError(
                    f"`{name}` of ZBox is numbers.", received=describe(given), fix=f"{name}=1.0"
                ) from error
            object.__setattr__(self, name, _nested(bounds[-1].tolist()))
        try:
            fit = bool(np.all(bounds[0] <= bounds[1]) and np.all(np.isfinite(bounds[0]) & np.isfinite(bounds[1])))
        except ValueError:  # they do not broadcast to each other
            fit = False
        if not fit:
            raise OptionError(
                "`low` of ZBox is below `high`, both finite and of shapes that fit.",
                received=f"low={self.low!r}, high={self.high!r}",
                fix="low=-1.0, high=1.0",
            )

    def __call__(self, op: Operation) -> list[Any]:
        xp, w, x = op.xp, op.weight, op.live[0]
        up, down = _positive(xp, w), _negative(xp, w)

        def box(points: list[Any]) -> Any:
            return op.weighted(points[0], w) - op.weighted(points[1], up) - op.weighted(points[2], down)

        corners = [x, *(_filled(xp, bound, x) for bound in (self.low, self.high))]
        parts = op.pull_functions(box, corners, lambda total: _share(xp, op.relevance, total, self.epsilon))
        products = [corner * part for corner, part in zip(corners, parts, strict=True)]
        return [Message(amount=products[0] + products[1] + products[2])]


def _nested(value: Any) -> Any:
    """Lists as tuples: a rule is compared by value, and part of what compiled code is found by."""
    return tuple(map(_nested, value)) if isinstance(value, list) else value


def _filled(xp: Any, bound: Any, x: Any) -> Any:
    given, sample = np.shape(bound), tuple(x.shape)[1:]
    behind = zip(given[::-1], sample[::-1], strict=False)
    if len(given) > len(sample) or any(size not in (1, wanted) for size, wanted in behind):
        raise OptionError(
            f"`low` and `high` of ZBox must broadcast to a sample, of shape {sample}.",
            received=f"shape {given}",
            fix="a number, or an array with one axis for each of the sample's: (3, 1, 1) for images with channels first.",
        )
    array = xp.asarray(bound, dtype=x.dtype, device=getattr(x, "device", None))
    return xp.zeros_like(x) + array


@dataclass(frozen=True)
class WSquare(_Numbers):
    """`R_i = sum_j w_ij^2 R_j / sum_i w_ij^2`, whatever the data.

    Source: Montavon et al. 2017, arXiv:1512.02479, equation 12. One pass forward and one back with other weights.
    """

    epsilon: float = 1e-6

    def __call__(self, op: Operation) -> list[Any]:
        return [_by_weights(op, op.weight * op.weight, self.epsilon)]


@dataclass(frozen=True)
class Flat(_Numbers):
    """`R_i = sum_j R_j / n_j`: evenly over all `n_j` inputs of a unit.

    Source: Lapuschkin et al. 2019, arXiv:1902.10178, supplement. One pass forward and one back with other weights.
    """

    epsilon: float = 1e-6

    def __call__(self, op: Operation) -> list[Any]:
        return [_by_weights(op, op.xp.ones_like(op.weight), self.epsilon)]


def _by_weights(op: Operation, weights: Any, epsilon: float) -> Message:
    xp = op.xp
    ones = xp.ones_like(op.live[0])
    pulled = op.pull_function(
        lambda x: op.weighted(x, weights), ones, lambda total: _share(xp, op.relevance, total, epsilon, 1)
    )
    return Message(amount=pulled)


@dataclass(frozen=True)
class Pass(Rule):
    """Relevance passes as it is, element by element, where the shape stays the same.

    Source: Bach et al. 2015, as used for normalisation layers.
    """

    def __call__(self, op: Operation) -> list[Any]:
        if any(tuple(x.shape) != tuple(op.output.shape) for x in op.live) or len(op.live) != 1:
            raise OptionError(
                f"`Pass` needs one input of the shape of the output, at {op.step.label}.",
                received=f"input {describe(op.live[0])}, output {describe(op.output)}",
                fix="give another rule to this operation.",
            )
        return [Message(amount=op.relevance)]


# Rules of all other operations


@dataclass(frozen=True)
class _Activation(Rule):
    """Activations pass relevance on as it is: `c_in = c_out f(x) / x`."""

    name: ClassVar[str] = "pass"

    def __call__(self, op: Operation) -> list[Any]:
        xp, x, slope = op.xp, op.live[0], op.message.slope
        if slope is None:
            return [op.message]
        if op.step.name == "relu":
            return [Message(kept(xp, slope, x > 0), op.message.amount)]
        near = 1e-3 if x.dtype == getattr(xp, "float16", None) else 1e-6  # of which the reciprocal is finite
        some = xp.abs(x) > near
        ratio = op.output / xp.where(some, x, xp.ones_like(x))
        # At zero, or where f(0) is 0, the derivative, which then is the limit of f(x)/x; else as much as stays finite.
        own = op.pull(xp.ones_like(op.output))[0]
        limit = xp.where(xp.logical_and(x != 0, xp.abs(op.output) > 1e-3), op.output / stabilised(xp, x, near), own)
        return [Message(slope * xp.where(some, ratio, limit), op.message.amount)]


@dataclass(frozen=True)
class _Half(Rule):
    """Products of two data values: half of the relevance to either. AttnLRP, Achtibat et al. 2024, proposition 3.3."""

    name: ClassVar[str] = "uniform"

    def __call__(self, op: Operation) -> list[Any]:
        return [part / 2 for part in op.pull(op.slope)]


@dataclass(frozen=True)
class _Gate(Rule):
    """Products with a gate, an activation that is not zero at zero: all to the signal. Arras et al. 2017, arXiv:1706.07206.

    Relevance that a gate passed on would be divided by what the gate is made of, which may be next to nothing.
    """

    name: ClassVar[str] = "gate"

    def __call__(self, op: Operation) -> list[Any]:
        gate = op.step.facts["gate"]
        return [None if place == gate else part for place, part in enumerate(op.pull(op.slope))]


@dataclass(frozen=True)
class _Normalise(Rule):
    """Normalisation: the deviation counts as a constant. AttnLRP, Achtibat et al. 2024, proposition 3.4."""

    name: ClassVar[str] = "normalisation"

    def __call__(self, op: Operation) -> list[Any]:
        place = op.step.facts["normaliser"]
        parts = dict(zip(op.step.live, op.pull(op.slope), strict=True))
        return [None if position == place else parts[position] for position in op.step.live]


@dataclass(frozen=True)
class _Numerator(Rule):
    """Quotients of two data values: all to the numerator, as in normalisation."""

    name: ClassVar[str] = "normalisation"

    def __call__(self, op: Operation) -> list[Any]:
        return [op.pull(op.slope)[0], None]


@dataclass(frozen=True)
class _Taylor(OwnPullback):
    """Softmax: first-order Taylor term at the data. AttnLRP, Achtibat et al. 2024, proposition 3.1."""

    name: ClassVar[str] = "taylor"


@dataclass(frozen=True)
class _Proportional(OwnPullback):
    """Sums and what else is linear without weights: in proportion to what each addend contributes."""

    name: ClassVar[str] = "proportional"


@dataclass(frozen=True)
class _Winner(Rule):
    """The largest of several: all to the winner."""

    name: ClassVar[str] = "winner"

    def __call__(self, op: Operation) -> list[Any]:
        given = (op.message.slope, op.message.amount)
        slopes, amounts = ([None] * len(op.live) if part is None else op.pull(part) for part in given)
        return [Message(*pair) for pair in zip(slopes, amounts, strict=True)]


@dataclass(frozen=True)
class _Nothing(Rule):
    """Where the model stops derivatives itself: nothing flows, as if the value were a constant."""

    name: ClassVar[str] = "stopped"

    def __call__(self, op: Operation) -> list[Any]:
        return [None for _ in op.live]


OTHERS: dict[str, Rule] = {
    **{kind: _Proportional() for kind in ("sum", "add", "subtract", "negate", "shift", "scale", "select")},
    "activation": _Activation(),
    "product": _Half(),
    "bilinear": _Half(),
    "normalise": _Normalise(),
    "division": _Numerator(),
    "softmax": _Taylor(),
    "log_softmax": _Taylor(),
    "max_pool": _Winner(),
    "min_pool": _Winner(),
    "maximum": _Winner(),
    "minimum": _Winner(),
    "pick": _Winner(),
    "stop": _Nothing(),
}
"""Rules for all but linear operations."""


# Composites


@dataclass(frozen=True)
class Composite:
    """Which rule goes to which operation.

    Parameters
    ----------
    rules
        Pairs of a selector and a rule, or a mapping. A selector is `"first"` or `"last"` (of the linear operations between
        inputs and scores), `"convolution"`, `"dense"`, `"linear"` (either), another kind of operation as
        `xai.graph(model, x)` shows it, or the path of a layer, which stands for all that is inside. Paths go before
        positions, positions before kinds; of two that fit alike the first.
    """

    rules: tuple[tuple[str, Rule], ...] = field(default=())

    def __post_init__(self) -> None:
        held = self.rules.items() if isinstance(self.rules, Mapping) else self.rules
        pairs = tuple(
            (pair[0], _named_rule(pair[1])) if isinstance(pair, (tuple, list)) and len(pair) == 2 else (None, pair)
            for pair in held
        )
        for selector, rule in pairs:
            if not isinstance(selector, str) or not isinstance(rule, Rule):
                raise OptionError(
                    "A composite is made of pairs of a selector and a rule.",
                    received=f"{selector!r}: {rule!r}",
                    fix='{"first": xai.rules.Flat(), "convolution": xai.rules.ZPlus(), "dense": xai.rules.Epsilon()}',
                )
        object.__setattr__(self, "rules", pairs)

    def rule(self, step: Step, program: Program) -> Rule | None:
        """The rule of a step, or `None`."""
        linear = [other for other in program.steps if other.kind == "linear"]
        selectors = [_is_path, _is_position, _is_kind]
        for fits in selectors:
            for selector, rule in self.rules:
                if fits(selector, step, linear):
                    return rule
        return None

    def check(self, program: Program) -> None:
        """Refuse selectors that are paths of no layer with a linear operation.

        Raises
        ------
        UnknownNameError
            With the nearest names.
        """
        linear = [step for step in program.steps if step.kind == "linear"]
        for selector, _ in self.rules:
            if selector in (*_KINDS, *_POSITIONS) or any(_is_path(selector, step, linear) for step in linear):
                continue
            paths = list(dict.fromkeys(step.path for step in linear))
            near = difflib.get_close_matches(selector, [*paths, *_KINDS, *_POSITIONS], n=3, cutoff=0.3)
            raise UnknownNameError(
                f"No linear operation belongs to a layer {selector!r}, which a rule is for.",
                received=repr(selector),
                fix=(f"did you mean {', '.join(map(repr, near))}? " if near else "")
                + "xai.graph(model, x) shows the layers of all operations.",
            )


_KINDS = ("linear", "convolution", "dense", *OTHERS)
_POSITIONS = ("first", "last")


def _is_path(selector: str, step: Step, linear: list[Step]) -> bool:
    if selector in (*_KINDS, *_POSITIONS) or step.kind != "linear":
        return False
    inside = any(step.path.startswith(selector + mark) for mark in "./[")
    return step.path == selector or inside


def _is_position(selector: str, step: Step, linear: list[Step]) -> bool:
    if step.kind != "linear" or selector not in _POSITIONS:
        return False
    return step is (linear[0] if selector == "first" else linear[-1])


def _is_kind(selector: str, step: Step, linear: list[Step]) -> bool:
    if selector in ("convolution", "dense"):
        return step.kind == "linear" and ("conv" in step.name.lower()) == (selector == "convolution")
    return step.kind == selector


def EpsilonPlus(epsilon: float = 1e-6) -> Composite:  # noqa: N802, a kind of composite
    """`ZPlus` for convolutions, `Epsilon` for dense layers. Source: Kohlbrenner et al. 2020, arXiv:1910.09840."""
    return Composite((("convolution", ZPlus()), ("dense", Epsilon(epsilon))))


def EpsilonPlusFlat(epsilon: float = 1e-6) -> Composite:  # noqa: N802
    """`EpsilonPlus`, with `Flat` for the first layer. Source: Kohlbrenner et al. 2020, arXiv:1910.09840."""
    return Composite((("first", Flat()), *EpsilonPlus(epsilon).rules))


def EpsilonAlpha2Beta1(epsilon: float = 1e-6) -> Composite:  # noqa: N802
    """`AlphaBeta(2, 1)` for convolutions, `Epsilon` for dense layers. Source: Kohlbrenner et al. 2020."""
    return Composite((("convolution", AlphaBeta(2.0, 1.0)), ("dense", Epsilon(epsilon))))


def EpsilonAlpha2Beta1Flat(epsilon: float = 1e-6) -> Composite:  # noqa: N802
    """`EpsilonAlpha2Beta1`, with `Flat` for the first layer. Source: Kohlbrenner et al. 2020."""
    return Composite((("first", Flat()), *EpsilonAlpha2Beta1(epsilon).rules))


def EpsilonGammaBox(low: Any, high: Any, gamma: float = 0.25, epsilon: float = 1e-6) -> Composite:  # noqa: N802
    """`ZBox` for the first layer, `Gamma` for convolutions, `Epsilon` for dense ones. Source: Montavon et al. 2019."""
    return Composite((("first", ZBox(low, high)), ("convolution", Gamma(gamma)), ("dense", Epsilon(epsilon))))


def composite_of(rules: Any) -> Composite:
    """A composite from what `LRP(rules=...)` takes.

    Raises
    ------
    OptionError
        If it is none.
    """
    named = _NAMED.get(_plain(rules)) if isinstance(rules, str) else None
    if named is not None:
        rules = named()
    if isinstance(rules, Composite):
        return rules
    if isinstance(rules, Rule):
        return Composite((("linear", rules),))
    if isinstance(rules, (Mapping, list, tuple)):
        return Composite(rules)  # type: ignore[arg-type]
    near = difflib.get_close_matches(rules, _NAMES, n=1) if isinstance(rules, str) else []
    raise OptionError(
        "`rules` is a rule, a composite, a mapping from selectors to rules, or a name.",
        received=repr(rules) if isinstance(rules, type) else describe(rules),
        fix=(f"did you mean {near[0]!r}? " if near else "")
        + f"One of {', '.join(map(repr, _NAMES))}, or {{'first': xai.rules.Flat(), 'convolution': xai.rules.Gamma()}}.",
    )


_NAMES: dict[str, Callable[[], Any]] = {
    "epsilon": Epsilon,
    "zero": LRPZero,
    "gamma": Gamma,
    "z_plus": ZPlus,
    "alpha2_beta1": partial(AlphaBeta, 2.0, 1.0),
    "alpha1_beta0": partial(AlphaBeta, 1.0, 0.0),
    "flat": Flat,
    "w_square": WSquare,
    "epsilon_plus": EpsilonPlus,
    "epsilon_plus_flat": EpsilonPlusFlat,
    "epsilon_alpha2_beta1": EpsilonAlpha2Beta1,
    "epsilon_alpha2_beta1_flat": EpsilonAlpha2Beta1Flat,
}
"""Rules and composites by name."""


def _plain(name: str) -> str:
    """`"epsilonplusflat"` of `"EpsilonPlusFlat"` and `"epsilon-plus flat"`."""
    return "".join(letter for letter in name.lower().replace("+", "plus") if letter.isalnum())


_NAMED = {_plain(name): make for name, make in _NAMES.items()} | {"lrpzero": LRPZero, "lrp0": LRPZero}


def _named_rule(rule: Any) -> Any:
    """A rule by its name, anything else as it is."""
    made = _NAMED.get(_plain(rule)) if isinstance(rule, str) else None
    return rule if made is None else made()


# The methods


@dataclass(frozen=True)
class LRPPlan(Plan):
    """Rules of a composite, and for all operations without weights those of `OTHERS`."""

    composite: Composite

    def check(self, program: Program) -> None:
        self.composite.check(program)

    def rule(self, step: Step, program: Program) -> Rule | None:
        found = self.composite.rule(step, program)
        if found is not None:
            return found
        if "gate" in step.facts:
            return _Gate()
        return Epsilon() if step.kind == "linear" else OTHERS.get(step.kind)

    def program(self, net: Any, leaves: list[Any], varied: int) -> Program:
        return fold(analyse(net.graph(leaves), varied, net.backend), net.xp)

    def wants_pullback(self, step: Step) -> bool:
        if step.kind == "linear":
            return True
        return not (step.kind == "activation" and step.name == "relu")


@dataclass(frozen=True)
class _Gap:
    """Kernel: the sum of relevance minus the score."""

    def __call__(self, net: Net, values: list[Any], score: Any) -> Any:
        xp = net.xp
        total: Any = 0.0
        for value in values:
            total = total + xp.sum(xp.reshape(_wide(xp, value), (tuple(value.shape)[0], -1)), axis=1)
        return total - xp.astype(score, total.dtype)


_GAP = _Gap()


def _propagated(problem: Problem, plan: LRPPlan) -> Attribution:
    """Relevance of the inputs, from the score at the output."""
    hit = covered(problem, plan)
    flow = Flow(plan, problem.pick, len(problem.varied), times_input=True)
    values, settled_problem = settled(problem, blockwise(problem, flow, rows=(1, 1)))
    score = settled_problem.score
    gap = None if score is None else problem.run(_GAP, values, score)
    return Attribution(values, gap, coverage=hit, problem=settled_problem)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LRP(Ruled):
    """Relevance of the score, handed back layer by layer in proportion to what each input contributes.

    `values = R`, the relevance that reaches the inputs from `R = score` at the output. Linear operations by the rules
    asked for, batch norm folded into them; sums in proportion; activations pass relevance on; pooling by the winner or in
    proportion; attention, products and normalisation as in AttnLRP. `residual` is the sum of the values minus the score:
    what biases, normalisation and softmax took or gave, up to the stabiliser. One row forward and backward per sample,
    and the passes that the rules say.

    Source: Bach et al. 2015, doi:10.1371/journal.pone.0130140; Montavon et al. 2019, doi:10.1007/978-3-030-28954-6_10; for
    transformers Achtibat et al. 2024, arXiv:2402.05602.

    Parameters
    ----------
    rules
        A rule for all linear operations, a `Composite`, a mapping from selectors to rules, or a name: `"epsilon"` (default),
        `"epsilon_plus"`, `"epsilon_plus_flat"`, `"epsilon_alpha2_beta1"`, `"gamma"`, `"z_plus"` and others. Rules in a
        mapping may be names too.
    unsupported
        What becomes of operations that have no rule: `"error"` or `"gradient"`.

    Raises
    ------
    UnsupportedOperation
        If an operation has no rule.
    """

    settles: ClassVar[bool] = True

    rules: Any = "epsilon"

    def __post_init__(self) -> None:
        super().__post_init__()
        composite_of(self.rules)

    def plan(self, problem: Problem) -> LRPPlan:
        return LRPPlan(type(self).__name__, self.unsupported, composite_of(self.rules))

    def attribute(self, problem: Problem) -> Attribution:
        return _propagated(problem, self.plan(problem))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DeepTaylor(Ruled):
    """Deep Taylor decomposition: positive products alone in hidden layers, in the first a rule for the range of the inputs.

    `values = R`, by `ZPlus` without bias, and in the first linear layer by `ZBox` if `low` and `high` are given, else by
    `WSquare`. One row forward and backward per sample with other weights, in the first layer three.

    Source: Montavon et al. 2017, arXiv:1512.02479, equations 12, 14 and 15.

    Parameters
    ----------
    low, high
        Smallest and largest value of an input, as for `ZBox`; `None`: unbounded.
    """

    settles: ClassVar[bool] = True

    low: Any = None
    high: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.low is None) != (self.high is None):
            raise OptionError(
                "`low` and `high` go together.", received=f"low={self.low!r}, high={self.high!r}", fix="low=-1, high=1"
            )
        if self.low is not None:
            ZBox(self.low, self.high)

    def plan(self, problem: Problem) -> LRPPlan:
        first: Rule = WSquare() if self.low is None else ZBox(self.low, self.high)
        rules = Composite((("first", first), ("linear", ZPlus(bias=False))))
        return LRPPlan(type(self).__name__, self.unsupported, rules)

    def attribute(self, problem: Problem) -> Attribution:
        return _propagated(problem, self.plan(problem))


@dataclass(frozen=True)
class Contrastive(Rule):
    """The last linear operation of contrastive excitation: what excites the target minus what excites its negation."""

    epsilon: float = 1e-6

    def __call__(self, op: Operation) -> list[Any]:
        xp, w, x = op.xp, op.weight, op.live[0]
        amounts = []
        for weights in (w, -w):
            sides = _sides(op, partial(_positive, xp, weights), partial(_negative, xp, weights))
            slope = op.pull_function(sides, x, lambda total: _share(xp, op.relevance, total, self.epsilon, 1))
            amounts.append(x * slope)
        return [Message(amount=amounts[0] - amounts[1])]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ExcitationBackprop(Ruled):
    """Probability that a winner-take-all walk from the explained output ends at an input, along excitatory weights.

    `values = P`, from `P = 1` at the target by `P_i = sum_j x_i w_ij+ P_j / sum_i x_i w_ij+`. With `contrastive` minus the
    same for the negated target. One row forward and backward per sample with other weights.

    Source: Zhang et al. 2016, arXiv:1608.00507, equations 4 to 6 and section 3.3. The paper stops at an intermediate
    layer: `layer=`.

    Parameters
    ----------
    contrastive
        Whether to subtract what excites the negated target.
    """

    settles: ClassVar[bool] = True

    contrastive: bool = False

    def plan(self, problem: Problem) -> LRPPlan:
        rules: tuple[tuple[str, Rule], ...] = (("linear", ZPlus(bias=False)),)
        if self.contrastive:
            rules = (("last", Contrastive()), *rules)
        return LRPPlan(type(self).__name__, self.unsupported, Composite(rules))

    def attribute(self, problem: Problem) -> Attribution:
        plan = self.plan(problem)
        hit = covered(problem, plan)
        flow = Flow(plan, problem.pick, len(problem.varied), times_input=True, unit=True)
        values, problem = settled(problem, blockwise(problem, flow, rows=(1, 1)))
        return Attribution(values, coverage=hit, problem=problem)
