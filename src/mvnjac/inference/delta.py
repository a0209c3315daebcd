"""The delta method: standard errors of smooth functions of the estimates."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mvnjac.errors import ArgumentError, ShapeError, counted
from mvnjac.inference.estimate_covariances import Estimates
from mvnjac.inference.estimating_functions import FEWER, EstimatingFunctions
from mvnjac.model.elements import gradients, leaves
from mvnjac.model.model import Model
from mvnjac.tensors.allocation import guarded

Function = Callable[[Mapping[str, Tensor]], Tensor | Mapping[str, Tensor]]
_NAME = "delta_method"


class Parameters(Mapping[str, Tensor]):
    """The parameters at which a function is asked for: the model's own, and those of any dense parametrisation, by name."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __getitem__(self, name: str) -> Tensor:
        if name == "mean" and self._model.arguments.mean_follows:
            mean, _ = self._model.prepared()
            return mean
        return self._model.arguments.shaped(name, self._model.parameter(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._model.arguments.parameter_names())

    def __len__(self) -> int:
        return len(self._model.arguments.parameter_names())


@guarded("delta_method", FEWER)
def delta_method(estimates: Estimates, function: Function, names: Sequence[str] | None = None) -> Estimates:
    """The values of a smooth function of the parameters, with their covariance G V Gᵀ, G its derivatives at the estimates.

    G comes by reverse-mode autodiff; V is never formed, so that a portfolio of 1000 assets costs one solution with the
    information. V is that of the whole model, whichever columns, or functions, `estimates` has.

    Args:
        estimates: of `covariance_of_estimates`: which kind of covariance.
        function: takes a mapping of parameters by name, theta["mean"], theta["covariance_matrix"], theta["correlation_matrix"],
            …: the model's own parameters, or of any dense parametrisation. Returns a tensor of any shape, or a dictionary
            of them; by plain differentiable torch operations.
        names: of the values, in row-major order; by default "[i,j]", or the dictionary's keys.

    Returns:
        `Estimates`: one a value.

    Raises:
        ArgumentError: what is returned does not depend differentiably on the parameters.

    Source: van der Vaart 1998, *Asymptotic Statistics*, ch. 3.

    Example:
        >>> import torch, mvnjac
        >>> from mvnjac import inference
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 6.0], [0.0, 3.0]], dtype=torch.float64)
        >>> V = inference.covariance_of_estimates(mvnjac.fit(x).gaussian.jacobian(x), "expected")
        >>> weights = torch.tensor([0.5, 0.5], dtype=torch.float64)
        >>> inference.delta_method(V, lambda theta: {"variance": weights @ theta["covariance_matrix"] @ weights})
        1 estimate from 4 rows; standard errors: delta method; expected information
                  estimate  standard_error        z   p_value
        variance    1.0625        0.751301  1.41421  0.157299
    """
    estimating = estimates._estimating
    _require_own(estimating)
    with torch.enable_grad():
        changes, model = leaves(estimating.model, estimating.names)
        labels, values = _evaluated(function(Parameters(model)), names)
        G = _gradients(values, changes, labels)
    return Estimates(
        f"delta method; {estimates.kind}",
        tuple(labels),
        values.detach(),
        estimates._propagate(G),
        estimates.rows,
        estimates._propagate,
        estimating,
        torch.ones(len(labels), dtype=torch.bool, device=values.device),
        estimates.df,
    )


def _require_own(estimating: EstimatingFunctions) -> None:
    model = estimating.model
    other = [name for name in estimating.names if name not in {"mean", *model.covariance.fields}]
    if other:
        raise ArgumentError(
            f"{_NAME}: the estimates are by {other[0]}; pass the covariance by the model's own parameters "
            f"({', '.join(model.arguments.default_names())}): the function may take any parametrisation of them."
        )


def _evaluated(result: object, names: Sequence[str] | None) -> tuple[list[str], Tensor]:
    """The labels and (k,) values of what a function returned."""
    parts: dict[str, Tensor] = {}
    for key, part in result.items() if isinstance(result, Mapping) else [("", result)]:
        if not isinstance(part, Tensor) or not part.numel():
            raise ArgumentError(
                f"{_NAME}: the function returned {type(part).__name__} {key}; expected a tensor, or a dict of them."
            )
        parts[str(key)] = part
    labels = [
        key + ("[" + ",".join(map(str, index)) + "]" if index else "")
        for key, part in parts.items()
        for index in itertools.product(*map(range, part.shape))
    ]
    if names is not None:
        if len(names) != len(labels):
            raise ShapeError(f"{_NAME}: {counted(len(names), 'name')} for {counted(len(labels), 'value')}.")
        labels = [str(name) for name in names]
    return [label or "value" for label in labels], torch.cat([part.reshape(-1).double() for part in parts.values()])


def _gradients(values: Tensor, changes: Sequence[Tensor], labels: Sequence[str]) -> Tensor:
    """(k, p)."""
    if not values.requires_grad:
        raise ArgumentError(
            f"{_NAME}: {labels[0]} does not depend on the estimated parameters by differentiable operations of torch."
        )
    return gradients(values, changes)
