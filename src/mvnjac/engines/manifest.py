"""The manifest of a folder of parts, and the records of the parts that are complete.

`_manifest.json` describes the job: the files of the input, the model, the columns, and the number of units. Complete parts
are recorded, several parts per file: rows, sizes and checksums in `_records-*.jsonl`, sums in `_sums-*.bin`. When all parts
are complete, the manifest contains the checksums of these files. Recorded parts are complete; other parts are computed again.
Only names and sizes are held in memory. A pass without parts is recorded in the same way (`checkpoint.py`).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mvnjac.engines.folder import Folder
from mvnjac.engines.job import File, Result
from mvnjac.errors import MvnjacError, TableError, UsageError
from mvnjac.statistics.serialization import packed, unpacked
from mvnjac.tables.storage import child, entries, entry

MANIFEST, RECORDS, SUMS = "_manifest.json", "_records-", "_sums-"
#: the key in a manifest's description of a folder of passes, each with a manifest in a subfolder
PASSES = "passes"
_FORMAT = 1
#: seconds between two files of records
_PAUSE = 1.0


class Journal:
    """The records of a running job. `about` describes the job as JSON; a resumed job must have the same description."""

    def __init__(self, folder: Folder, about: Mapping[str, Any], units: int) -> None:
        self._folder, self._about, self._units = folder, dict(about), units
        self._pending: list[Result] = []
        self._saved, self._digests, self._seen = time.monotonic(), dict[str, str](), set[int]()

    def begin(self) -> None:
        """Start a new job; the folder must not contain an earlier output."""
        self._folder.make()
        self._write_manifest({"state": "running"})

    def describes_folder(self) -> bool:
        """Whether the folder contains this job, complete or not."""
        if not has_manifest(self._folder):
            return False
        found = read_manifest(self._folder)
        return found["units"] == self._units and found["about"] == json.loads(json.dumps(self._about))

    def resume(self) -> Iterator[Result]:
        """The results of the parts that are complete.

        Raises:
            UsageError: the folder is that of another job: another input, model, or question.
        """
        found = read_manifest(self._folder)
        _require_same(self._folder.path, found["about"], self._about)
        sizes = self._folder.sizes()
        self._digests = {name: self._folder.digest(name) for name in record_files(sizes)}
        self._digests |= {name: self._folder.digest(name) for name in map(_sums_file, record_files(sizes))}
        return self._complete_results(sizes)

    def _complete_results(self, sizes: Mapping[str, int]) -> Iterator[Result]:
        for name in record_files(self._digests):
            sums = self._folder.read(_sums_file(name))
            for record in records(self._folder, [name], self._seen):
                if all(sizes.get(file["name"]) == file["size"] for file in record["files"]):
                    yield _result(record, sums)
                else:
                    self._seen.discard(record["unit"])  # a later record may have a complete part

    def record(self, result: Result) -> None:
        """Record a complete part; records are saved about once a second."""
        self._pending.append(result)
        if time.monotonic() - self._saved > _PAUSE:
            self.save()

    def save(self) -> None:
        """Write all pending records."""
        if self._pending:
            sums, lines, first = [packed(result.sums) for result in self._pending], list[str](), 0
            for result, content in zip(self._pending, sums, strict=True):
                lines.append(json.dumps(_record(result, first, len(content))) + "\n")
                first += len(content)
            name = f"{RECORDS}{len(self._digests) // 2:06d}.jsonl"
            for file, content in ((_sums_file(name), b"".join(sums)), (name, "".join(lines).encode())):  # the records last
                self._digests[file] = self._folder.write(file, content).sha256
            self._pending = []
        self._saved = time.monotonic()

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Save all records if the block ends with an error or an interruption, and remove incomplete files in any case."""
        try:
            yield
        except BaseException:
            self.save()
            raise
        finally:
            self._folder.tidy()

    def complete(self, summary: Mapping[str, Any]) -> None:
        """Save all records and mark the job as complete."""
        self.save()
        self._write_manifest({"state": "complete", **summary, "records": self._digests})

    def _write_manifest(self, more: Mapping[str, Any]) -> None:
        content = {"format": _FORMAT, **more, "units": self._units, "about": self._about}
        self._folder.write(MANIFEST, (json.dumps(content, indent=1) + "\n").encode())


def has_manifest(folder: Folder) -> bool:
    """Whether a folder contains a manifest."""
    return MANIFEST in folder.sizes()


