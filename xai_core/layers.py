"""Named values inside a model: how a layer is addressed, and the visitor that follows a run of a model through its layers.

An adapter that knows layers (`Adapted.tapped`) runs the model and tells a `Visitor` of every layer's inputs and
outputs. Reading, replacing and listing are the visitor's work, so that an adapter only has to know where its layers
are.
"""

from __future__ import annotations

import difflib
import html
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xai_core.errors import LayerError, OptionError, describe, dtype_name

__all__ = ["Layer", "LayerInfo", "LayerTable", "Reached", "Tape", "Visitor", "find", "parse", "rows_first"]

_SPELLING = re.compile(r"(?P<path>.+?)(?:#(?P<call>[1-9]\d*))?(?::(?P<io>input|output)(?:\[(?P<part>\d+)\])?)?")


@dataclass(frozen=True)
class Layer:
    """One value inside a model: what a layer returned, or was given.

    Written as text: `"block.conv"`, its second call `"block.conv#2"`, what it was given `"block.conv:input"`, the
    second array of the tuple that it returned `"lstm:output[1]"`.

    Attributes
    ----------
    path
        Name of the layer as its framework writes it.
    call
        Which call of the layer, from 1; `None`: the only one.
    io
        `"output"` or `"input"`.
    part
        Which array, from 0, of several.
    """

    path: str
    call: int | None = None
    io: str = "output"
    part: int = 0

    def __post_init__(self) -> None:
        if self.io not in ("output", "input"):
            raise OptionError("`io` says which value of a layer is meant.", received=repr(self.io), fix="io='output'")

    def __str__(self) -> str:
        text = self.path if self.call is None else f"{self.path}#{self.call}"
        if self.io != "output" or self.part:
            text += f":{self.io}"
        return f"{text}[{self.part}]" if self.part else text


def parse(text: str) -> Layer:
    """A layer from its text form."""
    found = _SPELLING.fullmatch(text)
    if found is None:
        raise OptionError("A layer is named by its path.", received=repr(text), fix='layer="block.conv"')
    call, part = found["call"], found["part"]
    return Layer(found["path"], int(call) if call else None, found["io"] or "output", int(part) if part else 0)


@dataclass(frozen=True)
class LayerInfo:
    """One call of one layer, as `xai.layers` lists it.

    Attributes
    ----------
    path, call
        Name, and which call of it.
    calls
        How often the layer is called.
    operation
        Class or function name of the layer.
    shapes
        Shape of each array that it returned, batch first.
    dtypes
        dtype of each.
    given
        Shape of each array that it was given.
    """

    path: str
    call: int
    calls: int
    operation: str
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    given: tuple[tuple[int, ...], ...]

    @property
    def name(self) -> str:
        """What to write for `layer=`."""
        return self.path if self.calls == 1 else f"{self.path}#{self.call}"

    @property
    def layer(self) -> Layer:
        return Layer(self.path, self.call)

    @property
    def spatial(self) -> bool:
        """Whether its (first) output is a map: batch, channels and at least one axis of several positions."""
        return bool(self.shapes) and "float" in self.dtypes[0] and is_map(self.shapes[0]) and _one_row(self.shapes[0])


def is_map(shape: tuple[int, ...]) -> bool:
    """Whether an array (batch, ...) has channels and several positions."""
    return len(shape) >= 3 and sum(size > 1 for size in shape[1:]) >= 1 and math.prod(shape[1:]) > max(shape[1:])


class LayerTable(Sequence[LayerInfo]):
    """The layers of a model in the order in which their calls end; prints as a table.

    Attributes
    ----------
    hidden
        Layers that are called where they cannot be followed, and how many rows come before each.
    """

    def __init__(self, rows: Sequence[LayerInfo], hidden: Sequence[tuple[int, str]] = ()) -> None:
        self._rows = tuple(rows)
        self.hidden = tuple(hidden)

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def _cells(self) -> list[tuple[str, str, str, str]]:
        head = ("layer", "operation", "shape", "spatial")
        return [
            head,
            *(
                (row.name, row.operation, ", ".join(map(str, row.shapes)), "yes" if row.spatial else "")
                for row in self._rows
            ),
        ]

    def __repr__(self) -> str:
        return text_table(self._cells())

    def _repr_html_(self) -> str:
        return html_table(self._cells())


