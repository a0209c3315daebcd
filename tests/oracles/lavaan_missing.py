"""What lavaan says of data with missing entries (FIML), frozen: R's `airquality`, and daily returns of 12 and of 40 currencies.

    python -m tests.oracles.lavaan_missing      (needs R with lavaan; about half a minute)

A model of 40 variables has 860 parameters: of its scores a few rows are kept, and of everything the products with fixed vectors.
"""

from __future__ import annotations

import csv
import functools
import gzip
import io
import json
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from tests.oracles import lavaan

FROZEN = Path(__file__).resolve().parent / "lavaan_missing.json"
#: currencies that came, went and were renamed: eleven patterns or more among them
SOME = ["USD", "BGN", "CYP", "LTL", "ROL", "RON", "SIT", "SKK", "ISK", "TRL", "TRY", "BRL"]
INFORMATIONS = ("expected", "observed", "first_order")


@dataclass(frozen=True)
class Products:
    """A large model, by its products: J is the n×p matrix of scores, p in the order of `parameters`.

    rows, scores: some rows of J; weights (3, n) and totals (3, p) = w J; directions (3, p) and along (3, n) = J v; the informations
    (3, p): each times the directions.
    """

    names: list[str]
    x: np.ndarray
    mean: np.ndarray
    sigma: np.ndarray
    parameters: list[str]
    log_prob: np.ndarray
    log_likelihood: float
    rows: np.ndarray
    scores: np.ndarray
    totals: np.ndarray
    along: np.ndarray
    expected: np.ndarray
    observed: np.ndarray
    first_order: np.ndarray
    versions: dict[str, str]

    @property
    def weights(self) -> np.ndarray:
        return weights(len(self.x))

    @property
    def directions(self) -> np.ndarray:
        return directions(self.parameters, self.names, self.sigma)

    def columns(self) -> list[str]:
        """lavaan's parameters under the names of the Jacobian's columns."""
        return [lavaan.column(name) for name in self.parameters]


def weights(n: int) -> np.ndarray:
    """(3, n) small dyadic numbers of both signs."""
    i, k = np.arange(n), np.arange(1, 4)[:, None]
    return ((i * 7919 + k * 104729 + i * i * k) % 17 - 8) / 4


def directions(parameters: list[str], names: list[str], sigma: np.ndarray) -> np.ndarray:
    """(3, p) the same in each parameter's own units (rounded to powers of two): no variable outweighs the others."""
    return weights(len(parameters)) * units(parameters, names, sigma)


def units(parameters: list[str], names: list[str], sigma: np.ndarray) -> np.ndarray:
    """(p,) the size of each parameter: sᵢ of a mean, sᵢ sⱼ of a covariance, s the standard deviations as powers of two."""
    scale = dict(zip(names, 2.0 ** np.round(np.log2(np.sqrt(np.diag(sigma)))), strict=True))
    return np.array([np.prod([scale[v] for v in name.removesuffix("~1").split("~~")]) for name in parameters])


def products(case: lavaan.Saturated) -> Products:
    """What is kept of a large case: one row of each pattern, and the products."""
    rows = np.unique(~np.isnan(case.x), axis=0, return_index=True)[1][::2]
    w, v = weights(len(case.x)), directions(case.parameters, case.names, case.sigma)
    kept = {name: v @ getattr(case, name) for name in INFORMATIONS}
    shared = {f.name: getattr(case, f.name) for f in fields(Products) if f.name not in (*kept, *PRODUCED)}
    return Products(**shared, rows=rows, scores=case.scores[rows], totals=w @ case.scores, along=v @ case.scores.T, **kept)


PRODUCED = ("rows", "scores", "totals", "along")


# --- data -------------------------------------------------------------------------------------------------------------


def airquality() -> tuple[np.ndarray, list[str]]:
    """(153, 4) R's data set: Ozone, Solar.R, Wind, Temp."""
    script = "write.csv(airquality[, 1:4], row.names = FALSE)"
    text = subprocess.run(["Rscript", "-e", script], check=True, capture_output=True, text=True).stdout
    header, *rows = csv.reader(io.StringIO(text))
    return np.array([[np.nan if v == "NA" else float(v) for v in row] for row in rows]), header


