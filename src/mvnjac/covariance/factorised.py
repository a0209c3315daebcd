"""A factorised covariance: what a structure gives to whoever whitens rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Size, Tensor

from mvnjac.batches import RowLayout

if TYPE_CHECKING:
    from mvnjac.covariance.factor import DenseFactor


class Rows(Protocol):
    """Complete rows x (n, d) of one density with the mean (d,), of which no derivative is followed.

    Attributes:
        batch: (n,); d: the number of variables.
    """

    mean: Tensor
    batch: Size

    @property
    def x(self) -> Tensor:
        """(n, d)."""

    @property
    def d(self) -> int:
        """The number of variables."""

    def kept(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """What is computed from the rows once."""


class Factor(ABC):
    """A factorised covariance: what whitened residuals are made with.

    Rows come folded by a `RowLayout`, (K?, N, d); the factor's own arrays have the batch of the covariance.
    """

    batch: Size
    #: whether a failure of a further factorisation, made on demand, raises (else it leaves NaN)
    checked: bool = True
    #: whether `whiten` is what the log-density should use (else `reverse_whiten` is the one at hand)
    whitens_forward: bool = True
    #: whether a is formed from z, by `unwhiten`, and not from r, by `solve`
    unwhitens: bool = False
    #: arrays computed when first needed
    _views: dict[str, Tensor]

    @abstractmethod
    def tensors(self) -> Iterable[Tensor]:
        """The arrays it started from."""

    @property
    def requires_grad(self) -> bool:
        """Whether these carry a graph."""
        return any(t.requires_grad for t in self.tensors())

    @property
    @abstractmethod
    def log_det(self) -> Tensor:
        """(*batch) log det Σ."""

    @abstractmethod
    def whiten(self, rows: Tensor, layout: RowLayout) -> Tensor:
        """z = L⁻¹ r for each row."""

    @abstractmethod
    def reverse_whiten(self, rows: Tensor, layout: RowLayout) -> Tensor:
        """s = Λᵀ r for each row, where Σ⁻¹ = Λ Λᵀ."""

    @abstractmethod
    def solve(self, rows: Tensor, layout: RowLayout, out: Tensor | None = None) -> Tensor:
        """a = Σ⁻¹ r for each row; `out` is memory that may be used for it, where nothing watches."""

    def unwhiten(self, z: Tensor, layout: RowLayout, out: Tensor | None = None) -> Tensor:
        """a for each row of z = `whiten(r)`, where that `unwhitens`; `out` as in `solve`."""
        raise NotImplementedError(f"{type(self).__name__} solves with r")

    def squares(self, rows: Rows) -> Tensor | None:
        """(n) ‖z‖² of rows that are `everyday`, where the structure has a better way than z itself; else None."""
        return None

    def squares_and_totals(self, rows: Rows, weights: Tensor | None) -> tuple[Tensor, dict[str, Tensor]] | None:
        """The same, and the (weighted) sums of the scores by the mean and all parameters, from one pass; else None."""
        return None

    @abstractmethod
    def dense(self) -> DenseFactor:
        """The same covariance as d×d triangles: formed only where a dense derivative is asked for."""

    @abstractmethod
    def detach(self) -> Factor:
        """The same numbers without their graph: nothing is factorised again."""

    @abstractmethod
    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> Factor:
        """The factors of some rows, where each row (along `dim` of the batch `full`) has its own."""

    def _view(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        if name not in self._views:
            with torch.set_grad_enabled(torch.is_grad_enabled() or self.requires_grad):
                self._views[name] = compute()
        return self._views[name]
