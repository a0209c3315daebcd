"""Tables in memory follow the rules of the command line: no column is dropped silently, and all errors are those of this package."""

from __future__ import annotations

import datetime
import json
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import mvnjac
from mvnjac.errors import ArgumentError, DtypeError, MvnjacError, NotFiniteError, TableError, UnknownNameError, UsageError
from mvnjac.tables.base import open_source

N = 4
DAYS = pd.date_range("2020-01-01", periods=N)
NUMBERS: dict[str, Any] = {
    "int8": np.arange(1, 5, dtype="i1"),
    "uint64": np.arange(1, 5, dtype="u8"),
    "float16": np.arange(1, 5, dtype="f2"),
    "float32": np.arange(1, 5, dtype="f4"),
    "nullable integers": pd.array([1, 2, 3, 4], dtype="Int64"),
    "nullable floats": pd.array([1, 2, 3, 4], dtype="Float32"),
    "objects": np.array([1, 2.0, 3, 4], dtype=object),
    "Decimal": [Decimal("1.0"), Decimal(2), Decimal(3), Decimal("4.00")],
    "Arrow's": pd.array([1, 2, 3, 4], dtype="int64[pyarrow]"),
    "sparse": pd.arrays.SparseArray([1.0, 2.0, 3.0, 4.0]),
}
GAPS: dict[str, Any] = {
    "floats": [1.0, np.nan, 3.0, 4.0],
    "objects": np.array([1.0, None, 3.0, 4.0], dtype=object),
    "nullable integers": pd.array([1, None, 3, 4], dtype="Int64"),
    "Decimal": [Decimal(1), None, Decimal(3), Decimal(4)],
    "Arrow's": pd.array([1, None, 3, 4], dtype="double[pyarrow]"),
}
OTHERS: dict[str, Any] = {
    "text": list("abcd"),
    "numbers as text": ["1", "2", "3", "4"],
    "text with gaps": ["a", None, "c", "d"],
    "Arrow's text": pd.array(list("abcd"), dtype="string[pyarrow]"),
    "truth values": [True, False, True, True],
    "nullable truth values": pd.array([True, None, True, False], dtype="boolean"),
    "sparse truth values": pd.arrays.SparseArray([True, False, True, True]),
    "categories": pd.Categorical(["a", "b", None, "a"]),
    "categories of numbers": pd.Categorical([1, 2, 1, 2]),
    "dates": DAYS,
    "dates with a zone": DAYS.tz_localize("Europe/Zurich"),
    "Python dates": [datetime.date(2020, 1, i) for i in range(1, 5)],
    "durations": pd.to_timedelta([1, 2, 3, 4]),
    "periods": DAYS.to_period("D"),
    "intervals": pd.interval_range(0, 4),
    "complex": np.array([1j, 2, 3, 4]),
    "long double": np.arange(4, dtype=np.longdouble),
    "numbers and text": np.array([1, "a", 2, 3], dtype=object),
    "huge integers": np.array([10**30] * N, dtype=object),
    "lists": [[1], [2], [3], [4]],
    "dictionaries": [{"a": 1}] * N,
    "objects": [object()] * N,
    "sets": [{1}] * N,
    "bytes": [b"a"] * N,
    "identifiers": [uuid.UUID(int=i) for i in range(N)],
    "integers beyond 2^53": np.array([2**53 + 1] * N),
    "integers beyond 2^63": np.array([2**64 - 1] * N, dtype="u8"),
}


def tables(column: Any, name: Any = "b") -> list[Any]:
    """A column next to a numeric one, as a data frame and, if Arrow has its type, as a table, a batch, and a stream."""
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0, 5.0], name: column})
    try:
        table = pa.Table.from_pandas(frame)
    except (pa.ArrowException, TypeError, OverflowError):
        return [frame]
    return [frame, table, table.combine_chunks().to_batches()[0], Stream(table)]


