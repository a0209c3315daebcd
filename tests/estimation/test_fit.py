"""fit: closed forms, arguments, and error messages."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch

import mvnjac
from mvnjac import errors
from mvnjac.covariance import structures
from mvnjac.estimation import factor_profile
from mvnjac.estimation.structure import choices
from tests.support.fitting import GOAL, assert_maximum, ratio, sample, with_gaps
from tests.support.tolerance import assert_close, condition

NAMES = ["AAPL", "MSFT", "TSLA", "NVDA"]


def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    centred = x - x.mean(0)
    return x.mean(0), centred.mT @ centred / len(x)


#: options of the structures that need one
OPTIONS = {"RANK": "1", "ROWSxCOLUMNS": "2x3", "BANDWIDTH": "1", "ORDER": "1"}
EVERY = [name if cls.option is None else f"{name}:{OPTIONS[cls.option]}" for name, cls in choices().items()]
DENSE_FAMILY = ["dense", "cholesky", "log-cholesky", "precision", "precision-cholesky", "inverse-cholesky", "scale-correlation"]


@pytest.mark.parametrize("structure", DENSE_FAMILY)
def test_the_dense_family_is_the_sample_covariance(structure: str) -> None:
    x = sample(60, 4)
    estimate = mvnjac.fit(x, structure, names=NAMES)
    mean, S = moments(x)
    torch.testing.assert_close(estimate.mean, mean)
    scale = S.diagonal().sqrt()
    assert_close(estimate.covariance.dense() / torch.outer(scale, scale), S / torch.outer(scale, scale), condition(S))
    assert type(estimate.covariance).__name__ == "".join(map(str.capitalize, structure.split("-")))
    assert (estimate.iterations, estimate.rows, estimate.names) == (0, 60, NAMES)
    assert estimate.score_ratio < GOAL
    assert_maximum(estimate, x)


def test_simple_closed_forms() -> None:
    x = sample(60, 4)
    mean, S = moments(x)
    d = 4
    torch.testing.assert_close(mvnjac.fit(x, "diagonal").covariance.parameters["cov_diag"], S.diagonal())
    torch.testing.assert_close(mvnjac.fit(x, mvnjac.Isotropic).covariance.parameters["variance"], S.trace() / d)
    shared = mvnjac.fit(x, "compound-symmetric").covariance.parameters
    torch.testing.assert_close(shared["variance"], S.trace() / d)
    average = (S.sum() - S.trace()) / (d * (d - 1))  # of the covariances
    torch.testing.assert_close(shared["correlation"], average / shared["variance"])


@pytest.mark.parametrize(
    "structure", ["diagonal", "isotropic", "compound-symmetric", "banded-precision:1", "banded-precision:3"]
)
def test_closed_forms_are_maxima(structure: str) -> None:
    x = sample(60, 4)
    estimate = mvnjac.fit(x, structure)
    assert estimate.iterations == 0
    assert "closed form" in estimate.message
    assert_maximum(estimate, x, GOAL)


def test_a_banded_precision_has_the_band_of_the_sample_covariance() -> None:
    """The theorem (Dempster 1972, *Covariance selection*): Σ agrees with S where P is free, and P is 0 elsewhere."""
    x = sample(60, 6)
    Sigma, S = mvnjac.fit(x, "banded-precision:2").covariance.dense(), moments(x)[1]
    band = torch.ones(6, 6).tril(2).triu(-2).bool()
    assert_close((Sigma / S)[band], torch.ones(int(band.sum()), dtype=torch.float64), condition(S))


def test_instances_and_classes_say_the_same() -> None:
    x = sample(60, 4)
    given = mvnjac.Cholesky(torch.eye(4))
    for structure in (mvnjac.Cholesky, given, "cholesky", "Cholesky"):
        torch.testing.assert_close(mvnjac.fit(x, structure).covariance.dense(), moments(x)[1])


def test_float32_rows_are_worked_in_float64() -> None:
    """The arithmetic is float64 for float32 input."""
    x = sample(60, 4).float()
    estimate = mvnjac.fit(x)
    assert estimate.mean.dtype == estimate.covariance.dtype == torch.float64
    torch.testing.assert_close(estimate.covariance.dense(), moments(x.double())[1])
    assert_maximum(estimate, x.double())


def test_a_common_offset_costs_no_digits() -> None:
    x = torch.randint(-99, 99, (50, 3), generator=torch.Generator().manual_seed(0)).double() / 8
    for structure in ("dense", "toeplitz"):
        near, far = mvnjac.fit(x, structure), mvnjac.fit(x + 2.0**40, structure)
        torch.testing.assert_close(far.covariance.dense(), near.covariance.dense(), rtol=1e-9, atol=0)
        torch.testing.assert_close(far.mean - 2.0**40, near.mean, rtol=0, atol=1e-3)


@pytest.mark.parametrize("structure", ["dense", "diagonal", "low-rank:1", "toeplitz"])
def test_weights_count_rows(structure: str) -> None:
    """A row with weight 2 counts twice, and one with weight 0 does not count."""
    x = sample(40, 5)
    weights = torch.ones(40).double()
    weights[3], weights[7], weights[11] = 2, 0, 3
    repeated = torch.cat([x[weights > 0], x[3:4], x[11:12], x[11:12]])
    a, b = mvnjac.fit(x, structure, weights=weights), mvnjac.fit(repeated, structure)
    torch.testing.assert_close(a.mean, b.mean)
    torch.testing.assert_close(a.covariance.dense(5), b.covariance.dense(5), rtol=1e-6, atol=1e-12)
    assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=1e-10)
    assert (a.rows, b.rows) == (39, 42)
    assert ratio(a, x, weights) < 1e-6


def test_a_million_rows_cost_no_more_than_their_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search uses at most 2d rows, and gives the same estimate."""
    x = sample(5000, 6)
    seen = []
    jacobian, profile = mvnjac.Gaussian.jacobian, factor_profile.spectrum
    monkeypatch.setattr(mvnjac.Gaussian, "jacobian", lambda self, x: seen.append(len(x)) or jacobian(self, x))
    monkeypatch.setattr(factor_profile, "spectrum", lambda rows, *more: seen.append(len(rows)) or profile(rows, *more))
    for structure in ("low-rank:2", "toeplitz"):
        seen.clear()
        estimate = mvnjac.fit(x, structure)
        assert seen
        assert max(seen) <= 12
    monkeypatch.undo()
    assert ratio(estimate, x) < 1e-6


