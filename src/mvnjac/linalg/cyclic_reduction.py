"""Cyclic reduction of a banded matrix: a Cholesky factorisation in an elimination order with log₂(d) sequential steps.

A symmetric matrix P of bandwidth b is block tridiagonal, with blocks of size s = max(b, 1): Dⱼ on the diagonal and Bⱼ = P[j,
j−1] below it. Eliminating every other block leaves a block tridiagonal matrix with half the number of blocks, and so on:
log₂(d) levels, each a batch of small operations. With Dⱼ = Lⱼ Lⱼᵀ for an eliminated block and its couplings to the two
remaining neighbours n,

    Wⱼ = Lⱼ⁻¹ P[j, n]  (s × 2s),        P[n, n] ← P[n, n] − Wⱼᵀ Wⱼ

so that P = Λ Λᵀ with the columns (Lⱼ, Wⱼᵀ) of Λ. This gives, without any d×d array:

    log det P = 2 Σ log diag Lⱼ        (Λᵀ r)ⱼ = Lⱼᵀ rⱼ + Wⱼ rₙ
    Σ[j, n] = −Lⱼ⁻ᵀ Wⱼ Σ[n, n],        Σ[j, j] = Lⱼ⁻ᵀ (I + Wⱼ Σ[n, n] Wⱼᵀ) Lⱼ⁻¹

The last line is Takahashi's recursion, from the coarsest level to the finest; the entries Σ[n, n] that it needs are within the
band of the coarser level. The cost is O(d b²) operations and O(d b) memory.

Sources: Heller 1976, *Some aspects of the cyclic reduction algorithm for block tridiagonal linear systems*; Takahashi, Fagan
and Chen 1973, *Formation of a sparse bus impedance matrix*; Rue and Held 2005, *Gaussian Markov Random Fields*, ch. 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mvnjac.linalg.banded import without_padding
from mvnjac.linalg.padding import pad
from mvnjac.linalg.triangular import cholesky, inverse_triangle, solve_rows


@dataclass(frozen=True)
class Level:
    """The eliminated blocks of one level: tril L (*batch, h, s, s) and coupling W (*batch, h, s, 2s) to both neighbours."""

    tril: Tensor
    coupling: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Level:
        return Level(function(self.tril), function(self.coupling))


@dataclass(frozen=True)
class CyclicReduction:
    """The factorisation P = Λ Λᵀ, level by level; NaN if P is not positive definite.

    Attributes:
        levels: from the finest to the coarsest.
        d: the dimension of P.
        bandwidth: of P.
    """

    levels: list[Level]
    d: int
    bandwidth: int

    @classmethod
    def of(cls, bands: Tensor) -> CyclicReduction:
        """Factorise P with bands[..., k, j] = P[j + k, j]: (*batch, b + 1, d)."""
        bandwidth, d = bands.shape[-2] - 1, bands.shape[-1]
        diagonal, lower = _blocks(bands)
        levels, s = [], diagonal.shape[-1]
        while diagonal.shape[-3]:
            eliminated, remaining = (diagonal.shape[-3] + 1) // 2, diagonal.shape[-3] // 2
            tril = cholesky(diagonal[..., 0::2, :, :])[0]
            right = _window(lower[..., 1::2, :, :].mT, 0, eliminated)
            both = torch.cat([lower[..., 0::2, :, :], right], -1)
            coupling = torch.linalg.solve_triangular(tril, both, upper=False)
            gram = coupling.mT @ coupling
            from_left, from_right = gram[..., s:, s:], gram[..., :s, :s]  # updates by the eliminated blocks on either side
            diagonal = diagonal[..., 1::2, :, :] - _window(from_left, 0, remaining) - _window(from_right, 1, remaining)
            lower = -_window(gram[..., s:, :s], 0, remaining)
            levels.append(Level(tril, coupling))
        return cls(levels, d, bandwidth)

    def map(self, function: Callable[[Tensor], Tensor]) -> CyclicReduction:
        """The factorisation with a function applied to every array (*batch, h, s, ·)."""
        return CyclicReduction([level.map(function) for level in self.levels], self.d, self.bandwidth)

    def log_det(self) -> Tensor:
        """(*batch) log det P."""
        logs = [level.tril.diagonal(dim1=-2, dim2=-1).log().sum((-2, -1)) for level in self.levels]
        return 2 * torch.stack(logs).sum(0)

    def root_times(self, rows: Tensor) -> Tensor:
        """Λᵀ r for rows (*batch, N, d), with entries in the order of elimination."""
        blocks, results = self._split(rows), []
        for level in self.levels:
            eliminated, blocks = blocks[..., 0::2, :, :], blocks[..., 1::2, :, :]
            results.append(eliminated @ level.tril + _neighbours(blocks, eliminated) @ level.coupling.mT)
        return torch.cat(results, -3).movedim(-3, -2).flatten(-2)

    def solve(self, rows: Tensor) -> Tensor:
        """P⁻¹ r for rows (*batch, N, d), by forward and back substitution."""
        blocks, solved, s = self._split(rows), [], self._size
        for level in self.levels:
            eliminated, remaining = blocks[..., 0::2, :, :], blocks[..., 1::2, :, :]
            solved.append(solve_rows(eliminated, level.tril))
            update, count = solved[-1] @ level.coupling, remaining.shape[-3]
            blocks = remaining - _window(update[..., s:], 0, count) - _window(update[..., :s], 1, count)
        for level, eliminated in zip(reversed(self.levels), reversed(solved), strict=True):
            rest = eliminated - _neighbours(blocks, eliminated) @ level.coupling.mT
            blocks = _interleaved(solve_rows(rest, level.tril, transposed=True), blocks)
        return blocks.movedim(-3, -2).flatten(-2)[..., : self.d]

    def inverse_bands(self) -> Tensor:
        """(*batch, b + 1, d) the bands of P⁻¹ by Takahashi's recursion, with zeros in the padding."""
        s = self._size
        diagonal = lower = self.levels[0].tril[..., :0, :, :]
        for level in reversed(self.levels):
            count = level.tril.shape[-3]
            left, right, between = _window(diagonal, -1, count), _window(diagonal, 0, count), _window(lower, 0, count)
            inner = torch.cat([torch.cat([left, between.mT], -1), torch.cat([between, right], -1)], -2)
            inverse = inverse_triangle(level.tril)
            regression = inverse.mT @ level.coupling
            cross = regression @ inner  # −Σ[j, n]
            diagonal = _interleaved(inverse.mT @ inverse + cross @ regression.mT, diagonal)
            lower = _interleaved(-cross[..., :s], -_window(cross[..., s:].mT, 0, lower.shape[-3]))
        return _unblocked(diagonal, lower, self.bandwidth, self.d)

    @property
    def _size(self) -> int:
        return max(self.bandwidth, 1)

    def _split(self, rows: Tensor) -> Tensor:
        """(*batch, N, d) → (*batch, m, N, s)."""
        return pad(rows, (0, -self.d % self._size)).unflatten(-1, (-1, self._size)).movedim(-2, -3)


