"""Random uses of the library: a structure, columns, missing entries, weights and a memory layout, with each operation.

The result must have the right shape and agree with autodiff of the textbook formulas (`tests/covariance`), or be an error of the
library.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import mvnjac
from mvnjac import inference
from mvnjac.covariance import dense_parameters
from mvnjac.errors import MvnjacError
from tests.covariance import missing as textbooks
from tests.covariance.missing import dense_textbook, log_density, own_textbook
from tests.support.tolerance import condition


@dataclass(frozen=True)
class Case:
    """One use.

    wrt: None, or names of parameters and elements; gaps: the missing entries: "none given", "complete" (missing entries are allowed),
    "some", "rows" (some rows have no entry), or "all".
    """

    structure: mvnjac.Covariance
    mean: Tensor
    x: Tensor
    wrt: tuple[str, ...] | None
    gaps: str
    weights: Tensor | None

    @property
    def missing(self) -> str | None:
        return None if self.gaps == "none given" else "marginalise"

    @property
    def given(self) -> tuple[Any, ...]:
        return self.mean, self.structure

    @property
    def J(self) -> mvnjac.Jacobian:
        return mvnjac.jacobian(self.x, *self.given, missing=self.missing)

    @property
    def w(self) -> Tensor:
        return torch.ones(len(self.x), dtype=torch.float64) if self.weights is None else self.weights

    def __repr__(self) -> str:
        return (
            f"{self.structure!r}, x {tuple(self.x.shape)} strides {self.x.stride()}, wrt {self.wrt}, gaps {self.gaps}, "
            f"weights {self.weights}"
        )


# --- the textbook ----------------------------------------------------------------------------------------------------


class Textbook:
    """The expected results."""

    def __init__(self, case: Case) -> None:
        self.case, self.d = case, len(case.mean)
        self.sigma = case.structure.dense(self.d).detach()
        self.kappa = condition(self.sigma)
        self._gradients: dict[str, Tensor] = {}

    def names(self) -> list[str]:
        """The parameters of `wrt`, including those of elements."""
        return (
            ["mean", *self.case.structure.parameters] if self.case.wrt is None else [t.split("[", 1)[0] for t in self.case.wrt]
        )

    def gradient(self, name: str) -> Tensor:
        """(n, *shape) row by row."""
        if name not in self._gradients:
            case = self.case
            if name in ("x", "mean", *case.structure.parameters):
                self._gradients |= textbooks.own_gradients(case.x, case.mean, case.structure)
            else:
                self._gradients[name] = textbooks.dense_gradient(name, case.x, case.mean, self.sigma)
        return self._gradients[name]

    def kind(self, name: str) -> Any:
        return self.case.J.model.arguments.coordinates(name)

    def columns(self, layout: str = "unique") -> Tensor:
        """(n, p)."""
        case, J = self.case, self.case.J
        parts = []
        for token in ["mean", *case.structure.parameters] if case.wrt is None else case.wrt:
            name = self.parameter(token)
            if layout == "full" and token != name:
                full = self.kind(name).all_entries()
                labels = J.columns(name, "full")
                parts.append(full.pack(self.gradient(name))[:, [labels.index(token)]])
                continue
            if layout == "full":
                parts.append(
                    self.gradient(name).flatten(1) if self.gradient(name).ndim > 1 else self.gradient(name).unsqueeze(-1)
                )
                continue
            packed = self.kind(name).pack_gradient(self.gradient(name))
            parts.append(packed if token == name else packed[:, [J.columns(name).index(token)]])
        return torch.cat(parts, -1)

    def parameter(self, token: str) -> str:
        """The parameter of a name, or of the name of an element."""
        known = ["x", "mean", *self.case.structure.parameters, *dense_parameters()]
        return max((name for name in known if token.startswith(name)), key=len)

    def second(self) -> Any:
        """The parametrisation of the columns, and their positions in it; None if they belong to several."""
        case = self.case
        names = ["mean", *case.structure.parameters] if case.wrt is None else [self.parameter(token) for token in case.wrt]
        others = set(names) - {"mean"}
        if others <= set(case.structure.parameters):
            book = own_textbook(case.mean, case.structure)
        else:
            owners = {dense_parameters().get(name) for name in others}
            if len(owners) != 1 or None in owners:
                return None
            book = dense_textbook(owners.pop(), case.mean, self.sigma)
        if not set(names) <= set(book.names):
            return None
        first, at = {}, 0
        for name in book.names:
            first[name], at = at, at + book.kinds[name].size
        places: list[int] = []
        for token in book.names if case.wrt is None else case.wrt:
            name = self.parameter(token)
            labels = case.J.columns(name)
            places += [first[name] + i for i in range(len(labels)) if token in (name, labels[i])]
        return book, places

    def hessian(self) -> Tensor | None:
        """(p, p), weighted."""
        found = self.second()
        if found is None:
            return None
        book, places = found
        theta = book.point.clone().requires_grad_()
        value = (self.case.w * log_density(self.case.x, *book.moments(theta))).sum()
        (gradient,) = torch.autograd.grad(value, theta, create_graph=True, allow_unused=True, materialize_grads=True)
        rows = [
            torch.autograd.grad(g, theta, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
            if g.requires_grad
            else torch.zeros_like(theta)
            for g in gradient
        ]
        return torch.stack(rows)[places][:, places]

    def fisher(self) -> Tensor | None:
        """(p, p) for the average row."""
        found = self.second()
        if found is None:
            return None
        book, places = found
        observed = ~self.case.x.isnan() if self.case.missing else torch.ones(1, self.d, dtype=torch.bool)
        return book.fisher(observed)[places][:, places]


# --- the operations --------------------------------------------------------------------------------------------------


def _vector(size: int) -> Tensor:
    return torch.linspace(-1, 1, size, dtype=torch.float64) + 0.3


def _operator(case: Case, kind: str) -> Any:
    if kind == "hessian":
        return mvnjac.hessian(case.x, *case.given, wrt=case.wrt, weights=case.weights, missing=case.missing)
    observed = ~case.x.isnan() if case.missing else None
    return mvnjac.fisher_information(*case.given, wrt=case.wrt, observed=observed)


def _solved(case: Case, kind: str) -> tuple[Tensor, Tensor]:
    operator = _operator(case, kind)
    b = operator.matrix() @ _vector(operator.shape[-1])  # has a solution for any rank
    return operator.matrix() @ operator.solve(b), b


def _at_estimate(case: Case) -> mvnjac.Jacobian:
    fitted = mvnjac.fit(case.x, case.structure, missing=case.missing, max_iterations=5)
    return fitted.gaussian.jacobian(case.x)


def _fitted(case: Case) -> tuple[Tensor, Tensor]:
    fitted = mvnjac.fit(case.x, case.structure, missing=case.missing, weights=case.weights, max_iterations=5)
    value = (case.w * fitted.gaussian.log_prob(case.x)).sum()
    return value, torch.as_tensor(fitted.log_likelihood, dtype=torch.float64)


def _totals(case: Case, book: Textbook) -> Tensor:
    return (case.w.unsqueeze(-1) * book.columns()).sum(0)


def _summed(case: Case) -> Tensor:
    J, parts = case.J, []
    totals = J.sum(weights=case.weights, wrt=case.wrt)
    for name, total in totals.items():
        whole = name in ("x", "mean", *case.structure.parameters, *dense_parameters())
        parts.append(J.model.arguments.coordinates(name).pack_gradient(total) if whole else total.reshape(1))
    return torch.cat(parts)


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


Pair = tuple[Tensor, Tensor | None]
#: the operation of the library, and that of the textbook (None: no comparison)
OPERATIONS: dict[str, Callable[[Case, Textbook], Pair]] = {
    "log_prob": lambda c, t: (
        mvnjac.log_prob(c.x, *c.given, missing=c.missing),
        log_density(c.x, c.mean, t.sigma),
    ),
    "J.log_prob": lambda c, t: (c.J.log_prob, log_density(c.x, c.mean, t.sigma)),
    "matrix": lambda c, t: (c.J.matrix(c.wrt), t.columns()),
    "matrix full": lambda c, t: (c.J.matrix(c.wrt, layout="full"), t.columns("full")),
    "sum": lambda c, t: (_summed(c), _totals(c, t)),
    "gram": lambda c, t: (c.J.gram(c.weights, c.wrt), t.columns().mT @ (c.w.unsqueeze(-1) * t.columns())),
    "rmatvec": lambda c, t: (c.J.rmatvec(c.w, c.wrt), _totals(c, t)),
    "matvec": lambda c, t: (
        c.J.matvec(_vector(len(c.J.columns(c.wrt))), c.wrt),
        t.columns() @ _vector(len(c.J.columns(c.wrt))),
    ),
    "values": lambda c, t: (c.J.values(c.wrt), None),
    "hessian": lambda c, t: (_operator(c, "hessian").matrix(), t.hessian()),
    "hessian solve": lambda c, t: _solved(c, "hessian"),
    "hessian of each row": lambda c, t: (
        mvnjac.hessian(c.x, *c.given, wrt=c.wrt, weights=c.weights, missing=c.missing, reduce=False).matrix().sum(0),
        t.hessian(),
    ),
    "hessian inverse diagonal": lambda c, t: (_operator(c, "hessian").inverse_diagonal(), None),
    "fisher": lambda c, t: (_operator(c, "fisher").matrix(), t.fisher()),
    "fisher solve": lambda c, t: _solved(c, "fisher"),
    "fisher inverse": lambda c, t: (_operator(c, "fisher").inverse(), None),
    "fisher inverse diagonal": lambda c, t: (_operator(c, "fisher").inverse_diagonal(), None),
    "natural_gradient": lambda c, t: (
        torch.cat(
            [
                v.reshape(-1)
                for v in mvnjac.natural_gradient(c.x, *c.given, wrt=c.wrt, weights=c.weights, missing=c.missing).values()
            ]
        ),
        None,
    ),
    "fit": lambda c, t: _fitted(c),
    **{
        f"covariance_of_estimates {kind}": lambda c, t, kind=kind: (
            inference.covariance_of_estimates(_at_estimate(c), kind, wrt=c.wrt, weights=c.weights).covariance,
            None,
        )
        for kind in ("expected", "observed", "opg", "sandwich", "hac")
    },
    "influence": lambda c, t: (
        inference.influence(_at_estimate(c), wrt=c.wrt, weights=c.weights).distances,
        None,
    ),
    "score_process": lambda c, t: (inference.score_process(_at_estimate(c), wrt=c.wrt).process, None),
    "score_test": lambda c, t: (
        _number(inference.score_test(_at_estimate(c), wrt=c.wrt, weights=c.weights).statistic),
        None,
    ),
    "score_test of an element": lambda c, t: (
        _number(
            inference.score_test(_at_estimate(c), zero=(c.J.columns(c.wrt) or ["mean[0]"])[-1], weights=c.weights).statistic
        ),
        None,
    ),
    "information_matrix_test": lambda c, t: (
        _number(inference.information_matrix_test(_at_estimate(c), wrt=c.wrt, elements="diagonal").statistic),
        None,
    ),
}


def check(case: Case, operation: str) -> bool:
    """Check the result of an operation, or that its error is one of the library; returns whether there is a result."""
    book = Textbook(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found, expected = OPERATIONS[operation](case, book)
        except MvnjacError:
            return False
    assert found.dtype == torch.float64
    if expected is None:
        return True
    assert found.shape == expected.shape, (operation, found.shape, expected.shape)
    if found.numel():
        scale = max(1.0, float(expected.abs().max()))
        error = float((found - expected).abs().max())
        assert error <= 1e-8 * book.kappa**2 * scale, (operation, error, scale, book.kappa)
    return True
