"""What may import what, and how small adapters stay."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAMEWORKS = {"jax", "jaxlib", "flax", "torch", "tensorflow", "keras", "equinox", "haiku"}
ADAPTER_LINES = 320
"""Code lines of an adapter's own module; the networks of the demo and TensorFlow's namespace are not adapters."""


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def modules(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, folder
    return found


def test_core_imports_no_framework_and_no_adapter():
    for path in modules("xai_core"):
        tops = {name.split(".")[0] for name in imports(path)}
        assert not tops & FRAMEWORKS, f"{path} imports {tops & FRAMEWORKS}"
        assert not {top for top in tops if top.startswith("xai_") and top != "xai_core"}, path


def test_importing_core_loads_no_framework():
    code = f"import sys, xai_core; print(sorted(set(sys.modules) & {FRAMEWORKS!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_imports_a_package_called_backends():
    for folder in ("xai_core", "backends", "tests", "benchmarks", "notebooks"):
        if not (ROOT / folder).exists():
            continue
        for path in (ROOT / folder).rglob("*.py"):
            assert not any(name.split(".")[0] == "backends" for name in imports(path)), path
    assert not (ROOT / "backends" / "__init__.py").exists()


def test_messages_and_pages_name_extras_that_there_are():
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    paths = [*modules("xai_core"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "pyproject.toml"]
    found = {
        name
        for path in paths
        for said in re.findall(r"xai-core\[([\w,]+)\]", path.read_text())
        for name in said.split(",")
    }
    assert {"plot", "images", "demo"} <= found
    assert found <= extras


def test_listed_packages_are_the_folders():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    folders = {f"backends/{path.name}" for path in (ROOT / "backends").iterdir() if (path / "__init__.py").exists()}
    assert listed == folders | {"xai_core"}
    entries = project["project"]["entry-points"]["xai_core.backends"]
    assert {f"backends/{value.split(':')[0]}" for value in entries.values()} == folders


@pytest.mark.parametrize("adapter", sorted(p.parent.name for p in (ROOT / "backends").glob("*/__init__.py")))
def test_adapters_are_thin_and_know_one_framework(adapter):
    path = ROOT / "backends" / adapter / "__init__.py"
    code = [line for line in path.read_text().splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(code) < ADAPTER_LINES
    own = adapter.removeprefix("xai_")
    allowed = {own} | ({"flax", "equinox", "haiku"} if own == "jax" else set())
    for module in (ROOT / "backends" / adapter).rglob("*.py"):
        tops = {name.split(".")[0] for name in imports(module)}
        assert not (tops & FRAMEWORKS) - allowed, module
        assert not {t for t in tops if t.startswith("xai_")} - {"xai_core", adapter}, module
        # An adapter knows of no method.
        assert not {name for name in imports(module) if name.startswith("xai_core.attribution")}, module


def test_users_meet_no_assert():
    for folder in ("xai_core", "backends"):
        for path in modules(folder):
            if "testing" in path.parts:
                continue
            found = [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)]
            assert not found, f"{path}: assert at {found}"


@pytest.mark.parametrize("path", modules("xai_core"), ids=lambda p: str(p.relative_to(ROOT)))
def test_all_is_the_public_names(path):
    """`__all__` lists what is there; public classes and functions of the core are documented."""
    if path.name == "conformance.py":
        pytest.importorskip("pytest")
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    module = importlib.import_module(name)
    listed = getattr(module, "__all__", [])
    assert len(listed) == len(set(listed))
    for public in listed:
        value = getattr(module, public)
        if callable(value) and getattr(value, "__module__", "").startswith("xai_core"):
            assert value.__doc__, f"{name}.{public} has no docstring"


def test_explainers_name_their_source():
    import xai_core as xai

    for name, method in xai.methods().items():
        assert "Source:" in (method.__doc__ or ""), name
        assert "`values" in method.__doc__, f"{name} does not state its formula"
