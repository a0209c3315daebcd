"""Rounds: in each, every contestant is timed once, in turn. Only ratios within a round mean anything on a shared machine."""

from __future__ import annotations

import statistics
from collections.abc import Collection
from dataclasses import dataclass, field

from benchmarks.process import ContestantError, Process
from benchmarks.workload import Workload


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Args:
        rounds: at most.
        seconds: of each contestant in all rounds, of which there are three at least.
        slow: seconds; who takes longer is timed once, and left out where the configuration is not the first.
        sample: seconds; a shorter call is repeated in each round until it has taken so long, after a quarter as many untimed ones:
            the first call after another process had the processor takes 200 to 600 µs more.
    """

    rounds: int = 11
    seconds: float = 1.5
    slow: float = 5.0
    sample: float = 0.01

    def rounds_of(self, seconds: float) -> int:
        return max(3, min(self.rounds, int(self.seconds / seconds)))

    def calls_of(self, process: Process) -> int:
        """How many of its calls are a sample; the first estimate is of a call that may be a cold one."""
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
        times: seconds a call by contestant, one a round; who is slow takes part in the first rounds only.
        shares: processor time over time, one a round and contestant of one thread. Below 1, others had the machine.
        peak: bytes above the inputs by contestant.
        failed: who raised, and what.
        left_out: who was too slow.
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
        """The median over the rounds that both took part in."""
        pairs = list(zip(self.times.get(name, ()), self.times.get(to, ()), strict=False))
        return statistics.median(a / b for a, b in pairs) if pairs else None


def measure(workload: Workload, dtype: str, threads: int, effort: Effort, without: Collection[str] = ()) -> Measurement:
    """One workload in one configuration, without some contestants."""
    measurement = Measurement(workload.group, workload.size, dtype, threads)
    processes: dict[str, Process] = {}
    try:
        for contestant in workload.contestants:
            if contestant.name in without:
                measurement.left_out.append(contestant.name)
                continue
            try:
                processes[contestant.name] = process = Process(workload, contestant, dtype, threads)
                measurement.peak[contestant.name] = process.peak
            except ContestantError as error:
                measurement.failed[contestant.name] = str(error)
        alone = {c.name for c in workload.contestants if (c.threads or threads) == 1}
        _rounds(processes, measurement, effort, alone)
    finally:
        for process in processes.values():
            process.close()
    return measurement


def _rotated(names: list[str], index: int) -> list[str]:
    """Nobody always comes after the same: some leave the machine slower than others."""
    start = 5 * index % max(len(names), 1)
    return names[start:] + names[:start]


def _untimed(calls: int) -> int:
    return -(-calls // 4) if calls > 1 else 0


def _rounds(processes: dict[str, Process], measurement: Measurement, effort: Effort, alone: Collection[str]) -> None:
    """Who is slow has had its only turn: the first call."""
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
            except ContestantError as error:
                measurement.failed[name], rounds[name] = str(error), 0
                continue
            measurement.times.setdefault(name, []).append(wall)
            if name in alone:
                measurement.shares.append(processor / wall)
