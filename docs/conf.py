"""Sphinx configuration; pages that follow from the code are written here before each build."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import xai_core
import xai_core.metrics

HERE = Path(__file__).parent
GENERATED = HERE / "_generated"

project = "xai_core"
author = "the xai_core developers"
copyright = "2026, the xai_core developers"
release = xai_core.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
html_theme = "furo"
html_title = "xai_core"
html_static_path = ["_static"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 2
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = False
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True


def _methods_table() -> str:
    names: dict[type[xai_core.Explainer], list[str]] = {}
    for name, method in xai_core.methods().items():
        names.setdefault(method, []).append(name)
    lines = ["| method | names | what it is | needs | random |", "| --- | --- | --- | --- | --- |"]
    for method, known in sorted(names.items(), key=lambda item: item[0].__name__):
        summary = (method.__doc__ or "").strip().splitlines()[0]
        own = f"[{method.__name__}](/methods/{method.method_name()}.md)"
        needs = "gradients" if method.differentiates else "calls only"
        listed = ", ".join(f"`{name}`" for name in known)
        lines.append(f"| {own} | {listed} | {summary} | {needs} | {'yes' if method.stochastic else 'no'} |")
    return "\n".join(lines) + "\n"


def _metrics_table() -> str:
    lines = ["| metric | name | what it is | better | needs |", "| --- | --- | --- | --- | --- |"]
    better = {True: "higher", False: "lower", None: ""}
    kinds = sorted(xai_core.metrics.all_metrics().items(), key=lambda item: (item[1].category, item[0]))
    for name, metric in kinds:
        summary = (metric.__doc__ or "").strip().splitlines()[0]
        own = f"[{metric.__name__}](/metrics/{metric.category}.md)"
        needs = ", ".join(metric.needs)
        lines.append(f"| {own} | `{name}` | {summary} | {better[metric.higher_is_better]} | {needs} |")
    return "\n".join(lines) + "\n"


def _options(method: type[xai_core.Explainer]) -> str:
    shown = []
    for entry in dataclasses.fields(method):
        made = entry.default if entry.default is not dataclasses.MISSING else entry.default_factory()
        shown.append(f"`{entry.name}={made!r}`")
    return "Options and their defaults: " + (", ".join(shown) or "none") + ".\n"


def _write() -> None:
    shutil.rmtree(GENERATED, ignore_errors=True)
    (GENERATED / "notebooks").mkdir(parents=True)
    (GENERATED / "methods.md").write_text(_methods_table())
    (GENERATED / "metrics.md").write_text(_metrics_table())
    for method in set(xai_core.methods().values()):
        (GENERATED / f"{method.method_name()}.md").write_text(_options(method))
    for notebook in sorted((HERE.parent / "notebooks").glob("*.ipynb")):
        shutil.copy(notebook, GENERATED / "notebooks")
    shutil.copy(HERE.parent / "CHANGELOG.md", GENERATED / "changelog.md")


_write()
exclude_patterns += [f"_generated/{path.name}" for path in GENERATED.glob("*.md") if path.name != "changelog.md"]
