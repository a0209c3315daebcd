"""Sums over the rows of a factor model without an n×d array, since the variables are independent given the common factors.

With u = (x − µ) / √v and the loadings B in the same units, x is read twice, in blocks of rows and variables that fit in the
cache. The first pass forms the projections Bᵀu (n×k), from which the factors ŵ are estimated; the second forms sums of the
residuals e = u − B ŵ. (Blocks of whole rows would read B (d×k) for every block.) Both passes are compiled kernels if
available, else a few torch operations per block.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mvnjac.kernels import cpu, planner
from mvnjac.tensors import memory

_BLOCK_BYTES = 2 * planner.CACHE_BYTES
_COLUMNS = 64  # minimum number of variables per block, if there are so many; smaller products are slow

#: The rows and the variables of a block, and its values.
Block = tuple[slice, slice, Tensor]


def projections(x: Tensor, mean: Tensor, root: Tensor, loading: Tensor) -> Tensor:
    """(n, k) Bᵀu, for rows x (n, d), µ and √v (d,), B (d, k)."""
    found = cpu.project(x, mean, root, loading)
    if found is not None:
        return found
    found = loading.new_zeros(len(x), loading.shape[-1])
    for rows, variables, u in _scaled(x, mean, root, memory.Workspace()):
        found[rows].addmm_(u, loading[variables])
    return found


def add_squares(x: Tensor, mean: Tensor, root: Tensor, loading: Tensor, estimate: Tensor, squares: Tensor) -> None:
    """squares (n,) += ‖e‖² for the factors ŵ (n, k)."""
    if cpu.factor_residuals(x, mean, root, loading, estimate, squares, totals=False) is not None:
        return
    for rows, _, e in _residuals(x, mean, root, loading, estimate, memory.Workspace()):
        squares[rows] += torch.linalg.vector_norm(e, dim=-1).square_()


def residual_sums(
    x: Tensor, mean: Tensor, root: Tensor, loading: Tensor, estimate: Tensor, squares: Tensor, weights: Tensor | None
) -> tuple[Tensor, ...]:
    """Σ w e (d), Σ w e² (d) and Σ w e ŵᵀ (d, k); squares (n) += ‖e‖²."""
    sums = cpu.factor_residuals(x, mean, root, loading, estimate, squares, weights)
    if sums is not None:
        return sums
    first, second, by_factor = (torch.zeros_like(like) for like in (mean, mean, loading))
    workspace = memory.Workspace()
    for rows, variables, e in _residuals(x, mean, root, loading, estimate, workspace):
        squares[rows] += torch.linalg.vector_norm(e, dim=-1).square_()
        product = workspace.take("product", e, e.shape)
        weighted = e if weights is None else torch.mul(e, weights[rows].unsqueeze(-1), out=product)
        first[variables] += weighted.sum(0)
        by_factor[variables].addmm_(weighted.mT, estimate[rows])
        second[variables] += torch.mul(weighted, e, out=product).sum(0)
    return first, second, by_factor


def _residuals(
    x: Tensor, mean: Tensor, root: Tensor, loading: Tensor, estimate: Tensor, workspace: memory.Workspace
) -> Iterator[Block]:
    """e by blocks, in memory that may be overwritten."""
    for rows, variables, u in _scaled(x, mean, root, workspace):
        yield rows, variables, u.addmm_(estimate[rows], loading[variables].mT, alpha=-1)


def _scaled(x: Tensor, mean: Tensor, root: Tensor, workspace: memory.Workspace) -> Iterator[Block]:
    """u by blocks, in memory that may be overwritten."""
    size, d = _BLOCK_BYTES // mean.element_size(), len(mean)
    for rows in _slices(len(x), size // min(_COLUMNS, d)):
        for variables in _slices(d, size // (rows.stop - rows.start)):
            block = x[rows, variables].to(mean.dtype)
            u = torch.sub(block, mean[variables], out=workspace.take("u", block, block.shape))
            yield rows, variables, u.div_(root[variables])


def _slices(length: int, step: int) -> Iterator[slice]:
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))
