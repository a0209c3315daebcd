"""What an engine must supply, and which there are."""

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
    """Where work is done.

    engine: "local" or "ray"; workers: how many, None: as many as there are cores to use; gpus: how many graphics processors each
    worker has, a fraction where they share one; address: of a running Ray cluster.
    """

    engine: str = "local"
    workers: int | None = None
    gpus: float = 0.0
    address: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in NAMES:
            raise UsageError(f"--engine: there is no engine {self.engine!r}; expected one of {', '.join(NAMES)}.")
        if self.address is not None and self.engine != "ray":
            raise UsageError("--address: is that of a Ray cluster; say --engine ray, too.")

    @property
    def device(self) -> str:
        """Where tensors lie."""
        return "cuda" if self.gpus else "cpu"

    def open(self) -> Engine:
        """The engine, which imports what it needs only now."""
        module = importlib.import_module(f"mvnjac.engines.{self.engine}")
        engine: Engine = module.open_engine(self)
        return engine


class Engine(ABC):
    """Something that runs units of work."""

    @abstractmethod
    def results(self, job: Job, units: Sequence[Unit], on_rows: Callable[[int], None]) -> Iterator[Result]:
        """Each unit's result, once, in any order; `on_rows` hears of rows as they are done.

        Raises:
            MvnjacError: a unit failed, or its worker died again and again.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the workers."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
