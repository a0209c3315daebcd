"""Stale values and outliers are found, whatever the division into batches; discrete and heavy-tailed data are not suspected."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from mvnjac.errors import TableWarning
from mvnjac.tables.suspicious_values import SuspiciousValues, warn_about


def scan(x: np.ndarray, size: int = 10**9) -> SuspiciousValues:
    found = SuspiciousValues([f"v{j}" for j in range(x.shape[1])])
    for first in range(0, len(x), size):
        found.add(x[first : first + size], list(range(100 + first, 100 + min(first + size, len(x)))))
    return found


@pytest.mark.parametrize("size", [1, 7, 64, 10**9])
def test_batches_do_not_matter(size: int) -> None:
    x = np.random.default_rng(0).normal(size=(400, 3))
    x[50:62, 0] = x[50, 0]
    x[55, 0] = np.nan  # a gap does not end a run of equal values
    x[200, 1] = 1e3
    found = scan(x, size)
    assert (found.rows, found.incomplete) == (400, 1)
    (stale,) = found.stale()
    assert stale.text == f"v0 is {x[50, 0]:g} in 11 rows, row 150 to row 161"
    (outlier,) = found.outliers()
    assert outlier.text.startswith("v1 is 1000 at row 300 (")


def test_longest_first_and_only_some_are_named() -> None:
    x = np.random.default_rng(1).normal(size=(300, 6))
    for j in range(5):
        x[10 : 20 + j, j] = 0.0
    with pytest.warns(TableWarning) as told:
        warn_about("t.csv", scan(x), is_series=True)
    (line,) = [str(each.message) for each in told]
    assert line.startswith("t.csv: stale values in 5 columns: v4 is 0 in 14 rows, row 110 to row 123; v3 ")
    assert line.endswith("; and 2 more columns. Nothing was changed.")
    with warnings.catch_warnings(action="error"):
        warn_about("t.csv", scan(x), is_series=False)


@pytest.mark.parametrize("seed", range(5))
def test_discrete_and_heavy_tailed_data(seed: int) -> None:
    generator = np.random.default_rng(seed)
    answers = generator.integers(1, 6, size=(2000, 10)).astype(float)
    rare = (generator.random((2000, 5)) < 0.02).astype(float)
    returns = generator.standard_t(6, size=(3000, 10))
    for x in (answers, rare):
        assert scan(x, 300).stale() == []
        assert scan(x, 300).outliers() == []
    assert scan(returns, 300).outliers() == []


def test_columns_without_variation_or_values() -> None:
    x = np.full((30, 2), np.nan)
    x[:, 0] = 3.0
    found = scan(x, 4)
    assert [each.text for each in found.stale()] == ["v0 is 3 in 30 rows, row 100 to row 129"]
    assert found.outliers() == []


def test_the_samples_are_bounded() -> None:
    found = scan(np.random.default_rng(0).normal(size=(100_000, 2)), 5000)
    assert sum(map(len, found._sampled[0])) <= 10_000
    assert found.outliers() == []
