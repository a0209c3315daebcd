"""Which algorithm: decided here from sizes alone, each choice with its reason. `Jacobian.explain` says what was chosen.

The crossovers are measured (benchmarks/RESULTS.md); tests/score/test_planner.py times both sides of each at its corners.
"""

from __future__ import annotations

#: A chunk of rows of the n×p matrix: large enough that one matrix product a chunk runs at full speed.
CHUNK_BYTES = 8 * 2**20

#: An n×d array that is to stay in the cache of a core while others lie beside it.
CACHE_BYTES = 2**19

#: A chunk of rows of an n×d array that a total goes through: it stays in the cache, and the calls cost little beside the arithmetic.
ROW_CHUNK_BYTES = 2 * 2**20

#: Beyond so many patterns of missing entries of no more than so many variables …
_FEW_PATTERNS, _DENSE_MARGINALS = 32, 256


def sums_first(n: int, d: int) -> bool:
    """Whether a total is formed from the sums Σ z and Σ z zᵀ: one product with d×d a row, and then d³, instead of two a row.

    The rows are whitened before they are summed, so that this costs no digits (summing r rᵀ would, at large κ); where the kernel
    forms the sums, `halves_sums` has the exception.
    """
    return n >= 2 * d


def multiplies(n: int, d: int) -> bool:
    """Whether a = Σ⁻¹r is a product with an explicit inverse: d³ once, and half the time of two triangular solves a row."""
    return n >= d


def keeps_form(patterns: int, d: int) -> bool:
    """Whether each pattern of missing entries has a structure of its own; else they are marginals of the dense Σ, along chains.

    A structure costs a few calls a pattern, a chain of dense marginals d³ for many patterns.
    """
    return d > _DENSE_MARGINALS or patterns <= _FEW_PATTERNS


def total_chunk(largest_total: int) -> int:
    """Bytes of a chunk of rows that a total goes through: no smaller than the largest total (in numbers), which it is added to."""
    return max(ROW_CHUNK_BYTES, 8 * largest_total)


def rows_in(size: int, columns: int, itemsize: int) -> int:
    """How many rows of so many columns a chunk of `size` bytes has."""
    return max(size // (max(columns, 1) * itemsize), 1)
