"""Sums of whitened residuals, from which all sums of derivatives with respect to dense parameters follow.

Sums over rows depend only on n = Σ w, s = Σ w z and S = Σ w z zᵀ: the total score is (s, ½ (S − n I)). Since z has size 1 in
every direction, summing it first is accurate (summing r rᵀ first would lose digits at large κ).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Size, Tensor

from mvnjac.kernels import cpu
from mvnjac.linalg.symmetric_products import add_symmetric_product
from mvnjac.statistics.serialization import stored_as
from mvnjac.tensors.broadcasting import RowLayout
from mvnjac.whitening.residuals import Residuals


@stored_as("whitened_moments")
@dataclass
class WhitenedMoments:
    """n = Σ w (*param_batch), s = Σ w z (*param_batch, d) and S = Σ w z zᵀ (*param_batch, d, d) of whitened residuals."""

    count: Tensor
    first: Tensor
    second: Tensor

    @classmethod
    def of(cls, chunks: Iterable[tuple[Residuals, Tensor | None]], param_batch: Size) -> WhitenedMoments:
        """The sums over chunks of rows with weights."""
        total: WhitenedMoments | None = None
        for rows, weights in chunks:
            layout = RowLayout(rows.batch, param_batch)
            z, w = layout.fold(rows.whitened), None if weights is None else layout.fold(weights, 0)
            if total is None:
                shape = layout.group_shape
                total = cls(z.new_zeros(shape), z.new_zeros(*shape, rows.d), z.new_zeros(*shape, rows.d, rows.d))
            total.count = total.count + (layout.n_rows if w is None else w.sum(-1))
            total.first = total.first + (z if w is None else z * w.unsqueeze(-1)).sum(-2)
            total.second = add_symmetric_product(total.second, z, w)
        assert total is not None
        return cls(
            layout.unfold_params(total.count, 0), layout.unfold_params(total.first, 1), layout.unfold_params(total.second, 2)
        )

    @classmethod
    def at_once(cls, rows: Residuals, weights: Tensor | None, squares: Tensor | None = None) -> WhitenedMoments | None:
        """The sums by the compiled kernel; None if it does not support the rows. `squares` (n,) receives ‖z‖²."""
        if not rows.unbatched or not rows.factor.whitens_forward:
            return None
        sums = cpu.whitened_sums(rows.x, rows.mean, rows.factor.dense().scale_tril, weights, squares)
        if sums is None:
            return None
        count = rows.mean.new_tensor(rows.batch[0]) if weights is None else weights.sum()
        return cls(count, *sums)

    def merge(self, other: WhitenedMoments) -> WhitenedMoments:
        """The sums over both sets of rows."""
        return WhitenedMoments(self.count + other.count, self.first + other.first, self.second + other.second)

    @property
    def matrix_score(self) -> Tensor:
        """½ (S − n I)."""
        identity = torch.eye(self.second.shape[-1], dtype=self.second.dtype, device=self.second.device)
        return 0.5 * (self.second - self.count[..., None, None] * identity)


#: The result of a forward pass that the backward pass uses: these sums, or the totals of a structure.
ForwardCache = WhitenedMoments | dict[str, Tensor]
