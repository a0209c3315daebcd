"""A table of returns of many assets as people have it: late starters, and single entries missing, as CSV.

    python benchmarks/generate_gaps.py FILE.csv [--rows 2610] [--columns 60] [--late 30] [--missing 0.02] [--seed 0]

Returns have common factors, variances of several orders of magnitude and four digits. The last `--late` columns begin at different
days, at most two thirds down the table; a share `--missing` of what is left is missing at random. The defaults give 2610 days of
60 assets with about 1100 patterns of missing entries; `--rows 5000 --columns 50 --late 0 --missing 0.1` gives almost one a row.
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
    """As CSV: a column of dates, and a column an asset."""
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
    parser.add_argument("--late", type=int, default=30, help="how many columns begin late")
    parser.add_argument("--missing", type=float, default=0.02, help="the share of single entries that are missing")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    write(asked.file, returns(asked.rows, asked.columns, asked.late, asked.missing, asked.seed))


if __name__ == "__main__":
    main()
