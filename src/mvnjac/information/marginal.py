"""The information with missing entries of structures that keep their form: added up pattern by pattern, or group by group."""

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
from mvnjac.information.structured import StructuredCurvature, solved
from mvnjac.missing.incomplete_residuals import IncompleteResiduals
from mvnjac.model.model import Model
from mvnjac.whitening.residuals import Residuals


def suited(model: Model, names: Sequence[str], rows: IncompleteResiduals, weights: Tensor | None, batch: Size) -> Curvature:
    """Second order by these parameters, the way that suits them; sums over the rows keep `batch`."""
    own = set(names) <= {"mean", *model.covariance.fields} and not isinstance(model.covariance, DenseParametrisation)
    if own and (rows.keeps_form or rows.groups):
        return MarginalCurvature(model, names, rows, weights)
    return IncompleteCurvature(names, [] if own else owners_of(model, names), rows, batch, weights)


def owners_of(model: Model, names: Sequence[str]) -> list[type[DenseParametrisation]]:
    """The dense parametrisations that these parameters, other than the mean, belong to.

    Raises:
        ArgumentError: there are parameters of a structure among them.
    """
    others = [name for name in names if name != "mean"]
    structured = [name for name in others if name not in dense_parameters()]
    if structured:
        dense = ", ".join(name for name in others if name not in structured)
        raise ArgumentError(
            f"{model.arguments.function}: {', '.join(structured)} and {dense} are parameters of more than one parametrisation; a "
            "second derivative needs to know what stays fixed: ask for those of one."
        )
    return list(dict.fromkeys(dense_parameters()[name] for name in others))


class MarginalCurvature(StructuredCurvature):
    """By the own parameters of a structure that is marginalised as it is: a structure a pattern, or group by group."""

    solves = False

    def __init__(self, model: Model, names: Sequence[str], rows: IncompleteResiduals, weights: Tensor | None = None) -> None:
        super().__init__(model, names)
        self._rows, self._weights = rows, weights
        self._of_groups: dict[int, IncompleteCurvature] = {}  # by id of their rows, which self._rows holds

    def fisher(self, v: Values) -> dict[str, Tensor]:
        return self._filled(self._average(self._rows, self.model.covariance, v))

    def fisher_solve(self, gradients: Values) -> dict[str, Tensor]:
        return {}

    def _average(self, rows: Residuals, covariance: Covariance, v: Values) -> dict[str, Tensor]:
        """The information of the average row by the mean and a structure's own parameters, times v."""
        by_mean, others = v.get("mean"), {name: value for name, value in v.items() if name != "mean"}
        own, weights = self.model.reduced_batch, self._weights
        if not isinstance(rows, IncompleteResiduals):
            result = covariance.fisher(rows.factor, others) if others else {}
            return result if by_mean is None else {**result, "mean": solved(rows.factor, by_mean)}
        if rows.groups:
            return self._by_groups(rows, covariance, by_mean, others)
        if rows.keeps_form and _common(rows, own, weights):
            return rows.marginals.fisher(dict(v), rows.d, weights)
        if id(rows) not in self._of_groups:
            owners = [type(covariance)] if isinstance(covariance, DenseParametrisation) else []
            names = ["mean", *covariance.fields]
            self._of_groups[id(rows)] = IncompleteCurvature(names, owners, rows, own, weights)
        return self._of_groups[id(rows)].fisher(v)

    def _by_groups(
        self, rows: IncompleteResiduals, covariance: Covariance, by_mean: Tensor | None, others: Values
    ) -> dict[str, Tensor]:
        result: dict[str, Tensor] = {}
        means: list[Tensor] = []
        for i, (at, block, _) in enumerate(covariance.groups(rows.factor)):
            inner = {name: covariance.in_group(name) for name in covariance.fields}
            names = {own_name: name for name, (group, own_name) in inner.items() if group == i}
            part = {own_name: others[name] for own_name, name in names.items() if name in others}
            if by_mean is not None:
                part["mean"] = by_mean[..., at]
            image = self._average(rows.groups[i], block, part) if part else {}
            if by_mean is not None:
                unobserved = torch.zeros_like(by_mean[..., at])
                means.append(image.get("mean", unobserved))
            result |= {names[own_name]: value for own_name, value in image.items() if own_name in names}
        if by_mean is not None:
            batch = torch.broadcast_shapes(*(mean.shape[:-1] for mean in means))
            result["mean"] = torch.cat([mean.expand((*batch, mean.shape[-1])) for mean in means], -1)
        return result


def _common(rows: IncompleteResiduals, param_batch: Size, weights: Tensor | None) -> bool:
    """Whether the average row is the same for all entries of `param_batch`, but for their covariances: no mean has rows of its own."""
    batch = rows.observed.shape[:-1]
    return param_batch == rows.layout.param_batch or (
        weights is None and set(batch[max(len(batch) - len(param_batch), 0) :]) <= {1}
    )
