"""Symmetric banded matrices A (d×d, bandwidth b), stored by their bands (*batch, b + 1, d): bands[..., k, j] = A[j + k, j]."""

from __future__ import annotations

import torch
from torch import Tensor

from mvnjac.linalg.padding import pad


def without_padding(bands: Tensor) -> Tensor:
    """These bands with zeros in the entries beyond the end of the matrix."""
    k, j = (torch.arange(length, dtype=torch.long, device=bands.device) for length in bands.shape[-2:])
    return torch.where(k.unsqueeze(-1) + j < bands.shape[-1], bands, 0)


def banded_product(bands: Tensor, rows: Tensor) -> Tensor:
    """A r for each row r: bands (*batch, b + 1, d), rows (*batch, N, d)."""
    result = bands[..., :1, :] * rows
    for k in range(1, bands.shape[-2]):
        band = bands[..., k : k + 1, :-k]
        result = result + pad(band * rows[..., :-k], (k, 0)) + pad(band * rows[..., k:], (0, k))
    return result


def dense_matrix(bands: Tensor) -> Tensor:
    """A as a dense matrix (*batch, d, d)."""
    diagonals = [torch.diag_embed(bands[..., k, : bands.shape[-1] - k], -k) for k in range(bands.shape[-2])]
    lower = torch.stack(diagonals).sum(0)
    return lower + lower.tril(-1).mT


def consecutive_blocks(bands: Tensor, size: int) -> Tensor:
    """(..., d − size + 1, size, size) the diagonal blocks A[j : j + size, j : j + size] of the matrix with these bands."""
    count = bands.shape[-1] - size + 1
    columns = [pad(bands[..., : size - q, q : q + count], (0, 0, q, 0)) for q in range(size)]
    lower = torch.stack(columns, -1).movedim(-2, -3)
    return lower + lower.tril(-1).mT


def bands_of_sum(blocks: Tensor) -> Tensor:
    """The bands of the sum of such blocks, each at its position on the diagonal."""
    size = blocks.shape[-1]
    columns = blocks.movedim(-3, -1)  # (..., row, column, j)
    return torch.stack([pad(columns[..., q:, q, :], (q, size - 1 - q, 0, q)) for q in range(size)]).sum(0)
