"""Factorised covariances: the interface of factors that whiten rows, and the factor of a dense covariance.

A `DenseFactor` has the four triangles of a covariance, each computed when first needed, from those already known:

    Σ = L Lᵀ      C = L⁻¹: P = Σ⁻¹ = Cᵀ C            (L, C lower)
    Σ = U Uᵀ      Λ = U⁻ᵀ: P = Σ⁻¹ = Λ Λᵀ            (U upper, Λ lower)

L and C are a triangle and its inverse, as are U and Λ (up to transposition). Each pair follows from Σ or from P by one Cholesky
factorisation, plain or flipped (rows and columns reversed, factorised, reversed back), so that an inverted matrix is never
factorised.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import Size, Tensor

from mvnjac.errors import NotPositiveDefiniteError
from mvnjac.kernels import planner
from mvnjac.linalg.triangular import cholesky, flipped_cholesky, gram, inverse_triangle, solve_rows, solve_triangle
from mvnjac.tensors.broadcasting import RowLayout, batch_shape, narrow
from mvnjac.tensors.tracing import constant_size, is_concrete, is_on_host, is_traced


@runtime_checkable
class FactorRows(Protocol):
    """Complete rows x (n, d) of one density with the mean (d,), that do not require gradients; `batch` is (n,)."""

    mean: Tensor
    batch: Size

    @property
    def x(self) -> Tensor:
        """(n, d)."""

    @property
    def d(self) -> int:
        """The number of variables."""

    def cached(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """The result of `compute`, which is called once."""


class Factor(ABC):
    """A factorised covariance, used to compute whitened residuals.

    Rows are folded by a `RowLayout`, (K?, N, d); the factor's arrays have the batch shape of the covariance.
    """

    batch: Size
    #: whether a failed factorisation made on demand raises an error (else the result is NaN)
    checked: bool = True
    #: whether the log-density uses `whiten` (else `reverse_whiten`, whose triangle is known)
    whitens_forward: bool = True
    #: whether a is computed from z by `unwhiten` (else from r by `solve`)
    unwhitens: bool = False
    #: arrays computed on demand
    _views: dict[str, Tensor]

    @abstractmethod
    def tensors(self) -> Iterable[Tensor]:
        """The arrays from which the factor was constructed."""

    @property
    def requires_grad(self) -> bool:
        """Whether these arrays require gradients."""
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
        """a = Σ⁻¹ r for each row; `out` is memory that may be used for the result if no tracing is active."""

    def unwhiten(self, z: Tensor, layout: RowLayout, out: Tensor | None = None) -> Tensor:
        """a for each row of z = `whiten(r)`, if the factor `unwhitens`; `out` as in `solve`."""
        raise NotImplementedError(f"{type(self).__name__} computes a from r, by `solve`")

    def squares(self, rows: FactorRows) -> Tensor | None:
        """(n) ‖z‖² of the rows, if the structure computes it without z; else None."""
        return None

    def squares_and_totals(self, rows: FactorRows, weights: Tensor | None) -> tuple[Tensor, dict[str, Tensor]] | None:
        """`squares` and the (weighted) sums of the scores of the mean and all parameters, in one pass; else None."""
        return None

    @abstractmethod
    def dense(self) -> DenseFactor:
        """The same covariance as d×d triangles; needed only for derivatives with respect to dense parameters."""

    @abstractmethod
    def detach(self) -> Factor:
        """The same factor without an autograd graph; nothing is factorised again."""

    @abstractmethod
    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> Factor:
        """The factors of some rows along `dim` of the batch `full`, if they have different ones."""

    def view(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """The array of this name, computed when first needed, with a graph if the factor requires gradients."""
        if name not in self._views:
            with torch.set_grad_enabled(torch.is_grad_enabled() or self.requires_grad):
                self._views[name] = compute()
        return self._views[name]


class DenseFactor(Factor):
    """The dense triangles and matrices of a covariance (*batch, d, d): keywords give known ones, others are derived on demand.

    Attributes:
        info: (*batch) LAPACK's info of the initial factorisation, 0 for success; None if none was needed.
    """

    def __init__(self, info: Tensor | None = None, **known: Tensor) -> None:
        self.info = info
        self._given = tuple(known)
        self._views = dict(known)
        first = next(iter(known.values()))
        self.batch = batch_shape(first, 2)
        # The log-density uses a known triangle; precision_tril alone whitens in reverse.
        self.whitens_forward = "scale_tril" in known or "inverse_scale_tril" in known

    @property
    def d(self) -> int:
        return constant_size(next(iter(self._views.values())))

    # --- views ---------------------------------------------------------------------------------------------------

    @property
    def covariance_matrix(self) -> Tensor:
        """Σ."""
        return self.view("covariance_matrix", lambda: gram(self.scale_tril))

    @property
    def scale_tril(self) -> Tensor:
        """L, Σ = L Lᵀ."""
        return self.view("scale_tril", lambda: inverse_triangle(self.inverse_scale_tril))

    @property
    def inverse_scale_tril(self) -> Tensor:
        """C = L⁻¹."""
        return self.view("inverse_scale_tril", self._inverse_scale_tril)

    @property
    def precision_matrix(self) -> Tensor:
        """P = Σ⁻¹."""
        return self.view("precision_matrix", self._precision_matrix)

    @property
    def precision_tril(self) -> Tensor:
        """Λ, P = Λ Λᵀ."""
        return self.view("precision_tril", self._precision_tril)

    @property
    def whiten_rotation(self) -> Tensor:
        """The orthogonal T = Λᵀ L with Λᵀ = T L⁻¹, which maps one whitening to the other."""
        return self.precision_tril.mT @ self.scale_tril

    @property
    def scale(self) -> Tensor:
        """The standard deviations √Σᵢᵢ, (*batch, d)."""
        if "covariance_matrix" in self._views:
            return self.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
        return torch.linalg.vector_norm(self.scale_tril, dim=-1)

    def _inverse_scale_tril(self) -> Tensor:
        if "scale_tril" in self._given:
            return inverse_triangle(self.scale_tril)
        return self._secondary("precision_matrix", flipped_cholesky(self.precision_matrix)).mT

    def _precision_matrix(self) -> Tensor:
        if "precision_tril" in self._given:
            return gram(self.precision_tril)
        one_by_one = bool(self.batch) and not is_on_host(
            self.scale_tril
        )  # torch.cholesky_inverse of a batch on a GPU is sequential
        if "inverse_scale_tril" in self._given or is_traced(self.scale_tril) or one_by_one:
            return gram(self.inverse_scale_tril.mT)
        return torch.cholesky_inverse(self.scale_tril)

    def _precision_tril(self) -> Tensor:
        if "scale_tril" in self._given:
            upper = self._secondary("covariance_matrix", flipped_cholesky(self.covariance_matrix))
            return inverse_triangle(upper.mT)
        return self._secondary("precision_matrix", cholesky(self.precision_matrix))

    def _secondary(self, name: str, result: tuple[Tensor, Tensor]) -> Tensor:
        """The factor of a second factorisation, which can only fail by rounding, since the first one succeeded."""
        factor, info = result
        if self.checked and is_concrete(info) and bool(info.any()):
            raise NotPositiveDefiniteError(
                f"precision_tril and scale_tril together: {name} is nearly singular, and its second factorisation fails; use "
                "float64 (precision='float64'), or rescale the variables."
            )
        return factor

    # --- the interface of a factor -------------------------------------------------------------------------------

    def tensors(self) -> list[Tensor]:
        return [self._views[name] for name in self._given]

    @property
    def log_det(self) -> Tensor:
        for name, sign in (("scale_tril", 2), ("inverse_scale_tril", -2), ("precision_tril", -2)):
            if name in self._given:
                return sign * self._views[name].diagonal(dim1=-2, dim2=-1).log().sum(-1)
        raise AssertionError("a dense factor is constructed from a triangle")

    def whiten(self, rows: Tensor, layout: RowLayout) -> Tensor:
        if "scale_tril" in self._given:
            return solve_rows(rows, layout.fold_params(self.scale_tril, 2))
        return rows @ layout.fold_params(self.inverse_scale_tril, 2).mT

    def reverse_whiten(self, rows: Tensor, layout: RowLayout) -> Tensor:
        return rows @ layout.fold_params(self.precision_tril, 2)

    def solve(self, rows: Tensor, layout: RowLayout, out: Tensor | None = None) -> Tensor:
        if self._multiplies(layout.n_rows, rows):
            return torch.matmul(rows, layout.fold_params(self.precision_matrix, 2), out=out)
        if "precision_tril" in self._given:
            triangle = layout.fold_params(self.precision_tril, 2)
            return (rows @ triangle) @ triangle.mT
        if "inverse_scale_tril" in self._given:
            triangle = layout.fold_params(self.inverse_scale_tril, 2)
            return (rows @ triangle.mT) @ triangle
        triangle = layout.fold_params(self.scale_tril, 2)
        return solve_rows(solve_rows(rows, triangle), triangle, transposed=True)

    def _multiplies(self, n_rows: int, rows: Tensor) -> bool:
        """Whether a is a product with P: if P was given, or if this is cheaper than solving for this many rows."""
        if "precision_matrix" in self._given:
            return True
        return "scale_tril" in self._given and not is_traced(rows, self.scale_tril) and planner.multiplies(n_rows, self.d)

    def dense(self) -> DenseFactor:
        return self

    def detach(self) -> DenseFactor:
        return self._with({name: view.detach() for name, view in self._views.items()}, self.info)

    # --- matrices and their gradients, to and from the whitened coordinates Σ = L (I + K) Lᵀ --------------------

    def whiten_matrix(self, V: Tensor) -> Tensor:
        """L⁻¹ V L⁻ᵀ: a change of Σ as the whitened change K."""
        return self.solve_triangular(self.solve_triangular(V).mT).mT

    def unwhiten_matrix(self, K: Tensor) -> Tensor:
        """L K Lᵀ."""
        return self.scale_tril @ K @ self.scale_tril.mT

    def whiten_gradient(self, G: Tensor) -> Tensor:
        """Lᵀ G L: a gradient with respect to Σ as the gradient with respect to K."""
        return self.scale_tril.mT @ G @ self.scale_tril

    def unwhiten_gradient(self, M: Tensor) -> Tensor:
        """L⁻ᵀ M L⁻¹."""
        return self.solve_triangular(self.solve_triangular(M, transpose=True).mT, transpose=True).mT

    def solve_triangular(self, X: Tensor, *, transpose: bool = False) -> Tensor:
        """L⁻¹ X, or L⁻ᵀ X, by the known triangle: X (..., d, k)."""
        if "inverse_scale_tril" in self._given:
            inverse = self.inverse_scale_tril
            return (inverse.mT if transpose else inverse) @ X
        L = self.scale_tril
        return solve_triangle(L.mT if transpose else L, X, upper=transpose)

    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> DenseFactor:
        if dim < len(full) - len(self.batch):
            return self
        views = {name: narrow(view, full, 2, dim, index) for name, view in self._views.items()}
        return self._with(views, None)

    def _with(self, views: dict[str, Tensor], info: Tensor | None) -> DenseFactor:
        """A factor with these arrays, constructed from the same ones."""
        other = DenseFactor(info, **views)
        other.checked = self.checked
        other._given, other.whitens_forward = self._given, self.whitens_forward
        return other
