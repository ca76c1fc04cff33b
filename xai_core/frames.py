"""Tables of pandas as arrays of numbers, and back.

pandas is imported only where a DataFrame has come in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from xai_core.errors import BaselineError, CapabilityError, InputError, NonFiniteError, describe

__all__ = ["Frame", "is_frame", "is_series", "on_host"]

_Host = np.ndarray[Any, Any]


def is_frame(value: Any) -> bool:
    """Whether it is a DataFrame of pandas."""
    return _of_pandas(value) and getattr(value, "ndim", 0) == 2 and hasattr(value, "columns")


def is_series(value: Any) -> bool:
    """Whether it is a Series of pandas."""
    return _of_pandas(value) and getattr(value, "ndim", 0) == 1 and hasattr(value, "index")


def on_host(value: Any) -> bool:
    """Whether results for this input are NumPy arrays: it is one, or a DataFrame."""
    return isinstance(value, np.ndarray) or is_frame(value)


def _of_pandas(value: Any) -> bool:
    return any(kind.__module__.partition(".")[0] == "pandas" for kind in type(value).__mro__)


class Frame:
    """How the columns of one DataFrame are written as numbers.

    Columns of numbers stay what they are. Of any other column (text, category, truth, date) each value has a number,
    given when the value is first met, in the inputs, a background or a baseline, so that numbers given before never
    change. Values that are missing count as a value there.

    Attributes
    ----------
    columns
        Names of the columns.
    coded
        Names of those that hold no numbers.
    missing
        Whether columns of numbers may have missing values, which are NaN then.
    """

    def __init__(self, frame: Any, label: str, missing: bool = False) -> None:
        self.missing = missing
        self.columns: tuple[Any, ...] = tuple(frame.columns)
        if len(set(self.columns)) != len(self.columns):
            twice = next(name for name in self.columns if self.columns.count(name) > 1)
            raise InputError(
                f"Columns of `{label}` must have names of their own.",
                received=f"{twice!r} more than once",
                fix="rename.",
            )
        self._label = label
        self._index = frame.columns
        self._dtypes = list(frame.dtypes)
        self._numbers: dict[int, dict[Any, int]] = {}
        self._known: dict[int, Any] = {}
        for place, dtype in enumerate(self._dtypes):
            if dtype.kind not in "iuf":
                self._numbers[place] = {}
                self._known[place] = frame.iloc[:0, place]

    @property
    def coded(self) -> tuple[Any, ...]:
        return tuple(self.columns[place] for place in self._numbers)

    @property
    def constant(self) -> bool:
        """Whether of some column without numbers only one value was met."""
        return any(len(numbers) < 2 for numbers in self._numbers.values())

    def valid(self, rows: _Host) -> _Host:
        """Random rows (..., columns) with values that were met in the columns that hold no numbers."""
        found = np.array(rows, dtype=np.float64)
        for place, numbers in self._numbers.items():
            found[..., place] = np.floor(np.abs(found[..., place]) * 1e4) % len(numbers)
        return found

    def encode(self, frame: Any, name: str) -> _Host:
        """A DataFrame with these columns, in any order, as (rows, columns) in float64.

        Raises
        ------
        BaselineError
            If it has other columns, or a column holds another kind of values.
        InputError, NonFiniteError
            If values cannot be written as numbers.
        """
        if not is_frame(frame):
            raise BaselineError(
                f"`{name}` must be a DataFrame, as `{self._label}` is.",
                received=describe(frame),
                fix=f"{name}=df_train[{self._label}.columns][:50]",
            )
        own, other = set(self.columns), set(frame.columns)
        extra = [column for column in frame.columns if column not in own]
        missing = [column for column in self.columns if column not in other]
        if extra or missing:
            raise BaselineError(
                f"`{name}` must have the columns of `{self._label}`.",
                received=" and ".join(
                    f"{said} {', '.join(map(repr, names[:8]))}"
                    for said, names in (("besides", extra), ("without", missing))
                    if names
                ),
                fix=f"{name}={name}[{self._label}.columns]" if not missing else f"add {missing[0]!r}.",
            )
        found = np.empty((len(frame), len(self.columns)))
        for place, column in enumerate(self.columns):
            values = frame[column]
            found[:, place] = (
                self._codes(place, values, name) if place in self._numbers else self._plain(place, values, name)
            )
        return found

    def row(self, given: Any, name: str) -> _Host:
        """A mapping or Series by column name, as (1, columns)."""
        import pandas

        return self.encode(pandas.DataFrame({column: [value] for column, value in given.items()}), name)

    def decode(self, rows: _Host) -> Any:
        """The DataFrame that (rows, columns) stand for, with the columns' own dtypes."""
        import pandas

        if all(dtype == np.float64 for dtype in self._dtypes):
            return pandas.DataFrame(rows, columns=self._index)
        found = {}
        for place, dtype in enumerate(self._dtypes):
            values = rows[:, place]
            if place in self._numbers:
                codes = values.astype(np.int64)
                if np.any(codes != values) or np.any((codes < 0) | (codes >= len(self._known[place]))):
                    raise CapabilityError(
                        f"Column {self.columns[place]!r} holds no numbers, and this method makes values between its values.",
                        fix="use a method that takes values from data, such as KernelSHAP with background=, or give the "
                        "model numbers.",
                    )
                known = self._known[place]
                found[place] = pandas.Series(known.array.take(codes), dtype=known.dtype)
                continue
            plain = getattr(dtype, "numpy_dtype", getattr(dtype, "subtype", dtype))
            with np.errstate(invalid="ignore"):
                cast = values.astype(plain)
            known = ~np.isnan(values)
            # What fills a column of integers need not be one: a mean, for example.
            if dtype.kind == "f" or (np.array_equal(cast[known], values[known]) and (known.all() or _nullable(dtype))):
                whole = cast if dtype.kind == "f" or known.all() else values
                found[place] = cast if plain is dtype else pandas.Series(whole).astype(dtype)
            else:
                found[place] = values
        frame = pandas.DataFrame(found)
        frame.columns = self._index
        return frame

    def alike(self, values: _Host, frame: Any) -> Any:
        """Values (rows, columns) as a DataFrame with rows and columns named as in `frame`."""
        import pandas

        return pandas.DataFrame(values, index=frame.index, columns=frame.columns)

    def numbers(self, rows: _Host) -> _Host:
        """The rows in float32, for models that take numbers alone.

        Raises
        ------
        InputError, NonFiniteError
            If there are other columns, or values are missing.
        """
        if self._numbers:
            raise InputError(
                f"This model takes numbers, and columns of `{self._label}` hold none.",
                received=f"{', '.join(map(repr, self.coded[:8]))} of dtype {self._dtypes[next(iter(self._numbers))]}",
                fix=f"encode them as for training, for example pandas.get_dummies({self._label}, dtype='float32').",
            )
        for column, values in zip(self.columns, rows.T, strict=True):
            if np.any(np.isnan(values)):
                raise self._unknown(column, self._label, "missing", "")
        return rows.astype(np.float32)

    def fill(self, part: Any, name: str) -> Any:
        """What `part`, a baseline for this DataFrame, says as numbers: (rows, columns), or itself if it says no names.

        Raises
        ------
        BaselineError
            If it has no value for a column that holds no numbers.
        """
        if is_frame(part):
            return self.encode(part, name)
        if isinstance(part, Mapping) or is_series(part):
            return self.row(part, name)
        if self._numbers:
            column = self.coded[0]
            raise BaselineError(
                f"`{name}` has no value for column {column!r}, which holds no numbers.",
                received=describe(part),
                fix=f"background=rows of the training data; or {name}={{{column!r}: {self._example()!r}, ...}}, a dict, "
                "Series or DataFrame of one row with a value for each column.",
            )
        return part

    def _example(self) -> Any:
        known = self._known[next(iter(self._numbers))]
        return next(iter(known), "")

    def _plain(self, place: int, values: Any, name: str) -> _Host:
        column = self.columns[place]
        if self.missing and values.isna().all():
            return np.full(len(values), np.nan)
        if values.dtype.kind not in "iufb":
            raise BaselineError(
                f"Column {column!r} holds numbers in `{self._label}`, and other values in `{name}`.",
                received=f"dtype {values.dtype}",
                fix=f"{name}[{column!r}].astype({str(self._dtypes[place])!r})",
            )
        found = values.to_numpy("float64", na_value=np.nan)
        if np.any(np.isinf(found)):
            raise self._unknown(column, name, "infinite", "")
        if not self.missing and np.any(np.isnan(found)):
            raise self._unknown(
                column, name, "missing", " KernelSHAP and FeatureAblation leave them to a model of DataFrames."
            )
        if values.dtype.kind in "iu" and np.any(np.abs(found) >= 2.0**53):
            raise InputError(
                f"Column {column!r} of `{name}` holds integers that are too large for a computation.",
                received=f"{np.max(np.abs(found)):.3g}",
                fix=f"if they are names: {name}[{column!r}].astype(str)",
            )
        return found

    @staticmethod
    def _unknown(column: Any, name: str, what: str, more: str) -> NonFiniteError:
        return NonFiniteError(
            f"Column {column!r} of `{name}` has {what} values.", fix=f"remove or fill them before explaining.{more}"
        )

    def _codes(self, place: int, values: Any, name: str) -> list[int]:
        """The number of each value; values that are new get new ones."""
        import pandas

        numbers, new = self._numbers[place], []
        try:
            values = self._cast(place, values, name)
            keys = [_key(value) for value in values]
            for row, key in enumerate(keys):
                if key not in numbers:
                    numbers[key] = len(numbers)
                    new.append(row)
        except TypeError as error:
            raise InputError(
                f"Column {self.columns[place]!r} of `{name}` holds values that cannot be told apart: {error}.",
                fix="use values that are hashable, such as text.",
            ) from error
        if new:
            known = self._known[place]
            parts = [known, values.iloc[new]] if len(known) else [values.iloc[new]]
            self._known[place] = pandas.concat(parts, ignore_index=True)
        return [numbers[key] for key in keys]

    def _cast(self, place: int, values: Any, name: str) -> Any:
        """The values in the dtype of this column, to which categories are added where they are new."""
        import pandas

        known = self._known[place]
        if isinstance(known.dtype, pandas.CategoricalDtype):
            fresh = [value for value in values.dropna().unique() if value not in known.cat.categories]
            if fresh:
                self._known[place] = known = known.cat.add_categories(fresh)
        elif values.dtype == known.dtype:
            return values
        try:
            cast = values.astype(known.dtype)
            same = all(
                _key(new)[1] is None if _key(old)[1] is None else new == old
                for new, old in zip(cast, values, strict=True)
            )
        except (TypeError, ValueError):
            same = False
        if not same:
            raise BaselineError(
                f"Column {self.columns[place]!r} of `{name}` holds values of another kind than in `{self._label}`.",
                received=f"dtype {values.dtype} instead of {known.dtype}",
                fix=f"{name}[{self.columns[place]!r}].astype({str(known.dtype)!r})",
            )
        return cast


def _nullable(dtype: Any) -> bool:
    """Whether a dtype of pandas has missing values beside integers."""
    return hasattr(dtype, "numpy_dtype")


def _key(value: Any) -> tuple[type, Any]:
    """What tells values apart, missing ones and those that are equal but of different types included."""
    import pandas

    missing = pandas.isna(value)
    return type(value), None if isinstance(missing, (bool, np.bool_)) and missing else value
