"""Linear systems with an information or Hessian matrix: by a Cholesky factor, by eigenvalues, or by conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mvnjac.errors import SingularError, UnsolvedError
from mvnjac.linalg.symmetric_products import matvec
from mvnjac.tensors.tracing import is_traced

#: torch's error of a decomposition that fails
LinAlgError: type[RuntimeError] = vars(torch.linalg)["LinAlgError"]  # mypy does not see it there

#: the relative residual at which an iteration has converged, in units of eps
_RESIDUAL = 1e3
#: a matrix is regular for certain if a bound of its condition number is below this fraction of the limit for singular matrices
_CERTAIN = 0.1
#: the number of right-hand sides per solve
_BATCH = 512
#: the number of columns named in a message
_SHOWN = 5


def dense_solution(
    name: str,
    A: Tensor,
    b: Tensor,
    redundant: bool,
    scale: Tensor | None = None,
    columns: Callable[[], list[str]] | None = None,
) -> Tensor:
    """A⁻¹ b for symmetric A (..., p, p), scaled to a unit diagonal; b (..., p).

    Args:
        redundant: whether the parametrisation is redundant and A singular; the solution then has minimum norm, for b projected
            onto the range.
        scale: (..., p) replaces the roots of the diagonal, by those for complete data if entries are missing.
        columns: the names of the columns, for messages.

    Raises:
        SingularError: if A is singular and not `redundant`.
    """
    if not A.shape[-1]:
        return b.expand((*torch.broadcast_shapes(A.shape[:-2], b.shape[:-1]), 0))
    scale = _units(A, scale)
    definite = None if redundant else definite_factor(A, scale)
    if definite is not None:
        return definite.solve(b)
    values, Q = _eigenvalues(name, A / (scale.unsqueeze(-1) * scale.unsqueeze(-2)))
    if not redundant:
        require_regular(name, values.abs().amin(-1), values.abs().amax(-1), A.shape[-1], lambda: _along(values, Q, columns))
        return matvec(Q, matvec(Q.mT, b / scale) / values) / scale
    tolerance = 100 * A.shape[-1] * torch.finfo(A.dtype).eps * values.abs().amax(-1, keepdim=True)
    regular = values.abs() > tolerance
    null = _orthonormal((Q / scale.unsqueeze(-1)), regular)
    b = b - matvec(null, matvec(null.mT, b))
    inverse = torch.where(regular, 1 / torch.where(regular, values, 1), 0)
    solution = matvec(Q, inverse * matvec(Q.mT, b / scale)) / scale
    return solution - matvec(null, matvec(null.mT, solution))


@dataclass(frozen=True)
class DefiniteFactor:
    """The factorisation ±A = diag(scale) L Lᵀ diag(scale) of a definite matrix, L (p, p) lower triangular."""

    sign: int
    scale: Tensor
    scale_tril: Tensor

    def solve(self, b: Tensor) -> Tensor:
        """A⁻¹ b for b (..., p), in batches of right-hand sides, since a solve makes several copies of them."""
        rows = b.reshape(-1, b.shape[-1])
        if is_traced(b):
            return torch.cholesky_solve((rows / self.scale).mT, self.scale_tril).mT.reshape(b.shape) / (self.sign * self.scale)
        solution = torch.empty_like(rows)
        for first in range(0, len(rows), _BATCH):
            batch = slice(first, first + _BATCH)
            solved = torch.cholesky_solve((rows[batch] / self.scale).mT, self.scale_tril).mT
            torch.div(solved, self.sign * self.scale, out=solution[batch])
        return solution.reshape(b.shape)


def definite_factor(A: Tensor, scale: Tensor | None) -> DefiniteFactor | None:
    """The factor of a matrix that is certainly regular; None if eigenvalues must decide. scale: as in `dense_solution`.

    ‖A‖ ‖A⁻¹‖ in the Frobenius norm is an upper bound of the ratio of the eigenvalues. A factor and an inverse take a tenth of
    the time of eigenvalues and eigenvectors.
    """
    scale = _units(A, scale)
    if A.ndim != 2 or is_traced(A, scale):
        return None
    scaled = A / (scale.unsqueeze(-1) * scale)
    sign = -1 if bool(scaled.trace() < 0) else 1
    L, info = torch.linalg.cholesky_ex(sign * scaled)
    if bool(info != 0):
        return None
    ratio = torch.linalg.matrix_norm(scaled) * torch.linalg.matrix_norm(torch.cholesky_inverse(L))
    certain = bool(ratio * len(A) * torch.finfo(A.dtype).eps < _CERTAIN)
    return DefiniteFactor(sign, scale, L) if certain else None


def _units(A: Tensor, scale: Tensor | None) -> Tensor:
    scale = A.diagonal(dim1=-2, dim2=-1).abs().sqrt() if scale is None else scale
    return torch.where(scale > 0, scale, 1)


def _eigenvalues(name: str, A: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues and eigenvectors of symmetric A (..., p, p)."""
    try:
        values, Q = torch.linalg.eigh(A)
    except LinAlgError as error:
        raise SingularError(
            f"{name}.solve: the eigenvalues of the matrix cannot be computed: it has entries that are not finite (such as an "
            "average over no rows), or entries of very different magnitude; add rows, or omit parameters with wrt=."
        ) from error
    return values, Q


