"""Tables in memory: a pandas data frame or an Arrow table in, named tables out."""

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
    """The rows of a table: numbers, and what they are called. Made by `from_table`.

    Attributes:
        x: (n, d) float64, NaN where an entry is missing.
        names: the d columns' names; index: the n rows' labels.
        kind: "pandas" or "arrow": what `table` gives.
    """

    x: Float[Tensor, "n d"]
    names: list[str]
    index: Sequence[Any] = field(repr=False)
    kind: Literal["pandas", "arrow"] = "pandas"

    def table(self, values: Float[Tensor, "n k"], columns: Sequence[str]) -> Any:
        """Numbers of these rows as a table of the kind that came in, under the same labels: J.matrix() and J.columns()."""
        array = self._checked(values, columns)
        if self.kind == "pandas":
            import pandas as pd

            return pd.DataFrame(array, index=self.index, columns=list(columns))
        import pyarrow as pa

        label = next(name for name in ("index", "__index__", "__index_level_0__") if name not in columns)
        return pa.table([pa.array(self.index), *array.T], names=[label, *columns])

    def to_xarray(self, values: Float[Tensor, "n k"], columns: Sequence[str]) -> Any:
        """The same as an xarray.DataArray over "row" and "column" (needs xarray)."""
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
    """The rows of a data frame or table: pandas, Arrow, or whatever offers Arrow's C stream (polars, DuckDB).

    Which columns are variables is decided as by the command line: all but the index, and each must hold numbers (integers, floating
    point or decimals). Columns of text, dates, truth values or categories are an error unless `columns` leaves them out, or `index`
    names them. Missing entries are NaN.

    Args:
        table: a pandas.DataFrame, a pyarrow.Table, or an object with `__arrow_c_stream__`.
        columns: the variables; by default all columns but the index.
        index: the column that labels the rows; by default pandas' index, also that of an Arrow table which was made from a data frame
            with an index of one column; else the rows' numbers.

    Raises:
        UnknownNameError: a column that the table does not have.
        DtypeError: a variable that holds no numbers, or numbers that float64 cannot hold; what is no table.
        NotFiniteError: an infinite entry.
        ArgumentError: two columns of one name, a column that is asked for twice, no column at all.

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
    asked = None if columns is None else [str(name) for name in ([columns] if isinstance(columns, str) else columns)]
    if asked == []:
        raise ArgumentError(f"{_NAME}: columns is empty; name the variables, or leave it out for all columns of the table.")
    key = None if index is None else str(index)
    source = _of_pandas(table, asked, key) if kind == "pandas" else _of_arrow(table)
    own = pandas_index(source.schema)
    names = variables(source.schema, asked, key, own, wording)
    if key is None and len(own) == 1:
        key = own[0]
    labels = _labels(table if kind == "pandas" else source, source.column_names, key)
    x = np.stack([_numbers(source[name], name, labels) for name in names], -1)
    return Observations(torch.from_numpy(x), names, labels, kind)


def _of_pandas(frame: Any, asked: Sequence[str] | None, index: str | None) -> pa.Table:
    """The columns of a data frame by Arrow's types, without its index; what is not asked for is not converted, and is null here."""
    import pyarrow as pa

    names, arrays = [str(name) for name in frame.columns], []
    for j, name in enumerate(names):
        column = _series(frame, j)
        if name == index or (asked is not None and name not in asked):
            arrays.append(pa.nulls(len(frame)))
            continue
        try:
            array = pa.array(column.to_numpy() if str(column.dtype).startswith("Sparse") else column, from_pandas=True)
        except Exception as error:  # a column of Python objects may be anything
            raise DtypeError(
                f"{_NAME}: column {name!r} ({column.dtype}) is not numeric: {_first_line(error)}; convert it, or choose the numeric "
                "columns by columns=."
            ) from error
        arrays.append(array)
    return pa.table(arrays, names=names)


def _series(frame: Any, place: int) -> Any:
    """A column by its place: two may have the same name."""
    return frame.iloc[:, place]


def _of_arrow(source: Any) -> pa.Table:
    import pyarrow as pa

    if isinstance(source, pa.Table):
        return source
    if isinstance(source, pa.RecordBatch):
        return pa.Table.from_batches([source])
    if not hasattr(source, "__arrow_c_stream__"):
        raise DtypeError(
            f"{_NAME}: got a {type(source).__name__}; pass a pandas.DataFrame, a pyarrow.Table, or what offers Arrow."
        )
    try:
        return pa.table(source)
    except Exception as error:  # from another library
        raise DtypeError(
            f"{_NAME}: the {type(source).__name__} is no table by Arrow's C stream: {_first_line(error)}."
        ) from error


def _labels(table: Any, names: Sequence[str], key: str | None) -> list[Any]:
    """One a row: the column of this name, or pandas' index, or the rows' numbers."""
    try:
        if hasattr(table, "iloc"):
            return list(table.index if key is None else _series(table, names.index(key)))
        return list(range(len(table))) if key is None else table[key].to_pylist()
    except (ValueError, OverflowError) as error:  # dates beyond what Python can hold
        raise DtypeError(f"{_NAME}: column {key!r} cannot label the rows: {_first_line(error)}.") from error


def _numbers(column: pa.ChunkedArray, name: str, labels: Sequence[Any]) -> np.ndarray:
    """(n,) float64, NaN where an entry is missing."""
    import pyarrow as pa

    from mvnjac.tables.exact import InexactError, column_as_float64

    half = pa.types.is_float16(column.type)  # which older versions of Arrow do not cast
    try:
        values = np.asarray(column.to_numpy() if half else column_as_float64(name, column.combine_chunks()).to_numpy(False))
    except InexactError as error:
        raise DtypeError(
            f"{_NAME}: column {name!r} ({column.type}) does not fit into float64: {error.value} in row {error.row} would be "
            f"{float(error.value)!r}; convert it to floating point if that is meant, or leave it out by columns=."
        ) from error
    except (pa.ArrowException, ValueError) as error:
        raise DtypeError(
            f"{_NAME}: column {name!r} ({column.type}) does not fit into float64: {_first_line(error)}."
        ) from error
    values = values.astype(np.float64, copy=False)
    infinite = np.isinf(values).nonzero()[0]
    if len(infinite):
        row = int(infinite[0])
        raise NotFiniteError(
            f"{_NAME}: {name!r} is {values[row]} in row {row} (index {labels[row]}); mark it as missing (NaN), or leave the row out."
        )
    return values


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
