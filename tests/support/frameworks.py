"""What happens where a framework is missing."""

from __future__ import annotations

import importlib.util
import os

import pytest


def need(*modules: str) -> None:
    """Skip the calling test module where a framework is missing; fail where all are expected."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if not missing:
        return
    if os.environ.get("XAI_REQUIRE_FRAMEWORKS"):
        raise RuntimeError(f"{', '.join(missing)} should be installed here")
    pytest.skip(f"{', '.join(missing)} not installed", allow_module_level=True)
