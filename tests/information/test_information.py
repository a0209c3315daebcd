"""Hessian, Fisher information and natural gradient of every structure and every dense parametrisation.

The reference is the textbook density (`tests/covariance/missing.py`), computed through `dense()` and differentiated twice in
reverse mode with respect to the unique elements. The expected information is its average over exact quadrature points of the whitened
residuals, since log p is quadratic in x.
"""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import mvnjac
from mvnjac.covariance import dense_parameters, structures
from mvnjac.covariance.samples import Maker
from mvnjac.information import operators
from tests.covariance.missing import Textbook, dense_textbook, own_textbook
from tests.support.tolerance import assert_close, condition

STRUCTURES = structures()
N, D = 5, 4


def samples() -> list[object]:
    """(name, i) for every sample of every structure."""
    cases = []
    for name, cls in STRUCTURES.items():
        for i, _ in enumerate(cls.samples(D, Maker(seed=1))):
            cases.append(pytest.param(name, i, id=f"{name}-{i}"))
    return cases


def sample(name: str, i: int) -> tuple[Tensor, Tensor, mvnjac.Covariance]:
    structure = list(STRUCTURES[name].samples(D, Maker(seed=1)))[i]
    return Maker(batch=(N,), seed=2).normal(D), Maker(seed=3).normal(D), structure


def expected_information(book: Textbook, mean: Tensor, sigma: Tensor) -> Tensor:
    """−E[H]: log p is quadratic in x, so that 2d points µ ± √d lᵢ with equal weights integrate it exactly."""
    root = torch.linalg.cholesky(sigma)
    points = torch.cat([mean + math.sqrt(D) * root.mT, mean - math.sqrt(D) * root.mT])
    return -book.hessian(points) / len(points)


def check(x: Tensor, gaussian: mvnjac.Gaussian, book: Textbook, sigma: Tensor) -> None:
    """Compare matrix, matvec and solve of Hessian and information, and the natural gradient, with the textbook."""
    kappa, wrt = condition(sigma) ** 2, book.names
    H, hessian = gaussian.hessian(x, wrt=wrt), book.hessian(x)
    size = float(hessian.abs().max())
    assert_close(H.matrix(), hessian, kappa, what="hessian")
    F, expected = gaussian.fisher_information(wrt=wrt), expected_information(book, gaussian.mean, sigma)
    assert_close(F.matrix(), expected, kappa, what="fisher", scale=float(expected.abs().max()))
    v = Maker(seed=7).normal(len(hessian))
    assert_close(H.matvec(v), hessian @ v, kappa, what="H v", scale=size * float(v.abs().sum()))
    assert_close(F.matvec(v), expected @ v, kappa, what="F v", scale=float((expected.abs() @ v.abs()).max()))
    assert H.columns() == gaussian.jacobian(x).columns(wrt)
    inverse = torch.linalg.pinv(expected, rtol=1e-9, hermitian=True)
    steep = condition(sigma) * float(torch.linalg.svdvals(inverse)[0] * torch.linalg.svdvals(expected)[0])
    b = expected @ v  # in the range of a singular matrix
    size = float(inverse.abs().max() * b.abs().max())
    assert_close(F.solve(b), inverse @ b, steep, what="F⁻¹ b", scale=size)
    natural = gaussian.natural_gradient(x, wrt=wrt)
    size = float(inverse.abs().max() * book.score(x).abs().max())
    assert_close(book.pack(natural), inverse @ book.score(x) / N, steep, what="natural gradient", scale=size)


@pytest.mark.parametrize(("name", "i"), samples())
def test_parameters_of_the_structure(name: str, i: int) -> None:
    x, mean, structure = sample(name, i)
    check(x, mvnjac.Gaussian(mean, structure), own_textbook(mean, structure), structure.dense(D))


OWNERS = {cls.__name__: cls for cls in dense_parameters().values()}


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("name", ["Dense", "Precision", "PrecisionCholesky", "Diagonal", "LowRank"])
def test_any_dense_parametrisation(owner: str, name: str) -> None:
    x, mean, structure = sample(name, 0)
    sigma = structure.dense(D)
    check(x, mvnjac.Gaussian(mean, structure), dense_textbook(OWNERS[owner], mean, sigma), sigma)


@pytest.mark.parametrize("owner", OWNERS)
def test_inverse_information(owner: str) -> None:
    x, mean, structure = sample("Dense", 0)
    sigma = structure.dense(D)
    book = dense_textbook(OWNERS[owner], mean, sigma)
    F = mvnjac.fisher_information(mean, sigma, wrt=book.names)
    expected = torch.linalg.inv(expected_information(book, mean, sigma))
    assert_close(F.inverse(), expected, condition(sigma) ** 2 * 10, what="inverse")
    assert_close(F.inverse_diagonal(), expected.diagonal(), condition(sigma) ** 2 * 10, what="diagonal of the inverse")


