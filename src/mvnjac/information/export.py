"""A Hessian or an information in the forms of other libraries, with the names of its rows and columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Size, Tensor

from mvnjac.errors import ShapeError
from mvnjac.linalg.scipy_operator import linear_operator
from mvnjac.tables import export
from mvnjac.tables.html import MOST_COLUMNS, html_table

#: the most rows of a matrix that a notebook computes to show a part of it
_SHOWN_SIZE = 500


class NamedOperator(ABC):
    """A p×p matrix whose rows and columns are parameters."""

    _name: str
    batch: Size
    dtype: torch.dtype
    device: torch.device

    @property
    @abstractmethod
    def shape(self) -> Size:
        """(*batch, p, p)."""

    @abstractmethod
    def columns(self) -> list[str]:
        """The p names of the rows and columns."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """The matrix."""

    @abstractmethod
    def matvec(self, v: Tensor) -> Tensor:
        """The product with a vector."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("np.asarray: the matrix is computed, so a copy cannot be avoided; leave out copy=False.")
        return self._plain("np.asarray").numpy().astype(dtype or None, copy=False)

    def to_pandas(self) -> Any:
        """`matrix()` as a pandas.DataFrame with named rows and columns (needs pandas).

        Raises:
            ShapeError: there are leading dimensions.
            ArgumentError: the arguments require gradients.
            MemoryLimitError: there is not enough memory for the matrix.

        Example:
            >>> import torch, mvnjac
            >>> F = mvnjac.fisher_information(torch.zeros(2), torch.eye(2), wrt="mean", names=["USD", "CHF"])
            >>> F.to_pandas()
                       mean[USD]  mean[CHF]
            mean[USD]        1.0        0.0
            mean[CHF]        0.0        1.0
        """
        self._require_single("to_pandas")
        names = self.columns()
        return export.to_pandas(self._plain("to_pandas"), names, names)

    def to_xarray(self) -> Any:
        """`matrix()` as an xarray.DataArray with the dimensions "parameter" and "parameter_"; errors as in `to_pandas`."""
        self._require_single("to_xarray")
        names = self.columns()
        return export.to_xarray(self._plain("to_xarray"), names, names, ("parameter", "parameter_"))

    def linear_operator(self) -> Any:
        """A `scipy.sparse.linalg.LinearOperator` view of a single matrix; needs scipy.

        Raises:
            ShapeError: there are leading dimensions.
        """
        self._require_single("linear_operator")
        p = self.shape[-1]
        return linear_operator((p, p), self.matvec, self.matvec, self.dtype, self.device)

    def _require_single(self, method: str) -> None:
        if self.batch:
            raise ShapeError(
                f"{self._name}.{method}: the leading dimensions are {tuple(self.batch)}; expected none, a single matrix."
            )

    def _plain(self, method: str) -> Tensor:
        return export.require_no_graph(f"{self._name}.{method}", self.matrix())

    def _repr_html_(self) -> str:
        p = self.shape[-1]
        if self.batch or p > _SHOWN_SIZE:
            return html_table(repr(self), [], [], [])
        k, names = min(p, MOST_COLUMNS), self.columns()
        cells = self.matrix().detach()[:k, :k].tolist()
        return html_table(repr(self), names[:k], names[:k], cells, f"{k} of {p} rows and columns" if k < p else "")
