"""BlockDiagonal: the same results as for each block alone, for any structures, also nested; names, sizes and cost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, vmap

import mvnjac
from mvnjac.covariance import structures
from mvnjac.covariance.samples import Maker
from tests.covariance import reference
from tests.covariance.missing import own_textbook
from tests.information.test_information import expected_information
from tests.support.tolerance import assert_close, condition
from tests.support.work import operations

STRUCTURES = {name: cls for name, cls in structures().items() if name != "BlockDiagonal"}
N = 5


def kernel(theta: dict[str, Tensor]) -> Tensor:
    points = torch.arange(2, dtype=torch.float64)
    smooth = torch.exp(-((points[:, None] - points) ** 2) + theta["size"])
    return smooth + torch.diag_embed(torch.exp(theta["noise"]))


def parametric() -> mvnjac.Parametric:
    make = Maker(seed=8)
    return mvnjac.Parametric(kernel, {"size": make.normal(), "noise": make.normal(2)})


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_structure_as_a_block(name: str) -> None:
    """As one of two blocks, each structure has the same derivatives, information and Hessian as alone."""
    block = next(iter(STRUCTURES[name].samples(4, Maker(seed=1))))
    other = mvnjac.Dense(Maker(seed=2).definite(2))
    x, mean = Maker(batch=(N,), seed=3).normal(6), Maker(seed=4).normal(6)
    whole, alone = mvnjac.BlockDiagonal([other, block], (2, 4)), mvnjac.Gaussian(mean[2:], block)
    gaussian = mvnjac.Gaussian(mean, whole)
    J, K = gaussian.jacobian(x), alone.jacobian(x[:, 2:])
    parameters = [f"blocks[1].{parameter}" for parameter in block.parameters]
    kappa = condition(whole.dense(6)) ** 2
    assert_close(J.log_prob, K.log_prob + mvnjac.log_prob(x[:, :2], mean[:2], other), kappa, what="log p")
    assert_close(J.matrix(wrt=parameters), K.matrix(wrt=list(block.parameters)), kappa, what="matrix")
    for parameter in block.parameters:
        assert_close(J[f"blocks[1].{parameter}"], K[parameter], kappa, what=parameter)
        assert_close(J.sum()[f"blocks[1].{parameter}"], K.sum()[parameter], kappa, what=f"sum of {parameter}")
    assert J.columns(parameters) == [f"blocks[1].{column}" for column in K.columns(list(block.parameters))]
    for both, one in [
        (gaussian.fisher_information(wrt=parameters), alone.fisher_information(wrt=list(block.parameters))),
        (gaussian.hessian(x, wrt=parameters), alone.hessian(x[:, 2:], wrt=list(block.parameters))),
    ]:
        size = float(one.matrix().abs().max())
        assert_close(both.matrix(), one.matrix(), kappa, what=repr(both), scale=size)
    F, b = gaussian.fisher_information(), Maker(seed=5).normal(len(J.columns()))
    torch.testing.assert_close(F.solve(F.matvec(F.solve(b))), F.solve(b), rtol=1e-7, atol=1e-7)
    between = F.matrix()[:, [F.columns().index(c) for c in J.columns(parameters)]]
    assert not between[: len(b) - len(J.columns(parameters))].any()  # the information between blocks is 0


def test_information_of_a_function() -> None:
    """F, H and solutions for a block whose Σ is a function of θ, against the reference."""
    structure = mvnjac.BlockDiagonal([parametric(), mvnjac.LowRank(Maker(seed=6).normal(2, 1), Maker(seed=7).positive(2))])
    x, mean = Maker(batch=(N,), seed=3).normal(4), Maker(seed=4).normal(4)
    twin, gaussian = own_textbook(mean, structure), mvnjac.Gaussian(mean, structure)
    kappa = condition(structure.dense()) ** 2
    expected = expected_information(twin, mean, structure.dense())
    assert_close(gaussian.fisher_information().matrix(), expected, kappa, what="F")
    expected_hessian = twin.hessian(x)
    assert_close(gaussian.hessian(x).matrix(), expected_hessian, kappa, what="H")
    v = Maker(seed=9).normal(len(expected_hessian))
    solved = gaussian.fisher_information().solve(expected @ v)
    torch.testing.assert_close(solved, torch.linalg.pinv(expected, hermitian=True, rtol=1e-10) @ expected @ v)
    assert_close(structure.times(structure.factor(4), v[:4]), structure.dense() @ v[:4], kappa, what="Σ v")


def test_functions_under_transforms() -> None:
    """log_prob is differentiable through the function of a block: in reverse and forward mode, twice, and row by row."""
    theta, S = parametric().parameters, Maker(seed=6).definite(2)
    x, mean = Maker(batch=(N,), seed=3).normal(4), Maker(seed=4).normal(4)

    def structure(size: Tensor, noise: Tensor, S: Tensor) -> mvnjac.BlockDiagonal:
        return mvnjac.BlockDiagonal([mvnjac.Parametric(kernel, {"size": size, "noise": noise}), mvnjac.Dense(S)])

    def ours(x: Tensor, size: Tensor, noise: Tensor, S: Tensor) -> Tensor:
        return mvnjac.log_prob(x, mean, structure(size, noise, S)).sum()

    def textbook(x: Tensor, size: Tensor, noise: Tensor, S: Tensor) -> Tensor:
        return reference.log_density(x, mean, structure(size, noise, 0.5 * (S + S.mT)).dense()).sum()

    values, argnums = (x, theta["size"], theta["noise"], S), (0, 1, 2, 3)
    expected = jacrev(textbook, argnums)(*values)
    for first in (jacrev, jacfwd, grad):
        torch.testing.assert_close(first(ours, argnums)(*values), expected)
    torch.testing.assert_close(hessian(ours, argnums)(*values), jacrev(jacrev(textbook, argnums), argnums)(*values))
    rows = vmap(grad(ours, argnums), (0, None, None, None))(*values)
    torch.testing.assert_close(rows, vmap(grad(textbook, argnums), (0, None, None, None))(*values))
    J = mvnjac.jacobian(x, mean, structure(*values[1:]))
    torch.testing.assert_close(J.sum()["blocks[0].noise"], expected[2])
    assert J.columns()[4:7] == ["blocks[0].size", "blocks[0].noise[0]", "blocks[0].noise[1]"]


# --- names and sizes --------------------------------------------------------------------------------------------------


def arguments() -> tuple[Tensor, Tensor, mvnjac.BlockDiagonal]:
    make = Maker(seed=1)
    inner = mvnjac.BlockDiagonal([mvnjac.Diagonal(make.positive(2)), mvnjac.Isotropic(make.positive())], (None, 1))
    structure = mvnjac.BlockDiagonal([mvnjac.Isotropic(make.positive()), mvnjac.Dense(make.definite(2)), inner])
    return Maker(batch=(N,), seed=2).normal(7), Maker(seed=3).normal(7), structure


def test_names() -> None:
    """Column names consist of the block and the names of the variables, and select elements."""
    x, mean, structure = arguments()
    J = mvnjac.jacobian(x, mean, structure, names=list("ABCDEFG"))
    dense = [f"blocks[1].covariance_matrix[{pair}]" for pair in ("C,C", "D,C", "D,D")]
    nested = ["blocks[2].blocks[0].cov_diag[E]", "blocks[2].blocks[0].cov_diag[F]", "blocks[2].blocks[1].variance"]
    assert J.columns()[7:] == ["blocks[0].variance", *dense, *nested]
    some = [nested[1], "mean[B]", dense[1], "blocks[0].variance"]
    torch.testing.assert_close(J.matrix(wrt=some), J.matrix()[:, [J.columns().index(name) for name in some]])
    swapped = J.matrix(wrt="blocks[1].covariance_matrix[C,D]")
    torch.testing.assert_close(swapped[:, 0], J.matrix(wrt=dense[1])[:, 0])
    assert list(J.sum(wrt=["blocks[1].covariance_matrix", nested[0]])) == ["blocks[1].covariance_matrix", nested[0]]
    numbered = mvnjac.jacobian(x, mean, structure).columns()
    assert numbered[8:12] == [
        *(f"blocks[1].covariance_matrix[{p}]" for p in ("0,0", "1,0", "1,1")),
        "blocks[2].blocks[0].cov_diag[0]",
    ]


def test_names_that_do_not_exist() -> None:
    x, mean, structure = arguments()
    J = mvnjac.jacobian(x, mean, structure, names=list("ABCDEFG"))
    with pytest.raises(KeyError, match=r"no parameter 'blocks\[1\].covariance_matrx\[C,C\]' here. Did you mean 'blocks\[1\].c"):
        J.matrix(wrt="blocks[1].covariance_matrx[C,C]")
    with pytest.raises(
        KeyError, match=r"not an element of blocks\[1\].covariance_matrix; it has blocks\[1\].covariance_matrix\[C,C\]"
    ):
        J.matrix(wrt="blocks[1].covariance_matrix[A,C]")
    with pytest.raises(ValueError, match="selected as a whole"):
        J.matrix(wrt=["blocks[1].covariance_matrix", "blocks[1].covariance_matrix[C,C]"])
    assert J.matrix(wrt=["blocks[0].variance", "blocks[1].covariance_matrix"]).shape == (N, 4)
    with pytest.raises(KeyError, match=r"no parameter 'blocks\[0\]'"):
        J.matrix(wrt="blocks[0]")


def test_sizes() -> None:
    """The number of variables of a block is given by `sizes` or inferred from the mean, also in nested blocks."""
    x, mean, structure = arguments()
    assert structure.dimension is None
    assert structure.dense(7).shape == (7, 7)
    with pytest.raises(mvnjac.errors.ShapeError, match="pass it: dense"):
        structure.dense()
    variance = structure.parameters["blocks[0].variance"]
    torch.testing.assert_close(structure.dense(7)[1, 1], variance)
    assert structure.dense(7)[2, 2] != variance
    sized = mvnjac.BlockDiagonal([mvnjac.Isotropic(variance), mvnjac.Isotropic(2 * variance)], (3, 4))
    assert sized.dimension == 7
    torch.testing.assert_close(sized.dense().diagonal(), variance * torch.tensor([1.0, 1, 1, 2, 2, 2, 2]).double())
    torch.testing.assert_close(mvnjac.log_prob(x, mean, sized), reference.log_density(x, mean, sized.dense()))
    assert repr(sized).count("Isotropic(variance=") == 2
    assert sized.map(Tensor.float).dtype == torch.float32


def test_refused() -> None:
    def with_mean(theta: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return torch.zeros(2).double(), kernel(theta)

    with pytest.raises(mvnjac.errors.ArgumentError, match=r"the function of blocks\[1\] returns a mean, too"):
        mvnjac.BlockDiagonal([parametric(), mvnjac.Parametric(with_mean, parametric().parameters)])
    with pytest.raises(mvnjac.errors.ShapeError, match="do not broadcast"):
        mvnjac.BlockDiagonal([mvnjac.Diagonal(torch.ones(2, 3)), mvnjac.Diagonal(torch.ones(3, 2))])
    with pytest.raises(mvnjac.errors.DtypeError, match=r"blocks\[0\].cov_diag is torch.float32"):
        mvnjac.BlockDiagonal([mvnjac.Diagonal(torch.ones(2)), mvnjac.Diagonal(torch.ones(2).double())])
    x, mean, _ = arguments()
    singular = mvnjac.Dense(torch.ones(2, 2).double())
    bad = mvnjac.BlockDiagonal([mvnjac.Diagonal(torch.ones(5).double()), singular])
    with pytest.raises(
        mvnjac.errors.NotPositiveDefiniteError, match=r"jacobian: blocks\[1\]: covariance_matrix .* pivot of 'G'"
    ):
        mvnjac.jacobian(x, mean, bad, names=list("ABCDEFG"))


# --- batches ----------------------------------------------------------------------------------------------------------


def test_common_block_and_one_block_per_row() -> None:
    """One Σ₁ per row and a common Σ₂: rows as alone, sums in the parameters' shapes, slices, float32."""
    A, B = Maker(batch=(N,), seed=1).definite(2), Maker(seed=2).definite(2)
    x, mean = Maker(batch=(N,), seed=3).normal(4), Maker(seed=4).normal(4)
    J = mvnjac.jacobian(x, mean, mvnjac.BlockDiagonal([mvnjac.Dense(A), mvnjac.Precision(B)]))
    for i in range(N):
        alone = mvnjac.jacobian(x[i], mean, mvnjac.BlockDiagonal([mvnjac.Dense(A[i]), mvnjac.Precision(B)]))
        torch.testing.assert_close(J.matrix()[i], alone.matrix())
        torch.testing.assert_close(J.log_prob[i], alone.log_prob)
    assert J.sum()["blocks[0].covariance_matrix"].shape == (N, 2, 2)
    assert J.sum()["blocks[1].precision_matrix"].shape == (2, 2)
    torch.testing.assert_close(J[1:3].matrix(), J.matrix()[1:3])
    factor = mvnjac.BlockDiagonal([mvnjac.Dense(A), mvnjac.Precision(B)]).factor(4)
    assert factor.dense().batch == (N,)
    exact = mvnjac.jacobian(
        x.float(),
        mean.float(),
        mvnjac.BlockDiagonal([mvnjac.Dense(A), mvnjac.Precision(B)]).map(Tensor.float),
        precision="float64",
    )
    torch.testing.assert_close(exact.matrix().double(), J.matrix(), rtol=1e-5, atol=1e-5)