@pytest.mark.parametrize(("name", "i"), samples())
def test_per_observation(name: str, i: int) -> None:
    """With reduce=False there is one Hessian per row, and their weighted sum is the weighted Hessian."""
    x, mean, structure = sample(name, i)
    gaussian, book = mvnjac.Gaussian(mean, structure), own_textbook(mean, structure)
    H = gaussian.hessian(x, reduce=False)
    kappa = condition(structure.dense(D)) ** 2
    assert H.shape == (N, len(book.point), len(book.point))
    for row, matrix in zip(x, H.matrix(), strict=True):
        assert_close(matrix, book.hessian(row), kappa, what="one row")
    w = Maker(batch=(N,), seed=8).normal()
    weighted = gaussian.hessian(x, weights=w).matrix()
    terms = H.matrix() * w[:, None, None]
    assert_close(weighted, terms.sum(0), kappa, what="weighted", scale=float(terms.abs().sum(0).max()))


@pytest.mark.parametrize("owner", OWNERS)
def test_at_the_maximum(owner: str) -> None:
    """At the maximum of the likelihood the observed information is n times the expected one, in any parametrisation."""
    x = Maker(batch=(50,), seed=2).normal(D)
    mean = x.mean(0)
    sigma = (x - mean).mT @ (x - mean) / len(x)
    names = list(OWNERS[owner].fields) if OWNERS[owner].canonical else ["mean", *OWNERS[owner].fields]
    gaussian = mvnjac.Gaussian(mean, 0.5 * (sigma + sigma.mT))
    H, F = gaussian.hessian(x, wrt=names), gaussian.fisher_information(wrt=names)
    assert_close(-H.matrix() / 50, F.matrix(), 100 * condition(sigma), what="−H/n = F")
    b = Maker(seed=5).normal(len(F.matrix()))
    assert_close(H.matvec(H.solve(b)), b, 1000 * condition(sigma), what="H H⁻¹ b")
    step = gaussian.natural_gradient(x, wrt=names)
    assert max(float(t.abs().max()) for t in step.values()) < 1e-12


def test_a_natural_step_reaches_the_estimate() -> None:
    """A step of 1 from any point leads to the sample mean and to the second moment about the starting mean."""
    x, mean, structure = sample("Dense", 0)
    step = mvnjac.natural_gradient(x, mean, structure)
    torch.testing.assert_close(mean + step["mean"], x.mean(0))
    r = x - mean
    torch.testing.assert_close(structure.dense() + step["covariance_matrix"], r.mT @ r / N)


def test_batches_and_grids() -> None:
    """Leading dimensions of mean and covariance are kept: x (n, 1, d) with K densities gives K Hessians."""
    make = Maker(batch=(3,), seed=4)
    x, mean, sigma = Maker(batch=(N, 1), seed=2).normal(D), make.normal(D), make.definite(D)
    H, F = mvnjac.hessian(x, mean, sigma), mvnjac.fisher_information(mean, sigma)
    p = D + D * (D + 1) // 2
    assert H.shape == F.shape == (3, p, p)
    v = Maker(seed=6).normal(p)
    step = mvnjac.natural_gradient(x, mean, sigma)
    for k in range(3):
        alone = mvnjac.hessian(x[:, 0], mean[k], sigma[k])
        torch.testing.assert_close(H.matrix()[k], alone.matrix())
        torch.testing.assert_close(H.matvec(v)[k], alone.matvec(v))
        torch.testing.assert_close(F.solve(v)[k], mvnjac.fisher_information(mean[k], sigma[k]).solve(v))
        torch.testing.assert_close(step["mean"][k], x[:, 0].mean(0) - mean[k])
    assert mvnjac.hessian(x, mean, sigma, reduce=False).shape == (N, 3, p, p)


@pytest.mark.parametrize("name", ["Dense", "Cholesky", "LowRank"])
def test_selected_elements(name: str) -> None:
    """With elements in wrt the operator has the corresponding rows and columns of the whole matrix."""
    x, mean, structure = sample(name, 0)
    gaussian = mvnjac.Gaussian(mean, structure)
    index = torch.tensor([5, 1, 6])
    elements = [gaussian.jacobian(x).columns()[i] for i in index]
    for whole, part in [
        (gaussian.hessian(x), gaussian.hessian(x, wrt=elements)),
        (gaussian.fisher_information(), gaussian.fisher_information(wrt=elements)),
    ]:
        matrix = whole.matrix()[index][:, index]
        torch.testing.assert_close(part.matrix(), matrix)
        b = Maker(seed=6).normal(3)
        torch.testing.assert_close(part.solve(b), torch.linalg.solve(matrix, b))
        assert part.columns() == elements


