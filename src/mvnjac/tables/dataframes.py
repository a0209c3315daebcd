"""Tables in memory: rows of pandas, polars and Arrow tables, and results as tables with the same labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.errors import ArgumentError, DtypeError, NotFiniteError, ShapeError, UnknownNameError, counted
from mvnjac.tables.html import MOST_COLUMNS, html_table

if TYPE_CHECKING:
    import pyarrow as pa

_FROM_TABLE = "from_table"
#: the number of rows that a notebook shows
_HEAD = 5


@dataclass(frozen=True, repr=False)
class Observations:
    """The rows of a table, with the names of the columns and the labels of the rows. Made by `from_table`.

    Attributes:
        x: (n, d) float64, NaN where an entry is missing.
        names: the names of the d columns.
        index: the labels of the n rows.
        kind: "pandas" or "arrow", the type of table that `table` returns.
        index_name: the name of the labels; None if the rows are only numbered.
        native_index: the index of the data frame itself; None if the labels are from elsewhere.
    """

    x: Float[Tensor, "n d"]
    names: list[str]
    index: Sequence[Any]
    kind: Literal["pandas", "arrow"] = "pandas"
    index_name: str | None = None
    native_index: Any = field(default=None, compare=False)

    def __repr__(self) -> str:
        missing = int(self.x.isnan().sum())
        gaps = f", {missing:,} missing" if missing else ""
        labels = "" if self.index_name is None else f", index {self.index_name}"
        return f"Observations({counted(len(self.x), 'row', ',')}, {counted(len(self.names), 'variable')}{gaps}{labels})"

    def _repr_html_(self) -> str:
        k, rows, columns = min(len(self.x), _HEAD), len(self.x), len(self.names)
        names = self.names[:MOST_COLUMNS]
        left_out = [f"{k} of {rows} rows"] * (k < rows) + [f"{len(names)} of {columns} columns"] * (len(names) < columns)
        cells = self.x[:k, : len(names)].tolist()
        return html_table(repr(self), names, list(self.index)[:k], cells, ", ".join(left_out))

    def row_labels(self) -> Any:
        """The labels as `to_pandas` uses them: the index of the data frame itself, or a list."""
        return self.index if self.native_index is None else self.native_index

    def table(self, values: Float[Tensor, "n k"], columns: Sequence[str]) -> Any:
        """Results of these rows as a table, with the same row labels.

        Args:
            values: (n, k) numbers, such as `J.matrix()`.
            columns: the names of the k columns, such as `J.columns()`.

        Returns:
            A pandas.DataFrame, or a pyarrow.Table with the labels in its first column, like the original table.

        Raises:
            ShapeError: `values` has another shape.
        """
        array = self._checked(values, columns)
        if self.kind == "pandas":
            import pandas as pd

            return pd.DataFrame(array, index=self.row_labels(), columns=list(columns))
        import pyarrow as pa

        label = next(name for name in ("index", "__index__", "__index_level_0__") if name not in columns)
        return pa.table([pa.array(self.index), *array.T], names=[label, *columns])

    def to_xarray(self, values: Float[Tensor, "n k"], columns: Sequence[str]) -> Any:
        """The same as an xarray.DataArray with the dimensions "row" and "column" (needs xarray)."""
        import xarray as xr

        coords = {"row": np.asarray(self.index), "column": list(columns)}
        return xr.DataArray(self._checked(values, columns), coords=coords, dims=("row", "column"))

    def _checked(self, values: Tensor, columns: Sequence[str]) -> np.ndarray:
        if values.shape != (len(self.x), len(columns)):
            raise ShapeError(
                f"table: the values have shape {tuple(values.shape)}; expected {len(self.x)} rows and {len(columns)} columns."
            )
        return values.detach().cpu().numpy()


def from_table(table: Any, *, columns: str | Sequence[Any] | None = None, index: Any = None) -> Observations:
    """The rows of a data frame or table: pandas, Arrow, or any object with Arrow's C stream interface (polars, DuckDB).

    By default all columns except the index are variables, as on the command line. Variables must be numeric (integers,
    floating-point numbers or decimals). A column of text, dates, booleans or categories is an error, unless `columns` leaves
    it out or it is the index. Missing entries are NaN.

    Args:
        table: a pandas.DataFrame, a pyarrow.Table, or an object with `__arrow_c_stream__`.
        columns: the variables; by default all columns except the index.
        index: the column of row labels. By default the index of the data frame, also of an Arrow table that was made from a
            data frame with an index of one column; in a table without an index, the first column if it consists of dates;
            otherwise the numbers of the rows.

    Returns:
        The rows as `Observations`.

    Raises:
        UnknownNameError: the table does not have a column.
        DtypeError: a variable is not numeric, or has numbers that float64 cannot represent; or the object is not a table.
        NotFiniteError: an entry is infinite.
        ArgumentError: two columns have the same name, a column is given twice, or there are no columns.

    Example:
        >>> import pandas as pd, mvnjac
        >>> returns = pd.DataFrame({"USD": [1.0, 3.0, 2.0, 0.0], "CHF": [2.0, 1.0, 6.0, 3.0]}, index=list("abcd"))
        >>> rows = mvnjac.from_table(returns)
        >>> J = mvnjac.fit(rows.x, names=rows.names).gaussian.jacobian(rows.x)
        >>> rows.table(J.unique("mean").round(decimals=3), J.columns("mean"))
           mean[USD]  mean[CHF]
        a     -0.464     -0.319
        b      1.101     -0.493
        c      0.580      0.899
        d     -1.217     -0.087
    """
    return observations(_FROM_TABLE, table, columns, index)


def is_table(value: object) -> bool:
    """Whether `observations` reads this object: a data frame, an Arrow table, or an object with Arrow's C stream."""
    if isinstance(value, Observations) or _is_pandas(value):
        return True
    has_columns = hasattr(value, "columns") or hasattr(value, "schema")  # a single column, such as a Series, has neither
    return has_columns and hasattr(value, "__arrow_c_stream__")


