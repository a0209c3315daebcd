"""What the multivariate normal distributions of `mvnjac.distributions` have in common.

Each holds one `Model`, which factorises once: with the graph that draws, entropies and divergences differentiate through, and
shares the numbers with `log_prob`, which has its own derivatives. The mean is what the attribute `loc` is at each call. An
expanded distribution shares the factor of the one it came from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from jaxtyping import Float
from torch import Size, Tensor
from torch.distributions import Distribution, constraints

from mvnjac.autodiff.log_prob import evaluate
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.structured.low_rank import LowRankFactor
from mvnjac.distributions.attributes import Parameter, as_torch, real_or_missing
from mvnjac.errors import DeviceError
from mvnjac.model import validation
from mvnjac.model.arguments import parse
from mvnjac.model.model import Model
from mvnjac.model.torch_distributions import unexpanded
from mvnjac.parameters import checks
from mvnjac.tensors.broadcasting import RowLayout, broadcast
from mvnjac.tensors.tracing import is_concrete, is_traced
from mvnjac.whitening.cache import passing
from mvnjac.whitening.factor import Factor


class Normal(Distribution):
    """What both have in common; the constructor takes a structure.

    Σ = S Sᵀ + diag(v), where S is the Cholesky factor and there is no v, or S is the factor of low rank.
    """

    support = constraints.real_vector
    has_rsample = True
    is_multivariate_normal = True  # what a distribution in place of mean and covariance is recognised by
    loc: Tensor
    _shown: Mapping[str, Tensor] = {}
    _own_constraints: ClassVar[Mapping[str, constraints.Constraint]]

    def __init__(self, loc: Tensor, covariance: Covariance, validate_args: bool | None, missing: str | None) -> None:
        name = type(self).__name__
        mean = in_dtype(name, "loc", loc, covariance.dtype)
        model = Model(parse(name, mean, covariance, missing=missing, check=False, mean_name="loc"))
        self._batch_shape, self._event_shape = model.batch, Size((model.d,))  # torch's __init__ would factorise to validate
        if validate_args is not None:  # else the default is the class's
            self._validate_args = validate_args
        if missing is not None and type(self).support is constraints.real_vector:
            self.support = real_or_missing
        self._show(loc, {name: t.expand(t.shape) for name, t in covariance.parameters.items()}, model)
        if self._validate_args and is_concrete(loc, *covariance.parameters.values()):
            self._validate()

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
        S, diagonal = columns(self._factor())
        with self._model.arithmetic():
            squares = (S * S).sum(-1)
            return self._full(squares if diagonal is None else squares + diagonal, 1)

    @Parameter
    def covariance_matrix(self) -> Tensor:
        """Σ, (*batch, d, d)."""
        return self._derived("covariance_matrix")

    @Parameter
    def precision_matrix(self) -> Tensor:
        """Σ⁻¹, (*batch, d, d)."""
        return self._derived("precision_matrix")

    @Parameter
    def scale_tril(self) -> Tensor:
        """The lower Cholesky factor of Σ, (*batch, d, d)."""
        return self._derived("scale_tril")

    def __repr__(self) -> str:
        own = {"loc": self.loc, **self._shown}
        shown = {name: own[name] for name in self.arg_constraints if name in own}
        sizes = [f"{name}: {t if t.numel() == 1 else t.size()}" for name, t in shown.items()]  # as torch has it
        return f"{type(self).__name__}({', '.join(sizes)})"

    # --- what is asked of a distribution -------------------------------------------------------------------------

    def log_prob(self, value: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows"]:
        """The log-density in the dtype of the covariance, with the derivatives of `mvnjac.log_prob`."""
        if self._validate_args:
            self._validate_sample(value)
        model = self._current()
        if not passing():
            model.prepared()  # with a graph where there is one to keep: what follows, which needs none, then shares the numbers
        result = evaluate(*self._meeting(model, value))
        return result.expand(broadcast(result.shape, self._batch_shape))

    def rsample(self, sample_shape: Sequence[int] = Size()) -> Tensor:
        """µ + S ε + √v ε′, differentiable by the parameters; a seed gives what it gives torch's class."""
        shape, dtype = self._extended_shape(Size(sample_shape)), self._current().dtype
        factor = self._factor()
        S, diagonal = columns(factor)
        noise = torch.randn((*shape[:-1], S.shape[-1]), dtype=dtype, device=S.device)
        layout = RowLayout(shape[:-1], factor.batch)
        with self._model.arithmetic():
            draws = self.loc + layout.unfold(layout.fold(noise) @ layout.fold_params(S, 2).mT)
            if diagonal is not None:
                draws = draws + diagonal.sqrt() * torch.randn(shape, dtype=dtype, device=S.device)
        return draws

    def entropy(self) -> Float[Tensor, "*batch"]:
        """½ (d (1 + log 2π) + log det Σ)."""
        factor = self._factor()
        with self._model.arithmetic():
            return self._full(0.5 * (self._model.d * (1 + math.log(2 * math.pi)) + factor.log_det), 0)

    # --- shared with expanded ones -------------------------------------------------------------------------------

    def _expand_into(self, new: Self, batch_shape: Sequence[int]) -> Self:
        new._batch_shape, new._event_shape, new._validate_args = Size(batch_shape), self._event_shape, self._validate_args
        if "support" in vars(self):
            new.support = self.support
        model = self._current()
        new._show(self.loc, {name: self._shown[name] for name in model.covariance.parameters}, model)
        return new

    def _show(self, loc: Tensor, parameters: Mapping[str, Tensor], model: Model) -> None:
        """Have these as attributes, of the full batch.

        What is shown is what results are computed from, so that these can be differentiated by it; but not a matrix that is
        repeated for a larger batch, of which there is one factor.
        """
        own = model.covariance
        with torch.enable_grad():
            self.loc = loc.expand((*self._batch_shape, loc.shape[-1]))
            shown = {name: self._full(t, len(own.coordinates_of(name, model.d).shape)) for name, t in parameters.items()}
        self._shown = shown  # a dict of its own: torch.compile of older versions cannot follow __dict__
        given = [shown[name] if shown[name].shape == t.shape else t for name, t in own.parameters.items()]
        self._located, self._model = self.loc, model.at(self.loc.to(model.dtype), given)

    def _current(self) -> Model:
        """The model at `loc` as it is now: what was assigned to it is looked at the first time."""
        if self.loc is not self._located:
            self._model = self._model.with_mean(in_dtype(type(self).__name__, "loc", self.loc, self._model.dtype))
            self._located = self.loc
        return self._model

    def _meeting(self, model: Model, value: Tensor) -> tuple[Model, Tensor]:
        """The model, and values as it takes them. Of another dtype than Σ, x − µ is formed in the wider one, as torch does."""
        loc, dtype = self.loc, model.dtype
        if isinstance(value, Tensor) and not (value.dtype == loc.dtype == dtype):
            in_dtype(model.arguments.function, "value", value, dtype)
            if value.device != loc.device:
                raise DeviceError(
                    f"{model.arguments.function}: value is on {value.device} but loc is on {loc.device}; move one of them."
                )
            validation.require_row_shape(model.arguments.function, value, "loc", loc, model.batch)
            value = (value - loc).to(dtype)
            mean = value.new_zeros(model.d)
        else:
            mean = model.mean if is_traced(model.mean) else unexpanded(model.mean, 1)  # nobody asks for each row's gradient
        return model.at(mean, list(model.covariance.parameters.values())), value

    def _factor(self) -> Factor:
        return self._model.prepared()[1]

    def _full(self, t: Tensor, event: int) -> Tensor:
        shape = (*self._batch_shape, *t.shape[t.ndim - event :])
        return t if t.shape == shape else t.expand(shape)

    def _derived(self, name: str) -> Tensor:
        factor = self._factor()
        with self._model.arithmetic():
            return self._full(getattr(factor.dense(), name), 2)

    # --- validation ----------------------------------------------------------------------------------------------

    def _validate(self) -> None:
        """By our own checks, of one factorisation; where a subclass declares other constraints, by those, as torch does."""
        if self.arg_constraints is not self._own_constraints:
            super().__init__(self._batch_shape, self._event_shape)
            return
        if not passing():
            self._model.prepared()
        self._model.validate_parameters(as_torch)

    def _validate_sample(self, value: Tensor) -> None:
        # Under vmap there are no numbers to look at, and without rows torch's constraints fail.
        if not isinstance(value, Tensor) or (value.numel() and is_concrete(value)):
            super()._validate_sample(value)


def in_dtype(function: str, name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    """Real numbers of any dtype, converted; a DtypeError for anything else."""
    if not isinstance(value, Tensor) or value.is_complex() or value.dtype is torch.bool:
        checks.floating(function, name, value)
    return value.to(dtype)


def columns(factor: Factor) -> tuple[Tensor, Tensor | None]:
    """S (*batch, d, k) and v (*batch, d) with Σ = S Sᵀ + diag(v)."""
    if isinstance(factor, LowRankFactor):
        return factor.cov_factor, factor.cov_diag
    return factor.dense().scale_tril, None
