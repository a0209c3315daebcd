"""`mvnjac.read_table`, and the formats that are only read: Excel, Arrow streams, partitioned folders."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mvnjac
from mvnjac.errors import ArgumentError, MemoryLimitError, TableError, TableWarning
from mvnjac.tables import read_table as module
from mvnjac.tables.base import open_source
from mvnjac.tables.read_table import python_arguments
from mvnjac.tables.rows import tensor_batches
from mvnjac.tensors import memory
from tests.cli.test_cli import COMPLETE, RATES, returns


def frame(n: int = 5) -> pd.DataFrame:
    values = np.random.default_rng(0).normal(size=(n, 2)).round(3)
    table = pd.DataFrame(values, columns=["a", "b"])
    table.insert(0, "day", pd.date_range("2020-01-30", periods=n))
    return table


def test_the_rates_in_one_call() -> None:
    """The log returns of all complete currencies are those of pandas, sorted by the recognised dates."""
    with pytest.warns(TableWarning, match=r"outliers in 2 columns: CHF is -0\.155539 at 2015-01-15 \(73 standard"):
        rows = mvnjac.read_table(RATES, columns=COMPLETE, log_returns=True)
    expected = returns()
    np.testing.assert_allclose(rows.x.numpy(), expected.to_numpy(), atol=1e-15)
    assert rows.names == COMPLETE
    assert rows.index_name == "Date"
    table = rows.table(rows.x, rows.names)
    assert isinstance(table.index, pd.DatetimeIndex)
    assert [str(day.date()) for day in table.index] == list(expected.index)


def test_what_is_read_is_fitted(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Tag;A;B\n" + "".join(f"{i + 1}.1.2020;{i * i},5;{i % 3},25\n" for i in range(12)))
    rows = mvnjac.read_table(tmp_path / "t.csv", decimal=",", date_format="%d.%m.%Y")
    fit = mvnjac.fit(rows.x, names=rows.names)
    assert fit.gaussian.jacobian(rows.x).columns()[:2] == ["mean[A]", "mean[B]"]
    assert rows.index[11] == pd.Timestamp("2020-01-12")


def test_simple_returns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("day,a\n2020-01-02,3\n2020-01-01,2\n2020-01-03,\n2020-01-04,1.5\n2020-01-05,3\n")
    rows = mvnjac.read_table(tmp_path / "t.csv", returns=True)
    np.testing.assert_array_equal(rows.x[:, 0], [0.5, np.nan, np.nan, 1.0])
    assert rows.index[0] == pd.Timestamp("2020-01-02")
    (tmp_path / "t.csv").write_text("a\n1\n0\n")
    with pytest.raises(TableError, match=r"'a' is 0\.0 at row 2; returns need positive prices"):
        mvnjac.read_table(tmp_path / "t.csv", returns=True)


def test_missing_values(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("day,a,b\n2020-01-01,1,\n2020-01-02,2,3\n2020-01-03,NA,5\n")
    assert np.isnan(mvnjac.read_table(path).x).sum() == 2
    kept = mvnjac.read_table(path, missing="drop")
    assert (kept.x.tolist(), kept.index) == ([[2.0, 3.0]], [pd.Timestamp("2020-01-02")])
    with pytest.raises(TableError, match=r"'b' is missing at day 2020-01-01; .* missing=\"drop\", .* missing=\"marginalise\""):
        mvnjac.read_table(path, missing="error")
    path.write_text("a,b\n1,\n")
    with pytest.raises(TableError, match="there are no rows without missing values"):
        mvnjac.read_table(path, missing="drop")


def test_arguments_are_named_as_in_python(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a;b\n1,5;x\n")
    with pytest.raises(TableError, match=r'use decimal=","\. exclude= leaves the column out'):
        mvnjac.read_table(path, columns="a")
    for arguments, says in (
        ({"columns": ["z"]}, "there is no column 'z'"),
        ({"missing": "x"}, "missing is 'x'"),
        ({"returns": True, "log_returns": True}, "exclude each other"),
        ({"separator": "--"}, "separator=: got '--'"),
        ({"sheet": "x"}, "sheet= does not apply to"),
    ):
        with pytest.raises(ArgumentError, match=f"read_table: .*{says}"):
            mvnjac.read_table(path, **arguments)
    assert python_arguments("--header-rows 3, --encoding utf-16, --percent or --columns") == (
        'header_rows=3, encoding="utf-16", percent=True or columns='
    )


def test_memory_is_refused_before_it_is_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({str(i): np.zeros(400_000) for i in range(8)}), tmp_path / "t.parquet")
    monkeypatch.setattr(memory, "available", lambda device: 2**22)
    with pytest.raises(MemoryLimitError, match=r"read_table: the rows of .*select fewer columns"):
        mvnjac.read_table(tmp_path / "t.parquet")


def test_without_pandas_results_are_arrow_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame().to_csv(tmp_path / "t.csv", index=False)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    rows = mvnjac.read_table(tmp_path / "t.csv")
    assert rows.kind == "arrow"
    assert rows.index[0] == dt.date(2020, 1, 30)
    assert rows.table(rows.x, rows.names).column_names == ["index", "a", "b"]


def test_excel(tmp_path: Path) -> None:
    data = frame()
    data.loc[2, "b"] = np.nan
    path = tmp_path / "t.xlsx"
    with pd.ExcelWriter(path) as writer:
        data.to_excel(writer, index=False, sheet_name="first")
        data[["a"]].to_excel(writer, index=False, sheet_name="second", startrow=2)
    rows = mvnjac.read_table(path)
    np.testing.assert_array_equal(rows.x, data[["a", "b"]].to_numpy())
    assert (rows.names, rows.index_name, rows.index[0]) == (["a", "b"], "day", pd.Timestamp("2020-01-30"))
    assert mvnjac.read_table(path, sheet="second", skip_rows=2).names == ["a"]
    for arguments, says in (
        ({"sheet": "third"}, "its sheets are first, second"),
        ({"decimal": ","}, "decimal= does not apply"),
    ):
        with pytest.raises(ArgumentError, match=says):
            mvnjac.read_table(path, **arguments)


def test_excel_cells(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in ([None, "Close", None], [None, "A", "B"], ["Date", None, None], [dt.date(2020, 1, 1), 1.5, -999], []):
        book.active.append(row)
    book.active.append([dt.date(2020, 1, 2), "#DIV/0!", 2])
    book.save(tmp_path / "t.xlsx")
    rows = mvnjac.read_table(tmp_path / "t.xlsx", header_rows=3, missing_values="-999")
    assert (rows.names, rows.index_name) == (["A", "B"], "Date")
    np.testing.assert_array_equal(rows.x, [[1.5, np.nan], [np.nan, 2.0]])
    book.active.append([dt.date(2020, 1, 3), "n.v.", 2])
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(TableError, match=r"'A' is 'n\.v\.' at row 3, which is not a number.*missing_values="):
        mvnjac.read_table(tmp_path / "t.xlsx", header_rows=3)
    (tmp_path / "t.xlsx").write_text("nonsense")
    with pytest.raises(TableError, match="Is it an Excel file"):
        mvnjac.read_table(tmp_path / "t.xlsx")


def test_excel_without_openpyxl(tmp_path: Path) -> None:
    frame().to_excel(tmp_path / "t.xlsx", index=False)
    code = (
        "import sys; sys.modules['openpyxl'] = None\nimport mvnjac\n"
        "try: mvnjac.read_table(sys.argv[1])\nexcept mvnjac.MvnjacError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "t.xlsx")], capture_output=True, text=True, check=True)
    assert "pip install 'mvnjac[excel]'" in done.stdout


def test_arrow_streams_and_the_index_of_pandas(tmp_path: Path) -> None:
    table = pa.Table.from_pandas(frame(2000), preserve_index=False)
    with pa.ipc.new_stream(str(tmp_path / "t.arrows"), table.schema) as writer:
        writer.write_table(table, max_chunksize=300)
    frame(2000).set_index("day").to_parquet(tmp_path / "t.parquet")
    for name in ("t.arrows", "t.parquet"):
        rows = mvnjac.read_table(tmp_path / name)
        np.testing.assert_array_equal(rows.x, frame(2000)[["a", "b"]].to_numpy())
        assert (rows.index_name, rows.index[0]) == ("day", pd.Timestamp("2020-01-30"))


def test_partitioned_folders(tmp_path: Path) -> None:
    data = frame(40)
    data.assign(year=data["day"].dt.year, name=["x y", "ä=z"] * 20).to_parquet(
        tmp_path / "hive", partition_cols=["name", "year"]
    )
    rows = mvnjac.read_table(tmp_path / "hive")
    assert (rows.names, rows.index_name) == (["a", "b"], "day")
    assert sorted(rows.index) == list(data["day"])
    by_name = mvnjac.read_table(tmp_path / "hive", index="name", exclude="day")
    assert set(by_name.index) == {"x y", "ä=z"}
    assert mvnjac.read_table(tmp_path / "hive", columns=["year", "a"]).x[:, 0].unique().tolist() == [2020.0]
    source = open_source(tmp_path / "hive", "name")
    parts = [
        (at, rows) for at in source.slices(10) for rows in tensor_batches(open_source(at.path, "name"), ["a"], "name", at=at)
    ]
    assert sum(len(rows.x) for _, rows in parts) == 40
    assert {str(rows.index[0]) for _, rows in parts} == {"x y", "ä=z"}
    pq.write_table(pa.table({"a": [1.0]}), tmp_path / "hive" / "p.parquet")
    with pytest.raises(TableError, match="files lie at different depths"):
        mvnjac.read_table(tmp_path / "hive")


def test_nothing_is_said_about_ordinary_rows(tmp_path: Path) -> None:
    frame(500).to_csv(tmp_path / "t.csv", index=False)
    with warnings.catch_warnings(action="error"):
        mvnjac.read_table(tmp_path / "t.csv")
