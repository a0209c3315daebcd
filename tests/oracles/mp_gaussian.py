"""The derivatives of the Gaussian log-density in 80-digit arithmetic, by central differences of its definition.

Nothing here knows a derivative's formula. The parameters are taken as exact; a symmetric parameter is perturbed by its unique
elements (both entries together), a triangular one by the entries of its triangle, a correlation matrix below its diagonal, in
vech order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mpmath
import numpy as np
from mpmath import mp

mp.dps = 80

Matrix = mpmath.matrix
Values = dict[str, Matrix]


def log_density(x: Matrix, mean: Matrix, precision: Matrix, log_det_precision: mpmath.mpf) -> mpmath.mpf:
    """log p(x), from P and log det P."""
    r = x - mean
    return (log_det_precision - len(x) * mp.log(2 * mp.pi) - (r.T * precision * r)[0]) / 2


def by_covariance(x: Matrix, mean: Matrix, sigma: Matrix) -> mpmath.mpf:
    return log_density(x, mean, sigma**-1, -mp.log(mp.det(sigma)))


def by_precision(x: Matrix, mean: Matrix, precision: Matrix) -> mpmath.mpf:
    return log_density(x, mean, precision, mp.log(mp.det(precision)))


def _natural(x: Matrix, v: Values) -> mpmath.mpf:
    precision = -2 * v["natural_matrix"]
    return by_precision(x, mp.lu_solve(precision, v["natural_location"]), precision)


def _log_cholesky(M: Matrix) -> Matrix:
    L = M.copy()
    for i in range(M.rows):
        L[i, i] = mp.exp(M[i, i])
    return L


def _scaled(s: Matrix, R: Matrix) -> Matrix:
    return mp.diag(list(s)) * R * mp.diag(list(s))


#: parametrisation → log p as a function of x and its parameters (which include the mean, but for the natural ones)
DENSITIES: dict[str, Callable[[Matrix, Values], mpmath.mpf]] = {
    "covariance_matrix": lambda x, v: by_covariance(x, v["mean"], v["covariance_matrix"]),
    "scale_tril": lambda x, v: by_covariance(x, v["mean"], v["scale_tril"] * v["scale_tril"].T),
    "log_scale_tril": lambda x, v: by_covariance(
        x, v["mean"], _log_cholesky(v["log_scale_tril"]) * _log_cholesky(v["log_scale_tril"]).T
    ),
    "precision_matrix": lambda x, v: by_precision(x, v["mean"], v["precision_matrix"]),
    "precision_tril": lambda x, v: by_precision(x, v["mean"], v["precision_tril"] * v["precision_tril"].T),
    "inverse_scale_tril": lambda x, v: by_precision(x, v["mean"], v["inverse_scale_tril"].T * v["inverse_scale_tril"]),
    "correlation_matrix": lambda x, v: by_covariance(x, v["mean"], _scaled(v["scale"], v["correlation_matrix"])),
    "variance": lambda x, v: by_covariance(x, v["mean"], v["variance"][0] * mp.eye(len(x))),
    "cov_diag": lambda x, v: by_covariance(x, v["mean"], mp.diag(list(v["cov_diag"]))),
    "natural_matrix": _natural,
}

MIRRORED = {"covariance_matrix", "precision_matrix", "correlation_matrix", "natural_matrix"}
TRIANGULAR = {"scale_tril", "log_scale_tril", "precision_tril", "inverse_scale_tril"}


def elements(name: str, shape: tuple[int, int]) -> list[tuple[int, int]]:
    """The unique elements of a parameter, in order."""
    rows, columns = shape
    if name in MIRRORED | TRIANGULAR:
        first = 1 if name == "correlation_matrix" else 0
        return [(i, j) for j in range(columns) for i in range(j + first, rows)]
    return [(i, j) for i in range(rows) for j in range(columns)]


def score(parametrisation: str, values: Values, x: Matrix) -> dict[str, list[mpmath.mpf]]:
    """The partial derivatives by x and by the unique elements of each parameter."""
    density = DENSITIES[parametrisation]
    point = {"x": x, **values}
    return {name: [_difference(density, point, name, at) for at in elements(name, _shape(point[name]))] for name in point}


def _difference(density: Callable, point: Values, name: str, at: tuple[int, int]) -> mpmath.mpf:
    i, j = at
    value = point[name]
    size = abs(value[i, j])
    if value.cols > 1:  # an entry may be small beside its row and column
        size = max(size, mp.sqrt(abs(value[i, i] * value[j, j])))
    step = mp.mpf(10) ** -28 * (size or 1)
    results = []
    for sign in (1, -1):
        moved = value.copy()
        moved[i, j] += sign * step
        if name in MIRRORED and i != j:
            moved[j, i] += sign * step
        arguments = {**point, name: moved}
        results.append(density(arguments.pop("x"), arguments))
    return (results[0] - results[1]) / (2 * step)


def _shape(value: Matrix) -> tuple[int, int]:
    return value.rows, value.cols


def matrix(array: np.ndarray) -> Matrix:
    """float64 numbers taken as exact; a vector becomes a column, a number 1×1."""
    array = np.atleast_1d(np.asarray(array, dtype=np.float64))
    return Matrix([[mp.mpf(float(v)) for v in row] for row in (array if array.ndim == 2 else array[:, None])])


@dataclass(frozen=True)
class Case:
    """x (n, d); the parameters of one parametrisation; expected (n, k) for each of them and for x; log_prob (n,)."""

    name: str
    parametrisation: str
    x: np.ndarray
    parameters: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]
    log_prob: np.ndarray
    kappa: float
    kappa_scaled: float
    scale: np.ndarray


def solve(name: str, parametrisation: str, x: np.ndarray, parameters: dict[str, np.ndarray], sigma: np.ndarray) -> Case:
    """One case, worked out."""
    values = {key: matrix(value) for key, value in parameters.items()}
    rows = [score(parametrisation, values, matrix(row)) for row in x]
    expected = {key: np.array([[float(v) for v in row[key]] for row in rows]) for key in rows[0]}
    log_prob = np.array([float(DENSITIES[parametrisation](matrix(row), values)) for row in x])
    scale = np.sqrt(np.diag(sigma))
    kappa, kappa_scaled = (float(np.linalg.cond(s)) for s in (sigma, sigma / np.outer(scale, scale)))
    return Case(name, parametrisation, x, parameters, expected, log_prob, kappa, kappa_scaled, scale)
