"""The base class of the distributions of `mvnjac.distributions`.

Each distribution has one `Model`, which computes the factorisation once. Samples, entropies and divergences differentiate
through its autograd graph; `log_prob` uses the same numbers with closed-form derivatives. Every method uses the current value
of the attribute `loc`. An expanded distribution shares the factorisation of the original one.
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
from mvnjac.distributions.attributes import Parameter, real_or_missing, torch_asymmetry
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
    """A multivariate normal distribution with any structure of the covariance.

    Σ = S Sᵀ + diag(v), where S is the Cholesky factor and v = 0, or S is a low-rank factor.
    """

    support = constraints.real_vector
    has_rsample = True
    is_multivariate_normal = True  # marks distributions that are accepted in place of mean and covariance
    loc: Tensor
    _shown: Mapping[str, Tensor] = {}
    _class_constraints: ClassVar[Mapping[str, constraints.Constraint]]

    def __init__(self, loc: Tensor, covariance: Covariance, validate_args: bool | None, missing: str | None) -> None:
        name = type(self).__name__
        mean = in_dtype(name, "loc", loc, covariance.dtype)
        model = Model(parse(name, mean, covariance, missing=missing, check=False, mean_name="loc"))
        self._batch_shape, self._event_shape = model.batch, Size((model.d,))  # torch's __init__ would factorise for validation
        if validate_args is not None:  # otherwise the default of the class applies
            self._validate_args = validate_args
        if missing is not None and type(self).support is constraints.real_vector:
            self.support = real_or_missing
        self._set_parameters(loc, {name: t.expand(t.shape) for name, t in covariance.parameters.items()}, model)
        if self._validate_args and is_concrete(loc, *covariance.parameters.values()):
            self._validate()

    # --- parameters ----------------------------------------------------------------------------------------------

    @property
    def mean(self) -> Tensor:
        """µ, (*batch, d)."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """The mode, µ."""
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
        parameters = {"loc": self.loc, **self._shown}
        given = {name: parameters[name] for name in self.arg_constraints if name in parameters}
        sizes = [f"{name}: {t if t.numel() == 1 else t.size()}" for name, t in given.items()]  # the format of torch
        return f"{type(self).__name__}({', '.join(sizes)})"

    # --- methods of torch.distributions.Distribution -------------------------------------------------------------

    def log_prob(self, value: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows"]:
        """The log-density in the dtype of the covariance, with the derivatives of `mvnjac.log_prob`."""
        if self._validate_args:
            self._validate_sample(value)
        model = self._current()
        if not passing():
            model.prepared()  # factorises with an autograd graph if needed; `evaluate`, which needs no graph, reuses the numbers
        result = evaluate(*self._matched(model, value))
        return result.expand(broadcast(result.shape, self._batch_shape))

    def rsample(self, sample_shape: Sequence[int] = Size()) -> Tensor:
        """Samples µ + S ε + √v ε′, differentiable with respect to the parameters; a seed gives the same samples as in torch."""
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
        """The entropy ½ (d (1 + log 2π) + log det Σ)."""
        factor = self._factor()
        with self._model.arithmetic():
            return self._full(0.5 * (self._model.d * (1 + math.log(2 * math.pi)) + factor.log_det), 0)

    # --- parameters and expansion --------------------------------------------------------------------------------

    def _expand_into(self, new: Self, batch_shape: Sequence[int]) -> Self:
        new._batch_shape, new._event_shape, new._validate_args = Size(batch_shape), self._event_shape, self._validate_args
        if "support" in vars(self):
            new.support = self.support
        model = self._current()
        new._set_parameters(self.loc, {name: self._shown[name] for name in model.covariance.parameters}, model)
        return new

    def _set_parameters(self, loc: Tensor, parameters: Mapping[str, Tensor], model: Model) -> None:
        """Set the attributes, expanded to the full batch shape.

        Results are computed from the tensors of the attributes, so that they can be differentiated with respect to them. An
        exception is a matrix that is repeated for a larger batch, for which one factorisation is shared.
        """
        covariance = model.covariance
        with torch.enable_grad():
            self.loc = loc.expand((*self._batch_shape, loc.shape[-1]))
            given = {name: self._full(t, len(covariance.coordinates_of(name, model.d).shape)) for name, t in parameters.items()}
        self._shown = given  # a separate dict, because torch.compile of older versions cannot trace __dict__
        tensors = [given[name] if given[name].shape == t.shape else t for name, t in covariance.parameters.items()]
        self._model_loc, self._model = self.loc, model.at(self.loc.to(model.dtype), tensors)

    def _current(self) -> Model:
        """The model with the current `loc`, which is checked once after each assignment."""
        if self.loc is not self._model_loc:
            self._model = self._model.with_mean(in_dtype(type(self).__name__, "loc", self.loc, self._model.dtype))
            self._model_loc = self.loc
        return self._model

    def _matched(self, model: Model, value: Tensor) -> tuple[Model, Tensor]:
        """The model and the values in one dtype; if dtypes differ, x − µ is computed in the wider one, as in torch."""
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
            # Gradients with respect to the mean of each row are not needed.
            mean = model.mean if is_traced(model.mean) else unexpanded(model.mean, 1)
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
        """Check the parameters with one factorisation, or by the constraints of a subclass, as in torch."""
        if self.arg_constraints is not self._class_constraints:
            super().__init__(self._batch_shape, self._event_shape)
            return
        if not passing():
            self._model.prepared()
        self._model.validate_parameters(torch_asymmetry)

    def _validate_sample(self, value: Tensor) -> None:
        # Under vmap values are not available, and torch's constraints fail for zero rows.
        if not isinstance(value, Tensor) or (value.numel() and is_concrete(value)):
            super()._validate_sample(value)


def in_dtype(function: str, name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert real numbers to this dtype; a DtypeError for other values."""
    if not isinstance(value, Tensor) or value.is_complex() or value.dtype is torch.bool:
        checks.floating(function, name, value)
    return value.to(dtype)


def columns(factor: Factor) -> tuple[Tensor, Tensor | None]:
    """S (*batch, d, k) and v (*batch, d) with Σ = S Sᵀ + diag(v)."""
    if isinstance(factor, LowRankFactor):
        return factor.cov_factor, factor.cov_diag
    return factor.dense().scale_tril, None
