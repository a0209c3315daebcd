"""Blocks are differentiable if the inputs require gradients; the autograd graph is never cut silently."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck
from torch.func import jacfwd, jacrev, vmap

import mvnjac
from mvnjac.covariance import dense_parameters, structures
from mvnjac.covariance.samples import Maker
from tests.support.speed import mostly_slow

STRUCTURES = structures()
D = 3


def arguments(name: str) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    structure = next(iter(STRUCTURES[name].samples(D, Maker(seed=1))))
    return Maker(batch=(4,), seed=2).normal(D), Maker(seed=3).normal(D), structure.parameters


def symmetrised(structure: mvnjac.Covariance, parameters: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
    """The parameters made valid again after gradcheck perturbed single entries: symmetric, triangular, of fixed diagonal."""
    result = {}
    for name, value in zip(structure.parameters, parameters, strict=True):
        coordinates = structure.coordinates_of(name, D)
        if coordinates.mirrored:
            value = 0.5 * (value + value.mT)
            if not coordinates.diagonal:
                value = value.tril(-1) + value.triu(1) + torch.eye(coordinates.d, dtype=value.dtype)
        elif hasattr(coordinates, "diagonal"):
            value = value.tril()
        result[name] = value
    return result


@pytest.mark.parametrize("name", mostly_slow(STRUCTURES))
def test_blocks_are_differentiable(name: str) -> None:
    """gradcheck in reverse and forward mode of the blocks, the matrix, the total and the products."""
    structure = next(iter(STRUCTURES[name].samples(D, Maker(seed=1))))
    x, mean, parameters = arguments(name)
    v = Maker(seed=4).normal(mvnjac.jacobian(x, mean, structure).matrix().shape[-1])

    def everything(x, mean, *values):
        J = mvnjac.jacobian(x, mean, structure.at(list(symmetrised(structure, values).values())))
        total = torch.cat([t.flatten() for t in J.sum().values()])
        return torch.cat([J.log_prob, J.matrix().flatten(), J["x"].flatten(), total, J.matvec(v), J.gram().flatten()])

    leaves = [t.clone().requires_grad_() for t in (x, mean, *parameters.values())]
    assert gradcheck(everything, leaves, check_forward_ad=True, check_batched_grad=True)


@pytest.mark.parametrize("parameter", dense_parameters())
def test_derivatives_by_dense_parameters_are_differentiable(parameter: str) -> None:
    x, mean, _ = arguments("Dense")
    for name in ("Dense", "Precision", "PrecisionCholesky"):
        values = arguments(name)[2].values()

        def block(mean, value, name=name):
            sample = next(iter(STRUCTURES[name].samples(D, Maker(seed=1))))
            structure = STRUCTURES[name](**symmetrised(sample, (value,)))
            return mvnjac.jacobian(x, mean, structure)[parameter]

        leaves = [mean.clone().requires_grad_(), *(t.clone().requires_grad_() for t in values)]
        assert gradcheck(block, leaves, check_forward_ad=True)


def test_derivative_of_the_score_is_the_second_derivative() -> None:
    """The derivative of the score for the mean with respect to x is Σ⁻¹, under jacrev, jacfwd and vmap."""
    x, mean, parameters = arguments("Dense")
    sigma = parameters["covariance_matrix"]
    expected = torch.linalg.inv(sigma)

    def score(row):
        return mvnjac.jacobian(row, mean, sigma)["mean"]

    for transform in (jacrev, jacfwd):
        torch.testing.assert_close(transform(score)(x[0]), expected)
        torch.testing.assert_close(vmap(transform(score))(x), expected.expand(4, D, D))
    torch.testing.assert_close(vmap(score)(x), mvnjac.jacobian(x, mean, sigma)["mean"])


def test_no_grad_during_computations_does_not_cut_the_graph() -> None:
    x, mean, parameters = arguments("Dense")
    sigma = parameters["covariance_matrix"].clone().requires_grad_()
    J = mvnjac.jacobian(x, mean, sigma)
    with torch.no_grad():
        J.matrix(("mean", "covariance_matrix", "scale_tril", "precision_tril"))
        _ = J.log_prob
        part = J[1:3]
    assert torch.autograd.grad(part["mean"].sum(), sigma, retain_graph=True)[0].abs().sum() > 0
    for name in ("mean", "covariance_matrix", "scale_tril", "precision_tril"):
        assert J[name].requires_grad
        assert torch.autograd.grad(J[name].sum(), sigma, retain_graph=True)[0].abs().sum() > 0


def test_gaussian_constructed_under_no_grad_is_differentiable() -> None:
    x, mean, parameters = arguments("Dense")
    sigma = parameters["covariance_matrix"].clone().requires_grad_()
    with torch.no_grad():
        gaussian = mvnjac.Gaussian(mean, sigma)
        assert not gaussian.jacobian(x).matrix().requires_grad
    assert gaussian.jacobian(x).matrix().requires_grad
    assert gaussian.jacobian(x).log_prob.requires_grad


def test_gradient_by_sigma_is_symmetric() -> None:
    x, mean, parameters = arguments("Dense")
    sigma = parameters["covariance_matrix"].clone().requires_grad_()
    for name in ("covariance_matrix", "precision_matrix", "scale_tril"):
        gradient = torch.autograd.grad(mvnjac.jacobian(x, mean, sigma)[name][0, 1, 0], sigma)[0]
        torch.testing.assert_close(gradient, gradient.mT)


def test_gradient_of_log_prob_is_the_total_of_the_jacobian() -> None:
    x, mean, parameters = arguments("Dense")
    sigma = parameters["covariance_matrix"].clone().requires_grad_()
    torch.testing.assert_close(
        torch.autograd.grad(mvnjac.log_prob(x, mean, sigma).sum(), sigma)[0],
        mvnjac.jacobian(x, mean, sigma.detach()).sum()["covariance_matrix"],
    )


def test_out_raises_if_it_would_cut_the_graph() -> None:
    x, mean, parameters = arguments("Dense")
    J = mvnjac.jacobian(x.requires_grad_(), mean, parameters["covariance_matrix"])
    with pytest.raises(ValueError, match="cannot carry gradients"):
        J.matrix(out=torch.empty(4, 9).double())
    with torch.no_grad():
        J.matrix(out=torch.empty(4, 9).double())


def test_invalid_covariance_under_vmap_is_nan() -> None:
    x, mean, _ = arguments("Dense")
    sigma = torch.stack([torch.eye(D).double(), -torch.eye(D).double()])
    values = vmap(lambda S: mvnjac.log_prob(x[0], mean, S))(sigma)
    assert torch.isfinite(values[0])
    assert torch.isnan(values[1])


def test_under_compile() -> None:
    """Results are correct, also if the graph breaks, and NaN for an invalid covariance."""
    x, mean, parameters = arguments("Dense")
    sigma = parameters["covariance_matrix"]

    def scores(x, mean, sigma):
        return mvnjac.jacobian(x, mean, sigma).matrix()

    compiled = torch.compile(scores, backend="eager")
    torch.testing.assert_close(compiled(x, mean, sigma), scores(x, mean, sigma))
    assert compiled(x, mean, -sigma).isnan().any()