def text_table(cells: Sequence[Sequence[str]]) -> str:
    """Rows of text in columns, the head first."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def html_table(cells: Sequence[Sequence[str]]) -> str:
    """The same as HTML."""
    rows = [
        "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"
        for number, row in enumerate(cells)
        for tag in ["td" if number else "th"]
    ]
    return f"<table>{''.join(rows)}</table>"


def find(table: LayerTable, wanted: Layer, model: str) -> Layer:
    """The layer with its call filled in.

    Raises
    ------
    LayerError
        If there is no such layer, call or array, with the nearest names; or if the layer is called more than once and
        `wanted` does not say which call.
    """
    rows = [row for row in table if row.path == wanted.path]
    if not rows and wanted.path in (path for _, path in table.hidden):
        raise LayerError(
            f"The layer {wanted.path!r} is called inside a loop, a branch or a function with a derivative of its own, "
            "where its values cannot be followed.",
            received=str(wanted),
            fix="name a layer before or behind; xai.layers(model, x) lists what can be named.",
        )
    if not rows:
        names = list(dict.fromkeys([*(row.path for row in table), *(path for _, path in table.hidden)]))
        near = difflib.get_close_matches(wanted.path, names, n=3, cutoff=0.3)
        near += [name for name in names if wanted.path and name.endswith(wanted.path) and name not in near][:2]
        raise LayerError(
            f"{model!r} has no layer {wanted.path!r} that was called.",
            received=str(wanted),
            fix=(f"did you mean {', '.join(map(repr, near))}? " if near else "")
            + "xai.layers(model, x) lists all of them.",
        )
    if wanted.call is None and len(rows) > 1:
        raise LayerError(
            f"The layer {wanted.path!r} is called {len(rows)} times.",
            received=str(wanted),
            fix=f"say which call: {', '.join(repr(row.name) for row in rows[:4])}.",
        )
    row = next((row for row in rows if row.call == (wanted.call or 1)), None)
    if row is None:
        raise LayerError(
            f"The layer {wanted.path!r} is called {len(rows)} times.",
            received=str(wanted),
            fix=f"calls count from 1: {rows[-1].name!r} is the last.",
        )
    arrays = row.shapes if wanted.io == "output" else row.given
    if wanted.part >= len(arrays):
        raise LayerError(
            f"The {wanted.io} of layer {wanted.path!r} has {len(arrays)} arrays.",
            received=str(wanted),
            fix=f"{wanted.path}:{wanted.io}[0] is the first." if arrays else "choose another layer.",
        )
    return Layer(wanted.path, row.call, wanted.io, wanted.part)


def rows_first(table: LayerTable, layer: Layer, name: str) -> tuple[int, ...]:
    """Shape of the value at a layer, of which a listing with one sample says whether samples come first.

    Raises
    ------
    LayerError
        If they do not: a sequence with the batch second, windows or heads that are part of the batch, weights.
    """
    row = next(row for row in table if (row.path, row.call) == (layer.path, layer.call or 1))
    shape = (row.shapes if layer.io == "output" else row.given)[layer.part]
    if not _one_row(shape):
        raise LayerError(
            f"The value at layer {name!r} must have one row per sample, on its first axis.",
            received=f"value of shape {shape} for one sample",
            fix="name a layer that keeps samples first.",
        )
    return shape


def _one_row(shape: tuple[int, ...]) -> bool:
    return bool(shape) and shape[0] in (1, -1)


class Reached(BaseException):
    """Ends a run of a model where nothing behind is needed. No `Exception`, so that models do not catch it."""


class Tape:
    """What one eager run did before it came to a layer, so that the same rows can go on from there without doing it again.

    Attributes
    ----------
    ended
        Outermost calls that ended before the layer: which, what they returned, and how often each layer had been
        called.
    values
        What the layer itself returned, of which a run that goes on replaces one array.
    """

    def __init__(self) -> None:
        self.ended: list[tuple[tuple[str, int], Any, dict[str, int]]] = []
        self.values: dict[tuple[str, int], Any] = {}
        self.recording = True

    @property
    def known(self) -> dict[tuple[str, int], tuple[Any, dict[str, int]]]:
        return {key: (value, counts) for key, value, counts in self.ended}


def _same(value: Any) -> Any:
    return value


class Visitor:
    """Follows one run of a model through its layers.

    Parameters
    ----------
    reads
        Values to keep, calls filled in.
    edits
        Functions `value -> value` of layers, calls filled in.
    listing
        Whether to keep what `xai.layers` shows.
    stop
        Whether to end the run by `Reached` when all `reads` are there.
    tape
        Where an eager run notes what it did before the first of `reads`.
    resume
        Whether to go on from where `tape` ends.
    """

    def __init__(
        self,
        *,
        reads: Sequence[Layer] = (),
        edits: Mapping[Layer, Callable[[Any], Any]] | None = None,
        listing: bool = False,
        stop: bool = False,
        tape: Tape | None = None,
        resume: bool = False,
    ) -> None:
        self.reads = frozenset(reads)
        self.edits = dict(edits or {})
        self.listing: list[dict[str, Any]] | None = [] if listing else None
        self.found: dict[Layer, Any] = {}
        self._stop = stop
        self._tape = None if resume else tape
        self._known = tape.known if resume and tape is not None else {}
        self._values = tape.values if resume and tape is not None else {}
        self._hidden: list[tuple[int, str]] = []
        self._counts: dict[str, int] = {}
        self._open: list[tuple[str, int]] = []
        self._given: dict[tuple[str, int], tuple[tuple[int, ...], ...]] = {}
        self._wanted = {(layer.path, layer.call, layer.io) for layer in (*self.reads, *self.edits)}

    def read(self, layer: Layer) -> None:
        """Keep this value as well."""
        self.reads |= {layer}
        self._wanted.add((layer.path, layer.call, layer.io))

    def value_of(self, layer: Layer) -> Any:
        """The value that was kept.

        Raises
        ------
        LayerError
            If the run did not come to it.
        """
        if layer not in self.found:
            raise LayerError(
                f"The run did not come to layer {str(layer)!r}.",
                fix="a model that takes other ways for other inputs cannot be followed; one that calls the layer inside a "
                "loop or a branch of its framework neither: xai.layers(model, x) lists what can.",
            )
        return self.found[layer]

    def around(self, path: str, operation: str, compute: Callable[[Any], Any], given: Any, tree: Tree) -> Any:
        """Run one layer: `compute(given)`, with the inputs and outputs shown and edited."""
        call = self.begin(path, tree.arrays(given))
        key = (path, call)
        if key in self._known:
            value, counts = self._known[key]
            self.end(path)
            self._counts = dict(counts)
            return tree.copy(value)
        if key in self._values:
            self.end(path)
            return self._pass(key, "output", tree.copy(self._values[key]), tree)
        given = self._pass(key, "input", given, tree)
        mark = len(self._tape.ended) if self._tape is not None else 0
        out = compute(given)
        self.end(path)
        self.note(path, call, operation, tree.arrays(out))
        if self._tape is not None and self._tape.recording:
            del self._tape.ended[mark:]  # its parts need no notes of their own
            if (*key, "output") in self._wanted:
                self._tape.values[key] = tree.copy(out)
            else:
                self._tape.ended.append((key, tree.copy(out), dict(self._counts)))
        return self._pass(key, "output", out, tree)

    def begin(self, path: str, given: list[Any]) -> int:
        """Count a call that begins."""
        call = self._counts[path] = self._counts.get(path, 0) + 1
        self._open.append((path, call))
        if self.listing is not None:
            self._given[path, call] = tuple(_shape(array) for array in given)
        return call

    def end(self, path: str) -> int:
        """The number of the call that ends; one that never began (it was given no array) begins here."""
        for place in range(len(self._open) - 1, -1, -1):
            if self._open[place][0] == path:
                return self._open.pop(place)[1]
        self._counts[path] = self._counts.get(path, 0) + 1
        return self._counts[path]

    def note(self, path: str, call: int, operation: str, out: list[Any]) -> None:
        """Keep what a listing shows of a call that ended."""
        if self.listing is not None:
            self.listing.append(
                {
                    "path": path,
                    "call": call,
                    "operation": operation,
                    "shapes": tuple(_shape(array) for array in out),
                    "dtypes": tuple(dtype_name(array.dtype) for array in out),
                    "given": self._given.get((path, call), ()),
                }
            )

    def hide(self, path: str) -> None:
        """A layer is called where it cannot be followed."""
        if self.listing is not None:
            self._hidden.append((len(self.listing), path))

    def values(self, path: str, call: int, io: str, arrays: list[Any], copy: Callable[[Any], Any] = _same) -> list[Any]:
        """Show the arrays that go into or come out of a call; what comes back takes their place."""
        arrays = list(arrays)
        for part, array in enumerate(arrays):
            layer = Layer(path, call, io, part)
            edit = self.edits.get(layer)
            if edit is not None:
                changed = edit(array)
                if tuple(changed.shape) != tuple(array.shape):
                    raise OptionError(
                        f"An edit of layer {str(layer)!r} must keep its shape.",
                        received=describe(changed),
                        fix=f"return an array of shape {tuple(array.shape)}.",
                    )
                arrays[part] = changed
            if layer in self.reads:
                self.found[layer] = copy(arrays[part])
        if self._stop and len(self.found) == len(self.reads):
            raise Reached
        return arrays

    def _pass(self, key: tuple[str, int], io: str, value: Any, tree: Tree) -> Any:
        if (*key, io) not in self._wanted:
            return value
        if self._tape is not None:
            self._tape.recording = False
        before = tree.arrays(value)
        after = self.values(*key, io, before, tree.copy)
        if all(a is b for a, b in zip(after, before, strict=True)):
            return value
        # A copy, so that an in-place operation behind leaves the caller's array alone.
        return tree.replace(value, [b if a is b else tree.copy(a) for a, b in zip(after, before, strict=True)])

    def table(self) -> LayerTable:
        """The layers that were called."""
        rows = self.listing or []
        calls: dict[str, int] = {}
        for row in rows:
            calls[row["path"]] = max(calls.get(row["path"], 0), row["call"])
        return LayerTable([LayerInfo(calls=calls[row["path"]], **row) for row in rows], self._hidden)


@dataclass(frozen=True)
class Tree:
    """How a framework's eager layers hold arrays: find them, put others in their place, copy them."""

    arrays: Callable[[Any], list[Any]]
    replace: Callable[[Any, list[Any]], Any]
    copy: Callable[[Any], Any] = _same


def _shape(array: Any) -> tuple[int, ...]:
    return tuple(-1 if size is None else int(size) for size in tuple(array.shape))