def observations(function: str, table: Any, columns: str | Sequence[Any] | None = None, index: Any = None) -> Observations:
    """`from_table` for the argument of a public function, which messages name."""
    from mvnjac.tables.columns import Wording, date_column, pandas_index, variables

    if isinstance(table, Observations):
        return table
    kind: Literal["pandas", "arrow"] = "pandas" if _is_pandas(table) else "arrow"
    options = ("columns=", "index=") if function == _FROM_TABLE else ("from_table(…, columns=…)", "from_table(…, index=…)")
    wording = Wording(function, *options, UnknownNameError, ArgumentError, ArgumentError, DtypeError)
    selected = None if columns is None else [str(name) for name in ([columns] if isinstance(columns, str) else columns)]
    if selected == []:
        raise ArgumentError(
            f"{function}: columns is empty; name the variables, or leave out columns= to use all columns of the table."
        )
    key = None if index is None else str(index)
    source = _of_pandas(function, table, selected, key) if kind == "pandas" else _of_arrow(function, table)
    index_columns = pandas_index(source.schema)
    if key is None and not index_columns and (kind == "arrow" or _numbered(table)):
        key = date_column(source.schema, selected)
    names = variables(source.schema, selected, key, index_columns, wording)
    if key is None and len(index_columns) == 1:
        key = index_columns[0]
    labels = _labels(function, table if kind == "pandas" else source, source.column_names, key)
    x = np.stack([_numbers(function, source[name], name, labels) for name in names], -1)
    native = table.index if kind == "pandas" and key is None else None
    return Observations(torch.from_numpy(x), names, labels, kind, _index_name(table) if key is None else key, native)


def _is_pandas(table: object) -> bool:
    return hasattr(table, "iloc") and hasattr(table, "columns")


def _numbered(frame: Any) -> bool:
    """Whether a data frame has the default index, which only numbers the rows."""
    return frame.index.name is None and type(frame.index).__name__ == "RangeIndex"


