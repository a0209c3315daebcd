"""A folder of text tables, which are read in the order of their names as one table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from mvnjac.errors import TableError
from mvnjac.tables.columns import is_numeric
from mvnjac.tables.reading import ReadOptions
from mvnjac.tables.slices import Slice
from mvnjac.tables.source import Source
from mvnjac.tables.storage import entries
from mvnjac.tables.text.source import TextSource


class TextFolder(Source):
    """All visible files of a folder, which are text tables with the same columns.

    Args:
        path: the folder.
        suffixes: those of text tables.
        options: how the files are read; what is detected in the first file applies to all.
        open_file: opens one of the files.
    """

    def __init__(
        self, path: Path, suffixes: tuple[str, ...], options: ReadOptions, open_file: Callable[[Path, ReadOptions], TextSource]
    ) -> None:
        self.path = path
        files = _files(path, suffixes)
        first = open_file(files[0], options)
        options = first.settled()
        self._parts = [first, *(open_file(file, options) for file in files[1:])]
        for part in self._parts[1:]:
            if part.names != first.names:
                name = next(
                    (name for name in [*part.names, *first.names] if (name in part.names) != (name in first.names)), None
                )
                what = "has the columns in another order" if name is None else f"differs in the column {name!r}"
                raise TableError(f"{part.path}: {what} from {files[0].name}; all files of a table need the same header.")
        self.schema = self._common_schema()

    def _common_schema(self) -> pa.Schema:
        """The types of the first file in which a column has values; numbers are float64.

        Raises:
            TableError: a column has another type in another file.
        """
        fields = []
        for name in self._parts[0].names:
            kinds = [(part, part.schema.field(name).type) for part in self._parts if part.names.count(name) == 1]
            known = [(part, kind) for part, kind in kinds if not pa.types.is_null(kind)]
            kind = known[0][1] if known else pa.null()
            for part, other in known:
                if other != kind and not (is_numeric(other) and is_numeric(kind)):
                    mismatch = f"{part.path}: column {name!r} is {other} here and {kind} in {known[0][0].path.name}."
                    reasons = [f"{each.path}: {why}" for each, _ in known if (why := each.not_numeric(name))]
                    raise TableError(reasons[0] if reasons else mismatch)
            mixed = any(other != kind for _, other in known)
            fields.append((name, pa.float64() if mixed else kind))
        return pa.schema(fields)

    def inputs(self) -> list[str]:
        return [str(part.path) for part in self._parts]

    def use_index(self, index: str | None) -> None:
        self.index = index
        for part in self._parts:
            part.use_index(index)
        self.schema = self._common_schema()

    def recognised_index(self, columns: Sequence[str] | None) -> str | None:
        first = self._parts[0]
        first.excluded = self.excluded
        return first.recognised_index(columns)

    def settled(self) -> ReadOptions:
        return self._parts[0].settled()

    def variables(self, columns: Sequence[str] | None, index: str | None) -> list[str]:
        self._parts[0].check_header()
        return super().variables(columns, index)

    def not_numeric(self, name: str) -> str | None:
        return next((f"{part.path.name}: {reason}" for part in self._parts if (reason := part.not_numeric(name))), None)

    def slices(self, rows: int) -> list[Slice]:
        found = [at for part in self._parts for at in part.slices(rows)]
        if len(self._parts) == 1:
            return found
        # Rows before a slice are counted only if a message needs their number.
        return [dataclasses.replace(at, row=None) for at in found]

    def rows_before(self, at: Slice) -> int:
        """The rows of the file before the slice: messages name the file."""
        return self._part(at).rows_before(at)

    def batches(self, columns: Sequence[str], at: Slice | None = None) -> Iterator[pa.RecordBatch]:
        for part, where in [(part, None) for part in self._parts] if at is None else [(self._part(at), at)]:
            yield from part.batches(columns, where)

    def _part(self, at: Slice) -> TextSource:
        return next(part for part in self._parts if str(part.path) == at.path)


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    visible = [each for each in entries(folder) if not each.name.startswith((".", "_"))]
    other = [each.name for each in visible if each.folder or not each.name.lower().endswith(suffixes)]
    if other:
        raise TableError(f"{folder}: holds {other[0]!r} besides text tables; a folder of a table holds its files only.")
    return [Path(each.path) for each in visible]
