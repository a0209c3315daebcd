"""Merged sums do not depend on the order of merging; sums of squares without forming columns equal those of the columns."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mvnjac
from mvnjac.inference.score_totals import ScoreSums
from mvnjac.jobs.pilot import PilotSample
from mvnjac.score.column_norms import _of_block, sums_of_squares
from mvnjac.statistics.moments import Moments
from mvnjac.statistics.pairwise import NamedSums, PairwiseReduction, SumTuple, number
from mvnjac.statistics.serialization import packed, unpacked
from mvnjac.statistics.sufficient import Accumulator
from tests.support.tolerance import assert_close


@given(n=st.integers(1, 70), seed=st.integers(0, 20))
def test_the_order_of_arrival_does_not_matter(n: int, seed: int) -> None:
    values = torch.rand(n, generator=torch.Generator().manual_seed(seed)).double() * 10.0 ** torch.arange(n).remainder(17)
    order = list(range(n))
    random.Random(seed).shuffle(order)
    totals = []
    for numbers in (range(n), order):
        reduction = PairwiseReduction[NamedSums]()
        for i in numbers:
            reduction.add(i, NamedSums({"sum": values[i]}))
        totals.append(reduction.total()["sum"])
    assert torch.equal(*totals)
    assert abs(float(totals[0]) - math.fsum(values.tolist())) <= math.log2(2 * n) * 2.3e-16 * float(values.sum())


def test_few_partial_sums_are_stored() -> None:
    reduction = PairwiseReduction[NamedSums]()
    for i in range(1000):
        reduction.add(i, NamedSums({"sum": number(1)}))
        assert len(reduction) <= 10
    assert float(reduction.total()["sum"]) == 1000
    assert PairwiseReduction[NamedSums]().total() is None


def test_moments_far_from_zero_from_many_origins() -> None:
    """A common offset does not cause rounding errors, although each piece has a different origin."""
    base = torch.randint(-999, 999, (5000, 3), generator=torch.Generator().manual_seed(0)).double() / 8
    reduction = PairwiseReduction[Moments]()
    for i, part in enumerate((base + 1e12).split(37)):
        reduction.add(i, Moments.of(part))
    torch.testing.assert_close(reduction.total().covariance(), Moments.of(base).covariance(), rtol=1e-13, atol=1e-10)


def test_merged_patterns() -> None:
    """Rows with missing entries give the same statistics in pieces or at once, up to rounding."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(900, 3, generator=generator).double() + 5
    x[torch.rand(900, 3, generator=generator) < 0.3] = torch.nan
    whole, reduction = Accumulator(3), PairwiseReduction[Accumulator]()
    whole.add(x)
    for i, part in enumerate(x.split(7)):
        piece = Accumulator(3)
        piece.add(part)
        reduction.add(i, piece)
    merged, at_once = (accumulator.sample(str, "x") for accumulator in (reduction.total(), whole))
    assert merged.count == at_once.count
    assert float(merged.multiplicity.sum()) == pytest.approx(float(at_once.multiplicity.sum()))
    torch.testing.assert_close(merged.origin, at_once.origin, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(merged.covariance, at_once.covariance, rtol=1e-12, atol=1e-13)


def test_sums_as_bytes() -> None:
    x = torch.randn(20, 3).double()
    kernel = ScoreSums(mvnjac.Gaussian(torch.zeros(3).double(), torch.eye(3).double()), None, squares=True)
    for sums in (
        None,
        Moments.of(x),
        kernel.of(kernel.derivatives(x)),
        SumTuple([NamedSums({}), NamedSums({"a": number(0.1)})]),
    ):
        assert packed(unpacked(packed(sums))) == packed(sums)
    assert torch.equal(unpacked(packed(Moments.of(x))).scatter, Moments.of(x).scatter)


@pytest.mark.parametrize("rows", [1, 5, 400])
def test_accumulators_as_bytes(rows: int) -> None:
    """Accumulators of rows, moments, incomplete rows and subsamples give identical results after a round trip."""
    generator = torch.Generator().manual_seed(3)
    x = torch.empty(3, rows).double().mT  # column-major, as tables are read
    x.copy_(torch.randn(rows, 3, generator=generator) + 7)
    gaps = x.masked_fill(torch.rand(rows, 3, generator=generator) < 0.3, torch.nan)
    gaps[0] = x[0]
    for rows_given in (x, gaps):
        accumulator, pilot = Accumulator(3), PilotSample(3, 2000)
        for sums in (accumulator, pilot):
            sums.add(rows_given)
            sums.add(rows_given[:1])
        for sums, more in ((accumulator, ()), (pilot, (None,))):
            again = unpacked(packed(sums))
            assert packed(again) == packed(sums)
            actual, expected = (piece.merge(sums).sample(str, "x", *more) for piece in (again, sums))
            torch.testing.assert_close(actual.rows, expected.rows, rtol=0, atol=0, equal_nan=True)
            assert torch.equal(actual.origin, expected.origin)
            assert torch.equal(actual.weights, expected.weights)


def test_the_memory_order_is_serialised() -> None:
    """The memory order determines the order of summation and so the rounding of later sums."""
    by_columns = torch.randn(3, 50).double().mT
    for t in (by_columns, by_columns.contiguous()):
        again = unpacked(packed(NamedSums({"rows": t})))["rows"]
        assert torch.equal(again, t)
        assert again.stride() == t.stride()


NAMES = ["mean", "covariance_matrix", "scale_tril", "precision_matrix", "correlation_matrix", "scale", "log_scale_tril"]


@pytest.mark.parametrize("name", [*NAMES, "natural_matrix"])
def test_sums_of_squares(name: str) -> None:
    generator = torch.Generator().manual_seed(2)
    root = torch.eye(4).double() + 0.3 * torch.randn(4, 4, generator=generator).double()
    x = torch.randn(200, 4, generator=generator).double() @ root.mT
    J = mvnjac.jacobian(x, root[0], root @ root.mT)
    elements = [name, *(["mean[2]", "scale_tril[2,1]"] if name == "covariance_matrix" else [])]
    M = J.matrix(elements)
    found = sums_of_squares(J.evaluation, J.selection(elements, "unique").parts)
    assert_close(found, (M * M).sum(0), 40.0, what=name)


def test_sums_of_squares_with_cancellation() -> None:
    """For two-valued variables the scores of the variances are exactly 0, not the difference of two large sums."""
    x = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]).double().repeat(50, 1)
    J = mvnjac.jacobian(x, torch.zeros(2).double(), torch.eye(2).double())
    (part,) = J.selection("covariance_matrix", "unique").parts
    assert _of_block(J.evaluation.block(part.name), part) is None
    assert sums_of_squares(J.evaluation, [part]).tolist() == [0.0, 200.0, 0.0]
