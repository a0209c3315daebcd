"""Invalid arguments: each error message names the argument, the place and the remedy."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import pytest
import torch

import mvnjac
from mvnjac import errors

EYE = torch.eye(3, dtype=torch.float64)
ZERO = torch.zeros(3, dtype=torch.float64)
X = torch.zeros(5, 3, dtype=torch.float64)


def replaced(A: torch.Tensor, index: tuple, value: float) -> torch.Tensor:
    A = A.clone()
    A[index] = value
    return A


@pytest.mark.parametrize(
    ("x", "mean", "covariance", "error", "message"),
    [
        (X, torch.zeros(2).double(), EYE, errors.ShapeError, r"mean has shape \(2,\).*of 3 variables"),
        (X[:, :2], ZERO, EYE, errors.ShapeError, r"mean has shape \(3,\), but x, of shape \(5, 2\), has 2 columns; pass x of"),
        (X, ZERO, EYE[:2], errors.ShapeError, r"covariance_matrix has shape \(2, 3\)"),
        (X, torch.tensor(1.0).double(), EYE, errors.ShapeError, r"mean has shape \(\)"),
        (torch.tensor(1.0).double(), ZERO, EYE, errors.ShapeError, "no columns"),
        (torch.tensor(1.0), torch.tensor(1.0), torch.tensor(1.0), errors.ShapeError, r"covariance_matrix has shape \(\)"),
        (X, ZERO, EYE.expand(4, 3, 3), errors.ShapeError, r"leading dimensions \(4,\).*\(n, 1, 3\)"),
        (X, torch.zeros(2, 3).double(), EYE.expand(4, 3, 3), errors.ShapeError, "do not broadcast"),
        (X.float(), ZERO, EYE, errors.DtypeError, "x is torch.float32 but mean is torch.float64"),
        (X, ZERO, EYE.float(), errors.DtypeError, "convert one"),
        (X.long(), ZERO, EYE, errors.DtypeError, r"x is torch.int64.*x.double\(\)"),
        (X.half(), ZERO, EYE, errors.DtypeError, "float16"),
        (X.to(torch.complex128), ZERO, EYE, errors.DtypeError, "complex"),
        (X, [0.0, 0.0, 0.0], EYE, errors.DtypeError, "mean is a list"),
        (X, ZERO.to("meta"), EYE, errors.DeviceError, "on meta"),
        (replaced(X, (3, 1), float("nan")), ZERO, EYE, errors.NotFiniteError, r"x is nan at row 3, column 1 \('b'\)"),
        (replaced(X, (4, 0), float("inf")), ZERO, EYE, errors.NotFiniteError, "x is inf at row 4"),
        (X, replaced(ZERO, (2,), float("nan")), EYE, errors.NotFiniteError, r"mean is nan at \[2\] \('c'\)"),
        (X, ZERO, replaced(EYE, (1, 1), float("inf")), errors.NotFiniteError, r"covariance_matrix is inf at \[1,1\]"),
        (X, ZERO, replaced(EYE, (1, 1), 0.0), errors.NotPositiveDefiniteError, r"'b' .pivot 2 of 3.*constant"),
        (X, ZERO, torch.ones(3, 3).double(), errors.NotPositiveDefiniteError, r"'b' is.*linear combination of 'a'"),
        (X, ZERO, replaced(EYE, (0, 1), 1e-6), errors.NotSymmetricError, r"entry \[0,1\] \('a', 'b'\) is 1e-06 but \[1,0\] is 0"),
        (X, ZERO, 1e-7 * replaced(replaced(EYE, (0, 1), 0.9), (1, 0), 0.1), errors.NotSymmetricError, "not symmetric"),
    ],
)  # fmt: skip
def test_messages(x, mean, covariance, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        mvnjac.jacobian(x, mean, covariance, names=["a", "b", "c"])
    assert isinstance(caught.value, ValueError)
    if error is errors.DtypeError:
        assert isinstance(caught.value, TypeError)


def test_batch_index_of_an_invalid_matrix() -> None:
    sigma = EYE.repeat(4, 1, 1)
    sigma[2, 1, 1] = -1
    with pytest.raises(errors.NotPositiveDefiniteError, match=r"at batch index 2.*pivot 2 of 3"):
        mvnjac.jacobian(torch.zeros(4, 3).double(), ZERO, sigma)


def test_variables_involved_are_named() -> None:
    A = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).double()
    A = torch.cat([A, (A[0] + A[2]).unsqueeze(0)])
    with pytest.raises(errors.NotPositiveDefiniteError, match=r"'d' is.*combination of 'a', 'c'|combination of 'c', 'a'"):
        mvnjac.jacobian(torch.zeros(2, 4).double(), torch.zeros(4).double(), A @ A.mT - 1e-9, names=list("abcd"))


def test_asymmetry_by_rounding_is_accepted() -> None:
    A = torch.randn(40, 60, generator=torch.Generator().manual_seed(0)).double()
    sigma = A @ A.mT
    sigma[0, 1] *= 1 + 4e-16
    mvnjac.jacobian(torch.zeros(2, 40).double(), torch.zeros(40).double(), sigma)


@pytest.mark.parametrize(("names", "message"), [(["a", "b"], "2 names for 3"), (["a", "b", "a"], "'a' occurs more than once")])
def test_names(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mvnjac.jacobian(X, ZERO, EYE, names=names)


def test_precision_is_checked() -> None:
    with pytest.raises(ValueError, match="precision is 'double'"):
        mvnjac.jacobian(X, ZERO, EYE, precision="double")


def test_gaussian_and_log_prob_raise_the_same_errors() -> None:
    with pytest.raises(errors.NotPositiveDefiniteError, match=r"^log_prob: "):
        mvnjac.log_prob(X, ZERO, -EYE)
    with pytest.raises(errors.NotPositiveDefiniteError, match=r"^Gaussian: "):
        mvnjac.Gaussian(ZERO, -EYE).jacobian(X)


def test_arguments_are_not_modified() -> None:
    x, mean, sigma = X + 1, ZERO + 2, EYE * 3
    copies = x.clone(), mean.clone(), sigma.clone()
    J = mvnjac.jacobian(x, mean, sigma)
    J.matrix(), J.gram(), J.sum(), J["scale_tril"], J["natural_matrix"], J["precision_tril"]
    for after, before in zip((x, mean, sigma), copies, strict=True):
        assert torch.equal(after, before)


def test_scales_of_variables_may_differ() -> None:
    """Scales that differ by twelve orders of magnitude are accepted, also in float32."""
    scale = torch.tensor([1e-6, 1.0, 1e6])
    corr = torch.tensor([[1.0, 0.5, 0.2], [0.5, 1.0, 0.3], [0.2, 0.3, 1.0]])
    for dtype in (torch.float32, torch.float64):
        sigma = (scale[:, None] * corr * scale).to(dtype)
        J = mvnjac.jacobian(torch.zeros(2, 3, dtype=dtype), torch.zeros(3, dtype=dtype), sigma)
        assert torch.isfinite(J.matrix()).all()


DTYPES = (torch.bfloat16, torch.float32, torch.float64, torch.int64)


def remedy(error: errors.DtypeError) -> tuple[str, str]:
    """The argument that the message says to convert, and the expression for it."""
    advice = re.search(r"by ((\w+)\.(?:to|map|float|double)\(.*?\)+)", str(error))
    return ("", "") if advice is None else (advice[2], advice[1])


@pytest.mark.parametrize("function", [mvnjac.log_prob, mvnjac.jacobian])
@pytest.mark.parametrize("dtypes", [*itertools.product(DTYPES, repeat=3)], ids=str)
@pytest.mark.parametrize("structure", [mvnjac.Precision, None])
def test_remedy_of_a_dtype_error_works(function: Any, dtypes: tuple[torch.dtype, ...], structure: Any) -> None:
    """Nothing is converted silently. Following the messages converts each argument at most once, and then the call succeeds."""
    tensors = torch.ones(4, 3), torch.zeros(3), torch.eye(3)
    x, mean, matrix = (t.to(dtype) for t, dtype in zip(tensors, dtypes, strict=True))
    scope: dict[str, Any] = {"x": x, "mean": mean, "torch": torch}
    scope |= {"covariance": matrix} if structure is None else {"precision_matrix": matrix}
    converted: list[str] = []
    while len(converted) <= 4:
        try:
            if structure is not None and "covariance" not in scope:
                scope["covariance"] = structure(scope["precision_matrix"])
            result = function(scope["x"], scope["mean"], scope["covariance"])
            break
        except errors.DtypeError as error:
            name, expression = remedy(error)
            scope[name] = eval(expression, scope)
            converted.append(name)
    arguments = ["covariance" if name == "precision_matrix" else name for name in converted]
    assert len(arguments) == len(set(arguments)) or structure is not None, converted
    assert (not converted) == (dtypes in ((torch.float32,) * 3, (torch.float64,) * 3))
    value = result if isinstance(result, torch.Tensor) else result.log_prob
    torch.testing.assert_close(value, torch.full_like(value, -1.5 - 1.5 * math.log(2 * math.pi)))


@pytest.mark.parametrize("module", [torch.distributions, mvnjac.distributions], ids=["torch", "ours"])
def test_a_distribution_of_two_dtypes(module: Any) -> None:
    """The functions do not accept such a distribution; the message says how to construct it."""
    dist = module.MultivariateNormal(torch.zeros(3), EYE)
    with pytest.raises(errors.DtypeError, match=r"a loc of torch.float32 and a covariance of torch.float64.*loc\.to"):
        mvnjac.log_prob(X, dist)
    fit = module.MultivariateNormal(torch.zeros(3).to(torch.float64), EYE)
    torch.testing.assert_close(mvnjac.log_prob(X, fit), mvnjac.log_prob(X, ZERO, EYE))


@pytest.mark.parametrize("d", [200, 300, 513])
def test_all_entries_of_large_triangles_are_checked(d: int) -> None:
    """Triangles are checked in blocks of variables; an invalid entry is found in every block."""
    x, mean, L = torch.zeros(2, d).double(), torch.zeros(d).double(), torch.eye(d).double() + torch.rand(d, d).double().tril(-1)
    mvnjac.log_prob(x, mean, mvnjac.Cholesky(L))
    for row, column in ((0, d - 1), (0, 1), (127, 128), (d - 2, d - 1), (130, 180)):
        invalid = L.index_put((torch.tensor(row), torch.tensor(column)), torch.tensor(1e-300, dtype=torch.float64))
        with pytest.raises(
            errors.ArgumentError, match=rf"scale_tril is not lower triangular: entry \[{row},{column}\] is 1e-300"
        ):
            mvnjac.log_prob(x, mean, mvnjac.Cholesky(invalid))
    for row, column in ((d - 1, 0), (128, 127), (d - 1, d - 1), (180, 130)):
        for value in (math.nan, math.inf):
            invalid = L.index_put((torch.tensor(row), torch.tensor(column)), torch.tensor(value, dtype=torch.float64))
            with pytest.raises(errors.NotFiniteError, match=rf"scale_tril is {value} at \[{row},{column}\]"):
                mvnjac.log_prob(x, mean, mvnjac.Cholesky(invalid))
