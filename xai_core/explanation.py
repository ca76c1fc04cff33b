"""The result of an explainer, and its form on disk."""

from __future__ import annotations

import dataclasses
import html
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_core.errors import BackendError, InputError, XaiError, describe
from xai_core.frames import is_frame
from xai_core.layers import Layer, parse
from xai_core.structure import flatten

if TYPE_CHECKING:
    from xai_core.attribution.base import Explainer

__all__ = ["Explanation", "FeatureValues", "load"]

_FORMAT = 1
_ARRAYS = ("values", "inputs", "target", "score", "residual", "error", "details")


@dataclass(frozen=True, eq=False)
class FeatureValues:
    """What each feature is worth, for methods that remove features as a whole.

    Attributes
    ----------
    values
        (batch, features), or (batch, features, outputs) where all outputs are explained.
    error
        Standard errors of the values, in the same shape, of methods that sample; NaN where there were too few rows to
        tell.
    names
        Names of the features.
    labels
        For each input which feature an element belongs to, broadcasting to the input; -1 for elements in none.
    """

    values: Any
    error: Any
    names: tuple[str, ...]
    labels: list[np.ndarray[Any, Any]]


@dataclass(frozen=True, eq=False)
class Explanation:
    """What an explainer found.

    Attributes
    ----------
    values
        Attributions: structure, array type, dtype and device of the inputs.
    inputs
        The inputs as they were given.
    target
        The explained output: one class per sample where a class was explained or predicted, else as it was given.
    explainer
        The explainer that made it; `None` after loading one whose options could not be stored.
    score
        Explained score per sample, (batch,).
    residual
        For methods that promise completeness, the sum of the values minus the change of the score they should add up
        to, (batch,); `None` for others.
    seed
        Seed of the random numbers.
    rows
        Model rows evaluated forward and backward, for the whole batch, rows that only filled up a block included.
    channel_axis
        Channel axis of image inputs.
    coverage
        For rule methods, the operations that each rule hit, as `layer: operation`.
    layer
        Layer whose value was explained, as text; `values` then is one array, of the shape of that value, or for the CAM
        methods a map with one channel of the size of the input.
    error
        Standard error of each value, from methods that sample and tell; structure and shape of `values`.
    features
        Values feature by feature, from methods that remove features.
    details
        What else a method has to say, by name: `r2` of LIME's fit, `converged` of methods with `tolerance`; arrays
        (batch,).
    outputs
        How many outputs the model has for one sample; `None` if that is not known.
    """

    values: Any
    inputs: Any
    target: Any
    explainer: Explainer | None
    score: Any
    residual: Any = None
    seed: int = 0
    rows: tuple[int, int] = (0, 0)
    channel_axis: int = -1
    coverage: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    layer: str | None = None
    error: Any = None
    features: FeatureValues | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    outputs: int | None = None

    def __len__(self) -> int:
        """Number of explained samples."""
        return int(flatten(self.values)[0][0].shape[0])

    def __repr__(self) -> str:
        leaves, structure = flatten(self.values)
        shapes = ", ".join(f"{structure.label(i)}: {tuple(leaf.shape)}" for i, leaf in enumerate(leaves))
        return f"Explanation({self.explainer!r}, values {shapes}, rows {self.rows})"

    def numpy(self) -> Explanation:
        """The same with all arrays as NumPy arrays; DataFrames stay."""
        parts = {name: _map_arrays(getattr(self, name)) for name in _ARRAYS}
        features = self.features
        if features is not None:
            arrays = {name: _map_arrays(getattr(features, name)) for name in ("values", "error")}
            features = dataclasses.replace(features, **arrays)
        return dataclasses.replace(self, features=features, **parts)

    def plot(
        self,
        path: str | Path | None = None,
        *,
        samples: int | None = None,
        names: Any = None,
        output: int | None = None,
    ) -> Any:
        """Draw input and attributions of each sample: heat for images and words, bars for tables, lines for signals.

        Parameters
        ----------
        path
            File to write; the suffix says which format.
        samples
            How many samples to draw, from the first; default: at most eight.
        names
            Names of features (tables); for token ids a function `id -> text`, or a list of texts for each sample.
        output
            Which output to draw, of explanations of all outputs.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        BackendError
            If matplotlib is not installed.
        OptionError
            If all outputs were explained and `output` does not say which to draw.
        """
        from xai_core.plotting import plot

        return plot(self, path, samples=samples, names=names, output=output)

    def waterfall(
        self,
        path: str | Path | None = None,
        *,
        sample: int = 0,
        most: int = 10,
        output: int | None = None,
        names: Any = None,
    ) -> Any:
        """Draw how the features of one sample lead from the score without them to its score.

        Parameters
        ----------
        path
            File to write; the suffix says which format.
        sample
            Which sample.
        most
            Features with a bar of their own; the others are summed up in one.
        output
            Which output to draw, of explanations of all outputs.
        names
            Names of the features, if not those of the explanation.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        OptionError
            If the values are of a method that does not promise that they add up to the score.
        InputError
            If the explanation is neither of a table nor by features.
        """
        from xai_core.plotting import waterfall

        return waterfall(self, path, sample=sample, most=most, output=output, names=names)

    def beeswarm(
        self, path: str | Path | None = None, *, most: int = 20, output: int | None = None, names: Any = None
    ) -> Any:
        """Draw the values of all samples, a line of dots for each feature, coloured by what the feature was.

        Parameters are those of `waterfall`; `most` features are drawn, those with the largest mean magnitude.
        """
        from xai_core.plotting import beeswarm

        return beeswarm(self, path, most=most, output=output, names=names)

    def bar(
        self,
        path: str | Path | None = None,
        *,
        sample: int | None = None,
        most: int = 20,
        output: int | None = None,
        names: Any = None,
    ) -> Any:
        """Draw the mean magnitude of each feature's values, or the values of one sample, with standard errors.

        Parameters are those of `waterfall`; `sample=None` is all of them, or the only one.
        """
        from xai_core.plotting import bar

        return bar(self, path, sample=sample, most=most, output=output, names=names)

    def to_shap(self, *, names: Any = None, output_names: Any = None, elements: bool = False) -> Any:
        """The same as `shap.Explanation`, for the plots of shap.

        `values` are those of the features where features were removed, else of the elements, with the channels of images
        last; `base_values` are the score minus the sum of the values, `data` what the features were: means for
        features of several elements.

        Parameters
        ----------
        names
            As for `plot`: names of features; for token ids a function `id -> text`, or a list of texts for each sample.
        output_names
            Names of the outputs, where all were explained.
        elements
            Values of elements also where features were removed together, for `shap.plots.image`.

        Returns
        -------
        shap.Explanation

        Raises
        ------
        BackendError
            If shap is not installed.
        """
        from xai_core.tables import to_shap

        return to_shap(self, names, output_names, elements)

    def save(self, path: str | Path) -> None:
        """Write to one `.npz` file, readable by `xai.load` with no framework installed.

        Options of the explainer and targets that are functions are stored by name only.
        """
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        meta = {
            "format": _FORMAT,
            "seed": self.seed,
            "rows": list(self.rows),
            "channel_axis": self.channel_axis,
            "coverage": {rule: list(hit) for rule, hit in self.coverage.items()},
            "layer": self.layer,
            "outputs": self.outputs,
            "explainer": _encode_explainer(self.explainer, arrays),
        }
        for name in _ARRAYS:
            meta[name] = _encode(getattr(self, name), arrays)
        held = None if self.features is None else vars(self.features)
        meta["features"] = _encode(held, arrays)
        arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
        with open(path, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    def _repr_html_(self) -> str:
        rows = [
            ("explainer", repr(self.explainer)),
            ("samples", len(self)),
            ("model rows (forward, backward)", self.rows),
        ]
        leaves, structure = flatten(self.values)
        rows += [(f"values of {structure.label(i)}", describe(leaf)) for i, leaf in enumerate(leaves)]
        rows.append(("target", _brief(self.target)))
        rows.append(("score", _brief(self.score)))
        if self.layer is not None:
            rows.append(("layer", self.layer))
        if self.residual is not None:
            rows.append(("residual", _brief(self.residual)))
        if self.features is not None and self.features.error is not None:
            known = to_host(self.features.error)
            known = known[np.isfinite(known)]
            rows.append(("standard error, largest", f"{known.max():.3g}" if known.size else "not known"))
        rows += [(name, _brief(value)) for name, value in self.details.items()]
        table = "".join(
            f"<tr><th style='text-align:left'>{html.escape(str(key))}</th>"
            f"<td style='text-align:left'>{html.escape(str(value))}</td></tr>"
            for key, value in rows
        )
        return f"<div><table>{table}</table>{self._picture()}</div>"

    def _picture(self) -> str:
        import base64

        from xai_core.plotting import plot

        buffer = io.BytesIO()
        try:
            figure = plot(self, None, samples=4, names=None, output=None)
        except XaiError as error:
            return f"<p>{html.escape(str(error))}</p>"
        figure.savefig(buffer, format="png", dpi=80)
        return f'<img alt="explanation" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def load(path: str | Path) -> Explanation:
    """Read an explanation that `Explanation.save` wrote; arrays come back as NumPy arrays.

    Raises
    ------
    InputError
        If the file is not one of these.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(bytes(arrays["meta"]).decode())
        if meta["format"] != _FORMAT:
            raise InputError(
                f"{path} is an explanation of format {meta['format']}; this version reads format {_FORMAT}.",
                fix="use the version of xai-core that wrote it.",
            )
        parts = {name: _decode(meta[name], arrays) for name in _ARRAYS if name in meta}
        held = _decode(meta["features"], arrays) if "features" in meta else None
        return Explanation(
            explainer=_decode_explainer(meta["explainer"], arrays),
            seed=meta["seed"],
            rows=(meta["rows"][0], meta["rows"][1]),
            channel_axis=meta["channel_axis"],
            coverage={rule: tuple(hit) for rule, hit in meta["coverage"].items()},
            layer=meta.get("layer"),
            outputs=meta.get("outputs"),
            features=None if held is None else FeatureValues(**held),
            **parts,
        )
    except (KeyError, ValueError, OSError) as error:
        if isinstance(error, (XaiError, FileNotFoundError)):
            raise
        raise InputError(f"{path} is not an explanation written by xai-core: {error}") from error


def to_host(array: Any) -> np.ndarray[Any, Any]:
    """NumPy copy of an array of any framework."""
    from xai_core.backend import backend_of_array

    if isinstance(array, np.ndarray):
        return array
    backend = backend_of_array(array)
    return np.asarray(array) if backend is None else np.asarray(backend.to_numpy(array))


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _map_arrays(value: Any) -> Any:
    leaves, structure = flatten(value)
    return structure.rebuild([to_host(leaf) if _is_array(leaf) else leaf for leaf in leaves])


def _brief(value: Any) -> str:
    if _is_array(value):
        return np.array2string(to_host(value), precision=4, threshold=8, edgeitems=4)
    return repr(value)


def _encode_frame(frame: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    return {
        "kind": "frame",
        "columns": [_encode(name, arrays) for name in frame.columns.tolist()],
        "index": _encode_column(frame.index.to_series(), arrays),
        "data": [_encode_column(frame.iloc[:, place], arrays) for place in range(frame.shape[1])],
    }


def _encode_column(column: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    """A column as an array of a plain dtype, or as texts; categories with the numbers of the values."""
    node: dict[str, Any] = {"dtype": str(column.dtype)}
    if node["dtype"] == "category":
        categories = column.cat.categories.to_series()
        node |= {"categories": _encode_column(categories, arrays), "ordered": bool(column.cat.ordered)}
        return node | {"values": _encode(column.cat.codes.to_numpy(), arrays)}
    host = column.to_numpy()
    if host.dtype.kind in "biufmM":
        return node | {"values": _encode(host, arrays)}
    plain = [None if missing else value for missing, value in zip(column.isna(), column, strict=True)]
    kept = [value if isinstance(value, (bool, int, float, str)) or value is None else str(value) for value in plain]
    return node | {"values": _encode(kept, arrays)}


def _decode_frame(node: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    try:
        import pandas
    except ImportError as error:
        raise BackendError("This explanation is of a DataFrame.", fix="pip install pandas") from error
    columns = [_decode(name, arrays) for name in node["columns"]]
    index = pandas.Index(_decode_column(node["index"], arrays))
    data = {place: _decode_column(column, arrays) for place, column in enumerate(node["data"])}
    frame = pandas.DataFrame(data).set_axis(index, axis=0)
    frame.columns = pandas.Index(columns)
    return frame


def _decode_column(node: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    import pandas

    values = _decode(node["values"], arrays)
    if node["dtype"] == "category":
        categories = _decode_column(node["categories"], arrays)
        return pandas.Series(pandas.Categorical.from_codes(values, list(categories), ordered=node["ordered"]))
    return pandas.Series(values, dtype=object if isinstance(values, list) else None).astype(node["dtype"])


def _encode(value: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    """A JSON tree; arrays go to `arrays` and are named in it."""
    if _is_array(value):
        host = to_host(value)
        name = f"array_{len(arrays)}"
        if host.dtype.name == "bfloat16":  # unknown to the .npy format: keep its bits
            arrays[name] = host.view(np.uint16)
            return {"kind": "bfloat16", "name": name}
        arrays[name] = host
        return {"kind": "array", "name": name}
    if is_frame(value):
        return _encode_frame(value, arrays)
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"kind": "plain", "value": value}
    if isinstance(value, dict):
        return {"kind": "dict", "items": [[key, _encode(item, arrays)] for key, item in value.items()]}
    if isinstance(value, (tuple, list)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {"kind": kind, "items": [_encode(item, arrays) for item in value]}
    from xai_core import baselines, rules
    from xai_core.attribution.base import Explainer

    if isinstance(value, Layer):
        return {"kind": "layer", "value": str(value)}
    if isinstance(value, Explainer):
        return {"kind": "explainer", "value": _encode_explainer(value, arrays)}
    for kind, module in (("baseline", baselines), ("rule", rules)):
        if dataclasses.is_dataclass(value) and getattr(module, type(value).__name__, None) is type(value):
            items = {entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)}
            return {"kind": kind, "name": type(value).__name__, "options": _encode(items, arrays)}
    return {"kind": "named", "value": getattr(value, "__qualname__", None) or repr(value)}


def _decode(node: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    kind = node["kind"]
    if kind == "array":
        return arrays[node["name"]]
    if kind == "bfloat16":
        wide = arrays[node["name"]].astype(np.uint32) << 16
        return wide.view(np.float32)
    if kind in ("plain", "named"):
        return node["value"]
    if kind == "frame":
        return _decode_frame(node, arrays)
    if kind == "layer":
        return parse(node["value"])
    if kind == "dict":
        return {key: _decode(item, arrays) for key, item in node["items"]}
    if kind == "explainer":
        return _decode_explainer(node["value"], arrays)
    if kind in ("baseline", "rule"):
        from xai_core import baselines, rules

        module = baselines if kind == "baseline" else rules
        return getattr(module, node["name"])(**_decode(node["options"], arrays))
    items = [_decode(item, arrays) for item in node["items"]]
    return items if kind == "list" else tuple(items)


def _encode_explainer(explainer: Explainer | None, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    if explainer is None:
        return None
    return {"method": explainer.method_name(), "options": _encode(explainer.options(), arrays), "repr": repr(explainer)}


def _holds_named(node: Any) -> bool:
    if isinstance(node, dict):
        return node.get("kind") == "named" or any(_holds_named(item) for item in node.values())
    return isinstance(node, list) and any(_holds_named(item) for item in node)


def _decode_explainer(node: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Explainer | None:
    from xai_core.attribution.base import methods

    if node is None or node["method"] not in methods() or _holds_named(node["options"]):
        return None
    return methods()[node["method"]](**_decode(node["options"], arrays))
