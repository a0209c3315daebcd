"""Jobs that compute scores: their sums, their rows as one stream, or their rows as parts of a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from mvnjac.covariance.base import Covariance
from mvnjac.engines.folder import Folder
from mvnjac.engines.job import File, Job, Result, Unit
from mvnjac.gaussian import Gaussian
from mvnjac.inference.score_totals import ScoreSums
from mvnjac.jobs.data import Data
from mvnjac.score.jacobian import Jacobian
from mvnjac.statistics.pairwise import PairwiseReduction, SumTuple
from mvnjac.statistics.serialization import mapped
from mvnjac.tables.base import Sink, format_of
from mvnjac.tables.rows import Rows

#: bytes of a chunk of the output in memory; a wide output has fewer rows per chunk
_CHUNK = 4 * 2**20


@dataclass(frozen=True)
class PortableGaussian:
    """A mean and a covariance as sent to workers, without the factorisation."""

    mean: Tensor
    covariance: Covariance
    names: tuple[str, ...] | None
    missing: str | None
    device: str
    boundary: tuple[str, ...] = ()

    @classmethod
    def of(cls, gaussian: Gaussian, device: str = "cpu") -> PortableGaussian:
        """The mean and the covariance of a Gaussian."""
        names = None if gaussian.names is None else tuple(gaussian.names)
        return cls(
            gaussian.mean, gaussian.covariance, names, gaussian.model.arguments.missing, device, tuple(gaussian.boundary)
        )

    def gaussian(self) -> Gaussian:
        """The Gaussian, on the device."""
        mean = None if self.covariance.mean is not None else self.mean.to(self.device)
        covariance = self.covariance if self.device == "cpu" else self.covariance.map(lambda t: t.to(self.device))
        gaussian = Gaussian(mean, covariance, names=self.names, missing=self.missing)
        gaussian.boundary = list(self.boundary)
        return gaussian


@dataclass(frozen=True)
class Sum(Job):
    """Sums of the scores of a unit."""

    tag = "sums"
    data: Data
    names: tuple[str, ...]
    density: PortableGaussian
    wrt: tuple[str, ...] | None
    squares: bool = False
    gram: bool = False
    errors: tuple[str, ...] = ()

    @cached_property
    def score_sums(self) -> ScoreSums:
        """Computes the sums of batches, and results from the total sums."""
        return ScoreSums(self.density.gaussian(), self.wrt, self.squares, self.gram, self.errors)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "score_sums"}

    def run(self, unit: Unit, on_rows: Callable[[int], None]) -> Result:
        return self._run(unit, on_rows, lambda rows, J: None)

    def _run(self, unit: Unit, on_rows: Callable[[int], None], process: Callable[[Rows, Jacobian], None]) -> Result:
        reduction, score_sums = PairwiseReduction[SumTuple](), self.score_sums

        def add(i: int, rows: Rows) -> None:
            derivatives = score_sums.derivatives(rows.x.to(self.density.device))
            reduction.add(i, score_sums.of(derivatives))
            process(rows, Jacobian(derivatives))

        count = self.data.for_each_batch(self.names, unit.at, on_rows, add)
        sums = reduction.total()
        return Result(unit.number, count, sums if self.density.device == "cpu" else mapped(sums, Tensor.cpu))


@dataclass(frozen=True)
class Stream(Job):
    """Writes the rows of scores to a sink in this process, unit by unit."""

    tag = "stream"
    data: Data
    names: tuple[str, ...]
    density: PortableGaussian
    wrt: tuple[str, ...] | None
    layout: str
    schema: pa.Schema
    sink: Sink

    @cached_property
    def _gaussian(self) -> Gaussian:
        return self.density.gaussian()

    def run(self, unit: Unit, on_rows: Callable[[int], None]) -> Result:
        def write(_: int, rows: Rows) -> None:
            J = self._gaussian.jacobian(rows.x.to(self.density.device))
            _write(self.sink, rows, J, self.wrt, self.layout, self.schema)

        count = self.data.for_each_batch(self.names, unit.at, on_rows, write)
        return Result(unit.number, count, None)


@dataclass(frozen=True)
class PartJob(Sum):
    """Writes the rows of scores as one part of a folder, and returns their sums.

    Attributes:
        folder: its path or address.
        form: the suffix of the parts.
        digits: the number of digits of the part's number in its name.
    """

    tag = "parts"
    layout: str = "unique"
    schema: pa.Schema = None
    folder: str = ""
    form: str = ".parquet"
    digits: int = 5

    def run(self, unit: Unit, on_rows: Callable[[int], None]) -> Result:
        files = list[File]()
        with Folder(self.folder).writing(files) as temporary:
            path = temporary / f"part-{unit.number:0{self.digits}d}{self.form}"
            sink = format_of(path).sink(path, self.schema)
            result = self._run(unit, on_rows, lambda rows, J: _write(sink, rows, J, self.wrt, self.layout, self.schema))
            sink.close()
        return Result(result.number, result.rows, result.sums, tuple(files))


def _write(sink: Sink, rows: Rows, J: Jacobian, wrt: Sequence[str] | None, layout: str, schema: pa.Schema) -> None:
    columns = len(schema) - (rows.index is not None)
    for first, matrix in _chunks(J, wrt, layout, columns, sink.row_major):
        keys = None if rows.index is None else rows.index.slice(first, len(matrix))
        if keys is not None and keys.type != schema.field(0).type:  # dates as timestamps: see `schema_of_scores`
            keys = keys.cast(schema.field(0).type)
        sink.write_rows(keys, matrix.numpy(), schema)


def _chunks(J: Jacobian, wrt: Sequence[str] | None, layout: str, columns: int, row_major: bool) -> Iterator[tuple[int, Tensor]]:
    """(first row, matrix) for chunks of rows, in the memory order in which the table is stored."""
    step = max(1, _CHUNK // (8 * max(columns, 1)))
    for first in range(0, J.batch[0], step):
        part = J[first : first + step]
        shape = (part.batch[0], columns)
        out = torch.empty(shape if row_major else shape[::-1], dtype=J.dtype, device=J.device)
        yield first, part.matrix(wrt, layout, out=out if row_major else out.mT).cpu()
