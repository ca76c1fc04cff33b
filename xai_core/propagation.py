"""What flows back through a model: rules on its operations, and the engine that applies them.

A rule is asked for one operation at a time, from the scores to the inputs. What flows is a *slope* `c`: an array of the
shape of a value `v`, such that `v * c` is what the value contributes. For the gradient the slope is the gradient, for
DeepLIFT the multiplier, for LRP the relevance divided by the value. In this form operations that are linear pass a slope
on by their own pullback, sums split in proportion without any division, and nothing is undefined where a value is zero.
A rule that gives relevance to a value without regard to its size (flat, w-squared, z-box) hands on an *amount* beside.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from xai_core.backend import Backend
from xai_core.errors import OptionError, UnsupportedOperation
from xai_core.folding import folded_bias, folded_weight
from xai_core.operations import Program, Step, Tape, pull_step

__all__ = ["Choice", "Message", "Operation", "OwnPullback", "Rule", "backward", "coverage", "kept", "stabilised"]


@dataclass(frozen=True, eq=False)
class Message:
    """What flows back to a value: `value * slope + amount`; `None` stands for zero."""

    slope: Any = None
    amount: Any = None

    def __add__(self, other: Message) -> Message:
        return Message(_sum(self.slope, other.slope), _sum(self.amount, other.amount))

    def relevance(self, value: Any) -> Any:
        """What the value contributes."""
        part = None if self.slope is None else value * self.slope
        found = _sum(part, self.amount)
        return found if found is not None else value * 0


EPSILON = 1e-6
"""Stabilises the division by which an amount becomes a slope."""


def _sum(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return b if a is None else a
    return a + b


def stabilised(xp: Any, value: Any, epsilon: float) -> Any:
    """A divisor away from zero: `value + epsilon sign(value)`, with the sign of zero positive."""
    return value + xp.where(value < 0, xp.full_like(value, -epsilon), xp.full_like(value, epsilon))


def kept(xp: Any, array: Any, condition: Any) -> Any:
    """The array where a condition holds, else zero; as a product, which is faster than a choice between two arrays."""
    return array * xp.astype(condition, array.dtype)


class Operation:
    """One operation as a rule sees it.

    Attributes
    ----------
    xp
        Array namespace.
    step
        What is known of the operation: `kind`, `name`, `path`, `facts`.
    inputs
        Arrays of all inputs, constants included.
    output
        Its result.
    message
        What flows back to the result.
    reference
        The same operation in the run that this one is compared with (DeepLIFT), else `None`.
    """

    def __init__(
        self,
        step: Step,
        place: int,
        backend: Backend,
        tape: Tape,
        message: Message,
        reference: Tape | None = None,
    ) -> None:
        self.xp, self.step, self.message = backend.xp, step, message
        self._backend, self._tape, self._place = backend, tape, place
        self.inputs = [tape.values[value] for value in step.inputs]
        self.output = tape.values[step.outputs[0]]
        self.reference = None if reference is None else Operation(step, place, backend, reference, message)

    @property
    def live(self) -> list[Any]:
        """Inputs that are data, which a rule answers for."""
        return [self.inputs[place] for place in self.step.live]

    @cached_property
    def slope(self) -> Any:
        """What flows back to the result as a slope; an amount is divided by the result, away from zero."""
        if self.message.amount is None:
            return self.message.slope
        return _sum(self.message.slope, self.message.amount / stabilised(self.xp, self.output, EPSILON))

    @cached_property
    def relevance(self) -> Any:
        """What flows back to the result as an amount, `output * slope`."""
        return self.message.relevance(self.output)

    def pull(self, cotangent: Any) -> list[Any]:
        """The operation's own pullback to its data inputs; zeros where nothing flows."""
        # A pullback is used once: some frameworks free what it needs.
        pull = self._tape.pulls.pop(self._place, None)
        if pull is None:
            _, pull = pull_step(self.step, self._backend, self.inputs)
        return self._filled(pull(cotangent), self.live)

    def pull_at(self, live: Sequence[Any], cotangent: Any) -> list[Any]:
        """The same at other data inputs."""
        given = list(self.inputs)
        for place, array in zip(self.step.live, live, strict=True):
            given[place] = array
        _, pull = pull_step(self.step, self._backend, given)
        return self._filled(pull(cotangent), live)

    def pull_functions(
        self, function: Callable[[list[Any]], Any], points: list[Any], cotangent: Callable[[Any], Any]
    ) -> list[Any]:
        """Pullback through another function at some points: of `cotangent(value)`, to each point."""
        value, pull = self._backend.vjp(function, points)
        return self._filled(pull(cotangent(value)), points)

    def pull_function(self, function: Callable[[Any], Any], point: Any, cotangent: Callable[[Any], Any]) -> Any:
        """The same for a function of one point."""
        return self.pull_functions(lambda inner: function(inner[0]), [point], cotangent)[0]

    def run(self, *live: Any) -> Any:
        """The operation on other data inputs."""
        given = list(self.inputs)
        for place, array in zip(self.step.live, live, strict=True):
            given[place] = array
        return self.step.run(*given)[0]

    def _filled(self, found: Sequence[Any], like: Sequence[Any]) -> list[Any]:
        return [
            self.xp.zeros_like(array) if gradient is None else gradient
            for gradient, array in zip(found, like, strict=True)
        ]

    # Of a linear operation: its weights, with all that scales its result folded in.

    @cached_property
    def weight(self) -> Any:
        """Weights of a linear operation; constant factors behind it, batch norm for example, are folded in."""
        if "weight" not in self.step.facts:
            raise OptionError(
                f"A rule for weights was given to {self.step.label}, which has none.",
                received=f"kind {self.step.kind!r}",
                fix="give it to 'linear', 'convolution', 'dense', 'first', 'last' or to layers with weights.",
            )
        return folded_weight(self.xp, self.step.facts, self.inputs)

    @cached_property
    def bias(self) -> Any:
        """What is added to the weighted sum of a linear operation, broadcastable to the output; `None` for nothing."""
        return folded_bias(self.xp, self.step.facts, self.inputs, self.output)

    def weighted(self, x: Any, weight: Any) -> Any:
        """The weighted sum of a linear operation, without bias, of other data and other weights."""
        return self.step.facts["weighted"](self.inputs, x, weight)


