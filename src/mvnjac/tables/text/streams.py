"""The bytes of a text table: decompressed, without comments, from the first line of the data or from a slice of it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from mvnjac.errors import TableError
from mvnjac.tables.reading import ReadOptions

#: the compression of a file, by the end of its name; ".zip" is an archive of one file
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
ARCHIVE = ".zip"
#: the suffixes of text tables, without compression
PLAIN = (".csv", ".tsv", ".txt")
UTF8_MARK = b"\xef\xbb\xbf"
_CHUNK = 2**20
#: encodings in which the meaning of a byte depends on those before, so that a file cannot be read from its middle
_STATEFUL = ("utf-7", "hz", "iso2022")


def is_divisible(path: Path, options: ReadOptions) -> bool:
    """Whether the file can be read from any line: it is neither compressed nor in an encoding such as UTF-16."""
    return not path.name.lower().endswith((*COMPRESSIONS, ARCHIVE)) and has_plain_lines(options.encoding)


def has_plain_lines(encoding: str) -> bool:
    """Whether lines end with the byte of "\\n" in this encoding, and ASCII is itself."""
    ascii_text = "\n\r,;\t|0aZ"
    return ascii_text.encode(encoding) == ascii_text.encode() and not encoding.startswith(_STATEFUL)


def open_lines(path: Path, options: ReadOptions) -> Any:
    """All bytes of the file from its start, decompressed; as UTF-8 if its encoding has no plain lines."""
    stream = _decompressed(path)
    return stream if has_plain_lines(options.encoding) else pa.transcoding_input_stream(stream, options.encoding, "utf8")


def encoding_of_lines(options: ReadOptions) -> str:
    """The encoding of `open_lines`."""
    return options.encoding if has_plain_lines(options.encoding) else "utf-8"


def open_data(path: Path, options: ReadOptions, first: int, last: int | None = None) -> Any:
    """The lines from byte `first` of `open_lines`, to byte `last` of a divisible file; without comments."""
    if is_divisible(path, options):
        file = pa.OSFile(str(path))
        stream = file.get_stream(first, max(0, (file.size() if last is None else last) - first))
    else:
        stream = open_lines(path, options)
        skip(stream, first)
    return stream if options.comment is None else without_comments(stream, options)


def skip(stream: Any, count: int) -> None:
    """Read and discard bytes."""
    while count > 0 and (found := stream.read(min(count, _CHUNK))):
        count -= len(found)


def lines_of(stream: Any) -> Iterator[bytes]:
    """The lines of a stream, with their ends."""
    rest = b""
    while chunk := stream.read(_CHUNK):
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            yield line + b"\n"
    if rest:
        yield rest


def is_blank(line: bytes) -> bool:
    """Whether a line is empty; such lines are no rows."""
    return not line.strip(b"\r\n")


def comment_bytes(options: ReadOptions) -> bytes | None:
    """What comments begin with, in the encoding of the lines."""
    return None if options.comment is None else options.comment.encode(encoding_of_lines(options))


def is_comment(line: bytes, comment: bytes | None) -> bool:
    """Whether a whole line is a comment."""
    return comment is not None and line.lstrip(b" ").startswith(comment)


def without_comments(stream: Any, options: ReadOptions) -> Any:
    """A stream of the lines that are no comments."""
    return pa.PythonFile(_Uncommented(stream, comment_bytes(options) or b""), mode="r")


class _Uncommented(io.RawIOBase):
    """Leaves out the comment lines of a stream."""

    def __init__(self, stream: Any, comment: bytes) -> None:
        self._stream, self._comment, self._rest, self._ready = stream, comment, b"", b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; all that remain if it is negative. Empty at the end."""
        while (size < 0 or len(self._ready) < size) and self._fill():
            pass
        count = len(self._ready) if size < 0 else size
        found, self._ready = self._ready[:count], self._ready[count:]
        return found

    def _fill(self) -> bool:
        """Append the lines of the next chunk; False at the end of the stream."""
        chunk = self._stream.read(_CHUNK)
        text = self._rest + chunk
        if not text:
            return False
        *complete, self._rest = text.split(b"\n") if chunk else [*text.split(b"\n"), b""]
        end = b"\n" if chunk else b""
        self._ready += b"".join(line + end for line in complete if not is_comment(line, self._comment))
        return True


def _decompressed(path: Path) -> Any:
    name = path.name.lower()
    if name.endswith(ARCHIVE):
        return pa.PythonFile(cast(Any, _only_member(path)), mode="r")
    compression = next((kind for suffix, kind in COMPRESSIONS.items() if name.endswith(suffix)), None)
    return pa.input_stream(str(path), compression=compression)


def _only_member(path: Path) -> BinaryIO:
    """The text table in an archive.

    Raises:
        TableError: the archive is damaged or encrypted, or does not hold exactly one file.
    """
    try:
        archive = zipfile.ZipFile(path)
        members = [each for each in archive.infolist() if not each.is_dir() and not each.filename.startswith("__MACOSX/")]
        if len(members) != 1:
            names = ", ".join(each.filename for each in members[:5])
            raise TableError(
                f"{path}: the archive holds {len(members)} files ({names}); expected one. Unpack it, and name the file."
                if members
                else f"{path}: the archive is empty."
            )
        if not members[0].filename.lower().endswith(PLAIN):
            raise TableError(f"{path}: holds {members[0].filename!r}; expected a text table ({', '.join(PLAIN)}). Unpack it.")
        return cast(BinaryIO, archive.open(members[0]))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:  # damaged, of a rare kind, encrypted
        raise TableError(f"{path}: the archive cannot be read ({error}); unpack it, and name the file.") from error
