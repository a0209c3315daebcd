"""Missing entries: the Jacobian of every structure, from the marginal density of each row, and invalid arguments.

The reference is `tests/covariance/missing.py`, which is itself compared with lavaan. Second derivatives are in
`test_missing_information.py`, transforms in `test_missing_transforms.py`, results of lavaan in `tests/oracles`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import mvnjac
from mvnjac.covariance import dense_parameters, structures
from mvnjac.covariance.samples import Maker
from mvnjac.errors import ArgumentError, NotFiniteError
from tests.covariance import missing, reference
from tests.covariance.test_contract import BATCHES, check_reductions, kind, largest, sample
from tests.support.tolerance import assert_close, condition

STRUCTURES = structures()
FEW = ["Dense", "PrecisionCholesky", "Diagonal", "LowRank"]
GAPS = {"missing": "marginalise"}


def cases() -> Iterator:
    for name in STRUCTURES:
        for key in BATCHES:
            for dtype in (torch.float64, torch.float32):
                for d in (1, 3) if key == "rows" else (3,):
                    yield pytest.param(name, d, key, dtype, id=f"{name}-{key}-d{d}-{str(dtype)[6:]}")


def packed(expected: dict[str, Tensor], names: list[str], batch: torch.Size) -> Tensor:
    """(*batch, p) the matrix of scores, from full gradients."""
    columns = [reference.unique(expected[name], kind(name)) for name in names]
    return torch.cat([c if c.ndim > len(batch) else c.unsqueeze(-1) for c in columns], -1)


@pytest.mark.parametrize(("name", "d", "key", "dtype"), list(cases()))
def test_parameters_of_the_structure(name: str, d: int, key: str, dtype: torch.dtype) -> None:
    """Blocks, unique elements, matrix, totals and products for the parameters of the structure, in every batch."""
    for x, mean, structure in sample(name, d, BATCHES[key], dtype):
        x = missing.gaps(x)
        J = mvnjac.jacobian(x, mean, structure, **GAPS)
        dense = structure.dense(d).double()
        kappa = condition(dense)
        expected = missing.own_gradients(x, mean, structure)
        log_prob = missing.log_density(x.double(), mean.double(), dense).expand(J.batch)
        assert_close(J.log_prob, log_prob, kappa, what="J.log_prob")
        assert_close(mvnjac.log_prob(x, mean, structure, **GAPS), log_prob, kappa, what="log_prob")
        M = packed(expected, ["mean", *structure.parameters], J.batch)
        for block, gradient in expected.items():
            size = largest(gradient.abs()) or largest(M.abs())  # a block is 0 if all its entries are missing
            assert_close(J[block], gradient, kappa, what=f"J[{block}]", scale=size)
            assert_close(J.unique(block), packed(expected, [block], J.batch), kappa, what=f"unique {block}", scale=size)
            entries = gradient.flatten(len(J.batch)) if gradient.ndim > len(J.batch) else gradient.unsqueeze(-1)
            assert_close(J.matrix(block, layout="full"), entries, kappa, what=f"full {block}", scale=size)
        assert_close(J.matrix(), M, kappa, what="matrix")
        assert len(J.columns()) == M.shape[-1]
        out = torch.full(M.shape, torch.nan, dtype=dtype)
        assert J.matrix(out=out) is out
        assert_close(out, M, kappa, what="matrix(out=)")
        check_reductions(J, x, mean, structure, expected, M, kappa)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("parameter", dense_parameters())
@pytest.mark.parametrize("key", ["rows", "grid", "covariance per row", "mean per row"])
def test_dense_derivatives(name: str, parameter: str, key: str) -> None:
    """Blocks, unique elements, totals and products for every dense parametrisation, whatever the structure."""
    for x, mean, structure in sample(name, 4, BATCHES[key]):
        x, dense = missing.gaps(x), structure.dense(4)
        J, kappa = mvnjac.jacobian(x, mean, structure, **GAPS), condition(dense)
        expected = missing.dense_gradient(parameter, x, mean, dense)
        assert_close(J[parameter], expected, kappa, what=parameter)
        M = reference.unique(expected, kind(parameter))
        assert_close(J.unique(parameter), M, kappa, what=f"unique {parameter}")
        v = Maker(seed=5).normal(M.shape[-1])
        assert_close(J.matvec(v, wrt=parameter), M @ v, kappa, what="matvec", scale=largest((M * v).abs().sum(-1)))
        param_batch = torch.broadcast_shapes(mean.shape[:-1], structure.batch)
        w = Maker(batch=J.batch, seed=6).normal()
        weighted, shape = M * w.unsqueeze(-1), (*param_batch, M.shape[-1])
        size = largest(weighted.abs().sum_to_size(shape))
        assert_close(J.rmatvec(w, wrt=parameter), weighted.sum_to_size(shape), kappa, what="rmatvec", scale=size)
        assert_close(J.matrix(J.columns(parameter)[1::2]), M[..., 1::2], kappa, what="elements", scale=largest(M.abs()))
        outer = (weighted.unsqueeze(-1) * M.unsqueeze(-2)).abs()
        size = largest(outer.sum_to_size((*param_batch, *outer.shape[-2:])))
        gram = (weighted.unsqueeze(-1) * M.unsqueeze(-2)).sum_to_size((*param_batch, *outer.shape[-2:]))
        assert_close(J.gram(weights=w, wrt=parameter), gram, 2 * kappa, what="gram", scale=size)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("key", [slice(1, 4), slice(None, None, 2), torch.tensor([4, 0, 2, 2]), torch.arange(6) % 2 == 0])
def test_indexing_rows(name: str, key: slice | Tensor) -> None:
    """J[key] is the Jacobian of these rows, with their patterns."""
    for x, mean, structure in sample(name, 3, ((6,), (), ())):
        x = missing.gaps(x)
        part = mvnjac.jacobian(x, mean, structure, **GAPS)[key]
        alone = mvnjac.jacobian(x[key], mean, structure, **GAPS)
        for block in ("x", "mean", *structure.parameters):
            torch.testing.assert_close(part[block], alone[block])
            torch.testing.assert_close(part.sum(wrt=block)[block], alone.sum(wrt=block)[block])
        torch.testing.assert_close(part.matrix(), alone.matrix())
        torch.testing.assert_close(part.log_prob, alone.log_prob)
        torch.testing.assert_close(part.gram(), alone.gram())


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_complete_rows(name: str, dtype: torch.dtype) -> None:
    """With complete rows, missing= changes nothing."""
    for x, mean, structure in sample(name, 3, BATCHES["rows"], dtype):
        kappa = condition(structure.dense(3))
        with_gaps, without = (mvnjac.jacobian(x, mean, structure, **g) for g in (GAPS, {}))
        assert_close(with_gaps.matrix(), without.matrix().double(), kappa, what="matrix")
        assert_close(with_gaps.log_prob, without.log_prob.double(), kappa, what="log_prob")
        assert_close(with_gaps.gram(), without.gram().double(), kappa, what="gram")
        for block, total in without.sum(wrt=["x", "mean", *structure.parameters]).items():
            size = largest(without[block].abs().double().sum(0))
            assert_close(with_gaps.sum(wrt=block)[block], total.double(), kappa, what=f"sum {block}", scale=size)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("key", ["rows", "grid", "covariance per row", "one observation"])
def test_empty_rows(name: str, key: str) -> None:
    """Rows without observed entries have a log-density and derivatives that are exactly 0."""
    for x, mean, structure in sample(name, 3, BATCHES[key]):
        J = mvnjac.jacobian(torch.full_like(x, torch.nan), mean, structure, **GAPS)
        dense = ["scale_tril", "precision_matrix", "natural_location"]
        for result in (J.log_prob, J.matrix(), J.gram(), *(J[block] for block in ("x", *structure.parameters, *dense))):
            assert not result.any()
        assert not any(total.any() for total in J.sum(wrt=["x", "mean", *structure.parameters]).values())
        assert mvnjac.log_prob(torch.full_like(x, torch.nan), mean, structure, **GAPS).shape == J.batch


#: the number of axes of a parameter along which an entry belongs to a variable
LOCAL = {
    **dict.fromkeys(("x", "mean", "scale", "cov_diag"), 1),
    **dict.fromkeys(("covariance_matrix", "correlation_matrix"), 2),
    **dict.fromkeys(("scale_tril", "log_scale_tril", "cov_factor"), 1),  # the marginal has the rows of the observed variables
}


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_exact_zeros(name: str, dtype: torch.dtype) -> None:
    """The derivative with respect to an entry of a missing variable is exactly 0; others are not."""
    for x, mean, structure in sample(name, 4, ((8,), (), ()), dtype):
        x = missing.gaps(x)
        absent = x.isnan()
        J = mvnjac.jacobian(x, mean, structure, **GAPS)
        by_name = ["covariance_matrix", "scale_tril", "log_scale_tril", "scale", "correlation_matrix"]
        for block in dict.fromkeys(["x", "mean", *structure.parameters, *by_name]):
            if block not in LOCAL:
                continue
            value = J[block]
            assert not value[absent].any(), block
            if LOCAL[block] == 2:
                assert not value.mT[absent].any(), block
        assert (J["mean"][~absent] != 0).all()
        M = J.matrix("covariance_matrix")
        columns, rows = torch.triu_indices(4, 4)
        assert not M[absent[:, rows] | absent[:, columns]].any()


def test_x_is_not_altered() -> None:
    x, mean, structure = next(sample("Dense", 3, BATCHES["rows"]))
    x = missing.gaps(x)
    before = x.clone()
    J = mvnjac.jacobian(x, mean, structure, **GAPS)
    J.matrix(), J.sum(wrt=["x", "mean"]), mvnjac.hessian(x, mean, structure, **GAPS).matrix()
    assert torch.equal(x.isnan(), before.isnan())
    assert torch.equal(x.nan_to_num(), before.nan_to_num())


@pytest.mark.parametrize("name", STRUCTURES)
def test_blocks_carry_gradients(name: str) -> None:
    """J["mean"] is differentiable with respect to mean and parameters, with the derivatives of the textbook's gradient."""
    x, mean, structure = next(sample(name, 3, ((6,), (), ())))
    x, w = missing.gaps(x), Maker(batch=(6,), seed=9).normal(3)
    leaves = [t.clone().requires_grad_() for t in (mean, *structure.parameters.values())]

    def textbook() -> Tensor:
        rows = leaves[0].expand(6, 3)
        density = missing.log_density(x, rows, structure.at(leaves[1:]).dense(3))
        return torch.autograd.grad(density.sum(), rows, create_graph=True)[0]

    def gradients(block: Tensor) -> list[Tensor]:
        result = torch.autograd.grad((block * w).sum(), leaves)
        kinds = [structure.coordinates_of(n, 3) for n in structure.parameters]
        return [result[0], *(reference._project_to(k, g) for k, g in zip(kinds, result[1:], strict=True))]

    actual = gradients(mvnjac.jacobian(x, leaves[0], structure.at(leaves[1:]), **GAPS)["mean"])
    torch.testing.assert_close(actual, gradients(textbook()), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", FEW)
def test_many_patterns(name: str) -> None:
    """2000 rows of 12 variables with nearly as many patterns: a sample of the rows one by one, and the totals of all rows."""
    d, n = 12, 2000
    x, mean, structure = next(sample(name, d, ((n,), (), ())))
    observed = torch.rand(n, d, generator=torch.Generator().manual_seed(1)) < 0.6
    x = x.masked_fill(~observed, torch.nan)
    assert len(observed.unique(dim=0)) > 1000
    J, dense = mvnjac.jacobian(x, mean, structure, **GAPS), structure.dense(d)
    kappa, rows = condition(dense), torch.arange(7, n, 99)
    expected = missing.own_gradients(x[rows], mean, structure)
    for block, gradient in expected.items():
        assert_close(J[block][rows], gradient, kappa, what=block)
    assert_close(J.log_prob[rows], missing.log_density(x[rows], mean, dense), kappa, what="log p")
    M, w = J.matrix(), Maker(batch=(n,), seed=2).normal()
    assert_close(J.rmatvec(w), w @ M, kappa, what="rmatvec", scale=largest((w.unsqueeze(-1) * M).abs().sum(0)))
    v = Maker(seed=3).normal(M.shape[1])
    assert_close(J.matvec(v), M @ v, kappa, what="matvec", scale=largest((M * v).abs().sum(-1)))


def test_float32_computed_in_float64() -> None:
    """With precision="float64", results have full float32 accuracy with missing entries, too."""
    x, mean, structure = next(sample("LowRank", 3, BATCHES["rows"], torch.float32))
    x = missing.gaps(x)
    J = mvnjac.jacobian(x, mean, structure, precision="float64", **GAPS)
    for block, gradient in missing.own_gradients(x, mean, structure).items():
        assert J[block].dtype == torch.float32
        assert_close(J[block], gradient, 1.0, "oracle", block)


def test_gaussian() -> None:
    """`Gaussian` takes missing= once, and its results are those of the functions."""
    x, mean, structure = next(sample("Dense", 3, BATCHES["rows"]))
    x = missing.gaps(x)
    gaussian = mvnjac.Gaussian(mean, structure, **GAPS)
    torch.testing.assert_close(gaussian.jacobian(x).matrix(), mvnjac.jacobian(x, mean, structure, **GAPS).matrix())
    torch.testing.assert_close(gaussian.log_prob(x), mvnjac.log_prob(x, mean, structure, **GAPS))
    torch.testing.assert_close(gaussian.hessian(x).matrix(), mvnjac.hessian(x, mean, structure, **GAPS).matrix())
    natural = mvnjac.natural_gradient(x, mean, structure, **GAPS)
    torch.testing.assert_close(gaussian.natural_gradient(x), natural)
    expected = mvnjac.fisher_information(mean, structure, observed=~x.isnan()).matrix()
    torch.testing.assert_close(gaussian.fisher_information(observed=~x.isnan()).matrix(), expected)
    for other in (x.roll(1, 0), x[:2], x[0], x.nan_to_num()):  # other patterns with the same factor
        torch.testing.assert_close(gaussian.log_prob(other), missing.log_density(other, mean, structure.dense()))


def test_distribution_as_argument() -> None:
    x, mean, structure = next(sample("Dense", 3, BATCHES["rows"]))
    x, dist = missing.gaps(x), torch.distributions.MultivariateNormal(mean, structure.dense())
    expected = mvnjac.jacobian(x, mean, structure, **GAPS)
    torch.testing.assert_close(mvnjac.jacobian(x, dist, **GAPS)["mean"], expected["mean"])
    torch.testing.assert_close(mvnjac.log_prob(x, dist, **GAPS), expected.log_prob)


def test_column_names() -> None:
    x, mean, structure = next(sample("Dense", 3, BATCHES["rows"]))
    names = ["Ozone", "Wind", "Temp"]
    J = mvnjac.jacobian(missing.gaps(x), mean, structure, names=names, **GAPS)
    assert J.columns() == mvnjac.jacobian(x, mean, structure, names=names).columns()
    torch.testing.assert_close(J.matrix("mean[Wind]").squeeze(-1), J["mean"][:, 1])


# --- invalid arguments --------------------------------------------------------------------------------------------------

CALLS = {
    "jacobian": lambda x, mean, sigma, **more: mvnjac.jacobian(x, mean, sigma, **more),
    "log_prob": lambda x, mean, sigma, **more: mvnjac.log_prob(x, mean, sigma, **more),
    "hessian": lambda x, mean, sigma, **more: mvnjac.hessian(x, mean, sigma, **more),
    "natural_gradient": lambda x, mean, sigma, **more: mvnjac.natural_gradient(x, mean, sigma, **more),
    "Gaussian.jacobian": lambda x, mean, sigma, **more: mvnjac.Gaussian(mean, sigma, **more).jacobian(x),
    "Gaussian.log_prob": lambda x, mean, sigma, **more: mvnjac.Gaussian(mean, sigma, **more).log_prob(x),
}


@pytest.fixture
def arguments() -> tuple[Tensor, Tensor, Tensor]:
    x, mean, structure = next(sample("Dense", 3, BATCHES["rows"]))
    return x, mean, structure.dense()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_nan_is_an_error_by_default(call: Callable, arguments: tuple[Tensor, ...]) -> None:
    x, mean, sigma = arguments
    x[1, 2] = torch.nan
    with pytest.raises(NotFiniteError, match=r"x is nan at row 1, column 2.*missing=.marginalise"):
        call(x, mean, sigma)
    with pytest.raises(NotFiniteError, match=r"row 1, column 2"):
        call(x, mean, sigma, missing=None)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("value", [float("inf"), -float("inf")])
def test_infinities_are_always_an_error(call: Callable, value: float, arguments: tuple[Tensor, ...]) -> None:
    x, mean, sigma = arguments
    x[0, 1], x[3, 0] = torch.nan, value
    with pytest.raises(NotFiniteError, match=r"x is -?inf at row 3, column 0"):
        call(x, mean, sigma, **GAPS)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("value", ["drop", "", True])
def test_invalid_values_of_missing(call: Callable, value: object, arguments: tuple[Tensor, ...]) -> None:
    with pytest.raises(ArgumentError, match=f"missing.*{value!r}.*'marginalise'"):
        call(*arguments, missing=value)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_nan_in_the_parameters_is_an_error(call: Callable, arguments: tuple[Tensor, ...]) -> None:
    """missing= applies to x only."""
    x, mean, sigma = arguments
    mean[1] = torch.nan
    with pytest.raises(NotFiniteError, match="mean is nan"):
        call(x, mean, sigma, **GAPS)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_full_covariance_must_be_positive_definite(call: Callable, arguments: tuple[Tensor, ...]) -> None:
    """An indefinite covariance is an error even if its observed part is positive definite."""
    x, mean, sigma = arguments
    x[:, 2] = torch.nan
    sigma[2, 2] = -1
    with pytest.raises(mvnjac.errors.NotPositiveDefiniteError, match="covariance_matrix"):
        call(x, mean, sigma, **GAPS)


def test_unchecked() -> None:
    """With check=False results are the same, and not finite for infinite x, instead of the 0 of a missing entry."""
    x, mean, structure = next(sample("Dense", 3, BATCHES["rows"]))
    x = missing.gaps(x)
    unchecked = mvnjac.jacobian(x, mean, structure, check=False, **GAPS).matrix()
    torch.testing.assert_close(unchecked, mvnjac.jacobian(x, mean, structure, **GAPS).matrix())
    x[1, 0] = torch.inf
    log_prob = mvnjac.log_prob(x, mean, structure, check=False, **GAPS)
    assert log_prob[0].isfinite()
    assert not log_prob[1].isfinite()
