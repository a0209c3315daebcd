"""The folder that parts are written to, here or in an object storage: every file in it is whole, or not there.

A file is written under another name, brought to the disk, and renamed; in an object storage it appears when its upload is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mvnjac.engines.job import File
from mvnjac.errors import TableError
from mvnjac.tables.storage import child, entries, entry, filesystem, is_remote

#: begins the name of what is not complete
UNFINISHED = ".writing-"
_CHUNK = 2**22


class Folder:
    """A folder by its path or address; it need not be there yet."""

    def __init__(self, path: str) -> None:
        self.path, self._remote = path, is_remote(path)

    def make(self) -> None:
        """Make it, if it is not there; an object storage has no folders to make.

        Raises:
            TableError: it cannot be made or written to.
        """
        if self._remote:
            return
        try:
            Path(self.path).mkdir(exist_ok=True)
        except OSError as error:
            raise TableError(f"{self.path}: the folder cannot be made ({error.strerror or error}).") from error
        if not os.access(self.path, os.W_OK):
            raise TableError(f"{self.path or repr('')}: the folder cannot be written to.")

    def require_folder(self) -> None:
        """Refuse what is there and is no folder.

        Raises:
            TableError: it is a file, or there is nothing.
        """
        there = entry(self.path) if self.path else None
        if there is None and not self._remote:
            raise TableError(f"{self.path!r}: there is no such folder.")
        if there is not None and not there.folder:
            raise TableError(f"{self.path}: is a file; name the folder that its parts, or the sums that were kept, are in.")

    def sizes(self) -> dict[str, int]:
        """Each file's size, by name."""
        if entry(self.path) is None:
            return {}
        return {each.name: each.size for each in entries(self.path) if not each.folder}

    @contextlib.contextmanager
    def writing(self, files: list[File]) -> Iterator[Path]:
        """A folder on this machine to write into; what is in it at the end becomes files here, in alphabetical order, and they are
        noted in `files`."""
        inside = None if self._remote else self.path
        name = f"{UNFINISHED}{secrets.token_hex(4)}-"
        try:
            with tempfile.TemporaryDirectory(prefix=name, dir=inside, ignore_cleanup_errors=True) as place:
                yield Path(place)
                for path in sorted(Path(place).iterdir()):
                    files.append(File(path.name, path.stat().st_size, _digest(path)))
                    self._publish(path)
                self._settle()
        except OSError as error:
            raise TableError(f"{self.path}: cannot be written ({error.strerror or error}).") from error

    def write(self, name: str, content: bytes) -> File:
        """A small file."""
        files: list[File] = []
        with self.writing(files) as place:
            (place / name).write_bytes(content)
        return files[0]

    def read(self, name: str) -> bytes:
        """A small file."""
        with self._open(name) as stream:
            return stream.read()

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of a file that may be large."""
        held = b""
        with self._open(name) as stream:
            while chunk := stream.read(_CHUNK):
                *whole, held = (held + chunk).split(b"\n")
                yield from whole
        if held:
            yield held

    def digest(self, name: str) -> str:
        """The SHA-256 of a file."""
        sha = hashlib.sha256()
        with self._open(name) as stream:
            while chunk := stream.read(_CHUNK):
                sha.update(chunk)
        return sha.hexdigest()

    def remove(self, name: str) -> None:
        """A file that must not be there."""
        if self._remote:
            system, path = filesystem(child(self.path, name))
            system.delete_file(path)
        else:
            (Path(self.path) / name).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove what a worker that died has left unfinished."""
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
        with path.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(path, Path(self.path) / path.name)

    def _settle(self) -> None:
        """The names reach the disk, too."""
        if self._remote:
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
