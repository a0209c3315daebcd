"""R's lavaan as oracle: run it (`evaluate`), or read what it said (`frozen`; `lavaan_missing` has the data with gaps).

It parametrises the saturated model by (variances and covariances, means); its casewise scores are partial derivatives by the unique
elements, its informations are per observation. The observed one is its analytic form ("h1"), not its numerical default. NaN in x is
a missing entry: each row is then the marginal of what it observes (full information maximum likelihood).
"""

from __future__ import annotations

import csv
import functools
import gzip
import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
RATES = HERE.parents[1] / "examples" / "data" / "ecb_reference_rates.csv.gz"
FROZEN = HERE / "lavaan.json"


@dataclass(frozen=True)
class Saturated:
    """The arguments (x (n, d), mean (d,), sigma (d, d), names) and what lavaan says of them.

    parameters: lavaan's names, "USD~1" for a mean and "USD~~CHF" for a covariance; scores (n, p) and the informations (p, p) are
    in that order. log_prob (n,) is each row's; log_likelihood their sum by lavaan.
    """

    names: list[str]
    x: np.ndarray
    mean: np.ndarray
    sigma: np.ndarray
    parameters: list[str]
    scores: np.ndarray
    expected: np.ndarray
    observed: np.ndarray
    first_order: np.ndarray
    log_prob: np.ndarray
    log_likelihood: float
    versions: dict[str, str]

    def columns(self) -> list[str]:
        """lavaan's parameters under the names of the Jacobian's columns."""
        return [column(name) for name in self.parameters]


@functools.cache
def available() -> bool:
    """Whether Rscript and lavaan are installed."""
    if shutil.which("Rscript") is None:
        return False
    return subprocess.run(["Rscript", "-e", "library(lavaan)"], capture_output=True).returncode == 0


def evaluate(x: np.ndarray, mean: np.ndarray, sigma: np.ndarray, names: list[str]) -> Saturated:
    """Run lavaan at these very values.

    It drops rows that are entirely missing, and they are no part of its averages: here they are left out before, and put back as
    zeros that the averages count.
    """
    there = ~np.isnan(x).all(1)
    case = _run(x[there], mean, sigma, names)
    if there.all():
        return case
    scores, log_prob = np.zeros((len(x), case.scores.shape[1])), np.zeros(len(x))
    scores[there], log_prob[there] = case.scores, case.log_prob
    averages = {name: getattr(case, name) * there.mean() for name in ("expected", "observed", "first_order")}
    return replace(case, x=x, scores=scores, log_prob=log_prob, **averages)


def _run(x: np.ndarray, mean: np.ndarray, sigma: np.ndarray, names: list[str]) -> Saturated:
    with tempfile.TemporaryDirectory() as folder:
        for name, values in (("x", x), ("mean", mean[None]), ("sigma", sigma)):
            _write(Path(folder) / f"{name}.csv", names, values)
        subprocess.run(["Rscript", str(HERE / "lavaan.R"), folder], check=True, capture_output=True, text=True)
        parameters, scores = _read(Path(folder) / "scores.csv")
        informations = [_read(Path(folder) / f"{name}.csv")[1] for name in ("expected", "observed", "first_order")]
        log_prob = _read(Path(folder) / "log_prob.csv")[1][:, 0]
        with (Path(folder) / "about.csv").open() as file:
            about = {row["key"]: row["value"] for row in csv.DictReader(file)}
    likelihood = float(about.pop("log_likelihood"))
    return Saturated(names, x, mean, sigma, parameters, scores, *informations, log_prob, likelihood, about)


def frozen() -> dict[str, Saturated]:
    """The frozen cases by name."""
    cases = {}
    for name, fields in json.loads(FROZEN.read_text()).items():
        arrays = {key: np.array(value) if isinstance(value, list) and key not in ("names", "parameters") else value
                  for key, value in fields.items()}  # fmt: skip
        cases[name] = Saturated(**arrays)
    return cases


def make() -> dict[str, Saturated]:
    """The cases that are frozen: at the fit and off it, for generated data and for daily returns of six currencies."""
    generator = np.random.default_rng(20_260_101)
    mixed = generator.normal(size=(40, 4)) @ generator.normal(size=(4, 4)) + generator.normal(size=4)
    data = {"generated": (mixed, [f"v{i}" for i in range(4)]), "currencies": currencies()}
    cases = {}
    for name, (x, names) in data.items():
        mean = x.mean(0)
        sigma = (x - mean).T @ (x - mean) / len(x)
        sigma = 0.5 * (sigma + sigma.T)
        scale = np.sqrt(np.diag(sigma))
        cases[f"{name}, at the fit"] = evaluate(x, mean, sigma, names)
        moved = 1.3 * sigma + 0.1 * np.diag(scale**2)
        cases[f"{name}, off the fit"] = evaluate(x, mean + 0.2 * scale, moved, names)
    return cases


def currencies() -> tuple[np.ndarray, list[str]]:
    """The last 250 daily log returns of six complete currencies: variances of 1e-5."""
    names = ["USD", "JPY", "GBP", "CHF", "NOK", "ZAR"]
    with gzip.open(RATES, "rt") as file:
        rows = list(csv.DictReader(file))[:251]  # newest first
    prices = np.array([[float(row[name]) for name in names] for row in reversed(rows)])
    return np.diff(np.log(prices), axis=0), names


def freeze() -> None:
    """Write the frozen file anew (needs R)."""
    record = {}
    for name, case in make().items():
        record[name] = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in vars(case).items()}
    FROZEN.write_text(json.dumps(record, indent=None) + "\n")


def column(parameter: str) -> str:
    """The name of the Jacobian's column."""
    if parameter.endswith("~1"):
        return f"mean[{parameter[:-2]}]"
    first, second = parameter.split("~~")
    return f"covariance_matrix[{first},{second}]"


def _write(path: Path, names: list[str], values: np.ndarray) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([["NA" if np.isnan(v) else f"{v:.17g}" for v in row] for row in values])


def _read(path: Path) -> tuple[list[str], np.ndarray]:
    with path.open() as file:
        header, *rows = csv.reader(file)
    return header, np.array([[float(v) for v in row] for row in rows])


if __name__ == "__main__":
    freeze()