def _blocks(bands: Tensor) -> tuple[Tensor, Tensor]:
    """(*batch, m, s, s) the blocks Dⱼ and Bⱼ = P[j, j − 1], with B₀ = 0; P is padded by an identity to whole blocks.

    The bands are the columns of a block and the block below it, from the diagonal on. Columns padded to 2s + 1 entries and
    then read with a column length of 2s are shifted down by one entry per column, as in the block.
    """
    b, d = bands.shape[-2] - 1, bands.shape[-1]
    s = max(b, 1)
    bands = without_padding(bands)
    rest = -d % s
    padded = torch.cat([pad(bands[..., :1, :], (0, rest), value=1.0), pad(bands[..., 1:, :], (0, rest))], -2)
    columns = pad(padded.unflatten(-1, (-1, s)).movedim(-3, -1), (0, 2 * s - b))
    tall = columns.flatten(-2)[..., : 2 * s * s].unflatten(-1, (s, 2 * s)).mT
    triangle, below = tall[..., :s, :], tall[..., s:, :]
    return triangle + triangle.tril(-1).mT, _window(below, -1, below.shape[-3])


def _unblocked(diagonal: Tensor, lower: Tensor, b: int, d: int) -> Tensor:
    """The bands of a matrix with these blocks: the inverse of `_blocks`."""
    s, count = diagonal.shape[-1], diagonal.shape[-3]
    tall = torch.cat([diagonal, _window(lower, 1, count)], -2)
    columns = pad(tall.mT.flatten(-2), (0, s)).unflatten(-1, (s, 2 * s + 1))[..., : b + 1]
    return without_padding(columns.movedim(-1, -3).flatten(-2)[..., :d])


def _window(blocks: Tensor, start: int, count: int) -> Tensor:
    """Blocks start … start + count − 1 (along dimension −3); zeros where there are none."""
    return pad(blocks, (0, 0, 0, 0, -start, start + count - blocks.shape[-3]))


def _neighbours(remaining: Tensor, eliminated: Tensor) -> Tensor:
    """The left and the right neighbour of each eliminated block, concatenated along the last dimension."""
    count = eliminated.shape[-3]
    return torch.cat([_window(remaining, -1, count), _window(remaining, 0, count)], -1)


def _interleaved(eliminated: Tensor, remaining: Tensor) -> Tensor:
    """Both in natural order: eliminated, remaining, eliminated, …"""
    count = eliminated.shape[-3]
    both = torch.stack([eliminated, _window(remaining, 0, count)], -3).flatten(-4, -3)
    return both[..., : count + remaining.shape[-3], :, :]
