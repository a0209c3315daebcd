"""R's factanal as oracle of factor analysis by maximum likelihood: run it (`evaluate`), or read what it said (`frozen`).

    python -m tests.oracles.factanal      (needs R; a second)

Frozen: the daily log returns of 17 currencies, by one to six factors. It analyses correlations; its optimum is good to 1e-5 or so.
"""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
RATES = HERE.parents[1] / "examples" / "data" / "ecb_reference_rates.csv.gz"
FROZEN = HERE / "factanal.json"
NAMES = ["USD", "JPY", "CZK", "DKK", "GBP", "HUF", "PLN", "SEK", "CHF", "NOK", "AUD", "CAD", "HKD", "KRW", "NZD", "SGD", "ZAR"]


@dataclass(frozen=True)
class Solution:
    """k factors: uniquenesses (d,), loadings (d, k) of standardised variables, columns by descending sum of squares and of positive
    sum; objective: log det Σ + tr(Σ⁻¹R) − log det R − d at the optimum, R the correlations."""

    uniquenesses: list[float]
    loadings: list[list[float]]
    objective: float
    version: str


def available() -> bool:
    """Whether R is installed; factanal comes with it."""
    return shutil.which("Rscript") is not None


def evaluate(x: np.ndarray, factors: list[int]) -> dict[int, Solution]:
    """Run factanal on these rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        header = ",".join(f"v{i}" for i in range(x.shape[1]))
        np.savetxt(folder / "x.csv", x, delimiter=",", header=header, comments="", fmt="%.17g")
        (folder / "factors.csv").write_text("k\n" + "".join(f"{k}\n" for k in factors))
        subprocess.run(["Rscript", str(HERE / "factanal.R"), name], check=True, capture_output=True, text=True)
        version = (folder / "about.txt").read_text().strip()
        return {k: _read(folder / f"fit{k}.csv", version) for k in factors}


def frozen() -> dict[int, Solution]:
    """By the number of factors."""
    return {int(k): Solution(**fields) for k, fields in json.loads(FROZEN.read_text()).items()}


def returns() -> np.ndarray:
    """(7125, 17) daily log returns of the currencies that are complete, by date."""
    with gzip.open(RATES, "rt") as file:
        rows = list(csv.DictReader(file))  # newest first
    prices = np.array([[float(row[name]) for name in NAMES] for row in reversed(rows)])
    return np.diff(np.log(prices), axis=0)


def freeze() -> None:
    """Write the frozen file anew (needs R)."""
    solutions = evaluate(returns(), [1, 2, 3, 4, 5, 6])
    FROZEN.write_text(json.dumps({k: asdict(solution) for k, solution in solutions.items()}) + "\n")


def _read(path: Path, version: str) -> Solution:
    values = np.loadtxt(path, delimiter=",", skiprows=1)
    return Solution(values[:-1, 0].tolist(), values[:-1, 1:].tolist(), float(values[-1, 0]), version)


if __name__ == "__main__":
    freeze()
