"""The layout of a text table: its separator, the names of its columns, and where its data begin."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mvnjac.errors import TableError, UsageError, counted
from mvnjac.tables.reading import ReadOptions
from mvnjac.tables.text.streams import (
    UTF8_MARK,
    comment_bytes,
    encoding_of_lines,
    is_blank,
    is_comment,
    lines_of,
    open_lines,
)

_CANDIDATES = (",", ";", "\t", "|")
#: lines that are read after the header to detect the separator, and the bytes after which no more are read
_SAMPLE_LINES, _SAMPLE_BYTES = 20, 2**22
#: a header does not consist of numbers
_NUMBER = re.compile(r"[-+]?\d*[.,]\d+([eE][-+]?\d+)?")
#: characters that comments begin with
_COMMENT_MARKS = ("#", "%", "!")
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True)
class Layout:
    """Where things are in a text table.

    Attributes:
        separator: the character between fields.
        names: the names of the columns; "" for a column without a name.
        start: the position of the first byte of the data.
        widest: the bytes of the longest of the first lines.
        index_named: whether a row of the header is empty but for its first field, which names the index.
    """

    separator: str
    names: list[str]
    start: int
    widest: int
    index_named: bool = False


def layout_of(path: Path, options: ReadOptions) -> Layout:
    """Read the first lines of a text table.

    Raises:
        TableError: the file is empty, its encoding is another, or its header consists of numbers.
    """
    header, sample, start = _first_lines(path, options)
    texts = [_decoded(path, line, options) for line in header]
    sampled = [line.decode(encoding_of_lines(options), errors="replace") for line in sample]
    if not header and not sample:
        raise TableError(f"{path}: is empty.")
    if any("\r" in text.strip("\r\n") for text in texts):
        raise TableError(f"{path}: its lines end with carriage returns alone; save the file with ordinary ends of lines.")
    try:
        separator = options.separator or _separator(texts, sampled, options)
        rows = list(csv.reader(texts, delimiter=separator))
        fields = [] if rows else next(csv.reader(sampled[:1], delimiter=separator))
    except csv.Error as error:
        raise TableError(f"{path}: the header cannot be divided into fields ({error}). Is it a text table?") from None
    if options.separator is None and len(texts) == 1 and max(map(len, rows)) == 1:
        _require_header(path, texts[0], sampled, options)
    names, index_named = joined_names(rows) if rows else ([str(i) for i in range(len(fields))], False)
    if rows and names and all(_NUMBER.fullmatch(name) for name in names):
        raise TableError(
            f"{path}: the first row {', '.join(names[:4])}, … is numbers; expected a header of column names. If there is none, "
            "use --header-rows 0."
        )
    return Layout(separator, names, start, max(map(len, [*header, *sample[:2]])), index_named)


def joined_names(rows: Sequence[Sequence[str]]) -> tuple[list[str], bool]:
    """The names of the columns from the rows of a header, joined by a space, and whether a row names the index only.

    Empty cells of the upper rows repeat the cell before, as in merged cells. A row that is the same in all columns is left out.
    If a row is empty after its first cell, this cell is the name of the index, and the first cells of other rows are names of
    the levels.
    """
    width = max(map(len, rows))
    cells = [[*(cell.strip() for cell in row), *[""] * (width - len(row))] for row in rows]
    if len(cells) == 1:
        return cells[0], False
    naming = next((row for row in cells if row[0] and not any(row[1:]) and width > 1), None)
    levels = [row for row in cells if row is not naming]
    filled = [_filled(row, i + 1 < len(levels)) for i, row in enumerate(levels)]
    first = 1 if naming is not None else 0
    varying = [row for row in filled if len(set(row[first:]) - ({""} if first == 0 else set())) > 1] or filled[-1:]
    names = [" ".join(cell for cell in column if cell) for column in zip(*varying, strict=True)]
    return [naming[0] if naming is not None else names[0], *names[1:]], naming is not None


def _filled(row: list[str], upper: bool) -> list[str]:
    """A row of an upper level, where an empty cell after the first column repeats the cell before."""
    found = list(row)
    for j in range(2, len(found)):
        if upper and not found[j]:
            found[j] = found[j - 1]
    return found


def _first_lines(path: Path, options: ReadOptions) -> tuple[list[bytes], list[bytes], int]:
    """The lines of the header, some lines of the data, and the position where the data begin."""
    header, sample, comment = list[bytes](), list[bytes](), comment_bytes(options)
    with open_lines(path, options) as stream:
        position = start = 0
        for number, line in enumerate(lines_of(stream)):
            if number == 0 and line.startswith(UTF8_MARK) and encoding_of_lines(options) == "utf-8":
                line, position = line[len(UTF8_MARK) :], len(UTF8_MARK)
                start = position
            position += len(line)
            if number < options.skip_rows:
                start = position
            elif is_blank(line) or is_comment(line, comment):
                continue
            elif not _is_complete(header, options):
                header.append(line)
                start = position
            else:
                sample.append(line)
                if len(sample) >= _SAMPLE_LINES or position - start > _SAMPLE_BYTES:
                    break
    if not header and not sample and options.skip_rows and position > 0:
        raise UsageError(f"--skip-rows {options.skip_rows}: {path} has no rows after these.")
    if len(header) < options.header_rows and header:
        raise UsageError(f"--header-rows {options.header_rows}: {path} has only {counted(len(header), 'row')}.")
    return header, sample, start


def _is_complete(header: Sequence[bytes], options: ReadOptions) -> bool:
    """Whether the header has all its rows; a quoted name may contain the end of a line."""
    return len(header) >= options.header_rows + _open_quotes(header)


def _open_quotes(lines: Sequence[bytes]) -> int:
    """The number of lines that end within quotes, and are continued by the next."""
    quotes = found = 0
    for line in lines:
        quotes += line.count(b'"')
        found += quotes % 2
    return found


def _decoded(path: Path, line: bytes, options: ReadOptions) -> str:
    encoding = encoding_of_lines(options)
    try:
        return line.decode(encoding)
    except UnicodeDecodeError:
        likely = _MARKS.get(line[:2], "latin-1 or cp1252")
        shown = "UTF-8" if encoding == "utf-8" else f"the encoding {encoding}"
        raise TableError(
            f"{path}: the header is not in {shown}; name the encoding of the file, such as --encoding {likely}."
        ) from None


def _separator(header: Sequence[str], sample: Sequence[str], options: ReadOptions) -> str:
    """The candidate that divides the header, and the lines below it into as many fields.

    If there is none, there is a single column, which a comma divides unless it is a decimal point.
    """
    lines = [*header, *sample]
    header_text = "".join(header or sample[:1])
    best, found = (0.0, 0), ";" if options.decimal == "," else ","
    for candidate in _CANDIDATES:
        if candidate not in header_text:
            continue
        try:
            widths = [len(row) for row in csv.reader(lines, delimiter=candidate)]
        except csv.Error:  # a field is too long: the lines are divided by another character
            continue
        if widths[0] < 2:
            continue
        agreeing = sum(width == widths[0] for width in widths) / len(widths)
        if (agreeing, widths[0]) > best:
            best, found = (agreeing, widths[0]), candidate
    return found


def _require_header(path: Path, line: str, sample: Sequence[str], options: ReadOptions) -> None:
    """Refuse a first line that is not divided into fields, above lines that are: a title or a comment."""
    shown = line.strip()[:60]
    mark = shown[:1] if shown[:1] in _COMMENT_MARKS else ""
    lines = [text for text in sample if not mark or not text.lstrip().startswith(mark)]
    for candidate in _CANDIDATES:
        if candidate == options.decimal or not lines:
            continue
        widths = {len(row) for row in csv.reader(lines[len(lines) // 2 :], delimiter=candidate)}
        if min(widths) > 1 and len(widths) == 1:
            hints = ["--skip-rows with the number of lines above the header"]
            hints += [f"--comment '{mark}'"] if mark else []
            hints += ["--decimal , if the commas are decimal points"] if candidate == "," else []
            raise TableError(
                f"{path}: the first line {shown!r} is not divided into fields, but lines below it are; use {', or '.join(hints)}."
            )