def currencies(names: list[str] | None, per_pattern: int) -> tuple[np.ndarray, list[str]]:
    """Daily log returns of currencies that moved at all, with their gaps: evenly spaced days of each pattern."""
    returns, every = _returns()
    chosen = [name for name in every if np.nanvar(returns[:, every.index(name)]) > 0 and name in (names or every)]
    returns = returns[:, [every.index(name) for name in chosen]]
    pattern = np.unique(~np.isnan(returns), axis=0, return_inverse=True)[1].ravel()
    days = [np.flatnonzero(pattern == k) for k in range(pattern.max() + 1)]
    kept = [day[np.unique(np.linspace(0, len(day) - 1, per_pattern).astype(int))] for day in days]
    return returns[np.sort(np.concatenate(kept))], chosen


@functools.cache
def _returns() -> tuple[np.ndarray, list[str]]:
    """The differences of the logarithms of all 41 rates, oldest first; a gap breaks them."""
    with gzip.open(lavaan.RATES, "rt") as file:
        rows = list(csv.DictReader(file))  # newest first; the header ends with a comma
    names = [name for name in rows[0] if name not in ("Date", "")]
    prices = np.array([[np.nan if row[name] == "N/A" else float(row[name]) for name in names] for row in reversed(rows)])
    return np.diff(np.log(prices), axis=0), names


def moments(x: np.ndarray, shrink: float) -> tuple[np.ndarray, np.ndarray]:
    """A mean near that of x, and a positive definite Σ: pairwise correlations (0 of fewer than 30 pairs), shrunken.

    No estimate: the values at which derivatives are taken. Not the pairwise mean itself, where scores by the mean would cancel.
    """
    d, scale = x.shape[1], np.nanstd(x, axis=0)
    correlation = np.eye(d)
    for i in range(d):
        for j in range(i):
            both = ~np.isnan(x[:, i]) & ~np.isnan(x[:, j])
            a, b = x[both, i], x[both, j]
            if both.sum() >= 30 and a.std() > 0 and b.std() > 0:
                correlation[i, j] = correlation[j, i] = (1 - shrink) * np.corrcoef(a, b)[0, 1]
    return np.nanmean(x, axis=0) + 0.1 * scale, correlation * np.outer(scale, scale)


# --- the frozen file --------------------------------------------------------------------------------------------------


def settings() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]]:
    """x, mean, Σ and names of each case."""
    air, air_names = airquality()
    some, some_names = currencies(SOME, 5)
    every, every_names = currencies(None, 10)
    mean, sigma = moments(air, 0.0)
    return {
        "airquality": (air, mean, sigma, air_names),
        "airquality, far off": (air, mean + 0.5 * np.sqrt(np.diag(sigma)), 1.5 * moments(air, 0.6)[1], air_names),
        "12 currencies": (some, *moments(some, 0.3), some_names),
        "40 currencies": (every, *moments(every, 0.5), every_names),
    }


def make(name: str) -> lavaan.Saturated | Products:
    """Run lavaan for one case."""
    case = lavaan.evaluate(*settings()[name])
    return products(case) if name.startswith("40") else case


def frozen() -> dict[str, lavaan.Saturated]:
    """The cases that are frozen in full."""
    record = json.loads(FROZEN.read_text())
    return {name: lavaan.Saturated(**_read(case)) for name, case in record.items() if "rows" not in case}


def frozen_products() -> dict[str, Products]:
    """The large ones."""
    record = json.loads(FROZEN.read_text())
    return {name: Products(**_read(case)) for name, case in record.items() if "rows" in case}


def freeze() -> None:
    """Write the frozen file anew (needs R)."""
    FROZEN.write_text(json.dumps({name: _record(make(name)) for name in settings()}, indent=None) + "\n")


def _record(case: lavaan.Saturated | Products) -> dict:
    """Missing entries as null; of the symmetric matrices the lower triangle, row by row."""
    result = {}
    for key, value in vars(case).items():
        if isinstance(value, np.ndarray):
            square = key in INFORMATIONS and value.shape[0] == value.shape[1]
            value = (value[np.tril_indices(len(value))] if square else value).tolist()
        result[key] = value
    result["x"] = [[None if np.isnan(v) else v for v in row] for row in result["x"]]
    return result


def _read(record: dict) -> dict:
    result = {}
    for key, value in record.items():
        if isinstance(value, list) and key not in ("names", "parameters"):
            value = np.array(value, dtype=int if key == "rows" else float)
            if key in INFORMATIONS and value.ndim == 1:
                value = _symmetric(value, len(record["parameters"]))
        result[key] = value
    return result


def _symmetric(lower: np.ndarray, p: int) -> np.ndarray:
    result = np.zeros((p, p))
    result[np.tril_indices(p)] = lower
    return result + np.tril(result, -1).T


if __name__ == "__main__":
    freeze()
