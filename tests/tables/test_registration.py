"""Table formats that are defined outside the package."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mvnjac.errors import ArgumentError, UsageError
from mvnjac.tables import Sink, Slice, Source, TableFormat, as_float64, base, open_source, register_format
from tests.cli.test_cli import run


class JsonLines(Source):
    """One JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._table = pa.Table.from_pylist([json.loads(line) for line in path.read_text().splitlines()])
        self.schema = self._table.schema

    def batches(self, columns: Sequence[str], at: Slice | None = None) -> Iterator[pa.RecordBatch]:
        for batch in self._table.select(list(columns)).to_batches():
            yield as_float64(batch, self.index)


class JsonLinesSink(Sink):
    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._file = path.open("w")

    def write(self, batch: pa.RecordBatch) -> None:
        self._file.writelines(json.dumps(row) + "\n" for row in batch.to_pylist())

    def close(self) -> None:
        self._file.close()


@pytest.fixture
def formats(monkeypatch: pytest.MonkeyPatch) -> dict[str, TableFormat]:
    """The registered formats; the test's own are removed at its end."""
    found = dict(base._formats())
    monkeypatch.setattr(base, "_formats", lambda: found)
    return found


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    """The same rows, as JSON lines and as CSV."""
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 2)).round(3), columns=["a", "b"])
    frame.insert(0, "day", [f"2020-01-{i + 1:02d}" if i < 31 else f"2020-02-{i - 30:02d}" for i in range(40)])
    frame.to_json(tmp_path / "x.jsonl", orient="records", lines=True)
    frame.to_csv(tmp_path / "x.csv", index=False)
    return tmp_path / "x.jsonl", tmp_path / "x.csv"


def test_commands_read_and_write_a_registered_format(formats, tables: tuple[Path, Path], tmp_path: Path) -> None:
    register_format(TableFormat((".jsonl",), JsonLines, JsonLinesSink))
    found, expected = ([table, "--index", "day"] for table in tables)
    assert run("score", *found, "-o", tmp_path / "1.csv")[0] == run("score", *expected, "-o", tmp_path / "2.csv")[0] == 0
    assert (tmp_path / "1.csv").read_text() == (tmp_path / "2.csv").read_text()
    assert run("jacobian", *found, "-o", tmp_path / "scores.jsonl")[0] == 0
    assert run("jacobian", *expected, "-o", tmp_path / "scores.parquet")[0] == 0
    written = pd.DataFrame([json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()])
    scores = pd.read_parquet(tmp_path / "scores.parquet").reset_index()
    assert list(written.columns) == list(scores.columns)
    np.testing.assert_allclose(written.iloc[:, 1:], scores.iloc[:, 1:], rtol=1e-14)


def test_a_format_without_a_sink_can_only_be_read(formats, tables: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    register_format(TableFormat((".jsonl",), JsonLines))
    code, _, err = run("jacobian", tables[0], "--index", "day", "-o", tmp_path / "o.jsonl", capsys=capsys)
    assert code == 2
    assert "tables with the suffix .jsonl can be read, but not written" in err


def test_installed_packages_add_formats(monkeypatch: pytest.MonkeyPatch, tables: tuple[Path, Path]) -> None:
    point = EntryPoint("lines", "tests.tables.test_registration:FORMAT", base.ENTRY_POINTS)
    monkeypatch.setattr(base, "entry_points", lambda group: [point] if group == base.ENTRY_POINTS else [])
    monkeypatch.setattr(base, "_formats", base._formats.__wrapped__)
    assert isinstance(open_source(tables[0]), JsonLines)


def test_suffixes_that_are_refused(formats) -> None:
    for suffix in ("jsonl", ".JSONL"):
        with pytest.raises(ArgumentError, match="must begin with a dot and be in lower case"):
            register_format(TableFormat((suffix,), JsonLines))
    with pytest.raises(ArgumentError, match=r"'\.csv' is that of a built-in format"):
        register_format(TableFormat((".csv",), JsonLines))
    assert ".jsonl" not in formats
    with pytest.raises(UsageError, match="unknown suffix"):
        base.format_of("x.jsonl")


FORMAT = TableFormat((".jsonl",), JsonLines)
