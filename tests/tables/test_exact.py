"""Numbers that float64 cannot represent are errors: integers beyond 2⁵³, and longer floating-point numbers."""

from __future__ import annotations

import decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mvnjac.errors import TableError
from mvnjac.tables import exact
from mvnjac.tables.base import open_source
from mvnjac.tables.rows import tensor_batches
from mvnjac.tables.slices import Slice


def write(path: Path, column: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, np.column_stack([np.arange(len(column), dtype=column.dtype), column]))
    elif path.suffix == ".zarr":
        zarr = pytest.importorskip("zarr")
        group = zarr.open_group(str(path), mode="w")
        data = np.column_stack([np.arange(len(column), dtype=column.dtype), column])
        group.create_array("scores", shape=data.shape, dtype=data.dtype)[...] = data
    else:
        table = pa.table({"0": np.arange(len(column), dtype=column.dtype), "1": column})
        if path.suffix == ".parquet":
            pq.write_table(table, path, row_group_size=3)
        else:
            with pa.ipc.new_file(str(path), table.schema) as writer:
                writer.write_table(table, max_chunksize=3)
    return path


def values(path: Path, at: Slice | None = None) -> list[float]:
    return torch.cat([rows.x for rows in tensor_batches(open_source(path), ["1"], None, at=at)])[:, 0].tolist()


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".npy", ".zarr"])
@pytest.mark.parametrize(
    ("number", "kind"),
    [(2**53 + 1, np.int64), (-(2**53) - 1, np.int64), (2**63 - 1, np.int64), (2**64 - 1, np.uint64), (2**53 + 1, np.uint64)],
)
def test_an_inexact_integer_is_refused(tmp_path: Path, suffix: str, number: int, kind: type) -> None:
    column = np.array([1, 2, 3, 4, number, 6], dtype=kind)
    path = write(tmp_path / f"t{suffix}", column)
    with pytest.raises(
        TableError, match=rf"t\{suffix}: '1' is {number} at row 5, which is .*as a float64; mvnjac does not round"
    ):
        values(path)
    slices = open_source(path).slices(3)
    with pytest.raises(TableError, match="at row 5"):
        values(path, slices[-1])


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".npy", ".zarr"])
@pytest.mark.parametrize(
    ("numbers", "kind"),
    [
        ([2**53, -(2**53), 2**53 + 2, 2**62, -(2**63), 0], np.int64),
        ([2**63, 2**64 - 2**11, 0, 2**53], np.uint64),
        ([7, -7], np.int32),
    ],
)
def test_an_exact_integer_is_read(tmp_path: Path, suffix: str, numbers: list[int], kind: type) -> None:
    assert values(write(tmp_path / f"t{suffix}", np.array(numbers, dtype=kind))) == [float(number) for number in numbers]
    assert [int(float(number)) for number in numbers] == numbers


def test_inexact_integers_are_those_of_python() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.integers(-(2**63), 2**63, 2000) & ~((1 << rng.integers(0, 14, 2000)) - 1)
    expected = [int(float(number)) != number for number in numbers.tolist()]
    assert 0 < sum(expected) < 2000
    assert exact._inexact(numbers).tolist() == expected
    large = numbers.view(np.uint64)
    assert exact._inexact(large).tolist() == [int(float(number)) != number for number in large.tolist()]


def test_missing_integers_stay_missing(tmp_path: Path) -> None:
    pq.write_table(pa.table({"1": pa.array([1, None, 2**60], pa.int64())}), tmp_path / "t.parquet")
    (rows,) = tensor_batches(open_source(tmp_path / "t.parquet"), ["1"], None, allow_missing=True)
    assert rows.x[0, 0] == 1
    assert rows.x[1, 0].isnan()
    assert rows.x[2, 0] == 2.0**60


def test_a_decimal_number_is_the_nearest_float64(tmp_path: Path) -> None:
    """As in text, since float64 cannot represent 0.1 either."""
    numbers = [decimal.Decimal("0.1"), decimal.Decimal("12345678901234567.8901")]
    pq.write_table(pa.table({"1": pa.array(numbers, pa.decimal128(24, 4))}), tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("1\n0.1\n12345678901234567.8901\n")
    assert values(tmp_path / "t.parquet") == values(tmp_path / "t.csv") == [0.1, 12345678901234567.8901]


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="a long double is a double here")
def test_a_long_double_is_refused_where_it_has_more_digits(tmp_path: Path) -> None:
    column = np.array([1, np.longdouble(1) + np.longdouble(2) ** -60], dtype=np.longdouble)
    with pytest.raises(TableError, match=r"'1' is 1\.0\d* at row 2"):
        values(write(tmp_path / "t.npy", column))
    assert values(write(tmp_path / "t.npy", np.array([0.1, np.nan], dtype=np.float64).astype(np.longdouble)[:1])) == [0.1]


def test_a_zarr_array_with_one_dimension(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    zarr.open_group(str(tmp_path / "t.zarr"), mode="w").create_array("scores", shape=(3,), dtype="float64")[...] = np.arange(
        3.0
    )
    with pytest.raises(TableError, match=r"holds float64 of shape \(3,\); expected numbers of shape \(rows, columns\)"):
        open_source(tmp_path / "t.zarr")
