"""What is timed: a workload is data, and contestants who compute the same from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Data = Mapping[str, np.ndarray]
#: what a contestant computes, by name
Result = Mapping[str, Any]
#: gets the data ready, as a user holds them, and returns the call that is timed; what a floor's call returns is not compared
Prepare = Callable[[Data], Callable[[], Any]]


@dataclass(frozen=True)
class Contestant:
    """Who computes it. `threads` and `dtype`, where given, go before the run's own."""

    name: str
    prepare: Prepare
    threads: int | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Target:
    """At most `ratio` times the time of `against`; or at most the ratio of two other contestants' times."""

    against: str
    ratio: float | tuple[str, str]


@dataclass(frozen=True)
class Entry:
    """One way through the library, its targets, and the peak memory above the inputs that it may take."""

    contestant: Contestant
    targets: tuple[Target, ...] = ()
    peak_mb: float | None = None


@dataclass(frozen=True)
class Workload:
    """One size of one task.

    Args:
        group, size: which table, which row of it.
        data: makes the operands, float64; nothing is random about them.
        tiny: the same at a size where every contestant can be compared with every other.
        ours, peers, floors: the contestants; every peer gives the numbers that ours give.
        quick: is part of `make bench-quick`.
        once: has its own threads or dtypes, so that one configuration is enough.
    """

    group: str
    size: str
    data: Callable[[], Data]
    tiny: Callable[[], Data]
    ours: tuple[Entry, ...]
    peers: tuple[Contestant, ...] = ()
    floors: tuple[Contestant, ...] = ()
    quick: bool = False
    once: bool = False

    @property
    def name(self) -> str:
        return f"{self.group} {self.size}"

    @property
    def contestants(self) -> tuple[Contestant, ...]:
        return (*(entry.contestant for entry in self.ours), *self.floors, *self.peers)
