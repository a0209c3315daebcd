"""Parametric: means that are functions of θ, derivatives to second order, missing entries, invalid input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, vmap

import mvnjac
from mvnjac.covariance.samples import Maker
from mvnjac.errors import DtypeError, ShapeError
from tests.covariance import missing, reference

N, D = 6, 3
X = Maker(batch=(N,), seed=1).normal(2)
Y = Maker(batch=(N,), seed=2).normal(D)
THETA = {"beta": Maker(seed=3).normal(2, D), "root": Maker(seed=4).lower(D), "bend": Maker(seed=5).normal()}
NAMES = list(THETA)


def regression(theta: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Nonlinear in all of θ, so that no term of the second derivative vanishes."""
    mean = X @ theta["beta"] + torch.sin(theta["bend"] * (X @ theta["beta"]))
    root = theta["root"].tril()
    return mean, root @ root.mT + torch.exp(theta["bend"]) * torch.eye(D, dtype=root.dtype)


def common_mean(theta: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    mean, sigma = regression(theta)
    return mean[0], sigma


def flat(theta: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.reshape(-1) for value in theta.values()])


def textbook(function, y: Tensor = Y, log_density=reference.log_density):
    """The log-density (n,) as a function of θ as one vector."""

    def density(vector: Tensor) -> Tensor:
        theta, first = {}, 0
        for name, value in THETA.items():
            theta[name] = vector[first : first + value.numel()].reshape(value.shape)
            first += value.numel()
        mean, sigma = function(theta)
        return log_density(y, mean, sigma)

    return density


def by_rows(function) -> Tensor:
    point = flat(THETA).requires_grad_()
    values = textbook(function)(point)
    return torch.stack([torch.autograd.grad(v, point, retain_graph=True)[0] for v in values])


def reverse_hessian(function, weights: Tensor, y: Tensor = Y, log_density=reference.log_density) -> Tensor:
    point = flat(THETA).requires_grad_()
    total = (textbook(function, y, log_density)(point) * weights).sum()
    (gradient,) = torch.autograd.grad(total, point, create_graph=True)
    return torch.stack([torch.autograd.grad(g, point, retain_graph=True)[0] for g in gradient])


FUNCTIONS = {"a mean of each row's own": regression, "one mean": common_mean}


@pytest.mark.parametrize("which", FUNCTIONS)
def test_scores(which: str) -> None:
    J = mvnjac.jacobian(Y, None, mvnjac.Parametric(FUNCTIONS[which], THETA))
    rows = by_rows(FUNCTIONS[which])
    torch.testing.assert_close(J.matrix(), rows)
    assert J.matrix().shape == (N, len(J.columns()))
    torch.testing.assert_close(flat(J.sum()), rows.sum(0))
    torch.testing.assert_close(J.gram(), rows.mT @ rows)
    v = Maker(seed=7).normal(rows.shape[-1])
    torch.testing.assert_close(J.matvec(v), rows @ v)
    w = Maker(seed=8).normal(N)
    torch.testing.assert_close(J.rmatvec(w), w @ rows)
    torch.testing.assert_close(J[2:5].matrix(), rows[2:5])
    torch.testing.assert_close(J.matrix(wrt=("bend", "beta[1,2]")), rows[:, [15, 5]])
    torch.testing.assert_close(J.values(), flat(THETA))
    torch.testing.assert_close(J.log_prob, textbook(FUNCTIONS[which])(flat(THETA)))
    alone = mvnjac.jacobian(Y, mvnjac.Parametric(FUNCTIONS[which], THETA))  # it stands for mean and covariance
    torch.testing.assert_close(alone.matrix(), rows)


@pytest.mark.parametrize("which", FUNCTIONS)
def test_second_order(which: str) -> None:
    gaussian = mvnjac.Gaussian(None, mvnjac.Parametric(FUNCTIONS[which], THETA))
    weights = Maker(seed=9).positive(N)
    torch.testing.assert_close(gaussian.hessian(Y, weights=weights).matrix(), reverse_hessian(FUNCTIONS[which], weights))
    each = gaussian.hessian(Y, reduce=False)
    for i in range(N):
        only = torch.zeros(N, dtype=torch.float64)
        only[i] = 1
        torch.testing.assert_close(each.matrix()[i], reverse_hessian(FUNCTIONS[which], only))


@pytest.mark.parametrize("which", FUNCTIONS)
def test_expected_information(which: str) -> None:
    """−E[H] by 2d points about each mean, which integrate quadratic functions exactly."""
    function, point = FUNCTIONS[which], flat(THETA)
    mean, sigma = function(THETA)
    root = D**0.5 * torch.linalg.cholesky(sigma).mT
    total = torch.zeros(len(point), len(point), dtype=torch.float64)
    for deviation in torch.cat([root, -root]):
        y = (mean + deviation).expand(N, D)
        total -= hessian(lambda v, y=y: textbook(function, y)(v).sum())(point) / (2 * D * N)
    F = mvnjac.fisher_information(None, mvnjac.Parametric(function, THETA))
    torch.testing.assert_close(F.matrix(), total)
    b = Maker(seed=6).normal(len(point))
    regular = mvnjac.fisher_information(None, mvnjac.Parametric(function, THETA), wrt=("bend", "root[0,0]"))
    torch.testing.assert_close(regular.matvec(regular.solve(b[:2])), b[:2])


