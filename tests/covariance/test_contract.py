"""The contract test. It finds all structures automatically, and uses the samples and invalid inputs that each one defines."""

from __future__ import annotations

import pytest
import torch

import mvnjac
from mvnjac.covariance import dense_parameters, structures
from mvnjac.covariance.samples import Maker
from tests.covariance import reference
from tests.support.tolerance import assert_close, condition

STRUCTURES = structures()

#: leading dimensions of x, of the mean and of the covariance
BATCHES = {
    "rows": ((5,), (), ()),
    "one observation": ((), (), ()),
    "one row": ((1,), (), ()),
    "mean per row": ((4,), (4,), ()),
    "covariance per row": ((4,), (), (4,)),
    "grid": ((5, 1), (), (3,)),
    "grid of means": ((5, 1), (3,), (3,)),
    "one x, many covariances": ((), (), (3,)),
    "size-one batch": ((4, 3), (1,), (1,)),
    "mixed": ((2, 1, 5), (3, 1), (1, 1)),
    "no rows": ((0,), (), ()),
}


def sample(name: str, d: int, batches: tuple, dtype: torch.dtype = torch.float64):
    x_batch, mean_batch, batch = batches
    make = Maker(dtype, batch, seed=d)
    x = Maker(dtype, x_batch, seed=d + 1).normal(d)
    mean = Maker(dtype, mean_batch, seed=d + 2).normal(d)
    for structure in STRUCTURES[name].samples(d, make):
        yield x, mean, structure


def cases(dtypes=(torch.float64, torch.float32)):
    for name in STRUCTURES:
        for key in BATCHES:
            for dtype in dtypes:
                for d in (1, 3) if key == "rows" else (3,):
                    yield pytest.param(name, d, key, dtype, id=f"{name}-{key}-d{d}-{str(dtype)[6:]}")


@pytest.mark.parametrize(("name", "d", "key", "dtype"), list(cases()))
def test_structure_derivatives(name: str, d: int, key: str, dtype: torch.dtype) -> None:
    """Blocks, unique elements, matrix, total and products with respect to the structure's parameters."""
    for x, mean, structure in sample(name, d, BATCHES[key], dtype):
        J = mvnjac.jacobian(x, mean, structure)
        dense = structure.dense(d).double()
        kappa = condition(dense)
        expected = reference.own_gradients(x, mean, structure)

        assert_close(J.log_prob, reference.log_density(x.double(), mean.double(), dense).expand(J.batch), kappa, what="log p")
        for block, gradient in expected.items():
            assert_close(J[block], gradient, kappa, what=f"J[{block}]")
        packed = [reference.unique(expected[b], kind(b)) for b in ("mean", *structure.parameters)]
        M = torch.cat([p if p.ndim > len(J.batch) else p.unsqueeze(-1) for p in packed], -1)
        assert_close(J.matrix(), M, kappa, what="matrix")
        assert len(J.columns()) == M.shape[-1]
        out = torch.full(M.shape, torch.nan, dtype=dtype)
        assert J.matrix(out=out) is out
        assert_close(out, M, kappa, what="matrix(out=)")
        check_reductions(J, x, mean, structure, expected, M, kappa)


def check_reductions(J, x, mean, structure, expected, M, kappa) -> None:
    weights = Maker(M.dtype, J.batch, seed=9).normal().to(J.dtype)
    param_batch = torch.broadcast_shapes(mean.shape[:-1], structure.batch)
    for w in (None, weights):
        scaled = M if w is None else M * w.double().unsqueeze(-1)
        totals = J.sum(weights=w, wrt=["x", "mean", *structure.parameters])
        for block, total in totals.items():
            value = {"x": x, "mean": mean, **structure.parameters}[block]
            gradient = expected[block]
            if w is not None:
                gradient = gradient * w.double().reshape(w.shape + (1,) * (gradient.ndim - w.ndim))
            magnitude = largest(gradient.abs().sum_to_size(value.shape)) or largest(M.abs())
            assert_close(total, gradient.sum_to_size(value.shape), kappa, what=f"sum[{block}]", scale=magnitude)
        products = scaled.unsqueeze(-1) * M.unsqueeze(-2)
        shape = (*param_batch, M.shape[-1], M.shape[-1])
        magnitude = largest(products.abs().sum_to_size(shape))
        assert_close(J.gram(weights=w), products.sum_to_size(shape), 2 * kappa, what="gram", scale=magnitude)
    v = Maker(seed=3).normal(M.shape[-1]).to(J.dtype)
    magnitude = largest((M * v.double()).abs().sum(-1))
    assert_close(J.matvec(v), M @ v.double(), kappa, what="matvec", scale=magnitude)
    weighted = M * weights.double().unsqueeze(-1)
    shape = (*param_batch, M.shape[-1])
    magnitude = largest(weighted.abs().sum_to_size(shape))
    assert_close(J.rmatvec(weights), weighted.sum_to_size(shape), kappa, what="rmatvec", scale=magnitude)