def _index_name(table: Any) -> str | None:
    """The name of the index of a data frame; None for the default index, and for other tables."""
    if not _is_pandas(table) or _numbered(table):
        return None
    return "index" if table.index.name is None else str(table.index.name)


def _of_pandas(function: str, frame: Any, selected: Sequence[str] | None, index: str | None) -> pa.Table:
    """The columns of a data frame as an Arrow table, without its index. Columns that are not selected are null."""
    import pyarrow as pa

    names, arrays = [str(name) for name in frame.columns], []
    for j, name in enumerate(names):
        column = _series(frame, j)
        if name == index or (selected is not None and name not in selected):
            arrays.append(pa.nulls(len(frame)))
            continue
        try:
            array = pa.array(column.to_numpy() if str(column.dtype).startswith("Sparse") else column, from_pandas=True)
        except Exception as error:  # a column of Python objects can raise any error
            raise DtypeError(
                f"{function}: column {name!r} ({column.dtype}) is not numeric: {_first_line(error)}; convert it, or select the numeric "
                "columns with columns=."
            ) from error
        arrays.append(array)
    return pa.table(arrays, names=names)


def _series(frame: Any, position: int) -> Any:
    """A column by its position, since names can be repeated."""
    return frame.iloc[:, position]


def _of_arrow(function: str, source: Any) -> pa.Table:
    import pyarrow as pa

    if isinstance(source, pa.Table):
        return source
    if isinstance(source, pa.RecordBatch):
        return pa.Table.from_batches([source])
    if not hasattr(source, "__arrow_c_stream__"):
        raise DtypeError(
            f"{function}: got a {type(source).__name__}; expected a pandas.DataFrame, a pyarrow.Table, or an object "
            "with Arrow's C stream."
        )
    try:
        return pa.table(source)
    except Exception as error:  # any error of another library
        raise DtypeError(
            f"{function}: the {type(source).__name__} cannot be read through Arrow's C stream: {_first_line(error)}."
        ) from error


def _labels(function: str, table: Any, names: Sequence[str], key: str | None) -> list[Any]:
    """The labels of the rows: the column `key`, the index of a data frame, or the numbers of the rows."""
    try:
        if hasattr(table, "iloc"):
            return list(table.index if key is None else _series(table, names.index(key)))
        return list(range(len(table))) if key is None else table[key].to_pylist()
    except (ValueError, OverflowError) as error:  # dates outside the range of Python's datetime
        raise DtypeError(f"{function}: column {key!r} cannot be used as row labels: {_first_line(error)}.") from error


def _numbers(function: str, column: pa.ChunkedArray, name: str, labels: Sequence[Any]) -> np.ndarray:
    """(n,) float64, NaN where an entry is missing."""
    import pyarrow as pa

    from mvnjac.tables.exact import InexactError, column_as_float64

    half = pa.types.is_float16(column.type)  # older versions of pyarrow do not cast it
    try:
        values = np.asarray(column.to_numpy() if half else column_as_float64(name, column.combine_chunks()).to_numpy(False))
    except InexactError as error:
        raise DtypeError(
            f"{function}: column {name!r} ({column.type}) cannot be represented in float64: {error.value} in row {error.row} would be "
            f"{float(error.value)!r}; convert the column to floating point if rounding is intended, or leave it out with columns=."
        ) from error
    except (pa.ArrowException, ValueError) as error:
        raise DtypeError(
            f"{function}: column {name!r} ({column.type}) cannot be represented in float64: {_first_line(error)}."
        ) from error
    values = values.astype(np.float64, copy=False)
    infinite = np.isinf(values).nonzero()[0]
    if len(infinite):
        row = int(infinite[0])
        raise NotFiniteError(
            f"{function}: {name!r} is {values[row]} in row {row} (index {labels[row]}); replace it by NaN (missing), or leave out "
            "the row."
        )
    return values


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
