"""The manifest of a folder of parts: what it was made from, and which files it consists of.

`_manifest.json` says what the job is: the input's files, the model, the columns, how the input is cut. Each part that is complete
is recorded, some parts a file: its rows, sizes and checksums in `_records-*.jsonl`, its sums in `_sums-*.bin`; of these the manifest
has the checksums in the end. So what is recorded is complete, and what is not recorded is done again. Nothing here is held in memory
but names and sizes. A pass that writes no parts is recorded likewise (`checkpoint.py`).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mvnjac.engines.folder import Folder
from mvnjac.engines.job import File, Result
from mvnjac.errors import MvnjacError, TableError, UsageError, counted
from mvnjac.statistics.serialization import packed, unpacked
from mvnjac.tables.storage import child, entries, entry

MANIFEST, RECORDS, SUMS = "_manifest.json", "_records-", "_sums-"
#: in what a manifest is about: that there is one of each pass in a folder of its own
PASSES = "passes"
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
        self._saved, self._digests, self._seen = time.monotonic(), dict[str, str](), set[int]()

    def begin(self) -> None:
        """A new job in a folder that holds nothing of its like."""
        self._folder.make()
        self._write_manifest({"state": "running"})

    def goes_on(self) -> bool:
        """Whether the folder holds the same job, or its beginning."""
        if not is_output(self._folder):
            return False
        held = read_manifest(self._folder)
        return held["units"] == self._units and held["about"] == json.loads(json.dumps(self._about))

    def resume(self) -> Iterator[Result]:
        """The parts that are there already.

        Raises:
            UsageError: the folder is of another job: another input, model, or question.
        """
        held = read_manifest(self._folder)
        _require_same(self._folder.path, held["about"], self._about)
        sizes = self._folder.sizes()
        self._digests = {name: self._folder.digest(name) for name in _record_files(sizes)}
        self._digests |= {name: self._folder.digest(name) for name in map(_sums_of, _record_files(sizes))}
        return self._whole(sizes)

    def _whole(self, sizes: Mapping[str, int]) -> Iterator[Result]:
        for name in _record_files(self._digests):
            sums = self._folder.read(_sums_of(name))
            for record in _records(self._folder, [name], self._seen):
                if all(sizes.get(file["name"]) == file["size"] for file in record["files"]):
                    yield _result(record, sums)
                else:
                    self._seen.discard(record["unit"])  # a later record may be of a part that is whole

    def record(self, result: Result) -> None:
        """A part is complete."""
        self._pending.append(result)
        if time.monotonic() - self._saved > _PAUSE:
            self.save()

    def save(self) -> None:
        """What is not on the disk yet."""
        if self._pending:
            sums, lines, first = [packed(result.sums) for result in self._pending], list[str](), 0
            for result, content in zip(self._pending, sums, strict=True):
                lines.append(json.dumps(_record(result, first, len(content))) + "\n")
                first += len(content)
            name = f"{RECORDS}{len(self._digests) // 2:06d}.jsonl"
            for each, content in ((_sums_of(name), b"".join(sums)), (name, "".join(lines).encode())):  # the records last
                self._digests[each] = self._folder.write(each, content).sha256
            self._pending = []
        self._saved = time.monotonic()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Whatever ends the block: what was recorded in it is on the disk, and nothing unfinished is left."""
        try:
            yield
        except BaseException:
            self.save()
            raise
        finally:
            self._folder.tidy()

    def complete(self, summary: Mapping[str, Any]) -> None:
        """All parts are there, and the manifest says so."""
        self.save()
        self._write_manifest({"state": "complete", **summary, "records": self._digests})

    def _write_manifest(self, more: Mapping[str, Any]) -> None:
        content = {"format": _FORMAT, **more, "units": self._units, "about": self._about}
        self._folder.write(MANIFEST, (json.dumps(content, indent=1) + "\n").encode())


def is_output(folder: Folder) -> bool:
    """Whether a folder holds a manifest."""
    return MANIFEST in folder.sizes()


def claimed(output: str, resume: bool, force: bool) -> Folder:
    """The folder, if it may be written to.

    Raises:
        UsageError: it holds something else, or an output that is neither to be gone on with nor to be replaced.
    """
    folder = Folder(output)
    there = entry(output)
    if resume:
        if there is None or not is_output(folder):
            raise UsageError(f"{output}: there is nothing to resume; leave --resume out.")
        return folder
    if there is not None and not there.folder:
        raise UsageError(f"{output}: is a file; name a folder, or a file with a suffix that says its format.")
    held = [] if there is None else [each.name for each in entries(output) if not each.name.startswith(".")]
    if held and not is_output(folder):
        raise UsageError(f"{output}: holds {held[0]!r}, which mvnjac has not written; name another folder.")
    if held and not force:
        raise UsageError(f"{output}: exists already; --resume goes on with it, --force replaces it.")
    return folder