def test_log_prob_differentiates_through_the_function() -> None:
    rows = by_rows(regression)

    def density(beta: Tensor, root: Tensor, bend: Tensor) -> Tensor:
        theta = {"beta": beta, "root": root, "bend": bend}
        return mvnjac.log_prob(Y, None, mvnjac.Parametric(regression, theta)).sum()

    gradients = grad(density, (0, 1, 2))(*THETA.values())
    torch.testing.assert_close(torch.cat([g.reshape(-1) for g in gradients]), rows.sum(0))

    def at(y: Tensor, bend: Tensor) -> Tensor:
        return mvnjac.log_prob(y, None, mvnjac.Parametric(common_mean, {**THETA, "bend": bend}))

    torch.testing.assert_close(vmap(grad(at, 1), (0, None))(Y, THETA["bend"]), by_rows(common_mean)[:, -1])


def test_scores_cost_one_derivative_of_the_function() -> None:
    """The function is called as often for 1000 rows as for 10."""
    calls = []

    def counted(theta: dict[str, Tensor]) -> Tensor:
        calls.append(1)
        return torch.exp(theta["size"]) * torch.eye(D, dtype=torch.float64)

    def count(n: int) -> int:
        calls.clear()
        theta = {"size": torch.tensor(0.1, dtype=torch.float64)}
        J = mvnjac.jacobian(torch.zeros(n, D).double(), torch.zeros(D).double(), mvnjac.Parametric(counted, theta))
        J.matrix()
        J.gram()
        return len(calls)

    assert count(1000) == count(10) <= 4


@pytest.mark.parametrize("which", FUNCTIONS)
def test_rows_with_gaps(which: str) -> None:
    """Scores as of the textbook density. Second order raises an error if each row has its own mean."""
    y, structure = missing.gaps(Y), mvnjac.Parametric(FUNCTIONS[which], THETA)
    point = flat(THETA).requires_grad_()
    values = textbook(FUNCTIONS[which], y, missing.log_density)(point)
    rows = torch.stack([torch.autograd.grad(v, point, retain_graph=True)[0] for v in values])
    J = mvnjac.jacobian(y, None, structure, missing="marginalise")
    torch.testing.assert_close(J.log_prob, values)
    torch.testing.assert_close(J.matrix(), rows)
    torch.testing.assert_close(J.rmatvec(torch.ones(N).double()), rows.sum(0))
    torch.testing.assert_close(J[1:4].matrix(), rows[1:4])
    leaves = {name: value.clone().requires_grad_() for name, value in THETA.items()}
    mvnjac.log_prob(y, None, mvnjac.Parametric(FUNCTIONS[which], leaves), missing="marginalise").sum().backward()
    torch.testing.assert_close(torch.cat([leaf.grad.reshape(-1) for leaf in leaves.values()]), rows.sum(0))
    if which == "one mean":
        H = mvnjac.hessian(y, None, structure, missing="marginalise").matrix()
        torch.testing.assert_close(H, reverse_hessian(FUNCTIONS[which], torch.ones(N).double(), y, missing.log_density))
        return
    for call in (mvnjac.hessian, mvnjac.natural_gradient):
        with pytest.raises(
            ShapeError, match=r"\(6, 3\): with missing entries, second derivatives need the same mean in all rows"
        ):
            call(y, None, structure, missing="marginalise")
    with pytest.raises(ShapeError, match="second derivatives need the same mean"):
        mvnjac.fisher_information(None, structure, observed=~y.isnan())


def test_the_function_keeps_the_dtype() -> None:
    """A constant of another dtype inside the function raises an error; it does not change the dtype of results."""
    zeros, theta = torch.zeros(D).double(), {"size": torch.tensor(2.0).double()}
    with pytest.raises(DtypeError, match=r"a covariance of torch\.float32 for parameters of torch\.float64.*a constant inside"):
        mvnjac.jacobian(Y, zeros, mvnjac.Parametric(lambda t: t["size"].float() * torch.eye(D), theta))
    with pytest.raises(DtypeError, match=r"a mean of torch\.float32 for parameters of torch\.float64"):
        mvnjac.jacobian(Y, None, mvnjac.Parametric(lambda t: (torch.zeros(D), t["size"] * torch.eye(D).double()), theta))
    with pytest.raises(DtypeError, match=r"a covariance of torch\.float64 for parameters of torch\.float32"):
        mvnjac.Parametric(lambda t: t["size"] * torch.eye(D).double(), {"size": torch.tensor(2.0)})
    suited = mvnjac.Parametric(lambda t: t["size"] * torch.eye(D).to(t["size"]), {"size": torch.tensor(2.0)})
    assert mvnjac.jacobian(Y.float(), zeros.float(), suited, precision="float64")["size"].dtype is torch.float32


def test_a_step_in_place_is_seen() -> None:
    theta = {"size": torch.tensor(0.0, dtype=torch.float64)}
    gaussian = mvnjac.Gaussian(
        torch.zeros(D).double(), mvnjac.Parametric(lambda t: torch.exp(t["size"]) * torch.eye(D).double(), theta)
    )
    before = gaussian.log_prob(Y)
    theta["size"].add_(1)
    after = gaussian.log_prob(Y)
    expected = reference.log_density(Y, torch.zeros(D).double(), torch.e * torch.eye(D).double())
    torch.testing.assert_close(after, expected)
    assert not torch.allclose(before, after)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="the function of Parametric returns a mean, too"):
        mvnjac.jacobian(Y, torch.zeros(D).double(), mvnjac.Parametric(common_mean, THETA))
    with pytest.raises(ValueError, match="the mean is None"):
        mvnjac.jacobian(Y, None, torch.eye(D).double())
    with pytest.raises(ValueError, match="cannot be the name"):
        mvnjac.Parametric(common_mean, {"mean": torch.zeros(2)})
    with pytest.raises(ValueError, match="there are no parameters"):
        mvnjac.Parametric(common_mean, {})
    with pytest.raises(ValueError, match="x has shape"):
        mvnjac.jacobian(Y[:4], None, mvnjac.Parametric(regression, THETA))
