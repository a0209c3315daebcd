"""Second order for rows with missing entries.

In the coordinates of a chain (`incomplete.py`), m̃ = T m and K̃ = T K Tᵀ are the change of mean and covariance; a row with the mask o
and z = z_c is a complete row of what it observes, so that with B = o ∘ (K̃ z + m̃)

    Fisher    m̃ → o ∘ m̃,     K̃ → ½ o oᵀ ∘ K̃
    Hessian   −B,             −½ (B zᵀ + z Bᵀ) + ½ o oᵀ ∘ K̃

and sums over rows need only Σ o oᵀ for the first, however many patterns there are; for the second, no more than d + 1 rows a pattern
that have the same sums of products. Structures that keep their form add up a structure a pattern instead
(`marginal_curvature.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Size, Tensor

from mvnjac.arithmetic import tracked
from mvnjac.batches import sum_to
from mvnjac.chains import Chains
from mvnjac.covariance.parametrisation import DenseParametrisation, Values
from mvnjac.curvature import Curvature
from mvnjac.definition import Definition
from mvnjac.derivatives import Derivatives
from mvnjac.errors import ShapeError
from mvnjac.incomplete import IncompleteResiduals
from mvnjac.whitened import Whitening, added

#: the most variables for which d⁴ numbers are held
_LARGEST = 64


@dataclass
class _Turned:
    """A bundle's chains, with the rotation T into their coordinates (G?, C, d, d) and Σ o oᵀ (G?, C, d, d)."""

    chains: Chains
    rotation: Tensor
    pairs: Tensor

    def change(self, m: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
        """m̃ (…, C, d) and K̃ (…, C, d, d)."""
        T = self.rotation
        return (T @ m.unsqueeze(-1)).squeeze(-1), T @ K @ T.mT

    def gradient(self, g: Tensor, M: Tensor) -> tuple[Tensor, Tensor]:
        """Back again."""
        T = self.rotation
        return (T.mT @ g.unsqueeze(-1)).squeeze(-1), T.mT @ M @ T


@dataclass
class _Terms:
    """Rows as terms of a Hessian: √|w| z and √|w|, with the sign of w; (G?, C, R, d), and R of one number."""

    z: Tensor
    root: Tensor
    sign: Tensor
    mask: Tensor

    @classmethod
    def of(cls, chains: Chains, weights: Tensor) -> _Terms:
        """All rows of a bundle; of many rows of one chain, no more than d + 1 a pattern that have the same sums."""
        root = weights.abs().sqrt().unsqueeze(-1)
        terms = cls(root * chains.whitened, root, weights.sign().unsqueeze(-1), chains.mask)
        patterns, d = chains.bundle.patterns.shape[-1], chains.mask.shape[-1]
        many = chains.whitened.ndim == 3 and len(chains.mask) == 1 and chains.mask.shape[1] > 2 * patterns * (d + 1)
        if not many or tracked(terms.z, terms.root) or bool((terms.sign < 0).any()):
            return terms
        rows = torch.cat([terms.root, terms.z], -1)[0]
        each = [chains.bundle.pattern[0] == p for p in range(patterns)]
        least = [torch.linalg.qr(rows[own], mode="r")[1] for own in each]  # Rᵀ R is the sum of products
        kept = torch.cat(least).unsqueeze(0)
        masks = [chains.mask[0][own][:1].expand(len(R), -1) for own, R in zip(each, least, strict=True)]
        mask = torch.cat(masks).unsqueeze(0)
        return cls(torch.where(mask, kept[..., 1:], 0), kept[..., :1], torch.ones_like(kept[..., :1]), mask)


class IncompleteStatistics:
    """The rows that a Hessian sums, with their weights; for each entry of `own`."""

    def __init__(self, rows: IncompleteResiduals, derivatives: Derivatives, weights: Tensor | None, own: Size) -> None:
        self.rows, self.derivatives, self.own, self.weights = rows, derivatives, own, _given(rows, weights)
        self.turned = _turned(rows, self.weights)
        self.terms = [_Terms.of(part.chains, rows.of_rows(part.chains, self.weights)) for part in self.turned]
        scores = [self._score(part, terms) for part, terms in zip(self.turned, self.terms, strict=True)]
        self.score = _added_up(rows, self.turned, scores, own)

    @staticmethod
    def _score(part: _Turned, terms: _Terms) -> tuple[Tensor, Tensor]:
        z = terms.sign * terms.z
        return (terms.root * z).sum(-2), 0.5 * (z.mT @ terms.z - torch.diag_embed(part.pairs.diagonal(dim1=-2, dim2=-1)))


class IncompleteCurvature(Curvature):
    """By any dense parametrisation, or by a structure's own parameters through its definition.

    weights: those of the rows in their average, the information; None: all count the same.
    """

    broadcasts = False

    def __init__(
        self,
        names: Sequence[str],
        owners: Sequence[type[DenseParametrisation]],
        rows: IncompleteResiduals,
        own: Size,
        weights: Tensor | None = None,
    ) -> None:
        self.names, self.rows, self.own = list(names), _suited(rows, own), own
        rows = self.rows
        if rows.covariance.mean is not None and rows.mean.ndim > 1:
            raise ShapeError(
                f"µ(θ) has shape {tuple(rows.mean.shape)}: with missing entries there is no second order where each row has a mean of "
                "its own; let the function return a mean (d,)."
            )
        mean, factor = rows.mean, rows.factor.dense()
        self.maps = (
            Whitening(mean, factor, names, owners)
            if owners or list(names) == ["mean"]
            else Definition(rows.covariance, mean, factor, names)
        )
        self._turned, self._count = _turned(rows, weights), sum_to(_given(rows, weights), own, 0)

        self._squares = _squares(rows, weights) if not own else None

    @property
    def redundant(self) -> bool:
        return self.rows.covariance.redundant_among(self.names)

    @property
    def work(self) -> int:
        if self._squares is not None:
            return 2 * self.rows.d**2
        patterns = sum(part.chains.bundle.patterns.shape[-1] for part in self._turned)
        return min(self.rows.batch.numel(), patterns * 2 * (self.rows.d + 1)) * self.rows.d + sum(
            part.rotation.numel() for part in self._turned
        )

    def fisher(self, v: Values) -> dict[str, Tensor]:
        count = torch.where(self._count == 0, 1, self._count).unsqueeze(-1)  # of no rows there is nothing to average
        if self._squares is not None:
            m, K = self.maps.change(v)
            first, second = self._squares
            g, M = (first @ m.unsqueeze(-1)).squeeze(-1), 0.5 * (second @ K.flatten(-2).unsqueeze(-1)).reshape(K.shape)
            return self.maps.gradients(g / count, M / count.unsqueeze(-1))
        m, K = self._folded(self.rows, v)
        parts = []
        for part in self._turned:
            change, matrix_change = part.change(m, K)
            parts.append((part.pairs.diagonal(dim1=-2, dim2=-1) * change, 0.5 * part.pairs * matrix_change))
        g, M = _added_up(self.rows, self._turned, parts, self.own)
        return self.maps.gradients(g / count, M / count.unsqueeze(-1))

    def fisher_solve(self, gradients: Values) -> dict[str, Tensor]:
        return {}

    def statistics(self, derivatives: Derivatives, weights: Tensor | None, own: Size) -> IncompleteStatistics:
        rows = derivatives.rows
        assert isinstance(rows, IncompleteResiduals)
        return IncompleteStatistics(_suited(rows, own), derivatives, weights, own)

    def hessian(self, statistics: object, v: Values) -> dict[str, Tensor]:
        assert isinstance(statistics, IncompleteStatistics)
        if isinstance(self.maps, Whitening):
            self.maps.require_one_parametrisation()
        m, K = self._folded(statistics.rows, v)
        parts = []
        for part, terms in zip(statistics.turned, statistics.terms, strict=True):
            change, matrix_change = part.change(m, K)
            moved = terms.z @ matrix_change + terms.root * change.unsqueeze(-2)
            B = terms.sign * torch.where(terms.mask, moved, 0)
            cross = B.mT @ terms.z
            parts.append((-(terms.root * B).sum(-2), 0.5 * (part.pairs * matrix_change - cross - cross.mT)))
        g, M = _added_up(statistics.rows, statistics.turned, parts, statistics.own)
        return added(self.maps.gradients(g, M), self.maps.bent(v, *self.maps.change(v), *statistics.score))

    def score(self, statistics: object) -> dict[str, Tensor]:
        assert isinstance(statistics, IncompleteStatistics)
        owns = [statistics.own] * len(self.names)
        return dict(zip(self.names, statistics.derivatives.totals(self.names, statistics.weights, owns), strict=True))

    def count(self, statistics: object) -> Tensor:
        assert isinstance(statistics, IncompleteStatistics)
        return sum_to(statistics.weights, statistics.own, 0)

    def _folded(self, rows: IncompleteResiduals, v: Values) -> tuple[Tensor, Tensor]:
        """(m, K) of a change, for each covariance (G?, 1, …), or for each row by itself."""
        m, K = self.maps.change(v)
        if not rows.together:
            return rows.layout.fold(m, 1), rows.layout.fold(K, 2)
        return rows.layout.fold_own(m, 1).unsqueeze(-2), rows.layout.fold_own(K, 2).unsqueeze(-3)


def _squares(rows: IncompleteResiduals, weights: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Σ w Π (d, d) and Σ w Π ⊗ Π (d², d²), of which products with the information are products, where patterns are many."""
    d, given = rows.d, _given(rows, weights)
    if not rows.together or rows.layout.groups or d > _LARGEST or tracked(rows.mean, given, *rows.factor.tensors()):
        return None
    if sum(part.bundle.patterns.shape[-1] for part in rows.chains) <= 2 * d:
        return None
    shifts, pattern = rows.shifts()
    assert pattern is not None
    projections = (torch.eye(d, dtype=shifts.dtype, device=shifts.device) - 2 * shifts).flatten(-2)
    each = projections.new_zeros(len(projections)).index_add(0, pattern, rows.layout.fold(given, 0))
    products = (projections.mT * each) @ projections
    return (each @ projections).reshape(d, d), products.reshape(d, d, d, d).transpose(1, 2).reshape(d * d, d * d)


def _suited(rows: IncompleteResiduals, own: Size) -> IncompleteResiduals:
    """The rows together where sums of them are those of each covariance; else, for sums that keep more, each row by itself."""
    return rows if own == rows.layout.own else rows.separate()


def _given(rows: IncompleteResiduals, weights: Tensor | None) -> Tensor:
    """(*batch) the weights; 1 where none are given."""
    given = torch.ones((), dtype=rows.mean.dtype, device=rows.mean.device) if weights is None else weights
    return given.expand(rows.batch)


def _turned(rows: IncompleteResiduals, weights: Tensor | None) -> list[_Turned]:
    parts = []
    for chains, T in rows.rotations:
        mask = chains.mask.to(rows.mean.dtype)
        weighted = mask if weights is None else mask * rows.of_rows(chains, weights).unsqueeze(-1)
        parts.append(_Turned(chains, T, weighted.mT @ mask))
    return parts


def _added_up(
    rows: IncompleteResiduals, turned: Sequence[_Turned], gradients: Sequence[tuple[Tensor, Tensor]], own: Size
) -> tuple[Tensor, Tensor]:
    """(*own, d) and (*own, d, d): gradients in the chains' coordinates, turned back and summed."""
    parts = [part.gradient(g, M) for part, (g, M) in zip(turned, gradients, strict=True)]
    if not rows.together:
        ((g, M),) = parts
        return sum_to(rows.layout.unfold(g, 1), own, 1), sum_to(rows.layout.unfold(M, 2), own, 2)
    g, M = torch.stack([g.sum(-2) for g, _ in parts]).sum(0), torch.stack([M.sum(-3) for _, M in parts]).sum(0)
    return rows.layout.unfold_own(g, 1).expand((*own, rows.d)), rows.layout.unfold_own(M, 2).expand((*own, rows.d, rows.d))
