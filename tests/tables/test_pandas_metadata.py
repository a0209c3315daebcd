"""The metadata for pandas are those that pandas itself writes, and restore every kind of index."""

from __future__ import annotations

import decimal
import json

import pandas as pd
import pyarrow as pa
import pytest

from mvnjac.tables.pandas_metadata import PANDAS, pandas_metadata

INDICES = {
    "integers": pd.Index([2**60 + 1, 3], name="k"),
    "small integers": pd.Index([1, 3], dtype="uint8", name="k"),
    "numbers": pd.Index([0.5, 3], name="k"),
    "single": pd.Index([0.5, 3], dtype="float32", name="k"),
    "text": pd.Index(["a", "b"], name="k"),
    "truth": pd.Index([True, False], name="k"),
    "timestamps": pd.DatetimeIndex(["2020-01-31", "2020-02-29"], name="k"),
    "time zone": pd.DatetimeIndex(["2020-01-31", "2020-02-29"], tz="Europe/Zurich", name="k"),
    "dates": pd.Index([pd.Timestamp("2020-01-31").date(), pd.Timestamp("2020-02-29").date()], name="k"),
    "times": pd.Index([pd.Timestamp("2020-01-31 07:30").time(), pd.Timestamp("2020-02-29").time()], name="k"),
    "bytes": pd.Index([b"a", b"b"], name="k"),
    "decimals": pd.Index([decimal.Decimal("1.50"), decimal.Decimal("2.25")], name="k"),
}


@pytest.mark.parametrize("kind", INDICES)
def test_the_same_as_from_pandas(kind: str) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "b[a,a]": [3.0, 4.0]}, index=INDICES[kind])
    theirs = pa.Table.from_pandas(frame)
    named = theirs.select(["k", "a", "b[a,a]"])  # the index first, as in an output
    ours = named.replace_schema_metadata({PANDAS: pandas_metadata(named.schema, "k")})
    found, expected = (json.loads(table.schema.metadata[PANDAS]) for table in (ours, theirs))
    for column in found["columns"] + expected["columns"]:
        if kind == "text" and column["name"] == "k":  # "unicode" and "object" before pandas 3, and others since
            column["pandas_type"] = column["numpy_type"] = "text"
        if column["pandas_type"].startswith("datetime") and column["pandas_type"] != "datetimetz":
            column["pandas_type"] = "datetime"
    assert found["columns"] == expected["columns"]
    assert found["index_columns"] == expected["index_columns"]
    pd.testing.assert_frame_equal(ours.to_pandas(), theirs.to_pandas())


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.large_binary(), pa.dictionary(pa.int8(), pa.string()), pa.duration("s")]
)
def test_other_types(kind: pa.DataType) -> None:
    values = {"duration[s]": [1, 2]}.get(str(kind), ["a", "b"])
    table = pa.table({"k": pa.array(values, kind), "a": [1.0, 2.0]})
    frame = table.replace_schema_metadata({PANDAS: pandas_metadata(table.schema, "k")}).to_pandas()
    assert list(frame.columns) == ["a"]
    assert frame.index.name == "k"
    assert len(frame.index) == 2


def test_an_unnamed_index_of_pandas_stays_unnamed() -> None:
    theirs = pa.Table.from_pandas(pd.DataFrame({"a": [1.0, 2.0]}, index=[7, 9]))
    ours = theirs.replace_schema_metadata({PANDAS: pandas_metadata(theirs.schema, "__index_level_0__")}).to_pandas()
    assert list(ours.index) == [7, 9]
    assert ours.index.name is None
