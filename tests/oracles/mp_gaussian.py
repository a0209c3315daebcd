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


def _log_cholesky(M: Matrix) -> Matrix:
    L = M.copy()
    for i in range(M.rows):
        L[i, i] = mp.exp(M[i, i])
    return L


def _scaled(s: Matrix, R: Matrix) -> Matrix:
    return mp.diag(list(s)) * R * mp.diag(list(s))


#: parametrisation → Σ from its parameters
COVARIANCES: dict[str, Callable[[Values, int], Matrix]] = {
    "covariance_matrix": lambda v, d: v["covariance_matrix"],
    "scale_tril": lambda v, d: v["scale_tril"] * v["scale_tril"].T,
    "log_scale_tril": lambda v, d: _log_cholesky(v["log_scale_tril"]) * _log_cholesky(v["log_scale_tril"]).T,
    "precision_matrix": lambda v, d: v["precision_matrix"] ** -1,
    "precision_tril": lambda v, d: (v["precision_tril"] * v["precision_tril"].T) ** -1,
    "inverse_scale_tril": lambda v, d: (v["inverse_scale_tril"].T * v["inverse_scale_tril"]) ** -1,
    "correlation_matrix": lambda v, d: _scaled(v["scale"], v["correlation_matrix"]),
    "variance": lambda v, d: v["variance"][0] * mp.eye(d),
    "cov_diag": lambda v, d: mp.diag(list(v["cov_diag"])),
    "natural_matrix": lambda v, d: (-2 * v["natural_matrix"]) ** -1,
}


def log_density(parametrisation: str, x: Matrix, values: Values) -> mpmath.mpf:
    """log p(x) by its definition; the parameters include the mean, but for the natural ones."""
    sigma = COVARIANCES[parametrisation](values, len(x))
    mean = sigma * values["natural_location"] if "natural_location" in values else values["mean"]
    r = x - mean
    return -(len(x) * mp.log(2 * mp.pi) + mp.log(mp.det(sigma)) + (r.T * mp.lu_solve(sigma, r))[0]) / 2


def conditions(sigma: Matrix) -> tuple[float, float]:
    """κ(Σ), and κ of Σ scaled to unit diagonal."""
    root = mp.diag([1 / mp.sqrt(sigma[i, i]) for i in range(sigma.rows)])
    results = []
    for value in (sigma, root * sigma * root):
        eigenvalues = mp.eigsy((value + value.T) / 2, eigvals_only=True)
        results.append(float(max(eigenvalues) / min(eigenvalues)))
    return results[0], results[1]


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
    point = {"x": x, **values}
    return {
        name: [_difference(parametrisation, point, name, at) for at in elements(name, _shape(point[name]))] for name in point
    }


def _difference(parametrisation: str, point: Values, name: str, at: tuple[int, int]) -> mpmath.mpf:
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
        results.append(log_density(parametrisation, arguments.pop("x"), arguments))
    return (results[0] - results[1]) / (2 * step)


def _shape(value: Matrix) -> tuple[int, int]:
    return value.rows, value.cols


def matrix(array: np.ndarray) -> Matrix:
    """float64 numbers taken as exact; a vector becomes a column, a number 1×1."""
    array = np.atleast_1d(np.asarray(array, dtype=np.float64))
    return Matrix([[mp.mpf(float(v)) for v in row] for row in (array if array.ndim == 2 else array[:, None])])


@dataclass(frozen=True)
class Case:
    """x (n, d); the parameters of one parametrisation; expected (n, k) for each of them and for x; log_prob (n,).

    kappa and kappa_scaled: κ of the Σ that these parameters mean, as it is and scaled to unit diagonal. scale (d,): the
    variables' standard deviations, their units.
    """

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
    """One case, worked out; sigma says the variables' units only."""
    values = {key: matrix(value) for key, value in parameters.items()}
    rows = [score(parametrisation, values, matrix(row)) for row in x]
    expected = {key: np.array([[float(v) for v in row[key]] for row in rows]) for key in rows[0]}
    log_prob = np.array([float(log_density(parametrisation, matrix(row), values)) for row in x])
    kappa, kappa_scaled = conditions(COVARIANCES[parametrisation](values, x.shape[1]))
    return Case(name, parametrisation, x, parameters, expected, log_prob, kappa, kappa_scaled, np.sqrt(np.diag(sigma)))
