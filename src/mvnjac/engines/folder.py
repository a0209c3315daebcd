"""A folder of output files, on this machine or in object storage, in which every file is complete.

A file is written under a temporary name, flushed to the disk, and renamed; in object storage it appears when its upload is
complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mvnjac.engines.job import File
from mvnjac.errors import TableError
from mvnjac.tables.storage import child, entries, entry, filesystem, is_remote

#: prefix of the names of incomplete files and folders
UNFINISHED = ".writing-"
_CHUNK = 2**22


class Folder:
    """A folder, by its path or address; it may not exist yet."""

    def __init__(self, path: str) -> None:
        self.path, self._remote = path, is_remote(path)

    def make(self) -> None:
        """Create the folder if it does not exist; object storage needs no folders.

        Raises:
            TableError: the folder cannot be created, or is not writable.
        """
        if self._remote:
            return
        try:
            Path(self.path).mkdir(exist_ok=True)
        except OSError as error:
            raise TableError(f"{self.path}: the folder cannot be created ({error.strerror or error}).") from error
        if not os.access(self.path, os.W_OK):
            raise TableError(f"{self.path or repr('')}: the folder is not writable.")

    def require_folder(self) -> None:
        """Raise an error if this is not a folder.

        Raises:
            TableError: it does not exist, or is a file.
        """
        found = entry(self.path) if self.path else None
        if found is None and not self._remote:
            raise TableError(f"{self.path!r}: there is no such folder.")
        if found is not None and not found.folder:
            raise TableError(f"{self.path}: is a file; expected a folder of parts, or a folder of --keep.")

    def sizes(self) -> dict[str, int]:
        """The size of each file, by name."""
        if entry(self.path) is None:
            return {}
        return {each.name: each.size for each in entries(self.path) if not each.folder}

    @contextlib.contextmanager
    def writing(self, files: list[File]) -> Iterator[Path]:
        """A temporary folder on this machine, whose files are moved to this folder at the end and appended to `files`."""
        inside = None if self._remote else self.path
        name = f"{UNFINISHED}{secrets.token_hex(4)}-"
        try:
            with tempfile.TemporaryDirectory(prefix=name, dir=inside, ignore_cleanup_errors=True) as temporary:
                yield Path(temporary)
                for path in sorted(Path(temporary).iterdir()):
                    files.append(File(path.name, path.stat().st_size, _digest(path)))
                    self._publish(path)
                self._flush_names()
        except OSError as error:
            raise TableError(f"{self.path}: cannot be written ({error.strerror or error}).") from error

    def write(self, name: str, content: bytes) -> File:
        """Write a small file."""
        files: list[File] = []
        with self.writing(files) as temporary:
            (temporary / name).write_bytes(content)
        return files[0]

    def read(self, name: str) -> bytes:
        """The content of a small file."""
        with self._open(name) as stream:
            return stream.read()

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of a file, which may be large."""
        rest = b""
        with self._open(name) as stream:
            while chunk := stream.read(_CHUNK):
                *complete, rest = (rest + chunk).split(b"\n")
                yield from complete
        if rest:
            yield rest

    def digest(self, name: str) -> str:
        """The SHA-256 of a file."""
        sha = hashlib.sha256()
        with self._open(name) as stream:
            while chunk := stream.read(_CHUNK):
                sha.update(chunk)
        return sha.hexdigest()

    def remove(self, name: str) -> None:
        """Delete a file."""
        if self._remote:
            system, path = filesystem(child(self.path, name))
            system.delete_file(path)
        else:
            (Path(self.path) / name).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove the incomplete files of workers that died."""
        if not self._remote and Path(self.path).is_dir():
            for left in Path(self.path).glob(f"{UNFINISHED}*"):
                shutil.rmtree(left, ignore_errors=True)

    def _open(self, name: str) -> Any:
        if not self._remote:
            return (Path(self.path) / name).open("rb")
        system, path = filesystem(child(self.path, name))
        return system.open_input_stream(path)

    def _publish(self, path: Path) -> None:
        if self._remote:
            system, there = filesystem(child(self.path, path.name))
            with path.open("rb") as source, system.open_output_stream(there) as sink:
                shutil.copyfileobj(source, sink, _CHUNK)
            return
        with path.open("rb+") as file:  # Windows flushes only files that are open for writing
            os.fsync(file.fileno())
        os.replace(path, Path(self.path) / path.name)

    def _flush_names(self) -> None:
        """Flush the folder itself, so that the names of its files are on the disk."""
        if self._remote or sys.platform == "win32":  # where a folder cannot be opened
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
