"""Pictures of explanations, with matplotlib."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_core.errors import BackendError, InputError, OptionError
from xai_core.explanation import to_host
from xai_core.structure import flatten
from xai_core.tables import Table, contents, is_text, select_output, table, token_texts

if TYPE_CHECKING:
    from xai_core.explanation import Explanation

__all__ = ["bar", "beeswarm", "heat", "picture", "plot", "waterfall"]

_Host = np.ndarray[Any, Any]
_MOST_SAMPLES = 8
_MOST_BARS = 20
_PERCENTILE = 99.0
_COLOURS = "RdBu_r"
_LINE = 36
"""Characters per line of text."""
_ROUNDING = 1e-6
_NAME = 30
"""Characters per line of a feature's name."""


def plot(
    explanation: Explanation, path: str | Path | None, *, samples: int | None, names: Any, output: int | None
) -> Any:
    """Draw an explanation; see `Explanation.plot`."""
    matplotlib = _matplotlib()
    chosen = select_output(explanation, output)
    values, structure = flatten(explanation.values)
    inputs = [contents(leaf) for leaf in flatten(explanation.inputs)[0]]
    hosts = [to_host(leaf) if chosen is None else to_host(leaf)[..., chosen] for leaf in values]
    hosts = [host.astype(np.float64) for host in hosts]
    count = min(len(hosts[0]), _MOST_SAMPLES if samples is None else samples)
    if count < 1:
        raise InputError("`samples` must be at least 1.", received=repr(samples), fix="samples=4")
    if len(hosts) != len(inputs):
        inputs = [_input_of(hosts[0], inputs)]
    texts = [is_text(value, given) for value, given in zip(hosts, inputs, strict=True)]
    images = [_is_image(value) and not text for value, text in zip(hosts, texts, strict=True)]
    columns = sum(2 if image else 1 for image in images)
    named = sum(value.ndim == 2 and not text for value, text in zip(hosts, texts, strict=True))
    figure = _figure(3.0 * columns + 1.5 * named + 0.6, (1.2 if all(texts) else 3.1) * count)
    axes = figure.subplots(count, columns, squeeze=False)
    colours = matplotlib.colormaps[_COLOURS]
    for row in range(count):
        column, title = 0, _title(explanation, row, chosen)
        for position, (value, given) in enumerate(zip(hosts, inputs, strict=True)):
            label = structure.label(position) if len(hosts) > 1 else ""
            axis = axes[row, column]
            if images[position]:
                shown = picture(given[row], explanation.channel_axis)
                axis.imshow(shown, cmap="gray" if shown.ndim == 2 else None)
                axis.set_title(label or title, fontsize=9)
                axis.set_axis_off()
                heated = axes[row, column + 1]
                map_ = heat(value[row], explanation.channel_axis)
                drawn = heated.imshow(map_, cmap=colours, vmin=-1.0, vmax=1.0)
                heated.set_title(_method(explanation), fontsize=9)
                heated.set_axis_off()
                figure.colorbar(drawn, ax=heated, fraction=0.046, pad=0.03)
                column += 2
            elif texts[position]:
                per_token = value[row].reshape(given.shape[1], -1).sum(axis=1)
                _draw_tokens(axis, per_token, token_texts(names, given[row], row), colours)
                axis.set_title(" ".join(filter(None, (label, title))), fontsize=9)
                column += 1
            else:
                own = structure.columns_of(position) if names is None else names
                _draw_vector(axis, value[row], own, colours)
                axis.set_title(" ".join(filter(None, (label, title))), fontsize=9)
                column += 1
    return _saved(figure, path)


