"""All rows of a table in memory, in the order of time where their index says it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.engines.run import Run
from mvnjac.errors import MemoryLimitError, TableError, counted
from mvnjac.jobs.data import Data
from mvnjac.tables.base import Source
from mvnjac.tables.chronology import sorts_in_time
from mvnjac.tables.rows import Rows, tensor_batches
from mvnjac.tensors import memory
from mvnjac.tensors.allocation import human

#: how many matrices of the scores of all rows are held at once where most are: by the test of breaks, as a series
_MATRICES = 7
#: how many p×p matrices: an information, its inverse and their work space
_SQUARES = 13


@dataclass(frozen=True)
class Observations:
    """The rows.

    Attributes:
        x: (n, d) float64, NaN where an entry is missing.
        labels: (n,) the index; numbers from 1 where there is none.
        sorted: whether the rows are in ascending order of the index; otherwise they are as in the file.
    """

    x: Float[Tensor, "n d"]
    labels: list[Any]
    sorted: bool


def observations(data: Data, source: Source, names: Sequence[str], parameters: int, run: Run) -> Observations:
    """All rows of the table.

    Args:
        parameters: how many scores a row has.

    Raises:
        TableError: there are none.
        MemoryLimitError: what is computed from them would not fit into memory.
    """
    batches, count = [], 0
    for rows in tensor_batches(source, names, data.index, data.missing is not None):
        batches.append(rows)
        count += len(rows.x)
        _require_memory(data, count, len(names), parameters)
        run.progress("reading", len(rows.x), None)
    if not batches:
        raise TableError(f"{data.path}: there are no rows to report on.")
    x = torch.cat([rows.x for rows in batches])
    labels = _labels(batches)
    if labels is None:
        return Observations(x, list(range(1, len(x) + 1)), False)
    if not sortable(labels):
        return Observations(x, labels, False)
    order = sorted(range(len(x)), key=lambda i: labels[i])
    return Observations(x[order], [labels[i] for i in order], True)


def _require_memory(data: Data, rows: int, variables: int, parameters: int) -> None:
    needed, free = _needed(rows, variables, parameters), memory.available(torch.device("cpu"))
    if free is not None and needed > free:
        raise MemoryLimitError(
            f"{data.path}: {counted(rows, 'row', ',')} of scores by {counted(parameters, 'parameter')}, seven times over, "
            f"and the covariance of the parameters are {human(needed)}, but there are {human(free)} free: report on fewer rows, on "
            "fewer variables by --columns, or on a --structure of fewer parameters; `mvnjac score` needs no more memory for more rows."
        )


def _needed(rows: int, variables: int, parameters: int) -> int:
    """Bytes of all of it: the scores, and the covariance of the parameters with what is made of it."""
    return 8 * (rows * (_MATRICES * parameters + variables) + _SQUARES * parameters**2)


def sortable(labels: Iterable[Any]) -> bool:
    """Whether ascending labels are the order of time; of text: `chronology.sorts_in_time`."""
    found = list(labels)
    if any(label is None or label != label for label in found):
        return False
    return sorts_in_time(found) if isinstance(found[0], str) else True


def _labels(batches: Sequence[Rows]) -> list[Any] | None:
    labels: list[Any] = []
    for rows in batches:
        if rows.index is None:
            return None
        labels += rows.index.to_pylist()
    return labels
