"""Tables that could be misread silently, raise an error of another library, or exceed the memory."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mvnjac.errors import TableError, UsageError
from mvnjac.statistics.moments import Moments
from mvnjac.tables.base import open_source
from mvnjac.tables.mean_and_covariance import read_covariance
from mvnjac.tables.output import check_output
from mvnjac.tables.returns import Returns
from mvnjac.tables.rows import tensor_batches


def text(folder: Path, content: str) -> Path:
    (folder / "t.csv").write_text(content)
    return folder / "t.csv"


def values(path: Path, index: str | None = None) -> list[list[float]]:
    source = open_source(path, index)
    return torch.cat([rows.x for rows in tensor_batches(source, source.variables(None, index), index)]).tolist()


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".arrow"])
def test_the_index_keeps_its_own_type(tmp_path: Path, suffix: str) -> None:
    """Identifiers above 2⁵³ do not fit float64."""
    table = pa.table({"id": [2**60 + 1, 2**60 + 2], "a": [1.0, 2.0]})
    path = tmp_path / f"t{suffix}"
    if suffix == ".csv":
        table.to_pandas().to_csv(path, index=False)
    elif suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    (rows,) = tensor_batches(Returns(open_source(path, "id"), "id"), ["a"], "id")
    assert rows.index is not None
    assert rows.index.to_pylist() == [2**60 + 2]


def test_text_that_does_not_sort_as_time_is_refused(tmp_path: Path) -> None:
    path = text(tmp_path, "day,a\n03/12/2020,1\n04/12/2020,2\n01/01/2021,3\n")
    with pytest.raises(TableError, match=r"text such as '03/12/2020'.*YYYY-MM-DD.*--date-format"):
        Returns(open_source(path), "day")


def test_the_label_na_is_not_missing(tmp_path: Path) -> None:
    (rows,) = tensor_batches(open_source(text(tmp_path, "k,a\nNA,1\nDE,2\n"), "k"), ["a"], "k")
    assert rows.index is not None
    assert rows.index.to_pylist() == ["NA", "DE"]


def test_row_labels_are_not_variables(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1.0, 2.0]}, index=[7, 9]).to_parquet(tmp_path / "t.parquet")
    assert values(tmp_path / "t.parquet") == [[1.0], [2.0]]
    with pytest.raises(TableError, match="column 1 has no name"):
        values(text(tmp_path, ",a\n0,1\n1,2\n"))


def test_unnamed_columns_must_be_empty_to_the_end(tmp_path: Path) -> None:
    assert values(text(tmp_path, "a,b,,\n1,2,,\n")) == [[1.0, 2.0]]
    path = text(tmp_path, "a,b,\n" + "1,2,\n" * 1_200_000 + "1,2,7\n")
    with pytest.raises(TableError, match="column 3 has no name in the header, but holds '7'"):
        list(open_source(path).batches(["a"]))


@pytest.mark.parametrize(("line", "message"), [("1,x", "'b' is 'x' at row 1200001"), ("1,2,3", "row 1200001 has 3 fields")])
def test_late_faults_are_named_by_row(tmp_path: Path, line: str, message: str) -> None:
    path = text(tmp_path, "a,b\n" + "1,2\n" * 1_200_000 + line + "\n")
    with pytest.raises(TableError, match=message):
        list(open_source(path).batches(["a", "b"]))


def test_wide_csv(tmp_path: Path) -> None:
    """Rows longer than a block; the time is not quadratic in the number of columns."""
    width = 40_000
    row = ",".join([repr(-1.2345678901234567e-200)] * width)
    path = text(tmp_path, ",".join(f"c{i}" for i in range(width)) + f"\n{row}\n{row}\n")
    start = time.perf_counter()
    source = open_source(path)
    assert len(source.variables(None, None)) == width
    assert sum(batch.num_rows for batch in source.batches(source.names)) == 2
    assert time.perf_counter() - start < 30


def test_other_encodings_and_separators(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes("ä,b\n1,2\n".encode("latin1"))
    with pytest.raises(TableError, match="UTF-8"):
        open_source(tmp_path / "l.csv")
    assert values(text(tmp_path, "a;b\n1;2\n")) == [[1.0, 2.0]]


def test_parts_must_fit_together(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1.0]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"a": [9.0]}), tmp_path / ".1234.b.parquet")  # another process is still writing it
    assert values(tmp_path) == [[1.0]]
    pq.write_table(pa.table({"a": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(TableError, match=r"b\.parquet: column 'a' is string here and double in a\.parquet"):
        open_source(tmp_path)
    (tmp_path / "b.parquet").unlink()
    (tmp_path / "old").mkdir()
    with pytest.raises(TableError, match="holds the folder 'old'"):
        open_source(tmp_path)


def test_names_of_a_covariance(tmp_path: Path) -> None:
    sigma = pd.DataFrame([[1.0, 0.5], [0.5, 2.0]], columns=["1", "2"], index=[1, 2])
    sigma.to_csv(tmp_path / "unnamed.csv")
    sigma.reset_index(names="maturity").to_csv(tmp_path / "named.csv", index=False)
    np.save(tmp_path / "s.npy", sigma.to_numpy())
    (tmp_path / "s.columns.txt").write_text("1\n2\n")
    for name in ("unnamed.csv", "named.csv", "s.npy"):
        assert read_covariance(tmp_path / name, ["2", "1"]).tolist() == [[2.0, 0.5], [0.5, 1.0]], name
    with pytest.raises(TableError, match="rows 'a' occur more than once"):
        read_covariance(text(tmp_path, "n,a,b\na,1,2\na,3,4\n"), ["a", "b"])
    with pytest.raises(TableError, match="column 'b' has no finite number in row 1"):
        read_covariance(text(tmp_path, "n,a,b\na,1,\nb,3,4\n"), ["a", "b"])


def test_companions_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "z.columns.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"z\.columns\.txt: exists already"):
        check_output(tmp_path / "z.npy", force=False)
    check_output(tmp_path / "z.npy", force=True)


def test_moments_of_empty_batches_and_far_from_zero() -> None:
    base = torch.randint(-999, 999, (20_000, 3), generator=torch.Generator().manual_seed(0)).double() / 8
    expected = Moments.of(base).covariance()
    moments = Moments.of_batches([base[:0] + 1e12, *(base + 1e12).split(7)])
    assert moments is not None
    torch.testing.assert_close(moments.covariance(), expected, rtol=1e-13, atol=1e-10)
    torch.testing.assert_close(moments.covariance(moments.mean), expected, rtol=1e-12, atol=1e-8)


@pytest.mark.parametrize("suffix", [".parquet", ".npy", ".arrow"])
def test_batches_are_bounded_however_wide(tmp_path: Path, suffix: str) -> None:
    n, d = 12_000, 1000
    x = np.zeros((n, d))
    path = tmp_path / f"t{suffix}"
    table = pa.table({str(i): x[:, i] for i in range(d)})
    if suffix == ".npy":
        np.save(path, x)
    elif suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    source = open_source(path)
    assert all(batch.nbytes < 70e6 for batch in source.batches(source.names))


def test_streaming_does_not_hold_the_table(tmp_path: Path) -> None:
    """200 MB in one row group, read in a separate process; Arrow's memory pool never holds half of it."""
    path = tmp_path / "t.parquet"
    x = np.random.default_rng(0).random((1_000_000, 25))
    pq.write_table(pa.table({str(i): x[:, i] for i in range(25)}), path, use_dictionary=False)
    code = (
        "import sys, pyarrow as pa; from mvnjac.tables.base import open_source; s = open_source(sys.argv[1]);"
        "assert sum(b.num_rows for b in s.batches(s.names)) == 1_000_000; print(pa.default_memory_pool().max_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100e6
