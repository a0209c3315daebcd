"""The groups of options that commands share, each with what follows from its options."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from mvnjac.cli import options
from mvnjac.cli.grouping import OptionGroup
from mvnjac.cli.options import Engine, Missing
from mvnjac.cli.table_options import ReadingOptions

if TYPE_CHECKING:
    from mvnjac.engines.checkpoint import Checkpoint
    from mvnjac.engines.run import Run
    from mvnjac.jobs.data import Data
    from mvnjac.jobs.density import Request


@dataclass(frozen=True, kw_only=True)
class RowOptions(OptionGroup):
    """Which observations."""

    PANEL = "Data"
    data: options.Data
    columns: options.Columns = None
    index: options.Index = None
    log_returns: options.LogReturns = False
    returns: options.Returns = False
    missing: options.MissingValues = Missing.error


@dataclass(frozen=True, kw_only=True)
class TableOptions(ReadingOptions, RowOptions):
    """Which observations, and how they are read."""

    def table(self) -> Data:
        """The observations; to be called once, after all other options have been checked.

        Without an index, the first column is taken if it consists of dates, and a line says so.
        """
        from mvnjac.jobs.data import Data

        given = Data(
            self.data,
            options.names(self.columns),
            self.index,
            self.log_returns,
            "marginalise" if self.missing is Missing.marginalise else None,
            self.returns,
            self.missing is Missing.drop,
            self.reading(),
        )
        data = given.settled()
        if data.index != given.index:
            print(
                f"{self.data}: the rows are labelled by {data.index!r}, which consists of dates (--index selects another column).",
                file=sys.stderr,
            )
        return data


@dataclass(frozen=True)
class DensityOptions(OptionGroup):
    """Which mean and covariance."""

    PANEL = "Mean and covariance (default: estimated from DATA)"
    mean: options.Mean = None
    covariance: options.Covariance = None
    model: options.Model = None
    structure: options.Structure = None

    def request(self) -> Request:
        """The origin of the mean and the covariance."""
        from mvnjac.jobs.density import Request

        return Request(self.mean, self.covariance, self.model, self.structure)


@dataclass(frozen=True)
class ParameterOptions(OptionGroup):
    """Which parameters the derivatives are taken with respect to."""

    PANEL = "Results"
    wrt: options.Wrt = None
    parametrisation: options.Parametrisation = None

    def names(self) -> list[str] | None:
        """The columns of the Jacobian; None for the default."""
        from mvnjac.jobs import commands

        return options.wrt_names(self.wrt) or commands.parameters(self.parametrisation)

    def question(self) -> dict[str, str | None]:
        """The options for a checkpoint."""
        return {"wrt": self.wrt, "parametrisation": self.parametrisation}


@dataclass(frozen=True)
class EngineOptions(OptionGroup):
    """What runs a command."""

    PANEL = "Running"
    engine: options.EngineName = Engine.local
    workers: options.Workers = None
    address: options.Address = None

    def running(
        self, checkpoint: Checkpoint | None = None, resumable: bool = False, gpus: float = 0
    ) -> contextlib.AbstractContextManager[Run]:
        """The engine, as in `session.running`."""
        from mvnjac.cli.session import running

        return running(self.engine, self.workers, gpus, self.address, checkpoint, resumable)


@dataclass(frozen=True)
class GpuOptions(OptionGroup):
    """Which GPUs the workers use."""

    PANEL = "Running"
    gpus: options.Gpus = 0


@dataclass(frozen=True)
class KeepOptions(OptionGroup):
    """How an interrupted command can be resumed."""

    PANEL = "Running"
    keep: options.Keep = None
    resume: options.Resume = False

    def checkpoint(
        self, command: str, data: Data, request: Request, question: dict[str, str | None], force: bool
    ) -> Checkpoint | None:
        """The checkpoint in the folder of --keep; None without it."""
        from mvnjac.cli.session import open_checkpoint

        return open_checkpoint(command, data, request, question, self.keep, self.resume, force)


@dataclass(frozen=True)
class OverwriteOptions(OptionGroup):
    """Whether an output may replace a file."""

    PANEL = "Output"
    force: Annotated[bool, typer.Option("--force", help="Replace an existing output.")] = False
