"""The log-density."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mvnjac.covariance.base import Covariance
from mvnjac.model import Model
from mvnjac.residuals import Residuals


def log_prob(
    x: Float[Tensor, "*rows d"],
    mean: Float[Tensor, "*batch d"],
    covariance: Float[Tensor, "*own d d"] | Covariance,
    *,
    precision: str | None = None,
    check: bool = True,
) -> Float[Tensor, "*out"]:
    """The log-density of a multivariate normal distribution.

        log p(x) = −½ (d log 2π + log det Σ + ‖z‖²),        z = L⁻¹(x − µ),  Σ = L Lᵀ

    Args:
        x: (..., d) rows.
        mean: (..., d) µ, in units of x.
        covariance: Σ (..., d, d), or a structure such as `mvnjac.Precision`. Leading dimensions broadcast.
        precision: "float64" works float32 arguments in float64 inside and rounds the result.
        check: look at the numbers and raise where they are no density; False leaves NaN there.

    Returns:
        (...) natural logarithms, differentiable by all arguments.

    Raises:
        MvnjacError: what `jacobian` raises.

    Example:
        >>> import torch, mvnjac
        >>> mvnjac.log_prob(torch.zeros(2, dtype=torch.float64), torch.zeros(2).double(), torch.eye(2).double())
        tensor(-1.8379, dtype=torch.float64)
    """
    model = Model("log_prob", mean, covariance, None, precision, check)
    return log_density(model, model.residuals(x))


def log_density(model: Model, rows: Residuals) -> Tensor:
    """The rows' log-density in the dtype of the results, by arithmetic as given."""
    with model.arithmetic():
        return rows.log_prob.to(model.dtype)
