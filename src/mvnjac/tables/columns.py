"""Which columns of a table are variables: the same rules for files and for tables in memory."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mvnjac.errors import MvnjacError, TableError, UsageError


@dataclass(frozen=True)
class Wording:
    """How error messages refer to a table and its options, and the error classes.

    Attributes:
        where: the file or the function that messages begin with.
        columns, index: the options that select the variables and the row labels.
        unknown, repeated, unusable, not_numeric: the error classes for a column that does not exist, is selected twice,
            cannot be used (it has no name, or its name occurs twice; or no columns are left), or is not numeric.
    """

    where: str
    columns: str = "--columns"
    index: str = "--index"
    unknown: type[MvnjacError] = UsageError
    repeated: type[MvnjacError] = UsageError
    unusable: type[MvnjacError] = TableError
    not_numeric: type[MvnjacError] = TableError


def variables(
    schema: pa.Schema,
    columns: Sequence[str] | None,
    index: str | None,
    labels: Collection[str],
    wording: Wording,
    explain: Callable[[str], str | None] = lambda name: None,
) -> list[str]:
    """The variables: `columns` if given, otherwise all columns except the index and `labels`.

    A column of text, dates, booleans or categories raises an error unless `columns` leaves it out: no column is dropped
    silently. `explain` may say more about a column that is not numeric.

    Raises:
        MvnjacError: one of the classes of `wording`.
    """
    names, known = list(schema.names), Counter(schema.names)
    repeated = sorted(name for name, times in known.items() if times > 1)
    if repeated:
        raise wording.unusable(f"{wording.where}: the column name {repeated[0]!r} occurs more than once.")
    for name in [*(columns or []), *([index] if index else [])]:
        if name not in known:
            raise _unknown(name, names, wording)
    selected = list(columns) if columns else [name for name in names if name != index and name not in labels]
    if not columns and "" in selected:
        raise wording.unusable(
            f"{wording.where}: column {names.index('') + 1} has no name; name it in the header, select the other "
            f"columns with {wording.columns}, or write the file without row labels."
        )
    counts = Counter(selected)
    for name in selected:
        if counts[name] > 1 or name == index:
            raise wording.repeated(f"{wording.where}: the column {name!r} is given twice.")
        if not is_numeric(schema.field(name).type):
            raise wording.not_numeric(
                f"{wording.where}: {reason}"
                if (reason := explain(name))
                else f"{wording.where}: column {name!r} is not numeric ({schema.field(name).type}); select the numeric columns "
                f"with {wording.columns}, or use this one as row labels with {wording.index}."
            )
    if not selected:
        raise wording.unusable(f"{wording.where}: there are no columns besides the index.")
    return selected


def pandas_index(schema: pa.Schema) -> list[str]:
    """The columns that hold the index of a pandas DataFrame, according to the schema's metadata."""
    try:
        metadata: Any = schema.pandas_metadata
    except ValueError:  # not JSON, and therefore not written by pandas
        return []
    declared = metadata.get("index_columns") if isinstance(metadata, dict) else None
    return [name for name in declared if isinstance(name, str) and name in schema.names] if isinstance(declared, list) else []


def date_column(schema: pa.Schema, columns: Sequence[str] | None) -> str | None:
    """The first column if it consists of dates and is not one of the selected `columns`: the row labels of a table."""
    if not len(schema) or not pa.types.is_temporal(schema.types[0]) or schema.names[0] in (columns or ()):
        return None
    return schema.names[0]


def is_numeric(kind: pa.DataType) -> bool:
    """Whether a column of this type can be a variable."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)


def _unknown(name: str, names: Sequence[str], wording: Wording) -> MvnjacError:
    close = difflib.get_close_matches(name, names, 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    listed = ", ".join(names[:50]) + (", …" if len(names) > 50 else "")
    return wording.unknown(f"{wording.where}: there is no column {name!r}.{hint} The columns are: {listed}.")
