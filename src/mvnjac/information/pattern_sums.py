"""Sums over rows with missing entries from which both informations by the mean and Σ follow, however many patterns there are.

Let a row observe o, a = Σ_oo⁻¹ r_o and P = Σ_oo⁻¹, both with 0 in the other places. Each pattern g contributes (Magnus & Neudecker,
*Matrix Differential Calculus*, ch. 15, applied to the marginal density), with w its weight, s = Σ a, and A = Σ a aᵀ over its rows,

    Fisher    F_µµ = w P                      F_vech = ½ Dᵀ (w P ⊗ P) D
    Hessian   H_µµ = −w P    H_vech,µ = −Dᵀ (s ⊗ P)    H_vech,vech = −½ Dᵀ (P ⊗ (2 A − w P)) D made symmetric

so that the sums over patterns are products of tables that have one row a pattern: with V the table of the unique elements of P and U
that of 2 A − w P, all entries of Σ P ⊗ (2 A − w P) are entries of Vᵀ U. The same holds in the coordinates in which Σ = B Bᵀ is the
identity: P becomes Bᵀ P B, a projection, and a becomes Bᵀ a.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mvnjac.information.entries import elements, joined
from mvnjac.missing.incomplete_residuals import IncompleteResiduals
from mvnjac.missing.nested_cholesky import MonotoneGroup
from mvnjac.parameters.coordinates import symmetric
from mvnjac.tensors import memory

#: bytes of the tables of patterns that are held at a time
_TABLE_BYTES = 64 * 2**20
#: rows of the (p, p) result that are gathered at a time
_ROWS = 256
#: patterns with more rows than this on average are summed pattern by pattern, as matrix products
_MANY = 16


@dataclass(frozen=True)
class PatternSums:
    """The sums, by name; q = d(d + 1)/2.

    Attributes:
        tensors: `count` () the sum of the weights; `precision` (q,) Σ w P; `first` (d,) Σ s; `second` (q,) Σ A; `cross` (d, q)
            Σ s ⊗ P; `expected` (q, q) Σ w P ⊗ P; `observed` (q, q) Σ P ⊗ (2 A − w P). Those that no Hessian was asked for lack
            `first`, `second`, `cross` and `observed`; those without the Fisher information lack `expected`.
    """

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
        """Of rows (n,) that share one mean and one Σ.

        Args:
            weights: (n,) of the rows; None: 1.
            basis: B (d, d); None: the identity, so that the sums are those by the mean and Σ themselves.
            expected, observed: whether the sums of the Fisher information and of the Hessian are formed.

        Raises:
            MemoryLimitError: before the (q, q) sums are allocated, if they do not fit.
        """
        d, like = rows.d, rows.mean
        q = d * (d + 1) // 2
        matrices = int(expected) + int(observed) + 2  # and what is read off them, beside its transpose
        memory.require_work(
            "the sums over patterns of missing entries",
            (d + q, d + q),
            like.dtype,
            like.device,
            matrices,
            0,
            "choose fewer variables, or products by matvec.",
        )
        given = like.new_ones(rows.batch) if weights is None else weights.expand(rows.batch)
        basis = torch.eye(d, dtype=like.dtype, device=like.device) if basis is None else basis
        shapes: dict[str, tuple[int, ...]] = {"precision": (q,)}
        shapes |= {"expected": (q, q)} if expected else {}
        shapes |= {"first": (d,), "second": (q,), "cross": (d, q), "observed": (q, q)} if observed else {}
        sums = {name: like.new_zeros(shape) for name, shape in shapes.items()}
        for chains in rows.chains:
            _add(sums, chains, rows.of_rows(chains, given), chains.rotation(basis))
        return cls({"count": given.sum(), **sums})

    @property
    def d(self) -> int:
        """The number of variables."""
        q: int = self.tensors["precision"].shape[0]
        return round(((8 * q + 1) ** 0.5 - 1) / 2)

    @property
    def fisher(self) -> Tensor:
        """(d + q, d + q) the Fisher information of all rows, over the unique elements of the mean and Σ."""
        d = self.d
        result = joined(symmetric(d).unpack(self.tensors["precision"]), None)
        _scatter(self.tensors["expected"], 0.25, result[d:, d:])
        return result

    @property
    def hessian(self) -> Tensor:
        """(d + q, d + q) the sum of the rows' Hessians, likewise."""
        d, X = self.d, self.tensors["cross"]
        i, j, weight = elements(d, X)
        places = _places(d, X.device)
        column = torch.arange(d, dtype=torch.long, device=X.device)
        cross = X[i[:, None], places[j][:, column]] + X[j[:, None], places[i][:, column]]
        result = joined(-symmetric(d).unpack(self.tensors["precision"]), -0.5 * weight[:, None] * cross)
        both = self.tensors["observed"]
        _scatter(both + both.mT, -0.125, result[d:, d:])
        return result

    @property
    def score(self) -> tuple[Tensor, Tensor]:
        """(d,) and (d, d): the total score by the mean, and the full gradient ½ (Σ A − Σ w P) by Σ."""
        matrix = 0.5 * (self.tensors["second"] - self.tensors["precision"])
        return self.tensors["first"], symmetric(self.d).unpack(matrix)


