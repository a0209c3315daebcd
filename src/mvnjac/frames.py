"""Tables in memory: a pandas data frame or an Arrow table in, named tables out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.errors import DtypeError, ShapeError, UnknownNameError


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

        return pa.table({"index": pa.array(self.index)} | {name: array[:, j] for j, name in enumerate(columns)})

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


def from_table(table: Any, *, columns: Sequence[str] | None = None, index: str | None = None) -> Observations:
    """The rows of a data frame or table: pandas, Arrow, or whatever offers Arrow's C stream (polars, DuckDB).

    Args:
        table: a pandas.DataFrame, a pyarrow.Table, or an object with `__arrow_c_stream__`.
        columns: the variables; by default all columns of numbers but the index.
        index: the column that labels the rows; of pandas by default its index, of Arrow the rows' numbers.

    Raises:
        UnknownNameError: a column that the table does not have.
        DtypeError: a column that is asked for and holds no numbers; what is no table.

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
    if hasattr(table, "iloc") and hasattr(table, "columns"):
        return _from_pandas(table, columns, index)
    return _from_arrow(table, columns, index)


def _from_pandas(frame: Any, columns: Sequence[str] | None, index: str | None) -> Observations:
    labels = frame.index if index is None else frame[_known(index, frame.columns)]
    names = (
        [name for name in frame.columns if name != index and _is_number(frame[name].dtype)]
        if columns is None
        else list(columns)
    )
    for name in names:
        if not _is_number(frame[_known(name, frame.columns)].dtype):
            raise DtypeError(f"from_table: column {name!r} is {frame[name].dtype}; expected numbers.")
    x = frame[names].to_numpy(dtype=np.float64, na_value=np.nan)
    return Observations(
        torch.tensor(x, dtype=torch.float64, device="cpu"), [str(name) for name in names], list(labels), "pandas"
    )


def _is_number(dtype: Any) -> bool:
    return getattr(dtype, "kind", "O") in "iufb" and getattr(dtype, "kind", "O") != "b"


def _from_arrow(source: Any, columns: Sequence[str] | None, index: str | None) -> Observations:
    import pyarrow as pa

    if not isinstance(source, pa.Table):
        if not hasattr(source, "__arrow_c_stream__"):
            raise DtypeError(
                f"from_table: got a {type(source).__name__}; pass a pandas.DataFrame, a pyarrow.Table, or what offers Arrow."
            )
        source = pa.table(source)
    kinds = dict(zip(source.column_names, source.schema.types, strict=True))
    numeric = {name for name, kind in kinds.items() if pa.types.is_integer(kind) or pa.types.is_floating(kind)}
    names = [name for name in source.column_names if name != index and name in numeric] if columns is None else list(columns)
    for name in names:
        if _known(name, kinds) not in numeric:
            raise DtypeError(f"from_table: column {name!r} is {kinds[name]}; expected numbers.")
    parts = [source[name].cast(pa.float64()).to_numpy() for name in names]
    x = np.stack(parts, -1) if parts else np.empty((len(source), 0))
    labels = list(range(len(source))) if index is None else source[_known(index, kinds)].to_pylist()
    return Observations(torch.tensor(x, dtype=torch.float64, device="cpu"), names, labels, "arrow")


def _known(name: str, columns: Any) -> str:
    if name not in columns:
        raise UnknownNameError(f"from_table: there is no column {name!r}; there are {', '.join(map(str, list(columns)[:8]))}.")
    return name
