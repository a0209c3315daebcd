"""What one core does with a table: decoding Parquet, reading it into tensors, summing scores, writing them.

    python benchmarks/table_rates.py [--columns 20 100] [--rounds 5] [--folder /tmp]

Every round times everything once; the best of the rounds is said, in nanoseconds a row and bytes a second of float64 that are read or
written. The files lie in the page cache: what a disk or a network adds is apart.
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
from mvnjac.jobs.scores import Density, Sum
from mvnjac.tables.base import batch_rows
from mvnjac.tables.slices import rows_per_slice


def main() -> None:
    """A table a number of columns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=None)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    keep_memory()
    for columns in asked.columns:
        with tempfile.TemporaryDirectory(dir=asked.folder) as place:
            measure(Path(place), columns, asked.rounds)


def measure(place: Path, columns: int, rounds: int) -> None:
    """About 160 MB of rows; of the scores themselves, which are many times more, those of a part of them."""
    rows, generator = 20_000_000 // columns, Path(__file__).with_name("generate_table.py")
    for name, n in (("all", rows), ("few", max(40_000_000 // (columns * columns), 1000))):
        size = ["--rows", str(n), "--columns", str(columns), "--parts", "1"]
        subprocess.run([sys.executable, str(generator), str(place / name), *size], check=True)
    run, request = Run(), Request(place / "all" / "mean.csv", place / "all" / "covariance.csv")
    data, few = Data(place / "all" / "data"), Data(place / "few" / "data")
    source, names, gaussian = prepared(data, request, run)
    slices, density, p = source.slices(rows_per_slice(columns)), Density.of(gaussian), columns * (columns + 3) // 2
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
        write_parts(few, request, None, "unique", str(place / form), form, run, force=True)

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
        print(f"  {name:38s} {1e9 * seconds / n:10.0f} ns a row {8e-9 * n * width / seconds:8.2f} GB/s", flush=True)


if __name__ == "__main__":
    main()
