"""Files on this machine or in object storage that pyarrow supports (s3://, gs://, abfss://, hdfs://)."""

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
    """A file or a folder: its path, its name, its size in bytes, and when it was changed, in nanoseconds."""

    path: str
    name: str
    folder: bool
    size: int
    changed: int


def is_remote(path: str | Path) -> bool:
    """Whether this is an address in object storage rather than a path."""
    return "://" in str(path)


def filesystem(uri: str) -> tuple[Any, str]:
    """pyarrow's file system for an address, and the path in it.

    Raises:
        TableError: pyarrow does not support the address.
    """
    try:
        system, path = fs.FileSystem.from_uri(uri)
    except MemoryError:  # pyarrow's MemoryError is an ArrowException too
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TableError(f"{uri}: cannot be reached ({error}).") from error
    return system, path


def open_file(path: str | Path) -> Any:
    """A seekable file in object storage; for a file on this machine its path, which the reader opens memory-mapped."""
    if not is_remote(path):
        return str(path)
    system, inner = filesystem(str(path))
    return system.open_input_file(inner)


def entry(path: str | Path) -> Entry | None:
    """The file or folder at a path; None if there is none."""
    if is_remote(path):
        system, inner = filesystem(str(path))
        return _remote(str(path), system.get_file_info(inner))
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise TableError(f"{str(path)!r}: is not a valid path ({reason}).") from error
    return Entry(str(path), Path(path).name, os.path.isdir(path), status.st_size, status.st_mtime_ns)


def entries(folder: str | Path) -> list[Entry]:
    """The files and folders in a folder, sorted by name."""
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
    """The path of a file in a folder; the options of an address, after its question mark, are preserved."""
    if not is_remote(folder):
        return str(Path(folder) / name)
    path, mark, options = str(folder).partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{options}"


def _remote(path: str, info: Any) -> Entry | None:
    if info.type == fs.FileType.NotFound:
        return None
    return Entry(path, info.base_name, info.type == fs.FileType.Directory, info.size or 0, info.mtime_ns or 0)