def waterfall(
    explanation: Explanation, path: str | Path | None, *, sample: int, most: int, output: int | None, names: Any
) -> Any:
    """How features lead to the score of one sample; see `Explanation.waterfall`."""
    if explanation.residual is None:
        raise OptionError(
            "A waterfall shows values that add up to the score, and those of this method do not promise to.",
            received=repr(explanation.explainer),
            fix="explanation.bar(sample=0), or a Shapley method such as KernelSHAP.",
        )
    matplotlib = _matplotlib()
    held = table(explanation, output, names)
    row, kept = _sample(held, sample), _most(most)
    values, errors, score = held.values[row], _errors(held)[row], float(held.score[row])
    start = score - float(values.sum())
    order = np.argsort(-np.abs(values), kind="stable")
    shown = order if len(order) <= kept else order[: kept - 1]
    named = _with_values(held, row, shown)
    steps = [(name, float(values[place]), float(errors[place])) for name, place in zip(named, shown, strict=True)]
    if len(shown) < len(order):
        steps.append((f"{len(order) - len(shown)} other features", float(values[order[len(shown) :]].sum()), np.nan))
    figure = _figure(7.0, 0.42 * len(steps) + 1.3)
    axis = figure.subplots()
    colours, scale = matplotlib.colormaps[_COLOURS], float(np.max(np.abs(values))) or 1.0
    level = start
    # The smallest step comes first and lies at the bottom: the eye goes up from the score without features to the score.
    for height, (_, value, error) in enumerate(reversed(steps)):
        axis.barh(height, value, left=level, color=_colour(colours, value, scale), height=0.7)
        _number(axis, level + value, height, value, _whisker(axis, level + value, height, error))
        if height < len(steps) - 1:
            axis.plot([level + value] * 2, [height + 0.35, height + 0.65], color="0.6", linewidth=0.8)
        level += value
    for line in (start, score):
        axis.axvline(line, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    axis.set_yticks(range(len(steps)), [name for name, _, _ in reversed(steps)], fontsize=8)
    axis.set_ylim(-0.6, len(steps) - 0.15)
    _room(axis)
    begin = start if abs(start) > _ROUNDING * scale else 0.0
    axis.set_xlabel(f"{held.what(row)}: {begin:.4g} without the features, {score:.4g} with them", fontsize=9)
    axis.set_title(f"{_method(explanation)}, sample {row}", fontsize=9)
    _bare(axis)
    return _saved(figure, path)


def bar(
    explanation: Explanation, path: str | Path | None, *, sample: int | None, most: int, output: int | None, names: Any
) -> Any:
    """Values of one sample, or the mean magnitude over all, with errors; see `Explanation.bar`."""
    matplotlib = _matplotlib()
    held, kept = table(explanation, output, names), _most(most)
    single = sample is not None or len(held.values) == 1
    if single:
        row = _sample(held, sample or 0)
        values, errors = held.values[row], _errors(held)[row]
        label = f"change of the {held.what(row)}"
        title = f"{_method(explanation)}, sample {row}"
    else:
        values = np.abs(held.values).mean(axis=0)
        # Samples are estimated independently of each other.
        errors = np.sqrt((_errors(held) ** 2).sum(axis=0)) / len(held.values)
        label = f"mean magnitude of the change of the {held.what()}"
        title = f"{_method(explanation)}, {len(held.values)} samples"
    order = np.argsort(-np.abs(values), kind="stable")[:kept][::-1]
    figure = _figure(7.0, 0.36 * len(order) + 1.2)
    axis = figure.subplots()
    colours, scale = matplotlib.colormaps[_COLOURS], float(np.max(np.abs(values))) or 1.0
    for height, place in enumerate(order):
        value, error = float(values[place]), float(errors[place])
        axis.barh(height, value, color=_colour(colours, value, scale) if single else "0.45", height=0.7)
        _number(axis, value, height, value, _whisker(axis, value, height, error), signed=single)
    named = _with_values(held, row, order) if single else _labels(held.names, order)
    axis.set_yticks(range(len(order)), named, fontsize=8)
    axis.axvline(0.0, color="0.4", linewidth=0.6)
    _room(axis)
    axis.set_xlabel(label + (", with standard errors" if np.any(np.nan_to_num(errors) > 0) else ""), fontsize=9)
    axis.set_title(title, fontsize=9)
    _bare(axis)
    return _saved(figure, path)


def beeswarm(explanation: Explanation, path: str | Path | None, *, most: int, output: int | None, names: Any) -> Any:
    """Values of all samples by feature; see `Explanation.beeswarm`."""
    matplotlib = _matplotlib()
    held, kept = table(explanation, output, names), _most(most)
    order = np.argsort(-np.abs(held.values).mean(axis=0), kind="stable")[:kept][::-1]
    figure = _figure(7.0, 0.42 * len(order) + 1.3)
    axis = figure.subplots()
    colours, coloured = matplotlib.colormaps["viridis"], False
    span = float(np.ptp(held.values[:, order])) or 1.0
    for height, place in enumerate(order):
        values = held.values[:, place]
        shades = _shades(None if held.data is None else held.data[:, place])
        coloured = coloured or shades is not None
        paint: Any = "0.55" if shades is None else [colours(shade) if shade >= 0 else "0.55" for shade in shades]
        axis.scatter(values, height + _swarm(values, span), s=9, c=paint, linewidths=0, zorder=2)
        axis.axhline(height, color="0.9", linewidth=0.5, zorder=0)
    axis.axvline(0.0, color="0.4", linewidth=0.6, zorder=1)
    axis.set_yticks(range(len(order)), _labels(held.names, order), fontsize=8)
    axis.set_ylim(-0.7, len(order) - 0.3)
    axis.set_xlabel(f"change of the {held.what()}", fontsize=9)
    axis.set_title(f"{_method(explanation)}, {len(held.values)} samples", fontsize=9)
    _bare(axis)
    if coloured:
        legend = figure.colorbar(
            matplotlib.cm.ScalarMappable(cmap=colours), ax=axis, fraction=0.03, pad=0.02, aspect=30
        )
        legend.set_ticks([0.0, 1.0], labels=["low", "high"], fontsize=8)
        legend.set_label("what the feature was; grey: no number", fontsize=8, labelpad=-8)
        legend.outline.set_visible(False)
    return _saved(figure, path)


def _swarm(values: _Host, span: float) -> _Host:
    """Heights in (-0.4, 0.4): samples of nearly the same value lie side by side, none on top of each other."""
    bins = np.round(values / span * 100).astype(np.int64)
    heights, widest = np.zeros(len(values)), max(1, int(np.bincount(bins - bins.min()).max()))
    step = min(0.13, 0.8 / widest)
    for own in np.unique(bins):
        members = np.flatnonzero(bins == own)
        ranks = np.arange(len(members))
        # From the line outwards, to both sides in turn.
        heights[members] = step * np.where(ranks % 2 == 1, (ranks + 1) // 2, -(ranks // 2))
    return heights


def _shades(data: _Host | None) -> _Host | None:
    """Where in the range of its feature each sample lies, from 0 to 1; -1 for what is no number, None if all are such."""
    if data is None:
        return None
    numbers = np.array([item if isinstance(item, (int, float, np.number)) else np.nan for item in data], dtype=float)
    known = np.isfinite(numbers)
    if not known.any():
        return None
    low, high = np.percentile(numbers[known], [2.0, 98.0])
    width = high - low
    shades = np.clip((numbers - low) / width, 0.0, 1.0) if width > 0 else np.full(len(numbers), 0.5)
    return np.where(known, shades, -1.0)


def _sample(held: Table, sample: int) -> int:
    count = len(held.values)
    if isinstance(sample, bool) or not isinstance(sample, (int, np.integer)) or not -count <= sample < count:
        raise OptionError(f"`sample` is one of {count} samples.", received=repr(sample), fix="sample=0")
    return int(sample) % count


def _most(most: int) -> int:
    if isinstance(most, bool) or not isinstance(most, (int, np.integer)) or most < 1:
        raise OptionError("`most` counts the features that are drawn.", received=repr(most), fix="most=10")
    return int(most)


def _errors(held: Table) -> _Host:
    """Standard errors (batch, features), NaN where none is known."""
    return np.full(held.values.shape, np.nan) if held.error is None else held.error


def _with_values(held: Table, row: int, places: _Host) -> list[str]:
    """Names of features, and what they were where that is known."""
    names = _labels(held.names, places)
    if held.data is None:
        return names
    texts = [_content(held.data[row, place]) for place in places]
    return [f"{name} = {text}" if text else name for name, text in zip(names, texts, strict=True)]


def _content(item: Any) -> str:
    if item is None or (isinstance(item, (float, np.floating)) and np.isnan(item)):
        return ""
    return f"{float(item):.4g}" if isinstance(item, (float, np.floating)) else _short(str(item), 1)


def _labels(names: Sequence[str], places: _Host, lines: int = 2) -> list[str]:
    """Names at some places as they are drawn; with the place where names that were shortened cannot be told apart."""
    short = [_short(names[place], lines) for place in places]
    return [
        label if label == names[place] or short.count(label) == 1 else f"{label} [{place}]"
        for place, label in zip(places, short, strict=True)
    ]


def _short(name: str, lines: int) -> str:
    """On few lines: the beginning and the end of a longer name."""
    room = _NAME * lines
    if len(name) > room:
        name = f"{name[: room * 2 // 3]}…{name[1 - room // 3 :]}"
    return "\n".join(textwrap.wrap(name, _NAME + 4)) or name


def _whisker(axis: Any, end: float, height: float, error: float) -> float:
    """Draw the standard error of a bar, if it has one; how far it reaches."""
    if not error > 0:
        return 0.0
    axis.errorbar(end, height, xerr=error, color="0.2", linewidth=1.0, capsize=2.5)
    return error


def _number(axis: Any, end: float, height: float, value: float, reach: float, *, signed: bool = True) -> None:
    """The value beside the end of its bar and its error."""
    away = -1 if value < 0 else 1
    axis.annotate(
        f"{value:+.3g}" if signed else f"{value:.3g}",
        (end + away * reach, height),
        xytext=(4 * away, 0),
        textcoords="offset points",
        ha="right" if value < 0 else "left",
        va="center",
        fontsize=8,
    )


def _room(axis: Any) -> None:
    """Room for the numbers beside the bars, on both sides."""
    axis.use_sticky_edges = False
    axis.margins(x=0.14)
    axis.autoscale_view(scaley=False)


def _colour(colours: Any, value: float, scale: float) -> Any:
    return colours(0.5 + 0.4 * value / scale)


def _bare(axis: Any) -> None:
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=8)


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise BackendError(
            "Plots need matplotlib, which is not installed.", fix="pip install 'xai-core[plot]'"
        ) from error
    return matplotlib


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    # Notebooks show a figure by itself only if pyplot made it, and that would keep every one alive.
    setattr(figure, "_repr_png_", partial(_png, figure))  # noqa: B010
    return figure


def _saved(figure: Any, path: str | Path | None) -> Any:
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


def _input_of(value: _Host, inputs: list[_Host]) -> _Host:
    """The input that a layer's values are shown with: token ids for a value per token, else the image."""
    for given in inputs:
        if is_text(value, given):
            return given
    return next((given for given in inputs if given.ndim == value.ndim), inputs[0])


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
    # By place: two columns may have the same name once they are shortened to text.
    axis.barh(range(len(order)), value[order], color=[_colour(colours, v, scale) for v in value[order]])
    axis.set_yticks(range(len(order)), _labels(labels, order, 1), fontsize=7)
    axis.axvline(0.0, color="0.4", linewidth=0.5)
    axis.set_xlabel("attribution")


def _method(explanation: Explanation) -> str:
    return "attribution" if explanation.explainer is None else type(explanation.explainer).__name__


def _title(explanation: Explanation, row: int, output: int | None) -> str:
    target, score = explanation.target, to_host(explanation.score)
    if explanation.outputs == 1:
        return f"score {float(score.reshape(-1)[row]):.3g}"
    if output is not None:
        return f"class {output}, score {float(score[row, output]):.3g}"
    if hasattr(target, "shape") and len(tuple(target.shape)) == 1:
        return f"class {int(to_host(target)[row])}, score {float(score[row]):.3g}"
    return f"score {float(score[row]):.3g}"
