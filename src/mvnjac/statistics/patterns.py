"""Patterns of observed entries: rows grouped by pattern, patterns by monotone chains.

The observed sets of a chain are nested (monotone missingness). With the variables ordered by decreasing number of patterns
that observe them, each set is a prefix, and the factor of each marginal is a leading block of one Cholesky factor: Σ is
factorised once per chain, not once per pattern. The residuals of all rows of a chain are whitened by one triangular solve,
after which the entries beyond each row's prefix are set to 0. Chains with similar numbers of rows form a batch, padded by rows
without observed entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mvnjac.tensors.tracing import to_numpy

#: chains with more rows than this are not padded to a power of two, and form a batch of one
_LARGE = 256


@dataclass(frozen=True)
class MonotoneBatch:
    """A batch of C chains of patterns, padded to R rows each.

    Attributes:
        rows: (C, R) the index of each row.
        order: (C, d) the order of the variables, those observed in most patterns first; None for the original order.
        mask: (C, R, d) the observed entries, in this order; False in the padding.
        patterns: (2, P) the chain of each distinct pattern, and the number of its observed variables.
        pattern: (C, R) the pattern of each row.
    """

    rows: Tensor
    order: Tensor | None
    mask: Tensor
    patterns: Tensor
    pattern: Tensor


def alone(mask: Tensor) -> tuple[list[MonotoneBatch], None]:
    """A batch of N chains of one row each, for a mask (N, d); it needs no values of the mask."""
    each = torch.arange(mask.shape[0], dtype=torch.long, device=mask.device)
    return [MonotoneBatch(each.unsqueeze(-1), None, mask.unsqueeze(-2), each.expand(2, -1), each.unsqueeze(-1))], None


def bundled(mask: Tensor) -> tuple[list[MonotoneBatch], Tensor]:
    """The batches of chains of rows with this mask (N, d), and (N,) the position of each row in their concatenated rows."""
    observed = to_numpy(mask)
    patterns, of_row = distinct(observed)
    by_size: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray]]] = {}
    rows_of = _rows_of(of_row, len(patterns))
    for c, chain in enumerate(chains(patterns)):
        rows = np.concatenate([rows_of[p] for p in chain])
        order = np.argsort(-patterns[chain].sum(0, dtype=np.int64), kind="stable")
        by_size.setdefault(_size(len(rows), c), []).append((rows, order))
    position, first, batches = np.empty(len(observed), dtype=np.int64), 0, []
    for _, members in sorted(by_size.items()):
        rows, is_row, order = _padded(members)
        position[rows[is_row]] = first + np.flatnonzero(is_row)
        first += rows.size
        batches.append(_monotone_batch(observed, rows, is_row, order, mask.device))
    return batches, torch.from_numpy(position).to(mask.device)


def distinct(observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct patterns (P, d), and the pattern of each row (N,)."""
    of_row = np.zeros(len(observed), dtype=np.int64)
    first = of_row[:1]
    for word in _words(observed):  # by words, since sorting whole rows is slow
        _, codes = np.unique(word, return_inverse=True)
        _, first, of_row = np.unique(of_row * (codes.max(initial=0) + 1) + codes, return_index=True, return_inverse=True)
    return observed[first], of_row.reshape(-1)


def chains(patterns: np.ndarray) -> list[list[int]]:
    """The patterns (P, d) in nested chains, largest first; each joins the chain with the smallest last set that contains it."""
    sizes = patterns.sum(1)
    packed = _words(patterns)
    absent = np.empty_like(packed)  # variables missing from the last set of each chain
    counts = np.empty(len(patterns), dtype=np.int64)
    found: list[list[int]] = []
    for p in np.argsort(-sizes, kind="stable"):
        k = len(found)
        outside = packed[0, p] & absent[0, :k]
        for word in range(1, len(packed)):
            outside |= packed[word, p] & absent[word, :k]
        containing = np.flatnonzero(outside == 0)
        if len(containing):
            c = int(containing[counts[containing].argmin()])
            found[c].append(int(p))
        else:
            c = k
            found.append([int(p)])
        absent[:, c], counts[c] = ~packed[:, p], sizes[p]
    return found


def rows_of_patterns(mask: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(rows, observed variables) as indices, for each distinct pattern with an observed entry."""
    patterns, of_row = distinct(to_numpy(mask))
    for pattern, rows in zip(patterns, _rows_of(of_row, len(patterns)), strict=True):
        observed = np.flatnonzero(pattern)
        if len(observed):
            yield torch.from_numpy(rows).to(mask.device), torch.from_numpy(observed).to(mask.device)


def _words(patterns: np.ndarray) -> np.ndarray:
    """(W, P) the patterns as bits, 64 variables per word."""
    padded = np.zeros((len(patterns), -(-patterns.shape[1] // 64) * 64), dtype=bool)
    padded[:, : patterns.shape[1]] = patterns
    return np.ascontiguousarray(np.packbits(padded, axis=1).view(np.uint64).T)


def _size(count: int, chain: int) -> tuple[int, int]:
    """The key of a chain's batch: the padded number of rows; a long chain is a batch of one."""
    return (count, chain) if count > _LARGE else (1 << (count - 1).bit_length(), -1)


def _rows_of(of_row: np.ndarray, count: int) -> list[np.ndarray]:
    order = np.argsort(of_row, kind="stable")
    return np.split(order, np.cumsum(np.bincount(of_row, minlength=count))[:-1])


def _padded(members: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(C, R) rows, padded by each chain's first row; (C, R) which are not padding; (C, d) orders of the variables."""
    longest = max(len(rows) for rows, _ in members)
    rows = np.stack([np.concatenate([rows, np.full(longest - len(rows), rows[0])]) for rows, _ in members])
    is_row = np.arange(longest) < np.array([[len(rows)] for rows, _ in members])
    return rows, is_row, np.stack([order for _, order in members])


def _monotone_batch(
    observed: np.ndarray, rows: np.ndarray, is_row: np.ndarray, order: np.ndarray, device: torch.device
) -> MonotoneBatch:
    mask = np.take_along_axis(observed[rows], order[:, None, :], -1) & is_row[..., None]
    d = mask.shape[-1]
    lengths = mask.sum(-1) + (d + 1) * np.arange(len(mask))[:, None]
    codes, pattern = np.unique(lengths, return_inverse=True)
    arrays = (rows, order, mask, np.stack([codes // (d + 1), codes % (d + 1)]), pattern.reshape(rows.shape))
    return MonotoneBatch(*(torch.from_numpy(array).to(device) for array in arrays))