def test_what_a_fit_says_of_itself() -> None:
    x = sample(60, 4)
    estimate = mvnjac.fit(x, "low-rank:1", names=NAMES)
    text = str(estimate)
    for part in ("LowRank", "60 rows", "4 variables", f"{estimate.log_likelihood:.10g}", "converged after"):
        assert part in text
    assert "score_ratio=" in repr(estimate)
    calls = []
    mvnjac.fit(x, "low-rank:1", progress=lambda *call: calls.append(call))
    assert [call[:2] for call in calls] == [("fitting", i) for i in range(len(calls))]
    values = [value for _, _, value in calls]
    assert all(after >= before - 1e-13 * abs(before) for before, after in itertools.pairwise(values))  # up to rounding
    assert values[-1] == pytest.approx(estimate.log_likelihood, rel=1e-12)


def test_stopping_early_is_said() -> None:
    x = sample(60, 6)
    with pytest.warns(errors.NotConvergedWarning, match=r"NOT converged, stopped after 2 iterations: total scores of up to"):
        estimate = mvnjac.fit(x, "low-rank:2", max_iterations=2)
    assert not estimate.converged
    assert estimate.score_ratio > 1e-6
    assert "NOT converged" in str(estimate)


def test_standard_errors() -> None:
    """The textbook formulas for the mean, σᵢⱼ and variances; factor loadings have none."""
    x = sample(60, 4)
    estimate = mvnjac.fit(x)
    S = estimate.covariance.dense()
    found = estimate.standard_errors()
    torch.testing.assert_close(found["mean"], (S.diagonal() / 60).sqrt())
    torch.testing.assert_close(found["covariance_matrix"], ((torch.outer(S.diagonal(), S.diagonal()) + S * S) / 60).sqrt())
    diagonal = mvnjac.fit(x, "diagonal").standard_errors()
    torch.testing.assert_close(diagonal["cov_diag"], S.diagonal() * (2 / 60) ** 0.5)
    x = sample(300, 7)
    factors = mvnjac.fit(x, "low-rank:2")
    F = factors.gaussian.fisher_information().matrix() * 300
    scale = F.diagonal().sqrt()
    variances = torch.linalg.pinv(F / torch.outer(scale, scale), hermitian=True, rtol=1e-9).diagonal() / scale**2
    found = factors.standard_errors()
    assert set(found) == {"mean", "cov_diag"}
    torch.testing.assert_close(found["cov_diag"], variances[-7:].sqrt(), rtol=1e-6, atol=0)


def constant(x: torch.Tensor, *columns: int) -> torch.Tensor:
    x = x.clone()
    x[:, list(columns)] = 1.25
    return x


