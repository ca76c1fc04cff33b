"""For tests of backends and methods: comparisons that look at more than values, and a suite that every backend passes."""

from xai_core.testing.compare import assert_close, kind_of
from xai_core.testing.conformance import BackendConformance, Subject
from xai_core.testing.nets import Weights, complex_step, mlp, weights

__all__ = ["BackendConformance", "Subject", "Weights", "assert_close", "complex_step", "kind_of", "mlp", "weights"]
