"""The labels of the rows of a table, which results keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mvnjac.tables.dataframes import Observations


@dataclass(frozen=True)
class RowIndex:
    """The labels of n rows.

    Attributes:
        labels: the index of a pandas data frame, or a list.
        name: the name of the labels; None if the rows are only numbered.
    """

    labels: Any
    name: str | None = None

    @classmethod
    def of(cls, rows: Observations) -> RowIndex:
        """The labels of the rows of a table."""
        return cls(rows.row_labels(), rows.index_name)

    def take(self, rows: slice | Tensor) -> RowIndex:
        """The labels of some of the rows."""
        if isinstance(rows, slice):
            return RowIndex(self.labels[rows], self.name)
        numbers = rows.tolist()
        labels = self.labels[numbers] if hasattr(self.labels, "get_indexer") else [self.labels[i] for i in numbers]
        return RowIndex(labels, self.name)
