"""Sums over patterns of missing entries that give the information and the Hessian with respect to the mean and Σ.

For a row observed on o, let a = Σ_oo⁻¹ r_o and P = Σ_oo⁻¹, both with 0 in the other places. A pattern with the total weight w,
s = Σ a and A = Σ a aᵀ (over its weighted rows) contributes

    Fisher    F_µµ = w P                      F_vech = ½ Dᵀ (w P ⊗ P) D
    Hessian   H_µµ = −w P    H_vech,µ = −Dᵀ (s ⊗ P)    H_vech,vech = −½ Dᵀ (P ⊗ (2 A − w P)) D, symmetric part

The sums over patterns are therefore products of tables with one row per pattern: with the table V of the unique elements of P
and the table U of those of 2 A − w P, all entries of Σ P ⊗ (2 A − w P) are entries of Vᵀ U. The same holds in the coordinates
in which Σ = B Bᵀ is the identity: P becomes the projection Bᵀ P B, and a becomes Bᵀ a.

Source: Magnus & Neudecker, *Matrix Differential Calculus*, ch. 15, applied to the marginal density.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mvnjac.information.entries import elements, joined
from mvnjac.information.structured import full_weights
from mvnjac.missing.incomplete_residuals import IncompleteResiduals
from mvnjac.missing.nested_cholesky import FactoredBatch
from mvnjac.parameters.coordinates import symmetric
from mvnjac.tensors import memory

#: bytes of the tables of patterns that are held at a time
_TABLE_BYTES = 64 * 2**20
#: rows of the (p, p) result that are gathered at a time
_ROWS = 256
#: the mean number of rows per pattern above which each pattern is summed by a matrix product
_MATRIX_PRODUCT_ROWS = 16


@dataclass(frozen=True)
class PatternSums:
    """The sums over patterns of d variables, with q = d(d + 1)/2.

    Attributes:
        d: the number of variables.
        tensors: by name, `precision` (q,) Σ w P; with expected=True `expected` (q, q) Σ w P ⊗ P; with observed=True `first`
            (d,) Σ s, `second` (q,) Σ A, `cross` (d, q) Σ s ⊗ P and `observed` (q, q) Σ P ⊗ (2 A − w P).
    """

    d: int
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(
        cls,
        rows: IncompleteResiduals,
        weights: Tensor | None = None,
        basis: Tensor | None = None,
        *,
        expected: bool = False,
        observed: bool = False,
    ) -> PatternSums:
        """The sums over rows (n,) that share one mean and one Σ.

        Args:
            rows: the rows.
            weights: (n,); None for 1.
            basis: B (d, d); None for the identity, which gives the sums with respect to the mean and Σ.
            expected: whether the sums for the Fisher information are formed.
            observed: whether the sums for the Hessian are formed.

        Raises:
            MemoryLimitError: the (q, q) sums cannot fit; raised before they are allocated.
        """
        d, like = rows.d, rows.mean
        q = d * (d + 1) // 2
        matrices = int(expected) + int(observed) + 2  # the sums, the result and a transpose
        what, remedy = "the sums over patterns of missing entries", "take fewer variables, or products by matvec."
        memory.require_work(what, (d + q, d + q), like.dtype, like.device, matrices, 0, remedy)
        weights = full_weights(rows, weights)
        basis = torch.eye(d, dtype=like.dtype, device=like.device) if basis is None else basis
        shapes: dict[str, tuple[int, ...]] = {"precision": (q,)}
        shapes |= {"expected": (q, q)} if expected else {}
        shapes |= {"first": (d,), "second": (q,), "cross": (d, q), "observed": (q, q)} if observed else {}
        sums = {name: like.new_zeros(shape) for name, shape in shapes.items()}
        for factored in rows.factored_batches:
            _add(sums, factored, rows.weights_of(factored, weights), factored.rotation(basis))
        return cls(d, sums)

    @property
    def fisher(self) -> Tensor:
        """(d + q, d + q) the total Fisher information over the unique elements of the mean and Σ."""
        d = self.d
        result = joined(symmetric(d).unpack(self.tensors["precision"]), None)
        _write_pairs(self.tensors["expected"], 0.25, result[d:, d:])
        return result

    @property
    def hessian(self) -> Tensor:
        """(d + q, d + q) the total Hessian over the unique elements of the mean and Σ."""
        d, X = self.d, self.tensors["cross"]
        i, j, weight = elements(d, X)
        index = _element_indices(d, X.device)
        column = torch.arange(d, dtype=torch.long, device=X.device)
        cross = X[i[:, None], index[j][:, column]] + X[j[:, None], index[i][:, column]]
        result = joined(-symmetric(d).unpack(self.tensors["precision"]), -0.5 * weight[:, None] * cross)
        both = self.tensors["observed"]
        _write_pairs(both + both.mT, -0.125, result[d:, d:])
        return result

    @property
    def score(self) -> tuple[Tensor, Tensor]:
        """The total score: (d,) with respect to the mean, and the full gradient (d, d) ½ (Σ A − Σ w P) with respect to Σ."""
        matrix = 0.5 * (self.tensors["second"] - self.tensors["precision"])
        return self.tensors["first"], symmetric(self.d).unpack(matrix)


# --- tables of patterns ---------------------------------------------------------------------------------------------------


def _add(sums: dict[str, Tensor], factored: FactoredBatch, weights: Tensor, F: Tensor) -> None:
    """Add the patterns of one batch, with the weights (C, R) of its rows and F (C, d, d), for which P = Fᵀ diag(prefix) F."""
    d = F.shape[-1]
    group, length = factored.monotone.patterns
    pattern, n_patterns = factored.monotone.pattern.flatten(), factored.n_patterns
    observed = factored.mask.any(-1).flatten()  # False for padding, and for rows without observed entries, which add nothing
    row_weights = torch.where(observed, weights.flatten(), 0)
    total = row_weights.new_zeros(n_patterns).index_add(0, pattern, row_weights)
    scaled = (factored.whitened @ F).flatten(0, -2) if "observed" in sums else None
    order = pattern.argsort(stable=True)
    ends = torch.bincount(pattern, minlength=n_patterns).cumsum(0)
    prefix = torch.arange(d, dtype=torch.long, device=F.device) < length.unsqueeze(-1)
    positions = symmetric(d).positions(F.device)
    for chunk in _chunks(n_patterns, d * d * F.dtype.itemsize):
        root = torch.where(prefix[chunk].unsqueeze(-1), F[group[chunk]], 0)
        V = (root.mT @ root).flatten(-2)[:, positions]
        w = total[chunk]
        sums["precision"] += w @ V
        if "expected" in sums:
            sums["expected"].addmm_((w.unsqueeze(-1) * V).mT, V)
        if scaled is None:
            continue
        first = int(ends[chunk.start - 1]) if chunk.start else 0
        members = order[first : int(ends[chunk.stop - 1])]
        s, A = _moments(scaled[members], row_weights[members], pattern[members] - chunk.start, len(V), positions)
        sums["first"] += s.sum(0)
        sums["second"] += A.sum(0)
        sums["cross"].addmm_(s.mT, V)
        sums["observed"].addmm_(V.mT, 2 * A - w.unsqueeze(-1) * V)


def _chunks(count: int, size: int) -> list[slice]:
    """Slices of `count` rows of tables, of `size` bytes a row, of which four fit into the bytes held at a time."""
    step = max(1, _TABLE_BYTES // (4 * size))
    return [slice(first, min(first + step, count)) for first in range(0, count, step)]


def _moments(a: Tensor, w: Tensor, pattern: Tensor, n_patterns: int, positions: Tensor) -> tuple[Tensor, Tensor]:
    """(P, d) Σ w a and (P, q) the unique elements of Σ w a aᵀ, from rows (n, d) sorted by their pattern (n,)."""
    d = a.shape[-1]
    weighted = w.unsqueeze(-1) * a
    s = a.new_zeros(n_patterns, d).index_add(0, pattern, weighted)
    A = a.new_zeros(n_patterns, len(positions))
    if len(a) > _MATRIX_PRODUCT_ROWS * n_patterns:
        counts = torch.bincount(pattern, minlength=n_patterns).tolist()
        for p, (left, right) in enumerate(zip(a.split(counts), weighted.split(counts), strict=True)):
            A[p] = (left.mT @ right).flatten()[positions]
        return s, A
    i, j = positions // d, positions % d
    for chunk in _chunks(len(a), len(positions) * a.dtype.itemsize):
        A.index_add_(0, pattern[chunk], a[chunk][:, i] * weighted[chunk][:, j])
    return s, A


# --- entries for pairs of unique elements ---------------------------------------------------------------------------------


def _element_indices(d: int, device: torch.device) -> Tensor:
    """(d, d) the index of the unique element of each entry."""
    positions = symmetric(d).positions(device)
    index = torch.zeros(d * d, dtype=torch.long, device=device)
    index[positions] = torch.arange(len(positions), dtype=torch.long, device=device)
    index = index.reshape(d, d)
    return index + index.tril(-1).mT


def _write_pairs(N: Tensor, factor: float, out: Tensor) -> None:
    """Write factor · m_ij m_kl (N_ik,jl + N_il,jk) into out (q, q) in chunks of rows (i, j), for symmetric N (q, q)."""
    q = len(out)
    d = round(((8 * q + 1) ** 0.5 - 1) / 2)
    i, j, weight = elements(d, N)
    index, flat = _element_indices(d, N.device), N.reshape(-1)
    for first in range(0, q, _ROWS):
        chunk = slice(first, first + _ROWS)
        row, column = index[i[chunk]], index[j[chunk]]  # (rows, d) the elements (i, ·) and (j, ·)
        entries = flat[row[:, i] * q + column[:, j]] + flat[row[:, j] * q + column[:, i]]
        out[chunk] = factor * weight[chunk].unsqueeze(-1) * weight * entries
