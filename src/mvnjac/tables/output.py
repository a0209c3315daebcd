"""Output files are written under a temporary name and renamed when complete: they are complete or absent."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from mvnjac.errors import TableError, UsageError
from mvnjac.tables.base import Sink, TableFormat, format_of, is_folder_format
from mvnjac.tables.formats.csv import CsvSink
from mvnjac.tables.storage import is_remote


def is_folder(output: str) -> bool:
    """Whether an output is a folder of parts: an address, a name without a suffix, or a folder that is not a table."""
    path = Path(output)
    if is_remote(output):
        return True
    return path.suffix == "" or output.endswith("/") or (path.is_dir() and not is_folder_format(path))


def check_output(path: Path | None, force: bool, inputs: Sequence[str | Path | None] = (), permission: str = "--force") -> None:
    """Check, before any work is done, that an output can be written.

    Args:
        path: the output; None: standard output.
        force: whether an existing file may be replaced.
        inputs: files that must not be overwritten, even with `force`.
        permission: the option that permits replacing a file, for the message.

    Raises:
        UsageError: the output, or a file that belongs to it, exists already; or it is one of the inputs.
        TableError: its folder does not exist or is not writable.
    """
    if path is None:
        return
    for each in inputs:
        given = None if each is None or is_remote(each) else Path(each)
        if given is not None and given.exists() and path.resolve() in (given.resolve(), *map(Path.resolve, _parts_of(given))):
            raise UsageError(f"{path}: is an input of this command; choose another output.")
    if path.is_dir() and not is_folder_format(path):
        raise TableError(f"{path}: is a folder; expected a file name.")
    if path.exists() and not force:
        raise UsageError(f"{path}: exists already; pass {permission} to replace it.")
    for companion in companions_of(path):
        if companion.exists() and not force:
            raise UsageError(f"{companion}: exists already, and belongs to {path.name}; pass {permission} to replace it.")
    folder = path.parent
    if not folder.is_dir():
        raise TableError(f"{path}: the folder {folder} does not exist.")
    if not os.access(folder, os.W_OK):
        raise TableError(f"{path}: the folder {folder} is not writable.")


@contextlib.contextmanager
def open_sink(path: Path | None, schema: pa.Schema) -> Iterator[Sink]:
    """A sink for an output file, which exists only if the block ends without an error; None: CSV to standard output."""
    if path is None:
        sink: Sink = CsvSink(sys.stdout.buffer, schema)
        yield sink
        sink.close()
        return
    table_format = format_of(path)
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        try:
            sink = table_format.sink(temporary, schema)
            yield sink
            sink.close()
            _replace(table_format, temporary, path)
        except OSError as error:
            raise TableError(f"{path}: cannot be written ({error.strerror or error}).") from error
    finally:
        for leftover in [temporary, *table_format.companions(temporary)]:
            _remove(leftover)


def name_beside(data: str, ending: str) -> Path:
    """The default name of an output: that of the table without its suffix, with another ending, in the current folder.

    Args:
        data: the path or the address of the table.
        ending: such as ".report.html".
    """
    name = data.partition("?")[0].rstrip("/").rpartition("/")[2] if is_remote(data) else Path(os.path.abspath(data)).name
    try:
        suffixes = format_of(name).suffixes
    except UsageError:  # a folder of Parquet files, whose name has any suffix or none
        suffixes = ()
    longest = max((suffix for suffix in suffixes if name.lower().endswith(suffix)), key=len, default="")
    return Path((name.removesuffix(name[len(name) - len(longest) :]) or "data") + ending)


def write_text(path: Path, text: str) -> None:
    """Write a small text file, which is complete or absent."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to. It is renamed to `path` if the block ends without an error, and removed otherwise."""
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield temporary
        with temporary.open("rb+") as file:  # Windows flushes only files that are open for writing
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise TableError(f"{path}: cannot be written ({error.strerror or error}).") from error
    finally:
        temporary.unlink(missing_ok=True)


def _replace(table_format: TableFormat, temporary: Path, path: Path) -> None:
    """Flush all files of a table to the disk and rename them, the table itself last."""
    pairs = [*zip(table_format.companions(temporary), table_format.companions(path), strict=True), (temporary, path)]
    for old, new in pairs:
        if not old.exists():
            _remove(new)  # left by the table that is being replaced
            continue
        for file in [old] if old.is_file() else old.rglob("*"):
            if file.is_file():
                with file.open("rb+") as opened:
                    os.fsync(opened.fileno())
        if new.is_dir():  # os.replace does not replace a folder that is not empty
            _remove(new)
        os.replace(old, new)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _parts_of(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.is_dir() else []


def companions_of(path: Path) -> list[Path]:
    """The files that belong to a table and lie beside it."""
    try:
        return format_of(path).companions(path)
    except UsageError:  # not a table, but a report, for example
        return []
