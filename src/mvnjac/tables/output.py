"""Outputs are complete or absent: written under a temporary name, renamed when complete."""

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
from mvnjac.tables.base import Sink, sink_format
from mvnjac.tables.formats.csv import CsvSink
from mvnjac.tables.storage import is_remote

#: suffixes of formats that are folders themselves
_FOLDERS = (".zarr",)


def is_folder(output: str) -> bool:
    """Whether an output is a folder of parts: an address, a name without a suffix, or what is a folder already and no array."""
    path = Path(output)
    if is_remote(output):
        return True
    return path.suffix == "" or output.endswith("/") or (path.is_dir() and path.suffix not in _FOLDERS)


def check_output(path: Path | None, force: bool, inputs: Sequence[str | Path | None] = ()) -> None:
    """Before any work is done: can this output be written, and may it? Never over one of the inputs, forced or not.

    Raises:
        UsageError: it, or a file that belongs to it, exists and `force` was not given.
        TableError: its folder does not exist or cannot be written to.
    """
    if path is None:
        return
    for each in inputs:
        given = None if each is None or is_remote(each) else Path(each)
        if given is not None and given.exists() and path.resolve() in (given.resolve(), *map(Path.resolve, _parts_of(given))):
            raise UsageError(f"{path}: is an input of this very command; name another output.")
    if path.is_dir() and path.suffix not in _FOLDERS:
        raise TableError(f"{path}: is a folder; name a file.")
    if path.exists() and not force:
        raise UsageError(f"{path}: exists already; pass --force to replace it.")
    for companion in companions_of(path):
        if companion.exists() and not force:
            raise UsageError(f"{companion}: exists already, and belongs to {path.name}; pass --force to replace it.")
    folder = path.parent
    if not folder.is_dir():
        raise TableError(f"{path}: the folder {folder} does not exist.")
    if not os.access(folder, os.W_OK):
        raise TableError(f"{path}: the folder {folder} cannot be written to.")


@contextlib.contextmanager
def open_sink(path: Path | None, schema: pa.Schema) -> Iterator[Sink]:
    """A sink for the output, by its suffix; CSV to standard output without one. It exists only once the block is left well."""
    if path is None:
        sink: Sink = CsvSink(sys.stdout.buffer, schema)
        yield sink
        sink.close()
        return
    form = sink_format(path)
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        try:
            sink = form.open_sink(temporary, schema)
            yield sink
            sink.close()
            _replace(type(sink), temporary, path)
        except OSError as error:
            raise TableError(f"{path}: cannot be written ({error.strerror or error}).") from error
    finally:
        for leftover in [temporary, *sink_companions(form, temporary)]:
            _remove(leftover)


def write_text(path: Path, text: str) -> None:
    """A small text output, likewise."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write to; it becomes the path once the block is left well, and is gone otherwise."""
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise TableError(f"{path}: cannot be written ({error.strerror or error}).") from error
    finally:
        temporary.unlink(missing_ok=True)


def _replace(kind: type[Sink], temporary: Path, path: Path) -> None:
    """Everything reaches the disk before it gets its name; the table itself gets it last."""
    pairs = [*zip(kind.companions(temporary), kind.companions(path), strict=True), (temporary, path)]
    for old, new in pairs:
        if not old.exists():
            _remove(new)  # a companion of the table that is being replaced
            continue
        for file in [old] if old.is_file() else old.rglob("*"):
            if file.is_file():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
        if new.is_dir():  # a folder is replaced by nothing that is not one
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
    """The files that belong to a table, beside it."""
    try:
        return sink_companions(sink_format(path), path)
    except UsageError:  # no table: a report, say
        return []


def sink_companions(form: object, temporary: Path) -> list[Path]:
    """The companions that a format's sink may have left."""
    kinds = [value for value in vars(form).values() if isinstance(value, type) and issubclass(value, Sink)]
    return [path for kind in kinds for path in kind.companions(temporary)]