# --- tables of patterns ---------------------------------------------------------------------------------------------------


def _add(sums: dict[str, Tensor], chains: MonotoneGroup, weights: Tensor, F: Tensor) -> None:
    """Add the patterns of one bundle; weights (C, R) of its rows, F (C, d, d) with P = Fᵀ diag(prefix) F."""
    d = F.shape[-1]
    of_chain, length = chains.bundle.patterns
    pattern, flat = chains.bundle.pattern.flatten(), weights.flatten()
    real = chains.mask.any(-1).flatten()  # not the filling, and no row without entries, which adds nothing
    total = flat.new_zeros(len(length)).index_add(0, pattern, torch.where(real, flat, 0))
    scaled = (chains.whitened @ F).flatten(0, -2) if "observed" in sums else None
    order = pattern.argsort(stable=True)
    ends = torch.bincount(pattern, minlength=len(length)).cumsum(0)
    prefix = torch.arange(d, dtype=torch.long, device=F.device) < length.unsqueeze(-1)
    positions = symmetric(d).positions(F.device)
    for some in _chunks(len(length), d, F):
        one = torch.where(prefix[some].unsqueeze(-1), F[of_chain[some]], 0)
        V = (one.mT @ one).flatten(-2)[:, positions]
        w = total[some]
        sums["precision"] += w @ V
        if "expected" in sums:
            sums["expected"].addmm_((w.unsqueeze(-1) * V).mT, V)
        if scaled is None:
            continue
        first = int(ends[some.start - 1]) if some.start else 0
        own = order[first : int(ends[some.stop - 1])]
        s, A = _moments(scaled[own], torch.where(real, flat, 0)[own], pattern[own] - some.start, len(V), positions)
        sums["first"] += s.sum(0)
        sums["second"] += A.sum(0)
        sums["cross"].addmm_(s.mT, V)
        sums["observed"].addmm_(V.mT, 2 * A - w.unsqueeze(-1) * V)


def _chunks(patterns: int, d: int, like: Tensor) -> Iterator[slice]:
    """Slices of patterns of which the tables of P, as squares too, are small."""
    step = max(1, _TABLE_BYTES // (like.dtype.itemsize * 4 * d * d))
    for first in range(0, patterns, step):
        yield slice(first, min(first + step, patterns))


def _moments(a: Tensor, w: Tensor, pattern: Tensor, patterns: int, positions: Tensor) -> tuple[Tensor, Tensor]:
    """(P, d) Σ w a and (P, q) the unique elements of Σ w a aᵀ, of rows (n, d) that are sorted by their pattern (n,)."""
    d = a.shape[-1]
    weighted = w.unsqueeze(-1) * a
    s = a.new_zeros(patterns, d).index_add(0, pattern, weighted)
    A = a.new_zeros(patterns, len(positions))
    if len(a) > _MANY * patterns:
        counts = torch.bincount(pattern, minlength=patterns).tolist()
        for g, (one, other) in enumerate(zip(a.split(counts), weighted.split(counts), strict=True)):
            A[g] = (one.mT @ other).flatten()[positions]
        return s, A
    i, j = positions // d, positions % d
    step = max(1, _TABLE_BYTES // (a.dtype.itemsize * 4 * len(positions)))
    for first in range(0, len(a), step):
        some = slice(first, first + step)
        A.index_add_(0, pattern[some], a[some][:, i] * weighted[some][:, j])
    return s, A


# --- entries by pairs of unique elements ----------------------------------------------------------------------------------


def _places(d: int, device: torch.device) -> Tensor:
    """(d, d) the number of the unique element that an entry is."""
    positions = symmetric(d).positions(device)
    places = torch.zeros(d * d, dtype=torch.long, device=device)
    places[positions] = torch.arange(len(positions), dtype=torch.long, device=device)
    places = places.reshape(d, d)
    return places + places.tril(-1).mT


def _scatter(N: Tensor, factor: float, out: Tensor) -> None:
    """Write factor · m_ij m_kl (N_ik,jl + N_il,jk) into out (q, q), some rows (i, j) at a time; N (q, q) is symmetric."""
    q = len(out)
    d = round(((8 * q + 1) ** 0.5 - 1) / 2)
    i, j, weight = elements(d, N)
    places, flat = _places(d, N.device), N.reshape(-1)
    for first in range(0, q, _ROWS):
        some = slice(first, first + _ROWS)
        by_i, by_j = places[i[some]], places[j[some]]  # (rows, d) of the elements (i, ·) and (j, ·)
        entries = flat[by_i[:, i] * q + by_j[:, j]] + flat[by_i[:, j] * q + by_j[:, i]]
        out[some] = factor * weight[some].unsqueeze(-1) * weight * entries
