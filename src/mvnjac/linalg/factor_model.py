"""Sums over the rows of a factor model, without an n×d array: given the common factors, the variables are independent.

With u = (x − µ) / √v and B the loadings in the same units, two passes go through x in blocks of rows and variables that stay in the
cache: the first forms the projections Bᵀu (n×k), from which the factors ŵ are estimated; the second forms of each block what the rows'
e = u − B ŵ add up to. Blocks of whole rows would read B (d×k) again and again. Both are compiled kernels where these serve, else a few
calls of torch a block.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mvnjac.kernels import cpu, planner
from mvnjac.tensors import memory

_BLOCK_BYTES = 2 * planner.CACHE_BYTES
_COLUMNS = 64  # at least so many variables a block, where there are: fewer would make the products slow

#: Some rows, some variables, and their numbers.
Block = tuple[slice, slice, Tensor]


def projections(x: Tensor, mean: Tensor, root: Tensor, loading: Tensor) -> Tensor:
    """(n, k) Bᵀu, for rows x (n, d), µ and √v (d,), B (d, k)."""
    found = cpu.project(x, mean, root, loading)
    if found is not None:
        return found
    found = loading.new_zeros(len(x), loading.shape[-1])
    for some, at, u in _scaled(x, mean, root, memory.Workspace()):
        found[some].addmm_(u, loading[at])
    return found


def add_squares(x: Tensor, mean: Tensor, root: Tensor, loading: Tensor, estimate: Tensor, squares: Tensor) -> None:
    """squares (n,) += ‖e‖², for the factors ŵ (n, k)."""
    if cpu.factor_residuals(x, mean, root, loading, estimate, squares, totals=False) is not None:
        return
    for some, _, e in _left(x, mean, root, loading, estimate, memory.Workspace()):
        squares[some] += torch.linalg.vector_norm(e, dim=-1).square_()


def residual_sums(
    x: Tensor, mean: Tensor, root: Tensor, loading: Tensor, estimate: Tensor, squares: Tensor, weights: Tensor | None
) -> tuple[Tensor, ...]:
    """Σ w e (d), Σ w e² (d) and Σ w e ŵᵀ (d, k); squares (n) += ‖e‖²."""
    sums = cpu.factor_residuals(x, mean, root, loading, estimate, squares, weights)
    if sums is not None:
        return sums
    first, second, by_factor = (torch.zeros_like(like) for like in (mean, mean, loading))
    workspace = memory.Workspace()
    for some, at, e in _left(x, mean, root, loading, estimate, workspace):
        squares[some] += torch.linalg.vector_norm(e, dim=-1).square_()
        other = workspace.take("other", e, e.shape)
        weighted = e if weights is None else torch.mul(e, weights[some].unsqueeze(-1), out=other)
        first[at] += weighted.sum(0)
        by_factor[at].addmm_(weighted.mT, estimate[some])
        second[at] += torch.mul(weighted, e, out=other).sum(0)
    return first, second, by_factor


def _left(
    x: Tensor, mean: Tensor, root: Tensor, loading: Tensor, estimate: Tensor, workspace: memory.Workspace
) -> Iterator[Block]:
    """e, which may be changed."""
    for some, at, u in _scaled(x, mean, root, workspace):
        yield some, at, u.addmm_(estimate[some], loading[at].mT, alpha=-1)


def _scaled(x: Tensor, mean: Tensor, root: Tensor, workspace: memory.Workspace) -> Iterator[Block]:
    """u, which may be changed."""
    size, d = _BLOCK_BYTES // mean.element_size(), len(mean)
    for some in _slices(len(x), size // min(_COLUMNS, d)):
        for at in _slices(d, size // (some.stop - some.start)):
            block = x[some, at].to(mean.dtype)
            yield some, at, torch.sub(block, mean[at], out=workspace.take("u", block, block.shape)).div_(root[at])


def _slices(length: int, step: int) -> Iterator[slice]:
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))
