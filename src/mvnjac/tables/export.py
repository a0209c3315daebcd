"""Matrices with named rows and columns as objects of pandas, Arrow and xarray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mvnjac.errors import ArgumentError


def require_no_graph(what: str, matrix: Tensor) -> Tensor:
    """The numbers on the CPU.

    Raises:
        ArgumentError: the matrix is part of an autograd graph, which the result would cut off.
    """
    if matrix.requires_grad:
        raise ArgumentError(
            f"{what}: the arguments require gradients, and the result would not be differentiable; detach them, compute under "
            "torch.no_grad(), or use matrix()."
        )
    return matrix.detach().cpu()


def to_pandas(values: Tensor, index: Any, columns: Sequence[str], index_name: str | None = None) -> Any:
    """A pandas.DataFrame (needs pandas). index: the row labels; None: numbers."""
    import pandas as pd

    if index is not None and not hasattr(index, "get_indexer"):  # a list; an index of pandas keeps its own name
        index = pd.Index(index, name=index_name)
    return pd.DataFrame(values.numpy(), index=index, columns=list(columns))


def to_arrow(values: Tensor, index: Any, columns: Sequence[str], index_name: str | None = None) -> Any:
    """A pyarrow.Table with the row labels in the first column if there are any (needs pyarrow)."""
    import pyarrow as pa

    arrays, names = list(values.numpy().T), list(columns)
    if index is None:
        return pa.table(arrays, names=names)
    label = next(name for name in (index_name or "index", "index", "__index__", "__index_level_0__") if name not in columns)
    return pa.table([pa.array(list(index)), *arrays], names=[label, *names])


def to_xarray(values: Tensor, rows: Any, columns: Sequence[str], dims: tuple[str, str]) -> Any:
    """An xarray.DataArray with named axes (needs xarray). rows: the row labels; None: numbers."""
    import xarray as xr

    coords: dict[str, Any] = {dims[1]: list(columns)}
    if rows is not None:
        coords[dims[0]] = rows if hasattr(rows, "get_indexer") else list(rows)
    return xr.DataArray(values.numpy(), coords=coords, dims=dims)
