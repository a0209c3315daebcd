"""Reading and writing of all formats, log returns, and given means and covariances."""

from __future__ import annotations

import datetime as dt
import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from mvnjac.errors import TableError, UsageError
from mvnjac.tables.base import open_source
from mvnjac.tables.mean_and_covariance import read_covariance, read_mean
from mvnjac.tables.output import open_sink
from mvnjac.tables.returns import Returns
from mvnjac.tables.rows import tensor_batches

RATES = Path(__file__).resolve().parents[2] / "examples" / "data" / "ecb_reference_rates.csv.gz"
SUFFIXES = [".parquet", ".csv", ".csv.gz", ".arrow", ".feather", ".npy"]


def frame(n: int = 10) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(n, 3))
    data = pd.DataFrame(values, columns=["a", "b,c", "d"])
    data.insert(0, "day", [dt.date(2020, 1, 1) + dt.timedelta(days=i) for i in range(n)])
    return data


def write(path: Path, data: pd.DataFrame) -> Path:
    table = pa.Table.from_pandas(data, preserve_index=False)
    with open_sink(path, table.schema) as sink:
        for batch in table.to_batches(max_chunksize=4):
            sink.write(batch)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read(tmp_path: Path, suffix: str) -> None:
    data = frame()
    source = open_source(write(tmp_path / f"t{suffix}", data))
    index = None if suffix == ".npy" else "day"
    rows = list(tensor_batches(source, ["d", "a"], index))
    np.testing.assert_array_equal(torch.cat([r.x for r in rows]).numpy(), data[["d", "a"]].to_numpy())
    if index:
        assert [str(v) for r in rows for v in r.index] == [str(v) for v in data["day"]]
    else:
        assert (tmp_path / "t.columns.txt").read_text().splitlines() == ["a", "b,c", "d"]
        assert list(pd.read_csv(tmp_path / "t.index.csv")["day"]) == [str(v) for v in data["day"]]
        np.testing.assert_array_equal(np.load(tmp_path / "t.npy"), data[["a", "b,c", "d"]].to_numpy())
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_folder_of_parts(tmp_path: Path) -> None:
    data = frame(9)
    for i in range(3):
        write(tmp_path / f"part-{i}.parquet", data.iloc[3 * i : 3 * i + 3])
    rows = list(tensor_batches(open_source(tmp_path), ["a"], None))
    np.testing.assert_array_equal(torch.cat([r.x for r in rows]).squeeze(-1).numpy(), data["a"])


def test_integers_and_float32_become_float64(tmp_path: Path) -> None:
    data = pd.DataFrame({"i": np.arange(3), "f": np.arange(3, dtype=np.float32) / 3, "u": np.arange(3, dtype=np.uint8)})
    data.to_parquet(tmp_path / "t.parquet")
    (rows,) = tensor_batches(open_source(tmp_path / "t.parquet"), ["i", "f", "u"], None)
    assert rows.x.dtype is torch.float64
    np.testing.assert_array_equal(rows.x.numpy(), data.to_numpy(dtype=np.float64))


def test_a_column_that_starts_with_gaps(tmp_path: Path) -> None:
    """Missing values fill the first block, so that the type cannot be inferred."""
    path = tmp_path / "t.csv"
    path.write_text("a,b,\n" + "1.5,N/A,\n" * 300_000 + "2.5,3.5,\n")
    source = open_source(path)
    assert source.variables(None, None) == ["a", "b"]
    last = list(source.batches(["a", "b"]))[-1]
    assert last.column(1)[-1].as_py() == 3.5


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
def test_log_returns_are_ordered_by_the_index(tmp_path: Path, order: str) -> None:
    data = frame(50_000)
    for name in ("a", "b,c", "d"):
        data[name] = np.exp(data[name])
    days = pd.date_range("1900-01-01", periods=len(data), freq="D")
    data["day"] = days.date
    expected = np.diff(np.log(data[["a", "d"]].to_numpy()), axis=0)
    arranged = {"ascending": data, "descending": data[::-1], "shuffled": data.sample(frac=1, random_state=1)}[order]
    source = Returns(open_source(write(tmp_path / "t.parquet", arranged)), "day")
    rows = list(tensor_batches(source, ["a", "d"], "day"))
    np.testing.assert_array_equal(torch.cat([r.x for r in rows]).numpy(), expected)
    assert [v.as_py() for r in rows for v in r.index] == list(data["day"][1:])