def claim_folder(output: str, resume: bool, force: bool) -> Folder:
    """The output folder, if it may be written to.

    Raises:
        UsageError: the folder contains other files, or an output without `resume` or `force`; or there is nothing to resume.
    """
    folder = Folder(output)
    found = entry(output)
    if resume:
        if found is None or not has_manifest(folder):
            raise UsageError(f"{output}: there is nothing to resume; leave out --resume.")
        return folder
    if found is not None and not found.folder:
        raise UsageError(f"{output}: is a file; expected a folder, or a file name with the suffix of a format.")
    names = [] if found is None else [each.name for each in entries(output) if not each.name.startswith(".")]
    if names and not has_manifest(folder):
        raise UsageError(f"{output}: contains {names[0]!r}, which mvnjac has not written; choose another folder.")
    if names and not force:
        raise UsageError(f"{output}: exists already; --resume continues it, --force replaces it.")
    return folder


def remove_output(folder: Folder) -> None:
    """Remove an earlier output, its manifest first, so that a partly removed output is never taken for a complete one."""
    sizes = folder.sizes()
    for name in sorted(sizes, key=lambda name: name != MANIFEST):
        if name.startswith(("_manifest", "_records", "_sums", "_totals", "part-")):
            folder.remove(name)
    for name in pass_folders(folder):
        remove_output(Folder(child(folder.path, name)))


def pass_name(number: int) -> str:
    """The name of the folder of a pass, numbered from 1."""
    return f"pass-{number:03d}"


def pass_folders(folder: Folder) -> list[str]:
    """The names of the folders of passes, looked up one by one, because some object storage does not list subfolders."""
    names = list[str]()
    while has_manifest(Folder(child(folder.path, name := pass_name(len(names) + 1)))):
        names.append(name)
    return names


def read_manifest(folder: Folder) -> dict[str, Any]:
    """The content of a folder's manifest.

    Raises:
        TableError: there is no manifest, or it cannot be read.
    """
    folder.require_folder()
    if not has_manifest(folder):
        raise TableError(f"{folder.path}: has no {MANIFEST}; mvnjac has not written this folder.")
    try:
        content: dict[str, Any] = json.loads(folder.read(MANIFEST))
        if content["format"] != _FORMAT:
            raise TableError(f"{folder.path}: has format {content['format']}; this version of mvnjac reads format {_FORMAT}.")
    except (ValueError, KeyError, TypeError) as error:
        raise TableError(f"{folder.path}: {MANIFEST} is damaged ({error}).") from error
    return content


def record_files(names: Iterable[str]) -> list[str]:
    """Those of the file names that are files of records, in order."""
    return sorted(name for name in names if name.startswith(RECORDS))


def records(folder: Folder, names: Iterable[str], seen: set[int]) -> Iterator[dict[str, Any]]:
    """The records in these files of units that are not in `seen`, to which they are added."""
    for name in names:
        for line in folder.lines(name):
            record = json.loads(line)
            if record["unit"] not in seen:
                seen.add(record["unit"])
                yield record


def _require_same(path: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if before == json.loads(json.dumps(now)):
        return
    for key in {**before, **now}:
        if key != "input" and before.get(key) != json.loads(json.dumps(now.get(key))):
            raise UsageError(
                f"{path}: was started with another {key} ({_abbreviated(before.get(key))} then, {_abbreviated(now.get(key))} now); "
                "--resume needs the same one, --force starts again."
            )
    files_before, files_now = ({file["path"]: file for file in about["input"]} for about in (before, now))
    changed = next(name for name in {**files_before, **files_now} if files_before.get(name) != files_now.get(name))
    what = "was not read before" if changed not in files_before else "is missing" if changed not in files_now else "has changed"
    raise UsageError(f"{path}: the input {changed} {what}; --force starts again.")


def _abbreviated(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else text[:57] + "…"


def _sums_file(name: str) -> str:
    return name.replace(RECORDS, SUMS).replace(".jsonl", ".bin")


def _record(result: Result, first: int, length: int) -> dict[str, Any]:
    files = [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in result.files]
    return {"unit": result.number, "rows": result.rows, "files": files, "sums": [first, length]}


def _result(record: Mapping[str, Any], sums: bytes) -> Result:
    try:
        files, (first, length) = tuple(File(**file) for file in record["files"]), record["sums"]
        return Result(record["unit"], record["rows"], unpacked(sums[first : first + length]), files)
    except (KeyError, TypeError, ValueError) as error:
        raise MvnjacError(f"the record of unit {record.get('unit')} is damaged ({error}); --force starts again.") from error
