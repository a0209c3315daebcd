"""The rows that a model was fitted to, for standard errors that need the score of each row."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mvnjac.errors import ArgumentError
from mvnjac.gaussian import Gaussian
from mvnjac.score.evaluation import GeneralEvaluation
from mvnjac.score.jacobian import Jacobian
from mvnjac.statistics.fingerprint import Fingerprint
from mvnjac.statistics.sufficient import SufficientStatistics
from mvnjac.tables.row_index import RowIndex


@dataclass(frozen=True)
class FittedRows:
    """The data of a fit, by reference.

    Attributes:
        x: (n, d) as it was given.
        weights: (n,), or None.
        index: the labels of the rows, or None.
    """

    x: Tensor
    weights: Tensor | None
    index: RowIndex | None

    def jacobian(self, gaussian: Gaussian) -> Jacobian:
        """The scores of the rows at the estimate."""
        x = self.x.detach().to(gaussian.mean)
        return Jacobian(GeneralEvaluation.at(gaussian.model, x), self.index)

    def require_unchanged(self, expected: Fingerprint) -> None:
        """Raise unless these are still the values that the model was fitted to.

        Raises:
            ArgumentError: the tensor has been modified.
        """
        rows = self.x.detach().double().flatten(1)
        used = ~rows.isnan().all(-1) if self.weights is None else ~rows.isnan().all(-1) & (self.weights > 0)
        weights = None if self.weights is None else self.weights[used]
        sample = SufficientStatistics.of(rows[used], weights, lambda i: f"variable {i}", "summary")
        if sample is None or not expected.matches(Fingerprint.of(sample)):
            raise ArgumentError("summary: the data have been modified since the fit; fit again.")
