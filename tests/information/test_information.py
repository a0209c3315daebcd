"""Second order: Hessian, Fisher information and natural gradient of every structure and every dense parametrisation.

The reference is the textbook density, through `dense()`, differentiated twice in reverse by the unique elements; the expected
information is its average over exact quadrature points of the whitened residuals (log p is quadratic in x).
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
from tests.covariance import reference
from tests.support.tolerance import assert_close, condition

STRUCTURES = structures()
N, D = 5, 4


def samples() -> list[object]:
    """Each structure's samples, by its own parameters."""
    cases = []
    for name, cls in STRUCTURES.items():
        for i, _ in enumerate(cls.samples(D, Maker(seed=1))):
            cases.append(pytest.param(name, i, id=f"{name}-{i}"))
    return cases


def sample(name: str, i: int) -> tuple[Tensor, Tensor, mvnjac.Covariance]:
    structure = list(STRUCTURES[name].samples(D, Maker(seed=1)))[i]
    return Maker(batch=(N,), seed=2).normal(D), Maker(seed=3).normal(D), structure


class Twin:
    """The textbook density as a function of the unique elements of some parameters, in the columns' order."""

    def __init__(self, names: list[str], values: dict[str, Tensor], kinds: dict, density) -> None:
        self.names, self.kinds, self.density = names, kinds, density
        self.point = torch.cat([kinds[n].pack(values[n]).reshape(-1) for n in names])
        self.values = values

    def __call__(self, x: Tensor, theta: Tensor) -> Tensor:
        parameters, first = dict(self.values), 0
        for name in self.names:
            kind = self.kinds[name]
            change = theta[first : first + kind.size] - kind.pack(self.values[name]).reshape(-1)
            parameters[name] = self.values[name] + kind.unpack(change)
            first += kind.size
        return self.density(x, parameters)

    def hessian(self, x: Tensor) -> Tensor:
        theta = self.point.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self(x, theta).sum(), theta, create_graph=True)
        rows = [torch.autograd.grad(g, theta, retain_graph=True)[0] for g in gradient]
        return torch.stack(rows)

    def score(self, x: Tensor) -> Tensor:
        theta = self.point.clone().requires_grad_()
        return torch.autograd.grad(self(x, theta).sum(), theta)[0]


