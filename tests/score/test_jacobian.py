"""The Jacobian object: names, selections, weights, slices, layouts and errors."""

from __future__ import annotations

import pytest
import torch

import mvnjac
from mvnjac import errors, kernels
from mvnjac.covariance.samples import Maker
from tests.support.tolerance import assert_close

D = 3
NAMES = ["AAPL", "MSFT", "Brent, crude"]


@pytest.fixture
def x() -> torch.Tensor:
    return Maker(batch=(7,), seed=1).normal(D)


@pytest.fixture
def mean() -> torch.Tensor:
    return Maker(seed=2).normal(D)


@pytest.fixture
def sigma() -> torch.Tensor:
    return Maker(seed=3).definite(D)


@pytest.fixture
def J(x: torch.Tensor, mean: torch.Tensor, sigma: torch.Tensor) -> mvnjac.Jacobian:
    return mvnjac.jacobian(x, mean, sigma, names=NAMES)


def test_column_names(J: mvnjac.Jacobian) -> None:
    assert J.columns() == [
        *("mean[AAPL]", "mean[MSFT]", "mean[Brent, crude]"),
        *("covariance_matrix[AAPL,AAPL]", "covariance_matrix[MSFT,AAPL]", "covariance_matrix[Brent, crude,AAPL]"),
        *("covariance_matrix[MSFT,MSFT]", "covariance_matrix[Brent, crude,MSFT]"),
        "covariance_matrix[Brent, crude,Brent, crude]",
    ]
    assert J.columns("scale_tril", layout="full")[1] == "scale_tril[AAPL,MSFT]"
    assert len(J.columns("correlation_matrix")) == 3


def test_variables_without_names_are_numbered(x, mean, sigma) -> None:
    assert mvnjac.jacobian(x, mean, sigma).columns("covariance_matrix")[:2] == [
        "covariance_matrix[0,0]",
        "covariance_matrix[1,0]",
    ]
    assert mvnjac.jacobian(x, mean, mvnjac.Isotropic(torch.tensor(2.0).double())).columns("variance") == ["variance"]


@pytest.mark.parametrize("layout", ["unique", "full"])
def test_elements_are_the_columns_of_the_same_name(J: mvnjac.Jacobian, layout: str) -> None:
    everything = ["x", *J.model.arguments.parameter_names()]
    M, columns = J.matrix(everything, layout), J.columns(everything, layout)
    reversed_columns = columns[::-1]
    assert J.columns(reversed_columns, layout) == reversed_columns
    torch.testing.assert_close(J.matrix(reversed_columns, layout), M.flip(-1))
    if layout == "unique":
        v = Maker(seed=4).normal(len(columns))
        torch.testing.assert_close(J.matvec(v, reversed_columns), J.matvec(v.flip(0), everything))
        w = Maker(seed=5, batch=(7,)).normal()
        torch.testing.assert_close(J.rmatvec(w, reversed_columns), J.rmatvec(w, everything).flip(0))
        parameters = [name for name in reversed_columns if not name.startswith("x[")]  # the total for x keeps its rows
        totals = J.sum(wrt=parameters, weights=w)
        torch.testing.assert_close(torch.stack([totals[name] for name in parameters]), J.rmatvec(w, parameters))
        torch.testing.assert_close(J.gram(wrt=reversed_columns[:4]), M.flip(-1)[:, :4].mT @ M.flip(-1)[:, :4])


def test_element_of_a_symmetric_matrix_has_two_names(J: mvnjac.Jacobian) -> None:
    a, b = J.matrix("covariance_matrix[MSFT,AAPL]"), J.matrix("covariance_matrix[AAPL,MSFT]")
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(a.squeeze(-1), 2 * J["covariance_matrix"][:, 1, 0])


def test_values_are_those_of_the_columns(J: mvnjac.Jacobian, mean, sigma) -> None:
    torch.testing.assert_close(J.values(), torch.cat([mean, mvnjac.vech(sigma)]))
    torch.testing.assert_close(J.values("covariance_matrix[AAPL,MSFT]"), sigma[1:2, 0])
    torch.testing.assert_close(J.values("scale"), sigma.diagonal().sqrt())
    with pytest.raises(ValueError, match="x is not a parameter"):
        J.values("x")


