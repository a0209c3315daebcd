"""The shift ½ (I − Π) of each pattern: its derivative minus that of complete rows, in whitened coordinates.

`missing/incomplete_residuals.py` defines Π and derives the shift.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mvnjac.missing.incomplete_residuals import IncompleteResiduals

#: bytes of the shifts of patterns, d×d each, that are formed at a time
_CHUNK_BYTES = 16 * 2**20


def shifts(rows: IncompleteResiduals) -> tuple[Tensor, Tensor | None]:
    """(G?, P, d, d) the shifts of the patterns and (N,) the pattern of each row; for separate rows (N, d, d) and None."""
    if not rows.grouped:
        ((factored, T),) = rows.rotations
        return _shift(torch.where(factored.mask.mT, T, 0)), None
    rows.require_memory("patterns", sum(factored.n_patterns for factored in rows.factored_batches), 2)
    return torch.cat(list(shifts_in_chunks(rows)), -3), rows.row_patterns


def shifts_in_chunks(rows: IncompleteResiduals) -> Iterator[Tensor]:
    """(G?, …, d, d) the shifts of the patterns of grouped rows, in chunks."""
    step = max(1, _CHUNK_BYTES // (rows.mean.dtype.itemsize * rows.d**2))
    for factored, T in rows.rotations:
        group, length = factored.monotone.patterns
        prefix = torch.arange(rows.d, dtype=torch.long, device=length.device) < length.unsqueeze(-1)
        for chunk in (slice(first, first + step) for first in range(0, len(length), step)):
            yield _shift(torch.where(prefix[chunk].unsqueeze(-1), T[..., group[chunk], :, :], 0))


def summed_shift(rows: IncompleteResiduals, weights: Tensor | None) -> Tensor:
    """(*param_batch, d, d) Σ w ½ (I − Π) over grouped rows, for weights of the batch of the rows."""
    projections: Any = 0
    for factored, T in rows.rotations:
        mask = factored.mask.to(rows.mean.dtype)
        weighted = mask if weights is None else rows.weights_of(factored, weights).unsqueeze(-1) * mask
        counts = weighted.sum(-2).unsqueeze(-1)
        projections = projections + T.flatten(-3, -2).mT @ (counts * T).flatten(-3, -2)
    identity = torch.eye(rows.d, dtype=rows.mean.dtype, device=rows.mean.device)
    n = rows.layout.n_rows if weights is None else rows.layout.fold(weights, 0).sum(-1)[..., None, None]
    total = 0.5 * (n * identity - projections)
    return rows.layout.unfold_params(total.expand((*rows.layout.group_shape, rows.d, rows.d)), 2)


def _shift(T: Tensor) -> Tensor:
    return 0.5 * (torch.eye(T.shape[-1], dtype=T.dtype, device=T.device) - T.mT @ T)
