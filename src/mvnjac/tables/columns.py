"""Which columns of a table are its variables: one set of rules, for files and for tables in memory."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mvnjac.errors import MvnjacError, TableError, UsageError


@dataclass(frozen=True)
class Wording:
    """How a message speaks of a table, and what it raises.

    Attributes:
        where: the file, or the function.
        columns, index: what columns are chosen by, and what the row labels.
        unknown, repeated, unusable, not_numeric: the errors of a column that does not exist, is asked for twice, cannot be used (no
            name, a name of two columns, no columns at all), or holds no numbers.
    """

    where: str
    columns: str = "--columns"
    index: str = "--index"
    unknown: type[MvnjacError] = UsageError
    repeated: type[MvnjacError] = UsageError
    unusable: type[MvnjacError] = TableError
    not_numeric: type[MvnjacError] = TableError


def variables(
    schema: pa.Schema, columns: Sequence[str] | None, index: str | None, labels: Collection[str], wording: Wording
) -> list[str]:
    """The numeric columns that are meant: those asked for, else all but the index and what holds row labels.

    A column of text, dates, truth values or categories is an error, unless others are asked for: it is never left out silently.

    Raises:
        the errors of `wording`.
    """
    names, known = list(schema.names), Counter(schema.names)
    repeated = sorted(name for name, times in known.items() if times > 1)
    if repeated:
        raise wording.unusable(f"{wording.where}: the column name {repeated[0]!r} occurs more than once.")
    for name in [*(columns or []), *([index] if index else [])]:
        if name not in known:
            raise _unknown(name, names, wording)
    chosen = list(columns) if columns else [name for name in names if name != index and name not in labels]
    if not columns and "" in chosen:
        raise wording.unusable(
            f"{wording.where}: column {names.index('') + 1} has no name; name it in the header, choose the others by "
            f"{wording.columns}, or leave row labels out when the file is written."
        )
    asked = Counter(chosen)
    for name in chosen:
        if asked[name] > 1 or name == index:
            raise wording.repeated(f"{wording.where}: the column {name!r} is asked for twice.")
        if not is_numeric(schema.field(name).type):
            raise wording.not_numeric(
                f"{wording.where}: column {name!r} is not numeric ({schema.field(name).type}); choose the numeric columns "
                f"by {wording.columns}, or keep this one in the output by {wording.index}."
            )
    if not chosen:
        raise wording.unusable(f"{wording.where}: there are no columns to use besides the index.")
    return chosen


def pandas_index(schema: pa.Schema) -> list[str]:
    """Columns that the table itself says are no variables: those in which a pandas frame keeps its index."""
    try:
        metadata: Any = schema.pandas_metadata
    except ValueError:  # no JSON: whoever wrote it was not pandas
        return []
    declared = metadata.get("index_columns") if isinstance(metadata, dict) else None
    return [name for name in declared if isinstance(name, str) and name in schema.names] if isinstance(declared, list) else []


def is_numeric(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold a variable."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)


def _unknown(name: str, names: Sequence[str], wording: Wording) -> MvnjacError:
    close = difflib.get_close_matches(name, names, 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    shown = ", ".join(names[:50]) + (", …" if len(names) > 50 else "")
    return wording.unknown(f"{wording.where}: there is no column {name!r}.{hint} The columns are: {shown}.")
