"""A Jacobian in the forms of other libraries: an array, a table of pandas, Arrow or xarray, a linear operator of SciPy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Size, Tensor

from mvnjac.errors import ShapeError
from mvnjac.linalg.scipy_operator import linear_operator
from mvnjac.model.model import Model
from mvnjac.tables import export
from mvnjac.tables.html import MOST_COLUMNS, html_table
from mvnjac.tables.row_index import RowIndex

Wrt = str | Iterable[str] | None
#: the rows that a notebook shows, and the most columns that it computes for them
_HEAD, _SHOWN_SIZE = 5, 2000


class LabelledMatrix(ABC):
    """The n×p matrix with the labels of its rows and columns, in the forms of other libraries."""

    _index: RowIndex | None

    @property
    @abstractmethod
    def batch(self) -> Size:
        """The leading dimensions of the results."""

    @abstractmethod
    def matrix(self, wrt: Wrt = None, layout: str = "unique", out: Tensor | None = None) -> Tensor:
        """The n×p matrix of derivatives."""

    @abstractmethod
    def columns(self, wrt: Wrt = None, layout: str = "unique") -> list[str]:
        """The names of the columns."""

    @property
    @abstractmethod
    def model(self) -> Model:
        """The mean and the covariance."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of the results."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device of the results."""

    @abstractmethod
    def matvec(self, v: Tensor, wrt: Wrt = None) -> Tensor:
        """The product J v."""

    @abstractmethod
    def rmatvec(self, w: Tensor, wrt: Wrt = None) -> Tensor:
        """The product wᵀ J."""

    @abstractmethod
    def __getitem__(self, key: Any) -> Any:
        """A block, or the Jacobian of some rows."""

    @property
    def index(self) -> Any:
        """The labels of the rows: the index of the data frame x, or a list; None if x is not a table."""
        return None if self._index is None else self._index.labels

    @property
    def row_index(self) -> RowIndex | None:
        """The labels of the rows with their name; for other packages of mvnjac."""
        return self._index

    @property
    def shape(self) -> Size:
        """(*batch, p), the shape of `matrix()`."""
        return Size((*self.batch, self._size()))

    @abstractmethod
    def _size(self, wrt: Wrt = None) -> int:
        """p, the number of columns."""

    def __len__(self) -> int:
        if not self.batch:
            raise TypeError("This is the Jacobian of a single observation x (d,), which has no length.")
        return self.batch[0]

    def __bool__(self) -> bool:
        return True

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("np.asarray(J): the matrix is computed, so a copy cannot be avoided; leave out copy=False.")
        return export.require_no_graph("np.asarray(J)", self.matrix()).numpy().astype(dtype or None, copy=False)

    def to_pandas(self, wrt: Wrt = None, layout: str = "unique") -> Any:
        """`matrix(wrt, layout)` as a pandas.DataFrame: the index of x, and the names of the columns (needs pandas).

        Raises:
            ShapeError: there is more than one leading dimension.
            ArgumentError: the arguments require gradients.
            MemoryLimitError: there is not enough memory for the matrix.

        Example:
            >>> import pandas as pd, mvnjac
            >>> returns = pd.DataFrame({"USD": [1.0, 3.0, 2.0, 0.0], "CHF": [2.0, 1.0, 6.0, 3.0]}, index=list("abcd"))
            >>> mvnjac.jacobian(returns, mvnjac.fit(returns)).to_pandas("mean").round(3)
               mean[USD]  mean[CHF]
            a     -0.464     -0.319
            b      1.101     -0.493
            c      0.580      0.899
            d     -1.217     -0.087
        """
        return export.to_pandas(*self._table("to_pandas", wrt, layout), self._index_name())

    def to_arrow(self, wrt: Wrt = None, layout: str = "unique") -> Any:
        """`matrix(wrt, layout)` as a pyarrow.Table, with the row labels of x in the first column; errors as in `to_pandas`."""
        return export.to_arrow(*self._table("to_arrow", wrt, layout), self._index_name())

    def to_xarray(self, wrt: Wrt = None, layout: str = "unique") -> Any:
        """`matrix(wrt, layout)` as an xarray.DataArray with the dimensions "row" and "column"; errors as in `to_pandas`."""
        return export.to_xarray(*self._table("to_xarray", wrt, layout), ("row", "column"))

    def linear_operator(self, wrt: Wrt = None) -> Any:
        """A `scipy.sparse.linalg.LinearOperator` that represents `matrix(wrt)` without forming it; requires SciPy."""
        if len(self.batch) != 1 or self.model.reduced_batch:
            raise ShapeError(
                f"linear_operator: J has the leading dimensions {tuple(self.batch)}; expected (n,), for n rows of one density."
            )
        shape = (self.batch[0], self._size(wrt))
        return linear_operator(shape, lambda v: self.matvec(v, wrt), lambda w: self.rmatvec(w, wrt), self.dtype, self.device)

    def _repr_html_(self) -> str:
        if len(self.batch) != 1:
            return html_table(repr(self), [], [], [])
        shown, p = min(self.batch[0], _HEAD), self._size()
        wrt: Wrt = None if p <= _SHOWN_SIZE else self.model.arguments.default_names()[0]
        names = self.columns(wrt)[:MOST_COLUMNS]
        rows = self[:shown].matrix(wrt).detach()[:, : len(names)].tolist()
        labels = range(shown) if self._index is None else self._index.labels[:shown]
        left_out = [f"{shown} of {self.batch[0]} rows"] if shown < self.batch[0] else []
        left_out += [f"{len(names)} of {p} columns"] if len(names) < p else []
        return html_table(repr(self), names, list(labels), rows, ", ".join(left_out))

    def _index_name(self) -> str | None:
        return None if self._index is None else self._index.name

    def _table(self, method: str, wrt: Wrt, layout: str) -> tuple[Tensor, Any, list[str]]:
        if len(self.batch) > 1:
            raise ShapeError(
                f"J.{method}: J has the leading dimensions {tuple(self.batch)}; expected (n,), for n rows of one density."
            )
        names = self.columns(wrt, layout)
        values = export.require_no_graph(f"J.{method}", self.matrix(wrt, layout))
        return values.reshape(-1, len(names)), self.index, names
