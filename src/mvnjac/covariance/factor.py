"""The dense factor: the four triangles of a covariance, each computed when first needed, from what is at hand.

    Σ = L Lᵀ      C = L⁻¹: P = Σ⁻¹ = Cᵀ C            (L, C lower)
    Σ = U Uᵀ      Λ = U⁻ᵀ: P = Σ⁻¹ = Λ Λᵀ            (U upper, Λ lower)

L and C are one triangle and its inverse, U and Λ another. Each pair follows from Σ or from P by one Cholesky factorisation,
plain or flipped (rows and columns reversed, factorised, reversed back), so that an inverted matrix is never factorised.
Only `cholesky_ex` and `solve_triangular` are used where a derivative is watched: in torch 2.13 forward mode through
`cholesky_inverse` and `cholesky_solve` is wrong without an error.
"""

from __future__ import annotations

import torch
from torch import Size, Tensor

from mvnjac import planner
from mvnjac.arithmetic import at_hand, concrete, constant_size, nan_where, tracked
from mvnjac.batches import RowLayout, batch_shape, narrow
from mvnjac.covariance.factorised import Factor
from mvnjac.errors import NotPositiveDefiniteError


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
        return self._view("covariance_matrix", lambda: _gram(self.scale_tril))

    @property
    def scale_tril(self) -> Tensor:
        """L, Σ = L Lᵀ."""
        return self._view("scale_tril", lambda: inverse_triangle(self.inverse_scale_tril))

    @property
    def inverse_scale_tril(self) -> Tensor:
        """C = L⁻¹."""
        return self._view("inverse_scale_tril", self._inverse_scale_tril)

    @property
    def precision_matrix(self) -> Tensor:
        """P = Σ⁻¹."""
        return self._view("precision_matrix", self._precision_matrix)

    @property
    def precision_tril(self) -> Tensor:
        """Λ, P = Λ Λᵀ."""
        return self._view("precision_tril", self._precision_tril)

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
            return _gram(self.precision_tril)
        one_by_one = bool(self.batch) and not at_hand(self.scale_tril)  # as torch inverts the matrices of a batch on a GPU
        if "inverse_scale_tril" in self._given or tracked(self.scale_tril) or one_by_one:
            return _gram(self.inverse_scale_tril.mT)
        return torch.cholesky_inverse(self.scale_tril)

    def _precision_tril(self) -> Tensor:
        if "scale_tril" in self._given:
            upper = self._secondary("covariance_matrix", flipped_cholesky(self.covariance_matrix))
            return inverse_triangle(upper.mT)
        return self._secondary("precision_matrix", cholesky(self.precision_matrix))

    def _secondary(self, name: str, result: tuple[Tensor, Tensor]) -> Tensor:
        """The further factorisation. The first one succeeded, so this fails only at the edge of what the dtype can hold."""
        factor, info = result
        if self.checked and concrete(info) and bool(info.any()):
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
            return solve_rows(rows, layout.fold_own(self.scale_tril, 2))
        return rows @ layout.fold_own(self.inverse_scale_tril, 2).mT

    def reverse_whiten(self, rows: Tensor, layout: RowLayout) -> Tensor:
        return rows @ layout.fold_own(self.precision_tril, 2)

    def solve(self, rows: Tensor, layout: RowLayout, out: Tensor | None = None) -> Tensor:
        if self._multiplies(layout.n_rows, rows):
            return torch.matmul(rows, layout.fold_own(self.precision_matrix, 2), out=out)
        if "precision_tril" in self._given:
            triangle = layout.fold_own(self.precision_tril, 2)
            return (rows @ triangle) @ triangle.mT
        if "inverse_scale_tril" in self._given:
            triangle = layout.fold_own(self.inverse_scale_tril, 2)
            return (rows @ triangle.mT) @ triangle
        triangle = layout.fold_own(self.scale_tril, 2)
        return solve_rows(solve_rows(rows, triangle), triangle, transposed=True)

    def _multiplies(self, n_rows: int, rows: Tensor) -> bool:
        """Whether a is formed as a product with P: it was given, or is cheaper than solving for so many rows."""
        if "precision_matrix" in self._given:
            return True
        return "scale_tril" in self._given and not tracked(rows, self.scale_tril) and planner.multiplies(n_rows, self.d)

    def dense(self) -> DenseFactor:
        return self

    def detach(self) -> DenseFactor:
        return self._with({name: view.detach() for name, view in self._views.items()}, self.info)

    # --- matrices and their gradients, to and from the whitened coordinates Σ = L (I + K) Lᵀ --------------------

    def whiten_matrix(self, V: Tensor) -> Tensor:
        """L⁻¹ V L⁻ᵀ: a change of Σ, as the change K of the identity."""
        return self.down(self.down(V).mT).mT

    def unwhiten_matrix(self, K: Tensor) -> Tensor:
        """L K Lᵀ."""
        return self.scale_tril @ K @ self.scale_tril.mT

    def whiten_gradient(self, G: Tensor) -> Tensor:
        """Lᵀ G L: a gradient by Σ, as the gradient by K."""
        return self.scale_tril.mT @ G @ self.scale_tril

    def unwhiten_gradient(self, M: Tensor) -> Tensor:
        """L⁻ᵀ M L⁻¹."""
        return self.up(self.up(M).mT).mT

    def down(self, X: Tensor) -> Tensor:
        """L⁻¹ X, by whichever triangle is at hand: X (..., d, k)."""
        if "inverse_scale_tril" in self._given:
            return self.inverse_scale_tril @ X
        return _solve(self.scale_tril, X, upper=False)

    def up(self, X: Tensor) -> Tensor:
        """L⁻ᵀ X."""
        if "inverse_scale_tril" in self._given:
            return self.inverse_scale_tril.mT @ X
        return _solve(self.scale_tril.mT, X, upper=True)

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


