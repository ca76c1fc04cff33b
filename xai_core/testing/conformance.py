"""The suite that every backend passes, for every kind of model it takes; public, for backends of other packages.

Subclass `BackendConformance` in a test module, and give it a `subject`:

    class TestMine(BackendConformance):
        @pytest.fixture
        def subject(self):
            held = weights()
            return Subject(model=build(held), x=..., reference=lambda x: mlp(held, x), state=lambda: ...)
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import xai_core as xai
from xai_core.explanation import to_host
from xai_core.randomise import randomised, weighted_layers
from xai_core.structure import flatten
from xai_core.testing.compare import assert_close, kind_of
from xai_core.testing.nets import complex_step

__all__ = ["BackendConformance", "Subject"]

_Host = np.ndarray[Any, Any]


@dataclass(eq=False)
class Subject:
    """A model under test.

    Attributes
    ----------
    model
        What users pass, raw or wrapped; differentiable, smooth, one row of scores per input row.
    x
        Inputs of the framework's own array type: (batch, features), at least 5 rows.
    reference
        The same scores in NumPy, also for complex inputs.
    state
        Arrays and flags of the model and of the framework's global random state that no explanation may change.
    traces
        How many times the model's Python code has run so far; `None` where it cannot be counted.
    failing
        The model again, raising an exception when it is called; `None` where it cannot be made.
    relative
        Accuracy of the dtype.
    """

    model: Any
    x: Any
    reference: Callable[[_Host], _Host]
    state: Callable[[], Any]
    traces: Callable[[], int] | None = None
    failing: Any = None
    relative: float = 1e-5


def _equal(a: Any, b: Any) -> bool:
    flat_a, flat_b = flatten(a)[0], flatten(b)[0]
    return len(flat_a) == len(flat_b) and all(
        np.array_equal(np.asarray(p), np.asarray(q)) for p, q in zip(flat_a, flat_b, strict=True)
    )


class BackendConformance:
    """Test methods for one kind of model; subclasses define the fixture `subject`."""

    explainers: ClassVar[list[xai.Explainer]] = [
        xai.Gradient(),
        xai.IntegratedGradients(steps=9),
        xai.SmoothGrad(samples=5),
        xai.Occlusion(),
    ]

    def test_scores_are_those_of_the_model(self, subject: Subject) -> None:
        assert_close(
            xai.wrap(subject.model)(subject.x), subject.reference(to_host(subject.x)), relative=subject.relative
        )

    def test_gradient_is_exact(self, subject: Subject) -> None:
        host = to_host(subject.x)
        found = xai.Gradient()(subject.model, subject.x, target=1)
        assert_close(found.values, complex_step(subject.reference, host, 1), relative=subject.relative, like=subject.x)
        assert_close(found.score, subject.reference(host)[:, 1], relative=subject.relative)

    def test_predicted_class_is_the_default_target(self, subject: Subject) -> None:
        expected = np.argmax(subject.reference(to_host(subject.x)), axis=1)
        found = xai.Gradient()(subject.model, subject.x)
        assert np.array_equal(to_host(found.target), expected)

    def test_targets_per_sample_and_callable(self, subject: Subject) -> None:
        host = to_host(subject.x)
        chosen = np.arange(len(host)) % 3
        found = xai.Gradient()(subject.model, subject.x, target=chosen)
        assert_close(found.values, complex_step(subject.reference, host, chosen), relative=subject.relative)
        contrast = xai.Gradient()(subject.model, subject.x, target=lambda scores: scores[:, 0] - scores[:, 2])
        expected = complex_step(subject.reference, host, 0) - complex_step(subject.reference, host, 2)
        assert_close(contrast.values, expected, relative=subject.relative)

    def test_numpy_in_numpy_out(self, subject: Subject) -> None:
        host = np.array(to_host(subject.x))
        host.setflags(write=False)
        model = xai.wrap(subject.model)
        if model.adapted is None:  # a plain function; NumPy arrays do not tell its framework
            model = xai.wrap(subject.model, backend=kind_of(subject.x)[0])
        for explainer in self.explainers:
            native = explainer(subject.model, subject.x, target=0, seed=3)
            found = explainer(model, host, target=0, seed=3)
            assert_close(found.values, native.values, relative=subject.relative, like=host)
            assert isinstance(found.score, np.ndarray)
            assert isinstance(found.target, np.ndarray)

    def test_batch_size_does_not_matter(self, subject: Subject) -> None:
        for explainer in self.explainers:
            whole = explainer(subject.model, subject.x, target=2, seed=5).values
            for batch_size in (1, 7, 64):
                wrapped = xai.wrap(subject.model, batch_size=batch_size)
                found = explainer(wrapped, subject.x, target=2, seed=5).values
                assert_close(found, whole, relative=max(1e-6, subject.relative / 10), like=whole)

    def test_one_at_a_time_is_the_same(self, subject: Subject) -> None:
        for explainer in self.explainers:
            whole = to_host(explainer(subject.model, subject.x, target=2, seed=5).values)
            for row in range(3):
                part = explainer(subject.model, subject.x[row : row + 1], target=2, seed=5, index=row)
                assert_close(part.values, whole[row : row + 1], relative=max(1e-6, subject.relative / 10))

    def test_state_is_unchanged(self, subject: Subject) -> None:
        before = subject.state()
        for explainer in self.explainers:
            explainer(subject.model, subject.x, seed=1)
        assert _equal(before, subject.state())

    def test_state_is_unchanged_after_an_exception(self, subject: Subject) -> None:
        before = subject.state()

        def target(scores: Any) -> Any:
            raise RuntimeError("the target failed")

        try:
            xai.IntegratedGradients(steps=4)(subject.model, subject.x, target=target)
        except RuntimeError as error:
            assert "the target failed" in str(error)
        else:
            raise AssertionError("the exception was swallowed")
        if subject.failing is not None:
            try:
                xai.Gradient()(subject.failing, subject.x)
            except xai.ModelError as error:
                assert error.fix is not None
            else:
                raise AssertionError("a failing model gave no error")
        assert _equal(before, subject.state())
        assert_close(
            xai.wrap(subject.model)(subject.x), subject.reference(to_host(subject.x)), relative=subject.relative
        )

    def test_random_weights_are_not_those_of_the_model(self, subject: Subject) -> None:
        model = xai.wrap(subject.model)
        if model.adapted is None or model.adapted.weights is None:
            try:
                weighted_layers(model, subject.x)
            except xai.CapabilityError as error:
                assert error.fix is not None
                return
            raise AssertionError("weights that cannot be told gave no error")
        before = subject.state()
        scores = subject.reference(to_host(subject.x))
        layers = weighted_layers(model, subject.x)
        found = randomised(model, subject.x, layers, 3)
        other = to_host(found(subject.x))
        assert np.abs(other - scores).max() > 1e-2 * np.abs(scores).max()
        for explainer in self.explainers:
            explainer(found, subject.x, seed=1)
        assert_close(found(subject.x), other, relative=subject.relative)
        assert_close(randomised(model, subject.x, [], 3)(subject.x), scores, relative=subject.relative)
        assert_close(model(subject.x), scores, relative=subject.relative)
        assert _equal(before, subject.state())

    def test_second_call_does_not_compile(self, subject: Subject) -> None:
        if subject.traces is None or not _compiles(subject):
            return
        for explainer in self.explainers:
            explainer(subject.model, subject.x, target=0)
            before = subject.traces()
            explainer(subject.model, subject.x, target=1, seed=9)
            assert subject.traces() == before, f"{explainer!r} compiled again"

    def test_results_are_in_the_dtype_of_the_inputs(self, subject: Subject) -> None:
        for explainer in self.explainers:
            found = explainer(subject.model, subject.x, target=0)
            assert found.values.dtype == subject.x.dtype
            assert str(found.values.dtype) == str(subject.x.dtype)

    def test_model_is_freed(self, subject: Subject) -> None:
        xai.IntegratedGradients(steps=4)(subject.model, subject.x)
        held = xai.wrap(subject.model)
        if held.adapted is not None and held.adapted.replaced is not None:
            random = randomised(held, subject.x, weighted_layers(held, subject.x))
            xai.IntegratedGradients(steps=4)(random, subject.x)
            del random
        assert held.adapted is None or held.adapted.anchor is not None
        raw = held.raw
        try:
            reference = weakref.ref(raw)
        except TypeError:
            return
        del raw, held
        subject.model = subject.failing = subject.state = subject.traces = subject.reference = None  # type: ignore[assignment]
        gc.collect()
        assert reference() is None, "xai_core keeps the model alive"


def _compiles(subject: Subject) -> bool:
    from xai_core.backend import backend_of_array

    found = backend_of_array(subject.x)
    return found is not None and found.compiles
