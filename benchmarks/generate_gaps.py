"""Writes a table of returns of many assets as CSV, with assets that start late and single missing entries.

    python benchmarks/generate_gaps.py FILE.csv [--rows 2610] [--columns 60] [--late 30] [--missing 0.02] [--seed 0]

The returns have common factors, variances of several orders of magnitude, and four digits. The last `--late` columns start on
different days in the first two thirds of the table; a share `--missing` of the other entries is missing at random. The defaults give
2610 days of 60 assets with about 1100 patterns of missing entries; `--rows 5000 --columns 50 --late 0 --missing 0.1` gives almost as
many patterns as rows.
"""

from __future__ import annotations

import argparse
import csv
import datetime
from pathlib import Path

import numpy as np


def returns(rows: int, columns: int, late: int, missing: float, seed: int) -> np.ndarray:
    """(rows, columns) of returns in per cent, NaN where an entry is missing."""
    generator = np.random.default_rng(seed)
    loadings = generator.normal(size=(columns, 5)) / 3
    scale = np.exp(generator.normal(0, 1.2, size=columns))
    x = scale * (generator.normal(size=(rows, 5)) @ loadings.T + generator.normal(size=(rows, columns))) + 0.02 * scale
    begins = np.zeros(columns, dtype=int)
    if late:
        begins[-late:] = np.sort(generator.integers(1, 2 * rows // 3, size=late))
    absent = np.arange(rows)[:, None] < begins
    absent |= generator.random((rows, columns)) < missing
    return np.where(absent, np.nan, x)


def write(file: Path, x: np.ndarray) -> None:
    """Write a CSV file with a column of dates and one column per asset."""
    first = datetime.date(2015, 1, 1)
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["Date", *(f"A{i:03d}" for i in range(x.shape[1]))])
        for i, row in enumerate(x):
            day = first + datetime.timedelta(days=i + 2 * (i // 5))
            writer.writerow([day.isoformat(), *("" if np.isnan(value) else f"{value:.4f}" for value in row)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=2610)
    parser.add_argument("--columns", type=int, default=60)
    parser.add_argument("--late", type=int, default=30, help="the number of columns that start late")
    parser.add_argument("--missing", type=float, default=0.02, help="the share of missing entries")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write(options.file, returns(options.rows, options.columns, options.late, options.missing, options.seed))


if __name__ == "__main__":
    main()
