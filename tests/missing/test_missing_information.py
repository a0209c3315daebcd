"""Second derivatives with missing entries: Hessian, information averaged over the patterns, and natural gradient.

The reference is the textbook of `tests/covariance/missing.py`: reverse over reverse mode of the marginal densities, and the
definition of the expected information, pattern by pattern. Results of lavaan are in `tests/oracles`.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from torch import Tensor

import mvnjac
from mvnjac.covariance import dense_parameters, structures
from mvnjac.covariance.samples import Maker
from mvnjac.errors import ArgumentError, ShapeError, SingularError
from tests.covariance import missing
from tests.covariance.missing import Textbook
from tests.information.test_information import samples
from tests.support.speed import mostly_slow
from tests.support.tolerance import assert_close, condition

STRUCTURES = structures()
OWNERS = {cls.__name__: cls for cls in dense_parameters().values()}
N, D = 7, 4
GAPS = {"missing": "marginalise"}


def sample(name: str, i: int = 0) -> tuple[Tensor, Tensor, mvnjac.Covariance]:
    """Rows of which one is complete, so that all parameters are identified, and one has no observed entry."""
    structure = list(STRUCTURES[name].samples(D, Maker(seed=1)))[i]
    return missing.gaps(Maker(batch=(N,), seed=2).normal(D)), Maker(seed=3).normal(D), structure


def check(x: Tensor, gaussian: mvnjac.Gaussian, book: Textbook, sigma: Tensor, redundant: bool = False) -> None:
    """Compare matrix, matvec and solve of Hessian and information, and the natural gradient, with the textbook."""
    kappa, wrt = condition(sigma) ** 2, book.names
    H, hessian = gaussian.hessian(x, wrt=wrt), book.hessian(x)
    F, expected = gaussian.fisher_information(wrt=wrt, observed=~x.isnan()), book.fisher(~x.isnan())
    v = Maker(seed=7).normal(len(hessian))
    assert_close(H.matrix(), hessian, kappa, what="hessian")
    assert_close(H.matvec(v), hessian @ v, kappa, what="H v", scale=float((hessian.abs() @ v.abs()).max()))
    assert_close(F.matrix(), expected, kappa, what="fisher")
    assert_close(F.matvec(v), expected @ v, kappa, what="F v", scale=float((expected.abs() @ v.abs()).max()))
    assert H.columns() == F.columns() == gaussian.jacobian(x).columns(wrt)
    vectors = torch.stack([v, -2 * v])
    torch.testing.assert_close(F.matvec(vectors), torch.stack([F.matvec(v), -2 * F.matvec(v)]))
    torch.testing.assert_close(H.matvec(vectors), torch.stack([H.matvec(v), -2 * H.matvec(v)]))
    if not redundant:
        steep = condition(sigma) * float(torch.linalg.cond(hessian))
        assert_close(H.solve(v), torch.linalg.solve(hessian, v), steep, what="H⁻¹ v")
    inverse = torch.linalg.pinv(expected, rtol=1e-9, hermitian=True)
    steep = condition(sigma) * float(torch.linalg.svdvals(inverse)[0] * torch.linalg.svdvals(expected)[0])
    b = expected @ v  # in the range of a singular matrix
    assert_close(F.solve(b), inverse @ b, steep, what="F⁻¹ b", scale=float(inverse.abs().max() * b.abs().max()))
    size = float(inverse.diagonal().abs().max())
    assert_close(F.inverse_diagonal(), inverse.diagonal(), steep, what="diagonal of F⁻¹", scale=size)
    natural = gaussian.natural_gradient(x, wrt=wrt)
    size = float(inverse.abs().max() * book.score(x).abs().max())
    assert_close(book.pack(natural), inverse @ book.score(x) / len(x), steep, what="natural gradient", scale=size)


@pytest.mark.parametrize(("name", "i"), samples())
def test_parameters_of_the_structure(name: str, i: int) -> None:
    x, mean, structure = sample(name, i)
    gaussian = mvnjac.Gaussian(mean, structure, **GAPS)
    check(x, gaussian, missing.own_textbook(mean, structure), structure.dense(D), structure.redundant)


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("name", ["Dense", "PrecisionCholesky", "Diagonal", "LowRank"])
def test_any_dense_parametrisation(owner: str, name: str) -> None:
    x, mean, structure = sample(name)
    sigma = structure.dense(D)
    check(x, mvnjac.Gaussian(mean, structure, **GAPS), missing.dense_textbook(OWNERS[owner], mean, sigma), sigma)


@pytest.mark.parametrize(("name", "i"), samples())
def test_per_observation(name: str, i: int) -> None:
    """With reduce=False there is one Hessian per row, 0 for an empty row; their weighted sum is the weighted Hessian."""
    x, mean, structure = sample(name, i)
    book, kappa = missing.own_textbook(mean, structure), condition(structure.dense(D)) ** 2
    H = mvnjac.hessian(x, mean, structure, reduce=False, **GAPS)
    assert H.shape == (N, len(book.point), len(book.point))
    matrices = H.matrix()
    size = float(matrices.abs().max())
    for row, matrix in zip(x, matrices, strict=True):
        assert_close(matrix, book.hessian(row), kappa, what="one row", scale=size)
    w = Maker(batch=(N,), seed=8).normal()
    weighted = mvnjac.hessian(x, mean, structure, weights=w, **GAPS).matrix()
    terms = matrices * w[:, None, None]
    assert_close(weighted, terms.sum(0), kappa, what="weighted", scale=float(terms.abs().sum(0).max()))


@pytest.mark.parametrize("name", STRUCTURES)
def test_complete_rows(name: str) -> None:
    """With complete rows, results are those without missing= and observed=."""
    _, mean, structure = sample(name)
    x = Maker(batch=(N,), seed=2).normal(D)
    everything = torch.ones(N, D, dtype=torch.bool)
    F, plain = mvnjac.fisher_information(mean, structure, observed=everything), mvnjac.fisher_information(mean, structure)
    torch.testing.assert_close(F.matrix(), plain.matrix(), rtol=1e-11, atol=1e-11)
    H = mvnjac.hessian(x, mean, structure, **GAPS).matrix()
    torch.testing.assert_close(H, mvnjac.hessian(x, mean, structure).matrix(), rtol=1e-10, atol=1e-10)
    with_gaps, without = (mvnjac.natural_gradient(x, mean, structure, **g) for g in (GAPS, {}))
    torch.testing.assert_close(with_gaps, without, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", STRUCTURES)
def test_averages_count_every_row(name: str) -> None:
    """An empty row halves the information of one complete row, and adds nothing to a Hessian or a natural gradient."""
    x, mean, structure = sample(name)
    observed = torch.tensor([[True] * D, [False] * D])
    half = mvnjac.fisher_information(mean, structure, observed=observed).matrix()
    torch.testing.assert_close(2 * half, mvnjac.fisher_information(mean, structure).matrix(), rtol=1e-11, atol=1e-11)
    there = ~x.isnan().all(1)
    assert not there.all()
    pairs = [[f(rows, mean, structure, **GAPS) for rows in (x, x[there])] for f in (mvnjac.hessian, mvnjac.natural_gradient)]
    torch.testing.assert_close(pairs[0][0].matrix(), pairs[0][1].matrix())
    torch.testing.assert_close(pairs[1][0], pairs[1][1], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["Dense", "Cholesky", "LowRank"])
def test_repeated_rows_are_weights(name: str) -> None:
    """A weight of 2, 1 or 0 is equivalent to a row that occurs twice, once or not at all."""
    x, mean, structure = sample(name)
    w = torch.tensor([2.0, 1, 1, 3, 0, 1, 2]).double()
    repeated = x.repeat_interleave(w.long(), 0)
    H, again = mvnjac.hessian(x, mean, structure, weights=w, **GAPS), mvnjac.hessian(repeated, mean, structure, **GAPS)
    torch.testing.assert_close(H.matrix(), again.matrix())
    natural = mvnjac.natural_gradient(x, mean, structure, weights=w, **GAPS)
    torch.testing.assert_close(natural, mvnjac.natural_gradient(repeated, mean, structure, **GAPS), rtol=1e-7, atol=1e-9)


def test_batches_and_grids() -> None:
    """x (n, 1, d) with K densities gives K Hessians and natural gradients; the mask has the shape of x."""
    make = Maker(batch=(3,), seed=4)
    x, mean, sigma = missing.gaps(Maker(batch=(N, 1), seed=2).normal(D)), make.normal(D), make.definite(D)
    H, F = mvnjac.hessian(x, mean, sigma, **GAPS), mvnjac.fisher_information(mean, sigma, observed=~x.isnan())
    p = D + D * (D + 1) // 2
    assert H.shape == F.shape == (3, p, p)
    v = Maker(seed=6).normal(p)
    step = mvnjac.natural_gradient(x, mean, sigma, **GAPS)
    for k in range(3):
        alone = mvnjac.hessian(x[:, 0], mean[k], sigma[k], **GAPS)
        torch.testing.assert_close(H.matrix()[k], alone.matrix())
        torch.testing.assert_close(H.matvec(v)[k], alone.matvec(v))
        one = mvnjac.fisher_information(mean[k], sigma[k], observed=~x[:, 0].isnan())
        torch.testing.assert_close(F.matrix()[k], one.matrix())
        torch.testing.assert_close(F.solve(v)[k], one.solve(v), rtol=1e-7, atol=1e-9)
        natural = mvnjac.natural_gradient(x[:, 0], mean[k], sigma[k], **GAPS)
        for name, value in natural.items():
            torch.testing.assert_close(step[name][k], value, rtol=1e-7, atol=1e-9)
    assert mvnjac.hessian(x, mean, sigma, reduce=False, **GAPS).shape == (N, 3, p, p)


@pytest.mark.parametrize("name", [name for name in STRUCTURES if name != "Parametric"])  # its means come from its function
def test_a_mean_per_row(name: str) -> None:
    """Second derivatives are those of each row, and the information at each mean is that of the average row."""
    x, _, structure = sample(name)
    x = torch.cat([x[:4], Maker(batch=(2,), seed=5).normal(D)])
    means = Maker(batch=(6,), seed=3).normal(D)
    wrt = ["mean", *structure.parameters]
    H = mvnjac.hessian(x, means, structure, wrt=wrt, **GAPS)
    F = mvnjac.fisher_information(means, structure, wrt=wrt, observed=~x.isnan())
    v = Maker(seed=6).normal(H.shape[-1])
    for i in range(6):
        alone = mvnjac.hessian(x[i : i + 1], means[i], structure, wrt=wrt, **GAPS)
        torch.testing.assert_close(H.matrix()[i], alone.matrix())
        torch.testing.assert_close(H.matvec(v)[i], alone.matvec(v))
        one = mvnjac.fisher_information(means[i], structure, wrt=wrt, observed=~x.isnan())
        torch.testing.assert_close(F.matrix()[i], one.matrix())
    if not structure.redundant:
        with pytest.raises(SingularError, match="singular"):  # a mean whose only row has missing entries
            mvnjac.natural_gradient(x, means, structure, **GAPS)
    known = x.clone()
    known[:, :2] = Maker(batch=(6,), seed=7).normal(2)
    wrt = ["mean"]
    half = torch.cat([known, known + 1]).reshape(2, 6, D)  # two rows per mean, one of them complete
    half[1] = half[1].nan_to_num(0.5)
    step = mvnjac.natural_gradient(half, means, structure, wrt=wrt, **GAPS)["mean"]
    for i in range(6):
        alone = mvnjac.natural_gradient(half[:, i], means[i], structure, wrt=wrt, **GAPS)["mean"]
        torch.testing.assert_close(step[i], alone)


@pytest.mark.parametrize("name", ["Dense", "Cholesky", "LowRank"])
def test_selected_elements(name: str) -> None:
    """With elements in wrt, matrix and solution are those of the corresponding rows and columns."""
    x, mean, structure = sample(name)
    gaussian = mvnjac.Gaussian(mean, structure, **GAPS)
    index = torch.tensor([5, 1, 6])
    elements = [gaussian.jacobian(x).columns()[i] for i in index]
    observed = ~x.isnan()
    for whole, part in [
        (gaussian.hessian(x), gaussian.hessian(x, wrt=elements)),
        (gaussian.fisher_information(observed=observed), gaussian.fisher_information(observed=observed, wrt=elements)),
    ]:
        matrix = whole.matrix()[index][:, index]
        torch.testing.assert_close(part.matrix(), matrix)
        b = Maker(seed=6).normal(3)
        torch.testing.assert_close(part.solve(b), torch.linalg.solve(matrix, b))
        assert part.columns() == elements


def test_many_patterns() -> None:
    """With hundreds of patterns, the information is the average over the patterns, the Hessian the sum over the rows."""
    x, mean, structure = Maker(batch=(400,), seed=2).normal(9), Maker(seed=3).normal(9), Maker(seed=4).definite(9)
    observed = torch.rand(400, 9, generator=torch.Generator().manual_seed(1)) < 0.6
    x = x.masked_fill(~observed, torch.nan)
    book = missing.dense_textbook(OWNERS["Dense"], mean, structure)
    kappa = condition(structure) ** 2
    assert len(observed.unique(dim=0)) > 150
    F = mvnjac.fisher_information(mean, structure, observed=observed)
    assert_close(F.matrix(), book.fisher(observed), kappa, what="fisher")
    v = Maker(seed=5).normal(len(book.point))
    H = mvnjac.hessian(x, mean, structure, **GAPS)
    size = float(H.matrix().abs() @ v.abs() @ torch.ones_like(v))
    assert_close(H.matvec(v), book.hessian_times(x, v), kappa, what="H v", scale=size)


@pytest.mark.parametrize("owner", mostly_slow(OWNERS, ("Dense", "Precision")))
@pytest.mark.parametrize("per_pattern", [1, 40])
def test_sums_over_patterns(owner: str, per_pattern: int) -> None:
    """Few and many rows per pattern, with weights of both signs and an empty row, in every parametrisation."""
    d, observed = 5, torch.rand(6, 5, generator=torch.Generator().manual_seed(2)) < 0.6
    observed[0], observed[1] = True, False
    mean, sigma = Maker(seed=3).normal(d), Maker(seed=4).definite(d)
    x = Maker(batch=(6 * per_pattern,), seed=2).normal(d).masked_fill(~observed.repeat(per_pattern, 1), torch.nan)
    weights = torch.linspace(-0.5, 2, len(x), dtype=torch.float64)
    book, kappa = missing.dense_textbook(OWNERS[owner], mean, sigma), condition(sigma) ** 2
    H = mvnjac.hessian(x, mean, sigma, wrt=book.names, weights=weights, **GAPS).matrix()
    expected = sum(w * book.hessian(row.unsqueeze(0)) for w, row in zip(weights, x, strict=True))
    assert isinstance(expected, Tensor)
    assert_close(H, expected, kappa, what="hessian", scale=float(sum(abs(w) for w in weights) * 10))
    assert torch.equal(H, H.mT)


@pytest.mark.parametrize("wrt", [["covariance_matrix"], ["covariance_matrix", "mean"], ["mean"]])
def test_whole_parameters_in_any_order(wrt: list[str]) -> None:
    """The matrix has the rows and columns of the parameters in the order of wrt."""
    x, mean, sigma = sample("Dense")
    for operator, whole in [
        (mvnjac.hessian(x, mean, sigma, wrt=wrt, **GAPS), mvnjac.hessian(x, mean, sigma, **GAPS)),
        (
            mvnjac.fisher_information(mean, sigma, wrt=wrt, observed=~x.isnan()),
            mvnjac.fisher_information(mean, sigma, observed=~x.isnan()),
        ),
    ]:
        index = [whole.columns().index(name) for name in operator.columns()]
        torch.testing.assert_close(operator.matrix(), whole.matrix()[index][:, index])


def test_memory_does_not_grow_with_patterns_times_columns() -> None:
    """600 rows with 600 patterns, 30 variables: the tables have 600 × 465 numbers and each sum 465², whereas the products of
    the 495 columns with each of the patterns would need 2 GB."""
    done = subprocess.run(
        [sys.executable, "-c", f"from tests.support.peak import peak; from {__name__} import informations; informations(3, 8)\n"
         "before = peak(); informations(600, 30); print(peak() - before)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) < 120e6


def informations(n: int, d: int) -> None:
    """Form both matrices for n rows of d variables with scattered missing entries."""
    mean, sigma = Maker(seed=3).normal(d), Maker(seed=4).definite(d)
    observed = torch.rand(n, d, generator=torch.Generator().manual_seed(1)) < 0.8
    x = Maker(batch=(n,), seed=2).normal(d).masked_fill(~observed, torch.nan)
    mvnjac.hessian(x, mean, sigma, **GAPS).matrix()
    mvnjac.fisher_information(mean, sigma, observed=observed).matrix()


def test_float32_computed_in_float64() -> None:
    x, mean, structure = sample("LowRank")
    half = structure.map(Tensor.float)
    exact = mvnjac.hessian(x.float().double(), mean.float().double(), half.map(Tensor.double), **GAPS).matrix()
    rounded = mvnjac.hessian(x.float(), mean.float(), half, precision="float64", **GAPS).matrix()
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.double(), exact, rtol=1e-6, atol=1e-6)
    F = mvnjac.fisher_information(mean.float(), half, precision="float64", observed=~x.isnan())
    exact = mvnjac.fisher_information(mean.float().double(), half.map(Tensor.double), observed=~x.isnan()).matrix()
    torch.testing.assert_close(F.matrix().double(), exact, rtol=1e-6, atol=1e-6)


# --- unidentified parameters and invalid arguments -------------------------------------------------------------------------

IDENTIFIED = [name for name, cls in STRUCTURES.items() if not cls.redundant]


@pytest.mark.parametrize("name", IDENTIFIED)
def test_a_variable_that_is_never_observed(name: str) -> None:
    """The Jacobian is valid, with 0 for the mean of the variable; information and Hessian are singular unless wrt= omits it."""
    x, mean, structure = sample(name)
    x[:, 2] = torch.nan
    J = mvnjac.jacobian(x, mean, structure, **GAPS)
    assert not J["mean"][:, 2].any()
    for block, gradient in missing.own_gradients(x, mean, structure).items():
        assert_close(J[block], gradient, condition(structure.dense(D)), what=block)
    F = mvnjac.fisher_information(mean, structure, observed=~x.isnan())
    H = mvnjac.hessian(x, mean, structure, **GAPS)
    for operator in (F, H):
        torch.testing.assert_close(operator.matrix()[2], torch.zeros(operator.shape[-1]).double(), rtol=0, atol=1e-14)
        with pytest.raises(SingularError, match="singular"):
            operator.solve(torch.ones(operator.shape[-1]).double())
    with pytest.raises(SingularError, match="singular"):
        F.inverse_diagonal()
    with pytest.raises(SingularError, match="singular"):
        mvnjac.natural_gradient(x, mean, structure, **GAPS)
    known = ["mean[0]", "mean[1]", "mean[3]"]
    part = mvnjac.fisher_information(mean, structure, observed=~x.isnan(), wrt=known)
    b = torch.ones(3).double()
    torch.testing.assert_close(part.matvec(part.solve(b)), b)


@pytest.mark.parametrize("owner", [name for name, cls in OWNERS.items() if not cls.canonical])
def test_a_pair_that_is_never_jointly_observed(owner: str) -> None:
    """If no row observes both variables, the information is singular in any dense parametrisation."""
    _, mean, structure = sample("Dense")
    observed = torch.ones(N, D, dtype=torch.bool)
    observed[:4, 1], observed[4:, 3] = False, False
    F = mvnjac.fisher_information(mean, structure, observed=observed, wrt=["mean", *OWNERS[owner].fields])
    with pytest.raises(SingularError, match="singular"):
        F.solve(torch.ones(F.shape[-1]).double())
    by_sigma = mvnjac.fisher_information(mean, structure, observed=observed)
    column = by_sigma.columns().index("covariance_matrix[3,1]")
    torch.testing.assert_close(by_sigma.matrix()[column], torch.zeros(14).double(), rtol=0, atol=1e-14)


def test_no_rows() -> None:
    """The sum over no rows and the average over empty rows are 0; an average over no rows raises an error."""
    x, mean, structure = sample("Dense")
    assert not mvnjac.hessian(x[:0], mean, structure, **GAPS).matrix().any()
    empty = torch.zeros(3, D, dtype=torch.bool)
    assert not mvnjac.fisher_information(mean, structure, observed=empty).matrix().any()
    with pytest.raises(SingularError, match="singular"):
        mvnjac.fisher_information(mean, structure, observed=empty).solve(torch.ones(14).double())
    with pytest.raises(ShapeError, match=r"observed has shape \(0, 4\): there are no rows"):
        mvnjac.fisher_information(mean, structure, observed=empty[:0])


@pytest.mark.parametrize("hidden", [slice(0, 2), slice(4, 6)], ids=["nested", "outer"])
def test_a_block_that_is_never_observed(hidden: slice) -> None:
    """The null space of the information consists of the parameters of this block; the others can be solved for."""
    make = Maker(seed=1)
    inner = mvnjac.BlockDiagonal([mvnjac.Isotropic(make.positive()), mvnjac.Dense(make.definite(2))], sizes=[2, None])
    structure = mvnjac.BlockDiagonal([inner, mvnjac.Isotropic(make.positive())], sizes=[None, 2])
    mean, x = make.normal(6), missing.gaps(Maker(batch=(N,), seed=2).normal(6))
    x[:, hidden] = torch.nan
    F = mvnjac.fisher_information(mean, structure, observed=~x.isnan())
    matrix, columns = F.matrix(), F.columns()
    torch.testing.assert_close(matrix, missing.own_textbook(mean, structure).fisher(~x.isnan()))
    hidden_variance = "blocks[0].blocks[0].variance" if hidden.start == 0 else "blocks[1].variance"
    null = [columns.index(name) for name in (f"mean[{hidden.start}]", f"mean[{hidden.start + 1}]", hidden_variance)]
    assert not matrix[null].any()
    assert int((torch.linalg.eigvalsh(matrix) > 1e-9).sum()) == len(columns) - 3
    for solve in (F.solve, mvnjac.hessian(x, mean, structure, **GAPS).solve):
        along = re.escape(", ".join(columns[i] for i in null))
        with pytest.raises(SingularError, match=rf"singular.*, along {along}; .* omit parameters with wrt="):
            solve(torch.ones(len(columns)).double())
    known = [name for i, name in enumerate(columns) if i not in null]
    part = mvnjac.fisher_information(mean, structure, observed=~x.isnan(), wrt=known)
    b = Maker(seed=3).normal(len(known))
    torch.testing.assert_close(part.matvec(part.solve(b)), b)
    assert not mvnjac.jacobian(x, mean, structure, **GAPS).matrix()[:, null].any()


def test_bad_masks() -> None:
    _, mean, structure = sample("Dense")
    for call in (lambda o: mvnjac.fisher_information(mean, structure, observed=o), Masked(mean, structure)):
        with pytest.raises(ArgumentError, match=r"observed.*\(5, 3\)"):
            call(torch.ones(5, 3, dtype=torch.bool))
        with pytest.raises(ArgumentError, match=r"observed.*bool"):
            call(torch.ones(5, D))
        with pytest.raises(ArgumentError, match="observed"):
            call([[True] * D])


class Masked:
    """The same call with a `Gaussian`."""

    def __init__(self, mean: Tensor, structure: mvnjac.Covariance) -> None:
        self.gaussian = mvnjac.Gaussian(mean, structure)

    def __call__(self, observed: Tensor) -> object:
        return self.gaussian.fisher_information(observed=observed)


def test_differentiable() -> None:
    """Products are differentiable with respect to the mean and Σ, as numerical differences confirm."""
    x, mean, structure = sample("Dense")
    v = Maker(seed=5).normal(14)

    def product(mean: Tensor, sigma: Tensor) -> Tensor:
        sigma = 0.5 * (sigma + sigma.mT)
        H = mvnjac.hessian(x, mean, sigma, **GAPS)
        return torch.cat([H.matvec(v), mvnjac.fisher_information(mean, sigma, observed=~x.isnan()).matvec(v)])

    assert torch.autograd.gradcheck(product, [mean.requires_grad_(), structure.dense().clone().requires_grad_()])