def test_many_rows_in_chunks() -> None:
    """Totals over more rows than one chunk, compared with the sums of the rows."""
    x, mean, structure = arguments()
    x = Maker(batch=(60_000,), seed=5).normal(7)
    J = mvnjac.jacobian(x, mean, structure)
    total = J.sum()
    M = J.matrix()
    packed = torch.cat([J.model.arguments.coordinates(name).pack_gradient(value) for name, value in total.items()])
    torch.testing.assert_close(packed, M.sum(0), rtol=1e-9, atol=1e-7)


# --- redundant directions, and the solution of minimum norm---------------------------------------------------------------


def test_redundant_blocks() -> None:
    """The solution of minimum norm for blocks with redundant directions (rotations, the scale of a Kronecker product)."""
    make = Maker(seed=1)
    low, pair = mvnjac.LowRank(make.normal(5, 2), make.positive(5)), mvnjac.Kronecker(make.definite(2), make.definite(2))
    structure, mean = mvnjac.BlockDiagonal([low, pair, mvnjac.Cholesky(make.lower(2))]), make.normal(11)
    F = mvnjac.fisher_information(mean, structure)
    matrix = F.matrix()
    values = torch.linalg.eigvalsh(matrix)
    assert int((values < 1e-10 * values[-1]).sum()) == 2
    b = Maker(seed=4).normal(F.shape[-1])
    torch.testing.assert_close(F.solve(b), torch.linalg.pinv(matrix, hermitian=True, rtol=1e-10) @ b)
    closed = mvnjac.fisher_information(make.normal(6), mvnjac.BlockDiagonal(structure.blocks[1:]))
    torch.testing.assert_close(closed.inverse(), torch.linalg.pinv(closed.matrix(), hermitian=True, rtol=1e-10))