class Stream:
    """An object with Arrow's C stream interface."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_of_every_kind(kind: str) -> None:
    for table in tables(NUMBERS[kind]):
        rows = mvnjac.from_table(table)
        assert rows.names == ["a", "b"]
        np.testing.assert_array_equal(rows.x.numpy(), [[1, 1], [2, 2], [3, 3], [5, 4]])


@pytest.mark.parametrize("kind", GAPS)
def test_missing_entries_of_every_kind(kind: str) -> None:
    for table in tables(GAPS[kind]):
        np.testing.assert_array_equal(mvnjac.from_table(table).x.numpy()[:, 1], [1, np.nan, 3, 4])
    assert bool(mvnjac.from_table(pd.DataFrame({"a": [None] * N, "b": np.arange(N)})).x[:, 0].isnan().all())


@pytest.mark.parametrize("kind", OTHERS)
def test_other_columns_are_refused_and_not_dropped(kind: str) -> None:
    for table in tables(OTHERS[kind]):
        with pytest.raises(DtypeError, match=r"from_table: column 'b' .*(is not numeric|cannot be represented in float64)"):
            mvnjac.from_table(table)
        with pytest.raises(DtypeError, match="column 'b'"):
            mvnjac.from_table(table, columns=["a", "b"])
        for columns in (["a"], "a"):
            assert mvnjac.from_table(table, columns=columns).names == ["a"]
        rows = mvnjac.from_table(table, index="b")
        assert (rows.names, len(rows.index)) == (["a"], N)


@pytest.mark.parametrize("kind", [*NUMBERS, *OTHERS])
def test_the_command_line_decides_alike(kind: str, tmp_path: Any) -> None:
    column = NUMBERS.get(kind, OTHERS.get(kind))
    frame = pd.DataFrame({"a": np.arange(4.0), "b": column})
    path = tmp_path / "table.arrow"
    try:
        table = pa.Table.from_pandas(frame)
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    except (pa.ArrowException, TypeError, OverflowError):
        return  # files cannot have such a column
    try:
        names: list[str] | None = open_source(path).variables(None, None)
    except TableError:
        names = None
    try:
        ours: list[str] | None = mvnjac.from_table(frame).names
    except DtypeError as error:
        ours = ["a", "b"] if "cannot be represented" in str(error) else None  # its values are checked too
    assert ours == names


def test_the_index_of_a_data_frame() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0, 5.0]}, index=pd.Index([4, 3, 2, 1], name="number"))
    for table in (frame, pa.Table.from_pandas(frame), Stream(pa.Table.from_pandas(frame))):
        rows = mvnjac.from_table(table)
        assert (rows.names, list(rows.index)) == (["a"], [4, 3, 2, 1])
        with pytest.raises(ArgumentError, match="given twice"):
            mvnjac.from_table(table, columns=["a"], index="a")
    two = frame.set_index(pd.MultiIndex.from_product([[1, 2], [3, 4]], names=["i", "j"]))
    assert mvnjac.from_table(two).index[1] == (1, 4)
    assert mvnjac.from_table(pa.Table.from_pandas(two)).names == ["a"]
    unnamed = pa.Table.from_pandas(frame.rename_axis(None))
    assert mvnjac.from_table(unnamed).names == ["a"]
    asked = mvnjac.from_table(pa.Table.from_pandas(frame), columns=["a", "number"])
    assert asked.names == ["a", "number"]
    assert list(mvnjac.from_table(pa.Table.from_pandas(frame.reset_index(drop=True))).index) == [0, 1, 2, 3]


@pytest.mark.parametrize("metadata", [b"no JSON", b"[]", b"{}", b'{"index_columns": [1, null, "z"]}', b'{"index_columns": 5}'])
def test_metadata_that_pandas_never_wrote(metadata: bytes) -> None:
    table = pa.table({"a": [1.0, 2.0]}).replace_schema_metadata({b"pandas": metadata})
    assert mvnjac.from_table(table).names == ["a"]


def test_names() -> None:
    numbers = pd.DataFrame(np.arange(8.0).reshape(4, 2))
    assert mvnjac.from_table(numbers).names == ["0", "1"]
    assert mvnjac.from_table(numbers, columns=[1]).names == ["1"]
    assert list(mvnjac.from_table(numbers, index=0).index) == [0, 2, 4, 6]
    twice = pd.DataFrame(np.ones((2, 2)), columns=["a", "a"])
    mixed = pd.DataFrame(np.ones((2, 2)), columns=["1", 1])
    for table in (twice, mixed, pa.table([[1.0], [2.0]], names=["a", "a"])):
        with pytest.raises(ArgumentError, match="occurs more than once"):
            mvnjac.from_table(table)
    with pytest.raises(ArgumentError, match="column 2 has no name"):
        mvnjac.from_table(pa.table([[1.0], [2.0]], names=["a", ""]))
    frame = pd.DataFrame({"USD": [1.0], "CHF": [2.0]})
    for table in (frame, pa.Table.from_pandas(frame)):
        with pytest.raises(UnknownNameError, match=r"no column 'USDD'. Did you mean 'USD'\? The columns are: USD, CHF"):
            mvnjac.from_table(table, columns=["USDD"])
        with pytest.raises(UnknownNameError, match="no column 'day'"):
            mvnjac.from_table(table, index="day")
        with pytest.raises(ArgumentError, match="'USD' is given twice"):
            mvnjac.from_table(table, columns=["USD", "USD"])
        with pytest.raises(ArgumentError, match="columns is empty"):
            mvnjac.from_table(table, columns=[])
        with pytest.raises(ArgumentError, match="no columns besides the index"):
            mvnjac.from_table(table.drop(columns=["CHF"]) if table is frame else table.select(["USD"]), index="USD")


def test_infinite_entries_are_named() -> None:
    for table in tables([1.0, 2.0, -np.inf, 3.0]):
        with pytest.raises(NotFiniteError, match=r"'b' is -inf in row 2 \(index 2\)"):
            mvnjac.from_table(table)


def test_what_is_no_table() -> None:
    class Broken:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            raise RuntimeError("no stream today")

    series = pd.Series([1.0, 2.0])
    for table in (
        None,
        5,
        "table.csv",
        [1, 2],
        {"a": [1.0]},
        np.ones((2, 2)),
        torch.ones(2, 2),
        series,
        Broken(),
        pa.array([1.0]),
    ):
        with pytest.raises(MvnjacError, match=r"from_table: (got a|the .* cannot be read)"):
            mvnjac.from_table(table)


def test_labels_that_python_cannot_hold() -> None:
    far = pa.array([2**62, 0], pa.int64()).cast(pa.timestamp("s"), safe=False)
    with pytest.raises(DtypeError, match="'day' cannot be used as row labels"):
        mvnjac.from_table(pa.table({"day": far, "a": [1.0, 2.0]}), index="day")


def test_empty_tables() -> None:
    for table in (pd.DataFrame({"a": []}), pa.table({"a": pa.array([], pa.float64())})):
        assert mvnjac.from_table(table).x.shape == (0, 1)
    for table in (pd.DataFrame(), pa.table({})):
        with pytest.raises(ArgumentError, match="no columns besides the index"):
            mvnjac.from_table(table)


def test_tables_out_keep_every_column() -> None:
    rows = mvnjac.from_table(pa.table({"a": [1.0, 2.0]}))
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert rows.table(values, ["index", "b"]).column_names == ["__index__", "index", "b"]
    assert rows.table(values, ["b", "b"]).column_names == ["index", "b", "b"]


def test_the_command_line_still_says_its_own_words(tmp_path: Any) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1,x\n")
    with pytest.raises(UsageError, match=rf"{path}: there is no column 'c'\. The columns are: a, b"):
        open_source(path).variables(["c"], None)
    with pytest.raises(TableError, match="with --columns, or use this one as row labels with --index"):
        open_source(path).variables(None, None)
    table = pa.table({"a": [1.0]}).replace_schema_metadata({b"pandas": json.dumps({"index_columns": ["a"]}).encode()})
    with pa.ipc.new_file(str(tmp_path / "t.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(TableError, match="no columns besides the index"):
        open_source(tmp_path / "t.arrow").variables(None, None)
