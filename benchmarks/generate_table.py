"""Writes a large table of correlated normal variables as a folder of Parquet files, with its mean and its covariance.

    python benchmarks/generate_table.py FOLDER [--rows 20000000] [--columns 20] [--parts 20]

FOLDER/data has the files; FOLDER/mean.csv and FOLDER/covariance.csv have the parameters of the distribution.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GROUP_ROWS = 250_000


def main() -> None:
    """Write the files; each has a separate seed, so that the numbers do not depend on the order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--parts", type=int, default=20)
    options = parser.parse_args()
    data = options.folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    names = [f"v{i}" for i in range(options.columns)]
    generator = np.random.default_rng(0)
    mean = generator.normal(size=options.columns)
    root = np.eye(options.columns) + 0.5 * generator.normal(size=(options.columns, options.columns)) / np.sqrt(options.columns)
    write(options.folder / "mean.csv", names, mean[None])
    write(options.folder / "covariance.csv", names, root @ root.T)
    bounds = np.linspace(0, options.rows, options.parts + 1).astype(int)
    for part in range(options.parts):
        rows = np.random.default_rng([1, part])
        schema = pa.schema([(name, pa.float64()) for name in names])
        with pq.ParquetWriter(data / f"part-{part:05d}.parquet", schema, use_dictionary=False) as writer:
            for first in range(bounds[part], bounds[part + 1], GROUP_ROWS):
                n = min(GROUP_ROWS, bounds[part + 1] - first)
                x = mean + rows.normal(size=(n, options.columns)) @ root.T
                writer.write_table(pa.table([pa.array(np.ascontiguousarray(column)) for column in x.T], schema=schema))


def write(path: Path, names: list[str], rows: np.ndarray) -> None:
    """Write a small table with all digits."""
    path.write_text("\n".join([",".join(names), *(",".join(map(repr, row)) for row in rows.tolist())]) + "\n")


if __name__ == "__main__":
    main()
