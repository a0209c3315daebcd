"""Moments of batches are correct up to rounding, for any offset and number of batches."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvnjac.statistics.moments import Moments


def exact(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and maximum-likelihood covariance in 50 digits."""
    mpmath.mp.dps = 50
    rows = [[mpmath.mpf(v) for v in row] for row in x.tolist()]
    n, d = x.shape
    mean = [mpmath.fsum(row[j] for row in rows) / n for j in range(d)]
    covariance = [
        [float(mpmath.fsum((row[i] - mean[i]) * (row[j] - mean[j]) for row in rows) / n) for j in range(d)] for i in range(d)
    ]
    return torch.tensor([float(m) for m in mean], dtype=torch.float64), torch.tensor(covariance, dtype=torch.float64)


@pytest.mark.parametrize("offset", [0.0, 1e8, -1e12])
def test_a_common_offset_costs_no_digits(offset: float) -> None:
    """The values of x are exact at every offset, so that only the rounding of the computation remains."""
    generator = torch.Generator().manual_seed(0)
    x = offset + torch.randint(-999, 999, (300, 3), generator=generator).double() / 8
    moments = Moments.of_batches(x.split([1, 7, 92, 100, 100]))
    mean, covariance = exact(x)
    scale = covariance.diagonal().sqrt()
    error = (moments.covariance() - covariance) / torch.outer(scale, scale)
    assert float(error.abs().max()) < 1e-14
    assert float(((moments.mean - mean) / scale).abs().max()) < 1e-15 + abs(offset) * 2.3e-16 / float(scale.min())
    assert torch.equal(moments.covariance(), moments.covariance().mT)


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12), seed=st.integers(0, 50))
def test_batching_does_not_matter(sizes: list[int], seed: int) -> None:
    x = torch.randn(sum(sizes), 4, generator=torch.Generator().manual_seed(seed)).double() + 3
    moments, whole = Moments.of_batches(x.split(sizes)), Moments.of(x)
    assert moments.count == len(x)
    torch.testing.assert_close(moments.mean, whole.mean, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(moments.scatter, whole.scatter, rtol=1e-12, atol=1e-12)
    assert torch.equal(moments.smallest, x.amin(0))


def test_many_batches_do_not_add_up_errors() -> None:
    x = torch.rand(20_000, 1, generator=torch.Generator().manual_seed(1)).double() + 1
    moments = Moments.of_batches(x.split(1))
    reference = np.asarray(x.squeeze(), dtype=np.longdouble)
    assert abs(moments.mean.item() - float(reference.mean())) < 4e-16
    assert abs(moments.covariance().item() / float(reference.var()) - 1) < 2e-15


def test_about_a_given_mean() -> None:
    x, mean = torch.randn(50, 2).double(), torch.tensor([1.0, -2.0]).double()
    centred = x - mean
    torch.testing.assert_close(Moments.of(x).covariance(mean), centred.mT @ centred / 50)


def test_constant_columns_are_found() -> None:
    x = torch.randn(30, 4).double()
    x[:, 1], x[:, 3] = 0.1, 0.0
    assert Moments.of_batches(x.split(7)).constant() == [1, 3]
    assert Moments.of_batches(iter([])) is None