def test_full_layout_is_the_flattened_blocks(J: mvnjac.Jacobian) -> None:
    expected = torch.cat([J["mean"], J["covariance_matrix"].flatten(1), J["scale_tril"].flatten(1)], -1)
    torch.testing.assert_close(J.matrix(("mean", "covariance_matrix", "scale_tril"), layout="full"), expected)
    assert bool((J["scale_tril"].triu(1) == 0).all())
    assert bool((J["correlation_matrix"].diagonal(dim1=-2, dim2=-1) == 0).all())


def test_total_doubled_off_diagonals_is_the_sum_of_the_matrix(J: mvnjac.Jacobian) -> None:
    total = J.sum()
    doubled = mvnjac.vech(2 * total["covariance_matrix"] - torch.diag(total["covariance_matrix"].diagonal()))
    torch.testing.assert_close(torch.cat([total["mean"], doubled]), J.matrix().sum(0))
    assert torch.equal(total["covariance_matrix"], total["covariance_matrix"].mT)


@pytest.mark.parametrize("key", [slice(2, 5), slice(None, None, 2), slice(-3, None), [5, 0, -1], slice(3, 3)])
def test_rows(J: mvnjac.Jacobian, key: object) -> None:
    for cached in (False, True):
        if cached:
            J.matrix()
        torch.testing.assert_close(J[key].matrix(), J.matrix()[key])
        torch.testing.assert_close(J[key].log_prob, J.log_prob[key])
    mask = torch.tensor([True, False, True, True, False, False, True])
    torch.testing.assert_close(J[mask].matrix(("mean", "scale_tril")), J.matrix(("mean", "scale_tril"))[mask])


def test_rows_with_one_covariance_each() -> None:
    x, mean = Maker(batch=(5,), seed=1).normal(D), Maker(batch=(5,), seed=2).normal(D)
    J = mvnjac.jacobian(x, mean, Maker(batch=(5,), seed=3).definite(D))
    part = J[1:3]
    torch.testing.assert_close(part.matrix(), J.matrix()[1:3])
    assert part.sum()["mean"].shape == (2, D)
    assert part.sum()["covariance_matrix"].shape == (2, D, D)
    torch.testing.assert_close(part.gram(), J.gram()[1:3])


def test_grid_of_rows_and_covariances() -> None:
    x, sigma = Maker(batch=(6, 1), seed=1).normal(D), Maker(batch=(4,), seed=3).definite(D)
    J = mvnjac.jacobian(x, torch.zeros(D).double(), sigma)
    p = D + D * (D + 1) // 2
    assert J["mean"].shape == (6, 4, D)
    assert J.matrix().shape == (6, 4, p)
    assert J.gram().shape == (4, p, p)
    assert J.rmatvec(torch.ones(6).double()).shape == (4, p)
    assert J.sum()["mean"].shape == (D,)
    one = mvnjac.jacobian(x[:, 0], torch.zeros(D).double(), sigma[2])
    torch.testing.assert_close(J.matrix()[:, 2], one.matrix())
    torch.testing.assert_close(J.gram()[2], one.gram())
    responsibilities = Maker(batch=(6, 4), seed=7).positive()
    torch.testing.assert_close(J.gram(responsibilities)[2], one.gram(responsibilities[:, 2]))
    torch.testing.assert_close(
        J.sum(responsibilities)["covariance_matrix"][2], one.sum(responsibilities[:, 2])["covariance_matrix"]
    )


def test_weights_are_neither_normalised_nor_squared(J: mvnjac.Jacobian) -> None:
    w = torch.tensor([1.0, -2.0, 0.0, 3.0, 0.5, 1.0, 1.0]).double()
    M = J.matrix()
    torch.testing.assert_close(J.gram(w), M.mT @ (M * w.unsqueeze(-1)))
    torch.testing.assert_close(J.sum(w)["mean"], (M * w.unsqueeze(-1)).sum(0)[:D])
    torch.testing.assert_close(J.sum(torch.tensor([1, 0, 0, 0, 0, 0, 2]))["mean"], M[0, :D] + 2 * M[6, :D])


