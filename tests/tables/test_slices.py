"""The slices of a table, taken together, are the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvnjac.errors import TableError
from mvnjac.tables.base import Source, open_source
from mvnjac.tables.formats import csv
from mvnjac.tables.output import check_output, open_sink
from mvnjac.tables.rows import tensor_batches
from mvnjac.tables.slices import Slice, rows_per_slice, slices_of_blocks
from tests.tables.test_formats import frame, write

NAMES = ["a", "b,c", "d"]


def all_rows(source: Source, rows: int) -> np.ndarray:
    """The rows of all slices, in order."""
    parts = [batch.x for at in source.slices(rows) for batch in tensor_batches(source, NAMES, None, at=at)]
    return torch.cat(parts).numpy()


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz", ".arrow", ".npy", ".zarr"])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_slices_are_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, rows: int) -> None:
    monkeypatch.setattr(csv, "_BLOCK", 64)
    data = frame(53)
    data = data if suffix not in (".npy", ".zarr") else data.drop(columns="day")
    source = open_source(write(tmp_path / f"t{suffix}", data))
    np.testing.assert_array_equal(all_rows(source, rows), data[NAMES].to_numpy())
    one = suffix == ".csv.gz" or rows == 1000
    assert len(source.slices(rows)) == 1 if one else len(source.slices(rows)) > 1


def test_a_folder_of_parts_with_groups_of_all_sizes(tmp_path: Path) -> None:
    data = frame(100)
    for i, (at, group) in enumerate([(slice(0, 10), 100), (slice(10, 95), 30), (slice(95, 100), 1)]):
        data.iloc[at].to_parquet(tmp_path / f"p{i}.parquet", row_group_size=group, index=False)
    source = open_source(tmp_path)
    for rows in (3, 12, 40):
        slices = source.slices(rows)
        assert [at.row for at in slices] == np.cumsum([0, *(at.rows for at in slices[:-1])]).tolist()
        np.testing.assert_array_equal(all_rows(source, rows), data[NAMES].to_numpy())


@given(blocks=st.lists(st.integers(0, 50), max_size=12), rows=st.integers(1, 60))
def test_every_row_is_in_one_slice(blocks: list[int], rows: int) -> None:
    slices = list(slices_of_blocks("f", blocks, rows, 7))
    seen = []
    for at in slices:
        inside = [(i, k) for i in range(at.first, at.last or 0) for k in range(blocks[i])]
        taken = inside[at.skip :] if at.take is None else inside[at.skip : at.skip + at.take]
        assert at.rows == len(taken)
        assert at.row == 7 + len(seen)
        seen += taken
    assert seen == [(i, k) for i, size in enumerate(blocks) for k in range(size)]


def test_how_many_rows() -> None:
    """A slice reads 64 MiB of 20 columns, or writes 256 MiB of the 20 300 scores of 200 variables."""
    assert rows_per_slice(20) == 419_430
    assert rows_per_slice(200, 20_300) == 1652
    assert rows_per_slice(10**9) == 1


def test_errors_name_the_row_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv, "_BLOCK", 64)
    lines = ["a,b\n", *(f"{i}.5,{i}\n" for i in range(90)), "1.5,\n", *(f"{i}.5,{i}\n" for i in range(9))]
    (tmp_path / "t.csv").write_text("".join(lines))
    source = open_source(tmp_path / "t.csv")
    last = source.slices(20)[-1]
    assert last.first > 0
    with pytest.raises(TableError, match="'b' is missing at row 91;"):
        list(tensor_batches(source, ["a", "b"], None, at=last))
    (tmp_path / "t.csv").write_text("".join(lines).replace("1.5,\n", "1.5,word\n"))
    source = open_source(tmp_path / "t.csv")
    with pytest.raises(TableError, match="'b' is 'word' at row 91,"):
        list(tensor_batches(source, ["a", "b"], None, at=source.slices(20)[-1]))
    data = pd.DataFrame({"a": np.arange(60.0)})
    data.loc[47, "a"] = np.inf
    data.to_parquet(tmp_path / "t.parquet", row_group_size=20)
    source = open_source(tmp_path / "t.parquet")
    with pytest.raises(TableError, match="'a' is inf at row 48;"):
        list(tensor_batches(source, ["a"], None, at=source.slices(20)[-1]))


def test_a_part_that_was_truncated_meanwhile(tmp_path: Path) -> None:
    frame(1000).drop(columns="day").to_parquet(tmp_path / "t.parquet", row_group_size=100)
    source = open_source(tmp_path / "t.parquet")
    at = source.slices(100)[-1]
    whole = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TableError, match=r"t\.parquet: cannot be read"):
        list(source.batches(["a"], at))


def test_zarr(tmp_path: Path) -> None:
    """Names, an index beside the numbers, chunks; complete or absent; replaced when forced."""
    data = frame(10)
    path = write(tmp_path / "t.zarr", data)
    source = open_source(path)
    assert source.names == NAMES
    assert list(pd.read_csv(path / "index.csv")["day"]) == [str(day) for day in data["day"]]
    check_output(path, force=True)
    write(path, data.iloc[:3])
    np.testing.assert_array_equal(all_rows(open_source(path), 2), data[NAMES].to_numpy()[:3])
    with pytest.raises(RuntimeError), open_sink(tmp_path / "u.zarr", pq.read_schema(_parquet(tmp_path, data))):
        raise RuntimeError
    assert sorted(each.name for each in tmp_path.iterdir()) == ["p.parquet", "t.zarr"]
    (tmp_path / "v.zarr").mkdir()
    with pytest.raises(TableError, match="is not a Zarr group"):
        open_source(tmp_path / "v.zarr")


def _parquet(folder: Path, data: pd.DataFrame) -> Path:
    data.to_parquet(folder / "p.parquet")
    return folder / "p.parquet"


def test_a_whole_slice_is_all_of_it(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "t.csv", frame(5)))
    (rows,) = tensor_batches(source, ["a"], None, at=Slice(str(tmp_path / "t.csv")))
    assert len(rows.x) == 5
