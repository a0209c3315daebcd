"""The report of the measurements in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from itertools import groupby

from benchmarks.timing import Measurement
from benchmarks.workload import Entry, Target, Workload

CONFIGURATIONS = [("float64", 1), ("float32", 1), ("float64", 2), ("float32", 2)]
FIRST = CONFIGURATIONS[0]  # the configuration of the targets

PREFACE = """\
# Measured

`make bench` writes this file. A ratio is the time of mvnjac divided by the time of another implementation; below 1, mvnjac is faster.
Each implementation runs in a separate process, which is stopped while others are timed. In each round, every implementation is timed
once, in an order that changes from round to round; a ratio is the median over the rounds. "Best peer" is the other library with
the least favourable ratio. A lower bound does only the part of the work that cannot be avoided. Peak memory is the largest amount of
memory that the first call used in addition to its inputs, in MB of 10⁶ bytes; with `out=`, the output is an input. Releasing the
result is not timed. Times are medians. Each sample repeats a call for 10 ms, after a quarter as many untimed calls. An
implementation that takes more than 5 s (more than 1 s in `make bench-quick`) is timed once. Targets are for float64 and one thread,
except in the group that compares 2 threads with 1.
"""


def markdown(machine: str, workloads: Sequence[Workload], measurements: Sequence[Measurement]) -> str:
    """The report: machine, targets, and a table for each group in each configuration."""
    parts = [
        PREFACE,
        machine + _contention(measurements) + _absent(workloads, measurements),
        _targets(workloads, measurements),
    ]
    for configuration, selected in groupby(measurements, key=lambda m: m.configuration):
        parts.append(f"## {_configured(configuration)}\n")
        by_group: dict[str, list[Measurement]] = {}
        for measurement in selected:
            by_group.setdefault(measurement.group, []).append(measurement)
        parts += [_group(group, workloads, rows, configuration == FIRST) for group, rows in by_group.items()]
    return "\n".join(parts)


def _absent(workloads: Sequence[Workload], measurements: Sequence[Measurement]) -> str:
    """The workloads that were not measured in some configuration, for example because the run was stopped."""
    done = {(m.group, m.size, *m.configuration) for m in measurements}
    lines = []
    for configuration in CONFIGURATIONS:
        expected = [w for w in workloads if not w.once or configuration == FIRST]
        lacking = [w.name for w in expected if (w.group, w.size, *configuration) not in done]
        if lacking:
            what = "all workloads" if len(lacking) == len(expected) else "; ".join(lacking)
            lines.append(f"- not measured with {_configured(configuration)}: {what}\n")
    return "".join(lines)


def _configured(configuration: tuple[str, int]) -> str:
    dtype, threads = configuration
    return f"{dtype}, {threads} thread{'s' if threads > 1 else ''}"


def _contention(measurements: Sequence[Measurement]) -> str:
    """The share of processor time that implementations with one thread had."""
    shares = [share for m in measurements for share in m.shares]
    if not shares:
        return ""
    quiet = sum(share > 0.95 for share in shares) / len(shares)
    return (
        f"- one thread had its processor for {statistics.median(shares):.0%} of the time (median of {len(shares)} samples), "
        f"and for over 95 % of it in {quiet:.0%} of them: in the rest, other processes used the machine\n"
    )


def _group(group: str, workloads: Sequence[Workload], rows: Sequence[Measurement], memory: bool) -> str:
    pairs = [(_workload(workloads, row), row) for row in rows]
    lower_bounds = _unique(c.name for workload, _ in pairs for c in workload.lower_bounds)
    peers = _unique(c.name for workload, _ in pairs for c in workload.peers)
    lines = [["", "ours", "time", *lower_bounds, *peers, "best peer"]]
    for workload, row in pairs:
        for entry in workload.ours:
            name = entry.implementation.name
            ratios = [_ratio(row.ratio(name, other)) for other in (*lower_bounds, *peers)]
            lines.append([workload.size, name, _time(row.seconds(name)), *ratios, _best(workload, row, name)])
    text = f"### {group}\n\n{_table(lines)}\n"
    if memory:
        names = _unique(c.name for workload, _ in pairs for c in workload.implementations)
        cells = [[row.size, *(_megabytes(row.peak.get(name)) for name in names)] for row in rows]
        text += f"\nPeak memory, MB:\n\n{_table([['', *names], *cells])}\n"
    return text + _remarks(rows)


def _targets(workloads: Sequence[Workload], measurements: Sequence[Measurement]) -> str:
    lines = [["workload", "ours", "against", "target", "measured", "rounds", "met"]]
    for measurement in measurements:
        if measurement.configuration != FIRST:
            continue
        workload = _workload(workloads, measurement)
        for entry in workload.ours:
            lines += _targets_of(workload, entry, measurement)
    return f"## Targets\n\n{_table(lines)}\n"


def _targets_of(workload: Workload, entry: Entry, measurement: Measurement) -> list[list[str]]:
    name, lines = entry.implementation.name, []
    for target in entry.targets:
        limit, got = _limit(target, measurement), measurement.ratio(name, target.against)
        rounds = min(len(measurement.times.get(each, ())) for each in (name, target.against))
        met = "not measured" if got is None or limit is None else "yes" if got <= limit else "**no**"
        lines.append([workload.name, name, target.against, _ratio(limit), _ratio(got), str(rounds), met])
    if entry.peak_mb is not None and name in measurement.peak:
        peak = measurement.peak[name] / 1e6
        met = "yes" if peak <= entry.peak_mb else "**no**"
        lines.append([workload.name, name, "peak memory", f"{entry.peak_mb:g} MB", f"{peak:.3g} MB", "1", met])
    return lines


def _limit(target: Target, measurement: Measurement) -> float | None:
    return measurement.ratio(*target.ratio) if isinstance(target.ratio, tuple) else target.ratio


def _best(workload: Workload, row: Measurement, name: str) -> str:
    ratios = {peer.name: row.ratio(name, peer.name) for peer in workload.peers}
    known = {peer: ratio for peer, ratio in ratios.items() if ratio is not None}
    if not known:
        return "–"
    best = max(known, key=lambda peer: known[peer])
    return f"{_ratio(known[best])} ({best})"


def _remarks(rows: Sequence[Measurement]) -> str:
    lines = [f"- {row.size}: {', '.join(row.left_out)} left out, over 5 s a call." for row in rows if row.left_out]
    lines += [f"- {row.size}: {name} failed: {text.splitlines()[-1]}" for row in rows for name, text in row.failed.items()]
    return "".join(f"\n{line}" for line in lines) + ("\n" if lines else "")


def _workload(workloads: Sequence[Workload], measurement: Measurement) -> Workload:
    return next(w for w in workloads if (w.group, w.size) == (measurement.group, measurement.size))


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _ratio(ratio: float | None) -> str:
    if ratio is None:
        return "–"
    return f"1/{_digits(1 / ratio)}" if ratio < 0.5 else _digits(ratio)


def _digits(number: float) -> str:
    """Three significant digits, no exponents."""
    return f"{number:.3g}" if number < 1000 else f"{number:.0f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    unit, scale = ("s", 1.0) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("µs", 1e6)
    return f"{_digits(seconds * scale)} {unit}"


def _megabytes(size: int | None) -> str:
    return "–" if size is None else _digits(size / 1e6) if size >= 1e5 else "< 0.1"


def _table(lines: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(cells)} |" for cells in lines)
    return "\n".join([head, "|" + "---|" * len(lines[0]), *body])