def largest(t: torch.Tensor) -> float:
    return float(t.max()) if t.numel() else 0.0


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("parameter", dense_parameters())
@pytest.mark.parametrize("key", ["rows", "grid", "covariance per row", "mean per row"])
def test_dense_derivatives(name: str, parameter: str, key: str) -> None:
    """Blocks, unique elements, products and values of every dense parametrisation, from the J of any structure."""
    for x, mean, structure in sample(name, 4, BATCHES[key]):
        dense = structure.dense(4)
        gaussian = mvnjac.Gaussian(mean, structure)
        J, kappa = gaussian.jacobian(x), condition(dense)
        expected = reference.dense_gradient(parameter, x, mean, dense)
        assert_close(J[parameter], expected, kappa, what=parameter)
        M = reference.unique(expected, kind(parameter))
        assert_close(J.unique(parameter), M, kappa, what=f"unique {parameter}")
        v = Maker(seed=5).normal(M.shape[-1])
        magnitude = largest((M * v).abs().sum(-1))
        assert_close(J.matvec(v, wrt=parameter), M @ v, kappa, what=f"matvec {parameter}", scale=magnitude)
        param_batch = torch.broadcast_shapes(mean.shape[:-1], structure.batch)
        w = Maker(batch=J.batch, seed=6).normal()
        weighted, shape = M * w.unsqueeze(-1), (*param_batch, M.shape[-1])
        magnitude = largest(weighted.abs().sum_to_size(shape))
        assert_close(J.rmatvec(w, wrt=parameter), weighted.sum_to_size(shape), kappa, what="rmatvec", scale=magnitude)
        value = reference.views(mean, dense)[parameter]
        assert_close(gaussian.parameter(parameter), value, kappa, what=f"value of {parameter}")


@pytest.mark.parametrize("name", STRUCTURES)
def test_bad_inputs(name: str) -> None:
    """Each invalid input raises the error, with the message, that the structure declares."""
    cls, count = STRUCTURES[name], 0
    for bad in cls.bad_inputs(Maker()):
        count += 1
        with pytest.raises(bad.error, match=bad.says):
            mvnjac.jacobian(torch.zeros(3).double(), torch.zeros(3).double(), cls(**bad.parameters))
    assert count >= 2, f"{name} defines fewer than two invalid inputs"


@pytest.mark.parametrize("name", STRUCTURES)
def test_unchecked_bad_numbers_give_nan(name: str) -> None:
    """With check=False an invalid covariance gives NaN, never a finite number."""
    for bad in STRUCTURES[name].bad_inputs(Maker()):
        if not issubclass(bad.error, mvnjac.errors.NotPositiveDefiniteError):
            continue
        structure = STRUCTURES[name](**bad.parameters)
        J = mvnjac.jacobian(torch.ones(3).double(), torch.zeros(3).double(), structure, check=False)
        assert not torch.isfinite(J.log_prob).all()


@pytest.mark.parametrize("name", STRUCTURES)
def test_documented(name: str) -> None:
    """A structure's docstring has its arguments, its formula and an example (which runs with the doctests)."""
    text = STRUCTURES[name].__doc__ or ""
    assert "Args:" in text
    assert "∂ log p / ∂" in text
    assert ">>>" in text
    for parameter in STRUCTURES[name].fields:
        assert f"{parameter}: (" in text


def kind(block: str) -> str:
    return reference.KINDS.get(block.rpartition(".")[2], "entrywise")
