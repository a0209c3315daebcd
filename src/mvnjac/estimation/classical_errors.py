"""Standard errors of a fit from its information, and from the sufficient statistics of the rows alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mvnjac.gaussian import Gaussian
from mvnjac.information.functions import hessian_of
from mvnjac.information.operators import Operator
from mvnjac.linalg.solvers import conditional_solver
from mvnjac.model.elements import elements
from mvnjac.parameters.boundary import free_columns
from mvnjac.parameters.selection import Part, Selection
from mvnjac.statistics.sufficient import SufficientStatistics


class ErrorsByParameter(dict[str, Tensor]):
    """Standard errors by parameter name, each a tensor of the parameter's shape; a dict that converts to pandas."""

    def __init__(self, errors: Mapping[str, Tensor], selection: Selection) -> None:
        super().__init__(errors)
        self._selection = selection

    def to_pandas(self) -> Any:
        """The standard errors of the unique elements as a pandas.Series, by the names of the columns (needs pandas)."""
        import pandas as pd

        shapes = {part.name: part.coordinates.shape for part in self._selection.parts}
        values = self._selection.pack({name: self[name].reshape(shape) for name, shape in shapes.items()})
        return pd.Series(values.detach().cpu().numpy(), index=self._selection.columns(), name="standard_error")


def classical_errors(gaussian: Gaussian, sample: SufficientStatistics, wrt: str | Sequence[str] | None) -> ErrorsByParameter:
    """The standard errors of an estimate from a sample; `Fit.standard_errors` says which."""
    arguments = gaussian.model.arguments
    information, factor = _information(gaussian, sample)
    if wrt is None:
        names = [name for name in arguments.default_names() if name not in gaussian.covariance.unidentified]
        errors = _of_parameters(gaussian, names, information, factor)
    else:
        names = [wrt] if isinstance(wrt, str) else list(wrt)
        errors = _by_delta_method(gaussian, names, information, factor)
    return ErrorsByParameter(errors, arguments.select(names))


def _information(gaussian: Gaussian, sample: SufficientStatistics) -> tuple[Operator, float]:
    """An operator, and the factor that turns it into the information of all rows."""
    sample.require_rows("standard errors")
    if sample.complete:
        return gaussian.fisher_information(), sample.total
    return hessian_of(gaussian.model, sample.origin + sample.rows, None, sample.weights, True), -1.0


def _conditional(gaussian: Gaussian, information: Operator) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """b → A⁻¹ b over the parameters that are not at a bound, and its diagonal, NaN for the others."""
    free = free_columns(information.columns(), gaussian.boundary, information.device)
    assert free is not None
    solve = conditional_solver(information.matrix(), free, information.redundant)
    unit = torch.eye(len(free), dtype=information.dtype, device=information.device)
    return solve, torch.where(free, solve(unit).diagonal(), torch.nan)


def _of_parameters(gaussian: Gaussian, names: Sequence[str], information: Operator, factor: float) -> dict[str, Tensor]:
    """Those of the mean and the structure's parameters."""
    arguments = gaussian.model.arguments
    variances = (_conditional(gaussian, information)[1] if gaussian.boundary else information.inverse_diagonal()) / factor
    whole = arguments.select(None).unpack(variances.sqrt())
    return {name: arguments.shaped(name, whole[name]) for name in names}


def _by_delta_method(gaussian: Gaussian, names: Sequence[str], information: Operator, factor: float) -> dict[str, Tensor]:
    model, result = gaussian.model, {}
    solve = _conditional(gaussian, information)[0] if gaussian.boundary else information.solve
    for name in names:
        part = Part(name, "unique", model.arguments.coordinates(name))
        _, gradients = elements(model, model.arguments.default_names(), [part])
        variances = (gradients * solve(gradients)).sum(-1) / factor
        errors = variances.clamp(min=0).sqrt() if name not in gaussian.covariance.unidentified else variances * math.nan
        result[name] = model.arguments.shaped(name, part.coordinates.unpack(errors))
    return result
