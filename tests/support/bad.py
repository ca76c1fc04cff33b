"""Twenty and more mistakes, each with the error that must come, in terms of a framework's arrays.

A row is `(name, error, words that the message must hold, call)`; `call(kit)` makes the mistake.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import xai_core as xai


@dataclass(frozen=True)
class Kit:
    """What a framework gives for the mistakes: its model of (batch, 6) -> (batch, 3), its arrays, models gone wrong."""

    model: Any
    array: Callable[[np.ndarray], Any]
    function: Callable[[Callable[[Any], Any]], Any]
    """A model out of a function of arrays."""
    constant: Any
    """A model whose scores do not depend on its input."""
    xp: Any

    @property
    def x(self) -> Any:
        return self.array(np.random.default_rng(0).normal(size=(5, 6)).astype("float32"))


def _with(value: float) -> Callable[[Kit], Any]:
    def change(kit: Kit) -> Any:
        x = np.ones((5, 6), dtype="float32")
        x[2, 3] = value
        return kit.array(x)

    return change


IG, OCCLUSION = xai.IntegratedGradients(steps=3), xai.Occlusion()

MISTAKES: list[tuple[str, type[xai.XaiError], list[str], Callable[[Kit], Any]]] = [
    ("target too large", xai.TargetError, ["0 to 2", "target 3"], lambda k: IG(k.model, k.x, target=3)),
    ("target negative", xai.TargetError, ["0 to 2", "-1"], lambda k: IG(k.model, k.x, target=-1)),
    ("target of another batch", xai.TargetError, ["5 ints"], lambda k: IG(k.model, k.x, target=[0, 1])),
    ("target a float", xai.TargetError, ["an int"], lambda k: IG(k.model, k.x, target=1.0)),
    ("target a name", xai.TargetError, ["an int"], lambda k: IG(k.model, k.x, target="cat")),
    ("target with too many entries", xai.TargetError, ["1 entries"], lambda k: IG(k.model, k.x, target=(0, 1))),
    (
        "target callable of another shape",
        xai.TargetError,
        ["one score per sample"],
        lambda k: IG(k.model, k.x, target=lambda scores: scores),
    ),
    (
        "integers",
        xai.IntegerInputError,
        ["integers", 'layer="embedding"'],
        lambda k: IG(k.model, k.array(np.ones((5, 6), dtype="int32"))),
    ),
    ("NaN", xai.NonFiniteError, ["inputs", "(5, 6)"], lambda k: IG(k.model, _with(np.nan)(k))),
    ("infinity", xai.NonFiniteError, ["inputs"], lambda k: OCCLUSION(k.model, _with(np.inf)(k))),
    ("no batch axis", xai.InputError, ["batch axis"], lambda k: IG(k.model, k.array(np.ones((), dtype="float32")))),
    ("no samples", xai.InputError, ["non-zero"], lambda k: IG(k.model, k.array(np.ones((0, 6), dtype="float32")))),
    ("a list", xai.XaiError, ["Received", "Fix"], lambda k: IG(k.model, [1.0, 2.0])),
    ("a text", xai.XaiError, ["Received", "Fix"], lambda k: IG(k.model, "image.png")),
    ("nothing", xai.InputError, ["no array"], lambda k: IG(k.model, ())),
    (
        "different batches",
        xai.InputError,
        ["same"],
        lambda k: IG(k.model, (k.x, k.array(np.ones((4, 6), dtype="float32")))),
    ),
    (
        "baseline of another shape",
        xai.BaselineError,
        ["(5, 6)", "(7,)"],
        lambda k: xai.IntegratedGradients(baseline=np.ones(7))(k.model, k.x),
    ),
    (
        "baseline NaN",
        xai.BaselineError,
        ["finite"],
        lambda k: xai.IntegratedGradients(baseline=float("nan"))(k.model, k.x),
    ),
    (
        "baseline a text",
        xai.BaselineError,
        ["broadcast"],
        lambda k: xai.IntegratedGradients(baseline="black")(k.model, k.x),
    ),
    (
        "baseline of another structure",
        xai.BaselineError,
        ["structure"],
        lambda k: xai.IntegratedGradients(baseline={"a": 0.0})(k.model, k.x),
    ),
    ("no background", xai.BaselineError, ["x_train"], lambda k: xai.ExpectedGradients()(k.model, k.x)),
    (
        "background of another shape",
        xai.BaselineError,
        ["(rows, 6)"],
        lambda k: xai.ExpectedGradients(background=k.array(np.ones((3, 5), dtype="float32")))(k.model, k.x),
    ),
    (
        "empty background",
        xai.BaselineError,
        ["(rows, 6)"],
        lambda k: xai.ExpectedGradients(background=k.array(np.ones((0, 6), dtype="float32")))(k.model, k.x),
    ),
    (
        "blur of a table",
        xai.BaselineError,
        ["spatial"],
        lambda k: xai.IntegratedGradients(baseline=xai.Blur())(k.model, k.x),
    ),
    ("model ignores its input", xai.InputDependenceError, ["does not depend"], lambda k: IG(k.constant, k.x)),
    (
        "occluded model ignores its input",
        xai.InputDependenceError,
        ["does not depend"],
        lambda k: OCCLUSION(k.constant, k.x),
    ),
    (
        "model fails",
        xai.ModelError,
        ["failed when it was called"],
        lambda k: IG(k.model, k.array(np.ones((5, 9), dtype="float32"))),
    ),
    (
        "scores not finite",
        xai.NonFiniteError,
        ["scores"],
        lambda k: IG(k.function(lambda x: x * float("inf")), k.x, target=0),
    ),
    (
        "gradient not finite",
        xai.NonFiniteError,
        ["IntegratedGradients", "NaN"],
        lambda k: xai.IntegratedGradients(steps=3, quadrature="trapezoid")(
            k.function(lambda x: k.xp.sqrt(k.xp.abs(x))), k.x, target=0
        ),
    ),
    ("no batch in the output", xai.OutputError, ["first axis 5"], lambda k: IG(k.function(lambda x: k.xp.sum(x)), k.x)),
    ("several outputs", xai.OutputError, ["output='a'"], lambda k: IG(k.function(lambda x: {"a": x, "b": x}), k.x)),
    (
        "unknown output",
        xai.OutputError,
        ["'a', 'b'"],
        lambda k: IG(xai.wrap(k.function(lambda x: {"a": x, "b": x}), output="c"), k.x),
    ),
    (
        "labels instead of scores",
        xai.XaiError,
        ["scores"],
        lambda k: OCCLUSION(k.function(lambda x: k.xp.argmax(x, 1)), k.x, target=0),
    ),
    ("seed negative", xai.OptionError, ["seed"], lambda k: IG(k.model, k.x, seed=-1)),
    ("index of another batch", xai.OptionError, ["index"], lambda k: IG(k.model, k.x, index=[1, 2])),
    (
        "window with too many axes",
        xai.OptionError,
        ["one int per axis"],
        lambda k: xai.Occlusion(window=(2, 2))(k.model, k.x),
    ),
    (
        "stride larger than window",
        xai.OptionError,
        ["never covered"],
        lambda k: xai.Occlusion(window=2, stride=3)(k.model, k.x),
    ),
    ("batch_size zero", xai.OptionError, ["batch_size"], lambda k: xai.wrap(k.model, batch_size=0)),
    (
        "unknown method",
        xai.UnknownNameError,
        ["integrated_gradients"],
        lambda k: xai.explain(k.model, k.x, method="integrated_gradient"),
    ),
    ("unknown option", xai.OptionError, ["steps"], lambda k: xai.explain(k.model, k.x, n_steps=5)),
    (
        "tolerance out of reach",
        xai.ConvergenceError,
        ["max_rows"],
        lambda k: xai.IntegratedGradients(steps=2, quadrature="riemann_left", tolerance=1e-9, max_rows=8)(k.model, k.x),
    ),
]


def check(kit: Kit, error: type[xai.XaiError], words: list[str], call: Callable[[Kit], Any]) -> None:
    """The mistake gives that error, with words that help, and no bare traceback of the framework."""
    try:
        call(kit)
    except xai.XaiError as raised:
        assert isinstance(raised, error), f"{type(raised).__name__}: {raised}"
        for word in words:
            assert word in str(raised), f"{word!r} is not in: {raised}"
        assert raised.fix or raised.received, str(raised)
        return
    raise AssertionError("no error")
