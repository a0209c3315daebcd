"""Checks of the arguments of `BlockDiagonal`."""

from __future__ import annotations

from collections.abc import Sequence

from mvnjac.covariance.base import Covariance
from mvnjac.errors import ArgumentError, DtypeError, ShapeError, counted


def valid_blocks(blocks: Sequence[Covariance]) -> list[Covariance]:
    """The blocks as a list. Raises unless there are some and all are structures of Σ alone."""
    if not isinstance(blocks, Sequence) or not blocks:
        raise ArgumentError("BlockDiagonal: there are no blocks; pass a list of structures such as mvnjac.Dense(S).")
    for i, block in enumerate(blocks):
        if not isinstance(block, Covariance):
            raise DtypeError(
                f"BlockDiagonal: blocks[{i}] is a {type(block).__name__}; pass a structure such as mvnjac.Dense(S)."
            )
        if block.mean is not None:
            raise ArgumentError(
                f"BlockDiagonal: the function of blocks[{i}] returns a mean, too; let it return Σ only: the mean is a separate "
                "argument."
            )
    return list(blocks)


def valid_sizes(blocks: Sequence[Covariance], sizes: Sequence[int | None] | None) -> list[int | None]:
    """The number of variables of each block; None for at most one block, which has those that the others leave."""
    sizes = [None] * len(blocks) if sizes is None else list(sizes)
    if len(sizes) != len(blocks):
        raise ShapeError(f"BlockDiagonal: {counted(len(sizes), 'size')} for {counted(len(blocks), 'block')}.")
    for i, (block, size) in enumerate(zip(blocks, sizes, strict=True)):
        if size is not None and block.dimension not in (None, size):
            raise ShapeError(
                f"BlockDiagonal: sizes[{i}] is {size}, but blocks[{i}] is of {block.dimension} variables ({block!r})."
            )
    known = [block.dimension if size is None else size for block, size in zip(blocks, sizes, strict=True)]
    unknown = [f"blocks[{i}]" for i, size in enumerate(known) if size is None]
    if len(unknown) > 1:
        raise ShapeError(f"BlockDiagonal: the numbers of variables of {', '.join(unknown)} are not known; pass sizes=.")
    return known