def test_gaussian_is_factorised_once(x, mean, sigma, monkeypatch) -> None:
    calls = []
    original = torch.linalg.cholesky_ex
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda *a, **k: calls.append(1) or original(*a, **k))
    gaussian = mvnjac.Gaussian(mean, sigma)
    for _ in range(3):
        J = gaussian.jacobian(x)
        for name in J.model.arguments.parameter_names():
            if name != "precision_tril":
                J[name]
    assert len(calls) == 1
    J["precision_tril"]
    assert len(calls) == 2
    torch.testing.assert_close(gaussian.log_prob(x), mvnjac.log_prob(x, mean, sigma))


def test_results_do_not_share_memory_with_the_jacobian(x, mean, sigma) -> None:
    J = mvnjac.jacobian(x[:1], mean, sigma)
    expected = J.matrix()
    J["mean"].zero_(), J["natural_location"].zero_(), J.sum()["mean"].zero_(), J.log_prob.zero_(), J["x"].zero_()
    assert torch.equal(J.matrix(), expected)
    torch.testing.assert_close(J.unique("natural_location"), x[:1] - mean)


def test_gaussian_follows_changes_in_place(x, mean, sigma) -> None:
    gaussian = mvnjac.Gaussian(mean, sigma)
    gaussian.jacobian(x)
    mean.add_(1), sigma.mul_(2)
    assert torch.equal(gaussian.jacobian(x).matrix(), mvnjac.jacobian(x, mean, sigma).matrix())
    sigma.neg_()
    with pytest.raises(errors.NotPositiveDefiniteError):
        gaussian.jacobian(x)


def test_rows_changed_in_place(x, mean, sigma) -> None:
    unused = mvnjac.jacobian(x, mean, sigma)  # nothing is computed yet: an error
    with kernels.switched(on=False):
        used = mvnjac.jacobian(x, mean, sigma)  # the residuals are computed: the old result
    expected = used.matrix()
    x.zero_()
    assert torch.equal(used.matrix(), expected)
    for call in (unused.matrix, unused.sum, unused.gram, lambda: unused[1:3], lambda: unused["x"]):
        with pytest.raises(errors.ArgumentError, match="changed in place"):
            call()


def test_inference_tensors(x, mean, sigma) -> None:
    with torch.inference_mode():
        rows = x.clone()
        J = mvnjac.jacobian(rows, mean.clone(), sigma.clone())
        total = J.sum()["mean"]
    torch.testing.assert_close(total, mvnjac.jacobian(x, mean, sigma).sum()["mean"])


@pytest.mark.parametrize("cls", [mvnjac.Precision, mvnjac.PrecisionCholesky, mvnjac.InverseCholesky])
def test_precision_forms_never_factorise_an_inverse(cls, x, mean, monkeypatch) -> None:
    """Only P itself, or a product of the given triangles, is factorised, never an inverse."""
    given = Maker(seed=3).definite(D) if cls is mvnjac.Precision else Maker(seed=3).lower(D)
    P = given if cls is mvnjac.Precision else given @ given.mT if cls is mvnjac.PrecisionCholesky else given.mT @ given
    original = torch.linalg.cholesky_ex

    def spy(A, *args, **kwargs):
        assert torch.allclose(A, P) or torch.allclose(A.flip(-2, -1), P)
        return original(A, *args, **kwargs)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", spy)
    for name in ("inv", "inv_ex", "solve"):
        monkeypatch.setattr(torch.linalg, name, lambda *a, **k: pytest.fail("a general inverse was taken"))
    J = mvnjac.jacobian(x, mean, cls(given))
    for name in J.model.arguments.parameter_names():
        J[name]


def test_diagonal_forms_no_matrix(mean, monkeypatch) -> None:
    d = 2000
    monkeypatch.setattr(torch, "diag_embed", lambda *a, **k: pytest.fail("a d×d matrix was formed"))
    x = torch.ones(3, d, dtype=torch.float64)
    for structure in (mvnjac.Diagonal(torch.ones(d).double()), mvnjac.Isotropic(torch.tensor(2.0).double())):
        J = mvnjac.jacobian(x, torch.zeros(d).double(), structure)
        J.matrix(), J.sum(), J.log_prob, J["x"], J.rmatvec(torch.ones(3).double())


