"""Slices of a table, each the input of one unit of work. They do not depend on the number of workers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

#: Approximate bytes of float64 that one unit of work reads or writes: large enough for a negligible cost of starting it.
READ_BYTES, WRITTEN_BYTES = 64 * 2**20, 256 * 2**20
#: The largest number of slices of one stored block (a row group): each slice reads its block from the start.
_MOST_PIECES = 8


@dataclass(frozen=True)
class Slice:
    """Consecutive rows of one file.

    Attributes:
        path: the file.
        first, last: the range of blocks, in the format's unit (row groups, record batches, rows or bytes), without `last`;
            None: to the end of the file.
        row: the number of rows of the table before this slice; None if unknown.
        rows: the number of rows of this slice; None if unknown.
        skip, take: within these blocks, leave out the first `skip` rows and read `take` rows; None: all remaining rows.
        constants: columns that are not in the file but have one value in all its rows: those of a partitioned folder.
    """

    path: str
    first: int = 0
    last: int | None = None
    row: int | None = 0
    rows: int | None = None
    skip: int = 0
    take: int | None = None
    constants: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        where = "" if self.row is None or self.rows is None else f", rows {self.row + 1} to {self.row + self.rows}"
        return f"{self.path}{where}"


def rows_per_slice(columns: int, written: int = 0) -> int:
    """The number of rows of a slice, given the number of columns that are read and written."""
    read = READ_BYTES // (8 * max(columns, 1))
    return max(1, min(read, WRITTEN_BYTES // (8 * written)) if written else read)


def slices_of_blocks(path: str, blocks: Sequence[int], rows: int, first_row: int) -> Iterator[Slice]:
    """Slices of about `rows` rows: whole blocks, whose numbers of rows are given, and pieces of larger blocks."""
    start = count = 0
    for i, size in enumerate(blocks):
        count += size
        if count < rows and i + 1 < len(blocks):
            continue
        if start == i:
            yield from _divided(path, i, size, rows, first_row)
        else:
            yield Slice(path, start, i + 1, first_row, count)
        first_row, start, count = first_row + count, i + 1, 0


def _divided(path: str, block: int, size: int, rows: int, first_row: int) -> Iterator[Slice]:
    pieces = max(1, min(_MOST_PIECES, round(size / rows)))
    bounds = [size * k // pieces for k in range(pieces + 1)]
    for skip, end in itertools.pairwise(bounds):
        take = None if pieces == 1 else end - skip
        yield Slice(path, block, block + 1, first_row + skip, end - skip, skip, take)
