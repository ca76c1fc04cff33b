"""What the demo shows: a table in the terminal and one self-contained HTML file."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_core.attribution.base import explainer_class
from xai_core.demo import lite0
from xai_core.errors import BackendError
from xai_core.plotting import heat

if TYPE_CHECKING:
    from xai_core.demo.run import Report

__all__ = ["print_summary", "status", "write"]

_Host = np.ndarray[Any, Any]
_COLOURS = "RdBu_r"


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """A line that says what is being done, in terminals only."""
    console = _console()
    with console.status("") as shown:
        yield lambda text: shown.update(text)


def print_summary(report: Report) -> None:
    """Predictions, agreement of the logits, and the table of comparisons."""
    from rich.table import Table

    console = _console()
    for number, photograph in enumerate(report.photographs):
        names = ", ".join(f"{name} {share:.2f}" for name, share in report.predictions(number, 3))
        console.print(f"{photograph.name}: {names}")
    for a, b, difference in report.logit_differences():
        console.print(f"logits of {a} and {b} differ by at most {difference:.1e}")
    for label, reason in report.missing.items():
        console.print(f"{label} is missing: {reason}", markup=False)
    table = Table(title=None)
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading in _HEADINGS[:2] else "right")
    for row in table_rows(report):
        table.add_row(*row)
    console.print(table)


def _console() -> Any:
    try:
        from rich.console import Console
    except ModuleNotFoundError as error:
        raise BackendError(
            f"The demo needs the module {error.name!r}.", fix="pip install 'xai-core[all,demo]'"
        ) from error
    found = Console()
    return found if found.is_terminal else Console(width=140)


_HEADINGS = (
    "frameworks",
    "method",
    "largest difference",
    "relative L2",
    "rank correlation",
    "seconds",
    "x plain loop",
)


def table_rows(report: Report) -> list[tuple[str, ...]]:
    """The table as text: a row for each pair of frameworks and method; alone, a framework has a row for each method."""
    rows: list[tuple[str, ...]] = [
        (
            " / ".join(c.pair),
            c.method,
            f"{c.largest:.1e}",
            f"{c.relative:.1e}",
            f"{c.correlation:.5f}",
            " / ".join(f"{s:.2f}" for s in c.seconds),
            " / ".join(f"{r:.2f}" for r in c.ratios),
        )
        for c in report.comparisons()
    ]
    if rows:
        return rows
    return [
        (r.framework.label, method, "", "", "", f"{r.seconds:.2f}", f"{r.ratio:.2f}")
        for method, results in report.results.items()
        for r in results
    ]


def write(report: Report, out: Path) -> None:
    """Write the HTML file; pictures are inside it."""
    import jinja2

    template = resources.files("xai_core.demo").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    methods = []
    for method, results in report.results.items():
        doc = (explainer_class(method).__doc__ or "").strip().splitlines()[0]
        rows = [result.explanation.rows for result in results]
        methods.append({"name": method, "summary": doc, "rows": rows[0], "results": results})
    samples = []
    for number, photograph in enumerate(report.photographs):
        seen = lite0.crop(photograph.pixels)
        samples.append(
            {
                "name": photograph.name,
                "picture": _png(seen),
                "target": lite0.class_name(int(report.targets[number])),
                "predictions": report.predictions(number),
                "maps": {
                    method: [_png(overlay(result.values[number], seen)) for result in results]
                    for method, results in report.results.items()
                },
            }
        )
    text = environment.from_string(template).render(
        report=report,
        frameworks=[framework.label for framework in report.frameworks],
        methods=methods,
        samples=samples,
        headings=_HEADINGS,
        rows=table_rows(report),
        agree=agreement(report),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")


def agreement(report: Report) -> str:
    """One sentence about the logits."""
    from xai_core.demo.run import LOGITS_AGREE

    differences = report.logit_differences()
    if not differences:
        return "Only one framework is installed, so there is nothing to compare."
    worst = max(difference for _, _, difference in differences)
    verdict = "agree" if worst <= LOGITS_AGREE else "do NOT agree"
    return f"The logits of the {len(report.frameworks)} networks {verdict}: largest difference {worst:.1e}."


def overlay(values: _Host, picture: _Host) -> _Host:
    """A map (height, width, 3) as bytes: red for, blue against, over a pale grey photograph."""
    import matplotlib

    map_ = heat(values.astype(np.float64), -1)
    colour = matplotlib.colormaps[_COLOURS](0.5 + 0.5 * map_)[..., :3]
    grey = np.repeat(0.75 + 0.25 * picture.mean(axis=-1, keepdims=True) / 255.0, 3, axis=-1)
    strength = np.abs(map_)[..., None] ** 0.7
    return np.asarray(255.0 * (strength * colour + (1.0 - strength) * grey), dtype=np.uint8)


def _png(pixels: _Host) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