@pytest.mark.parametrize("wrt", [("mean", "cov_diag"), ("cov_diag[0]", "mean[1]", "cov_diag[2]", "mean[3]")])
def test_conjugate_gradients_without_redundancy(wrt: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """For whole parameters and single elements, each in its own units, the solution is that of the matrix."""
    _, mean, structure = sample("LowRank", 0)
    F = mvnjac.fisher_information(mean, structure, wrt=wrt)
    b = Maker(seed=6).normal(F.shape[-1])
    matrix, calls, iterate = F.matrix(), [], operators.conjugate_gradients
    monkeypatch.setattr(operators, "_DENSE_SIZE", 3)
    monkeypatch.setattr(operators, "conjugate_gradients", lambda *args: calls.append(len(args[2])) or iterate(*args))
    torch.testing.assert_close(F.solve(b), torch.linalg.solve(matrix, b), rtol=1e-10, atol=1e-10)
    assert calls == [4]  # the mean as a whole has a closed form


def test_differentiable() -> None:
    """Products are differentiable if the arguments require gradients."""
    x, mean, structure = sample("Dense", 0)
    v = Maker(seed=5).normal(14)

    def product(mean: Tensor, sigma: Tensor) -> Tensor:
        sigma = 0.5 * (sigma + sigma.mT)
        return torch.cat([mvnjac.hessian(x, mean, sigma).matvec(v), mvnjac.fisher_information(mean, sigma).matvec(v)])

    assert gradcheck(product, [mean.requires_grad_(), structure.dense().clone().requires_grad_()])


def test_float32_computed_in_float64() -> None:
    x, mean, structure = sample("LowRank", 0)
    exact = mvnjac.hessian(x, mean, structure).matrix()
    rounded = mvnjac.hessian(x.float(), mean.float(), structure.map(Tensor.float), precision="float64").matrix()
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["Dense", "LowRank"])
def test_linear_operators(name: str) -> None:
    from scipy.sparse.linalg import cg

    x, mean, structure = sample(name, 0)
    gaussian = mvnjac.Gaussian(mean, structure)
    J, F = gaussian.jacobian(x), gaussian.fisher_information()
    view = J.linear_operator()
    assert view.shape == J.matrix().shape
    v = Maker(seed=6).normal(view.shape[1])
    torch.testing.assert_close(torch.from_numpy(view @ v.numpy()), J.matvec(v))
    w = Maker(seed=7).normal(N)
    torch.testing.assert_close(torch.from_numpy(view.T @ w.numpy()), J.rmatvec(w))
    tolerance = "rtol" if "rtol" in inspect.signature(cg).parameters else "tol"  # scipy before 1.12
    solution, failed = cg(F.linear_operator(), F.matvec(v).numpy(), **{tolerance: 1e-12})
    assert failed == 0
    torch.testing.assert_close(F.matvec(torch.from_numpy(solution)), F.matvec(v), rtol=1e-8, atol=1e-8)


def test_bad_input() -> None:
    x, mean, structure = sample("Dense", 0)
    sigma = structure.dense()
    with pytest.raises(mvnjac.errors.NotPositiveDefiniteError, match="fisher_information: covariance_matrix"):
        mvnjac.fisher_information(mean, -sigma)
    with pytest.raises(mvnjac.errors.NotPositiveDefiniteError, match="hessian: covariance_matrix"):
        mvnjac.hessian(x, mean, -sigma)
    with pytest.raises(ValueError, match="more than one parametrisation"):
        mvnjac.hessian(x, mean, sigma, wrt=("scale_tril", "covariance_matrix")).matrix()
    with pytest.raises(ValueError, match=r"expected a tensor of shape \(14,\)"):
        mvnjac.hessian(x, mean, sigma).matvec(mean)
    with pytest.raises(mvnjac.errors.SingularError, match="singular"):
        mvnjac.hessian(x[:0], mean, sigma, wrt="mean").solve(mean)
    with pytest.raises(ValueError, match="no closed form"):
        mvnjac.fisher_information(mean, sigma, wrt="covariance_matrix[1,0]").inverse()
    with pytest.raises(KeyError, match="no parameter 'x'"):
        mvnjac.fisher_information(mean, sigma, wrt="x")


def test_results_that_cannot_fit_raise() -> None:
    d = 1500
    F = mvnjac.fisher_information(torch.zeros(d), torch.eye(d))
    G = mvnjac.fisher_information(torch.zeros(400_000), mvnjac.Isotropic(torch.tensor(1.0)))
    for call in (F.matrix, F.inverse, G.inverse_diagonal):
        with pytest.raises(MemoryError, match=r"matvec|solve"):
            call()
    torch.testing.assert_close(F.solve(torch.ones(F.shape[-1]))[:d], torch.ones(d))


def test_distribution_as_argument() -> None:
    x, mean, structure = sample("Dense", 0)
    dist = torch.distributions.MultivariateNormal(mean, structure.dense())
    torch.testing.assert_close(mvnjac.hessian(x, dist).matrix(), mvnjac.hessian(x, mean, structure).matrix())
    torch.testing.assert_close(mvnjac.fisher_information(dist).matrix(), mvnjac.fisher_information(mean, structure).matrix())
    torch.testing.assert_close(mvnjac.natural_gradient(x, dist)["mean"], x.mean(0) - mean)
