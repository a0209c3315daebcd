"""The manifest of a folder of parts: what it was made from, and which files it consists of.

`_manifest.json` says what the job is: the input's files, the model, the columns, how the input is cut. Each part that is complete
is recorded, with its rows, sizes, checksums and sums: in `_records-*.jsonl` while the job runs, some parts a file, and in one
`_records.jsonl` at the end, whose checksum the manifest then has. So what is recorded is complete, and what is not recorded is
done again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from mvnjac.engines.folder import Folder
from mvnjac.engines.unit import File, Result
from mvnjac.errors import MvnjacError, TableError, UsageError

MANIFEST, RECORDS = "_manifest.json", "_records.jsonl"
_FORMAT = 1
#: seconds between two files of records
_PAUSE = 1.0


class Journal:
    """The records of a job while it runs.

    about: what the job is, as JSON: a job that goes on must be about the same.
    """

    def __init__(self, folder: Folder, about: Mapping[str, Any], units: int) -> None:
        self._folder, self._about, self._units = folder, dict(about), units
        self._pending: list[Result] = []
        self._saved, self._files = time.monotonic(), 0

    def begin(self) -> None:
        """A new job in a folder that holds nothing of its like."""
        self._folder.make()
        self._write_manifest({"state": "running"})

    def resume(self) -> list[Result]:
        """The parts that are there already.

        Raises:
            UsageError: the folder is of another job: another input, model, or question.
        """
        held = read_manifest(self._folder)
        _require_same(self._folder.path, held["about"], self._about)
        sizes = self._folder.sizes()
        self._files = 1 + max((int(name[9:-6]) for name in sizes if name.startswith("_records-")), default=-1)
        known = {record["unit"]: record for record in _records(self._folder, sizes)}
        whole = [r for r in known.values() if all(sizes.get(f["name"]) == f["size"] for f in r["files"])]
        return [_result(record) for record in whole if record["unit"] < self._units]

    def record(self, result: Result) -> None:
        """A part is complete."""
        self._pending.append(result)
        if time.monotonic() - self._saved > _PAUSE:
            self.save()

    def save(self) -> None:
        """What is not on the disk yet."""
        if self._pending:
            lines = "".join(json.dumps(_record(result)) + "\n" for result in self._pending)
            self._folder.write(f"_records-{self._files:06d}.jsonl", lines.encode())
            self._files, self._pending = self._files + 1, []
        self._saved = time.monotonic()

    def complete(self, summary: Mapping[str, Any]) -> None:
        """All parts are there: the records become one file, and the manifest says so."""
        self.save()
        sizes = self._folder.sizes()
        known = {record["unit"]: record for record in _records(self._folder, sizes)}
        content = "".join(json.dumps(known[unit]) + "\n" for unit in sorted(known)).encode()
        self._folder.write(RECORDS, content)
        files = {file["name"] for record in known.values() for file in record["files"]}
        for name in sizes:  # of an earlier run of other slices, say
            if name not in files and name.startswith("part-"):
                self._folder.remove(name)
        self._write_manifest({"state": "complete", **summary, "records": hashlib.sha256(content).hexdigest()})
        for name in sizes:
            if name.startswith("_records-"):
                self._folder.remove(name)

    def _write_manifest(self, more: Mapping[str, Any]) -> None:
        content = {"format": _FORMAT, **more, "units": self._units, "about": self._about}
        self._folder.write(MANIFEST, (json.dumps(content, indent=1) + "\n").encode())


def is_output(folder: Folder) -> bool:
    """Whether a folder holds a manifest."""
    return MANIFEST in folder.sizes()


def clear(folder: Folder) -> None:
    """Remove an earlier output: what its manifest is, first of all, so that it is never taken for a whole one."""
    sizes = folder.sizes()
    for name in sorted(sizes, key=lambda name: name != MANIFEST):
        if name.startswith(("_manifest", "_records", "_totals", "part-")):
            folder.remove(name)


def read_manifest(folder: Folder) -> dict[str, Any]:
    """What a folder is.

    Raises:
        TableError: it has no manifest, or one that cannot be read.
    """
    if not is_output(folder):
        raise TableError(f"{folder.path}: has no {MANIFEST}; it is no folder of parts that mvnjac has written.")
    try:
        content: dict[str, Any] = json.loads(folder.read(MANIFEST))
        if content["format"] != _FORMAT:
            raise TableError(f"{folder.path}: is of format {content['format']}; this mvnjac writes and reads format {_FORMAT}.")
    except (ValueError, KeyError, TypeError) as error:
        raise TableError(f"{folder.path}: {MANIFEST} is damaged ({error}).") from error
    return content


def verify(path: str) -> tuple[dict[str, Any], list[str]]:
    """The manifest of a folder, and what is wrong with the folder: parts that are missing, truncated, changed, or not its own."""
    folder = Folder(path)
    manifest, sizes = read_manifest(folder), folder.sizes()
    if manifest.get("state") != "complete":
        known = {record["unit"] for record in _records(folder, sizes)}
        return manifest, [f"incomplete: {len(known)} of {manifest['units']} units are recorded; --resume goes on from there."]
    if RECORDS not in sizes:
        return manifest, [f"{RECORDS} is missing."]
    if folder.digest(RECORDS) != manifest["records"]:
        return manifest, [f"{RECORDS} was changed: its checksum is not that of the manifest."]
    records = list(_lines(folder, RECORDS))
    wrong = [] if [r["unit"] for r in records] == list(range(manifest["units"])) else [f"{RECORDS}: units are missing."]
    rows = sum(record["rows"] for record in records)
    if rows != manifest["rows"]:
        wrong.append(f"{RECORDS}: {rows} rows, but the manifest says {manifest['rows']}.")
    files = [File(**file) for record in records for file in record["files"]]
    wrong += [problem for file in files if (problem := _problem(folder, file, sizes.get(file.name))) is not None]
    own = {file.name for file in files}
    return manifest, wrong + [f"{name}: is no part of this output." for name in sizes if name not in own and _foreign(name)]


def _problem(folder: Folder, file: File, size: int | None) -> str | None:
    if size is None:
        return f"{file.name}: is missing."
    if size != file.size:
        return (
            f"{file.name}: has {size} bytes instead of {file.size}: it was {'truncated' if size < file.size else 'extended'}."
        )
    return None if folder.digest(file.name) == file.sha256 else f"{file.name}: was changed: its checksum is another."


def _foreign(name: str) -> bool:
    return not name.startswith(("_", "."))


def _require_same(path: str, held: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    if held == json.loads(json.dumps(asked)):
        return
    for key in {**held, **asked}:
        if key != "input" and held.get(key) != json.loads(json.dumps(asked.get(key))):
            raise UsageError(
                f"{path}: was begun with another {key} ({_short(held.get(key))} then, {_short(asked.get(key))} now); --resume goes "
                "on with the same one only, --force begins anew."
            )
    before = {file["path"]: file for file in held["input"]}
    now = {file["path"]: file for file in asked["input"]}
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    what = "is new" if changed[0] not in before else "is gone" if changed[0] not in now else "was changed since"
    raise UsageError(f"{path}: the input {changed[0]} {what}; --force begins anew.")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else text[:57] + "…"


def _records(folder: Folder, sizes: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    for name in sorted(sizes):
        if name.startswith("_records"):
            yield from _lines(folder, name)


def _lines(folder: Folder, name: str) -> Iterator[dict[str, Any]]:
    for line in folder.read(name).splitlines():
        yield json.loads(line)


def _record(result: Result) -> dict[str, Any]:
    from mvnjac.engines.sums_file import packed

    files = [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in result.files]
    sums = base64.b64encode(packed(result.sums)).decode()
    return {"unit": result.number, "rows": result.rows, "files": files, "sums": sums}


def _result(record: Mapping[str, Any]) -> Result:
    from mvnjac.engines.sums_file import unpacked

    try:
        files = tuple(File(**file) for file in record["files"])
        return Result(record["unit"], record["rows"], unpacked(base64.b64decode(record["sums"])), files)
    except (KeyError, TypeError, ValueError) as error:
        raise MvnjacError(f"the record of unit {record.get('unit')} is damaged ({error}).") from error
