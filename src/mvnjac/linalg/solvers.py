"""Solving with an information or a Hessian where no closed form does: by a factor, by eigenvalues, or by iteration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mvnjac.errors import SingularError, UnsolvedError
from mvnjac.tensors.tracing import is_traced

#: the relative residual that an iteration must reach, in units of eps
_RESIDUAL = 1e3
#: a matrix is certainly regular where the ratio of its eigenvalues is at most so much of the largest that is told from a singular one
_CERTAIN = 0.1
#: right sides that are solved for together
_AT_A_TIME = 512
#: the columns that a message names
_SHOWN = 5


def dense_solution(
    name: str,
    A: Tensor,
    b: Tensor,
    redundant: bool,
    scale: Tensor | None = None,
    columns: Callable[[], list[str]] | None = None,
) -> Tensor:
    """A⁻¹ b for symmetric A (..., p, p), each variable seen in its own units; b (..., p).

    columns: their names, for messages.
    scale: (..., p) the roots of what the diagonal would be if nothing were missing, where it says more than the diagonal itself.
    redundant: A has directions in which nothing changes; the solution of minimum norm, for the part of b that has one.
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
        return _times(Q, _times(Q.mT, b / scale) / values) / scale
    tolerance = 100 * A.shape[-1] * torch.finfo(A.dtype).eps * values.abs().amax(-1, keepdim=True)
    regular = values.abs() > tolerance
    null = _orthonormal((Q / scale.unsqueeze(-1)), regular)
    b = b - _times(null, _times(null.mT, b))
    inverse = torch.where(regular, 1 / torch.where(regular, values, 1), 0)
    solution = _times(Q, inverse * _times(Q.mT, b / scale)) / scale
    return solution - _times(null, _times(null.mT, solution))


@dataclass(frozen=True)
class DefiniteFactor:
    """±A = diag(scale) L Lᵀ diag(scale) of a definite matrix, L (p, p) lower triangular."""

    sign: int
    scale: Tensor
    scale_tril: Tensor

    def solve(self, b: Tensor) -> Tensor:
        """A⁻¹ b for b (..., p), some of them at a time: a solution holds several copies of what it is of."""
        rows = b.reshape(-1, b.shape[-1])
        if is_traced(b):
            return torch.cholesky_solve((rows / self.scale).mT, self.scale_tril).mT.reshape(b.shape) / (self.sign * self.scale)
        found = torch.empty_like(rows)
        for first in range(0, len(rows), _AT_A_TIME):
            some = slice(first, first + _AT_A_TIME)
            solved = torch.cholesky_solve((rows[some] / self.scale).mT, self.scale_tril).mT
            torch.div(solved, self.sign * self.scale, out=found[some])
        return found.reshape(b.shape)


def definite_factor(A: Tensor, scale: Tensor | None) -> DefiniteFactor | None:
    """The factor of a single matrix that is certainly regular; else None, and eigenvalues tell. scale: as in `dense_solution`.

    That it is regular follows from ‖A‖ ‖A⁻¹‖ in the Frobenius norm, which bounds the ratio of the eigenvalues from above. A
    factor and an inverse take a tenth of the time that eigenvalues and eigenvectors take.
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
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise SingularError(
            f"{name}.solve: the matrix has no eigenvalues that can be computed: it has entries that are not finite, as the average "
            "over no rows has, or entries of very different sizes; add rows, or leave out parameters by wrt=."
        ) from error
    return values, Q


def conditional_solver(A: Tensor, free: Tensor, redundant: bool) -> Callable[[Tensor], Tensor]:
    """b (k, p) → A⁻¹ b with the inverse of the rows and columns of A (p, p) that are free; 0 for the others.

    redundant: as in `dense_solution`.
    """
    inner = A[free][:, free]

    def solve(b: Tensor) -> Tensor:
        found = dense_solution("information", inner, b[:, free], redundant)
        return torch.zeros_like(b).masked_scatter(free.expand(b.shape), found)

    return solve


def conjugate_gradients(
    name: str,
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    nearly_solved: Callable[[Tensor], Tensor] | None = None,
    tolerance: float | None = None,
) -> Tensor:
    """A⁻¹ b for a positive semidefinite A, b (p,) in its range.

    nearly_solved: the solution with a definite matrix that is about A, which steers the iteration and in whose norm the residual is
    seen. tolerance: the relative residual, by default 1000 eps.

    Raises:
        UnsolvedError: a SingularError: it does not converge: the residual reached is said.
    """
    x, r = torch.zeros_like(b), b.clone()
    z = r if nearly_solved is None else nearly_solved(r)
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
        z = r if nearly_solved is None else nearly_solved(r)
        square, before = (r * z).sum(), square
        direction = z + (square / before) * direction
    raise UnsolvedError(
        f"{name}.solve: the iteration did not converge in {limit} steps: the residual is {float((square / first).sqrt()):.2g} "
        "of the right side; the matrix is singular or nearly so."
    )


def require_regular(name: str, smallest: Tensor, largest: Tensor, size: int, where: Callable[[], str] = str) -> None:
    """Raise where the smallest eigenvalue is 0 to rounding: a solution would be noise. `where` says along which columns."""
    bad = ~(smallest > size * torch.finfo(smallest.dtype).eps * largest)
    if bool(bad.any()):
        raise SingularError(
            f"{name}.solve: the matrix is singular: its smallest eigenvalue, each variable in its own units, is "
            f"{float(smallest[bad].min()):.3g} in absolute value beside {float(largest[bad].max()):.3g}{where()}; add rows, leave out "
            "parameters by wrt=, or constrain them."
        )


def _along(values: Tensor, Q: Tensor, columns: Callable[[], list[str]] | None) -> str:
    """The columns that take most part in the directions without information, of the first matrix that has such."""
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
    """An orthonormal basis of the columns that are not left out, padded by zeros: (..., p, p)."""
    count = int((~leave_out).sum(-1).max())
    order = leave_out.to(torch.uint8).argsort(dim=-1, stable=True)[..., :count]
    kept = torch.gather(vectors, -1, order.unsqueeze(-2).expand(*vectors.shape[:-1], count))
    absent = torch.gather(leave_out, -1, order)
    return torch.linalg.qr(kept * ~absent.unsqueeze(-2))[0] * ~absent.unsqueeze(-2)


def _times(A: Tensor, x: Tensor) -> Tensor:
    return (A @ x.unsqueeze(-1)).squeeze(-1)
