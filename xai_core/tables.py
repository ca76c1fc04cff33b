"""Explanations as tables of features, for plots and for shap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xai_core.errors import BackendError, InputError, OptionError, describe
from xai_core.explanation import to_host
from xai_core.frames import is_frame
from xai_core.structure import flatten

if TYPE_CHECKING:
    from xai_core.explanation import Explanation

__all__ = ["Table", "contents", "is_text", "select_output", "table", "to_shap", "token_texts"]

_Host = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Table:
    """One output of an explanation, feature by feature.

    Attributes
    ----------
    values
        (batch, features).
    error
        Their standard errors, or None.
    names
        Names of the features.
    data
        What the features were, (batch, features), means where they have several elements; of objects if some are no
        numbers, and None or NaN where there is nothing to say; None for values at a layer.
    score
        Explained score (batch,).
    outputs
        Number of the output of each sample, (batch,), or None where it has none or there is one alone.
    """

    values: _Host
    error: _Host | None
    names: tuple[str, ...]
    data: _Host | None
    score: _Host
    outputs: _Host | None

    def what(self, row: int | None = None) -> str:
        """What is explained, of one sample or of all, in words."""
        if self.outputs is None:
            return "score"
        every = np.unique(self.outputs) if row is None else self.outputs[row : row + 1]
        return f"score of output {int(every[0])}" if len(every) == 1 else "score of each sample's own output"


def _explains_all(explanation: Explanation) -> bool:
    """Whether it explains all outputs."""
    return isinstance(explanation.target, str) and explanation.target == "all"


def select_output(explanation: Explanation, output: int | None) -> int | None:
    """The output to show: `None` where the explanation is of one.

    Raises
    ------
    OptionError
        If there are several and none is said, or it is not among them.
    """
    if not _explains_all(explanation):
        if output is not None:
            raise OptionError(
                "`output` chooses among all outputs, and this explanation is of one.",
                received=f"output={output!r}",
                fix='leave it out, or explain with target="all".',
            )
        return None
    count = int(tuple(explanation.score.shape)[1])
    if output is None and count == 1:
        return 0
    if isinstance(output, bool) or not isinstance(output, (int, np.integer)) or not 0 <= output < count:
        raise OptionError(
            f"This explanation is of all {count} outputs; one can be shown at a time.",
            received=f"output={output!r}",
            fix="output=0",
        )
    return int(output)


def table(explanation: Explanation, output: int | None = None, names: Any = None) -> Table:
    """The explanation of one output as a table.

    Raises
    ------
    InputError
        If it is neither of tables nor by features, or `names` do not fit.
    OptionError
        See `select_output`.
    """
    chosen = select_output(explanation, output)
    values, error, known, data = _by_feature(explanation)
    if known is None:
        raise InputError(
            "There are no features to show: the values are of elements.",
            received=describe(flatten(explanation.values)[0][0]),
            fix="explanation.plot(); or a method that takes features=, such as KernelSHAP.",
        )
    score = to_host(explanation.score)
    if chosen is not None:
        values, score = values[..., chosen], score[:, chosen]
        error = None if error is None else error[..., chosen]
    wide = values.astype(np.float64)
    return Table(wide, error, _named(names, known), data, score.astype(np.float64), _outputs(explanation, chosen))


def _outputs(explanation: Explanation, chosen: int | None) -> _Host | None:
    target = explanation.target if chosen is None else chosen
    if explanation.outputs == 1:
        return None
    if isinstance(target, (int, np.integer)):
        return np.full(len(explanation), int(target))
    return to_host(target) if hasattr(target, "shape") and len(tuple(target.shape)) == 1 else None


def _named(names: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    if names is None:
        return known
    given = tuple(str(name) for name in names)
    if len(given) != len(known):
        raise InputError(f"`names` must hold one name per feature: {len(known)}.", received=f"{len(given)} names")
    return given


def _by_feature(explanation: Explanation) -> tuple[_Host, _Host | None, tuple[str, ...] | None, _Host | None]:
    """Values, errors, names and data by feature; without names where values are of elements of images and the like."""
    inputs = flatten(explanation.inputs)[0]
    held = explanation.features
    if held is not None:
        known = None
        if explanation.layer is None:
            known = _means(inputs, held.labels, len(held.names))
        error = None if held.error is None else to_host(held.error)
        return to_host(held.values), error, held.names, known
    found, structure = flatten(explanation.values)
    hosts = [to_host(leaf) for leaf in found]
    errors = [to_host(leaf) for leaf in flatten(explanation.error)[0]] if explanation.error is not None else None
    flat = 3 if _explains_all(explanation) else 2
    if explanation.layer is not None or any(host.ndim != flat for host in hosts):
        return hosts[0], None if errors is None else errors[0], None, None
    names: list[str] = []
    for position, host in enumerate(hosts):
        prefix = f"{structure.label(position)} " if len(hosts) > 1 else ""
        columns = inputs[position].columns if is_frame(inputs[position]) else None
        names += [
            prefix + (f"feature {place}" if columns is None else str(columns[place])) for place in range(host.shape[1])
        ]
    data = [contents(leaf) for leaf in inputs]
    mixed = data if all(part.dtype.kind != "O" for part in data) else [part.astype(object) for part in data]
    return (
        np.concatenate(hosts, axis=1),
        None if errors is None else np.concatenate(errors, axis=1),
        tuple(names),
        np.concatenate(mixed, axis=1),
    )


def contents(leaf: Any) -> _Host:
    """An input as an array of numbers, or of objects where columns hold something else."""
    if not is_frame(leaf):
        return to_host(leaf)
    numeric = all(dtype.kind in "iufb" for dtype in leaf.dtypes)
    return leaf.to_numpy("float64", na_value=np.nan) if numeric else leaf.to_numpy(object)


def _means(inputs: list[Any], labels: list[_Host], count: int) -> _Host:
    """What each feature was: the mean of its elements, (batch, features); of a single element the element itself."""
    hosts = [contents(leaf) for leaf in inputs]
    batch = len(hosts[0])
    total, number = np.zeros((batch, count)), np.zeros((batch, count), dtype=np.int64)
    others: dict[tuple[int, int], Any] = {}
    for host, label in zip(hosts, labels, strict=False):
        wide = np.broadcast_to(label, host.shape).reshape(batch, -1)
        flat = host.reshape(batch, -1)
        for row in range(batch):
            own = wide[row] >= 0
            number[row] += np.bincount(wide[row][own], minlength=count)
            items = flat[row]
            if host.dtype.kind == "O":
                numbers = np.array([isinstance(item, (int, float, np.number)) for item in items])
                others |= {(row, int(wide[row][i])): items[i] for i in np.flatnonzero(own & ~numbers)}
                own = own & numbers
            total[row] += np.bincount(wide[row][own], items[own].astype(np.float64), minlength=count)
    with np.errstate(invalid="ignore"):
        means = total / number
    if not others:
        return means
    mixed = means.astype(object)
    for place, content in others.items():
        mixed[place] = content if number[place] == 1 else None
    return mixed


def token_texts(names: Any, ids: _Host, row: int) -> list[str]:
    """Texts of one sample's tokens: from a function of an id, a list for each sample, or the ids themselves.

    Raises
    ------
    InputError
        If `names` is neither, or there are more texts than tokens.
    """
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


def to_shap(explanation: Explanation, names: Any, output_names: Any, elements: bool) -> Any:
    """An explanation for the plots of shap; see `Explanation.to_shap`."""
    try:
        import shap
    except ImportError as error:
        raise BackendError("shap is not installed.", fix="pip install shap") from error
    held = explanation.features
    values, _, known, data = _by_feature(explanation)
    total = to_host(held.values if held is not None else values)
    every = _explains_all(explanation)
    last = total.ndim - 1 if every else total.ndim
    score = to_host(explanation.score)
    base = score - total.astype(score.dtype).sum(axis=tuple(range(1, last)))
    if known is None or elements:
        known, (values, data) = None, _of_elements(explanation)
    if every and output_names is not None and len(output_names) != total.shape[-1]:
        raise InputError(
            f"`output_names` must hold one name per output: {total.shape[-1]}.", received=f"{len(output_names)} names"
        )
    tokens = callable(names) or (isinstance(names, (list, tuple)) and bool(names) and not isinstance(names[0], str))
    if tokens and data is not None and data.ndim == 2:
        width = data.shape[1]
        rows = [token_texts(names, ids, row) for row, ids in enumerate(data)]
        data = np.array([texts + [""] * (width - len(texts)) for texts in rows], dtype=object)
        names = None
    return shap.Explanation(
        values=values,
        base_values=base,
        data=data,
        feature_names=None if known is None else list(_named(names, known)),
        output_names=None if output_names is None else list(map(str, output_names)),
    )


def _of_elements(explanation: Explanation) -> tuple[_Host, _Host]:
    """Values and inputs as shap draws them: the channels of images last, one value for each token."""
    found, inputs = flatten(explanation.values)[0], [contents(leaf) for leaf in flatten(explanation.inputs)[0]]
    value = to_host(found[0])
    ids = next((given for given in inputs if is_text(value, given)), None)
    if explanation.layer is not None and ids is not None:
        return value.reshape(*ids.shape, -1).sum(axis=2), ids
    if len(found) != 1 or explanation.layer is not None:
        raise InputError(
            "shap has no form for values of elements of several inputs, or of a layer.",
            received=describe(explanation.values),
            fix="explain with features=, or one input at a time.",
        )
    if inputs[0].ndim != 4:
        return value, inputs[0]
    axis = explanation.channel_axis % 4
    return np.moveaxis(value, axis, 3), np.moveaxis(inputs[0], axis, 3)


def is_text(values: _Host, given: _Host) -> bool:
    """Whether `values` belong to the tokens whose ids are `given`."""
    return given.ndim == 2 and given.dtype.kind in "iu" and values.ndim >= 2 and values.shape[1] == given.shape[1]
