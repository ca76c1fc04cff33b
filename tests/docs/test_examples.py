"""Every Python example in README and documentation runs, page by page, as a reader would type it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from frameworks import need

need("torch", "jax", "flax", "keras", "tensorflow")

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *(page for folder in (".", "methods", "metrics") for page in sorted((DOCS / folder).glob("*.md"))),
]
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(path: Path) -> list[str]:
    return FENCE.findall(path.read_text())


def test_there_are_examples():
    assert len([page for page in PAGES if blocks(page)]) >= 12


ALONE = ("environ", "class Test", "register")
"""Words on pages that change more than their own names: these run in a process of their own, others in this one."""


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_page(page, tmp_path, monkeypatch):
    source = "\n\n".join(blocks(page))
    (tmp_path / "test_page.py").write_text(source)
    if not any(word in source for word in ALONE):
        monkeypatch.chdir(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            exec(compile(source, str(page), "exec"), {"__name__": "__main__"})
        return
    environment = {**os.environ, "MPLBACKEND": "agg"}
    # Under pytest, so that test classes on a page are run as well.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py"]
    if "class Test" not in source:
        command = [sys.executable, "test_page.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_every_method_has_a_page():
    import xai_core as xai

    for method in set(xai.methods().values()):
        if not method.__module__.startswith("xai_core"):
            continue
        page = ROOT / "docs" / "methods" / f"{method.method_name()}.md"
        text = page.read_text()
        for part in ("**Rows:**", "**Source:**", "**Limits.**", "$$"):
            assert part in text, f"{page.name} lacks {part}"


def test_every_metric_is_on_the_page_of_its_category():
    from xai_core.metrics import all_metrics

    for metric in all_metrics().values():
        if not metric.__module__.startswith("xai_core"):
            continue
        text = (ROOT / "docs" / "metrics" / f"{metric.category}.md").read_text()
        assert f"`{metric.__name__}`" in text, f"{metric.category}.md lacks {metric.__name__}"
        assert "mislead" in text
        assert "Source:" in (metric.__doc__ or ""), f"{metric.__name__} does not say its source"


def test_every_error_is_on_its_page():
    import xai_core as xai

    text = (ROOT / "docs" / "errors.md").read_text()
    for name in xai.__all__:
        if name.endswith("Error"):
            assert name in text, name


def test_readme_holds_the_two_commands():
    text = (ROOT / "README.md").read_text()
    for mark in ("<!-- main job -->", "<!-- tests -->"):
        assert text.count(mark) == 1
        block = text.split(mark)[1].split("```")[1]
        assert block.startswith("bash\npython -m pip install -c constraints.txt")
        assert len(block.strip().splitlines()) == 2
