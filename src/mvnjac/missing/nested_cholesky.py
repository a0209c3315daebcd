"""Monotone groups of rows: one Cholesky factor of Σ whitens the observed entries of all rows whose patterns are nested."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mvnjac.linalg.triangular import cholesky, solve_rows
from mvnjac.statistics.patterns import MonotoneBatch


class FactoredBatch:
    """C monotone groups (chains of nested patterns) of R rows each, factorised and whitened for each of G covariances.

    A single covariance has no dimension G.

    Attributes:
        monotone: the rows, the order of the variables and the patterns of each group.
        mask: (C, R, d) the observed entries, in the order of each group.
        scale_tril: (G?, C, d, d) L_c, the Cholesky factor of Σ in the order of the group.
        whitened: (G?, C, R, d) z_c, 0 where an entry is missing.
    """

    def __init__(self, monotone: MonotoneBatch, covariance_matrix: Tensor, residual: Tensor) -> None:
        self.monotone, self.mask = monotone, monotone.mask
        if monotone.order is None:
            observed = monotone.mask.squeeze(-2)
            pairs = observed.unsqueeze(-1) & observed.unsqueeze(-2)
            unit_variances = torch.diag_embed((~observed).to(residual.dtype))  # missing variables: independent, with variance 1
            self.scale_tril = cholesky(torch.where(pairs, covariance_matrix, 0) + unit_variances)[0]
            rows = residual.unsqueeze(-2)
        else:
            order = monotone.order
            self.scale_tril = cholesky(covariance_matrix[..., order.unsqueeze(-1), order.unsqueeze(-2)])[0]
            rows = _reordered(residual[..., monotone.rows, :], order)
        self.whitened = torch.where(self.mask, solve_rows(rows, self.scale_tril), 0)

    @property
    def n_patterns(self) -> int:
        """The number of distinct patterns of all groups."""
        return self.monotone.patterns.shape[-1]

    @property
    def scaled(self) -> Tensor:
        """(G?, C, R, d) a, in the original order of the variables."""
        a = solve_rows(self.whitened, self.scale_tril, transposed=True)
        return a if self.monotone.order is None else _reordered(a, self.monotone.order.argsort(-1))

    @property
    def quadratic(self) -> Tensor:
        """(G?, C, R) −2 log p = ‖z‖² + log det Σ_oo + d_o log 2π."""
        logs = 2 * self.scale_tril.diagonal(dim1=-2, dim2=-1).log().unsqueeze(-2) + math.log(2 * math.pi)
        return (self.whitened * self.whitened + torch.where(self.mask, logs, 0)).sum(-1)

    def rotation(self, scale_tril: Tensor) -> Tensor:
        """(G?, C, d, d) T = L_c⁻¹ L, for L (G?, d, d), or (C, d, d) if each row is a group by itself."""
        if self.monotone.order is not None:
            scale_tril = scale_tril[..., self.monotone.order, :]
        return torch.linalg.solve_triangular(self.scale_tril, scale_tril, upper=False)


def _reordered(rows: Tensor, order: Tensor) -> Tensor:
    """Rows (G?, C, R, d) with the variables of each group in the order (C, d)."""
    if len(order) == 1:
        return rows.index_select(-1, order[0])
    index = order.unsqueeze(-2)
    return torch.take_along_dim(rows, index if rows.ndim == 3 else index.unsqueeze(0), -1)
