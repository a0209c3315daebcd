"""Drop-in replacements for the multivariate normal distributions of torch.distributions, with closed-form derivatives.

The package may use `model`, `autodiff` and everything below them. Its interface is public: `MultivariateNormal`,
`LowRankMultivariateNormal`, and Kullback-Leibler divergences, which are registered with torch.distributions.kl_divergence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints

from mvnjac.covariance.base import Covariance
from mvnjac.covariance.parametrisations.cholesky import Cholesky
from mvnjac.covariance.parametrisations.dense import Dense
from mvnjac.covariance.parametrisations.precision import Precision
from mvnjac.covariance.structured.low_rank import LowRank, LowRankFactor
from mvnjac.distributions import kl as kl  # registers the divergences
from mvnjac.distributions.attributes import Parameter
from mvnjac.distributions.base import Normal
from mvnjac.errors import ArgumentError

__all__ = ["LowRankMultivariateNormal", "MultivariateNormal"]


class MultivariateNormal(Normal):
    """torch.distributions.MultivariateNormal, with the closed-form derivatives of `mvnjac.log_prob`.

    Args:
        loc: (..., d) the mean µ, in units of x, of any real dtype. The attribute `loc` can be assigned or changed in place;
            later results use the new mean.
        covariance_matrix, precision_matrix, scale_tril: (..., d, d) Σ, Σ⁻¹, or the lower triangular L with Σ = L Lᵀ: exactly
            one of them, float32 or float64, which is the dtype of densities. Leading dimensions broadcast. As in torch,
            entries of Σ and Σ⁻¹ may be asymmetric up to 1e-6 plus 1e-5 times their absolute value; the lower triangle of Σ
            and the upper triangle of Σ⁻¹ are used.
        validate_args: whether to check values, here and in `log_prob`; by default as torch (`set_default_validate_args`). If
            False, an invalid covariance gives NaN.
        missing: "marginalise": NaN in a value is a missing entry, and `log_prob` is the density of the observed entries.

    Raises:
        ArgumentError: the arguments have inconsistent shapes, dtypes or devices or, if validated, an invalid value. It is a
            ValueError.
        ReadOnlyError: a parameter of the covariance is assigned; create a new distribution instead. It is an AttributeError.

    Example:
        >>> import torch
        >>> from mvnjac.distributions import MultivariateNormal
        >>> MultivariateNormal(torch.zeros(2), torch.eye(2)).log_prob(torch.ones(3, 2))
        tensor([-2.8379, -2.8379, -2.8379])
    """

    arg_constraints = _class_constraints = {
        "loc": constraints.real_vector,
        "covariance_matrix": constraints.positive_definite,
        "precision_matrix": constraints.positive_definite,
        "scale_tril": constraints.lower_cholesky,
    }

    def __init__(
        self,
        loc: Float[Tensor, "*#batch d"],
        covariance_matrix: Float[Tensor, "*#batch d d"] | None = None,
        precision_matrix: Float[Tensor, "*#batch d d"] | None = None,
        scale_tril: Float[Tensor, "*#batch d d"] | None = None,
        validate_args: bool | None = None,
        *,
        missing: str | None = None,
    ) -> None:
        given: dict[Callable[[Tensor], Covariance], Tensor | None] = {
            Dense: covariance_matrix, Precision: precision_matrix, Cholesky: scale_tril
        }  # fmt: skip
        structures = [structure(value) for structure, value in given.items() if value is not None]
        if len(structures) != 1:
            raise ArgumentError(
                f"{type(self).__name__}: got {len(structures)} matrices; pass exactly one of covariance_matrix, "
                "precision_matrix and scale_tril."
            )
        super().__init__(loc, structures[0], validate_args, missing)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        """The same distribution with a larger batch shape, without copies, validation or a new factorisation."""
        return self._expand_into(self._get_checked_instance(MultivariateNormal, _instance), batch_shape)


class LowRankMultivariateNormal(Normal):
    """torch.distributions.LowRankMultivariateNormal, with the closed-form derivatives of `mvnjac.log_prob`.

        Σ = W Wᵀ + diag(v)

    Args:
        loc: (..., d) the mean µ, as for `MultivariateNormal`.
        cov_factor: (..., d, k) W, in units of x, float32 or float64.
        cov_diag: (..., d) v, positive, in squared units of x, of the same dtype.
        validate_args, missing: as for `MultivariateNormal`.

    Raises:
        ArgumentError, ReadOnlyError: as for `MultivariateNormal`.

    Example:
        >>> import torch
        >>> from mvnjac.distributions import LowRankMultivariateNormal
        >>> LowRankMultivariateNormal(torch.zeros(2), torch.tensor([[1.0], [0.0]]), torch.ones(2)).variance
        tensor([2., 1.])
    """

    arg_constraints = _class_constraints = {
        "loc": constraints.real_vector,
        "cov_factor": constraints.independent(constraints.real, 2),
        "cov_diag": constraints.independent(constraints.positive, 1),
    }

    def __init__(
        self,
        loc: Float[Tensor, "*#batch d"],
        cov_factor: Float[Tensor, "*#batch d k"],
        cov_diag: Float[Tensor, "*#batch d"],
        validate_args: bool | None = None,
        *,
        missing: str | None = None,
    ) -> None:
        super().__init__(loc, LowRank(cov_factor, cov_diag), validate_args, missing)

    @Parameter
    def cov_factor(self) -> Tensor:
        """W, (*batch, d, k)."""
        raise AttributeError("cov_factor is not set yet")

    @Parameter
    def cov_diag(self) -> Tensor:
        """v, (*batch, d)."""
        raise AttributeError("cov_diag is not set yet")

    @Parameter
    def precision_matrix(self) -> Tensor:
        """Σ⁻¹, (*batch, d, d), by Woodbury's identity."""
        factor = self._factor()
        assert isinstance(factor, LowRankFactor)
        with self._model.arithmetic():
            P = factor.precision_times(torch.eye(self._model.d, dtype=factor.root.dtype, device=factor.root.device))
            return self._full(0.5 * (P + P.mT), 2)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        """The same distribution with a larger batch shape, without copies, validation or a new factorisation."""
        return self._expand_into(self._get_checked_instance(LowRankMultivariateNormal, _instance), batch_shape)
