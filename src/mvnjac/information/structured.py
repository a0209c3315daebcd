"""Second derivatives with respect to the parameters of a structure, at the cost of the structure: no d×d array is formed.

The structure supplies its information. H v is the gradient of the directional derivative of the log-density along v.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor

from mvnjac.autodiff.directional import gradient_of_directional
from mvnjac.covariance.parametrisation import Values
from mvnjac.information.curvature import Curvature, RowStatistics
from mvnjac.model.model import Model
from mvnjac.score.evaluation import GeneralEvaluation
from mvnjac.tensors.broadcasting import RowLayout, batch_shape, sum_to
from mvnjac.whitening.factor import Factor
from mvnjac.whitening.residuals import Residuals


class StructuredCurvature(Curvature):
    """Second derivatives with respect to the mean and the parameters of a structure."""

    broadcasts = False

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        self.model, self.names = model, list(names)
        self.mean, self.factor = model.prepared()

    def fisher(self, v: Values) -> dict[str, Tensor]:
        covariance_part = {name: value for name, value in v.items() if name != "mean"}
        result = self.model.covariance.fisher(self.factor, covariance_part) if covariance_part else {}
        if "mean" in v:
            result["mean"] = precision_times(self.factor, v["mean"])
        return self._filled(result)

    def _filled(self, result: dict[str, Tensor]) -> dict[str, Tensor]:
        """The result in the order of the names, with 0 for parameters that it does not contain."""
        zeros = {name: self.mean.new_zeros(self.model.arguments.coordinates(name).shape) for name in self.names}
        return {name: result.get(name, zeros[name]) for name in self.names}

    def fisher_solve(self, gradients: Values) -> dict[str, Tensor]:
        """F is block diagonal: the mean and the parameters of the covariance are solved for separately."""
        covariance = self.model.covariance
        covariance_part = {name: gradient for name, gradient in gradients.items() if name != "mean"}
        solution = (covariance.fisher_solve(self.factor, covariance_part) or {}) if covariance_part else {}
        if "mean" in gradients:
            solution["mean"] = covariance.times(self.factor, gradients["mean"])
        return solution

    @property
    def redundant(self) -> bool:
        return self.model.covariance.redundant_among(self.names)

    def units(self) -> dict[str, Tensor] | None:
        return self.model.covariance.units(self.factor)

    def minimum_norm(self, v: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.model.covariance.minimum_norm(self.factor, v)

    def statistics(self, evaluation: GeneralEvaluation, weights: Tensor | None, param_batch: Size) -> RowStatistics:
        return WeightedRows(self.names, evaluation, weights, param_batch)


class WeightedRows(RowStatistics):
    """The rows and their weights: H v is the gradient of the directional derivative along v, summed over the rows."""

    def __init__(self, names: Sequence[str], evaluation: GeneralEvaluation, weights: Tensor | None, param_batch: Size) -> None:
        self.names, self.evaluation, self.param_batch = list(names), evaluation, param_batch
        self.weights = full_weights(evaluation.rows, weights)

    @property
    def count(self) -> Tensor:
        return sum_to(self.weights, self.param_batch, 0)

    def score(self) -> dict[str, Tensor]:
        batches = [self.param_batch] * len(self.names)
        return dict(zip(self.names, self.evaluation.totals(self.names, self.weights, batches), strict=True))

    def hessian(self, v: Values) -> dict[str, Tensor]:
        model, x = self.evaluation.model, self.evaluation.rows.x
        return gradient_of_directional(model, x, self.weights, v, self.names, self.param_batch)


def full_weights(rows: Residuals, weights: Tensor | None) -> Tensor:
    """(*batch) the weights, 1 by default."""
    weights = torch.ones((), dtype=rows.mean.dtype, device=rows.mean.device) if weights is None else weights
    return weights.expand(rows.batch)


def precision_times(factor: Factor, v: Tensor) -> Tensor:
    """Σ⁻¹ v for v (..., d)."""
    layout = RowLayout(torch.broadcast_shapes(batch_shape(v, 1), factor.batch), factor.batch)
    return layout.unfold(factor.solve(layout.fold(v), layout))
