"""Slices of a table: what one unit of work reads. How a table is cut depends on the table alone, never on who reads it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

#: About how many bytes of float64 one unit of work reads, or writes: enough that starting it costs nothing beside it.
READ_BYTES, WRITTEN_BYTES = 64 * 2**20, 256 * 2**20
#: A block of rows that is stored together (a row group) is read from its start: into more slices than this it is not cut.
_MOST_CUTS = 8


@dataclass(frozen=True)
class Slice:
    """Some consecutive rows of one file.

    Attributes:
        path: the file.
        first, last: blocks of it, in the format's own unit (row groups, record batches, rows, bytes); last is not included, and
            None where the file is read to its end.
        row: how many rows of the table come before, None where that is not known.
        rows: how many it has, None where that is not known.
        skip, take: of the rows of these blocks only `take`, after the first `skip`; None: all the rest.
    """

    path: str
    first: int = 0
    last: int | None = None
    row: int | None = 0
    rows: int | None = None
    skip: int = 0
    take: int | None = None

    def __str__(self) -> str:
        where = "" if self.row is None or self.rows is None else f", rows {self.row + 1} to {self.row + self.rows}"
        return f"{self.path}{where}"


def rows_of(columns: int, written: int = 0) -> int:
    """How many rows make a slice: of so many columns that are read, and so many that are written for them."""
    read = READ_BYTES // (8 * max(columns, 1))
    return max(1, min(read, WRITTEN_BYTES // (8 * written)) if written else read)


def of_blocks(path: str, blocks: Sequence[int], rows: int, first_row: int) -> Iterator[Slice]:
    """Slices of about so many rows: whole blocks of these numbers of rows, and pieces of those that are larger."""
    start = begun = 0
    for i, size in enumerate(blocks):
        begun += size
        if begun < rows and i + 1 < len(blocks):
            continue
        if start == i:
            yield from _cut(path, i, size, rows, first_row)
        else:
            yield Slice(path, start, i + 1, first_row, begun)
        first_row, start, begun = first_row + begun, i + 1, 0


def _cut(path: str, block: int, size: int, rows: int, first_row: int) -> Iterator[Slice]:
    pieces = max(1, min(_MOST_CUTS, round(size / rows)))
    bounds = [size * k // pieces for k in range(pieces + 1)]
    for skip, end in itertools.pairwise(bounds):
        take = None if pieces == 1 else end - skip
        yield Slice(path, block, block + 1, first_row + skip, end - skip, skip, take)
