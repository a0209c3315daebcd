"""All rows in memory, sorted by their labels if these are in a known order of time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.engines.run import Run
from mvnjac.errors import MemoryLimitError, TableError, counted
from mvnjac.jobs.data import Data
from mvnjac.tables.base import Source
from mvnjac.tables.chronology import sorts_in_time
from mvnjac.tables.slices import rows_per_slice
from mvnjac.tensors import memory
from mvnjac.tensors.allocation import human

#: the largest number of n×p matrices in memory at the same time, in the test for breaks of a time series
_MATRICES = 7
#: the largest number of p×p matrices: an information, its inverse, and their work space
_SQUARES = 13


@dataclass(frozen=True)
class LabelledRows:
    """Rows and their labels.

    Attributes:
        x: (n, d) float64, NaN where an entry is missing.
        labels: (n,) the index, or numbers from 1.
        sorted: whether the rows have been sorted by the index, ascending; otherwise they are in their original order.
    """

    x: Float[Tensor, "n d"]
    labels: list[Any]
    sorted: bool


def load_rows(data: Data, source: Source, names: Sequence[str], parameters: int, run: Run) -> LabelledRows:
    """All rows of a table file.

    Args:
        parameters: the number of scores of a row.

    Raises:
        TableError: the table has no rows.
        MemoryLimitError: the scores of all rows do not fit into memory.
    """
    batches, count = [], 0
    with run.progress.stage("loading the rows", run.rows_of(source.slices(rows_per_slice(len(names))))) as stage:
        for rows in data.rows_of(source, names):
            batches.append(rows)
            count += len(rows.x)
            require_memory(str(data.path), count, len(names), parameters)
            stage.advance(len(rows.x))
    if not batches:
        raise TableError(f"{data.path}: there are no rows to report on.")
    labels = [label for rows in batches if rows.index is not None for label in rows.index.to_pylist()]
    return labelled(torch.cat([rows.x for rows in batches]), labels if data.index else None)


def labelled(x: Float[Tensor, "n d"], labels: Sequence[Any] | None) -> LabelledRows:
    """The rows with their labels, sorted if the order of the labels is that of time; None: numbers from 1."""
    if labels is None:
        return LabelledRows(x, list(range(1, len(x) + 1)), False)
    labels = [_known(label) for label in labels]
    if all(isinstance(label, datetime) and label.time() == time() and label.tzinfo is None for label in labels):
        labels = [label.date() for label in labels]  # dates that are stored as timestamps
    if not sortable(labels):
        return LabelledRows(x, list(labels), False)
    order = sorted(range(len(x)), key=lambda i: labels[i])
    return LabelledRows(x[order], [labels[i] for i in order], True)


def _known(label: Any) -> Any:
    """A number, text or date; None for a missing label; the text of anything else, such as a period."""
    if label is None or label != label:  # also pandas' NaT, which is a datetime
        return None
    return label if isinstance(label, str | int | float | date | np.generic) else str(label)


def require_memory(where: str, rows: int, variables: int, parameters: int) -> None:
    """Raise a MemoryLimitError if the computations of a report do not fit into memory."""
    needed = 8 * (rows * (_MATRICES * parameters + variables) + _SQUARES * parameters**2)
    free = memory.available(torch.device("cpu"))
    if free is not None and needed > free:
        raise MemoryLimitError(
            f"{where}: a report needs {human(needed)} for {counted(rows, 'row', ',')} and {counted(parameters, 'parameter')}, but "
            f"{human(free)} are free: use fewer rows, fewer variables (--columns) or a structure with fewer parameters "
            "(--structure). The memory of `mvnjac score` does not grow with the number of rows."
        )


def sortable(labels: Iterable[Any]) -> bool:
    """Whether the ascending order of the labels is the order of time; for text see `chronology.sorts_in_time`."""
    found = list(labels)
    if any(label is None or label != label for label in found):
        return False
    return sorts_in_time(found) if isinstance(found[0], str) else True
