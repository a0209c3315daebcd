"""The sums of whitened rows, and of their squared scores, batch after batch, in memory that is used again.

What `whitening/sums.py` and `score/column_norms.py` are to any rows, for the everyday case of a table: complete float64 rows (n, d)
that lie in memory column after column, one density of the dense family, columns by the mean and the covariance matrix.
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

#: of an array of a chunk: three of them lie in a core's cache
_CHUNK_BYTES = 5 * 2**17


class WhitenedRows:
    """One density (d,), (d, d), and the memory for a chunk of rows."""

    def __init__(self, mean: Tensor, factor: DenseFactor) -> None:
        self._mean, self._factor, self._workspace = mean.unsqueeze(-1), factor, Workspace()

    @staticmethod
    def knows(parts: Sequence[Part]) -> bool:
        """Whether the columns are those whose squares are known here."""
        return {part.name for part in parts} <= {"mean", "covariance_matrix"} and all(part.layout == "unique" for part in parts)

    def sums(self, x: Tensor, parts: Sequence[Part] = ()) -> tuple[WhitenedMoments, Tensor | None]:
        """n, Σ z and Σ z zᵀ of rows x (n, d); and (p,) the sums of the squared scores by these parts, None where they would be the
        difference of larger numbers."""
        d = x.shape[1]
        fourth = x.new_zeros(d, d)
        quick = cpu.whitened_sums(x, self._mean.squeeze(-1), self._factor.scale_tril, None, fourth=fourth if parts else None)
        first, second = quick or self._in_chunks(x, fourth if parts else None)
        sums = WhitenedMoments(x.new_tensor(float(len(x))), first, symmetrised(second))
        return sums, self._squares(sums, symmetrised(fourth), len(x), parts) if parts else None

    def _in_chunks(self, x: Tensor, fourth: Tensor | None) -> tuple[Tensor, Tensor]:
        """Σ z and Σ z zᵀ by plain torch; fourth (d, d) += Σ a² a²ᵀ."""
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
        """From Σ z zᵀ and Σ a² a²ᵀ, entry by entry."""
        P, products = (
            self._factor.precision_matrix,
            self._factor.solve_triangular(self._factor.solve_triangular(sums.second, transpose=True).mT, transpose=True),
        )  # Σ a aᵀ
        found = []
        for part in parts:
            if part.name == "mean":
                own: Tensor | None = products.diagonal()
            else:
                own = outer_squares(products, fourth, -0.5 * P, count, 0.5, part)
            if own is None:
                return None
            found.append(part.take(own))
        return torch.cat(found)