def clear(folder: Folder) -> None:
    """Remove an earlier output: what its manifest is, first of all, so that it is never taken for a whole one."""
    sizes = folder.sizes()
    for name in sorted(sizes, key=lambda name: name != MANIFEST):
        if name.startswith(("_manifest", "_records", "_sums", "_totals", "part-")):
            folder.remove(name)
    for name in passes(folder):
        clear(Folder(child(folder.path, name)))


def pass_name(number: int) -> str:
    """The folder of a pass, from 1."""
    return f"pass-{number:03d}"


def passes(folder: Folder) -> list[str]:
    """The folders of passes that are there, up to the first that is not. They are asked for by name: not every object storage lists
    a folder in a folder."""
    names = list[str]()
    while is_output(Folder(child(folder.path, name := pass_name(len(names) + 1)))):
        names.append(name)
    return names


def read_manifest(folder: Folder) -> dict[str, Any]:
    """What a folder is.

    Raises:
        TableError: it has no manifest, or one that cannot be read.
    """
    folder.require_folder()
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
    """The manifest of a folder, with `units` and `rows`, and what is wrong with the folder: parts that are missing, truncated, changed,
    or not its own."""
    folder = Folder(path)
    manifest, sizes = read_manifest(folder), folder.sizes()
    if manifest["about"].get(PASSES):
        return _verify_passes(folder, manifest)
    if manifest.get("state") != "complete":
        return manifest, [
            f"incomplete: {len(set(_units(folder)))} of {manifest['units']} units are recorded; --resume goes on from there."
        ]
    for name, digest in manifest["records"].items():
        if name not in sizes:
            return manifest, [f"{name}: is missing."]
        if folder.digest(name) != digest:
            return manifest, [f"{name}: was changed: its checksum is not that of the manifest."]
    wrong, own, units, rows = list[str](), set[str](), set[int](), 0
    for record in _records(folder, _record_files(manifest["records"]), set()):
        units.add(record["unit"])
        rows += record["rows"]
        for file in (File(**file) for file in record["files"]):
            own.add(file.name)
            wrong += _problems(folder, file, sizes.get(file.name))
    if units != set(range(manifest["units"])) or rows != manifest["rows"]:
        wrong.append(
            f"the records are of {counted(len(units), 'unit')} and {counted(rows, 'row')}; the manifest of "
            f"{manifest['units']} and {manifest['rows']}."
        )
    return manifest, wrong + [f"{name}: is no part of this output." for name in sizes if name not in own and _foreign(name)]


def _verify_passes(folder: Folder, manifest: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    there, units, rows = passes(folder), 0, 0
    asked = [pass_name(number + 1) for number in range(manifest.get("passes", len(there)))]
    wrong = [f"{name}: is no part of this output." for name in there if name not in asked]
    for name in asked:
        if not is_output(Folder(child(folder.path, name))):
            wrong.append(f"{name}: is missing.")
            continue
        held, problems = verify(child(folder.path, name))
        wrong += [f"{name}: {problem}" for problem in problems]
        units, rows = units + held["units"], held.get("rows", 0)
    if manifest["state"] != "complete" and not wrong:
        wrong.append("incomplete: --resume goes on from there.")
    return {**manifest, "units": units, "rows": rows}, wrong


def _units(folder: Folder) -> Iterator[int]:
    for record in _records(folder, _record_files(folder.sizes()), set()):
        yield record["unit"]


def _problems(folder: Folder, file: File, size: int | None) -> list[str]:
    if size is None:
        return [f"{file.name}: is missing."]
    if size != file.size:
        return [
            f"{file.name}: has {size} bytes instead of {file.size}: it was {'truncated' if size < file.size else 'extended'}."
        ]
    return [] if folder.digest(file.name) == file.sha256 else [f"{file.name}: was changed: its checksum is another."]


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
    what = (
        "was not read then" if changed[0] not in before else "is not read now" if changed[0] not in now else "was changed since"
    )
    raise UsageError(f"{path}: the input {changed[0]} {what}; --force begins anew.")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else text[:57] + "…"


def _record_files(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(RECORDS))


def _sums_of(name: str) -> str:
    return name.replace(RECORDS, SUMS).replace(".jsonl", ".bin")


def _records(folder: Folder, names: Iterable[str], seen: set[int]) -> Iterator[dict[str, Any]]:
    """The record of each unit that has not been seen; one that was done again says the same."""
    for name in names:
        for line in folder.lines(name):
            record = json.loads(line)
            if record["unit"] not in seen:
                seen.add(record["unit"])
                yield record


def _record(result: Result, first: int, length: int) -> dict[str, Any]:
    files = [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in result.files]
    return {"unit": result.number, "rows": result.rows, "files": files, "sums": [first, length]}


def _result(record: Mapping[str, Any], sums: bytes) -> Result:
    try:
        files, (first, length) = tuple(File(**file) for file in record["files"]), record["sums"]
        return Result(record["unit"], record["rows"], unpacked(sums[first : first + length]), files)
    except (KeyError, TypeError, ValueError) as error:
        raise MvnjacError(f"the record of unit {record.get('unit')} is damaged ({error}); --force begins anew.") from error
