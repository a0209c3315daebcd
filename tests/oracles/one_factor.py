"""lavaan's model of one factor: run it (`evaluate`), or read what it said (`frozen`)."""

from __future__ import annotations

import csv
import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
FROZEN = HERE / "one_factor.json"


@dataclass(frozen=True)
class OneFactor:
    """What lavaan says.

    estimates, errors: by its names, "f=~USD" for a loading, "USD~~USD" for a unique variance, "USD~1" for a mean, "s_2_1" for an
    element of Σ; measures: chisq, df, pvalue, logl, npar, aic, bic.
    """

    estimates: dict[str, float]
    errors: dict[str, float]
    measures: dict[str, float]


def data() -> tuple[np.ndarray, list[str]]:
    """200 generated rows of five variables that one factor moves, in units of their own."""
    generator = np.random.default_rng(20_260_102)
    common, own = generator.normal(size=(200, 1)), generator.normal(size=(200, 5))
    x = common * [0.9, 0.7, -0.8, 0.5, 1.2] + own * [0.6, 0.8, 1.0, 0.9, 0.7]
    return np.round(x * [1, 2, 0.5, 1, 10] + [3, 0, -1, 0, 50], 3), [f"v{i + 1}" for i in range(5)]


def evaluate() -> OneFactor:
    """Run lavaan."""
    x, names = data()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        with (path / "x.csv").open("w", newline="") as file:
            csv.writer(file).writerows([names, *([f"{v:.17g}" for v in row] for row in x)])
        subprocess.run(["Rscript", str(HERE / "one_factor.R"), folder], check=True, capture_output=True, text=True)
        with (path / "estimates.csv").open() as file:
            rows = list(csv.DictReader(file))
        with (path / "measures.csv").open() as file:
            measures = {row["name"]: float(row["value"]) for row in csv.DictReader(file)}
    keys = [row["lhs"] if row["op"] == ":=" else row["lhs"] + row["op"] + row["rhs"] for row in rows]
    estimates = {key: float(row["est"]) for key, row in zip(keys, rows, strict=True)}
    errors = {key: float(row["se"]) for key, row in zip(keys, rows, strict=True)}
    return OneFactor(estimates, errors, measures)


def frozen() -> OneFactor:
    """What it said."""
    return OneFactor(**json.loads(FROZEN.read_text()))


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(vars(evaluate()), indent=1) + "\n")
