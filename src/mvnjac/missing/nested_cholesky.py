"""Rows in chains of nested patterns: one Cholesky factor of Σ, in the chain's order of the variables, whitens what each observes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mvnjac.linalg.triangular import cholesky, solve_rows
from mvnjac.statistics.patterns import MonotoneBatch


class MonotoneGroup:
    """The rows of one bundle: C chains of R rows, for each of G covariances (no such dimension where there is one).

    Attributes:
        mask: (C, R, d) in the order of each chain.
        scale_tril: (G?, C, d, d) L_c.
        whitened: (G?, C, R, d) z_c.
    """

    def __init__(self, bundle: MonotoneBatch, covariance_matrix: Tensor, residual: Tensor) -> None:
        self.bundle, self.mask = bundle, bundle.mask
        if bundle.order is None:
            observed = bundle.mask.squeeze(-2)
            pairs = observed.unsqueeze(-1) & observed.unsqueeze(-2)
            absent = torch.diag_embed(
                (~observed).to(residual.dtype)
            )  # a variance of 1 by itself, in the place of what is missing
            self.scale_tril, rows = cholesky(torch.where(pairs, covariance_matrix, 0) + absent)[0], residual.unsqueeze(-2)
        else:
            order = bundle.order
            self.scale_tril = cholesky(covariance_matrix[..., order.unsqueeze(-1), order.unsqueeze(-2)])[0]
            rows = _along(residual[..., bundle.rows, :], order)
        self.whitened = torch.where(self.mask, solve_rows(rows, self.scale_tril), 0)

    @property
    def scaled(self) -> Tensor:
        """(G?, C, R, d) a, in the order of the variables."""
        a = solve_rows(self.whitened, self.scale_tril, transposed=True)
        if self.bundle.order is None:
            return a
        return _along(a, self.bundle.order.argsort(-1))

    @property
    def quadratic(self) -> Tensor:
        """(G?, C, R) ‖z‖² + log det Σ_oo + d_o log 2π."""
        logs = 2 * self.scale_tril.diagonal(dim1=-2, dim2=-1).log().unsqueeze(-2) + math.log(2 * math.pi)
        return (self.whitened * self.whitened + torch.where(self.mask, logs, 0)).sum(-1)

    def rotation(self, scale_tril: Tensor) -> Tensor:
        """(G?, C, d, d) T: L_c⁻¹ times L, (G?, d, d), or, of rows by themselves, (C, d, d)."""
        if self.bundle.order is not None:
            scale_tril = scale_tril[..., self.bundle.order, :]
        return torch.linalg.solve_triangular(self.scale_tril, scale_tril, upper=False)


def _along(rows: Tensor, order: Tensor) -> Tensor:
    """The rows (G?, C, R, d) of each chain, the variables in another order (C, d)."""
    if len(order) == 1:
        return rows.index_select(-1, order[0])
    index = order.unsqueeze(-2)
    return torch.take_along_dim(rows, index if rows.ndim == 3 else index.unsqueeze(0), -1)
