"""The jobs over scores, unit by unit: their sums; their rows, as one stream; their rows, as a part of a folder."""

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
from mvnjac.tables.base import Sink, Source, format_of
from mvnjac.tables.rows import Rows
from mvnjac.tensors import memory

#: A chunk of the output in memory, in bytes; wide outputs take fewer rows a chunk.
_CHUNK = 4 * 2**20
#: bytes for each column of a table that is written, measured: its name, its type, and what the formats' writers keep of it
_COLUMN = 8192


@dataclass(frozen=True)
class Density:
    """A mean and a covariance as they travel: numbers, no factor."""

    mean: Tensor
    covariance: Covariance
    names: tuple[str, ...] | None
    missing: str | None
    device: str
    boundary: tuple[str, ...] = ()

    @classmethod
    def of(cls, gaussian: Gaussian, device: str = "cpu") -> Density:
        """That of a Gaussian."""
        names = None if gaussian.names is None else tuple(gaussian.names)
        return cls(gaussian.mean, gaussian.covariance, names, gaussian.model.missing, device, tuple(gaussian.boundary))

    def gaussian(self) -> Gaussian:
        """It, factorised."""
        mean = None if self.covariance.mean is not None else self.mean.to(self.device)
        covariance = self.covariance if self.device == "cpu" else self.covariance.map(lambda t: t.to(self.device))
        gaussian = Gaussian(mean, covariance, names=self.names, missing=self.missing)
        gaussian.boundary = list(self.boundary)
        return gaussian


@dataclass(frozen=True)
class Sum(Job):
    """The sums of a unit's scores."""

    data: Data
    names: tuple[str, ...]
    density: Density
    wrt: tuple[str, ...] | None
    squares: bool = False
    gram: bool = False
    errors: tuple[str, ...] = ()

    @cached_property
    def kernel(self) -> ScoreSums:
        """What is summed, and what follows from it."""
        return ScoreSums(self.density.gaussian(), self.wrt, self.squares, self.gram, self.errors)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "kernel"}

    def run(self, unit: Unit, on_rows: Callable[[int], None]) -> Result:
        return self._over(unit, on_rows, lambda rows, J: None)

    def _over(self, unit: Unit, on_rows: Callable[[int], None], each: Callable[[Rows, Jacobian], None]) -> Result:
        tree, kernel = PairwiseReduction[SumTuple](), self.kernel

        def add(i: int, rows: Rows) -> None:
            derivatives = kernel.derivatives(rows.x.to(self.density.device))
            tree.add(i, kernel.of(derivatives))
            each(rows, Jacobian(derivatives))

        count = self.data.through(self.names, unit.at, on_rows, add)
        sums = tree.total()
        return Result(unit.number, count, sums if self.density.device == "cpu" else mapped(sums, Tensor.cpu))


@dataclass(frozen=True)
class Stream(Job):
    """The rows of scores, into a sink that is open in this process, one unit after the other."""

    data: Data
    names: tuple[str, ...]
    density: Density
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

        count = self.data.through(self.names, unit.at, on_rows, write)
        return Result(unit.number, count, None)


@dataclass(frozen=True)
class Part(Sum):
    """The rows of scores, as a part of a folder; and their sums, which say the same of any output.

    folder: its path or address; form: the suffix of the parts; digits: of a part's number in its name.
    """

    layout: str = "unique"
    schema: pa.Schema = None
    folder: str = ""
    form: str = ".parquet"
    digits: int = 5

    def run(self, unit: Unit, on_rows: Callable[[int], None]) -> Result:
        files = list[File]()
        with Folder(self.folder).writing(files) as place:
            path = place / f"part-{unit.number:0{self.digits}d}{self.form}"
            sink = format_of(path).sink(path, self.schema)
            result = self._over(unit, on_rows, lambda rows, J: _write(sink, rows, J, self.wrt, self.layout, self.schema))
            sink.close()
        return Result(result.number, result.rows, result.sums, tuple(files))


def schema_of(data: Data, source: Source, density: Density, wrt: Sequence[str] | None, layout: str) -> pa.Schema:
    """The index, then the columns of `J.matrix(wrt, layout)`."""
    empty = density.gaussian().jacobian(density.mean.new_zeros(0, density.mean.numel(), device=density.device))
    count = empty.selection(wrt, layout).size
    memory.require_bytes(
        f"jacobian: {count:,} columns of scores", _COLUMN * count, torch.device("cpu"), "choose fewer variables by --columns, or fewer "
        "columns by --wrt; --sum-only needs one number for each."
    )  # fmt: skip
    fields = [(name, pa.float64()) for name in empty.columns(wrt, layout)]
    if data.index:
        fields.insert(0, (data.index, source.schema.field(data.index).type))
    return pa.schema(fields)


def _write(sink: Sink, rows: Rows, J: Jacobian, wrt: Sequence[str] | None, layout: str, schema: pa.Schema) -> None:
    columns = len(schema) - (rows.index is not None)
    for first, matrix in _chunks(J, wrt, layout, columns, sink.row_major):
        keys = None if rows.index is None else rows.index.slice(first, len(matrix))
        sink.write_rows(keys, matrix.numpy(), schema)


def _chunks(J: Jacobian, wrt: Sequence[str] | None, layout: str, columns: int, row_major: bool) -> Iterator[tuple[int, Tensor]]:
    """(first row, matrix) for slices of rows; a matrix lies in memory as its table is stored."""
    step = max(1, _CHUNK // (8 * max(columns, 1)))
    for first in range(0, J.batch[0], step):
        part = J[first : first + step]
        shape = (part.batch[0], columns)
        out = torch.empty(shape if row_major else shape[::-1], dtype=J.dtype, device=J.device)
        yield first, part.matrix(wrt, layout, out=out if row_major else out.mT).cpu()