def conditional_solver(A: Tensor, free: Tensor, redundant: bool) -> Callable[[Tensor], Tensor]:
    """The function b (k, p) → A⁻¹ b with the inverse of the free rows and columns of A (p, p); 0 for the others.

    redundant: as in `dense_solution`.
    """
    inner = A[free][:, free]

    def solve(b: Tensor) -> Tensor:
        solution = dense_solution("information", inner, b[:, free], redundant)
        return torch.zeros_like(b).masked_scatter(free.expand(b.shape), solution)

    return solve


def conjugate_gradients(
    name: str,
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    precondition: Callable[[Tensor], Tensor] | None = None,
    tolerance: float | None = None,
) -> Tensor:
    """A⁻¹ b by preconditioned conjugate gradients, for positive semidefinite A and b (p,) in its range.

    Args:
        product: v → A v.
        precondition: v → M⁻¹ v for a definite M close to A, in whose norm the residual is measured; by default the identity.
        tolerance: the relative residual; by default 1000 eps.

    Raises:
        UnsolvedError: if the iteration does not converge; the message states the residual.
    """
    x, r = torch.zeros_like(b), b.clone()
    z = r if precondition is None else precondition(r)
    direction, square = z, (r * z).sum()
    first = square
    goal = (tolerance or _RESIDUAL * torch.finfo(b.dtype).eps) ** 2 * first
    limit = min(10 * b.numel(), 20_000)
    for _ in range(limit):
        if not bool(square > goal):
            return x
        image = product(direction)
        step = square / (direction * image).sum()
        x, r = x + step * direction, r - step * image
        z = r if precondition is None else precondition(r)
        square, before = (r * z).sum(), square
        direction = z + (square / before) * direction
    raise UnsolvedError(
        f"{name}.solve: the iteration did not converge in {limit} steps: the relative residual is "
        f"{float((square / first).sqrt()):.2g}; the matrix is singular or nearly singular."
    )


def require_regular(name: str, smallest: Tensor, largest: Tensor, size: int, where: Callable[[], str] = str) -> None:
    """Raise SingularError if the smallest eigenvalue is 0 up to rounding; `where` names the columns for the message."""
    bad = ~(smallest > size * torch.finfo(smallest.dtype).eps * largest)
    if bool(bad.any()):
        raise SingularError(
            f"{name}.solve: the matrix is singular: its smallest eigenvalue, after scaling each variable, is "
            f"{float(smallest[bad].min()):.3g} in absolute value, the largest {float(largest[bad].max()):.3g}{where()}; add rows, "
            "omit parameters with wrt=, or constrain them."
        )


def _along(values: Tensor, Q: Tensor, columns: Callable[[], list[str]] | None) -> str:
    """The end of a message: the columns with the largest components in the null space of a matrix of the batch."""
    sizes = values.abs()
    null = sizes <= values.shape[-1] * torch.finfo(values.dtype).eps * sizes.amax(-1, keepdim=True)
    shares = (Q.square() * null.unsqueeze(-2)).sum(-1).reshape(-1, values.shape[-1])
    shares = shares[int(shares.amax(-1).argmax())].nan_to_num()
    involved = [i for i in shares.argsort(descending=True, stable=True).tolist() if shares[i] > 0.05]
    if columns is None or not involved:
        return ""
    more = f" and {len(involved) - _SHOWN} more" if len(involved) > _SHOWN else ""
    labels = columns()
    return f", along {', '.join(labels[i] for i in sorted(involved[:_SHOWN]))}{more}"


def _orthonormal(vectors: Tensor, leave_out: Tensor) -> Tensor:
    """An orthonormal basis of the columns that are not left out, padded by zeros: (..., p, k)."""
    count = int((~leave_out).sum(-1).max())
    order = leave_out.to(torch.uint8).argsort(dim=-1, stable=True)[..., :count]
    basis = torch.gather(vectors, -1, order.unsqueeze(-2).expand(*vectors.shape[:-1], count))
    absent = torch.gather(leave_out, -1, order)
    return torch.linalg.qr(basis * ~absent.unsqueeze(-2))[0] * ~absent.unsqueeze(-2)
