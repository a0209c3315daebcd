"""What the multivariate normal distributions of `mvnjac.distributions` have in common.

Each holds one `Model`, which factorises once: with the graph that draws, entropies and divergences differentiate through, and
shares the numbers with `log_prob`, which has its own derivatives. An expanded distribution has the model of the one it came
from; only results are expanded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.utils import lazy_property

from mvnjac.arithmetic import concrete
from mvnjac.batches import RowLayout, broadcast
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.cache import passing
from mvnjac.covariance.factorised import Factor
from mvnjac.covariance.low_rank import LowRankFactor
from mvnjac.log_prob import evaluate
from mvnjac.model import Model


class Normal(Distribution):
    """What both have in common; the constructor takes a structure.

    Σ = S Sᵀ + diag(v), where S is the Cholesky factor and there is no v, or S is the factor of low rank.
    """

    support = constraints.real_vector
    has_rsample = True
    is_multivariate_normal = True  # what a distribution in place of mean and covariance is recognised by
    loc: Tensor

    def __init__(self, loc: Tensor, covariance: Covariance, validate_args: bool | None) -> None:
        self._model = model = Model(type(self).__name__, loc, covariance, None, None, False, "loc")
        super().__init__(model.batch, Size((model.d,)), validate_args=False)  # torch would factorise here to validate
        if validate_args is None:
            del self._validate_args  # the default is the class's
        else:
            self._validate_args = validate_args
        self._show(loc=loc, **covariance.parameters)
        if self._validate_args and concrete(*model.given()):
            self._prepare()
            model.check_parameters()

    # --- parameters ----------------------------------------------------------------------------------------------

    @property
    def mean(self) -> Tensor:
        """µ, (*batch, d)."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """The most likely value: µ."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The diagonal of Σ, (*batch, d)."""
        factor = self._model.prepared()[1]
        S, diagonal = columns(factor)
        with self._model.arithmetic():
            squares = (S * S).sum(-1)
            return self._full(squares if diagonal is None else squares + diagonal, 1)

    @lazy_property
    def covariance_matrix(self) -> Tensor:
        """Σ, (*batch, d, d)."""
        return self._derived("covariance_matrix")

    @lazy_property
    def precision_matrix(self) -> Tensor:
        """Σ⁻¹, (*batch, d, d)."""
        return self._derived("precision_matrix")

    @lazy_property
    def scale_tril(self) -> Tensor:
        """The lower Cholesky factor of Σ, (*batch, d, d)."""
        return self._derived("scale_tril")

    # --- what is asked of a distribution -------------------------------------------------------------------------

    def log_prob(self, value: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows"]:
        """The log-density, with the derivatives of `mvnjac.log_prob`."""
        if self._validate_args:
            self._validate_sample(value)
        self._prepare()
        result = evaluate(self._model, value)
        return result.expand(broadcast(result.shape, self._batch_shape))

    def rsample(self, sample_shape: Sequence[int] = Size()) -> Tensor:
        """µ + S ε + √v ε′, differentiable by the parameters; a seed gives what it gives torch's class."""
        shape = self._extended_shape(Size(sample_shape))
        mean, factor = self._model.prepared()
        S, diagonal = columns(factor)
        noise = torch.randn((*shape[:-1], S.shape[-1]), dtype=mean.dtype, device=mean.device)
        layout = RowLayout(shape[:-1], factor.batch)
        with self._model.arithmetic():
            draws = mean + layout.unfold(layout.fold(noise) @ layout.fold_own(S, 2).mT)
            if diagonal is not None:
                draws = draws + diagonal.sqrt() * torch.randn(shape, dtype=mean.dtype, device=mean.device)
        return draws

    def entropy(self) -> Float[Tensor, "*batch"]:
        """½ (d (1 + log 2π) + log det Σ)."""
        factor = self._model.prepared()[1]
        with self._model.arithmetic():
            return self._full(0.5 * (self._model.d * (1 + math.log(2 * math.pi)) + factor.log_det), 0)

    # --- shared with expanded ones -------------------------------------------------------------------------------

    def _expand_into(self, new: Self, batch_shape: Sequence[int]) -> Self:
        super(Normal, new).__init__(Size(batch_shape), self._event_shape, validate_args=False)
        new._validate_args, new._model = self._validate_args, self._model
        new._show(**{name: value for name, value in vars(self).items() if name in self.arg_constraints})
        return new

    def _show(self, **values: Tensor) -> None:
        """Have these as attributes, as views of the full batch."""
        constraint: Any = self.arg_constraints
        for name, value in values.items():
            setattr(self, name, self._full(value, constraint[name].event_dim))

    def _full(self, t: Tensor, event: int) -> Tensor:
        return t.expand((*self._batch_shape, *t.shape[t.ndim - event :]))

    def _derived(self, name: str) -> Tensor:
        factor = self._model.prepared()[1]
        with self._model.arithmetic():
            return self._full(getattr(factor.dense(), name), 2)

    def _prepare(self) -> None:
        """Factorise now, with a graph where there is one to keep: `log_prob`, which needs none, then shares the numbers."""
        if not passing():
            self._model.prepared()

    def _validate_sample(self, value: Tensor) -> None:
        # Under vmap there are no numbers to look at, and without rows torch's constraints fail.
        if not isinstance(value, Tensor) or (value.numel() and concrete(value)):
            super()._validate_sample(value)


def columns(factor: Factor) -> tuple[Tensor, Tensor | None]:
    """S (*batch, d, k) and v (*batch, d) with Σ = S Sᵀ + diag(v)."""
    if isinstance(factor, LowRankFactor):
        return factor.cov_factor, factor.cov_diag
    return factor.dense().scale_tril, None
