"""The covariance of the estimates, by whatever is believed of the rows: that the model is right, that they are independent, or less."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.elements import derived, elements
from mvnjac.errors import ArgumentError
from mvnjac.inference.clusters import clustered_sum, groupings
from mvnjac.inference.estimating_functions import EstimatingFunctions, require
from mvnjac.inference.hac import LongRunScores
from mvnjac.inference.named import NamedTable, place
from mvnjac.information import Wrt
from mvnjac.jacobian import Jacobian

KINDS = ("expected", "observed", "opg", "sandwich", "clustered", "hac")
#: gradients (k, p) of k functions of the estimates → their covariance (k, k)
Propagate = Callable[[Tensor], Tensor]
_NAME = "covariance_of_estimates"


@dataclass(frozen=True, repr=False, eq=False)
class Estimates(NamedTable):
    """Estimates with their covariance. Made by `covariance_of_estimates` and `delta_method`.

    Attributes:
        kind: how the covariance was computed, in words.
        columns: the k names; values: (k,) the estimates; covariance: (k, k).
        rows: how many observations there were.
    """

    kind: str
    columns: tuple[str, ...]
    values: Float[Tensor, "k"]
    covariance: Float[Tensor, "k k"]
    rows: int
    _propagate: Propagate = field(repr=False)
    _estimating: EstimatingFunctions = field(repr=False)
    _identified: Tensor = field(repr=False)

    @property
    def standard_errors(self) -> Float[Tensor, "k"]:
        """The roots of the diagonal; NaN for parameters that are known up to a convention only (cov_factor)."""
        variances = self.covariance.diagonal()
        return torch.where(self._identified, variances, torch.nan).sqrt()

    @property
    def z(self) -> Float[Tensor, "k"]:
        """Estimate over standard error."""
        return self.values / self.standard_errors

    @property
    def p_values(self) -> Float[Tensor, "k"]:
        """Of the hypothesis that the parameter is 0, two-sided, by the normal distribution."""
        return torch.special.erfc(self.z.abs() / math.sqrt(2))

    @property
    def correlation(self) -> Float[Tensor, "k k"]:
        """The correlations of the estimates."""
        scale = self.covariance.diagonal().sqrt()
        return self.covariance / torch.outer(scale, scale)

    def interval(self, level: float = 0.95) -> tuple[Float[Tensor, "k"], Float[Tensor, "k"]]:
        """Lower and upper bounds that contain each parameter with this probability, by the normal distribution."""
        if not 0 < level < 1:
            raise ArgumentError(f"interval: level is {level!r}; expected a probability between 0 and 1.")
        width = NormalDist().inv_cdf(0.5 + 0.5 * level) * self.standard_errors
        return self.values - width, self.values + width

    def standard_error(self, name: str) -> float:
        """The standard error of one of them."""
        return float(self.standard_errors[place("standard_error", self.columns, name)])

    def covariance_frame(self) -> Any:
        """The covariance as a pandas.DataFrame with named rows and columns (needs pandas)."""
        import pandas as pd

        return pd.DataFrame(self.covariance.cpu().numpy(), index=list(self.columns), columns=list(self.columns))

    def to_xarray(self) -> Any:
        """Values, standard errors and covariance as an xarray.Dataset over "parameter" (needs xarray)."""
        import xarray as xr

        names = list(self.columns)
        return xr.Dataset(
            {
                "estimate": ("parameter", self.values.cpu().numpy()),
                "standard_error": ("parameter", self.standard_errors.cpu().numpy()),
                "covariance": (("parameter", "parameter_"), self.covariance.cpu().numpy()),
            },
            coords={"parameter": names, "parameter_": names},
            attrs={"kind": self.kind, "rows": self.rows},
        )

    def _title(self) -> str:
        return f"{len(self.columns)} estimates from {self.rows} rows; standard errors: {self.kind}"

    def _labels(self) -> Sequence[str]:
        return self.columns

    def _table(self) -> dict[str, Any]:
        return {
            "estimate": self.values,
            "standard_error": self.standard_errors,
            "z": self.z,
            "p_value": self.p_values,
        }


def covariance_of_estimates(
    J: Jacobian,
    kind: str = "sandwich",
    *,
    wrt: Wrt = None,
    known: Wrt = None,
    weights: Float[Tensor, "n"] | None = None,
    adjust: bool = False,
    bread: str = "observed",
    clusters: Any = None,
    cluster_adjust: bool = True,
    lag: int | None = None,
    prewhite: int = True,
    order_by: Iterable[Any] | None = None,
) -> Estimates:
    """The covariance of estimates by maximum likelihood, from the scores at the estimate.

    With the scores sᵢ, A an information of all rows (the bread's inverse) and n rows of p parameters:

    | kind | covariance | right where |
    |---|---|---|
    | "expected" | (n F)⁻¹ | the model is right |
    | "observed" | (−H)⁻¹ | the model is right, or entries are missing at random |
    | "opg" | (Σ sᵢ sᵢᵀ)⁻¹; R: vcovOPG | the model is right |
    | "sandwich" | A⁻¹ (Σ sᵢ sᵢᵀ) A⁻¹; R: sandwich, HC0 | the rows are independent |
    | "clustered" | A⁻¹ (Σ_g s_g s_gᵀ) A⁻¹, s_g the sum over a cluster; R: vcovCL | the clusters are independent |
    | "hac" | A⁻¹ (Σ w_|i−j| sᵢ sⱼᵀ) A⁻¹; R: NeweyWest | the rows are a weakly dependent series |

    A parameter's variance depends on what else was estimated: always the whole model is meant, whichever columns are asked for.

    Args:
        J: the Jacobian at the estimate, of n rows: `fit(x).gaussian.jacobian(x)`.
        wrt: the columns of the result, by default all parameters as given; or those of any other dense parametrisation. Of a
            structure that is no dense parametrisation these ("covariance_matrix", "correlation_matrix[1,0]", …) are functions of
            its own parameters: their covariance is G V Gᵀ, G their derivatives (the delta method). What leaves Σ as it is, such as
            rotations of factors, plays no part in it.
        known: parameters that were not estimated, such as "mean".
        weights: (n,) one a row; rows count as w·sᵢ, in the squares too (R's estfun of a weighted model).
        adjust: multiply by n/(n − p) (R: adjust = TRUE; HC1 is the sandwich with it), of clusters by (n − 1)/(n − p) (type = "HC1").
        bread: the information in A: "observed" or "expected".
        clusters: one label a row; or several such sequences, or a data frame of them, for clustering in several ways.
        cluster_adjust: multiply by G/(G − 1), G the number of clusters (R: cadjust).
        lag: of Bartlett's weights 1 − l/(lag + 1); None: the integer part of Newey & West's automatic bandwidth (R: bwNeweyWest).
        prewhite: the order of a vector autoregression that whitens the scores first (True: 1; False: none).
        order_by: what the rows are sorted by, for "hac"; None: they are in order.

    Returns:
        `Estimates`: names, values, covariance, standard errors; prints as a table.

    Raises:
        SingularError: the information is singular.
        NotIdentifiedError: too few rows for `prewhite` or `adjust`.
        ArgumentError, UnknownNameError, ShapeError: arguments that mean nothing here.

    Source: Huber 1967; White 1982, *Maximum likelihood estimation of misspecified models*; Zeileis 2006, *Object-oriented
    computation of sandwich estimators*.

    Example:
        >>> import torch, mvnjac
        >>> from mvnjac import inference
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 6.0], [0.0, 3.0]])
        >>> J = mvnjac.fit(x).gaussian.jacobian(x.double())
        >>> inference.covariance_of_estimates(J, wrt="mean")
        2 estimates from 4 rows; standard errors: sandwich (HC0), bread: observed
                 estimate  standard_error        z     p_value
        mean[0]       1.5        0.559017  2.68328  0.00729036
        mean[1]         3        0.935414  3.20713  0.00134064
    """
    require(_NAME, "kind", kind, KINDS)
    require(_NAME, "bread", bread, ("observed", "expected"))
    parts = J._select(wrt, "unique").parts if isinstance(J, Jacobian) else []
    functions = derived(J._model, [part.name for part in parts]) if parts else False
    estimating = EstimatingFunctions(_NAME, J, None if functions else wrt, weights, known)
    if adjust and estimating.rows <= estimating.size:
        raise ArgumentError(
            f"{_NAME}: adjust needs more rows than parameters, but n = {estimating.rows}, p = {estimating.size}."
        )
    if kind in ("expected", "observed", "opg"):
        words, propagate = _inverse(estimating, kind, adjust)
    elif kind == "sandwich":
        words, propagate = _sandwich(estimating, bread, adjust)
    elif kind == "clustered":
        words, propagate = _clustered(estimating, bread, adjust, groupings(_NAME, clusters, estimating.rows), cluster_adjust)
    else:
        words, propagate = _hac(estimating, bread, adjust, lag, int(prewhite), order_by)
    if functions:
        return _of_elements(words, propagate, estimating, wrt)
    return Estimates(
        words,
        tuple(estimating.asked),
        estimating.values[estimating.places],
        propagate(estimating.unit_rows(estimating.places)),
        estimating.rows,
        propagate,
        estimating,
        estimating.identified()[estimating.places],
    )


def _of_elements(words: str, propagate: Propagate, estimating: EstimatingFunctions, wrt: Wrt) -> Estimates:
    """By the delta method: elements of parametrisations that the structure does not have are functions of its own parameters."""
    selection, model = estimating.jacobian._select(wrt, "unique"), estimating.model
    values, gradients = elements(model, estimating.names, selection.parts)
    known = [part.name not in model.covariance.unidentified for part in selection.parts for _ in range(part.size)]
    return Estimates(
        f"delta method; {words}",
        tuple(selection.columns()),
        values,
        propagate(gradients),
        estimating.rows,
        propagate,
        estimating,
        torch.tensor(known, dtype=torch.bool, device=values.device),
    )


def _inverse(estimating: EstimatingFunctions, kind: str, adjust: bool) -> tuple[str, Propagate]:
    if adjust and kind != "opg":
        raise ArgumentError(f"{_NAME}: adjust has no meaning for {kind!r}.")
    scale = _small_sample(estimating) if adjust else 1.0
    words = "outer product of gradients" if kind == "opg" else f"{kind} information"
    return words + _adjusted(adjust), lambda C: _symmetric(scale * C @ estimating.solve(kind, C).mT)


def _sandwich(estimating: EstimatingFunctions, bread: str, adjust: bool) -> tuple[str, Propagate]:
    scale = _small_sample(estimating) if adjust else 1.0

    def propagate(C: Tensor) -> Tensor:
        series = estimating.products(estimating.solve(bread, C))
        return _symmetric(scale * series.mT @ series)

    return f"sandwich (HC{int(adjust)}), bread: {bread}", propagate


def _clustered(
    estimating: EstimatingFunctions, bread: str, adjust: bool, ways: Sequence[Sequence[Any]], cluster_adjust: bool
) -> tuple[str, Propagate]:
    n = estimating.rows
    scale = (n - 1) / (n - estimating.size) if adjust else 1.0

    def propagate(C: Tensor) -> Tensor:
        series = estimating.products(estimating.solve(bread, C))
        return _symmetric(scale * clustered_sum(_NAME, series, ways, cluster_adjust))

    counts = " and ".join(str(len(set(way))) for way in ways)
    return f"clustered ({counts} clusters, HC{int(adjust)}), bread: {bread}", propagate


def _hac(
    estimating: EstimatingFunctions, bread: str, adjust: bool, lag: int | None, prewhite: int, order_by: Iterable[Any] | None
) -> tuple[str, Propagate]:
    long_run = LongRunScores(estimating, lag, prewhite, order_by)
    scale = _small_sample(estimating) if adjust else 1.0
    words = f"HAC (Newey–West, lag {long_run.lag}, prewhite {prewhite}{', adjusted' if adjust else ''}), bread: {bread}"
    return words, lambda C: _symmetric(scale * long_run.covariance_of_sum(estimating.solve(bread, C)))


def _small_sample(estimating: EstimatingFunctions) -> float:
    return estimating.rows / (estimating.rows - estimating.size)


def _adjusted(adjust: bool) -> str:
    return ", n/(n − p)" if adjust else ""


def _symmetric(A: Tensor) -> Tensor:
    return 0.5 * (A + A.mT)
