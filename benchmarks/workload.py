"""A workload: data, and implementations that compute the same result from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Data = Mapping[str, np.ndarray]
#: the results of an implementation, by name
Result = Mapping[str, Any]
#: prepares the data and returns the function that is timed; the results of lower bounds are not compared
Prepare = Callable[[Data], Callable[[], Any]]


@dataclass(frozen=True)
class Implementation:
    """An implementation. `threads` and `dtype`, if given, override those of the configuration."""

    name: str
    prepare: Prepare
    threads: int | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Target:
    """At most `ratio` times the time of `against`; or at most the ratio of the times of two other implementations."""

    against: str
    ratio: float | tuple[str, str]


@dataclass(frozen=True)
class Entry:
    """An implementation with mvnjac, its targets, and the largest peak memory in addition to the inputs."""

    implementation: Implementation
    targets: tuple[Target, ...] = ()
    peak_mb: float | None = None


@dataclass(frozen=True)
class Workload:
    """One size of one task.

    Args:
        group, size: the table of the report, and the row in it.
        data: creates the float64 operands, deterministically.
        tiny: the same with a small size, for which the results of all implementations are compared.
        ours, peers, lower_bounds: the implementations; those in `ours` and `peers` give the same results.
        quick: whether it is part of `make bench-quick`.
        once: whether it is run in one configuration only, because it sets threads or dtypes itself.
    """

    group: str
    size: str
    data: Callable[[], Data]
    tiny: Callable[[], Data]
    ours: tuple[Entry, ...]
    peers: tuple[Implementation, ...] = ()
    lower_bounds: tuple[Implementation, ...] = ()
    quick: bool = False
    once: bool = False

    @property
    def name(self) -> str:
        return f"{self.group} {self.size}"

    @property
    def implementations(self) -> tuple[Implementation, ...]:
        return (*(entry.implementation for entry in self.ours), *self.lower_bounds, *self.peers)
