"""Results that print as a table, and convert to tables of pandas and Arrow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mvnjac.errors import UnknownNameError
from mvnjac.tables.html import MOST_ROWS, html_table, label_texts

#: the most rows that are printed
_MAX_PRINTED = 24


class ResultTable(ABC):
    """A result with labelled rows and named columns."""

    @abstractmethod
    def _title(self) -> str:
        """The line above the table."""

    @abstractmethod
    def _labels(self) -> Sequence[Any]:
        """The row labels."""

    @abstractmethod
    def _table(self) -> dict[str, Any]:
        """The columns: tensors (rows,), or sequences."""

    def to_pandas(self) -> Any:
        """The table as a pandas.DataFrame (needs pandas)."""
        import pandas as pd

        return pd.DataFrame({name: _plain(values) for name, values in self._table().items()}, index=list(self._labels()))

    def to_arrow(self) -> Any:
        """The table as a pyarrow.Table with the row labels in the first column, "name" (needs pyarrow)."""
        import pyarrow as pa

        columns = {"name": [_scalar(label) for label in self._labels()]}
        return pa.table(columns | {name: _plain(values) for name, values in self._table().items()})

    def _repr_html_(self) -> str:
        table, labels = self._table(), self._labels()
        shown = min(len(labels), MOST_ROWS)
        rows = list(zip(*(_plain(values)[:shown] for values in table.values()), strict=True))
        note = f"{shown} of {len(labels)} rows; to_pandas() has all." if shown < len(labels) else ""
        return html_table(self._title(), list(table), list(labels)[:shown], rows, note)

    def __repr__(self) -> str:
        table = self._table()
        labels = label_texts(self._labels())
        shown = (
            range(len(labels)) if len(labels) <= _MAX_PRINTED else [*range(_MAX_PRINTED // 2), *range(-(_MAX_PRINTED // 2), 0)]
        )
        cells = [["", *table]]
        plain = {name: _plain(values) for name, values in table.items()}
        cells += [[labels[i], *(_cell(values[i]) for values in plain.values())] for i in shown]
        if len(labels) > _MAX_PRINTED:
            cells.insert(1 + _MAX_PRINTED // 2, ["…"] * len(cells[0]))
        widths = [max(len(row[j]) for row in cells) for j in range(len(cells[0]))]
        lines = [
            "  ".join(cell.ljust(w) if j == 0 else cell.rjust(w) for j, (cell, w) in enumerate(zip(row, widths, strict=True)))
            for row in cells
        ]
        return "\n".join([self._title(), *(line.rstrip() for line in lines)])


class ResultFields:
    """A result of a few numbers, a dataclass: one line in a terminal, a table of its fields in a notebook."""

    def _repr_html_(self) -> str:
        shown = [(name, value) for name, value in vars(self).items() if not name.startswith("_")]
        rows = [[value] for _, value in shown if value not in (None, "")]
        labels = [name for name, value in shown if value not in (None, "")]
        return html_table(type(self).__name__, [""], labels, rows)


def position(function: str, columns: Sequence[str], name: str) -> int:
    """The position of a column."""
    if name not in columns:
        raise UnknownNameError(f"{function}: there is no column {name!r}; expected one of {', '.join(columns[:6])}, ….")
    return list(columns).index(name)


def _plain(values: Any) -> list[Any]:
    return [_scalar(v) for v in (values.tolist() if isinstance(values, Tensor) else values)]


def _scalar(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
