"""Pictures of explanations, with matplotlib."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_core.errors import BackendError, InputError, describe
from xai_core.explanation import to_host
from xai_core.structure import flatten

if TYPE_CHECKING:
    from xai_core.explanation import Explanation

__all__ = ["heat", "picture", "plot"]

_Host = np.ndarray[Any, Any]
_MOST_SAMPLES = 8
_MOST_BARS = 20
_PERCENTILE = 99.0
_COLOURS = "RdBu_r"
_LINE = 36
"""Characters per line of text."""


def plot(explanation: Explanation, path: str | Path | None, *, samples: int | None, names: Any) -> Any:
    """Draw an explanation; see `Explanation.plot`."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError(
            "Plots need matplotlib, which is not installed.", fix="pip install 'xai-core[plot]'"
        ) from error
    values, structure = flatten(explanation.values)
    inputs = [to_host(leaf) for leaf in flatten(explanation.inputs)[0]]
    hosts = [to_host(leaf).astype(np.float64) for leaf in values]
    count = min(len(hosts[0]), _MOST_SAMPLES if samples is None else samples)
    if count < 1:
        raise InputError("`samples` must be at least 1.", received=repr(samples), fix="samples=4")
    if len(hosts) != len(inputs):
        inputs = [_input_of(hosts[0], inputs)]
    images = [_is_image(value) and not _is_text(value, given) for value, given in zip(hosts, inputs, strict=True)]
    columns = sum(2 if image else 1 for image in images)
    text = all(_is_text(value, given) for value, given in zip(hosts, inputs, strict=True))
    figure = Figure(figsize=(3.0 * columns + 0.6, (1.2 if text else 3.1) * count), layout="constrained")
    # Notebooks show a figure by itself only if pyplot made it, and that would keep every one alive.
    setattr(figure, "_repr_png_", partial(_png, figure))  # noqa: B010
    axes = figure.subplots(count, columns, squeeze=False)
    colours = matplotlib.colormaps[_COLOURS]
    for row in range(count):
        column = 0
        for position, (value, given) in enumerate(zip(hosts, inputs, strict=True)):
            label = structure.label(position) if len(hosts) > 1 else ""
            axis = axes[row, column]
            if images[position]:
                shown = picture(given[row], explanation.channel_axis)
                axis.imshow(shown, cmap="gray" if shown.ndim == 2 else None)
                axis.set_title(label or _title(explanation, row), fontsize=9)
                axis.set_axis_off()
                heated = axes[row, column + 1]
                map_ = heat(value[row], explanation.channel_axis)
                drawn = heated.imshow(map_, cmap=colours, vmin=-1.0, vmax=1.0)
                heated.set_title(_method(explanation), fontsize=9)
                heated.set_axis_off()
                figure.colorbar(drawn, ax=heated, fraction=0.046, pad=0.03)
                column += 2
            elif _is_text(value, given):
                per_token = value[row].reshape(given.shape[1], -1).sum(axis=1)
                _draw_tokens(axis, per_token, _tokens(names, given[row], row), colours)
                axis.set_title(" ".join(filter(None, (label, _title(explanation, row)))), fontsize=9)
                column += 1
            else:
                _draw_vector(axis, value[row], names, colours)
                axis.set_title(" ".join(filter(None, (label, _title(explanation, row)))), fontsize=9)
                column += 1
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return buffer.getvalue()


def heat(value: _Host, channel_axis: int) -> _Host:
    """One sample's map (height, width) in [-1, 1]: channels summed, divided by the 99th percentile of magnitudes.

    The sign and the zero are kept: the scale is symmetric.
    """
    map_ = value.sum(axis=_channel(value, channel_axis)) if value.ndim == 3 else value
    scale = float(np.percentile(np.abs(map_), _PERCENTILE)) or float(np.max(np.abs(map_))) or 1.0
    return np.clip(map_ / scale, -1.0, 1.0)


def picture(given: _Host, channel_axis: int) -> _Host:
    """One input sample as an image in [0, 1]: (height, width, 3), or (height, width) where it has not three channels."""
    image = given.astype(np.float64)
    if image.ndim == 3:
        image = np.moveaxis(image, _channel(given, channel_axis), -1)
        image = image if image.shape[-1] == 3 else image.mean(axis=-1)
    low, high = float(image.min()), float(image.max())
    return (image - low) / (high - low) if high > low else np.zeros_like(image)


