"""The covariance of the estimates, for a correct model, independent rows or clusters, or a time series."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.errors import ArgumentError, counted
from mvnjac.inference import sandwich
from mvnjac.inference.clusters import fewest_clusters, groupings
from mvnjac.inference.estimating_functions import INFORMATIONS, MEMORY_ADVICE, RESULT_ARRAYS, EstimatingFunctions, require
from mvnjac.inference.first_order_condition import warn_unless_at_estimate
from mvnjac.inference.hac import LongRunScores
from mvnjac.inference.result_table import ResultTable, position
from mvnjac.information.functions import Wrt
from mvnjac.model.elements import derived, elements
from mvnjac.score.jacobian import Jacobian
from mvnjac.statistics.tail_probabilities import quantile, two_sided_p_value
from mvnjac.tensors.allocation import guarded

KINDS = (*INFORMATIONS, "sandwich", "clustered", "hac")
_NAME = "covariance_of_estimates"


@dataclass(frozen=True, repr=False, eq=False)
class Estimates(ResultTable):
    """Estimates with their covariance; returned by `covariance_of_estimates` and `delta_method`.

    Attributes:
        kind: a description of how the covariance was computed.
        columns: the k names.
        values: (k,) the estimates.
        covariance: (k, k).
        rows: the number of observations.
        df: the degrees of freedom of Student's t for p-values and intervals; None: the normal distribution.
    """

    kind: str
    columns: tuple[str, ...]
    values: Float[Tensor, "k"]
    covariance: Float[Tensor, "k k"]
    rows: int
    _estimator: sandwich.Estimator = field(repr=False)
    _estfun: EstimatingFunctions = field(repr=False)
    _identified: Tensor = field(repr=False)
    df: float | None = None

    @property
    def standard_errors(self) -> Float[Tensor, "k"]:
        """The square roots of the diagonal; NaN for parameters that are identified by a convention only (cov_factor)."""
        variances = self.covariance.diagonal()
        return torch.where(self._identified, variances, torch.nan).sqrt()

    @property
    def z(self) -> Float[Tensor, "k"]:
        """The estimates divided by their standard errors."""
        return self.values / self.standard_errors

    @property
    def p_values(self) -> Float[Tensor, "k"]:
        """Two-sided p-values for the hypothesis that a parameter is 0, by the normal distribution, or t if `df` is given."""
        if self.df is not None:
            found = [two_sided_p_value(t, self.df) for t in self.z.tolist()]
            return torch.tensor(found, dtype=torch.float64, device=self.values.device)
        return torch.special.erfc(self.z.abs() / math.sqrt(2))

    @property
    def correlation(self) -> Float[Tensor, "k k"]:
        """The correlations of the estimates."""
        scale = self.covariance.diagonal().sqrt()
        return self.covariance / torch.outer(scale, scale)

    def interval(self, level: float = 0.95) -> tuple[Float[Tensor, "k"], Float[Tensor, "k"]]:
        """Lower and upper bounds of confidence intervals of this level for each parameter, by the normal or t distribution."""
        if not 0 < level < 1:
            raise ArgumentError(f"interval: level is {level!r}; expected a probability between 0 and 1.")
        normal = NormalDist().inv_cdf(0.5 + 0.5 * level)
        width = (normal if self.df is None else quantile(level, self.df)) * self.standard_errors
        return self.values - width, self.values + width

    def standard_error(self, name: str) -> float:
        """The standard error of one estimate, by its column name."""
        return float(self.standard_errors[position("standard_error", self.columns, name)])

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
        return f"{counted(len(self.columns), 'estimate')} from {counted(self.rows, 'row')}; standard errors: {self.kind}"

    def _labels(self) -> Sequence[str]:
        return self.columns

    def _table(self) -> dict[str, Any]:
        return {
            "estimate": self.values,
            "standard_error": self.standard_errors,
            "z": self.z,
            "p_value": self.p_values,
        }


@guarded(_NAME, MEMORY_ADVICE)
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
    fix: bool = False,
    use_t: bool = False,
    lag: int | None = None,
    kernel: str = "Bartlett",
    bandwidth: float | str | None = None,
    prewhite: int = True,
    order_by: Iterable[Any] | None = None,
) -> Estimates:
    """The covariance of maximum-likelihood estimates, from the scores at the estimate.

    With the scores sᵢ of n rows, p parameters, and A the information of all rows (the inverse of the bread):

    | kind | covariance | valid if |
    |---|---|---|
    | "expected" | (n F)⁻¹ | the model is correct |
    | "observed" | (−H)⁻¹ | the model is correct; also with entries missing at random |
    | "opg" | (Σ sᵢ sᵢᵀ)⁻¹; R: vcovOPG | the model is correct |
    | "sandwich" | A⁻¹ (Σ sᵢ sᵢᵀ) A⁻¹; R: sandwich, HC0 | the rows are independent |
    | "clustered" | A⁻¹ (Σ_g s_g s_gᵀ) A⁻¹, s_g the sum over a cluster; R: vcovCL | the clusters are independent |
    | "hac" | A⁻¹ (Σ w_|i−j| sᵢ sⱼᵀ) A⁻¹; R: NeweyWest | the rows are a weakly dependent time series |

    The variance of an estimate depends on the other estimated parameters, so the information is always that of the whole model.

    Args:
        J: the Jacobian at the estimate, of n rows: `fit(x).gaussian.jacobian(x)`.
        wrt: the columns of the result, by default all parameters of J's parametrisation; or those of another dense
            parametrisation. For a structure that is not a dense parametrisation, "covariance_matrix",
            "correlation_matrix[1,0]", … are functions of the structure's parameters, and their covariance is G V Gᵀ, G the
            derivatives (the delta method). Changes that leave Σ unchanged, such as rotations of factors, do not enter.
        known: parameters that were not estimated, such as "mean".
        weights: (n,) the scores are multiplied by these weights, also in sums of squares (R's estfun of a weighted model).
        adjust: multiply by n/(n − p) (R: adjust = TRUE; with it the sandwich is HC1), for clusters by (n − 1)/(n − p) (type =
            "HC1").
        bread: the information A: "observed" or "expected".
        clusters: one label a row; or several such sequences, or a data frame of them, for clustering in several ways.
        cluster_adjust: multiply by G/(G − 1), G the number of clusters (R: cadjust).
        fix: set negative eigenvalues of the covariance of all parameters to 0 (R: fix = TRUE); for clusters in several ways,
            whose covariance need not be positive semidefinite. This forms the p×p covariance.
        use_t: p-values and intervals for clusters by Student's t with G − 1 degrees of freedom; G is the smallest of several.
        lag: the largest lag with Bartlett weights 1 − l/(lag + 1); None: the integer part of Newey & West's automatic bandwidth
            (R: bwNeweyWest).
        kernel: "Bartlett", "Parzen", "Quadratic Spectral", "Truncated" or "Tukey-Hanning" (R: kernHAC); the last two need not
            give a positive semidefinite covariance.
        bandwidth: in rows: the weight of lag l is the kernel at l/bandwidth (R: bw). A number, "Andrews" (R: bwAndrews, with an
            AR(1) for each score; the default for all kernels but Bartlett's) or "Newey-West" (R: bwNeweyWest).
        prewhite: the order of a vector autoregression that prewhitens the scores (True: 1; False: none).
        order_by: labels by which the rows are sorted in time, for "hac"; None: the dates of `J.index`, otherwise the rows are
            in order.

    Returns:
        `Estimates` with names, values, covariance and standard errors; it prints as a table.

    Raises:
        SingularError: the information is singular.
        NotIdentifiedError: there are too few rows for `prewhite`.
        ArgumentError, UnknownNameError, ShapeError: arguments are invalid, or have no meaning for this kind.

    Warns:
        NotAtEstimateWarning: a Newton step from J's parameters would move one of them by more than 0.1 of its standard error.
        FewClustersWarning: there are no more clusters than parameters, so the covariance is singular.
        NotPositiveSemidefiniteWarning: the covariance has a negative eigenvalue; standard errors of negative variances are NaN.

    Source: Huber 1967; White 1982, *Maximum likelihood estimation of misspecified models*; Andrews 1991; Zeileis 2006,
    *Object-oriented computation of sandwich estimators*; Cameron, Gelbach & Miller 2011.

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
    parts = J.selection(wrt, "unique").parts if isinstance(J, Jacobian) else []
    functions = derived(J.model, [part.name for part in parts]) if parts else False
    estfun = EstimatingFunctions(_NAME, J, None if functions else wrt, weights, known)
    warn_unless_at_estimate(estfun)
    if adjust and estfun.rows <= estfun.size:
        raise ArgumentError(
            f"{_NAME}: adjust needs more rows than parameters, but n = {estfun.rows} and p = {estfun.size}; pass adjust=False."
        )
    if (fix or use_t) and kind != "clustered":
        raise ArgumentError(f"{_NAME}: {'fix' if fix else 'use_t'} has no meaning for {kind!r}; it is for kind='clustered'.")
    df = None
    k, p = len(estfun.positions), estfun.size
    formed = p if fix else k
    numbers_per_row = {"sandwich": k, "clustered": 2 * formed, "hac": 7 * p}.get(kind, 0)
    estfun.require_memory(estfun.rows * numbers_per_row + RESULT_ARRAYS * formed * p, kind != "hac")
    if kind in INFORMATIONS:
        words, estimator = sandwich.inverse_information(estfun, kind, adjust)
    elif kind == "sandwich":
        words, estimator = sandwich.sandwich(estfun, bread, adjust)
    elif kind == "clustered":
        ways = groupings(_NAME, clusters, estfun.rows)
        fewest = fewest_clusters(_NAME, ways, p)
        words, estimator = sandwich.clustered(estfun, bread, adjust, ways, cluster_adjust, fix)
        df = fewest - 1.0 if use_t else None
        words += f"; t({fewest - 1})" if use_t else ""
    else:
        long_run = LongRunScores(estfun, lag, int(prewhite), order_by, kernel, bandwidth)
        words, estimator = sandwich.hac(estfun, bread, adjust, long_run)
    if functions:  # elements of parametrisations other than the structure's: the delta method
        selection, unidentified = estfun.jacobian.selection(wrt, "unique"), estfun.model.covariance.unidentified
        columns, words = selection.columns(), f"delta method; {words}"
        values, gradients = elements(estfun.model, estfun.names, selection.parts)
        flags = [part.name not in unidentified for part in selection.parts for _ in range(part.size)]
        identified = torch.tensor(flags, dtype=torch.bool, device=values.device)
    else:
        columns, values = estfun.requested, estfun.values[estfun.positions]
        gradients, identified = estfun.unit_rows(estfun.positions), estfun.identified()[estfun.positions]
    covariance = estimator(gradients)
    if kind in ("clustered", "hac") and not functions:
        sandwich.warn_if_indefinite(_NAME, covariance, words)
    return Estimates(words, tuple(columns), values, covariance, estfun.rows, estimator, estfun, identified, df)
