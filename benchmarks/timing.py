"""Timing in rounds: in each round, every implementation is timed once. On a shared machine, only ratios within a round are reliable."""

from __future__ import annotations

import statistics
from collections.abc import Collection
from dataclasses import dataclass, field

from benchmarks.isolation import ImplementationError, Process
from benchmarks.workload import Workload


@dataclass(frozen=True)
class Effort:
    """The duration of the measurements.

    Args:
        rounds: the largest number of rounds.
        seconds: the time of each implementation in all rounds; there are at least three rounds.
        slow: an implementation that takes longer, in seconds, is timed once, and left out in all configurations but the first.
        sample: the least seconds of a sample. Shorter calls are repeated, after a quarter as many untimed calls, because the first
            call after another process has used the processor takes 200 to 600 µs longer.
    """

    rounds: int = 11
    seconds: float = 1.5
    slow: float = 5.0
    sample: float = 0.01

    def rounds_of(self, seconds: float) -> int:
        return max(3, min(self.rounds, int(self.seconds / seconds)))

    def calls_of(self, process: Process) -> int:
        """The number of calls of a sample, estimated repeatedly, because the first call may be slow."""
        calls = 1
        for _ in range(3):
            calls = max(1, round(self.sample / process.time(calls)[0]))
            if calls == 1:
                break
        return calls


QUICK = Effort(rounds=5, seconds=0.5, slow=1.0)


@dataclass
class Measurement:
    """The times of one workload in one configuration.

    Attributes:
        times: seconds per call, by implementation and round; slow implementations take part in the first rounds only.
        shares: processor time divided by time, for each round and implementation with one thread; below 1, other processes used
            the machine.
        peak: bytes in addition to the inputs, by implementation.
        failed: the errors, by implementation.
        left_out: implementations that are too slow.
    """

    group: str
    size: str
    dtype: str
    threads: int
    times: dict[str, list[float]] = field(default_factory=dict)
    shares: list[float] = field(default_factory=list)
    peak: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def configuration(self) -> tuple[str, int]:
        return self.dtype, self.threads

    def seconds(self, name: str) -> float | None:
        return statistics.median(self.times[name]) if self.times.get(name) else None

    def ratio(self, name: str, to: str) -> float | None:
        """The median ratio over the rounds with both implementations."""
        pairs = list(zip(self.times.get(name, ()), self.times.get(to, ()), strict=False))
        return statistics.median(a / b for a, b in pairs) if pairs else None


def measure(workload: Workload, dtype: str, threads: int, effort: Effort, without: Collection[str] = ()) -> Measurement:
    """One workload in one configuration, without some implementations."""
    measurement = Measurement(workload.group, workload.size, dtype, threads)
    processes: dict[str, Process] = {}
    try:
        for implementation in workload.implementations:
            if implementation.name in without:
                measurement.left_out.append(implementation.name)
                continue
            try:
                processes[implementation.name] = process = Process(workload, implementation, dtype, threads)
                measurement.peak[implementation.name] = process.peak
            except ImplementationError as error:
                measurement.failed[implementation.name] = str(error)
        single_threaded = {c.name for c in workload.implementations if (c.threads or threads) == 1}
        _rounds(processes, measurement, effort, single_threaded)
    finally:
        for process in processes.values():
            process.close()
    return measurement


def _rotated(names: list[str], index: int) -> list[str]:
    """A rotation of the names, since the implementation timed before affects the time of the next."""
    start = 5 * index % max(len(names), 1)
    return names[start:] + names[:start]


def _untimed(calls: int) -> int:
    return -(-calls // 4) if calls > 1 else 0


def _rounds(processes: dict[str, Process], measurement: Measurement, effort: Effort, single_threaded: Collection[str]) -> None:
    """Time all implementations; for slow ones, the first call is the only sample."""
    for name, process in processes.items():
        if process.seconds > effort.slow:
            measurement.times[name] = [process.seconds]
    timed = {name: process for name, process in processes.items() if name not in measurement.times}
    calls = {name: effort.calls_of(process) for name, process in timed.items()}
    seconds = {name: process.time(calls[name], _untimed(calls[name]))[0] for name, process in timed.items()}
    rounds = {name: effort.rounds_of(seconds[name]) for name in timed}
    for index in range(max(rounds.values(), default=0)):
        for name in _rotated([name for name in timed if index < rounds[name]], index):
            try:
                wall, processor = timed[name].time(calls[name], _untimed(calls[name]))
            except ImplementationError as error:
                measurement.failed[name], rounds[name] = str(error), 0
                continue
            measurement.times.setdefault(name, []).append(wall)
            if name in single_threaded:
                measurement.shares.append(processor / wall)
