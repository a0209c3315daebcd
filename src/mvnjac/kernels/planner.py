"""The choice of algorithm, from sizes alone and with its reason. `Jacobian.explain` reports the choices.

The crossovers are measured (benchmarks/RESULTS.md); tests/score/test_planner.py times both algorithms near each crossover.
"""

from __future__ import annotations

#: Size of a chunk of rows of the n×p matrix: large enough that one matrix product per chunk runs at full speed.
CHUNK_BYTES = 8 * 2**20

#: Size of an n×d array that fits in a core's cache beside other arrays.
CACHE_BYTES = 2**19

#: Size of a chunk of rows of an n×d array when forming a total: it fits in the cache, and the overhead of calls is small.
ROW_CHUNK_BYTES = 2 * 2**20

#: Patterns of missing entries use marginals of the dense Σ if there are more patterns and at most this many variables.
_FEW_PATTERNS, _DENSE_MARGINALS = 32, 256


def sums_first(n: int, d: int) -> bool:
    """Whether a total is formed from the sums Σ z and Σ z zᵀ: one d×d product per row, and d³ once, instead of two per row.

    The rows are whitened before they are summed, so that no accuracy is lost (summing r rᵀ would lose it at large κ);
    `halves_sums` is the exception in the kernel.
    """
    return n >= 2 * d


def multiplies(n: int, d: int) -> bool:
    """Whether a = Σ⁻¹r is a product with an explicit inverse: d³ once, and half the time of two triangular solves per row."""
    return n >= d


def keeps_form(patterns: int, d: int) -> bool:
    """Whether each pattern of missing entries gets the marginal of the structure; else marginals of the dense Σ are used.

    The structure costs a few calls per pattern, the dense marginals d³ per monotone chain of patterns.
    """
    return d > _DENSE_MARGINALS or patterns <= _FEW_PATTERNS


def total_chunk(largest_total: int) -> int:
    """Bytes of a chunk of rows when forming a total; at least those of the largest total (given in elements)."""
    return max(ROW_CHUNK_BYTES, 8 * largest_total)


def rows_in(size: int, columns: int, itemsize: int) -> int:
    """The number of rows with this many columns in a chunk of `size` bytes."""
    return max(size // (max(columns, 1) * itemsize), 1)
