"""The frozen mpmath cases: how they are made (`python -m tests.oracles.mpmath_cases`), and how they are read (`frozen`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import mpmath
import numpy as np
from mpmath import mp

from tests.oracles import mp_gaussian
from tests.oracles.mp_gaussian import Case, Matrix, matrix

FROZEN = Path(__file__).resolve().parent / "mpmath_scores.json"


def settings() -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """(name, x (n, d), mean (d,), Σ (d, d)): conditioning, scales, an offset."""
    generator = np.random.default_rng(20_260_102)
    for name, d, kappa in [
        ("one variable", 1, 1.0),
        ("well conditioned", 3, 3.0),
        ("kappa 1e2", 5, 1e2),
        ("kappa 1e6", 4, 1e6),
        ("kappa 1e10", 3, 1e10),
        ("kappa 1e13", 3, 1e13),
    ]:
        basis = np.linalg.qr(generator.normal(size=(d, d)))[0]
        root = basis * np.sqrt(np.geomspace(1, 1 / kappa, d))
        yield name, generator.normal(size=(3, d)) @ root.T, 0.1 * generator.normal(size=d), root @ root.T
    d = 4
    lower = np.tril(generator.normal(size=(d, d)), -1) + np.diag(1 + generator.random(d))
    scale = 10.0 ** np.array([-6, 0, 3, 6])
    x, mean = generator.normal(size=(3, d)) @ lower.T, generator.normal(size=d)
    yield "scales from 1e-6 to 1e6", x * scale, mean * scale, (lower @ lower.T) * np.outer(scale, scale)
    yield "an offset of 1e8", x + 1e8, mean + 1e8, lower @ lower.T
    for name, d, kappa, scale, offset in [
        ("two variables", 2, 30.0, np.ones(2), 0.0),
        ("kappa 1e14", 2, 1e14, np.ones(2), 0.0),
        ("kappa 1e8 and scales from 1e-6 to 1e6", 5, 1e8, 10.0 ** np.arange(-6, 7, 3), 0.0),
        ("kappa 1e4 and an offset of 1e8", 3, 1e4, np.ones(3), 1e8),
    ]:
        basis = np.linalg.qr(generator.normal(size=(d, d)))[0]
        root = scale[:, None] * basis * np.sqrt(np.geomspace(1, 1 / kappa, d))
        x, mean = generator.normal(size=(4, d)) @ root.T, 0.1 * scale * generator.normal(size=d)
        yield name, x + offset, mean + offset, root @ root.T


def parametrised(mean: np.ndarray, sigma: np.ndarray) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Each parametrisation's own numbers, rounded to float64 and from there on exact."""
    sigma = np.tril(sigma) + np.tril(sigma, -1).T
    exact = matrix(sigma)
    precision = exact**-1
    L, Lambda = mp.cholesky(exact), mp.cholesky(precision)
    scale = np.sqrt(np.diag(sigma))
    R = sigma / np.outer(scale, scale)
    np.fill_diagonal(R, 1.0)
    M = L.copy()
    for i in range(M.rows):
        M[i, i] = mp.log(L[i, i])
    yield "covariance_matrix", {"mean": mean, "covariance_matrix": sigma}
    yield "scale_tril", {"mean": mean, "scale_tril": _rounded(L)}
    yield "log_scale_tril", {"mean": mean, "log_scale_tril": _rounded(M)}
    yield "precision_matrix", {"mean": mean, "precision_matrix": _rounded(precision)}
    yield "precision_tril", {"mean": mean, "precision_tril": _rounded(Lambda)}
    yield "inverse_scale_tril", {"mean": mean, "inverse_scale_tril": _rounded(L**-1)}
    yield "correlation_matrix", {"mean": mean, "scale": scale, "correlation_matrix": R}
    location = np.array([float(v) for v in precision * matrix(mean)])
    yield "natural_matrix", {"natural_location": location, "natural_matrix": _rounded(-precision / 2)}
    yield "cov_diag", {"mean": mean, "cov_diag": np.diag(sigma).copy()}
    yield "variance", {"mean": mean, "variance": np.array([np.diag(sigma).mean()])}


def make() -> Iterator[Case]:
    for name, x, mean, sigma in settings():
        for parametrisation, parameters in parametrised(mean, sigma):
            if parametrisation == "natural_matrix" and "offset" in name:
                continue  # the mean that these mean is no float64: its rounding alone moves the score by 1e-8
            used = {"cov_diag": np.diag(np.diag(sigma)), "variance": np.eye(len(mean)) * np.diag(sigma).mean()}
            yield mp_gaussian.solve(name, parametrisation, x, parameters, used.get(parametrisation, sigma))


def freeze() -> None:
    """Numbers as hexadecimal floats: nothing is lost, and the file regenerates bit by bit."""
    cases = [_to_text(vars(case)) for case in make()]
    FROZEN.write_text(json.dumps({"mpmath": mpmath.__version__, "digits": mp.dps, "cases": cases}) + "\n")


def frozen() -> list[Case]:
    return [Case(**_from_text(case)) for case in json.loads(FROZEN.read_text())["cases"]]


def _rounded(value: Matrix) -> np.ndarray:
    return np.array(value.tolist(), dtype=np.float64)


def _to_text(value: object) -> object:
    if isinstance(value, dict):
        return {key: _to_text(v) for key, v in value.items()}
    if isinstance(value, np.ndarray):
        return {"shape": list(value.shape), "hex": [float(v).hex() for v in value.ravel()]}
    return value


def _from_text(value: object) -> object:
    if isinstance(value, dict) and set(value) == {"shape", "hex"}:
        return np.array([float.fromhex(v) for v in value["hex"]]).reshape(value["shape"])
    return {key: _from_text(v) for key, v in value.items()} if isinstance(value, dict) else value


if __name__ == "__main__":
    freeze()
