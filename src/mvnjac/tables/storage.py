"""Where files lie: on this machine, or in an object storage that pyarrow knows (s3://, gs://, abfss://, hdfs://)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from mvnjac.errors import TableError


@dataclass(frozen=True)
class Entry:
    """A file or a folder: its full name, its last part, its size in bytes, when it was changed (nanoseconds)."""

    path: str
    name: str
    folder: bool
    size: int
    changed: int


def is_remote(path: str | Path) -> bool:
    """Whether this is the address of an object storage, not a path."""
    return "://" in str(path)


def filesystem(uri: str) -> tuple[Any, str]:
    """pyarrow's file system for an address, and the path in it.

    Raises:
        TableError: an address that pyarrow does not understand.
    """
    try:
        system, path = fs.FileSystem.from_uri(uri)
    except MemoryError:  # Arrow's is an ArrowException, too
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TableError(f"{uri}: cannot be reached ({error}).") from error
    return system, path


def open_file(path: str | Path) -> Any:
    """A file for reading at any place: a path is opened by whoever reads it, memory-mapped."""
    if not is_remote(path):
        return str(path)
    system, inner = filesystem(str(path))
    return system.open_input_file(inner)


def entry(path: str | Path) -> Entry | None:
    """What lies there; None where nothing does."""
    if is_remote(path):
        system, inner = filesystem(str(path))
        return _remote(str(path), system.get_file_info(inner))
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise TableError(f"{str(path)!r}: there can be no such file ({reason}).") from error
    return Entry(str(path), Path(path).name, os.path.isdir(path), status.st_size, status.st_mtime_ns)


def entries(folder: str | Path) -> list[Entry]:
    """What lies in a folder, by name."""
    if is_remote(folder):
        system, inner = filesystem(str(folder))
        found = [_remote(child(folder, info.base_name), info) for info in system.get_file_info(fs.FileSelector(inner))]
    else:
        try:
            found = [entry(path) for path in Path(folder).iterdir()]
        except OSError as error:
            raise TableError(f"{folder}: cannot be listed ({error.strerror or error}); name a folder.") from error
    return sorted((each for each in found if each is not None), key=lambda each: each.name)


def child(folder: str | Path, name: str) -> str:
    """The full name of a file in a folder; an address keeps its options, which stand behind a question mark."""
    if not is_remote(folder):
        return str(Path(folder) / name)
    path, mark, options = str(folder).partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{options}"


def _remote(path: str, info: Any) -> Entry | None:
    if info.type == fs.FileType.NotFound:
        return None
    return Entry(path, info.base_name, info.type == fs.FileType.Directory, info.size or 0, info.mtime_ns or 0)