def own_twin(mean: Tensor, structure: mvnjac.Covariance) -> Twin:
    names = ["mean", *structure.parameters]
    values = {"mean": mean, **structure.parameters}
    kinds = {n: structure.coordinates_of(n, D) for n in structure.parameters}
    kinds["mean"] = mvnjac.Gaussian(mean, structure).model.arguments.coordinates("mean")

    def density(x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        own = structure.at([parameters[n] for n in structure.parameters])
        return reference.log_density(x, parameters["mean"], own.dense(D))

    return Twin(names, values, kinds, density)


def dense_twin(owner: type, mean: Tensor, sigma: Tensor) -> Twin:
    values = {**reference.views(mean, sigma), "mean": mean}
    kinds = {n: cls.fields[n](D) for n, cls in dense_parameters().items()}
    kinds["mean"] = kinds["scale"]
    names = [*([] if owner.canonical else ["mean"]), *owner.fields]

    def density(x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        if owner.canonical:
            dense = torch.linalg.inv(-2 * parameters["natural_matrix"])
            return reference.log_density(x, dense @ parameters["natural_location"], dense)
        return reference.log_density(x, parameters["mean"], owner(**{n: parameters[n] for n in owner.fields}).dense())

    return Twin(names, values, kinds, density)


def expected_information(twin: Twin, mean: Tensor, sigma: Tensor) -> Tensor:
    """−E[H]: log p is quadratic in x, so that 2d points µ ± √d lᵢ with equal weights integrate it exactly."""
    root = torch.linalg.cholesky(sigma)
    points = torch.cat([mean + math.sqrt(D) * root.mT, mean - math.sqrt(D) * root.mT])
    return -twin.hessian(points) / len(points)


def check(x: Tensor, gaussian: mvnjac.Gaussian, twin: Twin, sigma: Tensor, wrt: list[str]) -> None:
    """matrix, matvec, solve and inverse of Hessian and information, and the natural gradient, against the twin."""
    kappa = condition(sigma) ** 2
    H, wanted = gaussian.hessian(x, wrt=wrt), twin.hessian(x)
    size = float(wanted.abs().max())
    assert_close(H.matrix(), wanted, kappa, what="hessian")
    F, expected = gaussian.fisher_information(wrt=wrt), expected_information(twin, gaussian.mean, sigma)
    assert_close(F.matrix(), expected, kappa, what="fisher", scale=float(expected.abs().max()))
    v = Maker(seed=7).normal(len(wanted))
    assert_close(H.matvec(v), wanted @ v, kappa, what="H v", scale=size * float(v.abs().sum()))
    assert_close(F.matvec(v), expected @ v, kappa, what="F v", scale=float((expected.abs() @ v.abs()).max()))
    assert H.columns() == gaussian.jacobian(x).columns(wrt)
    inverse = torch.linalg.pinv(expected, rtol=1e-9, hermitian=True)
    steep = condition(sigma) * float(torch.linalg.svdvals(inverse)[0] * torch.linalg.svdvals(expected)[0])
    b = expected @ v  # in the range, where there is a null space
    size = float(inverse.abs().max() * b.abs().max())
    assert_close(F.solve(b), inverse @ b, steep, what="F⁻¹ b", scale=size)
    natural = gaussian.natural_gradient(x, wrt=wrt)
    packed = torch.cat([twin.kinds[n].pack(natural[n]).reshape(-1) for n in twin.names])
    size = float(inverse.abs().max() * twin.score(x).abs().max())
    assert_close(packed, inverse @ twin.score(x) / N, steep, what="natural gradient", scale=size)


@pytest.mark.parametrize(("name", "i"), samples())
def test_by_own_parameters(name: str, i: int) -> None:
    x, mean, structure = sample(name, i)
    twin = own_twin(mean, structure)
    check(x, mvnjac.Gaussian(mean, structure), twin, structure.dense(D), twin.names)


OWNERS = {cls.__name__: cls for cls in dense_parameters().values()}


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("given", ["Dense", "Precision", "PrecisionCholesky", "Diagonal", "LowRank"])
def test_by_any_dense_parametrisation(owner: str, given: str) -> None:
    x, mean, structure = sample(given, 0)
    sigma = structure.dense(D)
    twin = dense_twin(OWNERS[owner], mean, sigma)
    check(x, mvnjac.Gaussian(mean, structure), twin, sigma, twin.names)


@pytest.mark.parametrize("owner", OWNERS)
def test_inverse_information(owner: str) -> None:
    x, mean, structure = sample("Dense", 0)
    sigma = structure.dense(D)
    twin = dense_twin(OWNERS[owner], mean, sigma)
    F = mvnjac.fisher_information(mean, sigma, wrt=twin.names)
    expected = torch.linalg.inv(expected_information(twin, mean, sigma))
    assert_close(F.inverse(), expected, condition(sigma) ** 2 * 10, what="inverse")
    assert_close(F.inverse_diagonal(), expected.diagonal(), condition(sigma) ** 2 * 10, what="its diagonal")


@pytest.mark.parametrize(("name", "i"), samples())
def test_per_observation(name: str, i: int) -> None:
    """reduce=False: one Hessian a row; their weighted sum is the weighted Hessian."""
    x, mean, structure = sample(name, i)
    gaussian, twin = mvnjac.Gaussian(mean, structure), own_twin(mean, structure)
    each = gaussian.hessian(x, reduce=False)
    kappa = condition(structure.dense(D)) ** 2
    assert each.shape == (N, len(twin.point), len(twin.point))
    for row, matrix in zip(x, each.matrix(), strict=True):
        assert_close(matrix, twin.hessian(row), kappa, what="one row")
    w = Maker(batch=(N,), seed=8).normal()
    weighted = gaussian.hessian(x, weights=w).matrix()
    terms = each.matrix() * w[:, None, None]
    assert_close(weighted, terms.sum(0), kappa, what="weighted", scale=float(terms.abs().sum(0).max()))


@pytest.mark.parametrize("owner", OWNERS)
def test_at_the_maximum(owner: str) -> None:
    """At the estimate the observed information by any parametrisation is n times the expected one, by Σ: exactly so."""
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
    """A step of 1 from anywhere: the sample mean, and the second moment about the starting mean."""
    x, mean, structure = sample("Dense", 0)
    step = mvnjac.natural_gradient(x, mean, structure)
    torch.testing.assert_close(mean + step["mean"], x.mean(0))
    r = x - mean
    torch.testing.assert_close(structure.dense() + step["covariance_matrix"], r.mT @ r / N)


def test_batches_and_grids() -> None:
    """Leading dimensions of mean and covariance stay; x (n, 1, d) against K densities gives K Hessians."""
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
    """wrt names elements: the same rows and columns of the whole."""
    x, mean, structure = sample(name, 0)
    gaussian = mvnjac.Gaussian(mean, structure)
    every = gaussian.jacobian(x).columns()
    some = [every[i] for i in (5, 1, 6)]
    index = torch.tensor([5, 1, 6])
    for whole, part in [
        (gaussian.hessian(x), gaussian.hessian(x, wrt=some)),
        (gaussian.fisher_information(), gaussian.fisher_information(wrt=some)),
    ]:
        matrix = whole.matrix()[index][:, index]
        torch.testing.assert_close(part.matrix(), matrix)
        b = Maker(seed=6).normal(3)
        torch.testing.assert_close(part.solve(b), torch.linalg.solve(matrix, b))
        assert part.columns() == some


@pytest.mark.parametrize("wrt", [("mean", "cov_diag"), ("cov_diag[0]", "mean[1]", "cov_diag[2]", "mean[3]")])
def test_iteration_where_nothing_is_redundant(wrt: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole parameters and single elements, in each one's units: what the matrix gives."""
    _, mean, structure = sample("LowRank", 0)
    F = mvnjac.fisher_information(mean, structure, wrt=wrt)
    b = Maker(seed=6).normal(F.shape[-1])
    matrix, calls, iterate = F.matrix(), [], operators.conjugate_gradients
    monkeypatch.setattr(operators, "_DENSE_SIZE", 3)
    monkeypatch.setattr(operators, "conjugate_gradients", lambda *given: calls.append(len(given[2])) or iterate(*given))
    torch.testing.assert_close(F.solve(b), torch.linalg.solve(matrix, b), rtol=1e-10, atol=1e-10)
    assert calls == [4]  # the whole mean is solved for in closed form


def test_differentiable() -> None:
    """Operators carry gradients when the arguments require them."""
    x, mean, structure = sample("Dense", 0)
    v = Maker(seed=5).normal(14)

    def product(mean: Tensor, sigma: Tensor) -> Tensor:
        sigma = 0.5 * (sigma + sigma.mT)
        return torch.cat([mvnjac.hessian(x, mean, sigma).matvec(v), mvnjac.fisher_information(mean, sigma).matvec(v)])

    assert gradcheck(product, [mean.requires_grad_(), structure.dense().clone().requires_grad_()])


def test_float32_worked_in_float64() -> None:
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


def test_what_cannot_fit_is_refused() -> None:
    d = 1500
    F = mvnjac.fisher_information(torch.zeros(d), torch.eye(d))
    G = mvnjac.fisher_information(torch.zeros(400_000), mvnjac.Isotropic(torch.tensor(1.0)))
    for call in (F.matrix, F.inverse, G.inverse_diagonal):
        with pytest.raises(MemoryError, match=r"matvec|solve"):
            call()
    torch.testing.assert_close(F.solve(torch.ones(F.shape[-1]))[:d], torch.ones(d))


def test_of_a_distribution() -> None:
    x, mean, structure = sample("Dense", 0)
    dist = torch.distributions.MultivariateNormal(mean, structure.dense())
    torch.testing.assert_close(mvnjac.hessian(x, dist).matrix(), mvnjac.hessian(x, mean, structure).matrix())
    torch.testing.assert_close(mvnjac.fisher_information(dist).matrix(), mvnjac.fisher_information(mean, structure).matrix())
    torch.testing.assert_close(mvnjac.natural_gradient(x, dist)["mean"], x.mean(0) - mean)