def test_a_gap_breaks_the_return(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,1\n2,N/A\n4,3\n8,6\n")
    batches = list(Returns(open_source(path), None).batches(["a", "b"]))
    b = np.concatenate([batch.column(1).to_numpy() for batch in batches])
    assert np.isnan(b[:2]).all()
    assert b[2] == pytest.approx(np.log(2))
    with pytest.raises(TableError, match=r"'b' is missing at row 1; select complete columns"):
        list(tensor_batches(Returns(open_source(path), None), ["a", "b"], None))


def test_the_rates_of_the_ecb() -> None:
    source = open_source(RATES)
    assert len(source.variables(None, "Date")) == 41
    rows = list(tensor_batches(Returns(source, "Date"), ["USD", "CHF"], "Date"))
    x, days = torch.cat([r.x for r in rows]), [v.as_py() for r in rows for v in r.index]
    assert x.shape == (7125, 2)
    assert days[0] < days[1] < days[-1] == dt.date(2026, 10, 30)
    assert days[int(x[:, 1].abs().argmax())] == dt.date(2015, 1, 15)


def test_mean_and_covariance_are_matched_by_name(tmp_path: Path) -> None:
    sigma = pd.DataFrame([[1.0, 0.1, 0.2], [0.1, 2.0, 0.3], [0.2, 0.3, 3.0]], columns=list("abc"), index=list("abc"))
    shuffled = sigma.loc[["c", "a", "b"], ["b", "c", "a"]]
    shuffled.to_csv(tmp_path / "named.csv")
    shuffled.to_parquet(tmp_path / "named.parquet")
    sigma.to_csv(tmp_path / "plain.csv", index=False)
    np.save(tmp_path / "s.npy", sigma.loc[["c", "a"], ["c", "a"]].to_numpy())
    for name in ("named.csv", "named.parquet", "plain.csv", "s.npy"):
        read = read_covariance(tmp_path / name, ["c", "a"])
        np.testing.assert_array_equal(read.numpy(), sigma.loc[["c", "a"], ["c", "a"]].to_numpy())
    pd.DataFrame([[1.0, 2.0, 3.0]], columns=list("abc")).to_csv(tmp_path / "m.csv", index=False)
    np.save(tmp_path / "m.npy", np.array([3.0, 1.0]))
    for name in ("m.csv", "m.npy"):
        assert read_mean(tmp_path / name, ["c", "a"]).tolist() == [3.0, 1.0]
    with pytest.raises(TableError, match="no column for 'z'"):
        read_mean(tmp_path / "m.csv", ["a", "z"])
    with pytest.raises(TableError, match="no row or no column for 'z'"):
        read_covariance(tmp_path / "named.csv", ["a", "z"])
    with pytest.raises(TableError, match="3 rows; expected one row"):
        read_mean(tmp_path / "plain.csv", ["a"])
    with pytest.raises(TableError, match=r"shape \(2, 2\); expected numbers of shape \(3, 3\)"):
        read_covariance(tmp_path / "s.npy", ["a", "b", "c"])
    sigma.iloc[:2].to_csv(tmp_path / "short.csv", index=False)
    with pytest.raises(TableError, match="2 rows for the 3 variables"):
        read_covariance(tmp_path / "short.csv", ["a"])


def bad_files(folder: Path) -> dict[str, Path]:
    data = frame(2000)
    good, gz = folder / "good.parquet", folder / "good.csv.gz"
    write(good, data)
    write(gz, data)
    files = {name: folder / name for name in ("truncated.parquet", "truncated.csv.gz", "empty.csv", "ragged.csv", "twice.csv")}
    files["truncated.parquet"].write_bytes(good.read_bytes()[:-100])
    files["truncated.csv.gz"].write_bytes(gz.read_bytes()[: gz.stat().st_size // 2])
    files["empty.csv"].write_text("")
    files["ragged.csv"].write_text("a,d\n1,2\n3\n")
    files["twice.csv"].write_text("a,a,d\n1,2,3\n")
    files["no parts"] = folder / "no parts"
    files["no parts"].mkdir()
    files["text.arrow"] = folder / "text.arrow"
    files["text.arrow"].write_text("not arrow")
    files["pickle.npy"] = folder / "pickle.npy"
    np.save(files["pickle.npy"], np.array([object()]), allow_pickle=True)
    return files


@pytest.mark.parametrize(
    "name",
    ["truncated.parquet", "truncated.csv.gz", "empty.csv", "ragged.csv", "twice.csv", "no parts", "text.arrow", "pickle.npy"],
)
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    path = bad_files(tmp_path)[name]

    def read() -> None:
        source = open_source(path)
        list(tensor_batches(source, source.variables(["a", "d"], None), None))

    with pytest.raises(TableError, match=str(path)):
        read()


def test_columns_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("name,a,b\nx,1,2\ny,3,4\n")
    source = open_source(path)
    assert source.variables(None, "name") == ["a", "b"]
    with pytest.raises(TableError, match=r"'name' is not numeric \(string\).*--columns"):
        source.variables(None, None)
    with pytest.raises(UsageError, match=r"no column 'aa'. Did you mean 'a'.*name, a, b"):
        source.variables(["aa"], None)
    with pytest.raises(UsageError, match="given twice"):
        source.variables(["a", "a"], None)
    (tmp_path / "t.xls").write_text("")
    with pytest.raises(UsageError, match=r"expected one of \.arrow, \.arrows, \.csv"):
        open_source(tmp_path / "t.xls")
    with pytest.raises(TableError, match="no such file"):
        open_source(tmp_path / "absent.csv")


def test_prices_and_indices_that_cannot_be_used(tmp_path: Path) -> None:
    def returns(text: str, index: str | None) -> list:
        (tmp_path / "t.csv").write_text(text)
        return list(tensor_batches(Returns(open_source(tmp_path / "t.csv"), index), ["a"], index))

    with pytest.raises(TableError, match=r"'a' is 0.0 at row 2; log returns need positive"):
        returns("a\n1\n0\n", None)
    with pytest.raises(TableError, match=r"'a' is -1.0 at day 2020-01-03"):
        returns("day,a\n2020-01-03,-1\n2020-01-02,1\n", "day")
    with pytest.raises(TableError, match="2020-01-02 in 2 rows"):
        returns("day,a\n2020-01-02,1\n2020-01-02,2\n", "day")
    with pytest.raises(TableError, match="'day' is missing in row 2"):
        returns("day,a\n2020-01-03,1\n,2\n2020-01-02,2\n", "day")


def test_an_output_that_fails_leaves_nothing(tmp_path: Path) -> None:
    table = pa.Table.from_pandas(frame(), preserve_index=False)
    for suffix in SUFFIXES:
        for failure in (ValueError, KeyboardInterrupt):
            with pytest.raises(failure), open_sink(tmp_path / f"t{suffix}", table.schema) as sink:  # noqa: PT012
                sink.write(table.to_batches()[0])
                raise failure
        assert list(tmp_path.iterdir()) == [], suffix


def test_gzip_output_is_gzip(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv.gz", frame())
    assert gzip.decompress(path.read_bytes()).startswith(b'"day","a"')
