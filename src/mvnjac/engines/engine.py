"""The contract of an engine, and the choice of one."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mvnjac.engines.job import Job, Result, Unit
from mvnjac.errors import UsageError

NAMES = ("local", "ray")


@dataclass(frozen=True)
class Resources:
    """The engine of a command and its resources.

    Args:
        engine: "local" or "ray".
        workers: the number of workers; None: chosen by the engine.
        gpus: the number of GPUs per worker; a fraction if workers share one.
        address: the address of a running Ray cluster.

    Raises:
        UsageError: an unknown engine, or an address without Ray.
    """

    engine: str = "local"
    workers: int | None = None
    gpus: float = 0.0
    address: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in NAMES:
            raise UsageError(f"--engine: there is no engine {self.engine!r}; expected one of {', '.join(NAMES)}.")
        if self.address is not None and self.engine != "ray":
            raise UsageError("--address: is the address of a Ray cluster; add --engine ray.")

    @property
    def device(self) -> str:
        """The device of the tensors."""
        return "cuda" if self.gpus else "cpu"

    def open(self) -> Engine:
        """Create the engine; its module is imported only now."""
        module = importlib.import_module(f"mvnjac.engines.{self.engine}")
        engine: Engine = module.open_engine(self)
        return engine


class Engine(ABC):
    """Runs the units of a job. A new engine is one module of this package with a function `open_engine(resources)`."""

    @abstractmethod
    def results(self, job: Job, units: Sequence[Unit], on_rows: Callable[[int], None]) -> Iterator[Result]:
        """The result of each unit, exactly once, in any order; `on_rows` is called with numbers of further rows that are done.

        Raises:
            MvnjacError: a unit failed, or its worker died too often.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the workers."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
