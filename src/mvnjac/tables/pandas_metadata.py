"""The metadata by which pandas restores an index from a Parquet or Arrow file, written without pandas.

The keys are those of pandas' specification for Parquet ("Developing pandas", section "Storing pandas objects"), which pyarrow
applies in `to_pandas`, and pandas in `read_parquet` and `read_feather`.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from mvnjac._version import __version__

#: the key of the schema's metadata
PANDAS = b"pandas"


def pandas_metadata(schema: pa.Schema, index: str) -> bytes:
    """The value of the key "pandas" for a table in which the column `index` holds the row labels, as JSON."""
    fields = sorted(schema, key=lambda field: field.name == index)  # by the specification, the index columns are the last
    content = {
        "index_columns": [index],
        "column_indexes": [
            {
                "name": None,
                "field_name": None,
                "pandas_type": "unicode",
                "numpy_type": "object",
                "metadata": {"encoding": "UTF-8"},
            }
        ],
        "columns": [_column(field) for field in fields],
        "creator": {"library": "mvnjac", "version": __version__},
    }
    return json.dumps(content, separators=(",", ":")).encode()


def _column(field: pa.Field) -> dict[str, Any]:
    pandas_type, numpy_type, metadata = _types(field.type)
    return {
        "name": field.name,
        "field_name": field.name,
        "pandas_type": pandas_type,
        "numpy_type": numpy_type,
        "metadata": metadata,
    }


def _types(kind: pa.DataType) -> tuple[str, str, dict[str, Any] | None]:
    """The logical type, the NumPy type, and further properties of a column."""
    if pa.types.is_timestamp(kind):
        zone = None if kind.tz is None else {"timezone": kind.tz}
        return ("datetime" if kind.tz is None else "datetimetz"), f"datetime64[{kind.unit}]", zone
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        name = str(kind.to_pandas_dtype().__name__)
        return name, name, None
    if pa.types.is_decimal(kind):
        return "decimal", "object", {"precision": kind.precision, "scale": kind.scale}
    return _logical_type(kind), "object", None


def _logical_type(kind: pa.DataType) -> str:
    """The logical type of values that pandas holds as objects."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "unicode"
    if pa.types.is_date(kind):
        return "date"
    if pa.types.is_time(kind):
        return "time"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "bytes"
    return "object"
