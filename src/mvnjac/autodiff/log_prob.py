"""The log-density as a function, differentiable to any order by closed forms (`autodiff/rules.py`)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from mvnjac.autodiff.rules import LogProb, TracedLogProb, general_gradients
from mvnjac.covariance.base import Covariance
from mvnjac.fused.dense import fused_rows
from mvnjac.fused.training_step import training_step
from mvnjac.model.inputs import density_of, with_rows
from mvnjac.model.model import Model
from mvnjac.tensors.tracing import is_concrete, is_traced, nan_where, recorded, savable, transforming


def log_prob(
    x: Float[Tensor, "*rows d"],
    mean: Float[Tensor, "*batch d"] | Distribution | Covariance | None,
    covariance: Float[Tensor, "*param_batch d d"] | Covariance | None = None,
    *,
    missing: str | None = None,
    precision: str | None = None,
    check: bool = True,
) -> Float[Tensor, "*out"]:
    """The log-density of the multivariate normal distribution.

        log p(x) = −½ (d log 2π + log det Σ + ‖z‖²),        z = L⁻¹(x − µ),  Σ = L Lᵀ

    It is differentiable to any order by the closed forms of `mvnjac.jacobian`: `backward`, `torch.autograd` with create_graph,
    forward mode, torch.func (grad, vjp, jvp, jacrev, jacfwd, hessian, vmap and their compositions), torch.compile and
    torch.export. Gradients and tangents with respect to symmetric parameters are symmetric.

    Args:
        x: (..., d) rows; (..., m, q) if the mean consists of matrices as well (`mvnjac.Kronecker`).
        mean: µ (..., d), in the units of x; or a distribution in place of mean and covariance, as in `mvnjac.jacobian`.
        covariance: Σ (..., d, d), or a structure such as `mvnjac.Precision(P)`. Leading dimensions broadcast.
        missing: "marginalise" treats NaN in x as a missing entry, as in `mvnjac.jacobian`. With None it is an error.
        precision: "float64" computes internally in float64 for float32 arguments and rounds the result.
        check: whether the values are checked and invalid ones raise an error. With False the result is NaN where the arguments
            define no density. Under torch.compile, and where vmap maps over an argument, values are not available for checks:
            the result is then NaN as well.

    Returns:
        (...) natural logarithms, differentiable with respect to all arguments.

    Raises:
        MvnjacError: the same errors as `mvnjac.jacobian`.

    Example:
        >>> import torch, mvnjac
        >>> x, mean, sigma = torch.ones(3, 2), torch.zeros(2), torch.eye(2)
        >>> mvnjac.log_prob(x, mean, sigma)
        tensor([-2.8379, -2.8379, -2.8379])
        >>> torch.func.grad(lambda S: mvnjac.log_prob(x, mean, S).sum())(sigma)
        tensor([[0.0000, 1.5000],
                [1.5000, 0.0000]])
    """
    if missing is None and precision is None:
        fused = fused_rows(x, mean, covariance, gradients=False, check=check)
        result = training_step(x, mean, covariance, general_gradients) if fused is None else fused.log_prob()
        if result is not None:
            return result
    given = with_rows(density_of("log_prob", mean, covariance, missing=missing, precision=precision, check=check), x)
    return evaluate(given.model, given.x)


def evaluate(model: Model, x: Tensor) -> Tensor:
    """The log-density of the rows x, whose derivatives are the closed forms."""
    return _evaluate_rows(model, model.arguments.flat(x))


def _evaluate_rows(model: Model, x: Tensor) -> Tensor:
    if not is_traced(x, *model.arguments.given):
        return model.log_prob(model.rows(x))
    mean, covariance = model.covariance.evaluated()  # autograd differentiates the user's function of θ
    if covariance is not model.covariance:
        return _evaluate_rows(Model(model.arguments.with_parameters(model.mean if mean is None else mean, covariance)), x)
    if recorded() and not _compiles_rules(x, *model.arguments.given):
        return _with_nan_derivatives(model.log_prob(model.rows(x)))
    model.arguments.require_rows(x)
    differentiates_covariance = any(t.requires_grad for t in model.covariance.parameters.values())  # the mean needs no sums
    if differentiates_covariance and not (x.requires_grad or torch.compiler.is_compiling() or transforming()):
        model = model.filling_forward_cache()
    if torch.compiler.is_compiling():
        return _with_nan_derivatives(TracedLogProb.apply(model, x, *model.arguments.given))
    result = LogProb.apply(model, *(savable(t) for t in (x, *model.arguments.given)))
    return result if is_concrete(result) else _with_nan_derivatives(result)


def _with_nan_derivatives(value: Tensor) -> Tensor:
    """The value, with NaN derivatives where it is NaN, for arguments that cannot be checked.

    The log-density of a negative variance is NaN, for example, but its closed-form gradient is not.
    """
    return value * nan_where(value.detach().isnan(), value.dtype)


def _compiles_rules(*tensors: Tensor) -> bool:
    """Whether the rules of autograd Functions are recorded, as torch.compile does for gradients outside torch.func."""
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return needs_grad and torch.compiler.is_compiling() and not (transforming() or torch.compiler.is_exporting())
