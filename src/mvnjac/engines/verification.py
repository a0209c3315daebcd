"""Verification of a folder of parts, or of a checkpoint, against its manifest."""

from __future__ import annotations

from typing import Any

from mvnjac.engines.folder import Folder
from mvnjac.engines.job import File
from mvnjac.engines.manifest import PASSES, has_manifest, pass_folders, pass_name, read_manifest, record_files, records
from mvnjac.errors import counted
from mvnjac.tables.storage import child


def verify(path: str) -> tuple[dict[str, Any], list[str]]:
    """The manifest of a folder, with the keys `units` and `rows`, and a list of problems: files that are missing, truncated or
    changed, or that do not belong to the output."""
    folder = Folder(path)
    manifest, sizes = read_manifest(folder), folder.sizes()
    if manifest["about"].get(PASSES):
        return _verify_passes(folder, manifest)
    if manifest.get("state") != "complete":
        recorded = sum(1 for _ in records(folder, record_files(sizes), set()))
        return manifest, [f"incomplete: {recorded} of {manifest['units']} units are recorded; --resume continues from there."]
    for name, digest in manifest["records"].items():
        if name not in sizes:
            return manifest, [f"{name}: is missing."]
        if folder.digest(name) != digest:
            return manifest, [f"{name}: has changed: its checksum is not that of the manifest."]
    problems, names, units, rows = list[str](), set[str](), set[int](), 0
    for record in records(folder, record_files(manifest["records"]), set()):
        units.add(record["unit"])
        rows += record["rows"]
        for file in (File(**file) for file in record["files"]):
            names.add(file.name)
            problems += _problems(folder, file, sizes.get(file.name))
    if units != set(range(manifest["units"])) or rows != manifest["rows"]:
        problems.append(
            f"there are records of {counted(len(units), 'unit')} and {counted(rows, 'row')}; according to the manifest there are "
            f"{manifest['units']} and {manifest['rows']}."
        )
    unexpected = [name for name in sizes if name not in names and not name.startswith(("_", "."))]
    return manifest, problems + [_unexpected(name) for name in unexpected]


def _verify_passes(folder: Folder, manifest: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    found, units, rows = pass_folders(folder), 0, 0
    expected = [pass_name(number + 1) for number in range(manifest.get("passes", len(found)))]
    problems = [_unexpected(name) for name in found if name not in expected]
    for name in expected:
        if not has_manifest(Folder(child(folder.path, name))):
            problems.append(f"{name}: is missing.")
            continue
        pass_manifest, pass_problems = verify(child(folder.path, name))
        problems += [f"{name}: {problem}" for problem in pass_problems]
        units, rows = units + pass_manifest["units"], pass_manifest.get("rows", 0)
    if manifest["state"] != "complete" and not problems:
        problems.append("incomplete: --resume continues from there.")
    return {**manifest, "units": units, "rows": rows}, problems


def _unexpected(name: str) -> str:
    return f"{name}: does not belong to this output."


def _problems(folder: Folder, file: File, size: int | None) -> list[str]:
    if size is None:
        return [f"{file.name}: is missing."]
    if size != file.size:
        how = "truncated" if size < file.size else "extended"
        return [f"{file.name}: has {size} bytes instead of {file.size}: it was {how}."]
    return [] if folder.digest(file.name) == file.sha256 else [f"{file.name}: has changed: its checksum differs."]
