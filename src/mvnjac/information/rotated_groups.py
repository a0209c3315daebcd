"""Monotone groups in rotated coordinates, in which each row is a complete row of its observed variables.

For changes m of the mean and K of the covariance, the coordinates of a monotone group (`missing/incomplete_residuals.py`) are
m̃ = T m and K̃ = T K Tᵀ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Size, Tensor

from mvnjac.missing.incomplete_residuals import IncompleteResiduals
from mvnjac.missing.nested_cholesky import FactoredBatch
from mvnjac.tensors.broadcasting import sum_to
from mvnjac.tensors.tracing import is_traced

Gradient = tuple[Tensor, Tensor]


@dataclass
class RotatedBatch:
    """A batch of monotone groups, their rotation T (G?, C, d, d) and the counts of observed pairs, Σ w o oᵀ (G?, C, d, d)."""

    factored: FactoredBatch
    rotation: Tensor
    pair_counts: Tensor

    def jvp(self, m: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
        """m̃ (…, C, d) and K̃ (…, C, d, d)."""
        T = self.rotation
        return (T @ m.unsqueeze(-1)).squeeze(-1), T @ K @ T.mT

    def vjp(self, g: Tensor, M: Tensor) -> Gradient:
        """The gradients with respect to m and K of those with respect to m̃ and K̃."""
        T = self.rotation
        return (T.mT @ g.unsqueeze(-1)).squeeze(-1), T.mT @ M @ T


@dataclass
class RowTerms:
    """Rows as terms of a Hessian: √|w| z and √|w| with the sign of w. Shapes (G?, C, R, d), or (G?, C, R, 1) for one number."""

    z: Tensor
    root: Tensor
    sign: Tensor
    mask: Tensor

    @classmethod
    def of(cls, factored: FactoredBatch, weights: Tensor) -> RowTerms:
        """All rows of a batch; for a single large group, at most d + 1 rows per pattern with the same sums of products."""
        mask, n_patterns, d = factored.mask, factored.n_patterns, factored.mask.shape[-1]
        root = weights.abs().sqrt().unsqueeze(-1)
        terms = cls(root * factored.whitened, root, weights.sign().unsqueeze(-1), mask)
        reducible = factored.whitened.ndim == 3 and len(mask) == 1 and mask.shape[1] > 2 * n_patterns * (d + 1)
        if not reducible or is_traced(terms.z, terms.root) or bool((terms.sign < 0).any()):
            return terms
        rows = torch.cat([terms.root, terms.z], -1)[0]
        members = [factored.monotone.pattern[0] == p for p in range(n_patterns)]
        triangles = [torch.linalg.qr(rows[member], mode="r")[1] for member in members]  # Rᵀ R is the sum of products
        mask = torch.cat([mask[0][member][:1].expand(len(R), -1) for member, R in zip(members, triangles, strict=True)])
        reduced = torch.cat(triangles).unsqueeze(0)
        z, root = torch.where(mask, reduced[..., 1:], 0), reduced[..., :1]
        return cls(z, root, torch.ones_like(root), mask.unsqueeze(0))


def rotated_batches(rows: IncompleteResiduals, weights: Tensor | None) -> list[RotatedBatch]:
    result = []
    for factored, T in rows.rotations:
        mask = factored.mask.to(rows.mean.dtype)
        weighted = mask if weights is None else mask * rows.weights_of(factored, weights).unsqueeze(-1)
        result.append(RotatedBatch(factored, T, weighted.mT @ mask))
    return result


def summed_gradients(
    rows: IncompleteResiduals, batches: Sequence[RotatedBatch], gradients: Sequence[Gradient], param_batch: Size
) -> Gradient:
    """(*param_batch, d) and (*param_batch, d, d): the sum over all groups of gradients in their rotated coordinates."""
    parts, layout = [batch.vjp(g, M) for batch, (g, M) in zip(batches, gradients, strict=True)], rows.layout
    if not rows.grouped:
        ((g, M),) = parts
        return sum_to(layout.unfold(g, 1), param_batch, 1), sum_to(layout.unfold(M, 2), param_batch, 2)
    g, M = torch.stack([g.sum(-2) for g, _ in parts]).sum(0), torch.stack([M.sum(-3) for _, M in parts]).sum(0)
    g, M = layout.unfold_params(g, 1), layout.unfold_params(M, 2)
    return g.expand((*param_batch, rows.d)), M.expand((*param_batch, rows.d, rows.d))
