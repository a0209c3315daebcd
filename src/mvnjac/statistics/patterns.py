"""Which entries are observed: rows grouped into patterns, patterns into chains.

The observed sets of a chain are nested. With the variables ordered so that those observed longest come first, each set is a prefix,
and the factor of each marginal is a leading block of one Cholesky factor: Σ is factorised once a chain, not once a pattern, and the
residuals of all rows of a chain are whitened by one triangular solve, after which what lies beyond a row's own prefix is set to 0.
Chains that have about as many rows are bundled, so that thousands of them are a batch. The filling has no observed entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mvnjac.tensors.tracing import to_numpy

#: chains of more rows than this are not filled up to a power of two, and not bundled
_LARGE = 256


@dataclass(frozen=True)
class MonotoneBatch:
    """Chains with about as many rows each.

    Attributes:
        rows: (C, R) which row.
        order: (C, d) the variables, those that are observed longest first; None where they are as they are.
        mask: (C, R, d) what is observed, in that order; nothing, where there is no row.
        patterns: (2, P) of which chain the distinct patterns are, and how many variables they observe.
        pattern: (C, R) which of them a row has.
    """

    rows: Tensor
    order: Tensor | None
    mask: Tensor
    patterns: Tensor
    pattern: Tensor


def alone(mask: Tensor) -> tuple[list[MonotoneBatch], None]:
    """Each row by itself: (N, d) → a bundle of N chains of one row. It looks at nothing."""
    each = torch.arange(mask.shape[0], dtype=torch.long, device=mask.device)
    return [MonotoneBatch(each.unsqueeze(-1), None, mask.unsqueeze(-2), each.expand(2, -1), each.unsqueeze(-1))], None


def bundled(mask: Tensor) -> tuple[list[MonotoneBatch], Tensor]:
    """The chains of rows with these observed entries (N, d), in bundles; and (N,) where each row is found in their rows."""
    observed = to_numpy(mask)
    patterns, of_row = distinct(observed)
    by_size: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray]]] = {}
    rows_of = _rows_of(of_row, len(patterns))
    for c, chain in enumerate(chains(patterns)):
        rows = np.concatenate([rows_of[p] for p in chain])
        order = np.argsort(-patterns[chain].sum(0, dtype=np.int64), kind="stable")
        by_size.setdefault(_size(len(rows), c), []).append((rows, order))
    at, first, bundles = np.empty(len(observed), dtype=np.int64), 0, []
    for _, members in sorted(by_size.items()):
        rows, real, order = _filled(members)
        at[rows[real]] = first + np.flatnonzero(real)
        first += rows.size
        bundles.append(_monotone_batch(observed, rows, real, order, mask.device))
    return bundles, torch.from_numpy(at).to(mask.device)


def distinct(observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct patterns (P, d), and which one each row has (N,)."""
    of_row = np.zeros(len(observed), dtype=np.int64)
    first = of_row[:1]
    for word in _words(observed):  # number by number: sorting rows as such is slow
        _, codes = np.unique(word, return_inverse=True)
        _, first, of_row = np.unique(of_row * (codes.max(initial=0) + 1) + codes, return_index=True, return_inverse=True)
    return observed[first], of_row.reshape(-1)


def chains(patterns: np.ndarray) -> list[list[int]]:
    """The patterns (P, d) in nested chains, largest first: each is added to the chain whose smallest set is the least that holds it."""
    sizes = patterns.sum(1)
    packed = _words(patterns)
    absent = np.empty_like(packed)  # from the smallest set of each chain so far
    counts = np.empty(len(patterns), dtype=np.int64)
    found: list[list[int]] = []
    for p in np.argsort(-sizes, kind="stable"):
        k = len(found)
        outside = packed[0, p] & absent[0, :k]
        for word in range(1, len(packed)):
            outside |= packed[word, p] & absent[word, :k]
        holds = np.flatnonzero(outside == 0)
        if len(holds):
            c = int(holds[counts[holds].argmin()])
            found[c].append(int(p))
        else:
            c = k
            found.append([int(p)])
        absent[:, c], counts[c] = ~packed[:, p], sizes[p]
    return found


def rows_of_patterns(mask: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(rows, observed variables) of each distinct pattern that observes any, as indices."""
    patterns, of_row = distinct(to_numpy(mask))
    for pattern, rows in zip(patterns, _rows_of(of_row, len(patterns)), strict=True):
        observed = np.flatnonzero(pattern)
        if len(observed):
            yield torch.from_numpy(rows).to(mask.device), torch.from_numpy(observed).to(mask.device)


def _words(patterns: np.ndarray) -> np.ndarray:
    """(W, P) the patterns, 64 variables a word."""
    filled = np.zeros((len(patterns), -(-patterns.shape[1] // 64) * 64), dtype=bool)
    filled[:, : patterns.shape[1]] = patterns
    return np.ascontiguousarray(np.packbits(filled, axis=1).view(np.uint64).T)


def _size(count: int, chain: int) -> tuple[int, int]:
    """Which bundle: a long chain is one by itself."""
    return (count, chain) if count > _LARGE else (1 << (count - 1).bit_length(), -1)


def _rows_of(of_row: np.ndarray, count: int) -> list[np.ndarray]:
    order = np.argsort(of_row, kind="stable")
    return np.split(order, np.cumsum(np.bincount(of_row, minlength=count))[:-1])


def _filled(members: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(C, R) rows, filled up by each chain's first one; (C, R) which of them are real; (C, d) orders."""
    longest = max(len(rows) for rows, _ in members)
    rows = np.stack([np.concatenate([rows, np.full(longest - len(rows), rows[0])]) for rows, _ in members])
    real = np.arange(longest) < np.array([[len(rows)] for rows, _ in members])
    return rows, real, np.stack([order for _, order in members])


def _monotone_batch(
    observed: np.ndarray, rows: np.ndarray, real: np.ndarray, order: np.ndarray, device: torch.device
) -> MonotoneBatch:
    mask = np.take_along_axis(observed[rows], order[:, None, :], -1) & real[..., None]
    d = mask.shape[-1]
    lengths = mask.sum(-1) + (d + 1) * np.arange(len(mask))[:, None]
    codes, pattern = np.unique(lengths, return_inverse=True)
    arrays = (rows, order, mask, np.stack([codes // (d + 1), codes % (d + 1)]), pattern.reshape(rows.shape))
    return MonotoneBatch(*(torch.from_numpy(array).to(device) for array in arrays))
