"""Tables in memory: rows from pandas data frames and Arrow tables, and results as tables with the same labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.errors import ArgumentError, DtypeError, NotFiniteError, ShapeError, UnknownNameError

if TYPE_CHECKING:
    import pyarrow as pa

_NAME = "from_table"


@dataclass(frozen=True)
class Observations:
    """The rows of a table, with the names of the columns and the labels of the rows. Made by `from_table`.

    Attributes:
        x: (n, d) float64, NaN where an entry is missing.
        names: the names of the d columns.
        index: the labels of the n rows.
        kind: "pandas" or "arrow", the type of table that `table` returns.
        index_name: the name of the labels; None if the rows are only numbered.
    """

    x: Float[Tensor, "n d"]
    names: list[str]
    index: Sequence[Any] = field(repr=False)
    kind: Literal["pandas", "arrow"] = "pandas"
    index_name: str | None = None

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

            return pd.DataFrame(array, index=self.index, columns=list(columns))
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
            data frame with an index of one column; otherwise the numbers of the rows.

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
    from mvnjac.tables.columns import Wording, pandas_index, variables

    kind: Literal["pandas", "arrow"] = "pandas" if hasattr(table, "iloc") and hasattr(table, "columns") else "arrow"
    wording = Wording(_NAME, "columns=", "index=", UnknownNameError, ArgumentError, ArgumentError, DtypeError)
    selected = None if columns is None else [str(name) for name in ([columns] if isinstance(columns, str) else columns)]
    if selected == []:
        raise ArgumentError(
            f"{_NAME}: columns is empty; name the variables, or leave out columns= to use all columns of the table."
        )
    key = None if index is None else str(index)
    source = _of_pandas(table, selected, key) if kind == "pandas" else _of_arrow(table)
    index_columns = pandas_index(source.schema)
    names = variables(source.schema, selected, key, index_columns, wording)
    if key is None and len(index_columns) == 1:
        key = index_columns[0]
    labels = _labels(table if kind == "pandas" else source, source.column_names, key)
    x = np.stack([_numbers(source[name], name, labels) for name in names], -1)
    return Observations(torch.from_numpy(x), names, labels, kind, _index_name(table) if key is None else key)


def _index_name(table: Any) -> str | None:
    """The name of the index of a data frame; None for the default index, and for other tables."""
    if not hasattr(table, "iloc") or (table.index.name is None and type(table.index).__name__ == "RangeIndex"):
        return None
    return "index" if table.index.name is None else str(table.index.name)


def _of_pandas(frame: Any, selected: Sequence[str] | None, index: str | None) -> pa.Table:
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
                f"{_NAME}: column {name!r} ({column.dtype}) is not numeric: {_first_line(error)}; convert it, or select the numeric "
                "columns with columns=."
            ) from error
        arrays.append(array)
    return pa.table(arrays, names=names)


def _series(frame: Any, position: int) -> Any:
    """A column by its position, since names can be repeated."""
    return frame.iloc[:, position]


def _of_arrow(source: Any) -> pa.Table:
    import pyarrow as pa

    if isinstance(source, pa.Table):
        return source
    if isinstance(source, pa.RecordBatch):
        return pa.Table.from_batches([source])
    if not hasattr(source, "__arrow_c_stream__"):
        raise DtypeError(
            f"{_NAME}: got a {type(source).__name__}; expected a pandas.DataFrame, a pyarrow.Table, or an object with Arrow's C stream."
        )
    try:
        return pa.table(source)
    except Exception as error:  # any error of another library
        raise DtypeError(
            f"{_NAME}: the {type(source).__name__} cannot be read through Arrow's C stream: {_first_line(error)}."
        ) from error


def _labels(table: Any, names: Sequence[str], key: str | None) -> list[Any]:
    """The labels of the rows: the column `key`, the index of a data frame, or the numbers of the rows."""
    try:
        if hasattr(table, "iloc"):
            return list(table.index if key is None else _series(table, names.index(key)))
        return list(range(len(table))) if key is None else table[key].to_pylist()
    except (ValueError, OverflowError) as error:  # dates outside the range of Python's datetime
        raise DtypeError(f"{_NAME}: column {key!r} cannot be used as row labels: {_first_line(error)}.") from error


def _numbers(column: pa.ChunkedArray, name: str, labels: Sequence[Any]) -> np.ndarray:
    """(n,) float64, NaN where an entry is missing."""
    import pyarrow as pa

    from mvnjac.tables.exact import InexactError, column_as_float64

    half = pa.types.is_float16(column.type)  # older versions of pyarrow do not cast it
    try:
        values = np.asarray(column.to_numpy() if half else column_as_float64(name, column.combine_chunks()).to_numpy(False))
    except InexactError as error:
        raise DtypeError(
            f"{_NAME}: column {name!r} ({column.type}) cannot be represented in float64: {error.value} in row {error.row} would be "
            f"{float(error.value)!r}; convert the column to floating point if rounding is intended, or leave it out with columns=."
        ) from error
    except (pa.ArrowException, ValueError) as error:
        raise DtypeError(
            f"{_NAME}: column {name!r} ({column.type}) cannot be represented in float64: {_first_line(error)}."
        ) from error
    values = values.astype(np.float64, copy=False)
    infinite = np.isinf(values).nonzero()[0]
    if len(infinite):
        row = int(infinite[0])
        raise NotFiniteError(
            f"{_NAME}: {name!r} is {values[row]} in row {row} (index {labels[row]}); replace it by NaN (missing), or leave out the row."
        )
    return values


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