def _channel(value: _Host, channel_axis: int) -> int:
    """Channel axis of one sample, given that of a batch."""
    return channel_axis - 1 if channel_axis > 0 else channel_axis


def _is_image(values: _Host) -> bool:
    return values.ndim == 4 or (values.ndim == 3 and min(values.shape[1:]) >= 8)


def _is_text(values: _Host, given: _Host) -> bool:
    """Whether `values` belong to the tokens whose ids are `given`."""
    return given.ndim == 2 and given.dtype.kind in "iu" and values.ndim >= 2 and values.shape[1] == given.shape[1]


def _input_of(value: _Host, inputs: list[_Host]) -> _Host:
    """The input that a layer's values are shown with: token ids for a value per token, else the image."""
    for given in inputs:
        if _is_text(value, given):
            return given
    return next((given for given in inputs if given.ndim == value.ndim), inputs[0])


def _tokens(names: Any, ids: _Host, row: int) -> list[str]:
    """Texts of one sample's tokens: from a function of an id, a list for each sample, or the ids themselves."""
    if names is None:
        return [str(int(i)) for i in ids]
    listed = isinstance(names, (list, tuple)) and len(names) > row and not isinstance(names[row], str)
    if not callable(names) and not listed:
        raise InputError(
            "`names` of tokens must be a function of a token id, or hold a list of texts for each sample.",
            received=describe(names),
            fix='names=vocabulary.get, or names=[["a", "word"], ...].',
        )
    texts = [str(names(int(i))) for i in ids] if callable(names) else [str(text) for text in names[row]]
    if len(texts) > len(ids):
        raise InputError(
            f"`names` must hold at most one text per token: {len(ids)}.", received=f"{len(texts)} for sample {row}"
        )
    return texts


def _draw_tokens(axis: Any, value: _Host, texts: list[str], colours: Any) -> None:
    """Words one after the other, each on the colour of its attribution."""
    scale = float(np.max(np.abs(value))) or 1.0
    column, line = 0, 0
    for text, number in zip(texts, value, strict=False):
        if column and column + len(text) > _LINE:
            column, line = 0, line + 1
        box = {"facecolor": colours(0.5 + 0.45 * number / scale), "edgecolor": "none", "pad": 1.5}
        dark = abs(number) > 0.6 * scale
        axis.text(column, -line, text, family="monospace", fontsize=8, bbox=box, color="white" if dark else "black")
        column += len(text) + 1
    axis.set_xlim(-1, _LINE + 1)
    axis.set_ylim(-max(line, 3) - 1, 1)
    axis.set_axis_off()


def _draw_vector(axis: Any, value: _Host, names: Any, colours: Any) -> None:
    if value.ndim > 2:
        raise InputError(
            "There is no picture for inputs of this shape.",
            received=f"values of shape (batch, {', '.join(map(str, value.shape))})",
            fix="plot slices of `explanation.values` with a library for volumes.",
        )
    if value.ndim == 2 or value.size > 64:
        axis.plot(value.T if value.ndim == 2 and value.shape[0] < value.shape[1] else value, linewidth=1.0)
        axis.axhline(0.0, color="0.6", linewidth=0.5)
        axis.set_xlabel("position")
        axis.set_ylabel("attribution")
        return
    value = value.reshape(-1)
    labels = [f"feature {i}" for i in range(value.size)] if names is None else [str(name) for name in names]
    if len(labels) != value.size:
        raise InputError(f"`names` must hold one name per feature: {value.size}.", received=f"{len(labels)} names")
    order = np.argsort(-np.abs(value))[:_MOST_BARS][::-1]
    scale = float(np.max(np.abs(value))) or 1.0
    axis.barh([labels[i] for i in order], value[order], color=[colours(0.5 + 0.4 * v / scale) for v in value[order]])
    axis.axvline(0.0, color="0.4", linewidth=0.5)
    axis.set_xlabel("attribution")


def _method(explanation: Explanation) -> str:
    return "attribution" if explanation.explainer is None else type(explanation.explainer).__name__


def _title(explanation: Explanation, row: int) -> str:
    target, score = explanation.target, to_host(explanation.score)
    if hasattr(target, "shape") and len(tuple(target.shape)) == 1:
        return f"class {int(to_host(target)[row])}, score {float(score[row]):.3g}"
    return f"score {float(score[row]):.3g}"
