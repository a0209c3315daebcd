"""The days of the largest scores in a table that ``mvnjac jacobian … -o scores.parquet`` wrote, and the variables that move them.

    python examples/largest_days.py build/demo/ecb_scores.parquet

Scores by a mean and by a covariance have different units; each column is divided by its root mean square first. A day's norm is
the length of that vector, and a variable's share is the part of its square in the columns that the variable stands in (a
column of two variables counts half for each).
"""

from __future__ import annotations

import re
import sys

import numpy as np
import pandas as pd


def largest_days(scores: pd.DataFrame, count: int = 10) -> pd.DataFrame:
    """The `count` rows of largest scaled score: their norm, and the three variables of largest share."""
    values = scores.to_numpy()
    squares = (values / np.sqrt((values**2).mean(0))) ** 2
    norm = np.sqrt(squares.sum(1))
    top = np.argsort(norm)[::-1][:count]
    variables = [re.split(r"[\[\],]", name)[1:-1] for name in scores.columns]
    names = sorted({name for pair in variables for name in pair})
    membership = np.array([[pair.count(name) / len(pair) for name in names] for pair in variables])
    shares = squares[top] @ membership / squares[top].sum(1, keepdims=True)
    movers = [", ".join(f"{names[j]} {share[j]:.0%}" for j in np.argsort(share)[::-1][:3]) for share in shares]
    return pd.DataFrame({"norm": norm[top].round(1), "moved by": movers}, index=scores.index[top])


def main(path: str) -> None:
    table = pd.read_parquet(path)
    scores = table.set_index(table.columns[0])
    print(f"The days of the largest scores, of {len(scores)}:")
    print(largest_days(scores).to_string())
    print(f"\nThe scores lie in {path}: one row a day, {scores.shape[1]} columns beside the date.")
    print(f'Load them by: pandas.read_parquet("{path}")')


if __name__ == "__main__":
    main(sys.argv[1])