def test_iterated_solution() -> None:
    """The iterative solution for more than a few thousand parameters has no component along redundant directions."""
    make = Maker(seed=1)
    low = mvnjac.LowRank(0.5 * make.normal(450, 8), make.positive(450))
    structure = mvnjac.BlockDiagonal(
        [low, mvnjac.Kronecker(make.definite(2), make.definite(2)), mvnjac.Dense(make.definite(2))]
    )
    F = mvnjac.fisher_information(make.normal(456), structure)
    assert F.shape[-1] > 4000
    b = F.matvec(Maker(seed=4).normal(F.shape[-1]))
    solution = F.solve(b)
    torch.testing.assert_close(F.matvec(solution), b, rtol=1e-8, atol=1e-8 * float(b.abs().max()))
    apart = mvnjac.fisher_information(make.normal(4), structure.blocks[1])
    at = slice(456 + 450 * 9, 456 + 450 * 9 + 6)
    torch.testing.assert_close(solution[at], apart.solve(torch.cat([torch.zeros(4).double(), b[at]]))[4:], rtol=1e-7, atol=1e-7)
    W = low.parameters["cov_factor"]
    inner = W.mT @ solution[456 : 456 + 450 * 8].reshape(450, 8)
    assert float((inner - inner.mT).abs().max()) < 1e-8 * float(inner.abs().max())


