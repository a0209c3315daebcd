"""The days with the largest scores in a table written by ``mvnjac jacobian … -o scores.parquet``, and the variables responsible.

    python examples/largest_days.py build/demo/ecb_scores.parquet

Scores of means and covariances have different units, so each column is first divided by its root mean square. The norm of a day is
the length of the resulting vector; the share of a variable is its part of the squared norm (a column of two variables counts half
for each).
"""

from __future__ import annotations

import re
import sys

import numpy as np
import pandas as pd


def largest_days(scores: pd.DataFrame, count: int = 10) -> pd.DataFrame:
    """The `count` rows with the largest scaled scores: their norms, and the three variables with the largest shares."""
    values = scores.to_numpy()
    squares = (values / np.sqrt((values**2).mean(0))) ** 2
    norm = np.sqrt(squares.sum(1))
    top = np.argsort(norm)[::-1][:count]
    variables = [re.split(r"[\[\],]", name)[1:-1] for name in scores.columns]
    names = sorted({name for pair in variables for name in pair})
    membership = np.array([[pair.count(name) / len(pair) for name in names] for pair in variables])
    shares = squares[top] @ membership / squares[top].sum(1, keepdims=True)
    movers = [", ".join(f"{names[j]} {share[j]:.0%}" for j in np.argsort(share)[::-1][:3]) for share in shares]
    return pd.DataFrame({"norm": norm[top].round(1), "variables": movers}, index=scores.index[top])


def main(path: str) -> None:
    scores = pd.read_parquet(path)
    print(f"The days with the largest scores, of {len(scores)}:")
    print(largest_days(scores).to_string())
    print(f"\nThe scores are in {path}: one row per day, {scores.shape[1]} columns and the date.")
    print(f'Load them with: pandas.read_parquet("{path}")')


if __name__ == "__main__":
    main(sys.argv[1])
