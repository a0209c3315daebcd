"""Sufficient statistics: weighted sums of quadratic forms over the pseudo-observations equal those over the observations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvnjac.covariance.samples import Maker
from mvnjac.statistics.moments import Moments
from mvnjac.statistics.sufficient import SufficientStatistics


def sums(x: Tensor, weights: Tensor) -> dict[tuple[bool, ...], tuple[Tensor, Tensor, Tensor]]:
    """Σ w, Σ w x and Σ w x xᵀ of the observed entries, by pattern."""
    observed, result = ~x.isnan(), {}
    for pattern in observed.unique(dim=0):
        if not pattern.any():
            continue
        rows = (observed == pattern).all(-1)
        values, w = x[rows][:, pattern], weights[rows]
        result[tuple(pattern.tolist())] = w.sum(), w @ values, (values * w.unsqueeze(-1)).mT @ values
    return result


def data(n: int, d: int, share: float) -> Tensor:
    x = Maker(seed=n).normal(n, d) @ Maker(seed=d).lower(d)
    gaps = torch.rand(n, d, generator=torch.Generator().manual_seed(3)) < share
    return torch.where(gaps, torch.nan, x)


@pytest.mark.parametrize("share", [0.0, 0.2])
@pytest.mark.parametrize("n", [5, 400])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch", [3, 1000])
def test_sums_are_those_of_the_observations(n: int, share: float, weighted: bool, batch: int) -> None:
    x = data(n, 4, share)
    weights = Maker(seed=1).positive(n) if weighted else None
    found = (
        SufficientStatistics.of(x, weights, str) if weighted else SufficientStatistics.of_batches(x.split(batch), str, "file")
    )
    assert found is not None
    w = torch.ones(n).double() if weights is None else weights
    centred = torch.nan_to_num(x, nan=torch.nan) - found.origin
    expected, actual = sums(centred, w), sums(found.rows, found.weights)
    assert expected.keys() == actual.keys() == {tuple(row) for row in found.observed.tolist()}
    for pattern, parts in expected.items():
        for value, part in zip(actual[pattern], parts, strict=True):
            torch.testing.assert_close(value, part, rtol=1e-11, atol=1e-10)
    multiplicity = {tuple(o): w for o, w in zip(found.observed.tolist(), found.multiplicity.tolist(), strict=True)}
    assert multiplicity == pytest.approx({pattern: float(parts[0]) for pattern, parts in expected.items()})
    assert found.count == int((~x.isnan()).any(-1).sum())
    assert found.complete == (share == 0)
    torch.testing.assert_close(found.variances, _variances(centred, w))
    if n > 100 and not weighted:
        assert len(found.rows) <= 2 * 4 * len(found.observed)


def _variances(x: Tensor, weights: Tensor) -> Tensor:
    weights = weights.unsqueeze(-1) * ~x.isnan()
    return (weights * x.nan_to_num() ** 2).sum(0) / weights.sum(0)


def test_the_origin_is_the_mean_of_the_observed_entries() -> None:
    x = data(300, 3, 0.3)
    found = SufficientStatistics.of(x + 1e6, None, str)
    assert found is not None
    torch.testing.assert_close(found.origin - 1e6, x.nanmean(0), rtol=0, atol=1e-9)


def test_the_covariance_is_that_of_the_moments() -> None:
    x = data(200, 4, 0)
    found, moments = SufficientStatistics.of(x, None, str), Moments.of(x)
    assert found is not None
    assert torch.equal(found.covariance, moments.covariance())
    torch.testing.assert_close(found.scaled_rows.mT @ found.scaled_rows, moments.covariance())
    same = SufficientStatistics.of_moments(moments, str)
    torch.testing.assert_close(same.covariance, found.covariance)


def test_the_covariance_with_missing_entries_is_semidefinite_with_the_observed_variances() -> None:
    found = SufficientStatistics.of(data(6, 8, 0.4), None, str)
    assert found is not None
    assert float(torch.linalg.eigvalsh(found.covariance).min()) > -1e-12
    torch.testing.assert_close(found.covariance.diagonal(), found.variances)


def test_constant_and_unobserved_columns() -> None:
    x = data(50, 5, 0)
    x[:, 1], x[:, 3], x[::2, 1] = 2.0, torch.nan, torch.nan
    found = SufficientStatistics.of(x, None, str)
    assert found is not None
    assert (found.constant, found.unobserved) == ([1], [3])
    part = found.part(slice(1, 4))
    assert (part.constant, part.unobserved, part.name_of(0), part.d) == ([0], [2], "1", 3)
    assert found.part(slice(3, 4)).count == 0


def test_a_part_equals_the_statistics_of_these_variables() -> None:
    x = data(400, 5, 0.2)
    found = SufficientStatistics.of(x, None, str)
    alone = SufficientStatistics.of(x[:, 1:3], None, str)
    assert found is not None
    assert alone is not None
    part = found.part(slice(1, 3))
    torch.testing.assert_close(part.origin, alone.origin)
    torch.testing.assert_close(part.variances, alone.variances)
    assert part.count == alone.count


def test_no_observed_entries_give_none() -> None:
    assert SufficientStatistics.of_batches(iter([]), str, "file") is None
    assert SufficientStatistics.of_batches([torch.full((2, 2), torch.nan).double()], str, "file") is None
