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

from mvnjac.errors import ArgumentError, counted
from mvnjac.inference.at_estimate import warn_unless_at_estimate
from mvnjac.inference.clusters import clustered_sum, fewest_clusters, fixed_root, groupings
from mvnjac.inference.estimating_functions import FEWER, PROPAGATED, EstimatingFunctions, require
from mvnjac.inference.hac import LongRunScores
from mvnjac.inference.indefinite import warn_if_indefinite
from mvnjac.inference.named_table import NamedTable, place
from mvnjac.information.functions import Wrt
from mvnjac.model.elements import derived, elements
from mvnjac.score.jacobian import Jacobian
from mvnjac.statistics.tail_probabilities import quantile, two_sided_p_value
from mvnjac.tensors.allocation import guarded

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
        df: the degrees of freedom of Student's t, by which p-values and intervals are; None: by the normal distribution.
    """

    kind: str
    columns: tuple[str, ...]
    values: Float[Tensor, "k"]
    covariance: Float[Tensor, "k k"]
    rows: int
    _propagate: Propagate = field(repr=False)
    _estimating: EstimatingFunctions = field(repr=False)
    _identified: Tensor = field(repr=False)
    df: float | None = None

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
        """Of the hypothesis that the parameter is 0, two-sided, by the normal distribution, or by t with `df` degrees of freedom."""
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
        """Lower and upper bounds that contain each parameter with this probability, by the normal or t distribution."""
        if not 0 < level < 1:
            raise ArgumentError(f"interval: level is {level!r}; expected a probability between 0 and 1.")
        normal = NormalDist().inv_cdf(0.5 + 0.5 * level)
        width = (normal if self.df is None else quantile(level, self.df)) * self.standard_errors
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


@guarded(_NAME, FEWER)
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
        fix: of clusters in several ways, where the covariance need not be positive semidefinite: the negative eigenvalues of that of
            all parameters are set to 0 (R: fix = TRUE), which takes all p×p of it.
        use_t: p-values and intervals of clusters by Student's t with G − 1 degrees of freedom, of several ways by the smallest G.
        lag: of Bartlett's weights 1 − l/(lag + 1); None: the integer part of Newey & West's automatic bandwidth (R: bwNeweyWest).
        kernel: "Bartlett", "Parzen", "Quadratic Spectral", "Truncated" or "Tukey-Hanning" (R: kernHAC); the last two need not give a
            positive semidefinite covariance.
        bandwidth: in rows: the weight of a lag l is the kernel's at l/bandwidth (R: bw). A number, "Andrews" (R: bwAndrews; an AR(1) of
            each score; default of all kernels but Bartlett's) or "Newey-West" (R: bwNeweyWest).
        prewhite: the order of a vector autoregression that whitens the scores first (True: 1; False: none).
        order_by: what the rows are sorted by, for "hac"; None: they are in order.

    Returns:
        `Estimates`: names, values, covariance, standard errors; prints as a table.

    Raises:
        SingularError: the information is singular.
        NotIdentifiedError: too few rows for `prewhite` or `adjust`.
        ArgumentError, UnknownNameError, ShapeError: arguments that mean nothing here.

    Warns:
        NotAtEstimateWarning: a Newton step from J's parameters would move one of them by more than 0.1 of its standard error.
        FewClustersWarning: as many clusters as parameters, or fewer: the covariance is singular.
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
    estimating = EstimatingFunctions(_NAME, J, None if functions else wrt, weights, known)
    warn_unless_at_estimate(estimating)
    if adjust and estimating.rows <= estimating.size:
        raise ArgumentError(
            f"{_NAME}: adjust needs more rows than parameters, but n = {estimating.rows}, p = {estimating.size}."
        )
    if (fix or use_t) and kind != "clustered":
        raise ArgumentError(f"{_NAME}: {'fix' if fix else 'use_t'} has no meaning for {kind!r}; it is for kind='clustered'.")
    df = None
    k, p = len(estimating.places), estimating.size
    held = {"sandwich": k, "clustered": 2 * (p if fix else k), "hac": 7 * p}.get(kind, 0)  # numbers a row
    estimating.require_memory(estimating.rows * held + PROPAGATED * (p if fix else k) * p, kind != "hac")
    if kind in ("expected", "observed", "opg"):
        words, propagate = _inverse(estimating, kind, adjust)
    elif kind == "sandwich":
        words, propagate = _sandwich(estimating, bread, adjust)
    elif kind == "clustered":
        ways = groupings(_NAME, clusters, estimating.rows)
        fewest = fewest_clusters(_NAME, ways, estimating.size)
        words, propagate = _clustered(estimating, bread, adjust, ways, cluster_adjust, fix)
        df = fewest - 1.0 if use_t else None
        words += f"; t({fewest - 1})" if use_t else ""
    else:
        long_run = LongRunScores(estimating, lag, int(prewhite), order_by, kernel, bandwidth)
        words, propagate = _hac(estimating, bread, adjust, long_run)
    if functions:
        return _of_elements(words, propagate, estimating, wrt, df)
    covariance = propagate(estimating.unit_rows(estimating.places))
    if kind in ("clustered", "hac"):
        warn_if_indefinite(_NAME, covariance, words)
    return Estimates(
        words,
        tuple(estimating.asked),
        estimating.values[estimating.places],
        covariance,
        estimating.rows,
        propagate,
        estimating,
        estimating.identified()[estimating.places],
        df,
    )


def _of_elements(words: str, propagate: Propagate, estimating: EstimatingFunctions, wrt: Wrt, df: float | None) -> Estimates:
    """By the delta method: elements of parametrisations that the structure does not have are functions of its own parameters."""
    selection, model = estimating.jacobian.selection(wrt, "unique"), estimating.model
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
        df,
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
    estimating: EstimatingFunctions,
    bread: str,
    adjust: bool,
    ways: Sequence[Sequence[Any]],
    cluster_adjust: bool,
    fix: bool,
) -> tuple[str, Propagate]:
    n = estimating.rows
    scale = (n - 1) / (n - estimating.size) if adjust else 1.0

    def propagate(C: Tensor) -> Tensor:
        series = estimating.products(estimating.solve(bread, C))
        return _symmetric(scale * clustered_sum(_NAME, series, ways, cluster_adjust))

    counts = [len(set(way)) for way in ways]
    total = " and ".join([*map(str, counts[:-1]), counted(counts[-1], "cluster")])
    words = f"clustered ({total}, HC{int(adjust)}{', fixed' if fix else ''}), bread: {bread}"
    return words, _fixed(propagate, estimating) if fix else propagate


def _fixed(propagate: Propagate, estimating: EstimatingFunctions) -> Propagate:
    """By the covariance of all parameters without its negative eigenvalues."""
    root = fixed_root(propagate(estimating.unit_rows(range(estimating.size))))
    return lambda C: _symmetric(C @ root @ (C @ root).mT)


def _hac(estimating: EstimatingFunctions, bread: str, adjust: bool, long_run: LongRunScores) -> tuple[str, Propagate]:
    scale = _small_sample(estimating) if adjust else 1.0
    words = f"HAC ({long_run.words}{', adjusted' if adjust else ''}), bread: {bread}"
    return words, lambda C: _symmetric(scale * long_run.covariance_of_sum(estimating.solve(bread, C)))


def _small_sample(estimating: EstimatingFunctions) -> float:
    return estimating.rows / (estimating.rows - estimating.size)


def _adjusted(adjust: bool) -> str:
    return ", n/(n − p)" if adjust else ""


def _symmetric(A: Tensor) -> Tensor:
    return 0.5 * (A + A.mT)
