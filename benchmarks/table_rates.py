"""The rates of one core on a table: decoding Parquet, reading it into tensors, summing scores, writing scores.

    python benchmarks/table_rates.py [--columns 20 100] [--rounds 5] [--folder /tmp]

The best of several rounds is printed, in nanoseconds per row and in bytes per second of float64 that are read or written. The files are
in the page cache, so the time of a disk or network is not included.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mvnjac.engines.job import keep_memory
from mvnjac.engines.run import Run
from mvnjac.jobs.data import Data
from mvnjac.jobs.density import Gather, Request, prepared
from mvnjac.jobs.partitioned import write_parts
from mvnjac.jobs.scores import PortableGaussian, Sum
from mvnjac.tables.base import batch_rows
from mvnjac.tables.slices import rows_per_slice


def main() -> None:
    """Measure one table for each number of columns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    keep_memory()
    for columns in options.columns:
        with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
            measure(Path(temporary), columns, options.rounds)


def measure(folder: Path, columns: int, rounds: int) -> None:
    """Measure a table of about 160 MB; scores, which are much larger, are written for some of the rows only."""
    rows, generator = 20_000_000 // columns, Path(__file__).with_name("generate_table.py")
    for name, n in (("all", rows), ("few", max(40_000_000 // (columns * columns), 1000))):
        size = ["--rows", str(n), "--columns", str(columns), "--parts", "1"]
        subprocess.run([sys.executable, str(generator), str(folder / name), *size], check=True)
    run, request = Run(), Request(folder / "all" / "mean.csv", folder / "all" / "covariance.csv")
    data, few = Data(folder / "all" / "data"), Data(folder / "few" / "data")
    source, names, gaussian = prepared(data, request, run)
    slices, density, p = source.slices(rows_per_slice(columns)), PortableGaussian.of(gaussian), columns * (columns + 3) // 2
    few_rows = sum(at.rows or 0 for at in few.open()[0].slices(10**9))

    def decode() -> None:
        for at in slices:
            with pq.ParquetFile(at.path, memory_map=True) as file:
                for _ in file.iter_batches(batch_rows(columns), list(range(at.first, at.last or 0))):
                    pass

    def read() -> None:
        for at in slices:
            for _ in data.rows(names, at):
                pass

    def total(**what: bool) -> None:
        run.over(Sum(data, tuple(names), density, None, **what), slices, "")

    def parts(form: str) -> None:
        write_parts(few, request, None, "unique", str(folder / form), form, run, force=True)

    work: dict[str, tuple[Callable[[], object], int, int]] = {
        "decode": (decode, rows, columns),
        "read into tensors": (read, rows, columns),
        "sum of scores": (total, rows, columns),
        "score (JᵀJ's diagonal, information)": (lambda: total(squares=True, errors=("expected", "observed")), rows, columns),
        "mean and covariance": (lambda: run.over(Gather(data, tuple(names)), slices, ""), rows, columns),
        "write parts, Parquet": (lambda: parts(".parquet"), few_rows, p),
        "write parts, .npy": (lambda: parts(".npy"), few_rows, p),
    }
    best = dict.fromkeys(work, float("inf"))
    for _ in range(rounds):
        for name, (call, _, _) in work.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    print(f"{columns} columns, {p} scores a row")
    for name, (_, n, width) in work.items():
        seconds = best[name]
        print(f"  {name:38s} {1e9 * seconds / n:10.0f} ns per row {8e-9 * n * width / seconds:8.2f} GB/s", flush=True)


if __name__ == "__main__":
    main()
