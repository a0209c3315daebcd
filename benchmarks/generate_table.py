"""A large table of correlated normal variables as a folder of Parquet parts, with the mean and the covariance to score it at.

    python benchmarks/generate_table.py FOLDER [--rows 20000000] [--columns 20] [--parts 20]

FOLDER/data holds the parts; FOLDER/mean.csv and FOLDER/covariance.csv are those that the rows were drawn from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GROUP_ROWS = 250_000


def main() -> None:
    """Each part has a seed of its own: the same numbers whatever the order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--parts", type=int, default=20)
    asked = parser.parse_args()
    data = asked.folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    names = [f"v{i}" for i in range(asked.columns)]
    generator = np.random.default_rng(0)
    mean = generator.normal(size=asked.columns)
    root = np.eye(asked.columns) + 0.5 * generator.normal(size=(asked.columns, asked.columns)) / np.sqrt(asked.columns)
    write(asked.folder / "mean.csv", names, mean[None])
    write(asked.folder / "covariance.csv", names, root @ root.T)
    bounds = np.linspace(0, asked.rows, asked.parts + 1).astype(int)
    for part in range(asked.parts):
        rows = np.random.default_rng([1, part])
        schema = pa.schema([(name, pa.float64()) for name in names])
        with pq.ParquetWriter(data / f"part-{part:05d}.parquet", schema, use_dictionary=False) as writer:
            for first in range(bounds[part], bounds[part + 1], GROUP_ROWS):
                n = min(GROUP_ROWS, bounds[part + 1] - first)
                x = mean + rows.normal(size=(n, asked.columns)) @ root.T
                writer.write_table(pa.table([pa.array(np.ascontiguousarray(column)) for column in x.T], schema=schema))


def write(path: Path, names: list[str], rows: np.ndarray) -> None:
    """A small table with all digits."""
    path.write_text("\n".join([",".join(names), *(",".join(map(repr, row)) for row in rows.tolist())]) + "\n")


if __name__ == "__main__":
    main()
