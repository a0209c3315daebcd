"""The summary of a fit: sizes, likelihood, convergence, and a table of estimates with standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.covariance.base import Covariance
from mvnjac.errors import ArgumentError, counted
from mvnjac.estimation.fitted_rows import FittedRows
from mvnjac.gaussian import Gaussian
from mvnjac.inference.estimate_covariances import covariance_of_estimates
from mvnjac.inference.result_table import ResultTable
from mvnjac.parameters.selection import Selection
from mvnjac.statistics.sufficient import SufficientStatistics
from mvnjac.tables.html import html_table, number

#: the kinds of standard errors, and the kind of `covariance_of_estimates` that each is
ERRORS = {"classical": "", "robust": "sandwich", "hac": "hac"}
#: the most parameters that the text lists
_LISTED = 60
_WIDTH = 78


class Estimate(Protocol):
    """The part of `Fit` that a summary shows."""

    @property
    def gaussian(self) -> Gaussian: ...
    @property
    def covariance(self) -> Covariance: ...
    @property
    def log_likelihood(self) -> float: ...
    @property
    def rows(self) -> int: ...
    @property
    def iterations(self) -> int: ...
    @property
    def converged(self) -> bool: ...
    @property
    def message(self) -> str: ...
    @property
    def boundary(self) -> list[str]: ...
    @property
    def n_parameters(self) -> int: ...
    @property
    def aic(self) -> float: ...
    @property
    def bic(self) -> float: ...
    @property
    def sample(self) -> SufficientStatistics: ...

    def standard_errors(self, wrt: str | Sequence[str] | None = None) -> Mapping[str, Tensor]: ...
    def rows_of_fit(self, data: Any = None) -> FittedRows: ...


@dataclass(frozen=True, repr=False, eq=False)
class Summary(ResultTable):
    """The estimates of a fit, with standard errors, z statistics, p-values and confidence intervals; made by `Fit.summary`.

    `print` shows it as text, a notebook as HTML; `to_pandas` and `to_arrow` return the table of estimates with the exact names
    of the columns.

    Attributes:
        title: the structure.
        heading: pairs of a quantity and its value, such as ("rows", "6020").
        columns: the k exact names, such as "covariance_matrix[CHF,USD]".
        descriptions: the k names in words, such as "covariance of USD and CHF".
        values: (k,) the estimates.
        standard_errors: (k,); NaN for parameters at a bound, or identified by a convention only.
        errors: a description of the standard errors.
        level: of the confidence intervals.
        notes: further remarks, such as parameters at a bound.
    """

    title: str
    heading: tuple[tuple[str, str], ...]
    columns: tuple[str, ...]
    descriptions: tuple[str, ...]
    values: Float[Tensor, "k"]
    standard_errors: Float[Tensor, "k"]
    errors: str
    level: float = 0.95
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ArgumentError(f"summary: level is {self.level!r}; expected a probability between 0 and 1.")

    @property
    def z(self) -> Float[Tensor, "k"]:
        """The estimates divided by their standard errors."""
        return self.values / self.standard_errors

    @property
    def p_values(self) -> Float[Tensor, "k"]:
        """Two-sided p-values for the hypothesis that a parameter is 0, by the normal distribution."""
        return torch.special.erfc(self.z.abs() / math.sqrt(2))

    @property
    def interval(self) -> tuple[Float[Tensor, "k"], Float[Tensor, "k"]]:
        """The lower and upper bounds of the confidence intervals, by the normal distribution."""
        width = NormalDist().inv_cdf(0.5 + 0.5 * self.level) * self.standard_errors
        return self.values - width, self.values + width

    def _title(self) -> str:
        return self.title

    def _labels(self) -> Sequence[str]:
        return self.columns

    def _table(self) -> dict[str, Any]:
        lower, upper = self.interval
        return {
            "estimate": self.values,
            "standard_error": self.standard_errors,
            "z": self.z,
            "p_value": self.p_values,
            "lower": lower,
            "upper": upper,
        }

    def _headings(self) -> list[str]:
        tail = 0.5 - 0.5 * self.level
        return ["estimate", "std. error", "z", "P>|z|", f"[{tail:.3g}", f"{1 - tail:.3g}]"]

    def _rows(self) -> list[list[str]]:
        columns = [[_FORMATS[name](v) for v in column[:_LISTED].tolist()] for name, column in self._table().items()]
        return [list(row) for row in zip(*columns, strict=True)]

    def _footnotes(self) -> list[str]:
        more = len(self.columns) - _LISTED
        folded = [f"{more} more parameters are not shown; summary(wrt=…) selects, to_pandas() has all."] if more > 0 else []
        return [*folded, f"Standard errors: {self.errors}.", *self.notes]

    def __repr__(self) -> str:
        cells = [[name, *row] for name, row in zip(self.descriptions[:_LISTED], self._rows(), strict=True)]
        table = [["", *self._headings()], *cells]
        widths = [max(len(row[j]) for row in table) for j in range(len(table[0]))]
        lines = [
            "  ".join(cell.ljust(w) if j == 0 else cell.rjust(w) for j, (cell, w) in enumerate(zip(row, widths, strict=True)))
            for row in table
        ]
        width = max(_WIDTH, *map(len, lines))
        rule, thin = "=" * width, "-" * width
        above = [self.title.center(width).rstrip(), rule, *_two_columns(self.heading, width), rule]
        return "\n".join([*above, lines[0], thin, *lines[1:], rule, *self._footnotes()])

    __str__ = __repr__

    def _repr_html_(self) -> str:
        heading = html_table(self.title, [], [name for name, _ in self.heading], [[value] for _, value in self.heading])
        return heading + html_table(
            "", self._headings(), self.descriptions[:_LISTED], self._rows(), " ".join(self._footnotes())
        )


def summary_of(
    fit: Estimate, errors: str, wrt: str | Sequence[str] | None, level: float, data: Any, options: dict[str, Any]
) -> Summary:
    """The summary of a fit; the arguments are those of `Fit.summary`."""
    if errors not in ERRORS:
        raise ArgumentError(f"summary: errors is {errors!r}; expected one of {', '.join(map(repr, ERRORS))}.")
    if errors == "classical" and (options or data is not None):
        given = next(iter(options), "data")
        raise ArgumentError(f"summary: {given}= has no meaning for errors='classical'; it is for 'robust' and 'hac'.")
    arguments = fit.gaussian.model.arguments
    selection = arguments.select(wrt)
    if errors == "classical":
        values, standard_errors, words = _classical(fit, selection)
    else:
        values, standard_errors, words = _from_rows(fit, ERRORS[errors], wrt, data, options)
    notes = [f"At its bound, without a standard error: {', '.join(fit.boundary)}."] if fit.boundary else []
    if bool(standard_errors.isnan().any()) and not fit.boundary:
        notes.append("— marks parameters that are identified by a convention only.")
    if not fit.converged:
        notes.append(f"The estimate is not a maximum: {fit.message}")
    title = f"Maximum likelihood, {type(fit.covariance).__name__} covariance"
    return Summary(
        title, _heading(fit), tuple(selection.columns()), tuple(arguments.descriptions(selection)),
        values.detach().cpu(), standard_errors.detach().cpu(), words, level, tuple(notes),
    )  # fmt: skip


def _classical(fit: Estimate, selection: Selection) -> tuple[Tensor, Tensor, str]:
    names = list(dict.fromkeys(part.name for part in selection.parts))
    model = fit.gaussian.model
    parameters = {name: model.parameter(name) for name in names}
    identified = [name for name in names if name not in fit.covariance.unidentified]
    default = set(names) <= set(model.arguments.default_names())
    found = fit.standard_errors(None if default else identified)
    unknown = {name: torch.full_like(value, math.nan) for name, value in parameters.items()}
    errors = {name: found[name].reshape(value.shape) if name in found else unknown[name] for name, value in parameters.items()}
    kind = "the expected information" if fit.sample.complete else "the observed information, with missing entries"
    return selection.pack(parameters), selection.pack(errors), f"classical, from {kind}"


def _from_rows(fit: Estimate, kind: str, wrt: Any, data: Any, options: dict[str, Any]) -> tuple[Tensor, Tensor, str]:
    rows = fit.rows_of_fit(data)
    found = covariance_of_estimates(rows.jacobian(fit.gaussian), kind, wrt=wrt, weights=rows.weights, **options)
    return found.values, found.standard_errors, found.kind


def _heading(fit: Estimate) -> tuple[tuple[str, str], ...]:
    patterns = len(fit.sample.observed.unique(dim=0))
    return (
        ("rows", str(fit.rows)),
        ("variables", str(fit.gaussian.model.d)),
        ("parameters", str(fit.n_parameters)),
        ("patterns of observed entries", str(patterns)),
        ("log-likelihood", f"{fit.log_likelihood:.6g}"),
        ("AIC", f"{fit.aic:.6g}"),
        ("BIC", f"{fit.bic:.6g}"),
        ("converged", f"{'yes' if fit.converged else 'no'} ({counted(fit.iterations, 'iteration')})"),
    )


def _text(value: float) -> str:
    return number(value) or "—"


def _z(value: float) -> str:
    return "—" if value != value else f"{value:.3f}"


def _p_value(value: float) -> str:
    return "—" if value != value else "<0.0001" if value < 1e-4 else f"{value:.4f}"


_FORMATS = {"estimate": _text, "standard_error": _text, "z": _z, "p_value": _p_value, "lower": _text, "upper": _text}


def _two_columns(pairs: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Pairs side by side: the first half on the left."""
    half, column = (len(pairs) + 1) // 2, (width - 4) // 2
    left, right = list(pairs[:half]), [*pairs[half:], ("", "")][:half]
    lines = []
    for one, two in zip(left, right, strict=True):
        lines.append("    ".join(_filled(name, value, column) for name, value in (one, two)).rstrip())
    return lines


def _filled(name: str, value: str, width: int) -> str:
    return f"{name + ':' if name else ''}{value:>{max(width - len(name) - 1, len(value) + 1)}}"
