"""Hive-partitioned folders: subfolders such as year=2020 hold the rows with this value of a column."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa

from mvnjac.errors import TableError
from mvnjac.tables.storage import entries

#: the name that stands for a missing value
_MISSING = "__HIVE_DEFAULT_PARTITION__"


def partitioned_files(folder: str | Path, suffix: str) -> dict[str, dict[str, str]]:
    """The files below a folder, in the order of their names, with the values of the partition columns of each, as text.

    Raises:
        TableError: a subfolder is not named KEY=VALUE, or files are at different depths.
    """
    found = dict(_walk(str(folder), {}, suffix))
    keys = {tuple(values) for values in found.values()}
    if len(keys) > 1:
        one, other = (", ".join(each) or "none" for each in sorted(keys)[:2])
        raise TableError(f"{folder}: files lie at different depths, with the partition columns {one} and {other}.")
    return found


def typed_values(parts: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, pa.Scalar]]:
    """The values of the partition columns of each file: whole numbers or dates if all values are, otherwise text."""
    keys = list(next(iter(parts.values()), {}))
    kinds = {key: _kind(values[key] for values in parts.values()) for key in keys}
    return {part: {key: _scalar(values[key], kinds[key]) for key in keys} for part, values in parts.items()}


def _walk(folder: str, values: dict[str, str], suffix: str) -> Iterable[tuple[str, dict[str, str]]]:
    for each in entries(folder):
        if each.name.startswith((".", "_")):  # temporary files and manifests
            continue
        key, equals, value = each.name.partition("=")
        if not each.folder:
            if each.name.lower().endswith(suffix):
                yield each.path, dict(values)
        elif equals and key and key not in values:
            yield from _walk(each.path, {**values, unquote(key): unquote(value)}, suffix)
        else:
            raise TableError(
                f"{folder}: holds the folder {each.name!r}; all files of a table must lie in one folder, or in subfolders that are "
                "named KEY=VALUE."
            )


def _kind(texts: Iterable[str]) -> pa.DataType:
    known = [text for text in texts if text != _MISSING]
    if known and all(text.isdigit() and text.isascii() for text in known):
        return pa.int64()
    try:
        days = [dt.date.fromisoformat(text) for text in known]
    except ValueError:
        return pa.string()
    return pa.date32() if days else pa.string()


def _scalar(text: str, kind: pa.DataType) -> pa.Scalar:
    if text == _MISSING:
        return pa.scalar(None, kind)
    if pa.types.is_int64(kind):
        return pa.scalar(int(text), kind)
    return pa.scalar(dt.date.fromisoformat(text) if pa.types.is_date32(kind) else text, kind)
