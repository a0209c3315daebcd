"""The first rows of the scores, for a first look, without computing the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mvnjac.engines.job import Job, Result, Unit
from mvnjac.engines.run import Run
from mvnjac.jobs.data import Data
from mvnjac.jobs.density import Request, prepared
from mvnjac.jobs.output_schema import schema_of_scores
from mvnjac.jobs.scores import PortableGaussian
from mvnjac.tables.slices import rows_per_slice


@dataclass(frozen=True)
class TableHead:
    """The first rows of a table.

    Attributes:
        index: the heading of the labels.
        labels: (k,) the labels of the first rows.
        columns: the names of all p columns of numbers.
        numbers: (k, q) the first rows of the first columns.
        rows: the number of all rows.
    """

    index: str
    labels: list[Any]
    columns: list[str]
    numbers: np.ndarray
    rows: int


@dataclass(frozen=True)
class Count(Job):
    """The number of rows of a unit."""

    tag = "count"

    data: Data
    names: tuple[str, ...]

    def run(self, unit: Unit, on_rows: Callable[[int], None]) -> Result:
        return Result(unit.number, self.data.for_each_batch(self.names, unit.at, on_rows, lambda i, rows: None), None)


def jacobian_head(
    data: Data, request: Request, wrt: Sequence[str] | None, layout: str, run: Run, rows: int, columns: int
) -> TableHead:
    """The scores of the first rows with respect to the first parameters; without an index, rows are numbered from 1."""
    source, names, gaussian = prepared(data, request, run)
    schema = schema_of_scores(data, source, names, PortableGaussian.of(gaussian), wrt, layout, None)
    titles = schema.names[bool(data.index) :]
    slices = source.slices(rows_per_slice(len(names)))
    count = run.rows_of(slices)
    if count is None:
        count = run.over(Count(data, tuple(names)), slices, "counting the rows").rows
    labels, numbers = list[Any](), np.empty((0, min(columns, len(titles))))
    for batch in (batch for at in slices for batch in data.rows(names, at)):
        x = batch.x[: rows - len(labels)]
        numbers = np.concatenate([numbers, gaussian.jacobian(x).matrix(titles[:columns], layout).numpy()])
        first = len(labels) + 1
        labels += range(first, first + len(x)) if batch.index is None else batch.index[: len(x)].to_pylist()
        if len(labels) >= rows:
            break
    return TableHead(data.index or "row", labels, titles, numbers, count)
