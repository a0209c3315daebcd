"""Benchmarks of mvnjac against other libraries and lower bounds.

python -m benchmarks            all workloads, 1 and 2 threads, float64 and float32; writes benchmarks/RESULTS.md
python -m benchmarks --quick    some workloads, float64, 1 thread; prints the report
python -m benchmarks --only hessian LowRank    workloads whose names contain one of these words, float64, 1 thread; prints the report
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import report
from benchmarks.machine import describe
from benchmarks.report import CONFIGURATIONS
from benchmarks.timing import QUICK, Effort, Measurement, measure
from benchmarks.workload import Workload
from benchmarks.workloads import WORKLOADS

RESULTS = Path(__file__).with_name("RESULTS.md")
TIMES = Path(__file__).parents[1] / "build" / "benchmarks.json"


def run(workloads: Sequence[Workload], configurations: Sequence[tuple[str, int]], effort: Effort) -> Iterator[Measurement]:
    """Run all measurements, with a line on standard error for each."""
    slow: dict[str, list[str]] = {}
    for dtype, threads in configurations:
        for workload in workloads:
            if workload.once and (dtype, threads) != CONFIGURATIONS[0]:
                continue
            start = time.perf_counter()
            measured = measure(workload, dtype, threads, effort, slow.get(workload.name, ()))
            slow.setdefault(workload.name, [name for name, times in measured.times.items() if min(times) > effort.slow])
            elapsed = time.perf_counter() - start
            print(f"{dtype}, {threads} thread(s), {workload.name}: {elapsed:.0f} s", file=sys.stderr, flush=True)
            for name, text in measured.failed.items():
                print(f"    {name} failed:\n{text}", file=sys.stderr, flush=True)
            yield measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a selection that takes less than two minutes")
    parser.add_argument("--only", nargs="+", metavar="WORDS", help="workloads whose names contain one of these")
    parser.add_argument("--render", action="store_true", help=f"rewrite the report of the last complete run, from {TIMES.name}")
    options = parser.parse_args()
    if options.render:
        saved = json.loads(TIMES.read_text())
        RESULTS.write_text(report.markdown(saved["machine"], WORKLOADS, [Measurement(**m) for m in saved["measurements"]]))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that stopped processes are killed as well
    words = options.only or [""]
    workloads = [w for w in WORKLOADS if any(word in w.name for word in words) and (w.quick or not options.quick)]
    complete = not options.quick and not options.only
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = (
        "2"  # the largest number of threads of an implementation
    )
    machine, measurements = describe(), list[Measurement]()
    for measurement in run(workloads, CONFIGURATIONS if complete else CONFIGURATIONS[:1], QUICK if options.quick else Effort()):
        measurements.append(measurement)
        if complete:  # save all times, in case the run is stopped
            TIMES.parent.mkdir(exist_ok=True)
            TIMES.write_text(json.dumps({"machine": machine, "measurements": [asdict(m) for m in measurements]}))
    text = report.markdown(machine, workloads, measurements)
    if complete:
        RESULTS.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
