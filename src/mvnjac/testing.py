"""The conformance test of a covariance structure, for the tests of those who write one of their own.

The reference is computed independently: reverse-mode autodiff, once and twice, of the textbook log-density of `dense()`.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mvnjac.autodiff.log_prob import log_prob
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.samples import BadInput, Maker
from mvnjac.errors import ArgumentError, NotPositiveDefiniteError
from mvnjac.information.functions import fisher_information, hessian
from mvnjac.score.jacobian import Jacobian, jacobian

#: an error may be as large as this, times the condition number, eps and the largest entry of the result
_FACTOR = 100
_ROWS = 5


def check_structure(structure: Covariance, d: int | None = None, *, second_order: bool = True, seed: int = 0) -> None:
    """Check a covariance structure of one's own: everything that mvnjac derives from it agrees with its `dense()`.

    Checked are, with respect to x, the mean and every parameter of the structure: the log-density, the Jacobian (blocks, unique
    elements, matrix, weighted totals, Gram matrix, products with vectors), the gradients of `mvnjac.log_prob`, rows with missing
    entries, the product Σ v, the Fisher information with its solution, the Hessian, copies (`at`, `map`, pickle), and the
    `samples` and `bad_inputs` of the class, if it has them. It belongs into a test of each structure.

    Args:
        structure: an instance with float32 or float64 parameters, well conditioned; with or without leading dimensions.
        d: the number of variables, if the parameters do not determine it; by default 4 then.
        second_order: whether the information and the Hessian are checked (only without leading dimensions).
        seed: of the observations.

    Raises:
        AssertionError: the first result that is wrong, with its value, the expected value and the place.
        ArgumentError: `structure` is not a `Covariance`, or has another number of variables than `d`.

    Example:
        >>> import torch, mvnjac
        >>> from mvnjac.testing import check_structure
        >>> check_structure(mvnjac.Diagonal(torch.tensor([1.0, 2.0, 0.5])))
    """
    if not isinstance(structure, Covariance):
        raise ArgumentError(f"check_structure: got a {type(structure).__name__}; pass an instance of a class of Covariance.")
    if d is not None and structure.dimension not in (None, d):
        raise ArgumentError(f"check_structure: d is {d}, but the structure has {structure.dimension} variables; leave d out.")
    d = structure.dimension or d or 4
    make = Maker(structure.dtype, seed=seed)
    rows = (_ROWS, *(1,) * len(structure.batch))
    x, mean = Maker(structure.dtype, rows, seed + 1).normal(d), make.normal(d)
    case = _Case(structure, x, mean if structure.mean is None else None, d)
    _check_definition(case)
    _check_copies(case)
    _check_first_order(case)
    _check_missing(case, seed)
    if second_order and not structure.batch:
        _check_second_order(case)
    _check_inputs(structure, d)


@dataclass
class _Case:
    """A structure with rows x and a mean, None if the mean follows from the parameters; and the reference."""

    structure: Covariance
    x: Tensor
    mean: Tensor | None
    d: int

    @property
    def names(self) -> list[str]:
        """The parameters that derivatives are taken with respect to."""
        return [*(["mean"] if self.mean is not None else []), *self.structure.parameters]

    @property
    def values(self) -> dict[str, Tensor]:
        """Their values in float64, and x."""
        given = {"mean": self.mean} if self.mean is not None else {}
        values: dict[str, Tensor] = {"x": self.x, **given, **self.structure.parameters}
        return {name: value.detach().double() for name, value in values.items()}

    @property
    def condition(self) -> float:
        """The condition number of Σ, scaled to unit diagonal."""
        sigma = self.structure.dense(self.d).detach().double()
        scale = sigma.diagonal(dim1=-2, dim2=-1).sqrt()
        return float(torch.linalg.cond(sigma / (scale.unsqueeze(-1) * scale.unsqueeze(-2))).max())

    def density(self, values: Mapping[str, Tensor], observed: Tensor | None = None) -> Tensor:
        """The textbook log-density of each row, from `dense()`; of the observed entries of each row."""
        twin = self.structure.at([values[name] for name in self.structure.parameters])
        sigma, mean = twin.dense(self.d), values["mean"] if self.mean is not None else twin.mean
        assert mean is not None
        return _log_density(values["x"], mean, sigma, observed)

    def gradients(self, weights: Tensor, observed: Tensor | None = None) -> dict[str, Tensor]:
        """The weighted total gradients, by reverse mode."""
        leaves = {name: value.clone().requires_grad_() for name, value in self.values.items()}
        total = (weights * self.density(leaves, observed)).sum()
        found = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values()), materialize_grads=True), strict=True))
        for name in self.structure.parameters:
            kind = self.structure.coordinates_of(name, self.d)
            found[name] = kind.project(0.5 * (found[name] + found[name].mT) if kind.mirrored else found[name])
        return found

    def close(self, what: str, actual: Tensor, expected: Tensor, power: int = 1, scale: float = 0.0) -> None:
        """Raise AssertionError unless both agree up to rounding errors; power: of the condition number in the tolerance."""
        name = type(self.structure).__name__
        if actual.shape != expected.shape:
            raise AssertionError(f"{name}: {what} has shape {tuple(actual.shape)}; expected {tuple(expected.shape)}.")
        if not actual.numel():
            return
        actual, expected = actual.detach().double(), expected.detach().double()
        error = (actual - expected).abs()
        size = max(float(expected.abs().max()), scale, 1e-300)
        allowed = _FACTOR * self.condition**power * torch.finfo(self.structure.dtype).eps * size
        if bool((error <= allowed).all()):  # NaN is not
            return
        worst = int(error.nan_to_num(nan=math.inf).argmax())
        place = tuple(int(i) for i in np.unravel_index(worst, error.shape))
        raise AssertionError(
            f"{name}: {what} is {actual.flatten()[worst].item()!r} at {place}; expected {expected.flatten()[worst].item()!r} "
            f"(from dense()); the difference may be at most {allowed:.3g}."
        )


def _log_density(x: Tensor, mean: Tensor, sigma: Tensor, observed: Tensor | None) -> Tensor:
    """The log-density of the observed entries of each row: the others have mean 0, variance 1 and are x = 0."""
    r, constant = x - mean, math.log(2 * math.pi)
    if observed is None:
        observed = torch.ones_like(r, dtype=torch.bool)
    pairs = observed.unsqueeze(-1) & observed.unsqueeze(-2)
    identity = torch.eye(r.shape[-1], dtype=r.dtype, device=r.device)
    lower = torch.linalg.cholesky(torch.where(pairs, sigma, identity))
    z = torch.linalg.solve_triangular(lower, torch.where(observed, r, 0).unsqueeze(-1), upper=False).squeeze(-1)
    log_det = 2 * lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (observed.sum(-1).to(r.dtype) * constant + (z * z).sum(-1) + log_det)


def _require(structure: Covariance, holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(f"{type(structure).__name__}: {what}")


def _check_definition(case: _Case) -> None:
    structure, d = case.structure, case.d
    sigma = structure.dense(d)
    _require(structure, set(structure.parameters) == set(structure.fields), "the parameters are not those that `fields` names.")
    expected = (*structure.batch, d, d)
    _require(structure, tuple(sigma.shape) == expected, f"dense({d}) has shape {tuple(sigma.shape)}; expected {expected}.")
    failed = torch.linalg.cholesky_ex(sigma.double())[1]
    _require(structure, not bool(failed.any()), "dense() is not positive definite.")
    case.close("dense() (its transpose)", sigma.mT, sigma, power=0)
    factor, v = structure.factor(d), Maker(structure.dtype, seed=3).normal(d)
    case.close("factor.log_det", factor.log_det.expand(structure.batch), torch.logdet(sigma.double()), scale=1.0)
    if type(structure).times is not Covariance.times:  # optional
        case.close("times(factor, v)", structure.times(factor, v), sigma.double() @ v.double())


def _check_copies(case: _Case) -> None:
    structure, d = case.structure, case.d
    same = structure.at(list(structure.parameters.values()))
    case.close("at(the same values).dense()", same.dense(d), structure.dense(d), power=0)
    wide = structure.map(lambda t: t.double())
    _require(structure, wide.dtype is torch.float64, "map(Tensor.double) did not change the dtype.")
    _require(structure, type(wide) is type(structure), f"map returned a {type(wide).__name__}.")
    try:
        data = pickle.dumps(structure)
    except (pickle.PicklingError, AttributeError):  # a local class or function, which no pickle can name
        return
    case.close("a pickled copy's dense()", pickle.loads(data).dense(d), structure.dense(d), power=0)


def _check_first_order(case: _Case) -> None:
    structure, x, names = case.structure, case.x, case.names
    J = jacobian(x, case.mean, structure)
    size = {name: float(J[name].abs().sum()) + 1 for name in ("x", *names)}  # sums may cancel
    case.close("log_prob", J.log_prob, case.density(case.values), scale=1.0)
    weights = Maker(torch.float64, J.batch, seed=5).normal()
    for w in (torch.ones_like(weights), weights):
        expected, got = case.gradients(w), J.sum(weights=w.to(x.dtype), wrt=["x", *names])
        for name in ("x", *names):
            case.close(f"sum()[{name!r}]", got[name], expected[name], scale=size[name])
    for i in (0, -1):
        row = (i,) * len(J.batch)
        w = torch.zeros_like(weights)
        w[row] = 1
        for name, gradient in case.gradients(w).items():
            at = row[len(row) - (gradient.ndim - len(J.model.arguments.coordinates(name).shape)) :]
            case.close(f"J[{name!r}][{i}]", J[name][row], gradient[at], scale=size[name])
    _check_columns(case, J, weights)
    leaves = {name: value.to(x.dtype).requires_grad_() for name, value in case.values.items()}
    twin = structure.at([leaves[name] for name in structure.parameters])
    value = log_prob(leaves["x"], leaves["mean"] if case.mean is not None else None, twin)
    gradients = torch.autograd.grad((weights.to(x.dtype) * value).sum(), list(leaves.values()))
    expected = case.gradients(weights)
    for name, gradient in zip(leaves, gradients, strict=True):
        case.close(f"the gradient of log_prob with respect to {name}", gradient, expected[name], scale=size[name])


def _check_columns(case: _Case, J: Jacobian, weights: Tensor) -> None:
    names = case.names
    M = J.selection(None).pack({name: J[name] for name in names}, gradients=True).double()
    case.close("matrix() (beside the blocks)", J.matrix(), M)
    labels = J.columns()
    _require(case.structure, len(labels) == M.shape[-1], f"there are {len(labels)} labels of {M.shape[-1]} columns.")
    _require(case.structure, len(set(labels)) == len(labels), "labels of columns are not unique.")
    v = Maker(torch.float64, seed=7).normal(M.shape[-1])
    scale = float((M.abs() @ v.abs()).max())
    case.close("matvec(v)", J.matvec(v.to(J.dtype)), M @ v, scale=scale)
    batch = case.structure.batch
    products = (M * weights.unsqueeze(-1)).sum_to_size((*batch, M.shape[-1]))
    case.close("rmatvec(w)", J.rmatvec(weights.to(J.dtype)), products, scale=float((M * weights.unsqueeze(-1)).abs().sum()))
    outer = M.unsqueeze(-1) * M.unsqueeze(-2)
    case.close("gram()", J.gram(), outer.sum_to_size((*batch, *outer.shape[-2:])), power=2, scale=float(outer.abs().max()))


def _check_missing(case: _Case, seed: int) -> None:
    generator = torch.Generator(device="cpu").manual_seed(seed)
    observed = torch.rand(case.x.shape, generator=generator, dtype=torch.float64, device="cpu") > 0.4
    observed[0] = True
    x = torch.where(observed, case.x, torch.nan)
    J = jacobian(x, case.mean, case.structure, missing="marginalise")
    case.close("log_prob with missing entries", J.log_prob, case.density(case.values, observed), scale=1.0)
    weights = Maker(torch.float64, J.batch, seed=9).normal()
    got, expected = J.sum(weights=weights.to(x.dtype), wrt=case.names), case.gradients(weights, observed)
    for name in case.names:
        size = float(J[name].abs().sum()) + 1
        case.close(f"sum()[{name!r}] with missing entries", got[name], expected[name], scale=size)


def _check_second_order(case: _Case) -> None:
    """Without leading dimensions: by the unique elements of all parameters."""
    names, values, x = case.names, case.values, case.x
    selection = jacobian(x, case.mean, case.structure).selection(None)

    def moved(change: Tensor) -> dict[str, Tensor]:
        changes = selection.unpack(change)
        return {name: value + changes[name] if name in changes else value for name, value in values.items()}

    def moments(change: Tensor) -> tuple[Tensor, Tensor]:
        at = moved(change)
        twin = case.structure.at([at[name] for name in case.structure.parameters])
        mean = at["mean"] if case.mean is not None else twin.mean
        assert mean is not None
        return mean, twin.dense(case.d)

    zero = torch.zeros(selection.size, dtype=torch.float64, device=x.device)
    expected = torch.autograd.functional.hessian(lambda change: case.density(moved(change)).sum(), zero)
    case.close("hessian().matrix()", hessian(x, case.mean, case.structure).matrix(), expected, power=2)
    by_mean, by_sigma = (t.movedim(-1, 0) for t in torch.autograd.functional.jacobian(moments, zero))
    precision = torch.linalg.inv(moments(zero)[1])
    by_mean = by_mean.reshape(len(zero), -1, case.d)  # a mean that follows from the parameters may differ from row to row
    scaled = precision @ by_sigma
    inner = torch.einsum("knd,de,lne->kl", by_mean, precision, by_mean) / by_mean.shape[1]
    fisher = inner + 0.5 * torch.einsum("kij,lji->kl", scaled, scaled)
    F = fisher_information(case.mean, case.structure)
    case.close("fisher_information().matrix()", F.matrix(), fisher, power=2)
    steep = float(torch.linalg.cond(fisher))
    if case.structure.redundant_among(names) or steep > 1e6:
        return
    b = Maker(x.dtype, seed=11).normal(len(zero))
    solution = F.solve(b)
    case.close("fisher_information().solve(b), multiplied", F.matvec(solution), b, power=2, scale=steep * float(b.abs().max()))


def _check_inputs(structure: Covariance, d: int) -> None:
    """The samples and bad inputs that the class supplies for its tests; the latter over three variables, if it has no fixed number."""
    cls = type(structure)
    for sample in cls.samples(d, Maker(seed=2)):
        _require(structure, isinstance(sample, cls), f"samples() made a {type(sample).__name__}.")
    fixed = structure.dimension is None and structure.dense(3).shape[-1] != 3
    for bad in cls.bad_inputs(Maker()):
        _check_refused(cls, bad, torch.zeros(d if fixed else 3, dtype=torch.float64, device="cpu"))


def _check_refused(cls: type[Covariance], bad: BadInput, zeros: Tensor) -> None:
    name = f"{cls.__name__}: the bad input {dict(bad.parameters)}"
    try:
        structure = cls(**bad.parameters)
        jacobian(zeros, zeros, structure)
    except bad.error as error:
        if not re.search(bad.says, str(error)):
            raise AssertionError(f"{name} was refused by {error!s}; expected {bad.says!r} in it.") from None
    else:
        raise AssertionError(f"{name} was accepted; expected {bad.error.__name__}.")
    if issubclass(bad.error, NotPositiveDefiniteError):
        J = jacobian(zeros + 1, zeros, structure, check=False)
        _require(structure, not bool(torch.isfinite(J.log_prob).all()), "a bad input has a finite density with check=False.")