def test_common_offset_loses_no_digits(x, mean, sigma) -> None:
    offset = 2.0**27  # about 1.3e8, so that x + offset is rounded and minus offset is exact again
    rounded = (x + offset) - offset
    near = mvnjac.jacobian(rounded, mean * 0, sigma)
    far = mvnjac.jacobian(rounded + offset, mean * 0 + offset, sigma)
    assert torch.equal(near.matrix(), far.matrix())
    assert torch.equal(near.gram(), far.gram())
    for name in ("mean", "covariance_matrix"):
        assert torch.equal(near.sum()[name], far.sum()[name])


def test_empty(mean, sigma) -> None:
    J = mvnjac.jacobian(torch.zeros(0, D).double(), mean, sigma)
    assert J.log_prob.shape == (0,)
    assert J.matrix().shape == (0, 9)
    assert bool((J.gram() == 0).all())
    assert bool((J.sum()["covariance_matrix"] == 0).all())
    assert J.matvec(torch.ones(9).double()).shape == (0,)
    assert bool((J.rmatvec(torch.ones(0).double()) == 0).all())


def test_single_variable() -> None:
    x, s2 = torch.tensor([[3.0]]).double(), torch.tensor([[2.0]]).double()
    J = mvnjac.jacobian(x, torch.tensor([1.0]).double(), s2)
    torch.testing.assert_close(J.matrix(), torch.tensor([[1.0, 0.5 * (1.0 - 0.5)]]).double())
    assert J.unique("correlation_matrix").shape == (1, 0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda J: J["sigma"], KeyError, "The names are: x, mean, covariance_matrix"),
        (lambda J: J["cov_diag"], KeyError, "cov_diag"),
        (lambda J: J.matrix(wrt="covariance_matrx"), KeyError, "Did you mean 'covariance_matrix'"),
        (lambda J: J.matrix(wrt="mean[TSLA]"), KeyError, r"mean\[AAPL\]"),
        (lambda J: J.matrix(wrt="scale_tril[AAPL,MSFT]"), KeyError, "not an element of scale_tril"),
        (lambda J: J.matrix(wrt=("mean", "mean")), ValueError, "named twice"),
        (lambda J: J.matrix(layout="packed"), ValueError, "'unique' or 'full'"),
        (lambda J: J.matrix(out=torch.empty(7, 8).double()), ValueError, r"expected shape \(7, 9\)"),
        (lambda J: J.matrix(out=torch.empty(7, 9)), ValueError, "float32"),
        (lambda J: J.matvec(torch.ones(8)), ValueError, r"expected a tensor of shape \(9,\)"),
        (lambda J: J.sum(torch.ones(6)), ValueError, r"weights has shape \(6,\)"),
        (lambda J: J.rmatvec(torch.ones(6)), ValueError, r"w has shape \(6,\)"),
        (lambda J: J[3], ValueError, "slice of rows"),
        (lambda J: J[[0, 7]], ValueError, "row 7 does not exist; there are 7 rows"),
        (lambda J: J[[0.5]], ValueError, "must be integers"),
        (lambda J: J["mean", "scale_tril"], ValueError, "expected the name of a parameter"),
        (lambda J: J[:, 0], ValueError, "expected the name of a parameter"),
        (lambda J: J.columns(("mean", "mean[AAPL]")), ValueError, "selected as a whole"),
        (lambda J: J[::-1], ValueError, "step must be positive"),
        (lambda J: J[torch.tensor([True])], ValueError, "mask"),
    ],
)
def test_errors(J: mvnjac.Jacobian, call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        call(J)
    assert isinstance(caught.value, errors.MvnjacError)


def test_repr(J: mvnjac.Jacobian) -> None:
    assert "batch=(7,)" in repr(J)
    assert "covariance_matrix 6" in repr(J)


def test_out_of_any_strides(J: mvnjac.Jacobian) -> None:
    out = torch.full((9, 7), torch.nan).double().mT
    assert J.matrix(out=out) is out
    torch.testing.assert_close(out, J.matrix())
    wide = torch.zeros(7, 11).double()
    J.matrix(out=wide[:, 1:10])
    assert bool((wide[:, 0] == 0).all())
    assert bool((wide[:, 10] == 0).all())
    assert_close(wide[:, 1:10], J.matrix(), 1.0)
