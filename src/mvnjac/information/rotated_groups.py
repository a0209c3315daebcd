"""Monotone groups of patterns in coordinates in which each row is complete, with the rotations to and from them.

A group of monotone patterns (`missing/incomplete_residuals.py`) has the coordinates m̃ = T m and K̃ = T K Tᵀ for changes of mean and
covariance. In them a row is a complete row of the variables that it observes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Size, Tensor

from mvnjac.missing.incomplete_residuals import IncompleteResiduals
from mvnjac.missing.nested_cholesky import MonotoneGroup
from mvnjac.tensors.broadcasting import sum_to
from mvnjac.tensors.tracing import is_traced


@dataclass
class RotatedGroup:
    """The groups of a batch, with the rotation T into their coordinates (G?, C, d, d) and Σ o oᵀ (G?, C, d, d)."""

    chains: MonotoneGroup
    rotation: Tensor
    pairs: Tensor

    def jvp(self, m: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
        """m̃ (…, C, d) and K̃ (…, C, d, d)."""
        T = self.rotation
        return (T @ m.unsqueeze(-1)).squeeze(-1), T @ K @ T.mT

    def gradient(self, g: Tensor, M: Tensor) -> tuple[Tensor, Tensor]:
        """Back again."""
        T = self.rotation
        return (T.mT @ g.unsqueeze(-1)).squeeze(-1), T.mT @ M @ T


@dataclass
class RowTerms:
    """Rows as terms of a Hessian: √|w| z and √|w|, with the sign of w; (G?, C, R, d), and R of one number."""

    z: Tensor
    root: Tensor
    sign: Tensor
    mask: Tensor

    @classmethod
    def of(cls, chains: MonotoneGroup, weights: Tensor) -> RowTerms:
        """All rows of a bundle; of many rows of one chain, no more than d + 1 a pattern that have the same sums."""
        root = weights.abs().sqrt().unsqueeze(-1)
        terms = cls(root * chains.whitened, root, weights.sign().unsqueeze(-1), chains.mask)
        patterns, d = chains.bundle.patterns.shape[-1], chains.mask.shape[-1]
        many = chains.whitened.ndim == 3 and len(chains.mask) == 1 and chains.mask.shape[1] > 2 * patterns * (d + 1)
        if not many or is_traced(terms.z, terms.root) or bool((terms.sign < 0).any()):
            return terms
        rows = torch.cat([terms.root, terms.z], -1)[0]
        each = [chains.bundle.pattern[0] == p for p in range(patterns)]
        least = [torch.linalg.qr(rows[own], mode="r")[1] for own in each]  # Rᵀ R is the sum of products
        kept = torch.cat(least).unsqueeze(0)
        masks = [chains.mask[0][own][:1].expand(len(R), -1) for own, R in zip(each, least, strict=True)]
        mask = torch.cat(masks).unsqueeze(0)
        return cls(torch.where(mask, kept[..., 1:], 0), kept[..., :1], torch.ones_like(kept[..., :1]), mask)


def given_weights(rows: IncompleteResiduals, weights: Tensor | None) -> Tensor:
    """(*batch) the weights; 1 where none are given."""
    given = torch.ones((), dtype=rows.mean.dtype, device=rows.mean.device) if weights is None else weights
    return given.expand(rows.batch)


def rotated_groups(rows: IncompleteResiduals, weights: Tensor | None) -> list[RotatedGroup]:
    parts = []
    for chains, T in rows.rotations:
        mask = chains.mask.to(rows.mean.dtype)
        weighted = mask if weights is None else mask * rows.of_rows(chains, weights).unsqueeze(-1)
        parts.append(RotatedGroup(chains, T, weighted.mT @ mask))
    return parts


def summed_gradients(
    rows: IncompleteResiduals, rotated: Sequence[RotatedGroup], gradients: Sequence[tuple[Tensor, Tensor]], param_batch: Size
) -> tuple[Tensor, Tensor]:
    """(*param_batch, d) and (*param_batch, d, d): gradients in the chains' coordinates, turned back and summed."""
    parts = [part.gradient(g, M) for part, (g, M) in zip(rotated, gradients, strict=True)]
    if not rows.grouped:
        ((g, M),) = parts
        return sum_to(rows.layout.unfold(g, 1), param_batch, 1), sum_to(rows.layout.unfold(M, 2), param_batch, 2)
    g, M = torch.stack([g.sum(-2) for g, _ in parts]).sum(0), torch.stack([M.sum(-3) for _, M in parts]).sum(0)
    return rows.layout.unfold_params(g, 1).expand((*param_batch, rows.d)), rows.layout.unfold_params(M, 2).expand(
        (*param_batch, rows.d, rows.d)
    )
