"""R's lavaan, sandwich and strucchange on covariances of estimates, score tests and structural change: live, or frozen.

    python -m tests.oracles.inference      (needs R; Debian: r-base-core r-cran-lavaan r-cran-sandwich r-cran-strucchange)

Everything is at lavaan's own estimate, which is among the results.
"""

from __future__ import annotations

import csv
import functools
import json
import shutil
import subprocess
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.oracles import lavaan, lavaan_missing

HERE = Path(__file__).resolve().parent
FROZEN = HERE / "inference.json"
#: constraints in lavaan's syntax, and what is 0 by them
CONSTRAINED = ["v0 ~~ v*v0", "v1 ~~ v*v1", "v2 ~~ v2", "v0 ~~ v1", "v0 ~ m*1", "v1 ~ m*1", "v2 ~ 1"]
ZERO = ["v0 ~~ v2", "v1 ~~ v2"]


@dataclass(frozen=True)
class Case:
    """The rows x (n, d), NaN where missing, two labels a row, and what R says: results by the names in inference.R, each (m, k)."""

    names: list[str]
    x: np.ndarray
    parameters: list[str]
    results: dict[str, np.ndarray]
    versions: dict[str, str]

    @property
    def clusters(self) -> list[list[int]]:
        return clusters(len(self.x))

    @property
    def order(self) -> list[int]:
        """What the rows are sorted by in the results that are ordered."""
        return [(i + 1) * 7 % len(self.x) for i in range(len(self.x))]

    def columns(self) -> list[str]:
        """lavaan's parameters under the names of the Jacobian's columns."""
        return [lavaan.column(name) for name in self.parameters]


def clusters(n: int) -> list[list[int]]:
    return [[i // 5 for i in range(n)], [i % 7 for i in range(n)]]


@functools.cache
def available() -> bool:
    """Whether R is installed with all three packages."""
    code = "library(lavaan); library(sandwich); library(strucchange)"
    return shutil.which("Rscript") is not None and subprocess.run(["Rscript", "-e", code], capture_output=True).returncode == 0


def evaluate(x: np.ndarray, names: list[str], constrained: bool = False) -> Case:
    """Run R on these rows; with the model of constraints, of the variables v0, v1, v2."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [",".join("NA" if np.isnan(v) else repr(float(v)) for v in row) for row in x]
        (folder / "x.csv").write_text("\n".join([",".join(names), *rows]) + "\n")
        labels = zip(*clusters(len(x)), strict=True)
        (folder / "clusters.csv").write_text("g,h\n" + "".join(f"{g},{h}\n" for g, h in labels))
        if constrained:
            (folder / "model.lav").write_text("\n".join(CONSTRAINED) + "\n")
            (folder / "zero.txt").write_text("\n".join(ZERO) + "\n")
        subprocess.run(["Rscript", str(HERE / "inference.R"), name], check=True, capture_output=True, text=True)
        results = _read(folder / "results.csv")
        parameters = [line.split(",", 1)[1] for line in (folder / "parameters.csv").read_text().splitlines()]
        versions = dict(line.split(",", 1) for line in (folder / "about.csv").read_text().splitlines())
    return Case(names, x, parameters, results, versions)


def data() -> dict[str, tuple[np.ndarray, list[str]]]:
    """60 generated rows whose scale changes after the 35th, 250 daily returns of four currencies in percent, R's airquality."""
    generator = np.random.default_rng(5)
    x = generator.normal(size=(60, 3)) @ np.array([[1, 0.4, 0.2], [0, 1, 0.3], [0, 0, 1.0]])
    x[35:] *= 1.6
    returns, currencies = lavaan.currencies()
    return {
        "generated": (x, ["v0", "v1", "v2"]),
        "currencies": (100 * returns[:, :4], currencies[:4]),
        "airquality": lavaan_missing.airquality(),
    }


def make(name: str) -> Case:
    return evaluate(*data()[name], constrained=name == "generated")


def frozen() -> dict[str, Case]:
    """The frozen cases by name."""
    cases = {}
    for name, record in json.loads(FROZEN.read_text()).items():
        x = np.array([[np.nan if v is None else v for v in row] for row in record["x"]])
        results = {key: np.array(value) for key, value in record["results"].items()}
        cases[name] = Case(record["names"], x, record["parameters"], results, record["versions"])
    return cases


def freeze() -> None:
    """Write the frozen file anew (needs R). Processes are kept of the smallest case only; the tests on them of all."""
    record = {}
    for name in data():
        case = make(name)
        left_out = ("scores", "bread") if name == "generated" else ("scores", "bread", *_processes(case))
        results = {key: value.tolist() for key, value in case.results.items() if key not in left_out}
        x = [[None if np.isnan(v) else v for v in row] for row in case.x.tolist()]
        record[name] = {
            "names": case.names,
            "x": x,
            "parameters": case.parameters,
            "results": results,
            "versions": case.versions,
        }
    FROZEN.write_text(json.dumps(record) + "\n")


def _processes(case: Case) -> list[str]:
    return [name for name in case.results if name.endswith(" process")]


def _read(path: Path) -> dict[str, np.ndarray]:
    entries: dict[str, dict[tuple[int, int], float]] = defaultdict(dict)
    with path.open() as file:
        for row in csv.DictReader(file):
            entries[row["name"]][int(row["row"]), int(row["column"])] = float(row["value"])
    results = {}
    for name, values in entries.items():
        array = np.zeros(np.array(list(values)).max(0) + 1)
        for at, value in values.items():
            array[at] = value
        results[name] = array
    return results


if __name__ == "__main__":
    freeze()
