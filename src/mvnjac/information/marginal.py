"""The information of a structure with missing entries, from its marginal structures or its independent groups of variables."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor

from mvnjac.covariance import dense_parameters
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.parametrisation import DenseParametrisation, Values
from mvnjac.errors import ArgumentError
from mvnjac.information.curvature import Curvature
from mvnjac.information.incomplete import IncompleteCurvature
from mvnjac.information.structured import StructuredCurvature, precision_times
from mvnjac.missing.incomplete_residuals import IncompleteResiduals
from mvnjac.model.model import Model
from mvnjac.whitening.residuals import Residuals


def incomplete_curvature(
    model: Model, names: Sequence[str], rows: IncompleteResiduals, weights: Tensor | None, batch: Size
) -> Curvature:
    """The implementation of second derivatives for rows with missing entries; `batch`: of the sums over the rows."""
    of_structure = set(names) <= {"mean", *model.covariance.fields} and not isinstance(model.covariance, DenseParametrisation)
    if of_structure and (rows.keeps_form or rows.variable_groups):
        return MarginalCurvature(model, names, rows, weights)
    return IncompleteCurvature(names, [] if of_structure else owners_of(model, names), rows, batch, weights)


def owners_of(model: Model, names: Sequence[str]) -> list[type[DenseParametrisation]]:
    """The dense parametrisations to which the parameters other than the mean belong.

    Raises:
        ArgumentError: some of them are parameters of a structure.
    """
    others = [name for name in names if name != "mean"]
    structured = [name for name in others if name not in dense_parameters()]
    if structured:
        dense = ", ".join(name for name in others if name not in structured)
        raise ArgumentError(
            f"{model.arguments.function}: {', '.join(structured)} and {dense} are parameters of more than one parametrisation; "
            "expected parameters of one, since a second derivative depends on which parameters are held fixed."
        )
    return list(dict.fromkeys(dense_parameters()[name] for name in others))


class MarginalCurvature(StructuredCurvature):
    """Second derivatives with respect to the parameters of a structure, by pattern or by independent group of variables."""

    solves = False

    def __init__(self, model: Model, names: Sequence[str], rows: IncompleteResiduals, weights: Tensor | None = None) -> None:
        super().__init__(model, names)
        self._rows, self._weights = rows, weights
        self._dense: dict[int, IncompleteCurvature] = {}  # by the id of rows that self._rows keeps alive

    def fisher(self, v: Values) -> dict[str, Tensor]:
        return self._filled(self._average(self._rows, self.model.covariance, v))

    def fisher_solve(self, gradients: Values) -> dict[str, Tensor]:
        return {}

    def _average(self, rows: Residuals, covariance: Covariance, v: Values) -> dict[str, Tensor]:
        """F v of the average row, for a change v of the mean and the parameters of the covariance."""
        mean_change, others = v.get("mean"), {name: value for name, value in v.items() if name != "mean"}
        param_batch, weights = self.model.reduced_batch, self._weights
        if not isinstance(rows, IncompleteResiduals):
            result = covariance.fisher(rows.factor, others) if others else {}
            return result if mean_change is None else {**result, "mean": precision_times(rows.factor, mean_change)}
        if rows.variable_groups:
            return self._by_groups(rows, covariance, mean_change, others)
        if rows.keeps_form and _same_average(rows, param_batch, weights):
            return rows.marginals.fisher(dict(v), weights)
        if id(rows) not in self._dense:
            owners = [type(covariance)] if isinstance(covariance, DenseParametrisation) else []
            names = ["mean", *covariance.fields]
            self._dense[id(rows)] = IncompleteCurvature(names, owners, rows, param_batch, weights)
        return self._dense[id(rows)].fisher(v)

    def _by_groups(
        self, rows: IncompleteResiduals, covariance: Covariance, mean_change: Tensor | None, others: Values
    ) -> dict[str, Tensor]:
        result: dict[str, Tensor] = {}
        means: list[Tensor] = []
        located = {name: covariance.in_group(name) for name in covariance.fields}
        for i, (at, block, _) in enumerate(covariance.groups(rows.factor)):
            names = {inner: name for name, (group, inner) in located.items() if group == i}
            change = {inner: others[name] for inner, name in names.items() if name in others}
            if mean_change is not None:
                change["mean"] = mean_change[..., at]
            image = self._average(rows.variable_groups[i], block, change) if change else {}
            if mean_change is not None:
                means.append(image.get("mean", torch.zeros_like(mean_change[..., at])))
            result |= {names[inner]: value for inner, value in image.items() if inner in names}
        if means:
            batch = torch.broadcast_shapes(*(mean.shape[:-1] for mean in means))
            result["mean"] = torch.cat([mean.expand((*batch, mean.shape[-1])) for mean in means], -1)
        return result


def _same_average(rows: IncompleteResiduals, param_batch: Size, weights: Tensor | None) -> bool:
    """Whether all entries of `param_batch` average over the same rows: no mean belongs to some rows only."""
    batch = rows.observed.shape[:-1]
    return param_batch == rows.layout.param_batch or (
        weights is None and set(batch[max(len(batch) - len(param_batch), 0) :]) <= {1}
    )
