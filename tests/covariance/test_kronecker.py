"""Kronecker: observations as matrices, names of both axes, the scale of the factors, and cost."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, vmap

import mvnjac
from mvnjac.covariance.samples import Maker
from mvnjac.covariance.structured.kronecker_factor import KroneckerFactor
from mvnjac.tensors.tracing import is_traced
from tests.covariance import reference
from tests.support.work import operations

N, M, Q = 5, 2, 3
D = M * Q
ROWS, COLUMNS = ["AAPL", "MSFT"], ["1M", "3M", "1Y"]


def arguments(batch: tuple[int, ...] = ()) -> tuple[Tensor, Tensor, mvnjac.Kronecker]:
    """x (n, m, q), mean (m, q), and the structure."""
    make = Maker(batch=batch, seed=1)
    structure = mvnjac.Kronecker(make.definite(M), make.definite(Q))
    return Maker(batch=(N,), seed=2).normal(M, Q), Maker(seed=3).normal(M, Q), structure


def textbook(x: Tensor, mean: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """The matrix normal density from its definition: −½ (tr A⁻¹ R B⁻¹ Rᵀ + q log |A| + m log |B| + m q log 2π)."""
    A, B, R = 0.5 * (A + A.mT), 0.5 * (B + B.mT), x - mean
    trace = ((torch.linalg.inv(A) @ R) * (R @ torch.linalg.inv(B))).sum((-2, -1))
    logs = [2 * torch.linalg.cholesky(side).diagonal().log().sum() for side in (A, B)]
    return -0.5 * (trace + Q * logs[0] + M * logs[1] + D * math.log(2 * math.pi))


def density(x: Tensor, mean: Tensor, A: Tensor, B: Tensor) -> Tensor:
    return mvnjac.log_prob(x, mean, mvnjac.Kronecker(A, B))


# --- observations as matrices -----------------------------------------------------------------------------------------


def test_matrices_are_rows_one_after_the_other() -> None:
    """Derivatives with respect to x and the mean have the shape of an observation; everything else is as for flat rows."""
    x, mean, structure = arguments()
    J, flat = mvnjac.jacobian(x, mean, structure), mvnjac.jacobian(x.reshape(N, D), mean.reshape(D), structure)
    assert J.batch == (N,)
    torch.testing.assert_close(J.log_prob, textbook(x, mean, *structure.parameters.values()))
    assert J["x"].shape == J["mean"].shape == (N, M, Q)
    torch.testing.assert_close(J["mean"].reshape(N, D), flat["mean"])
    torch.testing.assert_close(J["x"], -J["mean"])
    torch.testing.assert_close(J.matrix(), flat.matrix())
    torch.testing.assert_close(J.sum()["mean"], flat.sum()["mean"].reshape(M, Q))
    assert J.sum(wrt="x")["x"].shape == (N, M, Q)
    torch.testing.assert_close(J[1:3]["mean"], J["mean"][1:3])
    torch.testing.assert_close(J["covariance_matrix"], flat["covariance_matrix"])
    torch.testing.assert_close(J.values()[:D], mean.reshape(D))
    step = mvnjac.natural_gradient(x, mean, structure)
    torch.testing.assert_close(mean + step["mean"], x.mean(0))
    gaussian = mvnjac.Gaussian(mean, structure)
    assert gaussian.mean.shape == gaussian.parameter("mean").shape == (M, Q)
    torch.testing.assert_close(
        gaussian.hessian(x).matrix(), mvnjac.hessian(x.reshape(N, D), mean.reshape(D), structure).matrix()
    )
    torch.testing.assert_close(gaussian.jacobian(x[0]).log_prob, J.log_prob[0])


def test_batches_of_matrices() -> None:
    """A grid: x (n, 1, m, q) against K means and covariances."""
    x, _, structure = arguments((4,))
    mean = Maker(batch=(4,), seed=5).normal(M, Q)
    J = mvnjac.jacobian(x[:, None], mean, structure)
    A, B = structure.parameters.values()
    assert J["mean"].shape == (N, 4, M, Q)
    assert J.sum()["mean"].shape == (4, M, Q)
    for k in range(4):
        alone = mvnjac.jacobian(x, mean[k], mvnjac.Kronecker(A[k], B[k]))
        torch.testing.assert_close(J["mean"][:, k], alone["mean"])
        torch.testing.assert_close(J.sum()["row_covariance"][k], alone.sum()["row_covariance"])
    one_row = mvnjac.jacobian(torch.zeros(N, 1, 3), torch.zeros(1, 3), mvnjac.Kronecker(torch.eye(1), torch.eye(3)))
    assert one_row["mean"].shape == (
        N,
        1,
        3,
    )  # the last two dimensions of the mean are those of a matrix, not a batch of size 1
    assert one_row.log_prob.shape == (N,)


def test_one_row_covariance_per_row() -> None:
    """One A per row and a common B: each row as alone, and the total for B in the shape of B."""
    x, mean, structure = arguments()
    A, B = Maker(batch=(N,), seed=6).definite(M), structure.parameters["column_covariance"]
    J = mvnjac.jacobian(x, mean, mvnjac.Kronecker(A, B))
    for i in range(N):
        alone = mvnjac.jacobian(x[i], mean, mvnjac.Kronecker(A[i], B))
        torch.testing.assert_close(J["row_covariance"][i], alone["row_covariance"])
        torch.testing.assert_close(J["column_covariance"][i], alone["column_covariance"])
    assert J.sum()["row_covariance"].shape == (N, M, M)
    assert J.sum()["column_covariance"].shape == (Q, Q)


def test_means_changed_in_place_are_seen() -> None:
    x, mean, structure = arguments()
    strided = mean.mT.contiguous().mT  # not contiguous in the order of its rows
    gaussian = mvnjac.Gaussian(strided, structure)
    before = gaussian.log_prob(x)
    strided.add_(1)
    torch.testing.assert_close(gaussian.log_prob(x), textbook(x, mean + 1, *structure.parameters.values()))
    assert not torch.allclose(gaussian.log_prob(x), before)


def test_derivatives_of_every_order() -> None:
    """Transforms against the textbook density: reverse and forward mode, twice, row by row."""
    x, mean, structure = arguments()
    values = (x, mean, *structure.parameters.values())
    argnums = (0, 1, 2, 3)

    def both(f):  # the sum over the rows
        return lambda *v: f(*v).sum()

    expected, ours = jacrev(jacrev(both(textbook), argnums), argnums)(*values), both(density)
    for second in (jacrev(jacrev(ours, argnums), argnums), jacfwd(grad(ours, argnums), argnums), hessian(ours, argnums)):
        torch.testing.assert_close(second(*values), expected)
    rows = vmap(grad(density, argnums), (0, None, None, None))(*values)
    torch.testing.assert_close(rows, vmap(grad(textbook, argnums), (0, None, None, None))(*values))
    leaves = [v.clone().requires_grad_() for v in values]

    def symmetric(x: Tensor, mean: Tensor, A: Tensor, B: Tensor) -> Tensor:
        return density(x, mean, 0.5 * (A + A.mT), 0.5 * (B + B.mT))

    assert gradcheck(symmetric, leaves, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(symmetric, leaves, check_fwd_over_rev=True)

    def blocks(x: Tensor, mean: Tensor, A: Tensor, B: Tensor) -> Tensor:
        J = mvnjac.jacobian(x, mean, mvnjac.Kronecker(0.5 * (A + A.mT), 0.5 * (B + B.mT)))
        sums = [t.flatten() for t in J.sum(weights=torch.arange(N)).values()]
        some = J.matrix(wrt=("row_covariance[1,0]", "column_covariance[2,1]"))
        return torch.cat([J.matrix().flatten(), J["x"].flatten(), *sums, some.flatten()])

    assert gradcheck(blocks, leaves)
    torch._dynamo.reset()
    compiled = torch.compile(density, fullgraph=True, backend="aot_eager")
    first = torch.autograd.grad(density(*leaves).sum(), leaves)
    torch.testing.assert_close(torch.autograd.grad(compiled(*leaves).sum(), leaves), first)


# --- names ------------------------------------------------------------------------------------------------------------


def test_names_of_rows_and_columns() -> None:
    x, mean, structure = arguments()
    J = mvnjac.jacobian(x, mean, structure, names=[ROWS, COLUMNS])
    columns = J.columns()
    assert columns[:4] == ["mean[AAPL,1M]", "mean[AAPL,3M]", "mean[AAPL,1Y]", "mean[MSFT,1M]"]
    assert columns[6:9] == [f"row_covariance[{pair}]" for pair in ("AAPL,AAPL", "MSFT,AAPL", "MSFT,MSFT")]
    assert columns[9:11] == ["column_covariance[1M,1M]", "column_covariance[3M,1M]"]
    some = ["mean[MSFT,3M]", "row_covariance[AAPL,MSFT]", "covariance_matrix[MSFT,1M,AAPL,3M]", "column_covariance[1Y,3M]"]
    dense = J["covariance_matrix"][:, 3, 1] * 2
    expected = torch.stack(
        [J["mean"][:, 1, 1], 2 * J["row_covariance"][:, 1, 0], dense, 2 * J["column_covariance"][:, 2, 1]], 1
    )
    torch.testing.assert_close(J.matrix(wrt=some), expected)
    gaussian = mvnjac.Gaussian(mean.reshape(D), structure, names=[ROWS, COLUMNS])  # flat rows have the same names
    assert gaussian.names is not None
    assert gaussian.names[4] == "MSFT,3M"
    assert gaussian.fisher_information().columns() == columns


def test_numbers_where_there_are_no_names() -> None:
    x, mean, structure = arguments()
    columns = mvnjac.jacobian(x, mean, structure).columns()
    assert columns[3:7] == ["mean[1,0]", "mean[1,1]", "mean[1,2]", "row_covariance[0,0]"]
    flat = mvnjac.jacobian(x.reshape(N, D), mean.reshape(D), structure)
    assert flat.columns()[5] == "mean[5]"
    named = mvnjac.jacobian(x, mean, structure, names=list("abcdef"))  # a name for each variable
    assert named.columns()[5:7] == ["mean[f]", "row_covariance[0,0]"]


def test_names_that_do_not_fit() -> None:
    x, mean, structure = arguments()
    for names, says in [
        ([ROWS, ROWS], "2 column names for 3 columns"),
        ([COLUMNS, COLUMNS], "3 row names for 2 rows"),
        ([ROWS], "names has 1 lists; expected two"),
        (ROWS, "2 names for 6 variables"),
        ([["a", "a"], COLUMNS], "'a' occurs more than once"),
    ]:
        with pytest.raises(ValueError, match=says):
            mvnjac.jacobian(x, mean, structure, names=names)


def test_messages_say_which_side_and_which_name() -> None:
    x, mean, structure = arguments()
    singular = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    bad = mvnjac.Kronecker(singular, structure.parameters["column_covariance"])
    with pytest.raises(
        mvnjac.errors.NotPositiveDefiniteError, match=r"row_covariance is not .* pivot of 'MSFT' \(pivot 2 of 2\)"
    ):
        mvnjac.jacobian(x, mean, bad, names=[ROWS, COLUMNS])
    x = x.clone()
    x[3, 1, 2] = torch.nan
    with pytest.raises(mvnjac.errors.NotFiniteError, match=r"row 3, column 5 \('MSFT,1Y'\)"):
        mvnjac.jacobian(x, mean, structure, names=[ROWS, COLUMNS])
    with pytest.raises(mvnjac.errors.NotFiniteError, match=r"\(variable 1,2\)"):
        mvnjac.jacobian(x, mean, structure)
    with pytest.raises(mvnjac.errors.ShapeError, match=r"mean has 2 × 3 variables, but x has shape \(5, 6\)"):
        mvnjac.jacobian(x.reshape(N, D), mean, structure)
    with pytest.raises(mvnjac.errors.ShapeError, match="has 3 columns"):
        mvnjac.jacobian(x, mean.reshape(D), structure)
    with pytest.raises(mvnjac.errors.DtypeError, match="x is a list"):
        mvnjac.log_prob([[0.0]], mean, structure)


# --- the scale between the factors ------------------------------------------------------------------------------------


def test_the_factors_are_known_up_to_scale() -> None:
    """Σ does not change along one direction: `solve` has no component along it, and a constraint removes it."""
    x, mean, structure = arguments()
    F = mvnjac.fisher_information(mean, structure)
    matrix = F.matrix()
    values = torch.linalg.eigvalsh(matrix)
    assert int((values < 1e-12 * values[-1]).sum()) == 1
    inverse = torch.linalg.pinv(matrix, hermitian=True, rtol=1e-12)
    b = Maker(seed=4).normal(F.shape[-1])  # also outside of the range of F
    torch.testing.assert_close(F.solve(b), inverse @ b)
    torch.testing.assert_close(F.inverse(), inverse)
    torch.testing.assert_close(F.inverse_diagonal(), inverse.diagonal())
    columns = F.columns()
    columns.remove("row_covariance[0,0]")
    held = mvnjac.fisher_information(mean, structure, wrt=columns)
    torch.testing.assert_close(held.solve(b[1:]), torch.linalg.solve(held.matrix(), b[1:]))
    for name in structure.parameters:
        alone = mvnjac.fisher_information(mean, structure, wrt=name)
        c = Maker(seed=5).normal(alone.shape[-1])
        torch.testing.assert_close(alone.solve(c), torch.linalg.solve(alone.matrix(), c))
    H = mvnjac.hessian(x, mean, structure)
    torch.testing.assert_close(H.solve(b), torch.linalg.solve(H.matrix(), b))  # away from the maximum the Hessian is regular


def test_minimum_norm_and_units_agree_with_the_solution() -> None:
    _, mean, structure = arguments()
    factor = structure.factor(D)
    kinds = {name: structure.coordinates_of(name, D) for name in structure.parameters}
    change = {name: kind.unpack(Maker(seed=7).normal(kind.size)) for name, kind in kinds.items()}
    left = structure.minimum_norm(factor, change)
    A, B = structure.parameters.values()
    along = sum((kinds[n].pack(left[n]) * kinds[n].pack(t)).sum() for n, t in zip(kinds, (A, -B), strict=True))
    assert abs(float(along)) < 1e-14
    F = mvnjac.fisher_information(mean, structure, wrt=list(kinds))
    packed = torch.cat([kinds[n].pack(change[n]) for n in kinds])
    torch.testing.assert_close(F.solve(F.matvec(packed)), torch.cat([kinds[n].pack(left[n]) for n in kinds]))
    units = structure.units(factor)
    torch.testing.assert_close(units["mean"] ** 2, structure.dense().diagonal())
    torch.testing.assert_close(units["row_covariance"] ** 2, A.diagonal()[:, None] * A.diagonal())
    torch.testing.assert_close(units["column_covariance"] ** 2, B.diagonal()[:, None] * B.diagonal())


def test_stacked_information() -> None:
    """Leading dimensions: each information is that of the structure alone."""
    _, mean, structure = arguments((3,))
    F = mvnjac.fisher_information(mean, structure)
    b = Maker(seed=4).normal(F.shape[-1])
    for k in range(3):
        alone = mvnjac.fisher_information(mean, mvnjac.Kronecker(*(t[k] for t in structure.parameters.values())))
        torch.testing.assert_close(F.matrix()[k], alone.matrix())
        torch.testing.assert_close(F.solve(b)[k], alone.solve(b))


# --- cost -------------------------------------------------------------------------------------------------------------


def of_matrices(m: int, q: int, n: int = 4) -> int:
    make = Maker(seed=1)
    structure, x = mvnjac.Kronecker(make.definite(m), make.definite(q)), Maker(batch=(n,), seed=2).normal(m, q)
    return operations(x, torch.zeros(m, q).double(), structure)


def test_cost() -> None:
    """m q (m + q) per row and m³ + q³ for the factors: doubling both gives eight times the operations, not 64 times."""
    assert of_matrices(40, 40) < 8.2 * of_matrices(20, 20)
    assert 0 < of_matrices(20, 20, 200) - of_matrices(20, 20, 100) < 100 * 20 * 20 * 40 * 2 * 20


def test_nothing_as_large_as_all_variables_squared() -> None:
    """d = 40 000: a d×d array would take 12.8 GB."""
    make = Maker(seed=1)
    x, mean = Maker(batch=(3,), seed=2).normal(200, 200), torch.zeros(200, 200).double()
    A, B = ((W := make.normal(200, 3)) @ W.mT + torch.eye(200).double() for _ in range(2))
    structure = mvnjac.Kronecker(A, B)
    J = mvnjac.jacobian(x, mean, structure)
    total = J.sum()["row_covariance"]
    torch.testing.assert_close(total, J["row_covariance"].sum(0))
    leaf = structure.parameters["column_covariance"].clone().requires_grad_()
    mvnjac.log_prob(x, mean, mvnjac.Kronecker(structure.parameters["row_covariance"], leaf)).sum().backward()
    torch.testing.assert_close(leaf.grad, J.sum()["column_covariance"])


def test_unique_elements_by_chunks() -> None:
    """More rows than fit into the cache, with out=: the same result as the plain formula."""
    make = Maker(seed=1)
    structure, x = mvnjac.Kronecker(make.definite(30), make.definite(2)), Maker(batch=(300,), seed=2).normal(60)
    J = mvnjac.jacobian(x, torch.zeros(60).double(), structure)
    out = torch.empty(300, 465, dtype=torch.float64)
    J.matrix(wrt="row_covariance", out=out)
    G = reference.own_gradients(x, torch.zeros(60).double(), structure)["row_covariance"]
    torch.testing.assert_close(out, reference.unique(G, "symmetric"))
    torch.testing.assert_close(
        out.sum(0), structure.coordinates_of("row_covariance", 60).pack_gradient(J.sum()["row_covariance"])
    )


def test_reverse_whitening_has_the_same_norm() -> None:
    x, mean, structure = arguments()
    rows = mvnjac.jacobian(x, mean, structure).evaluation.rows
    assert isinstance(rows.factor, KroneckerFactor)
    assert not is_traced(x)
    torch.testing.assert_close(rows.reverse_whitened.square().sum(-1), rows.whitened.square().sum(-1))