X = sample(30, 4)
COMBINED = torch.cat([X[:, :3], X[:, :1] + X[:, 1:2]], 1)
REFUSED = {
    "few rows": (X[:4], "dense", errors.NotPositiveDefiniteError, "4 rows for 4 variables.*low-rank"),
    "one row": (X[:1], "diagonal", errors.NotPositiveDefiniteError, "one row has no variance"),
    "constant": (constant(X, 1), "dense", errors.NotPositiveDefiniteError, "'MSFT' is constant over all 30 rows"),
    "constants": (constant(X, 1, 3), "low-rank:1", errors.NotPositiveDefiniteError, "'MSFT', 'NVDA' are constant"),
    "all constant": (constant(X, 0, 1, 2, 3), "isotropic", errors.NotPositiveDefiniteError, "constant over all"),
    "combination": (COMBINED, "precision", errors.NotPositiveDefiniteError, "'NVDA' is, to rounding, a linear combination of '"),
    "combination in a window": (COMBINED, "banded-precision:3", errors.NotPositiveDefiniteError, "'NVDA' is, to rounding"),
    "too many factors": (X, "low-rank:2", errors.NotIdentifiedError, r"2 factors of 4 variables .*at most 1"),
    "rows for factors": (X[:2], "low-rank:1", errors.NotPositiveDefiniteError, "2 rows for 1 factor:.*at least 3"),
    "rows for bands": (X[:3], "banded-precision:2", errors.NotPositiveDefiniteError, "at least 4 rows"),
    "rows for a matrix": (X[:2], "kronecker:1x4", errors.NotPositiveDefiniteError, "2 rows for matrices of 1 × 4.*at least 5"),
    "no such matrix": (X, "kronecker:2x3", errors.ShapeError, "2 × 3 are 6 variables"),
    "bandwidth": (X, "banded-precision:4", errors.ArgumentError, "bandwidth 4 is not below the number of variables, 4"),
    "one variable": (X[:, :1], "compound-symmetric", errors.NotIdentifiedError, "single variable is not identified"),
    "unknown": (X, "low-rnk:2", errors.UnknownNameError, "Did you mean 'low-rank'"),
    "no rank": (X, "low-rank", errors.ArgumentError, "pass low-rank:RANK"),
    "no number": (X, "low-rank:two", errors.ArgumentError, "positive whole number"),
    "no sides": (X, "kronecker:4", errors.ArgumentError, "as in kronecker:3x4"),
    "no option": (X, "dense:3", errors.ArgumentError, "takes no option"),
    "squares overflow": (1e200 * X, "dense", errors.NotFiniteError, "variance of 'AAPL' is (inf|nan) .*overflow.*use other units"),
    "squares vanish": (1e-200 * (X - 50), "toeplitz", errors.NotFiniteError, "variance of 'AAPL' is 0.0 .*underflow; use other units"),
    "no start": (X, mvnjac.Parametric, errors.ArgumentError, "pass an instance"),
    "no structure": (X, torch.eye(4), errors.ArgumentError, "structure is a Tensor"),
    "other size": (X, mvnjac.LowRank(torch.ones(5, 1), torch.ones(5)), errors.ShapeError, "is of 5 variables, but x has 4"),
    "a batch": (X, mvnjac.Toeplitz(torch.eye(4)[:1].expand(2, 4)), errors.ShapeError, "one is fitted at a time"),
    "missing": (torch.where(X.median() > X, X, torch.nan), "dense", errors.NotFiniteError, "x is nan at row"),
    "a row": (X[0], "dense", errors.ShapeError, r"shape \(4,\)"),
    "no rows": (X[:0], "dense", errors.ShapeError, r"n ≥ 1"),
    "integers": (X.long(), "dense", errors.DtypeError, "int64"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    x, structure, error, says = REFUSED[case]
    names = NAMES[: x.shape[-1]] if x.ndim == 2 else None
    with pytest.raises(error, match=f"^fit: .*{says}"):
        mvnjac.fit(x, structure, names=names)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (torch.ones(3), "expected one number a row"),
        (-torch.ones(30), "not negative"),
        (torch.zeros(30), "not all 0"),
        (torch.full((30,), torch.inf), "finite"),
    ],
)
def test_weights_that_are_none(weights: torch.Tensor, says: str) -> None:
    with pytest.raises(errors.ArgumentError, match=says):
        mvnjac.fit(X, weights=weights)


def test_names_are_checked() -> None:
    with pytest.raises(errors.ShapeError, match="2 names for 4 variables"):
        mvnjac.fit(X, names=["a", "b"])


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("structure", EVERY)
def test_units_do_not_matter(structure: str, gaps: bool) -> None:
    """Scales at which the squares of the data, but not the squares of the variances, are representable."""
    x = sample(40, 6, k=1) / torch.logspace(-2, 2, 6, dtype=torch.float64)
    missing = None
    if gaps:
        x, missing = with_gaps(x, 0.1), "marginalise"
    here = mvnjac.fit(x, structure, missing=missing)
    for unit in (1e100, 1e-100):
        there = mvnjac.fit(x * unit, structure, missing=missing)
        assert there.converged
        torch.testing.assert_close(there.mean / unit, here.mean, rtol=1e-8, atol=0)
        torch.testing.assert_close(there.covariance.dense(6) / unit**2, here.covariance.dense(6), rtol=1e-6, atol=1e-9)


def test_isotropic_needs_no_more_than_one_variable_that_varies() -> None:
    x = constant(X, 1, 2, 3)
    torch.testing.assert_close(mvnjac.fit(x, "isotropic").covariance.parameters["variance"], x[:, 0].var(correction=0) / 4)


def test_every_structure_can_be_fitted() -> None:
    """Every structure can be fitted by name, or from an instance."""
    known = {cls.__name__ for cls in choices().values()}
    assert set(structures()) - known == {"Parametric", "BlockDiagonal"}


def test_the_name_is_the_function_whatever_is_imported_first() -> None:
    code = "import mvnjac.estimation.fit, mvnjac; assert callable(mvnjac.fit)"
    code += "; import mvnjac.estimation.model_file; assert callable(mvnjac.load)"
    subprocess.run([sys.executable, "-c", code], check=True)
