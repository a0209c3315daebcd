"""Factorised covariances: what a structure gives to whoever whitens rows, and the factor of a dense one.

A `DenseFactor` has the four triangles of a covariance, each computed when first needed, from what is at hand.

    Σ = L Lᵀ      C = L⁻¹: P = Σ⁻¹ = Cᵀ C            (L, C lower)
    Σ = U Uᵀ      Λ = U⁻ᵀ: P = Σ⁻¹ = Λ Λᵀ            (U upper, Λ lower)

L and C are one triangle and its inverse, U and Λ another. Each pair follows from Σ or from P by one Cholesky factorisation,
plain or flipped (rows and columns reversed, factorised, reversed back), so that an inverted matrix is never factorised.
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

    def cached(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
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

    def view(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        if name not in self._views:
            with torch.set_grad_enabled(torch.is_grad_enabled() or self.requires_grad):
                self._views[name] = compute()
        return self._views[name]


class DenseFactor(Factor):
    """The dense views of one covariance (*batch, d, d): keywords say what is known; the rest is derived on demand.

    Attributes:
        info: (*batch) of the factorisation made at the start, 0 where it succeeded; None if none was needed.
    """

    def __init__(self, info: Tensor | None = None, **known: Tensor) -> None:
        self.info = info
        self._given = tuple(known)
        self._views = dict(known)
        first = next(iter(known.values()))
        self.batch = batch_shape(first, 2)
        # The log-density whitens with whichever triangle is at hand; precision_tril alone is the reverse one.
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
        """The orthogonal T with Λᵀ = T L⁻¹, which turns one whitening into the other: T = Λᵀ L."""
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
        one_by_one = bool(self.batch) and not is_on_host(self.scale_tril)  # as torch inverts the matrices of a batch on a GPU
        if "inverse_scale_tril" in self._given or is_traced(self.scale_tril) or one_by_one:
            return gram(self.inverse_scale_tril.mT)
        return torch.cholesky_inverse(self.scale_tril)

    def _precision_tril(self) -> Tensor:
        if "scale_tril" in self._given:
            upper = self._secondary("covariance_matrix", flipped_cholesky(self.covariance_matrix))
            return inverse_triangle(upper.mT)
        return self._secondary("precision_matrix", cholesky(self.precision_matrix))

    def _secondary(self, name: str, result: tuple[Tensor, Tensor]) -> Tensor:
        """The further factorisation. The first one succeeded, so this fails only at the edge of what the dtype can hold."""
        factor, info = result
        if self.checked and is_concrete(info) and bool(info.any()):
            raise NotPositiveDefiniteError(
                f"precision_tril and scale_tril together: {name} is positive definite only to rounding, and its second "
                "factorisation fails; work in float64 (precision='float64'), or rescale the variables."
            )
        return factor

    # --- the contract of a factor --------------------------------------------------------------------------------

    def tensors(self) -> list[Tensor]:
        return [self._views[name] for name in self._given]

    @property
    def log_det(self) -> Tensor:
        for name, sign in (("scale_tril", 2), ("inverse_scale_tril", -2), ("precision_tril", -2)):
            if name in self._given:
                return sign * self._views[name].diagonal(dim1=-2, dim2=-1).log().sum(-1)
        raise AssertionError("a dense factor starts from a triangle")

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
        """Whether a is formed as a product with P: it was given, or is cheaper than solving for so many rows."""
        if "precision_matrix" in self._given:
            return True
        return "scale_tril" in self._given and not is_traced(rows, self.scale_tril) and planner.multiplies(n_rows, self.d)

    def dense(self) -> DenseFactor:
        return self

    def detach(self) -> DenseFactor:
        return self._with({name: view.detach() for name, view in self._views.items()}, self.info)

    # --- matrices and their gradients, to and from the whitened coordinates Σ = L (I + K) Lᵀ --------------------

    def whiten_matrix(self, V: Tensor) -> Tensor:
        """L⁻¹ V L⁻ᵀ: a change of Σ, as the change K of the identity."""
        return self.solve_triangular(self.solve_triangular(V).mT).mT

    def unwhiten_matrix(self, K: Tensor) -> Tensor:
        """L K Lᵀ."""
        return self.scale_tril @ K @ self.scale_tril.mT

    def whiten_gradient(self, G: Tensor) -> Tensor:
        """Lᵀ G L: a gradient by Σ, as the gradient by K."""
        return self.scale_tril.mT @ G @ self.scale_tril

    def unwhiten_gradient(self, M: Tensor) -> Tensor:
        """L⁻ᵀ M L⁻¹."""
        return self.solve_triangular(self.solve_triangular(M, transpose=True).mT, transpose=True).mT

    def solve_triangular(self, X: Tensor, *, transpose: bool = False) -> Tensor:
        """L⁻¹ X, or L⁻ᵀ X, by whichever triangle is known: X (..., d, k)."""
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
        """A factor that knows these views, and started from the same ones."""
        other = DenseFactor(info, **views)
        other.checked = self.checked
        other._given, other.whitens_forward = self._given, self.whitens_forward
        return other
