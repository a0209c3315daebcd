"""A confirmatory factor model of the tests of Holzinger and Swineford, against lavaan 0.6-14 (expected information; MLR)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

import mvnjac

DATA = Path(__file__).parents[2] / "examples" / "data" / "holzinger_swineford.csv"
LOADINGS = [0.899620, 0.497941, 0.656156, 0.989693, 1.101605, 0.916601, 0.619475, 0.730949, 0.669980]
CORRELATIONS = [0.458510, 0.470535, 0.282986]
ERRORS = [
    0.080847,
    0.077455,
    0.074421,
    0.056637,
    0.062676,
    0.053658,
    0.069583,
    0.065909,
    0.065017,
    0.063779,
    0.072827,
    0.068729,
]
ROBUST = [
    0.100263,
    0.087654,
    0.080500,
    0.061281,
    0.054680,
    0.058133,
    0.086125,
    0.092819,
    0.099089,
    0.073269,
    0.119013,
    0.085472,
]


def three_factors(theta: dict[str, torch.Tensor]) -> torch.Tensor:
    loading = torch.zeros(9, 3, dtype=torch.float64)
    loading[torch.arange(9), torch.arange(9) // 3] = theta["loading"]
    phi = torch.eye(3, dtype=torch.float64)
    i, j = torch.tril_indices(3, 3, -1)
    phi[i, j] = phi[j, i] = theta["correlation"]
    return loading @ phi @ loading.T + torch.diag(theta["unique_variance"])


def test_confirmatory_factor_analysis() -> None:
    tests = pd.read_csv(DATA).drop(columns="school")
    start = {
        "loading": torch.ones(9, dtype=torch.float64),
        "correlation": torch.full((3,), 0.3, dtype=torch.float64),
        "unique_variance": torch.ones(9, dtype=torch.float64),
    }
    fit = mvnjac.fit(tests, mvnjac.Parametric(three_factors, start))
    assert fit.aic == pytest.approx(7535.489853, abs=1e-6)
    assert fit.bic == pytest.approx(7646.703161, abs=1e-6)
    classical = fit.summary(wrt=["loading", "correlation"])
    robust = fit.summary("robust", wrt=["loading", "correlation"])
    assert classical.values.tolist() == pytest.approx(LOADINGS + CORRELATIONS, abs=3e-6)
    assert classical.standard_errors.tolist() == pytest.approx(ERRORS, abs=2e-6)
    assert robust.standard_errors.tolist() == pytest.approx(ROBUST, abs=2e-6)
    test = fit.likelihood_ratio_test(mvnjac.fit(tests), nested=True)
    assert test.df == 24
    assert test.statistic == pytest.approx(85.305522, abs=1e-5)
