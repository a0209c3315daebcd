"""The library against its peers and the floor of the machine.

python -m benchmarks            every workload, threads 1 and 2, float64 and float32; writes benchmarks/RESULTS.md
python -m benchmarks --quick    some of them, float64, one thread; prints
python -m benchmarks --only hessian LowRank    those whose names contain one of these, float64, one thread; prints
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
from benchmarks.measure import QUICK, Effort, Measurement, measure
from benchmarks.report import CONFIGURATIONS
from benchmarks.workload import Workload
from benchmarks.workloads import WORKLOADS

RESULTS = Path(__file__).with_name("RESULTS.md")
TIMES = Path(__file__).parents[1] / "build" / "benchmarks.json"


def run(workloads: Sequence[Workload], configurations: Sequence[tuple[str, int]], effort: Effort) -> Iterator[Measurement]:
    """One measurement after another; a line on stderr for each."""
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
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--only", nargs="+", metavar="WORDS", help="workloads whose names contain one of these")
    parser.add_argument(
        "--render", action="store_true", help=f"write the report of the last whole run again, from {TIMES.name}"
    )
    options = parser.parse_args()
    if options.render:
        saved = json.loads(TIMES.read_text())
        RESULTS.write_text(report.markdown(saved["machine"], WORKLOADS, [Measurement(**m) for m in saved["measurements"]]))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that stopped processes are ended, too
    words = options.only or [""]
    workloads = [w for w in WORKLOADS if any(word in w.name for word in words) and (w.quick or not options.quick)]
    whole = not options.quick and not options.only
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "2"  # what a contestant may take at most
    machine, measurements = describe(), list[Measurement]()
    for measurement in run(workloads, CONFIGURATIONS if whole else CONFIGURATIONS[:1], QUICK if options.quick else Effort()):
        measurements.append(measurement)
        if whole:  # the times themselves, so that nothing is lost when it is stopped
            TIMES.parent.mkdir(exist_ok=True)
            TIMES.write_text(json.dumps({"machine": machine, "measurements": [asdict(m) for m in measurements]}))
    text = report.markdown(machine, workloads, measurements)
    if whole:
        RESULTS.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
