"""Sums of whitened rows and of their squared scores for batches of a table, with memory that is reused between batches.

`whitening/sums.py` and `score/column_norms.py` do the same for all arguments. This module covers the common case of a table:
complete float64 rows (n, d) in column-major order, one Gaussian with a dense factor, and derivatives with respect to the mean
and the covariance matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mvnjac.kernels import cpu
from mvnjac.linalg.symmetric_products import symmetrised
from mvnjac.parameters.selection import Part
from mvnjac.score.column_norms import outer_squares
from mvnjac.tensors.memory import Workspace
from mvnjac.whitening.factor import DenseFactor
from mvnjac.whitening.sums import WhitenedMoments

#: size of an array of a chunk; three of them fit in a core's cache
_CHUNK_BYTES = 5 * 2**17


class WhitenedRows:
    """One Gaussian, with its mean (d,) and factor (d, d), and the memory for a chunk of rows."""

    def __init__(self, mean: Tensor, factor: DenseFactor) -> None:
        self._mean, self._factor, self._workspace = mean.unsqueeze(-1), factor, Workspace()

    @staticmethod
    def knows(parts: Sequence[Part]) -> bool:
        """Whether the sums of squares of these columns are available."""
        return {part.name for part in parts} <= {"mean", "covariance_matrix"} and all(part.layout == "unique" for part in parts)

    def sums(self, x: Tensor, parts: Sequence[Part] = ()) -> tuple[WhitenedMoments, Tensor | None]:
        """n, Σ z and Σ z zᵀ of rows x (n, d), and the sums of squared scores (p,) for these parts.

        The second result is None if no parts are requested, or if too many digits would cancel.
        """
        d = x.shape[1]
        fourth = x.new_zeros(d, d) if parts else None
        by_kernel = cpu.whitened_sums(x, self._mean.squeeze(-1), self._factor.scale_tril, None, fourth=fourth)
        first, second = by_kernel or self._in_chunks(x, fourth)
        sums = WhitenedMoments(x.new_tensor(float(len(x))), first, symmetrised(second))
        return sums, None if fourth is None else self._squares(sums, symmetrised(fourth), len(x), parts)

    def _in_chunks(self, x: Tensor, fourth: Tensor | None) -> tuple[Tensor, Tensor]:
        """Σ z and Σ z zᵀ in plain torch; adds Σ a² a²ᵀ to fourth (d, d)."""
        d = x.shape[1]
        first, second = x.new_zeros(d), x.new_zeros(d, d)
        step = max(d, _CHUNK_BYTES // (8 * d))
        for rows in x.split(step):
            r, z = (self._workspace.take(name, x, (d, len(rows))) for name in ("r", "z"))
            torch.sub(rows.mT, self._mean, out=r)
            torch.linalg.solve_triangular(self._factor.scale_tril, r, upper=False, out=z)
            first += z.sum(-1)
            second.addmm_(z, z.mT)
            if fourth is not None:
                torch.mm(self._factor.precision_matrix, r, out=z)  # a
                torch.mul(z, z, out=r)
                fourth.addmm_(r, r.mT)
        return first, second

    def _squares(self, sums: WhitenedMoments, fourth: Tensor, count: int, parts: Sequence[Part]) -> Tensor | None:
        """The sums of squared scores (p,) from Σ z zᵀ and Σ a² a²ᵀ; None if too many digits cancel."""
        factor, result = self._factor, []
        products = factor.solve_triangular(factor.solve_triangular(sums.second, transpose=True).mT, transpose=True)  # Σ a aᵀ
        for part in parts:
            if part.name == "mean":
                squares: Tensor | None = products.diagonal()
            else:
                squares = outer_squares(products, fourth, -0.5 * factor.precision_matrix, count, 0.5, part)
            if squares is None:
                return None
            result.append(part.take(squares))
        return torch.cat(result)
