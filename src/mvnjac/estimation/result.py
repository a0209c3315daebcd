"""The result of `fit`: the estimate and how it was obtained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Size, Tensor

from mvnjac.covariance.base import Covariance
from mvnjac.errors import ArgumentError, counted
from mvnjac.estimation import model_file
from mvnjac.estimation.classical_errors import ErrorsByParameter, classical_errors
from mvnjac.estimation.fit_plots import plot_fit
from mvnjac.estimation.fitted_rows import FittedRows
from mvnjac.estimation.summary import Summary, summary_of
from mvnjac.gaussian import Gaussian
from mvnjac.inference.likelihood_ratio import LikelihoodRatioTest, likelihood_ratio_test
from mvnjac.model.inputs import with_rows
from mvnjac.statistics.fingerprint import Fingerprint
from mvnjac.statistics.sufficient import SufficientStatistics
from mvnjac.tables.html import MOST_ROWS, html_table

#: the most variables of a structure whose means and standard deviations a notebook shows
_SHOWN = 1000

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class Fit:
    """A mean and a covariance estimated by maximum likelihood; returned by `fit`. `summary()` shows the estimates.

    Attributes:
        gaussian: the estimated distribution, float64.
        log_likelihood: Σ w log p over the rows, at the estimate.
        rows: the number of rows with positive weight.
        iterations: of the search; 0 if the maximum has a closed form.
        converged: whether the estimate is a maximum: `score_ratio` is at most 1e-6, or 1e-5 if the rounding error of the
            log-likelihood prevents further progress.
        score_ratio: √(sᵀ I⁻¹ s), with s the total score and I the total information of the parameters that are not at a bound.
            It bounds the total score with respect to any parameter of any parametrisation, in units of the square root of its
            information. The search continues until it is at most 1e-8.
        message: `converged` and `score_ratio` in words.
    """

    gaussian: Gaussian
    log_likelihood: float
    rows: int
    iterations: int
    converged: bool
    score_ratio: float
    message: str
    _sample: SufficientStatistics
    _data: FittedRows | None = None

    @property
    def boundary(self) -> list[str]:
        """The columns of the parameters at their lower bound, such as "cov_diag[USD]"; [] if there are none."""
        return self.gaussian.boundary

    @property
    def mean(self) -> Float[Tensor, "d"]:
        """µ."""
        return self.gaussian.mean

    @property
    def covariance(self) -> Covariance:
        """Σ, in the requested structure."""
        return self.gaussian.covariance

    @property
    def names(self) -> list[str] | None:
        """The names of the variables."""
        return self.gaussian.names

    @property
    def n_parameters(self) -> int:
        """The number of estimated parameters: those of the mean and the free ones of the covariance.

        For `LowRank` it is d k + d − k (k − 1)/2, because rotations of the factors do not change Σ; for `Kronecker` one less
        than the number of unique elements of both matrices, because only the product of their scales is identified. Parameters
        at a bound count.
        """
        model, covariance = self.gaussian.model, self.covariance
        return (0 if model.arguments.mean_follows else model.d) + covariance.free_parameters(model.d)

    @property
    def aic(self) -> float:
        """Akaike's information criterion, 2 p − 2 log-likelihood, with p = `n_parameters` (Akaike 1974); smaller is better."""
        return 2 * self.n_parameters - 2 * self.log_likelihood

    @property
    def bic(self) -> float:
        """The Bayesian information criterion, p log n − 2 log-likelihood, n the sum of weights (Schwarz 1978); less is
        better."""
        return self.n_parameters * math.log(self._sample.total) - 2 * self.log_likelihood

    def likelihood_ratio_test(self, other: Fit, *, nested: bool = False) -> LikelihoodRatioTest:
        """`inference.likelihood_ratio_test` of two nested fits; that with fewer parameters is the restricted one."""
        one, two = sorted((self, other), key=lambda fit: fit.n_parameters)
        return likelihood_ratio_test(one, two, nested=nested)

    def fingerprint(self) -> Fingerprint:
        """A few numbers that identify the observations, up to rounding and the order of rows."""
        return Fingerprint.of(self._sample)

    def standard_errors(self, wrt: str | Sequence[str] | None = None) -> ErrorsByParameter:
        """The standard errors of the estimates, by parameter.

        They follow from the inverse of the expected information; with missing entries, of the observed information, which is
        minus the Hessian (Kenward & Molenberghs 1998, *Likelihood based frequentist inference when data are missing at
        random*).

        The two symmetric entries of a symmetric parameter have the same standard error; fixed entries have 0. Parameters that
        are identified by a convention only (cov_factor with several factors, row_covariance and column_covariance) are left
        out. Parameters at a bound have NaN, and the standard errors of the others are conditional on these values.

        Args:
            wrt: names of parameters of the structure or of any dense parametrisation ("covariance_matrix",
                "correlation_matrix", …), by the delta method; None: the mean and the structure's parameters.

        Returns:
            A dict: for each parameter name, a tensor of the parameter's shape. Its `to_pandas()` is a Series by column name.

        Raises:
            UnknownNameError: there is no parameter of that name.
            MemoryLimitError: the inverse information has no closed form, and the matrix does not fit into memory.

        Example:
            >>> import torch, mvnjac
            >>> x = torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 6.0], [0.0, 3.0]])
            >>> mvnjac.fit(x, "diagonal").standard_errors("covariance_matrix")["covariance_matrix"]
            tensor([[0.8839, 0.0000],
                    [0.0000, 2.4749]], dtype=torch.float64)
        """
        return classical_errors(self.gaussian, self._sample, wrt)

    # --- summaries -----------------------------------------------------------------------------------------------

    def plot(
        self, ax: Axes | None = None, *, kind: str = "correlation", wrt: str | Sequence[str] | None = None, level: float = 0.95
    ) -> Axes:
        """Draw the correlation matrix, or the estimates with confidence intervals.

        Args:
            ax: the matplotlib axes to draw on; None: those of a new pyplot figure.
            kind: "correlation" or "estimates".
            wrt: for "estimates", the parameters or elements of parameters, as in `standard_errors`; None: all of the structure.
            level: of the confidence intervals, which are symmetric about the estimate (normal approximation).

        Returns:
            The axes.

        Raises:
            ArgumentError: an argument is invalid, or more than 200 estimates are selected.
            UnknownNameError: there is no parameter of that name.

        Example:
            >>> import matplotlib
            >>> matplotlib.use("agg")
            >>> import torch, mvnjac
            >>> x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
            >>> ax = mvnjac.fit(x, names=["USD", "CHF"]).plot(kind="estimates", wrt="mean")
            >>> [label.get_text() for label in ax.get_yticklabels()]
            ['mean of USD', 'mean of CHF']
        """
        return plot_fit(self.gaussian, self.standard_errors, ax, kind, wrt, level)

    def summary(
        self,
        errors: str = "classical",
        *,
        wrt: str | Sequence[str] | None = None,
        level: float = 0.95,
        data: Any = None,
        **options: Any,
    ) -> Summary:
        """The estimates with standard errors, z statistics, p-values and confidence intervals, and the sizes of the fit.

        Args:
            errors: "classical": from the information, as in `standard_errors`; "robust": the sandwich, which holds for rows that
                are not normal; "hac": for rows that are a weakly dependent time series, sorted by the dates of the index of a
                table.
            wrt: the parameters or single elements of them, of the structure or of any dense parametrisation; None: the mean and
                the structure's parameters.
            level: of the confidence intervals.
            data: the rows that the model was fitted to, for "robust" and "hac", if the fit was loaded from a file or unpickled;
                otherwise the fit refers to them itself.
            options: of `inference.covariance_of_estimates`, for "robust" and "hac", such as lag=5.

        Returns:
            A `Summary`, which prints as a table and converts to pandas.

        Raises:
            ArgumentError: the rows are needed and not available, or have been modified since.
            Any error of `standard_errors` and of `inference.covariance_of_estimates`.

        Example:
            >>> import pandas as pd, mvnjac
            >>> returns = pd.DataFrame({"USD": [1.0, 3.0, 2.0, 0.0], "CHF": [2.0, 1.0, 6.0, 3.0]})
            >>> mvnjac.fit(returns).summary("robust", wrt=["mean", "scale"]).to_pandas().round(3)
                        estimate  standard_error      z  p_value  lower  upper
            mean[USD]      1.500           0.559  2.683    0.007  0.404  2.596
            mean[CHF]      3.000           0.935  3.207    0.001  1.167  4.833
            scale[USD]     1.118           0.224  5.000    0.000  0.680  1.556
            scale[CHF]     1.871           0.468  4.000    0.000  0.954  2.788
        """
        return summary_of(self, errors, wrt, level, data, options)

    def to_pandas(self) -> Any:
        """The estimates with standard errors, z, p-values and intervals as a pandas.DataFrame, by column name (needs pandas)."""
        return self.summary().to_pandas()

    def rows_of_fit(self, data: Any = None) -> FittedRows:
        """The rows that the model was fitted to; for other modules of mvnjac.

        Raises:
            ArgumentError: the fit does not refer to rows and none are given, or they are not those of the fit.
        """
        rows = self._data
        if data is not None:
            given = with_rows(self.gaussian.model, data)
            rows = FittedRows(given.x, None if rows is None else rows.weights, given.index)
        if rows is None:
            raise ArgumentError("summary: these standard errors need the rows of the fit; pass them, summary(…, data=x).")
        rows.require_unchanged(self.fingerprint())
        return rows

    @property
    def sample(self) -> SufficientStatistics:
        """The sufficient statistics of the rows; for other modules of mvnjac."""
        return self._sample

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_data": None}  # a fit that is stored does not contain the data

    def shaped(self, event: Size) -> Fit:
        """The same estimate with the mean as a matrix."""
        model = self.gaussian.model
        gaussian = Gaussian(
            self.mean.reshape(event), self.covariance, names=model.arguments.naming.argument, missing=model.arguments.missing
        )
        return dataclasses.replace(self, gaussian=gaussian)

    def save(self, path: str | Path) -> None:
        """Write the estimate to a .safetensors file, which `mvnjac.load` and `mvnjac score --model` read.

        The file is written atomically: after an error there is none, or the previous one.

        Raises:
            ArgumentError: the covariance is a `Parametric`, which is defined by a function.
            TableError: the file cannot be written.
        """
        about = {
            "rows": str(self.rows),
            "log_likelihood": repr(self.log_likelihood),
            "converged": str(self.converged).lower(),
            "score_ratio": repr(self.score_ratio),
            model_file.ESTIMATED_FROM: self.fingerprint().to_json(),
        }
        model_file.write(Path(path), self.gaussian, about)

    def __repr__(self) -> str:
        d, state = self.gaussian.model.d, "converged" if self.converged else "not converged"
        return (
            f"Fit({type(self.covariance).__name__}, {counted(d, 'variable')}, {counted(self.rows, 'row')}, log-likelihood "
            f"{self.log_likelihood:.6g}, {state}, score_ratio={self.score_ratio:.1e})"
        )

    def _repr_html_(self) -> str:
        d = self.gaussian.model.d
        if d > _SHOWN:
            return html_table(repr(self), [], [], [])
        shown = min(d, MOST_ROWS)
        labels = self.names or [f"variable {i}" for i in range(d)]
        columns = [self.mean.flatten().tolist(), self.gaussian.parameter("scale").tolist()]
        rows = list(zip(*columns, strict=True))[:shown]
        note = f"{shown} of {d} variables; " if shown < d else ""
        return html_table(
            repr(self), ["mean", "standard deviation"], labels[:shown], rows, note + "summary() shows the estimates."
        )

    def __str__(self) -> str:
        return (
            f"{self.covariance!r} of {counted(self.gaussian.model.d, 'variable')}, {counted(self.rows, 'row')}: "
            f"log-likelihood {self.log_likelihood:.10g}; "
            f"{self.message}"
        )