# --- cost -------------------------------------------------------------------------------------------------------------


def of_blocks(count: int) -> int:
    make = Maker(seed=1)
    structure = mvnjac.BlockDiagonal([mvnjac.Dense(make.definite(10)) for _ in range(count)])
    return operations(Maker(batch=(20,), seed=2).normal(10 * count), make.normal(10 * count), structure, solve=True)


def test_cost_is_the_sum_of_the_blocks() -> None:
    """Twice as many blocks take twice the operations."""
    assert 0 < of_blocks(8) <= 2 * of_blocks(4)


def test_nothing_as_large_as_all_variables_squared() -> None:
    """d = 40 000: a d×d array would take 12.8 GB."""
    d, k = 40_000, 100
    blocks = [mvnjac.Diagonal(Maker(seed=1).positive(d - k)), mvnjac.Dense(torch.eye(k).double())]
    x, mean = Maker(batch=(3,), seed=2).normal(d), torch.zeros(d).double()
    J = mvnjac.jacobian(x, mean, mvnjac.BlockDiagonal(blocks))
    torch.testing.assert_close(J.sum()["blocks[1].covariance_matrix"], J["blocks[1].covariance_matrix"].sum(0))
    step = mvnjac.natural_gradient(x, mean, mvnjac.BlockDiagonal(blocks))
    torch.testing.assert_close(step["blocks[0].cov_diag"], (x[:, : d - k] ** 2).mean(0) - blocks[0].parameters["cov_diag"])