# --- triangular linear algebra -----------------------------------------------------------------------------------


def cholesky(A: Tensor) -> tuple[Tensor, Tensor]:
    """L with A = L Lᵀ, and info (*batch); L is NaN where there is none. Reads the lower triangle, never raises."""
    factor, info = torch.linalg.cholesky_ex(A)
    if concrete(info) and at_hand(info) and not info.any():
        return factor, info
    return factor * nan_where(info != 0, factor.dtype)[..., None, None], info


def flipped_cholesky(A: Tensor) -> tuple[Tensor, Tensor]:
    """U upper triangular with A = U Uᵀ, and info counted from the last variable backwards."""
    factor, info = cholesky(A.flip(-2, -1))
    return factor.flip(-2, -1), info


def inverse_triangle(triangle: Tensor) -> Tensor:
    """The inverse of a lower triangle."""
    identity = torch.eye(triangle.shape[-1], dtype=triangle.dtype, device=triangle.device)
    return torch.linalg.solve_triangular(triangle, identity.expand_as(triangle), upper=False)


def solve_rows(rows: Tensor, triangle: Tensor, *, transposed: bool = False) -> Tensor:
    """Each row r → L⁻¹ r, or L⁻ᵀ r: rows (..., N, d), triangle (..., d, d) lower."""
    if transposed:
        return torch.linalg.solve_triangular(triangle.mT, rows.mT, upper=True).mT
    return torch.linalg.solve_triangular(triangle, rows.mT, upper=False).mT


def _solve(triangle: Tensor, X: Tensor, *, upper: bool) -> Tensor:
    """A triangle, or many, against X (..., d, k): one triangle meets all columns of all X at once."""
    if triangle.ndim > 2 or X.ndim == 2:
        return torch.linalg.solve_triangular(triangle, X, upper=upper)
    columns = X.movedim(-2, 0)
    return torch.linalg.solve_triangular(triangle, columns.flatten(1), upper=upper).reshape(columns.shape).movedim(0, -2)


def halved(A: Tensor) -> Tensor:
    """Φ(A): the lower triangle with half of the diagonal, so that Φ(A) + Φ(A)ᵀ = A where A is symmetric."""
    return A.tril() - 0.5 * torch.diag_embed(A.diagonal(dim1=-2, dim2=-1))


def twice_symmetric(A: Tensor) -> Tensor:
    """A + Aᵀ."""
    return A + A.mT


def symmetric_part(A: Tensor, *, upper: bool = False) -> Tensor:
    """A itself; where a derivative is watched, the triangle that is factorised and its mirror image, as a function of A whose
    cotangents and tangents are symmetric.

    upper: the upper triangle is factorised (`flipped_cholesky`), else the lower.
    """
    if not tracked(A):
        return A
    half, given = 0.5 * (A + A.mT), A.detach()
    mirrored = given.triu() + given.triu(1).mT if upper else given.tril() + given.tril(-1).mT
    return half + (mirrored - half.detach())  # the bracket is rounding in A alone, and no function of it


def _gram(A: Tensor) -> Tensor:
    """A Aᵀ, symmetric to the last bit."""
    product = A @ A.mT
    return 0.5 * (product + product.mT)