class Rule(ABC):
    """What flows back through an operation. Subclasses are frozen dataclasses: options are compared by value."""

    @abstractmethod
    def __call__(self, op: Operation) -> Sequence[Any]:
        """For each of `op.live` a slope, a `Message`, or `None` for nothing.

        What comes from behind is `op.slope`, or as an amount `op.relevance`.
        """

    @property
    def name(self) -> str:
        """What `Explanation.coverage` calls it."""
        return type(self).__name__


@dataclass(frozen=True)
class OwnPullback(Rule):
    """The operation's own derivative."""

    def __call__(self, op: Operation) -> Sequence[Any]:
        return op.pull(op.slope)

    @property
    def name(self) -> str:
        return "own derivative"


Choice = Callable[[Step], Rule | None]
"""The rule of each step; `None` where there is none."""


def rule_of(step: Step, choice: Choice, unsupported: str, method: str) -> Rule:
    """The rule of a step, or its own derivative where that is what was asked for.

    Raises
    ------
    UnsupportedOperation
        If there is none.
    """
    rule = choice(step)
    if rule is not None:
        return rule
    if unsupported == "gradient":
        return OwnPullback()
    where = f" ({step.source})" if step.source else ""
    swayed = bool(step.facts.get("swayed")) and step.kind not in ("unknown", "control")
    raise UnsupportedOperation(
        f"{method} has no rule for the operation {step.name!r} at layer {step.path or '(the model itself)'!r}{where}.",
        received=f"kind {step.kind!r}" + (", with a condition, mask or index that the data decides on" * swayed),
        fix="unsupported='gradient' uses its own derivative and says so in the coverage; "
        "or explain the part of the model behind it: layer=...",
    )


def coverage(program: Program, choice: Choice, unsupported: str, method: str) -> dict[str, tuple[str, ...]]:
    """Which operations each rule hits, in the order of the model.

    Raises
    ------
    UnsupportedOperation
        If an operation has no rule.
    """
    found: dict[str, list[str]] = {}
    for step in program.active:
        if step.kind in _MOVES:
            continue
        rule = rule_of(step, choice, unsupported, method)
        found.setdefault(rule.name, []).append(step.label)
    return {name: tuple(labels) for name, labels in found.items()}


_MOVES = ("structure", "mark")
"""Kinds whose own pullback is right for whatever flows: elements are moved, and what flows to them moves back."""


def backward(
    program: Program,
    backend: Backend,
    tape: Tape,
    seed: Message,
    choice: Choice,
    *,
    unsupported: str = "error",
    method: str = "",
    reference: Tape | None = None,
    watch: Sequence[int] = (),
) -> dict[int, Message]:
    """Messages at the inputs, and at the values to `watch`, from one at the scores."""
    messages: dict[int, Message] = {program.graph.output: seed}
    kept = {*program.graph.inputs[: program.varied], *watch}
    for place in range(len(program.steps) - 1, -1, -1):
        step = program.steps[place]
        if step.kind == "constant":
            continue
        arrived = [messages.get(out) if out in kept else messages.pop(out, None) for out in step.outputs]
        if all(message is None for message in arrived):
            continue
        rule = None if step.kind in _MOVES else rule_of(step, choice, unsupported, method)
        if rule is None or (len(step.outputs) > 1 and isinstance(rule, OwnPullback)):
            found = _moved(step, place, backend, tape, arrived)
        else:
            operation = Operation(step, place, backend, tape, arrived[0] or Message(), reference)
            answers = rule(operation)
            found = [answer if isinstance(answer, Message) else Message(answer) for answer in answers]
        for position, message in zip(step.live, found, strict=True):
            if message.slope is None and message.amount is None:
                continue
            value = step.inputs[position]
            messages[value] = messages[value] + message if value in messages else message
    return {value: messages.get(value, Message()) for value in kept}


def _moved(step: Step, place: int, backend: Backend, tape: Tape, arrived: Sequence[Message | None]) -> list[Message]:
    """Slopes and amounts moved back by the step's own pullback, summed over its outputs."""
    if step.kind == "mark":
        return [arrived[0] or Message()]
    total = [Message() for _ in step.live]
    for output, message in enumerate(arrived):
        if message is None:
            continue
        parts: list[Sequence[Any]] = []
        for part in (message.slope, message.amount):
            if part is None:
                parts.append([None for _ in step.live])
                continue
            pull = tape.pulls.pop(place, None)
            if pull is None:
                _, pull = pull_step(step, backend, [tape.values[value] for value in step.inputs], output)
            parts.append(pull(part))
        total = [before + Message(*pair) for before, *pair in zip(total, *parts, strict=True)]
    return total
