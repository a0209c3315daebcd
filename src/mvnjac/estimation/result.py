"""The result of `fit`: the estimate and how it was obtained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Size, Tensor

from mvnjac.covariance.base import Covariance
from mvnjac.errors import counted
from mvnjac.estimation import model_file
from mvnjac.estimation.boundary import free_columns
from mvnjac.estimation.fit_plots import plot_fit
from mvnjac.estimation.likelihood_ratio import LikelihoodRatioTest, likelihood_ratio_test
from mvnjac.gaussian import Gaussian
from mvnjac.information.functions import hessian_of
from mvnjac.information.operators import Operator
from mvnjac.linalg.solvers import conditional_solver
from mvnjac.model.elements import elements
from mvnjac.parameters.selection import Part
from mvnjac.statistics.fingerprint import Fingerprint
from mvnjac.statistics.sufficient import SufficientStatistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Fit:
    """A mean and a covariance estimated by maximum likelihood; returned by `fit`.

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
    _sample: SufficientStatistics = field(repr=False)

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

    def standard_errors(self, wrt: str | Sequence[str] | None = None) -> dict[str, Tensor]:
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
            For each parameter name, a tensor of the parameter's shape.

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
        model = self.gaussian.model
        information, factor = self._information()
        if wrt is not None:
            return self._errors_of([wrt] if isinstance(wrt, str) else list(wrt), information, factor)
        variances = (self._conditional(information)[1] if self.boundary else information.inverse_diagonal()) / factor
        result, first = {}, 0
        for name in model.arguments.default_names():
            kind = model.arguments.coordinates(name)
            if name not in self.covariance.unidentified:
                result[name] = model.arguments.shaped(name, kind.unpack(variances[..., first : first + kind.size].sqrt()))
            first += kind.size
        return result

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

    def _information(self) -> tuple[Operator, float]:
        """An operator, and the factor that turns it into the information of all rows."""
        self._sample.require_rows("standard errors")
        if self._sample.complete:
            return self.gaussian.fisher_information(), self._sample.total
        rows = self._sample.origin + self._sample.rows
        return hessian_of(self.gaussian.model, rows, None, self._sample.weights, True), -1.0

    def _conditional(self, information: Operator) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """b → A⁻¹ b over the parameters that are not at a bound, and its diagonal, NaN for the others."""
        free = free_columns(information.columns(), self.boundary, information.device)
        assert free is not None
        solve = conditional_solver(information.matrix(), free, information.redundant)
        unit = torch.eye(len(free), dtype=information.dtype, device=information.device)
        return solve, torch.where(free, solve(unit).diagonal(), torch.nan)

    def _errors_of(self, wrt: Sequence[str], information: Operator, factor: float) -> dict[str, Tensor]:
        """The standard errors by the delta method."""
        model, result = self.gaussian.model, {}
        solve = self._conditional(information)[0] if self.boundary else information.solve
        for name in wrt:
            part = Part(name, "unique", model.arguments.coordinates(name))
            _, gradients = elements(model, model.arguments.default_names(), [part])
            variances = (gradients * solve(gradients)).sum(-1) / factor
            errors = variances.clamp(min=0).sqrt() if name not in self.covariance.unidentified else variances * math.nan
            result[name] = model.arguments.shaped(name, part.coordinates.unpack(errors))
        return result

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

    def __str__(self) -> str:
        return (
            f"{self.covariance!r} of {counted(self.gaussian.model.d, 'variable')}, {counted(self.rows, 'row')}: "
            f"log-likelihood {self.log_likelihood:.10g}; "
            f"{self.message}"
        )
